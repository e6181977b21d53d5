"""Gradients in metres: planes keep their slope at every latitude and edge, circles have no seam."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import generator, grids, latitudes, longitudes, projected_axes, seeds

from downscale.fields.gradient import Spacing, gradient_bound, slope, sobel
from downscale.grid.axis import CellAxis
from downscale.grid.curvilinear import curvilinear_grid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sphere import EARTH_RADIUS


def metres_east(grid: RectilinearGrid) -> np.ndarray:
    return grid.x_scale[:, None] * grid.x_radians_or_metres


@given(grids(2), st.floats(-5, 5), st.floats(-5, 5))
def test_planes_in_metres_have_their_exact_slope_up_to_the_edges(grid, east, north):
    assume(not grid.x.periodic)
    spacing = Spacing.of(grid)
    along_rows = east * metres_east(grid)
    np.testing.assert_allclose(sobel(along_rows, spacing)[0], east, rtol=0, atol=1e-8)
    along_columns = np.broadcast_to(north * grid.y_metres[:, None], grid.shape)
    found = sobel(along_columns, spacing)
    np.testing.assert_allclose(found[0], 0.0, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found[1], north, rtol=0, atol=1e-8)


@given(projected_axes(2), projected_axes(2), st.floats(-5, 5), st.floats(-5, 5))
def test_inclined_planes_on_a_projection(y, x, east, north):
    grid = RectilinearGrid(y, x)
    plane = east * metres_east(grid) + north * grid.y_metres[:, None] + 7
    np.testing.assert_allclose(slope(plane, Spacing.of(grid)), np.hypot(east, north), rtol=0, atol=1e-7)


@given(latitudes(2), longitudes(2), st.floats(-5, 5))
def test_northward_slopes_are_the_same_on_a_circle(lat, lon, north):
    grid = RectilinearGrid(lat, lon)
    found = sobel(np.broadcast_to(north * grid.y_metres[:, None], grid.shape), Spacing.of(grid))
    np.testing.assert_allclose(found[0], 0.0, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found[1], north, rtol=0, atol=1e-8)


@pytest.mark.parametrize("columns", [3, 8, 36])
@pytest.mark.parametrize("wave", [1, 2])
@pytest.mark.parametrize("west", [0.0, -180.0, 17.0])
@pytest.mark.parametrize("westward", [False, True])
def test_waves_around_the_world_have_their_slope_across_the_seam(columns, wave, west, westward):
    """The central difference of a sine is known in closed form: cos(k lon) sin(k d) / (d R cos(lat))."""
    step = 2 * np.pi / columns
    lon = CellAxis(west + np.linspace(0, 360, columns + 1), "longitude")
    grid = RectilinearGrid(CellAxis(np.array([30.0, 40, 55, 60]), "latitude"), lon.reverse() if westward else lon)
    x = grid.x_radians_or_metres
    field = np.sin(wave * x) * grid.x_scale[:, None] / EARTH_RADIUS
    expected = np.cos(wave * x) * np.sin(wave * step) / step / EARTH_RADIUS
    found = sobel(field, Spacing.of(grid))[0]
    np.testing.assert_allclose(found, np.broadcast_to(expected, grid.shape), rtol=0, atol=1e-12 / EARTH_RADIUS * 10)


@given(latitudes(1, 6), longitudes(2, 9), st.integers(1, 8), seeds)
def test_turning_a_circle_turns_the_gradient(lat, lon, shift, seed):
    assume(lon.periodic)
    shift %= lon.size
    turn = np.copysign(360.0, lon.edges[-1] - lon.edges[0])
    edges = np.concatenate([lon.edges[shift:-1], lon.edges[: shift + 1] + turn])
    field = generator(seed).standard_normal((lat.size, lon.size))
    ours = sobel(field, Spacing.of(RectilinearGrid(lat, lon)))
    turned = sobel(np.roll(field, -shift, axis=1), Spacing.of(RectilinearGrid(lat, CellAxis(edges, "longitude"))))
    for one, other in zip(ours, turned, strict=True):
        np.testing.assert_allclose(other, np.roll(one, -shift, axis=1), rtol=1e-9, atol=1e-15)


@given(grids(2), seeds)
def test_reversing_an_axis_reverses_the_field_not_the_sign(grid, seed):
    """East stays east on a westward axis, north stays north where latitudes descend."""
    field = generator(seed).standard_normal(grid.shape)
    ours = sobel(field, Spacing.of(grid))
    other = sobel(field[::-1, ::-1], Spacing.of(RectilinearGrid(grid.y.reverse(), grid.x.reverse())))
    for one, two in zip(ours, other, strict=True):
        np.testing.assert_allclose(two[::-1, ::-1], one, rtol=1e-8, atol=1e-14)


def test_equal_cells_have_the_gradient_of_sobels_kernel():
    axis = CellAxis(np.arange(9) * 50.0, "projected")
    field = torch.from_numpy(generator(0).standard_normal((8, 8)))
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)[None, None] / 8 / 50
    east, north = sobel(field, Spacing.of(RectilinearGrid(axis, axis)))
    convolved = torch.nn.functional.conv2d(field[None, None], kernel)[0, 0]
    torch.testing.assert_close(east[1:-1, 1:-1], convolved, rtol=0, atol=1e-15)
    convolved = torch.nn.functional.conv2d(field[None, None], kernel.transpose(-1, -2))[0, 0]
    torch.testing.assert_close(north[1:-1, 1:-1], convolved, rtol=0, atol=1e-15)


@given(grids(), seeds)
def test_numpy_and_torch_agree_and_batches_are_maps(grid, seed):
    field, spacing = generator(seed).standard_normal((3, *grid.shape)), Spacing.of(grid)
    tensor = sobel(torch.from_numpy(field), spacing)
    for ours, theirs in zip(sobel(field, spacing), tensor, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())
    np.testing.assert_array_equal(slope(field[1], spacing), slope(field, spacing)[1])
    assert spacing.shape == grid.shape


@given(grids(1, 8), seeds, st.data())
def test_windows_know_their_own_spacing(grid, seed, data):
    """Inside a window, one cell from its cut edges, the gradient is that of the whole, bit for bit."""
    field, spacing = generator(seed).standard_normal(grid.shape), Spacing.of(grid)
    spans = []
    for size in grid.shape:
        first = data.draw(st.integers(0, size - 1))
        spans.append(np.arange(first, data.draw(st.integers(first + 1, size))))
    closed = len(spans[1]) == grid.x.size and grid.x.periodic
    part = sobel(field[np.ix_(*spans)], spacing.window(*spans, closed))
    whole = [g[np.ix_(*spans)] for g in sobel(field, spacing)]
    inner = []
    for span, size, open_end in zip(spans, grid.shape, (True, not grid.x.periodic), strict=True):
        first = 0 if span[0] == 0 and (open_end or closed) else 1
        last = len(span) if span[-1] == size - 1 and (open_end or closed) else len(span) - 1
        inner.append(slice(first, max(last, first)))
    for one, other in zip(part, whole, strict=True):
        np.testing.assert_array_equal(one[*inner], other[*inner])


def largest_ratio(grid: RectilinearGrid) -> float:
    """The largest of sum(area |grad f|**2) / sum(d f**2) over all fields: an eigenvalue of a dense matrix."""
    spacing, cells = Spacing.of(grid), grid.y.size * grid.x.size
    gradients = np.concatenate(sobel(np.eye(cells).reshape(cells, *grid.shape), spacing), axis=-2)
    stencils = (gradients * np.sqrt(np.tile(spacing.area, (2, 1)))).reshape(cells, -1)
    bound = gradient_bound(spacing).ravel()
    assert (stencils[bound == 0] == 0).all()
    return np.linalg.norm(stencils / np.sqrt(np.where(bound > 0, bound, 1.0))[:, None], 2) ** 2


@given(grids())
def test_no_field_is_steeper_than_the_bound(grid):
    assert largest_ratio(grid) <= 1


@pytest.mark.parametrize("rows", [(-90, 90, 18), (80, 90, 20), (89, 90, 6)])
def test_the_bound_holds_at_the_poles_and_is_not_loose(rows):
    lat, lon = np.linspace(rows[0], rows[1], rows[2] + 1), np.linspace(0, 360, 25)
    grid = RectilinearGrid(CellAxis(lat, "latitude"), CellAxis(lon, "longitude"))
    assert 0.5 < largest_ratio(grid) <= 1


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_an_axis_of_one_cell_has_no_slope_along_it(shape):
    grid = RectilinearGrid(*(CellAxis(np.arange(n + 1.0) * 10, "projected") for n in shape))
    east, north = sobel(generator(0).standard_normal(shape), Spacing.of(grid))
    assert np.isfinite(east).all()
    assert np.isfinite(north).all()
    assert shape[0] > 1 or (north == 0).all()
    assert shape[1] > 1 or (east == 0).all()


# Quadrilaterals


def turned_positions(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Square cells near the equator whose rows run at an angle to the east."""
    y, x = np.mgrid[-6:7, -6:7] * 0.05
    angle = np.deg2rad(degrees)
    return x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 200.0])
