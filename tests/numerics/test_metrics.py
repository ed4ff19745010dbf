"""Accuracy and angles against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bioplaus.metrics import accuracy, angle_deg

OUTPUTS = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.4, 0.35, 0.25]])


def test_accuracy_is_the_fraction_of_rows_whose_largest_output_is_at_the_label():
    assert accuracy(OUTPUTS, torch.tensor([1, 0, 2, 0])).item() == 1.0
    assert accuracy(OUTPUTS, torch.tensor([1, 0, 1, 1])).item() == 0.5
    assert accuracy(OUTPUTS, torch.tensor([0, 1, 0, 2])).item() == 0.0


def test_accuracy_among_the_two_largest_counts_second_places_and_among_all_counts_everything():
    labels = torch.tensor([0, 2, 1, 2])
    assert accuracy(OUTPUTS, labels, k=2).item() == pytest.approx(
        2 / 4 + (OUTPUTS[1, 2] > OUTPUTS[1, 1]) / 4
    )
    assert accuracy(OUTPUTS, labels, k=3).item() == 1.0


def test_accuracy_is_summed_in_float64_whatever_the_outputs_are():
    assert accuracy(OUTPUTS.half(), torch.tensor([1, 0, 1, 1])).dtype == torch.float64


@pytest.mark.parametrize("degrees", [0, 1, 30, 45, 90, 135, 179, 180])
def test_the_angle_between_two_arrays_in_a_plane_is_that_of_the_plane(degrees):
    a = torch.zeros(3, 4, dtype=torch.float64)
    a[0, 0], b = 2.0, torch.zeros_like(a)
    b[0, 0], b[2, 3] = 5 * math.cos(math.radians(degrees)), 5 * math.sin(math.radians(degrees))
    assert angle_deg(a, b) == pytest.approx(degrees, abs=1e-5)


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_the_angle_does_not_depend_on_order_or_scale_and_opposites_add_to_180(seed, scale):
    a, b = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    angle = angle_deg(a, b)
    assert angle_deg(b, scale * a) == pytest.approx(angle, abs=1e-6)
    assert angle_deg(-a, b) == pytest.approx(180 - angle, abs=1e-6)


def test_unrelated_large_matrices_are_nearly_orthogonal_and_a_zero_matrix_has_no_angle():
    a, b = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0))
    assert abs(angle_deg(a, b) - 90) < 5 * math.degrees(1 / 300)
    assert math.isnan(angle_deg(a, torch.zeros_like(a)))
