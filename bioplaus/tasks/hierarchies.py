"""Images with a fine and a coarse label each: which class, and which superclass.

Images stay uint8 in memory, the whole training set at once; crops and flips are made from indices
in the step, so nothing is written to disk and no worker is needed. Labels come from the data set's
arrays, in stored order.
"""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bioplaus import config, tasks
from bioplaus import device as _device
from bioplaus.errors import BioplausError
from bioplaus.tasks import Spec, images
from bioplaus.tasks import datasets as data
from bioplaus.tasks.augmentation import Normaliser, augment, statistics

__all__ = [
    "KINDS",
    "Config",
    "EncodedTask",
    "HierarchySpec",
    "HierarchyTask",
    "Normaliser",
    "augment",
    "load",
    "score",
    "spec",
]

KINDS = ("fine", "coarse")  # columns of y
CHUNK = 250  # images evaluated at once: 130 MB at the published width
SUPERCLASSES = {  # of data sets that bring no coarse labels: the superclass of each class
    # 1: the digit has a closed loop (0, 6, 8, 9)
    "digits": (1, 0, 0, 0, 0, 0, 1, 0, 1, 1),
    "mnist": (1, 0, 0, 0, 0, 0, 1, 0, 1, 1),
    # 0: animal, 1: vehicle (airplane, automobile, ship, truck)
    "cifar10": (1, 1, 0, 0, 0, 0, 0, 0, 1, 1),
    "cifar10-jpeg": (1, 1, 0, 0, 0, 0, 0, 0, 1, 1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HierarchySpec(Spec):
    """A task with two labels: `n_out` counts the classes, `n_coarse` the superclasses."""

    n_coarse: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """Which images, divided and augmented how. Published: dataset "cifar100", validation "test",
    else the defaults.
    """

    dataset: str = "digits"  # name in the catalogue (`data.names()`), or path of a .npz or folder
    # hold out training images, or validate on the test images
    validation: Literal["split", "test"] = "split"
    validation_fraction: float = 0.1  # of the training images, held out if validation is "split"
    # pixels of reflection padding of which training images are random crops; 0: no crops
    pad: int = 4
    use_flip: bool = True  # mirror half of the training images
    n_train: int | None = None  # training images used, those held out among them; None: all
    n_test: int | None = None  # test images used; None: all

    def __post_init__(self) -> None:
        self.check("validation_fraction", low=0, high=1, open_low=True, open_high=True)
        self.check("pad", low=0)
        self.check("n_train", low=1)
        self.check("n_test", low=1)


def spec(config: Config | str | None = None, /, **values: Any) -> HierarchySpec:
    """What a rule must know of the task that `load` gives for the same arguments; no pixel is read.

    Raises
    ------
    BioplausError
        As `load`, but for files that are missing or damaged.
    """
    return _plan(config, values)[2]


def load(
    config: Config | str | None = None,
    /,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    download: bool = True,
    **values: Any,
) -> "HierarchyTask":
    """Read a data set with fine and coarse labels and put it on the device.

    Parameters
    ----------
    config, values : fields of `Config`.
    device, dtype : of the images a rule sees.
    download : fetch the set if it is missing.

    Raises
    ------
    BioplausError
        Unknown names, values out of range, a data set without coarse labels, a class with two
        superclasses; missing or damaged files.
    """
    settings, about, specification = _plan(config, values)
    stored = data.read(settings.dataset, download=download)
    return HierarchyTask(
        specification,
        settings,
        stored,
        top=about.top,
        device=_device.pick(device) if isinstance(device, str) else device,
        dtype=dtype,
    )


class LabelledTask(tasks.Task[Config, tuple[Tensor, Tensor]]):
    """What both tasks here share: labels and evaluation.

    Attributes
    ----------
    y : labels by split ("train", "validation" where there is one, "test"), (n, 2) int64: class,
        superclass.
    coarse_of : (n_classes,) int64, the superclass of each class.
    """

    y: dict[str, Tensor]
    coarse_of: Tensor
    _digest: str

    @abc.abstractmethod
    def inputs(self, split: str) -> Iterator[Tensor]:
        """What the network sees of a split, not augmented, in order and in parts."""

    def _fingerprint(self) -> str:
        """sha256, hexadecimal, of the chosen images and labels, and of how they are divided and
        augmented.
        """
        return self._digest

    @property
    def validation_split(self) -> str:
        """The split that an epoch is chosen by: "test" where test images validate, as published."""
        return "validation" if "validation" in self.y else "test"

    @property
    def n_train(self) -> int:
        """Number of training images, those held out not among them."""
        return len(self.y["train"])

    def n_batches(self, batch_size: int) -> int:
        """Number of batches in one epoch, the last partial one included; one batch may hold all."""
        if batch_size < 1:
            raise BioplausError(f"batch_size is {batch_size!r}, but must be at least 1.")
        return -(-self.n_train // batch_size)

    @torch.no_grad()
    def predictions(self, rule: Any, split: str) -> dict[str, Tensor]:
        """Predicted class by head for every image of a split, (n,) int64 each, from the logits of
        `rule`.
        """
        classes: dict[str, list[Tensor]] = {}
        for x in self.inputs(split):
            for head, logits in rule.logits(x).items():
                classes.setdefault(head, []).append(logits.argmax(1))
        return {head: torch.cat(parts) for head, parts in classes.items()}

    def evaluate(self, rule: Any, *splits: str) -> dict[str, float]:
        """Accuracies of splits, and what the validation judges by.

        "<split>_<name>" for the names of `score`. "validation_error" is the sum over heads of 1 -
        accuracy, from 0 to 2, on the validation split.
        """
        metrics = super().evaluate(rule, *splits)
        accuracies = [f"{self.validation_split}_{kind}_accuracy" for kind in KINDS]
        errors = [1 - metrics[name] for name in accuracies if name in metrics]
        return {**metrics, "validation_error": sum(errors)} if errors else metrics

    def measure(self, rule: Any, split: str) -> dict[str, float]:
        """The fractions of `score`."""
        return score(self.predictions(rule, split), self.y[split], self.coarse_of)


class HierarchyTask(LabelledTask):
    """Images with two labels. A batch is (x, y).

    x : (batch, channels, height, width) float, channels last in memory, normalised by colour with
        the published mean and deviation (CIFAR-100) or those of all training images of the set.

    y : (batch, 2) int64, class and superclass.

    Attributes
    ----------
    x : images by split, (n, height, width, channels) uint8.
    splits : (x, y) by split.
    normalise : from such images to what the network sees.
    """

    def __init__(
        self,
        spec: HierarchySpec,
        config: Config,
        stored: data.Images,
        *,
        top: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.spec, self.config, self.remark = spec, config, stored.remark
        (y_train, y_test), coarse_of = _labels(spec, stored.labels)
        self.coarse_of = torch.from_numpy(coarse_of).to(device)
        mean, deviation = statistics(spec.name, stored.x_train, top)
        width = stored.x_train.shape[-1]
        self.normalise = Normaliser(mean.to(device, dtype), deviation.to(device, dtype), top, width)
        train = images.subset(config.n_train, len(y_train))
        test = images.subset(config.n_test, len(y_test))
        parts = {
            "train": (stored.x_train[train], y_train[train]),
            "test": (stored.x_test[test], y_test[test]),
        }
        self._digest = _digest(config, parts)
        if config.validation == "split":
            # the same images for every seed: no network is validated on what a part of it was
            # trained on
            order = np.random.RandomState(0).permutation(len(parts["train"][0]))
            n_held_out = _n_held_out(config, len(order))
            x, y = parts["train"]
            for split, rows in (("validation", order[:n_held_out]), ("train", order[n_held_out:])):
                parts[split] = (x[np.sort(rows)], y[np.sort(rows)])
        self.x, self.y = {}, {}
        for split, (x, y) in parts.items():
            self.x[split] = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 3, 1))).to(
                device
            )
            self.y[split] = torch.from_numpy(y).to(device)
        self.splits = {split: (x, self.y[split]) for split, x in self.x.items()}
        self.monitored = tuple(split for split in ("validation", "test") if split in self.y)

    def draws(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """The rows of each batch, and the corner and flip of each of its images; each image comes
        once, the last batch may be smaller.

        Parameters
        ----------
        generator : CPU stream; an epoch draws the order, then for all images top, left and flip.
        """
        self.n_batches(batch_size)
        y = self.y["train"]
        order = torch.randperm(len(y), generator=generator)
        drawn = (order, *self.draw(len(y), generator))
        return zip(*(part.to(y.device).split(batch_size) for part in drawn), strict=True)

    def batch_of(self, *draw: Tensor) -> tuple[Tensor, Tensor]:
        """Images as `view` shows them, and their labels, (batch, 2) int64."""
        rows, top, left, flip = draw
        return self.view(rows, top, left, flip), self.y["train"].index_select(0, rows)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Corners and flips of `n` augmented images: top, left, (n,) int64 from 0 to 2 pad, and
        flip, (n,) bool.
        """
        top, left = (
            torch.randint(2 * self.config.pad + 1, (n,), generator=generator) for _ in range(2)
        )
        flip = torch.rand(n, generator=generator) < 0.5
        return top, left, flip if self.config.use_flip else torch.zeros_like(flip)

    def view(self, rows: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
        """Training images `rows`, cropped and mirrored, as the network sees them."""
        if self.config.pad == 0 and not self.config.use_flip:
            return self.normalise(self.x["train"].index_select(0, rows))
        return self.normalise(augment(self.x["train"], rows, top, left, flip, self.config.pad))

    def inputs(self, split: str) -> Iterator[Tensor]:
        """The images of a split as the network sees them, not augmented, in order and in parts."""
        for part in self.x[split].split(CHUNK):
            yield self.normalise(part)

    def encoded(
        self, encode: Callable[[Tensor], Tensor], n_views: int, generator: torch.Generator
    ) -> "EncodedTask":
        """This task with features in place of images, each computed once.

        Parameters
        ----------
        encode : images -> features (batch, n_features); must depend on each image alone, and never
            change.
        n_views : augmented views of every training image; an epoch takes one of them for each
            image, at random.
        generator : CPU stream of the crops and flips of the views.
        """
        return EncodedTask(self, encode, n_views, generator)


class EncodedTask(LabelledTask):
    """A `HierarchyTask` whose x are features, (batch, n_features), of `n_views` fixed views of
    every training image.

    Heads trained on it are those trained on the views as images. Without augmentation (pad 0, no
    flip; one view) that is the task itself; with it, the task with fresh crops and flips in every
    epoch has 2 (2 pad + 1)^2 views of an image, too many to keep: `n_views` of them stand for all.

    Attributes
    ----------
    features : (n_views, n, n_features) of "train", (1, n, n_features) of the other splits.
    splits : (features, y) by split.
    """

    def __init__(
        self,
        task: HierarchyTask,
        encode: Callable[[Tensor], Tensor],
        n_views: int,
        generator: torch.Generator,
    ) -> None:
        if n_views < 1:
            raise BioplausError(f"n_views is {n_views!r}, but must be at least 1.")
        self.spec, self.config, self.y, self.coarse_of = (
            task.spec,
            task.config,
            task.y,
            task.coarse_of,
        )
        self.monitored, self.remark = task.monitored, task.remark
        self._digest = hashlib.sha256(f"{task.fingerprint} {n_views} views".encode()).hexdigest()
        n, device = len(task.y["train"]), task.y["train"].device
        views = []
        for _ in range(n_views):
            draws = [
                part.to(device).split(CHUNK) for part in (torch.arange(n), *task.draw(n, generator))
            ]
            views.append(
                torch.cat([encode(task.view(*parts)) for parts in zip(*draws, strict=True)])
            )
        self.features = {"train": torch.stack(views)}
        for split in task.y.keys() - {"train"}:
            self.features[split] = torch.cat([encode(x) for x in task.inputs(split)])[None]
        self.splits = {split: (self.features[split], y) for split, y in self.y.items()}

    def draws(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """The rows of each batch and the view of each of its images, drawn in this order."""
        self.n_batches(batch_size)
        y = self.y["train"]
        order = torch.randperm(len(y), generator=generator)
        views = torch.randint(len(self.features["train"]), (len(y),), generator=generator)
        return zip(*(part.to(y.device).split(batch_size) for part in (order, views)), strict=True)

    def batch_of(self, *draw: Tensor) -> tuple[Tensor, Tensor]:
        """Features, (batch, n_features), and labels, (batch, 2) int64."""
        rows, view = draw
        return self.features["train"][view, rows], self.y["train"].index_select(0, rows)

    def inputs(self, split: str) -> Iterator[Tensor]:
        """The features of a split, in order and in parts."""
        yield from self.features[split][0].split(CHUNK)


def score(predicted: Mapping[str, Tensor], y: Tensor, coarse_of: Tensor) -> dict[str, float]:
    """Fractions of images for which predictions are right.

    "fine_accuracy" and "coarse_accuracy" for the heads there are; with a fine head also
    "coarse_from_fine_accuracy": the superclass of the predicted class is right; with both also
    "consistency": it is the predicted superclass.

    Parameters
    ----------
    predicted : (n,) int64 by head, "fine", "coarse" or both.
    y : (n, 2) int64, class and superclass.
    coarse_of : (n_classes,) int64.
    """
    right = {
        f"{kind}_accuracy": predicted[kind] == y[:, k]
        for k, kind in enumerate(KINDS)
        if kind in predicted
    }
    if "fine" in predicted:
        superclass = coarse_of[predicted["fine"]]
        right["coarse_from_fine_accuracy"] = superclass == y[:, 1]
        if "coarse" in predicted:
            right["consistency"] = superclass == predicted["coarse"]
    return {name: values.double().mean().item() for name, values in right.items()}


def _n_held_out(settings: Config, n_train: int) -> int:
    """Number of training images that validate."""
    if settings.validation == "test":
        return 0
    return tasks.held_out(settings.validation_fraction, n_train, "validation_fraction")


def _plan(
    given: Config | str | None, values: Mapping[str, Any]
) -> tuple[Config, data.About, HierarchySpec]:
    """Check everything that can be checked without pixels."""
    settings = tasks.configure(Config, given, values, "hierarchies")
    about = data.about(settings.dataset)
    if "coarse" not in about.n_classes and about.name not in SUPERCLASSES:
        raise BioplausError(
            f"Data set {about.name} has no coarse labels; cifar100,"
            f" {', '.join(sorted(SUPERCLASSES))} have them, and a .npz that holds y_train_coarse"
            " and y_test_coarse, or coarse."
        )
    n_coarse = about.n_classes.get("coarse") or len(set(SUPERCLASSES[about.name]))
    tasks.check_available(settings, {"n_train": about.n_train, "n_test": about.n_test}, about.name)
    n_train = settings.n_train or about.n_train
    channels, height, width = about.shape
    if settings.pad >= min(height, width):
        raise BioplausError(
            f"pad is {settings.pad}, but must be below {min(height, width)}, the images' size in"
            " pixels."
        )
    specification = HierarchySpec(
        name=about.name,
        kind="hierarchy",
        n_in=channels * height * width,
        n_out=about.n_classes["fine"],
        n_coarse=n_coarse,
        image_shape=about.shape,
        n_train=n_train - _n_held_out(settings, n_train),
    )
    return settings, about, specification


def _labels(
    spec: HierarchySpec, labels: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """(n, 2) int64 labels of training and test images, and the superclass of each class."""
    coarse = labels.get("coarse") or [
        np.array(SUPERCLASSES[spec.name])[fine] for fine in labels["fine"]
    ]
    both = tuple(
        np.stack(pair, axis=1).astype(np.int64) for pair in zip(labels["fine"], coarse, strict=True)
    )
    pairs = np.unique(np.concatenate(both), axis=0)
    classes, counts = np.unique(pairs[:, 0], return_counts=True)
    if (counts > 1).any():
        doubled = classes[counts > 1][0]
        superclasses = pairs[pairs[:, 0] == doubled, 1].tolist()
        raise BioplausError(
            f"Class {doubled} of {spec.name} has images of superclasses {superclasses}, but must"
            " have one."
        )
    coarse_of = np.zeros(spec.n_out, dtype=np.int64)
    coarse_of[pairs[:, 0]] = pairs[:, 1]
    return both, coarse_of


def _digest(settings: Config, parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    names = ("validation", "validation_fraction", "pad", "use_flip")
    digest = hashlib.sha256(json.dumps([getattr(settings, name) for name in names]).encode())
    for array in (part for split in ("train", "test") for part in parts[split]):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
