"""Texts without the absolute paths of this machine, for files that are kept or shown."""

import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bioplaus import paths

# what a path does not follow, unless it is the end of a code for a colour, as `ESC[38;5;28m`
_BEFORE = r"(?:(?<![\w.~/-])|(?<=[\[;]\dm)|(?<=[\[;]\d\dm)|(?<=;\d\d\dm))"


def portable(value: Any, folder: Path | None = None) -> Any:
    """`value` with paths relative to what they lie in: the run's `folder`, the results, the
    project, the installed packages; or beginning with `~`. Lists and tables are gone through.
    """
    if isinstance(value, dict):
        return {name: portable(item, folder) for name, item in value.items()}
    if isinstance(value, list):
        return [portable(item, folder) for item in value]
    if not isinstance(value, str) or os.sep not in value:
        return value
    for path, name in _roots(folder):
        # the whole path and no part of a longer one; with what follows it, or alone
        value = re.sub(f"{_BEFORE}{re.escape(path)}/", f"{name}/" if name else "", value)
        value = re.sub(f"{_BEFORE}{re.escape(path)}(?![\\w.-])", name or ".", value)
    return value


def _roots(folder: Path | None) -> Iterator[tuple[str, str]]:
    """Folders and what stands for each, inner ones before those that they lie in."""
    roots: dict[str, str] = {}
    if folder is not None:
        roots |= dict.fromkeys(_forms(folder), "")
    results = paths.root()
    roots |= dict.fromkeys(_forms(results), results.name)
    roots |= dict.fromkeys(_forms(paths.project_root()), "")
    roots |= dict.fromkeys(_forms(Path(__file__).parents[2]), "")
    for name in ("purelib", "platlib", "stdlib", "platstdlib"):
        roots |= dict.fromkeys(_forms(Path(sysconfig.get_path(name))), "")
    for prefix in (sys.prefix, sys.base_prefix):
        roots |= dict.fromkeys(_forms(Path(prefix)), "")
    roots |= dict.fromkeys(_forms(Path(tempfile.gettempdir())), "tmp")
    roots |= dict.fromkeys(_forms(Path(os.path.expanduser("~"))), "~")
    by_length = sorted(roots.items(), key=lambda root: -len(root[0]))
    yield from ((path, name) for path, name in by_length if len(Path(path).parts) > 1)


def _forms(path: Path) -> set[str]:
    """A path as given and as resolved."""
    return {os.path.abspath(path), os.path.realpath(path)}
