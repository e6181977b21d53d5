"""Compiled kernel that imposes conservation and bounds on strips of fine rows.

Fine rows come from :mod:`downscale.kernels.rows`, in strips that fit in the cache; every fine value is written once.
All sums are in float64 in a fixed order, so that any division of the field gives the same bits. The readable
counterpart is :mod:`downscale.nn.upsample` with :mod:`downscale.fields.conserve`.

In a strip, ``(begin, n)``, cells are counted from its first one; computed rows, fields and area fractions are whole.
"""

from __future__ import annotations

import numpy as np

from downscale.kernels.bounds import LANES, solve
from downscale.kernels.compiled import compiled
from downscale.kernels.lines import U, all_written
from downscale.kernels.rows import pair, reach, widened, written

# Fine columns per strip: few enough for the fastest cache.
STRIP = 1024


@compiled
def _share(y_share, x_share, part_share, row, i):  # type: ignore[no-untyped-def]
    """Return the area fraction of a part in its cell."""
    return part_share[row, i] if part_share.size else y_share[row] * x_share[i]


@compiled
def _means(values, ahead, strip, top, parts, y_share, x_share, part_share, total, mean):  # type: ignore[no-untyped-def]
    """Return the mean of each cell of a strip, whose first part is ``values[0, ahead]``, row ``top`` of the field."""
    (rows, columns), (begin, n) = parts, strip
    width, left, shift = n * columns, U(begin * columns), U(ahead)
    if part_share.size or rows != 4:
        _weighed(values, shift, width, left, top, rows, y_share, x_share, part_share, total)
    else:
        a, b, c, d = y_share[top], y_share[top + 1], y_share[top + 2], y_share[top + 3]
        for i in range(width):
            o = shift + U(i)
            one, two = a * values[U(0), o] + b * values[U(1), o], c * values[U(2), o] + d * values[U(3), o]
            total[i] = (one + two) * x_share[left + U(i)]
    if columns == 4:
        for i in range(n):
            o = U(4) * U(i)
            mean[i] = (total[o] + total[o + U(1)]) + (total[o + U(2)] + total[o + U(3)])
        return
    for i in range(n):
        o, found = U(columns) * U(i), 0.0
        for p in range(columns):
            found += total[o + U(p)]
        mean[i] = found


@compiled
def _weighed(values, shift, width, left, top, rows, y_share, x_share, part_share, total):  # type: ignore[no-untyped-def]
    """Add up the fine rows of a strip, each part times its area fraction."""
    for i in range(width):
        total[i] = 0.0
    for r in range(rows):
        row, own = U(r), U(top + r)
        if part_share.size:
            for i in range(width):
                total[i] += part_share[own, left + U(i)] * values[row, shift + U(i)]
        else:
            s = y_share[own]
            for i in range(width):
                total[i] += s * values[row, shift + U(i)]
    if not part_share.size:
        for i in range(width):
            total[i] *= x_share[left + U(i)]


@compiled
def _lack(x, k, j, strip, mean, gap):  # type: ignore[no-untyped-def]
    """Return the residual of the mean of each cell, and whether it is large for some cell."""
    (begin, n), k, j, much = strip, U(k), U(j), 0
    for i in range(n):
        value = np.float64(x[k, j, U(begin) + U(i)])
        gap[i] = value - mean[i]
        much += abs(value) < 1e-3 * abs(gap[i])
    return much > 0


