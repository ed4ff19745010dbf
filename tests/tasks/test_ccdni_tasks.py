"""Line drawing, images row by row, drawn scenes and captions: their data, their evaluation, and
what is refused.
"""

import dataclasses
import json
import math
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from bioplaus import rules, train
from bioplaus.errors import BioplausError
from bioplaus.papers.ccdni import caption_scores
from bioplaus.tasks import captions, linedraw, scenes, seqmnist
from bioplaus.tasks import datasets as data


class Always(torch.nn.Module):
    """A rule that answers the same for every sample."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def predict(self, x):
        return self.answer.expand(len(x), *self.answer.shape)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


# --- line drawing ---------------------------------------------------------------------------------
# -------------------


@pytest.mark.parametrize("n_points", [4, 5, 6, 7, 10])
def test_every_cue_asks_for_a_line_of_its_own_and_zero_for_none(n_points):
    cues = linedraw.cues(n_points)
    found = linedraw.line_of(cues, n_points)
    assert len(cues) == n_points and sorted(found) == list(range(n_points))
    assert found[cues == 0] == 0
    others = found[cues != 0]
    assert (others == np.arange(n_points - 1, 0, -1)).all()  # ascending cues: P-1, P-2, ..., 1


def test_lines_end_on_the_circle_and_start_at_the_origin():
    lines = linedraw.lines(7, 10)
    assert not lines[:, 0].any() and not lines[0].any()
    np.testing.assert_allclose(np.linalg.norm(lines[1:, -1], axis=1), 10)
    np.testing.assert_allclose(lines[1, -1], [0, 10])  # the first coordinate is the sine


def test_every_epoch_and_every_validation_draws_anew_and_a_seed_draws_the_same():
    task = linedraw.load(n_train=100, n_test=20)
    silent, generator = Always(torch.zeros(10, 2)), stream()
    first = [x for x, _ in task.batches(30, generator)]
    one = task.evaluate(silent)
    second = [x for x, _ in task.batches(30, generator)]
    assert [len(x) for x in first] == [30, 30, 20] and task.n_batches(30) == 3
    assert not torch.equal(first[0], second[0])
    assert task.evaluate(silent) == task.evaluate(silent) != one
    again = linedraw.load(n_train=100, n_test=20)
    assert torch.equal(next(iter(again.batches(30, stream())))[0], first[0])
    assert again.evaluate(silent) == one


def test_noise_comes_after_the_cue_only():
    x, _ = linedraw.draw(np.random.RandomState(0), 2000, 7, 10, 0.5)
    assert set(np.round(10 * x[:, 0, 0]).astype(int)) == set(range(-3, 4))
    assert x[:, 1:].std() == pytest.approx(0.5, rel=0.02)


def test_a_hand_that_never_moves_errs_by_the_mean_squared_distance():
    task = linedraw.load(n_test=4000)
    mean = np.square(linedraw.lines(7, 10)).sum(-1).mean()
    found = task.evaluate(Always(torch.zeros(10, 2)), "test")
    assert found["test_mse"] == pytest.approx(mean, rel=0.03)
    assert found["test_dysmetria"] == pytest.approx(0, abs=1e-5)  # still, but not shaky


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n_points": 2}, "n_points is 2"),
        ({"n_steps": 1}, "n_steps is 1"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"validation": 0.0}, "validation is 0.0"),
        ({"n_train": 1}, "training and validation need at least one each"),
        ({"n_pointz": 7}, "did you mean 'n_points'"),
    ],
)
def test_a_line_drawing_task_that_cannot_be_is_refused(values, sentence):
    with pytest.raises(BioplausError) as error:
        linedraw.spec(**values)
    assert sentence in str(error.value) and "\n" not in str(error.value)


# --- images row by row
# -----------------------------------------------------------------------------------------------


def test_an_image_is_read_row_by_row_or_pixel_by_pixel():
    image = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    assert seqmnist.sequences(image, 8)[0, 3].tolist() == list(range(24, 32))
    assert seqmnist.sequences(image, 1)[0, :, 0].tolist() == list(range(64))


def test_the_order_is_the_same_every_epoch_unless_shuffled_and_no_image_is_in_two_splits():
    task = seqmnist.load(dataset="digits", n_train=100)
    assert [len(y) for _, y in task.splits.values()][:2] == [80, 20]
    seen = {part.numpy().tobytes() for part in task.splits["train"][0]}
    assert not seen & {part.numpy().tobytes() for part in task.splits["validation"][0]}
    generator = stream()
    epochs = [torch.cat([x for x, _ in task.batches(32, generator)]) for _ in range(2)]
    assert torch.equal(*epochs) and torch.equal(generator.get_state(), stream().get_state())
    shuffled = seqmnist.load(dataset="digits", n_train=100, shuffle=True)
    epochs = [torch.cat([x for x, _ in shuffled.batches(32, generator)]) for _ in range(2)]
    assert not torch.equal(*epochs) and torch.equal(epochs[0].sum(0), epochs[1].sum(0))


def test_pixels_are_divided_by_the_largest_grey_level():
    task = seqmnist.load(dataset="digits", n_train=200)
    x = torch.cat([x for x, _ in task.batches(50, stream())])
    assert x.min() == 0 and x.max() == 1


def test_targets_are_the_curves_of_the_classes_in_their_given_order():
    task = seqmnist.load(dataset="digits", target="line", classes=[7, 1, 4], n_train=60, n_test=30)
    ends = [10 * np.array([np.sin(2 * np.pi * i / 3), np.cos(2 * np.pi * i / 3)]) for i in range(3)]
    np.testing.assert_allclose(task.curves[:, -1], ends, atol=1e-6)
    whole = seqmnist.load(dataset="digits", n_train=60, n_test=30)
    assert set(task.splits["train"][1].tolist()) == {0, 1, 2} and whole.config.classes == tuple(
        range(10)
    )
    pixels = {part.numpy().tobytes(): int(y) for part, y in zip(*whole_digits(), strict=True)}
    for part, index in zip(*task.splits["test"], strict=True):
        assert pixels[part.numpy().tobytes()] == [7, 1, 4][index]


def whole_digits():
    images = data.read("digits")
    return torch.from_numpy(seqmnist.sequences(images.x_test, 8)), images.labels["fine"][1]


@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize("n_steps", [11, 16, 28, 49, 784])
def test_a_digit_starts_and_ends_at_its_corners_and_has_one_point_a_step(digit, n_steps):
    curve, corners = seqmnist.digit_curve(digit, n_steps), seqmnist.DIGITS[digit]
    assert curve.shape == (n_steps, 2)
    assert tuple(curve[0]) == corners[0] and tuple(curve[-1]) == corners[-1]
    assert curve.min() >= 0 and curve.max() <= 1
    for corner in corners:  # every corner is a point of the curve
        assert np.abs(curve - corner).sum(1).min() < 1e-12


def test_guessing_measures_chance():
    task = seqmnist.load(dataset="digits", n_train=200, n_test=100)
    found = task.evaluate(Always(torch.zeros(10)), "test")
    assert found["test_nll"] == pytest.approx(math.log(10)) and found[
        "test_certainty"
    ] == pytest.approx(0.1)
    assert set(task.evaluate(Always(torch.zeros(10)))) == {
        "validation_nll",
        "validation_accuracy",
        "validation_certainty",
    }


def test_outputs_are_given_for_one_image_of_every_class():
    task = seqmnist.load(dataset="digits", target="digit", n_in=4, n_train=200, n_test=200)
    found = task.outputs(Always(torch.zeros(16, 2)))
    assert found["label"].tolist() == list(range(10)) and found["drawn"].shape == found[
        "target"
    ].shape == (10, 16, 2)
    np.testing.assert_allclose(found["target"][3], seqmnist.digit_curve(3, 16), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"target": "digit"},
            "A sequence of 8 steps is too short to draw a 0, whose polyline has 9 corners",
        ),
        ({"target": "digit", "classes": [1, 3]}, "too short to draw a 3"),
        ({"classes": [1, 12]}, "classes names 12, but digits has the classes 0 to 9"),
        ({"classes": [1, 1]}, "each once"),
        ({"classes": []}, "must name one class or more"),
        ({"n_in": 5}, "n_in is 5, which does not divide the 64 pixels"),
        ({"n_train": 1441}, "n_train is 1441, but digits has 1440"),
        ({"n_test": 99999}, "n_test is 99999, but digits has 357"),
        ({"classes": [0, 1], "n_train": 289}, "n_train is 289, but digits .* has 288"),
        ({"classes": [0, 1], "n_test": 73}, "n_test is 73, but digits .* has 72"),
        ({"n_train": 2, "validation": 0.9}, "holds out 2 of 2"),
        ({"dataset": "cifar10"}, "images of 3 colours"),
        ({"dataset": "digitz"}, "did you mean 'digits'"),
        ({"target": "word"}, "target"),
    ],
)
def test_a_sequence_task_that_cannot_be_is_refused_before_a_pixel_is_read(
    values, sentence, monkeypatch
):
    monkeypatch.setattr(data, "read", lambda *a, **k: pytest.fail("pixels were read"))
    with pytest.raises(BioplausError) as error:
        seqmnist.spec(**{"dataset": "digits", **values})
    assert re.search(sentence, str(error.value)) and "\n" not in str(error.value)


def test_a_class_without_images_is_refused_and_named(tmp_path):
    labels = np.array([0, 1, 3, 3, 0, 1] * 5)
    np.savez(tmp_path / "gap.npz", images=np.zeros((30, 4, 4), np.uint8), labels=labels)
    with pytest.raises(BioplausError, match="no training image of class 2"):
        seqmnist.load(dataset=str(tmp_path / "gap.npz"), classes=[0, 2])


# --- scenes and captions
# ---------------------------------------------------------------------------------------------


def test_scenes_are_true_to_their_captions_in_colour_and_place():
    pixels, sentences = scenes.generate(200, 3)
    assert pixels.shape == (200, 3, 32, 32) and all(
        len(five) == scenes.N_CAPTIONS for five in sentences
    )
    checked = 0
    for image, five in zip(pixels.astype(float), sentences, strict=True):
        for text in five:
            words = text.split()
            if (
                words[:1] == ["a"]
                and "to the left of a" in text
                and words[1] != words[words.index("of") + 2]
            ):
                left, right = (
                    np.array(scenes.COLOURS[w], float)
                    for w in (words[1], words[words.index("of") + 2])
                )
                assert column_of(image, left) < column_of(image, right)
                checked += 1
    assert checked > 3


def column_of(image, colour):
    """Mean column of the pixels nearest to a colour."""
    near = np.abs(image - colour[:, None, None]).sum(0) < 60
    return np.nonzero(near)[1].mean()


def test_captions_vary_in_length_and_a_seed_gives_the_same_scenes():
    (a, said), (b, again), (c, _) = (
        scenes.generate(60, 1),
        scenes.generate(60, 1),
        scenes.generate(60, 2),
    )
    assert (a == b).all() and said == again and not (a == c).all()
    lengths = {len(text.split()) for five in said for text in five}
    assert min(lengths) <= 4 and max(lengths) >= 16 and len(lengths) >= 8


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(data, "_cache", lambda: folder)
        yield captions.load(n_train=60, n_val=20)


def test_a_vocabulary_keeps_words_that_come_often_enough_in_order_of_first_use():
    said = [["b", "a", "b"], ["a", "c", "b"]]
    words = captions.Vocabulary.of(said, min_count=2)
    assert words.words == ["<pad>", "<start>", "<end>", "<unk>", "b", "a"]
    assert words.encode(["a", "c", "b"]) == [1, 5, 3, 4, 2]
    assert words.number("b") == 4


def test_an_unknown_word_is_refused_with_the_nearest_one_named():
    words = captions.Vocabulary(["circle", "square"])
    with pytest.raises(BioplausError, match="unknown word 'circel'; did you mean 'circle'"):
        words.number("circel")


def test_a_caption_that_never_ends_loses_its_last_word_as_published_and_keeps_it_if_asked():
    words = captions.Vocabulary(["a", "b"])
    assert words.decode([1, 4, 5, 2, 4, 4]) == ["a", "b"]
    assert words.decode([1, 4, 5]) == ["a"]
    assert words.decode([1, 4, 5], as_published=False) == ["a", "b"]


def test_words_are_cut_as_nltk_cuts_a_sentence():
    assert captions.tokens("A man's dog isn't here.") == [
        "a",
        "man",
        "'s",
        "dog",
        "is",
        "n't",
        "here",
        ".",
    ]


def test_a_batch_holds_captions_of_one_length_with_the_features_of_their_pictures(tiny):
    batches, train = list(tiny.batches(8, stream())), tiny.splits["train"]
    assert len(batches) == tiny.n_batches(8)
    by_caption = {}
    for picture, text in tiny._sources["train"].captions:
        numbers = tuple(tiny.vocabulary.encode(captions.tokens(text)))
        by_caption.setdefault(numbers, []).append(picture)
    for features, numbers in batches:
        assert features.shape == (8, tiny.spec.n_in) and len(numbers) == 8
        for row, caption in zip(features, numbers.tolist(), strict=True):
            assert any(torch.equal(row, train.features[i]) for i in by_caption[tuple(caption)])


def test_lengths_can_be_limited_and_balanced(tmp_path):
    task = captions.load(n_train=60, n_val=20, min_length=7, max_length=9, is_balanced=True)
    lengths = [numbers.shape[1] for _, numbers in task.batches(5, stream())]
    assert set(lengths) <= {7, 8, 9} and len({lengths.count(n) for n in set(lengths)}) == 1


def test_a_network_that_knows_nothing_needs_the_logarithm_of_the_vocabulary_in_bits(tiny):
    class Uniform:
        def nll(self, x, y):
            return torch.tensor(math.log(tiny.spec.n_out))

    assert tiny.evaluate(Uniform())["validation_bits"] == pytest.approx(math.log2(tiny.spec.n_out))


def test_features_are_computed_once_and_a_damaged_copy_is_made_anew(tiny, tmp_path, monkeypatch):
    source, built = tiny._sources["validation"], []
    encoder = captions.ENCODERS["small_cnn"]
    counted = type(encoder)(
        encoder.n_features,
        lambda: built.append(1) or encoder.build(),
        encoder.prepare,
        encoder.about,
    )
    monkeypatch.setitem(captions.ENCODERS, "small_cnn", counted)
    first = captions.features(source, "small_cnn", False)
    again = captions.features(source, "small_cnn", False)
    assert len(built) == 1 and (first == again).all()
    (path,) = (tmp_path / "cache" / "features").rglob("*.npy")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert (captions.features(source, "small_cnn", False) == first).all() and len(built) == 2


class Net:
    """An encoder's network that remembers where it was put."""

    def __init__(self):
        self.places = []

    def to(self, place):
        self.places.append(place)
        return self

    def __call__(self, batch):
        assert batch.device == self.places[-1]
        return torch.zeros(len(batch), 64)


