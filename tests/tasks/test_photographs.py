"""Photographs with captions from disk, in the forms of COCO and Flickr8k; weights of an encoder.
What these files name or hold is never trusted.
"""

import io
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bioplaus import _files
from bioplaus.errors import BioplausError
from bioplaus.tasks import captioned, captions, encoders
from bioplaus.tasks import datasets as data

PIXELS = np.random.RandomState(0).randint(0, 256, (12, 30, 40, 3)).astype(np.uint8)
SENTENCES = [[f"A picture with the number {i}.", f"This is {i} ."] for i in range(12)]


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


# --- COCO


def coco(folder: Path, names: dict[int, str] | None = None, **changes) -> Path:
    """A folder laid out like COCO 2014 with two pictures a split, some under other names."""
    for split in ("train2014", "val2014"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / "annotations").mkdir(exist_ok=True)
        stored = {"images": [], "annotations": []}
        for i in range(2):
            (folder / split / f"{i}.jpg").write_bytes(jpeg(PIXELS[i]))
            stored["images"].append({"id": i, "file_name": (names or {}).get(i, f"{i}.jpg")})
            for text in SENTENCES[i]:
                number = len(stored["annotations"])
                stored["annotations"].append({"id": number, "image_id": i, "caption": text})
        path = folder / "annotations" / f"captions_{split}.json"
        path.write_text(json.dumps({**stored, **changes}))
    return folder


OUTSIDE = ["../secret.jpg", "a/../../secret.jpg", "{0}/secret.jpg", "link", "a\0b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_annotation_reaches_no_picture_outside_its_folder(tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(jpeg(PIXELS[3]))
    folder = coco(tmp_path / "coco", {1: name.format(tmp_path)})
    (folder / "train2014" / "secret.jpg").write_bytes(jpeg(PIXELS[3]))
    (folder / "train2014" / "link").symlink_to(tmp_path / "secret.jpg")
    (folder / "secret.jpg").write_bytes(jpeg(PIXELS[3]))
    with pytest.raises(
        BioplausError, match="not in the folder .*nothing outside is read"
    ) as caught:
        captions.load(str(folder), encoder="small_cnn")
    assert "captions_train2014.json" in str(caught.value)


def test_a_name_that_no_file_can_have_is_of_a_missing_picture(tmp_path):
    folder = coco(tmp_path / "coco", {1: "x" * 5000})
    with pytest.raises(BioplausError, match="1 of them are not in"):
        captions.load(str(folder), encoder="small_cnn")


def test_a_folder_that_is_itself_a_link_is_read(tmp_path):
    coco(tmp_path / "disk")
    (tmp_path / "coco").symlink_to(tmp_path / "disk")
    assert (
        len(captions.load(str(tmp_path / "coco"), encoder="small_cnn", min_count=1).references) == 2
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [{"id": 1}]},
        {"images": 3},
        {"images": [[1, 2]]},
        {"annotations": [{"id": 1, "image_id": 1}]},
        {"annotations": None},
        {"images": [{"id": 1, "file_name": "0.jpg"}, {"id": "a", "file_name": "1.jpg"}]},
        {"images": [{"id": [], "file_name": "0.jpg"}]},
    ],
)
def test_a_table_that_is_no_captions_file_is_one_sentence(tmp_path, changes):
    with pytest.raises(
        BioplausError, match="captions_train2014.json is no COCO captions"
    ) as caught:
        captions.load(str(coco(tmp_path / "coco", **changes)), encoder="small_cnn")
    assert "\n" not in str(caught.value)


def test_deeply_nested_json_is_one_sentence(tmp_path):
    folder = coco(tmp_path / "coco")
    (folder / "annotations" / "captions_train2014.json").write_text("[" * 10**5)
    with pytest.raises(BioplausError, match="is no COCO captions file"):
        captions.load(str(folder), encoder="small_cnn")


def test_a_damaged_picture_is_named(tmp_path):
    folder = coco(tmp_path / "coco")
    (folder / "val2014" / "1.jpg").write_bytes(jpeg(PIXELS[1])[:300])
    with pytest.raises(BioplausError, match=r"1\.jpg is not a whole picture"):
        captions.load(str(folder), encoder="small_cnn", min_count=1)


# --- Flickr8k


