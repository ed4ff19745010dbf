"""Images of a user's own in a folder: one folder a class, or picture files and a table of labels,
or the four files of MNIST's format.

    <folder>/<class>/<picture>                    one picture in five of each class is test
    <folder>/train/<class>/<picture>, test/...
    <folder>/<table>.csv                          columns file, label (and coarse, split)

The index of a class is that of its name among the sorted names of all classes; labels of a table
that are whole numbers are taken as they are. Pictures are PNG, JPEG, ... of one size, all grey or
all coloured.
"""

import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bioplaus.errors import BioplausError, extra
from bioplaus.tasks import _idx
from bioplaus.tasks._npz import check_levels, class_indices, labelled
from bioplaus.tasks._pixels import About, Images, divided, spread
from bioplaus.tasks._untrusted import inside, unreadable

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
GREY, COLOUR = ("1", "L"), ("P", "RGB", "YCbCr", "CMYK")  # modes of pictures, as Pillow names them
COLUMNS = {  # of a table, and other names for them
    "file": ("file", "filename", "file_name", "image", "path", "name", "id"),
    "label": ("label", "labels", "class", "target", "y"),
    "coarse": ("coarse", "superclass"),
    "split": ("split", "set"),
}
SPLITS = {"train": False, "training": False, "0": False, "test": True, "testing": True, "1": True}


class _Listing(NamedTuple):
    """The pictures of a folder."""

    files: list[Path]
    labels: dict[str, np.ndarray]  # by kind, (n,) int64
    is_test: np.ndarray  # (n,) bool


def about(folder: Path) -> About:
    """Check a folder of images; of the pictures only the first one's header is read.

    Raises
    ------
    BioplausError
        If the folder holds no images in one of the three forms, or a table does not fit them.
    """
    if _idx.is_here(folder):
        return _idx.about(folder)
    listing = _listing(folder)
    with _Picture(listing.files[0]) as first:
        height, width, channels = first.shape
    return labelled(folder, (channels, height, width), _by_split(listing))


def read(folder: Path) -> Images:
    """Read all images of a folder, as `about` describes it."""
    if _idx.is_here(folder):
        return _idx.read(folder)
    listing, known = _listing(folder), about(folder)
    channels, height, width = known.shape
    pixels = np.empty((len(listing.files), height, width, channels), np.uint8)
    for i, path in enumerate(listing.files):
        with _Picture(path) as picture:
            if picture.shape != pixels.shape[1:]:
                raise BioplausError(
                    f"{path} is {_size(picture.shape)}, but {listing.files[0].name} is"
                    f" {_size(pixels.shape[1:])}: all pictures must be of one size, and all grey or"
                    " all coloured."
                )
            pixels[i] = picture.pixels()
    images = divided(
        np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), listing.is_test, listing.labels
    )
    check_levels(folder, [images.x_train, images.x_test], known.top)
    return images


