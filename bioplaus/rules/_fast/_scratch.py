"""Tensors that a fast form keeps between batches of one size instead of allocating them anew."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from bioplaus.rules._layered import N_FEW, LayeredConfig, LayeredRule

Kept = TypeVar("Kept")


class ScratchRule(LayeredRule, Generic[Kept]):
    """Mixin, before the plain rule: scratch tensors by number of rows. They are in no copy, file or
    `state_dict`, and those of another device or dtype are dropped.
    """

    def __init__(self, config: LayeredConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self._scratch: dict[int, Kept] = {}

    def scratch(self, n: int) -> Kept:
        """Scratch tensors for `n` rows, allocated once."""
        if n not in self._scratch:
            self._scratch[n] = self._allocate(n)
        return self._scratch[n]

    def _allocate(self, n: int) -> Kept:
        """New scratch tensors for `n` rows."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ScratchRule[Kept]":
        self._scratch.clear()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_scratch": {}}


def like_weight(n_out: int, n_in: int, like: Tensor) -> Tensor:
    """(n_out, n_in) zeros, stored as a weight matrix is."""
    return like.new_zeros(n_out, n_in) if n_out <= N_FEW else like.new_zeros(n_in, n_out).t()


def row_major(w: Tensor, out: Tensor) -> Tensor:
    """`w` itself where it is stored row by row, a copy of it in `out` where not."""
    return w if w.is_contiguous() else out.copy_(w)


def one_hot_(out: Tensor, y: Tensor) -> Tensor:
    """Write rows of 0 with a 1 at class y into `out`, (batch, n_classes), without asking the
    host.
    """
    return out.zero_().scatter_(1, y.unsqueeze(1), 1.0)
