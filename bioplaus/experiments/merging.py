"""Runs made elsewhere, by another machine or in another folder: which of them are believed, and
how they come among ours.

A run is believed if it is complete and whole, its id follows from what it says of itself, the
manifest plans it, and the code of its rule is that of this checkout or of a commit in its history.
Where a run of the same id is there already, it stays, unless it does not say which code made it.
"""

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bioplaus import _sources, results
from bioplaus.experiments.run import Run, id_of
from bioplaus.results import Stored

N_COMMITS = 200  # newest ones that changed a rule or a network, in which code is looked for


@dataclass
class Merged:
    """What came of a merge: the collected files written, and how many runs went into them; runs
    that were there already; those that no entry plans; those refused.
    """

    n_runs: dict[Path, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    unplanned: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def merge(
    folder: str | Path, planned: Sequence[Run], report: Callable[[str], object] = print
) -> Merged:
    """Put the runs that lie in `folder` or below it, as folders or in collected files, into the
    collected files of the experiments that plan them.

    Parameters
    ----------
    planned : runs of a preset; a run that several experiments plan goes to each.
    report : receives a sentence for every run that is refused or passed over.

    Raises
    ------
    BioplausError
        If there is no such folder, or a collected file of ours is damaged: it stays as it is.
    """
    merged, experiments = Merged(), {}
    for run in planned:
        experiments.setdefault(run.id, {}).setdefault(run.experiment_folder)

    def refuse(sentence: str) -> None:
        merged.refused.append(sentence)
        report(sentence)

    additions: dict[Path, dict[str, Stored]] = {}
    for one in results.complete_runs(folder, refuse):
        run_id = one.run["id"]
        if problem := _problem(one.run):
            refuse(f"Run {run_id} is refused: {problem}.")
        elif run_id not in experiments:
            merged.unplanned.append(run_id)
        else:
            for experiment in experiments[run_id]:
                additions.setdefault(experiment, {}).setdefault(run_id, one)
    for experiment, runs in additions.items():
        there = results.collected(experiment)
        new = {
            run_id: one
            for run_id, one in runs.items()
            if run_id not in there or ("code" in one.run and "code" not in there[run_id])
        }
        for run_id in runs.keys() - new.keys():
            merged.kept.append(run_id)
            if there[run_id]["sha256"] != runs[run_id].run["sha256"]:
                report(f"Run {run_id} is there already with another result, which stays.")
        if new:
            merged.n_runs[results.merge(experiment, new)] = len(new)
    return merged


def _problem(run: Mapping[str, Any]) -> str:
    """Why a run cannot be believed, in words; empty if it can."""
    try:
        computed = id_of(
            run["simulation"],
            run["parameters"],
            entry=run["entry"],
            seed=run["seed"],
            files=run.get("files", {}),
        )
        rule = run["rule"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"its run.json does not say what it is ({type(error).__name__}: {error})"
    if computed != run["id"]:
        return f"its parameters are those of {computed}"
    if run.get("dirty"):
        return "it was made from a working tree with changes that no commit has"
    if not run.get("code"):
        return "it does not say which code made it"
    if not _is_known(str(rule), str(run["code"]), run.get("commit")):
        return (
            f"the code of its rule ({str(run['code'])[:12]}...) is that of this checkout as little"
            f" as that of one of the last {N_COMMITS} commits that changed a rule"
        )
    return ""


@cache
def _is_known(rule: str, code: str, commit: str | None) -> bool:
    """Whether code of a rule with this digest is in the checkout or in its history."""
    if _sources.code(rule) == code:
        return True
    return any(_code_at(other, rule) == code for other in _commits(commit))


def _commits(first: str | None) -> Iterator[str]:
    """Commits of this repository that may hold a rule's code: the one named, then newest first."""
    folders = ("bioplaus/rules", "bioplaus/nets")
    # with merges: what two branches changed is together only there
    listed = _git("log", f"-{N_COMMITS}", "--full-history", "--format=%H", "--", *folders)
    if first and _git("merge-base", "--is-ancestor", first, "HEAD") is not None:
        yield first
    yield from (listed or b"").decode().split()


@cache
def _code_at(commit: str, rule: str) -> str | None:
    """What `_sources.code` gave of a rule at a commit; None where there was none."""
    archive = _git("archive", commit, "bioplaus/rules", "bioplaus/nets")
    if archive is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        return _sources.code(rule, Path(folder).resolve() / "bioplaus")


def _git(*arguments: str) -> bytes | None:
    """What git prints in the repository of this package; None where it cannot."""
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
