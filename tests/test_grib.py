"""GRIB files beside projections: both libraries work, whichever of them was loaded first."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import shared_data

STEPS = {
    "xarray": "import xarray as xr; xr.open_dataset('plain.nc').close()",
    "cfgrib": "import xarray; how = {'indexpath': ''}; "
    "xarray.open_dataset('a.grib', engine='cfgrib', backend_kwargs=how).close()",
    "read": "import downscale; assert 280 < float(downscale.open_dataset('a.grib').t2m.mean()) < 290",
    "apply": "import downscale, xarray as xr; ds = xr.open_dataset('plane.nc').set_coords('crs'); "
    "area = downscale.cell_area(ds).sum().item(); assert abs(area / 1.92e8 - 1) < 0.01, area",
    "cartopy": "import downscale; downscale.plot; import downscale.plot.cells as v; v.choose_projection(0, 20, 40, 60)",
}
ORDERS = [
    ("xarray", "apply", "read"), ("cfgrib", "apply"), ("cfgrib", "read", "apply"), ("read", "apply", "cartopy"),
    ("apply", "read", "apply"), ("cartopy", "cfgrib", "apply", "read"), ("xarray", "cartopy", "apply"),
]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from sample_fields import field_on, plane, region

    if find_spec("cfgrib") is None:
        pytest.skip("cfgrib is not installed (pip install 'downscale-climate[grib]')")
    monkeypatch.chdir(tmp_path)
    shutil.copy(shared_data("grib_arpege_2m_nw_20180501.grib"), "a.grib")
    field_on(region()).to_netcdf("plain.nc")
    mapping = {
        "grid_mapping_name": "lambert_azimuthal_equal_area", "longitude_of_projection_origin": 10.0,
        "latitude_of_projection_origin": 52.0, "false_easting": 4321000.0, "false_northing": 3210000.0,
    }  # fmt: skip
    flat = field_on(plane(), name="tas", grid_mapping="crs").assign(crs=((), 0, mapping))
    flat.to_netcdf("plane.nc")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_any_order_of_loading(here, order):
    script = "\n".join(STEPS[step] for step in order)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-600:]
