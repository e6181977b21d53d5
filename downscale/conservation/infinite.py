"""Counts of infinite values, which are treated as missing, and their warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Infinite:
    """The infinite values of a block or of a whole field.

    Attributes
    ----------
    count : int
        Number of infinite values.
    first : tuple of int
        Index of the first one in the whole field, in index order; empty if there is none.
    """

    count: int = 0
    first: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: NDArray[Any], origin: tuple[int, ...]) -> Infinite:
        """Count the infinite values of a block that begins at ``origin``.

        Examples
        --------
        >>> Infinite.of(np.array([[1.0, np.inf, np.nan]]), (4, 0))
        Infinite(count=1, first=(4, 1))
        """
        bad = np.isinf(values)
        count = int(bad.sum())
        if not count:
            return cls()
        local = np.unravel_index(int(bad.argmax()), bad.shape)
        return cls(count, tuple(int(i) + start for i, start in zip(local, origin, strict=True)))

    def __add__(self, other: Infinite) -> Infinite:
        if not self.count or not other.count:
            return self if self.count else other
        return Infinite(self.count + other.count, min(self.first, other.first))


def infinite_line(name: str) -> str:
    """Return the warning for a block with infinite values: the same text for all blocks, so that it is shown once."""
    return f"{name}: expected finite values, received infinite ones, which are taken for missing; repair the input"


def counted_line(name: str, count: int, place: Mapping[str, Any]) -> str:
    """Return the warning for a whole field with infinite values, the first of them at ``place``."""
    where = ", ".join(f"{dim}={f'{at:g}' if isinstance(at, float) else at}" for dim, at in place.items())
    return (
        f"{name}: expected finite values, received {count} infinite, the first at {where}; they are taken for missing, "
        "repair the input"
    )
