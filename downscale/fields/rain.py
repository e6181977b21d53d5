"""Division of daily rain into hours or other steps by a microcanonical cascade in time.

The day is divided into three parts, these into halves, and so on. A part is dry or wet with a probability that depends
on its length, on the rain rate, and on the parts before and after; the amount is divided among the wet parts in random
proportions, so that the sum is exact at each level.

References
----------
Gupta, V. K. and Waymire, E. C. (1993), A statistical analysis of mesoscale rainfall as a random cascade, Journal of
Applied Meteorology 32, 251-267.

Olsson, J. (1998), Evaluation of a scaling cascade model for temporal rain-fall disaggregation, Hydrology and Earth
System Sciences 2, 19-30 (dependence on rate and on the parts before and after).

Rupp, D. E., Keim, R. F., Ossiander, M., Brugnach, M. and Selker, J. S. (2009), Time scale and intensity dependency in
multiplicative cascades for temporal rainfall disaggregation, Water Resources Research 45, W07409.

Mueller, H. and Haberlandt, U. (2015), Temporal rainfall disaggregation with a cascade model: from single-station
disaggregation to spatial rainfall, Journal of Hydrologic Engineering 20, 04015026 (three parts first).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from downscale.errors import InputError, OptionError, ShapeError
from downscale.kernels.rain import FEATURES, divide_rain

Floats = NDArray[np.float64]
# Third word of an address: other uses of the same seed and variable have smaller numbers there.
PLACE = 0x4441_5953
# Degrees between nodes of noise that cells share. The correlation of hours relative to the day at a distance of 25 km
# is then 0.60 for AROME's day of the benchmark and 0.65 for the radar's; it is 0.64 and 0.59 in the data.
SPACING = 1
# Splits of a record with at least two wet children that an estimate needs.
FEWEST_SPLITS = 500
# Standard deviation of the logarithm of an exponential variate.
DEVIATION = np.pi / np.sqrt(6.0)


@dataclass(frozen=True)
class RainCascade:
    """Coefficients of the cascade.

    ``wet`` are those of the logit of the probability that a child is wet, ``spread`` those of the logarithm of the
    exponent k of the weights: weights are exponential variates to the power k, so that two wet halves share the amount
    by any proportion alike if k is 1. Each has five: a constant, and factors of the logarithm of the hours of a child,
    of the logarithm of the rain rate in mm/h, of the number of wet neighbours (0 to 2), and of the relative change of
    the square root of the rate from before the part to after it, times the position of the child (-1 for the first, 1
    for the last). Neighbours are the last child of the part before, and the part after.

    The defaults are estimates from four years (2010 to 2013) of 5-minute rain of one gauge in Germany, from parts with
    at least 2 mm, where the resolution of the gauge does not matter.
    """

    wet: tuple[float, ...] = (1.21, -0.48, 0.19, 0.81, 1.98)
    spread: tuple[float, ...] = (-0.18, 0.4, 0.22, -0.23, 0.94)

    def __post_init__(self) -> None:
        for name in ("wet", "spread"):
            values = getattr(self, name)
            if len(values) != FEATURES + 1 or not np.isfinite(np.asarray(values, np.float64)).all():
                raise OptionError(f"expected {FEATURES + 1} finite numbers for {name}, received {values}")


def branches_of(steps: int) -> tuple[int, ...]:
    """Return the number of parts at each level of the cascade, prime factors from the largest on.

    Examples
    --------
    >>> branches_of(24), branches_of(8), branches_of(1)
    ((3, 2, 2, 2), (2, 2, 2), ())
    """
    factors, rest, factor = [], steps, 2
    while rest > 1:
        while rest % factor == 0:
            factors.append(factor)
            rest //= factor
        factor += 1
    return tuple(reversed(factors))


def rain_weights(
    rates: NDArray[Any],
    steps: int,
    days: NDArray[np.int64],
    cells: NDArray[np.int64],
    *,
    positions: tuple[Floats, Floats] | None = None,
    before: NDArray[Any] | None = None,
    after: NDArray[Any] | None = None,
    cascade: RainCascade | None = None,
    seed: int = 0,
    member: int = 0,
    stream: str = "pr",
) -> Floats:
    """Return the rain of each time step relative to the mean of its day.

    Their mean over a day is 1 to rounding: amounts are the product with any daily mean, such as those of rain and of
    the part of it that is snow. They are a function of the arguments for that day and cell only: chunks do not change
    them.

    Parameters
    ----------
    rates : array, shape (days, cells)
        Daily means in mm/h. Days without rain and with NaN get 1 in each step.
    steps : int
        Number of steps per day.
    days, cells : arrays of int, shapes (days,) and (cells,)
        Numbers of the days, from a fixed date on, and of the cells in the whole domain: the addresses of the noise.
    positions : pair of arrays, shape (cells,), optional
        Latitudes and longitudes in degrees. The noise is then a function of the position, and rain of cells within some
        tens of kilometres has similar timing; ``cells`` are numbers of layers, which have different noise.
    before, after : arrays, shape (days, cells), optional
        Daily means of the days before and after, zero if they are unknown; by default those in ``rates`` if numbers of
        days are consecutive.
    cascade : RainCascade, optional
    seed, member : int
        Members have independent noise.
    stream : str
        Name of the variable, which has its own noise.

    Returns
    -------
    array of float64, shape (days, steps, cells)

    Raises
    ------
    ShapeError
        If arrays do not fit.

    Examples
    --------
    >>> weights = rain_weights(np.array([[0.5], [0.0]]), 24, np.array([0, 1]), np.array([0]))
    >>> weights.shape, weights.mean(axis=1).round(12).ravel().tolist(), bool((weights[0] == 0).any())
    ((2, 24, 1), [1.0, 1.0], True)
    """
    rates = np.asarray(rates)
    days, cells = np.asarray(days, np.int64), np.asarray(cells, np.int64)
    if rates.shape != (days.size, cells.size):
        raise ShapeError(f"expected rates of {days.size} days and {cells.size} cells, received shape {rates.shape}")
    if before is None or after is None:
        known_before, known_after = neighbours_of(rates, days)
        before, after = known_before if before is None else before, known_after if after is None else after
    cascade = cascade or RainCascade()
    out = np.empty((days.size, steps, cells.size))
    if positions is None:
        nodes, corner, weight = cells, np.arange(cells.size)[:, None], np.ones((cells.size, 1))
    else:
        nodes, corner, weight = nodes_of(*positions, cells)
    divide_rain(
        rates,
        np.nan_to_num(before),
        np.nan_to_num(after),
        np.array(branches_of(steps), np.int64),
        np.array(cascade.wet),
        np.array(cascade.spread),
        np.array([seed, member], np.uint64),
        days.astype(np.uint64),
        nodes.astype(np.uint64),
        np.uint64(PLACE << 32 | zlib.crc32(stream.encode())),
        corner,
        weight,
        out,
    )
    return out


def share_nodes(latitude: Floats, longitude: Floats) -> bool:
    """Return whether cells are so dense that they share nodes of noise: at least two per node.

    Examples
    --------
    >>> [share_nodes(np.zeros(200), np.arange(200) * step) for step in (0.1, 1.0)]
    [True, False]
    """
    return 2 * nodes_of(latitude, longitude)[0].size <= np.size(latitude)


def nodes_of(
    latitude: Floats, longitude: Floats, layer: NDArray[np.int64] | int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return the nodes around cells: their addresses, the four of each cell, and their weights in it.

    Cells of different layers have different nodes.

    Nodes are ``SPACING`` apart along meridians and about as far along parallels, from a fixed origin. The squares of
    the weights of a cell add up to one, so that a sum of normal noise is normal.
    """
    count = 180 // SPACING
    row = np.clip((np.asarray(latitude) + 90.0) / 180.0 * count, 0.0, count)
    first = np.minimum(row.astype(np.int64), count - 1)
    corners, weights = [], []
    for step in (0, 1):
        number, part = first + step, np.abs(1.0 - step - (row - first))
        around = np.maximum(np.rint(2 * count * np.cos(np.deg2rad(180.0 * number / count - 90.0))), 1).astype(np.int64)
        column = np.mod(np.asarray(longitude), 360.0) / 360.0 * around
        left = column.astype(np.int64)
        # A pole is a single node.
        rest = np.where(around > 1, column - left, 0.0)
        for k in (0, 1):
            corners.append(layer << 44 | number << 32 | (left + k) % around)
            weights.append(part * np.abs(1.0 - k - rest))
    weight = np.stack(weights, axis=1)
    weight /= np.sqrt((weight**2).sum(axis=1, keepdims=True))
    nodes, corner = np.unique(np.stack(corners, axis=1), return_inverse=True)
    return nodes, corner.reshape(-1, 4), weight


