"""Well-known orders of variables: the minimum of a day is below its mean, snowfall below precipitation.

The quantity of a variable is its standard name with the statistic over time of its cell methods, or that of a customary
name with fitting units. The tables are in quantities.toml.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import xarray as xr

from downscale.cf.quantities import SPREADS, TABLES, cell_methods, standard_name_of, units_of
from downscale.cf.units import fits

EXTREMES = ("minimum", "maximum")
# Quantity by customary name, with units for which the guess is safe.
NAMES = [
    (name, units, quantity) for quantity, legal, names in TABLES["ordered_names"] for units in legal
    for name in names.split()
]  # fmt: skip


class Ordering(NamedTuple):
    """The fine values of ``name`` have the values of another variable as their bound on one side."""

    name: str
    side: str  # "lower" or "upper"
    other: str

    def __str__(self) -> str:
        return f"{self.name} {'<=' if self.side == 'upper' else '>='} {self.other}"


def ordered_quantity(variable: xr.DataArray) -> str | None:
    """Return the standard name of a variable with its statistic over time, or None if it is in no known order.

    Examples
    --------
    >>> attrs = {"standard_name": "air_temperature", "cell_methods": "time: minimum"}
    >>> ordered_quantity(xr.DataArray(0.0, attrs=attrs)), ordered_quantity(xr.DataArray(0.0, name="prsn"))
    ('air_temperature|minimum', None)
    """
    units, name = units_of(variable), str(variable.name).lower()
    guesses = [quantity for known, legal, quantity in NAMES if known == name and units and fits(units, legal)]
    customary = guesses[0] if guesses else None
    standard, modifier = standard_name_of(variable)
    methods = [method for names, method in cell_methods(variable) if "area" not in names]
    if modifier or any(method in SPREADS for method in methods):
        return None
    if not standard:
        return customary
    extreme = next((method for method in methods if method in EXTREMES), None)
    if extreme is None and not methods and customary is not None and customary.partition("|")[0] == standard:
        return customary
    return standard if extreme is None else f"{standard}|{extreme}"


def known_orderings(ds: xr.Dataset, names: Sequence[str]) -> tuple[list[Ordering], list[str]]:
    """Return the well-known orders among variables on the same dimensions, and notes on those that are ambiguous.

    Examples
    --------
    >>> ds = xr.Dataset({"tas": ("x", [1.0], {"units": "K"}), "tasmin": ("x", [0.0], {"units": "K"})})
    >>> [str(ordering) for ordering in known_orderings(ds, ["tas", "tasmin"])[0]]
    ['tasmin <= tas']
    """
    quantities: dict[str, list[str]] = {}
    for name in names:
        quantity = ordered_quantity(ds[name])
        if quantity is not None:
            quantities.setdefault(quantity, []).append(name)
    found: dict[tuple[str, str], Ordering] = {}
    notes: list[str] = []
    for bounded, side, by in TABLES["orderings"]:
        for name in quantities.get(bounded, []):
            others = [
                other for other in quantities.get(by, [])
                if set(ds[other].dims) == set(ds[name].dims) and _same_units(ds[name], ds[other])
            ]  # fmt: skip
            if len(others) == 1:
                found.setdefault((name, side), Ordering(name, side, others[0]))
            elif others:
                notes.append(f"{name}: not ordered, {' and '.join(others)} are both {by.replace('|', ', ')}")
    return list(found.values()), notes


def _same_units(one: xr.DataArray, other: xr.DataArray) -> bool:
    units = [units_of(variable) for variable in (one, other)]
    return units[0] == units[1] or (all(units) and fits(str(units[0]), str(units[1])))
