"""Physical bounds of quantities: asked for, or by CF standard name and units (knows names only)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from downscale.errors import OptionError

Bounds = tuple[float | None, float | None]

# Amounts and rates that cannot be negative, whatever their units.
NONNEGATIVE = (
    "precipitation", "rainfall", "snowfall", "lwe_thickness", "thickness_of", "specific_humidity",
    "humidity_mixing_ratio", "mass_fraction_of", "mole_fraction_of", "wind_speed", "_speed", "runoff",
    "soil_moisture", "evaporation_amount", "surface_snow_amount", "surface_downwelling", "concentration_of",
    "snow_thickness", "ice_thickness", "optical_thickness", "mass_content_of", "leaf_area_index", "incoming_shortwave",
)  # fmt: skip
# Shares of a whole: 0 to 1, or 0 to 100 in per cent.
FRACTIONS = ("_area_fraction", "area_fraction", "relative_humidity", "sea_ice_area_fraction", "cloud_area_fraction")
PER_CENT = ("%", "percent", "per cent")


def automatic_bounds(variable: xr.DataArray) -> Bounds:
    """Return the bounds that the standard name of a variable implies, ``(None, None)`` where there are none.

    Examples
    --------
    >>> automatic_bounds(xr.DataArray(0.0, attrs={"standard_name": "precipitation_flux"}))
    (0.0, None)
    >>> automatic_bounds(xr.DataArray(0.0, attrs={"standard_name": "cloud_area_fraction", "units": "%"}))
    (0.0, 100.0)
    """
    name = str(variable.attrs.get("standard_name", ""))
    if name.startswith(("tendency_of", "change_", "product_of")) or name.endswith("_anomaly"):
        return None, None
    if any(word in name for word in FRACTIONS):
        return 0.0, 100.0 if str(variable.attrs.get("units", "1")).lower() in PER_CENT else 1.0
    return (0.0, None) if any(word in name for word in NONNEGATIVE) else (None, None)


def variable_bounds(variable: xr.DataArray, name: str, bounds: Any) -> Bounds:
    """Return the bounds of one variable from "auto", a pair, None, or a mapping of these by name.

    Raises
    ------
    OptionError
        If it is none of these, or the lower bound is not below the upper.
    """
    if isinstance(bounds, Mapping):
        return variable_bounds(variable, name, bounds.get(name, "auto"))
    if bounds is None:
        return None, None
    if isinstance(bounds, str) and bounds == "auto":
        return automatic_bounds(variable)
    pair = tuple(bounds) if isinstance(bounds, (tuple, list)) else ()
    if len(pair) != 2 or not all(b is None or (is_number(b) and not math.isnan(b)) for b in pair):
        raise OptionError(f"expected bounds to be 'auto', None or a pair (lower, upper), received {bounds!r}")
    low, high = (None if b is None or math.isinf(b) else float(b) for b in pair)
    if low is not None and high is not None and not low < high:
        raise OptionError(f"expected the lower bound below the upper, received {bounds!r}")
    return low, high


def is_number(value: Any) -> bool:
    """Return whether a value is a real number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
