"""Data sets: right pixels, nothing used before it is checked, and one clear sentence whenever
something is amiss.
"""

import dataclasses
import hashlib
import io
import os
import pickle
import struct
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bioplaus import _files
from bioplaus.errors import BioplausError
from bioplaus.tasks import _network, _pixels
from bioplaus.tasks import datasets as data


def sentence(caught) -> str:
    """The error's text, which must be one plain sentence or two, on one line."""
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


def leftovers(folder: Path) -> list[str]:
    """Every file below `folder` but locks."""
    return [path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


# --- right pixels ---------------------------------------------------------------------------------
# -------------------


def test_mnist_equals_its_idx_files_parsed_by_hand(shared, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_DATA", str(shared / "data"))
    images = data.read("mnist", download=False)
    for split, x, y in (("train", images.x_train, 0), ("t10k", images.x_test, 1)):
        folder = shared / "data" / "MNIST" / "raw"
        raw = (folder / f"{split}-images-idx3-ubyte").read_bytes()
        magic, n, height, width = struct.unpack(">4I", raw[:16])
        assert (magic, height, width) == (2051, 28, 28)
        assert x.shape == (n, 1, height, width)
        for i in (0, 1, n - 1):
            assert x[i].tobytes() == raw[16 + 784 * i : 16 + 784 * (i + 1)]
        labels = (folder / f"{split}-labels-idx1-ubyte").read_bytes()
        assert struct.unpack(">2I", labels[:8]) == (2049, n)
        assert images.labels["fine"][y].tolist() == list(labels[8:])


def test_catalogue_agrees_with_what_is_read_for_every_set_present(shared, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_DATA", str(shared / "data"))
    monkeypatch.setattr(
        _pixels, "_decoded", lambda jpeg, offset, cache: np.zeros((60_000, 3, 32, 32), np.uint8)
    )
    present = [row.name for row in data.catalogue() if row.found]
    assert {"synthetic", "synthetic-color", "digits", "mnist", "cifar10-jpeg"} <= set(present)
    for name in present:
        about, images = data.about(name), data.read(name, download=False)
        assert images.x_train.shape == (about.n_train, *about.shape)
        assert images.x_test.shape == (about.n_test, *about.shape)
        assert images.x_train.dtype == images.x_test.dtype == np.uint8
        assert set(images.labels) == set(about.n_classes)
        for kind, n in about.n_classes.items():
            for part, size in zip(images.labels[kind], (about.n_train, about.n_test), strict=True):
                assert part.dtype == np.int64 and part.shape == (size,)
                assert set(np.unique(part)) == set(range(n))
        for counts, part in zip(about.counts.values(), images.labels["fine"], strict=True):
            assert np.bincount(part).tolist() == counts.tolist()


def test_digits_are_those_of_scikit_learn_with_144_training_images_a_class():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = data.read("digits")
    y_train, y_test = images.labels["fine"]
    assert np.bincount(y_train).tolist() == [144] * 10
    for label in range(10):
        stored = {row.tobytes() for row in pixels[labels == label].astype(np.uint8)}
        parts = (images.x_train[y_train == label], images.x_test[y_test == label])
        found = {image.tobytes() for part in parts for image in part}
        assert found == stored
        assert sum(map(len, parts)) == np.sum(labels == label)


def test_digits_are_read_the_same_where_scikit_learn_keeps_its_file_elsewhere(monkeypatch):
    expected = data.read("digits")
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    found = data.read("digits")
    assert np.array_equal(expected.x_train, found.x_train) and np.array_equal(
        expected.x_test, found.x_test
    )


def test_digits_without_scikit_learn_are_one_sentence(monkeypatch):
    monkeypatch.setattr(_pixels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BioplausError, match="pip install scikit-learn"):
        data.read("digits")


def test_test_images_are_spread_evenly_through_each_class():
    labels = np.array([0] * 10 + [1] * 7)
    is_test = _pixels.spread(labels, lambda n: n // 5)
    # floor((j+1) m/n) grows at the last of every n/m images: 2 of 10 are numbers 4 and 9, 1 of 7 is
    # number 6
    assert np.flatnonzero(is_test).tolist() == [4, 9, 16]


def test_synthetic_images_are_the_same_every_time_and_leave_the_global_generator_alone():
    before = np.random.get_state()[1].copy()
    first, second = data.read("synthetic"), data.read("synthetic")
    assert np.array_equal(first.x_train, second.x_train) and np.array_equal(
        first.x_test, second.x_test
    )
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("name", ["synthetic", "synthetic-color"])
@pytest.mark.parametrize("kind", ["fine", "coarse"])
def test_synthetic_images_can_be_told_apart_by_the_nearest_class_mean(name, kind):
    images = data.read(name)
    y_train, y_test = images.labels[kind]
    train, test = (x.reshape(len(x), -1).astype(float) for x in (images.x_train, images.x_test))
    means = np.stack([train[y_train == label].mean(0) for label in range(y_train.max() + 1)])
    found = (
        ((test[:, None] - means) ** 2).sum(2).argmin(1)
        if name == "synthetic"
        else (test @ means.T * 2 - (means**2).sum(1)).argmax(1)
    )
    assert (found == y_test).mean() > 0.9


# --- CIFAR's pickles
# -------------------------------------------------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, in protocol 2, as CIFAR's authors did."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2_pickle(value) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def put_cifar(
    monkeypatch, name: str, contents: list[bytes], digests: list[str] | None = None
) -> None:
    """Write `contents` in place of the files of `name` and enter their MD5s, or `digests`, into the
    catalogue.
    """
    entry = data._CATALOGUE[name]
    digests = digests or [hashlib.md5(content).hexdigest() for content in contents]
    files = tuple(
        data.File(file.path, digest) for file, digest in zip(entry.files, digests, strict=True)
    )
    monkeypatch.setitem(data._CATALOGUE, name, dataclasses.replace(entry, files=files))
    for file, content in zip(files, contents, strict=True):
        (data.root() / file.path).parent.mkdir(parents=True, exist_ok=True)
        (data.root() / file.path).write_bytes(content)


def test_cifar100_pickles_of_python_2_give_channel_first_pixels_and_both_kinds_of_labels(
    monkeypatch,
):
    rows = np.random.RandomState(0).randint(0, 256, (6, 3072)).astype(np.uint8)
    batches = [
        {
            "data": rows[part],
            "fine_labels": fine,
            "coarse_labels": coarse,
            "filenames": ["a.png"],
            "batch_label": "b",
        }
        for part, fine, coarse in (
            (slice(4), [5, 99, 0, 7], [1, 19, 0, 3]),
            (slice(4, 6), [2, 98], [4, 18]),
        )
    ]
    put_cifar(monkeypatch, "cifar100", [*map(python2_pickle, batches), b"never read"])
    images = data.read("cifar100", download=False)
    assert np.array_equal(images.x_train, rows[:4].reshape(4, 3, 32, 32))
    assert images.x_test[1, 2, 31, 30] == rows[5, 2 * 1024 + 31 * 32 + 30]
    assert [part.tolist() for part in images.labels["fine"]] == [[5, 99, 0, 7], [2, 98]]
    assert [part.tolist() for part in images.labels["coarse"]] == [[1, 19, 0, 3], [4, 18]]


def test_cifar10_batches_are_joined_in_order(monkeypatch):
    rows = np.random.RandomState(0).randint(0, 256, (6, 3072)).astype(np.uint8)
    batches = [python2_pickle({"data": rows[i : i + 1], "labels": [i]}) for i in range(6)]
    put_cifar(monkeypatch, "cifar10", [*batches, b"never read"])
    images = data.read("cifar10", download=False)
    assert np.array_equal(images.x_train.reshape(5, -1), rows[:5]) and np.array_equal(
        images.x_test.ravel(), rows[5]
    )
    assert images.labels["fine"][0].tolist() == [0, 1, 2, 3, 4]


class Hostile:
    """Unpickled without care, makes the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_hostile_pickle_of_these_tests_does_run_code_where_nothing_guards(tmp_path):
    pickle.loads(pickle.dumps(Hostile(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_a_hostile_cifar_file_is_refused_by_its_digest_before_it_is_unpickled(
    tmp_path, monkeypatch
):
    hostile = pickle.dumps({b"data": Hostile(tmp_path / "canary")}, protocol=2)
    entry = data._CATALOGUE["cifar100"]
    put_cifar(monkeypatch, "cifar100", [hostile] * 3, [file.md5 for file in entry.files])
    monkeypatch.setattr(
        _files, "Unpickler", lambda *arguments, **_: pytest.fail("unpickled an unchecked file")
    )
    with pytest.raises(BioplausError, match="is damaged: its MD5 is") as caught:
        data.read("cifar100", download=False)
    assert entry.files[0].md5 in sentence(caught)
    assert hashlib.md5(hostile).hexdigest() in sentence(caught)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_cifar_file_with_the_right_digest_builds_arrays_and_nothing_else(
    tmp_path, monkeypatch, protocol
):
    hostile = pickle.dumps([Hostile(tmp_path / "canary")], protocol=protocol)
    put_cifar(monkeypatch, "cifar100", [hostile] * 3)
    with pytest.raises(
        BioplausError, match=r"asks for .*mkdir, which no file of numbers needs; .*nothing was"
    ):
        data.read("cifar100", download=False)
    assert not (tmp_path / "canary").exists()


def test_digests_of_the_catalogue_are_those_that_torchvision_publishes():
    from bioplaus._torchvision import datasets

    for name in ("cifar10", "cifar100"):
        entry = data._CATALOGUE[name]
        published = getattr(datasets, entry.torchvision)
        meta = published.meta["filename"], published.meta["md5"]
        expected = [
            (f"{published.base_folder}/{n}", md5)
            for n, md5 in (*published.train_list, *published.test_list, meta)
        ]
        assert [(file.path, file.md5) for file in entry.files] == expected
    for name in ("mnist", "fashion-mnist"):
        entry = data._CATALOGUE[name]
        published = getattr(datasets, entry.torchvision)
        paths = [
            f"{published.__name__}/raw/{packed.removesuffix('.gz')}"
            for packed, _ in published.resources
        ]
        assert [file.path for file in entry.files] == paths
        assert all(file.md5 and file.n_bytes for file in entry.files)


# --- cut, damaged, missing
# -------------------------------------------------------------------------------------------


def test_a_cut_idx_file_is_named_with_the_bytes_expected_and_found(tiny_mnist):
    tiny_mnist.write(data.root())
    path = data.root() / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BioplausError) as caught:
        data.read("mnist", download=False)
    assert (
        sentence(caught)
        == f"{path} has 1,000 bytes, but 15,696 were expected; `python -m bioplaus data get mnist`"
        " replaces it."
    )


def test_every_flipped_bit_of_an_idx_file_is_found(tiny_mnist):
    tiny_mnist.write(data.root())
    path = data.root() / "MNIST/raw/t10k-labels-idx1-ubyte"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(BioplausError, match="is damaged: its MD5 is"):
            data.read("mnist", download=False)


def test_a_missing_set_is_named_with_the_folder_and_the_command_and_nothing_is_fetched(monkeypatch):
    monkeypatch.setattr(
        data, "_download", lambda *arguments: pytest.fail("download=False reached for the network")
    )
    with pytest.raises(BioplausError) as caught:
        data.read("fashion-mnist", download=False)
    assert (
        sentence(caught) == f"Data set fashion-mnist is not in {data.root()} (no"
        " FashionMNIST/raw/train-images-idx3-ubyte); run `python -m bioplaus data get"
        " fashion-mnist` where there is a network, or set BIOPLAUS_DATA to a folder that has it"
        " and may be written to."
    )
    assert not data.root().exists()


def test_cifar10_jpeg_says_that_it_has_no_download_and_cifar10_never_stands_in_for_it(monkeypatch):
    put_cifar(
        monkeypatch,
        "cifar10",
        [python2_pickle({"data": np.zeros((1, 3072), np.uint8), "labels": [0]})] * 7,
    )
    for ask in (data.read, data.get):
        with pytest.raises(
            BioplausError,
            match="Data set cifar10-jpeg is not in .* and has no download; put the file",
        ):
            ask("cifar10-jpeg")


# --- download -------------------------------------------------------------------------------------
# -------------------


def test_a_missing_set_is_downloaded_checked_and_afterwards_read_without_any_network(tiny_mnist):
    tiny_mnist.serve()
    images = data.read("mnist")
    assert np.array_equal(images.x_train[:, 0], tiny_mnist.x_train)
    assert np.array_equal(images.labels["fine"][1], tiny_mnist.y_test)
    assert sorted(leftovers(data.root())) == sorted(Path(path).name for path in tiny_mnist.content)
    tiny_mnist.close()
    assert np.array_equal(data.read("mnist").x_train, images.x_train)
    assert data.get("mnist") == str(data.root() / "MNIST" / "raw")


MODES = ["cut", "wrong", "page", "refuse", "stall", "hang up", "drip", "drip header", "promise"]


@pytest.mark.parametrize("mode", MODES)
def test_whatever_a_bad_server_sends_is_rejected_with_one_sentence_and_nothing_stays_behind(
    tiny_mnist, monkeypatch, mode
):
    monkeypatch.setattr(data, "TIMEOUT", 0.3)
    tiny_mnist.serve(mode)
    started = time.monotonic()
    with pytest.raises(
        BioplausError, match="Data set mnist is not in .* and could not be downloaded"
    ) as caught:
        data.read("mnist")
    assert "python -m bioplaus data get mnist" in sentence(caught)
    assert leftovers(data.root()) == []
    assert not (data.root() / "MNIST").exists()
    assert time.monotonic() - started < 20  # a stalled server would hold us for 30 s


def test_a_server_that_sends_without_end_is_cut_at_the_size_of_the_file(tiny_mnist, monkeypatch):
    sizes = dict.fromkeys(data._CATALOGUE["mnist"].packed, 300_000)
    entry = dataclasses.replace(data._CATALOGUE["mnist"], packed=sizes)
    monkeypatch.setitem(data._CATALOGUE, "mnist", entry)
    tiny_mnist.serve("flood")
    with pytest.raises(
        BioplausError, match="sends .* bytes or more, but at most 300,000"
    ) as caught:
        data.read("mnist")
    assert leftovers(data.root()) == [] and "python -m bioplaus data get" in sentence(caught)


def test_a_download_that_goes_on_too_slowly_is_given_up_as_a_whole(tiny_mnist, monkeypatch):
    monkeypatch.setattr(_network, "LEAST_RATE", 0)  # a byte now and then is enough for each window
    monkeypatch.setattr(_network, "LEAST_MEAN", 10**9)
    monkeypatch.setattr(data, "TIMEOUT", 0.3)
    tiny_mnist.serve("drip")
    started = time.monotonic()
    with pytest.raises(BioplausError, match="sent only .* of up to .* bytes in"):
        data.read("mnist")
    assert time.monotonic() - started < 10 and leftovers(data.root()) == []


def test_of_an_archive_only_the_wanted_files_are_unpacked_and_none_leaves_the_folder(tmp_path):
    content = {"set/wanted": b"yes", "set/other": b"no", "../outside": b"no", "/absolute": b"no"}
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        for name, raw in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
        link = tarfile.TarInfo("set/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "into").mkdir()
    _network.unpack(tmp_path / "set.tar.gz", tmp_path / "into", ["set/wanted", "set/link"])
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [
        "set.tar.gz",
        "into/set/wanted",
    ]


def test_without_a_network_there_is_a_clear_sentence_within_seconds(tiny_mnist):
    tiny_mnist.serve()
    tiny_mnist.close()
    started = time.monotonic()
    with pytest.raises(BioplausError, match="could not be downloaded .*refused") as caught:
        data.read("mnist")
    assert "python -m bioplaus data get mnist" in sentence(caught)
    assert leftovers(data.root()) == []
    assert time.monotonic() - started < 10


def test_an_archive_with_the_right_digest_but_other_files_in_it_is_rejected(
    tiny_mnist, monkeypatch
):
    tiny_mnist.serve()
    entry = data._CATALOGUE["mnist"]
    files = (dataclasses.replace(entry.files[0], md5="0" * 32), *entry.files[1:])
    monkeypatch.setitem(data._CATALOGUE, "mnist", dataclasses.replace(entry, files=files))
    with pytest.raises(BioplausError, match=f"its MD5 is .*, but {'0' * 32} was expected"):
        data.get("mnist")
    assert leftovers(data.root()) == []


def test_get_replaces_a_damaged_file_and_removes_what_a_killed_download_left(tiny_mnist):
    tiny_mnist.serve()
    tiny_mnist.write(data.root())
    path = data.root() / "MNIST/raw/t10k-labels-idx1-ubyte"
    path.write_bytes(b"damaged")
    (data.root() / ".bioplaus-download-mnist" / "MNIST").mkdir(parents=True)
    data.get("mnist")
    assert path.read_bytes() == tiny_mnist.content["MNIST/raw/t10k-labels-idx1-ubyte"]
    assert not (data.root() / ".bioplaus-download-mnist").exists()


def test_of_several_that_want_a_missing_set_at_once_one_fetches_it(
    tiny_mnist, tmp_path, monkeypatch
):
    tiny_mnist.serve()
    data.get("mnist")
    alone, found = tiny_mnist.served.copy(), []
    tiny_mnist.served.clear()
    monkeypatch.setenv("BIOPLAUS_DATA", str(tmp_path / "other"))
    threads = [threading.Thread(target=lambda: found.append(data.get("mnist"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [str(tmp_path / "other" / "MNIST" / "raw")] * 4
    assert tiny_mnist.served == alone


def test_a_data_folder_that_cannot_be_written_is_one_sentence(tiny_mnist, tmp_path, monkeypatch):
    tiny_mnist.serve()
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("BIOPLAUS_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(
        BioplausError, match="could not be downloaded .* set BIOPLAUS_DATA"
    ) as caught:
        data.read("mnist")
    sentence(caught)


# --- names ----------------------------------------------------------------------------------------
# -------------------


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(
        BioplausError, match="unknown data set 'fashion_mnist'; did you mean 'fashion-mnist'"
    ):
        data.about("fashion_mnist")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            "/",
            "../mnist",
            "mnist/..",
            "/etc/passwd",
            "mnist\0",
            "MNIST",
            "mnist ",
            "con",
            "x" * 5000,
        ),
        *(
            "../outside.npz",
            "a/../../outside.npz",
            "..\\outside.npz",
            "~/../outside.npz",
            "~nobody/outside.npz",
        ),
        *(
            "outside.npz\0.npz",
            "\0.npz",
            "x" * 5000 + ".npz",
            "https://host/x.npz",
            ".npz",
            "MNIST/.npz",
        ),
    ],
)
def test_no_name_reaches_a_file_outside_the_data_folder(name, tmp_path):
    np.savez(
        tmp_path / "outside.npz", images=np.zeros((9, 2, 2), np.uint8), labels=np.arange(9) % 2
    )
    data.root().mkdir()
    assert data.about(str(tmp_path / "outside.npz")).n_test == 1  # it is there to be reached
    for ask in (data.about, data.read):
        with pytest.raises(BioplausError):
            ask(name)
    assert leftovers(data.root()) == []


def test_data_folder_is_bioplaus_data_or_lies_in_the_users_cache(tmp_path, monkeypatch):
    assert data.root() == tmp_path / "data"
    monkeypatch.delenv("BIOPLAUS_DATA")
    assert data.root() == tmp_path / "cache" / "data"
    monkeypatch.undo()
    assert "bioplaus" in data._cache().parts


def test_catalogue_tells_what_is_built_in_found_and_missing(tiny_mnist):
    tiny_mnist.write(data.root())
    found = {row.name: row.found for row in data.catalogue()}
    assert found["digits"] == "built in" and found["cifar10"] == ""
    assert found["mnist"] == str(data.root() / "MNIST" / "raw")
    assert sorted(found) == data.names()
    assert data.get("digits") == "built in"


# --- the JPEG set ---------------------------------------------------------------------------------
# -------------------


@pytest.fixture
def tiny_jpeg(monkeypatch):
    """A JPEG set of four images in place of cifar10-jpeg, their left halves coloured, the right
    ones black.
    """
    from PIL import Image

    colours = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [128, 128, 128]], np.uint8)
    pixels = np.zeros((4, 32, 32, 3), np.uint8)
    pixels[:, :, :16] = colours[:, None, None]
    files = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
        files.append(buffer.getvalue())
    parts = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offset": np.cumsum([0, *map(len, files)]),
        "label": np.array([0, 1, 2, 3], np.uint8),
        "split": np.array([0, 1, 0, 1], np.uint8),
    }
    data.root().mkdir(parents=True)
    np.savez(data.root() / "cifar10_jpeg.npz", **parts)
    digests = {key: hashlib.sha256(part.tobytes()).hexdigest() for key, part in parts.items()}
    monkeypatch.setattr(_pixels, "_CIFAR_JPEG_SHA256", digests)
    return pixels


def test_jpeg_images_are_decoded_channel_first_and_divided_by_split(tiny_jpeg):
    images = data.read("cifar10-jpeg")
    for found, expected in (
        (images.x_train, tiny_jpeg[[0, 2]]),
        (images.x_test, tiny_jpeg[[1, 3]]),
    ):
        assert found.shape == (2, 3, 32, 32)
        # blocks of one plain colour survive JPEG but for rounding in the colour transform
        assert np.abs(found.transpose(0, 2, 3, 1).astype(int) - expected).max() <= 4
    assert [part.tolist() for part in images.labels["fine"]] == [[0, 2], [1, 3]]


def test_decoded_images_are_kept_used_again_and_made_anew_when_the_kept_copy_is_damaged(
    tiny_jpeg, monkeypatch
):
    first = data.read("cifar10-jpeg")
    (kept,) = data._cache().glob("decoded/*.npz")
    whole = kept.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            _pixels, "_decode", lambda *arguments: pytest.fail("decoded although a copy is kept")
        )
        patch.setattr(
            "filelock.FileLock",
            lambda *arguments: pytest.fail("a cache that is only read was locked"),
        )
        assert np.array_equal(data.read("cifar10-jpeg").x_train, first.x_train)
    pixels_at = whole.index(first.x_train[0].tobytes())
    for damaged in (
        whole[: len(whole) // 2],
        b"",
        whole[: pixels_at + 5] + b"!!" + whole[pixels_at + 7 :],
    ):
        kept.write_bytes(damaged)
        assert np.array_equal(data.read("cifar10-jpeg").x_test, first.x_test)
        assert kept.read_bytes() == whole


def test_jpeg_images_are_read_where_the_cache_folder_cannot_be_written(
    tiny_jpeg, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(data, "_cache", lambda: tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="cannot be kept"):
        images = data.read("cifar10-jpeg")
    assert images.x_train.shape == (2, 3, 32, 32)


def test_a_jpeg_set_with_other_content_is_refused_naming_the_part(tiny_jpeg, monkeypatch):
    for key in ("jpeg", "offset", "label", "split"):
        with monkeypatch.context() as patch:
            patch.setitem(_pixels._CIFAR_JPEG_SHA256, key, "0" * 64)
            with pytest.raises(
                BioplausError, match=f"is damaged: the sha256 of its {key} is .* but {'0' * 64} was"
            ):
                data.read("cifar10-jpeg")


def test_the_real_jpeg_set_has_the_known_digests_labels_and_grey_levels(shared, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_DATA", str(shared / "data"))

    def every_fiftieth(jpeg, offset, cache):
        chosen = range(0, 60_000, 50)
        pixels = np.zeros((60_000, 3, 32, 32), np.uint8)
        for i in chosen:
            pixels[i] = _pixels._decode(jpeg, offset[i : i + 2])[0]
        return pixels

    monkeypatch.setattr(_pixels, "_decoded", every_fiftieth)
    images = data.read("cifar10-jpeg", download=False)
    y_train, y_test = images.labels["fine"]
    assert (
        np.bincount(y_train).tolist() == [5000] * 10 and np.bincount(y_test).tolist() == [1000] * 10
    )
    sample = images.x_train[::50] / 255
    # means of all 50,000 from the set's README; of 1,000 images, whose means scatter by 0.12, 0.02
    # is five errors
    assert np.allclose(sample.mean((0, 2, 3)), (0.49125, 0.48209, 0.44652), atol=0.02)
    assert np.allclose(sample.std((0, 2, 3)), (0.24523, 0.24278, 0.26063), atol=0.02)


# --- the user's own .npz
# ---------------------------------------------------------------------------------------------


def save(name: str = "mine.npz", **arrays) -> str:
    data.root().mkdir(parents=True, exist_ok=True)
    np.savez(data.root() / name, **arrays)
    return name


GREY = np.random.RandomState(3).randint(0, 256, (12, 5, 4)).astype(np.uint8)
COLOUR = np.random.RandomState(4).randint(0, 256, (12, 5, 4, 3)).astype(np.uint8)
LABELS = np.arange(12) % 2


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (COLOUR, np.moveaxis(COLOUR, 3, 1)),
        (np.moveaxis(COLOUR, 3, 1), np.moveaxis(COLOUR, 3, 1)),
    ],
)
def test_own_images_may_have_their_channels_last_second_or_absent(pixels, expected):
    for keys in (("images", "labels"), ("image", "label")):
        name = save(**dict(zip(keys, (pixels, LABELS), strict=True)), split=np.arange(12) >= 8)
        images, about = data.read(name), data.about(name)
        assert np.array_equal(images.x_train, expected[:8]) and np.array_equal(
            images.x_test, expected[8:]
        )
        assert about == data.About(
            name="mine.npz", shape=expected.shape[1:], n_train=8, n_test=4, n_classes={"fine": 2}
        )


def test_own_images_in_keras_layout_with_coarse_labels():
    name = save(
        x_train=COLOUR[:8],
        y_train=LABELS[:8, None],
        x_test=COLOUR[8:],
        y_test=LABELS[8:, None],
        y_train_coarse=LABELS[:8] * 0,
        y_test_coarse=LABELS[8:] * 0,
    )
    images = data.read(name)
    assert np.array_equal(images.x_test, np.moveaxis(COLOUR[8:], 3, 1))
    assert images.labels["fine"][0].tolist() == LABELS[:8].tolist()
    assert images.labels["coarse"][1].tolist() == [0] * 4
    assert data.about(name).n_classes == {"fine": 2, "coarse": 1}


def test_own_images_without_a_split_have_one_in_five_of_each_class_as_test():
    labels = np.repeat([0, 1], 6)
    images = data.read(save(images=GREY, labels=labels, coarse=labels * 0))
    assert images.labels["fine"][1].tolist() == [0, 1]
    # the last of six, by the rule of `spread`
    assert np.array_equal(images.x_test[:, 0], GREY[[5, 11]])
    assert len(images.labels["coarse"][0]) == 10


def test_own_images_are_found_by_absolute_path_too(tmp_path):
    np.savez(tmp_path / "elsewhere.npz", images=GREY, labels=LABELS, split=LABELS == 0)
    assert data.about(str(tmp_path / "elsewhere.npz")).name == "elsewhere.npz"
    assert data.get(str(tmp_path / "elsewhere.npz")) == str(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"images": GREY / 255}, "images is float64, but images must be uint8"),
        ({"images": GREY[:, 0]}, r"images has shape \(12, 4\)"),
        ({"images": np.zeros((12, 5, 4, 2), np.uint8)}, r"images has shape \(12, 5, 4, 2\)"),
        ({"images": GREY[:11]}, "images has 11 images, but there are 12 labels"),
        ({"labels": LABELS / 2}, "labels is float64 of shape"),
        ({"labels": LABELS - 1}, "labels is int64 of shape .* whole numbers from 0"),
        ({"labels": np.eye(12, dtype=int)}, r"labels is int64 of shape \(12, 12\)"),
        ({"split": np.arange(12)}, "split must be 0"),
        ({"split": np.zeros(11, int)}, "split must be 0"),
        ({"split": np.zeros(12, int)}, "has 12 training and 0 test images"),
        ({"coarse": LABELS[:5]}, "one coarse label for each"),
        ({"images": None}, "holds labels, but needs either x_train"),
        ({"labels": None, "x_train": GREY}, "holds images, x_train, but needs either x_train"),
    ],
)
def test_own_images_that_do_not_fit_together_are_refused_saying_how(change, complaint):
    arrays = {"images": GREY, "labels": LABELS, **change}
    name = save(**{key: value for key, value in arrays.items() if value is not None})
    for ask in (data.about, data.read):
        with pytest.raises(BioplausError, match=complaint) as caught:
            ask(name)
        assert "mine.npz" in sentence(caught)


def test_own_training_and_test_images_must_have_one_shape():
    name = save(x_train=GREY, y_train=LABELS, x_test=COLOUR, y_test=LABELS)
    with pytest.raises(BioplausError, match="differ in shape"):
        data.read(name)


@pytest.mark.parametrize("key", ["images", "labels"])
def test_object_arrays_are_refused_and_nothing_in_them_runs(tmp_path, key):
    hostile = np.array([Hostile(tmp_path / "canary")] * 12, dtype=object)
    name = save(**{"images": GREY, "labels": LABELS, key: hostile})
    for ask in (data.about, data.read):
        with pytest.raises(BioplausError) as caught:
            ask(name)
        sentence(caught)
    assert not (tmp_path / "canary").exists()


def test_a_pickle_or_an_array_or_text_called_npz_is_refused(tmp_path):
    data.root().mkdir()
    path = data.root() / "mine.npz"
    array = io.BytesIO()
    np.save(array, GREY)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("images.npy", pickle.dumps(Hostile(tmp_path / "canary")))
        archive.writestr("labels", b"text")
    for content in (
        pickle.dumps(Hostile(tmp_path / "canary")),
        array.getvalue(),
        b"text",
        b"",
        packed.getvalue(),
    ):
        path.write_bytes(content)
        with pytest.raises(BioplausError, match="mine.npz") as caught:
            data.read("mine.npz")
        sentence(caught)
    assert not (tmp_path / "canary").exists()


def test_a_header_that_promises_more_than_there_is_ends_in_one_sentence():
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (12, 2**40, 2**20)}
    )
    data.root().mkdir()
    labels = io.BytesIO()
    np.save(labels, LABELS)
    with zipfile.ZipFile(data.root() / "mine.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", labels.getvalue())
    with pytest.raises(BioplausError, match="not a whole .npz") as caught:
        data.read("mine.npz")
    sentence(caught)


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_a_cut_npz_is_always_refused_and_a_flipped_bit_never_changes_a_pixel_unnoticed(writer):
    data.root().mkdir()
    path = data.root() / "mine.npz"
    writer(path, images=GREY, labels=LABELS)
    whole, expected = path.read_bytes(), data.read("mine.npz")
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        with pytest.raises(BioplausError, match="mine.npz"):
            data.read("mine.npz")
    draw, n_refused = np.random.RandomState(1), 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[draw.randint(len(whole))] ^= 1 << draw.randint(8)
        path.write_bytes(damaged)
        try:
            found = data.read("mine.npz")
        except BioplausError:
            n_refused += 1
        else:  # the bit was in a field nobody reads, such as a date
            assert np.array_equal(found.x_train, expected.x_train) and np.array_equal(
                found.x_test, expected.x_test
            )
            assert found.labels["fine"][0].tolist() == expected.labels["fine"][0].tolist()
    assert n_refused > 25
