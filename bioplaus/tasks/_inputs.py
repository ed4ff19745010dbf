"""Two tasks on inputs in memory: learn features of them without labels, then read a class out of
features.

`Inputs` is what both start from; `hidden` turns the inputs of one into the features that a trained
rule gives.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from bioplaus import config, metrics, tasks
from bioplaus import device as _device
from bioplaus.errors import BioplausError, unknown
from bioplaus.tasks import Spec
from bioplaus.tasks.preprocessing import row_centred, unit_norm

if TYPE_CHECKING:
    from bioplaus.rules import LearningRule

Step = Callable[[Tensor, str], Tensor]  # of inputs (n, n_in) and the name of their split, in place

ORDERS = ("fixed", "permuted")
SECOND: dict[str, Step] = {
    "none": lambda x, split: x,
    "unit_norm": unit_norm,
    "row_centred": row_centred,
}
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
    remark: str = ""  # how they differ from the published ones of their name

    @property
    def splits(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(x, y) by split."""
        return {split: (x, self.y[split]) for split, x in self.x.items()}


class FeatureTask(tasks.Task[config.Config, tuple[Tensor, ...]]):
    """Inputs without labels.

    Batches are whole: what does not fill one is left out. With order "permuted" a new permutation
    of the inputs is drawn for every epoch; with "fixed" they are shuffled once, from the stream
    (seed, "order"), and every epoch brings the same batches in the same order, which is what the
    published CIFAR-10 notebook did. (The author's MNIST notebook permutes the permuted data again;
    permutations drawn anew and those that are chained follow the same law.)

    Parameters
    ----------
    inputs : what features are learned from.
    order : key of `ORDERS`.
    seed : of a fixed order.
    second : key of `SECOND`; what is done to inputs before features are computed for a readout.
    config : what was asked for, where a config asked for it.

    Attributes
    ----------
    x : (n, n_in) float, training inputs in order.
    probe : (at most 1000, n_in) float, inputs on which features are measured after an epoch:
        validation inputs, else training inputs.
    splits : (x, y) of the inputs, and (probe,) by "probe".
    """

    def __init__(
        self,
        inputs: Inputs,
        *,
        order: str = "permuted",
        seed: int = 0,
        second: str = "none",
        config: config.Config | None = None,
    ) -> None:
        self.is_fixed = check_order(order) == "fixed"
        self.inputs, self.second, self.config = inputs, second, config or _NO_CONFIG
        self.remark = inputs.remark
        self.spec = dataclasses.replace(inputs.spec, kind="features")
        self._digest = digest(inputs.fingerprint, order, seed if self.is_fixed else "")
        self.x = inputs.x["train"]
        self.probe = inputs.x.get("validation", self.x)[:N_PROBE]
        self.splits = {**inputs.splits, "probe": (self.probe,)}
        self.monitored = ("probe",)
        if self.is_fixed:
            chosen = torch.randperm(len(self.x), generator=_device.generator(seed, "order"))
            self.x = self.x.index_select(0, chosen.to(self.x.device))

    def _fingerprint(self) -> str:
        """sha256, hexadecimal, of the inputs and of the order."""
        return self._digest

    @property
    def n_train(self) -> int:
        """Number of training inputs."""
        return len(self.x)

    def n_batches(self, batch_size: int) -> int:
        """Number of whole batches."""
        tasks.check_batch_size(batch_size, self.n_train)
        return self.n_train // batch_size

    def draws(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor]]:
        """One epoch of rows; one permutation is drawn from `generator` unless the order is
        fixed.
        """
        n = self.n_batches(batch_size) * batch_size
        n_inputs, device = len(self.x), self.x.device
        order = (
            torch.arange(n_inputs)
            if self.is_fixed
            else torch.randperm(n_inputs, generator=generator)
        )
        for rows in order[:n].to(device).split(batch_size):
            yield (rows,)

    def batch_of(self, *draw: Tensor) -> tuple[Tensor]:
        """(inputs,), (batch, n_in)."""
        return (self.x.index_select(0, *draw),)

    def evaluate(self, rule: Any, *splits: str) -> dict[str, float]:
        """What became of the units; the metrics of `probe` have no prefix, as there is no other
        split that choices could look at.
        """
        metrics = super().evaluate(rule, *splits)
        return {name.removeprefix("probe_"): value for name, value in metrics.items()}

    def measure(self, rule: Any, split: str) -> dict[str, float | Tensor]:
        """Measures of the units; the rule gives `currents` and `diagnostics`.

        n_winners : units that are the most driven one for some input.
        mean_top_current : mean over inputs of the largest current, dimensionless.
        """
        top, winner = rule.currents(self.splits[split][0]).max(dim=1)
        return {
            "n_winners": len(winner.unique()),
            "mean_top_current": top.double().mean(),
            **rule.diagnostics(),
        }

    def readout(self, rule: "LearningRule") -> "ReadoutTask":
        """The task of reading classes out of the features that `rule` gives for these inputs, after
        the second step.
        """
        return ReadoutTask(hidden(rule, self.inputs, SECOND[self.second]), config=self.config)


