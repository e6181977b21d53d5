"""First checks of every Dataset: text attributes, known sizes, and valid dates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.references import BEHIND_WORDS, DEFINED
from downscale.cf.times import is_time
from downscale.errors import InputError

TEXTS = frozenset({
    "ancillary_variables", "axis", "bounds", "calendar", "cell_measures", "cell_methods", "cf_role", "climatology",
    "coordinates", "flag_meanings", "formula_terms", "geometry", "grid_mapping", "long_name", "positive",
    "standard_name", "units", "units_metadata", "_Unsigned", "crs_wkt", "grid_mapping_name", "spatial_ref",
})  # fmt: skip


def as_text(value: Any) -> str:
    """Return an attribute as text; several values are joined by spaces.

    Examples
    --------
    >>> as_text(1), as_text(["K"]), as_text(np.array([1.5, 2])), as_text(b"m s-1")
    ('1', 'K', '1.5 2.0', 'm s-1')
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray | list | tuple):
        return " ".join(as_text(one) for one in np.ravel(np.asarray(value, dtype=object)))
    return str(value)


def changes_in(attrs: Mapping[Any, Any], dates: bool = False) -> dict[Any, str | None]:
    """Return the attributes that must be text and are not, as text; None for meaningless ones.

    Numbers name no variable, pairs of words have colons, and decoded dates have no units.
    """
    made: dict[Any, str | None] = {}
    for key, value in attrs.items():
        if key not in TEXTS or value is None:
            continue
        text = as_text(value)
        paired = key not in BEHIND_WORDS or re.fullmatch(r"(\s*\S+:\s*\S+)+\s*", text) is not None
        if not isinstance(value, str) and key in DEFINED and not any(word.isidentifier() for word in text.split()):
            made[key] = None
        elif not paired or (dates and key in ("units", "calendar")):
            made[key] = None
        elif not isinstance(value, str):
            made[key] = text
    return made


def with_texts(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose text attributes are text; the same object if they all are."""
    changes = {
        name: (changes_in(v.attrs, bool({"units", "calendar"} & set(v.attrs)) and is_time(v)), changes_in(v.encoding))
        for name, v in ds.variables.items()
    }
    if not any(own or kept for own, kept in changes.values()):
        return ds
    ds = ds.copy()
    for name, both in changes.items():
        for place, change in zip((ds[name].attrs, ds[name].encoding), both, strict=True):
            for key, text in change.items():
                if text is None:
                    del place[key]
                else:
                    place[key] = text
    return ds


def require_sizes(ds: xr.Dataset) -> None:
    """Raise an InputError if a lazy array has an unknown length, as after a selection by values."""
    for name, variable in ds.variables.items():
        for dim, size in zip(variable.dims, variable.shape, strict=True):
            if size != size:
                raise InputError(
                    f"{name}: expected Dask chunks of known sizes, received unknown ones along {dim!r}; call "
                    "compute_chunk_sizes() on the Dask array, or compute() it"
                )


def require_dates(ds: xr.Dataset, file: str = "") -> None:
    """Raise an InputError if a coordinate along a time dimension contains NaT."""
    for name, index in ds.indexes.items():
        if index.dtype.kind == "M" and index.hasnans and name in ds.dims:
            where = f" of {file}" if file else ""
            raise InputError(
                f"coordinate {name!r}: expected a date at every step, received NaT at step "
                f"{int(np.flatnonzero(index.isna())[0])}{where}; drop those steps, for example with "
                f"ds.sel({name}=ds.{name}.notnull()) or ncks -d {name}"
            )


def usable(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with known sizes, valid dates and text attributes.

    Raises
    ------
    InputError
        If sizes are unknown or dates invalid.
    """
    require_sizes(ds)
    require_dates(ds)
    return with_texts(ds)
