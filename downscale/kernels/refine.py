"""Compiled operator, conservation, bounds and conservation check: all loops over fine values, in one file.

Each coarse row is refined along columns once, and is kept while windows contain it; fine rows are weighted sums of such
rows. Conservation and bounds are imposed on strips of them that fit in the cache, and every fine value is written once,
past the caches. All sums are in float64 in a fixed order, so that any division of the field gives the same bits.

The readable counterpart is :mod:`downscale.nn.polyphase` with :mod:`downscale.fields.conserve`. Arrays are indexed, not
sliced into views, whose reference counts threads would contend for. Functions of numba have no annotations; those that
call each other must be in one file, since its cache follows changes to that file only.
"""

from __future__ import annotations

import numpy as np

from downscale.kernels.compiled import LINE, compile_inner, compile_loop, fence, store_line
from downscale.kernels.windows import Strip

# Number of taps of the unrolled inner loops, and minimum number of taps; more are added one at a time.
UNROLLED = 7
# Fine columns per strip: few enough for the fastest cache.
STRIP = 1024
# Steps of the safeguarded Newton iteration (about 55 halvings reach rounding), and the values per cell that it needs.
STEPS, EPS, SCRATCH = 128, 2.220446049250313e-16, 9
# What is imposed: nothing, cell conservation, or cell conservation within bounds.
NO_LAW, CELL, BOUNDED = 0, 1, 2
# Unsigned, so that the compiler can exclude negative indices.
U = np.uintp


