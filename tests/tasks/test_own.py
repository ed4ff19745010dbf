"""Images of one's own: a .npz, a folder of pictures, a table of labels, MNIST's four files; and
what is said where they do not fit.
"""

import dataclasses
import gzip
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bioplaus import tasks
from bioplaus.errors import BioplausError
from bioplaus.tasks import _idx, _pixels, hierarchies, images, seqmnist
from bioplaus.tasks import datasets as data

GREY = np.random.RandomState(3).randint(0, 256, (20, 5, 4)).astype(np.uint8)
COLOUR = np.random.RandomState(4).randint(0, 256, (20, 5, 4, 3)).astype(np.uint8)
LABELS = np.arange(20) % 4


def idx_bytes(array: np.ndarray) -> bytes:
    """`array` (uint8) in MNIST's format."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def one_sentence(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


# --- .npz: labels and grey levels


def npz(folder: Path, name: str = "own.npz", **arrays) -> str:
    with open(folder / name, "wb") as file:
        np.savez(file, **{"images": GREY, "labels": LABELS, **arrays})
    return str(folder / name)


@pytest.mark.parametrize("name", ["own.npz", "OWN.NPZ", "Own.Npz"])
def test_a_npz_is_known_by_its_suffix_in_capitals_too(tmp_path, name):
    path = npz(tmp_path, name)
    assert data.about(path).name == name and images.load(path).spec.n_out == 4
    assert data.get(path) == str(tmp_path)


@pytest.mark.parametrize(
    ("labels", "empty"),
    [
        (LABELS + 1, "class 0, of 5"),
        (2 * LABELS, "3 classes: 1, 3, 5, of 7"),
        (np.where(LABELS == 3, 255, LABELS), "252 classes: 3, 4, 5, 6, 7, 8, 9, 10, ..., of 256"),
    ],
)
def test_classes_without_a_training_image_are_named(tmp_path, labels, empty):
    with pytest.warns(UserWarning, match=f"own.npz has no training image of {empty} fine"):
        data.about(npz(tmp_path, labels=labels))


def test_a_class_with_test_images_only_is_one_without_a_training_image(tmp_path):
    path = npz(tmp_path, split=LABELS == 2)
    with pytest.warns(UserWarning, match="no training image of class 2"):
        data.about(path)


def test_labels_without_gaps_are_no_reason_to_say_anything(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.read(npz(tmp_path))


@pytest.mark.parametrize("kind", [np.uint64, np.int64, np.uint32])
def test_labels_that_nobody_can_mean_are_refused_with_their_extent(tmp_path, kind):
    largest = np.iinfo(kind).max
    labels = LABELS.astype(kind)
    labels[7] = largest
    for key, arrays in {
        "labels": {"labels": labels},
        "coarse": {"coarse": labels},
    }.items():
        with pytest.raises(BioplausError, match=f"{key} is {np.dtype(kind)} .* to {largest}, but"):
            data.about(npz(tmp_path, **arrays))


@pytest.mark.parametrize("n", [20, 5000])  # small files are looked through before a run starts
def test_images_of_0_and_1_are_refused_unless_1_is_said_to_be_white(tmp_path, n):
    binary = np.random.RandomState(0).randint(0, 2, (n, 70, 60)).astype(np.uint8)
    labels = np.arange(n) % 4
    path = npz(tmp_path, images=binary, labels=labels)
    with pytest.raises(BioplausError, match="only the grey levels 0 and 1.*`top`") as caught:
        data.read(path) if n > 20 else data.about(path)
    assert "own.npz" in one_sentence(caught)
    task = images.load(npz(tmp_path, images=binary, labels=labels, top=1))
    assert task.splits["train"][0].max() == 1


def test_images_that_use_few_grey_levels_are_remarked_on_and_divided_by_what_is_white(tmp_path):
    sixteenths = np.random.RandomState(0).randint(0, 17, (20, 5, 4)).astype(np.uint8)
    with pytest.warns(UserWarning, match="grey levels 0 to 16 only, of which 255 is white"):
        data.read(npz(tmp_path, images=sixteenths))
    path = npz(tmp_path, images=sixteenths, top=np.array([16]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, _ = images.load(path, dtype=torch.float64).splits["train"]
    assert np.array_equal(16 * x.numpy(), data.read(path).x_train.reshape(16, -1))


@pytest.mark.parametrize("top", [0, 256, 1.5, np.array([1, 2])])
def test_white_is_one_whole_number_of_a_byte(tmp_path, top):
    with pytest.raises(BioplausError, match="top must be one whole number from 1 to 255"):
        data.about(npz(tmp_path, top=top))


def test_a_grey_level_above_white_is_refused(tmp_path):
    with pytest.raises(BioplausError, match="has a grey level of .* says that 16 is white"):
        data.read(npz(tmp_path, top=16))


# --- counts that are known before a run starts


def test_images_asked_for_are_held_against_those_of_the_classes_used(tmp_path):
    path = npz(tmp_path)
    assert seqmnist.spec(path, classes=[0, 1], n_train=8).n_train == 6
    for values in ({"n_train": 9}, {"n_test": 3}):
        ((name, n),) = values.items()
        with pytest.raises(BioplausError, match=rf"{name} is {n}, but own.npz .* has {n - 1}"):
            seqmnist.spec(path, classes=[0, 1], **values)


@pytest.mark.parametrize("target", ["class", "line"])
def test_a_class_without_images_is_refused_by_a_task_that_needs_them_before_any_is_read(
    tmp_path, target, monkeypatch
):
    path = npz(tmp_path, labels=2 * LABELS)
    monkeypatch.setattr(data, "read", lambda *a, **k: pytest.fail("pixels were read"))
    with pytest.warns(UserWarning), pytest.raises(BioplausError, match="image of class 1, 3, 5"):
        seqmnist.spec(path, target=target)


def test_numbers_that_are_not_finite_in_the_dtype_of_the_run_are_refused(monkeypatch):
    way = images.Preprocessing(prepare=lambda pixels: pixels.mul_(1e300).flatten(1))
    monkeypatch.setitem(images.PREPROCESSING, "huge", way)
    images.load("synthetic", preprocessing="huge", dtype=torch.float64)
    with pytest.raises(BioplausError, match="train inputs, prepared by huge, are not finite in fl"):
        images.load("synthetic", preprocessing="huge", dtype=torch.float32)


def test_a_sum_that_overflows_is_no_number_that_is_not_finite():
    x = torch.full((4,), 3e38)
    assert tasks.finite(x, "x") is x
    x[2] = float("nan")
    with pytest.raises(BioplausError, match="1 of 4 x are not finite in float32"):
        tasks.finite(x, "x")


# --- folders of pictures


def put(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path)


@pytest.fixture
def classes(tmp_path):
    """A folder a class, as torchvision's ImageFolder reads it: 4 classes, 5 pictures each."""
    folder = tmp_path / "letters"
    for i, pixels in enumerate(COLOUR):
        put(folder / f"class_{'badc'[LABELS[i]]}" / f"{i:02d}.png", pixels)
    return folder


