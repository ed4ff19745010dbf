"""Shared parts of the rules that train a plain chain of fully connected layers on class labels.

A chain of widths n_0-n_1-...-n_L has L weight layers. In equations they are counted from 1, as in
the papers: W_k maps layer k-1 to layer k and has shape (n_k, n_{k-1}). A rule keeps W_1 ... W_L as
the list `w_ff`, and `numbered` gives it the numbers of the equations.

A matrix is stored transposed in memory (a contiguous (n_{k-1}, n_k) array seen through `.t()`),
because batch-first products `r @ w.t()` then read it along its rows: twice as fast at batch 20. One
of a few rows, as that of an output layer, is stored row by row: twice as fast again. No equation
and no saved state depends on it.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bioplaus.config import Config
from bioplaus.errors import BioplausError
from bioplaus.rules._base import LearningRule, rewritten

N_FEW = 16  # rows of a matrix that is stored row by row
# rows relaxed at once by `predict`: few enough for a CPU's caches, and enough to fill a GPU
N_PREDICT = {"cpu": 500, "cuda": 10_000}

StepRule = Literal["constant", "loop_index", "slow"]
Layers = dict[int, Tensor]  # by number of the layer: 0 is the input, 1 .. L are the layers above
Nudge = tuple[Tensor | float, Tensor | float]  # signed size beta, and one-hot target (batch, n_L)
FREE: Nudge = (0.0, 0.0)  # beta (r - y) is 0 then


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

    @staticmethod
    def check_stop(rule: str, start: float, stop: float) -> None:
        """Raise where steps would fall from `lr_neural` to a larger `lr_neural_stop`: none of them
        would be another.
        """
        if rule != "constant" and stop > start:
            raise BioplausError(
                f"lr_neural_stop is {stop}, but must be at most lr_neural, {start}, from which the"
                f" steps of rule {rule!r} fall."
            )


def set_rates(buffer: Tensor, rates: Sequence[float], factor: float) -> None:
    """Write the learning rates of an epoch: `rates` by layer times `factor`, both in float64."""
    buffer.copy_(torch.tensor([rate * factor for rate in rates], dtype=torch.float64))


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
    """(n_out, n_in) float32 drawn from U(-bound, bound), stored transposed unless n_out is few."""
    drawn = torch.rand(n_out, n_in, generator=generator).mul_(2 * bound).sub_(bound)
    return drawn if n_out <= N_FEW else transposed(drawn)


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


def tensors(values: Iterable[Tensor]) -> nn.ParameterList:
    """Values as parameters that autograd leaves alone: the local rules change them in place."""
    return nn.ParameterList(nn.Parameter(value, requires_grad=False) for value in values)


def numbered(values: Iterable[Tensor], first: int = 1) -> Layers:
    """{1: W_1, 2: W_2, ...} from a list of weights by layer."""
    return dict(enumerate(values, first))


def outer(a: Tensor, b: Tensor) -> Tensor:
    """sum_N a b^T over the rows of a batch, (n_a, n_b), in the memory order of a weight matrix."""
    return a.T @ b if a.shape[1] <= N_FEW else (b.T @ a).T


def one_hot(y: Tensor, like: Tensor) -> Tensor:
    """(batch, n) rows of 0 with a 1 at class y, in the shape, dtype and device of `like`."""
    return torch.zeros_like(like).scatter_(1, y.unsqueeze(1), 1.0)


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


class LayeredRule(LearningRule):
    """Base of the layered rules: learning rates of the epoch, evaluation in parts, trajectories.

    Attributes
    ----------
    lr_now : (L,) buffer, weight steps of the current epoch, dimensionless; set by `begin_epoch`. It
        lives on the device, so a captured step follows it.
    objective_name : what `relax` reports as objective.
    watch : as in `LearningRule`, with the phases and iterations of a relaxation; state[name] is a
        list of (batch, n_k) tensors, k = 1 .. L.
    """

    config: LayeredConfig
    lr_now: Tensor
    objective_name = ""

    def __init__(self, config: LayeredConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.register_buffer("lr_now", torch.zeros(config.n_layers))

    def _at_rest(self, x: Tensor) -> Layers:
        """The inputs x in layer 0, and 0 in all layers above."""
        return {0: x} | {
            k: x.new_zeros(len(x), n) for k, n in enumerate(self.config.n_units) if k > 0
        }

    def predict(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            n_rows = N_PREDICT.get(x.device.type, N_PREDICT["cpu"])
            parts = [self._evaluate(part) for part in x.split(n_rows)]
        with torch.no_grad():
            return torch.cat(parts)  # outside inference mode: an ordinary tensor

    def _evaluate(self, x: Tensor) -> Tensor:
        """Output for as many rows as are relaxed at once, in memory of its own."""
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

        def record(phase: str, t: int, state: Mapping[str, Sequence[Tensor]]) -> None:
            phases.append(phase)
            seen.append({name: [part.clone() for part in parts] for name, parts in state.items()})

        before, self.watch = self.watch, record
        try:
            with torch.inference_mode():
                self._settle(x, y, torch.ones_like(self.lr_now[0]))
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

    def _settle(self, x: Tensor, y: Tensor | None, sign: Tensor) -> Any:
        """All relaxation phases of a batch with nudges of this `sign`, +1 or -1; those that need no
        target if `y` is None.
        """
        raise BioplausError(f"{self.key()} does not relax: there is no trajectory to show.")

    def _report(self, phase: str, t: int, **state: Layers) -> None:
        """Tell `watch` the states of the layers above the input."""
        if self.watch is not None:
            numbers = range(1, self.config.n_layers + 1)
            self.watch(phase, t, {name: [s[k] for k in numbers] for name, s in state.items()})

    def _objective_of(
        self, x: Tensor, y: Tensor | None, phase: str, state: Mapping[str, Sequence[Tensor]]
    ) -> Tensor:
        """What the iterations of `phase` change, mean over the batch, 0-d."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class NudgedConfig(LayeredConfig):
    """Fields of the rules that compare a free with a nudged relaxation."""

    beta_nudge: float = 1.0  # size of the pull of the output towards the target, dimensionless
    # draw the sign of beta_nudge for every batch; False: always positive
    use_random_sign: bool = True

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

    config: NudgedConfig
    signs: Tensor

    def __init__(self, config: LayeredConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.register_buffer("signs", torch.ones(0), persistent=False)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        if self.config.use_random_sign:
            drawn = torch.randint(0, 2, (n_batches,), generator=self.generator).mul_(2).sub_(1)
        else:
            drawn = torch.ones(n_batches)
        self.signs = rewritten(self.signs, drawn)

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "signs": self.signs.cpu().clone()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.signs = rewritten(self.signs, state["signs"])
