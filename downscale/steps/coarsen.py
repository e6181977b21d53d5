"""Area-weighted block means and cell areas of xarray objects."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.attributes import AREA
from downscale.cf.coordinates import copy_coordinates, horizontal_variables, new_coordinates
from downscale.cf.horizontal import XarrayObject, as_array, as_dataset, horizontal, parse_factor, warn_of_plane
from downscale.cf.kinds import is_categorical, without_directions
from downscale.cf.mapping import mapping_name
from downscale.cf.quantities import quantity_of
from downscale.fields.aggregate import SLACK, Aggregation
from downscale.kernels.sparse import check_threshold


def coarsen(obj: XarrayObject, factor: Any, *, na_thres: float = 1.0) -> XarrayObject:
    """Return means of a fine field over blocks of cells, weighted by exact areas and masks (the operator A).

    Codes (``flag_values``, booleans) are not averaged: a block takes the code with the largest area.

    Parameters
    ----------
    obj : Dataset or DataArray
        Fine fields; NaN cells are left out, and a block without any valid cell is NaN.
    factor : int or mapping of dimension to int
        Cells per block; sizes must be multiples (crop first).
    na_thres : float
        Maximum missing fraction of a block that still gets a value, 0 to 1 (as in :func:`downscale.downscale`).

    Returns
    -------
    Dataset or DataArray
        Same type as ``obj``, lazy if it is. ``coarsen(downscale(x, f), f)`` is ``x`` (cell conservation).

    Raises
    ------
    ShapeError
        If a size is not a multiple of the factor.
    OptionError
        If the threshold is not from 0 to 1.
    """
    na_thres = check_threshold(na_thres)
    ds, name = as_dataset(obj)
    axes = warn_of_plane(horizontal(ds))
    factors = parse_factor(factor, axes)
    grid = axes.grid.coarsen(*factors)
    cells = Aggregation.between(grid, axes.grid)
    names, messages = without_directions(ds, horizontal_variables(ds, axes), None)
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=2)
    fields = {}
    for key in names:
        extensive = quantity_of(ds[key]) == "extensive"
        areas = (axes.grid.cell_area, grid.cell_area) if extensive else None
        codes = is_categorical(ds[key])
        array = ds[key].transpose(..., *axes.dims)
        dtype = array.dtype if codes or array.dtype.kind == "f" else np.dtype("f8")
        reduction = _majority_reduction(cells) if codes else _mean_reduction(cells, areas, na_thres)
        data = _reduce_maps(reduction, array.data, cells, dtype)
        attrs = {**ds[key].attrs, **_link_attributes(ds[key])}
        fields[key] = xr.DataArray(data, dims=array.dims, attrs=attrs).transpose(*ds[key].dims).variable
    coordinates = new_coordinates(ds, axes, grid)
    dims = set(axes.dims)
    other_fields = {k: v.variable.copy(deep=False) for k, v in ds.data_vars.items() if not dims & set(v.dims)}
    fine = xr.Dataset({**fields, **other_fields}, {**copy_coordinates(ds, axes), **coordinates}, dict(ds.attrs))
    return fine if name is None else as_array(fine, name, obj)


def _link_attributes(variable: xr.DataArray) -> dict[str, str]:
    """Return the attributes that link a field to its areas and its grid mapping."""
    mapping = mapping_name(variable)
    return {"cell_measures": f"area: {AREA}", **({} if mapping is None else {"grid_mapping": mapping})}


def _mean_reduction(
    cells: Aggregation, areas: tuple[Any, Any] | None, na_thres: float
) -> Callable[[np.ndarray], np.ndarray]:
    def mean(block: np.ndarray) -> np.ndarray:
        values = block.astype(np.float64)
        values = values if areas is None else values / areas[0]
        valid = np.isfinite(values)
        if valid.all():
            return cells.mean(values) if areas is None else cells.mean(values) * areas[1]
        valid_cells = cells.apply_mask(valid)
        means, valid_fraction = valid_cells.mean(values), valid_cells.valid_fraction
        means = np.where(1 - valid_fraction <= na_thres + SLACK, means, np.nan)
        # The sum over a block is that of its valid cells.
        return means if areas is None else means * areas[1] * valid_fraction

    return mean


def _majority_reduction(cells: Aggregation) -> Callable[[np.ndarray], np.ndarray]:
    def largest(block: np.ndarray) -> np.ndarray:
        valid = block == block
        codes = np.unique(block[valid])
        fallback = cells.reduce_cells(block, np.maximum, np.fmin.reduce(block, axis=None))
        if codes.size == 0:
            return fallback
        fractions = np.stack([cells.apply_mask(block == code).valid_fraction for code in codes])
        return np.where(fractions.max(axis=0) > 0, codes[fractions.argmax(axis=0)], fallback)

    return largest


def _reduce_maps(
    reduction: Callable[[np.ndarray], np.ndarray], data: Any, cells: Aggregation, dtype: np.dtype[Any]
) -> Any:
    """Return coarse maps by a reduction of whole fine maps, a few at a time for lazy data."""

    def reduce_block(block: np.ndarray) -> np.ndarray:
        return reduction(block).astype(dtype)

    if not isinstance(data, da.Array):
        return reduce_block(np.asarray(data))
    maps = data.rechunk({data.ndim - 2: -1, data.ndim - 1: -1})
    shape = cells.coarse_shape
    chunks = (*maps.chunks[:-2], (shape[0],), (shape[1],))
    return maps.map_blocks(reduce_block, chunks=chunks, dtype=dtype, meta=np.empty((0,) * data.ndim, dtype))


def cell_area(obj: XarrayObject) -> xr.DataArray:
    """Return the exact cell areas in m2 on the horizontal dimensions of ``obj``.

    On the sphere ``R**2 (lon2 - lon1) (sin(lat2) - sin(lat1))`` with R = 6 371 000 m; for quadrilaterals with sides on
    great circles of that sphere; for a projection described in the file, areas on its own ellipsoid.
    """
    ds, _ = as_dataset(obj)
    axes = warn_of_plane(horizontal(ds))
    coords = {name: ds[name].variable for name in (*axes.dims, *(axes.positions or ())) if name in ds.variables}
    area = new_coordinates(ds, axes, axes.grid)[AREA]
    return xr.DataArray(area, coords=coords, name=AREA)
