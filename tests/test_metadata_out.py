"""What a file says survives: companions go to the new grid or are missed aloud, attributes of any type, references."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from command import command
from conftest import shared_data
from result_grids import GRIDS
from sample_fields import coordinates, field_on, region

import downscale
from downscale.cf.attributes import references
from downscale.cf.coordinates import select

SHAPE = (6, 8)


def everything() -> xr.Dataset:
    """Hybrid levels with surface pressure, climatological times, flags, areas, and two-dimensional coordinates."""
    rng, grid = np.random.default_rng(0), region(*SHAPE)
    on, full = ("lat", "lon"), ("time", "lev", "lat", "lon")
    climatology = {"units": "days since 2000-01-01", "calendar": "standard", "climatology": "climatology_bounds"}
    hybrid = {"standard_name": "atmosphere_hybrid_sigma_pressure_coordinate", "units": "1", "positive": "down",
              "formula_terms": "ap: ap b: b ps: ps", "bounds": "lev_bnds"}  # fmt: skip
    field = {"units": "K", "standard_name": "air_temperature", "ancillary_variables": "ta_qc", "quality_flag": "ta_qc",
             "cell_measures": "area: areacella", "coordinates": "orog region basin"}  # fmt: skip
    names = np.where(rng.random(SHAPE) < 0.5, "north sea", "land").astype(object)
    return xr.Dataset({
        "ta": (full, 280 + rng.standard_normal((2, 2, *SHAPE)), field),
        "ta_qc": (full, rng.integers(0, 3, (2, 2, *SHAPE)).astype("i1"),
                  {"flag_values": np.array([0, 1, 2], "i1"), "flag_meanings": "good doubtful bad"}),
        "ps": (("time", *on), 1e5 + rng.standard_normal((2, *SHAPE)),
               {"units": "Pa", "standard_name": "surface_air_pressure"}),
        "orog": (on, 500 * rng.random(SHAPE), {"units": "m", "standard_name": "surface_altitude"}),
        "region": (on, names, {"standard_name": "region"}),
        "basin": (on, rng.integers(0, 5, SHAPE).astype("i2"), {"long_name": "basin code"}),
        "areacella": (on, grid.cell_area, {"standard_name": "cell_area", "units": "m2"}),
        "ap": ("lev", [1e4, 2e3], {"units": "Pa", "bounds": "ap_bnds"}), "b": ("lev", [0.1, 0.8]),
        "ap_bnds": (("lev", "bnds"), [[1.2e4, 6e3], [6e3, 0]]),
        "lev_bnds": (("lev", "bnds"), [[0, 0.5], [0.5, 1]], {"formula_terms": "ap: ap_bnds b: b ps: ps"}),
        "climatology_bounds": (("time", "bnds"), [[0.0, 3000], [31, 3031]]),
    }, {
        "time": ("time", [15.5, 45.0], climatology), "lev": ("lev", [0.2, 0.8], hybrid), **coordinates(grid),
    })  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("everything") / "in.nc"
    everything().to_netcdf(path)
    return path


CARRIED = "ps orog region basin ap b ap_bnds lev_bnds climatology_bounds ta_qc areacella".split()


def means(fine: xr.DataArray) -> np.ndarray:
    """Area means of 2 x 2 cells."""
    fine = fine.drop_vars(["region", "basin", "orog"], errors="ignore")
    area = downscale.cell_area(fine)
    both = {"lat": 2, "lon": 2}
    return ((fine * area).coarsen(both).sum() / area.coarsen(both).sum()).transpose(*fine.dims).values


def whole(path: Path) -> None:
    """A file holds everything, on the fine grid, and every reference points at something."""
    with netCDF4.Dataset(path) as file:
        assert set(CARRIED) <= set(file.variables)
        assert file["lev"].formula_terms == "ap: ap b: b ps: ps"
        assert file["lev_bnds"].formula_terms == "ap: ap_bnds b: b ps: ps"
        assert (file["time"].climatology, file["time"].units) == ("climatology_bounds", "days since 2000-01-01")
        assert "bounds" not in file["time"].ncattrs()
        assert file["climatology_bounds"].ncattrs() == []
        assert (file["ta"].ancillary_variables, file["ta"].quality_flag) == ("ta_qc", "ta_qc")
        assert set(file["ta"].coordinates.split()) == {"orog", "region", "basin"}
        # Readers tell fields from coordinates by these.
        assert {"cell_measures", "coordinates"} <= set(file["ps"].ncattrs())
        assert not {"cell_measures", "grid_mapping", "coordinates"} & set(file["orog"].ncattrs())
        np.testing.assert_array_equal(file["climatology_bounds"][:], [[0.0, 3000], [31, 3031]])
    with xr.open_dataset(path, decode_cf=False) as said:
        for name, variable in said.variables.items():
            for key, names in references(variable).items():
                assert set(names) <= set(said.variables), (name, key)
    coarse = everything()
    with downscale.open_dataset(path) as lazy:
        fine = lazy.load()
    for name in ("ps", "orog"):
        np.testing.assert_allclose(means(fine[name]), coarse[name], rtol=1e-12)
    assert np.ptp(fine.orog.values[:2, :2]) > 0, "downscaled, not repeated"
    for name in ("region", "basin"):
        np.testing.assert_array_equal(fine[name], coarse[name].values.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("how", [(), ("--method", "conservative"), ("--blocks", "1")])
def test_companions_go_to_the_new_grid(source, tmp_path, how):
    said = command("apply", source, tmp_path / "out.nc", "--factor", 2, *how)
    assert (said.status, said.err) == (0, "")
    if how[-1:] == ("conservative",):
        assert "ps" in xr.open_dataset(tmp_path / "out.nc")
        return
    whole(tmp_path / "out.nc")


def test_a_selection_takes_its_companions_along(source, tmp_path):
    with downscale.open_dataset(source) as every:
        ds = select(every, ["ta"])
        downscale.to_netcdf(ds.downscale(2), tmp_path / "out.nc", coarse=ds)
    whole(tmp_path / "out.nc")


def test_writing_what_was_written_changes_no_metadata(source, tmp_path):
    with downscale.open_dataset(source) as ds:
        downscale.to_netcdf(ds.downscale(2), tmp_path / "0.nc")
    for i in (1, 2):
        with downscale.open_dataset(tmp_path / f"{i - 1}.nc") as ds:
            downscale.to_netcdf(ds, tmp_path / f"{i}.nc")
    assert header(tmp_path / "0.nc") == header(tmp_path / "1.nc") == header(tmp_path / "2.nc")


@pytest.mark.parametrize("name", GRIDS)
def test_writing_again_is_stable_on_every_grid(tmp_path, name):
    downscale.to_netcdf(GRIDS[name](), tmp_path / "0.nc")
    with downscale.open_dataset(tmp_path / "0.nc") as ds:
        downscale.to_netcdf(ds, tmp_path / "1.nc")
    assert header(tmp_path / "0.nc") == header(tmp_path / "1.nc")


def header(path: Path) -> dict[str, dict[str, str]]:
    """All that a file says but when it was made, in any order."""
    with netCDF4.Dataset(path) as file:
        found = {name: {k: str(v.getncattr(k)) for k in v.ncattrs()} | {"": f"{v.dtype} {v.dimensions}"}
                 for name, v in file.variables.items()}  # fmt: skip
        whole = {key: str(file.getncattr(key)) for key in file.ncattrs() if key not in ("date_created",)}
        return {**found, "global": whole}


def test_lazy_companions_stay_lazy_and_have_no_members(source):
    with downscale.open_dataset(source, chunks={}) as ds:
        fine = ds.downscale(2, "cascade", members=2)
        assert fine.ps.dims == ("time", "lat", "lon")
        assert fine.ps.chunks is not None
        assert "realization" in fine.ta.dims
        assert any("ps" in note and "downscaled" in note for note in ds.downscale.plan(2).notes)


LOST = {
    "row": ("lat", np.arange(SHAPE[0]), {"long_name": "row of the matrix"}),
    "overpass": (("lat", "lon"), np.full(SHAPE, np.datetime64("2000-01-01", "ns")), {}),
    "lon_u": (("lat", "lon"), np.full(SHAPE, 350.0), {"units": "degrees_east"}),
    "aspect": (("lat", "lon"), np.full(SHAPE, 350.0), {"units": "degree", "long_name": "aspect"}),
}


@pytest.mark.parametrize("name", LOST)
def test_what_cannot_go_along_is_missed_aloud_and_named_no_more(name, tmp_path):
    ds = field_on(region(*SHAPE)).assign_coords({name: LOST[name]})
    ds.tas.attrs["ancillary_variables"] = name
    with pytest.warns(UserWarning, match=f"dropped {name}: "):
        fine = ds.downscale(2)
    assert name not in fine.variables
    assert "ancillary_variables" not in fine.tas.attrs
    downscale.to_netcdf(fine, tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        assert name not in str(file["tas"].__dict__)


def test_codes_are_lost_aloud_where_cells_are_cut():
    ds = field_on(region(*SHAPE)).assign_coords(basin=(("lat", "lon"), np.ones(SHAPE, "i1")))
    with pytest.warns(UserWarning, match="dropped basin: codes"):
        assert "basin" not in ds.downscale(target_grid="0.7x0.7").variables


# What an attribute is, and what of it is read back.
VALUES = {
    "text": ("a", "a"),
    "float": (1.5, 1.5),
    "int": (3, 3),
    "f4": (np.float32(2.5), np.float32(2.5)),
    "i2": (np.int16(2), np.int16(2)),
    "u1": (np.uint8(2), np.uint8(2)),
    "floats": (np.array([1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]),
    "list": ([1, 2], [1, 2]),
    "half": (np.array([0.5, 1.5], "f2"), [0.5, 1.5]),
    "bools": (np.array([True, False]), [1, 0]),
    "texts": (["a", "b"], ["a", "b"]),
    "array of texts": (np.array(["a", "b"]), ["a", "b"]),
    "truth": (True, "true"),
    "table": (np.ones((2, 2)), "[[1.0, 1.0], [1.0, 1.0]]"),
    "date": (np.datetime64("2000-01-01"), "2000-01-01"),
    "mapping": ({"a": 1}, "{'a': 1}"),
    "ragged": ([[1], [1, 2]], "[[1], [1, 2]]"),
    "complex": (np.array([1j]), "[1j]"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_attributes_of_any_type_survive_everywhere(kind, tmp_path):
    given, wanted = VALUES[kind]
    ds = field_on(region(*SHAPE)).assign_attrs(mine=given)
    for name in ("tas", "lat", "time"):
        ds[name].attrs["mine"] = given
    fine = ds.downscale(2)
    downscale.to_netcdf(fine, tmp_path / "out.nc", coarse=ds)
    for _ in range(2):
        with downscale.open_dataset(tmp_path / "out.nc") as read:
            for where in (read, read.tas, read.lat, read.time):
                found = where.attrs["mine"]
                assert np.array_equal(found, wanted)
                assert isinstance(wanted, str | list) or np.asarray(found).dtype == np.asarray(wanted).dtype
            downscale.to_netcdf(read, tmp_path / "out.nc.2", overwrite=True)
        (tmp_path / "out.nc.2").replace(tmp_path / "out.nc")


cdo = pytest.mark.skipif(shutil.which("cdo") is None, reason="needs cdo")


def curvilinear() -> xr.Dataset:
    """Slanted quadrilaterals across the meridian where longitudes start again."""
    j, i = np.meshgrid(np.arange(8.0), np.arange(10.0), indexing="ij")
    lat, lon = 40 + 2 * j + 0.3 * i, (170 + 2.5 * i - 0.4 * j + 180) % 360 - 180
    return xr.Dataset({"tas": (("j", "i"), 280 + lat, {"units": "K", "coordinates": "lat lon"})}, {
        "lat": (("j", "i"), lat, {"units": "degrees_north", "standard_name": "latitude"}),
        "lon": (("j", "i"), lon, {"units": "degrees_east", "standard_name": "longitude"}),
    })  # fmt: skip


def test_positions_of_fine_cells_lie_in_the_branch_of_the_coarse_ones():
    fine = curvilinear().downscale(3)
    assert -180 <= float(fine.lon.min()) < -170
    assert 170 < float(fine.lon.max()) <= 180
    assert float(np.abs(fine.lon_bnds - fine.lon).max()) < 5
    east = curvilinear().assign_coords(lon=curvilinear().lon % 360).downscale(3)
    assert float(east.lon.min()) > 160
    np.testing.assert_allclose(east.lon % 360, fine.lon % 360, atol=1e-9)


@cdo
@pytest.mark.parametrize("named", [True, False])
def test_cdo_accepts_corners_and_areas_of_quadrilaterals(tmp_path, named):
    """With the areas that the file names, and with those that it makes of our corners."""
    fine = curvilinear().downscale(3)
    downscale.to_netcdf(fine if named else fine.drop_vars("areacella"), tmp_path / "a.nc")
    for operator in ("gridarea", "fldmean"):
        line = ["cdo", "-s", operator, str(tmp_path / "a.nc"), str(tmp_path / f"{operator}.nc")]
        env = {**os.environ, "PLANET_RADIUS": "6371000"}
        subprocess.run(line, capture_output=True, text=True, check=True, env=env)
    area = xr.open_dataset(tmp_path / "gridarea.nc").cell_area
    np.testing.assert_allclose(area, fine.areacella, rtol=1e-4)
    mean = xr.open_dataset(tmp_path / "fldmean.nc").tas
    wanted = float((fine.tas * fine.areacella).sum() / fine.areacella.sum())
    np.testing.assert_allclose(mean.squeeze(), wanted, rtol=1e-6)


def warnings_of_cdo(operator: str, path: Path, out: Path) -> list[str]:
    """Apply an operator of CDO in double precision and return its warnings."""
    line = ["cdo", "-s", "-L", "-b", "F64", operator, str(path), *([str(out)] if out.suffix == ".nc" else [])]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return [each for each in done.stderr.splitlines() if each.strip()]


DOORS = {
    "written": lambda ds, folder: downscale.to_netcdf(ds.downscale(2), folder / "out.nc", coarse=ds),
    "command": lambda ds, folder: command("apply", folder / "in.nc", folder / "out.nc", "--factor", 2),
    "blocks": lambda ds, folder: command("apply", folder / "in.nc", folder / "out.nc", "--factor", 2, "--blocks", 1),
    "coarsened": lambda ds, folder: downscale.to_netcdf(ds.downscale.coarsen(2), folder / "out.nc"),
}


PLANES = [(kind, "written") for kind in ("rotated", "equal_area", "conic", "stereographic")]


@cdo
@pytest.mark.parametrize(("kind", "door"), [*PLANES, *(("curvilinear", door) for door in DOORS)])
def test_cdo_takes_the_areas_of_cells_with_positions_without_a_warning(tmp_path, kind, door):
    ds = GRIDS[kind]()
    downscale.to_netcdf(ds, tmp_path / "in.nc")
    DOORS[door](ds, tmp_path)
    for operator in ("sinfon", "griddes"):
        assert warnings_of_cdo(operator, tmp_path / "out.nc", tmp_path / "none") == []
    assert warnings_of_cdo("fldmean", tmp_path / "out.nc", tmp_path / "mean.nc") == []
    with xr.open_dataset(tmp_path / "out.nc") as out, xr.open_dataset(tmp_path / "mean.nc") as mean:
        area = out.areacella
        assert area.dims == out.tas.dims[1:]
        wanted = (out.tas.astype("f8") * area).sum(area.dims) / area.sum()
        np.testing.assert_allclose(mean.tas.squeeze(), wanted, rtol=1e-12)


@cdo
def test_cdo_warns_no_more_of_a_real_ocean_than_of_its_input(tmp_path):
    """The areas of the result weigh its means as those of the package do; dates beside the axis are the input's."""
    with xr.open_dataset(shared_data("nasty_curvilinear_nemo_orca1_sst_201501.nc"), decode_cf=False) as ds:
        ds.isel(y=slice(180, 210), x=slice(200, 230)).to_netcdf(tmp_path / "in.nc")
    assert command("apply", tmp_path / "in.nc", tmp_path / "out.nc", "--factor", 2).status == 0
    before, after = (warnings_of_cdo("fldmean", tmp_path / f"{n}.nc", tmp_path / f"{n}_mean.nc") for n in ("in", "out"))
    assert after == before
    with xr.open_dataset(tmp_path / "out.nc") as out, xr.open_dataset(tmp_path / "out_mean.nc") as mean:
        tos = out.tos.astype("f8")
        wanted = (tos * out.areacella).sum(("y", "x")) / out.areacella.where(tos.notnull()).sum(("y", "x"))
        np.testing.assert_allclose(mean.tos.squeeze(), wanted.squeeze(), rtol=1e-12)


def test_a_real_ocean_keeps_its_branch_and_gets_no_units_of_time(tmp_path):
    with downscale.open_dataset(shared_data("nasty_curvilinear_nemo_orca1_sst_201501.nc")) as ds:
        ds = ds.isel(y=slice(100, 140), x=slice(0, 60)).load()
    downscale.to_netcdf(ds.downscale(2), tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        assert "units" not in file["time_counter"].ncattrs()
        assert -180 <= file["nav_lon"][:].min() <= file["nav_lon"][:].max() <= 180
