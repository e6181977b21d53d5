"""Stages of a request: along time and layers first, one axis after the other, then the horizontal grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import xarray as xr

from downscale.cf.horizontal import NoAxesError, horizontal
from downscale.errors import DownscaleError, OptionError, ShapeError, listing
from downscale.io.target import is_file, open_target
from downscale.request import Request


@dataclass(frozen=True)
class Step:
    """One axis that is not horizontal, and the factor or the target along it."""

    dim: str
    factor: int | None
    target: Any


def split(ds: xr.Dataset, request: Request) -> tuple[tuple[Step, ...], Request | None]:
    """Return the steps along other axes, and the remaining horizontal request (None if there is none).

    Raises
    ------
    OptionError
        If a target names horizontal dimensions along with others, or both a factor and a target are given for one axis.
    """
    factor, target = request.factor, request.target_grid
    if factor is None:
        grid = open_target(target) if is_file(target) else target
        if isinstance(grid, (xr.Dataset, xr.DataArray)) and not _has_horizontal(grid):
            return (Step(_line_of(grid, ds), None, grid),), None
    asked = {"factor": factor, "target_grid": target}
    named = {key: value for key, value in asked.items() if isinstance(value, Mapping) and not _is_data(value)}
    if not named:
        return (), request
    dims = _horizontal_dims(ds)
    legal = [*dims, *(str(dim) for dim in ds.dims if dim in ds.coords and dim not in dims)]
    for key, value in named.items():
        unknown = [name for name in value if name not in legal and name not in ds.coords]
        if unknown:
            raise ShapeError(f"expected {key} for the dimensions {listing(legal)}, received {listing(unknown)}")
    steps: dict[str, Step] = {}
    left = dict(asked)
    for key, value in named.items():
        others = {str(name): wanted for name, wanted in value.items() if name not in dims}
        inside = {name: wanted for name, wanted in value.items() if name in dims}
        if key == "target_grid" and inside:
            raise OptionError(
                f"expected a target grid as one object for the horizontal axes, received {listing(inside)} one by one; "
                "pass a Dataset with both"
            )
        twice = [name for name in others if name in steps]
        if twice:
            raise OptionError(f"expected factor or target_grid along {listing(twice)}, received both; drop one of them")
        steps.update({n: Step(n, *((w, None) if key == "factor" else (None, w))) for n, w in others.items()})
        left[key] = inside or None
    rest = None if left["factor"] is None and left["target_grid"] is None else replace(request, **left)
    return tuple(steps.values()), rest if steps else request


def _is_data(value: Any) -> bool:
    return isinstance(value, xr.Dataset)


def _has_horizontal(obj: xr.Dataset | xr.DataArray) -> bool:
    try:
        horizontal(obj, guess=True)
    except DownscaleError as error:
        # One-dimensional objects have no horizontal axes; other faults are reported later.
        return not isinstance(error, NoAxesError)
    return True


def _horizontal_dims(ds: xr.Dataset) -> tuple[str, ...]:
    return horizontal(ds, guess=True).dims if _has_horizontal(ds) else ()


def _line_of(target: xr.Dataset | xr.DataArray, ds: xr.Dataset) -> str:
    """Return the one axis that a target without horizontal axes has in common with the field."""
    if set(target.dims) & set(_horizontal_dims(ds)):
        horizontal(target)  # raises the error about its rows and columns, which is more specific
    shared = [str(dim) for dim in target.dims if dim in ds.dims and dim in target.coords]
    if len(shared) != 1:
        raise OptionError(
            f"expected a target with horizontal axes, or with one axis of the field, received {listing(target.dims)}; "
            'name the axis, as in target_grid={"time": target}'
        )
    return shared[0]
