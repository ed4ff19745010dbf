"""Pictures to describe: captions as tokens, pictures as features of a fixed encoder, batches of
captions of one length.

`load("scenes")` draws its pictures; `load("coco")` and `load("flickr8k")` read COCO 2014 and
Flickr8k from the data folder, `load("<folder>")` any folder laid out like one of them, and
`load("<path>.npz")` photographs in one file. Features are computed once and kept in the user's
cache folder.
"""

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bioplaus import _files, config, tasks
from bioplaus import device as _device
from bioplaus.errors import BioplausError, unknown
from bioplaus.tasks import Spec, captioned
from bioplaus.tasks import datasets as data
from bioplaus.tasks.captioned import Source
from bioplaus.tasks.encoders import ENCODERS
from bioplaus.tasks.picture_features import features
from bioplaus.tasks.vocabulary import SPECIAL, Vocabulary, tokens

__all__ = [
    "DATASETS",
    "ENCODERS",
    "SPECIAL",
    "CaptionTask",
    "Config",
    "Vocabulary",
    "features",
    "load",
    "needed",
    "spec",
    "tokens",
]

DATASETS = ("scenes", "coco", "flickr8k", "flickr8k-1000")
# files with a name of their own: the path in the folder of data sets, and the sha256
NAMED = {
    "flickr8k-1000": (
        "flickr8k_1000.npz",
        "edac4600448aecab5230a4fe8057ec1dc86cd246b756b55ec9b030ea59b864ff",
    )
}
N_SCENES = {"train": 1000, "validation": 300}  # drawn unless the config says how many


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """Which pictures and captions. Defaults: drawn scenes; the rest as published."""

    # scenes, coco, flickr8k, flickr8k-1000 (its first thousand pictures, flickr8k_1000.npz), the
    # absolute path of a folder laid out like COCO or Flickr8k, or a .npz
    dataset: str = "scenes"
    # None: small_cnn for scenes, else resnet152
    encoder: Literal["small_cnn", "resnet152"] | None = None
    n_train: int | None = None  # pictures to learn from; None: 1000 scenes, else all
    n_val: int | None = None  # pictures to validate with; None: 300 scenes, else all
    min_length: int = 0  # shortest caption used, in tokens with start and end
    max_length: int = 25  # longest caption used, in tokens with start and end
    min_count: int = 4  # a word that comes less often in the training captions is <unk>
    is_balanced: bool = False  # the same number of batches of every length
    n_val_batches: int | None = 50  # batches of a validation; None: all
    seed: int = 0  # of the scenes

    def __post_init__(self) -> None:
        for name in ("n_train", "n_val", "min_count", "n_val_batches"):
            self.check(name, low=1)
        self.check("min_length", low=0)
        self.check("max_length", low=3)
        config.check_seed(self.seed)
        if self.min_length > self.max_length:
            raise BioplausError(
                f"min_length is {self.min_length}, but must be at most max_length,"
                f" {self.max_length}."
            )

    @property
    def encoder_name(self) -> str:
        """The encoder, chosen by the data set unless given."""
        return self.encoder or ("small_cnn" if self.dataset == "scenes" else "resnet152")


def spec(config: Config | str | None = None, /, **values: Any) -> Spec:
    """What a rule must know of the task that `load` gives, as far as it is known before a caption
    is read: the size of the vocabulary, `n_out`, is 0, and `n_steps` the longest caption asked for.

    Raises
    ------
    BioplausError
        For unknown names, values out of range, a folder that does not exist. COCO itself need not
        be there.
    """
    settings = _checked(config, values)
    return _spec(settings, n_words=0, n_steps=settings.max_length)


def load(
    config: Config | str | None = None,
    /,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **values: Any,
) -> "CaptionTask":
    """Read captions, encode pictures (or read their features), put all on the device.

    Parameters
    ----------
    config, values : fields of `Config`.

    Raises
    ------
    BioplausError
        As `spec`; for missing caption files, pictures that are missing, captions of lengths that
        nobody asked for.
    """
    settings = _checked(config, values)
    chosen = torch.device(device)
    return CaptionTask(settings, _sources(settings), chosen, dtype)


def _checked(given: Config | str | None, values: dict[str, Any]) -> Config:
    settings = tasks.configure(Config, given, values, "captions")
    if settings.dataset not in DATASETS:
        folder = Path(os.path.expanduser(settings.dataset))
        is_file = settings.dataset.lower().endswith(".npz")
        if folder.name == settings.dataset and not is_file:
            raise unknown("data set", settings.dataset, [*DATASETS, "<folder>", "<path>.npz"])
        is_there = os.path.isfile(_path(settings)) if is_file else os.path.isdir(folder)
        # a relative path stays inside the folder of data sets
        if not is_there or not (folder.is_absolute() or is_file and ".." not in folder.parts):
            raise BioplausError(
                f"dataset is {settings.dataset!r}, but must be {', '.join(DATASETS)}, the absolute"
                " path of a folder laid out like COCO 2014 or Flickr8k that exists, or that of a"
                " .npz."
            )
    return settings


