"""What an analysis notebook loads: all runs of one experiment at one preset, tidy, and what is
missing.

Nothing is averaged silently. A run is one of
    done       finished, in every mean;
    collapsed  finished, but its last test accuracy is at most 1.5 times chance, or below 0.8 of its own best;
    diverged   stopped because a number was not finite;
    missing    planned in the manifest, no complete result.
Collapsed and diverged runs are in no mean; they are listed, and drawn as thin lines of their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bioplaus import paths, results
from bioplaus.analysis import frames, published
from bioplaus.errors import unknown
from bioplaus.experiments import manifest
from bioplaus.experiments.manifest import Run

if TYPE_CHECKING:
    import pandas

NEAR_CHANCE = 1.5  # times chance: at most this is not having learned
FALLEN = 0.8  # of its own best accuracy: below this a seed has collapsed
CHECKPOINTS = (1, 2, 3, 5, 10)  # epochs at which short runs are held against the published curves
BATCHES = (
    2001,
    5001,
    14001,
    29001,
    59001,
    149001,
)  # the same for angles: log points 3, 6, 15, 30, 60, 150


@dataclass(frozen=True)
class Analysis:
    """All runs of one experiment at one preset; `load` makes it."""

    paper: str
    experiment: str
    preset: str
    title: str
    runs: tuple[Run, ...]  # planned, in manifest order
    outcomes: tuple[
        results.Outcome, ...
    ]  # complete runs among them; of a run that two entries share one for each
    n_foreign: int  # complete runs in the folder that the manifest does not plan; left out
    differences: dict[
        str, str
    ]  # entry -> why it cannot be held against the published numbers; empty text if it can
    # entries on a copy of the published data: shown beside it, with no verdict
    copies: frozenset[str] = frozenset()
    alone: tuple[
        Run, ...
    ] = ()  # at preset paper, one an entry: what is published but has nothing of ours beside it

    @cached_property
    def entries(self) -> list[str]:
        """Entries in manifest order."""
        return list(dict.fromkeys(run.entry for run in self.runs))

    @property
    def all_entries(self) -> list[str]:
        """Entries of this preset, then those that are published alone."""
        return list(dict.fromkeys([*self.entries, *(run.entry for run in self.alone)]))

    @cached_property
    def epochs(self) -> "pandas.DataFrame":
        """One row an epoch and run (`frames.epochs`), its status as defined above."""
        return self._with_status(frames.epochs(self.outcomes))

    @cached_property
    def diagnostics(self) -> "pandas.DataFrame":
        """One row a log entry and run (`frames.diagnostics`), its status as defined
        above.
        """
        return self._with_status(frames.diagnostics(self.outcomes))

    @cached_property
    def status(self) -> dict[str, str]:
        """Run id -> done, collapsed, diverged or missing, in manifest order."""
        found = {outcome.run["id"]: _status(outcome.record) for outcome in self.outcomes}
        return {run.id: found.get(run.id, "missing") for run in self.runs}

    def only(self, *entries: str) -> "Analysis":
        """The same with these entries alone, in manifest order."""
        return replace(
            self,
            runs=tuple(run for run in self.runs if run.entry in entries),
            outcomes=tuple(outcome for outcome in self.outcomes if outcome.run["entry"] in entries),
            differences={entry: why for entry, why in self.differences.items() if entry in entries},
            copies=self.copies & set(entries),
            alone=tuple(run for run in self.alone if run.entry in entries),
        )

    def label(self, entry: str) -> str:
        """An entry's name in legends."""
        return self._first(entry).label

    def rule(self, entry: str) -> str:
        """An entry's rule."""
        return self._first(entry).rule or entry

    def overview(self) -> "pandas.DataFrame":
        """One row an entry: what it is, how many runs are planned, and how they ended."""
        import pandas

        rows = []
        for entry in self.entries:
            run = self._first(entry)
            states = [self.status[r.id] for r in self.runs if r.entry == entry]
            rows.append(
                {
                    "entry": entry,
                    "label": run.label,
                    "rule": self.rule(entry),
                    "data": run.parameters.get("dataset"),
                    "network": "-".join(
                        map(str, run.parameters.get("config", {}).get("n_units", []))
                    ),
                    "epochs": run.parameters.get("n_epochs"),
                    "runs": len(states),
                    **{
                        state: states.count(state)
                        for state in ("done", "collapsed", "diverged", "missing")
                    },
                }
            )
        return pandas.DataFrame(rows)

    def curves(self, metric: str, *, seeds: bool = False) -> "pandas.DataFrame":
        """What a learning-curve figure draws, ours and published, one point a row.

        A metric that no run here has measured gives no line of ours.

        Columns: entry, label, rule, source (ours, published), part (mean; collapsed, diverged, or,
        with `seeds`, seed), seed, axis ("epoch", or "batch" for diagnostics), x, value, sd
        (population form over seeds, empty for one), n, note.
        """
        import pandas

        table, axis = (
            (self.diagnostics, "batch")
            if metric in self.diagnostics.columns
            else (self.epochs, "epoch")
        )
        parts = []
        for entry in self.entries:
            about = {"entry": entry, "label": self.label(entry), "rule": self.rule(entry)}
            of_ours = {**about, "source": "ours", "axis": axis, "note": ""}
            rows = (
                table[table.entry == entry].dropna(subset=[metric])
                if metric in table.columns
                else ()
            )
            if len(rows):
                good = rows[rows.status == "done"].groupby(axis)[metric]
                n = good.size()
                mean = pandas.DataFrame(
                    {"value": good.mean(), "sd": good.std(ddof=0).where(n > 1), "n": n}
                )
                parts.append(mean.rename_axis("x").reset_index().assign(**of_ours, part="mean"))
                for (status, seed), one in rows.groupby(["status", "seed"]):
                    if status != "done" or seeds:
                        part = "seed" if status == "done" else status
                        line = pandas.DataFrame(
                            {"x": one[axis], "value": one[metric], "seed": seed}
                        )
                        parts.append(line.assign(**of_ours, part=part))
            theirs = self._published_curve(entry, metric)
            if theirs is not None:
                line = theirs.rename(columns={"mean": "value"})[
                    ["axis", "x", "value", "sd", "n", "note"]
                ]
                parts.append(line.assign(**about, source="published", part="mean"))
        return _drawn(parts)

    def published_curves(self, metric: str) -> "pandas.DataFrame":
        """The published curves that have nothing of ours beside them at this preset; columns as in
        `curves`.
        """
        parts = []
        for run in self.alone:
            theirs = published.curve(self.paper, run.published or {}, metric)
            if theirs is not None:
                line = theirs.rename(columns={"mean": "value"})[
                    ["axis", "x", "value", "sd", "n", "note"]
                ]
                about = {"entry": run.entry, "label": run.label, "rule": run.rule or run.entry}
                parts.append(line.assign(**about, source="published", part="mean"))
        return _drawn(parts)

    def final(self, metric: str, entry: str, *, collapsed: bool = False) -> list[float]:
        """The last value of a metric, one number a seed, of the runs that are done, or `collapsed`
        ones too.
        """
        kept = ["done", "collapsed"] if collapsed else ["done"]
        rows = (
            self.epochs[(self.epochs.entry == entry) & self.epochs.status.isin(kept)]
            if self.outcomes
            else ()
        )
        return list(rows.groupby("seed")[metric].last()) if len(rows) and metric in rows else []

    def compare_final(
        self,
        metrics: Iterable[str] = ("test_accuracy", "train_accuracy"),
        *,
        collapsed: bool = False,
    ) -> list[dict[str, Any]]:
        """Each entry's last epoch beside the published one, if it is the same epoch; then what is
        published alone.

        With `collapsed` our means include collapsed seeds, as the published ones do.
        """
        found = []
        for entry in self.entries:
            run, reference = self._first(entry), _references(self.paper, self.experiment).get(entry)
            epochs = run.parameters.get("n_epochs")
            last = reference.parameters.get("n_epochs") if reference else epochs
            for metric in metrics:
                theirs = (
                    published.value(self.paper, run.published or {}, metric)
                    if self._is_beside(entry)
                    else None
                )
                if theirs and epochs != last:
                    reason = f"{published.NOT_RUN} ({epochs} of {last} epochs)"
                    found.append(
                        self._claim(entry, metric, "epoch", last, [], theirs, reason=reason)
                    )
                else:
                    ours = self.final(metric, entry, collapsed=collapsed)
                    out = (
                        self._n(entry, "diverged")
                        if collapsed
                        else self._n(entry, "collapsed", "diverged")
                    )
                    found.append(
                        self._claim(entry, metric, "epoch", epochs, ours, theirs, left_out=out)
                    )
        for run in self.alone:
            for metric in metrics:
                theirs = published.value(self.paper, run.published or {}, metric)
                if theirs:
                    last = run.parameters.get("n_epochs")
                    claim = self._claim(run.entry, metric, "epoch", last, [], theirs)
                    # no claim of this preset: the report leaves it out
                    found.append({**claim, "planned": False})
        return found

    def compare_curve(
        self, metric: str, at: Sequence[int] = CHECKPOINTS, *, digits: int = 4
    ) -> list[dict[str, Any]]:
        """Each entry beside its published curve at the epochs (or batches, for diagnostics) `at`,
        and at our last.

        Entries without a published curve of this metric are left out.
        """
        drawn = self.curves(metric, seeds=True)
        found = []
        for entry in self.entries:
            theirs = self._published_curve(entry, metric)
            if theirs is None:
                continue
            all_ours = drawn[(drawn.entry == entry) & (drawn.source == "ours")]
            ours = all_ours[all_ours.part == "seed"]
            common = sorted(set(ours.x) & set(theirs.x))
            for x in sorted({*at, *common[-1:]} & set(theirs.x)):
                out = (
                    self._n(entry, "collapsed", "diverged")
                    if len(all_ours) and x <= all_ours.x.max()
                    else 0
                )
                here = list(ours.value[ours.x == x])
                axis, point = theirs.axis.iloc[0], published.point(theirs, x)
                found.append(
                    self._claim(entry, metric, axis, x, here, point, digits=digits, left_out=out)
                )
        return found

    @property
    def heading(self) -> str:
        """What a figure shows, for its title: data set, network if it is one, preset."""
        networks = {
            "-".join(map(str, run.parameters.get("config", {}).get("n_units", [])))
            for run in self.runs
        } - {""}
        return ", ".join(
            [*self._datasets, *(networks if len(networks) == 1 else ()), f"preset {self.preset}"]
        )

    def caption(self, what: str, drawn: "pandas.DataFrame | None" = None) -> str:
        """`what`, then how to read the lines of `drawn` and where published curves are not exactly
        ours.
        """
        return caption([self], what, drawn)

    def remarks(self) -> list[str]:
        """Sentences that belong under every figure and table of this experiment: what is left out
        or not comparable.
        """
        by_state = {
            state: [r for r in self.runs if self.status[r.id] == state]
            for state in ("collapsed", "diverged")
        }
        said = [
            f"{state.capitalize()}, in no mean: {_list(runs)}."
            for state, runs in by_state.items()
            if runs
        ]
        if self.n_foreign:
            said.append(
                f"Left out: {self.n_foreign} runs in the results folder that the manifest does not"
                " plan."
            )
        for reason in dict.fromkeys(self.differences.values()):
            if reason:
                names = [
                    self.label(entry) for entry, why in self.differences.items() if why == reason
                ]
                who = "all entries" if len(names) == len(self.entries) else ", ".join(names)
                if all(
                    entry in self.copies for entry, why in self.differences.items() if why == reason
                ):
                    said.append(
                        f"Shown beside the published numbers, with no verdict, for {who}: {reason}."
                    )
                else:
                    said.append(
                        "No number was published for exactly these runs."
                        if len(names) == len(self.entries) and reason == published.NOTHING
                        else f"No published counterpart for {who}: {reason}."
                    )
        if self.alone:
            more = command("paper", self.paper, self.experiment)
            said.append(
                "Published curves without one of ours are of settings that no run at preset"
                f" {self.preset} can be held against; as published they run with {more}."
            )
        return said

    @property
    def about(self) -> dict[str, Any]:
        """What `plots.save` and `tables.save` need to know beside what is drawn."""
        missing = [run for run in self.runs if self.status[run.id] == "missing"]
        return {
            "preset": self.preset,
            "paper": self.paper,
            "experiment": self.experiment,
            "datasets": self._datasets,
            "n": {self.label(entry): self._n(entry, "done") for entry in self.entries},
            "missing": [f"{run.label}, seed {run.seed}" for run in missing],
            "command": command(self.preset, self.paper, self.experiment),
            "remarks": self.remarks(),
            "published_alone": [run.label for run in self.alone],
        }

    @property
    def _datasets(self) -> list[str]:
        return list(
            dict.fromkeys(str(run.parameters.get("dataset", run.simulation)) for run in self.runs)
        )

    def _first(self, entry: str) -> Run:
        return next(run for run in (*self.runs, *self.alone) if run.entry == entry)

    def _n(self, entry: str, *states: str) -> int:
        return sum(self.status[run.id] in states for run in self.runs if run.entry == entry)

    def _published_curve(self, entry: str, metric: str) -> "pandas.DataFrame | None":
        if not self._is_beside(entry):
            return None
        found = published.curve(self.paper, self._first(entry).published or {}, metric)
        return (
            found.assign(note=self.differences[entry])
            if entry in self.copies and found is not None
            else found
        )

    def _is_beside(self, entry: str) -> bool:
        """Whether the published numbers of an entry are shown beside ours."""
        return not self.differences[entry] or entry in self.copies

    def _claim(
        self,
        entry: str,
        metric: str,
        axis: str,
        x: int,
        ours: Sequence[float],
        theirs: Any,
        **how: Any,
    ) -> dict[str, Any]:
        about = {
            "paper": self.paper,
            "experiment": self.experiment,
            "entry": entry,
            "label": self.label(entry),
        }
        compared = published.compare(ours, theirs, **how)
        if entry in self.copies and compared.difference is not None:
            compared = replace(
                compared,
                k=None,
                chance=None,
                verdict=f"no verdict: {self.differences[entry]}",
                note="",
            )
        return {
            **about,
            "metric": metric,
            "axis": axis,
            "x": x,
            **vars(compared),
            "grade": compared.grade,
        }

    def _with_status(self, table: "pandas.DataFrame") -> "pandas.DataFrame":
        return table.assign(status=table.run_id.map(self.status)) if len(table) else table


