"""Goldens of the bilateral paper: training of hemispheres, ensembles, sparse layers, augmentation
and analyses.

Published names of hemispheres and heads become those of `Hemispheres` here, and nowhere else. What
is not training is replayed through the functions that the tasks and analyses use.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bioplaus.errors import unknown
from bioplaus.experiments.conformance import TOLERANCE, Golden, Make
from bioplaus.nets.ensembles import Ensemble
from bioplaus.nets.hemispheres import load_strictly
from bioplaus.nets.sparse_resnet9 import SparseConv, SparseMLP
from bioplaus.papers.bilateral import measures as hemisphere_analysis
from bioplaus.tasks.hierarchies import KINDS, Normaliser, augment

Pairs = Iterator[tuple[str, Any]]
RULE = "hemispheric_bp"
_PARTS = {  # published beginning of a name -> ours
    "hemisphere.": "hemispheres.left.",
    "fine_hemi.": "hemispheres.left.",
    "coarse_hemi.": "hemispheres.right.",
    "fine_head.1.": "heads.fine.",
    "coarse_head.1.": "heads.coarse.",
}


def rule_of(golden: Golden) -> str:
    """The rule that trains the golden's networks; "" where it holds none."""
    _replayer(golden)
    return RULE if any(key.startswith("init.") for key in golden) else ""


