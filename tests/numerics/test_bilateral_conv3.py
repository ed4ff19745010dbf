"""Winograd's algorithm against torch's convolution, in double precision."""

import pytest
import torch
from torch.nn import functional

from bioplaus.nets import conv3
from bioplaus.nets._fast.winograd import Winograd
from bioplaus.nets.conv3 import Conv3


def tensors(n, c, height, width, n_out):
    x = torch.randn(n, c, height, width, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(n_out, c, 3, 3, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("shape", [(2, 5, 6, 8, 7), (3, 4, 2, 2, 3), (1, 1, 4, 2, 1)])
@pytest.mark.parametrize("is_last", [True, False])
def test_outputs_and_both_gradients_are_those_of_torch(shape, is_last):
    x, w = tensors(*shape)
    seen = x.contiguous(memory_format=torch.channels_last) if is_last else x
    y = functional.conv2d(x, w, padding=1)
    error = torch.randn_like(y)
    ours = Winograd.apply(seen, w)
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-12)
    theirs = torch.autograd.grad(y, (x, w), error)
    for a, b in zip(torch.autograd.grad(ours, (x, w), error), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(Winograd.apply, tensors(2, 2, 4, 4, 3))


def test_a_gradient_that_is_not_asked_for_is_not_computed():
    x, w = tensors(1, 2, 4, 4, 3)
    (only_w,) = torch.autograd.grad(Winograd.apply(x.detach(), w).sum(), w)
    both_w, _ = torch.autograd.grad(Winograd.apply(x, w).sum(), (w, x))
    assert torch.equal(only_w, both_w)


def test_only_wide_layers_on_even_maps_take_it(monkeypatch):
    taken = []
    real = Winograd.apply
    monkeypatch.setattr(conv3.Winograd, "apply", lambda *given: taken.append(given) or real(*given))
    monkeypatch.setattr(conv3, "N_WIDE", 4)
    layer, narrow = Conv3(4, 6, bias=True).double(), Conv3(3, 6).double()
    for net, x, is_taken in (
        (layer, torch.randn(2, 4, 6, 6).double(), True),
        (layer, torch.randn(2, 4, 5, 6).double(), False),
        (narrow, torch.randn(2, 3, 6, 6).double(), False),
    ):
        taken.clear()
        expected = functional.conv2d(x, net.weight, net.bias, padding=1)
        torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)
        assert bool(taken) == is_taken
