"""Areas and distances on the sphere from cell edges.

Areas are exact: R^2 (lon2 - lon1) (sin(lat2) - sin(lat1)). With approximate areas, the weights of the parts of a
1-degree cell at 60 degrees would be wrong by up to 1.5 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from downscale.grid.axis import CellAxis

# The radius of CDO, ESMF and most climate models; it cancels in every mean.
EARTH_RADIUS = 6_371_000.0


def cell_area(lat: CellAxis, lon: CellAxis, radius: float = EARTH_RADIUS) -> NDArray[np.float64]:
    """Return exact cell areas in m2, shape (n_lat, n_lon).

    Invariant: the cells of a global grid add up to ``4 pi radius**2``.

    Examples
    --------
    >>> whole = cell_area(CellAxis([-90, 90], "latitude"), CellAxis([0, 360], "longitude"), radius=1.0)
    >>> float(whole.sum() / (4 * np.pi))
    1.0
    """
    return radius**2 * np.multiply.outer(lat.measure, lon.measure)


def metres_north(lat: CellAxis, radius: float = EARTH_RADIUS) -> NDArray[np.float64]:
    """Return signed positions of row centres along a meridian in metres, shape (n_lat,)."""
    return radius * np.deg2rad(lat.centres)


def metres_per_radian_east(lat: CellAxis, radius: float = EARTH_RADIUS) -> NDArray[np.float64]:
    """Return the length in metres of a radian of longitude at each row centre, shape (n_lat,)."""
    return radius * np.cos(np.deg2rad(lat.centres))
