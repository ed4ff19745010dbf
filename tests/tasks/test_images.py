"""Images as a task: preprocessing, order of batches, subsets, fingerprint and evaluation."""

import hashlib
import json

import numpy as np
import pytest
import torch

from bioplaus import train
from bioplaus.config import Config
from bioplaus.errors import BioplausError
from bioplaus.rules import LearningRule
from bioplaus.tasks import Spec, images
from bioplaus.tasks import datasets as data


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def numbered(monkeypatch):
    """Make `data.read("synthetic")` give images whose first pixel is their own number: 50 training,
    30 test.
    """

    def put(n_train: int = 50, n_test: int = 30, n_classes: int = 10) -> data.Images:
        pixels = np.zeros((n_train + n_test, 1, 2, 2), np.uint8)
        pixels[:, 0, 0, 0] = np.arange(n_train + n_test)
        # sorted by class, as some sets are
        fine = np.arange(n_train + n_test) * n_classes // (n_train + n_test)
        labels = {
            kind: (y[:n_train], y[n_train:]) for kind, y in (("fine", fine), ("coarse", fine // 2))
        }
        found = data.Images(x_train=pixels[:n_train], x_test=pixels[n_train:], labels=labels)
        about = data.About(
            name="synthetic",
            shape=(1, 2, 2),
            n_train=n_train,
            n_test=n_test,
            n_classes={"fine": n_classes, "coarse": -(-n_classes // 2)},
        )
        monkeypatch.setattr(data, "about", lambda name: about)
        monkeypatch.setattr(data, "read", lambda name, download: found)
        return found

    put()
    return put


def numbers(x: torch.Tensor) -> list[int]:
    """Which of the numbered images the rows of `x` (pixels / 255) are."""
    return (x[:, 0].double() * 255).round().long().tolist()


# --- preprocessing --------------------------------------------------------------------------------
# -------------------


def test_digits_become_sixteenths_in_row_order():
    task = images.load("digits", dtype=torch.float64)
    expected = data.read("digits").x_train.reshape(1440, 64) / 16
    assert np.array_equal(task.splits["train"][0].numpy(), expected)
    assert task.splits["train"][0].max() == 1


def test_mnist_pixels_are_divided_by_255_and_not_normalised(shared, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_DATA", str(shared / "data"))
    task = images.load("mnist", n_train=2000, n_test=500)
    x, _ = task.splits["train"]
    assert x.shape == (2000, 784) and x.dtype == torch.float32
    assert np.array_equal(
        x.numpy(), task.images.x_train.reshape(2000, 784).astype(np.float32) / np.float32(255)
    )
    assert x.min() == 0 and x.max() == 1


def test_cifar_preprocessing_is_the_published_normalisation_flattened_colour_by_colour():
    task = images.load("synthetic-color", preprocessing="corinfomax", dtype=torch.float64)
    raw, (x, _) = task.images.x_test, task.splits["test"]
    mean, deviation = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    for sample, colour, row, column in ((0, 0, 0, 0), (7, 1, 3, 31), (499, 2, 31, 0)):
        expected = (raw[sample, colour, row, column] / 255 - mean[colour]) / (3 * deviation[colour])
        assert x[sample, 1024 * colour + 32 * row + column].item() == pytest.approx(
            expected, rel=1e-14
        )


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        *(
            ("synthetic", "unit"),
            ("synthetic-color", "unit"),
            ("digits", "unit"),
            ("mnist", "unit"),
        ),
        *(("fashion-mnist", "unit"), ("cifar10", "corinfomax"), ("cifar100", "corinfomax")),
        ("cifar10-jpeg", "corinfomax"),
    ],
)
def test_default_preprocessing_is_that_of_the_corinfomax_paper_and_is_spelled_out(
    dataset, expected
):
    settings, _, _ = images._plan(dataset, {})
    assert settings.preprocessing == expected
    assert images.Config.from_dict(settings.to_dict()) == settings


def test_a_preprocessing_is_added_with_one_function_and_may_augment_and_keep_the_image_shape(
    monkeypatch,
):
    def shift(x, generator):
        return x + torch.randint(1, 3, (len(x), 1, 1, 1), generator=generator)

    way = images.Preprocessing(prepare=lambda pixels: pixels.mul_(2), augment=shift)
    monkeypatch.setitem(images.PREPROCESSING, "doubled", way)
    task = images.load("synthetic", preprocessing="doubled", dtype=torch.float64)
    x, _ = task.splits["train"]
    assert np.allclose(x.numpy(), task.images.x_train / 255 * 2, rtol=1e-15)
    order = torch.randperm(400, generator=generator())
    batch, _ = next(task.batches(400, generator()))
    assert sorted((batch - x[order]).round().flatten(1).amax(1).unique().tolist()) == [1, 2]


def test_stored_pixels_stay_as_they_are_for_those_who_want_them():
    task = images.load("synthetic-color", preprocessing="corinfomax")
    raw = data.read("synthetic-color")
    assert (
        np.array_equal(task.images.x_train, raw.x_train) and task.images.x_train.dtype == np.uint8
    )
    assert set(task.images.labels) == {"fine", "coarse"}


# --- spec and parameters
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values", [{}, {"labels": "coarse"}, {"n_train": 100, "n_test": 50, "validation": 0.2}]
)
@pytest.mark.parametrize("dataset", ["synthetic", "synthetic-color", "digits"])
def test_spec_is_known_without_reading_and_is_that_of_the_loaded_task(dataset, values, monkeypatch):
    if dataset == "digits":
        values = {**values, "labels": "fine"}
    with monkeypatch.context() as patch:
        patch.setattr(data, "read", lambda *arguments, **more: pytest.fail("spec read the data"))
        spec = images.spec(dataset, **values)
    task = images.load(dataset, **values)
    assert task.spec == spec
    for x, y in task.splits.values():
        assert x.shape[1:] == (spec.n_in,) and int(y.max()) < spec.n_out
    assert (
        np.prod(spec.image_shape) == spec.n_in
        and spec.kind == "classification"
        and spec.n_steps is None
    )


@pytest.mark.parametrize(
    ("dataset", "n_in", "n_out", "coarse"),
    [
        ("mnist", 784, 10, None),
        ("fashion-mnist", 784, 10, None),
        ("cifar10", 3072, 10, None),
        ("cifar100", 3072, 100, 20),
    ],
)
def test_spec_of_a_published_set_is_known_where_the_set_is_missing(dataset, n_in, n_out, coarse):
    spec = images.spec(dataset)
    assert (spec.name, spec.n_in, spec.n_out) == (dataset, n_in, n_out)
    if coarse:
        assert images.spec(dataset, labels="coarse").n_out == coarse


def test_spec_of_an_own_file_has_the_files_name_and_no_folder(tmp_path):
    path = tmp_path / "my letters.npz"
    np.savez(path, images=np.zeros((20, 3, 4), np.uint8), labels=np.arange(20) % 2)
    expected = Spec(
        name="my letters.npz", kind="classification", n_in=12, n_out=2, image_shape=(1, 3, 4)
    )
    assert images.spec(str(path)) == images.load(str(path)).spec == expected


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"dataset": "minst"}, "unknown data set 'minst'; did you mean 'mnist'"),
        ({"preprocessing": "units"}, "unknown preprocessing 'units'; did you mean 'unit'"),
        (
            {"preprocessing": "corinfomax"},
            "is for images of 3 channels, but those of synthetic have 1",
        ),
        ({"labels": "corse"}, "did you mean 'coarse'"),
        ({"dataset": "digits", "labels": "coarse"}, "digits has no coarse labels, only fine"),
        ({"n_train": 401}, "n_train is 401, but synthetic has 400"),
        ({"n_test": 0}, "n_test is 0, but must be"),
        ({"n_train": 2.0}, "parameter of images 'n_train' is 2.0, but must be a whole number"),
        ({"n_train": True}, "parameter of images 'n_train' is True, but must be a whole number"),
        ({"validation": 1.0}, "validation is 1.0, but must be"),
        ({"validation": float("nan")}, "validation is nan, but must be"),
        ({"validation": 0.001}, "holds out 0 of 400"),
        ({"n_train": 1, "validation": 0.9}, "holds out 1 of 1"),
        ({"seed": -1}, "seed is -1, but must be"),
        ({"sed": 1}, "unknown parameter of images 'sed'; did you mean 'seed'"),
    ],
)
def test_parameters_that_cannot_work_are_refused_before_anything_is_read(
    values, complaint, monkeypatch
):
    monkeypatch.setattr(data, "read", lambda *arguments, **more: pytest.fail("read the data"))
    with pytest.raises(BioplausError, match=complaint):
        images.spec(**{"dataset": "synthetic", **values})
    if "sed" not in values:
        with pytest.raises(BioplausError, match=complaint):
            images.load(**{"dataset": "synthetic", **values})


