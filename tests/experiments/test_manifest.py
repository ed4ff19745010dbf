"""Manifests: expansion, merge order, stable ids, and one sentence for every kind of mistake."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bioplaus import errors
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest, simulation, status, sweep
from bioplaus.experiments.manifest import reading


def test_grid_times_seeds_in_manifest_order_with_the_last_name_fastest(project):
    runs = manifest.runs("paper")
    assert [(r.entry, r.seed) for r in runs[:4]] == [
        ("plain", 0),
        ("plain", 10),
        ("graded-1", 0),
        ("graded-1", 10),
    ]
    points = [
        (r.parameters["value"], r.parameters["config"]["depth"])
        for r in runs
        if r.seed == 0 and r.entry != "plain"
    ]
    assert points == [(1.0, 1), (1.0, 2), (3.0, 1), (3.0, 2)]


def grid(project, **entry):
    """The runs of seed 0 of one entry with a grid."""
    folder = project / "Simulations" / "manifests"
    shown = json.dumps(
        {
            "experiments": {
                "e": {"title": "t", "simulation": "probe", "seeds": [0], "entries": {"g": entry}}
            }
        }
    )
    (folder / "gridded.yaml").write_text('{"paper": "gridded", "title": "t", ' + shown[1:])
    return manifest.runs("paper", ["gridded"])


def test_a_grid_over_a_table_moves_several_parameters_together_and_merges_with_other_names(project):
    tables = [{"a": 1, "b": [2]}, {"a": 3, "b": [4]}]
    runs = grid(project, grid={"config.c": [5, 6], "config": tables})
    assert [run.parameters["config"] for run in runs] == [
        {"c": c, **table} for c in (5, 6) for table in tables
    ]


def test_lists_along_a_grid_give_each_point_its_own_published_rows_and_label(project):
    published = {"algorithm": "A", "setting": [4, 7]}
    runs = grid(project, label=["x", "y", "z"], grid={"value": [1, 2, 3]}, published=published)
    assert [run.published for run in runs] == [
        {"algorithm": "A", "setting": 4},
        {"algorithm": "A", "setting": 7},
        None,
    ]
    assert [run.label for run in runs] == ["x", "y", "z"]


def test_lists_that_do_not_fit_the_grid_are_refused(project):
    with pytest.raises(
        BioplausError, match="e/g, published/setting has 3 values, but must have 1 to 2"
    ):
        grid(project, grid={"value": [1, 2]}, published={"setting": [1, 2, 3]})
    with pytest.raises(BioplausError, match="label has 1 names, but the grid has 2 points"):
        grid(project, grid={"value": [1, 2]}, label=["x"])
    with pytest.raises(BioplausError, match="the number of points of the grid"):
        grid(project, published={"setting": [1]})


def test_a_preset_replaces_what_it_names_and_an_entry_can_leave_one(project):
    assert {r.parameters["value"] for r in manifest.runs("quick")} == {2.0}
    assert [(r.entry, r.seed) for r in manifest.runs("smoke")] == [("plain", 0)]
    assert manifest.runs("desk") == []  # an experiment runs only at presets it names


def test_overrides_that_are_too_deep_are_refused_in_a_sentence(project):
    deep = 1
    for _ in range(500):
        deep = {"a": deep}
    for overrides in ({"config": deep}, {"config" + ".a" * 500: 1}, {"config" + ".a" * 5000: 1}):
        with pytest.raises(BioplausError, match="more than 100 (lists or tables|parts)"):
            manifest.runs("smoke", overrides=overrides)


def test_overrides_win_and_nested_names_are_merged(project):
    runs = manifest.runs(
        "paper", only="graded-2", overrides={"value": 9.0, "config.width": 4}, seeds=[7]
    )
    assert [(r.seed, r.parameters["value"], r.parameters["config"]) for r in runs] == [
        (7, 9.0, {"depth": 2, "width": 4})
    ]


def test_where_a_run_is_executed_changes_its_inputs_and_neither_its_id_nor_its_parameters(project):
    plain, moved = (
        manifest.runs("paper"),
        manifest.runs("paper", execution={"device": "cuda", "n_threads": 2}),
    )
    assert [run.key for run in plain] == [run.key for run in moved] and plain[
        0
    ].parameters == moved[0].parameters
    assert plain[0].inputs == plain[0].parameters
    assert moved[0].inputs == {**plain[0].parameters, "device": "cuda", "n_threads": 2}


def test_a_run_that_two_entries_share_is_executed_once_and_done_for_both(project, rewrite):
    rewrite("{label: Plain}", "{label: Plain}\n      twin: {label: Twin}")
    runs, said = manifest.runs("smoke"), []
    assert [run.entry for run in runs] == ["plain", "twin"] and runs[0].id == runs[1].id
    assert sweep.execute(runs, inline=True, report=said.append).done == [runs[0].id]
    assert len(said) == 1 and [row["status"] for row in status.rows(runs)] == ["done", "done"]
    again = sweep.execute(runs, inline=True, report=said.append)
    assert again.skipped == [runs[0].id] and not again.done


def test_a_seed_given_twice_is_one_run(project, rewrite):
    rewrite("seeds: [0, 10]", "seeds: [0, 10, 0]")
    assert [run.seed for run in manifest.runs("paper", only="plain")] == [0, 10]
    assert [run.seed for run in manifest.runs("paper", only="plain", seeds=[1, 1])] == [1]


def test_seeds_added_after_looking_are_counted_and_are_no_part_of_an_id(project, rewrite):
    before = {run.key for run in manifest.runs("smoke")}
    rewrite("{label: Plain}", "{label: Plain, presets: {smoke: {n_seeds_added: 1}}}")
    runs = manifest.runs("smoke")
    assert {run.key for run in runs} == before
    assert {run.entry: run.n_seeds_added for run in runs}["plain"] == 1
    assert {run.n_seeds_added for run in manifest.runs("paper")} == {0}


def test_an_override_in_parts_is_merged_and_one_that_contradicts_itself_is_refused(project):
    run, *_ = manifest.runs("paper", overrides={"config": {"a": 1, "b": 1}, "config.b": 2})
    assert run.parameters["config"] == {"a": 1, "b": 2}
    for overrides in ({"value": 1, "value.x": 3}, {"value.x": 3, "value": 1}):
        with pytest.raises(
            BioplausError, match="gives value the value 1, and sets value.x inside it"
        ):
            manifest.runs("paper", overrides=overrides)


def test_1e_4_in_a_manifest_is_a_number(project):
    assert manifest.runs("paper")[0].parameters["rate"] == 1e-4


def test_an_id_depends_on_parameters_alone(project, rewrite):
    before = {run.key: run.id for run in manifest.runs("paper")}
    rewrite("label: Plain", "label: Another label, source: elsewhere")
    assert {run.key: run.id for run in manifest.runs("paper")} == before
    run = manifest.runs("paper")[0]
    assert dataclasses.replace(run, parameters={**run.parameters, "value": 5.0}).id != run.id
    shuffled = dict(reversed(run.parameters.items()))
    assert dataclasses.replace(run, parameters=shuffled).id == run.id
    assert run.id.startswith("toy-act-s0-")


def test_ids_are_the_same_in_another_process_with_another_hash_seed(project):
    code = (
        "from bioplaus.experiments import manifest\n"
        "print([run.id for run in manifest.runs('paper')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONHASHSEED": "99"})  # fmt: skip
    assert done.stdout.strip() == str([run.id for run in manifest.runs("paper")])


@pytest.mark.parametrize(
    "pattern", ["plain", "first/plain", "toy/first/plain", "pl*", "toy-act-s*"]
)
def test_only_takes_names_paths_and_globs(project, pattern):
    assert all("plain" in run.key or "*" in pattern for run in manifest.runs("paper", only=pattern))


def test_only_takes_a_run_id(project):
    wanted = manifest.runs("paper")[3]
    assert manifest.runs("paper", only=wanted.id) == [wanted]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("title: Two entries", "titel: Two entries", "unknown key 'titel'; did you mean 'title'"),
        ("{label: Plain}", "{lable: Plain}", "unknown key 'lable'; did you mean 'label'"),
        ("{value: 2.0}}", "{value: 2.0}, seedz: [1]}", "unknown key 'seedz'; did you mean 'seeds'"),
        ("quick: {par", "quik: {par", "unknown preset 'quik'; did you mean 'quick'"),
        ("seeds: [0, 10]", "seeds: [0, ten]", "seeds"),
        ("paper: toy", "paper: toys", "file name says toy"),
        ("title: A toy paper", "title: [unclosed", "not valid YAML"),
        (
            "title: A toy paper",
            "title: A toy paper\ntitle: Again",
            "toy.yaml, line 4: the key title is given twice.",
        ),
        ("rate: 1e-4", "rate: 2020-13-45", "toy.yaml is not valid YAML: month must be in 1..12"),
        (
            "title: A toy paper",
            "title: !!python/object/apply:os.system ['touch canary']",
            "not valid YAML",
        ),
        ("label: Plain", "label: 3", "label"),
        (
            "plain:",
            "PLAIN:",
            "first/entries/PLAIN: a name is of small letters, digits, _ and -, a letter first",
        ),
        ("label: Plain", "label: [Plain]", "first/plain: a list of labels needs a grid"),
        ("seeds: [0, 10]", "seeds: [0, -1]", "experiments/first/seeds/1"),
        ("seeds: [0, 10]", "seeds: []", "experiments/first/seeds"),
        ("value: [1.0, 3.0]", "value: []", "grid/value"),
        (
            "{value: 2.0}",
            "{seed: 3}",
            "seed is not given as a parameter; give seeds in the manifest, or with --seeds",
        ),
        (
            "{rule: toy, rate: 1e-4}",
            "{folder: here}",
            "folder is not given as a parameter; choose it with --results",
        ),
        (
            "value: [1.0, 3.0]",
            "device: [cpu, cuda]",
            "first/graded: device is not given as a parameter",
        ),
        (
            "{label: Plain}",
            "{needs: {n_threads: graded-1}}",
            "first/plain: n_threads is not given as a parameter",
        ),
        ("plain:", "graded-3:", "entry graded-3 has the name of a grid point of entry graded"),
        (
            "rate: 1e-4",
            "rate: 2020-01-01",
            "experiments/first/parameters/rate is 2020-01-01 (date), but must be",
        ),
        ("rate: 1e-4", "rate: !!binary aGVsbG8=", "parameters/rate is b'hello' (bytes)"),
        ("rate: 1e-4", "steps: [1, !!set {2}]", "parameters/steps/1 is {2} (set)"),
        (
            "rate: 1e-4",
            "config: {1: 2}",
            "parameters/config: the name 1 is not a text; put it in quotes",
        ),
        ("rate: 1e-4", "config: &loop {inside: *loop}", "it is inside itself, through the alias"),
        ("rate: 1e-4", "config: &loop {<<: *loop}", "through the alias loop"),
        (
            "rate: 1e-4",
            f"config: {'{a: ' * 100}1{'}' * 100}",
            "it has more than 100 lists or tables inside one another",
        ),
        (
            "rate: 1e-4",
            "b0: &b0 {x: 1}, "
            + ", ".join(f"b{i}: &b{i} {{<<: [{f'*b{i - 1},' * 9}]}}" for i in range(1, 9)),
            "it has more than 100,000 values once its aliases are followed",
        ),
    ],
)
def test_a_mistake_in_a_manifest_is_one_sentence_naming_file_and_place(
    project, rewrite, monkeypatch, old, new, sentence
):
    monkeypatch.chdir(project)
    rewrite(old, new)
    with pytest.raises(BioplausError, match="toy.yaml") as caught:
        manifest.runs("paper")
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert not (project / "canary").exists()


def test_a_manifest_is_parsed_again_only_when_its_text_has_changed(project, rewrite, monkeypatch):
    def values():
        reading._read.cache_clear()  # as in another process
        return [run.parameters["value"] for run in manifest.runs("quick")]

    parsed, before = [], values()
    parse = reading.YAML.load
    monkeypatch.setattr(
        reading.YAML, "load", lambda yaml, text: parsed.append(text) or parse(yaml, text)
    )
    assert values() == before and parsed == []
    rewrite("value: 2.0", "value: 7.0")
    assert values() == values() != before and len(parsed) == 1


@pytest.mark.parametrize("content", ["{", '{"sha256": "0", "content": {"paper": "other"}}', "[]"])
def test_what_was_kept_of_a_manifest_and_is_damaged_or_older_does_not_count(project, content):
    runs = [run.id for run in manifest.runs("quick")]
    kept = project / "Simulations" / "manifests" / "__pycache__" / "toy.json"
    assert kept.exists()
    kept.write_text(content)
    reading._read.cache_clear()
    assert [run.id for run in manifest.runs("quick")] == runs


def test_a_bomb_of_aliases_stops_at_once(project):
    lines = ["paper: toy", "title: x", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (project / "Simulations" / "manifests" / "toy.yaml").write_text("\n".join(lines))
    with pytest.raises(BioplausError, match="aliases"):
        manifest.runs("paper")


def test_unknown_names_get_the_nearest_known_one(project):
    with pytest.raises(BioplausError, match="unknown preset 'quik'; did you mean 'quick'"):
        manifest.runs("quik")
    with pytest.raises(BioplausError, match="unknown paper 'toi'; did you mean 'toy'"):
        manifest.runs("paper", papers=["toi"])
    with pytest.raises(BioplausError, match="'frist'; did you mean 'first'"):
        manifest.runs("paper", only="frist")


def test_of_many_allowed_names_the_nearest_are_listed_and_the_others_counted():
    known = [f"{letter}{number}" for letter in "abc" for number in range(100, 110)]
    sentence = str(errors.unknown("entry", "c1O4", known))
    assert "did you mean 'c104'? Allowed: c104, " in sentence and sentence.endswith(
        ", and 10 more."
    )
    assert all(f"c{number}" in sentence for number in range(100, 110)) and len(sentence) < 200
    few = str(errors.unknown("entry", "c1O4", known[:20]))
    assert few.endswith(f"Allowed: {', '.join(known[:20])}.")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"valeu": 1.0}, "unknown parameter of act 'valeu'; did you mean 'value'"),
        ({"value": "1.0"}, "parameter of act 'value' is '1.0', but must be a number"),
        ({"value": True}, "must be a number"),
        ({"seed": 1.5}, "must be a whole number"),
        ({"steps": 3}, "must be a list"),
        ({"value": -1.0}, "value is -1.0, but must be at least 0"),
    ],
)
def test_parameters_are_checked_before_anything_runs_naming_manifest_and_entry(
    project, overrides, sentence
):
    run = manifest.runs("paper", only="plain")[0]
    with pytest.raises(BioplausError, match="toy.yaml, first/plain at preset paper") as caught:
        dataclasses.replace(run, parameters={**run.parameters, **overrides}).check()
    assert sentence in str(caught.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(min_size=1), value=st.none() | st.booleans() | st.text() | st.lists(st.integers())
)
def test_no_invented_parameter_name_or_ill_typed_value_gets_through(project, name, value):
    run = manifest.runs("paper", only="plain")[0]
    for bad in ({name: 1.0}, {"value": value}):
        if name in run.parameters or name in (
            "value",
            "steps",
            "dataset",
            "config",
            "folder",
            "mishap",
        ):
            continue
        with pytest.raises(BioplausError):
            dataclasses.replace(run, parameters={**run.parameters, **bad}).check()


def test_a_parameter_cell_must_hold_typed_literals(project):
    notebook = project / "Simulations" / "act.ipynb"
    content = json.loads(notebook.read_text())
    content["cells"][0]["source"] = "rule = 'toy'"
    notebook.write_text(json.dumps(content))
    with pytest.raises(BioplausError, match="name: type = literal"):
        simulation.load("act")


@pytest.mark.parametrize(
    "dataset", ["../../evil", "/etc/passwd", "a b\nc", "x" * 300, "CON", "ü.npz"]
)
def test_no_parameter_value_can_lead_a_run_folder_out_of_the_results(project, dataset):
    run = manifest.runs("paper", only="plain")[0]
    changed = dataclasses.replace(run, parameters={**run.parameters, "dataset": dataset})
    assert changed.folder.parent == run.experiment_folder and len(changed.id) < 120
    assert all(character.isalnum() or character in "_-" for character in changed.id)


def test_an_entry_that_names_no_rule_is_refused_unless_its_experiment_says_the_default(
    project, rewrite
):
    rewrite("{rule: toy, rate: 1e-4}", "{rate: 1e-4}")
    (run,) = manifest.runs("smoke")
    with pytest.raises(
        BioplausError,
        match="first/plain at preset smoke: it names no rule, but act would run.* toy;",
    ):
        run.check()
    rewrite("    simulation: act", "    simulation: act\n    rule: other")
    (said,) = manifest.runs("smoke")
    with pytest.raises(
        BioplausError, match="the experiment says rule: other, but act would run its default, toy"
    ):
        said.check()
    rewrite("rule: other", "rule: toy")
    (right,) = manifest.runs("smoke")
    right.check()
    assert (run.rule, right.rule) == (None, "toy") and run.id == said.id == right.id
    (given,) = manifest.runs("smoke", overrides={"rule": "other"})
    given.check()
    assert given.rule == "other"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_manifest_in_another_encoding_is_told_so(project, encoding):
    path = project / "Simulations" / "manifests" / "toy.yaml"
    path.write_bytes(path.read_text().replace("A toy", "Ä toy").encode(encoding))
    with pytest.raises(BioplausError, match="toy.yaml is not UTF-8 text"):
        manifest.load("toy")


def test_a_manifest_with_a_byte_order_mark_is_read(project):
    path = project / "Simulations" / "manifests" / "toy.yaml"
    path.write_bytes(path.read_text().encode("utf-8-sig"))
    assert manifest.load("toy").paper == "toy"
