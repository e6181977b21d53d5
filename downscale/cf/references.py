"""Which variables a variable refers to by its attributes (xarray; no values).

CF defines a few attributes that hold names of variables, in three forms: plain names (``bounds``, ``coordinates``),
names behind a word (``formula_terms``, ``cell_measures``), and grid mappings, whose words are names themselves. Any
other attribute refers to variables where each of its words is the name of one, unless it describes in words.
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
# A part of these is of no use: the whole attribute goes with one name.
WHOLE = ("bounds", "climatology", "formula_terms", "geometry")
# Attributes in words, which may happen to be the name of a variable.
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
    """Return the names of variables that each attribute of a variable holds, whether these exist or not.

    Encodings count as attributes, since xarray moves some there when it decodes a file.

    Parameters
    ----------
    variable : Variable or DataArray
        The variable that refers to others.
    held : collection of str
        Names of the variables of its Dataset: other attributes than those that CF defines refer to variables where
        each of their words is one of these names.

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
    """Return the variables of a Dataset that the named ones need: what they refer to, directly or through others.

    Coordinates along their dimensions count as referred to; the named variables themselves are not among them, unless
    another one refers to them.

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
    """Take the names of variables that are gone out of the attributes of a variable, in place.

    Where the rest of an attribute is of no use without them, the attribute goes.

    Returns
    -------
    list of str
        The attributes that have changed.

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
    """Remove names from one attribute, and the attribute where nothing useful is left."""
    left = _left(key, str(place[key]).replace(":", ": ").split(), gone)
    if key in WHOLE or not left:
        del place[key]
    else:
        place[key] = " ".join(left)


def _left(key: str, words: list[str], gone: set[str]) -> list[str]:
    """Return the words of an attribute without the names that are gone, and without the words before these."""
    left: list[str] = []
    lost = False  # within a grid mapping that is gone, with the coordinates behind it
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