def load(paper: str, experiment: str, preset: str, *, beside: bool = False) -> Analysis:
    """Every planned run of an experiment at a preset, with what is there of it.

    An experiment that the preset does not run gives an empty analysis: its figures say so.

    Parameters
    ----------
    beside : show published numbers also where ours cannot be held against them: beside runs on a
        copy of the published data (`cifar10-jpeg` of CIFAR10), and alone where the preset runs
        nothing like it.

    Raises
    ------
    BioplausError
        For an unknown paper, experiment or preset, and for a damaged result.
    """
    described = manifest.load(paper).experiments
    if experiment not in described:
        raise unknown(f"experiment of {paper}", experiment, described)
    planned = tuple(manifest.runs(preset, papers=[paper], experiment=experiment))
    found = list(results.outcomes(paths.root() / preset / paper / experiment))
    outcomes = _owned(found, planned)
    references = _references(paper, experiment)
    differences = {}
    for run in planned:
        if run.entry not in differences:
            if run.published:
                published.check(paper, run.published)
            differences[run.entry] = published.difference(run, references.get(run.entry))
    copies = (
        {run.entry for run in planned if published.is_copy(run, references.get(run.entry))}
        if beside
        else set()
    )
    alone = [
        run
        for entry, run in (references if beside else {}).items()
        if run.published and differences.get(entry, "not run") and entry not in copies
    ]
    return Analysis(
        paper=paper,
        experiment=experiment,
        preset=preset,
        title=described[experiment].title,
        runs=planned,
        outcomes=outcomes,
        n_foreign=len(found) - len({outcome.run["id"] for outcome in outcomes}),
        differences=differences,
        copies=frozenset(copies),
        alone=tuple(alone),
    )


