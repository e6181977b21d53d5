"""Daily cycle of air temperature from the sun: its rise by day and its decay by night.

References
----------
Parton, W. J. and Logan, J. A. (1981), A model for diurnal variation in soil and air temperature, Agricultural
Meteorology 23, 205-216.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from downscale.fields.sun import declination, hour_angles
from downscale.kernels.sun import heat_cycles

Floats = NDArray[np.float64]
# Hours by which the maximum lags noon, and decay by night, of air temperature at 1.5 m.
LAG, DECAY = 1.86, 2.2
# Shortest and longest day in hours: cycles of polar days and nights are those of these.
SHORTEST, LONGEST = 4.0, 20.0


def sun_cycle(latitude: Floats, longitude: Floats, angles: Floats, seconds: Floats) -> Floats:
    """Return daily cycles of temperature with mean 0 and range 1 at times of the day.

    Temperature rises from sunrise as a sine, with its maximum after noon, and decays exponentially from sunset to the
    next sunrise.

    Parameters
    ----------
    latitude, longitude : arrays in degrees, shape (columns,)
    angles : array in radians, shape (labels,)
        Angles of the year.
    seconds : array, shape (steps,)
        Universal times of the day.

    Returns
    -------
    array of float64, shape (labels, columns, steps)

    Examples
    --------
    >>> hours = np.arange(24)
    >>> cycle = sun_cycle(np.array([0.0]), np.array([0.0]), np.array([1.4]), hours * 3600.0)[0, 0]
    >>> int(cycle.argmin()), int(cycle.argmax()), round(float(np.ptp(cycle)), 6)
    (6, 14, 1.0)
    """
    slope = declination(angles)[:, None]
    cosine = -np.tan(np.deg2rad(np.clip(latitude, -89.9, 89.9))) * np.tan(slope)
    day = np.clip(24.0 / np.pi * np.arccos(np.clip(cosine, -1.0, 1.0)), SHORTEST, LONGEST)
    turn = hour_angles(angles[:, None], seconds) / np.pi * 12.0
    cycles = np.empty((angles.size, latitude.size, seconds.size))
    heat_cycles(turn, longitude / 15.0, day, LAG, DECAY, cycles)
    return cycles
