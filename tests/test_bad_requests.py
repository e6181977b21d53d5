"""Wrong requests get one clear line and exit status 2 (1 for a broken law), and leave everything as it was."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import yaml
from command import command
from conftest import shared_data
from refusals import contents, north_america, refused
from sample_fields import field_on, plane

import downscale
from downscale.errors import DownscaleError, InputError

OUT = "out.nc"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the real sample as in.nc, and files that are of no use with it."""
    monkeypatch.chdir(tmp_path)
    coarse = north_america()
    coarse.to_netcdf("in.nc")
    field_on(plane()).to_netcdf("plane.nc")
    coarse.drop_vars("lon_bnds").assign_coords(lon=coarse.lon - 150).to_netcdf("far.nc")
    coarse.isel(time=0).assign(tas=coarse.tas.isel(time=0).astype(str)).to_netcdf("words.nc")
    relief = downscale.sample.open("north_america_relief", chunks=None).load()
    relief.to_netcdf("relief.nc")
    relief[["orog"]].isel(lat=slice(0, 20)).to_netcdf("part.nc")
    (relief[["orog"]] * np.nan).assign(orog=relief.orog.copy(data=relief.orog * np.nan)).to_netcdf("nowhere.nc")
    relief[["sftlf"]].to_netcdf("sftlf.nc")
    (relief[["sftlf"]] * 300).to_netcdf("large.nc")
    (relief[["sftlf"]] - 1).to_netcdf("negative.nc")
    (relief[["sftlf"]] * 0).to_netcdf("zero.nc")
    relief[["sftlf"]].expand_dims(time=[0, 1]).to_netcdf("moving.nc")
    xr.Dataset({"a": relief.orog.drop_attrs(), "b": relief.sftlf.drop_attrs()}).to_netcdf("two.nc")
    return tmp_path


