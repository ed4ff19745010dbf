"""Whole files or none: atomic writing on full disks and into bad folders, and digests.

Writers that are killed are in `tests/faults`.
"""

import os

import pytest

from bioplaus import _files
from bioplaus.errors import BioplausError


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
