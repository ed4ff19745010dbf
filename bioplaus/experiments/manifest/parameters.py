"""Tables of parameters: how they are nested and merged, and which values they may hold."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from bioplaus.errors import BioplausError

_MAX_NODES = 100_000  # of a table with its aliases followed: a bomb of aliases stops here

_OPTIONS = {  # parameters of notebooks that no manifest and no --set gives
    "seed": "give seeds in the manifest, or with --seeds",
    "seeds": "give seeds in the manifest, or with --seeds",
    "folder": "choose it with --results",
    "folders": "choose their parent with --results",
    "device": "choose it with --device, which changes no run's id",
    "n_threads": "choose them with --threads, which changes no run's id",
}


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{"config.lr": 1} becomes {"config": {"lr": 1}}."""
    tree: dict[str, Any] = {}
    for name, value in dotted.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def merge(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables on one another, later ones winning: nested tables name by name, all else whole."""
    merged: dict[str, Any] = {}
    for table in tables:
        for name, value in table.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(name), dict)
            merged[name] = merge(merged[name], value) if both else deepcopy(value)
    return merged


def check_size(content: Any, context: str) -> None:
    """Raise for a value that grows beyond all bounds where its aliases are followed."""
    if sum(1 for _ in itertools.islice(_nodes(content), _MAX_NODES)) == _MAX_NODES:
        raise BioplausError(
            f"{context} has more than {_MAX_NODES:,} values once its aliases are followed."
        )


def check_json(value: Any, context: str) -> None:
    """Raise unless `value` is None, a bool, int, float or str, or a list or dict of these with text
    keys.
    """
    if type(value) is list:
        for index, item in enumerate(value):
            check_json(item, f"{context}/{index}")
    elif type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise BioplausError(f"{context}: the name {key!r} is not a text; put it in quotes.")
            check_json(item, f"{context}/{key}")
    elif not (value is None or type(value) in (bool, int, float, str)):
        raise BioplausError(
            f"{context} is {str(value)[:80]} ({type(value).__name__}), but must be a number, a"
            " text, true, false, null, or a list or table of these; quotes make a text."
        )


def refuse_options(names: Iterable[str], context: str) -> None:
    """Raise for a name that an option of the command line gives."""
    for name in names:
        if (first := name.partition(".")[0]) in _OPTIONS:
            raise BioplausError(
                f"{context}: {first} is not given as a parameter; {_OPTIONS[first]}."
            )


def _nodes(value: Any) -> Iterator[None]:
    """One None for each value in `value`, itself included; without end where an alias stands for
    what it is in.
    """
    todo = [iter([value])]
    while todo:
        for item in todo[-1]:
            yield None
            if isinstance(item, dict | list):
                todo.append(iter(item.values() if isinstance(item, dict) else item))
                break
        else:
            todo.pop()
