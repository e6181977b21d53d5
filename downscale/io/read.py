"""Open NetCDF files as CF says, with Dask chunks and one-line errors (xarray; never torch)."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.errors import InputError, listing
from downscale.io.classic import require_whole

HARMLESS = ("The specified chunks separate", ".*referenced in .* not in variables", ".*non-conforming '_FillValue'")
SOURCES = "sources"
Chunks = str | int | Mapping[Any, Any] | None


def open_dataset(path: str | Path, chunks: Chunks = "auto", **options: Any) -> xr.Dataset:
    """Open a NetCDF file, or several by a glob, lazily; bounds and grid mappings become coordinates.

    Parameters
    ----------
    path : str or Path
        A file, or a pattern such as ``"tas_*.nc"`` whose files are joined by their coordinates.
    chunks : "auto", int, mapping or None
        Dask chunks as in xarray; None reads without Dask.
    **options
        Passed to ``xarray.open_dataset``.

    Returns
    -------
    Dataset
        With ``decode_coords="all"``, so that bounds, cell areas and grid mappings are coordinates.

    Raises
    ------
    InputError
        If there is no such file, or it is not a readable NetCDF file.
    """
    files = find_files(path)
    settings: dict[str, Any] = {"decode_coords": "all", "chunks": chunks, "engine": "netcdf4", **options}
    try:
        with warnings.catch_warnings():
            # Chunks finer than those on disk are the caller's choice; the others are slips of the file that do no harm.
            for harmless in HARMLESS:
                warnings.filterwarnings("ignore", message=harmless)
            return _known(_opened(files, settings), chunks)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        line = f"expected a readable NetCDF file, received {path} ({reason}); check it with ncdump -h"
        raise InputError(line) from None


def _known(ds: xr.Dataset, chunks: Chunks) -> xr.Dataset:
    """Return the Dataset if it has every dimension of ``chunks``; xarray would pass over a misspelt one."""
    for name, size in chunks.items() if isinstance(chunks, Mapping) else ():
        if size == 0:
            raise InputError(f"expected chunks of at least one value along {name!r}, received 0; -1 is all of them")
        if name not in ds.sizes:
            raise InputError(f"expected chunks of the dimensions {listing(ds.sizes)}, received {name!r}; see ncdump -h")
    return ds


def _opened(files: list[str], settings: dict[str, Any]) -> xr.Dataset:
    for file in files:
        require_whole(file)
    if len(files) == 1:
        return xr.open_dataset(files[0], **settings)
    joined: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "exact"}
    whole = xr.open_mfdataset(files, combine="by_coords", **joined, **settings)
    for variable in whole.variables.values():
        # The library remembers the first file only, on the whole and on each variable.
        variable.encoding[SOURCES] = tuple(files)
    return whole


def sources_of(*objects: Any) -> tuple[str, ...]:
    """Return the files that xarray objects were opened from, which variables remember through selections."""
    found: dict[str, None] = {}
    for obj in objects:
        if isinstance(obj, xr.DataArray):
            obj = obj.to_dataset(name="field") if obj.name is None or obj.name in obj.coords else obj.to_dataset()
        for encoding in (obj.encoding, *(variable.encoding for variable in obj.variables.values())):
            names = (encoding.get("source"), *encoding.get(SOURCES, ()))
            found.update(dict.fromkeys(str(name) for name in names if name))
    return tuple(found)


def find_files(path: str | Path) -> list[str]:
    """Return the files that a path or pattern names, sorted.

    Raises
    ------
    InputError
        If there is none.
    """
    text = str(Path(path).expanduser())
    if any(mark in text for mark in "*?["):
        files = sorted(glob.glob(text, recursive=True))
        if not files:
            raise InputError(f"expected files that match {text}, received none; check the pattern")
        return files
    if not Path(text).exists():
        raise InputError(f"expected an existing file, received {text}; check the path")
    if Path(text).is_dir():
        raise InputError(f"expected a file, received the folder {text}; give a pattern such as {text}/*.nc")
    return [text]
