"""Image classification: a data set as float tensors, shuffled batches, and accuracy.

`load("mnist")` is all a notebook needs. Pixels are first brought to [0, 1] (grey level / largest
possible one), then prepared by the function called `preprocessing`; to add one, write the function
and enter it in `PREPROCESSING`.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bioplaus import config, metrics, tasks
from bioplaus import device as _device
from bioplaus.errors import BioplausError, unknown
from bioplaus.tasks import Spec
from bioplaus.tasks import datasets as data

CHUNK = {
    "cpu": 1_000,
    "cuda": 10_000,
}  # images predicted at once; on a CPU 250 to 5,000 differ by less than 10 %


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """Which images, prepared how."""

    dataset: str = "synthetic"  # name in the catalogue (`data.names()`) or path that ends in .npz
    preprocessing: str | None = (
        None  # key of PREPROCESSING; None takes what the CorInfoMax paper used for the data set
    )
    labels: Literal["fine", "coarse"] = "fine"  # which labels are learned
    n_train: int | None = (
        None  # training images used (validation images among them); None takes all
    )
    n_test: int | None = None  # test images used; None takes all
    validation: float = 0.0  # fraction of the n_train images held out as validation set
    seed: int = 0  # draws which images are held out; without a validation set it has no effect

    def __post_init__(self) -> None:
        self.check("n_train", low=1)
        self.check("n_test", low=1)
        self.check("validation", low=0.0, high=1.0, open_high=True)
        config.check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """A way to prepare images."""

    prepare: Callable[
        [Tensor], Tensor
    ]  # (n, channels, height, width) in [0, 1], of one split; may change it in place
    n_channels: int | None = None  # channels it is made for; None: any
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = (
        None  # of each training batch, already prepared
    )


def unit(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1], flattened row by row: MNIST and Fashion-MNIST of the CorInfoMax paper.

    Parameters
    ----------
    pixels : (n, channels, height, width), float, in [0, 1], dimensionless.

    Returns
    -------
    (n, channels * height * width), float.
    """
    return pixels.flatten(1)


def corinfomax(pixels: Tensor) -> Tensor:
    """CIFAR of the CorInfoMax paper: (pixel - mean) / (3 std) per colour, flattened colour by
    colour.

    mean = (0.4914, 0.4822, 0.4465), std = (0.2023, 0.1994, 0.2010) for red, green, blue (published
    code).

    Parameters
    ----------
    pixels : (n, 3, height, width), float, in [0, 1], dimensionless; changed in place.

    Returns
    -------
    (n, 3 * height * width), float.
    """
    mean = pixels.new_tensor((0.4914, 0.4822, 0.4465)).view(3, 1, 1)
    deviation = 3 * pixels.new_tensor((0.2023, 0.1994, 0.2010)).view(3, 1, 1)
    return pixels.sub_(mean).div_(deviation).flatten(1)


PREPROCESSING = {
    "unit": Preprocessing(prepare=unit),
    "corinfomax": Preprocessing(prepare=corinfomax, n_channels=3),
}
_DEFAULT = {
    "cifar10": "corinfomax",
    "cifar100": "corinfomax",
    "cifar10-jpeg": "corinfomax",
}  # else "unit"


def spec(dataset: str, **values: Any) -> Spec:
    """What a rule must know of the task `load(dataset, **values)`, checked but without reading a
    pixel.

    Parameters
    ----------
    dataset, values : fields of `Config`.

    Raises
    ------
    BioplausError
        Unknown names, values out of range, more images asked for than there are, labels or
        preprocessing that the data set does not have.
    """
    return _plan({"dataset": dataset, **values})[2]


