"""Files of regridding weights in the layouts of ESMF and SCRIP, as CDO, NCO and xESMF read and write them.

Weights are a fixed matrix. Bounds, masks, orography and conservation corrections depend on the field and are not
included; an attribute of the file states this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from downscale.errors import InputError, OptionError, ShapeError, listing
from downscale.grid.corners import Cells, cells_of
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import overlap_weights
from downscale.io.leases import disk_errors, temporary_beside
from downscale.io.library import to_file
from downscale.io.paths import check_netcdf
from downscale.io.read import open_dataset
from downscale.kernels.sparse import SparseWeights
from downscale.version import __version__

Layout = Literal["esmf", "scrip"]
Side = Literal["a", "b"]
SIDES: dict[Side, str] = {"a": "source", "b": "target"}

# Target cell, source cell and weight of a link.
LINKS: dict[Layout, tuple[str, str, str]] = {
    "esmf": ("row", "col", "S"),
    "scrip": ("dst_address", "src_address", "remap_matrix"),
}
# Angular unit if a file does not state it.
ANGLES = {"esmf": "degrees", "scrip": "radians"}
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
METRES = ("m", "metre", "metres", "meter", "meters")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class GridNames:
    """Names of the dimensions and the variables of one grid in a layout."""

    size: str
    corners: str
    rank: str
    shape: str  # the fastest dimension first
    y: str
    x: str
    y_corners: str
    x_corners: str
    mask: str
    area: str
    area_fraction: str


def grid_names(layout: Layout, side: Side) -> GridNames:
    """Return the names of the source ("a") or the target ("b")."""
    grid = "src_grid" if side == "a" else "dst_grid"
    if layout == "esmf":
        names = (f"{stem}_{side}" for stem in ("yc", "xc", "yv", "xv", "mask", "area", "frac"))
        return GridNames(f"n_{side}", f"nv_{side}", f"{grid}_rank", f"{grid}_dims", *names)
    names = (
        f"{grid}_{end}" for end in ("center_lat", "center_lon", "corner_lat", "corner_lon", "imask", "area", "frac")
    )
    return GridNames(f"{grid}_size", f"{grid}_corners", f"{grid}_rank", f"{grid}_dims", *names)


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
    y, x = _check_matrix(along_y, source, target, 0), _check_matrix(along_x, source, target, 1)
    y, cover_y = _normalise_rows(y, normalization)
    x, cover_x = _normalise_rows(x, normalization)
    weights = SparseWeights.from_axes(y, x, cells_of(source), cells_of(target))
    source_fraction = np.zeros(source.shape)
    if method in CONSERVATIVE:
        source_fraction = np.multiply.outer(_source_coverage(source.y, target.y), _source_coverage(source.x, target.x))
    cover = np.multiply.outer(cover_y, cover_x)
    return links_dataset(weights, source_fraction, cover, layout=layout, method=method, normalization=normalization)


def links_dataset(
    weights: SparseWeights,
    source_fraction: Floats,
    target_fraction: Floats,
    *,
    layout: Layout,
    method: str,
    normalization: Normalization,
) -> xr.Dataset:
    """Return any sparse weights with known cells in one of the two layouts."""
    _check_names(layout, method, normalization)
    if weights.source is None or weights.target is None:
        raise ShapeError("expected weights whose source and target cells are known, received bare links; add cells")
    variables = _links(weights, layout)
    sides: tuple[tuple[Side, Cells, Floats], ...] = (
        ("a", weights.source, source_fraction),
        ("b", weights.target, target_fraction),
    )
    for side, cells, fraction in sides:
        variables.update(_grid(grid_names(layout, side), cells, fraction.ravel()))
    ds = xr.Dataset(variables, attrs=_attributes(layout, method, normalization))
    for variable in ds.variables.values():
        # Other tools take a fill value in a list of links for a link.
        variable.encoding = {"_FillValue": None}
    return ds


def write_weights(ds: xr.Dataset, path: str | Path, *, overwrite: bool = False, inputs: tuple[Any, ...] = ()) -> Path:
    """Write weights to NetCDF; the file appears under its name only when it is complete.

    Raises
    ------
    OutputError
        If the file cannot be written, exists, or is one of ``inputs``.
    """
    target = check_netcdf(path, overwrite, inputs)
    link_encoding = {"_FillValue": None, "zlib": True, "complevel": 1, "shuffle": True}
    links = [str(name) for name, variable in ds.variables.items() if variable.dims[0] in ("n_s", "num_links")]
    with disk_errors(target), temporary_beside(target) as scratch:
        to_file(ds, scratch, dict.fromkeys(links, link_encoding))
    return target


def _check_names(layout: str, method: str, normalization: str) -> None:
    legal = {"layout": LAYOUTS, "method": tuple(MAP_METHODS), "normalization": NORMALIZATIONS}
    for (name, names), value in zip(legal.items(), (layout, method, normalization), strict=True):
        if value not in names:
            raise OptionError(f"expected {name} among {listing(names)}, received {value!r}")


def _check_matrix(matrix: ArrayLike, source: RectilinearGrid, target: RectilinearGrid, axis: int) -> Floats:
    values = np.asarray(matrix, dtype=np.float64)
    shape = target.shape[axis], source.shape[axis]
    name = "yx"[axis]
    if values.shape != shape:
        raise ShapeError(f"expected weights along {name} of shape {shape} for the two grids, received {values.shape}")
    if not np.isfinite(values).all():
        raise ShapeError(f"expected finite weights along {name}, received NaN or infinity; check the cell edges")
    return values


def _normalise_rows(matrix: Floats, normalization: str) -> tuple[Floats, Floats]:
    """Return the normalized weights and the covered fraction of each target cell along one axis."""
    cover = matrix.sum(axis=1)
    cover = np.where(np.abs(cover - 1) < COVER_ROUNDING, 1.0, cover)
    # An edge that misses the source by rounding must not create a nearly empty target cell.
    cover = np.where(np.abs(cover) < COVER_ROUNDING, 0.0, cover)
    weights = np.where(cover[:, None] == 0, 0.0, matrix)
    norm = np.where((cover == 0) | (normalization == "destarea"), 1.0, cover)
    return weights / norm[:, None], cover


def _source_coverage(source: Any, target: Any) -> Floats:
    """Return the fraction of each source cell that the target covers along one axis."""
    return _normalise_rows(overlap_weights(target, source), "destarea")[1]


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


def _links(weights: SparseWeights, layout: Layout) -> dict[str, Any]:
    one = np.int32(1)
    if layout == "scrip":
        return {
            "src_address": ("num_links", weights.col + one),
            "dst_address": ("num_links", weights.row + one),
            "remap_matrix": (("num_links", "num_wgts"), weights.weight[:, None]),
        }
    return {
        "row": ("n_s", weights.row + one, {"long_name": "target cell of the link, counted from 1"}),
        "col": ("n_s", weights.col + one, {"long_name": "source cell of the link, counted from 1"}),
        "S": ("n_s", weights.weight, {"long_name": "weight of the link"}),
    }


def _grid(names: GridNames, cells: Cells, fraction: Floats) -> dict[str, Any]:
    """Return the cells of one grid with the names of a layout."""
    angles, areas = ("degrees", "square radians") if cells.spherical else ("m", "m2")
    variables: dict[str, Any] = {names.shape: (names.rank, np.array(cells.shape[::-1], dtype=np.int32))}
    for axis in ("y", "x"):
        variables[getattr(names, axis)] = (names.size, getattr(cells, axis), {"units": angles})
        corners = getattr(cells, f"{axis}_corners")
        if corners is not None:
            variables[getattr(names, f"{axis}_corners")] = ((names.size, names.corners), corners, {"units": angles})
    variables[names.mask] = (names.size, np.ones(fraction.size, np.int32), {"units": "unitless"})
    if cells.area is not None:
        variables[names.area] = (names.size, cells.area, {"units": areas})
    variables[names.area_fraction] = (names.size, fraction, {"units": "unitless"})
    return variables


def read_weights(
    weights: str | Path | xr.Dataset, *, source_shape: Shape | None = None, target_shape: Shape | None = None
) -> SparseWeights:
    """Read weights in the ESMF or the SCRIP layout."""
    ds, name = _load_weights(weights)
    layout = next((candidate for candidate, names in LINKS.items() if set(names) <= set(ds.variables)), None)
    if layout is None:
        raise InputError(
            f"expected weights with {listing(LINKS['esmf'])} (ESMF) or {listing(LINKS['scrip'])} (SCRIP), received "
            f"{name} with {listing(ds.variables) or 'no variables'}; make them with downscale.weights, ESMF or "
            "cdo gencon"
        )
    row, col, weight = (np.asarray(ds[key].values) for key in LINKS[layout])
    if weight.ndim > 1:
        # The other weights are those of gradients.
        if np.any(weight[:, 1:]):
            raise InputError(
                f"expected one weight per link, received {name} with {weight.shape[1]} (second order or bicubic, "
                "needing gradients of the field); make first-order weights, for example with cdo gencon or genbil"
            )
        weight = weight[:, 0]
    shapes = {"a": source_shape, "b": target_shape}
    source, target = (_side(ds, grid_names(layout, side), shapes[side], word, ANGLES[layout])
                      for side, word in SIDES.items())  # fmt: skip
    _check_links(name, ("target", row, target[0]), ("source", col, source[0]), weight)
    return SparseWeights.from_links(row - 1, col - 1, weight, source[0], target[0], source[1], target[1])


def _load_weights(weights: Any) -> tuple[xr.Dataset, str]:
    if isinstance(weights, xr.Dataset):
        return weights, "a Dataset"
    if not isinstance(weights, (str, Path)):
        raise InputError(f"expected weights as a Dataset or a file, received {type(weights).__name__}")
    # Fill values and scales are not decoded: lists of links are neither missing nor packed.
    with open_dataset(weights, chunks=None, decode_cf=False, decode_coords=False) as ds:
        return ds.load(), str(weights)


def _check_links(name: str, *sides: Any) -> None:
    *index_lists, weight = sides
    if weight.dtype.kind not in "fiu":
        raise InputError(f"expected weights that are numbers, received {weight.dtype} in {name}; make the file again")
    for side, index, shape in index_lists:
        if index.dtype.kind not in "iu" or index.shape != weight.shape:
            raise InputError(
                f"expected one whole number per link for the {side} cells, received {name} with {index.dtype} of shape "
                f"{index.shape} for {weight.size} weights; make the file again"
            )
        cells = int(np.prod(shape))
        if index.size and (index.min() < 1 or index.max() > cells):
            raise InputError(
                f"expected {side} cells from 1 to {cells}, received {index.min()} to {index.max()} in {name}; "
                "they count from 1, x fastest: check the grids and their shapes"
            )
    if not np.isfinite(weight).all():
        invalid_count = int((~np.isfinite(weight)).sum())
        raise InputError(
            f"expected finite weights, received {invalid_count} NaN or infinite ones in {name}; make the file again"
        )


def _side(
    ds: xr.Dataset, names: GridNames, user_shape: Shape | None, word: str, unit: str
) -> tuple[Shape, Cells | None]:  # fmt: skip
    """Return the shape of a grid, and its centres, corners and areas in degrees or metres if the file has them.

    The shape, slowest dimension first, is that of the file, else that passed by the user.
    """
    name, size = names.shape, names.size
    stored_shape = tuple(int(n) for n in np.asarray(ds[name].values)[::-1]) if name in ds.variables else None
    shape = user_shape if stored_shape is None else stored_shape
    if shape is None:
        raise ShapeError(f"expected {name} in the weights, received none; pass {word}_shape=(n_y, n_x)")
    if user_shape is not None and tuple(user_shape) != tuple(shape):
        line = f"expected the {word} shape of the weights, {stored_shape}, received {tuple(user_shape)}; leave it out"
        raise ShapeError(line)
    shape = tuple(shape)
    if size in ds.sizes and int(np.prod(shape)) != ds.sizes[size]:
        raise ShapeError(f"expected {ds.sizes[size]} {word} cells ({size}), received the shape {shape}; check {name}")
    if names.y not in ds.variables or names.x not in ds.variables:
        return shape, None
    corners = [names.y_corners, names.x_corners]
    has_corners = all(name in ds.variables for name in corners)
    y, x = (_degrees(ds[name], unit) for name in (names.y, names.x))
    y_corners, x_corners = (_degrees(ds[name], unit) if has_corners else None for name in corners)
    area = np.asarray(ds[names.area].values, dtype=np.float64) if names.area in ds.variables else None
    is_spherical = str(ds[names.y].attrs.get("units", unit)).lower() not in METRES
    return shape, Cells(shape, y, x, y_corners, x_corners, area, spherical=is_spherical)


def _degrees(variable: xr.DataArray, unit: str) -> NDArray[np.float64]:
    values = np.asarray(variable.values, dtype=np.float64)
    return np.rad2deg(values) if str(variable.attrs.get("units", unit)).lower().startswith("rad") else values
