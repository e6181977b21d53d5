"""The fine cells of a factor or a target grid, and the pieces into which it cuts coarse cells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.coordinates import AXIS_ATTRS, LENGTH_UNITS
from downscale.cf.evidence import arrange
from downscale.cf.horizontal import Horizontal, horizontal, parse_factor, require_same_axes, with_named_mapping
from downscale.errors import GridError, InputError, OptionError, spell
from downscale.fields.aggregate import Aggregation
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import SubcellGrid, Subcells

# A target resolution as text: rows x columns, in degrees or metres.
RESOLUTION = re.compile(r"\s*([0-9.eE+-]+)\s*[xX]\s*([0-9.eE+-]+)\s*")
# More cells along an axis are taken for a typing error.
MOST_CELLS = 200_000


@dataclass(frozen=True, eq=False)
class Target:
    """The fine cells of a request in the order of the coarse field; the pieces it cuts if the target does not nest.

    ``parts`` are pieces of rows and columns; ``grid`` is the requested target (None for a factor), ``where`` its axes.
    """

    fine: Any
    parts: tuple[Subcells, Subcells]
    nests: bool
    grid: xr.Dataset | None = None
    axes: Horizontal | None = None

    @property
    def factors(self) -> tuple[int, int]:
        """Number of pieces of rows and columns of coarse cells."""
        return self.parts[0].count, self.parts[1].count

    def aggregation(self, coarse: Any) -> Aggregation:
        """Return the operator A from the pieces to the coarse cells."""
        if self.nests:
            return Aggregation.between(coarse, self.fine)
        return Aggregation(self.parts[0].area_fraction, self.parts[1].area_fraction, *self.factors)

    @property
    def order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices that bring fine rows and columns of a nested target into the order of the target."""
        return np.argsort(self.parts[0].owner), np.argsort(self.parts[1].owner)


def pick_target(axes: Horizontal, factor: Any, target_grid: Any, method: Any) -> Target:
    """Return the fine cells of a factor or a target grid."""
    if target_grid is not None:
        if factor is not None:
            raise OptionError(f"expected {spell('factor')} or {spell('target_grid')}, received both; drop one of them")
        return _cut_by_target(axes, arrange(target_dataset(target_grid, axes)))
    if factor is None:
        factor = getattr(method, "factor", None)
        if factor is None:
            raise OptionError(
                f"expected {spell('factor')} or {spell('target_grid')}, received neither; try {spell('factor', 4)}"
            )
        factor = dict(zip(axes.dims, factor, strict=True)) if isinstance(factor, tuple) else factor
    factors = parse_factor(factor, axes)
    for name, size, count in zip(axes.dims, axes.grid.shape, factors, strict=True):
        if size * count > MOST_CELLS:
            raise OptionError(
                f"expected a factor of at most {MOST_CELLS // size} along {name!r}, which makes {MOST_CELLS} cells, "
                f"received {count}; choose a smaller one, or a region"
            )
    fine = axes.grid.refine(*factors)
    axis_pairs = ((axes.grid.y, fine.y, factors[0]), (axes.grid.x, fine.x, factors[1]))
    y, x = (Subcells.from_nested(coarse, cells, count) for coarse, cells, count in axis_pairs)
    return Target(fine, (y, x), nests=True)


def target_dataset(target: Any, axes: Horizontal) -> xr.Dataset:
    """Return the Dataset of a target: a Dataset, a DataArray, a file, or a resolution such as "0.25x0.25"."""
    if isinstance(target, str) and RESOLUTION.fullmatch(target):
        return resolution_grid(target, axes)
    if is_file(target):
        return open_target(target)
    if isinstance(target, xr.DataArray):
        # A DataArray does not keep its bounds; midpoints are used.
        return target.to_dataset(name="target" if target.name is None or target.name in target.coords else target.name)
    if isinstance(target, xr.Dataset):
        return target
    raise OptionError(
        f'expected {spell("target_grid")} to be a Dataset, a DataArray, a file, or a resolution such as "0.25x0.25", '
        f"received {type(target).__name__}"
    )


def is_file(target: Any) -> bool:
    """Return whether a target is a file: a text that is not a resolution."""
    return isinstance(target, Path) or (isinstance(target, str) and not RESOLUTION.fullmatch(target))


def open_target(target: str | Path) -> xr.Dataset:
    """Open a target grid file."""
    from downscale.io.read import open_dataset

    try:
        return open_dataset(target, chunks={})
    except InputError as error:
        raise InputError(f"{spell('target_grid')}: {error}") from None


