"""Downscaling along time or layers, one axis after the other; the axis must have bounds.

A field along (axis, another dimension) is handled as a map whose columns are not refined. Conservation, bounds, checks
and blocks are then those of any map.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from downscale.engine.apply import apply, average
from downscale.engine.job import Job
from downscale.engine.limits import Limits
from downscale.engine.memory import ExtraMemory
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
from downscale.steps.orderings import (
    Orderings,
    find_orderings,
    fine_in_order,
    limits_on,
    place_field,
    require_orderable,
)


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
    notes: tuple[str, ...] = ()  # the variables that are totals, and those in order
    orderings: Orderings = field(default_factory=Orderings)  # which fields bound which variables


    @property
    def pieces_are_targets(self) -> bool:
        """Whether the pieces are the target cells, in their order."""
        return self.piece_indices is not None and np.array_equal(
            self.piece_indices, np.arange(self.subcells.coarse.size * self.subcells.count)
        )


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
    orderings = find_orderings(ds, [name for name in names if name not in codes], request)
    require_orderable({name: job.extensive for name, job in jobs.items()}, orderings, piece_indices is not None)
    plan = AxisPlan(
        source, target_cells, subcells, piece_indices, jobs, codes, description, notes + orderings.notes, orderings
    )
    if orderings.given and not plan.pieces_are_targets:
        raise GridError(f"expected a target whose cells are parts of those of {dim!r} with bounds that are fields, "
                        "received another; pass the names of variables")
    return plan


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
    fields = _fine_fields(ds, plan)
    for name, variable in ds.data_vars.items():
        if name in plan.jobs:
            variables[name] = fields[str(name)]
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


def _fine_fields(ds: xr.Dataset, plan: AxisPlan) -> dict[str, xr.Variable]:
    """Return the fields of all variables on the new cells, each within those that bound it."""
    dim, jobs, orderings = plan.source.dim, plan.jobs, plan.orderings
    # Where target cells combine several pieces, values are in order on the pieces, and so are their averages.
    combined = {} if plan.piece_indices is not None else {name: jobs[name] for name in orderings.members}
    given = {
        (name, side): place_field(bound, ds[name], name, {dim: slice(None)})
        for (name, side), bound in orderings.given.items()
    }

    def refine(name: str, bounds: dict[str, xr.Variable]) -> xr.Variable:
        return _refine_variable(ds[name], combined[name].pieces if name in combined else jobs[name], plan, bounds)

    fine = fine_in_order(ds, jobs, orderings, given, refine)
    for name in jobs:
        fine[name] = _on_maps(fine[name], dim, lambda data: _select_rows(data, plan.piece_indices))
    for name, job in combined.items():
        fine[name] = _on_maps(fine[name], dim, lambda data, job=job: average(job, data))  # type: ignore[misc]
    return {name: fine[name].transpose(*ds[name].dims) for name in jobs}


def _refine_variable(
    variable: xr.DataArray, job: Job, plan: AxisPlan, bounds: Mapping[str, xr.Variable]
) -> xr.Variable:
    """Return the field of one variable on the pieces, within ``bounds`` by side."""

    def refine(data: Any) -> Any:
        if isinstance(data, da.Array):
            # Pieces are averaged over whole maps.
            whole = plan.piece_indices is None
            data = data.rechunk({data.ndim - 2: -1, data.ndim - 1: -1}) if whole else data
            data = fit_chunks(data, job, ExtraMemory(held=int(job.name in plan.orderings.members)))
        sizes = {**dict(zip(array.dims, array.shape, strict=True)), plan.source.dim: job.cells.fine_shape[0]}
        limits = limits_on(bounds, sizes) if len(sizes) > 1 else _columns(limits_on(bounds, sizes))
        return apply(job, data, limits=limits)

    array = _as_maps(variable.variable, plan.source.dim)
    return _on_maps(variable.variable, plan.source.dim, refine)


def _as_maps(variable: xr.Variable, dim: str) -> xr.Variable:
    """Return a variable with an axis as rows and another dimension, if it has one, as columns."""
    others = [name for name in variable.dims if name != dim]
    return variable.transpose(*others[:-1], dim, *others[-1:])


def _on_maps(variable: xr.Variable, dim: str, function: Callable[[Any], Any]) -> xr.Variable:
    """Return what a function of maps, whose rows are along an axis, makes of a variable; a line is a single column."""
    array = _as_maps(variable, dim)
    data = function(array.data if array.ndim > 1 else array.data[:, None])
    return xr.Variable(array.dims, data if array.ndim > 1 else data[:, 0], dict(variable.attrs))


def _columns(limits: Limits) -> Limits:
    return Limits(**{side: bound[:, None] for side, bound in limits.given.items()})


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
