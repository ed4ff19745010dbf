"""What the lessons in `notebooks/lessons` share: digits, a picture that moves, a knob, and the
check of an exercise.

A lesson builds its rule and its training loop in the open; only what would distract is here.
"""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from bioplaus.errors import BioplausError
from bioplaus.tasks import Spec, images

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
    """Handwritten digits of 8 x 8 pixels, split into training and test images.

    Attributes
    ----------
    x, x_test : (n, 64) float64, pixels in [0, 1], row by row.
    y, y_test : (n,) int64, the digit shown, 0 to 9.
    spec : what `rules.make` must know of them.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    spec: Spec

    @property
    def target(self) -> Tensor:
        """(n, 10) float64, a one at the digit shown and zeros elsewhere."""
        return functional.one_hot(self.y, self.spec.n_out).to(self.x)


def digits(n_train: int | None = None) -> Digits:
    """Scikit-learn's digits in float64; of the training images the first `n_train` of a fixed
    shuffle, or all 1440.
    """
    task = images.load("digits", n_train=n_train, dtype=torch.float64)
    (x, y), (x_test, y_test) = task.splits["train"], task.splits["test"]
    return Digits(x=x, y=y, x_test=x_test, y_test=y_test, spec=task.spec)


def use_style() -> None:
    """The package's figure style with smaller type, for figures that stand between text."""
    from matplotlib import pyplot as plt

    from bioplaus.analysis import style

    style.use_style()
    plt.rc("font", size=12)
    plt.rc("axes", labelsize=13, titlesize=13)
    plt.rc("legend", fontsize=11)
    plt.rc("xtick", labelsize=11)
    plt.rc("ytick", labelsize=11)
    plt.rc("figure", figsize=(8, 3.4))


class Live:
    """A picture that is drawn again while a loop runs, in one spot of the notebook.

    Parameters
    ----------
    draw : called with an empty figure; it draws what is known so far.
    size : width and height in inches.
    """

    def __init__(
        self, draw: "Callable[[Figure], None]", size: tuple[float, float] = (9, 3.4)
    ) -> None:
        from IPython.display import display
        from matplotlib import pyplot as plt

        self.draw = draw
        self.figure = plt.figure(figsize=size)
        draw(self.figure)
        # None outside of IPython, where there is no spot to draw in again
        self.handle = display(self.figure, display_id=True)
        plt.close(self.figure)  # shown by the handle, not once more at the end of the cell

    def update(self) -> None:
        """Draw again."""
        self.figure.clear()
        self.draw(self.figure)
        if self.handle is not None:
            self.handle.update(self.figure)


def knob(
    draw: "Callable[..., None]", size: tuple[float, float] = (9, 3.4), **choices: Sequence[Any]
) -> None:
    """A picture with a slider for each named argument of `draw`; it is drawn again when one moves.

    Without the package ipywidgets the picture of the defaults is shown, and a sentence says how to
    turn the knob by hand.

    Parameters
    ----------
    draw : called as draw(figure, **values) with an empty figure; every named argument has a
        default.
    size : width and height in inches.
    choices : values a slider can take, by argument, in the order of the slider; the default is one
        of them.

    Raises
    ------
    BioplausError
        If an argument is missing, or its default is not among its choices.
    """
    now = {}
    parameters = inspect.signature(draw).parameters
    for name, values in choices.items():
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        if default not in values:
            raise BioplausError(
                f"{draw.__name__} needs an argument {name} whose default is one of {list(values)}."
            )
        now[name] = default
    sliders = _sliders(choices, now)
    if sliders is None:
        named = " and ".join(choices)
        print(
            f"Sliders need the package ipywidgets. To turn the knob by hand, change the default of"
            f" {named} in {draw.__name__} above and run the cell again."
        )
    live = Live(lambda figure: draw(figure, **now), size)
    for name, slider in (sliders or {}).items():

        def move(change: Mapping[str, Any], name: str = name, slider: Any = slider) -> None:
            now[name] = change["new"]
            slider.description = f"{name} ..."  # some pictures take ten seconds
            try:
                live.update()
            finally:
                slider.description = name

        slider.observe(move, names="value")


def _sliders(
    choices: Mapping[str, Sequence[Any]], start: Mapping[str, Any]
) -> dict[str, Any] | None:
    """A slider for each name, shown one below the other; None without ipywidgets."""
    try:
        import ipywidgets
        from IPython.display import display
    except ImportError:
        return None
    sliders = {
        name: ipywidgets.SelectionSlider(
            options=list(values), value=start[name], description=name, continuous_update=False
        )
        for name, values in choices.items()
    }
    display(ipywidgets.VBox(list(sliders.values())))
    return sliders


def check(
    answer: Callable[..., Any],
    cases: Sequence[tuple[tuple[Any, ...], Any]],
    mistakes: Mapping[str, Callable[..., Any]] | None = None,
    *,
    name: str | None = None,
    tolerance: float = 1e-8,
) -> bool:
    """Print whether the function of an exercise is right and, if not, what is wrong with it.

    Parameters
    ----------
    answer : the function; one that returns None is not written yet.
    cases : (arguments, expected) pairs; expected is a number or a tensor.
    mistakes : by what to say, functions of the same arguments that make a likely mistake.
    name : what the answer is called, where `answer` only looks at it.
    tolerance : largest difference allowed, relative to the largest expected value.

    Returns
    -------
    Whether all cases are right. Nothing is raised, whatever the answer does.
    """
    name = name or answer.__name__
    for number, (arguments, expected) in enumerate(cases, start=1):
        try:
            given = answer(*copy.deepcopy(arguments))
        except Exception as error:  # whatever an unfinished answer does
            print(f"{name} stops in case {number} with {type(error).__name__}: {error}")
            return False
        if given is None:
            print(f"{name} is not written yet: replace its last line, and run both cells again.")
            return False
        if wrong := _difference(given, expected, tolerance):
            print(f"{name} is not right yet, case {number}: {wrong}")
            for sentence, mistaken in (mistakes or {}).items():
                if not _difference(given, mistaken(*copy.deepcopy(arguments)), tolerance):
                    print(sentence)
            return False
    print(f"Right: {name} passes {'its case' if len(cases) == 1 else f'all {len(cases)} cases'}.")
    return True


def _difference(given: Any, expected: Any, tolerance: float) -> str:
    """A sentence on how `given` differs from `expected`; empty where it does not."""
    try:
        mine = torch.as_tensor(given, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        return f"a number or a tensor was expected, not a {type(given).__name__}."
    right = torch.as_tensor(expected, dtype=torch.float64).detach()
    if mine.shape != right.shape:
        return f"its shape is {tuple(mine.shape)}, but {tuple(right.shape)} was expected."
    away = (mine - right).abs()
    if away.isnan().any() or (away > tolerance * max(1.0, right.abs().max().item())).any():
        worst = int(away.nan_to_num(torch.inf).argmax())
        where = (
            f" at entry {[int(i) for i in torch.unravel_index(torch.tensor(worst), mine.shape)]}"
            if mine.ndim
            else ""
        )
        return (
            f"you give {mine.flatten()[worst].item():.6g}{where}, but"
            f" {right.flatten()[worst].item():.6g} was expected."
        )
    return ""
