"""Compiled projection of fine values on cell means within bounds that are fields.

The counterpart of the bounds that are numbers in :mod:`downscale.kernels.refine`: it changes stored values in place,
and only those of cells with a value beyond its bounds. All sums are in float64 in a fixed order.
"""

from __future__ import annotations

import numpy as np

from downscale.kernels.compiled import compile_inner, compile_loop

# Steps of the safeguarded Newton iteration: about 60 halvings reach rounding.
STEPS, EPS = 160, 2.220446049250313e-16
U = np.uintp


@compile_inner
def _find_beyond(fine, lower, upper, k, top, rows, beyond):  # type: ignore[no-untyped-def]
    """Mark the columns of a row of cells with a value beyond its bounds; returns their number."""
    # Only one map of bounds that are the same for all.
    low, high = U(k if lower.shape[0] > 1 else 0), U(k if upper.shape[0] > 1 else 0)
    k, count, width = U(k), 0, fine.shape[2]
    beyond[:] = 0
    for r in range(rows):
        row = U(top + r)
        if lower.size:
            for i in range(width):
                beyond[U(i)] |= fine[k, row, U(i)] < lower[low, row, U(i)]
        if upper.size:
            for i in range(width):
                beyond[U(i)] |= fine[k, row, U(i)] > upper[high, row, U(i)]
    for i in range(width):
        count += beyond[U(i)]
    return count


@compile_inner
def _clip(value, low, high):  # type: ignore[no-untyped-def]
    """Return a value within bounds, the upper one if they cross; written so that each choice is one instruction."""
    value = value if value > low else low
    return value if value < high else high


@compile_inner
def _mean(values, fraction, n):  # type: ignore[no-untyped-def]
    total = 0.0
    for p in range(n):
        total += fraction[p] * values[p]
    return total


@compile_inner
def _next_corner(n, y, low, high, shift, error):  # type: ignore[no-untyped-def]
    """Return the nearest shift, on the side that lowers the error, at which a clipped value moves again."""
    corner = -np.inf if error > 0 else np.inf
    for p in range(n):
        value = y[p] + shift
        if error > 0 and value > high[p]:
            corner = max(corner, high[p] - y[p] - EPS * (abs(y[p]) + abs(high[p])))
        elif error <= 0 and value < low[p]:
            corner = min(corner, low[p] - y[p] + EPS * (abs(y[p]) + abs(low[p])))
    return corner


@compile_inner
def _clip_to_mean(target, n, y, low, high, fraction):  # type: ignore[no-untyped-def]
    """Replace ``y`` by ``clip(y + t, low, high)`` with the shift t that gives the mean ``target``, which must exist."""
    left, right, shift, last, size = -np.inf, np.inf, 0.0, np.inf, 0.0
    for p in range(n):
        size += fraction[p] * abs(y[p])
    for _ in range(STEPS):
        # The slopes of the mean to both sides: of values that a larger and a smaller shift moves.
        mean, slope_up, slope_down = 0.0, 0.0, 0.0
        for p in range(n):
            value = y[p] + shift
            mean += fraction[p] * _clip(value, low[p], high[p])
            slope_up += fraction[p] if (value >= low[p]) & (value < high[p]) else 0.0
            slope_down += fraction[p] if (value > low[p]) & (value <= high[p]) else 0.0
        error = mean - target
        if abs(error) <= 4 * EPS * max(abs(target), size):
            break
        if error > 0:
            right, slope = shift, slope_down
        else:
            left, slope = shift, slope_up
        newton = shift - error / slope if slope > 0 else _next_corner(n, y, low, high, shift, error)
        # If Newton's steps gain too little between two corners, bisect.
        has_improved, last = abs(error) <= 0.5 * last, abs(error)
        is_open = left == -np.inf or right == np.inf
        shift = newton if is_open or (has_improved and left < newton < right) else 0.5 * (left + right)
    for p in range(n):
        y[p] = _clip(y[p] + shift, low[p], high[p])


