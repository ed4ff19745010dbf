"""The paper's figures of curves, as one table: accuracies over epochs and angles over batches.

Limits of axes are those of the published figures, as far as our longest run goes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bioplaus.analysis import comparison, learning, style
from bioplaus.analysis.claims import Claim
from bioplaus.analysis.experiment import RunSet
from bioplaus.analysis.learning import Line
from bioplaus.analysis.plots import Drawing

AFTER_EACH_EPOCH = "Accuracy on the test set after each epoch."
ON_TRAINING_SET = "Accuracy on the whole training set after each epoch."
FACTORS = "Test accuracy for five factors on the forward rates."
STEPS = (
    "Test accuracy for six first steps of the neural dynamics; the inset enlarges epochs 31 to 50"
    " of the best."
)
DEEP = "Layer 2 lies between the hidden layers, layer 3 from the second one to the output."


class Row(NamedTuple):
    """Lines of one figure: a metric of some entries of an experiment."""

    experiment: str
    metric: str = "test_accuracy"
    entries: tuple[str, ...] | None = None  # None: all, those that are published alone too
    label: str | None = None  # in the legend, "{}" stands for the entry's own
    colour: str | None = None  # a name of the palette; None: the rule's
    with_alone: bool = True  # False: what is published alone is drawn only where ours is not run


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One figure of curves."""

    name: str  # of its files, after "corinfomax_fig_"
    title: str
    caption: str
    data: str  # whose published curves are drawn alone
    rows: tuple[Row, ...]
    ylabel: str = "Test accuracy"
    heading: str | None = None  # None: data set, network and preset
    top: float | None = None
    bottom: float | None = None
    is_angle: bool = False  # over batches, not epochs
    is_ordered: bool = False  # entries are values of one parameter, in percent of accuracy
    zoom: tuple[float, float] | None = None

    @property
    def experiments(self) -> tuple[str, ...]:
        """The experiments that it draws."""
        return tuple(dict.fromkeys(row.experiment for row in self.rows))

    def draw(self, run_sets: Mapping[str, RunSet]) -> tuple[Drawing, list[RunSet], list[Claim]]:
        """The figure, the runs that it rests on, and its values beside the published ones.

        Parameters
        ----------
        run_sets : experiment -> its runs, loaded with `beside=True`.
        """
        lines: list[Line] = []
        shown: dict[Row, RunSet] = {}
        claims: list[Claim] = []
        at = comparison.BATCHES if self.is_angle else comparison.CHECKPOINTS
        for row in self.rows:
            run_set = run_sets[row.experiment]
            part = run_set.only(*row.entries) if row.entries else run_set
            shown[row._replace(metric="", label=None, colour=None)] = part
            claims += comparison.compare_curve(part, row.metric, at)
            lines += self._lines(row, part)
        runs = list(shown.values())
        axes = {"xlabel": "Epoch", "scale": 1}
        if self.is_angle:
            axes = {"xlabel": "Batches learned (thousands)", "scale": 1000}
        preset = runs[0].preset
        drawing = learning.learning_curves(
            lines,
            ylabel=self.ylabel,
            title=f"{self.heading}, preset {preset}" if self.heading else runs[0].heading,
            alone=f"{self.heading or self.data}, published",
            top=self.top,
            bottom=self.bottom,
            percent=self.is_ordered,
            zoom=self.zoom,
            **axes,
        )
        return drawing, runs, claims

    def _lines(self, row: Row, part: RunSet) -> list[Line]:
        entries = part.all_entries if row.with_alone else part.entries or part.all_entries
        looks = {}
        if self.is_ordered:
            entries = sorted(entries, key=lambda entry: float(part.label(entry)))
            looks = dict(zip(entries, style.ordered(len(entries)), strict=True))
        elif row.colour:
            looks = dict.fromkeys(entries, style.colour(row.colour))
        return [
            Line(
                part,
                entry,
                row.metric,
                row.label.format(part.label(entry)) if row.label else None,
                {"color": looks[entry], "linestyle": "-"} if looks else {},
            )
            for entry in entries
        ]


def _pair(
    experiment: str,
    data: str,
    test_top: float,
    train_top: float,
    entries: tuple[str, ...] | None = None,
) -> Sequence[Curves]:
    """Test and training accuracy of the rules on one data set."""
    splits = {"test": ("Test accuracy", AFTER_EACH_EPOCH, test_top)}
    splits["train"] = ("Training accuracy", ON_TRAINING_SET, train_top)
    return tuple(
        Curves(
            name=f"{experiment}_{part}",
            title=f"{ylabel} of all rules on {data}",
            caption=caption,
            data=data,
            ylabel=ylabel,
            top=top,
            rows=(Row(experiment, f"{part}_accuracy", entries, with_alone=entries is not None),),
        )
        for part, (ylabel, caption, top) in splits.items()
    )


