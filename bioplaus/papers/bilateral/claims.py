"""The published claims C1 to C6 of the bilateral paper, and the controls that it lacks.

A claim compares two entries of one experiment, seed by seed, in differences of accuracies: the
published numbers are of one run on CIFAR-100, without a spread, and stand in the notes elsewhere.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch

from bioplaus.analysis import claims as making
from bioplaus.analysis import published
from bioplaus.analysis.claims import Claim
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.published import Published
from bioplaus.papers.bilateral.tables import (
    COARSE,
    COPIES,
    FINE,
    FROM_FINE,
    conditional,
    differences,
    finals,
    published_accuracies,
    published_conditional,
)

ONE_RUN = "one run, CIFAR-100, 2022 form"
ORDERING = "published as an ordering only"
CONTROLS = ("two-fine", "two-coarse", "specialists", "both-long", "specialised-drift")
NEEDED = {"specialised", "fine", "coarse", "both", "joint", "ensemble"}
CAUTION_JOINED = (
    "Caution: coarse label read off the fine prediction of bilateral specialised, above its coarse"
    " head"
)
CAUTION_ALONE = (
    "Caution: coarse label read off the left hemisphere's fine prediction, above the right one's"
)
OUTCOME_CLAIMS = (  # entry, label, fraction that is claimed to be above the other one
    (
        "C5-fine",
        "C5: the joined fine head corrects the left hemisphere more often where the right one is"
        " right",
        "joined_fine_given_fine_wrong_coarse_right",
        "joined_fine_given_both_wrong",
    ),
    (
        "C5-coarse",
        "C5: the joined coarse head corrects the right hemisphere more often where the left one is"
        " right",
        "joined_coarse_given_coarse_wrong_fine_right",
        "joined_coarse_given_both_wrong",
    ),
    (
        "C6",
        "C6: the joined network's two predictions agree more often than the separate hemispheres'",
        "consistency_joined",
        "consistency_separate",
    ),
)


def accuracies(runs: RunSet) -> list[Claim]:
    """Test accuracies of every entry that is not a mere part of another.

    What was published is shown beside where the data set is CIFAR-100, and stands in the note
    elsewhere.
    """
    values, known, rows = finals(runs), published_accuracies(), []
    for entry in (entry for entry in runs.entries if entry not in COPIES):
        run = runs.first_run(entry)
        heads = run.parameters.get("config", {}).get("heads", "both")
        members = run.parameters.get("members")
        axis, x = f"{run.parameters.get('report', 'best')} epoch of", run.parameters["n_epochs"]
        if members:
            axis, x = "trained networks:", len(members)
        for metric in (FINE, FROM_FINE, COARSE):
            if heads == ("fine" if metric == COARSE else "coarse"):
                continue
            mean, note, number = known.get((entry, metric)), "", None
            if mean is not None and run.parameters["dataset"] == "cifar100":
                number = Published(mean, math.nan, 1, ONE_RUN)
            elif mean is not None:
                note = f"published {mean:.4f} ({ONE_RUN})"
            ours = values[(values.entry == entry) & (values.metric == metric)].value.tolist()
            rows.append(making.value(runs, entry, metric, axis, x, ours, number, note=note))
    return rows


def claims(runs: RunSet) -> list[Claim]:
    """The published claims and the controls, judged together; none where the experiment lacks one
    of the networks that they compare.
    """
    return making.judged(_claims(runs)) if NEEDED <= set(runs.entries) else []


def _claims(runs: RunSet) -> Iterator[Claim]:
    values, known = finals(runs), published_accuracies()

    def above(
        name: str,
        first: str,
        second: str,
        metrics: tuple[str, ...] = (FINE, COARSE),
        note: str = "",
    ) -> Iterator[Claim]:
        """That one network is above another, a claim for each metric."""
        label = f"{name}: {runs.label(first)} above {runs.label(second)}"
        for metric in metrics:
            pair = (first, metric), (second, metric)
            notes = "; ".join(filter(None, [_published_gap(known, *pair), note]))
            yield making.ordering(
                runs,
                f"{name}-{metric}",
                metric,
                differences(values, *pair),
                label=label,
                note=notes,
            )

    yield from above("C1", "specialised", "fine", (FINE,))
    yield from above("C1", "specialised", "coarse", (COARSE,))
    yield from above("C2", "specialised", "both", note=ORDERING)
    yield from above("C2", "specialised", "joint", note=ORDERING)
    note = "published: not beaten, often best"
    yield from above("C3", "ensemble", "specialised", note=note)
    yield from _outcome_claims(runs)
    for control in CONTROLS:
        if control in runs.entries:
            note = "no such control in the paper"
            yield from above("Control", "specialised", control, note=note)
    for entry, label, first, second in (
        (f"{CAUTION_JOINED}-{FROM_FINE}", CAUTION_JOINED, "specialised", "specialised"),
        ("caution-alone", CAUTION_ALONE, "fine", "coarse"),
    ):
        pair = (first, FROM_FINE), (second, COARSE)
        gaps, note = differences(values, *pair), _published_gap(known, *pair)
        yield making.ordering(runs, entry, FROM_FINE, gaps, label=label, note=note)


def _published_gap(
    known: dict[tuple[str, str], float], first: tuple[str, str], second: tuple[str, str]
) -> str:
    """The published difference in words; empty where one of the two was not published."""
    if first not in known or second not in known:
        return ""
    return f"published {known[first] - known[second]:+.4f} ({ONE_RUN})"


def _outcome_claims(runs: RunSet) -> Iterator[Claim]:
    """C5 and C6, from predictions image by image."""
    table, known = conditional(runs), published_conditional()
    values = table.rename(columns={"name": "entry"}).dropna(subset=["value"]).assign(metric="")
    for entry, label, first, second in OUTCOME_CLAIMS:
        note = f"published {known[first]:.3f} against {known[second]:.3f} ({ONE_RUN})"
        gaps, metric = differences(values, (first, ""), (second, "")), "fraction_of_test_images"
        yield making.ordering(runs, entry, metric, gaps, label=label, note=note)


def parameter_claims(runs: RunSet) -> list[Claim]:
    """The published numbers of parameters, running statistics included, and ours at published
    widths, in millions.
    """
    table = published.values("bilateral")
    known = table[table.metric == "parameters"].set_index("model").value
    return [
        making.count(
            runs, model, "parameters_in_millions", count / 1e6, known[model] / 1e6, note=note
        )
        for model, (count, note) in _counts().items()
    ]


def _counts() -> dict[str, tuple[int, str]]:
    """Published name of a network -> our number of parameters, and what it contains."""
    sparse, inverted = ({"backbone": name} for name in ("sparse_resnet9", "sparse_invresnet9"))
    regular = {**sparse, "widths": [64, 128, 256, 512]}
    fine_head, coarse_head = 512 * 100 + 100, 512 * 20 + 20
    left = _count(left=sparse, heads="fine")
    # of one hemisphere, left over in the published joined network
    joined = _count(left=sparse, right={}) + fine_head + coarse_head
    return {
        "bilateral (2022 form) incl. BatchNorm buffers": (joined, "with the unused heads"),
        "fine hemisphere + head (sparse_resnet9) incl. buffers": (left, ""),
        "coarse hemisphere + head (sparse_resnet9) incl. buffers": (
            _count(left=sparse, heads="coarse"),
            "",
        ),
        "hemisphere features only incl. buffers": (left - fine_head, ""),
        "fine inverted-width hemisphere + head incl. buffers": (
            _count(left=inverted, heads="fine"),
            "",
        ),
        "unilateral resnet18 two heads incl. buffers": (_count(left={"backbone": "resnet18"}), ""),
        "unilateral resnet34 two heads incl. buffers": (_count(left={"backbone": "resnet34"}), ""),
        "bilateral with asymmetric widths (regular coarse + inverted fine) incl. buffers": (
            _count(left=inverted, right=regular),
            "",
        ),
    }


def _count(**config: Any) -> int:
    """Parameters and running statistics of a network of the published rule, built without data."""
    from bioplaus.nets.backbones import parameter_count
    from bioplaus.rules import hemispheric_bp

    with torch.device("meta"):
        rule = hemispheric_bp.Rule(hemispheric_bp.Config(**config), torch.Generator())
    return parameter_count(rule.net, buffers=True)
