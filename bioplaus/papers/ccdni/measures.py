"""What the cerebro-cerebellar figures and tables are made of: areas, paired tests, horizons,
labelled arrays.

A cRNN and a ccRNN of one seed start from the same cortex and see the same data, so every comparison
is paired by seed.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bioplaus import _files
from bioplaus.analysis import experiment as analysis
from bioplaus.analysis import published
from bioplaus.analysis.experiment import Analysis
from bioplaus.papers.ccdni import caption_scores
from bioplaus.results import Outcome

if TYPE_CHECKING:
    import pandas

PAPER = "ccdni"
MIN_SEEDS = 5  # pairs: with fewer, that a test finds no difference says nothing
EXPERIMENTS = (
    "linedraw",
    "linedraw-lesions",
    "draw-line",
    "draw-digit",
    "discrimination",
    "discrimination-record",
    "captions",
)
TASKS = {  # experiment -> what its task is called in figures and tables
    "linedraw": "simple line drawing",
    "draw-line": "line from rows",
    "draw-digit": "digit from rows",
    "discrimination": "discrimination",
}


def load(preset: str) -> dict[str, Analysis]:
    """Every experiment of the paper that has a figure or table, by name."""
    return {name: analysis.load(PAPER, name, preset) for name in EXPERIMENTS}


@dataclass(frozen=True)
class Paired:
    """Two conditions compared seed by seed; `mean`, `sd` and `sem` of the differences a - b (sample
    form).
    """

    mean: float
    sd: float
    n: int
    p: float  # two-sided paired t-test; NaN below two seeds or without any spread

    @property
    def sem(self) -> float:
        """Standard error of the mean difference."""
        return self.sd / math.sqrt(self.n) if self.n > 1 else math.nan


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired | None:
    """Compare values by seed, over the seeds that both have; None where there is none."""
    from scipy import stats

    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    gap = np.array([a[s] - b[s] for s in seeds])
    if len(gap) < 2 or np.ptp(gap) <= 1e-12 * np.abs(gap).max():
        return Paired(float(gap.mean()), math.nan, len(gap), math.nan)
    p = float(stats.ttest_rel([a[s] for s in seeds], [b[s] for s in seeds]).pvalue)
    return Paired(float(gap.mean()), float(gap.std(ddof=1)), len(gap), p)


# --- values of one entry by seed
# -------------------------------------------------------------------------------------


def good(found: Analysis, entry: str) -> list[Outcome]:
    """The outcomes of an entry's runs that ended well."""
    return [
        o
        for o in found.outcomes
        if o.run["entry"] == entry and o.record.get("status", "done") == "done"
    ]


def area(found: Analysis, entry: str, metric: str = "train_mse") -> dict[int, float]:
    """Seed -> mean of a metric over all epochs: the area under the learning curve, in the metric's
    unit.
    """
    return {o.run["seed"]: float(np.mean(o.record["epochs"][metric])) for o in good(found, entry)}


def at_epoch(found: Analysis, entry: str, metric: str, epoch: int = -1) -> dict[int, float]:
    """Seed -> a metric after `epoch` epochs (1-based; -1: the last); runs that are shorter are left
    out.
    """
    values = {o.run["seed"]: o.record["epochs"].get(metric, ()) for o in good(found, entry)}
    index = epoch - 1 if epoch > 0 else epoch
    return {seed: float(v[index]) for seed, v in values.items() if len(v) > max(index, 0)}


def best(found: Analysis, entry: str, metric: str) -> dict[int, float]:
    """Seed -> the lowest value of a metric over epochs."""
    return {o.run["seed"]: float(np.min(o.record["epochs"][metric])) for o in good(found, entry)}


def tested(found: Analysis, entry: str, name: str) -> dict[int, float]:
    """Seed -> a value of the test made after training."""
    return {
        o.run["seed"]: float(o.record["test"][name])
        for o in good(found, entry)
        if name in o.record["test"]
    }


def lesion_epochs(found: Analysis) -> dict[str, int]:
    """Entry -> the first epoch with its lesion, at the analysis' preset."""
    configs = {run.entry: run.parameters["config"] for run in found.runs}
    epochs = {
        entry: c.get("lesion_epoch") or c.get("io_lesion_epoch") for entry, c in configs.items()
    }
    return {entry: epoch for entry, epoch in epochs.items() if epoch}


