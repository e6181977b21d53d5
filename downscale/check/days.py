"""Check of steps within days against daily means, minima and maxima: which are exact, attained, or cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.bounds import bounds_variables
from downscale.cf.dates import DAY, ROUNDING, stamp
from downscale.cf.days import Days
from downscale.cf.horizontal import XarrayObject, as_dataset
from downscale.cf.kinds import quantity_over_time
from downscale.cf.quantities import automatic_bounds, same_quantity, units_of
from downscale.cf.times import date_bounds, time_name
from downscale.cf.units import convert
from downscale.conservation.measures import default_tolerance, smallest_magnitude
from downscale.conservation.report import ConservationReport, VariableReport
from downscale.errors import ConservationError, GridError, InputError, listing, pluralise
from downscale.process.computing import compute
from downscale.request import require_legal
from downscale.steps.climatology import middles_of
from downscale.steps.families import Found, find_families, names_among

# Values per block of days.
BLOCK_VALUES = 8_000_000
# Stands for zero in a ratio.
SMALLEST = float(np.finfo(np.float64).tiny)

Floats = NDArray[np.float64]


@dataclass
class DaysOfVariable:
    """What a check found for one variable; days are counted for each cell.

    Attributes
    ----------
    name : str
        The variable at steps.
    daily : mapping of str to str
        The daily variables by role: "mean", "minimum", "maximum".
    steps : int
        Steps per day.
    days : int
        Days checked, with a value in both files.
    max_relative_error, where
        Largest error of a daily mean (or amount), relative to the larger of it and the mean size of its steps, and its
        place.
    beyond : int
        Days with a step below the daily minimum or above the daily maximum.
    missed : int
        Days whose minimum or maximum is not attained although the mean leaves room for it.
    unattainable : int
        Days whose mean leaves no room for an extreme, which is therefore not attained; not a fault.
    crossed : int
        Days whose daily mean is below the minimum or above the maximum; only their mean is checked.
    lost : int
        Days with a daily value, but a step without one, and days with infinite steps.
    absent : int
        Days of the daily file that the other file lacks.
    tolerance : float
        Largest relative error that passes.
    """

    name: str
    daily: Mapping[str, str]
    steps: int
    tolerance: float
    days: int = 0
    max_relative_error: float = 0.0
    where: dict[str, Any] = field(default_factory=dict)
    beyond: int = 0
    missed: int = 0
    unattainable: int = 0
    crossed: int = 0
    lost: int = 0
    absent: int = 0

    @property
    def passed(self) -> bool:
        """Whether means are exact, no step is beyond an extreme, and each extreme with room is attained."""
        faults = self.beyond + self.missed + self.lost
        return self.max_relative_error <= self.tolerance and faults == 0 and self.days > 0

    @property
    def fault(self) -> str:
        """One line that states the fault, empty if there is none."""
        if self.passed:
            return ""
        if not self.days:
            return f"{self.name}: expected days to check, received none with a value in both files"
        if not self.max_relative_error <= self.tolerance:
            place = ", ".join(f"{key}={value}" for key, value in self.where.items())
            return (
                f"{self.name}: expected daily means within {self.tolerance:g}, received a largest relative error of "
                f"{self.max_relative_error:.3g} at {place}"
            )
        if self.lost:
            return f"{self.name}: expected finite values at all steps of days with a value, received {self.lost} others"
        return (
            f"{self.name}: expected the daily extremes from steps, received {self.beyond} days beyond them, and "
            f"{self.missed} days that do not attain one"
        )

    def lines(self) -> Iterator[str]:
        """Yield the result in words."""
        roles = ", ".join(f"{role} {name}" for role, name in self.daily.items())
        verdict = "yes" if self.passed else "NO"
        yield f"{self.name}: {roles}; {pluralise(self.steps, 'step')} per day, {self.days} days of cells: {verdict}"
        if "mean" in self.daily:
            yield f"  daily means: largest relative error {self.max_relative_error:.2e}"
        if len(self.daily) > ("mean" in self.daily):
            yield f"  daily extremes: {self.beyond} days beyond them, {self.missed} days that do not attain one"
        if self.unattainable:
            yield f"  {self.unattainable} days whose mean leaves no room for an extreme, which cannot be attained"
        if self.crossed:
            yield f"  {self.crossed} days whose mean is below the minimum or above the maximum in the daily file"
        if self.lost or self.absent:
            yield f"  {self.lost} days of cells without steps, {self.absent} days that are not in the file of steps"


@dataclass(frozen=True)
class DaysReport:
    """The check of steps against days; true if every variable passes."""

    variables: Mapping[str, DaysOfVariable]

    @property
    def passed(self) -> bool:
        """Whether there is a variable and every one passed."""
        return bool(self.variables) and all(one.passed for one in self.variables.values())

    @property
    def fault(self) -> str:
        """One line that states the fault of the first variable that fails, empty if none does."""
        return next((one.fault for one in self.variables.values() if one.fault), "")

    def __bool__(self) -> bool:
        return self.passed

    def __getitem__(self, name: str) -> DaysOfVariable:
        return self.variables[name]

    def __repr__(self) -> str:
        tolerances = sorted({one.tolerance for one in self.variables.values()})
        verdict = "passed" if self.passed else "FAILED"
        head = f"DaysReport: {verdict} (tolerance {', '.join(f'{t:g}' for t in tolerances)})"
        lines = [line for one in self.variables.values() for line in one.lines()]
        return "\n".join([head, *lines, *(one.fault for one in self.variables.values() if one.fault)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings for JSON."""
        variables = {name: {**asdict(one), "passed": one.passed} for name, one in self.variables.items()}
        return {"passed": self.passed, "variables": variables}

    def raise_if_failed(self) -> DaysReport:
        """Return the report itself, or raise a ConservationError with one line for the first variable that fails."""
        if self.fault:
            raise ConservationError(self.fault)
        return self

    def conservation(self) -> ConservationReport:
        """Return the means as a conservation report, for the attributes of a file."""
        reports = {
            name: VariableReport(
                name, "", "cell", one.max_relative_error, one.where, 0.0, {}, one.max_relative_error, one.days, 0,
                one.lost, 0, one.beyond, one.tolerance, compared="days", per_map=1,
            )
            for name, one in self.variables.items()
        }  # fmt: skip
        return ConservationReport(reports)


