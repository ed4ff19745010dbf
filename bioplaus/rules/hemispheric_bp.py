"""Backpropagation through one or two hemispheres with a fine and a coarse head, the way of the
bilateral brain paper.

A hemisphere is a convolutional network; a head is linear and reads the features of all hemispheres.
Hemispheres that were trained apart, one on fine and one on coarse labels, can be taken over, frozen
and joined by new heads (Rajagopalan, Rawlinson, Goldberg and Kowadlo, Deep learning in a bilateral
brain with hemispheric specialization, 2022). With images x, labels y_h of each head h, and all
weights w that are not frozen:

    f        = (left(x), right(x))
    logits_h = W_h dropout(f) + b_h
    L        = sum_h cross-entropy(logits_h, y_h)                         each a mean over the batch
    w        <- w - Adam(dL/dw + weight_decay w)
"""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bioplaus import _memory
from bioplaus import config as _config
from bioplaus.errors import BioplausError
from bioplaus.nets import backbones
from bioplaus.nets.dropout import Dropout
from bioplaus.nets.hemispheres import SIDES, Hemispheres
from bioplaus.rules._base import BenchmarkCase, Count, LearningRule, sparse_inputs
from bioplaus.tasks import Spec
from bioplaus.tasks.hierarchies import KINDS, HierarchySpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(_config.Config):
    """Defaults: the published network of one hemisphere and both heads, "unilateral, not
    specialised".
    """

    n_fine: int = 100  # classes
    n_coarse: int = 20  # superclasses
    heads: Literal["both", "fine", "coarse"] = "both"  # which labels the network predicts
    # fields of nets.backbones.Config: the (fine) hemisphere
    left: dict = dataclasses.field(default_factory=dict)
    # in what the second (coarse) hemisphere differs from the left one; None: there is none
    right: dict | None = None
    in_channels: int = 3  # of the images
    image_size: int = 32  # pixels
    dropout: float = 0.6  # probability with which a head drops a feature
    lr: float = 1e-4  # step of Adam, dimensionless
    weight_decay: float = 1e-5  # L2 penalty, added to the gradient
    # batch norm of frozen hemispheres; published: drift
    frozen_norm: Literal["eval", "drift"] = "eval"
    wiring: Literal["intended", "published"] = "intended"  # published: see Deviations of `Rule`
    use_bfloat16: bool = False  # mixed precision: products in bfloat16, the rest in float32

    def __post_init__(self) -> None:
        for name in ("n_fine", "n_coarse", "in_channels", "image_size"):
            self.check(name, low=1)
        self.check("dropout", low=0, high=1, open_high=True)
        self.check("lr", low=0)
        self.check("weight_decay", low=0)
        for side, settings in self.sides().items():
            if self.image_size < settings.min_size:
                raise BioplausError(
                    f"image_size is {self.image_size}, but backbone {settings.backbone!r} of the"
                    f" {side} hemisphere needs images of at least {settings.min_size} pixels."
                )

    def sides(self) -> dict[str, backbones.Config]:
        """The hemispheres as they are wired."""
        given = {"left": self.left} | (
            {} if self.right is None else {"right": {**self.left, **self.right}}
        )
        sides = {
            side: backbones.Config.from_dict(values, kind=f"parameter of hemisphere {side}")
            for side, values in given.items()
        }
        if self.wiring == "published" and len(sides) == 2:
            left, right = sides["left"], sides["right"]
            sides["left"] = dataclasses.replace(left, is_frozen=right.is_frozen)
            alike = {"backbone": left.backbone, "widths": left.widths, "is_frozen": left.is_frozen}
            sides["right"] = dataclasses.replace(right, **alike)
        return sides

    @property
    def is_fixed(self) -> bool:
        """Whether features are a function of the image alone for as long as the heads learn."""
        return self.frozen_norm == "eval" and all(side.is_frozen for side in self.sides().values())

    def classes(self) -> dict[str, int]:
        """Number of classes by head, fine first."""
        return {kind: getattr(self, f"n_{kind}") for kind in KINDS if self.heads in (kind, "both")}


