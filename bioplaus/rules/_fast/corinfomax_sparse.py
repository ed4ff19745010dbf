"""Fast form of `corinfomax_sparse`.

A batch of 20 at 784-500-10 takes 7.0 ms on one core where the plain form takes 14.

As the fast form of `corinfomax`. Each layer has one more column, q_k beside the potentials and l_k
beside the rates, and its mixer one more column, -1 / leak: so the product that mixes the rates
subtracts l_k too.
"""

import torch
from torch import Tensor

from bioplaus.rules import corinfomax_sparse
from bioplaus.rules._fast import corinfomax


class Scratch(corinfomax.Scratch):
    def __init__(self, config: corinfomax_sparse.Config, n: int, like: Tensor) -> None:
        super().__init__(config, n, 1, like)
        self.q, self.multiplier, self.rates_and_multiplier, self.ones = [], [], [], []
        start = n_below = 0
        for k, width in enumerate(config.n_units[1:]):
            column = start + width
            if k + 1 in config.sparse_layers:
                self.mixers[k][:, n_below + width] = -1 / self.leaks[k]
            self.q.append(self.u_all[:, column : column + 1])
            self.multiplier.append(self.r_all[:, column : column + 1])
            self.rates_and_multiplier.append(self.r_all[:, start : column + 1])
            self.ones.append(like.new_ones(width + 1, 1))
            start, n_below = column + 1, width + 1


class Rule(corinfomax.Rule, corinfomax_sparse.Rule):
    config: corinfomax_sparse.Config
    n_extra = 1

    def _allocate(self, n: int) -> Scratch:
        return Scratch(self.config, n, self.lr_now)

    def _fire(self, z: Scratch, k: int) -> None:
        if k + 1 not in self.config.sparse_layers:
            super()._fire(z, k)
        else:
            torch.clamp(z.u[k], min=0.0, out=z.r[k])
            lr = self.config.lr_sparse[k]
            z.q[k].addmm_(z.rates_and_multiplier[k], z.ones[k], beta=1 - lr, alpha=lr).sub_(lr)
            torch.clamp(z.q[k], min=0.0, out=z.multiplier[k])

    def _state(self, z: Scratch) -> dict[str, list[Tensor]]:
        return {"r": z.r, "multiplier": z.multiplier}