def test_features_are_computed_on_the_device_of_the_task(monkeypatch):
    net, encoder = Net(), captions.ENCODERS["small_cnn"]
    monkeypatch.setitem(
        captions.ENCODERS, "small_cnn", dataclasses.replace(encoder, build=lambda: net)
    )
    captions.load(n_train=60, n_val=20, device="meta")
    assert set(net.places) == {torch.device("meta")}


def test_pictures_that_several_runs_need_at_once_are_encoded_by_one_of_them(tiny, monkeypatch):
    encoder, built, is_first_building = captions.ENCODERS["small_cnn"], [], threading.Event()

    def build():
        built.append(1)
        is_first_building.set()
        time.sleep(0.5)
        return encoder.build()

    monkeypatch.setitem(captions.ENCODERS, "small_cnn", dataclasses.replace(encoder, build=build))
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(captions.features, tiny._sources["validation"], "small_cnn", False)]
        assert is_first_building.wait(20)
        runs.append(pool.submit(captions.features, tiny._sources["validation"], "small_cnn", False))
    assert len(built) == 1 and (runs[0].result() == runs[1].result()).all()


def coco(folder, n=6, *, images=True):
    """A folder laid out like COCO 2014, with `n` pictures a split."""
    for split in ("train", "val"):
        (folder / f"{split}2014").mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        pixels, sentences = scenes.generate(n, 5)
        about = {"images": [], "annotations": []}
        for i in range(n):
            name = f"COCO_{split}2014_{i:012d}.jpg"
            if images:
                Image.fromarray(pixels[i].transpose(1, 2, 0)).resize((40, 30)).save(
                    folder / f"{split}2014" / name
                )
            about["images"].append({"id": 10 + i, "file_name": name, "width": 40, "height": 30})
            for text in sentences[i]:
                number = len(about["annotations"])
                about["annotations"].append(
                    {"id": number, "image_id": 10 + i, "caption": text.capitalize() + "."}
                )
        (folder / "annotations" / f"captions_{split}2014.json").write_text(json.dumps(about))
    return folder


