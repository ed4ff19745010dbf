"""Fast form of `csm`: 5.1 ms a batch of 20 at 784-500-10 on one core where the plain form takes 13.

As the fast form of `ep`, but layer 1 is not relative to its drive. All input of a hidden layer but
its constant one is a single product, of its neighbourhood [s_{k-1} s_k s_{k+1}] with a matrix
folded once a batch. The states alternate between two arrays.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from bioplaus.rules import csm
from bioplaus.rules._fast import ep


class Scratch(ep.Scratch):
    def __init__(self, n_units: Sequence[int], n: int, like: Tensor) -> None:
        super().__init__(n_units, n, like)
        widths = list(n_units[1:])
        n_all, starts = sum(widths), [0, *itertools.accumulate(widths)]
        self.low_1.zero_()
        self.high_1.fill_(1)
        # constant input of every iteration; of the output in the last columns
        self.base_all = torch.zeros_like(self.now)
        self.base = [*self.base_all[:, :n_all].split(widths, 1)[:-1], self.base_all[:, n_all:]]
        self.mixers, hoods = [], []
        for k, width in enumerate(widths[:-1]):
            first, last = starts[max(k - 1, 0)], starts[k + 2]
            hoods.append(slice(first, last))
            self.mixers.append(like.new_zeros(last - first, width))
        tail = slice(n_all - widths[-1] - widths[-2], None)
        self.arrays = [
            (
                part,
                part[:, :n_all].split(widths, 1),
                [part[:, hood] for hood in hoods],
                part[:, tail],
            )
            for part in (self.now, torch.zeros_like(self.now))
        ]


class Rule(ep.Rule, csm.Rule):
    config: csm.Config

    def _allocate(self, n: int) -> Scratch:
        return Scratch(self.config.n_units, n, self.lr_now)

    def _free(self, z: Scratch, x: Tensor, lr: float) -> None:
        w, b = list(self.w_ff), list(self.bias)
        self._fold(z, w, lr)
        torch.addmm(b[0], x, w[0].t(), out=z.drive)
        torch.mul(z.drive, lr, out=z.base[0])
        for k in range(1, len(w)):
            z.base[k].copy_(b[k]).mul_(lr)
        z.now.copy_(z.base_all)
        z.s[-1].copy_(z.base[-1])
        # the first iteration: from s = 0 the constant inputs are all there is
        z.now.clamp_(z.low, z.high)
        self._show(z, z.s, "free", 0)
        self._iterate(z, lr, "free", range(1, self.config.n_free_steps))

    def _fold(self, z: Scratch, w: list[Tensor], lr: float) -> None:
        """mixer_k = [-2 W_k^T ; M_k + M_k^T - 2 (1 - lr)/lr I ; -2 W_{k+1}], to be used with the
        factor -lr/2.
        """
        for k, (mixer, m) in enumerate(zip(z.mixers, self.m_lateral, strict=True)):
            n_below = w[k].shape[1] if k > 0 else 0
            if k > 0:
                torch.mul(w[k].t(), -2, out=mixer[:n_below])
            own = mixer[n_below : n_below + len(m)]
            torch.add(m.t(), m, out=own).diagonal().sub_(2 * (1 - lr) / lr)
            torch.mul(w[k + 1], -2, out=mixer[n_below + len(m) :])
        torch.mul(w[-1].t(), lr, out=z.mix_w)
        z.keep.fill_(1 - lr)

    def _iterate(self, z: Scratch, lr: float, phase: str, steps: range) -> None:
        old, new = z.arrays
        z.now[:, -z.target.shape[1] :].copy_(z.base[-1])
        for t in steps:
            array, s, _, _ = new
            array.copy_(z.base_all)
            for k, mixer in enumerate(z.mixers):
                s[k].addmm_(old[2][k], mixer, alpha=-lr / 2)
            torch.mm(old[3], z.mix, out=s[-1])
            array.clamp_(z.low, z.high)
            self._show(z, s, phase, t)
            old, new = new, old
        if old[0] is not z.now:
            z.now.copy_(old[0])

    def _absolute(self, z: Scratch, s: Sequence[Tensor]) -> list[Tensor]:
        return list(s)

    def _add_drive(self, z: Scratch) -> None:
        """Nothing: here layer 1 is not kept relative to its drive."""

    def _change_weights(self, z: Scratch, x: Tensor) -> None:
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