def test_download_is_passed_on(monkeypatch):
    monkeypatch.setattr(
        data, "_download", lambda *arguments: pytest.fail("download=False reached for the network")
    )
    with pytest.raises(BioplausError, match="python -m bioplaus data get cifar100"):
        images.load("cifar100", download=False)


# --- batches --------------------------------------------------------------------------------------
# -------------------


@pytest.mark.parametrize("batch_size", [1, 7, 25, 49, 50])
def test_an_epoch_holds_every_image_once_with_its_own_label(numbered, batch_size):
    raw = numbered()
    task = images.load("synthetic")
    batches = list(task.batches(batch_size, generator()))
    assert len(batches) == task.n_batches(batch_size)
    assert [len(x) for x, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1][0]) <= batch_size
    order = [i for x, _ in batches for i in numbers(x)]
    assert sorted(order) == list(range(50))
    assert [int(i) for _, y in batches for i in y] == raw.labels["fine"][0][order].tolist()


def test_the_generator_alone_decides_the_order_and_epochs_differ(numbered):
    task = images.load("synthetic")

    def two_epochs(source):
        return [[i for x, _ in task.batches(8, source) for i in numbers(x)] for _ in range(2)]

    before = torch.get_rng_state()
    first, again, other = (
        two_epochs(generator(1)),
        two_epochs(generator(1)),
        two_epochs(generator(2)),
    )
    assert first == again and first != other and first[0] != first[1]
    assert torch.equal(before, torch.get_rng_state())
    source = generator(1)
    assert first[0] == torch.randperm(50, generator=source).tolist()