def resolution_grid(text: str, axes: Horizontal) -> xr.Dataset:
    """Return the grid of a resolution, rows x columns, whose cells cover the coarse domain.

    Edges are whole multiples of the resolution, counted from the South Pole and Greenwich, or from the origin of a
    projection.
    """
    match = RESOLUTION.fullmatch(text)
    assert match is not None
    try:
        steps = [float(step) for step in match.groups()]
    except ValueError:
        steps = [0.0]
    if not all(np.isfinite(step) and step > 0 for step in steps):
        raise OptionError(f'expected a resolution of two positive numbers such as "0.25x0.25", received {text!r}')
    if not isinstance(axes.grid, RectilinearGrid):
        raise GridError(f"expected a target grid for rectilinear fields only, received {text!r}; use factor=")
    coordinates: dict[str, Any] = {}
    for name, axis, step in zip(axes.dims, (axes.grid.y, axes.grid.x), steps, strict=True):
        # Lengths in the unit of the file; angles in degrees, and scan angles in metres, whatever the unit of the file.
        unit = axes.unit if axes.system == "plane" and axes.unit in LENGTH_UNITS else 1.0
        edges = _multiples(axis, step * unit, text) / unit
        pairs = np.stack([edges[:-1], edges[1:]], axis=1)
        attrs = {**_axis_attrs(axis, axes), "bounds": f"{name}_bnds"}
        coordinates[name] = ((name,), 0.5 * (edges[:-1] + edges[1:]), attrs)
        coordinates[f"{name}_bnds"] = ((name, "bnds"), pairs)
    if axes.mapping is not None:
        coordinates[axes.mapping.name] = ((), np.int32(0), dict(axes.mapping.attrs))
    return xr.Dataset(coords=coordinates)


def _axis_attrs(axis: CellAxis, axes: Horizontal) -> dict[str, str]:
    nature = "plane" if axis.kind == "projected" else axes.system
    attrs = {key: text for key, text in AXIS_ATTRS[nature][axis is axes.grid.x].items() if key != "long_name"}
    return {"units": LENGTH_UNITS.get(axes.unit, "m"), **attrs} if nature == "plane" else attrs


def _multiples(axis: CellAxis, step: float, text: str) -> NDArray[np.float64]:
    """Return multiples of a step around an axis, in its direction."""
    origin = -90.0 if axis.kind == "latitude" else 0.0
    low, high = axis.edges.min(), axis.edges.max()
    if (high - low) / step > MOST_CELLS:
        raise OptionError(f"expected a resolution of at most {MOST_CELLS} cells along an axis, received {text!r}")
    if axis.kind == "longitude" and axis.periodic:
        count = round(360.0 / step)
        if count < 1 or abs(count * step - 360.0) > 1e-6:
            near = 360.0 / max(count, 1)
            raise OptionError(
                f"expected a step of longitude that divides 360 degrees, received {text!r}; the nearest is {near:.9g}"
            )
        edges = (-180.0 if axis.centres.min() < -1e-6 else 0.0) + np.arange(count + 1) * (360.0 / count)
    else:
        first, last = np.floor((low - origin) / step + 1e-6), np.ceil((high - origin) / step - 1e-6)
        edges = origin + step * np.arange(first, last + 1)
    edges = np.clip(edges, -90.0, 90.0) if axis.kind == "latitude" else edges
    return np.asarray(edges if axis.ascending else edges[::-1], dtype=np.float64)


def _cut_by_target(axes: Horizontal, target: xr.Dataset) -> Target:
    target_axes = horizontal(target)
    for grid, role in ((axes.grid, "coarse field"), (target_axes.grid, "target grid")):
        if not isinstance(grid, RectilinearGrid):
            raise GridError(
                f"expected one-dimensional axes with target_grid, received a {role} on two-dimensional coordinates; "
                "use factor=, or remap it to a rectilinear grid first (cdo remapcon)"
            )
    target_axes = with_named_mapping(target_axes, target, axes)
    require_same_axes(
        target_axes, axes, "target_grid", "the coarse field",
        'use factor=, a resolution such as "0.25x0.25" on its own axes, or remap the coarse field to the axes of the '
        "target first (cdo remapcon)", "a grid",
    )  # fmt: skip
    parts = Subcells.between(axes.grid.y, target_axes.grid.y), Subcells.between(axes.grid.x, target_axes.grid.x)
    if not all(axis.regular for axis in parts):
        return Target(SubcellGrid(*parts), parts, nests=False, grid=target, axes=target_axes)
    # A projected grid keeps the areas of its projection.
    return Target(axes.grid.with_axes(parts[0].axis, parts[1].axis), parts, nests=True, grid=target, axes=target_axes)
