"""Polygons on the sphere: areas of the whole earth, of its parts, of small and of flat ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import generator, latitudes, longitudes, seeds

from downscale.grid.sphere import (
    arc,
    degrees_of,
    inner_points,
    normalise,
    part_corners,
    polygon_area,
    unit_vectors,
)


def random_quadrilaterals(seed: int, size: float, count: int = 20) -> np.ndarray:
    """Convex quadrilaterals of about ``size`` radians anywhere, counter-clockwise."""
    rng = generator(seed)
    centre = normalise(rng.standard_normal((count, 1, 3)))
    first = normalise(np.cross(centre, normalise(rng.standard_normal((count, 1, 3)))))
    second = np.cross(centre, first)
    angle = np.pi / 2 * (np.arange(4) + rng.uniform(-0.3, 0.3, (count, 4)))
    plane = np.cos(angle)[..., None] * first + np.sin(angle)[..., None] * second
    return normalise(centre + size * plane)


@given(st.integers(3, 40), st.integers(4, 40))
def test_polygons_that_tile_the_sphere_add_up_to_it(rows, columns):
    lat, lon = np.linspace(-90, 90, rows + 1), np.linspace(0, 360, columns + 1)
    x, y = np.stack([lon[:-1], lon[1:], lon[1:], lon[:-1]], -1), np.stack([lat[:-1], lat[:-1], lat[1:], lat[1:]], -1)
    corners = unit_vectors(*np.broadcast_arrays(x[None], y[:, None]))
    assert polygon_area(corners).sum() == pytest.approx(4 * np.pi, rel=1e-13, abs=0)
    assert (polygon_area(corners) > 0).all()
    assert polygon_area(corners[..., ::-1, :]).sum() == pytest.approx(-4 * np.pi, rel=1e-13, abs=0)


@given(seeds, st.sampled_from([1e-6, 1e-4, 1e-2, 0.3]))
def test_small_areas_keep_their_digits(seed, size):
    """A plane polygon of the same corners, by vectors in its own plane, is as large but for its curvature."""
    corners = random_quadrilaterals(seed, size)
    diagonals = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    flat = np.linalg.norm(np.cross(*diagonals), axis=-1) / 2
    np.testing.assert_allclose(polygon_area(corners), flat, rtol=max(size**2, 1e-15 / size))


@given(seeds, st.sampled_from([1e-4, 1e-2, 0.3]), st.integers(1, 5), st.integers(1, 5))
def test_the_parts_of_a_quadrilateral_add_up_to_it(seed, size, along, across):
    corners = random_quadrilaterals(seed, size)
    parts = polygon_area(part_corners(corners, along, across))
    assert parts.shape == (20, across, along)
    assert (parts > 0).all()
    np.testing.assert_allclose(parts.sum(axis=(1, 2)), polygon_area(corners), rtol=1e-15 / size + 1e-14)


@given(seeds)
def test_inner_points_of_a_side_lie_on_its_circle(seed):
    corners = random_quadrilaterals(seed, 0.3)
    points = inner_points(corners, np.linspace(0, 1, 5), np.array([0.0, 1.0]))
    normal = normalise(np.cross(corners[:, 0], corners[:, 1]))
    np.testing.assert_allclose((points[:, 0] * normal[:, None]).sum(axis=-1), 0, rtol=0, atol=1e-15)
    np.testing.assert_allclose(points[:, 1, 0], corners[:, 3], rtol=0, atol=1e-15)
    np.testing.assert_allclose(points[:, 1, -1], corners[:, 2], rtol=0, atol=1e-15)


def test_flat_polygons_have_no_area():
    a, b = unit_vectors([10.0, 20.0], [0.0, 0.0])
    for ring in ([a, a, a, a], [a, b, b, a], [a, b, a, b], [a, normalise(a + b), b, b]):
        assert abs(polygon_area(np.array(ring))) < 1e-16


@given(latitudes(2), longitudes(2))
def test_degrees_of_undo_unit_vectors_near_a_branch(lat, lon):
    y, x = np.meshgrid(lat.centres, lon.centres, indexing="ij")
    east, north = degrees_of(unit_vectors(x, y), x + 100)
    inside = np.abs(y) < 89.9
    np.testing.assert_allclose(north, y, rtol=0, atol=1e-6)
    np.testing.assert_allclose(((east - x + 180) % 360 - 180)[inside], 0, rtol=0, atol=1e-9)
    assert np.abs(east - x - 100).max() <= 180


def test_arcs_keep_their_digits():
    step = np.array([1e-9, 1e-3, 1.0, 120.0])
    np.testing.assert_allclose(arc(unit_vectors(0, 0), unit_vectors(step, 0 * step)), np.deg2rad(step), rtol=1e-13)
