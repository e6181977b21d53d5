"""What a file says is missing is missing: valid ranges, fill values of any kind, cells that nobody wrote."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from command import command
from schedulers import computations

import downscale
from downscale.errors import InputError
from downscale.io.missing import DEFAULT_FILLS, MissingWarning

LAT, LON = np.arange(40.0, 48.0), np.arange(0.0, 10.0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(values: np.ndarray, kind: str, written: int = 2, **attrs: Any) -> None:
    """A file of two maps as the library writes it, without a fill value, the last of them not written at times."""
    with netCDF4.Dataset("a.nc", "w") as file:
        for name, units, numbers in (("lat", "degrees_north", LAT), ("lon", "degrees_east", LON)):
            file.createDimension(name, numbers.size)
            file.createVariable(name, "f8", (name,)).units = units
            file[name][:] = numbers
        file.createDimension("time", 2)
        file.createVariable("time", "f8", ("time",)).units = "days since 2000-01-01"
        file["time"][:] = [0, 1]
        field = file.createVariable("tas", kind, ("time", "lat", "lon"), fill_value=attrs.pop("_FillValue", None))
        field.set_auto_maskandscale(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library says what the test is about
            field.setncatts({"units": "K", **attrs})
        field[:written] = values[:written]


def opened(chunks: Any, found: bool = True) -> np.ndarray:
    """Values as this package reads them; it says so once where it finds any that are missing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with computations(0):
            ds = downscale.open_dataset("a.nc", chunks=chunks)
            part = ds.tas.isel(time=0, lat=slice(0, 2))
        values = ds.tas.values
        np.testing.assert_array_equal(part.values, values[0, :2])
    assert len(caught) >= found
    assert all(issubclass(each.category, MissingWarning) and "'" not in str(each.message) for each in caught)
    return values


def theirs() -> np.ndarray:
    """Where the NetCDF library itself says that values are missing."""
    with netCDF4.Dataset("a.nc") as file:
        return np.ma.getmaskarray(file["tas"][:])


CHUNKS = [None, "auto", {"time": 1}]
PACK = {"scale_factor": 0.01, "add_offset": 280.0}
RANGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "floats, range": ("f4", {}, {"valid_range": np.array([150, 350], "f4")}),
    "floats, range in double": ("f4", {}, {"valid_range": np.array([150.0, 350.0])}),
    "floats, whole numbers": ("f8", {}, {"valid_range": np.array([150, 350], "i4")}),
    "floats, minimum": ("f4", {}, {"valid_min": np.float32(150)}),
    "floats, both": ("f4", {}, {"valid_min": np.float32(150), "valid_max": np.float32(350)}),
    "packed": ("i2", PACK, {"valid_range": np.array([-9000, 9000], "i2")}),
    "packed, minimum": ("i2", PACK, {"valid_min": np.int16(-9000)}),
    "packed, negative step": ("i2", {**PACK, "scale_factor": -0.01}, {"valid_range": np.array([-9000, 9000], "i2")}),
    "bytes": ("i1", PACK, {"valid_range": np.array([-90, 90], "i1")}),
}  # fmt: skip


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("case", RANGES)
def test_values_outside_the_valid_range(here, case, chunks):
    kind, packing, attrs = RANGES[case]
    rng = np.random.default_rng(0)
    values = rng.normal(280, 5, (2, 8, 10)) if not packing else rng.integers(-50, 50, (2, 8, 10))
    values = values.astype(kind)
    values[0, 1, 1] = -999 if not packing else {"i1": -100, "i2": -9001}[kind]
    values[1, 3, 2:4] = {"i1": -128}.get(kind, -9999) if packing else -1e5
    write(values, kind, **packing, **attrs)
    ours = opened(chunks)
    np.testing.assert_array_equal(np.isnan(ours), theirs())
    assert np.isnan(ours).sum() == 3


@pytest.mark.parametrize("limits", [[-30.0, 30.0], [250.0, 310.0]])
def test_floating_limits_of_packed_values_are_decoded(here, limits):
    values = np.full((2, 8, 10), 100, "i2")
    values[0, 0, 0] = 9000
    write(values, "i2", **PACK, valid_range=np.array([250.0, 310.0]))
    assert np.isnan(opened(None)).sum() == 1


