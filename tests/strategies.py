"""Draws of grids, masks, factors and cuts: every convention that files come in (hypothesis)."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from downscale.grid.axis import CellAxis, axis_from_centres, draw_to_poles
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
    return draw_to_poles(axis_from_centres(roots, "latitude"))


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
