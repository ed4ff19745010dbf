"""Backpropagation: the reference every biologically plausible rule is compared with.

A chain of linear layers with ReLU between them and a linear output learns by the exact gradient of
its loss, with Adam (Bozkurt, Pehlevan and Erdogan 2023, "BP-MLP"). With h_0 = x and N the batch
size:

    a_k  =  W_k h_{k-1} + b_k
    h_k  =  max(a_k, 0)                                 k < L
    h_L  =  a_L

    d_L  =  2 (h_L - onehot) / (N n_L)                  loss "mse"
    d_L  =  (softmax(h_L) - onehot) / N                 loss "cross_entropy"
    d_k  =  (W_{k+1}^T d_{k+1}) * [a_k > 0]             k < L

    dW_k =  sum_N d_k h_{k-1}^T
    db_k =  sum_N d_k
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from bioplaus._products import linear
from bioplaus.rules._base import BenchmarkCase, Count
from bioplaus.rules._layered import (
    LayeredConfig,
    LayeredRule,
    Layers,
    numbered,
    one_hot,
    outer,
    set_rates,
    tensors,
    uniform,
)
from bioplaus.rules._optimisers import Adam, Optimiser

BENCHMARK = (BenchmarkCase(label="784-500-10"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LayeredConfig):
    """Defaults: the published MNIST setting of 784-500-10 (setting 5)."""

    # mse: mean over batch and classes, against one-hot targets
    loss: Literal["mse", "cross_entropy"] = "mse"
    lr: float = 0.001  # step of Adam, dimensionless
    lr_decay: float = 0.9  # factor on lr every n_decay_epochs, dimensionless
    n_decay_epochs: int = 15  # epochs between two decays

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("lr", low=0)
        self.check("lr_decay", low=0, high=1, open_low=True)
        self.check("n_decay_epochs", low=1)


class Rule(LayeredRule):
    """One gradient step a batch.

    Order: forward pass; loss; errors from the output down, all with the OLD weights; then one Adam
    step of all weights and biases.

    Attributes
    ----------
    w_ff : L matrices W_k, (n_k, n_{k-1}), drawn like bias from U(-b, b), b = 1 / sqrt(n_{k-1}): the
        default of torch.
    bias : L vectors, (n_k,).

    References
    ----------
    Rumelhart, Hinton and Williams, Nature 1986. Kingma and Ba, Adam, ICLR 2015.

    Deviations
    ----------
    The published folder calls this rule "BPTT"; it is ordinary backpropagation.
    """

    config: Config

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        weights, biases = [], []
        for n_out, n_in in zip(config.n_units[1:], config.n_units, strict=False):
            weights.append(uniform(n_out, n_in, 1 / math.sqrt(n_in), generator))
            biases.append(uniform(1, n_out, 1 / math.sqrt(n_in), generator)[0].clone())
        self.w_ff, self.bias = tensors(weights), tensors(biases)
        self.optimiser = self._optimiser()

    def _optimiser(self) -> Optimiser:
        return Adam([*self.w_ff, *self.bias])

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        c = self.config
        factor = c.lr_decay ** (epoch // c.n_decay_epochs)
        set_rates(self.lr_now, [c.lr] * c.n_layers, factor)

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        h, n = self._forward(x), self.config.n_layers
        loss, error = self._loss(h[n], y)
        d = {n: error}
        for k in range(n - 1, 0, -1):
            d[k] = self._error_below(k, d[k + 1], h[k])
        numbers = range(1, n + 1)
        gradients = [outer(d[k], h[k - 1]) for k in numbers] + [d[k].sum(0) for k in numbers]
        self.optimiser.step([*self.w_ff, *self.bias], gradients, self.lr_now[0])
        return {"loss": loss}

    def _forward(self, x: Tensor) -> Layers:
        """h_0 .. h_L."""
        w, b, h = numbered(self.w_ff), numbered(self.bias), {0: x}
        for k in w:
            a = linear(h[k - 1], w[k], b[k])
            h[k] = a.relu() if k < self.config.n_layers else a
        return h

    def _loss(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, 0-d, and d_L."""
        target, n = one_hot(y, output), len(y)
        if self.config.loss == "mse":
            error = output - target
            return error.square().mean(), error * (2 / error.numel())
        logs = output.log_softmax(1)
        return -(logs * target).sum() / n, (logs.exp() - target) / n

    def _error_below(self, k: int, error: Tensor, h: Tensor) -> Tensor:
        """d_k from d_{k+1}; h_k is above 0 where a_k is."""
        return (error @ self.w_ff[k]) * h.sign()

    def _evaluate(self, x: Tensor) -> Tensor:
        return self._forward(x)[self.config.n_layers]

    def useful_flops(self, batch_size: int) -> int:
        """2 batch (3 sum n_{k-1} n_k - n_0 n_1): forward, error and gradient products; no error
        reaches the input.
        """
        u = self.config.n_units
        return (
            2 * batch_size * (3 * sum(a * b for a, b in zip(u, u[1:], strict=False)) - u[0] * u[1])
        )
