"""Fast form of `pc`, in the way of `_predictive`.

At 784-500-10 on one core a batch of 20 takes 3.5 ms where the plain form takes 7.2, and a batch of
256 takes 28 ms where it takes 50.
"""

import torch
from torch import Tensor

from bioplaus.rules import pc
from bioplaus.rules._base import Count
from bioplaus.rules._fast._predictive import FastPredictiveRule, Scratch
from bioplaus.rules._fast._scratch import one_hot_


class Rule(FastPredictiveRule, pc.Rule):
    config: pc.Config

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        z, n = self._settle(x, y), len(x)
        n_layers = self.config.n_layers
        for k, below in enumerate([x, *z.f]):
            z.gradient[k].addmm_(z.e[k].t(), below, beta=0, alpha=1 / n)
            torch.mean(z.e[k], 0, out=z.gradient[n_layers + k])
        self.optimiser.step([*self.w_ff, *self.bias], z.gradient, self.lr_now[0])
        return {"objective": self._measure(z, x)} if self.config.use_objective else {}

    def _settle(self, x: Tensor, y: Tensor | None, sign: Tensor | None = None) -> Scratch:
        z, margin = self.scratch(len(x)), self.config.target_margin
        self._set_out(z, x)
        if y is not None:
            one_hot_(z.target, y).mul_(1 - 2 * margin).add_(margin)
            torch.sub(z.target, self.bias[-1], out=z.x[-1])
            self._run(z)
        return z

    def _write_rates(self, x: Tensor, out: Tensor) -> None:
        torch.sigmoid(x, out=out)

    def _write_slope(self, f: Tensor, out: Tensor) -> None:
        torch.addcmul(f, f, f, value=-1, out=out)

    def _measure(self, z: Scratch, x: Tensor) -> Tensor:
        """Minus the summed squared errors, mean over the batch, with the present weights and the
        relaxed states.
        """
        total = x.new_zeros(())
        for k, (below, state) in enumerate(zip([x, *z.f], [*z.x[:-1], z.target], strict=True)):
            error = (
                torch.sub(state, self.bias[k], out=z.e[k])
                .addmm_(below, self.w_ff[k].t(), alpha=-1)
                .flatten()
            )
            total = torch.dot(error, error) + total
        return total / -len(x)
