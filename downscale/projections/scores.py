"""Statistics of daily fields: of each cell along time, and of maps, whose days need not correspond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.dates import Clock
from downscale.cf.horizontal import Horizontal
from downscale.cf.labels import years_of
from downscale.cf.quantities import rain_reason
from downscale.cf.units import convert
from downscale.errors import InputError
from downscale.fields.gradient import Spacing
from downscale.fields.spectrum import Rings, has_rings, mean_steps, radial_power, rings, taper
from downscale.metrics.scores import Spectra

Floats = NDArray[np.float64]
DAY = 86400.0
RAIN_UNITS = "mm d-1"
# Quantiles of each cell, by the names of their statistics.
LEVELS = {"p02": 0.02, "p98": 0.98, "p999": 0.999}
# Least number of days of a year whose mean counts, and least number of years of a standard deviation.
FULL_YEAR, LEAST_YEARS = 330, 2
# Harmonics of the annual cycle.
HARMONICS = 3
# Largest number of cells in pairs.
MOST_CELLS = 256
STATISTICS = {
    "mean": "mean",
    "standard_deviation": "standard deviation of daily values",
    "p02": "2nd percentile of daily values",
    "p98": "98th percentile of daily values",
    "p999": "99.9th percentile of daily values",
    "lag1_corr": "lag-1 autocorrelation of anomalies from the annual cycle",
    "interannual_sd": "standard deviation of annual means",
}
RAIN_STATISTICS = {
    "wet_frequency": "fraction of wet days",
    "dry_spell": "mean length of dry spells",
    "wet_spell": "mean length of wet spells",
}
# Statistics of cells that do not have the units of the field.
OWN_UNITS = {"lag1_corr": "1", "wet_frequency": "1", "dry_spell": "d", "wet_spell": "d"}
MAP_SCORES = {
    "spatial_correlation": "mean correlation of anomalies over pairs of cells",
    "spatial_correlation_error": "root mean square difference of these correlations from the observed ones",
    "variogram_error": "mean relative error of the variogram",
    "ralsd": "radially averaged log spectral distance from the observations",
    "block_edge_index": "mean gradient across edges of coarse cells over the mean gradient inside",
    "block_edge_ratio": "block edge index over that of the observations",
    "rmse": "root mean square error of daily fields",
}


@dataclass(frozen=True, eq=False)
class Days:
    """Dates of daily values of one calendar.

    ``month`` counts from 0, ``position`` is that in a year of equal months, 0 to 1. ``follows`` is whether a day comes
    right after the day before it in the record.
    """

    year: NDArray[np.int64]
    month: NDArray[np.int64]
    position: Floats
    follows: NDArray[np.bool_]

    @classmethod
    def of(cls, time: xr.DataArray) -> Days:
        """Return the days of a time coordinate of any calendar."""
        dates = time.values
        year, parts = years_of(dates), time.dt
        clock = Clock.of(dates)
        seconds = np.asarray(clock.seconds(dates), np.float64)
        month, day = parts.month.values.astype(np.int64) - 1, parts.day.values.astype(np.float64)
        position = (month + (day - 0.5) / parts.days_in_month.values) / 12
        follows = np.concatenate([[False], np.abs(np.diff(seconds) - DAY) < 1.0])
        return cls(year, month, position, follows)

    def slice(self, first: int, last: int) -> Days:
        """Return the days from ``first`` to before ``last``."""
        part = slice(first, last)
        return Days(self.year[part], self.month[part], self.position[part], self.follows[part])


def as_daily_rain(field: xr.DataArray) -> xr.DataArray | None:
    """Return daily rain in mm per day, or None if a field is not rain; amounts are those of a day.

    Examples
    --------
    >>> flux = xr.DataArray([1.0], attrs={"standard_name": "precipitation_flux", "units": "kg m-2 s-1"})
    >>> as_daily_rain(flux).item()
    86400.0
    """
    if rain_reason(field) is None:
        return None
    units = str(field.attrs.get("units", ""))
    scales = [(convert(1.0, units, other), scale) for other, scale in (
        ("kg m-2 s-1", DAY), ("mm d-1", 1.0), ("kg m-2", 1.0), ("mm", 1.0)
    )]  # fmt: skip
    scale = next((value * size for value, size in scales if value is not None), None)
    if scale is None:
        raise InputError(f"{field.name}: expected rain in 'kg m-2 s-1' or 'mm d-1', received {units!r}; set its units")
    return (field.astype(np.float64) * scale).assign_attrs({**field.attrs, "units": RAIN_UNITS})


# Statistics of cells.


def sort_days(values: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return values (n_days, ...) sorted along time, missing ones last, and the number of valid ones of each cell."""
    finite = np.isfinite(values)
    return np.sort(np.where(finite, values, np.nan), axis=0), finite.sum(axis=0)


