"""Pictures to describe: captions as tokens, pictures as features of a fixed encoder, batches of
captions of one length.

`load("scenes")` draws its pictures; `load("coco")` reads COCO 2014 (through torchvision and
pycocotools) from the data folder, `load("<folder>")` any folder laid out like it. Features are
computed once and kept in the user's cache folder.
"""

import contextlib
import hashlib
import io
import json
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from bioplaus import _files, config
from bioplaus import device as _device
from bioplaus.errors import BioplausError, unknown
from bioplaus.tasks import Spec, scenes
from bioplaus.tasks import datasets as data
from bioplaus.tasks.encoders import ENCODERS, Encoder

if TYPE_CHECKING:
    from PIL.Image import Image

DATASETS = ("scenes", "coco")
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
SHARD = 1000  # pictures whose features are kept in one file
CHUNK = 32  # pictures encoded at once


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """Which pictures and captions. Defaults: drawn scenes; the rest as published."""

    dataset: str = (
        "scenes"  # scenes, coco, or the absolute path of a folder laid out like COCO 2014
    )
    encoder: Literal["small_cnn", "resnet152"] | None = (
        None  # None: small_cnn for scenes, else resnet152
    )
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


def tokens(caption: str) -> list[str]:
    """Words and marks of a caption, in lower case, as nltk's `word_tokenize` cuts one sentence."""
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer().tokenize(caption.lower())


