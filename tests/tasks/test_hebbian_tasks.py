"""Inputs of the competing hidden units: preprocessing by name, natural patches, orders of batches,
hidden features.
"""

import numpy as np
import pytest
import torch

from bioplaus import rules
from bioplaus.errors import BioplausError
from bioplaus.tasks import Spec, features, images, patches, preprocessing
from bioplaus.tasks import datasets as data


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(n: int, n_in: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, n_in, generator=generator(seed), dtype=torch.float64)


def numbered(n: int = 23, labelled: bool = True) -> features.Inputs:
    """Inputs whose only pixel is their own number."""
    spec = Spec(name="numbers", kind="classification" if labelled else "features", n_in=1, n_out=3)
    x = torch.arange(n, dtype=torch.float64)[:, None]
    # fmt: skip
    return features.Inputs(
        spec=spec,
        x={"train": x, "test": x + 100},
        y={"train": x[:, 0].long() % 3, "test": x[:, 0].long() % 3},
        fingerprint="n",
    )


# --- preprocessing --------------------------------------------------------------------------------
# -------------------


def test_centring_takes_the_mean_of_all_training_images_and_the_test_sets_own():
    train, held_out, test = pixels(9), pixels(4, seed=1), pixels(6, seed=2)
    found = preprocessing.PREPROCESSING["centred"].finish(
        {"train": train.clone(), "validation": held_out.clone(), "test": test.clone()}
    )
    mean = np.concatenate([train, held_out]).mean(0)
    for split, raw, centre in (
        ("train", train, mean),
        ("validation", held_out, mean),
        ("test", test, test.numpy().mean(0)),
    ):
        expected = raw.numpy() - centre
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert np.allclose(found[split].numpy(), expected, rtol=0, atol=1e-14), split


def test_mended_centring_takes_the_training_mean_for_test_images_too():
    train, test = pixels(9), pixels(6, seed=2)
    found = preprocessing.PREPROCESSING["centred_train_mean"].finish(
        {"train": train.clone(), "test": test.clone()}
    )
    expected = test.numpy() - train.numpy().mean(0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(found["test"].numpy(), expected, rtol=0, atol=1e-14)


def test_second_step_gives_rows_of_zero_mean_and_unit_norm():
    x = features.SECOND["row_centred"](pixels(7), "test")
    assert x.mean(1).abs().max() < 1e-15
    assert torch.allclose(x.norm(dim=1), torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-14)
    y = features.SECOND["unit_norm"](pixels(7), "test")
    assert torch.allclose(y, pixels(7) / pixels(7).norm(dim=1, keepdim=True), rtol=0, atol=1e-15)
    assert torch.equal(features.SECOND["none"](pixels(7), "test"), pixels(7))


@pytest.mark.parametrize("first", ["unit_norm", "centred"])
def test_blank_image_is_named_in_one_sentence(first):
    x = pixels(5)
    # its own mean: nothing is left of it
    x[3] = 0 if first == "unit_norm" else x[[0, 1, 2, 4]].mean(0)
    with pytest.raises(BioplausError, match="1 of 5 train inputs have norm 0.*first number 3"):
        preprocessing.PREPROCESSING[first].finish({"train": x})


def test_constant_image_cannot_be_centred_by_its_own_mean():
    x = pixels(5)
    x[2] = 0.25
    with pytest.raises(BioplausError, match="1 of 5 test inputs have norm 0.*first number 2"):
        features.SECOND["row_centred"](x, "test")


def test_colour_becomes_the_fastest_index_of_a_pixel():
    image = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)  # (n, colour, row, column)
    flat = preprocessing.colour_last(image)
    for n, colour, row, column in [(0, 0, 0, 0), (0, 2, 0, 0), (1, 1, 3, 2), (1, 2, 3, 4)]:
        assert flat[n, (row * 5 + column) * 3 + colour] == image[n, colour, row, column]


def test_loaded_images_are_grey_levels_between_0_and_1():
    task = features.load("synthetic", first="pixels", dtype=torch.float64)
    about, raw = data.about("synthetic"), data.read("synthetic")
    assert task.spec.image_shape == about.shape
    expected = raw.x_train.transpose(0, 2, 3, 1).reshape(about.n_train, -1) / about.top
    x, y = task.splits["train"]
    assert np.array_equal(x.numpy(), expected)
    assert np.array_equal(y.numpy(), raw.labels["fine"][0])


def test_validation_images_are_held_out_of_the_prepared_training_set():
    whole, parts = (
        features.load("digits", first="centred", validation=held_out, seed=4, dtype=torch.float64)
        for held_out in (0.0, 0.1)
    )
    whole, parts = whole.inputs, parts.inputs
    assert {split: len(x) for split, x in parts.x.items()} == {
        "train": 1296,
        "validation": 144,
        "test": 357,
    }
    together = torch.cat([parts.x["train"], parts.x["validation"]])
    rows = {tuple(np.round(row, 9)) for row in together.tolist()}
    assert rows == {tuple(np.round(row, 9)) for row in whole.x["train"].tolist()}
    assert torch.equal(parts.x["test"], whole.x["test"])
    assert parts.fingerprint != whole.fingerprint


