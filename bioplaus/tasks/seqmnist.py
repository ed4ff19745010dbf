"""Images seen a few pixels at a time: say which class it was, draw the class's line, or draw the
digit itself.

The pixels of an image, row by row, are cut into steps of `n_in`; the network answers after the last
step (target "class") or draws while it looks (targets "line" and "digit").
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bioplaus import config, metrics, tasks
from bioplaus import device as _device
from bioplaus.errors import BioplausError
from bioplaus.tasks import Spec
from bioplaus.tasks import datasets as data

RADIUS = 10.0  # length of a class's line, in units of the drawing
CHUNK = 1000  # images evaluated at once
# fmt: off
DIGITS = (  # corners of the digits in the unit square, x to the right, y up
    ((0, 1), (0, 0.5), (0, 0), (0.5, 0), (1, 0), (1, 0.5), (1, 1), (0.5, 1), (0, 1)),
    ((0.25, 0.75), (0.5, 1), (0.5, 0.5), (0.5, 0)),
    ((0, 1), (0.5, 1), (1, 1), (0.5, 0.5), (0, 0), (0.5, 0), (1, 0)),
    ((0, 1), (0.5, 1), (1, 1), (1, 0.5), (0.5, 0.5), (1, 0.5), (1, 0), (0.5, 0), (0, 0)),
    ((0, 1), (0, 0.5), (0.5, 0.5), (1, 0.5), (0.5, 0.5), (0.5, 1), (0.5, 0.5), (0.5, 0)),
    (
        (0, 1), (0.5, 1), (1, 1), (0.5, 1), (0, 1), (0, 0.5), (0.5, 0.5), (1, 0.5), (1, 0),
        (0.5, 0), (0, 0),
    ),
    ((0, 1), (0, 0.5), (0, 0), (0.5, 0), (1, 0), (1, 0.5), (0.5, 0.5), (0, 0.5)),
    ((0, 1), (0.5, 1), (1, 1), (0.5, 0.5), (0, 0)),
    ((0, 1), (0.5, 0.5), (1, 0), (0.5, 0), (0, 0), (0.5, 0.5), (1, 1), (0.5, 1), (0, 1)),
    (
        (0, 1), (0, 0.5), (0.5, 0.5), (1, 0.5), (1, 1), (0.5, 1), (0, 1), (0.5, 1), (1, 1),
        (1, 0.5), (1, 0),
    ),
)
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """Which images, cut how, with which answer. Defaults: published, but for the data set
    (mnist).
    """

    # name in the catalogue (`data.names()`), or path of a .npz or folder; grey images
    dataset: str = "digits"
    target: Literal["class", "line", "digit"] = "class"  # what the network answers
    n_in: int | None = None  # pixels per step; None: one row of the image
    classes: tuple[int, ...] | None = None  # classes used, in the order of their lines; None: all
    validation: float = 0.2  # fraction of the training images that validates
    # training images used, those of the validation among them; None: all
    n_train: int | None = None
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


def spec(config: Config | str | None = None, /, **values: Any) -> Spec:
    """What a rule must know of the task that `load` gives for the same arguments; no pixel is
    read.
    """
    return _plan(config, values).spec


def load(
    config: Config | str | None = None,
    /,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    download: bool = True,
    **values: Any,
) -> "SequenceTask":
    """Read the images and put them on the device.

    Parameters
    ----------
    config, values : fields of `Config`.
    device, dtype : of the sequences a rule sees.
    download : fetch the set if it is missing; False never touches the network.

    Raises
    ------
    BioplausError
        As `spec`, for missing or damaged files, and for a class that has no image.
    """
    plan = _plan(config, values)
    images = data.read(plan.config.dataset, download=download)
    chosen = _device.pick(device) if isinstance(device, str) else device
    return SequenceTask(plan, images, device=chosen, dtype=dtype)


class Plan(NamedTuple):
    """What is known of a task before a pixel is read."""

    config: Config  # with `n_in` and `classes` spelled out
    classes: tuple[int, ...]
    n_in: int
    n_steps: int
    top: int  # largest possible grey level
    spec: Spec


class SequenceTask(tasks.Task[Config, tuple[Tensor, Tensor]]):
    """Images as sequences.

    Attributes
    ----------
    config : `Config`, with `n_in` and `classes` spelled out.
    curves : (n_classes, n_steps, 2) targets by class, or None for target "class".
    splits : (pixels, classes) by "train", "validation", "test": (n, n_steps, n_in) uint8, and (n,)
        int64, index into `config.classes`.
    """

    recorded_names = {"validation": "val"}

    def __init__(
        self, plan: Plan, images: data.Images, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config, self.spec, self._plan, self._dtype = plan.config, plan.spec, plan, dtype
        settings, self.remark = plan.config, images.remark
        generator = _device.generator(settings.seed, "split")
        y_train, y_test = images.labels["fine"]
        train = self._chosen(images.x_train, y_train, "training")
        test = self._chosen(images.x_test, y_test, "test")
        train = _some(*train, settings.n_train, "n_train", generator)
        test = _some(*test, settings.n_test, "n_test", generator)
        order = torch.randperm(len(train[0]), generator=generator)
        n_train = len(order) - tasks.held_out(settings.validation, len(order))
        rows = {"train": order[:n_train], "validation": order[n_train:]}
        splits = {split: (train[0][chosen], train[1][chosen]) for split, chosen in rows.items()}
        splits["test"] = test
        self.splits = {split: (x.to(device), y.to(device)) for split, (x, y) in splits.items()}
        self.monitored = ("validation",)
        curves = _curves(settings.target, plan.classes, plan.n_steps)
        self.curves = None if curves is None else torch.from_numpy(curves).to(device, dtype)

    def _fingerprint(self) -> str:
        """sha256, hexadecimal, of the settings (JSON) and of the pixels and classes of all splits,
        in their order.
        """
        digest = hashlib.sha256(json.dumps(self.config.to_dict()).encode())
        for x, y in self.splits.values():
            digest.update(f"{tuple(x.shape)}".encode())
            digest.update(x.cpu().numpy().data)
            digest.update(y.cpu().numpy().data)
        return digest.hexdigest()

    @property
    def n_train(self) -> int:
        """Number of training images, those of the validation not among them."""
        return len(self.splits["train"][0])

    def draws(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor]]:
        """The rows of each batch; nothing is drawn unless `shuffle`, then one permutation."""
        n, device = self.n_train, self.splits["train"][0].device
        order = torch.randperm(n, generator=generator) if self.config.shuffle else torch.arange(n)
        for rows in order.to(device).split(batch_size):
            yield (rows,)

    def batch_of(self, *draw: Tensor) -> tuple[Tensor, Tensor]:
        """(x, y) as a rule sees them."""
        pixels, classes = (part.index_select(0, *draw) for part in self.splits["train"])
        return self._prepared(pixels, classes)

    def measure(self, rule: Any, split: str) -> dict[str, Tensor]:
        """ "nll", "accuracy" and "certainty"; or of a drawing "mse", and in the test also
        "dysmetria".
        """
        pixels, classes = self.splits[split]
        sums: dict[str, Tensor] = {}
        for part in zip(pixels.split(CHUNK), classes.split(CHUNK), strict=True):
            x, y = self._prepared(*part)
            outputs = rule.predict(x)
            if self.curves is None:
                means = {
                    "nll": functional.cross_entropy(outputs, y),
                    "accuracy": metrics.accuracy(outputs, y),
                    "certainty": metrics.certainty(outputs),
                }
            else:
                means = {"mse": metrics.squared_distance(outputs, y)}
                if split == "test":
                    means["dysmetria"] = metrics.dysmetria(outputs, y)
            for name, value in means.items():
                sums[name] = sums.get(name, 0) + value.double() * len(x)
        return {name: value / len(pixels) for name, value in sums.items()}

    @torch.no_grad()
    def outputs(self, rule: Any) -> dict[str, np.ndarray]:
        """What the network answers to the first test image of every class.

        Returns
        -------
        label : (n_classes,). drawn, target : (n_classes, T, 2), units of the drawing; or of a
            classification
        probability : (n_classes, n_classes).
        """
        pixels, classes = self.splits["test"]
        first = torch.stack([(classes == i).int().argmax() for i in range(len(self._plan.classes))])
        x, y = self._prepared(pixels[first], classes[first])
        outputs, label = rule.predict(x), np.array(self._plan.classes)
        if self.curves is None:
            return {"label": label, "probability": outputs.double().softmax(1).cpu().numpy()}
        return {
            "label": label,
            "drawn": outputs.double().cpu().numpy(),
            "target": y.double().cpu().numpy(),
        }

    def _prepared(self, pixels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        x = pixels.to(self._dtype).div_(self._plan.top)
        return x, classes if self.curves is None else self.curves[classes]

    def _chosen(self, pixels: np.ndarray, labels: np.ndarray, part: str) -> tuple[Tensor, Tensor]:
        """Sequences and class indices of the images whose class is used."""
        classes = np.array(self._plan.classes)
        missing = [int(c) for c in classes if not (labels == c).any()]
        if missing:
            raise _no_image(self.spec.name, part, missing, self._plan.classes)
        kept = np.isin(labels, classes)
        order = np.argsort(classes)
        index = order[np.searchsorted(classes, labels[kept], sorter=order)]
        return (
            torch.from_numpy(sequences(pixels[kept], self._plan.n_in)),
            torch.from_numpy(index.astype(np.int64)),
        )


def _no_image(
    name: str, part: str, missing: Sequence[int], classes: Sequence[int]
) -> BioplausError:
    return BioplausError(
        f"{name} has no {part} image of class {', '.join(map(str, missing))}, which classes"
        f" {list(classes)} asks for; name the classes that have images in classes."
    )


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


def _curves(target: str, classes: tuple[int, ...], n_steps: int) -> np.ndarray | None:
    """Targets by class, (n_classes, n_steps, 2), or None for a classification."""
    if target == "class":
        return None
    if target == "line":
        return line_curves(len(classes), n_steps)
    return np.stack([digit_curve(c, n_steps) for c in classes])


def _plan(given: Config | str | None, values: Mapping[str, Any]) -> Plan:
    """Check everything that can be checked without pixels."""
    settings = tasks.configure(Config, given, values, "seqmnist")
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
    for part, counts in (about.counts or {}).items():
        if empty := [c for c in classes if not counts[c]]:
            raise _no_image(about.name, "training" if part == "train" else part, empty, classes)
    if settings.target == "digit" and max(classes) >= len(DIGITS):
        raise BioplausError(
            f"Only the digits 0 to 9 can be drawn, but {about.name} has a class {max(classes)}."
        )
    n_steps = height * width // n_in
    _curves(settings.target, classes, n_steps)  # raises where the sequence is too short
    is_part = settings.classes is not None
    used = _n_used(about, classes if is_part else None)
    asked_of = f"{about.name} with classes {list(classes)}" if is_part else about.name
    tasks.check_available(settings, used, asked_of)
    n_train = settings.n_train or used.get("n_train")
    is_class = settings.target == "class"
    return Plan(
        config=dataclasses.replace(settings, n_in=n_in, classes=classes),
        classes=classes,
        n_in=n_in,
        n_steps=n_steps,
        top=about.top,
        spec=Spec(
            name=about.name,
            kind="classification" if is_class else "drawing",
            n_in=n_in,
            n_out=len(classes) if is_class else 2,
            n_steps=n_steps,
            n_train=n_train and n_train - tasks.held_out(settings.validation, n_train),
        ),
    )


def _n_used(about: data.About, classes: tuple[int, ...] | None) -> dict[str, int]:
    """How many images of these classes there are, by field, as far as they were counted; None takes
    all classes.
    """
    if classes is None:
        return {"n_train": about.n_train, "n_test": about.n_test}
    counts = about.counts or {}
    return {f"n_{part}": int(n[list(classes)].sum()) for part, n in counts.items()}