def _spec(settings: Config, n_words: int, n_steps: int) -> Spec:
    return Spec(
        name=Path(settings.dataset).name,
        kind="captions",
        n_in=ENCODERS[settings.encoder_name].n_features,
        n_out=n_words,
        n_steps=n_steps,
    )


def _sources(settings: Config) -> dict[str, Source]:
    """Pictures and captions by split, "train" and "validation"."""
    if settings.dataset == "scenes":
        n_train = settings.n_train or N_SCENES["train"]
        n_validation = settings.n_val or N_SCENES["validation"]
        return captioned.drawn(n_train, n_validation, settings.seed)
    path = _path(settings)
    if settings.dataset in NAMED:
        _check_file(settings.dataset, path, NAMED[settings.dataset][1])
    return captioned.photographs(path, settings.n_train, settings.n_val)


def _path(settings: Config) -> Path:
    """Where the photographs lie; a relative path is one in the folder of data sets."""
    name = NAMED[settings.dataset][0] if settings.dataset in NAMED else settings.dataset
    return data.root() / os.path.expanduser(name)


def _check_file(dataset: str, path: Path, sha256: str) -> None:
    """Raise unless the file of a data set is there, and is the one that its name stands for."""
    content = _files.read(path)
    if content is None:
        raise BioplausError(
            f"Data set {dataset} is not there: put {path.name} into {path.parent}, or set"
            " BIOPLAUS_DATA to the folder that has it."
        )
    if (computed := _files.sha256(content)) != sha256:
        raise BioplausError(
            f"{path} is not the file that data set {dataset} means: its sha256 is"
            f" {computed[:12]}..., not {sha256[:12]}...."
        )


def needed(dataset: str, encoder: str | None) -> dict[str, Callable[[], str]]:
    """What a task reads from disk, by name; each call returns where it is, or raises the sentence
    that says what to do.

    The weights of an encoder are downloaded by their call, COCO is not.
    """
    settings = _checked(dataset, {"encoder": encoder})
    calls: dict[str, Callable[[], str]] = {}
    if settings.dataset != "scenes":

        def folder() -> str:
            _sources(settings)
            return str(_path(settings))

        calls[settings.dataset] = folder
    if settings.encoder_name == "resnet152":

        def weights() -> str:
            ENCODERS["resnet152"].build()
            return torch.hub.get_dir()

        calls["resnet152"] = weights
    return calls


@dataclass(frozen=True)
class Split:
    """Pictures and captions of a split.

    Attributes
    ----------
    features : (n_pictures, n_in) float.
    by_length : length in tokens -> (tokens, pictures) of the captions used: (n, length) and (n,),
        int64.
    references : the tokenised captions of each picture.
    """

    features: Tensor
    by_length: dict[int, tuple[Tensor, Tensor]]
    references: list[list[list[str]]]


