"""What a run of the notebook hebbian does beside training: check its parameters, read classes out
of features, and build its record.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bioplaus import rules, tasks, train
from bioplaus.config import Config
from bioplaus.errors import BioplausError
from bioplaus.experiments.simulation import Training
from bioplaus.papers.hebbian import synapses
from bioplaus.rules import LearningRule
from bioplaus.tasks import Spec, features

READER = "bp_batchnorm"  # the rule of a readout


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

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Readout":
        """The checked config of these values."""
        return cls.from_dict(values, kind="parameter of readout")

    def values(self, spec: Spec) -> dict[str, Any]:
        """The rule's parameters for features and classes of `spec`."""
        return {"n_units": [spec.n_in, spec.n_out], "norm": "output", **self.config}


def rule_values(config: Mapping[str, Any], phase: str, n_epochs: int) -> dict[str, Any]:
    """The rule's parameters: one that learns features anneals its rate over `n_epochs`."""
    return {"n_epochs": n_epochs, **config} if phase == "features" else {**config}


def check(
    rule: str,
    config: Mapping[str, Any],
    settings: features.Config,
    *,
    n_epochs: int,
    batch_size: int,
    stored_synapses: str,
    readout: Mapping[str, Any],
) -> list[Training]:
    """What a run of the notebook hebbian trains with these of its parameters.

    Raises
    ------
    BioplausError
        Unless it can work with them.
    """
    spec = features.spec(settings)
    _check_phase(rule, settings.phase)
    if stored_synapses and settings.phase == "classes":
        raise BioplausError(
            f"synapses is {stored_synapses!r}, but phase 'classes' learns all weights: leave"
            " synapses out."
        )
    snapshots = config.get("snapshot_epochs")  # its type is the rule's to check
    late = (
        [n for n in snapshots if isinstance(n, int) and n >= n_epochs]
        if isinstance(snapshots, list)
        else []
    )
    if settings.phase == "features" and late:
        raise BioplausError(
            f"n_epochs is {n_epochs}, but snapshot_epochs in config asks for the weights after"
            f" {late[-1]} epochs: run at least {late[-1] + 1}, or give other snapshot_epochs."
        )
    values = rule_values(config, settings.phase, n_epochs)
    learned = rules.config(rule, values, spec, batch_size=batch_size)
    trainings = [Training(rule, values, spec, n_epochs, batch_size)]
    if stored_synapses:
        synapses.load(stored_synapses, learned.n_units)
        trainings = []
    reading = Readout.of(readout)
    if not readout:
        return trainings
    if settings.phase == "classes" or settings.is_patches:
        raise BioplausError("A readout needs features of labelled images; set readout to {}.")
    top = dataclasses.replace(spec, kind="classification", n_in=learned.n_units[1])
    reader = rules.config(READER, reading.values(top), top)
    least = rules.get(READER).Rule.least_batch(reader)
    top.check_batch_size(reading.batch_size, "readout.batch_size", least=least)
    read = Training(READER, reading.values(top), top, reading.n_epochs, reading.batch_size)
    return [*trainings, read]


def _check_phase(rule: str, phase: str) -> None:
    """Raise `BioplausError` if the rule learns what the other phase offers."""
    offered = {"features": "features", "classes": "classification"}
    learns = {"features": "features without labels", "classes": "labels"}
    (other,) = offered.keys() - {phase}
    if not _learns(rule, offered[phase]) and _learns(rule, offered[other]):
        raise BioplausError(
            f"phase is {phase!r}, but rule {rule} learns {learns[other]}: set phase to {other!r}."
        )


def _learns(rule: str, kind: str) -> bool:
    """Whether a network of the rule's default widths learns a task of this kind."""
    module = rules.get(rule)
    try:
        default = module.Config()
        widths = default.n_units
        module.Rule.check_task(
            default, Spec(name="any", kind=kind, n_in=widths[0], n_out=widths[-1])
        )
    except (BioplausError, TypeError, AttributeError):  # no defaults, or no widths
        return False
    return True


