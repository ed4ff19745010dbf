"""What the fast forms of `pc` and `pc_nudge` have in common.

No tensor is allocated in a batch: an iteration is two products a layer and passes in place, some of
which do two things at once (`lerp_`, `addcmul_`). The output is kept relative to its bias, which
drops out of its errors then. Here lists count the layers above the input from 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bioplaus import _products
from bioplaus.rules._fast._scratch import ScratchRule
from bioplaus.rules._predictive import PredictiveRule


class Scratch:
    def __init__(self, n_units: Sequence[int], n: int, weights: list[Tensor], like: Tensor) -> None:
        def rows(widths: Sequence[int]) -> list[Tensor]:
            return [like.new_zeros(n, width) for width in widths]

        widths = n_units[1:]
        self.x, self.e = rows(widths), rows(widths)
        # of the hidden layers: f(x), errors that come from above, f'(x)
        self.f, self.back, self.slope = (rows(widths[:-1]) for _ in range(3))
        # a_1, the one-hot target, what the output is pulled to and how strongly
        self.drive, self.target, self.goal = rows([widths[0], widths[-1], widths[-1]])
        self.pull = like.new_zeros(())
        self.w_ff_t: list[Tensor] = []
        self.w_fb = [like.new_zeros(pair) for pair in zip(widths, n_units, strict=False)]
        self.gradient = [torch.zeros_like(w) for w in weights]


class FastPredictiveRule(ScratchRule[Scratch], PredictiveRule):
    step_factor = 1.0  # of the energy's gradient: 2 where errors enter as |e|^2 and not |e|^2 / 2

    def _write_rates(self, x: Tensor, out: Tensor) -> None:
        """f(x) into `out`."""
        raise NotImplementedError

    def _write_slope(self, f: Tensor, out: Tensor) -> None:
        """f'(x) into `out`, from f = f(x)."""
        raise NotImplementedError

    def _move_output(self, z: Scratch, step: float) -> None:
        """One step of the output layer; a clamped one stays."""

    def _allocate(self, n: int) -> Scratch:
        return Scratch(self.config.n_units, n, [*self.w_ff, *self.bias], self.lr_now)

    def _evaluate(self, x: Tensor) -> Tensor:
        z = self.scratch(len(x))
        self._set_out(z, x)
        return z.x[-1].clone()

    def _set_out(self, z: Scratch, x: Tensor) -> None:
        """All layers at their predictions: every error is 0."""
        w, b = list(self.w_ff), list(self.bias)
        z.w_ff_t = [weight.t() for weight in w]
        _products.linear(x, w[0], b[0], out=z.drive)
        z.x[0].copy_(z.drive)
        for k in range(1, len(b)):
            self._write_rates(z.x[k - 1], z.f[k - 1])
            _products.linear(z.f[k - 1], w[k], b[k], out=z.x[k])
        self._show("forward", 0, z.x)

    def _run(self, z: Scratch) -> None:
        """All iterations, then rates and errors of where they end; the output comes and stays
        relative to its bias.
        """
        b = list(self.bias)
        for row_major, w in zip(z.w_fb[1:], list(self.w_ff)[1:], strict=True):
            row_major.copy_(w)
        for t, eta in enumerate(self.config.etas()):
            self._move(z, self.step_factor * eta, b)
            if self.watch is not None:
                self._show("relaxed", t, [*z.x[:-1], z.x[-1] + b[-1]])
        self._write_errors(z, b)
        torch.sub(z.x[0], z.drive, out=z.e[0])

    def _show(self, phase: str, t: int, x: list[Tensor]) -> None:
        if self.watch is not None:
            rates = [torch.empty_like(layer) for layer in x[:-1]]
            for state, rate in zip(x, rates, strict=False):
                self._write_rates(state, rate)
            self.watch(phase, t, {"r": [*rates, x[-1]], "x": x})

    def _move(self, z: Scratch, step: float, b: Sequence[Tensor]) -> None:
        """One iteration."""
        self._write_errors(z, b)
        for k, (x, back, slope) in enumerate(zip(z.x, z.back, z.slope, strict=False)):
            torch.mm(z.e[k + 1], z.w_fb[k + 1], out=back)
            self._write_slope(z.f[k], slope)
            if k == 0:
                x.lerp_(z.drive, step)  # x - step e
            else:
                x.add_(z.e[k], alpha=-step)
            x.addcmul_(back, slope, value=step)
        self._move_output(z, step)

    def _write_errors(self, z: Scratch, b: Sequence[Tensor]) -> None:
        """Rates f(x_k) and errors e_k of all layers above the first."""
        last = len(b) - 1
        for k in range(last):
            self._write_rates(z.x[k], z.f[k])
        for k in range(1, last):
            torch.sub(z.x[k], b[k], out=z.e[k]).addmm_(z.f[k - 1], z.w_ff_t[k], alpha=-1)
        torch.addmm(z.x[last], z.f[last - 1], z.w_ff_t[last], alpha=-1, out=z.e[last])
