"""Tables that the cerebro-cerebellar figures draw: curves, horizons, networks side by side,
captions.
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from bioplaus.analysis import published, verdicts
from bioplaus.analysis.experiment import RunSet
from bioplaus.papers.ccdni import caption_scores
from bioplaus.papers.ccdni.measures import (
    PAPER,
    best,
    differences,
    good,
    share,
    truncations,
    values,
)

if TYPE_CHECKING:
    import pandas


def curves(runs: RunSet, metric: str, entries: Iterable[str]) -> "pandas.DataFrame":
    """Learning curves of some entries, as `RunSet.curves`; "sem" is the published band,
    population sd / sqrt(n).
    """
    drawn = runs.curves(metric)
    drawn = drawn[drawn.entry.isin(list(entries))].copy()
    drawn["sem"] = drawn.sd.astype(float) / np.sqrt(drawn.n.astype(float))
    return drawn.reset_index(drop=True)


def horizon(runs: RunSet, value: str, *, cerebellum: str = "ccrnn") -> "pandas.DataFrame":
    """Error of both networks against the feedback horizon, one row a K that both have run.

    Parameters
    ----------
    value : as in `values`: "area", a metric of the epochs ("validation_mse", ...), or one of the
        test ("test_dysmetria", ...).

    Returns
    -------
    Columns K, horizon (`measures.share`), n, crnn, crnn_sem, ccrnn, ccrnn_sem, ratio (ccRNN / cRNN,
    mean over seeds), ratio_sem, p.
    """
    import pandas

    rows = []
    for k in truncations(runs, cerebellum=cerebellum):
        a, b = (values(runs, f"{name}-k{k}", value) for name in ("crnn", cerebellum))
        seeds = sorted(a.keys() & b.keys())
        if not seeds:
            continue
        x, y = np.array([a[s] for s in seeds]), np.array([b[s] for s in seeds])
        rows.append(
            {
                "K": k,
                "horizon": share(runs, f"crnn-k{k}"),
                "n": len(seeds),
                **{f"crnn{end}": v for end, v in _mean_sem(x).items()},
                **{f"ccrnn{end}": v for end, v in _mean_sem(y).items()},
                **{f"ratio{end}": v for end, v in _mean_sem(y / x).items()},
                "p": test.p if (test := verdicts.student(differences(a, b))) else math.nan,
            }
        )
    names = ("crnn", "crnn_sem", "ccrnn", "ccrnn_sem", "ratio", "ratio_sem")
    return pandas.DataFrame(rows, columns=["K", "horizon", "n", *names, "p"])


def _mean_sem(x: np.ndarray) -> dict[str, float]:
    return {
        "": float(x.mean()),
        "_sem": float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan,
    }


def caption_groups(runs: RunSet, score: str = "cider") -> "pandas.DataFrame":
    """Caption score of short, medium and long captions, one row a run and group; normalised by the
    cRNN of the same K.

    Columns: entry, K, network, rule, seed, group (short, medium, long), value, normalised (value /
    mean of the cRNNs).
    """
    import pandas

    rows = []
    for outcome in (o for entry in runs.entries for o in good(runs, entry)):
        scores = outcome.record["scores"]
        groups = caption_scores.length_groups(scores["length"])
        name, _, k = outcome.run["entry"].partition("-k")
        for index, group in enumerate(caption_scores.LENGTHS):
            value = float(scores["image"][score][groups == index].mean())
            rows.append(
                {
                    "entry": outcome.run["entry"],
                    "K": int(k),
                    "network": name.replace("rnn", "RNN"),
                    "rule": outcome.run["parameters"]["rule"],
                    "seed": outcome.run["seed"],
                    "group": group,
                    "value": value,
                }
            )
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


def discrimination(runs: RunSet, metric: str, published_metric: str) -> "pandas.DataFrame":
    """Learning curves of every K beside the last points of the plots of 2019, with columns K and
    network added.
    """
    drawn = curves(runs, metric, [entry for entry in runs.entries if "-k" in entry])
    names = drawn.entry.astype(str).str.extract(r"^(?P<network>\w+)-k(?P<K>\d+)$")
    drawn = drawn.assign(network=names.network, K=names["K"].astype("Int64"))
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
    points = rows.condition.str.extract(r"T=(?P<k>\d+); epoch (?P<epoch>\d+)").astype(int)
    return list(zip(points.k, rows.model, points.epoch, rows.value.astype(float), strict=True))


def by_network(
    parts: Mapping[str, tuple[RunSet, str]], k: Mapping[str, int] | None = None, default: int = 3
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
    for task, (runs, value) in parts.items():
        chosen = (k or {}).get(task, default)
        for entry in (f"crnn-k{chosen}", f"ccrnn-k{chosen}", "bptt"):
            if entry in runs.entries:
                network = runs.label(entry).split(",")[0]
                named = {"task": task, "entry": entry, "network": network, "rule": runs.rule(entry)}
                rows += [
                    {**named, "seed": s, "value": v} for s, v in values(runs, entry, value).items()
                ]
    return pandas.DataFrame(rows, columns=["task", "entry", "network", "rule", "seed", "value"])


def normalised(rows: "pandas.DataFrame") -> "pandas.Series":
    """Values of `by_network` over the mean of their task's cRNNs."""
    cortex = rows[rows.entry.str.startswith("crnn")].groupby("task").value.mean()
    return rows.value / rows.task.map(cortex)


def captions_by_k(runs: RunSet) -> "pandas.DataFrame":
    """Validation bits per word of every run's best epoch: columns entry, K, network, rule, seed,
    value.
    """
    import pandas

    rows = []
    for entry in runs.entries:
        network, k = entry.split("-k")
        named = {
            "entry": entry,
            "K": int(k),
            "network": network.replace("rnn", "RNN"),
            "rule": runs.rule(entry),
        }
        rows += [
            {**named, "seed": s, "value": v}
            for s, v in best(runs, entry, "validation_bits").items()
        ]
    table = pandas.DataFrame(rows, columns=["entry", "K", "network", "rule", "seed", "value"])
    return table.sort_values("K", kind="stable", ignore_index=True)
