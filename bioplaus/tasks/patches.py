"""Patches of natural images: what receptive fields emerge from looking at the world?

Square patches are cut at random places from the two photographs that come with scikit-learn (a
Chinese temple and a flower, 427 x 640 pixels), so that this task needs no download. Their
neighbouring pixels are strongly correlated; whitening removes that, as the retina is thought to do,
and leaves the edges to be learned.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioplaus import config, tasks
from bioplaus import device as _device
from bioplaus.errors import BioplausError, extra
from bioplaus.tasks import Spec
from bioplaus.tasks._inputs import FeatureTask, Inputs, check_order, digest
from bioplaus.tasks._pixels import scikit_learn
from bioplaus.tasks.preprocessing import unit_norm

NAME = "natural-patches"
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
LEAST_CONTRAST = 0.02  # standard deviation of grey levels in [0, 1]; flatter patches are left out


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """Which patches, prepared how, in which order."""

    side: int = 10  # height and width, pixels
    n_patches: int = 20000
    is_colour: bool = False  # red, green, blue, or grey levels (their mean)
    # regularisation of the ZCA, relative to the mean variance; None: not whitened
    whitening: float | None = 0.5
    order: str = "permuted"  # batches: permuted anew in every epoch, or fixed
    seed: int = 0  # draws the patches, and a fixed order

    def __post_init__(self) -> None:
        config.check_seed(self.seed)
        self.check("side", low=2, high=427)
        self.check("n_patches", low=2)
        self.check("whitening", low=0, open_low=True)
        check_order(self.order)


def spec(config: Config | None = None, /, **values: Any) -> Spec:
    """What a rule must know of the task that `load` gives for the same arguments."""
    return _spec(tasks.configure(Config, config, values, NAME))


def load(
    config: Config | None = None,
    /,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **values: Any,
) -> FeatureTask:
    """Cut and prepare patches.

    Order: half of the patches from each photograph, at places drawn from numpy's RandomState(seed),
    flat ones left out; minus each patch's own mean; minus the mean of every pixel, then whitened
    (all in float64); divided by the l2 norm. Pixels are flattened row by row, the colour fastest.

    Parameters
    ----------
    config, values : fields of `Config`.
    device, dtype : of the prepared patches.

    Raises
    ------
    BioplausError
        If scikit-learn or its photographs are missing.
    """
    settings = tasks.configure(Config, config, values, NAME)
    draw = np.random.RandomState(settings.seed)
    photographs = [_photograph(name) for name in PHOTOGRAPHS]
    shares = [settings.n_patches // 2, settings.n_patches - settings.n_patches // 2]
    cut = np.concatenate(
        [_cut(photo, settings, n, draw) for photo, n in zip(photographs, shares, strict=True)]
    )
    x = torch.from_numpy(cut[draw.permutation(len(cut))])
    x -= x.mean(1, keepdim=True)
    if settings.whitening is not None:
        x = whiten(x, settings.whitening)
    chosen = _device.pick(device) if isinstance(device, str) else device
    x = unit_norm(x, "patch").to(device=chosen, dtype=dtype)
    cutting = {name: getattr(settings, name) for name in _CUTTING}
    inputs = Inputs(
        spec=_spec(settings),
        x={"train": x},
        y={"train": torch.zeros(len(x), dtype=torch.int64, device=x.device)},
        fingerprint=digest(cutting, settings.seed, *(photo.tobytes() for photo in photographs)),
    )
    return FeatureTask(inputs, order=settings.order, seed=settings.seed, config=settings)


_CUTTING = ("side", "n_patches", "is_colour", "whitening")  # fields that decide a patch


def _spec(settings: Config) -> Spec:
    channels = 3 if settings.is_colour else 1
    return Spec(
        name=NAME,
        kind="features",
        n_in=channels * settings.side**2,
        n_out=1,
        image_shape=(channels, settings.side, settings.side),
        n_train=settings.n_patches,
    )


def whiten(x: Tensor, regularisation: float) -> Tensor:
    """Zero-phase whitening: x C^(-1/2), C the covariance of the rows of `x`, (n, n_in), about their
    mean.

    With C = U diag(l) U^T the factor is U diag(1 / sqrt(l + regularisation mean(l))) U^T, so
    directions with little variance, mostly noise of the camera and its JPEG files, are not blown
    up.
    """
    x = x - x.mean(0)
    variance, direction = torch.linalg.eigh(x.T @ x / len(x))
    gain = (variance.clamp(min=0) + regularisation * variance.mean()).rsqrt()
    return x @ (direction * gain) @ direction.T


def _cut(photo: np.ndarray, settings: Config, n: int, draw: np.random.RandomState) -> np.ndarray:
    """(n, n_in) float64 in [0, 1]: patches at random places of a (height, width, 3) uint8
    photograph.
    """
    pixels = photo / 255 if settings.is_colour else photo.mean(2, keepdims=True) / 255
    windows = np.lib.stride_tricks.sliding_window_view(
        pixels, (settings.side, settings.side), axis=(0, 1)
    )
    kept = np.zeros((0, settings.side, settings.side, pixels.shape[2]))
    while len(kept) < n:
        corners = tuple(draw.randint(0, windows.shape[axis], n) for axis in (0, 1))
        patches = windows[corners].transpose(0, 2, 3, 1)
        contrast = patches.mean(3).std(axis=(1, 2))
        kept = np.concatenate([kept, patches[contrast > LEAST_CONTRAST]])
    return kept[:n].reshape(n, -1)


def _photograph(name: str) -> np.ndarray:
    """(height, width, 3) uint8."""
    with extra():
        from PIL import Image

    path = scikit_learn("datasets", "images", name)
    if path is None or not path.is_file():
        raise BioplausError(
            f"{NAME} is cut from {name}, which comes with scikit-learn (pip install scikit-learn)."
        )
    return np.asarray(Image.open(path).convert("RGB"))
