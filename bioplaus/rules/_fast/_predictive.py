"""What the fast forms of `pc` and `pc_nudge` have in common.

Where layers are small and numba is there, one kernel runs all iterations. Else an iteration is two
products a layer and passes in place, some of which do two things at once (`lerp_`, `addcmul_`). The
output is kept relative to its bias, which drops out of its errors then. Here lists count the layers
above the input from 0.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bioplaus import _products
from bioplaus.rules._fast import _compiled
from bioplaus.rules._fast._scratch import ScratchRule, like_weight, row_major
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
        pairs = list(zip(widths[1:], widths, strict=False))
        # of the layers above the first: -W, and W stored row by row
        self.minus_w = [like_weight(*pair, like) for pair in pairs]
        self.w_fb: list[Tensor] = []
        self.rows = [like.new_zeros(pair) for pair in pairs]
        self.gradient = [torch.zeros_like(w) for w in weights]
        # of a compiled kernel: states side by side, biases, and W^T and W one after another
        self.states, self.biases = like.new_zeros(n, sum(widths)), like.new_zeros(sum(widths))
        sizes = [above * below for above, below in pairs]
        self.up, self.down = like.new_zeros(sum(sizes)), like.new_zeros(sum(sizes))
        self.widths = np.array(widths, np.int64)
        self.parts = list(zip(pairs, self.up.split(sizes), self.down.split(sizes), strict=True))


N_KERNEL = 20_000  # weights of a layer up to which a compiled kernel is faster: they stay in cache


class FastPredictiveRule(ScratchRule[Scratch], PredictiveRule):
    is_clamped = True  # whether the output is clamped, and f the logistic function: `pc`
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
        b, above = list(self.bias), list(self.w_ff)[1:]
        z.w_fb = [row_major(*pair) for pair in zip(above, z.rows, strict=True)]
        for minus, w in zip(z.minus_w, above, strict=True):
            torch.neg(w, out=minus)
        steps = [self.step_factor * eta for eta in self.config.etas()]
        is_small = max(w.numel() for w in above) <= N_KERNEL
        relax = _compiled.kernel("relax_predictive", z.states) if is_small else None
        if relax:
            self._relax(relax, z, steps)
        else:
            for t, step in enumerate(steps):
                self._move(z, step, b)
                self._show("relaxed", t, z.x, b[-1])
        self._write_errors(z, b)
        torch.sub(z.x[0], z.drive, out=z.e[0])

    def _relax(self, relax: Callable[..., None], z: Scratch, steps: Sequence[float]) -> None:
        """All iterations by a compiled kernel; one by one for `watch`."""
        b, widths = list(self.bias), self.config.n_units[1:]
        torch.cat(b, out=z.biases)
        for w, (shape, up, down) in zip(list(self.w_ff)[1:], z.parts, strict=True):
            down.view(shape).copy_(w)
            up.view(shape[::-1]).copy_(w.t())
        torch.cat(z.x, 1, out=z.states)
        fixed = [part.numpy() for part in (z.states, z.drive, z.biases, z.goal, z.up, z.down)]
        sizes, pull = np.array(steps, np.float32), z.pull.view(1).numpy()
        if self.watch is None:
            relax(*fixed, z.widths, sizes, pull, self.is_clamped)
        for t in range(len(steps) if self.watch is not None else 0):
            relax(*fixed, z.widths, sizes[t : t + 1], pull, self.is_clamped)
            self._show("relaxed", t, list(z.states.split(widths, 1)), b[-1])
        for x, part in zip(z.x, z.states.split(widths, 1), strict=True):
            x.copy_(part)

    def _show(self, phase: str, t: int, x: list[Tensor], more: Tensor | None = None) -> None:
        """Tell `watch` the states, `more` added to those of the output."""
        if self.watch is not None:
            x = x if more is None else [*x[:-1], x[-1] + more]
            rates = [torch.empty_like(layer) for layer in x[:-1]]
            for state, rate in zip(x, rates, strict=False):
                self._write_rates(state, rate)
            self.watch(phase, t, {"r": [*rates, x[-1]], "x": x})

    def _move(self, z: Scratch, step: float, b: Sequence[Tensor]) -> None:
        """One iteration."""
        self._write_errors(z, b)
        for k, (x, back, slope) in enumerate(zip(z.x, z.back, z.slope, strict=False)):
            _products.linear(z.e[k + 1], z.w_fb[k].t(), out=back)
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
        for k in range(1, last + 1):
            # the output is relative to its bias
            x = z.x[k] if k == last else torch.sub(z.x[k], b[k], out=z.e[k])
            _products.linear_add(x, z.f[k - 1], z.minus_w[k - 1], out=z.e[k])
