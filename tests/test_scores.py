"""Scores: against formulas written out over single cells; the same in any order and cutting; no torch needed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import generator, grids, seeds

from downscale.errors import OptionError, ShapeError
from downscale.fields.gradient import Spacing, sobel
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.metrics import distribution
from downscale.metrics.distribution import RESOLUTION, Distribution
from downscale.metrics.ensemble import crps, spread_skill
from downscale.metrics.scores import SCORES, Moments, Scores, Setting, score

MEMBERS = 4


def world(rows: int = 6, columns: int = 8) -> RectilinearGrid:
    lat, lon = np.linspace(90, -90, rows + 1), np.linspace(0, 360, columns + 1)
    return RectilinearGrid(CellAxis(lat, "latitude"), CellAxis(lon, "longitude"))


GRID = world()
SETTING = Setting(Spacing.of(GRID), wet=0.5, extreme=0.9)


def case(seed: int, maps: int = 5, members: int | None = None, missing: float = 0.1):
    rng = generator(seed)
    shape = (maps, *GRID.shape)
    true = rng.gamma(0.7, 2.0, shape)
    made = true + rng.standard_normal(shape if members is None else (members, *shape))
    true[rng.uniform(size=shape) < missing] = np.nan
    made[..., 0, 2, 3] = np.nan
    area = GRID.cell_area * (rng.uniform(size=GRID.shape) > missing / 2)
    return made, true, area


def scored(made, true, area, setting: Setting = SETTING) -> Scores:
    scores = Scores(setting)
    scores.add(made, true, area)
    return scores


def weighted_quantile(values: np.ndarray, weights: np.ndarray, level: float) -> float:
    """The first value, in order, at which a share ``level`` of the weight is reached."""
    reached, total = 0.0, weights.sum()
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if reached >= level * total * (1 - 1e-12):
            return value
    raise AssertionError


def by_hand(made, true, area) -> dict[str, float]:
    """All scores of an ensemble (members first) that are sums over cells."""
    weight = np.broadcast_to(area, true.shape) * np.isfinite(true)
    lost = weight * ~np.isfinite(made).all(axis=0)
    weight = weight - lost
    some = weight > 0
    w, y, x = weight[some], true[some], made[:, some]
    m, count = x.mean(0), len(made)
    mean = lambda values: float((w * values).sum() / w.sum())  # noqa: E731
    pairs = np.abs(x[:, None] - x[None]).sum((0, 1))
    variance, square = mean(((x - m) ** 2).sum(0) / (count - 1)) if count > 1 else np.nan, mean((m - y) ** 2)
    flat, share = x.ravel(), np.tile(w / count, count)
    extremes = weighted_quantile(flat, share, 0.9), weighted_quantile(y, w, 0.9)
    return {
        "rmse": square**0.5,
        "mae": mean(np.abs(m - y)),
        "bias": mean(m - y),
        "correlation": float(np.cov(m, y, aweights=w)[0, 1] / np.prod([np.cov(v, aweights=w) for v in (m, y)]) ** 0.5),
        "crps": mean(np.abs(x - y).mean(0) - (pairs / (2 * count * (count - 1)) if count > 1 else 0)),
        "spread": variance**0.5,
        "spread_skill": ((count + 1) / count * variance / square) ** 0.5,
        "extreme": extremes[0],
        "true_extreme": extremes[1],
        "wet_frequency": mean((x >= 0.5).mean(0)),
        "true_wet_frequency": mean(y >= 0.5),
        "missing": float(lost.sum() / (lost.sum() + w.sum())),
    }


@given(seeds, st.sampled_from([None, 2, MEMBERS]), st.sampled_from([0.0, 0.1, 0.5]))
def test_scores_are_means_by_area_over_what_is_there(seed, members, missing):
    made, true, area = case(seed, members=members, missing=missing)
    found = scored(made, true, area).result()
    expected = by_hand(made if members else made[None], true, area)
    for name, value in expected.items():
        tolerance = 2 * RESOLUTION if "extreme" in name else 1e-9
        assert found[name] == pytest.approx(value, rel=tolerance, abs=1e-12, nan_ok=True), name
    assert found["extreme_bias"] == pytest.approx(found["extreme"] - found["true_extreme"], rel=1e-12, abs=1e-15)


@given(grids(3), seeds, st.sampled_from([0.0, 0.05]))
def test_gradient_rmse_is_over_whole_stencils(grid, seed, missing):
    rng = generator(seed)
    made, true = rng.standard_normal((2, *grid.shape))
    gap = rng.uniform(size=grid.shape) < missing
    true[gap] = np.nan
    rows, columns = grid.shape
    east, north = sobel(np.where(gap, 0.0, made - true), Spacing.of(grid))
    total = share = 0.0
    for i, j in np.ndindex(rows, columns):
        near = [(a, b) for a in (i - 1, i, i + 1) for b in (j - 1, j, j + 1) if 0 <= a < rows]
        near = [(a, b % columns) for a, b in near] if grid.x.periodic else [(a, b) for a, b in near if 0 <= b < columns]
        if not any(gap[place] for place in near):
            w = grid.cell_area[i, j]
            total, share = total + w * (east[i, j] ** 2 + north[i, j] ** 2), share + w
    found = score("gradient_rmse", made, true, grid.cell_area, spacing=Spacing.of(grid))
    assert found == pytest.approx((total / share) ** 0.5 if share else np.nan, rel=1e-9, nan_ok=True)


@given(seeds, st.integers(1, 7))
def test_a_circle_has_no_seam_gaps_included(seed, turn):
    made, true, _ = case(seed, maps=1, missing=0.05)
    turned = np.roll(made, turn, -1), np.roll(true, turn, -1)
    one, other = scored(made, true, GRID.cell_area).result(), scored(*turned, GRID.cell_area).result()
    assert other == pytest.approx(one, rel=1e-9, nan_ok=True)


@given(seeds, st.sampled_from([None, MEMBERS]), st.permutations(range(5)), st.integers(1, 4))
def test_any_order_and_cutting_of_the_maps_scores_the_same(seed, members, order, cut):
    made, true, area = case(seed, members=members)
    whole = scored(made, true, area).result()
    parts = [Scores(SETTING), Scores(SETTING)]
    for place, index in enumerate(order):
        parts[place >= cut].add(made[..., index, :, :], true[index], area)
    for merged in (parts[0].merge(parts[1]), parts[1].merge(parts[0]), Scores(SETTING).merge(parts[0]).merge(parts[1])):
        for name, value in merged.result().items():
            assert value == pytest.approx(whole[name], rel=1e-9, abs=1e-12, nan_ok=True), name
    assert parts[0].merge(parts[1])["extreme"] == whole["extreme"]


def test_a_perfect_prediction_has_perfect_scores():
    true = case(2)[1]
    found = score_all(true.copy(), true)
    perfect = {"rmse": 0, "mae": 0, "bias": 0, "correlation": 1, "crps": 0, "extreme_bias": 0, "gradient_rmse": 0,
               "spectral_distance": 0, "missing": 0}  # fmt: skip
    assert {name: found[name] for name in perfect} == pytest.approx(perfect, abs=1e-12)
    assert found["wet_frequency"] == found["true_wet_frequency"]


def score_all(made, true) -> dict[str, float]:
    return scored(made, true, GRID.cell_area).result()


def test_scores_without_a_meaning_are_nan_not_errors():
    nothing = Scores().result()
    assert set(nothing) == set(SCORES)
    assert all(np.isnan(value) for value in nothing.values())
    gone = scored(np.full(GRID.shape, np.nan), np.ones(GRID.shape), GRID.cell_area).result()
    assert gone["missing"] == 1.0
    assert np.isnan(gone["rmse"])
    plain = Scores()
    plain.add(np.ones((3, 3)), np.full((3, 3), 2.0))
    found = plain.result()
    absent = [name for name, value in found.items() if np.isnan(value)]
    assert absent == ["correlation", "spread", "spread_skill", "rank_unevenness", "rank_flatness", "wet_frequency",
                      "true_wet_frequency", "gradient_rmse", "spectral_distance"]  # fmt: skip
    assert found["crps"] == found["mae"] == 1.0


def test_a_reliable_ensemble_has_spread_as_skill():
    """Members and truth of one law; without (M + 1) / M three members would seem too narrow."""
    draws = np.random.default_rng(1).standard_normal((4, 300, 400))
    assert score("spread_skill", draws[1:], draws[0]) == pytest.approx(1.0, abs=0.01)
    assert score("spread_skill", 0.5 * draws[1:], draws[0]) < 0.6
    assert np.isnan(spread_skill(1.0, 0.0, 3))


def test_crps_of_numpy_expects_the_closed_form():
    draws = np.random.default_rng(3).standard_normal((3, 200_000))
    z = 0.4
    expected = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    assert crps(draws, np.full(200_000, z)).mean() == pytest.approx(expected, abs=0.005)
    # Half the mean difference of two draws, 1 / sqrt(pi), divided by the number of members.
    standard = crps(draws, np.full(200_000, z), fair=False).mean()
    assert standard == pytest.approx(expected + 1 / (3 * np.sqrt(np.pi)), abs=0.005)
    with pytest.raises(ShapeError, match=r"expected members along the first dimension, received shape \(0, 2\)"):
        crps(np.empty((0, 2)), np.zeros(2))


def test_halved_amplitude_is_six_decibels():
    true = np.random.default_rng(4).standard_normal((3, 16, 16))
    assert score("spectral_distance", 0.5 * true, true) == pytest.approx(20 * np.log10(2), rel=1e-9)
    scores = Scores()
    scores.add(0.5 * true, true)
    made, expected = scores.spectra.power
    np.testing.assert_allclose(made, expected / 4, rtol=1e-12)
    assert scores.spectra.wavenumber.shape == made.shape == (8,)


def test_members_are_averaged_in_power():
    """The mean of members is smooth; the members are not."""
    draws = np.random.default_rng(5).standard_normal((6, 40, 16, 16))
    assert score("spectral_distance", draws[1:], draws[0]) < 0.5


# Sums


@given(seeds, st.floats(0, 1))
def test_quantiles_are_those_of_numpy_but_for_rounding(seed, level):
    rng = generator(seed)
    values, weights = rng.standard_normal(200) * 10.0 ** rng.integers(-8, 8), rng.integers(0, 5, 200) * 0.25
    weights[0] = 1.0
    expected = np.quantile(values[weights > 0], level, weights=weights[weights > 0], method="inverted_cdf")
    found = Distribution.of(values, weights).quantile(level)
    assert found == pytest.approx(expected, rel=2 * RESOLUTION)


def test_a_long_record_stays_small():
    rng = np.random.default_rng(6)
    temperatures = Distribution()
    for _ in range(40):
        temperatures = temperatures.merge(Distribution.of(rng.normal(285, 10, 50_000), np.ones(1)))
    assert temperatures.weights.sum() == 2_000_000
    assert temperatures.values.size < 40_000
    assert temperatures.quantile(0.999) == pytest.approx(285 + 10 * stats.norm.ppf(0.999), abs=0.2)


@given(st.integers(0, 1000), st.booleans())
def test_counting_and_sorting_find_the_same(seed, narrow):
    """A few values far apart are sorted, many near each other counted; with repeats in both."""
    rng = generator(seed)
    values = rng.normal(280, 10, 3000) if narrow else rng.standard_normal(30) * 10.0 ** rng.integers(-2, 2, 30)
    values = np.repeat(values, 2)
    weights = rng.uniform(0.1, 1, values.size)
    both = []
    for sparse in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distribution, "SPARSE", sparse)
            both.append(Distribution.of(values, weights))
    for found in both:
        assert bool((np.diff(found.values) > 0).all())
        gap = np.abs(values[:, None] - found.values).min(axis=1)
        assert bool((gap <= 1.01 * RESOLUTION * np.abs(values)).all())
    np.testing.assert_array_equal(both[0].values, both[1].values)
    np.testing.assert_allclose(both[0].weights, both[1].weights, rtol=1e-12)
    assert both[0].weights.sum() == pytest.approx(weights.sum())


def test_distributions_of_odd_values():
    odd = Distribution.of(np.array([0.0, -0.0, np.nan, np.inf, 1e300, -1e300]), np.ones(6))
    largest = np.finfo(np.float32).max
    assert odd.values.tolist() == pytest.approx([-largest, 0.0, largest], rel=RESOLUTION)
    assert odd.weights.tolist() == [1.0, 2.0, 1.0]
    assert np.isnan(Distribution().quantile(0.5))
    assert Distribution.of(odd.values, np.ones(3)).values.tolist() == odd.values.tolist()
    with pytest.raises(OptionError, match=r"expected a quantile level from 0 to 1, received 99\.9"):
        odd.quantile(99.9)


def test_moments_far_from_zero_keep_their_digits():
    """Pressure: a variance of 1e-4 beside a mean of 1e5; sums of squares alone would lose it."""
    rng = np.random.default_rng(7)
    small, other = 1e-2 * rng.standard_normal((2, 4000))
    weight = np.ones(1000)
    moments = Moments()
    for part in range(0, 4000, 1000):
        cut = slice(part, part + 1000)
        moments = moments.merge(Moments.of(1e5 + small[cut], 1e5 + small[cut] + other[cut], weight))
    expected = np.corrcoef(small, small + other)[0, 1]
    assert moments.correlation == pytest.approx(expected, abs=1e-6)
    assert moments.square == pytest.approx(4000 * small.var(), rel=1e-6)


# Refusals


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ShapeError, match=r"of the target's shape, members first if any, received \(3, 4\) and"):
        score("rmse", np.ones((3, 4)), np.ones((4, 3)))
    with pytest.raises(OptionError, match=r"expected a score among 'rmse', 'mae', .*, received 'r2'"):
        score("r2", np.ones((3, 4)), np.ones((3, 4)))
    with pytest.raises(OptionError, match=r"expected an extreme level between 0 and 1, received 99\.9"):
        Setting(extreme=99.9)
    one, three, coarse = Scores(), Scores(), Scores()
    one.add(np.ones((5, 5)), np.ones((5, 5)))
    three.add(np.ones((3, 5, 5)), np.ones((5, 5)))
    coarse.add(np.ones((9, 9)), np.ones((9, 9)))
    with pytest.raises(ShapeError, match="expected scores of as many members, received 1 and 3"):
        one.merge(three)
    with pytest.raises(ShapeError, match="expected 1 members as before, received 3; score them apart"):
        one.add(np.ones((3, 5, 5)), np.ones((5, 5)))
    with pytest.raises(ShapeError, match="expected spectra of maps of one shape and spacing, received 2 and 4 rings"):
        one.merge(coarse)
    with pytest.raises(OptionError, match="expected scores of one wet threshold and extreme level"):
        one.merge(Scores(Setting(wet=1.0)))


def test_no_torch_is_needed():
    code = "import sys, downscale.metrics.scores; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_real_rain_blocks_are_worse_than_the_truth_in_every_way():
    """Block means of radar rain: no bias, smaller extremes, wider rain."""
    path = shared_data("precipitation_fmi_20160928_1km_5min.nc")
    with xr.open_dataset(path) as data:
        name = next(name for name, var in data.data_vars.items() if var.ndim == 3)
        fine = data[name][:4, 400:720, 200:520].values.astype(np.float64)
    rows, columns = (size // 4 * 4 for size in fine.shape[-2:])
    fine = fine[:, :rows, :columns]
    cells = fine.reshape(4, rows // 4, 4, columns // 4, 4)
    blocks = np.broadcast_to(cells.mean((2, 4), keepdims=True), cells.shape).reshape(fine.shape)
    scores = Scores(Setting(wet=0.1))
    scores.add(blocks, fine)
    assert abs(scores["bias"]) < 1e-12
    assert scores["extreme_bias"] < 0
    assert scores["wet_frequency"] > scores["true_wet_frequency"]
    assert scores["spectral_distance"] > 1
