"""Equilibrium propagation: a network relaxes freely, then once more while its output is nudged
towards the target.

Each weight moves by the difference of the two products of its ends' activities, which in the limit
of a small nudge is the gradient of the squared error (Scellier and Bengio 2017). As trained beside
CorInfoMax (Bozkurt, Pehlevan and Erdogan 2023). With s_0 = x, one-hot target t, and hs(u) = clip(u,
0, 1):

    E(s)     = sum_k |s_k|^2 / 2 - s_k . (W_k s_{k-1} + b_k)  +  beta |s_L - t|^2
    s_k     <- hs(s_k - lr_neural dE/ds_k)                        all layers at once
    W_k     += (lr_ff[k] / beta) (s'_k s'_{k-1}^T - s_k s_{k-1}^T) / N    s free, s' nudged, N batch
    b_k     += (lr_ff[k] / beta) mean(s'_k - s_k)
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._layered import NudgedConfig, NudgedRule, Scratch, one_hot_, tensors, xavier

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

    Order: x drives layer 1 once (x is clamped, so W_1 x + b_1 holds for both phases); s = 0;
    `n_free_steps` free iterations; `n_nudged_steps` iterations with beta = sign * beta_nudge from
    the free states; then all W and b at once.

    The states of all layers lie side by side in one array, so that one clip bounds them all. Layer
    1 is kept relative to its drive d, as s_1 - d clipped to [-d, 1 - d]: nothing need be added to
    it, and d cancels in its weight update.

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

    objective_name = "energy"

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        pairs = list(zip(config.n_units[1:], config.n_units, strict=False))
        self.w_ff = tensors([xavier(n_out, n_in, generator) for n_out, n_in in pairs])
        self.bias = tensors([torch.zeros(n_out) for n_out, _ in pairs])

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        super().begin_epoch(epoch, n_batches)
        self._set_lr(
            self.config.lr_ff, self.config.lr_decay ** (epoch // self.config.n_decay_epochs)
        )

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: int, step: int) -> dict[str, Tensor]:
        z = self.scratch(len(x))
        self._settle(z, x, y, self.signs[step])
        self._learn(z, x)
        return {}

    def _settle(self, z: Scratch, x: Tensor, y: Tensor | None, sign: Tensor) -> None:
        c = self.config
        self._free(z, x, c.lr_neural)
        if y is not None:
            z.free.copy_(z.now)
            self._nudge(z, y, sign)
            self._relax(z, c.lr_neural, "nudged", range(c.n_nudged_steps))

    def _evaluate(self, x: Tensor) -> Tensor:
        z = self.scratch(len(x))
        self._free(z, x, self.config.lr_neural_evaluate)
        return z.s[-1].clone()

    def _allocate(self, n: int) -> Scratch:
        widths = self.config.n_units[1:]
        n_all, n_out, n_below = sum(widths), widths[-1], widths[-2]
        # a row: s_1 - d | s_2 | ... | s_L | constant input of s_L, never clipped; rows 0..n-1 now,
        # n..2n-1 free
        both = self._empty(2 * n, n_all + n_out)
        now, free = both[:n], both[n:]
        low, high = torch.zeros_like(now), torch.ones_like(now)
        low[:, n_all:], high[:, n_all:] = -torch.inf, torch.inf
        mix = self._empty(n_below + 2 * n_out, n_out)  # W_L^T, what s_L keeps of itself, identity
        mix[-n_out:].fill_diagonal_(1)
        return Scratch(
            now=now,
            free=free,
            s=now[:, :n_all].split(list(widths), 1),
            pairs=both[:, :n_all].split(list(widths), 1),
            base=[self._empty(n, width) for width in widths[:-1]] + [now[:, n_all:]],
            new=[self._empty(n, width) for width in widths],
            low=low,
            high=high,
            low_1=low[:, : widths[0]],
            high_1=high[:, : widths[0]],
            drive=self._empty(n, widths[0]),
            tail=now[:, n_all - n_out - n_below :],
            mix=mix,
            mix_w=mix[:n_below],
            keep=mix[n_below:-n_out].diagonal(),
            w_fb=[self._empty(*w.shape) for w in self.w_ff],
            change=[self._empty(2 * n, width) for width in widths],
            target=self._empty(n, n_out),
            beta=self._empty(),
            ones=self._empty(2 * n).fill_(1),
            sides=torch.cat([self._empty(n, 1).fill_(1), self._empty(n, 1).fill_(-1)]),
        )

    def _free(self, z: Scratch, x: Tensor, lr: float) -> None:
        """The free phase from s = 0 under input x; the first iteration needs no products, for all
        states are 0.
        """
        w, b = list(self.w_ff), list(self.bias)
        z.w_ff_t = [weight.t() for weight in w]
        for row_major, weight in zip(z.w_fb[1:], w[1:], strict=True):
            row_major.copy_(weight)
        torch.addmm(b[0], x, z.w_ff_t[0], out=z.drive)
        torch.neg(z.drive, out=z.low_1)
        torch.add(z.low_1, 1, out=z.high_1)
        torch.mul(z.low_1, 1 - lr, out=z.s[0])
        for k in range(1, len(w)):
            z.base[k].copy_(b[k]).mul_(lr)
            z.s[k].copy_(z.base[k])
        z.base[1].addmm_(z.drive, z.w_ff_t[1], alpha=lr)
        torch.mul(z.w_ff_t[-1], lr, out=z.mix_w)
        z.keep.fill_(1 - lr)
        z.now.clamp_(z.low, z.high)
        self._report(z, z.s, "free", 0)
        self._relax(z, lr, "free", range(1, self.config.n_free_steps))

    def _nudge(self, z: Scratch, y: Tensor, sign: Tensor) -> None:
        """Pull the output: s_L <- hs((1 - lr - 2 lr beta) s_L + lr (...) + 2 lr beta t)."""
        lr = self.config.lr_neural
        torch.mul(sign, self.config.beta_nudge, out=z.beta)
        z.keep.sub_(z.beta, alpha=2 * lr)
        z.base[-1].addcmul_(one_hot_(z.target, y), z.beta, value=2 * lr)

    def _relax(self, z: Scratch, lr: float, phase: str, steps: range) -> None:
        """Iterations of all layers at once: layers above the first go to `new` before any state is
        overwritten.
        """
        s, new, base, w_ff_t, w_fb, last = z.s, z.new, z.base, z.w_ff_t, z.w_fb, len(z.s) - 1
        for t in steps:
            torch.mm(z.tail, z.mix, out=new[last])
            for k in range(1, last):
                torch.add(base[k], s[k], alpha=1 - lr, out=new[k])
                new[k].addmm_(s[k - 1], w_ff_t[k], alpha=lr).addmm_(s[k + 1], w_fb[k + 1], alpha=lr)
            s[0].addmm_(s[1], w_fb[1], beta=1 - lr, alpha=lr)
            for k in range(1, last + 1):
                s[k].copy_(new[k])
            z.now.clamp_(z.low, z.high)
            self._report(z, s, phase, t)

    def _report(self, z: Scratch, s: Sequence[Tensor], phase: str, t: int) -> None:
        if self.watch is not None:
            self.watch(phase, t, {"s": self._state(z, s)})

    def _state(self, z: Scratch, s: Sequence[Tensor]) -> list[Tensor]:
        """What `watch` gets: the states themselves."""
        return [s[0] + z.drive, *s[1:]]

    def _add_drive(self, z: Scratch) -> None:
        """Turn layer 1 of both phases from relative to its drive into absolute."""
        z.pairs[0].unflatten(0, (2, -1)).add_(z.drive)

    def _learn(self, z: Scratch, x: Tensor) -> None:
        """One step of all weights and biases; a product of the stacked phases is the difference of
        their products.
        """
        gain = torch.div(self.lr_now, z.beta * len(x))
        torch.sub(z.pairs[0][: len(x)], z.pairs[0][len(x) :], out=z.change[0][: len(x)]).mul_(
            gain[0]
        )
        self._add_drive(z)
        for k in range(1, len(z.s)):
            change = torch.mul(z.pairs[k], z.sides * gain[k], out=z.change[k])
            self.w_ff[k].t().addmm_(z.pairs[k - 1].t(), change)
            self.bias[k].addmv_(change.t(), z.ones)
        change = z.change[0][: len(x)]
        self.w_ff[0].t().addmm_(x.t(), change)
        self.bias[0].addmv_(change.t(), z.ones[: len(x)])

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: dict[str, list[Tensor]]
    ) -> Tensor:
        s = state["s"]
        energy = torch.zeros_like(s[-1][:, 0])
        for w, b, below, here in zip(self.w_ff, self.bias, [x, *s], s, strict=False):
            energy += (here * (here / 2 - torch.addmm(b, below, w.t()))).sum(1)
        if phase != "free":
            energy += self.config.beta_nudge * (
                s[-1] - one_hot_(torch.empty_like(s[-1]), y)
            ).square().sum(1)
        return energy.mean()

    def useful_flops(self, batch_size: int) -> int:
        """2 batch (2 n_0 n_1 + 2 (n_free_steps + n_nudged_steps + 1) sum_{k>=2} n_{k-1} n_k): input
        drive and update once; above, a product each way per iteration and two in the update."""
        u, c = self.config.n_units, self.config
        above = sum(a * b for a, b in zip(u[1:], u[2:], strict=False))
        return (
            2 * batch_size * (2 * u[0] * u[1] + 2 * (c.n_free_steps + c.n_nudged_steps + 1) * above)
        )
