"""Files of a series are compared before they are one: units, calendars, grids, heights, dates; nothing is believed."""

from __future__ import annotations

import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from command import command
from sample_fields import field_on, region

import downscale
from downscale.errors import InputError
from downscale.io.join import DateWarning, JoinWarning

Change = Callable[[xr.Dataset], xr.Dataset]
DAYS = 6


@pytest.fixture
def whole() -> xr.Dataset:
    return field_on(region(4, 6), DAYS, dtype="float32")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def halves(whole: xr.Dataset, change: Change = lambda ds: ds, overlap: int = 0) -> None:
    """Write a.nc, and b.nc after a change."""
    whole.isel(time=slice(0, DAYS // 2)).to_netcdf("a.nc")
    change(whole.isel(time=slice(DAYS // 2 - overlap, None)).copy(deep=True)).to_netcdf("b.nc")


@contextmanager
def one_warning(kind: type[Warning], *words: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [str(each.message) for each in caught if issubclass(each.category, kind)]
    assert len(said) == len(caught) == 1, [str(each.message) for each in caught]
    assert all(word in said[0] for word in words), said[0]


def complaint(path: Any = "*.nc") -> str:
    with pytest.raises(InputError) as caught:
        downscale.open_dataset(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def units(change: Callable[[Any], Any], name: str | None) -> Change:
    def make(ds: xr.Dataset) -> xr.Dataset:
        ds["tas"] = ds.tas.copy(data=change(ds.tas.values))
        ds.tas.attrs.pop("units")
        if name is not None:
            ds.tas.attrs["units"] = name
        return ds

    return make


# Order and names.


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_files_in_any_order_make_one_rising_record(here, whole, order):
    halves(whole)
    ds = downscale.open_dataset([f"{letter}.nc" for letter in order])
    xr.testing.assert_equal(ds.tas.compute(), whole.tas)


def test_files_that_interleave_are_sorted(here, whole):
    whole.isel(time=slice(0, None, 2)).to_netcdf("a.nc")
    whole.isel(time=slice(1, None, 2)).to_netcdf("b.nc")
    xr.testing.assert_equal(downscale.open_dataset("*.nc").tas.compute(), whole.tas)


def test_lists_paths_patterns_and_brackets_name_files(here, whole):
    halves(whole)
    whole.to_netcdf("tas[1].nc")
    assert downscale.open_dataset("tas[1].nc").sizes["time"] == DAYS
    for files in (["a.nc", "b.nc"], [Path("b.nc"), "a.nc"], ("?.nc",), ["[ab].nc"], ["a.nc", "*[b].nc"]):
        assert downscale.open_dataset(files).sizes["time"] == DAYS
    assert "empty list" in complaint([])
    assert "expected an existing file, received c.nc" in complaint(["a.nc", "c.nc"])
    assert "received int" in complaint([1])


def test_one_map_to_a_file_with_a_scalar_date(here, whole):
    for i in range(DAYS):
        whole.isel(time=i).to_netcdf(f"{i}.nc")
    ds = downscale.open_dataset("*.nc")
    xr.testing.assert_equal(ds.tas.compute(), whole.tas)


def test_other_variables_and_parts_of_a_grid_lie_beside_each_other(here, whole):
    halves(whole)
    for name, part in (("p", whole.isel(time=slice(0, 3))), ("q", whole.isel(time=slice(3, None)))):
        part.rename(tas="pr").assign(pr=part.tas.variable * 2).to_netcdf(f"{name}.nc")
    both = downscale.open_dataset("*.nc")
    assert set(both.data_vars) == {"tas", "pr"}
    np.testing.assert_array_equal(both.pr, 2 * both.tas)
    south, north = whole.isel(lat=slice(0, 2)), whole.isel(lat=slice(2, None))
    south.to_netcdf("south.nc")
    north.to_netcdf("north.nc")
    xr.testing.assert_equal(downscale.open_dataset(["north.nc", "south.nc"]).tas.compute(), whole.tas)


# Units.


@pytest.mark.parametrize(
    ("change", "name"),
    [(lambda v: v - 273.15, "degC"), (lambda v: (v - 273.15) * 1.8 + 32, "degF"), (lambda v: v * 1000, "mK")],
)
def test_units_are_those_of_the_first_file(here, whole, change, name):
    halves(whole, units(change, name))
    with one_warning(JoinWarning, "tas", name, "b.nc", "K", "a.nc"):
        ds = downscale.open_dataset("*.nc")
    assert ds.tas.attrs["units"] == "K"
    assert ds.tas.dtype == np.float32
    np.testing.assert_allclose(ds.tas, whole.tas, rtol=3e-7)


@pytest.mark.parametrize("name", [None, "m s-1", "kg m-2", "furlongs per Friday"])
def test_units_that_do_not_fit_are_refused(here, whole, name):
    halves(whole, units(lambda v: v, name))
    said = complaint()
    assert all(word in said for word in ("tas", "a.nc", "b.nc", repr(name), "'K'"))


@pytest.mark.parametrize("name", ["kelvin", "Kelvin", "degK"])
def test_spellings_of_one_unit_are_one(here, whole, name):
    halves(whole, units(lambda v: v, name))
    assert downscale.open_dataset("*.nc").tas.attrs["units"] == "K"


def test_packing_and_fill_values_are_each_files_own(here, whole):
    holed = whole.where(whole.tas > 271)
    for name, part, how in (
        ("a", slice(0, 3), {"dtype": "i2", "scale_factor": 0.01, "add_offset": 300.0, "_FillValue": np.int16(-1)}),
        ("b", slice(3, 6), {"dtype": "i2", "scale_factor": 0.02, "add_offset": 250.0, "_FillValue": np.int16(-9)}),
    ):
        holed.isel(time=part).to_netcdf(f"{name}.nc", encoding={"tas": how})
    ds = downscale.open_dataset("*.nc").tas
    np.testing.assert_array_equal(np.isnan(ds), np.isnan(holed.tas))
    np.testing.assert_allclose(ds, holed.tas, atol=0.011)


# Calendars, heights, members, grids.


@pytest.mark.parametrize("calendar", ["360_day", "standard", "all_leap", "julian"])
def test_calendars_are_not_mixed(here, whole, calendar):
    halves(whole)
    other = whole.isel(time=slice(3, None)).drop_vars("time")
    other = other.assign_coords(
        time=("time", np.arange(3, 6), {"units": "days since 2000-01-01", "calendar": calendar})
    )
    other.to_netcdf("b.nc")
    said = complaint()
    assert all(word in said for word in ("'noleap'", repr(calendar), "a.nc", "b.nc", "cdo"))


@pytest.mark.parametrize("pair", [("standard", "gregorian"), ("proleptic_gregorian", "standard")])
def test_names_of_one_calendar_are_one(here, whole, pair):
    for name, calendar, begin in zip("ab", pair, (0, 3), strict=True):
        part = whole.isel(time=slice(begin, begin + 3)).drop_vars("time")
        times = ("time", np.arange(begin, begin + 3), {"units": "days since 2000-01-01", "calendar": calendar})
        part.assign_coords(time=times).to_netcdf(f"{name}.nc")
    assert downscale.open_dataset("*.nc").indexes["time"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [("height", 2.0, 100.0), ("depth", 5.0, 50.0), ("plev", 85000.0, 50000.0), ("realization", 1, 2)],
)
def test_scalar_coordinates_that_differ_are_refused(here, whole, name, one, other):
    halves(whole.assign_coords({name: one}), lambda ds: ds.assign_coords({name: other}))
    said = complaint()
    assert all(word in said for word in (name, str(one), str(other), "a.nc", "b.nc"))


def test_heights_of_screens_and_names_of_experiments_are_told(here, whole):
    halves(whole.assign_coords(height=1.5), lambda ds: ds.assign_coords(height=2.0))
    with one_warning(JoinWarning, "height", "1.5", "2.0"):
        assert downscale.open_dataset("*.nc").sizes["time"] == DAYS
    halves(whole.assign_coords(experiment="historical"), lambda ds: ds.assign_coords(experiment="ssp585"))
    with one_warning(JoinWarning, "experiment", "historical", "ssp585"):
        assert "experiment" not in downscale.open_dataset("*.nc").coords


def test_dates_of_forecasts_go_along_with_the_series(here, whole):
    halves(whole, lambda ds: ds.assign_coords(run=np.datetime64("2000-02-02", "ns")))
    xr.load_dataset("a.nc").assign_coords(run=np.datetime64("2000-01-01", "ns")).to_netcdf("a.nc")
    runs = downscale.open_dataset("*.nc").run
    assert runs.dims == ("time",)
    assert [str(run)[5:7] for run in runs.values] == ["01"] * 3 + ["02"] * 3


@pytest.mark.parametrize("shift", [1e-13, 1e-9, 1e-6])
@pytest.mark.parametrize("name", ["lat", "lon"])
def test_coordinates_within_rounding_are_the_same(here, whole, name, shift):
    halves(whole, lambda ds: ds.assign_coords({name: (name, ds[name].values + shift, ds[name].attrs)}))
    ds = downscale.open_dataset("*.nc")
    np.testing.assert_array_equal(ds[name], whole[name])
    assert ds.sizes == whole.sizes


def test_single_precision_is_no_other_grid(here):
    whole = field_on(region(40, 60), 2).coarsen(lat=1).mean()
    fine = whole.assign_coords(lon=("lon", 359.0 + np.arange(60) / 100, whole.lon.attrs)).drop_vars("lon_bnds")
    fine.lon.attrs.pop("bounds")
    fine.isel(time=[0]).to_netcdf("a.nc")
    fine.assign_coords(lon=fine.lon.astype("f4")).isel(time=[1]).to_netcdf("b.nc")
    np.testing.assert_array_equal(downscale.open_dataset("*.nc").lon, fine.lon)


@pytest.mark.parametrize("shift", [1e-4, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("name", ["lat", "lon"])
def test_another_grid_is_refused(here, whole, name, shift):
    bare = whole.drop_vars(["lat_bnds", "lon_bnds"])
    halves(bare, lambda ds: ds.assign_coords({name: (name, ds[name].values + shift, ds[name].attrs)}))
    said = complaint()
    assert all(word in said for word in (repr(name), "a.nc", "b.nc"))


def test_other_bounds_and_positions_are_refused(here, whole):
    halves(whole, lambda ds: ds.assign_coords(lat_bnds=ds.lat_bnds + 0.01))
    assert "lat_bnds" in complaint()
    north, east = np.meshgrid(np.arange(4.0), np.arange(6.0), indexing="ij")
    curved = whole.drop_vars(["lat", "lon", "lat_bnds", "lon_bnds"]).rename(lat="y", lon="x")
    curved = curved.assign_coords(lat=(("y", "x"), north), lon=(("y", "x"), east + 0.1 * north))
    halves(curved, lambda ds: ds.assign_coords(lon=ds.lon + 0.3))
    assert "'lon'" in complaint()
    halves(curved, lambda ds: ds.assign_coords(lon=ds.lon + 1e-9))
    assert downscale.open_dataset("*.nc").sizes["time"] == DAYS


@pytest.mark.parametrize("key", ["standard_name", "positive"])
def test_variables_of_another_meaning_are_refused(here, whole, key):
    whole.tas.attrs[key] = "up"
    halves(whole, lambda ds: ds.assign(tas=ds.tas.assign_attrs({key: "down"})))
    assert all(word in complaint() for word in (key, "'up'", "'down'"))


# Variables.


def test_variables_of_some_files_only_are_named(here, whole):
    halves(whole, lambda ds: ds.assign(extra=ds.tas * 2))
    with one_warning(JoinWarning, "'extra'", "a.nc", "b.nc"):
        assert set(downscale.open_dataset("*.nc").data_vars) == {"tas"}
    whole.assign(orog=whole.tas[0].drop_vars("time")).isel(time=slice(0, 3)).to_netcdf("a.nc")
    halves(whole, lambda ds: ds)
    assert downscale.open_dataset("*.nc").sizes["time"] == DAYS


def test_other_models_and_statics_are_told(here, whole):
    halves(whole.assign_attrs(source_id="A"), lambda ds: ds.assign_attrs(source_id="B"))
    with one_warning(JoinWarning, "source_id", "'A'", "'B'"):
        downscale.open_dataset("*.nc")
    with_orog = whole.assign(orog=whole.tas[0].drop_vars("time"))
    halves(with_orog, lambda ds: ds.assign(orog=ds.orog + 1))
    with one_warning(JoinWarning, "orog", "a.nc"):
        np.testing.assert_array_equal(downscale.open_dataset("*.nc").orog, with_orog.orog)


# Dates.


@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_steps_that_files_share_are_read_once(here, whole, overlap):
    halves(whole, overlap=overlap)
    with one_warning(DateWarning, "2000-01-03" if overlap == 1 else "2000-01", "a.nc", "b.nc"):
        ds = downscale.open_dataset("*.nc")
    xr.testing.assert_equal(ds.tas.compute(), whole.tas)


@pytest.mark.parametrize("overlap", [1, 2])
def test_steps_that_differ_are_refused(here, whole, overlap):
    halves(whole, lambda ds: ds.assign(tas=ds.tas + 1e-3), overlap)
    said = complaint()
    assert all(word in said for word in ("2000-01-0", "a.nc", "b.nc", "'tas'", "ncks"))


def test_packed_steps_are_equal_within_their_packing(here, whole):
    pack = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 300.0, "_FillValue": np.int16(-1)}
    whole.isel(time=slice(0, 4)).to_netcdf("a.nc", encoding={"tas": pack})
    whole.isel(time=slice(3, 6)).to_netcdf("b.nc", encoding={"tas": {**pack, "add_offset": 300.003}})
    with one_warning(DateWarning, "2000-01-04"):
        assert downscale.open_dataset("*.nc").sizes["time"] == DAYS


def test_a_copy_of_a_file_is_read_once(here, whole):
    halves(whole)
    whole.isel(time=slice(0, 3)).to_netcdf("a_copy.nc")
    with one_warning(DateWarning, "a_copy.nc", "3 dates"):
        assert downscale.open_dataset("*.nc").sizes["time"] == DAYS


def test_one_file_repeats_a_date(here, whole):
    whole.isel(time=[0, 1, 1, 2]).to_netcdf("a.nc")
    with one_warning(DateWarning, "2000-01-02", "twice in a.nc"):
        xr.testing.assert_equal(downscale.open_dataset("a.nc").tas.compute(), whole.tas[:3])
    twice = whole.isel(time=[0, 1, 1, 2]).copy(deep=True)
    twice.tas[2] += 1
    twice.to_netcdf("b.nc")
    assert "twice in b.nc" in complaint("b.nc")
    whole.isel(time=[2, 0, 1]).to_netcdf("c.nc")
    with one_warning(DateWarning, "c.nc", "order"):
        xr.testing.assert_equal(downscale.open_dataset("c.nc").tas.compute(), whole.tas[:3])
    whole.isel(time=[3, 2, 1, 0]).to_netcdf("d.nc")
    assert downscale.open_dataset("d.nc").time.dt.day.values.tolist() == [4, 3, 2, 1]


@pytest.mark.parametrize("calendar", ["noleap", "standard"])
@pytest.mark.parametrize("step", [1, 365, "months"])
def test_a_missing_file_is_told(here, calendar, step):
    days = np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31]) if step == "months" else np.arange(9) * int(step)
    field = field_on(region(4, 6), 9).drop_vars("time")
    times = ("time", days, {"units": "days since 2001-01-01", "calendar": calendar})
    field = xr.decode_cf(field.assign_coords(time=times))
    for number, name in ((0, "a"), (3, "b"), (6, "c")):
        field.isel(time=slice(number, number + 3)).to_netcdf(f"{name}.nc")
    assert downscale.open_dataset("*.nc").sizes["time"] == 9
    with one_warning(DateWarning, "2001" if step != 365 else "2003", "a.nc", "c.nc", "about 3 steps"):
        assert downscale.open_dataset(["a.nc", "c.nc"]).sizes["time"] == 6


def test_dates_that_are_none_are_refused(here, whole):
    broken = whole.copy()
    values = xr.date_range("2000-01-01", periods=DAYS, use_cftime=False).values.copy()
    values[2] = np.datetime64("NaT")
    broken["time"] = ("time", values)
    broken.to_netcdf("a.nc")
    said = complaint("a.nc")
    assert all(word in said for word in ("'time'", "NaT", "step 2", "a.nc"))


def test_static_files_twice(here, whole):
    still = whole.isel(time=0, drop=True)
    still.to_netcdf("a.nc")
    still.to_netcdf("b.nc")
    with one_warning(JoinWarning, "a.nc", "b.nc"):
        xr.testing.assert_equal(downscale.open_dataset("*.nc").tas.compute(), still.tas)
    (still + 1).to_netcdf("b.nc")
    assert "without a date" in complaint()


# The command, and many files.


def test_the_command_refuses_and_warns_in_one_line(here, whole):
    halves(whole, lambda ds: ds.assign(tas=ds.tas + 1), overlap=1)
    said = command("apply", "[ab].nc", "out.nc", "--factor", 2, "--blocks", 2)
    assert (said.status, list(Path().glob("out*"))) == (2, [])
    assert "2000-01-03" in said.complaint
    halves(whole, overlap=1)
    said = command("apply", "[ab].nc", "out.nc", "--factor", 2, "--blocks", 2)
    assert said.status == 0, said.err
    assert all(line.startswith("downscale: warning: ") for line in said.err.splitlines())
    assert downscale.open_dataset("out.nc").sizes["time"] == DAYS


MANY = """
import resource, sys
hard = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, hard), hard))
import downscale
try:
    print(downscale.open_dataset("t_*.nc").tas.mean().compute().item() > 0)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(("hard", "words"), [(4096, "True"), (64, "ulimit -n")])
def test_more_files_than_may_be_open(here, whole, hard, words):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this system allows fewer open files")
    for day in range(90):
        whole.isel(time=[0]).assign_coords(time=whole.time[[0]].values + timedelta(days=day)).to_netcdf(
            f"t_{day:03}.nc"
        )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MANY, str(hard)], capture_output=True, text=True, check=False
    )
    assert words in done.stdout, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1


# Recipes.


def carried_out(path: Any, *options: Any, out: str = "out.nc") -> Any:
    """Run a recipe with this input by the command; the recipe is a file."""
    content = {"input": {"path": path}, "downscale": {"factor": 2}, "output": {"path": out, "overwrite": True}}
    Path("r.yml").write_text(yaml.safe_dump(content))
    return command("run", "r.yml", *options)


@pytest.mark.parametrize("options", [(), ("--blocks", 2)], ids=["whole", "blocks"])
@pytest.mark.parametrize("path", [["b.nc", "a.nc"], ["a.nc", "[b].nc"], "?.nc"], ids=str)
def test_recipes_join_the_files_of_a_list_as_those_of_a_pattern(here, whole, path, options):
    halves(whole)
    wanted = downscale.open_dataset(["a.nc", "b.nc"]).downscale(2).tas.compute()
    assert (carried_out(path, *options).status, carried_out(path, *options).err) == (0, "")
    with xr.open_dataset("out.nc") as made:
        np.testing.assert_array_equal(made.tas, wanted)
        np.testing.assert_array_equal(made.time, whole.time)


def test_a_recipe_with_a_list_is_resumed_in_another_folder(here, whole, monkeypatch):
    halves(whole)
    paths = [str(here / "a.nc"), str(here / "b.nc")]
    assert carried_out(["a.nc", "b.nc"], "--blocks", 2, "--no-merge").status == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    again = carried_out(paths, "--blocks", 2, "--no-merge", "--resume", out=str(here / "out.nc"))
    assert again.status == 0
    assert "kept 3 of 3 blocks" in again.out


def test_recipes_convert_and_refuse_what_files_of_a_list_differ_in(here, whole):
    halves(whole, units(lambda values: values - 273.15, "degC"))
    said = carried_out(["a.nc", "b.nc"])
    assert said.status == 0
    assert "degC" in said.err
    halves(whole, units(lambda values: values, "Pa"))
    refused = carried_out(["a.nc", "b.nc"])
    assert refused.status == 2
    assert all(word in refused.complaint for word in ("'K'", "'Pa'", "a.nc", "b.nc"))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ([], ("empty list",)),
        (["a.nc", "c.nc"], ("existing file", "c.nc")),
        (["a.nc", 3], ("input.path.1", "3")),
        ([["a.nc"]], ("input.path.0", "string")),
        (["a.nc", "/dev/null"], ("/dev/null", "device")),
        (["out.nc", "b.nc"], ("out.nc", "input")),
    ],
    ids=str,
)
def test_a_list_that_names_no_files_is_refused_in_one_line(here, whole, path, words):
    halves(whole)
    whole.isel(time=slice(0, DAYS // 2)).to_netcdf("out.nc")
    said = carried_out(path)
    assert said.status == 2
    assert all(word in said.complaint for word in words), said.complaint


def test_a_list_may_hold_samples(here):
    assert carried_out(["sample:north_america"], "--dry-run", out="new.nc").status == 0
