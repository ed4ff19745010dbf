"""The record of a run: build, save atomically, load safely, and many runs read together.

A run's folder is called as its id. It holds `result.pkl` (what was measured, nothing about when or
where) and `run.json` (which run it is, with which code, on what, how long, and the sha256 of
`result.pkl`), written in that order. A run is complete if and only if its `run.json` is whole, is
of the run that the folder is called after, says so (status done or diverged), and names the digest
of the result beside it; nothing else is asked.

One file, one concern: `record` (canonical bytes), `run_json` (the file), `provenance` (code,
versions, machine), `run` (from its beginning to its end), `collection` (many runs).
"""

from bioplaus.results.collection import (
    Outcome,
    Stored,
    collect,
    collected,
    complete_runs,
    merge,
    outcomes,
)
from bioplaus.results.record import SCHEMA, load, save
from bioplaus.results.run import (
    RunState,
    adopt,
    begin,
    check_folder,
    fail,
    finish,
    inspect,
    is_complete,
    remark,
)
from bioplaus.results.run_json import read_run

__all__ = [
    "SCHEMA",
    "Outcome",
    "RunState",
    "Stored",
    "adopt",
    "begin",
    "check_folder",
    "collect",
    "collected",
    "complete_runs",
    "fail",
    "finish",
    "inspect",
    "is_complete",
    "load",
    "merge",
    "outcomes",
    "read_run",
    "remark",
    "save",
]


def __dir__() -> list[str]:
    return sorted(__all__)
