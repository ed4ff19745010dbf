"""What a training step of each rule costs on a GPU: launched kernel by kernel, as a captured graph,
and for several seeds side by side.

Times are wall time with the queue drained before and after, of steps of one batch again and again.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bioplaus import capture, device, rules
from bioplaus.errors import describe
from bioplaus.experiments.benchmark import aligned
from bioplaus.rules import BenchmarkCase, LearningRule

SIDE_BY_SIDE = (8, 16)  # seeds
SECONDS = 0.1  # of one measurement, about


@dataclass(frozen=True)
class Row:
    """One measured step.

    Attributes
    ----------
    rule, label, batch_size : what was measured.
    eager : ms of a step launched kernel by kernel.
    graph : ms of a step as a CUDA graph; None where the rule cannot be captured.
    side_by_side : ms of a step and seed, by number of seeds.
    note : why there is no graph.
    """

    rule: str
    label: str
    batch_size: int
    eager: float
    graph: float | None
    side_by_side: dict[int, float]
    note: str = ""


def run(
    where: torch.device,
    names: Iterable[str] | None = None,
    *,
    seeds: Sequence[int] = SIDE_BY_SIDE,
    report: Callable[[str], object] = print,
) -> list[Row]:
    """Time the `BENCHMARK` cases of rules on a GPU.

    Parameters
    ----------
    where : the GPU.
    names : keys of rules; None takes all. A rule that lists no case is timed at its default
        parameters.
    seeds : numbers of learners that learn side by side.
    report : where all rules are timed, receives one line for each that raised: it is left out.
    """
    rows = []
    for name in rules.names() if names is None else names:
        try:
            cases = getattr(
                rules.get(name), "BENCHMARK", (BenchmarkCase(label="default parameters"),)
            )
            rows += [_row(name, case, where, seeds) for case in cases]
        except Exception as error:
            if names is not None:
                raise
            report(f"rule {name} is left out: {describe(error)}")
    return rows


def render(rows: Sequence[Row], where: torch.device, *, as_json: bool = False) -> str:
    """The rows as an aligned text table, or as JSON."""
    if as_json:
        machine = device.describe(where)
        return json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=2)
    counts = sorted({count for row in rows for count in row.side_by_side})
    head = ["rule", "case", "batch", "eager", "graph", *(f"{count} seeds" for count in counts)]
    body = [
        [
            row.rule,
            row.label,
            str(row.batch_size),
            f"{row.eager:.3f}",
            "-" if row.graph is None else f"{row.graph:.3f}",
            *(f"{row.side_by_side[n]:.4f}" if n in row.side_by_side else "-" for n in counts),
        ]
        for row in rows
    ]
    notes = [f"{row.rule}: no graph, {row.note}" for row in rows if row.note]
    name = device.describe(where)["name"]
    said = f"ms a step on one {name}, float32; with several seeds side by side ms a step and seed."
    return "\n".join([*aligned(head, body, n_left=2), said, *dict.fromkeys(notes)])


class _Learner:
    """A rule that learns a batch and what it drew for it, whatever it measures."""

    def __init__(self, rule: LearningRule, drawn: Sequence[str]) -> None:
        self.rule, self.drawn = rule, drawn

    def learn_batch(self, draw: capture.Draw, *, epoch: Any, step: Any) -> capture.Learned:
        n = len(draw) - len(self.drawn)
        drawn = dict(zip(self.drawn, draw[n:], strict=True))
        self.rule.fit_batch(*draw[:n], epoch=epoch, step=step, **drawn)
        return capture.Learned(len(draw[0]), ())

    def count(self, learned: capture.Learned, n_batches: int = 1) -> None:
        """Nothing is summed up."""


def _row(name: str, case: BenchmarkCase, where: torch.device, seeds: Sequence[int]) -> Row:
    rule = rules.make(name, case.values, seed=0, device=where)
    spec = rule.example_spec(rule.config, case.n_steps)
    stream = device.generator(0, "benchmark")
    batch = tuple(part.to(where) for part in rule.example_batch(spec, case.batch_size, stream))
    drawn = rule.draw(case.batch_size)
    draw, learners = (*batch, *drawn.values()), [_Learner(rule, tuple(drawn))]

    def eager(n: int) -> None:
        for step in range(n):
            rule.fit_batch(*batch, epoch=0, step=step)

    rule.begin_epoch(0, capture.N_ROWS)
    milliseconds = _milliseconds(eager, where)
    note, times = rule.why_not_captured(), {}
    for count in () if note else (1, *seeds):
        while len(learners) < count:
            made = rules.make(name, case.values, seed=len(learners), device=where)
            made.begin_epoch(0, capture.N_ROWS)
            learners.append(_Learner(made, tuple(drawn)))
        batches, some = capture.Batches(where), learners[:count]

        def together(n: int, batches: Any = batches, some: Any = some) -> None:
            batches.learn(some, [[draw] * n for _ in some], epoch=0, step=0)

        together(capture.N_EAGER + 1)
        if note := batches.refusal:
            break
        times[count] = _milliseconds(together, where) / count
    return Row(
        rule=name,
        label=case.label,
        batch_size=case.batch_size,
        eager=milliseconds,
        graph=times.pop(1, None),
        side_by_side=times,
        note=note,
    )


def _milliseconds(steps: Callable[[int], None], where: torch.device) -> float:
    """Of one step, of as many as take about `SECONDS`."""

    def timed(n: int) -> float:
        torch.cuda.synchronize(where)
        started = time.perf_counter()
        steps(n)
        torch.cuda.synchronize(where)
        return time.perf_counter() - started

    timed(5)
    n = max(5, min(capture.N_ROWS, round(SECONDS / max(timed(5) / 5, 1e-6))))
    return 1e3 * min(timed(n) / n for _ in range(3))