def _top5(part: str, ylabel: str, caption: str, top: float) -> Curves:
    return Curves(
        name=f"cifar100_{part}",
        title=f"{ylabel} of CorInfoMax on CIFAR-100",
        caption=f"{caption} The label is the largest output (top 1), or among the five largest.",
        data="CIFAR-100",
        ylabel=ylabel,
        bottom=0,
        top=top,
        rows=(
            Row(
                *("cifar100", f"{part}_top5_accuracy", ("corinfomax",)),
                *("CorInfoMax, top 5", "top 5"),
            ),
            Row("cifar100", f"{part}_accuracy", ("corinfomax",), "CorInfoMax, top 1"),
        ),
    )


def _one(name: str, data: str, title: str, top: float, row: Row) -> Curves:
    return Curves(name=name, title=title, caption=AFTER_EACH_EPOCH, data=data, top=top, rows=(row,))


def _angles(rule: str, name: str, heading: str) -> Curves:
    sets = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
    return Curves(
        name=f"angles_{name}",
        title=f"Angle between forward and feedback weights, {heading}",
        caption="Layer 2, from hidden to output units, on three data sets.",
        data=heading,
        heading=heading,
        ylabel="Angle (degrees)",
        bottom=55,
        top=94,
        is_angle=True,
        rows=tuple(Row(key, "angle_2_deg", (rule,), data, data) for key, data in sets.items()),
    )


def _deep_angles(
    name: str, data: str, experiment: str, entry: str, bottom: int, top: int
) -> Curves:
    return Curves(
        name=f"angles_3layer_{name}",
        title=f"Angles between forward and feedback weights, two hidden layers, {data}",
        caption=DEEP,
        data=data,
        ylabel="Angle (degrees)",
        bottom=bottom,
        top=top,
        is_angle=True,
        rows=tuple(
            Row(experiment, f"angle_{k}_deg", (entry,), f"layer {k}", f"layer {k}") for k in (2, 3)
        ),
    )


def _ablation(experiment: str, title: str, data: str) -> Curves:
    is_rate = experiment.endswith("forward_rate")
    return Curves(
        name=f"ablations_{experiment}",
        title=f"{title}: test accuracy, {data}",
        caption=FACTORS if is_rate else STEPS,
        data=data,
        ylabel="Test accuracy (%)",
        is_ordered=True,
        zoom=None if is_rate else (31, 50),
        rows=(Row(experiment, label="factor {}" if is_rate else "step {}"),),
    )


CURVES: dict[str, Sequence[Curves]] = {  # by section of the notebooks
    "MNIST": _pair("mnist", "MNIST", 0.985, 1.001),
    "Fashion-MNIST": _pair(
        *("fashion_mnist", "Fashion-MNIST", 0.90, 0.97),
        ("corinfomax", "csm", "ep", "pc", "pc_nudge"),
    ),
    "CIFAR-10": _pair("cifar10", "CIFAR-10", 0.53, 1.001, ("corinfomax", "ep", "pc_nudge")),
    "CIFAR-100": (
        _top5("test", "Test accuracy", AFTER_EACH_EPOCH, 0.40),
        _top5("train", "Training accuracy", ON_TRAINING_SET, 0.44),
    ),
    "CorInfoMax-Sparse": tuple(
        _one(
            f"sparse_{key}",
            data,
            f"Test accuracy of CorInfoMax-Sparse on {data}",
            top,
            Row(key, entries=("corinfomax_sparse",)),
        )
        for key, data, top in (
            ("mnist", "MNIST", 0.985),
            ("fashion_mnist", "Fashion-MNIST", 0.89),
            ("cifar10", "CIFAR-10", 0.525),
        )
    ),
    "Two hidden layers": tuple(
        _one(
            f"three_layers_{key}",
            data,
            f"Test accuracy with two hidden layers, {data}",
            top,
            Row("three_layers", entries=entries),
        )
        for key, data, top, entries in (
            ("mnist", "MNIST", 0.985, ("mnist", "ep")),
            ("cifar10", "CIFAR-10", 0.525, ("cifar10",)),
        )
    ),
}
ANGLES: Sequence[Curves] = (
    _angles("corinfomax", "corinfomax", "CorInfoMax"),
    _angles("corinfomax_sparse", "sparse", "CorInfoMax-Sparse"),
    _deep_angles("mnist", "MNIST", "three_layers", "mnist", 62, 94),
    _deep_angles("cifar10", "CIFAR-10", "three_layers", "cifar10", 70, 94),
    _deep_angles("cifar100", "CIFAR-100", "cifar100", "corinfomax", 80, 91),
)
ABLATIONS: Sequence[Curves] = (
    _ablation("mnist_forward_rate", "Forward rate", "MNIST"),
    _ablation("cifar10_forward_rate", "Forward rate", "CIFAR-10"),
    _ablation("mnist_neural_step", "First neural step", "MNIST"),
    _ablation("cifar10_neural_step", "First neural step", "CIFAR-10"),
)