def read_out(
    data: Sequence[features.FeatureTask],
    learners: Sequence[LearningRule],
    histories: Sequence[train.History],
    readout: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    folders: Sequence[str] = (),
) -> list[train.History | None]:
    """Train a readout on the features that each trained rule gives, which no longer change.

    Parameters
    ----------
    data, learners, histories : what each rule learned from, and how that ended.
    readout : fields of `Readout`.
    seeds : one each, of the readout's weights and of the order of its batches.
    folders : of the runs, one each, or none; the readout's checkpoints lie in a folder of their own
        inside it.

    Returns
    -------
    One history each; None where the features diverged, from which nothing is read.
    """
    reading = Readout.of(readout)
    read = [k for k, history in enumerate(histories) if history.status == "done"]
    top_tasks = [data[k].readout(learners[k]) for k in read]
    readers = []
    for k, top_task in zip(read, top_tasks, strict=True):
        weight = next(learners[k].parameters())
        reader = rules.make(
            READER,
            reading.values(top_task.spec),
            top_task.spec,
            seed=seeds[k],
            device=weight.device,
            dtype=weight.dtype,
        )
        readers.append(reader)
    if not readers:
        return [None] * len(learners)
    ended = train.fit_many(
        readers,
        top_tasks,
        seeds=[seeds[k] for k in read],
        folders=[f"{folders[k]}/readout" for k in read] if folders else None,
        n_epochs=reading.n_epochs,
        batch_size=reading.batch_size,
    )
    by_number = dict(zip(read, ended, strict=True))
    return [by_number.get(k) for k in range(len(learners))]


def load_synapses(learner: LearningRule, name: str) -> train.History:
    """Give the rule stored synapses instead of training it; the history of no training at all.

    Parameters
    ----------
    name : a .npy file, or a name that comes with the package.
    """
    learner.weight.copy_(synapses.load(name, learner.config.n_units))
    return train.History()


def save_synapses(
    task: features.FeatureTask | features.ReadoutTask, learner: LearningRule, folder: str
) -> None:
    """Keep all synapses as `synapses.npy` in the folder of a run that learned features."""
    if isinstance(task, features.FeatureTask):
        synapses.save(learner.weight, f"{folder}/synapses.npy")


def input_weights(
    task: features.FeatureTask | features.ReadoutTask, learner: LearningRule
) -> torch.Tensor:
    """The weights from the inputs to the hidden units, (n_hidden, n_in)."""
    return learner.weight if isinstance(task, features.FeatureTask) else learner.w_ff[0]


def seconds(
    history: train.History, readout_history: train.History | None
) -> dict[str, list[float]]:
    """Wall and CPU seconds by epoch; those of the readout with its name before them."""
    # loaded synapses take no time
    learned = history.seconds if history.seconds["train"] else {}
    read = readout_history.seconds if readout_history else {}
    return {**learned, **{f"readout_{name}": values for name, values in read.items()}}


def record(
    task: features.FeatureTask | features.ReadoutTask,
    learner: LearningRule,
    history: train.History,
    readout_history: train.History | None,
    *,
    n_kept: int,
) -> dict[str, Any]:
    """The record of a run.

    Its "epochs" and "diagnostics" are those of the readout, if there is one, and those of the
    features then stand under "features".

    Parameters
    ----------
    n_kept : units whose weights are kept.
    """
    learned = history.record()
    parts: dict[str, Any] = {
        "config": learner.config.to_dict(),
        "task": tasks.describe(task),
        "weights": synapses.pack(input_weights(task, learner), n_kept),
        **learned,
    }
    # not where synapses were loaded
    if isinstance(task, features.FeatureTask) and history.seconds["train"]:
        parts["snapshots"] = synapses.pack(learner.snapshots)
    if readout_history is None:
        return parts
    feature_columns = {name: learned[name] for name in ("epochs", "diagnostics")}
    return {**parts, "features": feature_columns, **readout_history.record()}