@compiled
def _settle_small(  # type: ignore[no-untyped-def]
    x, k, j, strip, top, parts, y_share, x_share, part_share, buffer, gap, low, high
):  # fmt: skip
    """Restore the means of cells that are small compared with ``gap``, for which rounding is large."""
    (rows, columns), (before, n) = parts, strip
    for i in range(n):
        value = np.float64(x[k, j, before + i])
        # On a bound only one value is possible, which is imposed later.
        if not (abs(value) < 1e-3 * abs(gap[i]) and low < value < high):
            continue
        smallest, largest, rest, begin = np.inf, -np.inf, value, i * columns
        for r in range(rows):
            for q in range(begin, begin + columns):
                buffer[r, q] += gap[i]
                share = _share(y_share, x_share, part_share, top + r, before * columns + q)
                if share > 0:
                    smallest, largest = min(smallest, buffer[r, q]), max(largest, buffer[r, q])
                    rest -= share * buffer[r, q]
        for r in range(rows):
            for q in range(begin, begin + columns):
                buffer[r, q] = value if smallest == largest else buffer[r, q] + rest
        gap[i] = 0.0


@compiled
def _bound(  # type: ignore[no-untyped-def]
    x, k, j, strip, top, parts, y_share, x_share, part_share, covered, buffer, gap, keep, low, high, least, most, lanes,
    y, part,
):  # fmt: skip
    """Bring all cells of a strip within the bounds with their means, ``gap`` added; most need only a test.

    Cells with a ``keep`` of zero store nothing but ``gap``; returns whether there are such cells.
    """
    (rows, columns), (before, n) = parts, strip
    cells, count = lanes[0], 0
    _extremes(buffer, n, columns, least, most)
    edge = False
    for i in range(n):
        value, a, b = np.float64(x[U(k), U(j), U(before) + U(i)]), least[i] + gap[i], most[i] + gap[i]
        margin, keep[i] = 1e-3 * (b - a), 1.0
        if value <= low or value >= high:
            # On a bound only one value is possible; beyond it there is none, and conservation has priority over bounds.
            keep[i], gap[i], edge = 0.0, value, True
        elif covered[i] and (a < low or b > high or value - low < margin or high - value < margin):
            cells[count], lanes[1, count], lanes[2, count], lanes[3, count] = i, value, value - b, value - a
            count += 1
    if count == 0:
        return edge
    for r in range(rows):
        for c in range(columns):
            p = U(r * columns + c)
            for q in range(count):
                i = int(cells[q])
                y[p, q] = buffer[U(r), U(i * columns + c)] + gap[U(i)]
                part[p, q] = _share(y_share, x_share, part_share, U(top + r), U((before + i) * columns + c))
    solve(count, low, high, y, part, lanes)
    for r in range(rows):
        for c in range(columns):
            p = U(r * columns + c)
            for q in range(count):
                buffer[U(r), U(int(cells[q]) * columns + c)] = y[p, q]
    for q in range(count):
        gap[U(int(cells[q]))] = 0.0
    return edge


@compiled
def _extremes(buffer, n, columns, least, most):  # type: ignore[no-untyped-def]
    """Return the smallest and the largest part of each cell of a strip, in sequence."""
    # Written so that each choice is a single instruction.
    one, two = U(min(1, buffer.shape[0] - 1)), U(min(2, buffer.shape[0] - 1))
    three = U(min(3, buffer.shape[0] - 1))
    for i in range(n * columns):
        a, b, c, d = buffer[U(0), i], buffer[one, i], buffer[two, i], buffer[three, i]
        v, w = a if a < b else b, c if c < d else d
        a, c = a if a > b else b, c if c > d else d
        least[i], most[i] = v if v < w else w, a if a > c else c
    for r in range(4, buffer.shape[0]):
        for i in range(n * columns):
            v, a, b = buffer[U(r), i], least[i], most[i]
            least[i], most[i] = v if v < a else a, v if v > b else b
    # Values are read before they are overwritten.
    if columns == 4:
        for i in range(n):
            o = U(4) * U(i)
            a, b, c, d = least[o], least[o + U(1)], least[o + U(2)], least[o + U(3)]
            a, c = a if a < b else b, c if c < d else d
            least[i] = a if a < c else c
        for i in range(n):
            o = U(4) * U(i)
            a, b, c, d = most[o], most[o + U(1)], most[o + U(2)], most[o + U(3)]
            a, c = a if a > b else b, c if c > d else d
            most[i] = a if a > c else c
        return
    for i in range(n):
        begin = U(columns) * U(i)
        a, b = least[begin], most[begin]
        for c in range(1, columns):
            v, w = least[begin + U(c)], most[begin + U(c)]
            a, b = v if v < a else a, w if w > b else b
        least[i], most[i] = a, b


