"""From what a user asks to what the engine does: validate, build grids and jobs (reads coordinates only)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from downscale.diagnostics.conservation import default_tolerance
from downscale.engine.block import Job
from downscale.errors import GridError, InputError, OptionError, ShapeError, listing
from downscale.fields.aggregate import Aggregation
from downscale.grid.latlon import RectilinearGrid
from downscale.io.cf import (
    Horizontal,
    horizontal,
    horizontal_variables,
    is_categorical,
    parse_factor,
    quantity_of,
)
from downscale.io.quantities import is_number, variable_bounds
from downscale.io.statics import on_grid, pick_static
from downscale.losses.terrain import TerrainPenalty, TerrainRefinement
from downscale.nn.upsample import METHODS, upsampler
from downscale.options import CHECKS, option
from downscale.typing import Upscaler

Factor = int | Mapping[str, int]
CONSERVE = ("cell", "total", None)
QUANTITIES = ("intensive", "extensive")


@dataclass(frozen=True)
class Request:
    """What a user asked for, checked on its own (see :func:`downscale.downscale` for the meaning of each)."""

    factor: Factor | None = None
    method: Any = "sobolev"
    target_grid: Any = None
    orog: Any = None
    lapse_rate: Any = None
    terrain_penalty: TerrainPenalty | None = None
    conserve: str | None = "cell"
    bounds: Any = "auto"
    data_vars: Any = None
    quantity: str | None = None
    device: str | None = None
    check: str | None = None
    tolerance: float | None = None
    taps: int = 7
    order: float = 1.25

    def __post_init__(self) -> None:
        _among("conserve", self.conserve, CONSERVE)
        _among("quantity", self.quantity, (*QUANTITIES, None))
        _among("check", self.check, (*CHECKS, None))
        if self.tolerance is not None and not (is_number(self.tolerance) and self.tolerance > 0):
            raise OptionError(f"expected tolerance to be a positive number, received {self.tolerance!r}")
        if isinstance(self.method, (str, Path)):
            _among("method", str(self.method), tuple(METHODS))
        elif not isinstance(self.method, Upscaler):
            raise OptionError(
                f"expected method to be one of {listing(METHODS)} or an object with the Upscaler protocol, "
                f"received {type(self.method).__name__}"
            )
        if self.conserve != "cell" and self.bounds not in ("auto", None):
            raise OptionError(f"expected conserve='cell' with bounds, received conserve={self.conserve!r}; drop one")
        if self.orog is None and self.lapse_rate is not None:
            raise OptionError("expected orog with lapse_rate, received none; pass the fine orography as orog=")
        if self.terrain_penalty is not None and not isinstance(self.terrain_penalty, TerrainPenalty):
            raise OptionError(
                f"expected terrain_penalty to be a TerrainPenalty, received {type(self.terrain_penalty).__name__}"
            )
        if self.terrain_penalty is not None and self.conserve != "cell":
            raise OptionError(f"expected conserve='cell' with terrain_penalty, received {self.conserve!r}; drop one")

    def setting(self, name: str) -> Any:
        """Return an option of this request, or the package's where none was given."""
        value = getattr(self, name)
        return option(name) if value is None else value


def _among(name: str, value: Any, legal: tuple[Any, ...]) -> None:
    if value not in legal:
        raise OptionError(f"expected {name} to be one of {listing(legal)}, received {value!r}")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything known before any data are read.

    Attributes
    ----------
    where : Horizontal
        Axes of the coarse object.
    fine : RectilinearGrid
        Grid of the result.
    jobs : dict of name to Job
        One for each variable to downscale; other variables pass through or, if they lie on one horizontal axis
        only, are dropped.
    statics : dict of arrays
        Fine fields that go with every block.
    """

    where: Horizontal
    fine: RectilinearGrid
    upscaler: Upscaler
    jobs: dict[str, Job]
    categorical: tuple[str, ...]
    statics: dict[str, Any] = field(default_factory=dict)
    lapse_rate: Any = None

    @property
    def factors(self) -> tuple[int, int]:
        """Refinement of rows and columns."""
        cells = self.fine.shape[0] // self.where.grid.shape[0], self.fine.shape[1] // self.where.grid.shape[1]
        return cells


def prepare(ds: xr.Dataset, request: Request) -> Prepared:
    """Build grids and jobs; raises where the request does not fit the object."""
    where = horizontal(ds)
    factors, fine = _target(where, request)
    upscaler = _upscaler(where, factors, request)
    names = _variables(ds, where, request)
    unknown = [key for key in request.bounds if key not in names] if isinstance(request.bounds, Mapping) else []
    if unknown:
        raise OptionError(f"expected bounds of variables among {listing(names)}, received {listing(unknown)}")
    codes = tuple(name for name in names if is_categorical(ds[name]))
    cells = Aggregation.between(where.grid, fine)
    refinement = None if request.terrain_penalty is None else TerrainRefinement(fine, cells, request.terrain_penalty)
    jobs = {}
    for name in names:
        if name not in codes:
            jobs[name] = _job(ds[name], name, where, fine, upscaler, cells, refinement, request)
    statics, rate = _terrain(fine, where, request)
    return Prepared(where, fine, upscaler, jobs, codes, statics, rate)


def _job(
    variable: xr.DataArray,
    name: str,
    where: Horizontal,
    fine: RectilinearGrid,
    upscaler: Upscaler,
    cells: Aggregation,
    refinement: TerrainRefinement | None,
    request: Request,
) -> Job:
    dtype = result_type(variable.dtype)
    bounds = variable_bounds(variable, name, request.bounds) if request.conserve == "cell" else (None, None)
    tolerance = request.setting("tolerance")
    extensive = (request.quantity or quantity_of(variable)) == "extensive"
    if extensive and not set(bounds) <= {None, 0.0}:
        # The sum over a small part may be anything up to that over the whole: only a sign is the same for both.
        raise OptionError(f"{name}: expected bounds of 0 or none for sums over cells, received {bounds}; drop them")
    return Job(
        name=name,
        upscaler=upscaler,
        coarse=where.grid,
        fine=fine,
        cells=cells,
        dtype=dtype,
        tolerance=default_tolerance(dtype) if tolerance is None else float(tolerance),
        # The total law is imposed on whole maps, after the blocks.
        conserve="cell" if request.conserve == "cell" else None,
        bounds=bounds,
        strict_bounds=request.bounds != "auto",
        refinement=refinement,
        extensive=extensive,
        check=request.setting("check"),
        device=request.setting("device"),
    )


def result_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the floating type that holds a coarse type: float32 for up to two bytes, else float64.

    Examples
    --------
    >>> result_type(np.dtype("int16"))
    dtype('float32')
    """
    if dtype.kind == "f" and dtype.itemsize in (4, 8):
        return np.dtype(f"f{dtype.itemsize}")
    return np.dtype("f4") if dtype.itemsize <= 2 else np.dtype("f8")


