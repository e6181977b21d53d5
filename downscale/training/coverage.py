"""Sampling weights that give every square kilometre the same weight, whatever the overlap of patches.

Training patches are sampled in proportion to their area; validation patches are adjacent tiles. In both cases some
cells belong to more patches than others, so weights are divided by the expected number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def lattice(cells: int, size: int) -> Indices:
    """Return the first cells of patches along an axis: half a patch apart, the last one flush with the end.

    Examples
    --------
    >>> lattice(11, 4).tolist()
    [0, 2, 4, 6, 7]
    """
    return np.unique(np.append(np.arange(0, cells - size + 1, max(size // 2, 1)), cells - size))


def tiles(first: Indices, size: int, margin: int) -> Indices:
    """Return the places of a lattice whose tiles cover every scored cell with least overlap.

    Examples
    --------
    >>> lattice(11, 4)[tiles(lattice(11, 4), 4, 0)].tolist()
    [0, 4, 7]
    """
    chosen, step = [0], size - 2 * _margin(size, margin)
    while chosen[-1] < len(first) - 1:
        following = int(np.searchsorted(first, first[chosen[-1]] + step, side="right")) - 1
        chosen.append(max(following, chosen[-1] + 1))
    return np.array(chosen, dtype=np.int64)


def _margin(size: int, margin: int) -> int:
    # The margin is ignored where it leaves no cell.
    return margin if 2 * margin < size else 0


def mass(area: Floats, rows: Indices, columns: Indices, size: tuple[int, int]) -> Floats:
    """Return the sampling weight of each place: the area of its patch, doubled at the ends, which only one side covers.

    Parameters
    ----------
    area : array, shape (n_y, n_x)
        Areas of the coarse cells.
    rows, columns : array of int
        Places of the lattice.
    size : (int, int)
        Coarse cells of a patch.
    """
    whole = np.pad(area, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    low, high = np.ix_(rows, columns), np.ix_(rows + size[0], columns + size[1])
    inside = whole[high] - whole[rows + size[0]][:, columns] - whole[rows][:, columns + size[1]] + whole[low]
    return np.multiply.outer(_ends(rows.size), _ends(columns.size)) * inside / inside.mean()


def drawn(area: Floats, rows: Indices, columns: Indices, size: tuple[int, int], margin: int) -> Floats:
    """Return the expected coverage of each coarse cell relative to the mean, shape (n_y, n_x); 0 if never sampled."""
    shape = area.shape
    ways = [_moved(first, n, part) for first, n, part in zip((rows, columns), shape, size, strict=True)]
    corners = ways[0].T @ mass(area, rows, columns, size) @ ways[1]
    return _relative(_covered(_covered(corners, shape[0], size[0], margin, 0), shape[1], size[1], margin, 1))


def tiled(shape: tuple[int, int], rows: Indices, columns: Indices, size: tuple[int, int], margin: int) -> Floats:
    """Return the number of tiles on each coarse cell relative to the mean, shape ``shape``; 0 where there is none."""
    each = []
    for first, cells, part in zip((rows, columns), shape, size, strict=True):
        corners = np.zeros((cells - part + 1, 1))
        corners[first[tiles(first, part, margin)]] = 1.0
        each.append(_covered(corners, cells, part, margin, 0)[:, 0])
    return _relative(np.multiply.outer(*each))


def reach(size: int) -> int:
    """Return the largest shift of a patch from its place in the lattice, in cells, to either side."""
    return size // 4


def _ends(count: int) -> Floats:
    made = np.ones(count)
    if count > 2:
        made[[0, -1]] = 2.0
    return made


def _moved(first: Indices, cells: int, size: int) -> Floats:
    """Return the probability that a patch of each place begins at each cell, shape (places, cells - size + 1)."""
    made = np.zeros((first.size, cells - size + 1))
    steps = np.arange(-reach(size), reach(size) + 1)
    for place, start in enumerate(first):
        np.add.at(made[place], np.clip(start + steps, 0, cells - size), 1 / steps.size)
    return made


def _covered(corners: Floats, cells: int, size: int, margin: int, axis: int) -> Floats:
    """Return sums over the corners of patches that cover each cell along an axis, margins excluded."""
    margin = _margin(size, margin)
    start = np.zeros_like(np.take(corners, [0], axis=axis))
    sums = np.concatenate([start, corners.cumsum(axis=axis)], axis=axis)
    cell = np.arange(cells)
    above = np.clip(cell - margin + 1, 0, corners.shape[axis])
    below = np.clip(cell - size + margin + 1, 0, corners.shape[axis])
    return np.take(sums, above, axis=axis) - np.take(sums, below, axis=axis)


def _relative(covered: Floats) -> Floats:
    # Differences of running sums leave rounding errors where coverage is zero.
    covered = np.where(covered > 1e-9 * covered.max(), covered, 0.0)
    return covered / covered[covered > 0].mean()