def test_batches_share_no_memory_with_the_data_or_with_each_other(numbered):
    task = images.load("synthetic")
    kept = {split: (x.clone(), y.clone()) for split, (x, y) in task.splits.items()}
    for x, y in task.batches(50, generator()):
        x.fill_(-1)
        y.fill_(-1)
    for split, (x, y) in task.splits.items():
        assert torch.equal(x, kept[split][0]) and torch.equal(y, kept[split][1])
    (x1, _), (x2, _) = list(task.batches(25, generator()))
    assert x1.untyped_storage().data_ptr() != x2.untyped_storage().data_ptr()


@pytest.mark.parametrize("batch_size", [0, -3, 51])
def test_a_batch_of_no_image_or_of_more_than_there_are_is_refused(numbered, batch_size):
    task = images.load("synthetic")
    for ask in (
        lambda: task.n_batches(batch_size),
        lambda: next(task.batches(batch_size, generator())),
    ):
        with pytest.raises(
            BioplausError, match=f"batch_size is {batch_size}, but must be from 1 to 50"
        ):
            ask()


# --- subsets and validation
# ------------------------------------------------------------------------------------------


def test_a_subset_is_the_start_of_a_fixed_permutation_in_stored_order(numbered):
    task = images.load("synthetic", n_train=12, n_test=5)
    assert numbers(task.splits["train"][0]) == sorted(
        np.random.RandomState(0).permutation(50)[:12].tolist()
    )
    assert numbers(task.splits["test"][0]) == [
        50 + i for i in sorted(np.random.RandomState(0).permutation(30)[:5])
    ]
    assert len(task.splits["train"][1].unique()) > 3  # although the set is sorted by class


