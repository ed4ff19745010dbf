"""The pages of the API reference: one a public module, written before Sphinx reads.

Docstrings of this project are plain text with `names` and indented equations; here they become
reStructuredText. A field of a `Config` is described by the comment that stands beside it.
"""

import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import bioplaus

FOLDER = Path(__file__).resolve().parents[1] / "api"
GROUPS = {
    "Rules": "rules",
    "Tasks": "tasks",
    "Networks": "nets",
    "Results": "results",
    "What runs": "experiments",
    "What is shown": "analysis",
    "What only one paper needs": "papers",
    "The command line": "cli",
}


def modules() -> list[str]:
    """Every public module: no part of its name starts with an underscore."""
    found = ["bioplaus"]
    for module in pkgutil.walk_packages(bioplaus.__path__, "bioplaus."):
        if not any(part.startswith("_") for part in module.name.split(".")):
            found.append(module.name)
    nets = Path(bioplaus.__path__[0]) / "nets"  # a folder without __init__.py is not walked
    found += [f"bioplaus.nets.{path.stem}" for path in nets.glob("[!_]*.py")]
    return sorted(set(found) - {"bioplaus.nets", "bioplaus.experiments.nbval_plugin"})


def page(name: str) -> str:
    """The page of a module."""
    return f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"


def index(names: list[str]) -> str:
    """The page that lists them, by wing."""
    listed = {
        title: [n for n in names if n.split(".")[1:2] == [part]] for title, part in GROUPS.items()
    }
    rest = [n for n in names if not any(n in part for part in listed.values())]
    text = (
        "# Reference\n\nEvery public name, from its docstring. At a prompt,"
        " `help(bioplaus.rules.make)` says the same.\n\n"
    )
    for title, part in {"The ground": rest, **listed}.items():
        entries = "\n".join(part)
        text += f"## {title}\n\n```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n\n"
    return text


def write(app: Any) -> None:
    """Write the pages that are not there or not as they should be, and remove others."""
    names = modules()
    pages = {f"{name}.md": page(name) for name in names} | {"index.md": index(names)}
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = FOLDER / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def to_rst(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Make a docstring reStructuredText, in place; before napoleon reads its sections."""
    if what == "attribute" and not any(lines):
        lines[:] = [comment_of(name), ""]
    text, is_literal, is_section = [], False, False
    for number, line in enumerate(lines):
        underlined = number + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[number + 1].strip())
        is_section = is_section or bool(underlined)
        is_indented = line.startswith("    ")
        blank_before = number > 0 and not lines[number - 1].strip()
        if is_indented and blank_before and not is_literal and not is_section:
            text += ["::", ""]
            is_literal = True
        elif line.strip() and not is_indented:
            is_literal = False
        text.append(line if is_literal or not line.strip() else escape(line))
    lines[:] = text


def escape(line: str) -> str:
    """A line of plain text: `code` is kept, what reStructuredText would take for markup is not."""
    parts = re.split(r"(`[^`]*`)", line)
    for i, part in enumerate(parts):
        if i % 2:
            inner = part[1:-1]
            is_name = re.fullmatch(r"[A-Za-z_][\w.]*", inner) and not inner.endswith("_")
            parts[i] = part if is_name else f"``{inner.strip() or ' '}``"
            if i + 1 < len(parts) and re.match(r"\w", parts[i + 1]):
                parts[i] += "\\ "
        elif not re.fullmatch(r"\s*-{3,}\s*", part):
            parts[i] = re.sub(r"([*|\\])", r"\\\1", part)
            parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", parts[i])
    return "".join(parts)


def comment_of(name: str) -> str:
    """The comment beside or above a field of a dataclass; empty where there is none."""
    owner, _, field = name.rpartition(".")
    module, _, kind = owner.rpartition(".")
    try:
        source = inspect.getsource(getattr(__import__(module, fromlist=["_"]), kind)).split("\n")
    except (ImportError, AttributeError, OSError, TypeError, ValueError):
        return ""
    for number, line in enumerate(source):
        if re.match(rf"\s+{re.escape(field)}\s*:", line):
            beside = re.search(r"  # (.*)$", line)
            if beside is None and line.rstrip().endswith("("):  # its value goes on over lines
                beside = next(
                    (
                        m
                        for m in map(re.compile(r"  # (.*)$").search, source[number : number + 3])
                        if m
                    ),
                    None,
                )
            above = []
            while number and re.match(r"\s+# ", source[number - 1]):
                number -= 1
                above.insert(0, source[number].strip()[2:])
            return " ".join(above + ([beside[1]] if beside else []))
    return ""


def skip(app: Any, what: str, name: str, thing: Any, is_skipped: bool, options: Any) -> bool | None:
    """Leave out what torch's modules and enumerations bring along."""
    return True if name in ("training", "dump_patches", "call_super_init", "model_config") else None


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", to_rst, priority=400)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
