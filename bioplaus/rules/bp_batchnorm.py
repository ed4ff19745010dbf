"""Backpropagation through a network with batch normalisation: the readout and the controls of the
competing hidden units.

A chain of linear layers ends in a softmax; with Adam, it learns by the exact gradient of the mean
cross-entropy, in the conventions of Keras, which the published notebook used. With h_0 = x, batch
size N, moments taken over the batch, and w any weight:

    a_k     = W_k h_{k-1} + b_k
    h_k     = bn(f(a_k))                                      below the output
    output  = a_L, or bn(a_L) where norm is "output"        (no bn at all where it is "none")
    bn(u)   = gamma (u - mean(u)) / sqrt(var(u) + 1e-3) + beta            var with divisor N
    running <- 0.99 running + 0.01 batch            what `predict` takes in place of the moments

    g  = d cross-entropy / dw                       at batch t = start_step + 1, start_step + 2, ...
    m  <- 0.9 m + 0.1 g
    v  <- 0.999 v + 0.001 g^2
    w  <- w - lr sqrt(1 - 0.999^t) / (1 - 0.9^t) m / (sqrt(v) + 1e-7)
    lr = lr0 lr_decay^floor((t - 1) / n_decay_steps)
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bioplaus import metrics
from bioplaus.rules._base import BenchmarkCase, Count, at, rewritten
from bioplaus.rules._layered import LayeredConfig, LayeredRule, tensors, xavier
from bioplaus.rules._optimisers import Adam

MOMENTUM = 0.99  # of the running moments, Keras
EPSILON_NORM = 1e-3  # added to the variance, Keras
EPSILON_ADAM = 1e-7  # added to sqrt(v), Keras
BENCHMARK = (
    BenchmarkCase(
        label="2000-10, readout", batch_size=100, values={"n_units": [2000, 10], "norm": "output"}
    ),
    BenchmarkCase(label="3072-2000-10, control", batch_size=1000),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LayeredConfig):
    """Defaults: the published backpropagation control on CIFAR-10."""

    n_units: tuple[int, ...] = (3072, 2000, 10)  # layer widths, input first
    activation: Literal["relu", "linear"] = "relu"  # f, of the hidden layers
    # what is normalised: each hidden layer, the output, or nothing
    norm: Literal["hidden", "output", "none"] = "hidden"
    lr: float = 0.001  # lr0, step of Adam, dimensionless
    lr_decay: float = 1.0  # factor on lr every n_decay_steps batches
    n_decay_steps: int = 20000  # batches between two decays
    # batches the optimiser counts as already done (225000: re-used after the published readout)
    start_step: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_depth(2 if self.norm == "hidden" else 1)
        self.check("lr", low=0)
        self.check("lr_decay", low=0, high=1, open_low=True)
        self.check("n_decay_steps", low=1)
        self.check("start_step", low=0)

    @property
    def normed(self) -> tuple[int, ...]:
        """Layers (0: the lowest) that have a batch norm."""
        n = self.n_layers
        return {"hidden": tuple(range(n - 1)), "output": (n - 1,), "none": ()}[self.norm]


class Rule(LayeredRule):
    """One gradient step a batch.

    Order: forward pass with the batch's moments; gradients of all weights at once; one Adam step of
    all; running moments. Returned for every batch, before its step: "train_loss" (nat) and
    "train_accuracy".

    Attributes
    ----------
    w_ff : L matrices W_k, (n_k, n_{k-1}), drawn from U(-b, b), b = sqrt(6 / (n_{k-1} + n_k))
        (Glorot).
    bias : L vectors b_k, (n_k,), first 0.
    gamma, beta : scale and shift of each batch norm, (n_k,), first 1 and 0.
    running_mean, running_var : its running moments, (n_k,), first 0 and 1.

    References
    ----------
    Ioffe and Szegedy, Batch normalization, ICML 2015. Kingma and Ba, Adam, ICLR 2015. Keras
    documentation, layers Dense and BatchNormalization, optimizer Adam.

    Deviations
    ----------
    A bias whose layer goes straight into a batch norm has a gradient of exactly 0; in Keras its
    rounding noise, amplified by Adam, makes it wander, here it stays where it is. `start_step`
    reproduces the published linear control, which went on with the optimiser of the readout:
    moments 0, yet bias corrections and rate those of step 225001. Left at 0 it is an ordinary Adam.
    """

    config: Config
    lr_steps: Tensor

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        widths = config.n_units
        normed = [widths[k + 1] for k in config.normed]
        pairs = zip(widths, widths[1:], strict=False)
        self.w_ff = tensors([xavier(n_out, n_in, generator) for n_in, n_out in pairs])
        self.bias = tensors([torch.zeros(n) for n in widths[1:]])
        self.gamma = tensors([torch.ones(n) for n in normed])
        self.beta = tensors([torch.zeros(n) for n in normed])
        self.running_mean = tensors([torch.zeros(n) for n in normed])
        self.running_var = tensors([torch.ones(n) for n in normed])
        self.optimiser = Adam(self._learned(), use_paper_form=True, epsilon=EPSILON_ADAM)
        self.optimiser.count.fill_(config.start_step)
        self.register_buffer("lr_steps", torch.zeros(0), persistent=False)

    @classmethod
    def least_batch(cls, config: Config) -> int:
        return 2

    def _learned(self) -> list[Tensor]:
        return [*self.w_ff, *self.bias, *self.gamma, *self.beta]

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        c, first = self.config, self.config.start_step + epoch * n_batches
        rates = [
            c.lr * c.lr_decay ** (step // c.n_decay_steps)
            for step in range(first, first + n_batches)
        ]
        self.lr_steps = rewritten(self.lr_steps, torch.tensor(rates, dtype=torch.float64))

    @torch.no_grad()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        """One step from inputs `x`, (batch, n_0) float, and classes `y`, (batch,) int64."""
        c = self.config
        self.lr_now.copy_(at(self.lr_steps, step))
        weights = self._learned()
        with torch.enable_grad():
            leaves = [weight.detach().requires_grad_() for weight in weights]
            output, moments = self._forward(x, leaves)
            loss = functional.cross_entropy(output, y)
            gradients = list(torch.autograd.grad(loss, leaves))
        for k in self._idle_biases():  # exactly 0; what is there is rounding
            gradients[c.n_layers + k].zero_()
        self.optimiser.step(weights, gradients, self.lr_now[0])
        running = zip(self.running_mean, self.running_var, moments, strict=True)
        for running_mean, running_var, (mean, var) in running:
            running_mean.mul_(MOMENTUM).add_(mean, alpha=1 - MOMENTUM)
            running_var.mul_(MOMENTUM).add_(var, alpha=1 - MOMENTUM)
        return {"train_loss": loss.detach(), "train_accuracy": metrics.accuracy(output, y)}

    def _forward(
        self, h: Tensor, learned: Sequence[Tensor], *, is_training: bool = True
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Output (batch, n_L) before the softmax, and (mean, variance) over the batch of what each
        batch norm saw; in evaluation the running ones are used and none given.
        """
        c, n, normed = self.config, self.config.n_layers, self.config.normed
        w, b = learned[:n], learned[n : 2 * n]
        gamma, beta = learned[2 * n : 2 * n + len(normed)], learned[2 * n + len(normed) :]
        moments = []
        for k in range(n):
            h = functional.linear(h, w[k], b[k])
            if k < n - 1 and c.activation == "relu":
                h = h.relu()
            if k in normed:
                i = normed.index(k)
                running = (None, None)
                if is_training:
                    var, mean = torch.var_mean(h.detach(), 0, correction=0)
                    moments.append((mean, var))
                else:
                    running = (self.running_mean[i], self.running_var[i])
                h = functional.batch_norm(
                    h, *running, gamma[i], beta[i], is_training, 0.0, EPSILON_NORM
                )
        return h, moments

    def _idle_biases(self) -> Sequence[int]:
        """Layers whose bias changes nothing: a batch norm takes it away again at once."""
        c = self.config
        return c.normed if c.norm == "output" or c.activation == "linear" else ()

    def _evaluate(self, x: Tensor) -> Tensor:
        return self._forward(x, self._learned(), is_training=False)[0]

    def useful_flops(self, batch_size: int) -> int:
        """2 batch (3 sum n_{k-1} n_k - n_0 n_1): forward, error and gradient products; no error
        reaches the input.
        """
        u = self.config.n_units
        return (
            2 * batch_size * (3 * sum(a * b for a, b in zip(u, u[1:], strict=False)) - u[0] * u[1])
        )
