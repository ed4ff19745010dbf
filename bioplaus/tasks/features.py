"""Features learned without labels, and classes read out of features.

Two tasks on the same inputs, told apart by the field `phase`: "features" gives a `FeatureTask`,
whose batches have no labels; "classes" gives a `ReadoutTask` on the inputs themselves, which the
controls learn. `FeatureTask.readout` turns the features of a trained rule into a `ReadoutTask`.

Inputs are images of any data set, prepared by the function called `first` (`preprocessing.py`), or
patches of natural images (data set "natural-patches"). What a readout or a control sees went
through a `second` step:

    none         as after the first step
    unit_norm    every input divided by its l2 norm                      (author's advice)
    row_centred  every input minus its own mean, then unit norm          (CIFAR-10 notebook)
"""

import dataclasses
from typing import Any

import torch

from bioplaus import config, tasks
from bioplaus.errors import BioplausError, unknown
from bioplaus.tasks import Spec, images, patches
from bioplaus.tasks._inputs import (
    SECOND,
    FeatureTask,
    Inputs,
    ReadoutTask,
    check_order,
    digest,
    hidden,
    prepared,
)

__all__ = [
    "SECOND",
    "Config",
    "FeatureTask",
    "Inputs",
    "ReadoutTask",
    "digest",
    "hidden",
    "load",
    "of_images",
    "prepared",
    "spec",
]


PHASES = ("features", "classes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """Which inputs, prepared how, in which order."""

    dataset: str = "digits"  # as of images.Config, or "natural-patches"
    patches: dict = dataclasses.field(default_factory=dict)  # fields of patches.Config
    phase: str = "features"  # features: without labels, or classes: with them
    first: str = "pixels"  # key of images.PREPROCESSING: what features are learned from
    second: str = "unit_norm"  # key of SECOND: what a readout or control sees, after the first
    n_train: int | None = None  # training images used, those held out among them; None: all
    n_test: int | None = None  # test images used; None: all
    validation: float = 0.0  # fraction of the training images held out
    order: str = "permuted"  # batches of features: permuted anew in every epoch, or fixed
    seed: int = 0  # draws held-out images, patches, and a fixed order

    def __post_init__(self) -> None:
        config.check_seed(self.seed)
        check_order(self.order)
        if self.phase not in PHASES:
            raise unknown("phase", self.phase, PHASES)
        if self.second not in SECOND:
            raise unknown("second preprocessing", self.second, SECOND)
        idle = ("first", "second", "n_train", "n_test", "validation")
        for name in idle if self.is_patches else ("patches",):
            if (value := getattr(self, name)) != _default(name):
                raise BioplausError(
                    f"{name} is {value!r}, but has no effect on data set {self.dataset!r}: leave it"
                    " out."
                )
        if doubled := {"order", "seed"} & self.patches.keys():
            raise BioplausError(
                f"{min(doubled)} is a parameter beside patches, not one in patches: move it there."
            )
        if self.is_patches and self.phase == "classes":
            raise BioplausError(f"{self.dataset} has no labels: set phase to 'features'.")

    @property
    def is_patches(self) -> bool:
        """Whether the inputs are patches of natural images, which have no labels."""
        return self.dataset == patches.NAME

    @property
    def image_fields(self) -> dict[str, Any]:
        """Fields of `images.Config`, where the inputs are images."""
        names = ("dataset", "n_train", "n_test", "validation", "seed")
        return {"preprocessing": self.first, **{name: getattr(self, name) for name in names}}

    @property
    def patch_fields(self) -> dict[str, Any]:
        """Fields of `patches.Config`, where the inputs are patches."""
        return {"order": self.order, "seed": self.seed, **self.patches}


def _default(name: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(Config)}
    return {} if name == "patches" else fields[name].default


def spec(config: Config | str | None = None, /, **values: Any) -> Spec:
    """What a rule must know of the task that `load` gives for the same arguments; nothing is read
    but a header.

    Raises
    ------
    BioplausError
        As `images.spec` and `patches.spec`; for fields that have no effect on the data set.
    """
    settings = tasks.configure(Config, config, values, "features")
    if settings.is_patches:
        return patches.spec(**settings.patch_fields)
    labelled = images.spec(**settings.image_fields)
    is_labelled = settings.phase == "classes"
    return labelled if is_labelled else dataclasses.replace(labelled, kind="features")


def load(
    config: Config | str | None = None,
    /,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    download: bool = True,
    **values: Any,
) -> FeatureTask | ReadoutTask:
    """Read and prepare the inputs; `phase` says which task.

    Parameters
    ----------
    config, values : fields of `Config`.
    device, dtype : of the prepared inputs.
    download : fetch a missing data set; False never touches the network.

    Raises
    ------
    BioplausError
        As `spec`, `images.load` and `patches.load`; for an input of norm 0.
    """
    settings = tasks.configure(Config, config, values, "features")
    if settings.is_patches:
        return patches.load(device=device, dtype=dtype, **settings.patch_fields)
    task = images.load(device=device, dtype=dtype, download=download, **settings.image_fields)
    inputs = of_images(task)
    if settings.phase == "classes":
        seen = prepared(inputs, SECOND[settings.second], settings.second)
        return ReadoutTask(seen, config=settings)
    return FeatureTask(
        inputs,
        order=settings.order,
        seed=settings.seed,
        second=settings.second,
        config=settings,
    )


def of_images(task: images.ImageTask) -> Inputs:
    """The prepared images of a task as inputs."""
    # of the unprepared set, then the name of the preprocessing: so it stands in all records
    fingerprint = digest(task.fingerprint_as("unit"), task.config.preprocessing)
    return Inputs(
        spec=task.spec,
        x={split: x for split, (x, _) in task.splits.items()},
        y={split: y for split, (_, y) in task.splits.items()},
        fingerprint=fingerprint,
        remark=task.remark,
    )
