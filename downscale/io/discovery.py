"""Global discovery attributes of a file by ACDD: extent, times and content.

Attributes that follow from the result are computed, attributes of the author are kept. Those that describe only the
input are dropped: its extent, its creation dates, its identifier.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.bounds import read_bounds, values_of
from downscale.cf.times import frequency, period, resolution, span, stamp, steps, time_name
from downscale.errors import GridError
from downscale.io.encoding import CONVENTIONS, fields_of

ACDD = "ACDD-1.3"
STALE = (
    "tracking_id", "creation_date", "date_created", "date_modified", "date_issued", "date_metadata_modified",
    "nominal_resolution", "grid_label", "id", "uuid",
)  # fmt: skip
EXTENT = re.compile(r"geospatial_(lat|lon|bounds).*|time_coverage_.*")
UNITS = {"lat": "degrees_north", "lon": "degrees_east"}
STANDARD = {"lat": "latitude", "lon": "longitude"}
# Longitudes of a whole circle leave no gap wider than a coarse cell.
WIDEST_CELL = 30.0
CIRCLE = 360.0


def described(ds: xr.Dataset) -> dict[str, Any]:
    """Return the global attributes of a file: the valid ones of ``ds``, and computed ones."""
    kept = {key: value for key, value in ds.attrs.items() if key not in STALE and not EXTENT.fullmatch(str(key))}
    if "frequency" in kept and _base(kept["frequency"]) != _base(frequency(ds)):
        del kept["frequency"]
    names = [_called(ds[name]) for name in fields_of(ds)]
    standard = [str(ds[name].attrs["standard_name"]) for name in fields_of(ds) if "standard_name" in ds[name].attrs]
    settings = kept.get("downscale_settings")
    made = {
        "title": ", ".join(names),
        "summary": ", ".join(names) + (f"; downscaled with these settings: {settings}" if settings else ""),
        "keywords": ", ".join(dict.fromkeys(standard)),
        **kept,
        "Conventions": f"{CONVENTIONS}, {ACDD}",
        "date_created": now(),
    }
    return {**{k: v for k, v in made.items() if not (isinstance(v, str) and v == "")}, **extent(ds), **coverage(ds)}


def _called(field: xr.DataArray) -> str:
    return str(field.attrs.get("long_name") or field.attrs.get("standard_name") or field.name)


def now() -> str:
    """Return the current UTC time in ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _base(word: Any) -> str:
    """Return the step in a frequency of CMIP, without the kind of sampling."""
    found = re.match(r"\d*hr|day|mon|yr|fx", str(word))
    return found[0] if found else str(word)


def coverage(ds: xr.Dataset) -> dict[str, str]:
    """Return the time coverage: first and last date, by bounds if available, length and step; in any calendar."""
    name = time_name(ds)
    if name is None:
        return {}
    begin, end = span(ds, name)
    made = {"time_coverage_start": stamp(begin), "time_coverage_end": stamp(end)}
    length = end - begin
    days = length / np.timedelta64(1, "D") if isinstance(length, np.timedelta64) else length.total_seconds() / 86400
    made["time_coverage_duration"] = period(float(days))
    step = resolution(steps(ds, name))
    return {**made, **({} if step is None else {"time_coverage_resolution": step})}


def extent(ds: xr.Dataset) -> dict[str, Any]:
    """Return the bounding box of all cells in latitude and longitude, by their bounds if available.

    By ACDD, the western edge is the larger number if the box crosses the seam of longitudes.
    """
    names = {which: globe_coordinate(ds, which) for which in STANDARD}
    if None in names.values():
        return {}
    made: dict[str, Any] = {}
    for which, name in names.items():
        assert name is not None
        ends = _latitudes(ds, name) if which == "lat" else _longitudes(ds, name)
        for side, value in zip(("min", "max"), ends, strict=True):
            made[f"geospatial_{which}_{side}"] = float(value)
        made[f"geospatial_{which}_units"] = UNITS[which]
        step = _step(ds, name)
        if step is not None:
            made[f"geospatial_{which}_resolution"] = f"{step:.6g} degrees"
    return made


def globe_coordinate(ds: xr.Dataset, which: str) -> str | None:
    """Return the name of the true latitude ("lat") or longitude ("lon") in one or two dimensions."""
    found = [
        str(name) for name, c in ds.coords.items()
        if c.ndim in (1, 2) and c.dtype.kind in "fiu"
        and (c.attrs.get("standard_name") == STANDARD[which] or c.attrs.get("units") == UNITS[which]
             or ("standard_name" not in c.attrs and str(name) in (which, STANDARD[which])))
    ]  # fmt: skip
    return found[0] if found else None


def _numbers(ds: xr.Dataset, name: str) -> NDArray[np.float64]:
    """Return the edges of all cells if available, else the centres."""
    try:
        bounds = read_bounds(ds, name)
    except GridError:
        bounds = None
    return np.asarray(values_of(ds[name].variable) if bounds is None else bounds, dtype=np.float64)


def _latitudes(ds: xr.Dataset, name: str) -> tuple[float, float]:
    values = _numbers(ds, name)
    return float(np.nanmin(values)), float(np.nanmax(values))


def _longitudes(ds: xr.Dataset, name: str) -> tuple[float, float]:
    """Return the western and the eastern edge on the branch of the coordinate."""
    values = _numbers(ds, name)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    centres = np.asarray(ds[name].values, dtype=np.float64)
    straight = centres.ndim == 1 and np.abs(np.diff(centres)).max(initial=0) <= CIRCLE / 2
    if straight or high - low < CIRCLE / 2:
        return low, high
    around = np.unique(np.round(values[np.isfinite(values)] % CIRCLE, 9))
    gaps = np.diff(np.append(around, around[0] + CIRCLE))
    widest = int(gaps.argmax())
    if gaps[widest] <= WIDEST_CELL:
        return low, high
    west, east = (float(v) for v in (around[(widest + 1) % around.size], around[widest]))
    if low < 0:
        west, east = (v - CIRCLE if v > CIRCLE / 2 else v for v in (west, east))
    return west, east


def _step(ds: xr.Dataset, name: str) -> float | None:
    """Return the step of a regular one-dimensional coordinate, else None."""
    if ds[name].ndim != 1 or ds[name].size < 2:
        return None
    gaps = np.abs(np.diff(np.asarray(ds[name].values, dtype=np.float64)))
    gaps = np.minimum(gaps, np.abs(gaps - CIRCLE))
    return float(np.median(gaps)) if np.ptp(gaps) <= 1e-3 * gaps.max() else None