def share(found: Analysis, entry: str) -> float:
    """The feedback horizon K / T of an entry; NaN before it has run."""
    for outcome in good(found, entry):
        n_steps = outcome.record["task"]["n_steps"]
        return (outcome.record["config"]["n_truncation"] or n_steps) / n_steps
    return math.nan


def truncations(found: Analysis, cortex: str = "crnn", cerebellum: str = "ccrnn") -> list[int]:
    """The K for which both networks are planned, ascending."""

    def planned(prefix: str) -> set[int]:
        names = (entry.partition("-k") for entry in found.entries)
        return {int(k) for name, _, k in names if name == prefix and k}

    return sorted(planned(cortex) & planned(cerebellum))


# --- tables of numbers that figures draw
# -----------------------------------------------------------------------------


def curves(found: Analysis, metric: str, entries: Iterable[str]) -> "pandas.DataFrame":
    """Learning curves of some entries, as `Analysis.curves`; "sem" is the published band,
    population sd / sqrt(n).
    """
    drawn = found.curves(metric)
    drawn = drawn[drawn.entry.isin(list(entries))].copy()
    drawn["sem"] = drawn.sd.astype(float) / np.sqrt(drawn.n.astype(float))
    return drawn.reset_index(drop=True)


def horizon(found: Analysis, value: str, *, cerebellum: str = "ccrnn") -> "pandas.DataFrame":
    """Error of both networks against the feedback horizon, one row a K that both have run.

    Parameters
    ----------
    value : as in `values`: "area", a metric of the epochs ("val_mse", ...), or one of the test
        ("test_dysmetria", ...).

    Returns
    -------
    Columns K, horizon (K / T), n, crnn, crnn_sem, ccrnn, ccrnn_sem, ratio (ccRNN / cRNN, mean over
    seeds), ratio_sem, p.
    """
    import pandas

    rows = []
    for k in truncations(found, cerebellum=cerebellum):
        a, b = (values(found, f"{name}-k{k}", value) for name in ("crnn", cerebellum))
        seeds = sorted(a.keys() & b.keys())
        if not seeds:
            continue
        x, y = np.array([a[s] for s in seeds]), np.array([b[s] for s in seeds])
        rows.append(
            {
                "K": k,
                "horizon": share(found, f"crnn-k{k}"),
                "n": len(seeds),
                **{f"crnn{end}": v for end, v in _mean_sem(x).items()},
                **{f"ccrnn{end}": v for end, v in _mean_sem(y).items()},
                **{f"ratio{end}": v for end, v in _mean_sem(y / x).items()},
                "p": paired(a, b).p,
            }
        )
    names = ("crnn", "crnn_sem", "ccrnn", "ccrnn_sem", "ratio", "ratio_sem")
    return pandas.DataFrame(rows, columns=["K", "horizon", "n", *names, "p"])


def values(found: Analysis, entry: str, value: str) -> dict[int, float]:
    """Seed -> "area" (of the training error), a value of the test ("test_..."), or a metric at the
    last common epoch.

    That is the last epoch that all runs of the experiment have: not all train equally long.
    """
    if value == "area":
        return area(found, entry)
    if value.startswith("test_"):
        return tested(found, entry, value)
    lengths = [
        len(o.record["epochs"]["epoch"]) for name in found.entries for o in good(found, name)
    ]
    return at_epoch(found, entry, value, min(lengths, default=-1))


def _mean_sem(x: np.ndarray) -> dict[str, float]:
    return {
        "": float(x.mean()),
        "_sem": float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan,
    }


