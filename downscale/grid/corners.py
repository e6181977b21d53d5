"""Lists of cells with centres, corners and areas, as in files of weights.

Every list is in the order of the rows of a grid, then of its columns, whatever their directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from downscale.errors import GridError, ShapeError
from downscale.grid.axis import FULL_CIRCLE, CellAxis, Kind, axis_from_bounds, axis_from_centres, extend_to_poles
from downscale.grid.latlon import RectilinearGrid

Floats = NDArray[np.float64]

# Rows that agree to this many degrees have the same latitude: files hold radians and single precision.
SAME_ROW = 1e-5


@dataclass(frozen=True, eq=False)
class Cells:
    """A list of n cells, which may form rows and columns.

    Attributes
    ----------
    shape : (n_y, n_x) or (n,)
        Rows and columns, or one number for unordered cells.
    y, x : array, shape (n,)
        Centres in degrees (latitude, longitude), or in metres on a plane.
    y_corners, x_corners : array, shape (n, corners), or None
        Corners anticlockwise in the same units.
    area : array, shape (n,), or None
        Exact areas in steradians, or in square metres on a plane.
    spherical : bool
        Whether coordinates are in degrees.
    """

    shape: tuple[int, ...]
    y: Floats
    x: Floats
    y_corners: Floats | None = None
    x_corners: Floats | None = None
    area: Floats | None = None
    spherical: bool = True

    def __post_init__(self) -> None:
        size = int(np.prod(self.shape))
        for name in ("y", "x", "y_corners", "x_corners", "area"):
            values = getattr(self, name)
            if values is not None and len(values) != size:
                raise ShapeError(f"expected {size} cells for the shape {self.shape}, received {len(values)} of {name}")

    def grid(self) -> RectilinearGrid | None:
        """Return the grid of the cells, or None if they do not form one (rotated, curved, a list).

        Edges come from the corners, else they are midway between centres.
        """
        if len(self.shape) != 2:
            return None
        y, x = self.y.reshape(self.shape), self.x.reshape(self.shape)
        offset = np.mod(x - x[:1] + 0.5 * FULL_CIRCLE, FULL_CIRCLE) - 0.5 * FULL_CIRCLE if self.spherical else x - x[:1]
        if np.abs(y - y[:, :1]).max() > SAME_ROW or np.abs(offset).max() > SAME_ROW:
            return None
        kinds: tuple[Kind, Kind] = ("latitude", "longitude") if self.spherical else ("projected", "projected")
        try:
            x_axis = self._axis(x[x.shape[0] // 2], self._spans("x", (x.shape[0] // 2, slice(None))), kinds[1])
            y_axis = self._axis(y[:, 0], self._spans("y", (slice(None), 0)), kinds[0])
        except GridError:
            return None
        if x_axis.periodic and self.y_corners is None:
            y_axis = extend_to_poles(y_axis)
        return RectilinearGrid(y_axis, x_axis)

    def _axis(self, centres: Floats, bounds: Floats | None, kind: Kind) -> CellAxis:
        return axis_from_centres(centres, kind) if bounds is None else axis_from_bounds(bounds, kind, centres)

    def _spans(self, name: str, selection: tuple[int | slice, int | slice]) -> Floats | None:
        """Return the lowest and highest corner of the selected cells, shape (n, 2)."""
        corners = getattr(self, f"{name}_corners")
        if corners is None:
            return None
        points = corners.reshape(*self.shape, -1)[selection]
        if name == "x" and self.spherical:
            centres = self.x.reshape(self.shape)[selection][:, None]
            diff = points - centres
            # Corners a full circle away from their centre are beyond the seam of the convention.
            points = np.where(np.abs(diff) > FULL_CIRCLE / 2, diff - FULL_CIRCLE * np.round(diff / FULL_CIRCLE), diff)
            points = points + centres
        return np.stack([points.min(axis=1), points.max(axis=1)], axis=1)


def cells_of(grid: RectilinearGrid) -> Cells:
    """Return the cells of a rectilinear grid, with four corners each and exact areas.

    Invariant: the areas of a global grid add up to 4 pi steradians.

    Examples
    --------
    >>> grid = RectilinearGrid(CellAxis([-90, 0, 90], "latitude"), CellAxis([0, 180, 360], "longitude"))
    >>> cells = cells_of(grid)
    >>> cells.y.tolist(), cells.x_corners[0].tolist(), bool(np.isclose(cells.area.sum(), 4 * np.pi))
    ([-45.0, -45.0, 45.0, 45.0], [0.0, 180.0, 180.0, 0.0], True)
    """
    y, x = (values.ravel() for values in np.meshgrid(grid.y.centres, grid.x.centres, indexing="ij"))
    low_y, low_x = _cell_edges(np.minimum, grid)
    high_y, high_x = _cell_edges(np.maximum, grid)
    return Cells(
        shape=grid.shape,
        y=y,
        x=x,
        y_corners=np.stack([low_y, low_y, high_y, high_y], axis=1),
        x_corners=np.stack([low_x, high_x, high_x, low_x], axis=1),
        area=np.multiply.outer(grid.y.measure, grid.x.measure).ravel(),
        spherical=grid.spherical,
    )


def _cell_edges(pick: np.ufunc, grid: RectilinearGrid) -> tuple[Floats, Floats]:
    """Return the lower (or upper) edges of every cell along both axes, each of shape (n,)."""
    y, x = (pick(axis.edges[:-1], axis.edges[1:]) for axis in (grid.y, grid.x))
    rows, columns = np.meshgrid(y, x, indexing="ij")
    return rows.ravel(), columns.ravel()
