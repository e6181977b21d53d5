"""Fine fields from any source as proposals, on which cell conservation is imposed.

If grids nest, a fine field accompanies its coarse field as one more input per fine cell of a coarse cell, so that the
engine cuts, constrains and checks it like the field of any method. If they do not, maps are projected whole.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from downscale.conservation.measures import default_tolerance
from downscale.engine.checks import replace_infinite, report_infeasible
from downscale.engine.cut import Cut, Span
from downscale.engine.job import Job
from downscale.errors import ConservationError
from downscale.fields.aggregate import Aggregation, SupermeshMean
from downscale.fields.crossing import project_crossing
from downscale.typing import Place

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("downscale")


@dataclass(frozen=True, eq=False)
class Proposal:
    """Returns the fine field that accompanies a coarse one, scaled to the coarse means if ``multiplicative``.

    The inputs are the coarse field and the fine cells of each coarse cell by rows, see :func:`accompanied`.
    """

    factor: tuple[int, int]
    cells: Aggregation
    multiplicative: bool = False
    halo = (0, 0)
    multiple_of = 1
    laws: frozenset[str] = frozenset()
    variable = 0

    @property
    def channels(self) -> int:
        """Number of input fields."""
        return 1 + self.factor[0] * self.factor[1]

    def __call__(self, coarse: Tensor, place: Place) -> Tensor:
        """Map (..., 1 + f_y * f_x, n_y, n_x) to (..., n_y * f_y, n_x * f_x)."""
        import torch

        from downscale.fields.conserve import multiplicative

        x, parts = coarse[..., 0, :, :], coarse[..., 1:, :, :]
        (*lead, n_y, n_x), (f_y, f_x) = x.shape, self.factor
        axes = range(len(lead))
        blocks = parts.reshape(*lead, f_y, f_x, n_y, n_x).permute(*axes, *(len(lead) + i for i in (2, 0, 3, 1)))
        fine = blocks.reshape(*lead, n_y * f_y, n_x * f_x)
        if not self.multiplicative:
            return fine
        rows, columns = place.row + np.arange(n_y), place.column + np.arange(n_x)
        return multiplicative(fine, x, self.cells.window(rows, columns).apply_mask(torch.isfinite(fine)))


def accompanied(x: Any, z: Any, factor: tuple[int, int]) -> Any:
    """Return the inputs of a :class:`Proposal`: coarse (..., n_y, n_x) and fine fields stacked before the rows.

    Dask arrays must have chunks that contain the same coarse cells.
    """
    f_y, f_x = factor
    kind = np.result_type(x.dtype, z.dtype, np.float32)
    fields = [x, *(z[..., i::f_y, j::f_x] for i in range(f_y) for j in range(f_x))]
    if not isinstance(x, da.Array):
        return np.stack(fields, axis=-3).astype(kind, copy=False)
    return da.map_blocks(
        _stacked, x, z, factor=factor, kind=kind, dtype=kind, meta=np.empty((0,) * (x.ndim + 1), kind),
        new_axis=x.ndim - 2, chunks=(*x.chunks[:-2], (1 + f_y * f_x,), *x.chunks[-2:]),
    )  # fmt: skip


def _stacked(x: NDArray[Any], z: NDArray[Any], factor: tuple[int, int], kind: np.dtype[Any]) -> NDArray[Any]:
    return np.asarray(accompanied(x, z, factor).astype(kind, copy=False))


def cell_sums(fine: Any, factor: tuple[int, int]) -> Any:
    """Return sums over the fine cells of each coarse cell, added in a fixed order, for NumPy and Dask arrays."""
    f_y, f_x = factor
    columns = reduce(add, [fine[..., j::f_x] for j in range(f_x)])
    return reduce(add, [columns[..., i::f_y, :] for i in range(f_y)])


@dataclass(frozen=True, eq=False)
class CrossingWork:
    """Projects fine maps on the means of coarse cells that cross fine cells; ``mask`` is True for valid fine cells."""

    job: Job
    cells: SupermeshMean
    mask: NDArray[np.bool_] | None = None
    multiplicative: bool = False

    def __call__(self, z: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        """Return (..., n_fine_y, n_fine_x) for fine maps of this shape and coarse maps (..., n_y, n_x)."""
        job = self.job
        maps = replace_infinite(np.asarray(z), job.name, job.check).reshape(-1, *z.shape[-2:])
        means = replace_infinite(np.asarray(x), job.name, job.check).reshape(-1, *x.shape[-2:])
        out = np.empty(maps.shape, job.dtype)
        for index, (fine, coarse) in enumerate(zip(maps, means, strict=True)):
            out[index] = self._one(fine.astype(np.float64), coarse.astype(np.float64))
        return out.reshape(z.shape)

    def _one(self, z: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[Any]:
        job = self.job
        z = z if self.mask is None else np.where(self.mask, z, np.nan)
        x = np.where(self.cells.integral(np.ones(z.shape) if self.mask is None else self.mask) > 0, x, np.nan)
        area: Any = 1.0
        if job.extensive:
            # Sums are spread over the valid part of coarse cells with a value.
            covered = self.cells.adjoint(np.isfinite(x).astype(np.float64))
            valid = self.cells.integral(np.isfinite(z) & (covered > 0))
            area = np.where(covered > 0, covered, 1.0)
            z, x = z / area, x / np.where(valid > 0, valid, 1.0)
        low, high = job.limits
        outside = (x < low) | (x > high)
        if outside.any():
            rows, columns = (Cut(span, span, span) for span in (Span(0, n, n) for n in x.shape))
            report_infeasible(outside, x, job, rows, columns)
        stored = (project_crossing(z, x, self.cells, job.bounds, self.multiplicative) * area).astype(job.dtype)
        if job.check != "skip":
            self._require_means(stored.astype(np.float64) / area, x)
        return stored

    def _require_means(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> None:
        """Warn, or raise an error, if the stored values miss coarse means; means of no value at all are lost."""
        job, groups = self.job, self.cells.apply_mask(np.isfinite(y))
        means, sizes = groups.mean(np.nan_to_num(y)), groups.mean(np.nan_to_num(np.abs(y)))
        lost = int((np.isfinite(x) & np.isnan(means) & (self.cells.integral(np.ones(y.shape)) > 0)).sum())
        scale = np.maximum(np.abs(x), sizes)
        error = float(np.nan_to_num(np.abs(means - x) / np.where(scale > 0, scale, 1.0)).max(initial=0.0))
        if error <= job.tolerance and not lost:
            return
        remedy = "is the fine field finer than the coarse one, and complete?"
        if not lost and error <= default_tolerance(job.dtype):
            remedy = f"this is the rounding of {job.dtype}: pass a fine field in float64, or a larger tolerance"
        line = (
            f"{job.name}: expected the cell law within {job.tolerance:g}, received a largest relative error of "
            f"{error:.3g} and {lost} cells lost; {remedy}"
        )
        if job.check == "raise":
            raise ConservationError(line)
        if job.check == "warn":
            warnings.warn(line, UserWarning, stacklevel=2)
        else:
            logger.warning(line)
