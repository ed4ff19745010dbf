"""Runs that differ only in their seed, executed by one worker at the same time: side by side on a
GPU, which one network leaves idle; on a CPU one after another, in one kernel.

Each keeps its own folder, lock, `run.json`, log, checkpoint and result, with the bytes it has when
it is executed alone. What a group does not complete, each run does alone.
"""

import contextlib
import gc
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bioplaus import _files, results
from bioplaus.errors import BioplausError, is_out_of_memory
from bioplaus.experiments import execution, simulation
from bioplaus.experiments.execution import Outcome, Settings
from bioplaus.experiments.locks import locked_if_free
from bioplaus.experiments.run import Run

MOST = 16  # runs of a group on a GPU; beyond it the number of kernels a second is the limit


class Member(NamedTuple):
    """A run of a group, and its folder as the process sees it that executes it."""

    run: Run
    folder: Path


def group(todo: Sequence[Run], most: int | None = None) -> list[list[Run]]:
    """The runs in groups that are executed at the same time, as even as they can be; a group stands
    where its first run stood.

    Runs of a group are of one entry, and differ in their seed and nothing else. A run that needs
    others is alone: it differs in these, too. So is one whose notebook takes one seed.

    Parameters
    ----------
    most : runs of a group; None: `MOST` on a GPU, one elsewhere.
    """
    alike: dict[str, list[Run]] = {}
    for run in todo:
        alike.setdefault(_but_seed(run), []).append(run)
    first: dict[str, list[Run]] = {}  # each group, by the id of its first run
    for runs in alike.values():
        limit = _limit(runs[0], most)
        n_groups = math.ceil(len(runs) / limit)
        for number in range(n_groups):
            start, end = (len(runs) * k // n_groups for k in (number, number + 1))
            first[runs[start].key] = runs[start:end]
    return [first[run.key] for run in todo if run.key in first]


def is_on_gpu(run: Run) -> bool:
    """Whether a run computes on a CUDA device; "auto" is the one of this machine."""
    name = run.inputs.get("device", "cpu")
    if name != "auto":
        return str(name).startswith("cuda")
    from bioplaus import device  # here, so that the command line need not wait for torch

    return device.pick(name).type == "cuda"


def execute(
    runs: Sequence[Run],
    folders: Sequence[str],
    settings: Settings,
    notify: Callable[[str], None] = print,
) -> list[Outcome]:
    """Execute a group of runs in this process or in a kernel: at the same time as far as that goes,
    the others alone (`execution.execute`).

    A run that another command executes, or has completed, is none of the group. A kernel that dies
    is started again for those that are not complete; where memory ran out, for half of them at
    a time. Where the notebook raises, those whose results are whole are done.
    """
    members = [Member(run, Path(folder)) for run, folder in zip(runs, folders, strict=True)]
    ended = _execute_together(members, settings) if len(members) > 1 else {}
    outcomes = []
    for one in members:
        outcome = ended.get(one.run.id)
        if outcome is None and outcomes and execution.is_stopped(settings):
            outcome = Outcome("failed", "stopped", 0.0)
        outcomes.append(
            outcome or execution.execute(one.run, str(one.folder), settings, notify=notify)
        )
    return outcomes


def _but_seed(run: Run) -> str:
    """What runs of a group have in common; of a run that is executed alone, its key."""
    if run.needs or not simulation.load(run.simulation).takes_seeds:
        return run.key
    parameters = {name: value for name, value in run.inputs.items() if name != "seed"}
    files = sorted(run.files.items())
    return json.dumps(
        [run.experiment_folder.as_posix(), run.entry, run.simulation, parameters, files],
        sort_keys=True,
    )


def _limit(run: Run, most: int | None) -> int:
    """How many runs like this one a group may have."""
    if most is not None:
        return max(1, most)
    return MOST if is_on_gpu(run) else 1


def _execute_together(members: Sequence[Member], settings: Settings) -> dict[str, Outcome]:
    """The outcomes, by id, of those that need not be executed alone."""
    started = time.monotonic()
    ended: dict[str, tuple[str, str]] = {}
    try:
        with execution.ready(settings), _begun(members, settings) as free:
            ended = _complete(free, settings)
            if execution.is_stopped(settings):  # as after any kill: the checkpoint is the last word
                stopped = {one.run.id: ("failed", "stopped") for one in members}
                ended = stopped | ended
    except Exception:  # whose it is, it says when it is executed alone
        ended = {}
    seconds = (time.monotonic() - started) / max(1, len(ended))
    return {run_id: Outcome(*how, seconds) for run_id, how in ended.items()}


@contextlib.contextmanager
def _begun(members: Sequence[Member], settings: Settings) -> Iterator[list[Member]]:
    """Those that can be executed now, with their locks held; these are taken in the order of their
    folders, and none is waited for.
    """
    with contextlib.ExitStack() as locks:
        free = []
        for one in sorted(members, key=lambda one: one.folder):
            # what is wrong with a run's folder is its own failure, when it is executed alone
            with contextlib.suppress(BioplausError, OSError), contextlib.ExitStack() as lock:
                execution.make_folder(*one)
                is_held = lock.enter_context(locked_if_free(one.folder))
                if not is_held or execution.changed_file(one.run):
                    continue
                if execution.ended_before(*one, settings):
                    continue
                _files.sweep(one.folder)
                locks.enter_context(lock.pop_all())
                free.append(one)
        yield sorted(free, key=members.index)


def _complete(members: Sequence[Member], settings: Settings) -> dict[str, tuple[str, str]]:
    """Execute members at the same time; how those ended whose results are whole, by id."""
    ended: dict[str, tuple[str, str]] = {}
    for attempt in range(1, settings.retries + 2):
        begun = _begin(members, settings, attempt)
        if len(begun) < 2:
            break
        runs, works = [one.run for one, _ in begun], [work for _, work in begun]
        message, _ = execution.execute_once(runs, works, settings.kernel)
        whole = [one for one, work in begun if execution.is_complete_now(one.folder, work)]
        members = [one for one, _ in begun if one not in whole]
        # with some incomplete, what was raised is of one of those
        told = "" if members else message
        ended |= {one.run.id: execution.conclusion(one.folder, told) for one in whole}
        if is_out_of_memory(message):
            _free_memory()
            half = (len(members) + 1) // 2
            for part in (members[:half], members[half:]):
                ended |= _complete(part, settings)
            break
        if "kernel died" not in message or execution.is_stopped(settings):
            break
    return ended


def _begin(
    members: Sequence[Member], settings: Settings, attempt: int
) -> list[tuple[Member, Path]]:
    """Those that could be begun, each with the folder that it is computed in."""
    begun = []
    for one in members:
        with contextlib.suppress(BioplausError):  # its own failure, when it is executed alone
            known = execution.identity(one.run, settings, attempt)
            begun.append((one, results.begin(one.folder, known)))
    return begun


def _free_memory() -> None:
    """Give back what an execution in this process left on a GPU."""
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
