"""Geometry on the sphere: unit vectors, distances, areas of polygons, points inside quadrilaterals.

Sides are great circles. Areas are computed from differences of neighbouring corners, so that a cell of a hundred metres
keeps as many digits as its corners have.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# The radius of CDO, ESMF and most climate models; it cancels in every mean.
EARTH_RADIUS = 6_371_000.0


def unit_vectors(lon: ArrayLike, lat: ArrayLike) -> Floats:
    """Return the unit vectors, shape (..., 3), of longitudes and latitudes in degrees, shapes (...).

    Examples
    --------
    >>> unit_vectors(0.0, 0.0).tolist()
    [1.0, 0.0, 0.0]
    """
    east, north = np.deg2rad(np.asarray(lon, dtype=np.float64)), np.deg2rad(np.asarray(lat, dtype=np.float64))
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=-1)


def degrees_of(vectors: Floats, near: ArrayLike = 0.0) -> tuple[Floats, Floats]:
    """Return longitudes and latitudes in degrees of vectors of any length, shape (..., 3).

    Longitudes are within half a circle of ``near``.
    """
    x, y, z = np.moveaxis(vectors, -1, 0)
    lon = np.rad2deg(np.arctan2(y, x))
    return lon + 360.0 * np.round((near - lon) / 360.0), np.rad2deg(np.arctan2(z, np.hypot(x, y)))


def normalise(vectors: Floats) -> Floats:
    """Return the vectors with length one; a null vector stays null."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


def arc(a: Floats, b: Floats) -> Floats:
    """Return the angle in radians between unit vectors, shape (...); accurate for small angles."""
    half = 0.5 * np.linalg.norm(a - b, axis=-1)
    return 2 * np.arcsin(np.minimum(half, 1.0))


def triangle_area(a: Floats, b: Floats, c: Floats) -> Floats:
    """Return signed areas in steradians, positive where a, b, c run counter-clockwise seen from above, shape (...).

    References
    ----------
    Eriksson, F. (1990), On the measure of solid angles, Mathematics Magazine 63, 184-187.
    Van Oosterom, A. and Strackee, J. (1983), The solid angle of a plane triangle, IEEE Transactions on Biomedical
    Engineering 30, 125-126.
    """
    # The product of differences is the triple product without its cancellation.
    volume = (a * np.cross(b - a, c - a)).sum(axis=-1)
    return 2 * np.arctan2(volume, 1 + (a * b).sum(axis=-1) + (b * c).sum(axis=-1) + (c * a).sum(axis=-1))


def polygon_area(corners: Floats) -> Floats:
    """Return signed areas in steradians of polygons with great-circle sides, shape (...).

    ``corners`` are unit vectors in order, shape (..., n, 3); each polygon is smaller than half the sphere. Invariant:
    polygons that tile the sphere, all counter-clockwise, add up to 4 pi.

    Examples
    --------
    >>> octant = unit_vectors([0, 90, 0], [0, 0, 90])
    >>> float(polygon_area(octant) / np.pi)
    0.5
    """
    first = corners[..., 0, :]
    areas = [triangle_area(first, corners[..., i, :], corners[..., i + 1, :]) for i in range(1, corners.shape[-2] - 1)]
    return np.sum(areas, axis=0)


def inner_points(corners: Floats, along: Floats, across: Floats) -> Floats:
    """Return points of quadrilaterals by bilinear combination of their corners, shape (..., n_across, n_along, 3).

    Corners, shape (..., 4, 3), are in order around the cell: first row left and right, then second row right and left.
    Positions from 0 to 1 run from left to right (``along``) and from the first row to the second (``across``).
    """
    s, t = along[:, None], across[:, None, None]
    a, b, c, d = (corners[..., i, None, None, :] for i in range(4))
    return normalise((1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * d + s * c))


def part_corners(corners: Floats, along: int, across: int) -> Floats:
    """Return the corners of equal parts (in index) of quadrilaterals, shape (..., across, along, 4, 3).

    Invariant: the areas of the parts of a quadrilateral add up to its own.
    """
    points = inner_points(corners, np.linspace(0, 1, along + 1), np.linspace(0, 1, across + 1))
    low, high = points[..., :-1, :, :], points[..., 1:, :, :]
    return np.stack([low[..., :-1, :], low[..., 1:, :], high[..., 1:, :], high[..., :-1, :]], axis=-2)
