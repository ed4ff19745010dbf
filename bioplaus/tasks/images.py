"""Image classification: a data set as float tensors, shuffled batches, and accuracy.

`load("mnist")` is all a notebook needs. Pixels are first brought to [0, 1] (grey level / largest
possible one), then prepared by the function called `preprocessing` (see `preprocessing.py`).
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
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
from bioplaus.tasks.preprocessing import PREPROCESSING, Preprocessing

__all__ = ["PREPROCESSING", "Config", "ImageTask", "Preprocessing", "load", "spec", "subset"]

# images predicted at once; on a CPU 250 to 5,000 differ by less than 10 %
CHUNK = {"cpu": 1_000, "cuda": 10_000}
# what the CorInfoMax paper used for a data set, else "unit"
_DEFAULT = {"cifar10": "corinfomax", "cifar100": "corinfomax", "cifar10-jpeg": "corinfomax"}


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """Which images, prepared how."""

    dataset: str = (
        "synthetic"  # name in the catalogue (`data.names()`), or path of a .npz or folder
    )
    # key of PREPROCESSING; None takes what the CorInfoMax paper used for the data set
    preprocessing: str | None = None
    labels: Literal["fine", "coarse"] = "fine"  # which labels are learned
    # training images used (validation images among them); None takes all
    n_train: int | None = None
    n_test: int | None = None  # test images used; None takes all
    validation: float = 0.0  # fraction of the n_train images held out as validation set
    seed: int = 0  # draws which images are held out; without a validation set it has no effect

    def __post_init__(self) -> None:
        self.check("n_train", low=1)
        self.check("n_test", low=1)
        self.check("validation", low=0.0, high=1.0, open_high=True)
        config.check_seed(self.seed)


def spec(config: Config | str | None = None, /, **values: Any) -> Spec:
    """What a rule must know of the task that `load` gives for the same arguments; no pixel is read.

    Raises
    ------
    BioplausError
        Unknown names, values out of range, more images asked for than there are, labels or
        preprocessing that the data set does not have.
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
) -> "ImageTask":
    """Read, check, prepare a data set and put it on the device.

    Parameters
    ----------
    config, values : fields of `Config`. Of `n_train` and `n_test` images the first of a fixed
        permutation (numpy's RandomState(0)) are used, in stored order, so a smaller subset is part
        of a larger one. Validation images are drawn from the training images with
        RandomState(seed). The order of batches comes from the generator given to `batches`.
    device, dtype : of the prepared tensors.
    download : fetch the set if it is missing; False never touches the network.

    Raises
    ------
    BioplausError
        As `spec`, and where files are missing, cut short or damaged (file, expected and found are
        named).
    """
    settings, about, specification = _plan(config, values)
    images = data.read(settings.dataset, download=download)
    train = subset(settings.n_train, about.n_train)
    test = subset(settings.n_test, about.n_test)
    images = data.Images(
        x_train=images.x_train[train],
        x_test=images.x_test[test],
        labels={kind: (parts[0][train], parts[1][test]) for kind, parts in images.labels.items()},
        remark=images.remark,
    )
    return ImageTask(
        specification,
        settings,
        images,
        top=about.top,
        device=_device.pick(device) if isinstance(device, str) else device,
        dtype=dtype,
    )


