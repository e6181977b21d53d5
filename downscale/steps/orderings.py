"""Bounds that are fields: which variables or given fields bound which, and the fine fields in that order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.dates import is_time
from downscale.cf.horizontal import Horizontal, horizontal
from downscale.cf.orderings import Ordering, known_orderings
from downscale.cf.quantities import is_field_bound, units_of
from downscale.cf.units import convert
from downscale.engine.limits import Limits
from downscale.errors import GridError, InputError, OptionError, listing, spell
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.io.target import Target
from downscale.request import AUTO, Request, value_for

SIDES = ("lower", "upper")
# Distance of centres of equal cells, in widths.
SAME_CENTRE = 0.01


@dataclass(frozen=True)
class Orderings:
    """Which fields bound the fine values of which variables.

    ``pairs`` are orders of two variables to downscale; ``given`` the fields by variable and side that the request
    names, still on their own grid; ``notes`` say which orders were found, and why.
    """

    pairs: tuple[Ordering, ...] = ()
    given: Mapping[tuple[str, str], xr.DataArray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def members(self) -> frozenset[str]:
        """The variables that bound others or are bounded."""
        names = {name for pair in self.pairs for name in (pair.name, pair.other)}
        return frozenset(names | {name for name, _ in self.given})

    @property
    def bounded(self) -> frozenset[str]:
        """The variables that fields bound."""
        return frozenset({pair.name for pair in self.pairs} | {name for name, _ in self.given})

    @property
    def words(self) -> list[str]:
        """The orders in a few characters each, such as tasmin<=tas."""
        given = (f"{name}{'<=' if side == 'upper' else '>='}given" for name, side in self.given)
        return [str(pair).replace(" ", "") for pair in self.pairs] + list(given)

    def root_of(self, name: str) -> str:
        """Return the first variable of the order that one belongs to, itself if no other variable bounds it."""
        others = list(self.sides_of(name).values())
        return self.root_of(others[0]) if others else name

    def sides_of(self, name: str) -> dict[str, str]:
        """Return the variables that bound one, by side."""
        return {pair.side: pair.other for pair in self.pairs if pair.name == name}

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Return names with each variable after those that bound it; raises an OptionError if there is a cycle."""
        sorter = TopologicalSorter({name: set(self.sides_of(name).values()) for name in names})
        try:
            return list(sorter.static_order())
        except CycleError as error:
            words = " -> ".join(reversed(error.args[1]))
            line = f"expected {spell('bounds')} without a cycle, received {words}; drop one of them"
            raise OptionError(line) from None


def find_orderings(ds: xr.Dataset, names: Sequence[str], request: Request) -> Orderings:
    """Return the orders among variables that a request asks for: by name, as fields, and the well-known ones.

    Raises
    ------
    OptionError, InputError
        If a bound is no variable, field or file; or if dimensions, units or conservation do not allow the order.
    """
    pairs: list[Ordering] = []
    given: dict[tuple[str, str], xr.DataArray] = {}
    for name in names:
        bounds = value_for(request.bounds, name)
        if not isinstance(bounds, tuple | list) or len(bounds) != 2:
            continue
        for side, bound in zip(SIDES, bounds, strict=True):
            if not is_field_bound(bound):
                continue
            if isinstance(bound, str) and bound in ds.data_vars:
                pairs.append(_require_pair(ds, Ordering(name, side, bound), names))
            else:
                given[name, side] = _converted(_open_field(bound, name, names), ds[name], name)
    notes = [f"{pair}: ordered by {spell('bounds')}" for pair in pairs]
    if request.orderings == AUTO:
        known, ambiguous = known_orderings(ds, names)
        explicit = {(pair.name, pair.side) for pair in pairs} | set(given)
        found = [pair for pair in known if (pair.name, pair.side) not in explicit and not _has_number(request, pair)]
        pairs += found
        notes += [f"{pair}: ordered by their names" for pair in found] + ambiguous
    orderings = Orderings(tuple(pairs), given, tuple(notes))
    if orderings.bounded:
        if request.conserve != "cell":
            raise OptionError(
                f"expected {spell('conserve', 'cell')} with bounds that are fields, received "
                f"{spell('conserve', request.conserve)}; drop one"
            )
        if request.footprint is not None:
            raise OptionError(f"expected no {spell('footprint')} with bounds that are fields, received both; drop one")
        orderings.in_order(names)
    return orderings


def _has_number(request: Request, pair: Ordering) -> bool:
    """Return whether the request has its own bound for a side."""
    bounds = value_for(request.bounds, pair.name)
    return isinstance(bounds, tuple | list) and bounds[SIDES.index(pair.side)] is not None


