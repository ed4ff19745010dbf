"""What a fresh machine gets: the same packages everywhere, a light import, clean notebooks, working
make targets.
"""

import ast
import ctypes
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

from bioplaus import _memory
from bioplaus.cli import app

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CARD = ["torch", "torchvision", "jupyterlab", "papermill", "nbval", "matplotlib", "seaborn", "tqdm"]


def _requirements(*extras):
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def _lock():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins
    }


def _environment():
    content = YAML(typ="safe", pure=True).load((ROOT / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    return {
        canonicalize_name(r.name): r
        for r in (Requirement(line) for line in pip if not line.startswith("--"))
    }


def test_every_requirement_is_locked_at_a_version_it_allows():
    lock = _lock()
    for name, requirement in _requirements(*PROJECT["optional-dependencies"]).items():
        assert name in lock, f"{name} is not in requirements.lock"
        assert requirement.specifier.contains(lock[name], prereleases=True), name


def test_environment_yml_names_the_packages_of_pyproject_at_the_versions_of_the_lock():
    environment, lock = _environment(), _lock()
    assert environment.keys() == _requirements("lab", "jupyter", "test", "fast").keys()
    for name, requirement in environment.items():
        assert requirement.specifier.contains(lock[name]), (
            f"{name}: {requirement} against {lock[name]}"
        )


def test_the_packages_of_the_card_are_there_and_torch_is_pinned_as_stated():
    lock = _lock()
    assert set(CARD) <= lock.keys()
    assert (lock["torch"], lock["torchvision"]) == (Version("2.13.0"), Version("0.28.0"))
    assert _requirements()["torch"].specifier.contains("2.11.0")


def test_what_is_installed_here_is_what_the_lock_says():
    from importlib.metadata import PackageNotFoundError, version

    differing = {}
    for name in _requirements("lab", "test"):
        try:
            found = Version(version(name)).public
        except PackageNotFoundError:
            found = "nothing"
        if found != _lock()[name].public:
            differing[name] = found
    assert differing == {}


IMPORTED_AS = {"PIL": "pillow", "sklearn": "scikit-learn", "ruamel": "ruamel-yaml"}


def _imported(folder, pattern):
    """The first names of everything that the modules and notebooks of a folder import."""
    for path in (ROOT / folder).glob(pattern):
        cells = json.loads(path.read_text())["cells"] if path.suffix == ".ipynb" else None
        # fmt: skip
        text = (
            path.read_text()
            if cells is None
            else "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        )
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def test_what_is_imported_is_declared():
    own = {"bioplaus", *(path.stem for path in ROOT.glob("tests/*/*.py")), *sys.stdlib_module_names}
    places = [("bioplaus", "**/*.py"), ("notebooks", "*.ipynb"), ("Simulations", "*.ipynb")]
    package = {name for place in places for name in _imported(*place)} - own
    tests = set(_imported("tests", "**/*.py")) - own
    of_package = ("lab", "cluster", "fast")
    for names, extras in ((package, of_package), (tests, (*of_package, "test"))):
        used = {canonicalize_name(IMPORTED_AS.get(name, name)) for name in names}
        assert used <= _requirements(*extras).keys()


NOT_IMPORTED = {
    "ipykernel": "the kernel that papermill starts",
    "jupyterlab": "what the notebooks are opened with",
    "pycocotools": "torchvision reads COCO with it, and does not require it",
    "nbstripout": "run as a program",
    "nbval": "plugin of pytest",
    "pyrefly": "run as a program",
    "pytest-timeout": "plugin of pytest",
    "pytest-xdist": "plugin of pytest",
    "ruff": "run as a program",
    "torchvision": "imported by name, after a mend",
}


def test_what_is_declared_is_imported_or_has_a_reason():
    places = [
        ("bioplaus", "**/*.py"),
        ("notebooks", "*.ipynb"),
        ("Simulations", "*.ipynb"),
        ("tests", "**/*.py"),
    ]
    used = {
        canonicalize_name(IMPORTED_AS.get(name, name))
        for place in places
        for name in _imported(*place)
    }
    assert (
        _requirements("lab", "jupyter", "test", "cluster", "fast").keys() - used
        == NOT_IMPORTED.keys()
    )


def test_hooks_run_the_tools_that_the_tests_run():
    hooks = YAML(typ="safe", pure=True).load((ROOT / ".pre-commit-config.yaml").read_text())[
        "repos"
    ]
    revisions = {
        Path(hook["repo"]).name.removesuffix("-pre-commit"): Version(hook["rev"])
        for hook in hooks
        if hook["repo"] != "local"
    }
    (local,) = (hook["hooks"] for hook in hooks if hook["repo"] == "local")
    assert [hook["entry"] for hook in local] == ["pyrefly check"]
    assert revisions == {name: _lock()[name] for name in ("ruff", "nbstripout")}


def test_freed_memory_is_simply_not_kept_where_the_c_library_cannot_be_had(monkeypatch):
    def windows(name):
        raise TypeError("argument of type 'NoneType' is not iterable")

    monkeypatch.setattr(ctypes, "CDLL", windows)
    assert _memory.keep_freed.__wrapped__() is False


def test_the_libraries_of_the_card_are_used():
    assert {"torch", "papermill", "matplotlib", "seaborn", "tqdm"} <= set(
        _imported("bioplaus", "**/*.py")
    )


BLOCKER = """
import importlib.abc, sys
class OnlyTheseTwo(importlib.abc.MetaPathFinder):
    banned = set({banned!r})
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.banned:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)
sys.meta_path.insert(0, OnlyTheseTwo())
"""


def _python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)


def test_training_needs_nothing_but_torch_and_numpy():
    names = _requirements("lab", "test", "cluster", "fast").keys() - {"torch", "numpy"}
    banned = sorted(
        {name.replace("-", "_") for name in names}
        | {"sklearn", "PIL", "ruamel", "IPython", "dask_jobqueue"}
    )
    done = _python(
        BLOCKER.format(banned=banned)
        + "import bioplaus\nfrom bioplaus import rules, train\nfrom bioplaus.tasks import images\n"
        "task = images.load('synthetic')\n"
        "rule = rules.make('ep', {'n_units': [task.spec.n_in, 8, task.spec.n_out]}, task.spec)\n"
        "print(train.fit(rule, task, n_epochs=1, batch_size=20, progress=False).status)"
    )
    assert done.stdout.strip() == "done", done.stderr


def test_the_ground_floor_never_imports_what_runs_or_its_libraries():
    ground = ["rules", "nets", "tasks", "metrics", "device", "train", "results", "config", "errors"]
    heavy = ["papermill", "dask", "distributed", "pandas", "matplotlib", "seaborn", "torchvision"]
    heavy += ["sklearn", "bioplaus.experiments", "bioplaus.analysis", "bioplaus.papers"]
    code = (
        "import importlib, pkgutil, sys\n"
        f"for name in {ground}:\n"
        "    module = importlib.import_module(f'bioplaus.{name}')\n"
        "    for part in pkgutil.iter_modules(getattr(module, '__path__', [])):\n"
        "        importlib.import_module(f'{module.__name__}.{part.name}')\n"
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )
    assert _python(code).stdout.strip() == "[]"


BELOW = {  # by wing: what it must not import, wherever in its files the import stands
    "rules": ("experiments", "analysis", "papers", "cli"),
    "nets": ("experiments", "analysis", "papers", "cli"),
    "tasks": ("experiments", "analysis", "papers", "cli"),
    "results": ("experiments", "analysis", "papers", "cli"),
    "experiments": ("analysis", "papers", "cli"),
    "analysis": ("papers", "cli"),
    "papers": ("cli",),
}


@pytest.mark.parametrize("wing", BELOW)
def test_imports_run_down_only(wing):
    upward = [
        f"{path.name}: {node.module}"
        for path in (ROOT / "bioplaus" / wing).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
        for name in [f"{node.module}.{alias.name}" for alias in node.names]
        if name.split(".")[0] == "bioplaus" and name.split(".")[1] in BELOW[wing]
    ]
    assert upward == []


def _notebooks():
    return sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("Simulations/*.ipynb")])


