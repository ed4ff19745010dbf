"""CorInfoMax: layers that maximise the correlative information between them, with no symmetry
between the weights.

Every hidden layer is predicted from below by W and from above by V, and spreads through B, a
running inverse of its correlation matrix (Bozkurt, Pehlevan and Erdogan 2023). With hs(u) = clip(u,
0, 1), r_0 = x and one-hot target y:

    du_k/dt = (W_k r_{k-1} - u_k)/eps + (V_k r_{k+1} - u_k)/eps + 2 gamma B_k r_k + g (r_k - u_k)  k < L
    du_L/dt = (W_L r_{L-1} - u_L)/eps + gamma B_L r_L + g (r_L - u_L) - u_L - beta (r_L - y)
    u_k <- u_k + eta_t du_k/dt,  r_k <- hs(u_k)  k = 1..L in turn, newest values; gamma = (1 - lambda)/lambda
    W_k += (lr_ff[k]/beta) ((r'_k - W_k r'_{k-1}) r'_{k-1}^T - (r_k - W_k r_{k-1}) r_{k-1}^T) / N  r' nudged, r free
    V_k += (lr_fb[k]/beta) ((r'_k - V_k r'_{k+1}) r'_{k+1}^T - (r_k - V_k r_{k+1}) r_{k+1}^T) / N
    B_k <- (B_k - gamma (B_k r'_k)(B_k r'_k)^T / N) / lambda
"""

import dataclasses
import itertools

import torch
from torch import Tensor

from bioplaus import metrics
from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._layered import (
    NudgedConfig,
    NudgedRule,
    Scratch,
    StepRule,
    gram,
    neural_steps,
    one_hot_,
    schedule_factor,
    tensors,
    xavier,
)

