"""Shared parts of the two predictive-coding rules, `pc` and `pc_nudge`.

With a_1 = W_1 x_0 + b_1, a_k = W_k f(x_{k-1}) + b_k and e_k = x_k - a_k, an iteration moves all
hidden layers at once:

    x_k += step (-e_k + (W_{k+1}^T e_{k+1}) * f'(x_k)),    k < L
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bioplaus.rules._layered import (
    LayeredConfig,
    LayeredRule,
    Scratch,
    StepRule,
    neural_steps,
    tensors,
    uniform,
)

N_BLOCK = (
    64  # rows relaxed together: their states then stay in a core's cache through all iterations
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictiveConfig(LayeredConfig):
    """Fields of both rules."""

    lr: float = 0.001  # weight step, dimensionless
    n_steps: int = 50  # iterations of the relaxation
    lr_neural: float = 0.1  # first step of the relaxation, dimensionless
    lr_neural_rule: StepRule = (
        "constant"  # later steps: the same, / (t + 1), or / (1 + lr_neural_decay t)
    )
    lr_neural_stop: float = (
        0.001  # least step, at most lr_neural, dimensionless; unused by "constant"
    )
    lr_neural_decay: float = 0.01  # of rule "slow", per iteration

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_depth(2)
        self.check("n_steps", low=1)
        self.check("lr_neural", low=0, open_low=True)
        for name in ("lr", "lr_neural_stop", "lr_neural_decay"):
            self.check(name, low=0)
        self.check_stop()


class PredictiveRule(LayeredRule):
    """Feed-forward start, relaxation, errors; a subclass says how the output moves and how the
    weights learn.

    The first prediction a_1 is computed once, for x_0 is clamped. The output is kept relative to
    its bias. Samples relax independently, so they do so in blocks of rows that fit the cache.

    Attributes
    ----------
    w_ff : L matrices W_k, (n_k, n_{k-1}), start U(-b, b), b = sqrt(6 / n_{k-1}).
    bias : L vectors, (n_k,), start U(-b, b), b = 1 / sqrt(n_{k-1}).
    """

    objective_name = "minus squared errors"
    step_factor = 1.0  # of the energy's gradient: 2 where errors enter as |e|^2 and not |e|^2 / 2

    def __init__(self, config: PredictiveConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        weights, biases = [], []
        for n_out, n_in in zip(config.n_units[1:], config.n_units, strict=False):
            weights.append(uniform(n_out, n_in, math.sqrt(6 / n_in), generator))
            biases.append(uniform(1, n_out, 1 / math.sqrt(n_in), generator)[0].clone())
        self.w_ff, self.bias = tensors(weights), tensors(biases)

    def _rate(self, x: Tensor, out: Tensor) -> None:
        """f(x) into `out`."""
        raise NotImplementedError

    def _slope(self, f: Tensor, out: Tensor) -> None:
        """f'(x) into `out`, from f = f(x)."""
        raise NotImplementedError

    def _move_output(self, part: Scratch, step: float) -> None:
        """One step of the output layer; a clamped one stays."""

    def _allocate(self, n: int) -> Scratch:
        widths = self.config.n_units[1:]
        lists = {name: [self._empty(n, width) for width in widths] for name in ("x", "e")}
        lists |= {
            name: [self._empty(n, width) for width in widths[:-1]]
            for name in ("f", "back", "slope")
        }
        z = Scratch(
            **lists,
            drive=self._empty(n, widths[0]),
            goal=self._empty(n, widths[-1]),
            pull=self._empty(),
            target=self._empty(n, widths[-1]),
            w_fb=[self._empty(*w.shape) for w in self.w_ff],
        )
        z.parts = [
            Scratch(
                **{name: [a[i : i + N_BLOCK] for a in arrays] for name, arrays in lists.items()},
                drive=z.drive[i : i + N_BLOCK],
                goal=z.goal[i : i + N_BLOCK],
                pull=z.pull,
            )
            for i in range(0, n, N_BLOCK)
        ]
        return z

    def _forward(self, z: Scratch, x: Tensor) -> None:
        """All layers at their predictions: every error is 0."""
        b, z.w_ff_t = list(self.bias), [w.t() for w in self.w_ff]
        torch.addmm(b[0], x, z.w_ff_t[0], out=z.drive)
        z.x[0].copy_(z.drive)
        for k in range(1, len(b)):
            self._rate(z.x[k - 1], z.f[k - 1])
            torch.addmm(b[k], z.f[k - 1], z.w_ff_t[k], out=z.x[k])
        if self.watch is not None:
            self.watch("forward", 0, self._seen(z.x))

    def _relax(self, z: Scratch) -> None:
        """All iterations, then rates and errors of where they end; the output comes and stays
        relative to its bias.
        """
        c, b = self.config, list(self.bias)
        for row_major, w in zip(z.w_fb[1:], list(self.w_ff)[1:], strict=True):
            row_major.copy_(w)
        steps = neural_steps(
            c.lr_neural_rule, c.lr_neural, c.lr_neural_stop, c.lr_neural_decay, c.n_steps
        )
        seen: list[list[list[Tensor]]] = [[] for _ in steps]
        for part in z.parts:
            for t, eta in enumerate(steps):
                self._iterate(part, self.step_factor * eta, z.w_ff_t, z.w_fb, b)
                if self.watch is not None:
                    seen[t].append([*[x.clone() for x in part.x[:-1]], part.x[-1] + b[-1]])
            self._errors(part, z.w_ff_t, b)
            torch.sub(part.x[0], part.drive, out=part.e[0])
        for t, blocks in enumerate(seen):
            if blocks:
                self.watch(
                    "relaxed",
                    t,
                    self._seen([torch.cat(layer) for layer in zip(*blocks, strict=True)]),
                )

    def _seen(self, x: list[Tensor]) -> dict[str, list[Tensor]]:
        """What `watch` gets: first the rates r, f(x) of hidden layers and x of the outputs; then
        the states x.
        """
        rates = [torch.empty_like(layer) for layer in x[:-1]]
        for state, rate in zip(x, rates, strict=False):
            self._rate(state, rate)
        return {"r": [*rates, x[-1]], "x": x}

    def _iterate(
        self,
        part: Scratch,
        step: float,
        w_ff_t: Sequence[Tensor],
        w_fb: Sequence[Tensor],
        b: Sequence[Tensor],
    ) -> None:
        """One iteration of a block of rows."""
        self._errors(part, w_ff_t, b)
        for k, (x, back, slope) in enumerate(zip(part.x, part.back, part.slope, strict=False)):
            torch.mm(part.e[k + 1], w_fb[k + 1], out=back)
            self._slope(part.f[k], slope)
            if k == 0:
                x.lerp_(part.drive, step)  # x - step e
            else:
                x.add_(part.e[k], alpha=-step)
            x.addcmul_(back, slope, value=step)
        self._move_output(part, step)

    def _errors(self, part: Scratch, w_ff_t: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        """Rates f(x_k) and errors e_k of all layers above the first."""
        last = len(b) - 1
        for k in range(last):
            self._rate(part.x[k], part.f[k])
        for k in range(1, last):
            torch.sub(part.x[k], b[k], out=part.e[k]).addmm_(part.f[k - 1], w_ff_t[k], alpha=-1)
        torch.addmm(part.x[last], part.f[last - 1], w_ff_t[last], alpha=-1, out=part.e[last])

    def _squared_errors(self, x: Tensor, states: Sequence[Tensor]) -> Tensor:
        """(batch,) sum over layers of |e_k|^2, from the states of the layers above the input."""
        total = torch.zeros_like(x[:, 0])
        for k, (w, b, here) in enumerate(zip(self.w_ff, self.bias, states, strict=True)):
            below = x if k == 0 else torch.empty_like(states[k - 1])
            if k > 0:
                self._rate(states[k - 1], below)
            total += (here - torch.addmm(b, below, w.t())).square().sum(1)
        return total

    def _evaluate(self, x: Tensor) -> Tensor:
        z = self.scratch(len(x))
        self._forward(z, x)
        return z.x[-1].clone()