@pytest.mark.parametrize("path", _notebooks(), ids=lambda path: path.name)
def test_a_notebook_is_stripped_uses_kernel_python3_and_finds_its_own_way(path):
    raw = path.read_bytes()
    notebook = json.loads(raw)
    assert b"\r" not in raw and notebook["nbformat"] == 4
    assert (
        notebook["metadata"]["kernelspec"]["name"] == "python3"
        and "papermill" not in notebook["metadata"]
    )
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert not re.search(r"sys\.path|os\.chdir|%cd|\.\./|import torchvision", source)
            ast.parse(source)


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("Simulations/*.ipynb")), ids=lambda path: path.name
)
def test_a_simulation_notebook_declares_its_parameters_and_a_check(path):
    from bioplaus.experiments import simulation

    chosen = simulation.load(path.stem)
    tags = [tags for tags, _ in chosen.cells]
    assert "parameters" in tags[0] and any("check" in t for t in tags)
    chosen.check({})  # its defaults are valid


def test_nbstripout_finds_nothing_to_strip():
    tool = Path(sys.executable).with_name("nbstripout")
    done = subprocess.run([tool, "--verify", *_notebooks()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_the_code_is_clean(command):
    done = subprocess.run(["ruff", *command, "."], cwd=ROOT, capture_output=True, text=True,
                          env={"PATH": str(Path(sys.executable).parent)})  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_types_of_the_core_are_right(tmp_path):
    command = [Path(sys.executable).with_name("pyrefly"), "check", "--output-format=min-text"]
    command += ["--python-interpreter-path", sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    shutil.copytree(ROOT / "bioplaus", tmp_path / "bioplaus")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "bioplaus" / "metrics.py", "a") as file:
        file.write("\n\nx: int = 'a text'\n")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "metrics.py" in done.stdout, done.stdout


def test_make_without_a_target_lists_every_target_with_one_line_each():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True)
    targets = (
        "env data reproduce-figures report test nbval benchmark conform status lab doctor docs"
        " coverage clean clean-results".split()
    )
    for target in targets:
        assert re.search(rf"^  {target} +\S+", done.stdout, re.MULTILINE), target
    for variable in ("PRESET", "PAPER", "ONLY", "WORKERS", "SCHEDULER", "DEVICE", "RESULTS"):
        assert variable in done.stdout


def _make(*arguments, folder=ROOT):
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)