def merged(founds: Sequence[Analysis]) -> dict[str, Any]:
    """`Analysis.about` of several experiments or parts of one, drawn in one figure."""
    abouts = [found.about for found in founds]
    experiments = list(dict.fromkeys(about["experiment"] for about in abouts))
    first = abouts[0]
    return {
        **first,
        "experiment": ", ".join(experiments),
        "datasets": list(dict.fromkeys(name for about in abouts for name in about["datasets"])),
        "n": {
            f"{about['experiment']}: {label}": n
            for about in abouts
            for label, n in about["n"].items()
        },
        "missing": [one for about in abouts for one in about["missing"]],
        "command": (
            first["command"] if len(experiments) == 1 else command(first["preset"], first["paper"])
        ),
        "remarks": list(
            dict.fromkeys(
                f"{about['experiment']}: {remark}" if len(experiments) > 1 else remark
                for about in abouts
                for remark in about["remarks"]
            )
        ),
        "published_alone": [one for about in abouts for one in about["published_alone"]],
    }


def caption(founds: Sequence[Analysis], what: str, drawn: "pandas.DataFrame | None" = None) -> str:
    """`Analysis.caption` of a figure that draws several experiments, or parts of one."""
    datasets = list(dict.fromkeys(name for found in founds for name in found._datasets))
    said = [what]
    if datasets:
        said.append(
            f"Preset {founds[0].preset}, data set{'s' if len(datasets) > 1 else ''}"
            f" {', '.join(datasets)}."
        )
    if drawn is None or drawn.empty:
        return " ".join(said)
    theirs = drawn[drawn.source == "published"]
    if (drawn.source == "ours").any():
        said.append(
            "Thick lines: ours, mean over n seeds, with a band of ± population standard deviation."
        )
    if len(theirs):
        said.append(
            "Thin short dashes: published, mean over its seeds with a band of ± population standard"
            " deviation."
        )
    for note, lines in theirs[theirs.note != ""].groupby("note", sort=False):
        labels = ", ".join(dict.fromkeys(lines.label))
        said.append(f"For {labels} no curve of exactly these parameters was published ({note}).")
    return " ".join(said)