class CaptionTask(tasks.Task[Config, Split]):
    """Captions to learn.

    Attributes
    ----------
    spec : `Spec`; n_in is the width of the features, n_out the size of the vocabulary, n_steps the
        longest caption.
    vocabulary : from the training captions.
    splits : `Split` by "train" and "validation".
    """

    recorded_names = {"validation": "val"}

    def __init__(
        self, settings: Config, sources: dict[str, Source], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config, self._sources, self._device = settings, sources, device
        words = {
            split: [(i, tokens(text)) for i, text in source.captions]
            for split, source in sources.items()
        }
        self.vocabulary = Vocabulary.of(
            (caption for _, caption in words["train"]), settings.min_count
        )
        by_length = {split: self._by_length(pairs, split) for split, pairs in words.items()}
        splits = {}
        for split, source in sources.items():
            encoded = features(source, settings.encoder_name, split == "train", device)
            references: list[list[list[str]]] = [[] for _ in range(source.n_images)]
            for i, caption in words[split]:
                references[i].append(caption)
            splits[split] = Split(
                features=tasks.finite(torch.from_numpy(encoded).to(device, dtype), "features"),
                by_length=by_length[split],
                references=references,
            )
        self.splits, self.monitored = splits, ("validation",)
        self.spec = _spec(settings, len(self.vocabulary), max(by_length["train"]))

    def _fingerprint(self) -> str:
        """sha256, hexadecimal, of the settings, the pictures and the captions."""
        identity = [
            self.config.to_dict(),
            [source.fingerprint for source in self._sources.values()],
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @property
    def references(self) -> list[list[list[str]]]:
        """The tokenised captions of each validation picture."""
        return self.splits["validation"].references

    def n_samples(self, split: str) -> int:
        """Number of captions used."""
        return sum(len(rows) for _, rows in self.splits[split].by_length.values())

    @property
    def n_train(self) -> int:
        """Number of training captions used; batches leave some out (`n_batches`)."""
        return self.n_samples("train")

    def n_batches(self, batch_size: int) -> int:
        """Number of batches in one epoch; captions that do not fill a batch of their length are
        left out.
        """
        return sum(self._counts(batch_size).values())

    def draws(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of batches: rows of pictures, and the tokens of captions of one length, in
        random order.

        Parameters
        ----------
        generator : CPU generator; one permutation for each length, ascending, then one of the
            batches.
        """
        train, parts = self.splits["train"], []
        for length, count in self._counts(batch_size).items():
            numbers, rows = train.by_length[length]
            order = torch.randperm(len(rows), generator=generator)[: count * batch_size]
            parts += [(rows[chosen], numbers[chosen]) for chosen in order.split(batch_size)]
        for k in torch.randperm(len(parts), generator=generator).tolist():
            rows, numbers = parts[k]
            yield rows.to(self._device), numbers.to(self._device)

    def batch_of(self, *draw: Tensor) -> tuple[Tensor, Tensor]:
        """(features, tokens): (batch, n_in) float, (batch, length) int64."""
        rows, numbers = draw
        return self.splits["train"].features.index_select(0, rows), numbers

    def measure(self, rule: Any, split: str) -> dict[str, float]:
        """ "bits": cross-entropy per word of the captions, teacher forced, in bits.

        Batches of up to 100 captions of one length, the same ones every time. (Published: a mean
        over batches, of which only full ones are used; here every word counts alike.)
        """
        part, parts = self.splits[split], []
        for numbers, rows in part.by_length.values():
            parts += list(zip(rows.split(100), numbers.split(100), strict=True))
        order = torch.randperm(len(parts), generator=_device.generator(123, "validation")).tolist()
        nats, n_words = 0.0, 0
        for rows, numbers in (parts[k] for k in order[: self.config.n_val_batches]):
            captions = numbers.to(self._device)
            nats = (
                nats + rule.nll(part.features[rows.to(self._device)], captions) * captions.numel()
            )
            n_words += captions.numel()
        return {"bits": float(nats) / n_words / math.log(2)}

    @torch.no_grad()
    def generate(self, rule: Any) -> list[list[str]]:
        """A caption of every validation picture, as words."""
        pictures = self.splits["validation"].features
        parts = [rule.predict(part).argmax(2) for part in pictures.split(100)]
        return [self.vocabulary.decode(row) for row in torch.cat(parts).tolist()]

    def pictures(self, chosen: Sequence[int]) -> np.ndarray:
        """Validation pictures, (n, size, size, 3) uint8, for people to look at; at most 128 pixels
        wide.
        """
        images = [self._sources["validation"].image(i).convert("RGB") for i in chosen]
        size = min(128, max(images[0].size))
        return np.stack([np.asarray(image.resize((size, size))) for image in images])

    def examples(self, generated: Sequence[Sequence[str]], n: int) -> dict[str, Any]:
        """The first `n` validation pictures with what people and the network say of them, for a
        record.

        Parameters
        ----------
        generated : what `generate` gave.

        Returns
        -------
        pictures : as of `pictures`; photographs belong to their authors, and of those only the mean
            colour is kept, as one pixel. references : sentences by picture. generated : a sentence
            each.
        """
        chosen = range(min(n, len(generated)))
        pictures = self.pictures(chosen)
        if self.config.dataset != "scenes":
            pictures = pictures.mean((1, 2), keepdims=True).round().astype(np.uint8)
        return {
            "pictures": pictures,
            "references": [[" ".join(words) for words in self.references[i]] for i in chosen],
            "generated": [" ".join(generated[i]) for i in chosen],
        }

    def _by_length(
        self, captions: list[tuple[int, list[str]]], split: str
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """`Split.by_length` of tokenised captions, as (picture, words)."""
        used: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        for i, caption in captions:
            if self.config.min_length <= len(caption) + 2 <= self.config.max_length:
                used[len(caption) + 2].append((i, self.vocabulary.encode(caption)))
        if not used:
            raise BioplausError(
                f"No {split} caption of {self.config.dataset} has {self.config.min_length} to"
                f" {self.config.max_length} tokens, start and end among them; widen min_length and"
                " max_length."
            )
        return {
            length: (
                torch.tensor([numbers for _, numbers in pairs]),
                torch.tensor([i for i, _ in pairs]),
            )
            for length, pairs in sorted(used.items())
        }

    def _counts(self, batch_size: int) -> dict[int, int]:
        """Length -> number of full batches, of the lengths that fill one."""
        if batch_size < 1:
            raise BioplausError(f"batch_size is {batch_size!r}, but must be at least 1.")
        by_length = self.splits["train"].by_length
        counts = {length: len(rows) // batch_size for length, (_, rows) in by_length.items()}
        counts = {length: count for length, count in counts.items() if count}
        if not counts:
            most = max(len(rows) for _, rows in by_length.values())
            raise BioplausError(
                f"batch_size is {batch_size}, but no length has more than {most} training captions,"
                f" and a batch holds captions of one length; it must be at most {most}."
            )
        least = min(counts.values())
        return dict.fromkeys(counts, least) if self.config.is_balanced else counts
