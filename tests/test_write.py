"""Files appear whole, lawful as written and certified, or not at all; what is read back is what was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from sample_fields import field_on, plane, rain_on, region, relief_on, same_bits, world

import downscale
from downscale.errors import ConservationError, OptionError, OutputError
from downscale.io import stream, write
from downscale.io.chunks import chunk_sizes
from downscale.io.encoding import REPORT_ATTR
from downscale.io.leases import temporary_beside
from downscale.io.paths import check_target


def reopened(path: Path) -> xr.Dataset:
    return downscale.open_dataset(path, chunks=None).load()


def timed(grid: Any, **options: Any) -> xr.Dataset:
    """A field with times of a calendar, their bounds, and a scalar height."""
    times = xr.date_range("2001-01-01", periods=3, freq="6h", calendar="360_day", use_cftime=True)
    bounds = np.stack([times, times.shift(6, "h")], axis=1)
    ds = field_on(grid, **options).assign_coords(time=times, time_bnds=(("time", "bnds"), bounds), height=2.0)
    ds.time.attrs = {"bounds": "time_bnds", "standard_name": "time", "axis": "T"}
    ds.time.encoding = {"units": "days since 1850-01-01", "calendar": "360_day"}
    ds.height.attrs = {"units": "m", "positive": "up", "axis": "Z", "standard_name": "height"}
    return ds


@pytest.mark.parametrize("grid", [world(), region(), plane()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_read_back_is_what_was_given(tmp_path, grid, dtype):
    fine = timed(grid, missing=0.1, dtype=dtype).downscale(2)
    downscale.to_netcdf(fine, tmp_path / "a.nc")
    back = reopened(tmp_path / "a.nc")
    assert set(back.variables) == set(fine.variables)
    for name in fine.variables:
        assert same_bits(back[name], fine[name])
        assert back[name].dims == fine[name].dims
        kept = {k: v for k, v in fine[name].attrs.items() if k not in ("bounds", "cell_measures", "grid_mapping")}
        added = {"axis", "standard_name"} if name in fine.indexes else set()
        assert {key: value for key, value in back[name].attrs.items() if key in kept or key not in added} == kept
    assert back.indexes["time"].equals(fine.indexes["time"])
    assert fine.attrs.items() <= back.attrs.items()


def test_writing_twice_gives_the_same_data(tmp_path):
    """A file that was read is written again unchanged: no encoding of the first gets in the way."""
    downscale.to_netcdf(timed(world()).downscale(2), tmp_path / "a.nc")
    downscale.to_netcdf(downscale.open_dataset(tmp_path / "a.nc"), tmp_path / "b.nc")
    one, other = reopened(tmp_path / "a.nc"), reopened(tmp_path / "b.nc")
    assert one.attrs.keys() == other.attrs.keys()
    # The day of making is not of the data.
    assert {key for key in one.attrs if one.attrs[key] != other.attrs[key]} <= {"date_created"}
    xr.testing.assert_identical(one.drop_attrs(deep=False), other.drop_attrs(deep=False))


def test_the_file_speaks_cf(tmp_path):
    coarse = timed(world(), missing=0.1)
    downscale.to_netcdf(coarse.downscale(2), tmp_path / "a.nc", coarse=coarse)
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        assert file.Conventions == "CF-1.11, ACDD-1.3"
        for name, variable in file.variables.items():
            assert ("_FillValue" in variable.ncattrs()) == (name == "tas"), name
            assert not {"scale_factor", "add_offset"} & set(variable.ncattrs())
            assert variable.dtype == np.float64
        assert file["lat"].bounds == "lat_bnds"
        assert file["lat_bnds"].ncattrs() == file["time_bnds"].ncattrs() == []
        assert file["time"].bounds == "time_bnds"
        assert (file["time"].units, file["time"].calendar) == ("days since 1850-01-01", "360_day")
        assert file["tas"].cell_measures == "area: areacella"
        # Tools take any grid mapping for a projection: latitudes and longitudes have none.
        assert "grid_mapping" not in file["tas"].ncattrs()
        assert "crs" not in file.variables
        assert file["tas"].coordinates == "height"
        assert "coordinates" not in {*file.ncattrs(), *file["areacella"].ncattrs(), *file["lat_bnds"].ncattrs()}
        assert file["tas"]._FillValue == 1e20
        np.testing.assert_array_equal(file["tas"][:].mask, coarse.tas.isnull().values.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("first", ["time", "tas", "time_bnds"])
def test_bounds_of_times_count_from_the_same_day_in_any_order(tmp_path, first):
    fine = timed(region()).downscale(2)
    names = [first, *(name for name in fine.variables if name != first)]
    shuffled = xr.Dataset({name: fine[name].variable for name in names}).set_coords(list(fine.coords))
    downscale.to_netcdf(shuffled, tmp_path / "a.nc")
    assert reopened(tmp_path / "a.nc").time_bnds.variable.identical(fine.time_bnds.variable)
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        np.testing.assert_array_equal(file["time_bnds"][:, 0], file["time"][:])


def test_a_real_packed_file_is_unpacked_for_good(tmp_path):
    ds = downscale.open_dataset(shared_data("nasty_packed_int16_eraint_uvz_0p75deg.nc"))[["u"]]
    ds = ds.isel(level=[0], month=[0], latitude=slice(0, 60), longitude=slice(0, 80))
    fine = ds.downscale(2)
    downscale.to_netcdf(fine, tmp_path / "a.nc", coarse=ds)
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        assert not {"scale_factor", "add_offset"} & set(file["u"].ncattrs())
        assert file["u"].dtype == fine.u.dtype
        assert "_FillValue" not in file["latitude"].ncattrs()
    assert same_bits(reopened(tmp_path / "a.nc").u, fine.u)


def test_an_unlimited_time_stays_unlimited(tmp_path):
    timed(region()).to_netcdf(tmp_path / "in.nc", unlimited_dims=["time", "lat"])
    ds = downscale.open_dataset(tmp_path / "in.nc")
    downscale.to_netcdf(ds.downscale(2), tmp_path / "out.nc", coarse=ds)
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        assert {name: dim.isunlimited() for name, dim in file.dimensions.items()} == {
            "time": True, "lat": False, "lon": False, "bnds": False
        }  # fmt: skip
        assert file["tas"].chunking() == [3, 24, 32]


def test_arrays_without_their_bounds_name_none(tmp_path):
    array = field_on(region()).tas.downscale(2)
    downscale.to_netcdf(array, tmp_path / "a.nc", coarse=field_on(region()).tas)
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        assert "bounds" not in file["lat"].ncattrs()
    downscale.to_netcdf(array.rename(None), tmp_path / "b.nc")
    assert "field" in reopened(tmp_path / "b.nc")


def test_rain_in_the_file_is_never_negative_and_keeps_its_cells(tmp_path):
    """Real radar rain, averaged to 4 km and brought back to 1 km."""
    ds = xr.open_dataset(shared_data("precipitation_mch_20160711_1km_5min.nc"), chunks={})
    ds = ds[["precip", "x_bnds", "y_bnds", "crs"]].drop_vars(["lat", "lon"])
    ds = ds.isel(time=slice(0, 3), y=slice(100, 420), x=slice(100, 420))
    coarse = ds.downscale.coarsen(4).load()
    report = downscale.to_netcdf(coarse.downscale(4), tmp_path / "fine.nc", coarse=coarse)
    fine = reopened(tmp_path / "fine.nc")
    assert report.passed
    assert report.max_relative_error <= 1e-6
    assert report["precip"].values_out_of_bounds == 0
    assert int((fine.precip < 0).sum()) == 0
    assert float(fine.precip.max()) > float(coarse.precip.max())
    assert bool((fine.precip == 0).any())
    again = downscale.check_conservation(coarse, fine, bounds=(0, None))
    assert again.passed
    free = coarse.downscale(4, bounds=None)
    assert int((free.precip < 0).sum()) > 1000, "the bound has work to do"


def test_the_certificate_is_what_a_fresh_check_finds(tmp_path):
    coarse = rain_on(world(), dtype="float32", missing=0.1)
    report = downscale.to_netcdf(coarse.downscale(2), tmp_path / "a.nc", coarse=coarse)
    fine = downscale.open_dataset(tmp_path / "a.nc")
    certificate = json.loads(fine.attrs[REPORT_ATTR])
    fresh = downscale.check_conservation(coarse, fine)
    assert certificate["passed"] is True
    assert certificate["checked"] == "as written"
    assert certificate["downscale_version"] == downscale.__version__
    assert set(certificate["variables"]) == {"pr"}
    for one in (report["pr"], fresh["pr"]):
        for key, value in certificate["variables"]["pr"].items():
            assert getattr(one, key) == value
    assert "cell conservation passed as written: largest relative error" in fine.pr.attrs["conservation"]
    downscale.to_netcdf(coarse.downscale(2), tmp_path / "b.nc")
    assert REPORT_ATTR not in reopened(tmp_path / "b.nc").attrs


def leaky(coarse: xr.Dataset) -> xr.Dataset:
    fine = coarse.downscale(2)
    name = next(iter(coarse.data_vars))
    fine[name][0, 3, 5] *= 1 + 1e-4
    return fine


def test_a_broken_law_leaves_no_file(tmp_path):
    coarse = field_on(world())
    with pytest.raises(ConservationError, match=r"tas: expected the cell law within 1e-12.*at time=2000-01-01"):
        downscale.to_netcdf(leaky(coarse), tmp_path / "a.nc", coarse=coarse)
    assert os.listdir(tmp_path) == []
    downscale.to_netcdf(leaky(coarse), tmp_path / "a.nc", coarse=coarse, tolerance=1e-3)
    assert os.listdir(tmp_path) == ["a.nc"]


def test_a_broken_law_leaves_the_old_file(tmp_path):
    coarse = field_on(world())
    downscale.to_netcdf(coarse.downscale(2), tmp_path / "a.nc", coarse=coarse)
    before = (tmp_path / "a.nc").read_bytes()
    with pytest.raises(ConservationError):
        downscale.to_netcdf(leaky(coarse), tmp_path / "a.nc", coarse=coarse, overwrite=True)
    assert os.listdir(tmp_path) == ["a.nc"]
    assert (tmp_path / "a.nc").read_bytes() == before


@pytest.mark.parametrize("judged", ["while written", "afterwards"])
def test_a_flipped_bit_on_disk_is_found(tmp_path, monkeypatch, judged):
    """The check is of the file as it lies there, not of what was computed."""
    flush, encode_chunk = write.flush, stream.encode_chunk

    def damaged(path: Path) -> None:
        if path.suffix == ".part" and judged == "afterwards":
            with netCDF4.Dataset(path, "a") as file:
                file["tas"][1, 4, 6] += 0.5
        flush(path)

    def wrong(values: np.ndarray, *options: Any) -> Any:
        if judged == "while written":
            values[1, 4, 6] += 0.5
        return encode_chunk(values, *options)

    if judged == "afterwards":
        monkeypatch.setattr(stream, "uses_other_processes", lambda: True)
    monkeypatch.setattr(write, "flush", damaged)
    monkeypatch.setattr(stream, "encode_chunk", wrong)
    coarse = field_on(region())
    with pytest.raises(ConservationError, match=r"time=2000-01-02.*lat=32\.5, lon=13\.5"):
        downscale.to_netcdf(coarse.downscale(2), tmp_path / "a.nc", coarse=coarse)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_an_interrupted_run_leaves_nothing(tmp_path, error):
    def boom(block: np.ndarray) -> np.ndarray:
        raise error("in a block")

    ds = field_on(region()).chunk(time=1)
    broken = ds.assign(tas=ds.tas.copy(data=ds.tas.data.map_blocks(boom, meta=np.empty(0))))
    with pytest.raises(error, match="in a block"):
        downscale.to_netcdf(broken.downscale(2), tmp_path / "a.nc", coarse=ds)
    assert os.listdir(tmp_path) == []


def test_a_killed_process_leaves_no_file_under_the_name(tmp_path):
    code = f"""
