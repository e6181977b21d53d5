"""Compiled operator, conservation and bounds: all loops over fine values, in one file.

Each coarse row is refined along columns once, and is kept while windows contain it; fine rows are weighted sums of such
rows. Conservation and bounds are imposed on strips of them that fit in the cache, and every fine value is written once,
past the caches. All sums are in float64 in a fixed order, so that any division of the field gives the same bits.

The readable counterpart is :mod:`downscale.nn.polyphase` with :mod:`downscale.fields.conserve`. Arrays are indexed, not
sliced into views, whose reference counts threads would contend for. Functions of numba have no annotations; those that
call each other must be in one file, since its cache follows changes to that file only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numpy.typing import NDArray

from downscale.kernels.compiled import compiled

# Number of taps of the unrolled inner loops, and minimum number of taps; more are added one at a time.
UNROLLED = 7
# Fine columns per strip: few enough for the fastest cache.
STRIP = 1024
# Bytes of a cache line.
LINE = 64
# Steps of the safeguarded Newton iteration (about 55 halvings reach rounding), and the values per cell that it needs.
STEPS, EPS, SCRATCH = 128, 2.220446049250313e-16, 9
# What is imposed: nothing, cell conservation, or cell conservation within bounds.
NO_LAW, CELL, BOUNDED = 0, 1, 2
# Unsigned, so that the compiler can exclude negative indices.
U = np.uintp


class Operator(NamedTuple):
    """An operator along rows and columns as windows and weights.

    Attributes
    ----------
    index, y_weights : arrays, shapes (n_y, taps) and (n_y, factor_y, taps)
        Coarse rows in the window of each row of cells, and their weights; no two rows of a window are ``taps`` apart.
    cuts, starts, x_weights : arrays, shapes (runs + 1,), (runs,), (runs, factor_x, taps)
        Runs of cells with equal weights and windows one step apart: first cells, and first columns of windows.
    left, wide, closed : int, int, bool
        Columns before the first, number of columns, and whether they continue around a circle.
    """

    index: NDArray[np.int64]  # type: ignore[assignment]
    y_weights: NDArray[Any]
    cuts: NDArray[np.int64]
    starts: NDArray[np.int64]
    x_weights: NDArray[Any]
    left: int
    wide: int
    closed: bool


class Subcells(NamedTuple):
    """Area fractions of fine cells in their coarse cell, and the field to add to the proposal.

    Attributes
    ----------
    y_share, x_share, share : arrays, shapes (fine rows,), (fine columns,), and both or (0, 0)
        Fractions as products or not; those of a cell add up to one, or to zero if none is valid.
    term : array, shape (fine rows, fine columns) or (0, 0)
        Field to add.
    """

    y_share: NDArray[np.float64]
    x_share: NDArray[np.float64]
    share: NDArray[np.float64]
    term: NDArray[np.float64]


class Law(NamedTuple):
    """What is imposed, and the relative error beyond which a cell is counted (none if it is infinite)."""

    kind: int
    low: float
    high: float
    tolerance: float


class _Strip(NamedTuple):
    """The ``n`` cells from ``begin`` on in the row ``j`` of map ``k``, whose first fine row is ``top``."""

    k: int
    j: int
    begin: int
    n: int
    top: int
    rows: int
    columns: int


@intrinsic
def _store_line(typingctx, source, row, out, k, at, i):  # type: ignore[no-untyped-def]
    """Write the cache line of ``out[k, at]`` that begins with column ``i``, past the caches; rows are in C order.

    Memory that is only written need not be read first, which is half the cost of a large result.
    """
    if source.layout != "C" or out.layout != "C" or source.dtype != out.dtype:
        raise TypingError(f"expected arrays of one type in C order, received {source} and {out}; copy them first")

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        def place(kind, array, index):  # type: ignore[no-untyped-def]
            struct = context.make_array(kind)(context, builder, array)
            shape, strides = (cgutils.unpack_tuple(builder, v) for v in (struct.shape, struct.strides))
            data = struct.data
            return cgutils.get_item_pointer2(context, builder, data, shape, strides, "C", index, wraparound=False)

        item = context.get_value_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(item)
        line = ir.VectorType(item, LINE // size).as_pointer()
        origin = place(signature.args[0], values[0], (values[1], values[5]))
        target = place(signature.args[2], values[2], values[3:6])
        stored = builder.store(
            builder.load(builder.bitcast(origin, line), align=size), builder.bitcast(target, line), LINE
        )
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(source, row, out, k, at, i), code


@intrinsic
def _fence(typingctx):  # type: ignore[no-untyped-def]
    """Make values written past the caches visible to other threads."""

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code


@compiled
def _write_row(fine, p, out, k, row, memory):  # type: ignore[no-untyped-def]
    """Write a fine row; ``memory`` is the address of ``out``."""
    n, p, k, row = out.shape[2], U(p), U(k), U(row)
    place = memory + ((k * U(out.shape[1]) + row) * U(n)) * U(out.itemsize)
    each = LINE // out.itemsize
    first = min(int((U(LINE) - place % U(LINE)) % U(LINE)) // out.itemsize, n)
    lines = (n - first) // each
    for i in range(first):
        out[k, row, U(i)] = fine[p, U(i)]
    for i in range(lines):
        _store_line(fine, p, out, k, row, U(first + i * each))  # type: ignore[call-arg]
    for i in range(first + lines * each, n):
        out[k, row, U(i)] = fine[p, U(i)]


# Fine rows from windows and weights.


@compiled
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


@compiled
def _four_columns(t, row, operator, run, rows, slot):  # type: ignore[no-untyped-def]
    """Compute the four columns of the cells of a run, with seven taps."""
    w, q, s, k = operator.x_weights, U(run), U(slot), U(row)
    first, start, cells = U(operator.cuts[run]), U(operator.starts[run]), operator.cuts[run + 1] - operator.cuts[run]
    a0, a1, a2, a3 = w[q, 0, 0], w[q, 0, 1], w[q, 0, 2], w[q, 0, 3]
    a4, a5, a6 = w[q, 0, 4], w[q, 0, 5], w[q, 0, 6]
    b0, b1, b2, b3 = w[q, 1, 0], w[q, 1, 1], w[q, 1, 2], w[q, 1, 3]
    b4, b5, b6 = w[q, 1, 4], w[q, 1, 5], w[q, 1, 6]
    c0, c1, c2, c3 = w[q, 2, 0], w[q, 2, 1], w[q, 2, 2], w[q, 2, 3]
    c4, c5, c6 = w[q, 2, 4], w[q, 2, 5], w[q, 2, 6]
    d0, d1, d2, d3 = w[q, 3, 0], w[q, 3, 1], w[q, 3, 2], w[q, 3, 3]
    d4, d5, d6 = w[q, 3, 4], w[q, 3, 5], w[q, 3, 6]
    for i in range(cells):
        u, o = start + U(i), U(4) * (first + U(i))
        t0, t1, t2, t3 = t[k, u], t[k, u + U(1)], t[k, u + U(2)], t[k, u + U(3)]
        t4, t5, t6 = t[k, u + U(4)], t[k, u + U(5)], t[k, u + U(6)]
        rows[s, o] = a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3 + a4 * t4 + a5 * t5 + a6 * t6
        rows[s, o + U(1)] = b0 * t0 + b1 * t1 + b2 * t2 + b3 * t3 + b4 * t4 + b5 * t5 + b6 * t6
        rows[s, o + U(2)] = c0 * t0 + c1 * t1 + c2 * t2 + c3 * t3 + c4 * t4 + c5 * t5 + c6 * t6
        rows[s, o + U(3)] = d0 * t0 + d1 * t1 + d2 * t2 + d3 * t3 + d4 * t4 + d5 * t5 + d6 * t6


@compiled
def _column(t, row, operator, run, c, rows, slot):  # type: ignore[no-untyped-def]
    """Compute one column of the cells of a run, with any number of taps."""
    w, q, c, s, k, f = operator.x_weights, U(run), U(c), U(slot), U(row), U(operator.x_weights.shape[1])
    first, start, cells = U(operator.cuts[run]), U(operator.starts[run]), operator.cuts[run + 1] - operator.cuts[run]
    a0, a1, a2, a3, a4, a5, a6 = w[q, c, 0], w[q, c, 1], w[q, c, 2], w[q, c, 3], w[q, c, 4], w[q, c, 5], w[q, c, 6]
    for i in range(cells):
        u = start + U(i)
        t0, t1, t2, t3 = t[k, u], t[k, u + U(1)], t[k, u + U(2)], t[k, u + U(3)]
        t4, t5, t6 = t[k, u + U(4)], t[k, u + U(5)], t[k, u + U(6)]
        total = a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3 + a4 * t4 + a5 * t5 + a6 * t6
        for tap in range(UNROLLED, w.shape[2]):
            total += w[q, c, U(tap)] * t[k, u + U(tap)]
        rows[s, f * (first + U(i)) + c] = total


@compiled
def _update_rows(t, j, operator, rows, held, slots):  # type: ignore[no-untyped-def]
    """Provide the coarse rows of a window with their refined columns; ``slots`` holds their positions."""
    weights, taps = operator.x_weights, operator.index.shape[1]
    for tap in range(taps):
        row = operator.index[j, tap]
        slot = row % taps
        slots[tap] = slot
        if held[slot] == row:
            continue
        held[slot] = row
        for run in range(operator.starts.size):
            if weights.shape[1] == 4 and weights.shape[2] == UNROLLED:
                _four_columns(t, row, operator, run, rows, slot)
            else:
                for c in range(weights.shape[1]):
                    _column(t, row, operator, run, c, rows, slot)


@compiled
def _two_rows(rows, slots, weights, j, r, other, left, width, fine, one, two):  # type: ignore[no-untyped-def]
    """Compute the fine rows ``r`` and ``other`` from column ``left`` on: ``fine[one]`` and ``fine[two]``."""
    w, j, r, q, one, two = weights, U(j), U(r), U(other), U(one), U(two)
    a0, a1, a2, a3 = w[j, r, 0], w[j, r, 1], w[j, r, 2], w[j, r, 3]
    a4, a5, a6 = w[j, r, 4], w[j, r, 5], w[j, r, 6]
    b0, b1, b2, b3 = w[j, q, 0], w[j, q, 1], w[j, q, 2], w[j, q, 3]
    b4, b5, b6 = w[j, q, 4], w[j, q, 5], w[j, q, 6]
    s0, s1, s2, s3 = U(slots[0]), U(slots[1]), U(slots[2]), U(slots[3])
    s4, s5, s6 = U(slots[4]), U(slots[5]), U(slots[6])
    for i in range(width):
        o = U(left) + U(i)
        t0, t1, t2, t3, t4, t5, t6 = (
            rows[s0, o], rows[s1, o], rows[s2, o], rows[s3, o], rows[s4, o], rows[s5, o], rows[s6, o]
        )  # fmt: skip
        fine[one, i] = a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3 + a4 * t4 + a5 * t5 + a6 * t6
        fine[two, i] = b0 * t0 + b1 * t1 + b2 * t2 + b3 * t3 + b4 * t4 + b5 * t5 + b6 * t6
    for tap in range(UNROLLED, w.shape[2]):
        a, b, s = w[j, r, U(tap)], w[j, q, U(tap)], U(slots[tap])
        for i in range(width):
            fine[one, i] += a * rows[s, U(left) + U(i)]
            if two != one:
                fine[two, i] += b * rows[s, U(left) + U(i)]


@compiled
def apply_operator(coarse, out, first, last, operator):  # type: ignore[no-untyped-def]
    """Apply an :class:`Operator` to the rows ``first`` to ``last`` of some maps, without conservation and checks.

    In the precision of the weights; ``out`` is in C order, and is written past the caches.
    """
    index, weights, x_weights = operator.index, operator.y_weights, operator.x_weights
    factor, taps, width = weights.shape[1], index.shape[1], operator.cuts[-1] * x_weights.shape[1]
    memory = U(out.ctypes.data)
    t, rows = np.empty((coarse.shape[1], operator.wide), weights.dtype), np.empty((taps, width), weights.dtype)
    fine, held, slots = np.empty((2, width), out.dtype), np.empty(taps, np.int64), np.empty(taps, np.int64)
    for k in range(coarse.shape[0]):
        _pad_rows(coarse, k, first, last, operator, t)
        held[:] = -1
        for j in range(first, last):
            _update_rows(t, j, operator, rows, held, slots)
            for r in range(0, factor, 2):
                other = min(r + 1, factor - 1)
                _two_rows(rows, slots, weights, j, r, other, 0, width, fine, 0, 1)
                for p in range(other - r + 1):
                    _write_row(fine, p, out, k, j * factor + r + p, memory)
    _fence()  # type: ignore[call-arg]


# Cell means of a strip.


@compiled
def _share(cells, row, i):  # type: ignore[no-untyped-def]
    """Return the area fraction of a fine cell."""
    return cells.share[row, i] if cells.share.size else cells.y_share[row] * cells.x_share[i]


@compiled
def _means(values, ahead, strip, cells, total, mean):  # type: ignore[no-untyped-def]
    """Return the mean of each cell of a strip, whose first subcell is ``values[0, ahead]``."""
    columns, n, top = strip.columns, strip.n, strip.top
    width, left, shift = n * columns, U(strip.begin * columns), U(ahead)
    if cells.share.size or strip.rows != 4:
        _add_rows(values, shift, strip, cells, total)
    else:
        y = cells.y_share
        a, b, c, d = y[top], y[top + 1], y[top + 2], y[top + 3]
        for i in range(width):
            o = shift + U(i)
            one, two = a * values[U(0), o] + b * values[U(1), o], c * values[U(2), o] + d * values[U(3), o]
            total[i] = (one + two) * cells.x_share[left + U(i)]
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
def _add_rows(values, shift, strip, cells, total):  # type: ignore[no-untyped-def]
    """Add up the fine rows of a strip, each subcell times its area fraction."""
    width, left = strip.n * strip.columns, U(strip.begin * strip.columns)
    for i in range(width):
        total[i] = 0.0
    for r in range(strip.rows):
        row, own = U(r), U(strip.top + r)
        if cells.share.size:
            for i in range(width):
                total[i] += cells.share[own, left + U(i)] * values[row, shift + U(i)]
        else:
            s = cells.y_share[own]
            for i in range(width):
                total[i] += s * values[row, shift + U(i)]
    if not cells.share.size:
        for i in range(width):
            total[i] *= cells.x_share[left + U(i)]


@compiled
def _residuals(x, strip, mean, residual):  # type: ignore[no-untyped-def]
    """Return the residual of the mean of each cell, and whether it is large for some cell."""
    k, j, much = U(strip.k), U(strip.j), 0
    for i in range(strip.n):
        value = np.float64(x[k, j, U(strip.begin) + U(i)])
        residual[i] = value - mean[i]
        much += abs(value) < 1e-3 * abs(residual[i])
    return much > 0


@compiled
def _settle_small(x, strip, cells, law, fine, residual):  # type: ignore[no-untyped-def]
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
                share = _share(cells, strip.top + r, strip.begin * columns + q)
                if share > 0:
                    smallest, largest = min(smallest, fine[r, q]), max(largest, fine[r, q])
                    rest -= share * fine[r, q]
        for r in range(strip.rows):
            for q in range(begin, begin + columns):
                fine[r, q] = value if smallest == largest else fine[r, q] + rest
        residual[i] = 0.0


# Bounds of a strip.


@compiled
def _bound(x, strip, cells, law, covered, fine, residual, scale, least, most, scratch, y, share):  # type: ignore[no-untyped-def]
    """Bring all cells of a strip within the bounds with their means, ``residual`` added; most need only a test.

    Cells with a ``scale`` of zero store nothing but ``residual``; returns whether there are such cells.
    """
    columns, low, high, count = strip.columns, law.low, law.high, 0
    chosen = scratch[0]
    _extremes(fine, strip.n, columns, least, most)
    edge = False
    for i in range(strip.n):
        value = np.float64(x[U(strip.k), U(strip.j), U(strip.begin) + U(i)])
        a, b = least[i] + residual[i], most[i] + residual[i]
        margin, scale[i] = 1e-3 * (b - a), 1.0
        if value <= low or value >= high:
            # On a bound only one value is possible; beyond it there is none, and conservation has priority over bounds.
            scale[i], residual[i], edge = 0.0, value, True
        elif covered[i] and (a < low or b > high or value - low < margin or high - value < margin):
            chosen[count], scratch[1, count], scratch[2, count], scratch[3, count] = i, value, value - b, value - a
            count += 1
    if count == 0:
        return edge
    for r in range(strip.rows):
        for c in range(columns):
            p = U(r * columns + c)
            for q in range(count):
                i = int(chosen[q])
                y[p, q] = fine[U(r), U(i * columns + c)] + residual[U(i)]
                share[p, q] = _share(cells, U(strip.top + r), U((strip.begin + i) * columns + c))
    _solve(count, low, high, y, share, scratch)
    for r in range(strip.rows):
        for c in range(columns):
            p = U(r * columns + c)
            for q in range(count):
                fine[U(r), U(int(chosen[q]) * columns + c)] = y[p, q]
    for q in range(count):
        residual[U(int(chosen[q]))] = 0.0
    return edge


@compiled
def _extremes(fine, n, columns, least, most):  # type: ignore[no-untyped-def]
    """Return the smallest and the largest subcell of each cell of a strip, in sequence."""
    # Written so that each choice is a single instruction.
    one, two = U(min(1, fine.shape[0] - 1)), U(min(2, fine.shape[0] - 1))
    three = U(min(3, fine.shape[0] - 1))
    for i in range(n * columns):
        a, b, c, d = fine[U(0), i], fine[one, i], fine[two, i], fine[three, i]
        v, w = a if a < b else b, c if c < d else d
        a, c = a if a > b else b, c if c > d else d
        least[i], most[i] = v if v < w else w, a if a > c else c
    for r in range(4, fine.shape[0]):
        for i in range(n * columns):
            v, a, b = fine[U(r), i], least[i], most[i]
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
def _solve(count, low, high, y, share, scratch):  # type: ignore[no-untyped-def]
    """Clip cells, in parallel, to the bounds with the shift that keeps each mean, by safeguarded Newton iteration.

    ``y[:, q]`` and ``share[:, q]`` are the values of a cell and their area fractions; ``scratch[1:4]`` its mean and the
    smallest and the largest shift.
    """
    aim, left, right, shift, size, last, error, slope = (
        scratch[1], scratch[2], scratch[3], scratch[4], scratch[5], scratch[6], scratch[7], scratch[8]
    )  # fmt: skip
    for q in range(count):
        # The mean is already correct: without bounds no shift would be needed.
        shift[q], size[q], last[q] = min(max(0.0, left[q]), right[q]), 0.0, np.inf
    for p in range(y.shape[0]):
        for q in range(count):
            size[q] += share[p, q] * abs(y[p, q])
    for _ in range(STEPS):
        for q in range(count):
            error[q], slope[q] = 0.0, 0.0
        for p in range(y.shape[0]):
            for q in range(count):
                moved, s = y[p, q] + shift[q], share[p, q]
                # Written so that each choice is a single instruction.
                clipped = moved if moved > low else low
                clipped = clipped if clipped < high else high
                error[q] += s * clipped
                slope[q] += s if (moved > low) & (moved < high) else 0.0
        going = 0
        for q in range(count):
            miss = error[q] - aim[q]
            if abs(miss) <= 4 * EPS * max(abs(aim[q]), size[q]):
                continue
            going += 1
            if miss > 0:
                right[q] = shift[q]
            else:
                left[q] = shift[q]
            gains, last[q] = abs(miss) <= 0.5 * last[q], abs(miss)
            newton = shift[q] - miss / slope[q] if slope[q] > 0 else np.nan
            # Between two bounds Newton's steps can alternate: if a step gains too little, bisect.
            inside = gains and slope[q] > 0 and left[q] <= newton <= right[q]
            shift[q] = newton if inside else 0.5 * (left[q] + right[q])
        if going == 0:
            break
    for p in range(y.shape[0]):
        for q in range(count):
            y[p, q] = min(max(y[p, q] + shift[q], low), high)
    _scale_to_mean(count, low, high, y, share, scratch)


@compiled
def _scale_to_mean(count, low, high, y, share, scratch):  # type: ignore[no-untyped-def]
    """Scale distances from the nearer bound: rounding of order one is large for a cell of drizzle."""
    aim, size, bound, ratio, excess = scratch[1], scratch[5], scratch[2], scratch[3], scratch[7]
    for q in range(count):
        bound[q], excess[q] = (low if abs(aim[q] - low) <= abs(high - aim[q]) else high), 0.0
    for p in range(y.shape[0]):
        for q in range(count):
            excess[q] += share[p, q] * (y[p, q] - bound[q])
    for q in range(count):
        wanted = aim[q] - bound[q]
        miss, scale = abs(wanted - excess[q]), max(abs(aim[q]), size[q]) + abs(aim[q]) + abs(bound[q])
        # Not if the bound is infinite, which would compare with NaN.
        close = 2 * EPS * abs(wanted) < miss <= 32 * EPS * scale
        ratio[q] = (wanted / excess[q] if excess[q] != 0 else 0.0) if close and np.isfinite(bound[q]) else 1.0
        excess[q] = wanted if excess[q] == 0 and ratio[q] == 0 else 0.0
    for p in range(y.shape[0]):
        for q in range(count):
            if ratio[q] != 1.0:
                y[p, q] = min(max(bound[q] + (y[p, q] - bound[q]) * ratio[q] + excess[q], low), high)


# Storage and check of a strip.


@compiled
def _convert(fine, residual, scale, stored, strip, plain, added, scales):  # type: ignore[no-untyped-def]
    """Convert the fine rows of a strip to the type of the result: ``scale`` times a subcell, plus ``residual``."""
    kind, left, width = stored.dtype.type, U(strip.begin * strip.columns), strip.n * strip.columns
    _repeat(residual, strip.n, strip.columns, added)
    if not plain:
        _repeat(scale, strip.n, strip.columns, scales)
    for r in range(fine.shape[0]):
        row = U(r)
        if plain:
            for i in range(width):
                stored[row, left + U(i)] = kind(fine[row, i] + added[i])
        else:
            for i in range(width):
                stored[row, left + U(i)] = kind(scales[i] * fine[row, i] + added[i])


@compiled
def _repeat(values, n, columns, repeated):  # type: ignore[no-untyped-def]
    """Give each subcell the value of its cell."""
    if columns == 4:
        for i in range(n):
            o, v = U(4) * U(i), values[i]
            repeated[o], repeated[o + U(1)], repeated[o + U(2)], repeated[o + U(3)] = v, v, v, v
        return
    for i in range(n):
        for c in range(columns):
            repeated[U(columns) * U(i) + U(c)] = values[i]


@compiled
def _count_doubtful(x, strip, cells, mean, covered, stored, tolerance):  # type: ignore[no-untyped-def]
    """Return the number of cells whose stored values differ from their mean by more than ``tolerance``, relatively."""
    count, doubts, columns = 0, 0, strip.columns
    for i in range(strip.n):
        value = np.float64(x[U(strip.k), U(strip.j), U(strip.begin) + U(i)])
        doubts += not abs(mean[i] - value) <= tolerance * abs(value)
    for i in range(strip.n if doubts else 0):
        value = np.float64(x[strip.k, strip.j, strip.begin + i])
        if not covered[i] or np.isnan(value) or abs(mean[i] - value) <= tolerance * abs(value):
            continue
        size = 0.0
        for r in range(strip.rows):
            for q in range((strip.begin + i) * columns, (strip.begin + i + 1) * columns):
                size += _share(cells, strip.top + r, q) * abs(np.float64(stored[r, q]))
        # Written so that NaN and infinite errors count.
        if not (abs(mean[i] - value) <= tolerance * max(abs(value), size) and size < np.inf):
            count += 1
    return count


@compiled
def _cover(cells, strip, covered):  # type: ignore[no-untyped-def]
    """Mark the cells of a strip with a valid subcell."""
    for i in range(strip.n):
        left = (strip.begin + i) * strip.columns
        covered[i] = cells.share[strip.top : strip.top + strip.rows, left : left + strip.columns].sum() > 0


@compiled
def refine(coarse, x, out, first, last, operator, cells, law, doubtful):  # type: ignore[no-untyped-def]
    """Refine the rows ``first`` to ``last`` of some maps.

    Parameters
    ----------
    coarse, x, out : arrays, shapes (maps, given rows, given columns), (maps, n_y, n_x), (maps, fine rows, fine columns)
        Values without gaps; means to conserve, NaN where a cell is missing; the result, which is in C order and is
        written past the caches.
    operator, cells, law : Operator, Subcells, Law
    doubtful : array of int, shape (maps,)
        Number of cells beyond the tolerance, written.
    """
    taps, n, memory = operator.index.shape[1], x.shape[2], U(out.ctypes.data)
    rows, columns = operator.y_weights.shape[1], operator.x_weights.shape[1]
    step = min(max(STRIP // columns, 1), n)
    width = step * columns
    t, lines = np.empty((coarse.shape[1], operator.wide)), np.empty((taps, n * columns))
    fine, stored = np.empty((rows, width)), np.empty((rows, n * columns), out.dtype)
    held, slots, covered = np.empty(taps, np.int64), np.empty(taps, np.int64), np.ones(step, np.bool_)
    residual, scale, mean = np.zeros(step), np.ones(step), np.empty(step)
    some, more, scratch = np.empty(width), np.empty(width), np.empty((SCRATCH, step))
    y, share = np.empty((rows * columns, step)), np.empty((rows * columns, step))
    for k in range(coarse.shape[0]):
        _pad_rows(coarse, k, first, last, operator, t)
        held[:] = -1
        for j in range(first, last):
            _update_rows(t, j, operator, lines, held, slots)
            for begin in range(0, n, step):
                strip = _Strip(k, j, begin, min(step, n - begin), j * rows, rows, columns)
                ahead, size = begin * columns, strip.n * columns
                for r in range(0, rows, 2):
                    other = min(r + 1, rows - 1)
                    _two_rows(lines, slots, operator.y_weights, j, r, other, ahead, size, fine, r, other)
                if cells.term.size:
                    for r in range(rows):
                        for i in range(size):
                            fine[U(r), i] += cells.term[U(strip.top + r), U(ahead) + U(i)]
                if cells.share.size:
                    _cover(cells, strip, covered)
                if law.kind == NO_LAW:
                    residual[:] = 0.0
                else:
                    _means(fine, 0, strip, cells, some, mean)
                    if _residuals(x, strip, mean, residual):
                        _settle_small(x, strip, cells, law, fine, residual)
                edge = False
                if law.kind == BOUNDED:
                    edge = _bound(x, strip, cells, law, covered, fine, residual, scale, some, more, scratch, y, share)
                _convert(fine, residual, scale, stored, strip, not edge, some, more)
                if law.tolerance < np.inf:
                    _means(stored, ahead, strip, cells, some, mean)
                    doubtful[k] += _count_doubtful(x, strip, cells, mean, covered, stored, law.tolerance)
            for i in range(n):
                if np.isnan(x[U(k), U(j), U(i)]):
                    stored[:, i * columns : (i + 1) * columns] = np.nan
            for r in range(rows):
                _write_row(stored, r, out, k, j * rows + r, memory)
    _fence()  # type: ignore[call-arg]