def test_fingerprint_of_prepared_images_is_of_the_unprepared_set_and_the_preprocessing():
    task = images.load("digits", preprocessing="centred")
    unprepared = images.load("digits", preprocessing="unit").fingerprint
    expected = features.digest(features.digest(unprepared, "centred"), "permuted", "")
    assert features.load("digits", first="centred").fingerprint == expected
    assert task.fingerprint not in (unprepared, expected)  # of images its own name is in it


def test_a_preprocessing_of_images_is_that_of_features():
    ours = images.load("digits", preprocessing="centred").splits["test"][0]
    assert torch.equal(features.load("digits", first="centred").splits["test"][0], ours)


def test_unknown_preprocessing_is_named_with_the_nearest():
    with pytest.raises(BioplausError, match="did you mean 'centred'"):
        features.spec("digits", first="centered")


# --- natural patches
# -------------------------------------------------------------------------------------------------


def test_patches_are_the_same_for_a_seed_and_others_for_another():
    settings = patches.Config(side=6, n_patches=300)
    one, again, other = (patches.load(settings, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.x, again.x) and one.fingerprint == again.fingerprint
    assert not torch.equal(one.x, other.x) and one.fingerprint != other.fingerprint
    assert one.spec == patches.spec(settings) and one.spec.n_in == 36


def test_patches_are_unit_vectors_and_colours_triple_the_inputs():
    found = patches.load(patches.Config(side=5, n_patches=200, is_colour=True), dtype=torch.float64)
    assert found.x.shape == (200, 75)
    ones = torch.ones(200, dtype=torch.float64)
    assert torch.allclose(found.x.norm(dim=1), ones, rtol=0, atol=1e-12)


def test_unwhitened_patches_are_pieces_of_the_photographs_of_enough_contrast():
    settings = patches.Config(side=4, n_patches=50, whitening=None)
    grey = [photo.mean(2) / 255 for photo in map(patches._photograph, patches.PHOTOGRAPHS)]
    windows = np.concatenate(
        [np.lib.stride_tricks.sliding_window_view(g, (4, 4)).reshape(-1, 16) for g in grey]
    )
    windows = windows[windows.std(1) > patches.LEAST_CONTRAST]
    windows -= windows.mean(1, keepdims=True)
    windows /= np.linalg.norm(windows, axis=1, keepdims=True)
    for row in patches.load(settings, dtype=torch.float64).x.numpy()[::10]:
        assert (windows @ row).max() == pytest.approx(1, abs=1e-12)


def test_whitened_data_have_the_identity_as_covariance_and_are_turned_as_little_as_possible():
    mixing = torch.randn(6, 6, generator=generator(), dtype=torch.float64)
    x = torch.randn(4000, 6, generator=generator(1), dtype=torch.float64) @ mixing
    white = patches.whiten(x, 1e-12)
    assert torch.allclose(
        white.T @ white / 4000, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6
    )
    # of zero-phase whitening: C^(1/2), symmetric and positive
    covariance = (x - x.mean(0)).T @ white / 4000
    assert torch.allclose(covariance, covariance.T, rtol=0, atol=1e-9)
    assert torch.linalg.eigvalsh(covariance).min() > 0


def test_missing_photograph_is_named(monkeypatch):
    monkeypatch.setattr(patches, "PHOTOGRAPHS", ("norway.jpg",))
    with pytest.raises(BioplausError, match="norway.jpg, which comes with scikit-learn"):
        patches.load(patches.Config())


@pytest.mark.parametrize(
    "values", [{"side": 1}, {"side": 500}, {"n_patches": 0}, {"whitening": 0.0}, {"sides": 8}]
)
def test_patches_that_cannot_be_cut_are_refused(values):
    with pytest.raises(BioplausError, match=next(iter(values))):
        patches.Config.from_dict(values)


# --- orders of batches
# -----------------------------------------------------------------------------------------------


def epoch(task, batch_size: int, draw: torch.Generator) -> list[list[int]]:
    return [batch[0][:, 0].long().tolist() for batch in task.batches(batch_size, draw)]


def test_permuted_order_brings_other_whole_batches_in_every_epoch():
    task, draw = features.FeatureTask(numbered(23), order="permuted"), generator()
    first, second = epoch(task, 5, draw), epoch(task, 5, draw)
    assert task.n_batches(5) == len(first) == 4 and {len(batch) for batch in first} == {5}
    assert len({n for batch in first for n in batch}) == 20
    assert first != second


def test_fixed_order_is_shuffled_once_and_the_same_in_every_epoch():
    task, draw = features.FeatureTask(numbered(23), order="fixed", seed=1), generator()
    first, second = epoch(task, 5, draw), epoch(task, 5, draw)
    assert first == second
    assert [n for batch in first for n in batch] != list(range(20))
    assert torch.equal(draw.get_state(), generator().get_state())  # nothing was drawn
    assert epoch(features.FeatureTask(numbered(23), order="fixed", seed=2), 5, draw) != first


def test_orders_and_seeds_of_a_fixed_order_are_told_apart_by_the_fingerprint():
    made = [("permuted", 0), ("permuted", 1), ("fixed", 0), ("fixed", 1)]
    prints = [
        features.FeatureTask(numbered(), order=order, seed=seed).fingerprint for order, seed in made
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_readout_sees_every_input_once_with_its_label():
    task = features.ReadoutTask(numbered(23))
    seen = [
        (int(x), int(y))
        for xs, ys in task.batches(5, generator())
        for x, y in zip(xs[:, 0], ys, strict=True)
    ]
    assert task.n_batches(5) == 5
    assert sorted(seen) == [(n, n % 3) for n in range(23)] and seen != sorted(seen)


@pytest.mark.parametrize("batch_size", [0, 24])
def test_batch_larger_than_the_data_or_empty_is_refused(batch_size):
    with pytest.raises(
        BioplausError, match=f"batch_size is {batch_size}, but must be from 1 to 23"
    ):
        features.FeatureTask(numbered(23)).n_batches(batch_size)


def test_unknown_order_is_refused():
    with pytest.raises(BioplausError, match="unknown order 'permute'; did you mean 'permuted'"):
        features.FeatureTask(numbered(), order="permute")


def test_unlabelled_inputs_have_no_readout():
    with pytest.raises(BioplausError, match="has no labels"):
        features.ReadoutTask(numbered(labelled=False))


# --- evaluation and hidden features
# ----------------------------------------------------------------------------------


class Outputs(torch.nn.Module):
    """A network that gives class n % 3 to number n, and confuses those of the test set (n +
    100).
    """

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * torch.nn.functional.one_hot(x[:, 0].long() % 3, 3).double()


def test_evaluation_is_cross_entropy_and_accuracy_of_what_was_not_trained_on():
    found = features.ReadoutTask(numbered(30)).evaluate(Outputs())
    assert found["test_accuracy"] == 0  # 100 is 1 modulo 3
    assert found["test_loss"] == pytest.approx(20 + np.log(1 + 2 * np.exp(-20)), rel=1e-12)
    assert set(found) == {"test_accuracy", "test_loss"}


def test_hidden_features_are_predictions_of_prepared_inputs_in_order():
    rule = rules.make("competing_hidden", {"n_units": [1, 4]}, dtype=torch.float64)
    inputs = numbered(2500)
    found = features.hidden(rule, inputs, lambda x, split: x.add_(1))
    assert torch.allclose(found.x["train"], rule.predict(inputs.x["train"] + 1), rtol=1e-12, atol=0)
    assert inputs.x["train"][0, 0] == 0  # the inputs themselves are left as they were
    assert found.spec.n_in == 4 and found.y is inputs.y


def test_fingerprint_of_hidden_features_follows_the_weights():
    rule = rules.make("competing_hidden", {"n_units": [1, 4]})
    inputs = features.Inputs(
        spec=numbered().spec,
        x={"train": torch.ones(3, 1)},
        y={"train": torch.zeros(3)},
        fingerprint="",
    )
    before = features.hidden(rule, inputs).fingerprint
    assert features.hidden(rule, inputs).fingerprint == before
    rule.weight[0, 0] += 1e-6
    assert features.hidden(rule, inputs).fingerprint != before


def test_look_at_the_units_counts_winners_and_changes_nothing():
    rule = rules.make("competing_hidden", {"n_units": [2, 3]}, dtype=torch.float64)
    rule.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-9.0, -9.0]]))
    x = torch.tensor([[2.0, 1.0], [3.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    spec = Spec(name="corners", kind="features", n_in=2, n_out=0)
    inputs = features.Inputs(spec=spec, x={"train": x}, y={"train": torch.zeros(3)}, fingerprint="")
    before = rule.weight.clone()
    found = features.FeatureTask(inputs).evaluate(rule)
    assert found["n_winners"] == 2 and found["mean_top_current"] == pytest.approx(
        (2 + 3 + 1) / 3, abs=1e-15
    )
    assert (
        found["norm_mean"] == pytest.approx((1 + 1 + 162) / 3, abs=1e-12)
        and found["norm_max"] == 162
    )
    assert torch.equal(rule.weight, before)
