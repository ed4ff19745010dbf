"""Residual networks for small images (ResNet-18 and ResNet-34), from torchvision's blocks."""

from collections.abc import Sequence

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)  # of the four stages
DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}  # blocks in the four stages


class ResNet(nn.Module):
    """Stem conv 3x3, BN, ReLU (no pooling); four stages of blocks, the last three halving the map;
    mean over positions.

    Weights start as PyTorch draws them.

    Parameters
    ----------
    name : key of `DEPTHS`.
    widths : of the stages; the stem has the first.
    in_channels : of the images.

    Attributes
    ----------
    n_features : outputs per image.

    Deviations
    ----------
    The published module returns maps of 1x1, which no head accepts.
    """

    def __init__(self, name: str, widths: Sequence[int], in_channels: int) -> None:
        from bioplaus._torchvision import models

        super().__init__()
        stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        n_in, stages = widths[0], []
        for width, depth, stride in zip(widths, DEPTHS[name], (1, 2, 2, 2), strict=True):
            blocks = []
            for first in [stride] + [1] * (depth - 1):
                shortcut = None
                if first > 1 or n_in != width:
                    conv = nn.Conv2d(n_in, width, 1, first, bias=False)
                    shortcut = nn.Sequential(conv, nn.BatchNorm2d(width))
                blocks.append(models.resnet.BasicBlock(n_in, width, first, shortcut))
                n_in = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.n_features = n_in

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> features (batch, n_features)."""
        return self.stages(self.stem(x)).mean((2, 3))
