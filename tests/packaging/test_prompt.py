"""`import bioplaus` at a prompt: short names that hide nothing, what tab shows, and what is printed
of a rule, a task and a history.
"""

import importlib
import subprocess
import sys

import pytest
import torch

import bioplaus
from bioplaus import rules
from bioplaus.tasks import captions, images, linedraw


def test_the_short_names_are_the_functions_themselves():
    from bioplaus import train

    assert bioplaus.load is images.load
    assert bioplaus.make is rules.make
    assert bioplaus.fit is train.fit


@pytest.mark.parametrize("name", ["", ".device", ".metrics", ".results", ".rules", ".train"])
def test_tab_shows_what_is_public_and_all_of_it_is_there(name):
    module = importlib.import_module(f"bioplaus{name}")
    shown = dir(module)
    assert shown == sorted(module.__all__)
    assert all(hasattr(module, each) for each in shown)
    assert not [each for each in shown if each.startswith("_") and each != "__version__"]


def test_tab_shows_the_tasks_before_they_are_imported():
    code = (
        "import bioplaus; shown = dir(bioplaus.tasks)\n"
        "print(bioplaus.tasks.images.load('synthetic', n_train=50, n_test=20))\n"
        "print([name for name in shown if not hasattr(bioplaus.tasks, name)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    task, missing = done.stdout.splitlines()
    assert task == (
        "<task synthetic: train 50, test 20; 64 inputs, 10 classes; preprocessing unit>"
    )
    assert missing == "[]", done.stderr


def test_a_bare_import_reads_neither_torch_nor_what_runs():
    code = (
        "import sys, bioplaus\n"
        "print(sorted({'torch', 'matplotlib', 'pandas', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_rule_prints_its_key_widths_parameters_dtype_and_device():
    rule = bioplaus.make("ep", {"n_units": [64, 20, 10]}, dtype=torch.float64)
    assert (
        repr(rule) == f"<rule ep 64-20-10: {64 * 20 + 20 * 10 + 30:,} parameters, float64 on cpu>"
    )


@pytest.mark.parametrize("name", rules.names())
def test_every_rule_prints_one_line_that_starts_with_its_key(name):
    text = repr(bioplaus.make(name, *rules.example(name)))
    assert text.startswith(f"<rule {name}") and "parameters" in text and "\n" not in text


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (
            lambda: linedraw.load(n_train=60, n_test=20, validation=0.25),
            "<task linedraw: train 45, validation 15, test 20; 1 inputs, 2 outputs; 10 time steps>",
        ),
        (
            lambda: captions.load(n_train=9, n_val=6),
            "<task scenes: train ",
        ),
    ],
    ids=["drawings", "captions"],
)
def test_a_task_prints_its_data_set_and_sizes(task, text):
    assert repr(task()).startswith(text)


def test_a_history_prints_how_far_it_came_and_the_last_accuracies():
    task = bioplaus.load("synthetic", n_train=50, n_test=20)
    rule = bioplaus.make("bp", {"n_units": [64, 20, 10]}, task.spec)
    history = bioplaus.fit(rule, task, n_epochs=2, batch_size=10, progress=False)
    last = history.epochs[-1]
    assert repr(history) == (
        f"<History: 2 epochs; last evaluation: loss {last['loss']:.4f}, train_accuracy"
        f" {last['train_accuracy']:.4f}, test_accuracy {last['test_accuracy']:.4f}>"
    )
