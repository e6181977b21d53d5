"""Grids as products of two cell axes: lat-lon on the sphere or metres on a plane (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from downscale.errors import GridError
from downscale.grid.axis import CellAxis
from downscale.grid.sphere import cell_area, metres_north, metres_per_radian_east


@dataclass(frozen=True, eq=False)
class RectilinearGrid:
    """A grid of cells that is the product of a y axis (rows) and an x axis (columns).

    Parameters
    ----------
    y, x : CellAxis
        Latitude and longitude (also of a rotated pole), or two projected axes in metres.

    Notes
    -----
    Cell areas are products of one weight a row and one a column; refinement keeps them: the areas of the parts
    add up to the area of the whole.
    """

    y: CellAxis
    x: CellAxis

    def __post_init__(self) -> None:
        if (self.y.kind == "latitude") != (self.x.kind == "longitude"):
            raise GridError(
                f"expected latitude with longitude, or two axes in metres, received {self.y.kind} with {self.x.kind}"
            )

    def __getstate__(self) -> dict[str, CellAxis]:
        # What is computed on demand stays here: the areas of a fine grid outweigh all else that goes to a worker.
        return {"y": self.y, "x": self.x}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.y.size, self.x.size

    @property
    def spherical(self) -> bool:
        """Whether the axes are latitude and longitude."""
        return self.y.kind == "latitude"

    @cached_property
    def cell_area(self) -> NDArray[np.float64]:
        """Cell areas in m2, shape (n_y, n_x)."""
        if self.spherical:
            return cell_area(self.y, self.x)
        return np.multiply.outer(self.y.measure, self.x.measure)

    @cached_property
    def y_metres(self) -> NDArray[np.float64]:
        """Signed positions of row centres in metres, shape (n_y,)."""
        return metres_north(self.y) if self.spherical else self.y.centres

    @cached_property
    def x_radians_or_metres(self) -> NDArray[np.float64]:
        """Column centres in radians of longitude (multiply by ``x_scale``) or in metres, shape (n_x,)."""
        return np.deg2rad(self.x.centres) if self.spherical else self.x.centres

    @cached_property
    def x_scale(self) -> NDArray[np.float64]:
        """Metres in one unit of ``x_radians_or_metres`` at each row, shape (n_y,)."""
        return metres_per_radian_east(self.y) if self.spherical else np.ones(self.y.size)

    def refine(self, factor_y: int, factor_x: int) -> RectilinearGrid:
        """Cut every cell into ``factor_y`` by ``factor_x`` parts."""
        return RectilinearGrid(self.y.refine(factor_y), self.x.refine(factor_x))

    def coarsen(self, factor_y: int, factor_x: int) -> RectilinearGrid:
        """Join blocks of ``factor_y`` by ``factor_x`` cells."""
        return RectilinearGrid(self.y.coarsen(factor_y), self.x.coarsen(factor_x))

    def nest_factors(self, fine: RectilinearGrid) -> tuple[int, int] | None:
        """Return the integers by which ``fine`` refines this grid in the same order, or None."""
        factors = self.y.nest_factor(fine.y), self.x.nest_factor(fine.x)
        return None if None in factors else factors  # type: ignore[return-value]
