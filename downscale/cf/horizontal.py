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
    unknown_cells,
    unknown_corners,
    variables_of,
    without_lost_bounds,
)
from downscale.cf.dates import values_of
from downscale.cf.evidence import (
    AXIS_NAMES,
    COMPASS,
    NOTHING,
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
    is_mapping,
    mapping_of,
    named_mappings,
)
from downscale.cf.units import MUTE, size_in
from downscale.errors import DownscaleError, GridError, InputError, ShapeError, called, listing
from downscale.grid.axis import (
    CellAxis,
    Kind,
    axis_from_bounds,
    axis_from_centres,
    check_factor,
    draw_to_poles,
)
from downscale.grid.curvilinear import CurvilinearGrid, curvilinear_grid, repeated_columns
from downscale.grid.latlon import RectilinearGrid, product_of, projected_grid
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
    planes: tuple[str, str] | None = None  # two-dimensional latitudes and longitudes of the object, or of a new grid
    mapping: GridMapping | None = None  # None if the axes are latitude and longitude
    notes: tuple[str, ...] = ()  # for the plan
    system: CoordinateSystem = "geographic"
    missing_mapping: str | None = None  # the grid mapping that fields on axes in metres name, if it is not there
    bounds: Mapping[str, str] = field(default_factory=dict)  # names of bounds, by those of axes and positions
    unknown: str = ""  # why edges midway between centres are a guess, since bounds are lost; empty if they are not

    @property
    def rotated(self) -> bool:
        """Whether the axes are degrees about a rotated pole, with or without a grid mapping that defines it."""
        return self.system == "rotated"

    @property
    def dims(self) -> tuple[str, str]:
        """Names of the row and column dimension."""
        return self.y, self.x

    @property
    def replaced(self) -> set[str]:
        """Names of axes, positions, their bounds and cell areas, which a new grid creates anew."""
        return {*self.dims, *(self.planes or ()), *self.bounds.values(), AREA}

    def bounds_of(self, name: str) -> str:
        """Return the name of the bounds of an axis or of positions, present or to be created."""
        return self.bounds.get(name, f"{name}_bnds")

    @property
    def locator(self) -> Locator | None:
        """The function from axes to longitudes and latitudes, or None if the axes are these."""
        return None if self.mapping is None else self.mapping.locator()


def warn_of_plane(where: Horizontal) -> Horizontal:
    """Warn that areas are those of the plane if a field names a grid mapping that is missing; return the axes."""
    if where.missing_mapping is not None:
        warnings.warn(
            f"{where.y!r} and {where.x!r}: the grid mapping {where.missing_mapping!r} that fields name is not there; "
            'areas are those of the plane. Keep it with the field: open the file with decode_coords="all"',
            UserWarning, stacklevel=3,
        )  # fmt: skip
    return where


def horizontal(obj: XarrayObject, guess: bool = False) -> Horizontal:
    """Return the horizontal axes or positions of a Dataset or DataArray, with their cells.

    With ``guess``, edges of cells with lost bounds may be midway between centres: for plots, and for code that uses
    only the dimensions.
    """
    grids = _SHARED.get()
    where = parse_horizontal(obj) if grids is None else grids.horizontal(obj)
    if not guess:
        require_known(where.unknown)
    return where


