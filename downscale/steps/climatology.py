"""Fine observations of the variables of a request: fields, labels, units, and their detail on the fine cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.coordinates import horizontal_variables, select
from downscale.cf.dates import Clock, is_time, values_of
from downscale.cf.horizontal import Horizontal, horizontal
from downscale.cf.labels import Labels, labelled_dims, numbers_on, years_of
from downscale.cf.quantities import automatic_form, quantity_of, same_quantity, units_of
from downscale.cf.times import date_bounds, time_name
from downscale.cf.units import convert
from downscale.engine.job import Job
from downscale.errors import InputError, OptionError, listing, spell
from downscale.fields.climatology import most_quantiles
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.io.statics import Regridder, regridder
from downscale.nn.cascade import Cascade
from downscale.request import Request

# Fewer calendar years are too few independent parts: then each run of some days is one.
FEWEST_YEARS, RUN_OF_DAYS = 5, 5
DAY = 86400.0
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
    quantiles: int
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
        more = "" if self.weight is None else f" weight={self.weight:g}"
        more += "" if self.quantiles == 1 else f" quantiles={self.quantiles}"
        return f"climatology {name}({'ratio' if self.ratio else 'additive'} by={self.labels}{more})"

    def in_memory(self, most: int) -> Observations:
        """Return these observations, read at once if they have at most ``most`` values: each reading takes time."""
        if self.maps.chunks is None or self.maps.size > most:
            return self
        with dask.config.set(scheduler="synchronous"):
            return replace(self, maps=self.maps.compute())

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
    source = open_observations(request.climatology)
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


def open_observations(source: Any) -> xr.Dataset:
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
    if parts is None and request.quantiles_for(name) > 1:
        raise InputError(
            f"expected {what} with the times of a record for {spell('climatology_quantiles')}, received a climatology; "
            "pass the record, or 1 quantile"
        )
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
    count = request.quantiles_for(name)
    if count > 1 and parts is not None and weight is None:
        # Of all labels, also those that the coarse maps lack, so that every block of a run has as many.
        own = [parts[label == one] for one in np.unique(label)]
        most = min(most_quantiles(one.size, np.unique(one).size, ratio) for one in own)
        if most < count:
            notes.append(f"{name}: too few observations for {count} quantiles, {most} instead")
        count = min(count, most)
    return Observations(
        maps, labels, label, parts, scale, ratio, which, regrid, weight, count, area, tuple(notes)
    )  # fmt: skip


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
    times = middles_of(source, dates)
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


def middles_of(ds: xr.Dataset, dim: str) -> NDArray[Any]:
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
        return middles_of(ds, dim)
    scalar = time_name(ds)
    return middles_of(ds, scalar) if scalar is not None and ds[scalar].ndim == 0 else None


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
