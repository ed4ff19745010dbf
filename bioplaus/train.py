"""The one epoch loop: progress, metrics, checkpoint, exact resume, and a clear stop when training
diverges.
"""

import copy
import io
import numbers
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bioplaus import _files, rules
from bioplaus import device as _device
from bioplaus.config import check_seed
from bioplaus.errors import BioplausError, extra, unknown
from bioplaus.rules import LearningRule
from bioplaus.tasks import Task

CHECKPOINT_SECONDS = 20.0  # least wall time between two checkpoints; the last epoch is always saved


@dataclass
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

    def first_best(self, metric: str) -> dict[str, Any] | None:
        """The first epoch (0-based) with the largest value of `metric`, and that value, for a
        record.

        None where no epoch was measured.
        """
        if not self.epochs:
            return None
        row = max(self.epochs, key=lambda epoch: epoch[metric])
        return {"metric": metric, "epoch": row["epoch"], "value": row[metric]}

    def record(self) -> dict[str, Any]:
        """The history as builtins and numpy columns, without times: part of a result."""
        return {
            "status": self.status,
            "divergence": self.divergence,
            "epochs": _columns(self.epochs),
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
    task: Task,
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
    """Train `rule` on `task`, evaluating after every epoch.

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
    check_seed(seed)
    keeper = (
        _Checkpoints(Path(folder), _identity(rule, task, n_epochs, batch_size, seed))
        if folder
        else None
    )
    shuffle = _device.generator(seed, "shuffle")
    history, best = History(), None
    if keeper and (saved := keeper.load()):
        rule.load_state_dict(saved["rule"])
        shuffle.set_state(saved["shuffle"])
        history, best = History(**saved["history"]), saved.get("best")
    if keeper:
        keeper.tell(history)
    place = next((p.device for p in rule.parameters()), torch.device("cpu"))
    meter = _device.Meter(place)
    epochs = _bar(range(len(history.seconds["train"]), n_epochs), n_epochs, progress)
    for epoch in () if history.divergence else epochs:
        meter.restart()
        rule.train()
        means, history.divergence = _one_epoch(
            rule, task, epoch, batch_size, shuffle, diagnose_every, history
        )
        for name, seconds in zip(("train", "train_cpu"), meter.read(), strict=True):
            # checkpoints of earlier versions have no CPU time
            history.seconds.setdefault(name, []).append(seconds)
        meter.restart()
        if not history.divergence and (
            epoch % evaluate_every == evaluate_every - 1 or epoch == n_epochs - 1
        ):
            rule.eval()
            metrics = {"epoch": epoch, **means, **task.evaluate(rule)}
            if bad := next(
                (name for name, value in metrics.items() if not np.isfinite(value)), None
            ):
                history.divergence = {
                    "epoch": epoch,
                    "batch": task.n_batches(batch_size) - 1,
                    "tensor": bad,
                }
            else:
                history.epochs.append(metrics)
                best = _best(best, metrics, keep_best, rule)
        history.seconds["evaluate"].append(meter.read()[0])
        is_last = epoch == n_epochs - 1 or history.divergence is not None
        if keeper:
            keeper.save(rule, shuffle, history, best, force=is_last)
        if history.divergence:
            break
        if history.epochs and history.epochs[-1]["epoch"] == epoch:
            _show(epochs, history.epochs[-1])
            if on_epoch:
                on_epoch(epoch, history.epochs[-1])
    if best:
        rule.load_state_dict(best["rule"])
    return history


def _best(
    best: dict[str, Any] | None, metrics: dict[str, float], name: str | None, rule: LearningRule
) -> dict[str, Any] | None:
    """The better of the best state so far and the rule's state now; None where no metric
    decides.
    """
    if name is None:
        return None
    if name not in metrics:
        raise unknown(
            "metric to keep the best of", name, [metric for metric in metrics if metric != "epoch"]
        )
    if best and best["value"] <= metrics[name]:
        return best
    return {"value": metrics[name], "rule": copy.deepcopy(rule.state_dict())}


def _one_epoch(
    rule: LearningRule,
    task: Task,
    epoch: int,
    batch_size: int,
    shuffle: torch.Generator,
    diagnose_every: int,
    history: History,
) -> tuple[dict[str, float], dict[str, Any] | None]:
    """Learn every batch once; the mean of what the steps measured, and where numbers stopped being
    finite, if so.
    """
    n_batches = task.n_batches(batch_size)
    rule.begin_epoch(epoch, n_batches)
    sums: dict[str, torch.Tensor] = {}
    n_samples = 0
    for step, batch in enumerate(task.batches(batch_size, shuffle)):
        n = len(batch[0])
        n_samples += n
        for name, value in _measured(rule, rule.fit_batch(*batch, epoch=epoch, step=step)).items():
            sums[name] = sums[name] + n * value.detach() if name in sums else n * value.detach()
        if step % diagnose_every == 0:
            if bad := _first_not_finite(rule):
                return {}, {"epoch": epoch, "batch": step, "tensor": bad}
            if found := rule.diagnostics():
                history.diagnostics.append({"batch": epoch * n_batches + step + 1, **found})
    if bad := _first_not_finite(rule):
        return {}, {"epoch": epoch, "batch": n_batches - 1, "tensor": bad}
    return {name: (value / n_samples).item() for name, value in sums.items()}, None


def _measured(rule: LearningRule, found: Any) -> dict[str, torch.Tensor]:
    """What `fit_batch` gave, if it is what the contract asks for."""
    wrong = None if isinstance(found, dict) else type(found).__name__
    for name, value in found.items() if wrong is None else ():
        if not isinstance(value, torch.Tensor):
            wrong = f"{name!r}: {type(value).__name__}"
        elif value.ndim:
            wrong = f"{name!r}: a tensor of shape {(*value.shape,)}"
    if wrong:
        raise BioplausError(
            f"fit_batch of rule {rule.key()} must return a dict of 0-d tensors, not {wrong}."
        )
    return found


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
    rule: LearningRule, task: Task, n_epochs: int, batch_size: int, seed: int
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


class _Checkpoints:
    """The newest checkpoint and the one before it, each sealed with its digest."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.newest, self.previous = folder / "checkpoint.pt", folder / "checkpoint.previous.pt"
        self.progress = folder / "progress.json"
        self.identity = identity
        self.passed_over = ""  # why the first checkpoint found was not resumed, where none was
        self.is_newest_good = False  # whether the newest is one to fall back on
        self.saved_at = time.monotonic()
        _files.make_folder(folder, parents=False)  # not the folder of a run that was moved away
        _files.sweep(folder)

    def load(self) -> dict[str, Any] | None:
        """The newest whole checkpoint of this very training, or None; why one is passed over is
        printed.
        """
        reasons = []
        for path in (self.newest, self.previous):
            # one that cannot be read may be a good one: nothing is trained over it
            if (sealed := _files.read(path)) is not None:
                try:
                    content = _files.unseal(sealed, path)
                    saved = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
                    # a checkpoint made before these were noted may be resumed; all ran on the CPU
                    identity = {"code": self.identity["code"], "device": "cpu", **saved["identity"]}
                except BioplausError as error:
                    print(f"{error} Going on from the checkpoint before it, if there is one.")
                    reasons.append("is damaged")
                    continue
                except (
                    Exception
                ) as error:  # a file that is whole, but no checkpoint of this version
                    print(
                        f"{path.name} is no checkpoint that can be read ({type(error).__name__});"
                        " it is passed over."
                    )
                    reasons.append("cannot be read")
                    continue
                if identity == self.identity:
                    self.is_newest_good = path == self.newest
                    return saved
                changed = [
                    name for name, value in self.identity.items() if identity.get(name) != value
                ]
                if changed == ["code"]:
                    reasons.append(
                        "was made with other code of rule"
                        f" {self.identity['rule'].rpartition('.')[2]}"
                    )
                else:
                    reasons.append(f"is of another training ({', '.join(changed)} differ)")
                print(f"{path.name} {reasons[-1]}; it is not resumed.")
        self.passed_over = f"its checkpoint {reasons[0]}" if reasons else ""
        return None

    def tell(self, history: History) -> None:
        """Say in `progress.json` how far training is, and why it did not go on from a checkpoint
        that was there.
        """
        _files.write_json(
            self.progress,
            {
                "epochs_done": len(history.seconds["train"]),
                "n_epochs": self.identity["n_epochs"],
                "last": history.epochs[-1] if history.epochs else None,
                "passed_over": self.passed_over,
            },
        )

    def save(
        self,
        rule: LearningRule,
        shuffle: torch.Generator,
        history: History,
        best: dict[str, Any] | None,
        *,
        force: bool,
    ) -> None:
        """Keep the state after an epoch, unless the last save was a moment ago; always say how far
        training is.
        """
        self.tell(history)
        if not force and time.monotonic() - self.saved_at < CHECKPOINT_SECONDS:
            return
        buffer = io.BytesIO()
        torch.save(
            {
                "identity": self.identity,
                "rule": rule.state_dict(),
                "shuffle": shuffle.get_state(),
                "history": vars(history),
                "best": best,
            },
            buffer,
        )
        if (
            self.is_newest_good and self.newest.is_file()
        ):  # else the one before it may be the only one there is
            self.is_newest_good = False
            self.newest.replace(self.previous)
        _files.write_atomic(self.newest, _files.seal(buffer.getvalue()))
        self.is_newest_good = True
        self.saved_at = time.monotonic()


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
