"""Probes of up-scalers: plane waves and shifts, against the closed forms of kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from downscale.errors import InputError, ShapeError
from downscale.fields.spectrum import fourier_shift
from downscale.kernels.imaging import REFERENCES, images, imaging, reference_kernel
from downscale.metrics.response import Probe, equivariance, measure_response, mirror, plane, probe, red_noise
from downscale.nn.separable import operator

pytestmark = pytest.mark.usefixtures("one_thread")


def of_method(name: str, factor: int, cells: int = 24) -> Probe:
    return probe(lambda grid: operator(name, grid, factor), cells)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 999))
def test_whole_cells_are_a_roll(rows, columns, down, right, seed):
    field = np.random.default_rng(seed).normal(size=(2, rows, columns))
    moved = fourier_shift(field, down, right)
    assert np.allclose(moved, np.roll(field, (down, right), (-2, -1)), rtol=0, atol=1e-12)
    tensor = fourier_shift(torch.from_numpy(field), down + 0.3, right - 0.7).numpy()
    assert np.allclose(tensor, fourier_shift(field, down + 0.3, right - 0.7), rtol=0, atol=1e-12)


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_shifts_add_up_and_move_waves(first, second):
    field = red_noise(16)
    both = fourier_shift(fourier_shift(field, columns=first), columns=second)
    assert np.allclose(both, fourier_shift(field, columns=first + second), rtol=0, atol=1e-10)
    wave = np.cos(2 * np.pi * 3 * np.arange(16) / 16)[None]
    expected = np.cos(2 * np.pi * 3 * (np.arange(16) - first) / 16)[None]
    assert np.allclose(fourier_shift(wave, columns=first), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("name", REFERENCES)
def test_plane_waves_see_the_response_of_the_kernel(name, factor):
    kernel, found = reference_kernel(name, factor), measure_response(of_method(name, factor))
    gains = images(kernel.weights, (factor,), [found.frequency], (kernel.padding,))
    assert np.allclose(found.gain, np.abs(gains[:, 0]), rtol=0, atol=1e-12)
    assert np.allclose(found.images, (np.abs(gains[:, 1:]) ** 2).sum(1), rtol=0, atol=1e-12)
    assert found.harmonics.max() < 1e-14
    assert found.checkerboard_of_constants > 250


def test_what_is_not_linear_makes_harmonics():
    bent = Probe(lambda maps: np.repeat(np.repeat(maps + maps**2, 2, -1), 2, -2), 24, (2, 2))
    assert measure_response(bent).harmonics.max() > 0.01
    assert measure_response(bent, amplitude=1e-3).harmonics.max() < 1e-5


@pytest.mark.parametrize("name", REFERENCES)
def test_the_error_of_a_shift_is_what_images_turn_too_far(name):
    factor, cells, number, shift = 3, 24, 4, 0.3
    subject, kernel = of_method(name, factor, cells), reference_kernel(name, factor)
    wave = np.broadcast_to(np.cos(2 * np.pi * number * np.arange(cells) / cells), (cells, cells)).copy()
    made = subject(fourier_shift(wave, columns=shift)) - fourier_shift(subject(wave), columns=shift * factor)
    gains = images(kernel.weights, (factor,), [[number / cells]], (kernel.padding,))[0]
    # The wave of a real kernel comes with its mirror image; their images turn by opposite amounts.
    turns = np.abs(1 - np.exp(-2j * np.pi * np.array([0, 1, -1]) * shift)) ** 2
    assert (made**2).mean() == pytest.approx(float((np.abs(gains) ** 2 * turns).sum()) / 2, rel=1e-9)


@pytest.mark.parametrize("factor", [2, 4])
def test_sobolev_is_below_bilinear_where_waves_are_resolved(factor):
    found = {name: equivariance(of_method(name, factor, 32)) for name in REFERENCES}
    assert found["sobolev"].mean < 0.5 * found["bilinear"].mean < found["conservative"].mean
    assert found["sobolev"].mean_displacement < found["bilinear"].mean_displacement
    for each in found.values():
        # A whole cell is nothing to what treats all cells alike.
        assert each.error[[0, -1]].max() < 1e-12
        assert each.exact


def test_a_given_field_is_mirrored_and_its_units_do_not_matter():
    coarse, subject = np.cumsum(np.random.default_rng(0).normal(size=(2, 12, 12)), -1), of_method("bilinear", 2)
    plain, scaled = equivariance(subject, coarse), equivariance(subject, 280 + 10 * coarse)
    assert plain.mean == pytest.approx(scaled.mean, rel=1e-9)
    assert mirror(coarse, 24).shape == (2, 24, 24)


def test_bad_fields_and_factors_are_refused():
    subject = of_method("bilinear", 2)
    with pytest.raises(ShapeError, match=r"maps of 12 x 12 cells, received \(5, 5\)"):
        equivariance(subject, np.zeros((5, 5)))
    with pytest.raises(InputError, match="coarse maps that vary"):
        equivariance(subject, np.ones((12, 12)))
    with pytest.raises(ShapeError, match="factor of at least 2"):
        measure_response(Probe(lambda maps: maps, 24, (1, 1)))
    with pytest.raises(ShapeError, match=r"fine maps of shape \(1, 24, 24\), received \(1, 5, 5\)"):
        Probe(lambda maps: maps[:, :5, :5], 24, (1, 1))(np.zeros((24, 24)))
    with pytest.raises(InputError, match="finite fine values"):
        Probe(lambda maps: maps * np.nan, 24, (1, 1))(np.zeros((24, 24)))


def test_the_plane_has_equal_cells():
    assert np.ptp(plane(4, 5).cell_area) == 0


def test_rejection_is_that_of_the_kernel_on_the_waves_along_axes():
    kernel = reference_kernel("sobolev", 2)
    assert measure_response(of_method("sobolev", 2)).rejection == pytest.approx(
        imaging(kernel.weights, (2,), kernel.padding).overall, abs=1.0
    )
