"""Dropout that draws from a random stream of its own instead of torch's global one."""

import torch
from torch import Tensor, nn

from bioplaus.errors import BioplausError


class Dropout(nn.Module):
    """x mask / (1 - p) in training, x in evaluation; the mask is 1 with probability 1 - p, drawn
    anew for every batch.

    Parameters
    ----------
    p : probability that an input is dropped, in [0, 1).
    n_features : number of inputs of a sample.
    generator : CPU stream of the masks, shared with others in the order of their draws, whatever
        device x is on.

    Attributes
    ----------
    given : (batch, n_features), the mask of this batch, drawn beforehand; None: the module draws
        it.
    """

    def __init__(self, p: float, n_features: int, generator: torch.Generator) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise BioplausError(f"dropout is {p!r}, but must be from 0 to below 1.")
        self.p, self.n_features, self.generator = p, n_features, generator
        self.given: Tensor | None = None

    @property
    def is_drawing(self) -> bool:
        """Whether a batch needs a mask."""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_features) -> the same shape."""
        if not self.is_drawing:
            return x
        mask = self.mask(len(x)) if self.given is None else self.given
        return x * (mask.to(x.dtype) / (1 - self.p)).to(x.device)

    def mask(self, n: int) -> Tensor:
        """The next mask, (n, n_features) bool, on the CPU."""
        return torch.rand(n, self.n_features, generator=self.generator) >= self.p
