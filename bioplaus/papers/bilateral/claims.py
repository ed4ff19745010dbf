"""From runs of the bilateral experiments to tidy tables: accuracies, outcomes, claims with
verdicts.

A claim here compares two entries of one experiment, not a number with a published one: the
published numbers are single runs on CIFAR-100. Its unit is the difference of two accuracies of the
same seed; it *holds* where the 95 % confidence interval of the mean difference over seeds
(Student's t) lies on the claimed side of 0, is *contradicted* where it lies on the other side, and
is *undecided* otherwise.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bioplaus import results
from bioplaus.analysis import published
from bioplaus.analysis.experiment import Analysis
from bioplaus.papers.bilateral import measures as hemisphere_analysis

if TYPE_CHECKING:
    import pandas

COPIES = ("fine-2", "coarse-2", "both-2")  # second networks of a kind: only parts of others
FINE, COARSE = "test_fine_accuracy", "test_coarse_accuracy"
FROM_FINE, CONSISTENCY = "test_coarse_from_fine_accuracy", "test_consistency"


def finals(found: Analysis, *, copies: bool = False) -> "pandas.DataFrame":
    """What each run that is done reports, one row a run and metric: entry, label, seed, metric,
    value.

    Parameters
    ----------
    copies : keep the second networks that are only parts of others.
    """
    import pandas

    rows = [
        {
            "entry": run["entry"],
            "label": found.label(run["entry"]),
            "seed": run["seed"],
            "metric": name,
            "value": value,
        }
        for run, record in _done(found)
        if copies or run["entry"] not in COPIES
        for name, value in record["final"].items()
        if name.startswith(("test_", "validation_"))
    ]
    return pandas.DataFrame(rows, columns=["entry", "label", "seed", "metric", "value"])


def summary(values: "pandas.DataFrame", metrics: Iterable[str]) -> "pandas.DataFrame":
    """Mean over seeds with its 95 % confidence interval: entry, label, metric, mean, low, high, n,
    in entry order.
    """
    import pandas

    rows = []
    for (entry, label, metric), group in values.groupby(["entry", "label", "metric"], sort=False):
        if metric in metrics:
            mean, half = interval(group.value)
            about = {"entry": entry, "label": label, "metric": metric}
            rows.append(
                {**about, "mean": mean, "low": mean - half, "high": mean + half, "n": len(group)}
            )
    return pandas.DataFrame(rows, columns=["entry", "label", "metric", "mean", "low", "high", "n"])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % confidence interval (Student's t; NaN for one value)."""
    from scipy import stats

    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()) if len(values) else math.nan, math.nan
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(half)


def paired(
    values: "pandas.DataFrame", first: tuple[str, str], second: tuple[str, str]
) -> np.ndarray:
    """Differences, seed by seed, of (entry, metric) `first` minus `second`, over the seeds that
    both have.
    """
    a, b = (
        values[(values.entry == entry) & (values.metric == metric)].set_index("seed").value
        for entry, metric in (first, second)
    )
    common = sorted(set(a.index) & set(b.index))
    return (a.loc[common] - b.loc[common]).to_numpy(float)


def by_seed(found: Analysis, *entries: str) -> dict[int, list[dict[str, Any]]]:
    """The records of `entries` for every seed for which all of them are done."""
    records = {(run["entry"], run["seed"]): record for run, record in _done(found)}
    seeds = sorted({seed for _, seed in records})
    return {
        s: [records[e, s] for e in entries]
        for s in seeds
        if all((e, s) in records for e in entries)
    }


def outcome_table(found: Analysis) -> "pandas.DataFrame":
    """Images by outcome: seed, then a column for each of `hemisphere_analysis.OUTCOMES`; images
    matched by place.
    """
    import pandas

    rows = []
    for seed, records in by_seed(found, "fine", "coarse", "specialised").items():
        fine, coarse, joined = (record["predictions"] for record in records)
        label = records[0]["labels"].astype(int)
        superclass = np.asarray(records[0]["coarse_of"])[label]
        right = (
            fine["fine"] == label,
            coarse["coarse"] == superclass,
            joined["fine"] == label,
            joined["coarse"] == superclass,
        )
        index = hemisphere_analysis.outcomes(*map(torch.from_numpy, right))
        counts = np.bincount(index.numpy(), minlength=len(hemisphere_analysis.OUTCOMES)).tolist()
        rows.append({"seed": seed, **dict(zip(hemisphere_analysis.OUTCOMES, counts, strict=True))})
    return pandas.DataFrame(rows, columns=["seed", *hemisphere_analysis.OUTCOMES])


