"""Weight maps: every pixel of every unit in its place, and the published colours."""

import numpy as np
import pytest
import torch

from bioplaus.errors import BioplausError
from bioplaus.papers.hebbian import mosaics, synapses


def test_grey_mosaic_has_each_unit_in_its_tile_row_by_row():
    weight = np.arange(6 * 6, dtype=float).reshape(6, 6)
    image = mosaics.mosaic(weight, (1, 2, 3), 2, 3)
    assert image.shape == (4, 9)
    for unit in range(6):
        top, left = 2 * (unit // 3), 3 * (unit % 3)
        assert np.array_equal(image[top : top + 2, left : left + 3], weight[unit].reshape(2, 3))


def test_colour_mosaic_keeps_the_colours_of_a_pixel_together():
    weight = np.arange(2 * 12, dtype=float).reshape(2, 12)
    image = mosaics.mosaic(torch.from_numpy(weight), (3, 2, 2), 1, 2)
    assert image.shape == (2, 4, 3)
    # unit 1, row 1, column 1: the last pixel
    assert image[1, 2 + 1].tolist() == weight[1, 9:12].tolist()


def test_tiles_without_a_unit_are_empty_and_drawn_white():
    image = mosaics.mosaic(np.array([[0.0, 1.0]]), (1, 1, 2), 1, 2)
    assert np.isnan(image[0, 2:]).all() and not np.isnan(image[0, :2]).any()
    assert mosaics.scaled(image).tolist() == [[0, 255, 255, 255]]


def test_scale_runs_from_the_smallest_to_the_largest_of_the_whole_image():
    image = np.array([[-1.0, 0.0], [1.0, 3.0]])
    assert mosaics.scaled(image).tolist() == [
        [0, 63],
        [127, 255],
    ]  # 255/4 = 63.75 and 127.5, rounded down
    assert mosaics.scaled(np.ones((2, 2))).tolist() == [[0, 0], [0, 0]]
    assert mosaics.scaled(image, (0.0, 1.0)).tolist() == [[0, 0], [255, 255]]


def test_weights_that_are_no_such_images_are_refused():
    with pytest.raises(BioplausError, match="tiles of 1 x 8 x 8 pixels need 64 inputs"):
        mosaics.mosaic(np.zeros((4, 63)), (1, 8, 8), 2, 2)


def test_grey_map_is_symmetric_about_zero_with_ticks_at_its_ends():
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    drawn = mosaics.draw(axes, np.array([[-0.5, 0.25, 2.0, 0.0]]), (1, 2, 2), n_rows=1)
    assert drawn.get_clim() == (-2.0, 2.0)
    assert figure.axes[1].get_yticks().tolist() == [-0.5, 0.0, 2.0]
    drawn = mosaics.draw(
        plt.subplots()[1], np.array([[-0.5, 0.25, 2.0, 0.0]]), (1, 2, 2), n_rows=1, limit=0.6
    )
    assert drawn.get_clim() == (-0.6, 0.6)
    plt.close("all")


def test_largest_square_of_units():
    assert [mosaics.side_of(n, 10) for n in (1, 8, 9, 100, 2000)] == [1, 2, 3, 10, 10]


def test_live_view_draws_at_most_every_few_seconds_and_leaves_the_weights(monkeypatch):
    clock, drawn = [0.0], []
    monkeypatch.setattr(mosaics.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(mosaics, "draw", lambda *values, **how: drawn.append(how["title"]))

    class Units:
        weight = torch.ones(4, 4)

    redraw = mosaics.live(Units(), (1, 2, 2), seconds=4.0)
    for epoch in range(10):
        clock[0] = float(epoch)
        redraw(epoch, {})
    assert drawn == ["after epoch 1", "after epoch 5", "after epoch 9"]
    assert torch.equal(Units.weight, torch.ones(4, 4))


def test_table_has_every_weight_as_two_digits_between_the_ends_of_its_row():
    packed = synapses.pack(torch.tensor([[0.0, 1.0, 0.2], [-2.0, 2.0, 0.0]]))
    table = mosaics.table(packed, 2, entry="bio")
    assert list(table.columns) == ["entry", "unit", "low", "high", "levels"]
    assert table.levels.tolist() == [
        "00ff33",
        "00ff80",
    ]  # 0.2 x 255 = 51; 127.5 rounds to the even 128
    assert table.low.tolist() == [0, -2] and table.high.tolist() == [1, 2]