def neighbours_of(values: NDArray[Any], days: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the values of the day before and of the day after, zero if that day is missing."""
    before, after = np.zeros_like(values), np.zeros_like(values)
    adjoin = np.flatnonzero(np.diff(days) == 1)
    before[adjoin + 1], after[adjoin] = values[adjoin], values[adjoin + 1]
    return before, after


class _Split(NamedTuple):
    """Splits of one level of a record: features, change of the rate, positions of children, their fractions."""

    features: Floats
    slope: Floats
    position: Floats
    fractions: Floats


def estimate_cascade(rain: NDArray[Any], days: NDArray[np.int64], least: float = 0.0) -> RainCascade:
    """Return the cascade of greatest likelihood for a record of hourly or finer rain.

    Parameters
    ----------
    rain : array, shape (days, steps, cells)
        Rates in mm/h. Days with NaN are left out.
    days : array of int, shape (days,)
        Numbers of the days.
    least : float
        Parts with less rain, in mm, are left out: a gauge that counts tips of 0.2 mm has no two wet hours in a day of
        0.2 mm. A good choice is ten times the resolution.

    Raises
    ------
    InputError
        If the record has too little rain.
    """
    from scipy.optimize import minimize

    splits = [split for split in _splits(np.asarray(rain, np.float64), np.asarray(days), least) if split.slope.size]
    count = sum(int(((split.fractions > 0).sum(axis=1) > 1).sum()) for split in splits)
    if count < FEWEST_SPLITS:
        raise InputError(
            f"expected at least {FEWEST_SPLITS} parts of days with rain in two halves, received {count}; pass a longer "
            "record, or none for the cascade of the package"
        )
    start = np.zeros(FEATURES + 1)
    wet = minimize(_wet_misfit, start, (splits, count), method="BFGS").x
    spread = minimize(_spread_misfit, start, (splits, count), method="BFGS").x
    # The spread is estimated as the standard deviation of logarithms.
    spread[0] -= np.log(DEVIATION)
    return RainCascade(tuple(wet.tolist()), tuple(spread.tolist()))


def _splits(rain: Floats, days: NDArray[np.int64], least: float) -> Iterator[_Split]:
    """Yield the splits of each level."""
    daily = rain.mean(axis=1)
    before, after = (np.nan_to_num(values) for values in neighbours_of(daily, days))
    count = 1
    for b in branches_of(rain.shape[1]):
        hours = 24.0 / count
        parts = rain.reshape(daily.shape[0], count, -1, daily.shape[1]).mean(axis=2)
        children = rain.reshape(daily.shape[0], count, b, -1, daily.shape[1]).mean(axis=3)
        previous = np.concatenate([before[:, None], children[:, :-1, -1]], axis=1)
        following = np.concatenate([parts[:, 1:], after[:, None]], axis=1)
        use = np.isfinite(daily)[:, None] & (parts > 0) & (parts * hours >= least)
        own, previous, following = parts[use], previous[use], following[use]
        fractions = np.moveaxis(children, 2, -1)[use] / (b * own[:, None])
        features = np.stack([np.ones(own.size), np.full(own.size, np.log(hours / b)), np.log(own),
                             (previous > 0) * 1.0 + (following > 0)], axis=1)  # fmt: skip
        roots = np.sqrt(following), np.sqrt(previous)
        slope = (roots[0] - roots[1]) / (roots[0] + roots[1] + np.sqrt(own))
        yield _Split(features, slope, (2.0 * np.arange(b) - (b - 1)) / (b - 1), fractions)
        count *= b


def _wet_misfit(coefficients: Floats, splits: list[_Split], count: int) -> float:
    """Return the negative log-likelihood of which children are wet, of which there is at least one."""
    total = 0.0
    for features, slope, position, fractions in splits:
        score = (features @ coefficients[:-1])[:, None] + coefficients[-1] * slope[:, None] * position
        wet, dry = -np.logaddexp(0, -score), -np.logaddexp(0, score)
        any_wet = np.log(-np.expm1(np.minimum(dry.sum(axis=1), -1e-12)))
        total += float(any_wet.sum() - np.where(fractions > 0, wet, dry).sum())
    return total / count


def _spread_misfit(coefficients: Floats, splits: list[_Split], count: int) -> float:
    """Return the negative log-likelihood of normal logarithms of the fractions of the wet children."""
    total = 0.0
    for features, slope, position, fractions in splits:
        wet = fractions > 0
        number = wet.sum(axis=1)
        logs = np.where(wet, np.log(np.where(wet, fractions, 1)) - coefficients[-1] * slope[:, None] * position, 0)
        squares = np.where(wet, (logs - logs.sum(axis=1, keepdims=True) / number[:, None]) ** 2, 0).sum(axis=1)
        scale = features @ coefficients[:-1]
        total += float(((number - 1) * scale + squares / 2 * np.exp(-2 * scale)).sum())
    return total / count
