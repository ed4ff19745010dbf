"""Learners side by side on a GPU: one CUDA graph with a branch for each.

A step of a small network is a few hundred kernels of microseconds each, launched one by one: the
GPU waits for the host, and most of it is idle. A CUDA graph holds all kernels of a step and is
launched at once; its branches, one for each learner, fill the GPU. The kernels are those that the
rule launches by itself, on the same numbers in the same order, so the bits are the same.

A graph reads and writes fixed memory. So a learner's next batches stand in a table, of which a
counter on the device chooses the row; and a graph is captured anew where something that it holds
has changed: the learners, the shapes of a batch, a plain attribute or the memory of a rule.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from bioplaus.errors import BioplausError

SWITCH = "BIOPLAUS_CUDA_GRAPHS"  # environment variable: 0 learns batch by batch
N_EAGER = 3  # batches of a shape that are learned one by one first: they allocate, and warm up
N_ROWS = 500  # most batches in a table
N_BYTES = 256 * 2**20  # most bytes in the tables of a graph

Draw = tuple[Tensor, ...]


class Learned(NamedTuple):
    """What one batch added to the sums of an epoch."""

    n_samples: int
    names: tuple[str, ...]  # of what was measured


class Learner(Protocol):
    """What is asked of a learner in training."""

    @property
    def rule(self) -> Any:
        """The `LearningRule`."""

    def learn_batch(self, draw: Draw, *, epoch: Any, step: Any) -> Learned:
        """Learn one batch, and add what was measured to the sums of the epoch, in place."""

    def count(self, learned: Learned, n_batches: int = 1) -> None:
        """Note that so many such batches were learned."""


def is_on() -> bool:
    """Whether graphs are used at all.

    Raises
    ------
    BioplausError
        If the environment variable is neither 0 nor 1.
    """
    value = os.environ.get(SWITCH, "1")
    if value not in ("0", "1"):
        raise BioplausError(f"{SWITCH} is {value!r}, but must be 0 or 1.")
    return value == "1"


class Batches:
    """Batches for several learners, learned by all at once.

    Parameters
    ----------
    device : of all learners, a GPU.

    Attributes
    ----------
    refusal : why torch could not capture a step; from then on it learns batch by batch.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.refusal = ""
        self._graphs: dict[Any, _Graph] = {}
        self._n_seen: Counter[Any] = Counter()
        self._streams: list[torch.cuda.Stream] = []

    def learn(
        self,
        learners: Sequence[Learner],
        windows: Sequence[Sequence[Draw]],
        *,
        epoch: int,
        step: int,
    ) -> None:
        """Every learner learns its batches, the first of which is number `step` of the epoch.

        Parameters
        ----------
        windows : draws of each learner's batches, as many for each, all of the same shapes.
        """
        batches = list(zip(*windows, strict=True))
        key = (tuple(map(id, learners)), tuple(_shapes(draw) for draw in batches[0]))
        branches = list(zip(learners, self._streams_for(learners), strict=True))
        done = 0
        while done < len(batches) and (self.refusal or self._n_seen[key] < N_EAGER):
            self._learn_eagerly(branches, batches[done], epoch, step + done)
            self._n_seen[key] += 1
            done += 1
        if done == len(batches):
            return
        held = tuple(_held(learner.rule) for learner in learners)
        if key not in self._graphs or self._graphs[key].held != held:
            self._graphs.pop(key, None)  # its memory is free before the new one takes some
            try:
                self._graphs[key] = _Graph(branches, batches[done], held)
            except RuntimeError as error:  # the rule asks the host for something
                self.refusal = str(error).strip().partition("\n")[0]
                self.learn(learners, [w[done:] for w in windows], epoch=epoch, step=step + done)
                return
        self._graphs[key].replay(batches[done:], epoch, step + done)

    def keep(self, learners: Iterable[Learner]) -> None:
        """Drop the graphs of all other learners."""
        kept = set(map(id, learners))
        for key in [key for key in self._graphs if not kept.issuperset(key[0])]:
            del self._graphs[key]

    def _streams_for(self, learners: Sequence[Learner]) -> list[torch.cuda.Stream]:
        while len(self._streams) < len(learners):
            self._streams.append(torch.cuda.Stream(self.device))
        return self._streams[: len(learners)]

    def _learn_eagerly(
        self, branches: "Branches", draws: Sequence[Draw], epoch: int, step: int
    ) -> None:
        with _forked(self.device, branches):
            for (learner, stream), draw in zip(branches, draws, strict=True):
                with torch.cuda.stream(stream):
                    learner.count(learner.learn_batch(draw, epoch=epoch, step=step))


