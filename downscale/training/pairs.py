"""Lazy pairs of coarse and fine maps from files, and their split into training and validation.

In perfect prognosis, the coarse map is the average of the fine one. Otherwise it is the map of an independent model on
cells in which the fine cells nest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.coordinates import horizontal_variables
from downscale.cf.horizontal import Horizontal, horizontal, require_same_axes, with_named_mapping
from downscale.cf.quantities import automatic_bounds
from downscale.cf.times import time_name
from downscale.cf.units import convert, fits
from downscale.errors import DownscaleError, GridError, InputError, OptionError, ShapeError, listing
from downscale.fields.aggregate import Aggregation
from downscale.grid.subcells import Subcells
from downscale.io.paths import sources_of
from downscale.io.read import open_dataset
from downscale.io.statics import pick_climatology, pick_static, regrid_climatology, regrid_static
from downscale.models.static_features import NEEDS, static_features
from downscale.models.time_features import time_features
from downscale.nn.separable import Separable, sobolev_operator
from downscale.nn.spec import takes_ratios
from downscale.sample import path as sample_path
from downscale.training.schema import Channel, Data, Network, Pair, ValidationSplit, seconds_of

Indices = NDArray[np.int64]
SAMPLE = "sample:"
Array32 = NDArray[np.float32]
# Least valid fraction of a scored coarse cell: below it the mean represents another area.
LEAST_VALID = 0.999


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the time steps on each side; steps in the gap are on neither."""

    train: Indices
    validation: Indices


def split_times(dates: NDArray[Any] | None, count: int, settings: ValidationSplit, use: str, label: str) -> Split:
    """Split time steps into training and one contiguous span of validation.

    Examples
    --------
    >>> sides = split_times(None, 10, ValidationSplit(fraction=0.3, gap=2), "split", "a.nc")
    >>> sides.train.tolist(), sides.validation.tolist()
    ([0, 1, 2, 3, 4], [7, 8, 9])
    """
    empty, steps = np.empty(0, dtype=np.int64), np.arange(count)
    if use != "split":
        return Split(steps, empty) if use == "train" else Split(empty, steps)
    seconds = None if dates is None else _seconds(dates)
    order = steps if seconds is None else np.argsort(seconds, kind="stable")
    if settings.span is None:
        validation = order[count - round(settings.fraction * count) :]
    else:
        validation = _within(dates, settings.span, label)
    if validation.size == 0:
        return Split(steps, empty)
    if seconds is None or isinstance(settings.gap, int):
        # The gap counts different times: members of one time are not steps apart.
        places = steps if seconds is None else np.unique(seconds, return_inverse=True)[1]
        is_training = _distance(places, places[validation]) > (settings.gap if isinstance(settings.gap, int) else 1)
    else:
        is_training = _distance(seconds, seconds[validation]) > seconds_of(settings.gap)
    return Split(np.flatnonzero(is_training), np.sort(validation))


def _distance(times: NDArray[Any], held_out: NDArray[Any]) -> NDArray[Any]:
    """Return the distance of each time from the span of the held-out times; -1 within."""
    outside = np.maximum(held_out.min() - times, times - held_out.max())
    return np.where(outside > 0, outside, -1)


def _seconds(dates: NDArray[Any]) -> NDArray[np.float64]:
    if dates.dtype.kind == "M":
        return (dates - dates.min()) / np.timedelta64(1, "ns") / 1e9
    first = min(dates)
    return np.array([(date - first).total_seconds() for date in dates])


def _within(dates: NDArray[Any] | None, span: tuple[str, str], label: str) -> Indices:
    if dates is None:
        raise InputError(f"{label}: expected dates for the validation span, received none; use fraction instead")
    # ISO dates compare as texts in every calendar; a shorter one covers all dates that begin with it.
    texts = [iso(date) for date in dates]
    indices = [i for i, text in enumerate(texts) if text >= span[0] and text[: len(span[1])] <= span[1]]
    return np.array(indices, dtype=np.int64)


def iso(date: Any) -> str:
    """Return a date as text, to the second; these texts sort as dates do, in every calendar."""
    return str(np.datetime_as_string(date, unit="s")) if isinstance(date, np.datetime64) else str(date.isoformat())


