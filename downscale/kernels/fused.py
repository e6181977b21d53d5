"""Separable up-sampling under the cell law in one pass over rows, compiled (numba; knows arrays, no grid and no file).

One row of coarse cells is taken at a time: latitude weights make one row for each fine row, longitude weights its
phases, the law and the bounds are imposed while the row lies in the cache, and every fine value is written once. All
sums are taken in float64 in one order, whatever lies beside a cell, so that any cutting of the field gives the same
bits. The readable twin is :mod:`downscale.nn.upsample` with :mod:`downscale.fields.conserve`.
"""

from __future__ import annotations

import numpy as np

from downscale.kernels.compiled import compiled

# Taps that the inner loops are written out for; windows of more are added one tap at a time.
UNROLLED = 7
# Steps of the safeguarded Newton iteration: some 55 halvings reach rounding.
STEPS, EPS = 128, 2.220446049250313e-16


@compiled
def _row(coarse, index, weights, left, wide, closed, t):  # type: ignore[no-untyped-def]
    """Make one fine row, on coarse columns: ``t[left + i]``, continued around a circle."""
    n = coarse.shape[1]
    c0, c1, c2, c3 = coarse[index[0]], coarse[index[1]], coarse[index[2]], coarse[index[3]]
    c4, c5, c6 = coarse[index[4]], coarse[index[5]], coarse[index[6]]
    a0, a1, a2, a3, a4, a5, a6 = weights[0], weights[1], weights[2], weights[3], weights[4], weights[5], weights[6]
    # A view, so that the compiler sees indices that cannot be negative.
    inner = t[left : left + n]
    for i in range(n):
        inner[i] = a0 * c0[i] + a1 * c1[i] + a2 * c2[i] + a3 * c3[i] + a4 * c4[i] + a5 * c5[i] + a6 * c6[i]
    for tap in range(UNROLLED, index.size):
        a, c = weights[tap], coarse[index[tap]]
        for i in range(n):
            inner[i] += a * c[i]
    for i in range(left):
        # Beyond an open end no window reaches but with a weight of zero.
        t[left - 1 - i] = t[left + (n - 1 - i) % n] if closed else 0.0
    for i in range(left + n, wide):
        t[i] = t[left + (i - left) % n] if closed else 0.0


@compiled
def _phases(t, first, last, start, weights, share, buffer, total):  # type: ignore[no-untyped-def]
    """Make the phases of the cells ``first`` to ``last``, whose windows begin at ``start``, and add up their shares."""
    n, taps = last - first, weights.shape[1]
    u, sums = t[start : start + n + taps - 1], total[first:last]
    pairs = weights.shape[0] // 2
    for pair in range(pairs):
        p = 2 * pair
        # Each a row by itself: of a block of rows the compiler would not know that its values lie side by side.
        one, two = buffer[p, first:last], buffer[p + 1, first:last]
        _two(u, weights[p], weights[p + 1], share[p], share[p + 1], one, two, sums)
    if 2 * pairs < weights.shape[0]:
        p = 2 * pairs
        _one(u, weights[p], share[p], buffer[p, first:last], sums)
    for phase in range(weights.shape[0]):
        out = buffer[phase, first:last]
        for tap in range(UNROLLED, taps):
            b, v = weights[phase, tap], u[tap:]
            for i in range(n):
                out[i] += b * v[i]


@compiled
def _two(u, a, b, share_a, share_b, out_a, out_b, sums):  # type: ignore[no-untyped-def]
    """Make two phases of a run of cells, which read the same window."""
    a0, a1, a2, a3, a4, a5, a6 = a[0], a[1], a[2], a[3], a[4], a[5], a[6]
    b0, b1, b2, b3, b4, b5, b6 = b[0], b[1], b[2], b[3], b[4], b[5], b[6]
    for i in range(sums.size):
        u0, u1, u2, u3, u4, u5, u6 = u[i], u[i + 1], u[i + 2], u[i + 3], u[i + 4], u[i + 5], u[i + 6]
        x = a0 * u0 + a1 * u1 + a2 * u2 + a3 * u3 + a4 * u4 + a5 * u5 + a6 * u6
        y = b0 * u0 + b1 * u1 + b2 * u2 + b3 * u3 + b4 * u4 + b5 * u5 + b6 * u6
        out_a[i], out_b[i] = x, y
        sums[i] = (sums[i] + share_a * x) + share_b * y


