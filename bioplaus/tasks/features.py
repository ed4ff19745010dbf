"""Two tasks on inputs in memory: learn features of them without labels, then read a class out of
features.

`Inputs` is what both start from (`hebbian_images.load` and `patches.load` make one); `hidden` turns
the inputs of one into the features that a trained rule gives.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from bioplaus import device as _device
from bioplaus import metrics, tasks
from bioplaus.config import Config, check_seed
from bioplaus.errors import BioplausError, unknown
from bioplaus.tasks import Spec

if TYPE_CHECKING:
    from bioplaus.rules import LearningRule

ORDERS = ("fixed", "permuted")
N_ROWS = 1000  # rows handled at once: bounds memory
N_PROBE = 1000  # inputs on which features are measured after an epoch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """Prepared inputs.

    Attributes
    ----------
    spec : what they are; kind "classification" where there are labels, "features" where there are
        none.
    x : (n, n_in) float by split: "train", and "validation" and "test" where there are any.
    y : (n,) int64 class indices by split; zeros where there are no labels.
    fingerprint : sha256, hexadecimal, of everything they were made from.
    """

    spec: Spec
    x: dict[str, Tensor]
    y: dict[str, Tensor]
    fingerprint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Readout(Config):
    """How a readout is trained: rule bp_batchnorm from features to classes, its output
    normalised.
    """

    n_epochs: int = 500
    batch_size: int = 100
    # of bp_batchnorm; n_units and norm are filled in
    config: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check("n_epochs", low=1)
        self.check("batch_size", low=1)

    def settings(self, spec: Spec) -> dict[str, Any]:
        """The rule's parameters for features and classes of `spec`."""
        return {"n_units": [spec.n_in, spec.n_out], "norm": "output", **self.config}


class FeatureTask:
    """Inputs without labels; keeps the contract of `tasks.Task`.

    Batches are whole: what does not fill one is left out. With order "permuted" a new permutation
    of the inputs is drawn for every epoch; with "fixed" they are shuffled once, from the stream
    (seed, "order"), and every epoch brings the same batches in the same order, which is what the
    published CIFAR-10 notebook did. (The author's MNIST notebook permutes the permuted data again;
    permutations drawn anew and those that are chained follow the same law.)

    Attributes
    ----------
    x : (n, n_in) float, training inputs in order.
    probe : (at most 1000, n_in) float, inputs on which `evaluate` measures: validation inputs, else
        training inputs.
    """

    def __init__(self, inputs: Inputs, *, order: str = "permuted", seed: int = 0) -> None:
        check_seed(seed)
        self.is_fixed = check_order(order) == "fixed"
        self.spec = dataclasses.replace(inputs.spec, kind="features")
        self.fingerprint = digest(inputs.fingerprint, order, seed if self.is_fixed else "")
        self.x = inputs.x["train"]
        self.probe = inputs.x.get("validation", self.x)[:N_PROBE]
        if self.is_fixed:
            chosen = torch.randperm(len(self.x), generator=_device.generator(seed, "order"))
            self.x = self.x.index_select(0, chosen.to(self.x.device))

    def n_batches(self, batch_size: int) -> int:
        """Number of whole batches."""
        tasks.check_batch_size(batch_size, len(self.x))
        return len(self.x) // batch_size

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor]]:
        """One epoch of (inputs,); one permutation is drawn from `generator` unless the order is
        fixed.
        """
        n = self.n_batches(batch_size) * batch_size
        if self.is_fixed:
            for x in self.x[:n].split(batch_size):
                yield (x,)
            return
        order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
        for rows in order[:n].split(batch_size):
            yield (self.x.index_select(0, rows),)

    @torch.no_grad()
    def evaluate(self, rule: torch.nn.Module) -> dict[str, float]:
        """What became of the units, measured on `probe`; the rule gives `currents` and
        `diagnostics`.

        n_winners : units that are the most driven one for some input.
        mean_top_current : mean over inputs of the largest current, dimensionless.
        """
        top, winner = rule.currents(self.probe).max(dim=1)
        return {
            "n_winners": float(len(winner.unique())),
            "mean_top_current": top.double().mean().item(),
            **rule.diagnostics(),
        }


