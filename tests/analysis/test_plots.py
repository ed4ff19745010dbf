"""Figures and tables: colours, what is drawn, and the files."""

import itertools

import numpy as np
import pandas
import pytest
from matplotlib import colors

from bioplaus import analysis, paths
from bioplaus.analysis import plots, style, tables
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest

LEARNED = np.linspace(0.94, 0.974, 10)


@pytest.fixture
def desk(write):
    """CorInfoMax: two seeds and one that collapsed at once; EP: one seed; toy: none."""
    write("desk", "corinfomax", 0, LEARNED, angles={1: 90.0, 501: 75.0, 1001: 70.0})
    write("desk", "corinfomax", 10, LEARNED + 0.002, angles={1: 89.0, 501: 74.0, 1001: 70.5})
    write("desk", "corinfomax", 20, np.full(10, 0.0982))
    write("desk", "ep", 0, np.linspace(0.95, 0.976, 50))
    return analysis.load("corinfomax", "mnist", "desk")


def draw(runs, metric="test_accuracy", **how):
    drawing = plots.curves(runs.curves(metric), xlabel="Epoch", ylabel="Test accuracy", **how)
    return drawing.data, drawing.figure


def saved(runs, figure, drawn, name="corinfomax_fig_x"):
    analysis.Output("corinfomax_fig_x", runs.preset).figure(
        name,
        analysis.Drawing(figure, drawn),
        runs,
        title="T",
        caption="C",
        claims=analysis.compare_curve(runs, "test_accuracy"),
    )
    folder = paths.root() / runs.preset / "figures"
    return {file.suffix: file.read_bytes() for file in folder.glob(f"{name}.*")}


def test_a_rule_has_one_colour_whatever_else_is_drawn():
    alone = style.lines({"mine": "my_new_rule"})["mine"]
    among = style.lines({"a": "ep", "b": "bp", "mine": "my_new_rule"})["mine"]
    assert alone == among and alone["color"] == style.colour("my_new_rule")


def test_rules_that_are_drawn_together_have_different_colours():
    together = {}
    for run in manifest.runs("paper"):
        if "rule" in run.parameters:
            together.setdefault((run.paper, run.experiment), set()).add(run.parameters["rule"])
    assert any(len(rules) > 5 for rules in together.values())
    for experiment, rules in together.items():
        colours = {rule: colors.to_rgb(style.colour(rule)) for rule in rules}
        for one, other in itertools.combinations(sorted(rules), 2):
            gap = np.abs(np.subtract(colours[one], colours[other])).max()
            assert gap > 0.15, f"{experiment}: {one} and {other}"


def test_entries_of_one_rule_share_its_colour_and_differ_by_dashes():
    looks = style.lines({"bp": "bp", "bp_ce": "bp", "ep": "ep"})
    assert looks["bp"]["color"] == looks["bp_ce"]["color"] != looks["ep"]["color"]
    assert looks["bp"]["linestyle"] != looks["bp_ce"]["linestyle"]


def test_every_line_that_is_drawn_is_in_the_csv_and_the_other_way_round(desk):
    drawn, figure = draw(desk)
    written = pandas.read_csv(pandas.io.common.BytesIO(saved(desk, figure, drawn)[".csv"]))
    keys = ["entry", "source", "part", "seed"]
    in_file = sorted(
        (list(rows.x), list(rows.value)) for _, rows in written.groupby(keys, dropna=False)
    )
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines]
    # a single point marks where a seed ended
    curves = sorted(line for line in lines if len(line[0]) > 1)
    assert len(in_file) == len(curves) == 5
    for (x_file, y_file), (x, y) in zip(in_file, curves, strict=True):
        assert x == x_file
        np.testing.assert_allclose(y, y_file, atol=1e-9)  # ten digits in the file


def test_the_axes_hold_every_mean_of_ours_and_end_with_our_longest_run(desk):
    drawn, figure = draw(desk, top=0.96)
    low, high = figure.axes[0].get_ylim()
    ours = drawn[(drawn.source == "ours") & (drawn.part == "mean")]
    assert low < ours.value.min() and ours.value.max() < high
    assert figure.axes[0].get_xlim() == (0, pytest.approx(51))


def test_a_seed_under_the_axes_is_pointed_at(desk):
    _, figure = draw(desk)
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "▼ CorInfoMax seed 20 collapsed: 0.098"
    ]


def test_the_legend_gives_n_and_names_what_collapsed_or_was_not_run(desk):
    _, figure = draw(desk)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["CorInfoMax (n = 2, 1 collapsed)", "EP (n = 1)", "published (n = 10)"]
    _, figure = draw(desk, "angle_2_deg", scale=1000)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["CorInfoMax (n = 2)", "published (n = 10)"]


def test_a_band_is_drawn_for_more_than_one_seed_only(desk):
    drawn = desk.curves("test_accuracy")
    for entry, n_bands in (("corinfomax", 1), ("ep", 0)):
        ours = drawn[(drawn.entry == entry) & (drawn.source == "ours")]
        figure = plots.curves(ours, xlabel="", ylabel="").figure
        assert len(figure.axes[0].collections) == n_bands


def test_equal_results_give_equal_bytes(desk):
    first = saved(desk, *reversed(draw(desk)))
    second = saved(desk, *reversed(draw(desk)))
    kinds = {".png", ".webp", ".pdf", ".csv", ".json"}
    assert set(first) == kinds and first == second


def test_nothing_to_draw_leaves_only_a_description_and_removes_an_old_figure(desk):
    saved(desk, *reversed(draw(desk)))
    assert set(saved(desk, None, desk.curves("test_accuracy"))) == {".json"}


def test_without_results_there_is_no_figure(home):
    runs = analysis.load("corinfomax", "mnist", "desk")
    assert draw(runs)[1] is None
    seeds = runs.curves("test_accuracy", seeds=True)
    assert plots.by_entry(seeds, xlabel="", ylabel="").figure is None


def test_each_entry_with_results_has_a_panel_with_all_its_seeds(desk):
    seeds = desk.curves("test_accuracy", seeds=True)
    figure = plots.by_entry(seeds, xlabel="Epoch", ylabel="Accuracy").figure
    assert [axes.get_title() for axes in figure.axes] == [
        "CorInfoMax (n = 2, 1 collapsed)",
        "EP (n = 1)",
    ]
    n_lines = [sum(len(line.get_xdata()) > 1 for line in axes.lines) for axes in figure.axes]
    assert n_lines == [5, 3]  # published, mean, and every seed


def test_rules_stand_on_one_y_axis_that_holds_all_their_means(desk):
    drawn = desk.curves("test_accuracy", seeds=True)
    figure = plots.by_entry(drawn, xlabel="Epoch", ylabel="Accuracy").figure
    (limits,) = {axes.get_ylim() for axes in figure.axes}
    means = drawn[(drawn.source == "ours") & (drawn.part == "mean")].value
    assert limits[0] < means.min() and means.max() < limits[1]


@pytest.mark.parametrize("spread", [[0.1, 0.2], [0.0, 0.0], [np.nan, np.nan]])
def test_the_one_drawer_of_bands_reaches_from_mean_minus_to_mean_plus_spread(spread):
    from matplotlib import pyplot as plt

    _, axes = plt.subplots()
    line = plots.band(axes, [1, 2], [0.5, 0.6], spread, color="#0072B2")
    assert list(line.get_ydata()) == [0.5, 0.6]
    if spread[0] > 0:
        (fill,) = axes.collections
        corners = {tuple(np.round(corner, 12)) for corner in fill.get_paths()[0].vertices}
        assert corners == {(1, 0.4), (1, 0.6), (2, 0.4), (2, 0.8)}
    else:
        assert not axes.collections


