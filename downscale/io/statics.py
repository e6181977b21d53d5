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

from downscale.cf.bounds import bounds_in, bounds_variables, lost_bounds, require_known, unknown_cells_reason
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
from downscale.grid.sampling import CellPositions, Sampling
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
    return arrange(_pick_field(static, "orog", "orography field", (OROG_NAMES, ("orog",)), name))


def pick_climatology(climatology: Any, name: str) -> xr.Dataset:
    """Return the Dataset of one climatological field without times, for a model: by name, or the only field."""
    ds = arrange(_pick_field(climatology, "climatology", "climatology", ((name,),)))
    field = next(iter(ds.data_vars.values())).squeeze(drop=True)
    if field.ndim > 2:
        raise InputError(
            f"climatology: expected one map for a model that has learned from one, received {field.name!r} with "
            f"dimensions {dict(field.sizes)}; average it first, over times that are not held out"
        )
    return ds


def pick_mask(mask: xr.Dataset | xr.DataArray | str | Path) -> xr.Dataset:
    """Return the Dataset of one mask: ``sftlf``, by standard name, or the only field."""
    return arrange(_pick_field(mask, "mask", "mask", (MASK_NAMES,)))


def _pick_field(
    static: Any, option: str, role: str, ranks: tuple[tuple[str, ...], ...], name: str | None = None
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
        raise InputError(f"expected one {role}, received {choice or 'none'}; pass that DataArray itself")
    return select(static, choice[0])


def regrid_mask(mask: xr.Dataset, grid: Any, axes: Horizontal | None = None) -> Floats:
    """Return the valid fraction of each fine cell, 0 to 1, from a mask or a fraction (also in per cent).

    Missing values are not valid; cells outside the mask's domain are valid.
    """
    remapping = _find_remapping(mask, grid, "mask", axes)
    values = _fill_with_zero(remapping.field.values)
    if str(remapping.field.attrs.get("units", "")).strip() in PER_CENT or values.max(initial=0) > 1.5:
        values = values / 100
    if values.min(initial=0) < 0 or values.max(initial=0) > 1 + 1e-6:
        raise InputError(
            f"mask: expected True and False, or a fraction from 0 to 1 or to 100 %, received {values.min():g} to "
            f"{values.max():g}; compare it with a threshold first"
        )
    fractions = remapping.remap(values)
    if np.ndim(remapping.covered_fraction):
        fractions = fractions + (1 - remapping.covered_fraction)
    if not (fractions > 0.5).any():
        raise InputError(
            f"mask: expected valid fine cells, received none with a value above one half in {remapping.field.name!r}; "
            "pass a mask that is 1 where values are valid"
        )
    return fractions


def regrid_static(static: xr.Dataset, grid: Any, option: str = "orog", axes: Horizontal | None = None) -> Any:
    """Return a field as a (n_y, n_x) array on ``grid``: unchanged if the cells agree, else conservative means.

    Missing values count as zero (the sea, in an orography). A lazy field gives a lazy array.
    """
    remapping = _find_remapping(static, grid, option, axes)
    if option == "orog":
        _require_heights(remapping.field)
    _require_coverage(remapping, option)
    if isinstance(remapping.field.data, da.Array):
        return da.from_delayed(dask.delayed(remapping.remap)(remapping.field.data), grid.shape, np.float64)
    return remapping.remap(remapping.field.values)


def regrid_climatology(climatology: xr.Dataset, grid: Any, axes: Horizontal | None = None) -> Floats:
    """Return one map on the fine cells, NaN where less than half of a cell has a value."""
    remapping = _find_remapping(climatology, grid, "climatology", axes)
    _require_coverage(remapping, "climatology")
    maps: Floats = Regridder(remapping.remap)(np.asarray(remapping.field.values, np.float64)[None])
    return maps[0]


def _require_coverage(remapping: _Remapping, option: str) -> None:
    """Raise a GridError if a field does not cover the fine grid."""
    if remapping.least_coverage < 1 - COVERAGE_TOLERANCE:
        raise GridError(
            f"{option}: expected a field that covers the whole fine grid, received one that covers "
            f"{100 * max(remapping.least_coverage, 0):.3g} % of its worst row or column; use a larger field"
        )


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
class _Remapping:
    """A static field and the mapping of its values to the fine cells."""

    field: xr.DataArray
    remap: Callable[[NDArray[Any]], Floats]
    covered_fraction: Floats | float = 1.0
    least_coverage: float = 1.0


@dataclass(frozen=True, eq=False)
class Regridder:
    """Area-weighted means of maps with gaps on the fine cells.

    ``is_complete`` is whether the maps cover all fine cells entirely; ``uncovered`` locates cells beyond them.
    """

    remap: Callable[[NDArray[Any]], Floats]
    is_complete: bool = True
    uncovered: str | None = None

    def __call__(self, maps: NDArray[Any]) -> Floats:
        """Return maps (n, rows, columns) on the fine cells, NaN where less than half of the area has a value."""
        fine = [self._regrid_map(one, np.isfinite(one)) for one in maps]
        return np.stack(fine) if fine else np.empty((0, 0, 0))

    def _regrid_map(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> Floats:
        total = self.remap(np.where(valid, values, 0.0))
        if self.is_complete and valid.all():
            return total
        fraction = self.remap(valid.astype(np.float64))
        return np.where(fraction >= 0.5, total / np.where(fraction >= 0.5, fraction, 1.0), np.nan)


def regridder(field: xr.Dataset, grid: Any, option: str, axes: Horizontal | None = None) -> Regridder:
    """Return the regridding of maps on the grid of ``field``, a Dataset of one map, to the fine cells.

    Raises
    ------
    GridError
        If the axes of both cannot be compared, or the maps cover none of the fine cells.
    """
    remapping = _find_remapping(field, grid, option, axes)
    if remapping.least_coverage >= 1 - COVERAGE_TOLERANCE:
        return Regridder(remapping.remap)
    missing = np.broadcast_to(remapping.covered_fraction, grid.shape) < 0.5
    if missing.all():
        raise GridError(
            f"{option}: expected a field over the domain of the fine grid, received one that covers none of it; use "
            "another region"
        )
    if not missing.any():
        return Regridder(remapping.remap, is_complete=False)
    row, column = (int(i) for i in np.argwhere(missing)[0])
    place = f", such as {grid.describe(row, column)}" if hasattr(grid, "describe") else ""
    return Regridder(remapping.remap, False, f"{100 * missing.mean():.3g} % of the fine cells{place}")


def _find_remapping(static: xr.Dataset, grid: Any, option: str, axes: Horizontal | None) -> _Remapping:
    field = next(iter(static.data_vars.values())).squeeze(drop=True)
    if field.dtype.kind not in "fiub":
        raise InputError(
            f"{option}: expected numbers, received {field.name!r} of type {field.dtype}; pass another field"
        )
    if isinstance(grid, CurvilinearGrid):
        return _remap_to_mesh(static, field, grid, option)
    try:
        source_axes = _with_cells_of(static, horizontal(static, guess=True), grid)
    except DownscaleError as error:
        raise type(error)(f"{option}: {error}") from None
    if axes is not None:
        source_axes = with_named_mapping(source_axes, static, axes)
        if axes_kind(source_axes) == "geographic" and axes.locator is not None:
            return _sample_positions(
                _plane(field, source_axes, option), source_axes.grid, CellPositions(grid, axes.locator)
            )
    _require_same_axes(source_axes, grid, option, axes)
    rows, columns = overlap_matrix(source_axes.grid.y, grid.y), overlap_matrix(source_axes.grid.x, grid.x)
    covered_fractions = rows.sum(axis=1), columns.sum(axis=1)
    least_coverage = float(min(covered_fractions[0].min(), covered_fractions[1].min()))
    # A whole field of ones would take as much memory as the static field.
    covered_fraction = (
        1.0 if least_coverage >= 1 - STORAGE_ROUNDING else np.multiply.outer(*covered_fractions).clip(0, 1)
    )
    return _Remapping(
        _plane(field, source_axes, option),
        _separable_remap(rows, columns),
        covered_fraction,
        least_coverage,
    )


def _sample_positions(field: xr.DataArray, source: Any, positions: CellPositions) -> _Remapping:
    """Sample a field on latitudes and longitudes at the true positions of cells of another kind."""
    sampling = Sampling(source, positions)
    covered_fraction = sampling.covered_fraction()
    return _Remapping(
        field, lambda values: sampling.means(_fill_with_zero(values)), covered_fraction, float(covered_fraction.min())
    )


def sampling_note(static: xr.Dataset, axes: Horizontal, option: str) -> str | None:
    """Return the note of a field that is sampled from latitudes and longitudes, or None."""
    try:
        source_axes = horizontal(static, guess=True)
    except DownscaleError:
        return None
    if axes_kind(source_axes) != "geographic" or axes_kind(axes) == "geographic":
        return None
    return (
        f"{option}: given on latitudes and longitudes; sampled at the true positions of the fine cells, whose means "
        "are taken by area where it is finer"
    )


def _with_cells_of(static: xr.Dataset, axes: Horizontal, grid: Any) -> Horizontal:
    """Return axes whose missing bounds are those of the fine cells, if the centres are the same."""
    if not isinstance(axes.grid, RectilinearGrid):
        return axes
    cell_axes = []
    for name, axis, fine in zip(axes.dims, (axes.grid.y, axes.grid.x), (grid.y, grid.x), strict=True):
        centres = static[name].values * axes.unit
        is_alike = isinstance(fine, CellAxis) and axis.kind == fine.kind and axis.size == fine.size
        if is_alike and lost_bounds(static, name) is not None:
            slack = COVERAGE_TOLERANCE * np.abs(np.diff(fine.edges)).min()
            is_alike = np.abs(centres - fine.centres).max() <= slack
        else:
            is_alike = False
        if not is_alike and bounds_in(static, name) is None:
            require_known(unknown_cells_reason(static, name, centres, axis.kind))
        cell_axes.append(fine if is_alike else axis)
    is_unchanged = cell_axes[0] is axes.grid.y and cell_axes[1] is axes.grid.x
    return axes if is_unchanged else replace(axes, grid=axes.grid.with_axes(*cell_axes))


def _plane(field: xr.DataArray, axes: Horizontal, option: str) -> xr.DataArray:
    plane = field.transpose(..., *axes.dims)
    if plane.ndim != 2:
        hint = "a mask does not vary in time" if option == "mask" else "select one map first"
        raise GridError(f"{option}: expected two dimensions, received {plane.dims}; {hint}")
    return plane


def _remap_to_mesh(static: xr.Dataset, field: xr.DataArray, grid: CurvilinearGrid, option: str) -> _Remapping:
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
                f"{option}: expected the {grid.shape[0]} x {grid.shape[1]} fine cells of a curvilinear grid, received "
                f"dimensions {dict(field.sizes)} without latitudes and longitudes; {REMEDY}"
            )
        return _Remapping(field, _fill_with_zero)
    plane = _plane(field, source_axes, option)
    finer, coarser = _quotient(source_axes.grid.shape, grid.shape), _quotient(grid.shape, source_axes.grid.shape)
    if finer == (1, 1) and _same_centres(source_axes.grid, grid):
        return _Remapping(plane, _fill_with_zero)
    if finer is not None and _same_centres(source_axes.grid, grid.refine(*finer)):
        exact = isinstance(source_axes.grid, CurvilinearGrid) and grid.nest_factors(source_axes.grid) is not None
        parts = Aggregation.between(grid, source_axes.grid if exact else grid.refine(*finer))
        return _Remapping(plane, lambda values: np.asarray(parts.mean(_fill_with_zero(values))))
    if coarser is not None and _same_centres(source_axes.grid, grid.coarsen(*coarser)):
        return _Remapping(plane, lambda values: _fill_with_zero(values).repeat(coarser[0], 0).repeat(coarser[1], 1))
    if axes_kind(source_axes) == "geographic":
        return _sample_positions(plane, source_axes.grid, CellPositions(grid))
    raise GridError(
        f"{option}: expected the {grid.shape[0]} x {grid.shape[1]} fine cells of a curvilinear grid, received "
        f"{source_axes.grid.shape[0]} x {source_axes.grid.shape[1]} cells on {axes_words(source_axes)}; {REMEDY}"
    )


def _quotient(fine_shape: tuple[int, int], coarse_shape: tuple[int, int]) -> tuple[int, int] | None:
    """Return the integer ratios of rows and columns, or None if they do not divide."""
    return (
        None
        if fine_shape[0] % coarse_shape[0] or fine_shape[1] % coarse_shape[1]
        else (fine_shape[0] // coarse_shape[0], fine_shape[1] // coarse_shape[1])
    )


def _same_centres(source: Any, grid: CurvilinearGrid) -> bool:
    """Return whether the centres of two grids of one shape agree, within a fraction of a cell."""
    if isinstance(source, CurvilinearGrid):
        centres = source.centres
    elif source.spherical:
        centres = unit_vectors(*np.meshgrid(source.x.centres, source.y.centres))
    else:
        return False
    slack = MOST_SHIFT * np.sqrt(grid.cell_area) / EARTH_RADIUS + 2 * np.pi * STORAGE_ROUNDING
    return bool((arc(centres, grid.centres) <= slack).all())


def _require_same_axes(axes: Horizontal, grid: Any, option: str, fine_axes: Horizontal | None) -> None:
    """Refuse a field whose axes have another reference than those of the fine cells."""
    if fine_axes is not None and not isinstance(fine_axes.grid, CurvilinearGrid):
        require_same_axes(axes, fine_axes, option, "the fine grid", REMEDY)
        return
    kind = (grid.x.coarse if isinstance(grid, SubcellGrid) else grid.x).kind
    if axes.grid.x.kind != kind or isinstance(axes.grid, CurvilinearGrid):
        fine_units = "metres of a projection" if kind == "projected" else "degrees"
        raise GridError(f"{option}: expected a field on {fine_units}, as the fine grid is, received one on "
                        f"{axes_words(axes)}; {REMEDY}")  # fmt: skip


def _fill_with_zero(values: NDArray[Any]) -> Floats:
    """Return values in float64 with zeros for missing ones; the array itself where nothing changes."""
    numbers = np.asarray(values, dtype=np.float64)
    return numbers if np.isfinite(numbers).all() else np.nan_to_num(numbers)


def _separable_remap(rows: csr_array, columns: csr_array) -> Callable[[NDArray[Any]], Floats]:
    """Return the function that maps a field by weights of rows and of columns."""
    order = _permutation(rows), _permutation(columns)
    if order[0] is not None and order[1] is not None:
        # Cells that agree are copied, not multiplied, so that values are bit-identical.
        places = np.ix_(order[0], order[1])
        return lambda values: _fill_with_zero(values)[places]
    return lambda values: (columns @ (rows @ _fill_with_zero(values)).T).T


def _permutation(weights: csr_array) -> NDArray[np.int64] | None:
    """Return the source cell of each target cell, or None if some combine several."""
    fraction = weights.max(axis=1).toarray()
    return np.asarray(weights.argmax(axis=1)).ravel() if np.allclose(fraction, 1, rtol=0, atol=1e-4) else None
