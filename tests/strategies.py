"""Draws of grids, masks, factors and cuts: every convention that files come in (hypothesis)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from hypothesis import strategies as st
from result_grids import LAEA, LCC, ROTATED, STEREO
from sample_fields import ATTRS

from downscale.grid.axis import CellAxis, axis_from_centres, extend_to_poles
from downscale.grid.latlon import RectilinearGrid

factors = st.integers(1, 5)
factor_pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
seeds = st.integers(0, 2**32 - 1)
orders = st.sampled_from([0.75, 1.0, 1.25, 1.75, 2.0, 2.25, 3.0])
odd_taps = st.sampled_from([1, 3, 5, 7, 9])


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def irregular(rng: np.random.Generator, cells: int, low: float, high: float) -> np.ndarray:
    """Edges from low to high whose widths differ by up to a factor of five."""
    widths = rng.uniform(0.2, 1.0, cells)
    inner = low + (high - low) * np.cumsum(widths)[:-1] / widths.sum()
    return np.concatenate([[low], inner, [high]])


def gaussian_latitudes(cells: int) -> CellAxis:
    """Rows at the roots of a Legendre polynomial, as spectral models have them, with their edges at the poles."""
    roots = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(cells)[0]))
    return extend_to_poles(axis_from_centres(roots, "latitude"))


@st.composite
def latitudes(draw: st.DrawFn, min_cells: int = 1, max_cells: int = 10) -> CellAxis:
    """Regional, global, node-registered (a row centre on each pole), Gaussian or irregular; in both orders."""
    cells, rng = draw(st.integers(min_cells, max_cells)), generator(draw(seeds))
    kind = draw(st.sampled_from(["regional", "global", "nodes", "gaussian", "irregular"]))
    if kind == "nodes" and cells >= 2:
        axis = axis_from_centres(np.linspace(-90, 90, cells), "latitude")
    elif kind == "gaussian" and cells >= 3:
        axis = gaussian_latitudes(cells)
    elif kind == "irregular":
        low = rng.uniform(-90, 60)
        axis = CellAxis(irregular(rng, cells, low, rng.uniform(low + 5, 90)), "latitude")
    elif kind == "regional":
        low = draw(st.sampled_from([-90.0, -60.0, 10.5, 45.0]))
        axis = CellAxis(low + np.arange(cells + 1) * min(2.5, (90 - low) / cells), "latitude")
    else:
        axis = CellAxis(np.linspace(-90, 90, cells + 1), "latitude")
    return axis if draw(st.booleans()) else axis.reverse()


@st.composite
def longitudes(draw: st.DrawFn, min_cells: int = 1, max_cells: int = 12) -> CellAxis:
    """Closed circles from 0, from -180, from half a cell or from anywhere; regions; irregular; in both orders."""
    cells, rng = draw(st.integers(min_cells, max_cells)), generator(draw(seeds))
    west = draw(st.sampled_from([0.0, -180.0, -180.0 / cells, float(rng.uniform(-180, 180))]))
    closed = draw(st.booleans())
    span = 360.0 if closed else float(rng.uniform(5, 300))
    if draw(st.booleans()):
        edges = np.linspace(west, west + span, cells + 1)
    else:
        edges = irregular(rng, cells, west, west + span)
    axis = CellAxis(edges, "longitude")
    return axis if draw(st.booleans()) else axis.reverse()


@st.composite
def projected_axes(draw: st.DrawFn, min_cells: int = 1, max_cells: int = 10) -> CellAxis:
    """Metres from any origin, equal or irregular, in both orders."""
    cells, rng = draw(st.integers(min_cells, max_cells)), generator(draw(seeds))
    low = draw(st.sampled_from([0.0, -1.5e6, 6.1e6]))
    step = draw(st.sampled_from([90.0, 1000.0, 12_500.0]))
    regular = low + step * np.arange(cells + 1)
    edges = regular if draw(st.booleans()) else irregular(rng, cells, low, low + step * cells)
    axis = CellAxis(edges, "projected")
    return axis if draw(st.booleans()) else axis.reverse()


@st.composite
def grids(draw: st.DrawFn, min_cells: int = 1, max_cells: int = 9) -> RectilinearGrid:
    if draw(st.integers(0, 3)):
        return RectilinearGrid(draw(latitudes(min_cells, max_cells)), draw(longitudes(min_cells, max_cells)))
    return RectilinearGrid(draw(projected_axes(min_cells, max_cells)), draw(projected_axes(min_cells, max_cells)))


def axes(min_cells: int = 1, max_cells: int = 10) -> st.SearchStrategy[CellAxis]:
    return st.one_of(
        latitudes(min_cells, max_cells), longitudes(min_cells, max_cells), projected_axes(min_cells, max_cells)
    )


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    """True where valid: none, some, most or all of the cells."""
    share = draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    return generator(draw(seeds)).uniform(size=shape) < share


@st.composite
def cuttings(draw: st.DrawFn, size: int) -> list[int]:
    """Sizes of adjoining blocks that make up ``size`` cells."""
    sizes: list[int] = []
    while sum(sizes) < size:
        sizes.append(draw(st.integers(1, size - sum(sizes))))
    return sizes

# Whole Datasets, as files have them


@dataclass(frozen=True)
class Place:
    """Where a coarse field lies: the dimensions of rows and columns with their sizes, coordinates, grid mapping."""

    kind: str
    sizes: dict[str, int]
    coords: dict[str, xr.Variable] = field(repr=False)
    mapping: dict[str, Any] | None = None


@dataclass(frozen=True)
class Sample:
    """A coarse Dataset with one field "v", and what a test may want to know of it."""

    ds: xr.Dataset
    y: str
    x: str
    kind: str
    content: str

    @property
    def extensive(self) -> bool:
        return self.content == "amount"

    @property
    def single(self) -> bool:
        return self.ds.v.dtype == "float32"


CALENDARS = ("noleap", "360_day", "standard", "proleptic_gregorian")
CONTENTS: dict[str, dict[str, str]] = {
    "temperature": {"standard_name": "air_temperature", "units": "K"},
    "rain": {"standard_name": "precipitation_flux", "units": "kg m-2 s-1"},
    "wind": {"standard_name": "eastward_wind", "units": "m s-1"},
    "cloud": {"standard_name": "cloud_area_fraction", "units": "1"},
    "amount": {"long_name": "biomass", "units": "kg", "cell_methods": "area: sum"},
}


def on_ellipsoid(mapping: dict[str, Any]) -> dict[str, Any]:
    """By the name of the datum, which PROJ looks up a hundred times faster than it searches one by its radius."""
    return {**{key: value for key, value in mapping.items() if key != "earth_radius"}, "horizontal_datum_name": "WGS84"}


MAPPINGS = {
    "equal area": on_ellipsoid(LAEA), "conic": on_ellipsoid(LCC), "stereographic": on_ellipsoid(STEREO), "none": None
}  # fmt: skip
# Where a projection is at home: the first edge of rows and of columns, and the widest region, in metres.
HOMES = {
    "equal area": (2.5e6, 3.7e6, 2e6), "conic": (-1e6, -1.5e6, 3e6), "stereographic": (-1.3e6, -9e5, 3e6),
    "none": (0.0, 5e5, 3e6),
}  # fmt: skip


def wrapped(degrees: np.ndarray, branch: str) -> np.ndarray:
    """Longitudes in a convention of files."""
    if branch == "running":
        return degrees
    return degrees % 360 if branch == "0-360" else (degrees + 180) % 360 - 180


branches = st.sampled_from(["running", "0-360", "+-180"])


def line_coords(
    name: str, centres: np.ndarray, pairs: np.ndarray | None, attrs: dict[str, str]
) -> dict[str, xr.Variable]:
    """A coordinate of one dimension, with its bounds where there are any."""
    if pairs is None:
        return {name: xr.Variable(name, centres, attrs)}
    bounds = f"{name}_bnds"
    return {
        name: xr.Variable(name, centres, {**attrs, "bounds": bounds}),
        bounds: xr.Variable((name, "bnds"), pairs),
    }


def pairs_of(axis: CellAxis) -> np.ndarray:
    return np.stack([axis.edges[:-1], axis.edges[1:]], axis=1)


@st.composite
def latlon_places(draw: st.DrawFn, closed: bool | None = None) -> Place:
    """Regular, Gaussian, node-registered or irregular; any branch of longitude; single or double; bounds or none."""
    lat, lon = draw(latitudes(3, 7)), draw(longitudes(3, 8).filter(lambda axis: closed in (None, axis.periodic)))
    names = draw(st.sampled_from([("lat", "lon"), ("latitude", "longitude"), ("y", "x")]))
    centres, branch, kind = lat.centres.copy(), draw(branches), draw(st.sampled_from(["f8", "f8", "f4"]))
    if draw(st.booleans()):
        # The outer rows are named after the poles that they touch.
        polar = np.abs(lat.edges[[0, -1]]) == 90
        centres[[0, -1]] = np.where(polar, lat.edges[[0, -1]], centres[[0, -1]])
    # Without bounds, the cells of unequal columns need not fit into a circle.
    bare = draw(st.booleans()), np.ptp(np.diff(lon.edges)) < 1e-6 and draw(st.booleans())
    north = None if bare[0] else pairs_of(lat).astype(kind)
    east = None if bare[1] else wrapped(pairs_of(lon), draw(st.sampled_from(["running", branch]))).astype(kind)
    coords = {
        **line_coords(names[0], centres.astype(kind), north, ATTRS["latitude"]),
        **line_coords(names[1], wrapped(lon.centres, branch).astype(kind), east, ATTRS["longitude"]),
    }
    return Place("latlon", {names[0]: lat.size, names[1]: lon.size}, coords)


@st.composite
def rotated_places(draw: st.DrawFn) -> Place:
    """A rotated pole, with its grid mapping or without."""
    rng = generator(draw(seeds))
    coords, sizes = {}, {}
    for name, word, low in (("rlat", "grid_latitude", -20.0), ("rlon", "grid_longitude", -30.0)):
        size, bare = draw(st.integers(3, 7)), draw(st.booleans())
        edges = low + 4.0 * np.arange(size + 1) if draw(st.booleans()) else irregular(rng, size, low, low + 30)
        axis = CellAxis(edges if draw(st.booleans()) else edges[::-1], "projected")
        attrs = {"standard_name": word, "units": "degrees"}
        coords.update(line_coords(name, axis.centres, None if bare else pairs_of(axis), attrs))
        sizes[name] = size
    return Place("rotated", sizes, coords, ROTATED if draw(st.booleans()) else None)


@st.composite
def projected_places(draw: st.DrawFn, mapping: str | None = None) -> Place:
    """Metres or kilometres of an equal-area, a conic, a polar or an unknown projection."""
    name = mapping or draw(st.sampled_from(sorted(MAPPINGS)))
    rng, unit = generator(draw(seeds)), draw(st.sampled_from(["m", "km"]))
    south, west, widest = HOMES[name]
    width = draw(st.sampled_from([7e3, 4e5, widest]))
    coords, sizes = {}, {}
    for axis_name, low in (("y", south), ("x", west)):
        size, bare = draw(st.integers(3, 7)), draw(st.booleans())
        regular = low + width * np.arange(size + 1) / size
        edges = regular if draw(st.booleans()) else irregular(rng, size, low, low + width)
        axis = CellAxis((edges if draw(st.booleans()) else edges[::-1]) / (1000 if unit == "km" else 1), "projected")
        attrs = {**ATTRS[f"projected-{axis_name}"], "units": unit}
        coords.update(line_coords(axis_name, axis.centres, None if bare else pairs_of(axis), attrs))
        sizes[axis_name] = size
    return Place("projected", sizes, coords, MAPPINGS[name])


def mesh_nodes(rng: np.random.Generator, rows: int, columns: int, closed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes of the nodes of a sheared and shaken mesh: a region, or a belt around the earth."""
    y, x = np.mgrid[0 : rows + 1, 0 : columns + 1].astype(float)
    shake = rng.uniform(-0.2, 0.2, (2, *y.shape))
    west = rng.uniform(-180, 180)
    if not closed:
        size = rng.choice([0.1, 2.0, 5.0])
        return west + size * (x + 0.3 * y + shake[0]), 20 + size * (y - 0.2 * x + shake[1])
    shake[:, :, -1] = shake[:, :, 0]
    lon = west + 360 / columns * (x + 0.2 * y + shake[0])
    return lon, -60 + 120 / rows * y + 5 * np.sin(2 * np.pi * x / columns) + 5 * shake[1]


