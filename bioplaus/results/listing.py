"""Which code, machine and data made the collected results of a preset, file by file, for people."""

import collections
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bioplaus import _files
from bioplaus.results.collection import Outcome, outcomes

NAME = "README.md"
_HEAD = """\
# What made these results

Written by `python -m bioplaus collect`. Each file holds all runs of one experiment, each with its
`run.json`: commit, digest of its rule's code, versions, machine, times. Here they are counted.
Runs of before 27 November 2026 do not name their processor, and of their code only the commit;
"with changes" means that the code was not all in that commit. Data: name and fingerprint of the
images, or how many fingerprints where the seed draws or divides them.

| file | runs | code: commit | machine | data |
| --- | --- | --- | --- | --- |
"""


def write_listing(preset: Path) -> Path:
    """Write `README.md` into the folder of a preset's results, and return it."""
    path = preset / NAME
    _files.write_atomic(path, listing(preset).encode())
    return path


def listing(preset: Path) -> str:
    """The text of that file: one row for each collected file below the folder."""
    rows = []
    for path in sorted(preset.glob("*/*.pkl")):
        found = list(outcomes(path.with_suffix("")))
        cells = (
            path.relative_to(preset).as_posix(),
            str(len(found)),
            _counted(_code(one.run) for one in found),
            _counted(_machine(one.run) for one in found),
            _data(found),
        )
        rows.append("| " + " | ".join(cells) + " |\n")
    return _HEAD + "".join(rows)


def _counted(texts: Iterable[str]) -> str:
    """The texts, the commonest first, with how often each comes where there are several."""
    counts = sorted(collections.Counter(texts).items(), key=lambda item: (-item[1], item[0]))
    if len(counts) == 1:
        return counts[0][0]
    return "; ".join(f"{n} x {text}" for text, n in counts)


def _code(run: Mapping[str, Any]) -> str:
    commit = run.get("commit")
    if not commit:
        return f"rule {run['code'][:10]}" if run.get("code") else "not known"
    return commit[:10] + (", with changes" if run.get("dirty") else "")


def _machine(run: Mapping[str, Any]) -> str:
    """The GPU; else the processor, or its architecture."""
    device, machine = run.get("device") or {}, run.get("machine") or {}
    if device.get("device", "cpu") != "cpu":
        return str(device.get("name", device["device"]))
    return str(machine.get("processor") or f"{device.get('name', 'CPU')}, model not recorded")


def _data(found: Iterable[Outcome]) -> str:
    """Each data set with its fingerprint, or how many it has: seeds may draw or divide it."""
    fingerprints = collections.defaultdict(set)
    for outcome in found:
        task = outcome.record.get("task", {})
        name = task.get("name") or outcome.run.get("simulation", "not known")
        fingerprints[str(name)].add(task.get("fingerprint", "")[:10])
    return "; ".join(
        f"{name} {next(iter(marks))}" if len(marks) == 1 else f"{name}, {len(marks)} fingerprints"
        for name, marks in sorted(fingerprints.items())
    )
