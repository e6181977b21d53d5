"""Check of orders: fine values beyond those that bound them, and coarse values that are out of order themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.orderings import Ordering
from downscale.check.comparison import Comparison, Nested, cell_place
from downscale.conservation.report import VariableReport
from downscale.process.computing import compute
from downscale.steps.orderings import Orderings, place_field, unit_scale


@dataclass(frozen=True)
class Disorder:
    """Values of a variable that are out of order with the one that bounds it."""

    values: int = 0  # fine values beyond, in coarse cells that are in order
    cells: int = 0  # coarse cells that are out of order themselves
    place: Mapping[str, Any] = field(default_factory=dict)  # the worst of these


def report_orderings(
    reports: Mapping[str, VariableReport], comparison: Comparison, fine: xr.Dataset, orderings: Orderings
) -> dict[str, VariableReport]:
    """Return check reports with the orders of their variables; ``fine`` is the field before averages over times."""
    ordered = dict(reports)
    for pair in orderings.pairs:
        if pair.name in ordered:
            ordered[pair.name] = _with(ordered[pair.name], str(pair), _count_pair(comparison, fine, pair))
    for (name, side), bound in orderings.given.items():
        if name in ordered:
            sign = "<=" if side == "upper" else ">="
            placed = xr.DataArray(place_field(bound, fine[name], name, {}))
            words = f"{name} {sign} {bound.name or 'the given field'}"
            ordered[name] = _with(ordered[name], words, Disorder(_count(_beyond(fine[name], placed, side))))
    return ordered


def _with(report: VariableReport, words: str, disorder: Disorder) -> VariableReport:
    return replace(
        report, orderings=(*report.orderings, words),
        values_out_of_order=report.values_out_of_order + disorder.values,
        cells_out_of_order=report.cells_out_of_order + disorder.cells,
        where_out_of_order=report.where_out_of_order or disorder.place,
    )  # fmt: skip


def _beyond(values: xr.DataArray, bound: xr.DataArray, side: str) -> xr.DataArray:
    """Return where values are beyond a bound; values are compared by position, not by label."""
    values, bound = _bare(values), _bare(bound)
    return values > bound if side == "upper" else values < bound


def _bare(field: xr.DataArray) -> xr.DataArray:
    return field.drop_vars(list(field.coords))


def _in_units(ds: xr.Dataset, pair: Ordering) -> xr.DataArray:
    """Return the variable that bounds another in the units of that one."""
    bound = ds[pair.other]
    factor, offset = unit_scale(bound, ds[pair.name], pair.name)
    return bound if (factor, offset) == (1.0, 0.0) else bound.astype("f8") * factor + offset


def _count(beyond: xr.DataArray) -> int:
    return int(compute(beyond.sum().data)[0])


def _count_pair(comparison: Comparison, fine: xr.Dataset, pair: Ordering) -> Disorder:
    """Return the disorder of two variables.

    Fine values of a coarse cell that is out of order itself have no choice. If the grids do not nest, this holds for
    all values of its map, and if times were averaged, averages are compared.
    """
    coarse, averages = comparison.coarse, comparison.fine
    cells, beyond_coarse = 0, None
    if pair.other in coarse:
        bound = _in_units(coarse, pair)
        beyond_coarse = _beyond(coarse[pair.name], bound, pair.side).transpose(*coarse[pair.name].dims)
        cells = _count(beyond_coarse)
    if not cells or beyond_coarse is None:
        values = averages if comparison.sizes is None else fine
        return Disorder(_count(_beyond(values[pair.name], _in_units(values, pair), pair.side)))
    excuse = beyond_coarse.transpose(..., *comparison.coarse_axes.dims)
    if isinstance(comparison, Nested):
        factors = comparison.cells.factor_y, comparison.cells.factor_x
        data = np.repeat(np.repeat(np.asarray(excuse.values), factors[0], -2), factors[1], -1)
        excuse = xr.DataArray(data, dims=(*excuse.dims[:-2], *comparison.fine_axes.dims))
    else:
        excuse = excuse.any(excuse.dims[-2:])
    distance = abs(_bare(coarse[pair.name]) - _bare(bound)).transpose(*beyond_coarse.dims)
    worst = np.where(beyond_coarse.values, distance.values, -1.0)
    place = cell_place(coarse[pair.name], tuple(int(i) for i in np.unravel_index(worst.argmax(), worst.shape)))
    beyond = _beyond(averages[pair.name], _in_units(averages, pair), pair.side)
    return Disorder(_count(beyond & ~excuse), cells, place)
