"""Horizontal downscaling of the variables of a request, lazily."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.attributes import remove_references
from downscale.cf.mapping import MOST_CORNERS
from downscale.engine.apply import apply, average
from downscale.engine.job import Job
from downscale.engine.memory import (
    AREA_COPIES,
    CORNER_COPIES,
    POLYGON_COPIES,
    POSITION_COPIES,
    SMOOTHED,
    ExtraMemory,
)
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.subcells import SubcellGrid
from downscale.methods.footprint import FootprintMethod, refine_lazily
from downscale.methods.learned import inputs_of
from downscale.methods.members import numbers_of, order_of, with_members
from downscale.steps.jobs import fit_chunks
from downscale.steps.orderings import fine_in_order, limits_on
from downscale.steps.terrain import terrain_term

if TYPE_CHECKING:
    from downscale.steps.prepare import MapPlan

CODE_ENCODING = ("dtype", "_FillValue", "missing_value")
MISSING_FLAG = np.int8(-1)


def horizontal_last(array: xr.DataArray, map_plan: MapPlan) -> xr.DataArray:
    """Return a variable with rows and columns as its last dimensions."""
    return array.transpose(..., *map_plan.axes.dims)


def fine_fields(ds: xr.Dataset, map_plan: MapPlan) -> dict[str, xr.Variable]:
    """Return the fine fields of all variables to downscale, each within those that bound it."""
    orderings, jobs = map_plan.orderings, map_plan.jobs
    # Where target cells cut coarse cells, values are in order on the pieces, and so are their averages.
    cut = {} if map_plan.target.nests else {name: jobs[name] for name in orderings.members}

    def refine(name: str, bounds: dict[str, xr.Variable]) -> xr.Variable:
        return fine_variable(ds[name], cut[name].pieces if name in cut else jobs[name], map_plan, bounds)

    fine = fine_in_order(ds, jobs, orderings, map_plan.given, refine)
    for name, job in cut.items():
        maps = fine[name].transpose(..., *map_plan.axes.dims)
        fine[name] = xr.Variable(maps.dims, average(job, maps.data), maps.attrs).transpose(*fine[name].dims)
    return {name: fine[name] for name in jobs}


def fine_variable(
    variable: xr.DataArray, job: Job, map_plan: MapPlan, bounds: Mapping[str, xr.Variable] | None = None
) -> xr.Variable:
    """Return the fine field of one variable, with dimensions in the original order.

    ``bounds`` are fine fields by side.
    """
    request = map_plan.request
    array = horizontal_last(variable, map_plan)
    if request.members is not None:
        array = with_members(array, request.members)
    if map_plan.instrument is not None:
        method = FootprintMethod(job, map_plan.instrument, request.map_order, _valid_cells(map_plan))
        fine_maps = xr.Variable(array.dims, refine_lazily(method, array.data), dict(variable.attrs))
        return fine_maps.transpose(*variable.dims)
    data = fit_chunks(array.data, job, other_memory(variable, job, map_plan))
    statics = _block_statics(job, map_plan)
    numbers = numbers_of(array) if job.capabilities.with_noise is not None else None
    has_inputs = numbers is not None or (job.input_count > 1 and map_plan.model is not None)
    inputs = inputs_of(array, data, map_plan.model, numbers) if has_inputs else data
    sizes = {**array.sizes, **dict(zip(array.dims[-2:], job.cells.fine_shape, strict=True))}
    limits = limits_on(bounds or {}, sizes)
    fine = apply(job, inputs, statics, _positions(job, map_plan, array.shape[:-2]), limits)
    if request.conserve == "total" and not _conserves_total(job, map_plan):
        fine = _restore_total(data, fine, job)
    result = xr.Variable(array.dims, fine, dict(variable.attrs))
    return result.transpose(*(order_of(variable.dims, array.dims) if request.members is not None else variable.dims))


def _valid_cells(map_plan: MapPlan) -> Any:
    mask = map_plan.statics.get("mask")
    return None if mask is None else np.asarray(mask) > 0.5


def _conserves_total(job: Job, map_plan: MapPlan) -> bool:
    """Return whether the method itself conserves the total: kernels do with whole cells and a constant lapse rate."""
    rate: Any = map_plan.lapse_rates.get(job.name)
    is_exact = "mask" not in map_plan.statics and np.ndim(rate) == 0
    return is_exact and job.cells.cell_fraction is None and "cell" in job.upscaler.laws


def static_names(job: Job, map_plan: MapPlan) -> frozenset[str]:
    """Return the names of the fine static fields that the blocks use."""
    names = {"mask"} & set(map_plan.statics) | set(() if map_plan.model is None else map_plan.model.statics)
    has_orog = "orog" in map_plan.statics
    names |= {"orog"} if has_orog and job.refinement is not None else set()
    names |= {"detail"} if job.name in map_plan.observed else set()
    if has_orog and map_plan.lapse_rates.get(job.name) is not None:
        names |= {"terrain"} if map_plan.relief_smoothing.get(job.name) == 0 else {"terrain", SMOOTHED}
    return frozenset(names)


def other_memory(array: xr.DataArray, job: Job, map_plan: MapPlan) -> ExtraMemory:
    """Return the memory that a run holds besides the blocks of a variable, without reading values."""
    cells, chunk, reads_file = int(np.prod(job.fine.shape)), 0, False
    if array.chunks is not None:
        chunk = int(np.prod([max(sizes) for sizes in array.chunks])) * array.dtype.itemsize
        reads_file = "source" in array.encoding or any(map(_reads_file, array.data.dask.layers))
    grid_copies = _count_grid_copies(job, map_plan, cells)
    extra = ExtraMemory.of(cells, static_names(job, map_plan), grid_copies, chunk, reads_file)
    # The fields of an order are held together.
    extra = replace(extra, held=int(job.name in map_plan.orderings.members))
    if job.name not in map_plan.observed:
        return extra
    from downscale.steps.detail import detail_bytes

    return replace(extra, run_bytes=extra.run_bytes + detail_bytes(map_plan.observed[job.name], job))


def _reads_file(layer: Any) -> bool:
    """Return whether a layer of a graph reads a file, by xarray's naming."""
    return str(layer).startswith("open_dataset-")


