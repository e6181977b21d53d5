"""Families of daily variables that together give one hourly variable, by standard name, cell methods or name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr

from downscale.cf.axes import methods_along
from downscale.cf.quantities import CUSTOMARY, infer_standard_name, standard_name_of
from downscale.cf.units import fits
from downscale.errors import OptionError, listing, spell
from downscale.steps.daily import Daily
from downscale.steps.hours_humidity import dew_point_steps, relative_humidity_steps, specific_humidity_steps
from downscale.steps.hours_radiation import radiation_steps
from downscale.steps.hours_rain import part_steps, rain_steps
from downscale.steps.hours_temperature import temperature_steps
from downscale.steps.hours_wind import wind_steps

ROLES = ("mean", "minimum", "maximum")
# Words for the role at the end or the beginning of a name.
WORDS = re.compile(r"(?i)[_-]?(mean|avg|average|minimum|maximum|min|max|mn|mx)[_-]?")


@dataclass(frozen=True)
class Family:
    """Variables of one quantity by their roles, and the function from their days to steps.

    ``standard_name`` is a pattern of whole standard names; ``names`` are customary names by role, in lower case, for
    variables without a standard name, whose units must fit some of ``units``; other roles have no use. ``hours``
    returns the hourly variables by name.
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
        standard = standard_name_of(variable)[0]
        if not standard and name not in KNOWN_NAMES and name not in CUSTOMARY:
            standard = infer_standard_name(variable)[0] or ""
        if standard and re.fullmatch(self.standard_name, standard) is None:
            return None
        if not standard and (named is None or not self._has_units(variable)):
            return None
        methods = methods_along(variable, dim, "time")
        role = next((one for one in reversed(methods) if one in ROLES[1:]), None) or named
        if role is None:
            word = re.search(r"(?:^|_)(min|max)|(min|max)(?:imum)?$", name)
            role = "mean" if word is None else {"min": "minimum", "max": "maximum"}[word[1] or word[2]]
        return role if role in self.names else None

    def _has_units(self, variable: xr.DataArray) -> bool:
        units = variable.attrs.get("units")
        return units is None or any(fits(str(units), known) for known in self.units.split("|"))


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
    Family(
        "solar radiation", "(?!.*(longwave|net_)).*(shortwave|photosynthetic|solar)_.*flux.*", "W m-2|J m-2",
        {
            "mean": "rsds rsdsdiff rsdsdir rsdt rsus rsut rsdscs rsuscs rsutcs ssrd fdir tisr ssrdc swdown dswrf uswrf "
            "fsds swgdn srad avg_sdswrf par parsds"
        },
        radiation_steps,
    ),
    Family(
        "precipitation", "(lwe_|lwe_thickness_of_|thickness_of_)?precipitation_(amount|flux|rate)",
        "kg m-2 s-1|m s-1|kg m-2|m",
        {"mean": "pr tp precip precipitation prec prcp rain rainfall prect pre rr ppt total_precipitation mtpr "
                 "avg_tprate tot_prec rf"},
        rain_steps,
    ),
    Family(
        "part of precipitation",
        "(?!.*_(on|in|at)_).*(snowfall|rainfall|convective_precipitation|stratiform_precipitation|graupel_fall)_"
        "(amount|flux|rate)",
        "kg m-2 s-1|m s-1|kg m-2|m",
        {"mean": "prsn prc prl prra sf cp lsp snowfall prls snow_gsp rain_gsp rain_con snow_con"},
        part_steps,
    ),
    Family(
        "wind speed", "wind_speed", "m s-1",
        {
            "mean": "sfcwind ws wspd ws10 si10 si100 wind_speed windspeed ff wsp fg",
            "minimum": "sfcwindmin", "maximum": "sfcwindmax",
        },
        wind_steps,
    ),
    Family(
        "dew point", "dew_point_temperature", "K",
        {"mean": "d2m tdps td td2m 2d dewpoint dew_point dew_point_temperature tdew td_2m dpt"},
        dew_point_steps,
    ),
    Family(
        "relative humidity", "relative_humidity", "1",
        {
            "mean": "hurs rh rh2 rh2m rhum relhum relhum_2m r2 hu", "minimum": "hursmin rmin rhmin",
            "maximum": "hursmax rmax rhmax",
        },
        relative_humidity_steps,
    ),
    Family(
        "specific humidity", "specific_humidity", "1",
        {"mean": "huss q2 q2m sh2 sphum qv_2m shum spfh"},
        specific_humidity_steps,
    ),
)  # fmt: skip


# Customary names decide the family; standard names are inferred for others only.
KNOWN_NAMES = {name for family in FAMILIES for names in family.names.values() for name in names.split()}


@dataclass(frozen=True)
class Found:
    """A family in a Dataset: the name of the result, and the names of the daily variables by role."""

    family: Family
    name: str
    names: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name} from {', '.join(self.names.values())}"


def names_among(known: list[str], data_vars: Any = None) -> list[str]:
    """Return the option ``data_vars`` as names, each once; all known ones by default, and no others."""
    if data_vars is None:
        return known
    names = [data_vars] if isinstance(data_vars, str) else data_vars
    if not isinstance(names, Iterable):
        raise OptionError(f"expected {spell('data_vars')} to be names of variables, received {data_vars!r}")
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise OptionError(f"expected {spell('data_vars')} among {listing(known)}, received {listing(unknown)}")
    return names


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
