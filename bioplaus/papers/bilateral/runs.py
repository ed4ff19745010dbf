"""What a run of the notebook hemispheres does beside training: check its parameters, join trained
networks, describe the test, and report.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bioplaus import rules
from bioplaus.device import Meter
from bioplaus.errors import BioplausError, unknown
from bioplaus.experiments.simulation import Training
from bioplaus.nets.backbones import parameter_count
from bioplaus.nets.ensembles import Ensemble, Specialists
from bioplaus.papers.bilateral import measures
from bioplaus.tasks.hierarchies import KINDS, HierarchySpec, HierarchyTask
from bioplaus.train import History

if TYPE_CHECKING:
    from bioplaus.rules.hemispheric_bp import Rule

ENSEMBLES: Mapping[str, Callable[[Mapping[str, nn.Module], HierarchyTask], nn.Module]] = {
    "mean": lambda members, images: Ensemble(list(members.values())),
    "specialists": lambda members, images: Specialists(**members, coarse_of=images.coarse_of),
}


def check(
    rule: str,
    config: Mapping[str, Any],
    spec: HierarchySpec,
    *,
    n_epochs: int,
    batch_size: int,
    checkpoints: Mapping[str, str],
    members: Mapping[str, str],
    ensemble: str,
    n_views: int,
    copy: int,
    report: str,
    n_kept: int,
) -> list[Training]:
    """What a run of the notebook hemispheres trains with these of its parameters.

    Raises
    ------
    BioplausError
        Unless it can work with them.
    """
    for name, value in (("n_views", n_views), ("copy", copy), ("n_pairs or n_maps", n_kept)):
        if value < 0:
            raise BioplausError(f"{name} is {value}, but must be at least 0.")
    if report not in ("best", "last"):
        raise unknown("report", report, ["best", "last"])
    if ensemble or members:
        _check_ensemble(ensemble, members)
        return []
    settings = rules.config(rule, config, spec, batch_size=batch_size)
    sides = settings.sides()
    for side in checkpoints:
        if side not in sides:
            raise unknown("hemisphere in checkpoints", side, sides)
    if n_views and not settings.is_fixed:
        raise BioplausError(
            f"n_views is {n_views}, but features can be encoded once only where all hemispheres"
            " have is_frozen true and frozen_norm is eval."
        )
    if n_kept and len(checkpoints) < 2:
        raise BioplausError(
            "n_pairs and n_maps compare two hemispheres trained apart, so checkpoints must name"
            " both."
        )
    return [Training(rule, config, spec, n_epochs, batch_size)]


def _check_ensemble(ensemble: str, members: Mapping[str, str]) -> None:
    if ensemble not in ENSEMBLES:
        raise unknown("ensemble", ensemble, ENSEMBLES)
    if len(members) < 2:
        raise BioplausError(
            f"An ensemble needs at least two members, but this one has {len(members)}."
        )
    if ensemble == "specialists" and members.keys() != set(KINDS):
        raise BioplausError(
            f"The specialists' members are called fine and coarse, not {' and '.join(members)}."
        )


def evaluate_ensemble(
    ensemble: str, members: Mapping[str, nn.Module], images: HierarchyTask
) -> tuple[nn.Module, History]:
    """Trained networks that answer together, and a history whose only epoch is their evaluation.

    Parameters
    ----------
    ensemble : key of `ENSEMBLES`.
    members : trained networks by name.
    """
    network = ENSEMBLES[ensemble](members, images)
    meter = Meter(images.coarse_of.device)
    history = History(epochs=[{"epoch": 0, **images.evaluate(network)}])
    history.seconds["evaluate"].append(meter.read()[0])
    return network, history


def parameter_counts(network: nn.Module) -> dict[str, int]:
    """Numbers of parameters: "total", "trainable" (0 in an ensemble), "with_buffers" as the
    published tables count.
    """
    is_ensemble = isinstance(network, Ensemble | Specialists)
    return {
        "total": parameter_count(network),
        "trainable": 0 if is_ensemble else parameter_count(network, trainable=True),
        "with_buffers": parameter_count(network, buffers=True),
    }


def final(epochs: Sequence[Mapping[str, float]], report: str) -> dict[str, float]:
    """The metrics a run reports: of the epoch with the lowest validation error, the first of
    equals, or of the last.
    """
    if not epochs:
        return {}
    return dict(
        epochs[-1] if report == "last" else min(epochs, key=lambda epoch: epoch["validation_error"])
    )


def describe_test(
    network: nn.Module,
    images: HierarchyTask,
    sources: Mapping[str, "Rule"] | None = None,
    *,
    n_pairs: int = 0,
    n_maps: int = 0,
) -> dict[str, Any]:
    """What a network says of the test images, and, joined from two specialists, how it and they see
    them.

    Parameters
    ----------
    network : gives logits by head; a joined one is a `Rule`.
    sources : "left", trained on fine, and "right", on coarse labels; needed for what follows.
    n_pairs : keep feature distances of at most so many pairs of images of one class, for each
        outcome.
    n_maps : keep Grad-CAM maps of the first image of each outcome, of at most so many outcomes.

    Returns
    -------
    predictions : by head, (n,) class indices; labels : (n,) classes; coarse_of : superclass of each
        class.
    distances : as `feature_distances`; maps : as `attention_maps`; only where asked for.
    """
    predicted = images.predictions(network, "test")
    answers: dict[str, Any] = {
        "predictions": {head: _small(values) for head, values in predicted.items()},
        "labels": _small(images.y["test"][:, 0]),
        "coarse_of": images.coarse_of.tolist(),
    }
    if not (n_pairs or n_maps):
        return answers
    alone = {
        kind: images.predictions(sources[side], "test")
        for kind, side in zip(KINDS, ("left", "right"), strict=True)
    }
    if missing := [kind for kind, values in alone.items() if kind not in values]:
        raise BioplausError(
            f"n_pairs and n_maps need a left fine and a right coarse network, but {missing[0]} is"
            " missing."
        )
    y = images.y["test"]
    right = [alone[kind][kind] == y[:, k] for k, kind in enumerate(KINDS)]
    right += [predicted[kind] == y[:, k] for k, kind in enumerate(KINDS)]
    outcome = measures.outcomes(*right)
    if n_pairs:
        answers["distances"] = feature_distances(network, images, sources, outcome, n_pairs)
    if n_maps:
        answers["maps"] = attention_maps(network, images, sources, outcome, n_maps)
    return answers


def feature_distances(
    joined: "Rule",
    images: HierarchyTask,
    sources: Mapping[str, "Rule"],
    outcome: Tensor,
    n_pairs: int,
) -> dict[str, np.ndarray]:
    """Cosine distances between test images of the same class and outcome, in the features of each
    network.

    Returns
    -------
    outcome : (m,) uint8, index into `measures.OUTCOMES`.
    left, right, joined, concatenated : (m,) float32, distances from 0 to 2 in the features of the
        left source, the right source, the joined network, and both sources side by side.

    At most `n_pairs` pairs of an outcome are kept, evenly spaced.
    """
    features = {"joined": torch.cat([joined.encode(x) for x in images.inputs("test")])}
    for side in ("left", "right"):
        features[side] = torch.cat([sources[side].encode(x) for x in images.inputs("test")])
    features["concatenated"] = torch.cat([features["left"], features["right"]], dim=1)
    fine = images.y["test"][:, 0].cpu()
    group = outcome * images.spec.n_out + fine
    order = torch.argsort(group, stable=True)
    pairs = order.numpy()[measures.pairs_of_equal(group[order])]
    of_pair = outcome.numpy()[pairs[:, 0]]
    chosen = [np.flatnonzero(of_pair == k) for k in range(len(measures.OUTCOMES))]
    rows = np.concatenate(
        [c[np.linspace(0, len(c) - 1, min(n_pairs, len(c))).astype(int)] for c in chosen]
    )
    distances = {
        name: measures.cosine_distance(values, pairs[rows]).cpu().numpy()
        for name, values in features.items()
    }
    return {"outcome": of_pair[rows].astype(np.uint8)} | {
        n: d.astype(np.float32) for n, d in distances.items()
    }


def attention_maps(
    joined: "Rule",
    images: HierarchyTask,
    sources: Mapping[str, "Rule"],
    outcome: Tensor,
    n_maps: int,
) -> dict[str, np.ndarray]:
    """Grad-CAM maps of the first test image of each outcome that occurs.

    Returns
    -------
    image : (m,) int64, index among the test images.
    outcome : (m,) uint8, index into `measures.OUTCOMES`.
    left, right, joined : (m, height, width) uint8, the map in [0, 1] times 255.
    """
    occurring = outcome.unique()[:n_maps]
    rows = (outcome == occurring[:, None]).long().argmax(1)  # of equal values, the first
    seen = images.normalise(images.x["test"][rows.to(images.x["test"].device)])
    nets = {"left": sources["left"].net, "right": sources["right"].net, "joined": joined.net}
    maps = {
        name: (255 * measures.grad_cam(net, seen)).round().byte().cpu().numpy()
        for name, net in nets.items()
    }
    return {"image": rows.numpy(), "outcome": outcome[rows].numpy().astype(np.uint8), **maps}


def _small(classes: Tensor) -> np.ndarray:
    """Class indices as uint8 where they fit, else int16."""
    values = classes.cpu().numpy()
    return values.astype(np.uint8 if values.max(initial=0) < 256 else np.int16)
