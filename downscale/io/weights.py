"""Files of regridding weights in the ESMF and the SCRIP layout.

Weights are a fixed matrix. Bounds, masks, orography and conservation corrections depend on the field and are not
included; an attribute of the file states this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from downscale.errors import OptionError, OutputError, ShapeError, listing
from downscale.grid.corners import Cells, cells_of
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import overlap_weights
from downscale.io.leases import temporary_beside
from downscale.io.library import to_file
from downscale.io.outputs import check_netcdf
from downscale.io.weights_layout import GridNames, Layout, Side, grid_names
from downscale.kernels.sparse import SparseWeights
from downscale.version import __version__

Floats = NDArray[np.float64]
Normalization = Literal["fracarea", "destarea"]

LAYOUTS = ("esmf", "scrip")
NORMALIZATIONS = ("fracarea", "destarea")
# Tools accept a few names only; the name of the method itself is in a separate attribute.
MAP_METHODS = {
    "sobolev": "Conservative remapping",
    "conservative": "Conservative remapping",
    "bilinear": "Bilinear remapping",
    "bicubic": "Bilinear remapping",
}
CONSERVATIVE = ("sobolev", "conservative")
# A covered fraction this close to one is one, and this close to zero is the rounding of an edge.
COVER_ROUNDING = 1e-9
COMMENT = (
    "The plain linear operator of the method. Bounds, masks, missing values, relief and corrections to coarse cells "
    "depend on the field and are not in these weights."
)


def weights_dataset(
    along_y: ArrayLike,
    along_x: ArrayLike,
    source: RectilinearGrid,
    target: RectilinearGrid,
    *,
    layout: Layout = "esmf",
    method: str = "sobolev",
    normalization: Normalization = "fracarea",
) -> xr.Dataset:
    """Return the weights of a separable linear method as a Dataset for use in other tools.

    The weights are those of the unconstrained linear operator ``fine = along_y @ coarse @ along_x.T``, without bounds,
    masks and orography. If the source covers a target cell, its weights add up to one (constants are preserved).
    Weights of "sobolev" and "conservative" summed with target areas give source areas (global conservation), on the
    part covered by both grids.

    Parameters
    ----------
    along_y, along_x : array, shapes (n_target_y, n_source_y) and (n_target_x, n_source_x)
        One matrix per axis, whose rows add up to the fraction of the target cell that the source covers.
    source, target : RectilinearGrid
        The grids, in the order of the fields.
    layout : {"esmf", "scrip"}
        "esmf": ``row``, ``col``, ``S`` as ESMF_RegridWeightGen, NCO and xESMF read. "scrip": ``src_address``,
        ``dst_address``, ``remap_matrix`` as CDO and NCO read.
    method : {"sobolev", "conservative", "bilinear", "bicubic"}
        The method of the weights.
    normalization : {"fracarea", "destarea"}
        Partly covered target cells hold the mean over their covered part, or that mean times the covered fraction.

    Returns
    -------
    Dataset
        Links count from one, sorted by target and then by source; cell (iy, ix) of a grid is 1 + iy * n_x + ix.

    Raises
    ------
    OptionError, ShapeError
        If a name is unknown, or the matrices do not fit the grids.
    """
    _check_names(layout, method, normalization)
    y, x = _fitting(along_y, source, target, 0), _fitting(along_x, source, target, 1)
    y, cover_y = _covered(y, normalization)
    x, cover_x = _covered(x, normalization)
    weights = SparseWeights.from_axes(y, x, cells_of(source), cells_of(target))
    used = np.zeros(source.shape)
    if method in CONSERVATIVE:
        used = np.multiply.outer(_used(source.y, target.y), _used(source.x, target.x))
    cover = np.multiply.outer(cover_y, cover_x)
    return links_dataset(weights, used, cover, layout=layout, method=method, normalization=normalization)


def links_dataset(
    weights: SparseWeights, used: Floats, cover: Floats, *, layout: Layout, method: str, normalization: Normalization
) -> xr.Dataset:
    """Return any sparse weights with known cells in one of the two layouts.

    Parameters
    ----------
    weights : SparseWeights
        With ``source`` and ``target`` cells.
    used, cover : array, shapes of the source and of the target grid
        Fraction of each source cell that the target covers (zero for methods that do not conserve), and the reverse.
    layout, method, normalization
        As of :func:`weights_dataset`.

    Raises
    ------
    OptionError, ShapeError
        If a name is unknown or the cells are missing.
    """
    _check_names(layout, method, normalization)
    if weights.source is None or weights.target is None:
        raise ShapeError("expected weights whose source and target cells are known, received bare links; add cells")
    build = _esmf if layout == "esmf" else _scrip
    made = build(weights)
    sides: tuple[tuple[Side, Cells, Floats], ...] = (("a", weights.source, used), ("b", weights.target, cover))
    for side, cells, share in sides:
        made.update(_grid(grid_names(layout, side), cells, share.ravel()))
    ds = xr.Dataset(made, attrs=_attributes(layout, method, normalization))
    for variable in ds.variables.values():
        # Other tools take a fill value in a list of links for a link.
        variable.encoding = {"_FillValue": None}
    return ds


def write_weights(
    ds: xr.Dataset, path: str | Path, *, overwrite: bool = False, inputs: tuple[Any, ...] = ()
) -> Path:
    """Write weights to NetCDF; the file appears under its name only when it is complete.

    Raises
    ------
    OutputError
        If the file cannot be written, exists, or is one of ``inputs``.
    """
    target = check_netcdf(path, overwrite, inputs)
    deflated = {"_FillValue": None, "zlib": True, "complevel": 1, "shuffle": True}
    links = [str(name) for name, variable in ds.variables.items() if variable.dims[0] in ("n_s", "num_links")]
    try:
        with temporary_beside(target) as scratch:
            to_file(ds, scratch, dict.fromkeys(links, deflated))
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"expected to write {target}, received: {reason}; free space or choose another") from error
    return target


def _check_names(layout: str, method: str, normalization: str) -> None:
    legal = {"layout": LAYOUTS, "method": tuple(MAP_METHODS), "normalization": NORMALIZATIONS}
    for (name, names), value in zip(legal.items(), (layout, method, normalization), strict=True):
        if value not in names:
            raise OptionError(f"expected {name} among {listing(names)}, received {value!r}")


def _fitting(matrix: ArrayLike, source: RectilinearGrid, target: RectilinearGrid, axis: int) -> Floats:
    values = np.asarray(matrix, dtype=np.float64)
    wanted = target.shape[axis], source.shape[axis]
    name = "yx"[axis]
    if values.shape != wanted:
        raise ShapeError(f"expected weights along {name} of shape {wanted} for the two grids, received {values.shape}")
    if not np.isfinite(values).all():
        raise ShapeError(f"expected finite weights along {name}, received NaN or infinity; check the cell edges")
    return values


def _covered(matrix: Floats, normalization: str) -> tuple[Floats, Floats]:
    """Return the normalized weights and the covered fraction of each target cell along one axis."""
    cover = matrix.sum(axis=1)
    cover = np.where(np.abs(cover - 1) < COVER_ROUNDING, 1.0, cover)
    # An edge that misses the source by rounding must not create a nearly empty target cell.
    cover = np.where(np.abs(cover) < COVER_ROUNDING, 0.0, cover)
    kept = np.where(cover[:, None] == 0, 0.0, matrix)
    whole = np.where((cover == 0) | (normalization == "destarea"), 1.0, cover)
    return kept / whole[:, None], cover


def _used(source: Any, target: Any) -> Floats:
    """Return the fraction of each source cell that the target covers along one axis."""
    return _covered(overlap_weights(target, source), "destarea")[1]


def _attributes(layout: str, method: str, normalization: str) -> dict[str, str]:
    """Return attributes that tools require: NCO recognises layouts by the title, CDO needs the names of the grids."""
    tool = "ESMF Offline Regridding Weight Generator" if layout == "esmf" else "SCRIP"
    names = ("domain_a", "domain_b") if layout == "esmf" else ("source_grid", "dest_grid")
    return {
        "title": f"regridding weights by downscale {__version__} in the layout of {tool}",
        "normalization": normalization,
        "map_method": MAP_METHODS[method],
        "conventions": "NCAR-CSM" if layout == "esmf" else "SCRIP",
        names[0]: "source grid",
        names[1]: "target grid",
        "downscale_method": method,
        "downscale_version": __version__,
        "comment": COMMENT,
    }


def _esmf(weights: SparseWeights) -> dict[str, Any]:
    one = np.int32(1)
    return {
        "row": ("n_s", weights.row + one, {"long_name": "target cell of the link, counted from 1"}),
        "col": ("n_s", weights.col + one, {"long_name": "source cell of the link, counted from 1"}),
        "S": ("n_s", weights.weight, {"long_name": "weight of the link"}),
    }


def _scrip(weights: SparseWeights) -> dict[str, Any]:
    one = np.int32(1)
    return {
        "src_address": ("num_links", weights.col + one),
        "dst_address": ("num_links", weights.row + one),
        "remap_matrix": (("num_links", "num_wgts"), weights.weight[:, None]),
    }


def _grid(names: GridNames, cells: Cells, share: Floats) -> dict[str, Any]:
    """Return the cells of one grid with the names of a layout."""
    angles, areas = ("degrees", "square radians") if cells.spherical else ("m", "m2")
    made: dict[str, Any] = {names.shape: (names.rank, np.array(cells.shape[::-1], dtype=np.int32))}
    for axis in ("y", "x"):
        made[getattr(names, axis)] = (names.size, getattr(cells, axis), {"units": angles})
        corners = getattr(cells, f"{axis}_corners")
        if corners is not None:
            made[getattr(names, f"{axis}_corners")] = ((names.size, names.corners), corners, {"units": angles})
    made[names.mask] = (names.size, np.ones(share.size, np.int32), {"units": "unitless"})
    if cells.area is not None:
        made[names.area] = (names.size, cells.area, {"units": areas})
    made[names.share] = (names.size, share, {"units": "unitless"})
    return made
