"""What lessons share: the check of an exercise, the knob, the picture that moves."""

import sys
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from bioplaus import lessons
from bioplaus.errors import BioplausError


def square(x: Any) -> Any:
    return x * x


CASES = [((torch.tensor([1.0, 2.0]),), torch.tensor([1.0, 4.0])), ((3.0,), 9.0)]


def test_a_right_answer_is_called_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert lessons.check(square, CASES)
    assert capsys.readouterr().out == "Right: square passes all 2 cases.\n"


def test_a_stub_is_reported_kindly(capsys: pytest.CaptureFixture[str]) -> None:
    assert not lessons.check(lambda x: None, CASES, name="square")
    assert "square is not written yet" in capsys.readouterr().out


def test_a_wrong_answer_is_shown_beside_the_right_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not lessons.check(lambda x: x, CASES, name="square")
    out = capsys.readouterr().out
    assert "case 1: you give 2 at entry [1], but 4 was expected." in out


def test_a_likely_mistake_is_explained_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    mistakes = {"You doubled instead of squaring.": lambda x: 2 * x, "Not this.": lambda x: -x}
    assert not lessons.check(lambda x: 2 * x, CASES, mistakes)
    out = capsys.readouterr().out
    assert "You doubled instead of squaring." in out and "Not this." not in out


def test_a_wrong_shape_and_a_wrong_kind_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    lessons.check(lambda x: torch.zeros(3), CASES)
    lessons.check(lambda x: "four", CASES)
    out = capsys.readouterr().out
    assert "its shape is (3,), but (2,) was expected" in out
    assert "a number or a tensor was expected, not a str" in out


def test_numbers_are_compared_in_double_precision() -> None:
    third = torch.tensor(1.0, dtype=torch.float64) / 3
    assert lessons.check(lambda: third, [((), 1 / 3)], tolerance=1e-15)
    assert not lessons.check(lambda: 1 / 3 + 1e-9, [((), third)], tolerance=1e-10)


def test_nan_is_never_right() -> None:
    assert not lessons.check(lambda x: x * torch.nan, CASES)


def test_an_answer_that_raises_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert not lessons.check(lambda x: x / "a", CASES, name="square")
    assert "square stops in case 1 with TypeError" in capsys.readouterr().out


def test_an_answer_cannot_change_what_later_cases_are_asked() -> None:
    shared = torch.tensor([1.0, 2.0])

    def in_place(x: torch.Tensor) -> torch.Tensor:
        return x.mul_(x)

    expected = torch.tensor([1.0, 4.0])
    assert lessons.check(in_place, [((shared,), expected), ((shared,), expected)])


def test_a_knob_without_widgets_draws_the_defaults_and_says_how_to_turn_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    seen = []
    lessons.knob(lambda figure, beta=1.0: seen.append((type(figure), beta)), beta=[0.1, 1.0])
    assert seen == [(Figure, 1.0)]
    assert "Sliders need the package ipywidgets" in capsys.readouterr().out


def test_moving_a_slider_draws_again_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    sliders = lessons._sliders
    monkeypatch.setattr(lessons, "_sliders", lambda *a: made.append(sliders(*a)) or made[0])
    seen, shown = [], []

    def draw(figure: Figure, beta: float = 1.0, eta: float = 0.5) -> None:
        seen.append((beta, eta))
        shown.append([slider.description for slider in made[0].values()] if made else [])

    lessons.knob(draw, beta=[0.1, 1.0], eta=[0.5, 2.0])
    made[0]["eta"].value = 2.0
    made[0]["beta"].value = 0.1
    assert seen == [(1.0, 0.5), (1.0, 2.0), (0.1, 2.0)]
    assert shown[1:] == [["beta", "eta ..."], ["beta ...", "eta"]]  # which one it answers
    assert [slider.description for slider in made[0].values()] == ["beta", "eta"]


def test_a_knob_whose_default_is_no_choice_is_refused() -> None:
    with pytest.raises(BioplausError, match="needs an argument beta whose default is one of"):
        lessons.knob(lambda figure, beta=3.0: None, beta=[0.1, 1.0])


def test_a_live_picture_is_drawn_on_an_empty_figure_each_time() -> None:
    n_axes = []

    def draw(figure: Figure) -> None:
        n_axes.append(len(figure.axes))
        figure.subplots(1, 2)

    live = lessons.Live(draw)
    live.update()
    assert n_axes == [0, 0]


def test_digits_are_float64_with_one_hot_targets() -> None:
    digits = lessons.digits(50)
    assert digits.x.shape == (50, 64) and digits.x.dtype == torch.float64
    assert digits.x.min() >= 0 and digits.x.max() <= 1
    assert torch.equal(digits.target.argmax(1), digits.y)
    assert torch.equal(digits.target.sum(1), torch.ones(50).double())