def conditional(found: Analysis) -> "pandas.DataFrame":
    """How often the joined network is right given which hemisphere was, and consistency: name,
    seed, value, published.

    `published` is of one run on CIFAR-100; NaN where nothing was published.
    """
    import pandas

    rows = []
    for counts in outcome_table(found).to_dict("records"):
        seed = counts.pop("seed")
        found_here = hemisphere_analysis.complementarity(list(counts.values()))
        rows += [{"name": name, "seed": seed, "value": value} for name, value in found_here.items()]
    for seed, (fine, coarse, joined) in by_seed(found, "fine", "coarse", "specialised").items():
        superclass = np.asarray(fine["coarse_of"])
        separate = (
            superclass[fine["predictions"]["fine"]] == coarse["predictions"]["coarse"]
        ).mean()
        rows.append({"name": "consistency_separate", "seed": seed, "value": separate})
        rows.append(
            {"name": "consistency_joined", "seed": seed, "value": joined["final"][CONSISTENCY]}
        )
    theirs = published_conditional()
    table = pandas.DataFrame(rows, columns=["name", "seed", "value"])
    return table.assign(published=table.name.map(theirs).astype(float))


_PUBLISHED = {  # metric in the published file -> ours
    "P(fine head right | fine hemisphere alone wrong)": "joined_fine_given_fine_wrong",
    "P(fine head right | fine hemisphere alone right)": "joined_fine_given_fine_right",
    "P(fine head right | fine hemi wrong and coarse hemi right)": (
        "joined_fine_given_fine_wrong_coarse_right"
    ),
    "P(fine head right | both hemis wrong)": "joined_fine_given_both_wrong",
    "P(coarse head right | coarse hemi wrong and fine hemi right)": (
        "joined_coarse_given_coarse_wrong_fine_right"
    ),
    "P(coarse head right | both hemis wrong)": "joined_coarse_given_both_wrong",
}


def published_conditional() -> dict[str, float]:
    """The published conditional fractions by our names."""
    table = published.values("bilateral")
    found = {
        _PUBLISHED[m]: float(v)
        for m, v in zip(table.metric, table.value, strict=True)
        if m in _PUBLISHED
    }
    inside = table[table.metric == "P(fine prediction lies inside coarse prediction)"]
    for model, value in zip(inside.model, inside.value, strict=True):
        found["consistency_separate" if "separate" in model else "consistency_joined"] = float(
            value
        )
    return found


def published_accuracies() -> dict[tuple[str, str], float]:
    """The published accuracies of the 2022 form (one run, CIFAR-100) by (entry, metric)."""
    table = published.values("bilateral")
    rows = table[table.figure_or_table == "per-image results file"]
    metrics = {"test_acc_fine": FINE, "test_acc_coarse": COARSE}
    found = {}
    for model, metric, value in zip(rows.model, rows.metric, rows.value, strict=True):
        entry = next((e for start, e in _MODELS.items() if model.startswith(start)), None)
        if entry and metric in metrics:
            found[entry, FROM_FINE if "read off" in model else metrics[metric]] = float(value)
    return found


_MODELS = {"fine hemisphere": "fine", "coarse hemisphere": "coarse", "bilateral": "specialised"}


def accuracies(found: Analysis) -> list[dict[str, Any]]:
    """Test accuracies of every entry that is not a mere part of another, in the form of
    `tables.save`.

    What was published (one run of the 2022 form, on CIFAR-100) is compared where the data set is
    CIFAR-100, and stands in the note elsewhere.
    """
    values, theirs = finals(found), published_accuracies()
    rows = []
    for entry in (entry for entry in found.entries if entry not in COPIES):
        run = next(run for run in found.runs if run.entry == entry)
        heads = run.parameters.get("config", {}).get("heads", "both")
        for metric in (FINE, FROM_FINE, COARSE):
            if heads == ("coarse" if metric in (FINE, FROM_FINE) else "fine"):
                continue
            number = theirs.get((entry, metric))
            note = "one run, CIFAR-100, 2022 form"
            is_alike = number is not None and run.parameters["dataset"] == "cifar100"
            compared = published.compare(
                values[(values.entry == entry) & (values.metric == metric)].value.tolist(),
                published.Published(number, math.nan, 1, note) if is_alike else None,
            )
            said = vars(compared) | (
                {"note": f"published {number:.4f} ({note})"} if number and not is_alike else {}
            )
            about = {
                "paper": found.paper,
                "experiment": found.experiment,
                "entry": entry,
                "label": found.label(entry),
            }
            members = run.parameters.get("members")
            axis, x = (
                ("trained networks:", len(members))
                if members
                else (
                    f"{run.parameters.get('report', 'best')} epoch of",
                    run.parameters["n_epochs"],
                )
            )
            rows.append(
                {**about, "metric": metric, "axis": axis, "x": x, **said, "grade": compared.grade}
            )
    return rows


