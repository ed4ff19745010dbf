"""Typed, range-checked parameters: the base of every rule's, net's and task's `Config`.

A `Config` is a frozen keyword-only dataclass of builtins, so it survives JSON, YAML and papermill
unchanged. `from_dict` is the one gate through which values from outside enter: names, types and
ranges are checked there, before anything runs.
"""

import dataclasses
import math
import numbers
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from bioplaus.errors import BioplausError, unknown

# the largest seed, of every rule, task and sweep: tasks derive two seeds of numpy's generator, of
# 32 bits, from each, and one is left for what no seed may draw
MOST_SEED = 2**31 - 2

_MOST_FLOAT = float(2**128 - 2**104)  # the largest of float32, in which runs compute
_MOST_INT = 2**63 - 1  # the largest of int64, in which they count

T = TypeVar("T")


def check_seed(seed: Any) -> None:
    """Raise `BioplausError` unless `seed` is a whole number from 0 to `MOST_SEED`.

    1000.0 and True are none: a stream is derived from the text of its seed, and theirs are others.
    """
    is_whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not (is_whole and 0 <= int(seed) <= MOST_SEED):
        raise BioplausError(f"seed is {seed!r}, but must be a whole number from 0 to {MOST_SEED}.")


def added(default: T) -> T:
    """The default of a field that a `Config` got after results with it were published.

    Records and checkpoints of before stay those of the same training, byte for byte: `to_dict` does
    not name the field unless it has another value.
    """
    return dataclasses.field(default=default, metadata={"added": True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base class: subclass it as a frozen keyword-only dataclass whose fields are builtins.

    Allowed field types: bool, int, float, str, `Literal[...]`, `tuple[T, ...]`, `tuple[T, T]` (a
    pair), `list`, `dict`, and `T | None`. Ranges are checked in `__post_init__` with `check`.
    """

    def __post_init__(self) -> None:
        """Check the ranges; subclasses override."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, kind: str = "parameter") -> Self:
        """Build a config from plain values, refusing unknown names and wrong types.

        Lists become tuples and integers become floats where the field says so; nothing else is
        converted: a string where a number belongs is an error.

        Raises
        ------
        BioplausError
            Unknown name (nearest one suggested), wrong type, value out of range, or a number that
            is not finite in float32; a field declared without a type.
        """
        hints = typing.get_type_hints(cls)
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name in known:
                continue
            constant = getattr(cls, name, None)
            if name not in hints and isinstance(
                constant, bool | int | float | str | tuple | list | dict
            ):
                raise BioplausError(
                    f"{kind} {name!r} has no type in its Config and so is no field: write "
                    f"`{name}: {type(constant).__name__} = {constant!r}`."
                )
            raise unknown(kind, name, known)
        converted = {
            name: _convert(hints[name], value, f"{kind} {name!r}") for name, value in values.items()
        }
        config = cls(**converted)
        for name, value in converted.items():
            _check_finite(value, f"{kind} {name!r}")
        return config

    def to_dict(self) -> dict[str, Any]:
        """The values as builtins (tuples become lists), in field order; `from_dict` reads them
        back. A field that was `added` is left out while it has its default.
        """
        values = {field: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            field.name: _plain(value)
            for field, value in values.items()
            if not ("added" in field.metadata and value == field.default)
        }

    def check(
        self,
        name: str,
        *,
        low: float = -math.inf,
        high: float = math.inf,
        open_low: bool = False,
        open_high: bool = False,
    ) -> None:
        """Raise unless the number(s) in field `name` are finite and inside the range; None passes.

        Parameters
        ----------
        low, high : bounds, in the field's unit.
        open_low, open_high : True where the bound itself is not allowed.
        """
        value = getattr(self, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            above = number > low if open_low else number >= low
            below = number < high if open_high else number <= high
            if not (above and below and abs(number) <= sys.float_info.max):  # false for NaN, too
                raise BioplausError(
                    f"{name} is {_plain(value)!r}, but must be"
                    f" {_range(low, high, open_low, open_high)}."
                )


def _check_finite(value: Any, name: str) -> None:
    """Raise for a number that overflows where it is computed with, in a tuple too."""
    if isinstance(value, tuple):
        for i, item in enumerate(value):
            _check_finite(item, f"{name}[{i}]")
    elif isinstance(value, float) and not abs(value) <= _MOST_FLOAT:  # NaN, too
        raise BioplausError(
            f"{name} is {value!r}, but must be finite in float32: at most {_MOST_FLOAT:.2g} in"
            " size."
        )


def _range(low: float, high: float, open_low: bool, open_high: bool) -> str:
    if math.isinf(high):
        return (
            "finite"
            if math.isinf(low)
            else f"finite and {'above' if open_low else 'at least'} {low:g}"
        )
    if math.isinf(low):
        return f"finite and {'below' if open_high else 'at most'} {high:g}"
    return (
        f"{'above' if open_low else 'from'} {low:g} {'and below' if open_high else 'to'} {high:g}"
    )


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _convert(hint: Any, value: Any, name: str) -> Any:
    """Return `value` as the type `hint`, or raise naming the parameter, the value and the type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, name)
    if origin is Literal:
        if value in arguments and isinstance(value, type(arguments[0])):
            return value
        raise unknown(name, value, [str(a) for a in arguments])
    if hint is tuple:
        raise BioplausError(
            f"{name} has the type `tuple` in its Config, which must say of what: `tuple[int, ...]`."
        )
    if origin is tuple:
        if not isinstance(value, list | tuple) or _length(hint) not in (None, len(value)):
            raise BioplausError(f"{name} is {_plain(value)!r}, but must be {_type_name(hint)}.")
        return tuple(_convert(arguments[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if type(value) is int and hint in (int, float):
        most, kind = (_MOST_INT, "int64") if hint is int else (_MOST_FLOAT, "float32")
        if abs(value) > most:
            raise BioplausError(
                f"{name} is a whole number of {value.bit_length()} bits, but must fit into {kind}:"
                f" at most {most:.2g} in size."
            )
        return float(value) if hint is float else value
    if isinstance(value, hint) and not (hint is not bool and isinstance(value, bool)):
        return value
    raise BioplausError(f"{name} is {value!r}, but must be {_type_name(hint)}.")


def _length(hint: Any) -> int | None:
    """How many items a tuple of this type has; None: any number of them. All are of one type."""
    arguments = typing.get_args(hint)
    return None if Ellipsis in arguments else len(arguments)


_TYPE_NAMES = {  # one, several
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    bool: ("true or false", "true or false"),
    list: ("a list", "lists"),
    dict: ("a table of names and values", "tables of names and values"),
}


def _type_name(hint: Any, is_many: bool = False) -> str:
    """A type in words, of one value or of many."""
    if hint in _TYPE_NAMES:
        return _TYPE_NAMES[hint][is_many]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        one, several = ("a pair", "pairs") if _length(hint) == 2 else ("a list", "lists")
        count = f"{_length(hint)} " if (_length(hint) or 0) > 2 else ""
        return f"{several if is_many else one} of {count}{_type_name(arguments[0], True)}"
    some = [a for a in arguments if a is not type(None)]
    return f"{_type_name(some[0], is_many)} or null" if some else str(hint)
