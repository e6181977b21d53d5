"""Where a record is cut, for every calendar: blocks partition the steps, keep to periods, and differ in their names."""

from __future__ import annotations

from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from sample_fields import coordinates, field_on, region

from downscale.errors import InputError, OptionError
from downscale.runs.blocks import Block, Record, cut_record, default_blocks, parse_blocks, record_of, stride

CALENDARS = ("standard", "proleptic_gregorian", "noleap", "360_day", "all_leap", "julian")
FREQUENCIES = {"YS": 40, "MS": 130, "D": 900, "6h": 900, "20D": 300, "15min": 900}


def record(frequency: str = "D", size: int = 900, calendar: str = "noleap", start: str = "2000-01-01") -> Record:
    dates = xr.date_range(start, periods=size, freq=frequency, calendar=calendar, use_cftime=True)
    return Record("time", size, np.asarray(dates.values), 12)


def period(date: cftime.datetime, unit: str) -> tuple[int, ...]:
    return {"year": (date.year,), "month": (date.year, date.month), "day": (date.year, date.month, date.day)}[unit]


@given(
    frequency=st.sampled_from(sorted(FREQUENCIES)), calendar=st.sampled_from(CALENDARS), count=st.integers(1, 40),
    unit=st.sampled_from(("year", "month", "day")), size=st.integers(1, 900), month=st.integers(1, 12),
    day=st.integers(1, 28), numpy=st.booleans(),
)  # fmt: skip
def test_calendar_blocks_partition_the_record(frequency, calendar, count, unit, size, month, day, numpy):
    """Every step is in one block; no period is cut; no block holds more than so many periods."""
    size = min(size, FREQUENCIES[frequency])
    made = record(frequency, size, calendar, f"1999-{month:02d}-{day:02d}")
    dates = made.dates
    if numpy and calendar in ("standard", "proleptic_gregorian"):
        made = Record("time", size, np.array([str(date).replace(" ", "T") for date in dates], "M8[ns]"), 12)
    blocks = cut_record(made, f"{count} {unit}s")
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    assert blocks[-1].stop == size
    assert all(block.start < block.stop for block in blocks)
    assert len({block.label for block in blocks}) == len(blocks)
    held = [{period(date, unit) for date in dates[block.start : block.stop]} for block in blocks]
    assert sum(map(len, held)) == len(set().union(*held)), "a period in two blocks"
    assert all(len(periods) <= count for periods in held)
    if unit == "year":
        first = dates[0].year
        assert all(len({(date.year - first) // count for date in dates[b.start : b.stop]}) == 1 for b in blocks)


@given(size=st.integers(1, 2000), steps=st.integers(1, 2500))
def test_blocks_of_steps_partition_the_record(size, steps):
    blocks = cut_record(Record("time", size, None), steps)
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(size))
    assert all(block.stop - block.start == min(steps, size) for block in blocks[:-1])
    assert blocks[0].stop % stride(blocks) == 0
    assert all(block.start % stride(blocks) == 0 for block in blocks)


@given(output=st.integers(1, 10**14), size=st.integers(1, 10**6))
def test_the_default_is_of_a_fair_size(output, size):
    steps = default_blocks(output, size)
    assert 1 <= steps <= size
    assert steps == 1 or steps * output / size <= 1e9
    assert steps == size or steps == 1 or steps * output / size >= 64e6 * 0.4 or steps * output / size * 2 >= 64e6 / 2


@pytest.mark.parametrize(
    ("frequency", "blocks", "names"),
    [
        ("YS", "5 years", ["tas_2000-2004.nc", "tas_2005-2009.nc", "tas_2010-2011.nc"]),
        ("MS", "6 months", ["tas_200001-200006.nc", "tas_200007-200012.nc"]),
        ("D", "1 year", ["tas_20000101-20001231.nc", "tas_20010101-20010105.nc"]),
        ("6h", "1 day", ["tas_200001010000-200001011800.nc", "tas_200001020000-200001021800.nc"]),
        ("6h", 5, ["tas_200001010000-200001020000.nc", "tas_200001020600-200001021800.nc"]),
    ],
)
def test_names_are_as_exact_as_the_steps(frequency, blocks, names):
    size = {"YS": 12, "MS": 12, "D": 370, "6h": 8}[frequency]
    times = xr.date_range("2000-01-01", periods=size, freq=frequency, calendar="noleap", use_cftime=True)
    ds = field_on(region(), size).assign_coords(time=times)
    found = record_of(ds)
    assert [block.path(Path("tas.nc")).name for block in cut_record(found, blocks)] == names


def test_a_mean_stamped_at_its_end_belongs_to_its_period():
    """The mean of December stamped on the first of January is of the year before."""
    edges = xr.date_range("2000-01-01", periods=25, freq="MS", use_cftime=False).values
    ds = field_on(region(), 24)
    ds = ds.assign_coords(time=("time", edges[1:], {"bounds": "time_bnds"}))
    ds = ds.assign_coords(time_bnds=(("time", "bnds"), np.stack([edges[:-1], edges[1:]], axis=1)))
    blocks = cut_record(record_of(ds), "1 year")
    assert [(b.start, b.stop, b.label) for b in blocks] == [(0, 12, "200001-200012"), (12, 24, "200101-200112")]


def test_records_without_dates_and_without_time():
    ds = field_on(region(), 5)
    numbers = ds.assign_coords(time=np.arange(5.0))
    blocks = cut_record(record_of(numbers), 2)
    assert [block.label for block in blocks] == ["000000-000001", "000002-000003", "000004-000004"]
    with pytest.raises(OptionError, match="expected dates along 'time' for blocks of 1 years, received none"):
        cut_record(record_of(numbers), "1 year")
    still = xr.Dataset({"tas": ds.tas[0].drop_vars("time")}, coordinates(region()))
    assert cut_record(record_of(still), "1 year") == [Block(0, 1)]
    assert cut_record(record_of(ds.isel(time=0)), 3) == [Block(0, 1)]


@pytest.mark.parametrize("wanted", ["", "0", "0 years", "x", "year", "5 decades", "-1 year", "1.5 years", 0, -3, True])
def test_what_is_no_length_of_a_block(wanted):
    with pytest.raises(OptionError, match=r'expected blocks as a number of steps or as "5 years", "1 month", received'):
        parse_blocks(wanted)


def test_times_that_cannot_be_cut():
    ds = field_on(region(), 4)
    with pytest.raises(InputError, match=r"expected ascending times to cut .*, received 2000-01-03 .* sort by"):
        cut_record(record_of(ds.isel(time=slice(None, None, -1))), 2)
    times = xr.date_range("2000-01-01", periods=4, freq="s", calendar="noleap", use_cftime=True)
    with pytest.raises(OptionError, match="expected blocks with dates that differ, received blocks=1; make them"):
        cut_record(record_of(ds.assign_coords(time=times)), 1)
