"""Direct feedback alignment: every hidden layer hears the output's error through fixed random
weights.

`python -m bioplaus new-rule NAME` copies this file: change what is learned, the paper, and the
equations, and keep one statement for each of them (Nøkland 2016, equation 6). With h_0 = x,
one-hot target y, N the batch size, and B_k drawn once and never changed:

    h_k  =  tanh(W_k h_{k-1})                                k < L
    h_L  =  W_L h_{L-1}

    d_L  =  y - softmax(h_L)
    d_k  =  (B_k d_L) * (1 - h_k^2)                          k < L

    dW_k =  lr sum_N d_k h_{k-1}^T / N
"""

import dataclasses

import torch
from torch import Tensor

from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._layered import (
    LayeredConfig,
    LayeredRule,
    Layers,
    numbered,
    one_hot,
    outer,
    tensors,
    xavier,
)

BENCHMARK = (BenchmarkCase(label="784-500-10"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LayeredConfig):
    """Defaults: a network for MNIST, 784-500-10."""

    lr: float = 0.2  # weight step, dimensionless

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("lr", low=0)


class Rule(LayeredRule):
    """One step of all weights a batch.

    Order: forward pass; errors of all layers with the OLD weights; then every W_k is updated at
    once.

    Attributes
    ----------
    w_ff : L matrices W_k, (n_k, n_{k-1}), Xavier-uniform.
    w_back : L-1 fixed matrices B_k, (n_k, n_L), k = 1..L-1, Xavier-uniform.

    References
    ----------
    Nøkland, Direct feedback alignment provides learning in deep neural networks, NeurIPS 2016.

    Deviations
    ----------
    The paper gives no code; its experiments use other networks and RMSprop.
    """

    config: Config

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        u = config.n_units
        self.w_ff = tensors(xavier(n, below, generator) for n, below in zip(u[1:], u, strict=False))
        self.w_back = tensors(xavier(n, u[-1], generator) for n in u[1:-1])

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: int, step: int) -> dict[str, Tensor]:
        h, n = self._forward(x), self.config.n_layers
        d = {n: one_hot(y, h[n]) - h[n].softmax(1)}
        for k, b in numbered(self.w_back).items():
            d[k] = (d[n] @ b.t()) * (1 - h[k] ** 2)
        for k, w in numbered(self.w_ff).items():
            w += self.config.lr / len(x) * outer(d[k], h[k - 1])
        return {}

    def _forward(self, x: Tensor) -> Layers:
        """h_0 .. h_L."""
        h = {0: x}
        for k, w in numbered(self.w_ff).items():
            a = h[k - 1] @ w.t()
            h[k] = a.tanh() if k < self.config.n_layers else a
        return h

    def _evaluate(self, x: Tensor) -> Tensor:
        return self._forward(x)[self.config.n_layers]
