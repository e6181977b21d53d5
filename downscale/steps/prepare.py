"""The plan of horizontal downscaling: grids and jobs from a request and the coordinates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.attributes import references
from downscale.cf.bounds import bounds_variables
from downscale.cf.coordinates import find_lost_coordinates, horizontal_variables
from downscale.cf.evidence import seems_position
from downscale.cf.horizontal import Horizontal, NoAxesError, axes_kind, horizontal, warn_of_plane
from downscale.cf.kinds import direction_reason, is_categorical, without_directions
from downscale.cf.quantities import is_number, quantity_of, require_lapse_rate, variable_bounds
from downscale.deconvolution.psf import pick_psf
from downscale.deconvolution.weights import Instrument
from downscale.engine.job import Job
from downscale.errors import DownscaleError, GridError, InputError, OptionError, ShapeError, listing, spell
from downscale.fields.aggregate import Aggregation
from downscale.io.statics import pick_mask, pick_static, regrid_mask, regrid_static, sampling_note
from downscale.io.target import Target, is_file, open_target, pick_target
from downscale.methods.learned import Model, bind_model, climatology_of, load_method, predictor_names
from downscale.methods.members import draws_of
from downscale.methods.registry import CASCADE, find_method, is_learned
from downscale.nn.cascade import cascade
from downscale.nn.separable import operator
from downscale.request import AUTO, Request, is_auto, require_variables, value_for
from downscale.steps.jobs import job_settings
from downscale.steps.orderings import Orderings, find_orderings, on_fine_grid, require_orderable
from downscale.steps.transforms import pick_power, require_transformable
from downscale.typing import Capabilities, Upscaler

if TYPE_CHECKING:
    from downscale.nn.spec import Event
    from downscale.steps.climatology import Observations

# Key of the noise shared by all outputs of a model.
MODEL_KEY = "model"
# Arguments that may be mappings of variables to values.
BY_VARIABLE = (
    "quantity", "lapse_rate", "relief_smoothing", "transform", "climatology_form", "climatology_quantiles"
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class MapPlan:
    """The plan of horizontal downscaling: grids, jobs and models of a request, from the coordinates alone."""

    request: Request
    axes: Horizontal  # axes of the coarse object
    target: Target
    jobs: dict[str, Job]  # one per variable to downscale
    categorical: tuple[str, ...]
    statics: dict[str, Any] = field(default_factory=dict)  # fine fields that accompany every block
    lapse_rates: dict[str, Any] = field(default_factory=dict)  # by variable: a number, a fine field, "auto" or None
    relief_smoothing: dict[str, float | None] = field(default_factory=dict)  # by variable, in fine cells
    model: Model | None = None  # the learned model, if the method is one
    instrument: Instrument | None = None  # the footprint, if coarse values are averages weighted by one
    notes: tuple[str, ...] = ()  # on static fields and observations
    coordinate_plan: MapPlan | None = None  # plan of the fields among the coordinates
    lost_coordinates: dict[str, str] = field(default_factory=dict)  # coordinates to drop, with the reasons
    observed: dict[str, Observations] = field(default_factory=dict)  # fine observations by variable
    orderings: Orderings = field(default_factory=Orderings)  # which fields bound which variables
    given: dict[tuple[str, str], xr.Variable] = field(default_factory=dict)  # fine bounds by variable and side

    @property
    def fine(self) -> Any:
        """Grid of the result before averaging: fine cells, or pieces of coarse cells."""
        return self.target.fine

    @property
    def event(self) -> Event | None:
        """The event, if the model predicts an event mask instead of a field."""
        return None if self.model is None else self.model.spec.event

    @property
    def factors(self) -> dict[str, int]:
        """Refinement by horizontal dimension."""
        return dict(zip(self.axes.dims, self.target.factors, strict=True))


def plan_maps(ds: xr.Dataset, request: Request) -> MapPlan:
    """Return the plan of a request; raises an error if the request does not fit the object."""
    axes = warn_of_plane(horizontal(ds))
    target, method = _pick_target_and_method(axes, request)
    _require_nested(target, request)
    names = pick_variables(ds, axes, request.data_vars)
    if request.data_vars is None and is_learned(method):
        # Inputs that a model only reads may hold codes or directions.
        names = [name for name in names if name not in predictor_names(method, ds)]
    require_variables("bounds", request.bounds, names)
    codes = tuple(name for name in names if is_categorical(ds[name]))
    if codes and not target.nests:
        raise GridError(
            f"expected a nested target for the codes {listing(codes)}, which have no mean, received one that cuts "
            "cells; name other variables in data_vars, or use factor="
        )
    fields = [name for name in names if name not in codes]
    for option in BY_VARIABLE:
        require_variables(option, getattr(request, option), names)
    orderings = find_orderings(ds, fields, request)
    given = {key: on_fine_grid(ds, key[0], bound, axes, target) for key, bound in orderings.given.items()}
    statics, notes = _read_statics(target.fine, axes, request)
    inputs = {"orog": statics["orog"]} if "orog" in statics else {}
    if request.sftlf is not None and is_learned(method) and "sftlf" in method.spec.statics:
        inputs["sftlf"] = regrid_static(pick_mask(request.sftlf), target.fine, "sftlf", axes)
    if request.climatology is not None and is_learned(method):
        inputs["climatology"] = climatology_of(method.spec, target.fine, axes, request.climatology)
    # The members of ordered variables belong together.
    roots = {name: orderings.root_of(name) for name in fields}
    jobs, model = _build_jobs(ds, fields, axes, target, method, request, inputs, roots)
    for array in () if model is None else model.inputs.values():
        reason = direction_reason(array)
        if reason is not None:
            raise InputError(
                f"expected inputs that have a mean over cells, received the direction {array.name!r} ({reason}); use a "
                "model of components (u, v)"
            )
    rates = _read_lapse_rates(ds, list(jobs), target.fine, axes, request)
    widths = {name: value_for(request.relief_smoothing, name) for name in jobs}
    observed: dict[str, Observations] = {}
    if request.climatology is not None and not is_learned(method):
        from downscale.steps.climatology import observations, with_form

        observed, more = observations(ds, list(jobs), axes, target, request)
        notes += more
        jobs = {name: with_form(job, observed[name]) if name in observed else job for name, job in jobs.items()}
    if orderings.bounded and model is not None and model.spec.event is not None:
        raise OptionError("expected no bounds that are fields with a model of an event, received some; drop them")
    require_orderable({name: job.extensive for name, job in jobs.items()}, orderings, target.nests)
    instrument = None
    if request.footprint is not None:
        instrument = Instrument(pick_psf(request.footprint), target.fine)
        # A footprint that does not fit the cells is refused before any data are read.
        _ = instrument.kernel
    coordinate_plan, lost_coordinates = _plan_coordinates(ds, axes, target, request)
    return MapPlan(
        request, axes, target, jobs, codes, statics, rates, widths, model, instrument, notes, coordinate_plan,
        lost_coordinates, observed, orderings, given,
    )  # fmt: skip


def _build_jobs(
    ds: xr.Dataset, names: list[str], axes: Horizontal, target: Target, method: Any, request: Request,
    inputs: Mapping[str, Any], keys: Mapping[str, str] | None = None,
) -> tuple[dict[str, Job], Model | None]:  # fmt: skip
    """Return the jobs of variables, and the model if the method is one; variables with equal keys share their noise."""
    cells = target.aggregation(axes.grid)
    upscalers, model = _build_upscalers(method, ds, names, axes, target, cells, request, inputs, keys or {})
    refinement = None
    if request.terrain_penalty is not None:
        from downscale.losses.terrain import TerrainRefinement

        refinement = TerrainRefinement(target.fine, cells, request.terrain_penalty)
    if model is not None and model.spec.event is not None:
        request = _drop_conservation(request, model.spec.event, ds)
    pieces = None if target.nests else target.parts
    jobs = {}
    for name in names:
        extensive = (request.quantity_for(name) or quantity_of(ds[name])) == "extensive"
        settings = job_settings(ds[name], name, request, extensive)
        jobs[name] = Job(
            upscaler=upscalers[name], coarse=axes.grid, fine=target.fine, cells=cells, refinement=refinement,
            target=pieces, power=pick_power(ds[name], name, request, target.parts, settings["bounds"][0]), **settings,
        )  # fmt: skip
    require_transformable(request, {name: job.bounds[0] for name, job in jobs.items()})
    return jobs, model


def _build_upscalers(
    method: Any, ds: xr.Dataset, names: list[str], axes: Horizontal, target: Any, cells: Aggregation, request: Any,
    statics: Mapping[str, Any], keys: Mapping[str, str],
) -> tuple[dict[str, Upscaler], Model | None]:  # fmt: skip
    """Return the upsampler of each variable, with its noise if it generates members, and the model if it is learned.

    ``statics`` are the fine orography and land fraction, for models that use them.
    """
    kind = find_method(method).kind
    model = None
    if kind == "learned":
        model = bind_model(method, ds, axes, target, names, statics)
        upscalers = dict(model.upscalers)
    elif kind == "object":
        _require_factor(method, target)
        upscalers = dict.fromkeys(names, method)
    else:
        kernel: Any = "sobolev" if kind == CASCADE else str(method)
        kernel = operator(kernel, axes.grid, target.parts, request.taps, request.map_order)
        upscalers = dict.fromkeys(names, kernel)
        if kind == CASCADE:
            # The cascade depends on the bounds of the variable.
            bounds = {name: variable_bounds(ds[name], name, request.bounds) for name in names}
            upscalers = {name: cascade(kernel, cells, bounds[name], request.smoothing) for name in names}
    # The outputs of a model share their noise, whatever their names.
    keys = keys if model is None else dict.fromkeys(upscalers, MODEL_KEY)
    return {
        name: _add_noise(upscaler, ds[name], axes.dims, request, keys.get(name)) for name, upscaler in upscalers.items()
    }, model


def _require_factor(method: Any, target: Any) -> None:
    """Refuse an upsampler on cells with another factor."""
    if not target.nests:
        raise ShapeError("expected a nested target grid for this method, received one that cuts cells; use factor=")
    factor = method.factor if isinstance(method.factor, tuple) else (method.factor, method.factor)
    if factor != target.factors:
        raise ShapeError(
            f"expected the factor of the method, {method.factor}, received {target.factors}; leave factor out"
        )


def _add_noise(
    upscaler: Upscaler, variable: xr.DataArray, dims: tuple[str, str], request: Any, key: str | None
) -> Upscaler:
    with_noise = Capabilities.of(upscaler).with_noise
    if with_noise is not None:
        return with_noise(draws_of(variable, dims, request.members, request.seed, key))
    if request.members is not None:
        raise OptionError(
            f"expected a method that generates members, received one that makes a single field with members="
            f"{request.members}; use 'cascade' or an ensemble model"
        )
    return upscaler


def _drop_conservation(request: Request, event: Event, ds: xr.Dataset) -> Request:
    """Return the request without conservation and bounds, which do not apply to a mask."""
    if request.conserve == "total" or request.lapse_rate is not None or request.terrain_penalty is not None:
        raise OptionError(
            f"expected no conserve='total', lapse_rate or terrain_penalty with a model of the event {event.name!r}, "
            "received one; a mask is no field, drop it"
        )
    if "extensive" in (request.quantity.values() if isinstance(request.quantity, Mapping) else [request.quantity]):
        raise OptionError(
            f"expected means over cells for a model of the event {event.name!r}, received quantity='extensive'"
        )
    conflicts = [variable for variable in event.names if variable in ds.variables]
    if conflicts:
        raise InputError(f"expected no variable {conflicts[0]!r}, which this model outputs, received one; rename it")
    return replace(request, conserve=None, bounds=None, transform=None, check="skip")


def _pick_target_and_method(axes: Horizontal, request: Request) -> tuple[Target, Any]:
    """Return the fine cells and the method with models loaded, since each may define the other."""
    if not is_learned(request.method):
        return pick_target(axes, request.factor, request.target_grid, request.method), request.method
    if request.factor is None and request.target_grid is None:
        method = load_method(request.method)
        return pick_target(axes, None, None, method), method
    target = pick_target(axes, request.factor, request.target_grid, None)
    return target, load_method(request.method, target.factors)


def _require_nested(target: Target, request: Request) -> None:
    """Refuse options that need whole fine cells if the target cuts cells."""
    if target.nests:
        return
    for name, is_set in (("terrain_penalty", request.terrain_penalty is not None),
                         ("footprint", request.footprint is not None),
                         ("conserve='total'", request.conserve == "total")):  # fmt: skip
        if is_set:
            raise OptionError(f"expected a nested target grid with {name}, received one that cuts cells; use factor=")


def pick_variables(ds: xr.Dataset, axes: Horizontal, data_vars: Any) -> list[str]:
    """Return the names of the requested fields; by default all with both horizontal dimensions."""
    legal = horizontal_variables(ds, axes)
    if data_vars is None:
        if not legal:
            texts = [f"{name!r} ({', '.join(map(str, v.dims))}; {v.dtype})" for name, v in ds.data_vars.items()]
            received = ", ".join(texts) or "no variables"
            raise InputError(
                f"expected a numeric variable with dimensions {listing(axes.dims)}, received {received}; see ncdump -h"
            )
        fields, lines = without_directions(ds, legal, None)
        for line in lines:
            warnings.warn(line, UserWarning, stacklevel=2)
        return fields
    is_sequence = isinstance(data_vars, Iterable) and not isinstance(data_vars, str)
    names = list(data_vars) if is_sequence else [data_vars]
    if not names:
        raise InputError(f"expected variables among {listing(legal)}, received none; leave them out for all")
    for name in names:
        if name not in legal:
            raise InputError(f"expected a variable among {listing(legal)}, received {name!r}")
    return without_directions(ds, names, names)[0]


def _read_lapse_rates(
    ds: xr.Dataset, names: list[str], fine: Any, axes: Horizontal, request: Request
) -> dict[str, Any]:  # fmt: skip
    """Return the lapse rate of each variable: a number, on the fine grid, "auto" or None."""
    rates: dict[str, Any] = {}
    fields: dict[int, Any] = {}
    for name in names:
        rate = value_for(request.lapse_rate, name)
        if isinstance(rate, xr.DataArray):
            if id(rate) not in fields:
                fields[id(rate)] = regrid_static(pick_static(rate), fine, "lapse_rate", axes)
            check = partial(_require_rates, attrs=dict(ds[name].attrs), name=name)
            rate = fields[id(rate)]
            rate = da.map_blocks(check, rate, meta=np.empty((0, 0))) if isinstance(rate, da.Array) else check(rate)
        elif rate is not None and not is_auto(rate):
            if not (is_number(rate) and math.isfinite(rate)):
                raise OptionError(
                    f"expected {spell('lapse_rate')} to be a number, a DataArray (units per metre) or \"{AUTO}\", "
                    f"received {rate!r}"
                )
            require_lapse_rate(rate, ds[name], name)
        rates[name] = rate
    return rates


def _require_rates(rates: np.ndarray, attrs: dict[str, Any], name: str) -> np.ndarray:
    """Return a field of lapse rates of a variable with these attributes; refuse it if the steepest is no such rate."""
    if rates.size:
        steepest = rates.ravel()[np.argmax(np.abs(np.nan_to_num(rates)))]
        require_lapse_rate(float(steepest), xr.DataArray(np.nan, attrs=attrs, name=name), name)
    return rates


def _read_statics(fine: Any, axes: Horizontal, request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the static fine fields, and notes on them."""
    sources, statics = {}, {}
    if request.mask is not None:
        sources["mask"] = pick_mask(request.mask)
        statics["mask"] = regrid_mask(sources["mask"], fine, axes)
    if request.orog is not None:
        sources["orog"] = pick_static(request.orog)
        statics["orog"] = regrid_static(sources["orog"], fine, "orog", axes)
    if axes_kind(axes) == "geographic":
        return statics, ()
    if request.sftlf is not None:
        sources["sftlf"] = pick_mask(request.sftlf)
    notes = (sampling_note(source, axes, name) for name, source in sources.items())
    return statics, tuple(note for note in notes if note is not None)