import os, numpy as np, xarray as xr, downscale, dask
ds = downscale.sample.open("north_america", chunks={{"time": 1}})
seen = []
def die(block):
    seen.append(1)
    if len(seen) > 5: os._exit(9)
    return block
fine = ds.downscale(2)
fine["tas"] = fine.tas.copy(data=fine.tas.data.map_blocks(die, meta=np.empty(0, "f4")))
with dask.config.set(scheduler="sync"):
    downscale.to_netcdf(fine, {str(tmp_path / "a.nc")!r})
"""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 9, done.stderr
    assert [name for name in os.listdir(tmp_path) if not name.endswith(".part")] == []


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "dump_to_store", full)
    with pytest.raises(OutputError, match=r"expected to write .*a\.nc, received.*No space left on device; free space"):
        downscale.to_netcdf(field_on(region()), tmp_path / "a.nc")
    assert os.listdir(tmp_path) == []


def test_where_a_file_may_lie(tmp_path):
    there = tmp_path / "there.nc"
    there.touch()
    link, dangling = tmp_path / "link.nc", tmp_path / "dangling.nc"
    link.symlink_to(there)
    dangling.symlink_to(tmp_path / "nowhere.nc")
    hard = tmp_path / "hard.nc"
    os.link(there, hard)
    assert check_target(tmp_path / "new.nc") == tmp_path / "new.nc"
    assert check_target(there, overwrite=True) == there
    for path, match in (
        (tmp_path / "no" / "a.nc", "expected an existing folder for the output, received .*no; create it first"),
        (tmp_path, "expected a file name for the output, received the folder"),
        (there, "expected a new file, received .*there.nc that exists; pass --overwrite"),
        (link, "expected a new file, received .*link.nc that exists"),
    ):
        with pytest.raises(OutputError, match=match):
            check_target(path)
    for path in (there, link, hard, tmp_path / "." / "there.nc"):
        with pytest.raises(OutputError, match=r"expected an output other than the input, received .* for both"):
            check_target(path, overwrite=True, inputs=(str(there),))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to the super-user")
def test_a_folder_that_is_not_writable(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="expected a writable folder"):
        check_target(tmp_path / "a.nc")


def test_no_input_is_ever_overwritten(tmp_path):
    """However the objects were made of the file, and whichever of them is named."""
    path, parts = tmp_path / "in.nc", [tmp_path / "part_0.nc", tmp_path / "part_1.nc"]
    ds = timed(region())
    ds.to_netcdf(path)
    ds.isel(time=[0]).to_netcdf(parts[0])
    ds.isel(time=[1, 2]).to_netcdf(parts[1])
    coarse, joined = downscale.open_dataset(path), downscale.open_dataset(tmp_path / "part_*.nc")
    for fine, source, target in (
        (coarse.downscale(2), coarse, path),
        (coarse[["tas"]].downscale(2), coarse[["tas"]], path),
        (coarse.tas.downscale(2), coarse.tas, path),
        (coarse.downscale(2), None, path),
        (coarse.isel(time=0, drop=True).drop_vars("height").downscale(2), None, path),
        (coarse, None, path),
        (joined.downscale(2), joined, parts[0]),
        (joined.downscale(2), joined, parts[1]),
        (joined[["tas"]].downscale(2), None, parts[1]),
    ):
        before = target.read_bytes()
        with pytest.raises(OutputError, match="expected an output other than the input"):
            downscale.to_netcdf(fine, target, coarse=source, overwrite=True)
        assert target.read_bytes() == before


def test_scratch_files_are_renamed_or_removed(tmp_path):
    with temporary_beside(tmp_path / "a.txt") as scratch:
        assert scratch.parent == tmp_path
        scratch.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"

    def fail() -> None:
        with temporary_beside(tmp_path / "b.txt") as scratch:
            scratch.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("level", [-1, 10, "high"])
def test_deflate_levels(tmp_path, level):
    with pytest.raises(OptionError, match="expected complevel from 0 to 9, received"):
        downscale.to_netcdf(field_on(region()), tmp_path / "a.nc", complevel=level)
    assert os.listdir(tmp_path) == []


def test_deflating_loses_nothing(tmp_path):
    fine = rain_on(region()).downscale(4)
    for level in (0, 1, 9):
        downscale.to_netcdf(fine, tmp_path / f"{level}.nc", complevel=level)
        assert same_bits(reopened(tmp_path / f"{level}.nc").pr, fine.pr)
        with netCDF4.Dataset(tmp_path / f"{level}.nc") as file:
            assert file["pr"].filters()["complevel"] == level
            assert file["pr"].filters()["shuffle"] == (level > 0)
            assert file["pr"].chunking() == [3, 48, 64]


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((24, 148, 196), (24, 148, 196)),
        ((3650, 720, 1440), (1, 720, 1440)),
        ((5, 30, 720, 1440), (1, 1, 720, 1440)),
        ((1, 4320, 8640), (1, 135, 8640)),
        ((100, 100), (100, 100)),
        ((10**7, 2, 2), (250_000, 2, 2)),
    ],
)
def test_storage_chunks_are_whole_maps_or_large_parts(shape, sizes):
    found = chunk_sizes(shape)
    assert found == sizes
    assert all(1 <= chunk <= size for chunk, size in zip(found, shape, strict=True))


def test_codes_and_terrain_are_written_too(tmp_path):
    ds = field_on(region()).assign(code=(("lat", "lon"), np.ones((12, 16), "i1"), {"flag_values": np.int8([1])}))
    fine = ds.downscale(2, orog=relief_on(region()), lapse_rate=-6.5e-3)
    downscale.to_netcdf(fine, tmp_path / "a.nc", coarse=ds)
    back = reopened(tmp_path / "a.nc")
    assert back.code.dtype == np.int8
    assert "lapse_rate=-0.0065" in back.attrs["downscale_settings"]


def test_chunks_and_types_of_single_variables(tmp_path):
    coarse = field_on(world(), times=4)
    fine = coarse.downscale(2)
    wanted = {"tas": {"chunksizes": (2, 12, 16), "complevel": 6, "dtype": "float32", "fletcher32": True}}
    report = downscale.to_netcdf(fine, tmp_path / "a.nc", coarse=coarse, encoding=wanted, tolerance=1e-6)
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        raw = file["tas"]
        assert raw.chunking() == [2, 12, 16]
        assert raw.dtype == np.float32
        filters = raw.filters()
        assert (filters["complevel"], filters["shuffle"], filters["fletcher32"]) == (6, True, True)
        assert raw._FillValue == np.float32(1e20)
        assert file["lat"].dtype == np.float64
    assert report["tas"].tolerance == 1e-6
    downscale.to_netcdf(fine, tmp_path / "b.nc", encoding={"tas": {"complevel": 0}})
    with netCDF4.Dataset(tmp_path / "b.nc") as file:
        assert file["tas"].filters()["zlib"] is False


def test_the_type_is_checked_as_written(tmp_path):
    """Single precision on disk keeps no law to the tolerance of double."""
    coarse = field_on(world())
    with pytest.raises(ConservationError, match="expected the cell law within 1e-12"):
        downscale.to_netcdf(
            coarse.downscale(2), tmp_path / "a.nc", coarse=coarse, encoding={"tas": {"dtype": "f4"}}, tolerance=1e-12
        )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("encoding", "match"),
    [
        ({"pr": {}}, "expected encoding of a variable among 'tas', .*received 'pr'"),
        ({"tas": {"scale_factor": 0.01}}, "encoding of 'tas': expected no 'scale_factor', .*packing={'tas': 'int16'}"),
        ({"tas": {"add_offset": 1.0, "dtype": "int16"}}, "expected no 'add_offset', which change or relabel values"),
        ({"time": {"units": "days since 1900-01-01"}}, "encoding of 'time': expected no 'units'"),
        ({"tas": {"_FillValue": 280.0}}, "expected no '_FillValue'"),
        ({"tas": {"dtype": "int16"}}, "expected a floating-point dtype, received 'int16'; pass packing={'tas'"),
        ({"tas": {"chunks": (1, 2, 3)}}, "expected keys among 'chunksizes', 'complevel', .*received 'chunks'"),
        ({"tas": {"chunksizes": (1, 2)}}, r"expected chunksizes from 1 to \(3, 24, 32\), .*received \(1, 2\)"),
        ({"tas": {"chunksizes": (1, 25, 3)}}, r"expected chunksizes from 1 to \(3, 24, 32\)"),
        ({"tas": {"complevel": 11}}, "expected complevel from 0 to 9, received 11"),
    ],
)
def test_what_an_encoding_may_say(tmp_path, encoding, match):
    with pytest.raises(OptionError, match=match):
        downscale.to_netcdf(field_on(world()).downscale(2), tmp_path / "a.nc", encoding=encoding)
    assert os.listdir(tmp_path) == []


def test_masks_are_passed_to_the_check(tmp_path):
    """A coarse cell without any valid fine cell is not lost."""
    coarse = field_on(region())
    valid = xr.ones_like(coarse.downscale(2).tas.isel(time=0, drop=True).drop_vars("areacella")).astype(bool)
    valid[:2, :2] = False
    fine = coarse.downscale(2, mask=valid)
    with pytest.raises(ConservationError, match="coarse cells lost"):
        downscale.to_netcdf(fine, tmp_path / "a.nc", coarse=coarse)
    report = downscale.to_netcdf(fine, tmp_path / "a.nc", coarse=coarse, mask=valid)
    assert report["tas"].cells_masked == 3
