"""Methods on a torus of equal cells, where tests have no edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from downscale.errors import InputError, ShapeError
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.typing import Place, Upscaler

Floats = NDArray[np.float64]
# Width of a cell in metres.
CELL = 10_000.0
# Continuation of a field for a method without finite reach, as a fraction of the torus.
WHOLE = 0.5


@dataclass(frozen=True)
class Probe:
    """A method that takes maps on a torus of ``cells`` coarse cells.

    Attributes
    ----------
    refine : callable
        From (n, cells, cells) to (n, cells * f_y, cells * f_x), float64, periodic in both directions.
    cells : int
        Coarse cells along each axis.
    factor : (int, int)
        Refinement of rows and columns.
    exact : bool
        Whether the method has a finite reach that the margin covers; otherwise values beyond the torus are missing.
    """

    refine: Callable[[Floats], Floats]
    cells: int
    factor: tuple[int, int]
    exact: bool = True

    def __call__(self, coarse: Floats) -> Floats:
        """Return fine maps of coarse ones, shape (n, cells, cells) or (cells, cells).

        Raises
        ------
        ShapeError
            If the coarse or the fine maps have another shape.
        InputError
            If the fine maps are not finite.
        """
        maps = coarse.reshape(-1, self.cells, self.cells)
        fine = self.refine(np.ascontiguousarray(maps))
        expected = (len(maps), self.cells * self.factor[0], self.cells * self.factor[1])
        if fine.shape != expected:
            raise ShapeError(f"expected fine maps of shape {expected}, received {fine.shape}; check the factor")
        if not np.isfinite(fine).all():
            raise InputError("expected finite fine values of finite coarse ones, received NaN or infinite ones")
        return fine.reshape(*coarse.shape[:-2], *expected[1:])


def plane(rows: int, columns: int, cell: float = CELL) -> RectilinearGrid:
    """Return a grid of equal cells on a plane."""
    y, x = (CellAxis(cell * np.arange(count + 1.0), "projected") for count in (rows, columns))
    return RectilinearGrid(y, x)


def probe(
    make: Callable[[RectilinearGrid], Upscaler],
    cells: int = 32,
    statics: Mapping[str, float] | None = None,
) -> Probe:
    """Return a method as a function on a torus, with fields continued periodically over the method's reach.

    Parameters
    ----------
    make : callable
        From a grid to the method on it.
    cells : int
        Coarse cells of the torus along each axis.
    statics : mapping of channel to number, optional
        Fine static features, the same everywhere.
    """
    first = make(plane(cells, cells))
    margin = int(np.ceil(cells * WHOLE)) if first.halo is None else max(first.halo)
    # The margin must cover windows that shift inward at an open end.
    margin += margin % first.multiple_of
    size = cells + 2 * margin
    grid = plane(size, size)
    upscaler, factor = make(grid), (int(first.factor[0]), int(first.factor[1]))
    shape = (size * factor[0], size * factor[1])
    constants = {name: np.full(shape, value) for name, value in (statics or {}).items()}
    place = Place(grid, grid.refine(*factor), statics=constants)

    def refine(coarse: Floats) -> Floats:
        import torch

        around = np.pad(coarse, ((0, 0), (margin, margin), (margin, margin)), mode="wrap")
        with torch.no_grad():
            fine = np.asarray(cast(Any, upscaler)(torch.from_numpy(around), place), dtype=np.float64)
        rows, columns = (slice(margin * f, (margin + cells) * f) for f in factor)
        return fine[:, rows, columns]

    return Probe(refine, cells, factor, first.halo is not None)