F = ("--factor", "2")
RELIEF = (*F, "--lapse-rate", "-0.0065", "--orog")
MASK = (*F, "--mask")
OPTIONS: list[tuple[tuple[str, ...], str]] = [
    ((), "expected --factor or --target, received neither; try --factor 4"),
    (("--factor", "0"), "expected --factor to be a whole number of at least 1, received 0"),
    (("--factor", "-2"), "expected --factor to be a whole number of at least 1, received -2"),
    (("--factor", "2.5"), "expected --factor to be a whole number, or dim:number,dim:number, received '2.5'"),
    (("--factor", "x"), "expected --factor to be a whole number, or dim:number,dim:number, received 'x'"),
    (("--factor", ""), "expected --factor to be a whole number, or dim:number,dim:number, received ''"),
    (("--factor", "lat:2,lon"), "expected --factor to be a whole number, or dim:number,dim:number"),
    (("--factor", "lat:2,lat:3"), "expected --factor for each dimension once, received 'lat' twice"),
    (("--factor", "lat:0"), "expected --factor to be a whole number of at least 1, received 0"),
    (("--factor", "latitude:2"), "expected --factor for the dimensions 'lat', 'lon', 'time', received 'latitude'"),
    (("--factor", "100000"), "expected a factor of at most 5405 along 'lat', which makes 200000 cells"),
    (("--factor", "9" * 25), "expected a factor of at most 5405 along 'lat'"),
    (("--factor", "time:2"), "'time': expected adjoining periods, received 1868-12-01T00:00:00Z to"),
    ((*F, "--target", "1x1"), "expected --factor or --target, received both; drop one of them"),
    (("--target", "far.nc"), "expected a target that overlaps the longitude range 224.062 to 315.938, received 74.06"),
    (("--target", "plane.nc"), "latitudes and longitudes, as the coarse field is, received one on metres of"),
    (("--target", "none.nc"), "--target: expected an existing file, received none.nc; check the path"),
    (("--target", "0x0"), 'expected a resolution of two positive numbers such as "0.25x0.25", received \'0x0\''),
    (("--target", "-1x1"), "expected a resolution of two positive numbers"),
    (("--target", "0.25"), 'expected --target as a resolution of rows x columns such as "0.25x0.25"'),
    (("--target", "1,1"), "expected --target as a resolution of rows x columns"),
    (("--target", ""), "expected --target as a resolution of rows x columns"),
    (("--target", "1e-9x1e-9"), "expected a resolution of at most 200000 cells along an axis"),
    (("--target", "time:"), "expected --target as a file, a resolution 0.25x0.25 or dim:frequency, received 'time:'"),
    (("--target", "tiem:D"), "expected --target for the dimensions 'lat', 'lon', 'time', received 'tiem'"),
    ((*MASK, "none.nc"), "expected an existing file, received none.nc"),
    ((*MASK, "plane.nc"), "mask: expected"),
    ((*MASK, "words.nc"), "mask: expected numbers, received 'tas' of type"),
    ((*MASK, "two.nc"), "expected one mask, received ['a', 'b']; pass that DataArray itself"),
    ((*MASK, "large.nc"), "mask: expected True and False, or a fraction from 0 to 1 or to 100 %, received 0 to 300"),
    ((*MASK, "negative.nc"), "mask: expected True and False, or a fraction from 0 to 1"),
    ((*MASK, "moving.nc"), "mask: expected two dimensions, received ('time', 'lat', 'lon'); a mask does not vary"),
    ((*MASK, "zero.nc"), "mask: expected valid fine cells, received none with a value above one half in 'sftlf'"),
    ((*F, "--na-thres", "2"), "expected --na-thres to be a number from 0 to 1, received 2"),
    ((*F, "--na-thres", "nan"), "expected --na-thres to be a number from 0 to 1, received nan"),
    ((*F, "--lapse-rate", "-0.0065"), "expected --orog with --lapse-rate, received none; pass the fine"),
    ((*F, "--orog", "relief.nc", "--lapse-rate", "nan"), "expected --lapse-rate to be a number, a DataArray (units"),
    ((*RELIEF, "part.nc"), "orog: expected a field that covers the whole fine grid, received one that covers 0 % of"),
    ((*RELIEF, "far.nc"), "orog: expected"),
    ((*RELIEF, "two.nc"), "expected one orography field, received ['a', 'b']; pass that DataArray itself"),
    ((*RELIEF, "in.nc"), "orog: expected two dimensions, received ('time', 'lat', 'lon'); select one map first"),
    ((*RELIEF, "plane.nc"), "orog: expected"),
    ((*RELIEF, "words.nc"), "orog: expected numbers, received 'tas' of type"),
    ((*RELIEF, "sftlf.nc"), "orog: expected heights in m, received 'sftlf' in '%'; convert it, or pass another"),
    ((*RELIEF, "nowhere.nc"), "orog: expected heights, received missing values only; pass another field"),
    ((*F, "--method", "cubic"), "expected method to be one of 'sobolev', 'conservative', 'bilinear', 'bicubic'"),
    ((*F, "--method", "model.pt"), "expected method to be one of"),
    ((*F, "--conserve", "mass"), "expected --conserve to be one of 'cell', 'total', None, received 'mass'"),
    ((*F, "--conserve", "none", "--bounds", "0:"), "expected --conserve cell with --bounds, received --conserve none"),
    ((*F, "--bounds", "3:1"), "expected the lower bound below the upper, received (3.0, 1.0)"),
    ((*F, "--bounds", "5:5"), "expected the lower bound below the upper, received (5.0, 5.0)"),
    ((*F, "--bounds", "positive"), "expected --bounds as auto, none, LOW:HIGH or NAME=LOW:HIGH,..., received"),
    ((*F, "--bounds", "inf:"), "expected finite --bounds LOW:HIGH, received 'inf:'; leave a side empty"),
    ((*F, "--vars", "pr"), "expected a variable among 'tas', received 'pr'"),
    ((*F, "--vars", "tas,"), "expected --vars NAME,NAME, received 'tas,'; leave it out"),
    ((*F, "--chunks", "tiem:3"), "expected chunks of the dimensions 'time', 'lat', 'lon', 'bnds', received 'tiem'"),
    ((*F, "--chunks", "time"), "expected --chunks to be a whole number, or dim:number,dim:number, received 'time'"),
    ((*F, "--chunks", "time:0"), "expected chunks of at least one value along 'time', received 0; -1 is all"),
    ((*F, "--chunks", "time:-5"), "expected chunks of at least one value along 'time', received -5; -1 is"),
    ((*F, "--chunks", "-5"), "expected chunks of at least one value along every dimension, received -5"),
    ((*F, "--complevel", "11"), "'output.complevel': expected less than or equal to 9, received 11"),
    ((*F, "--complevel", "x"), "Invalid value for '--complevel'"),
    ((*F, "--device", "tpu"), "expected device 'auto' or one of ['cpu'"),
    ((*F, "--tolerance", "-1"), "expected --tolerance to be a positive number, received -1"),
    ((*F, "--speed", "high"), "No such option: --speed"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), OPTIONS, ids=str)