def command(preset: str, paper: str, experiment: str | None = None) -> str:
    """The command that makes what is missing."""
    only = f" ONLY='{experiment}/*'" if experiment else ""
    return f"make reproduce-figures PRESET={preset} PAPER={paper}{only}"


def has_collapsed(accuracies: Sequence[float], chance: float) -> bool:
    """Whether a finished run ended at chance, or far below its own best.

    Parameters
    ----------
    accuracies : test accuracy after each epoch, fractions.
    chance : accuracy of guessing, 1 / number of classes.
    """
    return accuracies[-1] <= NEAR_CHANCE * chance or accuracies[-1] < FALLEN * max(accuracies)


def _status(record: dict[str, Any]) -> str:
    if record.get("status", "done") != "done":
        return record["status"]
    accuracies = record["epochs"].get("test_accuracy", ())
    chance = 1 / record["task"]["n_out"] if "n_out" in record.get("task", {}) else 0.0
    return "collapsed" if len(accuracies) and has_collapsed(list(accuracies), chance) else "done"


def _owned(found: Iterable[results.Outcome], planned: Iterable[Run]) -> tuple[results.Outcome, ...]:
    """The outcomes of planned runs, once for each entry that plans the run: what two entries share,
    both own.
    """
    by_id: dict[str, list[Run]] = {}
    for run in planned:
        by_id.setdefault(run.id, []).append(run)
    return tuple(
        replace(outcome, run={**outcome.run, "entry": run.entry, "label": run.label})
        for outcome in found
        for run in by_id.get(outcome.run["id"], ())
    )


def _references(paper: str, experiment: str) -> dict[str, Run]:
    """Entry -> its first run at preset `paper`, which holds the published parameters."""
    found: dict[str, Run] = {}
    for run in manifest.runs("paper", papers=[paper], experiment=experiment):
        found.setdefault(run.entry, run)
    return found


def _drawn(parts: list["pandas.DataFrame"]) -> "pandas.DataFrame":
    """The parts of a figure under one another, with all columns that `Analysis.curves` names."""
    import pandas

    columns = [
        "entry",
        "label",
        "rule",
        "source",
        "part",
        "seed",
        "axis",
        "x",
        "value",
        "sd",
        "n",
        "note",
    ]
    drawn = pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()
    return drawn.reindex(columns=columns).astype({"seed": "Int64", "x": "Int64", "n": "Int64"})


def _list(runs: Iterable[Run]) -> str:
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run.label, []).append(str(run.seed))
    return "; ".join(
        f"{label} seed{'s' if len(s) > 1 else ''} {', '.join(s)}" for label, s in seeds.items()
    )
