"""Arrangement of Datasets for reading grids: fixed positions as maps, longitudes without a jump."""

from __future__ import annotations

import numpy as np
import xarray as xr

from downscale.cf.evidence import axis_of, counts_only, degrees_in
from downscale.cf.positions import moving, planes_of, still
from downscale.errors import GridError
from downscale.grid.axis import FULL_CIRCLE, LONGEST_STEP


def arranged(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with two-dimensional positions if they do not move, and with contiguous longitudes.

    A region across Greenwich that was sorted on 0 to 360, [0, 18, 342, 358], then starts in the west: [-18, -2, 0, 18].
    An arranged Dataset is returned unchanged; contradictory metadata are left to ``horizontal``.
    """
    try:
        return in_one_piece(_held_still(ds))
    except GridError:
        return ds


def _held_still(ds: xr.Dataset) -> xr.Dataset:
    planes = planes_of(ds)
    if planes is None or ds[planes[0]].ndim < 3 or any(moving(ds[name]) for name in planes):
        return ds
    return ds.assign_coords({name: still(ds[name]).variable for name in planes})


def in_one_piece(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose longitudes are contiguous; contradictory metadata are returned unchanged."""
    for name in map(str, ds.dims):
        try:
            found = western(ds[name]) if name in ds.coords and ds[name].ndim == 1 else None
        except GridError:
            continue
        if found is not None:
            count, circle = found
            size = ds.sizes[name]
            moved = ds.isel({name: np.roll(np.arange(size), count)})
            given = moved[name].values
            values = np.where(given > 0.5 * (given.min() + given.max()), given - circle, given)
            # Bounds may be on either side of the seam: they are moved to their centres.
            line = moved[name].variable.copy(deep=False)
            line = xr.Variable((name,), values.astype(line.dtype), line.attrs, line.encoding)
            return moved.assign_coords({name: line})
    return ds


def western(coordinate: xr.DataArray) -> tuple[int, float] | None:
    """Return how many of the last longitudes belong before the first ones, and the circle in their units, or None.

    Examples
    --------
    >>> western(xr.DataArray([0.0, 2.0, 356.0, 358.0], dims="lon", name="lon"))
    (2, 360.0)
    """
    if coordinate.size < 3 or coordinate.dtype.kind not in "fiu":
        return None
    axis = axis_of(coordinate)
    if axis is None or axis.way != "x" or counts_only(coordinate):
        return None
    unit = degrees_in(str(coordinate.attrs.get("units") or "degrees"), rare=False)
    if unit is None:
        return None
    steps = np.diff(coordinate.values.astype(np.float64) * unit)
    jump = int(np.abs(steps).argmax())
    others = np.delete(steps, jump)
    # The jump has the sign of all other steps, and the step across the other side is about one of them.
    rest = FULL_CIRCLE - abs(float(np.ptp(coordinate.values.astype(np.float64) * unit)))
    onwards = (others > 0).all() if steps[jump] > 0 else (others < 0).all()
    if not onwards or abs(steps[jump]) <= LONGEST_STEP or not 0 < rest <= 1.5 * np.abs(others).max():
        return None
    return coordinate.size - 1 - jump, FULL_CIRCLE / unit
