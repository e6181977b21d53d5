"""Inputs for ``memory.py --maps``: small and large maps, orography, curvilinear and projected cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr


def write(folder: str, scale: str) -> None:
    """Write all inputs; ``scale`` multiplies rows and columns."""
    to, share = Path(folder), float(scale)
    draw = np.random.default_rng(0)

    def field(shape: tuple[int, ...]) -> np.ndarray:
        return 270 + 30 * draw.random(shape, dtype=np.float32)

    def size(count: int) -> int:
        return max(int(count * share), 8)

    def geographic(rows: int, columns: int, step: float, south: float) -> dict[str, object]:
        lat, lon = south + step * (np.arange(rows) + 0.5), step * (np.arange(columns) + 0.5)
        return {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}

    def maps(name: str, steps: int, coords: dict[str, object], dims: tuple[str, str], shape: tuple[int, int],
             extra: dict[str, object] | None = None, **attrs: str) -> None:  # fmt: skip
        time = np.datetime64("2000-01-01", "ns") + np.arange(steps) * np.timedelta64(6, "h")
        values = (("time", *dims), field((steps, *shape)), {"units": "K", **attrs})
        xr.Dataset({"tas": values, **(extra or {})}, {"time": time, **coords}).to_netcdf(to / f"{name}.nc")

    plain = ("lat", "lon")
    n, m = size(180), size(360)
    maps("many", 480, geographic(n, m, 180 / n, -90.0), plain, (n, m))
    n, m = size(3500), size(7000)
    maps("large", 1, geographic(n, m, 0.01, 20.0), plain, (n, m))
    n, m = size(720), size(1440)
    maps("quarter", 8, geographic(n, m, 180 / n, -90.0), plain, (n, m))
    n, m = size(1500), size(3000)
    maps("middle", 2, geographic(n, m, 0.02, 20.0), plain, (n, m))
    finer = geographic(2 * n, 2 * m, 0.01, 20.0)
    relief = (plain, 60 * field((2 * n, 2 * m)), {"units": "m", "standard_name": "surface_altitude"})
    land = (plain, (field((2 * n, 2 * m)) > 280).astype("f4"), {"units": "1", "standard_name": "land_area_fraction"})
    xr.Dataset({"orog": relief}, finer).to_netcdf(to / "relief.nc")
    xr.Dataset({"sftlf": land}, finer).to_netcdf(to / "mask.nc")
    n, m = size(600), size(800)
    row, column = np.meshgrid(np.arange(n), np.arange(m), indexing="ij")
    mesh = {
        "lat": (("y", "x"), 20 + 0.05 * row + 0.01 * column, {"units": "degrees_north", "standard_name": "latitude"}),
        "lon": (("y", "x"), 10 + 0.05 * column - 0.01 * row, {"units": "degrees_east", "standard_name": "longitude"}),
    }
    maps("curvilinear", 6, mesh, ("y", "x"), (n, m))
    n, m = size(1200), size(1500)
    plane = {
        "y": ("y", -1e6 + 2000.0 * np.arange(n), {"units": "m", "standard_name": "projection_y_coordinate"}),
        "x": ("x", -2e6 + 2000.0 * np.arange(m), {"units": "m", "standard_name": "projection_x_coordinate"}),
    }
    mapping = {
        "grid_mapping_name": "lambert_conformal_conic", "standard_parallel": [48.0, 52.0],
        "latitude_of_projection_origin": 50.0, "longitude_of_central_meridian": 10.0, "earth_radius": 6371229.0,
    }  # fmt: skip
    maps("conformal", 2, plane, ("y", "x"), (n, m), {"crs": ((), 0, mapping)}, grid_mapping="crs")
