"""Detection of file formats by their first bytes, and the engines that read them, also from remote addresses."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from downscale.errors import InputError, listing
from downscale.io.library import hdf5_file, library, plain_file

GRIB = (".grib", ".grib1", ".grib2", ".grb", ".grb1", ".grb2")
# Files that identify a folder as a Zarr store, in either format.
MARKS = (".zgroup", ".zmetadata", ".zarray", "zarr.json")
NETCDF, GRIB_READER, STORE, HDF5_READER = "netcdf4", "cfgrib", "zarr", "h5netcdf"
INSTALL = {GRIB_READER: 'pip install "downscale-climate[grib]"', STORE: 'pip install "downscale-climate[zarr]"'}
# Formats often mistaken for NetCDF: first bytes, name and remedy.
OTHER_FORMATS = (
    (b"\x1f\x8b", "a gzip file; unpack it with gunzip"),
    (b"BZh", "a bzip2 file; unpack it with bunzip2"),
    (b"PK\x03\x04", "a zip archive; unpack it with unzip"),
    (b"\x89PNG", "a PNG image; pass the data themselves"),
    (b"\xff\xd8\xff", "a JPEG image; pass the data themselves"),
    (b"%PDF", "a PDF document; pass the data themselves"),
    (b"II*\x00", "a TIFF image; convert it with gdal_translate -of netCDF"),
    (b"MM\x00*", "a TIFF image; convert it with gdal_translate -of netCDF"),
    (b"\x0e\x03\x13\x01", "an HDF4 file; convert it with ncl_convert2nc or h4tonccf"),
    (b"<", "a web page or XML, perhaps of a download that failed; get the file again"),
    (b"{", "JSON; pass the file that it describes"),
)  # fmt: skip
HDF5 = b"\x89HDF\r\n\x1a\n"
HEAD_BYTES = 512
INSTALL_REMOTE = 'pip install "downscale-climate[remote]"'
# Packages that fsspec needs for each scheme.
PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
WEB = ("http", "https")
CLASSIC_READER = "scipy"
# Timeout of a server, in seconds.
TIMEOUT_SECONDS = 30.0
# Widths in bytes of a count and of an offset, by the version number after the letters CDF.
WIDTHS = {1: (4, 4), 2: (4, 8), 5: (8, 8)}
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


def is_store(path: str | Path) -> bool:
    """Return whether a path is the folder of a Zarr store."""
    return Path(path).is_dir() and any((Path(path) / mark).exists() for mark in MARKS)


def engine_of(path: str | Path) -> str:
    """Return xarray's engine for a path, by its content rather than its name."""
    if Path(path).is_dir():
        return STORE
    head = _head(path)
    if head[:4] == b"GRIB":
        return GRIB_READER
    for magic, kind in OTHER_FORMATS:
        if head.startswith(magic):
            raise InputError(f"expected a NetCDF file, received {path}, which is {kind}")
    if Path(path).suffix.lower() in GRIB and not head.startswith((b"CDF", HDF5)):
        return GRIB_READER
    return NETCDF


def reader_of_types(path: str | Path) -> str:
    """Return the engine that reads the numbers of a NetCDF or HDF5 file.

    The NetCDF library crashes on floating-point numbers of two, or of more than eight, bytes.
    """
    if not _head(path).startswith(HDF5):
        return NETCDF

    def odd_number(name: str, item: Any) -> str | None:
        is_odd = isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and item.dtype.itemsize not in (4, 8)
        return f"{name!r} of {item.dtype}" if is_odd else None

    try:
        with hdf5_file(path) as file, library():
            field = str(file.visititems(odd_number) or "")
    except Exception:  # the reader itself reports faults of the file better
        return NETCDF
    if not field:
        return NETCDF
    if find_spec(HDF5_READER) is None:
        raise InputError(
            f"expected numbers of 4 or 8 bytes, received {field} in {path}; pip install {HDF5_READER}, or store it as "
            "float32"
        )
    return HDF5_READER


