"""Whole files or none: atomic writing under kills, full disks and bad permissions."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from bioplaus import _files
from bioplaus.errors import BioplausError


def _kill_while_writing(path, write, trials):
    """Fork a process that rewrites `path`, kill it after a random time; how often the file is then
    not whole.
    """
    times = random.Random(1)
    broken = 0
    for _ in range(trials):
        path.unlink(missing_ok=True)
        writer = os.fork()
        if writer == 0:
            for i in range(10**9):
                write(path, _files.seal(bytes([i % 256]) * 3_000_000))
        while not path.exists():
            time.sleep(0.001)
        time.sleep(0.02 + 0.03 * times.random())
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        try:
            _files.unseal(path.read_bytes(), path)
        except BioplausError:
            broken += 1
    return broken


def test_a_killed_writer_leaves_a_whole_file_where_a_naive_one_does_not(tmp_path):
    assert _kill_while_writing(tmp_path / "atomic", _files.write_atomic, trials=40) == 0
    # the guard is able to fail
    assert _kill_while_writing(tmp_path / "naive", Path.write_bytes, trials=40) > 0


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "file"
    _files.write_atomic(path, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BioplausError, match="No space left on device"):
        _files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BioplausError, match="Could not write"):
        _files.write_atomic(tmp_path / "file" / "inside", b"x")


def test_every_single_flipped_bit_and_every_truncation_of_a_sealed_file_is_seen(tmp_path):
    sealed = _files.seal(b"some content that matters")
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BioplausError):
            _files.unseal(bytes(damaged), tmp_path)
    for length in range(len(sealed)):
        with pytest.raises(BioplausError):
            _files.unseal(sealed[:length], tmp_path)


def test_sweep_removes_what_killed_writers_left_and_nothing_else(tmp_path):
    (tmp_path / ".bioplaus-abc").write_bytes(b"half")
    (tmp_path / "result.pkl").write_bytes(b"whole")
    _files.sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.pkl"]