def test_requests_that_are_wrong(here, arguments, words):
    refused(words, "apply", "in.nc", OUT, *arguments)
    refused(words, "apply", "in.nc", OUT, *arguments, "--dry-run")


def test_words_that_are_no_request(here):
    refused("expected no more arguments, received (more)", "apply", "in.nc", OUT, *F, "more")
    refused("Option '--factor' requires an argument.", "apply", "in.nc", OUT, "--factor")
    refused("Missing argument 'OUT.nc'.", "apply", "in.nc")
    refused("No such command 'aply'. Did you mean 'apply'?", "aply", "in.nc", OUT)


# What shows only when the result is made or written; a dry run may pass.
LATE: list[tuple[tuple[str, ...], int, str]] = [
    (("--bounds", "0:273.15"), 2, "tas: expected coarse values within the bounds [0, 273.15], received 297.406 at lat"),
    (("--bounds", "400:"), 2, "tas: expected coarse values within the bounds [400, none], received 297.406"),
    (("--packing", "int8"), 2, "tas: expected packing to be None, 'int16' or the mantissa bits to keep (1 to"),
    (("--packing", "0"), 2, "mantissa bits to keep (1 to 23), received 0"),
    (("--packing", "6"), 1, "as packed (6 mantissa bits kept, rounded to nearest even), received a largest relative"),
    (("--packing", "int16"), 1, "keep about 19 bits (packing={'tas': 19}), pass tolerance=2e-06, or leave out packing"),
    (("--tolerance", "1e-30"), 1, "tas: expected the cell law within 1e-30, received a largest relative error of"),
    (("--profile", "cmip7"), 2, "expected profile to be None or one of 'cordex-esd', received 'cmip7'"),
    (("--profile", "cordex-esd"), 2, "profile 'cordex-esd': expected the global attributes 'contact', 'domain', "),
    (("--attr", "institution"), 2, "expected --attr NAME=VALUE, received 'institution'"),
    (("--attr", "a/b=1"), 2, "expected --attr with a name of letters, digits and underscores, received 'a/b'"),
]


