"""Separable up-sampling under the cell law in one pass over rows, compiled (numba; knows arrays, no grid and no file).

One row of coarse cells is taken at a time: latitude weights make one row for each fine row, longitude weights its
phases, the law and the bounds are imposed while the row lies in the cache, and every fine value is written once. All
sums are taken in float64 in one order, whatever lies beside a cell, so that any cutting of the field gives the same
bits. The readable twin is :mod:`downscale.nn.upsample` with :mod:`downscale.fields.conserve`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# Taps that the inner loops are written out for; windows of more are added one tap at a time.
UNROLLED = 7
# Steps of the safeguarded Newton iteration: some 55 halvings reach rounding.
STEPS = 128


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter's lock, kept on disk between runs where there is a place for it.

    Products and sums may be fused, nothing else is reordered: every cell gets the same bits wherever it lies.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # No folder that may be written: compiled anew in each process.
        return numba.njit(**options)(function)


@compiled
def _row(coarse, index, weights, left, wide, closed, t):  # type: ignore[no-untyped-def]
    """Make one fine row, on coarse columns: ``t[left + i]``, continued around a circle."""
    n = coarse.shape[1]
    c0, c1, c2, c3 = coarse[index[0]], coarse[index[1]], coarse[index[2]], coarse[index[3]]
    c4, c5, c6 = coarse[index[4]], coarse[index[5]], coarse[index[6]]
    a0, a1, a2, a3, a4, a5, a6 = weights[0], weights[1], weights[2], weights[3], weights[4], weights[5], weights[6]
    for i in range(n):
        t[left + i] = (
            a0 * c0[i] + a1 * c1[i] + a2 * c2[i] + a3 * c3[i] + a4 * c4[i] + a5 * c5[i] + a6 * c6[i]
        )
    for tap in range(UNROLLED, index.size):
        a, c = weights[tap], coarse[index[tap]]
        for i in range(n):
            t[left + i] += a * c[i]
    for i in range(left):
        # Beyond an open end no window reaches but with a weight of zero.
        t[left - 1 - i] = t[left + (n - 1 - i) % n] if closed else 0.0
    for i in range(left + n, wide):
        t[i] = t[left + (i - left) % n] if closed else 0.0


@compiled
def _phases(t, first, last, start, weights, buffer):  # type: ignore[no-untyped-def]
    """Make the phases of the cells ``first`` to ``last``, whose windows begin at ``start``, one after the other."""
    for phase in range(weights.shape[0]):
        out = buffer[phase]
        b0, b1, b2, b3 = weights[phase, 0], weights[phase, 1], weights[phase, 2], weights[phase, 3]
        b4, b5, b6 = weights[phase, 4], weights[phase, 5], weights[phase, 6]
        s = start - first
        for i in range(first, last):
            j = s + i
            out[i] = (
                b0 * t[j] + b1 * t[j + 1] + b2 * t[j + 2] + b3 * t[j + 3] + b4 * t[j + 4] + b5 * t[j + 5]
                + b6 * t[j + 6]
            )
        for tap in range(UNROLLED, weights.shape[1]):
            b = weights[phase, tap]
            for i in range(first, last):
                out[i] += b * t[s + i + tap]


@compiled
def _proposal(coarse, index, y_weights, cuts, starts, x_weights, left, wide, closed, t, buffer):  # type: ignore[no-untyped-def]
    """Make all fine values of one row of coarse cells, planar: ``buffer[r * factor_x + c, i]``."""
    phases = x_weights.shape[1]
    for r in range(y_weights.shape[0]):
        _row(coarse, index, y_weights[r], left, wide, closed, t)
        for k in range(starts.size):
            _phases(t, cuts[k], cuts[k + 1], starts[k], x_weights[k], buffer[r * phases : (r + 1) * phases])


@compiled
def _shift_to_mean(x, share, buffer, gap):  # type: ignore[no-untyped-def]
    """Add to each cell what its mean lacks (the cell law)."""
    for i in range(x.size):
        gap[i] = 0.0
    for p in range(buffer.shape[0]):
        z, s = buffer[p], share[p]
        for i in range(x.size):
            gap[i] += s[i] * z[i]
    for i in range(x.size):
        gap[i] = np.float64(x[i]) - gap[i]
    for p in range(buffer.shape[0]):
        z = buffer[p]
        for i in range(x.size):
            z[i] += gap[i]


@compiled
def _solve(x, i, share, buffer, low, high):  # type: ignore[no-untyped-def]
    """Clip one cell to the bounds with the shift that keeps its mean: the safeguarded Newton iteration."""
    count = buffer.shape[0]
    smallest, largest, size = np.inf, -np.inf, 0.0
    for p in range(count):
        if share[p, i] > 0:
            z = buffer[p, i]
            smallest, largest = min(smallest, z), max(largest, z)
            size += share[p, i] * abs(z)
    left, right = x - largest, x - smallest
    # The mean is right already: without bounds no shift would be needed.
    shift = min(max(0.0, left), right)
    scale, last = max(abs(x), size), np.inf
    for _ in range(STEPS):
        error, slope = -x, 0.0
        for p in range(count):
            moved = buffer[p, i] + shift
            error += share[p, i] * min(max(moved, low), high)
            if low < moved < high:
                slope += share[p, i]
        if abs(error) <= 4 * 2.220446049250313e-16 * scale:
            break
        if error > 0:
            right = shift
        else:
            left = shift
        gains, last = abs(error) <= 0.5 * last, abs(error)
        newton = shift - error / slope if slope > 0 else np.nan
        # Between two bounds Newton's steps can run to and fro: what gains too little is bisected.
        shift = newton if gains and slope > 0 and left <= newton <= right else 0.5 * (left + right)
    for p in range(count):
        buffer[p, i] = min(max(buffer[p, i] + shift, low), high)
    _to_full_accuracy(x, i, share, buffer, low, high, scale)


@compiled
def _to_full_accuracy(x, i, share, buffer, low, high, size):  # type: ignore[no-untyped-def]
    """Scale distances from the nearer bound: rounding of order one is much for a cell of drizzle."""
    bound = low if abs(x - low) <= abs(high - x) else high
    if not np.isfinite(bound):
        return
    given = 0.0
    for p in range(buffer.shape[0]):
        given += share[p, i] * (buffer[p, i] - bound)
    wanted = x - bound
    error, eps = abs(wanted - given), 2.220446049250313e-16
    if error > 32 * eps * (size + abs(x) + abs(bound)) or error <= 2 * eps * abs(wanted):
        return
    ratio = wanted / given if given != 0 else 0.0
    for p in range(buffer.shape[0]):
        value = x if given == 0 else bound + (buffer[p, i] - bound) * ratio
        buffer[p, i] = min(max(value, low), high)


@compiled
def _bound(x, share, buffer, low, high, smallest, largest):  # type: ignore[no-untyped-def]
    """Bring all cells of a row within the bounds, under the cell law; most need nothing."""
    for i in range(x.size):
        smallest[i], largest[i] = np.inf, -np.inf
    for p in range(buffer.shape[0]):
        z = buffer[p]
        for i in range(x.size):
            smallest[i] = min(smallest[i], z[i])
            largest[i] = max(largest[i], z[i])
    for i in range(x.size):
        value = np.float64(x[i])
        if value <= low or value >= high:
            # On a bound only that value is left; beyond it none is, and the law goes before the bounds.
            for p in range(buffer.shape[0]):
                buffer[p, i] = value
        elif smallest[i] < low or largest[i] > high:
            _solve(value, i, share, buffer, low, high)
        elif value - low < 1e-3 * (largest[i] - smallest[i]) or high - value < 1e-3 * (largest[i] - smallest[i]):
            _to_full_accuracy(value, i, share, buffer, low, high, max(abs(smallest[i]), abs(largest[i])))


@compiled
def _store(buffer, share, out, phases, mean):  # type: ignore[no-untyped-def]
    """Write the phases of a row of cells in order, in the type of the result; ``mean`` is that of what is stored."""
    n = buffer.shape[1]
    kind = out.dtype.type
    for i in range(n):
        mean[i] = 0.0
    for r in range(out.shape[0]):
        row, p = out[r], r * phases
        if phases == 4:
            z0, z1, z2, z3 = buffer[p], buffer[p + 1], buffer[p + 2], buffer[p + 3]
            s0, s1, s2, s3 = share[p], share[p + 1], share[p + 2], share[p + 3]
            for i in range(n):
                v0, v1, v2, v3 = kind(z0[i]), kind(z1[i]), kind(z2[i]), kind(z3[i])
                row[4 * i], row[4 * i + 1], row[4 * i + 2], row[4 * i + 3] = v0, v1, v2, v3
                mean[i] += s0[i] * v0 + s1[i] * v1 + s2[i] * v2 + s3[i] * v3
        else:
            for c in range(phases):
                z, s = buffer[p + c], share[p + c]
                for i in range(n):
                    value = kind(z[i])
                    row[i * phases + c] = value
                    mean[i] += s[i] * value


@compiled
def _doubtful(x, mean, covered, tolerance):  # type: ignore[no-untyped-def]
    """Count the cells whose stored values miss their mean by more than ``tolerance`` of it."""
    count = 0
    for i in range(x.size):
        value = np.float64(x[i])
        # Written so that a mean that is no number counts.
        if covered[i] and value == value and not abs(mean[i] - value) <= tolerance * abs(value):
            count += 1
    return count


@compiled
def _four(t, first, last, start, w, row):  # type: ignore[no-untyped-def]
    """Make and write four phases at once, where no law is to be imposed: the bare operator."""
    a0, a1, a2, a3, a4, a5, a6 = w[0, 0], w[0, 1], w[0, 2], w[0, 3], w[0, 4], w[0, 5], w[0, 6]
    b0, b1, b2, b3, b4, b5, b6 = w[1, 0], w[1, 1], w[1, 2], w[1, 3], w[1, 4], w[1, 5], w[1, 6]
    c0, c1, c2, c3, c4, c5, c6 = w[2, 0], w[2, 1], w[2, 2], w[2, 3], w[2, 4], w[2, 5], w[2, 6]
    d0, d1, d2, d3, d4, d5, d6 = w[3, 0], w[3, 1], w[3, 2], w[3, 3], w[3, 4], w[3, 5], w[3, 6]
    s = start - first
    for i in range(first, last):
        j = s + i
        t0, t1, t2, t3, t4, t5, t6 = t[j], t[j + 1], t[j + 2], t[j + 3], t[j + 4], t[j + 5], t[j + 6]
        row[4 * i] = a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3 + a4 * t4 + a5 * t5 + a6 * t6
        row[4 * i + 1] = b0 * t0 + b1 * t1 + b2 * t2 + b3 * t3 + b4 * t4 + b5 * t5 + b6 * t6
        row[4 * i + 2] = c0 * t0 + c1 * t1 + c2 * t2 + c3 * t3 + c4 * t4 + c5 * t5 + c6 * t6
        row[4 * i + 3] = d0 * t0 + d1 * t1 + d2 * t2 + d3 * t3 + d4 * t4 + d5 * t5 + d6 * t6


@compiled
def bare(coarse, out, index, y_weights, cuts, starts, x_weights, left, wide, closed):  # type: ignore[no-untyped-def]
    """Apply the operator alone with four columns a cell and at most seven taps: no law, no check, no gaps.

    As :func:`refine`, in the precision of ``y_weights``.
    """
    t = np.empty(wide, y_weights.dtype)
    factor = y_weights.shape[1]
    for j in range(index.shape[0]):
        for k in range(coarse.shape[0]):
            for r in range(factor):
                _row(coarse[k], index[j], y_weights[j, r], left, wide, closed, t)
                for s in range(starts.size):
                    _four(t, cuts[s], cuts[s + 1], starts[s], x_weights[s], out[k, j * factor + r])


@compiled
def refine(  # type: ignore[no-untyped-def]
    coarse, x, out, first, last, index, y_weights, cuts, starts, x_weights, left, wide, closed, y_share, x_share,
    part_share, term, law, low, high, tolerance, doubtful,
):  # fmt: skip
    """Refine the rows ``first`` to ``last`` of some maps.

    Parameters
    ----------
    coarse : array, shape (maps, given rows, given columns)
        Values without gaps.
    x : array, shape (maps, n_y, n_x)
        Means that the law gives back; NaN where a cell is missing and stays so.
    out : array, shape (maps, n_y * factor_y, n_x * factor_x)
        Written.
    index : array of int, shape (n_y, taps)
        Rows of ``coarse`` in the window of each row of cells.
    y_weights : array, shape (n_y, factor_y, taps)
    cuts, starts, x_weights : arrays, shapes (runs + 1,), (runs,), (runs, factor_x, taps)
        Runs of cells with one set of weights and windows one step apart: the first cell of each run, and the place in
        the widened row where its window begins.
    left, wide, closed : int, int, bool
        Columns before the first, columns in all, and whether they continue around a circle.
    y_share, x_share : arrays, shapes (n_y * factor_y,) and (n_x * factor_x,)
    part_share : array, shape (n_y * factor_y, n_x * factor_x) or (0, 0)
        Shares of parts in their cell, if they are no products; those of a cell add up to one, or to zero where no part
        is valid.
    term : array of the same shape, or (0, 0)
        What is added to the proposal.
    law : int
        0: none; 1: the cell law; 2: the cell law within ``low`` and ``high``.
    tolerance : float
        Relative errors above are counted, none where it is infinite.
    doubtful : array of int, shape (maps,)
        Number of cells to be looked at more closely; written.
    """
    factor_y, factor_x = y_weights.shape[1], x_weights.shape[1]
    n = x.shape[2]
    t, mean, smallest, largest = np.empty(wide), np.empty(n), np.empty(n), np.empty(n)
    buffer, share = np.empty((factor_y * factor_x, n)), np.empty((factor_y * factor_x, n))
    covered = np.ones(n, np.bool_)
    for j in range(first, last):
        top = j * factor_y
        _shares(y_share[top : top + factor_y], x_share, part_share, top, share, covered)
        for k in range(coarse.shape[0]):
            _proposal(coarse[k], index[j], y_weights[j], cuts, starts, x_weights, left, wide, closed, t, buffer)
            if term.size:
                for r in range(factor_y):
                    for c in range(factor_x):
                        for i in range(n):
                            buffer[r * factor_x + c, i] += term[top + r, i * factor_x + c]
            if law >= 1:
                _shift_to_mean(x[k, j], share, buffer, mean)
            if law == 2:
                _bound(x[k, j], share, buffer, low, high, smallest, largest)
            fine = out[k, top : top + factor_y]
            _store(buffer, share, fine, factor_x, mean)
            if tolerance < np.inf:
                doubtful[k] += _doubtful(x[k, j], mean, covered, tolerance)
            _blank(x[k, j], fine, factor_x)


@compiled
def _shares(y_share, x_share, part_share, top, share, covered):  # type: ignore[no-untyped-def]
    """Lay out the shares of the parts of a row of cells, planar as the buffer is."""
    n = share.shape[1]
    factor_x = x_share.size // n
    for r in range(y_share.size):
        for c in range(factor_x):
            for i in range(n):
                if part_share.size:
                    share[r * factor_x + c, i] = part_share[top + r, i * factor_x + c]
                else:
                    share[r * factor_x + c, i] = y_share[r] * x_share[i * factor_x + c]
    if part_share.size:
        for i in range(n):
            covered[i] = share[:, i].sum() > 0


@compiled
def _blank(x, fine, factor):  # type: ignore[no-untyped-def]
    """Leave missing cells missing."""
    for i in range(x.size):
        if np.isnan(x[i]):
            fine[:, i * factor : (i + 1) * factor] = np.nan
