"""Reading of weights in the layouts of ESMF, SCRIP, CDO and xESMF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.errors import InputError, ShapeError, listing
from downscale.grid.corners import Cells
from downscale.io.read import open_dataset
from downscale.io.weights_layout import ANGLES, LINKS, GridNames, Layout, Side, grid_names
from downscale.kernels.sparse import SparseWeights

METRES = ("m", "metre", "metres", "meter", "meters")
Shape = tuple[int, ...]


def read_weights(
    weights: str | Path | xr.Dataset, *, source_shape: Shape | None = None, target_shape: Shape | None = None
) -> SparseWeights:
    """Read weights in the ESMF or the SCRIP layout.

    Parameters
    ----------
    weights : path or Dataset
        A file of this package, ESMF_RegridWeightGen, ``cdo gencon``, xESMF or any other that writes ``row, col, S``
        or ``dst_address, src_address, remap_matrix``, which count from one.
    source_shape, target_shape : (n_y, n_x), optional
        Shapes of the grids, for files that contain only the links (xESMF).

    Raises
    ------
    InputError
        If it is not a file of weights, or holds NaN, cells outside its grids, or weights of gradients.
    ShapeError
        If the shapes are neither in the file nor given, or do not fit.
    """
    ds, name = _opened(weights)
    layout = next((one for one, names in LINKS.items() if set(names) <= set(ds.variables)), None)
    if layout is None:
        raise InputError(
            f"expected weights with {listing(LINKS['esmf'])} (ESMF) or {listing(LINKS['scrip'])} (SCRIP), received "
            f"{name} with {listing(ds.variables) or 'no variables'}; make them with downscale.weights, ESMF or "
            "cdo gencon"
        )
    row, col, weight = (np.asarray(ds[key].values) for key in LINKS[layout])
    weight = _first_weight(weight, name)
    source, target = _side(ds, layout, "a", source_shape), _side(ds, layout, "b", target_shape)
    _check_links(name, ("target", row, target[0]), ("source", col, source[0]), weight)
    return SparseWeights.from_links(row - 1, col - 1, weight, source[0], target[0], source[1], target[1])


def _opened(weights: Any) -> tuple[xr.Dataset, str]:
    if isinstance(weights, xr.Dataset):
        return weights, "a Dataset"
    if not isinstance(weights, (str, Path)):
        raise InputError(f"expected weights as a Dataset or a file, received {type(weights).__name__}")
    # Fill values and scales are not decoded: lists of links are neither missing nor packed.
    with open_dataset(weights, chunks=None, decode_cf=False, decode_coords=False) as ds:
        return ds.load(), str(weights)


def _first_weight(weight: NDArray[Any], name: str) -> NDArray[Any]:
    """Return the weights of the values; those of gradients must be zero."""
    if weight.ndim == 1:
        return weight
    if np.any(weight[:, 1:]):
        raise InputError(
            f"expected one weight per link, received {name} with {weight.shape[1]} (second order or bicubic, needing "
            "gradients of the field); make first-order weights, for example with cdo gencon or genbil"
        )
    return weight[:, 0]


def _check_links(name: str, *sides: Any) -> None:
    *indexed, weight = sides
    if weight.dtype.kind not in "fiu":
        raise InputError(f"expected weights that are numbers, received {weight.dtype} in {name}; make the file again")
    for what, index, shape in indexed:
        if index.dtype.kind not in "iu" or index.shape != weight.shape:
            raise InputError(
                f"expected one whole number per link for the {what} cells, received {name} with {index.dtype} of shape "
                f"{index.shape} for {weight.size} weights; make the file again"
            )
        cells = int(np.prod(shape))
        if index.size and (index.min() < 1 or index.max() > cells):
            raise InputError(
                f"expected {what} cells from 1 to {cells}, received {index.min()} to {index.max()} in {name}; "
                "they count from 1, x fastest: check the grids and their shapes"
            )
    if not np.isfinite(weight).all():
        bad = int((~np.isfinite(weight)).sum())
        raise InputError(f"expected finite weights, received {bad} NaN or infinite ones in {name}; make the file again")


def _side(ds: xr.Dataset, layout: Layout, side: Side, given: Shape | None) -> tuple[Shape, Cells | None]:
    """Return the shape of a grid, and its centres, corners and areas in degrees or metres if the file has them."""
    names, word = grid_names(layout, side), "source" if side == "a" else "target"
    return (shape := _shape(ds, names, given, word)), _cells(ds, shape, names, ANGLES[layout])


def _shape(ds: xr.Dataset, names: GridNames, given: Shape | None, word: str) -> Shape:
    """Return the shape of a grid, slowest dimension first, from the file, else as passed by the user."""
    name, size = names.shape, names.size
    known = tuple(int(n) for n in np.asarray(ds[name].values)[::-1]) if name in ds.variables else None
    if known is None and given is None:
        raise ShapeError(f"expected {name} in the weights, received none; pass {word}_shape=(n_y, n_x)")
    if known is not None and given is not None and tuple(given) != known:
        raise ShapeError(f"expected the {word} shape of the weights, {known}, received {tuple(given)}; leave it out")
    shape = tuple(given) if known is None else known  # type: ignore[arg-type]
    if size in ds.sizes and int(np.prod(shape)) != ds.sizes[size]:
        raise ShapeError(f"expected {ds.sizes[size]} {word} cells ({size}), received the shape {shape}; check {name}")
    return shape


def _cells(ds: xr.Dataset, shape: Shape, names: GridNames, unit: str) -> Cells | None:
    if names.y not in ds.variables or names.x not in ds.variables:
        return None
    both = names.y_corners in ds.variables and names.x_corners in ds.variables
    return Cells(
        shape,
        _degrees(ds[names.y], unit),
        _degrees(ds[names.x], unit),
        _degrees(ds[names.y_corners], unit) if both else None,
        _degrees(ds[names.x_corners], unit) if both else None,
        np.asarray(ds[names.area].values, dtype=np.float64) if names.area in ds.variables else None,
        spherical=str(ds[names.y].attrs.get("units", unit)).lower() not in METRES,
    )


def _degrees(variable: xr.DataArray, unit: str) -> NDArray[np.float64]:
    values = np.asarray(variable.values, dtype=np.float64)
    return np.rad2deg(values) if str(variable.attrs.get("units", unit)).lower().startswith("rad") else values