@pytest.mark.parametrize(("arguments", "status", "words"), LATE, ids=str)
def test_requests_that_fail_late(here, arguments, status, words):
    for output in (OUT, "out.zarr"):
        if output.endswith(".zarr"):
            pytest.importorskip("zarr")
        refused(words, "apply", "in.nc", output, *F, *arguments, status=status)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("in.nc", "expected an output other than the input, received in.nc for both; choose another"),
        ("./in.nc", "expected an output other than the input"),
        ("sub/../in.nc", "expected an output other than the input"),
        ("link.nc", "expected an output other than the input"),
        ("hard.nc", "expected an output other than the input"),
        ("relief.nc", "expected an output other than the input"),
        ("no/out.nc", "expected an existing folder for the output, received no; create it first"),
        ("in.nc/out.nc", "expected a folder for the output, received the file in.nc; choose another"),
        (".", "expected a file name for the output, received the folder"),
        ("sub", "expected a file name for the output, received the folder sub; add a name"),
        ("pipe", "expected a regular file for the output, received pipe, a pipe; choose another"),
        ("there.nc", "expected a new file, received there.nc that exists; pass --overwrite"),
        ("n" * 250 + ".nc", "expected a name of at most"),
        ("/proc/out.nc", "/proc"),
    ],
)
def test_outputs_that_cannot_be(here, target, words):
    Path("link.nc").symlink_to("in.nc")
    os.link("in.nc", "hard.nc")
    Path("sub").mkdir()
    os.mkfifo("pipe")
    Path("there.nc").write_text("mine")
    flags = [] if target == "there.nc" else ["--overwrite"]
    refused(words, "apply", "in.nc", target, *RELIEF, "relief.nc", *flags)
    if target != "relief.nc":
        refused(words, "weights", "in.nc", target, *F, *flags)
    assert Path("link.nc").is_symlink()


def test_weights_never_replace_what_they_are_made_of(here):
    refused("expected an output other than the input", "weights", "in.nc", "in.nc", *F, "--overwrite")
    refused("expected an output", "weights", "in.nc", "far.nc", "--target", "far.nc", "--overwrite")


LEAST: dict[str, Any] = {"input": {"path": "in.nc"}, "downscale": {"factor": 2}, "output": {"path": OUT}}


def recipe(**blocks: Any) -> str:
    return yaml.safe_dump({**LEAST, **blocks})


RECIPES: dict[str, tuple[str, str]] = {
    "typo": (recipe(downscale={"factor": 2, "metod": "x"}), "received 'downscale.metod'; did you mean 'method'?"),
    "typo in a block": (recipe(dowscale={}), "received 'dowscale'; did you mean 'downscale'?"),
    "typo deep": (
        recipe(terrain={"penalty": {"base_gradient": 1, "iteration": 2}}), "'terrain.penalty.iteration'; did you mean"),
    "no output": (yaml.safe_dump({"input": {"path": "in.nc"}, "downscale": {}}), "expected the key 'output', received"),
    "empty": ("", "expected a recipe of keys and values, received NoneType"),
    "list": ("- a\n- b\n", "expected a recipe of keys and values, received list"),
    "words": ("just words", "expected a recipe of keys and values, received str"),
    "tabs": ("input:\n\tpath: in.nc\n", "expected a YAML recipe, received r.yml (while scanning"),
    "no text": ("input: \0", "expected a YAML recipe, received r.yml"),
    "code": ("!!python/object/apply:os.system ['touch hacked']", "could not determine a constructor for the tag"),
    "code inside": (
        recipe() + "title: !!python/object/apply:os.system ['touch hacked']\n", "could not determine a constructor"),
    "key twice": (recipe() + "downscale: {factor: 3}\n", "key 'downscale' in line 1 again in line 7"),
    "key twice inside": ("downscale:\n  factor: 2\n  factor: 4\n", "key 'factor' in line 2 again in line 3"),
    "a bomb": ("a: &a [1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\ninput: *c\n", "'input'"),
    "block of a number": (recipe(downscale=4), "key 'downscale': expected the keys 'factor', 'method', "),
    "factor in words": (recipe(downscale={"factor": "four"}), "expected factor to be a whole number of at least 1"),
    "factor true": (recipe(downscale={"factor": True}), "expected factor to be a whole number of at least 1"),
    "factor of halves": (recipe(downscale={"factor": 2.5}), "at least 1, received 2.5"),
    "bounds of three": (recipe(downscale={"factor": 2, "bounds": [0, 1, 2]}), "or a pair (lower, upper), received"),
    "bounds of NaN": (recipe(downscale={"factor": 2, "bounds": [float("nan"), 0]}), "or a pair (lower, upper)"),
    "bounds of another": (recipe(downscale={"factor": 2, "bounds": {"pr": [0, 1]}}), "bounds of variables among 'tas'"),
    "even taps": (recipe(downscale={"factor": 2, "taps": 4}), "expected taps to be an odd whole number, received 4"),
    "order of NaN": (recipe(downscale={"factor": 2, "order": float("nan")}), "expected order above 0.5 and not 1.5"),
    "no such file": (recipe(input={"path": "no.nc"}), "expected an existing file, received no.nc"),
    "no such sample": (recipe(input={"path": "sample:europe"}), "expected a sample among 'north_america'"),
    "a sample elsewhere": (recipe(input={"path": "sample:../in"}), "expected a sample among 'north_america'"),
    "no such variable": (recipe(input={"path": "in.nc", "variables": ["pr"]}), "expected a variable among 'tas'"),
    "no variables": (recipe(input={"path": "in.nc", "variables": []}), "expected variables among 'tas', rec"),
    "chunks in words": (recipe(input={"path": "in.nc", "chunks": "many"}), "expected chunks as 'auto', a whole"),
    "map of words": (recipe(output={"path": OUT, "map": "map.doc"}), "expected a map file of type"),
    "map is output": (recipe(output={"path": OUT, "map": OUT}), "expected different names for all outputs, received"),
    "map is input": (recipe(output={"path": OUT, "map": "in.nc", "overwrite": True}), "an output other than the input"),
    "report nowhere": (recipe(output={"path": OUT, "report": "no/r.html"}), "expected an existing folder for the"),
    "penalty below 0": (recipe(terrain={"penalty": {"base_gradient": -1}}), "expected greater than or equal to 0"),
    "no law": (recipe(validate={"law": "mass"}), "key 'validate.law': expected 'cell' or 'total', received 'mass'"),
    "orog of maps": (recipe(statics={"orog": "in.nc"}, terrain={"lapse_rate": -0.006}), "orog: expected two"),
}  # fmt: skip


