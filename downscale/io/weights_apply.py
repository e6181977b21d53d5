"""Regridding of xarray objects with the weights of a file."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.attributes import STALE_ATTRS
from downscale.cf.bounds import bounds_variables
from downscale.cf.coordinates import CF_ATTRS, area_names, new_coordinates
from downscale.cf.evidence import AXIS_NAMES
from downscale.cf.horizontal import Horizontal, XarrayObject, as_array, as_dataset, horizontal
from downscale.cf.kinds import REMEDY, direction_reason, is_categorical
from downscale.cf.quantities import quantity_of
from downscale.errors import GridError, InputError, ShapeError, listing
from downscale.grid.axis import FULL_CIRCLE, CellAxis
from downscale.grid.corners import Cells
from downscale.io.weights import read_weights
from downscale.kernels.sparse import SparseWeights, check_threshold

# Tolerance of cell centres in a file, as a fraction of a cell: half a cell would be another grid.
CENTRE_SLACK = 1e-3


def apply_weights(
    obj: XarrayObject,
    weights: SparseWeights | xr.Dataset | str | Path,
    *,
    skipna: bool = True,
    na_thres: float = 1.0,
    keep_attrs: bool = True,
) -> XarrayObject:
    """Regrid fields with the weights of a file from any source.

    Parameters
    ----------
    obj : Dataset or DataArray
        Fields on the source grid, in the order of the weights. Never modified.
    weights : SparseWeights, Dataset or path
        As :func:`~downscale.io.weights.read_weights` reads them.
    skipna, na_thres
        Treatment of missing sources: see :meth:`~downscale.kernels.sparse.SparseWeights.apply`.
    keep_attrs : bool
        Keep the attributes of variables.

    Returns
    -------
    Dataset or DataArray
        On the target grid: 1-D coordinates with bounds and cell areas if it is rectilinear, else 2-D latitude and
        longitude. Lazy if ``obj`` is. Conservation is that of the weights; none is enforced.

    Raises
    ------
    InputError, GridError, ShapeError, OptionError
        If the weights are for another grid, or a variable holds codes or sums over cells, which have no mean.
    """
    check_threshold(na_thres)
    operator = weights if isinstance(weights, SparseWeights) else read_weights(weights)
    ds, name = as_dataset(obj)
    dims, axes = _source_dims(ds, operator)
    new_dims, coordinates, same_mapping = _target(ds, axes, operator)
    fields = {}
    for key in _fields(ds, dims):
        data = _regrid_field(ds[key].transpose(..., *dims).data, operator, skipna, na_thres)
        attrs = _attributes(ds[key], same_mapping) if keep_attrs else {}
        other_dims = [d for d in ds[key].dims if d not in dims]
        fine = xr.Variable((*other_dims, *new_dims), data, attrs)
        dims_on_target = dict(zip(dims, new_dims, strict=False))
        order = [dims_on_target.get(str(d), d) for d in ds[key].dims]
        fields[key] = fine.transpose(*order) if len(new_dims) == 2 else fine
    replaced_dims = set(dims) | set(new_dims)
    unchanged_fields = {
        k: v.variable.copy(deep=False) for k, v in ds.data_vars.items() if not replaced_dims & set(v.dims)
    }
    kept_coordinates = {k: v.variable.copy(deep=False) for k, v in ds.coords.items() if not replaced_dims & set(v.dims)}
    out = xr.Dataset({**fields, **unchanged_fields}, {**kept_coordinates, **coordinates}, dict(ds.attrs))
    return out if name is None else as_array(out, name, obj)


def _source_dims(ds: xr.Dataset, weights: SparseWeights) -> tuple[tuple[str, str], Horizontal | None]:
    """Return the dimensions of the source grid, and its cells if it is rectilinear."""
    if len(weights.source_shape) != 2:
        raise ShapeError(
            f"expected weights for a source grid of rows and columns, received {weights.source_shape[0]} cells in a "
            "list; use SparseWeights.apply on the values"
        )
    try:
        # The weights contain the cells; compare only positions.
        axes = horizontal(ds, guess=True)
        dims = axes.dims
    except GridError:
        axes, dims = None, _position_dims(ds)  # type: ignore[assignment]
        if dims is None:
            raise
    sizes = tuple(ds.sizes[d] for d in dims)
    if sizes != weights.source_shape:
        raise ShapeError(
            f"expected {weights.source_shape} source cells along {listing(dims)}, as the weights have, received "
            f"{sizes}; make weights for this grid"
        )
    if axes is not None:
        _check_order(axes, weights)
    return dims, axes


def _position_dims(ds: xr.Dataset) -> tuple[str, str] | None:
    """Return the dimensions of two-dimensional latitudes, without reading their values."""
    for key, coordinate in ds.coords.items():
        is_position = str(key).lower() in AXIS_NAMES or coordinate.attrs.get("standard_name") in CF_ATTRS
        if coordinate.ndim == 2 and is_position:
            return str(coordinate.dims[0]), str(coordinate.dims[1])
    return None


def _check_order(axes: Horizontal, weights: SparseWeights) -> None:
    """Raise an error if the field has another order or position than the source of the weights."""
    grid = None if weights.source is None else weights.source.grid()
    if grid is None or grid.spherical != axes.grid.spherical:
        return
    for name, axis, source in ((axes.y, axes.grid.y, grid.y), (axes.x, axes.grid.x, grid.x)):
        if not _within(source.centres, axis):
            raise GridError(
                f"expected {name!r} as in the source grid of the weights, {_ends(source)}, received {_ends(axis)}; "
                "reverse, roll or sort the axis, or make weights for this grid"
            )


def _within(centres: np.ndarray[Any, Any], axis: CellAxis) -> bool:
    half_width = 0.5 * np.abs(np.diff(axis.edges))
    distance = np.abs(centres - axis.centres)
    if axis.kind == "longitude":
        distance = np.abs((centres - axis.centres + FULL_CIRCLE / 2) % FULL_CIRCLE - FULL_CIRCLE / 2)
    return bool((distance <= half_width * (1 + CENTRE_SLACK)).all())


def _ends(axis: CellAxis) -> str:
    return f"{axis.centres[0]:g} to {axis.centres[-1]:g}"


def _target(
    ds: xr.Dataset, axes: Horizontal | None, weights: SparseWeights
) -> tuple[tuple[str, ...], dict[Hashable, xr.Variable], bool]:
    """Return dimensions and coordinates of the target, and whether they are of the same kind as the source's."""
    if weights.target is None:
        dims = axes.dims if axes is not None and len(weights.target_shape) == 2 else ("y", "x")
        return (dims if len(weights.target_shape) == 2 else ("cell",)), {}, False
    grid = weights.target.grid()
    if grid is None:
        return *_cell_positions(weights.target), False
    source = None if weights.source is None else weights.source.grid()
    if axes is not None and source is not None and source.spherical == axes.grid.spherical == grid.spherical:
        return axes.dims, new_coordinates(ds, axes, grid), True
    if not grid.spherical:
        return ("y", "x"), {}, False
    bare = xr.Dataset(coords={short: (short, [0.0], CF_ATTRS[kind]) for short, kind in _SHORT})
    return ("lat", "lon"), new_coordinates(bare, Horizontal("lat", "lon", grid), grid), False


