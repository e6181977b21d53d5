"""Fine detail by label from a record or a climatology, shrunk by its sampling error.

With C a fine field, U the kernel and A the cell means, the detail is ``C - U A C`` to add, or ``C / U A C - 1`` in
proportion. A record is divided into parts that are independent, such as its years. The product of the details of
different parts estimates the square of the true detail without bias, whatever the correlations within a part; its ratio
to the square of the mean detail is the weight of least expected error (empirical Bayes). In proportion, a few heavy
samples decide both; the weight is then the slope of later parts on their prediction from earlier ones, less its error.

References
----------
James, W. and Stein, C. (1961), Estimation with quadratic loss, Proceedings of the Fourth Berkeley Symposium on
Mathematical Statistics and Probability 1, 361-379 (shrinkage towards zero).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from downscale.fields.aggregate import Aggregation

# Largest factor of the form in proportion: beyond it the smooth climatology is nearly zero.
MOST = 5.0
# Coarse cells over which weights are pooled, as the standard deviation of a Gaussian.
REACH = 3.0
# A part that is all but this fraction of the record is all of it.
ROUNDING = 1e-9
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
    def of_samples(cls, maps: Floats, smooth: Floats) -> Part:
        """Return the sums of samples and their smooth fields, shapes (samples, rows, columns), in proportion."""
        valid = np.isfinite(maps) & np.isfinite(smooth)
        detail = np.where(valid, maps - smooth, 0.0)
        base = np.where(valid, np.maximum(smooth, 0.0), 0.0)
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

    def __init__(self, labels: int, cells: Aggregation, ratio: bool) -> None:
        self.cells, self.ratio, shape = cells, ratio, (labels, *cells.fine_shape)
        self.detail, self.base = np.zeros(shape), np.zeros(shape)
        self.own, self.sizes = (np.zeros((0, 0, 0)) if ratio else np.zeros(shape) for _ in range(2))
        self.scores: list[list[tuple[Floats, Floats]]] = [[] for _ in range(labels)]
        self.samples, self.parts = np.zeros(labels, np.int64), np.zeros(labels, np.int64)
        self.seen = False

    def add(self, label: int, samples: int, part: Part) -> None:
        """Add the sums of one part of the record."""
        if not self.ratio:
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


def _proportion(detail: Floats, base: Floats) -> Floats:
    """Return the detail in proportion to its base, clipped; 0 where the base is zero."""
    pattern = np.where(base > 0, detail / np.where(base > 0, base, 1.0), 0.0)
    return np.clip(pattern, -1.0, MOST - 1)


def _scored_weight(scores: list[tuple[Floats, Floats]], area: Floats, closed: bool) -> Floats:
    """Return the slope of later parts on their prediction from earlier ones, less its standard error, 0 to 1.

    The first third is left out, because its predictions come from very few parts; the error is that of the jackknife.
    """
    scores = scores[len(scores) // 3 :]
    if len(scores) < FEWEST_SCORES:
        return np.zeros_like(area)
    product, square = (_pooled(np.stack(one) * area, closed) for one in zip(*scores, strict=True))
    totals = product.sum(axis=0), square.sum(axis=0)
    without = totals[0] - product, totals[1] - square
    slopes = np.where(without[1] > 0, without[0] / np.where(without[1] > 0, without[1], 1.0), 0.0)
    slope = np.where(totals[1] > 0, totals[0] / np.where(totals[1] > 0, totals[1], 1.0), 0.0)
    spread = ((slopes - slopes.mean(axis=0)) ** 2).sum(axis=0) * (len(scores) - 1) / len(scores)
    return np.clip(slope - np.sqrt(spread), 0.0, 1.0)


def _pooled(values: Floats, closed: bool) -> Floats:
    """Return sums over neighbouring cells, weighted by distance."""
    from scipy.ndimage import gaussian_filter

    modes = ("nearest", "nearest", "wrap" if closed else "nearest")
    return np.asarray(gaussian_filter(values, (0, REACH, REACH), mode=modes))
