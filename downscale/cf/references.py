"""References between variables by attributes.

CF defines attributes that contain names of variables, in three forms: plain names (``bounds``, ``coordinates``), names
after a keyword (``formula_terms``, ``cell_measures``), and grid mappings, whose keywords are names themselves. Any
other attribute refers to variables if each of its words is the name of one, except descriptive attributes.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, MutableMapping
from typing import Any

import xarray as xr

NAMES = ("ancillary_variables", "bounds", "climatology", "coordinates", "geometry", "interior_ring", "node_coordinates",
         "node_count", "part_node_count")  # fmt: skip
BEHIND_WORDS = ("cell_measures", "formula_terms")
MAPPING = "grid_mapping"
DEFINED = (*NAMES, *BEHIND_WORDS, MAPPING)
# An incomplete attribute of these is useless: it is removed with any of its names.
WHOLE = ("bounds", "climatology", "formula_terms", "geometry")
# Descriptive attributes, which may happen to equal the name of a variable.
IN_WORDS = (
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
    if attribute in BEHIND_WORDS:
        words = [word for word in words if not word.endswith(":")]
    return tuple(words)


def references(variable: Variable, held: Collection[Any] = ()) -> dict[str, tuple[str, ...]]:
    """Return the names of variables in each attribute of a variable, whether these exist or not.

    Encodings count as attributes, since xarray moves some there on decoding.

    Parameters
    ----------
    variable : Variable or DataArray
        The variable with the references.
    held : collection of str
        Names of the variables of its Dataset. Attributes that CF does not define refer to variables if each of their
        words is one of these names.

    Examples
    --------
    >>> said = {"cell_measures": "area: areacella", "quality_flag": "tas_qc", "long_name": "tas"}
    >>> references(xr.Variable((), 0.0, said), ["tas", "tas_qc"])
    {'cell_measures': ('areacella',), 'quality_flag': ('tas_qc',)}
    """
    found: dict[str, tuple[str, ...]] = {}
    for place in (variable.encoding, variable.attrs):
        for key, value in place.items():
            if key in DEFINED:
                names = names_in(key, value)
            elif place is variable.attrs and key not in IN_WORDS and isinstance(value, str):
                names = tuple(value.split())
                names = names if all(name in held for name in names) else ()
            else:
                continue
            if names:
                found[str(key)] = names
    return found


def referred(ds: xr.Dataset, names: Iterable[Hashable]) -> set[str]:
    """Return the variables of a Dataset that the named ones need, directly or through others.

    Coordinates along their dimensions count as referred to. The named variables themselves are included only if another
    one refers to them.

    Examples
    --------
    >>> tas = xr.Variable("lat", [280.0, 281.0], {"ancillary_variables": "qc"})
    >>> lat = xr.Variable("lat", [0.0, 1.0], {"bounds": "lat_bnds"})
    >>> bounds = xr.Variable(("lat", "two"), [[-0.5, 0.5], [0.5, 1.5]])
    >>> ds = xr.Dataset({"tas": tas, "qc": ("lat", [0, 1])}, {"lat": lat, "lat_bnds": bounds})
    >>> sorted(referred(ds, ["tas"]))
    ['lat', 'lat_bnds', 'qc']
    """
    found: set[str] = set()
    waiting = [str(name) for name in names]
    while waiting:
        variable = ds.variables[waiting.pop()]
        words = {name for every in references(variable, ds.variables).values() for name in every}
        words |= {str(dim) for dim in variable.dims}
        new = sorted(word for word in words if word in ds.variables and word not in found)
        found.update(new)
        waiting += new
    return found


def forget(variable: Variable, gone: Collection[str], held: Collection[Any] = ()) -> list[str]:
    """Remove the names of missing variables from the attributes of a variable, in place.

    If the rest of an attribute is useless without them, the attribute is removed.

    Returns
    -------
    list of str
        The changed attributes.

    Examples
    --------
    >>> one = xr.Variable((), 0.0, {"coordinates": "lat orog", "formula_terms": "a: a ps: ps"})
    >>> forget(one, {"orog", "ps"}), one.attrs
    (['coordinates', 'formula_terms'], {'coordinates': 'lat'})
    """
    changed, gone = [], set(gone)
    for key, names in references(variable, held).items():
        if not gone & set(names):
            continue
        changed.append(key)
        for place in (variable.encoding, variable.attrs):
            if key in place:
                _take_out(place, key, gone)
    return changed


def _take_out(place: MutableMapping[Any, Any], key: str, gone: set[str]) -> None:
    """Remove names from one attribute, and the attribute if nothing useful is left."""
    left = _left(key, str(place[key]).replace(":", ": ").split(), gone)
    if key in WHOLE or not left:
        del place[key]
    else:
        place[key] = " ".join(left)


def _left(key: str, words: list[str], gone: set[str]) -> list[str]:
    """Return the words of an attribute without the missing names and their keywords."""
    left: list[str] = []
    lost = False  # within a missing grid mapping, followed by its coordinates
    for word in words:
        name = word.removesuffix(":")
        if key == MAPPING and word.endswith(":"):
            lost = name in gone
        if lost or name in gone:
            if key in BEHIND_WORDS and left and left[-1].endswith(":"):
                left.pop()
            continue
        left.append(word)
    return [] if key == MAPPING and left and all(word.endswith(":") for word in left) else left
