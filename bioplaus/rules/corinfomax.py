"""CorInfoMax: layers that maximise the correlative information between them, with no symmetry
between the weights.

Every hidden layer is predicted from below by W and from above by V, and spreads through B, a
running inverse of its correlation matrix (Bozkurt, Pehlevan and Erdogan 2023). With r_0 = x,
one-hot target y, N the batch size, hs(u) = clip(u, 0, 1) and gamma = (1 - lambda)/lambda:

    du_k/dt =  (W_k r_{k-1} - u_k)/eps + (V_k r_{k+1} - u_k)/eps
               + 2 gamma B_k r_k + g (r_k - u_k)                                    k < L
    du_L/dt =  (W_L r_{L-1} - u_L)/eps + gamma B_L r_L + g (r_L - u_L) - u_L
               - beta (r_L - y)

    u_k <-  u_k + eta_t du_k/dt,   r_k <- hs(u_k)      k = 1 .. L in turn, from the newest r

With r' the nudged rates, r those they are compared with, and errors of the old weights:

    W_k +=  (lr_ff[k] / beta) ((r'_k - W_k r'_{k-1}) r'_{k-1}^T - (r_k - W_k r_{k-1}) r_{k-1}^T) / N
    V_k +=  (lr_fb[k] / beta) ((r'_k - V_k r'_{k+1}) r'_{k+1}^T - (r_k - V_k r_{k+1}) r_{k+1}^T) / N
    B_k <-  (B_k - gamma (B_k r'_k)(B_k r'_k)^T / N) / lambda
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bioplaus import metrics
from bioplaus.rules._base import BenchmarkCase, Count, at
from bioplaus.rules._layered import (
    FREE,
    Layers,
    Nudge,
    NudgedConfig,
    NudgedRule,
    StepRule,
    gram,
    neural_steps,
    numbered,
    one_hot,
    outer,
    schedule_factor,
    set_rates,
    tensors,
    xavier,
)

State = dict[str, Layers]  # the rates r, r_0 = x, by name

BENCHMARK = (BenchmarkCase(label="784-500-10"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(NudgedConfig):
    """Defaults: the published MNIST setting of 784-500-10 (setting 3)."""

    lr_ff: tuple[float, ...] = (1.0, 0.7)  # step of W by layer, dimensionless
    # step of V by pair of layers (k, k+1), k = 1..L-1, dimensionless
    lr_fb: tuple[float, ...] = (0.15,)
    # (first epoch, base): factor base**epoch from there
    lr_schedule: tuple[tuple[float, float], ...] = ((0, 0.95), (15, 0.9))
    n_free_steps: int = 30  # iterations of the free phase
    n_nudged_steps: int = 10  # iterations of each nudged phase
    is_three_phase: bool = False  # nudge by -beta too, and compare the two nudged phases
    lr_neural: float = 0.05  # first step of a phase, dimensionless
    # later steps: the same, / (t + 1), or / (1 + lr_neural_decay t)
    lr_neural_rule: StepRule = "constant"
    # least step, at most lr_neural, dimensionless; unused by "constant"
    lr_neural_stop: float = 0.001
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
        self.check_stop(self.lr_neural_rule, self.lr_neural, self.lr_neural_stop)
        self.check("lambda_forget", low=0, high=1, open_low=True, open_high=True)

    @property
    def gamma(self) -> float:
        """(1 - lambda) / lambda, dimensionless."""
        return (1 - self.lambda_forget) / self.lambda_forget

    def etas(self, n_steps: int) -> list[float]:
        """Step sizes eta_t of a phase, dimensionless."""
        return neural_steps(
            self.lr_neural_rule, self.lr_neural, self.lr_neural_stop, self.lr_neural_decay, n_steps
        )


class Rule(NudgedRule):
    """Free phase, nudged phase(s), then W, V with errors of the OLD weights, then B from the nudged
    activity.

    Order: rates 0; free phase; nudged phase from the free rates (potentials restart at the rates,
    the steps at t = 0); with `is_three_phase` a phase of opposite sign from there, compared instead
    of the free one with 1/(2 beta); W of all layers; V of all pairs; B; r_free and r_nudged. In an
    iteration the layers are updated in turn from below. x is clamped, so W_1 x is computed once a
    phase.

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

    config: Config
    lr_fb_now: Tensor
    objective_name = "information"

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
        set_rates(self.lr_now, self.config.lr_ff, factor)
        set_rates(self.lr_fb_now, self.config.lr_fb, factor)

    @torch.inference_mode()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        c, beta = self.config, at(self.signs, step) * self.config.beta_nudge
        free, nudged, *anti = self._settle(x, y, at(self.signs, step))
        if c.is_three_phase:
            self._learn_weights(nudged["r"], anti[0]["r"], 2 * beta)
        else:
            self._learn_weights(nudged["r"], free["r"], beta)
        self._learn_lateral(nudged["r"])
        if c.use_correlations:
            self._correlate(numbered(self.r_free), free["r"])
            self._correlate(numbered(self.r_nudged), nudged["r"])
        return {}

    def _settle(self, x: Tensor, y: Tensor | None, sign: Tensor) -> list[State]:
        """The state at the end of each phase; without `y` of the free one alone."""
        c, beta = self.config, sign * self.config.beta_nudge
        phases = [self._phase("free", self._start(x), c.n_free_steps)]
        if y is not None:
            target = one_hot(y, phases[0]["r"][c.n_layers])
            phases.append(self._phase("nudged", phases[0], c.n_nudged_steps, (beta, target)))
            if c.is_three_phase:
                phases.append(self._phase("anti", phases[1], c.n_nudged_steps, (-beta, target)))
        return phases

    def _start(self, x: Tensor) -> State:
        return {"r": self._at_rest(x)}

    def _phase(self, phase: str, start: State, n_steps: int, nudge: Nudge = FREE) -> State:
        """The state after `n_steps` iterations; the potentials start at the rates of `start`."""
        r, u = dict(start["r"]), dict(start["r"])
        drive = r[0] @ self.w_ff[0].T
        for t, eta in enumerate(self.config.etas(n_steps)):
            for k in range(1, self.config.n_layers + 1):
                u[k] = u[k] + eta * self._velocity(k, u[k], r, drive, nudge)
                r[k] = u[k].clamp(0, 1)
            self._report(phase, t, r=r)
        return {"r": r}

    def _velocity(self, k: int, u: Tensor, r: Layers, drive: Tensor, nudge: Nudge) -> Tensor:
        """du_k/dt, (batch, n_k), of potentials `u` under rates `r`, where `drive` is W_1 x."""
        c, (beta, y) = self.config, nudge
        w, v, b = map(numbered, (self.w_ff, self.w_fb, self.b_lateral))
        below = drive if k == 1 else r[k - 1] @ w[k].T
        velocity = (below - u) / c.epsilon + c.g_leak * (r[k] - u)
        if k < c.n_layers:
            return velocity + (r[k + 1] @ v[k].T - u) / c.epsilon + 2 * c.gamma * r[k] @ b[k].T
        return velocity + c.gamma * r[k] @ b[k].T - u - beta * (r[k] - y)

    def _evaluate(self, x: Tensor) -> Tensor:
        state = self._phase("free", self._start(x), self.config.n_free_steps)
        return state["r"][self.config.n_layers]

    def _learn_weights(self, nudged: Layers, other: Layers, beta: Tensor) -> None:
        """One step of W and V towards what predicts the nudged rates, away from what predicts the
        others.
        """
        c, n = self.config, len(nudged[0])
        w, v = numbered(self.w_ff), numbered(self.w_fb)
        lr_ff, lr_fb = numbered(self.lr_now), numbered(self.lr_fb_now)
        for k in w:
            gains = [_gain(r[k], w[k], r[k - 1]) for r in (nudged, other)]
            w[k] += lr_ff[k] / beta * (gains[0] - gains[1]) / n
        for k in v:
            gains = [_gain(r[k], v[k], r[k + 1]) for r in (nudged, other)]
            v[k] += lr_fb[k] / beta * (gains[0] - gains[1]) / n
        if c.use_weight_decay:
            for weights, lr in ((w, lr_ff), (v, lr_fb)):
                for k in weights:
                    weights[k] *= 1 - lr[k] * c.epsilon

    def _learn_lateral(self, nudged: Layers) -> None:
        """The rank-N form of the inverse of the new correlation of the nudged rates."""
        c, n = self.config, len(nudged[0])
        for k, b in numbered(self.b_lateral).items():
            spread = nudged[k] @ b.T
            b.sub_(c.gamma * outer(spread, spread) / n).div_(c.lambda_forget)

    def _correlate(self, matrices: Layers, r: Layers) -> None:
        """R_k <- lambda R_k + (1 - lambda) r_k r_k^T / N, for the diagnostics."""
        keep, n = self.config.lambda_forget, len(r[0])
        for k, matrix in matrices.items():
            matrix.mul_(keep).add_((1 - keep) * outer(r[k], r[k]) / n)

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: Mapping[str, Sequence[Tensor]]
    ) -> Tensor:
        """Sum of the layers' objectives, mean over the batch:

            gamma r_k^T B_k r_k - (|r_k - W_k r_{k-1}|^2 + |r_k - V_k r_{k+1}|^2) / (2 eps)

        with half the first term and no V at the output. The gradient of each in its own r_k is
        du_k/dt but for g, the leak of the output and the nudge, where u_k = r_k (a clipped unit
        leaks -2 u_k / eps, the gradient has -2 r_k / eps). Each layer climbs its own term, so the
        sum may fall: r_k is in its neighbours' terms, too.
        """
        c, r = self.config, numbered([x, *state["r"]], 0)
        w, v, b = map(numbered, (self.w_ff, self.w_fb, self.b_lateral))
        total = x.new_zeros(len(x))
        for k in w:
            is_output = k == c.n_layers
            total += (r[k] @ b[k].T * r[k]).sum(1) * (c.gamma / 2 if is_output else c.gamma)
            errors = (r[k] - r[k - 1] @ w[k].T).square().sum(1)
            if not is_output:
                errors += (r[k] - r[k + 1] @ v[k].T).square().sum(1)
            total -= errors / (2 * c.epsilon)
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
        """2 batch (2 n_0 n_1 + T (lateral + 2 above) + c lateral + 8 above), lateral = sum n_k^2,
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


def _gain(to: Tensor, w: Tensor, of: Tensor) -> Tensor:
    """sum_N (to - w of) of^T: the step that makes `w` predict `to`, (batch, n_to), from `of`."""
    return outer(to - of @ w.T, of)
