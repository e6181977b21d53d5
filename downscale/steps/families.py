"""Families of daily variables that together give one hourly variable, by standard name, cell methods or name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import xarray as xr

from downscale.cf.axes import methods_along
from downscale.cf.quantities import infer_standard_name, standard_name_of
from downscale.cf.units import fits
from downscale.steps.daily import Daily
from downscale.steps.hours_temperature import temperature_steps

ROLES = ("mean", "minimum", "maximum")
# Words for the role at the end or the beginning of a name.
WORDS = re.compile(r"(?i)[_-]?(mean|avg|average|minimum|maximum|min|max|mn|mx)[_-]?")


@dataclass(frozen=True)
class Family:
    """Variables of one quantity by their roles, and the function from their days to steps.

    ``standard_name`` is a pattern of whole standard names; ``names`` are customary names by role, in lower case, for
    variables without a standard name, whose units must fit ``units``. ``hours`` returns the hourly variables by name.
    """

    name: str
    standard_name: str
    units: str
    names: Mapping[str, str]
    hours: Callable[[Daily], dict[str, xr.DataArray]]

    def role_of(self, variable: xr.DataArray, dim: str) -> str | None:
        """Return the role of a variable in this family by its cell methods or its name, or None if it has none."""
        name = str(variable.name).lower()
        named = next((role for role in ROLES if name in self.names.get(role, "").split()), None)
        standard = standard_name_of(variable)[0] or infer_standard_name(variable)[0]
        if standard and re.fullmatch(self.standard_name, standard) is None:
            return None
        units = variable.attrs.get("units")
        if not standard and (named is None or (units is not None and not fits(str(units), self.units))):
            return None
        methods = methods_along(variable, dim, "time")
        role = next((one for one in reversed(methods) if one in ROLES[1:]), None) or named
        if role is None:
            word = re.search(r"(?:^|_)(min|max)|(min|max)(?:imum)?$", name)
            role = "mean" if word is None else {"min": "minimum", "max": "maximum"}[word[1] or word[2]]
        return role


# In the order of computation: later families may use the hours of earlier ones.
FAMILIES = (
    Family(
        "temperature", "air_temperature", "K",
        {
            "mean": "tas t2m t2 2t tmean tavg temp temperature tg t_2m",
            "minimum": "tasmin tmin mn2t t2m_min t2min tn mintemp tmin_2m",
            "maximum": "tasmax tmax mx2t t2m_max t2max tx maxtemp tmax_2m",
        },
        temperature_steps,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A family in a Dataset: the name of the result, and the names of the daily variables by role."""

    family: Family
    name: str
    names: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name} from {', '.join(self.names.values())}"


def find_families(ds: xr.Dataset, names: list[str], dim: str) -> list[Found]:
    """Return the families among variables along a dimension, in the order of computation."""
    found = []
    for family in FAMILIES:
        roles = {name: role for name in names if (role := family.role_of(ds[name], dim)) is not None}
        groups: dict[str, dict[str, str]] = {}
        counts = [list(roles.values()).count(role) for role in ROLES]
        for name, role in roles.items():
            # Several variables with one role belong together by their names without the role.
            base = "" if max(counts) == 1 else WORDS.sub("", name.lower())
            groups.setdefault(base, {}).setdefault(role, name)
        for members in groups.values():
            ordered = {role: members[role] for role in ROLES if role in members}
            found.append(Found(family, _result_name(ordered), ordered))
    return found


def _result_name(names: Mapping[str, str]) -> str:
    """Return the name of a mean, or that of an extreme without its role.

    Examples
    --------
    >>> _result_name({"minimum": "tasmin"}), _result_name({"mean": "t2m", "minimum": "mn2t"})
    ('tas', 't2m')
    """
    name = next(iter(names.values()))
    return name if "mean" in names else WORDS.sub("", name) or name
