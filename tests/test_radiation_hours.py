"""Solar radiation within days: dark at night, means exact, order kept, and a station's hours as a reference."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from downscale.fields.radiation import BRIGHTEST, solar_steps
from downscale.fields.sun import mean_cosine_zenith

LATITUDES = np.array([-90.0, -66.0, -20.0, 0.0, 45.0, 67.0, 80.0])


def cosines(day, steps=24):
    begin = np.datetime64("2001-01-01", "m") + 1440 * day + (1440 // steps) * np.arange(steps)
    return mean_cosine_zenith(begin, begin + 1440 // steps, LATITUDES, [10.0])[:, :, 0][None]


@given(st.integers(0, 364), st.sampled_from([2, 8, 24, 48]), st.integers(0, 2**32), st.booleans(),
       st.sampled_from([1.0, 86400.0]))  # fmt: skip
def test_means_are_exact_and_nights_dark(day, steps, seed, at_surface, per_watt):
    cosine = cosines(day, steps)
    mean = per_watt * np.random.default_rng(seed).uniform(0, 600, (1, LATITUDES.size))
    made, beyond = solar_steps(mean, cosine, at_surface=at_surface, per_watt=per_watt)
    np.testing.assert_allclose(made.mean(axis=1), mean, rtol=1e-12)
    assert (made >= 0).all()
    most = BRIGHTEST * per_watt * cosine.mean(axis=1)
    assert np.array_equal(beyond, (mean > most) | ((cosine.sum(axis=1) == 0) & (mean > 0)))
    assert (made[(cosine == 0) & ~beyond[:, None]] == 0).all()
    excess = np.where(beyond, mean - most, 0)[:, None]
    np.testing.assert_allclose(np.where(cosine == 0, made, excess), np.broadcast_to(excess, made.shape), rtol=1e-9)


@given(st.integers(0, 364), st.integers(0, 2**32))
def test_a_part_is_nowhere_more_than_the_whole(day, seed):
    rng, cosine = np.random.default_rng(seed), cosines(day)
    mean = rng.uniform(0, 400, (1, LATITUDES.size)).astype("f4")
    part = (mean * rng.choice([0.0, 0.3, 1.0], mean.shape)).astype("f4")
    whole, some = (solar_steps(values, cosine)[0].astype("f4") for values in (mean, part))
    assert (some <= whole).all()


def test_gaps_stay_gaps():
    mean = np.full((1, LATITUDES.size), np.nan)
    assert np.isnan(solar_steps(mean, cosines(0))[0]).all()


def test_the_clear_sky_is_lower_near_the_horizon():
    mean = np.full((1, LATITUDES.size), 100.0)
    surface, top = solar_steps(mean, cosines(80))[0], solar_steps(mean, cosines(80), at_surface=False)[0]
    dawn, noon = 6, 11
    assert surface[0, dawn, 3] < top[0, dawn, 3]
    assert surface[0, noon, 3] > top[0, noon, 3]
