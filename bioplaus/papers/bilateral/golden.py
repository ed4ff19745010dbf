"""Goldens of the bilateral paper: training of hemispheres, ensembles, sparse layers, augmentation
and analyses.

Published names of hemispheres and heads become those of `Hemispheres` here, and nowhere else. What
is not training is replayed through the functions that the tasks and analyses use.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bioplaus import rules
from bioplaus.errors import BioplausError, unknown
from bioplaus.experiments.conformance import TOLERANCE, Golden, Make
from bioplaus.nets import backbones
from bioplaus.nets.ensembles import Ensemble
from bioplaus.nets.hemispheres import load_strictly
from bioplaus.nets.sparse_resnet9 import SparseConv, largest
from bioplaus.papers.bilateral import measures
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


class _Network(NamedTuple):
    """A learner with a golden's network and its first weights."""

    learner: rules.LearningRule
    names: dict[str, str]  # of its tensors: published -> ours


def _network(golden: Golden, make: Make, dtype: torch.dtype, prefix: str = "init.") -> _Network:
    """The network whose tensors have keys `<prefix><name>` and `<prefix>buffer.<name>`."""
    h = golden.hyperparameter
    parameters, buffers = _published(golden, prefix)
    heads = {kind: len(parameters[f"{kind}_head.1.bias"]) for kind in _heads(parameters)}
    is_bilateral = any(name.startswith("coarse_hemi.") for name in parameters)
    values = {
        "heads": "both" if len(heads) > 1 else next(iter(heads)),
        "left": _side(golden, "fine", parameters, is_bilateral),
        "right": _side(golden, "coarse", parameters, is_bilateral) if is_bilateral else None,
        **{f"n_{kind}": n for kind, n in heads.items()},
        "image_size": golden["data.images"].shape[-1],
        "in_channels": golden["data.images"].shape[-3],
        "dropout": h("dropout", 0.0),
        "lr": h("lr", 1e-4),
        "weight_decay": h("weight_decay", 0.0),
        "frozen_norm": "drift",
    }
    learner = make(values, dtype=dtype)
    own = dict(learner.net.named_buffers())
    counts = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
    if not any(name.endswith("num_batches_tracked") for name in buffers):
        own = {name: value for name, value in own.items() if name not in counts}
    names = _names(parameters, dict(learner.net.named_parameters())) | _names(buffers, own)
    state = counts | {names[name]: value for name, value in (parameters | buffers).items()}
    load_strictly(learner.net, state, f"the network of {golden.path.name}")
    return _Network(learner, names)


