"""Contrastive similarity matching: equilibrium propagation whose hidden layers also inhibit
themselves.

Every hidden layer has a lateral matrix M (Qin, Mudur and Pehlevan 2021), here as trained beside
CorInfoMax (Bozkurt, Pehlevan and Erdogan 2023). The energy of `ep` gains sum_{k<L} s_k^T M_k s_k /
2, and with s' the nudged states, N the batch:

    dE/ds_k (as in ep)  +  (M_k + M_k^T)/2 s_k                                 k < L, in both phases
    M_k <- (1 + alpha_k / (2 |beta|)) (M_k - a_k / (2 beta) s'_k s'_k^T / N)  alpha_k = lr_lateral[k] < 0

where a_k is alpha_k with the decay of the learning rates and the bracket keeps the undecayed
alpha_k.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from bioplaus.rules import ep
from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._layered import Scratch, gram, tensors

BENCHMARK = (BenchmarkCase(label="784-500-10"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ep.Config):
    """Defaults: the published MNIST setting of 784-500-10 (setting 2)."""

    lr_ff: tuple[float, ...] = (0.4, 0.275)  # weight and bias step by layer, dimensionless
    # step of M by hidden layer, dimensionless, not positive
    lr_lateral: tuple[float, ...] = (-0.01,)
    lr_decay: float = 0.75  # factor on lr_ff and lr_lateral every n_decay_epochs, dimensionless
    use_signed_lateral: bool = (
        True  # divide the step of M by the signed nudge, as published; False: by its size
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_length("lr_lateral", self.n_layers - 1, "hidden layer")
        self.check("lr_lateral", low=-2 * self.beta_nudge, high=0)


class Rule(ep.Rule):
    """Free phase, nudged phase, contrastive step of W and b, then M from the nudged states alone.

    Order: as `ep`; then every M at once.

    All input of a hidden layer but its constant one is a single product, of its neighbourhood
    [s_{k-1} s_k s_{k+1}] with a matrix folded once a batch. The states alternate between two
    arrays.

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

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.m_lateral = tensors([gram(n, generator) for n in config.n_units[1:-1]])
        self.register_buffer("lr_lateral_now", torch.zeros(len(config.lr_lateral)))

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        super().begin_epoch(epoch, n_batches)
        factor = self.config.lr_decay ** (epoch // self.config.n_decay_epochs)
        self.lr_lateral_now.copy_(
            torch.tensor([rate * factor for rate in self.config.lr_lateral], dtype=torch.float64)
        )

    def _allocate(self, n: int) -> Scratch:
        z, widths = super()._allocate(n), list(self.config.n_units[1:])
        n_all, starts = sum(widths), [0, *itertools.accumulate(widths)]
        z.low_1.zero_()
        z.high_1.fill_(1)
        # constant input of every iteration; of the output in the last columns
        z.base_all = torch.zeros_like(z.now)
        z.base = [*z.base_all[:, :n_all].split(widths, 1)[:-1], z.base_all[:, n_all:]]
        z.mixers, hoods = [], []
        for k, width in enumerate(widths[:-1]):
            first, last = starts[max(k - 1, 0)], starts[k + 2]
            hoods.append(slice(first, last))
            z.mixers.append(self._empty(last - first, width))
        tail = slice(n_all - widths[-1] - widths[-2], None)
        z.arrays = [
            (
                part,
                part[:, :n_all].split(widths, 1),
                [part[:, hood] for hood in hoods],
                part[:, tail],
            )
            for part in (z.now, torch.zeros_like(z.now))
        ]
        return z

    def _free(self, z: Scratch, x: Tensor, lr: float) -> None:
        w, b = list(self.w_ff), list(self.bias)
        self._fold(z, w, lr)
        torch.addmm(b[0], x, w[0].t(), out=z.drive)
        torch.mul(z.drive, lr, out=z.base[0])
        for k in range(1, len(w)):
            z.base[k].copy_(b[k]).mul_(lr)
        z.now.copy_(z.base_all)
        z.s[-1].copy_(z.base[-1])
        # the first iteration: from s = 0 the constant inputs are all there is
        z.now.clamp_(z.low, z.high)
        self._report(z, z.s, "free", 0)
        self._relax(z, lr, "free", range(1, self.config.n_free_steps))

    def _fold(self, z: Scratch, w: list[Tensor], lr: float) -> None:
        """mixer_k = [-2 W_k^T ; M_k + M_k^T - 2 (1 - lr)/lr I ; -2 W_{k+1}], to be used with the
        factor -lr/2.
        """
        for k, (mixer, m) in enumerate(zip(z.mixers, self.m_lateral, strict=True)):
            n_below = w[k].shape[1] if k > 0 else 0
            if k > 0:
                torch.mul(w[k].t(), -2, out=mixer[:n_below])
            own = mixer[n_below : n_below + len(m)]
            torch.add(m.t(), m, out=own).diagonal().sub_(2 * (1 - lr) / lr)
            torch.mul(w[k + 1], -2, out=mixer[n_below + len(m) :])
        torch.mul(w[-1].t(), lr, out=z.mix_w)
        z.keep.fill_(1 - lr)

    def _relax(self, z: Scratch, lr: float, phase: str, steps: range) -> None:
        old, new = z.arrays
        z.now[:, -z.target.shape[1] :].copy_(z.base[-1])
        for t in steps:
            array, s, _, _ = new
            array.copy_(z.base_all)
            for k, mixer in enumerate(z.mixers):
                s[k].addmm_(old[2][k], mixer, alpha=-lr / 2)
            torch.mm(old[3], z.mix, out=s[-1])
            array.clamp_(z.low, z.high)
            self._report(z, s, phase, t)
            old, new = new, old
        if old[0] is not z.now:
            z.now.copy_(old[0])

    def _state(self, z: Scratch, s: Sequence[Tensor]) -> list[Tensor]:
        return list(s)

    def _add_drive(self, z: Scratch) -> None:
        """Nothing: here layer 1 is not kept relative to its drive."""

    def _learn(self, z: Scratch, x: Tensor) -> None:
        super()._learn(z, x)
        c, n = self.config, len(x)
        beta = z.beta if c.use_signed_lateral else z.beta.abs()
        gain = torch.div(self.lr_lateral_now, beta * (2 * n))
        for k, m in enumerate(self.m_lateral):
            bracket = 1 + c.lr_lateral[k] / (2 * c.beta_nudge)
            s = z.s[k]
            m.t().addmm_(
                s.t(), torch.mul(s, gain[k], out=z.change[k][:n]), beta=bracket, alpha=-bracket
            )

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: dict[str, list[Tensor]]
    ) -> Tensor:
        lateral = sum(((s @ m) * s).sum() for s, m in zip(state["s"], self.m_lateral, strict=False))
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
