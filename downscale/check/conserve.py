"""Projection of fine fields from any source onto the cell means of a coarse field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from downscale.api import reorder
from downscale.cf.attributes import AREA
from downscale.cf.coordinates import new_coordinates, read_areas
from downscale.cf.horizontal import Horizontal, XarrayObject, as_array, as_dataset, horizontal, warn_of_plane
from downscale.cf.quantities import is_field_bound, quantity_of
from downscale.cf.units import convert
from downscale.check.comparison import (
    BLOCK_VALUES,
    PROJECTED,
    Nested,
    Overlapping,
    axes_of,
    block_sizes,
    compare_fields,
    leading_sizes,
)
from downscale.check.conservation import align_fields, common_variables, convert_units, unify_units
from downscale.check.periods import Periods
from downscale.conservation.measures import default_tolerance
from downscale.engine.apply import apply
from downscale.engine.job import Job
from downscale.errors import GridError, OptionError, listing, spell
from downscale.fields.aggregate import SupermeshMean
from downscale.grid.axis import FULL_CIRCLE, CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import Subcells
from downscale.io.paths import SOURCES, sources_of
from downscale.methods.proposal import CrossingWork, Proposal, accompanied, cell_sums
from downscale.request import (
    ARGUMENTS,
    CONSERVE,
    Request,
    require_arguments,
    require_legal,
    require_variables,
    takes,
    value_for,
)
from downscale.steps.history import add_history, result_encoding
from downscale.steps.jobs import job_settings, result_type

# Arguments besides the constraint, with the declarations of a request.
OPTIONS = ("bounds", "mask", "data_vars", "quantity", "tolerance", "check", "keep_attrs", "device")


@dataclass(frozen=True, eq=False)
class Projected:
    """One variable to project: both fields with equal dimensions, in the units of the fine one, and the job."""

    coarse: xr.DataArray
    fine: xr.DataArray
    job: Job
    constraint: str
    extensive: bool


@dataclass(frozen=True, eq=False)
class ProjectionPlan:
    """The grids and variables of a projection, known before any data are read."""

    ds: xr.Dataset
    comparison: Nested | Overlapping
    fields: Mapping[str, Projected]
    periods: Periods | None = None  # if coarse values are means or sums over several fine times

    @property
    def words(self) -> str:
        """The settings in one line, for the history."""
        parts = []
        for name, item in self.fields.items():
            low, high = ("" if bound is None else f"{bound:g}" for bound in item.job.bounds)
            parts.append(f"{name} {item.constraint}" + (f" {low}:{high}" if low + high else ""))
        over = "" if self.periods is None else f", over periods of {self.periods.dim}"
        return f"{PROJECTED} cell means, {self.grids}{over}, constraint: {', '.join(parts)}"

    @property
    def grids(self) -> str:
        """The relation of the grids in words."""
        sizes = " and ".join("{} x {}".format(*at.grid.shape) for at in (self.comparison.fine_axes,
                                                                        self.comparison.coarse_axes))  # fmt: skip
        if isinstance(self.comparison, Nested):
            factors = self.comparison.cells.factor_y, self.comparison.cells.factor_x
            return "{} cells, nested {} x {}".format(sizes, *factors)
        return f"{sizes} cells that cross, so that maps are not split"

    def __str__(self) -> str:
        return self.words


@takes({**CONSERVE, **{name: ARGUMENTS[name] for name in OPTIONS}})
def conserve(fine: XarrayObject, coarse: XarrayObject, constraint: str = "auto", **options: Any) -> XarrayObject:
    """Return a fine field from any source with the cell means of a coarse field: the nearest field that has them.

    Variables, times and layers are matched as by :func:`downscale.check_conservation`; units are converted.

    Parameters
    ----------
    fine, coarse : Dataset or DataArray
        The fine field (of a network, another regridder, a regional model, ...) and the coarse field, on grids of the
        same kind. The order of latitudes and the branch of longitudes may differ. Never modified.
    {arguments}

    Returns
    -------
    Dataset or DataArray
        Same type, cells, data type and attributes as ``fine``, lazy if a field is, with bounds and cell areas. Fine
        cells without a coarse value become missing. Coarse cells without a fine value cannot be conserved: the check
        reports them as lost. Other variables are not changed.

    Raises
    ------
    GridError, ShapeError, InputError
        If grids, times or units do not fit, or no variable is common to both.
    OptionError
        If an option is not legal.
    BoundsError
        If a coarse value is outside bounds that you set, when it is computed.
    ConservationError
        If cell conservation fails in a block, when it is computed.

    Notes
    -----
    Cell conservation: the mean over the valid part of each coarse cell equals its value. If grids nest, chunks may
    split maps; the result has the same bits for any chunks. If they do not, a fine value counts in each coarse mean by
    its area inside, and the result is the weighted least-squares projection
    ``y = z + W^-1 A' (A W^-1 A')^-1 (x - A z)``.

    Examples
    --------
    >>> import downscale
    >>> coarse = downscale.sample.open("north_america").isel(time=[0])
    >>> cells = coarse.downscale(4)
    >>> fine = coarse[["tas"]].interp(lat=cells.lat, lon=cells.lon, kwargs={"fill_value": "extrapolate"})
    >>> downscale.check_conservation(coarse, fine).passed
    False
    >>> downscale.check_conservation(coarse, downscale.conserve(fine, coarse)).passed
    True
    """
    plan = plan_projection(fine, coarse, constraint, **options)
    projected = project(plan, Request(keep_attrs=options.get("keep_attrs")).setting("keep_attrs"))
    return projected if isinstance(fine, xr.Dataset) else as_array(projected, next(iter(plan.fields)), fine)


def plan_projection(
    fine: XarrayObject, coarse: XarrayObject, constraint: str = "auto", **options: Any
) -> ProjectionPlan:
    """Return the plan of :func:`conserve` without reading data; refuses invalid requests."""
    require_legal("constraint", constraint, CONSERVE["constraint"].expects)
    require_arguments(options, (*CONSERVE, *OPTIONS))
    request = Request(method="conservative", **options)
    ds, name = as_dataset(fine)
    means, coarse_name = as_dataset(coarse)
    if name is not None and coarse_name is not None:
        # Two arrays are matched regardless of their names.
        ds = ds.rename({name: coarse_name})
    comparison = compare_fields(means, ds, request.quantity, request.mask)
    warn_of_plane(comparison.fine_axes)
    _require_finer(comparison)
    fields = _fields(comparison, constraint, request)
    if comparison.sizes is None:
        return ProjectionPlan(ds, comparison, fields)
    others = [str(dim) for dim in means.dims if dim in ds.dims and dim not in comparison.fine_axes.dims]
    dims = [dim for dim in others if ds.sizes[dim] != means.sizes[dim]]
    if len(dims) > 1:
        raise GridError(
            f"expected other numbers of values along one dimension only, received them along {listing(dims)}; average "
            "the fine field along one"
        )
    # Values beyond the bounds could not be scaled back within them.
    limits = {key: item.job.bounds for key, item in fields.items() if item.constraint == "bounded"}
    ds = ds.assign({key: ds[key].clip(*bounds, keep_attrs=True) for key, bounds in limits.items()})
    comparison = compare_fields(means, ds, request.quantity, request.mask)
    periods = Periods.between(ds, means, dims[0], [key for key in fields if dims[0] in ds[key].dims])
    return ProjectionPlan(ds, comparison, _fields(comparison, constraint, request), periods)


def _fields(comparison: Nested | Overlapping, constraint: str, request: Request) -> dict[str, Projected]:
    """Return the fields and jobs of all common variables."""
    cells = None
    if isinstance(comparison, Overlapping):
        pairs = zip(axes_of(comparison.coarse_axes.grid), axes_of(comparison.fine_axes.grid), strict=True)
        cells = SupermeshMean.across(*(Subcells.between(*pair) for pair in pairs))
    names = common_variables(comparison, request.data_vars)
    for option in ("bounds", "quantity"):
        require_variables(option, getattr(request, option), names)
    for name in names:
        bounds = value_for(request.bounds, name)
        fields = [one for one in bounds if is_field_bound(one)] if isinstance(bounds, tuple | list) else []
        if fields:
            kind = f"the name {fields[0]!r}" if isinstance(fields[0], str) else "a field"
            raise OptionError(f"expected numbers as {spell('bounds')} of {name!r}, received {kind}; drop it")
    return {name: _projected(comparison, name, constraint, request, cells) for name in names}


def _require_finer(comparison: Nested | Overlapping) -> None:
    """Refuse objects in the wrong order: more coarse cells than fine ones leave no field to project."""
    fine, coarse = comparison.fine_axes.grid.shape, comparison.coarse_axes.grid.shape
    if fine[0] < coarse[0] or fine[1] < coarse[1]:
        raise GridError(
            "expected a fine field with at least as many rows and columns as the coarse one, received "
            f"{fine[0]} x {fine[1]} and {coarse[0]} x {coarse[1]} cells; pass the fine field first"
        )


def _projected(
    comparison: Nested | Overlapping, name: str, constraint: str, request: Request, cells: SupermeshMean | None
) -> Projected:
    """Return the fields of one variable and the job that projects them."""
    unify_units(comparison, name)
    x, y = align_fields(comparison, name)
    units = [str(one.attrs.get("units") or "").strip() for one in (x, y)]
    if all(units) and units[0] != units[1] and convert(1.0, *units) is not None:
        x = convert_units(x, *units)
    extensive = (request.quantity_for(name) or quantity_of(comparison.coarse[name])) == "extensive"
    dtype = result_type(y.dtype)
    settings = {**job_settings(x, name, request, extensive), "dtype": dtype}
    if request.tolerance is None and request.setting("tolerance") is None:
        settings["tolerance"] = default_tolerance(dtype)
    constraint = _pick_constraint(name, constraint, settings["bounds"], request.bounds)
    bounds = {"additive": (None, None), "multiplicative": (0.0, None)}.get(constraint, settings["bounds"])
    settings |= {"bounds": bounds, "warns_of_negatives": settings["warns_of_negatives"] and constraint == "additive"}
    grids: dict[str, Any] = {"coarse": comparison.coarse_axes.grid, "fine": comparison.fine_axes.grid}
    if isinstance(comparison, Nested):
        aggregation = comparison.cells
        factor = aggregation.factor_y, aggregation.factor_x
        upsampler = Proposal(factor, aggregation, constraint == "multiplicative")
        if extensive:
            # Projected as densities, which are rounded only once, as sums.
            settings |= {"extensive": False, "dtype": np.dtype("f8")}
        job = Job(upscaler=upsampler, cells=aggregation, **grids, **settings)
    else:
        job = Job(upscaler=None, cells=cells, **grids, **settings)  # type: ignore[arg-type]
    return Projected(x, y, job, constraint, extensive)


def _pick_constraint(name: str, constraint: str, bounds: tuple[Any, Any], requested: Any) -> str:
    """Return the constraint of a variable: bounded if it has bounds, additive if not, unless one is requested."""
    is_set = not (requested is None or requested == "auto" or isinstance(requested, Mapping))
    if constraint == "auto":
        return "additive" if bounds == (None, None) else "bounded"
    if constraint == "bounded" and bounds == (None, None):
        raise OptionError(
            f"{name}: expected {spell('bounds')} with {spell('constraint', 'bounded')}, received none; pass a lower "
            "or an upper bound"
        )
    if constraint != "bounded" and is_set:
        raise OptionError(
            f"expected {spell('constraint', 'bounded')} with {spell('bounds')}, received {constraint!r}; drop one"
        )
    return constraint


def project(plan: ProjectionPlan, keep_attrs: bool = True) -> xr.Dataset:
    """Return the fine Dataset of a plan with its fields projected, lazy if they are."""
    comparison, ds = plan.comparison, plan.ds
    arrays = {}
    for name, item in plan.fields.items():
        data = _nested(comparison, item) if isinstance(comparison, Nested) else _crossing(comparison, item)
        values = _reorder_like(item.fine.copy(data=data), ds, comparison.fine_axes.dims)
        if plan.periods is not None and plan.periods.dim in ds[name].dims:
            before = _reorder_like(item.fine, ds, comparison.fine_axes.dims)
            bounds = item.job.bounds
            values = plan.periods.spread(ds[name], before, values, name, item.constraint, bounds)
        variable = values.variable.transpose(*ds[name].dims)
        variable.attrs = dict(ds[name].attrs) if keep_attrs else {}
        variable.encoding = result_encoding(ds[name], ds)
        variable.encoding[SOURCES] = (*variable.encoding[SOURCES], *sources_of(comparison.coarse))
        arrays[name] = variable
    projected = _with_cells(ds.assign(arrays), comparison, list(arrays))
    projected.encoding = dict(ds.encoding)
    return add_history(projected, plan.words)


def _nested(comparison: Nested, item: Projected) -> Any:
    """Return the projected values on nested grids, through the engine."""
    cells, grid = comparison.cells, comparison.fine_axes.grid
    factor = cells.factor_y, cells.factor_x
    x, z = item.coarse.data, item.fine.data.astype(result_type(item.fine.dtype))
    if isinstance(x, da.Array) or isinstance(z, da.Array):
        x, z = (data if isinstance(data, da.Array) else da.from_array(data, chunks=-1, name=False) for data in (x, z))
        lead, rows = block_sizes(z, factor[0], BLOCK_VALUES)
        z = z.rechunk((*lead, tuple(n * factor[0] for n in rows), -1), method="tasks")
        x = x.rechunk((*lead, rows, -1), method="tasks")
    xp = da if isinstance(z, da.Array) else np
    area = grid.cell_area if item.extensive else None
    if area is not None:
        valid = xp.isfinite(z) if comparison.valid is None else xp.isfinite(z) & comparison.valid
        total = cell_sums(xp.where(valid, area, 0.0), factor)
        x, z = x / xp.where(total > 0, total, 1.0), z / area
    statics = {} if comparison.valid is None else {"mask": comparison.valid.astype(np.float64)}
    projected = apply(item.job, accompanied(x, z, factor), statics)
    return projected if area is None else (projected * area).astype(result_type(item.fine.dtype))


def _crossing(comparison: Overlapping, item: Projected) -> Any:
    """Return the projected values on grids that do not nest, map by map."""
    hidden = comparison.common.hidden
    mask = None if hidden is None else ~hidden
    work = CrossingWork(item.job, item.job.cells, mask, item.constraint == "multiplicative")  # type: ignore[arg-type]
    x, z = item.coarse.data, item.fine.data.astype(item.job.dtype)
    if not isinstance(x, da.Array) and not isinstance(z, da.Array):
        return work(z, np.asarray(x))
    x, z = (data if isinstance(data, da.Array) else da.from_array(data, chunks=-1, name=False) for data in (x, z))
    maps = max(BLOCK_VALUES // int(np.prod(z.shape[-2:])), 1)
    lead = leading_sizes(z.chunks[:-2], maps)
    x, z = (data.rechunk((*lead, -1, -1), method="tasks") for data in (x, z))
    return da.map_blocks(
        work, z, x, chunks=z.chunks, dtype=item.job.dtype, meta=np.empty((0,) * z.ndim, item.job.dtype)
    )


def _reorder_like(values: xr.DataArray, ds: xr.Dataset, dims: tuple[str, str]) -> xr.DataArray:
    """Return values in the order of the axes of the fine Dataset, which a comparison may reverse or roll."""
    for dim in dims:
        if dim in values.coords and dim in ds.coords:
            order = values.get_index(dim).get_indexer(ds[dim].values)
            values = values if (order == np.arange(order.size)).all() else reorder(values, dim, order)
    return values


def _with_cells(ds: xr.Dataset, comparison: Nested | Overlapping, names: list[str]) -> xr.Dataset:
    """Return a Dataset with bounds and areas of its cells, those of the comparison if it has none."""
    axes = _own_axes(ds, comparison)
    has_areas = read_areas(ds, axes, names[0], "fine file") is not None
    coordinates = new_coordinates(ds, axes, axes.grid)
    for name, variable in coordinates.items():
        if name in ds.variables and "bounds" in variable.attrs and "bounds" not in ds[name].encoding:
            ds[name].attrs.setdefault("bounds", variable.attrs["bounds"])
    known = {*ds.variables, *((AREA,) if has_areas else ())}
    ds = ds.assign_coords({name: variable for name, variable in coordinates.items() if name not in known})
    for name in () if has_areas else names:
        ds[name].attrs["cell_measures"] = f"area: {AREA}"
    return ds


def _own_axes(ds: xr.Dataset, comparison: Nested | Overlapping) -> Horizontal:
    """Return the axes of the fine Dataset in its own order, with the cells of the comparison."""
    own, grid = horizontal(ds, guess=True), comparison.fine_axes.grid
    own = replace(own, mapping=comparison.fine_axes.mapping)
    if not isinstance(grid, RectilinearGrid) or not isinstance(own.grid, RectilinearGrid):
        return replace(own, grid=grid)
    pairs = zip(own.dims, axes_of(grid), axes_of(own.grid), strict=True)
    y, x = (_in_own_order(dim, axis, own_axis, ds, comparison.fine) for dim, axis, own_axis in pairs)
    return replace(own, grid=grid.with_axes(y, x))


def _in_own_order(dim: str, axis: CellAxis, own: CellAxis, ds: xr.Dataset, compared: xr.Dataset) -> CellAxis:
    """Return the cells of an axis of a comparison in the order of the fine Dataset, on its branch of longitude."""
    if dim not in ds.coords or dim not in compared.coords:
        return axis
    order = compared.get_index(dim).get_indexer(ds[dim].values)
    first, last = axis.edges[order], axis.edges[order + 1]
    if own.ascending != axis.ascending:
        first, last = last, first
    if axis.kind == "longitude":
        turns = FULL_CIRCLE * np.round((own.centres - 0.5 * (first + last)) / FULL_CIRCLE)
        first, last = first + turns, last + turns
    return CellAxis(np.append(first, last[-1]), axis.kind, axis.closed)
