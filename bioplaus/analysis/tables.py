"""Claims and grids as tables for readers, and how numbers are written in them."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bioplaus.analysis import published
from bioplaus.analysis.claims import Claim
from bioplaus.analysis.comparison import compare_final

if TYPE_CHECKING:
    import pandas

    from bioplaus.analysis.experiment import RunSet

_METRICS = {
    "test_accuracy": "test accuracy",
    "train_accuracy": "training accuracy",
    "test_top5_accuracy": "test accuracy, top 5",
    "train_top5_accuracy": "training accuracy, top 5",
}


def metric(name: str) -> str:
    """A metric's name in words."""
    if name.startswith("angle_") and name.endswith("_deg"):
        return f"forward/feedback angle, layer {name.split('_')[1]} (degrees)"
    return _METRICS.get(name, name.replace("_", " "))


def number(mean: float | None, sd: float | None = None, *, digits: int = 4) -> str:
    """`0.9762 ± 0.0012`; a dash where there is no number."""
    if mean is None or not math.isfinite(mean):
        return "–"
    if sd is None or not math.isfinite(sd):
        return f"{mean:.{digits}f}"
    digits += 0 < sd < 0.5 * 10**-digits  # one more where the spread would be shown as 0
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def signed(gap: float | None, digits: int = 4) -> str:
    """`+0.0012`, `−0.0012` or `0.0000`; a dash where there is no number."""
    if gap is None or not math.isfinite(gap):
        return "–"
    text = f"{abs(gap):.{digits}f}"
    return text if float(text) == 0 else f"{'+' if gap > 0 else '−'}{text}"


def comparison(claims: Iterable[Claim]) -> "pandas.DataFrame":
    """Claims as a table for readers: published, ours (mean ± sample sd, n), difference with its
    95 % interval, verdict.
    """
    import pandas

    rows = []
    for claim in claims:
        digits = digits_of(claim.metric)
        rows.append(
            {
                "algorithm": claim.label,
                "quantity": metric(claim.metric),
                "at": f"{claim.axis} {claim.x}",
                "published": with_n(claim.published, claim.published_sd, claim.published_n, digits),
                "ours": with_n(claim.ours, claim.ours_sd, claim.n, digits),
                "difference": difference(claim),
                "verdict": verdict(claim) + (f"; {claim.note}" if claim.note else ""),
            }
        )
    columns = ["algorithm", "quantity", "at", "published", "ours", "difference", "verdict"]
    return pandas.DataFrame(rows, columns=columns)


def digits_of(metric: str) -> int:
    """Decimals that a metric is written with."""
    return 1 if metric.endswith("_deg") else 4


def with_n(mean: float | None, sd: float | None, n: int | None, digits: int = 4) -> str:
    """`0.9762 ± 0.0012 (n = 10)`."""
    return number(mean, sd, digits=digits) + (f" (n = {n})" if n else "")


def difference(claim: Claim) -> str:
    """`−0.0005 [−0.0016, +0.0006]`: ours - published, or the mean of an ordering, with its 95 %
    interval.
    """
    digits = digits_of(claim.metric)
    text = signed(claim.ours if claim.is_ordering else claim.difference, digits)
    if claim.low is None:
        return text
    return f"{text} [{signed(claim.low, digits)}, {signed(claim.high, digits)}]"


def verdict(claim: Claim) -> str:
    """`agrees, z = −0.3` or `holds, p = 0.003`; the p is Holm's where there is one."""
    p = claim.p if claim.p_holm is None else claim.p_holm
    if claim.is_ordering and p is not None:
        return f"{claim.verdict}, p = {p:.2g}"
    if claim.z is not None:
        return f"{claim.verdict}, z = {signed(claim.z, 1)}"
    return str(claim.verdict)


def grid(
    run_set: "RunSet", *, chosen_by: str | None = "train_accuracy"
) -> "tuple[pandas.DataFrame, pandas.DataFrame]":
    """Every setting of the grids of an experiment: what varies, both accuracies published and ours,
    what was chosen.

    Means of ours contain collapsed seeds, as the published ones do.

    Parameters
    ----------
    run_set : whose entries are grids, named `<script>-<number>`.
    chosen_by : metric whose largest mean chooses a script's setting; None where nothing was chosen.

    Returns
    -------
    The table as it is read, and the numbers behind it, one claim a row.
    """
    import pandas

    claims = compare_final(run_set, collapsed=True)
    values = {(claim.entry, claim.metric): claim for claim in claims}
    rows = []
    for script, entries in _scripts(run_set).items():
        best = {
            side: _best(entries, values, chosen_by, side)
            for side in ("published", "ours")
            if chosen_by
        }
        for entry, varied in entries.items():
            chosen = [side for side, which in best.items() if which == entry]
            row = {"script": script, "setting": entry.rpartition("-")[2], "varies": varied}
            for name in ("train_accuracy", "test_accuracy"):
                claim = values.get((entry, name))
                for side in ("published", "ours"):
                    numbers = _side(claim, side) if claim else (None, None, None)
                    row[f"{side}, {metric(name)}"] = with_n(*numbers)
            claim = values.get((entry, "test_accuracy"))
            row["verdict, test"] = verdict(claim) if claim else ""
            rows.append({**row, "chosen": " and ".join(chosen)} if chosen_by else row)
    numbers = pandas.DataFrame([dataclasses.asdict(claim) for claim in claims])
    return pandas.DataFrame(rows), numbers


def _scripts(run_set: "RunSet") -> dict[str, dict[str, str]]:
    """Script's label -> entry -> the parameters that differ within the script, in words."""
    by_script: dict[str, dict[str, dict[str, Any]]] = {}
    for run in (*run_set.runs, *run_set.alone):
        settings = published.flattened(run.parameters.get("config", {}))
        by_script.setdefault(run.entry.rpartition("-")[0], {})[run.entry] = settings
    scripts = {}
    for script, points in by_script.items():
        first, *others = points.values()
        names = [name for name in first if any(one.get(name) != first[name] for one in others)]
        scripts[script.replace("_", " ")] = {
            entry: ", ".join(f"{name} {table.get(name)}" for name in names)
            for entry, table in points.items()
        }
    return scripts


def _side(claim: Claim, side: str) -> tuple[float | None, float | None, int | None]:
    """Mean, sd and n of one side, published or ours."""
    if side == "published":
        return claim.published, claim.published_sd, claim.published_n
    return claim.ours, claim.ours_sd, claim.n


def _best(
    entries: Iterable[str], values: Mapping[tuple[str, str], Claim], name: str, side: str
) -> str | None:
    """The entry whose mean of a metric is largest, published or ours; None where there is none."""
    means = {
        entry: _side(values[entry, name], side)[0] for entry in entries if (entry, name) in values
    }
    known = {
        entry: mean for entry, mean in means.items() if mean is not None and math.isfinite(mean)
    }
    return max(known, key=known.__getitem__) if known else None


def markdown(table: "pandas.DataFrame") -> str:
    """A table as GitHub Markdown."""
    rows = [
        list(table.columns),
        ["---"] * len(table.columns),
        *table.astype(str).to_numpy().tolist(),
    ]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows
    )
