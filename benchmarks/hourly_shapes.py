"""Classical courses of temperature within days, for comparison with ``downscale.hourly``.

All take and return values of shape (days, hours, cells), with 24 hours that are points in time from hour 0 to 23 of a
clock, and none of them has more than the daily values of one neighbouring day. Times of extremes are hours of that
clock, of shape (days, cells) or less.

References
----------
de Wit, C. T. (1978), Simulation of assimilation, respiration and transpiration of crops, Wageningen.
Reicosky, D. C., Winkelman, L. J., Baker, J. M. and Baker, D. G. (1989), Accuracy of hourly air temperatures calculated
from daily minima and maxima, Agricultural and Forest Meteorology 46, 193-209.
Foerster, K., Hanzer, F., Winter, B., Marke, T. and Strasser, U. (2016), An open-source MEteoroLOgical observation time
series DISaggregation Tool (MELODIST v0.1.1), Geoscientific Model Development 9, 2315-2333.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from downscale.fields.sun import declination, hour_angles, year_angles

HOURS = np.arange(24.0)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Extremes:
    """Daily minima and maxima, shape (days, cells), with the maximum of the day before and the minimum of the next."""

    low: Floats
    high: Floats
    high_before: Floats
    low_after: Floats

    @classmethod
    def of(cls, real: Floats) -> Extremes:
        """Return those of hours; the first and the last day are their own neighbours."""
        low, high = real.min(axis=1), real.max(axis=1)
        return cls(low, high, np.concatenate([high[:1], high[:-1]]), np.concatenate([low[1:], low[-1:]]))


def sun_times(dates: NDArray[np.datetime64], latitude: Floats, longitude: Floats) -> tuple[Floats, Floats]:
    """Return the hours of sunrise and noon in universal time, shape (days, cells)."""
    angles = year_angles(dates + np.timedelta64(12, "h"))[:, None]
    noon = (-hour_angles(angles, np.zeros(1)) / np.pi * 12.0 - longitude / 15.0) % 24.0
    cosine = -np.tan(np.deg2rad(latitude)) * np.tan(declination(angles))
    return noon - 12.0 / np.pi * np.arccos(np.clip(cosine, -1.0, 1.0)), noon


def linear(mean: Floats) -> Floats:
    """Return daily means, shape (days, cells), linear between the middles of days."""
    days = (np.arange(mean.size / mean[0].size * 24) - 11.5) / 24.0
    columns = [np.interp(days, np.arange(len(mean)), one) for one in mean.T]
    return np.stack(columns, axis=1).reshape(len(mean), 24, -1)


def sine(of: Extremes, at_low: Floats, at_high: Floats) -> Floats:
    """Return half a wave from minimum to maximum, and a longer one to the next minimum (de Wit 1978)."""
    low, high, before, after = (one[:, None] for one in (of.low, of.high, of.high_before, of.low_after))
    at_low, at_high = at_low[:, None], at_high[:, None]
    hour, night = HOURS[:, None], 24.0 - at_high + at_low
    by_day = low + (high - low) * _wave((hour - at_low) / (at_high - at_low))
    evening = high + (after - high) * _wave((hour - at_high) / night)
    morning = before + (low - before) * _wave((hour + 24.0 - at_high) / night)
    return np.where(hour < at_low, morning, np.where(hour <= at_high, by_day, evening))


def _wave(part: Floats) -> Floats:
    """Return the rise from 0 to 1 of half a wave."""
    return np.asarray(0.5 * (1.0 - np.cos(np.pi * np.clip(part, 0.0, 1.0))))


def cosine(of: Extremes, at_low: Floats, at_high: Floats) -> Floats:
    """Return a cosine of 24 hours between the extremes next to each hour (MELODIST, sine_min_max)."""
    hour = HOURS[:, None]
    low = np.where(hour < at_high[:, None], of.low[:, None], of.low_after[:, None])
    high = np.where(hour < at_low[:, None], of.high_before[:, None], of.high[:, None])
    return 0.5 * (low + high) + 0.5 * (high - low) * np.cos(np.pi / 12.0 * (hour - at_high[:, None]))


def cosine_of_mean(mean: Floats, of: Extremes, at_high: Floats) -> Floats:
    """Return a cosine of the size of the daily range around the daily mean (MELODIST, sine_mean)."""
    wave = np.cos(np.pi / 12.0 * (HOURS[:, None] - at_high[:, None]))
    return mean[:, None] + 0.5 * (of.high - of.low)[:, None] * wave


def mean_course(real: Floats, months: NDArray[np.int64]) -> Floats:
    """Return the mean course by month between 0 and 1, shape (12, hours, cells)."""
    courses = np.stack([np.nanmean(real[months == month], axis=0) for month in range(1, 13)])
    low, high = courses.min(axis=1, keepdims=True), courses.max(axis=1, keepdims=True)
    return np.asarray((courses - low) / (high - low))


def course_between(of: Extremes, course: Floats) -> Floats:
    """Return the course of each day, shape (days, hours, cells), between its extremes (mean_course_min_max)."""
    return of.low[:, None] + (of.high - of.low)[:, None] * course


def course_of_mean(mean: Floats, of: Extremes, course: Floats) -> Floats:
    """Return the course of each day around its mean, of the size of its range (mean_course_mean)."""
    return mean[:, None] + (of.high - of.low)[:, None] * (course - course.mean(axis=1, keepdims=True))
