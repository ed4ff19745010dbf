"""Shared parts of the rules that train a plain chain of fully connected layers on class labels.

A chain of widths n_0-n_1-...-n_L has L weight layers; `w_ff[k]` (k = 0..L-1) maps layer k to layer
k+1 and has shape (n_{k+1}, n_k). It is stored transposed in memory (a contiguous (n_k, n_{k+1})
array seen through `.t()`), because batch-first products `r @ w.t()` then read it along its rows:
twice as fast at batch 20.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bioplaus.config import Config
from bioplaus.errors import BioplausError
from bioplaus.rules._base import LearningRule

N_PREDICT = 1000  # rows relaxed at once by `predict`: bounds its memory

StepRule = Literal["constant", "loop_index", "slow"]
Watch = Callable[[str, int, dict[str, list[Tensor]]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayeredConfig(Config):
    """Widths of the chain, and the checks every layered rule shares."""

    n_units: tuple[int, ...] = (784, 500, 10)  # layer widths, input first

    def __post_init__(self) -> None:
        self.check("n_units", low=1)
        self._check_depth(1)

    def _check_depth(self, n_layers: int) -> None:
        """Raise unless the chain has at least `n_layers` weight layers."""
        if self.n_layers < n_layers:
            raise BioplausError(
                f"n_units is {list(self.n_units)}, but must name at least {n_layers + 1} layers:"
                f" the input, {'at least one hidden layer, ' if n_layers > 1 else ''}and the"
                " output."
            )

    @property
    def n_layers(self) -> int:
        """Number of weight layers, L."""
        return len(self.n_units) - 1

    def check_length(self, name: str, length: int, what: str) -> None:
        """Raise unless the list in field `name` has `length` entries, one for each `what`."""
        value = getattr(self, name)
        if len(value) != length:
            raise BioplausError(
                f"{name} is {list(value)!r} with {len(value)} entries, but n_units "
                f"{list(self.n_units)} needs {length}: one for each {what}."
            )

    def check_schedule(self, name: str) -> None:
        """Raise unless field `name` holds (first epoch, base) pairs, epochs rising from 0, bases
        above 0.
        """
        pairs = getattr(self, name)
        starts = [pair[0] for pair in pairs]
        good = bool(pairs) and all(
            len(pair) == 2 and math.isfinite(pair[0]) and 0 < pair[1] < math.inf for pair in pairs
        )
        if (
            not good
            or starts[0] != 0
            or any(b <= a for a, b in zip(starts, starts[1:], strict=False))
        ):
            raise BioplausError(
                f"{name} is {[list(pair) for pair in pairs]!r}, but must be pairs [first epoch,"
                " base] whose epochs rise from 0 and whose bases are above 0."
            )

    def check_stop(self) -> None:
        """Raise where steps would fall from `lr_neural` to a larger `lr_neural_stop`: none of them
        would be another.
        """
        if self.lr_neural_rule != "constant" and self.lr_neural_stop > self.lr_neural:
            raise BioplausError(
                f"lr_neural_stop is {self.lr_neural_stop}, but must be at most lr_neural,"
                f" {self.lr_neural}, from which the steps of rule {self.lr_neural_rule!r} fall."
            )


def schedule_factor(pairs: Sequence[Sequence[float]], epoch: int) -> float:
    """The factor base**epoch of the last (first epoch, base) pair that has begun; `epoch` is
    0-based.
    """
    return next(base for start, base in reversed(pairs) if epoch >= start) ** epoch


def neural_steps(rule: str, start: float, stop: float, decay: float, n_steps: int) -> list[float]:
    """Step sizes of one relaxation phase, t = 0 .. n_steps-1, dimensionless.

    constant: start; loop_index: max(start / (t+1), stop); slow: max(start / (1 + decay t), stop).
    """
    if rule == "constant":
        return [start] * n_steps
    pace = 1.0 if rule == "loop_index" else decay
    return [max(start / (1 + pace * t), stop) for t in range(n_steps)]


def transposed(matrix: Tensor) -> Tensor:
    """The same matrix, its memory laid out column by column."""
    return matrix.t().contiguous().t()


def uniform(n_out: int, n_in: int, bound: float, generator: torch.Generator) -> Tensor:
    """(n_out, n_in) float32 drawn from U(-bound, bound), stored transposed."""
    return transposed(torch.rand(n_out, n_in, generator=generator).mul_(2 * bound).sub_(bound))


def xavier(n_out: int, n_in: int, generator: torch.Generator) -> Tensor:
    """(n_out, n_in) float32 drawn from U(-b, b), b = sqrt(6 / (n_in + n_out)) (Glorot and Bengio
    2010).
    """
    return uniform(n_out, n_in, math.sqrt(6 / (n_in + n_out)), generator)


def gram(n: int, generator: torch.Generator) -> Tensor:
    """(n, n) float32 symmetric A A^T with A from `xavier`: the published start of lateral
    matrices.
    """
    a = xavier(n, n, generator)
    return transposed(a @ a.t())


def tensors(values: Sequence[Tensor]) -> nn.ParameterList:
    """Values as parameters that autograd leaves alone: the local rules change them in place."""
    return nn.ParameterList(nn.Parameter(value, requires_grad=False) for value in values)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Every iteration of a relaxation, for looking at.

    Attributes
    ----------
    phases : phase of each iteration, n_iterations names ("free", "nudged", ...).
    states : by name, a list by layer of (n_iterations, batch, n_k) tensors, dimensionless.
    objective : (n_iterations,) mean over the batch of what the rule's iterations change,
        dimensionless.
    objective_name : "energy", "information", ...
    """

    phases: list[str]
    states: dict[str, list[Tensor]]
    objective: Tensor
    objective_name: str


