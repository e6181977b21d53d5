"""Fine detail by label from a record or a climatology, shrunk by its sampling error.

With C a fine field, U the kernel and A the cell means, the detail is ``C - U A C`` to add, or ``C / U A C - 1`` in
proportion. A record is divided into parts that are independent, such as its years. The product of the details of
different parts estimates the square of the true detail without bias, whatever the correlations within a part; its ratio
to the square of the mean detail is the weight of least expected error (empirical Bayes). In proportion, a few heavy
samples decide both; the weight is then the lower confidence limit of the slope of later parts on their prediction from
earlier ones.

With several quantiles, samples are divided by the rank of their smooth value within the record, for each label and fine
cell, and each division has a detail and a weight of its own; between the nodes of the divisions the detail is linear.

References
----------
James, W. and Stein, C. (1961), Estimation with quadratic loss, Proceedings of the Fourth Berkeley Symposium on
Mathematical Statistics and Probability 1, 361-379 (shrinkage towards zero).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from downscale.fields.aggregate import Aggregation

if TYPE_CHECKING:
    from torch import Tensor

# Largest factor of the form in proportion: beyond it the smooth climatology is nearly zero.
MOST = 5.0
# Coarse cells over which weights are pooled, as the standard deviation of a Gaussian.
REACH = 3.0
# A part that is all but this fraction of the record is all of it.
ROUNDING = 1e-9
# Least distance of nodes, of that between the first and the last one.
LEAST_WIDTH = 1e-3
# Confidence that a weight in proportion is not too large.
CONFIDENCE = 0.95
# Samples that each quantile needs.
FEWEST_SAMPLES = 4
# Predictions of parts from those before them that a weight in proportion needs.
FEWEST_SCORES = 3

Floats = NDArray[np.float64]


@dataclass
class Part:
    """Sums over the samples of one part of a record; in :class:`Evidence`. ``seen`` is whether any has a value."""

    detail: Floats
    base: Floats
    product: Floats
    square: Floats
    seen: bool = True

    @classmethod
    def of_mean(cls, mean: Floats, smooth: Floats, samples: int, ratio: bool) -> Part:
        """Return the sums of equal samples with this mean and smooth field, NaN where there are none."""
        valid = np.isfinite(mean) & np.isfinite(smooth)
        detail = np.where(valid, samples * (mean - smooth), 0.0)
        base = np.where(valid, samples * np.maximum(smooth, 0.0) if ratio else float(samples), 0.0)
        return cls(detail, base, detail, base, bool(valid.any()))

    @classmethod
    def of_samples(cls, maps: Floats, smooth: Floats, ratio: bool, chosen: NDArray[np.bool_]) -> Part:
        """Return the sums of the ``chosen`` values of samples and their smooth fields, (samples, rows, columns)."""
        valid = np.isfinite(maps) & np.isfinite(smooth) & chosen
        detail = np.where(valid, maps - smooth, 0.0)
        base = np.where(valid, np.maximum(smooth, 0.0) if ratio else 1.0, 0.0)
        return cls(
            detail.sum(axis=0), base.sum(axis=0), (detail * base).sum(axis=0), (base**2).sum(axis=0), bool(valid.any())
        )

    def plus(self, other: Part) -> Part:
        """Return the sums over the samples of both."""
        return Part(
            self.detail + other.detail, self.base + other.base, self.product + other.product,
            self.square + other.square, self.seen or other.seen,
        )  # fmt: skip


class Evidence:
    """Sums over the independent parts of a record, by label; shapes (labels, fine rows, fine columns).

    ``detail`` and ``base`` are sums over samples of the detail and of what its pattern multiplies (the smooth field, or
    1 to add it); ``own`` and ``sizes`` are sums over parts of their squares within each part. In proportion, where
    heavy samples decide, each part is instead predicted from those before it: ``scores`` holds for each label and part
    the cell means of prediction times detail, and of the prediction squared.
    """

    def __init__(self, labels: int, cells: Aggregation, ratio: bool, needs_weights: bool = True) -> None:
        self.cells, self.ratio, shape = cells, ratio, (labels, *cells.fine_shape)
        self.needs_weights = needs_weights
        self.detail, self.base = np.zeros(shape), np.zeros(shape)
        self.own, self.sizes = (np.zeros(shape if needs_weights and not ratio else (0, 0, 0)) for _ in range(2))
        self.scores: list[list[tuple[Floats, Floats]]] = [[] for _ in range(labels)]
        self.samples, self.parts = np.zeros(labels, np.int64), np.zeros(labels, np.int64)
        self.seen = False

    def add(self, label: int, samples: int, part: Part) -> None:
        """Add the sums of one part of the record."""
        if not self.needs_weights:
            pass
        elif not self.ratio:
            self.own[label] += part.detail**2
            self.sizes[label] += part.base**2
        elif self.parts[label]:
            before = _proportion(self.detail[label], self.base[label])
            score = before * part.product, before**2 * part.square
            self.scores[label].append(tuple(np.asarray(self.cells.mean(one)) for one in score))  # type: ignore[arg-type]
        self.detail[label] += part.detail
        self.base[label] += part.base
        self.seen |= part.seen
        self.samples[label] += samples
        self.parts[label] += 1

    def pattern(self) -> tuple[Floats, NDArray[np.int64]]:
        """Return the detail of each label, 0 where there are no observations, and the number of values clipped."""
        if not self.ratio:
            return self.detail / np.where(self.base > 0, self.base, 1.0), np.zeros(len(self.detail), np.int64)
        beyond = (self.detail < -self.base) | (self.detail > (MOST - 1) * self.base)
        return _proportion(self.detail, self.base), (beyond & (self.detail != 0)).sum(axis=(1, 2))

    def weights(self, pattern: Floats, area: Floats, closed: bool) -> Floats:
        """Return the weight of each label in each coarse cell, 0 to 1, shape (labels, n_y, n_x).

        ``area`` are the areas of coarse cells, by which neighbours are pooled; ``closed`` is whether columns go around
        a circle. Labels with too few parts to estimate their error get 0.
        """
        if self.ratio:
            return np.stack([_scored_weight(scores, area, closed) for scores in self.scores])
        # The expected product of the details of different parts, and the square of the mean detail.
        others = self.base**2 - self.sizes
        usable = others > ROUNDING * self.base**2
        true = np.where(usable, (self.detail**2 - self.own) / np.where(usable, others, 1.0), 0.0)
        true, found = (_pooled(np.asarray(self.cells.mean(one)) * area, closed) for one in (true, pattern**2))
        weights = np.where(found > 0, true / np.where(found > 0, found, 1.0), 0.0)
        return np.where(self.parts[:, None, None] > 1, np.clip(weights, 0.0, 1.0), 0.0)


def quantiles_of(values: NDArray[np.floating[Any]], levels: Floats, ratio: bool) -> Floats:
    """Return quantiles of samples, shapes (samples, n_y, n_x) and (levels, n_y, n_x); NaN in cells without samples.

    In proportion, samples count by their size, so that nodes are where amounts are.

    Examples
    --------
    >>> amounts = np.array([0.0, 1.0, 1.0, 2.0]).reshape(4, 1, 1)
    >>> [float(quantiles_of(amounts, np.array([0.7]), ratio)[0, 0, 0]) for ratio in (False, True)]
    [1.0, 2.0]
    """
    ordered = np.sort(values, axis=0)
    weights = np.where(np.isfinite(ordered), np.maximum(ordered, 0.0) if ratio else 1.0, 0.0)
    sums = np.cumsum(weights, axis=0)
    index = np.stack([(sums < level * sums[-1]).sum(axis=0) for level in levels])
    return np.asarray(np.take_along_axis(ordered, np.minimum(index, len(values) - 1), axis=0))


def most_quantiles(samples: int, parts: int, ratio: bool) -> int:
    """Return the most quantiles whose detail and weight can be estimated from samples in some parts.

    Examples
    --------
    >>> [[most_quantiles(30 * years, years, ratio) for years in (1, 3, 10, 20)] for ratio in (False, True)]
    [[1, 2, 9, 19], [1, 1, 2, 4]]
    >>> most_quantiles(6, 6, ratio=False)
    1
    """
    most = _later(parts - 1) // FEWEST_SCORES if ratio else parts - 1
    return max(min(most, samples // FEWEST_SAMPLES), 1)


def _later(scores: int) -> int:
    """Return the number of scores without the first third, whose predictions come from very few parts."""
    return scores - scores // 3


def terms_of(details: Floats, nodes: Floats) -> NDArray[np.float32]:
    """Return the terms of piecewise linear functions through ``details`` at ascending ``nodes``, (labels, n, ...).

    They are the first detail, the nodes, and the slopes between them; see :class:`downscale.kernels.windows.Detail`.
    """
    if details.shape[1] == 1:
        return details.astype(np.float32)
    # Nodes are kept apart, because steep slopes would multiply rounding, and rounded before slopes are computed.
    apart = LEAST_WIDTH * (nodes[:, -1:] - nodes[:, :1]) * np.arange(nodes.shape[1]).reshape(-1, 1, 1)
    nodes = (np.maximum.accumulate(nodes - apart, axis=1) + apart).astype(np.float32)
    widths = np.diff(nodes.astype(np.float64), axis=1)
    slopes = np.where(widths > 0, np.diff(details, axis=1) / np.where(widths > 0, widths, 1.0), 0.0)
    return np.concatenate([details[:, :1], nodes, slopes], axis=1, dtype=np.float32)


def add_detail(smooth: Tensor, terms: Tensor, in_proportion: bool) -> Tensor:
    """Return smooth fields (..., rows, columns) with the detail of ``terms`` (..., terms, rows, columns)."""
    value, nodes = terms[..., 0, :, :], terms.shape[-3] // 2
    for q in range(1, nodes):
        low, high, slope = (terms[..., i, :, :] for i in (q, q + 1, nodes + q))
        value = value + slope * (smooth.maximum(low).minimum(high) - low)
    return smooth * (1 + value) if in_proportion else smooth + value


def _proportion(detail: Floats, base: Floats) -> Floats:
    """Return the detail in proportion to its base, clipped; 0 where the base is zero."""
    pattern = np.where(base > 0, detail / np.where(base > 0, base, 1.0), 0.0)
    return np.clip(pattern, -1.0, MOST - 1)


def _scored_weight(scores: list[tuple[Floats, Floats]], area: Floats, closed: bool) -> Floats:
    """Return the lower confidence limit of the slope of later parts on their prediction from earlier ones, 0 to 1.

    The first third is left out; the error is that of the jackknife, with few degrees of freedom.
    """
    from scipy.special import stdtrit

    scores = scores[len(scores) - _later(len(scores)) :]
    if len(scores) < FEWEST_SCORES:
        return np.zeros_like(area)
    product, square = (_pooled(np.stack(one) * area, closed) for one in zip(*scores, strict=True))
    totals = product.sum(axis=0), square.sum(axis=0)
    without = totals[0] - product, totals[1] - square
    slopes = np.where(without[1] > 0, without[0] / np.where(without[1] > 0, without[1], 1.0), 0.0)
    slope = np.where(totals[1] > 0, totals[0] / np.where(totals[1] > 0, totals[1], 1.0), 0.0)
    spread = ((slopes - slopes.mean(axis=0)) ** 2).sum(axis=0) * (len(scores) - 1) / len(scores)
    return np.clip(slope - stdtrit(len(scores) - 1, CONFIDENCE) * np.sqrt(spread), 0.0, 1.0)


def _pooled(values: Floats, closed: bool) -> Floats:
    """Return sums over neighbouring cells, weighted by distance."""
    from scipy.ndimage import gaussian_filter

    modes = ("nearest", "nearest", "wrap" if closed else "nearest")
    return np.asarray(gaussian_filter(values, (0, REACH, REACH), mode=modes))
