"""What a training step of each rule costs here, on one thread, against this machine's own matrix
product.

A machine's matrix-product rate is what bounds these rules, and it changes from minute to minute on
a shared one. So the rate is measured in the same rounds as the steps, right before each, and a step
is stated as the fraction of it that the step's useful operations reach. Times are CPU time of the
process: waiting for others does not count.
"""

import itertools
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from bioplaus import _products, device, rules
from bioplaus.errors import describe
from bioplaus.rules import BenchmarkCase

N_PRODUCT = 2048  # rows and columns of the float32 matrices whose product is the machine's rate
SECONDS = 0.1  # CPU time of one measurement of a step, about


@dataclass(frozen=True)
class Row:
    """One measured step.

    Attributes
    ----------
    rule, label, batch_size : what was measured.
    form : "fast" or "plain" (`rules.make`).
    milliseconds : CPU time of one step, median over rounds.
    useful_mflop : operations a step needs (`useful_flops`), in millions; 0 where the rule does not
        state them.
    gflops : useful operations per second that the step reaches, in 10^9, median over rounds.
    machine_gflops : operations per second of the matrix product, in 10^9, median over rounds.
    fraction : the step's rate over the machine's in the same round, median over rounds.
    """

    rule: str
    label: str
    batch_size: int
    form: str
    milliseconds: float
    useful_mflop: float
    gflops: float
    machine_gflops: float
    fraction: float


def run(
    names: Iterable[str] | None = None,
    *,
    rounds: int = 9,
    plain: bool = False,
    report: Callable[[str], object] = print,
) -> list[Row]:
    """Time the `BENCHMARK` cases of rules, in interleaved rounds.

    Parameters
    ----------
    names : keys of rules; None takes all. A rule that lists no case is timed at its default
        parameters.
    rounds : measurements of each case; the median is reported.
    plain : time the plain form of a rule, too, where another one runs.
    report : where all rules are timed, receives one line for each that raised: it is left out.
    """
    cases, steps = [], []
    with device.threads(1):
        for name in rules.names() if names is None else names:
            try:
                sizes = getattr(
                    rules.get(name), "BENCHMARK", (BenchmarkCase(label="default parameters"),)
                )
                forms = ["fast"] if rules.has_fast(name) else ["plain"]
                forms += ["plain"] if plain and rules.has_fast(name) else []
                timed = list(itertools.product([name], sizes, forms))
                steps += [_step(*case) for case in timed]
            except Exception as error:
                if names is not None:
                    raise
                report(f"rule {name} is left out: {describe(error)}")
            else:
                cases += timed
        flops = [flop for _, flop in steps]
        seconds, rates = _measure([step for step, _ in steps], rounds)
    return [_row(*case, *taken) for case, *taken in zip(cases, flops, seconds, rates, strict=True)]


def render(rows: Sequence[Row], *, as_json: bool = False) -> str:
    """The rows as an aligned text table, or as JSON."""
    if as_json:
        return json.dumps(
            {
                "machine": device.describe("cpu") | {"threads": 1},
                "rows": [asdict(row) for row in rows],
            },
            indent=2,
        )
    head = ("rule", "case", "form", "batch", "ms/step", "MFLOP", "GFLOP/s", "machine", "fraction")
    body = [
        (
            row.rule,
            row.label,
            row.form,
            str(row.batch_size),
            f"{row.milliseconds:.3f}",
            f"{row.useful_mflop:.1f}" if row.useful_mflop else "-",
            f"{row.gflops:.1f}" if row.useful_mflop else "-",
            f"{row.machine_gflops:.1f}",
            f"{row.fraction:.2f}" if row.useful_mflop else "-",
        )
        for row in rows
    ]
    note = (
        f"One thread, CPU time, float32; machine: GFLOP/s of a {N_PRODUCT} x {N_PRODUCT} product in"
        " the same rounds."
    )
    return "\n".join([*aligned(head, body, n_left=3), note])


def aligned(head: Sequence[str], body: Sequence[Sequence[str]], n_left: int) -> list[str]:
    """The lines of a table, its first `n_left` columns aligned left, the numbers behind right."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if k < n_left else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in (head, *body)
    ]


def _step(name: str, case: BenchmarkCase, form: str) -> tuple[Callable[[], object], int]:
    """A callable that trains one batch, and the operations it needs."""
    rule = rules.make(name, case.values, seed=0, plain=form == "plain")
    spec = rule.example_spec(rule.config, case.n_steps)
    batch = rule.example_batch(spec, case.batch_size, device.generator(0, "benchmark"))
    rule.begin_epoch(0, 1)

    def step() -> object:
        return rule.fit_batch(*batch, epoch=0, step=0)

    step()
    return step, rule.useful_flops(case.batch_size)


def _measure(
    steps: Sequence[Callable[[], object]], rounds: int
) -> tuple[list[list[float]], list[list[float]]]:
    """CPU seconds of each step, and operations per second of the matrix product right before it, by
    round.
    """
    a, b, out = (
        torch.rand(N_PRODUCT, N_PRODUCT),
        torch.rand(N_PRODUCT, N_PRODUCT),
        torch.empty(N_PRODUCT, N_PRODUCT),
    )
    meter = device.Meter()

    def cpu(function: Callable[[], object], n: int) -> float:
        meter.restart()
        for _ in range(n):
            function()
        return meter.read()[1] / n

    def by_mkl() -> Tensor:
        return torch.mm(a, b, out=out)

    def by_library() -> Tensor:
        return _products.linear(a, b, out=out)

    # the better of the two is the machine's rate, whichever the rules take
    product = min(by_mkl, by_library, key=lambda one: min(cpu(one, 1) for _ in range(2)))
    n_calls = [max(1, round(SECONDS / max(cpu(step, 3), 1e-6))) for step in steps]
    seconds: list[list[float]] = [[] for _ in steps]
    rates: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for k, step in enumerate(steps):
            rates[k].append(2 * N_PRODUCT**3 / cpu(product, 1))
            seconds[k].append(cpu(step, n_calls[k]))
    return seconds, rates


def _row(
    name: str,
    case: BenchmarkCase,
    form: str,
    flop: int,
    seconds: Sequence[float],
    rates: Sequence[float],
) -> Row:
    reached = [flop / s for s in seconds]
    fractions = [r / rate for r, rate in zip(reached, rates, strict=True)]
    median = statistics.median
    return Row(
        rule=name,
        label=case.label,
        batch_size=case.batch_size,
        form=form,
        milliseconds=1e3 * median(seconds),
        useful_mflop=flop / 1e6,
        gflops=median(reached) / 1e9,
        machine_gflops=median(rates) / 1e9,
        fraction=median(fractions),
    )
