"""Pictures with captions, by split: drawn scenes, folders laid out like COCO 2014 or like Flickr8k,
and a part of Flickr8k in one .npz.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bioplaus.errors import BioplausError, extra
from bioplaus.tasks import scenes
from bioplaus.tasks._untrusted import inside, opened, picture

if TYPE_CHECKING:
    from PIL.Image import Image

COCO = {"train": "train2014", "validation": "val2014"}  # what COCO calls the splits
FLICKR = {"train": "Flickr_8k.trainImages.txt", "validation": "Flickr_8k.devImages.txt"}
PICTURES = ("Images", "Flicker8k_Dataset", "Flickr8k_Dataset")  # folders of Flickr8k's pictures
TEXTS = ("Flickr8k.token.txt", "captions.txt")  # its captions: as published, and as a table
PARTS = {"train": 0, "validation": 1}  # what a .npz says in `split`; 2 is test


@dataclass(frozen=True)
class Source:
    """One split: its pictures, and its captions as (picture, text) in stored order."""

    n_images: int
    image: Callable[[int], "Image"]
    captions: list[tuple[int, str]]
    fingerprint: str  # sha256, hexadecimal, of what decides pictures and captions


def drawn(n_train: int, n_validation: int, seed: int) -> dict[str, Source]:
    """Drawn scenes: a seed trains on those of an even number, and validates on those of an odd
    one.
    """
    return {
        split: _drawn(n, 2 * seed + offset)
        for offset, (split, n) in enumerate({"train": n_train, "validation": n_validation}.items())
    }


def _drawn(n: int, seed: int) -> Source:
    with extra():
        from PIL import Image

    pixels, sentences = scenes.generate(n, seed)
    pairs = [(i, text) for i, texts in enumerate(sentences) for text in texts]
    digest = hashlib.sha256(pixels.tobytes() + json.dumps(pairs).encode()).hexdigest()
    rows = pixels.transpose(0, 2, 3, 1)
    return Source(n, lambda i: Image.fromarray(rows[i]), pairs, digest)


def photographs(path: Path, n_train: int | None, n_validation: int | None) -> dict[str, Source]:
    """Training and validation split of a folder or a .npz; None takes all pictures.

    Raises
    ------
    BioplausError
        If a file of captions is missing or is none, or names pictures that are missing or lie
        outside the folder.
    """
    limits = {"train": n_train, "validation": n_validation}
    if path.is_file():
        return _flickr_npz(path, limits)
    if is_flickr(path):
        return _flickr(path, limits)
    return {split: _coco(path, COCO[split], n) for split, n in limits.items()}


def is_flickr(folder: Path) -> bool:
    """Whether a folder holds captions in one of Flickr8k's forms."""
    return any(_text(folder, name) for name in TEXTS)


# --- COCO 2014


def _coco(folder: Path, name: str, n: int | None) -> Source:
    pictures, path = folder / name, folder / "annotations" / f"captions_{name}.json"
    if not path.is_file():
        raise BioplausError(
            f"There is no captions file {path}; unpack COCO's annotations_trainval2014.zip and"
            f" {name}.zip from cocodataset.org into {folder}, or use dataset scenes, which"
            " needs no download."
        )
    try:
        stored = json.loads(path.read_bytes())
        names = {image["id"]: str(image["file_name"]) for image in stored["images"]}
        captions = {a["id"]: (a["image_id"], str(a["caption"])) for a in stored["annotations"]}
        ids = sorted(names)[:n]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BioplausError(
            f"{path} is no COCO captions file ({type(error).__name__}: {error})."
        ) from error
    except OSError as error:
        raise BioplausError(f"Could not read {path}: {error.strerror}.") from error
    index = {image: i for i, image in enumerate(ids)}
    pairs = [(index[image], text) for image, text in captions.values() if image in index]
    return _from_files(pictures, [names[i] for i in ids], pairs, path)


def _from_files(
    folder: Path, names: Sequence[str], pairs: list[tuple[int, str]], source: Path
) -> Source:
    """Pictures that lie in a folder; `source` names them."""
    paths = [inside(folder, name, source) for name in names]
    if missing := [path.name for path in paths if not os.path.isfile(path)]:
        raise BioplausError(
            f"{source.name} describes {len(names)} pictures, but {len(missing)} of them are not"
            f" in {folder}, first {missing[0]}; unpack {folder.name}.zip there."
        )
    if not pairs:
        raise BioplausError(f"{source} has pictures but no captions of them.")
    identity = json.dumps([list(names), pairs, [path.stat().st_size for path in paths]])
    return Source(
        len(paths),
        lambda i: picture(paths[i], str(paths[i])),
        pairs,
        hashlib.sha256(identity.encode()).hexdigest(),
    )