def test_a_folder_a_class_is_numbered_by_sorted_names_as_torchvision_numbers_it(classes):
    from bioplaus._torchvision import datasets

    theirs = datasets.ImageFolder(str(classes))
    found = data.read(str(classes))
    about = data.about(str(classes))
    assert (about.name, about.shape, about.n_train, about.n_test) == ("letters", (3, 5, 4), 16, 4)
    pixels = {np.asarray(image).tobytes(): label for image, label in theirs}
    assert len(pixels) == 20
    for x, y in (
        (found.x_train, found.labels["fine"][0]),
        (found.x_test, found.labels["fine"][1]),
    ):
        for image, label in zip(x, y, strict=True):
            assert pixels[np.ascontiguousarray(image.transpose(1, 2, 0)).tobytes()] == label
    # the last of five of each class, in the order of names
    assert found.labels["fine"][1].tolist() == [0, 1, 2, 3]


def test_a_folder_is_usable_by_path_wherever_a_data_set_is(classes, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_DATA", str(classes.parent))
    task = images.load("letters/", preprocessing="centred", validation=0.25)
    assert task.spec.image_shape == (3, 5, 4) and task.n_train == 12
    assert data.get("letters/") == str(classes)
    assert images.load(str(classes), preprocessing="centred", validation=0.25).fingerprint == (
        task.fingerprint
    )


def test_training_and_test_folders_divide_the_pictures(tmp_path):
    for i, pixels in enumerate(GREY):
        split = "test" if i >= 12 else "train"
        put(tmp_path / "own" / split / "ab"[i % 2] / f"{i:02d}.png", pixels)
    found = data.read(str(tmp_path / "own"))
    assert found.x_train.shape == (12, 1, 5, 4) and found.x_test.shape == (8, 1, 5, 4)
    assert np.array_equal(found.x_test[:, 0], GREY[[12, 14, 16, 18, 13, 15, 17, 19]])
    assert found.labels["fine"][1].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tiff", "ppm", "PNG"])
def test_lossless_pictures_of_every_format_have_the_same_pixels(tmp_path, suffix):
    pixels = GREY if suffix == "gif" else COLOUR
    for i in range(20):
        put(tmp_path / "own" / str(LABELS[i]) / f"{i:02d}.{suffix}", pixels[i])
    found = data.read(str(tmp_path / "own"))
    if suffix == "gif":  # a palette: colours that are all grey
        found_first = found.x_train[0].transpose(1, 2, 0)[..., :1]
    else:
        found_first = found.x_train[0].transpose(1, 2, 0)
    assert np.array_equal(found_first, pixels[0].reshape(found_first.shape))


def test_hidden_and_other_files_beside_pictures_are_left_out(classes):
    (classes / ".DS_Store").write_bytes(b"x")
    (classes / "class_a" / "._00.png").write_bytes(b"x")
    (classes / "class_a" / "notes.txt").write_text("x")
    assert data.about(str(classes)).n_train == 16


def break_picture(folder: Path, how: str) -> str:
    path = folder / "class_b" / "04.png"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:60])
    elif how == "text":
        path.write_text("no picture")
    elif how == "size":
        put(path, COLOUR[0][:4])
    elif how == "grey":
        put(path, GREY[0])
    elif how == "transparent":
        put(path, np.zeros((5, 4, 4), np.uint8))
    elif how == "16 bits":
        put(path, GREY[0].astype(np.uint16))
    return str(path)


