"""Alignment of two fields before a check: common times and layers, and point series as maps of one cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.axes import read_line
from downscale.cf.bounds import bounds_variables
from downscale.cf.horizontal import Horizontal, NoAxesError, horizontal
from downscale.errors import DownscaleError, GridError
from downscale.request import Request
from downscale.steps.along import along, quantity_along

# Keep averages as they are: errors are for the check to find.
PLAIN = Request(method="conservative", bounds=None, check="skip")


@dataclass(frozen=True)
class Aligned:
    """A coarse and a fine Dataset with equal times and layers, and their grids.

    Attributes
    ----------
    coarse, fine : Dataset
        Fields with horizontal axes.
    sizes : Dataset or None
        Mean magnitudes of the fine fields, if means along an axis were taken.
    at_coarse, at_fine : Horizontal
        The grids of both.
    """

    coarse: xr.Dataset
    fine: xr.Dataset
    sizes: xr.Dataset | None
    at_coarse: Horizontal
    at_fine: Horizontal


def aligned(coarse: xr.Dataset, fine: xr.Dataset, quantity: Any = None) -> Aligned:
    """Return both fields on the times and layers of the coarse one, with their grids.

    If ``fine`` has another number of cells along an axis, it is averaged over the cells of ``coarse``, weighted by the
    true lengths of its own cells; sums are summed. ``quantity`` chooses between means and sums if it refers to this
    axis, that is if maps have equally many cells.

    Raises
    ------
    GridError
        If an axis differs and its cells cannot be determined.
    """
    (coarse, at_coarse), (fine, at_fine) = _as_maps(coarse, guess=False), _as_maps(fine, guess=True)
    sizes: xr.Dataset | None = None
    # A requested quantity refers to maps if these differ, else to the axis.
    request = replace(PLAIN, quantity=quantity if at_coarse.grid.shape == at_fine.grid.shape else None)
    flat = {*at_coarse.dims, *at_fine.dims}
    for dim in map(str, coarse.dims):
        there = dim in fine.dims and dim in coarse.coords and dim in fine.coords
        if dim in flat or not there or fine.sizes[dim] == coarse.sizes[dim]:
            continue
        # Rounding scales with the values, which may be much larger than their mean.
        whole = fine if sizes is None else sizes
        floats = {name: v for name, v in _fields(whole).items() if v.dtype.kind == "f"}
        magnitudes = whole.assign({name: v.copy(data=np.abs(v.data)) for name, v in floats.items()})
        try:
            fine, sizes = (_averaged(field, dim, coarse, request) for field in (fine, magnitudes))
        except DownscaleError as error:
            raise GridError(
                f"expected {coarse.sizes[dim]} values of {dim!r} in the fine field or cells to average over, received "
                f"{fine.sizes[dim]} ({error})"
            ) from None
    return Aligned(coarse, fine, sizes, at_coarse, at_fine)


def _fields(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the data variables that are not bounds."""
    bounds = bounds_variables(ds)
    return {str(name): field for name, field in ds.data_vars.items() if name not in bounds}


def _averaged(ds: xr.Dataset, dim: str, coarse: xr.Dataset, request: Request) -> xr.Dataset:
    fields = ds.drop_vars([name for name, field in _fields(ds).items() if field.dtype.kind != "f"])
    if request.quantity is None:
        # Fine values are of the same quantity as the coarse ones.
        line = read_line(coarse, dim)
        shared = [name for name in _fields(fields) if name in coarse.data_vars]
        said = {name: quantity_along(coarse[name], line)[0] for name in shared}
        request = replace(request, quantity=said)
    made = along(fields, dim, target=coarse, request=request)
    assert isinstance(made, xr.Dataset)
    return made


def _as_maps(ds: xr.Dataset, guess: bool) -> tuple[xr.Dataset, Horizontal]:
    """Return fields and their grid; a series without horizontal axes gets one cell."""
    try:
        return ds, horizontal(ds, guess)
    except NoAxesError:
        if {"y", "x"} & set(map(str, ds.variables)):
            raise
    cell: dict[str, Any] = {}
    for name in ("y", "x"):
        attrs = {"standard_name": f"projection_{name}_coordinate", "units": "m", "bounds": f"{name}_bnds"}
        cell[name] = (name, np.array([0.5]), attrs)
        cell[f"{name}_bnds"] = ((name, "ends of a cell"), np.array([[0.0, 1.0]]))
    fields = {str(n): v.expand_dims({"y": [0.5], "x": [0.5]}, axis=(-2, -1)) for n, v in _fields(ds).items()}
    made = ds.assign(fields).assign_coords(cell)
    return made, horizontal(made, guess)
