"""Trajectories of the published bilateral code, replayed; and the numbers in its JSON files."""

import json
from pathlib import Path

import bilateral_ensembles as ensembles
import numpy as np
import pytest
import torch

from bioplaus.experiments import conformance
from bioplaus.nets import backbones
from bioplaus.papers.bilateral import (
    measures as hemisphere_analysis,
)
from bioplaus.papers.bilateral import (
    tables as hemisphere_results,
)
from bioplaus.rules import hemispheric_bp
from bioplaus.tasks import hierarchies

OWN = Path(__file__).parent / "bilateral"
N_FILES = 13


@pytest.mark.parametrize("path", sorted(OWN.glob("*.npz")), ids=lambda path: path.stem)
def test_a_golden_that_comes_with_the_project_conforms(path):
    (report,) = conformance.conform([path])
    assert report.ok, str(report)


def test_every_published_trajectory_conforms_to_1e_12(shared):
    reports = conformance.conform([shared / "golden" / "bilateral"])
    assert len(reports) == N_FILES and all(report.ok for report in reports), conformance.render(
        reports
    )
    float64 = [
        r for r in reports if not any(part in r.path for part in ("augment", "gradcam", "cosine"))
    ]
    assert max(report.largest_error for report in float64) < 1e-12
    assert max(report.largest_error for report in reports) < 1e-6  # what was published in float32


@pytest.mark.parametrize("is_named", ["algorithm", "arch", "no"])
@pytest.mark.parametrize("backbone", backbones.BACKBONES)
def test_an_ensemble_of_any_backbone_conforms(tmp_path, backbone, is_named):
    path = ensembles.write(tmp_path / "made.npz", backbone, is_named=is_named)
    (report,) = conformance.conform([path])
    assert report.ok, report
    assert report.n_keys == 8


@pytest.mark.parametrize("backbone", ["sparse_resnet9", "sparse_invresnet9"])
def test_an_ensemble_of_three_networks_with_sparse_convolutions_conforms(tmp_path, backbone):
    sparsity = {"k": 0.5, "per_k": 0.7}
    path = ensembles.write(tmp_path / "made.npz", backbone, n_members=3, **sparsity)
    (report,) = conformance.conform([path])
    assert report.ok, report
    assert report.n_keys == 10


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet10", "unknown backbone 'resnet10'; did you mean 'resnet18'"),
        ("vgg11", "backbone 'vgg11' has no widths at which its tensors are those of made.npz"),
    ],
)
def test_an_ensemble_of_another_backbone_than_it_says_fails_with_a_sentence(
    tmp_path, name, sentence
):
    path = ensembles.write(tmp_path / "made.npz", "resnet9", is_named="no")
    arrays = dict(np.load(path))
    meta = json.loads(str(arrays["meta"]))
    meta["hyperparameters"]["arch"] = name
    np.savez(path, **{**arrays, "meta": np.array(json.dumps(meta))})
    (report,) = conformance.conform([path])
    assert not report.ok and sentence in report.problem


@pytest.mark.parametrize(
    "key", ["expect.grad.batch1.hemisphere.conv3.0.weight", "expect.loss", "expect.grad_norm"]
)
def test_a_changed_number_is_found(shared, tmp_path, key):
    arrays = dict(np.load(shared / "golden" / "bilateral" / "unilateral_fine_resnet9.npz"))
    arrays[key] = arrays[key] * (1 + 1e-6)
    np.savez(tmp_path / "changed.npz", **arrays)
    (report,) = conformance.conform([tmp_path / "changed.npz"])
    assert not report.ok and report.first_key == key


def on_meta(build):
    """A network without data: counting 100 million parameters takes milliseconds."""
    with torch.device("meta"):
        return build()


def read(shared, name):
    return json.loads((shared / "golden" / "bilateral" / name).read_text())