def test_smaller_subsets_are_part_of_larger_ones_and_the_largest_is_the_whole_set(numbered):
    chosen = [
        set(numbers(images.load("synthetic", n_train=n).splits["train"][0])) for n in (5, 20, 50)
    ]
    assert chosen[0] < chosen[1] < chosen[2]
    assert (
        images.load("synthetic", n_train=50, n_test=30).fingerprint
        == images.load("synthetic").fingerprint
    )


def test_validation_images_are_drawn_with_their_labels_from_the_training_images_by_the_seed(
    numbered,
):
    raw = numbered()
    held_out = []
    for seed in (0, 1):
        task = images.load("synthetic", validation=0.3, seed=seed)
        assert list(task.splits) == ["train", "validation", "test"]
        parts = {split: numbers(task.splits[split][0]) for split in ("train", "validation")}
        assert len(parts["validation"]) == 15
        assert sorted(parts["train"] + parts["validation"]) == list(range(50))
        assert parts["validation"] == sorted(
            np.random.RandomState(seed).permutation(50)[:15].tolist()
        )
        for split, rows in parts.items():
            assert task.splits[split][1].tolist() == raw.labels["fine"][0][rows].tolist()
        assert task.n_batches(10) == 4
        held_out.append(parts["validation"])
    assert held_out[0] != held_out[1]


def test_coarse_labels_are_learned_when_asked_for(numbered):
    raw = numbered()
    task = images.load("synthetic", labels="coarse")
    assert task.spec.n_out == 5
    assert task.splits["test"][1].tolist() == raw.labels["coarse"][1].tolist()


# --- fingerprint ----------------------------------------------------------------------------------
# -------------------


def test_fingerprint_is_the_stated_sha256(numbered):
    raw = numbered()
    task = images.load("synthetic", validation=0.1, seed=3)
    digest = hashlib.sha256(json.dumps(["unit", "fine", [0.1, 3]]).encode())
    for pixels, shape in ((raw.x_train, "(50, 1, 2, 2)"), (raw.x_test, "(30, 1, 2, 2)")):
        digest.update(f"|u1{shape}".encode() + pixels.tobytes())
    for kind in ("coarse", "fine"):
        for part, shape in zip(raw.labels[kind], ("(50,)", "(30,)"), strict=True):
            digest.update(f"<i8{shape}".encode() + part.astype("<i8").tobytes())
    assert task.fingerprint == digest.hexdigest()


def test_fingerprint_changes_with_every_pixel_label_and_choice_and_with_nothing_else(
    numbered, monkeypatch
):
    raw = numbered()

    def fingerprint(**values):
        return images.load("synthetic", **values).fingerprint

    plain = fingerprint()
    assert (
        fingerprint(dtype=torch.float64)
        == fingerprint(seed=5)
        == fingerprint(preprocessing="unit")
        == plain
    )
    seen = {plain, fingerprint(labels="coarse"), fingerprint(n_train=49), fingerprint(n_test=29)}
    seen |= {
        fingerprint(validation=0.1),
        fingerprint(validation=0.2),
        fingerprint(validation=0.1, seed=1),
    }
    monkeypatch.setitem(images.PREPROCESSING, "other", images.PREPROCESSING["unit"])
    seen.add(fingerprint(preprocessing="other"))
    for array in (raw.x_train, raw.x_test, *raw.labels["fine"], *raw.labels["coarse"]):
        array.flat[-1] ^= 1
        seen.add(fingerprint())
        array.flat[-1] ^= 1
    assert len(seen) == 8 + 6
    assert fingerprint() == plain


# --- evaluation -----------------------------------------------------------------------------------
# -------------------


class Table(torch.nn.Module):
    """Answers each numbered image with a row of a random table; `scratch` hands out one and the
    same tensor again.
    """

    def __init__(self, n_images: int, n_classes: int, scratch: torch.Tensor | None = None) -> None:
        super().__init__()
        self.rows = torch.randn(n_images, n_classes, generator=generator(9), dtype=torch.float64)
        self.scratch = scratch
        self.sizes = []
        self.had_grad = False

    def predict(self, x):
        self.sizes.append(len(x))
        self.had_grad |= torch.is_grad_enabled()
        found = self.rows[numbers(x)]
        return found if self.scratch is None else self.scratch[: len(x)].copy_(found)


