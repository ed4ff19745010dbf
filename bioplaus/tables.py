"""Tables with the published value beside ours, and `save`, which writes them as csv, Markdown and json."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioplaus import plots

if TYPE_CHECKING:
    import pandas

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
                "published": number(claim["published"], claim["published_sd"], digits=digits)
                + (f" (n = {n})" if n else ""),
                "ours": number(claim["ours"], claim["ours_sd"], digits=digits)
                + (f" (n = {claim['n']})" if claim["n"] else ""),
                "difference": signed(gap, digits) + in_sd,
                "verdict": claim["verdict"] + (f"; {claim['note']}" if claim["note"] else ""),
            }
        )
    return pandas.DataFrame(rows, columns=["algorithm", "quantity", "at", "published", "ours", "difference", "verdict"])


def markdown(table: "pandas.DataFrame") -> str:
    """A table as GitHub Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def save(
    claims: Iterable[Mapping[str, Any]],
    name: str,
    *,
    notebook: str,
    title: str,
    caption: str,
    about: Mapping[str, Any],
) -> Path:
    """Write `<preset>/tables/<name>` as csv (full numbers), md (as read) and json (what the page says).

    Parameters and return as in `plots.save`; with no result at all, and none published alone, only the json is written.
    """
    import pandas

    claims, files = list(claims), {}
    if any(about["n"].values()) or about.get("published_alone"):
        files = {"csv": plots.csv(pandas.DataFrame(claims)), "md": markdown(comparison(claims)).encode()}
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
    files = {"csv": plots.csv(data), "md": markdown(table).encode()} if any(about["n"].values()) else {}
    said = {"notebook": notebook, "title": title, "caption": caption}
    said |= {"columns": list(table.columns), "rows": table.astype(str).to_numpy().tolist()}
    return plots.store("table", name, files, about=about, claims=[], said=said)