@st.composite
def curvilinear_places(draw: st.DrawFn) -> Place:
    """Two-dimensional longitudes and latitudes, with corners or without, of a region or closed around the earth."""
    rows, columns, closed = draw(st.integers(3, 6)), draw(st.integers(4, 7)), draw(st.booleans())
    nodes = mesh_nodes(generator(draw(seeds)), rows, columns, closed)
    dims = draw(st.sampled_from([("j", "i"), ("y", "x"), ("nlat", "nlon")]))
    names = draw(st.sampled_from([("lon", "lat"), ("nav_lon", "nav_lat"), ("TLONG", "TLAT")]))
    branch, bare = draw(branches), draw(st.booleans())
    coords = {}
    for name, node, word in zip(names, nodes, ("longitude", "latitude"), strict=True):
        ring = np.stack([node[:-1, :-1], node[:-1, 1:], node[1:, 1:], node[1:, :-1]], axis=-1)
        middle = ring.mean(axis=-1)
        if word == "longitude":
            middle, ring = wrapped(middle, branch), wrapped(ring, branch)
        attrs = {**ATTRS[word]} if bare else {**ATTRS[word], "bounds": f"{name}_bounds"}
        coords[name] = xr.Variable(dims, middle, attrs)
        if not bare:
            coords[f"{name}_bounds"] = xr.Variable((*dims, "nv"), ring)
    return Place("curvilinear", {dims[0]: rows, dims[1]: columns}, coords)