def test_slopes_do_not_depend_on_the_direction_of_the_rows(degrees):
    lon, lat = turned_positions(degrees)
    spacing = Spacing.of(curvilinear_grid(lon, lat))
    assert spacing.dy.shape == spacing.shape == (13, 13)
    metres = EARTH_RADIUS * np.deg2rad(1.0)
    plane = metres * (3 * lon + 4 * lat)
    np.testing.assert_allclose(slope(plane, spacing), 5.0, rtol=1e-3)
    np.testing.assert_allclose(slope(torch.from_numpy(plane), spacing).numpy(), slope(plane, spacing), rtol=1e-14)


def test_spacings_of_quadrilaterals_are_those_of_the_sphere_where_they_are_small():
    lon, lat = np.meshgrid(10 + 0.1 * np.arange(8), 40 + 0.1 * np.arange(6))
    axes_of = [CellAxis(v[0] - 0.05 + 0.1 * np.arange(v.size + 1), kind) for v, kind in (
        (lat[:, 0], "latitude"), (lon[0], "longitude"))]  # fmt: skip
    one, other = Spacing.of(curvilinear_grid(lon, lat)), Spacing.of(RectilinearGrid(*axes_of))
    np.testing.assert_allclose(one.dx, other.dx, rtol=1e-6)
    np.testing.assert_allclose(one.dy, np.broadcast_to(other.dy[:, None], one.shape), rtol=1e-6)
    np.testing.assert_allclose(one.area, other.area, rtol=1e-3)


def test_windows_and_the_bound_hold_for_quadrilaterals():
    lon, lat = turned_positions(30.0)
    spacing = Spacing.of(curvilinear_grid(lon, lat))
    rows, columns = np.arange(3, 9), np.arange(2, 5)
    part = spacing.window(rows, columns, closed=False)
    np.testing.assert_array_equal(part.dy, spacing.dy[3:9, 2:5])
    np.testing.assert_array_equal(spacing.columns(columns).dy, spacing.dy[:, 2:5])
    field = generator(0).standard_normal(spacing.shape)
    energy = (spacing.area * slope(field, spacing) ** 2).sum()
    assert energy <= (gradient_bound(spacing) * field**2).sum()
