"""Conservation errors as reductions: chunk, combine, finalize.

A partial result is small, and partial results combine in any order. A field of any size is therefore checked block by
block, with the same result as in one piece. Infinite values and new negative ones are counted alike.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.fields.aggregate import Aggregation

Floats = NDArray[np.float64]
Bounds = tuple[float | None, float | None]

# Rounding to storage leaves half a unit in the last place of each fine value, 6e-8 and 1e-16; sums add a little.
DEFAULT_TOLERANCE = {4: 1e-6, 8: 1e-12, 2: 1e-2}


def default_tolerance(dtype: np.dtype[Any]) -> float:
    """Return the largest relative error of a coarse cell that rounding explains.

    Examples
    --------
    >>> default_tolerance(np.dtype("float32"))
    1e-06
    """
    return DEFAULT_TOLERANCE.get(dtype.itemsize, 1e-12) if dtype.kind == "f" else 1e-12


@dataclass(frozen=True)
class Peak:
    """The largest error so far and the index of its coarse cell in the whole field."""

    value: float = 0.0
    index: tuple[int, ...] = ()

    def larger(self, other: Peak) -> Peak:
        """Return the larger one; on a tie the first in index order, so that the order of blocks has no effect."""
        if self.value != other.value:
            return self if self.value > other.value else other
        return self if other.index == () or (self.index != () and self.index <= other.index) else other


@dataclass(frozen=True)
class PartialResult:
    """Contribution of one block to a report.

    ``sums`` holds, for each slab of maps (by the start of its other dimensions), area-weighted sums with one value per
    map: of the fine field, the coarse field and the magnitudes. ``near`` is the largest excess of a coarse cell over
    the bound of its neighbourhood, ``near_bound`` the largest bound, both relative.
    """

    relative: Peak = Peak()
    absolute: Peak = Peak()
    cells_checked: int = 0
    cells_masked: int = 0
    cells_lost: int = 0
    cells_invented: int = 0
    values_out_of_bounds: int = 0
    sums: dict[tuple[int, ...], Floats] = field(default_factory=dict)
    near: Peak = Peak()
    near_checked: int = 0
    near_failed: int = 0
    near_bound: float = 0.0
    cells_with_gaps: int = 0


def check_block(
    coarse: Floats,
    fine: Floats,
    cells: Aggregation,
    area: Floats,
    origin: tuple[int, ...],
    bounds: tuple[float | None, float | None] = (None, None),
    sizes: Floats | None = None,
    smallest: float | None = None,
) -> PartialResult:
    """Return the conservation errors of one block; ``sizes`` are mean magnitudes of fine values that are means.

    ``origin`` is the index of the first coarse value in the whole field. NaN marks missing cells, and sums are computed
    in float64. An infinite fine value gives an infinite error; an infinite coarse one is missing, since no mean is
    defined with it.
    """
    from downscale.kernels.refine import check_cells
    from downscale.kernels.windows import CellFractions

    lead_shape = coarse.shape[:-2]
    x = np.ascontiguousarray(coarse, np.float64).reshape(-1, *coarse.shape[-2:])
    kind = fine.dtype if fine.dtype in (np.float32, np.float64) else np.float64
    y = np.ascontiguousarray(fine, kind).reshape(-1, *fine.shape[-2:])
    peaks, places, counts = np.zeros(2), np.zeros((2, 3), np.int64), np.zeros(6, np.int64)
    sums = np.zeros((3, len(x)))
    low, high = _limits(bounds, fine.dtype)
    magnitudes = np.empty((0, 0, 0)) if sizes is None else np.ascontiguousarray(sizes, np.float64).reshape(y.shape)
    nothing = np.empty((0, 0))
    fraction = nothing if cells.cell_fraction is None else cells.cell_fraction
    subcells = CellFractions(cells.y_fraction, cells.x_fraction, fraction, nothing)
    smallest = smallest_magnitude(coarse, fine) if smallest is None else smallest
    check_cells(x, y, magnitudes, subcells, area, low, high, smallest, peaks, places, counts, sums)
    maxima = []
    for value, place in zip(peaks, places, strict=True):
        if not value > 0:
            maxima.append(Peak())
            continue
        index = (*np.unravel_index(int(place[0]), lead_shape), *place[1:]) if lead_shape else tuple(place[1:])
        maxima.append(Peak(float(value), tuple(int(i) + start for i, start in zip(index, origin, strict=True))))
    slab_sums = {tuple(origin[:-2]): sums.reshape(3, *lead_shape)}
    checked, masked, lost, invented, out_of_bounds, with_gaps = (int(count) for count in counts)
    return PartialResult(
        maxima[0], maxima[1], checked, masked, lost, invented, out_of_bounds, slab_sums, cells_with_gaps=with_gaps
    )


def smallest_magnitude(coarse: Any, fine: Any) -> float:
    """Return the magnitude below which the stored types lose precision step by step."""
    kinds = [np.finfo(array.dtype) for array in (coarse, fine) if array.dtype.kind == "f"]
    return max((float(kind.tiny) / float(kind.eps) for kind in kinds), default=0.0)


def peak_of(error: Floats, origin: tuple[int, ...]) -> Peak:
    """Return the largest error of a block and its index in the whole field."""
    if error.size == 0 or not error.max() > 0:
        return Peak()
    local = np.unravel_index(int(error.argmax()), error.shape)
    return Peak(float(error.max()), tuple(int(i) + start for i, start in zip(local, origin, strict=True)))


def count_outside(values: Floats, bounds: tuple[float | None, float | None]) -> int:
    """Count values beyond the bounds."""
    low, high = _limits(bounds, values.dtype)
    return int(((values < low) | (values > high)).sum())


def stored_bounds(bounds: Bounds, dtype: np.dtype[Any]) -> Bounds:
    """Return bounds as a data type stores them: 0.7 is a little less as float32, and so are values on that bound.

    All code that imposes or checks bounds uses these, so that values on a bound are treated alike.

    Examples
    --------
    >>> stored_bounds((0.7, None), np.dtype("float32"))
    (0.699999988079071, None)
    """
    low, high = bounds
    if dtype.kind != "f":
        return bounds
    with np.errstate(over="ignore"):
        return (
            None if low is None else min(float(low), float(dtype.type(low))),
            None if high is None else max(float(high), float(dtype.type(high))),
        )


def _limits(bounds: Bounds, dtype: np.dtype[Any]) -> tuple[float, float]:
    low, high = stored_bounds(bounds, dtype)
    return -np.inf if low is None else low, np.inf if high is None else high


def _add_sums(first: dict[Any, Any], second: dict[Any, Any]) -> dict[Any, Any]:
    return {**first, **{start: first.get(start, 0.0) + values for start, values in second.items()}}


# How the attributes of two partial results combine, by their type.
COMBINE: dict[type, Any] = {Peak: Peak.larger, int: operator.add, float: max, dict: _add_sums}


def combine(first: PartialResult, second: PartialResult) -> PartialResult:
    """Combine the contributions of two blocks."""
    pairs = {name: (value, getattr(second, name)) for name, value in vars(first).items()}
    return PartialResult(**{name: COMBINE[type(pair[0])](*pair) for name, pair in pairs.items()})


def combine_all(partials: list[PartialResult]) -> PartialResult:
    """Combine the contributions of any number of blocks."""
    return reduce(combine, partials, PartialResult())


def global_error(partial: PartialResult) -> float:
    """Return the largest relative error of the area integral of a map (global conservation)."""
    largest = 0.0
    for fine, coarse, size in partial.sums.values():
        with np.errstate(invalid="ignore"):
            difference = np.nan_to_num(np.abs(fine - coarse), nan=np.inf, posinf=np.inf)
        # An infinite sum is an infinite error, whatever its divisor.
        ratio = np.divide(
            difference,
            size,
            out=np.where(np.isinf(difference), np.inf, 0.0),
            where=(size > 0) & np.isfinite(difference),
        )
        largest = max(largest, float(ratio.max(initial=0.0)))
    return largest


@dataclass(frozen=True)
class InfiniteValues:
    """The number of infinite values of a block or of a whole field, and the index of the first one (empty if none)."""

    count: int = 0
    first: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: NDArray[Any], origin: tuple[int, ...]) -> InfiniteValues:
        """Count the infinite values of a block that begins at ``origin``.

        Examples
        --------
        >>> InfiniteValues.of(np.array([[1.0, np.inf, np.nan]]), (4, 0))
        InfiniteValues(count=1, first=(4, 1))
        """
        is_infinite = np.isinf(values)
        count = int(is_infinite.sum())
        if not count:
            return cls()
        local = np.unravel_index(int(is_infinite.argmax()), is_infinite.shape)
        return cls(count, tuple(int(i) + start for i, start in zip(local, origin, strict=True)))

    def __add__(self, other: InfiniteValues) -> InfiniteValues:
        if not self.count or not other.count:
            return self if self.count else other
        return InfiniteValues(self.count + other.count, min(self.first, other.first))


def infinite_message(name: str) -> str:
    """Return the warning for a block with infinite values: the same text for all blocks, so that it is shown once."""
    return f"{name}: expected finite values, received infinite ones, which are taken for missing; repair the input"


def infinite_count_message(name: str, count: int, place: Mapping[str, Any]) -> str:
    """Return the warning for a whole field with infinite values, the first of them at ``place``."""
    location = ", ".join(
        f"{dim}={f'{coordinate:g}' if isinstance(coordinate, float) else coordinate}"
        for dim, coordinate in place.items()
    )
    return (
        f"{name}: expected finite values, received {count} infinite, the first at {location}; they are taken for "
        "missing, repair the input"
    )


@dataclass(frozen=True)
class Signs:
    """The smallest coarse value, and the number of negative fine values if no coarse value of the block is negative."""

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


def negative_message(name: str) -> str:
    """Return the warning about new negative values: the same text for all blocks, so that it is shown once."""
    return (
        f"{name}: no coarse value is negative, but fine values are, and no bound is known; pass bounds=(0, None) "
        "(--bounds 0:) if negative values make no sense, bounds=None (--bounds none) if they do"
    )