def claim(
    found: Analysis,
    name: str,
    label: str,
    differences: Sequence[float],
    *,
    metric: str,
    is_strict: bool = True,
    note: str = "",
) -> dict[str, Any]:
    """A claim that differences of the same seed are above 0, in the form that tables and the report
    page show.

    Parameters
    ----------
    name : unique within the table.
    is_strict : False for "not below 0": an undecided difference then does not speak against it.
    """
    n = len(differences)
    mean, half = interval(differences)
    text = f"{mean:+.4f}" + (
        f" [{mean - half:+.4f}, {mean + half:+.4f}]" if n > 1 else " (one seed)"
    )
    if n == 0:
        verdict, grade = published.NOT_RUN, "not-run"
    elif n == 1:
        verdict, grade = f"undecided: {text}", "open"
    elif mean - half > 0:
        verdict, grade = f"holds: {text}", "within"
    elif mean + half < 0:
        verdict, grade = f"contradicted: {text}", "outside"
    else:
        verdict, grade = f"{'undecided' if is_strict else 'not contradicted'}: {text}", "open"
    spread = float(np.std(differences, ddof=1)) if n > 1 else None
    return {
        "paper": found.paper, "experiment": found.experiment, "entry": name, "label": label, "metric": metric,
        "axis": "seeds", "x": n, "published": None, "published_sd": None, "published_n": None,
        "ours": mean if n else None, "ours_sd": spread, "n": n, "difference": None, "k": None, "chance": None,
        "verdict": verdict, "note": note, "grade": grade,
    }  # fmt: skip


def claims(found: Analysis) -> list[dict[str, Any]]:
    """The published claims C1 to C6 and the controls that the paper lacks, each with its verdict at
    this preset.
    """
    values = finals(found)
    theirs = published_accuracies()

    def compare(
        name: str, first: str, second: str, metric: str = "", second_metric: str = "", **how: Any
    ) -> None:
        for one in (metric,) if metric else (FINE, COARSE):
            other = second_metric or one
            gap = theirs.get((first, one), math.nan) - theirs.get((second, other), math.nan)
            said = (
                [f"published {gap:+.4f} (one run, CIFAR-100, 2022 form)"]
                if math.isfinite(gap)
                else []
            )
            differences = paired(values, (first, one), (second, other))
            note = "; ".join([*said, *([how["note"]] if how.get("note") else [])])
            label = (
                f"{name}: {found.label(first)} above {found.label(second)}"
                if first != second
                else name
            )
            rows.append(
                claim(
                    found,
                    f"{name}-{one}",
                    label,
                    differences,
                    **{**how, "metric": one, "note": note},
                )
            )

    rows: list[dict[str, Any]] = []
    known = set(found.entries)
    if not {"specialised", "fine", "coarse", "both", "joint", "ensemble"} <= known:
        return rows
    compare("C1", "specialised", "fine", FINE)
    compare("C1", "specialised", "coarse", COARSE)
    compare("C2", "specialised", "both", note="published as an ordering only")
    compare("C2", "specialised", "joint", note="published as an ordering only")
    compare(
        "C3", "ensemble", "specialised", is_strict=False, note="published: not beaten, often best"
    )
    rows += _outcome_claims(found)
    for control in ("two-fine", "two-coarse", "specialists", "both-long", "specialised-drift"):
        if control in known:
            compare("Control", "specialised", control, note="no such control in the paper")
    label = (
        "Caution: coarse label read off the fine prediction of bilateral specialised, above its"
        " coarse head"
    )
    compare(label, "specialised", "specialised", FROM_FINE, COARSE)
    label = (
        "Caution: coarse label read off the left hemisphere's fine prediction, above the right"
        " one's"
    )
    differences = paired(values, ("fine", FROM_FINE), ("coarse", COARSE))
    gap = theirs["fine", FROM_FINE] - theirs["coarse", COARSE]
    note = f"published {gap:+.4f} (one run, CIFAR-100, 2022 form)"
    return [*rows, claim(found, "caution-alone", label, differences, metric=FROM_FINE, note=note)]


