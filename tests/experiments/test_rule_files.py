"""Files of rules: mistakes in them are one sentence with the place, and what runs is what is
recorded.
"""

import copy
import importlib
import itertools
import json
import os
import sys
from pathlib import Path

import pytest
from toy import execute_run

from bioplaus import _sources, results, rules, train
from bioplaus.errors import BioplausError
from bioplaus.experiments import benchmark, manifest, sweep

RULE = """
import dataclasses
from bioplaus.config import Config as Base
from bioplaus.rules import LearningRule

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Base):
    lr: float = 0.1

class Rule(LearningRule):
    def fit_batch(self, x, y, *, epoch, step):
        assert epoch < 0
"""

FAST = """
from bioplaus.rules import dfa

class Rule(dfa.Rule):
    def predict(self, x):
        return x
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the file of rule `dfa`, or of its fast form, in a folder of rules of its own beside the
    package's.
    """
    folder, times = tmp_path / "bioplaus" / "rules", itertools.count(1)
    (folder / "_fast").mkdir(parents=True)
    monkeypatch.setattr(rules, "__path__", [*rules.__path__, str(folder)])
    monkeypatch.setattr(rules._fast, "__path__", [*rules._fast.__path__, str(folder / "_fast")])
    monkeypatch.setattr(_sources, "__file__", str(folder.parent / "_sources.py"))
    monkeypatch.setattr(rules, "_imported", {})

    def write(text, name="dfa.py"):
        (folder / name).write_text(text)
        # a clock that is coarse must not hide a change
        os.utime(folder / name, (next(times),) * 2)
        importlib.invalidate_caches()

    yield write
    for parent in (rules, rules._fast):
        sys.modules.pop(f"{parent.__name__}.dfa", None)
        vars(parent).pop("dfa", None)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "assert epoch < 0",
            "assert epoch <",
            "rule dfa (dfa.py, line 12): SyntaxError: invalid syntax",
        ),
        (
            "import dataclasses",
            "import torchh",
            "rule dfa (dfa.py, line 2): ModuleNotFoundError: No module named",
        ),
        (
            "LearningRule\n",
            "LearningRull\n",
            "rule dfa (dfa.py, line 4): ImportError: cannot import name",
        ),
        (
            "frozen=True, ",
            "",
            "rule dfa (dfa.py, line 6): TypeError: cannot inherit non-frozen dataclass",
        ),
        (
            "@dataclasses",
            "# @dataclasses",
            "rule dfa (dfa.py): its Config must be a frozen dataclass",
        ),
        (
            "class Config(Base)",
            "class Config",
            "rule dfa (dfa.py): it must define a class Config",
        ),
        ("class Config(", "class Settings(", "rule dfa (dfa.py): it must define a class Config"),
        ("class Rule(", "class Dfa(", "rule dfa (dfa.py): it must define a class Rule"),
        ("class Rule(LearningRule)", "class Rule", "derived from bioplaus.rules.LearningRule"),
        ("import dataclasses", "raise SystemExit(3)", "rule dfa (dfa.py, line 2): SystemExit: 3"),
    ],
)
def test_a_mistake_in_a_rule_file_is_one_sentence_that_says_where(write, old, new, sentence):
    assert RULE.count(old) == 1
    write(RULE.replace(old, new))
    with pytest.raises(BioplausError) as caught:
        rules.get("dfa")
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert rules.get("bp").Rule  # the others are none the worse
    write(RULE)
    assert rules.get("dfa").Config().lr == 0.1  # mended, it is there


def test_a_rule_that_is_broken_is_left_out_of_a_benchmark_of_all_and_an_error_where_it_was_named(
    write, monkeypatch
):
    write("def (")
    monkeypatch.setattr(benchmark, "N_PRODUCT", 64)
    monkeypatch.setattr(benchmark, "SECONDS", 0.001)
    monkeypatch.setattr(rules, "names", lambda: ["bp", "dfa"])
    said = []
    assert {row.rule for row in benchmark.run(rounds=1, report=said.append)} == {"bp"}
    assert len(said) == 1 and "dfa.py, line 1" in said[0]
    with pytest.raises(BioplausError, match="dfa.py, line 1"):
        benchmark.run(["dfa"], rounds=1)


def test_the_code_of_a_rule_is_that_which_was_imported_whatever_its_file_says_now(write):
    write(RULE)
    rule, before = rules.get("dfa").Rule, _sources.code("dfa")
    assert rules.code(rule) == before
    rules.check_unedited("dfa")
    write(RULE + "# edited")
    rules.get("dfa")
    assert rules.code(rule) == before != _sources.code("dfa")
    with pytest.raises(
        BioplausError, match="dfa.py was edited since rule dfa was loaded from it; run the command"
    ):
        rules.check_unedited("dfa")
    # as autoreload does in a notebook
    reloaded = importlib.reload(sys.modules["bioplaus.rules.dfa"])
    rules.check_unedited("dfa")
    assert rules.code(rules.get("dfa").Rule) == rules.code(reloaded.Rule) == _sources.code("dfa")


