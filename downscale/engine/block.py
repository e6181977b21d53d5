"""Computation of one block, by the compiled kernel if possible, else by tensors."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from downscale.engine.checks import finite, require_finite, tell_negative
from downscale.engine.cut import Cut
from downscale.engine.device import is_cpu
from downscale.engine.job import Job
from downscale.process.buffers import leased
from downscale.typing import SeparableOperator


def compute_block(
    values: NDArray[Any],
    job: Job,
    rows: Cut,
    columns: Cut,
    statics: dict[str, NDArray[Any]] | None = None,
    threads: int = 1,
) -> NDArray[Any]:
    """Downscale the block ``values`` (..., given rows, given columns) to its own fine cells.

    If the upsampler has several input fields, they are the dimension before the rows, which the result lacks.

    ``statics`` are fine fields of the given cells: "orog" for the penalty, "terrain" to add, "mask" (1 if valid).

    Raises
    ------
    ConservationError, BoundsError
        If conservation or bounds fail in the result as stored, or cannot be satisfied; ``job.check`` may turn errors
        into warnings.
    """
    maps = finite(values.reshape(-1, *values.shape[-job.inner :]), job)
    shape = (len(maps), *job.block_shape(rows, columns))
    # Reuse the memory of an earlier block or result, if there is any.
    fine = leased(shape, job.dtype)
    if is_fused(job):
        from downscale.engine.fused import refine_maps

        refine_maps(maps, fine, job, rows, columns, statics or {}, threads)
    else:
        from downscale.engine.tensors import refine_maps as refine_tensors

        refine_tensors(maps, fine, job, rows, columns, statics or {})
    if job.conserve is None:
        # Otherwise the conservation check finds infinite values.
        require_finite(maps, fine, job)
    tell_negative(job.own(maps), fine, job)
    return fine.reshape(*values.shape[: -job.inner], *fine.shape[-2:])


def is_fused(job: Job) -> bool:
    """Return whether the compiled kernel computes a job: a product of two axes on the CPU without terrain penalty."""
    return isinstance(job.upscaler, SeparableOperator) and job.refinement is None and is_cpu(job.device)
