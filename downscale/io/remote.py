"""Remote files and stores (https, s3, gs), opened through fsspec."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from downscale.errors import InputError
from downscale.io.formats import HDF5, HDF5_READER, HEAD, MARKS, NETCDF, OTHERS, STORE

INSTALL = 'pip install "downscale-climate[remote]"'
# Packages that fsspec needs for each scheme.
PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
WEB = ("http", "https")
CLASSIC_READER = "scipy"
# Timeout of a server, in seconds.
PATIENCE = 30.0


def open_address(address: str, storage: dict[str, Any] | None = None) -> tuple[Any, str, dict[str, Any]]:
    """Return the object that xarray opens for an address, with its engine and options.

    Parameters
    ----------
    address : str
        Of a NetCDF or HDF5 file, of a Zarr store, or of an OPeNDAP server.
    storage : dict, optional
        Options of the file system of fsspec, such as ``{"anon": True}``.

    Raises
    ------
    InputError
        If a package is missing, the address is not readable, or its format cannot be read remotely.
    """
    scheme = address.split("://")[0]
    if scheme not in PACKAGES:
        raise InputError(
            f"expected a local file or an address of https, s3 or gs, received {address}; download it first"
        )
    for package in ("fsspec", PACKAGES[scheme]):
        _require(package, address)
    options = dict(storage or {})
    if scheme in WEB:
        options = {"client_kwargs": {"timeout": _timeout()}, **options}
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address, **options)
        if any(system.exists(f"{path.rstrip('/')}/{mark}") for mark in MARKS):
            _require(STORE, address)
            return address, STORE, {"storage_options": options}
        return _file_at(address, system, path, scheme)
    except InputError:
        raise
    except Exception as error:  # each file system has its own error classes
        raise InputError(unreachable(address, error)) from None


def unreachable(address: str, error: Exception) -> str:
    """Return the error message for an address that cannot be read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    reason = "not found" if isinstance(error, FileNotFoundError) else reason[:200]
    return f"expected a readable file or store at {address}, received none ({reason}); check the address"


def _file_at(address: str, system: Any, path: str, scheme: str) -> tuple[Any, str, dict[str, Any]]:
    """Return the single file at an address, by its first bytes."""
    try:
        file = system.open(path, "rb")
        head = file.read(HEAD)
        file.seek(0)
    except FileNotFoundError:
        if scheme in WEB and _is_dap(system, path):
            return address, NETCDF, {}
        raise
    if head.startswith(HDF5):
        _require(HDF5_READER, address)
        return file, HDF5_READER, {}
    if head.startswith(b"CDF"):
        return file, CLASSIC_READER, {}
    if scheme in WEB and _is_dap(system, path):
        return address, NETCDF, {}
    what = next((what.split(";")[0] for magic, what in OTHERS if head.startswith(magic)), "another kind of file")
    raise InputError(
        f"expected a NetCDF file or a Zarr store at {address}, received {what}; check the address, or "
        "download the file first"
    )


def _is_dap(system: Any, path: str) -> bool:
    """Return whether an OPeNDAP server describes a Dataset at an address."""
    try:
        return bool(system.cat_file(f"{path}.dds").lstrip().startswith(b"Dataset"))
    except Exception:  # any error means that it is not such a server
        return False


def _timeout() -> Any:
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)


def _require(package: str, address: str) -> None:
    try:
        import_module(package)
    except ImportError:
        raise InputError(
            f"expected the package {package} to read the address {address}, received none; {INSTALL}, or download the "
            "file first"
        ) from None