def test_colours_of_ordered_values_go_from_dark_to_light():
    grey = [np.dot(colors.to_rgb(shade), (0.2126, 0.7152, 0.0722)) for shade in style.ordered(6)]
    assert len(grey) == 6 and (np.diff(grey) > 0).all()


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (0.97622, 0.00121, "0.9762 ± 0.0012"),
        (0.97622, None, "0.9762"),
        (0.99998, 0.00002, "0.99998 ± 0.00002"),
        (0.9786, 0.0, "0.9786 ± 0.0000"),
        (None, None, "–"),
        (float("nan"), 0.1, "–"),
    ],
)
def test_numbers_are_written_with_their_spread(mean, sd, text):
    assert tables.number(mean, sd) == text


@pytest.mark.parametrize(
    ("gap", "text"),
    [(0.00123, "+0.0012"), (-0.00123, "−0.0012"), (-0.00001, "0.0000"), (None, "–")],
)
def test_differences_are_written_with_their_sign(gap, text):
    assert tables.signed(gap) == text


def test_a_table_is_written_as_csv_and_markdown_with_published_ours_and_verdict(desk, write):
    write("desk", "ep", 10, np.linspace(0.95, 0.977, 50))
    desk = analysis.load("corinfomax", "mnist", "desk")
    claims = analysis.compare_final(desk, ["test_accuracy"])
    out = analysis.Output("corinfomax_tab_x", "desk")
    shown = out.table("corinfomax_tab_x", claims, desk, title="T", caption="C")
    path = paths.root() / "desk" / "tables" / "corinfomax_tab_x.md"
    rows = path.read_text().splitlines()
    assert rows[0] == "| algorithm | quantity | at | published | ours | difference | verdict |"
    # Welch by hand: sqrt(0.0005^2 + 0.000846^2 / 10) = 0.000567, t of 1.8 degrees of freedom 4.75
    assert rows[3].startswith(
        "| EP | test accuracy | epoch 50 | 0.9762 ± 0.0008 (n = 10) "
        "| 0.9765 ± 0.0007 (n = 2) | +0.0003 [−0.00"
    )
    assert rows[3].endswith("| undecided, z = +0.6 |")
    assert list(shown.verdict) == [row.rsplit("|", 2)[1].strip() for row in rows[2:]]
    assert len(pandas.read_csv(path.with_suffix(".csv"))) == len(claims) == 3


def test_an_output_refuses_an_unknown_preset():
    with pytest.raises(BioplausError, match="unknown preset 'dekst'.*did you mean 'desk'"):
        analysis.Output("corinfomax_fig_x", "dekst")


def test_drawings_are_listed_in_the_order_in_which_they_were_drawn(desk):
    from bioplaus.analysis import saving

    out = analysis.Output("corinfomax_fig_x", "desk")
    for name in ("corinfomax_fig_x_b", "corinfomax_fig_other_name", "corinfomax_fig_x_a"):
        drawing = analysis.Drawing(None, desk.curves("test_accuracy"))
        out.figure(name, drawing, desk, title="T", caption="C")
    orders = {one["name"]: one["order"] for one in saving.described("desk", "corinfomax")}
    assert sorted(orders, key=orders.get) == [
        "corinfomax_fig_x_b",
        "corinfomax_fig_other_name",
        "corinfomax_fig_x_a",
    ]


def test_what_an_older_version_described_is_left_out(desk):
    from bioplaus.analysis import saving

    out = analysis.Output("corinfomax_fig_x", "desk")
    drawing = analysis.Drawing(None, desk.curves("test_accuracy"))
    out.figure("corinfomax_fig_x_new", drawing, desk, title="T", caption="C")
    old = paths.root() / "desk" / "figures" / "corinfomax_fig_x_old.json"
    old.write_text('{"name": "corinfomax_fig_x_old", "notebook": "corinfomax_fig_x"}')
    names = [one["name"] for one in saving.described("desk", "corinfomax")]
    assert names == ["corinfomax_fig_x_new"]
