"""Reading manifest files: safe YAML 1.2, checked, and one sentence for every mistake in one."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pydantic
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.scanner import Scanner

from bioplaus import _files, paths
from bioplaus.errors import BioplausError, unknown
from bioplaus.experiments.manifest.model import (
    PRESETS,
    Entry,
    Experiment,
    Headline,
    Manifest,
    Override,
)
from bioplaus.experiments.manifest.parameters import (
    MOST_VALUES,
    TOO_DEEP,
    TOO_MANY,
    check_json,
    refuse_options,
)


def papers() -> list[str]:
    """The papers that have a manifest, sorted; a hidden file is none."""
    return sorted(path.stem for path in _folder().glob("[!.]*.yaml"))


def load(paper: str) -> Manifest:
    """The manifest of `paper`, by its key.

    Raises
    ------
    BioplausError
        For an unknown paper, a file that is not YAML, a name given twice, or a wrong or unknown
        key; the file, the position in it and what was allowed are named.
    """
    if paper not in papers():
        raise unknown("paper", paper, papers())
    path = _folder() / f"{paper}.yaml"
    return _read(path, path.stat().st_mtime_ns)


def parse_yaml(text: str, context: str) -> Any:
    """The value of a text in YAML 1.2, in which `1e-4` is a number; nothing in it is executed.

    Raises
    ------
    BioplausError
        For what is not YAML, is too deep or too large, and a key given twice; `context` and the
        line are named.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner, yaml.Composer = _Scanner, _Composer
    try:
        return yaml.load(text)
    except _TooLargeError as error:
        raise BioplausError(
            f"{context}, line {error.problem_mark.line + 1}: it {error.problem}."
        ) from None
    except DuplicateKeyError as error:
        key = re.search(r'key "(.*?)"', str(error.problem))
        line = error.problem_mark.line + 1
        named = f" {key[1]}" if key else ""
        raise BioplausError(f"{context}, line {line}: the key{named} is given twice.") from None
    except (YAMLError, RecursionError, ValueError) as error:  # ValueError: no such date, say
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error or type(error).__name__)
        raise BioplausError(
            f"{context}{line} is not valid YAML: {problem.splitlines()[0].rstrip('.')}."
        ) from None


class _TooLargeError(MarkedYAMLError):
    """Valid YAML that no manifest needs."""


class _Scanner(Scanner):
    """Stops at lists and tables that are too deep, whose scanning takes time as their square."""

    def fetch_more_tokens(self) -> Any:
        if self.flow_level + len(self.indents) > _files.MOST_LEVELS:
            raise _TooLargeError(problem=TOO_DEEP, problem_mark=self.reader.get_mark())
        return super().fetch_more_tokens()


class _Composer(Composer):
    """Stops at what grows beyond all bounds where aliases are followed, before anything follows
    them: they may bring merges (`<<`), too.
    """

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self._sizes: dict[Node, tuple[int, int]] = {}  # values in it, and levels of it

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        node = super().compose_node(parent, index)
        if node not in self._sizes:
            if isinstance(event, AliasEvent):
                problem = f"is inside itself, through the alias {event.anchor}"
                raise _TooLargeError(problem=problem, problem_mark=event.start_mark)
            self._sizes[node] = n_values, n_levels = self._size(node)
            if n_values > MOST_VALUES or n_levels > _files.MOST_LEVELS:
                problem = TOO_MANY if n_values > MOST_VALUES else TOO_DEEP
                raise _TooLargeError(problem=problem, problem_mark=event.start_mark)
        return node

    def _size(self, node: Any) -> tuple[int, int]:
        if isinstance(node, ScalarNode):
            return 1, 0
        parts = node.value
        if isinstance(node, MappingNode):
            parts = [part for pair in parts for part in pair]
        sizes = [self._sizes[part] for part in parts]
        return 1 + sum(n for n, _ in sizes), 1 + max((level for _, level in sizes), default=0)


def _folder() -> Path:
    return paths.project_root() / "Simulations" / "manifests"