@dataclass(frozen=True, eq=False)
class Field:
    """One variable of one source: lazy maps, and the conversion of stored values to the units of the recipe."""

    maps: xr.DataArray  # (..., y, x): fine maps, or coarse ones of an independent model
    # Values are ``stored * factor + offset``.
    factor: float
    offset: float
    # Bounds to which values are clipped.
    lower: float
    upper: float

    def read(self, index: tuple[int, ...]) -> NDArray[np.float64]:
        """Return one map; missing values are NaN."""
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
    """One source of pairs: maps of one grid."""

    label: str  # path of its fine files, for messages
    pair: Pair  # entry of the recipe
    outputs: tuple[Field, ...]  # fine reference, one per output
    # The outputs of an independent model; None if the coarse fields are averages of the reference.
    coarse: tuple[Field, ...] | None
    predictors: tuple[Field, ...]  # further coarse variables, from the independent model or averaged from fine ones
    # Fine and coarse cells.
    fine: Any
    grid: Any
    cells: Aggregation  # aggregation from fine to coarse cells
    # Aggregation from the cells of the files to the fine cells, if the recipe averages first.
    pre_average: Aggregation | None
    operator: Separable  # the Sobolev kernel on these grids
    statics: NDArray[np.float32]  # (S, n_fine_y, n_fine_x): fine static features
    dates: NDArray[Any] | None  # one per time step
    sizes: tuple[int, ...]  # time steps, then the sizes of other dimensions (members, levels)
    time_features: NDArray[np.float32]  # (time steps, E): sines and cosines of the encodings
    files: tuple[str, ...]  # files read
    licence: str = ""  # licence attribute of the fine file
    # Whether the axes are longitude and latitude of the earth, so that east is along the columns.
    geographic: bool = False

    @property
    def count(self) -> int:
        """Number of maps."""
        return int(np.prod(self.sizes))

    def variable_attributes(self, data: Data) -> dict[str, dict[str, Any]]:
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
    """Open one pair of the recipe; reads coordinates and statics only."""
    with prefix_errors(pair.fine):
        raw = select_ranges(open_maps(pair.fine), pair)
        ds, axes = crop_to_cells(raw, [size * pair.average for size in data.factor])
        pre_average, fine = None, axes.grid
        if pair.average > 1:
            fine = axes.grid.coarsen(pair.average, pair.average)
            pre_average = Aggregation.between(fine, axes.grid)
        grid = fine.coarsen(*data.factor)
        files, coarse = [ds], None
        if pair.coarse is not None:
            coarse_dataset, coarse_axes = open_coarse(pair, axes, fine, data.factor)
            ds, coarse_dataset = select_shared_times(ds, coarse_dataset)
            files = [ds, coarse_dataset]
            coarse = tuple(_open_field(coarse_dataset, coarse_axes, channel, pair) for channel in data.outputs)
            predictors = tuple(_open_field(coarse_dataset, coarse_axes, channel, pair) for channel in data.predictors)
        else:
            predictors = tuple(_open_field(ds, axes, channel, pair) for channel in data.predictors)
        outputs = tuple(_open_field(ds, axes, channel, pair) for channel in data.outputs)
        for field in (*outputs, *(coarse or ()), *predictors):
            _require_same_maps(field, outputs[0])
        time, leading_dims = time_name(ds), outputs[0].maps.dims[:-2]
        dates = np.atleast_1d(ds[time].values) if time is not None and time in leading_dims else None
        if leading_dims and time in leading_dims and leading_dims[0] != time:
            raise InputError(
                f"expected {time!r} as the first dimension of {outputs[0].maps.name!r}, received {leading_dims}"
            )
        cells = Aggregation.between(grid, fine)
        subcells = (
            Subcells.from_nested(grid.y, fine.y, data.factor[0]),
            Subcells.from_nested(grid.x, fine.x, data.factor[1]),
        )
        sizes = outputs[0].maps.shape[:-2] or (1,)
        return Source(
            label=pair.fine, pair=pair, outputs=outputs, coarse=coarse, predictors=predictors, fine=fine, grid=grid,
            cells=cells, pre_average=pre_average,
            operator=sobolev_operator(grid, subcells, network.taps, network.order),
            statics=_read_statics(raw, pair, data, axes, fine, cells), dates=dates, sizes=sizes,
            time_features=time_features(tuple(data.encodings), dates, sizes[0]), files=sources_of(*files),
            licence=str(raw.attrs.get("license", "")),
            geographic=fine.spherical and axes.mapping is None and not axes.notes,
        )  # fmt: skip


