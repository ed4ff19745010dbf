"""One or two hemispheres (backbones) side by side, and linear heads that read the features of all
of them.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from bioplaus.errors import BioplausError
from bioplaus.nets import backbones
from bioplaus.nets.dropout import Dropout

SIDES = ("left", "right")  # order of the features: fine first, coarse second


class Hemispheres(nn.Module):
    """Features of the hemispheres, one after the other; each head is dropout, with a mask of its
    own, then linear.

    f = (left(x), right(x)),   logits_h = W_h dropout(f) + b_h

    Parameters
    ----------
    sides : "left", or "left" and "right", each with its backbone.
    heads : number of classes by head, in the order in which masks are drawn and logits given.
    in_channels : of the images.
    dropout : probability of the heads' dropout.
    frozen_norm : what batch norm (and dropout) inside a frozen hemisphere does while heads are
        trained. "eval": as in evaluation, so its features are a function of the image alone.
        "drift": as in training, as published: batch statistics are used, and running statistics go
        on moving although the weights do not.
    generator : CPU stream of all draws: first weights, in the order sides, heads; then masks.
    """

    def __init__(
        self,
        sides: Mapping[str, backbones.Config],
        heads: Mapping[str, int],
        *,
        in_channels: int,
        dropout: float,
        frozen_norm: Literal["eval", "drift"],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.sides = {side: sides[side] for side in SIDES if side in sides}
        self.frozen_norm = frozen_norm
        self.hemispheres = nn.ModuleDict(
            {
                side: backbones.build(settings, in_channels, generator)
                for side, settings in self.sides.items()
            }
        )
        for side, settings in self.sides.items():
            self.hemispheres[side].requires_grad_(not settings.is_frozen)
        seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.heads = nn.ModuleDict(
                {name: nn.Linear(self.n_features, n_out) for name, n_out in heads.items()}
            )
        self.dropouts = nn.ModuleDict(
            {name: Dropout(dropout, self.n_features, generator) for name in heads}
        )

    @property
    def n_features(self) -> int:
        """Number of features all heads read."""
        return sum(backbones.n_features(hemisphere) for hemisphere in self.hemispheres.values())

    @property
    def is_fixed(self) -> bool:
        """Whether features are a function of the image alone for as long as the heads learn."""
        return self.frozen_norm == "eval" and all(
            settings.is_frozen for settings in self.sides.values()
        )

    def train(self, mode: bool = True) -> "Hemispheres":
        """Training or evaluation mode; frozen hemispheres stay in evaluation mode if `frozen_norm`
        is "eval".
        """
        super().train(mode)
        if self.frozen_norm == "eval":
            for side, settings in self.sides.items():
                if settings.is_frozen:
                    self.hemispheres[side].eval()
        return self

    def encode(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> features (batch, n_features), left before
        right.
        """
        return torch.cat([hemisphere(x) for hemisphere in self.hemispheres.values()], dim=1)

    def read_out(self, features: Tensor) -> dict[str, Tensor]:
        """(batch, n_features) -> logits by head, (batch, n_classes) each."""
        return {name: head(self.dropouts[name](features)) for name, head in self.heads.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits by head, for images or, two-dimensional, for features that `encode` gave."""
        return self.read_out(x if x.dim() == 2 else self.encode(x))

    def adopt(self, side: str, source: "Hemispheres") -> None:
        """Take over weights and running statistics of the only hemisphere of `source`.

        Raises
        ------
        BioplausError
            If `source` has two hemispheres, or tensors that differ in name or shape; they are
            listed.
        """
        if len(source.hemispheres) != 1:
            raise BioplausError(
                "A hemisphere is taken from a network with one, but this one has"
                f" {len(source.hemispheres)}."
            )
        load_strictly(
            self.hemispheres[side],
            source.hemispheres["left"].state_dict(),
            f"the {side} hemisphere",
        )


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], subject: str) -> None:
    """`module.load_state_dict(state)` if names and shapes are the same.

    Raises
    ------
    BioplausError
        Naming the tensors that are missing, too many, or of another shape (the first four of each).
    """
    own = module.state_dict()
    kinds = {
        "missing": [name for name in own if name not in state],
        "not known here": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    differing = [
        f"{kind}: {', '.join(names[:4])}" + (f" and {len(names) - 4} more" if names[4:] else "")
        for kind, names in kinds.items()
        if names
    ]
    if differing:
        raise BioplausError(
            f"The checkpoint is of another architecture than {subject}; {'; '.join(differing)}."
        )
    module.load_state_dict(state)
