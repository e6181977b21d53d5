"""Versions of this package and its dependencies."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from downscale.version import __version__

RUNS = ("numpy", "xarray", "dask", "torch", "netCDF4", "cartopy")
TRAINS = ("torch", "lightning", "numpy", "xarray", "safetensors")


def library_versions(names: tuple[str, ...] = RUNS) -> dict[str, str]:
    """Return the versions of this package, of Python and of libraries; "not installed" for those missing.

    Examples
    --------
    >>> library_versions(("numpy", "no-such-library"))["no-such-library"]
    'not installed'
    """
    found = {"downscale": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
