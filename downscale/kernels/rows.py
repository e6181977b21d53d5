"""Compiled fine rows of a map from windows and weights.

Each coarse row is refined along columns once, and is kept while windows contain it; fine rows are weighted sums of such
rows. All sums are in a fixed order, so that any division of the field gives the same bits.

Arrays are indexed, not sliced into views, whose reference counts threads would contend for.
"""

from __future__ import annotations

import numpy as np

from downscale.kernels.compiled import compiled
from downscale.kernels.lines import LINE, U, all_written, put_line

# Number of taps of the unrolled inner loops, and minimum number of taps; more are added one at a time.
UNROLLED = 7


@compiled
def widened(coarse, k, first, last, left, wide, closed, t):  # type: ignore[no-untyped-def]
    """Write the coarse rows ``first`` to ``last`` of a map to ``t[row, left + i]``, continued around a circle."""
    n, k, shift = coarse.shape[2], U(k), U(left)
    for row in range(U(first), U(last)):
        for i in range(n):
            t[row, shift + U(i)] = coarse[k, row, i]
        for i in range(left):
            # Beyond an open end windows have zero weights.
            t[row, left - 1 - i] = t[row, left + (n - 1 - i) % n] if closed else 0.0
        for i in range(left + n, wide):
            t[row, i] = t[row, left + (i - left) % n] if closed else 0.0


@compiled
def _four(t, row, first, last, start, weights, run, rows, slot):  # type: ignore[no-untyped-def]
    """Compute the four columns of the cells ``first`` to ``last`` of a row, whose windows begin at ``start``."""
    w, q, s, k = weights, U(run), U(slot), U(row)
    a0, a1, a2, a3 = w[q, 0, 0], w[q, 0, 1], w[q, 0, 2], w[q, 0, 3]
    a4, a5, a6 = w[q, 0, 4], w[q, 0, 5], w[q, 0, 6]
    b0, b1, b2, b3 = w[q, 1, 0], w[q, 1, 1], w[q, 1, 2], w[q, 1, 3]
    b4, b5, b6 = w[q, 1, 4], w[q, 1, 5], w[q, 1, 6]
    c0, c1, c2, c3 = w[q, 2, 0], w[q, 2, 1], w[q, 2, 2], w[q, 2, 3]
    c4, c5, c6 = w[q, 2, 4], w[q, 2, 5], w[q, 2, 6]
    d0, d1, d2, d3 = w[q, 3, 0], w[q, 3, 1], w[q, 3, 2], w[q, 3, 3]
    d4, d5, d6 = w[q, 3, 4], w[q, 3, 5], w[q, 3, 6]
    for i in range(last - first):
        u, o = U(start) + U(i), U(4) * (U(first) + U(i))
        t0, t1, t2, t3 = t[k, u], t[k, u + U(1)], t[k, u + U(2)], t[k, u + U(3)]
        t4, t5, t6 = t[k, u + U(4)], t[k, u + U(5)], t[k, u + U(6)]
        rows[s, o] = a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3 + a4 * t4 + a5 * t5 + a6 * t6
        rows[s, o + U(1)] = b0 * t0 + b1 * t1 + b2 * t2 + b3 * t3 + b4 * t4 + b5 * t5 + b6 * t6
        rows[s, o + U(2)] = c0 * t0 + c1 * t1 + c2 * t2 + c3 * t3 + c4 * t4 + c5 * t5 + c6 * t6
        rows[s, o + U(3)] = d0 * t0 + d1 * t1 + d2 * t2 + d3 * t3 + d4 * t4 + d5 * t5 + d6 * t6


@compiled
def _column(t, row, first, last, start, weights, run, c, rows, slot):  # type: ignore[no-untyped-def]
    """Compute one column of such cells, with any number of taps."""
    w, q, c, s, k, f = weights, U(run), U(c), U(slot), U(row), U(weights.shape[1])
    a0, a1, a2, a3, a4, a5, a6 = w[q, c, 0], w[q, c, 1], w[q, c, 2], w[q, c, 3], w[q, c, 4], w[q, c, 5], w[q, c, 6]
    for i in range(last - first):
        u = U(start) + U(i)
        t0, t1, t2, t3 = t[k, u], t[k, u + U(1)], t[k, u + U(2)], t[k, u + U(3)]
        t4, t5, t6 = t[k, u + U(4)], t[k, u + U(5)], t[k, u + U(6)]
        made = a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3 + a4 * t4 + a5 * t5 + a6 * t6
        for tap in range(UNROLLED, w.shape[2]):
            made += w[q, c, U(tap)] * t[k, u + U(tap)]
        rows[s, f * (U(first) + U(i)) + c] = made


