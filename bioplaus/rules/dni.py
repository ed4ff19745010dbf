"""Decoupled neural interfaces as a cerebro-cerebellar network (ccRNN): a cerebellum predicts the
cortex's future gradient.

An MLP f (the cerebellum; parameters phi) sees the state z = [h ; c] of an LSTM (the cortex;
parameters theta) at the end of every truncation and predicts the gradient of all later loss with
respect to it, so that the cortex learns over spans longer than its truncation. Its own target is
the gradient that the next truncation sends back, bootstrapped by its next prediction (Jaderberg et
al. 2017; Boven et al. 2021, 2023). As in `bptt`, for truncation k with start state z_k (held
fixed), end state z_{k+1} and loss L_k:

    J_k    = L_k + bootstrap_scale <stopgrad f(z_{k+1}), z_{k+1}>
    dtheta = sum_k dJ_k/dtheta
    S_k    = |f(z_k) - dJ_k/dz_k|^2                                (summed over batch and units)
    dphi   = sum_k dS_k/dphi                                       (dJ_k/dz_k held fixed)
    (dtheta, dphi) <- (dtheta, dphi) min(1, clip / (|dtheta, dphi| + 1e-6))
    theta <- theta - Adam(dtheta),  phi <- phi - Adam(dphi)        (once)
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bioplaus import metrics
from bioplaus.errors import BioplausError
from bioplaus.nets.synthesiser import LastLayer, Synthesiser
from bioplaus.rules import bptt
from bioplaus.rules._base import BenchmarkCase, Count

_DRAWING = {"n_units": [28, 30, 2], "loss": "mse", "spars_int": 4, "n_truncation": 3}
_WIDE = _DRAWING | {"n_synth_hidden": 300}
_LINES = {
    "n_units": [1, 50, 2],
    "loss": "mse",
    "spars_int": 2,
    "n_truncation": 1,
    "n_synth_hidden": 400,
}
BENCHMARK = (
    BenchmarkCase(label="28-30-2, T 28, K 3, N 60", batch_size=50, n_steps=28, values=_DRAWING),
    BenchmarkCase(label="28-30-2, T 28, K 3, N 300", batch_size=50, n_steps=28, values=_WIDE),
    BenchmarkCase(label="1-50-2, T 10, K 1, N 400", batch_size=50, n_steps=10, values=_LINES),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(bptt.Config):
    """Defaults: published seq-MNIST classification at K = 3."""

    n_synth_layers: int = 1  # hidden ReLU layers of the synthesiser; 0: one linear map
    # their width; None: that of the state (2 n_hidden for an LSTM)
    n_synth_hidden: int | None = None
    # state components that each first-layer unit sees; None: all; -1: see Synthesiser
    n_fibres: int | None = None
    # start of the synthesiser's last layer; "zero" predicts nothing at first
    synth_last: LastLayer = "zero"
    bootstrap_scale: float = 0.1  # factor on predicted gradients, dimensionless
    # also add a predicted gradient after the last truncation, where no future exists
    bootstrap_last: bool = True
    lesion_epoch: int | None = None  # first epoch (1-based) without cerebellum; None: never
    # first epoch (1-based) whose synthesiser no longer learns; None: never
    io_lesion_epoch: int | None = None
    fixed_synth: bool = False  # the synthesiser never learns: io_lesion_epoch 1
    # a synthesiser that no longer learns still weighs in clipping, by summed gradients
    keep_stale_grads: bool = True
    record_every: int = 0  # batches between two records of gradients and activity; 0: none

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("n_synth_layers", low=0)
        self.check("n_synth_hidden", low=1)
        self.check("n_fibres", low=-1, high=self.n_state)
        if self.n_fibres == 0:
            raise BioplausError(
                "n_fibres is 0, but a synthesiser that sees nothing cannot predict; use null for"
                " all."
            )
        self.check("bootstrap_scale", low=0)
        self.check("lesion_epoch", low=1)
        self.check("io_lesion_epoch", low=1)
        self.check("record_every", low=0)

    @property
    def n_state(self) -> int:
        """Width of the state that the synthesiser sees."""
        return self.n_units[1] * (2 if self.cell == "lstm" else 1)


class Rule(bptt.Rule):
    """One walk over the truncations, then one optimiser step of both networks.

    Order within a truncation: states with the old parameters; f at its end; dJ_k; f at its start;
    dS_k. Then joint clipping, and one optimiser step of theta and of phi.

    Recorded every epoch: as `bptt`, and "synth_loss", sum_k S_k per sample; "synth_share", the
    synthesiser's share of the squared norm before clipping.

    Attributes
    ----------
    synthesiser : the cerebellum; parameters phi.
    synth_grads : one tensor a parameter of it; of a lesioned olive the sum since the lesion.
    has_cerebellum, has_olive : whether it is there, and learns, in this epoch.
    record : this epoch's last record of gradients and activity (see `measure`), or None.
    watch : as `bptt`; while there is a cerebellum, "truncation" also has "synth_start" [f(z_k)],
        "synth_end" [f(z_{k+1})] and "synth_target" [dJ_k/dz_k], each (batch, n_state), and
        "gradient" and "clipped" also have "phi" [one tensor a parameter of the synthesiser].

    References
    ----------
    Boven et al., Cerebro-cerebellar networks facilitate learning through feedback decoupling, Nat.
    Commun. 14:51, 2023; NeurIPS 2021 version arXiv:2110.11501. Jaderberg et al., Decoupled neural
    interfaces, ICML 2017.

    Deviations
    ----------
    Defaults are the published behaviour, which made the figures; options mend what the code got
    wrong. `bootstrap_last`: the published code also bootstraps after the last truncation, on a
    state its synthesiser never learns about; with K = T that keeps the network from learning.
    `keep_stale_grads`: a lesioned olive's gradients are never zeroed there and keep entering the
    joint norm. `synth_last`: a fixed synthesiser predicts zero for ever unless its last layer is
    random. `n_fibres`: -1 zeroes the first layer in the published line drawing script; its figures
    were made with all fibres. S_k is a sum over batch and units, as published: the synthesiser
    often dominates the joint norm. The published recording of gradients adds what flows through the
    synthesiser's input to its targets and stores true gradients backwards in time; `measure` does
    neither unless asked. After a lesion Adam's momentum goes on moving phi, which is then unused.
    """

    config: Config

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        n_hidden = config.n_synth_hidden or config.n_state
        self.synthesiser = Synthesiser(
            config.n_state,
            config.n_synth_layers,
            n_hidden,
            generator,
            n_fibres=config.n_fibres,
            last=config.synth_last,
        )
        self.synth_optimiser = bptt.adam(self.synthesiser)
        for index, parameter in enumerate(self.synthesiser.parameters()):
            zero = torch.zeros_like(parameter)
            self.register_buffer(f"synth_grad_{index}", zero, persistent=False)
        self.begin_epoch(0, 0)

    @property
    def synth_grads(self) -> list[Tensor]:
        n = len(list(self.synthesiser.parameters()))
        return [self.get_buffer(f"synth_grad_{index}") for index in range(n)]

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        super().begin_epoch(epoch, n_batches)
        c, number = self.config, epoch + 1
        if number == c.io_lesion_epoch:
            # from here on they are summed up, if they are kept
            for gradient in self.synth_grads:
                gradient.zero_()
        self.has_cerebellum = c.lesion_epoch is None or number < c.lesion_epoch
        self.has_olive = not c.fixed_synth and (
            c.io_lesion_epoch is None or number < c.io_lesion_epoch
        )
        self.record: dict[str, Tensor] | None = None

    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        if not self.has_cerebellum:
            return self._rest(super().fit_batch(x, y, epoch=epoch, step=step))
        if self._is_recorded(step):
            self.record = self.measure(x, y)
        self._n_steps = n_steps = x.shape[1]
        is_learning = self.has_olive or self.config.keep_stale_grads
        theta, phi = list(self.net.parameters()), list(self.synthesiser.parameters())
        d_theta, d_phi = _zeros(theta), _zeros(phi)
        if is_learning and not self.has_olive:
            d_phi = self.synth_grads
        z, losses, synth_losses = self.net.zero_state(len(x)), [], []
        for k, steps in enumerate(self._truncations(n_steps)):
            start = z.detach().requires_grad_()
            objective, loss, z, foreseen = self._objective(x, y, start, steps)
            *d_objective, target = _gradient(objective, [*theta, start])
            d_theta = _sums(d_theta, d_objective)
            predicted = self.synthesiser(start.detach())
            synth_loss = (predicted - target).square().sum()
            if is_learning:
                d_phi = _sums(d_phi, _gradient(synth_loss, phi))
            losses.append(loss)
            synth_losses.append(synth_loss.detach())
            if self.watch is not None:
                seen = {"end": [z.detach()], "synth_start": [predicted.detach()]}
                seen |= {"synth_end": [foreseen], "synth_target": [target]}
                self.watch("truncation", k, seen)
        clipped, norms = self._clip([*d_theta, *d_phi])
        clipped_theta, clipped_phi = clipped[: len(theta)], clipped[len(theta) :]
        if self.watch is not None:
            self.watch("gradient", 0, {"theta": d_theta, "phi": d_phi})
            self.watch("clipped", 0, {"theta": clipped_theta, "phi": clipped_phi})
        with torch.no_grad():
            self.optimiser.step(theta, clipped_theta, self.lr_now)
            if self.has_olive:
                self.synth_optimiser.step(phi, clipped_phi, self.lr_now)
            for kept, gradient in zip(self.synth_grads, clipped_phi, strict=True):
                kept.copy_(gradient)
        measured = self._reported(losses, n_steps)
        if is_learning:
            measured["synth_loss"] = torch.stack(synth_losses).sum() / len(x)
        return {**measured, **self._norms(norms)}

    @torch.no_grad()
    def _rest(self, measured: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a batch that the cortex learned alone leaves to a lesioned cerebellum."""
        for gradient in self.synth_grads:
            gradient.zero_()
        if self.has_olive:
            phi = list(self.synthesiser.parameters())
            self.synth_optimiser.step(phi, self.synth_grads, self.lr_now)
        return {**measured, "synth_share": torch.zeros_like(measured["grad_norm"])}

    def _is_recorded(self, step: Count) -> bool:
        every = self.config.record_every
        return every > 0 and int(step) % every == 0

    def why_not_captured(self) -> str:
        if self.config.record_every:
            return "gradients are recorded at some batches (record_every)"
        return super().why_not_captured()

    def _objective(
        self, x: Tensor, y: Tensor, z: Tensor, steps: range
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """J_k, L_k, z_{k+1} and f(z_{k+1}) of the truncation of these steps from the state z."""
        loss, end = self._run(x, y, z, steps)
        foreseen = self.synthesiser(end).detach()
        is_last = steps[-1] == x.shape[1] - 1
        scale = 0.0 if is_last and not self.config.bootstrap_last else self.config.bootstrap_scale
        return loss + scale * (foreseen * end).sum(), loss, end, foreseen

    def _norms(self, norms: Tensor) -> dict[str, Tensor]:
        """The joint norm of all gradients and the synthesiser's share of its square, from the norm
        of each gradient.
        """
        norm = torch.linalg.vector_norm(norms)
        of_synth = torch.linalg.vector_norm(norms[len(list(self.net.parameters())) :])
        share = (of_synth / norm.clamp(min=1e-30)).square()
        return {"grad_norm": norm, "synth_share": share}

    def useful_flops(self, batch_size: int) -> int:
        """As `bptt`, and the synthesiser: forward at n + 1 states, backward at n."""
        k = self.config.n_truncation or self._n_steps
        rows = batch_size * (-(-self._n_steps // k) if k else 0)
        sizes = [layer.weight.numel() for layer in self.synthesiser.linears]
        forward, backward = (
            (rows + batch_size * (rows > 0)) * sum(sizes),
            rows * (sum(sizes) + sum(sizes[1:])),
        )
        return super().useful_flops(batch_size) + 2 * (forward + backward)

    def get_extra_state(self) -> dict[str, Any]:
        kept = {f"synth_grad_{index}": grad for index, grad in enumerate(self.synth_grads)}
        return {**super().get_extra_state(), **kept}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        for index, grad in enumerate(self.synth_grads):
            grad.copy_(state[f"synth_grad_{index}"])

    def measure(self, x: Tensor, y: Tensor, *, as_published: bool = False) -> dict[str, Tensor]:
        """Predicted, target and true gradients at the start of every truncation, forward in time;
        nothing is changed.

        Parameters
        ----------
        as_published : add to the targets what flows back through the synthesiser's input, 2
            J_f(z)^T (f(z) - target), and give the true gradients in reverse time order, as the
            published recording does.

        Returns
        -------
        state : (n, batch, n_state), z_k.
        hidden : (n, batch, n_synth_hidden), first hidden layer of the synthesiser (absent without
            one).
        synth : (n, batch, n_state), f(z_k).
        target : (n, batch, n_state), dJ_k/dz_k.
        true : (n, batch, n_state), gradient of sum_k L_k with respect to z_k through all later
            truncations without a cut.
        """
        truncations = self._truncations(x.shape[1])
        z, starts, losses = self.net.zero_state(len(x)).requires_grad_(), [], []
        for steps in truncations:
            starts.append(z)
            loss, z = self._run(x, y, z, steps)
            losses.append(loss)
        record = defaultdict(list, true=_gradient(torch.stack(losses).sum(), starts))
        for steps, z in zip(truncations, starts, strict=True):
            start = z.detach().requires_grad_()
            objective, *_ = self._objective(x, y, start, steps)
            (target,) = _gradient(objective, [start])
            activities = self.synthesiser.activities(start)
            if as_published:
                (more,) = _gradient((activities[-1] - target).square().sum(), [start])
                target = target + more
            record["state"].append(start)
            record["synth"].append(activities[-1])
            record["target"].append(target)
            if self.config.n_synth_layers:
                record["hidden"].append(activities[1])
        if as_published:
            record["true"].reverse()
        return {name: torch.stack(values).detach() for name, values in record.items()}

    def diagnostics(self) -> dict[str, float]:
        """Of the last record: mean cosines between gradients, and population measures of cortex and
        cerebellum.
        """
        if self.record is None:
            return {}
        synth, target, true = (
            self.record[name].flatten(0, 1) for name in ("synth", "target", "true")
        )
        values = {
            "cos_synth_target": metrics.cosine(synth, target).mean(),
            "cos_synth_true": metrics.cosine(synth, true).mean(),
            "cos_target_true": metrics.cosine(target, true).mean(),
        }
        areas = {"cortex": self.record["state"][..., : self.config.n_units[1]]}
        if "hidden" in self.record:
            areas["cerebellum"] = self.record["hidden"]
        for area, activity in areas.items():
            measures = metrics.population(activity.flatten(0, 1).t())
            values |= {f"{area}_{name}": value for name, value in measures.items()}
        return {name: float(value) for name, value in values.items()}


def _gradient(objective: Tensor, variables: Sequence[Tensor]) -> list[Tensor]:
    """Of `objective` with respect to each variable; 0 where it does not depend on it."""
    return list(
        torch.autograd.grad(objective, variables, materialize_grads=True, retain_graph=True)
    )


def _zeros(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(parameter) for parameter in parameters]


def _sums(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    return [x + y for x, y in zip(a, b, strict=True)]