def _plan_coordinates(
    ds: xr.Dataset, axes: Horizontal, target: Target, request: Request
) -> tuple[MapPlan | None, dict[str, str]]:
    """Return the plan of fields among the coordinates, and those to drop with the reasons.

    Continuous ones are regridded by the kernel with cell conservation, codes and names by repetition.
    """
    names = find_lost_coordinates(ds, axes)
    if not names:
        return None, {}
    # Bounds accompany their coordinate, and cell measures the cells.
    reference_tables = [references(variable, ds.variables) for variable in ds.variables.values()]
    measures = (name for table in reference_tables for name in table.get("cell_measures", ()))
    skipped_names = {*bounds_variables(ds), *measures}
    names = [name for name in names if name not in skipped_names and ds[name].attrs.get("standard_name") != "cell_area"]
    lost_coordinates = {
        name: reason for name in names if (reason := _loss_reason(ds[name], axes, target.nests)) is not None
    }
    codes = tuple(name for name in names if name not in lost_coordinates and is_categorical(ds[name]))
    fields = [name for name in names if name not in lost_coordinates and name not in codes]
    if not fields and not codes:
        return None, lost_coordinates
    method = request.method if find_method(request.method).separable else "sobolev"
    kernel_request = Request(
        method=method, na_thres=request.na_thres, taps=request.taps, order=request.order, device=request.device,
        check=request.check, tolerance=request.tolerance,
    )  # fmt: skip
    jobs = _build_jobs(ds, fields, axes, target, method, kernel_request, {})[0] if fields else {}
    return MapPlan(kernel_request, axes, target, jobs, codes), lost_coordinates