class Rule(LearningRule):
    """Cross-entropy summed over heads, gradient by backpropagation, Adam.

    Order: forward pass in training mode (masks of the heads are drawn fine first; batch norms use
    and note statistics of the batch), loss, backward pass with the old weights, then one Adam step
    (0.9, 0.999, 1e-8) of all weights that are not frozen.

    Attributes
    ----------
    net : `Hemispheres`.

    References
    ----------
    Rajagopalan and others, arXiv 2209.06862. Kingma and Ba, Adam, ICLR 2015.

    Deviations
    ----------
    Each hemisphere has its own backbone, checkpoint and freeze flag. In the published code of a
    network with two, the fine hemisphere gets the coarse one's checkpoint and freeze flag and the
    other way round, and the coarse one's backbone is the fine one's; `wiring` "published" does the
    same. With equal backbones, both frozen, only the order of the features differs. `frozen_norm`
    "drift" is published, "eval" the default here: see `Hemispheres`. Checkpoints are taken over
    strictly; the published code loads nothing, silently, where names differ.
    """

    config: Config

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        net = Hemispheres(
            config.sides(),
            config.classes(),
            in_channels=config.in_channels,
            dropout=config.dropout,
            frozen_norm=config.frozen_norm,
            generator=generator,
        )
        # 1.1 to 1.5 times faster on CPU and GPU
        self.net = net.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
        self._optimiser: torch.optim.Adam | None = None

    @classmethod
    def check_task(cls, config: Config, spec: Spec) -> None:
        if not isinstance(spec, HierarchySpec):
            raise BioplausError(
                f"hemispheric_bp learns images with fine and coarse labels, but task {spec.name!r}"
                f" is {spec.kind}."
            )
        channels, height, width = spec.image_shape or (0, 0, 0)
        sizes = {"n_fine": spec.n_out, "n_coarse": spec.n_coarse, "in_channels": channels}
        for name, size in sizes.items():
            if getattr(config, name) != size:
                raise BioplausError(
                    f"{name} is {getattr(config, name)}, but data set {spec.name!r} has {size}."
                )
        if (config.image_size, config.image_size) != (height, width):
            raise BioplausError(
                f"image_size is {config.image_size}, but images of {spec.name!r} are {height} x"
                f" {width} pixels."
            )

    @classmethod
    def least_batch(cls, config: Config) -> int:
        return 1 if config.is_fixed else 2

    @classmethod
    def example(cls) -> tuple[dict[str, Any], HierarchySpec]:
        values = {
            "n_fine": 4,
            "n_coarse": 2,
            "in_channels": 1,
            "image_size": 8,
            "lr": 0.001,
            "dropout": 0.2,
        }
        values |= {"left": {"widths": [4, 4, 4, 8]}, "right": {}}
        return values, cls.example_spec(Config.from_dict(values))

    @classmethod
    def example_spec(cls, config: Config, n_steps: int | None = None) -> HierarchySpec:
        """A task of the sizes of `config`."""
        shape = (config.in_channels, config.image_size, config.image_size)
        return HierarchySpec(
            name="example",
            kind="hierarchy",
            n_in=shape[0] * shape[1] * shape[2],
            n_out=config.n_fine,
            n_coarse=config.n_coarse,
            image_shape=shape,
        )

    @classmethod
    def example_batch(
        cls,
        spec: Spec,
        n: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, ...]:
        """Images, (n, *image_shape), and their fine and coarse labels, (n, 2) int64."""
        assert isinstance(spec, HierarchySpec)
        x = sparse_inputs(generator, dtype, n, *(spec.image_shape or ()))
        labels = [
            torch.randint(0, size, (n,), generator=generator)
            for size in (spec.n_out, spec.n_coarse)
        ]
        return x, torch.stack(labels, dim=1)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        _memory.keep_freed()

    def adopt(self, sources: Mapping[str, "Rule"]) -> None:
        """Take over hemispheres of trained networks that have one each.

        Parameters
        ----------
        sources : by side. With `wiring` "published", left and right change places.

        Raises
        ------
        BioplausError
            If there is no such side, or a network is of another architecture; the differing names
            are listed.
        """
        for side, source in sources.items():
            if side not in self.net.hemispheres:
                raise BioplausError(
                    f"There is no {side!r} hemisphere to take over, only"
                    f" {', '.join(self.net.sides)}."
                )
            is_swapped = self.config.wiring == "published" and len(self.net.sides) == 2
            self.net.adopt(SIDES[1 - SIDES.index(side)] if is_swapped else side, source.net)

    def draw(self, n: int) -> dict[str, Tensor]:
        """`masks` of all dropouts side by side, where there are any."""
        masks = [dropout.mask(n) for dropout in self._dropouts()]
        return {"masks": torch.cat(masks, 1).to(self._device)} if masks else {}

    def _dropouts(self) -> list[Dropout]:
        """Those that need a mask, in the order of the forward pass."""
        found = (part for part in self.net.modules() if isinstance(part, Dropout))
        return [dropout for dropout in found if dropout.is_drawing]

    @property
    def _device(self) -> torch.device:
        return next(self.net.parameters()).device

    def fit_batch(
        self, x: Tensor, y: Tensor, *, epoch: Count, step: Count, masks: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Learn from one batch.

        Parameters
        ----------
        x : (batch, channels, height, width) float, or (batch, n_features) where all hemispheres are
            fixed.
        y : (batch, 2) int64, class and superclass.
        masks : from `draw`, which is asked where there are none.

        Returns
        -------
        "loss", "<head>_loss", and "running_<head>_accuracy", measured before the update, with
        dropout.
        """
        with (
            self._given(self.draw(len(x)).get("masks") if masks is None else masks),
            torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.use_bfloat16),
        ):
            logits = self.net(x)
        targets = {kind: y[:, KINDS.index(kind)] for kind in logits}
        losses = {
            kind: functional.cross_entropy(logits[kind].to(x.dtype), targets[kind])
            for kind in logits
        }
        loss = torch.stack(list(losses.values())).sum()
        optimiser = self._adam()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        measured = {"loss": loss.detach()}
        measured |= {f"{kind}_loss": value.detach() for kind, value in losses.items()}
        for kind, target in targets.items():
            is_right = logits[kind].argmax(1) == target
            measured[f"running_{kind}_accuracy"] = is_right.double().mean()
        return measured

    @contextlib.contextmanager
    def _given(self, masks: Tensor | None) -> Iterator[None]:
        """Dropouts take their masks from these inside the block."""
        dropouts = self._dropouts() if masks is not None else []
        start = 0
        for dropout in dropouts:
            assert masks is not None
            dropout.given = masks[:, start : start + dropout.n_features]
            start += dropout.n_features
        try:
            yield
        finally:
            for dropout in dropouts:
                dropout.given = None

    def logits(self, x: Tensor) -> dict[str, Tensor]:
        """Logits by head, (batch, n_classes) each, for images or features."""
        return self.net(x)

    def predict(self, x: Tensor) -> Tensor:
        """Logits of all heads side by side, fine first: (batch, sum of classes)."""
        with torch.no_grad():
            return torch.cat(list(self.net(x).values()), dim=1)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Features (batch, n_features) as in evaluation, whatever mode the rule is in."""
        was_training = self.net.training
        self.net.eval()
        features = self.net.encode(x)
        self.net.train(was_training)
        return features

    def useful_flops(self, batch_size: int) -> int:
        """Operations of convolutions and linear layers, by torch's counter on tensors without
        data.
        """
        from torch.utils.flop_counter import FlopCounterMode

        size = self.config.image_size
        net = copy.deepcopy(self.net).to("meta").eval()
        counter = FlopCounterMode(display=False)
        with counter:
            logits = net(
                torch.empty(batch_size, self.config.in_channels, size, size, device="meta")
            )
            torch.stack([value.sum() for value in logits.values()]).sum().backward()
        return counter.get_total_flops()

    def get_extra_state(self) -> dict[str, Any]:
        moments = self._adam().state_dict()["state"]
        flat = {
            f"{k}.{name}": value for k, values in moments.items() for name, value in values.items()
        }
        return {**super().get_extra_state(), **flat}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            index, dot, name = key.partition(".")
            if dot:
                moments.setdefault(int(index), {})[name] = value
        self._adam().load_state_dict({**self._adam().state_dict(), "state": moments})

    def _adam(self) -> torch.optim.Adam:
        """The optimiser of the weights that are not frozen, made when weights are where they will
        stay.
        """
        if self._optimiser is None:
            learning = [p for p in self.net.parameters() if p.requires_grad]
            is_fused = learning[0].device.type in ("cpu", "cuda")
            decay = self.config.weight_decay
            self._optimiser = torch.optim.Adam(
                learning,
                lr=self.config.lr,
                weight_decay=decay,
                fused=is_fused,
                capturable=learning[0].device.type == "cuda",
            )
        return self._optimiser

    def _apply(self, *arguments: Any, **named: Any) -> nn.Module:
        state = None if self._optimiser is None else self._optimiser.state_dict()
        super()._apply(*arguments, **named)
        self._optimiser = None  # its weights may be new ones, on another device
        if state is not None:
            self._adam().load_state_dict(state)
        return self


BENCHMARK = (BenchmarkCase(label="ResNet-9 64-128-256-512, both heads", batch_size=64),)
