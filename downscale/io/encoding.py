"""How variables are stored: CF attributes, chunks, compression; packed encodings are never inherited (xarray only)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

CONVENTIONS = "CF-1.11"
# Missing values as CMIP stores them.
FILL_VALUE = 1e20
CHUNK_VALUES = 1_000_000
# Attributes that xarray keeps in encodings once it has decoded them.
RELATED = ("bounds", "cell_measures", "grid_mapping", "ancillary_variables")


def cf_ready(ds: xr.Dataset) -> xr.Dataset:
    """Return a copy as CF wants it on disk: bounds and areas are plain variables, conventions are named."""
    ready = ds.copy()
    for name in ready.variables:
        variable = ready[name]
        for key in RELATED:
            value = variable.encoding.pop(key, None)
            if value is not None and key not in variable.attrs:
                variable.attrs[key] = value
        variable.encoding.pop("coordinates", None)
        for key in [key for key in RELATED if key in variable.attrs and not _present(ready, variable.attrs[key])]:
            # A name that points at nothing makes readers complain and checkers fail.
            del variable.attrs[key]
    ready = ready.reset_coords([n for n in _related(ready) if n in ready.coords and n not in ready.dims])
    for name in _bounds(ready):
        # Bounds take their attributes from the coordinate; anything of their own is only a chance to disagree.
        ready[name].attrs = {}
    ready.attrs["Conventions"] = CONVENTIONS
    ready.attrs.pop("coordinates", None)
    ready.encoding.pop("coordinates", None)
    return ready


def _present(ds: xr.Dataset, names: object) -> bool:
    """Return whether every variable that an attribute names is there."""
    words = [word for word in str(names).replace(":", ": ").split() if not word.endswith(":")]
    return all(word in ds.variables for word in words)


def _bounds(ds: xr.Dataset) -> list[str]:
    names = {str(ds[n].attrs["bounds"]) for n in ds.variables if "bounds" in ds[n].attrs}
    return sorted(name for name in names if name in ds.variables)


def _related(ds: xr.Dataset) -> set[str]:
    """Return names that other variables point at by bounds, cell_measures or grid_mapping."""
    names = set(_bounds(ds))
    for name in ds.variables:
        attrs = ds[name].attrs
        names.update(word for word in str(attrs.get("cell_measures", "")).split() if not word.endswith(":"))
        names.update(str(attrs.get("grid_mapping", "")).replace(":", " ").split())
    return {name for name in names if name in ds.variables}


def encodings(ds: xr.Dataset, complevel: int) -> dict[str, dict[str, Any]]:
    """Return the encoding of every variable of ``ds``; fields are shuffled and deflated in chunks of whole maps."""
    bounds = {str(ds[n].attrs["bounds"]): str(n) for n in ds.variables if "bounds" in ds[n].attrs}
    related = _related(ds)
    made: dict[str, dict[str, Any]] = {}
    for name, variable in ds.variables.items():
        kept = {k: variable.encoding[k] for k in ("units", "calendar") if k in variable.encoding and _is_time(variable)}
        if _is_time(variable):
            # Bounds of times must count from the same day in the same calendar, or readers disagree.
            owner = ds[bounds[str(name)]].encoding if str(name) in bounds else {}
            kept.update({k: owner[k] for k in ("units", "calendar") if k in owner})
            kept["dtype"] = "float64"
        plain = name in ds.coords or str(name) in related or variable.dtype.kind not in "f"
        kept["_FillValue"] = None if plain else np.dtype(variable.dtype).type(FILL_VALUE)
        if variable.ndim >= 2 and variable.dtype.kind in "fiu" and variable.size > 1000:
            deflate = complevel > 0
            sizes = chunk_sizes(variable.shape)
            kept.update(zlib=deflate, complevel=complevel, shuffle=deflate, chunksizes=sizes)
        made[str(name)] = kept
    for name in ds.variables:
        # A scalar coordinate belongs to the fields; None keeps xarray from naming it on bounds and areas too.
        ds[name].encoding = {"coordinates": None} if str(name) in related else {}
    return made


def _is_time(variable: xr.Variable) -> bool:
    return variable.dtype.kind in "mM" or (variable.dtype.kind == "O" and "calendar" in variable.encoding)


def chunk_sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return storage chunks of about a million values: whole maps where they fit, few steps of the other dimensions.

    Examples
    --------
    >>> chunk_sizes((480, 720, 1440))
    (1, 720, 1440)
    """
    sizes = list(shape)
    for axis in range(len(sizes) - 2):
        others = int(np.prod(sizes[axis + 1 :]))
        sizes[axis] = max(min(sizes[axis], CHUNK_VALUES // max(others, 1)), 1)
    for axis in (len(sizes) - 2, len(sizes) - 1):
        while int(np.prod(sizes[-2:])) > 1.5 * CHUNK_VALUES and sizes[axis] > 256:
            sizes[axis] = -(-sizes[axis] // 2)
    return tuple(sizes)