@compiled
def _stored(buffer, gap, keep, made, strip, columns, plain, added, kept):  # type: ignore[no-untyped-def]
    """Convert the fine rows of a strip to the type of the result: ``keep`` times a part, plus ``gap``."""
    kind, (begin, n) = made.dtype.type, strip
    left, width = U(begin * columns), n * columns
    _spread(gap, n, columns, added)
    if not plain:
        _spread(keep, n, columns, kept)
    for r in range(buffer.shape[0]):
        row = U(r)
        if plain:
            for i in range(width):
                made[row, left + U(i)] = kind(buffer[row, i] + added[i])
        else:
            for i in range(width):
                made[row, left + U(i)] = kind(kept[i] * buffer[row, i] + added[i])


@compiled
def _spread(given, n, columns, made):  # type: ignore[no-untyped-def]
    """Give each part the value of its cell."""
    if columns == 4:
        for i in range(n):
            o, v = U(4) * U(i), given[i]
            made[o], made[o + U(1)], made[o + U(2)], made[o + U(3)] = v, v, v, v
        return
    for i in range(n):
        for c in range(columns):
            made[U(columns) * U(i) + U(c)] = given[i]


@compiled
def _doubtful(  # type: ignore[no-untyped-def]
    x, k, j, strip, top, parts, y_share, x_share, part_share, mean, covered, made, tolerance
):  # fmt: skip
    """Return the number of cells whose stored values differ from their mean by more than ``tolerance``, relatively."""
    (rows, columns), (before, n) = parts, strip
    count, doubts = 0, 0
    for i in range(n):
        value = np.float64(x[U(k), U(j), U(before) + U(i)])
        doubts += not abs(mean[i] - value) <= tolerance * abs(value)
    for i in range(n if doubts else 0):
        value = np.float64(x[k, j, before + i])
        if not covered[i] or np.isnan(value) or abs(mean[i] - value) <= tolerance * abs(value):
            continue
        size = 0.0
        for r in range(rows):
            for q in range((before + i) * columns, (before + i + 1) * columns):
                size += _share(y_share, x_share, part_share, top + r, q) * abs(np.float64(made[r, q]))
        # Written so that NaN and infinite errors count.
        if not (abs(mean[i] - value) <= tolerance * max(abs(value), size) and size < np.inf):
            count += 1
    return count


@compiled
def _blank(x, k, j, made, columns):  # type: ignore[no-untyped-def]
    """Set the parts of missing cells to NaN."""
    for i in range(x.shape[2]):
        if np.isnan(x[U(k), U(j), U(i)]):
            made[:, i * columns : (i + 1) * columns] = np.nan


@compiled
def _add(term, top, left, width, buffer):  # type: ignore[no-untyped-def]
    """Add the term over a strip to its proposal."""
    for r in range(buffer.shape[0]):
        for i in range(width):
            buffer[U(r), i] += term[U(top + r), U(left) + U(i)]


@compiled
def _cover(part_share, strip, top, parts, covered):  # type: ignore[no-untyped-def]
    """Mark the cells of a strip with a valid part."""
    (rows, columns), (begin, n) = parts, strip
    for i in range(n):
        left = (begin + i) * columns
        covered[i] = part_share[top : top + rows, left : left + columns].sum() > 0