def _outcome_claims(found: Analysis) -> list[dict[str, Any]]:
    """C5 and C6, from predictions image by image."""
    table, theirs = conditional(found), published_conditional()
    rows = []
    for name, label, first, second in (
        ("C5-fine", "C5: the joined fine head corrects the left hemisphere more often where the right one is right",
         "joined_fine_given_fine_wrong_coarse_right", "joined_fine_given_both_wrong"),
        ("C5-coarse", "C5: the joined coarse head corrects the right hemisphere more often where the left one is right",
         "joined_coarse_given_coarse_wrong_fine_right", "joined_coarse_given_both_wrong"),
        ("C6", "C6: the joined network's two predictions agree more often than the separate hemispheres'",
         "consistency_joined", "consistency_separate"),
    ):  # fmt: skip
        a, b = (
            table[table.name == part].set_index("seed").value.dropna() for part in (first, second)
        )
        common = sorted(set(a.index) & set(b.index))
        note = (
            f"published {theirs[first]:.3f} against {theirs[second]:.3f} (one run, CIFAR-100, 2022"
            " form)"
        )
        differences = (a.loc[common] - b.loc[common]).to_numpy(float)
        rows.append(
            claim(found, name, label, differences, metric="fraction_of_test_images", note=note)
        )
    return rows


def _done(found: Analysis) -> Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(run, record) of the runs that are done, in manifest order."""
    order = {run.id: number for number, run in enumerate(found.runs)}
    done: list[results.Outcome] = [
        o for o in found.outcomes if found.status[o.run["id"]] == "done" and o.record["final"]
    ]
    for outcome in sorted(done, key=lambda o: order[o.run["id"]]):
        yield outcome.run, outcome.record


def parameters(found: Analysis) -> "pandas.DataFrame":
    """Numbers of parameters of every entry that has run: entry, label, total, trainable,
    with_buffers.
    """
    import pandas

    rows = {
        run["entry"]: {
            "entry": run["entry"],
            "label": found.label(run["entry"]),
            **record["parameters"],
        }
        for run, record in _done(found)
    }
    return pandas.DataFrame(
        rows.values(), columns=["entry", "label", "total", "trainable", "with_buffers"]
    )


def parameter_claims(found: Analysis) -> list[dict[str, Any]]:
    """The published numbers of parameters, running statistics included, and ours at published
    widths, in millions.
    """
    sparse, inverted = ({"backbone": name} for name in ("sparse_resnet9", "sparse_invresnet9"))
    one_head = 512 * 100 + 100
    # of one hemisphere, left over in the published joined network
    unused_heads = one_head + 512 * 20 + 20
    ours = {
        "bilateral (2022 form) incl. BatchNorm buffers": (
            _count(left=sparse, right={}) + unused_heads,
            "with the unused heads",
        ),
        "fine hemisphere + head (sparse_resnet9) incl. buffers": (_count(left=sparse, heads="fine"), ""),
        "coarse hemisphere + head (sparse_resnet9) incl. buffers": (_count(left=sparse, heads="coarse"), ""),
        "hemisphere features only incl. buffers": (_count(left=sparse, heads="fine") - one_head, ""),
        "fine inverted-width hemisphere + head incl. buffers": (_count(left=inverted, heads="fine"), ""),
        "unilateral resnet18 two heads incl. buffers": (_count(left={"backbone": "resnet18"}), ""),
        "unilateral resnet34 two heads incl. buffers": (_count(left={"backbone": "resnet34"}), ""),
        "bilateral with asymmetric widths (regular coarse + inverted fine) incl. buffers": (
            _count(left=inverted, right={**sparse, "widths": [64, 128, 256, 512]}), "",
        ),
    }  # fmt: skip
    table = published.values("bilateral")
    theirs = table[table.metric == "parameters"].set_index("model").value
    rows = []
    for model, (count, note) in ours.items():
        gap = count - int(theirs[model])
        verdict, grade = ("equal", "within") if gap == 0 else (f"differs by {gap:+,}", "outside")
        about = {
            "paper": found.paper,
            "experiment": found.experiment,
            "entry": model,
            "label": model,
            "note": note,
        }
        numbers = {
            "published": theirs[model] / 1e6,
            "ours": count / 1e6,
            "difference": gap / 1e6,
            "n": 1,
            "x": 1,
        }
        rest = dict.fromkeys(("published_sd", "published_n", "ours_sd", "k", "chance"))
        words = {
            "metric": "parameters_in_millions",
            "axis": "network",
            "verdict": verdict,
            "grade": grade,
        }
        rows.append({**about, **numbers, **rest, **words})
    return rows


def _count(**config: Any) -> int:
    """Parameters and running statistics of a network of the published rule, built without data."""
    from bioplaus.nets.backbones import parameter_count
    from bioplaus.rules import hemispheric_bp

    with torch.device("meta"):
        rule = hemispheric_bp.Rule(hemispheric_bp.Config(**config), torch.Generator())
    return parameter_count(rule.net, buffers=True)
