"""The benchmark: rows that add up, and cases for the rules that state a size."""

import json

import pytest
import torch

from bioplaus import device, rules
from bioplaus.errors import BioplausError
from bioplaus.experiments import benchmark
from bioplaus.tasks import Spec


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(benchmark, "N_PRODUCT", 64)
    monkeypatch.setattr(benchmark, "SECONDS", 0.001)


def test_a_row_adds_up(quick):
    (row,) = benchmark.run(["bp"], rounds=3)
    rule = rules.make("bp")
    assert (row.rule, row.batch_size, row.useful_mflop) == ("bp", 20, rule.useful_flops(20) / 1e6)
    # odd rounds: one median
    assert row.gflops == pytest.approx(row.useful_mflop / row.milliseconds, rel=1e-9)
    assert row.milliseconds > 0 and row.machine_gflops > 0 and row.fraction > 0


def test_the_medians_are_of_rounds_and_the_fraction_is_taken_within_each_round():
    case = rules.BenchmarkCase(label="made up")
    row = benchmark._row("x", case, 10**6, [1e-3, 2e-3, 4e-3], [1e9, 2e9, 1e9])
    assert row.milliseconds == 2.0 and row.gflops == 0.5 and row.machine_gflops == 1.0
    assert row.fraction == 0.25  # of 1, 0.25, 0.25


def test_cases_that_are_listed_fit_a_kind_of_task():
    listed = {name: getattr(rules.get(name), "BENCHMARK", ()) for name in rules.names()}
    assert {"bp", "fa", "ep", "csm", "pc", "pc_nudge", "corinfomax", "corinfomax_sparse"} <= {
        k for k, v in listed.items() if v
    }
    for name, cases in listed.items():
        for case in cases:
            spec = benchmark.example_spec(
                rules.get(name).Rule, rules.config(name, case.values), case.n_steps
            )
            assert len(benchmark.example_batch(spec, 2, device.generator(0, "x"))[0]) == 2


def test_a_rule_that_lists_no_case_is_timed_at_its_default_parameters(quick, monkeypatch):
    monkeypatch.delattr(rules.get("bp"), "BENCHMARK")
    monkeypatch.setattr(rules, "names", lambda: ["bp"])
    (row,) = benchmark.run(rounds=1)
    default = rules.make(
        "bp", {}, benchmark.example_spec(rules.get("bp").Rule, rules.config("bp", {}))
    )
    assert (row.rule, row.label) == ("bp", "default parameters")
    assert row.useful_mflop == default.useful_flops(row.batch_size) / 1e6


def test_an_unknown_rule_is_refused():
    with pytest.raises(BioplausError, match="unknown rule"):
        benchmark.run(["no_such_rule"], rounds=1)


def test_text_and_json_say_the_same(quick):
    rows = benchmark.run(["bp", "fa"], rounds=1)
    found = json.loads(benchmark.render(rows, as_json=True))
    assert [row["rule"] for row in found["rows"]] == ["bp", "fa"] and found["machine"][
        "threads"
    ] == 1
    lines = benchmark.render(rows).splitlines()
    assert lines[0].split()[:4] == ["rule", "case", "batch", "ms/step"] and len(lines) == 4
    assert f"{rows[1].milliseconds:.3f}" in lines[2]


def test_it_measures_on_one_thread_and_puts_the_threads_back(quick):
    torch.set_num_threads(2)
    benchmark.run(["bp"], rounds=1)
    assert torch.get_num_threads() == 2


def test_a_batch_has_the_form_its_kind_of_task_asks_for():
    stream = device.generator(0, "x")

    def shapes(kind, n_steps=None):
        spec = Spec(name="x", kind=kind, n_in=5, n_out=3, n_steps=n_steps)
        return [tuple(part.shape) for part in benchmark.example_batch(spec, 2, stream)]

    assert shapes("classification") == [(2, 5), (2,)]
    assert shapes("classification", 4) == [(2, 4, 5), (2,)]
    assert shapes("features") == [(2, 5)]
    assert shapes("drawing", 4) == [(2, 4, 5), (2, 4, 3)]
    assert shapes("captions", 4) == [(2, 5), (2, 4)]
    with pytest.raises(BioplausError, match="unknown kind of task 'dreams'"):
        shapes("dreams")
