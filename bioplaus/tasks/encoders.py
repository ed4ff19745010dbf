"""Fixed image encoders for captioning: from pictures to the features that a captioning network
starts from.
"""

import http.client
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bioplaus import _files, tasks
from bioplaus import device as _device
from bioplaus.errors import BioplausError, extra
from bioplaus.tasks import _network, scenes

if TYPE_CHECKING:
    from PIL.Image import Image


N_COMPONENTS = 64  # features of the small encoder
RESNET152 = "resnet152-394f9c45.pth"  # the name ends with the first digits of the sha256
MOST_BYTES = 300_000_000  # of the weights, which have 242 million


@dataclass(frozen=True)
class Encoder:
    """A way from pictures to features; it never learns."""

    n_features: int
    build: Callable[[], nn.Module]  # the network, in evaluation mode
    prepare: Callable[
        ["Image", bool], Tensor
    ]  # (picture, whether it is for training) -> (3, height, width) float32
    about: str  # what decides the features, for the name of a cached copy


class SmallCNN(nn.Module):
    """Random convolutions and the principal components of what they see in drawn scenes, for
    pictures 32 wide.

    Three convolutions (3 x 3, stride 2, ReLU, 24, 48 and 64 maps) with fixed random filters; then
    the first 64 principal components of 500 reference scenes, each scaled to variance 1 on them.
    Place, colour and, less well, shape survive, without training or download.
    """

    mean: Tensor
    components: Tensor

    def __init__(self) -> None:
        super().__init__()
        widths, generator = (3, 24, 48, 64), _device.generator(0, "small_cnn")
        self.layers = nn.ModuleList()
        for n_in, n_out in zip(widths, widths[1:], strict=False):
            layer = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, device="meta").to_empty(
                device="cpu"
            )
            with torch.no_grad():
                for parameter in layer.parameters():
                    bound = (9 * n_in) ** -0.5
                    parameter.uniform_(-bound, bound, generator=generator)
            self.layers.append(layer)
        pixels, _ = scenes.generate(500, 2**32 - 1)  # no task's seed
        seen = self._maps(torch.from_numpy(pixels).float().div_(255).sub_(0.5).div_(0.25)).double()
        self.register_buffer("mean", seen.mean(0).float())
        _, sizes, directions = torch.linalg.svd(seen - seen.mean(0), full_matrices=False)
        directions = directions[:N_COMPONENTS] / (sizes[:N_COMPONENTS, None] / len(seen) ** 0.5)
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        # a sign is arbitrary: fix it
        self.register_buffer("components", (directions * largest.sign()).t().float())

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, 32, 32) to (batch, 64)."""
        return (self._maps(x) - self.mean) @ self.components

    @torch.no_grad()
    def _maps(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu_()
        return x.flatten(1)


def _prepare_small(picture: "Image", is_training: bool) -> Tensor:
    pixels = np.asarray(picture.convert("RGB").resize((32, 32)), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1).div_(255).sub_(0.5).div_(0.25)


def _resnet152() -> nn.Module:
    """ResNet-152 with its ImageNet weights (downloaded where they are missing), without its last
    layer.
    """
    from bioplaus._torchvision import models

    path = Path(torch.hub.get_dir()) / "checkpoints" / RESNET152
    if not path.is_file():
        _download(models.ResNet152_Weights.IMAGENET1K_V1.url, path)
    net = models.resnet152(weights=None)
    try:
        net.load_state_dict(weights(path))
    except RuntimeError as error:  # other names or shapes
        raise BioplausError(f"{path} holds no weights of ResNet-152; delete it.") from error
    net.fc = nn.Identity()
    return net.eval()


def weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file whose name ends with the first digits of its sha256.

    The digest is checked before anything in the file is looked at, and nothing in it is executed.

    Raises
    ------
    BioplausError
        If it cannot be read, is another file than its name says, or holds anything but tensors of
        finite numbers.
    """
    expected = path.stem.rpartition("-")[2]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BioplausError(f"Could not read {path}: {error.strerror}.") from error
    if not (digest := _files.sha256(content)).startswith(expected):
        raise BioplausError(
            f"{path} is damaged or another file: its sha256 begins with {digest[:8]}, but must"
            f" begin with {expected}. Delete it; it is downloaded again."
        )
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        parts = {str(name): tasks.finite(value, str(name)) for name, value in state.items()}
    except BioplausError:
        raise
    except Exception as error:  # a file that nobody vouches for can raise anything
        raise BioplausError(
            f"{path} does not hold weights only ({type(error).__name__}); nothing in it was"
            " executed. Delete it; it is downloaded again."
        ) from error
    return parts


def _download(url: str, path: Path) -> None:
    """Fetch the weights, checked before they get their name."""
    with extra():
        from filelock import FileLock

    scratch = path.with_name(f".bioplaus-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(scratch.with_suffix(".lock")):
            if path.is_file():  # another process fetched it meanwhile
                return
            _network.fetch(url, scratch, most=MOST_BYTES)
            _network.check(scratch, path.stem.rpartition("-")[2], "sha256")
            scratch.replace(path)
    except (BioplausError, OSError, EOFError, http.client.HTTPException) as error:
        scratch.unlink(missing_ok=True)
        reason = " ".join(str(error).split())
        raise BioplausError(
            f"The ImageNet weights of ResNet-152 could not be downloaded ({reason}); put"
            f" {path.name} into {path.parent}, or use encoder small_cnn."
        ) from error


def _prepare_resnet(picture: "Image", is_training: bool) -> Tensor:
    """256 x 256, the middle 224 x 224 of it in training (published: a random part), normalised as
    for ImageNet.
    """
    from bioplaus._torchvision import v2

    steps: list[Any] = [v2.Resize((256, 256), antialias=True), v2.CenterCrop(224)]
    if not is_training:
        steps.pop()
    finish = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return v2.Compose([*steps, *finish, normalise])(picture.convert("RGB"))


ENCODERS = {
    "small_cnn": Encoder(
        N_COMPONENTS, lambda: SmallCNN().eval(), _prepare_small, "components of 500 scenes, 1"
    ),
    "resnet152": Encoder(
        2048, _resnet152, _prepare_resnet, "IMAGENET1K_V1, centre crop in training, none else"
    ),
}
