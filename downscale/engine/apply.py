"""Application of a job to an array, block by block and lazily, by compiled loops or by tensors.

``dask.map_overlap`` trims halos by their coarse depth, which is wrong for upsampling. Blocks are therefore cut, wrapped
and trimmed here, with the integers of the plan.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize

from downscale.engine.checks import average_to_target, replace_infinite, require_finite, warn_of_negatives
from downscale.engine.cut import Cut, Span, cut_axis, cut_span
from downscale.engine.job import Job
from downscale.engine.limits import Limits, impose_limits
from downscale.process.buffers import allocate
from downscale.process.computing import compute, threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_LIMITS = Limits()
# Arrays in memory are processed in pieces of this many fine values, which bounds the working memory.
EAGER_BLOCK_VALUES = 8_000_000


def cuts_of(job: Job, y_chunks: tuple[int, ...], x_chunks: tuple[int, ...]) -> tuple[tuple[Cut, ...], tuple[Cut, ...]]:
    """Return the cuts of rows and columns for these chunks."""
    halo = job.upscaler.halo or (None, None)
    if job.target is not None:
        # Target cells cross coarse ones: maps are not split, and only cells under the target are computed.
        y, x = job.target
        row = cut_span(*y.coarse_range(), y.coarse.size, y.coarse.periodic, halo[0])
        return (row,), (cut_span(*x.coarse_range(), x.coarse.size, x.coarse.periodic, halo[1]),)
    rows = cut_axis(y_chunks, False, halo[0], job.margin[0], job.upscaler.multiple_of)
    columns = cut_axis(x_chunks, job.coarse.x.periodic, halo[1], job.margin[1], job.upscaler.multiple_of)
    return rows, columns


def apply(
    job: Job, values: Any, statics: dict[str, Any] | None = None, position: NDArray[np.int64] | None = None,
    limits: Limits = NO_LIMITS,
) -> Any:  # fmt: skip
    """Downscale ``values`` (..., n_y, n_x); a Dask array gives a Dask array, others are computed at once.

    ``statics`` are fields on the fine cells (or on the pieces). If the upsampler has several input fields, they are the
    dimension before the rows, which the result lacks. ``position``, of the shape of the leading dimensions, is that of
    the climatological pattern of each map in the static field "detail". ``limits`` are fields that bound the result,
    of its shape or of one map.
    """
    is_lazy = isinstance(values, da.Array) or any(isinstance(field, da.Array) for field in limits.given.values())
    if not is_lazy and job.is_compiled:
        return _apply_at_once(job, np.asarray(values), statics or {}, position, limits)
    is_array = isinstance(values, da.Array)
    array = values if is_array else da.from_array(values, chunks=_eager_chunks(values, job), name=False)
    fine_statics = {
        name: static if isinstance(static, da.Array) else da.from_array(np.asarray(static), chunks=-1)
        for name, static in (statics or {}).items()
    }
    rows, columns = cuts_of(job, array.chunks[-2], array.chunks[-1])
    # The job is one entry of the graph, sent once to each worker; blocks refer to it by name. Equal jobs share a name.
    # User-defined upsamplers are tokenised only if they have a method for it: Dask would pickle objects whose class is
    # defined in a notebook, which puts rebuilt methods into that class.
    kind = type(job.upscaler)
    has_token = kind.__module__.partition(".")[0] == __name__.partition(".")[0] or hasattr(kind, "__dask_tokenize__")
    token = tokenize_content(job) if has_token else uuid.uuid4().hex
    shared_job = dask.delayed(job, name=f"job-{job.name}-{token}", traverse=False)
    blocks = [
        [_block(job, shared_job, array, fine_statics, row, column, position, limits) for column in columns]
        for row in rows
    ]
    fine = blocks[0][0] if len(rows) * len(columns) == 1 else da.block(blocks)
    return fine if is_lazy else compute(fine)[0]


def _apply_at_once(
    job: Job, values: NDArray[Any], statics: dict[str, Any], position: NDArray[np.int64] | None, limits: Limits
) -> NDArray[Any]:
    """Return the fine cells of an array in memory, computed at once with its rows shared among threads."""
    (rows,), (columns,) = cuts_of(job, (values.shape[-2],), (values.shape[-1],))
    block = _take(values, rows, columns, (1, 1))
    factors = job.cells.factor_y, job.cells.factor_x
    block_statics = {name: _take(np.asarray(static), rows, columns, factors) for name, static in statics.items()}
    own = None if position is None else position.ravel()
    own_limits = {side: np.asarray(field) for side, field in limits.given.items()}
    return compute_block(block, job, rows, columns, block_statics, threads=threads(), position=own, **own_limits)


def compute_maps(
    values: NDArray[Any], job: Job, statics: dict[str, NDArray[Any]] | None = None,
    position: NDArray[np.int64] | None = None,
) -> NDArray[Any]:  # fmt: skip
    """Return the fine maps of whole coarse maps, as :func:`compute_block` does."""
    rows, columns = (Span(0, n, n) for n in job.coarse.shape)
    return compute_block(values, job, Cut(rows, rows, rows), Cut(columns, columns, columns), statics, position=position)


def compute_block(
    values: NDArray[Any],
    job: Job,
    rows: Cut,
    columns: Cut,
    statics: dict[str, NDArray[Any]] | None = None,
    threads: int = 1,
    position: NDArray[np.int64] | None = None,
    lower: NDArray[Any] | None = None,
    upper: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return the fine cells of the core of a block from its input ``values`` (..., rows, columns).

    ``statics`` are fine fields of the input cells: "orog" for the penalty, "terrain" to add, "mask" (1 if valid). If
    the upsampler has several input fields, they are the dimension before the rows, which the result lacks. ``lower``
    and ``upper`` are fields of the cells of the core that bound the result.
    """
    maps = replace_infinite(values.reshape(-1, *values.shape[-job.input_ndim :]), job.name, job.check)
    shape = (len(maps), *job.block_shape(rows, columns))
    # Reuse the memory of an earlier block or result, if there is any.
    fine = allocate(shape, job.dtype)
    if job.is_compiled:
        from downscale.engine.fused import refine_maps

        refine_maps(maps, fine, job, rows, columns, statics or {}, threads, position)
    else:
        from downscale.engine.tensors import refine_maps as refine_tensors

        refine_tensors(maps, fine, job, rows, columns, statics or {}, position)
    if job.conserve is None:
        # Otherwise the conservation check finds infinite values.
        require_finite(maps, fine, job)
    warn_of_negatives(job.select_variable(maps), fine, job)
    if lower is not None or upper is not None:
        impose_limits(fine, maps, Limits(lower, upper), job, rows, columns, threads)
    return fine.reshape(*values.shape[: -job.input_ndim], *fine.shape[-2:])


