"""What many runs recorded, as tidy pandas DataFrames."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from bioplaus.results import Outcome

if TYPE_CHECKING:
    import pandas


def epochs(outcomes: Iterable[Outcome]) -> "pandas.DataFrame":
    """The epochs of many runs: one row an epoch and run.

    Columns: run_id, entry, rule (the one that ran), dataset, seed, status, epoch (1-based: the
    number of epochs learned), then the metrics as recorded. A diverged run keeps the epochs before
    it diverged; nothing is filled in.
    """
    return _tidy(outcomes, "epochs", {"epoch": lambda column: column + 1})


def diagnostics(outcomes: Iterable[Outcome]) -> "pandas.DataFrame":
    """The logged diagnostics of many runs: the columns of `epochs` with "batch" in place of
    "epoch".
    """
    return _tidy(outcomes, "diagnostics", {})


def _tidy(
    outcomes: Iterable[Outcome], part: str, changes: dict[str, Callable[[Any], Any]]
) -> "pandas.DataFrame":
    """One part of each record, each column changed where `changes` has its name."""
    import pandas

    tables = []
    for outcome in outcomes:
        columns = {
            name: changes.get(name, lambda column: column)(values)
            for name, values in outcome.record.get(part, {}).items()
        }
        parameters = outcome.run.get("parameters", {})
        identity = {
            "run_id": outcome.run["id"],
            "entry": outcome.run.get("entry"),
            "rule": outcome.record.get("rule", outcome.run.get("rule", parameters.get("rule"))),
            "dataset": parameters.get("dataset"),
            "seed": outcome.run.get("seed"),
            "status": outcome.record.get("status", "done"),
        }
        table = pandas.DataFrame(columns)
        constant = {name: [value] * len(table) for name, value in identity.items()}
        tables.append(pandas.DataFrame(constant).join(table))
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame()
