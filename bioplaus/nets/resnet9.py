"""ResNet-9, the main backbone of the bilateral paper (2023 form)."""

from collections.abc import Sequence

from torch import Tensor, nn

from bioplaus.nets.conv3 import Conv3

WIDTHS = (64, 128, 256, 512)  # channels of conv1..conv4, as published
MOMENTUM = 0.9  # of the batch norms: running = 0.1 * old + 0.9 * batch


class Residual(nn.Module):
    """y = x + ReLU(BN(conv(ReLU(BN(conv(x)))))): the last ReLU comes before the sum, nothing after
    it.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conv_res1 = Conv3(n_channels, n_channels)
        self.conv_res1_bn = nn.BatchNorm2d(n_channels, momentum=MOMENTUM)
        self.conv_res2 = Conv3(n_channels, n_channels)
        self.conv_res2_bn = nn.BatchNorm2d(n_channels, momentum=MOMENTUM)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_channels, height, width) -> the same shape."""
        y = self.relu(self.conv_res1_bn(self.conv_res1(x)))
        return x + self.relu(self.conv_res2_bn(self.conv_res2(y)))


class ResNet9(nn.Module):
    """Four convolutions and two residual blocks, then the mean over positions.

    | stage | layers | output for 32x32 images |
    |---|---|---|
    | conv1 | conv 3x3, BN, ReLU | w1 x 32 x 32 |
    | conv2 | conv 3x3, BN, ReLU, max pool 2 | w2 x 16 x 16 |
    | res1 | residual block | w2 x 16 x 16 |
    | conv3 | conv 3x3, BN, ReLU, max pool 2 | w3 x 8 x 8 |
    | conv4 | conv 3x3, BN, ReLU, max pool 2 | w4 x 4 x 4 |
    | res2 | residual block, mean over positions | w4 |

    Convolutions have no bias; weights start as PyTorch draws them. Names are those of the published
    code, so its checkpoints fit (their `net.<i>` aliases left out).

    Parameters
    ----------
    widths : w1, w2, w3, w4.
    in_channels : of the images; these are at least 8 pixels wide and high.

    Attributes
    ----------
    n_features : w4, the number of outputs per image.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, in_channels: int = 3) -> None:
        super().__init__()
        w1, w2, w3, w4 = widths
        self.n_features = w4
        self.conv1 = nn.Sequential(*_block(in_channels, w1))
        self.conv2 = nn.Sequential(*_block(w1, w2), nn.MaxPool2d(2))
        self.res1 = Residual(w2)
        self.conv3 = nn.Sequential(*_block(w2, w3), nn.MaxPool2d(2))
        self.conv4 = nn.Sequential(*_block(w3, w4), nn.MaxPool2d(2))
        self.res2 = nn.Sequential(Residual(w4), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> features (batch, n_features)."""
        return self.res2(self.conv4(self.conv3(self.res1(self.conv2(self.conv1(x))))))


def _block(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    return Conv3(n_in, n_out), nn.BatchNorm2d(n_out, momentum=MOMENTUM), nn.ReLU(inplace=True)