def _use_rule(project, source):
    """Let the toy notebook run `source` with rule dfa."""
    path = project / "Simulations" / "act.ipynb"
    content = json.loads(path.read_text())
    body = content["cells"][-1]
    content["cells"].insert(
        -1, {**body, "id": "use", "source": f"from bioplaus import rules\n{source}"}
    )
    path.write_text(json.dumps(content))
    return manifest.runs("paper", only="plain", overrides={"rule": "dfa"})


def test_a_run_in_this_process_never_records_code_that_did_not_run(project, write):
    write(RULE)
    written = _sources.code("dfa")
    edit = (
        "file = rules.get(rule).__file__\nopen(file, 'a').write('# edited')\nimport os;"
        " os.utime(file, (99, 99))"
    )
    runs = _use_rule(project, edit)
    summary = sweep.execute(runs, inline=True, report=str)
    assert summary.done == [runs[0].id] and results.read_run(runs[0].folder)["code"] == written
    assert summary.failed == {
        runs[1].id: "dfa.py was edited since rule dfa was loaded from it; run the command again."
    }


@pytest.mark.parametrize("kernel", [None, "python3"])
def test_a_rule_that_fails_is_told_with_its_place_and_where_the_traceback_is(
    project, write, kernel
):
    write(RULE)
    extend = f"rules.__path__.append({str(project / 'bioplaus' / 'rules')!r})\n"
    run, _ = _use_rule(project, f"{extend}rules.make(rule).fit_batch(None, None, epoch=0, step=0)")
    outcome = execute_run(run, kernel, 0)
    log = run.folder / "run.log"
    assert outcome.status == "failed"
    assert outcome.message.endswith(
        f"AssertionError (dfa.py, line 12, in fit_batch; traceback in {log.relative_to(project)})"
    )
    assert "dfa.py" in log.read_text() and "AssertionError" in log.read_text()


def test_training_notes_the_code_that_it_runs(write):
    write(RULE)
    learner = rules.make("dfa")
    written = _sources.code("dfa")
    write(RULE + "# edited")
    spec = type("Spec", (), {"name": "none"})
    task = type("Task", (), {"fingerprint": "", "spec": spec})
    assert train._identity(learner, task, 1, 1, 0)["code"] == written


def test_a_rule_runs_its_fast_form_where_there_is_one_and_its_plain_form_where_asked_for(write):
    write(RULE)
    assert type(rules.make("dfa")) is rules.get("dfa").Rule and not rules.has_fast("dfa")
    write(FAST, "_fast/dfa.py")
    fast, plain = rules.make("dfa"), rules.make("dfa", plain=True)
    assert type(plain) is rules.get("dfa").Rule
    assert type(fast) is not type(plain) and isinstance(fast, type(plain))
    assert type(fast).key() == type(plain).key() == "dfa" and "dfa" in rules.names()
    assert rules.get("dfa").__name__ == "bioplaus.rules.dfa"
    assert type(copy.deepcopy(fast)) is type(fast)


def test_the_code_of_a_rule_covers_its_fast_form_whichever_form_runs(write):
    write(RULE)
    alone = _sources.code("dfa")
    write(FAST, "_fast/dfa.py")
    both = _sources.code("dfa")
    fast, plain = type(rules.make("dfa")), type(rules.make("dfa", plain=True))
    assert alone != both == rules.code(fast) == rules.code(plain)
    assert _sources.code(Path(sys.modules[fast.__module__].__file__)) == both
    write(FAST + "# edited", "_fast/dfa.py")
    assert rules.code(fast) == rules.code(plain) == both != _sources.code("dfa")
    with pytest.raises(BioplausError, match="dfa.py was edited since rule dfa was loaded"):
        rules.check_unedited("dfa")


def test_a_fast_form_follows_its_plain_form_when_that_is_imported_again(write):
    write(RULE)
    write(FAST, "_fast/dfa.py")
    rules.make("dfa")
    write(RULE.replace("lr: float = 0.1", "lr: float = 0.2"))
    importlib.reload(sys.modules["bioplaus.rules.dfa"])
    fast = rules.make("dfa")
    assert isinstance(fast, rules.get("dfa").Rule) and fast.config.lr == 0.2
    assert rules.code(type(fast)) == _sources.code("dfa")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("(self, x)", "(self, x", "fast form of rule dfa (dfa.py, line 5): SyntaxError: '(' was"),
        ("(dfa.Rule)", "", "rule dfa (_fast/dfa.py): it must define a class Rule derived from"),
        ("class Rule(", "class Fast(", "rule dfa (_fast/dfa.py): it must define a class Rule"),
    ],
)
def test_a_mistake_in_a_fast_form_is_one_sentence_that_says_where(write, old, new, sentence):
    write(RULE)
    write(FAST.replace(old, new), "_fast/dfa.py")
    with pytest.raises(BioplausError) as caught:
        rules.make("dfa")
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    write(FAST, "_fast/dfa.py")
    assert type(rules.make("dfa")).__module__ == "bioplaus.rules._fast.dfa"  # mended, it is there
