"""The backbones a hemisphere can have, by name; adding one is adding a line to `BACKBONES`."""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import nn

from bioplaus import config
from bioplaus.errors import BioplausError, unknown
from bioplaus.nets import resnet, resnet9, sparse_resnet9, vgg11


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network from images to a feature vector; `make(settings, in_channels, generator)` builds
    it.
    """

    make: Callable[["Config", int, torch.Generator], nn.Module]
    widths: tuple[int, ...]  # published
    min_size: int = 1  # smallest image side, in pixels
    can_be_sparse: bool = False  # whether it has a place for SparseConv


def _resnet9(settings: "Config", in_channels: int, generator: torch.Generator) -> nn.Module:
    return resnet9.ResNet9(settings.channels, in_channels)


def _sparse_resnet9(settings: "Config", in_channels: int, generator: torch.Generator) -> nn.Module:
    return sparse_resnet9.SparseResNet9(
        settings.channels,
        in_channels,
        settings.k,
        settings.per_k,
        is_inverted=settings.backbone == "sparse_invresnet9",
    )


def _vgg11(settings: "Config", in_channels: int, generator: torch.Generator) -> nn.Module:
    return vgg11.VGG11(settings.channels, in_channels, generator)


def _resnet(settings: "Config", in_channels: int, generator: torch.Generator) -> nn.Module:
    return resnet.ResNet(settings.backbone, settings.channels, in_channels)


BACKBONES: Mapping[str, Backbone] = {
    "resnet9": Backbone(_resnet9, resnet9.WIDTHS, min_size=8),
    "sparse_resnet9": Backbone(_sparse_resnet9, sparse_resnet9.WIDTHS, 8, can_be_sparse=True),
    "sparse_invresnet9": Backbone(
        _sparse_resnet9, sparse_resnet9.INVERTED_WIDTHS, 8, can_be_sparse=True
    ),
    "vgg11": Backbone(_vgg11, vgg11.WIDTHS, min_size=32),
    "vgg11_maps": Backbone(_vgg11, vgg11.MAP_WIDTHS, min_size=32),
    "resnet18": Backbone(_resnet, resnet.WIDTHS),
    "resnet34": Backbone(_resnet, resnet.WIDTHS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """One hemisphere: which backbone, how wide, how sparse, and whether it learns."""

    backbone: str = "resnet9"  # key of BACKBONES
    widths: tuple[int, ...] | None = None  # channels by stage; None: as published
    k: float | None = None  # SparseConv: fraction of each map that stays; None or 0: no SparseConv
    # SparseConv: fraction of that, over the batch, that stays; None or 0: no SparseConv
    per_k: float | None = None
    is_frozen: bool = False  # its weights do not learn

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise unknown("backbone", self.backbone, BACKBONES)
        kind = BACKBONES[self.backbone]
        if self.widths is None:
            object.__setattr__(self, "widths", kind.widths)
        self.check("widths", low=1)
        if len(self.channels) != len(kind.widths):
            raise BioplausError(
                f"widths is {list(self.channels)}, but backbone {self.backbone!r} needs"
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
    def channels(self) -> tuple[int, ...]:
        """`widths`, never None."""
        return self.widths or BACKBONES[self.backbone].widths

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


def n_features(backbone: nn.Module) -> int:
    """Number of features of an image."""
    n = backbone.n_features
    assert isinstance(n, int)
    return n


def parameter_count(module: nn.Module, *, trainable: bool = False, buffers: bool = False) -> int:
    """Number of parameters, of those that learn (`trainable`), or of parameters and buffers
    (`buffers`).
    """
    counted = [p for p in module.parameters() if p.requires_grad or not trainable]
    return sum(value.numel() for value in [*counted, *(module.buffers() if buffers else ())])
