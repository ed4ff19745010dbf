"""The one epoch loop, for one learner or several: progress, metrics, checkpoint, exact resume, and
a clear stop when training diverges.
"""

import copy
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bioplaus import capture, rules
from bioplaus import device as _device
from bioplaus.capture import Learned
from bioplaus.checkpoints import Checkpoints
from bioplaus.errors import BioplausError, extra, unknown
from bioplaus.rules import LearningRule
from bioplaus.tasks import Task, check_last_batch, renamed

__all__ = [
    "CHECKPOINT_SECONDS",
    "History",
    "check",
    "fit",
    "useful_flops",
]

# least wall time between two checkpoints; the last epoch is always saved
CHECKPOINT_SECONDS = 20.0


@dataclass(repr=False)
class History:
    """What training measured, one row an epoch, and the diagnostics logged inside epochs.

    Attributes
    ----------
    epochs : one dict per finished epoch, 0-based key "epoch" and metrics by name.
    diagnostics : one dict per log entry: "batch" (batches learned so far) and the rule's
        `diagnostics()`.
    divergence : None, or where numbers stopped being finite: epoch, batch (both 0-based) and tensor
        name.
    seconds : wall seconds per epoch, {"train": [...], "evaluate": [...]}, and "train_cpu": CPU
        seconds of this process while it trained, less than wall time where others use the core too;
        never part of a result's bytes.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    diagnostics: list[dict[str, float]] = field(default_factory=list)
    divergence: dict[str, Any] | None = None
    seconds: dict[str, list[float]] = field(
        default_factory=lambda: {"train": [], "evaluate": [], "train_cpu": []}
    )

    @property
    def status(self) -> str:
        """ "done", or "diverged"."""
        return "diverged" if self.divergence else "done"

    def __str__(self) -> str:
        last = (
            ", ".join(f"{k} {v:.4f}" for k, v in self.epochs[-1].items() if k != "epoch")
            if self.epochs
            else "none"
        )
        end = (
            f"diverged at {self.divergence}"
            if self.divergence
            else f"{len(self.seconds['train'])} epochs"
        )
        return f"{end}; last evaluation: {last}"

    def __repr__(self) -> str:
        return f"<History: {self}>"

    def first_best(self, metric: str) -> dict[str, Any] | None:
        """The first epoch (0-based) with the largest value of `metric`, and that value, for a
        record.

        None where no epoch was measured.
        """
        if not self.epochs:
            return None
        row = max(self.epochs, key=lambda epoch: epoch[metric])
        return {"metric": metric, "epoch": row["epoch"], "value": row[metric]}

    def record(self, names: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The history as builtins and numpy columns, without times: part of a result.

        Parameters
        ----------
        names : how the record calls a split, where not by its name (`Task.recorded_names`).
        """
        return {
            "status": self.status,
            "divergence": self.divergence,
            "epochs": renamed(_columns(self.epochs), names or {}),
            "diagnostics": _columns(self.diagnostics),
        }


def check(**counts: int) -> None:
    """Raise `BioplausError` unless every count (n_epochs, batch_size, ...) is a whole number, at
    least 1.
    """
    for name, value in counts.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise BioplausError(f"{name} is {value!r}, but must be a whole number.")
        if value < 1:
            raise BioplausError(f"{name} is {value!r}, but must be at least 1.")


def useful_flops(rule: LearningRule, n_samples: int, batch_size: int) -> int:
    """Operations that the training steps of one epoch need (`LearningRule.useful_flops`),
    evaluation left out.
    """
    n_full, rest = divmod(n_samples, batch_size)
    return n_full * rule.useful_flops(batch_size) + (rule.useful_flops(rest) if rest else 0)


