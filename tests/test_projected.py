"""Areas of projected cells: those on the earth, whatever the projection, and parts that add up to the whole."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pyproj
import pytest
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from strategies import factor_pairs

import downscale
from downscale.cf.horizontal import horizontal
from downscale.cf.mapping import GridMapping
from downscale.fields.aggregate import Aggregation
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import AreaDensity, ProjectedGrid, RectilinearGrid, projected_grid

PROJECTIONS = {
    "conic": "+proj=lcc +lat_1=33 +lat_2=45 +lat_0=39 +lon_0=-96 +ellps=WGS84",
    "north pole": "+proj=stere +lat_0=90 +lat_ts=70 +lon_0=-45 +ellps=WGS84",
    "south pole": "+proj=stere +lat_0=-90 +lat_ts=-71 +R=6371229",
    "mercator": "+proj=merc +lat_ts=20 +ellps=WGS84",
    "transverse": "+proj=tmerc +lat_0=49 +lon_0=-2 +k=0.9996 +x_0=400000 +y_0=-100000 +ellps=airy",
}
EQUAL_AREA = ("+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80", "+proj=aea +lat_1=-26 +lat_2=-29 +lon_0=153 +ellps=GRS80")


def projected(text: str, half: float = 2.5e6, cells: int = 50) -> RectilinearGrid:
    axis = CellAxis(np.linspace(-half, half, cells + 1), "projected")
    mapping = GridMapping("crs", {"proj4": text})
    grid = projected_grid(axis.reverse(), axis, mapping.embedding(), mapping.density())
    assert grid is not None
    return grid


def geodesic_area(grid: RectilinearGrid, crs: pyproj.CRS, row: int, column: int, points: int = 400) -> float:
    """Area on the ellipsoid of one cell whose sides are given by many points."""
    y, x, s = grid.y.edges[row : row + 2], grid.x.edges[column : column + 2], np.linspace(0, 1, points + 1)[:-1]
    ring = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    at = np.concatenate([a + s[:, None] * (b - a) for a, b in pairwise(ring)])
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    lon, lat = to_degrees.transform(x[0] + (x[1] - x[0]) * at[:, 0], y[0] + (y[1] - y[0]) * at[:, 1])
    return abs(crs.get_geod().polygon_area_perimeter(lon, lat)[0])


@pytest.mark.parametrize("text", PROJECTIONS.values(), ids=PROJECTIONS)
def test_areas_are_those_of_geodesic_polygons(text):
    grid = projected(text)
    assert isinstance(grid, ProjectedGrid)
    crs = pyproj.CRS.from_user_input(text)
    for row, column in ((0, 0), (25, 24), (49, 30), (10, 49)):
        expected = geodesic_area(grid, crs, row, column)
        assert grid.cell_area[row, column] == pytest.approx(expected, rel=2e-9, abs=0)


@given(st.sampled_from(list(PROJECTIONS.values())), factor_pairs)
def test_areas_of_the_parts_add_up_to_the_whole(text, factor):
    grid = projected(text, cells=6)
    fine = grid.refine(*factor)
    parts = fine.cell_area.reshape(6, factor[0], 6, factor[1])
    np.testing.assert_allclose(parts.sum(axis=(1, 3)), grid.cell_area, rtol=1e-13)
    np.testing.assert_array_equal(fine.coarsen(*factor).cell_area, grid.cell_area)
    cells = Aggregation.between(grid, fine)
    shares = cells.cell_fraction.reshape(6, factor[0], 6, factor[1])
    np.testing.assert_allclose(shares, parts / parts.sum(axis=(1, 3), keepdims=True), rtol=1e-13)


@pytest.mark.parametrize("text", PROJECTIONS.values(), ids=PROJECTIONS)
def test_derivatives_of_positions_give_the_areas_of_the_projection(text):
    """Two ways to one density; the second alone reaches a pole."""
    mapping, y = GridMapping("crs", {"proj4": text}), CellAxis(np.linspace(3e5, 1.5e6, 13), "projected")
    ways = [projected_grid(y, y, mapping.embedding(), density) for density in (None, mapping.density())]
    np.testing.assert_allclose(ways[0].cell_area, ways[1].cell_area, rtol=1e-9)


@pytest.mark.parametrize("half", [1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("text", EQUAL_AREA)
def test_projections_of_equal_areas_are_planes(text, half):
    grid = projected(text, half)
    assert type(grid) is RectilinearGrid
    crs = pyproj.CRS.from_user_input(text)
    for row, column in ((0, 0), (25, 24), (49, 49)):
        assert grid.cell_area[row, column] == pytest.approx(geodesic_area(grid, crs, row, column), rel=1e-7, abs=0)


def test_the_grid_is_sent_without_its_areas():
    grid = projected(PROJECTIONS["conic"])
    small = len(pickle.dumps(grid))
    assert grid.cell_area.shape == grid.shape
    # A product grid keeps small things of its axes; its areas are not among what is sent.
    assert len(pickle.dumps(grid)) < small + grid.cell_area.nbytes / 4
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(grid)).cell_area, grid.cell_area)


def test_where_the_projection_ends_there_are_no_areas():
    axis = CellAxis(np.linspace(-9e6, 9e6, 11), "projected")
    beyond = GridMapping("crs", {"proj4": "+proj=ortho +lat_0=40 +lon_0=0 +R=6371000"}).embedding()
    assert projected_grid(axis, axis, beyond) is None

    def step(x, y):
        return np.stack([x, np.abs(y) ** 1.5, 0 * x], axis=-1)

    assert AreaDensity.fit(step, axis, axis) is None


@pytest.mark.parametrize(
    ("name", "equal"),
    [
        ("precipitation_opera_20180824_2km_15min.nc", True),
        ("precipitation_bom66_20201031_500m_10min.nc", True),
        ("temperature_mogrepsuk_2km_20170602-03.nc", True),
        ("temperature_precipitation_lisflood_alps_po_5km_6h_195101.nc", True),
        ("precipitation_fmi_20160928_1km_5min.nc", False),
        ("precipitation_mch_20150515_1km_5min.nc", False),
        ("orography_srtm90m_retezat_romania.nc", False),
    ],
)
def test_real_files_have_the_areas_of_the_earth(name, equal):
    where = horizontal(downscale.open_dataset(shared_data(name)))
    grid = where.grid
    assert type(grid) is (RectilinearGrid if equal else ProjectedGrid)
    assert where.notes == ()
    if equal:
        np.testing.assert_allclose(grid.cell_area, np.multiply.outer(grid.y.measure, grid.x.measure), rtol=1e-9)
    for row, column in ((0, 0), (grid.shape[0] // 2, grid.shape[1] // 2), (-1 % grid.shape[0], 3)):
        expected = geodesic_area(grid, where.mapping.crs, row, column, 40)
        assert grid.cell_area[row, column] == pytest.approx(expected, rel=2e-9, abs=0)
