"""Import of pyproj that works together with ecCodes, in either order of import.

ecCodes contains its own PROJ library and exports its functions to all libraries loaded later. pyproj would call them
with the wrong database: coordinate systems could not be read, and the interpreter would abort at exit. pyproj is
therefore loaded before ecCodes, or else in a way that it finds its own functions first.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec

from downscale.errors import InputError

# Packages that load ecCodes, and the one that reads GRIB files for xarray.
ECCODES, READER = ("gribapi", "eccodes", "eccodeslib"), "cfgrib"


def load_pyproj() -> None:
    """Import pyproj so that it finds its own functions first; does nothing if it is already loaded.

    Raises
    ------
    InputError
        If it was imported after ecCodes by other code, and does not work.
    """
    behind = any(name in sys.modules for name in ECCODES)
    if "pyproj" in sys.modules:
        if behind:
            _require_working()
        return
    deep = getattr(os, "RTLD_DEEPBIND", 0) if behind else 0
    if not deep:
        import_module("pyproj")
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | deep)
    try:
        import_module("pyproj")
    finally:
        sys.setdlopenflags(flags)


def load_pyproj_before_eccodes() -> None:
    """Import pyproj if xarray could load ecCodes, which it does for any file if cfgrib is installed."""
    if find_spec(READER) is not None:
        load_pyproj()


def _require_working() -> None:
    """Raise an InputError if pyproj cannot read the simplest coordinate system."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        CRS.from_epsg(4326)
    except CRSError as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"expected pyproj to read coordinate systems, received an error ({reason}); import downscale or pyproj "
            "before xarray, cfgrib or eccodes"
        ) from None