_SHORT = (("lat", "latitude"), ("lon", "longitude"))


def _cell_positions(cells: Cells) -> tuple[tuple[str, ...], dict[Hashable, xr.Variable]]:
    """Return two-dimensional latitude and longitude with the corners of their cells, or those of a list of cells."""
    dims = ("y", "x") if len(cells.shape) == 2 else ("cell",)
    variables: dict[Hashable, xr.Variable] = {}
    for (name, kind), letter in zip(_SHORT, "yx", strict=True):
        attrs = {key: value for key, value in CF_ATTRS[kind].items() if key != "axis"}
        corners = getattr(cells, f"{letter}_corners")
        if corners is not None:
            attrs["bounds"] = f"{name}_bnds"
            variables[f"{name}_bnds"] = xr.Variable((*dims, "nv"), corners.reshape(*cells.shape, -1))
        variables[name] = xr.Variable(dims, getattr(cells, letter).reshape(cells.shape), attrs)
    return dims, variables


def _fields(ds: xr.Dataset, dims: tuple[str, str]) -> list[Hashable]:
    """Return the variables to regrid, without areas; fields without a mean are refused."""
    areas = {*area_names(ds), *bounds_variables(ds)}
    names = [k for k, v in ds.data_vars.items() if set(dims) <= set(v.dims) and k not in areas]
    names = [name for name in names if ds[name].dtype.kind in "fiub"]
    if not names:
        raise InputError(f"expected a numeric variable with dimensions {listing(dims)}, received none")
    for name in names:
        if is_categorical(ds[name]):
            raise InputError(f"expected values with a mean, received codes in {name!r}; drop it before")
        direction = direction_reason(ds[name])
        if direction is not None:
            raise InputError(f"expected values with a mean, received the direction {name!r} ({direction}); {REMEDY}")
        if quantity_of(ds[name]) == "extensive":
            raise InputError(
                f"expected means over cells, received sums over cells in {name!r} (cell_methods); divide by the cell "
                "areas first and multiply by the new ones afterwards"
            )
    return names


def _attributes(variable: xr.DataArray, same_mapping: bool) -> dict[str, Any]:
    stale = STALE_ATTRS if same_mapping else (*STALE_ATTRS, "grid_mapping", "coordinates", "cell_measures")
    return {key: value for key, value in variable.attrs.items() if key not in stale}


def _regrid_field(data: Any, weights: SparseWeights, skipna: bool, na_thres: float) -> Any:
    kind = np.dtype("f8" if data.dtype.itemsize > 4 or data.dtype in ("i4", "u4") else "f4")
    options: dict[str, Any] = {"skipna": skipna, "na_thres": na_thres, "kind": kind}
    if not isinstance(data, da.Array):
        return _apply_operator(data, weights, **options)
    target = ("j", "i")[: len(weights.target_shape)]
    # One task holds the weights; the others refer to it.
    operator = dask.delayed(weights, pure=True, traverse=False)
    return da.apply_gufunc(
        _apply_operator, f"(y,x)->({','.join(target)})", data, output_dtypes=kind, allow_rechunk=True,
        output_sizes=dict(zip(target, weights.target_shape, strict=True)), weights=operator, **options,
    )  # fmt: skip


def _apply_operator(values: np.ndarray[Any, Any], weights: SparseWeights, kind: np.dtype[Any], **options: Any) -> Any:
    return weights.apply(values, **options).astype(kind)
