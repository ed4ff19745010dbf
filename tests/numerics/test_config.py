"""The gate for parameters: names, types and ranges are checked, nothing is converted silently."""

import dataclasses
import json
import math
from typing import ClassVar, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bioplaus.config import Config, added
from bioplaus.errors import BioplausError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(Config):
    n_steps: int = 3  # whole numbers from 1 to 10
    rate: float = 0.5  # above 0
    name: str = "a"  # any text
    use_it: bool = True  # a switch
    kind: Literal["one", "two"] = "one"  # a choice
    widths: tuple[int, ...] = (4, 2)  # whole numbers from 1
    pairs: tuple[tuple[float, ...], ...] = ((0, 0.9),)  # any pairs
    couples: tuple[tuple[float, float], ...] = ()  # pairs of numbers
    shape: tuple[int, int, int] = (1, 2, 3)  # three numbers
    limit: float | None = None  # nothing, or from 0 to 1, 1 not included

    def __post_init__(self) -> None:
        self.check("n_steps", low=1, high=10)
        self.check("rate", low=0, open_low=True)
        self.check("widths", low=1)
        self.check("limit", low=0, high=1, open_high=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grown(Config):
    rate: float = 0.5  # from the beginning
    decay: float = added(0.0)  # came later


def test_a_field_that_was_added_is_recorded_only_where_it_has_another_value_than_its_default():
    assert Grown().to_dict() == {"rate": 0.5}
    assert Grown(decay=0.1).to_dict() == {"rate": 0.5, "decay": 0.1}
    for values in ({}, {"decay": 0.1}, {"decay": 0.0}):
        assert Grown.from_dict(Grown.from_dict(values).to_dict()) == Grown(**values)


def refused(values, words):
    with pytest.raises(BioplausError, match=words):
        Example.from_dict(values)


def test_values_come_back_from_json_as_they_were():
    config = Example(
        n_steps=7, widths=(3, 2, 1), pairs=((0.0, 0.5), (3.0, 0.25)), limit=0.0, kind="two"
    )
    assert Example.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_lists_become_tuples_and_whole_numbers_become_floats_where_the_field_says_so():
    config = Example.from_dict({"widths": [1, 2], "rate": 2, "pairs": [[0, 1]], "limit": 0})
    assert config.widths == (1, 2) and config.pairs == ((0.0, 1.0),)
    assert [type(v) for v in (config.rate, config.limit, config.pairs[0][0])] == [
        float,
        float,
        float,
    ]


def test_nothing_else_is_converted():
    refused({"rate": "0.1"}, "'rate' is '0.1', but must be a number")
    refused({"n_steps": 2.0}, "n_steps.* is 2.0, but must be a whole number")
    refused({"n_steps": True}, "n_steps.* is True, but must be a whole number")
    refused({"rate": True}, "rate.* is True")
    refused({"use_it": 1}, "use_it.* is 1, but must be true or false")
    refused({"name": 3}, "name.* is 3, but must be a text")
    refused({"widths": 3}, "widths.* is 3, but must be a list of whole numbers")
    refused({"couples": [0, 0.9]}, r"couples'\[0\] is 0, but must be a pair of numbers")
    refused({"couples": 1}, "couples' is 1, but must be a list of pairs of numbers")
    refused({"couples": [[0, 0.9, 1]]}, r"is \[0, 0.9, 1\], but must be a pair of numbers")
    refused({"shape": [1, 2]}, r"shape' is \[1, 2\], but must be a list of 3 whole numbers")
    refused({"pairs": [0, 0.9]}, r"pairs'\[0\] is 0, but must be a list of numbers")
    refused({"widths": [1, "2"]}, r"widths.*1.* is '2', but must be a whole number")
    refused({"rate": None}, "rate.* is None")


def test_a_misspelt_name_or_choice_is_refused_with_the_nearest_one():
    refused({"n_step": 3}, "'n_step'; did you mean 'n_steps'")
    refused({"kind": "tow"}, "'tow'.*(one.*two|did you mean 'two')")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lr", "'lr' has no type in its Config and so is no field: write `lr: float = 0.05`"),
        (
            "widths",
            (
                r"'widths' has the type `tuple` in its Config, which must say of what: `tuple\[int,"
                r" ...\]`"
            ),
        ),
        ("constant", "unknown parameter 'constant'; Allowed: widths"),
        ("check", "unknown parameter 'check'"),
    ],
)
def test_a_field_that_is_declared_wrongly_is_named_with_what_it_lacks(name, words):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Wrong(Config):
        lr = 0.05
        constant: ClassVar[float] = 0.1
        widths: tuple = (4, 2)

    with pytest.raises(BioplausError, match=words):
        Wrong.from_dict({name: [1]})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_steps": 0}, "n_steps is 0, but must be from 1 to 10"),
        ({"n_steps": 11}, "n_steps is 11, but must be from 1 to 10"),
        ({"rate": 0.0}, "rate is 0.0, but must be finite and above 0"),
        ({"rate": math.inf}, "rate is inf, but must be finite and above 0"),
        ({"rate": math.nan}, "rate is nan, but must be finite and above 0"),
        ({"widths": [3, 0]}, r"widths is \[3, 0\], but must be finite and at least 1"),
        ({"limit": 1.0}, "limit is 1.0, but must be from 0 and below 1"),
    ],
)
def test_a_value_out_of_range_is_refused_and_the_range_named(values, words):
    refused(values, words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rate": 1e308}, r"'rate' is 1e\+308, but must be finite in float32: at most 3.4e\+38"),
        ({"rate": 3.4028236e38}, "finite in float32"),
        ({"rate": 10**39}, "'rate' is a whole number of 130 bits, but must fit into float32"),
        ({"widths": [3, 2**63]}, r"'widths'\[1\] is a whole number of 64 bits.* into int64"),
    ],
)
def test_a_number_that_overflows_where_it_is_computed_with_is_refused(values, words):
    refused(values, words)
    largest = float(torch.finfo(torch.float32).max)
    assert Example.from_dict({"rate": largest}).rate == largest
    assert Example.from_dict({"widths": [3, 2**63 - 1]}).widths == (3, 2**63 - 1)


def test_bounds_that_are_allowed_pass_and_none_passes():
    assert (
        Example(n_steps=1, limit=0.0).n_steps == 1 and Example(n_steps=10, limit=None).limit is None
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=5,
)
names = st.sampled_from([field.name for field in dataclasses.fields(Example)]) | st.text(max_size=6)


@given(st.dictionaries(names, json_values, max_size=3))
def test_whatever_is_given_is_accepted_with_its_type_or_refused_in_a_sentence(values):
    try:
        config = Example.from_dict(values)
    except BioplausError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
    else:
        assert set(values) <= set(config.to_dict())
        assert type(config.n_steps) is int and 1 <= config.n_steps <= 10
        assert type(config.rate) is float and 0 < config.rate < math.inf
        assert config.kind in ("one", "two") and all(
            type(w) is int and w >= 1 for w in config.widths
        )


@pytest.mark.parametrize("value", [10**400, -(10**400)])
@pytest.mark.parametrize("name", ["n_steps", "rate", "widths"])
def test_a_number_too_large_for_a_float_is_refused_too(name, value):
    with pytest.raises(BioplausError):
        Example.from_dict({name: [value] if name == "widths" else value})
