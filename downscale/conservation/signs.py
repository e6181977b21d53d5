"""Counts of negative fine values of a field without negative coarse ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Signs:
    """The signs of a block or of a whole field.

    Attributes
    ----------
    least : float
        Smallest coarse value; infinite if there is none.
    negative : int
        Number of fine values below zero; not counted in a block with negative coarse values.
    """

    least: float = math.inf
    negative: int = 0

    @classmethod
    def of(cls, coarse: NDArray[Any], fine: NDArray[Any]) -> Signs:
        """Return the signs of a block.

        Examples
        --------
        >>> Signs.of(np.array([[0.0, 2.0]]), np.array([[-0.5, 0.5, 2.0, np.nan]]))
        Signs(least=0.0, negative=1)
        """
        least = float(np.fmin.reduce(coarse, axis=None)) if coarse.size else math.inf
        if least < 0 or not fine.size or not float(np.fmin.reduce(fine, axis=None)) < 0:
            return cls(math.inf if math.isnan(least) else least)
        return cls(math.inf if math.isnan(least) else least, int(np.count_nonzero(fine < 0)))

    def __add__(self, other: Signs) -> Signs:
        return Signs(min(self.least, other.least), self.negative + other.negative)

    @property
    def new_negatives(self) -> int:
        """Number of negative fine values if no coarse value is negative."""
        return self.negative if 0 <= self.least < math.inf else 0


def negative_line(name: str) -> str:
    """Return the warning about new negative values: the same text for all blocks, so that it is shown once."""
    return (
        f"{name}: no coarse value is negative, but fine values are, and no bound is known; pass bounds=(0, None) "
        "(--bounds 0:) if negative values make no sense, bounds=None (--bounds none) if they do"
    )
