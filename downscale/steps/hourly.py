"""Steps within days from daily fields, whose daily means, minima and maxima are exact."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from downscale.cf.bounds import bounds_variables
from downscale.cf.days import Days, steps_per_day
from downscale.cf.horizontal import XarrayObject, as_array, as_dataset
from downscale.cf.positions import positions_of
from downscale.cf.quantities import units_of
from downscale.cf.units import convert
from downscale.errors import GridError, InputError, listing, pluralise, spell
from downscale.fields.noise import Draws
from downscale.methods.members import DIMENSION, member_coordinate
from downscale.request import Request, require_legal
from downscale.steps.daily import Daily, Settings
from downscale.steps.families import FAMILIES, Found, find_families, names_among
from downscale.steps.history import add_history, result_encoding

# Words of a long name that belong to an extreme of the day.
EXTREMES = re.compile(r"(?i)\b(daily[\s-]*)?(minimum|maximum|min|max)\.?\s+")


@dataclass(frozen=True, eq=False)
class HourlyPlan:
    """The families of a Dataset and their days, known before any data are read.

    It stands among plans along axes; those have ``notes``, and ``jobs``, which are not needed here.
    """

    ds: xr.Dataset
    days: Days
    steps: int
    found: tuple[Found, ...]
    left_out: tuple[str, ...]
    settings: Settings
    notes: tuple[str, ...] = ()
    jobs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """Return the plan in words."""
        return str(self)

    @property
    def used(self) -> set[str]:
        """Return the names of all daily variables that are divided."""
        return {name for one in self.found for name in one.names.values()}

    def __str__(self) -> str:
        minutes = 1440 / self.steps
        step = f"{minutes / 60:g} h" if minutes >= 60 else f"{minutes:g} min"
        gaps = int((~self.days.linked).sum()) - 1
        lines = [f"{pluralise(self.days.starts.size, 'day')} to steps of {step}" + (f", {gaps} gaps" if gaps else "")]
        return ", ".join([*lines, *map(str, self.found)])


def hourly(
    obj: XarrayObject, step: Any = "h", *, climatology: Any = None, members: int | None = None, seed: int = 0,
    data_vars: Any = None, keep_attrs: bool | None = None,
) -> XarrayObject:  # fmt: skip
    """Return hourly (or other) steps of daily fields; the daily mean, minimum and maximum of the steps are exact.

    Variables of one quantity belong together by standard name and cell methods, or by customary names: ``tas`` with
    ``tasmin`` and ``tasmax``, any of which may be absent. Solar radiation is zero at night; rain is intermittent and
    never negative, and snow has its timing; wind speed reaches its daily maximum if that is present; dew point is
    nowhere above temperature; relative humidity follows temperature. Daily amounts are divided, other values are means.

    Parameters
    ----------
    obj : Dataset or DataArray
        Daily fields with any other dimensions and any calendar. Days may be missing: nothing is interpolated across a
        gap. Never modified.
    step : str, number or timedelta, optional
        A divisor of a day, such as "h", "3h", "30min", a number of hours, or a time span.
    climatology : Dataset, DataArray or str, optional
        Observed hours. Temperature: daily cycles of an hourly record (by month), or of a climatology with a dimension
        "hour", and possibly "month", "season" or "dayofyear"; on the same cells, on other ones, or of one place, by the
        clock of ``obj``. It is read at once. By default the cycle follows the sun. Rain: a record of hours or shorter
        steps, whose statistics it has.
    members : int, optional
        Number of ensemble members of precipitation to generate, along the new dimension "realization".
    seed : int, optional
        Random seed of precipitation within days. Results are a function of seed, member, variable, date and cell.
    data_vars : str or sequence of str, optional
        Variables to use; by default all of a known quantity.
    keep_attrs : bool, optional
        Whether attributes are kept, by default the package-wide option.

    Returns
    -------
    Dataset or DataArray
        The variables at steps, of the same data type, lazy if a field is, with the middle of each step as its time,
        and bounds. Variables without time pass through.

    Raises
    ------
    GridError
        If periods are not days, or if latitudes and longitudes are unknown for solar radiation.
    InputError
        If no variable is of a known quantity.
    OptionError
        If the step does not divide a day, or another option is not legal.

    Notes
    -----
    With N steps per day, a minimum and a maximum are both attained only if the mean is at least 1/N of the range from
    each. Otherwise the mean and the limits hold, and the extreme farther from the mean is not attained. Where the mean
    is not between the daily minimum and maximum, all steps equal the mean. Such days are counted in a warning.

    Examples
    --------
    >>> import numpy as np, xarray as xr, downscale
    >>> time = ("time", np.arange("2001-06-01", "2001-06-04", dtype="M8[D]").astype("M8[ns]"))
    >>> values = {"tas": [15.0, 17.0, 16.0], "tasmin": [9.0, 12.0, 11.0], "tasmax": [22.0, 23.0, 20.0]}
    >>> ds = xr.Dataset({name: ("time", days) for name, days in values.items()}, {"time": time})
    >>> fine = downscale.hourly(ds)
    >>> daily = fine.tas.resample(time="D")
    >>> daily.mean().round(6).values, daily.min().values, daily.max().values
    (array([15., 17., 16.]), array([ 9., 12., 11.]), array([22., 23., 20.]))
    """
    ds, name = as_dataset(obj)
    plan = plan_hourly(ds, step, climatology=climatology, members=members, seed=seed, data_vars=data_vars)
    fine = hourly_dataset(plan, Request(keep_attrs=keep_attrs).setting("keep_attrs"))
    return fine if name is None else as_array(fine, plan.found[0].name, obj)


def plan_hourly(
    ds: xr.Dataset, step: Any = "h", *, climatology: Any = None, members: int | None = None, seed: int = 0,
    data_vars: Any = None,
) -> HourlyPlan:  # fmt: skip
    """Return the plan of :func:`hourly` without reading data; refuses invalid requests."""
    require_legal("members", members)
    require_legal("seed", seed)
    steps, days = steps_per_day(step), Days.read(ds)
    Draws(seed, 1 if members is None else members)
    skipped = {*bounds_variables(ds), days.name}
    along = [str(n) for n, v in ds.data_vars.items() if days.dim in v.dims and n not in skipped]
    chosen = names_among(along, data_vars)
    numeric = [name for name in chosen if ds[name].dtype.kind in "fiu"]
    found = find_families(ds, numeric, days.dim)
    if not found:
        raise InputError(
            f"expected a daily variable of {', '.join(family.name for family in FAMILIES)}, received "
            f"{listing(chosen) or 'none'}; set standard_name and cell_methods"
        )
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise InputError(f"expected one variable of each name at steps, received {listing(names)}; choose data_vars")
    for one in found:
        _require_equal_dims(ds, one)
    used = {name for one in found for name in one.names.values()}
    left_out = tuple(name for name in chosen if name not in used)
    return HourlyPlan(ds, days, steps, tuple(found), left_out, Settings(climatology, members, seed))


def _require_equal_dims(ds: xr.Dataset, found: Found) -> None:
    first, *others = found.names.values()
    empty = [str(dim) for dim, size in ds[first].sizes.items() if not size]
    if empty:
        raise InputError(f"expected values of {first!r}, received none along {listing(empty)}; select other cells")
    for name in others:
        if set(ds[name].dims) != set(ds[first].dims):
            raise GridError(
                f"expected {name!r} with the dimensions {listing(ds[first].dims)} of {first!r}, received "
                f"{listing(ds[name].dims)}; select or expand one of them"
            )


def hourly_dataset(plan: HourlyPlan, keep_attrs: bool = True) -> xr.Dataset:
    """Return the Dataset of a plan; lazy data stay lazy."""
    ds, days = plan.ds, plan.days
    positions = positions_of(ds)
    if plan.left_out:
        warnings.warn(
            f"left out {', '.join(plan.left_out)}: daily variables of no known quantity", UserWarning, stacklevel=3
        )
    made: dict[str, dict[str, xr.DataArray]] = {}
    variables: dict[Any, Any] = {}
    for found in plan.found:
        fields = _fields(ds, found, days)
        dims = set(next(iter(fields.values())).dims)
        is_placed = positions is not None and all(set(one.dims) <= dims for one in positions)
        where = positions if is_placed else None
        daily = Daily(found.name, fields, days, plan.steps, where, plan.settings, made, ds)
        steps_by_name = found.family.hours(daily)
        origin = ds[next(iter(found.names.values()))]
        for name, steps in steps_by_name.items():
            order = [dim for dim in origin.dims if dim in steps.dims]
            variable = steps.transpose(*(dim for dim in steps.dims if dim not in order), *order).variable
            variable.attrs = _attributes(origin, steps, days, found) if keep_attrs else {}
            variable.encoding = result_encoding(origin, ds)
            variables[name] = variable
            attributed = steps.assign_attrs(_attributes(origin, steps, days, found))
            made.setdefault(found.family.name, {})[name] = attributed
    if plan.settings.climatology is not None and not plan.settings.used:
        raise InputError(
            f"expected {spell('climatology')} with hours of one variable of the quantity of {listing(variables)}, "
            "received none; pass hourly values of it, with standard_name or units"
        )
    for key, static in ds.data_vars.items():
        if days.dim not in static.dims:
            variables.setdefault(key, static.variable.copy(deep=False))
    coordinates = days.step_coordinates(ds, plan.steps)
    kept = (key for key, coord in ds.coords.items() if days.dim not in coord.dims and key not in coordinates)
    coords = {key: ds[key].variable.copy(deep=False) for key in kept}
    if plan.settings.members and any(DIMENSION in variable.dims for variable in variables.values()):
        coords.setdefault(DIMENSION, member_coordinate(plan.settings.members))
    variables = {key: variable for key, variable in variables.items() if key not in coordinates}
    result = xr.Dataset(variables, {**coords, **coordinates}, dict(ds.attrs) if keep_attrs else {})
    result.encoding = {key: value for key, value in ds.encoding.items() if key in ("unlimited_dims", "source")}
    if "frequency" in result.attrs:
        hours = 24 / plan.steps
        result.attrs["frequency"] = f"{hours:g}hr" if hours >= 1 else "subhr"
    return add_history(result, str(plan))


def _fields(ds: xr.Dataset, found: Found, days: Days) -> dict[str, xr.DataArray]:
    """Return the daily fields by role, time first, in the units of the first one, without coordinates."""
    first = ds[next(iter(found.names.values()))]
    dims = [days.dim, *(dim for dim in first.dims if dim != days.dim)]
    fields = {}
    for role, name in found.names.items():
        field = ds[name].transpose(*dims)
        factor, offset = _scale(units_of(field), units_of(first), name, str(first.name))
        if (factor, offset) != (1.0, 0.0):
            field = (field.astype("f8") * factor + offset).assign_attrs(field.attrs)
        fields[role] = field.drop_vars(list(field.coords))
    return fields


def _scale(units: str | None, wanted: str | None, name: str, first: str) -> tuple[float, float]:
    if units is None or wanted is None or units == wanted:
        return 1.0, 0.0
    zero, one = convert(0.0, units, wanted), convert(1.0, units, wanted)
    if zero is None or one is None:
        raise InputError(f"expected {name!r} in units that fit {wanted!r} of {first!r}, received {units!r}; convert it")
    return one - zero, zero


def _attributes(origin: xr.DataArray, steps: xr.DataArray, days: Days, found: Found) -> dict[str, Any]:
    """Return the attributes of means over steps; a function of a family may set its own, which have precedence."""
    attrs = dict(origin.attrs)
    if "mean" not in found.names:
        attrs.pop("comment", None)
        if "long_name" in attrs:
            attrs["long_name"] = EXTREMES.sub("", str(attrs["long_name"]))
    method = re.compile(rf"\b(?:{re.escape(days.name)}|{re.escape(days.dim)}|time):\s*(\w+(\s+(within|over)\s+\w+)?)")
    methods = method.sub("", re.sub(r"\([^)]*\)", "", str(attrs.get("cell_methods", "")))).strip()
    if "area:" in methods and not re.search(r":\s*[A-Za-z_]+\b(?!:)", methods):
        # "area: time: mean" gives one method for both.
        methods = "area: mean"
    attrs["cell_methods"] = " ".join(filter(None, [" ".join(methods.split()), f"{days.name}: mean"]))
    return attrs | steps.attrs
