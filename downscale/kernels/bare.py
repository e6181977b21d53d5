"""Separable up-sampling alone, with no law to impose, compiled (numba; knows arrays, no grid and no file).

Each coarse row is given its columns once, and rows in work are few enough for the cache; a pair of fine rows is then
their weighted sum. What is written goes to the memory without being fetched first, in whole cache lines.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from downscale.kernels.compiled import compiled

TAPS, LINE = 7, 64
# Unsigned, so that the compiler sees indices that cannot be negative; no views, whose owners threads would count.
U = np.uintp


@intrinsic
def _put_line(typingctx, given, row, out, k, at, i):  # type: ignore[no-untyped-def]
    """Write the cache line of ``out[k, at]`` that begins with column ``i``, past the caches; of rows in order."""

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        def place(kind, array, index):  # type: ignore[no-untyped-def]
            made = context.make_array(kind)(context, builder, array)
            shape, strides = (cgutils.unpack_tuple(builder, v) for v in (made.shape, made.strides))
            return cgutils.get_item_pointer2(context, builder, made.data, shape, strides, "C", index, wraparound=False)

        item = context.get_value_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(item)
        line = ir.VectorType(item, LINE // size).as_pointer()
        source = place(signature.args[0], values[0], (values[1], values[5]))
        target = place(signature.args[2], values[2], values[3:6])
        stored = builder.store(
            builder.load(builder.bitcast(source, line), align=size), builder.bitcast(target, line), LINE
        )
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(given, row, out, k, at, i), code


@intrinsic
def _all_written(typingctx):  # type: ignore[no-untyped-def]
    """Let other threads see what was written past the caches."""

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code


@compiled
def _widened(coarse, k, row, left, wide, closed, t):  # type: ignore[no-untyped-def]
    """Lay out one coarse row: ``t[left + i]``, continued around a circle."""
    n, k, row, first = coarse.shape[2], U(k), U(row), U(left)
    for i in range(n):
        t[first + U(i)] = coarse[k, row, i]
    for i in range(left):
        # Beyond an open end no window reaches but with a weight of zero.
        t[left - 1 - i] = t[left + (n - 1 - i) % n] if closed else 0.0
    for i in range(left + n, wide):
        t[i] = t[left + (i - left) % n] if closed else 0.0


@compiled
def _four(t, first, last, start, weights, run, rows, slot):  # type: ignore[no-untyped-def]
    """Make the four columns of the cells ``first`` to ``last`` of a row, whose windows begin at ``start``."""
    w, q, s = weights, U(run), U(slot)
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
        t0, t1, t2, t3 = t[u], t[u + U(1)], t[u + U(2)], t[u + U(3)]
        t4, t5, t6 = t[u + U(4)], t[u + U(5)], t[u + U(6)]
        rows[s, o] = a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3 + a4 * t4 + a5 * t5 + a6 * t6
        rows[s, o + U(1)] = b0 * t0 + b1 * t1 + b2 * t2 + b3 * t3 + b4 * t4 + b5 * t5 + b6 * t6
        rows[s, o + U(2)] = c0 * t0 + c1 * t1 + c2 * t2 + c3 * t3 + c4 * t4 + c5 * t5 + c6 * t6
        rows[s, o + U(3)] = d0 * t0 + d1 * t1 + d2 * t2 + d3 * t3 + d4 * t4 + d5 * t5 + d6 * t6


@compiled
def _pair(rows, slots, weights, j, r, other, pair):  # type: ignore[no-untyped-def]
    """Make two fine rows of seven coarse ones that have their columns."""
    w, j, r, q = weights, U(j), U(r), U(other)
    a0, a1, a2, a3 = w[j, r, 0], w[j, r, 1], w[j, r, 2], w[j, r, 3]
    a4, a5, a6 = w[j, r, 4], w[j, r, 5], w[j, r, 6]
    b0, b1, b2, b3 = w[j, q, 0], w[j, q, 1], w[j, q, 2], w[j, q, 3]
    b4, b5, b6 = w[j, q, 4], w[j, q, 5], w[j, q, 6]
    s0, s1, s2, s3 = U(slots[0]), U(slots[1]), U(slots[2]), U(slots[3])
    s4, s5, s6, one, two = U(slots[4]), U(slots[5]), U(slots[6]), U(0), U(1)
    for i in range(pair.shape[1]):
        t0, t1, t2, t3, t4, t5, t6 = (
            rows[s0, i], rows[s1, i], rows[s2, i], rows[s3, i], rows[s4, i], rows[s5, i], rows[s6, i]
        )  # fmt: skip
        pair[one, i] = a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3 + a4 * t4 + a5 * t5 + a6 * t6
        pair[two, i] = b0 * t0 + b1 * t1 + b2 * t2 + b3 * t3 + b4 * t4 + b5 * t5 + b6 * t6


@compiled
def _written(pair, p, out, k, row, memory):  # type: ignore[no-untyped-def]
    """Write a fine row; ``memory`` is where ``out`` begins."""
    n, p, k, row = out.shape[2], U(p), U(k), U(row)
    begin = memory + ((k * U(out.shape[1]) + row) * U(n)) * U(out.itemsize)
    each = LINE // out.itemsize
    first = min(int((U(LINE) - begin % U(LINE)) % U(LINE)) // out.itemsize, n)
    lines = (n - first) // each
    for i in range(first):
        out[k, row, U(i)] = pair[p, U(i)]
    for i in range(lines):
        _put_line(pair, p, out, k, row, U(first + i * each))  # type: ignore[call-arg]
    for i in range(first + lines * each, n):
        out[k, row, U(i)] = pair[p, U(i)]


@compiled
def bare(  # type: ignore[no-untyped-def]
    coarse, out, first, last, index, y_weights, cuts, starts, x_weights, left, wide, closed
):  # fmt: skip
    """Apply the operator with four columns a cell and seven taps to the rows ``first`` to ``last`` of some maps.

    As :func:`downscale.kernels.fused.refine`, in the precision of the weights; ``out`` lies in order.
    """
    factor, width = y_weights.shape[1], out.shape[2]
    memory = U(out.ctypes.data)
    t, rows = np.empty(wide, y_weights.dtype), np.empty((TAPS, width), y_weights.dtype)
    pair, held, slots = np.empty((2, width), out.dtype), np.empty(TAPS, np.int64), np.empty(TAPS, np.int64)
    for k in range(coarse.shape[0]):
        held[:] = -1
        for j in range(first, last):
            for tap in range(TAPS):
                row = index[j, tap]
                slot = row % TAPS
                slots[tap] = slot
                if held[slot] != row:
                    held[slot] = row
                    _widened(coarse, k, row, left, wide, closed, t)
                    for run in range(starts.size):
                        _four(t, cuts[run], cuts[run + 1], starts[run], x_weights, run, rows, slot)
            for r in range(0, factor, 2):
                other = min(r + 1, factor - 1)
                _pair(rows, slots, y_weights, j, r, other, pair)
                for p in range(other - r + 1):
                    _written(pair, p, out, k, j * factor + r + p, memory)
    _all_written()  # type: ignore[call-arg]
