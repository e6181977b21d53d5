"""Compiled steps of a day: monotone maps to an exact mean, minimum and maximum, and courses of temperature.

Where the shape of a day is scaled to u in [0, 1], a map moves u towards its square (a lower mean) or its square root (a
higher one). The mean is linear in the weight of that move, so that one division makes it exact; a move by the whole way
is repeated. Ends stay at 0 and 1, and the order of steps is kept. All sums are in float64 in a fixed order.

Functions of numba have no annotations; those that call each other must be in one file.
"""

from __future__ import annotations

import numpy as np

from downscale.kernels.compiled import compile_inner, compile_loop

# Whole moves before a shape counts as one that cannot reach its mean, such as one with two equal maxima.
MOVES = 64
# Largest weight of steep ends; at 1 the middle would be level.
STEEPEST = 0.9
# What can be wrong with a day: an extreme that is not attained, or a mean outside of the limits.
EXACT, MISSED, CROSSED = 0, 1, 2


@compile_inner
def _move(u, total):  # type: ignore[no-untyped-def]
    """Move values in [0, 1] until their sum is ``total``; return whether it is."""
    for _ in range(MOVES):
        have = 0.0
        for i in range(u.size):
            have += u[i]
        excess = total - have
        if excess == 0.0:
            return True
        change = 0.0
        if excess < 0.0:
            for i in range(u.size):
                change += u[i] * u[i] - u[i]
        else:
            for i in range(u.size):
                change += np.sqrt(u[i]) - u[i]
        if change == 0.0:
            return False
        weight = excess / change
        is_last = weight <= 1.0
        weight = min(weight, 1.0)
        if excess < 0.0:
            for i in range(u.size):
                u[i] += weight * (u[i] * u[i] - u[i])
        else:
            for i in range(u.size):
                u[i] += weight * (np.sqrt(u[i]) - u[i])
        if is_last:
            return True
    return False


@compile_inner
def _level(shape, u, total):  # type: ignore[no-untyped-def]
    """Give steps the sum ``total`` with one at 0, one at 1 and the others level.

    Return the step that is not at its end because the sum leaves no room for it, -1 if there is none.
    """
    n, low, high = u.size, 0, 0
    for i in range(1, n):
        if shape[i] > shape[high]:
            high = i
        if shape[i] <= shape[low]:
            low = i
    if low == high:
        # A flat shape: the last step is the lowest.
        low = n - 1
    rest, lowest, highest, odd = 0.0, 0.0, 1.0, -1
    if total < 1.0:
        highest, odd = total, high
    elif total > n - 1.0:
        rest, lowest, odd = 1.0, total - (n - 1.0), low
    elif n > 2:
        rest = (total - 1.0) / (n - 2)
    for i in range(n):
        u[i] = rest
    u[low] = lowest
    if n > 1:
        u[high] = highest
    return odd


