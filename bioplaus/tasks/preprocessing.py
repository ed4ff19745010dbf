"""Preprocessings of images by name: the one table of them.

To add one, write the function and enter it in `PREPROCESSING`; the parameter `preprocessing` of the
task `images`, and `first` of the task `features`, then take its name, for every data set.

    unit                pixels in [0, 1], colour by colour              (CorInfoMax, MNIST)
    corinfomax          (pixel - mean) / (3 std) per colour             (CorInfoMax, CIFAR)
    pixels              pixels in [0, 1], pixel by pixel, the colour fastest
    unit_norm           every image divided by its l2 norm              (author's advice, MNIST)
    row_centred         every image minus its own mean, then unit norm
    centred             minus the mean of every pixel, then unit norm   (CIFAR-10 notebook)
    centred_train_mean  the same, but test images minus the mean of the training images

From `pixels` on they are those of the competing hidden units, and flatten pixel by pixel.
In "centred" the mean of the training images is taken before validation images are held out, and
test images are centred by their OWN mean, as published; "centred_train_mean" mends the latter.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bioplaus.errors import BioplausError

Splits = dict[str, Tensor]  # inputs by "train" and any of "validation" and "test"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """A way to prepare images."""

    # (n, channels, height, width) in [0, 1], images one by one; may change it in place
    prepare: Callable[[Tensor], Tensor]
    n_channels: int | None = None  # channels it is made for; None: any
    # of all splits at once, after `prepare` and after validation images were held out
    finish: Callable[[Splits], Splits] | None = None
    # of each training batch, already prepared
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None


def unit(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1], flattened row by row: MNIST and Fashion-MNIST of the CorInfoMax paper.

    Parameters
    ----------
    pixels : (n, channels, height, width), float, in [0, 1], dimensionless.

    Returns
    -------
    (n, channels * height * width), float.
    """
    return pixels.flatten(1)


def corinfomax(pixels: Tensor) -> Tensor:
    """CIFAR of the CorInfoMax paper: (pixel - mean) / (3 std) per colour, flattened colour by
    colour.

    mean = (0.4914, 0.4822, 0.4465), std = (0.2023, 0.1994, 0.2010) for red, green, blue (published
    code).

    Parameters
    ----------
    pixels : (n, 3, height, width), float, in [0, 1], dimensionless; changed in place.

    Returns
    -------
    (n, 3 * height * width), float.
    """
    mean = pixels.new_tensor((0.4914, 0.4822, 0.4465)).view(3, 1, 1)
    deviation = 3 * pixels.new_tensor((0.2023, 0.1994, 0.2010)).view(3, 1, 1)
    return pixels.sub_(mean).div_(deviation).flatten(1)


def colour_last(pixels: Tensor) -> Tensor:
    """Images (n, channels, height, width) flattened pixel by pixel, the colour fastest."""
    return pixels.permute(0, 2, 3, 1).reshape(len(pixels), -1)


def unit_norm(x: Tensor, split: str) -> Tensor:
    """Divide every row of `x`, (n, n_in), by its l2 norm, in place.

    Parameters
    ----------
    split : what the rows are, for the error ("test").

    Raises
    ------
    BioplausError
        If a row has norm 0, or one that is no number: it points nowhere.
    """
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    if not (norm > 0).all():
        bad = torch.nonzero(~(norm[:, 0] > 0))[:, 0]
        raise BioplausError(
            f"{len(bad)} of {len(x)} {split} inputs have norm 0 and cannot be scaled to unit"
            f" length, first number {int(bad[0])}: blank images must be left out."
        )
    return x.div_(norm)


def row_centred(x: Tensor, split: str) -> Tensor:
    """Every row of `x`, (n, n_in), minus its own mean, then divided by its l2 norm, in place."""
    return unit_norm(x.sub_(x.mean(1, keepdim=True)), split)


def centred(x: Splits, *, test_by_own_mean: bool) -> Splits:
    """Every pixel minus its mean over images, then rows of unit norm, in place.

    Parameters
    ----------
    x : (n, n_in) float by split; the mean is that of training and validation images.
    test_by_own_mean : test images are centred by their own mean, as published.
    """
    learned = [part for split, part in x.items() if split != "test"]
    mean = torch.stack([part.sum(0) for part in learned]).sum(0) / sum(map(len, learned))
    for split, part in x.items():
        part.sub_(part.mean(0) if split == "test" and test_by_own_mean else mean)
    return each(unit_norm)(x)


def each(step: Callable[[Tensor, str], Tensor]) -> Callable[[Splits], Splits]:
    """A step of one split's inputs as a step of all splits."""
    return lambda x: {split: step(part, split) for split, part in x.items()}


PREPROCESSING = {
    "unit": Preprocessing(prepare=unit),
    "corinfomax": Preprocessing(prepare=corinfomax, n_channels=3),
    "pixels": Preprocessing(prepare=colour_last),
    "unit_norm": Preprocessing(prepare=colour_last, finish=each(unit_norm)),
    "row_centred": Preprocessing(prepare=colour_last, finish=each(row_centred)),
    "centred": Preprocessing(
        prepare=colour_last, finish=functools.partial(centred, test_by_own_mean=True)
    ),
    "centred_train_mean": Preprocessing(
        prepare=colour_last, finish=functools.partial(centred, test_by_own_mean=False)
    ),
}