def _require_pair(ds: xr.Dataset, pair: Ordering, names: Sequence[str]) -> Ordering:
    what = f"{spell('bounds')} of {pair.name!r}"
    if pair.name == pair.other:
        raise OptionError(f"expected another variable as the bound of {pair.name!r}, received itself; drop it")
    if pair.other not in names:
        raise OptionError(
            f"expected {what} among the variables {listing(names)}, received {pair.other!r}; add it to "
            f"{spell('data_vars')}"
        )
    extra = [dim for dim in ds[pair.other].dims if dim not in ds[pair.name].dims]
    if extra:
        raise InputError(
            f"expected {what} with dimensions among {listing(ds[pair.name].dims)}, received {pair.other!r} with "
            f"{listing(extra)}; select one of its maps"
        )
    unit_scale(ds[pair.other], ds[pair.name], pair.name)
    return pair


def _open_field(bound: Any, name: str, names: Sequence[str]) -> xr.DataArray:
    """Return the field of a bound: a DataArray, or the only field of a file."""
    if isinstance(bound, xr.DataArray):
        return bound
    if not Path(bound).expanduser().exists():
        raise OptionError(
            f"expected {spell('bounds')} of {name!r} to be numbers, variables among {listing(names)}, DataArrays or "
            f"files, received {str(bound)!r}, which is none of them"
        )
    from downscale.io.read import open_dataset

    ds = open_dataset(bound, chunks={})
    fields = [str(key) for key, variable in ds.data_vars.items() if variable.ndim >= 2]
    if name not in fields and len(fields) != 1:
        raise InputError(f"expected one field, or {name!r}, in {str(bound)!r}, received {listing(fields) or 'none'}")
    return ds[name if name in fields else fields[0]]


def unit_scale(bound: xr.DataArray, variable: xr.DataArray, name: str) -> tuple[float, float]:
    """Return factor and offset from the units of a bound to those of a variable."""
    old, new = units_of(bound), units_of(variable)
    if not old or not new or old == new:
        return 1.0, 0.0
    zero, one = (convert(value, old, new) for value in (0.0, 1.0))
    if zero is None or one is None:
        raise InputError(
            f"expected {spell('bounds')} of {name!r} in units that fit {new!r}, received {str(bound.name)!r} in "
            f"{old!r}; convert one of them"
        )
    return one - zero, zero


def _converted(bound: xr.DataArray, variable: xr.DataArray, name: str) -> xr.DataArray:
    return bound.copy(data=_in_units(bound.data, unit_scale(bound, variable, name)))


def _in_units(data: Any, scale: tuple[float, float]) -> Any:
    return data if scale == (1.0, 0.0) else data.astype("f8") * scale[0] + scale[1]


def require_orderable(extensive: Mapping[str, bool], orderings: Orderings, nests: bool) -> None:
    """Refuse orders of sums and means, and of sums over cells that a target cuts."""
    for pair in orderings.pairs:
        kinds = {extensive[name] for name in (pair.name, pair.other)}
        if len(kinds) == 2:
            raise InputError(
                f"expected {pair.name!r} and {pair.other!r} both as means or both as sums over cells, received one of "
                f"each; set {spell('quantity')}"
            )
    cut = [name for name in sorted(orderings.members) if extensive[name] and not nests]
    if cut:
        raise GridError(
            f"expected a nested target for the order of {listing(cut)}, which are sums over cells, received one that "
            f"cuts cells; use {spell('factor')}"
        )


def names_only(ds: xr.Dataset, request: Request) -> Request:
    """Return a request whose bounds that are fields are names of variables only.

    Given fields are on the last grid: a step before leaves them out.
    """
    if not isinstance(request.bounds, Mapping):
        return request
    bounds = {
        name: tuple(None if is_field_bound(one) and not (isinstance(one, str) and one in ds) else one for one in pair)
        if isinstance(pair, tuple | list) else pair
        for name, pair in request.bounds.items()
    }  # fmt: skip
    return replace(request, bounds=bounds)


