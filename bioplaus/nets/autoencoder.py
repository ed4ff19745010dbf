"""Convolutional autoencoders in the plan of ResNet-9: in the published repository, but in none of
its experiments.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from bioplaus.nets.sparse_resnet9 import INVERTED_WIDTHS, WIDTHS, SparseConv


class Encoder(nn.Module):
    """Blocks of conv 3x3 with bias, [SparseConv], activation, BN, [max pool 2]; mean over
    positions; linear code.

    Stages as in ResNet-9, with y = x + block(block(x)) for res1 and res2. Only conv4 and the last
    block are sparse.

    Parameters
    ----------
    widths : w1..w4, of conv1..conv4.
    in_channels : of the images.
    n_code : units of a linear layer at the end; None: the mean itself is the code, as with inverted
        widths.
    k, per_k : of SparseConv; None: none.
    activation : GELU in the regular network, ReLU in the one with inverted widths.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        in_channels: int = 3,
        n_code: int | None = 512,
        k: float | None = None,
        per_k: float | None = None,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        w1, w2, w3, w4 = widths
        self.n_features = n_code or w4

        def block(
            n_in: int, n_out: int, *more: nn.Module, is_sparse: bool = False
        ) -> nn.Sequential:
            sparse = SparseConv(k, per_k) if is_sparse and k and per_k else nn.Identity()
            return nn.Sequential(
                nn.Conv2d(n_in, n_out, 3, padding=1),
                sparse,
                activation(),
                nn.BatchNorm2d(n_out),
                *more,
            )

        self.first = nn.Sequential(block(in_channels, w1), block(w1, w2, nn.MaxPool2d(2)))
        self.res1 = nn.Sequential(block(w2, w2), block(w2, w2))
        self.second = nn.Sequential(
            block(w2, w3, nn.MaxPool2d(2)), block(w3, w4, nn.MaxPool2d(2), is_sparse=True)
        )
        self.res2 = nn.Sequential(block(w4, w4), block(w4, w4, is_sparse=True))
        self.code = nn.Linear(w4, n_code) if n_code else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> code (batch, n_features)."""
        y = self.first(x)
        y = self.second(y + self.res1(y))
        return self.code((y + self.res2(y)).mean((2, 3)))


class Decoder(nn.Module):
    """The encoder's stages backwards: transposed conv 3x3, activation, BN, [nearest-neighbour
    upsampling by 2].

    Parameters
    ----------
    widths : of the encoder; the code has widths[-1] units.
    out_channels : of the images, which are 32x32.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        out_channels: int = 3,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        w1, w2, w3, w4 = widths

        def block(n_in: int, n_out: int, *more: nn.Module) -> nn.Sequential:
            return nn.Sequential(
                nn.ConvTranspose2d(n_in, n_out, 3, padding=1),
                activation(),
                nn.BatchNorm2d(n_out),
                *more,
            )

        self.res2 = nn.Sequential(block(w4, w4), block(w4, w4))
        self.second = nn.Sequential(
            block(w4, w3, nn.Upsample(scale_factor=2)), block(w3, w2, nn.Upsample(scale_factor=2))
        )
        self.res1 = nn.Sequential(block(w2, w2), block(w2, w2))
        self.first = nn.Sequential(
            block(w2, w1, nn.Upsample(scale_factor=2)), block(w1, out_channels)
        )

    def forward(self, code: Tensor) -> Tensor:
        """(batch, w4) -> (batch, out_channels, 32, 32)."""
        y = nn.functional.interpolate(code[:, :, None, None], scale_factor=4)
        y = self.second(y + self.res2(y))
        return self.first(y + self.res1(y))


class Autoencoder(nn.Module):
    """Encoder with inverted widths and ReLU, decoder with GELU; gives (code, image).

    The published network as a whole, as its golden replays it; hemispheres have the encoder alone.
    """

    def __init__(
        self,
        widths: Sequence[int] = INVERTED_WIDTHS,
        in_channels: int = 3,
        k: float | None = None,
        per_k: float | None = None,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(widths, in_channels, None, k, per_k, nn.ReLU)
        self.decoder = Decoder(widths, in_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, in_channels, 32, 32) -> code (batch, w4) and image (batch, in_channels, 32,
        32).
        """
        code = self.encoder(x)
        return code, self.decoder(code)
