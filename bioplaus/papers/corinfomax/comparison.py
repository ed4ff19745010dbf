"""Every rule at one architecture and budget: settings chosen on validation images, accuracy against
what it costs.

The grid points of an entry are the settings of its rule. Of every run the epoch of best validation
accuracy is kept (the first of equals); of every rule the setting is chosen whose kept validation
accuracies have the largest mean over seeds (the first of equals; a run that ended before its first
evaluation counts as 0). Test accuracy chooses nothing: it is read once, at the kept epochs of the
chosen setting. Collapsed and diverged seeds (as `analysis` defines them) are in no mean of test
accuracies; they are counted and drawn.

Costs are those of training steps; evaluation is left out. Arithmetic is what a rule's equations
need (`LearningRule.useful_flops`), so it does not depend on machine or program.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bioplaus.analysis import tables
from bioplaus.analysis.plots import ENDS
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest

if TYPE_CHECKING:
    import pandas

    from bioplaus.analysis.experiment import RunSet
    from bioplaus.experiments.manifest import Run
    from bioplaus.results import Outcome

BUSY = 0.9  # of a core: with less, wall times say more of the machine than of the rules
_NAMES = ("key", "label", "rule", "entry", "setting", "seed", "status")
_COLUMNS = ("is_chosen", "is_kept", "epoch", "seconds", "gflop", "validation_accuracy")


def runs(run_set: "RunSet") -> "pandas.DataFrame":
    """One row a planned run.

    Columns: key (entry in the manifest), label, rule, entry (key and number of the grid point),
    setting (in words), factor (of the setting, relative to the middle of its grid; empty where that
    has no meaning), seed, status, n_epochs (learned), kept_epoch (1-based), validation_accuracy and
    test_accuracy (at the kept epoch), seconds, cpu_seconds and gflop (of all epochs learned).

    Raises
    ------
    BioplausError
        For a complete run without validation images.
    """
    import pandas

    described = manifest.load(run_set.paper).experiments[run_set.experiment]
    keys, outcomes = described.keys, {outcome.run["id"]: outcome for outcome in run_set.outcomes}
    rows = []
    for run in run_set.runs:
        entry = described.entries[keys[run.entry]]
        label = entry.label if isinstance(entry.label, str) else keys[run.entry]
        row = {
            "key": keys[run.entry],
            "label": label,
            "rule": run_set.rule(run.entry),
            "entry": run.entry,
            "setting": _in_words(run, entry.grid),
            "factor": _factor(run, entry.grid),
            "seed": run.seed,
            "status": run_set.status[run.id],
        }
        rows.append(row | (_measured(outcomes[run.id]) if run.id in outcomes else {}))
    columns = ["key", "label", "rule", "entry", "setting", "factor", "seed", "status", *_MEASURED]
    return pandas.DataFrame(rows, columns=columns)


def choose(of_runs: "pandas.DataFrame") -> dict[str, str]:
    """Key -> entry of the chosen setting, by validation accuracy alone; a key without complete runs
    is left out.

    Parameters
    ----------
    of_runs : as `runs` gives them; only key, entry, status and validation_accuracy are read.
    """
    complete = of_runs[of_runs.status != "missing"]
    means = complete.groupby(["key", "entry"], sort=False).validation_accuracy.mean()
    return {key: score.idxmax()[1] for key, score in means.groupby(level="key", sort=False)}


def curves(
    run_set: "RunSet", of_runs: "pandas.DataFrame", chosen: Mapping[str, str]
) -> "pandas.DataFrame":
    """What `comparison_figures.draw` draws, one epoch and run a row: all runs of the chosen
    settings, of others those that failed.

    Columns: key, label, rule, entry, setting, seed, status, is_chosen, is_kept (the kept epoch),
    epoch (1-based), seconds and gflop (from the beginning of training to the end of this epoch),
    validation_accuracy.
    """
    import pandas

    outcomes = {
        (outcome.run["entry"], outcome.run["seed"]): outcome for outcome in run_set.outcomes
    }
    parts = []
    for row in of_runs.itertuples():
        is_chosen = chosen.get(row.key) == row.entry
        if row.status == "missing" or not (is_chosen or row.status in ENDS):
            continue
        outcome = outcomes[row.entry, row.seed]
        epoch = np.asarray(outcome.record["epochs"].get("epoch", []), int)
        named = {name: getattr(row, name) for name in _NAMES}
        measured = {
            "is_chosen": is_chosen,
            "is_kept": epoch + 1 == row.kept_epoch,
            "epoch": epoch + 1,
            "seconds": np.cumsum(outcome.run["seconds"]["train"])[epoch],
            "gflop": (epoch + 1) * outcome.record["useful_flops_per_epoch"] / 1e9,
            "validation_accuracy": outcome.record["epochs"].get("validation_accuracy", []),
        }
        parts.append(pandas.DataFrame({**named, **measured}, index=range(len(epoch))))
    columns = [*_NAMES, *_COLUMNS]
    return (pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()).reindex(
        columns=columns
    )


def summary(of_runs: "pandas.DataFrame", chosen: Mapping[str, str]) -> "pandas.DataFrame":
    """One row a rule: the chosen setting, its accuracies at the kept epochs, and the mean cost of
    one run, as numbers.

    Columns: key, label, setting, n_settings (with a complete run), n (seeds in the means of
    accuracies), collapsed, diverged and missing (seeds of the chosen setting), validation_accuracy,
    test_accuracy, test_sd (sample form), epochs (learned), kept_epoch (mean), seconds, cpu_seconds,
    gflop (means over seeds).
    """
    import pandas

    rows = []
    for key, of_key in of_runs.groupby("key", sort=False):
        entry = chosen.get(key)
        of_entry = of_key[of_key.entry == entry]
        good = of_entry[of_entry.status == "done"]
        complete = of_entry[of_entry.status != "missing"]
        rows.append(
            {
                "key": key,
                "label": of_key.label.iloc[0],
                "setting": of_entry.setting.iloc[0] if entry else "",
                "n_settings": of_key.entry[of_key.status != "missing"].nunique(),
                "n": len(good),
                **{state: int((of_entry.status == state).sum()) for state in (*ENDS, "missing")},
                "validation_accuracy": good.validation_accuracy.mean(),
                "test_accuracy": good.test_accuracy.mean(),
                "test_sd": good.test_accuracy.std(ddof=1),
                "epochs": complete.n_epochs.max(),
                **{
                    name: complete[name].mean()
                    for name in ("kept_epoch", "seconds", "cpu_seconds", "gflop")
                },
            }
        )
    return pandas.DataFrame(rows)


def readable(table: "pandas.DataFrame") -> "pandas.DataFrame":
    """What `summary` gives, as texts for readers."""
    import pandas

    rows = []
    for row in table.itertuples():
        lost = [
            f"{getattr(row, state)} {state}" for state in (*ENDS, "missing") if getattr(row, state)
        ]
        rows.append(
            {
                "rule": row.label,
                "chosen setting": f"{row.setting} (of {row.n_settings})" if row.setting else "–",
                "seeds": ", ".join([str(row.n), *lost]),
                "validation accuracy": tables.number(row.validation_accuracy),
                "test accuracy": tables.number(row.test_accuracy, row.test_sd),
                "epochs": tables.number(row.epochs, digits=0),
                "epoch kept": tables.number(row.kept_epoch, digits=0),
                "wall time (s)": tables.number(row.seconds, digits=1),
                "CPU time (s)": tables.number(row.cpu_seconds, digits=1),
                "GFLOP": tables.number(row.gflop, digits=1),
            }
        )
    return pandas.DataFrame(rows)


def timing(of_runs: "pandas.DataFrame") -> str:
    """A sentence on how far wall times can be trusted: empty if the runs had their cores nearly to
    themselves.
    """
    timed = of_runs.dropna(subset=["cpu_seconds"])
    share = timed.cpu_seconds.sum() / timed.seconds.sum() if len(timed) else 1.0
    if share >= BUSY:
        return ""
    return (
        f"Others used the machine too: the runs had {100 * share:.0f} % of a core, and that varied,"
        " so compare CPU times or arithmetic rather than wall times."
    )


_MEASURED = (
    "n_epochs",
    "kept_epoch",
    "validation_accuracy",
    "test_accuracy",
    "seconds",
    "cpu_seconds",
    "gflop",
)


def _measured(outcome: "Outcome") -> dict[str, Any]:
    """The columns of `runs` that come from a result."""
    record, seconds = outcome.record, outcome.run["seconds"]
    if "selected" not in record:
        raise BioplausError(
            f"Run {outcome.run['id']} held out no validation images, so nothing can be chosen"
            " by it."
        )
    selected, n = record["selected"], len(seconds["train"])
    cpu = seconds.get("train_cpu", [])
    is_cpu = outcome.run.get("device", {}).get("device", "cpu") == "cpu"
    at = list(record["epochs"]["epoch"]).index(selected["epoch"]) if selected else None
    return {
        "n_epochs": n,
        "kept_epoch": selected["epoch"] + 1 if selected else None,
        "validation_accuracy": selected["value"] if selected else 0.0,
        "test_accuracy": float(record["epochs"]["test_accuracy"][at]) if selected else None,
        "seconds": sum(seconds["train"]),
        "cpu_seconds": sum(cpu) if is_cpu and len(cpu) == n else None,
        "gflop": n * record["useful_flops_per_epoch"] / 1e9,
    }


def _value(run: "Run", dotted: str) -> Any:
    value = run.parameters
    for name in dotted.split("."):
        value = value[name]
    return value


def _in_words(run: "Run", grid: Mapping[str, list[Any]]) -> str:
    """`lr_ff = 1, 0.7`: what the grid varies."""
    words = []
    names = [
        f"{name}.{part}" if part else name
        for name, values in grid.items()
        for part in _parts(values[0])
    ]
    for name in names:
        value = _value(run, name)
        text = ", ".join(f"{item:g}" for item in value) if isinstance(value, list) else str(value)
        words.append(f"{name.rpartition('.')[2]} = {text}")
    return "; ".join(words)


def _parts(value: Any) -> list[str]:
    """The names in a grid's value that is a table; one empty name for any other value."""
    return list(value) if isinstance(value, dict) else [""]


def _factor(run: "Run", grid: Mapping[str, list[Any]]) -> float | None:
    """Size of this run's value relative to the middle of the grid; None unless one list or number
    is scaled.
    """
    if len(grid) != 1:
        return None
    ((name, values),) = grid.items()
    if not isinstance(values[0], int | float | list):
        return None
    sizes = [
        np.atleast_1d(np.asarray(value, float))
        for value in (_value(run, name), values[len(values) // 2])
    ]
    ratio = sizes[0] / sizes[1] if sizes[0].shape == sizes[1].shape else np.full(2, np.nan)
    return float(ratio[0]) if np.allclose(ratio, ratio[0], rtol=1e-6) else None