@pytest.mark.parametrize("attrs", [
    {"valid_range": "150 350"}, {"valid_range": np.array([1.0])}, {"valid_range": np.array([np.nan, np.nan])},
    {"valid_min": "low"}, {"valid_range": np.array([350.0, 150.0])}, {"actual_range": np.array([0.0, 1.0])},
])  # fmt: skip
def test_ranges_that_say_nothing_change_nothing(here, attrs):
    values = np.full((2, 8, 10), 280, "f4")
    write(values, "f4", **attrs)
    np.testing.assert_array_equal(opened(None, False), values)


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_cells_that_nobody_wrote(here, kind, chunks):
    write(np.full((2, 8, 10), 280, kind), kind, written=1)
    ours = opened(chunks)
    np.testing.assert_array_equal(np.isnan(ours), theirs())
    assert np.isnan(ours[1]).all()


@pytest.mark.parametrize("kind", ["i2", "u2", "i4"])
def test_packed_cells_that_nobody_wrote(here, kind):
    write(np.full((2, 8, 10), 100, kind), kind, written=1, **PACK)
    ours = opened(None)
    np.testing.assert_array_equal(np.isnan(ours), theirs())


@pytest.mark.parametrize("kind", ["i1", "u1"])
def test_bytes_have_no_default_fill_value(here, kind):
    values = np.arange(160).reshape(2, 8, 10).astype(kind)
    write(values, kind)
    np.testing.assert_array_equal(opened(None, False), values)


@pytest.mark.parametrize("kind", [kind for kind in DEFAULT_FILLS if kind[0] != "f"])
def test_whole_numbers_that_nobody_wrote_are_refused(here, kind):
    write(np.full((2, 8, 10), 3, kind), kind, written=1)
    ds = downscale.open_dataset("a.nc")
    with pytest.raises(InputError, match=r"tas: .*80 .*default fill value.*a\.nc.*_FillValue"):
        ds.tas.values  # noqa: B018
    said = command("apply", "a.nc", "o.nc", "--factor", 2)
    assert (said.status, Path("o.nc").exists()) == (2, False)
    assert "default fill value" in said.complaint


FILLS: dict[str, dict[str, Any]] = {
    "in double": {"missing_value": np.float64(1e20)},
    "in double, odd": {"missing_value": np.float64(-9.99e33)},
    "in words": {"missing_value": "-999.9"},
    "two": {"missing_value": np.array([-99, -999], "f4")},
    "beside a fill value": {"_FillValue": np.float32(-99), "missing_value": np.float32(-999)},
}


@pytest.mark.parametrize("chunks", [None, "auto"])
@pytest.mark.parametrize("case", FILLS)
def test_every_missing_value_is_missing(here, case, chunks):
    values = np.full((2, 8, 10), 280, "f4")
    marks = [float(mark) for key in FILLS[case] for mark in np.ravel(FILLS[case][key])]
    for place, mark in enumerate(marks):
        values[1, place, 3] = mark
    write(values, "f4", **FILLS[case])
    ours = opened(chunks, False)
    assert np.isnan(ours).sum() == len(marks)
    assert np.nanmin(ours) == np.nanmax(ours) == 280


def test_the_command_says_it_and_keeps_what_is_missing(here):
    values = np.full((2, 8, 10), 280, "f4")
    values[:, 4, 5] = -999
    write(values, "f4", valid_range=np.array([150, 350], "f4"))
    said = command("apply", "a.nc", "o.nc", "--factor", 2)
    assert said.status == 0
    assert [line for line in said.err.splitlines() if "2 of 160" in line and "150 to 350" in line]
    fine = xr.load_dataset("o.nc").tas
    assert int(fine.isnull().sum()) == 8
    assert float(fine.min()) == 280
    assert command("check", "a.nc", "o.nc").status == 0


def test_undecoded_values_stay_as_they_are(here):
    values = np.full((2, 8, 10), 1000, "f4")
    write(values, "f4", valid_range=np.array([150, 350], "f4"))
    for option in ("mask_and_scale", "decode_cf"):
        raw = downscale.open_dataset("a.nc", chunks=None, **{option: False})
        np.testing.assert_array_equal(raw.tas, values)
