"""Lazy opening of NetCDF files, Zarr stores and GRIB files by the CF conventions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.attributes import references, require_dates, with_text_attributes
from downscale.cf.evidence import join_longitudes
from downscale.cf.horizontal import horizontal
from downscale.cf.mapping import load_pyproj_before_eccodes
from downscale.errors import DownscaleError, InputError, listing
from downscale.io.formats import (
    GRIB_READER,
    NETCDF,
    engine_of,
    is_store,
    open_address,
    reader_of_types,
    reading_error,
    require_complete,
    require_reader,
    require_variables,
)
from downscale.io.join import Part, join_parts, series_dim, sort_dates
from downscale.io.library import open_file
from downscale.io.missing import mask_missing, widen_floats
from downscale.io.paths import SOURCES, FileName, address_of, expand_paths, input_name, raise_file_limit

HARMLESS = (
    "The specified chunks separate", ".*referenced in .* not in variables", ".*non-conforming '_FillValue'",
    ".* has multiple fill values",
    "Failed to open Zarr store with consolidated", "Object at .* is not recognized", "Consolidated metadata is curr",
)  # fmt: skip
LARGEST = 2**62
# A coarse chunk of this size makes fine ones of some tens of megabytes.
CHUNK_BYTES = 4_000_000
# GRIB attributes of the message and its grid, which are invalid for a regridded field.
GRIB_FIELD_ATTRS = ("GRIB_paramId", "GRIB_shortName", "GRIB_stepType", "GRIB_typeOfLevel")
Chunks = str | int | Mapping[Any, Any] | None


def open_dataset(
    path: FileName | Sequence[FileName], chunks: Chunks = "auto", **options: Any
) -> xr.Dataset:  # fmt: skip
    """Open a NetCDF file, a Zarr store or a GRIB file, or several as one, lazily, with bounds as coordinates.

    Parameters
    ----------
    path : str, Path or list of these
        A file or the folder of a store; or a pattern such as ``"tas_*.nc"`` or a list, whose files are joined by their
        coordinates. An existing file takes precedence over a pattern. GRIB files need the extra ``grib``, stores the
        extra ``zarr``; no index files are written.
    chunks : "auto", int, mapping or None
        Dask chunks as in xarray. "auto" takes whole maps, a few at a time and at least one storage chunk; None reads
        without Dask.
    **options
        Passed to ``xarray.open_dataset``.

    Returns
    -------
    Dataset
        With ``decode_coords="all"``, so that bounds, cell areas and grid mappings are coordinates.

    Raises
    ------
    InputError
        If the file is missing or not readable.
    """
    _require_chunks(chunks)
    files = find_files(path)
    load_pyproj_before_eccodes()
    name = input_name(path)
    sources = _sources(files, options.pop("engine", None), options.pop("storage_options", None), name)
    settings: dict[str, Any] = {"decode_coords": "all", "chunks": chunks, **options}
    try:
        with warnings.catch_warnings():
            # Chunks finer than those on disk are the caller's choice; the other warnings are harmless faults of the
            # file.
            for harmless in HARMLESS:
                warnings.filterwarnings("ignore", message=harmless)
            ds = _open_sources(sources, settings)
            for dim in chunks if isinstance(chunks, Mapping) else ():
                # xarray would ignore a misspelt dimension.
                if dim not in ds.sizes:
                    line = f"expected chunks of the dimensions {listing(ds.sizes)}, received {dim!r}; see ncdump -h"
                    raise InputError(line)
    except DownscaleError:
        raise
    except Exception as error:
        if options and isinstance(error, TypeError):
            raise  # an unknown option of xarray
        if isinstance(error, Warning):
            raise  # warnings are errors here
        # Any other error comes from the file, and each reader has its own error classes.
        times = _undecodable_times(sources, settings) if isinstance(error, ValueError) else None
        raise InputError(times or reading_error(sources[0].engine, name, error, len(sources) > 1)) from None
    if not ds.variables:
        require_variables(ds, sources[0].name)
    return join_longitudes(_with_sources(ds, sources))


@dataclass(frozen=True)
class Source:
    """One file or store: its name, the object that xarray opens, and the options."""

    name: str
    target: Any
    engine: str
    options: dict[str, Any]

    def open(self, settings: Mapping[str, Any]) -> xr.Dataset:
        """Open it, lazily."""
        settings = {**self.options, **settings, "engine": self.engine}
        return (open_file if self.engine == NETCDF else xr.open_dataset)(self.target, **settings)


def _undecodable_times(sources: list[Source], settings: dict[str, Any]) -> str | None:
    """Return the error message for the first times whose units or calendar cannot be decoded, if there are any."""
    for source in sources:
        raw_settings = {**settings, "decode_cf": False, "chunks": None}
        with warnings.catch_warnings(action="ignore"), suppress(OSError, ValueError), source.open(raw_settings) as ds:
            for name, variable in ds.variables.items():
                units, calendar = (str(variable.attrs.get(key, "")) for key in ("units", "calendar"))
                if " since " not in units:
                    continue
                try:
                    xr.conventions.decode_cf_variable(name, variable)
                except (ValueError, OverflowError):
                    return (
                        f"expected times in units of one length and a known calendar, received units {units!r} and "
                        f"calendar {calendar or 'standard'!r} in {source.name}; rewrite them, for example with cdo "
                        "settaxis, or open it with decode_times=False"
                    )
    return None


def _sources(names: list[str], engine: Any, storage: Any, label: str) -> list[Source]:
    """Return sources for files and addresses of one format."""
    sources = []
    for name in names:
        address = address_of(name)
        if address is not None:
            target, reader, options = open_address(address, storage)
            sources.append(Source(address, target, str(engine or reader), options))
        else:
            reader = str(engine or engine_of(name))
            reader = reader_of_types(name) if reader == NETCDF else reader
            # No index files, and no damaged messages skipped.
            options = {"backend_kwargs": {"indexpath": "", "errors": "raise"}} if reader == GRIB_READER else {}
            sources.append(Source(name, name, reader, options))
    engines = {source.engine: source.name for source in sources}
    if len(engines) > 1:
        raise InputError(f"expected files of one format, received {listing(engines.values())}; choose another pattern")
    require_reader(sources[0].engine, label)
    return sources


def _require_chunks(chunks: Chunks) -> None:
    """Raise an InputError if chunks are invalid, which is not a fault of the file."""
    if isinstance(chunks, str) and chunks != "auto":
        raise InputError(f"expected chunks as 'auto', a whole number or a size by dimension, received {chunks!r}")
    sizes = chunks.items() if isinstance(chunks, Mapping) else [("every dimension", chunks)]
    for name, size in sizes:
        if isinstance(size, int) and size != -1 and not 0 < size <= LARGEST:
            dimension = repr(name) if isinstance(chunks, Mapping) else name
            raise InputError(
                f"expected chunks of at least one value along {dimension}, received {size}; -1 is all of them"
            )


def _open_sources(sources: list[Source], settings: dict[str, Any]) -> xr.Dataset:
    """Open one file, or join several."""
    for source in sources:
        if source.engine == NETCDF and address_of(source.name) is None:
            require_complete(source.name)
    if settings["chunks"] == "auto":
        with sources[0].open({**settings, "chunks": None}) as first:
            settings = {**settings, "chunks": map_chunks(first)}
    if len(sources) == 1:
        return _open_decoded(sources[0], settings)
    raise_file_limit(len(sources))
    # Files are joined without reading fields.
    settings = {**settings, "chunks": settings["chunks"] or {}}
    parts: list[Part] = []
    try:
        for source in sources:
            parts.append(Part(source.name, _open_decoded(source, settings)))
        return join_parts(parts)
    except BaseException:
        for part in parts:
            part.ds.close()
        raise


def _open_decoded(source: Source, settings: dict[str, Any]) -> xr.Dataset:
    """Return the Dataset of a file, with unique dates in order."""
    ds = source.open(settings)
    if settings.get("group"):
        ds = _with_parent_axes(ds, source, settings)
    if source.engine != GRIB_READER and all(settings.get(key) is not False for key in ("decode_cf", "mask_and_scale")):
        ds = mask_missing(ds, source.name)
    require_dates(ds, source.name)
    ds = with_text_attributes(widen_floats(ds))
    dim = series_dim(ds)
    if dim is None:
        return ds
    return sort_dates(ds, dim, np.full(ds.sizes[dim], source.name, dtype=object))[0]


def _with_parent_axes(ds: xr.Dataset, source: Source, settings: dict[str, Any]) -> xr.Dataset:
    """Return a group with the coordinates, bounds and mappings of its dimensions in the groups above it."""
    parts = [part for part in str(settings["group"]).split("/") if part]
    for depth in reversed(range(len(parts))):
        with suppress(OSError, KeyError, ValueError):
            parent = source.open({**settings, "group": "/".join(parts[:depth]) or None})
            shared_dims = {dim for dim, size in parent.sizes.items() if ds.sizes.get(dim) == size}
            variables = (*ds.variables.values(), *parent.variables.values())
            references_to = {
                word for variable in variables for words in references(variable).values() for word in words
            }
            # Bounds have their own dimension.
            coordinates = {n for n, v in parent.coords.items() if set(v.dims) <= shared_dims} | (
                references_to & set(parent.variables)
            )
            ds = ds.assign_coords({n: parent[n].variable for n in coordinates - set(ds.variables)})
    return ds


def _with_sources(ds: xr.Dataset, sources: list[Source]) -> xr.Dataset:
    """Return the Dataset with the names of its files in the encodings, and without attributes of GRIB messages."""
    engine = sources[0].engine
    for variable in ds.variables.values():
        if len(sources) > 1 or engine != NETCDF or address_of(sources[0].name):
            # The library records only the first file, and for stores only on the Dataset.
            variable.encoding[SOURCES] = tuple(source.name for source in sources)
            if address_of(sources[0].name):
                variable.encoding.pop("source", None)
        if engine == GRIB_READER:
            variable.attrs = _without_messages(variable.attrs)
    if address_of(sources[0].name):
        ds.encoding["source"] = sources[0].name
    if engine == GRIB_READER:
        ds.attrs = _without_messages(ds.attrs)
    return ds


def _without_messages(attrs: dict[Any, Any]) -> dict[Any, Any]:
    """Return attributes without those of GRIB messages and without names marked as unknown."""
    field_attrs = {k: v for k, v in attrs.items() if k in GRIB_FIELD_ATTRS or not str(k).startswith("GRIB_")}
    known_attrs = {key: value for key, value in field_attrs.items() if str(value) != "unknown"}
    # Classic files cannot store long integers as attributes.
    return {key: np.int32(value) if isinstance(value, int) else value for key, value in known_attrs.items()}


def find_files(path: FileName | Sequence[FileName]) -> list[str]:
    """Return the files, stores and addresses of a path, a pattern or a list of these."""
    names = expand_paths(path)
    for name in names:
        if address_of(name) is None and Path(name).is_dir() and not is_store(name):
            raise InputError(f"expected a file, received the folder {name}; give a pattern such as {name}/*.nc")
    return names


def map_chunks(ds: xr.Dataset) -> dict[str, int]:
    """Return chunk sizes for a Dataset opened without Dask: all of each map, some steps of the other dimensions.

    A chunk holds about ``CHUNK_BYTES`` of the largest variable, and at least one storage chunk.
    """
    try:
        map_dims = {str(dim) for dim in horizontal(ds, guess=True).dims}
    except DownscaleError:
        # Faults of the axes are reported when they are needed.
        map_dims = set()
    fields = [v.variable for v in ds.data_vars.values() if v.ndim and v.dtype.kind in "fiu"]
    if not fields:
        return {}
    largest = max(fields, key=lambda field: field.size * field.dtype.itemsize)
    map_dims = map_dims or {str(dim) for dim in largest.dims[-2:]}
    sizes: dict[str, int] = {}
    map_size = math.prod(size for dim, size in largest.sizes.items() if dim in map_dims)
    map_count = CHUNK_BYTES // max(largest.dtype.itemsize * map_size, 1)
    # Steps per storage chunk of each dimension; none for contiguous storage.
    preferred_chunks = largest.encoding.get("preferred_chunks", {})
    stored_steps = (
        {str(dim): int(size) for dim, size in preferred_chunks.items()} if isinstance(preferred_chunks, Mapping) else {}
    )
    for dim in reversed([str(dim) for dim in largest.dims if dim not in map_dims]):
        size, piece = largest.sizes[dim], stored_steps.get(dim, 1)
        step_count = min(max(map_count, 1), size)
        sizes[dim] = min(max(step_count // piece, 1) * piece, size)
        map_count //= max(sizes[dim], 1)
    dim_sizes = {str(dim): sizes.get(str(dim), -1) for dim in largest.dims}
    return {**dim_sizes, **{str(dim): -1 for dim in ds.dims if str(dim) not in dim_sizes}}
