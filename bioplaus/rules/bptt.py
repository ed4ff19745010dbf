"""Truncated back-propagation through time: the cortical network (cRNN) that learns without a
cerebellum.

Baseline of Boven, Pemberton, Chadderton, Apps and Costa (2021, 2023). A sequence of T steps is cut
into truncations k = 0, 1, ... of K steps (the last may be shorter). The state runs through them,
the gradient stops at the cuts. With one parameter value theta for the whole sequence, z_k the state
that truncation k starts from, and z_0 = 0:

    z_{k+1} = the state after the steps of truncation k, from z_k held fixed
    L_k     = |output - target|^2, mean over batch, supervised steps and outputs        (drawing)
            = cross-entropy of the last step of the sequence, mean over batch           (classes)
    dtheta  = sum_k dL_k/dtheta
    dtheta  <- dtheta min(1, clip / (|dtheta| + 1e-6))
    theta   <- theta - Adam(dtheta)                                                     (once)

`n_truncation: null` is full back-propagation through time.
"""

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bioplaus.config import Config as BaseConfig
from bioplaus.errors import BioplausError
from bioplaus.nets.lstm import CELLS
from bioplaus.rules._base import BenchmarkCase, Count, LearningRule, sparse_inputs
from bioplaus.rules._optimisers import Adam
from bioplaus.tasks import Spec

