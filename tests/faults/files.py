"""Faults of files: writers that are killed, disks that are full, bytes that change or are lost."""

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from rows import in_child, row

from bioplaus import _files, results, rules, weights
from bioplaus.errors import BioplausError
from bioplaus.papers.hebbian import synapses
from bioplaus.results import run_json

RECORD = {"status": "done", "epochs": {"epoch": np.arange(200)}, "diagnostics": {}}


def _naive_writer():
    """Writes in place, as `open(path, "wb")` does."""
    return mock.patch.object(
        _files, "write_atomic", lambda path, content: path.write_bytes(content)
    )


def _refuses(read: Callable[[], object]) -> bool:
    try:
        read()
    except BioplausError as error:
        return "\n" not in str(error)
    return False


@row(
    "5 killed while saving",
    "SIGKILL while a file is rewritten: the old or the new one, whole",
    500,
    n_small=10,
    guard_off=_naive_writer,
    n_guard_off=40,
)
def killed_while_saving(folder: Path, draw: random.Random) -> bool:
    path = folder / "file"

    def write() -> None:
        for i in range(10**9):
            _files.write_atomic(path, _files.seal(bytes([i % 256]) * 3_000_000))

    writer = in_child(write)
    while not path.exists():
        time.sleep(0.001)
    time.sleep(0.02 + 0.03 * draw.random())
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    try:
        _files.unseal(path.read_bytes(), path)
    except BioplausError:
        return False
    _files.sweep(folder)
    return [entry.name for entry in folder.iterdir()] == ["file"]


@row(
    "6 full disk",
    "no room for the rest of a file: a sentence, and the old file whole",
    100,
    n_small=20,
    guard_off=_naive_writer,
)
def full_disk(folder: Path, draw: random.Random) -> bool:
    path, old = folder / "file", _files.seal(b"old" * 1000)
    path.write_bytes(old)
    room = draw.randrange(100_000)

    def write() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        return 0 if _refuses(lambda: _files.write_atomic(path, b"new" * 40_000)) else 1

    _, status = os.waitpid(in_child(write), 0)
    return status == 0 and path.read_bytes() == old and len(list(folder.iterdir())) == 1


def _no_digest():
    return mock.patch.multiple(
        _files, check_seal=lambda *arguments: None, sha256=lambda content: "0" * 64
    )


def _record(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "record.pkl"
    results.save(RECORD, path)
    return path, lambda: results.load(path)


def _run(folder: Path) -> Path:
    place = results.begin(folder / "run", {"id": "run", "parameters": {"rate": 0.1}})
    results.finish(place, RECORD)
    return place


def _run_json(folder: Path) -> tuple[Path, Callable[[], object]]:
    place = _run(folder)
    return place / run_json.NAME, lambda: results.read_run(place)


def _collection(folder: Path) -> tuple[Path, Callable[[], object]]:
    _run(folder / "mnist")
    path = results.collect(folder / "mnist")
    return path, lambda: results.collected(folder / "mnist")


def _synapses(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "synapses.npy"
    synapses.save(torch.ones(20, 10), path)
    return path, lambda: synapses.load(path)


def _network(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / weights.NAME
    weights.save("bp", rules.make("bp", {"n_units": [6, 5, 4]}), path)
    return path, lambda: weights.load(path)


ROLES = (_record, _run_json, _collection, _synapses, _network)


@row(
    "8 cut short",
    "a record, run.json, collection, synapses or network that is cut: a sentence",
    1000,
    n_small=60,
)
def cut_short(folder: Path, draw: random.Random) -> bool:
    path, read = draw.choice(ROLES)(folder)
    content = path.read_bytes()
    # without its whole trailer a .npy file is one of another program, and whole
    n = draw.randrange(len(content) - (len(content) if path.suffix == ".npy" else 0) or 100)
    path.write_bytes(content[:n])
    return _refuses(read)


@row(
    "9 flipped bit",
    "one bit of a record, run.json, collection, synapses or network: a sentence",
    2000,
    n_small=60,
    guard_off=_no_digest,
    n_guard_off=60,
)
def flipped_bit(folder: Path, draw: random.Random) -> bool:
    path, read = draw.choice(ROLES)(folder)
    content = bytearray(path.read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return _refuses(read)


def _trusting():
    """A reader that takes whatever `run.json` says, as long as it is JSON."""
    return mock.patch("bioplaus.results.run._wrong_identity", lambda *arguments: "")


@row(
    "27 some results missing",
    "a third of the runs removed, damaged or renamed: the others are read, each bad one is named",
    200,
    n_small=10,
    guard_off=_trusting,
)
def some_missing(folder: Path, draw: random.Random) -> bool:
    experiment, whole, bad = folder / "mnist", [], []
    for i in range(9):
        place = results.begin(experiment / f"run-{i}", {"id": f"run-{i}"})
        results.finish(place, RECORD)
        if i % 3:
            whole.append(place.name)
            continue
        match draw.choice(("remove", "cut", "rename")):
            case "remove":
                for path in place.iterdir():
                    path.unlink()
            case "cut":
                path = draw.choice(list(place.iterdir()))
                path.write_bytes(path.read_bytes()[: draw.randrange(60)])
                bad.append(place.name)
            case "rename":
                bad.append(place.rename(experiment / f"other-{i}").name)
    said: list[str] = []
    read = [outcome.run["id"] for outcome in results.outcomes(experiment, said.append)]
    return read == whole and [name for name in bad if any(name in s for s in said)] == bad
