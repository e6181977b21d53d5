"""Slow and obvious references that the tests compare with; nothing here is shared with the package."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

EARTH_RADIUS = 6_371_000.0


def mean_distance_power(a: tuple[float, float], b: tuple[float, float], beta: float) -> float:
    """Average of |x - y|**beta over x in a and y in b, from the second antiderivative of |d|**beta."""
    total = 0.0
    for i in (0, 1):
        for j in (0, 1):
            total += (-1) ** (i + j + 1) * abs(a[i] - b[j]) ** (beta + 2) / ((beta + 1) * (beta + 2))
    return total / ((a[1] - a[0]) * (b[1] - b[0]))


def mean_power(a: tuple[float, float], degree: int) -> float:
    """Average of x**degree over a."""
    return (a[1] ** (degree + 1) - a[0] ** (degree + 1)) / ((degree + 1) * (a[1] - a[0]))


def kriging_system(cells: list[tuple[float, float]], part: tuple[float, float], order: float):
    """Covariances among cells, covariances of cells with the part, means of drifts over cells and over the part."""
    beta = 2 * order - 1
    drifts = min(math.floor(beta / 2) + 1, len(cells))
    sign = (-1) ** (math.floor(beta / 2) + 1)
    among = np.array([[sign * mean_distance_power(p, q, beta) for q in cells] for p in cells])
    towards = np.array([sign * mean_distance_power(p, part, beta) for p in cells])
    drift = np.array([[mean_power(p, d) for d in range(drifts)] for p in cells])
    return among, towards, drift, np.array([mean_power(part, d) for d in range(drifts)])


def sobolev_row(cells: list[tuple[float, float]], part: tuple[float, float], order: float) -> np.ndarray:
    """Weights of the cells of one window in the prediction of the average over one part."""
    unit = abs(cells[-1][1] - cells[0][0]) / len(cells)
    middle = 0.5 * (part[0] + part[1])

    def scaled(pair: tuple[float, float]) -> tuple[float, float]:
        return (pair[0] - middle) / unit, (pair[1] - middle) / unit

    among, towards, drift, wanted = kriging_system([scaled(c) for c in cells], scaled(part), order)
    none = np.zeros((drift.shape[1], drift.shape[1]))
    system = np.block([[among, drift], [drift.T, none]])
    return np.linalg.solve(system, np.concatenate([towards, wanted]))[: len(cells)]


def sobolev_matrix(coarse, fine, taps: int = 7, order: float = 1.25, period: float | None = None) -> np.ndarray:
    """The whole operator along one axis, shape (n_fine, n), one row at a time."""
    count = len(coarse) - 1
    taps = min(taps, count)
    if period is not None and taps % 2 == 0:
        taps -= 1
    turn = 0.0 if period is None else math.copysign(period, coarse[-1] - coarse[0])
    matrix = np.zeros((len(fine) - 1, count))
    for row, part in enumerate(itertools.pairwise(fine)):
        middle = 0.5 * (part[0] + part[1])
        (parent,) = [i for i in range(count) if min(coarse[i : i + 2]) < middle < max(coarse[i : i + 2])]
        first = parent - taps // 2
        if period is None:
            first = min(max(first, 0), count - taps)
        window = range(first, first + taps)
        cells = [tuple(coarse[k % count + e] + k // count * turn for e in (0, 1)) for k in window]
        for k, weight in zip(window, sobolev_row(cells, part, order), strict=True):
            matrix[row, k % count] += weight
    return matrix


def part_areas(y_edges, x_edges, spherical: bool) -> np.ndarray:
    """Areas of cells in m2, one at a time."""
    area = np.zeros((len(y_edges) - 1, len(x_edges) - 1))
    for j, i in np.ndindex(*area.shape):
        y, x = (y_edges[j], y_edges[j + 1]), (x_edges[i], x_edges[i + 1])
        if spherical:
            high, low = (math.sin(math.radians(v)) for v in (max(y), min(y)))
            area[j, i] = EARTH_RADIUS**2 * (high - low) * math.radians(abs(x[1] - x[0]))
        else:
            area[j, i] = abs(y[1] - y[0]) * abs(x[1] - x[0])
    return area


def cell_means(fine: np.ndarray, area: np.ndarray, factor: tuple[int, int], mask=None) -> np.ndarray:
    """Area-weighted mean of the valid parts of each coarse cell of one map; NaN where there are none."""
    mask = np.ones(fine.shape, bool) if mask is None else mask
    out = np.full((fine.shape[0] // factor[0], fine.shape[1] // factor[1]), np.nan)
    for j, i in np.ndindex(*out.shape):
        part = np.s_[j * factor[0] : (j + 1) * factor[0], i * factor[1] : (i + 1) * factor[1]]
        valid = mask[part]
        if valid.any():
            out[j, i] = np.average(fine[part][valid], weights=area[part][valid])
    return out


def bounded_cell(z: np.ndarray, x: float, weights: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Nearest y to z with weighted mean x and lower <= y <= upper: walk the breakpoints of the mean in t."""
    weights = weights / weights.sum()

    def mean(t: float) -> float:
        return math.fsum(weights * np.clip(z + t, lower, upper))

    # z + t lies below x at the first of these, above x at the second; between breakpoints the mean is a straight line.
    nodes = [x - z.max(), x - z.min(), *(lower - z), *(upper - z)]
    nodes = sorted(t for t in nodes if math.isfinite(t))
    for left, right in itertools.pairwise(nodes):
        if mean(left) <= x <= mean(right):
            rise = mean(right) - mean(left)
            share = (x - mean(left)) / rise if rise > 0 else 0.0
            return np.clip(z + left + share * (right - left), lower, upper)
    return np.clip(z + min(nodes, key=lambda t: abs(mean(t) - x)), lower, upper)


def periodic_conv_transpose(field: np.ndarray, kernels: tuple[np.ndarray, np.ndarray], factor: tuple[int, int]):
    """Torch's transposed convolution of one map with the outer product of two kernels, on a torus of many copies.

    Cell i of an axis lies in the middle of its kernel, so the result is cut where the kernel's middle cell begins.
    """
    n = field.shape
    tiled = torch.from_numpy(np.tile(field, (3, 3)))[None, None]
    kernel = torch.from_numpy(np.multiply.outer(*kernels))[None, None]
    whole = torch.nn.functional.conv_transpose2d(tiled, kernel, stride=factor)[0, 0].numpy()
    first = [n[d] * factor[d] + (len(kernels[d]) // factor[d] // 2) * factor[d] for d in (0, 1)]
    return whole[first[0] : first[0] + n[0] * factor[0], first[1] : first[1] + n[1] * factor[1]]
