"""Run one task with another program, as a separate process: python others.py WORK IN OUT.

The script imports nothing of this package, so that the Python of another environment can run it. A task prints its
seconds last if only part of the process is timed.
"""

from __future__ import annotations

import os
import sys
import time

FACTOR = 4
# Linear interpolation of all maps at once takes ten times the memory of its result and twice the time; conservative
# regridding is faster on all maps at once. Each runs in its faster mode.
PIECE = {"time": 24}


def interp(given: str, made: str) -> None:
    """Run linear ``xr.interp``."""
    import xarray as xr

    with xr.open_dataset(given, chunks=PIECE) as ds:
        fine = ds.interp(_fine(ds), kwargs={"fill_value": "extrapolate"})
        fine.astype("f4").to_netcdf(made)


def conservative(given: str, made: str) -> None:
    """Run ``regrid.conservative`` of xarray-regrid."""
    import xarray as xr
    import xarray_regrid  # noqa: F401

    with xr.open_dataset(given) as ds:
        fine = ds.regrid.conservative(xr.Dataset(coords=_fine(ds)), latitude_coord="lat")
        fine.astype("f4").to_netcdf(made)


def linear(given: str, made: str) -> None:
    """Run ``regrid.linear`` of xarray-regrid."""
    import xarray as xr
    import xarray_regrid  # noqa: F401

    with xr.open_dataset(given, chunks=PIECE) as ds:
        ds.regrid.linear(xr.Dataset(coords=_fine(ds))).astype("f4").to_netcdf(made)


def _fine(ds):
    """Return the centres of the fine cells of a regular grid."""
    import numpy as np

    axes = {}
    for name in ("lat", "lon"):
        centres = ds[name].values
        step = (centres[-1] - centres[0]) / (centres.size - 1) / FACTOR
        axes[name] = centres[0] + step * (np.arange(centres.size * FACTOR) - 0.5 * (FACTOR - 1))
    return axes


def deflate(given: str, made: str) -> None:
    """Write an array in memory with xarray's deflate, and print the seconds."""
    import xarray as xr

    ds = xr.open_dataset(given).load()
    ds.encoding = {}
    how = {}
    for name in ds.variables:
        ds[name].encoding = {}
        if ds[name].ndim == 3:
            how[name] = {"zlib": True, "complevel": 1}
    begin = time.perf_counter()
    ds.to_netcdf(made, encoding=how)
    print(time.perf_counter() - begin)


def plain(given: str, made: str) -> None:
    """Write as many bytes as a file has."""
    _bytes(given, made, False)


def flushed(given: str, made: str) -> None:
    """Write as many bytes as a file has, and wait until they are on the disk."""
    _bytes(given, made, True)


def _bytes(given: str, made: str, wait: bool) -> None:
    left = os.path.getsize(given)
    block = os.urandom(min(left, 1 << 24))
    begin = time.perf_counter()
    with open(made, "wb") as file:
        while left > 0:
            left -= file.write(block[:left])
        file.flush()
        if wait:
            os.fsync(file.fileno())
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    {f.__name__: f for f in (interp, conservative, linear, deflate, plain, flushed)}[sys.argv[1]](*sys.argv[2:4])
