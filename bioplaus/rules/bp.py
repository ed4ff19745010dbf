"""Backpropagation: the reference every biologically plausible rule is compared with.

A chain of linear layers with ReLU between them and a linear output learns by the exact gradient of
its loss, with Adam (Bozkurt, Pehlevan and Erdogan 2023, "BP-MLP"). With h_0 = x and batch size N:

    a_k = W_k h_{k-1} + b_k,   h_k = max(a_k, 0) for k < L,   output a_L
    d_L = 2 (a_L - onehot) / (N n_L)  (mse)   or   (softmax(a_L) - onehot) / N  (cross_entropy)
    d_k = (W_{k+1}^T d_{k+1}) * [a_k > 0],   dW_k = sum_N d_k h_{k-1}^T,   db_k = sum_N d_k
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._layered import (
    LayeredConfig,
    LayeredRule,
    Scratch,
    one_hot_,
    tensors,
    uniform,
)
from bioplaus.rules._optimisers import Adam, Optimiser

BENCHMARK = (BenchmarkCase(label="784-500-10"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LayeredConfig):
    """Defaults: the published MNIST setting of 784-500-10 (setting 5)."""

    loss: Literal["mse", "cross_entropy"] = (
        "mse"  # mse: mean over batch and classes, against one-hot targets
    )
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
        self._set_lr(
            [self.config.lr] * self.config.n_layers,
            self.config.lr_decay ** (epoch // self.config.n_decay_epochs),
        )

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: int, step: int) -> dict[str, Tensor]:
        z, w, b = self.scratch(len(x)), list(self.w_ff), list(self.bias)
        h = [x, *self._forward(z, x, w, b)]
        loss = self._output_error(z, h[-1], y)
        for k in range(len(w) - 1, -1, -1):
            torch.mm(h[k].t(), z.error[k], out=z.gradient[k].t())
            torch.sum(z.error[k], 0, out=z.gradient[len(w) + k])
            if k > 0:
                torch.mm(z.error[k], self._backward_weight(k), out=z.error[k - 1])
                z.error[k - 1].mul_(torch.sign(h[k], out=z.slope[k - 1]))
        self.optimiser.step([*w, *b], z.gradient, self.lr_now[0])
        return {"loss": loss}

    def _evaluate(self, x: Tensor) -> Tensor:
        return self._forward(self.scratch(len(x)), x, list(self.w_ff), list(self.bias))[-1].clone()

    def _allocate(self, n: int) -> Scratch:
        widths = self.config.n_units[1:]
        rows = {
            name: [self._empty(n, width) for width in widths] for name in ("h", "error", "slope")
        }
        return Scratch(
            **rows,
            gradient=[torch.empty_like(v) for v in (*self.w_ff, *self.bias)],
            target=self._empty(n, widths[-1]),
        )

    def _forward(self, z: Scratch, x: Tensor, w: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        """Rates of the layers above the input; the last is the linear output."""
        for k, (weight, bias) in enumerate(zip(w, b, strict=True)):
            torch.addmm(bias, x if k == 0 else z.h[k - 1], weight.t(), out=z.h[k])
            if k < len(w) - 1:
                z.h[k].clamp_(min=0)
        return z.h

    def _output_error(self, z: Scratch, output: Tensor, y: Tensor) -> Tensor:
        """Write the gradient of the loss with respect to the linear output into `z.error`; return
        the loss, 0-d.
        """
        error, n = z.error[-1], len(y)
        if self.config.loss == "mse":
            torch.sub(output, one_hot_(z.target, y), out=error)
            loss = error.square().mean()
            error.mul_(2 / error.numel())
            return loss
        logs = torch.log_softmax(output, 1)
        torch.sub(torch.exp(logs, out=error), one_hot_(z.target, y), out=error).div_(n)
        return -(logs * z.target).sum() / n

    def _backward_weight(self, k: int) -> Tensor:
        """(n_{k+1}, n_k) weights that carry errors of layer k+1 down: the forward ones."""
        return self.w_ff[k]

    def useful_flops(self, batch_size: int) -> int:
        """2 batch (3 sum n_{k-1} n_k - n_0 n_1): forward, error and gradient products; no error
        reaches the input.
        """
        u = self.config.n_units
        return (
            2 * batch_size * (3 * sum(a * b for a, b in zip(u, u[1:], strict=False)) - u[0] * u[1])
        )