def replay(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    """What this package computes of everything that the published code recorded."""
    yield from _replayer(golden)(golden, make, dtype)


def tolerance(golden: Golden, key: str, dtype: torch.dtype) -> tuple[float, float]:
    """1e-5 for what was published in float32 (augmented images, Grad-CAM maps), else the usual."""
    return (0.0, 1e-5) if golden[key].dtype == np.float32 else TOLERANCE[dtype]


def _replayer(golden: Golden) -> Callable[[Golden, Make, torch.dtype], Pairs]:
    name = golden.meta["algorithm"]
    beginnings = {
        "unilateral/": _training,
        "bilateral/": _training,
        "ensemble of ": _ensemble,
        "augmentation": _augmentation,
        "SparseConv": _sparse_conv,
        "SparseMLP": _sparse_mlp,
        "GradCAM": _grad_cam,
        "cosine distance": _cosine,
    }
    for beginning, replayer in beginnings.items():
        if name.startswith(beginning):
            return replayer
    raise unknown("algorithm of a golden of paper bilateral", name, beginnings)


def _ours(name: str) -> str:
    """A published parameter or buffer name in `Hemispheres`."""
    beginning = next((part for part in _PARTS if name.startswith(part)), None)
    if beginning is None:
        raise unknown("part of a published network", name, _PARTS)
    return _PARTS[beginning] + name.removeprefix(beginning)


def _state(
    golden: Golden, prefix: str, dtype: torch.dtype, parts: tuple[str, ...] = ("",)
) -> dict[str, Tensor]:
    """Tensors of a network by our names, from keys `<prefix><name>` and `<prefix>buffer.<name>`."""
    found = {}
    for key in golden:
        name = key.removeprefix(prefix).removeprefix("buffer.")
        if (
            key.startswith(prefix)
            and name.startswith(parts)
            and any(name.startswith(part) for part in _PARTS)
        ):
            found[_ours(name)] = golden.tensor(key, dtype)
    return found


def _learner(
    golden: Golden,
    make: Make,
    dtype: torch.dtype,
    hemispheres: str,
    heads: str,
    prefix: str = "init.",
) -> torch.nn.Module:
    """A learner with the golden's network and its first weights."""
    h = golden.hyperparameter
    state = _state(golden, prefix, dtype)
    widths = h("widths", None) or _widths(state)
    backbone = h("arch", "resnet9")

    def side(name: str) -> dict[str, Any]:
        sparsity = (
            {ours: h(f"{name}_{ours}", None) for ours in ("k", "per_k")}
            if "sparse" in backbone
            else {}
        )
        return {
            "backbone": backbone,
            "widths": list(widths),
            "is_frozen": bool(h("freeze", False)),
            **sparsity,
        }

    is_bilateral = hemispheres == "bilateral"
    left = side("fine")
    values = {
        "heads": heads,
        # published: ignored with one hemisphere
        "left": left if is_bilateral else {**left, "is_frozen": False},
        "right": side("coarse") if is_bilateral else None,
        **{
            f"n_{kind}": len(state[f"heads.{kind}.bias"])
            for kind in KINDS
            if f"heads.{kind}.bias" in state
        },
        "image_size": golden["data.images"].shape[-1],
        "in_channels": golden["data.images"].shape[-3],
        "dropout": h("dropout", 0.0),
        "lr": h("lr", 1e-4),
        "weight_decay": h("weight_decay", 0.0),
        "frozen_norm": "drift",
    }
    learner = make(values, dtype=dtype)
    load_strictly(learner.net, state, f"the network of {golden.path.name}")
    return learner


def _widths(state: Mapping[str, Tensor]) -> list[int]:
    return [len(state[f"hemispheres.left.conv{k}.0.weight"]) for k in range(1, 5)]


def _training(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    """Train on the golden's batches with its masks."""
    hemispheres, heads, _ = golden.meta["algorithm"].split("/")
    learner = _learner(golden, make, dtype, hemispheres, heads)
    kinds = list(learner.net.heads)
    yield from _evaluation(golden, learner, dtype, "before")
    n = len(golden["data.images"])
    order = golden.meta["parameter_order"]
    named = dict(learner.net.named_parameters())
    recorded: dict[str, list[Tensor]] = {"loss": []} | {f"loss_{kind}": [] for kind in kinds}
    norms = []
    for batch in range(n):
        for kind, dropout in learner.net.dropouts.items():
            if (key := f"data.dropout_mask.{kind}_head") in golden:
                mask = golden.tensor(key, dtype, batch)
                dropout.mask = lambda x, mask=mask: mask
        seen: dict[str, Tensor] = {}
        hook = learner.net.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.update(output)
        )
        y = torch.stack([golden.tensor(f"data.{kind}", dtype, batch) for kind in KINDS], dim=1)
        learner.train()
        measured = learner.fit_batch(
            golden.tensor("data.images", dtype, batch), y, epoch=0, step=batch
        )
        hook.remove()
        for kind in kinds:
            yield f"expect.logits.batch{batch + 1}.{kind}", seen[kind]
            recorded[f"loss_{kind}"].append(measured[f"{kind}_loss"])
        recorded["loss"].append(measured["loss"])
        gradients = {name: named[_ours(name)].grad for name in order}
        zero = torch.zeros((), dtype=dtype)
        norms.append(
            torch.stack(
                [zero if g is None else torch.linalg.vector_norm(g) for g in gradients.values()]
            )
        )
        if batch == 0:
            yield from (
                (f"expect.grad.batch1.{name}", g) for name, g in gradients.items() if g is not None
            )
        if batch in (0, n - 1):
            yield from _weights(golden, learner, f"expect.after_batch{batch + 1}.")
    for name, values in recorded.items():
        if name == "loss" or len(kinds) > 1:  # with one head its loss is the loss
            yield f"expect.{name}", torch.stack(values)
    yield "expect.grad_norm", torch.stack(norms)
    yield from _evaluation(golden, learner, dtype, "after")


def _weights(golden: Golden, learner: torch.nn.Module, prefix: str) -> Pairs:
    """Weights that learn, and all running statistics, under their published keys."""
    learning = {
        name: value for name, value in learner.net.named_parameters() if value.requires_grad
    }
    for name in golden.meta["parameter_order"]:
        if _ours(name) in learning:
            yield f"{prefix}{name}", learning[_ours(name)].detach()
    buffers = dict(learner.net.named_buffers())
    for key in golden:
        if key.startswith("init.buffer."):
            name = key.removeprefix("init.buffer.")
            yield f"{prefix}buffer.{name}", buffers[_ours(name)]


def _evaluation(golden: Golden, learner: torch.nn.Module, dtype: torch.dtype, when: str) -> Pairs:
    learner.eval()
    with torch.no_grad():
        logits = learner.logits(golden.tensor("data.eval_images", dtype))
    yield from ((f"expect.eval_logits_{when}.{kind}", value) for kind, value in logits.items())


def _ensemble(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    images = golden.tensor("data.images", dtype)
    members = [
        _learner(golden, make, dtype, "unilateral", "both", f"init.model{i}.").eval()
        for i in range(golden.hyperparameter("ensemble_size"))
    ]
    with torch.no_grad():
        logits = Ensemble(members).logits(images)
        for i, member in enumerate(members):
            yield from (
                (f"expect.member{i}.{kind}", value) for kind, value in member.logits(images).items()
            )
    for kind, value in logits.items():
        yield f"expect.logits.{kind}", value
        yield (
            f"expect.loss_{kind}",
            functional.cross_entropy(value, golden.tensor(f"data.{kind}", dtype)),
        )


def _augmentation(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    h = golden.hyperparameter
    pixels = torch.from_numpy(golden["data.uint8_images"])
    mean, deviation = (torch.tensor(h(name), dtype=dtype) for name in ("mean", "std"))
    normalise = Normaliser(mean, deviation, 255, pixels.shape[2])
    top, left, flip = (
        torch.from_numpy(golden[f"data.{name}"]) for name in ("crop_top", "crop_left", "flip")
    )
    yield (
        "expect.train",
        normalise(augment(pixels, torch.arange(len(pixels)), top, left, flip.bool(), h("pad"))),
    )
    yield "expect.eval", normalise(pixels)


def _sparse_conv(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    x = golden.tensor("data.x", dtype).requires_grad_()
    y = SparseConv(golden.hyperparameter("k"), golden.hyperparameter("k_percent"))(x)
    (y * golden.tensor("data.w", dtype)).sum().backward()
    yield "expect.y", y
    yield "expect.grad_x", x.grad


def _sparse_mlp(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    layer = SparseMLP(golden.hyperparameter("k"), golden.hyperparameter("k_percent"))
    yield "expect.y", layer(golden.tensor("data.x", dtype))


def _grad_cam(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    images = golden.tensor("data.images", dtype)
    joined = _learner(golden, make, dtype, "bilateral", "both").eval()
    with torch.no_grad():
        yield from (
            (f"expect.pred_{kind}", value.argmax(1))
            for kind, value in joined.logits(images).items()
        )
    yield "expect.cam_bilateral", hemisphere_analysis.grad_cam(joined.net, images)
    alone = _learner(golden, make, dtype, "unilateral", "fine", "init.unilateral.")
    yield "expect.cam_unilateral_fine", hemisphere_analysis.grad_cam(alone.net, images)


def _cosine(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    labels = golden["data.label"]
    pairs = hemisphere_analysis.pairs_of_equal(labels)
    runs = hemisphere_analysis.runs_of_equal(labels)
    starts = np.concatenate([np.full(n * (n - 1) // 2, first) for first, n in runs])
    yield "expect.pair_index_in_group", pairs - starts[:, None]
    features = {
        name: torch.from_numpy(golden[f"data.{name}_feat"])
        for name in ("bilateral", "broad", "narrow")
    }
    features["concatenated"] = torch.cat([features["narrow"], features["broad"]], dim=1)
    for name, values in features.items():
        yield f"expect.distance_{name}", hemisphere_analysis.cosine_distance(values, pairs)
    # the published table keeps only the first digit of a label; ours keeps the label
    yield "expect.reference_label_column", np.array([int(str(labels[i])[0]) for i in pairs[:, 0]])
