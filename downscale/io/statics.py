"""Fine-resolution companions of a field (orography, masks) brought onto its grid (xarray; never torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.errors import GridError, InputError
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.overlap import overlap_weights
from downscale.io.cf import horizontal

OROG_NAMES = ("surface_altitude", "height_above_mean_sea_level", "height_above_reference_ellipsoid")


def pick_orography(static: xr.Dataset | xr.DataArray | str | Path) -> xr.DataArray:
    """Return the orography of a file, Dataset or DataArray: by standard name, else ``orog``, else the only field.

    Raises
    ------
    InputError
        If several fields could be meant, or none.
    """
    if isinstance(static, (str, Path)):
        from downscale.io.read import open_dataset

        static = open_dataset(static)
    if isinstance(static, xr.DataArray):
        return static
    fields = [str(name) for name, v in static.data_vars.items() if v.ndim >= 2]
    named = [name for name in fields if static[name].attrs.get("standard_name") in OROG_NAMES]
    choice = named or [name for name in fields if name == "orog"] or fields
    if len(choice) != 1:
        raise InputError(f"expected one orography field, received {choice or 'none'}; pass that DataArray itself")
    return static[choice[0]]


def on_grid(field: xr.DataArray, grid: RectilinearGrid, what: str = "orog") -> Any:
    """Return ``field`` as a (n_y, n_x) array on ``grid``: itself where the cells agree, else conservative means.

    Missing values count as zero (the sea, in an orography). A lazy field gives a lazy array.

    Raises
    ------
    GridError
        If the field does not cover the grid, or has more than two dimensions.
    """
    where = horizontal(field)
    plane = field.squeeze(drop=True).transpose(..., where.y, where.x)
    if plane.ndim != 2:
        raise GridError(f"{what}: expected two dimensions, received {plane.dims}; select one map first")
    rows, columns = overlap_weights(where.grid.y, grid.y), overlap_weights(where.grid.x, grid.x)
    covered = rows.sum(axis=1).min(), columns.sum(axis=1).min()
    if min(covered) < 1 - 1e-6:
        raise GridError(
            f"{what}: expected a field that covers the whole fine grid, received one that covers "
            f"{100 * max(min(covered), 0):.3g} % of its worst row or column; use a larger field"
        )
    if isinstance(plane.data, da.Array):
        return da.from_delayed(dask.delayed(_remap)(plane.data, rows, columns), grid.shape, np.float64)
    return _remap(plane.values, rows, columns)


def _remap(values: NDArray[Any], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    filled = np.nan_to_num(np.asarray(values, dtype=np.float64))
    order = _permutation(rows), _permutation(columns)
    if order[0] is not None and order[1] is not None:
        # Cells that agree are copied, not multiplied: the bits stay as they are.
        return filled[np.ix_(order[0], order[1])]
    return rows @ filled @ columns.T


def _permutation(weights: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Return which source cell each target cell is, or None where some are mixed."""
    source = weights.argmax(axis=1)
    share = np.take_along_axis(weights, source[:, None], axis=1)
    return source if np.allclose(share, 1, rtol=0, atol=1e-4) else None
