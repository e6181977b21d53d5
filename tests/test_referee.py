"""An independent referee: CDO reads our cells and areas, and averages our output back to the input."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from sample_fields import coordinates, field_on, region, relief_on, world

import downscale
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid

TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def cdo(*arguments: Any) -> str:
    """Run CDO in double precision; skips where it is absent, unless DOWNSCALE_REQUIRE_CDO=1."""
    if shutil.which("cdo") is None:
        if os.environ.get("DOWNSCALE_REQUIRE_CDO") == "1":
            pytest.fail("cdo is not installed and DOWNSCALE_REQUIRE_CDO=1")
        pytest.skip("cdo is not installed (Debian package cdo)")
    # CDO reads the grid and the field in two threads, and the netCDF library bears one at a time: -L locks.
    line = ["cdo", "-L", "-s", "-b", "F64", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def smooth(grid: RectilinearGrid, dtype: str) -> xr.Dataset:
    """A global field like a temperature: warm at the equator, with waves along and across."""
    coords = coordinates(grid)
    lat, lon = np.deg2rad(grid.y.centres)[:, None], np.deg2rad(grid.x.centres)
    values = 270 + 35 * np.cos(lat) ** 2 + 6 * np.sin(3 * lon + 2 * lat) * np.cos(lat) + 2 * np.cos(7 * lon - lat)
    attrs = {"standard_name": "air_temperature", "units": "K"}
    return xr.Dataset({"tas": (("lat", "lon"), values.astype(dtype), attrs)}, coords)


def gaps(back: Path, coarse: xr.DataArray) -> float:
    """Largest relative difference between what CDO made of a file and the coarse field."""
    with netCDF4.Dataset(back) as file:
        values = np.ma.filled(file[str(coarse.name)][:].astype("f8"), np.nan)
    wanted = coarse.values.astype("f8")
    assert values.shape == wanted.shape
    np.testing.assert_array_equal(np.isnan(values), np.isnan(wanted))
    return float(np.nanmax(np.abs(values - wanted) / np.abs(wanted)))


def remapped(coarse: xr.Dataset, folder: Path, factor: Any, **options: Any) -> float:
    """Downscale, write, let CDO average the file back to the coarse grid, and compare."""
    name = str(next(iter(coarse.data_vars)))
    downscale.to_netcdf(coarse, folder / "coarse.nc")
    report = downscale.to_netcdf(coarse.downscale(factor, **options), folder / "fine.nc", coarse=coarse)
    assert report.passed
    cdo(f"remapcon,{folder / 'coarse.nc'}", f"-selname,{name}", folder / "fine.nc", folder / "back.nc")
    return gaps(folder / "back.nc", coarse[name])


def gaussian() -> RectilinearGrid:
    """Rows of a spectral model, with irregular widths."""
    rows = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(16)[0]))
    edges = np.concatenate([[-90.0], 0.5 * (rows[:-1] + rows[1:]), [90.0]])
    return RectilinearGrid(CellAxis(edges[::-1], "latitude"), CellAxis(np.linspace(-180, 180, 33), "longitude"))


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("grid", [world(18, 36), gaussian()], ids=["equal", "gaussian"])
def test_the_world_comes_back(tmp_path, grid, dtype):
    assert remapped(smooth(grid, dtype), tmp_path, 4) <= TOLERANCE[dtype]


def test_interpolation_alone_does_not_come_back(tmp_path):
    """The referee can say no."""
    coarse = smooth(world(18, 36), "float64")
    downscale.to_netcdf(coarse, tmp_path / "coarse.nc")
    downscale.to_netcdf(coarse.downscale(4, "bilinear", conserve=None), tmp_path / "fine.nc")
    cdo(f"remapcon,{tmp_path / 'coarse.nc'}", "-selname,tas", tmp_path / "fine.nc", tmp_path / "back.nc")
    assert gaps(tmp_path / "back.nc", coarse.tas) > 1e-4


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
def test_terrain_and_penalty_come_back(tmp_path, dtype):
    coarse, relief = smooth(world(18, 36), dtype), relief_on(world(18, 36))
    penalty = downscale.TerrainPenalty(1e-6, 6.5e-3, iterations=3)
    found = remapped(coarse, tmp_path, 2, orog=relief, lapse_rate=-6.5e-3, terrain_penalty=penalty)
    assert found <= TOLERANCE[dtype]


def test_an_ocean_comes_back_where_there_is_one(tmp_path):
    """CDO divides by the valid area too; where nothing is valid it has nothing."""
    coarse = field_on(world(18, 36), 1, missing=0.3).isel(time=0, drop=True)
    assert remapped(coarse, tmp_path, 3) <= 1e-12


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
def test_real_temperatures_come_back(tmp_path, dtype):
    """ERA5 at one degree, whose rows lie on the poles, averaged to 3 x 4 degrees and brought back."""
    ds = xr.open_dataset(shared_data("temperature_wind_precip_era5_global_1deg.nc"), decode_coords="all")
    ds = ds[["t2m"]].isel(time=slice(0, 2), lat=slice(0, 180)).load().astype(dtype)
    coarse = ds.isel(lat=slice(0, 180)).downscale.coarsen({"lat": 3, "lon": 4})
    coarse.t2m.attrs.pop("cell_methods", None)
    assert remapped(coarse, tmp_path, {"lat": 3, "lon": 4}) <= TOLERANCE[dtype]


def test_cdo_reads_our_cells(tmp_path):
    downscale.to_netcdf(smooth(gaussian(), "float64").downscale(2), tmp_path / "fine.nc")
    description = cdo("griddes", tmp_path / "fine.nc")
    assert "gridtype" in description
    assert "lonlat" in description or "gaussian" in description
    assert "ybounds" in description
    summary = cdo("sinfo", tmp_path / "fine.nc")
    assert "32 x 64" in summary.replace("64x32", "32 x 64") or "64x32" in summary
    assert "Warning" not in description + summary


@pytest.mark.parametrize("grid", [world(18, 36), gaussian(), region()], ids=["equal", "gaussian", "region"])
def test_cdo_finds_our_areas(tmp_path, grid):
    """The same radius and the same cells, from two programs."""
    fine = smooth(grid, "float64").downscale(2)
    downscale.to_netcdf(fine, tmp_path / "fine.nc")
    cdo("gridarea", "-selname,tas", tmp_path / "fine.nc", tmp_path / "area.nc")
    with netCDF4.Dataset(tmp_path / "area.nc") as file:
        areas = np.asarray(file["cell_area"][:])
    np.testing.assert_allclose(fine.areacella, areas, rtol=1e-10)
