"""What an analysis notebook loads: all runs of one experiment at one preset, tidy, and what is
missing.

Nothing is averaged silently. A run is one of

    done       finished, in every mean;
    collapsed  finished, but its last test accuracy is at most 1.5 times chance, or below 0.8 of its
               own best;
    diverged   stopped because a number was not finite;
    missing    planned in the manifest, no complete result.

Collapsed and diverged runs are in no mean; they are listed, and drawn as thin lines of their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bioplaus import paths, results
from bioplaus.analysis import frames, provenance, published
from bioplaus.analysis.provenance import Provenance
from bioplaus.errors import unknown
from bioplaus.experiments import manifest
from bioplaus.experiments.manifest import Run

if TYPE_CHECKING:
    import pandas

NEAR_CHANCE = 1.5  # times chance: at most this is not having learned
FALLEN = 0.8  # of its own best accuracy: below this a seed has collapsed
_loaded: set[tuple[str, str]] = set()  # papers and experiments that this process has loaded
STATES = ("done", "collapsed", "diverged", "missing")
# of what `RunSet.curves` gives, and a figure of curves draws
COLUMNS = "entry label rule source part seed axis x value sd n note".split()


@dataclass(frozen=True)
class RunSet:
    """All runs of one experiment at one preset; `load` makes it."""

    paper: str
    experiment: str
    preset: str
    title: str
    runs: tuple[Run, ...]  # planned, in manifest order
    # complete runs among them; of a run that two entries share one for each
    outcomes: tuple[results.Outcome, ...]
    n_foreign: int  # complete runs in the folder that the manifest does not plan; left out
    # entry -> why it cannot be held against the published numbers; empty if it can
    differences: dict[str, str]
    # at preset paper, one an entry: what is published but has nothing of ours beside it
    alone: tuple[Run, ...] = ()

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
        ended = {outcome.run["id"]: _status(outcome.record) for outcome in self.outcomes}
        return {run.id: ended.get(run.id, "missing") for run in self.runs}

    def only(self, *entries: str) -> "RunSet":
        """The same with these entries alone, in manifest order."""
        return replace(
            self,
            runs=tuple(run for run in self.runs if run.entry in entries),
            outcomes=tuple(outcome for outcome in self.outcomes if outcome.run["entry"] in entries),
            differences={entry: why for entry, why in self.differences.items() if entry in entries},
            alone=tuple(run for run in self.alone if run.entry in entries),
        )

    def held_beside(self, entries: Iterable[str]) -> "RunSet":
        """The same, without the remark that nothing published can be held against these entries.

        For a table whose rows show a published number beside them, and say how it differs.
        """
        held = set(entries)
        return replace(
            self,
            differences={
                entry: "" if entry in held else why for entry, why in self.differences.items()
            },
        )

    def first_run(self, entry: str) -> Run:
        """The first planned run of an entry; of one that is published alone, its run at preset
        `paper`.
        """
        known = (*self.runs, *self.alone)
        run = next((run for run in known if run.entry == entry), None)
        if run is None:
            raise unknown(f"entry of {self.paper}, {self.experiment}", entry, self.all_entries)
        return run

    def label(self, entry: str) -> str:
        """An entry's name in legends."""
        return self.first_run(entry).label

    def rule(self, entry: str) -> str:
        """An entry's rule."""
        return self.first_run(entry).rule or entry

    def count(self, entry: str, *states: str) -> int:
        """How many of an entry's runs are in one of these states."""
        return sum(self.status[run.id] in states for run in self.runs if run.entry == entry)

    def overview(self) -> "pandas.DataFrame":
        """One row an entry: what it is, how many runs are planned, and how they ended."""
        import pandas

        rows = []
        for entry in self.entries:
            run = self.first_run(entry)
            rows.append(
                {
                    "entry": entry,
                    "label": run.label,
                    "rule": self.rule(entry),
                    "data": run.parameters.get("dataset"),
                    "network": _network(run),
                    "epochs": run.parameters.get("n_epochs"),
                    "runs": self.count(entry, *STATES),
                    **{state: self.count(entry, state) for state in STATES},
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
        parts = []
        for entry in self.entries:
            parts += self._own_curves(entry, metric, seeds)
            line = self.published_curve(entry, metric)
            if line is not None:
                parts.append(_published_part(line, self.first_run(entry)))
        return _stacked(parts)

    def published_curve(self, entry: str, metric: str) -> "pandas.DataFrame | None":
        """The published curve that ours of an entry is held beside, as `published.curve` gives it;
        None where there is none.
        """
        if not self.is_beside(entry):
            return None
        return published.curve(self.paper, self.first_run(entry).published or {}, metric)

    def published_curves(self, metric: str) -> "pandas.DataFrame":
        """The published curves that have nothing of ours beside them at this preset; columns as in
        `curves`.
        """
        lines = [(published.curve(self.paper, r.published or {}, metric), r) for r in self.alone]
        return _stacked([_published_part(line, run) for line, run in lines if line is not None])

    def is_beside(self, entry: str) -> bool:
        """Whether the published numbers of an entry are shown beside ours."""
        return not self.differences[entry]

    def final(self, metric: str, entry: str, *, collapsed: bool = False) -> list[float]:
        """The last value of a metric, one a seed, of the runs that are done, or `collapsed` ones
        too.
        """
        kept = ["done", "collapsed"] if collapsed else ["done"]
        rows = self.epochs if self.outcomes else None
        if rows is None or metric not in rows:
            return []
        rows = rows[(rows.entry == entry) & rows.status.isin(kept)]
        return list(rows.groupby("seed")[metric].last())

    @property
    def heading(self) -> str:
        """What a figure shows, for its title: data set, network if it is one, preset."""
        networks = {_network(run) for run in self.runs} - {""}
        names = [*self.datasets, *(networks if len(networks) == 1 else ())]
        return ", ".join([*names, f"preset {self.preset}"])

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets of the planned runs."""
        names = (str(run.parameters.get("dataset", run.simulation)) for run in self.runs)
        return tuple(dict.fromkeys(names))

    @property
    def provenance(self) -> Provenance:
        """What is said under a figure or table of these runs."""
        return provenance.of_runs(self)

    def _own_curves(self, entry: str, metric: str, seeds: bool) -> list["pandas.DataFrame"]:
        """Our mean of one entry, then the seeds that are drawn apart."""
        import pandas

        is_diagnostic = metric in self.diagnostics.columns
        table, axis = (self.diagnostics, "batch") if is_diagnostic else (self.epochs, "epoch")
        if metric not in table.columns:
            return []
        rows = table[table.entry == entry].dropna(subset=[metric])
        if rows.empty:
            return []
        same = {**_named(self.first_run(entry)), "source": "ours", "axis": axis, "note": ""}
        good = rows[rows.status == "done"].groupby(axis)[metric]
        n = good.size()
        mean = pandas.DataFrame({"value": good.mean(), "sd": good.std(ddof=0).where(n > 1), "n": n})
        parts = [mean.rename_axis("x").reset_index().assign(**same, part="mean")]
        for (status, seed), one in rows.groupby(["status", "seed"]):
            if status != "done" or seeds:
                line = pandas.DataFrame({"x": one[axis], "value": one[metric], "seed": seed})
                parts.append(line.assign(**same, part="seed" if status == "done" else status))
        return parts

    def _with_status(self, table: "pandas.DataFrame") -> "pandas.DataFrame":
        return table.assign(status=table.run_id.map(self.status)) if len(table) else table


def load(paper: str, experiment: str, preset: str, *, beside: bool = False) -> RunSet:
    """Every planned run of an experiment at a preset, with what is there of it.

    An experiment that the preset does not run gives an empty set: its figures say so.

    Parameters
    ----------
    beside : show published numbers also where the preset runs nothing that could be held against
        them: alone.

    Raises
    ------
    BioplausError
        For an unknown paper, experiment or preset, and for a damaged result.
    """
    _loaded.add((paper, experiment))
    described = manifest.load(paper).experiments
    if experiment not in described:
        raise unknown(f"experiment of {paper}", experiment, described)
    planned = tuple(manifest.runs(preset, papers=[paper], experiment=experiment))
    complete = list(results.outcomes(paths.root() / preset / paper / experiment))
    outcomes = _owned(complete, planned)
    published_runs = published_runs_of(paper, experiment)
    differences = {}
    for run in planned:
        if run.entry not in differences:
            if run.published:
                published.check(paper, run.published)
            differences[run.entry] = published.difference(run, published_runs.get(run.entry))
    alone = [
        run
        for entry, run in (published_runs if beside else {}).items()
        if run.published and differences.get(entry, "not run")
    ]
    return RunSet(
        paper=paper,
        experiment=experiment,
        preset=preset,
        title=described[experiment].title,
        runs=planned,
        outcomes=outcomes,
        n_foreign=len(complete) - len({outcome.run["id"] for outcome in outcomes}),
        differences=differences,
        alone=tuple(alone),
    )


def loaded(paper: str) -> list[str]:
    """The experiments of a paper that this process has loaded, sorted: what it drew rests on no
    others.
    """
    return sorted(experiment for one, experiment in _loaded if one == paper)


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


def _owned(
    complete: Iterable[results.Outcome], planned: Iterable[Run]
) -> tuple[results.Outcome, ...]:
    """The outcomes of planned runs, once for each entry that plans the run: what two entries share,
    both own.
    """
    by_id: dict[str, list[Run]] = {}
    for run in planned:
        by_id.setdefault(run.id, []).append(run)
    return tuple(
        replace(outcome, run={**outcome.run, "entry": run.entry, "label": run.label})
        for outcome in complete
        for run in by_id.get(outcome.run["id"], ())
    )


def published_runs_of(paper: str, experiment: str) -> dict[str, Run]:
    """Entry -> its first run at preset `paper`, which holds the published parameters."""
    first: dict[str, Run] = {}
    for run in manifest.runs("paper", papers=[paper], experiment=experiment, one_seed=True):
        first.setdefault(run.entry, run)
    return first


def _published_part(line: "pandas.DataFrame", run: Run) -> "pandas.DataFrame":
    line = line.rename(columns={"mean": "value"})[["axis", "x", "value", "sd", "n", "note"]]
    return line.assign(**_named(run), source="published", part="mean")


def _named(run: Run) -> dict[str, str]:
    return {"entry": run.entry, "label": run.label, "rule": run.rule or run.entry}


def _network(run: Run) -> str:
    return "-".join(map(str, run.parameters.get("config", {}).get("n_units", [])))


def _stacked(parts: list["pandas.DataFrame"]) -> "pandas.DataFrame":
    """The parts of a figure under one another, with all `COLUMNS`."""
    import pandas

    drawn = pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()
    drawn = drawn.reindex(columns=COLUMNS)
    return drawn.astype({"seed": "Int64", "x": "Int64", "n": "Int64"})