class ParsedGrids:
    """The grids of the objects of one run, found again by the metadata and the values that define them."""

    def __init__(self) -> None:
        self._grids: dict[str, list[tuple[list[str], str, Horizontal]]] = {}

    def horizontal(self, obj: XarrayObject) -> Horizontal:
        """Return the axes or positions of an object, parsed unless those of an equal object are known."""
        entries = self._grids.setdefault(_metadata_token(obj), [])
        for names, values, where in entries:
            if values == _values_token(obj, names):
                return where
        where = parse_horizontal(obj)
        found = dict.fromkeys((*where.dims, *(find_positions(obj) or ()), *where.bounds.values()))
        names = [name for name in found if name in variables_of(obj)]
        entries.append((names, _values_token(obj, names), where))
        return where


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
    """Return the axes or positions of an object; their cells may be a guess (see ``Horizontal.unknown``)."""
    axes, planes, where = _find_axes(obj), find_positions(obj), None
    if axes is not None:
        is_located = planes is not None and set(obj[planes[0]].dims[-2:]) == set(axes)
        # True degrees need no coordinate system in a text attribute.
        is_true = any((claim.systems or PROJECTED) <= COMPASS for claim in claims_of(obj[axes[0]]))
        mapping = mapping_of(obj, axes, text=not is_true)
        if mapping is not None or not (is_located and all(is_cell_number(obj[name]) for name in axes)):
            where = _read_axes(obj, axes, mapping, planes if is_located else None)
    if where is None:
        if planes is None:
            raise _no_axes(obj)
        where = _read_positions(obj, *planes)
    names = [name for name in (*where.dims, *(where.planes or ())) if name in variables_of(obj)]
    return replace(where, bounds={name: bounds_name(obj, name) for name in names})


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
    obj: XarrayObject, dims: tuple[str, str], mapping: GridMapping | None, planes: tuple[str, str] | None
) -> Horizontal | None:
    """Return the grid of two one-dimensional coordinates; None if these only count cells."""
    y, x = dims
    systems = [coordinate_system(obj[name], mapping) for name in dims]
    system, straight = systems[0], ("latitude", "longitude")
    kinds: list[Any] = ["projected" if s in PROJECTED else kind for s, kind in zip(systems, straight, strict=True)]
    unit = _unit(obj[y], obj[x], system, mapping) if kinds != ["latitude", "projected"] else 1.0
    if kinds[1] == "longitude" and find_seam(obj[x]) is not None:
        raise GridError(
            f"coordinate {x!r}: expected longitudes in one piece, received a jump across the seam of the circle; bring "
            f"them to -180 to 180 and sort: ds.assign_coords({x}=(ds.{x} + 180) % 360 - 180).sortby({x!r})"
        )
    (y_axis, has_bounds, y_unknown), (x_axis, _, x_unknown) = (
        _cells(obj, name, kind, unit) for name, kind in zip(dims, kinds, strict=True)
    )
    if x_axis.periodic:
        y_axis = draw_to_poles(y_axis, has_bounds)
    grid = RectilinearGrid(y_axis, x_axis)
    where = Horizontal(y, x, grid, unit, system=system, unknown=y_unknown or x_unknown)
    if system == "geographic":
        _match_positions(obj, planes, grid, None, dims)
        return where
    if mapping is None:
        note = (
            "no grid_mapping locates the pole; no longitudes and latitudes are written"
            if system == "rotated"
            else "no grid_mapping; areas are those of the plane"
        )
        missing = next(iter(named_mappings(obj, dims)), None) if system != "rotated" else None
        return replace(where, notes=(f"{y}, {x}: {note}",), missing_mapping=missing)
    if mapping.kind is None:
        raise mapping.refusal()
    mapping = _match_positions(obj, planes, grid, mapping, dims)
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
    if planes is None or set(obj[planes[0]].dims) != set(dims):
        used_names = {*map(str, variables_of(obj)), *map(str, obj.dims)}
        pairs = (("lat", "lon"), ("latitude", "longitude"), ("true_latitude", "true_longitude"))
        planes = next((pair for pair in pairs if not used_names & set(pair)), pairs[-1])
    return replace(where, grid=grid, planes=planes, mapping=mapping)