def ranks(task, split: str, table: Table) -> np.ndarray:
    """How many classes outrank the right one, for each image of the split."""
    x, y = task.splits[split]
    rows = table.rows[numbers(x)].numpy()
    return (rows > rows[np.arange(len(y)), y.numpy()][:, None]).sum(1)


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_accuracy_is_the_counted_fraction_whatever_the_chunks_and_though_a_rule_reuses_its_output(
    numbered, monkeypatch, chunk
):
    monkeypatch.setitem(images.CHUNK, "cpu", chunk)
    task = images.load("synthetic", validation=0.3)
    table = Table(80, 10, scratch=torch.empty(80, 10, dtype=torch.float64))
    before = torch.get_rng_state()
    found = task.evaluate(table)
    assert found == {
        f"{split}_accuracy": (ranks(task, split, table) == 0).mean() for split in task.splits
    }
    assert list(found) == ["train_accuracy", "validation_accuracy", "test_accuracy"]
    assert all(type(value) is float for value in found.values())
    assert max(table.sizes) <= chunk and sum(table.sizes) == 80
    assert not table.had_grad and torch.is_grad_enabled()
    assert torch.equal(before, torch.get_rng_state())


def test_accuracy_is_an_exact_fraction_and_no_sum_of_rounded_means(numbered, monkeypatch):
    labels = numbered(n_train=66, n_test=22).labels["fine"]

    class FifteenOfAChunk:
        def predict(self, x):
            answer = torch.from_numpy(np.concatenate(labels))[numbers(x)]
            answer[15:] = (answer[15:] + 1) % 10
            return torch.nn.functional.one_hot(answer, 10).double()

    assert 3 * (15 / 22 * 22) / 66 != 45 / 66  # what adding up the chunks' means would give
    monkeypatch.setitem(images.CHUNK, "cpu", 22)
    assert images.load("synthetic").evaluate(FifteenOfAChunk()) == {
        "train_accuracy": 45 / 66,
        "test_accuracy": 15 / 22,
    }


def test_with_a_hundred_classes_top_5_accuracy_is_reported_too(numbered):
    numbered(n_train=150, n_test=50, n_classes=100)
    task = images.load("synthetic")
    table = Table(200, 100)
    assert task.evaluate(table) == {
        f"{split}_{name}": (ranks(task, split, table) < k).mean()
        for split in ("train", "test")
        for name, k in (("accuracy", 1), ("top5_accuracy", 5))
    }


class Softmax(LearningRule):
    """Logistic regression by gradient descent, without biases."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(Config(), generator())
        self.w = torch.nn.Parameter(torch.zeros(n_out, n_in))

    def predict(self, x):
        return x @ self.w.T

    @torch.no_grad()
    def fit_batch(self, x, y, *, epoch, step):
        error = torch.nn.functional.one_hot(y, len(self.w)) - self.predict(x).softmax(1)
        self.w += 0.1 * error.T @ x / len(x)
        return {}


def test_the_epoch_loop_learns_digits_and_only_the_seed_of_the_order_matters():
    task = images.load("digits")
    runs = []
    for seed in (0, 0, 1):
        rule = Softmax(task.spec.n_in, task.spec.n_out)
        history = train.fit(rule, task, n_epochs=3, batch_size=20, seed=seed, progress=False)
        runs.append((history.epochs, rule.w.detach()))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][1], runs[2][1])
    assert runs[0][0][-1]["test_accuracy"] > 0.85  # chance is 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_batches_and_accuracy_are_those_of_the_cpu():
    here, there = (
        images.load("digits", validation=0.1, device=device) for device in ("cpu", "cuda")
    )
    assert here.fingerprint == there.fingerprint
    for (x, y), (x_gpu, y_gpu) in zip(
        here.batches(64, generator()), there.batches(64, generator()), strict=True
    ):
        assert x_gpu.is_cuda and torch.equal(x, x_gpu.cpu()) and torch.equal(y, y_gpu.cpu())
    rule = Softmax(here.spec.n_in, here.spec.n_out)
    torch.nn.init.normal_(rule.w, generator=generator())
    assert here.evaluate(rule) == pytest.approx(there.evaluate(rule.cuda()), abs=0.01)