def _eager_chunks(values: NDArray[Any], job: Job) -> tuple[Any, ...]:
    """Return chunks of an array in memory, split along its first dimensions only."""
    budget = max(EAGER_BLOCK_VALUES // (job.fine.shape[0] * job.fine.shape[1]), 1)
    chunks: list[int] = []
    for size in reversed(values.shape[: -job.input_ndim]):
        chunks.append(min(size, budget) or 1)
        budget = max(budget // max(size, 1), 1)
    return (*reversed(chunks), *(-1,) * job.input_ndim)


def tokenize_content(*parts: object) -> str:
    """Return a token that is equal for equal content, and unique for content that Dask cannot tokenise."""
    try:
        return str(tokenize(*parts, ensure_deterministic=True))
    except Exception:  # user-defined objects may raise anything
        return uuid.uuid4().hex


def _block(
    job: Job, shared_job: Any, array: da.Array, statics: dict[str, da.Array], rows: Cut, columns: Cut,
    position: NDArray[np.int64] | None = None, limits: Limits = NO_LIMITS,
) -> da.Array:  # fmt: skip
    block = _take(array, rows, columns, (1, 1))
    block = block.rechunk(dict.fromkeys(range(block.ndim - job.input_ndim, block.ndim), -1))
    static_parts, static_names = {}, {}
    for name, static in statics.items():
        part = _take(static, rows, columns, (job.cells.factor_y, job.cells.factor_x)).rechunk(-1)
        static_parts[name], static_names[name] = part.to_delayed().item(), part.name
    height, width = job.block_shape(rows, columns)
    alongside = {} if position is None else {"position": _alongside(position, block, job)}
    for side, field in limits.given.items():
        alongside[side] = _limit_alongside(_core_cells(field, job, rows, columns), block, job)
    names = {name: part.name for name, part in alongside.items()}
    token = tokenize_content(shared_job.key, block.name, rows, columns, sorted(static_names.items()), names)
    out_chunks = (*block.chunks[: -job.input_ndim], (height,), (width,))
    return da.map_blocks(
        _compute_alongside if alongside else compute_block,
        block,
        *alongside.values(),
        **({"names": tuple(alongside)} if alongside else {}),
        job=shared_job,
        rows=rows,
        columns=columns,
        statics=static_parts,
        chunks=out_chunks,
        drop_axis=[] if job.input_count == 1 else [block.ndim - 3],
        dtype=job.dtype,
        meta=np.empty((0,) * len(out_chunks), dtype=job.dtype),
        name=f"downscale-{job.name}-{token}",
    )


def average(job: Job, pieces: Any) -> Any:
    """Return the values of target cells from those of their pieces, over whole maps."""
    (rows,), (columns,) = cuts_of(job, (job.coarse.shape[0],), (job.coarse.shape[1],))
    part, shape = _core_cells(pieces, job, rows, columns), job.block_shape(rows, columns)

    def to_target(values: NDArray[Any]) -> NDArray[Any]:
        return average_to_target(values, job, rows, columns)

    if not isinstance(part, da.Array):
        return to_target(part)
    part = part.rechunk({part.ndim - 2: -1, part.ndim - 1: -1})
    chunks = (*part.chunks[:-2], *((n,) for n in shape))
    return part.map_blocks(to_target, chunks=chunks, dtype=job.dtype, meta=np.empty((0,) * part.ndim, job.dtype))


def _alongside(position: NDArray[np.int64], block: da.Array, job: Job) -> da.Array:
    """Return the positions of patterns in chunks of maps like those of a block."""
    one = (1,) * job.input_ndim
    return da.from_array(position.reshape(*position.shape, *one), chunks=(*block.chunks[: -job.input_ndim], *one))


def _limit_alongside(field: Any, block: da.Array, job: Job) -> da.Array:
    """Return a limit of the cells of a block in chunks of maps like those of the block."""
    lead = block.chunks[: -job.input_ndim]
    array = field if isinstance(field, da.Array) else da.from_array(np.asarray(field), chunks=-1)
    array = da.broadcast_to(array, (*(sum(sizes) for sizes in lead), *array.shape[-2:]))
    array = array.rechunk((*lead, *((n,) for n in array.shape[-2:])))
    return array if job.input_count == 1 else array[..., None, :, :]


def _compute_alongside(values: NDArray[Any], *parts: NDArray[Any], names: tuple[str, ...], **settings: Any) -> Any:
    """Return the fine cells of a block with parts of other arrays: positions of patterns, and limits."""
    given: dict[str, Any] = dict(zip(names, parts, strict=True))
    if "position" in given:
        given["position"] = given["position"].ravel()
    for side in given.keys() & {"lower", "upper"}:
        given[side] = given[side].reshape(*values.shape[: -settings["job"].input_ndim], *given[side].shape[-2:])
    return compute_block(values, **given, **settings)


def _core_cells(fine: Any, job: Job, rows: Cut, columns: Cut) -> Any:
    """Return the fine cells of the core of a block from a whole fine field."""
    y, x = (
        slice(span.core.first * factor, span.core.last * factor)
        for span, factor in ((rows, job.cells.factor_y), (columns, job.cells.factor_x))
    )
    return fine[..., y, x]


def _take(array: Any, rows: Cut, columns: Cut, factors: tuple[int, int]) -> Any:
    """Return the input cells of a block, of ``factors`` fine cells each, joined across the seam of a periodic axis."""
    for axis, span, factor in zip((-2, -1), (rows.input, columns.input), factors, strict=True):
        if span.is_in_order:
            continue
        pieces = []
        for turn in (-1, 0, 1):
            low, high = max(span.first, turn * span.size), min(span.last, (turn + 1) * span.size)
            if low < high:
                part = slice((low - turn * span.size) * factor, (high - turn * span.size) * factor)
                pieces.append(array[(..., part) if axis == -1 else (..., part, slice(None))])
        join = da.concatenate if isinstance(array, da.Array) else np.concatenate
        array = pieces[0] if len(pieces) == 1 else join(pieces, axis=axis)
    return array
