"""Which fields of a patch turn with it: components of vectors change sign and places (numpy; names, no file)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from downscale.errors import OptionError
from downscale.training.schema import Data

# Turns of a square: bit 1 mirrors rows, bit 2 columns, bit 4 swaps the two.
MIRROR_ROWS, MIRROR_COLUMNS, SWAP = 1, 2, 4
ASPECT = ("aspect_sin", "aspect_cos")
# Words of a standard name, the direction that each stands for, and whether it is one of the grid's own axes.
DIRECTIONS = {"eastward": ("x", False), "northward": ("y", False), "x": ("x", True), "y": ("y", True)}
OTHER_WORD = {"eastward": "northward", "northward": "eastward", "x": "y", "y": "x"}
# Names that components have where no standard name says so.
BY_NAME = re.compile(r"\d*[uv]\d*m?|[uv](a|as|o|si|ice|wnd|grd|gos|geo|bar)\d*m?|tau[uvxy]o?|(si|sic)?str[xy]",
                     re.IGNORECASE)  # fmt: skip
BY_WORDS = re.compile(r"\b(u|v|x|y|zonal|meridional|eastward|northward)[ _-]+(component|wind|velocity|current|stress)"
                      r"|component of (the )?(wind|velocity|current)", re.IGNORECASE)  # fmt: skip
# Words of what a mirror changes in a way that no rule here covers: signs of rotation, and angles.
HANDED = re.compile(r"vorticity|helicity|stream_?function|(from|to)_direction|\bdirection\b", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """One component of a vector along the axes of the grid.

    Attributes
    ----------
    group : {"outputs", "predictors", "statics"}
        Which fields it is among.
    index : int
        Its place there.
    along : {"x", "y"}
        The axis that it lies along.
    partner : int or None
        Place of the other component, in the same group; None where there is none.
    """

    group: str
    index: int
    along: str
    partner: int | None = None


def static_parts(channels: Sequence[str]) -> tuple[Part, ...]:
    """Return the components among the channels of the statics: those of the aspect."""
    if ASPECT[0] not in channels:
        return ()
    east, north = (list(channels).index(name) for name in ASPECT)
    return Part("statics", east, "x", north), Part("statics", north, "y", east)


def turns_of(parts: Iterable[Part]) -> int:
    """Return how many turns a patch may have: all 8, or 4 without swaps where a component has no partner."""
    return 8 if all(part.partner is not None for part in parts) else 4


def variable_parts(data: Data, described: Sequence[dict[str, Any]], own_axes: Sequence[bool]) -> tuple[Part, ...]:
    """Return the components of vectors among outputs and predictors.

    Parameters
    ----------
    data : Data
        Of the recipe; its ``vectors`` name pairs along the axes of the grid.
    described : sequence of dict
        Of each source: attributes of its variables, by the name that the recipe has for them.
    own_axes : sequence of bool
        Of each source, whether its axes are longitude and latitude.

    Raises
    ------
    OptionError
        If a field looks like a component, an angle or a sign of rotation, and it is not known how it turns.
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
    """Return what a partner calls a variable: its name where the recipe pairs it, else its standard name."""
    return name if name in named else str(_attributes(name, described).get("standard_name", ""))


def _attributes(name: str, described: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the attributes of a variable in the first source that has its standard name, else in the first."""
    known = (each[name] for each in described if each[name].get("standard_name"))
    attrs: dict[str, Any] = next(known, described[0][name])
    return attrs


def _component(
    name: str, described: Sequence[dict[str, Any]], own_axes: Sequence[bool]
) -> tuple[str, str] | None:
    """Return the axis of a component and the standard name of the other one; None for what is no component."""
    attrs = _attributes(name, described)
    standard, said = str(attrs.get("standard_name", "")), str(attrs.get("long_name", ""))
    if any(HANDED.search(text) for text in (standard, said, name)):
        raise _unknown(name, "whose sign or angle changes in a mirror")
    words = standard.split("_")
    found = [word for word in words if word in DIRECTIONS]
    # "grid_eastward_wind" lies along the grid, wherever that points.
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
        f"patches.augment: expected fields that are known to turn with a patch, received {name!r}, {what}; name pairs "
        "along the grid's axes as data.vectors: [[U, V]], or set patches.augment: false"
    )


def turn(array: NDArray[Any], number: int) -> NDArray[Any]:
    """Mirror and swap the last two axes of an array."""
    if number & MIRROR_ROWS:
        array = array[..., ::-1, :]
    if number & MIRROR_COLUMNS:
        array = array[..., ::-1]
    return array.swapaxes(-2, -1) if number & SWAP else array


def turn_parts(fields: NDArray[Any], parts: Iterable[Part], number: int, same_way: bool) -> NDArray[Any]:
    """Turn the components among fields that were turned as if they were none.

    Parameters
    ----------
    fields : array, shape (C, n_y, n_x)
        Of one group, after :func:`turn`.
    parts : iterable of Part
        Of that group.
    number : int
        The turn; one with a swap needs partners.
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
        # Rows that run southward lie along minus north.
        made[part.partner] = (sign if same_way else -sign) * fields[part.index]
    return made