def check_days(
    daily: XarrayObject, fine: XarrayObject, *, tolerance: float | None = None, data_vars: Any = None
) -> DaysReport:
    """Check that the daily means, minima and maxima of steps equal daily fields.

    Parameters
    ----------
    daily : Dataset or DataArray
        Daily fields; those of one quantity belong together as for :func:`downscale.hourly`.
    fine : Dataset or DataArray
        Fields at equal steps within days, from any source, with the names of the daily means or of the same quantity.
        Units are converted.
    tolerance : float, optional
        Largest relative error that passes, by default that of rounding in the data types.
    data_vars : str or sequence of str, optional
        Daily variables to check; by default all with a counterpart.

    Returns
    -------
    DaysReport

    Raises
    ------
    InputError, GridError
        If no variable is common to both, or if axes do not fit.
    """
    require_legal("tolerance", tolerance)
    ds, _ = as_dataset(daily)
    steps, lone = as_dataset(fine)
    days = Days.read(ds)
    dim, which, count = _days_of_steps(steps, days)
    skipped = {*bounds_variables(ds), days.name}
    along = [str(n) for n, v in ds.data_vars.items() if days.dim in v.dims and v.dtype.kind in "fiu"]
    names = names_among([name for name in along if name not in skipped], data_vars)
    reports = {}
    for found in find_families(ds, names, days.dim):
        name = _counterpart(ds, found, steps, dim, lone)
        if name is not None:
            reports[name] = _check(ds, found, days, steps[name], dim, which, count, tolerance)
    if not reports:
        raise InputError(
            f"expected steps of a daily variable among {listing(names) or 'none'}, received "
            f"{listing(steps.data_vars) or 'none'}; rename them"
        )
    return DaysReport(reports)


