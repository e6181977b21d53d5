"""Validation of a climatology: prediction of parts of the observations that it does not contain."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import xarray as xr

from downscale.request import Request
from downscale.steps.climatology import Observations, estimate, left_out_errors
from downscale.steps.prepare import MapPlan, plan_maps

# A climatology that lowers the error by less than this changes nothing worth the observations.
SLIGHT = 0.005


def climatology_validation(ds: xr.Dataset, request: Request) -> dict[str, dict[str, Any]]:
    """Return, for each variable with observations, what they are expected to gain.

    Parts of the observations, such as years, are left out in turn. Their maps are averaged over coarse cells and
    predicted with and without the climatology of the other parts.

    Parameters
    ----------
    ds : Dataset
        The coarse field.
    request : Request
        The request to validate, with ``climatology``.

    Returns
    -------
    dict
        By variable: the area-weighted RMSE of the "kernel" and "with climatology" on parts left out (None without
        independent parts), their "verdict" in words, and the "labels" with samples, weights and sizes of the detail.
        Empty without a climatology.
    """
    if request.climatology is None:
        return {}
    map_plan = plan_maps(ds, request)
    return {name: _validate(observed, name, map_plan) for name, observed in map_plan.observed.items()}


def _validate(observed: Observations, name: str, map_plan: MapPlan) -> dict[str, Any]:
    job, mask = map_plan.jobs[name], map_plan.statics.get("mask")
    _, summaries = estimate(observed, job, mask)
    errors = left_out_errors(observed, job, mask)
    plain, better = (None, None) if errors is None else errors
    return {
        "kernel": plain,
        "with climatology": better,
        "verdict": _verdict(plain, better),
        "labels": [asdict(summary) for summary in summaries],
    }


def _verdict(plain: float | None, better: float | None) -> str:
    """Return the expected gain in words.

    Examples
    --------
    >>> _verdict(1.0, 0.8), _verdict(1.0, 1.1), _verdict(None, None)
    ('expected to lower the RMSE by 20 %', 'expected to raise the RMSE by 10 %: leave it out', 'not validated: the \
observations are no record of several independent parts')
    """
    if plain is None or better is None:
        return "not validated: the observations are no record of several independent parts"
    change = 0.0 if plain == 0 else better / plain - 1
    if change > SLIGHT:
        return f"expected to raise the RMSE by {100 * change:.2g} %: leave it out"
    if change > -SLIGHT:
        return "expected to change the RMSE by less than 0.5 %"
    return f"expected to lower the RMSE by {-100 * change:.2g} %"
