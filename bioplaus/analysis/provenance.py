"""What a figure or table rests on: which runs, what of them is missing, which command makes it."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bioplaus.analysis import published
from bioplaus.errors import BioplausError

if TYPE_CHECKING:
    from bioplaus.analysis.experiment import RunSet
    from bioplaus.experiments.manifest import Run


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is said under a figure or table of where it comes from."""

    preset: str
    paper: str
    experiments: tuple[str, ...]
    datasets: tuple[str, ...]
    n: Mapping[str, int] = field(default_factory=dict)  # label -> seeds in its means
    missing: tuple[str, ...] = ()  # planned runs without a result
    command: str = ""  # makes what is missing
    remarks: tuple[str, ...] = ()  # sentences: what is left out, what is not comparable
    published_alone: tuple[str, ...] = ()  # labels of what has nothing of ours beside it

    @property
    def has_content(self) -> bool:
        """Whether there is anything to show: a run of ours, or something published alone."""
        return any(self.n.values()) or bool(self.published_alone)

    @property
    def sentence(self) -> str:
        """Preset and data sets, for captions."""
        if not self.datasets:
            return f"Preset {self.preset}."
        word = "data set" if len(self.datasets) == 1 else "data sets"
        return f"Preset {self.preset}, {word} {', '.join(self.datasets)}."

    def replace(self, **changes: object) -> "Provenance":
        """The same with some fields changed."""
        return dataclasses.replace(self, **changes)


def command(preset: str, paper: str, experiment: str | None = None) -> str:
    """The command that makes what is missing."""
    only = f" ONLY='{experiment}/*'" if experiment else ""
    return f"make reproduce-figures PRESET={preset} PAPER={paper}{only}"


def merged(parts: Sequence[Provenance]) -> Provenance:
    """The provenance of what several experiments, or parts of one, are drawn in.

    Raises
    ------
    BioplausError
        If there is none, or they are of different papers or presets.
    """
    if not parts:
        raise BioplausError("A figure or table needs the runs that it shows; none were given.")
    first = parts[0]
    if len({(part.paper, part.preset) for part in parts}) > 1:
        names = sorted({f"{part.paper} at {part.preset}" for part in parts})
        raise BioplausError(f"One figure cannot show several papers or presets: {names}.")
    if len(parts) == 1:
        return first
    experiments = _once(name for part in parts for name in part.experiments)
    are_several = len(experiments) > 1

    def named(part: Provenance, text: str) -> str:
        return f"{', '.join(part.experiments)}: {text}" if are_several else text

    return Provenance(
        preset=first.preset,
        paper=first.paper,
        experiments=experiments,
        datasets=_once(name for part in parts for name in part.datasets),
        n={named(part, label): n for part in parts for label, n in part.n.items()},
        missing=_once(named(part, run) for part in parts for run in part.missing),
        command=command(first.preset, first.paper) if are_several else first.command,
        remarks=_once(named(part, remark) for part in parts for remark in part.remarks),
        published_alone=_once(label for part in parts for label in part.published_alone),
    )


def of_runs(run_set: "RunSet") -> Provenance:
    """The provenance of a figure or table of one experiment's runs."""
    missing = [run for run in run_set.runs if run_set.status[run.id] == "missing"]
    return Provenance(
        preset=run_set.preset,
        paper=run_set.paper,
        experiments=(run_set.experiment,),
        datasets=run_set.datasets,
        n={run_set.label(entry): run_set.count(entry, "done") for entry in run_set.entries},
        missing=tuple(f"{run.label}, seed {run.seed}" for run in missing),
        command=command(run_set.preset, run_set.paper, run_set.experiment),
        remarks=tuple(_remarks(run_set)),
        published_alone=tuple(run.label for run in run_set.alone),
    )


def _remarks(run_set: "RunSet") -> Iterator[str]:
    """What is left out, and what is not comparable."""
    for state in ("collapsed", "diverged"):
        if runs := [run for run in run_set.runs if run_set.status[run.id] == state]:
            yield f"{state.capitalize()}, in no mean: {_seeds(runs)}."
    if run_set.n_foreign:
        yield (
            f"Left out: {run_set.n_foreign} runs in the results folder that the manifest does not"
            " plan."
        )
    for reason in dict.fromkeys(run_set.differences.values()):
        if reason:
            yield _why_not_compared(run_set, reason)
    if run_set.alone:
        more = command("paper", run_set.paper, run_set.experiment)
        yield (
            "Published curves without one of ours are of settings that no run at preset"
            f" {run_set.preset} can be held against; as published they run with {more}."
        )


def _why_not_compared(run_set: "RunSet", reason: str) -> str:
    entries = [entry for entry, why in run_set.differences.items() if why == reason]
    is_all = len(entries) == len(run_set.entries)
    names = "all entries" if is_all else ", ".join(map(run_set.label, entries))
    if is_all and reason == published.NOTHING:
        return "No number was published for exactly these runs."
    return f"No published counterpart for {names}: {reason}."


def _seeds(runs: Iterable["Run"]) -> str:
    """`EP seeds 0, 10; PC seed 20`."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run.label, []).append(str(run.seed))
    return "; ".join(
        f"{label} seed{'s' if len(s) > 1 else ''} {', '.join(s)}" for label, s in seeds.items()
    )


def _once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
