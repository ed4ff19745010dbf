"""Matrix products by the faster of two libraries that torch carries.

`torch.mm` and `addmm` multiply by MKL, which on AMD's processors is slower than oneDNN, beside it
in the same torch: at half its rate on Zen 5, at nine tenths on Zen 4. The way to oneDNN is a
private operator, which allocates its result and costs some 10 to 20 microseconds a call: it is used
for float32 on a CPU, for products that are large enough, and only where it is present, multiplies
rightly and is known to be faster. That depends on the machine and on sizes alone, never on a
timing: one run gives the same bits every time. Everything else is multiplied as torch does.

The environment variable BIOPLAUS_PRODUCTS, "mkl" or "onednn", decides instead of the machine.
"""

import contextlib
import math
import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bioplaus.errors import BioplausError

VARIABLE = "BIOPLAUS_PRODUCTS"
LIBRARIES = ("mkl", "onednn")
N_NARROW = 16  # outputs of a product up to which MKL's kernels are slow


class Least(NamedTuple):
    """Operations from which oneDNN multiplies, as measured; below, its calls cost too much."""

    wide: float
    narrow: float  # of a product with at most `N_NARROW` outputs


NEVER = Least(math.inf, math.inf)
ZEN_4, ZEN_5 = Least(8e6, 2e6), Least(2e6, 2e6)  # AMD's families 25 and 26


def linear(x: Tensor, w: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """x w^T + bias, (rows, n_out), of `x`, (rows, n_in), and `w`, (n_out, n_in), in new memory or
    in `out`.
    """
    if _is_for_onednn(x, w):
        product = torch.ops.mkldnn._linear_pointwise(x.contiguous(), w, bias, "none", [], "")
        return product if out is None else out.copy_(product)
    if out is None:
        return functional.linear(x, w, bias)
    return torch.mm(x, w.t(), out=out) if bias is None else torch.addmm(bias, x, w.t(), out=out)


def linear_add(base: Tensor, x: Tensor, w: Tensor, out: Tensor | None = None) -> Tensor:
    """base + x w^T, (rows, n_out), in new memory or in `out`."""
    if _is_for_onednn(x, w):
        total = torch.ops.mkldnn._linear_pointwise.binary(x.contiguous(), base, w, None, "add")
        return total if out is None else out.copy_(total)
    return torch.addmm(base, x, w.t(), out=out)


def leak_(state: Tensor, rate: float, base: Tensor | None, x: Tensor, w: Tensor) -> Tensor:
    """state <- (1 - rate) state + rate (base + x w^T), in place: a step of leaky integration."""
    if _is_for_onednn(x, w):
        return state.lerp_(linear(x, w) if base is None else linear_add(base, x, w), rate)
    state.addmm_(x, w.t(), beta=1 - rate, alpha=rate)
    return state if base is None else state.add_(base, alpha=rate)


def library() -> str:
    """Which library multiplies large float32 matrices on this CPU: "mkl", that is what torch's own
    products use, or "onednn".

    Raises
    ------
    BioplausError
        If BIOPLAUS_PRODUCTS names another one, or oneDNN where this torch does not have it.
    """
    return LIBRARIES[_least(os.environ.get(VARIABLE, "")) != NEVER]


def _is_for_onednn(x: Tensor, w: Tensor) -> bool:
    if w.dtype != torch.float32 or not w.is_cpu:
        return False
    if not (w.is_contiguous() or w.t().is_contiguous()):  # part of a matrix: a hundred times slower
        return False
    least = _least(os.environ.get(VARIABLE, ""))
    n_flop = 2 * x.shape[0] * w.numel()
    return n_flop >= (least.narrow if w.shape[0] <= N_NARROW else least.wide)


@cache
def _least(wanted: str) -> Least:
    if wanted not in ("", *LIBRARIES):
        raise BioplausError(
            f"{VARIABLE} is {wanted!r}, but must be mkl or onednn, or not be set at all."
        )
    if wanted == "onednn" and not _has_onednn():
        raise BioplausError(
            f"{VARIABLE} is 'onednn', but torch {torch.__version__} cannot multiply by it here."
        )
    measured = _measured()
    if wanted == "onednn":
        return ZEN_5 if measured == NEVER else measured
    return measured if wanted == "" and _has_onednn() else NEVER


def _measured() -> Least:
    """From which size on oneDNN was measured to be faster on this kind of processor: on those of
    AMD with AVX-512.
    """
    vendor, family = _processor()
    if vendor != "AuthenticAMD" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return NEVER
    return ZEN_4 if family <= 25 else ZEN_5


@cache
def _processor() -> tuple[str, int]:
    """Vendor and family of the processor, as Linux and Windows say them; ("", 0) elsewhere."""
    said = os.environ.get(
        "PROCESSOR_IDENTIFIER", ""
    )  # "AMD64 Family 25 Model 17 ..., AuthenticAMD"
    vendor, family = said.rpartition(", ")[2], re.search(r"Family (\d+)", said)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        shown = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"^vendor_id\s*: (\S+)$", shown, re.MULTILINE):
            vendor, family = found[1], re.search(r"^cpu family\s*: (\d+)$", shown, re.MULTILINE)
    return vendor, int(family[1]) if family else 0


@cache
def _has_onednn() -> bool:
    """Whether this torch has the operator in both of its forms, and they multiply rightly."""
    x, w = (torch.arange(24.0).remainder(7).view(shape) for shape in ((4, 6), (4, 6)))
    base, stored = torch.arange(16.0).view(4, 4), w.t().contiguous().t()
    try:
        multiply = torch.ops.mkldnn._linear_pointwise
        found = [
            multiply(x, w, base[0].clone(), "none", [], ""),
            multiply.binary(x, base, stored, None, "add"),
        ]
    except (AttributeError, RuntimeError, TypeError):  # another torch: absent, or of another shape
        return False
    product = (x.double() @ w.double().t()).float()  # small whole numbers: exact in either
    wanted = [product + base[0], product + base]
    return all(map(torch.equal, found, wanted))
