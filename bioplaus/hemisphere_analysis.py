"""What hemispheres know and see: outcomes per image, distances between features, and Grad-CAM maps.

Pure functions of tensors and networks, run by the simulation notebooks on test images; figures draw what they return.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bioplaus.errors import BioplausError, unknown
from bioplaus.nets.backbones import parameter_count
from bioplaus.nets.hemispheres import Hemispheres
from bioplaus.tasks.hierarchies import KINDS, HierarchyTask

if TYPE_CHECKING:
    from bioplaus.rules.hemispheric_bp import Config, Rule

OUTCOMES = tuple(  # fine hemisphere, coarse hemisphere - joined network's fine head, coarse head; t: right, f: wrong
    f"n{a}b{b}-bicamn{c}b{d}" for a in "tf" for b in "tf" for c in "tf" for d in "tf"
)


def check_run(
    config: "Config",
    *,
    checkpoints: Mapping[str, str],
    n_views: int,
    copy: int,
    report: str,
    n_kept: int,
) -> None:
    """Raise `BioplausError` unless a run of the notebook hemispheres can work with these of its parameters."""
    sides = config.sides()
    for side in checkpoints:
        if side not in sides:
            raise unknown("hemisphere in checkpoints", side, sides)
    for name, value in (("n_views", n_views), ("copy", copy), ("n_pairs or n_maps", n_kept)):
        if value < 0:
            raise BioplausError(f"{name} is {value}, but must be at least 0.")
    if report not in ("best", "last"):
        raise unknown("report", report, ["best", "last"])
    if n_views and not (config.frozen_norm == "eval" and all(side.is_frozen for side in sides.values())):
        raise BioplausError(
            f"n_views is {n_views}, but features can be encoded once only where all hemispheres have is_frozen true and "
            "frozen_norm is eval."
        )
    if n_kept and len(checkpoints) < 2:
        raise BioplausError("n_pairs and n_maps compare two hemispheres trained apart, so checkpoints must name both.")


def check_ensemble(kind: str, members: Mapping[str, str]) -> None:
    """Raise `BioplausError` unless a run of the notebook ensembles can work with these of its parameters."""
    if kind not in ("mean", "specialists"):
        raise unknown("kind of ensemble", kind, ["mean", "specialists"])
    if kind == "specialists" and members.keys() != set(KINDS):
        raise BioplausError(f"Specialists are members fine and coarse, but these are {', '.join(members) or 'none'}.")
    if len(members) < 2:
        raise BioplausError(f"An ensemble needs at least two members, but this one has {len(members)}.")


def parameter_counts(net: nn.Module) -> dict[str, int]:
    """Numbers of parameters: "total", "trainable", and "with_buffers", as the published tables count."""
    return {
        "total": parameter_count(net),
        "trainable": parameter_count(net, trainable=True),
        "with_buffers": parameter_count(net, buffers=True),
    }


def final(epochs: Sequence[Mapping[str, float]], report: str) -> dict[str, float]:
    """The metrics a run reports: of the epoch with the lowest validation error, the first of equals, or of the last."""
    if not epochs:
        return {}
    return dict(epochs[-1] if report == "last" else min(epochs, key=lambda epoch: epoch["validation_error"]))


def look(
    network: nn.Module,
    images: HierarchyTask,
    sources: Mapping[str, "Rule"] | None = None,
    *,
    n_pairs: int = 0,
    n_maps: int = 0,
) -> dict[str, Any]:
    """What a network says of the test images, and, joined from two specialists, how it and they see them.

    Parameters
    ----------
    network : gives logits by head; a joined one is a `Rule`.
    sources : "left", trained on fine, and "right", on coarse labels; needed for what follows.
    n_pairs : keep feature distances of at most so many pairs of images of one class, for each outcome.
    n_maps : keep Grad-CAM maps of the first image of each outcome, of at most so many outcomes.

    Returns
    -------
    predictions : by head, (n,) class indices; labels : (n,) classes; coarse_of : superclass of each class.
    distances : as `feature_distances`; maps : as `attention_maps`; only where asked for.
    """
    predicted = images.predictions(network, "test")
    found: dict[str, Any] = {
        "predictions": {head: _small(values) for head, values in predicted.items()},
        "labels": _small(images.y["test"][:, 0]),
        "coarse_of": images.coarse_of.tolist(),
    }
    if not (n_pairs or n_maps):
        return found
    alone = {kind: images.predictions(sources[side], "test") for kind, side in zip(KINDS, ("left", "right"), strict=True)}
    if missing := [kind for kind, values in alone.items() if kind not in values]:
        raise BioplausError(f"n_pairs and n_maps need a left fine and a right coarse network, but {missing[0]} is missing.")
    y = images.y["test"]
    right = [alone[kind][kind] == y[:, k] for k, kind in enumerate(KINDS)]
    right += [predicted[kind] == y[:, k] for k, kind in enumerate(KINDS)]
    outcome = outcomes(*right)
    if n_pairs:
        found["distances"] = feature_distances(network, images, sources, outcome, n_pairs)
    if n_maps:
        found["maps"] = attention_maps(network, images, sources, outcome, n_maps)
    return found


def feature_distances(
    joined: "Rule", images: HierarchyTask, sources: Mapping[str, "Rule"], outcome: Tensor, n_pairs: int
) -> dict[str, np.ndarray]:
    """Cosine distances between test images of the same class and outcome, in the features of each network.

    Returns
    -------
    outcome : (m,) uint8; left, right, joined, concatenated : (m,) float32, in the features of the left source, the right
        source, the joined network, and both sources side by side. At most `n_pairs` pairs of an outcome, evenly spaced.
    """
    features = {"joined": torch.cat([joined.encode(x) for x in images.inputs("test")])}
    for side in ("left", "right"):
        features[side] = torch.cat([sources[side].encode(x) for x in images.inputs("test")])
    features["concatenated"] = torch.cat([features["left"], features["right"]], dim=1)
    fine = images.y["test"][:, 0].cpu()
    group = outcome * images.spec.n_out + fine
    order = torch.argsort(group, stable=True)
    pairs = order.numpy()[pairs_of_equal(group[order])]
    of_pair = outcome.numpy()[pairs[:, 0]]
    chosen = [np.flatnonzero(of_pair == k) for k in range(len(OUTCOMES))]
    rows = np.concatenate([c[np.linspace(0, len(c) - 1, min(n_pairs, len(c))).astype(int)] for c in chosen])
    distances = {name: cosine_distance(values, pairs[rows]).cpu().numpy() for name, values in features.items()}
    return {"outcome": of_pair[rows].astype(np.uint8)} | {n: d.astype(np.float32) for n, d in distances.items()}


def attention_maps(
    joined: "Rule", images: HierarchyTask, sources: Mapping[str, "Rule"], outcome: Tensor, n_maps: int
) -> dict[str, np.ndarray]:
    """Grad-CAM maps of the first test image of each outcome that occurs.

    Returns
    -------
    image : (m,) int64, place among the test images; outcome : (m,) uint8; left, right, joined : (m, height, width) uint8,
        the map in [0, 1] times 255.
    """
    first = [int(torch.nonzero(outcome == k)[0, 0]) for k in range(len(OUTCOMES)) if (outcome == k).any()][:n_maps]
    rows = torch.tensor(first, dtype=torch.int64)
    seen = images.normalise(images.x["test"][rows.to(images.x["test"].device)])
    nets = {"left": sources["left"].net, "right": sources["right"].net, "joined": joined.net}
    maps = {name: (255 * grad_cam(net, seen)).round().byte().cpu().numpy() for name, net in nets.items()}
    return {"image": rows.numpy(), "outcome": outcome[rows].numpy().astype(np.uint8), **maps}


def _small(classes: Tensor) -> np.ndarray:
    """Class indices as uint8 where they fit, else int16."""
    values = classes.cpu().numpy()
    return values.astype(np.uint8 if values.max(initial=0) < 256 else np.int16)


def outcomes(fine: Tensor, coarse: Tensor, joined_fine: Tensor, joined_coarse: Tensor) -> Tensor:
    """Which of the 16 `OUTCOMES` each image is.

    Images are matched by their place. (The published code matches file names, which are not unique.)

    Parameters
    ----------
    fine, coarse, joined_fine, joined_coarse : (n,) bool, whether the prediction was right.

    Returns
    -------
    (n,) int64, index into `OUTCOMES`.
    """
    index = torch.zeros(len(fine), dtype=torch.int64)
    for right in (fine, coarse, joined_fine, joined_coarse):
        index = 2 * index + (~right.bool().cpu()).long()
    return index


def complementarity(counts: Sequence[int] | np.ndarray) -> dict[str, float]:
    """How often the joined network is right, given which hemisphere alone was: conditional fractions by name.

    Parameters
    ----------
    counts : (16,) images by outcome, in the order of `OUTCOMES`.

    Returns
    -------
    Names say "P(<what> | <condition>)" in short; NaN where no image meets the condition.
    """
    table = np.asarray(counts, dtype=float).reshape(2, 2, 2, 2)  # 0: right, 1: wrong

    def fraction(part: np.ndarray, right: np.ndarray) -> float:
        return float(right.sum() / part.sum()) if part.sum() else float("nan")

    fine, coarse = np.s_[:, :, 0, :], np.s_[:, :, :, 0]
    return {
        "fine_hemisphere": fraction(table, table[0]),
        "coarse_hemisphere": fraction(table, table[:, 0]),
        "joined_fine": fraction(table, table[fine]),
        "joined_coarse": fraction(table, table[coarse]),
        "joined_fine_given_fine_wrong": fraction(table[1], table[1, :, 0]),
        "joined_fine_given_fine_right": fraction(table[0], table[0, :, 0]),
        "joined_fine_given_fine_wrong_coarse_right": fraction(table[1, 0], table[1, 0, 0]),
        "joined_fine_given_both_wrong": fraction(table[1, 1], table[1, 1, 0]),
        "joined_coarse_given_coarse_wrong_fine_right": fraction(table[0, 1], table[0, 1, :, 0]),
        "joined_coarse_given_both_wrong": fraction(table[1, 1], table[1, 1, :, 0]),
        "joined_coarse_given_coarse_right": fraction(table[:, 0], table[:, 0, :, 0]),
    }


def confusion(predicted: Tensor, target: Tensor, n_classes: int) -> Tensor:
    """Images by (target, predicted) class, (n_classes, n_classes) int64."""
    return torch.bincount(target * n_classes + predicted, minlength=n_classes**2).view(n_classes, n_classes)


def runs_of_equal(labels: Sequence[int]) -> list[tuple[int, int]]:
    """(first, length) of every run of two or more equal labels that follow one another."""
    labels = np.asarray(labels)
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    lengths = np.diff(np.r_[starts, len(labels)])
    return [(int(first), int(n)) for first, n in zip(starts, lengths, strict=True) if n > 1]


def pairs_of_equal(labels: Sequence[int]) -> np.ndarray:
    """(n_pairs, 2) int64: every pair i < j within each run of equal labels, run by run."""
    parts = [first + np.stack(np.triu_indices(n, 1), axis=1) for first, n in runs_of_equal(labels)]
    return np.concatenate(parts).astype(np.int64) if parts else np.empty((0, 2), np.int64)


def cosine_distance(features: Tensor, pairs: np.ndarray) -> Tensor:
    """1 - cos of the angle between the features of two images, (n_pairs,) float64, from 0 to 2.

    Parameters
    ----------
    features : (n, n_features), float.
    pairs : (n_pairs, 2) int64, rows of `features`.
    """
    unit = functional.normalize(features.double(), dim=1, eps=0)
    first, second = torch.from_numpy(pairs).to(features.device).unbind(1)
    return 1 - (unit[first] * unit[second]).sum(1)


def attention_layers(net: Hemispheres) -> list[nn.Module]:
    """Where Grad-CAM looks, as published: the outputs of res1 and of the residual block of res2, of each hemisphere.

    Hemispheres without such stages give their last module that has maps.
    """
    layers: list[nn.Module] = []
    for hemisphere in net.hemispheres.values():
        if hasattr(hemisphere, "res1"):
            is_block = any(isinstance(part, nn.AdaptiveAvgPool2d) for part in hemisphere.res2.children())
            layers += [hemisphere.res1, hemisphere.res2[0] if is_block else hemisphere.res2]
        else:
            layers.append(next(iter(hemisphere.children())))
    return layers


def grad_cam(net: Hemispheres, images: Tensor, layers: Sequence[nn.Module] | None = None) -> Tensor:
    """Where in an image lies what the network's predictions rest on (Selvaraju and others, ICCV 2017).

    S = sum over heads of the predicted class's logit; for each layer with activations A_c, w_c = mean of dS/dA_c over
    positions, map = ReLU(sum_c w_c A_c), stretched to [0, 1] and to the size of the image (bilinear); the mean over
    layers, stretched to [0, 1] again. Images are seen one at a time, in evaluation mode.

    Parameters
    ----------
    images : (n, channels, height, width), as the network sees them.
    layers : modules of the network whose outputs are maps; None: `attention_layers`.

    Returns
    -------
    (n, height, width) float32 in [0, 1], dimensionless.
    """
    layers = attention_layers(net) if layers is None else layers
    seen: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda module, inputs, output: seen.append(output)) for layer in layers]
    was_training = net.training
    net.eval()
    try:
        return torch.stack([_one_cam(net, image[None].detach().clone(), seen) for image in images])
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()


def _one_cam(net: Hemispheres, image: Tensor, seen: list[Tensor]) -> Tensor:
    seen.clear()
    with torch.enable_grad():
        logits = net(image.requires_grad_())  # so that maps of frozen hemispheres have gradients too
        gradients = torch.autograd.grad(sum(value.max(dim=1).values.sum() for value in logits.values()), seen)
    maps = []
    for activations, gradient in zip(seen, gradients, strict=True):
        weights = gradient.mean((2, 3), keepdim=True)
        cam = _stretch((weights * activations.detach()).sum(1, keepdim=True).relu()).float()
        maps.append(functional.interpolate(cam, image.shape[-2:], mode="bilinear", align_corners=False))
    return _stretch(torch.cat(maps).mean(0)[0])


def _stretch(x: Tensor) -> Tensor:
    """To [0, 1]; the small number keeps an empty map empty, as published."""
    x = x - x.min()
    return x / (1e-7 + x.max())