@compile_inner
def _fit(shape, spare, mean, low, high, floor, slack, u):  # type: ignore[no-untyped-def]
    """Write the values of a day with the shape of its steps; see :func:`fit_days`. Return what is wrong with it."""
    n = u.size
    has_mean, has_low, has_high = not np.isnan(mean), not np.isnan(low), not np.isnan(high)
    bottom = low if has_low else floor
    has_bottom = not np.isnan(bottom)
    size = max(abs(bottom) if has_bottom else 0.0, abs(high) if has_high else 0.0)
    slack *= max(size, abs(mean) if has_mean else 0.0)
    is_crossed = has_bottom and has_high and bottom > high + slack
    if has_mean:
        is_crossed = (has_bottom and mean < bottom - slack) or (has_high and mean > high + slack) or is_crossed
    if is_crossed:
        for i in range(n):
            u[i] = mean if has_mean else 0.5 * (bottom + high)
        return CROSSED
    smallest, largest, total = shape[0], shape[0], 0.0
    for i in range(n):
        smallest, largest, total = min(smallest, shape[i]), max(largest, shape[i]), total + shape[i]
    if smallest == largest and (has_low or has_high):
        shape = spare
        smallest, largest, total = shape[0], shape[0], 0.0
        for i in range(n):
            smallest, largest, total = min(smallest, shape[i]), max(largest, shape[i]), total + shape[i]
    average = total / n
    if has_mean and has_high and has_bottom:
        span = high - bottom
        if span <= 0.0:
            for i in range(n):
                u[i] = high
            return EXACT
        origin = smallest if has_low else min(floor, smallest)
        width, wanted = largest - origin, min(max((mean - bottom) / span, 0.0), 1.0) * n
        # Room that lacks by rounding only is there.
        most, gap, is_good, odd = n - 1.0, n * slack / span, False, -1
        if 1.0 - gap <= wanted < 1.0:
            wanted = 1.0
        elif has_low and most < wanted <= most + gap:
            wanted = most
        if width > 0.0 and 1.0 <= wanted <= (n - 1.0 if has_low else float(n)):
            for i in range(n):
                u[i] = (shape[i] - origin) / width
            is_good = _move(u, wanted)
        if not is_good:
            odd = _level(shape, u, wanted)
            is_good = odd < 0 or (not has_low and wanted >= 1.0)
        for i in range(n):
            u[i] = high if u[i] == 1.0 else min(bottom + span * u[i], high)
        if odd >= 0:
            # The others are all at one end, which may be much smaller than the range and its rounding.
            u[odd] = bottom + n * (mean - bottom) if wanted < 1.0 else high - n * (high - mean)
            u[odd] = min(max(u[odd], bottom), high)
        return EXACT if is_good else MISSED
    # Fewer conditions: the shape is shifted and scaled.
    pivot, level, factor = average, mean, 1.0
    if has_low and has_high:
        pivot, level, factor = smallest, low, (high - low) / (largest - smallest)
    elif has_mean and has_high:
        factor = (high - mean) / (largest - average)
    elif has_mean and has_low:
        factor = (mean - low) / (average - smallest)
    elif has_mean and has_bottom:
        pivot, level = floor, floor
        # A shape that is not above the limit gives no proportions.
        factor = (mean - floor) / (average - floor) if average > floor and smallest >= floor else 0.0
        level = floor if factor > 0.0 else mean
    elif has_high:
        pivot, level = largest, high
    elif has_low:
        pivot, level = smallest, low
    factor = max(factor, 0.0)
    for i in range(n):
        u[i] = level + factor * (shape[i] - pivot)
        if has_high:
            u[i] = min(u[i], high)
        if has_bottom:
            u[i] = max(u[i], bottom)
    return EXACT


@compile_inner
def _spare_shape(n):  # type: ignore[no-untyped-def]
    """Return the shape of a day for flat shapes: one highest step, in the afternoon."""
    spare = np.empty(n)
    for i in range(n):
        spare[i] = -((i + 0.5 - 0.61 * n) ** 2)
    return spare


@compile_loop
def fit_days(shape, mean, low, high, floor, slack, out, flags):  # type: ignore[no-untyped-def]
    """Write values with the shape of their steps within each day and with its exact mean, minimum and maximum.

    Parameters
    ----------
    shape, out : arrays, shape (days * steps, columns)
        The shape, of any level and scale; the values, NaN where a condition is missing.
    mean, low, high : arrays of float64, shape (days, columns), or (0, columns) without that condition
        Conditions. With all three, the minimum and the maximum are attained if both of them leave room for the mean.
    floor : float
        Lower limit that need not be attained, NaN for none; it has an effect without ``low``.
    slack : float
        Relative rounding of the conditions: those that differ by less do not contradict each other.
    flags : array of int8, shape (days, columns)
        Written: EXACT, MISSED if an extreme cannot be attained, CROSSED if the mean is outside of the limits; the mean
        is exact in all cases.
    """
    days, columns = flags.shape
    n = out.shape[0] // max(days, 1)
    one, u, spare = np.empty(n), np.empty(n), _spare_shape(n)
    for day in range(days):
        for j in range(columns):
            m = mean[day, j] if mean.shape[0] else np.nan
            lo = low[day, j] if low.shape[0] else np.nan
            hi = high[day, j] if high.shape[0] else np.nan
            is_missing = (
                (mean.shape[0] and np.isnan(m)) or (low.shape[0] and np.isnan(lo)) or (high.shape[0] and np.isnan(hi))
            )
            for i in range(n):
                one[i] = shape[day * n + i, j]
                is_missing = is_missing or np.isnan(one[i])
            flags[day, j] = EXACT
            if is_missing:
                for i in range(n):
                    out[day * n + i, j] = np.nan
                continue
            flags[day, j] = _fit(one, spare, m, lo, hi, floor, slack, u)
            for i in range(n):
                out[day * n + i, j] = u[i]