def load(
    dataset: str,
    *,
    preprocessing: str | None = None,
    labels: str = "fine",
    n_train: int | None = None,
    n_test: int | None = None,
    validation: float = 0.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    download: bool = True,
) -> "ImageTask":
    """Read, check, prepare a data set and put it on the device.

    Parameters
    ----------
    dataset : name in the catalogue ("digits", "mnist", "cifar10-jpeg", ...) or path of a .npz
        (`data.read`).
    preprocessing : key of `PREPROCESSING`; None takes what the CorInfoMax paper used for the data
        set ("unit" where it used none).
    labels : "fine", or "coarse" where the data set has superclasses.
    n_train, n_test : use so many images: the first of a fixed permutation (numpy's RandomState(0)),
        in stored order. A smaller subset is part of a larger one.
    validation : fraction of the training images held out, rounded to whole images, drawn with
        RandomState(seed) after preprocessing.
    seed : of the validation set only; the order of batches comes from the generator given to
        `batches`.
    device, dtype : of the prepared tensors.
    download : fetch the set if it is missing; False never touches the network.

    Raises
    ------
    BioplausError
        As `spec`, and where files are missing, cut short or damaged (file, expected and found are
        named).
    """
    settings, about, specification = _plan(
        {
            "dataset": dataset,
            "preprocessing": preprocessing,
            "labels": labels,
            "n_train": n_train,
            "n_test": n_test,
            "validation": validation,
            "seed": seed,
        }
    )
    place = _device.pick(device) if isinstance(device, str) else device
    images = data.read(dataset, download=download)
    train, test = _first(settings.n_train, about.n_train), _first(settings.n_test, about.n_test)
    images = data.Images(
        x_train=images.x_train[train],
        x_test=images.x_test[test],
        labels={kind: (parts[0][train], parts[1][test]) for kind, parts in images.labels.items()},
    )
    return ImageTask(specification, settings, images, top=about.top, device=place, dtype=dtype)


def check_batch_size(
    batch_size: int, dataset: str, *, name: str = "batch_size", **values: Any
) -> None:
    """Raise `BioplausError` unless a batch of this size fits into the training images of
    `load(dataset, **values)`.

    Parameters
    ----------
    name : what the size is called, for the error.
    """
    settings, about, _ = _plan({"dataset": dataset, **values})
    n_train = settings.n_train or about.n_train
    tasks.check_batch_size(batch_size, n_train - round(settings.validation * n_train), name)


