"""Fractions skill score of events, by threshold and scale."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from downscale.errors import OptionError, ShapeError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fractions:
    """Running sums of squared differences of event fractions in windows.

    Attributes
    ----------
    error, most : arrays, shape (n_thresholds, n_scales)
        Sums of ``(p - o)^2`` and of ``p^2 + o^2`` over cells and members, with p and o the fractions of window cells
        at or above the threshold.
    """

    error: Floats = field(default_factory=lambda: np.empty((0, 0)))
    most: Floats = field(default_factory=lambda: np.empty((0, 0)))

    @classmethod
    def of(
        cls, made: Floats, true: Floats, weight: Floats, thresholds: tuple[float, ...], scales: tuple[int, ...]
    ) -> Fractions:
        """Return the sums over members (n_members, n_maps, n_y, n_x), targets and weights (n_maps, n_y, n_x).

        Parameters
        ----------
        thresholds : tuple of float
            Least values of an event, in units of the field.
        scales : tuple of int
            Odd widths of the windows in cells; missing cells in a window are ignored.

        Raises
        ------
        OptionError
            If a scale is not odd and positive.
        """
        check_scales(scales)
        error, most = np.zeros((2, len(thresholds), len(scales)))
        valid = weight > 0
        for j, side in enumerate(scales):
            count = _window(valid.astype(np.float64), side)
            share = np.divide(1.0, count, out=np.zeros_like(count), where=count > 0)
            for i, threshold in enumerate(thresholds):
                seen = _window((true >= threshold) & valid, side) * share
                for member in made:
                    said = _window((member >= threshold) & valid, side) * share
                    error[i, j] += float((weight * (said - seen) ** 2).sum()) / len(made)
                    most[i, j] += float((weight * (said**2 + seen**2)).sum()) / len(made)
        return cls(error, most)

    def merge(self, other: Fractions) -> Fractions:
        """Return the sums of both together.

        Raises
        ------
        ShapeError
            If the numbers of thresholds and scales differ.
        """
        if not self.error.size or not other.error.size:
            return other if not self.error.size else self
        if self.error.shape != other.error.shape:
            raise ShapeError(f"expected fractions of one shape, received {self.error.shape} and {other.error.shape}")
        return Fractions(self.error + other.error, self.most + other.most)

    @property
    def score(self) -> Floats:
        """The score, shape (n_thresholds, n_scales): 1 is perfect, 0 no overlap, NaN without events.

        References
        ----------
        Roberts, N. M. and Lean, H. W. (2008), Scale-selective verification of rainfall accumulations from
        high-resolution forecasts of convective events, Monthly Weather Review 136, 78-97.

        Examples
        --------
        >>> field, one = np.eye(4)[None], np.ones((1, 4, 4))
        >>> Fractions.of(field[None], field, one, (0.5,), (1, 3)).score.tolist()
        [[1.0, 1.0]]
        """
        some = self.most > 0
        return np.where(some, 1 - self.error / np.where(some, self.most, 1.0), np.nan)


def check_scales(scales: tuple[int, ...]) -> None:
    """Raise an OptionError for windows without a central cell.

    Raises
    ------
    OptionError
        If a scale is not an odd positive integer.
    """
    for side in scales:
        if isinstance(side, bool) or not isinstance(side, (int, np.integer)) or side < 1 or side % 2 == 0:
            raise OptionError(f"expected scales as odd numbers of cells from 1 on, received {side!r}; such as 1, 5, 17")


def _window(field: NDArray[np.generic], side: int) -> Floats:
    """Return sums over windows; cells beyond the edge count as zero."""
    made, reach = np.asarray(field, np.float64), side // 2
    for axis in (-2, -1):
        size = made.shape[axis]
        total = np.cumsum(made, axis=axis)
        total = np.concatenate([np.zeros_like(np.take(total, [0], axis)), total], axis=axis)
        at = np.arange(size)
        made = np.take(total, np.minimum(at + reach + 1, size), axis) - np.take(total, np.maximum(at - reach, 0), axis)
    return made
