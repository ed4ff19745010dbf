"""Published numbers alone where nothing of ours can be held against them, and tables of grids."""

import numpy as np
import pytest

from bioplaus import analysis
from bioplaus.analysis import provenance, tables
from bioplaus.analysis.verdicts import Verdict
from bioplaus.errors import BioplausError

CURVE = np.linspace(0.36, 0.44, 3)
MANIFEST = """
paper: corinfomax
title: A paper
experiments:
  cifar10:
    title: CIFAR-10
    simulation: classify
    parameters: {dataset: cifar10, n_epochs: 50, batch_size: 20}
    seeds: [0, 10]
    presets: {desk: {parameters: {n_epochs: 3}}}
    entries:
      corinfomax:
        label: CorInfoMax
        parameters: {rule: corinfomax, config: {n_units: [3072, 1000, 10]}}
        published: {algorithm: CorInfoMax, dataset: CIFAR10, architecture: 3072-1000-10, setting: 3}
      ep:
        label: EP
        parameters: {rule: ep, config: {n_units: [3072, 500, 10]}}
        published: {algorithm: EP, dataset: CIFAR10, architecture: 3072-500-10, setting: 2}
        presets:
          desk: false
          quick: {parameters: {dataset: digits, n_epochs: 3, config: {n_units: [64, 20, 10]}}}
          smoke: {parameters: {dataset: cifar10-jpeg, n_train: 100}}
  grid:
    title: A grid
    simulation: classify
    parameters: {dataset: mnist, n_epochs: 50, rule: csm}
    seeds: [0, 10]
    entries:
      csm_mnist:
        parameters: {config: {n_units: [784, 500, 10]}}
        grid: {config.lr_ff: [[0.5, 0.375], [0.4, 0.275], [0.3, 0.2]]}
        published: {algorithm: CSM, dataset: MNIST, architecture: 784-500-10, setting: [1, 2]}
        presets: {desk: {}}
"""


@pytest.fixture
def project(home):
    (home / "Simulations" / "manifests" / "corinfomax.yaml").write_text(MANIFEST)
    return home


def load(preset, experiment="cifar10", **how):
    return analysis.load("corinfomax", experiment, preset, **{"beside": True, **how})


def draw(runs, *entries, **how):
    lines = [analysis.Line(runs, entry, "test_accuracy") for entry in entries]
    names = {"xlabel": "Epoch", "ylabel": "Accuracy", "title": "ours", "alone": "published"}
    return analysis.learning_curves(lines, **names, **how)[:2]


def test_a_jpeg_copy_of_the_published_data_is_held_against_nothing(project, write):
    write("smoke", "ep", 0, CURVE)
    runs = load("smoke")
    assert analysis.compare_curve(runs, "test_accuracy") == []
    assert set(runs.curves("test_accuracy").source) == {"ours"}
    assert [run.entry for run in runs.alone] == ["corinfomax", "ep"]
    assert "the data set is cifar10-jpeg" in " ".join(runs.provenance.remarks)


def test_what_a_preset_does_not_run_is_published_alone_and_is_no_claim_of_the_preset(project):
    runs = load("desk")
    assert runs.all_entries == ["corinfomax", "ep"]
    assert set(runs.published_curves("test_accuracy").label) == {"EP"}
    claims = {one.entry: one for one in analysis.compare_final(runs, ["test_accuracy"])}
    ep = claims["ep"]
    assert (ep.published, ep.n, ep.verdict) == (0.4948, 0, Verdict.NOT_RUN)
    assert not ep.is_planned and claims["corinfomax"].is_planned


def test_ours_is_drawn_on_the_left_and_what_is_published_alone_on_the_right(project, write):
    write("desk", "corinfomax", 0, CURVE)
    figure, drawn = draw(load("desk"), "corinfomax", "ep")
    assert [axes.get_title() for axes in figure.axes] == ["ours", "published"]
    left, right = ({line.get_xdata().size for line in axes.lines} for axes in figure.axes)
    assert left == {3, 50} and right == {50}
    assert set(drawn.entry) == {"cifar10/corinfomax/test_accuracy", "cifar10/ep/test_accuracy"}