BENCHMARK = (BenchmarkCase(label="784-500-10"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(NudgedConfig):
    """Defaults: the published MNIST setting of 784-500-10 (setting 3)."""

    lr_ff: tuple[float, ...] = (1.0, 0.7)  # step of W by layer, dimensionless
    # step of V by pair of layers (k, k+1), k = 1..L-1, dimensionless
    lr_fb: tuple[float, ...] = (0.15,)
    lr_schedule: tuple[tuple[float, float], ...] = (
        (0, 0.95),
        (15, 0.9),
    )  # (first epoch, base): factor base**epoch from there
    n_free_steps: int = 30  # iterations of the free phase
    n_nudged_steps: int = 10  # iterations of each nudged phase
    is_three_phase: bool = False  # nudge by -beta too, and compare the two nudged phases
    lr_neural: float = 0.05  # first step of a phase, dimensionless
    lr_neural_rule: StepRule = (
        "constant"  # later steps: the same, / (t + 1), or / (1 + lr_neural_decay t)
    )
    lr_neural_stop: float = (
        0.001  # least step, at most lr_neural, dimensionless; unused by "constant"
    )
    lr_neural_decay: float = 0.01  # of rule "slow", per iteration
    epsilon: float = 0.15  # variance of the prediction errors, dimensionless
    g_leak: float = 0.5  # pull of the potential towards its rate, dimensionless
    lambda_forget: float = 0.99999  # memory of the correlation estimates per batch, dimensionless
    use_weight_decay: bool = False  # after each update multiply W and V by 1 - step * epsilon
    use_correlations: bool = True  # keep the diagnostic correlation matrices r_free and r_nudged

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_length("lr_ff", self.n_layers, "weight layer")
        self.check_length("lr_fb", self.n_layers - 1, "pair of neighbouring layers above the input")
        self.check_schedule("lr_schedule")
        for name in ("lr_ff", "lr_fb", "g_leak", "lr_neural_stop", "lr_neural_decay"):
            self.check(name, low=0)
        for name in ("n_free_steps", "n_nudged_steps"):
            self.check(name, low=1)
        for name in ("lr_neural", "epsilon"):
            self.check(name, low=0, open_low=True)
        self.check_stop()
        self.check("lambda_forget", low=0, high=1, open_low=True, open_high=True)

    @property
    def gamma(self) -> float:
        """(1 - lambda) / lambda, dimensionless."""
        return (1 - self.lambda_forget) / self.lambda_forget


class Rule(NudgedRule):
    """Free phase, nudged phase(s), then W, V with errors of the OLD weights, then B from the nudged
    activity.

    Order: rates 0; free phase; nudged phase from the free rates (potentials restart at the rates,
    the steps at t = 0); with `is_three_phase` a phase of opposite sign from there, compared instead
    of the free one with 1/(2 beta); W of all layers; V of all pairs; B; r_free and r_nudged. In an
    iteration the layers are updated in turn from below.

    Rates and potentials of all layers lie side by side in one array each, and each layer has one
    matrix

        mixer_k = [W_k^T / eps ; 2 gamma B_k^T + g I ; V_k^T / eps]
        mixer_L = [W_L^T / eps ; gamma B_L^T + (g - beta) I]

    folded once a batch, so that one product of its neighbourhood [r_{k-1} r_k r_{k+1}] is its whole
    input. The input drive W_1 x / eps is computed once, for x is clamped.

    Attributes
    ----------
    w_ff : L matrices W_k, (n_k, n_{k-1}).
    w_fb : L-1 matrices V_k, (n_k, n_{k+1}): predicts layer k from layer k+1.
    b_lateral : L matrices B_k, (n_k, n_k).
    r_free, r_nudged : L matrices, (n_k, n_k), averaged correlations of the rates: diagnostics only.

    References
    ----------
    Bozkurt, Pehlevan and Erdogan, Correlative information maximization, NeurIPS 2023.

    Deviations
    ----------
    The published code runs here as it is: the leak -u_L and the single gamma at the output only;
    the two pieces of the default schedule, whose second restarts from 0.9^epoch with a sharp drop;
    weight decay scaled by epsilon. Weights come from the run's own stream, not in the published
    order of draws; the sign does not leak from run to run.
    """

    objective_name = "information"
    n_extra = 0  # columns beside each layer's rates: see corinfomax_sparse

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        u = config.n_units
        self.w_ff = tensors(
            [xavier(n_out, n_in, generator) for n_out, n_in in zip(u[1:], u, strict=False)]
        )
        self.w_fb = tensors(
            [xavier(n_low, n_high, generator) for n_low, n_high in zip(u[1:], u[2:], strict=False)]
        )
        self.b_lateral = tensors([gram(n, generator) for n in u[1:]])
        kept = u[1:] if config.use_correlations else ()
        self.r_free = tensors([torch.eye(n) for n in kept])
        self.r_nudged = tensors([torch.eye(n) for n in kept])
        self.register_buffer("lr_fb_now", torch.zeros(len(config.lr_fb)))

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        super().begin_epoch(epoch, n_batches)
        factor = schedule_factor(self.config.lr_schedule, epoch)
        self._set_lr(self.config.lr_ff, factor)
        self.lr_fb_now.copy_(
            torch.tensor([rate * factor for rate in self.config.lr_fb], dtype=torch.float64)
        )

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: int, step: int) -> dict[str, Tensor]:
        z, n = self.scratch(len(x)), len(x)
        self._settle(z, x, y, self.signs[step])
        self._learn_weights(z, x)
        nudged = z.kept_r if self.config.is_three_phase else z.r
        self._learn_lateral(z, nudged, n)
        if self.config.use_correlations:
            self._correlate(self.r_free, z.free_r, n)
            self._correlate(self.r_nudged, nudged, n)
        return {}

    def _settle(self, z: Scratch, x: Tensor, y: Tensor | None, sign: Tensor) -> None:
        c = self.config
        self._free(z, x)
        if y is None:
            return
        torch.mul(sign, c.beta_nudge, out=z.beta)
        torch.mul(one_hot_(z.target, y), z.beta, out=z.pull)
        z.pull_gain.sub_(z.beta)
        z.free.copy_(z.r_all)
        self._phase(z, "nudged", c.n_nudged_steps)
        if c.is_three_phase:
            z.kept.copy_(z.r_all)
            z.pull.neg_()
            z.pull_gain.add_(z.beta, alpha=2)
            self._phase(z, "anti", c.n_nudged_steps)

    def _evaluate(self, x: Tensor) -> Tensor:
        z = self.scratch(len(x))
        self._free(z, x)
        return z.r[-1].clone()

    def _allocate(self, n: int) -> Scratch:
        c, e, u = self.config, self.n_extra, self.config.n_units
        stops = list(itertools.accumulate(width + e for width in u[1:]))
        starts = [0, *stops[:-1]]
        # rows 0..n-1: rates now; n..2n-1: of the phase they are compared with
        both = self._empty(2 * n, stops[-1])
        z = Scratch(
            r_all=both[:n],
            kept=both[n:],
            u_all=self._empty(n, stops[-1]),
            drive_all=self._empty(n, stops[-1]),
        )
        cuts = [slice(start, start + width) for start, width in zip(starts, u[1:], strict=True)]
        z.free = self._empty(n, stops[-1]) if c.is_three_phase else z.kept
        z.pairs, z.r, z.kept_r, z.free_r, z.u = (
            [part[:, cut] for cut in cuts] for part in (both, z.r_all, z.kept, z.free, z.u_all)
        )
        z.drive = z.drive_all[:, cuts[0]]
        z.inputs, z.mixers, z.inputs_from_below, z.mixers_from_below = [], [], [], []
        for k, width in enumerate(
            u[1:]
        ):  # the rows of a mixer follow the columns of the neighbourhood
            n_below, n_above = u[k] + e if k > 0 else 0, u[k + 2] if k + 2 < len(u) else 0
            first, last = starts[k] - n_below, stops[k] + n_above
            z.inputs.append(z.r_all[:, first:last])
            z.mixers.append(self._empty(last - first, width))
            z.inputs_from_below.append(z.r_all[:, first : starts[k]])
            z.mixers_from_below.append(z.mixers[k][:n_below])
        z.pull_gain = z.mixers[-1][u[-2] + e : u[-2] + e + u[-1]].diagonal()
        z.target, z.pull, z.beta = self._empty(n, u[-1]), self._empty(n, u[-1]), self._empty()
        z.error_ff, z.error_fb = (
            [self._empty(2 * n, m) for m in u[1:]],
            [self._empty(2 * n, m) for m in u[1:-1]],
        )
        z.spread = [self._empty(n, width) for width in u[1:]]
        # the signs of the two phases in what is learned; with three phases the rates at the end are
        # those of -beta
        z.sides = self._empty(2 * n, 1).fill_(-0.5 if c.is_three_phase else 1)
        z.sides[n:].neg_()
        return z

    def _fold(self, z: Scratch) -> None:
        """Write every layer's mixer from the weights."""
        c, e = self.config, self.n_extra
        for k, (mixer, width) in enumerate(zip(z.mixers, c.n_units[1:], strict=True)):
            is_output, row = k == c.n_layers - 1, 0
            if k > 0:
                torch.mul(self.w_ff[k].t(), 1 / c.epsilon, out=mixer[: c.n_units[k]])
                row = c.n_units[k] + e
            own = mixer[row : row + width]
            torch.mul(self.b_lateral[k].t(), c.gamma if is_output else 2 * c.gamma, out=own)
            own.diagonal().add_(c.g_leak)
            if not is_output:
                torch.mul(self.w_fb[k].t(), 1 / c.epsilon, out=mixer[row + width + e :])

    def _free(self, z: Scratch, x: Tensor) -> None:
        """Fold the weights, drive layer 1 by x, and run the free phase from rates 0."""
        self._fold(z)
        torch.addmm(
            z.drive, x, self.w_ff[0].t(), beta=0, alpha=1 / self.config.epsilon, out=z.drive
        )
        self._phase(z, "free", self.config.n_free_steps)

    def _phase(self, z: Scratch, phase: str, n_steps: int) -> None:
        """`n_steps` iterations from the present rates (the free phase: from 0, leaving out products
        with 0).
        """
        c, last = self.config, self.config.n_layers - 1
        leak, leak_out = 2 / c.epsilon + c.g_leak, 1 / c.epsilon + c.g_leak + 1
        steps = neural_steps(
            c.lr_neural_rule, c.lr_neural, c.lr_neural_stop, c.lr_neural_decay, n_steps
        )
        if phase != "free":
            z.u_all.copy_(z.r_all)
        for t, eta in enumerate(steps):
            is_start = phase == "free" and t == 0
            inputs, mixers = (
                (z.inputs_from_below, z.mixers_from_below) if is_start else (z.inputs, z.mixers)
            )
            if is_start:
                torch.mul(z.drive_all, eta, out=z.u_all)
            else:
                z.u[0].addmm_(inputs[0], mixers[0], beta=1 - eta * leak, alpha=eta)
                z.u_all.add_(z.drive_all, alpha=eta)
            self._fire(z, 0)
            for k in range(1, last):
                z.u[k].addmm_(inputs[k], mixers[k], beta=1 - eta * leak, alpha=eta)
                self._fire(z, k)
            z.u[last].addmm_(inputs[last], mixers[last], beta=1 - eta * leak_out, alpha=eta)
            if phase != "free":
                z.u[last].add_(z.pull, alpha=eta)
            self._fire(z, last)
            if self.watch is not None:
                self.watch(phase, t, self._state(z))

    def _fire(self, z: Scratch, k: int) -> None:
        """Rates of layer k from its potentials. A hidden layer clips the whole array: its own
        columns alone are not contiguous, which costs more, and the other layers' rates come out as
        they are."""
        if k < self.config.n_layers - 1:
            torch.clamp(z.u_all, 0.0, 1.0, out=z.r_all)
        else:
            torch.clamp(z.u[k], 0.0, 1.0, out=z.r[k])

    def _state(self, z: Scratch) -> dict[str, list[Tensor]]:
        """What `watch` gets."""
        return {"r": z.r}

    def _learn_weights(self, z: Scratch, x: Tensor) -> None:
        """W and V from the difference of the two phases' prediction errors, both of the old
        weights.
        """
        c, n = self.config, len(x)
        gain_ff, gain_fb = self.lr_now / (z.beta * n), self.lr_fb_now / (z.beta * n)
        change = torch.sub(z.r[0], z.kept_r[0], out=z.error_ff[0][:n]).mul_(z.sides[0] * gain_ff[0])
        self.w_ff[0].t().addmm_(x.t(), change)  # both phases share x: its prediction cancels
        for k in range(1, c.n_layers):
            self._learn_pair(
                self.w_ff[k], z.pairs[k], z.pairs[k - 1], z.sides * gain_ff[k], z.error_ff[k]
            )
        for k in range(c.n_layers - 1):
            self._learn_pair(
                self.w_fb[k], z.pairs[k], z.pairs[k + 1], z.sides * gain_fb[k], z.error_fb[k]
            )
        if c.use_weight_decay:
            for weights, rates in ((self.w_ff, self.lr_now), (self.w_fb, self.lr_fb_now)):
                for w, rate in zip(weights, rates.unbind(), strict=True):
                    w.mul_(1 - rate * c.epsilon)

    @staticmethod
    def _learn_pair(w: Tensor, to: Tensor, of: Tensor, gain: Tensor, error: Tensor) -> None:
        """w += sum over rows of gain (to - of w^T)^T of; rows are the samples of both phases."""
        torch.addmm(to, of, w.t(), alpha=-1, out=error)
        w.t().addmm_(of.t(), error.mul_(gain))

    def _learn_lateral(self, z: Scratch, r: list[Tensor], n: int) -> None:
        """B <- (B - gamma z z^T / N) / lambda with z = B r, the rank-N form of the inverse of the
        new correlation.
        """
        c = self.config
        for b, rates, spread in zip(self.b_lateral, r, z.spread, strict=True):
            torch.mm(rates, b.t(), out=spread)
            b.t().addmm_(
                spread.t(), spread, beta=1 / c.lambda_forget, alpha=-c.gamma / (c.lambda_forget * n)
            )

    def _correlate(self, matrices: list[Tensor], r: list[Tensor], n: int) -> None:
        """R <- lambda R + (1 - lambda) r r^T / N."""
        keep = self.config.lambda_forget
        for matrix, rates in zip(matrices, r, strict=True):
            matrix.addmm_(rates.t(), rates, beta=keep, alpha=(1 - keep) / n)

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: dict[str, list[Tensor]]
    ) -> Tensor:
        """Sum of the layers' objectives, each of whose gradients in its own r_k is du_k/dt but for
        g, the leak of the output and the nudge, where u_k = r_k (a clipped unit leaks -2 u_k / eps,
        the gradient has -2 r_k / eps): gamma r_k^T B_k r_k - (|r_k - W_k r_{k-1}|^2 + |r_k - V_k
        r_{k+1}|^2) / (2 eps), half the first term and no V at the output. Each layer climbs its own
        term, so the sum may fall: r_k is in its neighbours' terms, too.
        """
        c, r, total = self.config, state["r"], torch.zeros_like(x[:, 0])
        for k, (below, here) in enumerate(zip([x, *r], r, strict=False)):
            is_output = k == c.n_layers - 1
            total += (here @ self.b_lateral[k].t() * here).sum(1) * (
                c.gamma / 2 if is_output else c.gamma
            )
            errors = [here - below @ self.w_ff[k].t()] + (
                [] if is_output else [here - r[k + 1] @ self.w_fb[k].t()]
            )
            total -= sum(error.square().sum(1) for error in errors) / (2 * c.epsilon)
        return total.mean()

    def diagnostics(self) -> dict[str, float]:
        """`angle_{k+1}_deg`, k = 1..L-1: angle in degrees between W_{k+1} and V_k^T, 90 for
        unrelated weights.
        """
        return {
            f"angle_{k + 2}_deg": metrics.angle_deg(self.w_ff[k + 1], v.t())
            for k, v in enumerate(self.w_fb)
        }

    def useful_flops(self, batch_size: int) -> int:
        """2 batch (2 n_0 n_1 + T (lateral + 2 above) + c lateral + 4 above), lateral = sum n_k^2,
        above = sum_{k>=2} n_{k-1} n_k, T all iterations, c = 2 for B, and 2 more with correlations.
        """
        u, c = self.config.n_units, self.config
        lateral, above = (
            sum(a * a for a in u[1:]),
            sum(a * b for a, b in zip(u[1:], u[2:], strict=False)),
        )
        n_steps = c.n_free_steps + c.n_nudged_steps * (2 if c.is_three_phase else 1)
        n_lateral = n_steps + 2 + 2 * c.use_correlations
        return (
            2
            * batch_size
            * (2 * u[0] * u[1] + n_lateral * lateral + 2 * n_steps * above + 8 * above)
        )
