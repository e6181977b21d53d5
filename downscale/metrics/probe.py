"""An up-scaler on a torus of equal cells, so that tests of it meet no edge (knows the protocol, no model, no file)."""

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
# Side of a probing cell in metres.
CELL = 10_000.0
# How far a field is continued where an up-scaler looks at all of it, in parts of the torus.
WHOLE = 0.5


@dataclass(frozen=True)
class Probe:
    """An up-scaler, called with maps on a torus of ``cells`` coarse cells.

    Attributes
    ----------
    refine : callable
        From (n, cells, cells) to (n, cells * f_y, cells * f_x), float64, round the torus in both directions.
    cells : int
        Coarse cells along each axis.
    factor : (int, int)
        Refinement of rows and columns.
    exact : bool
        Whether the up-scaler has a finite reach, all of which is given: else values from beyond the torus are missing.
    """

    refine: Callable[[Floats], Floats]
    cells: int
    factor: tuple[int, int]
    exact: bool = True

    def __call__(self, coarse: Floats) -> Floats:
        """Refine maps, shape (n, cells, cells) or (cells, cells).

        Raises
        ------
        ShapeError
            If the maps have another shape, or what comes out has.
        InputError
            If what comes out is not finite.
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
    """Return an up-scaler as a function on a torus: fields are continued round it as far as the up-scaler looks.

    Parameters
    ----------
    make : callable
        From a grid to the up-scaler on it.
    cells : int
        Coarse cells of the torus along each axis.
    statics : mapping of channel to number, optional
        Fine companions, the same everywhere.
    """
    first = make(plane(cells, cells))
    margin = int(np.ceil(cells * WHOLE)) if first.halo is None else max(first.halo)
    # Windows that shift inward at an open end must lie beyond the margin.
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
