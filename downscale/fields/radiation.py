"""Division of daily solar radiation into hours or other steps by the height of the sun.

References
----------
Haurwitz, B. (1945), Insolation in relation to cloudiness and cloud density, Journal of Meteorology 2, 154-166 (clear
sky).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.kernels.sun import divide_by_sun

Floats = NDArray[np.float64]
# Exponent of the clear sky of Haurwitz: radiation at the surface is proportional to mu exp(-0.059 / mu).
EXTINCTION = 0.059
# Irradiance in W m-2 at the top of the atmosphere where the earth is nearest to the sun.
BRIGHTEST = 1361.0 * 1.034


def solar_steps(
    mean: NDArray[Any], cosine: Floats, *, at_surface: bool = True, per_watt: float = 1.0, share: float = 1.0,
    dtype: Any = np.float64,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:  # fmt: skip
    """Return solar radiation in each step, and the days whose mean is more than the sun supplies.

    It is zero at night. During the day it is proportional to the cosine of the zenith angle, at the surface to the
    radiation of a clear sky. What exceeds the radiation at the top of the atmosphere, such as any in the polar night,
    is spread evenly over the day, so that the mean is exact.

    Parameters
    ----------
    mean : array, shape (days, cells)
    cosine : array of float64, shape (days, steps, cells)
        Mean of the positive part of the cosine of the zenith angle in each step.
    at_surface : bool
        False for the top of the atmosphere.
    per_watt : float
        Number of the units of ``mean`` in 1 W m-2.
    share : float
        Factor of the result, one over the number of steps to divide amounts.
    dtype : optional
        Type of the result.

    Returns
    -------
    array, shape (days, steps, cells)
    array of bool, shape (days, cells)

    Examples
    --------
    >>> steps, beyond = solar_steps(np.array([[90.0]]), np.array([[[0.0], [0.4], [0.8], [0.0]]]), at_surface=False)
    >>> steps[0, :, 0].round(6).tolist(), bool(beyond[0, 0])
    ([0.0, 120.0, 240.0, 0.0], False)
    """
    out, beyond = np.empty(cosine.shape, dtype), np.empty(np.shape(mean), np.bool_)
    divide_by_sun(mean, cosine, EXTINCTION if at_surface else 0.0, BRIGHTEST * per_watt, share, out, beyond)
    return out, beyond
