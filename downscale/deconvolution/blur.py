"""Blur of an instrument as an operator between valid cells that conserves the flux, and its adjoints.

The operator ``H = R P A C`` has the densities P of a point-spread function, cell areas A, and one factor per row and
column. The factors are balanced so that flux and constants are conserved up to edges and around gaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from downscale.deconvolution.psf import AnyPsf
from downscale.deconvolution.spread import Spread, spread_of
from downscale.deconvolution.weights import AnyKernel, Kernel, cell_kernel, grid_kernel
from downscale.errors import ShapeError
from downscale.fields.aggregate import like

if TYPE_CHECKING:
    from torch import Tensor

# Each balancing step halves the error of both sums, so that this many reach rounding.
STEPS, ROUNDING = 100, 1e-14
# Weights below this fraction of the largest one are rounding errors of the transforms.
DUST = 1e-9


class Blur:
    """The forward operator H of a point-spread function and its adjoints.

    Parameters
    ----------
    kernel : Kernel or RowKernels
        From :func:`downscale.deconvolution.weights.grid_kernel` or ``cell_kernel``.
    shape : tuple of int
        Sizes of the 1 to 3 last axes of fields.
    reference : tensor
        A tensor of the data type and on the device of the fields.
    area : array, optional
        Cell areas, of ``shape``; equal by default.
    mask : array of bool, optional
        True where cells are valid; invalid cells neither give nor receive flux.

    Notes
    -----
    Total conservation: the area sum of ``H y`` is that of ``y``, because columns of H add up to one in area weights, to
    rounding. Constants: ``H 1 = 1`` for a symmetric point-spread function, up to edges and around gaps; for any other
    only in the interior. A cell that reaches no valid cell retains its flux.
    """

    def __init__(
        self, kernel: AnyKernel, shape: tuple[int, ...], reference: Tensor, area: NDArray[np.float64] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:  # fmt: skip
        self.shape, self.kernel = tuple(shape), kernel
        sizes = np.ones(self.shape) if area is None else np.asarray(area, np.float64) / np.mean(area)
        if sizes.shape != self.shape:
            raise ShapeError(f"expected areas of shape {self.shape}, received {sizes.shape}")
        valid = np.ones(self.shape, bool) if mask is None else np.asarray(mask, bool)
        if valid.shape != self.shape:
            raise ShapeError(f"expected a mask of shape {self.shape}, received {valid.shape}")
        self.whole = bool(valid.all())
        self.area, self.mask = like(sizes, reference), like(valid.astype(np.float64), reference)
        self.spread: Spread = spread_of(kernel, self.shape, reference)
        self._balance()

    @classmethod
    def on_grid(cls, psf: AnyPsf, grid: Any, reference: Tensor, mask: NDArray[np.bool_] | None = None) -> Blur:
        """Return the blur of a point-spread function on a product grid with its true areas."""
        return cls(grid_kernel(psf, grid), grid.shape, reference, grid.cell_area, mask)

    @classmethod
    def on_cells(
        cls, psf: AnyPsf, shape: tuple[int, ...], reference: Tensor, mask: NDArray[np.bool_] | None = None,
        periodic: tuple[bool, ...] | None = None,
    ) -> Blur:  # fmt: skip
        """Return the blur of a point-spread function in cells on a plain array of 1 to 3 dimensions."""
        return cls(cell_kernel(psf, shape, periodic), shape, reference, None, mask)

    def _balance(self) -> None:
        """Return the factors of rows and columns that make both sums one, by damped alternating scaling."""
        given = self.spread.gather(self.area * self.mask) * self.mask
        linked = self.mask * (given > DUST * given.max())
        # A cell without valid neighbours retains its flux.
        self.alone = self.mask - linked
        start = linked / torch.sqrt(torch.where(linked > 0, given, torch.ones_like(given)))
        rows, columns = start, start
        for _ in range(STEPS):
            received = rows * self.spread.gather(self.area * columns)
            sent = columns * self.spread.scatter(self.area * rows)
            off = torch.maximum(((received - 1) * linked).abs().max(), ((sent - 1) * linked).abs().max())
            if off <= ROUNDING:
                break
            rows, columns = (_divided(f, s) for f, s in ((rows, received), (columns, sent)))
        sent = self.spread.scatter(self.area * rows)
        # So does a source whose flux would reach no cell within rounding.
        reached = linked * (sent * columns > DUST)
        self.alone = self.alone + (linked - reached)
        self.rows, self.columns = rows, reached / torch.where(reached > 0, sent, torch.ones_like(sent))

    def forward(self, field: Tensor) -> Tensor:
        """Return the blurred field of cell means: ``H y``, zero at invalid cells."""
        return self.rows * self.spread.gather(self.area * self.columns * field) + self.alone * field

    def back(self, field: Tensor) -> Tensor:
        """Return the adjoint in area weights: ``sum(a v H y) = sum(a y back(v))``; ``back(1) = 1``."""
        return self.columns * self.spread.scatter(self.area * self.rows * field) + self.alone * field

    def transpose(self, field: Tensor) -> Tensor:
        """Return the plain transpose: ``<v, H y> = <H^T v, y>``."""
        return self.area * self.back(field / self.area)

    def flux(self, field: Tensor) -> Tensor:
        """Return the area sum over valid cells, in units of the mean area."""
        return (self.area * self.mask * field).sum(dim=tuple(range(-len(self.shape), 0)))

    @property
    def circulant(self) -> bool:
        """Whether Fourier modes are its eigenvectors: closed axes, no gaps, equal areas."""
        plain = isinstance(self.kernel, Kernel) and all(self.kernel.periodic)
        return plain and self.whole and bool((self.area == 1).all())


def _divided(factor: Tensor, total: Tensor) -> Tensor:
    """Return a factor divided by the root of its sum, where that is positive."""
    some = total > DUST
    return torch.where(some, factor / torch.sqrt(torch.where(some, total, torch.ones_like(total))), factor)


def blurred(field: Any, psf: AnyPsf, grid: Any = None) -> Any:
    """Return the blurred fields of an array or tensor (..., cells); NaN marks invalid cells.

    Parameters
    ----------
    field : array or tensor
        Cell means; with a ``grid`` the cells are the last two axes, else all of them (1 to 3).
    psf : Psf or ArrayPsf
        The footprint.
    grid : RectilinearGrid, optional
        Grid of the cells; equal cells of a plain array by default.

    Notes
    -----
    Total conservation: the area sum over valid cells is unchanged.
    """
    values = torch.as_tensor(np.asarray(field, np.float64)) if isinstance(field, np.ndarray) else field.double()
    count = values.ndim if grid is None else 2
    shape = tuple(values.shape[values.ndim - count :])
    maps = values.reshape(-1, *shape)
    made = torch.empty_like(maps)
    blur, seen = None, None
    for index, one in enumerate(maps):
        valid = torch.isfinite(one)
        if blur is None or seen is None or not torch.equal(valid, seen):
            mask, seen = valid.cpu().numpy(), valid
            blur = Blur.on_cells(psf, shape, one, mask) if grid is None else Blur.on_grid(psf, grid, one, mask)
        filled = torch.where(valid, one, torch.zeros_like(one))
        made[index] = torch.where(valid, blur.forward(filled), torch.full_like(one, torch.nan))
    made = made.reshape(values.shape)
    return made.numpy() if isinstance(field, np.ndarray) else made
