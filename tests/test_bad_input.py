"""Bad input gets one clear line, exit status 2 from the command, an error of the package from Python, and no file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from command import command
from sample_fields import field_on, plane, region, world

import downscale
from downscale.errors import DownscaleError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    field_on(world()).to_netcdf("in.nc")
    return tmp_path


def no_axes(ds: xr.Dataset) -> xr.Dataset:
    return ds.drop_vars(["lat", "lon", "lat_bnds", "lon_bnds"])


def one_row(ds: xr.Dataset) -> xr.Dataset:
    return ds.isel(lat=[3]).drop_vars("lat_bnds")


def moved(**rows: list[float]) -> Callable[[xr.Dataset], xr.Dataset]:
    """Replace coordinates and drop their bounds."""

    def change(ds: xr.Dataset) -> xr.Dataset:
        for name, values in rows.items():
            ds = ds.isel({name: slice(0, len(values))}).drop_vars(f"{name}_bnds").assign_coords({name: values})
        return ds

    return change


FILES: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "no lat and lon": (no_axes, "expected horizontal coordinates (latitude and longitude, or projected x and y)"),
    "one-cell axis without bounds": (one_row, "'lat': expected bounds for a latitude axis of one cell, received none"),
    "lat beyond 90": (moved(lat=[88.0, 89.0, 90.0, 91.0]), "'lat': expected latitudes within -90 to 90, received 91"),
    "lat in radians of a circle": (moved(lat=[0.0, 100.0, 200.0]), "received 200; check units or axis names"),
    "unsorted": (moved(lat=[1.0, 3.0, 2.0, 4.0]), "'lat': expected sorted latitude coordinates, received"),
    "unsorted lon": (moved(lon=[10.0, 30.0, 20.0]), "'lon': expected sorted longitude coordinates"),
    "NaN": (moved(lat=[1.0, np.nan, 3.0]), "'lat': expected finite latitude coordinates, received NaN or infinity"),
    "duplicate": (moved(lon=[1.0, 2.0, 2.0]), "'lon': expected distinct longitude coordinates, received 2 twice"),
    "more than a circle": (moved(lon=[0.0, 150.0, 300.0, 450.0]), "'lon': expected longitudes within one circle"),
    "no field": (lambda ds: ds.drop_vars("tas"), "expected a numeric variable with dimensions 'lat', 'lon', received"),
    "text": (lambda ds: ds.assign(tas=ds.tas.astype(str)), "expected a numeric variable"),
}


@pytest.mark.parametrize("fault", FILES)
def test_files_whose_coordinates_are_wrong(here, fault):
    change, words = FILES[fault]
    bad = change(field_on(world()))
    bad.to_netcdf("bad.nc")
    said = command("apply", "bad.nc", "out.nc", "--factor", 4)
    assert said.status == 2
    assert words in said.complaint
    assert sorted(os.listdir()) == ["bad.nc", "in.nc"]
    for obj in (bad, downscale.open_dataset("bad.nc")):
        with pytest.raises(DownscaleError) as caught:
            obj.downscale(4)
        assert isinstance(caught.value, ValueError)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def write_nothing(path: Path) -> None:
    pass


def write_text(path: Path) -> None:
    path.write_text("no NetCDF\n")


def write_half(path: Path) -> None:
    path.write_bytes(Path("in.nc").read_bytes()[:5000])


def write_half_classic(path: Path) -> None:
    field_on(region()).to_netcdf(path, format="NETCDF3_CLASSIC")
    path.write_bytes(path.read_bytes()[:-500])


UNREADABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no such file": (write_nothing, "expected an existing file, received bad.nc; check the path"),
    "not NetCDF": (write_text, "expected a readable NetCDF file, received bad.nc"),
    "empty": (Path.touch, "expected a readable NetCDF file, received bad.nc"),
    "truncated": (write_half, "expected a readable NetCDF file, received bad.nc"),
    "truncated classic": (write_half_classic, "expected a whole NetCDF file of"),
    "folder": (Path.mkdir, "expected a file, received the folder bad.nc"),
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_files_that_cannot_be_read(here, fault):
    write, words = UNREADABLE[fault]
    write(Path("bad.nc"))
    left = sorted(os.listdir())
    for arguments in (
        ("apply", "bad.nc", "out.nc", "--factor", 4),
        ("check", "bad.nc", "in.nc"),
        ("check", "in.nc", "bad.nc"),
        ("apply", "in.nc", "out.nc", "--factor", 2, "--orog", "bad.nc", "--lapse-rate", -0.006),
    ):
        said = command(*arguments)
        assert said.status == 2
        assert words in said.complaint
    with pytest.raises(DownscaleError):
        downscale.open_dataset("bad.nc")
    assert sorted(os.listdir()) == left


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--factor", "0"], "expected factor to be a whole number of at least 1, received 0"),
        (["--factor", "-2"], "expected factor to be a whole number of at least 1, received -2"),
        (["--factor", "2.5"], "expected factor to be a whole number, or dim:number,dim:number, received '2.5'"),
        (["--factor", "x"], "expected factor to be a whole number, or dim:number,dim:number, received 'x'"),
        (["--factor", "latitude:2"], "expected factor for the dimensions 'lat', 'lon', 'time', received 'latitude'"),
        ([], "expected factor or target_grid, received neither; try factor=4"),
        (["--factor", "2", "--vars", "pr"], "expected a variable among 'tas', received 'pr'"),
        (["--factor", "2", "--method", "cubic"], "expected method to be one of 'sobolev', 'conservative', "),
        (["--factor", "2", "--conserve", "mass"], "expected 'cell' or 'total', received 'mass'"),
        (["--factor", "2", "--bounds", "3:1"], "expected the lower bound below the upper"),
        (["--factor", "2", "--bounds", "positive"], "expected bounds as auto, none or LOW:HIGH, received 'positive'"),
        (["--factor", "2", "--chunks", "tiem:3"], "expected chunks of the dimensions 'time', 'lat', 'lon', 'bnds'"),
        (["--factor", "2", "--chunks", "time"], "expected chunks to be a whole number, or dim:number,dim:number"),
        (["--factor", "2", "--chunks", "time:0"], "expected chunks of at least one value along 'time', received 0"),
        (["--factor", "2", "--complevel", "11"], "'output.complevel': expected less than or equal to 9, received 11"),
        (["--factor", "2", "--complevel", "x"], "--complevel"),
        (["--factor", "2", "--device", "tpu"], "expected device 'auto' or one of"),
        (["--factor", "2", "--lapse-rate", "-0.006"], "expected orog with lapse_rate, received none"),
        (["--factor", "2", "--lapse-rate", "steep"], "--lapse-rate"),
        (["--factor", "2", "--speed", "high"], "No such option: --speed"),
    ],
)
def test_requests_that_are_wrong(here, arguments, words):
    said = command("apply", "in.nc", "out.nc", *arguments)
    assert said.status == 2
    assert words in said.complaint
    assert os.listdir() == ["in.nc"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("in.nc", "expected an output other than the input, received in.nc for both; choose another"),
        ("./in.nc", "expected an output other than the input"),
        ("link.nc", "expected an output other than the input"),
        ("no/out.nc", "expected an existing folder for the output, received no; create it first"),
        (".", "expected a file name for the output, received the folder"),
        ("there.nc", "expected a new file, received there.nc that exists; pass --overwrite"),
    ],
)
def test_outputs_that_cannot_be(here, target, words):
    Path("link.nc").symlink_to("in.nc")
    Path("there.nc").write_text("mine")
    before = Path("in.nc").read_bytes()
    flags = [] if target == "there.nc" else ["--overwrite"]
    said = command("apply", "in.nc", target, "--factor", 2, *flags)
    assert said.status == 2
    assert words in said.complaint
    assert sorted(os.listdir()) == ["in.nc", "link.nc", "there.nc"]
    assert Path("there.nc").read_text() == "mine"
    assert Path("in.nc").read_bytes() == before
    assert Path("link.nc").is_symlink()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"downscale": {"factor": 2, "metod": "sobolev"}}, "received 'downscale.metod'; did you mean 'method'?"),
        ({"dowscale": {}}, "received 'dowscale'; did you mean 'downscale'?"),
        ({"terrain": {"penalty": {"base_gradient": 1, "iteration": 2}}}, "'terrain.penalty.iteration'; did you mean"),
        ({"input": {"path": "no.nc"}}, "expected an existing file, received no.nc"),
        ({"input": {"path": "in.nc", "variables": ["pr"]}}, "expected a variable among 'tas', received 'pr'"),
        ({"input": {"path": "sample:europe"}}, "expected a sample among 'north_america'"),
        ({"downscale": {"factor": "four"}}, "expected factor to be a whole number of at least 1, received 'four'"),
        ({"output": {"path": "out.nc", "map": "map.doc"}}, "expected a map file of type"),
        ({"statics": {"orog": "in.nc"}, "terrain": {"lapse_rate": -0.006}}, "orog: expected two dimensions"),
    ],
)
def test_recipes_that_are_wrong(here, content, words):
    least = {"input": {"path": "in.nc"}, "downscale": {"factor": 2}, "output": {"path": "out.nc"}}
    Path("r.yml").write_text(yaml.safe_dump({**least, **content}))
    for arguments in (["run", "r.yml"], ["run", "r.yml", "--dry-run"]):
        said = command(*arguments)
        assert said.status == 2
        assert words in said.complaint
        assert sorted(os.listdir()) == ["in.nc", "r.yml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--law", "mass"], "expected law to be one of 'cell', 'total', received 'mass'"),
        (["--tolerance", "-1"], "expected tolerance to be a positive number, received -1"),
        (["--tolerance", "small"], "--tolerance"),
        (["--vars", "pr"], "expected a variable of both fields among 'tas', received 'pr'"),
    ],
)
def test_checks_that_are_wrong(here, arguments, words):
    said = command("check", "in.nc", "in.nc", *arguments)
    assert said.status == 2
    assert words in said.complaint


def test_fields_that_cannot_be_compared(here):
    ds = field_on(world())
    ds.rename(tas="pr").to_netcdf("other.nc")
    field_on(plane()).to_netcdf("elsewhere.nc")
    ds.isel(time=slice(0, 2)).to_netcdf("short.nc")
    for name, words in (
        ("other.nc", "expected a variable that both fields have, received 'tas' and 'pr'"),
        ("elsewhere.nc", "expected two axes of one kind, received latitude and projected"),
        ("short.nc", "expected 3 values of 'time' in the fine field or cells to average over, received 2 (coordinate 'time'"),
    ):
        said = command("check", "in.nc", name)
        assert said.status == 2
        assert words in said.complaint


def test_missing_values_are_no_error(here):
    ds = field_on(world(), missing=0.4)
    ds["tas"][0] = np.nan
    ds.to_netcdf("gaps.nc")
    said = command("apply", "gaps.nc", "out.nc", "--factor", 4)
    assert said.status == 0
    assert said.err == ""
    fine = downscale.open_dataset("out.nc")
    report = fine.downscale.check(ds)["tas"]
    assert report.passed
    assert (report.cells_masked, report.cells_lost, report.cells_invented) == (int(ds.tas.isnull().sum()), 0, 0)
