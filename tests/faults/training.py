"""Faults of training: kills, damaged checkpoints, numbers that are not finite."""

import os
import random
import signal
import time
from pathlib import Path
from unittest import mock

import torch
from rows import in_child, row

from bioplaus import _files, rules, train
from bioplaus.tasks import images

N_EPOCHS = 5


def _task():
    return images.load("synthetic", n_train=40, n_test=20)


def _rule(task):
    values = {"n_units": [task.spec.n_in, 8, task.spec.n_out]}
    return rules.make("bp", values, task.spec, seed=3)


def _fit(folder=None, **options):
    """Train, keeping every epoch; the final state as bytes, and the history."""
    task = _task()
    rule = _rule(task)
    with mock.patch.object(train, "CHECKPOINT_SECONDS", 0.0):
        history = train.fit(
            rule, task, n_epochs=N_EPOCHS, batch_size=5, folder=folder, progress=False, **options
        )
    state = {name: value for name, value in rule.state_dict().items() if torch.is_tensor(value)}
    return b"".join(value.numpy().tobytes() for value in state.values()), history


@row(
    "R5 killed and resumed",
    "SIGKILL at any time of a training: it ends with the same bits",
    100,
    n_small=3,
)
def killed_and_resumed(folder: Path, draw: random.Random) -> bool:
    expected, _ = _fit()
    for _ in range(2):
        # slow enough to be hit anywhere
        trainer = in_child(
            lambda: _fit(folder, on_epoch=lambda epoch, metrics: time.sleep(0.01)) and None
        )
        time.sleep(0.12 * draw.random())
        os.kill(trainer, signal.SIGKILL)
        os.waitpid(trainer, 0)
    return _fit(folder)[0] == expected


@row(
    "10 checkpoint damaged",
    "the newest checkpoint cut or a bit flipped: it goes on from the one before, to the same bits",
    200,
    n_small=5,
    guard_off=lambda: mock.patch.object(_files, "check_seal", lambda *arguments: None),
    n_guard_off=30,
)
def checkpoint_damaged(folder: Path, draw: random.Random) -> bool:
    class Killed(Exception):
        pass

    def die(epoch, metrics):
        if epoch == 2:
            raise Killed

    expected, _ = _fit()
    try:
        _fit(folder, on_epoch=die)
    except Killed:
        pass
    path = folder / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    if draw.random() < 0.2:
        content = content[: draw.randrange(len(content))]
    else:
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with mock.patch("builtins.print"):
        return _fit(folder)[0] == expected


@row(
    "12 not finite",
    "a weight becomes NaN or infinite in any epoch: diverged in that epoch, and training stops",
    100,
    n_small=5,
    guard_off=lambda: mock.patch.object(train, "_first_not_finite", lambda rule: None),
)
def not_finite(folder: Path, draw: random.Random) -> bool:
    epoch_to_break, value = draw.randrange(N_EPOCHS - 1), draw.choice((torch.nan, torch.inf))
    task = _task()
    rule = _rule(task)

    def damage(epoch, metrics):
        if epoch == epoch_to_break:
            weight = draw.choice([*rule.parameters()])
            with torch.no_grad():
                weight[(0,) * weight.ndim] = value

    history = train.fit(
        rule, task, n_epochs=N_EPOCHS, batch_size=5, progress=False, on_epoch=damage
    )
    return (
        history.status == "diverged"
        and history.divergence["epoch"] == epoch_to_break + 1
        and len(history.epochs) == epoch_to_break + 1
    )
