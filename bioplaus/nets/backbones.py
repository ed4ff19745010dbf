"""The backbones a hemisphere can have, by name; adding one is adding a line to `BACKBONES`."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from bioplaus import config
from bioplaus.errors import BioplausError, unknown
from bioplaus.nets import attention, resnet, resnet9, sparse_resnet9, vgg11
from bioplaus.nets.autoencoder import Encoder


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network from images to a feature vector; `make(settings, in_channels, generator)` builds
    it.
    """

    make: Callable[["Config", int, torch.Generator], nn.Module]
    widths: tuple[int, ...]  # published
    min_size: int = 1  # smallest image side, in pixels
    can_be_sparse: bool = False  # whether it has a place for SparseConv


def _sparse(
    settings: "Config", in_channels: int, generator: torch.Generator, *, is_inverted: bool
) -> nn.Module:
    sparsity = settings.k, settings.per_k
    return sparse_resnet9.SparseResNet9(
        settings.widths, in_channels, *sparsity, is_inverted=is_inverted
    )


def _encoder(settings: "Config", in_channels: int, generator: torch.Generator) -> nn.Module:
    return Encoder(settings.widths, in_channels, settings.widths[-1], settings.k, settings.per_k)


BACKBONES: Mapping[str, Backbone] = {
    "resnet9": Backbone(lambda s, n, g: resnet9.ResNet9(s.widths, n), resnet9.WIDTHS, min_size=8),
    "sparse_resnet9": Backbone(partial(_sparse, is_inverted=False), sparse_resnet9.WIDTHS, 8, True),
    "sparse_invresnet9": Backbone(
        partial(_sparse, is_inverted=True), sparse_resnet9.INVERTED_WIDTHS, 8, True
    ),
    "vgg11": Backbone(lambda s, n, g: vgg11.VGG11(s.widths, n, g), vgg11.WIDTHS, min_size=32),
    "vgg11_maps": Backbone(
        lambda s, n, g: vgg11.VGG11(s.widths, n, g), vgg11.MAP_WIDTHS, min_size=32
    ),
    **{
        name: Backbone(lambda s, n, g, name=name: resnet.ResNet(name, s.widths, n), resnet.WIDTHS)
        for name in resnet.DEPTHS
    },
    **{
        name: Backbone(
            lambda s, n, g, name=name: attention.AttentionNet(name, s.widths, n),
            attention.WIDTHS,
            32,
        )
        for name in attention.DEPTHS
    },
    "autoencoder": Backbone(_encoder, sparse_resnet9.WIDTHS, 8, True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """One hemisphere: which backbone, how wide, how sparse, and whether it learns."""

    backbone: str = "resnet9"  # key of BACKBONES
    widths: tuple[int, ...] | None = None  # channels by stage; None: as published
    k: float | None = None  # SparseConv: fraction of each map that stays; None or 0: no SparseConv
    per_k: float | None = (
        None  # SparseConv: fraction of that, over the batch, that stays; None or 0: no SparseConv
    )
    is_frozen: bool = False  # its weights do not learn

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise unknown("backbone", self.backbone, BACKBONES)
        kind = BACKBONES[self.backbone]
        if self.widths is None:
            object.__setattr__(self, "widths", kind.widths)
        self.check("widths", low=1)
        if len(self.widths) != len(kind.widths):
            raise BioplausError(
                f"widths is {list(self.widths)}, but backbone {self.backbone!r} needs"
                f" {len(kind.widths)} of them, as in {list(kind.widths)}."
            )
        self.check("k", low=0, high=1)
        self.check("per_k", low=0, high=1)
        if (self.k or self.per_k) and not kind.can_be_sparse:
            can = ", ".join(name for name, other in BACKBONES.items() if other.can_be_sparse)
            raise BioplausError(
                f"Backbone {self.backbone!r} has no SparseConv, so k and per_k must be null; {can}"
                " have it."
            )

    @property
    def min_size(self) -> int:
        """Smallest image side it can see, in pixels."""
        return BACKBONES[self.backbone].min_size


def build(settings: Config, in_channels: int, generator: torch.Generator) -> nn.Module:
    """A new backbone with the attribute `n_features`, its weights drawn as its module says.

    Parameters
    ----------
    generator : CPU stream; one number of it seeds the weights, and later masks inside the network
        are drawn from it. The global stream of torch is left as it was.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return BACKBONES[settings.backbone].make(settings, in_channels, generator)


def parameter_count(module: nn.Module, *, trainable: bool = False, buffers: bool = False) -> int:
    """Number of parameters, of those that learn (`trainable`), or of parameters and buffers
    (`buffers`).
    """
    counted = [p for p in module.parameters() if p.requires_grad or not trainable]
    return sum(value.numel() for value in [*counted, *(module.buffers() if buffers else ())])
