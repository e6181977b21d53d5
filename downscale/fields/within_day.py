"""Projection of values within days on the mean of each day and on bounds of each time step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import ShapeError
from downscale.kernels.clip import clip_hours

# Rounding of a mean of stored values, in steps of their type.
ROUNDING = 4


def clip_to_means(
    proposal: NDArray[Any], mean: NDArray[Any], low: Any = None, high: Any = None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the values nearest to a proposal that have the mean of each day and are within bounds of each time step.

    They are ``clip(proposal + t, low, high)`` with one t per day and cell: the Euclidean projection. No value is
    outside the bounds after rounding, and means are exact to rounding. If the mean is outside the means of the bounds,
    no such values exist: the mean is exact, and each value is equally far beyond its bound.

    Parameters
    ----------
    proposal : array of floats, shape (days, steps, cells)
    mean : array, shape (days, cells)
    low, high : float or array that broadcasts to (days, steps, cells), optional
        In the same units. NaN gives NaN for that day.

    Returns
    -------
    array, shape (days, steps, cells)
        With the data type of the proposal.
    array of bool, shape (days, cells)
        Where the mean is outside the means of the bounds.

    Raises
    ------
    ShapeError
        If the mean or a bound does not fit the proposal.

    Examples
    --------
    >>> values, _ = clip_to_means(np.array([[[1.0], [2.0], [6.0]]]), np.array([[3.0]]), high=4.0)
    >>> values[0, :, 0].tolist()
    [2.0, 3.0, 4.0]

    References
    ----------
    Held, M., Wolfe, P. and Crowder, H. P. (1974), Validation of subgradient optimization, Mathematical Programming 6,
    62-88.
    """
    days, _, cells = proposal.shape
    if np.shape(mean) != (days, cells):
        raise ShapeError(f"expected a mean of shape {(days, cells)} for {proposal.shape}, received {np.shape(mean)}")
    limits = []
    for name, value, missing in (("low", low, -np.inf), ("high", high, np.inf)):
        bound = np.asarray(missing if value is None else value, np.float64)
        bound = bound.reshape((1,) * (3 - bound.ndim) + bound.shape)
        if bound.ndim != 3 or any(n not in (1, size) for n, size in zip(bound.shape, proposal.shape, strict=True)):
            raise ShapeError(f"expected {name} of shape {proposal.shape} or parts of it, received {np.shape(value)}")
        limits.append(bound)
    out, failed = np.empty_like(proposal, order="C"), np.empty((days, cells), np.bool_)
    tolerance = ROUNDING * float(np.finfo(proposal.dtype).eps)
    clip_hours(proposal, np.asarray(mean), *limits, tolerance, out, failed)
    return out, failed
