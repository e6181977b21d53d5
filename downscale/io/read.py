"""Open NetCDF files, Zarr stores and GRIB files as CF says, with Dask chunks and one-line errors (never torch)."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from downscale.errors import InputError, listing
from downscale.io.chunking import map_chunks
from downscale.io.classic import require_whole
from downscale.io.formats import (
    GRIB_READER,
    NETCDF,
    complaint,
    engine_of,
    is_store,
    reader_options,
    require_reader,
    require_variables,
)

HARMLESS = (
    "The specified chunks separate", ".*referenced in .* not in variables", ".*non-conforming '_FillValue'",
    "Failed to open Zarr store with consolidated", "Object at .* is not recognized", "Consolidated metadata is curr",
)  # fmt: skip
SOURCES = "sources"
LARGEST = 2**62
# What GRIB says of the message and of its own grid, which is no longer true of a field that was regridded.
GRIB_KEPT = ("GRIB_paramId", "GRIB_shortName", "GRIB_stepType", "GRIB_typeOfLevel")
Chunks = str | int | Mapping[Any, Any] | None


def open_dataset(path: str | Path, chunks: Chunks = "auto", **options: Any) -> xr.Dataset:
    """Open a NetCDF file, a Zarr store or a GRIB file, or several by a glob, lazily, with bounds as coordinates.

    Parameters
    ----------
    path : str or Path
        A file or the folder of a store, or a pattern such as ``"tas_*.nc"`` whose files are joined by their
        coordinates. GRIB files need the extra ``grib``, stores the extra ``zarr``; nothing is written beside them.
    chunks : "auto", int, mapping or None
        Dask chunks as in xarray; "auto" takes whole maps, a few at a time and never less than is stored as one piece;
        None reads without Dask.
    **options
        Passed to ``xarray.open_dataset``.

    Returns
    -------
    Dataset
        With ``decode_coords="all"``, so that bounds, cell areas and grid mappings are coordinates.

    Raises
    ------
    InputError
        If there is no such file, or it is not readable.
    """
    _require_chunks(chunks)
    files = find_files(path)
    engine = str(options.get("engine") or _one_engine(files))
    require_reader(engine, path)
    settings: dict[str, Any] = {"decode_coords": "all", "chunks": chunks, **options, "engine": engine}
    if "backend_kwargs" not in options:
        settings.update(reader_options(engine))
    try:
        with warnings.catch_warnings():
            # Chunks finer than those on disk are the caller's choice; the others are slips of the file that do no harm.
            for harmless in HARMLESS:
                warnings.filterwarnings("ignore", message=harmless)
            ds = _known(_opened(files, settings), chunks)
    except InputError:
        raise
    except Exception as error:
        if options and isinstance(error, TypeError):
            raise  # an option that xarray does not know
        # Whatever a reader stumbles over lies in the file, and each reader has errors of its own.
        raise InputError(complaint(engine, path, error, len(files) > 1)) from None
    require_variables(ds, path)
    return _remembering(ds, files, engine)


def _one_engine(files: list[str]) -> str:
    engines = {engine_of(file): file for file in files}
    if len(engines) > 1:
        raise InputError(f"expected files of one format, received {listing(engines.values())}; choose another pattern")
    return next(iter(engines))


def _require_chunks(chunks: Chunks) -> None:
    """Raise an InputError where chunks are no sizes; that would be no fault of the file."""
    if isinstance(chunks, str) and chunks != "auto":
        raise InputError(f"expected chunks as 'auto', a whole number or a size by dimension, received {chunks!r}")
    sizes = chunks.items() if isinstance(chunks, Mapping) else [("every dimension", chunks)]
    for name, size in sizes:
        if isinstance(size, int) and size != -1 and not 0 < size <= LARGEST:
            along = repr(name) if isinstance(chunks, Mapping) else name
            raise InputError(f"expected chunks of at least one value along {along}, received {size}; -1 is all of them")


def _known(ds: xr.Dataset, chunks: Chunks) -> xr.Dataset:
    """Return the Dataset if it has every dimension of ``chunks``; xarray would pass over a misspelt one."""
    for name in chunks if isinstance(chunks, Mapping) else ():
        if name not in ds.sizes:
            raise InputError(f"expected chunks of the dimensions {listing(ds.sizes)}, received {name!r}; see ncdump -h")
    return ds


def _opened(files: list[str], settings: dict[str, Any]) -> xr.Dataset:
    for file in files if settings["engine"] == NETCDF else ():
        require_whole(file)
    if settings["chunks"] == "auto":
        with xr.open_dataset(files[0], **{**settings, "chunks": None}) as first:
            settings = {**settings, "chunks": map_chunks(first)}
    if len(files) == 1:
        return xr.open_dataset(files[0], **settings)
    joined: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "exact"}
    return xr.open_mfdataset(files, combine="by_coords", **joined, **settings)


def _remembering(ds: xr.Dataset, files: list[str], engine: str) -> xr.Dataset:
    """Return the Dataset whose variables know their files, and nothing that is about GRIB messages only."""
    for variable in ds.variables.values():
        if len(files) > 1 or engine != NETCDF:
            # The library remembers the first file only, and of stores on the whole only.
            variable.encoding[SOURCES] = tuple(files)
        if engine == GRIB_READER:
            variable.attrs = _without_messages(variable.attrs)
    if engine == GRIB_READER:
        ds.attrs = _without_messages(ds.attrs)
    return ds


def _without_messages(attrs: dict[Any, Any]) -> dict[Any, Any]:
    """Return attributes without those of GRIB messages and without names that say they are unknown."""
    kept = {k: v for k, v in attrs.items() if v != "unknown" and (k in GRIB_KEPT or not str(k).startswith("GRIB_"))}
    # Long integers are no attributes of classic files.
    return {key: np.int32(value) if isinstance(value, int) else value for key, value in kept.items()}


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
    if Path(text).is_dir() and not is_store(text):
        raise InputError(f"expected a file, received the folder {text}; give a pattern such as {text}/*.nc")
    return [text]
