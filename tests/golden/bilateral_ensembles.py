"""Goldens of ensembles of any backbone, with the published names of its tensors."""

import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bioplaus.nets import backbones

N_FINE, N_COARSE = 10, 4
SMALL = {  # a narrow network of every backbone; no two widths are alike
    "resnet9": (2, 4, 6, 8),
    "sparse_resnet9": (2, 4, 6, 8),
    "sparse_invresnet9": (8, 6, 4, 2),
    "vgg11": (2, 4, 6, 8, 10),
    "vgg11_maps": (2, 4, 6, 8),
    "resnet18": (2, 4, 6, 8),
    "resnet34": (2, 4, 6, 8),
}


def published(backbone: str, name: str) -> str:
    """The published name of a backbone's tensor."""
    if backbone.startswith("vgg"):
        return f"vgg.{name}"
    if not backbone.startswith("resnet") or backbone == "resnet9":
        return name
    name = name.replace("stem.", "conv1.", 1)
    name = re.sub(r"^stages\.(\d)", lambda match: f"conv{int(match[1]) + 2}_x", name)
    inside = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}
    pattern = r"^(conv._x\.\d+\.)(conv1|bn1|conv2|bn2)\."
    return re.sub(pattern, lambda match: f"{match[1]}residual_function.{inside[match[2]]}.", name)


def member(backbone: str, seed: int, **sparsity: float) -> tuple[nn.Module, dict[str, nn.Linear]]:
    """A network with weights and running statistics that are all different, and its heads."""
    settings = backbones.Config(backbone=backbone, widths=SMALL[backbone], **sparsity)
    stream = torch.Generator().manual_seed(seed)
    net = backbones.build(settings, 3, stream).double().eval()
    sizes = {"fine": N_FINE, "coarse": N_COARSE}
    heads = {kind: nn.Linear(net.n_features, n).double() for kind, n in sizes.items()}
    with torch.no_grad():
        for part in (net, *heads.values()):
            for value in part.parameters():
                value.add_(0.2 * torch.randn(value.shape, generator=stream))
            for value in part.buffers():
                if value.is_floating_point():
                    value.add_(torch.rand(value.shape, generator=stream))
    return net, heads


def tensors(backbone: str, net: nn.Module, heads: dict[str, nn.Linear]) -> dict[str, Tensor]:
    """All tensors by their published keys, parameters before buffers."""
    found = {
        f"hemisphere.{published(backbone, name)}": value for name, value in net.named_parameters()
    }
    for kind, head in heads.items():
        found |= {f"{kind}_head.1.{name}": value for name, value in head.named_parameters()}
    for name, value in net.named_buffers():
        found[f"buffer.hemisphere.{published(backbone, name)}"] = value
    return found


def write(
    path: Path, backbone: str, n_members: int = 2, *, is_named: str = "algorithm", **sparsity: float
) -> Path:
    """A golden at `path`; the backbone is named in its algorithm, its hyperparameters or nowhere.

    What an ensemble does is written out here; what a backbone does is tested elsewhere.
    """
    stream = torch.Generator().manual_seed(99)
    images = torch.randn(5, 3, 32, 32, generator=stream, dtype=torch.float64)
    labels = {
        "fine": torch.randint(0, N_FINE, (5,), generator=stream),
        "coarse": torch.randint(0, N_COARSE, (5,), generator=stream),
    }
    arrays = {"data.images": images, **{f"data.{kind}": y for kind, y in labels.items()}}
    sums = {kind: torch.zeros(()) for kind in labels}
    for i in range(n_members):
        net, heads = member(backbone, seed=i, **sparsity)
        parts = tensors(backbone, net, heads)
        arrays |= {f"init.model{i}.{name}": value for name, value in parts.items()}
        for kind, head in heads.items():
            features = net(images)
            arrays[f"expect.member{i}.{kind}"] = features @ head.weight.T + head.bias
            sums[kind] = sums[kind] + arrays[f"expect.member{i}.{kind}"]
    for kind, total in sums.items():
        arrays[f"expect.logits.{kind}"] = mean = total / n_members
        loss = functional.cross_entropy(mean, labels[kind])
        arrays[f"expect.loss_{kind}"] = loss
    name = f"ensemble of {n_members} x unilateral/both"
    h = {"ensemble_size": n_members, **{f"fine_{key}": value for key, value in sparsity.items()}}
    if is_named == "algorithm":
        name += f"/{backbone}"
    elif is_named == "arch":
        h["arch"] = backbone
    meta = {"paper": "bilateral", "algorithm": name, "hyperparameters": h, "dtype": "float64"}
    values = {key: value.detach().numpy() for key, value in arrays.items()}
    np.savez(path, meta=np.array(json.dumps(meta)), **values)
    return path
