"""How long a sweep will take: from what like runs took here, else from the manifest's figures; and
what a preset costs by these. What it costs on a GPU says `gpu_cost`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bioplaus import results
from bioplaus.errors import BioplausError
from bioplaus.experiments.run import Run

# name, seconds, and up to which time it is used
_UNITS = (
    ("second", 1, 90),
    ("minute", 60, 90 * 60),
    ("hour", 3600, 48 * 3600),
    ("day", 86400, float("inf")),
)
KERNEL_SECONDS = 1.0  # to fork a kernel, and for its imports of bioplaus


def forecast(runs: Sequence[Run], workers: int) -> float | None:
    """Expected wall seconds of these runs on `workers` processes: what like runs took here, else
    the manifest's figure.

    What a run of another number of epochs took is taken in proportion. None where neither is known
    for some run.
    """
    each = expected(runs)
    known = [seconds for seconds in each if seconds is not None]
    if len(known) < len(each):
        return None
    return max(sum(known) / max(1, workers), max(known, default=0.0))


def cost(runs: Sequence[Run]) -> tuple[float, int]:
    """Seconds of one core that runs cost by the manifests, and how many have no figure there; a run
    that two entries share counts once.
    """
    each = {run.folder: run.seconds for run in runs}
    known = [seconds for seconds in each.values() if seconds is not None]
    return sum(known), len(each) - len(known)


def expected(runs: Sequence[Run]) -> list[float | None]:
    """The expected wall seconds of each run, that of its kernel included; None where not known."""
    here = {folder: _like_runs(folder) for folder in {run.experiment_folder for run in runs}}
    each = [_run_seconds(run, here[run.experiment_folder].get(run.entry)) for run in runs]
    return [None if seconds is None else seconds + KERNEL_SECONDS for seconds in each]


def seconds_of(record: Mapping[str, Any]) -> float:
    """What the training and evaluation of a run took, in wall seconds, by its `run.json`."""
    by_phase = record.get("seconds", {}).items()
    return float(sum(sum(each) for name, each in by_phase if not name.endswith("_cpu")))


def in_words(seconds: float) -> str:
    """`40 seconds`, `7 minutes`, `5 hours` or `12 days`; nothing for no time."""
    if not seconds:
        return ""
    unit, length = next((unit for unit in _UNITS if seconds < unit[2]), _UNITS[-1])[:2]
    count = max(1, round(seconds / length))
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _run_seconds(run: Run, like: tuple[float, Any] | None) -> float | None:
    """Expected seconds of a run: those of a like one, in proportion to the epochs, else the
    manifest's figure.
    """
    if like is None:
        return run.seconds
    seconds, n_epochs = like
    wanted = run.parameters.get("n_epochs")
    return seconds * wanted / n_epochs if wanted and n_epochs else seconds


def _like_runs(experiment: Path) -> dict[str, tuple[float, Any]]:
    """The first complete run in an experiment's folder, by entry: seconds of training and
    evaluation, and n_epochs.
    """
    by_entry: dict[str, tuple[float, Any]] = {}
    for path in sorted(experiment.glob("*/run.json")):
        try:
            record = results.read_run(path.parent)
        except BioplausError:  # it is told of elsewhere, and says nothing of how long a run takes
            continue
        if record.get("sha256") and record.get("entry") not in by_entry:
            if seconds := seconds_of(record):
                n_epochs = record.get("parameters", {}).get("n_epochs")
                by_entry[record["entry"]] = seconds, n_epochs
    return by_entry
