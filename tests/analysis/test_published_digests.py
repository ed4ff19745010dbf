"""The published numbers are those that were committed: each file is checked against a digest."""

import os

import numpy as np
import pytest

from bioplaus import paths
from bioplaus.analysis import published
from bioplaus.errors import BioplausError
from bioplaus.papers.ccdni import measures

FOLDER = paths.project_root() / "Results" / "published"
FILES = sorted(FOLDER.glob("*.csv"))


@pytest.fixture
def folder(home, monkeypatch):
    """A copy of the published numbers, and nothing remembered of the others."""
    monkeypatch.setattr(published, "_values", published._values.__wrapped__)
    monkeypatch.setattr(published, "_curves", published._curves.__wrapped__)
    return home / "Results" / "published"


def _read(path):
    paper, _, kind = path.stem.partition("_")
    return published.read(paper, kind)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_committed_table_has_its_digest_and_is_read(path):
    assert len(_read(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_flipped_bit_in_any_table_is_seen_and_the_file_named(folder, path):
    copy, whole = folder / path.name, path.read_bytes()
    damages = [whole[:-1], whole + b"\n", b""]
    for bit in np.random.default_rng(1).integers(0, 8 * len(whole), 60):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        damages.append(bytes(damaged))
    for damaged in damages:
        copy.write_bytes(damaged)
        with pytest.raises(BioplausError, match=f"{path.name} is damaged or was changed"):
            _read(copy)
    copy.write_bytes(whole)
    assert len(_read(copy))


def test_everything_that_reads_a_table_sees_that_it_was_changed(folder):
    for name in ("corinfomax_published_curves", "ccdni_published", "ccdni_reference_runs"):
        with open(folder / f"{name}.csv", "a") as file:
            file.write("\n")
    for use in (
        lambda: published.curves("corinfomax"),
        lambda: published.values("ccdni"),
        lambda: measures.reference_areas(None, "dni"),
    ):
        with pytest.raises(BioplausError, match="csv is damaged or was changed"):
            use()


def test_a_table_without_a_digest_is_refused_and_the_command_named(folder):
    (folder / "corinfomax_extra.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BioplausError, match="sha256sum corinfomax_extra.csv >> SHA256SUMS"):
        published.read("corinfomax", "extra")
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(BioplausError, match="names no digest of corinfomax_published.csv"):
        published.values("corinfomax")


def test_only_a_table_that_is_not_there_is_none(folder, monkeypatch):
    assert published.curves("hebbian").empty
    with pytest.raises(published.MissingError, match="hebbian_published_curves.csv is missing"):
        published.read("hebbian", "published_curves")
    (folder / "hebbian_published_curves.csv").mkdir()
    with pytest.raises(BioplausError, match="Could not read .*hebbian_published_curves.csv"):
        published.curves("hebbian")
    assert os.path.isdir(folder)
