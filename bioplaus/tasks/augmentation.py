"""What a step makes of uint8 images in memory: random crops, flips, and normalised floats."""

import numpy as np
import torch
from torch import Tensor

NORMALISATION = {  # published: mean, deviation
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
}


class Normaliser:
    """(pixel / top - mean) / deviation by colour.

    Parameters
    ----------
    mean, deviation : (channels,) float, of pixels in [0, 1], dimensionless.
    top : largest possible pixel value.
    width : of the images, in pixels.
    """

    def __init__(self, mean: Tensor, deviation: Tensor, top: int, width: int) -> None:
        # repeated along an image row: a broadcast over three colours is ten times slower
        self.mean, self.deviation, self.top = mean.repeat(width), deviation.repeat(width), top

    def __call__(self, pixels: Tensor) -> Tensor:
        """(batch, height, width, channels) uint8 -> (batch, channels, height, width) float,
        channels last in memory.
        """
        rows = pixels.reshape(-1, len(self.mean)).to(self.mean.dtype)
        return (
            rows.div_(self.top)
            .sub_(self.mean)
            .div_(self.deviation)
            .view(pixels.shape)
            .permute(0, 3, 1, 2)
        )


def augment(
    pixels: Tensor, rows: Tensor, top: Tensor, left: Tensor, flip: Tensor, pad: int
) -> Tensor:
    """Crops of reflection-padded images, mirrored where `flip`.

    out[b, i, j] = image[rows[b]][reflect(top + i - pad), reflect(left + j' - pad)], with j' = j, or
    width - 1 - j in a mirrored image. The border is not repeated: reflect(-1) = 1.

    Parameters
    ----------
    pixels : (n, height, width, channels), any dtype.
    rows : (batch,) int64, which images.
    top, left : (batch,) int64, corner of the crop in the padded image, from 0 to 2 pad, in pixels.
    flip : (batch,) bool.

    Returns
    -------
    (batch, height, width, channels), of the dtype of `pixels`.
    """
    n, height, width, channels = pixels.shape
    down, along = (torch.arange(size, device=pixels.device) for size in (height, width))
    y = _reflect(top[:, None] + down - pad, height)
    x = _reflect(left[:, None] + torch.where(flip[:, None], width - 1 - along, along) - pad, width)
    index = ((rows[:, None, None] * height + y[:, :, None]) * width + x[:, None, :]).view(-1)
    return pixels.view(-1, channels).index_select(0, index).view(len(rows), height, width, channels)


def _reflect(index: Tensor, n: int) -> Tensor:
    """Indices outside 0..n-1 by at most n-1, mirrored at the border."""
    return (n - 1) - ((n - 1) - index.abs()).abs()


def statistics(name: str, pixels: np.ndarray, top: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation by colour of pixels in [0, 1]: published, else of all training images, by
    counting levels.
    """
    if name in NORMALISATION:
        mean, deviation = (
            torch.tensor(values, dtype=torch.float64) for values in NORMALISATION[name]
        )
        return mean, deviation
    counts = np.stack(
        [np.bincount(pixels[:, c].ravel(), minlength=256) for c in range(pixels.shape[1])]
    )
    shares = counts / counts.sum(1, keepdims=True)
    levels = np.arange(counts.shape[1]) / top
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    return torch.from_numpy(mean), torch.from_numpy(np.sqrt(variance).clip(1e-8))
