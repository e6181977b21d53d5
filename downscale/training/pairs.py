"""Lazy pairs of coarse and fine maps from files.

In perfect prognosis, the coarse map is the average of the fine one. Otherwise it is the map of an independent model on
cells in which the fine cells nest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.compatible import require_same_axes, with_named_mapping
from downscale.cf.horizontal import Horizontal, horizontal, horizontal_variables
from downscale.cf.quantities import automatic_bounds
from downscale.cf.times import time_name
from downscale.cf.units import convert, fits
from downscale.errors import DownscaleError, GridError, InputError, OptionError, ShapeError, listing
from downscale.fields.aggregate import Aggregation
from downscale.grid.subcells import Subcells
from downscale.io.read import open_dataset, sources_of
from downscale.io.statics import on_grid, pick_static
from downscale.models.static_features import NEEDS, companions
from downscale.models.time_features import clock_values
from downscale.nn.separable import Separable, sobolev_operator
from downscale.sample import path as sample_path
from downscale.training.schema import Channel, Data, Network, Pair

SAMPLE = "sample:"


@dataclass(frozen=True, eq=False)
class Field:
    """One variable of one source: lazy maps, and the conversion of stored values to the units of the recipe.

    Attributes
    ----------
    maps : DataArray, dims (..., y, x)
        Fine maps, or coarse ones of an independent model.
    factor, offset : float
        Values are ``stored * factor + offset``.
    lower, upper : float
        Bounds to which values are clipped.
    """

    maps: xr.DataArray
    factor: float
    offset: float
    lower: float
    upper: float

    def read(self, index: tuple[int, ...]) -> NDArray[np.float64]:
        """Return one map; missing values are NaN.

        Raises
        ------
        InputError
            If a value is infinite.
        """
        values = np.asarray(self.maps[index].values, dtype=np.float64) * self.factor + self.offset
        if np.isinf(values).any():
            raise InputError(
                f"expected finite or missing values in {self.maps.name!r}, received infinite ones in map {index}; "
                "set these to missing first"
            )
        # Clipping passes NaN through.
        return values.clip(self.lower, self.upper)


@dataclass(frozen=True, eq=False)
class Source:
    """One source of pairs: maps of one grid.

    Attributes
    ----------
    label : str
        Path of its fine files, for messages.
    pair : Pair
        Entry of the recipe.
    outputs : tuple of Field
        Fine reference, one per output.
    coarse : tuple of Field or None
        The outputs of an independent model; None if the coarse fields are averages of the reference.
    predictors : tuple of Field
        Further coarse variables, from the independent model or averaged from fine ones.
    fine, grid : RectilinearGrid
        Fine and coarse cells.
    cells : Aggregation
        Aggregation from fine to coarse cells.
    first : Aggregation or None
        Aggregation from the cells of the files to the fine cells, if the recipe averages first.
    operator : Separable
        The Sobolev kernel on these grids.
    statics : array of float32, shape (S, n_fine_y, n_fine_x)
        Fine static features.
    dates : array or None
        One per time step.
    sizes : tuple of int
        Time steps, then the sizes of other dimensions (members, levels).
    clock : array of float32, shape (time steps, E)
        Sines and cosines of the encodings.
    files : tuple of str
        Files read.
    licence : str
        Licence attribute of the fine file.
    geographic : bool
        Whether the axes are longitude and latitude of the earth, so that east is along the columns.
    """

    label: str
    pair: Pair
    outputs: tuple[Field, ...]
    coarse: tuple[Field, ...] | None
    predictors: tuple[Field, ...]
    fine: Any
    grid: Any
    cells: Aggregation
    first: Aggregation | None
    operator: Separable
    statics: NDArray[np.float32]
    dates: NDArray[Any] | None
    sizes: tuple[int, ...]
    clock: NDArray[np.float32]
    files: tuple[str, ...]
    licence: str = ""
    geographic: bool = False

    @property
    def count(self) -> int:
        """Number of maps."""
        return int(np.prod(self.sizes))

    def described(self, data: Data) -> dict[str, dict[str, Any]]:
        """Return the attributes of the variables by their names in the recipe."""
        channels, fields = (*data.outputs, *data.predictors), (*self.outputs, *self.predictors)
        return {channel.name: {**field.maps.attrs, "name": str(field.maps.name)}
                for channel, field in zip(channels, fields, strict=True)}  # fmt: skip

    def index(self, number: int) -> tuple[int, ...]:
        """Return the time step and other indices of a map."""
        return tuple(int(i) for i in np.unravel_index(number, self.sizes))

    def maps_of(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of all maps of some time steps."""
        others = self.count // self.sizes[0]
        return (np.asarray(times, dtype=np.int64)[:, None] * others + np.arange(others)).ravel()


def open_source(pair: Pair, data: Data, network: Network) -> Source:
    """Open one pair of the recipe; reads coordinates and statics only.

    Raises
    ------
    InputError, GridError, ShapeError, OptionError
        If a file or variable is missing, grids do not match, or units do not fit.
    """
    try:
        return _opened(pair, data, network)
    except DownscaleError as error:
        if str(error).startswith(pair.fine):
            raise
        raise type(error)(f"{pair.fine}: {error}") from None


