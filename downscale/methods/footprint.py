"""Downscaling of fields averaged with the footprint of an instrument, map by map."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from downscale.deconvolution.weights import Instrument
from downscale.engine.checks import replace_infinite
from downscale.engine.device import DeviceTransfer, pick_device
from downscale.engine.job import Job
from downscale.errors import ConservationError


@dataclass(frozen=True, eq=False)
class FootprintMethod:
    """Downscaling to fine maps whose footprint-weighted averages equal the coarse values."""

    job: Job
    instrument: Instrument
    order: float
    mask: NDArray[np.bool_] | None = None

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (..., n_fine_y, n_fine_x) for (..., n_y, n_x)."""
        job = self.job
        maps = replace_infinite(np.asarray(values), job.name, job.check).reshape(-1, *job.coarse.shape)
        transfer = DeviceTransfer(pick_device(job.device))
        fine = np.full((len(maps), *job.fine.shape), np.nan, job.dtype)
        for index, field in enumerate(maps):
            self._refine_map(field.astype(np.float64), fine[index], transfer)
        return fine.reshape(*values.shape[:-2], *job.fine.shape)

    def _refine_map(self, coarse: NDArray[np.float64], out: NDArray[Any], transfer: DeviceTransfer) -> None:
        from downscale.deconvolution.blur import find_blur
        from downscale.deconvolution.footprint import FootprintOperator, footprint_error

        job = self.job
        if job.extensive:
            coarse = coarse / job.coarse.cell_area
        valid = job.cells.broadcast_to_fine(np.isfinite(coarse))
        valid = valid if self.mask is None else valid & self.mask
        if not valid.any():
            return
        x = transfer.send(np.nan_to_num(coarse))
        operator = FootprintOperator(find_blur(self.instrument, valid, x), job.cells, self.order)
        fine = operator.solve(x)
        if job.bounds != (None, None):
            fine = operator.solve_within(fine, x, job.bounds)
        field = transfer.fetch(fine, np.dtype(np.float64))()
        out[valid] = (field * job.fine.cell_area if job.extensive else field).astype(job.dtype)[valid]
        if job.check == "skip":
            return
        stored = np.where(valid, out, 0.0).astype(np.float64)
        stored = stored / job.fine.cell_area if job.extensive else stored
        self._check(float(footprint_error(operator, transfer.send(stored), x).max()), stored[valid])

    def _check(self, error: float, stored: NDArray[np.float64]) -> None:
        """Warn, or raise an error, if the stored values violate the footprint averages or the bounds."""
        job = self.job
        if not error <= job.tolerance:
            line = (
                f"{job.name}: expected the footprint law within {job.tolerance:g}, received a relative error of "
                f"{error:.3g}; a footprint much wider than coarse cells leaves too little information, check its size"
            )
            if job.check == "raise":
                raise ConservationError(line)
            warnings.warn(line, UserWarning, stacklevel=2)
        low, high = (-np.inf if job.bounds[0] is None else job.bounds[0]), job.bounds[1]
        excess = max(low - stored.min(), stored.max() - (np.inf if high is None else high))
        if excess > 0:
            warnings.warn(
                f"{job.name}: the footprint takes priority over bounds; fine values exceed them by {excess:.2g}",
                UserWarning, stacklevel=2,
            )  # fmt: skip


def refine_lazily(method: FootprintMethod, data: Any) -> Any:
    """Return the fine field of (..., n_y, n_x), lazy for lazy data, whose maps are not split."""
    if not isinstance(data, da.Array):
        return method(np.asarray(data))
    data = whole_maps(data)
    chunks = (*data.chunks[:-2], *((n,) for n in method.job.fine.shape))
    dtype = method.job.dtype
    return data.map_blocks(method, chunks=chunks, dtype=dtype, meta=np.empty((0,) * data.ndim, dtype))


def whole_maps(data: da.Array, axes: int = 2) -> da.Array:
    """Return an array whose chunks do not split maps along the last axes."""
    return data.rechunk(dict.fromkeys(range(data.ndim - axes, data.ndim), -1))


def blur_maps(data: Any, instrument: Instrument, device: str = "cpu") -> Any:
    """Return maps (..., cells) blurred by an instrument, in float64; missing cells exchange no flux.

    The area integral over the valid cells of each map is conserved.
    """
    from downscale.deconvolution.blur import find_blur

    def blur(values: NDArray[Any]) -> NDArray[Any]:
        transfer = DeviceTransfer(pick_device(device))
        maps = np.asarray(values, np.float64).reshape(-1, *instrument.shape)
        images = np.full(maps.shape, np.nan)
        for index, map_values in enumerate(maps):
            valid = np.isfinite(map_values)
            if valid.any():
                field = transfer.send(np.where(valid, map_values, 0.0))
                image = find_blur(instrument, valid, field).forward(field)
                images[index] = np.where(valid, transfer.fetch(image, np.dtype(np.float64))(), np.nan)
        return images.reshape(values.shape)

    if not isinstance(data, da.Array):
        return blur(np.asarray(data))
    full_maps = whole_maps(data, len(instrument.shape))
    return da.map_blocks(blur, full_maps, dtype=np.float64, meta=np.empty((0,) * data.ndim))
