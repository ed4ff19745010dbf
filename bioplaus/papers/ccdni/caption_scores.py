"""How good generated captions are: BLEU-4 and CIDEr (and SPICE) of the COCO evaluation, by picture.

The published papers show a normalised caption score and no code for it; the measures here are those
of pycocoevalcap.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bioplaus.errors import BioplausError

Words = Sequence[str]
LENGTHS = ("short", "medium", "long")


def score(
    references: Sequence[Sequence[Words]], generated: Sequence[Words], *, spice: bool = False
) -> dict[str, Any]:
    """Scores of each picture and of all together.

    Parameters
    ----------
    references : for each picture, its captions, tokenised.
    generated : for each picture, the caption to be judged, tokenised.
    spice : also SPICE, which needs Java and the parser models that pycocoevalcap downloads at its
        first use.

    Returns
    -------
    image : name of a score -> (n,) float64, dimensionless: "bleu_4" in [0, 1], "cider" in [0, 10],
        "spice" in [0, 1]. corpus : the same names -> float; BLEU of the corpus is not a mean.
    length : (n,) mean number of words in the references of each picture.
    """
    if len(references) != len(generated) or not generated:
        raise BioplausError(
            f"There are {len(references)} lists of references for {len(generated)} captions."
        )
    if empty := [i for i, captions in enumerate(references) if not captions]:
        raise BioplausError(f"Picture {empty[0]} has no reference caption to be judged by.")
    truth = {i: [" ".join(words) for words in captions] for i, captions in enumerate(references)}
    sentences = {i: [" ".join(words)] for i, words in enumerate(generated)}
    scores: dict[str, Any] = {"image": {}, "corpus": {}}
    for name, judge in _judges(spice).items():
        scores["corpus"][name], scores["image"][name] = judge(truth, sentences)
    scores["length"] = np.array(
        [np.mean([len(words) for words in captions]) for captions in references]
    )
    return scores


def length_groups(length: np.ndarray) -> np.ndarray:
    """Short, medium or long: 0, 1 or 2 for each picture, (n,) int64, cut at the tertiles of mean
    reference length.
    """
    return np.searchsorted(np.quantile(length, [1 / 3, 2 / 3]), length, side="left")


def _judges(spice: bool) -> dict[str, Any]:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise BioplausError(
            f"Captions are judged by pycocoevalcap, which is not installed ({error})."
        ) from error

    def bleu(
        truth: dict[int, list[str]], sentences: dict[int, list[str]]
    ) -> tuple[float, np.ndarray]:
        corpus, images = Bleu(4).compute_score(truth, sentences, verbose=0)
        return float(corpus[3]), np.array(images[3], dtype=float)

    def cider(
        truth: dict[int, list[str]], sentences: dict[int, list[str]]
    ) -> tuple[float, np.ndarray]:
        corpus, images = Cider().compute_score(truth, sentences)
        return float(corpus), np.array(images, dtype=float)

    return {"bleu_4": bleu, "cider": cider} | ({"spice": _spice} if spice else {})


def _spice(
    truth: dict[int, list[str]], sentences: dict[int, list[str]]
) -> tuple[float, np.ndarray]:
    import shutil

    if shutil.which("java") is None:
        raise BioplausError(
            "SPICE needs Java, and there is no java on the PATH; leave spice false, or install"
            " Java 8."
        )
    from pycocoevalcap.spice.spice import Spice

    try:
        corpus, images = Spice().compute_score(truth, sentences)
    except (
        Exception
    ) as error:  # a subprocess, a download and a database, each with errors of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BioplausError(
            f"SPICE could not be computed ({reason[:300]}); leave spice false."
        ) from error
    return float(corpus), np.array([image["All"]["f"] for image in images], dtype=float)
