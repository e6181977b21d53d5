"""The version of the package, read by both the build and the import, and the versions of its dependencies."""

from __future__ import annotations

__version__ = "0.1.0"

RUNS = ("numpy", "xarray", "dask", "torch", "netCDF4", "cartopy")
TRAINS = ("torch", "lightning", "numpy", "xarray", "safetensors")


def library_versions(names: tuple[str, ...] = RUNS) -> dict[str, str]:
    """Return the versions of this package, of Python and of libraries; "not installed" for those missing.

    Examples
    --------
    >>> library_versions(("numpy", "no-such-library"))["no-such-library"]
    'not installed'
    """
    # Deferred: takes a tenth of the time of the command's help.
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = {"downscale": __version__, "python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions
