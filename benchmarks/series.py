"""Long hourly series of coarse maps from real maps, 180 x 360 cells.

The maps are temperature and rain of a global reanalysis at one degree, hours apart. Between two of them 31 maps are
interpolated linearly, and the series runs back and forth. Nodes of two rows define the cells between them. Values keep
the precision of the source, as in archives. Without the data folder, the embedded sample is mirrored side by side, and
its excess over the 70th percentile replaces rain.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr
from numpy.typing import NDArray

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA = Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED))
FILE = "temperature_wind_precip_era5_global_1deg.nc"
ROWS, COLUMNS = 180, 360
BETWEEN = 32
ATTRS = {
    "tas": {"standard_name": "air_temperature", "units": "K", "cell_methods": "area: mean"},
    "pr": {"standard_name": "lwe_thickness_of_precipitation_amount", "units": "m", "cell_methods": "area: mean"},
}
DIGITS = {"tas": 2, "pr": 6}
STEPS_AT_ONCE = 240

Floats = NDArray[np.float32]


def real_maps(name: str) -> tuple[Floats, str]:
    """Return the original maps of a series, shape (maps, 180, 360), and their source."""
    if (DATA / FILE).exists():
        with xr.open_dataset(DATA / FILE, decode_times=False) as ds:
            nodes = ds[{"tas": "t2m", "pr": "tp"}[name]].transpose("time", "lat", "lon").sortby("lat").values
        return (0.5 * (nodes[:, 1:] + nodes[:, :-1])).astype(np.float32), "ERA5 at one degree"
    import downscale

    tas = downscale.sample.open("north_america").tas.values
    spare = [(0, 0), *((0, full - size) for full, size in zip((ROWS, COLUMNS), tas.shape[1:], strict=True))]
    maps = np.pad(tas, spare, mode="symmetric").astype(np.float32)
    if name == "pr":
        maps = np.maximum(maps - np.quantile(maps, 0.7), 0) * np.float32(1e-3)
    return maps, "the embedded sample, mirrored"


def series(name: str, steps: int, first: int = 0) -> Floats:
    """Return some steps of a series, shape (steps, 180, 360)."""
    maps = real_maps(name)[0]
    last = len(maps) - 1
    place = last - np.abs((np.arange(first, first + steps) / BETWEEN) % (2 * last) - last)
    below = np.minimum(place.astype(int), last - 1)
    share = (place - below).astype(np.float32)[:, None, None]
    return np.round(maps[below] * (1 - share) + maps[below + 1] * share, DIGITS[name])


def coordinates() -> dict[str, Any]:
    """Return the centres of the coarse cells."""
    lat, lon = np.arange(ROWS) - 89.5, np.arange(COLUMNS, dtype=float)
    return {
        "lat": ("lat", lat, {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ("lon", lon, {"standard_name": "longitude", "units": "degrees_east"}),
    }


def dataset(name: str, steps: int) -> xr.Dataset:
    """Return a series in memory."""
    return xr.Dataset({name: (("time", "lat", "lon"), series(name, steps), ATTRS[name])}, coordinates())


def write_series(path: Path, name: str, steps: int) -> None:
    """Write a series to a file, a few days at a time."""
    with netCDF4.Dataset(path, "w") as file:
        file.Conventions = "CF-1.11"
        file.createDimension("time", None)
        for axis, (_, values, attrs) in coordinates().items():
            file.createDimension(axis, len(values))
            file.createVariable(axis, "f8", (axis,))[:] = values
            file[axis].setncatts(attrs)
        file.createVariable("time", "f8", ("time",), chunksizes=(4096,))
        file["time"].setncatts({"standard_name": "time", "units": "hours since 2026-03-25", "calendar": "standard"})
        field = file.createVariable(name, "f4", ("time", "lat", "lon"), chunksizes=(1, ROWS, COLUMNS))
        field.setncatts(ATTRS[name])
        for first, last in _pieces(steps):
            field[first:last] = series(name, last - first, first)
            file["time"][first:last] = np.arange(first, last)


def _pieces(steps: int) -> Iterator[tuple[int, int]]:
    for first in range(0, steps, STEPS_AT_ONCE):
        yield first, min(first + STEPS_AT_ONCE, steps)


if __name__ == "__main__":
    import sys

    write_series(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
