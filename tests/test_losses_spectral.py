"""Power spectra and the spectral loss: against transforms written out, known waves, noise of known variance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import generator, seeds

from downscale.errors import OptionError, ShapeError
from downscale.fields.gradient import Spacing
from downscale.fields.spectrum import has_rings, mean_steps, radial_power, rings, taper
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.losses.spatial import spectral_distance

pytestmark = pytest.mark.usefixtures("one_thread")
sizes = st.integers(4, 9)


def power_by_hand(field: np.ndarray, valid: np.ndarray, window: np.ndarray, step: tuple[float, float]) -> np.ndarray:
    """Every mode of the complex transform by its own sum, sorted into rings one by one."""
    rows, columns = field.shape
    weight = window * valid
    mean = (weight * np.where(valid, field, 0)).sum() / weight.sum()
    rest = weight * (np.where(valid, field, 0.0) - mean)
    width = max(1 / (rows * step[0]), 1 / (columns * step[1]))
    highest = min(0.5 / step[0], 0.5 / step[1])
    found: dict[int, list[float]] = {}
    y, x = np.arange(rows)[:, None], np.arange(columns)
    for j, i in np.ndindex(rows, columns):
        a, b = (j if j <= rows // 2 else j - rows), (i if i <= columns // 2 else i - columns)
        size = np.hypot(a / (rows * step[0]), b / (columns * step[1]))
        ring = int(np.floor(size / width + 0.5 + 1e-9))
        if ring > 0 and size <= highest * (1 + 1e-9):
            mode = (rest * np.exp(-2j * np.pi * (a * y / rows + b * x / columns))).sum()
            found.setdefault(ring, []).append(abs(mode) ** 2)
    return np.array([np.mean(found[ring]) for ring in sorted(found)]) / (weight**2).sum()


@given(sizes, sizes, seeds, st.sampled_from([(1.0, 1.0), (1000.0, 700.0)]), st.booleans(), st.booleans())
def test_rings_hold_the_modes_of_their_wavenumber(rows, columns, seed, step, gaps, windowed):
    rng = generator(seed)
    field = rng.standard_normal((rows, columns)) + 3
    valid = rng.uniform(size=field.shape) < 0.8 if gaps else np.ones(field.shape, bool)
    valid[0, 0] = valid[1, 1] = True
    field[~valid] = np.nan
    window = taper((rows, columns)) if windowed else np.ones((rows, columns))
    table = rings((rows, columns), step)
    expected = power_by_hand(field, valid, window, step)
    found = radial_power(field, valid, window, table)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    tensor = radial_power(*(torch.from_numpy(part) for part in (field, valid, window)), table)
    np.testing.assert_allclose(tensor, found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wave", [1, 3, 8])
@pytest.mark.parametrize("along", [0, 1])
def test_a_wave_has_its_power_in_its_ring_only(wave, along):
    phase = np.arange(16) * 2 * np.pi * wave / 16
    field = np.broadcast_to(np.cos(phase) if along else np.cos(phase)[:, None], (16, 16))
    table = rings((16, 16), (500.0, 500.0))
    power = radial_power(field, np.ones((16, 16), bool), np.ones((16, 16)), table)
    assert int(power.argmax()) == wave - 1
    assert table.wavenumber[wave - 1] == pytest.approx(wave / 8000)
    assert np.delete(power, wave - 1).max() < 1e-20 * power.max()


@pytest.mark.parametrize("gaps", [0.0, 0.4])
@pytest.mark.parametrize("windowed", [False, True])
def test_white_noise_has_its_variance_at_every_wavenumber(gaps, windowed):
    rng = np.random.default_rng(3)
    field = 2.5 * rng.standard_normal((3000, 12, 15))
    valid = np.broadcast_to(rng.uniform(size=(12, 15)) >= gaps, field.shape)
    window = taper((12, 15)) if windowed else np.ones((12, 15))
    power = radial_power(field, valid, window, rings((12, 15))).mean(axis=0)
    # The mean that is subtracted takes a little from the longest waves, the more the fewer cells count.
    np.testing.assert_allclose(power[2:], 2.5**2, rtol=0.05)


def test_steps_are_metres():
    grid = RectilinearGrid(CellAxis(np.arange(6) * 2000.0, "projected"), CellAxis(np.arange(8) * 500.0, "projected"))
    assert mean_steps(Spacing.of(grid)) == (2000.0, 500.0)


def test_the_taper_leaves_a_closed_circle_alone():
    assert bool((taper((6, 8), periodic=True) == taper((6, 8), periodic=True)[:, :1]).all())
    assert taper((6, 8))[0, 0] < 0.01 * taper((6, 8)).max()


@pytest.mark.parametrize("shape", [(3, 20), (20, 2)])
def test_a_spectrum_needs_cells(shape):
    with pytest.raises(ShapeError, match=r"at least 4 x 4 cells for a power spectrum, received"):
        rings(shape)


def test_a_spectrum_needs_a_wavenumber_in_both_directions():
    with pytest.raises(ShapeError, match="expected a map with a wavenumber that both axes resolve"):
        rings((4, 4), (1.0, 100.0))
    assert [has_rings((4, n), (1.0, 100.0)) for n in (4, 1)] == [False, False]
    assert has_rings((400, 4), (1.0, 100.0))


# The loss


def smooth(shape, seed: int) -> torch.Tensor:
    noise = generator(seed).standard_normal(shape)
    for axis in (-2, -1):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    return torch.from_numpy(noise)


@given(seeds, st.booleans())
def test_the_distance_is_that_of_the_logarithms(seed, gaps):
    made, true = smooth((2, 8, 9), seed), smooth((2, 8, 9), seed + 1)
    weight = torch.from_numpy(generator(seed).uniform(0.5, 1, (8, 9)))
    if gaps:
        true[0, 2:4, 5] = torch.nan
    total = share = 0.0
    for p, t in zip(made.numpy(), true.numpy(), strict=True):
        valid = np.isfinite(t)
        powers = [power_by_hand(field, valid, taper((8, 9)), (1.0, 1.0)) for field in (p, t)]
        least = 1e-3 * powers[1].mean()
        w = (weight.numpy() * valid).sum()
        total += w * ((np.log(powers[0] + least) - np.log(powers[1] + least)) ** 2).mean()
        share += w
    found = spectral_distance(made, true, weight, floor=1e-3)
    assert float(found) == pytest.approx(total / share, rel=1e-7)


def test_units_are_of_no_account_and_twice_the_size_is_four_times_the_power():
    true = smooth((3, 12, 12), 1)
    made = smooth((3, 12, 12), 2)
    one, other = (float(spectral_distance(made * unit, true * unit)) for unit in (1.0, 86400.0))
    assert other == pytest.approx(one, rel=1e-9)
    assert float(spectral_distance(2 * true, true, floor=1e-12)) == pytest.approx(np.log(4) ** 2, rel=1e-6)
    assert float(spectral_distance(true, true)) == 0.0


def test_a_blurred_field_is_farther_than_a_shifted_one():
    true = smooth((16, 16), 4)
    shifted = torch.roll(true, (1, 2), (-2, -1))
    blurred = (true + torch.roll(true, 1, -1) + torch.roll(true, 1, -2)) / 3
    assert float(spectral_distance(blurred, true)) > 3 * float(spectral_distance(shifted, true))


def test_derivative_and_flat_maps():
    true = smooth((2, 6, 7), 8)
    true[0, 1, 2] = torch.nan
    made = smooth((2, 6, 7), 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda field: spectral_distance(field, true), (made,))
    for target in (torch.zeros(6, 7), torch.full((6, 7), 273.15), torch.full((6, 7), torch.nan)):
        for start in (target.nan_to_num(), torch.rand(6, 7)):
            field = start.clone().requires_grad_()
            loss = spectral_distance(field, target)
            loss.backward()
            assert float(loss.detach()) == 0.0
            assert bool(torch.isfinite(field.grad).all())
    constant = torch.full((6, 7), 5.0, requires_grad=True)
    spectral_distance(constant, smooth((6, 7), 2).float()).backward()
    assert bool(torch.isfinite(constant.grad).all())


def test_the_floor_is_positive():
    with pytest.raises(OptionError, match=r"expected spectral floor > 0, received 0\.0"):
        spectral_distance(torch.zeros(4, 4), torch.zeros(4, 4), floor=0.0)
