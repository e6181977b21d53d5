"""Attributes of variables: text, references to other variables, repair.

CF defines attributes that contain names of variables, in three forms: plain names (``bounds``, ``coordinates``), names
after a keyword (``formula_terms``, ``cell_measures``), and grid mappings, whose keywords are names themselves. Any
other attribute refers to variables if each of its words is the name of one, except descriptive attributes. Repair
changes only unambiguous faults that checkers would reject, never values.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.dates import is_time
from downscale.errors import InputError

# Attributes that are valid for the coarse values only.
STALE_ATTRS = ("actual_range", "valid_min", "valid_max", "valid_range")
AREA = "areacella"


NAMES = ("ancillary_variables", "bounds", "climatology", "coordinates", "geometry", "interior_ring", "node_coordinates",
         "node_count", "part_node_count")  # fmt: skip
KEYWORD_ATTRS = ("cell_measures", "formula_terms")
MAPPING = "grid_mapping"
REFERENCE_ATTRS = (*NAMES, *KEYWORD_ATTRS, MAPPING)
# An incomplete attribute of these is useless: it is removed with any of its names.
INDIVISIBLE_ATTRS = ("bounds", "climatology", "formula_terms", "geometry")
# Descriptive attributes, which may happen to equal the name of a variable.
DESCRIPTIVE_ATTRS = (
    "axis", "calendar", "cell_methods", "comment", "description", "flag_meanings", "history", "long_name", "positive",
    "short_name", "standard_name", "title", "units", "variable", "var_desc", "statistic", "source", "grid_mapping_name",
)  # fmt: skip
Attributes = Mapping[Any, Any]
Variable = xr.Variable | xr.DataArray


def names_in(attribute: Hashable, value: Any) -> tuple[str, ...]:
    """Return the names of variables in the value of an attribute that CF defines.

    Examples
    --------
    >>> names_in("formula_terms", "a: ap b: b ps: ps"), names_in("grid_mapping", "crs: x y")
    (('ap', 'b', 'ps'), ('crs', 'x', 'y'))
    """
    if not isinstance(value, str):
        return ()
    words = value.replace(":", ": ").split()
    if attribute == MAPPING:
        return tuple(word.removesuffix(":") for word in words)
    if attribute in KEYWORD_ATTRS:
        words = [word for word in words if not word.endswith(":")]
    return tuple(words)


def references(variable: Variable, variable_names: Collection[Any] = ()) -> dict[str, tuple[str, ...]]:
    """Return the names of variables in each attribute of a variable, whether these exist or not.

    Encodings count as attributes, since xarray moves some there on decoding.

    Examples
    --------
    >>> attrs = {"cell_measures": "area: areacella", "quality_flag": "tas_qc", "long_name": "tas"}
    >>> references(xr.Variable((), 0.0, attrs), ["tas", "tas_qc"])
    {'cell_measures': ('areacella',), 'quality_flag': ('tas_qc',)}
    """
    names_by_attribute: dict[str, tuple[str, ...]] = {}
    for attrs in (variable.encoding, variable.attrs):
        for key, value in attrs.items():
            if key in REFERENCE_ATTRS:
                names = names_in(key, value)
            elif attrs is variable.attrs and key not in DESCRIPTIVE_ATTRS and isinstance(value, str):
                names = tuple(value.split())
                names = names if all(name in variable_names for name in names) else ()
            else:
                continue
            if names:
                names_by_attribute[str(key)] = names
    return names_by_attribute


def find_referenced(ds: xr.Dataset, names: Iterable[Hashable]) -> set[str]:
    """Return the variables of a Dataset that the named ones need, directly or through others.

    Coordinates along their dimensions count as referred to.

    Examples
    --------
    >>> tas = xr.Variable("lat", [280.0, 281.0], {"ancillary_variables": "qc"})
    >>> lat = xr.Variable("lat", [0.0, 1.0], {"bounds": "lat_bnds"})
    >>> bounds = xr.Variable(("lat", "two"), [[-0.5, 0.5], [0.5, 1.5]])
    >>> ds = xr.Dataset({"tas": tas, "qc": ("lat", [0, 1])}, {"lat": lat, "lat_bnds": bounds})
    >>> sorted(find_referenced(ds, ["tas"]))
    ['lat', 'lat_bnds', 'qc']
    """
    referenced_names: set[str] = set()
    pending = [str(name) for name in names]
    while pending:
        variable = ds.variables[pending.pop()]
        words = {name for attribute_names in references(variable, ds.variables).values() for name in attribute_names}
        words |= {str(dim) for dim in variable.dims}
        new = sorted(word for word in words if word in ds.variables and word not in referenced_names)
        referenced_names.update(new)
        pending += new
    return referenced_names


def remove_references(
    variable: Variable, missing_names: Collection[str], variable_names: Collection[Any] = ()
) -> list[str]:
    """Remove the names of missing variables from the attributes of a variable, in place; return the changed attributes.

    If the rest of an attribute is useless without them, the attribute is removed.

    Examples
    --------
    >>> tas = xr.Variable((), 0.0, {"coordinates": "lat orog", "formula_terms": "a: a ps: ps"})
    >>> remove_references(tas, {"orog", "ps"}), tas.attrs
    (['coordinates', 'formula_terms'], {'coordinates': 'lat'})
    """
    changed_keys = [
        key for key, names in references(variable, variable_names).items() if not set(names).isdisjoint(missing_names)
    ]
    for key in changed_keys:
        for attrs in (variable.encoding, variable.attrs):
            if key in attrs:
                attrs[key] = (
                    ""
                    if key in INDIVISIBLE_ATTRS
                    else _remove_names(key, str(attrs[key]).replace(":", ": "), missing_names)
                )
                if not attrs[key]:
                    del attrs[key]
    return changed_keys


def _remove_names(key: str, text: str, missing_names: Collection[str]) -> str:
    """Return an attribute without the missing names and their keywords."""
    if key in KEYWORD_ATTRS:
        pairs = re.findall(r"(\S+:)\s+(\S+)", text)
        return " ".join(f"{word} {name}" for word, name in pairs if name not in missing_names)
    if key == MAPPING and ":" in text:
        groups = re.findall(r"(\S+):((?:\s+[^\s:]+(?!\S))*)", text)
        groups_left = [(name, [word for word in words.split() if word not in missing_names]) for name, words in groups]
        groups_left = [(name, words) for name, words in groups_left if name not in missing_names]
        return " ".join(
            " ".join([f"{name}:", *words]) for name, words in groups_left if any(words for _, words in groups_left)
        )
    return " ".join(word for word in text.split() if word not in missing_names)


STRING_ATTRS = frozenset({
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
        return " ".join(as_text(item) for item in np.ravel(np.asarray(value, dtype=object)))
    return str(value)


def find_text_changes(attrs: Mapping[Any, Any], dates: bool = False) -> dict[Any, str | None]:
    """Return the attributes that must be text and are not, as text; None for meaningless ones.

    Numbers name no variable, pairs of words have colons, and decoded dates have no units.
    """
    changes: dict[Any, str | None] = {}
    for key in STRING_ATTRS & attrs.keys():
        value, text = attrs[key], as_text(attrs[key])
        is_text, has_names = isinstance(value, str), any(word.isidentifier() for word in text.split())
        has_pairs = key not in KEYWORD_ATTRS or re.fullmatch(r"(\s*\S+:\s*\S+)+\s*", text) is not None
        is_meaningless = not has_pairs or (not is_text and key in REFERENCE_ATTRS and not has_names)
        if value is not None and (is_meaningless or (dates and key in ("units", "calendar"))):
            changes[key] = None
        elif value is not None and not is_text:
            changes[key] = text
    return changes


def with_text_attributes(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose text attributes are text; the same object if they all are."""
    changes = {
        name: (
            find_text_changes(v.attrs, bool({"units", "calendar"} & set(v.attrs)) and is_time(v)),
            find_text_changes(v.encoding),
        )
        for name, v in ds.variables.items()
    }
    if not any(map(any, changes.values())):
        return ds
    ds = ds.copy()
    for name, pair in changes.items():
        for attrs, change in zip((ds[name].attrs, ds[name].encoding), pair, strict=True):
            attrs.update(change)
            for key in [key for key, text in change.items() if text is None]:
                del attrs[key]
    return ds


def require_dates(ds: xr.Dataset, file: str = "") -> None:
    """Raise an InputError if a coordinate along a time dimension contains NaT."""
    for name, index in ds.indexes.items():
        if index.dtype.kind == "M" and index.hasnans and name in ds.dims:
            location = f" of {file}" if file else ""
            raise InputError(
                f"coordinate {name!r}: expected a date at every step, received NaT at step "
                f"{int(np.flatnonzero(index.isna())[0])}{location}; drop those steps, for example with "
                f"ds.sel({name}=ds.{name}.notnull()) or ncks -d {name}"
            )


def normalise_metadata(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with text attributes; raise an InputError if sizes are unknown or dates invalid."""
    for name, variable in ds.variables.items():
        for dim, size in zip(variable.dims, variable.shape, strict=True):
            if size != size:
                raise InputError(
                    f"{name}: expected Dask chunks of known sizes, received unknown ones along {dim!r}; call "
                    "compute_chunk_sizes() on the Dask array, or compute() it"
                )
    require_dates(ds)
    return with_text_attributes(ds)