def quantiles_of(ordered: Floats, count: NDArray[np.int64], level: float) -> Floats:
    """Return a quantile of each cell, linear between sorted values; NaN without values."""
    place = level * np.maximum(count - 1, 0)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    lower, upper = (np.take_along_axis(ordered, index[None], axis=0)[0] for index in (low, high))
    return np.where(count > 0, lower + (place - low) * (upper - lower), np.nan)


def wasserstein_distance(
    ordered: Floats, count: NDArray[np.int64], others: Floats, other_count: NDArray[np.int64]
) -> Floats:
    """Return the Wasserstein distance of order 1 of two distributions in each cell, from sorted values.

    References
    ----------
    CORDEX ML-Bench (2025), https://github.com/WCRP-CORDEX/ml-benchmark: the diagnostic ``wasserstein_distance`` with
    ``spatial=True``.
    """
    shape, valid = count.shape, (count > 0) & (other_count > 0)
    if ordered.shape == others.shape and (count == other_count)[valid].all():
        total = np.nansum(np.abs(ordered - others), axis=0)
        return np.divide(total, count, out=np.full(shape, np.nan), where=valid)
    from scipy.stats import wasserstein_distance as distance

    result = np.full(shape, np.nan)
    for index in zip(*np.nonzero(valid), strict=True):
        cell: Any = (slice(None), *index)
        result[index] = distance(ordered[cell][: count[index]], others[cell][: other_count[index]])
    return result


def group_means(values: Floats, labels: NDArray[np.int64], count: int) -> Floats:
    """Return means over the days of each label from 0 to before ``count``, of valid values; NaN without any."""
    means = np.full((count, *values.shape[1:]), np.nan)
    for label in np.unique(labels):
        part = values[labels == label]
        valid = np.isfinite(part)
        number = valid.sum(axis=0)
        total = np.where(valid, part, 0.0).sum(axis=0)
        means[label] = np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0)
    return means


def cycle_weights(days: Days) -> Floats:
    """Return weights (n_days, 12) of monthly means whose sum is an annual cycle of three harmonics with these means."""
    middles = (np.arange(12) + 0.5) / 12
    # The mean of a harmonic over a month is that of its middle times a constant.
    angle = 2 * np.pi * np.subtract.outer(days.position, middles)
    return np.asarray((1 + sum(2 * np.cos(k * angle) / np.sinc(k / 12) for k in range(1, HARMONICS + 1))) / 12)


def anomalies_of(values: Floats, cycle: Floats, days: Days) -> Floats:
    """Return daily values minus the annual cycle of the monthly means ``cycle`` (12, ...)."""
    return np.asarray(values - np.tensordot(cycle_weights(days), cycle, 1))


def lag_correlation(anomalies: Floats, days: Days) -> Floats:
    """Return the correlation of each cell with the day before, over pairs of days that follow each other."""
    first, second = anomalies[:-1], anomalies[1:]
    valid = np.isfinite(first) & np.isfinite(second) & _along(days.follows[1:], first)
    number = np.maximum(valid.sum(axis=0), 1)
    means = [np.where(valid, part, 0.0).sum(axis=0) / number for part in (first, second)]
    x, y = (np.where(valid, part - mean, 0.0) for part, mean in zip((first, second), means, strict=True))
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    return np.divide((x * y).sum(axis=0), scale, out=np.full(scale.shape, np.nan), where=scale > 0)


def spell_length(state: NDArray[np.bool_], days: Days) -> Floats:
    """Return the mean length in days of the runs of a state in each cell; missing days and gaps end a run."""
    before = np.zeros_like(state)
    before[1:] = state[:-1] & _along(days.follows[1:], state[1:])
    number = (state & ~before).sum(axis=0)
    return np.divide(state.sum(axis=0), number, out=np.full(number.shape, np.nan), where=number > 0)


def interannual_deviation(values: Floats, days: Days) -> Floats:
    """Return the standard deviation of the means of complete years in each cell; NaN with fewer than two."""
    years = days.year - days.year.min()
    lengths = np.bincount(years)
    full = np.flatnonzero(lengths >= FULL_YEAR)
    if full.size < LEAST_YEARS:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(np.std(group_means(values, years, lengths.size)[full], axis=0, ddof=1))