def _target(where: Horizontal, request: Request) -> tuple[tuple[int, int], RectilinearGrid]:
    if request.target_grid is not None:
        if request.factor is not None:
            raise OptionError("expected factor or target_grid, received both; drop one of them")
        return _nested_target(where, request.target_grid)
    factor = request.factor
    if factor is None:
        factor = getattr(request.method, "factor", None)
        if factor is None:
            raise OptionError("expected factor or target_grid, received neither; try factor=4")
        factor = dict(zip(where.dims, factor, strict=True)) if isinstance(factor, tuple) else factor
    factors = parse_factor(factor, where)
    return factors, where.grid.refine(*factors)


def _nested_target(where: Horizontal, target: Any) -> tuple[tuple[int, int], RectilinearGrid]:
    if isinstance(target, (str, Path)):
        from downscale.io.read import open_dataset

        target = open_dataset(target)
    if not isinstance(target, (xr.Dataset, xr.DataArray)):
        raise OptionError(f"expected target_grid to be a Dataset, DataArray or file, received {type(target).__name__}")
    fine = oriented(horizontal(target).grid, where.grid)
    factors = where.grid.nest_factors(fine)
    if factors is None:
        raise GridError(
            f"expected a target grid whose cells nest in the coarse ones, received {fine.shape} cells for "
            f"{where.grid.shape} with edges that do not match; use factor=, or give a nested grid"
        )
    return factors, fine


def oriented(grid: RectilinearGrid, like: RectilinearGrid) -> RectilinearGrid:
    """Return ``grid`` with its axes in the directions of ``like`` and on the same branch of longitude."""
    y = grid.y if grid.y.ascending == like.y.ascending else grid.y.reverse()
    x = grid.x if grid.x.ascending == like.x.ascending else grid.x.reverse()
    if x.kind == "longitude":
        turn = 360.0 * round((like.x.edges[0] - x.edges[0]) / 360.0)
        x = type(x)(x.edges + turn, x.kind)
    return RectilinearGrid(y, x)


def _upscaler(where: Horizontal, factors: tuple[int, int], request: Request) -> Upscaler:
    if isinstance(request.method, (str, Path)):
        return upsampler(str(request.method), where.grid, factors, request.taps, request.order)
    own = request.method.factor
    if (own if isinstance(own, tuple) else (own, own)) != factors:
        raise ShapeError(f"expected the factor of the method, {own}, received {factors}; leave factor out")
    return request.method


def _variables(ds: xr.Dataset, where: Horizontal, request: Request) -> list[str]:
    legal = horizontal_variables(ds, where)
    wanted = request.data_vars
    if wanted is None:
        if not legal:
            raise InputError(
                f"expected a numeric variable with dimensions {listing(where.dims)}, received "
                f"{listing(ds.data_vars) or 'no variables'}"
            )
        return legal
    wanted = [wanted] if isinstance(wanted, str) else list(wanted) if isinstance(wanted, Iterable) else [wanted]
    for name in wanted:
        if name not in legal:
            raise InputError(f"expected a variable among {listing(legal)}, received {name!r}")
    return wanted


def _terrain(fine: RectilinearGrid, where: Horizontal, request: Request) -> tuple[dict[str, Any], Any]:
    """Return the statics and the lapse rate, as a number or on the fine grid."""
    if request.orog is None:
        return {}, None
    statics = {"orog": on_grid(pick_static(request.orog), fine)}
    rate = request.lapse_rate
    if rate is None or (is_number(rate) and math.isfinite(rate)):
        return statics, rate
    if isinstance(rate, xr.DataArray):
        return statics, on_grid(pick_static(rate), fine, "lapse_rate")
    raise OptionError(f"expected lapse_rate to be a number or a DataArray (units a metre), received {rate!r}")