# --- Flickr8k


def _text(folder: Path, name: str) -> Path | None:
    """A text of Flickr8k, in its folder or in the one that it is published in."""
    paths = (folder / name, folder / "Flickr8k_text" / name)
    return next((path for path in paths if path.is_file()), None)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BioplausError(f"{path} is not a text in UTF-8 ({error}).") from error
    return [line for line in text.splitlines() if line.strip()]


def _flickr(folder: Path, limits: dict[str, int | None]) -> dict[str, Source]:
    source = next(path for name in TEXTS if (path := _text(folder, name)))
    pictures = next((folder / name for name in PICTURES if (folder / name).is_dir()), None)
    if pictures is None:
        raise BioplausError(
            f"{folder} holds {source.name}, but none of the folders {', '.join(PICTURES)} with the"
            " pictures."
        )
    texts = _flickr_captions(source)
    chosen = {split: _text(folder, name) for split, name in FLICKR.items()}
    if all(chosen.values()):
        names = {
            split: [line.strip() for line in _lines(path)] for split, path in chosen.items() if path
        }
    else:  # no published division: every tenth picture validates
        every = sorted(texts)
        names = {
            "train": [name for i, name in enumerate(every) if i % 10 != 9],
            "validation": every[9::10],
        }
    sources = {}
    for split, n in limits.items():
        used = names[split][:n]
        if unknown := next((name for name in used if name not in texts), None):
            raise BioplausError(f"{source} has no caption of {unknown}, which {split} names.")
        if not used:
            raise BioplausError(f"{folder} has no picture for {split}.")
        pairs = [(i, text) for i, name in enumerate(used) for text in texts[name]]
        sources[split] = _from_files(pictures, used, pairs, source)
    return sources


def _flickr_captions(path: Path) -> dict[str, list[str]]:
    """Captions by picture, in stored order: `<picture>#<number><tab><caption>` in each line, or the
    columns image and caption.
    """
    lines, texts = _lines(path), {}
    is_table = lines[:1] == ["image,caption"]
    for line in csv.reader(lines[1:]) if is_table else (line.split("\t", 1) for line in lines):
        if len(line) != 2:
            raise BioplausError(f"{path} holds the line {str(line)[:80]}, which is no caption.")
        name = line[0] if is_table else line[0].rpartition("#")[0]
        texts.setdefault(name, []).append(line[1].strip())
    return texts


def _flickr_npz(path: Path, limits: dict[str, int | None]) -> dict[str, Source]:
    """Photographs as JPEG files one after another: keys jpeg, offset, filename, captions, split."""
    with opened(path) as stored:
        jpeg, offset, names, captions, split = (
            stored[key] for key in ("jpeg", "offset", "filename", "captions", "split")
        )
    n = len(names)
    fits = (
        jpeg.dtype == np.uint8
        and jpeg.ndim == names.ndim == split.ndim == offset.ndim == 1
        and offset.dtype.kind in "iu"
        and names.dtype.kind == captions.dtype.kind == "U"
        and captions.ndim == 2
        and (len(offset), len(captions), len(split)) == (n + 1, n, n)
        and offset[0] >= 0
        and offset[-1] <= len(jpeg)
        and bool((np.diff(offset.astype(np.int64)) > 0).all())
    )
    if not fits:
        raise BioplausError(
            f"{path} does not hold pictures in the form of Flickr8k: jpeg (bytes, uint8), offset"
            " (n + 1, ascending), filename (n), captions (n, any), split (n)."
        )
    sources = {}
    for part, code in PARTS.items():
        rows = np.flatnonzero(split == code)[: limits[part]]
        if not len(rows):
            raise BioplausError(f"{path} has no picture for {part} (split {code}).")
        pairs = [(i, str(text)) for i, row in enumerate(rows) for text in captions[row]]
        files = [jpeg[offset[row] : offset[row + 1]].tobytes() for row in rows]
        labels = [f"{names[row]} in {path}" for row in rows]
        digest = hashlib.sha256(json.dumps(pairs).encode())
        for file in files:
            digest.update(file)
        sources[part] = Source(len(rows), _Stored(files, labels), pairs, digest.hexdigest())
    return sources


@dataclass(frozen=True)
class _Stored:
    """Pictures in memory, each as the bytes of its file."""

    files: list[bytes]
    names: list[str]

    def __call__(self, i: int) -> "Image":
        return picture(io.BytesIO(self.files[i]), self.names[i])