class Scratch:
    """Tensors reused between batches of one size; names are given by the rule that allocates
    them.
    """

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no scratch tensor {name!r}")


class LayeredRule(LearningRule):
    """Base of the layered rules: scratch memory, one-hot targets, current learning rates,
    evaluation in parts.

    Attributes
    ----------
    lr_now : (L,) buffer, weight steps of the current epoch, dimensionless; set by `begin_epoch`. It
        lives on the device, so a captured step follows it.
    objective_name : what `relax` reports as objective.
    watch : None, or called as watch(phase, t, state) after every iteration t = 0, 1, ... of every
        relaxation phase, with state[name] a list of (batch, n_k) tensors by layer, valid only
        during the call. Training behaves the same with it.
    """

    objective_name = ""

    def __init__(self, config: LayeredConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.watch: Watch | None = None
        self._scratch: dict[int, Scratch] = {}
        self.register_buffer("lr_now", torch.zeros(config.n_layers))

    def scratch(self, n: int) -> Scratch:
        """Scratch memory for `n` rows, allocated once."""
        if n not in self._scratch:
            self._scratch[n] = self._allocate(n)
        return self._scratch[n]

    def _allocate(self, n: int) -> Scratch:
        """New scratch tensors for `n` rows."""
        raise NotImplementedError

    def _empty(self, *shape: int) -> Tensor:
        """A new tensor of the rule's dtype on its device."""
        return self.lr_now.new_zeros(shape)

    def _set_lr(self, rates: Sequence[float], factor: float) -> None:
        """Weight steps of this epoch: `rates`, one a layer, times `factor` (both computed in
        float64).
        """
        self.lr_now.copy_(torch.tensor([rate * factor for rate in rates], dtype=torch.float64))

    def predict(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = [self._evaluate(part) for part in x.split(N_PREDICT)]
        with torch.no_grad():
            return torch.cat(parts)  # outside inference mode: an ordinary tensor

    def _evaluate(self, x: Tensor) -> Tensor:
        """Output for at most `N_PREDICT` rows, in memory of its own."""
        raise NotImplementedError

    def relax(self, x: Tensor, y: Tensor | None = None) -> Trajectory:
        """What the network does with a batch, iteration by iteration, without learning; the nudge
        is positive.

        Parameters
        ----------
        x : (batch, n_0) inputs.
        y : (batch,) class indices; without them, only what needs no target.
        """
        phases: list[str] = []
        seen: list[dict[str, list[Tensor]]] = []

        def record(phase: str, t: int, state: dict[str, list[Tensor]]) -> None:
            phases.append(phase)
            seen.append({name: [part.clone() for part in parts] for name, parts in state.items()})

        before, self.watch = self.watch, record
        try:
            with torch.inference_mode():
                self._settle(self.scratch(len(x)), x, y, torch.ones_like(self.lr_now[0]))
                values = [
                    self._objective_of(x, y, phase, state)
                    for phase, state in zip(phases, seen, strict=True)
                ]
        finally:
            self.watch = before
        with torch.no_grad():  # outside inference mode: ordinary tensors
            states = {
                name: [torch.stack(layer) for layer in zip(*(s[name] for s in seen), strict=True)]
                for name in seen[0]
            }
            return Trajectory(phases, states, torch.stack(values), self.objective_name)

    def _settle(self, z: Scratch, x: Tensor, y: Tensor | None, sign: Tensor) -> None:
        """All relaxation phases of a batch; those that need no target if `y` is None."""
        raise BioplausError(f"{self.key()} does not relax: there is no trajectory to show.")

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: dict[str, list[Tensor]]
    ) -> Tensor:
        """What the iterations of `phase` change, mean over the batch, 0-d."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LayeredRule":
        self._scratch.clear()  # of another device or dtype
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scratch": {}, "watch": None}


def one_hot_(out: Tensor, y: Tensor) -> Tensor:
    """Write rows of 0 with a 1 at class y into `out`, (batch, n_classes), without asking the
    host.
    """
    return out.zero_().scatter_(1, y.unsqueeze(1), 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NudgedConfig(LayeredConfig):
    """Fields of the rules that compare a free with a nudged relaxation."""

    beta_nudge: float = 1.0  # size of the pull of the output towards the target, dimensionless
    use_random_sign: bool = (
        True  # draw the sign of beta_nudge for every batch; False: always positive
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_depth(2)
        self.check("beta_nudge", low=0, open_low=True)


class NudgedRule(LayeredRule):
    """Base of the rules that nudge: draws the sign of every batch at the start of an epoch.

    Attributes
    ----------
    signs : (n_batches,) buffer of +1 and -1, the nudge signs of the current epoch, on the device.
    """

    def __init__(self, config: NudgedConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.register_buffer("signs", torch.ones(0), persistent=False)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        if self.config.use_random_sign:
            drawn = torch.randint(0, 2, (n_batches,), generator=self.generator).mul_(2).sub_(1)
        else:
            drawn = torch.ones(n_batches)
        self.signs = drawn.to(self.lr_now)

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "signs": self.signs.cpu()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.signs = state["signs"].to(self.lr_now)