_DRAWING = {"n_units": [28, 30, 2], "loss": "mse", "spars_int": 4}
BENCHMARK = (
    BenchmarkCase(
        label="28-30-2, T 28, K 28",
        batch_size=50,
        n_steps=28,
        values=_DRAWING | {"n_truncation": None},
    ),
    BenchmarkCase(
        label="28-30-2, T 28, K 3", batch_size=50, n_steps=28, values=_DRAWING | {"n_truncation": 3}
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """Defaults: published seq-MNIST classification at K = 3."""

    n_units: tuple[int, ...] = (28, 30, 10)  # inputs per step, hidden units, outputs
    cell: Literal["lstm", "tanh"] = "lstm"  # of the cortex; tanh: a plain recurrent network
    # mse: a target at every supervised step; xent: a class at the last step
    loss: Literal["mse", "xent"] = "xent"
    # steps of a truncation, K; None: the whole sequence (full back-propagation in time)
    n_truncation: int | None = 3
    spars_int: int = 1  # mse: the steps t = 0, spars_int, 2 spars_int, ... are supervised
    lr: float = 1e-4  # step of Adam, dimensionless
    # largest Euclidean norm of all gradients together, dimensionless; 0: no clipping
    clip: float = 1.0

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


class Rule(LearningRule):
    """One walk over the truncations, then one optimiser step.

    Recorded every epoch: "train_mse" (published scale: (2 / T) sum_k m_k L_k with m_k the
    supervised steps of truncation k) or "train_nll"; "grad_norm", the norm before clipping.

    Attributes
    ----------
    net : the recurrent network with its readout, "the cerebrum"; parameters theta.
    watch : hears of phase "truncation", t = k: "end" [z_{k+1}, (batch, n_state)]; then of phases
        "gradient" and "clipped", t = 0: "theta" [one tensor a parameter of `net`].

    References
    ----------
    Boven et al., Cerebro-cerebellar networks facilitate learning through feedback decoupling, Nat.
    Commun. 14:51, 2023; NeurIPS 2021 version arXiv:2110.11501.

    Deviations
    ----------
    The published divisor T of the reported drawing loss is kept although only some steps are
    supervised. Weights come from the run's own stream; the readout is drawn before any synthesiser,
    so that a cRNN and a ccRNN of one seed start from the same cerebrum (published: only the LSTM
    coincides). Left out because the papers never use them: other optimisers, other weight
    initialisations, early stopping, learning-rate decay, a context input, an optimiser step after
    every truncation.
    """

    config: Config
    lr_now: Tensor

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        n_in, n_hidden, n_out = config.n_units
        self.net = CELLS[config.cell](n_in, n_hidden, n_out, generator)
        self.optimiser = adam(self.net)
        self.register_buffer("lr_now", torch.tensor(config.lr))
        self._n_steps = 0  # of the last batch

    @classmethod
    def check_task(cls, config: Config, spec: Spec) -> None:
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
        check_length(config.n_truncation, spec.n_steps)
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
    def example_spec(cls, config: Config, n_steps: int | None = None) -> Spec:
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
        n_steps = spec.n_steps or 1
        x = sparse_inputs(generator, dtype, n, n_steps, spec.n_in)
        if spec.kind == "drawing":
            return x, torch.rand(n, n_steps, spec.n_out, generator=generator).to(dtype)
        return x, torch.randint(0, spec.n_out, (n,), generator=generator)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        self.lr_now.fill_(self.config.lr)  # after `.to`: in float64 not through float32

    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        """Learn from sequences.

        Parameters
        ----------
        x : (batch, T, n_in).
        y : (batch, T, n_out) for a drawing, (batch,) int64 for classes.
        """
        self._n_steps = n_steps = x.shape[1]
        theta = list(self.net.parameters())
        z, losses = self.net.zero_state(len(x)), []
        for k, steps in enumerate(self._truncations(n_steps)):
            loss, z = self._run(x, y, z.detach(), steps)
            losses.append(loss)
            if self.watch is not None:
                self.watch("truncation", k, {"end": [z.detach()]})
        d_theta = list(torch.autograd.grad(torch.stack(losses).sum(), theta))
        clipped, norms = self._clip(d_theta)
        if self.watch is not None:
            self.watch("gradient", 0, {"theta": d_theta})
            self.watch("clipped", 0, {"theta": clipped})
        with torch.no_grad():
            self.optimiser.step(theta, clipped, self.lr_now)
        return {**self._reported(losses, n_steps), "grad_norm": torch.linalg.vector_norm(norms)}

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
        n_gates = len(self.net.weights[0])  # times hidden units
        weights = n_gates * (n_in + n_hidden) + n_hidden * n_out
        return 6 * batch_size * self._n_steps * weights

    def _truncations(self, n_steps: int) -> list[range]:
        """The steps of every truncation."""
        k = self.config.n_truncation or n_steps
        check_length(k, n_steps)
        return [range(start, min(start + k, n_steps)) for start in range(0, n_steps, k)]

    def _supervised(self, steps: range, n_steps: int) -> list[int]:
        """Those of the steps whose output has a target."""
        if self.config.loss == "xent":
            return [t for t in steps if t == n_steps - 1]
        return [t for t in steps if t % self.config.spars_int == 0]

    def _run(self, x: Tensor, y: Tensor, z: Tensor, steps: range) -> tuple[Tensor, Tensor]:
        """L_k and z_{k+1} of the truncation of these steps from the state z; L_k is 0 where none
        of them is supervised.
        """
        states = self.net(x[:, steps[0] : steps[-1] + 1], z)
        loss, supervised = z.new_zeros(()), self._supervised(steps, x.shape[1])
        if supervised:
            outputs = self.net.readout(states[:, [t - steps[0] for t in supervised]])
            if self.config.loss == "mse":
                loss = (outputs - y[:, supervised]).square().mean()
            else:
                loss = functional.cross_entropy(outputs[:, 0], y)
        return loss, states[:, -1]

    def _reported(self, losses: list[Tensor], n_steps: int) -> dict[str, Tensor]:
        """What the published code reports of all L_k."""
        if self.config.loss == "xent":
            return {"train_nll": losses[-1].detach()}
        counts = [len(self._supervised(steps, n_steps)) for steps in self._truncations(n_steps)]
        summed = [m * loss.detach() for m, loss in zip(counts, losses, strict=True)]
        return {"train_mse": 2 / n_steps * torch.stack(summed).sum()}

    def _clip(self, gradients: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The gradients times min(1, clip / (norm of all + 1e-6)), and the norm of each before."""
        norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        if self.config.clip == 0:
            return gradients, norms
        factor = (self.config.clip / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1)
        return [factor * gradient for gradient in gradients], norms


def adam(part: nn.Module) -> Adam:
    """The optimiser of the published code, for the parameters of `part`."""
    return Adam(list(part.parameters()), betas=(0.9, 0.98), epsilon=1e-9)


def check_length(k: int | None, n_steps: int) -> None:
    """Raise `BioplausError` where truncations of k steps are longer than a sequence."""
    if k is not None and k > n_steps:
        raise BioplausError(
            f"n_truncation is {k}, but a sequence has only {n_steps} steps: it must be from 1 to"
            f" {n_steps}, or null for all."
        )
