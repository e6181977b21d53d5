"""Self-validation: prediction of the coarse field from its own coarsening.

Without fine reference data, the setting that works best one scale coarser is the best available evidence. It is an
indication, not a proof, since orography and weather differ between scales.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from downscale.api import downscale, downscale_request
from downscale.cf.coordinates import new_coordinates, select
from downscale.cf.horizontal import horizontal
from downscale.methods.registry import is_learned, name_of
from downscale.request import Request
from downscale.steps.choice import settle_request
from downscale.steps.coarsen import cell_area, coarsen
from downscale.steps.prepare import MapPlan, plan_maps
from downscale.steps.terrain import LEAST_CELLS, crop, refinement, sample_maps


def self_validation(ds: xr.Dataset, request: Request) -> dict[str, dict[str, float]]:
    """Return, for each variable, the errors of predicting the coarse field from its own coarsening.

    Parameters
    ----------
    ds : Dataset
        The coarse field.
    request : Request
        The request to validate.

    Returns
    -------
    dict
        Area-weighted RMSE by method: "blocks", "bilinear", the method itself, the method "with terrain" if a lapse rate
        is given, and "without transform" if a variable has one; empty if the field is too small.
    """
    request = settle_request(ds, request).request
    map_plan = plan_maps(ds, request)
    if not map_plan.target.nests:
        return {}
    names = list(map_plan.jobs)
    factors = map_plan.factors
    truth = crop(sample_maps(select(ds, names), map_plan.axes).load(), factors)
    if any(truth.sizes[dim] // factor < LEAST_CELLS for dim, factor in factors.items()):
        return {}
    coarse = coarsen(truth, factors)
    shared_options = {"check": "skip", "conserve": request.conserve, "bounds": request.bounds}
    # Another upsampler is specific to this grid, not to the next coarser one.
    method: Any = request.method if isinstance(request.method, str) or is_learned(request.method) else "sobolev"
    label = name_of(method)
    runs: dict[str, dict[str, Any]] = {
        "blocks": {"method": "conservative", **shared_options},
        "bilinear": {"method": "bilinear", "conserve": None, "bounds": None},
        label: {"method": method, **shared_options},
    }
    if any(job.power is not None for job in map_plan.jobs.values()):
        runs[label]["transform"] = request.transform
        runs[f"{label} without transform"] = {"method": method, **shared_options, "transform": None}
    model = map_plan.model
    if model is not None:
        runs["sobolev"] = {"method": "sobolev", **shared_options}
        if "sftlf" in model.spec.statics:
            del runs[label]
        elif model.statics:
            runs[label]["orog"] = _coarse_orography(truth, map_plan)
    if label in runs and any(rate is not None for rate in map_plan.lapse_rates.values()):
        # The same length of smoothing, in coarse cells.
        widths = {name: (width or 0.0) / refinement(map_plan) for name, width in map_plan.relief_smoothing.items()}
        runs[f"{label} with terrain"] = {
            **runs[label], "orog": _coarse_orography(truth, map_plan), "lapse_rate": request.lapse_rate,
            "relief_smoothing": widths,
        }  # fmt: skip
    errors: dict[str, dict[str, float]] = {name: {} for name in names}
    area = cell_area(truth)
    for label, options in runs.items():
        prediction = downscale(coarse, factors, **options)
        for name in names:
            errors[name][label] = weighted_rmse(prediction[name], truth[name], area)
    return errors


def _coarse_orography(truth: xr.Dataset, map_plan: MapPlan) -> xr.Dataset:
    """Return the fine orography averaged over the coarse cells of ``truth``, with their bounds."""
    axes = horizontal(truth)
    cells = next(iter(map_plan.jobs.values())).cells
    values = cells.mean(np.asarray(map_plan.statics["orog"]))[: axes.grid.shape[0], : axes.grid.shape[1]]
    return xr.Dataset({"orog": (axes.dims, values)}, new_coordinates(truth, axes, axes.grid))


def weighted_rmse(prediction: xr.DataArray, truth: xr.DataArray, area: xr.DataArray) -> float:
    """Return the area-weighted root-mean-square difference over all maps, without missing cells."""
    error = (prediction - truth.assign_coords({d: prediction[d] for d in area.dims})).astype("f8")
    weights = area.drop_vars(list(area.coords)).where(error.notnull().drop_vars(list(error.coords)))
    return float(np.sqrt((error.drop_vars(list(error.coords)) ** 2 * weights).sum() / weights.sum()))


def terrain_penalty_values(ds: xr.Dataset, request: Request) -> dict[str, dict[str, float]]:
    """Return the terrain-gradient penalty of a sample of maps before and after refinement, by variable."""
    if request.terrain_penalty is None:
        return {}
    map_plan = plan_maps(ds, request)
    maps = sample_maps(select(ds, list(map_plan.jobs)), map_plan.axes).load()
    before = downscale_request(maps, replace(request, terrain_penalty=None))
    after = downscale_request(maps, request)
    return {
        name: {"before": _penalty(before[name], map_plan, request), "after": _penalty(after[name], map_plan, request)}
        for name in map_plan.jobs
    }


def _penalty(field: xr.DataArray, map_plan: Any, request: Request) -> float:
    """Return the mean of the penalty over maps, (units per metre) squared."""
    import torch

    from downscale.fields.gradient import Spacing
    from downscale.losses.terrain import terrain_gradient_penalty

    spacing = Spacing.of(map_plan.fine)
    values = torch.from_numpy(field.transpose(..., *map_plan.axes.dims).values.astype(np.float64))
    orog = map_plan.statics.get("orog")
    orography = None if orog is None else torch.from_numpy(np.asarray(orog, dtype=np.float64))
    assert request.terrain_penalty is not None
    allowed_slope = request.terrain_penalty.allowed(orography, values, spacing)
    area = torch.from_numpy(map_plan.fine.cell_area)
    mask = torch.isfinite(values)
    penalty = terrain_gradient_penalty(values, spacing, allowed_slope, area, None if bool(mask.all()) else mask)
    return float(penalty.mean())
