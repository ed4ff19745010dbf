"""Captions as numbers: how a sentence is cut into words, and which number each word has."""

from collections import Counter
from collections.abc import Iterable, Sequence

from bioplaus.errors import BioplausError, unknown

SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")


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
