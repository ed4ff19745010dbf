"""Images as the competing-hidden-units notebooks prepare them, in two named steps.

Pixels in [0, 1], flattened row by row with the colour fastest, go through a first step (`FIRST`),
which is what features are learned on; a second one (`SECOND`) comes before features are computed
for a readout:

    first   pixels              nothing                                             (MNIST notebook)
            unit_norm           every image divided by its l2 norm
            centred  minus the mean of every pixel, then divided by the l2 norm  (CIFAR-10 notebook)
            centred_train_mean  the same, but test images minus the mean of the training images
    second  none                nothing
            unit_norm           every image divided by its l2 norm                 (author's advice)
            row_centred  every image minus its own mean, then divided by the l2 norm  (CIFAR-10 notebook)

In "centred" the mean of the training images is taken before validation images are held out, and
test images are centred by their OWN mean, as published; "centred_train_mean" mends the latter.
"""

import torch
from torch import Tensor

from bioplaus.errors import BioplausError, unknown
from bioplaus.tasks import Spec, images
from bioplaus.tasks.features import Inputs, digest

FIRST = ("pixels", "unit_norm", "centred", "centred_train_mean")
SECOND = ("none", "unit_norm", "row_centred")


def spec(
    dataset: str,
    *,
    first: str = "pixels",
    n_train: int | None = None,
    n_test: int | None = None,
    validation: float = 0.0,
) -> Spec:
    """What a rule must know of `load(...)` with the same arguments; nothing is read but a header.

    Raises
    ------
    BioplausError
        As `images.spec`, and for an unknown first step.
    """
    if first not in FIRST:
        raise unknown("preprocessing", first, FIRST)
    return images.spec(
        dataset, preprocessing="unit", n_train=n_train, n_test=n_test, validation=validation
    )


def load(
    dataset: str,
    *,
    first: str = "pixels",
    n_train: int | None = None,
    n_test: int | None = None,
    validation: float = 0.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Inputs:
    """Read a data set and apply the first step.

    Parameters
    ----------
    dataset, n_train, n_test, validation, seed, device, dtype : as in `images.load`.
    first : key of `FIRST`.

    Raises
    ------
    BioplausError
        As `images.load`, and if an image has norm 0.
    """
    found = spec(dataset, first=first, n_train=n_train, n_test=n_test, validation=validation)
    task = images.load(
        dataset,
        preprocessing="unit",
        n_train=n_train,
        n_test=n_test,
        validation=validation,
        seed=seed,
        device=device,
        dtype=dtype,
    )
    pixels = {split: colour_last(x, found.image_shape) for split, (x, _) in task.splits.items()}
    return Inputs(
        spec=found,
        x=prepare(pixels, first),
        y={split: y for split, (_, y) in task.splits.items()},
        fingerprint=digest(task.fingerprint, first),
    )


def colour_last(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Images of `shape` (channels, height, width), flattened colour by colour, flattened pixel by
    pixel instead.
    """
    return x.view(-1, *shape).permute(0, 2, 3, 1).reshape(len(x), -1)


def prepare(pixels: dict[str, Tensor], first: str) -> dict[str, Tensor]:
    """The first step.

    Parameters
    ----------
    pixels : (n, n_in) float in [0, 1] by split, "train" and any of "validation" and "test"; changed
        in place.
    first : key of `FIRST`.
    """
    if first.startswith("centred"):
        learned = [x for split, x in pixels.items() if split != "test"]
        mean = torch.stack([x.sum(0) for x in learned]).sum(0) / sum(map(len, learned))
        for split, x in pixels.items():
            x.sub_(x.mean(0) if split == "test" and first == "centred" else mean)
    if first != "pixels":
        for split, x in pixels.items():
            unit_norm(x, split)
    return pixels


def second_step(x: Tensor, second: str, what: str) -> Tensor:
    """The second step, in place.

    Parameters
    ----------
    x : (n, n_in) float, images after the first step.
    second : key of `SECOND`.
    what : what they are, for an error ("test").
    """
    if second == "none":
        return x
    if second == "row_centred":
        x.sub_(x.mean(1, keepdim=True))
    return unit_norm(x, what)


def unit_norm(x: Tensor, what: str) -> Tensor:
    """Divide every row of `x`, (n, n_in), by its l2 norm, in place.

    Raises
    ------
    BioplausError
        If a row has norm 0, or one that is no number: it points nowhere.
    """
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    if not (norm > 0).all():
        bad = torch.nonzero(~(norm[:, 0] > 0))[:, 0]
        raise BioplausError(
            f"{len(bad)} of {len(x)} {what} inputs have norm 0 and cannot be scaled to unit length,"
            f" first number {int(bad[0])}: blank images must be left out."
        )
    return x.div_(norm)
