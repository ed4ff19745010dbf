"""Contrastive similarity matching: equilibrium propagation whose hidden layers also inhibit
themselves.

Every hidden layer has a lateral matrix M (Qin, Mudur and Pehlevan 2021), here as trained beside
CorInfoMax (Bozkurt, Pehlevan and Erdogan 2023). With E and its slopes as in `ep`, s' the nudged
states, N the batch size, alpha_k = lr_lateral[k] < 0, and a_k the same after the decay of the
learning rates:

    E(s) +=  sum_{k<L} s_k^T M_k s_k / 2                                    in both phases

    dE/ds_k +=  (M_k + M_k^T)/2 s_k                                         k < L

    W_k, b_k as in `ep`, then
    M_k <-  (1 + alpha_k / (2 |beta|)) (M_k - a_k / (2 beta) s'_k s'_k^T / N)
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bioplaus.rules import ep
from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._layered import Layers, Nudge, gram, numbered, outer, set_rates, tensors

BENCHMARK = (BenchmarkCase(label="784-500-10"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ep.Config):
    """Defaults: the published MNIST setting of 784-500-10 (setting 2)."""

    lr_ff: tuple[float, ...] = (0.4, 0.275)  # weight and bias step by layer, dimensionless
    # step of M by hidden layer, dimensionless, not positive
    lr_lateral: tuple[float, ...] = (-0.01,)
    lr_decay: float = 0.75  # factor on lr_ff and lr_lateral every n_decay_epochs, dimensionless
    # divide the step of M by the signed nudge, as published; False: by its size
    use_signed_lateral: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_length("lr_lateral", self.n_layers - 1, "hidden layer")
        self.check("lr_lateral", low=-2 * self.beta_nudge, high=0)


class Rule(ep.Rule):
    """Free phase, nudged phase, contrastive step of W and b, then M from the nudged states alone.

    Order: as `ep`; then every M at once.

    Attributes
    ----------
    w_ff, bias : as in `ep`.
    m_lateral : L-1 matrices M_k, (n_k, n_k), start A A^T with A Xavier-uniform.

    References
    ----------
    Qin, Mudur and Pehlevan, Contrastive similarity matching for supervised learning, Neural
    Computation 2021.

    Deviations
    ----------
    Those of `ep`. As published, the step of M is divided by the signed nudge, whose sign is random:
    its Hebbian part has mean zero, and M decays to noise around 0 within an epoch, which makes CSM
    close to EP with larger rates. The published figures were made so. `use_signed_lateral=False`
    divides by the size of the nudge.
    """

    config: Config
    lr_lateral_now: Tensor

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.m_lateral = tensors([gram(n, generator) for n in config.n_units[1:-1]])
        self.register_buffer("lr_lateral_now", torch.zeros(len(config.lr_lateral)))

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        super().begin_epoch(epoch, n_batches)
        c = self.config
        set_rates(self.lr_lateral_now, c.lr_lateral, c.lr_decay ** (epoch // c.n_decay_epochs))

    def _slope(self, s: Layers, drive: Tensor, nudge: Nudge) -> Layers:
        slope, m = super()._slope(s, drive, nudge), numbered(self.m_lateral)
        return slope | {k: slope[k] + s[k] @ (m[k] + m[k].T) / 2 for k in m}

    def _learn(self, free: Layers, nudged: Layers, beta: Tensor) -> None:
        super()._learn(free, nudged, beta)
        c, m, n = self.config, numbered(self.m_lateral), len(free[0])
        divisor = beta if c.use_signed_lateral else beta.abs()
        for k in m:
            bracket = 1 + c.lr_lateral[k - 1] / (2 * c.beta_nudge)
            gain = self.lr_lateral_now[k - 1] / (2 * divisor)
            m[k].sub_(gain * outer(nudged[k], nudged[k]) / n).mul_(bracket)

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: Mapping[str, Sequence[Tensor]]
    ) -> Tensor:
        s, m = numbered(state["s"]), numbered(self.m_lateral)
        lateral = sum(((s[k] @ m[k]) * s[k]).sum() for k in m)
        return super()._objective_of(x, y, phase, state) + lateral / (2 * len(x))

    def useful_flops(self, batch_size: int) -> int:
        """That of `ep`, and 2 batch (n_free_steps + n_nudged_steps + 1) sum_{k<L} n_k^2: the
        lateral product of every iteration and the update of M."""
        c = self.config
        lateral = sum(n * n for n in c.n_units[1:-1])
        return (
            super().useful_flops(batch_size)
            + 2 * batch_size * (c.n_free_steps + c.n_nudged_steps + 1) * lateral
        )
