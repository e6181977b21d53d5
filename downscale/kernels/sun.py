"""Compiled loops of the sun: mean cosine of the zenith angle, division of radiation, daily cycles of temperature."""

from __future__ import annotations

import math

import numpy as np

from downscale.kernels.compiled import compile_inner, compile_loop

TURN = 2 * math.pi


@compile_inner
def _partly_sunlit(a, b, first, last, sin_first, sin_last):  # type: ignore[no-untyped-def]
    """Return the integral of the positive part of ``a + b cos h`` over hour angles, the first one in half a turn."""
    # Hour angle of sunset; zero in the polar night.
    if a >= b:
        set_angle = math.pi
    elif a <= -b:
        set_angle = 0.0
    else:
        set_angle = math.acos(-a / b)
    sin_set, light = math.sin(set_angle), 0.0
    # The sunlit part of this day, then of the next one.
    if first < set_angle and last > -set_angle:
        rise, sin_rise = (first, sin_first) if first > -set_angle else (-set_angle, -sin_set)
        fall, sin_fall = (last, sin_last) if last < set_angle else (set_angle, sin_set)
        light += a * (fall - rise) + b * (sin_fall - sin_rise)
    if last > TURN - set_angle:
        rise, sin_rise = (first, sin_first) if first > TURN - set_angle else (TURN - set_angle, -sin_set)
        fall, sin_fall = (last, sin_last) if last < TURN + set_angle else (TURN + set_angle, sin_set)
        light += a * (fall - rise) + b * (sin_fall - sin_rise)
    return light


@compile_loop
def mean_cosine(begin, end, sin_declination, cos_declination, latitude, longitude, out):  # type: ignore[no-untyped-def]
    """Write the mean of the positive part of the cosine of the zenith angle over steps.

    With the declination fixed during a step, its integral between two hour angles is ``a (h2 - h1) + b (sin h2 - sin
    h1)``, where ``a`` and ``b`` are the products of the sines and of the cosines of latitude and declination.

    Parameters
    ----------
    begin, end : arrays, shape (steps,)
        Hour angles at longitude 0 at the beginning and the end of each step, in radians, at most one turn apart.
    sin_declination, cos_declination : arrays, shape (steps,)
    latitude : array, shape (rows,)
        In radians.
    longitude : array, shape (rows, columns), or (1, columns) if all rows have the same
        In radians.
    out : array, shape (steps, rows, columns)
        Written.
    """
    rows, columns, single = out.shape[1], out.shape[2], longitude.shape[0] == 1
    sines, cosines = np.sin(longitude), np.cos(longitude)
    sin_latitude, cos_latitude = np.sin(latitude), np.maximum(np.cos(latitude), 0.0)
    for k in range(out.shape[0]):
        width = end[k] - begin[k]
        sin_begin, cos_begin = math.sin(begin[k]), math.cos(begin[k])
        sin_end, cos_end = math.sin(end[k]), math.cos(end[k])
        for j in range(rows):
            p = 0 if single else j
            a, b = sin_latitude[j] * sin_declination[k], cos_latitude[j] * cos_declination[k]
            for i in range(columns):
                first = begin[k] + longitude[p, i]
                first -= TURN * math.floor((first + math.pi) / TURN)
                last = first + width
                sin_first = sin_begin * cosines[p, i] + cos_begin * sines[p, i]
                sin_last = sin_end * cosines[p, i] + cos_end * sines[p, i]
                rises = a + b * (cos_begin * cosines[p, i] - sin_begin * sines[p, i]) > 0.0
                falls = a + b * (cos_end * cosines[p, i] - sin_end * sines[p, i]) > 0.0
                if rises and falls and last <= math.pi:
                    light = a * width + b * (sin_last - sin_first)
                elif not rises and not falls and not (first < 0.0 < last) and last <= TURN:
                    light = 0.0
                else:
                    light = _partly_sunlit(a, b, first, last, sin_first, sin_last)
                out[k, j, i] = light / width if light > 0.0 else 0.0


@compile_loop
def divide_by_sun(mean, cosine, extinction, brightest, share, out, beyond):  # type: ignore[no-untyped-def]
    """Write solar radiation in steps from daily means; see :func:`downscale.fields.radiation.solar_steps`.

    Parameters
    ----------
    mean : array, shape (days, cells)
    cosine, out : arrays, shape (days, steps, cells)
    extinction : float
        Zero at the top of the atmosphere.
    brightest : float
        Largest irradiance in the units of ``mean``.
    share : float
        Factor of results.
    beyond : array of bool, shape (days, cells)
        Whether the mean is more than the sun supplies; written.
    """
    days, steps, cells = cosine.shape
    shape = np.empty(steps)
    for d in range(days):
        for i in range(cells):
            total, light, value = 0.0, 0.0, np.float64(mean[d, i])
            for s in range(steps):
                c = cosine[d, s, i]
                light += c
                # Just above the horizon the clear sky of the formula is black.
                shape[s] = c * math.exp(-extinction / max(c, 1e-3)) if c > 0.0 and extinction > 0.0 else c
                total += shape[s]
            by_sun = min(value, light / steps * brightest) if total > 0.0 else 0.0
            # A NaN is not beyond anything.
            excess = value - by_sun
            beyond[d, i] = abs(excess) > 0.0
            factor = by_sun * steps / total if total > 0.0 else 0.0
            for s in range(steps):
                out[d, s, i] = share * (factor * shape[s] + excess)


@compile_loop
def heat_cycles(turn, ahead, day, lag, decay, out):  # type: ignore[no-untyped-def]
    """Write daily cycles of temperature with mean 0 and range 1; see :func:`downscale.fields.diurnal.sun_cycle`.

    Parameters
    ----------
    turn : array, shape (labels, steps)
        Hours since solar noon at longitude 0.
    ahead : array, shape (columns,)
        Hours by which the sun is ahead there.
    day : array, shape (labels, columns)
        Hours from sunrise to sunset.
    lag, decay : float
        Hours by which the maximum lags noon; decay by night.
    out : array, shape (labels, columns, steps)
    """
    labels, columns, steps = out.shape
    last = math.exp(-decay)
    for k in range(labels):
        for j in range(columns):
            length = day[k, j]
            dusk = math.sin(math.pi * length / (length + 2.0 * lag)) / (1.0 - last)
            low, high, total = math.inf, -math.inf, 0.0
            for i in range(steps):
                since = (turn[k, i] + ahead[j] + 0.5 * length) % 24.0
                if since <= length:
                    value = math.sin(math.pi * since / (length + 2.0 * lag))
                else:
                    value = dusk * (math.exp(-decay * (since - length) / (24.0 - length)) - last)
                out[k, j, i] = value
                low, high, total = min(low, value), max(high, value), total + value
            for i in range(steps):
                out[k, j, i] = (out[k, j, i] - total / steps) / (high - low)