def _days_of_steps(steps: xr.Dataset, days: Days) -> tuple[str, NDArray[np.int64], int]:
    """Return the dimension of steps, the first step of each day (-1 for none), and the number of steps per day."""
    name = time_name(steps)
    if name is None or steps[name].ndim != 1:
        raise GridError("expected steps with a time axis, received none; decode the times, or add them")
    dim = str(steps[name].dims[0])
    seconds = days.clock.seconds(days.clock.adopt(middles_of(steps, name)))
    if (np.diff(seconds) <= 0).any():
        raise GridError(f"coordinate {name!r}: expected steps in order, received others; sort by time")
    day = np.searchsorted(days.starts, seconds + ROUNDING, side="right") - 1
    inside = (day >= 0) & (seconds < days.starts[np.maximum(day, 0)] + DAY - ROUNDING)
    numbers, first, counts = np.unique(day[inside], return_index=True, return_counts=True)
    if not numbers.size:
        raise GridError(f"coordinate {name!r}: expected steps of the daily file, received none of its days")
    count = int(np.bincount(counts).argmax())
    wrong = np.flatnonzero(counts != count)
    if wrong.size:
        date = stamp(days.clock.dates(days.starts[numbers[wrong[:1]]])[0])[:10]
        raise GridError(
            f"coordinate {name!r}: expected {count} steps on each day, received {counts[wrong[0]]} on {date}; complete "
            "or drop that day"
        )
    pairs = date_bounds(steps, name)
    if pairs is not None and pairs.dtype.kind in "MO":
        lengths = np.diff(days.clock.seconds(days.clock.adopt(pairs)), axis=1)[inside]
        if np.ptp(lengths) > ROUNDING:
            raise GridError(
                f"coordinate {name!r}: expected steps of one length, received others; average to equal steps"
            )
    which = np.full(days.starts.size, -1)
    which[numbers] = np.flatnonzero(inside)[first]
    return dim, which, count


def _counterpart(ds: xr.Dataset, found: Found, steps: xr.Dataset, dim: str, lone: str | None) -> str | None:
    """Return the name of the variable at steps: of the same name, or the only one of the same quantity."""
    skipped = bounds_variables(steps)
    fields = [
        str(n) for n, v in steps.data_vars.items() if dim in v.dims and v.dtype.kind in "fiu" and n not in skipped
    ]
    if found.name in fields:
        return found.name
    first = ds[next(iter(found.names.values()))]
    alike = [name for name in fields if same_quantity(steps[name], first) is True]
    return alike[0] if len(alike) == 1 else lone


