"""Pairs: averages by the operator A, independent fields on matching grids, splits that do not leak."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from sample_fields import field_on, plane, region
from training_recipes import SAMPLE, data_block, source_of

import downscale
from downscale.errors import GridError, InputError, OptionError, ShapeError
from downscale.fields.gradient import Spacing, slope
from downscale.models.static_features import static_features
from downscale.training.pairs import MapCache, map_bytes, read_map, split_times
from downscale.training.schema import ValidationSplit


def north_america() -> xr.Dataset:
    return downscale.sample.open("north_america").isel(lat=slice(0, 36), lon=slice(0, 48))


@pytest.fixture
def coarse_file(tmp_path: Path) -> Path:
    """The averages of the sample, as if another model had made them."""
    path = tmp_path / "coarse.nc"
    downscale.coarsen(north_america(), 4).to_netcdf(path)
    return path


def test_the_coarse_map_is_the_average_that_coarsen_gives() -> None:
    made = read_map(source_of(), 3)
    expected = downscale.coarsen(north_america(), 4).tas.isel(time=3).values
    np.testing.assert_allclose(made.coarse[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(made.target[0], north_america().tas.isel(time=3).values.astype("f4"))


def test_the_proposal_is_that_of_the_method_sobolev() -> None:
    made = read_map(source_of(), 3)
    coarse = downscale.coarsen(north_america(), 4).isel(time=3)
    expected = downscale.downscale(coarse, 4, conserve=None, bounds=None).tas.values
    np.testing.assert_allclose(made.proposal[0], expected, rtol=2e-6)


def test_rows_and_columns_that_fill_no_coarse_cell_are_left_out() -> None:
    source = source_of()
    assert source.fine.shape == (36, 48)
    assert source.grid.shape == (9, 12)


def test_averaging_first_gives_a_coarser_truth_with_the_same_averages() -> None:
    twice = source_of({**SAMPLE, "average": 2}, factor=2)
    once = source_of(factor=4)
    assert twice.fine.shape == (18, 24)
    np.testing.assert_allclose(read_map(twice, 0).coarse, read_map(once, 0).coarse, rtol=1e-6)


def test_real_radar_is_read_with_its_gaps_and_bounds() -> None:
    path = str(shared_data("precipitation_fmi_20160928_1km_5min.nc"))
    source = source_of({"fine": path}, outputs=["precip"])
    made = read_map(source, 0)
    assert sum(array.nbytes for array in vars(made).values()) == map_bytes(source)
    assert 0.5 < np.isfinite(made.target).mean() < 1
    assert np.nanmin(made.coarse) >= 0
    # What is judged lies in cells that are whole.
    whole = source.cells.apply_mask(np.isfinite(made.target)).valid_fraction
    assert set(np.round(whole[whole > 0], 6)) == {1.0}


def test_members_of_one_time_are_on_one_side() -> None:
    path = str(shared_data("temperature_mogrepsuk_2km_20170602-03.nc"))
    source = source_of({"fine": path})
    assert source.sizes == (2, 12)
    sides = split_times(source.dates, 2, ValidationSplit(fraction=0.5, gap=0), "split", "a")
    assert source.maps_of(sides.train).tolist() == list(range(12))
    assert source.maps_of(sides.validation).tolist() == list(range(12, 24))


def test_an_independent_coarse_field_is_taken_as_it_is(coarse_file: Path) -> None:
    with xr.open_dataset(coarse_file) as ds:
        moved = ds.load().assign(tas=ds.tas + 2).isel(lat=slice(None, None, -1))
    moved.to_netcdf(coarse_file)
    source = source_of({**SAMPLE, "coarse": str(coarse_file)})
    plain = read_map(source_of(), 5)
    np.testing.assert_allclose(read_map(source, 5).coarse, plain.coarse + 2, rtol=1e-6)
    assert len(source.files) == 2


def refused(coarse_file: Path, change: Any) -> dict[str, Any]:
    with xr.open_dataset(coarse_file, decode_coords="all") as ds:
        changed = change(ds.load())
    changed.to_netcdf(coarse_file)
    return {**SAMPLE, "coarse": str(coarse_file)}


def test_grids_that_do_not_match_are_refused(coarse_file: Path) -> None:
    pair = refused(coarse_file, lambda ds: ds.isel(lat=slice(1, None)))
    with pytest.raises(GridError, match="sample:north_america: expected a coarse grid of 9 x 12 cells in which"):
        source_of(pair)


def test_another_factor_than_that_of_the_files_is_refused(coarse_file: Path) -> None:
    with pytest.raises(ShapeError, match="expected fine cells of factor 2 x 2 in the coarse ones, received 4 x 4"):
        source_of({**SAMPLE, "coarse": str(coarse_file)}, factor=2)


def test_dates_that_are_not_shared_are_refused(coarse_file: Path) -> None:
    later = refused(coarse_file, lambda ds: ds.assign_coords(time=ds.time + timedelta(days=1)))
    with pytest.raises(InputError, match="expected dates that the coarse and the fine file share, received none"):
        source_of(later)


def test_a_variable_is_found_under_the_name_of_its_file_and_units_are_converted() -> None:
    channel = {"name": "t", "units": "degC"}
    source = source_of({**SAMPLE, "names": {"t": "tas"}}, outputs=[channel])
    np.testing.assert_allclose(read_map(source, 0).target, read_map(source_of(), 0).target - 273.15, atol=1e-4)
    with pytest.raises(InputError, match="expected a variable among 'tas', received 't'; set its name in names"):
        source_of(outputs=[channel])
    with pytest.raises(OptionError, match="expected 'tas' in 'mm' or units that fit, received 'K'; set multiply"):
        source_of(outputs=[{"name": "tas", "units": "mm"}])
    scaled = source_of({**SAMPLE, "multiply": {"tas": 2.0}}, outputs=[{"name": "tas", "units": "mm"}])
    np.testing.assert_allclose(read_map(scaled, 0).target, 2 * read_map(source_of(), 0).target)


def test_other_faults_of_a_pair_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an existing file"):
        source_of({"fine": str(tmp_path / "none.nc")})
    with pytest.raises(ShapeError, match="expected at least 40 cells along 'lat'"):
        source_of(factor=40)
    with pytest.raises(InputError, match="expected orog for the static 'slope', received none"):
        source_of({"fine": "sample:north_america"}, statics=["slope"])
    with pytest.raises(OptionError, match=r"expected select of the coordinates .*received 'depth'"):
        source_of({**SAMPLE, "select": {"depth": [0, 1]}})
    with pytest.raises(OptionError, match="expected values of 'lat' from 80 to 85"):
        source_of({**SAMPLE, "select": {"lat": [80, 85]}})
    ds = field_on(region(8, 8), 3)
    ds[next(iter(ds.data_vars))][1, 2, 3] = np.inf
    ds.to_netcdf(tmp_path / "inf.nc")
    source = source_of({"fine": str(tmp_path / "inf.nc")}, outputs=[next(iter(ds.data_vars))])
    with pytest.raises(InputError, match=r"expected finite or missing values in .*received infinite ones in map"):
        read_map(source, 1)


def test_values_beyond_the_bounds_are_drawn_back_to_them() -> None:
    source = source_of(outputs=[{"name": "tas", "bounds": [270, 290]}])
    made = read_map(source, 0)
    assert made.target.min() == 270
    assert made.coarse.max() <= 290


def test_the_shelf_keeps_no_more_than_its_bound() -> None:
    source = source_of()
    cache = MapCache([source], 3.5 * map_bytes(source) / 2**20)
    for number in (0, 1, 2, 3, 1, 0, 23):
        np.testing.assert_array_equal(cache.get(0, number).target, read_map(source, number).target)
        assert len(cache._maps) * map_bytes(source) <= 3.5 * map_bytes(source)


def test_slopes_and_relief_of_a_plane_are_known() -> None:
    grid = plane(12, 16)
    x, y = np.meshgrid(grid.x.centres, grid.y.centres)
    orog = 0.03 * x + 0.04 * y
    cells = source_of().cells.__class__.between(grid.coarsen(4, 4), grid)
    made = static_features(["relief", "slope", "aspect"], grid, cells, {"orog": orog})
    np.testing.assert_allclose(made["slope"], 0.05, rtol=1e-9)
    np.testing.assert_allclose(made["slope"], slope(orog, Spacing.of(grid)))
    np.testing.assert_allclose(made["aspect_sin"], 0.6, rtol=1e-9)
    np.testing.assert_allclose(made["aspect_cos"], 0.8, rtol=1e-9)
    np.testing.assert_allclose(cells.mean(made["relief"]), 0, atol=1e-9)


def test_positions_and_times_are_angles() -> None:
    source = source_of(statics=["lat", "lon"], encodings=["hour", "day_of_year"])
    np.testing.assert_allclose(source.statics[0] ** 2 + source.statics[1] ** 2, 1, rtol=1e-6)
    np.testing.assert_allclose(np.rad2deg(np.arcsin(source.statics[0][:, 0])), source.fine.y.centres, rtol=1e-5)
    # The sample's dates are the first of June in a calendar of 360 days.
    assert np.ptp(source.time_features, axis=0).max() == 0
    np.testing.assert_allclose(source.time_features[0, 2], np.sin(2 * np.pi * 150 / 365.2425), rtol=1e-5)


@given(count=st.integers(2, 60), fraction=st.floats(0, 0.9), gap=st.integers(0, 8), seed=st.integers(0, 99))
def test_the_gap_keeps_the_sides_apart(count: int, fraction: float, gap: int, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(count)
    dates = np.datetime64("2000-01-01", "ns") + order * np.timedelta64(6, "h")
    sides = split_times(dates, count, ValidationSplit(fraction=fraction, gap=gap), "split", "a")
    train, held = np.sort(order[sides.train]), np.sort(order[sides.validation])
    assert held.size == round(fraction * count)
    assert not set(train) & set(held)
    if held.size:
        assert (np.diff(held) == 1).all()
        assert held[-1] == count - 1
        assert all(np.abs(held - each).min() > gap for each in train)
    by_hours = ValidationSplit(fraction=fraction, gap=f"{6 * gap} hours" if gap else 0)
    words = split_times(dates, count, by_hours, "split", "a")
    np.testing.assert_array_equal(words.train, sides.train)


def test_a_span_of_dates_is_held_out_in_any_calendar() -> None:
    source = source_of()
    how = data_block(validation={"span": ["1959", "1979"], "gap": 1}).validation
    sides = split_times(source.dates, 24, how, "split", "a")
    years = [date.year for date in source.dates]
    assert [years[i] for i in sides.validation] == [1959, 1969, 1979]
    assert 1949 not in [years[i] for i in sides.train]
    assert 1939 in [years[i] for i in sides.train]
    with pytest.raises(InputError, match="expected dates for the validation span, received none"):
        split_times(None, 24, how, "split", "a")
