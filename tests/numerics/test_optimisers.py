"""Steps of an optimiser: the formula written out, for where torch has no kernel, against that
kernel.
"""

import pytest
import torch

from bioplaus.rules import _optimisers


def _walk(use_paper_form, use_ascent, n_steps=12):
    """Weights and averages after some steps along random gradients; one matrix is stored
    transposed.
    """
    stream = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(5, 3, generator=stream).double().t(),
        torch.randn(4, generator=stream).double(),
    ]
    adam = _optimisers.Adam(
        weights, use_paper_form=use_paper_form, use_ascent=use_ascent, betas=(0.8, 0.99)
    ).double()
    for step in range(n_steps):
        gradients = [
            torch.randn(5, 3, generator=stream).double().t(),
            torch.randn(4, generator=stream).double(),
        ]
        adam.step(weights, gradients, torch.tensor(0.1 / (step + 1), dtype=torch.float64))
    return [*weights, *(average for averages in adam.averages for average in averages)]


@pytest.mark.parametrize("use_ascent", [False, True])
@pytest.mark.parametrize("use_paper_form", [False, True])
def test_adam_written_out_is_the_fused_kernel(monkeypatch, use_paper_form, use_ascent):
    fused = _walk(use_paper_form, use_ascent)
    monkeypatch.setattr(_optimisers, "_has_fused", lambda weight: False)
    monkeypatch.setattr(torch, "_fused_adam_", None)
    written_out = _walk(use_paper_form, use_ascent)
    for one, other in zip(fused, written_out, strict=True):
        # float64, a few roundings a step
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [(torch.float32, "meta", True), (torch.float64, "meta", False), (torch.float64, "cpu", True)],
)
def test_float64_weights_that_are_not_on_the_cpu_are_stepped_by_the_formula(
    dtype, device, expected
):
    assert _optimisers._has_fused(torch.zeros(1, dtype=dtype, device=device)) == expected
