"""CorInfoMaxSparse: CorInfoMax whose layers are rectified and held on a simplex by a multiplier,
one a sample.

In the layers named by `sparse_layers` (Bozkurt, Pehlevan and Erdogan 2023) rates are not clipped at
1; a multiplier q_k pushes their sum towards 1. The rest is `corinfomax`. With l_k = max(q_k, 0), in
each iteration and layer in turn:

    u_k <-  u_k + eta_t (du_k/dt - l_k)                   du_k/dt as in corinfomax
    r_k <-  max(u_k, 0)
    q_k <-  q_k + lr_sparse[k] (-q_k + sum_i r_k,i - 1 + l_k)         new r_k, old l_k
    l_k <-  max(q_k, 0)
"""

import dataclasses

from torch import Tensor

from bioplaus.errors import BioplausError
from bioplaus.rules import corinfomax
from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._layered import FREE, Nudge
from bioplaus.rules.corinfomax import State

BENCHMARK = (BenchmarkCase(label="784-500-10"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(corinfomax.Config):
    """Defaults: the published MNIST setting of 784-500-10 (setting 3)."""

    # step of V by pair of layers (k, k+1), k = 1..L-1, dimensionless
    lr_fb: tuple[float, ...] = (0.12,)
    n_free_steps: int = 20  # iterations of the free phase
    n_nudged_steps: int = 4  # iterations of each nudged phase
    # layers on the simplex, counted from 1, the first above the input
    sparse_layers: tuple[int, ...] = (1, 2)
    # step of the multiplier by layer, dimensionless; unused elsewhere
    lr_sparse: tuple[float, ...] = (1.0e-6, 0.01)

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

    References
    ----------
    Bozkurt, Pehlevan and Erdogan, Correlative information maximization, NeurIPS 2023.

    Deviations
    ----------
    Those of `corinfomax`. As published, a nudged phase forgets a negative q_k, and the step of the
    hidden multiplier is so small that it hardly acts.
    """

    config: Config

    def _start(self, x: Tensor) -> State:
        """Rates 0 and multipliers l_k = 0, (batch, 1)."""
        zero = {k: x.new_zeros(len(x), 1) for k in range(1, self.config.n_layers + 1)}
        return {**super()._start(x), "multiplier": zero}

    def _phase(self, phase: str, start: State, n_steps: int, nudge: Nudge = FREE) -> State:
        c, (r, push) = self.config, map(dict, start.values())
        u, q = dict(r), dict(push)
        drive = r[0] @ self.w_ff[0].T
        for t, eta in enumerate(c.etas(n_steps)):
            for k in range(1, c.n_layers + 1):
                u[k] = u[k] + eta * (self._velocity(k, u[k], r, drive, nudge) - push[k])
                if k in c.sparse_layers:
                    r[k] = u[k].clamp(min=0)
                    total = r[k].sum(1, keepdim=True)
                    q[k] = q[k] + c.lr_sparse[k - 1] * (-q[k] + total - 1 + push[k])
                    push[k] = q[k].clamp(min=0)
                else:
                    r[k] = u[k].clamp(0, 1)
            self._report(phase, t, r=r, multiplier=push)
        return {"r": r, "multiplier": push}