def test_what_is_drawn_of_ours_is_not_said_to_be_not_run(project, write):
    write("quick", "ep", 0, CURVE)  # on digits, drawn beside the panel of what is published alone
    (remark,) = (
        remark
        for remark in load("quick").provenance.remarks
        if remark.startswith("Published curves without")
    )
    assert "not run" not in remark and "EP" not in remark and "PRESET=paper" in remark


def test_with_nothing_of_ours_everything_published_is_in_one_panel(project):
    figure, drawn = draw(load("desk"), "corinfomax", "ep")  # the first is planned, but was not run
    assert [axes.get_title() for axes in figure.axes] == ["published"]
    assert set(drawn.label) == {"CorInfoMax", "EP"} and set(drawn.source) == {"published"}


def test_runs_on_other_data_are_drawn_beside_a_panel_with_the_published(project, write):
    write("quick", "ep", 0, CURVE)
    figure, drawn = draw(load("quick"), "ep")
    assert len(figure.axes) == 2 and set(drawn.source) == {"ours", "published"}
    claims = analysis.compare_final(load("quick"))
    assert all(claim.published is None for claim in claims if claim.n)


def test_with_neither_there_is_no_figure(project):
    figure, drawn = draw(load("smoke"))
    assert figure is None and drawn.empty
    figure, drawn = draw(load("smoke").only(), "ep")
    assert figure is None and drawn.empty


def test_accuracies_in_percent_and_an_inset_only_where_the_curves_reach_it(project, write):
    write("desk", "corinfomax", 0, CURVE)
    figure, drawn = draw(load("desk"), "corinfomax", "ep", percent=True, zoom=(31, 50))
    assert drawn.value.max() > 40
    insets = [axes.child_axes for axes in figure.axes]
    assert [len(one) for one in insets] == [0, 1] and insets[1][0].get_xlim() == (31, 50)


def test_provenance_of_several_experiments_names_each_and_all_that_is_missing(project):
    parts = [load("desk").only("corinfomax"), load("desk", "grid")]
    both = provenance.merged([part.provenance for part in parts])
    assert both.experiments == ("cifar10", "grid") and len(both.missing) == 2 + 6
    assert both.datasets == ("cifar10", "mnist") and "ONLY" not in both.command
    assert all(missing.startswith(("cifar10: ", "grid: ")) for missing in both.missing)
    assert both.sentence == "Preset desk, data sets cifar10, mnist."


def test_provenance_of_nothing_and_of_two_presets_is_refused(project):
    with pytest.raises(BioplausError, match="none were given"):
        provenance.merged([])
    parts = [load("desk").provenance, load("quick").provenance]
    with pytest.raises(BioplausError, match="corinfomax at desk.*corinfomax at quick"):
        provenance.merged(parts)


def test_the_table_of_a_grid_says_what_varies_and_which_setting_was_chosen(project, write):
    for seed in (0, 10):
        write("desk", "csm_mnist-1", seed, np.full(50, 0.97), train=np.full(50, 0.990))
        write("desk", "csm_mnist-3", seed, np.full(50, 0.96), train=np.full(50, 0.995))
    shown, numbers = tables.grid(load("desk", "grid"))
    assert list(shown.varies) == ["lr_ff [0.5, 0.375]", "lr_ff [0.4, 0.275]", "lr_ff [0.3, 0.2]"]
    assert list(shown.chosen) == ["", "published", "ours"]
    assert shown["published, test accuracy"][1].startswith("0.9808 ± 0.0006")
    assert list(shown["ours, test accuracy"]) == [
        "0.9700 ± 0.0000 (n = 2)",
        "–",
        "0.9600 ± 0.0000 (n = 2)",
    ]
    assert len(numbers) == 6
    assert "chosen" not in tables.grid(load("desk", "grid"), chosen_by=None)[0]


def test_means_contain_collapsed_seeds_only_if_asked_for(project, write):
    write("desk", "csm_mnist-1", 0, np.full(50, 0.98))
    write("desk", "csm_mnist-1", 10, np.full(50, 0.10))
    runs = load("desk", "grid")
    assert runs.final("test_accuracy", "csm_mnist-1") == [0.98]
    assert runs.final("test_accuracy", "csm_mnist-1", collapsed=True) == [0.98, 0.10]
    kept, *_ = analysis.compare_final(runs, collapsed=True)
    assert kept.entry == "csm_mnist-1"
    assert kept.ours == pytest.approx(0.54) and not kept.note
