"""The linear operator of a request as sparse weights for other tools."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.horizontal import XarrayObject, as_dataset, horizontal
from downscale.errors import GridError, OptionError, listing
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import Subcells
from downscale.io.target import pick_target
from downscale.io.weights import weights_dataset
from downscale.kernels.sobolev import MAP_ORDER


def weights(
    obj: XarrayObject,
    factor: Any = None,
    method: str = "sobolev",
    *,
    target_grid: Any = None,
    layout: str = "esmf",
    normalization: str = "fracarea",
    taps: int = 7,
    order: float = MAP_ORDER,
) -> xr.Dataset:
    """Return the weights of a training-free method as ``row, col, S`` for use in other tools.

    Parameters
    ----------
    obj : Dataset or DataArray
        A field on the coarse grid; only its coordinates are read.
    factor, method, target_grid, taps, order
        As in :func:`downscale.downscale`.
    layout : {"esmf", "scrip"}
        The layout of ESMF (xESMF, ESMPy, NCO) or that of SCRIP (``cdo remap,grid,weights in out``).
    normalization : {"fracarea", "destarea"}
        If the coarse grid covers only part of a target cell: the mean over that part, or over the whole cell.

    Returns
    -------
    Dataset
        Write it with :func:`downscale.write_weights`.

    Raises
    ------
    OptionError, GridError
        If method or layout are unknown, or the axes are two-dimensional.

    Notes
    -----
    The weights of "sobolev" and "conservative" conserve area integrals, and cell means if the target nests. They are
    the plain linear operator. Bounds, masks, orography and the projection of "bilinear" and "bicubic" that conserves
    cell means depend on the field and are not included.

    Examples
    --------
    >>> import downscale
    >>> dict(downscale.weights(downscale.sample.open("north_america"), 2).sizes)["n_b"]
    7252
    """
    from downscale.nn.separable import METHODS, operator

    if method not in METHODS:
        raise OptionError(f"expected method to be one of {listing(METHODS)}, received {method!r}")
    axes = horizontal(as_dataset(obj)[0])
    if type(axes.grid) is not RectilinearGrid:
        raise GridError(
            "expected latitude and longitude, or x and y without a grid mapping, for weights, received "
            f"{type(axes.grid).__name__}; apply the method itself"
        )
    target = pick_target(axes, factor, target_grid, None)
    kernel = operator(method, axes.grid, target.parts, taps, order)
    parts_and_weights = zip(target.parts, kernel.axes, strict=True)
    y, x = (_target_matrix(parts, axis.dense(parts.coarse.size)) for parts, axis in parts_and_weights)
    fine_grid = target.fine if target.axes is None else target.axes.grid
    return weights_dataset(y, x, axes.grid, fine_grid, layout=layout, method=method, normalization=normalization)  # type: ignore[arg-type]


def _target_matrix(parts: Subcells, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the operator from coarse to target cells of an axis; rows add up to the covered fraction."""
    indices = np.flatnonzero(parts.owner >= 0)
    owner = parts.owner[indices]
    target_matrix = np.zeros((parts.target.size, parts.coarse.size))
    np.add.at(target_matrix, owner, (parts.measure[indices] / parts.target.measure[owner])[:, None] * matrix[indices])
    return target_matrix
