"""The one epoch loop: progress, metrics, checkpoint, exact resume, and a clear stop when training
diverges.
"""

import copy
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bioplaus import device as _device
from bioplaus import rules
from bioplaus.checkpoints import Checkpoints
from bioplaus.errors import BioplausError, extra, unknown
from bioplaus.rules import LearningRule
from bioplaus.tasks import Task, renamed

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
        For counts below 1, a seed that is no whole number, a `keep_best` that no epoch measures, a
        `fit_batch` that gives no dict of 0-d tensors, or a folder that cannot be read or written.
    """
    check(
        n_epochs=n_epochs,
        batch_size=batch_size,
        evaluate_every=evaluate_every,
        diagnose_every=diagnose_every,
    )
    training = _Training(rule, task, batch_size, diagnose_every, keep_best, seed)
    keeper = None
    if folder:
        keeper = Checkpoints(Path(folder), _identity(rule, task, n_epochs, batch_size, seed))
        training.restore(keeper.load())
        keeper.write_progress(training.n_done, training.last)
    history = training.history
    epochs = _bar(range(training.n_done, n_epochs), n_epochs, progress)
    for epoch in () if history.divergence else epochs:
        is_last = epoch == n_epochs - 1
        is_evaluated = is_last or epoch % evaluate_every == evaluate_every - 1
        means = training.learn(epoch)
        training.evaluate(epoch, means if is_evaluated else None)
        if keeper:
            keeper.write_progress(training.n_done, training.last)
            is_end = is_last or history.divergence is not None
            keeper.save(training.state(), least_seconds=0 if is_end else CHECKPOINT_SECONDS)
        if history.divergence:
            break
        if is_evaluated:
            _show(epochs, history.epochs[-1])
            if on_epoch:
                on_epoch(epoch, history.epochs[-1])
    training.take_best()
    return history


class _Training:
    """A rule, a task, and what training has come to; `fit` says in which order what happens."""

    def __init__(
        self,
        rule: LearningRule,
        task: Task[Any, Any],
        batch_size: int,
        diagnose_every: int,
        keep_best: str | None,
        seed: int,
    ) -> None:
        self.rule, self.task, self.batch_size = rule, task, batch_size
        self.diagnose_every, self.keep_best = diagnose_every, keep_best
        self.shuffle = _device.generator(seed, "shuffle")
        self.history = History()
        self.best: dict[str, Any] | None = None  # value of `keep_best`, and the rule's state then
        device = next((p.device for p in rule.parameters()), torch.device("cpu"))
        self.meter = _device.Meter(device)

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

    def restore(self, saved: Mapping[str, Any] | None) -> None:
        """Go on from a checkpoint, if there is one."""
        if saved is None:
            return
        self.rule.load_state_dict(saved["rule"])
        self.shuffle.set_state(saved["shuffle"])
        self.history, self.best = History(**saved["history"]), saved.get("best")
        # earlier versions kept metrics under the names of the record
        names = {old: new for new, old in getattr(self.task, "recorded_names", {}).items()}
        self.history.epochs = [renamed(row, names) for row in self.history.epochs]

    def learn(self, epoch: int) -> dict[str, float]:
        """Learn every batch once; the means of what the steps measured. Numbers that are not finite
        are noted in the history.
        """
        self.meter.restart()
        self.rule.train()
        means = self._learn_batches(epoch)
        for name, seconds in zip(("train", "train_cpu"), self.meter.read(), strict=True):
            # checkpoints of earlier versions have no CPU time
            self.history.seconds.setdefault(name, []).append(seconds)
        return means

    def _learn_batches(self, epoch: int) -> dict[str, float]:
        rule, n_batches = self.rule, self.task.n_batches(self.batch_size)
        rule.begin_epoch(epoch, n_batches)
        sums: dict[str, torch.Tensor] = {}
        n_samples = 0
        for step, batch in enumerate(self.task.batches(self.batch_size, self.shuffle)):
            n = len(batch[0])
            n_samples += n
            measured = _checked(rule, rule.fit_batch(*batch, epoch=epoch, step=step))
            for name, value in measured.items():
                sums[name] = sums[name] + n * value.detach() if name in sums else n * value.detach()
            if step % self.diagnose_every == 0:
                if self._has_diverged(epoch, step):
                    return {}
                if diagnostics := rule.diagnostics():
                    batch_number = epoch * n_batches + step + 1
                    self.history.diagnostics.append({"batch": batch_number, **diagnostics})
        if self._has_diverged(epoch, n_batches - 1):
            return {}
        return {name: (value / n_samples).item() for name, value in sums.items()}

    def _has_diverged(self, epoch: int, batch: int) -> bool:
        """Whether a number of the rule is not finite, which the history then notes."""
        if tensor := _first_not_finite(self.rule):
            self.history.divergence = {"epoch": epoch, "batch": batch, "tensor": tensor}
        return tensor is not None

    def evaluate(self, epoch: int, means: Mapping[str, float] | None) -> None:
        """Measure the rule and note it with the `means` of the epoch; without any, or after a
        divergence, only the time is noted.
        """
        self.meter.restart()
        if means is not None and not self.history.divergence:
            self.rule.eval()
            metrics = {"epoch": epoch, **means, **self.task.evaluate(self.rule)}
            bad = [name for name, value in metrics.items() if not np.isfinite(value)]
            if bad:
                batch = self.task.n_batches(self.batch_size) - 1
                self.history.divergence = {"epoch": epoch, "batch": batch, "tensor": bad[0]}
            else:
                self.history.epochs.append(metrics)
                self._note_best(metrics)
        self.history.seconds["evaluate"].append(self.meter.read()[0])

    def _note_best(self, metrics: Mapping[str, float]) -> None:
        """Keep the rule's state, if `keep_best` is lower than ever before."""
        name = self.keep_best
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
