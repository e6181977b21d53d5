"""Opening files: lazily, by name or pattern, and in one line where that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from sample_fields import field_on, region
from schedulers import computations

import downscale
from downscale.errors import InputError, OptionError
from downscale.io.formats import require_complete
from downscale.io.paths import sources_of
from downscale.io.read import find_files

CLASSIC = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    field_on(region()).to_netcdf(tmp_path / "in.nc")
    return tmp_path / "in.nc"


def classic_file(path: Path, kind: str, records: bool, several: bool) -> bytes:
    """A file of one of the old formats, whose header and data are of every type it has."""
    with netCDF4.Dataset(path, "w", format=kind) as made:
        made.setncattr("title", "odd length")
        made.setncattr("range", np.arange(3, dtype="i2"))
        for name, size in (("time", None if records else 3), ("lat", 5), ("lon", 7)):
            made.createDimension(name, size)
        dims = {"tas": ("time", "lat", "lon"), "lat": ("lat",), "lon": ("lon",)}
        kinds = {"tas": "f4", "lat": "f8", "lon": "f4"}
        if several:
            dims.update({"code": ("time", "lat"), "step": ("time",), "n": ()})
            kinds.update({"code": "i1", "step": "i2", "n": "i4"})
        for name, kind_ in kinds.items():
            shape = tuple({"time": 3, "lat": 5, "lon": 7}[dim] for dim in dims[name])
            variable = made.createVariable(name, kind_, dims[name], fill_value=False)
            variable[...] = np.arange(np.prod(shape)).reshape(shape)
    return path.read_bytes()


def test_bounds_and_mappings_become_coordinates(tmp_path):
    field_on(region()).downscale(2).pipe(downscale.to_netcdf, tmp_path / "fine.nc")
    ds = downscale.open_dataset(tmp_path / "fine.nc")
    assert {"lat_bnds", "lon_bnds", "areacella"} <= set(ds.coords)
    assert list(ds.data_vars) == ["tas"]


def test_opening_and_downscaling_a_file_computes_nothing(file):
    with computations(0):
        ds = downscale.open_dataset(file, chunks={"time": 1, "lat": 5})
        fine = ds.downscale(2)
        fine.downscale.coarsen(2)
        ds.downscale.plan(2)
    assert ds.tas.chunks == ((1, 1, 1), (5, 5, 2), (16,))
    assert fine.tas.chunks == ((1, 1, 1), (10, 10, 4), (32,))


def test_chunks_may_be_left_out(file):
    assert downscale.open_dataset(file, chunks=None).tas.chunks is None
    assert downscale.open_dataset(file).tas.chunks is not None
    assert downscale.open_dataset(file, chunks=2).tas.chunks[0] == (2, 1)


def test_a_pattern_joins_files_in_time(file, tmp_path):
    ds = xr.open_dataset(file)
    for i in range(3):
        ds.isel(time=[i]).to_netcdf(tmp_path / f"part_{i}.nc")
    joined = downscale.open_dataset(tmp_path / "part_*.nc")
    xr.testing.assert_equal(joined.tas.load(), downscale.open_dataset(file).tas.load())
    assert joined.downscale(2).downscale.check(joined).passed
    assert find_files(tmp_path / "part_[02].nc") == [str(tmp_path / "part_0.nc"), str(tmp_path / "part_2.nc")]


def test_objects_remember_all_files_they_came_from(file, tmp_path):
    ds = xr.open_dataset(file)
    parts = [str(tmp_path / f"part_{i}.nc") for i in range(3)]
    for i, part in enumerate(parts):
        ds.isel(time=[i]).to_netcdf(part)
    joined = downscale.open_dataset(tmp_path / "part_*.nc")
    fine = joined.downscale(2)
    for obj in (joined, joined[["tas"]], joined.tas, joined.tas.isel(time=0), fine, fine.tas):
        assert set(sources_of(obj)) == set(parts)
    assert sources_of(ds.tas) == (str(file),)
    assert sources_of(field_on(region())) == ()


def messages(path: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        downscale.open_dataset(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_there_or_not_netcdf_gets_one_line(tmp_path, file):
    (tmp_path / "text.nc").write_text("hello")
    (tmp_path / "empty.nc").touch()
    assert f"expected an existing file, received {tmp_path / 'no.nc'}; check the path" == messages(tmp_path / "no.nc")
    assert "expected files that match" in messages(tmp_path / "no*.nc")
    assert f"received the folder {tmp_path}; give a pattern such as {tmp_path}/*.nc" in messages(tmp_path)
    for name in ("text.nc", "empty.nc"):
        assert f"expected a readable NetCDF file, received {tmp_path / name}" in messages(tmp_path / name)
    assert messages(file, chunks={"tiem": 1}) == (
        "expected chunks of the dimensions 'time', 'lat', 'lon', 'bnds', received 'tiem'; see ncdump -h"
    )


@pytest.mark.parametrize("cut", [4, 100, 2000, -100, -1])
def test_half_an_hdf5_file_is_refused(file, cut):
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    assert "expected a readable NetCDF file" in messages(file)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize("kind", CLASSIC)
def test_half_a_classic_file_is_refused(tmp_path, kind, records, several):
    """The library would give zeros for the missing half."""
    path = tmp_path / "old.nc"
    whole = classic_file(path, kind, records, several)
    require_complete(path)
    assert float(downscale.open_dataset(path, chunks=None).tas.max()) == 104.0
    for length in (3, 5, 30, 200, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:length])
        assert "expected a whole NetCDF file" in messages(path) or length == 3
    path.write_bytes(whole + b"more")
    require_complete(path)


def test_a_classic_file_still_being_streamed_has_no_length(tmp_path):
    whole = bytearray(classic_file(tmp_path / "old.nc", "NETCDF3_CLASSIC", True, False))
    whole[4:8] = b"\xff\xff\xff\xff"
    (tmp_path / "old.nc").write_bytes(whole)
    require_complete(tmp_path / "old.nc")


@pytest.mark.parametrize("name", ["nasty_packed_int16_eraint_uvz_0p75deg.nc", "nasty_rotated_pole_mslp.nc"])
def test_real_classic_files_are_whole(name, tmp_path):
    path = shared_data(name)
    require_complete(path)
    half = tmp_path / "half.nc"
    half.write_bytes(path.read_bytes()[:-1000])
    assert "get it again" in messages(half) or path.read_bytes()[:3] != b"CDF"


def test_samples_ship_with_the_package():
    ds = downscale.sample.open("north_america")
    relief = downscale.sample.open("north_america_relief", chunks={})
    assert ds.tas.shape == (24, 37, 49)
    assert ds.time.dt.calendar == "360_day"
    assert relief.orog.shape == (148, 196)
    assert relief.orog.chunks is not None
    assert "Open Government Licence" in ds.attrs["license"]
    with pytest.raises(OptionError, match=r"expected a sample among 'north_america', .*received 'europe'"):
        downscale.sample.open("europe")
