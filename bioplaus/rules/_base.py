"""The contract every learning rule keeps."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bioplaus.config import Config
from bioplaus.errors import BioplausError
from bioplaus.tasks import Spec

# a 0-based count: a Python int, or a 0-d int64 tensor on the device, as in a CUDA graph
Count = int | Tensor
Watch = Callable[[str, int, Mapping[str, Sequence[Tensor]]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkCase:
    """A size at which `bioplaus.experiments.benchmark` times a rule; a rule module may list some as
    `BENCHMARK`.
    """

    label: str  # what is timed, for the table: widths or the published setting
    # config, where it is not the default
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch_size: int = 20  # samples
    n_steps: int | None = None  # time steps of a sample, for rules that learn sequences


class LearningRule(nn.Module):
    """A network together with the way it learns.

    All that training changes is held in parameters and buffers (or in `get_extra_state`), so
    `.to(device)`, `state_dict` and exact resume come for free. Scratch tensors are plain attributes
    or non-persistent buffers. A subclass implements `fit_batch` and `predict`, and may override the
    rest. What is here of `check_task`, `example_spec` and `example_batch` fits a rule that
    classifies still inputs and whose config has `n_units`, its layer widths, input first.

    Parameters
    ----------
    config : the rule's parameters, already checked.
    generator : CPU random stream for everything the rule draws: first its weights, later its nudge
        signs or masks. Its state is part of `state_dict`.

    Attributes
    ----------
    watch : None, or called as watch(phase, t, state) after every step t = 0, 1, ... of every phase
        of `fit_batch`; state[name] is a list of tensors, as by layer, valid only during the call.
        Training behaves the same with it. Copies and files do not have it.
    """

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.generator = generator
        self.watch: Watch | None = None

    @classmethod
    def check_task(cls, config: Any, spec: Spec) -> None:
        """Raise `BioplausError` if a network of this `config` cannot learn a task of this `spec`.

        Here: unless the task is to classify still inputs and `config.n_units`, where there is one,
        starts with the number of inputs and ends with that of classes.
        """
        if spec.kind != "classification" or spec.n_steps is not None:
            raise BioplausError(
                f"{cls.key()} learns to classify still inputs, but task "
                f"{spec.name!r} is {spec.kind}{' in time' if spec.n_steps is not None else ''}."
            )
        widths = getattr(config, "n_units", (spec.n_in, spec.n_out))
        if (widths[0], widths[-1]) != (spec.n_in, spec.n_out):
            raise BioplausError(
                f"n_units is {list(widths)}, but data set {spec.name!r} has {spec.n_in} inputs and"
                f" {spec.n_out} classes: n_units must start with {spec.n_in} and end with"
                f" {spec.n_out}."
            )

    @classmethod
    def least_batch(cls, config: Any) -> int:
        """How many samples every batch must have for a network of this `config` to learn.

        Here 1; 2 for a rule that normalises over the batch, whose spread a single sample lacks.
        """
        return 1

    @classmethod
    def example(cls) -> tuple[dict[str, Any], Spec] | None:
        """Config values and a task they fit, small enough for a test; None for a rule with
        `n_units`, whose default widths are cut down to them (`rules.example`).
        """
        return None

    @classmethod
    def example_spec(cls, config: Any, n_steps: int | None = None) -> Spec:
        """A task that a network of this `config` can learn.

        Here: classification of still inputs, from the first of `config.n_units` to the last.

        Parameters
        ----------
        n_steps : time steps of a sample, where samples have them; None for a few.

        Raises
        ------
        BioplausError
            If `config` has no `n_units`, or `check_task` refuses such a task.
        """
        widths = getattr(config, "n_units", None)
        if not widths:
            raise BioplausError(
                f"{cls.key()} has no n_units to take the size of a task from: its Rule must"
                " override example_spec."
            )
        spec = Spec(name="example", kind="classification", n_in=widths[0], n_out=widths[-1])
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
        """Random arguments of `fit_batch`: `n` samples of task `spec`.

        Here: inputs, (n, n_in), and class indices, (n,) int64.
        """
        x = sparse_inputs(generator, dtype, n, spec.n_in)
        return x, torch.randint(0, spec.n_out, (n,), generator=generator)

    @classmethod
    def key(cls) -> str:
        """What manifests call the rule: the name of its file."""
        return cls.__module__.rpartition(".")[2]

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        """Set the learning rates of `epoch` (0-based) and draw what its `n_batches` batches
        need.
        """

    def draw(self, n: int) -> dict[str, Tensor]:
        """What is drawn for a batch of `n` samples, (n, ...) tensors on the device, which
        `fit_batch` takes by these names. Batches draw in their order, some time before they are
        learned. Mostly nothing.
        """
        return {}

    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        """Learn from one batch.

        On a GPU this is captured once as a CUDA graph and replayed for every other batch of the
        same shapes (`bioplaus.capture`). So here nothing is asked of the host (`.item()`, `if` on a
        tensor), nothing is drawn (`begin_epoch` and `draw` do), what is learned is written into
        tensors that stay where they are, and a Python number that changes goes by a tensor:
        `at(rates, step)`, not `rates[step]`. What breaks this is noticed where torch can see it,
        and learned batch by batch instead; `why_not_captured` says so beforehand.

        Parameters
        ----------
        x : inputs, batch first.
        y : targets as the task gives them; class indices, (batch,) int64, in classification.
        epoch, step : 0-based epoch, and batch within it; in a graph 0-d int64 tensors.

        Returns
        -------
        What was measured on the way, as 0-d tensors by name (a loss, for instance); the epoch's
        mean is recorded. Often empty.
        """
        raise NotImplementedError

    def why_not_captured(self) -> str:
        """Why `fit_batch`, as it is now, cannot be captured as a CUDA graph; empty where it can.

        Here: `watch` looks at every step.
        """
        return "watch looks at every step" if self.watch is not None else ""

    def predict(self, x: Tensor) -> Tensor:
        """The network's output for inputs `x`, batch first; the evaluation uses no randomness and
        changes no state.
        """
        raise NotImplementedError

    def diagnostics(self) -> dict[str, float]:
        """Numbers logged during training (angles between weights, for instance), by name with the
        unit at the end.
        """
        return {}

    def useful_flops(self, batch_size: int) -> int:
        """Floating-point operations one training batch needs, nothing recomputed; 0 where it is not
        stated.
        """
        return 0

    def __repr__(self) -> str:
        """Its key and widths, the number of its parameters, and where they are; not its modules,
        which most rules do not have.
        """
        widths = "-".join(map(str, getattr(self.config, "n_units", ())))
        parameters = [*self.parameters()]
        kinds = dict.fromkeys(str(p.dtype).removeprefix("torch.") for p in parameters)
        devices = dict.fromkeys(str(p.device) for p in parameters)
        where = f", {' and '.join(kinds)} on {' and '.join(devices)}" if parameters else ""
        n = sum(p.numel() for p in parameters)
        return f"<rule {' '.join(filter(None, [self.key(), widths]))}: {n:,} parameters{where}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "watch": None}

    def get_extra_state(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())


def at(values: Tensor, step: Count) -> Tensor:
    """values[step], 0-d; a `step` on the device is not asked of it."""
    return values[step] if isinstance(step, int) else values.index_select(0, step.view(1))[0]


def rewritten(old: Tensor, new: Tensor) -> Tensor:
    """`new`, of the dtype and device of `old`, in the memory of `old` where its shape allows, so
    that a CUDA graph goes on reading it.
    """
    return old.copy_(new) if old.shape == new.shape else new.to(old, copy=True)


def sparse_inputs(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    """Random inputs from 0 to 1, four fifths of them 0 as in images of digits; drawn in float32."""
    x = torch.rand(shape, generator=generator, dtype=torch.float32)
    return (x * (torch.rand(shape, generator=generator, dtype=torch.float32) > 0.8)).to(dtype)