def caption_groups(found: Analysis, score: str = "cider") -> "pandas.DataFrame":
    """Caption score of short, medium and long captions, one row a run and group; normalised by the
    cRNN of the same K.

    Columns: entry, K, network, rule, seed, group (short, medium, long), value, normalised (value /
    mean of the cRNNs).
    """
    import pandas

    rows = []
    for outcome in (o for entry in found.entries for o in good(found, entry)):
        scores = outcome.record["scores"]
        groups = caption_scores.length_groups(scores["length"])
        name, _, k = outcome.run["entry"].partition("-k")
        for number, group in enumerate(caption_scores.LENGTHS):
            value = float(scores["image"][score][groups == number].mean())
            about = {
                "entry": outcome.run["entry"],
                "K": int(k),
                "network": name.replace("rnn", "RNN"),
            }
            about |= {"rule": outcome.run["parameters"]["rule"], "seed": outcome.run["seed"]}
            rows.append({**about, "group": group, "value": value})
    table = pandas.DataFrame(
        rows, columns=["entry", "K", "network", "rule", "seed", "group", "value"]
    )
    reference = table[table.network == "cRNN"].groupby(["K", "group"]).value.mean()
    keys = pandas.MultiIndex.from_frame(table[["K", "group"]])
    return table.assign(normalised=table.value.to_numpy() / reference.reindex(keys).to_numpy())


def stacked(tables: "Mapping[str, pandas.DataFrame]") -> "pandas.DataFrame":
    """Several tables on one another, told apart by a last column, "part_of"."""
    import pandas

    parts = [table.assign(part_of=name) for name, table in tables.items() if len(table)]
    return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()


def discrimination(found: Analysis, metric: str, published_metric: str) -> "pandas.DataFrame":
    """Learning curves of every K beside the last points of the plots of 2019, with columns K and
    network added.
    """
    drawn = curves(found, metric, [entry for entry in found.entries if "-k" in entry])
    place = drawn.entry.astype(str).str.extract(r"^(?P<network>\w+)-k(?P<K>\d+)$")
    drawn = drawn.assign(network=place.network, K=place["K"].astype("Int64"))
    if drawn.empty:
        return drawn
    import pandas

    names = {"Vanilla": "crnn", "DNI": "ccrnn"}
    rows = [
        {
            "network": names[model],
            "K": k,
            "x": epoch,
            "value": value,
            "source": "published",
            "part": "mean",
        }
        for k, model, epoch, value in record_2019(published_metric)
        if k in set(drawn.K)
    ]
    return pandas.concat([drawn, pandas.DataFrame(rows)], ignore_index=True)


def record_2019(metric: str) -> list[tuple[int, str, int, float]]:
    """(K, "Vanilla" or "DNI", epoch, value) of the repository's plots of 2019 for seq-MNIST
    classification.
    """
    table = published.values(PAPER)
    rows = table[(table.figure_or_table == "plots 2019") & (table.metric == metric)]
    rows = rows[rows.task == "seqmnist classification"]
    places = rows.condition.str.extract(r"T=(?P<k>\d+); epoch (?P<epoch>\d+)").astype(int)
    return list(zip(places.k, rows.model, places.epoch, rows.value.astype(float), strict=True))


def by_network(
    parts: Mapping[str, tuple[Analysis, str]], k: Mapping[str, int] | None = None, default: int = 3
) -> "pandas.DataFrame":
    """A value of cRNN, ccRNN and full BPTT in several tasks, one row a seed.

    Parameters
    ----------
    parts : task -> experiment and value (as in `values`).
    k : truncation by task, where it is not `default`.

    Returns
    -------
    Columns task, entry, network (label without K), rule, seed, value.
    """
    import pandas

    rows = []
    for task, (found, value) in parts.items():
        chosen = (k or {}).get(task, default)
        for entry in (f"crnn-k{chosen}", f"ccrnn-k{chosen}", "bptt"):
            if entry in found.entries:
                network = found.label(entry).split(",")[0]
                about = {
                    "task": task,
                    "entry": entry,
                    "network": network,
                    "rule": found.rule(entry),
                }
                rows += [
                    {**about, "seed": s, "value": v} for s, v in values(found, entry, value).items()
                ]
    return pandas.DataFrame(rows, columns=["task", "entry", "network", "rule", "seed", "value"])


def normalised(rows: "pandas.DataFrame") -> "pandas.Series":
    """Values of `by_network` over the mean of their task's cRNNs."""
    cortex = rows[rows.entry.str.startswith("crnn")].groupby("task").value.mean()
    return rows.value / rows.task.map(cortex)