def _opened(pair: Pair, data: Data, network: Network) -> Source:
    raw = selected(open_maps(pair.fine), pair)
    ds, where = cropped(raw, [size * pair.average for size in data.factor])
    other, there = independent(pair)
    first, fine = None, where.grid
    if pair.average > 1:
        fine = where.grid.coarsen(pair.average, pair.average)
        first = Aggregation.between(fine, where.grid)
    grid = fine.coarsen(*data.factor)
    if other is not None and there is not None:
        other, there = oriented(other, there, where)
        require_match(there, grid, fine, data.factor)
    ds, other = same_times(ds, other)
    time = time_name(ds)
    outputs = tuple(_field(ds, where, channel, pair) for channel in data.outputs)
    lead = outputs[0].maps.dims[:-2]
    coarse = None
    if other is not None and there is not None:
        coarse = tuple(_field(other, there, channel, pair) for channel in data.outputs)
    beside, at = (ds, where) if other is None or there is None else (other, there)
    predictors = tuple(_field(beside, at, channel, pair) for channel in data.predictors)
    for field in (*outputs, *(coarse or ()), *predictors):
        _require_same_maps(field, outputs[0])
    cells = Aggregation.between(grid, fine)
    parts = (Subcells.nested(grid.y, fine.y, data.factor[0]), Subcells.nested(grid.x, fine.x, data.factor[1]))
    dates = np.atleast_1d(ds[time].values) if time is not None and time in lead else None
    if lead and time in lead and lead[0] != time:
        raise InputError(f"expected {time!r} as the first dimension of {outputs[0].maps.name!r}, received {lead}")
    sizes = outputs[0].maps.shape[:-2] or (1,)
    return Source(
        label=pair.fine, pair=pair, outputs=outputs, coarse=coarse, predictors=predictors, fine=fine, grid=grid,
        cells=cells, first=first, operator=sobolev_operator(grid, parts, network.taps, network.order),
        statics=_statics(raw, pair, data, where, fine, cells), dates=dates, sizes=sizes,
        clock=clock_values(tuple(data.encodings), dates, sizes[0]),
        files=sources_of(*(one for one in (ds, other) if one is not None)), licence=str(raw.attrs.get("license", "")),
        geographic=fine.spherical and where.mapping is None and not where.notes,
    )  # fmt: skip


def open_maps(path: str) -> xr.Dataset:
    """Open a file, a glob pattern, or ``sample:NAME``, in chunks of whole maps."""
    return open_dataset(path_of(path) if path.startswith(SAMPLE) else path)


def path_of(path: str) -> Path:
    """Return the path of a file in a recipe, including ``sample:NAME``."""
    return Path(sample_path(path.removeprefix(SAMPLE)) if path.startswith(SAMPLE) else path)


def selected(ds: xr.Dataset, pair: Pair) -> xr.Dataset:
    """Return the part of a dataset within the recipe's coordinate ranges, in either direction of the coordinates."""
    for name, (low, high) in pair.select.items():
        if name not in ds.dims or name not in ds.coords:
            raise OptionError(f"expected select of the coordinates {listing(ds.dims)}, received {name!r}")
        values = ds.indexes[name]
        falls = len(values) > 1 and values[0] > values[-1]
        ds = ds.sel({name: slice(high, low) if falls else slice(low, high)})
        if ds.sizes[name] == 0:
            raise OptionError(f"expected values of {name!r} from {low} to {high}, received a file without any")
    return ds


def cropped(ds: xr.Dataset, multiples: list[int]) -> tuple[xr.Dataset, Horizontal]:
    """Return the dataset without the last rows and columns that do not fill a coarse cell, and its grid."""
    where = horizontal(ds)
    keep = {}
    for dim, size, multiple in zip(where.dims, where.grid.shape, multiples, strict=True):
        if size < multiple:
            raise ShapeError(f"expected at least {multiple} cells along {dim!r}, one coarse cell, received {size}")
        if size % multiple:
            keep[dim] = slice(0, size - size % multiple)
    if not keep:
        return ds, where
    ds = ds.isel(keep)
    return ds, horizontal(ds)


def independent(pair: Pair) -> tuple[xr.Dataset | None, Horizontal | None]:
    """Return the coarse fields of an independent model and their grid; None if the recipe names none."""
    if pair.coarse is None:
        return None, None
    ds = open_maps(pair.coarse)
    chosen = pair.model_copy(update={"select": {k: v for k, v in pair.select.items() if k == time_name(ds)}})
    ds = selected(ds, chosen)
    return ds, horizontal(ds)


def oriented(coarse: xr.Dataset, there: Horizontal, where: Horizontal) -> tuple[xr.Dataset, Horizontal]:
    """Return a coarse dataset with rows and columns in the direction of the fine ones, on axes of the same kind."""
    there = with_named_mapping(there, coarse, where)
    require_same_axes(there, where, "coarse file", "the fine file", "remap one of them to the axes of the other first")
    axes = zip(there.dims, (there.grid.y, there.grid.x), (where.grid.y, where.grid.x), strict=True)
    turned = {dim: slice(None, None, -1) for dim, mine, fine in axes if mine.ascending != fine.ascending}
    return (coarse, there) if not turned else (coarse.isel(turned), horizontal(coarse.isel(turned)))


