"""Decoupled neural interfaces as a cerebro-cerebellar network (ccRNN): a cerebellum predicts the
cortex's future gradient.

An MLP f (the cerebellum) sees the state z = [h ; c] of an LSTM (the cortex) at the end of every
truncation and predicts the gradient of all later loss with respect to it, so that the cortex learns
over spans longer than its truncation; its own target is the gradient that the next truncation sends
back, bootstrapped by its next prediction (Jaderberg et al. 2017; Boven et al. 2021, 2023). For
truncation k with start state z_k, end state z_{k+1} and loss L_k:

    J_k    = L_k + bootstrap_scale <stopgrad f(z_{k+1}), z_{k+1}>
    dtheta = sum_k dJ_k/dtheta                                        z_k held fixed in truncation k
    S_k    = |f(z_k) - dJ_k/dz_k|^2  summed over batch and units,         dphi = sum_k dS_k/dphi
    clip (dtheta, dphi) together; one Adam step of both
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from bioplaus import metrics
from bioplaus.errors import BioplausError
from bioplaus.nets.lstm import Trace
from bioplaus.nets.synthesiser import LastLayer, Synthesiser
from bioplaus.rules._base import BenchmarkCase
from bioplaus.rules._recurrent import RecurrentConfig, RecurrentRule, adam

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
class Config(RecurrentConfig):
    """Defaults: published seq-MNIST classification at K = 3."""

    n_synth_layers: int = 1  # hidden ReLU layers of the synthesiser; 0: one linear map
    n_synth_hidden: int | None = (
        None  # their width; None: that of the state (2 hidden units for an LSTM)
    )
    n_fibres: int | None = (
        None  # state components that each first-layer unit sees; None: all; -1: see Synthesiser
    )
    synth_last: LastLayer = (
        "zero"  # start of the synthesiser's last layer; "zero" predicts nothing at first
    )
    bootstrap_scale: float = 0.1  # factor on predicted gradients, dimensionless
    bootstrap_last: bool = (
        True  # also add a predicted gradient after the last truncation, where no future exists
    )
    lesion_epoch: int | None = None  # first epoch (1-based) without cerebellum; None: never
    io_lesion_epoch: int | None = (
        None  # first epoch (1-based) whose synthesiser no longer learns; None: never
    )
    fixed_synth: bool = False  # the synthesiser never learns: io_lesion_epoch 1
    keep_stale_grads: bool = (
        True  # a synthesiser that no longer learns still weighs in clipping, by summed gradients
    )
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


class Rule(RecurrentRule):
    """One forward pass, one call of the synthesiser, one backward pass over all truncations at
    once, one step of both.

    Order within a batch: states of the whole sequence with the old parameters; f at every
    truncation's end (f at its start is f at the end before); dJ_k of all truncations; dS_k; joint
    clipping; one optimiser step on theta and phi. As theta and phi are constant over the batch this
    equals walking truncation by truncation.

    Recorded every epoch: as `bptt`, and "synth_loss", sum_k S_k per sample; "synth_share", the
    synthesiser's share of the squared norm before clipping.

    Attributes
    ----------
    synthesiser : the cerebellum; parameters phi.
    record : this epoch's last record of gradients and activity (see `measure`), or None.

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
        self.synth_optimiser = adam(self.synthesiser)
        self.begin_epoch(0, 0)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        super().begin_epoch(epoch, n_batches)
        c, number = self.config, epoch + 1
        if number == c.io_lesion_epoch:
            # from here on they are summed up, if they are kept
            torch._foreach_zero_(self.synth_grads)
        self.has_cerebellum = c.lesion_epoch is None or number < c.lesion_epoch
        self.has_olive = not c.fixed_synth and (
            c.io_lesion_epoch is None or number < c.io_lesion_epoch
        )
        self.record: dict[str, Tensor] | None = None

    @torch.no_grad()
    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: int, step: int) -> dict[str, Tensor]:
        if (
            self.config.record_every
            and self.has_cerebellum
            and step % self.config.record_every == 0
        ):
            self.record = self.measure(x, y)
        trace = self._run(x)
        measured, d_h, d_end = self._loss(trace, y)
        sent = self._foresee(trace, d_end) if self.has_cerebellum else []
        d_start = self.net.backward(trace, d_h, d_end)
        self.net.gradients(trace, self.grads[:-2])
        if self.watch is not None and sent:
            foreseen = sent[-1].view(-1, *d_start.shape[1:])
            self.watch(
                {"synth_start": foreseen[:-1], "synth_end": foreseen[1:], "synth_target": d_start}
            )
        learning, resting = [*self.grads, *self.synth_grads], []
        if self.has_cerebellum and (self.has_olive or self.config.keep_stale_grads):
            starts = [activity[: d_start.shape[0] * d_start.shape[1]] for activity in sent]
            error = starts[-1] - d_start.flatten(0, 1)
            keep = 0.0 if self.has_olive else 1.0
            self.synthesiser.add_gradients(starts, 2 * error, self.synth_grads, keep)
            measured["synth_loss"] = error.square().sum() / len(x)
        # zeros in the norm would change its rounding: a lesioned network is a cRNN to the last bit
        else:
            torch._foreach_zero_(self.synth_grads)
            learning, resting = self.grads, self.synth_grads
        norms = self._clip(learning, resting)
        self.optimiser.step(list(self.net.parameters()), self.grads, self.lr_now)
        if self.has_olive:
            self.synth_optimiser.step(
                list(self.synthesiser.parameters()), self.synth_grads, self.lr_now
            )
        norm, of_synth = (
            torch.linalg.vector_norm(norms),
            torch.linalg.vector_norm(norms[len(self.grads) :]),
        )
        return {
            **measured,
            "grad_norm": norm,
            "synth_share": (of_synth / norm.clamp(min=1e-30)).square(),
        }

    def useful_flops(self, batch_size: int) -> int:
        """As `bptt`, and the synthesiser: forward at n + 1 states, backward at n."""
        k = self.config.n_truncation or self._n_steps
        rows = batch_size * (-(-self._n_steps // k) if k else 0)
        sizes = [layer.weight.numel() for layer in self.synthesiser.layers]
        forward, backward = (
            (rows + batch_size * (rows > 0)) * sum(sizes),
            rows * (sum(sizes) + sum(sizes[1:])),
        )
        return super().useful_flops(batch_size) + 2 * (forward + backward)

    @property
    def synth_grads(self) -> list[Tensor]:
        """Gradient of every parameter of the synthesiser, in order; of a lesioned olive the sum
        since the lesion.
        """
        return self._like(self.synthesiser)

    def get_extra_state(self) -> dict[str, Any]:
        kept = {f"synth_grad_{number}": grad for number, grad in enumerate(self.synth_grads)}
        return {**super().get_extra_state(), **kept}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        for number, grad in enumerate(self.synth_grads):
            grad.copy_(state[f"synth_grad_{number}"])

    def _foresee(self, trace: Trace, d_end: Tensor) -> list[Tensor]:
        """Add the predicted gradients at the truncations' ends to `d_end`; the synthesiser's trace
        at all states.

        Its rows are the states z_0 (zero), z_1, ..., z_n one after another: f at the starts is the
        first n blocks, f at the ends the last n.
        """
        sent = self.synthesiser.trace(trace.states.flatten(0, 1))
        foreseen = sent[-1].view_as(trace.states)[1:]
        n = len(d_end) if self.config.bootstrap_last else len(d_end) - 1
        d_end[:n].add_(foreseen[:n], alpha=self.config.bootstrap_scale)
        return sent

    @torch.no_grad()
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
        state : (n, batch, n_state), z at the starts. hidden : (n, batch, n_synth_hidden), first
            hidden layer of the
        synthesiser (absent without one). synth, target, true : (n, batch, n_state), f(z);
        dJ_k/dz_k; gradient of sum_k L_k with respect to z_k through all later truncations without a
        cut.
        """
        trace = self._run(x)
        _, d_h, d_end = self._loss(trace, y)
        true = self.net.backward_through(trace, d_h, d_end)
        sent = self._foresee(trace, d_end)
        target = self.net.backward(trace, d_h, d_end)
        n, n_batch, _ = target.shape
        starts = [activity[: n * n_batch] for activity in sent]
        if as_published:
            error = starts[-1] - target.flatten(0, 1)
            target = target + self.synthesiser.input_gradient(starts, 2 * error).view_as(target)
            true = true.flip(0)
        found = {"state": starts[0], "synth": starts[-1], "target": target, "true": true}
        if self.config.n_synth_layers:
            found["hidden"] = starts[1]
        return {name: value.reshape(n, n_batch, -1).clone() for name, value in found.items()}

    def diagnostics(self) -> dict[str, float]:
        """Of the last record: mean cosines between gradients, and population measures of cortex and
        cerebellum.
        """
        if self.record is None:
            return {}
        synth, target, true = (
            self.record[name].flatten(0, 1) for name in ("synth", "target", "true")
        )
        found = {
            "cos_synth_target": metrics.cosine(synth, target).mean(),
            "cos_synth_true": metrics.cosine(synth, true).mean(),
            "cos_target_true": metrics.cosine(target, true).mean(),
        }
        cortex = self.record["state"][..., : self.config.n_units[1]]
        for name, activity in {"cortex": cortex, "cerebellum": self.record.get("hidden")}.items():
            if activity is not None:
                found |= {
                    f"{name}_{m}": v
                    for m, v in metrics.population(activity.flatten(0, 1).t()).items()
                }
        return {name: float(value) for name, value in found.items()}