@pytest.mark.parametrize("fault", RECIPES)
def test_recipes_that_are_wrong(here, fault):
    content, words = RECIPES[fault]
    Path("r.yml").write_text(content)
    refused(words, "run", "r.yml")
    refused(words, "run", "r.yml", "--dry-run")


def test_recipes_that_are_no_files(here):
    refused("expected an existing recipe file, received no.yml; check the path", "run", "no.yml")
    refused("expected an existing recipe file, received .; check the path", "run", ".")
    refused("expected a YAML recipe, received in.nc", "run", "in.nc")


def test_attributes_that_no_file_can_hold(here):
    Path("r.yml").write_text(recipe(output={"path": OUT, "attrs": {"a": {"b": 1}}}))
    refused("expected attribute 'a' to be text, a number or a list of these, received {'b': 1}", "run", "r.yml")


# Times and layers.


def months(**how: Any) -> xr.Dataset:
    ds = north_america().drop_vars("time_bnds")
    ds.time.attrs.pop("bounds", None)
    ds["time"] = xr.date_range("2000-01-05 06:00", periods=3, use_cftime=True, calendar="noleap", **how)
    return ds


ALONG: list[tuple[tuple[str, ...], str]] = [
    (("--factor", "time:2"), "'time': expected bounds of the time axis, received none and 3 stamps, 2000-01-05 06:00"),
    (("--target", "time:D"), "add time_bnds, or cell_methods 'time: mean' to daily means"),
    (("--factor", "plev:2"), "'plev': expected bounds of the axis, received none; values at levels are no"),
    (("--target", "plev:D"), "'plev': expected bounds of the axis, received none"),
    (("--target", "time:fortnight"), "expected bounds of the time axis"),
]


