"""Daily fields of one quantity, and their steps computed block by block with neighbouring days and positions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from downscale.cf.axes import methods_along
from downscale.cf.dates import stamp
from downscale.cf.days import Days
from downscale.cf.kinds import quantity_over_time
from downscale.engine.checks import replace_infinite
from downscale.kernels.days import CROSSED, MISSED
from downscale.process.computing import compute, uses_other_processes

# Days per block, of which neighbours at both ends are computed twice, and values per block.
BLOCK_DAYS, BLOCK_VALUES = 64, 8_000_000
# Where no positions are known: the equator on the meridian of the clock.
NOWHERE = (0.0, 0.0)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """The options of hourly values that are the same for all families."""

    climatology: Any = None
    members: int | None = None
    seed: int = 0
    used: list[str] = field(default_factory=list)  # names of fields that the climatology was used for, appended


@dataclass(frozen=True, eq=False)
class Daily:
    """The daily fields of a family by role ("mean", "minimum", "maximum"), with equal dimensions, time first.

    ``name`` is that of the result; ``positions`` are latitude and longitude on the other dimensions, None if unknown;
    ``made`` are the hourly fields of families before this one, by the name of the family; ``ds`` is the whole Dataset.
    """

    name: str
    fields: Mapping[str, xr.DataArray]
    days: Days
    steps: int
    positions: tuple[xr.DataArray, xr.DataArray] | None
    settings: Settings
    made: Mapping[str, Mapping[str, xr.DataArray]]
    ds: xr.Dataset

    @property
    def first(self) -> xr.DataArray:
        """The first field: the mean if there is one."""
        return next(iter(self.fields.values()))

    @property
    def dims(self) -> tuple[str, ...]:
        """The dimensions of all fields."""
        return tuple(map(str, self.first.dims))


@dataclass(frozen=True, eq=False)
class Window:
    """The days and columns of a block. ``core`` are its days among ``days``, the others are neighbours.

    ``latitude`` and ``longitude`` are those of columns in degrees; ``cells`` are the positions of columns among all
    cells of a day, and ``first`` is that of the first core day among all days. ``tables`` are those of
    :func:`by_days`, shape (entries, columns).
    """

    days: Days
    core: tuple[int, int]
    first: int
    latitude: Floats
    longitude: Floats
    cells: NDArray[np.int64]
    tables: list[Floats]
    report: Report


# Values of fields, shape (days, columns), None for a field that is absent, and their window.
Compute = Callable[[list[Floats | None], Window], NDArray[Any]]


# Warnings by what is wrong with days, with their number and the first of them.
MESSAGES = {
    CROSSED: "{name}: the mean is below the minimum or above the maximum on {count} days of cells, the first on "
    "{where}; its steps equal the mean there. Order the daily values first",
    MISSED: "{name}: the mean leaves no room for the minimum or the maximum on {count} days of cells; the mean is "
    "exact there, and no value is beyond them",
}


@dataclass(eq=False)
class Report:
    """Days that are not exact. Blocks computed later warn at once; those of arrays in memory are counted together."""

    name: str
    is_lazy: bool
    messages: Mapping[int, str] = field(default_factory=lambda: MESSAGES)
    missed: int = 0
    crossed: int = 0
    where: str = ""

    def add(self, flags: NDArray[np.int8], at: Window) -> None:
        """Count the flags of the days of a block, shape (days, columns)."""
        flags = flags[at.core[0] : at.core[1]]
        missed, crossed = (int((flags == flag).sum()) for flag in (MISSED, CROSSED))
        where = self.where
        if crossed and not where:
            day, column = np.argwhere(flags == CROSSED)[0]
            date = at.days.clock.dates(at.days.starts[at.core[0] + day : at.core[0] + day + 1])[0]
            where = f"{stamp(date)[:10]} at {at.latitude[column]:g} N, {at.longitude[column]:g} E"
        if self.is_lazy:
            Report(self.name, False, self.messages, missed, crossed, where).warn()
            return
        self.missed, self.crossed, self.where = self.missed + missed, self.crossed + crossed, where

    def warn(self) -> None:
        """Warn of days that are not exact."""
        for flag, count in ((CROSSED, self.crossed), (MISSED, self.missed)):
            if count:
                message = self.messages[flag].format(name=self.name, count=count, where=self.where)
                warnings.warn(message, UserWarning, stacklevel=3)


def by_days(
    daily: Daily, fields: Sequence[xr.DataArray | None], function: Compute, reach: int, dtype: np.dtype[Any],
    messages: Mapping[int, str] = MESSAGES, tables: Sequence[Floats] = (),
) -> Any:  # fmt: skip
    """Return the steps of all days, shape ``(days * steps, *others)``, lazy if a field is.

    ``function`` receives each block with ``reach`` days before and after it, fewer at the ends of the record, so that
    blocks do not change the result; it returns the steps of the core days, shape (core days * steps, columns). Fields
    after the first daily one may be steps of all days; their blocks have the shape (days * steps, columns).
    ``tables``, shape ``(entries, *others)``, are further values of columns.
    """
    given = [one is not None for one in fields]
    arrays = [one.data for one in fields if one is not None]
    is_lazy, is_series = any(isinstance(one, da.Array) for one in arrays), arrays[0].ndim == 1
    arrays = [one[:, None] for one in arrays] if is_series else arrays
    report, shape = Report(daily.name, is_lazy, messages), arrays[0].shape
    chunks = _chunks(arrays[0], daily.steps)
    counts = [one.shape[0] // shape[0] for one in arrays]
    arrays = [_chunked(one, (tuple(n * count for n in chunks[0]), *chunks[1:]))
              for one, count in zip(arrays, counts, strict=True)]  # fmt: skip
    statics = _statics(daily, shape[1:], chunks[1:])
    for table in tables:
        columns = table.reshape(-1, *shape[1:])
        statics.append(da.from_array(columns, (-1, *chunks[1:]), name=False))
    pieces, start = [], 0
    for count in chunks[0]:
        low, high = max(start - reach, 0), min(start + count + reach, shape[0])
        window = {"days": daily.days.part(low, high), "core": (start - low, start - low + count), "first": start}
        blocks = [one[low * n : high * n].rechunk({0: -1}) for one, n in zip(arrays, counts, strict=True)]
        token = tokenize([one.name for one in (*blocks, *statics)], daily.steps, low, high, function, str(dtype))
        settings = {"function": function, "given": given, "window": window, "report": report}
        piece = da.map_blocks(
            _block, *blocks, *statics, chunks=((count * daily.steps,), *chunks[1:]), dtype=dtype,
            meta=np.empty((0,) * len(shape), dtype), name=f"hourly-{daily.name}-{token}", **settings,
        )  # fmt: skip
        pieces.append(piece)
        start += count
    lazy = da.concatenate(pieces) if len(pieces) > 1 else pieces[0]
    steps = lazy if is_lazy else _computed(lazy)
    report.warn()
    return steps[:, 0] if is_series else steps


def _computed(lazy: da.Array) -> NDArray[Any]:
    """Return the values of an array; each block is written to its place at once if this process computes it."""
    if uses_other_processes():
        return np.asarray(compute(lazy)[0])
    values = np.empty(lazy.shape, lazy.dtype)
    compute(da.store(lazy, values, lock=False, compute=False))
    return values


def amounts(daily: Daily) -> tuple[float, dict[str, str]]:
    """Return the factor of daily values to steps, and attributes of these: 1 for means, 1/steps for daily amounts."""
    variable, name = daily.first, daily.days.name
    if quantity_over_time(variable, daily.days.dim, name)[0] == "intensive":
        return 1.0, {}
    methods = str(variable.attrs.get("cell_methods", ""))
    is_marked = bool(methods_along(variable, daily.days.dim, name, "time"))
    return 1.0 / daily.steps, {"cell_methods": methods if is_marked else f"{methods} {name}: sum".strip()}


def rounding(dtype: np.dtype[Any]) -> float:
    """Return by how much daily values of a type contradict each other by rounding only, relatively."""
    return 4.0 * float(np.finfo(dtype).eps)


def _block(*arrays: Any, function: Compute, given: list[bool], window: Mapping[str, Any], report: Report) -> Any:
    """Return the steps of one block."""
    count = sum(given)
    values, (latitude, longitude, cells), tables = list(arrays[:count]), arrays[count : count + 3], arrays[count + 3 :]
    other = values[0].shape[1:]
    values = [replace_infinite(one, report.name) for one in values]
    flat = iter([np.ascontiguousarray(one.reshape(len(one), -1), np.float64) for one in values])
    at = Window(
        **window, latitude=latitude.ravel(), longitude=longitude.ravel(), cells=cells.ravel(),
        tables=[one.reshape(len(one), -1) for one in tables], report=report,
    )  # fmt: skip
    steps = function([next(flat) if is_given else None for is_given in given], at)
    return steps.reshape(-1, *other)


def _chunked(array: Any, chunks: tuple[tuple[int, ...], ...]) -> da.Array:
    return array.rechunk(chunks) if isinstance(array, da.Array) else da.from_array(array, chunks, name=False)


def _chunks(array: Any, steps: int) -> tuple[tuple[int, ...], ...]:
    """Return chunks of a daily field: some weeks, and as many columns as fit."""
    days = min(BLOCK_DAYS, array.shape[0])
    limit = max(BLOCK_VALUES // (days * steps), 1) * days * 8
    wanted = (days, *("auto",) * (array.ndim - 1))
    previous = getattr(array, "chunks", None)
    chosen = da.core.normalize_chunks(wanted, array.shape, limit, np.dtype("f8"), previous)
    return tuple(tuple(int(n) for n in one) for one in chosen)


def _statics(daily: Daily, shape: tuple[int, ...], chunks: tuple[tuple[int, ...], ...]) -> list[da.Array]:
    """Return latitude, longitude and number of all columns in chunks."""
    numbers = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    if daily.positions is None:
        found = [np.full(shape, value) for value in NOWHERE]
    else:
        like = daily.first.isel({daily.days.dim: 0})
        found = [one.broadcast_like(like).transpose(*like.dims).values.reshape(shape) for one in daily.positions]
    return [da.from_array(np.ascontiguousarray(one), chunks, name=False) for one in (*found, numbers)]
