"""The benchmark: rows that add up, and cases for the rules that state a size."""

import json

import pytest
import torch

from bioplaus import device, rules
from bioplaus.errors import BioplausError
from bioplaus.experiments import benchmark


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
    row = benchmark._row("x", case, "plain", 10**6, [1e-3, 2e-3, 4e-3], [1e9, 2e9, 1e9])
    assert row.milliseconds == 2.0 and row.gflops == 0.5 and row.machine_gflops == 1.0
    assert row.fraction == 0.25  # of 1, 0.25, 0.25


def test_cases_that_are_listed_fit_a_kind_of_task():
    listed = {name: getattr(rules.get(name), "BENCHMARK", ()) for name in rules.names()}
    assert {"bp", "fa", "ep", "csm", "pc", "pc_nudge", "corinfomax", "corinfomax_sparse"} <= {
        k for k, v in listed.items() if v
    }
    for name, cases in listed.items():
        for case in cases:
            rule, config = rules.get(name).Rule, rules.config(name, case.values)
            spec = rule.example_spec(config, case.n_steps)
            assert len(rule.example_batch(spec, 2, device.generator(0, "x"))[0]) == 2


def test_a_rule_that_lists_no_case_is_timed_at_its_default_parameters(quick, monkeypatch):
    monkeypatch.delattr(rules.get("bp"), "BENCHMARK")
    monkeypatch.setattr(rules, "names", lambda: ["bp"])
    (row,) = benchmark.run(rounds=1)
    default = rules.make("bp")
    assert (row.rule, row.label) == ("bp", "default parameters")
    assert row.useful_mflop == default.useful_flops(row.batch_size) / 1e6


def test_the_plain_form_is_timed_beside_the_fast_one_where_asked_for(quick):
    rows = benchmark.run(["ep", "bp"], rounds=1, plain=True)
    assert [(row.rule, row.form) for row in rows] == [
        ("ep", "fast"),
        ("ep", "plain"),
        ("bp", "plain"),
    ]
    assert rows[0].useful_mflop == rows[1].useful_mflop
    assert [row.form for row in benchmark.run(["ep"], rounds=1)] == ["fast"]


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
    assert lines[0].split()[:4] == ["rule", "case", "form", "batch"] and len(lines) == 4
    assert f"{rows[1].milliseconds:.3f}" in lines[2]


def test_it_measures_on_one_thread_and_puts_the_threads_back(quick):
    torch.set_num_threads(2)
    benchmark.run(["bp"], rounds=1)
    assert torch.get_num_threads() == 2


def test_a_batch_has_the_form_that_the_rule_learns_from():
    def shapes(name, values, n_steps=None):
        rule = rules.get(name).Rule
        spec = rule.example_spec(rules.config(name, values), n_steps)
        batch = rule.example_batch(spec, 2, device.generator(0, "x"), torch.float64)
        assert batch[0].dtype == torch.float64 and 0 <= batch[0].min() <= batch[0].max() <= 1
        return [tuple(part.shape) for part in batch]

    assert shapes("bp", {"n_units": [5, 4, 3]}) == [(2, 5), (2,)]
    assert shapes("bptt", {"n_units": [5, 4, 3], "loss": "xent"}, 4) == [(2, 4, 5), (2,)]
    assert shapes("bptt", {"n_units": [5, 4, 3], "loss": "mse"}, 4) == [(2, 4, 5), (2, 4, 3)]
    assert shapes("competing_hidden", {"n_units": [5, 4]}) == [(2, 5)]
    words = {"n_units": [5, 4, 4, 3], "n_truncation": 2}
    assert shapes("caption_bptt", words, 4) == [(2, 5), (2, 4)]
    assert shapes("hemispheric_bp", rules.example("hemispheric_bp")[0]) == [(2, 1, 8, 8), (2, 2)]


def test_a_rule_without_widths_must_say_what_it_learns():
    class Rule(rules.LearningRule):
        pass

    with pytest.raises(BioplausError, match="must override example_spec"):
        Rule.example_spec(rules.config("hemispheric_bp", {}))