@compiled
def _one(u, a, share, out, sums):  # type: ignore[no-untyped-def]
    """Make one phase of a run of cells."""
    a0, a1, a2, a3, a4, a5, a6 = a[0], a[1], a[2], a[3], a[4], a[5], a[6]
    for i in range(sums.size):
        x = (
            a0 * u[i] + a1 * u[i + 1] + a2 * u[i + 2] + a3 * u[i + 3] + a4 * u[i + 4] + a5 * u[i + 5] + a6 * u[i + 6]
        )
        out[i] = x
        sums[i] += share * x


@compiled
def _proposal(  # type: ignore[no-untyped-def]
    coarse, index, y_weights, cuts, starts, x_weights, left, wide, closed, share, t, buffer, total
):  # fmt: skip
    """Make all fine values of one row of coarse cells, planar: ``buffer[r * factor_x + c, i]``; ``total`` their mean.

    The mean is that of equal cells: ``share`` has one number a phase.
    """
    phases = x_weights.shape[1]
    total[:] = 0.0
    for r in range(y_weights.shape[0]):
        _row(coarse, index, y_weights[r], left, wide, closed, t)
        own = slice(r * phases, (r + 1) * phases)
        for k in range(starts.size):
            _phases(t, cuts[k], cuts[k + 1], starts[k], x_weights[k], share[own], buffer[own], total)


@compiled
def _gap(x, share, buffer, gap):  # type: ignore[no-untyped-def]
    """Return what the mean of each cell lacks."""
    gap[:] = 0.0
    for p in range(buffer.shape[0]):
        z, s = buffer[p], share[p]
        for i in range(x.size):
            gap[i] += s[i] * z[i]
    for i in range(x.size):
        gap[i] = np.float64(x[i]) - gap[i]


@compiled
def _settle_small(x, share, buffer, gap, low, high):  # type: ignore[no-untyped-def]
    """Give back the means of cells that are small beside ``gap``: to them rounding is much, or all that parts have."""
    for i in range(x.size):
        # On a bound only that value is left, which is imposed later.
        if not (abs(x[i]) < 1e-3 * abs(gap[i]) and low < x[i] < high):
            continue
        value = np.float64(x[i])
        smallest, largest, rest = np.inf, -np.inf, value
        for p in range(buffer.shape[0]):
            buffer[p, i] += gap[i]
            if share[p, i] > 0:
                smallest, largest = min(smallest, buffer[p, i]), max(largest, buffer[p, i])
                rest -= share[p, i] * buffer[p, i]
        for p in range(buffer.shape[0]):
            buffer[p, i] = value if smallest == largest else buffer[p, i] + rest
        gap[i] = 0.0


@compiled
def _shift(buffer, gap):  # type: ignore[no-untyped-def]
    """Add to all parts of each cell what its mean lacks (the cell law); nothing is lacking then."""
    for p in range(buffer.shape[0]):
        z = buffer[p]
        for i in range(gap.size):
            z[i] += gap[i]
    gap[:] = 0.0