@_device.subnormals_flushed()
def fit(
    rule: LearningRule,
    task: Task[Any, Any],
    *,
    n_epochs: int,
    batch_size: int,
    seed: int = 0,
    evaluate_every: int = 1,
    diagnose_every: int = 500,
    keep_best: str | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> History:
    """Train `rule` on `task`, any object with what `Task` promises, evaluating after every epoch.

    Order within an epoch: `rule.begin_epoch`; every batch of the task in an order drawn from the
    stream (seed, "shuffle"); after the update of batches 0, diagnose_every, 2 diagnose_every, ...:
    the rule's diagnostics, and a look for numbers that are not finite; then the evaluation, which
    draws nothing; then a checkpoint. The same arguments give the same bits on the same machine,
    whether undisturbed or killed and resumed. While it trains, subnormal numbers (below 1e-38 in
    float32) are taken as zero.

    Parameters
    ----------
    n_epochs, batch_size : at least 1.
    seed : of the order of batches; the rule has its own stream.
    evaluate_every : evaluate after every so many epochs, and after the last.
    diagnose_every : batches between two log entries; the counter restarts in every epoch.
    keep_best : metric; the rule ends with the state after the evaluated epoch in which it was
        lowest, not the last.
    folder : where `checkpoint.pt` (with `checkpoint.previous.pt`) and `progress.json` are kept;
        None keeps nothing. A checkpoint found there is resumed, if it belongs to the same training,
        made with the same code of the rule (`rules.code`); a damaged one is passed over for the one
        before it. Why none is resumed is printed, and kept in `progress.json`.
    progress : show a bar (needs tqdm).
    on_epoch : called as on_epoch(epoch, metrics) after each epoch, for live plots; it must not draw
        from the rule.

    Returns
    -------
    The history. When a number is not finite, training stops there and `history.status` is
    "diverged".

    Raises
    ------
    BioplausError
        For counts below 1, a last batch of fewer samples than the rule needs, a seed that is no
        whole number, a `keep_best` that no epoch measures, a `fit_batch` that gives no dict of 0-d
        tensors, or a folder that cannot be read or written.
    """
    training = _Training(rule, task, seed, folder)
    loop = _Loop(n_epochs, batch_size, evaluate_every, diagnose_every, keep_best)
    loop.run([training], progress=progress, on_epoch=on_epoch)
    return training.history


@_device.subnormals_flushed()
def fit_many(
    learners: Sequence[LearningRule],
    tasks: Task[Any, Any] | Sequence[Task[Any, Any]],
    *,
    seeds: Sequence[int],
    folders: Sequence[str | Path] | None = None,
    n_epochs: int,
    batch_size: int,
    evaluate_every: int = 1,
    diagnose_every: int = 500,
    keep_best: str | None = None,
    progress: bool = True,
) -> list[History]:
    """Train several learners, each as `fit` would: one network for each of several seeds, say.

    On a CPU they learn one after another. On a GPU they learn side by side, batch for batch, each
    as a branch of one CUDA graph (`bioplaus.capture`), with the same bits as alone; one that is
    ahead, as it was resumed from a later epoch, waits for the others, and one that diverges leaves
    them.

    Parameters
    ----------
    tasks : one for all, or one each.
    seeds, folders : one each; without folders nothing is kept.
    n_epochs, batch_size, evaluate_every, diagnose_every, keep_best, progress : as in `fit`.

    Returns
    -------
    The histories, in the order of the learners.

    Raises
    ------
    BioplausError
        As `fit`, and where there are not as many seeds, folders or tasks as learners.
    """
    if isinstance(tasks, Sequence):
        each = list(tasks)
    else:
        each = [tasks] * len(learners)
    places = list(folders) if folders else [None] * len(learners)
    for name, values in (("tasks", each), ("seeds", seeds), ("folders", places)):
        if len(values) != len(learners):
            raise BioplausError(f"There are {len(values)} {name} for {len(learners)} learners.")
    loop = _Loop(n_epochs, batch_size, evaluate_every, diagnose_every, keep_best)
    trainings = [_Training(*parts) for parts in zip(learners, each, seeds, places, strict=True)]
    if all(training.device.type == "cuda" for training in trainings):
        loop.run(trainings, progress=progress)
    else:
        for training in trainings:
            loop.run([training], progress=progress)
    return [training.history for training in trainings]


class _Loop:
    """What all learners of a training share, and the order of what happens in it."""

    def __init__(
        self,
        n_epochs: int,
        batch_size: int,
        evaluate_every: int,
        diagnose_every: int,
        keep_best: str | None,
    ) -> None:
        check(
            n_epochs=n_epochs,
            batch_size=batch_size,
            evaluate_every=evaluate_every,
            diagnose_every=diagnose_every,
        )
        self.n_epochs, self.batch_size = n_epochs, batch_size
        self.evaluate_every, self.diagnose_every = evaluate_every, diagnose_every
        self.keep_best = keep_best

    def run(
        self,
        trainings: Sequence["_Training"],
        *,
        progress: bool,
        on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        """Train to the end, side by side; the rules end in their best state, if one is kept."""
        for training in trainings:
            training.open(self)
        together = _Together(trainings)
        learning = [training for training in trainings if not training.history.divergence]
        first = min((training.n_done for training in learning), default=self.n_epochs)
        epochs = _bar(range(first, self.n_epochs), self.n_epochs, progress)
        for epoch in epochs:
            is_last = epoch == self.n_epochs - 1
            is_evaluated = is_last or epoch % self.evaluate_every == self.evaluate_every - 1
            now = [training for training in learning if training.n_done == epoch]
            means = together.learn(now, epoch, self)
            for training, measured in zip(now, means, strict=True):
                training.close(epoch, measured if is_evaluated else None, self)
            learning = [training for training in learning if not training.history.divergence]
            if not learning:
                break
            measured = [training for training in now if not training.history.divergence]
            if is_evaluated and measured:
                _show(epochs, measured[0].history.epochs[-1])
                if on_epoch:
                    on_epoch(epoch, measured[0].history.epochs[-1])
        for training in trainings:
            training.take_best()


class _Together:
    """Learners of one epoch: as branches of one graph where that can be, else one after another."""

    def __init__(self, trainings: Sequence["_Training"]) -> None:
        devices = {training.device for training in trainings}
        device = devices.pop()
        self._batches = (
            capture.Batches(device)
            if not devices and device.type == "cuda" and capture.is_on()
            else None
        )
        self._said: set[str] = set()

    def learn(
        self, trainings: Sequence["_Training"], epoch: int, loop: _Loop
    ) -> list[dict[str, float]]:
        """Every learner learns its batches once; the means of what the steps measured."""
        if self._batches is None or not trainings or self._reason(trainings):
            return [training.learn(epoch, loop) for training in trainings]
        self._batches.keep(trainings)
        meter = _device.Meter(trainings[0].device)
        n, *others = [training.begin(epoch, loop) for training in trainings]
        if any(other != n for other in others):
            raise BioplausError(
                f"Learners side by side need as many batches each, but theirs are {[n, *others]}."
            )
        every, learning = loop.diagnose_every, list(trainings)
        draws = [training.draws(loop) for training in trainings]
        for step, windows in capture.windows(draws, n, lambda step: step % every == 0):
            of_each = dict(zip(map(id, trainings), windows, strict=True))
            of_learning = [of_each[id(training)] for training in learning]
            self._batches.learn(learning, of_learning, epoch=epoch, step=step)
            last = step + len(windows[0]) - 1
            if last % every == 0:
                learning = [training for training in learning if training.diagnose(epoch, last, n)]
                if not learning:
                    break
        means = [training.end(epoch, n) for training in trainings]
        wall, cpu = meter.read()
        for training in trainings:  # its share of the time of all
            training.note_time(wall / len(trainings), cpu / len(trainings))
        self._say(trainings, self._batches.refusal)
        return means

    def _reason(self, trainings: Sequence["_Training"]) -> str:
        """Why these cannot be captured; said once."""
        reason = next(filter(None, (t.rule.why_not_captured() for t in trainings)), "")
        self._say(trainings, reason)
        return reason

    def _say(self, trainings: Sequence["_Training"], reason: str) -> None:
        if reason and reason not in self._said:
            self._said.add(reason)
            key = trainings[0].rule.key()
            print(f"{key} learns batch by batch, not as a CUDA graph: {reason.rstrip('.')}.")


class _Training:
    """One learner, its task, and what training has come to; `_Loop` says in which order what
    happens.
    """

    def __init__(
        self, rule: LearningRule, task: Task[Any, Any], seed: int, folder: str | Path | None
    ) -> None:
        self.rule, self.task, self.seed = rule, task, seed
        self.folder = Path(folder) if folder else None
        self.shuffle = _device.generator(seed, "shuffle")
        self.history = History()
        self.best: dict[str, Any] | None = None  # value of `keep_best`, and the rule's state then
        self.device = next((p.device for p in rule.parameters()), torch.device("cpu"))
        # a task of a notebook's own may have no more than batches
        self._batch_of = getattr(task, "batch_of", _itself)
        self._draws = getattr(task, "draws", task.batches)
        self._keeper: Checkpoints | None = None
        self._sums: dict[str, torch.Tensor] = {}  # of what was measured, where they stay
        self._names: set[str] = set()  # of what was measured in this epoch
        self._drawn: tuple[str, ...] = ()  # names of what the rule draws for a batch
        self._n_samples = 0  # learned in this epoch

    @property
    def n_done(self) -> int:
        """Number of epochs that were learned."""
        return len(self.history.seconds["train"])

    @property
    def last(self) -> dict[str, float] | None:
        """What the last evaluation measured."""
        return self.history.epochs[-1] if self.history.epochs else None

    def state(self) -> dict[str, Any]:
        """All that a checkpoint keeps."""
        return {
            "rule": self.rule.state_dict(),
            "shuffle": self.shuffle.get_state(),
            "history": vars(self.history),
            "best": self.best,
        }

    def open(self, loop: _Loop) -> None:
        """Check the size of batches, and go on from a checkpoint, if there is one."""
        check_last_batch(self.task, loop.batch_size, self.rule.least_batch(self.rule.config))
        if self.folder is None:
            return
        identity = _identity(self.rule, self.task, loop.n_epochs, loop.batch_size, self.seed)
        self._keeper = Checkpoints(self.folder, identity)
        self._restore(self._keeper.load())
        self._keeper.write_progress(self.n_done, self.last)

    def _restore(self, saved: Mapping[str, Any] | None) -> None:
        if saved is None:
            return
        self.rule.load_state_dict(saved["rule"])
        self.shuffle.set_state(saved["shuffle"])
        self.history, self.best = History(**saved["history"]), saved.get("best")
        # earlier versions kept metrics under the names of the record
        names = {old: new for new, old in getattr(self.task, "recorded_names", {}).items()}
        self.history.epochs = [renamed(row, names) for row in self.history.epochs]

    def close(self, epoch: int, means: Mapping[str, float] | None, loop: _Loop) -> None:
        """Evaluate, and keep a checkpoint."""
        self.evaluate(epoch, means, loop)
        if self._keeper:
            self._keeper.write_progress(self.n_done, self.last)
            is_end = epoch == loop.n_epochs - 1 or self.history.divergence is not None
            self._keeper.save(self.state(), least_seconds=0 if is_end else CHECKPOINT_SECONDS)

    def learn(self, epoch: int, loop: _Loop) -> dict[str, float]:
        """Learn every batch once; the means of what the steps measured. Numbers that are not finite
        are noted in the history.
        """
        meter = _device.Meter(self.device)
        n_batches = self.begin(epoch, loop)
        for step, draw in enumerate(self.draws(loop)):
            self.count(self.learn_batch(draw, epoch=epoch, step=step))
            if step % loop.diagnose_every == 0 and not self.diagnose(epoch, step, n_batches):
                break
        means = self.end(epoch, n_batches)
        self.note_time(*meter.read())
        return means

    def begin(self, epoch: int, loop: _Loop) -> int:
        """Begin an epoch; its number of batches."""
        self.rule.train()
        n_batches = self.task.n_batches(loop.batch_size)
        self.rule.begin_epoch(epoch, n_batches)
        self._n_samples, self._names = 0, set()
        for total in self._sums.values():
            total.zero_()
        return n_batches

    def draws(self, loop: _Loop) -> Iterator[tuple[torch.Tensor, ...]]:
        """What decides each batch of an epoch: the task's draw, then the rule's."""
        for draw in self._draws(loop.batch_size, self.shuffle):
            drawn = self.rule.draw(len(draw[0]))
            self._drawn = tuple(drawn)
            yield *draw, *drawn.values()

    def learn_batch(self, draw: tuple[torch.Tensor, ...], *, epoch: Any, step: Any) -> Learned:
        """Learn one batch, and add what was measured to the sums of the epoch, in place."""
        n_own = len(draw) - len(self._drawn)
        batch, drawn = (
            self._batch_of(*draw[:n_own]),
            dict(zip(self._drawn, draw[n_own:], strict=True)),
        )
        n, rule = len(batch[0]), self.rule
        measured = _checked(rule, rule.fit_batch(*batch, epoch=epoch, step=step, **drawn))
        for name, value in measured.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(value.detach())
            self._sums[name].add_(n * value.detach())
        return Learned(n, tuple(measured))

    def count(self, learned: Learned, n_batches: int = 1) -> None:
        """Note that so many such batches were learned."""
        self._n_samples += n_batches * learned.n_samples
        self._names.update(learned.names)

    def diagnose(self, epoch: int, step: int, n_batches: int) -> bool:
        """Log what the rule says of itself after a batch; False where its numbers are not
        finite.
        """
        if self._has_diverged(epoch, step):
            return False
        if diagnostics := self.rule.diagnostics():
            batch_number = epoch * n_batches + step + 1
            self.history.diagnostics.append({"batch": batch_number, **diagnostics})
        return True

    def end(self, epoch: int, n_batches: int) -> dict[str, float]:
        """End an epoch: look for numbers that are not finite; the means of what was measured."""
        if self.history.divergence or self._has_diverged(epoch, n_batches - 1):
            return {}
        return {
            name: (total / self._n_samples).item()
            for name, total in self._sums.items()
            if name in self._names
        }

    def note_time(self, wall: float, cpu: float) -> None:
        """Note the seconds that learning an epoch took."""
        # checkpoints of earlier versions have no CPU time
        for name, seconds in (("train", wall), ("train_cpu", cpu)):
            self.history.seconds.setdefault(name, []).append(seconds)

    def _has_diverged(self, epoch: int, batch: int) -> bool:
        """Whether a number of the rule is not finite, which the history then notes."""
        if tensor := _first_not_finite(self.rule):
            self.history.divergence = {"epoch": epoch, "batch": batch, "tensor": tensor}
        return tensor is not None

    def evaluate(self, epoch: int, means: Mapping[str, float] | None, loop: _Loop) -> None:
        """Measure the rule and note it with the `means` of the epoch; without any, or after a
        divergence, only the time is noted.
        """
        meter = _device.Meter(self.device)
        if means is not None and not self.history.divergence:
            self.rule.eval()
            metrics = {"epoch": epoch, **means, **self.task.evaluate(self.rule)}
            bad = [name for name, value in metrics.items() if not np.isfinite(value)]
            if bad:
                batch = self.task.n_batches(loop.batch_size) - 1
                self.history.divergence = {"epoch": epoch, "batch": batch, "tensor": bad[0]}
            else:
                self.history.epochs.append(metrics)
                self._note_best(metrics, loop.keep_best)
        self.history.seconds["evaluate"].append(meter.read()[0])

    def _note_best(self, metrics: Mapping[str, float], name: str | None) -> None:
        """Keep the rule's state, if the metric `name` is lower than ever before."""
        if name is None:
            return
        if name not in metrics:
            known = [metric for metric in metrics if metric != "epoch"]
            raise unknown("metric to keep the best of", name, known)
        if self.best is None or metrics[name] < self.best["value"]:
            state = copy.deepcopy(self.rule.state_dict())
            self.best = {"value": metrics[name], "rule": state}

    def take_best(self) -> None:
        """Give the rule the state of its best epoch, if one was kept."""
        if self.best:
            self.rule.load_state_dict(self.best["rule"])


def _checked(rule: LearningRule, measured: Any) -> dict[str, torch.Tensor]:
    """What `fit_batch` gave, if it is what the contract asks for."""
    wrong = None if isinstance(measured, dict) else type(measured).__name__
    for name, value in measured.items() if wrong is None else ():
        if not isinstance(value, torch.Tensor):
            wrong = f"{name!r}: {type(value).__name__}"
        elif value.ndim:
            wrong = f"{name!r}: a tensor of shape {(*value.shape,)}"
    if wrong:
        raise BioplausError(
            f"fit_batch of rule {rule.key()} must return a dict of 0-d tensors, not {wrong}."
        )
    return measured


def _first_not_finite(rule: LearningRule) -> str | None:
    """Name of the first parameter or buffer with a NaN or infinity, if any; a sum shows both and
    costs one pass.
    """
    for name, value in (*rule.named_parameters(), *rule.named_buffers()):
        if (
            value.is_floating_point()
            and not torch.isfinite(value.detach().sum())
            and not torch.isfinite(value).all()
        ):
            return name
    return None


def _identity(
    rule: LearningRule, task: Task[Any, Any], n_epochs: int, batch_size: int, seed: int
) -> dict[str, Any]:
    """What must be equal for a checkpoint to belong to this training."""
    state = {
        name: [*value.shape]
        for name, value in rule.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    first = next(rule.parameters(), torch.zeros(()))
    return {
        "state": state,  # also told apart by it: checkpoints of another version of the rule
        "rule": type(rule).__module__,
        "code": rules.code(type(rule)),
        "config": rule.config.to_dict(),
        "data": task.fingerprint,
        "task": task.spec.name,
        "n_epochs": n_epochs,
        "batch_size": batch_size,
        "seed": seed,
        "dtype": str(first.dtype),
        "device": first.device.type,  # the state of its random stream is of no use on another
    }


def _itself(*draw: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A draw that is the batch."""
    return draw


def _columns(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """Rows of numbers as numpy columns: int64 if all values are integers, else float64 (NaN where a
    row has none).
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: np.asarray([row.get(name, np.nan) for row in rows]) for name in names}


def _show(bar: Any, metrics: dict[str, float]) -> None:
    """Write an epoch's metrics behind a bar, where there is one."""
    if hasattr(bar, "set_postfix"):
        bar.set_postfix({k: f"{v:.4f}" for k, v in metrics.items() if k != "epoch"}, refresh=False)


def _bar(epochs: range, n_epochs: int, progress: bool) -> Any:
    if not progress:
        return epochs
    with extra():
        from tqdm.auto import tqdm
    return tqdm(epochs, initial=epochs.start, total=n_epochs, unit="epoch", mininterval=5)


def __dir__() -> list[str]:
    return sorted(__all__)
