"""The record of a run: build, save atomically, load safely, and many runs read together.

A run's folder holds `result.pkl` (what was measured, nothing about when or where) and `run.json`
(which run it is, with which code, on what, how long, and the sha256 of `result.pkl`), written in
that order. A run is complete if and only if `run.json` says so (status done or diverged) and the
digest matches; nothing else is asked.

One file, one concern: `record` (canonical bytes), `run_json` (the file), `run` (from its beginning
to its end), `provenance` (code, versions, machine), `collection` (many runs).
"""

from bioplaus.results.collection import Outcome, collect, collected, outcomes
from bioplaus.results.record import SCHEMA, load, save
from bioplaus.results.run import begin, finish, is_complete
from bioplaus.results.run_json import read_run

__all__ = [
    "SCHEMA",
    "Outcome",
    "begin",
    "collect",
    "collected",
    "finish",
    "is_complete",
    "load",
    "outcomes",
    "read_run",
    "save",
]
