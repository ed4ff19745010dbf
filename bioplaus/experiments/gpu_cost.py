"""What runs cost on one GPU, computed from measured steps.

`gpu_steps.json` is what `python -m bioplaus benchmark --device cuda --json` printed: milliseconds
of a step of each rule at the sizes of its `BENCHMARK`, alone and of several seeds side by side. A
training costs the step that is most like its own, as often as its epochs have batches. A larger
step costs in proportion to its useful operations, which is too much rather than too little, as
larger products use a GPU better. A smaller one costs the same: what bounds it is the number of its
kernels. Evaluation is not counted.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bioplaus import device, rules
from bioplaus.experiments import side_by_side, simulation
from bioplaus.experiments.run import Run
from bioplaus.experiments.simulation import Training

STEPS = Path(__file__).with_name("gpu_steps.json")


@dataclasses.dataclass
class Cost:
    """What runs cost on one GPU.

    Attributes
    ----------
    device : the GPU that the steps were measured on.
    seconds : of training, all runs together.
    measured, scaled, unknown : entries whose steps were measured, estimated from others, and that
        are not counted, as only their data tell how many steps there are.
    """

    device: str
    seconds: float = 0.0
    measured: list[str] = dataclasses.field(default_factory=list)
    scaled: list[str] = dataclasses.field(default_factory=list)
    unknown: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Step:
    """A measured step: milliseconds of a step of `counts` seeds together."""

    rule: str
    batch_size: int
    flops: int
    counts: tuple[int, ...]
    milliseconds: tuple[float, ...]

    def seconds(self, n_seeds: int) -> float:
        """Of one step of so many seeds; beyond the largest number measured, in proportion."""
        most, total = self.counts[-1], self.milliseconds[-1]
        if n_seeds > most:
            return total * n_seeds / most / 1e3
        return float(np.interp(n_seeds, self.counts, self.milliseconds)) / 1e3


def cost(runs: Sequence[Run], most: int | None = None) -> Cost:
    """What runs cost on the GPU of `gpu_steps.json`, at most so many of a group side by side."""
    content = json.loads(STEPS.read_text(encoding="utf-8"))
    estimate = _Estimate(content["rows"])
    total = Cost(content["machine"]["name"])
    by_entry: dict[str, set[str]] = {}
    for group in side_by_side.group(runs, most or side_by_side.MOST):
        seconds, how = estimate.seconds(group)
        total.seconds += seconds
        by_entry.setdefault(group[0].key.rpartition("/")[0], set()).add(how)
    for entry, ways in by_entry.items():
        how = next(how for how in ("unknown", "scaled", "measured") if how in ways)
        getattr(total, how).append(entry)
    return total


class _Estimate:
    """Seconds of groups of runs, from measured steps."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._flops: dict[str, int] = {}
        self._steps = [step for row in rows for step in self._read(row)]

    def seconds(self, group: Sequence[Run]) -> tuple[float, str]:
        """Of runs side by side; and whether their steps were measured, scaled or are unknown."""
        trainings = _trainings(group[0])
        if trainings is None:
            return 0.0, "unknown"
        seconds, is_measured = 0.0, True
        for training in trainings:
            flops = self._useful_flops(training)
            step = min(self._steps, key=lambda step: _distance(step, training, flops))  # noqa: B023
            ratio = _ratio(flops, step.flops)
            n_batches = math.ceil((training.spec.n_train or 0) / training.batch_size)
            once = step.seconds(len(group)) * max(1.0, ratio)
            seconds += training.n_epochs * n_batches * once
            is_same = (step.rule, step.batch_size) == (training.rule, training.batch_size)
            is_measured &= is_same and math.isclose(ratio, 1.0)
        return seconds, "measured" if is_measured else "scaled"

    def _read(self, row: Mapping[str, Any]) -> Iterator[_Step]:
        """The step of a row, if its rule is still there and lists that size."""
        name = row["rule"]
        cases = getattr(rules.get(name), "BENCHMARK", ()) if name in rules.names() else ()
        for case in cases:
            if (case.label, case.batch_size) == (row["label"], row["batch_size"]):
                alone = row["eager"] if row["graph"] is None else row["graph"]
                each = {1: alone} | {int(n): ms for n, ms in row["side_by_side"].items()}
                made = rules.get(name).Rule.example_spec(
                    rules.config(name, case.values), case.n_steps
                )
                training = Training(name, case.values, made, 1, case.batch_size)
                counts = tuple(sorted(each))
                totals = tuple(n * each[n] for n in counts)
                flops = self._useful_flops(training)
                yield _Step(name, case.batch_size, flops, counts, totals)

    def _useful_flops(self, training: Training) -> int:
        """The useful operations of a step; rates and other numbers with a point cost none."""
        name, values, spec, _, batch_size = training
        parts = [name, _sizes(values), spec.n_in, spec.n_out, spec.n_steps, batch_size]
        key = json.dumps(parts, sort_keys=True)
        if key not in self._flops:
            rule = rules.make(name, values, spec)
            if not rule.useful_flops(batch_size):  # the first batch tells how many steps there are
                rule.begin_epoch(0, 1)
                stream = device.generator(0, "benchmark")
                rule.fit_batch(*rule.example_batch(spec, batch_size, stream), epoch=0, step=0)
            self._flops[key] = rule.useful_flops(batch_size)
        return self._flops[key]


def _trainings(run: Run) -> list[Training] | None:
    """What a run trains; None where only reading the data tells how many samples there are, or the
    notebook does not say.
    """
    notebook = simulation.load(run.simulation)
    names = notebook.check(notebook.inputs([run.inputs], [""]))
    own = [names.get(name) for name in Training._fields]
    trainings = names.get("trainings", None if None in own else [Training(*own)])
    is_known = trainings is not None and all(one.spec.n_train for one in trainings)
    return trainings if is_known else None


def _distance(step: _Step, training: Training, flops: int) -> tuple[bool, float, bool]:
    """How unlike a measured step is to that of a training: another rule, other operations, another
    batch.
    """
    far = abs(math.log(_ratio(flops, step.flops)))
    return step.rule != training.rule, far, step.batch_size != training.batch_size


def _ratio(flops: int, measured: int) -> float:
    """Operations over measured ones; 1 where a rule does not state them."""
    return flops / measured if flops and measured else 1.0


def _sizes(value: Any) -> Any:
    """A config without its numbers with a point."""
    if isinstance(value, Mapping):
        return {k: _sizes(item) for k, item in value.items() if not isinstance(item, float)}
    if isinstance(value, list | tuple):
        return [_sizes(item) for item in value if not isinstance(item, float)]
    return value
