"""Pickles that are built by hand: a file of numbers may ask for nothing else, of numpy neither."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from bioplaus import _files, results
from bioplaus.errors import BioplausError

PROTO = b"\x80\x04"
NAMES = {"dtype": "numpy", "ndarray": "numpy", "_reconstruct": "numpy._core.multiarray"}


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def name(value):
    return text(NAMES[value]) + text(value) + b"\x93"


def items(*values):
    return b"(" + b"".join(values) + b"t"


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def dtype(spec, state=None):
    made = name("dtype") + items(text(spec), b"\x89", b"\x88") + b"R"
    return made + (b"" if state is None else state + b"b")


def array(spec, shape, content, state=None, kind="ndarray", version=1):
    made = name("_reconstruct") + items(name(kind), items(number(0)), b"C\x01b") + b"R"
    raw = b"B" + len(content).to_bytes(4, "little") + content
    shape = items(*map(number, shape))
    return made + items(number(version), shape, dtype(spec, state), b"\x89", raw) + b"b"


def state(*values):
    return items(*(pickle.dumps(value, 2)[2:-1] for value in values))


PLAIN = state(3, "<", None, None, None, -1, -1, 0)


def load(content, tmp_path):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(_files.seal(PROTO + content + b"."))
    return results.load(path)


def table(value):
    """A record with `value` in it."""
    return b"}" + text("schema") + number(1) + b"s" + text("x") + value + b"s"


def test_the_pieces_above_make_an_honest_record(tmp_path):
    record = load(table(array("f8", (2,), np.array([1.5, -2]).tobytes(), PLAIN)), tmp_path)
    assert record["x"].tolist() == [1.5, -2.0] and type(record["x"]) is np.ndarray


POINTER = (0x41414141).to_bytes(8, "little")
HOSTILE = {
    "an object dtype whose flags are cleared": array(
        "O8", (1,), POINTER, state(3, "|", None, None, None, -1, -1, 0)
    ),
    "an object dtype": array("O", (1,), POINTER, state(3, "|", None, None, None, -1, -1, 63)),
    "numbers whose dtype is given flags of objects": array(
        "f8", (1,), POINTER, state(3, "<", None, None, None, -1, -1, 63)
    ),
    "numbers whose dtype is made larger": array(
        "u1", (1,), b"a", state(3, "|", None, None, None, 4096, 1, 0)
    ),
    "text whose dtype is made larger": array(
        "U1", (1,), b"abcd", state(3, "<", None, None, None, 4096, 4, 8)
    ),
    "text whose size is negative": array(
        "U1", (1,), b"abcd", state(3, "<", None, None, None, -4, 4, 8)
    ),
    "fields": array("f8", (1,), POINTER, state(3, "<", None, ("a",), {"a": 1}, 8, 1, 0)),
    "a dtype inside a dtype": array("f8", (1,), POINTER, state(3, "<", (1,), None, None, 8, 1, 0)),
    "metadata": array("f8", (1,), POINTER, state(4, "<", None, None, None, -1, -1, 0, {})),
    "another version of the state": array(
        "f8", (1,), POINTER, state(2, "<", None, None, None, -1, -1, 0)
    ),
    "another byte order": array("f8", (1,), POINTER, state(3, "x", None, None, None, -1, -1, 0)),
    "a short state": array("f8", (1,), POINTER, state(3, "<")),
    "a state that is no tuple": array("f8", (1,), POINTER, number(3)),
    "an empty state": array("f8", (1,), POINTER, state()),
    **{
        f"dtype {spec}": array(spec, (1,), b"\0" * np.dtype(spec).itemsize)
        for spec in ("O", "O8", "V8", "S8", "M8[s]", "m8[s]", "f8,O", "i4,f8", "(2,)f8", "object")
    },
    "a dtype alone": dtype("f8", PLAIN),
    "an array without numbers": name("_reconstruct")
    + items(name("ndarray"), items(number(0)), b"C\x01b")
    + b"R",
    "an array of another type": array("f8", (1,), POINTER, PLAIN, kind="dtype"),
    "too few numbers": array("f8", (2,), POINTER, PLAIN),
    "too many numbers": array("f8", (1,), POINTER * 2, PLAIN),
    "a negative shape": array("f8", (-1, -1), POINTER, PLAIN),
    "a shape that overflows": array("f8", (2**32, 2**32), b"", PLAIN),
    "a shape of truths": array("f8", (True,), POINTER, PLAIN),
    "another version of an array": array("f8", (1,), POINTER, PLAIN, version=0),
    "an array that is called": name("ndarray") + items(items(number(2**40)), text("u1")) + b"R",
    "an array that is made": name("ndarray") + items(items(number(2**40))) + b"\x81",
    "the type of arrays": name("ndarray"),
    "the type of arrays, changed": name("ndarray") + b"}" + text("x") + number(1) + b"sb",
    "the type of dtypes, changed": name("dtype") + b"}" + text("x") + number(1) + b"sb",
    "what builds arrays, changed": name("_reconstruct") + b"}" + text("x") + number(1) + b"sb",
    "a set": b"\x8f(" + number(1) + b"\x90",
    "an array as a key": b"}" + array("f8", (1,), POINTER, PLAIN) + number(1) + b"s",
    "a dtype as a key": b"}" + dtype("f8", PLAIN) + number(1) + b"s",
    "a type as a key": b"}" + name("ndarray") + number(1) + b"s",
    "a list inside itself": b"]q\x00h\x00a",
    "a table inside itself": b"}q\x00" + text("a") + b"h\x00s",
    "many lists": b"]" * 200_001 + b"a" * 200_000,
    "many tables": (b"}" + text("a")) * 100_000 + b"N" + b"s" * 100_000,
    "many tuples": b"N" + b"\x85" * 200_000,
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_no_file_of_numbers_needs_is_refused_in_one_sentence(tmp_path, hostile):
    with pytest.raises(BioplausError) as refused:
        load(table(HOSTILE[hostile]), tmp_path)
    sentence = str(refused.value)
    assert "hostile.pkl" in sentence and sentence.endswith(".") and "\n" not in sentence
    assert len(sentence) < 500


def test_a_file_that_chooses_a_pointer_is_refused_in_a_process_of_its_own(tmp_path):
    """Where it is not refused, reading the array is a segmentation fault."""
    path = tmp_path / "pointer.pkl"
    hostile = HOSTILE["an object dtype whose flags are cleared"]
    path.write_bytes(_files.seal(PROTO + table(hostile) + b"."))
    code = "import sys; from bioplaus import results; print(results.load(sys.argv[1])['x'][0])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 1 and "numpy.dtype('O8')" in done.stderr


def test_a_list_that_is_named_a_billion_times_is_read_once(tmp_path):
    content = b"]q\x00"
    for i in range(60):
        content += b"0]q" + bytes([i + 1]) + b"(" + (b"h" + bytes([i])) * 10 + b"e"
    assert len(load(table(content), tmp_path)["x"]) == 10


KINDS = "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16 U3".split()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_text_of_every_kind_and_byte_order_are_read(tmp_path, kind, order):
    values = np.array([[0, 1, 2], [3, 4, 5]]).astype(order + kind)
    for numbers in (values, np.asfortranarray(values), values[:0], np.array(values[0, 0])):
        content = pickle.dumps({"schema": 1, "x": numbers}, 4)
        (tmp_path / "r.pkl").write_bytes(_files.seal(content))
        read = results.load(tmp_path / "r.pkl")["x"]
        expected = pickle.loads(content)["x"]
        assert type(read) is np.ndarray and read.dtype == expected.dtype
        assert read.shape == expected.shape and read.tobytes() == expected.tobytes()
        assert read.flags.writeable


def test_a_record_that_is_nested_too_deeply_is_refused_with_the_sentence_and_nothing_written(
    tmp_path,
):
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(BioplausError, match="lists or tables inside one another"):
        results.save({"x": nested}, tmp_path / "r.pkl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("excess", [0, 1])
def test_what_is_saved_can_be_loaded_up_to_the_last_level(tmp_path, excess):
    nested = np.zeros(1)
    for _ in range(_files.MOST_LEVELS - 1 + excess):
        nested = [nested]
    if excess:
        with pytest.raises(BioplausError):
            results.save({"x": nested}, tmp_path / "r.pkl")
    else:
        results.save({"x": nested}, tmp_path / "r.pkl")
        assert results.load(tmp_path / "r.pkl")["x"]
