"""What the package writes is the same grid after CDO, NCO and xarray have copied it, whatever they rename."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from result_grids import GRIDS

import downscale
from downscale.cf.horizontal import horizontal
from downscale.output import to_netcdf

KINDS = {
    "latlon": "geographic", "gaussian": "geographic", "rotated": "rotated", "equal_area": "plane", "conic": "plane",
    "stereographic": "plane", "curvilinear": "geographic",
}  # fmt: skip


def plain(kind: str) -> xr.Dataset:
    """A small field of a kind, and where it is true latitude and longitude without a mapping, as files come."""
    ds = GRIDS[kind]().drop_vars(["areacella", "height"])
    ds.tas.attrs.pop("cell_measures")
    if KINDS[kind] == "geographic" and kind != "curvilinear":
        ds = ds.drop_vars("crs")
        ds.tas.attrs.pop("grid_mapping")
    return ds


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[xr.Dataset, Path]]:
    """Means of each kind, and the file that the package wrote of them."""
    folder = tmp_path_factory.mktemp("written")
    made = {}
    for kind in KINDS:
        means = downscale.coarsen(plain(kind), 1)
        to_netcdf(means, folder / f"{kind}.nc")
        made[kind] = means, folder / f"{kind}.nc"
    return made


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def require_same_grid(back: Any, ds: xr.Dataset, kind: str) -> None:
    one, other = horizontal(ds), horizontal(back)
    assert other.system == one.system == KINDS[kind]
    assert other.grid.shape == one.grid.shape
    np.testing.assert_allclose(other.grid.cell_area, one.grid.cell_area, rtol=1e-9)
    for axis, same in ((other.grid.y, one.grid.y), (other.grid.x, one.grid.x)):
        np.testing.assert_allclose(axis.edges, same.edges, rtol=1e-12)
    assert (other.mapping is None) == (one.mapping is None)
    assert downscale.check_conservation(ds, back).passed


def copied(written: dict[str, tuple[xr.Dataset, Path]], kind: str, *command: str) -> Path:
    path = written[kind][1]
    out = path.with_name(f"{kind}_{'_'.join(command[:2]).replace('/', '')[-20:]}.nc")
    subprocess.run([tool(command[0]), *command[1:], str(path), str(out)], check=True, capture_output=True)
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", [("cdo", "copy"), ("cdo", "mergetime"), ("ncks", "-O"), ("nccopy", "-d1")])
def test_a_copy_is_the_same_grid(written, kind, command):
    out = copied(written, kind, *command)
    with downscale.open_dataset(out, chunks=None) as back:
        require_same_grid(back, written[kind][0], kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decode", [True, "coordinates", "all"])
def test_xarray_reads_the_same_grid(written, kind, decode):
    with xr.open_dataset(written[kind][1], decode_coords=decode) as back:
        require_same_grid(back, written[kind][0], kind)


@pytest.mark.parametrize("kind", ["latlon", "gaussian"])
def test_cdo_leaves_latitudes_and_longitudes_what_they_are(written, kind):
    """What we write on true degrees names no grid mapping, for which CDO would rename the axes."""
    out = copied(written, kind, "cdo", "copy")
    with xr.open_dataset(out) as back:
        assert back.lat.attrs["standard_name"] == "latitude"
        assert back.lon.attrs["standard_name"] == "longitude"


@pytest.mark.parametrize("kind", ["latlon", "gaussian", "members"])
def test_files_with_a_mapping_of_degrees_survive_cdo(tmp_path, kind):
    """Files of others, and of earlier versions, have one, and CDO calls their axes projected."""
    ds = GRIDS[kind]().drop_vars(["areacella", "height"], errors="ignore")
    ds = ds.isel(realization=0, drop=True) if "realization" in ds.dims else ds
    ds[["tas", *(name for name in ds.coords)]].to_netcdf(tmp_path / "a.nc")
    subprocess.run([tool("cdo"), "copy", str(tmp_path / "a.nc"), str(tmp_path / "b.nc")], check=True,
                   capture_output=True)  # fmt: skip
    with downscale.open_dataset(tmp_path / "b.nc", chunks=None) as back:
        assert back.lat.attrs["standard_name"] == "projection_y_coordinate"
        where = horizontal(back)
        assert where.system == "geographic"
        np.testing.assert_allclose(where.grid.cell_area, horizontal(ds).grid.cell_area, rtol=1e-12)
        assert downscale.coarsen(back, 2).lat.attrs["standard_name"] == "latitude"


@pytest.mark.parametrize("kind", ["equal_area", "conic", "stereographic"])
def test_a_raster_without_attributes_is_the_same_grid(written, kind):
    """As rioxarray leaves it: bare y and x and the coordinate of the system, which no attribute names."""
    means = written[kind][0]
    bare = means.drop_vars(["lat", "lon", "lat_bnds", "lon_bnds", "areacella", "y_bnds", "x_bnds"])
    for name in ("y", "x"):
        bare[name].attrs = {}
    bare.tas.attrs.pop("grid_mapping", None)
    require_same_grid(bare.rename(crs="spatial_ref"), means, kind)
