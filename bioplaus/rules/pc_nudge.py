"""Nudged predictive coding: the output is not clamped but pulled weakly towards the target.

From a feed-forward start with no errors the pull spreads down as small errors, whose products give
the weight steps (the PC-Nudge baseline of Bozkurt, Pehlevan and Erdogan 2023). With f = ReLU,
f(x_0) := x_0, one-hot target y and lam = sign * lambda_nudge, activities ascend

    E    =  -sum_k |e_k|^2 - lam |x_L - y|^2

    a_k  =  W_k f(x_{k-1}) + b_k
    e_k  =  x_k - a_k

    x_k +=  lr_neural (-2 e_k + 2 (W_{k+1}^T e_{k+1}) * [x_k > 0])          k < L, all at once
    x_L +=  lr_neural (-2 e_L - 2 lam (x_L - y))

    W_k +=  (2 lr / lam) sum_N e_k f(x_{k-1})^T                             N the batch
    b_k +=  (2 lr / lam) sum_N e_k
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from bioplaus.rules._base import BenchmarkCase, Count, at, rewritten
from bioplaus.rules._layered import Layers, NudgedRule, numbered, one_hot, outer
from bioplaus.rules._predictive import PredictiveConfig, PredictiveRule

BENCHMARK = (
    BenchmarkCase(label="784-500-10", values={"n_units": [784, 500, 10]}),
    BenchmarkCase(label="784-128-64-10"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(PredictiveConfig):
    """Defaults: the published MNIST setting of the figures, 784-128-64-10 (setting 2)."""

    n_units: tuple[int, ...] = (784, 128, 64, 10)  # layer widths, input first
    lambda_nudge: float = 0.001  # size of the pull of the output towards the target, dimensionless
    # draw the sign of the pull for every batch; False: always positive
    use_random_sign: bool = True
    lr_neural_decay: float = 0.005  # of rule "slow", per iteration
    lr_decay: float = 0.9  # factor on lr every n_decay_batches, dimensionless
    n_decay_batches: int = 30000  # batches between two decays

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("lambda_nudge", low=0, open_low=True)
        self.check("lr_decay", low=0, high=1, open_low=True)
        self.check("n_decay_batches", low=1)


class Rule(NudgedRule, PredictiveRule):
    """Feed-forward pass, relaxation of all layers above the input, one step of all weights and
    biases.

    Order: x_k = a_k; relaxation under the pull; the step, from the final states and the OLD
    weights.

    Attributes
    ----------
    w_ff, bias : W_k and b_k, as `_predictive` draws them.
    lr_steps : (n_batches,) buffer, weight step of every batch of the epoch, dimensionless.

    References
    ----------
    Bozkurt, Pehlevan and Erdogan, Correlative information maximization, NeurIPS 2023 (baseline
    "PCN").

    Deviations
    ----------
    The published code resets the sign for a setting and not for a seed; here it comes from the
    run's own stream.
    """

    config: Config
    lr_steps: Tensor

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.register_buffer("lr_steps", torch.zeros(0), persistent=False)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        super().begin_epoch(epoch, n_batches)
        c = self.config
        done = range(epoch * n_batches, (epoch + 1) * n_batches)
        rates = torch.tensor(
            [c.lr * c.lr_decay ** (batch // c.n_decay_batches) for batch in done],
            dtype=torch.float64,
        )
        self.lr_steps = rewritten(self.lr_steps, rates)

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        lam, lr = at(self.signs, step) * self.config.lambda_nudge, at(self.lr_steps, step)
        relaxed, first = self._settle(x, y, at(self.signs, step))
        w, b = numbered(self.w_ff), numbered(self.bias)
        f, e = self._rates(relaxed), self._errors(relaxed, first)
        for k in w:
            w[k] += 2 * lr / lam * outer(e[k], f[k - 1])
            b[k] += 2 * lr / lam * e[k].sum(0)
        return {}

    def _settle(self, x: Tensor, y: Tensor | None, sign: Tensor) -> tuple[Layers, Tensor]:
        """The states after the relaxation, without `y` at their predictions; and a_1."""
        states, lam = self._forward(x), sign * self.config.lambda_nudge
        first = states[1]
        if y is not None:
            y = one_hot(y, states[self.config.n_layers])
            for t, eta in enumerate(self.config.etas()):
                states = self._iterate(states, first, y, lam, eta)
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
        return {k: x[k] if k == 0 else x[k].relu() for k in x if k < self.config.n_layers}

    def _errors(self, x: Layers, first: Tensor) -> Layers:
        """e_k, k = 1 .. L, where `first` is a_1: x_0 is clamped."""
        w, b, f = numbered(self.w_ff), numbered(self.bias), self._rates(x)
        return {k: x[k] - (first if k == 1 else linear(f[k - 1], w[k], b[k])) for k in w}

    def _iterate(self, x: Layers, first: Tensor, y: Tensor, lam: Tensor, eta: float) -> Layers:
        w, e, new, n = numbered(self.w_ff), self._errors(x, first), dict(x), self.config.n_layers
        for k in range(1, n):
            new[k] = x[k] + eta * (-2 * e[k] + 2 * (e[k + 1] @ w[k + 1]) * (x[k] > 0))
        new[n] = x[n] + eta * (-2 * e[n] - 2 * lam * (x[n] - y))
        return new

    def _evaluate(self, x: Tensor) -> Tensor:
        return self._forward(x)[self.config.n_layers]

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "lr_steps": self.lr_steps.cpu().clone()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.lr_steps = rewritten(self.lr_steps, state["lr_steps"])

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: Mapping[str, Sequence[Tensor]]
    ) -> Tensor:
        """E, mean over the batch; without `y` minus the squared errors alone."""
        states = numbered([x, *state["x"]], 0)
        e = self._errors(states, linear(x, self.w_ff[0], self.bias[0]))
        total = x.new_zeros(len(x))
        for k in e:
            total -= e[k].square().sum(1)
        if y is not None:
            output = states[self.config.n_layers]
            total -= self.config.lambda_nudge * (output - one_hot(y, output)).square().sum(1)
        return total.mean()

    def useful_flops(self, batch_size: int) -> int:
        """2 batch (2 n_0 n_1 + (2 n_steps + 3) above), above = sum_{k>=2} n_{k-1} n_k: forward pass
        and update everywhere; above, two products an iteration and the final errors."""
        u = self.config.n_units
        above = sum(a * b for a, b in zip(u[1:], u[2:], strict=False))
        return 2 * batch_size * (2 * u[0] * u[1] + (2 * self.config.n_steps + 3) * above)
