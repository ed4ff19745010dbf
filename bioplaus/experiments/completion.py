"""Which runs are complete, which are still to do, and which were made with other code.

A run is complete if its folder says so (`results.is_complete`) or its experiment's collected file
holds it. Everything here reads; nothing is changed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bioplaus import _sources, results
from bioplaus.errors import BioplausError
from bioplaus.experiments.run import Run


class Completed(NamedTuple):
    """What is known of runs by key: the `run.json` of the complete ones, of those with their files
    in their folder and of the collected ones; and what the folder of each run holds.
    """

    in_folder: dict[str, dict[str, Any]]
    collected: dict[str, dict[str, Any]]
    states: dict[str, results.RunState]


def completed(runs: Sequence[Run], report: Callable[[str], object] | None = None) -> Completed:
    """Read which of these runs are complete; the functions below read it themselves where it is not
    given.

    Parameters
    ----------
    report : receives a sentence for each collected file that cannot be read; without it that is an
        error, as all its runs would count as missing.
    """
    states = {run.key: results.inspect(run.folder) for run in runs}
    in_folder = {key: state.run for key, state in states.items() if state.is_complete}
    collections = {}
    for folder in {run.experiment_folder for run in runs}:
        try:
            collections[folder] = results.collected(folder)
        except BioplausError as error:
            if report is None:
                raise
            collections[folder] = {}
            report(str(error))
    collected = (
        {run.key: collections[run.experiment_folder].get(run.id) for run in runs}
        if any(collections.values())
        else {}
    )
    collected = {key: record for key, record in collected.items() if record}
    return Completed(in_folder, collected, states)


def pending(runs: Sequence[Run], again: bool = False, known: Completed | None = None) -> list[Run]:
    """The runs that are neither complete in their folder nor in their experiment's collected file.

    A run that others of these need must be there with its files: being collected is not enough for
    it. A run that two entries share, as their parameters are the same, is named once.

    Parameters
    ----------
    again : also those that are complete, but were made with other code of their rule (`outdated`).
    """
    known = known or completed(runs)
    folders = [run.folder for run in runs]
    missing = {
        folder: run
        for folder, run in zip(folders, runs, strict=True)
        if run.key not in known.in_folder
    }
    todo = [run for run in missing.values() if run.key not in known.collected]
    todo += outdated(runs, known) if again else []
    wanted = {run.folder for run in todo}
    while todo:
        needed = [
            folder
            for run in todo
            for folder in run.needed_folders
            if folder in missing and folder not in wanted
        ]
        wanted |= set(needed)
        todo = [missing[folder] for folder in needed]
    return _one_per_folder(
        run for run, folder in zip(runs, folders, strict=True) if folder in wanted
    )


def outdated(runs: Sequence[Run], known: Completed | None = None) -> list[Run]:
    """The complete runs that were made with other code of their rule than there is now
    (`_sources.code`), one a folder.

    A result that does not say which code it was made with, as those of earlier versions, is not
    among them (`without_code`).
    """
    return _complete_runs(runs, known, is_outdated)


def without_code(runs: Sequence[Run], known: Completed | None = None) -> list[Run]:
    """The complete runs of rules that do not say which code made them, one a folder; nothing makes
    them again.
    """
    return _complete_runs(
        runs, known, lambda run, record: "code" not in record and code(run) is not None
    )


def is_outdated(run: Run, record: Mapping[str, Any]) -> bool:
    """Whether the run of this `run.json` was made with other code of its rule than there is now."""
    made_with = record.get("code")
    return made_with is not None and code(run) not in (made_with, None)


def code(run: Run) -> str | None:
    """The digest of the code of a run's rule; None where there is no such rule."""
    return _sources.code(run.rule) if run.rule else None


def _complete_runs(
    runs: Sequence[Run],
    known: Completed | None,
    is_wanted: Callable[[Run, Mapping[str, Any]], bool],
) -> list[Run]:
    """The complete runs whose `run.json` is wanted, one a folder."""
    known = known or completed(runs)
    records = known.collected | known.in_folder
    return _one_per_folder(
        run for run in runs if run.key in records and is_wanted(run, records[run.key])
    )


def _one_per_folder(runs: Iterable[Run]) -> list[Run]:
    """The first run of each folder."""
    first: dict[Path, Run] = {}
    for run in runs:
        first.setdefault(run.folder, run)
    return [*first.values()]
