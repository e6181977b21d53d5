"""Spectral images: closed forms, both views of one thing, and the order of the classic kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from downscale.errors import InputError, OptionError, ShapeError
from downscale.kernels.imaging import (
    REFERENCES,
    decibels,
    dirichlet,
    ideal_response,
    images,
    imaging,
    reference_kernel,
    response,
)
from downscale.nn.gather import split_phases

FINE = np.linspace(-0.5, 0.5, 101)
FACTORS = st.integers(2, 6)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 6])
def test_the_response_of_blocks_is_a_dirichlet_kernel(factor):
    block = reference_kernel("conservative", factor)
    found = response(block.weights, (factor,), [FINE], (block.padding,))
    assert np.allclose(found, dirichlet(FINE, factor), rtol=0, atol=1e-14)
    with np.errstate(invalid="ignore"):
        textbook = np.sin(np.pi * FINE * factor) / (factor * np.sin(np.pi * FINE))
    assert np.allclose(found, np.where(FINE == 0, 1, textbook), rtol=0, atol=1e-13)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 6])
def test_the_response_of_linear_interpolation_is_a_squared_dirichlet_kernel(factor):
    linear = reference_kernel("bilinear", factor)
    found = response(linear.weights, (factor,), [FINE], (linear.padding,))
    # Centres of coarse and fine cells coincide for odd factors; for even ones the triangle is read half a cell beside.
    beside = np.cos(np.pi * FINE) if factor % 2 == 0 else 1.0
    assert np.allclose(found, dirichlet(FINE, factor) ** 2 * beside, rtol=0, atol=1e-13)


@given(st.sampled_from(REFERENCES), FACTORS)
def test_a_centred_mirror_kernel_has_a_real_response_and_keeps_constants(name, factor):
    kernel = reference_kernel(name, factor)
    found = response(kernel.weights, (factor,), [FINE], (kernel.padding,))
    assert np.abs(found.imag).max() < 1e-12
    assert response(kernel.weights, (factor,), [[0.0]], (kernel.padding,))[0] == pytest.approx(1)
    # The phase law: no image of constants.
    assert imaging(kernel.weights, factor, kernel.padding).overall_of_constants > 250


@given(st.integers(2, 9), st.integers(2, 5), st.integers(0, 2**31))
def test_images_are_the_lines_of_a_real_transposed_convolution(kernel_size, factor, seed):
    rng = np.random.default_rng(seed)
    weights, cells = rng.normal(size=max(kernel_size, factor)), 16
    number = int(rng.integers(-7, 8))
    wave = np.exp(2j * np.pi * number * (np.arange(cells) + 0.5) / cells)
    # Round a circle, by three copies of which the middle one is read.
    made = [
        torch.nn.functional.conv_transpose1d(
            torch.from_numpy(np.tile(part, 3))[None, None], torch.from_numpy(weights)[None, None], None, factor
        )[0, 0].numpy()
        for part in (wave.real, wave.imag)
    ]
    fine = (made[0] + 1j * made[1])[cells * factor : 2 * cells * factor]
    gains = images(weights, (factor,), [[number / cells]], (0,))[0]
    for m in range(factor):
        line = np.exp(-2j * np.pi * (number / cells + m) / factor * (np.arange(cells * factor) + 0.5))
        assert (fine * line).mean() == pytest.approx(gains[m] * np.exp(-1j * np.pi * m), abs=1e-10)


@given(st.sampled_from(REFERENCES), FACTORS)
def test_phases_are_the_fourier_transform_of_images(name, factor):
    kernel, nu = reference_kernel(name, factor), np.linspace(-0.5, 0.5, 9)
    parts = split_phases(torch.from_numpy(kernel.weights), (factor,), (kernel.padding,)).numpy()
    first = -kernel.padding // factor
    offsets = first + np.arange(parts.shape[1])
    plain = np.exp(-2j * np.pi * np.multiply.outer(nu, offsets)) @ parts.T
    advance = (np.arange(factor) + 0.5) / factor - 0.5
    expected = plain * np.exp(-2j * np.pi * np.multiply.outer(nu, advance))
    gains = images(kernel.weights, (factor,), [nu], (kernel.padding,))
    found = gains @ np.exp(2j * np.pi * np.multiply.outer(np.arange(factor), advance))
    assert np.allclose(found, expected, rtol=0, atol=1e-12)


def test_two_axes_are_the_product_of_one():
    kernel, nu = reference_kernel("bicubic", 3), np.linspace(-0.4, 0.4, 5)
    one = images(kernel.weights, (3,), [nu], (kernel.padding,))
    both = images(np.outer(kernel.weights, kernel.weights), 3, [nu, nu], kernel.padding)
    assert both.shape == (5, 5, 3, 3)
    assert np.allclose(both, np.einsum("am,bn->abmn", one, one))


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_sobolev_rejects_images_best_and_passes_averages_best(factor):
    found = {
        name: imaging(k.weights, factor, k.padding) for name in REFERENCES for k in [reference_kernel(name, factor)]
    }
    assert max(found, key=lambda name: found[name].overall) == "sobolev"
    assert min(found, key=lambda name: found[name].pass_band_error_of_averages) == "sobolev"
    assert found["sobolev"].overall > found["bilinear"].overall + 10
    assert min(found, key=lambda name: found[name].overall) == "conservative"


def test_the_ideal_low_pass_lies_between():
    assert ideal_response([0.0, 0.1, 0.125, 0.2, 0.9], 4).tolist() == [1, 1, 0.5, 0, 1]


def test_uneven_coverage_is_an_image_of_constants():
    # Five equal taps, every second cell: 3 and 2 taps, so 1/5 of the mean at the highest frequency.
    found = imaging(np.ones(5) / 2.5, (2,))
    assert found.of_constants[(1,)] == pytest.approx(-decibels(0.2**2))
    assert imaging(np.ones(6) / 3, (2,)).of_constants[(1,)] == 300


@pytest.mark.parametrize(
    ("kernel", "stride", "kind", "words"),
    [
        (np.ones(4), (1,), ShapeError, "stride of at least 2 along some axis, received 1"),
        (np.ones((3, 3)), 4, ShapeError, r"k=3 and s=4 along axis 0: fine cells n with n mod 4 = 3"),
        (np.array([1.0, np.nan, 1.0]), (2,), InputError, r"finite weights, received nan at \[1\] \(1 of 3\)"),
        (np.zeros(4), (2,), InputError, "weights of zero only"),
    ],
)
def test_bad_kernels_are_refused(kernel, stride, kind, words):
    with pytest.raises(kind, match=words):
        imaging(kernel, stride)


def test_bad_names_and_bands_are_refused():
    with pytest.raises(OptionError, match="'conservative', 'bilinear', 'bicubic', 'sobolev', received 'nearest'"):
        reference_kernel("nearest", 2)
    with pytest.raises(ShapeError, match="received 1"):
        reference_kernel("bilinear", 1)
    with pytest.raises(OptionError, match=r"pass band above 0 and up to 0\.5"):
        imaging(np.ones(4), (2,), band=0.7)
