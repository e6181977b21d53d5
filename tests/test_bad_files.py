"""Bad files get one clear line, exit status 2 from the command, an error of the package from Python, and no output."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from command import command
from conftest import shared_data
from refusals import contents, north_america, refused
from sample_fields import field_on, plane, region

import downscale
from downscale.errors import DownscaleError, InputError
from downscale.io.config import read_yaml
from downscale.models.checkpoint import read_tensors, read_texts

BAD, OUT = Path("bad.nc"), "out.nc"
Change = Callable[[xr.Dataset], xr.Dataset]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    north_america().to_netcdf("in.nc")
    return tmp_path


# Files that no reader reads: how to write one at bad.nc, and what is said of it wherever it is passed.


def write(content: bytes) -> Callable[[], Any]:
    return lambda: BAD.write_bytes(content)


def cut(length: int, **how: Any) -> Callable[[], Any]:
    """The beginning of a whole file, or all but its end."""

    def make() -> None:
        north_america().to_netcdf(BAD, **how)
        BAD.write_bytes(BAD.read_bytes()[:length])

    return make


def described(name: str, **attrs: Any) -> Callable[[], Any]:
    """The sample with an attribute that means nothing."""

    def make() -> None:
        shutil.copy("in.nc", BAD)
        with netCDF4.Dataset(BAD, "a") as file:
            file[name].setncatts(attrs)

    return make


def store(mark: str, text: str) -> Callable[[], Any]:
    def make() -> None:
        pytest.importorskip("zarr")
        BAD.mkdir()
        (BAD / mark).write_text(text)

    return make


UNREADABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "missing": (lambda: None, "expected an existing file, received bad.nc; check the path"),
    "empty": (BAD.touch, "received bad.nc, which is empty; get it again"),
    "text": (write(b"lat lon tas\n1 2 3\n"), "received bad.nc (NetCDF: Unknown file format); check it with ncdump"),
    "web page": (write(b"<!DOCTYPE html><html>404"), "which is a web page or XML, perhaps of a download that failed"),
    "image": (write(b"\x89PNG\r\n\x1a\n" + bytes(90)), "expected a NetCDF file, received bad.nc, which is a PNG image"),
    "gzip": (write(b"\x1f\x8b" + bytes(90)), "which is a gzip file; unpack it with gunzip"),
    "zip": (write(b"PK\x03\x04" + bytes(90)), "which is a zip archive; unpack it with unzip"),
    "pickle": (write(b"\x80\x04\x95" + bytes(90)), "received bad.nc (NetCDF: Unknown file format)"),
    "folder": (BAD.mkdir, "expected a file, received the folder bad.nc; give a pattern such as bad.nc/*.nc"),
    "4 bytes": (cut(4), "expected a readable NetCDF file, received bad.nc"),
    "half a header": (cut(100), "received bad.nc (NetCDF: HDF error)"),
    "half": (cut(8000), "received bad.nc (NetCDF: HDF error)"),
    "last byte lost": (cut(-1), "received bad.nc (NetCDF: HDF error)"),
    "classic, half a header": (cut(300, format="NETCDF3_CLASSIC"), "received bad.nc with half a header; get it again"),
    "classic, half": (cut(9000, format="NETCDF3_64BIT"), "received bad.nc of 9000 bytes; get it again"),
    "classic, end lost": (cut(-500, format="NETCDF3_64BIT"), "expected a whole NetCDF file of"),
    "groups": (lambda: north_america().to_netcdf(BAD, group="run1"), "received bad.nc with the groups 'run1' only"),
    "months": (described("time", units="months since 1860-01-01", calendar="standard"), "received units 'months since"),
    "calendar": (described("time", calendar="mayan"), "and calendar 'mayan' in bad.nc; rewrite them"),
    "no date": (described("time", units="days since 0000-13-45"), "expected times in units of one length"),
    "store of words": (store(".zgroup", "no JSON"), "expected a readable Zarr store, received bad.nc"),
    "store of nothing": (store("zarr.json", '{"zarr_format": 3, "node_type": "group"}'), "received bad.nc without any"),
}  # fmt: skip


@pytest.mark.parametrize("fault", UNREADABLE)
def test_files_that_cannot_be_read(here, fault):
    make, words = UNREADABLE[fault]
    make()
    refused(words, "apply", BAD, OUT, "--factor", 4)
    refused(words, "apply", BAD, OUT, "--factor", 4, "--dry-run")
    refused(words, "check", BAD, "in.nc")
    refused(words, "check", "in.nc", BAD)
    refused(words, "weights", BAD, "w.nc", "--factor", 2)
    refused(words, "apply", "in.nc", OUT, "--factor", 2, "--orog", BAD, "--lapse-rate", -0.006)
    refused(words, "apply", "in.nc", OUT, "--factor", 2, "--mask", BAD)
    refused(words, "apply", "in.nc", OUT, "--target", BAD)
    with pytest.raises(InputError):
        downscale.open_dataset(BAD)


# Files that can be read, whose coordinates or fields cannot be used: what is done to the sample.


def moved(**rows: Any) -> Change:
    """Replace coordinates and drop their bounds."""

    def change(ds: xr.Dataset) -> xr.Dataset:
        for name, values in rows.items():
            ds = ds.isel({name: slice(0, len(values))}).drop_vars(f"{name}_bnds")
            attrs = {key: value for key, value in ds[name].attrs.items() if key != "bounds"}
            ds = ds.assign_coords({name: (name, np.asarray(values), attrs)})
        return ds

    return change


def bounded(name: str, change: Callable[[np.ndarray], np.ndarray], dims: tuple[str, ...] = ()) -> Change:
    """Replace the bounds of a coordinate by others."""

    def changed(ds: xr.Dataset) -> xr.Dataset:
        old = ds[f"{name}_bnds"]
        ds[name].attrs["bounds"] = old.name
        return ds.drop_vars(old.name).assign({old.name: (dims or old.dims, change(old.values.copy()))})

    return changed


def put(index: Any, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[index] = value
        return values

    return change


LAT, LON, GAP = np.linspace(15, 60, 37), np.linspace(225, 315, 49), np.array([0.1, 0])
COORDINATES: dict[str, tuple[Change, str]] = {
    "no coordinates": (lambda ds: ds.drop_vars(["lat", "lon", "lat_bnds", "lon_bnds"]), "received dimensions time (3)"),
    "no latitude": (lambda ds: ds.drop_vars(["lat", "lat_bnds"]), "expected horizontal coordinates (latitude and long"),
    "one latitude only": (lambda ds: ds.isel(lat=3), "expected horizontal coordinates"),
    "one row": (lambda ds: ds.isel(lat=[3]).drop_vars("lat_bnds"), "expected bounds for a latitude axis of one cell"),
    "one column": (lambda ds: ds.isel(lon=[3]).drop_vars("lon_bnds"), "expected bounds for a longitude axis of one"),
    "beyond the pole": (moved(lat=LAT + 60), "'lat': expected latitudes within -90 to 90, received 120; check units"),
    "fill value": (moved(lat=[15.0, 16.0, 1e20]), "expected latitudes within -90 to 90, received 1e+20"),
    "two circles": (moved(lon=LON * 9), "'lon': expected longitudes within one circle, received 826.875 degrees"),
    "unsorted rows": (moved(lat=[15.0, 18.0, 17.0, 19.0]), "'lat': expected sorted latitude coordinates, received 18"),
    "unsorted columns": (moved(lon=[10.0, 30.0, 20.0]), "'lon': expected sorted longitude coordinates, received"),
    "duplicate": (moved(lat=[15.0, 16.0, 16.0]), "expected distinct latitude coordinates, received 16 twice; drop"),
    "all zero": (moved(lon=LON * 0), "'lon': expected distinct longitude coordinates, received 0 twice"),
    "NaN": (moved(lat=[np.nan, 16.0, 17.0]), "'lat': expected finite latitude coordinates, received NaN or infinity"),
    "infinite": (moved(lon=[1.0, 2.0, np.inf]), "'lon': expected finite longitude coordinates, received NaN or inf"),
    "words for rows": (moved(lat=[f"{v:g}N" for v in LAT]), "'lat': expected numbers, received <U6; convert it first"),
    "bounds with gaps": (bounded("lat", lambda b: b + 8 * GAP), "expected adjoining latitude cells, received ["),
    "bounds that overlap": (bounded("lat", lambda b: b - 8 * GAP), "or repair the bounds"),
    "bounds elsewhere": (bounded("lat", lambda b: b + 5), "expected latitude bounds around their centres, received"),
    "bounds of NaN": (bounded("lon", put((3, 0), np.nan)), "expected finite longitude bounds, received NaN or inf"),
    "bounds of zeros": (bounded("lat", lambda b: b * 0), "expected distinct latitude coordinates, received 0 twice"),
    "bounds of points": (bounded("lon", lambda b: b * 0 + b.mean(axis=1, keepdims=True)), "expected adjoining longi"),
    "three bounds": (bounded("lat", lambda b: b[:, [0, 1, 1]], ("lat", "three")), "bounds of shape (n, 2), received"),
    "edges for bounds": (bounded("lat", lambda b: np.append(b[:, 0], b[-1, 1]), ("edge",)), "expected bounds of shape"),
    "bounds of another": (bounded("lat", lambda b: np.ones((2, 49)), ("two", "lon")), "'lat': expected bounds of sh"),
    "no field": (lambda ds: ds.drop_vars("tas"), "with dimensions 'lat', 'lon', received no variables"),
    "field of words": (lambda ds: ds.assign(tas=ds.tas.astype(str)), "expected a numeric variable with dimensions"),
    "field on one axis": (lambda ds: ds.mean("lon").assign_coords(lon=ds.lon), "received 'tas' (time, lat; float32)"),
    "no rows": (lambda ds: ds.isel(lat=slice(0)), "expected at least one value along 'lat' in bad.nc, received none"),
    "no times": (lambda ds: ds.isel(time=slice(0)), "expected at least one value along 'time' in bad.nc"),
}  # fmt: skip


@pytest.mark.parametrize("fault", COORDINATES)
def test_files_whose_coordinates_are_wrong(here, fault):
    change, words = COORDINATES[fault]
    change(north_america()).to_netcdf(BAD)
    refused(words, "apply", BAD, OUT, "--factor", 4)
    refused(words, "apply", BAD, OUT, "--factor", 4, "--dry-run")
    if fault not in ("no rows", "no times"):  # no maps are made of no maps in Python
        for obj in (change(north_america()), downscale.open_dataset(BAD)):
            with pytest.raises(DownscaleError) as caught:
                obj.downscale(4)
            assert words in str(caught.value)
            assert "\n" not in str(caught.value)


def mesh(**topology: Any) -> xr.Dataset:
    """The sample as a list of cells."""
    flat = north_america().drop_vars(["lat_bnds", "lon_bnds"]).stack(ncells=("lat", "lon")).reset_index("ncells")
    flat = flat.rename(lat="clat", lon="clon")
    return flat.drop_vars(["clat", "clon"]).assign(topology) if topology else flat


def curvilinear(lat: Callable[[np.ndarray], np.ndarray] = lambda values: values) -> xr.Dataset:
    """The sample as if its rows and columns were no latitudes and longitudes."""
    ds = north_america().drop_vars(["lat_bnds", "lon_bnds"]).rename(lat="j", lon="i")
    north, east = np.meshgrid(ds.j.values, ds.i.values, indexing="ij")
    tilted = {"lat": (("j", "i"), lat(north + 0.05 * (east - 270))), "lon": (("j", "i"), east - 0.1 * north)}
    return ds.drop_vars(["i", "j"]).assign_coords(tilted)


def metres(y: str, x: str) -> xr.Dataset:
    ds = field_on(plane())
    for name, units in (("y", y), ("x", x)):
        ds[name].attrs["units"] = units
    return ds


GRIDS: dict[str, tuple[Callable[[], xr.Dataset], str]] = {
    "mesh": (mesh, "received an unstructured mesh (1813 cells along 'ncells'); bring it to one first"),
    "UGRID": (lambda: mesh(mesh=((), 0, {"cf_role": "mesh_topology"})), "expected a grid of rows and columns, rec"),
    "HEALPix": (lambda: mesh(crs=((), 0, {"grid_mapping_name": "healpix"})), "received a HEALPix grid (1813 cells"),
    "metres and kilometres": (lambda: metres("m", "km"), "'y' and 'x' both in m or both in km, received 'm', 'km'"),
    "metres and degrees": (lambda: metres("m", "degrees_east"), "'degrees_east' and standard_name"),
    "kilograms": (lambda: metres("kg", "kg"), "'kg'"),
    "positions of NaN": (lambda: curvilinear(put((5, 7), np.nan)), "coordinates 'lat' and 'lon': expected"),
    "positions beyond the pole": (lambda: curvilinear(lambda v: v + 60), "coordinates 'lat' and 'lon': expected lat"),
}


@pytest.mark.parametrize("fault", GRIDS)
def test_grids_that_are_none(here, fault):
    make, words = GRIDS[fault]
    make().to_netcdf(BAD)
    refused(words, "apply", BAD, OUT, "--factor", 2)
    refused(words, "apply", BAD, OUT, "--factor", 2, "--dry-run")


# Real files, each with the fault that a careless hand makes in it.


REAL: dict[str, tuple[str, Change, str]] = {
    "rotated pole": (
        "nasty_rotated_pole_mslp.nc",
        lambda ds: ds.isel(grid_latitude=[0, 2, 1, 3]),
        "'grid_latitude': expected sorted latitude coordinates, received",
    ),
    "packed levels": (
        "nasty_packed_int16_eraint_uvz_0p75deg.nc",
        lambda ds: ds.isel(latitude=[3]),
        "'latitude': expected bounds for a latitude axis of one cell, received none",
    ),
    "hours": (
        "temperature_era5_uk_0p25deg_201903_d01-20.nc",
        lambda ds: ds.isel(lon=[0, 1, 1, 2]),
        "'lon': expected distinct longitude coordinates, received",
    ),
    "days of 2095": (
        "nasty_noleap_tasmax_daily_10km_2095.nc",
        lambda ds: ds.assign_coords(lat=ds.lat.where(ds.lat < ds.lat.mean())),
        "'lat': expected finite latitude coordinates, received NaN or infinity; drop those rows",
    ),
    "codes on levels": (
        "nasty_categorical_basin_mask_1deg.nc",
        lambda ds: ds.assign_coords(Y=ds.Y * 2),
        "'Y': expected latitudes within -90 to 90, received -179; check units or axis names",
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_with_a_fault(here, name):
    file, change, words = REAL[name]
    ds = downscale.open_dataset(shared_data(file), chunks=None, decode_times=False)
    small = ds.isel({dim: slice(0, 4) for dim in ds.dims if dim in ("time", "month", "level", "Z")})
    change(small.load()).drop_encoding().to_netcdf(BAD)
    refused(words, "apply", BAD, OUT, "--factor", 2)


def test_real_positions_with_holes(here):
    ds = downscale.open_dataset(shared_data("nasty_curvilinear_nemo_orca1_sst_201501.nc"), chunks=None)
    part = ds.isel(y=slice(0, 40), x=slice(0, 40)).load()
    lat = next(str(n) for n, v in part.coords.items() if v.ndim == 2 and v.attrs.get("standard_name") == "latitude")
    part[lat][5, 7] = np.nan
    part.drop_encoding().to_netcdf(BAD)
    refused(f"coordinates {lat!r} and", "apply", BAD, OUT, "--factor", 2)


@pytest.mark.parametrize("file", ["nasty_rotated_pole_mslp.nc", "nasty_packed_int16_eraint_uvz_0p75deg.nc"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_half_of_a_real_file(here, file, part):
    whole = shared_data(file).read_bytes()
    BAD.write_bytes(whole[: int(part * len(whole))])
    refused("received bad.nc", "apply", BAD, OUT, "--factor", 2)


# What shows only when data are read: nothing may be left behind then either.


def damaged(name: str = "tas", **how: Any) -> None:
    """A file whose field is broken in the middle of its one compressed chunk."""
    ds = north_america(24)
    shape = ds[name].shape
    ds.to_netcdf(BAD, encoding={name: {"zlib": True, "complevel": 4, "chunksizes": shape, **how}})
    content = bytearray(BAD.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    BAD.write_bytes(bytes(content))


@pytest.mark.parametrize("how", [{}, {"fletcher32": True}, {"shuffle": False}])
@pytest.mark.parametrize("output", ["out.nc", "out.zarr"])
def test_damage_inside(here, how, output):
    if output.endswith(".zarr"):
        pytest.importorskip("zarr")
    damaged(**how)
    refused("a file is damaged, get it again", "apply", BAD, output, "--factor", 2)
    refused("a file is damaged, get it again", "check", BAD, BAD)


def test_damage_that_shows_while_other_threads_write(here):
    """A thread that still wrote made the removed temporary file anew."""
    damaged()
    for _ in range(5):
        refused("a file is damaged, get it again", "apply", BAD, OUT, "--factor", 6, "--chunks", "time:3")


def test_damaged_headers_are_refused_or_read(here):
    """Bytes of a header that are flipped give no traceback, whatever they mean."""
    north_america().to_netcdf("classic.nc", format="NETCDF3_CLASSIC")
    rng = np.random.default_rng(0)
    for whole in (Path("classic.nc").read_bytes(), Path("in.nc").read_bytes()):
        for place in rng.integers(0, 1200, 25):
            BAD.write_bytes(whole[:place] + bytes([whole[place] ^ int(rng.integers(1, 256))]) + whole[place + 1 :])
            said = command("apply", BAD, OUT, "--factor", 2, "--overwrite", "--dry-run")
            assert said.status in (0, 2), (int(place), said.err)
            assert "Traceback" not in said.err


def test_hdf5_that_is_no_netcdf(here):
    h5py = pytest.importorskip("h5py")
    with h5py.File(BAD, "w") as file:
        file["table"] = np.zeros((3, 4))
    refused("expected horizontal coordinates", "apply", BAD, OUT, "--factor", 2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_files_and_folders_without_permission(here):
    shutil.copy("in.nc", BAD)
    BAD.chmod(0)
    with pytest.raises(InputError, match=r"received bad\.nc without permission; see ls -l"):
        downscale.open_dataset(BAD)
    BAD.chmod(0o600)
    here.chmod(0o500)
    try:
        refused("expected a writable folder for the output", "apply", BAD, OUT, "--factor", 2)
    finally:
        here.chmod(0o700)


# Formats that need a package.


def test_grib_and_stores_say_which_package_they_need(here, monkeypatch):
    write(b"GRIB" + bytes(90))()
    for module in ("cfgrib", "zarr"):
        monkeypatch.setitem(sys.modules, module, None)
    remedy = 'pip install "downscale-climate[grib]"'
    refused(f"to read the GRIB file bad.nc, received none; {remedy}", "apply", BAD, OUT, "--factor", 2)
    Path("a.zarr").mkdir()
    Path("a.zarr/.zgroup").write_text("{}")
    refused("expected the package zarr to read the Zarr store a.zarr", "apply", "a.zarr", OUT, "--factor", 2)


def test_grib_end_to_end(here):
    pytest.importorskip("cfgrib")
    shutil.copy(shared_data("grib_arpege_2m_nw_20180501.grib"), "a.grib")
    before = contents()
    ds = downscale.open_dataset("a.grib")
    assert (dict(ds.sizes), set(ds.data_vars)) == ({"step": 25, "latitude": 58, "longitude": 80}, {"t2m", "d2m", "r"})
    report = downscale.to_netcdf(ds.downscale(2), OUT, coarse=ds)
    assert report is not None
    assert report.passed
    assert contents().keys() - before.keys() == {OUT}
    with netCDF4.Dataset(OUT) as file:
        said = {name for v in file.variables.values() for name in v.ncattrs() if name.startswith("GRIB_")}
        assert said == {"GRIB_paramId", "GRIB_shortName", "GRIB_stepType", "GRIB_typeOfLevel"}
        assert "unknown" not in {getattr(v, "standard_name", "") for v in file.variables.values()}
    refused("expected an output other than the input", "apply", "a.grib", "a.grib", "--factor", 2, "--overwrite")
    Path("half.grib").write_bytes(Path("a.grib").read_bytes()[:300_000])
    refused("expected a whole GRIB file of one grid, received half.grib", "apply", "half.grib", "o.nc", "--factor", 2)
    Path("text.grib").write_text("only words")
    refused("received text.grib (No valid message found", "apply", "text.grib", "o.nc", "--factor", 2)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("consolidated", [False, True])
def test_stores_are_opened_as_files_are(here, version, consolidated):
    pytest.importorskip("zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        north_america().to_zarr("in.zarr", zarr_format=version, consolidated=consolidated)
    ds = downscale.open_dataset("in.zarr")
    xr.testing.assert_equal(ds.tas.compute(), downscale.open_dataset("in.nc").tas.compute())
    assert {"lat_bnds", "lon_bnds"} <= set(ds.coords)
    said = command("apply", "in.zarr", "out.zarr", "--factor", 2)
    assert (said.status, said.err) == (0, "")
    assert command("check", "in.zarr", "out.zarr").status == 0
    for output in ("in.zarr", "./in.zarr"):
        refused("expected an output other than the input", "apply", "in.zarr", output, "--factor", 2, "--overwrite")


# What is unusual and yet no fault.


def test_missing_values_are_no_error(here):
    ds = north_america()
    ds["tas"] = ds.tas.where(ds.tas > 280)
    ds.to_netcdf(BAD)
    said = command("apply", BAD, OUT, "--factor", 4)
    assert (said.status, said.err) == (0, "")
    report = downscale.open_dataset(OUT).downscale.check(ds)["tas"]
    assert report.passed
    assert (report.cells_masked, report.cells_lost, report.cells_invented) == (int(ds.tas.isnull().sum()), 0, 0)


def test_a_variable_without_any_value_stays_without(here):
    """Sea temperatures of an inland region must not stop the others of the file; the report says it."""
    ds = north_america()
    ds.assign(tos=ds.tas * np.nan).to_netcdf(BAD)
    said = command("apply", BAD, OUT, "--factor", 2)
    assert (said.status, said.err) == (0, "")
    assert "tos: no coarse cell has a value, and so has no fine cell" in said.out
    assert bool(downscale.open_dataset(OUT).tos.isnull().all())
    fine = xr.open_dataset(OUT).load()
    fine.assign(tos=fine.tas).to_netcdf("invented.nc")
    assert command("check", BAD, "invented.nc").status == 1


def test_one_line_from_a_new_process(here):
    """As people call it: the exit status of the process, one line, no traceback."""
    damaged()
    for name, words in ((BAD, "a file is damaged"), ("none.nc", "expected an existing file, received none.nc")):
        before = contents()
        call = [sys.executable, "-m", "downscale", "apply", str(name), OUT, "--factor", "2"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("downscale: ")
        assert words in done.stderr
        assert contents() == before


# Files that are none: nothing waits for what may never come.


def a_pipe() -> str:
    os.mkfifo("pipe.nc")
    return "pipe.nc"


def a_socket() -> str:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.nc")
    return "socket.nc"


SPECIAL: dict[str, Callable[[], str]] = {
    "pipe": a_pipe, "socket": a_socket, "null": lambda: "/dev/null", "zeros": lambda: "/dev/zero",
    "full": lambda: "/dev/full", "standard input": lambda: "/dev/stdin", "dash": lambda: "-",
}  # fmt: skip


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_are_refused_at_once(here, kind):
    name, words = SPECIAL[kind](), "expected a regular file"
    terrain = ("--orog", name, "--lapse-rate", -0.006)
    refused(words, "apply", name, OUT, "--factor", 2)
    refused(words, "check", "in.nc", name)
    refused(words, "apply", "in.nc", OUT, "--factor", 2, *terrain)
    refused(words, "apply", "in.nc", OUT, "--factor", 2, "--mask", name)
    if name != "-":  # which is a resolution that is none
        refused(words, "apply", "in.nc", OUT, "--target", name)
    refused(words, "run", name)
    with pytest.raises(InputError, match=words):
        downscale.open_dataset(["in.nc", name])
    for door in (read_yaml, lambda path: read_texts(path, "checkpoint"), lambda path: read_tensors(path, "checkpoint")):
        with pytest.raises(InputError, match=words):
            door(name)


# Numbers and words of other types than files usually hold.


def hdf5(kind: str) -> None:
    """An HDF5 file as other programs write it."""
    h5py = pytest.importorskip("h5py")
    values = np.ones((6, 8)) + np.arange(8)
    with h5py.File(BAD, "w") as file:
        for name, units, numbers in (("lat", "degrees_north", np.arange(6.0)), ("lon", "degrees_east", np.arange(8.0))):
            file[name] = numbers
            file[name].make_scale(name)
            file[name].attrs["units"] = np.bytes_(units)
        if kind == "lists":
            file.create_dataset("tas", (6, 8), dtype=h5py.vlen_dtype(np.float32))
        else:
            file["tas"] = values.astype(kind)
        for axis, name in enumerate(("lat", "lon")):
            file["tas"].dims[axis].attach_scale(file[name])


NUMBERS = """
import sys, downscale
from downscale.errors import DownscaleError
for kind in sys.argv[1:]:
    try:
        ds = downscale.open_dataset(kind + ".nc")
        print(downscale.to_netcdf(ds.downscale(2), "out.nc", coarse=ds, overwrite=True).passed)
    except DownscaleError as error:
        print("refused", error)
