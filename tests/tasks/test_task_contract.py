"""What every task promises, whatever its data: one way to ask for it, to divide it, to learn from
it and to measure.
"""

import dataclasses

import numpy as np
import pytest
import torch

from bioplaus import config, tasks, train
from bioplaus.errors import BioplausError
from bioplaus.tasks import captions, features, hierarchies, images, linedraw, patches, seqmnist

# a small task of every module: fields of its Config
SMALL = {
    images: {"dataset": "synthetic", "n_train": 60, "validation": 0.25},
    features: {"dataset": "synthetic", "n_train": 60, "validation": 0.25},
    hierarchies: {"dataset": "synthetic", "n_train": 60, "validation_fraction": 0.25},
    linedraw: {"n_train": 60, "n_test": 20, "validation": 0.25},
    seqmnist: {"dataset": "synthetic", "n_train": 60, "validation": 0.25},
    patches: {"n_patches": 45, "side": 4},
    captions: {"n_train": 9, "n_val": 6},
}
MODULES = pytest.mark.parametrize("module", SMALL, ids=lambda module: module.__name__[15:])
BATCH = 5


class Answers(torch.nn.Module):
    """Answers every kind of question without having learned anything; hides no state."""

    def __init__(self, spec: tasks.Spec) -> None:
        super().__init__()
        self.spec = spec

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        steps = (self.spec.n_steps,) if self.spec.kind == "drawing" else ()
        return torch.arange(1.0, self.spec.n_out + 1).expand(len(x), *steps, self.spec.n_out)

    def currents(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3]

    def diagnostics(self) -> dict[str, float]:
        return {}

    def logits(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"fine": x.flatten(1)[:, :10], "coarse": x.flatten(1)[:, :5]}

    def nll(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.tensor(1.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(batch: tuple[torch.Tensor, ...]) -> list[list[float]]:
    return [part.flatten().tolist() for part in batch]


@MODULES
def test_a_config_is_frozen_and_survives_a_round_trip_through_builtins(module):
    settings = module.Config.from_dict(SMALL[module])
    assert isinstance(settings, config.Config)
    assert module.Config.from_dict(settings.to_dict()) == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.seed = 1


@MODULES
def test_a_task_is_asked_for_by_its_fields_or_by_a_config_of_which_fields_are_replaced(module):
    values = SMALL[module]
    by_name = module.load(**values)
    assert module.load(module.Config(**values)).fingerprint == by_name.fingerprint
    (name, value), *_ = ((name, v) for name, v in values.items() if name in ("n_train", "side"))
    changed = module.Config(**{**values, name: value + 1})
    assert module.load(changed, **{name: value}).fingerprint == by_name.fingerprint
    assert module.load(changed).fingerprint != by_name.fingerprint
    if "dataset" in values:
        rest = {key: v for key, v in values.items() if key != "dataset"}
        assert module.load(values["dataset"], **rest).fingerprint == by_name.fingerprint


@MODULES
def test_an_unknown_field_is_named_with_its_task(module):
    for ask in (module.spec, module.load):
        with pytest.raises(BioplausError, match="unknown parameter of .* 'sed'; "):
            ask(**SMALL[module], sed=1)


@MODULES
def test_the_spec_that_is_known_before_reading_is_that_of_the_task(module):
    task, spec = module.load(**SMALL[module]), module.spec(**SMALL[module])
    if module is captions:  # only reading tells how many words there are, and how long they get
        spec = dataclasses.replace(spec, n_out=task.spec.n_out, n_steps=task.spec.n_steps)
    assert spec == task.spec
    assert spec.n_train in (task.n_train, None) and (module is captions) == (spec.n_train is None)


@MODULES
def test_splits_have_the_fields_names_and_those_that_choose_are_never_those_that_learn(module):
    task = module.load(**SMALL[module])
    assert isinstance(task, tasks.Task)
    assert set(task.splits) <= {"train", "validation", "test", "probe"} and "train" in task.splits
    assert set(task.monitored) <= set(task.splits)
    assert task.validation_split in ("validation", None) or module is hierarchies
    if module not in (captions, patches):
        assert task.validation_split == "validation" and task.n_train == 45


@MODULES
def test_an_epoch_has_the_stated_number_of_batches_and_only_the_generator_decides_it(module):
    task, other = module.load(**SMALL[module]), module.load(**SMALL[module])
    before = torch.get_rng_state()
    epochs = [list(which.batches(BATCH, generator(3))) for which in (task, other)]
    assert [len(epoch) for epoch in epochs] == [task.n_batches(BATCH)] * 2
    assert all(flat(a) == flat(b) for a, b in zip(*epochs, strict=True))
    assert torch.equal(before, torch.get_rng_state())


@MODULES
@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(module, batch_size):
    task = module.load(**SMALL[module])
    with pytest.raises(BioplausError, match=f"batch_size is {batch_size}, but must be"):
        task.n_batches(batch_size)


@MODULES
def test_what_is_measured_is_named_after_its_split_and_measuring_draws_and_changes_nothing(module):
    task = module.load(**SMALL[module])
    rule, before = Answers(task.spec), torch.get_rng_state()
    found = task.evaluate(rule)
    assert found == task.evaluate(rule) and all(type(value) is float for value in found.values())
    assert torch.equal(before, torch.get_rng_state()) and torch.is_grad_enabled()
    if module in (features, patches):  # of units, not of a split
        assert set(found) == {"n_winners", "mean_top_current"}
        return
    assert {name.partition("_")[0] for name in found} == set(task.monitored)
    for split in task.splits:
        alone = task.evaluate(rule, split)
        assert alone and {name.partition("_")[0] for name in alone} <= {split, "validation"}
        for name in alone.keys() & found.keys():
            assert alone[name] == found[name]


@MODULES
def test_a_split_that_is_not_there_is_refused_with_those_that_are(module):
    task = module.load(**SMALL[module])
    with pytest.raises(BioplausError, match="unknown split 'trian'; did you mean 'train'"):
        task.evaluate(Answers(task.spec), "trian")


def test_tasks_whose_records_say_val_are_renamed_where_a_record_is_written_and_nowhere_else():
    short = {module for module in SMALL if module.load(**SMALL[module]).recorded_names}
    assert short == {linedraw, seqmnist, captions}
    history = train.History(epochs=[{"epoch": 0, "train_mse": 2.0, "validation_mse": 3.0}])
    assert set(history.record()["epochs"]) == {"epoch", "train_mse", "validation_mse"}
    recorded = history.record(linedraw.LineDrawing.recorded_names)["epochs"]
    assert {name: column.tolist() for name, column in recorded.items()} == {
        "epoch": [0],
        "train_mse": [2.0],
        "val_mse": [3.0],
    }


def test_only_the_name_of_a_split_is_replaced_and_never_a_part_of_another_word():
    metrics = {"val_accuracy": 1, "value": 2, "epoch": 3, "test_val_loss": 4, "val": 5}
    assert tasks.renamed(metrics, {"val": "validation"}) == {
        "validation_accuracy": 1,
        "value": 2,
        "epoch": 3,
        "test_val_loss": 4,
        "validation": 5,
    }


def test_a_batch_size_is_held_against_the_number_of_samples_before_they_are_read():
    spec = images.spec("digits", n_train=100, validation=0.2)
    spec.check_batch_size(80)
    with pytest.raises(BioplausError, match="size is 81, but must be from 1 to 80"):
        spec.check_batch_size(81, "size")
    captions.spec().check_batch_size(10**9)  # only reading tells
    spec.check_batch_size(79)
    spec.check_batch_size(78, least=2)
    with pytest.raises(BioplausError, match="batch_size is 79, which leaves a last batch of 1 "):
        spec.check_batch_size(79, least=2)
    with pytest.raises(BioplausError, match="batch_size is 1, but the rule normalises"):
        captions.spec().check_batch_size(1, least=2)


def test_every_preprocessing_works_for_every_kind_of_own_file(tmp_path):
    stream = np.random.default_rng(0)
    labels = np.arange(40) % 4
    for shape in ((40, 6, 5), (40, 6, 5, 3)):
        path = tmp_path / f"{len(shape)}.npz"
        np.savez(path, images=stream.integers(1, 256, shape, dtype=np.uint8), labels=labels)
        for name, way in images.PREPROCESSING.items():
            if way.n_channels in (None, shape[3] if len(shape) > 3 else 1):
                task = images.load(str(path), preprocessing=name, dtype=torch.float64)
                x, y = task.splits["train"]
                assert x.shape == (32, task.spec.n_in) and x.isfinite().all() and len(y) == 32