Branches = Sequence[tuple[Learner, "torch.cuda.Stream"]]


class _Graph:
    """One step of several learners, on the batches that a counter chooses from their tables."""

    def __init__(self, branches: Branches, draws: Sequence[Draw], held: Any) -> None:
        self.held, self._learners = held, [learner for learner, _ in branches]
        n_bytes = sum(part.nbytes for draw in draws for part in draw)
        self._n_rows = max(1, min(N_ROWS, N_BYTES // max(1, n_bytes)))
        self._tables = [
            [part.new_zeros(self._n_rows, *part.shape) for part in draw] for draw in draws
        ]
        device = draws[0][0].device
        self._row, self._epoch, self._step = (
            torch.zeros(1, dtype=torch.int64, device=device) for _ in range(3)
        )
        self._learned: list[Learned] = []
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            with _forked(device, branches):
                for (learner, stream), table in zip(branches, self._tables, strict=True):
                    with torch.cuda.stream(stream):
                        draw = tuple(column.index_select(0, self._row)[0] for column in table)
                        self._learned.append(
                            learner.learn_batch(draw, epoch=self._epoch[0], step=self._step[0])
                        )
            self._row.add_(1)
            self._step.add_(1)

    def replay(self, batches: Sequence[Sequence[Draw]], epoch: int, step: int) -> None:
        """Learn batches, of which each has a draw for every learner."""
        self._epoch.fill_(epoch)
        for start in range(0, len(batches), self._n_rows):
            part = batches[start : start + self._n_rows]
            for table, draws in zip(self._tables, zip(*part, strict=True), strict=True):
                for column, values in zip(table, zip(*draws, strict=True), strict=True):
                    torch.stack(values, out=column[: len(values)])
            self._row.zero_()
            self._step.fill_(step + start)
            for _ in part:
                self._graph.replay()
        for learner, learned in zip(self._learners, self._learned, strict=True):
            learner.count(learned, len(batches))


@contextlib.contextmanager
def _forked(device: torch.device, branches: Branches) -> Iterator[None]:
    """The streams of the branches begin with the present one, which goes on after all of them."""
    trunk = torch.cuda.current_stream(device)
    for _, stream in branches:
        stream.wait_stream(trunk)
    yield
    for _, stream in branches:
        trunk.wait_stream(stream)


def windows(
    draws: Sequence[Iterator[Draw]], n_batches: int, is_last: Callable[[int], bool]
) -> Iterator[tuple[int, list[list[Draw]]]]:
    """The batches of an epoch in stretches that one graph can learn: (first step, draws by
    learner).

    A stretch ends where a learner's shapes change, after a step at which `is_last` is true, after
    `N_ROWS` batches, and with the epoch.
    """
    start, batches, shapes = 0, [], None
    for step in range(n_batches):
        each = [next(draw) for draw in draws]
        now = [_shapes(draw) for draw in each]
        if batches and now != shapes:
            yield start, [list(window) for window in zip(*batches, strict=True)]
            start, batches = step, []
        shapes = now
        batches.append(each)
        if is_last(step) or len(batches) == N_ROWS:
            yield start, [list(window) for window in zip(*batches, strict=True)]
            start, batches = step + 1, []
    if batches:
        yield start, [list(window) for window in zip(*batches, strict=True)]


def _shapes(draw: Draw) -> tuple[Any, ...]:
    return tuple((part.shape, part.dtype) for part in draw)


def _held(rule: nn.Module) -> tuple[Any, ...]:
    """What a graph of `fit_batch` holds of a rule: plain attributes, and where its tensors are."""
    plain, places = [], []
    for module in rule.modules():
        for name, value in vars(module).items():
            if isinstance(value, (bool, int, float, str, type(None))):
                plain.append((name, value))
            elif isinstance(value, Tensor):
                places.append((name, value.data_ptr()))
    places += [(name, p.data_ptr()) for name, p in rule.named_parameters()]
    places += [(name, b.data_ptr()) for name, b in rule.named_buffers()]
    return tuple(plain), tuple(places)
