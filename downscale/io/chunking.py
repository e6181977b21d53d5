"""Dask chunk sizes for opening a file: whole maps, and whole storage chunks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from downscale.cf.horizontal import horizontal
from downscale.errors import DownscaleError

# A coarse chunk of this size makes fine ones of some tens of megabytes.
CHUNK_BYTES = 4_000_000


def map_chunks(ds: xr.Dataset) -> dict[str, int]:
    """Return chunk sizes for a Dataset opened without Dask: all of each map, some steps of the other dimensions.

    A chunk holds about ``CHUNK_BYTES`` of the largest variable, or more if a storage chunk is larger: values that are
    compressed together are read together.

    Examples
    --------
    >>> lat, lon = np.arange(-89.5, 90), np.arange(0.5, 360)
    >>> ds = xr.Dataset({"tas": (("time", "lat", "lon"), np.zeros((100, 180, 360), "f4"))}, {"lat": lat, "lon": lon})
    >>> map_chunks(ds)
    {'time': 15, 'lat': -1, 'lon': -1}
    """
    try:
        maps = {str(dim) for dim in horizontal(ds, guess=True).dims}
    except DownscaleError:
        # Faults of the axes are reported when they are needed.
        maps = set()
    fields = [v.variable for v in ds.data_vars.values() if v.ndim and v.dtype.kind in "fiu"]
    if not fields:
        return {}
    largest = max(fields, key=lambda field: field.size * field.dtype.itemsize)
    maps = maps or {str(dim) for dim in largest.dims[-2:]}
    sizes: dict[str, int] = {}
    left = CHUNK_BYTES // max(largest.dtype.itemsize * _product(largest, maps), 1)
    together = _stored_together(largest)
    for dim in reversed([str(dim) for dim in largest.dims if dim not in maps]):
        size, piece = largest.sizes[dim], together.get(dim, 1)
        wanted = min(max(left, 1), size)
        sizes[dim] = min(max(wanted // piece, 1) * piece, size)
        left //= max(sizes[dim], 1)
    ordered = {str(dim): sizes.get(str(dim), -1) for dim in largest.dims}
    return {**ordered, **{str(dim): -1 for dim in ds.dims if str(dim) not in ordered}}


def _product(field: xr.Variable, dims: set[str]) -> int:
    return int(np.prod([field.sizes[dim] for dim in field.dims if dim in dims]))


def _stored_together(field: xr.Variable) -> dict[str, int]:
    """Return the steps per storage chunk of each dimension; one for contiguous storage."""
    chunks = field.encoding.get("preferred_chunks", {})
    return {str(dim): int(size) for dim, size in chunks.items()} if isinstance(chunks, Mapping) else {}
