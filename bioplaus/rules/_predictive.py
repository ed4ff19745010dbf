"""What the two predictive-coding rules, `pc` and `pc_nudge`, have in common but their equations:
fields of their configs, initial weights and what `watch` gets.
"""

import dataclasses
import math

import torch

from bioplaus.rules._layered import (
    LayeredConfig,
    LayeredRule,
    Layers,
    StepRule,
    neural_steps,
    tensors,
    uniform,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictiveConfig(LayeredConfig):
    """Fields of both rules."""

    lr: float = 0.001  # weight step, dimensionless
    n_steps: int = 50  # iterations of the relaxation
    lr_neural: float = 0.1  # first step of the relaxation, dimensionless
    # later steps: the same, / (t + 1), or / (1 + lr_neural_decay t)
    lr_neural_rule: StepRule = "constant"
    # least step, at most lr_neural, dimensionless; unused by "constant"
    lr_neural_stop: float = 0.001
    lr_neural_decay: float = 0.01  # of rule "slow", per iteration

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_depth(2)
        self.check("n_steps", low=1)
        self.check("lr_neural", low=0, open_low=True)
        for name in ("lr", "lr_neural_stop", "lr_neural_decay"):
            self.check(name, low=0)
        self.check_stop(self.lr_neural_rule, self.lr_neural, self.lr_neural_stop)

    def etas(self) -> list[float]:
        """Steps eta_t of the relaxation, dimensionless."""
        return neural_steps(
            self.lr_neural_rule,
            self.lr_neural,
            self.lr_neural_stop,
            self.lr_neural_decay,
            self.n_steps,
        )


class PredictiveRule(LayeredRule):
    """Weights, biases and trajectories of predictive coding.

    Attributes
    ----------
    w_ff : L matrices W_k, (n_k, n_{k-1}), start U(-b, b), b = sqrt(6 / n_{k-1}).
    bias : L vectors b_k, (n_k,), start U(-b, b), b = 1 / sqrt(n_{k-1}).
    """

    config: PredictiveConfig
    objective_name = "minus squared errors"

    def __init__(self, config: PredictiveConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        weights, biases = [], []
        for n_out, n_in in zip(config.n_units[1:], config.n_units, strict=False):
            weights.append(uniform(n_out, n_in, math.sqrt(6 / n_in), generator))
            biases.append(uniform(1, n_out, 1 / math.sqrt(n_in), generator)[0].clone())
        self.w_ff, self.bias = tensors(weights), tensors(biases)

    def _rates(self, x: Layers) -> Layers:
        """f(x_k) of the layers below the output; f(x_0) := x_0."""
        raise NotImplementedError

    def _report_states(self, phase: str, t: int, x: Layers) -> None:
        """`watch` gets the rates r, f(x) of hidden layers and x of the output, and the states x."""
        if self.watch is not None:
            self._report(phase, t, r=x | self._rates(x), x=x)
