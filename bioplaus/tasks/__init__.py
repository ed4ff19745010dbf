"""Tasks: data as tensors, batches in a reproducible order, and the evaluation that belongs to
them.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bioplaus.errors import BioplausError


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a rule must know of a task to fit it; known before any data is read."""

    name: str  # data set or task, as in run ids and legends ("mnist", "cifar10-jpeg", "linedraw")
    kind: str  # "classification", "drawing", "captions", ...
    n_in: int  # input units per sample (per time step where there is time)
    n_out: int  # output units
    n_steps: int | None = None  # time steps per sample; None where there is no time
    image_shape: tuple[int, int, int] | None = (
        None  # (channels, height, width) where inputs are images
    )


class Task(Protocol):
    """The contract every task keeps; `train.fit` needs no more."""

    spec: Spec
    fingerprint: str  # sha256 of the data, hexadecimal

    def n_batches(self, batch_size: int) -> int:
        """Number of batches in one epoch."""

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """One epoch of training batches, the arguments of `fit_batch`; all draws come from
        `generator`.
        """

    def evaluate(self, rule: "torch.nn.Module") -> dict[str, float]:
        """Metrics by name ("train_accuracy", "test_accuracy", ...), drawing nothing and changing
        nothing.
        """


def check_batch_size(batch_size: int, n_train: int, name: str = "batch_size") -> None:
    """Raise `BioplausError` unless a batch of this size, called `name` in the error, fits into the
    training inputs.
    """
    if not 1 <= batch_size <= n_train:
        raise BioplausError(
            f"{name} is {batch_size!r}, but must be from 1 to {n_train}, the number of training"
            " inputs."
        )


def describe(task: Task) -> dict[str, Any]:
    """What a record says of its task: the spec and the fingerprint of the data, as builtins."""
    return {**asdict(task.spec), "fingerprint": task.fingerprint}
