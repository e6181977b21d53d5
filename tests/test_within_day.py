"""Projection within days: means exact, bounds met, nearest of all such values, one day at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from downscale.errors import ShapeError
from downscale.fields.within_day import clip_to_means

kinds = st.sampled_from(["none", "low", "high", "both", "mixed"])


def drawn(seed, kind, days=3, steps=24, cells=4, scale=1.0):
    """A proposal, bounds of each step, and a mean within the means of these."""
    rng = np.random.default_rng(seed)
    shape = (days, steps, cells)
    proposal, middle = rng.normal(0, 3, shape), rng.normal(0, 1, shape)
    low, high = middle - rng.exponential(1, shape), middle + rng.exponential(1, shape)
    if kind in ("none", "high"):
        low[:] = -np.inf
    if kind in ("none", "low"):
        high[:] = np.inf
    if kind == "mixed":
        low[rng.random(shape) < 0.5], high[rng.random(shape) < 0.5] = -np.inf, np.inf
    a, b = np.maximum(low.mean(axis=1), -5), np.minimum(high.mean(axis=1), 5)
    mean = a + (b - a) * rng.random((days, cells))
    return scale * proposal, scale * mean, scale * low, scale * high


@given(st.integers(0, 2**32), kinds, st.sampled_from([1, 2, 5, 24, 48]), st.sampled_from([1e-9, 1.0, 1e6]))
def test_means_are_exact_and_bounds_are_met(seed, kind, steps, scale):
    proposal, mean, low, high = drawn(seed, kind, steps=steps, scale=scale)
    values, failed = clip_to_means(proposal, mean, low, high)
    assert not failed.any()
    np.testing.assert_allclose(values.mean(axis=1), mean, rtol=0, atol=1e-14 * np.abs(values).mean())
    assert (values >= low).all()
    assert (values <= high).all()


@given(st.integers(0, 2**32), kinds)
def test_no_other_values_are_nearer(seed, kind):
    proposal, mean, low, high = drawn(seed, kind, days=1, steps=6, cells=1)
    values, _ = clip_to_means(proposal, mean, low, high)
    z, lo, hi = proposal[0, :, 0], low[0, :, 0], high[0, :, 0]
    weight = 1e6
    rows, target = np.vstack([np.eye(6), np.full((1, 6), weight / 6)]), np.append(z, weight * mean[0, 0])
    best = lsq_linear(rows, target, (lo, np.maximum(hi, lo + 1e-9)), tol=1e-14).x
    np.testing.assert_allclose(values[0, :, 0], best, atol=1e-4)


@given(st.integers(0, 2**32), kinds, st.integers(1, 2), st.integers(1, 3))
def test_parts_have_the_same_bits(seed, kind, day, cell):
    proposal, mean, low, high = (part.astype("f4") for part in drawn(seed, kind))
    values, failed = clip_to_means(proposal, mean, low, high)
    part = np.s_[day:, :, :cell]
    again, failed_again = clip_to_means(proposal[part], mean[day:, :cell], low[part], high[part])
    assert np.array_equal(again, values[part])
    assert np.array_equal(failed_again, failed[day:, :cell])
    assert (values >= low).all()
    assert (values <= high).all()


@given(st.integers(0, 2**32))
def test_a_mean_beyond_the_bounds_wins(seed):
    proposal, _, low, high = drawn(seed, "both")
    mean = high.mean(axis=1) + 1.0
    values, failed = clip_to_means(proposal, mean, low, high)
    assert failed.all()
    np.testing.assert_allclose(values, high + 1.0)
    values, failed = clip_to_means(proposal, low.mean(axis=1), low, high)
    assert not failed.any()
    assert np.array_equal(values, low)


def test_bounds_may_be_numbers_and_gaps_stay_gaps():
    proposal = np.zeros((2, 4, 3), "f4")
    proposal[:, 1:] = 7
    mean = np.array([[1.0, np.nan, 2.0], [0.0, 5.0, 3.0]], "f4")
    high = np.full((4, 1), 6.0)
    values, failed = clip_to_means(proposal, mean, 0, high)
    assert values.dtype == "f4"
    assert np.array_equal(np.isnan(values), np.broadcast_to(np.isnan(mean)[:, None], values.shape))
    assert np.array_equal(np.isnan(mean), ~np.isfinite(values.mean(axis=1)))
    assert not failed.any()
    assert (values[1, :, 0] == 0).all()
    proposal[0, 0, 0] = np.nan
    assert np.isnan(clip_to_means(proposal, mean)[0][0, :, 0]).all()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="mean"):
        clip_to_means(np.zeros((2, 4, 3)), np.zeros((2, 4)))
    with pytest.raises(ShapeError, match="low"):
        clip_to_means(np.zeros((2, 4, 3)), np.zeros((2, 3)), low=np.zeros((2, 3)))
