"""Settings of the jobs of variables, and the chunks of their data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.quantities import is_sign_unknown, variable_bounds
from downscale.conservation.measures import default_tolerance
from downscale.engine.job import Job, feature_bytes_of
from downscale.engine.memory import BATCH_VALUES, BLOCKS_PER_WORKER, ExtraMemory, block_budget, feature_budget
from downscale.errors import OptionError
from downscale.nn.separable import Separable
from downscale.request import Request

NO_EXTRA = ExtraMemory()


def job_settings(variable: xr.DataArray, name: str, request: Request, extensive: bool) -> dict[str, Any]:
    """Return the settings of a job that depend only on the variable and the request, not on the axes."""
    dtype = result_type(variable.dtype)
    bounds = variable_bounds(variable, name, request.bounds) if request.conserve == "cell" else (None, None)
    if extensive and request.bounds == "auto":
        bounds = (0.0 if bounds[0] == 0 else None, None)
    if extensive and not set(bounds) <= {None, 0.0}:
        # The sum over a small part may be anything up to that of the whole; only the sign is common to both.
        raise OptionError(f"{name}: expected bounds of 0 or none for sums over cells, received {bounds}; drop them")
    tolerance = request.setting("tolerance")
    return {
        "name": name,
        "dtype": dtype,
        "tolerance": default_tolerance(dtype) if tolerance is None else float(tolerance),
        # Global conservation is imposed on whole maps after the blocks; along one axis it follows from cell
        # conservation.
        "conserve": "cell" if request.conserve == "cell" else None,
        "bounds": bounds,
        "strict_bounds": request.bounds != "auto",
        "extensive": extensive,
        "check": request.setting("check"),
        "device": request.setting("device"),
        "na_thres": request.na_thres,
        "warns_of_negatives": is_sign_unknown(variable, name, request.bounds),
    }


def kernel_alone(job: Job) -> Job:
    """Return the job of the kernel that noise and networks correct, in float64 with cell conservation and nothing else.

    For fields other than that of the job, such as orography: without bounds, transform, penalty and checks.
    """
    kernel = job.capabilities.kernel
    return replace(
        job, upscaler=kernel if isinstance(kernel, Separable) else job.upscaler, extensive=False, conserve="cell",
        bounds=(None, None), refinement=None, dtype=np.dtype("f8"), check="skip", target=None, power=None,
    )  # fmt: skip


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


def fit_chunks(data: Any, job: Job, extra: ExtraMemory = NO_EXTRA) -> Any:
    """Return a lazy array in chunks whose fine fields stay within the budget of a block.

    The leading dimensions are split first, then maps into bands of rows; ``extra`` is the memory held besides.
    """
    if not isinstance(data, da.Array):
        return data
    factor = job.cells.factor_y * job.cells.factor_x
    largest = [max(sizes) for sizes in data.chunks]
    rows = job.upscaler.halo is not None and job.target is None
    # One map may be too large for a network, even if time is split.
    band, features = _band(largest, job, rows)
    if band < largest[-2]:
        data, largest[-2] = data.rechunk({data.ndim - 2: band}), band
    budget = block_budget(features, extra.run_bytes)
    for axis in range(data.ndim - 1 if rows else data.ndim - 2):
        maps, cells = np.prod(largest[:-2]) * (1 + extra.held), largest[-2] * largest[-1] * factor
        excess = cells * (maps * job.dtype.itemsize + extra.bytes_per_cell / BLOCKS_PER_WORKER) / budget
        if excess <= 1:
            break
        pieces = min(int(np.ceil(excess)), _most_pieces(largest, axis, job))
        largest[axis] = -(-largest[axis] // pieces)
        data = data.rechunk({axis: largest[axis]})
    return data


def _band(largest: list[int], job: Job, can_cut: bool) -> tuple[int, int]:
    """Return the rows of a band that leaves room for the features of a network, and the bytes of these features."""
    rows, columns = largest[-2:]
    features, budget = feature_bytes_of(job, BATCH_VALUES, (rows, columns)), feature_budget()
    if features <= budget or not can_cut:
        return rows, features
    halo_rows = _halo_rows(largest, job)
    band = min(max(budget * rows // features - halo_rows, halo_rows, 8), rows)
    return band, feature_bytes_of(job, BATCH_VALUES, (min(band + halo_rows, rows), columns))


def _halo_rows(largest: list[int], job: Job) -> int:
    """Return the rows that a band needs around its own."""
    return 2 * (job.upscaler.halo[0] + job.margin[0]) if job.upscaler.halo else largest[-2]


def _most_pieces(largest: list[int], axis: int, job: Job) -> int:
    """Return the maximum number of pieces of a dimension: bands are at least as wide as their halo."""
    if axis < len(largest) - 2:
        return largest[axis]
    return max(largest[axis] // max(_halo_rows(largest, job), 8), 1)