@pytest.mark.parametrize("how", ["cut", "text", "size", "grey", "transparent", "16 bits"])
def test_a_picture_that_does_not_fit_is_named_in_one_sentence(classes, how):
    path = break_picture(classes, how)
    with pytest.raises(BioplausError) as caught:
        data.read(str(classes))
    assert path in one_sentence(caught)


def test_a_folder_that_holds_no_images_is_refused_saying_what_it_may_hold(tmp_path):
    (tmp_path / "own").mkdir()
    with pytest.raises(BioplausError, match="one folder a class .* a .csv .* MNIST's format"):
        data.about(str(tmp_path / "own"))
    (tmp_path / "own" / "empty").mkdir()
    with pytest.raises(BioplausError, match="empty holds no picture .*every folder is a class"):
        data.about(str(tmp_path / "own"))


def test_a_link_that_leaves_the_folder_is_not_followed(classes, tmp_path):
    put(tmp_path / "elsewhere" / "secret.png", COLOUR[0])
    (classes / "class_a" / "99.png").symlink_to(tmp_path / "elsewhere" / "secret.png")
    with pytest.raises(BioplausError, match="99.png', which is not in the folder"):
        data.read(str(classes))
    (classes / "class_a" / "99.png").unlink()
    (classes / "class_e").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BioplausError, match="class_e', which is not in the folder"):
        data.read(str(classes))


# --- a table of labels


