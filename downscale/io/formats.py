"""Detection of file formats by their first bytes, and the engines that read them."""

from __future__ import annotations

import errno
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py

from downscale.errors import InputError, listing
from downscale.io.library import library

GRIB = (".grib", ".grib1", ".grib2", ".grb", ".grb1", ".grb2")
# Files that identify a folder as a Zarr store, in either format.
MARKS = (".zgroup", ".zmetadata", ".zarray", "zarr.json")
NETCDF, GRIB_READER, STORE, HDF5_READER = "netcdf4", "cfgrib", "zarr", "h5netcdf"
INSTALL = {GRIB_READER: 'pip install "downscale-climate[grib]"', STORE: 'pip install "downscale-climate[zarr]"'}
# Formats often mistaken for NetCDF: first bytes, name and remedy.
OTHERS = (
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
# xarray's message for times that it cannot decode.
UNDECODED = re.compile(r"unable to decode time units '(.*?)' with ['\"](?:calendar '(.*?)'|the default calendar)")
HDF5 = b"\x89HDF\r\n\x1a\n"
HEAD = 512


def is_store(path: str | Path) -> bool:
    """Return whether a path is the folder of a Zarr store."""
    return Path(path).is_dir() and any((Path(path) / mark).exists() for mark in MARKS)


def engine_of(path: str | Path) -> str:
    """Return xarray's engine for a path, by its content rather than its name.

    Raises
    ------
    InputError
        If the file is empty, not readable, or of a kind without gridded data.

    Examples
    --------
    >>> from downscale import sample
    >>> engine_of(sample.path("north_america"))
    'netcdf4'
    """
    if Path(path).is_dir():
        return STORE
    head = _head(path)
    if head[:4] == b"GRIB":
        return GRIB_READER
    for magic, what in OTHERS:
        if head.startswith(magic):
            raise InputError(f"expected a NetCDF file, received {path}, which is {what}")
    if Path(path).suffix.lower() in GRIB and not head.startswith((b"CDF", HDF5)):
        return GRIB_READER
    return NETCDF


def reader_of_types(path: str | Path) -> str:
    """Return the engine that reads the numbers of a NetCDF or HDF5 file.

    The NetCDF library crashes on floating-point numbers of two, or of more than eight, bytes.

    Raises
    ------
    InputError
        If there are such numbers and no other reader is installed.
    """
    if not _head(path).startswith(HDF5):
        return NETCDF
    try:
        with library(), h5py.File(path, "r", locking="best-effort") as file:
            odd = _odd_numbers(file)
    except Exception:  # the reader itself reports faults of the file better
        return NETCDF
    if not odd:
        return NETCDF
    if find_spec(HDF5_READER) is None:
        raise InputError(
            f"expected numbers of 4 or 8 bytes, received {odd} in {path}; pip install {HDF5_READER}, or store it as "
            "float32"
        )
    return HDF5_READER


def _odd_numbers(file: h5py.File) -> str:
    """Return a variable whose floating-point numbers do not have 4 or 8 bytes, and its type."""

    def look(name: str, item: Any) -> str | None:
        kind = item.dtype if isinstance(item, h5py.Dataset) else None
        odd = kind is not None and kind.kind == "f" and kind.itemsize not in (4, 8)
        return f"{name!r} of {kind}" if odd else None

    return str(file.visititems(look) or "")


def _head(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except PermissionError:
        raise InputError(f"expected a readable file, received {path} without permission; see ls -l") from None
    if not head:
        raise InputError(f"expected a readable NetCDF file, received {path}, which is empty; get it again")
    return head


def require_reader(engine: str, path: str | Path) -> None:
    """Raise an InputError if the package of an engine is not installed, or does not work."""
    if engine not in INSTALL:
        return
    what = "the GRIB file" if engine == GRIB_READER else "the Zarr store"
    try:
        import_module(engine)
    except Exception as error:  # missing libraries raise various errors
        reason = "none" if isinstance(error, ImportError) else " ".join(str(error).split())
        line = f"expected the package {engine} to read {what} {path}, received {reason}; {INSTALL[engine]}"
        raise InputError(line) from None


def complaint(engine: str, path: str | Path, error: Exception, several: bool = False) -> str:
    """Return the error message for a file, or one of several, that its reader cannot read."""
    text = str(getattr(error, "strerror", None) or error).strip()
    if getattr(error, "errno", None) == errno.EMFILE or "Too many open files" in text:
        return (
            f"expected to hold all files of {path} open at once, received 'too many open files'; raise the limit with "
            "ulimit -n, or join them first, for example with cdo mergetime"
        )
    times = UNDECODED.search(text)
    if times is not None:
        return (
            f"expected times in units of one length and a known calendar, received units {times[1]!r} and "
            f"calendar {times[2]!r} in {path}; rewrite them, for example with cdo settaxis, or open it with "
            "decode_times=False"
        )
    reason = text.splitlines()[0] if text else type(error).__name__
    if several and not isinstance(error, OSError):
        return f"expected files of one grid that follow each other, received {path} ({reason}); choose another pattern"
    if several and isinstance(error, OSError) and error.filename:
        path = Path(str(error.filename)).name
    if engine == GRIB_READER:
        mixed = "filter_by_keys" in text
        hint = "take fields of one level and step type out with grib_copy -w" if mixed else "check it with grib_ls"
        return f"expected a whole GRIB file of one grid, received {path} ({reason}); {hint}"
    if engine == STORE:
        return f"expected a readable Zarr store, received {path} ({reason}); check that it was copied as a whole"
    return f"expected a readable NetCDF file, received {path} ({reason}); check it with ncdump -h"


def require_variables(ds: Any, path: str | Path) -> None:
    """Raise an InputError if the root of a file or store has no variables; the message names its groups."""
    if ds.variables:
        return
    groups = _groups(path)
    if not groups:
        raise InputError(f"expected variables, received {path} without any; check it with ncdump -h")
    raise InputError(
        f"expected variables, received {path} with the groups {listing(groups)} only; open one with "
        f"group={groups[0]!r}, or take it out with ncks -G : -g {groups[0]} {path} out.nc"
    )


def _groups(path: str | Path) -> list[str]:
    if Path(path).is_dir():
        return sorted(folder.name for folder in Path(path).iterdir() if is_store(folder))
    if not Path(path).is_file():
        return []
    from downscale.io.library import plain_file

    with plain_file(path) as file:
        return list(file.groups)


def reader_options(engine: str) -> dict[str, Any]:
    """Return the options of a reader: no index files, and no damaged messages skipped."""
    return {"backend_kwargs": {"indexpath": "", "errors": "raise"}} if engine == GRIB_READER else {}
