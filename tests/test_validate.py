"""The validator on anybody's output: axes turned, bounds missing, times a little off; leaks found wherever they are."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_fields import field_on, plane, rain_on, region, world
from strategies import cuttings, seeds

import downscale
from downscale.check import comparison
from downscale.conservation import regions
from downscale.errors import ConservationError, GridError, InputError, ShapeError


def turned(ds: xr.Dataset) -> xr.Dataset:
    """The same world from -180 to 180, without the bounds of its longitudes."""
    return ds.assign_coords(lon=(ds.lon + 180) % 360 - 180).drop_vars("lon_bnds").sortby("lon")


def leaking(fine: xr.Dataset, time: int, row: int, column: int, by: float = 1e-4) -> xr.Dataset:
    leak = fine.copy(deep=True)
    name = str(next(iter(leak.data_vars)))
    leak[name][time, row, column] *= 1 + by
    return leak


# Cells that do not nest in those of the region.
OTHER = "0.7x0.9"

TURNS: dict[str, Any] = {
    "north up": lambda ds: ds.isel(lat=slice(None, None, -1)),
    "east to west": lambda ds: ds.isel(lon=slice(None, None, -1)),
    "other seam": turned,
    "both": lambda ds: turned(ds).isel(lat=slice(None, None, -1), lon=slice(None, None, -1)),
    "next circle": lambda ds: ds.assign_coords(lon=ds.lon + 360, lon_bnds=ds.lon_bnds + 360),
    "transposed": lambda ds: ds.transpose("lon", "time", "lat", "bnds"),
    "single": lambda ds: ds.assign_coords(lat=ds.lat.astype("f4"), lon=ds.lon.astype("f4")),
    "bare": lambda ds: ds.drop_vars(["lat_bnds", "lon_bnds", "areacella", "crs"], errors="ignore").drop_attrs(),
    "lazy": lambda ds: ds.chunk(time=1, lat=5, lon=7),
}


@pytest.mark.parametrize("name", TURNS)
def test_the_fine_field_is_turned_as_the_coarse_one_lies(name):
    turn, coarse = TURNS[name], field_on(world(), missing=0.1)
    fine = coarse.downscale(2)
    leak = leaking(fine, 1, 5, 9, 0.5)
    place = {"lat": -48.75 - 3.75, "lon": 101.25}
    for small, big in ((turn(fine), coarse), (fine, turn(coarse)), (turn(fine), turn(coarse))):
        assert downscale.check_conservation(big, small).passed
    for small, big in ((turn(leak), coarse), (leak, turn(coarse)), (turn(leak), turn(coarse))):
        report = downscale.check_conservation(big, small)
        assert not report.passed
        where = report["tas"].where_relative
        assert where["lat"] == pytest.approx(place["lat"])
        assert (where["lon"] - place["lon"]) % 360 == pytest.approx(0, abs=1e-4)
        assert "2000-01-02" in str(where["time"])


@given(st.data(), seeds)
@settings(max_examples=10)
def test_any_blocks_give_the_same_report(data, seed):
    coarse = rain_on(region(6, 7), 3, missing=0.2, seed=seed)
    fine = leaking(coarse.downscale(2), 1, 3, 4)
    cut = {dim: tuple(data.draw(cuttings(size))) for dim, size in (("time", 3), ("lat", 12), ("lon", 14))}
    whole = downscale.check_conservation(coarse, fine).to_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "BLOCK_VALUES", data.draw(st.sampled_from([1, 60, 200, 10**6])))
        parts = downscale.check_conservation(coarse, fine.chunk(cut)).to_dict()
    error, other = (report["variables"]["pr"].pop("global_error") for report in (whole, parts))
    assert parts == whole
    assert other == pytest.approx(error, abs=1e-14)


def test_parts_without_bounds_are_taken_for_equal_ones_only_where_they_are():
    """Rows on the poles are half cells: midpoints of the fine rows are not their edges."""
    lat = np.linspace(90, -90, 13)
    coarse = field_on(world(13, 16)).drop_vars("lat_bnds").assign_coords(lat=("lat", lat, {"units": "degrees_north"}))
    fine = coarse.downscale(4)
    assert downscale.check_conservation(coarse.tas, fine.tas).passed
    off = fine.tas.assign_coords(lat=fine.lat + np.linspace(-0.3, 0.3, 52))
    with pytest.raises(GridError, match=r"'lat'.* its bounds"):
        downscale.check_conservation(coarse.tas, off)


@pytest.mark.parametrize("calendar", ["standard", "noleap"])
def test_times_may_differ_by_rounding_only(calendar):
    times = xr.date_range("2000-01-01", periods=3, freq="7h", calendar=calendar, use_cftime=calendar != "standard")
    coarse = field_on(region()).assign_coords(time=times)
    fine = coarse.downscale(2)
    for shift, passes in ((datetime.timedelta(microseconds=5), True), (datetime.timedelta(seconds=5), False)):
        moved = fine.assign_coords(time=fine.indexes["time"] + shift)
        if passes:
            assert downscale.check_conservation(coarse, moved).passed
        else:
            with pytest.raises(GridError, match="tas: expected equal coordinates 'time', received values that differ"):
                downscale.check_conservation(coarse, moved)


def test_names_along_a_dimension_must_agree():
    coarse = field_on(region()).assign_coords(time=["a", "b", "c"])
    fine = coarse.downscale(2)
    assert downscale.check_conservation(coarse, fine).passed
    with pytest.raises(GridError, match="expected equal coordinates 'time'"):
        downscale.check_conservation(coarse, fine.assign_coords(time=["a", "b", "d"]))


def test_members_are_each_judged():
    coarse = field_on(region())
    fine = coarse.downscale(2)
    members = fine.expand_dims(realization=[1, 2]).copy(deep=True)
    members["tas"][1, 0, 0, 0] *= 1 + 1e-4
    report = downscale.check_conservation(coarse, members[["tas"]])
    assert not report.passed
    assert report["tas"].where_relative["realization"] == 2
    assert report["tas"].cells_checked == 2 * coarse.tas.size
    with pytest.raises(GridError, match="tas: expected 3 values of 'time' in the fine field, received none"):
        downscale.check_conservation(coarse, fine.isel(time=0, drop=True))


def test_lost_and_invented_cells_and_bounds_are_counted():
    coarse = rain_on(region(), missing=0.2)
    fine = coarse.downscale(2)
    lost = fine.copy(deep=True)
    valid = np.argwhere(np.isfinite(coarse.pr.values))[0]
    lost["pr"][valid[0], 2 * valid[1] : 2 * valid[1] + 2, 2 * valid[2] : 2 * valid[2] + 2] = np.nan
    report = downscale.check_conservation(coarse, lost)["pr"]
    assert (report.cells_lost, report.cells_invented, report.passed) == (1, 0, False)
    assert "received 1 coarse cells lost" in report.fault
    invented = downscale.check_conservation(coarse, fine.fillna(0.0))["pr"]
    assert invented.cells_invented == int(coarse.pr.isnull().sum())
    free = downscale.check_conservation(coarse, coarse.downscale(2, bounds=None))["pr"]
    assert free.values_out_of_bounds > 0
    assert "fine values out of bounds" in free.fault
    assert downscale.check_conservation(coarse, coarse.downscale(2, bounds=None), bounds=None).passed
    named = downscale.check_conservation(coarse, fine, bounds={"pr": (0.5, None)})
    assert not named.passed


def test_the_tolerance_is_that_of_the_coarser_type():
    coarse = field_on(region())
    assert downscale.check_conservation(coarse, coarse.downscale(2).astype("f4"))["tas"].tolerance == 1e-6
    assert downscale.check_conservation(coarse, coarse.downscale(2))["tas"].tolerance == 1e-12
    with downscale.set_options(tolerance=0.5):
        assert downscale.check_conservation(coarse, leaking(coarse.downscale(2), 0, 0, 0)).passed


def test_a_report_raises_where_it_failed():
    coarse = field_on(plane())
    fine = coarse.downscale(2)
    report = downscale.check_conservation(coarse, fine)
    assert report.raise_if_failed() is report
    with pytest.raises(ConservationError, match="tas: expected the cell law within 1e-12"):
        downscale.check_conservation(coarse, leaking(fine, 0, 3, 3)).raise_if_failed()
    with pytest.raises(ConservationError, match="tas: expected the total law within 1e-12"):
        downscale.check_conservation(coarse, leaking(fine, 0, 3, 3), law="total").raise_if_failed()


def test_what_cannot_be_compared_is_refused():
    coarse = field_on(region())
    with pytest.raises(InputError, match="expected a variable that both fields have, received 'tas' and 'pr'"):
        downscale.check_conservation(coarse, rain_on(region()))
    with pytest.raises(GridError, match="overlaps the latitude range 30 to 42, received 60 to 72"):
        downscale.check_conservation(coarse, field_on(region(south=60.0)))
    with pytest.raises((GridError, ShapeError)):
        downscale.check_conservation(coarse, field_on(plane()))


def test_another_domain_does_not_pass_for_this_one():
    coarse = field_on(region())
    for other in (field_on(region(13, 16)), field_on(region(south=31.0)).downscale(2)):
        assert not downscale.check_conservation(coarse, other).passed


def test_a_part_of_the_domain_is_judged_as_far_as_it_goes():
    coarse = field_on(region())
    along_edges, through_cells = (coarse.downscale(2).isel(lat=slice(first, 20)) for first in (2, 3))
    report = downscale.check_conservation(coarse, along_edges)
    assert (report.passed, report["tas"].cells_outside) == (True, 3 * 16)
    assert "tas: 48 coarse cells lie wholly or partly outside" in repr(report)
    # Half a cell that was made as part of a whole one has a mean of its own.
    assert not downscale.check_conservation(coarse, through_cells).passed


@pytest.mark.parametrize("target", [None, "other cells"])
@pytest.mark.parametrize("chunks", [None, {"time": 1, "lat": 5}])
def test_infinite_coarse_values_are_counted_and_placed(target, chunks):
    """Taken for missing without a word, they would pass for gaps."""
    coarse = field_on(region(), dtype="float64")
    coarse["tas"][1, 5, 3], coarse["tas"][2, 0, 0], coarse["tas"][1, 2, 7] = np.inf, -np.inf, np.inf
    options: dict[str, Any] = {"factor": 2} if target is None else {"target_grid": OTHER}
    fine = coarse.where(np.isfinite(coarse.tas)).downscale(**options)
    time, lat, lon = coarse.time.values[1], float(coarse.lat[2]), float(coarse.lon[7])
    given = coarse if chunks is None else coarse.chunk(chunks)
    place = f"time={time}, lat={lat:g}, lon={lon:g}"
    with pytest.warns(UserWarning, match=f"tas: expected finite .* 3 infinite, the first at {place}; they") as said:
        report = downscale.check_conservation(given, fine)
    assert len(said) == 1
    assert report.passed


def test_regions_are_found_once_for_all_blocks(monkeypatch):
    """They depend on the grids only."""
    coarse = field_on(region(), dtype="float64").chunk(time=1)
    fine = coarse.downscale(target_grid=OTHER)
    found: list[Any] = []
    of = regions.Regions.of
    monkeypatch.setattr(regions.Regions, "of", lambda parts: found.append(parts) or of(parts))
    monkeypatch.setattr(comparison, "BLOCK_VALUES", 1)
    whole = downscale.check_conservation(coarse, fine)
    assert coarse.sizes["time"] > 1
    assert len(found) == 2
    monkeypatch.undo()
    assert whole.to_dict() == downscale.check_conservation(coarse, fine).to_dict()


def test_of_two_fields_on_the_same_cells_the_one_of_fewer_times_is_the_coarse_one():
    months = xr.date_range("2001-01-01", periods=4, freq="MS").values
    monthly = field_on(region(), dtype="float64").isel(time=slice(0, 3)).assign_coords(
        time=("time", months[:-1], {"standard_name": "time", "bounds": "time_bnds"}),
        time_bnds=(("time", "bnds"), np.stack([months[:-1], months[1:]], axis=1)),
    )
    daily = monthly.downscale(target_grid={"time": "D"})
    for report in (daily.downscale.check(monthly), monthly.downscale.check(daily)):
        assert report.passed
        assert report["tas"].cells_checked == monthly.tas.size
