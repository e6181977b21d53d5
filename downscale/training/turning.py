"""Reorientation of patches, with sign and exchange of vector components."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from downscale.errors import OptionError
from downscale.training.schema import Data

# Orientations of a square: bit 1 mirrors rows, bit 2 columns, bit 4 transposes.
MIRROR_ROWS, MIRROR_COLUMNS, SWAP = 1, 2, 4
ASPECT = ("aspect_sin", "aspect_cos")
# Words of a standard name, with direction, and whether the direction is one of the grid's own axes.
DIRECTIONS = {"eastward": ("x", False), "northward": ("y", False), "x": ("x", True), "y": ("y", True)}
OTHER_WORD = {"eastward": "northward", "northward": "eastward", "x": "y", "y": "x"}
# Common names of components without a standard name.
BY_NAME = re.compile(r"\d*[uv]\d*m?|[uv](a|as|o|si|ice|wnd|grd|gos|geo|bar)\d*m?|tau[uvxy]o?|(si|sic)?str[xy]",
                     re.IGNORECASE)  # fmt: skip
BY_WORDS = re.compile(r"\b(u|v|x|y|zonal|meridional|eastward|northward)[ _-]+(component|wind|velocity|current|stress)"
                      r"|component of (the )?(wind|velocity|current)", re.IGNORECASE)  # fmt: skip
# Words of fields that change in a mirror in another way: signs of rotation, and angles.
HANDED = re.compile(r"vorticity|helicity|stream_?function|(from|to)_direction|\bdirection\b", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """One component of a vector along the axes of the grid.

    Attributes
    ----------
    group : {"outputs", "predictors", "statics"}
        Group of fields that it belongs to.
    index : int
        Its index in the group.
    along : {"x", "y"}
        Axis along which it points.
    partner : int or None
        Index of the other component in the same group; None if there is none.
    """

    group: str
    index: int
    along: str
    partner: int | None = None


def static_parts(channels: Sequence[str]) -> tuple[Part, ...]:
    """Return the vector components among the static channels, which are those of the aspect."""
    if ASPECT[0] not in channels:
        return ()
    east, north = (list(channels).index(name) for name in ASPECT)
    return Part("statics", east, "x", north), Part("statics", north, "y", east)


def turns_of(parts: Iterable[Part]) -> int:
    """Return the number of possible orientations: 8, or 4 without transposition if a component has no partner."""
    return 8 if all(part.partner is not None for part in parts) else 4


def variable_parts(data: Data, described: Sequence[dict[str, Any]], own_axes: Sequence[bool]) -> tuple[Part, ...]:
    """Return the components of vectors among outputs and predictors.

    Parameters
    ----------
    data : Data
        Data block of the recipe; its ``vectors`` name pairs along the axes of the grid.
    described : sequence of dict
        For each source, the attributes of its variables by their names in the recipe.
    own_axes : sequence of bool
        For each source, whether its axes are longitude and latitude.

    Raises
    ------
    OptionError
        If a field looks like a component, an angle or a sign of rotation, and its reorientation is unclear.
    """
    groups = {"outputs": [each.name for each in data.outputs], "predictors": [each.name for each in data.predictors]}
    named = {name: (along, other) for pair in data.vectors for name, along, other in
             ((pair[0], "x", pair[1]), (pair[1], "y", pair[0]))}  # fmt: skip
    made = []
    for group, names in groups.items():
        found = {name: named.get(name) or _component(name, described, own_axes) for name in names}
        for name, one in found.items():
            if one is None:
                continue
            along, other = one
            partner = next((n for n in names if n != name and other == _label(n, described, named)), None)
            made.append(Part(group, names.index(name), along, None if partner is None else names.index(partner)))
    return tuple(made)


def _label(name: str, described: Sequence[dict[str, Any]], named: dict[str, Any]) -> str:
    """Return the name by which a partner refers to a variable: from the recipe, else its standard name."""
    return name if name in named else str(_attributes(name, described).get("standard_name", ""))


def _attributes(name: str, described: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the attributes of a variable in the first source with a standard name, else in the first source."""
    known = (each[name] for each in described if each[name].get("standard_name"))
    attrs: dict[str, Any] = next(known, described[0][name])
    return attrs


def _component(
    name: str, described: Sequence[dict[str, Any]], own_axes: Sequence[bool]
) -> tuple[str, str] | None:
    """Return the axis of a component and the standard name of its partner; None for other fields."""
    attrs = _attributes(name, described)
    standard, said = str(attrs.get("standard_name", "")), str(attrs.get("long_name", ""))
    if any(HANDED.search(text) for text in (standard, said, name)):
        raise _unknown(name, "whose sign or angle changes in a mirror")
    words = standard.split("_")
    found = [word for word in words if word in DIRECTIONS]
    # "grid_eastward_wind" is along the grid, whatever its direction.
    if len(found) == 1:
        along, of_grid = DIRECTIONS[found[0]]
        if not of_grid and "grid" not in words and not all(own_axes):
            raise _unknown(name, "whose east is not that of the grid's axes")
        return along, "_".join(OTHER_WORD[word] if word == found[0] else word for word in words)
    if found or BY_NAME.fullmatch(name) or BY_NAME.fullmatch(str(attrs.get("name", name))) or BY_WORDS.search(said):
        raise _unknown(name, "a component of a vector by its name")
    return None


def _unknown(name: str, what: str) -> OptionError:
    return OptionError(
        f"patches.augment: expected fields with known behaviour in a mirror, received {name!r}, {what}; name pairs "
        "along the grid's axes as data.vectors: [[U, V]], or set patches.augment: false"
    )


def turn(array: NDArray[Any], number: int) -> NDArray[Any]:
    """Return an array with its last two axes mirrored and transposed."""
    if number & MIRROR_ROWS:
        array = array[..., ::-1, :]
    if number & MIRROR_COLUMNS:
        array = array[..., ::-1]
    return array.swapaxes(-2, -1) if number & SWAP else array


def turn_parts(fields: NDArray[Any], parts: Iterable[Part], number: int, same_way: bool) -> NDArray[Any]:
    """Return fields with components corrected after :func:`turn`, which treats them as scalars.

    Parameters
    ----------
    fields : array, shape (C, n_y, n_x)
        Fields of one group, after :func:`turn`.
    parts : iterable of Part
        Components of that group.
    number : int
        The orientation; transposition needs partners.
    same_way : bool
        Whether rows and columns both run along their axes, or both against them.
    """
    made = fields.copy()
    for part in parts:
        mirrored = number & (MIRROR_COLUMNS if part.along == "x" else MIRROR_ROWS)
        sign = -1 if mirrored else 1
        if not number & SWAP:
            made[part.index] = sign * fields[part.index]
            continue
        assert part.partner is not None
        # Rows that run southward point along minus north.
        made[part.partner] = (sign if same_way else -sign) * fields[part.index]
    return made