class _Picture:
    """An image file, open; whatever is wrong with it is one sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "_Picture":
        with extra():
            from PIL import Image

        try:
            self._image = Image.open(self.path)
        except Exception as error:  # a damaged or hostile file can raise anything
            raise unreadable(self.path, error) from error
        if self._image.mode not in (*GREY, *COLOUR):
            raise BioplausError(
                f"{self.path} is a picture of mode {self._image.mode}; only grey and coloured"
                " pictures of 8 bits without transparency are read."
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._image.close()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return (self._image.height, self._image.width, 1 if self._image.mode in GREY else 3)

    def pixels(self) -> np.ndarray:
        """(height, width, channels) uint8."""
        try:
            image = self._image.convert("L" if self.shape[2] == 1 else "RGB")
            return np.asarray(image).reshape(self.shape)
        except Exception as error:
            raise unreadable(self.path, error) from error


def _size(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{height} x {width} and {'grey' if channels == 1 else 'coloured'}"


def _by_split(listing: _Listing) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        kind: (values[~listing.is_test], values[listing.is_test])
        for kind, values in listing.labels.items()
    }


def _listing(folder: Path) -> _Listing:
    try:
        tables = [path for path in _visible(folder) if path.suffix.lower() == ".csv"]
        if tables:
            return _from_table(folder, tables)
        return _from_folders(folder)
    except OSError as error:
        raise BioplausError(f"Could not read the folder {folder}: {error.strerror}.") from error


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, hidden files left out."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    paths = [path for path in _visible(folder) if path.suffix.lower() in PICTURES]
    for path in filter(Path.is_symlink, paths):
        inside(folder, path.name, folder)
    return paths


def _from_folders(folder: Path) -> _Listing:
    parts = {path.name.lower(): path for path in _visible(folder) if path.is_dir()}
    is_divided = {"train", "test"} <= parts.keys()
    roots = [parts["train"], parts["test"]] if is_divided else [folder]
    pictures: list[tuple[Path, str, bool]] = []  # file, class, whether it is a test image
    for root in roots:
        for kind in (path for path in _visible(root) if path.is_dir()):
            inside(folder, str(kind.relative_to(folder)), folder)
            paths = _pictures(kind)
            if not paths:
                raise BioplausError(
                    f"{kind} holds no picture ({', '.join(PICTURES)}); in a folder of images every"
                    " folder is a class."
                )
            is_test = is_divided and root == parts["test"]
            pictures += [(path, kind.name, is_test) for path in paths]
    if not pictures:
        raise BioplausError(
            f"{folder} holds no images: neither one folder a class with pictures in it, nor a .csv"
            " with the columns file and label, nor the four files of MNIST's format."
        )
    names = sorted({name for _, name, _ in pictures})
    index = {name: i for i, name in enumerate(names)}
    labels = np.array([index[name] for _, name, _ in pictures], dtype=np.int64)
    is_test = np.array([test for _, _, test in pictures])
    return _Listing(
        files=[path for path, _, _ in pictures],
        labels={"fine": labels},
        is_test=is_test if is_divided else spread(labels, lambda n: n // 5),
    )


def _from_table(folder: Path, tables: list[Path]) -> _Listing:
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise BioplausError(f"{folder} holds several tables ({names}); one must say the labels.")
    (table,) = tables
    rows = _rows(table)
    files = [_named(folder, row["file"], table) for row in rows]
    if len(set(files)) < len(files):
        doubled = next(path for path in files if files.count(path) > 1)
        raise BioplausError(f"{table} names the picture {doubled.name} more than once.")
    labels = {
        kind: _numbers([row[column] for row in rows], table, column)
        for kind, column in (("fine", "label"), ("coarse", "coarse"))
        if column in rows[0]
    }
    is_test = spread(labels["fine"], lambda n: n // 5)
    if "split" in rows[0]:
        words = [row["split"].strip().lower() for row in rows]
        if strange := next((word for word in words if word not in SPLITS), None):
            raise BioplausError(f"{table}: split is {strange!r}, but must be train or test.")
        is_test = np.array([SPLITS[word] for word in words])
    return _Listing(files, labels, is_test)


def _rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table by column, under the names of `COLUMNS`."""
    try:
        text = table.read_text(encoding="utf-8-sig")
        first = text.splitlines()[0] if text.strip() else ""
        delimiter = max(",;\t", key=first.count)
        lines = list(csv.reader(text.splitlines(), delimiter=delimiter, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BioplausError(f"{table} is not a table in UTF-8 ({error}).") from error
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    known = {other: column for column, others in COLUMNS.items() for other in others}
    header = [known.get(cell.strip().lower(), "") for cell in lines[0]] if lines else []
    if not {"file", "label"} <= set(header) or len(lines) < 2:
        raise BioplausError(
            f"{table} must have a first line with the columns file and label (and coarse, split),"
            f" and then a line for each picture; its first line is {first[:80]!r}."
        )
    rows = []
    for i, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise BioplausError(
                f"{table} has {len(line)} cells in line {i}, but {len(header)} columns."
            )
        rows.append({name: cell for name, cell in zip(header, line, strict=True) if name})
    return rows


def _named(folder: Path, name: str, table: Path) -> Path:
    """The picture that a table names, with or without its suffix."""
    name = name.strip()
    path = inside(folder, name, table)
    if os.path.isfile(path):  # False for a name that no file can have
        return path
    for suffix in PICTURES:
        if path.name and os.path.isfile(f"{path}{suffix}"):
            return inside(folder, name + suffix, table)
    raise BioplausError(
        f"{table} names the picture {name!r}, but there is no such file in {folder}."
    )


def _numbers(words: list[str], table: Path, column: str) -> np.ndarray:
    """Labels as (n,) int64: numbers as they are, words numbered in sorted order."""
    words = [word.strip() for word in words]
    if "" in words:
        raise BioplausError(f"{table}: a {column} is empty; every picture needs one.")
    try:
        values = np.array([int(word) for word in words], dtype=object)
    except ValueError:
        names = sorted(set(words))
        index = {name: i for i, name in enumerate(names)}
        return np.array([index[word] for word in words], dtype=np.int64)
    if not all(abs(value) < 2**62 for value in values):
        raise BioplausError(f"{table}: a {column} is {max(values, key=abs)}, which is no class.")
    return class_indices(values.astype(np.int64), table, column)