def test_make_clean_keeps_results_and_clean_results_removes_them_only_when_told_so(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".gitignore").write_text("Results/*.pkl\n.venv\n")
    for name in (
        "Results/made.pkl",
        "Results/kept.csv",
        ".venv/python",
        "bioplaus/__pycache__/module.pyc",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "Results/kept.csv"], cwd=tmp_path, check=True)
    assert _make("clean", folder=tmp_path).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        ".git",
        ".gitignore",
        "Makefile",
        "Results",
        "bioplaus",
    }
    assert not list((tmp_path / "bioplaus").iterdir())
    listed = _make("clean-results", folder=tmp_path).stdout
    assert (
        "Results/made.pkl" in listed
        and "YES=1" in listed
        and len(list((tmp_path / "Results").iterdir())) == 2
    )
    _make("clean-results", "YES=1", folder=tmp_path)
    assert [path.name for path in (tmp_path / "Results").iterdir()] == ["kept.csv"]


@pytest.mark.parametrize("target", ["data", "reproduce-figures", "status", "report"])
def test_every_option_that_make_passes_is_one_that_the_command_has(target):
    given = [
        "PYTHON=python",
        "RESULTS=/a folder/x",
        "PAPER=corinfomax",
        "ONLY=mnist",
        "DEVICE=auto",
    ]
    (line,) = (
        one
        for one in _make("--dry-run", target, *given).stdout.splitlines()
        if "-m bioplaus" in one
    )
    command, *arguments = shlex.split(line.partition("-m bioplaus ")[2])
    found = typer.main.get_command(app).commands[command]
    if command == "data":
        found = found.commands[arguments.pop(0)]
    known = {option for parameter in found.params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= known
    assert "/a folder/x" in arguments or command == "data"


@pytest.mark.parametrize(
    ("target", "extras"),
    [
        ("reproduce-figures", ["lab"]),
        ("test", ["lab", "lab,test"]),
        ("lab", ["lab", "lab,jupyter"]),
    ],
)
def test_a_target_installs_what_it_needs_and_no_more(tmp_path, target, extras):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shown = _make("--dry-run", target, "UV=", folder=tmp_path).stdout
    plain = shown.replace(",fast]", "]")  # numba, everywhere
    # once more for `make nbval`, which `make test` calls
    assert [*dict.fromkeys(re.findall(r"'\.\[(.*?)\]'", plain))] == extras and "uv " not in plain
    # uv first, and pip where uv cannot
    shown = _make("--dry-run", target, "UV=/a folder/uv", folder=tmp_path).stdout
    with_uv = shown.replace(",fast]", "]")
    installed = re.findall(r"'/a folder/uv' pip install .*'\.\[(.*?)\]' \|\| .* -m pip ", with_uv)
    assert [*dict.fromkeys(installed)] == extras


def test_citation_names_the_papers():
    citation = YAML(typ="safe", pure=True).load((ROOT / "CITATION.cff").read_text())
    titles = " ".join(reference["title"].lower() for reference in citation["references"])
    for words in (
        "correlative information",
        "cortico-cerebellar",
        "cerebro-cerebellar",
        "bilateral",
        "competing hidden",
    ):
        assert words in titles
