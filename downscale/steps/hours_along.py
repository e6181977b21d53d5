"""Hours of days along time: quantities with a daily minimum or maximum keep them; other variables follow the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import xarray as xr

from downscale.cf.bounds import bounds_variables
from downscale.cf.days import Days, steps_per_day
from downscale.errors import GridError, OptionError
from downscale.request import Request
from downscale.steps.axis_downscale import AxisPlan, apply_axis_plan, plan_axis
from downscale.steps.families import find_families
from downscale.steps.hourly import HourlyPlan, hourly_dataset, plan_hourly


def downscale_days(
    ds: xr.Dataset, dim: str, step: Any, request: Request
) -> tuple[xr.Dataset, list[HourlyPlan | AxisPlan]] | None:
    """Return steps within days and the plans, or None if no quantity has a daily minimum or maximum.

    It is also None for steps that do not divide a day, fields that are not daily, another method or conservation than
    the default, and bounds of single variables.
    """
    if request.method != "sobolev" or request.conserve != "cell" or isinstance(request.bounds, Mapping):
        return None
    try:
        steps_per_day(step)
        days = Days.read(ds)
    except (OptionError, GridError):
        return None
    if dim not in (days.dim, days.name):
        return None
    skipped = {*bounds_variables(ds), days.name}
    along = [str(n) for n, v in ds.data_vars.items() if days.dim in v.dims and n not in skipped]
    wanted = [request.data_vars] if isinstance(request.data_vars, str) else request.data_vars
    chosen = [name for name in along if ds[name].dtype.kind in "fiu" and (wanted is None or name in wanted)]
    found = find_families(ds, chosen, days.dim)
    used = [name for one in found if {"minimum", "maximum"} & set(one.names) for name in one.names.values()]
    if not used:
        return None
    plan = plan_hourly(ds.drop_vars([name for name in along if name not in used]), step)
    hours = hourly_dataset(plan)
    rest = [name for name in chosen if name not in used]
    if not rest:
        hours.attrs = dict(ds.attrs)
        return hours, [plan]
    own = replace(request, data_vars=None if wanted is None else rest)
    others = ds.drop_vars(used)
    axis_plan = plan_axis(others, dim, target=hours, request=own)
    fine = apply_axis_plan(others, axis_plan, own)
    for one in plan.found:
        fine[one.name] = hours[one.name].variable
    return fine, [plan, axis_plan]
