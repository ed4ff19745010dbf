"""Published numbers and curves, and which of them a run answers.

`Results/published/<paper>_published.csv` holds single values (and `<paper>_addendum.csv` those of a
source that was read later, in the same columns), `<paper>_published_curves.csv` curves
read from the published vector figures, `<paper>_published_curve_settings.csv` which row of the
tables each curve is. A manifest entry says with its field `published` which rows it answers, by
column and value:

    published: {algorithm: CorInfoMax, dataset: MNIST, architecture: 784-500-10, setting: 3,
    nearest: {setting: 1}}

`nearest` is optional: where the paper shows no curve of exactly these rows, the curve with those
columns changed stands in for it, and everything drawn or said with it names the difference.

Ours is held against a published number only where data set, network and parameters are the
published ones (`difference`), and at the same epoch or batch.
"""

import contextlib
import dataclasses
import io
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bioplaus import _files, paths
from bioplaus.errors import BioplausError, unknown

if TYPE_CHECKING:
    import pandas

    from bioplaus.experiments.manifest import Run

NOTHING = "nothing published for it"

_METRICS = {  # as the published files say it, without "final_": as our records say it
    "test_acc": "test_accuracy",
    "train_acc": "train_accuracy",
    "test_top1": "test_accuracy",
    "train_top1": "train_accuracy",
    "test_acc_top1": "test_accuracy",
    "train_acc_top1": "train_accuracy",
    "test_top5": "test_top5_accuracy",
    "train_top5": "train_top5_accuracy",
    "test_acc_top5": "test_top5_accuracy",
    "train_acc_top5": "train_top5_accuracy",
}
# Parameters that may differ from the published ones without making a run another one.
_FREE = {"seed", "n_epochs", "diagnose_every", "dtype"}
_KEYS = {"setting", "pickle", "condition"}  # columns that any published file may be asked for


@dataclasses.dataclass(frozen=True)
class Published:
    """One published number."""

    value: float
    sd: float  # from seed to seed, sample form; NaN where none was published
    n: int | None  # seeds
    note: str = ""  # how its rows differ from the ones asked for


class MissingError(BioplausError):
    """There is no file of published numbers of this kind."""


def read(paper: str, kind: str) -> "pandas.DataFrame":
    """The table `Results/published/<paper>_<kind>.csv`, checked against the digest that
    `SHA256SUMS` beside it names.

    Raises
    ------
    MissingError
        If there is no such file.
    BioplausError
        If it cannot be read, is not the one with that digest, or has none.
    """
    import pandas

    path = _file(paper, kind)
    content = _files.read(path)
    if content is None:
        raise MissingError(f"There are no published numbers of {paper}: {path} is missing.")
    if (computed := _files.sha256(content)) != (expected := _digest(path)):
        raise BioplausError(
            f"{path} is damaged or was changed: its sha256 is {computed[:12]}..., but SHA256SUMS"
            f" beside it says {expected[:12]}.... Put it back with `git checkout`, or note the new"
            " digest there."
        )
    return pandas.read_csv(io.BytesIO(content))


def values(paper: str) -> "pandas.DataFrame":
    """The published single values of `paper`, one a row: the file's columns, and

    metric : named as in our records where we record it.
    setting, pickle, condition : taken from the text in `figure_or_table`, where it has them.
    single_seed : the seed of a row that is one published run, from the same text.
    """
    return _values(paper).copy()


def curves(paper: str) -> "pandas.DataFrame":
    """The published curves of `paper`, one point a row; empty where there are none.

    Columns: figure, dataset, algorithm, architecture, setting, pickle, condition (as in `values`),
    metric (as in our records), axis ("epoch" or "batch", the number learned so far), x, mean, sd
    (population form), n.
    """
    return _curves(paper).copy()


