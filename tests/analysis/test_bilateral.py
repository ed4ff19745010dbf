"""Outcomes, distances, maps and verdicts of the bilateral paper, by hand and by property."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from bioplaus import analysis, results, rules
from bioplaus.analysis.verdicts import Verdict
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest
from bioplaus.papers.bilateral import claims, figures, measures, pictures, tables
from bioplaus.papers.bilateral import runs as hemisphere_runs
from bioplaus.tasks import hierarchies

SMALL = {
    "n_fine": 10,
    "n_coarse": 2,
    "in_channels": 1,
    "image_size": 8,
    "left": {"widths": [4, 4, 4, 6]},
}


def test_outcomes_are_numbered_and_named_as_published():
    right = torch.tensor(
        [[True, True, True, True], [True, False, True, False], [False, False, False, False]]
    )
    known = [measures.OUTCOMES[k] for k in measures.outcomes(*right.T)]
    assert known == [measures.Outcome(*map(bool, row)) for row in right]
    names = [outcome.name for outcome in known]
    assert names == ["ntbt-bicamntbt", "ntbf-bicamntbf", "nfbf-bicamnfbf"]
    assert known[1].words == ("correct", "wrong", "correct", "wrong")
    assert len(set(measures.OUTCOMES)) == 16


def test_a_condition_that_never_occurs_gives_no_number():
    counts = [0] * 16
    counts[0] = 5  # everything is always right
    result = measures.complementarity(counts)
    assert result["joined_fine"] == 1 and np.isnan(result["joined_fine_given_fine_wrong"])


def test_pairs_are_taken_within_runs_of_equal_labels_only():
    pairs = measures.pairs_of_equal([3, 3, 3, 1, 3, 3])
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2], [4, 5]]
    assert measures.pairs_of_equal([1, 2, 3]).shape == (0, 2)


def test_the_cosine_distance_is_that_of_the_angle():
    features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [-3.0, 0.0]])
    result = measures.cosine_distance(features, np.array([[0, 1], [0, 2], [0, 3], [2, 2]]))
    torch.testing.assert_close(
        result, torch.tensor([1 - 0.5**0.5, 1, 2, 0]).double(), rtol=0, atol=1e-7
    )


def test_confusions_count_images_by_target_and_prediction():
    counts = measures.confusion(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 2]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


class OneMap(nn.Module):
    """logit_k = sum over channels and positions of v_kc relu(image channel c): a map whose gradient
    is known.
    """

    def __init__(self, v):
        super().__init__()
        self.layer, self.v = nn.ReLU(), v

    def forward(self, x):
        return {"fine": self.layer(x).sum((2, 3)) @ self.v.T}


def test_grad_cam_weighs_each_map_by_the_gradient_of_the_predicted_class():
    v = torch.tensor([[1.0, -0.5], [3.0, 1.0]]).double()
    image = torch.rand(2, 2, 4, 4).double()
    net = OneMap(v)
    cams = measures.grad_cam(net, image, [net.layer])
    for cam, (a, b) in zip(cams, image, strict=True):  # class 1 wins everywhere: weights 3 and 1
        expected = 3 * a + b
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        torch.testing.assert_close(cam.double(), expected, rtol=0, atol=1e-5)


def test_grad_cam_sees_frozen_hemispheres_and_leaves_the_network_as_it_was():
    frozen = {**SMALL["left"], "is_frozen": True}
    rule = rules.make("hemispheric_bp", {**SMALL, "left": frozen, "right": {}})
    before = {name: value.clone() for name, value in rule.net.state_dict().items()}
    cams = measures.grad_cam(rule.net.train(), torch.randn(3, 1, 8, 8))
    assert cams.shape == (3, 8, 8) and 0 <= cams.min() and cams.max() <= 1 and cams.std() > 0
    assert rule.net.training and all(
        torch.equal(before[n], v) for n, v in rule.net.state_dict().items()
    )
    assert all(p.grad is None for p in rule.parameters())


SUPERCLASS = np.array([1, 0, 0, 0, 0, 0, 1, 0, 1, 1])


def record_of(entry, fine, coarse):
    """What a run of 100 images in ten classes keeps, with so many per cent right."""
    labels, first = np.arange(100) % 10, np.arange(100)
    predicted = {
        "fine": np.where(first < round(100 * fine), labels, (labels + 1) % 10).astype(np.uint8),
        "coarse": np.where(first < round(100 * coarse), SUPERCLASS[labels], 1 - SUPERCLASS[labels]),
    }
    kind = entry.removesuffix("-2")
    heads = [kind] if kind in ("fine", "coarse") else ["fine", "coarse"]
    scores = hierarchies.score(
        {head: torch.from_numpy(predicted[head].astype(int)) for head in heads},
        torch.from_numpy(np.stack([labels, SUPERCLASS[labels]], 1)),
        torch.from_numpy(SUPERCLASS),
    )
    final = {f"test_{name}": value for name, value in scores.items()}
    return {
        "status": "done",
        "final": final,
        "predictions": {head: predicted[head] for head in heads},
        "labels": labels,
        "coarse_of": SUPERCLASS.tolist(),
        "epochs": {
            "epoch": np.arange(1),
            **{name: np.array([value]) for name, value in final.items()},
        },
        "diagnostics": {},
        "parameters": {"total": 1, "trainable": 1, "with_buffers": 1},
    }


def runs_of(accuracy, preset="quick", n_seeds=3):
    """An experiment whose runs have these accuracies: accuracy(entry, seed) -> (fine, coarse)."""
    planned = [run for run in manifest.runs(preset, ["bilateral"]) if run.experiment == "resnet9"]
    first = {run.entry: run for run in reversed(planned)}
    runs = [dataclasses.replace(run, seed=k) for run in first.values() for k in range(n_seeds)]
    outcomes = [
        results.Outcome(
            run={"id": run.id, "entry": run.entry, "seed": run.seed, "parameters": run.parameters},
            record=record_of(run.entry, *accuracy(run.entry, run.seed)),
        )
        for run in runs
    ]
    return analysis.RunSet(
        paper="bilateral",
        experiment="resnet9",
        preset=preset,
        title="title",
        runs=tuple(runs),
        outcomes=tuple(outcomes),
        n_foreign=0,
        differences=dict.fromkeys(first, ""),
    )


def contested(entry, seed):
    """Above some networks and below others in every seed; now above, now below `joint`."""
    base = {"specialised": 0.8, "fine": 0.7, "both": 0.9, "ensemble": 0.6}.get(entry, 0.5)
    if entry == "joint":
        base = (0.7, 0.8, 0.92, 0.75, 0.85)[seed]
    jitter = 0.01 * (seed % 2) if entry == "specialised" else 0.0
    return base + jitter, base


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_what_every_seed_shows_holds_its_reverse_is_contradicted_and_noise_is_undecided(n_seeds):
    rows = [row for row in claims.claims(runs_of(contested, n_seeds=n_seeds))]
    fine = {row.label: row for row in rows if row.metric == "test_fine_accuracy"}
    for other, verdict in (
        ("left alone (fine)", Verdict.HOLDS),
        ("one hemisphere, both heads", Verdict.CONTRADICTED),
        ("two hemispheres, trained together", Verdict.UNDECIDED),
    ):
        end = f"bilateral specialised above {other}"
        (row,) = [row for label, row in fine.items() if label.endswith(end)]
        assert row.n == n_seeds
        assert row.verdict is (verdict if n_seeds == 5 else Verdict.UNDECIDED)
    (ensemble,) = [row for label, row in fine.items() if label.startswith("C3")]
    assert ensemble.verdict is (Verdict.CONTRADICTED if n_seeds == 5 else Verdict.UNDECIDED)


def test_accuracies_stand_beside_published_ones_of_the_same_data_set_and_name_those_of_another():
    def accuracy(entry, seed):
        return 0.7 + 0.01 * seed, 0.8

    def rows_of(runs):
        return {(row.entry, row.metric): row for row in claims.accuracies(runs)}

    rows = rows_of(runs_of(accuracy))
    fine = rows["fine", "test_fine_accuracy"]
    assert (fine.ours, fine.ours_sd, fine.n) == (pytest.approx(0.71), pytest.approx(0.01), 3)
    assert fine.published is None
    assert fine.note == "published 0.6633 (one run, CIFAR-100, 2022 form)"
    assert ("fine", "test_coarse_accuracy") not in rows
    assert ("coarse", "test_coarse_from_fine_accuracy") not in rows
    assert not any(entry in tables.COPIES for entry, _ in rows)
    ensemble = rows["ensemble", "test_fine_accuracy"]
    assert (ensemble.axis, ensemble.x) == ("trained networks:", 2)
    rows = rows_of(runs_of(accuracy, preset="paper"))
    fine = rows["fine", "test_fine_accuracy"]
    assert fine.difference == pytest.approx(0.71 - 0.6633) and fine.verdict is Verdict.SHOWN
    assert rows["specialised", "test_coarse_from_fine_accuracy"].published == 0.8259


def test_seeds_are_paired_and_missing_ones_left_out():
    values = tables.finals(runs_of(lambda entry, seed: (0.5 + 0.1 * (entry == "both") * seed, 0.5)))
    values = values[~((values.entry == "both") & (values.seed == 1))]
    pair = ("both", "test_fine_accuracy"), ("joint", "test_fine_accuracy")
    assert tables.differences(values, *pair) == pytest.approx([0.0, 0.2])


def test_the_interval_of_a_summary_is_students():
    values = tables.finals(runs_of(lambda entry, seed: ((0.1, 0.2, 0.4)[seed], 0.5)))
    row = tables.summary(values, ["test_fine_accuracy"]).iloc[0]
    # t(0.975, 2) from tables
    half = 4.302653 * np.std([0.1, 0.2, 0.4], ddof=1) / 3**0.5
    assert (row["mean"], row.high - row["mean"]) == pytest.approx((0.7 / 3, half), rel=1e-6)


def test_an_empty_experiment_gives_claims_that_say_not_run_and_no_figure():
    empty = dataclasses.replace(runs_of(contested), outcomes=())
    rows = claims.claims(empty)
    assert rows and {row.verdict for row in rows} == {Verdict.NOT_RUN}
    for draw in (
        figures.accuracies,
        figures.complementarity,
        figures.confusions,
        figures.curves,
        pictures.distances,
        pictures.attention,
    ):
        figure, drawn, _ = draw(empty)
        assert figure is None and drawn.empty and len(drawn.columns)


def test_the_outcomes_of_the_figures_are_those_of_the_predictions():
    chances = {"fine": (0.6, 0), "coarse": (0, 0.7)}
    runs = runs_of(lambda entry, seed: chances.get(entry, (0.8, 0.9)))
    counts = tables.outcome_table(runs).iloc[0].drop("seed")
    expected = {
        (True, True, True, True): 60,
        (False, True, True, True): 10,
        (False, False, True, True): 10,
        (False, False, False, True): 10,
        (False, False, False, False): 10,
    }
    assert counts[counts > 0].to_dict() == {
        measures.Outcome(*four).name: n for four, n in expected.items()
    }


def test_figures_draw_what_they_say():
    runs = runs_of(lambda entry, seed: (0.6 + 0.01 * seed, 0.8))
    figure, drawn, _ = figures.accuracies(runs)
    assert len(figure.axes) == 2
    assert set(drawn.metric) == {
        "test_fine_accuracy",
        "test_coarse_accuracy",
        "test_coarse_from_fine_accuracy",
    }
    assert "both-2" not in set(drawn.entry)
    fine, coarse = figure.axes
    assert len(fine.patches) == drawn[drawn.metric == "test_fine_accuracy"].entry.nunique()
    assert [bar.get_width() for bar in coarse.patches] == pytest.approx([0.8] * len(coarse.patches))
    drawn = figures.confusions(runs, ["fine"]).data
    assert drawn[drawn.target == drawn.predicted].share.mean() == pytest.approx(0.61)
    assert drawn.groupby("target").share.sum().tolist() == pytest.approx([1] * 10)


def test_confusions_are_sorted_by_superclass_with_lines_between_them():
    figure, drawn, _ = figures.confusions(runs_of(contested), ["fine", "both"])
    order = drawn.target.drop_duplicates().tolist()
    assert order == [1, 2, 3, 4, 5, 7, 0, 6, 8, 9]  # of superclass 0, then of 1
    for axes in figure.axes[:2]:
        lines = [one for one in axes.collections if len(one.get_paths()) == 1]
        assert {
            tuple(line.get_segments()[0][0]) for line in lines if hasattr(line, "get_segments")
        } == {
            (0.0, 6.0),
            (6.0, 0.0),
        }


SPEC = hierarchies.spec("digits")
GOOD = {
    "n_epochs": 3,
    "batch_size": 64,
    "checkpoints": {},
    "members": {},
    "ensemble": "",
    "n_views": 0,
    "copy": 0,
    "report": "best",
    "n_kept": 0,
}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"ensemble": "mean", "members": {"a": "x"}},
            "An ensemble needs at least two members, but this one has 1.",
        ),
        ({"ensemble": "mean"}, "An ensemble needs at least two members, but this one has 0."),
        (
            {"ensemble": "median", "members": {"a": "x", "b": "y"}},
            "unknown ensemble 'median'; did you mean 'mean'",
        ),
        (
            {"ensemble": "specialists", "members": {"fine": "x", "rough": "y"}},
            "called fine and coarse, not fine and rough",
        ),
        ({"checkpoints": {"right": "x"}}, "unknown hemisphere in checkpoints 'right'"),
        ({"n_views": 2}, "only where all hemispheres have is_frozen true and frozen_norm is eval"),
        ({"n_views": -1}, "n_views is -1, but must be at least 0"),
        ({"report": "first"}, "unknown report 'first'"),
        ({"n_kept": 5}, "checkpoints must name both"),
    ],
)
def test_a_run_that_cannot_work_is_one_sentence(values, sentence):
    with pytest.raises(BioplausError) as error:
        hemisphere_runs.check("hemispheric_bp", SMALL, SPEC, **{**GOOD, **values})
    assert sentence in str(error.value)


def test_the_reported_epoch_is_the_first_with_the_lowest_validation_error_or_the_last():
    epochs = [
        {"epoch": k, "validation_error": e, "test_fine_accuracy": k / 10}
        for k, e in enumerate([0.5, 0.2, 0.2, 0.4])
    ]
    assert hemisphere_runs.final(epochs, "best")["epoch"] == 1
    assert hemisphere_runs.final(epochs, "last")["epoch"] == 3
    assert hemisphere_runs.final([], "best") == {}


def test_every_run_of_the_manifest_could_start():
    for preset in manifest.PRESETS:
        planned = manifest.runs(preset, ["bilateral"])
        for run in planned:
            run.check()
        ids = {run.id for run in planned}
        assert all(set(run.needs.values()) <= ids for run in planned)
        json.dumps([run.parameters for run in planned])


def test_the_published_parameter_counts_are_met():
    rows = claims.parameter_claims(analysis.load("bilateral", "resnet9", "smoke"))
    assert len(rows) == 8 and {row.verdict for row in rows} == {Verdict.AGREES}