def _count_grid_copies(job: Job, map_plan: MapPlan, cells: int) -> int:
    """Return how many copies of the fine cells areas and positions take; none if both are products of axes."""
    if isinstance(job.fine, SubcellGrid):
        return 0
    copies = 0 if job.fine.separable else AREA_COPIES
    if map_plan.axes.positions is not None:
        copies += CORNER_COPIES if cells <= MOST_CORNERS else POSITION_COPIES
    return copies + POLYGON_COPIES * isinstance(job.fine, CurvilinearGrid)


def _block_statics(job: Job, map_plan: MapPlan) -> dict[str, Any]:
    """Return the fine fields that the blocks need: orography for the penalty, and the terrain term to add."""
    orog = map_plan.statics.get("orog")
    statics = {name: static for name, static in map_plan.statics.items() if name == "mask"}
    statics.update({} if map_plan.model is None else map_plan.model.statics)
    if job.name in map_plan.observed:
        from downscale.steps.detail import detail_table

        statics["detail"] = detail_table(map_plan.observed[job.name], job, map_plan.statics.get("mask"))
    if orog is None:
        return statics
    if job.refinement is not None:
        statics["orog"] = orog
    rate, smoothing = map_plan.lapse_rates.get(job.name), map_plan.relief_smoothing.get(job.name) or 0.0
    if rate is not None:
        mask = statics.get("mask") if smoothing else None
        term = dask.delayed(terrain_term, pure=True)(orog, rate, smoothing, job, mask)
        statics["terrain"] = da.from_delayed(term, map_plan.fine.shape, np.float64)
    return statics


def _positions(job: Job, map_plan: MapPlan, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the position of the climatological pattern of each map, of all members, or None if there are none."""
    if job.name not in map_plan.observed:
        return None
    index = map_plan.observed[job.name].index
    return np.broadcast_to(index if index.ndim == len(shape) else index[..., None], shape)


def _restore_total(coarse: Any, fine: Any, job: Job) -> Any:
    """Return maps shifted so that their area integrals over valid cells are those of the coarse maps."""
    xp = da if isinstance(fine, da.Array) else np

    def integral(values: Any, weights: Any) -> Any:
        return xp.where(xp.isfinite(values), values.astype("f8") * weights, 0.0).sum(axis=(-2, -1), keepdims=True)

    area_c, area_f = job.coarse.cell_area, job.fine.cell_area
    weights = (1.0, 1.0) if job.extensive else (area_c, area_f)
    valid_area = (xp.isfinite(fine) * area_f).sum(axis=(-2, -1), keepdims=True)
    # A map without any value has nothing to restore.
    shift = (integral(coarse, weights[0]) - integral(fine, weights[1])) / xp.where(valid_area > 0, valid_area, 1.0)
    return (fine + shift * (area_f if job.extensive else 1.0)).astype(job.dtype)


def event_variables(probability: xr.Variable, model: Any) -> dict[str, xr.Variable]:
    """Return the flag of an event and its probability, from probabilities with NaN; conservation applies to neither."""
    event, output = model.spec.event, model.spec.outputs[0]
    names, level = event.names, round(float(model.learned.decision), 2)
    condition = f"{output.name} {'>=' if event.side == 'above' else '<='} {event.threshold:g} {output.units}"
    xp = da if isinstance(probability.data, da.Array) else np
    flags = xp.where(xp.isfinite(probability.data), probability.data >= level, np.nan).astype(np.float32)
    # Codes with a fill value: floats in memory, small integers in the file.
    encoding = {"dtype": np.dtype(np.int8), "_FillValue": MISSING_FLAG}
    flag_variable = xr.Variable(probability.dims, flags, {
        "long_name": f"mask of {event.name} ({condition})", "flag_values": np.array([0, 1], np.int8),
        "flag_meanings": f"no_{event.name} {event.name}", "decision_threshold": level, "ancillary_variables": names[1],
        "comment": "made by a segmentation model; no conservation law applies to an event mask",
    }, encoding)  # fmt: skip
    probability_variable = xr.Variable(probability.dims, probability.data, {
        "long_name": f"probability of {event.name} ({condition})", "units": "1",
        "comment": "made by a segmentation model; no conservation law applies to an event mask",
    })  # fmt: skip
    return dict(zip(names, (flag_variable, probability_variable), strict=True))


def repeat_codes(variable: xr.DataArray, map_plan: MapPlan) -> xr.Variable:
    """Return codes on the fine cells: each takes that of its coarse cell."""
    data = variable.data
    xp = da if isinstance(data, da.Array) else np
    for dim, factor in map_plan.factors.items():
        data = xp.repeat(data, factor, axis=variable.get_axis_num(dim))
    # A fill value made the codes floats; they are stored as integers.
    encoding = {key: variable.encoding[key] for key in CODE_ENCODING if key in variable.encoding}
    return xr.Variable(variable.dims, data, dict(variable.attrs), encoding)


def remove_dangling_references(fine: xr.Dataset, ds: xr.Dataset) -> xr.Dataset:
    """Remove names of variables of ``ds`` that ``fine`` lacks from its attributes, in place."""
    missing_names = {str(name) for name in ds.variables} - {str(name) for name in fine.variables}
    for variable in fine.variables.values() if missing_names else ():
        remove_references(variable, missing_names, ds.variables)
    return fine