class ReadoutTask(tasks.Task[config.Config, tuple[Tensor, Tensor]]):
    """Labelled inputs to classify.

    Batches are drawn anew for every epoch, the last one smaller where the size does not divide the
    number of inputs.

    Attributes
    ----------
    splits : (x, y) by split: (n, n_in) float, (n,) int64. Those of the training set are not
        monitored: the rule returns running means over the epoch with every batch.
    """

    def __init__(self, inputs: Inputs, *, config: config.Config | None = None) -> None:
        if inputs.spec.kind != "classification":
            raise BioplausError(
                f"{inputs.spec.name} has no labels, so nothing can be read out of its features."
            )
        self.inputs, self.spec, self.config = inputs, inputs.spec, config or _NO_CONFIG
        self.remark = inputs.remark
        self.splits = inputs.splits
        self.monitored = tuple(split for split in self.splits if split != "train")

    def _fingerprint(self) -> str:
        """sha256, hexadecimal, of the inputs."""
        return self.inputs.fingerprint

    @property
    def n_train(self) -> int:
        """Number of training inputs."""
        return len(self.splits["train"][0])

    def draws(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor]]:
        """One epoch of rows; one permutation is drawn from `generator`."""
        x = self.splits["train"][0]
        for rows in torch.randperm(len(x), generator=generator).to(x.device).split(batch_size):
            yield (rows,)

    def batch_of(self, *draw: Tensor) -> tuple[Tensor, ...]:
        """(inputs, labels), (batch, n_in) float and (batch,) int64."""
        return tuple(part.index_select(0, *draw) for part in self.splits["train"])

    def measure(self, rule: Any, split: str) -> dict[str, Tensor]:
        """ "loss", the mean cross-entropy in nat, and "accuracy", the fraction right."""
        x, y = self.splits[split]
        outputs = torch.cat([rule.predict(part) for part in x.split(N_ROWS)])
        return {
            "loss": functional.cross_entropy(outputs.double(), y),
            "accuracy": metrics.accuracy(outputs, y),
        }


def check_order(order: str) -> str:
    """`order`, or an error unless it is one of "fixed" and "permuted"."""
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    return order


def prepared(inputs: Inputs, step: Step, name: str) -> Inputs:
    """`inputs` after step(x, split) of every split, in new memory; `name` tells the two apart in
    the fingerprint.
    """
    x = {split: step(x.clone(), split) for split, x in inputs.x.items()}
    return dataclasses.replace(inputs, x=x, fingerprint=digest(inputs.fingerprint, name))


@torch.no_grad()
def hidden(rule: "LearningRule", inputs: Inputs, step: Step | None = None) -> Inputs:
    """The features that `rule.predict` gives for `inputs`, computed once for all epochs of a
    readout.

    Parameters
    ----------
    step : applied to the inputs before, 1000 rows at a time, as step(x, split); it may change x in
        place.
    """
    features = {}
    for split, x in inputs.x.items():
        for start in range(0, len(x), N_ROWS):
            rows = x[start : start + N_ROWS]
            part = rule.predict(step(rows.clone(), split) if step else rows)
            if start == 0:
                features[split] = part.new_empty(len(x), part.shape[1])
            features[split][start : start + N_ROWS] = part
    state = [value.cpu().numpy().tobytes() for value in rule.parameters()]
    return Inputs(
        spec=dataclasses.replace(inputs.spec, n_in=features["train"].shape[1], image_shape=None),
        x=features,
        y=inputs.y,
        fingerprint=digest(inputs.fingerprint, rule.config.to_dict(), *state),
        remark=inputs.remark,
    )


def digest(*parts: Any) -> str:
    """sha256, hexadecimal, of texts, numbers and bytes, each told apart from the next."""
    sha256 = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        sha256.update(len(content).to_bytes(8, "little") + content)
    return sha256.hexdigest()


_NO_CONFIG = config.Config()  # of a task made by hand