def _published(golden: Golden, prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers of a network by their published names, in the order of the file."""
    parameters, buffers = {}, {}
    for key in golden:
        name = key.removeprefix(prefix)
        part = buffers if name.startswith("buffer.") else parameters
        name = name.removeprefix("buffer.")
        if key.startswith(prefix) and name.startswith(tuple(_PARTS)):
            part[name] = golden.tensor(key, torch.float64)
    return parameters, buffers


def _heads(parameters: Mapping[str, Tensor]) -> list[str]:
    """Kinds of labels that a published network has a head for."""
    return [kind for kind in KINDS if f"{kind}_head.1.bias" in parameters]


def _side(
    golden: Golden, kind: str, parameters: Mapping[str, Tensor], is_bilateral: bool
) -> dict[str, Any]:
    """Config of the hemisphere of this kind."""
    h = golden.hyperparameter
    part = f"{kind}_hemi." if is_bilateral else "hemisphere."
    shapes = [p.shape for name, p in parameters.items() if name.startswith(part)]
    backbone, widths = _backbone(golden, shapes)
    values = {"backbone": backbone, "widths": widths}
    if backbones.BACKBONES[backbone].can_be_sparse:
        values |= {name: h(f"{kind}_{name}", None) for name in ("k", "per_k")}
    # published: ignored with one hemisphere
    return values | {"is_frozen": bool(h("freeze", False)) and is_bilateral}


def _backbone(golden: Golden, shapes: list[torch.Size]) -> tuple[str, list[int]]:
    """Name and widths of the backbone whose parameters have these shapes: the one that the golden
    names or, where it names none, one that has such parameters.
    """
    known, in_channels = backbones.BACKBONES, golden["data.images"].shape[-3]
    _, _, named = (*golden.meta["algorithm"].split("/"), None, None)[:3]
    name = golden.hyperparameter("arch", named)
    if name is not None and name not in known:
        raise unknown("backbone", name, known)
    fitting = {
        each: widths
        for each in ([name] if name else known)
        if (widths := _widths(each, shapes, in_channels))
    }
    if not fitting:
        subject = f"backbone {name!r} has" if name else "no backbone has"
        raise BioplausError(
            f"{subject} {'no ' if name else ''}widths at which its tensors are those of"
            f" {golden.path.name}."
        )
    # two differ in how they pool alone, and of these one is published with widths that fall
    alike = [each for each in fitting if _narrows(fitting[each]) == _narrows(known[each].widths)]
    chosen = next(iter(alike or fitting))
    return chosen, fitting[chosen]


def _narrows(widths: Sequence[int]) -> bool:
    """Whether the last maps are fewer than the first."""
    return widths[-1] < widths[0]


def _widths(name: str, shapes: list[torch.Size], in_channels: int) -> list[int] | None:
    """Widths at which the parameters of a backbone have these shapes; None where there are none."""

    def shapes_at(widths: Sequence[int] | None) -> list[torch.Size]:
        settings = backbones.Config(backbone=name, widths=widths and tuple(widths))
        with torch.device("meta"):
            net = backbones.build(settings, in_channels, torch.Generator())
        return [parameter.shape for parameter in net.parameters()]

    published = shapes_at(None)
    if len(published) != len(shapes):
        return None
    # published widths of a backbone differ, so that the size of a layer tells which it has
    sizes = {own[0]: given[0] for own, given in zip(published, shapes, strict=True)}
    widths = [sizes[width] for width in backbones.BACKBONES[name].widths]
    return widths if shapes_at(widths) == shapes else None


def _names(published: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Our name of each published tensor: in the same part of the network the same or, where the
    published backbone names its tensors otherwise, that at the same place in their order.
    """
    by_name = {}
    for beginning, ours in _PARTS.items():
        given = [name for name in published if name.startswith(beginning)]
        names = [ours + name.removeprefix(beginning) for name in given]
        if not set(names) <= own.keys():
            names = [name for name in own if name.startswith(ours)]
        by_name |= dict(zip(given, names, strict=True))
    return by_name


def _training(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    """Train on the golden's batches with its masks."""
    learner, names = _network(golden, make, dtype)
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
                dropout.mask = lambda n, mask=mask: mask
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
        gradients = {name: named[names[name]].grad for name in order}
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
            yield from _weights(golden, learner, names, f"expect.after_batch{batch + 1}.")
    for name, values in recorded.items():
        if name == "loss" or len(kinds) > 1:  # with one head its loss is the loss
            yield f"expect.{name}", torch.stack(values)
    yield "expect.grad_norm", torch.stack(norms)
    yield from _evaluation(golden, learner, dtype, "after")


def _weights(
    golden: Golden, learner: rules.LearningRule, names: Mapping[str, str], prefix: str
) -> Pairs:
    """Weights that learn, and all running statistics, under their published keys."""
    learning = {
        name: value for name, value in learner.net.named_parameters() if value.requires_grad
    }
    for name in golden.meta["parameter_order"]:
        if names[name] in learning:
            yield f"{prefix}{name}", learning[names[name]].detach()
    buffers = dict(learner.net.named_buffers())
    for key in golden:
        if key.startswith("init.buffer."):
            name = key.removeprefix("init.buffer.")
            yield f"{prefix}buffer.{name}", buffers[names[name]]


def _evaluation(
    golden: Golden, learner: rules.LearningRule, dtype: torch.dtype, when: str
) -> Pairs:
    learner.eval()
    with torch.no_grad():
        logits = learner.logits(golden.tensor("data.eval_images", dtype))
    yield from ((f"expect.eval_logits_{when}.{kind}", value) for kind, value in logits.items())


def _ensemble(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    images = golden.tensor("data.images", dtype)
    members = [
        _network(golden, make, dtype, f"init.model{i}.").learner.eval()
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
    """A layer that no published architecture uses, on rows of D values: of each the ceil(k D)
    largest stay, and of what stays, over all B rows, the ceil(k_percent B ceil(k D)) largest that
    are not 0.
    """
    k, of_these = golden.hyperparameter("k"), golden.hyperparameter("k_percent")
    x = golden.tensor("data.x", dtype)
    n = math.ceil(k * x.shape[1])
    rows = x * largest(x, n)
    ranked = rows.masked_fill(rows == 0, -math.inf).view(1, -1)
    yield "expect.y", rows * largest(ranked, math.ceil(of_these * len(x) * n)).view_as(x)


def _grad_cam(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    images = golden.tensor("data.images", dtype)
    joined = _network(golden, make, dtype).learner.eval()
    with torch.no_grad():
        yield from (
            (f"expect.pred_{kind}", value.argmax(1))
            for kind, value in joined.logits(images).items()
        )
    yield "expect.cam_bilateral", measures.grad_cam(joined.net, images)
    alone = _network(golden, make, dtype, "init.unilateral.").learner
    yield "expect.cam_unilateral_fine", measures.grad_cam(alone.net, images)


def _cosine(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    labels = golden["data.label"]
    pairs = measures.pairs_of_equal(labels)
    runs = measures.runs_of_equal(labels)
    starts = np.concatenate([np.full(n * (n - 1) // 2, first) for first, n in runs])
    yield "expect.pair_index_in_group", pairs - starts[:, None]
    features = {
        name: torch.from_numpy(golden[f"data.{name}_feat"])
        for name in ("bilateral", "broad", "narrow")
    }
    features["concatenated"] = torch.cat([features["narrow"], features["broad"]], dim=1)
    for name, values in features.items():
        yield f"expect.distance_{name}", measures.cosine_distance(values, pairs)
    # the published table keeps only the first digit of a label; ours keeps the label
    yield "expect.reference_label_column", np.array([int(str(labels[i])[0]) for i in pairs[:, 0]])