@compiled
def _solve(x, least, most, low, high, y, part):  # type: ignore[no-untyped-def]
    """Clip one cell to the bounds with the shift that keeps its mean: the safeguarded Newton iteration.

    ``y`` and ``part`` hold its values and shares side by side, filled up to whole fours, which are added up apart;
    the values lie between ``least`` and ``most``.
    """
    e0, e1, e2, e3 = 0.0, 0.0, 0.0, 0.0
    for p in range(0, y.size, 4):
        e0, e1 = e0 + part[p] * abs(y[p]), e1 + part[p + 1] * abs(y[p + 1])
        e2, e3 = e2 + part[p + 2] * abs(y[p + 2]), e3 + part[p + 3] * abs(y[p + 3])
    size, left, right = (e0 + e1) + (e2 + e3), x - most, x - least
    # The mean is right already: without bounds no shift would be needed.
    shift = min(max(0.0, left), right)
    scale, last = max(abs(x), size), np.inf
    for _ in range(STEPS):
        e0, e1, e2, e3, s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for p in range(0, y.size, 4):
            a, b, c, d = y[p] + shift, y[p + 1] + shift, y[p + 2] + shift, y[p + 3] + shift
            e0 += part[p] * min(max(a, low), high)
            e1 += part[p + 1] * min(max(b, low), high)
            e2 += part[p + 2] * min(max(c, low), high)
            e3 += part[p + 3] * min(max(d, low), high)
            s0 += part[p] if low < a < high else 0.0
            s1 += part[p + 1] if low < b < high else 0.0
            s2 += part[p + 2] if low < c < high else 0.0
            s3 += part[p + 3] if low < d < high else 0.0
        error, slope = ((e0 + e1) + (e2 + e3)) - x, (s0 + s1) + (s2 + s3)
        if abs(error) <= 4 * EPS * scale:
            break
        if error > 0:
            right = shift
        else:
            left = shift
        gains, last = abs(error) <= 0.5 * last, abs(error)
        newton = shift - error / slope if slope > 0 else np.nan
        # Between two bounds Newton's steps can run to and fro: what gains too little is bisected.
        shift = newton if gains and slope > 0 and left <= newton <= right else 0.5 * (left + right)
    for p in range(y.size):
        y[p] = min(max(y[p] + shift, low), high)
    _to_full_accuracy(x, low, high, scale, y, part)


@compiled
def _to_full_accuracy(x, low, high, size, y, part):  # type: ignore[no-untyped-def]
    """Scale distances from the nearer bound: rounding of order one is much for a cell of drizzle."""
    bound = low if abs(x - low) <= abs(high - x) else high
    if not np.isfinite(bound):
        return
    e0, e1, e2, e3 = 0.0, 0.0, 0.0, 0.0
    for p in range(0, y.size, 4):
        e0, e1 = e0 + part[p] * (y[p] - bound), e1 + part[p + 1] * (y[p + 1] - bound)
        e2, e3 = e2 + part[p + 2] * (y[p + 2] - bound), e3 + part[p + 3] * (y[p + 3] - bound)
    given = (e0 + e1) + (e2 + e3)
    wanted = x - bound
    error = abs(wanted - given)
    if error > 32 * EPS * (size + abs(x) + abs(bound)) or error <= 2 * EPS * abs(wanted):
        return
    ratio = wanted / given if given != 0 else 0.0
    for p in range(y.size):
        value = x if given == 0 else bound + (y[p] - bound) * ratio
        y[p] = min(max(value, low), high)


@compiled
def _bound(x, share, covered, buffer, gap, keep, low, high, smallest, largest, y, part):  # type: ignore[no-untyped-def]
    """Bring all cells of a row within the bounds, under the cell law, ``gap`` added; most need but a look.

    Of cells with a ``keep`` of zero nothing but ``gap`` is to be stored.
    """
    for i in range(x.size):
        smallest[i], largest[i], keep[i] = np.inf, -np.inf, 1.0
    for p in range(buffer.shape[0]):
        z = buffer[p]
        for i in range(x.size):
            smallest[i] = min(smallest[i], z[i])
            largest[i] = max(largest[i], z[i])
    for i in range(x.size):
        value, least, most = np.float64(x[i]), smallest[i] + gap[i], largest[i] + gap[i]
        margin = 1e-3 * (most - least)
        if value <= low or value >= high:
            # On a bound only that value is left; beyond it none is, and the law goes before the bounds.
            keep[i], gap[i] = 0.0, value
        elif covered[i] and (least < low or most > high or value - low < margin or high - value < margin):
            for p in range(buffer.shape[0]):
                y[p], part[p] = buffer[p, i] + gap[i], share[p, i]
            if least < low or most > high:
                _solve(value, least, most, low, high, y, part)
            else:
                _to_full_accuracy(value, low, high, max(abs(least), abs(most)), y, part)
            for p in range(buffer.shape[0]):
                buffer[p, i] = y[p]
            gap[i] = 0.0


