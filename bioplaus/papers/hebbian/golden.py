"""Goldens of the competing hidden units: the rule, the author's MNIST loop, the CIFAR-10 pipeline,
and the networks on top.

The published code keeps currents and ranks as (units, batch), images with the colour last, and
kernels as (in, out); all are undone here, at the boundary, and nowhere else.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bioplaus.errors import unknown
from bioplaus.experiments.conformance import Golden, Make
from bioplaus.rules import LearningRule
from bioplaus.tasks import preprocessing

Pairs = Iterator[tuple[str, Any]]


def rule_of(golden: Golden) -> str:
    """The rule of the golden's algorithm."""
    return _kind(golden)[0]


def tolerance(golden: Golden, key: str, dtype: torch.dtype) -> tuple[float, float]:
    """(relative, absolute), as the goldens' README states them for each kind of file."""
    if dtype == torch.float32 or key.endswith("_f32"):
        return 1e-5, 1e-5
    return (1e-9, 1e-9) if golden.meta["algorithm"].startswith("readout") else (1e-9, 1e-11)


def replay(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    """Compute everything that the golden expects."""
    return _kind(golden)[1](golden, make, dtype)


def _kind(golden: Golden) -> tuple[str, Callable[[Golden, Make, torch.dtype], Pairs]]:
    name = golden.meta["algorithm"]
    if name not in _KINDS:
        raise unknown("algorithm of a golden of paper hebbian", name, _KINDS)
    return _KINDS[name]


# --- the rule -------------------------------------------------------------------------------------


def _updates(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    """Every update of the unsupervised phase; with `data.perm` the data are permuted anew, on and
    on, in each epoch.
    """
    h = golden.hyperparameter
    names = {"p": "p", "k": "k", "delta": "delta", "lr": "eps0", "n_epochs": "n_epochs"}
    config = {own: h(published) for own, published in names.items()}
    config |= {
        "n_units": [h("n_input"), h("n_hidden")],
        "init_mean": h("init_mu"),
        "init_std": h("init_sigma"),
    }
    learner = make(config, dtype=dtype)
    learner.weight.copy_(golden.tensor("init.synapses", dtype))
    x, size, n_batches = golden.tensor("data.x", dtype), h("batch_size"), h("n_batches_per_epoch")
    recorded: dict[str, list[Tensor]] = defaultdict(list)

    def keep(phase: str, t: int, state: Mapping[str, Sequence[Tensor]]) -> None:
        seen = {name: value for name, (value,) in state.items()}
        ranks = torch.zeros_like(seen["current"]).scatter_(1, seen["first"][:, None], 1.0)
        ranks.scatter_(1, seen["kth"][:, None], -h("delta"))
        expected = golden.tensor("expect.g", dtype, len(recorded["g"])).T
        recorded["g"].append(_untied(ranks, seen["current"], expected, h("k")).T)
        recorded["current"].append(seen["current"].T.clone())
        for name, published in (("change", "ds"), ("normaliser", "nc"), ("lr", "eps")):
            recorded[published].append(seen[name].clone())

    learner.watch = keep
    recorded["synapses"].append(learner.weight.clone())
    for epoch in range(h("n_epochs")):
        if "data.perm" in golden:
            x = x[golden.tensor("data.perm", dtype, epoch)]
        learner.begin_epoch(epoch, n_batches)
        for step in range(n_batches):
            learner.fit_batch(x[step * size : (step + 1) * size], None, epoch=epoch, step=step)
            recorded["synapses"].append(learner.weight.clone())
    for name, values in recorded.items():
        yield f"expect.{name}", torch.stack(values)


def _untied(ranks: Tensor, current: Tensor, expected: Tensor, k: int) -> Tensor:
    """`ranks`, but those `expected` for samples whose deciding currents are equal: any order of
    equals is right.

    Parameters
    ----------
    ranks, current, expected : (batch, n_hidden).
    """
    ordered = current.sort(dim=1, descending=True).values
    # one first, one k-th
    is_right = (expected.sort(dim=1).values == ranks.sort(dim=1).values).all(1)
    is_right &= ((expected <= 0) | (current == ordered[:, :1])).all(1)
    is_right &= ((expected >= 0) | (current == ordered[:, k - 1 : k])).all(1)
    return torch.where(is_right[:, None], expected, ranks)


# --- the pipeline ---------------------------------------------------------------------------------


def _pipeline(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    """Both steps of the preprocessing, currents and hidden representation; keys ending in _f32 in
    single precision.
    """
    for suffix, precision in (("", dtype), ("_f32", torch.float32)):
        if f"expect.x_train{suffix}" not in golden:
            continue
        train = _pixels(golden, "data.images_train", precision)
        is_held_out = torch.zeros(len(train), dtype=torch.bool)
        is_held_out[golden.tensor("data.val_index", precision)] = True
        pixels = {"train": train[~is_held_out], "validation": train[is_held_out]}
        pixels["test"] = _pixels(golden, "data.images_test", precision)
        synapses = golden.tensor("init.synapses", precision)
        h = golden.hyperparameter
        config = {"n_units": list(synapses.shape)[::-1], "p": h("p"), "power": h("n")}
        learner = make(config, dtype=precision)
        learner.weight.copy_(synapses)
        for split, x in preprocessing.centred(pixels, test_by_own_mean=True).items():
            name = f"{split.replace('validation', 'val')}{suffix}"
            yield f"expect.x_{name}", x
            x0 = preprocessing.row_centred(x.clone(), split)
            yield f"expect.x0_{name}", x0
            yield f"expect.current_{name}", learner.currents(x0)
            yield f"expect.hidden_{name}", learner.predict(x0)


def _pixels(golden: Golden, key: str, dtype: torch.dtype) -> Tensor:
    """(n, n_in): grey levels of (n, height, width, 3) images in [0, 1]."""
    colour_first = torch.from_numpy(golden[key]).permute(0, 3, 1, 2)
    return preprocessing.colour_last(colour_first.to(dtype).div_(255))


# --- networks on top ------------------------------------------------------------------------------


def _network(activation: str) -> Callable[[Golden, Make, torch.dtype], Pairs]:
    """Replay of a Keras network whose hidden layer, if it has one, has this activation."""

    def steps(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
        h = golden.hyperparameter
        widths = [h("n_input"), *([h("n_hidden")] if h("n_hidden") else []), h("n_classes")]
        config = {
            "n_units": widths,
            "activation": activation,
            "norm": "hidden" if h("n_hidden") else "output",
            "lr": h("lr0"),
            "lr_decay": h("decay_rate") or 1.0,
            "n_decay_steps": h("decay_steps") or 1,
            "start_step": h("start_iteration", 0),
        }
        learner = make(config, dtype=dtype)
        parts = _parts(learner)
        for name, part in parts.items():
            part.copy_(golden.tensor(f"init.{name}", dtype))
        x, y = golden.tensor("data.x", dtype), golden.tensor("data.label", dtype)
        x_val, y_val = golden.tensor("data.x_val", dtype), golden.tensor("data.label_val", dtype)
        recorded: dict[str, list[Tensor]] = {name: [part.clone()] for name, part in parts.items()}
        recorded |= {name: [] for name in ("train_loss", "train_acc", "lr", "val_prob", "val_loss")}
        learner.begin_epoch(0, len(x))
        for step in range(len(x)):
            measured = learner.fit_batch(x[step], y[step], epoch=0, step=step)
            output = learner.predict(x_val)
            recorded["train_loss"].append(measured["train_loss"])
            recorded["train_acc"].append(measured["train_accuracy"])
            recorded["lr"].append(learner.lr_now[0].clone())
            recorded["val_prob"].append(output.softmax(1))
            recorded["val_loss"].append(functional.cross_entropy(output, y_val))
            for name, part in parts.items():
                recorded[name].append(part.clone())
        for name, values in recorded.items():
            yield f"expect.{name}", torch.stack(values)

    return steps


def _parts(learner: LearningRule) -> dict[str, Tensor]:
    """The network's tensors by their published names."""
    layers = ["hidden", "out"] if len(learner.w_ff) == 2 else ["dense"]
    recorded = {f"{name}.kernel": w.data.t() for name, w in zip(layers, learner.w_ff, strict=True)}
    recorded |= {f"{name}.bias": b.data for name, b in zip(layers, learner.bias, strict=True)}
    norms = {
        "gamma": "gamma",
        "beta": "beta",
        "moving_mean": "running_mean",
        "moving_var": "running_var",
    }
    return recorded | {
        f"bn.{published}": getattr(learner, own)[0].data for published, own in norms.items()
    }


_KINDS = {
    "competing_hidden_units": ("competing_hidden", _updates),
    "competing_hidden_units_mnist_loop": ("competing_hidden", _updates),
    "cifar_pipeline_and_hidden_representation": ("competing_hidden", _pipeline),
    "readout_bio": ("bp_batchnorm", _network("relu")),
    "readout_bp": ("bp_batchnorm", _network("relu")),
    "readout_control": ("bp_batchnorm", _network("linear")),
}
