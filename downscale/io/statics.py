"""Static fields (orography, masks) regridded to the fine cells of a field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse import csr_array

from downscale.cf.bounds import bounds_in, bounds_variables, lost_bounds, require_known, unknown_cells
from downscale.cf.coordinates import select
from downscale.cf.evidence import arrange
from downscale.cf.horizontal import (
    MOST_SHIFT,
    Horizontal,
    axes_kind,
    axes_words,
    horizontal,
    require_same_axes,
    with_named_mapping,
)
from downscale.errors import DownscaleError, GridError, InputError, listing
from downscale.fields.aggregate import Aggregation
from downscale.grid.axis import STORAGE_ROUNDING, CellAxis
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sampling import Places, Sampling
from downscale.grid.sphere import EARTH_RADIUS, arc, unit_vectors
from downscale.grid.subcells import SubcellGrid, overlap_matrix

OROG_NAMES = ("surface_altitude", "height_above_mean_sea_level", "height_above_reference_ellipsoid")
MASK_NAMES = (
    "sftlf", "sftof", "mask", "land_area_fraction", "sea_area_fraction", "land_binary_mask", "sea_binary_mask"
)  # fmt: skip
METRES = ("m", "metre", "metres", "meter", "meters", "gpm", "")
PER_CENT = ("%", "percent", "per cent")
# Edges stored in float32 differ by at most this fraction of a cell.
COVERAGE_TOLERANCE = 1e-3
REMEDY = (
    "bring it to the fine cells first: write ds.downscale(factor) without it as FINE.nc, then "
    "cdo remapcon,FINE.nc IN.nc OUT.nc"
)

Floats = NDArray[np.float64]


def pick_static(static: xr.Dataset | xr.DataArray | str | Path, name: str | None = None) -> xr.Dataset:
    """Return the Dataset of one field with its bounds: by name, by standard name, ``orog``, or the only field."""
    return arrange(_picked(static, "orog", "orography field", (OROG_NAMES, ("orog",)), name))


def pick_mask(mask: xr.Dataset | xr.DataArray | str | Path) -> xr.Dataset:
    """Return the Dataset of one mask: ``sftlf``, by standard name, or the only field."""
    return arrange(_picked(mask, "mask", "mask", (MASK_NAMES,)))


def _picked(
    static: Any, option: str, what: str, ranks: tuple[tuple[str, ...], ...], name: str | None = None
) -> xr.Dataset:  # fmt: skip
    """Return the Dataset of one field of an option: by name, else by the first group of names with a match."""
    if isinstance(static, (str, Path)):
        from downscale.io.read import open_dataset

        static = open_dataset(static, chunks=None)
    if isinstance(static, xr.DataArray):
        return static.to_dataset(name=option if static.name is None or static.name in static.coords else static.name)
    if not isinstance(static, xr.Dataset):
        raise InputError(f"expected {option} to be a Dataset, a DataArray or a file, received {type(static).__name__}")
    bounds = bounds_variables(static)
    fields = [str(key) for key, v in static.data_vars.items() if v.ndim >= 2 and key not in bounds]
    if name is not None and name not in fields:
        raise InputError(f"expected a field among {listing(fields)}, received {name!r}")
    matches = ([key for key in fields if key in names or static[key].attrs.get("standard_name") in names]
             for names in ranks)  # fmt: skip
    choice = [name] if name is not None else next(filter(None, matches), fields)
    if len(choice) != 1:
        raise InputError(f"expected one {what}, received {choice or 'none'}; pass that DataArray itself")
    return select(static, choice[0])


def mask_on_grid(mask: xr.Dataset, grid: Any, where: Horizontal | None = None) -> Floats:
    """Return the valid fraction of each fine cell, 0 to 1, from a mask or a fraction (also in per cent).

    Missing values are not valid; cells outside the mask's domain are valid.
    """
    placed = _place(mask, grid, "mask", where)
    values = _filled(placed.plane.values)
    if str(placed.plane.attrs.get("units", "")).strip() in PER_CENT or values.max(initial=0) > 1.5:
        values = values / 100
    if values.min(initial=0) < 0 or values.max(initial=0) > 1 + 1e-6:
        raise InputError(
            f"mask: expected True and False, or a fraction from 0 to 1 or to 100 %, received {values.min():g} to "
            f"{values.max():g}; compare it with a threshold first"
        )
    shares = placed.move(values)
    if np.ndim(placed.reached):
        shares = shares + (1 - placed.reached)
    if not (shares > 0.5).any():
        raise InputError(
            f"mask: expected valid fine cells, received none with a value above one half in {placed.plane.name!r}; "
            "pass a mask that is 1 where values are valid"
        )
    return shares


def on_grid(static: xr.Dataset, grid: Any, what: str = "orog", where: Horizontal | None = None) -> Any:
    """Return a field as a (n_y, n_x) array on ``grid``: unchanged if the cells agree, else conservative means.

    Missing values count as zero (the sea, in an orography). A lazy field gives a lazy array.
    """
    placed = _place(static, grid, what, where)
    if what == "orog":
        _require_heights(placed.plane)
    if placed.least < 1 - COVERAGE_TOLERANCE:
        raise GridError(
            f"{what}: expected a field that covers the whole fine grid, received one that covers "
            f"{100 * max(placed.least, 0):.3g} % of its worst row or column; use a larger field"
        )
    if isinstance(placed.plane.data, da.Array):
        return da.from_delayed(dask.delayed(placed.move)(placed.plane.data), grid.shape, np.float64)
    return placed.move(placed.plane.values)


def _require_heights(field: xr.DataArray) -> None:
    """Raise an InputError if units are given and are not metres, or all values are missing."""
    units = str(field.attrs.get("units", "m")).strip()
    if units not in METRES:
        raise InputError(
            f"orog: expected heights in m, received {field.name!r} in {units!r}; convert it, or pass another field"
        )
    if field.dtype.kind == "f" and not isinstance(field.data, da.Array) and not np.isfinite(field.values).any():
        raise InputError("orog: expected heights, received missing values only; pass another field")


@dataclass(frozen=True)
class _Placed:
    """A static field and the mapping of its values to the fine cells."""

    plane: xr.DataArray
    move: Callable[[NDArray[Any]], Floats]
    reached: Floats | float = 1.0
    least: float = 1.0


def _place(static: xr.Dataset, grid: Any, what: str, where: Horizontal | None) -> _Placed:
    field = next(iter(static.data_vars.values())).squeeze(drop=True)
    if field.dtype.kind not in "fiub":
        raise InputError(f"{what}: expected numbers, received {field.name!r} of type {field.dtype}; pass another field")
    if isinstance(grid, CurvilinearGrid):
        return _on_mesh(static, field, grid, what)
    try:
        source_axes = _with_cells_of(static, horizontal(static, guess=True), grid)
    except DownscaleError as error:
        raise type(error)(f"{what}: {error}") from None
    if where is not None:
        source_axes = with_named_mapping(source_axes, static, where)
        if axes_kind(source_axes) == "geographic" and where.locator is not None:
            return _sampled(_plane(field, source_axes, what), source_axes.grid, Places(grid, where.locator))
    _require_same_axes(source_axes, grid, what, where)
    rows, columns = overlap_matrix(source_axes.grid.y, grid.y), overlap_matrix(source_axes.grid.x, grid.x)
    covered = rows.sum(axis=1), columns.sum(axis=1)
    least = float(min(covered[0].min(), covered[1].min()))
    # A whole field of ones would take as much memory as the static.
    reached = 1.0 if least >= 1 - STORAGE_ROUNDING else np.multiply.outer(*covered).clip(0, 1)
    return _Placed(_plane(field, source_axes, what), lambda values: _remap(values, rows, columns), reached, least)


def _sampled(plane: xr.DataArray, source: Any, places: Places) -> _Placed:
    """Sample a field on latitudes and longitudes at the true positions of cells of another kind."""
    sampling = Sampling(source, places)
    reached = sampling.reached()
    return _Placed(plane, lambda values: sampling.means(_filled(values)), reached, float(reached.min()))


def brought_over(static: xr.Dataset, where: Horizontal, what: str) -> str | None:
    """Return the note of a field that is sampled from latitudes and longitudes, or None."""
    try:
        source_axes = horizontal(static, guess=True)
    except DownscaleError:
        return None
    if axes_kind(source_axes) != "geographic" or axes_kind(where) == "geographic":
        return None
    return (
        f"{what}: given on latitudes and longitudes; sampled at the true positions of the fine cells, whose means are "
        "taken by area where it is finer"
    )


def _with_cells_of(static: xr.Dataset, there: Horizontal, grid: Any) -> Horizontal:
    """Return axes whose missing bounds are those of the fine cells, if the centres are the same."""
    if not isinstance(there.grid, RectilinearGrid):
        return there
    axes = []
    for name, axis, fine in zip(there.dims, (there.grid.y, there.grid.x), (grid.y, grid.x), strict=True):
        centres = static[name].values * there.unit
        is_alike = isinstance(fine, CellAxis) and axis.kind == fine.kind and axis.size == fine.size
        if is_alike and lost_bounds(static, name) is not None:
            slack = COVERAGE_TOLERANCE * np.abs(np.diff(fine.edges)).min()
            is_alike = np.abs(centres - fine.centres).max() <= slack
        else:
            is_alike = False
        if not is_alike and bounds_in(static, name) is None:
            require_known(unknown_cells(static, name, centres, axis.kind))
        axes.append(fine if is_alike else axis)
    is_unchanged = axes[0] is there.grid.y and axes[1] is there.grid.x
    return there if is_unchanged else replace(there, grid=there.grid.with_axes(*axes))


def _plane(field: xr.DataArray, there: Horizontal, what: str) -> xr.DataArray:
    plane = field.transpose(..., *there.dims)
    if plane.ndim != 2:
        hint = "a mask does not vary in time" if what == "mask" else "select one map first"
        raise GridError(f"{what}: expected two dimensions, received {plane.dims}; {hint}")
    return plane


def _on_mesh(static: xr.Dataset, field: xr.DataArray, grid: CurvilinearGrid, what: str) -> _Placed:
    """Map a field on quadrilaterals: on the same cells, on parts of them, or on cells that contain them."""
    try:
        # Positions show whether the cells are the same.
        source_axes = horizontal(static, guess=True)
    except GridError:
        source_axes = None
    is_index_grid = source_axes is not None and source_axes.grid.x.kind == "projected" and source_axes.mapping is None
    if source_axes is None or is_index_grid:
        # Without positions, compare the number of rows and columns.
        if field.shape != grid.shape:
            raise GridError(
                f"{what}: expected the {grid.shape[0]} x {grid.shape[1]} fine cells of a curvilinear grid, received "
                f"dimensions {dict(field.sizes)} without latitudes and longitudes; {REMEDY}"
            )
        return _Placed(field, _filled)
    plane = _plane(field, source_axes, what)
    finer, coarser = _quotient(source_axes.grid.shape, grid.shape), _quotient(grid.shape, source_axes.grid.shape)
    if finer == (1, 1) and _same_places(source_axes.grid, grid):
        return _Placed(plane, _filled)
    if finer is not None and _same_places(source_axes.grid, grid.refine(*finer)):
        exact = isinstance(source_axes.grid, CurvilinearGrid) and grid.nest_factors(source_axes.grid) is not None
        parts = Aggregation.between(grid, source_axes.grid if exact else grid.refine(*finer))
        return _Placed(plane, lambda values: np.asarray(parts.mean(_filled(values))))
    if coarser is not None and _same_places(source_axes.grid, grid.coarsen(*coarser)):
        return _Placed(plane, lambda values: _filled(values).repeat(coarser[0], 0).repeat(coarser[1], 1))
    if axes_kind(source_axes) == "geographic":
        return _sampled(plane, source_axes.grid, Places(grid))
    raise GridError(
        f"{what}: expected the {grid.shape[0]} x {grid.shape[1]} fine cells of a curvilinear grid, received "
        f"{source_axes.grid.shape[0]} x {source_axes.grid.shape[1]} cells on {axes_words(source_axes)}; {REMEDY}"
    )


def _quotient(many: tuple[int, int], few: tuple[int, int]) -> tuple[int, int] | None:
    """Return the integer ratios of rows and columns, or None if they do not divide."""
    return None if many[0] % few[0] or many[1] % few[1] else (many[0] // few[0], many[1] // few[1])


def _same_places(there: Any, grid: CurvilinearGrid) -> bool:
    """Return whether the centres of two grids of one shape agree, within a fraction of a cell."""
    if isinstance(there, CurvilinearGrid):
        centres = there.centres
    elif there.spherical:
        centres = unit_vectors(*np.meshgrid(there.x.centres, there.y.centres))
    else:
        return False
    slack = MOST_SHIFT * np.sqrt(grid.cell_area) / EARTH_RADIUS + 2 * np.pi * STORAGE_ROUNDING
    return bool((arc(centres, grid.centres) <= slack).all())


def _require_same_axes(there: Horizontal, grid: Any, what: str, where: Horizontal | None) -> None:
    """Refuse a field whose axes have another reference than those of the fine cells."""
    if where is not None and not isinstance(where.grid, CurvilinearGrid):
        require_same_axes(there, where, what, "the fine grid", REMEDY)
        return
    kind = (grid.x.coarse if isinstance(grid, SubcellGrid) else grid.x).kind
    if there.grid.x.kind != kind or isinstance(there.grid, CurvilinearGrid):
        fine_units = "metres of a projection" if kind == "projected" else "degrees"
        raise GridError(f"{what}: expected a field on {fine_units}, as the fine grid is, received one on "
                        f"{axes_words(there)}; {REMEDY}")  # fmt: skip


def _filled(values: NDArray[Any]) -> Floats:
    """Return values in float64 with zeros for missing ones; the array itself where nothing changes."""
    numbers = np.asarray(values, dtype=np.float64)
    return numbers if np.isfinite(numbers).all() else np.nan_to_num(numbers)


def _remap(values: NDArray[Any], rows: csr_array, columns: csr_array) -> Floats:
    filled = _filled(values)
    order = _permutation(rows), _permutation(columns)
    if order[0] is not None and order[1] is not None:
        # Cells that agree are copied, not multiplied, so that values are bit-identical.
        return filled[np.ix_(order[0], order[1])]
    return (columns @ (rows @ filled).T).T


def _permutation(weights: csr_array) -> NDArray[np.int64] | None:
    """Return the source cell of each target cell, or None if some combine several."""
    share = weights.max(axis=1).toarray()
    return np.asarray(weights.argmax(axis=1)).ravel() if np.allclose(share, 1, rtol=0, atol=1e-4) else None
