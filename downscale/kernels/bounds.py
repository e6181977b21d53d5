"""Compiled projection of cells on bounds and their mean.

The readable counterpart is :mod:`downscale.fields.conserve`.
"""

from __future__ import annotations

import numpy as np

from downscale.kernels.compiled import compiled

# Steps of the safeguarded Newton iteration: about 55 halvings reach rounding.
STEPS, EPS = 128, 2.220446049250313e-16
# Scratch values per cell during the solution.
LANES = 9


@compiled
def solve(count, low, high, y, part, lanes):  # type: ignore[no-untyped-def]
    """Clip cells, in parallel, to the bounds with the shift that keeps each mean, by safeguarded Newton iteration.

    ``y[:, q]`` and ``part[:, q]`` are the values of a cell and their area fractions; ``lanes[1:4]`` its mean and the
    smallest and the largest shift.
    """
    aim, left, right, shift, size, last, error, slope = (
        lanes[1], lanes[2], lanes[3], lanes[4], lanes[5], lanes[6], lanes[7], lanes[8]
    )  # fmt: skip
    for q in range(count):
        # The mean is already correct: without bounds no shift would be needed.
        shift[q], size[q], last[q] = min(max(0.0, left[q]), right[q]), 0.0, np.inf
    for p in range(y.shape[0]):
        for q in range(count):
            size[q] += part[p, q] * abs(y[p, q])
    for _ in range(STEPS):
        for q in range(count):
            error[q], slope[q] = 0.0, 0.0
        for p in range(y.shape[0]):
            for q in range(count):
                moved, s = y[p, q] + shift[q], part[p, q]
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
    _to_full_accuracy(count, low, high, y, part, lanes)


@compiled
def _to_full_accuracy(count, low, high, y, part, lanes):  # type: ignore[no-untyped-def]
    """Scale distances from the nearer bound: rounding of order one is large for a cell of drizzle."""
    aim, size, bound, ratio, given = lanes[1], lanes[5], lanes[2], lanes[3], lanes[7]
    for q in range(count):
        bound[q], given[q] = (low if abs(aim[q] - low) <= abs(high - aim[q]) else high), 0.0
    for p in range(y.shape[0]):
        for q in range(count):
            given[q] += part[p, q] * (y[p, q] - bound[q])
    for q in range(count):
        wanted = aim[q] - bound[q]
        miss, scale = abs(wanted - given[q]), max(abs(aim[q]), size[q]) + abs(aim[q]) + abs(bound[q])
        # Not if the bound is infinite, which would compare with NaN.
        close = 2 * EPS * abs(wanted) < miss <= 32 * EPS * scale
        ratio[q] = (wanted / given[q] if given[q] != 0 else 0.0) if close and np.isfinite(bound[q]) else 1.0
        given[q] = wanted if given[q] == 0 and ratio[q] == 0 else 0.0
    for p in range(y.shape[0]):
        for q in range(count):
            if ratio[q] != 1.0:
                y[p, q] = min(max(bound[q] + (y[p, q] - bound[q]) * ratio[q] + given[q], low), high)