@compiled
def _store(buffer, share, out, phases, mean):  # type: ignore[no-untyped-def]
    """Write the phases of a row of cells in order, in the type of the result; ``mean`` is that of what is stored."""
    kind = out.dtype.type
    mean[:] = 0.0
    for r in range(out.shape[0]):
        row = out[r]
        for c in range(phases):
            z, s = buffer[r * phases + c], share[r * phases + c]
            for i in range(mean.size):
                value = kind(z[i])
                row[i * phases + c] = value
                mean[i] += s[i] * value


@compiled
def _store_equal(buffer, gap, keep, share, out, phases, mean):  # type: ignore[no-untyped-def]
    """As :func:`_store` for equal cells, ``share`` one number a phase, with ``keep`` times a part and ``gap``."""
    n, kind = mean.size, out.dtype.type
    mean[:] = 0.0
    for r in range(out.shape[0]):
        row, p = out[r], r * phases
        if phases == 4:
            z0, z1, z2, z3 = buffer[p], buffer[p + 1], buffer[p + 2], buffer[p + 3]
            s0, s1, s2, s3 = share[p], share[p + 1], share[p + 2], share[p + 3]
            for i in range(n):
                d, k = gap[i], keep[i]
                v0, v1 = kind(k * z0[i] + d), kind(k * z1[i] + d)
                v2, v3 = kind(k * z2[i] + d), kind(k * z3[i] + d)
                row[4 * i], row[4 * i + 1], row[4 * i + 2], row[4 * i + 3] = v0, v1, v2, v3
                mean[i] += s0 * v0 + s1 * v1 + s2 * v2 + s3 * v3
        else:
            for c in range(phases):
                z, s = buffer[p + c], share[p + c]
                for i in range(n):
                    value = kind(keep[i] * z[i] + gap[i])
                    row[i * phases + c] = value
                    mean[i] += s * value


@compiled
def _doubtful(x, mean, covered, share, fine, phases, tolerance):  # type: ignore[no-untyped-def]
    """Count the cells whose stored values miss their mean by more than ``tolerance`` of their size."""
    count = 0
    for i in range(x.size):
        value = np.float64(x[i])
        if not covered[i] or np.isnan(value) or abs(mean[i] - value) <= tolerance * abs(value):
            continue
        size = 0.0
        for r in range(fine.shape[0]):
            for c in range(phases):
                size += share[r * phases + c, i] * abs(np.float64(fine[r, i * phases + c]))
        # Written so that a mean that is no number counts.
        if not abs(mean[i] - value) <= tolerance * max(abs(value), size):
            count += 1
    return count


