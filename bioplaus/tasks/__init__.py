"""Tasks: data as tensors, batches in a reproducible order, and the measures that belong to them.

Every module of this package that is a task has the same three names:

    Config            frozen dataclass: which data, and how they are prepared and divided
    spec(...) -> Spec what a rule must know of the task; everything is checked, no pixel is read
    load(...) -> Task the data in memory, on a device

`spec` and `load` take a `Config`, or its fields by name, of which the data set's may stand first
without its name: `images.load("mnist", n_train=1000)`. `load` also takes `device` and `dtype`, and
`download` where it reads the catalogue of data sets.
"""

import abc
import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from bioplaus import config
from bioplaus.errors import BioplausError, unknown

__all__ = [
    "Spec",
    "Task",
    "check_available",
    "check_batch_size",
    "configure",
    "describe",
    "finite",
    "held_out",
    "renamed",
]

# modules that are a task, imported when they are first used
_TASKS = ("captions", "features", "hierarchies", "images", "linedraw", "patches", "seqmnist")

C = TypeVar("C", bound=config.Config)  # a task's config
S = TypeVar("S")  # the data of one split
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a rule must know of a task to fit it; known before any data are read."""

    name: str  # data set or task, as in run ids and legends ("mnist", "cifar100", "linedraw")
    kind: str  # "classification", "drawing", "captions", ...
    n_in: int  # input units per sample (per time step where there is time)
    n_out: int  # output units; 0 where only reading the data tells
    n_steps: int | None = None  # time steps per sample; None where there is no time
    # (channels, height, width) where inputs are images
    image_shape: tuple[int, int, int] | None = None
    # samples to learn from in an epoch; None where only reading the data tells
    n_train: int | None = field(default=None, compare=False)

    def check_batch_size(
        self, batch_size: int, name: str = "batch_size", *, least: int = 1
    ) -> None:
        """Raise `BioplausError` unless a batch of this size, called `name` in the error, fits into
        the training samples, as far as their number is known, and the last one, which is smaller
        where the size does not divide their number, has the `least` samples that a rule needs
        (`LearningRule.least_batch`).
        """
        if self.n_train is not None:
            check_batch_size(batch_size, self.n_train, name)
        n_last = (self.n_train or 0) % max(batch_size, 1) or batch_size
        _check_last_batch(n_last, least, batch_size, self.n_train, name)


class Task(abc.ABC, Generic[C, S]):
    """Data in named splits, batches in a reproducible order, and the measures that belong to them.

    Attributes
    ----------
    spec : Spec
        What a rule must know.
    config : Config
        What was asked for, checked, with every default that depends on the data spelled out.
    splits : mapping
        The data of each split; what they look like, the task's class says. The names are "train",
        "validation" (samples that choose among epochs and settings) and "test".
    monitored : tuple of str
        The splits that are measured after every epoch; the others wait for the end of training.
    """

    #: what records call a split, where it is not its own name: results that exist must load, and
    #: the bytes of a run's result must not change
    recorded_names: ClassVar[Mapping[str, str]] = {}

    #: how the data differ from the published ones of their name; mostly empty
    remark: str = ""

    spec: Spec
    config: C
    splits: Mapping[str, S]
    monitored: tuple[str, ...]

    def __repr__(self) -> str:
        """The data set, the size of each split, what comes in and goes out, and how inputs are
        prepared.
        """
        spec, way = self.spec, getattr(self.config, "preprocessing", None)
        sizes = ", ".join(f"{split} {self.n_samples(split):,}" for split in self.splits)
        outputs = "classes" if spec.kind == "classification" else "outputs"
        parts = [f"{sizes}", f"{spec.n_in:,} inputs, {spec.n_out:,} {outputs}"]
        parts += [f"{spec.n_steps} time steps"] if spec.n_steps else []
        parts += [f"preprocessing {way}"] if way else []
        return f"<task {spec.name}: {'; '.join(parts)}>"

    def n_samples(self, split: str) -> int:
        """Number of samples in a split. Here: of the last part of its data, the labels."""
        data: Any = self.splits[split]
        return len(data[-1])

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256, hexadecimal, of the data and of all that decides how they are shown; computed
        once, when it is first asked for.
        """
        return self._fingerprint()

    @abc.abstractmethod
    def _fingerprint(self) -> str:
        """What `fingerprint` is; the task's class says of what."""

    @property
    @abc.abstractmethod
    def n_train(self) -> int:
        """Number of samples to learn from in an epoch."""

    @property
    def validation_split(self) -> str | None:
        """The split that choices among epochs and settings are made by; None where there is
        none.
        """
        return "validation" if "validation" in self.splits else None

    def n_batches(self, batch_size: int) -> int:
        """Number of batches in one epoch, the last partial one included."""
        check_batch_size(batch_size, self.n_train)
        return -(-self.n_train // batch_size)

    @abc.abstractmethod
    def draws(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """What decides each batch of one epoch, as tensors on the device: the rows of its samples,
        crops and flips; or the batch itself, where that is simplest.

        Parameters
        ----------
        generator : torch.Generator
            CPU generator; every draw of the epoch comes from it.
        """

    def batch_of(self, *draw: Tensor) -> tuple[Tensor, ...]:
        """The batch of one draw, the arguments of `fit_batch`; a function of the draw alone, which
        a CUDA graph can hold: nothing drawn, nothing asked of the host.

        Here: the draw itself.
        """
        return draw

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """One epoch of training batches, the arguments of `fit_batch`: those of `draws`."""
        for draw in self.draws(batch_size, generator):
            yield self.batch_of(*draw)

    def evaluate(self, rule: Any, *splits: str) -> dict[str, float]:
        """Measure a rule, drawing nothing and changing nothing.

        Parameters
        ----------
        rule : LearningRule
            Or any module with what `measure` asks of it, `predict` most often.
        splits : str
            Names of splits; without any, those in `monitored`.

        Returns
        -------
        "<split>_<metric>" -> value, such as "test_accuracy".

        Raises
        ------
        BioplausError
            For a split that the task does not have.
        """
        metrics = {}
        for split in splits or self.monitored:
            if split not in self.splits:
                raise unknown("split", split, self.splits)
            with torch.no_grad():
                measured = self.measure(rule, split)
            metrics |= {f"{split}_{name}": float(value) for name, value in measured.items()}
        return metrics

    @abc.abstractmethod
    def measure(self, rule: Any, split: str) -> Mapping[str, float | Tensor]:
        """The metrics of one split, numbers or 0-d tensors, by name without the split."""


def configure(kind: type[C], given: C | str | None, values: Mapping[str, Any], task: str) -> C:
    """The checked config from the arguments of a task's `spec` or `load`.

    Parameters
    ----------
    kind : type
        The task's `Config`.
    given : Config, str or None
        A config, of which `values` replace some fields, or the name of the data set.
    values : mapping
        Fields by name.
    task : str
        Name of the task, for the error.

    Raises
    ------
    BioplausError
        For unknown names, wrong types, values out of range.
    """
    first = given.to_dict() if isinstance(given, kind) else {}
    if isinstance(given, str):
        first = {"dataset": given}
    return kind.from_dict({**first, **values}, kind=f"parameter of {task}")


def check_batch_size(batch_size: int, n_train: int, name: str = "batch_size") -> None:
    """Raise `BioplausError` unless a batch of this size, called `name` in the error, fits into
    `n_train` training samples.
    """
    if not 1 <= batch_size <= n_train:
        raise BioplausError(
            f"{name} is {batch_size!r}, but must be from 1 to {n_train}, the number of training"
            " inputs."
        )


def check_last_batch(task: Task[Any, Any], batch_size: int, least: int) -> None:
    """Raise `BioplausError` unless the last batch of an epoch has at least so many samples.

    Parameters
    ----------
    least : int
        Samples that a rule needs (`LearningRule.least_batch`).
    """
    if least > 1:
        n_train = getattr(task, "n_train", None)  # a task of a notebook's own may not say
        n_last = batch_size
        if n_train is not None:  # more are left where batches are whole only
            n_last = min(batch_size, n_train - (task.n_batches(batch_size) - 1) * batch_size)
        _check_last_batch(n_last, least, batch_size, n_train, "batch_size")


def _check_last_batch(
    n_last: int, least: int, batch_size: int, n_train: int | None, name: str
) -> None:
    if n_last < least:
        leaves = f", which leaves a last batch of {n_last} (of {n_train} training inputs)"
        raise BioplausError(
            f"{name} is {batch_size}{leaves if n_last < batch_size else ''}, but the rule"
            f" normalises over a batch: every batch must have at least {least}."
        )


def check_available(settings: Any, available: Mapping[str, int], dataset: str) -> None:
    """Raise `BioplausError` if a config asks for more images than a data set has.

    Parameters
    ----------
    settings : Config
        With the fields that `available` names; None means all.
    available : mapping
        Numbers of images by field, "n_train" and "n_test".
    """
    for name, n in available.items():
        wanted = getattr(settings, name)
        if wanted is not None and wanted > n:
            raise BioplausError(f"{name} is {wanted}, but {dataset} has {n} such images.")


def held_out(fraction: float, n_train: int, name: str = "validation") -> int:
    """Number of images that a fraction of `n_train` holds out for validation, rounded.

    Raises
    ------
    BioplausError
        If a fraction above 0 leaves nothing to validate with, or nothing to learn from.
    """
    n = round(fraction * n_train)
    if fraction and not 0 < n < n_train:
        raise BioplausError(
            f"{name} is {fraction}, which holds out {n} of {n_train} training images, but both"
            " parts need at least one."
        )
    return n


def finite(x: Tensor, name: str) -> Tensor:
    """`x`, unless it holds numbers that are not finite in its dtype.

    Parameters
    ----------
    name : what it is, for the error.
    """
    if x.device.type == "meta" or x.sum().isfinite():  # a sum shows both kinds, and costs little
        return x
    if n_bad := int((~x.isfinite()).sum()):
        dtype = str(x.dtype).removeprefix("torch.")
        raise BioplausError(f"{n_bad:,} of {x.numel():,} {name} are not finite in {dtype}.")
    return x


def renamed(metrics: Mapping[str, V], names: Mapping[str, str]) -> dict[str, V]:
    """Metrics "<split>_<metric>" with other names of splits.

    Parameters
    ----------
    names : new name by old name; splits that are not there keep theirs.
    """
    changed = {}
    for metric, value in metrics.items():
        split, mark, rest = metric.partition("_")
        changed[f"{names.get(split, split)}{mark}{rest}"] = value
    return changed


def describe(task: Task[Any, Any]) -> dict[str, Any]:
    """What a record says of its task: the spec, the fingerprint of the data, and how they differ
    from the published ones, if they do; as builtins.
    """
    spec = asdict(task.spec)
    del spec["n_train"]  # the config of the task says it
    remark = getattr(task, "remark", "")  # a task of a notebook's own may have none
    return {
        **spec,
        "fingerprint": task.fingerprint,
        **({"remark": remark} if remark else {}),
    }


def __getattr__(name: str) -> ModuleType:
    if name in _TASKS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_TASKS])