def test_every_published_backbone_has_its_parameters_buffers_and_output_shape(shared):
    published = read(shared, "architectures.json")["backbones"]
    # the others are in files of the published code, but none of its experiments can select them
    for name in published.keys() & backbones.BACKBONES.keys():
        known, settings = published[name], backbones.Config(backbone=name)
        net = on_meta(lambda s=settings: backbones.build(s, 3, torch.Generator())).eval()
        assert backbones.parameter_count(net) == known["parameters"], name
        assert sum(b.numel() for b in net.buffers()) == known["buffers"], name
        shapes = [list(p.shape) for p in net.parameters()]
        assert shapes == list(known.get("parameter_shapes", dict(enumerate(shapes))).values()), name
        output = net(torch.empty(known["input_shape"], device="meta"))
        # those that a head could not read give a vector here: the mean over positions
        assert list(output.shape) == known["output_shape"][:2], name


def test_every_published_macro_architecture_has_its_parameters(shared):
    checked = 0
    for known in read(shared, "architectures.json")["macro"]:
        if "error" in known or known["mode_hemis"] == "ensemble":
            continue
        is_bilateral = known["mode_hemis"] == "bilateral"
        is_frozen = is_bilateral and known["freeze"]  # published: ignored with one hemisphere
        heads = "both" if is_bilateral else known["mode_heads"]
        left = {"backbone": known["arch"], "is_frozen": is_frozen}
        config = hemispheric_bp.Config(left=left, right={} if is_bilateral else None, heads=heads)
        net = on_meta(lambda c=config: hemispheric_bp.Rule(c, torch.Generator())).net
        assert backbones.parameter_count(net) == known["parameters"]
        assert backbones.parameter_count(net, trainable=True) == known["trainable"]
        assert (
            backbones.parameter_count(net, buffers=True) - known["parameters"] == known["buffers"]
        )
        checked += 1
    assert checked == 36


def test_the_superclasses_of_cifar100_are_the_published_ones(shared, tmp_path):
    known = read(shared, "fine_to_coarse.json")
    fine = np.repeat(np.arange(100), 2)
    coarse = np.asarray(known["fine_to_coarse"])[fine]
    pixels = np.zeros((200, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "like_cifar100.npz", x_train=pixels, y_train=fine, y_train_coarse=coarse,
             x_test=pixels, y_test=fine, y_test_coarse=coarse)  # fmt: skip
    task = hierarchies.load(str(tmp_path / "like_cifar100.npz"))
    assert task.coarse_of.tolist() == known["fine_to_coarse"]
    assert (task.spec.n_out, task.spec.n_coarse) == (
        len(known["fine_names"]),
        len(known["coarse_names"]),
    )
    assert np.bincount(known["fine_to_coarse"]).tolist() == [5] * 20


def test_the_published_outcome_counts_give_the_published_fractions(shared):
    known = read(shared, "published_outcomes.json")
    counts = [known["outcome_counts"][outcome.name] for outcome in hemisphere_analysis.OUTCOMES]
    assert sum(counts) == known["n_images"]
    found = hemisphere_analysis.complementarity(counts)
    names = {
        "fine_hemisphere": "fine_acc",
        "coarse_hemisphere": "coarse_acc",
        "joined_fine_given_fine_wrong": "bi_fine_given_n_wrong",
        "joined_fine_given_fine_right": "bi_fine_given_n_right",
        "joined_fine_given_fine_wrong_coarse_right": "bi_fine_nwrong_bright",
        "joined_fine_given_both_wrong": "bi_fine_nwrong_bwrong",
        "joined_coarse_given_coarse_wrong_fine_right": "bi_coarse_bwrong_nright",
        "joined_coarse_given_both_wrong": "bi_coarse_bwrong_nwrong",
        "joined_coarse_given_coarse_right": "bi_coarse_bright",
    }
    for ours, theirs in names.items():
        assert found[ours] == pytest.approx(known["derived"][theirs], abs=1e-12), ours
    assert found["joined_fine"] == pytest.approx(known["accuracy"]["bicam_n"], abs=1e-12)
    assert found["joined_coarse"] == pytest.approx(known["accuracy"]["bicam_b"], abs=1e-12)
    table = hemisphere_results.published_conditional()  # the committed csv, rounded to four digits
    assert all(
        table[name] == pytest.approx(found[name], abs=6e-5) for name in table if name in found
    )
    assert table["consistency_joined"] == pytest.approx(known["derived"]["bi_consistent"], abs=6e-5)
    assert table["consistency_separate"] == pytest.approx(
        known["derived"]["separate_consistent"], abs=6e-5
    )
