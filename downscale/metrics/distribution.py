"""Area-weighted distributions of values, as running counts.

Values are rounded to 16 significant bits and counted exactly. The result is independent of the order and chunking of
the maps, and the count stays small for any number of maps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from downscale.errors import OptionError

Floats = NDArray[np.float64]
# A float32 has 24 significant bits; the last eight are rounded off: relative error at most 2**-16.
DROPPED_BITS = 8
RESOLUTION = 2.0**-16
LARGEST = float(np.finfo(np.float32).max)
LARGEST_KEY = (0x7F800000 >> DROPPED_BITS) - 1
# Ratio of possible to actual values above which values are sorted instead of counted.
SPARSE = 16


@dataclass(frozen=True, eq=False)
class Distribution:
    """Weights of distinct values.

    Examples
    --------
    >>> distribution = Distribution.of(np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4))
    >>> float(distribution.quantile(0.5))
    2.0
    """

    # (n,): distinct rounded values, ascending.
    values: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    weights: Floats = field(default_factory=lambda: np.empty(0))  # (n,): weight of each value

    @classmethod
    def of(cls, values: NDArray[np.floating], weights: NDArray[np.floating]) -> Distribution:
        """Return the distribution of finite values with positive weight; the shapes broadcast."""
        arrays = np.broadcast_arrays(values, weights)
        valid = np.isfinite(arrays[0]) & (arrays[1] > 0)
        return cls._from_repeated(arrays[0][valid], arrays[1][valid].astype(np.float64))

    @classmethod
    def _from_repeated(cls, values: NDArray[np.floating], weights: Floats) -> Distribution:
        keys, sums = _sum_by_key(_keys(values), weights)
        return cls(_values(keys), sums)

    def merge(self, other: Distribution) -> Distribution:
        """Return the distribution of both together."""
        values, weights = np.concatenate([self.values, other.values]), np.concatenate([self.weights, other.weights])
        return self._from_repeated(values, weights)

    def quantile(self, level: float) -> float:
        """Return the least value at or below which the fraction ``level`` of the weight lies; NaN without values.

        The relative error is at most 2**-16, from rounding.

        Raises
        ------
        OptionError
            If the level is not between 0 and 1.
        """
        if not 0 <= level <= 1:
            raise OptionError(f"expected a quantile level from 0 to 1, received {level!r}; such as 0.999")
        if not self.values.size:
            return float("nan")
        cumulative_weight = np.cumsum(self.weights)
        # Tolerate rounding of the sums of weights.
        index = np.searchsorted(cumulative_weight, level * cumulative_weight[-1] * (1 - 1e-12))
        return float(self.values[min(int(index), self.values.size - 1)])


def _keys(values: NDArray[np.floating]) -> NDArray[np.int32]:
    """Return the ordered integer of each rounded value; zeros give 0, and overflow of float32 the largest integer."""
    single = np.ascontiguousarray(np.clip(values, -LARGEST, LARGEST), np.float32)
    size = np.abs(single).view(np.int32)
    # Rounding would take the largest values to infinity.
    return np.copysign(np.minimum(size + (1 << (DROPPED_BITS - 1)) >> DROPPED_BITS, LARGEST_KEY), single).astype(
        np.int32
    )


def _values(keys: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the values of these integers."""
    sizes = (np.abs(keys) << DROPPED_BITS).astype(np.int32).view(np.float32)
    return np.where(keys < 0, -sizes, sizes)


def _sum_by_key(keys: NDArray[np.int32], weights: Floats) -> tuple[NDArray[np.int32], Floats]:
    """Return distinct keys, ascending, and the sum of the weights of each."""
    if not keys.size:
        return keys, weights
    low = int(keys.min())
    span = int(keys.max()) - low + 1
    if span > SPARSE * keys.size:
        distinct, indices = np.unique(keys, return_inverse=True)
        return distinct, np.bincount(indices, weights).astype(np.float64, copy=False)
    # Counting costs one pass over the span, sorting several over the values.
    sums = np.bincount(keys - low, weights)
    nonzero = np.flatnonzero(sums)
    return (nonzero + low).astype(np.int32), sums[nonzero].astype(np.float64, copy=False)