# Courses of temperature.


@compile_inner
def _edge(m, begin, first, last):  # type: ignore[no-untyped-def]
    """Return the value at the beginning of a day from the means of three days on both sides, within a run of days."""
    total = 0.0
    for k in range(3):
        weight = (37.0, -8.0, 1.0)[k] / 60.0
        total += weight * (m[max(begin - 1 - k, first)] + m[min(begin + k, last - 1)])
    return total


@compile_inner
def _trend(m, r, first, last, cycle, label, j, g):  # type: ignore[no-untyped-def]
    """Write the shape of a run of days: parabolas with the daily means, continuous at midnight, and daily cycles."""
    n = cycle.shape[2]
    for d in range(first, last):
        a, b = _edge(m, d, first, last), _edge(m, d + 1, first, last)
        curve = 6.0 * m[d] - 3.0 * (a + b)
        before, after = 0.5 * (r[max(d - 1, first)] + r[d]), 0.5 * (r[d] + r[min(d + 1, last - 1)])
        # The mean of the parabola at the middles of steps is not that over the day.
        mean = m[d] + curve / (12.0 * n * n)
        for i in range(n):
            t = (i + 0.5) / n
            size = before + (r[d] - before) * 2.0 * t if t < 0.5 else r[d] + (after - r[d]) * (2.0 * t - 1.0)
            g[d * n + i] = a + t * (b - a + curve * (1.0 - t)) + (m[d] - mean) + size * cycle[label[d], j, i]


@compile_inner
def _smooth(rest, g, begin, end, weights, padded):  # type: ignore[no-untyped-def]
    """Add smoothed values of a run of steps to ``g``; beyond its ends they continue with the last one."""
    reach, count = weights.size // 2, end - begin
    for i in range(reach):
        padded[i], padded[reach + count + i] = rest[begin], rest[end - 1]
    padded[reach : reach + count] = rest[begin:end]
    smoothed = g[begin:end]
    for k in range(weights.size):
        # Views of equal length: the inner loop uses vector instructions.
        weight, moved = weights[k], padded[k : k + count]
        for i in range(count):
            smoothed[i] += weight * moved[i]


@compile_inner
def _sharpen(shape, size, sharp):  # type: ignore[no-untyped-def]
    """Write a shape with steeper ends if its range is smaller than ``size``, so that its middle keeps its slope."""
    smallest, largest = shape[0], shape[0]
    for i in range(shape.size):
        smallest, largest = min(smallest, shape[i]), max(largest, shape[i])
    width = largest - smallest
    if width <= 0.0:
        for i in range(shape.size):
            sharp[i] = shape[i]
        return
    weight = min(max(1.0 - width / size, 0.0), STEEPEST) if size > 0.0 else 0.0
    for i in range(shape.size):
        v = 2.0 * (shape[i] - smallest) / width - 1.0
        v2 = v * v
        sharp[i] = v + weight * (v2 * v2 * v - v)


@compile_inner
def _fit_run(m, lo, hi, slack, first, last, g, spare, sharp, y, flags, j):  # type: ignore[no-untyped-def]
    """Write the values of a run of days with the shape ``g``."""
    n = spare.size
    for d in range(first, last):
        shape, values = g[d * n : (d + 1) * n], y[d * n : (d + 1) * n]
        if not np.isnan(m[d] + lo[d] + hi[d]):
            _sharpen(shape, hi[d] - lo[d], sharp)
            shape = sharp
        flags[d, j] = _fit(shape, spare, m[d], lo[d], hi[d], np.nan, slack, values)