"""


def test_numbers_of_any_type_are_read_or_refused(here):
    """In a process of its own: the NetCDF library ends it where it meets half precision."""
    pytest.importorskip("h5netcdf")
    kinds = ["f2", "f16", ">f4", "u8", "i8", "bool", "c8", "c16", "S3", "lists"]
    for kind in kinds:
        hdf5(kind)
        BAD.rename(f"{kind}.nc")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    call = [sys.executable, "-W", "ignore", "-c", NUMBERS, *kinds]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-500:]
    said = [line.split()[0] for line in done.stdout.splitlines()]
    # Truths are codes, of which no mean is checked.
    assert said == ["True"] * 5 + ["refused"] * 5


@pytest.mark.parametrize("kind", ["f2", "f16", "u8"])
def test_arrays_of_any_type_are_used(here, kind):
    ds = north_america()
    ds["tas"] = (ds.tas / 2).astype(kind)
    report = downscale.to_netcdf(ds.downscale(2), OUT, coarse=ds)
    assert report is not None
    assert report.passed


def test_complex_numbers_are_refused():
    ds = north_america()
    with pytest.raises(InputError, match="numeric variable"):
        ds.assign(tas=ds.tas * 1j).downscale(2)


ATTRIBUTES: dict[str, Any] = {
    "numbers": np.array([1.0, 2.0]), "one number": 3, "words": ["one", "two"], "none": np.array([], "f4"),
    "whole numbers": np.arange(4, dtype="i2"),
}  # fmt: skip
KEYS = (
    "units", "standard_name", "long_name", "axis", "bounds", "cell_methods", "cell_measures", "grid_mapping", "comment",
    "positive", "formula_terms", "ancillary_variables", "flag_meanings", "history", "title", "Conventions", "frequency",
    "external_variables", "license", "tracking_id", "downscale_settings", "corner_lats", "featureType", "calendar",
)  # fmt: skip


@pytest.mark.parametrize("where", ["tas", "lat", "time", "global"])
@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_attributes_that_are_arrays(here, kind, where):
    """One after the other, and all of those together that can be used: never a fault of ours."""
    used = field_on(region(4, 6), 1)
    for key in KEYS:
        ds = field_on(region(4, 6), 1)
        (ds if where == "global" else ds[where]).attrs[key] = ATTRIBUTES[kind]
        try:
            ds.downscale(2)
        except DownscaleError:
            continue
        if (where, key) != ("tas", "flag_meanings"):  # which would make codes of it
            (used if where == "global" else used[where]).attrs[key] = ATTRIBUTES[kind]
    report = downscale.to_netcdf(used.downscale(2), OUT, coarse=used)
    assert report is not None
    assert report.passed
    assert where != "global" or set(KEYS) <= set(used.attrs)


def test_chunks_of_unknown_size_and_dates_that_are_none(here):
    ds = north_america()
    chunked = ds.tas.chunk(time=1)
    some = chunked.data[(chunked.mean(("lat", "lon")) > 0).data]
    field = xr.DataArray(some, dims=ds.tas.dims, coords={"lat": ds.lat, "lon": ds.lon}, name="tas")
    for use in (lambda: field.downscale(2), lambda: downscale.plan(field, 2), lambda: downscale.coarsen(field, 2)):
        with pytest.raises(InputError, match=r"tas: .*unknown .*'time'.*compute"):
            use()
    dates = np.array(["2000-01-01", "NaT", "2000-01-03"], "M8[ns]")
    with pytest.raises(InputError, match=r"'time'.*NaT at step 1.*drop"):
        ds.drop_vars("time_bnds", errors="ignore").assign_coords(time=dates).downscale(2)


def test_axes_above_a_group_are_its_own(here):
    ds = north_america()
    for name in ("lat", "lon"):
        ds[name].attrs["bounds"] = f"{name}_bnds"
    ds.drop_vars("tas").to_netcdf(BAD)
    bare = ds[["tas"]].drop_vars(["lat", "lon", "lat_bnds", "lon_bnds", "time"], errors="ignore")
    bare.to_netcdf(BAD, mode="a", group="run/day")
    read = downscale.open_dataset(BAD, group="run/day")
    np.testing.assert_array_equal(read.tas, ds.tas)
    for name in ("lat", "lon", "lat_bnds", "lon_bnds", "time"):
        assert name in read.coords
    xr.testing.assert_equal(read.downscale(2).tas.compute(), ds.downscale(2).tas)