def _head(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except PermissionError:
        raise InputError(f"expected a readable file, received {path} without permission; see ls -l") from None
    if not head:
        raise InputError(f"expected a readable NetCDF file, received {path}, which is empty; get it again")
    return head


def require_reader(engine: str, path: str | Path) -> None:
    """Raise an InputError if the package of an engine is not installed, or does not work."""
    if engine not in INSTALL:
        return
    description = "the GRIB file" if engine == GRIB_READER else "the Zarr store"
    try:
        import_module(engine)
    except Exception as error:  # missing libraries raise various errors
        reason = "none" if isinstance(error, ImportError) else " ".join(str(error).split())
        line = f"expected the package {engine} to read {description} {path}, received {reason}; {INSTALL[engine]}"
        raise InputError(line) from None


def reading_error(engine: str, path: str | Path, error: Exception, several: bool = False) -> str:
    """Return the error message for a file, or one of several, that its reader cannot read."""
    text = str(getattr(error, "strerror", None) or error).strip()
    if getattr(error, "errno", None) == errno.EMFILE:
        return (
            f"expected to hold all files of {path} open at once, received 'too many open files'; raise the limit with "
            "ulimit -n, or join them first, for example with cdo mergetime"
        )
    reason = text.splitlines()[0] if text else type(error).__name__
    if several and not isinstance(error, OSError):
        return f"expected files of one grid that follow each other, received {path} ({reason}); choose another pattern"
    if several and isinstance(error, OSError) and error.filename:
        path = Path(str(error.filename)).name
    if engine == GRIB_READER:
        is_mixed = "filter_by_keys" in text
        hint = "take fields of one level and step type out with grib_copy -w" if is_mixed else "check it with grib_ls"
        return f"expected a whole GRIB file of one grid, received {path} ({reason}); {hint}"
    if engine == STORE:
        return f"expected a readable Zarr store, received {path} ({reason}); check that it was copied as a whole"
    return f"expected a readable NetCDF file, received {path} ({reason}); check it with ncdump -h"


def require_variables(ds: Any, path: str | Path) -> None:
    """Raise an InputError if the root of a file or store has no variables; the message names its groups."""
    if ds.variables:
        return
    groups: list[str] = []
    if Path(path).is_dir():
        groups = sorted(folder.name for folder in Path(path).iterdir() if is_store(folder))
    elif Path(path).is_file():
        with plain_file(path) as file:
            groups = list(file.groups)
    if not groups:
        raise InputError(f"expected variables, received {path} without any; check it with ncdump -h")
    raise InputError(
        f"expected variables, received {path} with the groups {listing(groups)} only; open one with "
        f"group={groups[0]!r}, or take it out with ncks -G : -g {groups[0]} {path} out.nc"
    )


def open_address(address: str, storage: dict[str, Any] | None = None) -> tuple[Any, str, dict[str, Any]]:
    """Return the object that xarray opens for an address, with its engine and options."""
    scheme = address.split("://")[0]
    if scheme not in PACKAGES:
        raise InputError(
            f"expected a local file or an address of https, s3 or gs, received {address}; download it first"
        )
    for package in ("fsspec", PACKAGES[scheme]):
        _require_package(package, address)
    options = dict(storage or {})
    if scheme in WEB:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS)
        options = {"client_kwargs": {"timeout": timeout}, **options}
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address, **options)
        if any(system.exists(f"{path.rstrip('/')}/{mark}") for mark in MARKS):
            _require_package(STORE, address)
            return address, STORE, {"storage_options": options}
        return _file_at(address, system, path, scheme)
    except InputError:
        raise
    except Exception as error:  # each file system has its own error classes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        reason = "not found" if isinstance(error, FileNotFoundError) else reason
        line = f"expected a readable file or store at {address}, received none ({reason}); check the address"
        raise InputError(line) from None