def place_field(bound: xr.DataArray, variable: xr.DataArray, name: str, index: Mapping[str, Any]) -> xr.Variable:
    """Return a given field at the times and layers of a variable, and in the rows and columns that ``index`` picks.

    Raises
    ------
    InputError
        If it has other dimensions, or lacks some of the times or layers.
    """
    what = f"{spell('bounds')} of {name!r}"
    extra = [dim for dim in bound.dims if dim not in variable.dims and dim not in index]
    if extra:
        raise InputError(f"expected {what} with dimensions of the variable, received {listing(extra)}; select one map")
    for dim in (dim for dim in bound.dims if dim not in index):
        has_values = dim in bound.coords and dim in variable.coords
        if has_values and not bound.indexes[dim].equals(variable.indexes[dim]):
            places = bound.indexes[dim].get_indexer(variable.indexes[dim])
            if (places < 0).any():
                noun = "times" if is_time(variable[dim].variable) else f"values of {dim!r}"
                raise InputError(
                    f"expected {what} at all {noun} of the variable, received a field without {int((places < 0).sum())}"
                    f" of {places.size}; add them"
                )
            bound = bound.isel({dim: places})
        elif not has_values and bound.sizes[dim] != variable.sizes[dim]:
            raise InputError(
                f"expected {what} with {variable.sizes[dim]} values along {dim!r}, received {bound.sizes[dim]}"
            )
    return bound.variable.isel({dim: places for dim, places in index.items() if dim in bound.dims})


def on_fine_grid(ds: xr.Dataset, name: str, bound: xr.DataArray, axes: Horizontal, target: Target) -> xr.Variable:
    """Return a field that bounds a variable on the fine cells of the request, in their order."""
    what = f"{spell('bounds')} of {name!r}"
    if not target.nests:
        raise GridError(
            f"expected variables as {what} with a target grid that cuts cells, received a field; use {spell('factor')}"
        )
    expected = "expected {} on the fine grid of {} x {} cells".format(what, *target.fine.shape)
    try:
        own = horizontal(bound, guess=True)
    except GridError as error:
        raise GridError(f"{what}: {error}") from None
    if own.grid.shape != tuple(target.fine.shape):
        received = "{} x {}".format(*own.grid.shape)
        raise GridError(f"{expected}, received a field on {received} cells; regrid it first")
    index: dict[str, Any] = dict.fromkeys(own.dims, slice(None))
    if isinstance(own.grid, RectilinearGrid) and isinstance(target.fine, RectilinearGrid):
        pairs = ((own.grid.y, target.fine.y), (own.grid.x, target.fine.x))
        for dim, (axis, fine) in zip(own.dims, pairs, strict=True):
            places = _places(bound[dim].values * own.unit, fine) if axis.kind == fine.kind else None
            if places is None:
                raise GridError(f"{expected}, received a field on other cells; regrid it first")
            index[dim] = places
    field, names = place_field(bound, ds[name], name, index), dict(zip(own.dims, axes.dims, strict=True))
    return xr.Variable([names.get(str(dim), dim) for dim in field.dims], field.data)


def _places(centres: NDArray[Any], fine: CellAxis) -> Any:
    """Return the places of the cells of a fine axis among coordinates, None if these are other cells.

    A slice is returned if they are all in order or all reversed: it copies nothing.
    """
    first = fine.edges.min()
    if fine.kind == "longitude":
        centres = (centres - first) % 360.0 + first
    places = np.argsort(centres)[:: 1 if fine.ascending else -1]
    if (np.abs(centres[places] - fine.centres) > SAME_CENTRE * np.abs(np.diff(fine.edges))).any():
        return None
    for step in (1, -1):
        if np.array_equal(places, np.arange(places.size)[::step]):
            return slice(None, None, step)
    return places


def fine_in_order(
    ds: xr.Dataset, names: Iterable[str], orderings: Orderings, given: Mapping[tuple[str, str], xr.Variable],
    refine: Callable[[str, dict[str, xr.Variable]], xr.Variable],
) -> dict[str, xr.Variable]:  # fmt: skip
    """Return the fine fields of variables, each within those that bound it.

    ``refine(name, bounds)`` returns the fine field of one variable within fine fields by side.
    """
    fine: dict[str, xr.Variable] = {}
    for name in orderings.in_order(names):
        bounds = {side: given[name, side] for side in SIDES if (name, side) in given}
        for side, other in orderings.sides_of(name).items():
            scale = unit_scale(ds[other], ds[name], name)
            bounds[side] = xr.Variable(fine[other].dims, _in_units(fine[other].data, scale))
        fine[name] = refine(name, bounds)
    return fine


def limits_on(bounds: Mapping[str, xr.Variable], sizes: Mapping[Any, int]) -> Limits:
    """Return bounds with the dimensions of a fine field, or as one map with its last two."""
    dims = tuple(sizes)
    arrays = {
        side: bound.transpose(*dims[-2:]) if set(bound.dims) == set(dims[-2:]) else bound.set_dims(dict(sizes))
        for side, bound in bounds.items()
    }
    return Limits(**{side: bound.data for side, bound in arrays.items()})
