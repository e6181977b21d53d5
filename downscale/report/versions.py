"""Versions of this package and of what it stands on (knows names only)."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from downscale.version import __version__

LIBRARIES = ("numpy", "xarray", "dask", "torch", "netCDF4", "cartopy")


def library_versions() -> dict[str, str]:
    """Return the versions of this package and of what it stands on."""
    found = {"downscale": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
