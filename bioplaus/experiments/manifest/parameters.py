"""Tables of parameters: how they are nested and merged, and which values they may hold."""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from bioplaus._files import MOST_LEVELS
from bioplaus.errors import BioplausError

_SCALARS = (str, int, float, type(None))
MOST_VALUES = 100_000  # of a table with its aliases followed: a bomb of aliases stops here

TOO_MANY = f"has more than {MOST_VALUES:,} values once its aliases are followed"
TOO_DEEP = f"has more than {MOST_LEVELS} lists or tables inside one another"

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
        if name.count(".") >= MOST_LEVELS:
            raise BioplausError(
                f"The name {name[:40]}... has more than {MOST_LEVELS} parts between dots."
            )
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
            merged[name] = merge(merged[name], value) if both else _copied(value)
    return merged


def _copied(value: Any) -> Any:
    """A deep copy of what JSON can say: a twentieth of the time of `copy.deepcopy`, which a preset
    of thousands of runs would notice.
    """
    if type(value) is dict:
        return {name: _copied(item) for name, item in value.items()}
    if type(value) is list:
        return [_copied(item) for item in value]
    return value if isinstance(value, _SCALARS) else deepcopy(value)


def check_size(content: Any, context: str) -> None:
    """Raise for a value that is too deep, or grows beyond all bounds where its aliases are
    followed.
    """
    for number, level in enumerate(_levels(content), start=1):
        if level > MOST_LEVELS:
            raise BioplausError(f"{context} {TOO_DEEP}.")
        if number > MOST_VALUES:
            raise BioplausError(f"{context} {TOO_MANY}.")


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


def _levels(value: Any) -> Iterator[int]:
    """For each value in `value`, itself included, how many lists and tables it is in; without end
    where one is inside itself.
    """
    todo = [iter([value])]
    while todo:
        for item in todo[-1]:
            yield len(todo) - 1
            if isinstance(item, dict | list):
                todo.append(iter(item.values() if isinstance(item, dict) else item))
                break
        else:
            todo.pop()
