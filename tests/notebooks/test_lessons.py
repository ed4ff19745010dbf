"""Every lesson has its parts, runs without widgets, and its solutions pass its own checks."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks" / "lessons").glob("0[1-8]_*.ipynb"))
GUIDES = [
    ROOT / "notebooks" / "lessons" / f"{name}.ipynb"
    for name in ("09_add_a_rule", "10_compare_rules")
]
PARTS = (
    "you will be able to explain",
    "**You need**",
    "## The idea",
    "## The equations",
    "## The knob",
    "## Exercises",
    "## What the papers do not say",
    "## Where to go next",
)
SMALL = {
    "n_epochs": 2,
    "n_train": 400,
    "n_seeds": 1,
}  # in place of a lesson's parameters, to save time

each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
each_guide = pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
each_notebook = pytest.mark.parametrize("path", LESSONS + GUIDES, ids=lambda path: path.stem)


def cells(path: Path) -> list[tuple[str, list[str], str]]:
    """(type, tags, text) of every cell."""
    return [
        (cell["cell_type"], cell["metadata"].get("tags", []), "".join(cell["source"]))
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    ]


def solutions(path: Path) -> list[str]:
    """The code that is folded away, in order."""
    text = "\n".join(source for kind, _, source in cells(path) if kind == "markdown")
    folded = re.findall(r"<details>.*?</details>", text, flags=re.DOTALL)
    return [
        code
        for part in folded
        for code in re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)
    ]


def runner(path: Path, space: dict[str, Any]) -> Callable[[str], None]:
    """What executes the code of a cell in `space`, without a window."""
    matplotlib.use("Agg")

    def run(source: str) -> None:
        exec(compile(source, path.name, "exec"), space)
        plt.close("all")

    return run


def test_there_are_eight_lessons() -> None:
    assert [path.name[:2] for path in LESSONS] == [f"{n:02}" for n in range(1, 9)]


@each_lesson
def test_a_lesson_has_all_parts_in_order(path: Path) -> None:
    text = "\n".join(source for kind, _, source in cells(path) if kind == "markdown")
    where = [text.find(part) for part in PARTS]
    assert -1 not in where
    assert where == sorted(where)
    first = text[: text.index("**You need**")]
    assert len(re.findall(r"^\* ", first, flags=re.MULTILINE)) == 3, "three things to explain"
    assert "**Time**" in text and "$$" in text


@each_notebook
def test_the_first_code_cell_holds_typed_literals(path: Path) -> None:
    _, tags, source = next(cell for cell in cells(path) if cell[0] == "code")
    assert tags == ["parameters"]
    for line in source.splitlines():
        assert re.match(r"\w+: (int|float|str|bool) = [\w.\"-]+(  #.*)?$", line), line


@each_notebook
def test_code_cells_are_short(path: Path) -> None:
    assert max(len(source.splitlines()) for kind, _, source in cells(path) if kind == "code") <= 32


@each_notebook
def test_links_lead_to_files(path: Path) -> None:
    text = "\n".join(source for kind, _, source in cells(path) if kind == "markdown")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), link


@each_lesson
def test_each_exercise_has_a_folded_solution(path: Path) -> None:
    n_exercises = sum("exercise" in tags for _, tags, _ in cells(path))
    assert 2 <= n_exercises <= 3
    assert len(solutions(path)) == n_exercises


@each_lesson
def test_a_lesson_runs_without_widgets_and_its_solutions_are_right(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run: each stub is reported kindly, then its solution, in its place, is right."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    answers = iter(solutions(path))
    space: dict[str, Any] = {}
    run = runner(path, space)
    is_exercise = False
    for kind, tags, source in cells(path):
        if kind != "code":
            continue
        run(source)
        if "parameters" in tags:
            space.update({name: value for name, value in SMALL.items() if name in space})
        if is_exercise:  # this cell checks the one before
            assert "is not written yet" in capsys.readouterr().out
            run(next(answers))
            run(source)
            assert "Right: " in capsys.readouterr().out
        is_exercise = "exercise" in tags
        if "lessons.knob(" in source:
            assert "ipywidgets" in capsys.readouterr().out
    assert next(answers, None) is None


@each_guide
def test_a_guide_runs_to_its_end(path: Path) -> None:
    space: dict[str, Any] = {}
    run = runner(path, space)
    for kind, tags, source in cells(path):
        if kind == "code":
            run(source)
        if "parameters" in tags:
            space.update({name: value for name, value in SMALL.items() if name in space})
