"""Compiled loops of the conservation check."""

from __future__ import annotations

import numpy as np

from downscale.kernels.compiled import compiled


@compiled
def accumulate_errors(  # type: ignore[no-untyped-def]
    x, y, sizes, y_share, x_share, part_share, area, low, high, smallest, peaks, places, counts, sums
):  # fmt: skip
    """Compare coarse means ``x`` with fine values ``y``, cell by cell.

    Parameters
    ----------
    x, y : arrays, shapes (maps, n_y, n_x) and (maps, n_y * factor_y, n_x * factor_x)
        NaN marks missing cells; infinite coarse values are missing too.
    sizes : array of the shape of ``y``, or (0, 0, 0)
        Mean magnitudes of the values averaged into each fine value, if it is a mean; else empty.
    y_share, x_share, part_share : arrays
        Area fractions of fine rows, columns, or cells (shape (0, 0) if areas are products).
    area : array, shape (n_y, n_x)
    low, high : float
        Fine values outside are counted, in cells whose own value is within.
    smallest : float
        Magnitude below which the stored types lose precision.
    peaks : array, shape (2,)
        Largest relative and absolute error; written.
    places : array of int, shape (2, 3)
        Their locations; the first in index order if several are equal. Written.
    counts : array of int, shape (6,)
        Cells checked, masked, lost, invented; fine values out of bounds; cells checked with gaps. Written.
    sums : array, shape (3, maps)
        Area-weighted sums of the fine means, the coarse values and the magnitudes. Written.
    """
    maps, n_y, n_x = x.shape
    f_y, f_x = y_share.size // n_y, x_share.size // n_x
    total, size, errors, relatives = np.empty(n_x), np.empty(n_x), np.empty(n_x), np.empty(n_x)
    share = np.empty((f_y * f_x, n_x))
    bounded = low > -np.inf or high < np.inf
    for j in range(n_y):
        top = j * f_y
        for p in range(f_y * f_x):
            for i in range(n_x):
                share[p, i] = y_share[top + p // f_x] * x_share[i * f_x + p % f_x]
                if part_share.size:
                    share[p, i] = part_share[top + p // f_x, i * f_x + p % f_x]
        for k in range(maps):
            rows = y[k, top : top + f_y]
            _sums(rows, share, f_x, total, size)
            if not sizes.size and not (bounded and _any_beyond(rows, low, high)):
                _errors(x[k, j], total, size, smallest, errors, relatives)
                if not _notable(x[k, j], total, errors, relatives, peaks):
                    counts[0] += n_x
                    for i in range(n_x):
                        own = x[k, j, i]
                        sums[0, k] += area[j, i] * total[i]
                        sums[1, k] += area[j, i] * own
                        sums[2, k] += area[j, i] * max(abs(own), size[i])
                    continue
            for i in range(n_x):
                own = x[k, j, i]
                if bounded and low <= own <= high:
                    counts[4] += _beyond(rows, i, f_x, low, high)
                mean, magnitude, covered, holes = total[i], size[i], True, False
                if sizes.size or not np.isfinite(mean):
                    beside = sizes[k, top : top + f_y] if sizes.size else sizes[0:0, 0]
                    mean, magnitude, covered, holes = _cell(rows, beside, share, i, f_x)
                if not np.isfinite(own):
                    counts[1] += 1
                    counts[3] += covered
                    continue
                if not covered:
                    counts[2] += 1
                    continue
                counts[0] += 1
                counts[5] += holes
                error, scale = abs(mean - own), max(abs(own), magnitude)
                relative = error / max(scale, smallest) if scale > 0 else 0.0
                # The first in index order, whatever the order of the loops.
                if relative > peaks[0] or (relative == peaks[0] and relative > 0 and k < places[0, 0]):
                    peaks[0] = relative
                    places[0, 0], places[0, 1], places[0, 2] = k, j, i
                if error > peaks[1] or (error == peaks[1] and error > 0 and k < places[1, 0]):
                    peaks[1] = error
                    places[1, 0], places[1, 1], places[1, 2] = k, j, i
                sums[0, k] += area[j, i] * mean
                sums[1, k] += area[j, i] * own
                sums[2, k] += area[j, i] * scale


@compiled
def _sums(rows, share, factor, total, size):  # type: ignore[no-untyped-def]
    """Add up a row of cells without missing values: the mean of each, and that of the magnitudes."""
    total[:], size[:] = 0.0, 0.0
    for r in range(rows.shape[0]):
        row, p = rows[r], r * factor
        if factor == 4:
            s0, s1, s2, s3 = share[p], share[p + 1], share[p + 2], share[p + 3]
            for i in range(total.size):
                a, b = s0[i] * row[4 * i], s1[i] * row[4 * i + 1]
                c, d = s2[i] * row[4 * i + 2], s3[i] * row[4 * i + 3]
                total[i] += (a + b) + (c + d)
                size[i] += (abs(a) + abs(b)) + (abs(c) + abs(d))
        else:
            for c in range(factor):
                s = share[p + c]
                for i in range(total.size):
                    value = s[i] * row[i * factor + c]
                    total[i] += value
                    size[i] += abs(value)


@compiled
def _errors(x, mean, size, smallest, errors, relatives):  # type: ignore[no-untyped-def]
    """Compute the errors of a row of cells without missing values."""
    for i in range(x.size):
        own, error = x[i], abs(mean[i] - x[i])
        scale = max(abs(own), size[i])
        errors[i] = error
        relatives[i] = error / max(scale, smallest) if scale > 0 else 0.0


@compiled
def _notable(x, mean, errors, relatives, peaks):  # type: ignore[no-untyped-def]
    """Return whether a cell of a row needs closer inspection: it is missing, or its error is at least the maximum."""
    count = 0
    for i in range(x.size):
        # Both comparisons are false for NaN and infinite errors.
        ordinary = (relatives[i] < peaks[0] or relatives[i] == 0.0) and (errors[i] < peaks[1] or errors[i] == 0.0)
        count += 0 if ordinary and abs(x[i]) < np.inf and abs(mean[i]) < np.inf else 1
    return count > 0


@compiled
def _any_beyond(rows, low, high):  # type: ignore[no-untyped-def]
    """Return whether a value of a row of cells is beyond the bounds."""
    count = 0
    for r in range(rows.shape[0]):
        row = rows[r]
        for i in range(row.size):
            count += 1 if row[i] < low or row[i] > high else 0
    return count > 0


@compiled
def _cell(rows, sizes, share, i, factor):  # type: ignore[no-untyped-def]
    """Return mean and magnitude of a cell that may have gaps, whether any of it is covered, and whether it has gaps."""
    total, size, valid, whole = 0.0, 0.0, 0.0, 0.0
    for r in range(rows.shape[0]):
        for c in range(factor):
            s, value = share[r * factor + c, i], np.float64(rows[r, i * factor + c])
            whole += s
            if s > 0 and not np.isnan(value):
                magnitude = sizes[r, i * factor + c] if sizes.size else abs(value)
                total += s * value
                size += s * magnitude if np.isfinite(magnitude) else 0.0
                valid += s
    if not valid > 0:
        return np.nan, np.nan, False, False
    # A cell without gaps gives the same bits as without a mask.
    part = valid / whole if valid != whole else 1.0
    # Infinite values of both signs sum to NaN: the error is infinite all the same.
    return np.inf if np.isnan(total) else total / part, size / part, True, valid != whole


@compiled
def _beyond(rows, i, factor, low, high):  # type: ignore[no-untyped-def]
    """Count the values of a cell that are beyond the bounds."""
    count = 0
    for r in range(rows.shape[0]):
        for c in range(factor):
            value = rows[r, i * factor + c]
            count += value < low or value > high
    return count


@compiled
def local_range(values, closed, inner, out):  # type: ignore[no-untyped-def]
    """Write the range over each value and its neighbours.

    Parameters
    ----------
    values : array, shape (n_y, n_x)
        NaN is left out.
    closed : bool
        Whether the last column neighbours the first.
    inner : bool
        Whether to leave out the largest and the smallest, too, if there are at least four values.
    out : array of the shape of ``values``
        Written; zero where a value is NaN.
    """
    n_y, n_x = values.shape
    for j in range(n_y):
        for i in range(n_x):
            out[j, i] = 0.0
            if np.isnan(values[j, i]):
                continue
            least, second_least, greatest, second_greatest, count = np.inf, np.inf, -np.inf, -np.inf, 0
            for dj in range(-1, 2):
                for di in range(-1, 2):
                    row, column = j + dj, i + di
                    if closed:
                        column = column % n_x
                    if row < 0 or row >= n_y or column < 0 or column >= n_x:
                        continue
                    value = values[row, column]
                    if np.isnan(value):
                        continue
                    count += 1
                    if value < least:
                        least, second_least = value, least
                    elif value < second_least:
                        second_least = value
                    if value > greatest:
                        greatest, second_greatest = value, greatest
                    elif value > second_greatest:
                        second_greatest = value
            out[j, i] = second_greatest - second_least if inner and count >= 4 else greatest - least
