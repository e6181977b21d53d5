"""Records of models and observations, opened lazily and brought to common variables, units, periods and cells.

Every choice is returned as a note for the plan and the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.coordinates import select
from downscale.cf.horizontal import Horizontal, horizontal
from downscale.cf.quantities import cell_methods, same_quantity, standard_name_of, units_of
from downscale.cf.times import calendar_of, cmip_frequency, time_name
from downscale.cf.units import convert, fits
from downscale.errors import GridError, InputError, listing
from downscale.projections.families import from_adjustable
from downscale.projections.recipe import HISTORICAL, Periods
from downscale.projections.years import Years, in_years, span_of, words_of, years_of
from downscale.steps.prepare import pick_variables

# A shorter record does not contain the seasons.
FEWEST_DAYS = 350
# Mass per area of 1 kg m-2 of water is a depth of 1 mm.
WATER_DENSITY = 1000.0
WATER = ("kg m-2", "m"), ("kg m-2 s-1", "m s-1")


@dataclass(frozen=True)
class ModelRecords:
    """The records of one model on its coarse cells, and the observations on the fine ones, with the same variables.

    ``observed`` contains the years of ``reference`` and ``validation``; ``experiments`` those of the model by
    experiment, historical first.
    """

    model: str
    observed: xr.Dataset
    experiments: dict[str, xr.Dataset]
    names: list[str]
    reference: Years
    validation: Years | None
    notes: tuple[str, ...]

    @property
    def historical(self) -> xr.Dataset:
        """The historical experiment."""
        return self.experiments[HISTORICAL]


def align_records(
    model: str, experiments: Mapping[str, xr.Dataset], observed: xr.Dataset, names: Sequence[str] | None,
    periods: Periods, *, crop: bool = True,
) -> ModelRecords:  # fmt: skip
    """Return the records of a model and the observations with common variables, units and periods.

    Units are those of the observations; the calendar of each record is kept. With ``crop``, only cells of the model
    that the cells of the observations overlap are kept.

    Raises
    ------
    InputError
        If a variable is missing, units do not convert, a record is not daily, or periods do not overlap.
    GridError
        If the cells of the observations are larger than those of the model.
    """
    parts = {HISTORICAL: experiments[HISTORICAL], **experiments}
    parts = {name: from_adjustable(ds) for name, ds in parts.items()}
    labels = {name: f"{name} of {model}" for name in parts}
    observed = from_adjustable(observed)
    common = _common_names(observed, parts, labels, names)
    observed = select(observed, common)
    notes: list[str] = []
    for experiment, ds in parts.items():
        ds, found = _like_observations(ds, observed, common, labels[experiment])
        parts[experiment] = ds
        notes += found
    for ds, label in ((observed, "observations"), *((ds, labels[name]) for name, ds in parts.items())):
        _require_daily(ds, label)
    observed, parts, reference, found = _cut_periods(observed, parts, labels, periods)
    notes += found
    calendars = {label: _calendar(ds) for label, ds in (("observations", observed), *parts.items())}
    if len(set(calendars.values())) > 1:
        notes.append("calendars: " + ", ".join(f"{name} {calendar}" for name, calendar in calendars.items()))
    _require_finer(observed, parts[HISTORICAL], model)
    if crop:
        parts, found = _crop(parts, observed, model)
        notes += found
    return ModelRecords(model, observed, parts, common, reference, periods.validation, tuple(notes))


# Variables and units.


def _common_names(
    observed: xr.Dataset, parts: Mapping[str, xr.Dataset], labels: Mapping[str, str], names: Sequence[str] | None
) -> list[str]:
    if names is None:
        # Relations such as a diurnal range are not fields of their own here: they return as minimum and maximum.
        names = [
            name for name in pick_variables(observed, horizontal(observed), None)
            if all(_find(ds, name, observed) is not None for ds in parts.values()) and "time" in observed[name].dims
        ]  # fmt: skip
        if not names:
            raise InputError(
                f"expected variables that model and observations share, received {listing(observed.data_vars)} and "
                f"{listing(parts[HISTORICAL].data_vars)}; rename them, for example with xarray's rename"
            )
        return list(names)
    for name in names:
        if name not in observed.data_vars:
            raise InputError(
                f"expected the variable {name!r} in the observations, received {listing(observed.data_vars)}"
            )
        for experiment, ds in parts.items():
            if _find(ds, name, observed) is None:
                raise InputError(
                    f"expected the variable {name!r} in {labels[experiment]}, received {listing(ds.data_vars)}"
                )
    return list(names)


def _find(ds: xr.Dataset, name: str, observed: xr.Dataset) -> str | None:
    """Return the name in ``ds`` of a variable of the observations: the same, or that of the only like quantity."""
    if name in ds.data_vars:
        return name
    wanted = _quantity(observed[name])
    alike = [str(other) for other, field in ds.data_vars.items() if wanted is not None and _quantity(field) == wanted]
    return alike[0] if len(alike) == 1 else None


def _quantity(field: xr.DataArray) -> tuple[Any, ...] | None:
    """Return the standard name and the extremes over time of a variable, or None without a standard name."""
    standard, modifier = standard_name_of(field)
    extremes = tuple(method for _, method in cell_methods(field) if method in ("minimum", "maximum"))
    return (standard, modifier, extremes) if standard else None


def _like_observations(
    ds: xr.Dataset, observed: xr.Dataset, names: Sequence[str], label: str
) -> tuple[xr.Dataset, list[str]]:
    """Return the variables of a record under the names and in the units of the observations, and notes."""
    notes = []
    own_names = {name: str(_find(ds, name, observed)) for name in names}
    ds = select(ds, list(own_names.values()))
    for name, own in own_names.items():
        field, wanted = ds[own], units_of(observed[name])
        if own != name:
            notes.append(f"{label}: {own} is {name} of the observations by its standard name")
        if same_quantity(field, observed[name]) is False and not _is_water(units_of(field), wanted):
            raise InputError(
                f"expected {name!r} of one quantity, received another one in {label} than in the observations by "
                "standard name or units; rename one of them"
            )
        scale, offset = _conversion(units_of(field), wanted, name, label)
        if (scale, offset) != (1.0, 0.0):
            notes.append(f"{label}: {own} converted from {units_of(field)} to {wanted}")
            converted = (field.astype(np.float64) * scale + offset).astype(field.dtype)
            ds[own] = converted.assign_attrs({**field.attrs, "units": wanted})
    return ds.rename({own: name for name, own in own_names.items() if own != name}), notes


def _is_water(units: str | None, wanted: str | None) -> bool:
    """Return whether one unit is a mass of water per area and the other a depth, both of the same time."""
    pair = (units or "", wanted or "")
    return any(
        (fits(pair[0], mass) and fits(pair[1], depth)) or (fits(pair[1], mass) and fits(pair[0], depth))
        for mass, depth in WATER
    )


def _conversion(units: str | None, wanted: str | None, name: str, label: str) -> tuple[float, float]:
    """Return the factor and the offset from units to others; mass and depth of water are the same."""
    if units is None or wanted is None:
        which = label if units is None else "the observations"
        raise InputError(f"expected units of {name!r}, received none in {which}; set the attribute units")
    if units == wanted:
        return 1.0, 0.0
    if _is_water(units, wanted):
        mass, depth = next(pair for pair in WATER if any(fits(units, one) for one in pair))
        (own, base), (other, goal) = ((units, mass), (wanted, depth)) if fits(units, mass) else (
            (units, depth), (wanted, mass))  # fmt: skip
        ratio = 1 / WATER_DENSITY if base == mass else WATER_DENSITY
        return float(convert(1.0, own, base) or 0) * ratio * float(convert(1.0, goal, other) or 0), 0.0
    zero, one = convert(0.0, units, wanted), convert(1.0, units, wanted)
    if zero is None or one is None:
        raise InputError(
            f"expected units of {name!r} that can be converted to {wanted!r} of the observations, received {units!r} "
            f"in {label}; convert them"
        )
    return one - zero, zero


# Periods.


def _time(ds: xr.Dataset, label: str = "") -> str:
    name = time_name(ds)
    if name is None or name not in ds.dims:
        raise InputError(f"expected dates along a dimension in {label or 'a record'}, received none; see ncdump -h")
    return name


def _calendar(ds: xr.Dataset) -> str:
    return calendar_of(ds[_time(ds)].variable)


def _require_daily(ds: xr.Dataset, label: str) -> None:
    name = _time(ds, label)
    if name != "time":
        raise InputError(f"expected the dimension 'time' in {label}, received {name!r}; rename it")
    frequency = cmip_frequency(ds)
    steps: Any = np.unique(np.diff(ds[name].dt.floor("D").values)) if ds.sizes[name] > 1 else []
    if frequency != "day" and not (len(steps) and all(_days(step) >= 1 for step in steps)):
        raise InputError(
            f"expected daily values in {label}, received steps of another length ({frequency or 'mixed'}); average "
            'them by day, for example with xarray\'s resample(time="D")'
        )


def _days(step: Any) -> float:
    return float(step / np.timedelta64(1, "D")) if isinstance(step, np.timedelta64) else step.total_seconds() / 86400


def _cut_periods(
    observed: xr.Dataset, parts: dict[str, xr.Dataset], labels: Mapping[str, str], periods: Periods
) -> tuple[xr.Dataset, dict[str, xr.Dataset], Years, list[str]]:
    historical = parts[HISTORICAL]
    there, here = years_of(observed), years_of(historical)
    common = np.intersect1d(there, here)
    if not common.size:
        raise InputError(
            f"expected common years of the observations and {labels[HISTORICAL]}, received {span_of(observed)} and "
            f"{span_of(historical)}; add files"
        )
    reference = periods.reference or (int(common.min()), int(common.max()))
    notes = [f"reference period {words_of(reference)}" + ("" if periods.reference else ", all common years")]
    if periods.validation is not None:
        notes.append(f"validation on {words_of(periods.validation)}")
    for role, years in (("reference", reference), ("validation", periods.validation)):
        for ds, label in ((observed, "the observations"), (historical, labels[HISTORICAL])):
            count = 0 if years is None else in_years(ds, years).sizes["time"]
            if years is not None and count < FEWEST_DAYS:
                raise InputError(
                    f"expected at least a year of days in the {role} period {words_of(years)}, received {count} in "
                    f"{label} ({span_of(ds)}); choose other years"
                )
    cut = {HISTORICAL: in_years(historical, reference, periods.validation)}
    for name, ds in parts.items():
        if name == HISTORICAL:
            continue
        cut[name] = ds if periods.future is None else in_years(ds, periods.future)
        if cut[name].sizes["time"] < FEWEST_DAYS:
            wanted = "" if periods.future is None else f" in the future period {words_of(periods.future)}"
            raise InputError(
                f"expected at least a year of days of {labels[name]}{wanted}, received {cut[name].sizes['time']} "
                f"({span_of(ds)}); choose other years"
            )
        if years_of(cut[name]).min() <= reference[1]:
            raise InputError(
                f"expected {labels[name]} to begin after the reference period {words_of(reference)}, received "
                f"{span_of(ds)}; limit it with periods.future, or end the reference period earlier"
            )
    return in_years(observed, reference, periods.validation), cut, reference, notes


# Cells.


def _require_finer(observed: xr.Dataset, historical: xr.Dataset, model: str) -> None:
    areas = [float(np.median(np.asarray(horizontal(ds).grid.cell_area))) for ds in (observed, historical)]
    if areas[0] > areas[1] * 1.0001:
        raise GridError(
            f"expected observations on cells smaller than those of {model}, received cells of {areas[0] / 1e6:.3g} and "
            f"{areas[1] / 1e6:.3g} km2; pass finer observations, or average the model"
        )


def _crop(
    parts: Mapping[str, xr.Dataset], observed: xr.Dataset, model: str
) -> tuple[dict[str, xr.Dataset], list[str]]:
    """Return the records on the cells that the cells of the observations overlap, in their longitudes."""
    fine = horizontal(observed)
    cropped, notes = {}, []
    for experiment, ds in parts.items():
        axes = horizontal(ds)
        if not (_is_latlon(axes) and _is_latlon(fine)):
            cropped[experiment] = ds
            continue
        rows = _overlapping(axes.grid.y, fine.grid.y)
        columns, shifts = _overlapping_longitudes(axes.grid.x, fine.grid.x)
        if not rows.size or not columns.size:
            raise GridError(
                f"expected observations within the cells of {model}, received none; check latitudes and longitudes"
            )
        shape = ds.sizes[axes.y], ds.sizes[axes.x]
        if (rows.size, columns.size) != shape:
            if experiment == HISTORICAL:
                notes.append(
                    f"{model}: {rows.size} x {columns.size} of {shape[0]} x {shape[1]} cells, those with observations"
                )
            ds = ds.isel({axes.y: rows, axes.x: columns})
        cropped[experiment] = _shift(ds, axes, shifts)
    return cropped, notes


def _is_latlon(axes: Horizontal) -> bool:
    return axes.mapping is None and axes.positions is None and axes.system == "geographic"


def _overlapping(axis: Any, fine: Any) -> Any:
    low, high = np.minimum(axis.edges[:-1], axis.edges[1:]), np.maximum(axis.edges[:-1], axis.edges[1:])
    slack = 1e-6 * np.abs(np.diff(fine.edges)).min()
    return np.flatnonzero((high > fine.edges.min() + slack) & (low < fine.edges.max() - slack))


def _overlapping_longitudes(axis: Any, fine: Any) -> tuple[Any, Any]:
    """Return the columns that overlap, ordered as one range of longitudes, and the degrees to add to each."""
    first, last = fine.edges.min(), fine.edges.max()
    low, high = np.minimum(axis.edges[:-1], axis.edges[1:]), np.maximum(axis.edges[:-1], axis.edges[1:])
    slack = 1e-6 * np.abs(np.diff(fine.edges)).min()
    # The first turn in which a cell ends after the beginning of the observations.
    shift = 360.0 * np.ceil((first + slack - high) / 360.0)
    chosen = np.flatnonzero(low + shift < last - slack)
    order = np.argsort((low + shift)[chosen], kind="stable")
    chosen = chosen[order if axis.ascending else order[::-1]]
    return chosen, shift[chosen]


def _shift(ds: xr.Dataset, axes: Horizontal, shifts: Any) -> xr.Dataset:
    if not np.any(shifts):
        return ds
    for name in filter(ds.variables.__contains__, (axes.x, axes.bounds_of(axes.x))):
        variable = ds[name].variable
        steps = xr.Variable(axes.x, shifts)
        moved = (variable + steps).transpose(*variable.dims)
        moved.attrs, moved.encoding = variable.attrs, variable.encoding
        ds = ds.assign_coords({name: moved})
    return ds
