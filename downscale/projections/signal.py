"""Change signals per coarse cell: of the raw model, the adjusted one, and fine fields averaged over coarse cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.horizontal import Horizontal, horizontal
from downscale.cf.quantities import automatic_form, rain_reason
from downscale.errors import InputError, listing
from downscale.projections.cells import (
    CoarseCells,
    bands,
    blocks,
    field_of,
    fields_in,
    grid_variables,
    period_words,
    read,
    select_period,
)
from downscale.projections.scores import quantiles_of, sort_days
from downscale.projections.years import TIME, Years

Floats = NDArray[np.float64]
WET_DAY = 1.0  # mm per day
SIGNALS = {"mean": "mean", "p98": "98th percentile of daily values", "wet_frequency": "fraction of wet days"}
# Statistics of fine cells, averaged over coarse cells, instead of those of coarse means.
WITHIN = "_within"


def change_signal(
    reference: Mapping[str, xr.Dataset],
    future: Mapping[str, xr.Dataset],
    *,
    coarse: xr.Dataset,
    fine: xr.Dataset | None = None,
    variables: Any = None,
    reference_period: Years | None = None,
    future_period: Years | None = None,
    wet_day: float = WET_DAY,
) -> xr.Dataset:
    """Return future minus reference of daily fields in each coarse cell.

    Parameters
    ----------
    reference, future : mapping of label to Dataset
        Daily fields of both periods by candidate, such as "raw", "adjusted" and "fine", on the coarse or fine grid;
        lazy fields are read in parts.
    coarse : Dataset
        Fields on the grid of the model.
    fine : Dataset, optional
        Fields on the fine grid, by default the first candidate with another number of cells than ``coarse``.
    variables : str or list of str, optional
        By default all that the candidates have in common.
    reference_period, future_period : (int, int), optional
        First and last year; by default all days.
    wet_day : float
        Least rain of a wet day in mm per day.

    Returns
    -------
    Dataset
        On the coarse grid, by candidate: ``NAME_STATISTIC_reference``, ``_future``, ``_change`` and, for quantities
        that vary in proportion such as rain, ``_percent``. Statistics are the mean, the 98th percentile (``p98``) and
        for rain the fraction of wet days (``wet_frequency``) of the daily means over coarse cells, which conservation
        leaves as they are in the adjusted field. ``p98_within`` and ``wet_frequency_within`` are those of the fine
        cells, averaged over coarse cells; for coarse candidates both are the same.

    Raises
    ------
    DownscaleError
        If labels, grids, variables or periods do not match.
    """
    if list(reference) != list(future):
        raise InputError(
            f"expected the same candidates in both periods, received {listing(reference)} and {listing(future)}"
        )
    names = fields_in({**reference, **{f"future {label}": ds for label, ds in future.items()}}, variables)
    cells = CoarseCells.between(coarse, _fine_of(reference, coarse) if fine is None else fine)
    periods = (reference_period, future_period)
    results: dict[str, Any] = {}
    for name in names:
        field = next(iter(reference.values()))[name]
        rain = rain_reason(field) is not None
        units = "mm d-1" if rain else str(field.attrs.get("units", "1"))
        by_candidate = []
        for label in reference:
            pair = [_statistics(select_period(ds[label], years, label), name, cells, label, units, wet_day if rain else
                                None) for ds, years in zip((reference, future), periods, strict=True)]  # fmt: skip
            by_candidate.append(pair)
        results |= _arrays(name, by_candidate, units, cells.coarse_axes, automatic_form(field)[0] == "ratio")
    ds = xr.Dataset(results, {"candidate": list(reference)})
    grid = grid_variables(coarse, cells.coarse_axes)
    attrs: dict[str, Any] = {"Conventions": "CF-1.11", "wet_day": f"{wet_day:g} mm per day", "variables": names}
    for key, datasets, years in zip(("reference_period", "future_period"), (reference, future), periods, strict=True):
        attrs[key] = period_words(next(iter(datasets.values())), years)
    return ds.assign_coords(grid.variables).assign_attrs(attrs)


def _fine_of(datasets: Mapping[str, xr.Dataset], coarse: xr.Dataset) -> xr.Dataset:
    """Return the first Dataset with more cells than the coarse grid, or the coarse grid."""
    size = int(np.prod(horizontal(coarse, guess=True).grid.shape))
    grids = {label: int(np.prod(horizontal(ds, guess=True).grid.shape)) for label, ds in datasets.items()}
    return next((datasets[label] for label, cells in grids.items() if cells > size), coarse)


def _statistics(
    ds: xr.Dataset, name: str, cells: CoarseCells, label: str, units: str, wet: float | None
) -> dict[str, Floats]:
    """Return the statistics of one candidate in one period on the coarse grid."""
    if cells.is_coarse(ds):
        field = field_of(ds, name, cells.coarse_axes, label, units)
        daily = read(field)
        statistics = _of_days(daily, wet)
        return {**statistics, **{key + WITHIN: value for key, value in statistics.items() if key != "mean"}}
    field = field_of(cells.order(ds, label), name, cells.axes, label, units)
    daily = np.concatenate([cells.mean(read(field, **{TIME: part})) for part in blocks(field.shape)])
    statistics = _of_days(daily, wet)
    rows = [_of_days(read(field, **{cells.axes.y: part}), wet) for part in bands(field.shape)]
    for key in statistics:
        if key != "mean":
            statistics = {**statistics, key + WITHIN: cells.mean(np.concatenate([row[key] for row in rows]))}
    return statistics


def _of_days(daily: Floats, wet: float | None) -> dict[str, Floats]:
    """Return the statistics of each cell of fields (n_days, n_y, n_x)."""
    ordered, count = sort_days(daily)
    number = np.where(count > 0, count, np.nan)
    statistics = {"mean": np.nansum(daily, axis=0) / number, "p98": quantiles_of(ordered, count, 0.98)}
    if wet is not None:
        statistics["wet_frequency"] = (daily >= wet).sum(axis=0) / number
    return statistics


def _arrays(
    name: str, pairs: list[list[dict[str, Floats]]], units: str, axes: Horizontal, ratio: bool
) -> dict[str, Any]:
    """Return the arrays of one variable from its statistics, of each candidate before and after."""
    arrays: dict[str, Any] = {}
    for key in pairs[0][0]:
        base = key.removesuffix(WITHIN)
        words = SIGNALS[base] + (", mean of the fine cells" if key != base else "")
        before, after = (np.stack([pair[i][key] for pair in pairs]) for i in (0, 1))
        own = "1" if base == "wet_frequency" else units
        dims = ("candidate", *axes.dims)
        for part, values in (("reference", before), ("future", after), ("change", after - before)):
            arrays[f"{name}_{key}_{part}"] = (dims, values, {"units": own, "long_name": f"{part} of the {words}"})
        if ratio:
            percent = 100 * np.divide(after - before, before, out=np.full(before.shape, np.nan), where=before > 0)
            attrs = {"units": "%", "long_name": f"relative change of the {words}"}
            arrays[f"{name}_{key}_percent"] = (dims, percent, attrs)
    return arrays


def signal_error(signal: xr.Dataset, name: str, first: str = "fine", second: str = "adjusted") -> float:
    """Return the largest difference of the change of the mean between two candidates, relative to the mean values."""
    change = signal[f"{name}_mean_change"]
    parts = (signal[f"{name}_mean_{part}"].sel(candidate=second).values for part in ("reference", "future"))
    size = np.max(np.abs(np.stack(list(parts))), axis=0)
    error = np.abs(change.sel(candidate=first).values - change.sel(candidate=second).values)
    return float(np.nanmax(error / np.where(size > 0, size, 1.0)))
