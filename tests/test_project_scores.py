"""Scores of daily fields against NumPy and SciPy, and laws of scores of maps."""

from __future__ import annotations

from itertools import combinations, groupby
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import wasserstein_distance as scipy_distance

from downscale.cf.horizontal import horizontal
from downscale.errors import InputError
from downscale.projections.cells import CoarseCells
from downscale.projections.scores import (
    Days,
    Layout,
    add_sums,
    anomalies_of,
    as_daily_rain,
    cell_statistics,
    correlations_of,
    edge_index,
    interannual_deviation,
    lag_correlation,
    map_scores,
    map_sums,
    quantiles_of,
    sort_days,
    spell_length,
    square_sums,
    wasserstein_distance,
)

CALENDARS = ("standard", "noleap", "360_day")


def dates(calendar: str = "standard", first: int = 2001, years: int = 3) -> xr.DataArray:
    end = f"{first + years - 1}-12-{30 if calendar == '360_day' else 31}"
    time = xr.date_range(f"{first}-01-01", end, calendar=calendar, use_cftime=calendar != "standard")
    return xr.DataArray(time, dims="time", name="time")


def values(days: int, shape: tuple[int, int] = (4, 6), seed: int = 0, gaps: bool = True) -> Any:
    rng = np.random.default_rng(seed)
    fields = rng.gamma(0.5, 4.0, (days, *shape)) * (rng.random((days, *shape)) < 0.6)
    if gaps:
        fields[:, 0, 0] = np.nan
        fields[5:9, 1, 1] = np.nan
    return fields