def _match_positions(
    obj: XarrayObject, planes: tuple[str, str] | None, grid: RectilinearGrid, mapping: GridMapping | None,
    dims: tuple[str, str],
) -> GridMapping | None:  # fmt: skip
    """Return the mapping for which axes and two-dimensional positions agree; None if axes only count cells."""
    if planes is None:
        return mapping
    places = [_degrees(obj, name, dims) for name in planes]
    best, locator = mapping, None if mapping is None else mapping.locator()
    off = position_error(grid, places, locator)
    if off is not None and mapping is not None:
        # A mapping without a figure of the earth uses that of its model.
        trials = [(position_error(grid, places, trial.locator()), trial) for trial in mapping.on_spheres()]
        off, best = min([(off, mapping), *trials], key=lambda pair: pair[0] or (0.0, 0.0))
    if off is None:
        return best
    if mapping is not None and all(is_cell_number(obj[name]) for name in dims):
        return None
    what = f"axes {dims[0]!r}, {dims[1]!r}" + ("" if mapping is None else f" with grid mapping {mapping.name!r}")
    raise GridError(
        f"expected coordinates that agree, received {what} and positions {planes[0]!r}, {planes[1]!r}, which put the "
        f"same cells up to {off[1] / 1000:.3g} km ({off[0]:.2g} cells) apart; drop the wrong ones"
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
        product = product_of(north, east, corners)
        grid = product if product is not None else curvilinear_grid(east, north, *(corners or ())[::-1])
    except DownscaleError as error:
        raise type(error)(f"coordinates {lat!r} and {lon!r}: {error}") from None
    where = Horizontal(y, x, grid, planes=(lat, lon))
    if not isinstance(grid, CurvilinearGrid):
        lines: Any = ((lat, north[:, 0], "latitude"), (lon, east[0], "longitude")) if corners is None else ()
        return replace(where, unknown=next(filter(None, (unknown_cells(obj, *line) for line in lines)), ""))
    repeated = repeated_columns(grid)
    notes = [f"{lat}, {lon}: no bounds; corners lie midway between centres"] if corners is None else []
    if repeated:
        notes.append(f"{x}: the last {repeated} columns are the first again; sums count them twice, so leave them out")
    unknown = unknown_corners(obj, (lat, lon)) if corners is None else ""
    return replace(where, notes=tuple(notes), unknown=unknown)


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
        if any(claim.systems == NOTHING for claim in claims_of(obj[name])):
            coordinate_system(obj[name], None)  # raises the error about its units
    mesh = _mesh(obj)
    if mesh is not None:
        what, cells = mesh
        rows = max(round((cells / 2) ** 0.5), 1)
        return GridError(
            f"expected a grid of rows and columns, received {what}; bring it to one first, for a global one of that "
            f"resolution by: cdo remapcon,r{2 * rows}x{rows} in.nc out.nc"
        )
    sizes = ", ".join(f"{name} ({size})" for name, size in obj.sizes.items()) or "none"
    return NoAxesError(
        "expected horizontal coordinates (latitude and longitude, or projected x and y), received dimensions "
        f"{sizes}; rename them or set standard_name and units"
    )


def _mesh(obj: XarrayObject) -> tuple[str, int] | None:
    """Return a description of cells that are not rows and columns, and their number, or None."""
    variables = {**dict(obj.coords), **(dict(obj.data_vars) if isinstance(obj, xr.Dataset) else {})}
    lines = [(str(v.dims[0]), position_direction(v, MESH_NAMES)) for v in variables.values() if v.ndim == 1]
    dims = [{dim for dim, direction in lines if direction == wanted} for wanted in ("y", "x")]
    latitudes = {str(n) for n in obj.dims if n in obj.coords and POSITION_NAMES.get(str(n)) == "y"}
    shared: list[Any] = sorted((dims[0] & dims[1]) - latitudes)
    is_healpix = any(v.attrs.get("grid_mapping_name") == "healpix" for v in variables.values())
    if is_healpix or shared:
        dim = shared[0] if shared else max(obj.sizes, key=lambda dim: obj.sizes[dim])
        what = "a HEALPix grid" if is_healpix else "an unstructured mesh"
        return f"{what} ({obj.sizes[dim]} cells along {str(dim)!r})", int(obj.sizes[dim])
    if any(v.attrs.get("cf_role") == "mesh_topology" or "mesh" in v.attrs for v in variables.values()):
        size = int(max(obj.sizes.values(), default=1))
        return f"an unstructured mesh ({size} cells)", size
    return None


def _unit(y: xr.DataArray, x: xr.DataArray, system: CoordinateSystem, mapping: GridMapping | None) -> float:
    """Return metres or degrees in the common unit of two coordinates.

    Coordinates without units are in degrees, in the unit of their coordinate system, or in metres.
    """
    units = [str(coordinate.attrs.get("units") or "") for coordinate in (y, x)]
    default = 1.0 if system != "plane" or mapping is None else mapping.axis_metres
    base: Literal["meter", "degree"] = "meter" if system == "plane" else "degree"
    sizes = {default if unit.strip().lower() in MUTE else size_in(unit, base) for unit in units}
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


def _cells(obj: XarrayObject, name: str, kind: Kind, unit: float) -> tuple[CellAxis, bool, str]:
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
    return axis, False, unknown_cells(obj, name, centres * unit, kind)


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


def parse_factor(factor: Any, where: Horizontal) -> tuple[int, int]:
    """Return the refinement of rows and columns from an int or a mapping of dimension to int."""
    if not isinstance(factor, Mapping):
        return check_factor(factor), check_factor(factor)
    unknown = [name for name in factor if name not in where.dims]
    if unknown:
        raise ShapeError(
            f"expected {called('factor')} for the dimensions {listing(where.dims)}, received {listing(unknown)}"
        )
    return check_factor(factor.get(where.y, 1)), check_factor(factor.get(where.x, 1))


AxesKind = Literal["geographic", "rotated", "projected", "positions"]
# Maximum difference of equal positions as a fraction of a cell: datums and single precision.
MOST_SHIFT = 0.1
COPY = "copy its grid_mapping variable from the other file (ncks -A -v)"


def axes_kind(where: Horizontal) -> AxesKind:
    """Return the reference of the numbers of the axes."""
    if isinstance(where.grid, CurvilinearGrid):
        return "positions"
    if where.grid.y.kind != "latitude":
        return "projected"
    return "rotated" if where.rotated else "geographic"


def axes_words(where: Horizontal) -> str:
    """Return a description of the rows and columns of a field, for messages."""
    kind, mapping = axes_kind(where), where.mapping
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


def same_axes(one: Horizontal, other: Horizontal) -> bool:
    """Return whether numbers of the axes of two grids have the same reference.

    Grid mappings are compared by the positions that they give, to a tenth of the smaller cell. A grid with a mapping
    equals one without only if they span one domain in cells that nest, which never happens for two projections.
    """
    if axes_kind(one) != axes_kind(other):
        return False
    if axes_kind(one) in ("geographic", "positions"):
        return True
    if one.mapping is None or other.mapping is None:
        return one.mapping is other.mapping or _one_domain(one, other)
    return _one_place(one, other, one.mapping, other.mapping)


def _one_place(one: Horizontal, other: Horizontal, mine: GridMapping, theirs: GridMapping) -> bool:
    """Return whether two grid mappings give the cells of both grids the same positions."""
    texts = [{key: str(np.asarray(value).tolist()) for key, value in m.attrs.items()} for m in (mine, theirs)]
    if texts[0] == texts[1]:
        return True
    locate, relocate = one.locator, other.locator
    if locate is None or relocate is None:
        return False
    step = min(np.abs(np.diff(axis.edges)).min() for where in (one, other) for axis in (where.grid.y, where.grid.x))
    y, x = (axis.edges[np.unique(np.linspace(0, axis.size, 5).astype(int))] for axis in (one.grid.y, one.grid.x))
    points = np.meshgrid(x, y)
    first, second = unit_vectors(*locate(*points)), unit_vectors(*relocate(*points))
    next_points = unit_vectors(*locate(points[0] + step, points[1]))
    with np.errstate(invalid="ignore"):
        is_close = arc(first, second) <= MOST_SHIFT * arc(first, next_points)
    is_finite = np.isfinite(first + second + next_points).all(-1)
    return bool(is_finite.any() and is_close[is_finite].all())


def _one_domain(one: Horizontal, other: Horizontal) -> bool:
    """Return whether two product grids begin and end at the same numbers, with sizes that divide."""
    return all(
        max(a.size, b.size) % min(a.size, b.size) == 0
        and np.allclose(np.sort(a.edges)[[0, -1]], np.sort(b.edges)[[0, -1]], rtol=0,
                        atol=1e-3 * min(np.abs(np.diff(a.edges)).min(), np.abs(np.diff(b.edges)).min()))
        for a, b in ((one.grid.y, other.grid.y), (one.grid.x, other.grid.x))
    )  # fmt: skip


def with_named_mapping(where: Horizontal, obj: XarrayObject, beside: Horizontal) -> Horizontal:
    """Return ``where`` with the grid mapping of ``beside`` if a field of ``obj`` names it but lost the variable.

    A DataArray keeps only the name of its grid mapping; the variable stays in its Dataset.
    """
    if where.mapping is not None or beside.mapping is None or axes_kind(where) == "positions":
        return where
    fields = getattr(obj, "data_vars", {"": obj}).values()
    mapping_names = {str(attrs.get("grid_mapping")) for v in fields for attrs in (v.attrs, v.encoding)}
    if beside.mapping.name not in mapping_names or axes_kind(where) == "geographic":
        return where
    return replace(where, mapping=beside.mapping)


def require_same_axes(
    given: Horizontal, wanted: Horizontal, what: str, role: str, remedy: str, noun: str = "a field"
) -> None:  # fmt: skip
    """Raise a GridError if two grids have other references; ``what`` and ``role`` name both in the message."""
    if same_axes(given, wanted):
        return
    kinds = axes_kind(given), axes_kind(wanted)
    lacks_mapping = kinds[0] == kinds[1] and (given.mapping is None) != (wanted.mapping is None)
    raise GridError(
        f"{what}: expected {noun} on {axes_words(wanted)}, as {role} is, received one on {axes_words(given)}; "
        f"{COPY if lacks_mapping else remedy}"
    )
