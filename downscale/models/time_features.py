"""Time of day and of year as sines and cosines, the time features of a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.errors import InputError, listing

SECONDS_OF_DAY, DAYS_OF_YEAR = 86400.0, 365.2425


def time_features(encodings: tuple[str, ...], dates: NDArray[Any] | None, count: int) -> NDArray[np.float32]:
    """Return sines and cosines of the time of year and of day, shape (count, 2 * len(encodings)).

    Examples
    --------
    >>> time_features(("hour",), np.array(["2000-01-01T06"], dtype="M8[ns]"), 1).round(3).tolist()
    [[1.0, 0.0]]
    """
    if not encodings:
        return np.empty((count, 0), np.float32)
    if dates is None:
        raise InputError(f"expected a time axis for the encodings {listing(encodings)}, received none; leave them out")
    day = xr.DataArray(dates, dims="time", coords={"time": dates}).time.dt
    seconds = np.asarray(day.hour * 3600 + day.minute * 60 + day.second, dtype=np.float64)
    turns = {
        "hour": seconds / SECONDS_OF_DAY,
        "day_of_year": (np.asarray(day.dayofyear) - 1 + seconds / SECONDS_OF_DAY) / DAYS_OF_YEAR,
    }
    angles = [2 * np.pi * turns[name] for name in encodings]
    return np.stack([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1).astype(np.float32)