def table(folder: Path, text: str, encoding: str = "utf-8") -> str:
    for i, pixels in enumerate(GREY):
        put(folder / "pictures" / f"{i}.png", pixels)
    (folder / "labels.csv").write_bytes(text.encode(encoding))
    return str(folder)


def lines(*rows: str, header: str = "file,label") -> str:
    return "\n".join([header, *rows]) + "\n"


ROWS = [f"pictures/{i}.png,{LABELS[i]}" for i in range(20)]


@pytest.mark.parametrize(
    "text",
    [
        lines(*ROWS),
        lines(*(row.replace(",", ";") for row in ROWS), header="filename;class"),
        lines(*(row.replace(",", "\t") for row in ROWS), header="Image\tLabel"),
        lines(*(row.replace(".png", "") for row in ROWS), header="id,label"),
        lines(*ROWS).replace("\n", "\r\n"),
        "\ufeff" + lines(*ROWS),
    ],
)
def test_a_table_says_the_labels_of_pictures_in_the_form_that_people_write(tmp_path, text):
    found = data.read(table(tmp_path / "own", text))
    whole = np.concatenate([found.x_train, found.x_test])
    labels = np.concatenate(found.labels["fine"])
    by_pixels = {pixels.tobytes(): label for pixels, label in zip(GREY, LABELS, strict=True)}
    assert [by_pixels[image.tobytes()] for image in whole] == labels.tolist()
    assert len(found.x_test) == 4


def test_words_are_numbered_in_sorted_order_and_a_table_may_divide_and_name_superclasses(tmp_path):
    rows = [
        f"pictures/{i}.png,{('cat', 'ant', 'bee', 'cow')[LABELS[i]]},"
        f"{('big', 'small')[LABELS[i] in (1, 2)]},{'test' if i >= 16 else 'train'}"
        for i in range(20)
    ]
    path = table(tmp_path / "own", lines(*rows, header="file,label,coarse,split"))
    found = data.read(path)
    assert found.labels["fine"][1].tolist() == [2, 0, 1, 3]  # cat, ant, bee, cow
    assert found.labels["coarse"][1].tolist() == [0, 1, 1, 0]
    assert hierarchies.load(path, pad=1).coarse_of.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must have a first line with the columns file and label"),
        (lines(), "and then a line for each picture"),
        (lines(*ROWS, header="a,b"), "first line is 'a,b'"),
        (lines(*ROWS, "pictures/77.png,1"), "names the picture 'pictures/77.png', but there is no"),
        (lines(*ROWS, ROWS[3]), "names the picture 3.png more than once"),
        (lines(*ROWS, "x" * 5000 + ",1"), "names the picture 'xxx"),
        (lines(*ROWS, "a\0b,1"), "own"),
        (lines(*ROWS, "pictures/1.png,1,2"), "3 cells in line 22, but 2 columns"),
        (lines(*ROWS[:-1], "pictures/19.png,"), "a label is empty"),
        (lines(*ROWS[:-1], "pictures/19.png,-1"), "must be whole numbers from 0"),
        (lines(*ROWS[:-1], f"pictures/19.png,{10**30}"), "which is no class"),
        (lines(*ROWS[:-1], "pictures/19.png,123456"), "from 0 to 99,999"),
        (
            lines(*(row + ",train" for row in ROWS), header="file,label,split"),
            "20 training and 0 test images",
        ),
        (
            lines(*(row + ",valid" for row in ROWS), header="file,label,split"),
            "split is 'valid', but must be train or test",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_saying_how(tmp_path, text, complaint):
    with pytest.raises(BioplausError, match=complaint) as caught:
        data.about(table(tmp_path / "own", text))
    assert "own" in one_sentence(caught)


def test_a_table_in_another_encoding_is_one_sentence(tmp_path):
    with pytest.raises(BioplausError, match="labels.csv is not a table in UTF-8") as caught:
        data.about(table(tmp_path / "own", lines(*ROWS), "utf-16"))
    one_sentence(caught)


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "pictures/../../secret.png", "{outside}/secret.png", "link.png", "up/a.png"],
)
def test_a_table_reaches_no_picture_outside_its_folder(tmp_path, name):
    put(tmp_path / "secret.png", GREY[0])
    put(tmp_path / "other" / "a.png", GREY[0])
    path = table(tmp_path / "own", lines(*ROWS, f"{name},1").format(outside=tmp_path))
    (tmp_path / "own" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "own" / "up").symlink_to(tmp_path / "other")
    with pytest.raises(BioplausError, match="not in the folder .*nothing outside is read"):
        data.read(path)


