"""What hemispheres know and see: outcomes per image, distances between features, and Grad-CAM maps.

Pure functions of tensors and networks.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bioplaus.nets.hemispheres import Hemispheres


class Outcome(NamedTuple):
    """Whose prediction of an image was right: of the left (fine) and the right (coarse) hemisphere
    alone, and of both heads of the joined network.
    """

    left: bool
    right: bool
    joined_fine: bool
    joined_coarse: bool

    @property
    def name(self) -> str:
        """As the published results name it, `ntbf-bicamntbt`: t for right, f for wrong."""
        a, b, c, d = ("t" if is_right else "f" for is_right in self)
        return f"n{a}b{b}-bicamn{c}b{d}"

    @property
    def words(self) -> tuple[str, ...]:
        """For each of the four "correct" or "wrong"."""
        return tuple("correct" if is_right else "wrong" for is_right in self)


OUTCOMES = tuple(Outcome(*four) for four in itertools.product((True, False), repeat=4))


def outcomes(fine: Tensor, coarse: Tensor, joined_fine: Tensor, joined_coarse: Tensor) -> Tensor:
    """Which of the 16 `OUTCOMES` each image is.

    Images are matched by their position. (The published code matches file names, which are not
    unique.)

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
    """How often the joined network is right, given which hemisphere alone was: conditional
    fractions by name.

    Parameters
    ----------
    counts : (16,) images by outcome, in the order of `OUTCOMES`.

    Returns
    -------
    Names say "P(<event> | <condition>)" in short; NaN where no image meets the condition.
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
    return torch.bincount(target * n_classes + predicted, minlength=n_classes**2).view(
        n_classes, n_classes
    )


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
    """Where Grad-CAM looks, as published: the outputs of res1 and of the residual block of res2, of
    each hemisphere.

    Hemispheres without such stages give their last module that has maps.
    """
    layers: list[nn.Module] = []
    for hemisphere in net.hemispheres.values():
        if hasattr(hemisphere, "res1"):
            is_block = any(
                isinstance(part, nn.AdaptiveAvgPool2d) for part in hemisphere.res2.children()
            )
            layers += [hemisphere.res1, hemisphere.res2[0] if is_block else hemisphere.res2]
        else:
            layers.append(next(iter(hemisphere.children())))
    return layers


def grad_cam(net: Hemispheres, images: Tensor, layers: Sequence[nn.Module] | None = None) -> Tensor:
    """Where in an image lies what the network's predictions rest on (Selvaraju and others, ICCV
    2017).

    S = sum over heads of the predicted class's logit; for each layer with activations A_c, w_c =
    mean of dS/dA_c over positions, map = ReLU(sum_c w_c A_c), stretched to [0, 1] and to the size
    of the image (bilinear); the mean over layers, stretched to [0, 1] again. Images are seen one at
    a time, in evaluation mode.

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
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
        for layer in layers
    ]
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
        # so that maps of frozen hemispheres have gradients too
        logits = net(image.requires_grad_())
        gradients = torch.autograd.grad(
            sum(value.max(dim=1).values.sum() for value in logits.values()), seen
        )
    maps = []
    for activations, gradient in zip(seen, gradients, strict=True):
        weights = gradient.mean((2, 3), keepdim=True)
        cam = _stretch((weights * activations.detach()).sum(1, keepdim=True).relu()).float()
        maps.append(
            functional.interpolate(cam, image.shape[-2:], mode="bilinear", align_corners=False)
        )
    return _stretch(torch.cat(maps).mean(0)[0])


def _stretch(x: Tensor) -> Tensor:
    """To [0, 1]; the small number keeps an empty map empty, as published."""
    x = x - x.min()
    return x / (1e-7 + x.max())