def value(paper: str, where: Mapping[str, Any], metric: str) -> Published | None:
    """The one published final value of `metric` in the rows `where`; None where that metric was not
    published.

    Rows that are single runs of one setting are taken together: their mean, sample deviation and
    number.

    Raises
    ------
    BioplausError
        If a column is unknown, or more than one row matches; what tells them apart is named.
    """
    rows = _rows(_values(paper), where, paper)
    rows = rows[(rows.metric == metric) & rows.is_final]
    if rows.empty:
        return None
    singles = rows.value[rows.single_seed.notna() & ~rows.single_seed.duplicated(keep=False)]
    if len(singles) == len(rows) > 1 and rows.setting.nunique() == 1:
        return Published(float(singles.mean()), float(singles.std()), len(singles))
    _unambiguous(rows, where, metric, paper, rows)
    row = rows.iloc[0]
    mean = float(row["value"])
    return (
        Published(mean, float(row["std"]), _count(row["n_seeds"])) if math.isfinite(mean) else None
    )


def curve(paper: str, where: Mapping[str, Any], metric: str) -> "pandas.DataFrame | None":
    """The one published curve of `metric` in the rows `where`, else the one in the rows `nearest`;
    None if neither is.

    Returns
    -------
    Columns axis, x, mean, sd (population form), n, note; `note` is empty for an exact match.
    """
    table = _curves(paper)
    if table.empty:
        return None
    exact = {name: wanted for name, wanted in where.items() if name != "nearest"}
    nearest = where.get("nearest") or {}
    for changed in ({}, nearest) if nearest else ({},):
        rows = _rows(table, exact | changed, paper)
        rows = rows[rows.metric == metric]
        if rows.empty:
            continue
        _unambiguous(
            rows,
            where,
            metric,
            paper,
            rows.drop_duplicates(["algorithm", "setting", "condition", "pickle"]),
        )
        rows = rows[rows.figure == rows.figure.iloc[0]]
        note = ", ".join(
            f"published {name}: {wanted}, ours: {exact.get(name)}"
            for name, wanted in changed.items()
        )
        return rows[["axis", "x", "mean", "sd", "n"]].assign(note=note).reset_index(drop=True)
    return None


def point(curve: "pandas.DataFrame | None", x: float) -> Published | None:
    """A published curve at `x` as one number, its band in sample form; None where it has no such
    point.
    """
    rows = curve[curve.x == x] if curve is not None else ()
    if not len(rows):
        return None
    row, n = rows.iloc[0], int(rows.iloc[0]["n"])
    sd = float(row["sd"]) * math.sqrt(n / (n - 1)) if n > 1 else math.nan
    return Published(float(row["mean"]), sd, n, row["note"])


def check(paper: str, where: Mapping[str, Any]) -> None:
    """Raise `BioplausError` unless `where` names rows that were published."""
    exact = {name: wanted for name, wanted in where.items() if name != "nearest"}
    if _rows(_values(paper), exact, paper).empty and _rows(_curves(paper), exact, paper).empty:
        raise BioplausError(
            f"Nothing published by {paper} has {exact}; see"
            f" Results/published/{paper}_published.csv."
        )


def difference(run: "Run", reference: "Run | None") -> str:
    """Why `run` cannot be held against its published rows, in words; empty if it can.

    Parameters
    ----------
    reference : the same entry at preset `paper`, whose parameters are the published ones.
    """
    if not run.published:
        return NOTHING
    ours, answered = run.parameters, run.published
    dataset = str(ours.get("dataset", ""))
    if "dataset" in answered and _plain(dataset) != _plain(str(answered["dataset"])):
        return f"the data set is {dataset}, published is {answered['dataset']}"
    network = "-".join(map(str, ours.get("config", {}).get("n_units") or ()))
    if "architecture" in answered and network and network != answered["architecture"]:
        return f"the network is {network}, published is {answered['architecture']}"
    if reference is not None:
        mine, its = flattened(ours), flattened(reference.parameters)
        for name in sorted(mine.keys() | its.keys()):
            if name not in _FREE and mine.get(name) != its.get(name):
                return f"{name} is {mine.get(name)}, at preset paper it is {its.get(name)}"
    return ""


