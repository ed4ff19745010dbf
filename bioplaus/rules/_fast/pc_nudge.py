"""Fast form of `pc_nudge`, in the way of `_predictive`.

At 784-128-64-10 on one core a batch of 20 takes 2.5 ms where the plain form takes 6.3.
"""

import torch
from torch import Tensor

from bioplaus.rules import pc_nudge
from bioplaus.rules._base import Count, at
from bioplaus.rules._fast._predictive import FastPredictiveRule, Scratch
from bioplaus.rules._fast._scratch import one_hot_


class Rule(FastPredictiveRule, pc_nudge.Rule):
    config: pc_nudge.Config
    is_clamped = False
    step_factor = 2.0

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        z = self._settle(x, y, at(self.signs, step))
        gain = 2 * at(self.lr_steps, step) / z.pull
        for w, b, below, e in zip(self.w_ff, self.bias, [x, *z.f], z.e, strict=True):
            w.addmm_(e.mul_(gain).t(), below)
            b.add_(e.sum(0))
        return {}

    def _settle(self, x: Tensor, y: Tensor | None, sign: Tensor) -> Scratch:
        z = self.scratch(len(x))
        self._set_out(z, x)
        if y is not None:
            torch.mul(sign, self.config.lambda_nudge, out=z.pull)
            z.x[-1].sub_(self.bias[-1])
            torch.sub(one_hot_(z.target, y), self.bias[-1], out=z.goal)
            self._run(z)
        return z

    def _write_rates(self, x: Tensor, out: Tensor) -> None:
        torch.clamp(x, min=0.0, out=out)

    def _write_slope(self, f: Tensor, out: Tensor) -> None:
        torch.sign(f, out=out)

    def _move_output(self, z: Scratch, step: float) -> None:
        z.x[-1].lerp_(z.goal, z.pull * step).add_(z.e[-1], alpha=-step)
