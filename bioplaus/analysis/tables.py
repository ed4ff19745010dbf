"""Tables with the published value beside ours, and `save`, which writes them as csv, Markdown and
json.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioplaus.analysis import plots, published

if TYPE_CHECKING:
    import pandas

    from bioplaus.analysis.experiment import Analysis

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


def comparison(claims: Iterable[Mapping[str, Any]]) -> "pandas.DataFrame":
    """Claims as a table for readers: published, ours (mean ± sample sd, n), difference, verdict."""
    import pandas

    rows = []
    for claim in claims:
        digits = 1 if claim["metric"].endswith("_deg") else 4
        gap, k, n = claim["difference"], claim["k"], claim["published_n"]
        in_sd = f" ({signed(k, 1)} sd)" if k is not None else ""
        rows.append(
            {
                "algorithm": claim["label"],
                "quantity": metric(claim["metric"]),
                "at": f"{claim['axis']} {claim['x']}",
                "published": (
                    number(claim["published"], claim["published_sd"], digits=digits)
                    + (f" (n = {n})" if n else "")
                ),
                "ours": (
                    number(claim["ours"], claim["ours_sd"], digits=digits)
                    + (f" (n = {claim['n']})" if claim["n"] else "")
                ),
                "difference": signed(gap, digits) + in_sd,
                "verdict": claim["verdict"] + (f"; {claim['note']}" if claim["note"] else ""),
            }
        )
    return pandas.DataFrame(
        rows, columns=["algorithm", "quantity", "at", "published", "ours", "difference", "verdict"]
    )


def grid(
    found: "Analysis", *, chosen_by: str | None = "train_accuracy"
) -> "tuple[pandas.DataFrame, pandas.DataFrame]":
    """Every setting of the grids of an experiment: what varies, both accuracies published and ours,
    what was chosen.

    Means of ours contain collapsed seeds, as the published ones do.

    Parameters
    ----------
    found : whose entries are grids, named `<script>-<number>`.
    chosen_by : metric whose largest mean chooses a script's setting; None where nothing was chosen.

    Returns
    -------
    The table as it is read, and the numbers behind it, one claim a row.
    """
    import pandas

    claims = found.compare_final(collapsed=True)
    values = {(claim["entry"], claim["metric"]): claim for claim in claims}
    rows = []
    for script, entries in _scripts(found).items():
        best = {
            side: _best(entries, values, chosen_by, side)
            for side in ("published", "ours")
            if chosen_by
        }
        for entry, varied in entries.items():
            chosen = [side for side, which in best.items() if which == entry]
            row = {"script": script, "setting": entry.rpartition("-")[2], "varies": varied}
            for name in ("train_accuracy", "test_accuracy"):
                claim = values.get((entry, name), {})
                n = {"published": claim.get("published_n"), "ours": claim.get("n")}
                for side in ("published", "ours"):
                    text = number(claim.get(side), claim.get(f"{side}_sd"))
                    row[f"{side}, {metric(name)}"] = f"{text} (n = {n[side]})" if n[side] else text
            row["verdict, test"] = values.get((entry, "test_accuracy"), {}).get("verdict", "")
            rows.append({**row, "chosen": " and ".join(chosen)} if chosen_by else row)
    return pandas.DataFrame(rows), pandas.DataFrame(claims)


def _scripts(found: "Analysis") -> dict[str, dict[str, str]]:
    """Script's label -> entry -> the parameters that differ within the script, in words."""
    by_script: dict[str, dict[str, dict[str, Any]]] = {}
    for run in (*found.runs, *found.alone):
        by_script.setdefault(run.entry.rpartition("-")[0], {})[run.entry] = published._flat(
            run.parameters.get("config", {})
        )
    said = {}
    for script, points in by_script.items():
        tables = list(points.values())
        names = [
            name
            for name in tables[0]
            if any(table.get(name) != tables[0][name] for table in tables)
        ]
        said[script.replace("_", " ")] = {
            entry: ", ".join(f"{name} {table.get(name)}" for name in names)
            for entry, table in points.items()
        }
    return said


def _best(
    entries: Iterable[str], values: Mapping[tuple[str, str], Any], name: str, side: str
) -> str | None:
    """The entry whose mean of a metric is largest, published or ours; None where there is none."""
    known = {entry: values.get((entry, name), {}).get(side) for entry in entries}
    known = {
        entry: value for entry, value in known.items() if value is not None and math.isfinite(value)
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


def save(
    claims: Iterable[Mapping[str, Any]],
    name: str,
    *,
    notebook: str,
    title: str,
    caption: str,
    about: Mapping[str, Any],
) -> Path:
    """Write `<preset>/tables/<name>` as csv (full numbers), md (as read) and json (what the page
    says).

    Parameters and return as in `plots.save`; with no result at all, and none published alone, only
    the json is written.
    """
    import pandas

    claims, files = list(claims), {}
    if any(about["n"].values()) or about.get("published_alone"):
        files = {
            "csv": plots.csv(pandas.DataFrame(claims)),
            "md": markdown(comparison(claims)).encode(),
        }
    said = {"notebook": notebook, "title": title, "caption": caption}
    return plots.store("table", name, files, about=about, claims=claims, said=said)


def save_frame(
    table: "pandas.DataFrame",
    name: str,
    *,
    data: "pandas.DataFrame",
    notebook: str,
    title: str,
    caption: str,
    about: Mapping[str, Any],
) -> Path:
    """As `save`, for a table that compares nothing with published numbers.

    Parameters
    ----------
    table : what is read, one text a cell.
    data : the numbers behind it, for the csv.
    """
    some = any(about["n"].values()) or about.get("published_alone")
    files = {"csv": plots.csv(data), "md": markdown(table).encode()} if some else {}
    said = {"notebook": notebook, "title": title, "caption": caption}
    said |= {"columns": list(table.columns), "rows": table.astype(str).to_numpy().tolist()}
    return plots.store("table", name, files, about=about, claims=[], said=said)
