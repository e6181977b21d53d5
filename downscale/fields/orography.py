"""Smoothing of orography over a distance in fine cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

# Standard deviations beyond which a neighbour has no weight.
REACH = 4.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions of cells along an axis, in fine cells from its beginning, shape (n,); ``period`` closes the axis."""

    cells: Floats
    period: float | None = None

    def weights(self, width: float) -> csr_array:
        """Return Gaussian weights of the neighbours of each cell by their distance, shape (n, n).

        Examples
        --------
        >>> Positions(np.arange(3.0), 3.0).weights(0.5).toarray().round(3)
        array([[1.   , 0.136, 0.136],
               [0.136, 1.   , 0.136],
               [0.136, 0.136, 1.   ]])
        """
        size, reach, period = self.cells.size, REACH * width, self.period
        order = np.argsort(self.cells, kind="stable")
        places = self.cells[order]
        turns = (0.0,) if period is None else (-period, 0.0, period)
        parts = []
        for turn in turns:
            first = np.searchsorted(places + turn, self.cells - reach, "left")
            counts = np.searchsorted(places + turn, self.cells + reach, "right") - first
            rows = np.repeat(np.arange(size), counts)
            columns = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first, counts)
            gap = places[columns] + turn - self.cells[rows]
            parts.append((np.exp(-0.5 * (gap / width) ** 2), rows, order[columns]))
        values, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
        return csr_array((values, (rows, columns)), (size, size))


def smooth(field: Floats, weight: Floats, places: tuple[Positions, Positions], width: float) -> Floats:
    """Return a fine field averaged over neighbours: by Gaussian weights of the distance in cells, times ``weight``.

    Parameters
    ----------
    field : array, shape (n_y, n_x)
        Fine field, such as an orography in metres.
    weight : array, shape (n_y, n_x)
        Areas of the fine cells, zero for cells to leave out.
    places : (Positions, Positions)
        Positions of rows and columns.
    width : float
        Standard deviation of the Gaussian weights in fine cells; 0 returns the field itself.

    Notes
    -----
    Preserves constants; each value is between the smallest and the largest of its neighbours. Cell means are not
    conserved. A cell all of whose neighbours are left out is unchanged. Uneven cells count by their index, so that
    the distance follows a grid that is refined locally; weighting by area makes thin cells count little.

    Examples
    --------
    >>> rows, columns = Positions(np.arange(1.0)), Positions(np.arange(3.0))
    >>> smooth(np.array([[0.0, 1.0, 0.0]]), np.array([[1.0, 1.0, 0.0]]), (rows, columns), 1.0).round(3).tolist()
    [[0.378, 0.622, 0.818]]
    """
    if width == 0:
        return field
    rows, columns = (axis.weights(width) for axis in places)
    total = (columns @ (rows @ (weight * field)).T).T
    reached = (columns @ (rows @ weight).T).T
    has_neighbours = reached > 0
    return np.where(has_neighbours, total / np.where(has_neighbours, reached, 1.0), field)
