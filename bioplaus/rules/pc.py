"""Predictive coding: every layer predicts the next; activities, then weights, move to shrink the
prediction errors.

With input and target clamped, the hidden activities relax; the weights then follow the local errors
(Whittington and Bogacz 2017), as trained beside CorInfoMax (Bozkurt, Pehlevan and Erdogan 2023).
With f the logistic sigmoid, f(x_0) := x_0, N the batch size and one-hot target y:

    a_k  =  W_k f(x_{k-1}) + b_k
    e_k  =  x_k - a_k

    x_L  =  (1 - 2m) y + m                                          m = target_margin
    x_k +=  lr_neural (-e_k + (W_{k+1}^T e_{k+1}) * f'(x_k))        k < L, all at once

    W_k ascends along  e_k f(x_{k-1})^T / N                         by Adam, or plainly
    b_k ascends along  sum_N e_k / N
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from bioplaus.rules._base import BenchmarkCase, Count
from bioplaus.rules._layered import Layers, numbered, one_hot, outer, set_rates
from bioplaus.rules._optimisers import SGD, Adam, Optimiser
from bioplaus.rules._predictive import PredictiveConfig, PredictiveRule

BENCHMARK = (
    BenchmarkCase(label="784-500-10", values={"n_units": [784, 500, 10]}),
    BenchmarkCase(label="784-500-10", values={"n_units": (784, 500, 10)}, batch_size=256),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(PredictiveConfig):
    """Defaults: the published MNIST setting of the figures, 784-600-600-10 (V2, setting 3)."""

    n_units: tuple[int, ...] = (784, 600, 600, 10)  # layer widths, input first
    optimiser: Literal["adam", "sgd"] = "adam"  # sgd: plain steps
    # Adam as in its paper (epsilon not bias-corrected); False: as in torch
    use_paper_adam: bool = True
    lr_decay: float = 0.95  # factor on lr every epoch, dimensionless
    target_margin: float = 0.03  # distance of the clamped output from 0 and 1, dimensionless
    use_objective: bool = True  # measure the objective after every update, as published

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("lr_decay", low=0, high=1, open_low=True)
        self.check("target_margin", low=0, high=0.5, open_high=True)


class Rule(PredictiveRule):
    """Feed-forward pass, relaxation with clamped output, one step of all weights and biases.

    Order: x_k = a_k; x_L = target; relaxation; gradients from the final states; the step; the
    objective, with the new weights and the final states: minus the sum of squared errors, mean over
    the batch (recorded as "objective").

    Attributes
    ----------
    w_ff, bias : W_k and b_k, as `_predictive` draws them.

    References
    ----------
    Whittington and Bogacz, Neural Computation 2017.

    Notes
    -----
    At the published setting on MNIST the test accuracy of a seed falls by 0.01 to 0.02 now and
    then, the squared errors double, and both recover over the next epochs; three of our four seeds
    did so within ten. In the seed examined, the weights of W_2 had drifted together: its largest
    singular value s was 66 then, 22 in a seed that had not fallen. An iteration multiplies a state
    along that direction by about 1 - lr_neural (1 + f'^2 s^2), which is below -1 once s is large:
    the relaxation overshoots instead of settling. The published mean falls likewise, from 0.9805 to
    0.9778 between epochs 10 and 13, where the spread of its training accuracies over seeds is
    widest.

    Deviations
    ----------
    The published code sends the input through logit and back through f; here f(x_0) := x_0, which
    is the same and safe at 0 and 1. Its Adam does not bias-correct epsilon: so by default,
    `use_paper_adam=False` gives the form of torch.
    """

    config: Config

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.optimiser = self._optimiser([*self.w_ff, *self.bias])

    def _optimiser(self, weights: list[Tensor]) -> Optimiser:
        if self.config.optimiser == "sgd":
            return SGD(weights, use_ascent=True)
        return Adam(weights, use_paper_form=self.config.use_paper_adam, use_ascent=True)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        c = self.config
        set_rates(self.lr_now, [c.lr] * c.n_layers, c.lr_decay**epoch)

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        relaxed, first = self._settle(x, y)
        f, e, n = self._rates(relaxed), self._errors(relaxed, first), len(x)
        gradients = [outer(e[k], f[k - 1]) / n for k in e] + [e[k].mean(0) for k in e]
        self.optimiser.step([*self.w_ff, *self.bias], gradients, self.lr_now[0])
        return {"objective": self._objective(relaxed)} if self.config.use_objective else {}

    def _settle(
        self, x: Tensor, y: Tensor | None, sign: Tensor | None = None
    ) -> tuple[Layers, Tensor]:
        """The states after the relaxation, without `y` at their predictions; and a_1."""
        states, n, m = self._forward(x), self.config.n_layers, self.config.target_margin
        first = states[1]
        if y is not None:
            states = states | {n: (1 - 2 * m) * one_hot(y, states[n]) + m}
            for t, eta in enumerate(self.config.etas()):
                states = self._iterate(states, first, eta)
                self._report_states("relaxed", t, states)
        return states, first

    def _forward(self, x: Tensor) -> Layers:
        """x_k = a_k in all layers."""
        w, b, states = numbered(self.w_ff), numbered(self.bias), {0: x}
        for k in w:
            states[k] = linear(self._rates(states)[k - 1], w[k], b[k])
        self._report_states("forward", 0, states)
        return states

    def _rates(self, x: Layers) -> Layers:
        return {k: x[k] if k == 0 else x[k].sigmoid() for k in x if k < self.config.n_layers}

    def _errors(self, x: Layers, first: Tensor) -> Layers:
        """e_k, k = 1 .. L, where `first` is a_1: x_0 is clamped."""
        w, b, f = numbered(self.w_ff), numbered(self.bias), self._rates(x)
        return {k: x[k] - (first if k == 1 else linear(f[k - 1], w[k], b[k])) for k in w}

    def _iterate(self, x: Layers, first: Tensor, eta: float) -> Layers:
        w, f, e = numbered(self.w_ff), self._rates(x), self._errors(x, first)
        new = dict(x)
        for k in range(1, self.config.n_layers):
            slope = f[k] * (1 - f[k])
            new[k] = x[k] + eta * (-e[k] + (e[k + 1] @ w[k + 1]) * slope)
        return new

    def _objective(self, x: Layers) -> Tensor:
        """Minus the squared errors with the present weights, mean over the batch."""
        e = self._errors(x, linear(x[0], self.w_ff[0], self.bias[0]))
        total = x[0].new_zeros(len(x[0]))
        for k in e:
            total += e[k].square().sum(1)
        return -total.mean()

    def _evaluate(self, x: Tensor) -> Tensor:
        return self._forward(x)[self.config.n_layers]

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: Mapping[str, Sequence[Tensor]]
    ) -> Tensor:
        return self._objective(numbered([x, *state["x"]], 0))

    def useful_flops(self, batch_size: int) -> int:
        """2 batch (3 n_0 n_1 + (2 n_steps + 4) above), above = sum_{k>=2} n_{k-1} n_k: forward
        pass, gradient and objective everywhere; above, two products an iteration and the final
        errors. One pass less without objective.
        """
        u, c = self.config.n_units, self.config
        above, first = sum(a * b for a, b in zip(u[1:], u[2:], strict=False)), u[0] * u[1]
        return (
            2
            * batch_size
            * (2 * first + (2 * c.n_steps + 3) * above + c.use_objective * (first + above))
        )
