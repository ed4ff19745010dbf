"""Which decay the published curve of predictive coding belongs to: made-up seeds, known answers."""

import numpy as np
import pytest
from scipy import stats

from bioplaus import analysis, results
from bioplaus.analysis import published
from bioplaus.experiments import manifest
from bioplaus.papers.corinfomax import decays

N_EPOCHS = 15
SEEDS = tuple(range(0, 100, 10))


@pytest.fixture(autouse=True)
def _results(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path))


def write(setting, curves):
    """Complete runs of preset paper with these test accuracies, one row a seed."""
    planned = manifest.runs("paper", ["corinfomax"], only=f"pc_decays/decay-{setting}")
    names = ("id", "paper", "experiment", "entry", "label", "preset", "seed", "parameters")
    for run, curve in zip(planned, curves, strict=False):
        folder = results.begin(run.folder, {name: getattr(run, name) for name in names})
        epochs = {"epoch": np.arange(len(curve)), "test_accuracy": curve, "train_accuracy": curve}
        record = {"status": "done", "task": {"n_out": 10}, "epochs": epochs, "diagnostics": {}}
        results.finish(folder, record)


def like_published(seed=0):
    """Ten seeds with exactly the published mean and spread at every epoch."""
    curve = published.curve("corinfomax", decays.PLOTTED, "test_accuracy")
    points = [published.point(curve, x) for x in range(1, N_EPOCHS + 1)]
    noise = np.random.default_rng(seed).normal(size=(10, N_EPOCHS))
    noise = (noise - noise.mean(0)) / noise.std(0, ddof=1)
    return np.array([p.value for p in points]) + noise * np.array([p.sd for p in points])


def load():
    return analysis.load("corinfomax", "pc_decays", "paper")


def test_the_decay_with_the_published_mean_and_spread_is_named_and_the_others_are_not():
    fallen = like_published(1)
    fallen[:5, 8] -= 0.03  # half of the seeds fall in the ninth epoch
    write(1, like_published(2) - 0.02)
    write(2, fallen)
    write(3, like_published())
    write(4, like_published(3) - 0.01)
    rows = decays.summary(load()).set_index("decay")
    assert list(rows.index) == [1.0, 0.99, 0.95, 0.9]
    same = rows.loc[0.95]
    assert same.z == pytest.approx(0, abs=1e-9) and same["sd"] == pytest.approx(same.published_sd)
    assert same.p_sd == pytest.approx(0.5)
    wide = np.std(fallen, axis=0, ddof=1)
    curve = published.curve("corinfomax", decays.PLOTTED, "test_accuracy")
    at = int(wide.argmax()) + 1
    ratio = (wide.max() / published.point(curve, at).sd) ** 2
    assert rows.loc[0.99].p_sd == pytest.approx(stats.f.sf(ratio, 9, 9)) and at == 9
    assert rows.loc[0.99].falls >= 5
    assert decays.answer(rows.reset_index()) == (
        "Mean and spread of the published curve are compatible with decay 0.95."
    )
    figure = decays.draw(load()).figure
    assert [len(axes.lines) for axes in figure.axes] == [5, 5]


def test_where_none_fits_that_is_the_answer_and_without_all_four_there_is_none():
    for setting in (1, 2, 3):
        write(setting, like_published(setting) - 0.02)
    assert decays.answer(decays.summary(load())).startswith("Not decided here")
    write(4, like_published(4) - 0.02)
    assert decays.answer(decays.summary(load())).startswith("None of the four decays reproduces")


def test_nothing_is_drawn_of_ours_where_nothing_has_run():
    assert decays.summary(load()).empty and decays.draw(load()).figure is None