class ImageTask:
    """Images to classify; keeps the contract of `tasks.Task`.

    Attributes
    ----------
    spec : `Spec`.
    config : `Config`, with the preprocessing spelled out; `config.to_dict()` belongs in a run's
        record.
    images : the chosen images as they are stored (uint8, and every kind of label), on the CPU.
    splits : (x, y) by "train", "validation" (where there is one) and "test". x: (n, n_in) float, or
        as the preprocessing shapes it; y: (n,) int64 class indices.
    """

    def __init__(
        self,
        spec: Spec,
        config: Config,
        images: data.Images,
        *,
        top: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.spec, self.config, self.images = spec, config, images
        way = PREPROCESSING[config.preprocessing]
        self._augment = way.augment

        def prepared(pixels: np.ndarray) -> Tensor:
            return way.prepare(torch.from_numpy(pixels).to(device).to(dtype).div_(top))

        y_train, y_test = (
            torch.from_numpy(part).to(device) for part in images.labels[config.labels]
        )
        x_train = prepared(images.x_train)
        self.splits = {"train": (x_train, y_train)}
        if n_held_out := round(config.validation * len(x_train)):
            order = np.random.RandomState(config.seed).permutation(len(x_train))
            parts = {"train": order[n_held_out:], "validation": order[:n_held_out]}
            parts = {
                split: torch.from_numpy(np.sort(rows)).to(device) for split, rows in parts.items()
            }
            self.splits = {split: (x_train[rows], y_train[rows]) for split, rows in parts.items()}
        self.splits["test"] = (prepared(images.x_test), y_test)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256, hexadecimal, of the chosen images as stored, all their labels, and how they are
        prepared and split.

        Covers, in this order: preprocessing, kind of label, validation fraction (and its seed where
        it is not 0) as JSON; then shape and bytes of x_train, x_test (uint8) and of every kind of
        labels, train and test (int64).
        """
        settings = self.config
        split = [settings.validation, settings.seed] if settings.validation else None
        digest = hashlib.sha256(
            json.dumps([settings.preprocessing, settings.labels, split]).encode()
        )
        kinds = [part for kind in sorted(self.images.labels) for part in self.images.labels[kind]]
        for array in (self.images.x_train, self.images.x_test, *kinds):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def n_batches(self, batch_size: int) -> int:
        """Number of batches in one epoch, the last partial one included."""
        n_train = len(self.splits["train"][0])
        tasks.check_batch_size(batch_size, n_train)
        return -(-n_train // batch_size)

    def batches(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of training batches (x, y) in an order drawn from `generator`; each image comes
        once.

        Every batch is a new pair of tensors. The last one is smaller where `batch_size` does not
        divide the number of images.

        Parameters
        ----------
        generator : CPU generator; one permutation is drawn, then what the preprocessing's
            augmentation needs.
        """
        self.n_batches(batch_size)
        x, y = self.splits["train"]
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in order.split(batch_size):
            batch = x.index_select(0, rows)
            yield (
                (batch if self._augment is None else self._augment(batch, generator)),
                y.index_select(0, rows),
            )

    @torch.no_grad()
    def evaluate(self, rule: torch.nn.Module) -> dict[str, float]:
        """Fraction of images classified right, by "train_accuracy", "validation_accuracy",
        "test_accuracy".

        With 100 classes or more also "train_top5_accuracy" and so on: the label is among the five
        largest outputs. The host waits for the device once, at the end.
        """
        depths = {"accuracy": 1, "top5_accuracy": 5} if self.spec.n_out >= 100 else {"accuracy": 1}
        fractions = {}
        for split, (x, y) in self.splits.items():
            rows = CHUNK.get(x.device.type, CHUNK["cpu"])
            right = dict.fromkeys(depths, 0)
            for inputs, labels in zip(x.split(rows), y.split(rows), strict=True):
                outputs = rule.predict(inputs)
                for (
                    name,
                    k,
                ) in depths.items():  # counted at once: a rule may use its output tensor again
                    right[name] = (
                        right[name] + (metrics.accuracy(outputs, labels, k) * len(labels)).round()
                    )
            for name, count in right.items():
                fractions[f"{split}_{name}"] = count / len(y)
        return dict(zip(fractions, torch.stack(list(fractions.values())).tolist(), strict=True))


def _plan(values: dict[str, Any]) -> tuple[Config, data.About, Spec]:
    """Check everything that can be checked without pixels."""
    settings = Config.from_dict(values, kind="parameter of images")
    about = data.about(settings.dataset)
    name = settings.preprocessing or _DEFAULT.get(about.name, "unit")
    if name not in PREPROCESSING:
        raise unknown("preprocessing", name, PREPROCESSING)
    n_channels = PREPROCESSING[name].n_channels
    if n_channels not in (None, about.shape[0]):
        raise BioplausError(
            f"preprocessing {name!r} is for images of {n_channels} channels, but those of"
            f" {about.name} have {about.shape[0]}."
        )
    if settings.labels not in about.n_classes:
        raise BioplausError(
            f"{about.name} has no {settings.labels} labels, only {', '.join(about.n_classes)}."
        )
    for field, available in (("n_train", about.n_train), ("n_test", about.n_test)):
        wanted = getattr(settings, field)
        if wanted is not None and wanted > available:
            raise BioplausError(
                f"{field} is {wanted}, but {about.name} has {available} such images."
            )
    n_train = settings.n_train or about.n_train
    n_held_out = round(settings.validation * n_train)
    if n_held_out == n_train or (settings.validation and not n_held_out):
        raise BioplausError(
            f"validation is {settings.validation}, which holds out {n_held_out} of {n_train}"
            " training images, but both parts need at least one."
        )
    channels, height, width = about.shape
    specification = Spec(
        name=about.name,
        kind="classification",
        n_in=channels * height * width,
        n_out=about.n_classes[settings.labels],
        image_shape=about.shape,
    )
    return dataclasses.replace(settings, preprocessing=name), about, specification


def _first(n: int | None, available: int) -> np.ndarray | slice:
    """Rows of a subset: the first `n` of a fixed permutation, in stored order, as data may be
    sorted by class.
    """
    if n is None:
        return slice(None)
    return np.sort(np.random.RandomState(0).permutation(available)[:n])