def layout(shape: tuple[int, int] = (8, 12), factor: int = 4) -> Layout:
    y, x = (xr.DataArray(1000.0 * np.arange(n), dims=dim, attrs={"units": "m", "standard_name":
            f"projection_{dim}_coordinate"}) for dim, n in zip("yx", shape, strict=True))  # fmt: skip
    field = xr.DataArray(np.zeros(shape), dims=("y", "x"), coords={"y": y, "x": x}, name="tas")
    return Layout.of(horizontal(field), *(np.arange(n) // factor for n in shape))


@pytest.mark.parametrize("level", [0.0, 0.02, 0.5, 0.98, 0.999, 1.0])
def test_quantiles_are_those_of_numpy(level: float) -> None:
    fields = values(365)
    found = quantiles_of(*sort_days(fields), level)
    assert np.isnan(found[0, 0])
    np.testing.assert_allclose(found.ravel()[1:], np.nanquantile(fields.reshape(365, -1)[:, 1:], level, axis=0))


def test_wasserstein_distance_is_that_of_scipy() -> None:
    first, second, third = values(100), values(100, seed=1), values(90, seed=2)
    for other in (second, third):
        found = wasserstein_distance(*sort_days(first), *sort_days(other))
        for index in np.ndindex(found.shape):
            one, two = (part[(slice(None), *index)] for part in (first, other))
            valid = [part[np.isfinite(part)] for part in (one, two)]
            expected = scipy_distance(*valid) if all(part.size for part in valid) else np.nan
            np.testing.assert_allclose(found[index], expected, atol=1e-12)


def test_lag_correlation_is_that_of_numpy_and_skips_gaps() -> None:
    time = dates()
    fields = values(time.size, gaps=False)
    gap = np.r_[0:100, 150 : time.size]
    found = lag_correlation(fields[gap], Days.of(time[gap]))
    first, second = (np.delete(part, 99, axis=0) for part in (fields[gap][:-1], fields[gap][1:]))
    expected = [np.corrcoef(first[:, i, j], second[:, i, j])[0, 1] for i, j in np.ndindex(found.shape)]
    np.testing.assert_allclose(found.ravel(), expected)


def test_spells_are_runs() -> None:
    time = dates()
    wet = values(time.size, gaps=False) >= 1.0
    found = spell_length(wet, Days.of(time))
    for index in np.ndindex(found.shape):
        runs = [len(list(run)) for state, run in groupby(wet[(slice(None), *index)]) if state]
        assert found[index] == pytest.approx(np.mean(runs))


@pytest.mark.parametrize("calendar", CALENDARS)
def test_cycle_has_no_anomalies(calendar: str) -> None:
    time = dates(calendar, years=4)
    days = Days.of(time)
    place = (time.dt.dayofyear.values - 0.5) / time.dt.days_in_year.values
    cycle = np.cos(2 * np.pi * place)[:, None, None] * np.ones((1, 2, 2))
    statistics, monthly = cell_statistics(cycle, days, *sort_days(cycle), None)
    np.testing.assert_allclose(monthly[:, 0, 0], [cycle[time.dt.month.values == m, 0, 0].mean() for m in range(1, 13)])
    # Months differ in length.
    assert np.abs(anomalies_of(cycle, monthly, days)).max() < (1e-4 if calendar == "360_day" else 0.02)
    # Leap years shift days within months.
    assert statistics["interannual_sd"].max() < 2e-3


@pytest.mark.parametrize("calendar", CALENDARS)
def test_deviation_of_years_leaves_out_incomplete_ones(calendar: str) -> None:
    time = dates(calendar, years=4)[:-200]
    days = Days.of(time)
    fields = (days.year - 2001.0)[:, None, None] * np.ones((1, 1, 2))
    np.testing.assert_allclose(interannual_deviation(fields, days), np.std([0, 1, 2], ddof=1))
    assert np.isnan(interannual_deviation(fields[:400], days.slice(0, 400))).all()


def test_statistics_of_rain() -> None:
    time = dates()
    fields = values(time.size)
    statistics, _ = cell_statistics(fields, Days.of(time), *sort_days(fields), 1.0)
    cell = fields[:, 2, 2]
    assert statistics["wet_frequency"][2, 2] == pytest.approx((cell >= 1).mean())
    assert statistics["mean"][1, 1] == pytest.approx(np.nanmean(fields[:, 1, 1]))
    assert statistics["standard_deviation"][2, 2] == pytest.approx(cell.std())
    assert all(np.isnan(one[0, 0]) for one in statistics.values())


def test_rain_is_in_mm_per_day() -> None:
    amount = {"standard_name": "precipitation_amount"}
    for units, scale in (("mm", 1), ("kg m-2", 1), ("m", 1000), ("cm", 10)):
        rain = as_daily_rain(xr.DataArray([2.0], attrs={**amount, "units": units}))
        assert rain is not None
        assert rain.item() == pytest.approx(2 * scale)
    assert as_daily_rain(xr.DataArray([2.0], attrs={"units": "K", "standard_name": "air_temperature"})) is None
    with pytest.raises(InputError, match="expected rain in 'kg m-2 s-1'"):
        as_daily_rain(xr.DataArray([2.0], name="pr", attrs={**amount, "units": "ids"}))


def test_sums_of_parts_add_up() -> None:
    grid, fields, observed = layout(), values(60, (8, 12)), values(60, (8, 12), seed=1)
    anomalies = fields - 1.0
    whole = {**map_sums(fields, anomalies, grid), **square_sums(fields, observed, grid)}
    parts: dict[str, Any] = {}
    for part in (slice(0, 17), slice(17, 60)):
        parts = add_sums(parts, map_sums(fields[part], anomalies[part], grid))
        parts = add_sums(parts, square_sums(fields[part], observed[part], grid))
    assert parts.keys() == whole.keys()
    for name, one in whole.items():
        np.testing.assert_allclose(parts[name], one, rtol=1e-12, atol=1e-9)


def test_correlations_and_variogram_are_those_of_numpy() -> None:
    grid, fields = layout((2, 4), 2), values(60, (2, 4), gaps=False)
    fields[3:9, 1, 1] = np.nan
    sums = map_sums(fields, fields, grid)
    cells = fields.reshape(60, -1)
    expected = []
    for i, j in combinations(range(8), 2):
        valid = np.isfinite(cells[:, i]) & np.isfinite(cells[:, j])
        expected.append(np.corrcoef(cells[valid][:, i], cells[valid][:, j])[0, 1])
    np.testing.assert_allclose(correlations_of(sums), expected, rtol=1e-10)
    assert grid.lags == ((-2, 1), (-1, 1), (-1, 2))
    change = fields[..., 2:] - fields[..., :-2]
    np.testing.assert_allclose(sums["variogram"][2], [np.nansum(change**2), np.isfinite(change).sum()])


def test_block_edges() -> None:
    grid = layout()
    ramp = np.add.outer(3.0 * np.arange(8), 2.0 * np.arange(12))[None]
    assert edge_index(map_sums(ramp, ramp, grid)) == pytest.approx(1.0, abs=1e-12)
    blocks = ramp[:, ::4, ::4].repeat(4, axis=1).repeat(4, axis=2)
    assert edge_index(map_sums(blocks, blocks, grid)) == np.inf
    assert edge_index(map_sums(blocks + 0.1 * ramp, blocks, grid)) > 20
    assert np.isnan(edge_index(map_sums(0 * ramp, ramp, grid)))


def test_equal_fields_have_no_error() -> None:
    grid, fields = layout(), values(60, (8, 12))
    sums = {**map_sums(fields, fields, grid), **square_sums(fields, fields, grid)}
    scores = map_scores(sums, sums, grid)
    assert scores["spatial_correlation_error"] == scores["variogram_error"] == scores["ralsd"] == scores["rmse"] == 0
    assert scores["block_edge_ratio"] == 1


def test_spectral_distance_of_scaled_fields_is_their_ratio() -> None:
    grid, fields = layout((16, 16)), values(30, (16, 16), gaps=False)
    sums, larger = (map_sums(part, part, grid) for part in (fields, 10 * fields))
    assert map_scores(larger, sums, grid)["ralsd"] == pytest.approx(20.0)
    assert map_scores(larger, sums, grid)["variogram_error"] == pytest.approx(99.0)


def test_parents_of_grids_that_nest_or_not() -> None:
    def field(size: int, step: float) -> xr.Dataset:
        coords = {}
        for dim, name in (("lat", "latitude"), ("lon", "longitude")):
            centres = 10 + step * (np.arange(size) + 0.5)
            units = "degrees_north" if dim == "lat" else "degrees_east"
            coords[dim] = (dim, centres, {"standard_name": name, "units": units})
        return xr.Dataset({"tas": (("lat", "lon"), np.zeros((size, size)))}, coords)

    nested = CoarseCells.between(field(2, 3.0), field(6, 1.0))
    assert nested.rows.tolist() == nested.columns.tolist() == [0, 0, 0, 1, 1, 1]
    crossing = CoarseCells.between(field(3, 2.0), field(4, 1.5))
    assert crossing.columns.tolist() in ([0, 0, 2, 2], [0, 1, 1, 2], [0, 0, 1, 2])
    constant = np.full((2, 4, 4), 5.0)
    constant[0, 0, 0] = np.nan
    np.testing.assert_allclose(crossing.mean(constant), 5.0)