def cell_statistics(
    values: Floats, days: Days, ordered: Floats, count: NDArray[np.int64], wet: float | None
) -> tuple[dict[str, Floats], Floats]:
    """Return the statistics of each cell by name, and its annual cycle of monthly means, shape (12, ...).

    Parameters
    ----------
    values : array, shape (n_days, ...)
        Daily values; non-finite ones are ignored.
    days : Days
        Their dates.
    ordered, count : arrays
        Results of :func:`sort_days`.
    wet : float, optional
        Least value of a wet day; without it there are no statistics of rain.
    """
    values = np.where(np.isfinite(values), values, np.nan)
    valid = count > 0
    number = np.maximum(count, 1)
    mean = np.where(valid, np.nansum(values, axis=0) / number, np.nan)
    cycle = group_means(values, days.month, 12)
    statistics = {
        "mean": mean,
        "standard_deviation": np.where(valid, np.sqrt(np.nansum((values - mean) ** 2, axis=0) / number), np.nan),
        **{name: quantiles_of(ordered, count, level) for name, level in LEVELS.items()},
        "lag1_corr": lag_correlation(anomalies_of(values, cycle, days), days),
        "interannual_sd": interannual_deviation(values, days),
    }
    if wet is not None:
        is_wet, is_dry = values >= wet, values < wet
        statistics["wet_frequency"] = np.where(valid, is_wet.sum(axis=0) / number, np.nan)
        statistics["dry_spell"], statistics["wet_spell"] = spell_length(is_dry, days), spell_length(is_wet, days)
    return statistics, cycle


