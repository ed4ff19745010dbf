"""A run from its beginning to its end, as its folder shows it."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioplaus import _files
from bioplaus.results.provenance import provenance
from bioplaus.results.record import SCHEMA, save
from bioplaus.results.run_json import read_run

if TYPE_CHECKING:
    import torch


def begin(folder: str | Path, run: Mapping[str, Any]) -> None:
    """Write the first `run.json` of a run: its identity, with status "running" and no digest."""
    _files.write_json(
        Path(folder) / "run.json", {**run, "schema": SCHEMA, "status": "running", "started": _now()}
    )


def finish(
    folder: str | Path,
    record: Mapping[str, Any],
    *,
    seconds: Mapping[str, Any] | None = None,
    device: "str | torch.device" = "cpu",
) -> None:
    """Complete a run: save `record` as `result.pkl`, then `run.json` with its digest and the full
    provenance.

    Parameters
    ----------
    folder : the run's folder; the identity that `begin` wrote there is kept, but for the digest of
        the rule's code, which is that of what this process imported.
    record : its "status" ("done" or "diverged") becomes the run's.
    seconds : wall times, for instance `History.seconds`.
    """
    folder = Path(folder)
    digest, run = save(record, folder / "result.pkl"), read_run(folder)
    _files.write_json(
        folder / "run.json",
        {
            **run,
            **_code(run.get("rule")),
            **provenance(device),
            "schema": SCHEMA,
            "sha256": digest,
            "status": record.get("status", "done"),
            "seconds": seconds or {},
            "finished": _now(),
        },
    )


def is_complete(folder: str | Path) -> bool:
    """Whether the run in `folder` is done (or diverged) and its `result.pkl` is the one `run.json`
    names.
    """
    run, result = read_run(folder), Path(folder) / "result.pkl"
    if (
        run.get("status") not in ("done", "diverged")
        or not run.get("sha256")
        or not result.is_file()
    ):
        return False
    return _files.sha256(result.read_bytes()) == run["sha256"]


def _code(rule: str | None) -> dict[str, str | None]:
    """The digest of a rule's code as this process imported it; nothing where it did not."""
    if f"bioplaus.rules.{rule}" not in sys.modules:
        return {}
    from bioplaus import rules

    return {"code": rules.code(rules.get(rule).Rule)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
