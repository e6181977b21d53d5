"""Downscaling along time or layers, one axis after the other; the axis must have bounds.

A field along (axis, another dimension) is handled as a map whose columns are not refined. Conservation, bounds, checks
and blocks are then those of any map.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.axes import (
    BoundedAxis,
    methods_along,
    new_axis_coordinates,
    read_axis,
    require_variables,
    split_coordinates,
    target_axis,
)
from downscale.cf.bounds import bounds_variables
from downscale.cf.horizontal import XarrayObject, as_array, as_dataset
from downscale.cf.kinds import direction_reason, is_categorical, quantity_over_time, without_directions
from downscale.engine.apply import apply
from downscale.engine.job import Job
from downscale.errors import GridError, OptionError, listing, spell
from downscale.fields.aggregate import SLACK, Aggregation
from downscale.grid.axis import CellAxis, check_factor
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import SubcellGrid, Subcells, overlap_weights
from downscale.methods.registry import METHODS, find_method, name_of
from downscale.nn.separable import operator
from downscale.request import Request
from downscale.steps.history import result_encoding
from downscale.steps.jobs import fit_chunks, job_settings


@dataclass(frozen=True, eq=False)
class AxisPlan:
    """The plan along one axis, made before any data are read."""

    source: BoundedAxis
    target: BoundedAxis
    subcells: Subcells  # pieces of the source cells, cut by the target
    # The piece that equals each target cell; None if target cells combine several.
    piece_indices: NDArray[np.int64] | None
    jobs: dict[str, Job]  # by variable, for maps of this axis (rows) by the last other dimension (columns)
    categorical: tuple[str, ...]  # codes, which take that of the source cell with the largest overlap
    description: str  # for the history of a file
    notes: tuple[str, ...] = ()  # the variables that are totals


def downscale_axis(
    obj: XarrayObject, dim: str, *, factor: int | None = None, target: Any = None, request: Request | None = None
) -> XarrayObject:
    """Return fields on finer or other cells of a time or vertical axis; the mean of every source cell is conserved.

    ``target`` is a frequency ("D"), an object with that axis, its coordinate, or bounds. Target cells that cross source
    cells preserve the total, so that coarser cells are true means.

    References
    ----------
    Taylor, K. E., Williamson, D. & Zwiers, F. (2000), The sea surface temperature and sea-ice concentration boundary
    conditions for AMIP II simulations, PCMDI Report 60.
    """
    ds, name = as_dataset(obj)
    plan = plan_axis(ds, dim, factor=factor, target=target, request=request)
    fine = apply_axis_plan(ds, plan, request or Request())
    return fine if name is None else as_array(fine, name, obj)


def plan_axis(
    ds: xr.Dataset, dim: str, *, factor: int | None = None, target: Any = None, request: Request | None = None
) -> AxisPlan:
    """Return the plan of :func:`downscale_axis` for these arguments; reads only coordinates."""
    request = request or Request()
    _require_usable(dim, factor, target, request)
    source = read_axis(ds, dim)
    if factor is not None:
        target_cells = source.refine(check_factor(factor))
        subcells = Subcells.from_nested(source.axis, target_cells.axis, check_factor(factor))
        description = f"{dim} x{factor}"
    else:
        target_cells = target_axis(source, target)
        subcells = Subcells.between(source.axis, target_cells.axis)
        description = f"{dim} -> {target if isinstance(target, str) else 'target'} ({target_cells.axis.size} cells)"
    names, messages = without_directions(ds, require_variables(ds, source, request.data_vars), request.data_vars)
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=2)
    codes = tuple(name for name in names if is_categorical(ds[name]))
    piece_indices = _target_pieces(subcells)
    operator = _operator_factory(source.axis, subcells, factor is not None, request)
    jobs = {}
    for name in names:
        if name not in codes:
            _warn_of_point_values(ds[name], name, source)
            jobs[name] = _build_job(ds[name], name, source, subcells, piece_indices, operator, request)
    totals = [name for name, job in jobs.items() if job.extensive and request.quantity_for(name) is None]
    notes = tuple(f"{name}: sums along {dim}, {axis_quantity(ds[name], source)[1]}" for name in totals)
    return AxisPlan(source, target_cells, subcells, piece_indices, jobs, codes, description, notes)


def _require_usable(dim: str, factor: Any, target: Any, request: Request) -> None:
    if (factor is None) == (target is None):
        received = "neither" if factor is None else "both"
        raise OptionError(
            f"expected {spell('factor')} or target along {dim!r}, received {received}; try {spell('factor', 4)} or a "
            "target 'D'"
        )
    if not find_method(request.method).separable:
        legal = listing(key for key, method in METHODS.items() if method.separable)
        name = name_of(request.method)
        raise OptionError(f"expected a method among {legal} along {dim!r}, received {name!r}, which is made for maps")
    if request.conserve == "total" and request.method in ("bilinear", "bicubic"):
        raise OptionError(
            f"expected conserve='cell' or None along {dim!r} with {request.method!r}, received 'total'; choose one"
        )


def _target_pieces(subcells: Subcells) -> NDArray[np.int64] | None:
    """Return the piece that equals each target cell, or None if a target cell is not exactly one piece."""
    pieces = np.flatnonzero(subcells.owner >= 0)
    counts = np.bincount(subcells.owner[pieces], minlength=subcells.target.size)
    if (counts != 1).any() or (subcells.covered_fraction < 1 - SLACK).any():
        return None
    return pieces[np.argsort(subcells.owner[pieces], kind="stable")]


def _warn_of_point_values(variable: xr.DataArray, name: str, axis: BoundedAxis) -> None:
    if "point" in methods_along(variable, axis.dim, axis.name, *(["time"] if axis.clock is not None else [])):
        warnings.warn(
            f"{name}: 'point' values along {axis.name!r} are taken for means over its cells", UserWarning, stacklevel=5
        )


def _operator_factory(axis: CellAxis, subcells: Subcells, nested: bool, request: Request) -> Any:
    """Return a cached function from a number of columns to grids, upsampler and aggregation."""

    @cache
    def build(columns: int) -> tuple[RectilinearGrid, Any, tuple[Subcells, Subcells], Any, Aggregation]:
        columns_axis = Subcells.from_factor(CellAxis(np.arange(columns + 1.0), "index"), 1)
        grid, pair = RectilinearGrid(axis, columns_axis.coarse), (subcells, columns_axis)
        fine = RectilinearGrid(subcells.target, columns_axis.target) if nested else SubcellGrid(*pair)
        cells = Aggregation(subcells.area_fraction, columns_axis.area_fraction, subcells.count, 1)
        return grid, fine, pair, operator(str(request.method), grid, pair, request.taps, request.line_order), cells

    return build


def _build_job(
    variable: xr.DataArray,
    name: str,
    axis: BoundedAxis,
    subcells: Subcells,
    piece_indices: Any,
    operators: Any,
    request: Request,
) -> Job:
    other_sizes = [size for dim, size in variable.sizes.items() if dim != axis.dim]
    grid, fine, axis_pair, operator, cells = operators(other_sizes[-1] if other_sizes else 1)
    extensive = (request.quantity_for(name) or axis_quantity(variable, axis)[0]) == "extensive"
    return Job(
        upscaler=operator,
        coarse=grid,
        fine=fine,
        cells=cells,
        target=None if piece_indices is not None else axis_pair,
        **job_settings(variable, name, request, extensive),
    )


def axis_quantity(variable: xr.DataArray, axis: BoundedAxis) -> tuple[str, str]:
    """Return whether values are sums over the cells of an axis ("extensive") or means ("intensive"), and why."""
    if axis.clock is not None:
        return quantity_over_time(variable, axis.dim, axis.name)
    # The last cell method describes the values.
    method = (methods_along(variable, axis.dim, axis.name) or ["mean"])[-1]
    return ("extensive" if method == "sum" else "intensive"), f"by cell_methods, {method} along {axis.name}"


def apply_axis_plan(ds: xr.Dataset, plan: AxisPlan, request: Request) -> xr.Dataset:
    """Return the Dataset on the new cells; lazy data stay lazy."""
    dim, bounds = plan.source.dim, bounds_variables(ds)
    coords, dropped = split_coordinates(ds, plan.source)
    variables: dict[Any, Any] = {}
    for name, variable in ds.data_vars.items():
        if name in plan.jobs:
            variables[name] = _refine_variable(variable, plan.jobs[str(name)], plan)
            _mark_sums(variables[name], plan.jobs[str(name)], plan.source)
            variables[name].encoding = result_encoding(variable, ds)
        elif name in plan.categorical:
            variables[name] = _repeat_largest(variable, plan)
        elif dim not in variable.dims:
            variables[name] = variable.variable.copy(deep=False)
        elif name not in bounds and request.data_vars is None and direction_reason(variable) is None:
            dropped.append(str(name))
    if dropped:
        warnings.warn(f"dropped {', '.join(dropped)}: not on the new axis {dim!r}", UserWarning, stacklevel=4)
    coordinates = new_axis_coordinates(ds, plan.source, plan.target)
    variables = {name: variable for name, variable in variables.items() if name not in coordinates}
    result = xr.Dataset(variables, {**coords, **coordinates}, dict(ds.attrs))
    result.encoding = {key: value for key, value in ds.encoding.items() if key in ("unlimited_dims", "source")}
    return result


def _refine_variable(variable: xr.DataArray, job: Job, plan: AxisPlan) -> xr.Variable:
    """Return the field of one variable on the new cells, with dimensions in the original order."""
    dim = plan.source.dim
    other_dims = [name for name in variable.dims if name != dim]
    array = variable.variable.transpose(*other_dims[:-1], dim, *other_dims[-1:])
    data = array.data if other_dims else array.data[:, None]
    if isinstance(data, da.Array):
        data = data if job.target is None else data.rechunk({data.ndim - 2: -1, data.ndim - 1: -1})
        data = fit_chunks(data, job)
    fine = _select_rows(apply(job, data), plan.piece_indices)
    fine = fine if other_dims else fine[:, 0]
    return xr.Variable(array.dims, fine, dict(variable.attrs)).transpose(*variable.dims)


def _mark_sums(fine: xr.Variable, job: Job, axis: BoundedAxis) -> None:
    """Add "sum" to the cell methods of sums over periods that were recognised by name and units only."""
    field = xr.DataArray(fine)
    if job.extensive and axis.clock is not None and not methods_along(field, axis.dim, axis.name, "time"):
        fine.attrs["cell_methods"] = f"{fine.attrs.get('cell_methods', '')} {axis.name}: sum".strip()


def _select_rows(fine: Any, piece_indices: NDArray[np.int64] | None) -> Any:
    """Return the rows of the pieces that are target cells, in target order; blocks are not changed."""
    if piece_indices is None or np.array_equal(piece_indices, np.arange(fine.shape[-2])):
        return fine
    if not isinstance(fine, da.Array) or (np.diff(piece_indices) < 0).any():
        return fine[..., piece_indices, :]
    ends = np.cumsum(fine.chunks[-2])
    pieces, start = [], 0
    for end in ends.tolist():
        rows = piece_indices[(piece_indices >= start) & (piece_indices < end)] - start
        if rows.size:
            pieces.append(fine[..., start:end, :][..., rows, :])
        start = end
    return da.concatenate(pieces, axis=fine.ndim - 2)


def _repeat_largest(variable: xr.DataArray, plan: AxisPlan) -> xr.Variable:
    """Return codes on the target cells: each takes that of the source cell that covers most of it."""
    if (plan.subcells.covered_fraction < SLACK).any():
        raise GridError(
            f"expected a target within the axis for the codes {variable.name!r}, received one beyond it; crop it"
        )
    largest = overlap_weights(plan.source.axis, plan.target.axis).argmax(axis=1)
    return variable.variable.isel({plan.source.dim: largest})
