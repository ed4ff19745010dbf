"""Synapses in files and in records: what was saved is what is loaded, and what does not fit is
named.
"""

import gzip
import pickle

import numpy as np
import pytest
import torch

from bioplaus.errors import BioplausError
from bioplaus.papers.hebbian import synapses


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(1))


def test_saved_synapses_are_loaded_bit_by_bit(weight, tmp_path):
    synapses.save(weight, tmp_path / "w.npy")
    assert torch.equal(synapses.load(tmp_path / "w.npy", (3, 5)), weight)
    assert torch.equal(synapses.load(tmp_path / "w.npy"), weight)


def test_file_is_an_ordinary_npy_of_hidden_units_by_inputs(weight, tmp_path):
    synapses.save(weight.double(), tmp_path / "w.npy")
    stored = np.load(tmp_path / "w.npy")
    assert stored.dtype == np.float32 and np.array_equal(stored, weight.numpy())


def test_synapses_of_another_shape_are_named_with_both_shapes(weight, tmp_path):
    synapses.save(weight, tmp_path / "w.npy")
    with pytest.raises(BioplausError) as refused:
        synapses.load(tmp_path / "w.npy", (784, 100))
    assert str(refused.value).endswith(
        "holds 5 hidden units with 3 inputs, but n_units [784, 100] asks for 100 with 784."
    )


def write(path, content: bytes):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros(4, np.float32), "float32 array of shape (4,)"),
        (np.array([["a"]]), "must hold one array of numbers"),
        (np.array([[1.0, np.nan]]), "not finite"),
    ],
)
def test_array_that_is_no_matrix_of_numbers_is_refused(array, sentence, tmp_path):
    np.save(tmp_path / "w.npy", array)
    with pytest.raises(BioplausError) as refused:
        synapses.load(tmp_path / "w.npy")
    assert sentence in str(refused.value)


def test_damaged_foreign_and_pickled_files_are_refused_and_nothing_is_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    np.save(tmp_path / "hostile.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.ones((4, 4)))
    np.savez(tmp_path / "several.npy", a=np.ones((2, 2)))
    cut = write(tmp_path / "cut.npy", (tmp_path / "whole.npy").read_bytes()[:100])
    foreign = write(tmp_path / "foreign.npy", b"weights")
    for path in (tmp_path / "hostile.npy", cut, foreign, tmp_path / "several.npy.npz"):
        with pytest.raises(BioplausError) as refused:
            synapses.load(path)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "canary").exists()


def test_every_flipped_bit_and_every_truncation_of_saved_synapses_is_seen(weight, tmp_path):
    path = tmp_path / "w.npy"
    synapses.save(weight, path)
    whole = path.read_bytes()
    damages = [whole[:length] for length in range(len(whole) - 73)]  # less is a whole foreign file
    damages += [whole[:length] for length in range(len(whole) - 72, len(whole))]
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        damages.append(bytes(damaged))
    for damaged in damages:
        with pytest.raises(BioplausError, match="w.npy"):
            synapses.load(write(path, damaged))


def test_synapses_of_another_program_are_read_and_said_to_carry_no_digest(weight, tmp_path):
    np.save(tmp_path / "w.npy", weight.numpy().astype(">f8"))
    with pytest.warns(UserWarning, match="w.npy carries no digest"):
        assert torch.equal(synapses.load(tmp_path / "w.npy"), weight)


@pytest.mark.parametrize("value", [1e39, -1e300, np.nan, np.inf, -np.inf, np.longdouble("1e400")])
def test_weights_that_are_not_finite_as_float32_are_refused(value, tmp_path):
    np.save(tmp_path / "w.npy", np.array([[1.0, value]]))
    with pytest.raises(BioplausError, match="not finite numbers as float32"):
        synapses.load(tmp_path / "w.npy")


def _mat(path):
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(path, {"synapses": np.ones((2, 3))})


FOREIGN = {
    "w.csv": (lambda path: np.savetxt(path, np.ones((2, 3)), delimiter=","), ".csv"),
    "w.tsv": (lambda path: np.savetxt(path, np.ones((2, 3)), delimiter="\t"), ".csv"),
    "w.txt": (lambda path: path.write_text("name,weight\na,1\n"), "a text file"),
    "w.mat": (_mat, ".mat"),
    "v73.mat": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5"),
    "w.npz": (lambda path: np.savez(path, a=np.ones((2, 3))), ".npz"),
    "w.pt": (lambda path: torch.save(torch.ones(2, 3), path), "zip archive"),
    "w.pkl": (lambda path: path.write_bytes(pickle.dumps(np.ones((2, 3)))), "a pickle"),
    "w.npy.gz": (lambda path: path.write_bytes(gzip.compress(b"x")), "gzip"),
    "empty.npy": (lambda path: path.write_bytes(b""), "empty"),
    "noise.npy": (lambda path: path.write_bytes(bytes(range(160, 256))), "no .npy file"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_kind_is_named_with_what_it_is_and_what_is_read(name, tmp_path):
    make, kind = FOREIGN[name]
    make(tmp_path / name)
    with pytest.raises(BioplausError) as refused:
        synapses.load(tmp_path / name)
    sentence = str(refused.value)
    assert kind in sentence and "synapses are read from a .npy file" in sentence
    assert name in sentence and "\n" not in sentence and "allow_pickle" not in sentence


@pytest.mark.parametrize("name", ["nul\0.npy", "x" * 300 + ".npy", "."])
def test_what_no_file_can_be_called_is_one_sentence(name):
    with pytest.raises(BioplausError, match="Could not read synapses"):
        synapses.load(name)


def test_a_header_that_promises_more_than_memory_holds_is_one_sentence(tmp_path):
    np.save(tmp_path / "w.npy", np.ones((4, 4)))
    content = (tmp_path / "w.npy").read_bytes()
    huge = content.replace(b"(4, 4), }       ", b"(9999999, 9999)}")
    assert huge != content
    with pytest.raises(BioplausError, match="not a whole .npy file"):
        synapses.load(write(tmp_path / "w.npy", huge))


def test_missing_file_is_named_with_the_synapses_that_come_along():
    with pytest.raises(
        BioplausError, match="Could not read synapses 'nowhere.npy'.*competing_hidden-digits"
    ):
        synapses.load("nowhere.npy")


def test_synapses_that_come_with_the_package_are_small_and_fit_the_digits():
    assert "competing_hidden-digits" in synapses.names()
    found = synapses.load("competing_hidden-digits", (64, 100))
    assert (synapses._FOLDER / "competing_hidden-digits.npy").stat().st_size < 100_000
    assert found.dtype == torch.float32


def test_packed_rows_are_a_quarter_as_large_and_wrong_by_half_a_level_at_most(weight):
    many = torch.cat([weight, 100 * weight])  # each row has its own scale
    packed = synapses.pack(many, 8)
    back = synapses.unpack(packed)
    assert packed["level"].dtype == np.uint8 and back.shape == (8, 3)
    bound = (packed["high"] - packed["low"]) / 510 * (1 + 1e-5)
    assert (np.abs(back - many[:8].numpy()) <= bound).all()


def test_constant_row_and_stacks_of_snapshots_are_packed_too(weight):
    stack = torch.stack([weight, torch.full_like(weight, 0.3)])
    back = synapses.unpack(synapses.pack(stack))
    assert back.shape == (2, 5, 3)
    assert np.array_equal(back[1], np.full((5, 3), 0.3, np.float32))