@compile_inner
def _write_row(fine, p, out, k, row, address):  # type: ignore[no-untyped-def]
    """Write a fine row; ``address`` is the address of ``out``."""
    n, p, k, row = out.shape[2], U(p), U(k), U(row)
    place = address + ((k * U(out.shape[1]) + row) * U(n)) * U(out.itemsize)
    per_line = LINE // out.itemsize
    first = min(int((U(LINE) - place % U(LINE)) % U(LINE)) // out.itemsize, n)
    lines = (n - first) // per_line
    for i in range(first):
        out[k, row, U(i)] = fine[p, U(i)]
    for i in range(lines):
        store_line(fine, p, out, k, row, U(first + i * per_line))  # type: ignore[call-arg]
    for i in range(first + lines * per_line, n):
        out[k, row, U(i)] = fine[p, U(i)]


def _by_factor(build):  # type: ignore[no-untyped-def]
    """Return a function of a factor that calls loops over that factor as a literal (any other: 0), which unroll."""

    def compile_as(name, function):  # type: ignore[no-untyped-def]
        # Functions of one name in different files of the cache replace each other when both are loaded.
        function.__qualname__ = name
        return compile_inner(function)

    two, four, eight, other = (compile_as(f"{build.__name__}_{literal}", build(literal)) for literal in (2, 4, 8, 0))

    def loops(factor, *arguments):  # type: ignore[no-untyped-def]
        if factor == 4:
            four(factor, *arguments)
        elif factor == 2:
            two(factor, *arguments)
        elif factor == 8:
            eight(factor, *arguments)
        else:
            other(factor, *arguments)

    return compile_as(build.__name__, loops)


# Fine rows from windows and weights.


@compile_inner
def _pad_rows(coarse, k, first, last, operator, t):  # type: ignore[no-untyped-def]
    """Write the coarse rows that a band of rows needs to ``t[row, left + i]``, continued around a circle."""
    index, left, n, k = operator.index, operator.left, coarse.shape[2], U(k)
    for row in range(U(index[first:last].min()), U(index[first:last].max() + 1)):
        for i in range(n):
            t[row, U(left) + U(i)] = coarse[k, row, i]
        # Beyond an open end windows have zero weights.
        for i in range(left):
            t[row, left - 1 - i] = t[row, left + (n - 1 - i) % n] if operator.closed else 0.0
        for i in range(left + n, operator.wide):
            t[row, i] = t[row, left + (i - left) % n] if operator.closed else 0.0


@compile_inner
def _take_seven(table, row, first):  # type: ignore[no-untyped-def]
    """Return seven numbers in a row as a tuple, which the compiler holds in registers."""
    row, first = U(row), U(first)
    return (
        table[row, first], table[row, first + U(1)], table[row, first + U(2)], table[row, first + U(3)],
        table[row, first + U(4)], table[row, first + U(5)], table[row, first + U(6)],
    )  # fmt: skip


@_by_factor
def _refine_columns(literal):  # type: ignore[no-untyped-def]
    columns_at_once = min(literal, 4) or 1
    one, two, three = (min(k, columns_at_once - 1) for k in (1, 2, 3))

    def loops(factor, t, row, operator, run, rows, slot):  # type: ignore[no-untyped-def]
        """Compute the columns of the cells of a run."""
        w, s, k, f = operator.x_weights, U(slot), U(row), literal or factor
        first, start = U(operator.cuts[run] * f), operator.starts[run]
        for c in range(0, f, columns_at_once):
            q = run * f + c
            weights = (_take_seven(w, q, 0), _take_seven(w, q + one, 0), _take_seven(w, q + two, 0),
                       _take_seven(w, q + three, 0))  # fmt: skip
            for i in range(operator.cuts[run + 1] - operator.cuts[run]):
                values, o = _take_seven(t, k, start + i), first + U(f) * U(i) + U(c)
                for p in range(columns_at_once):
                    total = weights[p][0] * values[0]
                    for tap in range(1, UNROLLED):
                        total += weights[p][tap] * values[tap]
                    rows[s, o + U(p)] = total
        for tap in range(UNROLLED, w.shape[1]):
            for i in range(operator.cuts[run + 1] - operator.cuts[run]):
                for c in range(f):
                    rows[s, first + U(f * i + c)] += w[U(run * f + c), U(tap)] * t[k, U(start + i + tap)]

    return loops


@compile_inner
def _update_rows(t, j, operator, rows, slot_rows, slots):  # type: ignore[no-untyped-def]
    """Provide the coarse rows of a window with their refined columns; ``slots`` holds their positions."""
    taps, factor = operator.index.shape[1], operator.x_weights.shape[0] // operator.starts.size
    for tap in range(taps):
        row = operator.index[j, tap]
        slots[0, tap] = row % taps
        if slot_rows[row % taps] == row:
            continue
        slot_rows[row % taps] = row
        for run in range(operator.starts.size):
            _refine_columns(factor, t, row, operator, run, rows, row % taps)


@compile_inner
def _two_rows(rows, slots, weights, first, second, left, width, fine, one, two):  # type: ignore[no-untyped-def]
    """Compute two fine rows, with the weights of two rows of a table, from column ``left`` on."""
    a, b, s = _take_seven(weights, first, 0), _take_seven(weights, second, 0), _take_seven(slots, 0, 0)
    one, two = U(one), U(two)
    for i in range(width):
        value = rows[U(s[0]), U(left) + U(i)]
        v, w = a[0] * value, b[0] * value
        for tap in range(1, UNROLLED):
            value = rows[U(s[tap]), U(left) + U(i)]
            v, w = v + a[tap] * value, w + b[tap] * value
        fine[one, i], fine[two, i] = v, w
    for tap in range(UNROLLED, weights.shape[1]):
        v, w, slot = weights[first, tap], weights[second, tap], U(slots[0, tap])
        for i in range(width):
            fine[one, i] += v * rows[slot, U(left) + U(i)]
            if two != one:
                fine[two, i] += w * rows[slot, U(left) + U(i)]


@compile_inner
def _raise_to_power(fine, size, power):  # type: ignore[no-untyped-def]
    """Raise the first ``size`` columns to a power; negative values become zero."""
    for r in range(fine.shape[0]):
        row = U(r)
        for i in range(size):
            v = fine[row, U(i)]
            v = v if v > 0 else 0.0
            if power == 2:
                v *= v
            elif power == 3:
                v *= v * v
            elif power == 4:
                v *= v
                v *= v
            else:
                v **= power
            fine[row, U(i)] = v


@compile_loop
def apply_operator(coarse, out, first, last, operator):  # type: ignore[no-untyped-def]
    """Apply an :class:`~downscale.kernels.windows.Operator` to some maps, without conservation and checks.

    To the rows ``first`` to ``last``, in the precision of the weights; ``out`` is in C order, and is written past the
    caches.
    """
    weights, taps, address = operator.y_weights, operator.index.shape[1], U(out.ctypes.data)
    factor, width = weights.shape[0] // operator.index.shape[0], out.shape[2]
    t, rows = np.empty((coarse.shape[1], operator.wide), weights.dtype), np.empty((taps, width), weights.dtype)
    fine, slot_rows, slots = np.empty((2, width), out.dtype), np.empty(taps, np.int64), np.empty((1, taps), np.int64)
    for k in range(coarse.shape[0]):
        _pad_rows(coarse, k, first, last, operator, t)
        slot_rows[:] = -1
        for j in range(first, last):
            _update_rows(t, j, operator, rows, slot_rows, slots)
            for r in range(j * factor, (j + 1) * factor, 2):
                other = min(r + 1, (j + 1) * factor - 1)
                _two_rows(rows, slots, weights, r, other, 0, width, fine, 0, 1)
                for row in range(r, other + 1):
                    _write_row(fine, row - r, out, k, row, address)
    fence()  # type: ignore[call-arg]


@_by_factor
def _add_row(literal):  # type: ignore[no-untyped-def]
    def loops(nodes, patterns, p, top, left, width, fine, row, in_proportion):  # type: ignore[no-untyped-def]
        """Add a row of a pattern to a fine row, or scale the row with it."""
        for i in range(width):
            value, k = fine[row, i], left + U(i)
            total = np.float64(patterns[p, U(0), top, k])
            for q in range(1, literal or nodes):
                low, high = np.float64(patterns[p, U(q), top, k]), np.float64(patterns[p, U(q + 1), top, k])
                total += patterns[p, U((literal or nodes) + q), top, k] * (min(max(value, low), high) - low)
            fine[row, i] = value * (1.0 + total) if in_proportion else value + total

    return loops


@compile_inner
def _apply_detail(fine, detail, strip):  # type: ignore[no-untyped-def]
    """Add the pattern of a map to the rows of a strip, or scale them with it."""
    p, left, width = U(detail.position[strip.k]), U(strip.begin * strip.columns), strip.n * strip.columns
    nodes, by = detail.patterns.shape[1] // 2, detail.in_proportion
    for r in range(strip.rows):
        _add_row(nodes, detail.patterns, p, U(strip.top + r), left, width, fine, U(r), by)


# Cell means of a strip.


@compile_inner
def _fraction(cells, row, i):  # type: ignore[no-untyped-def]
    """Return the area fraction of a fine cell."""
    return cells.cell_fraction[row, i] if cells.cell_fraction.size else cells.y_fraction[row] * cells.x_fraction[i]


@_by_factor
def _add_columns(literal):  # type: ignore[no-untyped-def]
    def loops(factor, n, values, total):  # type: ignore[no-untyped-def]
        """Add up the columns of each cell."""
        f = literal or factor
        for i in range(n):
            cell_sum = values[U(f) * U(i)]
            for c in range(1, f):
                cell_sum += values[U(f) * U(i) + U(c)]
            total[i] = cell_sum

    return loops


@compile_inner
def _means(values, first_column, strip, cells, absolute, total, mean):  # type: ignore[no-untyped-def]
    """Return the mean, of magnitudes if ``absolute``, of each cell of a strip: the operator A.

    The first subcell of the strip is ``values[0, first_column]``.
    """
    left, top, first_column = U(strip.begin * strip.columns), strip.top, U(first_column)
    for r in range(0, strip.rows, 2):
        one, two, odd = U(r), U(min(r + 1, strip.rows - 1)), r + 1 == strip.rows
        if not cells.cell_fraction.size:
            a, b = cells.y_fraction[top + r], 0.0 if odd else cells.y_fraction[top + r + 1]
        for i in range(strip.n * strip.columns):
            v, w = values[one, first_column + U(i)], values[two, first_column + U(i)]
            if absolute:
                v, w = abs(v), abs(w)
            if cells.cell_fraction.size:
                a = cells.cell_fraction[U(top) + one, left + U(i)]
                b = 0.0 if odd else cells.cell_fraction[U(top) + two, left + U(i)]
            total[i] = a * v + b * w + (total[i] if r else 0.0)
    if not cells.cell_fraction.size:
        for i in range(strip.n * strip.columns):
            total[i] *= cells.x_fraction[left + U(i)]
    _add_columns(strip.columns, strip.n, total, mean)


@compile_inner
def _residuals(x, strip, mean, residual):  # type: ignore[no-untyped-def]
    """Return the residual of the mean of each cell, and whether it is large for some cell."""
    k, j, small_count = U(strip.k), U(strip.j), 0
    for i in range(strip.n):
        value = np.float64(x[k, j, U(strip.begin) + U(i)])
        residual[i] = value - mean[i]
        small_count += abs(value) < 1e-3 * abs(residual[i])
    return small_count > 0


@compile_inner
def _restore_small(x, strip, cells, law, fine, residual):  # type: ignore[no-untyped-def]
    """Restore the means of cells that are small compared with their residual, for which rounding is large."""
    columns = strip.columns
    for i in range(strip.n):
        value = np.float64(x[strip.k, strip.j, strip.begin + i])
        # On a bound only one value is possible, which is imposed later.
        if not (abs(value) < 1e-3 * abs(residual[i]) and law.low < value < law.high):
            continue
        smallest, largest, rest, begin = np.inf, -np.inf, value, i * columns
        for r in range(strip.rows):
            for q in range(begin, begin + columns):
                fine[r, q] += residual[i]
                fraction = _fraction(cells, strip.top + r, strip.begin * columns + q)
                if fraction > 0:
                    smallest, largest = min(smallest, fine[r, q]), max(largest, fine[r, q])
                    rest -= fraction * fine[r, q]
        for r in range(strip.rows):
            for q in range(begin, begin + columns):
                fine[r, q] = value if smallest == largest else fine[r, q] + rest
        residual[i] = 0.0


# Bounds of a strip.


@compile_inner
def _impose_bounds(x, strip, cells, law, has_valid, fine, residual, scale, least, most, scratch, y, fraction):  # type: ignore[no-untyped-def]
    """Bring all cells of a strip within the bounds with their means, ``residual`` added; most need only a test.

    Cells with a ``scale`` of zero store nothing but ``residual``; returns whether there are such cells.
    """
    columns, low, high, count = strip.columns, law.low, law.high, 0
    selected = scratch[0]
    _extremes(fine, 0, strip, least, most)
    is_on_bound = False
    for i in range(strip.n):
        value = np.float64(x[U(strip.k), U(strip.j), U(strip.begin) + U(i)])
        a, b = least[i] + residual[i], most[i] + residual[i]
        margin, scale[i] = 1e-3 * (b - a), 1.0
        if value <= low or value >= high:
            # On a bound only one value is possible; beyond it there is none, and conservation has priority over bounds.
            scale[i], residual[i], is_on_bound = 0.0, value, True
        elif has_valid[i] and (a < low or b > high or value - low < margin or high - value < margin):
            selected[count], scratch[1, count], scratch[2, count], scratch[3, count] = i, value, value - b, value - a
            count += 1
    if count == 0:
        return is_on_bound
    for r in range(strip.rows):
        for c in range(columns):
            p = U(r * columns + c)
            for q in range(count):
                i = int(selected[q])
                y[p, q] = fine[U(r), U(i * columns + c)] + residual[U(i)]
                fraction[p, q] = _fraction(cells, U(strip.top + r), U((strip.begin + i) * columns + c))
    _solve(count, low, high, y, fraction, scratch)
    for r in range(strip.rows):
        for c in range(columns):
            p = U(r * columns + c)
            for q in range(count):
                fine[U(r), U(int(selected[q]) * columns + c)] = y[p, q]
    for q in range(count):
        residual[U(int(selected[q]))] = 0.0
    return is_on_bound


@_by_factor
def _reduce_columns(literal):  # type: ignore[no-untyped-def]
    def loops(factor, n, least, most):  # type: ignore[no-untyped-def]
        """Return the smallest and the largest column of each cell, in sequence."""
        f = literal or factor
        # Values are read before they are overwritten, and each choice is a single instruction.
        for i in range(n):
            a = least[U(f) * U(i)]
            for c in range(1, f):
                v = least[U(f) * U(i) + U(c)]
                a = v if v < a else a
            least[i] = a
        for i in range(n):
            b = most[U(f) * U(i)]
            for c in range(1, f):
                v = most[U(f) * U(i) + U(c)]
                b = v if v > b else b
            most[i] = b

    return loops


@compile_inner
def _extremes(fine, first_column, strip, least, most):  # type: ignore[no-untyped-def]
    """Return the smallest and the largest subcell of each cell of a strip, in sequence."""
    first_column = U(first_column)
    for r in range(0, strip.rows, 2):
        one, two = U(r), U(min(r + 1, strip.rows - 1))
        for i in range(strip.n * strip.columns):
            v, w = fine[one, first_column + U(i)], fine[two, first_column + U(i)]
            a, b = v if v < w else w, v if v > w else w
            if r:
                a, b = a if a < least[i] else least[i], b if b > most[i] else most[i]
            least[i], most[i] = a, b
    _reduce_columns(strip.columns, strip.n, least, most)


@compile_inner
def _solve(count, low, high, y, fraction, scratch):  # type: ignore[no-untyped-def]
    """Clip cells, in parallel, to the bounds with the shift that keeps each mean, by safeguarded Newton iteration.

    ``y[:, q]`` and ``fraction[:, q]`` are the values of a cell and their area fractions; ``scratch[1:4]`` its mean and
    the smallest and the largest shift.
    """
    target, left, right, shift, size, last, error, slope = (
        scratch[1], scratch[2], scratch[3], scratch[4], scratch[5], scratch[6], scratch[7], scratch[8]
    )  # fmt: skip
    for q in range(count):
        # The mean is already correct: without bounds no shift would be needed.
        shift[q], size[q], last[q] = min(max(0.0, left[q]), right[q]), 0.0, np.inf
    for p in range(y.shape[0]):
        for q in range(count):
            size[q] += fraction[p, q] * abs(y[p, q])
    for _ in range(STEPS):
        for q in range(count):
            error[q], slope[q] = 0.0, 0.0
        for p in range(y.shape[0]):
            for q in range(count):
                shifted, s = y[p, q] + shift[q], fraction[p, q]
                # Written so that each choice is a single instruction.
                clipped = shifted if shifted > low else low
                clipped = clipped if clipped < high else high
                error[q] += s * clipped
                slope[q] += s if (shifted > low) & (shifted < high) else 0.0
        active_count = 0
        for q in range(count):
            deviation = error[q] - target[q]
            if abs(deviation) <= 4 * EPS * max(abs(target[q]), size[q]):
                continue
            active_count += 1
            if deviation > 0:
                right[q] = shift[q]
            else:
                left[q] = shift[q]
            has_improved, last[q] = abs(deviation) <= 0.5 * last[q], abs(deviation)
            newton = shift[q] - deviation / slope[q] if slope[q] > 0 else np.nan
            # Between two bounds Newton's steps can alternate: if a step gains too little, bisect.
            is_inside = has_improved and slope[q] > 0 and left[q] <= newton <= right[q]
            shift[q] = newton if is_inside else 0.5 * (left[q] + right[q])
        if active_count == 0:
            break
    for p in range(y.shape[0]):
        for q in range(count):
            y[p, q] = min(max(y[p, q] + shift[q], low), high)
    _scale_to_mean(count, low, high, y, fraction, scratch)


@compile_inner
def _scale_to_mean(count, low, high, y, fraction, scratch):  # type: ignore[no-untyped-def]
    """Scale distances from the nearer bound: rounding of order one is large for a cell of drizzle."""
    target, size, bound, ratio, excess = scratch[1], scratch[5], scratch[2], scratch[3], scratch[7]
    for q in range(count):
        bound[q], excess[q] = (low if abs(target[q] - low) <= abs(high - target[q]) else high), 0.0
    for p in range(y.shape[0]):
        for q in range(count):
            excess[q] += fraction[p, q] * (y[p, q] - bound[q])
    for q in range(count):
        target_distance = target[q] - bound[q]
        deviation, scale = (
            abs(target_distance - excess[q]),
            max(abs(target[q]), size[q]) + abs(target[q]) + abs(bound[q]),
        )
        # Not if the bound is infinite, which would compare with NaN.
        is_rounding = 2 * EPS * abs(target_distance) < deviation <= 32 * EPS * scale
        ratio[q] = (
            (target_distance / excess[q] if excess[q] != 0 else 0.0) if is_rounding and np.isfinite(bound[q]) else 1.0
        )
        excess[q] = target_distance if excess[q] == 0 and ratio[q] == 0 else 0.0
    for p in range(y.shape[0]):
        for q in range(count):
            if ratio[q] != 1.0:
                y[p, q] = min(max(bound[q] + (y[p, q] - bound[q]) * ratio[q] + excess[q], low), high)


# Storage and check of a strip.


@_by_factor
def _repeat(literal):  # type: ignore[no-untyped-def]
    def loops(factor, n, values, subcell_values):  # type: ignore[no-untyped-def]
        """Give each subcell the value of its cell."""
        f = literal or factor
        for i in range(n):
            for c in range(f):
                subcell_values[U(f) * U(i) + U(c)] = values[i]

    return loops


@compile_inner
def _convert(fine, residual, scale, stored_rows, strip, is_plain, offsets, scales):  # type: ignore[no-untyped-def]
    """Convert the fine rows of a strip to the type of the result: ``scale`` times a subcell, plus ``residual``."""
    kind, left, width = stored_rows.dtype.type, U(strip.begin * strip.columns), strip.n * strip.columns
    _repeat(strip.columns, strip.n, residual, offsets)
    if not is_plain:
        _repeat(strip.columns, strip.n, scale, scales)
    for r in range(fine.shape[0]):
        row = U(r)
        if is_plain:
            for i in range(width):
                stored_rows[row, left + U(i)] = kind(fine[row, i] + offsets[i])
        else:
            for i in range(width):
                stored_rows[row, left + U(i)] = kind(scales[i] * fine[row, i] + offsets[i])


@compile_inner
def relative_error(mean, value, size, smallest):  # type: ignore[no-untyped-def]
    """Return the error of a cell mean relative to the coarse value or the mean magnitude: the largest of both.

    Below the magnitude ``smallest`` the stored types lose precision, and errors are relative to that.
    """
    scale = max(abs(value), size)
    return abs(mean - value) / max(scale, smallest) if scale > 0 else 0.0


@compile_inner
def _count_doubtful(x, strip, cells, mean, has_valid, stored_rows, tolerance):  # type: ignore[no-untyped-def]
    """Return the number of cells whose stored values differ from their mean by more than ``tolerance``, relatively."""
    count, suspect_count, columns = 0, 0, strip.columns
    for i in range(strip.n):
        value = np.float64(x[U(strip.k), U(strip.j), U(strip.begin) + U(i)])
        suspect_count += not abs(mean[i] - value) <= tolerance * abs(value)
    for i in range(strip.n if suspect_count else 0):
        value = np.float64(x[strip.k, strip.j, strip.begin + i])
        if not has_valid[i] or np.isnan(value) or abs(mean[i] - value) <= tolerance * abs(value):
            continue
        size = 0.0
        for r in range(strip.rows):
            for q in range((strip.begin + i) * columns, (strip.begin + i + 1) * columns):
                size += _fraction(cells, strip.top + r, q) * abs(np.float64(stored_rows[r, q]))
        # Written so that NaN and infinite errors count.
        if not (relative_error(mean[i], value, size, 0.0) <= tolerance and size < np.inf):
            count += 1
    return count


@compile_inner
def _mark_valid(cells, strip, has_valid):  # type: ignore[no-untyped-def]
    """Mark the cells of a strip with a valid subcell."""
    for i in range(strip.n):
        left = (strip.begin + i) * strip.columns
        has_valid[i] = cells.cell_fraction[strip.top : strip.top + strip.rows, left : left + strip.columns].sum() > 0


@compile_loop
def refine(coarse, x, out, first, last, operator, cells, detail, law, doubtful):  # type: ignore[no-untyped-def]
    """Refine the rows ``first`` to ``last`` of some maps.

    Parameters
    ----------
    coarse, x, out : arrays, shapes (maps, given rows, given columns), (maps, n_y, n_x), (maps, fine rows, fine columns)
        Values without gaps; means to conserve, NaN where a cell is missing; the result, which is in C order and is
        written past the caches.
    operator, cells, detail, law : Operator, CellFractions, Detail, Law
    doubtful : array of int, shape (maps,)
        Number of cells beyond the tolerance, written.
    """
    taps, n, address = operator.index.shape[1], x.shape[2], U(out.ctypes.data)
    rows, columns = out.shape[1] // x.shape[1], out.shape[2] // n
    step = min(max(STRIP // columns, 1), n)
    width = step * columns
    t, lines = np.empty((coarse.shape[1], operator.wide)), np.empty((taps, n * columns))
    fine, stored_rows = np.empty((rows, width)), np.empty((rows, n * columns), out.dtype)
    slot_rows, slots, has_valid = np.empty(taps, np.int64), np.empty((1, taps), np.int64), np.ones(step, np.bool_)
    residual, scale, mean = np.zeros(step), np.ones(step), np.empty(step)
    row_buffer, second_buffer, scratch = np.empty(width), np.empty(width), np.empty((SCRATCH, step))
    y, fraction = np.empty((rows * columns, step)), np.empty((rows * columns, step))
    for k in range(coarse.shape[0]):
        _pad_rows(coarse, k, first, last, operator, t)
        slot_rows[:] = -1
        for j in range(first, last):
            _update_rows(t, j, operator, lines, slot_rows, slots)
            for begin in range(0, n, step):
                strip = Strip(k, j, begin, min(step, n - begin), j * rows, rows, columns)
                first_column, size = begin * columns, strip.n * columns
                for r in range(0, rows, 2):
                    other = min(r + 1, rows - 1)
                    w, top = operator.y_weights, strip.top
                    _two_rows(lines, slots, w, top + r, top + other, first_column, size, fine, r, other)
                if law.power != 1:
                    _raise_to_power(fine, size, law.power)
                if detail.patterns.size:
                    _apply_detail(fine, detail, strip)
                if cells.term.size:
                    for r in range(rows):
                        for i in range(size):
                            fine[U(r), i] += cells.term[U(strip.top + r), U(first_column) + U(i)]
                if cells.cell_fraction.size:
                    _mark_valid(cells, strip, has_valid)
                if law.kind == NO_LAW:
                    residual[:] = 0.0
                else:
                    _means(fine, 0, strip, cells, False, row_buffer, mean)
                    if _residuals(x, strip, mean, residual):
                        _restore_small(x, strip, cells, law, fine, residual)
                is_on_bound = False
                if law.kind == BOUNDED:
                    is_on_bound = _impose_bounds(
                        x, strip, cells, law, has_valid, fine, residual, scale, row_buffer,
                        second_buffer, scratch, y, fraction,
                    )  # fmt: skip
                _convert(fine, residual, scale, stored_rows, strip, not is_on_bound, row_buffer, second_buffer)
                if law.tolerance < np.inf:
                    _means(stored_rows, first_column, strip, cells, False, row_buffer, mean)
                    doubtful[k] += _count_doubtful(x, strip, cells, mean, has_valid, stored_rows, law.tolerance)
            for i in range(n):
                if np.isnan(x[U(k), U(j), U(i)]):
                    stored_rows[:, i * columns : (i + 1) * columns] = np.nan
            for r in range(rows):
                _write_row(stored_rows, r, out, k, j * rows + r, address)
    fence()  # type: ignore[call-arg]


# Check of fields that are already stored.


@compile_loop
def check_cells(  # type: ignore[no-untyped-def]
    x, y, sizes, cells, area, low, high, smallest, peaks, places, counts, sums
):  # fmt: skip
    """Compare coarse means ``x`` with fine values ``y``, cell by cell.

    Parameters
    ----------
    x, y : arrays, shapes (maps, n_y, n_x) and (maps, n_y * factor_y, n_x * factor_x)
        NaN marks missing cells; infinite coarse values are missing too.
    sizes : array of the shape of ``y``, or (0, 0, 0)
        Mean magnitudes of the values averaged into each fine value, if it is a mean; else empty.
    cells : CellFractions
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
    n_y, n_x = x.shape[1:]
    rows, width, bounded = y.shape[1] // n_y, y.shape[2], low > -np.inf or high < np.inf
    row_buffer, second_buffer, means, magnitudes = np.empty(width), np.empty(width), np.empty(n_x), np.empty(n_x)
    for k in range(x.shape[0]):
        for j in range(n_y):
            strip = Strip(k, j, 0, n_x, j * rows, rows, width // n_x)
            values, row_sizes = y[k, strip.top : strip.top + rows], sizes[k : k + 1, strip.top : strip.top + rows]
            _means(values, 0, strip, cells, False, row_buffer, means)
            _means(values, 0, strip, cells, True, row_buffer, magnitudes)
            if bounded:
                _extremes(values, 0, strip, row_buffer, second_buffer)
            for i in range(n_x):
                value, mean, size, has_valid, has_gaps = x[k, j, i], means[i], magnitudes[i], True, False
                finite = np.isfinite(mean)
                is_within = finite and row_buffer[i] >= low and second_buffer[i] <= high
                if bounded and low <= value <= high and not is_within:
                    counts[4] += _count_beyond(values, i, strip, low, high)
                if sizes.size or not finite:
                    mean, size, has_valid, has_gaps = _mean_with_gaps(values, row_sizes, strip, cells, i)
                if not np.isfinite(value):
                    counts[1] += 1
                    counts[3] += has_valid
                elif not has_valid:
                    counts[2] += 1
                else:
                    counts[0] += 1
                    counts[5] += has_gaps
                    errors = relative_error(mean, value, size, smallest), abs(mean - value)
                    for p in range(2):
                        if errors[p] > peaks[p]:
                            peaks[p], places[p, 0], places[p, 1], places[p, 2] = errors[p], k, j, i
                    sums[0, k] += area[j, i] * mean
                    sums[1, k] += area[j, i] * value
                    sums[2, k] += area[j, i] * max(abs(value), size)


@compile_inner
def _mean_with_gaps(values, sizes, strip, cells, i):  # type: ignore[no-untyped-def]
    """Return mean and magnitude of a cell that may have gaps, whether any of it is covered, and whether it has gaps."""
    total, size, valid, total_fraction = 0.0, 0.0, 0.0, 0.0
    for r in range(strip.rows):
        for q in range(i * strip.columns, (i + 1) * strip.columns):
            fraction, value = _fraction(cells, strip.top + r, q), np.float64(values[r, q])
            total_fraction += fraction
            if fraction > 0 and not np.isnan(value):
                magnitude = sizes[0, r, q] if sizes.size else abs(value)
                total += fraction * value
                size += fraction * magnitude if np.isfinite(magnitude) else 0.0
                valid += fraction
    if not valid > 0:
        return np.nan, np.nan, False, False
    # A cell without gaps gives the same bits as without a mask.
    valid_fraction = valid / total_fraction if valid != total_fraction else 1.0
    # Infinite values of both signs sum to NaN: the error is infinite all the same.
    return np.inf if np.isnan(total) else total / valid_fraction, size / valid_fraction, True, valid != total_fraction


@compile_inner
def _count_beyond(values, i, strip, low, high):  # type: ignore[no-untyped-def]
    """Count the values of a cell that are beyond the bounds."""
    count = 0
    for r in range(strip.rows):
        for q in range(i * strip.columns, (i + 1) * strip.columns):
            count += values[r, q] < low or values[r, q] > high
    return count
