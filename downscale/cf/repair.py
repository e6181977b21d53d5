"""Repair of metadata that checkers would reject: names, axes, codes, grid mappings.

Only unambiguous faults are repaired; values never change.
"""

from __future__ import annotations

from typing import Any

import xarray as xr

from downscale.cf.codes import CODE_UNITS
from downscale.cf.projections import load_pyproj
from downscale.cf.times import is_time

UNNAMED = ("", "none", "unknown")


def mend(ready: xr.Dataset, bounds: set[str]) -> None:
    """Complete the metadata of a Dataset in place; ``bounds`` inherit theirs from coordinates."""
    for name, variable in ready.variables.items():
        if variable.ndim == 0 and _is_mapping(variable.attrs):
            _mend_mapping(variable.attrs)
        elif name not in bounds:
            _mend_names(str(name), variable)
            _mend_axis(variable)
            _mend_codes(variable)


def _is_mapping(attrs: dict[Any, Any]) -> bool:
    return bool({"grid_mapping_name", "crs_wkt", "spatial_ref"} & set(attrs))


def _mend_names(name: str, variable: xr.Variable) -> None:
    """Give a long name to a variable that has neither a long nor a standard name."""
    if not {"standard_name", "long_name"} & set(variable.attrs):
        variable.attrs["long_name"] = name.replace("_", " ")


def _mend_axis(variable: xr.Variable) -> None:
    """Remove the time axis attribute of a step count, whose dates are in another coordinate."""
    attrs = variable.attrs
    if attrs.get("axis") == "T" and "units" not in attrs and not is_time(variable):
        del attrs["axis"]


def _mend_codes(variable: xr.Variable) -> None:
    """Remove units such as "ids" of codes, which have no units."""
    if str(variable.attrs.get("units", "")).strip().lower() in CODE_UNITS:
        del variable.attrs["units"]


def _mend_mapping(attrs: dict[Any, Any]) -> None:
    """Add attributes of a grid mapping that CF requires and its others imply."""
    if str(attrs.get("grid_mapping_name", "")).lower() in UNNAMED:
        attrs.pop("grid_mapping_name", None)
        for key, value in _from_text(str(attrs.get("crs_wkt") or attrs.get("spatial_ref") or "")).items():
            attrs.setdefault(key, value)
    if attrs.get("grid_mapping_name") == "polar_stereographic" and "latitude_of_projection_origin" not in attrs:
        parallel = attrs.get("standard_parallel")
        if parallel is not None:
            attrs["latitude_of_projection_origin"] = 90.0 if float(parallel) > 0 else -90.0


def _from_text(text: str) -> dict[str, Any]:
    """Return the CF attributes of a coordinate system as text, empty if CF has no name for it."""
    load_pyproj()
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        found = CRS.from_wkt(text).to_cf()
    except CRSError:
        return {}
    return found if str(found.get("grid_mapping_name", "")).lower() not in UNNAMED else {}
