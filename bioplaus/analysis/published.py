"""Published numbers and curves, and how far ours are from them.

`Results/published/<paper>_published.csv` holds single values, `<paper>_published_curves.csv` curves
read from the published vector figures, `<paper>_published_curve_settings.csv` which row of the
tables each curve is. A manifest entry says with its field `published` which rows it answers, by
column and value:

    published: {algorithm: CorInfoMax, dataset: MNIST, architecture: 784-500-10, setting: 3,
    nearest: {setting: 1}}

`nearest` is optional: where the paper shows no curve of exactly these rows, the curve with those
columns changed stands in for it, and everything drawn or said with it names the difference.

The criterion
-------------
The unit of every comparison is *sd*: the published standard deviation from seed to seed (sample
form, n - 1; the bands of the published figures are population form and are converted). Our mean
over n seeds is "within 2 sd" if it differs from the published mean by at most 2 sd. Our own spread
does not enter, so that noisy runs cannot buy agreement; it is shown beside. Were our seeds drawn
from the published distribution, the two means would differ by `chance` = sqrt(1/n + 1/n_published)
sd (root mean square): 0.66 sd for 3 seeds against 10. Values are compared at the same epoch or
batch only, and only if data set, architecture and parameters are the published ones (`difference`).
"""

import dataclasses
import io
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bioplaus import _files, paths
from bioplaus.errors import BioplausError, unknown

if TYPE_CHECKING:
    import pandas

    from bioplaus.experiments.manifest import Run

LIMIT = 2.0  # published standard deviations
NOT_RUN = "not run at this preset"
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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Ours beside a published number, in the metric's unit; `k` and `chance` in published standard
    deviations.
    """

    published: float | None
    published_sd: float | None
    published_n: int | None
    ours: float | None
    ours_sd: float | None  # sample form; None for one seed
    n: int
    difference: float | None
    k: float | None
    chance: float | None
    verdict: str
    note: str = ""

    @property
    def grade(self) -> str:
        """The verdict in one word: within, outside, not-run, or open (nothing, or no spread,
        published).
        """
        words = {"within": "within", "outside": "outside", NOT_RUN: "not-run"}
        return next(
            (word for start, word in words.items() if self.verdict.startswith(start)), "open"
        )


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
    number = float(row["value"])
    return (
        Published(number, float(row["std"]), _count(row["n_seeds"]))
        if math.isfinite(number)
        else None
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


def point(found: "pandas.DataFrame | None", x: float) -> Published | None:
    """The published curve `found` at `x` as one number, its band in sample form; None where it has
    no such point.
    """
    rows = found[found.x == x] if found is not None else ()
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
    ours, theirs = run.parameters, run.published
    dataset = str(ours.get("dataset", ""))
    if "dataset" in theirs and _plain(dataset) != _plain(str(theirs["dataset"])):
        return f"the data set is {dataset}, published is {theirs['dataset']}"
    units = ours.get("config", {}).get("n_units")
    if "architecture" in theirs and units and "-".join(map(str, units)) != theirs["architecture"]:
        return f"the network is {'-'.join(map(str, units))}, published is {theirs['architecture']}"
    if reference is not None:
        mine, its = _flat(ours), _flat(reference.parameters)
        for name in sorted(mine.keys() | its.keys()):
            if name not in _FREE and mine.get(name) != its.get(name):
                return f"{name} is {mine.get(name)}, at preset paper it is {its.get(name)}"
    return ""


def is_copy(run: "Run", reference: "Run | None") -> bool:
    """Whether `run` differs from the published in its data alone, which are a copy: `<published
    name>-<what it is>`.
    """
    if reference is None or not run.published or "dataset" not in run.published:
        return False
    ours, theirs = (
        str(run.parameters.get("dataset", "")),
        str(reference.parameters.get("dataset", "")),
    )
    same = dataclasses.replace(run, parameters={**run.parameters, "dataset": theirs})
    return ours.startswith(f"{theirs}-") and not difference(same, reference)


def compare(
    ours: Sequence[float],
    theirs: Published | None,
    *,
    digits: int = 4,
    reason: str = NOT_RUN,
    left_out: int = 0,
) -> Comparison:
    """Hold the mean of `ours` (one number a seed) against a published number.

    Parameters
    ----------
    digits : decimals of the difference in the verdict.
    reason : the verdict where `ours` is empty.
    left_out : seeds that are not in `ours` because they collapsed or diverged; if no other is left,
        that is the verdict, else it is noted.
    """
    n = len(ours)
    mean = float(np.mean(ours)) if n else None
    own_sd = float(np.std(ours, ddof=1)) if n > 1 else None
    if theirs is None:
        return Comparison(
            None, None, None, mean, own_sd, n, None, None, None, "no published counterpart"
        )
    notes = [theirs.note] if theirs.note else []
    if left_out and n:
        notes.append(f"{left_out} of {n + left_out} seeds collapsed or diverged, left out")
    known = (theirs.value, theirs.sd if theirs.sd > 0 else None, theirs.n, mean, own_sd, n)
    if mean is None:
        verdict = f"outside: all {left_out} seeds collapsed or diverged" if left_out else reason
        return Comparison(*known, None, None, None, verdict, "; ".join(notes))
    gap = mean - theirs.value
    if not theirs.sd > 0:  # NaN, or all seeds equal
        return Comparison(
            *known, gap, None, None, f"no spread published: {gap:+.{digits}f}", "; ".join(notes)
        )
    k = gap / theirs.sd
    chance = math.sqrt(1 / n + 1 / theirs.n) if theirs.n else None
    verdict = (
        f"within {LIMIT:g} sd"
        if abs(k) <= LIMIT
        else f"outside: {gap:+.{digits}f} ({abs(k):.1f} sd)"
    )
    return Comparison(*known, gap, k, chance, verdict, "; ".join(notes))


@cache
def _values(paper: str) -> "pandas.DataFrame":
    import pandas

    table = read(paper, "published")
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
    found: "pandas.DataFrame",
) -> None:
    if len(found) > 1:
        columns = [name for name in ("architecture", *sorted(_KEYS)) if name in rows]
        apart = [name for name in columns if rows[name].nunique(dropna=False) > 1]
        raise BioplausError(
            f"{len(found)} published values of {metric} by {paper} have {dict(where)}; "
            f"add {' or '.join(apart) or 'a column'} to tell them apart."
        )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by dotted name; lists and tuples alike."""
    flat: dict[str, Any] = {}
    for name, item in parameters.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(item) if isinstance(item, tuple) else item
    return flat


def _count(number: float) -> int | None:
    return int(number) if math.isfinite(number) else None