# --- MNIST's format under the names that it is found with


def idx(folder: Path, rename=lambda name: name, pack=False) -> None:
    arrays = (GREY[:16], LABELS[:16], GREY[16:], LABELS[16:])
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(_idx.NAMES, arrays, strict=True):
        content = idx_bytes(array.astype(np.uint8))
        (folder / (rename(name) + (".gz" if pack else ""))).write_bytes(
            gzip.compress(content) if pack else content
        )


def dotted(name: str) -> str:
    return name.replace("-idx", ".idx")


FORMS = pytest.mark.parametrize("rename", [str, dotted, str.upper])


@FORMS
@pytest.mark.parametrize("pack", [False, True])
def test_four_files_of_mnists_format_are_read_from_a_folder_of_ones_own(tmp_path, rename, pack):
    idx(tmp_path / "own", rename, pack)
    found, about = data.read(str(tmp_path / "own")), data.about(str(tmp_path / "own"))
    assert np.array_equal(found.x_train[:, 0], GREY[:16]) and about.shape == (1, 5, 4)
    assert found.labels["fine"][1].tolist() == LABELS[16:].tolist()


@FORMS
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("below", ["MNIST/raw", "MNIST"])
def test_mnist_is_found_packed_or_under_other_names(tiny_mnist, rename, pack, below):
    folder = data.root() / below
    folder.mkdir(parents=True)
    for path, content in tiny_mnist.content.items():
        name = rename(Path(path).name) + (".gz" if pack else "")
        (folder / name).write_bytes(gzip.compress(content) if pack else content)
    found = data.read("mnist", download=False)
    assert np.array_equal(found.x_train[:, 0], tiny_mnist.x_train)
    assert data.get("mnist")  # and nothing is fetched


def test_a_packed_file_is_checked_like_a_plain_one(tiny_mnist):
    tiny_mnist.write(data.root())
    path = data.root() / "MNIST/raw/t10k-labels-idx1-ubyte"
    content = path.read_bytes()
    path.unlink()
    packed = path.with_name(path.name + ".gz")
    for damaged, complaint in (
        (gzip.compress(content[:-1]), r"\.gz has 17 bytes, but 18 were expected"),
        (gzip.compress(content[:-1] + b"x"), r"\.gz .* is damaged: its MD5 is"),
        (gzip.compress(content)[:-9], r"\.gz is not a whole gzip file"),
        (b"no gzip", r"\.gz is not a whole gzip file"),
        (gzip.compress(bytes(10**8)), r"\.gz has 19 bytes, but 18 were expected"),
    ):
        packed.write_bytes(damaged)
        with pytest.raises(BioplausError, match=complaint) as caught:
            data.read("mnist", download=False)
        one_sentence(caught)


