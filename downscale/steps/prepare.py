"""Preparation of grids and jobs from a request and the coordinates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.horizontal import Horizontal, axes_kind, horizontal, horizontal_variables, warn_of_plane
from downscale.cf.kinds import direction_reason, is_categorical, without_directions
from downscale.cf.quantities import is_number, is_sign_unknown, quantity_of, require_lapse_rate, variable_bounds
from downscale.conservation.measures import default_tolerance
from downscale.deconvolution.psf import pick_psf
from downscale.deconvolution.weights import Instrument
from downscale.engine.job import Job
from downscale.errors import GridError, InputError, OptionError, listing
from downscale.fields.aggregate import Aggregation
from downscale.io.statics import brought_over, mask_on_grid, on_grid, pick_mask, pick_static
from downscale.io.target import Target, pick_target
from downscale.methods.learned import (
    Model,
    event_names,
    is_learned,
    looked_at,
    opened,
)
from downscale.methods.registry import Setting, build_upscalers
from downscale.request import Request
from downscale.typing import Upscaler


@dataclass(frozen=True, eq=False)
class Prepared:
    """Grids, jobs and models, prepared from the coordinates before any data are read."""

    where: Horizontal  # axes of the coarse object
    target: Target
    jobs: dict[str, Job]  # one per variable to downscale
    categorical: tuple[str, ...]
    statics: dict[str, Any] = field(default_factory=dict)  # fine fields that accompany every block
    lapse_rate: Any = None
    model: Model | None = None  # the learned model, if the method is one
    instrument: Instrument | None = None  # the footprint, if coarse values are averages weighted by one
    notes: tuple[str, ...] = ()  # on companion variables

    @property
    def fine(self) -> Any:
        """Grid of the result before averaging: fine cells, or pieces of coarse cells."""
        return self.target.fine

    @property
    def learned(self) -> Any:
        """The learned model in memory, if the method is one."""
        return None if self.model is None else self.model.learned

    @property
    def event(self) -> Any:
        """The event, if the model predicts an event mask instead of a field."""
        return None if self.model is None else self.model.spec.event

    @property
    def factors(self) -> tuple[int, int]:
        """Refinement of rows and columns."""
        return self.target.factors


def prepare(ds: xr.Dataset, request: Request) -> Prepared:
    """Return grids and jobs; raises an error if the request does not fit the object."""
    where = warn_of_plane(horizontal(ds))
    target, method = _target_and_method(where, request)
    _require_nested(target, request)
    names = pick_variables(ds, where, request.data_vars)
    if request.data_vars is None and is_learned(method):
        # Inputs that a model only reads may hold codes or directions.
        names = [name for name in names if name not in looked_at(method, ds)]
    _require_named("bounds", request.bounds, names)
    codes = tuple(name for name in names if is_categorical(ds[name]))
    if codes and not target.nests:
        raise GridError(
            f"expected a nested target for the codes {listing(codes)}, which have no mean, received one that cuts "
            "cells; name other variables in data_vars, or use factor="
        )
    fields = [name for name in names if name not in codes]
    _require_named("quantity", request.quantity, names)
    cells = target.aggregation(where.grid)
    upscalers, model = build_upscalers(method, Setting(ds, fields, where, target, cells, request))
    for array in () if model is None else model.inputs.values():
        reason = direction_reason(array)
        if reason is not None:
            raise InputError(
                f"expected inputs that have a mean over cells, received the direction {array.name!r} ({reason}); use a "
                "model of components (u, v)"
            )
    refinement = None
    if request.terrain_penalty is not None:
        from downscale.losses.terrain import TerrainRefinement

        refinement = TerrainRefinement(target.fine, cells, request.terrain_penalty)
    if model is not None and model.spec.event is not None:
        request = _lawless(request, model.spec.event.name, ds)
    jobs = {name: _job(ds[name], name, where, target, upscalers[name], cells, refinement, request) for name in fields}
    statics, rate = _statics(target.fine, where, request)
    for name in jobs if is_number(rate) else ():
        require_lapse_rate(rate, ds[name], name)
    instrument, notes = _instrument(target, request), _companion_notes(where, request)
    return Prepared(where, target, jobs, codes, statics, rate, model, instrument, notes)


def _companion_notes(where: Horizontal, request: Request) -> tuple[str, ...]:
    if axes_kind(where) == "geographic":
        return ()
    arguments = {"orog": request.orog, "mask": request.mask, "sftlf": request.sftlf}
    pick = {"orog": pick_static}
    statics = {name: pick.get(name, pick_mask)(value) for name, value in arguments.items() if value is not None}
    notes = (brought_over(static, where, name) for name, static in statics.items())
    return tuple(note for note in notes if note is not None)


def _require_named(option: str, given: Any, names: list[str]) -> None:
    """Raise an OptionError if a per-variable option names a variable that is not downscaled."""
    unknown = [key for key in given if key not in names] if isinstance(given, Mapping) else []
    if unknown:
        raise OptionError(f"expected {option} of variables among {listing(names)}, received {listing(unknown)}")


def _lawless(request: Request, name: str, ds: xr.Dataset) -> Request:
    """Return the request without conservation and bounds, which do not apply to a mask."""
    if request.conserve == "total" or request.lapse_rate is not None or request.terrain_penalty is not None:
        raise OptionError(
            f"expected no conserve='total', lapse_rate or terrain_penalty with a model of the event {name!r}, received "
            "one; a mask is no field, drop it"
        )
    if "extensive" in (request.quantity.values() if isinstance(request.quantity, Mapping) else [request.quantity]):
        raise OptionError(f"expected means over cells for a model of the event {name!r}, received quantity='extensive'")
    conflicts = [variable for variable in event_names(name) if variable in ds.variables]
    if conflicts:
        raise InputError(f"expected no variable {conflicts[0]!r}, which this model outputs, received one; rename it")
    return replace(request, conserve=None, bounds=None, check="skip")


def _instrument(target: Target, request: Request) -> Instrument | None:
    if request.footprint is None:
        return None
    instrument = Instrument(pick_psf(request.footprint), target.fine)
    # A footprint that does not fit the cells is refused before any data are read.
    instrument.kernel  # noqa: B018
    return instrument


def _target_and_method(where: Horizontal, request: Request) -> tuple[Target, Any]:
    """Return the fine cells and the method with models loaded, since each may define the other."""
    if not is_learned(request.method):
        return pick_target(where, request.factor, request.target_grid, request.method), request.method
    if request.factor is None and request.target_grid is None:
        method = opened(request.method)
        return pick_target(where, None, None, method), method
    target = pick_target(where, request.factor, request.target_grid, None)
    return target, opened(request.method, target.factors)


def _require_nested(target: Target, request: Request) -> None:
    """Refuse options that need whole fine cells if the target cuts cells."""
    if target.nests:
        return
    for name, is_set in (("terrain_penalty", request.terrain_penalty is not None),
                         ("footprint", request.footprint is not None),
                         ("conserve='total'", request.conserve == "total")):  # fmt: skip
        if is_set:
            raise OptionError(f"expected a nested target grid with {name}, received one that cuts cells; use factor=")


def _job(
    variable: xr.DataArray,
    name: str,
    where: Horizontal,
    target: Target,
    upscaler: Upscaler,
    cells: Aggregation,
    refinement: Any,
    request: Request,
) -> Job:
    extensive = (request.quantity_for(name) or quantity_of(variable)) == "extensive"
    return Job(
        upscaler=upscaler,
        coarse=where.grid,
        fine=target.fine,
        cells=cells,
        refinement=refinement,
        target=None if target.nests else target.parts,
        **job_settings(variable, name, request, extensive),
    )


def companion_jobs(ds: xr.Dataset, names: tuple[str, ...], prepared: Prepared, request: Request) -> dict[str, Job]:
    """Return jobs for fields that are regridded with others to the same cells, by a kernel."""
    if not names:
        return {}
    where, target = prepared.where, prepared.target
    cells = target.aggregation(where.grid)
    upscalers, _ = build_upscalers(request.method, Setting(ds, list(names), where, target, cells, request))
    return {name: _job(ds[name], name, where, target, upscalers[name], cells, None, request) for name in names}


def job_settings(variable: xr.DataArray, name: str, request: Request, extensive: bool) -> dict[str, Any]:
    """Return the settings of a job that depend only on the variable and the request, not on the axes."""
    dtype = result_type(variable.dtype)
    bounds = variable_bounds(variable, name, request.bounds) if request.conserve == "cell" else (None, None)
    if extensive and request.bounds == "auto":
        bounds = (0.0 if bounds[0] == 0 else None, None)
    if extensive and not set(bounds) <= {None, 0.0}:
        # The sum over a small part may be anything up to that of the whole; only the sign is common to both.
        raise OptionError(f"{name}: expected bounds of 0 or none for sums over cells, received {bounds}; drop them")
    tolerance = request.setting("tolerance")
    return {
        "name": name,
        "dtype": dtype,
        "tolerance": default_tolerance(dtype) if tolerance is None else float(tolerance),
        # Global conservation is imposed on whole maps after the blocks; along one axis it follows from cell
        # conservation.
        "conserve": "cell" if request.conserve == "cell" else None,
        "bounds": bounds,
        "strict_bounds": request.bounds != "auto",
        "extensive": extensive,
        "check": request.setting("check"),
        "device": request.setting("device"),
        "na_thres": request.na_thres,
        "tell_negative": is_sign_unknown(variable, name, request.bounds),
    }


def result_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the floating type that holds a coarse type: float32 for up to two bytes, else float64.

    Examples
    --------
    >>> result_type(np.dtype("int16"))
    dtype('float32')
    """
    if dtype.kind == "f" and dtype.itemsize in (4, 8):
        return np.dtype(f"f{dtype.itemsize}")
    return np.dtype("f4") if dtype.itemsize <= 2 else np.dtype("f8")


