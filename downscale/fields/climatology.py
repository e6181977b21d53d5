"""Fine detail by label from a record or a climatology, shrunk by its sampling error.

With C a fine field, U the kernel and A the cell means, the detail is ``C - U A C`` to add, or ``C / U A C - 1`` in
proportion. A record is divided into parts that are independent, such as its years. The product of the details of two
parts estimates the square of the true detail without bias, whatever the correlations within a part; its ratio to the
square of the mean detail is the weight that makes the expected error least (empirical Bayes).

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

Floats = NDArray[np.float64]


@dataclass
class Part:
    """Sums over the samples of one part of a record; see :class:`Evidence`. ``seen`` is whether any has a value."""

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
        products = (detail * base).sum(axis=0), (base**2).sum(axis=0)
        return cls(detail.sum(axis=0), base.sum(axis=0), *products, bool(valid.any()))

    def plus(self, other: Part) -> Part:
        """Return the sums over the samples of both."""
        sums = (getattr(self, name) + getattr(other, name) for name in ("detail", "base", "product", "square"))
        return Part(*sums, self.seen or other.seen)


class Evidence:
    """Sums over the independent parts of a record, by label; shapes (labels, fine rows, fine columns).

    ``detail`` and ``base`` are sums over samples of the detail and of what its pattern multiplies (the smooth field, or
    1 to add it); ``product`` and ``square`` are sums of the detail times its base, and of the base squared. ``own`` and
    ``sizes`` are sums over parts of ``detail * product`` and ``base**2`` within each part.
    """

    def __init__(self, labels: int, shape: tuple[int, int], ratio: bool) -> None:
        self.ratio = ratio
        self.detail, self.base, self.own, self.sizes = (np.zeros((labels, *shape)) for _ in range(4))
        # To add a detail its base is 1, so that these are the same sums.
        self.product, self.square = self.detail, self.base
        if ratio:
            self.product, self.square = (np.zeros((labels, *shape)) for _ in range(2))
        self.samples, self.parts = np.zeros(labels, np.int64), np.zeros(labels, np.int64)
        self.seen = False

    def add(self, label: int, samples: int, part: Part) -> None:
        """Add the sums of one part of the record."""
        self.detail[label] += part.detail
        self.base[label] += part.base
        self.own[label] += part.detail * part.product
        self.sizes[label] += part.base**2
        if self.ratio:
            self.product[label] += part.product
            self.square[label] += part.square
        self.seen |= part.seen
        self.samples[label] += samples
        self.parts[label] += 1

    def pattern(self) -> tuple[Floats, NDArray[np.int64]]:
        """Return the detail of each label, 0 where there are no observations, and the number of values clipped."""
        with np.errstate(divide="ignore", invalid="ignore"):
            pattern = np.where(self.base > 0, self.detail / self.base, 0.0)
        if not self.ratio:
            return pattern, np.zeros(len(pattern), np.int64)
        # A smooth climatology of zero has no proportion.
        clipped = (pattern < -1) | (pattern > MOST - 1) | ((self.base <= 0) & (self.detail > 0))
        return np.clip(pattern, -1.0, MOST - 1), clipped.sum(axis=(1, 2))

    def weights(self, pattern: Floats, cells: Aggregation, area: Floats, closed: bool) -> Floats:
        """Return the weight of each label in each coarse cell, 0 to 1, shape (labels, n_y, n_x).

        ``area`` are the areas of coarse cells, by which neighbours are pooled; ``closed`` is whether columns go around
        a circle. Labels with a single part have no estimate of their error: 0.
        """
        # The expected product of a new detail and its prediction from the other parts, and the predictions squared.
        others = 1 - self.sizes / np.where(self.base > 0, self.base, 1.0) ** 2
        usable = (self.base > 0) & (others > ROUNDING)
        scale = np.where(usable, self.base * others, 1.0)
        true = np.where(usable, (self.detail * self.product - self.own) / scale, 0.0)
        true, found = (
            _pooled(np.asarray(cells.mean(values)) * area, closed) for values in (true, pattern**2 * self.square)
        )
        weights = np.where(found > 0, true / np.where(found > 0, found, 1.0), 0.0)
        return np.where(self.parts[:, None, None] > 1, np.clip(weights, 0.0, 1.0), 0.0)


def _pooled(values: Floats, closed: bool) -> Floats:
    """Return sums over neighbouring cells, weighted by distance."""
    from scipy.ndimage import gaussian_filter

    modes = ("nearest", "nearest", "wrap" if closed else "nearest")
    return np.asarray(gaussian_filter(values, (0, REACH, REACH), mode=modes))