def _along(flags: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[np.bool_]:
    return flags.reshape(-1, *(1,) * (values.ndim - 1))


# Scores of maps.


@dataclass(frozen=True, eq=False)
class Layout:
    """A fine grid with the coarse cells that contain its rows and columns.

    Attributes
    ----------
    area : array, shape (n_y, n_x)
        Areas of cells in m2.
    rows, columns : array of int
        The coarse row of each fine row, and the coarse column of each fine column.
    sample : array of int
        Flat indices of the cells whose pairs are correlated: all, or evenly spaced ones of a large grid.
    lags : tuple of (int, int)
        Axis (-2 or -1) and distance in cells of the pairs of the variogram.
    table, window : Rings and array, optional
        Rings of wavenumbers and taper of spectra; None for maps too small for them.
    """

    area: Floats
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    sample: NDArray[np.int64]
    lags: tuple[tuple[int, int], ...]
    table: Rings | None
    window: Floats

    @classmethod
    def of(cls, axes: Horizontal, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Layout:
        """Return the layout of a fine grid whose rows and columns are in these coarse rows and columns."""
        grid = axes.grid
        spacing, shape = Spacing.of(grid), grid.shape
        size = shape[0] * shape[1]
        sample = np.unique(np.linspace(0, size - 1, min(size, MOST_CELLS)).round().astype(np.int64))
        lags = tuple(
            (axis, 2**power) for axis in (-2, -1) for power in range(16) if 2 * 2**power <= shape[axis]
        )  # fmt: skip
        step = mean_steps(spacing)
        table = rings(shape, step) if has_rings(shape, step) else None
        return cls(grid.cell_area, rows, columns, sample, lags, table, taper(shape, spacing.periodic))


def map_sums(values: Floats, anomalies: Floats, layout: Layout) -> dict[str, Floats]:
    """Return sums over daily maps (n_days, n_y, n_x) and their anomalies, additive over parts of a record."""
    sums = {"days": np.array(float(len(values)))}
    sample = anomalies.reshape(len(anomalies), -1)[:, layout.sample]
    valid = np.isfinite(sample).astype(np.float64)
    sample = np.where(valid > 0, sample, 0.0)
    sums["pairs"], sums["pair_sum"] = valid.T @ valid, sample.T @ valid
    sums["pair_square"], sums["pair_product"] = (sample**2).T @ valid, sample.T @ sample
    squares = []
    for axis, lag in layout.lags:
        change = _difference(values, axis, lag)
        squares.append([np.nansum(change**2), np.isfinite(change).sum()])
    sums["variogram"] = np.array(squares, np.float64).reshape(-1, 2)
    sums["edges"] = np.array([_edge_sums(values, axis, parents) for axis, parents in (
        (-2, layout.rows), (-1, layout.columns)
    )])  # fmt: skip
    if layout.table is not None:
        finite = np.isfinite(values)
        filled, weight = np.where(finite, values, 0.0), finite.sum(axis=(-2, -1)).astype(np.float64)
        sums["power"] = weight @ radial_power(filled, finite, layout.window, layout.table)
        sums["power_weight"] = np.array(weight.sum())
    return sums


def square_sums(values: Floats, observed: Floats, layout: Layout) -> dict[str, Floats]:
    """Return sums of the squared errors of maps of the same days."""
    error = values - observed
    valid = np.isfinite(error)
    weight = np.where(valid, layout.area, 0.0)
    square = (weight * np.where(valid, error, 0.0) ** 2).sum()
    return {"square": np.array(square), "square_weight": np.array(weight.sum())}


def add_sums(first: Mapping[str, Floats], second: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return the sums over both parts."""
    zero = np.array(0.0)
    return {name: np.asarray(first.get(name, zero) + second.get(name, zero)) for name in {**first, **second}}


def _difference(values: Floats, axis: int, lag: int) -> Floats:
    size = values.shape[axis]
    return np.asarray(np.take(values, range(lag, size), axis) - np.take(values, range(size - lag), axis))


def _edge_sums(values: Floats, axis: int, parents: NDArray[np.int64]) -> list[float]:
    """Return the sum and the number of absolute differences across edges of coarse cells, then of those inside."""
    change = np.abs(_difference(values, axis, 1))
    across = np.diff(parents) != 0
    sums = []
    for chosen in (across, ~across):
        part = np.compress(chosen, change, axis)
        sums += [float(np.nansum(part)), float(np.isfinite(part).sum())]
    return sums


def correlations_of(sums: Mapping[str, Floats]) -> Floats:
    """Return the correlation of each pair of different cells once; NaN for constant ones."""
    number = np.where(sums["pairs"] > 1, sums["pairs"], np.nan)
    # Sums of the first cell of each pair, over the days on which both are valid; the transpose is the second cell.
    total, square = sums["pair_sum"], sums["pair_square"]
    covariance = sums["pair_product"] - total * total.T / number
    variance = square - total**2 / number
    scale = np.sqrt(np.where(variance > 0, variance, np.nan) * np.where(variance.T > 0, variance.T, np.nan))
    return np.asarray((covariance / scale)[np.triu_indices(len(number), 1)])


def edge_index(sums: Mapping[str, Floats]) -> float:
    """Return the mean absolute difference across edges of coarse cells over that inside, the mean of both axes."""
    across, across_count, inside, inside_count = sums["edges"].T
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (across / across_count) / (inside / inside_count)
    # NaN along an axis without both kinds of edges, infinite for piecewise constant fields.
    defined = ratio[~np.isnan(ratio)]
    return float(defined.mean()) if defined.size else float("nan")


def spectral_distance(sums: Mapping[str, Floats], observed: Mapping[str, Floats], layout: Layout) -> float:
    """Return the radially averaged log spectral distance in decibels; NaN without spectra.

    References
    ----------
    Harris, L. et al. (2022), A generative deep learning approach to stochastic downscaling of precipitation forecasts,
    Journal of Advances in Modeling Earth Systems 14, e2022MS003120; the score ``ralsd`` of CORDEX ML-Bench.
    """
    if layout.table is None:
        return float("nan")
    power, true_power = (one["power"] / one["power_weight"] for one in (sums, observed))
    return Spectra(layout.table.wavenumber, power, true_power, 1.0).distance


def map_scores(sums: Mapping[str, Floats], observed: Mapping[str, Floats], layout: Layout) -> dict[str, float]:
    """Return the scores of maps by name, from their sums and those of the observations."""
    pairs, true_pairs = correlations_of(sums), correlations_of(observed)
    both = np.isfinite(pairs) & np.isfinite(true_pairs)
    variogram, true_variogram = (one["variogram"][:, 0] / np.maximum(one["variogram"][:, 1], 1)
                                 for one in (sums, observed))  # fmt: skip
    varies = true_variogram > 0
    index, true_index = edge_index(sums), edge_index(observed)
    has_pairs, has_error = bool(both.any()), float(sums.get("square_weight", np.array(0.0))) > 0
    return {
        "spatial_correlation": float(pairs[both].mean()) if has_pairs else np.nan,
        "spatial_correlation_error": float(((pairs - true_pairs)[both] ** 2).mean() ** 0.5) if has_pairs else np.nan,
        "variogram_error": float(np.abs(variogram / np.where(varies, true_variogram, np.nan) - 1)[varies].mean())
        if varies.any() else np.nan,
        "ralsd": spectral_distance(sums, observed, layout),
        "block_edge_index": index,
        "block_edge_ratio": index / true_index if true_index > 0 else np.nan,
        "rmse": float((sums["square"] / sums["square_weight"]) ** 0.5) if has_error else np.nan,
    }  # fmt: skip
