"""ResNet-9 with k-sparse convolutions: the 2022 form, regular and with inverted widths."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bioplaus.nets.conv3 import Conv3

WIDTHS = (64, 128, 256, 512)
INVERTED_WIDTHS = (512, 256, 128, 64)


class SparseConv(nn.Module):
    """Keep the largest responses of each map, then of each channel in the batch; the rest becomes
    0.

    1. per image and channel the K1 = ceil(k height width) largest values;
    2. per channel, over all images, the K2 = ceil(per_k K1 batch) largest of what step 1 gave.

    Values are ranked with their sign, in step 2 together with the zeros of step 1: a negative
    survivor of step 1 stays only where K2 exceeds the channel's positive survivors and zeros. The
    gradient is 1 where a value stays, 0 elsewhere. Equal values at the border are chosen between
    arbitrarily, as `torch.topk` does.

    Applied in evaluation too, so the output for an image depends on the other images of its batch,
    as published.

    Parameters
    ----------
    k, per_k : fractions in (0, 1], dimensionless.
    """

    def __init__(self, k: float, per_k: float) -> None:
        super().__init__()
        self.k, self.per_k = k, per_k

    def counts(self, batch: int, height: int, width: int) -> tuple[int, int]:
        """(K1, K2) for a batch."""
        k1 = math.ceil(self.k * height * width)
        return k1, math.ceil(self.per_k * k1 * batch)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same shape."""
        n, c, height, width = x.shape
        k1, k2 = self.counts(n, height, width)
        maps = x.detach().permute(1, 0, 2, 3).reshape(c * n, -1)
        kept = largest(maps, k1)
        kept &= largest((maps * kept).view(c, -1), k2).view_as(kept)
        return x * kept.view(c, n, height, width).permute(1, 0, 2, 3)


class SparseResNet9(nn.Module):
    """The stages of ResNet-9; each block is conv 3x3 with bias, [SparseConv], BN, ReLU, [max pool
    2].

    res1 and res2 are y = x + block(block(x)). The last maps are pooled to one value per channel: by
    their maximum, or by their mean in the network with inverted widths. On 32x32 images that is the
    published pooling of 4x4.

    Parameters
    ----------
    widths : w1, w2, w3, w4, channels of conv1..conv4.
    in_channels : of the images; these are at least 8 pixels wide and high.
    k, per_k : of the SparseConv in each of the eight blocks; None or 0 in either: none.
    is_inverted : pool by the mean.

    Attributes
    ----------
    n_features : w4, the number of outputs per image.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        in_channels: int = 3,
        k: float | None = None,
        per_k: float | None = None,
        *,
        is_inverted: bool = False,
    ) -> None:
        super().__init__()
        w1, w2, w3, w4 = widths
        self.n_features = w4

        def block(n_in: int, n_out: int, *more: nn.Module) -> nn.Sequential:
            sparse = SparseConv(k, per_k) if k and per_k else nn.Identity()
            norm = nn.BatchNorm2d(n_out)
            return nn.Sequential(
                Conv3(n_in, n_out, bias=True), sparse, norm, nn.ReLU(inplace=True), *more
            )

        self.conv1 = block(in_channels, w1)
        self.conv2 = block(w1, w2, nn.MaxPool2d(2))
        self.res1 = nn.Sequential(block(w2, w2), block(w2, w2))
        self.conv3 = block(w2, w3, nn.MaxPool2d(2))
        self.conv4 = block(w3, w4, nn.MaxPool2d(2))
        self.res2 = nn.Sequential(block(w4, w4), block(w4, w4))
        self.pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1) if is_inverted else nn.AdaptiveMaxPool2d(1), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> features (batch, n_features)."""
        y = self.conv2(self.conv1(x))
        y = self.conv4(self.conv3(y + self.res1(y)))
        return self.pool(y + self.res2(y))


def largest(rows: Tensor, n: int) -> Tensor:
    """(rows, columns) bool: the n largest of each row."""
    chosen = torch.zeros(rows.shape, dtype=torch.bool, device=rows.device)
    return chosen.scatter_(1, rows.topk(n, dim=1, sorted=False).indices, True)
