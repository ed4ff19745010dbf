"""A new learning rule to start from: a file that already learns, and its entry in a manifest."""

import keyword
import re
from pathlib import Path

from bioplaus import _files, paths, rules
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest

PAPER, EXPERIMENT = "corinfomax", "mnist"  # where the entry goes: all rules beside each other
_ENTRY = """\
      {name}:
        label: {name}
        parameters: {{rule: {name}, config: {{n_units: [784, 500, 10], lr: 0.2}}}}
        presets:
          desk: {{parameters: {{n_epochs: 10}}}}
"""
_TITLE = "Direct feedback alignment: every"  # how the template's docstring begins


def new_rule(name: str) -> tuple[Path, Path]:
    """Write `bioplaus/rules/<name>.py`, a copy of `rules/_template.py`, and enter it in the
    manifest of `PAPER`; the rule's file, and the manifest's.

    Raises
    ------
    BioplausError
        For a name that cannot be one or is taken, where nothing is written.
    """
    check_name(name)
    source = Path(rules.__file__).parent / f"{name}.py"
    entries = paths.project_root() / "Simulations" / "manifests" / f"{PAPER}.yaml"
    before = entries.read_bytes()
    template = source.with_name("_template.py").read_text(encoding="utf-8")
    _files.write_atomic(source, template.replace(_TITLE, f"{name}: every", 1).encode())
    try:
        _files.write_atomic(entries, _entered(before.decode(), name).encode())
        manifest.load(PAPER)
    except BaseException:
        source.unlink()
        _files.write_atomic(entries, before)
        raise
    return source, entries


def check_name(name: str) -> None:
    """Raise `BioplausError` unless a new rule can be called `name`."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or keyword.iskeyword(name):
        raise BioplausError(
            f"a rule cannot be called {name!r}; a name is of small letters, digits and _, a letter"
            " first, at most 40 characters, and no word of Python."
        )
    if name in rules.names():
        raise BioplausError(f"there is a rule {name} already, {name}.py; choose another name.")
    if hasattr(rules, name):  # its module would take the place of a function
        raise BioplausError(
            f"a rule cannot be called {name!r}, which is something else in bioplaus.rules."
        )
    if name in manifest.load(PAPER).experiments[EXPERIMENT].entries:
        raise BioplausError(
            f"{PAPER}.yaml has an entry {EXPERIMENT}/{name} already; choose another name."
        )


def _entered(text: str, name: str) -> str:
    """The manifest's text with the new entry before the others of `EXPERIMENT`; comments stay."""
    start = re.search(rf"^  {EXPERIMENT}:\n(?:(?!  \S).*\n)*?    entries:\n", text, re.MULTILINE)
    if start is None:
        raise BioplausError(f"{PAPER}.yaml has no line `entries:` under `{EXPERIMENT}:`.")
    return text[: start.end()] + _ENTRY.format(name=name) + text[start.end() :]