def _check(
    ds: xr.Dataset, found: Found, days: Days, fine: xr.DataArray, dim: str, which: NDArray[np.int64], count: int,
    tolerance: float | None,
) -> DaysOfVariable:  # fmt: skip
    """Return the result of one variable, block by block of days."""
    names = dict(found.names)
    first = ds[next(iter(names.values()))]
    others = [str(d) for d in first.dims if d != days.dim]
    members = [str(d) for d in fine.dims if d not in (dim, *others)]
    fine = fine.transpose(dim, *members, *others) if set(others) <= set(fine.dims) else fine
    if tuple(fine.sizes[d] for d in others if d in fine.sizes) != tuple(first.sizes[d] for d in others):
        raise GridError(
            f"expected {fine.name!r} on the cells of {first.name!r}, {dict(first.sizes)}, received {dict(fine.sizes)}; "
            "select the same region"
        )
    for d in others:
        if d in first.coords and d in fine.coords and not _same_labels(first[d].values, fine[d].values):
            raise GridError(
                f"expected {fine.name!r} on the cells of {first.name!r}, received other values of {d!r}; select "
                "the same cells in the same order"
            )
    units = units_of(fine)
    fields = {role: _in_units(ds[name], units).transpose(days.dim, *others) for role, name in names.items()}
    is_sum = all(quantity_over_time(one, str(d))[0] == "extensive" for one, d in ((first, days.dim), (fine, dim)))
    dtypes = [one.dtype for one in (fine, *(ds[name] for name in names.values())) if one.dtype.kind == "f"]
    tolerances = [default_tolerance(one) for one in dtypes] or [1e-12]
    limit = max(tolerances) if tolerance is None else tolerance
    smallest = max(smallest_magnitude(fine, ds[name]) for name in names.values())
    report = DaysOfVariable(str(fine.name), names, count, limit, absent=int((which < 0).sum()))
    floor = automatic_bounds(first)
    present = np.flatnonzero(which >= 0)
    per_block = max(BLOCK_VALUES // max(count * int(np.prod(fine.shape[1:])), 1), 1)
    for begin in range(0, present.size, per_block):
        block = present[begin : begin + per_block]
        rows = (which[block][:, None] + np.arange(count)).ravel()
        tasks = [fine.isel({dim: rows}).data, *(one.isel({days.dim: block}).data for one in fields.values())]
        values, *daily = (np.asarray(one, np.float64) for one in compute(*tasks))
        values = values.reshape(block.size, count, *values.shape[1:])
        shape = (block.size, *(1,) * len(members), *(first.sizes[d] for d in others))
        given = {role: one.reshape(shape) for role, one in zip(fields, daily, strict=True)}
        index = _add(report, values, given, is_sum, floor, smallest)
        if index is not None:
            date = days.clock.dates(days.starts[block[index[0] : index[0] + 1]])[0]
            places = {d: fine[d].values[i] if d in fine.coords else i for d, i in zip((*members, *others), index[1:])}  # noqa: B905 - of equal length
            report.where = {"day": stamp(date)[:10], **{d: _plain(value) for d, value in places.items()}}
    return report


def _same_labels(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether coordinates are equal, numbers to the rounding of float32."""
    if one.dtype.kind in "fiu" and other.dtype.kind in "fiu":
        return bool(np.allclose(one, other, rtol=1e-6, atol=1e-6, equal_nan=True))
    return bool((one == other).all())


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _in_units(variable: xr.DataArray, units: str | None) -> xr.DataArray:
    own = units_of(variable)
    if own is None or units is None or own == units:
        return variable
    zero, one = convert(0.0, own, units), convert(1.0, own, units)
    if zero is None or one is None:
        raise InputError(f"expected {variable.name!r} in units that fit {units!r} of the steps, received {own!r}")
    return variable.astype("f8") * (one - zero) + zero


def _add(
    report: DaysOfVariable, values: Floats, daily: Mapping[str, Floats], is_sum: bool,
    limits: tuple[float | None, float | None], smallest: float,
) -> tuple[int, ...] | None:  # fmt: skip
    """Add a block of days, values of shape (days, steps, ...); return the index of a larger error than before.

    Values smaller than ``smallest``, which the data types round more, are as good as zero.
    """
    count = report.steps
    known = np.isfinite(sum(daily.values()))
    known = np.broadcast_to(known, values[:, 0].shape)
    is_whole = np.isfinite(values).all(axis=1)
    checked = known & is_whole
    report.lost += int(((known & ~is_whole) | np.isinf(values).any(axis=1)).sum())
    report.days += int(checked.sum())
    size = np.abs(values).mean(axis=1)
    mean = values.mean(axis=1)
    wanted = None if "mean" not in daily else daily["mean"] / (count if is_sum else 1)
    largest = None
    with np.errstate(invalid="ignore", divide="ignore"):
        if wanted is not None:
            scale = np.maximum(np.maximum(np.abs(wanted), size), max(smallest, SMALLEST))
            error = np.where(checked, np.abs(mean - wanted) / scale, 0.0)
            index = np.unravel_index(int(error.argmax()), error.shape)
            if error[index] > report.max_relative_error:
                report.max_relative_error, largest = float(error[index]), tuple(int(i) for i in index)
        low, high = daily.get("minimum"), daily.get("maximum")
        if low is None and high is None:
            return largest
        bottom = low if low is not None else np.float64(np.nan if limits[0] is None else limits[0])
        top = high if high is not None else np.float64(np.nan if limits[1] is None else limits[1])
        slack = report.tolerance * np.fmax(np.fmax(np.abs(bottom), np.abs(top)), np.maximum(size, smallest))
        crossed = np.zeros(checked.shape, bool)
        if wanted is not None:
            crossed = (wanted < bottom - slack) | (wanted > top + slack)
        crossed = checked & (crossed | (bottom > top + slack))
        smallest, greatest = values.min(axis=1), values.max(axis=1)
        ordered = checked & ~crossed
        beyond, missed, hopeless = (np.zeros(checked.shape, bool) for _ in range(3))
        room = count * slack
        for extreme, attained, sign in ((low, smallest, 1.0), (high, greatest, -1.0)):
            if extreme is None:
                continue
            beyond |= sign * (attained - extreme) < -slack
            away = sign * (attained - extreme) > slack
            narrow = np.zeros(checked.shape, bool)
            if wanted is not None:
                span = np.where(np.isfinite(top - bottom), top - bottom, 0.0)
                far = top - wanted if extreme is low else wanted - bottom
                narrow = np.isfinite(far) & (count * far < span + room)
            missed |= away & ~narrow
            hopeless |= away & narrow
        report.crossed += int(crossed.sum())
        report.beyond += int((beyond & ordered).sum())
        report.missed += int((missed & ordered).sum())
        report.unattainable += int((hopeless & ordered & ~missed).sum())
    return largest
