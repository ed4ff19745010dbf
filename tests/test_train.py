"""The epoch loop: order of events, exact resume, divergence, and that looking changes nothing."""

import contextlib
import dataclasses
import io
import time

import numpy as np
import pytest
import torch

from bioplaus import _files, _sources, device, train
from bioplaus.config import Config
from bioplaus.errors import BioplausError
from bioplaus.rules import LearningRule
from bioplaus.tasks import Spec


class Regression:
    """y = 2 x + 1 on eight points: a task whose every number can be checked by hand."""

    spec = Spec(name="line", kind="regression", n_in=1, n_out=1)
    fingerprint = "0" * 64

    def __init__(self):
        self.x = torch.linspace(-1, 1, 8).reshape(-1, 1)
        self.y = 2 * self.x + 1
        self.seen = []

    def n_batches(self, batch_size):
        return -(-len(self.x) // batch_size)

    def batches(self, batch_size, generator):
        order = torch.randperm(len(self.x), generator=generator)
        for rows in order.split(batch_size):
            self.seen.append(rows.tolist())
            yield self.x[rows], self.y[rows]

    def evaluate(self, rule):
        return {"test_error": float((rule.predict(self.x) - self.y).square().mean())}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineConfig(Config):
    lr: float = 0.1  # weight step


class Line(LearningRule):
    """Noisy stochastic gradient descent, so that its own random stream matters for resume."""

    def __init__(self, config, generator):
        super().__init__(config, generator)
        self.w = torch.nn.Parameter(torch.randn(2, generator=generator), requires_grad=False)

    def fit_batch(self, x, y, *, epoch, step):
        error = self.predict(x) - y
        noise = 1e-3 * torch.randn(2, generator=self.generator)
        self.w -= self.config.lr * (torch.stack(((error * x).mean(), error.mean())) + noise)
        return {"loss": error.square().mean()}

    def predict(self, x):
        return self.w[0] * x + self.w[1]

    def diagnostics(self):
        return {"slope": float(self.w[0])}


def _line(**values):
    return Line(LineConfig(**values), device.generator(0, "rule"))


def _fit(rule, task=None, **options):
    return train.fit(
        rule, task or Regression(), **{"n_epochs": 6, "batch_size": 3, "progress": False, **options}
    )


def test_every_sample_is_seen_once_an_epoch_in_an_order_that_only_the_seed_decides():
    orders = []
    for seed in (1, 1, 2):
        task = Regression()
        _fit(_line(), task, seed=seed, n_epochs=2)
        assert [sorted(sum(task.seen[i : i + 3], [])) for i in (0, 3)] == [list(range(8))] * 2
        orders.append(task.seen)
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_last_batch_smaller_than_the_rule_needs_is_refused_before_anything_is_learned(
    batch_size, tmp_path
):
    class Normalising(Line):
        @classmethod
        def least_batch(cls, config):
            return 2

    rule, task = Normalising(LineConfig(), device.generator(0, "rule")), Regression()
    task.n_train = 8
    with pytest.raises(BioplausError, match="every batch must have at least 2") as caught:
        _fit(rule, task, batch_size=batch_size, folder=tmp_path)
    assert not task.seen and not list(tmp_path.iterdir())
    assert ("a last batch of 1 (of 8 training inputs)" in str(caught.value)) == (batch_size == 7)
    _fit(rule, task, batch_size=3)


def test_recorded_loss_is_the_mean_over_samples_not_over_batches():
    # weights stay, so the epoch's loss is the mean squared error of all eight samples
    rule = _line(lr=0.0)
    history = _fit(rule, n_epochs=1)
    assert history.epochs[0]["loss"] == pytest.approx(history.epochs[0]["test_error"], rel=1e-6)


def test_diagnostics_are_logged_after_the_update_of_batches_0_n_2n_of_every_epoch():
    history = _fit(_line(), n_epochs=2, batch_size=1, diagnose_every=3)
    assert [row["batch"] for row in history.diagnostics] == [1, 4, 7, 9, 12, 15]


@pytest.mark.parametrize(
    "option",
    [{"evaluate_every": 3}, {"diagnose_every": 1}, {"on_epoch": lambda epoch, metrics: None}],
)
def test_looking_more_or_less_often_does_not_change_the_weights(option):
    plain, looked = _line(), _line()
    _fit(plain)
    _fit(looked, **option)
    assert torch.equal(plain.w, looked.w)


class Killed(Exception):
    pass


def _killed_after(epoch_to_die):
    def die(epoch, metrics):
        if epoch == epoch_to_die:
            raise Killed

    return die


@pytest.mark.parametrize("epoch_to_die", [0, 2, 4])
def test_a_killed_and_resumed_training_equals_an_undisturbed_one_bit_for_bit(
    tmp_path, monkeypatch, epoch_to_die
):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    undisturbed = _line()
    expected = _fit(undisturbed)
    with pytest.raises(Killed):
        _fit(_line(), folder=tmp_path, on_epoch=_killed_after(epoch_to_die))
    resumed, task = _line(), Regression()
    history = _fit(resumed, task, folder=tmp_path)
    assert len(task.seen) == 3 * (5 - epoch_to_die)  # only the rest was trained
    assert torch.equal(resumed.w, undisturbed.w)
    assert history.epochs == expected.epochs and history.diagnostics == expected.diagnostics


def _killed_and_damaged(folder, monkeypatch):
    """A training killed in epoch 3 whose newest checkpoint was damaged then; what it would have
    learned.
    """
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    expected = _line()
    _fit(expected)
    with pytest.raises(Killed):
        _fit(_line(), folder=folder, on_epoch=_killed_after(3))
    newest = folder / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    return expected


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it_and_the_result_is_the_same(
    tmp_path, monkeypatch, capsys
):
    expected = _killed_and_damaged(tmp_path, monkeypatch)
    resumed, task = _line(), Regression()
    _fit(resumed, task, folder=tmp_path)
    assert len(task.seen) == 3 * 3 and torch.equal(resumed.w, expected.w)
    assert "checkpoint.pt" in capsys.readouterr().out


def test_a_save_that_fails_after_a_damaged_checkpoint_leaves_the_good_one(tmp_path, monkeypatch):
    expected = _killed_and_damaged(tmp_path, monkeypatch)
    whole = _files.write_atomic

    def full_disk(path, content):
        if path.suffix == ".pt":
            raise BioplausError("No space left on device.")
        whole(path, content)

    with monkeypatch.context() as now:
        now.setattr(_files, "write_atomic", full_disk)
        with pytest.raises(BioplausError, match="No space"):
            _fit(_line(), folder=tmp_path)
    resumed, task = _line(), Regression()
    _fit(resumed, task, folder=tmp_path)
    assert len(task.seen) == 3 * 3 and torch.equal(resumed.w, expected.w)


def _sealed(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return _files.seal(buffer.getvalue())


@pytest.mark.parametrize(
    "content",
    [
        _files.seal(b""),
        _files.seal(b"no zip"),
        _sealed([1]),
        _sealed({"rule": {}}),
        _sealed({"identity": 3}),
    ],
    ids=["empty", "text", "list", "no identity", "foreign identity"],
)
def test_a_whole_file_that_is_no_checkpoint_is_passed_over(tmp_path, capsys, content):
    expected = _line()
    _fit(expected)
    (tmp_path / "checkpoint.pt").write_bytes(content)
    trained = _line()
    _fit(trained, folder=tmp_path)
    assert torch.equal(trained.w, expected.w) and "checkpoint.pt" in capsys.readouterr().out


def test_a_checkpoint_made_with_other_code_of_the_rule_is_not_resumed_and_the_log_says_why(
    tmp_path, monkeypatch, capsys
):
    _fit(_line(), folder=tmp_path)
    assert _files.read_json(tmp_path / "progress.json")["passed_over"] == ""
    monkeypatch.setattr(_sources, "code", lambda source: "0" * 64)
    task, passed_over = Regression(), []

    def look(epoch, metrics):
        passed_over.append(_files.read_json(tmp_path / "progress.json")["passed_over"])

    _fit(_line(), task, folder=tmp_path, on_epoch=look)
    sentence = "checkpoint was made with other code of rule test_train"
    assert len(task.seen) == 6 * 3 and sentence.split("checkpoint ")[1] in capsys.readouterr().out
    assert passed_over == [f"its {sentence}"] * 6
    _fit(_line(), folder=tmp_path)  # which goes on from the new one
    assert _files.read_json(tmp_path / "progress.json")["passed_over"] == ""


@contextlib.contextmanager
def _changed(path):
    """A checkpoint's content, written back as it is left."""
    saved = torch.load(io.BytesIO(_files.unseal(path.read_bytes(), path)), weights_only=True)
    yield saved
    path.write_bytes(_sealed(saved))


def test_a_checkpoint_made_on_another_device_is_not_resumed_and_the_log_says_why(tmp_path, capsys):
    _fit(_line(), folder=tmp_path)
    with _changed(tmp_path / "checkpoint.pt") as saved:
        assert saved["identity"]["device"] == "cpu"
        saved["identity"]["device"] = "cuda"
    (tmp_path / "checkpoint.previous.pt").unlink(missing_ok=True)
    task = Regression()
    _fit(_line(), task, folder=tmp_path)
    assert len(task.seen) == 6 * 3 and "(device differ)" in capsys.readouterr().out


def test_a_checkpoint_from_before_code_and_device_were_noted_is_resumed(tmp_path, capsys):
    _fit(_line(), folder=tmp_path)
    with _changed(tmp_path / "checkpoint.pt") as saved:
        del saved["identity"]["code"], saved["identity"]["device"]
    task = Regression()
    _fit(_line(), task, folder=tmp_path)
    assert task.seen == [] and "code" not in capsys.readouterr().out


def test_a_checkpoint_from_before_validation_was_spelled_out_goes_on_under_one_name(
    tmp_path, monkeypatch
):
    class Validated(Regression):
        recorded_names = {"validation": "val"}

        def evaluate(self, rule):
            return {"validation_error": super().evaluate(rule)["test_error"]}

    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    expected = _fit(_line(), Validated())
    with pytest.raises(Killed):
        _fit(_line(), Validated(), folder=tmp_path, on_epoch=_killed_after(2))
    with _changed(tmp_path / "checkpoint.pt") as saved:
        for row in saved["history"]["epochs"]:
            row["val_error"] = row.pop("validation_error")
    resumed = _fit(_line(), Validated(), folder=tmp_path)
    assert resumed.epochs == expected.epochs and len(resumed.epochs) == 6


@pytest.mark.parametrize("change", [{"seed": 5}, {"n_epochs": 7}, {"batch_size": 4}])
def test_a_checkpoint_of_another_training_is_not_resumed(tmp_path, change):
    _fit(_line(), folder=tmp_path)
    task = Regression()
    _fit(_line(), task, folder=tmp_path, **change)
    options = {"n_epochs": 6, "batch_size": 3, **change}
    assert len(task.seen) == options["n_epochs"] * task.n_batches(options["batch_size"])


def test_a_finished_training_is_not_done_again(tmp_path):
    first = _fit(_line(), folder=tmp_path)
    task = Regression()
    assert _fit(_line(), task, folder=tmp_path).epochs == first.epochs and task.seen == []


def test_divergence_stops_training_and_names_epoch_batch_and_tensor(tmp_path):
    history = _fit(_line(lr=1e30), folder=tmp_path, n_epochs=50)
    assert (
        history.status == "diverged"
        and history.divergence["tensor"] == "w"
        and history.divergence["epoch"] == 0
    )
    record = history.record()
    assert record["status"] == "diverged" and all(
        np.isfinite(column).all() for column in record["epochs"].values()
    )
    # and stays so when resumed
    assert _fit(_line(lr=1e30), folder=tmp_path, n_epochs=50).divergence == history.divergence


def test_a_nan_in_the_data_is_divergence_not_an_accuracy():
    task = Regression()
    task.x[3] = torch.nan
    history = _fit(_line(), task)
    assert history.status == "diverged" and history.epochs == []


@pytest.mark.parametrize("name", ["n_epochs", "batch_size", "evaluate_every", "diagnose_every"])
def test_a_count_below_one_is_refused_by_name(name):
    with pytest.raises(BioplausError, match=name):
        _fit(_line(), **{name: 0})


def test_progress_can_be_read_while_training(tmp_path):
    seen = []
    _fit(
        _line(),
        folder=tmp_path,
        on_epoch=lambda epoch, metrics: seen.append(_files.read_json(tmp_path / "progress.json")),
    )
    assert [progress["epochs_done"] for progress in seen] == [1, 2, 3, 4, 5, 6] and seen[0][
        "n_epochs"
    ] == 6


def test_bar_is_drawn_only_when_asked(capsys):
    _fit(_line(), progress=False)
    assert capsys.readouterr().err == ""
    _fit(_line(), progress=True)
    assert "epoch" in capsys.readouterr().err


def test_epoch_chosen_by_a_metric_is_the_first_of_its_largest_values():
    history = train.History()
    assert history.first_best("validation_accuracy") is None
    for epoch, (chosen_by, test) in enumerate([(0.4, 0.9), (0.7, 0.5), (0.7, 0.8), (0.6, 1.0)]):
        history.epochs.append(
            {"epoch": epoch, "validation_accuracy": chosen_by, "test_accuracy": test}
        )
    assert history.first_best("validation_accuracy") == {
        "metric": "validation_accuracy",
        "epoch": 1,
        "value": 0.7,
    }


def test_operations_of_an_epoch_are_those_of_every_batch_that_it_learns():
    learned = []

    class Counting(Line):
        def fit_batch(self, x, y, *, epoch, step):
            learned.append(len(x))
            return super().fit_batch(x, y, epoch=epoch, step=step)

        def useful_flops(self, batch_size):
            return 7 + batch_size**2  # not linear: a short last batch counts as what it is

    for batch_size in (1, 3, 8, 20):
        learned.clear()
        rule = Counting(LineConfig(), device.generator(0, "rule"))
        _fit(rule, n_epochs=1, batch_size=batch_size)
        expected = sum(rule.useful_flops(n) for n in learned)
        assert train.useful_flops(rule, 8, batch_size) == expected


def test_wall_and_cpu_time_are_kept_for_every_epoch_also_where_an_older_checkpoint_has_no_cpu_time(
    tmp_path,
):
    class Waiting(Regression):
        def n_batches(self, batch_size):
            time.sleep(0.05)  # waiting takes wall time, no CPU time
            return super().n_batches(batch_size)

    history = _fit(_line(), Waiting(), n_epochs=2)
    assert [len(history.seconds[name]) for name in ("train", "train_cpu", "evaluate")] == [2, 2, 2]
    assert all(
        wall > cpu + 0.04
        for wall, cpu in zip(history.seconds["train"], history.seconds["train_cpu"], strict=True)
    )
    saved = train.History(seconds={"train": [1.0], "evaluate": [1.0]})
    rule = _line()
    keeper = train.Checkpoints(tmp_path, train._identity(rule, Regression(), 2, 3, 0))
    shuffle = device.generator(0, "shuffle").get_state()
    state = {"rule": rule.state_dict(), "shuffle": shuffle, "history": vars(saved), "best": None}
    keeper.save(state)
    resumed = _fit(_line(), n_epochs=2, folder=tmp_path)
    assert len(resumed.seconds["train"]) == 2 and len(resumed.seconds["train_cpu"]) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "NoneType"),
        (torch.zeros(()), "Tensor"),
        ({"loss": 0.5}, "'loss': float"),
        ({"loss": torch.zeros(2, 3)}, "'loss': a tensor of shape (2, 3)"),
    ],
)
def test_a_step_that_gives_no_dict_of_0_d_tensors_is_one_sentence_naming_the_rule(given, told):
    class Careless(Line):
        def fit_batch(self, x, y, *, epoch, step):
            return given

    with pytest.raises(BioplausError) as caught:
        _fit(Careless(LineConfig(), device.generator(0, "rule")))
    assert (
        str(caught.value)
        == f"fit_batch of rule test_train must return a dict of 0-d tensors, not {told}."
    )