@compile_loop
def clip_cells(  # type: ignore[no-untyped-def]
    x, fine, lower, upper, limits, fractions, first, last, tolerance, infeasible, worst, place, doubtful
):  # fmt: skip
    """Bring fine values within bounds that are fields, with the means of their cells.

    A cell whose mean no field within the bounds has keeps its mean: its values are beyond by the same amount.

    Parameters
    ----------
    x, fine : arrays, shapes (maps, n_y, n_x) and (maps, fine rows, fine columns)
        Means, and values that have them, changed in place; NaN where a cell is missing or a value masked.
    lower, upper : arrays, shape of ``fine`` or one map, or (0, 0, 0)
        The bounds, NaN where there is none.
    limits : (float, float)
        Bounds of all values besides.
    fractions : CellFractions
        Without any, cells conserve sums.
    first, last : int
        The rows of cells to bring within bounds.
    tolerance : float
        Relative error of a mean that counts as rounding.
    infeasible : array of int, shape (maps,)
        Number of cells whose mean is beyond the mean of the bounds; added to.
    worst : array, shape (maps,)
        Largest distance of such a mean, with its sign; written where larger.
    place : array of int, shape (maps, 2)
        Row and column of that cell; written.
    doubtful : array of int, shape (maps,)
        Number of cells whose stored values miss their mean by more than ``tolerance``; added to.
    """
    n, rows, columns = x.shape[2], fine.shape[1] // x.shape[1], fine.shape[2] // x.shape[2]
    kind, size = fine.dtype.type, rows * columns
    beyond = np.empty(fine.shape[2], np.uint8)
    y, low, high, fraction = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    position = np.empty((size, 2), np.int64)
    is_sum, has_areas = fractions.y_fraction.size == 0, fractions.cell_fraction.size > 0
    for k in range(x.shape[0]):
        map_below, map_above = U(k if lower.shape[0] > 1 else 0), U(k if upper.shape[0] > 1 else 0)
        for j in range(first, last):
            if _find_beyond(fine, lower, upper, k, j * rows, rows, beyond) == 0:
                continue
            for i in range(n):
                is_beyond = False
                for c in range(i * columns, (i + 1) * columns):
                    is_beyond |= beyond[c] != 0
                target = float(x[k, j, i])
                if not is_beyond or not np.isfinite(target):
                    continue
                count, total = 0, 0.0
                for row in range(j * rows, (j + 1) * rows):
                    for q in range(i * columns, (i + 1) * columns):
                        value, f = np.float64(fine[U(k), U(row), U(q)]), 1.0
                        if has_areas:
                            f = fractions.cell_fraction[U(row), U(q)]
                        elif not is_sum:
                            f = fractions.y_fraction[U(row)] * fractions.x_fraction[U(q)]
                        if np.isnan(value) or not f > 0:
                            continue
                        a, b = limits
                        # A missing bound is none: no comparison with NaN holds.
                        if lower.size and lower[map_below, U(row), U(q)] > a:
                            a = np.float64(lower[map_below, U(row), U(q)])
                        if upper.size and upper[map_above, U(row), U(q)] < b:
                            b = np.float64(upper[map_above, U(row), U(q)])
                        y[count], fraction[count], low[count], high[count] = value, f, a, b
                        position[count, 0], position[count, 1] = row, q
                        total += f
                        count += 1
                if count == 0:
                    continue
                for p in range(count):
                    fraction[p] /= total
                # The sum of equal parts is their mean times their number.
                parts = total if is_sum else 1.0
                target /= parts
                least, most = _mean(low, fraction, count), _mean(high, fraction, count)
                excess = target - most if target >= most else target - least if target <= least else 0.0
                if target >= most or target <= least:
                    # Only the bound itself has this mean, to rounding; beyond it there is none.
                    magnitude = abs(target)
                    for p in range(count):
                        y[p] = high[p] if target >= most else low[p]
                        magnitude = max(magnitude, abs(y[p]))
                    is_rounding = abs(excess) <= tolerance * magnitude
                    for p in range(count):
                        y[p] += 0.0 if is_rounding else excess
                    if not is_rounding:
                        infeasible[k] += 1
                        if abs(excess * parts) > abs(worst[k]):
                            worst[k], place[k, 0], place[k, 1] = excess * parts, j, i
                else:
                    _clip_to_mean(target, count, y, low, high, fraction)
                mean, magnitude = 0.0, 0.0
                for p in range(count):
                    stored = kind(y[p])
                    fine[k, position[p, 0], position[p, 1]] = stored
                    mean += fraction[p] * np.float64(stored)
                    magnitude += fraction[p] * abs(np.float64(stored))
                if not abs(mean - target) <= tolerance * max(abs(target), magnitude):
                    doubtful[k] += 1
