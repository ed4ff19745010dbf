"""Pictures of networks: layers as columns of units, connections as arrows.

A picture is described by what is in it, so that a lesson draws the network it speaks of in a few
lines, and fills the units with activities while the network settles or learns.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from bioplaus.errors import BioplausError, unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADIUS = 0.16  # of a unit, in units of the drawing
SPACING = 0.42  # between the centres of two units of a layer
GAP = 0.1  # between a unit and the arrow that starts or ends there


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A column of units that are drawn alike.

    Attributes
    ----------
    x, y : centre of the column, in units of the drawing; columns are about 2 apart.
    label : text below the column, or above it; mathtext between dollar signs.
    n_units : units that are drawn, however many the layer has.
    colour : of the outlines, and of a unit whose activity is 1.
    shape : circles for units that carry a value, squares for units that carry an error.
    activity : (n_units,) values in [0, 1], 0 white and 1 the layer's colour; None leaves all white.
    """

    x: float
    y: float = 0.0
    label: str = ""
    label_side: Literal["below", "above"] = "below"
    n_units: int = 5
    colour: str = "#0072B2"
    shape: Literal["circle", "square"] = "circle"
    activity: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.activity is not None and len(self.activity) != self.n_units:
            raise BioplausError(
                f"The layer {self.label!r} draws {self.n_units} units, but was given"
                f" {len(self.activity)} activities."
            )

    @property
    def centres(self) -> list[tuple[float, float]]:
        """(x, y) of every unit, from the top down."""
        top = self.y + SPACING * (self.n_units - 1) / 2
        return [(self.x, top - SPACING * k) for k in range(self.n_units)]

    @property
    def half_height(self) -> float:
        """From the centre of the column to its upper edge."""
        return SPACING * (self.n_units - 1) / 2 + RADIUS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrow:
    """A connection between two layers, or of a layer to itself.

    Attributes
    ----------
    source, target : keys of layers; equal ones draw a loop above the layer.
    label : text beside the arrow; mathtext between dollar signs.
    level : height at which the arrow leaves and arrives, from -1 (lower edge of the columns) to 1
        (upper edge).
    bend : curvature; above 0 to the right of the direction of travel.
    is_dense : also draw a thin line between any two units of the two layers.
    """

    source: str
    target: str
    label: str = ""
    colour: str = "0.25"
    level: float = 0.0
    bend: float = 0.0
    style: Literal["-", "--", ":"] = "-"
    is_dense: bool = False


def draw_network(
    axes: "Axes", layers: Mapping[str, Layer], arrows: Sequence[Arrow] = (), *, title: str = ""
) -> None:
    """Draw a network; the axes lose their frame and show lengths alike in both directions.

    Parameters
    ----------
    layers : by the key that arrows use.
    arrows : drawn in this order, above the thin lines and below the units.

    Raises
    ------
    BioplausError
        If an arrow names a layer that is not there.
    """
    for arrow in arrows:
        for key in (arrow.source, arrow.target):
            if key not in layers:
                raise unknown("layer", key, layers)
        _draw_arrow(axes, layers[arrow.source], layers[arrow.target], arrow)
    for layer in layers.values():
        _draw_layer(axes, layer)
    widest = 0.9
    x, y = [layer.x for layer in layers.values()], list(layers.values())
    axes.set_xlim(min(x) - widest, max(x) + widest)
    axes.set_ylim(
        min(layer.y - layer.half_height for layer in y) - 0.7,
        max(layer.y + layer.half_height for layer in y) + 0.75,
    )
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title)


def _draw_layer(axes: "Axes", layer: Layer) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Circle, Rectangle

    colour = to_rgb(layer.colour)
    for k, (x, y) in enumerate(layer.centres):
        level = 0.0 if layer.activity is None else min(1.0, max(0.0, float(layer.activity[k])))
        fill = [1 - level * (1 - part) for part in colour]
        look = {"facecolor": fill, "edgecolor": colour, "linewidth": 1.6, "zorder": 3}
        if layer.shape == "circle":
            axes.add_patch(Circle((x, y), RADIUS, **look))
        else:
            axes.add_patch(Rectangle((x - RADIUS, y - RADIUS), 2 * RADIUS, 2 * RADIUS, **look))
    way, align = (1, "bottom") if layer.label_side == "above" else (-1, "top")
    y = layer.y + way * (layer.half_height + 0.14)
    axes.text(layer.x, y, layer.label, ha="center", va=align, color=layer.colour)


def _draw_arrow(axes: "Axes", source: Layer, target: Layer, arrow: Arrow) -> None:
    from matplotlib.patches import FancyArrowPatch

    if arrow.is_dense:
        for start in source.centres:
            for end in target.centres:
                axes.plot(*zip(start, end, strict=True), color="0.85", linewidth=0.6, zorder=1)
    if source is target:
        top = source.y + source.half_height
        start, end, bend = (source.x - 0.13, top), (source.x + 0.13, top), -2.2
        text, align = (source.x, top + 0.42), "bottom"
    else:
        start, end = _ends(source, target, arrow.level)
        bend = arrow.bend
        across = (end[1] - start[1], start[0] - end[0])  # to the right of the direction of travel
        shift = 0.5 * bend
        x, y = (0.5 * (start[i] + end[i]) + shift * across[i] for i in (0, 1))
        is_below = arrow.level < 0
        text = (x, y - 0.06 if is_below else y + 0.06)
        align = "top" if is_below else "bottom"
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=14,
            linewidth=1.8,
            linestyle=arrow.style,
            color=arrow.colour,
            zorder=2,
            shrinkA=0,
            shrinkB=0,
        )
    )
    written = axes.text(*text, arrow.label, color=arrow.colour, ha="center", va=align)
    if arrow.label:
        written.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8})


def _ends(
    source: Layer, target: Layer, level: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow between two layers starts and ends."""
    if abs(source.x - target.x) < RADIUS:  # one above the other
        way = 1 if target.y > source.y else -1
        x = source.x + level * RADIUS
        return (
            (x, source.y + way * (source.half_height + GAP)),
            (x, target.y - way * (target.half_height + GAP)),
        )
    way = 1 if target.x > source.x else -1
    return (
        (source.x + way * (RADIUS + GAP), source.y + level * (source.half_height - RADIUS)),
        (target.x - way * (RADIUS + GAP), target.y + level * (target.half_height - RADIUS)),
    )