def flickr(folder: Path, *, table: bool = False, lists: bool = True, below: str = "") -> Path:
    """A folder laid out like Flickr8k: pictures 0 to 7 train, 8 and 9 validate, 10 and 11 test."""
    (folder / "Images").mkdir(parents=True)
    (folder / below).mkdir(exist_ok=True)
    for i in range(12):
        (folder / "Images" / f"{i:02d}.jpg").write_bytes(jpeg(PIXELS[i]))
    pairs = [(f"{i:02d}.jpg", k, text) for i in range(12) for k, text in enumerate(SENTENCES[i])]
    if table:
        lines = ["image,caption", *(f'{name},"{text}"' for name, _, text in pairs)]
        (folder / below / "captions.txt").write_text("\n".join(lines))
    else:
        lines = [f"{name}#{k}\t{text}" for name, k, text in pairs]
        (folder / below / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    if lists:
        for name, rows in {"train": range(8), "dev": (8, 9), "test": (10, 11)}.items():
            text = "".join(f"{i:02d}.jpg\n" for i in rows)
            (folder / below / f"Flickr_8k.{name}Images.txt").write_text(text)
    return folder


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("below", ["", "Flickr8k_text"])
def test_flickr8k_is_read_in_both_forms_with_its_published_division(tmp_path, table, below):
    folder = flickr(tmp_path / "flickr", table=table, below=below)
    task = captions.load(str(folder), encoder="small_cnn", min_count=1)
    assert [len(part.references) for part in task.splits.values()] == [8, 2]
    assert task.references[1] == [captions.tokens(text) for text in SENTENCES[9]]
    picture = task.pictures([1])[0]
    expected = np.asarray(Image.open(folder / "Images" / "09.jpg").resize((40, 40)))
    assert np.array_equal(picture, expected)


def test_flickr8k_lies_in_the_data_folder_under_its_name(tmp_path):
    flickr(data.root() / "flickr8k")
    task = captions.load("flickr8k", encoder="small_cnn", min_count=1, n_train=3, n_val=1)
    assert task.spec.name == "flickr8k" and len(task.splits["train"].references) == 3
    assert captions.needed("flickr8k", "small_cnn")["flickr8k"]() == str(data.root() / "flickr8k")


def test_without_published_lists_every_tenth_picture_validates(tmp_path):
    sources = captioned.photographs(flickr(tmp_path / "f", lists=False), None, None)
    assert [source.n_images for source in sources.values()] == [11, 1]
    assert sources["validation"].captions == [(0, text) for text in SENTENCES[9]]


def spoil(folder: Path, how: str) -> None:
    token = folder / "Flickr8k.token.txt"
    if how == "outside":
        (folder.parent / "secret.jpg").write_bytes(jpeg(PIXELS[0]))
        token.write_text(token.read_text() + "../../secret.jpg#0\tA secret .\n")
        (folder / "Flickr_8k.trainImages.txt").write_text("../../secret.jpg\n")
    elif how == "missing picture":
        (folder / "Images" / "03.jpg").unlink()
    elif how == "no caption":
        (folder / "Flickr_8k.trainImages.txt").write_text("99.jpg\n")
    elif how == "no line":
        token.write_text(token.read_text() + "a line without a mark\n")
    elif how == "encoding":
        token.write_bytes(token.read_text().encode("utf-16"))
    elif how == "no pictures":
        (folder / "Images").rename(folder / "Pictures")
    elif how == "empty list":
        (folder / "Flickr_8k.devImages.txt").write_text("\n")


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("outside", "not in the folder .*nothing outside is read"),
        ("missing picture", "1 of them are not in .*first 03.jpg"),
        ("no caption", "has no caption of 99.jpg"),
        ("no line", "which is no caption"),
        ("encoding", "is not a text in UTF-8"),
        ("no pictures", "none of the folders Images"),
        ("empty list", "no picture for validation"),
    ],
)
def test_a_folder_like_flickr8k_that_does_not_fit_is_one_sentence(tmp_path, how, complaint):
    folder = flickr(tmp_path / "flickr")
    spoil(folder, how)
    with pytest.raises(BioplausError, match=complaint) as caught:
        captions.load(str(folder), encoder="small_cnn")
    assert "\n" not in str(caught.value)


def packed(folder: Path, **changes) -> str:
    files = [jpeg(pixels) for pixels in PIXELS]
    arrays = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offset": np.cumsum([0, *map(len, files)]),
        "filename": np.array([f"{i}.jpg" for i in range(12)]),
        "captions": np.array(SENTENCES),
        "split": np.array([0] * 8 + [1, 1, 2, 255], np.uint8),
    }
    np.savez(folder / "some.npz", **{**arrays, **changes})
    return str(folder / "some.npz")


def test_photographs_in_one_file_are_those_of_the_folder_they_were_packed_from(tmp_path):
    one = captions.load(packed(tmp_path), encoder="small_cnn", min_count=1)
    other = captions.load(str(flickr(tmp_path / "f")), encoder="small_cnn", min_count=1)
    assert one.references == other.references and one.spec.name == "some.npz"
    for split in ("train", "validation"):
        assert torch.equal(one.splits[split].features, other.splits[split].features)
    assert np.array_equal(one.pictures([0, 1]), other.pictures([0, 1]))


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": np.arange(12)},
        {"offset": np.arange(13)[::-1]},
        {"offset": np.arange(13) + 10**9},
        {"offset": np.arange(13) - 5},
        {"jpeg": np.zeros(10, np.int16)},
        {"captions": np.array(["x"] * 12)},
        {"captions": np.zeros((12, 2))},
        {"split": np.zeros((12, 1), np.uint8)},
        {"split": np.zeros(12, np.uint8)},
        {"filename": np.arange(12)},
    ],
)
def test_a_file_of_photographs_that_does_not_fit_is_one_sentence(tmp_path, changes):
    with pytest.raises(BioplausError, match="some.npz") as caught:
        captions.load(packed(tmp_path, **changes), encoder="small_cnn")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_picture_are_named(tmp_path):
    path = packed(tmp_path, offset=np.arange(13) * 20)
    with pytest.raises(BioplausError, match=r"0\.jpg in .*some.npz is not a whole picture"):
        captions.load(path, encoder="small_cnn", min_count=1)


