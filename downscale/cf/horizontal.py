"""Horizontal grids from CF metadata: reading, and comparison of their axes.

:mod:`downscale.cf.evidence` weighs the metadata of each coordinate; this module reads the grid. Bounds are read, never
guessed; without bounds the edges are midway between centres. Numbers of the axes of two grids are compared only if both
have the same reference: geographic, rotated, projected, or two-dimensional positions.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from downscale.cf.attributes import AREA, normalise_metadata
from downscale.cf.bounds import (
    bounds_name,
    bounds_of,
    corners_of,
    require_known,
    unknown_cells_reason,
    unknown_corners_reason,
    variables_of,
    without_lost_bounds,
)
from downscale.cf.dates import values_of
from downscale.cf.evidence import (
    AXIS_NAMES,
    COMPASS,
    NO_SYSTEM,
    POSITION_NAMES,
    PROJECTED,
    arrange,
    axis_of,
    claims_of,
    coordinate_system,
    degrees_of_unit,
    find_positions,
    find_seam,
    first_map,
    is_cell_number,
    moving_dimension,
    position_direction,
    position_error,
)
from downscale.cf.mapping import (
    TEXT_ATTRS,
    CoordinateSystem,
    GridMapping,
    Locator,
    grid_mapping_names,
    is_mapping,
    mapping_of,
)
from downscale.cf.units import UNINFORMATIVE_UNITS, size_in
from downscale.errors import DownscaleError, GridError, InputError, ShapeError, listing, spell
from downscale.grid.axis import (
    CellAxis,
    Kind,
    axis_from_bounds,
    axis_from_centres,
    check_factor,
    extend_to_poles,
)
from downscale.grid.curvilinear import CurvilinearGrid, count_repeated_columns, curvilinear_grid
from downscale.grid.latlon import RectilinearGrid, find_product_grid, projected_grid
from downscale.grid.sphere import arc, unit_vectors

XarrayObject = xr.Dataset | xr.DataArray

MESH_NAMES = POSITION_NAMES | dict.fromkeys(("clat", "latcell"), "y") | dict.fromkeys(("clon", "loncell"), "x")
# Attributes of CF that xarray moves to encodings.
ENCODED = ("bounds", "climatology", "coordinates", "grid_mapping")


class NoAxesError(GridError):
    """An object has neither horizontal axes nor positions."""


@dataclass(frozen=True, eq=False)
class Horizontal:
    """The two horizontal dimensions of an object (``y``, ``x``, also the names of their coordinates) and their grid."""

    y: str
    x: str
    grid: RectilinearGrid | CurvilinearGrid  # cells in the order of the object, in degrees or metres
    unit: float = 1.0  # metres, or degrees, in one unit of the coordinates
    positions: tuple[str, str] | None = None  # two-dimensional latitudes and longitudes of the object, or of a new grid
    mapping: GridMapping | None = None  # None if the axes are latitude and longitude
    notes: tuple[str, ...] = ()  # for the plan
    system: CoordinateSystem = "geographic"
    missing_mapping: str | None = None  # the grid mapping that fields on axes in metres name, if it is not there
    bounds: Mapping[str, str] = field(default_factory=dict)  # names of bounds, by those of axes and positions
    guess_reason: str = ""  # why edges midway between centres are a guess, since bounds are lost; empty if they are not

    @property
    def rotated(self) -> bool:
        """Whether the axes are degrees about a rotated pole, with or without a grid mapping that defines it."""
        return self.system == "rotated"

    @property
    def dims(self) -> tuple[str, str]:
        """Names of the row and column dimension."""
        return self.y, self.x

    @property
    def replaced_names(self) -> set[str]:
        """Names of axes, positions, their bounds and cell areas, which a new grid creates anew."""
        return {*self.dims, *(self.positions or ()), *self.bounds.values(), AREA}

    def bounds_of(self, name: str) -> str:
        """Return the name of the bounds of an axis or of positions, present or to be created."""
        return self.bounds.get(name, f"{name}_bnds")

    @property
    def locator(self) -> Locator | None:
        """The function from axes to longitudes and latitudes, or None if the axes are these."""
        return None if self.mapping is None else self.mapping.locator()


def warn_of_plane(axes: Horizontal) -> Horizontal:
    """Warn that areas are those of the plane if a field names a grid mapping that is missing; return the axes."""
    if axes.missing_mapping is not None:
        warnings.warn(
            f"{axes.y!r} and {axes.x!r}: the grid mapping {axes.missing_mapping!r} that fields name is not there; "
            'areas are those of the plane. Keep it with the field: open the file with decode_coords="all"',
            UserWarning, stacklevel=3,
        )  # fmt: skip
    return axes


def horizontal(obj: XarrayObject, guess: bool = False) -> Horizontal:
    """Return the horizontal axes or positions of a Dataset or DataArray, with their cells.

    With ``guess``, edges of cells with lost bounds may be midway between centres: for plots, and for code that uses
    only the dimensions.
    """
    grids = _SHARED.get()
    axes = parse_horizontal(obj) if grids is None else grids.horizontal(obj)
    if not guess:
        require_known(axes.guess_reason)
    return axes


class ParsedGrids:
    """The grids of the objects of one run, found again by the metadata and the values that define them."""

    def __init__(self) -> None:
        self._grids: dict[str, list[tuple[list[str], str, Horizontal]]] = {}

    def horizontal(self, obj: XarrayObject) -> Horizontal:
        """Return the axes or positions of an object, parsed unless those of an equal object are known."""
        entries = self._grids.setdefault(_metadata_token(obj), [])
        for names, values, axes in entries:
            if values == _values_token(obj, names):
                return axes
        axes = parse_horizontal(obj)
        candidates = dict.fromkeys((*axes.dims, *(find_positions(obj) or ()), *axes.bounds.values()))
        names = [name for name in candidates if name in variables_of(obj)]
        entries.append((names, _values_token(obj, names), axes))
        return axes


_SHARED: ContextVar[ParsedGrids | None] = ContextVar("parsed_grids", default=None)


@contextmanager
def share_grids(grids: ParsedGrids | None = None) -> Iterator[None]:
    """Parse equal grids once within this context, which a run opens; those of an outer context are shared."""
    token = _SHARED.set(_SHARED.get() or grids or ParsedGrids())
    try:
        yield
    finally:
        _SHARED.reset(token)


def _metadata_token(obj: XarrayObject) -> str:
    """Return a token of all metadata that grids are parsed from, and of no values along other dimensions."""
    fields = [] if isinstance(obj, xr.Dataset) else [("", obj)]
    variables = [
        (str(name), v.dims, v.dtype.kind, v.attrs, [v.encoding.get(key) for key in ENCODED], is_mapping(v))
        for name, v in (*variables_of(obj).items(), *fields)
    ]
    return str(tokenize(variables, [obj.attrs.get(key) for key in (*TEXT_ATTRS, "coordinates")],
                        [obj.encoding.get(key) for key in ENCODED], list(getattr(obj, "data_vars", ()))))  # fmt: skip


def _values_token(obj: XarrayObject, names: list[str]) -> str:
    return str(tokenize([values_of(obj[name].variable) for name in names]))


def parse_horizontal(obj: XarrayObject) -> Horizontal:
    """Return the axes or positions of an object; their cells may be a guess (see ``Horizontal.guess_reason``)."""
    dims, positions, axes = _find_axes(obj), find_positions(obj), None
    if dims is not None:
        is_located = positions is not None and set(obj[positions[0]].dims[-2:]) == set(dims)
        # True degrees need no coordinate system in a text attribute.
        is_true = any((claim.systems or PROJECTED) <= COMPASS for claim in claims_of(obj[dims[0]]))
        mapping = mapping_of(obj, dims, text=not is_true)
        if mapping is not None or not (is_located and all(is_cell_number(obj[name]) for name in dims)):
            axes = _read_axes(obj, dims, mapping, positions if is_located else None)
    if axes is None:
        if positions is None:
            raise _no_axes(obj)
        axes = _read_positions(obj, *positions)
    names = [name for name in (*axes.dims, *(axes.positions or ())) if name in variables_of(obj)]
    return replace(axes, bounds={name: bounds_name(obj, name) for name in names})


def _find_axes(obj: XarrayObject) -> tuple[str, str] | None:
    """Return the names of the two axes with the best evidence; if equal, those that fields use."""
    axes = [axis_of(obj[name]) for name in obj.dims if name in obj.coords and obj[name].ndim == 1]
    fields = list(obj.data_vars.values()) if isinstance(obj, xr.Dataset) else [obj]
    pairs = [(y, x) for y in axes if y and y.direction == "y" for x in axes if x and x.direction == "x"]
    best = min(pairs, default=None, key=lambda pair: (
        pair[0].rank + pair[1].rank, -sum({axis.name for axis in pair} <= set(field.dims) for field in fields)
    ))  # fmt: skip
    return best and (best[0].name, best[1].name)


def _read_axes(
    obj: XarrayObject, dims: tuple[str, str], mapping: GridMapping | None, positions: tuple[str, str] | None
) -> Horizontal | None:
    """Return the grid of two one-dimensional coordinates; None if these only count cells."""
    y, x = dims
    systems = [coordinate_system(obj[name], mapping) for name in dims]
    system, true_kinds = systems[0], ("latitude", "longitude")
    kinds: list[Any] = ["projected" if s in PROJECTED else kind for s, kind in zip(systems, true_kinds, strict=True)]
    unit = _read_unit(obj[y], obj[x], system, mapping) if kinds != ["latitude", "projected"] else 1.0
    if kinds[1] == "longitude" and find_seam(obj[x]) is not None:
        raise GridError(
            f"coordinate {x!r}: expected longitudes in one piece, received a jump across the seam of the circle; bring "
            f"them to -180 to 180 and sort: ds.assign_coords({x}=(ds.{x} + 180) % 360 - 180).sortby({x!r})"
        )
    (y_axis, has_bounds, y_unknown), (x_axis, _, x_unknown) = (
        _read_cells(obj, name, kind, unit) for name, kind in zip(dims, kinds, strict=True)
    )
    if x_axis.periodic:
        y_axis = extend_to_poles(y_axis, has_bounds)
    grid = RectilinearGrid(y_axis, x_axis)
    axes = Horizontal(y, x, grid, unit, system=system, guess_reason=y_unknown or x_unknown)
    if system == "geographic":
        _match_positions(obj, positions, grid, None, dims)
        return axes
    if mapping is None:
        note = (
            "no grid_mapping locates the pole; no longitudes and latitudes are written"
            if system == "rotated"
            else "no grid_mapping; areas are those of the plane"
        )
        missing = next(iter(grid_mapping_names(obj, dims)), None) if system != "rotated" else None
        return replace(axes, notes=(f"{y}, {x}: {note}",), missing_mapping=missing)
    if mapping.kind is None:
        raise mapping.unreadable_error()
    mapping = _match_positions(obj, positions, grid, mapping, dims)
    if mapping is None:
        return None
    if system != "rotated":
        embed = mapping.embedding()
        grid = None if embed is None else projected_grid(grid.y, grid.x, embed, mapping.density())  # type: ignore[assignment]
        if grid is None:
            raise GridError(
                f"{y!r} and {x!r}: expected cells that grid mapping {mapping.name!r} places on the earth, received "
                "some beyond its edge or on a seam; crop the grid, or drop the grid mapping to take areas of the plane"
            )
    if positions is None or set(obj[positions[0]].dims) != set(dims):
        used_names = {*map(str, variables_of(obj)), *map(str, obj.dims)}
        pairs = (("lat", "lon"), ("latitude", "longitude"), ("true_latitude", "true_longitude"))
        positions = next((pair for pair in pairs if not used_names & set(pair)), pairs[-1])
    return replace(axes, grid=grid, positions=positions, mapping=mapping)


def _match_positions(
    obj: XarrayObject, positions: tuple[str, str] | None, grid: RectilinearGrid, mapping: GridMapping | None,
    dims: tuple[str, str],
) -> GridMapping | None:  # fmt: skip
    """Return the mapping for which axes and two-dimensional positions agree; None if axes only count cells."""
    if positions is None:
        return mapping
    position_degrees = [_degrees(obj, name, dims) for name in positions]
    best, locator = mapping, None if mapping is None else mapping.locator()
    distance = position_error(grid, position_degrees, locator)
    if distance is not None and mapping is not None:
        # A mapping without a figure of the earth uses that of its model.
        trials = [(position_error(grid, position_degrees, trial.locator()), trial) for trial in mapping.on_spheres()]
        distance, best = min([(distance, mapping), *trials], key=lambda pair: pair[0] or (0.0, 0.0))
    if distance is None:
        return best
    if mapping is not None and all(is_cell_number(obj[name]) for name in dims):
        return None
    description = f"axes {dims[0]!r}, {dims[1]!r}" + ("" if mapping is None else f" with grid mapping {mapping.name!r}")
    raise GridError(
        f"expected coordinates that agree, received {description} and positions {positions[0]!r}, "
        f"{positions[1]!r}, which put the same cells up to {distance[1] / 1000:.3g} km ({distance[0]:.2g} "
        "cells) apart; drop the wrong ones"
    )


def _read_positions(obj: XarrayObject, lat: str, lon: str) -> Horizontal:
    """Return the grid of two-dimensional positions: quadrilaterals, or a product of axes if they are one."""
    y, x = map(str, obj[lat].dims[-2:])
    rows, columns = ({n for n, d in AXIS_NAMES.items() if d == word} | {*more.split()} for word, more in
                     (("y", "j nj nlat"), ("x", "i ni nlon")))  # fmt: skip
    if y.lower() in columns and x.lower() in rows:
        y, x = x, y
    north, east = _degrees(obj, lat, (y, x)), _degrees(obj, lon, (y, x))
    try:
        corners = corners_of(obj, (lat, lon), (y, x))
        if corners is not None:
            corners = corners[0] * degrees_of_unit(obj[lat]), corners[1] * degrees_of_unit(obj[lon])
        product = find_product_grid(north, east, corners)
        grid = product if product is not None else curvilinear_grid(east, north, *(corners or ())[::-1])
    except DownscaleError as error:
        raise type(error)(f"coordinates {lat!r} and {lon!r}: {error}") from None
    axes = Horizontal(y, x, grid, positions=(lat, lon))
    if not isinstance(grid, CurvilinearGrid):
        coordinates: Any = ((lat, north[:, 0], "latitude"), (lon, east[0], "longitude")) if corners is None else ()
        reasons = (unknown_cells_reason(obj, *coordinate) for coordinate in coordinates)
        return replace(axes, guess_reason=next(filter(None, reasons), ""))
    repeat_count = count_repeated_columns(grid)
    notes = [f"{lat}, {lon}: no bounds; corners lie midway between centres"] if corners is None else []
    if repeat_count:
        notes.append(
            f"{x}: the last {repeat_count} columns are the first again; sums count them twice, so leave them out"
        )
    guess_reason = unknown_corners_reason(obj, (lat, lon)) if corners is None else ""
    return replace(axes, notes=tuple(notes), guess_reason=guess_reason)


def _degrees(obj: XarrayObject, name: str, dims: tuple[str, str]) -> NDArray[np.float64]:
    """Return two-dimensional positions in degrees, also if they are repeated along another dimension."""
    if obj[name].ndim > 2 and (dim := moving_dimension(obj[name])):
        raise GridError(
            f"coordinate {name!r}: expected positions that stay, received ones that change along {dim!r} (a moving "
            "nest, or the tiles of a mosaic); select one, or join only files whose nest rests"
        )
    values = values_of(first_map(obj[name]).transpose(*dims).variable)
    return np.asarray(values, dtype=np.float64) * degrees_of_unit(obj[name])


def _no_axes(obj: XarrayObject) -> GridError:
    for name in (name for name in obj.dims if name in obj.coords and str(name).lower() in AXIS_NAMES):
        if any(claim.systems == NO_SYSTEM for claim in claims_of(obj[name])):
            coordinate_system(obj[name], None)  # raises the error about its units
    mesh = _describe_mesh(obj)
    if mesh is not None:
        description, cells = mesh
        rows = max(round((cells / 2) ** 0.5), 1)
        return GridError(
            f"expected a grid of rows and columns, received {description}; bring it to one first, for a global one of "
            f"that resolution by: cdo remapcon,r{2 * rows}x{rows} in.nc out.nc"
        )
    sizes = ", ".join(f"{name} ({size})" for name, size in obj.sizes.items()) or "none"
    return NoAxesError(
        "expected horizontal coordinates (latitude and longitude, or projected x and y), received dimensions "
        f"{sizes}; rename them or set standard_name and units"
    )


def _describe_mesh(obj: XarrayObject) -> tuple[str, int] | None:
    """Return a description of cells that are not rows and columns, and their number, or None."""
    variables = {**dict(obj.coords), **(dict(obj.data_vars) if isinstance(obj, xr.Dataset) else {})}
    lines = [(str(v.dims[0]), position_direction(v, MESH_NAMES)) for v in variables.values() if v.ndim == 1]
    dims = [{dim for dim, direction in lines if direction == axis_direction} for axis_direction in ("y", "x")]
    latitudes = {str(n) for n in obj.dims if n in obj.coords and POSITION_NAMES.get(str(n)) == "y"}
    mesh_dims: list[Any] = sorted((dims[0] & dims[1]) - latitudes)
    is_healpix = any(v.attrs.get("grid_mapping_name") == "healpix" for v in variables.values())
    if is_healpix or mesh_dims:
        dim = mesh_dims[0] if mesh_dims else max(obj.sizes, key=lambda dim: obj.sizes[dim])
        description = "a HEALPix grid" if is_healpix else "an unstructured mesh"
        return f"{description} ({obj.sizes[dim]} cells along {str(dim)!r})", int(obj.sizes[dim])
    if any(v.attrs.get("cf_role") == "mesh_topology" or "mesh" in v.attrs for v in variables.values()):
        size = int(max(obj.sizes.values(), default=1))
        return f"an unstructured mesh ({size} cells)", size
    return None


def _read_unit(y: xr.DataArray, x: xr.DataArray, system: CoordinateSystem, mapping: GridMapping | None) -> float:
    """Return metres or degrees in the common unit of two coordinates.

    Coordinates without units are in degrees, in the unit of their coordinate system, or in metres.
    """
    units = [str(coordinate.attrs.get("units") or "") for coordinate in (y, x)]
    default = 1.0 if system != "plane" or mapping is None else mapping.axis_metres
    base: Literal["meter", "degree"] = "meter" if system == "plane" else "degree"
    sizes = {default if unit.strip().lower() in UNINFORMATIVE_UNITS else size_in(unit, base) for unit in units}
    if len(sizes) > 1 or None in sizes:
        text = "both in m or both in km" if system == "plane" else "in one unit of angle"
        raise GridError(f"expected {y.name!r} and {x.name!r} {text}, received {listing(units)}; convert them first")
    size = sizes.pop() or 1.0
    if system != "scan":
        return size
    height = None if mapping is None else mapping.height
    if height is None:
        raise GridError(
            f"{y.name!r} and {x.name!r}: expected perspective_point_height with scan angles in {units[0]!r}, received "
            "none; add it to the grid mapping"
        )
    return float(np.deg2rad(size)) * height


def _read_cells(obj: XarrayObject, name: str, kind: Kind, unit: float) -> tuple[CellAxis, bool, str]:
    """Return the cells along a coordinate, whether bounds define them, and why they are a guess."""
    centres = np.asarray(obj[name].values)
    if centres.dtype.kind not in "fiu":
        raise GridError(f"coordinate {name!r}: expected numbers, received {centres.dtype}; convert it first")
    try:
        bounds = bounds_of(obj, name)
        if bounds is not None:
            return axis_from_bounds(bounds * unit, kind, centres * unit, name), True, ""
        axis = axis_from_centres(centres * unit, kind)
    except DownscaleError as error:
        raise type(error)(f"coordinate {name!r}: {error}") from None
    return axis, False, unknown_cells_reason(obj, name, centres * unit, kind)


def as_dataset(obj: Any) -> tuple[xr.Dataset, str | None]:
    """Return ``obj`` as an arranged Dataset, and the name of its variable if it was a DataArray."""
    if isinstance(obj, xr.Dataset):
        return arrange(normalise_metadata(obj)), None
    if not isinstance(obj, xr.DataArray):
        raise InputError(f"expected an xarray Dataset or DataArray, received {type(obj).__name__}; open the file first")
    name = str(obj.name) if obj.name is not None and obj.name not in obj.coords else "field"
    return arrange(normalise_metadata(obj.to_dataset(name=name))), name


def as_array(ds: xr.Dataset, name: str, like: XarrayObject) -> xr.DataArray:
    """Return one variable as a DataArray with the name of ``like``, without references to bounds."""
    return without_lost_bounds(ds[name].rename(like.name if isinstance(like, xr.DataArray) else name))


def parse_factor(factor: Any, axes: Horizontal) -> tuple[int, int]:
    """Return the refinement of rows and columns from an int or a mapping of dimension to int."""
    if not isinstance(factor, Mapping):
        return check_factor(factor), check_factor(factor)
    unknown = [name for name in factor if name not in axes.dims]
    if unknown:
        raise ShapeError(
            f"expected {spell('factor')} for the dimensions {listing(axes.dims)}, received {listing(unknown)}"
        )
    return check_factor(factor.get(axes.y, 1)), check_factor(factor.get(axes.x, 1))


AxesKind = Literal["geographic", "rotated", "projected", "positions"]
# Maximum difference of equal positions as a fraction of a cell: datums and single precision.
MOST_SHIFT = 0.1
COPY = "copy its grid_mapping variable from the other file (ncks -A -v)"


def axes_kind(axes: Horizontal) -> AxesKind:
    """Return the reference of the numbers of the axes."""
    if isinstance(axes.grid, CurvilinearGrid):
        return "positions"
    if axes.grid.y.kind != "latitude":
        return "projected"
    return "rotated" if axes.rotated else "geographic"


def axes_words(axes: Horizontal) -> str:
    """Return a description of the rows and columns of a field, for messages."""
    kind, mapping = axes_kind(axes), axes.mapping
    if kind == "positions":
        return "two-dimensional latitudes and longitudes"
    if kind == "geographic":
        return "latitudes and longitudes"
    if kind == "rotated":
        if mapping is None or not mapping.rotated:
            return "the axes of a rotated pole without a grid_mapping"
        lat, lon = (float(mapping.cf[f"grid_north_pole_{name}"]) for name in ("latitude", "longitude"))
        return f"the axes of a pole at latitude {lat:g}, longitude {lon:g}"
    if mapping is None:
        return "metres of a projection without a grid_mapping"
    name = mapping.cf.get("grid_mapping_name")
    return "metres of a projection" + (f" ({name})" if name else "")


def same_axes(first: Horizontal, second: Horizontal) -> bool:
    """Return whether numbers of the axes of two grids have the same reference.

    Grid mappings are compared by the positions that they give, to a tenth of the smaller cell. A grid with a mapping
    equals one without only if they span one domain in cells that nest, which never happens for two projections.
    """
    if axes_kind(first) != axes_kind(second):
        return False
    if axes_kind(first) in ("geographic", "positions"):
        return True
    if first.mapping is None or second.mapping is None:
        return first.mapping is second.mapping or _same_domain(first, second)
    return _same_positions(first, second, first.mapping, second.mapping)


def _same_positions(
    first_axes: Horizontal, second_axes: Horizontal, first_mapping: GridMapping, second_mapping: GridMapping
) -> bool:
    """Return whether two grid mappings give the cells of both grids the same positions."""
    texts = [
        {key: str(np.asarray(value).tolist()) for key, value in m.attrs.items()}
        for m in (first_mapping, second_mapping)
    ]
    if texts[0] == texts[1]:
        return True
    locate, relocate = first_axes.locator, second_axes.locator
    if locate is None or relocate is None:
        return False
    step = min(
        np.abs(np.diff(axis.edges)).min() for axes in (first_axes, second_axes) for axis in (axes.grid.y, axes.grid.x)
    )
    y, x = (
        axis.edges[np.unique(np.linspace(0, axis.size, 5).astype(int))]
        for axis in (first_axes.grid.y, first_axes.grid.x)
    )
    points = np.meshgrid(x, y)
    first, second = unit_vectors(*locate(*points)), unit_vectors(*relocate(*points))
    next_points = unit_vectors(*locate(points[0] + step, points[1]))
    with np.errstate(invalid="ignore"):
        is_close = arc(first, second) <= MOST_SHIFT * arc(first, next_points)
    is_finite = np.isfinite(first + second + next_points).all(-1)
    return bool(is_finite.any() and is_close[is_finite].all())


def _same_domain(first: Horizontal, second: Horizontal) -> bool:
    """Return whether two product grids begin and end at the same numbers, with sizes that divide."""
    return all(
        max(a.size, b.size) % min(a.size, b.size) == 0
        and np.allclose(np.sort(a.edges)[[0, -1]], np.sort(b.edges)[[0, -1]], rtol=0,
                        atol=1e-3 * min(np.abs(np.diff(a.edges)).min(), np.abs(np.diff(b.edges)).min()))
        for a, b in ((first.grid.y, second.grid.y), (first.grid.x, second.grid.x))
    )  # fmt: skip


def with_named_mapping(axes: Horizontal, obj: XarrayObject, reference: Horizontal) -> Horizontal:
    """Return ``axes`` with the grid mapping of ``reference`` if a field of ``obj`` names it but lost the variable.

    A DataArray keeps only the name of its grid mapping; the variable stays in its Dataset.
    """
    if axes.mapping is not None or reference.mapping is None or axes_kind(axes) == "positions":
        return axes
    fields = getattr(obj, "data_vars", {"": obj}).values()
    mapping_names = {str(attrs.get("grid_mapping")) for v in fields for attrs in (v.attrs, v.encoding)}
    if reference.mapping.name not in mapping_names or axes_kind(axes) == "geographic":
        return axes
    return replace(axes, mapping=reference.mapping)


def require_same_axes(
    axes: Horizontal, reference: Horizontal, label: str, reference_role: str, remedy: str, noun: str = "a field"
) -> None:  # fmt: skip
    """Raise a GridError if two grids have other references; ``label`` and ``reference_role`` name both in messages."""
    if same_axes(axes, reference):
        return
    kinds = axes_kind(axes), axes_kind(reference)
    lacks_mapping = kinds[0] == kinds[1] and (axes.mapping is None) != (reference.mapping is None)
    raise GridError(
        f"{label}: expected {noun} on {axes_words(reference)}, as {reference_role} is, received one on "
        f"{axes_words(axes)}; {COPY if lacks_mapping else remedy}"
    )