@cache
def _values(paper: str) -> "pandas.DataFrame":
    import pandas

    table = read(paper, "published")
    with contextlib.suppress(MissingError):
        table = pandas.concat([table, read(paper, "addendum")], ignore_index=True)
    text = table.figure_or_table.astype(str)
    table["setting"] = text.str.extract(r"\bsetting (\d+)")[0].astype("Float64").astype("Int64")
    table["pickle"] = text.str.extract(r"\bpickle (\S+)")[0]
    table["single_seed"] = text.str.extract(r"\bsingle run.* seed (\d+)")[0]
    table["condition"] = table.get("condition", text.str.extract(r"ablation;? ([^;]+);")[0])
    table["value"] = pandas.to_numeric(table["value"], errors="coerce")
    table["n_seeds"] = pandas.to_numeric(table["n_seeds"], errors="coerce")
    # points of curves, which `curves` has in full
    at_point = table.metric.str.contains(r"(?:_epoch|_x)\d+$")
    table["metric"] = table.metric.str.removeprefix("final_").replace(_METRICS)
    return table.assign(is_final=~at_point)


@cache
def _curves(paper: str) -> "pandas.DataFrame":
    import pandas

    columns = ["figure", "dataset", "algorithm", "architecture", "setting", "pickle", "condition"]
    try:
        table = read(paper, "published_curves")
        settings = read(paper, "published_curve_settings")
    except MissingError:
        return pandas.DataFrame(columns=[*columns, "metric", "axis", "x", "mean", "sd", "n"])
    table = table.rename(columns={"algorithm": "curve", "std_population": "sd", "n_seeds": "n"})
    table = table.merge(
        settings,
        on=["figure", "dataset", "curve", "architecture"],
        how="left",
        validate="many_to_one",
    )
    table["setting"] = table.setting.astype("Int64")
    is_log = table.x_axis.str.startswith("plot_x")  # log i was taken after batch 1000 (i - 1) + 1
    table["axis"] = np.where(is_log, "batch", table.x_axis)
    table["x"] = np.where(is_log, 1000 * (table.x - 1) + 1, table.x)
    table["metric"] = table.metric.replace(_METRICS).str.replace(
        r"^angle_deg_W(\d+)$", r"angle_\1_deg", regex=True
    )
    return table[[*columns, "metric", "axis", "x", "mean", "sd", "n"]]


def _file(paper: str, kind: str) -> Path:
    return paths.project_root() / "Results" / "published" / f"{paper}_{kind}.csv"


def _digest(path: Path) -> str:
    """The sha256 that `SHA256SUMS` beside a file names for it."""
    sums = path.with_name("SHA256SUMS")
    for line in (_files.read(sums) or b"").decode("utf-8", "replace").splitlines():
        digest, _, name = line.partition("  ")
        if name == path.name:
            return digest
    raise BioplausError(
        f"{sums} names no digest of {path.name}, so damage to it would not be noticed. Put one"
        f" there with `sha256sum {path.name} >> {sums.name}`, in that folder."
    )


def _rows(table: "pandas.DataFrame", where: Mapping[str, Any], paper: str) -> "pandas.DataFrame":
    """The rows with these values in these columns; None stands for an empty cell."""
    for name, wanted in where.items():
        if name == "nearest":
            continue
        if name not in _KEYS and name not in table.columns:
            raise unknown(f"column of {paper}_published.csv", name, {*table.columns, "nearest"})
        if name in table.columns:
            column = table[name]
            table = table[
                column.isna() if wanted is None else (column == wanted).fillna(False).astype(bool)
            ]
    return table


def _unambiguous(
    rows: "pandas.DataFrame",
    where: Mapping[str, Any],
    metric: str,
    paper: str,
    candidates: "pandas.DataFrame",
) -> None:
    if len(candidates) > 1:
        columns = [name for name in ("architecture", *sorted(_KEYS)) if name in rows]
        apart = [name for name in columns if rows[name].nunique(dropna=False) > 1]
        raise BioplausError(
            f"{len(candidates)} published values of {metric} by {paper} have {dict(where)}; "
            f"add {' or '.join(apart) or 'a column'} to tell them apart."
        )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def flattened(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by dotted name; lists and tuples alike."""
    flat: dict[str, Any] = {}
    for name, item in parameters.items():
        if isinstance(item, Mapping):
            flat |= flattened(item, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(item) if isinstance(item, tuple) else item
    return flat


def _count(number: float) -> int | None:
    return int(number) if math.isfinite(number) else None