@contextmanager
def prefix_errors(label: str) -> Iterator[None]:
    """Begin the message of an error with a label, unless it does so already."""
    try:
        yield
    except DownscaleError as error:
        if str(error).startswith(label):
            raise
        raise type(error)(f"{label}: {error}") from None


def open_maps(path: str) -> xr.Dataset:
    """Open a file, a glob pattern, or ``sample:NAME``, in chunks of whole maps."""
    return open_dataset(path_of(path) if path.startswith(SAMPLE) else path)


def path_of(path: str) -> Path:
    """Return the path of a file in a recipe, including ``sample:NAME``."""
    return Path(sample_path(path.removeprefix(SAMPLE)) if path.startswith(SAMPLE) else path)


def select_ranges(ds: xr.Dataset, pair: Pair) -> xr.Dataset:
    """Return the part of a dataset within the recipe's coordinate ranges, in either direction of the coordinates."""
    for name, (low, high) in pair.select.items():
        if name not in ds.dims or name not in ds.coords:
            raise OptionError(f"expected select of the coordinates {listing(ds.dims)}, received {name!r}")
        values = ds.indexes[name]
        is_descending = len(values) > 1 and values[0] > values[-1]
        ds = ds.sel({name: slice(high, low) if is_descending else slice(low, high)})
        if ds.sizes[name] == 0:
            raise OptionError(f"expected values of {name!r} from {low} to {high}, received a file without any")
    return ds


def crop_to_cells(ds: xr.Dataset, multiples: list[int]) -> tuple[xr.Dataset, Horizontal]:
    """Return the dataset without the last rows and columns that do not fill a coarse cell, and its grid."""
    axes = horizontal(ds)
    slices = {}
    for dim, size, multiple in zip(axes.dims, axes.grid.shape, multiples, strict=True):
        if size < multiple:
            raise ShapeError(f"expected at least {multiple} cells along {dim!r}, one coarse cell, received {size}")
        if size % multiple:
            slices[dim] = slice(0, size - size % multiple)
    if not slices:
        return ds, axes
    ds = ds.isel(slices)
    return ds, horizontal(ds)


def open_coarse(pair: Pair, axes: Horizontal, fine: Any, factor: tuple[int, int]) -> tuple[xr.Dataset, Horizontal]:
    """Return the coarse fields of an independent model in the direction of the fine cells, and their grid."""
    assert pair.coarse is not None
    ds = open_maps(pair.coarse)
    times = {name: span for name, span in pair.select.items() if name == time_name(ds)}
    ds = select_ranges(ds, pair.model_copy(update={"select": times}))
    ds, coarse_axes = orient_like(ds, horizontal(ds), axes)
    require_match(coarse_axes, fine.coarsen(*factor), fine, factor)
    return ds, coarse_axes


def orient_like(coarse: xr.Dataset, coarse_axes: Horizontal, fine_axes: Horizontal) -> tuple[xr.Dataset, Horizontal]:
    """Return a coarse dataset with rows and columns in the direction of the fine ones, on axes of the same kind."""
    coarse_axes = with_named_mapping(coarse_axes, coarse, fine_axes)
    remedy = "remap one of them to the axes of the other first"
    require_same_axes(coarse_axes, fine_axes, "coarse file", "the fine file", remedy)
    grid, fine_grid = coarse_axes.grid, fine_axes.grid
    axis_pairs = zip(coarse_axes.dims, (grid.y, grid.x), (fine_grid.y, fine_grid.x), strict=True)
    flips = {dim: slice(None, None, -1) for dim, axis, fine_axis in axis_pairs if axis.ascending != fine_axis.ascending}
    return (coarse, coarse_axes) if not flips else (coarse.isel(flips), horizontal(coarse.isel(flips)))