@pytest.mark.parametrize(("arguments", "words"), ALONG)
def test_times_and_layers_without_bounds(here, arguments, words):
    ds = months(freq="9D")
    ds = ds.expand_dims(plev=[85000.0, 50000.0]) if "plev" in arguments[1] else ds
    if "plev" in ds:
        ds.plev.attrs.update(units="Pa", standard_name="air_pressure")
    ds.to_netcdf("axis.nc")
    refused(words, "apply", "axis.nc", OUT, *arguments)


@pytest.mark.parametrize(
    ("frequency", "words"),
    [
        ("fortnight", "expected a frequency such as '6h', 'D', '5D', 'MS' or 'YS', received 'fortnight'"),
        ("0D", "expected a frequency such as '6h', 'D', '5D', 'MS' or 'YS', received '0D'"),
        ("-1D", "received '-1D' (a number and a unit)"),
        ("1s", "received '1s' (at most 1000000 periods)"),
    ],
)
def test_frequencies_that_are_none(here, frequency, words):
    ds = months(freq="MS")
    ds.to_netcdf("axis.nc")
    refused(words, "apply", "axis.nc", OUT, "--target", f"time:{frequency}")


def test_times_of_another_calendar():
    ds = months(freq="MS")
    other = xr.date_range("2000-01-30", periods=60, freq="D", calendar="360_day", use_cftime=True)
    with pytest.raises(DownscaleError, match="calendar"):
        ds.downscale(target_grid={"time": xr.DataArray(other, dims="time")})


# Checks and weights.

CHECKS: list[tuple[tuple[str, ...], str]] = [
    (("in.nc", "--law", "mass"), "expected --law to be one of 'cell', 'total', received 'mass'"),
    (("in.nc", "--tolerance", "-1"), "expected --tolerance to be a positive number, received -1"),
    (("in.nc", "--tolerance", "nan"), "expected --tolerance to be a positive number, received nan"),
    (("in.nc", "--na-thres", "7"), "expected --na-thres to be a number from 0 to 1"),
    (("in.nc", "--vars", "pr"), "expected a variable of both fields among 'tas', received 'pr'"),
    (("in.nc", "--mask", "words.nc"), "mask: expected numbers"),
    (("relief.nc",), "expected a variable that both fields have, received 'tas' and 'orog', 'sftlf'; rename one"),
    (("plane.nc",), "latitudes and longitudes, as the coarse field is, received one on metres of"),
    (("short.nc",), "expected 3 values of 'time' in the fine field or cells to average over, received 2 (coordinate"),
    (("later.nc",), "tas: expected equal coordinates 'time', received values that differ; select the same"),
    ((), "Missing argument 'FINE.nc'."),
]


@pytest.mark.parametrize(("arguments", "words"), CHECKS)
def test_checks_that_are_wrong(here, arguments, words):
    north_america().isel(time=slice(0, 2)).to_netcdf("short.nc")
    months(freq="MS").to_netcdf("later.nc")
    refused(words, "check", "in.nc", *arguments)


def test_a_leak_is_status_1(here):
    fine = north_america().downscale(2)
    fine.assign(tas=fine.tas.where(fine.lat < 30, fine.tas + 0.1)).to_netcdf("leak.nc")
    before = contents()
    said = command("check", "in.nc", "leak.nc")
    assert (said.status, said.err) == (1, "")
    assert "tas: expected the cell law within 1e-06, received a largest relative error of" in said.out
    assert contents() == before


WEIGHTS: list[tuple[tuple[str, ...], str]] = [
    ((), "expected --factor or --target, received neither"),
    ((*F, "--layout", "foo"), "expected layout among 'esmf', 'scrip', received 'foo'"),
    ((*F, "--normalization", "foo"), "expected normalization among 'fracarea', 'destarea', received 'foo'"),
    ((*F, "--method", "cubic"), "expected method to be one of"),
    (("--factor", "time:2"), "expected --factor for the dimensions 'lat', 'lon', received 'time'"),
    (("--target", "plane.nc"), "latitudes and longitudes, as the coarse field is, received one on metres of"),
]


