"""Fast form of `csm`: 5.1 ms a batch of 20 at 784-500-10 on one core where the plain form takes 13.

All states lie side by side in one array, and one matrix, folded once a batch, holds what any of
them sends to any other: an iteration is one product, to which the constant input is added, and one
clip. (Layers that are no neighbours send 0, at the cost of some useless products where there are
many.)
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from bioplaus import _products
from bioplaus.rules import csm
from bioplaus.rules._fast import ep
from bioplaus.rules._fast._scratch import like_weight


class Scratch(ep.Phases):
    def __init__(self, n_units: Sequence[int], n: int, like: Tensor) -> None:
        super().__init__(n_units, n, 0, like)
        widths = list(n_units[1:])
        n_all, stops = sum(widths), [*itertools.accumulate(widths)]
        layers = [slice(stop - width, stop) for stop, width in zip(stops, widths, strict=True)]
        self.constant = like.new_zeros(n, n_all)
        self.base = list(self.constant.split(widths, 1))
        # s <- clip(constant + s mixer^T): rows are the states it makes, columns those it takes
        self.mixer = like_weight(n_all, n_all, like)
        self.own = [self.mixer[layer, layer] for layer in layers]
        pairs = list(itertools.pairwise(layers))
        self.up = [self.mixer[above, below] for below, above in pairs]
        self.down = [self.mixer[below, above] for below, above in pairs]
        self.keep = self.own[-1].diagonal()


class Rule(ep.Rule, csm.Rule):
    config: csm.Config

    def _allocate(self, n: int) -> Scratch:
        return Scratch(self.config.n_units, n, self.lr_now)

    def _free(self, z: Scratch, x: Tensor, lr: float) -> None:
        w, b = list(self.w_ff), list(self.bias)
        self._fold(z, w, lr)
        _products.linear(x, w[0], b[0], out=z.drive)
        torch.mul(z.drive, lr, out=z.base[0])
        for k in range(1, len(w)):
            z.base[k].copy_(b[k]).mul_(lr)
        # the first iteration: from s = 0 the constant input is all there is
        torch.clamp(z.constant, 0.0, 1.0, out=z.now)
        self._show(z, z.s, "free", 0)
        self._iterate(z, lr, "free", range(1, self.config.n_free_steps))

    def _fold(self, z: Scratch, w: list[Tensor], lr: float) -> None:
        """To itself (1 - lr) I - lr (M_k + M_k^T) / 2; up lr W_k, down the same transposed."""
        for own, m in zip(z.own, self.m_lateral, strict=False):
            torch.add(m, m.t(), out=own).mul_(-lr / 2).diagonal().add_(1 - lr)
        z.keep.fill_(1 - lr)
        for up, down, weight in zip(z.up, z.down, w[1:], strict=True):
            torch.mul(weight, lr, out=up)
            torch.mul(weight.t(), lr, out=down)

    def _iterate(self, z: Scratch, lr: float, phase: str, steps: range) -> None:
        s, widths = z.now, self.config.n_units[1:]
        for t in steps:
            s = _products.linear_add(z.constant, s, z.mixer).clamp_(0.0, 1.0)
            self._show(z, s.split(widths, 1), phase, t)
        z.now.copy_(s)

    def _absolute(self, z: ep.Phases, s: Sequence[Tensor]) -> list[Tensor]:
        return list(s)

    def _add_drive(self, z: ep.Phases) -> None:
        """Nothing: here layer 1 is not kept relative to its drive."""

    def _change_weights(self, z: ep.Phases, x: Tensor) -> None:
        super()._change_weights(z, x)
        c, n = self.config, len(x)
        beta = z.beta if c.use_signed_lateral else z.beta.abs()
        gain = torch.div(self.lr_lateral_now, beta * (2 * n))
        for k, m in enumerate(self.m_lateral):
            bracket = 1 + c.lr_lateral[k] / (2 * c.beta_nudge)
            s = z.s[k]
            m.t().addmm_(
                s.t(), torch.mul(s, gain[k], out=z.change[k][:n]), beta=bracket, alpha=-bracket
            )
