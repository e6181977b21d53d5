"""The Sobolev-optimal operator as a torch module."""

from __future__ import annotations

import torch
from torch import Tensor

from downscale.nn.separable import BothParts, Factor, Grid, parts_of, sobolev_operator
from downscale.typing import Place


class SobolevUpsample(torch.nn.Module):
    """The Sobolev-optimal kernel on a grid: cell, phase and total conservation, exact on the sphere.

    Parameters
    ----------
    grid : RectilinearGrid or CurvilinearGrid
        The whole coarse grid, rows and columns.
    factor : int, (int, int) or (Subcells, Subcells)
        Refinement of rows and columns, or the parts of their cells.
    taps : int, odd
        Coarse cells in a window along each axis; fewer where the axis is shorter.
    order : float
        Order of the Sobolev seminorm that the kernel minimises.

    Raises
    ------
    ShapeError, OptionError
        If factor, taps or order are not usable.

    Notes
    -----
    On a uniform axis this is the transposed convolution of kernel length ``taps * factor`` and stride ``factor``
    whose kernel sums to ``factor``; at ends windows shift inward, on a closed circle they wrap.

    Examples
    --------
    >>> import numpy as np
    >>> from downscale.grid.axis import axis_from_centres
    >>> from downscale.grid.latlon import RectilinearGrid
    >>> lat, lon = np.arange(-85.0, 90, 10), np.arange(5.0, 360, 10)
    >>> grid = RectilinearGrid(axis_from_centres(lat, "latitude"), axis_from_centres(lon, "longitude"))
    >>> SobolevUpsample(grid, 2)(torch.ones(18, 36)).shape
    torch.Size([36, 72])
    """

    def __init__(self, grid: Grid, factor: Factor | BothParts, taps: int = 7, order: float = 1.25) -> None:
        super().__init__()
        self.operator = operator = sobolev_operator(grid, parts_of(grid, factor), taps, order)
        self.grid, self.axes, self.factor, self.laws = operator.grid, operator.axes, operator.factor, operator.laws
        self.halo, self.multiple_of = operator.halo, operator.multiple_of

    def forward(self, coarse: Tensor, place: Place | None = None) -> Tensor:
        """Return ``coarse`` of shape (..., n_y, n_x) upsampled; the parts of missing (NaN) cells become NaN."""
        return self.operator(coarse, place)

    def extra_repr(self) -> str:
        """Return a description for ``repr``."""
        taps = self.axes[0].taps, self.axes[1].taps
        return f"cells={self.grid.shape}, factor={self.factor}, taps={taps}, laws={sorted(self.laws)}"
