"""Pictures with captions, by split: drawn scenes, and folders laid out like COCO 2014."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bioplaus.errors import BioplausError
from bioplaus.tasks import scenes

if TYPE_CHECKING:
    from PIL.Image import Image

COCO = {"train": "train2014", "validation": "val2014"}  # what COCO calls the splits


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
    from PIL import Image

    pixels, sentences = scenes.generate(n, seed)
    pairs = [(i, text) for i, texts in enumerate(sentences) for text in texts]
    digest = hashlib.sha256(pixels.tobytes() + json.dumps(pairs).encode()).hexdigest()
    rows = pixels.transpose(0, 2, 3, 1)
    return Source(n, lambda i: Image.fromarray(rows[i]), pairs, digest)


def coco(folder: Path, n_train: int | None, n_validation: int | None) -> dict[str, Source]:
    """Training and validation split of a folder laid out like COCO 2014; None takes all pictures.

    Raises
    ------
    BioplausError
        If a captions file is missing or is none, or describes pictures that are missing.
    """
    limits = {"train": n_train, "validation": n_validation}
    return {split: _coco(folder, COCO[split], n) for split, n in limits.items()}


def _coco(folder: Path, name: str, n: int | None) -> Source:
    from bioplaus._torchvision import datasets

    pictures, captions = folder / name, folder / "annotations" / f"captions_{name}.json"
    if not captions.is_file():
        raise BioplausError(
            f"There is no captions file {captions}; unpack COCO's annotations_trainval2014.zip and"
            f" {name}.zip from cocodataset.org into {folder}, or use dataset scenes, which"
            " needs no download."
        )
    try:
        stored = datasets.CocoCaptions(pictures, captions)
        ids = stored.ids[:n]
        names = [stored.coco.loadImgs(i)[0]["file_name"] for i in ids]
        index = {image: i for i, image in enumerate(ids)}
        pairs = [
            (index[a["image_id"]], a["caption"])
            for a in stored.coco.anns.values()
            if a["image_id"] in index
        ]
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise BioplausError(
            f"{captions} is no COCO captions file ({type(error).__name__}: {error})."
        ) from error
    missing = [name for name in names if not (pictures / name).is_file()]
    if missing:
        raise BioplausError(
            f"{captions.name} describes {len(names)} pictures, but {len(missing)} of them are not"
            f" in {pictures}, first {missing[0]}; unpack {pictures.name}.zip there."
        )
    if not pairs:
        raise BioplausError(f"{captions} has pictures but no captions of them.")
    identity = json.dumps([names, pairs, [(pictures / name).stat().st_size for name in names]])
    return Source(
        len(names),
        lambda i: stored._load_image(ids[i]),
        pairs,
        hashlib.sha256(identity.encode()).hexdigest(),
    )
