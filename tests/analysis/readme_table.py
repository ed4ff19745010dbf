"""The tables of claims, computed from the committed results.

`python tests/analysis/readme_table.py` puts them into `docs/claims.md`, paper by paper, and a few
rows into the README; `test_readme_table.py` holds both to them. What stands here as text is what no
result decides: what is claimed, and how to make it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bioplaus import analysis, paths
from bioplaus.analysis import claims as making
from bioplaus.analysis import published
from bioplaus.analysis.claims import Claim
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.verdicts import Verdict
from bioplaus.papers.bilateral import claims as bilateral
from bioplaus.papers.ccdni import claims as ccdni
from bioplaus.papers.ccdni import measures
from bioplaus.papers.corinfomax import decays, sparsity
from bioplaus.papers.hebbian import selection

HEAD = (
    "| claim | command | minutes of one core | published | ours | verdict |",
    "|---|---|---|---|---|---|",
)
FOLLOW = "..."  # a command like the one above
EPOCHS = (1, 2, 3, 5, 10, 20, 50)


class Row(NamedTuple):
    claim: str
    command: str
    minutes: str
    published: str
    ours: str
    verdict: str

    def __str__(self) -> str:
        return f"| {' | '.join(self)} |"


@functools.cache
def load(paper: str, experiment: str, preset: str = "desk") -> RunSet:
    return analysis.load(paper, experiment, preset)


def best_preset(paper: str, experiment: str, entry: str) -> RunSet:
    """The runs of preset paper where there are any of the entry, else those of desk."""
    at_paper = load(paper, experiment, "paper").only(entry)
    return at_paper if at_paper.outcomes else load(paper, experiment).only(entry)


def verdict(claim: Claim, more: str = "") -> str:
    """`**agrees**, z 0.8`; bold where something is decided."""
    decided = {Verdict.AGREES, Verdict.DIFFERS, Verdict.DIFFERS_SLIGHTLY, Verdict.HOLDS}
    decided |= {Verdict.CONTRADICTED}
    word = f"**{claim.verdict}**" if claim.verdict in decided else str(claim.verdict)
    if claim.z is not None and not claim.is_ordering:
        word += f", z {claim.z:.1f}".replace("-0.0", "0.0")
    return f"{word}{more}"


def interval(claim: Claim, digits: int = 3) -> str:
    """`+0.0045 [-0.035, 0.044], n = 3`."""
    if claim.ours is None:
        return "not run"
    ends = "" if claim.low is None else f" [{claim.low:.{digits}f}, {claim.high:.{digits}f}]"
    return f"{claim.ours:+.{digits}f}{ends}, n = {claim.n}"


def at_paper(command: str) -> str:
    """The command of a row whose runs are of preset paper."""
    return command.replace("PRESET=desk ", "").replace(" ONLY=", " PRESET=paper DEVICE=cuda ONLY=")


def joined(values: Sequence[float | None], digits: int = 4) -> str:
    return " / ".join("–" if value is None else f"{value:.{digits}f}" for value in values)


# --- CorInfoMax


def curve(
    text: str,
    experiment: str,
    entry: str,
    minutes: str,
    *,
    command: str = "",
    metric: str = "test_accuracy",
    at: Sequence[int] = EPOCHS,
    unit: str = "epochs",
    digits: int = 4,
    more: Callable[[RunSet], str] = lambda runs: "",
) -> Row:
    """A row of a curve, held against the published one at the last point that both have."""
    runs = best_preset("corinfomax", experiment, entry)
    rows = analysis.compare_curve(runs, metric, at=list(at))
    made = [claim for claim in rows if claim.n]
    primary = next((claim for claim in rows if claim.is_primary and claim.n), None)
    planned = runs.first_run(entry).parameters["n_epochs"] * (1 if unit == "epochs" else 3000)
    shown = made or [claim for claim in rows if claim.x <= planned]
    points = " / ".join(f"{claim.x:,}" for claim in shown)
    command = command or f"`{FOLLOW} ONLY={experiment}/{entry}`"
    if runs.preset == "paper":
        command, minutes = at_paper(command), "a GPU"
    theirs = joined([claim.published for claim in shown], digits)
    if not made:
        return Row(text.format(points), command, minutes, theirs, "–", "not run")
    note = making._added_seeds(runs, entry, primary.n + runs.count(entry, "collapsed", "diverged"))
    ours = f"{joined([claim.ours for claim in made], digits)}, n = {primary.n}"
    sentence = "; ".join(filter(None, [verdict(primary), note, more(runs)]))
    return Row(text.format(points), command, minutes, theirs, ours, sentence)


def final(text: str, experiment: str, entry: str, minutes: str) -> Row:
    """A row of an accuracy that was published after the last epoch only."""
    runs = best_preset("corinfomax", experiment, entry)
    (claim,) = analysis.compare_final(runs, ["test_accuracy"])
    command = f"`{FOLLOW} ONLY={experiment}/{entry}`"
    theirs = f"{claim.published:.4f} ± {claim.published_sd:.4f}"
    if not claim.n:
        return Row(text, command, minutes, theirs, "–", "not run")
    ours = f"{claim.ours:.4f} ± {claim.ours_sd:.4f}, n = {claim.n}"
    note = making._added_seeds(runs, entry, claim.n)
    return Row(text, command, minutes, theirs, ours, verdict(claim, f"; {note}" if note else ""))


def together(claim: str, command: str, minutes: str, rows: list[Row]) -> list[Row]:
    """The rows; one that stands for all of them where none has run."""
    if any(row.verdict != "not run" for row in rows):
        return rows
    return [Row(claim, command, minutes, "curves", "–", "not run")]


def sparse() -> Row:
    """How many units are active in CorInfoMax and its sparse form; no number was published."""
    runs = load("corinfomax", "activity")
    drawn = sparsity.table(runs)
    drawn = drawn[drawn.measure == "active"]
    n_epochs = runs.runs[0].parameters["n_epochs"]
    parts = []
    for label, part in drawn.groupby("label", sort=False):
        shares = part.groupby("layer").value
        parts.append(f"{label} {joined(list(shares.mean()), 2)}, n = {part.seed.nunique()}")
    return Row(
        "CorInfoMax-Sparse is sparse (appendix E): share of hidden / output units with a rate above"
        f" 0.01, after {n_epochs} epochs",
        f"`{FOLLOW} ONLY='activity/*'`",
        "2 a seed",
        "no number",
        "; ".join(parts) or "–",
        "none: no number published" if parts else "not run",
    )


def falls(runs: RunSet) -> str:
    """How many seeds of predictive coding fall, beside the published spread."""
    values = np.array([one.record["epochs"]["test_accuracy"] for one in runs.outcomes])
    fallen = int((np.diff(values[:, 3:], axis=1) < -decays.FALL).any(1).sum())
    line = published.curve("corinfomax", decays.PLOTTED, "test_accuracy")
    spread = line[line.x <= values.shape[1]].sd.max()
    rows = decays.summary(load("corinfomax", decays.EXPERIMENT, "paper"))
    return (
        f"in spread it does not: {fallen} of {len(values)} seeds lose more than {decays.FALL} in an"
        f" epoch after the fourth, and the published sd is at most {spread:.4f}. All four published"
        f" decays: {decays.answer(rows)[0].lower()}{decays.answer(rows)[1:].rstrip('.')}"
        " (why seeds fall: [`pc.py`](/bioplaus/rules/pc.py))"
    )


def corinfomax() -> Iterator[Row]:
    main = "`make reproduce-figures PRESET=desk ONLY=mnist/corinfomax_slow`"
    after = "test accuracy after {} epochs"
    yield curve(
        f"CorInfoMax 784-500-10, {after}: setting 1, of the published figure (its neural step"
        " decays)",
        *("mnist", "corinfomax_slow", "7 a seed"),
        command=main,
    )
    yield curve(
        f"CorInfoMax 784-500-10, setting 3, of the published tables (constant step), {after}:"
        " beside the curve of setting 1, as none of its own was published",
        *("mnist", "corinfomax", "7 a seed"),
    )
    names = {
        "ep": ("Equilibrium propagation", "3 a seed"),
        "corinfomax_sparse": ("CorInfoMax-Sparse", "9 a seed"),
        "csm": ("Similarity matching (CSM)", "6 a seed"),
        "pc_nudge": ("PC-Nudge 784-128-64-10", "4 a seed"),
    }
    for entry, (name, minutes) in names.items():
        yield curve(f"{name}, {after}", "mnist", entry, minutes)
    yield curve(
        *(f"Predictive coding (PC) 784-600-600-10, {after}", "mnist", "pc", "24 a seed"), more=falls
    )
    for entry, name, minutes in (
        ("bp", "Backprop (MSE)", "5 a seed"),
        ("fa", "Feedback alignment (MSE)", "6 a seed"),
    ):
        yield final(f"{name} 784-500-10, test accuracy after 50 epochs", "mnist", entry, minutes)
    for entry, name in (("corinfomax", "CorInfoMax"), ("corinfomax_sparse", "CorInfoMax-Sparse")):
        yield curve(
            f"Feedback weights align, {name}: angle to the forward weights, in degrees, after {{}}"
            " batches",
            *("mnist", entry, "as above"),
            metric="angle_2_deg",
            unit="batches",
            at=(1, 2001, 5001, 14001, 29001, 149001),
            digits=1,
        )
    yield sparse()
    deep = "Two hidden layers, 784-500-500-10"
    yield curve(f"{deep}, {after}", "three_layers", "mnist", "9 a seed")
    for layer in (2, 3):
        yield curve(
            f"{deep}: angle of the feedback weights to the forward ones of layer {layer}, in"
            " degrees, after {} batches",
            *("three_layers", "mnist", "9 a seed"),
            metric=f"angle_{layer}_deg",
            unit="batches",
            at=(1, 2001, 5001, 14001, 29001, 149001),
            digits=1,
        )
    networks = {
        "corinfomax": ("CorInfoMax 3072-1000-10", "14 a seed"),
        "corinfomax_sparse": ("CorInfoMax-Sparse 3072-1000-10", "16 a seed"),
        "ep": ("EP 3072-500-10", "3 a seed"),
        "pc_nudge": ("PC-Nudge 3072-256-64-10", "5 a seed"),
    }
    yield from together(
        "CIFAR-10, the four rules of its figures",
        "`... ONLY='cifar10/*'`",
        "38 a seed",
        [
            curve(f"CIFAR-10, {name}, {after}", "cifar10", entry, minutes)
            for entry, (name, minutes) in networks.items()
        ],
    )
    jpeg = load("corinfomax", "cifar10_jpeg")
    claims = {
        entry: making.value(jpeg, entry, "", "", 0, jpeg.final("test_accuracy", entry), None)
        for entry in jpeg.entries
    }
    if all(claim.n for claim in claims.values()):
        yield Row(
            f"The same on JPEG files of CIFAR-10, {' / '.join(map(jpeg.label, claims))}: last test"
            " accuracy after 5 or 6 epochs",
            f"`{FOLLOW} ONLY='cifar10_jpeg/*'`",
            "38 a seed",
            "of other pixels",
            joined([claim.ours for claim in claims.values()])
            + f", n = {min(claim.n for claim in claims.values())}",
            "none: other pixels",
        )
    networks = {
        "corinfomax": "CorInfoMax 784-500-10",
        "corinfomax_sparse": "CorInfoMax-Sparse 784-500-10",
        "ep": "EP 784-500-10",
        "csm": "CSM 784-500-10",
        "pc": "PC 784-600-600-10",
        "pc_nudge": "PC-Nudge 784-128-64-10",
    }
    yield from together(
        "Fashion-MNIST, the six rules of its figures",
        "`... ONLY='fashion_mnist/*'`",
        "57 a seed",
        [
            curve(f"Fashion-MNIST, {name}, {after}", "fashion_mnist", entry, "10 a seed")
            for entry, name in networks.items()
        ],
    )


# --- competing hidden units


def hebbian() -> Iterator[Row]:
    mnist, cifar10, widths = (load("hebbian", name) for name in ("mnist", "cifar10", "widths"))

    def accuracy(runs: RunSet, entry: str, metric: str, how: str) -> str:
        claim = selection.claim(runs, entry, metric, how)
        return f"{claim.ours:.4f} (n = {claim.n})" if claim.n else "not run"

    def last(entry: str) -> str:
        return accuracy(mnist, entry, "test_accuracy", "last")

    epochs = mnist.first_run("p3").parameters["n_epochs"]
    ends = {e: selection.claim(mnist, e, "test_accuracy", "last").ours for e in mnist.entries}
    below = all(ends[entry] < ends["bp"] for entry in ("p3", "p2", "p2-k7"))
    yield Row(
        f"Competing hidden units, 2000 of them, and a readout of ours: MNIST test accuracy after"
        f" {epochs} epochs; backprop of the same width beside it",
        "`make reproduce-figures PRESET=desk PAPER=hebbian`",
        "8 a seed",
        "0.985, the author's guidance, for p = 3",
        f"p = 3, k = 7: {last('p3')}; p = 2, k = 2: {last('p2')}; p = 2, k = 7: {last('p2-k7')};"
        f" {'all below' if below else 'beside'} backprop, {last('bp')}",
        "none: no spread published",
    )

    def best(entries: Sequence[str], metric: str) -> str:
        values = [selection.claim(widths, entry, metric, "best") for entry in entries]
        counts = {claim.n for claim in values if claim.n}
        if not counts:
            return "not run"
        return f"{joined([claim.ours for claim in values])}, n = {min(counts)}"

    known = published.values("hebbian")
    known = known[known.figure_or_table == "README table"].query("dataset == 'MNIST'")
    by_width = known.set_index("model").value
    sizes = (200, 500, 1000, 2000)
    for network, prefix, metric in (
        ("BIO", "bio", "test_accuracy"),
        ("BP", "bp", "validation_accuracy"),
    ):
        seen = "the test set" if network == "BIO" else "held-out images"
        yield Row(
            f"The same by width, {' / '.join(map(str, sizes))} units, with the published readout:"
            f" {network}, best epoch on {seen}",
            f"`{FOLLOW} ONLY='widths/{prefix}-*'`",
            "13 a seed",
            joined([by_width[f"{network} H={size}"] for size in sizes], 3),
            best([f"{prefix}-{i}" for i in range(1, 5)], metric),
            "none: no spread published"
            if best([f"{prefix}-1"], metric) != "not run"
            else "not run",
        )
    bio = cifar10.first_run("bio").parameters
    ours = [
        ("bio", "test_accuracy", "best"),
        ("bp", "validation_accuracy", "best"),
        ("linear", "validation_accuracy", "last"),
    ]
    has_run = bool(cifar10.only("bio").outcomes)
    chosen = accuracy(cifar10, "bio", "test_accuracy", "validation")
    yield Row(
        f"CIFAR-10, p = 2, {bio['n_epochs']} epochs and {bio['readout']['n_epochs']} of the"
        " readout: best epoch on the test set, as published; backprop, best, and a linear control,"
        " last, on held-out images",
        f"`{FOLLOW} ONLY='cifar10/*'`",
        "140",
        "0.4997; 0.5466 and 0.3956, one run each",
        "; ".join(accuracy(cifar10, *one) for one in ours)
        + (f"; BIO at the epoch chosen on held-out images: {chosen}" if has_run else ""),
        "none: no spread published" if has_run else "not run",
    )
    jpeg = load("hebbian", "cifar10-jpeg")
    if jpeg.outcomes:
        ours = [
            ("bio", "test_accuracy", "validation"),
            ("bp", "test_accuracy", "validation"),
            ("linear", "test_accuracy", "validation"),
        ]
        yield Row(
            f"The same on JPEG files of CIFAR-10, {jpeg.first_run('bio').parameters['n_epochs']}"
            " epochs: test accuracy at the epoch chosen on held-out images, BIO; backprop and the"
            " linear control",
            f"`{FOLLOW} ONLY='cifar10-jpeg/*'`",
            "40",
            "of other pixels",
            "; ".join(accuracy(jpeg, *one) for one in ours),
            "none: other pixels",
        )


# --- cerebellum


@functools.cache
def ccdni_claims() -> tuple[Claim, ...]:
    return tuple(ccdni.judge(measures.load("desk")))


def ccdni_claim(label: str, statement: str) -> Claim:
    (claim,) = [c for c in ccdni_claims() if c.label == label and statement in c.metric]
    return claim


def cerebellum() -> Iterator[Row]:
    linedraw, lesions = load("ccdni", "linedraw"), load("ccdni", "linedraw-lesions")
    areas = {claim.entry: claim for runs in (linedraw, lesions) for claim in ccdni.areas(runs)}

    def both(*entries: str) -> tuple[str, str]:
        theirs = joined([areas[entry].published for entry in entries], 2)
        return theirs, joined([areas[entry].ours for entry in entries], 2)

    theirs, ours = both("crnn-k1", "ccrnn-k1", "bptt")
    first = ccdni_claim("C1", "area under")
    names = ("crnn-k1", "crnn-k2", "crnn-k5", "bptt")
    alone = [areas[entry] for entry in names]
    yield Row(
        "Simple line drawing: a cerebellum makes truncated learning faster; mean training error"
        " over 100 epochs of cRNN / ccRNN (both K = 1) / full BPTT. One hidden synthesiser layer,"
        " chosen after seeing that it holds",
        "`make reproduce-figures PRESET=desk PAPER=ccdni ONLY='linedraw/*'`",
        "0.5 a run",
        f"{theirs} (2 to 3 runs of a port of the published code)",
        f"{ours}, n = {first.n}; of the {len(alone)} conditions without a cerebellum"
        f" {sum(claim.difference > 0 for claim in alone)} lie above the port's",
        verdict(first),
    )
    theirs, ours = both("crnn-k5", "ccrnn-k5", "bptt", "ccrnn-k10", "mended-k5", "mended-k10")
    shrinks = ccdni_claim("C5", "simple line drawing: error ratio")
    yield Row(
        "The same at longer truncations: the gain falls with K. cRNN and ccRNN at K = 5, at K = 10,"
        " ccRNN without the bootstrap after the last truncation at K = 5 and 10",
        "the same",
        "",
        f"{theirs} (2 runs of a port)",
        f"{ours}, n = {shrinks.n}: at long truncations the published cerebellum harms",
        verdict(shrinks),
    )
    theirs, ours = both("olive-20", "cerebellum-20")
    olive = ccdni_claim("C11", "inferior olive lesion - cerebellar")
    yield Row(
        "Losing the inferior olive (epoch 20) is worse than losing the cerebellum",
        f"`{FOLLOW} ONLY='linedraw-lesions/*'`",
        "0.3 a run",
        f"{theirs} (one run of a port each)",
        f"{ours}, n = {olive.n}",
        verdict(olive),
    )
    smooth = [claim for claim in ccdni_claims() if claim.label == "C7" and "dysm" in claim.metric]
    yield Row(
        "A cerebellum lessens dysmetria at test: simple line drawing; line from rows; digit from"
        " rows (cRNN - ccRNN)",
        f"`{FOLLOW} ONLY='linedraw/*'`",
        "0.5 a run",
        "above 0",
        "; ".join(interval(claim) for claim in smooth),
        " / ".join(dict.fromkeys(verdict(claim) for claim in smooth)) + ": in none of the three",
    )
    for name, task, text in (
        ("draw-line", "line from rows", "Lines"),
        ("draw-digit", "digit from rows", "Digits"),
    ):
        runs, digits = load("ccdni", name), 2 if name == "draw-line" else 4
        errors = [
            measures.at_epoch(runs, entry, "train_mse") for entry in ("crnn-k3", "ccrnn-k3", "bptt")
        ]
        between = ccdni_claim("C6", f"{task}: ccRNN lies between")
        p = runs.first_run("crnn-k3").parameters
        size = "all images" if p.get("n_train") is None else f"{4 * p['n_train'] // 5:,} images"
        note = between.note.partition(";")[0]
        yield Row(
            f"{text} drawn while an image is seen row by row, K = 3, real MNIST: training error of"
            f" cRNN / ccRNN / full BPTT after {p['n_epochs']} epochs of {size}",
            f"`{FOLLOW} ONLY='{name}/*'`",
            "0.6 a run",
            "ccRNN between the two",
            joined([float(np.mean([*e.values()])) if e else None for e in errors], digits)
            + f", n = {between.n}; {note}",
            verdict(between),
        )
    gap = ccdni_claim("C4", "validation accuracy")
    yield Row(
        "Discrimination at K = 3: validation accuracy, ccRNN - cRNN. As 28 = 9 x 3 + 1 and only the"
        " last truncation has a loss, this cRNN is the one of K = 1",
        f"`{FOLLOW} ONLY='discrimination/*'`",
        "0.7 a run",
        "above 0",
        interval(gap),
        verdict(gap),
    )
    for experiment, text, minutes in (
        ("captions", "drawn scenes", "1 a run"),
        ("photo-captions", "753 photographs of Flickr8k", "2 a run"),
    ):
        runs = load("ccdni", experiment)
        gaps = measures.differences(
            *(measures.best(runs, f"{n}-k4", "validation_bits") for n in ("crnn", "ccrnn"))
        )
        claim = making.ordering(runs, "gap", "bits", gaps, label="")
        yield Row(
            f"Captions: a cerebellum helps at K = 4, bits per word of cRNN minus ccRNN, {text}",
            f"`{FOLLOW} ONLY='{experiment}/*'`",
            minutes,
            "above 0",
            interval(claim) + (": the other way" if gaps and np.mean(gaps) < 0 else ""),
            verdict(claim),
        )


# --- two hemispheres


def hemispheres() -> Iterator[Row]:
    for experiment, text, command, minutes in (
        (
            "resnet9",
            "JPEG copy of CIFAR-10, an eighth of the width, 2 epochs, and 10 further ones for"
            " joined heads",
            "`make reproduce-figures PRESET=desk PAPER=bilateral ONLY='resnet9/*'`",
            "45",
        ),
        (
            "cifar100-eighth",
            "CIFAR-100, an eighth of the width, 6 epochs, and 10 further ones for joined heads",
            f"`{FOLLOW} ONLY='cifar100-eighth/*'`",
            "400",
        ),
        (
            "cifar100-40",
            "CIFAR-100, full width, 40 of 180 epochs",
            f"`{FOLLOW} PRESET=paper ONLY='cifar100-40/*'`",
            "a GPU",
        ),
    ):
        runs = load("bilateral", experiment, "paper" if experiment == "cifar100-40" else "desk")
        values = {
            claim.entry: claim
            for claim in bilateral.accuracies(runs)
            if claim.metric == "test_fine_accuracy"
        }
        shown = [values[e].ours for e in ("specialised", "both", "joint", "ensemble", "fine")]
        n = values["specialised"].n
        orderings = [c for c in bilateral.claims(runs) if c.metric == "test_fine_accuracy"]
        by_text = {
            "one with both heads": "above one hemisphere, both heads",
            "two trained together": "above two hemispheres",
            "the ensemble (claimed: not beaten)": "ensemble of two with both heads above",
            "two fine ones, joined (control)": "above two fine",
            "one with both heads and as many epochs (control)": "both heads, same budget",
        }
        parts, verdicts = [], []
        for name, phrase in by_text.items():
            found = [
                c
                for c in orderings
                if phrase in c.label
                and (phrase != "above one hemisphere, both heads" or "budget" not in c.label)
            ]
            if found and found[0].n:
                sign = -1 if phrase.startswith("ensemble") else 1
                one = found[0]
                flipped = (
                    f"{sign * one.ours:+.3f}"
                    if one.low is None
                    else f"{sign * one.ours:+.3f} [{min(sign * one.low, sign * one.high):.3f},"
                    f" {max(sign * one.low, sign * one.high):.3f}]"
                )
                parts.append(f"minus {name}: {flipped}")
                verdicts.append(str(one.verdict))
        counts = {word: verdicts.count(word) for word in dict.fromkeys(verdicts)}
        yield Row(
            "Two specialised hemispheres, joined, classify better than one with both heads and than"
            " two trained together; an ensemble of two is not beaten. Fine test accuracy of joined"
            f" / both heads / together / ensemble / left alone ({text})",
            command,
            minutes,
            "an ordering; one run on CIFAR-100: 0.7182 joined, 0.6633 left alone",
            f"{joined(shown)}, n = {n}; joined {'; '.join(parts)}" if n else "–",
            "; ".join(f"{word} ({k} of {len(verdicts)})" for word, k in counts.items())
            if n
            else "not run",
        )


def replays() -> Iterator[Row]:
    yield Row(
        "Every rule but `bp` and `fa` replays the published code",
        "`python -m bioplaus conform tests/golden` (`--plain`: the equations as they stand)",
        "1",
        "equal",
        "largest difference in float64: 1e-14 for the rules, 5e-11 for the Hebbian readouts; in"
        " float32 1e-7 to 6e-7 for the ccDNI tasks and the bilateral maps",
        "**holds**",
    )


PARTS = {  # by the mark on the page of claims
    "corinfomax": corinfomax,
    "ccdni": cerebellum,
    "bilateral": hemispheres,
    "hebbian": hebbian,
    "code": replays,
}
TOP = (  # how the claims begin that stand in the README, too
    "CorInfoMax 784-500-10, setting 3",
    "Equilibrium propagation",
    "PC-Nudge",
    "Feedback weights align, CorInfoMax:",
    "Simple line drawing",
    "Losing the inferior olive",
    "Two specialised hemispheres",
    "Competing hidden units",
    "Every rule but",
)
TOP_HEAD = ("| claim | published | ours | verdict |", "|---|---|---|---|")


@functools.cache
def rows(part: str) -> list[Row]:
    """The rows of one part."""
    return list(PARTS[part]())


def lines(part: str) -> list[str]:
    """The table of a part, line by line."""
    return [*HEAD, *map(str, rows(part))]


def top() -> list[str]:
    """The table of the README: of each beginning in `TOP` the first row, without how to make it."""
    every = [row for part in PARTS for row in rows(part)]
    chosen = [next(row for row in every if row.claim.startswith(start)) for start in TOP]
    return [
        *TOP_HEAD,
        *(f"| {r.claim} | {r.published} | {r.ours} | {r.verdict} |" for r in chosen),
    ]


def table_of(text: str, head: Sequence[str], mark: str = "") -> list[str]:
    """The lines of the table with this head that stands in a text, behind `mark`."""
    lines = text[text.index(mark) :].splitlines()
    start = lines.index(head[0])
    return lines[start : start + lines[start:].index("")]


def tables() -> Iterator[tuple[str, str, Sequence[str], list[str]]]:
    """(file, mark before the table, its head, its lines as they should be) of every table."""
    for part in PARTS:
        yield "docs/claims.md", f"<!-- {part} -->", HEAD, lines(part)
    yield "README.md", "", TOP_HEAD, top()


if __name__ == "__main__":
    for file, mark, head, right in tables():
        path = paths.project_root() / file
        text = path.read_text(encoding="utf-8")
        old, new = ("\n".join(part) for part in (table_of(text, head, mark), right))
        before, after = text[: text.index(mark)], text[text.index(mark) :]
        path.write_text(before + after.replace(old, new, 1), encoding="utf-8")
