"""Shared parts of the rules that train a recurrent network on sequences: loss, clipping,
optimiser.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bioplaus.config import Config
from bioplaus.errors import BioplausError
from bioplaus.nets.lstm import CELLS, Trace, fold
from bioplaus.rules._base import LearningRule, sparse_inputs
from bioplaus.rules._optimisers import Adam
from bioplaus.tasks import Spec


def adam(part: nn.Module) -> Adam:
    """The optimiser of the published code, for the parameters of `part`."""
    return Adam(list(part.parameters()), betas=(0.9, 0.98), epsilon=1e-9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecurrentConfig(Config):
    """Fields of every rule that trains a recurrent network. Defaults: published seq-MNIST
    classification.
    """

    n_units: tuple[int, ...] = (28, 30, 10)  # inputs per step, hidden units, outputs
    cell: Literal["lstm", "tanh"] = "lstm"
    loss: Literal["mse", "xent"] = (
        "xent"  # mse: a target at every supervised step; xent: a class at the last step
    )
    n_truncation: int | None = (
        3  # steps of a truncation, K; None: the whole sequence (full back-propagation in time)
    )
    spars_int: int = 1  # mse: the steps t = 0, spars_int, 2 spars_int, ... are supervised
    lr: float = 1e-4  # step of Adam, dimensionless
    clip: float = (
        1.0  # largest Euclidean norm of all gradients together, dimensionless; 0: no clipping
    )

    def __post_init__(self) -> None:
        self.check("n_units", low=1)
        if len(self.n_units) != 3:
            raise BioplausError(
                f"n_units is {list(self.n_units)}, but must be three: inputs, hidden units,"
                " outputs."
            )
        self.check("n_truncation", low=1)
        self.check("spars_int", low=1)
        self.check("lr", low=0)
        self.check("clip", low=0)
        if self.loss == "xent" and self.spars_int != 1:
            raise BioplausError(
                f"spars_int is {self.spars_int}, but with loss xent the last step alone is"
                " supervised; leave it at 1."
            )


class RecurrentRule(LearningRule):
    """Base of the recurrent rules.

    Attributes
    ----------
    net : the recurrent network with its readout, "the cerebrum"; parameters theta.
    watch : None, or called inside `fit_batch` as watch(found) with tensors by name: "ends", (n,
        batch, n_state), states after the truncations; "grads", gradients before clipping, theta
        first; what a subclass adds. Training behaves the same with it.
    """

    def __init__(self, config: RecurrentConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.net = CELLS[config.cell](*config.n_units, generator)
        self.watch: Callable[[dict[str, Any]], None] | None = None
        self.optimiser = adam(self.net)
        self.register_buffer("lr_now", torch.tensor(config.lr))
        self._grads: dict[nn.Module, list[Tensor]] = {}
        self._weights: dict[tuple[int, ...], Tensor] = {}
        self._n_steps = 0  # of the last batch

    @classmethod
    def check_task(cls, config: RecurrentConfig, spec: Spec) -> None:
        name = cls.key()
        if spec.n_steps is None:
            raise BioplausError(
                f"{name} learns sequences, but task {spec.name!r} has no time steps."
            )
        kinds = {"mse": "drawing", "xent": "classification"}
        if spec.kind != kinds[config.loss]:
            raise BioplausError(
                f"loss {config.loss!r} belongs to a task of {kinds[config.loss]}, but task"
                f" {spec.name!r} is one of {spec.kind}."
            )
        if (config.n_units[0], config.n_units[-1]) != (spec.n_in, spec.n_out):
            raise BioplausError(
                f"n_units is {list(config.n_units)}, but task {spec.name!r} has {spec.n_in} inputs"
                f" per step and {spec.n_out} outputs: n_units must be [{spec.n_in}, hidden units,"
                f" {spec.n_out}]."
            )
        _check_length(config.n_truncation, spec.n_steps)
        if config.loss == "mse" and spec.n_steps > 1 and config.spars_int >= spec.n_steps:
            raise BioplausError(
                f"spars_int is {config.spars_int}, but a sequence has {spec.n_steps} steps: nothing"
                " but its first step, where every drawing starts, would be supervised; it must be"
                f" below {spec.n_steps}."
            )

    @classmethod
    def example(cls) -> tuple[dict[str, Any], Spec]:
        spec = Spec(name="example", kind="classification", n_in=12, n_out=10, n_steps=7)
        return {"n_units": [12, 12, 10], "lr": 0.02}, spec

    @classmethod
    def example_spec(cls, config: RecurrentConfig, n_steps: int | None = None) -> Spec:
        spec = Spec(
            name="example",
            kind="drawing" if config.loss == "mse" else "classification",
            n_in=config.n_units[0],
            n_out=config.n_units[-1],
            n_steps=n_steps or 8,
        )
        cls.check_task(config, spec)
        return spec

    @classmethod
    def example_batch(
        cls,
        spec: Spec,
        n: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, ...]:
        """Inputs, (n, T, n_in), and targets: (n, T, n_out) of a drawing, else (n,) int64."""
        x = sparse_inputs(generator, dtype, n, spec.n_steps, spec.n_in)
        if spec.kind == "drawing":
            return x, torch.rand(n, spec.n_steps, spec.n_out, generator=generator).to(dtype)
        return x, torch.randint(0, spec.n_out, (n,), generator=generator)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        self.lr_now.fill_(self.config.lr)  # after `.to`: in float64 not through float32

    def predict(self, x: Tensor) -> Tensor:
        """Outputs for x of (batch, T, n_in): (batch, T, n_out) for a drawing, (batch, n_out) logits
        for a class.
        """
        with torch.no_grad():
            h = self.net.hidden(x)
            return self.net.linear(h if self.config.loss == "mse" else h[:, -1])

    def useful_flops(self, batch_size: int) -> int:
        """Forward, and twice as much backward; 0 before the first batch, which tells the number of
        steps.
        """
        n_in, n_hidden, n_out = self.config.n_units
        n_gates = self.net.rnn.weight_hh_l0.shape[0]
        weights = n_gates * (n_in + n_hidden) + n_hidden * n_out
        return 6 * batch_size * self._n_steps * weights

    # --- a step's parts
    # ----------------------------------------------------------------------------------------------

    def _run(self, x: Tensor) -> Trace:
        """Forward pass over the sequences x, (batch, T, n_in)."""
        self._n_steps = x.shape[1]
        k = self.config.n_truncation or self._n_steps
        _check_length(k, self._n_steps)
        trace = self.net.run(x, k)
        if self.watch is not None:
            self.watch({"ends": trace.states[1:].clone()})
        return trace

    def _loss(self, trace: Trace, y: Tensor) -> tuple[dict[str, Tensor], Tensor | None, Tensor]:
        """The reported loss, and the gradient of sum_k L_k with respect to h at every step and to
        the end states.

        Also writes the readout's gradient. L_k is the mean over batch, supervised steps of
        truncation k, and outputs of the squared error; or the mean cross-entropy at the last step.
        Reported: (2 / T) sum_k m_k L_k, with m_k the supervised steps of truncation k; or the
        cross-entropy.
        """
        readout = self.net.linear
        d_weight, d_bias = self.grads[-2:]
        d_end = torch.zeros_like(trace.states[1:])
        if self.config.loss == "xent":
            h = trace.states[-1, :, : self.config.n_units[1]]
            log_p = functional.log_softmax(readout(h), dim=1)
            chosen = log_p.gather(1, y[:, None])
            d_out = (
                log_p.exp().scatter_add_(1, y[:, None], torch.full_like(chosen, -1)).div_(len(y))
            )
            torch.mm(d_out.t(), h, out=d_weight)
            torch.sum(d_out, 0, out=d_bias)
            torch.mm(d_out, readout.weight, out=d_end[-1, :, : self.config.n_units[1]])
            return {"train_nll": -chosen.mean()}, None, d_end
        h = trace.h[1:]
        error = readout(h).sub_(fold(y, len(h)))
        weight, supervised = self._supervision(len(h), h.shape[1], h.shape[2])
        d_out = error * weight
        rows = d_out.flatten(0, 2)
        torch.mm(rows.t(), h.flatten(0, 2), out=d_weight)
        torch.sum(rows, 0, out=d_bias)
        reported = (error.square_() * supervised).sum() * (
            2 / (self._n_steps * h.shape[2] * error.shape[-1])
        )
        return {"train_mse": reported}, d_out @ readout.weight, d_end

    def _supervision(self, k: int, n: int, n_batch: int) -> tuple[Tensor, Tensor]:
        """dL/d(output) per unit of error at every step, and which steps are supervised; both (K, n,
        1, 1), kept.
        """
        key = (k, n, n_batch, self._n_steps)
        if key not in self._weights:
            steps = torch.arange(self._n_steps)
            is_supervised = fold((steps % self.config.spars_int == 0).double().view(1, -1, 1), k)
            counts = is_supervised.sum(0, keepdim=True).clamp_(min=1)
            weight = is_supervised * 2 / (counts * n_batch * self.config.n_units[-1])
            self._weights[key] = torch.stack([weight, is_supervised]).to(self.net.linear.weight)
        return self._weights[key].unbind()

    def _clip(self, grads: list[Tensor], resting: Sequence[Tensor] = ()) -> Tensor:
        """Scale all gradients by min(1, clip / (norm + 1e-6)), in place; the norm of each before.

        Parameters
        ----------
        resting : gradients that are zero, which only `watch` hears of.
        """
        if self.watch is not None:
            self.watch({"grads": [grad.clone() for grad in (*grads, *resting)]})
        norms = torch.stack(torch._foreach_norm(grads))
        if self.config.clip > 0:
            torch._foreach_mul_(
                grads, (self.config.clip / (torch.linalg.vector_norm(norms) + 1e-6)).clamp_(max=1)
            )
        return norms

    @property
    def grads(self) -> list[Tensor]:
        """Gradient of every parameter of `net`, in the order of `net.parameters()`; reused from
        batch to batch.
        """
        return self._like(self.net)

    def _like(self, part: nn.Module) -> list[Tensor]:
        """One tensor for each parameter of `part`, made (zero) when first asked for, so that `.to`
        may come before.
        """
        if part not in self._grads:
            self._grads[part] = [torch.zeros_like(parameter) for parameter in part.parameters()]
        return self._grads[part]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "watch": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RecurrentRule":
        self._grads.clear()  # of another device or dtype
        self._weights.clear()
        return super()._apply(fn, recurse)


def _check_length(k: int | None, n_steps: int) -> None:
    if k is not None and k > n_steps:
        raise BioplausError(
            f"n_truncation is {k}, but a sequence has only {n_steps} steps: it must be from 1 to"
            f" {n_steps}, or null for all."
        )
