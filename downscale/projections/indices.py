"""Indices of extremes of the Expert Team on Climate Change Detection and Indices, computed by xclim."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.check.conservation import convert_units
from downscale.errors import InputError
from downscale.projections.adjustment import EXTRA
from downscale.projections.scores import as_daily_rain
from downscale.projections.years import TIME

Floats = NDArray[np.float64]
PERCENTILE = 0.95
WET_DAY = "1 mm/day"


@dataclass(frozen=True)
class Index:
    """One annual index: the function of xclim, the variables it needs, its units and description."""

    function: str
    variables: tuple[str, ...]
    units: str
    words: str
    options: Mapping[str, Any] | None = None


INDICES = {
    "TXx": Index("tx_max", ("tasmax",), "K", "maximum of daily maximum temperature"),
    "TXn": Index("tx_min", ("tasmax",), "K", "minimum of daily maximum temperature"),
    "TNx": Index("tn_max", ("tasmin",), "K", "maximum of daily minimum temperature"),
    "TNn": Index("tn_min", ("tasmin",), "K", "minimum of daily minimum temperature"),
    "DTR": Index("daily_temperature_range", ("tasmin", "tasmax"), "K", "mean daily temperature range"),
    "FD": Index("frost_days", ("tasmin",), "d", "days with a minimum below 0 degC"),
    "SU": Index("tx_days_above", ("tasmax",), "d", "days with a maximum above 25 degC", {"thresh": "25 degC"}),
    "TR": Index("tn_days_above", ("tasmin",), "d", "days with a minimum above 20 degC", {"thresh": "20 degC"}),
    "Rx1day": Index("max_1day_precipitation_amount", ("pr",), "mm", "largest rain of a day"),
    "Rx5day": Index("max_n_day_precipitation_amount", ("pr",), "mm", "largest rain of five days", {"window": 5}),
    "R10mm": Index(
        "wetdays", ("pr",), "d", "days with at least 10 mm", {"thresh": "10 mm/day", "op": ">="}
    ),
    "SDII": Index("daily_pr_intensity", ("pr",), "mm d-1", "mean rain of wet days", {"thresh": WET_DAY}),
    "CDD": Index("maximum_consecutive_dry_days", ("pr",), "d", "longest dry spell", {"thresh": WET_DAY}),
    "CWD": Index("maximum_consecutive_wet_days", ("pr",), "d", "longest wet spell", {"thresh": WET_DAY}),
    "R95pTOT": Index(
        "fraction_over_precip_thresh", ("pr",), "1",
        "fraction of rain on days above the observed 95th percentile of wet days", {"thresh": WET_DAY},
    ),
}  # fmt: skip
# Warnings that cells without data cause, and those of pandas about its use in xclim.
QUIET = (
    ("All-NaN slice", RuntimeWarning), ("invalid value encountered", RuntimeWarning),
    ("The 'name' property is deprecated", DeprecationWarning),
)  # fmt: skip


def available_indices(names: Any) -> dict[str, Index]:
    """Return the indices whose variables are among ``names``."""
    return {key: index for key, index in INDICES.items() if set(index.variables) <= set(names)}


def wet_day_percentile(pr: xr.DataArray) -> xr.DataArray:
    """Return the 95th percentile of wet days of each cell, in mm per day."""
    wet = pr.where(pr >= 1.0)
    with _quiet():
        values = wet.quantile(PERCENTILE, TIME, skipna=True).drop_vars("quantile")
    return values.assign_attrs(units="mm/day")


def annual_indices(
    fields: Mapping[str, xr.DataArray], percentile: xr.DataArray | None = None
) -> dict[str, xr.DataArray]:
    """Return the annual values of all indices that the fields allow, by name.

    Parameters
    ----------
    fields : mapping of name to DataArray
        Daily ``tasmin``, ``tasmax`` and ``pr`` in memory, those that exist, of any calendar.
    percentile : DataArray, optional
        The 95th percentile of wet days that ``R95pTOT`` refers to; by default that of ``pr`` itself.

    Returns
    -------
    dict of str to DataArray
        Annual values, NaN for cells without data; years of fewer than 330 days are left out.

    Raises
    ------
    InputError
        If xclim is not installed.

    References
    ----------
    Zhang, X. et al. (2011), Indices for monitoring changes in extremes based on daily temperature and precipitation
    data, WIREs Climate Change 2, 851-870.
    Bourgault, P. et al. (2023), xclim: xarray-based climate data analytics, Journal of Open Source Software 8, 5415.
    """
    functions = require_xclim()
    ready = {name: _prepare(name, field) for name, field in fields.items() if name in ("tasmin", "tasmax", "pr")}
    results = {}
    for key, index in available_indices(ready).items():
        arguments: list[Any] = [ready[name] for name in index.variables]
        if key == "R95pTOT":
            arguments.append(wet_day_percentile(ready["pr"]) if percentile is None else percentile)
        function: Callable[..., xr.DataArray] = getattr(functions, index.function)
        with _quiet():
            values = function(*arguments, **(index.options or {}))
        results[key] = _complete_years(values, arguments[0])
    return results


def require_xclim() -> Any:
    """Return the module of indices of xclim, whose import takes seconds, or raise an InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            import xclim.indices
    except ImportError:
        raise InputError(f"downscale project needs xclim: {EXTRA}") from None
    return xclim.indices


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        for message, category in QUIET:
            warnings.filterwarnings("ignore", message=message, category=category)
        yield


def _prepare(name: str, field: xr.DataArray) -> xr.DataArray:
    """Return rain in mm per day or a temperature in K, with the attributes that xclim reads."""
    rain = as_daily_rain(field) if name == "pr" else None
    if rain is not None:
        field, attrs = rain, {"units": "mm/day", "standard_name": "precipitation_flux"}
    else:
        field = convert_units(field, str(field.attrs.get("units", "K")), "K")
        attrs = {"units": "K", "standard_name": "air_temperature"}
    return xr.DataArray(field.data, coords=field.coords, dims=field.dims, name=name, attrs=attrs)


def _complete_years(values: xr.DataArray, daily: xr.DataArray) -> xr.DataArray:
    """Return annual values without incomplete years and cells without data."""
    counts = daily.notnull().resample({TIME: "YS"}).sum(TIME)
    return values.transpose(TIME, ...).where(counts.transpose(TIME, ...) >= 330)
