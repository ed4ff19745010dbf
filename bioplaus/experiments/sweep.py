"""A sweep: validate everything, skip what is done, execute the rest on Dask or in this process.

A dead worker, a killed driver or a lost node costs at most the time since the last checkpoint, and
the same command again does what is left.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from bioplaus import paths
from bioplaus.errors import BioplausError, RunError
from bioplaus.experiments import cluster, jupyter, locks, side_by_side
from bioplaus.experiments.cluster import Follower
from bioplaus.experiments.completion import pending
from bioplaus.experiments.execution import Outcome, Settings
from bioplaus.experiments.run import Run


class SweepError(RunError):
    """Some runs of a sweep failed; the others are kept."""


@dataclass
class Summary:
    """What came of a sweep: run ids by outcome, and the sentence for each failure."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, run_id: str, outcome: Outcome) -> None:
        """File one outcome."""
        if outcome.status == "failed":
            self.failed[run_id] = outcome.message
        else:
            getattr(self, outcome.status).append(run_id)

    def __str__(self) -> str:
        parts = [f"{len(self.done)} done", f"{len(self.skipped)} already there"]
        parts += [f"{len(self.diverged)} diverged"] if self.diverged else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        return ", ".join(parts)


def check(
    runs: Sequence[Run],
    kernel: str | None = None,
    *,
    scheduler: str | None = None,
    workers: int = 0,
) -> None:
    """Raise `BioplausError` if any run cannot work, or nothing could be written, before anything is
    started.

    Parameters
    ----------
    kernel : name of the Jupyter kernel that will be used; None where none is.
    scheduler, workers : what will execute runs; None where this process does.
    """
    if scheduler is not None:
        cluster.check(scheduler, workers)
    alike: dict[str, Run] = {}
    for run in runs:
        alike.setdefault(_without_seed(run), run)
    for run in alike.values():
        run.check()
    if scheduler in (None, "local"):  # other machines may have another device
        from bioplaus import device  # here, so that the command line need not wait for torch

        for name in {run.inputs.get("device", "cpu") for run in alike.values()}:
            device.pick(name)
    for folder in {run.experiment_folder for run in runs}:
        paths.check_inside(folder, paths.root())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".bioplaus-") as trial:
                with locks.locked(Path(trial)):
                    pass
        except OSError as error:
            raise BioplausError(
                f"Results cannot be written to {folder}: {error.strerror}."
            ) from error
    if kernel is not None:
        jupyter.check_kernel(kernel)


def execute(
    runs: Sequence[Run],
    *,
    workers: int = 0,
    scheduler: str = "local",
    inline: bool = False,
    kernel: str = "python3",
    retries: int = 1,
    again: bool = False,
    most: int | None = None,
    todo: Sequence[Run] | None = None,
    followers: Sequence[Follower] = (),
    report: Callable[[str], None] = print,
    ended: Callable[[str, Run, Outcome], None] | None = None,
    followed: Callable[[Follower, Any], None] = lambda *_: None,
) -> Summary:
    """Execute the runs that are not done yet; a failure is recorded and never stops the others.

    Parameters
    ----------
    workers : processes at once, one compute thread each; 0 means one per core of this machine, or
        per GPU where the runs compute on one. Each has a GPU of its own, or its share of one.
    scheduler : "local"; the name of a dask-jobqueue system ("slurm", "pbs", "lsf", "sge", ...),
        configured as dask-jobqueue documents, where each job executes one run at a time (configure
        it with one core) and is replaced when it ends while there are runs left; or the address of
        a running Dask scheduler ("tcp://host:8786"), whose worker processes execute one run at a
        time (start them with `--nthreads 1`).
    inline : run one after the other in this process, without papermill, kernels and Dask.
    kernel : Jupyter kernel that executes the notebooks.
    retries : how often a run is tried again whose kernel or worker died; code that raised would
        raise again.
    again : also run again what is complete, but was made with other code of its rule
        (`completion.outdated`).
    most : runs that differ only in their seed and are executed at the same time by one worker;
        None: `side_by_side.MOST` on a GPU, 1 elsewhere.
    todo : those of `runs` that are to do, from `completion.pending`, after `check`; None: both are
        asked here.
    followers : what the workers do meanwhile, as runs end (`cluster.Follower`); not `inline`.
    report : receives one line for every event.
    ended : receives the lines of runs that have ended, with these, in place of `report`.
    followed : receives each follower with what it returned.

    Raises
    ------
    BioplausError
        From `check`, and for an unknown scheduler or a queue without `workers`, before anything has
        started.
    KeyboardInterrupt
        On Ctrl-C, after the workers have been stopped; checkpoints stay.
    """
    if todo is None:
        if inline:
            check(runs)
        else:
            check(runs, kernel, scheduler=scheduler, workers=workers)
        todo = pending(runs, again)
    left = {run.id for run in todo}
    summary = Summary(skipped=[*dict.fromkeys(run.id for run in runs if run.id not in left)])
    settings = Settings(
        kernel=None if inline else kernel,
        retries=0 if inline else retries,
        again=again,
        environment={} if inline else jupyter.environment(),
        sweep=uuid4().hex,
    )
    ordered = in_order(todo, most)
    if inline:
        outcomes = _execute_inline(ordered, settings, report)
    else:
        outcomes = cluster.execute(
            ordered,
            settings,
            workers=workers,
            scheduler=scheduler,
            retries=retries,
            followers=followers,
            report=report,
            followed=followed,
        )
    with contextlib.closing(outcomes):
        for number, (run, outcome) in enumerate(outcomes, start=1):
            summary.add(run.id, outcome)
            detail = f": {outcome.message}" if outcome.message else ""
            line = (
                f"[{number}/{len(todo)}] {outcome.status:8} {run.experiment}/{run.entry} seed"
                f" {run.seed}, {outcome.seconds:.0f} s ({run.id}){detail}"
            )
            if ended is None:
                report(line)
            else:
                ended(line, run, outcome)
    return summary


def in_order(todo: Sequence[Run], most: int | None = None) -> list[tuple[list[Run], list[Run]]]:
    """Groups of runs that are executed at the same time (`side_by_side.group`, `most` in each), and
    the runs of `todo` that each needs, which come before it; else in the order given.
    """
    by_folder = {run.folder: run for run in todo}
    needs = {
        run.folder: [by_folder[folder] for folder in run.needed_folders if folder in by_folder]
        for run in todo
    }
    ordered: dict[str, Run] = {}

    def append(run: Run) -> None:
        for needed in needs[run.folder]:
            append(needed)
        ordered.setdefault(run.key, run)

    for run in todo:
        append(run)
    groups = side_by_side.group(list(ordered.values()), most)
    return [(runs, needs[runs[0].folder]) for runs in groups]


def _execute_inline(
    todo: Sequence[tuple[Sequence[Run], Sequence[Run]]],
    settings: Settings,
    report: Callable[[str], None],
) -> Iterator[tuple[Run, Outcome]]:
    for runs, _ in todo:
        folders = [str(run.folder) for run in runs]
        yield from zip(runs, side_by_side.execute(runs, folders, settings, report), strict=True)


def _without_seed(run: Run) -> str:
    """What decides whether a run can work: notebook and parameters, but for the seed and the ids of
    needed runs.
    """
    parameters = json.dumps([run.simulation, {**run.parameters, "seed": 0}], sort_keys=True)
    for run_id in run.needs.values():
        parameters = parameters.replace(run_id, "")
    return parameters
