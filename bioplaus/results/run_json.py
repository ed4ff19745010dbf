"""`run.json`: which run it is, with which code, on what, how long, and the digest of its result."""

from pathlib import Path
from typing import Any

from bioplaus import _files


def read_run(folder: str | Path) -> dict[str, Any]:
    """The `run.json` of a run's folder; empty where there is none, or where it holds no table
    (another program's).
    """
    run = _files.read_json(Path(folder) / "run.json")
    return run if isinstance(run, dict) else {}