@compiled
def refine(  # type: ignore[no-untyped-def]
    coarse, x, out, first, last, index, y_weights, cuts, starts, x_weights, left, wide, closed, y_share, x_share,
    part_share, equal, term, law, low, high, tolerance, doubtful,
):  # fmt: skip
    """Refine the rows ``first`` to ``last`` of some maps.

    Parameters
    ----------
    coarse, x, out : arrays, shapes (maps, given rows, given columns), (maps, n_y, n_x), (maps, fine rows, fine columns)
        Values without gaps; means that the law gives back, NaN where a cell is missing; the result, written.
    index, y_weights : arrays, shapes (n_y, taps) and (n_y, factor_y, taps)
        Rows of ``coarse`` in the window of each row of cells, and their weights.
    cuts, starts, x_weights : arrays, shapes (runs + 1,), (runs,), (runs, factor_x, taps)
        Runs of cells with one set of weights and windows one step apart: first cells, and where windows begin.
    left, wide, closed : int, int, bool
        Columns before the first, columns in all, and whether they continue around a circle.
    y_share, x_share, part_share : arrays, shapes (fine rows,), (fine columns,), and both or (0, 0)
        Shares of parts in their cell, as products or not; those of a cell add up to one, or to zero if none is valid.
    equal : bool
        Whether all cells of a row have parts of the same shares.
    term : array, shape (fine rows, fine columns) or (0, 0)
        What is added to the proposal.
    law, low, high : int, float, float
        0: none; 1: the cell law; 2: the cell law within ``low`` and ``high``.
    tolerance, doubtful : float, array of int of shape (maps,)
        Cells with larger relative errors are counted, none if it is infinite; written.
    """
    factor_y, factor_x = y_weights.shape[1], x_weights.shape[1]
    n, phases = x.shape[2], factor_y * factor_x
    equal = equal and not term.size and x_weights.shape[2] <= UNROLLED
    t, mean, gap, smallest, largest = np.empty(wide), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    buffer, share, first_share = np.empty((phases, n)), np.empty((phases, n)), np.empty(phases)
    covered, keep = np.ones(n, np.bool_), np.ones(n)
    # Whole fours, the last of no share.
    y, part = np.zeros(-(-phases // 4) * 4), np.zeros(-(-phases // 4) * 4)
    for j in range(first, last):
        top = j * factor_y
        _shares(y_share[top : top + factor_y], x_share, part_share, top, share, covered)
        first_share[:] = share[:, 0]
        for k in range(coarse.shape[0]):
            cells, fine = x[k, j], out[k, top : top + factor_y]
            laid = (index[j], y_weights[j], cuts, starts, x_weights, left, wide, closed, first_share)
            _proposal(coarse[k], *laid, t, buffer, gap)
            if term.size:
                for p in range(phases):
                    buffer[p] += term[top + p // factor_x, p % factor_x :: factor_x]
            if law >= 1 and equal:
                for i in range(n):
                    gap[i] = np.float64(cells[i]) - gap[i]
            elif law >= 1:
                _gap(cells, share, buffer, gap)
            else:
                gap[:] = 0.0
            if law >= 1:
                _settle_small(cells, share, buffer, gap, low, high)
            if not equal:
                _shift(buffer, gap)
            if law == 2:
                _bound(cells, share, covered, buffer, gap, keep, low, high, smallest, largest, y, part)
                if not equal:
                    buffer *= keep
                    _shift(buffer, gap)
            if equal:
                _store_equal(buffer, gap, keep, first_share, fine, factor_x, mean)
            else:
                _store(buffer, share, fine, factor_x, mean)
            if tolerance < np.inf:
                doubtful[k] += _doubtful(cells, mean, covered, share, fine, factor_x, tolerance)
            _blank(cells, fine, factor_x)


@compiled
def _shares(y_share, x_share, part_share, top, share, covered):  # type: ignore[no-untyped-def]
    """Lay out the shares of the parts of a row of cells, planar as the buffer is."""
    factor = x_share.size // share.shape[1]
    for p in range(share.shape[0]):
        r, c = p // factor, p % factor
        share[p] = part_share[top + r, c::factor] if part_share.size else y_share[r] * x_share[c::factor]
    covered[:] = share.sum(axis=0) > 0


@compiled
def _blank(x, fine, factor):  # type: ignore[no-untyped-def]
    """Leave missing cells missing."""
    for i in range(x.size):
        if np.isnan(x[i]):
            fine[:, i * factor : (i + 1) * factor] = np.nan
