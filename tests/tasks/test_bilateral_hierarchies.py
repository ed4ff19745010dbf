"""Images with two labels: superclasses, division, augmentation, features encoded once, and what is
refused.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional

from bioplaus import device
from bioplaus.errors import BioplausError
from bioplaus.tasks import augmentation, hierarchies
from bioplaus.tasks.hierarchies import Normaliser, augment


@pytest.fixture
def own(tmp_path):
    """Write a .npz of coloured images, with changes to its arrays, and return its path."""

    def write(**changes):
        stream = np.random.default_rng(0)
        fine = {"train": np.arange(50) % 5, "test": np.arange(20) % 5}
        arrays = {
            f"x_{split}": stream.integers(0, 256, (len(y), 8, 10, 3), dtype=np.uint8)
            for split, y in fine.items()
        }
        arrays |= {f"y_{split}": y for split, y in fine.items()}
        arrays |= {f"y_{split}_coarse": np.array([1, 0, 1, 2, 0])[y] for split, y in fine.items()}
        arrays |= changes
        path = tmp_path / "own.npz"
        np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
        return str(path)

    return write


def test_a_digit_with_a_closed_loop_is_of_superclass_1():
    task = hierarchies.load("digits", pad=1, use_flip=False)
    assert task.coarse_of.tolist() == [int(digit in (0, 6, 8, 9)) for digit in range(10)]
    for y in task.y.values():
        assert torch.equal(y[:, 1], task.coarse_of[y[:, 0]])
    assert (task.spec.n_out, task.spec.n_coarse, task.spec.image_shape) == (10, 2, (1, 8, 8))


def test_cifar10s_vehicles_are_airplane_automobile_ship_and_truck():
    assert [k for k, c in enumerate(hierarchies.SUPERCLASSES["cifar10-jpeg"]) if c] == [0, 1, 8, 9]
    assert hierarchies.SUPERCLASSES["cifar10"] == hierarchies.SUPERCLASSES["cifar10-jpeg"]


def test_coarse_labels_of_a_file_are_used_and_its_superclasses_found(own):
    task = hierarchies.load(own())
    assert task.coarse_of.tolist() == [1, 0, 1, 2, 0] and task.spec.n_coarse == 3
    assert torch.equal(task.y["test"][:, 1], task.coarse_of[task.y["test"][:, 0]])


def test_validation_images_are_held_out_of_the_training_images_the_same_for_every_run(own):
    path = own()
    task, again = (hierarchies.load(path, validation_fraction=0.2) for _ in range(2))
    whole = hierarchies.load(path, validation="test")
    assert [len(task.y[split]) for split in ("train", "validation", "test")] == [40, 10, 20]
    assert len(whole.y["train"]) == 50 and "validation" not in whole.y
    assert torch.equal(task.x["validation"], again.x["validation"])
    rows = {image.numpy().tobytes() for image in torch.cat([task.x["train"], task.x["validation"]])}
    assert rows == {image.numpy().tobytes() for image in whole.x["train"]} and len(rows) == 50
    assert task.fingerprint == again.fingerprint != whole.fingerprint


def test_an_augmented_image_is_a_crop_of_the_reflected_image_perhaps_mirrored():
    pixels = torch.randint(0, 256, (7, 9, 11, 3), dtype=torch.uint8)
    rows = torch.tensor([3, 0, 6, 3])
    top, left = torch.tensor([0, 8, 4, 2]), torch.tensor([8, 0, 4, 5])
    flip = torch.tensor([False, True, False, True])
    found = augment(pixels, rows, top, left, flip, pad=4)
    padded = functional.pad(pixels.permute(0, 3, 1, 2).double(), (4, 4, 4, 4), mode="reflect")
    for k in range(4):
        crop = padded[rows[k], :, top[k] : top[k] + 9, left[k] : left[k] + 11]
        expected = crop.flip(2) if flip[k] else crop
        assert torch.equal(found[k].permute(2, 0, 1).double(), expected)


def test_the_middle_crop_is_the_image_itself():
    pixels = torch.randint(0, 256, (3, 8, 8, 1), dtype=torch.uint8)
    four = torch.full((3,), 4)
    assert torch.equal(
        augment(pixels, torch.arange(3), four, four, torch.zeros(3, dtype=torch.bool), 4), pixels
    )


def test_pixels_are_normalised_by_colour():
    mean, deviation = torch.tensor([0.5, 0.4, 0.3]).double(), torch.tensor([0.2, 0.3, 0.1]).double()
    pixels = torch.randint(0, 256, (4, 5, 6, 3), dtype=torch.uint8)
    found = Normaliser(mean, deviation, 255, 6)(pixels)
    expected = (pixels.permute(0, 3, 1, 2).double() / 255 - mean.view(3, 1, 1)) / deviation.view(
        3, 1, 1
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_training_images_have_mean_0_and_deviation_1_by_colour_where_nothing_was_published(own):
    task = hierarchies.load(own(), validation="test", dtype=torch.float64)
    x = task.normalise(task.x["train"])
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        x.std((0, 2, 3), correction=0), torch.ones(3).double(), rtol=0, atol=1e-12
    )


def test_cifar100_is_normalised_with_the_published_numbers():
    mean, deviation = augmentation.statistics("cifar100", np.zeros((1, 3, 2, 2), np.uint8), 255)
    assert mean.tolist() == [0.5071, 0.4867, 0.4408] and deviation.tolist() == [
        0.2675,
        0.2565,
        0.2761,
    ]


def test_an_epoch_shows_every_image_once_with_its_labels(own):
    task = hierarchies.load(own(), pad=0, use_flip=False, dtype=torch.float64)
    batches = list(task.batches(7, device.generator(0, "shuffle")))
    assert len(batches) == task.n_batches(7) == 7 and [len(y) for _, y in batches] == [7] * 6 + [3]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    place = {image.numpy().tobytes(): k for k, image in enumerate(task.normalise(task.x["train"]))}
    order = [place[image.numpy().tobytes()] for image in x]
    assert sorted(order) == list(range(45)) and order != sorted(order)
    assert torch.equal(y, task.y["train"][order])


def test_crops_flips_and_order_come_from_the_given_stream(own):
    task = hierarchies.load(own())
    before = torch.get_rng_state()
    first, again, other = (
        list(task.batches(50, device.generator(s, "shuffle"))) for s in (0, 0, 1)
    )
    assert torch.equal(first[0][0], again[0][0]) and not torch.equal(first[0][0], other[0][0])
    assert torch.equal(before, torch.get_rng_state())
    top, left, flip = task.draw(5000, device.generator(0, "a"))
    assert set(top.tolist()) == set(left.tolist()) == set(range(9))
    assert flip.double().mean().item() == pytest.approx(0.5, abs=0.03)  # standard error 0.007


def test_without_flips_no_image_is_mirrored_and_the_crops_stay_the_same(own):
    path = own()
    with_flips, without = (
        hierarchies.load(path, use_flip=on).draw(99, device.generator(0, "a"))
        for on in (True, False)
    )
    assert torch.equal(with_flips[0], without[0]) and with_flips[2].any() and not without[2].any()


def test_the_scores_are_fractions_of_images():
    y = torch.tensor([[0, 0], [1, 0], [2, 1], [3, 1]])
    coarse_of = torch.tensor([0, 0, 1, 1])
    predicted = {"fine": torch.tensor([0, 0, 2, 1]), "coarse": torch.tensor([0, 0, 0, 0])}
    found = hierarchies.score(predicted, y, coarse_of)
    assert found == {
        "fine_accuracy": 0.5,
        "coarse_accuracy": 0.5,
        "coarse_from_fine_accuracy": 0.75,
        "consistency": 0.75,
    }
    assert hierarchies.score({"coarse": predicted["coarse"]}, y, coarse_of) == {
        "coarse_accuracy": 0.5
    }


class Knows(torch.nn.Module):
    """Logits that depend on the first pixel alone, to see what the task makes of them."""

    def logits(self, x):
        values = x.flatten(1)[:, :1]
        return {"fine": values * torch.arange(5), "coarse": values * torch.tensor([1.0, 0.0, 2.0])}


def test_the_validation_error_is_of_validation_images_or_of_test_images_where_those_validate(
    own,
):
    path = own()
    split, published = (
        hierarchies.load(path, validation=how).evaluate(Knows()) for how in ("split", "test")
    )
    for found, judge in ((split, "validation"), (published, "test")):
        errors = [1 - found[f"{judge}_{kind}_accuracy"] for kind in ("fine", "coarse")]
        assert found["validation_error"] == pytest.approx(sum(errors))
    assert "validation_fine_accuracy" not in published


def test_encoded_views_are_views_of_the_same_images(own):
    task = hierarchies.load(own(), dtype=torch.float64)
    encoded = task.encoded(lambda x: x.flatten(1), 3, device.generator(0, "views"))
    assert encoded.features["train"].shape == (3, 45, 240)
    drawn = task.draw(45, device.generator(0, "views"))
    expected = task.view(torch.arange(45), *drawn).flatten(1)
    assert torch.equal(encoded.features["train"][0], expected)
    x, y = next(iter(encoded.batches(45, device.generator(1, "shuffle"))))
    views = encoded.features["train"]
    for row, label in zip(x, y, strict=True):
        view, image = ((views == row).all(-1)).nonzero()[0].tolist()
        assert torch.equal(task.y["train"][image], label) and 0 <= view < 3
    assert encoded.fingerprint != task.fingerprint


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"dataset": "fashion-mnist"},
            "Data set fashion-mnist has no coarse labels; cifar100, cifar10,",
        ),
        (
            {"validation_fraction": 1.5},
            "validation_fraction is 1.5, but must be above 0 and below 1",
        ),
        (
            {"validation_fraction": -0.1},
            "validation_fraction is -0.1, but must be above 0 and below 1",
        ),
        (
            {"validation_fraction": 0.0},
            "validation_fraction is 0.0, but must be above 0 and below 1",
        ),
        (
            {"validation_fraction": 0.001, "n_train": 50},
            "holds out 0 of 50 training images, but both parts need",
        ),
        ({"validation": "none"}, "'none'; Allowed: split, test"),
        ({"pad": 8}, "pad is 8, but must be below 8"),
        ({"n_train": 5000}, "n_train is 5000, but digits has 1440 such images"),
        ({"n_training": 5}, "unknown parameter of hierarchies 'n_training'"),
    ],
)
def test_a_task_that_cannot_be_is_one_sentence_before_data_are_read(values, sentence):
    with pytest.raises(BioplausError) as error:
        hierarchies.spec(**{"dataset": "digits", **values})
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_file_without_coarse_labels_is_refused(own):
    with pytest.raises(
        BioplausError, match=r"own\.npz has no coarse labels.*y_train_coarse and y_test_coarse"
    ):
        hierarchies.load(own(y_train_coarse=None, y_test_coarse=None))


def test_a_class_in_two_superclasses_is_refused(own):
    coarse = np.array([1, 0, 1, 2, 0])[np.arange(50) % 5]
    coarse[3] = 0
    with pytest.raises(
        BioplausError,
        match=r"Class 3 of own.npz has images of superclasses \[0, 2\], but must have one",
    ):
        hierarchies.load(own(y_train_coarse=coarse))