@compile_loop
def temperature_days(  # type: ignore[no-untyped-def]
    mean, low, high, slack, linked, cycle, label, weights, rounds, core, out, flags
):
    """Write the steps of days of temperature with exact means, minima and maxima.

    The shape is the course of the daily means and a daily cycle of the size of the daily range. It is fitted to each
    day; what that changes is smoothed over midnights, added to the shape, and fitted again, for some ``rounds``.

    Parameters
    ----------
    mean, low, high : arrays of float64, shape (days, columns), or (0, columns) without that condition
        At least one; NaN where a day is missing.
    slack : float
        Relative rounding of these.
    linked : array of bool, shape (days,)
        Whether each day begins where the day before it ends.
    cycle : array of float64, shape (labels, columns, steps)
        Daily cycles with mean 0, in units of the daily range (of the values without a minimum and a maximum).
    label : array of int, shape (days,)
    weights : array of float64, odd size
        Weights of the smoothing, with the sum 1.
    rounds : int
        Each reaches one day further, after the three of the shape.
    core : pair of int
        The days to write; the others are their neighbours.
    out, flags : arrays, shapes (core days * steps, columns) and (days, columns)
    """
    days, columns, n = linked.size, out.shape[1], cycle.shape[2]
    m, lo, hi, r = np.empty(days), np.empty(days), np.empty(days), np.empty(days)
    given = (mean.shape[0] > 0, low.shape[0] > 0, high.shape[0] > 0)
    center, is_known = np.empty(days), np.empty(days, np.bool_)
    g, y, rest = np.empty(days * n), np.empty(days * n), np.empty(days * n)
    padded, spare, sharp = np.empty(days * n + weights.size), _spare_shape(n), np.empty(n)
    for j in range(columns):
        for d in range(days):
            m[d] = mean[d, j] if given[0] else np.nan
            lo[d] = low[d, j] if given[1] else np.nan
            hi[d] = high[d, j] if given[2] else np.nan
            smallest, largest = cycle[label[d], j, 0], cycle[label[d], j, 0]
            for i in range(n):
                smallest, largest = min(smallest, cycle[label[d], j, i]), max(largest, cycle[label[d], j, i])
            span = largest - smallest
            center[d], r[d] = m[d], 1.0
            if given[1] and given[2]:
                r[d] = max(hi[d] - lo[d], 0.0)
                if not given[0]:
                    center[d] = lo[d] - r[d] * smallest / span if span > 0.0 else 0.5 * (lo[d] + hi[d])
            elif given[0] and given[2]:
                r[d] = max(hi[d] - m[d], 0.0) / largest if largest > 0.0 else 0.0
            elif given[0] and given[1]:
                r[d] = max(m[d] - lo[d], 0.0) / -smallest if smallest < 0.0 else 0.0
            elif not given[0]:
                center[d] = hi[d] - largest if given[2] else lo[d] - smallest
            is_known[d] = not np.isnan(center[d] + r[d])
        first = 0
        while first < days:
            if not is_known[first]:
                flags[first, j] = EXACT
                for i in range(n):
                    y[first * n + i] = np.nan
                first += 1
                continue
            last = first + 1
            while last < days and is_known[last] and linked[last]:
                last += 1
            _trend(center, r, first, last, cycle, label, j, g)
            _fit_run(m, lo, hi, slack, first, last, g, spare, sharp, y, flags, j)
            for _ in range(rounds):
                for i in range(first * n, last * n):
                    rest[i] = y[i] - g[i]
                _smooth(rest, g, first * n, last * n, weights, padded)
                _fit_run(m, lo, hi, slack, first, last, g, spare, sharp, y, flags, j)
            first = last
        for i in range((core[1] - core[0]) * n):
            out[i, j] = y[core[0] * n + i]