@cache
def _read(path: Path, changed: int) -> Manifest:
    """Read and check one manifest file, again only after it `changed`."""
    try:
        content = _content(path, path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise BioplausError(f"{path.name} is not UTF-8 text; save it with that encoding.") from None
    except OSError as error:
        raise BioplausError(f"Could not read {path}: {error.strerror}.") from None
    for key, part in content.items() if isinstance(content, dict) else ():
        check_json(part, f"{path.name}, {key}")
    try:
        manifest = Manifest.model_validate(content)
    except pydantic.ValidationError as error:
        raise _sentence(error, path.name) from None
    if manifest.paper != path.stem:
        raise BioplausError(
            f"{path.name} says paper: {manifest.paper}, but its file name says {path.stem}."
        )
    for name, experiment in manifest.experiments.items():
        _check_names(experiment, f"{path.name}, {name}")
        _check_needs(experiment.needs, f"{path.name}, {name}")
        for key, entry in experiment.entries.items():
            _check_lists(entry, f"{path.name}, {name}/{key}")
    return manifest


def _content(path: Path, text: str) -> Any:
    """What the text of a manifest says.

    Parsing takes 0.3 s for the longest, in every kernel that draws. So what it gave is kept beside
    the manifest, as Python keeps a module's, if JSON can say the same; the digest of both, in its
    first line, says that it belongs to this text and is whole.
    """
    kept = path.parent / "__pycache__" / f"{path.stem}.json"
    with contextlib.suppress(BioplausError):  # it cannot be read
        digest, _, encoded = (_files.read(kept) or b"").partition(b"\n")
        if digest == _files.sha256(text.encode() + encoded).encode():
            return json.loads(encoded)
    content = parse_yaml(text, path.name)
    with contextlib.suppress(BioplausError, TypeError, ValueError):  # a read-only folder, a date
        encoded = json.dumps(content, allow_nan=False).encode()
        if json.loads(encoded) == content:  # keys that are numbers become texts
            _files.make_folder(kept.parent, parents=False)
            digest = _files.sha256(text.encode() + encoded).encode()
            _files.write_atomic(kept, digest + b"\n" + encoded)
    return content


def _check_names(experiment: Experiment, context: str) -> None:
    """Raise for two entries of one name, and for parameters that options give."""
    for key, entry in experiment.entries.items():
        for name in entry.names(key) if entry.grid else ():
            if name in experiment.entries:
                raise BioplausError(
                    f"{context}: entry {name} has the name of a grid point of entry {key}; rename"
                    " it."
                )
    refuse_options(_parameter_names(experiment), context)
    for key, entry in experiment.entries.items():
        refuse_options([*_parameter_names(entry), *entry.grid, *entry.needs], f"{context}/{key}")


def _parameter_names(part: Experiment | Entry) -> Iterator[str]:
    """The names of the parameters that an experiment or entry gives itself or at a preset."""
    yield from part.parameters
    for override in part.presets.values():
        yield from override.parameters if override else ()


def _check_needs(needs: Mapping[str, set[str]], context: str) -> None:
    """Raise unless every entry that is needed exists and none needs itself, directly or not."""
    for entry, wanted in needs.items():
        for name in sorted(wanted - needs.keys()):
            raise unknown("entry", name, needs, f"{context}/{entry}, needs")
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        raise BioplausError(f"{context}: entries need one another in a circle: {circle}.") from None


def _check_lists(entry: Entry, context: str) -> None:
    """Raise where a list that goes along the grid does not fit it."""
    if isinstance(entry.label, list) and not entry.grid:
        raise BioplausError(
            f"{context}: a list of labels needs a grid; without one, label is one text."
        )
    n_points = len(entry.points) if entry.grid else 0
    if isinstance(entry.label, list) and len(entry.label) != n_points:
        raise BioplausError(
            f"{context}: label has {len(entry.label)} names, but the grid has {n_points} points."
        )
    for column, values in (entry.published or {}).items():
        if isinstance(values, list) and not 0 < len(values) <= n_points:
            raise BioplausError(
                f"{context}, published/{column} has {len(values)} values, but must have 1 to"
                f" {n_points}, the number of points of the grid."
            )


def _sentence(error: pydantic.ValidationError, file: str) -> BioplausError:
    """The first of pydantic's errors as one sentence; an unknown key gets the nearest allowed
    one.
    """
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    keys = [str(part) for part in first["loc"] if part not in ("Override", "literal[False]")]
    if first["type"] == "extra_forbidden":
        context = f"{file}, {'/'.join(keys[:-1]) or 'top level'}"
        return unknown("key", keys[-1], _allowed(keys[:-1]), context)
    if first["type"] == "literal_error" and "[key]" in keys:
        return unknown("preset", first["input"], PRESETS, f"{file}, {'/'.join(keys[:-2])}")
    if first["type"] == "string_pattern_mismatch":  # the one pattern is that of names
        position = "/".join(key for key in keys if key != "[key]")
        return BioplausError(
            f"{file}, {position}: a name is of small letters, digits, _ and -, a letter first, not"
            f" {first['input']!r}."
        )
    return BioplausError(
        f"{file}, {'/'.join(keys) or 'top level'}: {first['msg']}, not {first.get('input')!r}."
    )


def _allowed(keys: list[str]) -> Iterable[str]:
    """The keys allowed at a position in a manifest, which alternates between keys and names."""
    if "presets" in keys:
        return Override.model_fields
    if keys == ["claim"]:
        return Headline.model_fields
    return {0: Manifest, 2: Experiment, 4: Entry}.get(len(keys), Manifest).model_fields