def _loss_reason(variable: xr.DataArray, axes: Horizontal, nests: bool) -> str | None:
    """Return why a coordinate cannot be carried to a new grid, or None if it can."""
    if not set(axes.dims) <= set(variable.dims):
        return "a coordinate along one horizontal axis only"
    if seems_position(variable):
        return "positions beside those of the grid"
    if direction_reason(variable) is not None:
        return "a direction, which has no mean over cells"
    if is_categorical(variable):
        return None if nests else "codes, which have no mean over the cells of a target that does not nest"
    return None if variable.dtype.kind in "fiu" else f"values of type {variable.dtype} have no mean over cells"


@dataclass(frozen=True)
class Step:
    """One axis that is not horizontal, and the factor or the target along it."""

    dim: str
    factor: int | None
    target: Any


def split_request(ds: xr.Dataset, request: Request) -> tuple[tuple[Step, ...], Request | None]:
    """Return the steps along other axes, and the remaining horizontal request (None if there is none)."""
    factor, target = request.factor, request.target_grid
    if factor is None:
        grid = open_target(target) if is_file(target) else target
        if isinstance(grid, (xr.Dataset, xr.DataArray)) and not _has_horizontal(grid):
            return (Step(_find_shared_axis(grid, ds), None, grid),), None
    arguments = {"factor": factor, "target_grid": target}
    mappings = {key: value for key, value in arguments.items() if isinstance(value, Mapping) and not _is_data(value)}
    if not mappings:
        return (), request
    dims = _horizontal_dims(ds)
    legal = [*dims, *(str(dim) for dim in ds.dims if dim in ds.coords and dim not in dims)]
    for key, value in mappings.items():
        unknown = [name for name in value if name not in legal and name not in ds.coords]
        if unknown:
            raise ShapeError(f"expected {spell(key)} for the dimensions {listing(legal)}, received {listing(unknown)}")
    steps: dict[str, Step] = {}
    map_arguments = dict(arguments)
    for key, value in mappings.items():
        axis_values = {str(name): choice for name, choice in value.items() if name not in dims}
        on_map = {name: choice for name, choice in value.items() if name in dims}
        if key == "target_grid" and on_map:
            raise OptionError(
                f"expected a target grid as one object for the horizontal axes, received {listing(on_map)} one by one; "
                "pass a Dataset with both"
            )
        names = [name for name in axis_values if name in steps]
        if names:
            either = f"{spell('factor')} or {spell('target_grid')}"
            raise OptionError(f"expected {either} along {listing(names)}, received both; drop one of them")
        steps.update({n: Step(n, *((w, None) if key == "factor" else (None, w))) for n, w in axis_values.items()})
        map_arguments[key] = on_map or None
    has_maps = map_arguments["factor"] is not None or map_arguments["target_grid"] is not None
    map_request = replace(request, **map_arguments) if has_maps else None
    return tuple(steps.values()), map_request if steps else request


def _is_data(value: Any) -> bool:
    return isinstance(value, xr.Dataset)


def _has_horizontal(obj: xr.Dataset | xr.DataArray) -> bool:
    try:
        horizontal(obj, guess=True)
    except DownscaleError as error:
        # One-dimensional objects have no horizontal axes; other faults are reported later.
        return not isinstance(error, NoAxesError)
    return True


def _horizontal_dims(ds: xr.Dataset) -> tuple[str, ...]:
    return horizontal(ds, guess=True).dims if _has_horizontal(ds) else ()


def _find_shared_axis(target: xr.Dataset | xr.DataArray, ds: xr.Dataset) -> str:
    """Return the one axis that a target without horizontal axes has in common with the field."""
    if set(target.dims) & set(_horizontal_dims(ds)):
        horizontal(target)  # raises the error about its rows and columns, which is more specific
    shared = [str(dim) for dim in target.dims if dim in ds.dims and dim in target.coords]
    if len(shared) != 1:
        raise OptionError(
            f"expected a target with horizontal axes, or with one axis of the field, received {listing(target.dims)}; "
            'name the axis, as in target_grid={"time": target}'
        )
    return shared[0]