class Vocabulary:
    """Words and their numbers: the special ones (pad 0, start 1, end 2, unknown 3), then the
    others.

    Parameters
    ----------
    words : without the special ones, in the order of their numbers.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = [*SPECIAL, *words]
        self._numbers = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def of(cls, captions: Iterable[Sequence[str]], min_count: int) -> "Vocabulary":
        """Words that come at least `min_count` times in the tokenised captions, in order of first
        occurrence.
        """
        counts = Counter(word for caption in captions for word in caption)
        return cls(word for word, count in counts.items() if count >= min_count)

    def __len__(self) -> int:
        return len(self.words)

    def number(self, word: str) -> int:
        """The number of a word.

        Raises
        ------
        BioplausError
            If it is not in the vocabulary; the nearest word is suggested.
        """
        if word not in self._numbers:
            known = f"{len(self)} words" if len(self) > 60 else ", ".join(self.words)
            nearest = unknown("word", word, self.words)
            raise (
                nearest
                if len(self) <= 60
                else BioplausError(f"The word {word!r} is not among the {known} known.")
            )
        return self._numbers[word]

    def encode(self, caption: Sequence[str]) -> list[int]:
        """Numbers of a tokenised caption between start and end; a word that is not known becomes
        <unk>.
        """
        return [1, *(self._numbers.get(word, 3) for word in caption), 2]

    def decode(self, numbers: Sequence[int], *, as_published: bool = True) -> list[str]:
        """Words of a generated caption.

        Published: everything up to the first <end> (or all, if there is none), without the first
        and the last token: a caption that never ends loses its last word. `as_published` False
        keeps that word.
        """
        kept = list(numbers)
        has_end = 2 in kept
        kept = kept[: kept.index(2) + 1] if has_end else kept
        kept = kept[1:-1] if has_end or as_published else kept[1:]
        return [self.words[number] for number in kept]


@dataclass(frozen=True)
class Source:
    """One split: its pictures, and its captions as (picture, text) in stored order."""

    n_images: int
    image: Callable[[int], "Image"]
    captions: list[tuple[int, str]]
    fingerprint: str  # sha256, hexadecimal, of what decides pictures and captions


def load(
    dataset: str = "scenes",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **values: Any,
) -> "CaptionTask":
    """Read captions, encode pictures (or find their features), put all on the device.

    Parameters
    ----------
    dataset, values : fields of `Config`.

    Raises
    ------
    BioplausError
        For unknown names and values out of range, missing caption files, pictures that are missing,
        captions of lengths that nobody asked for.
    """
    settings = check(dataset=dataset, **values)
    sources = _scenes(settings) if settings.dataset == "scenes" else _coco(settings)
    return CaptionTask(settings, sources, torch.device(device), dtype)


def check(**values: Any) -> Config:
    """The checked `Config` of values by name, without reading a caption; COCO need not be there, a
    folder must.
    """
    settings = Config.from_dict(values, kind="parameter of captions:")
    if settings.dataset not in DATASETS:
        folder = Path(settings.dataset).expanduser()
        if folder.name == settings.dataset:
            raise unknown("data set", settings.dataset, [*DATASETS, "<folder>"])
        if not (folder.is_absolute() and folder.is_dir()):
            raise BioplausError(
                f"dataset is {settings.dataset!r}, but must be scenes, coco, or the absolute path"
                " of a folder laid out like COCO 2014 that exists."
            )
    return settings


def needed(dataset: str, encoder: str | None) -> dict[str, Callable[[], str]]:
    """What a task reads from disk, by name; each call returns where it is, or raises the sentence
    that says what to do.

    The weights of an encoder are downloaded by their call, COCO is not.
    """
    settings, found = check(dataset=dataset, encoder=encoder), {}
    if settings.dataset != "scenes":
        found[settings.dataset] = lambda: _coco(settings) and str(_coco_folder(settings))
    if settings.encoder_name == "resnet152":
        found["resnet152"] = lambda: ENCODERS["resnet152"].build() and torch.hub.get_dir()
    return found


class CaptionTask:
    """Captions to learn; keeps the contract of `tasks.Task`.

    Attributes
    ----------
    spec : `Spec`; n_in is the width of the features, n_out the size of the vocabulary, n_steps the
        longest caption.
    config : `Config`.
    vocabulary : from the training captions.
    features : (n, n_in) by split, "train" and "val".
    references : the tokenised captions of each validation picture.
    """

    def __init__(
        self, settings: Config, sources: dict[str, Source], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config, self._sources, self._device = settings, sources, device
        words = {
            name: [(i, tokens(text)) for i, text in source.captions]
            for name, source in sources.items()
        }
        self.vocabulary = Vocabulary.of(
            (caption for _, caption in words["train"]), settings.min_count
        )
        self._lengths = {name: self._by_length(pairs, name) for name, pairs in words.items()}
        encoded = {
            name: features(source, settings.encoder_name, name == "train", device)
            for name, source in sources.items()
        }
        self.features = {
            name: torch.from_numpy(found).to(device, dtype) for name, found in encoded.items()
        }
        grouped: list[list[list[str]]] = [[] for _ in range(sources["val"].n_images)]
        for i, caption in words["val"]:
            grouped[i].append(caption)
        self.references = grouped
        self.spec = Spec(
            name=Path(settings.dataset).name,
            kind="captions",
            n_in=ENCODERS[settings.encoder_name].n_features,
            n_out=len(self.vocabulary),
            n_steps=max(self._lengths["train"]),
        )
        said = [settings.to_dict(), [source.fingerprint for source in sources.values()]]
        self.fingerprint = hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def n_batches(self, batch_size: int) -> int:
        """Number of batches in one epoch; captions that do not fill a batch of their length are
        left out.
        """
        return sum(self._counts(batch_size).values())

    def batches(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of batches (features, tokens), each of captions of one length, in random order.

        Parameters
        ----------
        generator : CPU generator; one permutation for each length, ascending, then one of the
            batches.
        """
        parts = []
        for length, count in self._counts(batch_size).items():
            numbers, rows = self._lengths["train"][length]
            order = torch.randperm(len(rows), generator=generator)[: count * batch_size]
            parts += [(rows[chosen], numbers[chosen]) for chosen in order.split(batch_size)]
        for k in torch.randperm(len(parts), generator=generator).tolist():
            rows, numbers = parts[k]
            yield self.features["train"][rows.to(self._device)], numbers.to(self._device)

    @torch.no_grad()
    def evaluate(self, rule: torch.nn.Module) -> dict[str, float]:
        """ "val_bits": cross-entropy per word of validation captions, teacher forced, in bits.

        Batches of up to 100 captions of one length, the same ones every time. (Published: a mean
        over batches, of which only full ones are used; here every word counts alike.)
        """
        parts = []
        for numbers, rows in self._lengths["val"].values():
            parts += list(zip(rows.split(100), numbers.split(100), strict=True))
        order = torch.randperm(len(parts), generator=_device.generator(123, "validation")).tolist()
        nats, n_words = 0.0, 0
        for rows, numbers in (parts[k] for k in order[: self.config.n_val_batches]):
            captions = numbers.to(self._device)
            nats = (
                nats
                + rule.nll(self.features["val"][rows.to(self._device)], captions) * captions.numel()
            )
            n_words += captions.numel()
        return {"val_bits": float(nats) / n_words / math.log(2)}

    @torch.no_grad()
    def generate(self, rule: torch.nn.Module) -> list[list[str]]:
        """A caption of every validation picture, as words."""
        parts = [rule.predict(part).argmax(2) for part in self.features["val"].split(100)]
        return [self.vocabulary.decode(row) for row in torch.cat(parts).tolist()]

    def pictures(self, which: Sequence[int]) -> np.ndarray:
        """Validation pictures, (n, size, size, 3) uint8, for people to look at; at most 128 pixels
        wide.
        """
        found = [self._sources["val"].image(i).convert("RGB") for i in which]
        size = min(128, max(found[0].size))
        return np.stack([np.asarray(picture.resize((size, size))) for picture in found])

    def _by_length(
        self, captions: list[tuple[int, list[str]]], split: str
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Length in tokens -> (tokens, pictures) of the captions used: (n, length) and (n,),
        int64.
        """
        found: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        for i, caption in captions:
            if self.config.min_length <= len(caption) + 2 <= self.config.max_length:
                found[len(caption) + 2].append((i, self.vocabulary.encode(caption)))
        if not found:
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
            for length, pairs in sorted(found.items())
        }

    def _counts(self, batch_size: int) -> dict[int, int]:
        """Length -> number of full batches, of the lengths that fill one."""
        counts = {
            length: len(rows) // batch_size for length, (_, rows) in self._lengths["train"].items()
        }
        counts = {length: count for length, count in counts.items() if count}
        if not counts:
            most = max(len(rows) for _, rows in self._lengths["train"].values())
            raise BioplausError(
                f"batch_size is {batch_size}, but no length has more than {most} training captions,"
                f" and a batch holds captions of one length; it must be at most {most}."
            )
        least = min(counts.values())
        return dict.fromkeys(counts, least) if self.config.is_balanced else counts


def features(
    source: Source, encoder: str, is_training: bool, device: str | torch.device = "cpu"
) -> np.ndarray:
    """Features of all pictures of `source`, (n_images, n_features) float32, computed on the device.

    They are kept in the user's cache folder, so many pictures to a file, each with its digest; what
    is there and whole is not computed again, so an interrupted encoding goes on where it stopped.
    Of several processes that need a file one computes it and the others wait for it.
    """
    about, place = ENCODERS[encoder], torch.device(device)
    said = f"{source.fingerprint} {encoder} {about.about} {is_training} {place.type}"
    folder = data._cache() / "features" / hashlib.sha256(said.encode()).hexdigest()[:16]
    net, parts = None, []
    for start in range(0, source.n_images, SHARD):
        path, rows = folder / f"{start:07d}.npy", range(start, min(start + SHARD, source.n_images))
        found = _kept(path)
        if found is None:
            with _locked(path):
                found = _kept(path)  # another process made it meanwhile
                if found is None:
                    net = net or about.build().to(place)
                    found = _encoded(net, about, source, rows, is_training, place)
                    _keep(found, path)
        parts.append(found)
    return np.concatenate(parts)


@torch.no_grad()
def _encoded(
    net: torch.nn.Module,
    about: Encoder,
    source: Source,
    rows: range,
    is_training: bool,
    place: torch.device,
) -> np.ndarray:
    """Features of the pictures `rows` of `source`, (n, n_features) float32."""
    chunks = (rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK))
    pictures = (
        torch.stack([about.prepare(source.image(i), is_training) for i in chunk])
        for chunk in chunks
    )
    return torch.cat([net(batch.to(place)).cpu() for batch in pictures]).numpy()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file of features; where its folder cannot be written nothing is kept, so
    nothing is locked.
    """
    from filelock import FileLock

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
        yield


def _keep(found: np.ndarray, path: Path) -> None:
    content = io.BytesIO()
    np.save(content, found)
    try:
        _files.write_atomic(path, _files.seal(content.getvalue()))
    except BioplausError as error:
        warnings.warn(
            f"The features cannot be kept, so every run computes them again: {error}", stacklevel=2
        )


def _kept(path: Path) -> np.ndarray | None:
    try:
        return np.load(io.BytesIO(_files.unseal(path.read_bytes(), path)))
    except (OSError, BioplausError):
        return None


def _scenes(settings: Config) -> dict[str, Source]:
    from PIL import Image

    sources = {}
    sizes = {"train": settings.n_train or 1000, "val": settings.n_val or 300}
    for offset, (split, n) in enumerate(sizes.items()):
        # a seed trains on even, validates on odd
        pixels, sentences = scenes.generate(n, 2 * settings.seed + offset)
        pairs = [(i, text) for i, texts in enumerate(sentences) for text in texts]
        digest = hashlib.sha256(pixels.tobytes() + json.dumps(pairs).encode()).hexdigest()
        rows = pixels.transpose(0, 2, 3, 1)
        sources[split] = Source(n, lambda i, rows=rows: Image.fromarray(rows[i]), pairs, digest)
    return sources


def _coco(settings: Config) -> dict[str, Source]:
    """Training and validation split of a folder laid out like COCO 2014."""
    folder = _coco_folder(settings)
    limits = {"train": settings.n_train, "val": settings.n_val}
    return {split: _coco_split(folder, split, n) for split, n in limits.items()}


def _coco_folder(settings: Config) -> Path:
    return (
        data.root() / "coco" if settings.dataset == "coco" else Path(settings.dataset).expanduser()
    )


def _coco_split(folder: Path, split: str, n: int | None) -> Source:
    from bioplaus._torchvision import datasets

    pictures, captions = (
        folder / f"{split}2014",
        folder / "annotations" / f"captions_{split}2014.json",
    )
    if not captions.is_file():
        raise BioplausError(
            f"There is no captions file {captions}; unpack COCO's annotations_trainval2014.zip and"
            f" {split}2014.zip from cocodataset.org into {folder}, or use dataset scenes, which"
            " needs no download."
        )
    try:
        found = datasets.CocoCaptions(pictures, captions)
        ids = found.ids[:n]
        names = [found.coco.loadImgs(i)[0]["file_name"] for i in ids]
        places = {image: i for i, image in enumerate(ids)}
        pairs = [
            (places[a["image_id"]], a["caption"])
            for a in found.coco.anns.values()
            if a["image_id"] in places
        ]
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise BioplausError(
            f"{captions} is no COCO captions file ({type(error).__name__}: {error})."
        ) from error
    missing = [name for name in names if not (pictures / name).is_file()]
    if missing:
        raise BioplausError(
            f"{captions.name} describes {len(names)} pictures, but {len(missing)} of them are not"
            f" in {pictures}, first {missing[0]}; unpack {split}2014.zip there."
        )
    if not pairs:
        raise BioplausError(f"{captions} has pictures but no captions of them.")
    said = json.dumps([names, pairs, [(pictures / name).stat().st_size for name in names]])
    return Source(
        len(names),
        lambda i: found._load_image(ids[i]),
        pairs,
        hashlib.sha256(said.encode()).hexdigest(),
    )
