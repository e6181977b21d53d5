"""Order of the dates of a record: sorted, unique and not NaT, with a report of gaps between files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.bounds import values_of
from downscale.cf.times import is_time, numbers_of, stamp
from downscale.errors import InputError

# Steps per comparison if files overlap.
TOGETHER = 16
# Steps of a regular series vary at most as months do; a step 1.5 times longer is a gap.
MONTHS_APART = 0.12
GAP = 1.5
Names = NDArray[Any]


class DateWarning(UserWarning):
    """Dates of a record repeat, are not in order or have a gap."""


def in_order(
    ds: xr.Dataset, dim: str, owners: Names, packed: Mapping[str, float] | None = None
) -> tuple[xr.Dataset, Names]:  # fmt: skip
    """Return a record with unique, monotonic dates, and the file of each step.

    Parameters
    ----------
    ds : Dataset
        With an index along ``dim``.
    owners : array of str
        The name of the file of each step, for messages.
    packed : mapping of str to float
        The precision of packed values: values that differ by no more are equal.

    Raises
    ------
    InputError
        If a date occurs twice with different values.
    """
    index = ds.indexes[dim]
    if index.is_unique and (index.is_monotonic_increasing or index.is_monotonic_decreasing):
        return ds, owners
    order = np.argsort(np.asarray(index), kind="stable")
    several = len(set(owners)) > 1
    if not index.is_monotonic_increasing:
        if not several:
            _say(f"{dim!r} is not in order in {owners[0]}; its steps are sorted")
        ds, owners = ds.isel({dim: order}), owners[order]
        index = ds.indexes[dim]
    if index.is_unique:
        return ds, owners
    later = np.flatnonzero(index.duplicated(keep="first"))
    kept = np.flatnonzero(~index.duplicated(keep="first"))
    earlier = kept[np.searchsorted(kept, later, side="right") - 1]
    _require_equal(ds, dim, (earlier, later), owners, packed or {})
    date = _word(index[later[0]])
    where = _where(owners[earlier[0]], owners[later[0]])
    more = f" ({later.size} dates in all)" if later.size > 1 else ""
    _say(f"{date} is {where} with equal values; it is read once{more}")
    return ds.isel({dim: kept}), owners[kept]


def _require_equal(
    ds: xr.Dataset, dim: str, pairs: tuple[NDArray[Any], NDArray[Any]], owners: Names, packed: Mapping[str, float]
) -> None:  # fmt: skip
    """Raise an InputError if two steps of the same date hold different values."""
    for name in [str(n) for n, v in ds.data_vars.items() if dim in v.dims]:
        field = ds[name].variable
        for begin in range(0, pairs[0].size, TOGETHER):
            one, other = (pair[begin : begin + TOGETHER] for pair in pairs)
            a, b = (values_of(field.isel({dim: places})) for places in (one, other))
            alike = _alike(a, b, packed.get(name, 0.0))
            if alike.all():
                continue
            axes = tuple(axis for axis in range(alike.ndim) if field.dims[axis] != dim)
            at = int(np.flatnonzero(~alike.all(axis=axes))[0])
            where = _where(owners[one[at]], owners[other[at]])
            raise InputError(
                f"expected one map for each date, received {_word(ds.indexes[dim][one[at]])} {where} with different "
                f"values of {name!r}; choose one file for it, or cut the other with ncks -d {dim} or ds.sel"
            )


def _alike(a: NDArray[Any], b: NDArray[Any], step: float) -> NDArray[Any]:
    if a.dtype.kind not in "fiu":
        return np.asarray(a == b)
    with np.errstate(invalid="ignore"):
        return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= step))


def report_gaps(ds: xr.Dataset, dim: str, owners: Names) -> None:
    """Warn if dates are missing from an otherwise regular series, perhaps because of a missing file."""
    if not is_time(ds[dim].variable) or ds.sizes[dim] < 4:
        return
    days = np.abs(np.diff(numbers_of(ds[dim].variable)))
    usual = float(np.median(days))
    gaps = np.flatnonzero(days > GAP * usual)
    steady = days[days <= GAP * usual]
    if not gaps.size or usual <= 0 or (np.abs(steady - usual) > MONTHS_APART * usual).any():
        return
    first = int(gaps[0])
    before, after = (f"{_word(ds.indexes[dim][at])} ({owners[at]})" for at in (first, first + 1))
    more = f", and {gaps.size - 1} more gaps" if gaps.size > 1 else ""
    missing = round(float(days[first]) / usual) - 1
    _say(
        f"no dates between {before} and {after}, where about {missing} steps would be{more}; check that no file is "
        "missing"
    )


def _where(one: str, other: str) -> str:
    return f"twice in {one}" if one == other else f"in both {one} and {other}"


def _word(date: Any) -> str:
    """Return a date as text, without the time if it is midnight."""
    try:
        return stamp(getattr(date, "to_datetime64", lambda: date)()).removesuffix("T00:00:00Z")
    except (TypeError, ValueError):
        return str(date)


def _say(line: str) -> None:
    warnings.warn(line, DateWarning, stacklevel=2)