@pytest.mark.parametrize(("arguments", "words"), WEIGHTS)
def test_weights_that_are_wrong(here, arguments, words):
    refused(words, "weights", "in.nc", "w.nc", *arguments)


def test_weights_that_do_not_fit(here):
    ds = north_america()
    made = downscale.weights(ds, 2, "conservative")
    made.to_netcdf("w.nc")
    Path("half.nc").write_bytes(Path("w.nc").read_bytes()[:-2000])
    for given, words in (
        ("in.nc", "expected weights with 'row', 'col', 'S' (ESMF) or 'dst_address'"),
        ("none.nc", "expected an existing file, received none.nc"),
        ("half.nc", "expected a readable NetCDF file, received half.nc (NetCDF: HDF error)"),
        (made.assign(S=made.S * np.nan), "expected finite weights, received"),
        (made.assign(S=made.S.astype(str)), "expected weights that are numbers, received"),
        (made.assign(col=made.col + 5000), "expected source cells from 1 to 1813, received 5001 to 6813"),
        (made.assign(row=made.row + 0.5), "expected one whole number per link for the target cells"),
        (made[["row", "col", "S"]], "pass source_shape=(n_y, n_x)"),
    ):
        with pytest.raises(DownscaleError) as caught:
            downscale.apply_weights(ds, given)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


# Disks and patterns.


def test_a_full_disk_leaves_nothing(here):
    """Files may grow to 60 kB only, in a process of its own: a write fails in the middle as on a full disk."""
    before = contents()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    line = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    line += "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); from downscale.cli.main import main;"
    line += f"sys.exit(main(['apply', 'in.nc', '{OUT}', '--factor', '8', '--complevel', '0']))"
    call = [sys.executable, "-c", line]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert resource.RLIMIT_FSIZE
    assert done.returncode == 2, done.stderr
    assert "expected to write out.nc, received:" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert contents() == before


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_no_thread_writes_after_a_refusal(here, suffix):
    """A thread that still wrote made the removed temporary file anew."""
    if suffix == ".zarr":
        pytest.importorskip("zarr")

    def late(block: np.ndarray) -> np.ndarray:
        time.sleep(0.3)
        return block

    def broken(block: np.ndarray) -> np.ndarray:
        raise InputError("expected whole data, received a fault; get them again")

    fine = north_america().downscale(2)
    slow = da.map_blocks(late, fine.tas.chunk(time=1).data, dtype="f4")
    wrong = da.map_blocks(broken, fine.tas.chunk(time=1).data, dtype="f4", meta=np.empty((0, 0, 0), "f4"))
    fields = xr.Dataset({"slow": (fine.tas.dims, slow), "wrong": (fine.tas.dims, wrong)}, fine.coords)
    before = contents()
    write: Any = downscale.to_zarr if suffix == ".zarr" else downscale.to_netcdf
    with pytest.raises(InputError, match="received a fault"):
        write(fields, f"out{suffix}")
    time.sleep(1.0)
    assert contents() == before


def test_patterns_that_join_nothing(here):
    refused("expected files that match x*.nc, received none; check the pattern", "apply", "x*.nc", OUT, *F)
    for name in ("a1.nc", "a2.nc"):
        shutil.copy("in.nc", name)
    Path("a2.nc").write_text("no NetCDF")
    refused("expected a readable NetCDF file, received a2.nc (NetCDF: Unknown", "apply", "a*.nc", OUT, *F)
    north_america().isel(lat=slice(0, 9), time=[2]).to_netcdf("a2.nc")
    refused("expected files of one grid, received 'lat' of 37 values", "apply", "a*.nc", OUT, *F)


def test_a_real_relief_that_is_elsewhere(here):
    file = shared_data("orography_srtm90m_retezat_romania.nc")
    refused("orog: expected", "apply", "in.nc", OUT, *RELIEF, file)
