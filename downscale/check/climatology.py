"""Validation of a climatology: prediction of parts of the observations that it does not contain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.engine.apply import compute_maps
from downscale.engine.job import Job
from downscale.request import Request
from downscale.steps.climatology import Observations
from downscale.steps.detail import PIECE, estimate, on_fine
from downscale.steps.jobs import kernel_alone
from downscale.steps.prepare import MapPlan, plan_maps

# A climatology that lowers the error by less than this changes nothing worth the observations.
SLIGHT = 0.005
# Turns in which parts of a record are left out, and the maps that are predicted in each.
FOLDS, MOST_MAPS = 5, 24

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


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


# Prediction of parts left out.


def left_out_errors(observed: Observations, job: Job, mask: Any = None) -> tuple[float, float] | None:
    """Return the RMSE of the kernel, and with the climatology, on maps of parts of a record that it does not contain.

    Parts are left out in turns, and some of their maps are predicted; None without several independent parts.
    """
    parts = observed.parts
    if parts is None or np.unique(parts).size < 2 or not observed.wanted.size:
        return None
    observed = observed.in_memory(PIECE)
    numbers = np.searchsorted(np.unique(parts), parts)
    folds = min(FOLDS, int(numbers.max()) + 1)
    valid = None if mask is None else np.asarray(mask) > 0.5
    weights, squares = 0.0, np.zeros(2)
    for fold in range(folds):
        is_out = numbers % folds == fold
        own = np.flatnonzero(is_out & np.isin(observed.label, observed.wanted))
        if not own.size:
            continue
        own = own[np.unique(np.linspace(0, own.size - 1, MOST_MAPS).round().astype(int))]
        others = _subset(observed, ~is_out, observed.label[own])
        if not others.wanted.size:
            continue
        truth = on_fine(observed, np.concatenate([observed.read(int(i), int(i) + 1) for i in own]), valid)
        area = np.where(np.isfinite(truth), job.fine.cell_area, 0.0)
        statics = {} if mask is None else {"mask": np.asarray(mask, np.float64)}
        for k, guess in enumerate(_guesses(truth, others, job, mask, statics)):
            misses = np.where(area > 0, guess - truth, 0.0)
            squares[k] += float(np.nansum(area * misses**2))
        weights += float(area.sum())
    plain, better = np.sqrt(squares / weights) if weights else (np.nan, np.nan)
    return float(plain), float(better)


def _guesses(
    truth: Floats, others: Observations, job: Job, mask: Any, statics: dict[str, Floats]
) -> Iterator[Floats]:  # fmt: skip
    """Yield fine maps predicted from the cell means of some maps: by the kernel, and with other observations."""
    coarse = job.cells.mean_of_finite(truth)
    own = replace(kernel_alone(job), conserve=job.conserve, bounds=job.bounds, power=job.power)
    yield compute_maps(coarse, own, statics)
    table, _ = estimate(others, job, mask)
    yield compute_maps(coarse, own, {**statics, "detail": table}, others.index)


def _subset(observed: Observations, chosen: NDArray[np.bool_], which: Whole) -> Observations:
    """Return some of the observations, for maps with the labels ``which``."""
    assert observed.parts is not None
    index = np.flatnonzero(chosen)
    return replace(
        observed, maps=observed.maps[index], label=observed.label[index], parts=observed.parts[index], which=which
    )