def require_match(coarse_axes: Horizontal, grid: Any, fine: Any, factor: tuple[int, int]) -> None:
    """Raise an error if the coarse cells are not whole blocks of fine cells."""
    factors = coarse_axes.grid.nest_factors(fine)
    if factors is not None and tuple(factors) != tuple(factor):
        raise ShapeError(
            f"expected fine cells of factor {factor[0]} x {factor[1]} in the coarse ones, received "
            f"{factors[0]} x {factors[1]}; set data.factor to what the files hold"
        )
    if factors is None:
        raise GridError(
            f"expected a coarse grid of {grid.shape[0]} x {grid.shape[1]} cells in which the {fine.shape[0]} x "
            f"{fine.shape[1]} fine ones nest, received {coarse_axes.grid.shape[0]} x {coarse_axes.grid.shape[1]} cells "
            "with other edges; regrid one of them (downscale apply --target) or select one region"
        )


def select_shared_times(ds: xr.Dataset, other: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return both datasets on the dates that they share."""
    fine_time, coarse_time = time_name(ds), time_name(other)
    if fine_time is None or coarse_time is None or fine_time not in ds.dims or coarse_time not in other.dims:
        return ds, other
    shared = ds.indexes[fine_time].intersection(other.indexes[coarse_time])
    if len(shared) == 0:
        raise InputError("expected dates that the coarse and the fine file share, received none; check their calendars")
    return ds.sel({fine_time: shared}), other.sel({coarse_time: shared})


def _open_field(ds: xr.Dataset, axes: Horizontal, channel: Channel, pair: Pair) -> Field:
    name = pair.names.get(channel.name, channel.name)
    variables = horizontal_variables(ds, axes)
    if name not in variables:
        raise InputError(f"expected a variable among {listing(variables)}, received {name!r}; set its name in names")
    maps = ds[name].transpose(..., *axes.dims)
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
    converted = [None if bound is None else bound * factor + offset for bound in (lower, upper)]
    return converted[0], converted[1]


def _require_same_maps(field: Field, first: Field) -> None:
    one, other = field.maps, first.maps
    if one.shape[:-2] != other.shape[:-2] or one.dims[:-2] != other.dims[:-2]:
        raise ShapeError(
            f"expected {one.name!r} with dimensions {dict(zip(other.dims[:-2], other.shape[:-2], strict=True))} beside "
            f"the horizontal ones, received {dict(zip(one.dims[:-2], one.shape[:-2], strict=True))}; select the same"
        )


def _read_statics(
    raw: xr.Dataset, pair: Pair, data: Data, axes: Horizontal, fine: Any, cells: Aggregation
) -> NDArray[np.float32]:
    needed = {NEEDS[name] for name in data.statics if name in NEEDS}
    fields = {}
    for name in needed:
        path = getattr(pair, name)
        if name == "climatology":
            if path is not None:
                fields[name] = _read_climatology(path, data.outputs[0], pair, fine, axes)
            continue
        if path is None and name not in raw.data_vars:
            continue
        if path is None:
            static = pick_static(raw, name)
        else:
            variable = pair.orog_variable if name == "orog" else "sftlf"
            static = pick_static(open_maps(path), variable)
        fields[name] = np.asarray(regrid_static(static, fine, name, axes), dtype=np.float64)
        if name == "sftlf" and fields[name].max(initial=0) > 1.5:
            fields[name] = fields[name] / 100
    ratios = takes_ratios(data.outputs[0].transform)
    features = static_features(data.statics, fine, cells, fields, axes.locator, ratios)
    return np.stack([*features.values()]).astype(np.float32) if features else np.empty((0, *fine.shape), np.float32)


def _read_climatology(path: str, channel: Channel, pair: Pair, fine: Any, axes: Horizontal) -> NDArray[np.float64]:
    """Return the climatology of the first output on the fine cells, in the units of the recipe."""
    ds = pick_climatology(open_maps(path), pair.names.get(channel.name, channel.name))
    factor, offset = conversion(next(iter(ds.data_vars.values())), channel, pair)
    return regrid_climatology(ds, fine, axes) * factor + offset


def pick_evenly(items: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most ``most`` of the items, evenly spread."""
    places = np.linspace(0, max(items.size - 1, 0), min(items.size, most))
    return items[np.unique(places.round().astype(np.int64))]


@dataclass(frozen=True, eq=False)
class Map:
    """One time of one source; all values in the units of the recipe, NaN where missing."""

    # (V, n_fine_y, n_fine_x): reference, NaN outside scored cells, and Sobolev upsampling of the coarse values.
    target: Array32
    proposal: Array32
    # (V, n_y, n_x) and (P, n_y, n_x): inputs of the model.
    coarse: Array32
    predictors: Array32


def map_bytes(source: Source) -> int:
    """Return the bytes of a map of a source in memory."""
    fine, coarse = np.prod(source.fine.shape), np.prod(source.grid.shape)
    variables = len(source.outputs)
    return int(4 * (2 * variables * fine + (variables + len(source.predictors)) * coarse))


def read_truth(source: Source, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the reference (V, fine) of a map and its means over coarse cells (V, coarse), by the operator A."""
    index = _index(source, number)
    fields = [_smooth_values(field.read(index), source.pair.smooth) for field in source.outputs]
    fine = np.stack([_pre_average(source, values) for values in fields])
    return fine, source.cells.mean_of_finite(fine)


def _smooth_values(values: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """Return running means of valid values over ``cells`` cells along both axes; missing values stay missing."""
    if cells == 1:
        return values
    import torch

    from downscale.nn.edges import box_mean

    valid = np.isfinite(values)
    filled = torch.from_numpy(np.where(valid, values, 0.0))[None, None]
    smooth = box_mean(filled, torch.from_numpy(valid.astype(np.float64))[None, None], cells // 2, closed=False)
    return np.where(valid, smooth[0, 0].numpy(), np.nan)


def read_coarse(source: Source, number: int, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coarse input values: those of the independent model, else ``means``."""
    if source.coarse is None:
        limits = [(field.lower, field.upper) for field in source.outputs]
        # Block means of values at a bound may exceed it by rounding.
        return np.stack([mean.clip(*limit) for mean, limit in zip(means, limits, strict=True)])
    index = _index(source, number)
    return np.stack([field.read(index) for field in source.coarse])


def read_map(source: Source, number: int) -> Map:
    """Return one map with its Sobolev proposal."""
    import torch

    truth, means = read_truth(source, number)
    coarse = read_coarse(source, number, means).astype(np.float32)
    predictors = [read_predictor(source, field, number) for field in source.predictors]
    # Single precision, as in the cache: ten times as fast as double.
    proposal = source.operator(torch.from_numpy(coarse)).numpy()
    shares = source.cells.apply_mask(np.isfinite(truth)).valid_fraction
    target = np.where(source.cells.broadcast_to_fine(shares) >= LEAST_VALID, truth, np.nan).astype(np.float32)
    inputs = np.stack(predictors).astype(np.float32) if predictors else np.empty((0, *coarse.shape[1:]), np.float32)
    return Map(target, proposal, coarse, inputs)


def _index(source: Source, number: int) -> tuple[int, ...]:
    return source.index(number)[: source.outputs[0].maps.ndim - 2]


def read_predictor(source: Source, field: Field, number: int) -> NDArray[np.float64]:
    """Return one map of a predictor on the coarse cells."""
    values = field.read(_index(source, number))
    return values if source.coarse is not None else source.cells.mean_of_finite(_pre_average(source, values))


def _pre_average(source: Source, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values if source.pre_average is None else source.pre_average.apply_mask(np.isfinite(values)).mean(values)


class MapCache:
    """Cache of maps that evicts the least recently used at its memory limit."""

    def __init__(self, sources: Sequence[Source], megabytes: float) -> None:
        self.sources = tuple(sources)
        self.max_bytes = megabytes * 2**20
        self._maps: OrderedDict[tuple[int, int], Map] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        # Each worker fills its own cache.
        return {"sources": self.sources, "max_bytes": self.max_bytes, "_maps": OrderedDict(), "_bytes": 0}

    def get(self, source: int, number: int) -> Map:
        """Return a map, from the cache or from its file."""
        key = (source, number)
        if key in self._maps:
            self._maps.move_to_end(key)
            return self._maps[key]
        entry = read_map(self.sources[source], number)
        self._maps[key] = entry
        self._bytes += map_bytes(self.sources[source])
        while self._bytes > self.max_bytes and len(self._maps) > 1:
            (oldest, _), _ = self._maps.popitem(last=False)
            self._bytes -= map_bytes(self.sources[oldest])
        return entry
