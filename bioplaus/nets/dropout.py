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
    generator : CPU stream of the masks, shared with others in the order of their calls, whatever
        device x is on.
    """

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise BioplausError(f"dropout is {p!r}, but must be from 0 to below 1.")
        self.p, self.generator = p, generator

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        if not self.training or self.p == 0:
            return x
        return x * (self.mask(x).to(x.dtype) / (1 - self.p)).to(x.device)

    def mask(self, x: Tensor) -> Tensor:
        """The next mask, bool, of the shape of `x`."""
        return torch.rand(x.shape, generator=self.generator) >= self.p