def captions_by_k(found: Analysis) -> "pandas.DataFrame":
    """Validation bits per word of every run's best epoch: columns entry, K, network, rule, seed,
    value.
    """
    import pandas

    rows = []
    for entry in found.entries:
        network, k = entry.split("-k")
        about = {
            "entry": entry,
            "K": int(k),
            "network": network.replace("rnn", "RNN"),
            "rule": found.rule(entry),
        }
        rows += [
            {**about, "seed": s, "value": v} for s, v in best(found, entry, "val_bits").items()
        ]
    table = pandas.DataFrame(rows, columns=["entry", "K", "network", "rule", "seed", "value"])
    return table.sort_values("K", kind="stable", ignore_index=True)


@dataclass(frozen=True)
class Export:
    """Results in the published layout: `values` is (seeds, models, metrics, epochs), each axis with
    its labels.

    NaN stands for what a run did not measure. (The published linedraw arrays lack the axis of
    models, whatever their README says: `values[:, 0]` is theirs.)
    """

    values: np.ndarray
    seeds: list[int]
    models: list[str]
    metrics: list[str]
    epochs: list[int]

    def save(self, path: str | Path) -> Path:
        """Write `values` as a numpy file, as the published scripts do, and the labels of its axes
        as JSON beside it.

        Parameters
        ----------
        path : with or without its ending, .npy.

        Returns
        -------
        Path of the array; `.json` in place of `.npy` is that of the labels.
        """
        path = Path(path).with_suffix(".npy")
        content = io.BytesIO()
        np.save(content, self.values)
        _files.make_folder(path.parent)
        _files.write_atomic(path, content.getvalue())
        axes = {name: getattr(self, name) for name in ("seeds", "models", "metrics", "epochs")}
        _files.write_json(path.with_suffix(".json"), {"axes": list(axes), **axes})
        return path


def export(found: Analysis, metrics: Sequence[str], entries: Sequence[str] | None = None) -> Export:
    """The learning curves of an experiment as one labelled array."""
    entries = list(entries or found.entries)
    runs = {
        (o.run["entry"], o.run["seed"]): o.record["epochs"]
        for o in found.outcomes
        if o.run["entry"] in entries
    }
    seeds = list(dict.fromkeys(run.seed for run in found.runs))
    n_epochs = max((len(epochs["epoch"]) for epochs in runs.values()), default=0)
    values = np.full((len(seeds), len(entries), len(metrics), n_epochs), np.nan)
    for (entry, seed), epochs in runs.items():
        for m, metric in enumerate(metrics):
            column = epochs.get(metric, ())
            values[seeds.index(seed), entries.index(entry), m, : len(column)] = column
    return Export(values, seeds, entries, list(metrics), list(range(1, n_epochs + 1)))


def reference_areas(found: Analysis, entry: str) -> list[float]:
    """Areas under the training error that the published engine gave with an entry's parameters, one
    a seed.

    They were measured for this project's specification (a port to a current torch, few seeds).
    """
    table = published.read(PAPER, "reference_runs")
    return list(table[_is_same(table, found, entry)].auc_train_mse)


def _is_same(reference: "pandas.DataFrame", found: Analysis, entry: str) -> "pandas.Series":
    """Which of the reference runs have an entry's parameters."""
    run = next(run for run in found.runs if run.entry == entry)
    c = run.parameters["config"]
    is_dni = run.parameters["rule"] == "dni"
    is_mended = c.get("bootstrap_last") is False
    same = reference.model == ("DNI_LSTM" if is_dni else "LSTM")
    same &= reference.variant == ("no bootstrap on last truncation" if is_mended else "reference")
    same &= reference["K"] == c["n_truncation"]
    if is_dni:
        same &= (reference.synth_hidden_layers == c.get("n_synth_layers", 1)) & (
            reference.nfibres == "dense"
        )
    for name, column in (("lesion_epoch", "lesion_epoch"), ("io_lesion_epoch", "io_lesion_epoch")):
        wanted = c.get(name)
        same &= reference[column].isna() if wanted is None else reference[column] == wanted
    return same & (c.get("keep_stale_grads") is not False)