class ReadoutTask:
    """Labelled inputs to classify; keeps the contract of `tasks.Task`.

    Batches are drawn anew for every epoch, the last one smaller where the size does not divide the
    number of inputs.
    """

    def __init__(self, inputs: Inputs) -> None:
        if inputs.spec.kind != "classification":
            raise BioplausError(
                f"{inputs.spec.name} has no labels, so nothing can be read out of its features."
            )
        self.inputs, self.spec, self.fingerprint = inputs, inputs.spec, inputs.fingerprint

    def n_batches(self, batch_size: int) -> int:
        """Number of batches, the last partial one included."""
        n_train = len(self.inputs.x["train"])
        tasks.check_batch_size(batch_size, n_train)
        return -(-n_train // batch_size)

    def batches(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of (inputs, labels); one permutation is drawn from `generator`."""
        x, y = self.inputs.x["train"], self.inputs.y["train"]
        for rows in torch.randperm(len(x), generator=generator).to(x.device).split(batch_size):
            yield x.index_select(0, rows), y.index_select(0, rows)

    @torch.no_grad()
    def evaluate(self, rule: torch.nn.Module) -> dict[str, float]:
        """Mean cross-entropy in nat ("test_loss") and fraction right ("test_accuracy") of every
        split but training.

        Those of the training set are running means over the epoch, which the rule returns with
        every batch.
        """
        found = {}
        for split, x in self.inputs.x.items():
            if split != "train":
                y = self.inputs.y[split]
                outputs = torch.cat([rule.predict(part) for part in x.split(N_ROWS)])
                found[f"{split}_loss"] = functional.cross_entropy(outputs.double(), y)
                found[f"{split}_accuracy"] = metrics.accuracy(outputs, y)
        return (
            dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
            if found
            else {}
        )


def check_order(order: str) -> str:
    """`order`, or an error unless it is one of "fixed" and "permuted"."""
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    return order


def prepared(inputs: Inputs, prepare: Callable[[Tensor, str], Tensor], name: str) -> Inputs:
    """`inputs` after prepare(x, split) of every split, in new memory; `name` tells the two apart in
    the fingerprint.
    """
    x = {split: prepare(x.clone(), split) for split, x in inputs.x.items()}
    return dataclasses.replace(inputs, x=x, fingerprint=digest(inputs.fingerprint, name))


@torch.no_grad()
def hidden(
    rule: "LearningRule", inputs: Inputs, prepare: Callable[[Tensor, str], Tensor] | None = None
) -> Inputs:
    """The features that `rule.predict` gives for `inputs`, computed once for all epochs of a
    readout.

    Parameters
    ----------
    prepare : applied to the inputs before, 1000 rows at a time, as prepare(x, split); it may change
        x in place.
    """
    features = {}
    for split, x in inputs.x.items():
        for start in range(0, len(x), N_ROWS):
            rows = x[start : start + N_ROWS]
            part = rule.predict(prepare(rows.clone(), split) if prepare else rows)
            if start == 0:
                features[split] = part.new_empty(len(x), part.shape[1])
            features[split][start : start + N_ROWS] = part
    state = [value.cpu().numpy().tobytes() for value in rule.parameters()]
    return Inputs(
        spec=dataclasses.replace(inputs.spec, n_in=features["train"].shape[1], image_shape=None),
        x=features,
        y=inputs.y,
        fingerprint=digest(inputs.fingerprint, rule.config.to_dict(), *state),
    )


def digest(*parts: Any) -> str:
    """sha256, hexadecimal, of texts, numbers and bytes, each told apart from the next."""
    found = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()
