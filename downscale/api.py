"""The functions behind the accessor and the command line: xarray objects in and out, Dask-backed if the input is."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.cf.attributes import AREA
from downscale.cf.bounds import bounds_variables
from downscale.cf.coordinates import area_names, copy_coordinates, new_coordinates
from downscale.cf.horizontal import XarrayObject, as_array, as_dataset
from downscale.cf.kinds import code_reason, direction_reason
from downscale.cf.quantities import bounds_and_reason, quantity_and_reason, rain_reason
from downscale.engine.device import device_name
from downscale.engine.plan import Plan, plan_along_axis, plan_variable
from downscale.errors import OptionError, listing, spell
from downscale.methods.footprint import whole_maps
from downscale.methods.members import DIMENSION, member_coordinate, with_members
from downscale.methods.registry import name_of
from downscale.process.computing import workers
from downscale.request import Request, is_auto, read_request, takes_request
from downscale.steps.axis_downscale import AxisPlan, apply_axis_plan, plan_axis
from downscale.steps.choice import open_method, settle_request
from downscale.steps.history import add_history, describe_request, set_attributes
from downscale.steps.horizontal import (
    event_variables,
    fine_fields,
    fine_variable,
    horizontal_last,
    other_memory,
    remove_dangling_references,
    repeat_codes,
)
from downscale.steps.jobs import fit_chunks
from downscale.steps.orderings import names_only
from downscale.steps.prepare import MapPlan, Step, plan_maps, split_request
from downscale.steps.terrain import SAMPLE_MAPS

if TYPE_CHECKING:
    from downscale.steps.hourly import HourlyPlan

# Static fields of a model that are computed from the orography.
OROGRAPHY_FEATURES = ("orog", "relief", "slope", "aspect")


@takes_request
def downscale(obj: XarrayObject, factor: Any = None, method: Any = "sobolev", **options: Any) -> XarrayObject:
    """Downscale a field and conserve every coarse-cell mean.

    Parameters
    ----------
    obj : Dataset or DataArray
        Coarse fields on latitude and longitude, or on projected x and y in metres. Never modified. A DataArray cannot
        hold the bounds of its axes. On evenly spaced axes its cells are the same without them; a DataArray with uneven
        steps that names bounds is refused. Pass the Dataset and choose with ``data_vars``.
    {arguments}

    Returns
    -------
    Dataset or DataArray
        Same type and data type as ``obj``, lazy if ``obj`` is. New coordinates have bounds, the order and longitude
        convention of the input, and cell areas. Variables without both horizontal dimensions pass through. Missing
        coarse cells stay missing; their neighbours still conserve their means.

    Raises
    ------
    DownscaleError
        A ``ValueError`` with a one-line message, if the request or the coordinates are not usable.
    ConservationError
        If cell conservation fails in a block, when it is computed.

    Notes
    -----
    Cell conservation: ``A y = x``, the average of the fine field over each coarse cell, with true areas and masks,
    equals the coarse value. Training-free methods give identical bits for any chunking.
    """
    return downscale_request(obj, read_request({"factor": factor, "method": method, **options}))


def downscale_request(obj: XarrayObject, request: Request) -> XarrayObject:
    """Return the fine object of a request; see :func:`downscale.downscale`."""
    ds, name = as_dataset(obj)
    fine = _downscale_dataset(ds, settle_request(ds, request).request)
    if name is not None and name not in fine:
        # The flag of an event: its probability is a second variable, which needs a Dataset.
        name = next(str(variable) for variable in fine.data_vars if "flag_values" in fine[variable].attrs)
    if request.output_chunks is not None:
        fine = fine.chunk(request.output_chunks)
    return fine if name is None else as_array(fine, name, obj)


def _downscale_dataset(ds: xr.Dataset, request: Request) -> xr.Dataset:
    """Return the fine Dataset of a request; other axes come first, while maps are small."""
    steps, map_request = split_request(ds, request)
    keep_attrs = request.setting("keep_attrs")
    fine, axis_plans = _downscale_along_axes(
        ds, steps, request if map_request is None else replace(request, quantity=None), map_request is None
    )
    map_plan = None
    if map_request is not None:
        map_plan = plan_maps(fine, map_request)
        coarse, fine = fine, _assemble(fine, map_plan, map_request)
        coordinate_names = [name for name in coarse.coords if name in fine.data_vars]
        fine = set_attributes(fine, coarse, map_plan, keep_attrs).set_coords(coordinate_names)
        fine = remove_dangling_references(fine, coarse)
    elif not keep_attrs:
        for field in fine.data_vars.values():
            field.attrs = {}
    return add_history(fine, describe_request(request, map_plan, [axis_plan.description for axis_plan in axis_plans]))


def _downscale_along_axes(
    ds: xr.Dataset, steps: tuple[Step, ...], request: Request, is_last: bool
) -> tuple[xr.Dataset, list[HourlyPlan | AxisPlan]]:
    """Return a Dataset refined along axes that are not horizontal, and the plans; lazy data stay lazy.

    ``is_last`` is whether no horizontal stage follows.
    """
    axis_plans: list[HourlyPlan | AxisPlan] = []
    for step in steps:
        own = request if is_last and step is steps[-1] else names_only(ds, request)
        days = _downscale_days(ds, step, own, is_last) if isinstance(step.target, str) else None
        if days is not None:
            ds, found = days
            axis_plans += found
            continue
        axis_plan = plan_axis(ds, step.dim, factor=step.factor, target=step.target, request=own)
        ds = apply_axis_plan(ds, axis_plan, own)
        axis_plans.append(axis_plan)
    return ds, axis_plans


def _downscale_days(
    ds: xr.Dataset, step: Step, request: Request, is_last: bool
) -> tuple[xr.Dataset, list[HourlyPlan | AxisPlan]] | None:
    """Return steps within days if some quantity has a daily minimum or maximum, else None."""
    if request.data_vars is not None and not is_last:
        # The maps that follow are those of the names of days.
        return None
    # Most requests do without.
    from downscale.steps.hours_along import downscale_days

    return downscale_days(ds, step.dim, step.target, request)


@takes_request
def plan(obj: XarrayObject, factor: Any = None, method: Any = "sobolev", **options: Any) -> Plan:
    """Return the plan of :func:`downscale.downscale` for these arguments, without reading any data.

    Examples
    --------
    >>> import downscale
    >>> downscale.plan(downscale.sample.open("north_america"), 4).factor
    {'lat': 4, 'lon': 4}
    """
    return plan_request(obj, read_request({"factor": factor, "method": method, **options}))


def plan_request(obj: XarrayObject, request: Request) -> Plan:
    """Return the plan of a request, without reading any data."""
    ds, _ = as_dataset(obj)
    method = name_of(request.method)
    request = open_method(ds, request)
    steps, map_request = split_request(ds, request)
    axis_request = request if map_request is None else replace(request, quantity=None)
    fine, axis_plans = _downscale_along_axes(ds.chunk() if steps else ds, steps, axis_request, map_request is None)
    notes = [note for axis_plan in axis_plans for note in (axis_plan.description, *axis_plan.notes)]
    if map_request is not None:
        return _plan_horizontal(fine, map_request, method, notes)
    plans = {
        name: plan_along_axis(job, fine[name].dims, ds[name].shape, fine[name].data.chunks)
        for name, job in axis_plans[-1].jobs.items()
    }
    divided = {name for axis_plan in axis_plans for name in getattr(axis_plan, "used", ())}
    others = tuple(str(n) for n in ds.data_vars if n not in plans and n not in divided)
    factors = {step.dim: step.factor for step in steps if step.factor is not None}
    device = device_name(request.setting("device"))
    return Plan(method, factors, device, plans, others, workers(), tuple(notes))


def _plan_horizontal(ds: xr.Dataset, request: Request, method: str, notes: list[str]) -> Plan:
    """Return the plan of the horizontal stage."""
    map_plan = plan_maps(ds, request)
    target = map_plan.target
    plans = {}
    for name, job in map_plan.jobs.items():
        array = with_members(horizontal_last(ds[name], map_plan), request.members)
        memory = other_memory(ds[name], job, map_plan)
        # Use Dask arrays only: data of a file opened without chunks are read on access.
        if array.chunks is None:
            chunks = tuple((n,) for n in array.shape)
        else:
            lazy = fit_chunks(array.data, job, memory) if map_plan.instrument is None else whole_maps(array.data)
            chunks = lazy.chunks
        plans[name] = plan_variable(job, tuple(map(str, array.dims)), array.shape, chunks, memory)
    blocks = max((p.blocks for p in plans.values()), default=1)
    others = tuple(str(n) for n in ds.data_vars if n not in map_plan.jobs and n not in map_plan.categorical)
    shape = None if target.axes is None else target.axes.grid.shape
    device = device_name(request.setting("device"))
    notes = [*notes, *_plan_notes(ds, map_plan, request)]
    threads = min(blocks, workers())
    return Plan(method, map_plan.factors, device, plans, others, threads, tuple(notes), shape)


def _plan_notes(ds: xr.Dataset, map_plan: MapPlan, request: Request) -> list[str]:
    """Return the notes of a plan, such as codes, bounds and cut cells."""
    event_note = "no conservation law applies to an event mask"
    notes = [] if map_plan.event is None else [f"{map_plan.event.name}: a flag and its probability; {event_note}"]
    notes += [f"{name} holds codes ({code_reason(ds[name])}): repeated, not averaged" for name in map_plan.categorical]
    for name in map_plan.jobs:
        limits, reason = bounds_and_reason(ds[name])
        if request.bounds == "auto" and limits != (None, None) and map_plan.jobs[name].bounds != (None, None):
            notes.append(f"{name}: bounds {reason}")
        power = map_plan.jobs[name].power
        if power is not None:
            cause = rain_reason(ds[name]) if request.transform_for(name) == "auto" else "as requested"
            off = spell("transform", None)
            notes.append(f"{name}: the kernel acts on x^p with {power}, {cause}; {off} turns this off")
        if map_plan.jobs[name].extensive and request.quantity_for(name) is None:
            notes.append(f"{name}: sums over cells, {quantity_and_reason(ds[name])[1]}")
    if map_plan.coordinate_plan is not None:
        names_by_verb = {"downscaled": map_plan.coordinate_plan.jobs, "repeated": map_plan.coordinate_plan.categorical}
        notes += [
            f"{', '.join(n)}: coordinates that are {verb} with the fields" for verb, n in names_by_verb.items() if n
        ]
    notes += [f"{name}: dropped, {reason}" for name, reason in map_plan.lost_coordinates.items()]
    if not map_plan.target.nests:
        pieces = " x ".join(str(count) for count in map_plan.target.factors)
        notes.append(f"target cells cross coarse cells: these are cut into up to {pieces} pieces, maps are not split")
    for name, rate in map_plan.lapse_rates.items():
        settings = {"lapse_rate": is_auto(rate), "relief_smoothing": map_plan.relief_smoothing[name] is None}
        chosen = " and ".join(setting for setting, is_chosen in settings.items() if is_chosen)
        if rate is not None and chosen:
            notes.append(f"{name}: {chosen} chosen by self-validation, from about {SAMPLE_MAPS} maps, when it is run")
    if map_plan.instrument is not None:
        notes.append(f"footprint {map_plan.instrument.psf}: coarse = A H fine; maps are not split")
    if request.orog is not None and not _uses_orography(map_plan, request):
        notes.append("orog has no effect without lapse_rate, terrain_penalty, or a model that uses it")
    return [*notes, *map_plan.orderings.notes, *map_plan.notes, *map_plan.axes.notes]


def _uses_orography(map_plan: MapPlan, request: Request) -> bool:
    statics = () if map_plan.model is None else map_plan.model.spec.statics
    reads_orography = any(name in OROGRAPHY_FEATURES for name in statics)
    return reads_orography or request.lapse_rate is not None or request.terrain_penalty is not None


def _assemble(ds: xr.Dataset, map_plan: MapPlan, request: Request) -> xr.Dataset:
    axes = map_plan.axes
    dims = set(axes.dims)
    target = map_plan.target
    used_names = _used_names(ds, map_plan)
    stray_names = [str(n) for n, v in ds.data_vars.items() if dims & set(v.dims) and str(n) not in used_names]
    # Directions have their own warning.
    stray_names = [name for name in stray_names if direction_reason(ds[name]) is None]
    if stray_names and request.data_vars is None:
        warnings.warn(f"dropped {', '.join(stray_names)}: not on the new grid", UserWarning, stacklevel=5)
    for dropped, reason in map_plan.lost_coordinates.items():
        warnings.warn(f"dropped {dropped}: {reason}", UserWarning, stacklevel=5)
    variables: dict[Any, Any] = {}
    fields = fine_fields(ds, map_plan)
    for name, variable in ds.data_vars.items():
        if name in map_plan.jobs:
            fine = fields[str(name)]
            variables.update({name: fine} if map_plan.event is None else event_variables(fine, map_plan.model))
        elif name in map_plan.categorical:
            variables[name] = repeat_codes(variable, map_plan)
        elif not dims & set(variable.dims) and name != AREA:
            variables[name] = variable.variable.copy(deep=False)
    if map_plan.coordinate_plan is not None:
        coordinate_plan = map_plan.coordinate_plan
        variables.update(
            {name: fine_variable(ds[name], job, coordinate_plan) for name, job in coordinate_plan.jobs.items()}
        )
        variables.update({name: repeat_codes(ds[name], coordinate_plan) for name in coordinate_plan.categorical})
    members = {} if request.members is None else {DIMENSION: member_coordinate(request.members)}
    if target.grid is None:
        coords = {**copy_coordinates(ds, axes), **new_coordinates(ds, axes, map_plan.fine)}
        # New corners replace those that lost their positions.
        variables = {name: variable for name, variable in variables.items() if name not in coords}
        return xr.Dataset(variables, coords | members)
    return _move_to_target(xr.Dataset(variables, copy_coordinates(ds, axes) | members), map_plan)


def _move_to_target(fine: xr.Dataset, map_plan: MapPlan) -> xr.Dataset:
    """Return a field on the cells of a target grid in the order, names and coordinates of that grid."""
    target, old = map_plan.target, map_plan.axes.dims
    assert target.grid is not None
    assert target.axes is not None
    new = target.axes.dims
    if target.nests:
        for dim, order in zip(old, target.order, strict=True):
            fine = fine if (np.diff(order) == 1).all() else reorder(fine, dim, order)
    conflicts = [name for name in new if name not in old and name in fine.variables]
    if conflicts:
        raise OptionError(f"expected other names than {listing(conflicts)} for the axes of the target; rename them")
    fine = fine.rename_dims({a: b for a, b in zip(old, new, strict=True) if a != b and a in fine.dims})
    axes = new_coordinates(target.grid, target.axes, target.axes.grid)
    for name in (name for name in new if name in target.grid.coords):
        # The exact coordinates of the target, so that arithmetic aligns both fields.
        exact = target.grid[name].variable
        axes[name] = xr.Variable(
            (name,), exact.values, {**axes[name].attrs, **exact.attrs, **_bounds_attribute(axes, name)}
        )
    axes.update({str(n): v.variable for n, v in target.grid.coords.items() if "grid_mapping_name" in v.attrs})
    return fine.assign_coords(axes)


def _bounds_attribute(variables: dict[Any, xr.Variable], name: str) -> dict[str, str]:
    return {key: value for key, value in variables[name].attrs.items() if key == "bounds"}


def reorder(fine: Any, dim: str, order: np.ndarray) -> Any:
    """Return a field with an axis reversed and rolled by slices, which are cheap on lazy data."""
    if order.size > 1 and (order[1] - order[0]) % order.size != 1:
        fine, order = fine.isel({dim: slice(None, None, -1)}), order.size - 1 - order
    return fine.roll({dim: -int(order[0])}, roll_coords=False)


def _used_names(ds: xr.Dataset, map_plan: MapPlan) -> set[str]:
    inputs = () if map_plan.model is None else [str(variable.name) for variable in map_plan.model.inputs.values()]
    grid = {*bounds_variables(ds), *area_names(ds), *map_plan.axes.replaced_names}
    return {*map_plan.jobs, *map_plan.categorical, *grid, *inputs}
