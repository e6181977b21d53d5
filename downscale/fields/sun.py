"""Position of the sun for dates of any calendar, and the mean cosine of its zenith angle over time steps.

Declination and equation of time are series in the fraction of the year, so that calendars of 360 or 365 days have the
seasons of their own year.

References
----------
Spencer, J. W. (1971), Fourier series representation of the position of the sun, Search 2, 172.
"""

from __future__ import annotations

from typing import Any

import cftime  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from downscale.errors import ShapeError
from downscale.kernels.sun import mean_cosine

Floats = NDArray[np.float64]
DAY = 86400.0


def year_angles(dates: NDArray[Any]) -> Floats:
    """Return the elapsed part of the calendar year at dates of any calendar as an angle in radians, of the same shape.

    Examples
    --------
    >>> np.rad2deg(year_angles(np.array(["2001-01-01", "2001-07-02T12"], "M8[h]")))
    array([  0., 180.])
    >>> float(np.rad2deg(year_angles(np.array([cftime.datetime(2001, 4, 1, calendar="360_day")]))[0]))
    90.0
    """
    values = np.asarray(dates)
    if values.dtype.kind == "M":
        years = values.astype("M8[Y]")
        starts, ends = years.astype("M8[ms]"), (years + 1).astype("M8[ms]")
        elapsed = (values.astype("M8[ms]") - starts).astype(np.float64) / (ends - starts).astype(np.float64)
        return 2 * np.pi * elapsed
    return np.array([_year_angle(date) for date in values.ravel()], np.float64).reshape(values.shape)


def _year_angle(date: cftime.datetime) -> float:
    start = date.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    # The year after the last one before the birth of Christ may be 1: calendars differ in having a year 0.
    next_year = date.year + 1 if date.year != -1 or date.has_year_zero else 1
    length = (start.replace(year=next_year) - start).total_seconds()
    return float(2 * np.pi * (date - start).total_seconds() / length)


def declination(angles: Floats) -> Floats:
    """Return the declination of the sun in radians at angles of the year; error at most 0.05 degrees (Spencer 1971).

    Examples
    --------
    >>> np.rad2deg(declination(year_angles(np.array(["2001-06-21T12"], "M8[h]")))).round(2)
    array([23.45])
    """
    t = np.asarray(angles, np.float64)
    return np.asarray(
        0.006918 - 0.399912 * np.cos(t) + 0.070257 * np.sin(t) - 0.006758 * np.cos(2 * t) + 0.000907 * np.sin(2 * t)
        - 0.002697 * np.cos(3 * t) + 0.00148 * np.sin(3 * t)
    )  # fmt: skip


def equation_of_time(angles: Floats) -> Floats:
    """Return apparent minus mean solar time, as an hour angle in radians, at angles of the year (Spencer 1971).

    Its error is at most 35 seconds.

    Examples
    --------
    >>> minutes = equation_of_time(year_angles(np.array(["2001-11-03"], "M8[D]"))) / (2 * np.pi) * 1440
    >>> minutes.round(1)
    array([16.4])
    """
    t = np.asarray(angles, np.float64)
    return np.asarray(
        0.0000075 + 0.001868 * np.cos(t) - 0.032077 * np.sin(t) - 0.014615 * np.cos(2 * t) - 0.040849 * np.sin(2 * t)
    )


def hour_angles(angles: Floats, seconds: Floats) -> Floats:
    """Return the hour angle of the true sun at longitude 0, in radians, from the universal time of day in seconds.

    It is zero at noon and grows by one turn per day.
    """
    return np.asarray(2 * np.pi * (np.asarray(seconds, np.float64) / DAY - 0.5) + equation_of_time(angles))


def seconds_of_day(dates: NDArray[Any]) -> Floats:
    """Return the time of day of dates of any calendar in seconds, of the same shape."""
    values = np.asarray(dates)
    if values.dtype.kind == "M":
        fine = values.astype("M8[ms]")
        return np.asarray((fine - fine.astype("M8[D]")).astype(np.float64) / 1000.0)
    seconds = [d.hour * 3600.0 + d.minute * 60.0 + d.second + d.microsecond / 1e6 for d in values.ravel()]
    return np.array(seconds, np.float64).reshape(values.shape)


def mean_cosine_zenith(begin: NDArray[Any], end: NDArray[Any], latitude: Any, longitude: Any) -> Floats:
    """Return the mean over time steps of the cosine of the solar zenith angle, zero where the sun is below the horizon.

    The integral over each step is exact, with sunrise and sunset within it; declination and equation of time are those
    of its middle. Refraction and the disk of the sun are neglected.

    Parameters
    ----------
    begin, end : arrays of dates, shape (steps,)
        The limits of each step in universal time, of any calendar; at most one day apart.
    latitude, longitude : arrays in degrees
        Rows and columns of a grid, shapes (rows,) and (columns,); or those of each cell, both of shape (rows, columns).

    Returns
    -------
    array of float64, shape (steps, rows, columns)

    Raises
    ------
    ShapeError
        If the shapes of latitude and longitude do not fit.

    Examples
    --------
    >>> begin = np.array(["2001-03-20T00", "2001-03-20T12"], "M8[h]")
    >>> mean_cosine_zenith(begin, begin + np.timedelta64(12, "h"), [0.0, 60.0], [0.0])[..., 0].round(2)
    array([[0.31, 0.15],
           [0.33, 0.16]])

    References
    ----------
    Spencer, J. W. (1971), Fourier series representation of the position of the sun, Search 2, 172.
    """
    begin, end = np.asarray(begin), np.asarray(end)
    lat, lon = np.deg2rad(np.asarray(latitude, np.float64)), np.deg2rad(np.asarray(longitude, np.float64))
    if not (lat.ndim == lon.ndim == 1 or (lat.ndim == 2 and lat.shape == lon.shape)):
        raise ShapeError(
            f"expected latitude and longitude of rows and columns, or of each cell, received shapes {lat.shape} and "
            f"{lon.shape}"
        )
    if begin.dtype.kind == "M":
        begin, end = begin.astype("M8[ms]"), end.astype("M8[ms]")
    lengths = end - begin
    seconds = [length / np.timedelta64(1, "s") if begin.dtype.kind == "M" else length.total_seconds()
               for length in lengths]  # fmt: skip
    widths = np.array(seconds, np.float64)
    angles = year_angles(begin + lengths // 2)
    start = hour_angles(angles, seconds_of_day(begin))
    stop, slope = start + 2 * np.pi * widths / DAY, declination(angles)
    shape = (begin.size, *((lat.size, lon.size) if lat.ndim == 1 else lat.shape))
    out = np.empty(shape)
    if lat.ndim == 1:
        mean_cosine(start, stop, np.sin(slope), np.cos(slope), lat, lon[None], out)
    else:
        cells = out.reshape(begin.size, -1, 1)
        mean_cosine(start, stop, np.sin(slope), np.cos(slope), lat.ravel(), lon.reshape(-1, 1), cells)
    return out