def test_a_folder_laid_out_like_coco_is_learned_from_and_described(tmp_path, capsys):
    task = captions.load(str(coco(tmp_path / "coco")), encoder="small_cnn", min_count=1)
    assert (
        task.spec.n_in == 64
        and "." in task.vocabulary.words
        and len(task.references[0]) == scenes.N_CAPTIONS
    )
    values = {"n_units": [64, 8, 16, task.spec.n_out], "n_truncation": 4, "lr": 0.01}
    rule = rules.make("caption_dni", values, task.spec)
    history = train.fit(
        rule, task, n_epochs=2, batch_size=2, keep_best="validation_bits", progress=False
    )
    assert history.status == "done"
    said = task.generate(rule)
    assert len(said) == 6 and set(caption_scores.score(task.references, said)["corpus"]) == {
        "bleu_4",
        "cider",
    }


def test_a_captions_file_without_its_pictures_is_refused_and_the_first_named(tmp_path):
    with pytest.raises(
        BioplausError,
        match="describes 6 pictures, but 6 of them are not in .*, first COCO_train2014",
    ):
        captions.load(str(coco(tmp_path / "coco", images=False)), encoder="small_cnn")


@pytest.mark.parametrize(
    "content", ["{}", "[1]", "not json", '{"images": [{"id": 1}], "annotations": []}']
)
def test_a_file_that_is_no_captions_file_is_refused(content, tmp_path):
    folder = coco(tmp_path / "coco", n=1)
    (folder / "annotations" / "captions_train2014.json").write_text(content)
    with pytest.raises(BioplausError, match="captions_train2014.json"):
        captions.load(str(folder), encoder="small_cnn")


