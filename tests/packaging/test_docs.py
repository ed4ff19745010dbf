"""What the documentation is made from: every public name is on a page and says what it is, the
picture of the architecture is that of the imports, and commands that stand in pages exist.

The build itself is `make docs`: strict, so a link that leads nowhere stops it.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import typer

from bioplaus.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*/*.md"), *ROOT.glob("*.md")])
PAGES = [path for path in PAGES if path.parent.name != "api"]


def extension(name: str) -> ModuleType:
    """One of the files that `docs/conf.py` extends Sphinx with."""
    specification = importlib.util.spec_from_file_location(name, ROOT / f"docs/_ext/{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


api, architecture = extension("api"), extension("architecture")


def public(module: ModuleType) -> list[str]:
    """The names that autodoc puts on the page of a module."""
    if hasattr(module, "__all__"):
        return [*module.__all__]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def test_every_public_module_has_a_page_and_no_other():
    files = (ROOT / "bioplaus").rglob("*.py")
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in files]
    names = {".".join(p for p in each if p != "__init__") for each in parts}
    shown = {
        name for name in names if not any(part.startswith("_") for part in name.split(".")[1:])
    }
    assert set(api.modules()) == shown - {"bioplaus.experiments.nbval_plugin"}
    listed = re.findall(r"^bioplaus[\w.]*$", api.index(api.modules()), re.MULTILINE)
    assert sorted(listed) == api.modules()


@pytest.mark.parametrize("name", api.modules())
def test_every_public_name_says_what_it_is(name):
    module = importlib.import_module(name)
    silent = [
        each
        for each in public(module)
        for value in [getattr(module, each)]
        if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value)
    ]
    assert module.__doc__ and silent == []


def test_a_field_of_a_config_is_described_by_the_comment_beside_or_above_it():
    assert api.comment_of("bioplaus.rules.ep.Config.beta_nudge") == ""  # inherited: said there
    assert api.comment_of("bioplaus.rules.bp.Config.lr") == "step of Adam, dimensionless"
    assert api.comment_of("bioplaus.rules.bp.Config.loss").startswith("mse: mean over batch")
    assert api.comment_of("bioplaus.rules.bp.Config.no_such_field") == ""


def test_the_fields_of_every_rule_have_a_comment():
    from bioplaus import rules

    bare = []
    for name in rules.names():
        for owner in rules.get(name).Config.__mro__:
            if dataclasses.is_dataclass(owner) and owner.__name__ == "Config":
                path = f"{owner.__module__}.{owner.__qualname__}"
                own = [field for field in vars(owner).get("__annotations__", {})]
                bare += [f"{path}.{f}" for f in own if not api.comment_of(f"{path}.{f}")]
    assert sorted(set(bare)) == []


@pytest.mark.parametrize(
    ("plain", "rst"),
    [
        ("the sum of W_ * x", r"the sum of W\_ \* x"),
        ("`rules.make` gives |x|", r"`rules.make` gives \|x\|"),
        ("`a b` is code, `x_`s too", r"``a b`` is code, ``x_``\ s too"),
        ("----------", "----------"),
    ],
)
def test_text_of_a_docstring_is_no_markup(plain, rst):
    assert api.escape(plain) == rst


def test_indented_lines_of_a_docstring_are_kept_as_they_stand():
    lines = ["Learn by:", "", "    dW  =  a * b", "", "Then stop.", "", "Parameters", "----------"]
    lines += ["x : (n,)", "    of *all*", ""]
    api.to_rst(None, "function", "x", None, None, lines)
    assert lines[:5] == ["Learn by:", "", "::", "", "    dW  =  a * b"]
    assert lines[-2:] == [r"    of \*all\*", ""]


def test_every_import_runs_down_the_picture_and_every_part_is_in_it():
    counted = architecture.imports()
    assert architecture.upward(counted) == []
    assert architecture.upward({("tasks", "cli"): 1}) == [("tasks", "cli")]
    drawn = {name for names in architecture.LEVELS for name in names}
    rooms = {path.name for path in (ROOT / "bioplaus").glob("[!_.]*") if path.is_dir()}
    assert rooms <= drawn
    assert all(f">{name}<" in architecture.svg(counted) for name in drawn)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_on_a_page_exist(path):
    text = path.read_text(encoding="utf-8")
    targets = set(
        re.findall(
            r"^([a-z-]+):.*##",
            (ROOT / "Makefile").read_text(),
            re.MULTILINE,
        )
    )
    assert set(re.findall(r"(?:^|`)make ((?!it\b)[a-z][a-z-]+)", text, re.MULTILINE)) <= targets
    commands = typer.main.get_command(app).commands
    for command in re.findall(r"python -m bioplaus ([a-z][a-z-]*)", text):
        assert command in commands, command


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files_that_git_keeps(path):
    kept = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if not kept:
        pytest.skip("not in a clone")
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" in link or link.startswith("mailto:"):
            continue
        base = ROOT if link.startswith("/") else path.parent
        target = (base / link.lstrip("/")).resolve().relative_to(ROOT).as_posix()
        made = target.startswith("docs/api/")
        assert made or target in kept or any(each.startswith(f"{target}/") for each in kept), link


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("git@github.com:someone/bioplaus.git\n", "https://github.com/someone/bioplaus"),
        ("https://github.com/some.one/bio-plaus", "https://github.com/some.one/bio-plaus"),
        ("https://example.org/someone/bioplaus.git", None),
        ("", None),
    ],
)
def test_links_that_open_a_notebook_elsewhere_are_those_of_the_remote(remote, page):
    launch = extension("launch")
    assert launch.address(remote) == page
    if page:
        assert page in launch.cell(page)
        name = page.removeprefix("https://github.com/")
        shown = launch.links(page, "notebooks/00_quickstart.ipynb")
        assert f"colab.research.google.com/github/{name}/blob/HEAD/notebooks/" in shown
        assert f"mybinder.org/v2/gh/{name}/HEAD?labpath=notebooks%2F00_quickstart.ipynb" in shown


def test_binder_installs_the_pinned_packages_of_the_notebooks():
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    assert "--constraint ../requirements.lock" in lines and "--editable .[lab]" in lines
