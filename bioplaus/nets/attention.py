"""Residual attention networks (Attention-56 and Attention-92) for small images."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (256, 512, 1024, 2048)  # of the four stages
DEPTHS = {
    "attention56": (1, 1, 1),
    "attention92": (1, 2, 3),
}  # attention modules in the first three stages


class Unit(nn.Module):
    """Pre-activation bottleneck: shortcut(x) + three times (BN, ReLU, conv), of 1x1, 3x3 and
    1x1.
    """

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        sizes = [
            (n_in, n_out // 4, 1, stride),
            (n_out // 4, n_out // 4, 3, 1),
            (n_out // 4, n_out, 1, 1),
        ]
        parts = [
            part
            for a, b, size, step in sizes
            for part in (
                nn.BatchNorm2d(a),
                nn.ReLU(),
                nn.Conv2d(a, b, size, step, padding=size // 2),
            )
        ]
        self.residual = nn.Sequential(*parts)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, height, width) -> (batch, n_out, height / stride, width / stride)."""
        return self.residual(x) + self.shortcut(x)


class AttentionModule(nn.Module):
    """y = last((1 + mask(x)) trunk(x)), x after one unit; the mask, in (0, 1), sees x on smaller
    maps.

    Deviations
    ----------
    As published, every pooling in the mask starts from x itself and not from the map before it, so
    that all are done once; one of three modules has a shortcut whose weights are never used.
    """

    def __init__(self, n: int, n_pools: int) -> None:
        super().__init__()
        self.n_pools = n_pools
        self.pre, self.last = Unit(n, n), Unit(n, n)
        self.trunk = nn.Sequential(Unit(n, n), Unit(n, n))
        self.down = nn.ModuleList(Unit(n, n) for _ in range(n_pools + 1))
        self.up = nn.ModuleList(Unit(n, n) for _ in range(n_pools + 1))
        self.shortcuts = nn.ModuleList(Unit(n, n) for _ in range(max(1, n_pools - 1)))
        mask = [
            part for _ in range(2) for part in (nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, n, 1))
        ]
        self.mask = nn.Sequential(*mask, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, height, width) -> the same shape."""
        x = self.pre(x)
        pooled = functional.max_pool2d(x, 3, 2, 1)
        skips = []
        if self.n_pools > 1:
            skips.append(self.shortcuts[0](self.down[0](pooled)))
        if self.n_pools > 2:
            skips.append(self.down[2](self.down[1](pooled)))
        m = self.up[0](self.down[-1](self.down[-2](pooled)))
        for unit, skip in zip(self.up[1:-1], reversed(skips), strict=True):
            m = functional.interpolate(unit(m), skip.shape[-2:]) + skip
        m = functional.interpolate(self.up[-1](m), x.shape[-2:])
        return self.last((1 + self.mask(m)) * self.trunk(x))


class AttentionNet(nn.Module):
    """Stem, three stages of attention modules with 3, 2 and 1 poolings, a stage of units, mean, 100
    linear outputs.

    Parameters
    ----------
    name : key of `DEPTHS`.
    widths : of the four stages; the stem has a quarter of the first.
    in_channels : of the images.

    Attributes
    ----------
    n_features : 100, the network's own linear outputs, as published.

    References
    ----------
    Wang and others, Residual attention network for image classification, CVPR 2017.
    """

    n_features = 100

    def __init__(self, name: str, widths: Sequence[int], in_channels: int) -> None:
        super().__init__()
        n_in = widths[0] // 4
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, n_in, 3, padding=1),
            nn.BatchNorm2d(n_in),
            nn.ReLU(),
        ]
        for width, depth, n_pools in zip(widths, DEPTHS[name], (3, 2, 1), strict=False):
            layers += [
                Unit(n_in, width, 2),
                *(AttentionModule(width, n_pools) for _ in range(depth)),
            ]
            n_in = width
        layers += [
            Unit(n_in, widths[-1], 2),
            Unit(widths[-1], widths[-1]),
            Unit(widths[-1], widths[-1]),
        ]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(widths[-1], self.n_features)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, 100)."""
        return self.linear(self.layers(x).mean((2, 3)))
