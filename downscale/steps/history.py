"""Attributes, encodings and history of a result."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.cf.attributes import AREA, STALE_ATTRS, as_text, references
from downscale.cf.mapping import mapping_among, mapping_name
from downscale.deconvolution.psf import pick_psf
from downscale.errors import printable
from downscale.io.paths import SOURCES, sources_of
from downscale.methods.registry import find_method, name_of
from downscale.request import Request
from downscale.version import __version__

if TYPE_CHECKING:
    from downscale.steps.prepare import MapPlan

# Encodings of an input that remain valid for the result.
VALID_ENCODING = ("grid_mapping", "cell_measures")
PENALTY_ATTRS = ("base_gradient", "ratio", "weight", "iterations")


def result_encoding(variable: xr.DataArray, ds: xr.Dataset) -> dict[str, Any]:
    """Return the encoding of a variable of ``ds`` that remains valid for its result, and the files of ``ds``."""
    encoding = {key: variable.encoding[key] for key in VALID_ENCODING if key in variable.encoding}
    return {**encoding, SOURCES: sources_of(ds)}


def set_attributes(fine: xr.Dataset, ds: xr.Dataset, map_plan: MapPlan, keep_attrs: bool) -> xr.Dataset:
    """Return a result with its attributes and encodings, set in place."""
    origins = {str(name): name for name in fine.data_vars}
    if map_plan.event is not None:
        origins |= dict.fromkeys(map_plan.event.names, next(iter(map_plan.jobs)))
    tables = (references(variable) for variable in ds.variables.values() if ds.coords)
    terms = {name for table in tables for key, names in table.items() if key != "coordinates" for name in names}
    terms &= set(map(str, ds.coords))
    for name in fine.data_vars:
        origin = origins[str(name)]
        if not keep_attrs and name == origin:
            fine[name].attrs = {}
        if origin in ds.coords and origin not in terms:
            # Auxiliary coordinates give the location; some readers take a coordinate that names itself for a field.
            for key in ("cell_measures", "grid_mapping"):
                fine[name].attrs.pop(key, None)
        elif origin in map_plan.jobs or origin in map_plan.categorical or origin in terms:
            fine[name].attrs["cell_measures"] = f"area: {AREA}"
            mapping = _mapping_name(ds[origin], map_plan)
            fine[name].attrs.pop("grid_mapping", None)
            if mapping is not None:
                fine[name].attrs["grid_mapping"] = mapping
            for stale in STALE_ATTRS:
                fine[name].attrs.pop(stale, None)
    for name in fine.variables:
        keys = ("units", "calendar", "dtype") if name in ds.variables and fine[name].dtype.kind in "mMO" else ()
        if name in ds.variables:
            fine[name].encoding.update({key: ds[name].encoding[key] for key in keys if key in ds[name].encoding})
    for name in (name for name, origin in origins.items() if origin in map_plan.jobs):
        fine[name].encoding[SOURCES] = sources_of(ds)
    # Keep the time dimension unlimited: tools that join files along time need it.
    records = set(ds.encoding.get("unlimited_dims", ())) - set(map_plan.axes.dims)
    fine.encoding["unlimited_dims"] = records & set(map(str, fine.dims))
    fine.attrs = dict(ds.attrs)
    return fine


def add_history(fine: xr.Dataset, settings: str) -> xr.Dataset:
    """Return a result with a new first line of its history, set in place."""
    time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    settings = printable(settings)
    line, history = f"{time} downscale {__version__}: {settings}", as_text(fine.attrs.get("history", ""))
    fine.attrs["history"] = line + (f"\n{history}" if history else "")
    fine.attrs["downscale_version"] = __version__
    fine.attrs["downscale_settings"] = settings
    return fine


def _mapping_name(variable: xr.DataArray, map_plan: MapPlan) -> str | None:
    """Return the grid mapping of a variable of the result: its own, or that of the target grid."""
    return mapping_name(variable) if map_plan.target.grid is None else mapping_among(map_plan.target.grid.coords)


def describe_request(request: Request, map_plan: MapPlan | None, steps: list[str]) -> str:
    """Return the settings of a run in one line, for the history of a file; ``steps`` are those along other axes."""
    method = name_of(request.method)
    settings = list(steps)
    if map_plan is not None:
        target, dims = map_plan.target, map_plan.axes.dims
        cells = None if target.axes is None else "to {} x {} cells".format(*target.axes.grid.shape)
        settings += [cells] if cells else [f"{dim} x{factor}" for dim, factor in zip(dims, target.factors, strict=True)]
    settings.append(f"method={method}")
    if map_plan is not None and (request.members is not None or find_method(request.method).members):
        settings.append(f"members={request.members or 1} seed={request.seed}")
    if request.smoothing is not None:
        settings.append(f"smoothing={request.smoothing:g}")
    if method == "sobolev":
        settings.append(f"taps={request.taps} order={(request.map_order if map_plan else request.line_order):g}")
    powers = {} if map_plan is None else {name: job.power for name, job in map_plan.jobs.items() if job.power}
    if powers:
        settings.append("transform=" + ",".join(f"{name}:{power.exponent:.4g}" for name, power in powers.items()))
    conserves = map_plan is None or map_plan.event is None
    settings.append(f"conserve={request.conserve if conserves else None}")
    if request.footprint is not None:
        settings.append(f"footprint={pick_psf(request.footprint)}")
    if map_plan is not None and map_plan.orderings.bounded:
        settings.append(f"orderings={' '.join(map_plan.orderings.words)}")
    if request.mask is not None:
        settings.append("mask=given")
    if request.na_thres != 1:
        settings.append(f"na_thres={request.na_thres:g}")
    if request.lapse_rate is not None:
        settings.append(f"lapse_rate={_describe_values(request.lapse_rate)}")
    if request.relief_smoothing is not None:
        settings.append(f"relief_smoothing={_describe_values(request.relief_smoothing)}")
    if map_plan is not None:
        settings += [observed.describe(name) for name, observed in map_plan.observed.items()]
    if request.terrain_penalty is not None:
        values = (f"{key}={getattr(request.terrain_penalty, key):g}" for key in PENALTY_ATTRS)
        settings.append(f"terrain_penalty({' '.join(values)})")
    return ", ".join(settings)


def _describe_values(value: Any) -> str:
    """Return a number, or numbers by name, as text.

    Examples
    --------
    >>> _describe_values({"tas": -6.5e-3, "pr": None})
    'tas:-0.0065 pr:none'
    """
    if isinstance(value, Mapping):
        return " ".join(f"{name}:{_describe_values(one)}" for name, one in value.items())
    return "none" if value is None else f"{value:g}" if isinstance(value, (int, float, np.number)) else "field"