def _file_at(address: str, system: Any, path: str, scheme: str) -> tuple[Any, str, dict[str, Any]]:
    """Return the single file at an address, by its first bytes."""
    try:
        file = system.open(path, "rb")
        head = file.read(HEAD_BYTES)
        file.seek(0)
    except FileNotFoundError:
        if scheme in WEB and _is_dap(system, path):
            return address, NETCDF, {}
        raise
    if head.startswith(HDF5):
        _require_package(HDF5_READER, address)
        return file, HDF5_READER, {}
    if head.startswith(b"CDF"):
        return file, CLASSIC_READER, {}
    if scheme in WEB and _is_dap(system, path):
        return address, NETCDF, {}
    description = next(
        (description.split(";")[0] for magic, description in OTHER_FORMATS if head.startswith(magic)),
        "another kind of file",
    )
    raise InputError(
        f"expected a NetCDF file or a Zarr store at {address}, received {description}; check the address, or "
        "download the file first"
    )


def _is_dap(system: Any, path: str) -> bool:
    """Return whether an OPeNDAP server describes a Dataset at an address."""
    try:
        return bool(system.cat_file(f"{path}.dds").lstrip().startswith(b"Dataset"))
    except Exception:  # any error means that it is not such a server
        return False


def _require_package(package: str, address: str) -> None:
    try:
        import_module(package)
    except ImportError:
        raise InputError(
            f"expected the package {package} to read the address {address}, received none; {INSTALL_REMOTE}, or "
            "download the file first"
        ) from None


def require_complete(path: str | Path) -> None:
    """Raise an error if a classic NetCDF file is shorter than its header requires; other files pass."""
    actual = Path(path).stat().st_size
    try:
        with Path(path).open("rb") as file:
            required = _length_by_header(file)
    except (EOFError, KeyError, IndexError):
        raise InputError(f"expected a whole NetCDF file, received {path} with half a header; get it again") from None
    if required is not None and actual < required:
        raise InputError(
            f"expected a whole NetCDF file of {required} bytes, received {path} of {actual} bytes; get it again"
        )


def _length_by_header(file: BinaryIO) -> int | None:
    """Return the end of the last value of a classic file, from its header; None for other kinds of file."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != b"CDF" or magic[3] not in WIDTHS:
        return None
    count_width, offset_width = WIDTHS[magic[3]]

    def read(length: int) -> bytes:
        content = file.read(length)
        if len(content) < length:
            raise EOFError
        return content

    def integer(width: int = count_width) -> int:
        return int.from_bytes(read(width), "big")

    def items() -> Iterator[None]:
        integer(4)
        for _ in range(integer()):
            read(_pad_length(integer()))  # the name
            yield

    def skip_attributes() -> None:
        for _ in items():
            size = TYPE_SIZES[integer(4)]
            read(_pad_length(integer() * size))

    records = integer()
    # A file that is still streamed lacks the number of records.
    records = 0 if records == 2 ** (8 * count_width) - 1 else records
    sizes = [integer() for _ in items()]
    skip_attributes()
    variables = []
    for _ in items():
        shape = [sizes[integer()] for _ in range(integer())]
        skip_attributes()
        size = TYPE_SIZES[integer(4)]
        integer()
        is_record = shape[:1] == [0]
        variables.append((is_record, integer(offset_width), math.prod(shape[is_record:]) * size))
    # Each variable's part of a record is padded, except if there is only one.
    lengths = [length for is_record, _, length in variables if is_record]
    step = lengths[0] if len(lengths) == 1 else sum(map(_pad_length, lengths))
    ends = [begin + (length if not is_record else (records - 1) * step + length if records else 0)
            for is_record, begin, length in variables]  # fmt: skip
    return max(ends, default=file.tell())


def _pad_length(length: int) -> int:
    return -(-length // 4) * 4
