"""What happens to one block: a compiled pass where there is one for it, else tensors (numpy; loads torch if needed)."""

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

    Where the up-scaler looks at several fields, these are the dimension before the rows, which the result lacks.

    ``statics`` are fine fields of the given cells: "orog" for the penalty, "terrain" to be added, "mask" (1 if valid).

    Raises
    ------
    ConservationError, BoundsError
        If a law does not hold in the result as stored, or cannot hold; ``job.check`` may turn these into a warning.
    """
    maps = finite(values.reshape(-1, *values.shape[-job.inner :]), job)
    shape = (len(maps), *job.block_shape(rows, columns))
    # Of an earlier block or result that is gone, if there is one.
    fine = leased(shape, job.dtype)
    if is_fused(job):
        from downscale.engine.fused import refine_maps

        refine_maps(maps, fine, job, rows, columns, statics or {}, threads)
    else:
        from downscale.engine.tensors import refine_maps as refine_tensors

        refine_tensors(maps, fine, job, rows, columns, statics or {})
    if job.conserve is None:
        # Elsewhere the cell law is checked, which infinite values break.
        require_finite(maps, fine, job)
    tell_negative(job.own(maps), fine, job)
    return fine.reshape(*values.shape[: -job.inner], *fine.shape[-2:])


def is_fused(job: Job) -> bool:
    """Return whether a job is one compiled pass: a product of two axes on the CPU, with no penalty to lower."""
    return isinstance(job.upscaler, SeparableOperator) and job.refinement is None and is_cpu(job.device)
