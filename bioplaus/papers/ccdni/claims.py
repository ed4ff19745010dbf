"""The testable statements C1 to C13 of the cerebro-cerebellar papers and of their repository,
judged by code.

A statement that does not hold is shown as such, and one that was not run as "not run".
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from bioplaus.analysis import published
from bioplaus.analysis.experiment import Analysis
from bioplaus.papers.ccdni import caption_scores
from bioplaus.papers.ccdni.measures import (
    MIN_SEEDS,
    PAPER,
    TASKS,
    Paired,
    area,
    at_epoch,
    best,
    caption_groups,
    horizon,
    paired,
    record_2019,
    reference_areas,
    tested,
    truncations,
    values,
)

LEVEL = 0.05  # of the two-sided paired t-tests


def judge(experiments: Mapping[str, Analysis]) -> list[dict[str, Any]]:
    """Every claim with our numbers and its verdict, as rows for `tables.save`.

    "ours" is the mean over seeds of the difference that the claim says is above zero, +- its sample
    standard deviation. A claim "holds" if the mean is above zero and the two-sided paired t-test
    gives p < 0.05. A claim that there is no difference "holds" if the test of at least `MIN_SEEDS`
    seeds finds none.

    Parameters
    ----------
    experiments : as `cerebellum.load` gives them.
    """
    judges = (_c1, _c2_to_c4, _c5, _c6, _c7, _c8, _c9, _c10, _c11, _c12, _c13)
    return [row for claim in judges for row in claim(experiments)]


def areas(found: Analysis) -> list[dict[str, Any]]:
    """Area under the training error of every entry of a linedraw experiment beside that of the
    published engine.

    The engine was run for this project with two or three seeds, too few for a spread to hold ours
    against: the verdict is that of Welch's t-test between its seeds and ours.
    """
    from scipy import stats

    rows = []
    for entry in found.entries:
        run = next(run for run in found.runs if run.entry == entry)
        seen = reference_areas(found, entry)
        sd = float(np.std(seen, ddof=1)) if len(seen) > 1 else math.nan
        theirs = published.Published(float(np.mean(seen)), sd, len(seen)) if seen else None
        here = list(area(found, entry).values())
        compared = published.compare(here, theirs, digits=2)
        grade = compared.grade
        if len(here) > 1 and len(seen) > 1:
            p = float(stats.ttest_ind(here, seen, equal_var=False).pvalue)
            words, grade = (
                ("differs", "outside") if p < LEVEL else ("no difference found", "within")
            )
            compared = dataclasses.replace(
                compared, k=None, chance=None, verdict=f"{words}, p = {p:.2g}"
            )
        about = {
            "paper": PAPER,
            "experiment": found.experiment,
            "entry": entry,
            "label": found.label(entry),
        }
        about |= {
            "metric": "area_under_training_error",
            "axis": "K",
            "x": run.parameters["config"]["n_truncation"],
        }
        rows.append({**about, **vars(compared), "grade": grade})
    return rows


def _row(
    found: Analysis,
    number: str,
    statement: str,
    k: int,
    difference: Paired | None,
    *,
    theirs: float | None = None,
    verdict: tuple[str, str] | None = None,
    note: str = "",
    axis: str = "K",
) -> dict[str, Any]:
    text, grade = verdict or _verdict(difference)
    return {
        "paper": PAPER,
        "experiment": found.experiment,
        "entry": number,
        "label": number,
        "metric": statement,
        "axis": axis,
        "x": k,
        "published": theirs,
        "published_sd": None,
        "published_n": None,
        "ours": difference.mean if difference else None,
        "ours_sd": difference.sd if difference else None,
        "n": difference.n if difference else 0,
        "difference": None if theirs is None or difference is None else difference.mean - theirs,
        "k": None,
        "chance": None,
        "verdict": text,
        "note": note,
        "grade": grade,
    }


def _verdict(difference: Paired | None) -> tuple[str, str]:
    if difference is None:
        return published.NOT_RUN, "not-run"
    if math.isnan(difference.p):
        seen = "seen" if difference.mean > 0 else "not seen"
        return f"{seen} in {difference.n} seed{'s' * (difference.n > 1)}, no test", "open"
    if difference.p < LEVEL:
        return (
            (f"holds, p = {difference.p:.2g}", "within")
            if difference.mean > 0
            else (f"does not hold: the opposite, p = {difference.p:.2g}", "outside")
        )
    towards = "as claimed" if difference.mean > 0 else "the other way"
    return f"not significant, p = {difference.p:.2g} ({towards} on average)", "open"


def _statement(text: str, difference: Paired | None, holds: bool) -> tuple[str, str] | None:
    """A verdict on a statement about means, without a test of its own."""
    if difference is None:
        return None
    return (f"holds: {text}", "within") if holds else (f"does not hold: {text}", "outside")


def _no_difference(difference: Paired | None) -> tuple[str, str] | None:
    """A verdict on a statement that there is no significant difference."""
    if difference is None:
        return None
    if math.isnan(difference.p):
        return f"{difference.n} seed{'s' * (difference.n > 1)}, no test", "open"
    if difference.p < LEVEL:
        return f"does not hold: a difference, p = {difference.p:.2g}", "outside"
    if difference.n < MIN_SEEDS:
        return (
            f"no difference found, p = {difference.p:.2g}, by {difference.n} seeds: too few to say",
            "open",
        )
    return f"holds: no significant difference, p = {difference.p:.2g}", "within"


def _gap(
    found: Analysis, k: int, value: str, sign: int = 1, *, last: str = "ccrnn"
) -> Paired | None:
    """cRNN - ccRNN of a value that should be lower (sign 1), or ccRNN - cRNN of one that should be
    higher (-1).
    """
    a, b = (values(found, f"{name}-k{k}", value) for name in ("crnn", last))
    return paired(a, b) if sign > 0 else paired(b, a)


def _means(values: Iterable[Mapping[int, float]]) -> list[float]:
    return [float(np.mean(list(v.values()))) if v else math.nan for v in values]


def _c1(e: Mapping[str, Analysis]) -> Iterator[dict[str, Any]]:
    found = e["linedraw"]
    yield _row(
        found,
        "C1",
        "simple line drawing: area under training error, cRNN - ccRNN",
        1,
        _gap(found, 1, "area"),
    )
    two = _gap(found, 1, "area", last="ccrnn2")
    yield _row(found, "C1, 2 layers", "the same with two hidden synthesiser layers", 1, two)
    full, with_one = area(found, "bptt"), area(found, "ccrnn-k1")
    gap = paired(with_one, full)
    yield _row(found, "C1, full BPTT lowest", "area, ccRNN - full BPTT", 1, gap)


def _c2_to_c4(e: Mapping[str, Analysis]) -> Iterator[dict[str, Any]]:
    plan = (
        ("C2", "draw-line", "mse"),
        ("C3", "draw-digit", "mse"),
        ("C4", "discrimination", "nll"),
    )
    for number, name, metric in plan:
        found = e[name]
        for part, word in (("train", "training"), ("val", "validation")):
            what = f"{_name(found)}: {word} {metric.upper()} after the last epoch, cRNN - ccRNN"
            yield _row(found, number, what, 3, _gap(found, 3, f"{part}_{metric}"))
    gap = _gap(e["discrimination"], 3, "val_accuracy", -1)
    yield _row(
        e["discrimination"], "C4", "discrimination: validation accuracy, ccRNN - cRNN", 3, gap
    )


def _c5(e: Mapping[str, Analysis]) -> Iterator[dict[str, Any]]:
    measures = {
        "linedraw": "area",
        "draw-line": "val_mse",
        "draw-digit": "val_mse",
        "discrimination": "val_nll",
    }
    p_published = {"draw-line": 0.921, "draw-digit": 0.567}
    for name, value in measures.items():
        found, table = e[name], horizon(e[name], value)
        if len(table) < 2:
            yield _row(found, "C5", f"{_name(found)}: the advantage shrinks with K", 1, None)
            continue
        low, high = table.iloc[0], table.iloc[-1]
        change = _ratio_change(found, value, int(low.K), int(high.K))
        what = (
            f"{_name(found)}: error ratio ccRNN / cRNN at K = {int(high.K)} minus that at K ="
            f" {int(low.K)}"
        )
        yield _row(found, "C5", what, int(high.K), change)
        if name in p_published and not table.p.isna().all():
            k = int(table.K[table.p.idxmax()])
            note = (
                f"published: p = {p_published[name]} at one horizon, ten seeds; here: the one with"
                " the largest p"
            )
            gap, what = (
                _gap(found, k, value),
                f"{_name(found)}: no difference at one horizon, cRNN - ccRNN",
            )
            yield _row(found, "C5", what, k, gap, verdict=_no_difference(gap), note=note)


def _ratio_change(found: Analysis, value: str, low: int, high: int) -> Paired | None:
    def ratios(k: int) -> dict[int, float]:
        a, b = (values(found, f"{name}-k{k}", value) for name in ("crnn", "ccrnn"))
        return {s: b[s] / a[s] for s in a.keys() & b.keys()}

    return paired(ratios(high), ratios(low))


def _c6(e: Mapping[str, Analysis]) -> Iterator[dict[str, Any]]:
    for name in ("draw-line", "draw-digit"):
        found = e[name]
        parts = [at_epoch(found, entry, "train_mse") for entry in ("crnn-k3", "ccrnn-k3", "bptt")]
        gap = paired(parts[1], parts[2])
        yield _row(found, "C6", f"{_name(found)}: training MSE, ccRNN at K = 3 - full BPTT", 3, gap)
        cortex, both, full = _means(parts)
        between = _statement(
            f"{full:.3g} (BPTT), {both:.3g} (ccRNN), {cortex:.3g} (cRNN)", gap, full < both < cortex
        )
        yield _row(
            found,
            "C6",
            f"{_name(found)}: ccRNN lies between full BPTT and cRNN",
            3,
            gap,
            verdict=between,
        )


def _c7(e: Mapping[str, Analysis]) -> Iterator[dict[str, Any]]:
    for name, k in (("linedraw", 1), ("draw-line", 3), ("draw-digit", 3)):
        what = f"{_name(e[name])}: dysmetria at test, cRNN - ccRNN"
        yield _row(e[name], "C7", what, k, _gap(e[name], k, "test_dysmetria"))
    gap = _gap(e["discrimination"], 3, "test_certainty", -1)
    yield _row(e["discrimination"], "C7", "discrimination: certainty at test, ccRNN - cRNN", 3, gap)


def _c8(e: Mapping[str, Analysis]) -> Iterator[dict[str, Any]]:
    found = e["captions"]
    gap = paired(best(found, "crnn-k4", "val_bits"), best(found, "ccrnn-k4", "val_bits"))
    yield _row(
        found, "C8", "captions: validation bits per word of the best epoch, cRNN - ccRNN", 4, gap
    )


def _c9(e: Mapping[str, Analysis]) -> Iterator[dict[str, Any]]:
    found = e["captions"]
    for k in truncations(found):
        gap = paired(best(found, f"crnn-k{k}", "val_bits"), best(found, f"ccrnn-k{k}", "val_bits"))
        if k == 4 or gap is None:
            continue
        note = (
            "published: none at 40 % (p = 0.891) and 45 % (p = 0.116) of the caption; which K these"
            " are is not known"
        )
        what = "captions: no difference in validation bits per word, cRNN - ccRNN"
        yield _row(found, "C9", what, k, gap, verdict=_no_difference(gap), note=note)


def _c10(e: Mapping[str, Analysis]) -> Iterator[dict[str, Any]]:
    found = e["captions"]
    table = caption_groups(found)
    p_published = {"short": 0.075, "medium": 0.189}
    for group in caption_scores.LENGTHS:
        part = table[(table.group == group) & (table.K == 4)]
        cortex, both = (
            dict(zip(rows.seed, rows.value, strict=True))
            for rows in (part[part.network == "cRNN"], part[part.network == "ccRNN"])
        )
        gap = paired(both, cortex)
        what = f"captions: CIDEr of {group} captions, ccRNN - cRNN"
        if group in p_published:
            note = f"published: not significant, p = {p_published[group]}"
            yield _row(
                found,
                "C10",
                f"no difference in {what}",
                4,
                gap,
                verdict=_no_difference(gap),
                note=note,
            )
        else:
            yield _row(found, "C10", what, 4, gap)


def _c11(e: Mapping[str, Analysis]) -> Iterator[dict[str, Any]]:
    found, intact = e["linedraw-lesions"], e["linedraw"]
    cerebellum, olive = (
        at_epoch(found, f"{name}-20", "train_mse") for name in ("cerebellum", "olive")
    )
    gap = paired(olive, cerebellum)
    what = "simple line drawing: training MSE after the last epoch"
    yield _row(found, "C11", f"{what}, inferior olive lesion - cerebellar lesion", 1, gap)
    healthy = at_epoch(intact, "ccrnn-k1", "train_mse")
    for name, lesioned in (("cerebellar", cerebellum), ("inferior olive", olive)):
        yield _row(found, "C11", f"{what}, {name} lesion - intact", 1, paired(lesioned, healthy))


def _c12(e: Mapping[str, Analysis]) -> Iterator[dict[str, Any]]:
    found = e["discrimination"]
    accuracies = {
        (k, model): (epoch, value) for k, model, epoch, value in record_2019("validation accuracy")
    }
    theirs, ours, note = {}, {}, "published: cell and size not recorded"
    for k in sorted({k for k, _ in accuracies}):
        (epoch, vanilla), (_, dni) = accuracies[k, "Vanilla"], accuracies[k, "DNI"]
        both, cortex = (
            at_epoch(found, f"{name}-k{k}", "val_accuracy", epoch) for name in ("ccrnn", "crnn")
        )
        if found.about["datasets"] != ["mnist"]:  # epochs of another data set are no counterpart
            both, cortex = {}, {}
        theirs[k], ours[k] = (
            dni - vanilla,
            {seed: both[seed] - cortex[seed] for seed in both.keys() & cortex.keys()},
        )
        what = f"discrimination: validation accuracy after {epoch} epochs, ccRNN - cRNN"
        yield _row(found, "C12", what, k, paired(both, cortex), theirs=theirs[k], note=note)
    short, long = min(ours), max(ours)
    what = f"discrimination: that gap at K = {short} minus the one at K = {long}"
    change = paired(ours[short], ours[long])
    yield _row(found, "C12", what, long, change, theirs=theirs[short] - theirs[long], note=note)


def _c13(e: Mapping[str, Analysis]) -> Iterator[dict[str, Any]]:
    found = e["discrimination-record"]
    table = published.values(PAPER)
    rows = table[(table.figure_or_table == "sims/seq-mnist/test")].set_index("metric").value
    names = (
        {
            "validation NLL epoch 1": at_epoch(found, "ccrnn", "val_nll", 1),
            "validation accuracy epoch 1": at_epoch(found, "ccrnn", "val_accuracy", 1),
            "train NLL epoch 1": at_epoch(found, "ccrnn", "train_nll", 1),
            "test accuracy": tested(found, "ccrnn", "test_accuracy"),
            "test NLL": tested(found, "ccrnn", "test_nll"),
        }
        if found.runs
        else {}
    )
    for name in rows.index:
        ours, theirs = list(names.get(name, {}).values()), float(rows[name])
        compared = None
        verdict = None
        if ours:
            sd = float(np.std(ours, ddof=1)) if len(ours) > 1 else math.nan
            compared = Paired(float(np.mean(ours)), sd, len(ours), math.nan)
            k = abs(compared.mean - theirs) / sd if sd > 0 else math.nan
            fits = "within" if k <= published.LIMIT else "outside"
            verdict = (
                f"{fits} {published.LIMIT:g} of our own sd ({k:.1f})" if k == k else "one seed",
                "open",
            )
        what = f"discrimination, K = 3, 50 units: {name.removesuffix(' epoch 1')}"
        note = "published: one seed, no spread"
        yield _row(
            found, "C13", what, 1, compared, theirs=theirs, verdict=verdict, axis="epoch", note=note
        )


def _name(found: Analysis) -> str:
    return TASKS.get(found.experiment, found.experiment)