def places() -> st.SearchStrategy[Place]:
    return st.one_of(latlon_places(), rotated_places(), projected_places(), curvilinear_places())


def contents_of(rng: np.random.Generator, content: str, shape: tuple[int, ...]) -> np.ndarray:
    """Rough values of a kind: of one sign or two, dry or saturated in many cells."""
    rough = rng.gamma(0.7, 8.0, shape)
    return {
        "temperature": 270 + rough,
        "rain": 1e-5 * np.maximum(rough - 4, 0),
        "wind": rng.normal(0, 8, shape),
        "cloud": np.clip(rng.uniform(-0.5, 1.5, shape), 0, 1),
        "amount": 1e9 * np.maximum(rough - 4, 0),
    }[content]


def gaps_in(rng: np.random.Generator, kind: str, sizes: dict[str, int], flat: tuple[str, str]) -> xr.DataArray:
    """Where values are missing: nowhere, in the same cells of all maps, anywhere, or in whole maps."""
    dims = {"static": flat, "varying": tuple(sizes), "maps": tuple(d for d in sizes if d not in flat), "none": ()}[kind]
    share = 0.0 if kind == "none" else float(rng.choice([0.1, 0.4]))
    return xr.DataArray(rng.uniform(size=tuple(sizes[d] for d in dims)) < share, dims=dims)


