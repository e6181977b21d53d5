"""Rain within days: sums exact, nothing negative, members reproducible in any chunks, and statistics of real rain."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st

from downscale.errors import InputError, OptionError, ShapeError
from downscale.fields.rain import (
    RainCascade,
    branches_of,
    estimate_cascade,
    neighbours_of,
    nodes_of,
    rain_weights,
    share_nodes,
)
from downscale.kernels.rain import random_words

AROME, RADAR = "precipitation_arome_nw_20180501_0p025deg.nc", "precipitation_bom66_20201031_500m_10min.nc"
words = st.integers(0, 2**64 - 1)


def drawn(seed, days=6, cells=5, wet=0.7):
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.5, 1.0, (days, cells)) * (rng.random((days, cells)) < wet)
    return rates, np.cumsum(rng.integers(1, 3, days)) - 700_000, np.arange(cells) + 10**10


@given(st.tuples(words, words), st.tuples(words, words, words), st.integers(0, 9))
def test_random_words_are_those_of_numpy(key, address, count):
    made = np.empty(count, np.uint64)
    random_words(np.array(key, np.uint64), np.array(address, np.uint64), made)
    generator = np.random.Philox(key=np.array(key, np.uint64), counter=np.array([0, *address], np.uint64))
    assert np.array_equal(made, generator.random_raw(count))


@given(st.integers(1, 1500))
def test_branches_are_the_prime_factors(steps):
    branches = branches_of(steps)
    assert np.prod(branches, dtype=int) == steps
    assert list(branches) == sorted(branches, reverse=True)
    assert all(branches_of(b) == (b,) for b in branches)


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 5, 7, 24, 48, 144]), st.sampled_from([1e-12, 1.0, 1e6]))
def test_sums_are_exact_and_no_rain_is_negative(seed, steps, scale):
    rates, days, cells = drawn(seed)
    weights = rain_weights(rates * scale, steps, days, cells, seed=seed)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.mean(axis=1), 1, rtol=1e-13)
    assert (weights[np.broadcast_to(rates[:, None] == 0, weights.shape)] == 1).all()


@given(st.integers(0, 2**32), st.floats(5e-324, 1e300), st.floats(5e-324, 1e300), st.floats(-30, 30))
def test_rain_of_any_size_is_divided(seed, rate, other, factor):
    around = {"before": np.full((1, 20), other), "after": np.zeros((1, 20))}
    cascade = RainCascade((0.5, factor, factor, factor, factor), (factor, factor, factor, factor, factor))
    for each in (None, cascade):
        rates, day, cells = np.full((1, 20), rate), np.array([0]), np.arange(20)
        weights = rain_weights(rates, 24, day, cells, seed=seed, cascade=each, **around)
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.mean(axis=1), 1, rtol=1e-13)


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 4), st.integers(0, 3))
def test_parts_have_the_same_bits(seed, day, cell, member):
    rates, days, cells = drawn(seed)
    before, after = neighbours_of(rates, days)
    options = {"seed": seed, "member": member}
    weights = rain_weights(rates, 24, days, cells, **options)
    part = np.s_[day:, cell:]
    again = rain_weights(rates[part], 24, days[day:], cells[cell:], before=before[part], after=after[part], **options)
    assert np.array_equal(again, weights[day:, :, cell:])


def test_seeds_members_variables_days_and_cells_differ():
    rates, days, cells = np.full((40, 30), 0.3), np.arange(40), np.arange(30)
    first = rain_weights(rates, 24, days, cells)
    others = [rain_weights(rates, 24, days, cells, seed=1), rain_weights(rates, 24, days, cells, member=1),
              rain_weights(rates, 24, days, cells, stream="prc"), rain_weights(rates, 24, days + 40, cells),
              rain_weights(rates, 24, days, cells + 30)]  # fmt: skip
    for other in others:
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.04
    assert np.array_equal(first, rain_weights(rates, 24, days, cells))


def test_gaps_are_dry_neighbours():
    values = np.arange(1.0, 5.0)[:, None]
    before, after = neighbours_of(values, np.array([1, 2, 4, 5]))
    assert before.ravel().tolist() == [0, 1, 0, 3]
    assert after.ravel().tolist() == [2, 0, 4, 0]
    weights = rain_weights(np.array([[np.nan], [1.0], [np.inf], [-1.0]]), 8, np.arange(4), np.array([0]))
    assert (weights[[0, 2, 3]] == 1).all()
    assert (weights[1] != 1).any()


def test_rain_is_near_the_wetter_neighbour():
    rates, days, cells = np.full((1, 4000), 0.2), np.array([0]), np.arange(4000)
    none, much = np.zeros_like(rates), np.full_like(rates, 2.0)
    late = rain_weights(rates, 24, days, cells, before=none, after=much)[0].mean(axis=1)
    assert late[12:].mean() > 1.5 * late[:12].mean()


@pytest.mark.parametrize("score", [-900.0, -400.0, -40.0, -1.0, 0.0, 1.0, 40.0, 400.0, 900.0])
@pytest.mark.parametrize("is_shared", [False, True])
def test_wet_children_have_their_probabilities_if_at_least_one_is_wet(score, is_shared):
    """Three children, whose scores are equal."""
    rates, days, cells = np.full((1, 4000), 0.2), np.array([0]), np.arange(4000)
    # Positions far apart.
    places = (np.arange(4000) % 80 * 2.0 - 80, np.arange(4000) // 80 * 6.0) if is_shared else None
    cascade = RainCascade(wet=(score, 0, 0, 0, 0))
    wet = rain_weights(rates, 3, days, cells, cascade=cascade, positions=places)[0] > 0
    dry = 1 / (1 + np.exp(np.float64(min(score, 700))))
    for count in (1, 2, 3):
        wanted = [3 * dry**2 * (1 - dry), 3 * dry * (1 - dry) ** 2, (1 - dry) ** 3][count - 1] / (1 - dry**3 + 1e-300)
        if dry == 1:
            wanted = float(count == 1)
        assert abs((wet.sum(axis=0) == count).mean() - wanted) < 0.04
    # No place among the three is preferred.
    assert abs(wet.mean(axis=1) - wet.mean()).max() < 0.04


places = st.lists(st.tuples(st.floats(-90, 90), st.floats(-720, 720)), min_size=1, max_size=30)


@given(places, st.integers(0, 3))
def test_noise_of_positions_is_normal_and_independent_of_other_cells(cells, layer):
    lat, lon = np.array(cells).T
    nodes, corner, weight = nodes_of(lat, lon, layer)
    assert (np.diff(nodes) > 0).all()
    np.testing.assert_allclose((weight**2).sum(axis=1), 1)
    for k in range(len(cells)):
        own, own_corner, own_weight = nodes_of(lat[k : k + 1], lon[k : k + 1], layer)
        used = own_weight[0] > 0
        assert np.array_equal(own[own_corner[0]][used], nodes[corner[k]][used])
        # Nodes are different, so that their noise adds up to variance one.
        assert np.unique(own_corner[0][used]).size == used.sum()
    assert not np.isin(nodes, nodes_of(lat, lon, layer + 1)[0]).any()


def test_rain_of_near_cells_has_similar_timing():
    lat, lon = (axis.ravel() for axis in np.meshgrid(np.arange(45, 55, 0.1), np.arange(5, 15, 0.1), indexing="ij"))
    rates, layers = np.full((1, lat.size), 0.3), np.zeros(lat.size, np.int64)
    assert share_nodes(lat, lon)
    day = np.array([3])
    weights = rain_weights(rates, 24, day, layers, positions=(lat, lon))[0].reshape(24, 100, 100)
    near, far = (np.corrcoef(weights[:, :-n].ravel(), weights[:, n:].ravel())[0, 1] for n in (1, 30))
    assert near > 0.7
    assert abs(far) < 0.1
    np.testing.assert_allclose(weights.mean(axis=0), 1)
    part = slice(30, 500)
    again = rain_weights(rates[:, part], 24, day, layers[part], positions=(lat[part], lon[part]))
    assert np.array_equal(again[0], weights.reshape(24, -1)[:, part])
    # Statistics of a cell are those of independent cells.
    alone = rain_weights(rates, 24, day, np.arange(lat.size))[0]
    assert abs((weights == 0).mean() - (alone == 0).mean()) < 0.05
    assert abs(weights.std() / alone.std() - 1) < 0.15


def test_an_estimate_finds_the_cascade_of_a_record():
    truth = RainCascade((0.8, -0.3, 0.3, 0.5, 1.0), (-0.1, 0.3, 0.1, -0.1, 0.5))
    rates, days, cells = drawn(5, 400, 40)
    days = np.arange(400)
    record = rain_weights(rates, 24, days, cells, cascade=truth) * rates[:, None]
    found = estimate_cascade(record, days)
    np.testing.assert_allclose(found.wet, truth.wet, atol=0.15)
    np.testing.assert_allclose(found.spread, truth.spread, atol=0.15)
    record[3] = np.nan
    np.testing.assert_allclose(estimate_cascade(record, days).wet, found.wet, atol=0.05)


def test_what_does_not_fit_is_refused():
    rates, days, cells = drawn(0)
    with pytest.raises(ShapeError, match="6 days and 4 cells"):
        rain_weights(rates, 24, days, cells[1:])
    with pytest.raises(OptionError, match="wet"):
        RainCascade(wet=(1.0, 2.0))
    with pytest.raises(InputError, match="longer record"):
        estimate_cascade(np.zeros((2, 24, 3)), np.arange(2))


def scores(rain):
    """Fraction of wet hours, mean maximum of wet days, correlation of neighbouring hours; shape (hours, cells)."""
    heavy = rain.mean(axis=0) * 24 >= 1
    return (
        (rain >= 0.1).mean(),
        rain[:, heavy].max(axis=0).mean(),
        np.corrcoef(rain[1:].ravel(), rain[:-1].ravel())[0, 1],
    )


@pytest.mark.parametrize("name", [AROME, RADAR])
def test_hours_are_nearer_to_real_rain_than_equal_ones(name):
    ds = xr.open_dataset(shared_data(name))
    field = ds["pr" if name == AROME else "precip"].values[:, ::6, ::6].astype("f8").clip(0)
    rain = field.reshape(24, -1, *field.shape[1:]).mean(axis=1).reshape(24, -1)
    rain = rain[:, np.isfinite(rain).all(axis=0)]
    mean = rain.mean(axis=0)
    made = rain_weights(mean[None], 24, np.array([0]), np.arange(mean.size))[0] * mean
    for real, equal, hours in zip(scores(rain), scores(np.broadcast_to(mean, rain.shape)), scores(made), strict=True):
        # Correlations of model fields are too low.
        assert abs(hours - real) < abs(equal - real) or real > 0.7
    assert 0.5 < scores(made)[0] / scores(rain)[0] < 1.5
    assert 0.7 < scores(made)[1] / scores(rain)[1] < 2
