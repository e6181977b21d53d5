"""Point-spread functions on a grid, with cached blurs for masks of valid cells."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from downscale.deconvolution.psf import AnyPsf
from downscale.deconvolution.weights import AnyKernel, cell_kernel, grid_kernel

if TYPE_CHECKING:
    from torch import Tensor

    from downscale.deconvolution.blur import Blur

# Number of cached blurs: most fields of one file share a mask.
KEPT = 4


class Instrument:
    """A point-spread function on the cells of a grid, or of a plain array.

    Parameters
    ----------
    psf : Psf or ArrayPsf
        The footprint.
    grid : RectilinearGrid, optional
        Grid of the cells.
    shape, periodic : tuples, optional
        Shape and closed axes of a plain array of 1 to 3 dimensions, instead of a grid.
    """

    def __init__(
        self, psf: AnyPsf, grid: Any = None, shape: tuple[int, ...] | None = None,
        periodic: tuple[bool, ...] | None = None,
    ) -> None:  # fmt: skip
        self.psf, self.grid, self.periodic = psf, grid, periodic
        self.shape = tuple(grid.shape if shape is None else shape)
        self._blurs: OrderedDict[Any, Blur] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # Cached properties are not sent to workers.
        return {"psf": self.psf, "grid": self.grid, "shape": self.shape, "periodic": self.periodic}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @cached_property
    def kernel(self) -> AnyKernel:
        """Weights of the point-spread function."""
        if self.grid is None:
            return cell_kernel(self.psf, self.shape, self.periodic)
        return grid_kernel(self.psf, self.grid)

    @property
    def area(self) -> NDArray[np.float64] | None:
        """Cell areas, None if all are equal."""
        return None if self.grid is None else self.grid.cell_area

    def blur(self, valid: NDArray[np.bool_], reference: Tensor) -> Blur:
        """Return the blur among valid cells."""
        from downscale.deconvolution.blur import Blur

        key = (np.packbits(valid).tobytes(), str(reference.device), reference.dtype)
        with self._lock:
            if key not in self._blurs:
                self._blurs[key] = Blur(self.kernel, self.shape, reference, self.area, valid)
            self._blurs.move_to_end(key)
            while len(self._blurs) > KEPT:
                self._blurs.popitem(last=False)
            return self._blurs[key]
