"""Periods of whole years: their days in a record, and their words."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

TIME = "time"
Years = tuple[int, int]


def years_of(ds: xr.Dataset) -> NDArray[Any]:
    """Return the year of each day."""
    return np.asarray(ds[TIME].dt.year.values)


def in_years(ds: xr.Dataset, *periods: Years | None) -> xr.Dataset:
    """Return the days of a record whose year is in one of the periods, ends included; None is no period."""
    years = years_of(ds)
    inside = np.zeros(years.shape, bool)
    for first, last in filter(None, periods):
        inside |= (years >= first) & (years <= last)
    if inside.all():
        return ds
    chosen = np.flatnonzero(inside)
    is_range = chosen.size and chosen[-1] - chosen[0] + 1 == chosen.size
    return ds.isel({TIME: slice(chosen[0], chosen[-1] + 1) if is_range else chosen})


def words_of(years: Years) -> str:
    """Return a period in words.

    Examples
    --------
    >>> words_of((1979, 1996)), words_of((2004, 2004))
    ('1979-1996', '2004')
    """
    return f"{years[0]}-{years[1]}" if years[0] != years[1] else str(years[0])


def span_of(ds: xr.Dataset) -> str:
    """Return the first and the last year of a record in words."""
    years = years_of(ds)
    return words_of((int(years.min()), int(years.max())))
