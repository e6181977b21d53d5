"""Fine-resolution companions of a field (orography, masks) brought onto its grid (xarray; never torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.errors import GridError, InputError, listing
from downscale.grid.overlap import overlap_weights
from downscale.io.cf import horizontal

OROG_NAMES = ("surface_altitude", "height_above_mean_sea_level", "height_above_reference_ellipsoid")
MASK_NAMES = (
    "sftlf", "sftof", "mask", "land_area_fraction", "sea_area_fraction", "land_binary_mask", "sea_binary_mask"
)  # fmt: skip
PER_CENT = ("%", "percent", "per cent")
# Edges stored in float32 miss each other by this share of a cell at most.
COVERAGE_TOLERANCE = 1e-3


def pick_static(static: xr.Dataset | xr.DataArray | str | Path, name: str | None = None) -> xr.Dataset:
    """Return the Dataset of one field, bounds and all: by name, by standard name, ``orog``, or the only field.

    Raises
    ------
    InputError
        If several fields could be meant, or none.
    """
    if isinstance(static, (str, Path)):
        from downscale.io.read import open_dataset

        static = open_dataset(static, chunks=None)
    if isinstance(static, xr.DataArray):
        return static.to_dataset(name=static.name or "orog")
    fields = [str(key) for key, v in static.data_vars.items() if v.ndim >= 2 and not str(key).endswith("_bnds")]
    if name is not None and name not in fields:
        raise InputError(f"expected a field among {listing(fields)}, received {name!r}")
    named = [key for key in fields if static[key].attrs.get("standard_name") in OROG_NAMES]
    choice = [name] if name is not None else named or [key for key in fields if key == "orog"] or fields
    if len(choice) != 1:
        raise InputError(f"expected one orography field, received {choice or 'none'}; pass that DataArray itself")
    return static[choice]


def pick_mask(mask: xr.Dataset | xr.DataArray | str | Path) -> xr.Dataset:
    """Return the Dataset of one mask: ``sftlf``, by standard name, or the only field.

    Raises
    ------
    InputError
        If several fields could be meant, or none.
    """
    if isinstance(mask, (str, Path)):
        from downscale.io.read import open_dataset

        mask = open_dataset(mask, chunks=None)
    if isinstance(mask, xr.DataArray):
        return mask.to_dataset(name="mask" if mask.name is None or mask.name in mask.coords else mask.name)
    if not isinstance(mask, xr.Dataset):
        raise InputError(f"expected mask to be a Dataset, a DataArray or a file, received {type(mask).__name__}")
    fields = [str(key) for key, v in mask.data_vars.items() if v.ndim >= 2 and not str(key).endswith("_bnds")]
    named = [key for key in fields if mask[key].attrs.get("standard_name") in MASK_NAMES or key in MASK_NAMES]
    choice = named or fields
    if len(choice) != 1:
        raise InputError(f"expected one mask, received {choice or 'none'}; pass that DataArray itself")
    return mask[choice]


def mask_on_grid(mask: xr.Dataset, grid: Any) -> NDArray[np.float64]:
    """Return the valid share of each fine cell, 0 to 1, from a mask or a fraction (also in per cent).

    Missing values are not valid; where the mask does not reach, everything is.
    """
    where = horizontal(mask)
    field = next(iter(mask.data_vars.values()))
    plane = field.squeeze(drop=True).transpose(..., where.y, where.x)
    if plane.ndim != 2:
        raise GridError(f"mask: expected two dimensions, received {plane.dims}; a mask does not vary in time")
    values = np.nan_to_num(np.asarray(plane.values, dtype=np.float64))
    if str(field.attrs.get("units", "")).strip() in PER_CENT or values.max(initial=0) > 1.5:
        values = values / 100
    if values.min(initial=0) < 0 or values.max(initial=0) > 1 + 1e-6:
        raise InputError(
            f"mask: expected True and False, or a fraction from 0 to 1 or to 100 %, received {values.min():g} to "
            f"{values.max():g}; compare it with a threshold first"
        )
    rows, columns = overlap_weights(where.grid.y, grid.y), overlap_weights(where.grid.x, grid.x)
    reached = np.multiply.outer(rows.sum(axis=1), columns.sum(axis=1)).clip(0, 1)
    return _remap(values, rows, columns) + (1 - reached)


def on_grid(static: xr.Dataset, grid: Any, what: str = "orog") -> Any:
    """Return a field as a (n_y, n_x) array on ``grid``: itself where the cells agree, else conservative means.

    Missing values count as zero (the sea, in an orography). A lazy field gives a lazy array.

    Parameters
    ----------
    static : Dataset
        Of one data variable, with its bounds if it has any (:func:`pick_static`).

    Raises
    ------
    GridError
        If the field does not cover the grid, or has more than two dimensions.
    """
    where = horizontal(static)
    field = next(iter(static.data_vars.values()))
    plane = field.squeeze(drop=True).transpose(..., where.y, where.x)
    if plane.ndim != 2:
        raise GridError(f"{what}: expected two dimensions, received {plane.dims}; select one map first")
    rows, columns = overlap_weights(where.grid.y, grid.y), overlap_weights(where.grid.x, grid.x)
    covered = rows.sum(axis=1).min(), columns.sum(axis=1).min()
    if min(covered) < 1 - COVERAGE_TOLERANCE:
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
