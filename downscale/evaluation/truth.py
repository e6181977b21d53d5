"""Lazy reference fields of an evaluation, and coarse input maps of the methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.bounds import bounds_variables
from downscale.cf.coordinates import horizontal_variables
from downscale.cf.horizontal import as_dataset, horizontal
from downscale.cf.kinds import is_categorical
from downscale.cf.times import time_name
from downscale.errors import InputError, OptionError, listing
from downscale.evaluation.schema import Data, Source
from downscale.fields.gradient import Spacing
from downscale.io.paths import sources_of
from downscale.io.statics import pick_mask, pick_static
from downscale.models.checkpoint import Record
from downscale.steps.coarsen import coarsen
from downscale.training.origin import find_trained_times
from downscale.training.pairs import (
    bounds_of,
    conversion,
    crop_to_cells,
    open_coarse,
    open_maps,
    prefix_errors,
    select_ranges,
    select_shared_times,
    split_times,
)
from downscale.training.schema import Channel

Bounds = tuple[float | None, float | None]


@dataclass(frozen=True, eq=False)
class Block:
    """Maps in memory: the input of a method, and the reference output."""

    coarse: xr.Dataset
    fine: xr.Dataset


@dataclass(frozen=True, eq=False)
class Truth:
    """One source: lazy fine maps in the units of the recipe."""

    label: str  # name in tables
    fine: xr.Dataset  # outputs and predictors; the first other dimension holds the evaluated times
    coarse: xr.Dataset | None  # fields of an independent model; None if the coarse maps are averages of the fine ones
    names: tuple[str, ...]  # the outputs
    bounds: dict[str, Bounds]  # bounds of all values
    factor: dict[str, int]  # refinement
    dims: tuple[str, str]  # row and column dimension
    area: NDArray[np.float64]  # (n_y, n_x): fine cell areas in m2
    spacing: Spacing  # fine distances in metres
    statics: dict[str, xr.Dataset]  # arguments of the methods, if any: orog, sftlf, climatology
    na_thres: float  # maximum missing fraction in the averaging
    files: tuple[str, ...]  # files read
    dates: NDArray[Any] | None = None  # dates of the evaluated times

    def count_trained_times(self, record: Record) -> int:
        """Return how many of the evaluated times the training of a model saw."""
        grid = horizontal(self.fine).grid
        return int(find_trained_times(record, grid, self.dates, self.steps, self.files).sum())

    @property
    def step_dim(self) -> str | None:
        """The dimension of the steps; None for a single map."""
        lead = [str(dim) for dim in self.fine[self.names[0]].dims if dim not in self.dims]
        return lead[0] if lead else None

    @property
    def steps(self) -> int:
        """Number of times."""
        return 1 if self.step_dim is None else self.fine.sizes[self.step_dim]

    def block(self, first: int, last: int) -> Block:
        """Return the maps of some times, from ``first`` to before ``last``."""
        steps = {} if self.step_dim is None else {self.step_dim: slice(first, last)}
        fine = self.fine.isel(steps).load()
        if self.coarse is None:
            return Block(as_dataset(coarsen(fine, self.factor, na_thres=self.na_thres))[0], fine)
        return Block(self.coarse.isel(steps, missing_dims="ignore").load(), fine)

    def blocks(self, most_cells: float) -> Iterator[Block]:
        """Yield all maps, in blocks of about ``most_cells`` fine values."""
        cells_per_step = sum(int(field.size) for field in self.fine.data_vars.values()) / self.steps
        count = max(int(most_cells // cells_per_step), 1)
        for first in range(0, self.steps, count):
            yield self.block(first, min(first + count, self.steps))


def open_truth(source: Source, data: Data) -> Truth:
    """Return one source of the recipe; reads coordinates only."""
    with prefix_errors(source.fine):
        return _open_source(source, data)


def _open_source(source: Source, data: Data) -> Truth:
    if source.smooth > 1:
        raise OptionError(f"expected a reference without smoothing, received smooth {source.smooth}; leave it out")
    dataset = open_maps(source.fine)
    ds, axes = crop_to_cells(select_ranges(dataset, source), [size * source.average for size in data.factor])
    channels, coarse = [*data.outputs, *data.predictors], None
    if source.coarse is not None:
        coarse_dataset, _ = open_coarse(source, axes, axes.grid.coarsen(source.average, source.average), data.factor)
        ds, coarse_dataset = select_shared_times(ds, coarse_dataset)
        coarse, channels = _convert(coarse_dataset, channels, source), data.outputs
    fine = _convert(ds, channels, source)
    if source.average > 1:
        fine, _ = as_dataset(coarsen(fine, source.average))
    fine, coarse = _select_times(fine, coarse, source, data)
    fine_axes = horizontal(fine)
    names = tuple(channel.name for channel in data.outputs)
    return Truth(
        label=source.label, fine=fine, coarse=coarse, names=names,
        bounds={channel.name: bounds_of(channel, fine[channel.name]) for channel in data.outputs},
        factor=dict(zip(fine_axes.dims, data.factor, strict=True)), dims=fine_axes.dims, area=fine_axes.grid.cell_area,
        spacing=Spacing.of(fine_axes.grid), statics=_open_statics(dataset, source), na_thres=data.na_thres,
        files=sources_of(ds, *([] if coarse is None else [coarse])), dates=_dates(fine, names[0]),
    )  # fmt: skip


def _dates(fine: xr.Dataset, name: str) -> NDArray[Any] | None:
    """Return the dates of the maps; None where there are none."""
    time = time_name(fine)
    return np.asarray(fine[time].values) if time is not None and time in fine[name].dims else None


def _convert(ds: xr.Dataset, channels: list[Channel], source: Source) -> xr.Dataset:
    """Return the variables under the names, in the units and within the bounds of the recipe."""
    axes = horizontal(ds)
    legal = horizontal_variables(ds, axes)
    variables = {}
    for channel in channels:
        name = source.names.get(channel.name, channel.name)
        if name not in legal:
            raise InputError(f"expected a variable among {listing(legal)}, received {name!r}; set its name in names")
        maps = ds[name].transpose(..., *axes.dims)
        if is_categorical(maps):
            raise InputError(f"expected a variable with means, received {name!r} that holds codes; choose another")
        factor, offset = conversion(maps, channel, source)
        lower, upper = bounds_of(channel, maps, factor, offset)
        dtype = maps.dtype if maps.dtype.kind == "f" else np.dtype("f8")
        values = maps.astype(dtype) if (factor, offset) == (1.0, 0.0) else (maps * factor + offset).astype(dtype)
        units = {} if channel.units is None else {"units": channel.units}
        clipped = values if (lower, upper) == (None, None) else values.clip(lower, upper)
        variables[channel.name] = clipped.variable.copy(deep=False)
        variables[channel.name].attrs = {**maps.attrs, **units}
        variables[channel.name].encoding = {key: v for key, v in maps.encoding.items() if key == "grid_mapping"}
    cells = bounds_variables(ds)
    coordinates = ds.drop_vars([str(name) for name in ds.data_vars if name not in cells])
    return coordinates.assign(variables)


def _select_times(
    fine: xr.Dataset, coarse: xr.Dataset | None, source: Source, data: Data
) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Return the held-out times, and of these every n-th."""
    first = fine[data.outputs[0].name]
    axes = horizontal(fine)
    lead = [str(dim) for dim in first.dims if dim not in axes.dims]
    if not lead:
        return fine, coarse
    time = time_name(fine)
    step_dim = time if time in lead else lead[0]
    dates = fine[step_dim].values if step_dim == time else None
    use = "validation" if source.use == "validation" else "split"
    held_out = split_times(dates, fine.sizes[step_dim], data.validation, use, source.label).validation
    if held_out.size == 0:
        raise InputError(
            f"expected times that are held out, received none of {fine.sizes[step_dim]}; set validation or use"
        )
    steps = held_out[:: source.every][: source.most]
    ordered = {
        name: fine[name].transpose(step_dim, ...) for name in map(str, fine.data_vars) if step_dim in fine[name].dims
    }
    fine = fine.assign(ordered).isel({step_dim: steps})
    return fine, None if coarse is None else coarse.isel({step_dim: steps}, missing_dims="ignore")


def _open_statics(dataset: xr.Dataset, source: Source) -> dict[str, xr.Dataset]:
    """Return orography and land fraction, from separate files or from that of the field, and the climatology."""
    statics: dict[str, Any] = {}
    if source.orog is not None:
        statics["orog"] = pick_static(open_maps(source.orog), source.orog_variable)
    elif "orog" in dataset.data_vars:
        statics["orog"] = pick_static(dataset, "orog")
    if source.sftlf is not None:
        statics["sftlf"] = pick_mask(open_maps(source.sftlf))
    elif "sftlf" in dataset.data_vars:
        statics["sftlf"] = pick_mask(dataset)
    if source.climatology is not None:
        statics["climatology"] = open_maps(source.climatology)
    return {name: static.load() for name, static in statics.items()}
