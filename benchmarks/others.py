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


def yac(given: str, made: str) -> None:
    """Run second-order conservative remapping of YAC: "field" (map, lat, lon) to cells between "rows" and "columns".

    Missing source cells are masked by the first map; target cells get the mean of the part that valid ones cover.
    """
    # Without it, MPI looks for a launcher and aborts.
    os.environ["OMPI_MCA_ess_singleton_isolated"] = "1"
    import numpy as np
    import xarray as xr
    import yac
    from scipy.sparse import csr_array

    with xr.open_dataset(given, decode_times=False) as ds:
        ds.load()
    pairs = [(_edges(ds["lat_bnds"].values), _edges(ds["lon_bnds"].values)), (ds["rows"].values, ds["columns"].values)]
    values = ds["field"].values
    yac.def_calendar(yac.Calendar.PROLEPTIC_GREGORIAN)
    run = yac.YAC()
    run.def_datetime("2000-01-01T00:00:00", "2000-01-02T00:00:00")
    component = run.def_comp("remap")
    fields = []
    for name, (lat, lon) in zip(("source", "target"), pairs, strict=True):
        circle = abs(abs(lon[-1] - lon[0]) - 360) < 1e-6
        columns, rows = (np.deg2rad(edges) for edges in (lon[:-1] if circle else lon, lat))
        grid = yac.Reg2dGrid(name, columns, rows, cyclic=[circle, False])
        middle = [np.deg2rad(0.5 * (edges[:-1] + edges[1:])) for edges in (lon, lat)]
        points = grid.def_points(yac.Location.CELL, *middle)
        if name == "source":
            grid.set_core_mask(np.isfinite(values[0]).ravel(), yac.Location.CELL)
        fields.append(yac.Field.create(name, component, points, 1, "1", yac.TimeUnit.HOUR))
    stack = yac.InterpolationStack()
    stack.add_conservative(2, False, True, yac.ConservNormalizationType.FRACAREA)
    stack.add_fixed(np.nan)
    ends = [word for name in ("source", "target") for word in ("remap", name, name)]
    run.def_couple(*ends, "1", yac.TimeUnit.HOUR, yac.Reduction.TIME_NONE, stack, use_raw_exchange=True)
    run.enddef()
    found = fields[1].get_raw_interp_weights_data_csr()
    shape = tuple(edges.size - 1 for edges in pairs[1])
    matrix = csr_array((found.weights, found.src_idx, found.src_indptr), (shape[0] * shape[1], values[0].size))
    maps = matrix @ np.nan_to_num(values.reshape(len(values), -1)).T
    maps[np.diff(matrix.indptr) == 0] = np.nan
    xr.Dataset({"field": (("map", "lat", "lon"), maps.T.reshape(-1, *shape))}).to_netcdf(made)


def _edges(bounds):
    """Return the edges of cells from their bounds."""
    import numpy as np

    return np.append(bounds[:, 0], bounds[-1, 1])


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
    {f.__name__: f for f in (interp, conservative, linear, deflate, plain, flushed, yac)}[sys.argv[1]](*sys.argv[2:4])
