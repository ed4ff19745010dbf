"""The testable statements C1 to C13 of the cerebro-cerebellar papers and of their repository.

A statement is an ordering: "ours" is the mean over seeds of the difference that it says is above
zero. All of them are judged together, by the rule of `bioplaus.analysis.verdicts`.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from bioplaus.analysis import claims, published
from bioplaus.analysis.claims import Claim
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.published import Published
from bioplaus.papers.ccdni import caption_scores
from bioplaus.papers.ccdni.measures import (
    PAPER,
    TASKS,
    area,
    at_epoch,
    best,
    differences,
    reference_areas,
    tested,
    truncations,
    values,
)
from bioplaus.papers.ccdni.tables import caption_groups, horizon, record_2019

Experiments = Mapping[str, RunSet]
PORT = "published: runs of a port of the published code"
ONE_STEP_LAST = (
    "28 rows are 9 x 3 + 1, and only the last truncation has a loss: at K = 3 the cRNN learns as at"
    " K = 1"
)


def judge(experiments: Experiments) -> list[Claim]:
    """Every statement with our numbers and its verdict.

    Parameters
    ----------
    experiments : as `measures.load` gives them.
    """
    statements = (_c1, _c2_to_c4, _c5, _c6, _c7, _c8, _c9, _c10, _c11, _c12, _c13)
    return claims.judged(row for statement in statements for row in statement(experiments))


def areas(runs: RunSet) -> list[Claim]:
    """Area under the training error of every entry of a linedraw experiment beside that of the
    published engine, ported and run for this project with two or three seeds.
    """
    rows = []
    for entry in runs.entries:
        reference = reference_areas(runs, entry)
        number = None
        if reference:
            sd = float(np.std(reference, ddof=1)) if len(reference) > 1 else float("nan")
            number = Published(float(np.mean(reference)), sd, len(reference), PORT)
        k = runs.first_run(entry).parameters["config"]["n_truncation"]
        ours = list(area(runs, entry).values())
        rows.append(claims.value(runs, entry, "area_under_training_error", "K", k, ours, number))
    return rows


def _ordering(runs: RunSet, number: str, statement: str, k: int, gap: list[float], **how) -> Claim:
    return claims.ordering(runs, number, statement, gap, label=number, axis="K", x=k, **how)


def _gap(runs: RunSet, k: int, value: str, sign: int = 1, *, last: str = "ccrnn") -> list[float]:
    """cRNN - ccRNN of a value that should be lower (sign 1), or ccRNN - cRNN of one that should be
    higher (-1), seed by seed.
    """
    a, b = (values(runs, f"{name}-k{k}", value) for name in ("crnn", last))
    return differences(a, b) if sign > 0 else differences(b, a)


def _c1(e: Experiments) -> Iterator[Claim]:
    runs = e["linedraw"]
    text = "simple line drawing: area under training error, cRNN - ccRNN"
    note = "one hidden synthesiser layer, chosen after seeing that it holds"
    yield _ordering(runs, "C1", text, 1, _gap(runs, 1, "area"), note=note)
    two = _gap(runs, 1, "area", last="ccrnn2")
    text = "the same with two hidden synthesiser layers"
    yield _ordering(runs, "C1, 2 layers", text, 1, two)
    gap = differences(area(runs, "ccrnn-k1"), area(runs, "bptt"))
    yield _ordering(runs, "C1, full BPTT lowest", "area, ccRNN - full BPTT", 1, gap)


def _c2_to_c4(e: Experiments) -> Iterator[Claim]:
    plan = {
        "C2": ("draw-line", "mse"),
        "C3": ("draw-digit", "mse"),
        "C4": ("discrimination", "nll"),
    }
    for number, (name, metric) in plan.items():
        note = ONE_STEP_LAST if number == "C4" else ""
        for part, word in (("train", "training"), ("validation", "validation")):
            text = f"{TASKS[name]}: {word} {metric.upper()} after the last epoch, cRNN - ccRNN"
            gap = _gap(e[name], 3, f"{part}_{metric}")
            yield _ordering(e[name], number, text, 3, gap, note=note)
    runs = e["discrimination"]
    text = "discrimination: validation accuracy, ccRNN - cRNN"
    gap = _gap(runs, 3, "validation_accuracy", -1)
    yield _ordering(runs, "C4", text, 3, gap, note=ONE_STEP_LAST)


def _c5(e: Experiments) -> Iterator[Claim]:
    measures = {
        "linedraw": "area",
        "draw-line": "validation_mse",
        "draw-digit": "validation_mse",
        "discrimination": "validation_nll",
    }
    p_published = {"draw-line": 0.921, "draw-digit": 0.567}
    for name, value in measures.items():
        runs, table = e[name], horizon(e[name], value)
        if len(table) < 2:
            text = f"{TASKS[name]}: the advantage shrinks with K"
            yield _ordering(runs, "C5", text, 1, [])
            continue
        low, high = int(table.K.iloc[0]), int(table.K.iloc[-1])
        text = f"{TASKS[name]}: error ratio ccRNN / cRNN at K = {high} minus that at K = {low}"
        change = differences(_ratios(runs, value, high), _ratios(runs, value, low))
        yield _ordering(runs, "C5", text, high, change)
        if name in p_published and not table.p.isna().all():
            k = int(table.K[table.p.idxmax()])
            note = (
                f"published: p = {p_published[name]} at one horizon, ten seeds; here: the one with"
                " the largest p"
            )
            text = f"{TASKS[name]}: no difference at one horizon, cRNN - ccRNN"
            gap = _gap(runs, k, value)
            yield _ordering(runs, "C5", text, k, gap, is_equality=True, note=note)


def _ratios(runs: RunSet, value: str, k: int) -> dict[int, float]:
    a, b = (values(runs, f"{name}-k{k}", value) for name in ("crnn", "ccrnn"))
    return {seed: b[seed] / a[seed] for seed in a.keys() & b.keys()}


def _c6(e: Experiments) -> Iterator[Claim]:
    for name in ("draw-line", "draw-digit"):
        runs = e[name]
        cortex, both, full = (
            at_epoch(runs, entry, "train_mse") for entry in ("crnn-k3", "ccrnn-k3", "bptt")
        )
        above, below = differences(both, full), differences(cortex, both)
        text = f"{TASKS[name]}: training MSE, ccRNN at K = 3 - full BPTT"
        yield _ordering(runs, "C6", text, 3, above)
        note = ""
        if above and below:
            share = 100 * np.mean(below) / np.mean(differences(cortex, full))
            note = f"the cerebellum closes {share:.0f} % of the gap between cRNN and full BPTT"
        text = f"{TASKS[name]}: ccRNN lies between full BPTT and cRNN"
        yield _ordering(runs, "C6", text, 3, above, also=below, note=note)


def _c7(e: Experiments) -> Iterator[Claim]:
    for name, k in (("linedraw", 1), ("draw-line", 3), ("draw-digit", 3)):
        text = f"{TASKS[name]}: dysmetria at test, cRNN - ccRNN"
        yield _ordering(e[name], "C7", text, k, _gap(e[name], k, "test_dysmetria"))
    runs, text = e["discrimination"], "discrimination: certainty at test, ccRNN - cRNN"
    yield _ordering(runs, "C7", text, 3, _gap(runs, 3, "test_certainty", -1))


def _c8(e: Experiments) -> Iterator[Claim]:
    text = "captions: validation bits per word of the best epoch, cRNN - ccRNN"
    yield _ordering(e["captions"], "C8", text, 4, _bits_gap(e["captions"], 4))


def _c9(e: Experiments) -> Iterator[Claim]:
    runs = e["captions"]
    for k in truncations(runs):
        gap = _bits_gap(runs, k)
        if k == 4 or not gap:
            continue
        note = (
            "published: none at 40 % (p = 0.891) and 45 % (p = 0.116) of the caption; which K these"
            " are is not known"
        )
        text = "captions: no difference in validation bits per word, cRNN - ccRNN"
        yield _ordering(runs, "C9", text, k, gap, is_equality=True, note=note)


def _bits_gap(runs: RunSet, k: int) -> list[float]:
    return differences(
        *(best(runs, f"{name}-k{k}", "validation_bits") for name in ("crnn", "ccrnn"))
    )


def _c10(e: Experiments) -> Iterator[Claim]:
    runs = e["captions"]
    table = caption_groups(runs)
    p_published = {"short": 0.075, "medium": 0.189}
    for group in caption_scores.LENGTHS:
        part = table[(table.group == group) & (table.K == 4)]
        cortex, both = (
            dict(zip(rows.seed, rows.value, strict=True))
            for rows in (part[part.network == "cRNN"], part[part.network == "ccRNN"])
        )
        gap, text = differences(both, cortex), f"captions: CIDEr of {group} captions, ccRNN - cRNN"
        if group in p_published:
            note = f"published: not significant, p = {p_published[group]}"
            text = f"no difference in {text}"
            yield _ordering(runs, "C10", text, 4, gap, is_equality=True, note=note)
        else:
            yield _ordering(runs, "C10", text, 4, gap)


def _c11(e: Experiments) -> Iterator[Claim]:
    runs = e["linedraw-lesions"]
    cerebellum, olive = (
        at_epoch(runs, f"{name}-20", "train_mse") for name in ("cerebellum", "olive")
    )
    text = "simple line drawing: training MSE after the last epoch"
    gap = differences(olive, cerebellum)
    yield _ordering(runs, "C11", f"{text}, inferior olive lesion - cerebellar lesion", 1, gap)
    healthy = at_epoch(e["linedraw"], "ccrnn-k1", "train_mse")
    for name, lesioned in (("cerebellar", cerebellum), ("inferior olive", olive)):
        gap = differences(lesioned, healthy)
        yield _ordering(runs, "C11", f"{text}, {name} lesion - intact", 1, gap)


def _c12(e: Experiments) -> Iterator[Claim]:
    runs, note = e["discrimination"], "published: cell and size not recorded"
    accuracies = {
        (k, model): (epoch, value) for k, model, epoch, value in record_2019("validation accuracy")
    }
    gaps, reference = {}, {}
    for k in sorted({k for k, _ in accuracies}):
        (epoch, vanilla), (_, dni) = accuracies[k, "Vanilla"], accuracies[k, "DNI"]
        both, cortex = (
            at_epoch(runs, f"{name}-k{k}", "validation_accuracy", epoch)
            for name in ("ccrnn", "crnn")
        )
        if runs.datasets != ("mnist",):  # epochs of another data set are no counterpart
            both, cortex = {}, {}
        reference[k] = dni - vanilla
        gaps[k] = {seed: both[seed] - cortex[seed] for seed in both.keys() & cortex.keys()}
        text = f"discrimination: validation accuracy after {epoch} epochs, ccRNN - cRNN"
        gap = differences(both, cortex)
        yield _ordering(runs, "C12", text, k, gap, published=reference[k], note=note)
    short, long = min(gaps), max(gaps)
    text = f"discrimination: that gap at K = {short} minus the one at K = {long}"
    change = differences(gaps[short], gaps[long])
    gap_2019 = reference[short] - reference[long]
    yield _ordering(runs, "C12", text, long, change, published=gap_2019, note=note)


def _c13(e: Experiments) -> Iterator[Claim]:
    runs = e["discrimination-record"]
    table = published.values(PAPER)
    rows = table[(table.figure_or_table == "sims/seq-mnist/test")].set_index("metric").value
    measured: dict[str, dict[int, float]] = {}
    if runs.runs:
        measured = {
            "validation NLL epoch 1": at_epoch(runs, "ccrnn", "validation_nll", 1),
            "validation accuracy epoch 1": at_epoch(runs, "ccrnn", "validation_accuracy", 1),
            "train NLL epoch 1": at_epoch(runs, "ccrnn", "train_nll", 1),
            "test accuracy": tested(runs, "ccrnn", "test_accuracy"),
            "test NLL": tested(runs, "ccrnn", "test_nll"),
        }
    for name, number in rows.items():
        ours = list(measured.get(name, {}).values())
        reference = Published(float(number), float("nan"), None, "published: one seed, no spread")
        text = f"discrimination, K = 3, 50 units: {name.removesuffix(' epoch 1')}"
        yield claims.value(
            runs, "C13", text, "epoch", 1, ours, reference, label="C13", no_verdict=""
        )