def test_what_lies_where_a_set_is_looked_for_is_named(tiny_mnist):
    folder = data.root() / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "mnist.zip").write_bytes(b"x")
    with pytest.raises(BioplausError, match="raw lies mnist.zip") as caught:
        data.read("mnist", download=False)
    one_sentence(caught)
    with pytest.raises(BioplausError, match="lies MNIST"):
        data.read("cifar10", download=False)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no file of bytes in MNIST's format"),
        (b"\0\0\x08", "no file of bytes in MNIST's format"),
        (b"\0\0\x0d\x01\0\0\0\x10" + bytes(64), "no file of bytes"),  # of floats
        (idx_bytes(LABELS[:16].astype(np.uint8))[:-1], "says that it holds 16 values"),
        (idx_bytes(LABELS[:15].astype(np.uint8)), "images and one label each"),
        (b"\0\0\x08\xff" + bytes(10), "no file of bytes"),
    ],
)
def test_a_file_of_mnists_format_that_does_not_fit_is_one_sentence(tmp_path, content, complaint):
    idx(tmp_path / "own")
    (tmp_path / "own" / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(BioplausError, match=complaint) as caught:
        data.about(str(tmp_path / "own"))
    one_sentence(caught)


# --- CIFAR-100 in another order


@pytest.fixture
def any_order(monkeypatch):
    """A CIFAR-100 of 20 images in place of the real one, with its digest in the catalogue."""
    pixels = np.random.RandomState(5).randint(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    arrays = {"images": pixels, "labels": np.arange(20), "coarse": np.arange(20) // 5}
    arrays["split"] = (np.arange(20) >= 15).astype(np.uint8)
    entry = data._CATALOGUE["cifar100"]
    whole = data.Images(
        x_train=np.ascontiguousarray(pixels[:15].transpose(0, 3, 1, 2)),
        x_test=np.ascontiguousarray(pixels[15:].transpose(0, 3, 1, 2)),
        labels={
            k: (arrays[a][:15], arrays[a][15:]) for k, a in (("fine", "labels"), ("coarse",) * 2)
        },
    )
    other = dataclasses.replace(entry.shuffled, sha256=_pixels.digest_of_any_order(whole))
    small = dataclasses.replace(entry, shuffled=other, n_train=15, n_test=5)
    monkeypatch.setitem(data._CATALOGUE, "cifar100", small)
    data.root().mkdir(parents=True)

    def write(order=range(20), **changes):
        held = {name: np.asarray(a)[list(order)] for name, a in {**arrays, **changes}.items()}
        np.savez(data.root() / "cifar100.npz", **held)

    return write


@pytest.mark.filterwarnings("ignore:.*has no training image")
def test_cifar100_is_read_in_another_order_and_its_records_say_so(any_order):
    prints = []
    for order in (range(20), [*range(14, -1, -1), *range(15, 20)]):
        any_order(order)
        task = images.load("cifar100", download=False)
        assert task.config.preprocessing == "corinfomax" and task.spec.name == "cifar100"
        remark = tasks.describe(task)["remark"]
        assert remark == "order of the images differs from the original"
        prints.append(task.fingerprint)
        hierarchy = hierarchies.load("cifar100", download=False)
        assert tasks.describe(hierarchy)["remark"] == remark
        encoded = hierarchy.encoded(lambda x: x.flatten(1), 1, torch.Generator())
        assert encoded.remark == remark
    assert prints[0] != prints[1]
    assert data.get("cifar100") == str(data.root())
    assert "remark" not in tasks.describe(images.load("digits"))


@pytest.mark.filterwarnings("ignore:.*has no training image")
@pytest.mark.parametrize("change", ["pixel", "fine", "coarse", "split", "missing"])
def test_another_image_or_label_in_cifar100_is_found(any_order, change):
    draw = np.random.RandomState(5).randint(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    swapped = np.arange(20)
    swapped[[0, 1]] = [1, 0]
    if change == "pixel":
        draw[3, 4, 5, 0] ^= 1
        any_order(images=draw)
    elif change == "fine":
        any_order(labels=swapped)
    elif change == "coarse":
        any_order(coarse=(np.arange(20) + 1) % 20 // 5)
    elif change == "split":
        any_order(split=np.arange(20) % 4 == 3)
    else:
        any_order(order=[0, *range(2, 20)])
    with pytest.raises(BioplausError, match="cifar100.npz does not hold the images and labels of"):
        data.read("cifar100", download=False)


@pytest.mark.filterwarnings("ignore:.*has no training image")
def test_the_original_files_are_read_where_both_are_there(any_order, monkeypatch):
    any_order()
    monkeypatch.setattr(data, "_missing", lambda *arguments: [])
    with pytest.raises(BioplausError, match="Could not read .*cifar-100-python"):
        data.read("cifar100", download=False)