def require_match(there: Horizontal, grid: Any, fine: Any, factor: tuple[int, int]) -> None:
    """Raise an error if the coarse cells are not whole blocks of fine cells."""
    found = there.grid.nest_factors(fine)
    if found is not None and tuple(found) != tuple(factor):
        raise ShapeError(
            f"expected fine cells of factor {factor[0]} x {factor[1]} in the coarse ones, received "
            f"{found[0]} x {found[1]}; set data.factor to what the files hold"
        )
    if found is None:
        raise GridError(
            f"expected a coarse grid of {grid.shape[0]} x {grid.shape[1]} cells in which the {fine.shape[0]} x "
            f"{fine.shape[1]} fine ones nest, received {there.grid.shape[0]} x {there.grid.shape[1]} cells with other "
            "edges; regrid one of them (downscale apply --target) or select one region"
        )


def same_times(ds: xr.Dataset, other: xr.Dataset | None) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Return both datasets on the dates that they share."""
    if other is None:
        return ds, None
    mine, theirs = time_name(ds), time_name(other)
    if mine is None or theirs is None or mine not in ds.dims or theirs not in other.dims:
        return ds, other
    shared = ds.indexes[mine].intersection(other.indexes[theirs])
    if len(shared) == 0:
        raise InputError("expected dates that the coarse and the fine file share, received none; check their calendars")
    return ds.sel({mine: shared}), other.sel({theirs: shared})


def _field(ds: xr.Dataset, where: Horizontal, channel: Channel, pair: Pair) -> Field:
    name = pair.names.get(channel.name, channel.name)
    legal = horizontal_variables(ds, where)
    if name not in legal:
        raise InputError(f"expected a variable among {listing(legal)}, received {name!r}; set its name in names")
    maps = ds[name].transpose(..., *where.dims)
    factor, offset = conversion(maps, channel, pair)
    lower, upper = bounds_of(channel, maps, factor, offset)
    return Field(maps, factor, offset, -np.inf if lower is None else lower, np.inf if upper is None else upper)


def conversion(maps: xr.DataArray, channel: Channel, pair: Pair) -> tuple[float, float]:
    """Return factor and offset from stored values to the units of the recipe."""
    if channel.name in pair.multiply:
        return pair.multiply[channel.name], 0.0
    units = str(maps.attrs.get("units", "1"))
    if channel.units is None or units == channel.units:
        return 1.0, 0.0
    if not fits(units, channel.units):
        raise OptionError(
            f"expected {maps.name!r} in {channel.units!r} or units that fit, received {units!r}; set multiply to "
            "the factor between them"
        )
    zero, one = (convert(value, units, channel.units) for value in (0.0, 1.0))
    assert zero is not None
    assert one is not None
    return one - zero, zero


def bounds_of(
    channel: Channel, maps: xr.DataArray, factor: float = 1.0, offset: float = 0.0
) -> tuple[float | None, float | None]:
    """Return the bounds of a variable in the units of the recipe: from the recipe, else from its name and units."""
    if channel.bounds is None:
        return None, None
    if channel.bounds != "auto":
        return channel.bounds
    lower, upper = automatic_bounds(maps)
    moved = [None if bound is None else bound * factor + offset for bound in (lower, upper)]
    return moved[0], moved[1]


def _require_same_maps(field: Field, first: Field) -> None:
    one, other = field.maps, first.maps
    if one.shape[:-2] != other.shape[:-2] or one.dims[:-2] != other.dims[:-2]:
        raise ShapeError(
            f"expected {one.name!r} with dimensions {dict(zip(other.dims[:-2], other.shape[:-2], strict=True))} beside "
            f"the horizontal ones, received {dict(zip(one.dims[:-2], one.shape[:-2], strict=True))}; select the same"
        )


def _statics(
    raw: xr.Dataset, pair: Pair, data: Data, where: Horizontal, fine: Any, cells: Aggregation
) -> NDArray[np.float32]:
    needed = {NEEDS[name] for name in data.statics if name in NEEDS}
    given = {}
    for name in needed:
        path = getattr(pair, name)
        if path is None and name not in raw.data_vars:
            continue
        if path is None:
            static = pick_static(raw, name)
        else:
            variable = pair.orog_variable if name == "orog" else "sftlf"
            static = pick_static(open_maps(path), variable)
        given[name] = np.asarray(on_grid(static, fine, name, where), dtype=np.float64)
        if name == "sftlf" and given[name].max(initial=0) > 1.5:
            given[name] = given[name] / 100
    made = companions(data.statics, fine, cells, given, where.locator)
    return np.stack([*made.values()]).astype(np.float32) if made else np.empty((0, *fine.shape), np.float32)


def label_of(path: str) -> str:
    """Return a short name of a source for messages."""
    return Path(path.removeprefix(SAMPLE)).name
