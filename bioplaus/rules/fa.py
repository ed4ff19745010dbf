"""Feedback alignment: backpropagation whose errors travel down through fixed random weights.

The network learns to make the random feedback useful (Lillicrap et al. 2016). Forward pass, losses
and weight gradients are those of `bp`; only the errors below the output differ, with B_{k+1} of the
shape of W_{k+1}, drawn once and never changed:

    d_k  =  (B_{k+1}^T d_{k+1}) * [a_k > 0]             k < L
"""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from bioplaus import metrics
from bioplaus.rules import bp
from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._layered import Layers, tensors, xavier
from bioplaus.rules._optimisers import SGD, Adam, Optimiser

BENCHMARK = (BenchmarkCase(label="784-500-10"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(bp.Config):
    """Defaults: the published MNIST setting of 784-500-10 (mse, setting 9)."""

    lr_decay: float = 0.9  # factor on lr every n_decay_epochs, dimensionless
    n_decay_epochs: int = 10  # epochs between two decays
    optimiser: Literal["adam", "sgd"] = "adam"  # sgd: momentum 0.9, weight decay 0.001
    # rectify the output too; published among the grids, it often dies
    use_output_relu: bool = False
    # Adam steps with lr / 10, as in the published CIFAR-10 runs, which record lr
    use_tenth_lr: bool = False


class Rule(bp.Rule):
    """Backpropagation through fixed feedback.

    Order: as `bp`.

    Attributes
    ----------
    w_ff, bias : as in `bp`.
    w_back : L-1 fixed matrices, (n_{k+1}, n_k), k = 1..L-1, Xavier-uniform: carry errors of layer
        k+1 to layer k.

    References
    ----------
    Lillicrap, Cownden, Tweed and Akerman, Nature Communications 2016.

    Deviations
    ----------
    The published runs use an outside package of unstated version; this follows its version 0.0.16:
    forward weights keep the default of torch, backward weights are Xavier-uniform, weight and bias
    gradients are as usual. In the published CIFAR-10 scripts Adam uses a tenth of the rate they
    record: `use_tenth_lr`.
    """

    config: Config

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        u = config.n_units
        self.w_back = tensors(
            [xavier(n_out, n_in, generator) for n_out, n_in in zip(u[2:], u[1:], strict=False)]
        )

    def _optimiser(self) -> Optimiser:
        weights = [*self.w_ff, *self.bias]
        return (
            Adam(weights)
            if self.config.optimiser == "adam"
            else SGD(weights, momentum=0.9, weight_decay=0.001)
        )

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        super().begin_epoch(epoch, n_batches)
        if self.config.use_tenth_lr and self.config.optimiser == "adam":
            self.lr_now.div_(10)

    def _forward(self, x: Tensor) -> Layers:
        h, n = super()._forward(x), self.config.n_layers
        return h | {n: h[n].relu()} if self.config.use_output_relu else h

    def _loss(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        loss, error = super()._loss(output, y)
        return loss, error * (output > 0) if self.config.use_output_relu else error

    def _error_below(self, k: int, error: Tensor, h: Tensor) -> Tensor:
        return (error @ self.w_back[k - 1]) * h.sign()

    def diagnostics(self) -> dict[str, float]:
        """`angle_{k+1}_deg`, k = 1..L-1: angle in degrees between W_{k+1} and B_{k+1}; it falls as
        feedback aligns.
        """
        return {
            f"angle_{k + 2}_deg": metrics.angle_deg(self.w_ff[k + 1], b)
            for k, b in enumerate(self.w_back)
        }
