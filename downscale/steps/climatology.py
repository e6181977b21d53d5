"""Fine observations of the variables of a request: fields, labels, units, and their detail on the fine cells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.coordinates import horizontal_variables, select
from downscale.cf.dates import Clock, is_time, values_of
from downscale.cf.horizontal import Horizontal, horizontal
from downscale.cf.labels import STEPS, Labels, labelled_dims, numbers_on, years_of
from downscale.cf.quantities import automatic_form, quantity_of, same_quantity, units_of
from downscale.cf.times import date_bounds, time_name
from downscale.cf.units import convert
from downscale.engine.apply import compute_maps
from downscale.engine.job import Job
from downscale.errors import InputError, OptionError, listing, spell
from downscale.fields.climatology import Evidence, Part
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.io.statics import Regridder, regridder
from downscale.nn.cascade import Cascade
from downscale.request import Request
from downscale.steps.jobs import kernel_alone

# Values of a record that are read at once.
PIECE = 8_000_000
# Fewer calendar years are too few independent parts: then each run of some days is one.
FEWEST_YEARS, RUN_OF_DAYS = 4, 5
DAY = 86400.0
# Steps of five days that the detail of a day of the year is averaged over, around it.
WINDOW = 7
# Turns in which parts of a record are left out, and the maps that are predicted in each.
FOLDS, MOST_MAPS = 5, 24
# Float64 fields by label while the detail is computed, and copies of the maps that are read at once.
SUMS, SUMS_IN_PROPORTION, READ_COPIES = 8, 10, 4
# Marks of a climatology among the methods of cells along time.
WITHIN = ("within", "over")

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Observations:
    """Fine observations of one variable: maps in the units of that variable, and the label of each.

    ``parts`` are the numbers of the independent parts of a record, None if the maps are a climatology; ``which`` are
    the labels of the maps of the coarse variable, with the shape of its other dimensions. If values are sums over
    cells, they are divided by the ``area`` of their cells.
    """

    maps: xr.DataArray
    labels: Labels
    label: Whole
    parts: Whole | None
    scale: tuple[float, float]
    ratio: bool
    which: Whole
    regrid: Regridder
    weight: float | None
    area: Floats | None
    notes: tuple[str, ...] = ()

    @property
    def wanted(self) -> Whole:
        """The labels of the coarse maps, sorted, without those that the observations lack."""
        return np.intersect1d(self.which, self.label)

    @property
    def index(self) -> Whole:
        """The position of the detail of each coarse map; the last one for maps without observations, which is zero."""
        wanted = self.wanted
        position = np.searchsorted(wanted, self.which)
        return np.where(np.isin(self.which, wanted), position, wanted.size)

    def describe(self, name: str) -> str:
        """Return the form, labels and weight of these observations in a few words, for the history of a file."""
        weight = "" if self.weight is None else f" weight={self.weight:g}"
        return f"climatology {name}({'ratio' if self.ratio else 'additive'} by={self.labels}{weight})"

    def read(self, first: int, last: int) -> Floats:
        """Return some maps in float64, in the units of the coarse variable."""
        factor, offset = self.scale
        with dask.config.set(scheduler="synchronous"):
            values = np.asarray(self.maps[first:last].values, np.float64)
        values = values if self.scale == (1.0, 0.0) else values * factor + offset
        return values if self.area is None else values / self.area


def observations(
    ds: xr.Dataset, names: list[str], axes: Horizontal, target: Any, request: Request
) -> tuple[dict[str, Observations], tuple[str, ...]]:
    """Return the fine observations of variables by name, and notes; variables without observations are left out."""
    source = _opened(request.climatology)
    found: dict[str, Observations] = {}
    notes: list[str] = []
    for name in names:
        field = _field_for(ds[name], name, source, names)
        if field is None:
            notes.append(f"{name}: no observations of it in climatology, the method alone")
            continue
        found[name] = _observed(ds, name, select(source, field), field, axes, target, request)
        notes += found[name].notes
    if not found:
        raise InputError(
            f"expected {spell('climatology')} with a variable among {listing(names)}, or of the same standard name, "
            f"received {listing(_fields(source))}; rename it"
        )
    return found, tuple(notes)


def _opened(source: Any) -> xr.Dataset:
    """Return the Dataset of observations from a Dataset, a DataArray or a file."""
    if isinstance(source, (str, Path)):
        from downscale.io.read import open_dataset

        try:
            source = open_dataset(source, chunks={})
        except InputError as error:
            raise InputError(f"{spell('climatology')}: {error}") from None
    if isinstance(source, xr.DataArray):
        name = "climatology" if source.name is None or source.name in source.coords else source.name
        source = source.to_dataset(name=name)
    if not isinstance(source, xr.Dataset):
        raise InputError(
            f"expected {spell('climatology')} to be a Dataset, a DataArray or a file, received {type(source).__name__}"
        )
    return source


def _fields(source: xr.Dataset) -> list[str]:
    """Return the names of the fields with both horizontal dimensions."""
    return horizontal_variables(source, horizontal(source, guess=True))


def _field_for(variable: xr.DataArray, name: str, source: xr.Dataset, names: list[str]) -> str | None:
    """Return the name of the observations of a variable: its own, that of the same quantity, or the only one."""
    fields = _fields(source)
    if name in fields:
        return name
    alike = [field for field in fields if same_quantity(source[field], variable) is True]
    if len(alike) == 1:
        return alike[0]
    only = len(fields) == 1 and len(names) == 1
    return fields[0] if only else None


def _observed(
    ds: xr.Dataset, name: str, source: xr.Dataset, field: str, axes: Horizontal, target: Any, request: Request
) -> Observations:
    what = spell("climatology")
    there = horizontal(source, guess=True)
    maps = source[field].transpose(..., *there.dims)
    maps = maps.squeeze([dim for dim in maps.dims[:-2] if maps.sizes[dim] == 1 and not _is_label(source, dim)])
    ratio = _form(ds[name], name, request) == "ratio"
    scale = _conversion(maps, ds[name], name, ratio, what)
    _require_finer(there, axes, target, what)
    labels, label, parts, maps = _labelled(source, maps, ds, name, request, what)
    which = _labels_of(ds, name, axes, labels, what)
    notes = []
    lacking = np.setdiff1d(which, label)
    if lacking.size:
        some = ", ".join(labels.words(int(one)) for one in lacking[:3])
        more = f" and {lacking.size - 3} more" if lacking.size > 3 else ""
        notes.append(f"{name}: no observations for {some}{more}, the method alone there")
    weight = request.climatology_weight if request.climatology_weight != "auto" else None
    if parts is not None and weight is None:
        few = [one for one in np.intersect1d(which, label) if np.unique(parts[label == one]).size < 2]
        if few:
            some = f"{labels.words(int(few[0]))}" + (f" and {len(few) - 1} more" if len(few) > 1 else "")
            notes.append(f"{name}: too few observations for {some} to estimate their error, weight 0 there")
    regrid = regridder(_plane_of(source, field, maps), target.fine, what, axes)
    if regrid.uncovered is not None:
        notes.append(f"{name}: climatology does not cover {regrid.uncovered}, the method alone there")
    extensive = (request.quantity_for(name) or quantity_of(ds[name])) == "extensive"
    area = np.asarray(there.grid.cell_area) if extensive else None
    return Observations(maps, labels, label, parts, scale, ratio, which, regrid, weight, area, tuple(notes))


def _plane_of(source: xr.Dataset, field: str, maps: xr.DataArray) -> xr.Dataset:
    """Return the Dataset of one map without reading it, for its axes."""
    one = source[field].isel({dim: 0 for dim in source[field].dims if dim not in maps.dims[-2:]}, drop=True)
    return select(source.drop_vars(field).assign({field: one}), field)


def _is_label(source: xr.Dataset, dim: Any) -> bool:
    return bool(labelled_dims((str(dim),))) or (dim in source.coords and is_time(source[dim].variable))


def _form(variable: xr.DataArray, name: str, request: Request) -> str:
    form = request.climatology_form
    form = form.get(name, "auto") if isinstance(form, dict) else form
    return automatic_form(variable)[0] if form == "auto" else str(form)


def _conversion(maps: xr.DataArray, variable: xr.DataArray, name: str, ratio: bool, what: str) -> tuple[float, float]:
    """Return the factor and the offset to the units of a variable; refuse another quantity."""
    same = same_quantity(maps, variable)
    units, wanted = units_of(maps), units_of(variable)
    if same is False:
        raise InputError(
            f"expected {what} of the quantity of {name!r}, received {maps.name!r}, which is another one by its "
            "standard name or units; pass observations of the same quantity"
        )
    if units is None or wanted is None or units == wanted:
        return 1.0, 0.0
    zero, one = convert(0.0, units, wanted), convert(1.0, units, wanted)
    if zero is not None and one is not None:
        return one - zero, zero
    if ratio and same:
        # An amount per step and a rate of the same quantity are proportional.
        return 1.0, 0.0
    raise InputError(
        f"expected {what} in units that can be converted to {wanted!r} of {name!r}, received {units!r}; convert them"
    )


def _require_finer(there: Horizontal, axes: Horizontal, target: Any, what: str) -> None:
    """Refuse observations on cells that are wider than the fine ones."""
    fine = target.fine if target.axes is None else target.axes.grid
    if isinstance(there.grid, CurvilinearGrid) or isinstance(fine, CurvilinearGrid):
        return
    for dim, axis, wanted in zip(there.dims, (there.grid.y, there.grid.x), (fine.y, fine.x), strict=True):
        widths = [float(np.median(np.abs(np.diff(one.edges)))) for one in (axis, wanted)]
        if axis.kind == wanted.kind and widths[0] > 1.01 * widths[1]:
            raise InputError(
                f"expected {what} at least as fine as the target, received cells of {widths[0]:.4g} along {dim!r} for "
                f"target cells of {widths[1]:.4g}; use a smaller factor or finer observations"
            )


def with_form(job: Job, observed: Observations) -> Job:
    """Return the job of a variable with these observations; a cascade applies their detail itself."""
    upscaler: Any = job.upscaler
    if isinstance(upscaler, Cascade):
        upscaler = replace(upscaler, in_proportion=observed.ratio)
    return replace(job, upscaler=upscaler, in_proportion=observed.ratio)


# Labels of observations and of coarse maps.


def _labelled(
    source: xr.Dataset, maps: xr.DataArray, ds: xr.Dataset, name: str, request: Request, what: str
) -> tuple[Labels, Whole, Whole | None, xr.DataArray]:
    """Return labels, the label and the part of each map, and the maps with one leading dimension."""
    lead = [str(dim) for dim in maps.dims[:-2]]
    named = labelled_dims(tuple(lead))
    dates = next((dim for dim in lead if dim in source.coords and is_time(source[dim].variable)), None)
    others = [dim for dim in lead if dim not in (*named, dates)]
    if others:
        raise InputError(
            f"expected {what} with rows, columns and times, received also the dimensions {listing(others)}; select one "
            "of each"
        )
    if dates is None:
        labels = Labels(tuple(dim.lower() for dim in named))
        _require_by(labels, request, what)
        numbers = [numbers_on(dim.lower(), values_of(source[dim].variable)) for dim in named]
        grids = np.meshgrid(*numbers, indexing="ij") if numbers else []
        label = labels.joined([grid.ravel() for grid in grids], (1,) if not grids else (grids[0].size,))
        stacked = maps.transpose(*named, *maps.dims[-2:])
        data = stacked.data.reshape(label.size, *stacked.shape[-2:])
        return labels, label, None, xr.DataArray(data, dims=("map", *maps.dims[-2:]), name=maps.name, attrs=maps.attrs)
    times = _middles(source, dates)
    if times.size > 1 and (np.diff(Clock.of(times).seconds(times)) < 0).any():
        raise InputError(f"expected {what} with ascending times, received others; sort by {dates!r}")
    maps = maps.transpose(dates, *maps.dims[-2:])
    labels = _choice(times, ds, name, request)
    label = labels.of(times)
    return labels, label, None if _is_climatology(source[dates], maps) else _parts(times), maps


def _require_by(labels: Labels, request: Request, what: str) -> None:
    if request.climatology_by not in ("auto", str(labels)):
        raise OptionError(
            f"expected {spell('climatology_by', str(labels))} for {what} with these labels, received "
            f"{request.climatology_by!r}; leave it out"
        )


def _is_climatology(time: xr.DataArray, maps: xr.DataArray) -> bool:
    """Return whether times are those of a climatology, by the CF conventions."""
    if "climatology" in time.attrs or "climatology" in time.encoding:
        return True
    words = str(maps.attrs.get("cell_methods", "")).split()
    return any(word in WITHIN for word in words)


def _middles(ds: xr.Dataset, dim: str) -> NDArray[Any]:
    """Return the middles of the periods of a time axis, else its stamps."""
    dates, pairs = np.atleast_1d(values_of(ds[dim].variable)), date_bounds(ds, dim)
    if pairs is not None and pairs.dtype.kind in "MO" and "climatology" not in ds[dim].attrs:
        return np.asarray(pairs[:, 0] + (pairs[:, 1] - pairs[:, 0]) // 2)
    return dates


def _choice(times: NDArray[Any], ds: xr.Dataset, name: str, request: Request) -> Labels:
    """Return the requested labels; by default months, and hours where both records have the same hours."""
    if request.climatology_by != "auto":
        return Labels.named(request.climatology_by)
    hours, own = Labels(("hour",)), _dates_of(ds, name)
    if own is not None and np.unique(hours.of(times)).size > 1:
        coarse = np.unique(hours.of(own))
        if coarse.size > 1 and np.isin(coarse, hours.of(times)).all():
            return Labels(("month", "hour"))
    return Labels(("month",))


def _parts(times: NDArray[Any]) -> Whole:
    """Return the number of the independent part of each time: its calendar year, or a run of days if years are few."""
    years = years_of(times)
    if np.unique(years).size >= FEWEST_YEARS:
        return years - years.min()
    seconds = Clock.of(times).seconds(times)
    return np.floor((seconds - seconds.min()) / (RUN_OF_DAYS * DAY)).astype(np.int64)


def _dates_of(ds: xr.Dataset, name: str) -> NDArray[Any] | None:
    """Return the dates of the maps of a variable, or None."""
    dim = next((str(d) for d in ds[name].dims if d in ds.coords and is_time(ds[d].variable)), None)
    if dim is not None:
        return _middles(ds, dim)
    scalar = time_name(ds)
    return _middles(ds, scalar) if scalar is not None and ds[scalar].ndim == 0 else None


def _labels_of(ds: xr.Dataset, name: str, axes: Horizontal, labels: Labels, what: str) -> Whole:
    """Return the labels of the maps of a variable, with the shape of its other dimensions."""
    variable = ds[name]
    lead = [str(dim) for dim in variable.dims if dim not in axes.dims]
    shape = tuple(variable.sizes[dim] for dim in lead)
    if not labels.parts:
        return np.zeros(shape, np.int64)
    named = labelled_dims(tuple(lead))
    if tuple(dim.lower() for dim in named) == labels.parts:
        numbers = [_along(numbers_on(d.lower(), values_of(ds[d].variable)), lead.index(d), len(lead)) for d in named]
        return np.broadcast_to(labels.joined(numbers), shape)
    dates = _dates_of(ds, name)
    if dates is None:
        raise InputError(
            f"expected dates of {name!r} for {what} by {labels}, received none; pass one climatology without times"
        )
    label = labels.of(dates)
    if label.size == 1:
        return np.broadcast_to(label.ravel()[0], shape)
    dim = next(d for d in lead if d in ds.coords and is_time(ds[d].variable))
    return np.broadcast_to(_along(label, lead.index(dim), len(lead)), shape)


def _along(values: Whole, axis: int, count: int) -> Whole:
    return values.reshape([-1 if i == axis else 1 for i in range(count)])


# Detail on the fine cells.


def detail_table(observed: Observations, job: Job, mask: Any) -> Any:
    """Return the weighted detail of each label of the coarse maps, zeros last, lazily: (labels + 1, rows, columns)."""
    shape = (observed.wanted.size + 1, *job.fine.shape)
    table = dask.delayed(_table, pure=False)(_Source(observed, _shared.get()), job, mask)
    return da.from_delayed(table, shape, np.float32)


# Labels and detail of each variable, for the blocks of a run in one process; None outside of a run.
Tables = dict[str, tuple[Whole, NDArray[np.float32]]]
_shared: ContextVar[Tables | None] = ContextVar("shared", default=None)


@contextmanager
def share_tables(tables: Tables) -> Iterator[None]:
    """Keep the detail of a request in ``tables`` within this block, so that the blocks of a run compute it once."""
    token = _shared.set(tables)
    try:
        yield
    finally:
        _shared.reset(token)


class _Source:
    """Observations that Dask does not compute before a task begins, which reads them piece by piece.

    Dask would find lazy maps in the fields of a dataclass, and compute all of them at once.
    """

    def __init__(self, observed: Observations, tables: Tables | None = None) -> None:
        self.observed, self.tables = observed, tables

    def __getstate__(self) -> dict[str, Any]:
        # Tables are not sent to workers.
        return {"observed": self.observed, "tables": None}


def detail_bytes(observed: Observations, cells: int) -> int:
    """Return the memory that the detail takes on ``cells`` fine cells, with the sums that it is computed from."""
    sums = SUMS_IN_PROPORTION if observed.ratio else SUMS
    return observed.wanted.size * cells * (4 + 8 * sums) + READ_COPIES * 8 * PIECE


@dataclass(frozen=True)
class Summary:
    """What the observations of one label contribute: maps, independent parts, weight, rms of the detail, clipped."""

    label: str
    samples: int
    parts: int
    weight: float
    detail: float
    clipped: int


def _table(source: _Source, job: Job, mask: Any) -> NDArray[np.float32]:
    if source.tables is None:
        return estimate(source.observed, job, mask)[0]
    # Of each variable the labels of one block, which bounds the memory.
    wanted = source.observed.wanted
    known = source.tables.get(job.name)
    if known is None or not np.array_equal(known[0], wanted):
        known = source.tables[job.name] = wanted, estimate(source.observed, job, mask)[0]
    return known[1]


def estimate(observed: Observations, job: Job, mask: Any = None) -> tuple[NDArray[np.float32], list[Summary]]:
    """Return the weighted detail of each wanted label, zeros last, and a summary by label."""
    plain, wanted = kernel_alone(job), observed.wanted
    if not wanted.size:
        # Such as a block of months that the record lacks.
        return np.zeros((1, *job.fine.shape), np.float32), []
    valid = None if mask is None else np.asarray(mask) > 0.5
    evidence = Evidence(wanted.size, job.cells, observed.ratio)
    for parts in _parts_of_record(observed, plain, valid):
        for label, (samples, part) in parts.items():
            evidence.add(label, samples, part)
    if not evidence.seen:
        raise InputError(
            f"{job.name}: expected fine observations, received missing values only; pass others, or leave "
            f"{spell('climatology')} out"
        )
    pattern, clipped = evidence.pattern()
    if observed.weight is not None or observed.parts is None:
        given = 1.0 if observed.weight is None else observed.weight
        weights = np.full((wanted.size, *job.coarse.shape), given)
    else:
        closed = bool(job.coarse.x.periodic)
        weights = evidence.weights(pattern, job.coarse.cell_area, closed)
    table = np.zeros((wanted.size + 1, *job.fine.shape), np.float32)
    shares = np.clip(compute_maps(weights, plain), 0.0, 1.0)
    table[:-1] = shares * pattern
    area = job.coarse.cell_area
    facts = [
        Summary(
            observed.labels.words(int(label)), int(evidence.samples[i]), int(evidence.parts[i]),
            float((weights[i] * area).sum() / area.sum()), float(np.sqrt(np.mean(pattern[i] ** 2))), int(clipped[i]),
        )
        for i, label in enumerate(wanted)
    ]  # fmt: skip
    return table, facts


def _parts_of_record(observed: Observations, plain: Job, valid: Any) -> Iterator[dict[int, tuple[int, Part]]]:
    """Yield the number of samples and their sums by the position of a wanted label, for each independent part."""
    label = observed.label
    parts = np.zeros(label.size, np.int64) if observed.parts is None else observed.parts
    edges = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), parts.size]
    spread = _spread(observed.labels, observed.wanted)
    needed = np.isin(label, np.concatenate(spread)) if spread else np.zeros(label.size, bool)
    summed = _sums_of_samples if observed.ratio and observed.parts is not None else _sums_of_means
    step = max(PIECE // int(np.prod(observed.maps.shape[-2:])), 1)
    for begin, end in pairwise(edges):
        pieces = [(a, min(a + step, end)) for a in range(begin, end, step)]
        pieces = [(a, b) for a, b in pieces if needed[a:b].any()]
        if pieces:
            yield summed(observed, plain, valid, pieces, spread)


def _sums_of_means(
    observed: Observations, plain: Job, valid: Any, pieces: list[tuple[int, int]], spread: list[Whole]
) -> dict[int, tuple[int, Part]]:
    """Return the sums of one part, from the mean of each label: the kernel is linear."""
    total, count = np.zeros((2, len(spread), *observed.maps.shape[-2:]))
    samples = np.zeros(len(spread), np.int64)
    for first, last in pieces:
        values = observed.read(first, last)
        for i, near in enumerate(spread):
            some = values[np.isin(observed.label[first:last], near)]
            present = np.isfinite(some)
            total[i] += np.where(present, some, 0.0).sum(axis=0)
            count[i] += present.sum(axis=0)
            samples[i] += len(some)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    fine = _on_fine(observed, means, valid)
    smooth = _smooth(fine, plain)
    return {
        int(i): (int(samples[i]), Part.of_mean(fine[i], smooth[i], int(samples[i]), observed.ratio))
        for i in np.flatnonzero(samples)
    }


def _sums_of_samples(
    observed: Observations, plain: Job, valid: Any, pieces: list[tuple[int, int]], spread: list[Whole]
) -> dict[int, tuple[int, Part]]:
    """Return the sums of one part, with products of each sample and its smooth field."""
    found: dict[int, tuple[int, Part]] = {}
    batch = max(PIECE // int(np.prod(plain.fine.shape)), 1)
    for first, last in ((a, min(a + batch, stop)) for start, stop in pieces for a in range(start, stop, batch)):
        label = observed.label[first:last]
        if not np.isin(label, np.concatenate(spread)).any():
            continue
        fine = _on_fine(observed, observed.read(first, last), valid)
        smooth = _smooth(fine, plain)
        for i, near in enumerate(spread):
            chosen = np.isin(label, near)
            if chosen.any():
                part, count = Part.of_samples(fine[chosen], smooth[chosen]), int(chosen.sum())
                known = found.get(i)
                found[i] = (count, part) if known is None else (known[0] + count, known[1].plus(part))
    return found


def _on_fine(observed: Observations, maps: Floats, valid: Any) -> Floats:
    """Return maps on the fine cells, NaN where there are no observations or the mask hides cells."""
    fine = observed.regrid(maps)
    return fine if valid is None else np.where(valid, fine, np.nan)


def _spread(labels: Labels, wanted: Whole) -> list[Whole]:
    """Return the labels whose samples each wanted label averages: its own, and neighbouring days of the year."""
    if labels.parts[:1] != ("dayofyear",):
        return [np.array([label]) for label in wanted]
    per_step = labels.count // STEPS
    half = WINDOW // 2
    steps = per_step * np.arange(-half, half + 1)
    return [(label + steps) % labels.count for label in wanted]


def _smooth(fine: Floats, plain: Job) -> Floats:
    """Return U A of fine maps with gaps: means over valid cells, NaN in coarse cells without any."""
    valid = np.isfinite(fine)
    cells = plain.cells if valid.all() else plain.cells.apply_mask(valid)
    return compute_maps(np.asarray(cells.mean(fine)), plain)


# Validation on parts left out.


def left_out_errors(observed: Observations, job: Job, mask: Any = None) -> tuple[float, float] | None:
    """Return the RMSE of the kernel, and with the climatology, on maps of parts of a record that it does not contain.

    Parts are left out in turns, and some of their maps are predicted; None without several independent parts.
    """
    parts = observed.parts
    if parts is None or np.unique(parts).size < 2 or not observed.wanted.size:
        return None
    numbers = np.searchsorted(np.unique(parts), parts)
    folds = min(FOLDS, int(numbers.max()) + 1)
    valid = None if mask is None else np.asarray(mask) > 0.5
    weights, squares = 0.0, np.zeros(2)
    for fold in range(folds):
        is_out = numbers % folds == fold
        own = np.flatnonzero(is_out & np.isin(observed.label, observed.wanted))
        if not own.size:
            continue
        own = own[np.unique(np.linspace(0, own.size - 1, MOST_MAPS).round().astype(int))]
        others = _subset(observed, ~is_out, observed.label[own])
        if not others.wanted.size:
            continue
        truth = _on_fine(observed, np.concatenate([observed.read(int(i), int(i) + 1) for i in own]), valid)
        area = np.where(np.isfinite(truth), job.fine.cell_area, 0.0)
        statics = {} if mask is None else {"mask": np.asarray(mask, np.float64)}
        for k, guess in enumerate(_guesses(truth, others, job, mask, statics)):
            misses = np.where(area > 0, guess - truth, 0.0)
            squares[k] += float(np.nansum(area * misses**2))
        weights += float(area.sum())
    plain, better = np.sqrt(squares / weights) if weights else (np.nan, np.nan)
    return float(plain), float(better)


def _guesses(
    truth: Floats, others: Observations, job: Job, mask: Any, statics: dict[str, Floats]
) -> Iterator[Floats]:  # fmt: skip
    """Yield fine maps predicted from the cell means of some maps: by the kernel, and with other observations."""
    present = np.isfinite(truth)
    cells = job.cells if present.all() else job.cells.apply_mask(present)
    coarse = np.asarray(cells.mean(truth))
    own = replace(kernel_alone(job), conserve=job.conserve, bounds=job.bounds, power=job.power)
    yield compute_maps(coarse, own, statics)
    table, _ = estimate(others, job, mask)
    yield compute_maps(coarse, own, {**statics, "detail": table}, others.index)


def _subset(observed: Observations, chosen: NDArray[np.bool_], which: Whole) -> Observations:
    """Return some of the observations, for maps with the labels ``which``."""
    assert observed.parts is not None
    index = np.flatnonzero(chosen)
    return replace(
        observed, maps=observed.maps[index], label=observed.label[index], parts=observed.parts[index], which=which
    )
