"""CorInfoMaxSparse: CorInfoMax whose layers are rectified and held on a simplex by a multiplier,
one a sample.

In the layers named by `sparse_layers` (Bozkurt, Pehlevan and Erdogan 2023) rates are not clipped at
1; a multiplier q_k (l_k = max(q_k, 0)) pushes their sum towards 1. The rest is `corinfomax`:

    du_k/dt = (as in corinfomax) - l_k,    u_k <- u_k + eta_t du_k/dt,    r_k <- max(u_k, 0)
    q_k <- q_k + lr_sparse[k] (-q_k + sum_i r_k,i - 1 + l_k)  with the NEW r_k and the old l_k;  l_k <- max(q_k, 0)
"""

import dataclasses

import torch
from torch import Tensor

from bioplaus.errors import BioplausError
from bioplaus.rules import corinfomax
from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._layered import Scratch

BENCHMARK = (BenchmarkCase(label="784-500-10"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(corinfomax.Config):
    """Defaults: the published MNIST setting of 784-500-10 (setting 3)."""

    # step of V by pair of layers (k, k+1), k = 1..L-1, dimensionless
    lr_fb: tuple[float, ...] = (0.12,)
    n_free_steps: int = 20  # iterations of the free phase
    n_nudged_steps: int = 4  # iterations of each nudged phase
    sparse_layers: tuple[int, ...] = (
        1,
        2,
    )  # layers on the simplex, counted from 1, the first above the input
    lr_sparse: tuple[float, ...] = (
        1.0e-6,
        0.01,
    )  # step of the multiplier by layer, dimensionless; unused elsewhere

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_length("lr_sparse", self.n_layers, "layer above the input")
        self.check("lr_sparse", low=0, high=1)
        if sorted(set(self.sparse_layers)) != sorted(self.sparse_layers) or not all(
            1 <= k <= self.n_layers for k in self.sparse_layers
        ):
            raise BioplausError(
                f"sparse_layers is {list(self.sparse_layers)}, but must name different layers from"
                f" 1 to {self.n_layers}."
            )


class Rule(corinfomax.Rule):
    """CorInfoMax with multipliers.

    Order: as CorInfoMax; q_k and l_k are updated right after layer k inside the same iteration. The
    free phase and the evaluation start from q = 0, each nudged phase from the rectified l of the
    phase before.

    Each layer has one more column, q_k beside the potentials and l_k beside the rates, and its
    mixer one more row, -1: so the product that mixes the rates subtracts l_k too.

    References
    ----------
    Bozkurt, Pehlevan and Erdogan, Correlative information maximization, NeurIPS 2023.

    Deviations
    ----------
    Those of `corinfomax`. As published, a nudged phase forgets a negative q_k, and the step of the
    hidden multiplier is so small that it hardly acts.
    """

    n_extra = 1

    def _allocate(self, n: int) -> Scratch:
        z, c = super()._allocate(n), self.config
        z.low, z.high = torch.zeros_like(z.u_all), torch.full_like(z.u_all, torch.inf)
        z.q, z.multiplier, z.rates_and_multiplier, z.ones = [], [], [], []
        start = n_below = 0
        for k, width in enumerate(c.n_units[1:]):
            column = start + width
            if k + 1 in c.sparse_layers:
                z.mixers[k][n_below + width] = -1
            else:
                z.high[:, start:column] = 1
            z.q.append(z.u_all[:, column : column + 1])
            z.multiplier.append(z.r_all[:, column : column + 1])
            z.rates_and_multiplier.append(z.r_all[:, start : column + 1])
            z.ones.append(self._empty(width + 1, 1).fill_(1))
            start, n_below = column + 1, width + 1
        z.low_output, z.high_output = z.low[:, -width - 1 : -1], z.high[:, -width - 1 : -1]
        return z

    def _fire(self, z: Scratch, k: int) -> None:
        is_output = k == self.config.n_layers - 1
        u, r, low, high = (
            (z.u[k], z.r[k], z.low_output, z.high_output)
            if is_output
            else (z.u_all, z.r_all, z.low, z.high)
        )
        if len(self.config.sparse_layers) == self.config.n_layers:
            torch.clamp(u, min=0.0, out=r)
        else:
            torch.clamp(u, low, high, out=r)
        if k + 1 in self.config.sparse_layers:
            lr = self.config.lr_sparse[k]
            z.q[k].addmm_(z.rates_and_multiplier[k], z.ones[k], beta=1 - lr, alpha=lr).sub_(lr)
            torch.clamp(z.q[k], min=0.0, out=z.multiplier[k])

    def _state(self, z: Scratch) -> dict[str, list[Tensor]]:
        return {"r": z.r, "multiplier": z.multiplier}
