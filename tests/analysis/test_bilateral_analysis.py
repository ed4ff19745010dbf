"""Outcomes, distances, maps and verdicts of the bilateral paper, by hand and by property."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bioplaus import rules
from bioplaus.analysis import experiment as analysis
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest
from bioplaus.papers.bilateral import (
    claims as hemisphere_results,
)
from bioplaus.papers.bilateral import (
    figures as hemisphere_plots,
)
from bioplaus.papers.bilateral import (
    measures as hemisphere_analysis,
)
from bioplaus.papers.bilateral import (
    runs as hemisphere_runs,
)
from bioplaus.tasks import hierarchies

SMALL = {
    "n_fine": 10,
    "n_coarse": 2,
    "in_channels": 1,
    "image_size": 8,
    "left": {"widths": [4, 4, 4, 6]},
}


def test_outcomes_are_numbered_as_they_are_named():
    right = torch.tensor(
        [[True, True, True, True], [True, False, True, False], [False, False, False, False]]
    )
    found = hemisphere_analysis.outcomes(*right.T)
    assert [hemisphere_analysis.OUTCOMES[k] for k in found] == [
        "ntbt-bicamntbt",
        "ntbf-bicamntbf",
        "nfbf-bicamnfbf",
    ]
    assert len(set(hemisphere_analysis.OUTCOMES)) == 16


def test_a_condition_that_never_occurs_gives_no_number():
    counts = [0] * 16
    counts[0] = 5  # everything is always right
    found = hemisphere_analysis.complementarity(counts)
    assert found["joined_fine"] == 1 and np.isnan(found["joined_fine_given_fine_wrong"])


def test_pairs_are_taken_within_runs_of_equal_labels_only():
    pairs = hemisphere_analysis.pairs_of_equal([3, 3, 3, 1, 3, 3])
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2], [4, 5]]
    assert hemisphere_analysis.pairs_of_equal([1, 2, 3]).shape == (0, 2)


def test_the_cosine_distance_is_that_of_the_angle():
    features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [-3.0, 0.0]])
    found = hemisphere_analysis.cosine_distance(
        features, np.array([[0, 1], [0, 2], [0, 3], [2, 2]])
    )
    torch.testing.assert_close(
        found, torch.tensor([1 - 0.5**0.5, 1, 2, 0]).double(), rtol=0, atol=1e-7
    )


def test_confusions_count_images_by_target_and_prediction():
    counts = hemisphere_analysis.confusion(
        torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 2]), 3
    )
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
    cams = hemisphere_analysis.grad_cam(net, image, [net.layer])
    for cam, (a, b) in zip(cams, image, strict=True):  # class 1 wins everywhere: weights 3 and 1
        expected = 3 * a + b
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        torch.testing.assert_close(cam.double(), expected, rtol=0, atol=1e-5)


def test_grad_cam_sees_frozen_hemispheres_and_leaves_the_network_as_it_was():
    frozen = {**SMALL["left"], "is_frozen": True}
    rule = rules.make("hemispheric_bp", {**SMALL, "left": frozen, "right": {}})
    before = {name: value.clone() for name, value in rule.net.state_dict().items()}
    cams = hemisphere_analysis.grad_cam(rule.net.train(), torch.randn(3, 1, 8, 8))
    assert cams.shape == (3, 8, 8) and 0 <= cams.min() and cams.max() <= 1 and cams.std() > 0
    assert rule.net.training and all(
        torch.equal(before[n], v) for n, v in rule.net.state_dict().items()
    )
    assert all(p.grad is None for p in rule.parameters())


@pytest.fixture
def found(monkeypatch):
    """An experiment whose runs have the accuracies that a test gives: accuracy(entry, seed) ->
    (fine, coarse).
    """

    def make(accuracy, preset="quick"):
        runs = tuple(
            run for run in manifest.runs(preset, ["bilateral"]) if run.experiment == "resnet9"
        )
        outcomes = []
        for run in runs:
            labels = np.arange(100) % 10
            coarse_of = [1, 0, 0, 0, 0, 0, 1, 0, 1, 1]
            fine, coarse = (round(100 * value) for value in accuracy(run.entry, run.seed))
            predicted = {
                "fine": np.where(np.arange(100) < fine, labels, (labels + 1) % 10).astype(np.uint8),
                "coarse": np.where(
                    np.arange(100) < coarse,
                    np.take(coarse_of, labels),
                    1 - np.take(coarse_of, labels),
                ),
            }
            heads = {"fine": ["fine"], "coarse": ["coarse"]}.get(
                run.entry.removesuffix("-2"), ["fine", "coarse"]
            )
            scores = hierarchies.score({head: torch.from_numpy(predicted[head].astype(int)) for head in heads},
                                       torch.from_numpy(np.stack([labels, np.take(coarse_of, labels)], 1)),
                                       torch.tensor(coarse_of))  # fmt: skip
            final = {f"test_{name}": value for name, value in scores.items()}
            record = {
                "status": "done",
                "final": final,
                "predictions": {head: predicted[head] for head in heads},
                "labels": labels,
                "coarse_of": coarse_of,
                "epochs": {
                    "epoch": np.arange(1),
                    **{name: np.array([value]) for name, value in final.items()},
                },
                "diagnostics": {},
                "parameters": {"total": 1, "trainable": 1, "with_buffers": 1},
            }
            about = {
                "id": run.id,
                "entry": run.entry,
                "seed": run.seed,
                "parameters": run.parameters,
            }
            outcomes.append(SimpleNamespace(run=about, record=record))
        differences = dict.fromkeys([run.entry for run in runs], "")
        return analysis.Analysis(
            "bilateral", "resnet9", preset, "title", runs, tuple(outcomes), 0, differences
        )

    return make


def test_a_difference_that_every_seed_shows_holds_its_reverse_is_contradicted_and_noise_is_undecided(
    found,
):
    def accuracy(entry, seed):
        base = {"specialised": 0.8, "fine": 0.7, "both": 0.9, "ensemble": 0.6}.get(entry, 0.5)
        if entry == "joint":  # now below, now above the specialised network
            base = (0.7, 0.8, 0.92)[seed]
        return base + 0.01 * (seed % 2), base

    claims = hemisphere_results.claims(found(accuracy))
    said = {claim["label"]: claim for claim in claims if claim["metric"] == "test_fine_accuracy"}
    for other, word, grade in (
        ("left alone (fine)", "holds", "within"),
        ("one hemisphere, both heads", "contradicted", "outside"),
        ("two hemispheres, trained together", "undecided", "open"),
    ):
        claim = next(
            c for label, c in said.items() if label.endswith(f"bilateral specialised above {other}")
        )
        assert claim["verdict"].startswith(word) and claim["grade"] == grade and claim["n"] == 3
    ensemble = next(claim for label, claim in said.items() if label.startswith("C3"))
    assert ensemble["verdict"].startswith("contradicted")


def test_accuracies_stand_beside_published_ones_of_the_same_data_set_and_name_those_of_another(
    found,
):
    def accuracy(entry, seed):
        return 0.7 + 0.01 * seed, 0.8

    rows = {(r["entry"], r["metric"]): r for r in hemisphere_results.accuracies(found(accuracy))}
    fine = rows["fine", "test_fine_accuracy"]
    assert (
        fine["ours"] == pytest.approx(0.71)
        and fine["ours_sd"] == pytest.approx(0.01)
        and fine["n"] == 3
    )
    assert (
        fine["published"] is None
        and fine["note"] == "published 0.6633 (one run, CIFAR-100, 2022 form)"
    )
    assert ("fine", "test_coarse_accuracy") not in rows and (
        "coarse",
        "test_coarse_from_fine_accuracy",
    ) not in rows
    assert not any(entry in hemisphere_results.COPIES for entry, _ in rows)
    assert (
        rows["ensemble", "test_fine_accuracy"]["axis"],
        rows["ensemble", "test_fine_accuracy"]["x"],
    ) == (
        "trained networks:",
        2,
    )
    rows = {
        (r["entry"], r["metric"]): r
        for r in hemisphere_results.accuracies(found(accuracy, preset="paper"))
    }
    # 5 seeds
    assert rows["fine", "test_fine_accuracy"]["difference"] == pytest.approx(0.72 - 0.6633)
    assert rows["specialised", "test_coarse_from_fine_accuracy"]["published"] == 0.8259


def test_the_interval_is_students(found):
    mean, half = hemisphere_results.interval([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3)
    # t(0.975, 2) from tables
    assert half == pytest.approx(4.302653 * np.std([1, 2, 4], ddof=1) / 3**0.5, rel=1e-6)
    assert np.isnan(hemisphere_results.interval([1.0])[1])


def test_seeds_are_paired_and_missing_ones_left_out(found):
    values = hemisphere_results.finals(
        found(lambda entry, seed: (0.5 + 0.1 * (entry == "both") * seed, 0.5))
    )
    values = values[~((values.entry == "both") & (values.seed == 1))]
    gaps = hemisphere_results.paired(
        values, ("both", "test_fine_accuracy"), ("joint", "test_fine_accuracy")
    )
    assert gaps.tolist() == pytest.approx([0.0, 0.2])


def test_an_empty_experiment_gives_claims_that_say_not_run_and_no_figure(found):
    empty = found(lambda entry, seed: (0.5, 0.5))
    empty = analysis.Analysis(
        "bilateral", "resnet9", "quick", "", empty.runs, (), 0, empty.differences
    )
    claims = hemisphere_results.claims(empty)
    assert claims and all(c["grade"] == "not-run" and c["ours"] is None for c in claims)
    for draw in (
        hemisphere_plots.accuracies,
        hemisphere_plots.complementarity,
        hemisphere_plots.confusions,
        # fmt: skip
        hemisphere_plots.distances,
        hemisphere_plots.attention,
        hemisphere_plots.curves,
    ):
        figure, drawn = draw(empty)
        assert figure is None and drawn.empty and len(drawn.columns)


def test_the_outcomes_of_the_figures_are_those_of_the_predictions(found):
    table = hemisphere_results.outcome_table(
        found(lambda entry, seed: {"fine": (0.6, 0), "coarse": (0, 0.7)}.get(entry, (0.8, 0.9)))
    )
    counts = table.iloc[0]
    assert (
        counts["ntbt-bicamntbt"] == 60
        and counts["nfbt-bicamntbt"] == 10
        and counts["nfbf-bicamntbt"] == 10
    )
    assert (
        counts["nfbf-bicamnfbt"] == 10
        and counts["nfbf-bicamnfbf"] == 10
        and counts.drop("seed").sum() == 100
    )


def test_figures_draw_what_they_say(found):
    here = found(lambda entry, seed: (0.6 + 0.01 * seed, 0.8))
    figure, drawn = hemisphere_plots.accuracies(here)
    assert len(figure.axes) == 2 and set(drawn.metric) <= {
        "test_fine_accuracy",
        "test_coarse_accuracy",
        "test_coarse_from_fine_accuracy",
    }
    assert (
        "both-2" not in set(drawn.entry)
        and drawn[drawn.entry == "both"].seed.tolist().count(1) == 3
    )
    figure, drawn = hemisphere_plots.confusions(here, ["fine"])
    diagonal = drawn[drawn.target == drawn.predicted].share.mean()
    assert diagonal == pytest.approx(0.61) and drawn.groupby(
        "target"
    ).share.sum().tolist() == pytest.approx([1] * 10)


SPEC = hierarchies.spec("digits")
GOOD = {
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
    empty = analysis.load("bilateral", "resnet9", "smoke")
    claims = hemisphere_results.parameter_claims(empty)
    assert len(claims) == 8 and all(claim["verdict"] == "equal" for claim in claims)