@compiled
def refine(  # type: ignore[no-untyped-def]
    coarse, x, out, first, last, index, y_weights, cuts, starts, x_weights, left, wide, closed, y_share, x_share,
    part_share, term, law, low, high, tolerance, doubtful,
):  # fmt: skip
    """Refine the rows ``first`` to ``last`` of some maps.

    Parameters
    ----------
    coarse, x, out : arrays, shapes (maps, given rows, given columns), (maps, n_y, n_x), (maps, fine rows, fine columns)
        Values without gaps; means to conserve, NaN where a cell is missing; the result, which is in C order and is
        written past the caches.
    index, y_weights : arrays, shapes (n_y, taps) and (n_y, factor_y, taps)
        Rows of ``coarse`` in the window of each row of cells, and their weights; no two rows of a window are ``taps``
        apart.
    cuts, starts, x_weights : arrays, shapes (runs + 1,), (runs,), (runs, factor_x, taps)
        Runs of cells with equal weights and windows one step apart: first cells, and first columns of windows.
    left, wide, closed : int, int, bool
        Columns before the first, number of columns, and whether they continue around a circle.
    y_share, x_share, part_share : arrays, shapes (fine rows,), (fine columns,), and both or (0, 0)
        Area fractions of parts in their cell, as products or not; those of a cell add up to one, or to zero if none is
        valid.
    term : array, shape (fine rows, fine columns) or (0, 0)
        Term to add to the proposal.
    law, low, high : int, float, float
        0: no conservation; 1: cell conservation; 2: cell conservation within ``low`` and ``high``.
    tolerance, doubtful : float, array of int of shape (maps,)
        Cells with larger relative errors are counted, none if it is infinite; written.
    """
    parts, taps, n, memory = (y_weights.shape[1], x_weights.shape[1]), index.shape[1], x.shape[2], U(out.ctypes.data)
    (rows, columns), step = parts, min(max(STRIP // parts[1], 1), n)
    width, shares = step * columns, (y_share, x_share, part_share)
    t, lines, buffer = np.empty((coarse.shape[1], wide)), np.empty((taps, n * columns)), np.empty((rows, width))
    made, held, slots = np.empty((rows, n * columns), out.dtype), np.empty(taps, np.int64), np.empty(taps, np.int64)
    covered, gap, keep, mean = np.ones(step, np.bool_), np.zeros(step), np.ones(step), np.empty(step)
    some, more, lanes = np.empty(width), np.empty(width), np.empty((LANES, step))
    y, part = np.empty((rows * columns, step)), np.empty((rows * columns, step))
    for k in range(coarse.shape[0]):
        widened(coarse, k, index[first:last].min(), index[first:last].max() + 1, left, wide, closed, t)
        held[:] = -1
        for j in range(first, last):
            reach(t, j, index, cuts, starts, x_weights, lines, held, slots)
            for begin in range(0, n, step):
                top, strip = j * rows, (begin, min(step, n - begin))
                own, ahead, size = (x, k, j, strip), begin * columns, strip[1] * columns
                for r in range(0, rows, 2):
                    other = min(r + 1, rows - 1)
                    pair(lines, slots, y_weights, j, r, other, ahead, size, buffer, r, other)
                if term.size:
                    _add(term, top, ahead, size, buffer)
                if part_share.size:
                    _cover(part_share, strip, top, parts, covered)
                if law == 0:
                    gap[:] = 0.0
                else:
                    _means(buffer, 0, strip, top, parts, *shares, some, mean)
                    if _lack(*own, mean, gap):
                        _settle_small(*own, top, parts, *shares, buffer, gap, low, high)
                edge = False
                if law == 2:
                    limits = (low, high, some, more, lanes, y, part)
                    edge = _bound(*own, top, parts, *shares, covered, buffer, gap, keep, *limits)
                _stored(buffer, gap, keep, made, strip, columns, not edge, some, more)
                if tolerance < np.inf:
                    _means(made, ahead, strip, top, parts, *shares, some, mean)
                    doubtful[k] += _doubtful(*own, top, parts, *shares, mean, covered, made, tolerance)
            _blank(x, k, j, made, columns)
            for r in range(rows):
                written(made, r, out, k, j * rows + r, memory)
    all_written()  # type: ignore[call-arg]