@compiled
def reach(t, j, index, cuts, starts, weights, rows, held, slots):  # type: ignore[no-untyped-def]
    """Provide the coarse rows of a window with their refined columns; ``slots`` holds their positions."""
    for tap in range(index.shape[1]):
        row = index[j, tap]
        slot = row % index.shape[1]
        slots[tap] = slot
        if held[slot] == row:
            continue
        held[slot] = row
        for run in range(starts.size):
            if weights.shape[1] == 4 and weights.shape[2] == UNROLLED:
                _four(t, row, cuts[run], cuts[run + 1], starts[run], weights, run, rows, slot)
            else:
                for c in range(weights.shape[1]):
                    _column(t, row, cuts[run], cuts[run + 1], starts[run], weights, run, c, rows, slot)


@compiled
def pair(rows, slots, weights, j, r, other, left, width, made, one, two):  # type: ignore[no-untyped-def]
    """Compute the fine rows ``r`` and ``other`` from column ``left`` on: ``made[one]`` and ``made[two]``."""
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
        made[one, i] = a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3 + a4 * t4 + a5 * t5 + a6 * t6
        made[two, i] = b0 * t0 + b1 * t1 + b2 * t2 + b3 * t3 + b4 * t4 + b5 * t5 + b6 * t6
    for tap in range(UNROLLED, w.shape[2]):
        a, b, s = w[j, r, U(tap)], w[j, q, U(tap)], U(slots[tap])
        for i in range(width):
            made[one, i] += a * rows[s, U(left) + U(i)]
            if two != one:
                made[two, i] += b * rows[s, U(left) + U(i)]


@compiled
def written(made, p, out, k, row, memory):  # type: ignore[no-untyped-def]
    """Write a fine row; ``memory`` is the address of ``out``."""
    n, p, k, row = out.shape[2], U(p), U(k), U(row)
    place = memory + ((k * U(out.shape[1]) + row) * U(n)) * U(out.itemsize)
    each = LINE // out.itemsize
    first = min(int((U(LINE) - place % U(LINE)) % U(LINE)) // out.itemsize, n)
    lines = (n - first) // each
    for i in range(first):
        out[k, row, U(i)] = made[p, U(i)]
    for i in range(lines):
        put_line(made, p, out, k, row, U(first + i * each))  # type: ignore[call-arg]
    for i in range(first + lines * each, n):
        out[k, row, U(i)] = made[p, U(i)]


@compiled
def bare(  # type: ignore[no-untyped-def]
    coarse, out, first, last, index, y_weights, cuts, starts, x_weights, left, wide, closed
):  # fmt: skip
    """Apply the operator to the rows ``first`` to ``last`` of some maps, without conservation and checks.

    As :func:`downscale.kernels.fused.refine`, in the precision of the weights; ``out`` is in C order, and is written
    past the caches.
    """
    factor, columns, taps, n = y_weights.shape[1], x_weights.shape[1], index.shape[1], cuts[-1]
    width, memory = n * columns, U(out.ctypes.data)
    t, rows = np.empty((coarse.shape[1], wide), y_weights.dtype), np.empty((taps, width), y_weights.dtype)
    made, held, slots = np.empty((2, width), out.dtype), np.empty(taps, np.int64), np.empty(taps, np.int64)
    for k in range(coarse.shape[0]):
        widened(coarse, k, index[first:last].min(), index[first:last].max() + 1, left, wide, closed, t)
        held[:] = -1
        for j in range(first, last):
            reach(t, j, index, cuts, starts, x_weights, rows, held, slots)
            for r in range(0, factor, 2):
                other = min(r + 1, factor - 1)
                pair(rows, slots, y_weights, j, r, other, 0, width, made, 0, 1)
                for p in range(other - r + 1):
                    written(made, p, out, k, j * factor + r + p, memory)
    all_written()  # type: ignore[call-arg]
