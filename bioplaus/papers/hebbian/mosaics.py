"""Weight maps: each unit's weights as a small image, many of them side by side, still or redrawn
while training.

Images in colour are drawn as the CIFAR-10 notebook draws them, with one scale from the smallest to
the largest weight shown; grey ones as the author's MNIST notebook does, from blue through white (0)
to red, with a colour bar.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from bioplaus.errors import BioplausError

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage


def mosaic(
    weight: np.ndarray | Tensor, shape: Sequence[int], n_rows: int, n_columns: int
) -> np.ndarray:
    """The first n_rows x n_columns units as one image, unit 0 at the top left, row by row; empty
    tiles are NaN.

    Parameters
    ----------
    weight : (n_units, n_in), pixels row by row with the colour fastest.
    shape : (channels, height, width) of one tile.

    Returns
    -------
    (n_rows height, n_columns width) float for one channel, (..., ..., 3) for three.
    """
    channels, height, width = shape
    weight = np.asarray(weight.detach().cpu() if isinstance(weight, Tensor) else weight, np.float64)
    if weight.ndim != 2 or weight.shape[1] != channels * height * width:
        raise BioplausError(
            f"The weights have shape {weight.shape}, but tiles of {channels} x {height} x {width}"
            f" pixels need {channels * height * width} inputs."
        )
    n = n_rows * n_columns
    tiles = np.full((n, height, width, channels), np.nan)
    shown = weight[:n]
    tiles[: len(shown)] = shown.reshape(-1, height, width, channels)
    rows = tiles.reshape(n_rows, n_columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    image = rows.reshape(n_rows * height, n_columns * width, channels)
    return image[..., 0] if channels == 1 else image


def scaled(image: np.ndarray, ends: tuple[float, float] | None = None) -> np.ndarray:
    """Values from ends[0] to ends[1] as levels 0 to 255, uint8, rounded down and cut off there. NaN
    becomes 255.

    Parameters
    ----------
    ends : None takes the smallest and the largest value: one scale for the whole image.
    """
    low, high = ends or (np.nanmin(image), np.nanmax(image))
    levels = (
        255 * np.clip((image - low) / (high - low), 0, 1) if high > low else np.zeros_like(image)
    )
    return np.where(np.isnan(levels), 255, levels).astype(np.uint8)


def typical(weight: np.ndarray | Tensor) -> float:
    """Where colours may end so that most units can be seen: 1.25 times the median over units of
    their largest |weight|.

    Units that never won keep weights as large as the initial ones; at the largest weight of all,
    the others would fade.
    """
    weight = np.asarray(weight.detach().cpu() if isinstance(weight, Tensor) else weight)
    return 1.25 * float(np.median(np.abs(weight).max(axis=-1)))


def table(packed: Mapping[str, np.ndarray], n_units: int, **named: Any) -> "pandas.DataFrame":
    """What a mosaic draws, one unit a row, for the csv beside the figure.

    Parameters
    ----------
    packed : weights as `synapses.pack` keeps them in a result.
    named : columns with the same value in every row, put first.

    Returns
    -------
    Those columns, then unit; low, high; levels: two hexadecimal digits a weight, pixels row by row
    with the colour fastest, weight = low + level (high - low) / 255.
    """
    import pandas

    levels = [row.tobytes().hex() for row in packed["level"][:n_units]]
    ends = {name: packed[name][:n_units, 0].astype(float) for name in ("low", "high")}
    return pandas.DataFrame({**named, "unit": range(len(levels)), **ends, "levels": levels})


def side_of(n_units: int, most: int) -> int:
    """Rows and columns of the largest full square of at most `most` x `most` units."""
    return max(1, min(most, math.isqrt(n_units)))


def draw(
    axes: "Axes",
    weight: np.ndarray | Tensor,
    shape: Sequence[int],
    *,
    n_rows: int,
    n_columns: int | None = None,
    limit: float | None = None,
    bar: bool = True,
    title: str = "",
) -> "AxesImage":
    """Draw a mosaic, with a thin line between tiles.

    Parameters
    ----------
    weight, shape, n_rows, n_columns : as in `mosaic`; without `n_columns`, a square.
    limit : colours end at +-limit; None: at the largest weight shown (grey images), or at the
        smallest and the largest (colour images), as published.
    bar : with a colour bar (grey images only), ticks at 0 and +-limit; without `limit` at 0, the
        smallest weight and the largest, as published.
    """
    n_columns = n_columns or n_rows
    image = mosaic(weight, shape, n_rows, n_columns)
    if image.ndim == 3:
        ends = None if limit is None else (-limit, limit)
        drawn = axes.imshow(scaled(image, ends), interpolation="nearest")
    else:
        largest = limit or float(np.nanmax(np.abs(image))) or 1.0
        drawn = axes.imshow(image, cmap="bwr", vmin=-largest, vmax=largest, interpolation="nearest")
        if bar:
            low, high = (
                (-limit, limit) if limit else (float(np.nanmin(image)), float(np.nanmax(image)))
            )
            ends = sorted({low, 0.0, high}) if low < 0 < high else [low, high]
            axes.figure.colorbar(
                drawn, ax=axes, ticks=ends, shrink=0.8, format="%.2g", label="weight"
            )
    height, width = image.shape[:2]
    between = {"color": "white" if image.ndim == 3 else "0.6", "linewidth": 0.6}
    for k in range(1, n_rows):
        axes.axhline(k * height / n_rows - 0.5, **between)
    for k in range(1, n_columns):
        axes.axvline(k * width / n_columns - 0.5, **between)
    axes.set_axis_off()
    axes.set_title(title)
    return drawn


def live(
    rule: Any, shape: Sequence[int], *, side: int = 10, seconds: float = 4.0
) -> Callable[..., None]:
    """A view for `train.fit(..., on_epoch=live(rule, shape))`: the weight map redraws itself while
    the rule learns.

    Parameters
    ----------
    rule : has `weight`, (n_hidden, n_in); it is only read.
    shape : (channels, height, width) of a tile.
    side : rows and columns of the mosaic.
    seconds : least time between two drawings, so that drawing costs little however short an epoch
        is.
    """
    from IPython.display import display
    from matplotlib import pyplot as plt

    side = side_of(len(rule.weight), side)
    handle = display(display_id=True)
    drawn_at = -math.inf

    def redraw(epoch: int, metrics: dict[str, float]) -> None:
        nonlocal drawn_at
        if time.monotonic() - drawn_at < seconds:
            return
        figure, axes = plt.subplots(figsize=(5, 5))
        draw(axes, rule.weight, shape, n_rows=side, title=f"after epoch {epoch + 1}")
        if handle is not None:
            handle.update(figure)
        plt.close(figure)
        drawn_at = time.monotonic()

    return redraw
