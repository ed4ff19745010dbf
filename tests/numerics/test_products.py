"""Products by either library are those of float64; which one is used depends on the machine and on
sizes alone.
"""

import os
import subprocess
import sys

import pytest
import torch

from bioplaus import _products, rules
from bioplaus.errors import BioplausError

F32 = torch.float32
ROUNDING = 2e-6  # of float32 sums of a thousand terms, relative to the largest
has_onednn = pytest.mark.skipif(not _products._has_onednn(), reason="this torch has no oneDNN")


@pytest.fixture
def with_library(monkeypatch):
    return lambda name: monkeypatch.setenv(_products.VARIABLE, name)


@pytest.fixture
def calls(monkeypatch):
    """How often the private operator was called since."""
    counted, multiply = [], torch.ops.mkldnn._linear_pointwise

    class Counting:
        def __call__(self, *arguments):
            counted.append("linear")
            return multiply(*arguments)

        def binary(self, *arguments):
            counted.append("binary")
            return multiply.binary(*arguments)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", Counting(), raising=False)
    return counted


def operands(rows, n_in, n_out, dtype=F32):
    stream = torch.Generator().manual_seed(rows)
    shapes = ((rows, n_in), (n_out, n_in), (n_out,), (rows, n_out))
    return [torch.randn(shape, generator=stream, dtype=F32).to(dtype) for shape in shapes]


def layouts(w):
    """The same matrix row by row, column by column, and as part of a larger one."""
    larger = torch.zeros(len(w) + 3, w.shape[1] + 5)
    larger[3:, 5:] = w
    return w, w.t().contiguous().t(), larger[3:, 5:]


@has_onednn
@pytest.mark.parametrize("library", _products.LIBRARIES)
@pytest.mark.parametrize("sizes", [(20, 784, 500), (300, 500, 10), (300, 510, 500), (3, 5, 2)])
def test_every_product_is_that_of_float64_to_rounding(library, sizes, with_library):
    with_library(library)
    x, w, bias, base = operands(*sizes)
    exact = x.double() @ w.double().t()
    for stored in layouts(w):
        for rows in (x, torch.cat([x, x], 1)[:, : x.shape[1]]):  # of a wider array, too
            state = base.clone()
            out = torch.empty_like(base)
            given = {
                "plain": (_products.linear(rows, stored), exact),
                "biased": (_products.linear(rows, stored, bias), exact + bias),
                "out": (_products.linear(rows, stored, bias, out=out), exact + bias),
                "added": (_products.linear_add(base, rows, stored), exact + base),
                "leaked": (
                    _products.leak_(state, 0.3, base, rows, stored),
                    0.7 * base + 0.3 * (exact + base),
                ),
            }
            assert given["out"][0] is out and given["leaked"][0] is state
            for name, (found, wanted) in given.items():
                error = (found.double() - wanted).abs().max() / exact.abs().max()
                assert error < ROUNDING, name


@has_onednn
def test_float64_and_small_products_are_never_those_of_onednn(with_library, calls):
    with_library("onednn")
    for sizes, dtype in (((300, 784, 500), torch.float64), ((3, 5, 2), F32)):
        x, w, bias, base = operands(*sizes, dtype=dtype)
        assert torch.equal(_products.linear(x, w, bias), torch.nn.functional.linear(x, w, bias))
        assert torch.equal(_products.linear_add(base, x, w), torch.addmm(base, x, w.t()))
    assert calls == []
    x, w, bias, base = operands(300, 784, 500)
    _products.linear(x, w, bias)
    _products.linear_add(base, x, w)
    assert calls == ["linear", "binary"]


@has_onednn
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_products_work_with_parameters_in_every_mode_and_on_several_threads(mode, with_library):
    with_library("onednn")
    x, w, bias, _ = operands(300, 784, 500)
    weight, n_threads = torch.nn.Parameter(w, requires_grad=False), torch.get_num_threads()
    with mode():
        one = _products.linear(x, weight, bias)
        torch.set_num_threads(2)
        try:
            two = _products.linear(x, weight, bias)
        finally:
            torch.set_num_threads(n_threads)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