@st.composite
def beside(draw: st.DrawFn) -> dict[str, xr.Variable]:
    """Times of a calendar, members and levels, or some of these."""
    made = {}
    if draw(st.booleans()):
        begin = xr.date_range("2000-01-01", periods=draw(st.integers(1, 3)), freq="MS", calendar=draw(calendars),
                              use_cftime=True)  # fmt: skip
        made["time"] = xr.Variable("time", begin, {"standard_name": "time"})
    if draw(st.integers(0, 3)) == 0:
        made["member"] = xr.Variable("member", np.arange(draw(st.integers(1, 2))), {"standard_name": "realization"})
    if draw(st.integers(0, 3)) == 0:
        made["plev"] = xr.Variable("plev", [85000.0, 50000.0], {"standard_name": "air_pressure", "units": "Pa"})
    return made


calendars = st.sampled_from(CALENDARS)


@st.composite
def samples(
    draw: st.DrawFn, where: st.SearchStrategy[Place] | None = None, contents: tuple[str, ...] = tuple(CONTENTS),
    gaps: tuple[str, ...] = ("none", "static", "varying", "maps"), dtypes: tuple[str, ...] = ("float32", "float64"),
) -> Sample:  # fmt: skip
    """A coarse Dataset in any convention, its dimensions in any order."""
    place, others = draw(places() if where is None else where), draw(beside())
    content, rng = draw(st.sampled_from(contents)), generator(draw(seeds))
    sizes = {**{name: v.size for name, v in others.items()}, **place.sizes}
    order = draw(st.permutations(list(sizes)))
    rows, columns = place.sizes
    flat = (rows, columns)
    values = xr.DataArray(contents_of(rng, content, tuple(sizes[d] for d in order)), dims=order)
    missing = gaps_in(rng, draw(st.sampled_from(gaps)), sizes, flat)
    values = values.where(~missing).transpose(*order).astype(draw(st.sampled_from(dtypes)))
    values.attrs.update(CONTENTS[content])
    mapping = {}
    if place.mapping is not None:
        mapping = {"crs": xr.Variable((), np.int32(0), place.mapping)}
        values.attrs["grid_mapping"] = "crs"
    ds = xr.Dataset({"v": values.variable}, {**others, **place.coords, **mapping})
    return Sample(ds, *flat, place.kind, content)


@st.composite
def chunkings(draw: st.DrawFn, ds: xr.Dataset) -> dict[str, tuple[int, ...]]:
    """Blocks of any sizes along every dimension of the field."""
    return {str(dim): tuple(draw(cuttings(ds.sizes[dim]))) for dim in ds.v.dims}
