"""Images seen a few pixels at a time: say which class it was, draw the class's line, or draw the
digit itself.

The pixels of an image, row by row, are cut into steps of `n_in`; the network answers after the last
step (target "class") or draws while it looks (targets "line" and "digit").
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bioplaus import config, metrics
from bioplaus import device as _device
from bioplaus.errors import BioplausError
from bioplaus.tasks import Spec
from bioplaus.tasks import datasets as data

RADIUS = 10.0  # length of a class's line, in units of the drawing
CHUNK = 1000  # images evaluated at once
DIGITS = (  # corners of the digits in the unit square, x to the right, y up
    ((0, 1), (0, 0.5), (0, 0), (0.5, 0), (1, 0), (1, 0.5), (1, 1), (0.5, 1), (0, 1)),
    ((0.25, 0.75), (0.5, 1), (0.5, 0.5), (0.5, 0)),
    ((0, 1), (0.5, 1), (1, 1), (0.5, 0.5), (0, 0), (0.5, 0), (1, 0)),
    ((0, 1), (0.5, 1), (1, 1), (1, 0.5), (0.5, 0.5), (1, 0.5), (1, 0), (0.5, 0), (0, 0)),
    ((0, 1), (0, 0.5), (0.5, 0.5), (1, 0.5), (0.5, 0.5), (0.5, 1), (0.5, 0.5), (0.5, 0)),
    (
        (0, 1),
        (0.5, 1),
        (1, 1),
        (0.5, 1),
        (0, 1),
        (0, 0.5),
        (0.5, 0.5),
        (1, 0.5),
        (1, 0),
        (0.5, 0),
        (0, 0),
    ),
    ((0, 1), (0, 0.5), (0, 0), (0.5, 0), (1, 0), (1, 0.5), (0.5, 0.5), (0, 0.5)),
    ((0, 1), (0.5, 1), (1, 1), (0.5, 0.5), (0, 0)),
    ((0, 1), (0.5, 0.5), (1, 0), (0.5, 0), (0, 0), (0.5, 0.5), (1, 1), (0.5, 1), (0, 1)),
    (
        (0, 1),
        (0, 0.5),
        (0.5, 0.5),
        (1, 0.5),
        (1, 1),
        (0.5, 1),
        (0, 1),
        (0.5, 1),
        (1, 1),
        (1, 0.5),
        (1, 0),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """Which images, cut how, with which answer. Defaults: published, but for the data set
    (mnist).
    """

    dataset: str = (
        "digits"  # name in the catalogue (`data.names()`) or path that ends in .npz; grey images
    )
    target: Literal["class", "line", "digit"] = "class"  # what the network answers
    n_in: int | None = None  # pixels per step; None: one row of the image
    classes: tuple[int, ...] | None = None  # classes used, in the order of their lines; None: all
    validation: float = 0.2  # fraction of the training images that validates
    n_train: int | None = (
        None  # training images used, those of the validation among them; None: all
    )
    n_test: int | None = None  # test images used; None: all
    shuffle: bool = False  # a new order every epoch; published: the same order every epoch
    seed: int = 0  # draws subsets and split

    def __post_init__(self) -> None:
        for name in ("n_in", "n_train", "n_test"):
            self.check(name, low=1)
        self.check("validation", low=0, high=1, open_low=True, open_high=True)
        config.check_seed(self.seed)
        if self.classes is not None and (
            not self.classes or len(set(self.classes)) < len(self.classes)
        ):
            raise BioplausError(
                f"classes is {list(self.classes)}, but must name one class or more, each once."
            )


def line_curves(n_classes: int, n_steps: int) -> np.ndarray:
    """Straight lines from the origin to 10 (sin, cos)(2 pi i / n_classes), (n_classes, n_steps, 2)
    float64.

    Both ends are included; units of the drawing.
    """
    angle = 2 * np.pi * np.arange(n_classes) / n_classes
    ends = RADIUS * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return ends[:, None] * np.linspace(0, 1, n_steps)[:, None]


def digit_curve(digit: int, n_steps: int) -> np.ndarray:
    """The digit's polyline in `n_steps` points, (n_steps, 2) float64, in the unit square.

    Of S segments each gets n_steps // S points, equally spaced from its start, its end left out;
    with a remainder r > 0 the first r - 1 segments get one more, without one the last gets one
    fewer; then the last corner follows.

    Raises
    ------
    BioplausError
        If there are fewer steps than corners.
    """
    corners = np.array(DIGITS[digit], dtype=float)
    if n_steps < len(corners):
        raise BioplausError(
            f"A sequence of {n_steps} steps is too short to draw a {digit}, whose polyline has"
            f" {len(corners)} corners; use more, smaller steps (n_in), or leave the class out"
            " (classes)."
        )
    n_segments = len(corners) - 1
    share, rest = divmod(n_steps, n_segments)
    counts = np.full(n_segments, share)
    if rest > 0:
        counts[: rest - 1] += 1
    else:
        counts[-1] -= 1
    parts = [
        np.linspace(a, b, n, endpoint=False)
        for a, b, n in zip(corners, corners[1:], counts, strict=False)
    ]
    return np.concatenate([*parts, corners[-1:]])


def sequences(pixels: np.ndarray, n_in: int) -> np.ndarray:
    """Images (n, 1, height, width) as sequences (n, height width / n_in, n_in), row by row."""
    return pixels.reshape(len(pixels), -1, n_in)


def spec(**values: Any) -> Spec:
    """What a rule must know of the task `load(**values)`; the values are checked, no pixel is
    read.
    """
    return _plan(values)[2]


def load(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, **values: Any
) -> "SequenceTask":
    """Read the images and put them on the device.

    Parameters
    ----------
    values : fields of `Config`.

    Raises
    ------
    BioplausError
        As `spec`, for missing or damaged files, and for a class that has no image.
    """
    settings, about, specification = _plan(values)
    images = data.read(settings.dataset)
    return SequenceTask(
        settings, specification, images, top=about.top, device=torch.device(device), dtype=dtype
    )


class SequenceTask:
    """Images as sequences; keeps the contract of `tasks.Task`.

    Attributes
    ----------
    spec : `Spec`.
    config : `Config`, with `n_in` and `classes` spelled out.
    curves : (n_classes, n_steps, 2) targets by class, or None for target "class".
    splits : (pixels, classes) by "train", "validation", "test": (n, n_steps, n_in) uint8, and (n,)
        int64, index into `config.classes`.
    """

    def __init__(
        self,
        settings: Config,
        specification: Spec,
        images: data.Images,
        *,
        top: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.config, self.spec, self._top, self._dtype = settings, specification, top, dtype
        generator = _device.generator(settings.seed, "split")
        train, test = (self._chosen(x, y, part) for x, y, part in _parts(images))
        train = _some(*train, settings.n_train, "n_train", generator)
        test = _some(*test, settings.n_test, "n_test", generator)
        order = torch.randperm(len(train[0]), generator=generator)
        n_train = len(order) - round(settings.validation * len(order))
        if not 0 < n_train < len(order):
            raise BioplausError(
                f"validation is {settings.validation}, which splits {len(order)} training images"
                f" into {n_train} and {len(order) - n_train}, but both parts need at least one."
            )
        rows = {"train": order[:n_train], "validation": order[n_train:]}
        self.splits = {
            name: tuple(part[chosen].to(device) for part in train) for name, chosen in rows.items()
        }
        self.splits["test"] = tuple(part.to(device) for part in test)
        curves = _curves(settings, specification.n_steps)
        self.curves = None if curves is None else torch.from_numpy(curves).to(device, dtype)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256, hexadecimal, of the settings (JSON) and of the pixels and classes of all splits,
        in their order.
        """
        digest = hashlib.sha256(json.dumps(self.config.to_dict()).encode())
        for x, y in self.splits.values():
            digest.update(f"{tuple(x.shape)}".encode())
            digest.update(x.cpu().numpy())
            digest.update(y.cpu().numpy())
        return digest.hexdigest()

    def n_batches(self, batch_size: int) -> int:
        """Number of batches in one epoch, the last partial one included."""
        return -(-len(self.splits["train"][0]) // batch_size)

    def batches(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of training batches (x, y); nothing is drawn unless `shuffle`, then one
        permutation.
        """
        x, y = self.splits["train"]
        if self.config.shuffle:
            order = torch.randperm(len(x), generator=generator).to(x.device)
            for rows in order.split(batch_size):
                yield self._prepared(x[rows], y[rows])
        else:
            for part in zip(x.split(batch_size), y.split(batch_size), strict=True):
                yield self._prepared(*part)

    def evaluate(self, rule: torch.nn.Module) -> dict[str, float]:
        """On the validation images: "val_nll", "val_accuracy", "val_certainty"; or of a drawing
        "val_mse".
        """
        found = self._measure(rule, "validation")
        return {name: value for name, value in found.items() if name != "val_dysmetria"}

    def evaluate_test(self, rule: torch.nn.Module) -> dict[str, float]:
        """The same on the test images, and of a drawing "test_dysmetria"; to be asked once, after
        training.
        """
        return self._measure(rule, "test")

    @torch.no_grad()
    def outputs(self, rule: torch.nn.Module) -> dict[str, np.ndarray]:
        """What the network answers to the first test image of every class.

        Returns
        -------
        label : (n_classes,). drawn, target : (n_classes, T, 2), units of the drawing; or of a
            classification
        probability : (n_classes, n_classes).
        """
        pixels, classes = self.splits["test"]
        first = torch.stack(
            [(classes == i).int().argmax() for i in range(len(self.config.classes))]
        )
        x, y = self._prepared(pixels[first], classes[first])
        found, label = rule.predict(x), np.array(self.config.classes)
        if self.curves is None:
            return {"label": label, "probability": found.double().softmax(1).cpu().numpy()}
        return {
            "label": label,
            "drawn": found.double().cpu().numpy(),
            "target": y.double().cpu().numpy(),
        }

    def _prepared(self, pixels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        x = pixels.to(self._dtype).div_(self._top)
        return x, classes if self.curves is None else self.curves[classes]

    @torch.no_grad()
    def _measure(self, rule: torch.nn.Module, split: str) -> dict[str, float]:
        pixels, classes = self.splits[split]
        sums: dict[str, Tensor] = {}
        for part in zip(pixels.split(CHUNK), classes.split(CHUNK), strict=True):
            x, y = self._prepared(*part)
            found = rule.predict(x)
            if self.curves is None:
                means = {
                    "nll": functional.cross_entropy(found, y),
                    "accuracy": metrics.accuracy(found, y),
                    "certainty": metrics.certainty(found),
                }
            else:
                means = {
                    "mse": metrics.squared_distance(found, y),
                    "dysmetria": metrics.dysmetria(found, y),
                }
            for name, value in means.items():
                sums[name] = sums.get(name, 0) + value.double() * len(x)
        prefix = "val" if split == "validation" else split
        return {f"{prefix}_{name}": (value / len(pixels)).item() for name, value in sums.items()}

    def _chosen(self, pixels: np.ndarray, labels: np.ndarray, part: str) -> tuple[Tensor, Tensor]:
        """Sequences and class indices of the images whose class is used."""
        classes = np.array(self.config.classes)
        missing = [int(c) for c in classes if not (labels == c).any()]
        if missing:
            raise BioplausError(
                f"{self.spec.name} has no {part} image of class {', '.join(map(str, missing))},"
                f" which classes {classes.tolist()} asks for."
            )
        kept = np.isin(labels, classes)
        order = np.argsort(classes)
        index = order[np.searchsorted(classes, labels[kept], sorter=order)]
        return torch.from_numpy(sequences(pixels[kept], self.config.n_in)), torch.from_numpy(
            index.astype(np.int64)
        )


def _parts(images: data.Images) -> list[tuple[np.ndarray, np.ndarray, str]]:
    train, test = images.labels["fine"]
    return [(images.x_train, train, "training"), (images.x_test, test, "test")]


def _some(
    x: Tensor, y: Tensor, n: int | None, name: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`n` of the images, drawn without replacement; all, in stored order, for None."""
    if n is None:
        return x, y
    if n > len(x):
        raise BioplausError(f"{name} is {n}, but there are only {len(x)} such images.")
    rows = torch.randperm(len(x), generator=generator)[:n]
    return x[rows], y[rows]


def _curves(settings: Config, n_steps: int) -> np.ndarray | None:
    """Targets by class, (n_classes, n_steps, 2), or None for a classification."""
    if settings.target == "class":
        return None
    if settings.target == "line":
        return line_curves(len(settings.classes), n_steps)
    return np.stack([digit_curve(c, n_steps) for c in settings.classes])


def _plan(values: dict[str, Any]) -> tuple[Config, data.About, Spec]:
    """Check everything that can be checked without pixels."""
    settings = Config.from_dict(values, kind="parameter of seqmnist:")
    about = data.about(settings.dataset)
    n_channels, height, width = about.shape
    if n_channels != 1:
        raise BioplausError(
            f"{about.name} has images of {n_channels} colours, but this task needs grey ones."
        )
    n_in, n_classes = settings.n_in or width, about.n_classes["fine"]
    if height * width % n_in:
        raise BioplausError(
            f"n_in is {n_in}, which does not divide the {height * width} pixels of {about.name}."
        )
    classes = settings.classes or tuple(range(n_classes))
    if beyond := [c for c in classes if not 0 <= c < n_classes]:
        raise BioplausError(
            f"classes names {beyond[0]}, but {about.name} has the classes 0 to {n_classes - 1}."
        )
    if settings.target == "digit" and max(classes) >= len(DIGITS):
        raise BioplausError(
            f"Only the digits 0 to 9 can be drawn, but {about.name} has a class {max(classes)}."
        )
    settings = dataclasses.replace(settings, n_in=n_in, classes=classes)
    n_steps = height * width // n_in
    _curves(settings, n_steps)  # raises where the sequence is too short
    kind, n_out = ("classification", len(classes)) if settings.target == "class" else ("drawing", 2)
    return (
        settings,
        about,
        Spec(name=about.name, kind=kind, n_in=n_in, n_out=n_out, n_steps=n_steps),
    )