def test_a_library_that_is_not_known_is_refused_in_one_sentence(with_library):
    with_library("openblas")
    with pytest.raises(BioplausError, match="BIOPLAUS_PRODUCTS is 'openblas', but must be mkl or"):
        _products.library()


@pytest.mark.parametrize(
    ("vendor", "family", "instructions", "library"),
    [
        ("AuthenticAMD", 26, "AVX512", "onednn"),
        ("AuthenticAMD", 25, "AVX512", "onednn"),
        ("AuthenticAMD", 25, "AVX2", "mkl"),
        ("GenuineIntel", 6, "AVX512", "mkl"),
        ("", 0, "DEFAULT", "mkl"),
    ],
)
def test_the_choice_depends_on_the_processor(vendor, family, instructions, library, monkeypatch):
    monkeypatch.delenv(_products.VARIABLE, raising=False)
    monkeypatch.setattr(_products, "_processor", lambda: (vendor, family))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    monkeypatch.setattr(_products, "_has_onednn", lambda: True)
    _products._least.cache_clear()
    try:
        assert _products.library() == library
    finally:
        _products._least.cache_clear()


@pytest.mark.parametrize("fault", ["absent", "other arguments", "wrong"])
def test_a_torch_without_a_right_operator_multiplies_by_its_own(fault, monkeypatch):
    class Other:
        def __call__(self, x, w, bias, *rest):
            if fault == "other arguments":
                raise RuntimeError("expected at most 3 arguments")
            return torch.nn.functional.linear(x, w)  # the bias is forgotten

        binary = __call__

    monkeypatch.delenv(_products.VARIABLE, raising=False)
    if fault == "absent":
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    else:
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", Other(), raising=False)
    for cached in (_products._least, _products._has_onednn):
        cached.cache_clear()
    try:
        assert _products.library() == "mkl"
        x, w, bias, _ = operands(300, 784, 500)
        assert torch.equal(_products.linear(x, w, bias), torch.nn.functional.linear(x, w, bias))
        monkeypatch.setenv(_products.VARIABLE, "onednn")
        with pytest.raises(BioplausError, match="cannot multiply by it here"):
            _products.library()
    finally:
        for cached in (_products._least, _products._has_onednn):
            cached.cache_clear()


LEARN = """
from bioplaus import device, results, rules
import hashlib, torch
torch.set_num_threads(1)
rule = rules.make("{name}", {{}}, seed=1)
batch = rule.example_batch(rule.example_spec(rule.config), 40, device.generator(0, "b"))
rule.begin_epoch(0, 3)
for step in range(3):
    rule.fit_batch(*batch, epoch=0, step=step)
print(hashlib.sha256(b"".join(p.numpy().tobytes() for p in rule.parameters())).hexdigest())
"""


@has_onednn
@pytest.mark.parametrize("name", ["csm", "competing_hidden"])
def test_two_processes_learn_the_same_bits(name):
    digests = {
        subprocess.run(
            [sys.executable, "-c", LEARN.format(name=name)],
            env=os.environ | {_products.VARIABLE: "onednn"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


@has_onednn
@pytest.mark.parametrize("name", ["ep", "csm", "corinfomax", "corinfomax_sparse"])
def test_a_rule_learns_the_same_with_either_library_to_rounding(name, with_library, calls):
    learned = {}
    for library in _products.LIBRARIES:
        with_library(library)
        calls.clear()
        rule = rules.make(name, {}, seed=1)
        stream = torch.Generator().manual_seed(0)
        rule.begin_epoch(0, 3)
        for step in range(3):
            batch = rule.example_batch(rule.example_spec(rule.config), 40, stream)
            rule.fit_batch(*batch, epoch=0, step=step)
        predicted = rule.predict(batch[0])
        assert bool(calls) == (library == "onednn")
        learned[library] = [*rule.parameters(), predicted]
    for mkl, onednn in zip(*learned.values(), strict=True):
        torch.testing.assert_close(mkl, onednn, rtol=0, atol=1e-5 * max(1, float(mkl.abs().max())))