class ImageTask(tasks.Task[Config, tuple[Tensor, Tensor]]):
    """Images to classify.

    Attributes
    ----------
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
        self.remark = images.remark
        way = PREPROCESSING[config.preprocessing or "unit"]
        self._augment = way.augment

        def prepared(pixels: np.ndarray) -> Tensor:
            return way.prepare(torch.from_numpy(pixels).to(device).to(dtype).div_(top))

        y_train, y_test = (
            torch.from_numpy(part).to(device) for part in images.labels[config.labels]
        )
        x_train = prepared(images.x_train)
        splits = {"train": (x_train, y_train)}
        if n_held_out := tasks.held_out(config.validation, len(x_train)):
            order = np.random.RandomState(config.seed).permutation(len(x_train))
            parts = {"train": order[n_held_out:], "validation": order[:n_held_out]}
            rows = {
                split: torch.from_numpy(np.sort(part)).to(device) for split, part in parts.items()
            }
            splits = {split: (x_train[part], y_train[part]) for split, part in rows.items()}
        splits["test"] = (prepared(images.x_test), y_test)
        if way.finish is not None:
            finished = way.finish({split: x for split, (x, _) in splits.items()})
            splits = {split: (finished[split], y) for split, (_, y) in splits.items()}
        for split, (x, _) in splits.items():
            tasks.finite(x, f"{split} inputs, prepared by {config.preprocessing},")
        self.splits, self.monitored = splits, tuple(splits)

    @property
    def n_train(self) -> int:
        """Number of training images, those held out not among them."""
        return len(self.splits["train"][0])

    def _fingerprint(self) -> str:
        """sha256, hexadecimal, of the chosen images as stored, all their labels, and how they are
        prepared and split.

        Covers, in this order: preprocessing, kind of label, validation fraction (and its seed where
        it is not 0) as JSON; then shape and bytes of x_train, x_test (uint8) and of every kind of
        labels, train and test (int64).
        """
        return self.fingerprint_as(self.config.preprocessing)

    def fingerprint_as(self, preprocessing: str | None) -> str:
        """What `fingerprint` would be under another name of the preprocessing."""
        settings = self.config
        split = [settings.validation, settings.seed] if settings.validation else None
        digest = hashlib.sha256(json.dumps([preprocessing, settings.labels, split]).encode())
        kinds = [part for kind in sorted(self.images.labels) for part in self.images.labels[kind]]
        for array in (self.images.x_train, self.images.x_test, *kinds):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def draws(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """The rows of each batch, in an order drawn from `generator`; each image comes once, and
        the last batch is smaller where `batch_size` does not divide their number. Where the
        preprocessing augments, the batches (x, y) themselves.

        Parameters
        ----------
        generator : CPU generator; one permutation is drawn, then what the preprocessing's
            augmentation needs.
        """
        self.n_batches(batch_size)
        x, y = self.splits["train"]
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in order.split(batch_size):
            if self._augment is None:
                yield (rows,)
            else:
                batch = x.index_select(0, rows)
                yield self._augment(batch, generator), y.index_select(0, rows)

    def batch_of(self, *draw: Tensor) -> tuple[Tensor, ...]:
        """New tensors (x, y): (batch, n_in) float, (batch,) int64."""
        if self._augment is not None:
            return draw
        return tuple(part.index_select(0, *draw) for part in self.splits["train"])

    def measure(self, rule: Any, split: str) -> dict[str, Tensor]:
        """ "accuracy", the fraction of images classified right; with 100 classes or more also
        "top5_accuracy": the label is among the five largest outputs.

        Counted, not averaged, so that the number of images predicted at once does not matter.
        """
        depths = {"accuracy": 1, "top5_accuracy": 5} if self.spec.n_out >= 100 else {"accuracy": 1}
        x, y = self.splits[split]
        right: dict[str, Any] = dict.fromkeys(depths, 0)
        n_rows = CHUNK.get(x.device.type, CHUNK["cpu"])
        for inputs, labels in zip(x.split(n_rows), y.split(n_rows), strict=True):
            outputs = rule.predict(inputs)
            # counted at once: a rule may use its output tensor again
            for name, k in depths.items():
                right[name] = (
                    right[name] + (metrics.accuracy(outputs, labels, k) * len(labels)).round()
                )
        return {name: count / len(y) for name, count in right.items()}


def _plan(given: Config | str | None, values: dict[str, Any]) -> tuple[Config, data.About, Spec]:
    """Check everything that can be checked without pixels."""
    settings = tasks.configure(Config, given, values, "images")
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
    tasks.check_available(settings, {"n_train": about.n_train, "n_test": about.n_test}, about.name)
    n_train = settings.n_train or about.n_train
    channels, height, width = about.shape
    specification = Spec(
        name=about.name,
        kind="classification",
        n_in=channels * height * width,
        n_out=about.n_classes[settings.labels],
        image_shape=about.shape,
        n_train=n_train - tasks.held_out(settings.validation, n_train),
    )
    return dataclasses.replace(settings, preprocessing=name), about, specification


def subset(n: int | None, available: int) -> np.ndarray | slice:
    """Rows of a subset: the first `n` of a fixed permutation, in stored order, as data may be
    sorted by class; all of them for None.
    """
    if n is None:
        return slice(None)
    return np.sort(np.random.RandomState(0).permutation(available)[:n])