def pick_variables(ds: xr.Dataset, where: Horizontal, wanted: Any) -> list[str]:
    """Return the names of the requested fields; by default all with both horizontal dimensions."""
    legal = horizontal_variables(ds, where)
    if wanted is None:
        if not legal:
            has = ", ".join(f"{name!r} ({', '.join(map(str, v.dims))}; {v.dtype})" for name, v in ds.data_vars.items())
            raise InputError(
                f"expected a numeric variable with dimensions {listing(where.dims)}, received {has or 'no variables'}; "
                "see ncdump -h"
            )
        fields, lines = without_directions(ds, legal, None)
        for line in lines:
            warnings.warn(line, UserWarning, stacklevel=2)
        return fields
    wanted = [wanted] if isinstance(wanted, str) else list(wanted) if isinstance(wanted, Iterable) else [wanted]
    if not wanted:
        raise InputError(f"expected variables among {listing(legal)}, received none; leave them out for all")
    for name in wanted:
        if name not in legal:
            raise InputError(f"expected a variable among {listing(legal)}, received {name!r}")
    return without_directions(ds, wanted, wanted)[0]


def _statics(fine: Any, where: Horizontal, request: Request) -> tuple[dict[str, Any], Any]:
    """Return the static fine fields of the blocks, and the lapse rate as a number or on the fine grid."""
    statics = {} if request.mask is None else {"mask": mask_on_grid(pick_mask(request.mask), fine, where)}
    if request.orog is None:
        return statics, None
    statics["orog"] = on_grid(pick_static(request.orog), fine, "orog", where)
    rate = request.lapse_rate
    if rate is None or (is_number(rate) and math.isfinite(rate)):
        return statics, rate
    if isinstance(rate, xr.DataArray):
        return statics, on_grid(pick_static(rate), fine, "lapse_rate", where)
    raise OptionError(f"expected lapse_rate to be a number or a DataArray (units per metre), received {rate!r}")
