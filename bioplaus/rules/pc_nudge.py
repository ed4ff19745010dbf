"""Nudged predictive coding: the output is not clamped but pulled weakly towards the target.

From a feed-forward start with no errors the pull spreads down as small errors, whose products give
the weight steps (the PC-Nudge baseline of Bozkurt, Pehlevan and Erdogan 2023). With f = ReLU,
f(x_0) := x_0, y one-hot and signed lam = sign * lambda_nudge, activities ascend E = -sum_k |x_k -
a_k|^2 - lam |x_L - y|^2:

    a_1 = W_1 x_0 + b_1,   a_k = W_k f(x_{k-1}) + b_k,   e_k = x_k - a_k
    x_k += lr_neural (-2 e_k + 2 (W_{k+1}^T e_{k+1}) * [x_k > 0])                       k < L
    x_L += lr_neural (-2 e_L - 2 lam (x_L - y))                           all at once, n_steps times
    W_k += (2 lr / lam) sum_N e_k f(x_{k-1})^T,  b_k += (2 lr / lam) sum_N e_k  summed over the batch
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._layered import NudgedRule, Scratch, one_hot_
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
    use_random_sign: bool = (
        True  # draw the sign of the pull for every batch; False: always positive
    )
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
    w_ff, bias : see `_predictive`.
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

    step_factor = 2.0

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
        self.lr_steps = rates.to(self.lr_now)

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: int, step: int) -> dict[str, Tensor]:
        z = self.scratch(len(x))
        self._settle(z, x, y, self.signs[step])
        gain = 2 * self.lr_steps[step] / z.pull
        for w, b, below, e in zip(self.w_ff, self.bias, [x, *z.f], z.e, strict=True):
            w.t().addmm_(below.t(), e.mul_(gain))
            b.add_(e.sum(0))
        return {}

    def _settle(self, z: Scratch, x: Tensor, y: Tensor | None, sign: Tensor) -> None:
        self._forward(z, x)
        if y is not None:
            torch.mul(sign, self.config.lambda_nudge, out=z.pull)
            z.x[-1].sub_(self.bias[-1])
            torch.sub(one_hot_(z.target, y), self.bias[-1], out=z.goal)
            self._relax(z)

    def _rate(self, x: Tensor, out: Tensor) -> None:
        torch.clamp(x, min=0.0, out=out)

    def _slope(self, f: Tensor, out: Tensor) -> None:
        torch.sign(f, out=out)

    def _move_output(self, part: Scratch, step: float) -> None:
        part.x[-1].lerp_(part.goal, part.pull * step).add_(part.e[-1], alpha=-step)

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "lr_steps": self.lr_steps.cpu()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.lr_steps = state["lr_steps"].to(self.lr_now)

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: dict[str, list[Tensor]]
    ) -> Tensor:
        value, output = -self._squared_errors(x, state["x"]), state["x"][-1]
        if y is not None:
            away = (output - one_hot_(torch.empty_like(output), y)).square().sum(1)
            value -= self.config.lambda_nudge * away
        return value.mean()

    def useful_flops(self, batch_size: int) -> int:
        """2 batch (2 n_0 n_1 + (2 n_steps + 3) above), above = sum_{k>=2} n_{k-1} n_k: forward pass
        and update everywhere; above, two products an iteration and the final errors."""
        u = self.config.n_units
        above = sum(a * b for a, b in zip(u[1:], u[2:], strict=False))
        return 2 * batch_size * (2 * u[0] * u[1] + (2 * self.config.n_steps + 3) * above)