def test_the_thousand_photographs_are_read(shared, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_DATA", str(shared / "data"))
    sources = captioned.photographs(shared / "data" / "flickr8k_1000.npz", 10, None)
    assert [source.n_images for source in sources.values()] == [10, 113]
    assert len(sources["train"].captions) == 50 and sources["train"].image(3).mode == "RGB"
    assert captions.spec("flickr8k_1000.npz", encoder="small_cnn").n_in == 64


NOWHERE = ["none.npz", "../outside.npz", "/nowhere", "some/folder", "~nobody/x", "x/" * 5000]


@pytest.mark.parametrize(
    "name", [*NOWHERE, "/" + "x" * 5000, "a\0b/c", "a\0b.npz", "~nobody/x.npz"]
)
def test_photographs_that_are_not_there_are_refused_before_anything_is_read(name):
    with pytest.raises(BioplausError, match="must be scenes, .*flickr8k-1000, the absolute path"):
        captions.spec(name)


# --- weights of an encoder


class Hostile:
    """Unpickled without care, makes the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_hostile_weights_are_refused_by_their_digest_before_anything_in_them_is_read(
    tmp_path, monkeypatch
):
    canary = tmp_path / "canary"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = tmp_path / "checkpoints" / encoders.RESNET152
    path.parent.mkdir()
    path.write_bytes(saved({"fc.weight": Hostile(canary)}))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *a, **k: pytest.fail("read an unchecked file"))
        with pytest.raises(BioplausError, match="must begin with 394f9c45. Delete it") as caught:
            captions.ENCODERS["resnet152"].build()
    assert str(path) in str(caught.value) and not canary.exists()


def test_hostile_weights_of_the_right_digest_are_not_executed(tmp_path):
    canary, content = tmp_path / "canary", saved({"a": Hostile(tmp_path / "canary")})
    path = tmp_path / f"net-{_files.sha256(content)[:8]}.pth"
    path.write_bytes(content)
    with pytest.raises(BioplausError, match="nothing in it was executed"):
        encoders.weights(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists()  # it would have been


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": torch.tensor([1.0, float("nan")])}, {"a": "text"}, 3]
)
def test_a_file_that_holds_no_finite_tensors_is_one_sentence(tmp_path, content):
    raw = saved(content)
    path = tmp_path / f"net-{_files.sha256(raw)[:8]}.pth"
    path.write_bytes(raw)
    with pytest.raises(BioplausError) as caught:
        encoders.weights(path)
    assert "\n" not in str(caught.value)


def test_right_weights_are_read(tmp_path):
    raw = saved({"a": torch.arange(3.0)})
    path = tmp_path / f"net-{_files.sha256(raw)[:8]}.pth"
    path.write_bytes(raw)
    assert encoders.weights(path)["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("is_right", [True, False])
def test_weights_that_are_missing_are_fetched_and_checked_before_they_get_their_name(
    tmp_path, is_right
):
    raw = saved({"a": torch.arange(3.0)})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(raw if is_right else raw + b"x")

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    path = tmp_path / "checkpoints" / f"net-{_files.sha256(raw)[:8]}.pth"
    try:
        url = f"http://127.0.0.1:{server.server_port}/net.pth"
        if is_right:
            encoders._download(url, path)
            assert path.read_bytes() == raw
        else:
            with pytest.raises(BioplausError, match="could not be downloaded .*sha256 of"):
                encoders._download(url, path)
            assert [found.suffix for found in path.parent.iterdir()] in ([], [".lock"])
    finally:
        server.shutdown()
        server.server_close()


def test_a_record_keeps_of_a_photograph_its_mean_colour_alone(tmp_path):
    task = captions.load(str(coco(tmp_path / "coco")), encoder="small_cnn", min_count=1)
    kept = task.examples([["a"], ["b"]], 2)["pictures"]
    assert kept.shape == (2, 1, 1, 3)
    assert np.abs(kept[:, 0, 0] - PIXELS[:2].mean((1, 2))).max() < 4  # JPEG, and a filter


def test_a_named_part_of_flickr8k_is_one_known_file(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_DATA", str(tmp_path))
    with pytest.raises(BioplausError, match="flickr8k-1000 is not there: put flickr8k_1000.npz"):
        captions.load("flickr8k-1000", encoder="small_cnn")
    np.savez(tmp_path / "flickr8k_1000.npz", jpeg=np.zeros(1, np.uint8))
    with pytest.raises(BioplausError, match="not the file that data set flickr8k-1000 means"):
        captions.load("flickr8k-1000", encoder="small_cnn")