def test_missing_coco_is_refused_with_what_to_unpack(tmp_path):
    with pytest.raises(BioplausError, match="no captions file .*annotations_trainval2014.zip"):
        captions.load("coco")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"min_length": 9, "max_length": 8}, "min_length is 9, but must be at most max_length"),
        ({"encoder": "resnet"}, "did you mean 'resnet152'"),
        ({"n_train": 0}, "n_train is 0"),
    ],
)
def test_a_caption_task_that_cannot_be_is_refused(values, sentence):
    with pytest.raises(BioplausError) as error:
        captions.spec(**values)
    assert sentence in str(error.value)


def test_a_batch_larger_than_any_length_is_refused_with_the_largest_possible(tiny):
    with pytest.raises(BioplausError, match="batch_size is 5000, .* it must be at most"):
        tiny.n_batches(5000)


def test_lengths_that_no_caption_has_are_refused():
    with pytest.raises(BioplausError, match="No train caption of scenes has 24 to 25 tokens"):
        captions.load(n_train=5, n_val=5, min_length=24)


# --- scores ---------------------------------------------------------------------------------------
# -------------------


def test_a_perfect_caption_scores_one_in_bleu_and_a_foreign_one_nothing():
    words = [
        s.split()
        for s in ("a red circle above a blue square", "one small green square and nothing else")
    ]
    references = [[words[0]], [words[1]]]
    perfect = caption_scores.score(references, words)
    assert perfect["corpus"]["bleu_4"] == pytest.approx(1) and perfect["corpus"][
        "cider"
    ] == pytest.approx(10)
    assert perfect["length"].tolist() == [7, 7]
    foreign = caption_scores.score(references, [["x"] * 7, words[1]])
    assert foreign["image"]["bleu_4"][0] < 1e-3 and foreign["image"]["cider"][0] == 0
    assert foreign["image"]["bleu_4"][1] == pytest.approx(1)


def test_length_groups_cut_at_the_tertiles():
    assert caption_scores.length_groups(np.array([3.0, 9, 4, 8, 5, 7])).tolist() == [
        0,
        2,
        0,
        2,
        1,
        1,
    ]


def test_scores_need_as_many_captions_as_pictures_and_a_reference_each():
    with pytest.raises(BioplausError, match="1 lists of references for 2 captions"):
        caption_scores.score([[["a"]]], [["a"], ["b"]])
    with pytest.raises(BioplausError, match="Picture 1 has no reference"):
        caption_scores.score([[["a"]], []], [["a"], ["b"]])
