"""Equilibrium propagation: a network relaxes freely, then once more while its output is nudged
towards the target.

Each weight moves by the difference of the two products of its ends' activities, which in the limit
of a small nudge is the gradient of the squared error (Scellier and Bengio 2017). As trained beside
CorInfoMax (Bozkurt, Pehlevan and Erdogan 2023). With s_0 = x, one-hot target y, N the batch size
and hs(u) = clip(u, 0, 1):

    E(s) =  sum_k |s_k|^2 / 2 - s_k . (W_k s_{k-1} + b_k)  +  beta |s_L - y|^2

    dE/ds_k =  s_k - W_k s_{k-1} - b_k - W_{k+1}^T s_{k+1}                          k < L
    dE/ds_L =  s_L - W_L s_{L-1} - b_L + 2 beta (s_L - y)

    s_k <-  hs(s_k - lr_neural dE/ds_k)                     k = 1 .. L, all at once

    W_k +=  (lr_ff[k] / beta) (s'_k s'_{k-1}^T - s_k s_{k-1}^T) / N
    b_k +=  (lr_ff[k] / beta) sum_N (s'_k - s_k) / N        s free (beta = 0), s' nudged
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from bioplaus.rules._base import BenchmarkCase, Count, at
from bioplaus.rules._layered import (
    FREE,
    Layers,
    Nudge,
    NudgedConfig,
    NudgedRule,
    numbered,
    one_hot,
    outer,
    set_rates,
    tensors,
    xavier,
)

BENCHMARK = (BenchmarkCase(label="784-500-10"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(NudgedConfig):
    """Defaults: the published MNIST setting of 784-500-10."""

    lr_ff: tuple[float, ...] = (0.1, 0.05)  # weight and bias step by layer, dimensionless
    n_free_steps: int = 20  # iterations of the free phase
    n_nudged_steps: int = 4  # iterations of the nudged phase
    lr_neural: float = 0.5  # step of an iteration in training, dimensionless
    lr_neural_evaluate: float = 0.5  # step of an iteration in evaluation, dimensionless
    lr_decay: float = 1.0  # factor on lr_ff every n_decay_epochs, dimensionless
    n_decay_epochs: int = 15  # epochs between two decays

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_length("lr_ff", self.n_layers, "weight layer")
        self.check("lr_ff", low=0)
        for name in ("n_free_steps", "n_nudged_steps", "n_decay_epochs"):
            self.check(name, low=1)
        for name in ("lr_neural", "lr_neural_evaluate"):
            self.check(name, low=0, high=2, open_low=True)
        self.check("lr_decay", low=0, high=1, open_low=True)


class Rule(NudgedRule):
    """Free phase, nudged phase from there, then one contrastive step of all weights.

    Order: s = 0; `n_free_steps` free iterations; `n_nudged_steps` iterations with beta = sign *
    beta_nudge from the free states; then all W and b at once. x is clamped, so W_1 x + b_1 is
    computed once a phase.

    Attributes
    ----------
    w_ff : L matrices W_k, (n_k, n_{k-1}), start Xavier-uniform.
    bias : L vectors b_k, (n_k,), start 0.

    References
    ----------
    Scellier and Bengio, Equilibrium propagation, Front. Comput. Neurosci. 2017. Bozkurt et al.,
    NeurIPS 2023 (baseline).

    Deviations
    ----------
    The published training always uses a neural step of 0.5, and only its evaluation the listed one:
    hence two fields, `lr_neural` and `lr_neural_evaluate`. Set them equal for what the list says.
    The published code cannot train two or more hidden layers (an autograd error); here any depth
    works. The sign is drawn from the run's own stream, while the published one leaks from run to
    run.
    """

    config: Config
    objective_name = "energy"

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        pairs = list(zip(config.n_units[1:], config.n_units, strict=False))
        self.w_ff = tensors([xavier(n_out, n_in, generator) for n_out, n_in in pairs])
        self.bias = tensors([torch.zeros(n_out) for n_out, _ in pairs])

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        super().begin_epoch(epoch, n_batches)
        c = self.config
        set_rates(self.lr_now, c.lr_ff, c.lr_decay ** (epoch // c.n_decay_epochs))

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        free, nudged = self._settle(x, y, at(self.signs, step))
        self._learn(free, nudged, at(self.signs, step) * self.config.beta_nudge)
        return {}

    def _settle(self, x: Tensor, y: Tensor | None, sign: Tensor) -> tuple[Layers, Layers]:
        """States at the end of the free phase and of the nudged one; without `y` both are free."""
        c = self.config
        free = self._relax("free", self._at_rest(x), c.lr_neural, c.n_free_steps)
        if y is None:
            return free, free
        nudge = sign * c.beta_nudge, one_hot(y, free[c.n_layers])
        return free, self._relax("nudged", free, c.lr_neural, c.n_nudged_steps, nudge)

    def _relax(self, phase: str, s: Layers, lr: float, n_steps: int, nudge: Nudge = FREE) -> Layers:
        """s_k <- hs(s_k - lr dE/ds_k), all layers at once, `n_steps` times."""
        drive = linear(s[0], self.w_ff[0], self.bias[0])
        for t in range(n_steps):
            slope = self._slope(s, drive, nudge)
            s = {0: s[0]} | {k: (s[k] - lr * slope[k]).clamp(0, 1) for k in slope}
            self._report(phase, t, s=s)
        return s

    def _slope(self, s: Layers, drive: Tensor, nudge: Nudge) -> Layers:
        """dE/ds_k of all layers, (batch, n_k), where `drive` is W_1 x + b_1."""
        w, b, n, (beta, y) = numbered(self.w_ff), numbered(self.bias), self.config.n_layers, nudge
        below = {1: drive} | {k: linear(s[k - 1], w[k], b[k]) for k in range(2, n + 1)}
        slope = {k: s[k] - below[k] - s[k + 1] @ w[k + 1] for k in range(1, n)}
        return slope | {n: s[n] - below[n] + 2 * beta * (s[n] - y)}

    def _learn(self, free: Layers, nudged: Layers, beta: Tensor) -> None:
        """One step of all weights and biases."""
        w, b = numbered(self.w_ff), numbered(self.bias)
        for k in w:
            gain = self.lr_now[k - 1] / (beta * len(free[0]))
            w[k] += gain * (outer(nudged[k], nudged[k - 1]) - outer(free[k], free[k - 1]))
            b[k] += gain * (nudged[k] - free[k]).sum(0)

    def _evaluate(self, x: Tensor) -> Tensor:
        c = self.config
        s = self._relax("free", self._at_rest(x), c.lr_neural_evaluate, c.n_free_steps)
        return s[c.n_layers]

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: Mapping[str, Sequence[Tensor]]
    ) -> Tensor:
        """E(s), mean over the batch."""
        w, b, s = numbered(self.w_ff), numbered(self.bias), numbered([x, *state["s"]], 0)
        energy = x.new_zeros(len(x))
        for k in w:
            energy += (s[k] * (s[k] / 2 - linear(s[k - 1], w[k], b[k]))).sum(1)
        if phase == "nudged" and y is not None:
            output = s[self.config.n_layers]
            energy += self.config.beta_nudge * (output - one_hot(y, output)).square().sum(1)
        return energy.mean()

    def useful_flops(self, batch_size: int) -> int:
        """2 batch (2 n_0 n_1 + 2 (n_free_steps + n_nudged_steps + 1) sum_{k>=2} n_{k-1} n_k): input
        drive and update once; above, a product each way per iteration and two in the update."""
        u, c = self.config.n_units, self.config
        above = sum(a * b for a, b in zip(u[1:], u[2:], strict=False))
        return (
            2 * batch_size * (2 * u[0] * u[1] + 2 * (c.n_free_steps + c.n_nudged_steps + 1) * above)
        )
