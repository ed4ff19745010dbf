"""Pictures of networks: what is drawn, and where."""

import pytest
from matplotlib import colors
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from bioplaus.analysis.network import Arrow, Layer, draw_network
from bioplaus.errors import BioplausError


@pytest.fixture
def axes():
    return Figure().subplots()


def test_every_unit_is_a_circle_or_a_square(axes) -> None:
    layers = {"a": Layer(x=0, n_units=3), "b": Layer(x=2, n_units=2, shape="square")}
    draw_network(axes, layers)
    assert sum(isinstance(patch, Circle) for patch in axes.patches) == 3
    assert sum(isinstance(patch, Rectangle) for patch in axes.patches) == 2


def test_units_of_a_layer_stand_symmetrically_about_its_centre() -> None:
    centres = Layer(x=1.0, y=0.5, n_units=4).centres
    assert {x for x, _ in centres} == {1.0}
    assert sum(y for _, y in centres) / 4 == pytest.approx(0.5)


def test_an_activity_of_0_is_white_and_of_1_the_colour_and_beyond_is_cut_off(axes) -> None:
    layer = Layer(x=0, n_units=4, colour="#336699", activity=[0.0, 1.0, -3.0, 7.0])
    draw_network(axes, {"a": layer})
    white, full = (1.0, 1.0, 1.0), colors.to_rgb("#336699")
    fills = [patch.get_facecolor()[:3] for patch in axes.patches]
    assert fills == [pytest.approx(fill) for fill in (white, full, white, full)]


def test_a_dense_arrow_also_draws_a_line_between_any_two_units(axes) -> None:
    layers = {"a": Layer(x=0, n_units=3), "b": Layer(x=2, n_units=4)}
    draw_network(axes, layers, [Arrow(source="a", target="b", is_dense=True)])
    assert len(axes.lines) == 12
    assert sum(isinstance(patch, FancyArrowPatch) for patch in axes.patches) == 1


def test_an_arrow_points_from_its_source_to_its_target(axes) -> None:
    layers = {"a": Layer(x=0), "b": Layer(x=2), "above": Layer(x=0, y=4)}
    arrows = [Arrow(source=s, target=t) for s, t in (("a", "b"), ("b", "a"), ("a", "above"))]
    draw_network(axes, layers, arrows)
    ends = [patch._posA_posB for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    ways = [(end[0] - start[0], end[1] - start[1]) for start, end in ends]
    assert ways[0][0] > 0 > ways[1][0]
    assert ways[2][0] == pytest.approx(0) and ways[2][1] > 0


def test_an_arrow_to_a_layer_that_is_not_there_is_refused_by_name(axes) -> None:
    with pytest.raises(BioplausError, match="'hiden'.*did you mean 'hidden'"):
        draw_network(axes, {"hidden": Layer(x=0)}, [Arrow(source="hidden", target="hiden")])


def test_activities_must_be_as_many_as_units() -> None:
    with pytest.raises(BioplausError, match="draws 5 units, but was given 2 activities"):
        Layer(x=0, activity=[0.0, 1.0])
