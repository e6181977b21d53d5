"""Compiled projection on the mean of each day within bounds of each time step: clip(z + t), one t per day.

All sums are in float64 in a fixed order, so that any division of a field gives the same bits.
"""

from __future__ import annotations

import numpy as np

from downscale.kernels.compiled import compile_inner, compile_loop

# Steps of the safeguarded Newton iteration; the mean is a piecewise linear function of the shift.
STEPS, EPS = 200, 2.220446049250313e-16
# Largest relative error of a mean with which a proposal is used.
CLOSE = 1e-14


@compile_inner
def _mean_of(values):  # type: ignore[no-untyped-def]
    total = 0.0
    for s in range(values.size):
        total += values[s]
    return total / values.size


@compile_inner
def _clip_day(z, low, high, mean, y):  # type: ignore[no-untyped-def]
    """Write ``clip(z + t, low, high)`` with that mean to ``y``, of values that have such a t; return whether it is met.

    A shift is lost in the rounding of values that are very much larger than the mean.
    """
    count, left, right, size = z.size, np.inf, -np.inf, abs(mean)
    for s in range(count):
        left, right = min(left, low[s] - z[s]), max(right, high[s] - z[s])
        size += abs(z[s]) / count
    shift = min(max(mean - _mean_of(z), left), right)
    last, deviation, scale = np.inf, 0.0, 0.0
    for _ in range(STEPS):
        total, inside, scale = 0.0, 0, 0.0
        for s in range(count):
            value = z[s] + shift
            if value <= low[s]:
                value = low[s]
            elif value >= high[s]:
                value = high[s]
            else:
                inside += 1
            y[s] = value
            total += value
            scale += abs(value)
        deviation = total / count - mean
        if abs(deviation) <= 2 * EPS * max(scale / count, abs(mean)):
            break
        if deviation > 0:
            right = min(right, shift)
        else:
            left = max(left, shift)
        newton = shift - deviation * count / inside if inside else np.nan
        # Between two bounds Newton's steps can alternate: if a step gains too little, bisect.
        if abs(deviation) <= 0.5 * last and left <= newton <= right:
            shift = newton
        elif left > -np.inf and right < np.inf:
            shift = 0.5 * (left + right)
        else:
            shift += size if deviation < 0 else -size
            size *= 2
        last = abs(deviation)
    return abs(deviation) <= CLOSE * max(scale / count, abs(mean))


@compile_loop
def clip_hours(z, mean, low, high, tolerance, out, failed):  # type: ignore[no-untyped-def]
    """Write ``clip(z + t, low, high)`` to ``out``, with one t per day and cell that gives it the mean of that day.

    No such t exists if the mean is outside the means of the bounds: the mean then wins, and each step is as far beyond
    its bound as any other. Days with a NaN become NaN. A proposal that is too large for the mean to be exact counts as
    level.

    Parameters
    ----------
    z, out : arrays, shape (days, steps, cells)
        The proposal; the result, which may be ``z``.
    mean : array, shape (days, cells)
    low, high : arrays, shapes that broadcast to (days, steps, cells)
        May be infinite.
    tolerance : float
        Relative difference of the mean from those of the bounds that is taken for rounding: the bounds are the result.
    failed : array of bool, shape (days, cells)
        Whether the mean is outside the means of the bounds; written.
    """
    days, steps, cells = z.shape
    a, b, c = low.shape[0] > 1, low.shape[1] > 1, low.shape[2] > 1
    e, f, g = high.shape[0] > 1, high.shape[1] > 1, high.shape[2] > 1
    value, least, most, y = np.empty(steps), np.empty(steps), np.empty(steps), np.empty(steps)
    for d in range(days):
        for i in range(cells):
            target, is_valid = np.float64(mean[d, i]), True
            for s in range(steps):
                value[s] = z[d, s, i]
                least[s] = low[d if a else 0, s if b else 0, i if c else 0]
                most[s] = high[d if e else 0, s if f else 0, i if g else 0]
                is_valid &= not (np.isnan(value[s]) or np.isnan(least[s]) or np.isnan(most[s]))
            failed[d, i] = False
            if not is_valid or np.isnan(target):
                out[d, :, i] = np.nan
                continue
            lowest, highest = _mean_of(least), _mean_of(most)
            if target <= lowest or target >= highest:
                bound, middle = (least, lowest) if target <= lowest else (most, highest)
                failed[d, i] = abs(target - middle) > tolerance * max(abs(target), abs(middle))
                for s in range(steps):
                    y[s] = bound[s] + (target - middle if failed[d, i] else 0.0)
            elif not _clip_day(value, least, most, target, y):
                value[:] = target
                _clip_day(value, least, most, target, y)
            for s in range(steps):
                out[d, s, i] = y[s]
