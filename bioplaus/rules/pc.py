"""Predictive coding: every layer predicts the next; activities, then weights, move to shrink the
prediction errors.

With input and target clamped, the hidden activities relax; the weights then follow the local errors
(Whittington and Bogacz 2017), as trained beside CorInfoMax (Bozkurt, Pehlevan and Erdogan 2023).
With f the logistic sigmoid, f(x_0) := x_0, batch size N and output clamped to x_L = (1 - 2m) onehot
+ m, m = `target_margin`:

    a_1 = W_1 x_0 + b_1,   a_k = W_k f(x_{k-1}) + b_k,   e_k = x_k - a_k
    x_k += lr_neural (-e_k + (W_{k+1}^T e_{k+1}) * f'(x_k))        k < L, all at once, n_steps times
    ascent of W_k along e_k f(x_{k-1})^T / N and of b_k along mean(e_k), by Adam or plainly
"""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._layered import Scratch, one_hot_
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
    use_paper_adam: bool = (
        True  # Adam as in its paper (epsilon not bias-corrected); False: as in torch
    )
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
    w_ff, bias : see `_predictive`.

    References
    ----------
    Whittington and Bogacz, Neural Computation 2017.

    Notes
    -----
    At the published setting on MNIST the test accuracy of a seed falls by 0.01 to 0.02 now and
    then, the squared errors double, and both recover over the next epochs; three of our four seeds
    did so within ten. In the seed looked at, the weights of W_2 had drifted together: its largest
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

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.optimiser = self._optimiser([*self.w_ff, *self.bias])

    def _optimiser(self, weights: list[Tensor]) -> Optimiser:
        if self.config.optimiser == "sgd":
            return SGD(weights, use_ascent=True)
        return Adam(weights, use_paper_form=self.config.use_paper_adam, use_ascent=True)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        self._set_lr([self.config.lr] * self.config.n_layers, self.config.lr_decay**epoch)

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: int, step: int) -> dict[str, Tensor]:
        z, n = self.scratch(len(x)), len(x)
        self._settle(z, x, y, None)
        n_layers = self.config.n_layers
        for k, below in enumerate([x, *z.f]):
            z.gradient[k].t().addmm_(below.t(), z.e[k], beta=0, alpha=1 / n)
            torch.mean(z.e[k], 0, out=z.gradient[n_layers + k])
        self.optimiser.step([*self.w_ff, *self.bias], z.gradient, self.lr_now[0])
        return {"objective": self._objective(z, x)} if self.config.use_objective else {}

    def _settle(self, z: Scratch, x: Tensor, y: Tensor | None, sign: None) -> None:
        self._forward(z, x)
        if y is not None:
            margin = self.config.target_margin
            one_hot_(z.target, y).mul_(1 - 2 * margin).add_(margin)
            torch.sub(z.target, self.bias[-1], out=z.x[-1])
            self._relax(z)

    def _allocate(self, n: int) -> Scratch:
        z = super()._allocate(n)
        z.gradient = [torch.zeros_like(v) for v in (*self.w_ff, *self.bias)]
        return z

    def _rate(self, x: Tensor, out: Tensor) -> None:
        torch.sigmoid(x, out=out)

    def _slope(self, f: Tensor, out: Tensor) -> None:
        torch.addcmul(f, f, f, value=-1, out=out)

    def _objective(self, z: Scratch, x: Tensor) -> Tensor:
        """Minus the summed squared errors, mean over the batch, with the present weights and the
        relaxed states.
        """
        total = 0
        for k, (below, state) in enumerate(zip([x, *z.f], [*z.x[:-1], z.target], strict=True)):
            error = (
                torch.sub(state, self.bias[k], out=z.e[k])
                .addmm_(below, self.w_ff[k].t(), alpha=-1)
                .flatten()
            )
            total = torch.dot(error, error) + total
        return total / -len(x)

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: dict[str, list[Tensor]]
    ) -> Tensor:
        return -self._squared_errors(x, state["x"]).mean()

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
