"""Computation of the blocks of a run, locally or on a cluster; it can be stopped at any time and resumed.

A block is computed from lazy input to a checked file with a manifest. When blocks are merged, each must have its
checksum, and the merged file is read back and compared with them byte for byte.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial, reduce
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from downscale.api import downscale_request
from downscale.cf.horizontal import ParsedGrids, share_grids
from downscale.cf.times import time_encodings
from downscale.conservation.report import ConservationReport, VariableReport
from downscale.errors import DownscaleError, OptionError
from downscale.io.chunks import chunk_sizes
from downscale.io.leases import lock_output, require_no_run
from downscale.io.merge import merge_files
from downscale.io.store_merge import merge_stores, store_layout
from downscale.options import get_options, option, set_options
from downscale.output import to_netcdf, to_zarr
from downscale.process.interrupts import Stopped, Terminated, raise_if_signalled, signal_word, use_end_message
from downscale.runs.blocks import BlockPlan, make_paths_absolute, require_later, split_name, stride
from downscale.runs.clusters import client_of, compute_on_cluster, profile_of
from downscale.runs.manifest import (
    checked_store,
    clear,
    read_checksum,
    read_manifest,
    remove_manifest,
    sweep,
    write_manifest,
)
from downscale.runs.recipe import Recipe, parse_recipe
from downscale.runs.single import STORE, build_request, check_options, fields_to_check, open_input
from downscale.steps.detail import share_tables

Callback = Callable[[], None]
# Smaller arrays are stored in one chunk.
SMALLEST = 1000
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
# Stale handles, broken transfers and busy files are transient; lack of space or permission is not.
TRANSIENT = {errno.ESTALE, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT}
TRANSIENT.add(getattr(errno, "EREMOTEIO", errno.EIO))
REPORT_FIELDS = [attribute.name for attribute in fields(VariableReport)]
COUNTS = ("cells_checked", "cells_masked", "cells_lost", "cells_invented", "values_out_of_bounds", "near_checked",
          "near_failed", "cells_with_gaps", "negative_values", "values_out_of_order", "cells_out_of_order")  # fmt: skip


def downscale_to_file(
    coarse: xr.Dataset, recipe: Recipe, path: str | Path, check: bool, *, overwrite: bool, encode: Any = None
) -> ConservationReport | None:
    """Downscale a Dataset and write it to ``path``; return the check report of the written file, or None.

    ``encode`` maps the result to the ``encoding`` of its storage; by default the recipe sets it.
    """
    fine: Any = downscale_request(coarse, build_request(recipe))
    coarse_fields = fields_to_check(coarse, recipe) if check else None
    encoding = recipe.output.encoding if encode is None else encode(fine)
    output = recipe.output
    is_store = str(path).endswith(STORE)
    write: Any = partial(to_zarr, zarr_format=output.zarr_format) if is_store else to_netcdf
    return write(  # type: ignore[no-any-return]
        fine, path, coarse=coarse_fields, overwrite=overwrite, complevel=output.complevel, packing=output.packing,
        profile=output.profile, attrs=output.attrs, encoding=encoding, **check_options(recipe),
    )  # fmt: skip


@dataclass(frozen=True)
class BlockOptions:
    """Options for the computation of blocks.

    ``resume`` keeps blocks that verify; ``cluster`` is a profile of the recipe, "local", "slurm", "pbs", a cluster of
    GPUs, or an address; ``workers`` is the number of workers of a cluster that is started here; ``block`` selects one.
    """

    resume: bool = False
    cluster: str | None = None
    workers: int | None = None
    block: int | None = None


@dataclass
class Result:
    """Check report and files of a run, and the number of blocks and of those that were kept."""

    conservation: ConservationReport | None
    files: list[Path] = field(default_factory=list)
    count: int = 0
    kept: int = 0


@dataclass(frozen=True)
class BlockTask:
    """The description of one block for the process that computes it; small, and free of data.

    ``recipe`` is JSON with absolute paths; ``start`` and ``stop`` are the steps of the block along ``dim``, ``size``
    those of the record, ``stride`` a common divisor of the steps of blocks; ``fingerprint`` is that of the
    request; ``check`` is whether there are means to check; ``store`` is the store to which the block is appended.
    """

    recipe: str
    path: str
    dim: str | None
    start: int
    stop: int
    size: int
    stride: int
    fingerprint: str
    check: bool
    resume: bool
    store: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def block_task(
    blocks: BlockPlan, index: int, recipe: Recipe, resume: bool, package_options: dict[str, Any]
) -> BlockTask:
    """Return the description of a block for the process that computes it."""
    block = blocks.blocks[index]
    return BlockTask(
        recipe=recipe.model_dump_json(by_alias=True, exclude={"dask"}, exclude_unset=True),
        path=str(blocks.paths[index]), dim=blocks.record.dim, start=block.start, stop=block.stop,
        size=blocks.record.size, stride=stride(blocks.blocks), fingerprint=blocks.fingerprint, check=blocks.check,
        resume=resume, store=None if blocks.existing_store is None else os.path.abspath(blocks.target),
        options=package_options,
    )  # fmt: skip


def choose_blocks(blocks: BlockPlan, options: BlockOptions) -> list[int]:
    """Return the indices of the selected blocks; raises OptionError if the number is not that of a block."""
    indices = list(range(len(blocks.blocks)))
    if options.block is not None and options.block not in indices:
        raise OptionError(f"expected a block from 0 to {indices[-1]}, received {options.block}")
    return indices if options.block is None else [options.block]


def run_blocks(recipe: Recipe, blocks: BlockPlan, names: Iterable[str], options: BlockOptions) -> Result:
    """Compute all missing blocks, merge them if requested, and return the report; ``names`` are the variables.

    If a signal, a lost cluster or an invalid block ends the run, finished blocks are kept.
    """
    indices = choose_blocks(blocks, options)
    if options.resume and blocks.merge:
        manifest = read_manifest(blocks.target, blocks.fingerprint, blocks.span)
        if manifest is not None:
            _remove_blocks(blocks)
            return Result(parse_report(manifest["report"]), [blocks.target], len(indices), len(indices))
    previous = ""
    if blocks.existing_store is not None:
        previous = checked_store(blocks.existing_store)
        require_later(blocks)
    with _report_early_end(blocks):
        sweep([*(blocks.paths[i] for i in indices), *([] if options.block is not None else [blocks.target])])
        entries = _compute_blocks(recipe, blocks, options, indices)
        report = merge_reports(parse_report(entry["report"]) for entry in entries)
        if blocks.merge and options.block is None and blocks.paths != [blocks.target]:
            _merge(recipe, blocks, names, report, previous)
    files = blocks.outputs if options.block is None else [blocks.paths[options.block]]
    return Result(report, files, len(entries), sum(entry["kept"] for entry in entries))


@contextmanager
def lock_outputs(blocks: BlockPlan, options: BlockOptions) -> Iterator[None]:
    """Lock all blocks, or one, against other runs, or raise OutputError; remove the folder of blocks if it is empty."""
    # The folder of the result exists before that of the blocks.
    names = [blocks.target.with_name(path.name) for path in blocks.paths]
    own_name, other_names = (blocks.target, names) if options.block is None else (names[options.block], [blocks.target])
    with lock_output(own_name):
        for name in other_names:
            if name != own_name or options.block is not None:
                require_no_run(name)
        try:
            yield
        finally:
            if options.block is None:
                with suppress(OSError):
                    blocks.folder.rmdir()


@contextmanager
def _report_early_end(blocks: BlockPlan) -> Iterator[None]:
    """Report the progress of a run that ends early, and remove incomplete files."""

    def message() -> str:
        sweep([*blocks.paths, blocks.target])
        count = len(blocks.blocks)
        subject = "block is" if count == 1 else "blocks are"
        return f"{blocks.finished_count} of {count} {subject} done; run again with --resume"

    try:
        with use_end_message(message):
            yield
    except (KeyboardInterrupt, Terminated) as signal:
        raise Stopped(f"{signal_word(signal)}; {message()}") from None
    except Stopped as error:
        raise Stopped(f"{error}; {message()}") from None
    except DownscaleError as error:
        if len(blocks.blocks) == 1:
            message()
            raise
        raise type(error)(f"{error}; {message()} once that is fixed") from error
    except OSError as error:
        raise Stopped(f"{type(error).__name__}: {error}; {message()} once that is fixed") from error
    finally:
        # Close the input that this process keeps open between blocks.
        _shared_state.cache_clear()


def _compute_blocks(
    recipe: Recipe, blocks: BlockPlan, options: BlockOptions, indices: list[int]
) -> list[dict[str, Any]]:
    """Compute the selected blocks, and return their check reports as plain values."""
    cluster = options.cluster or ("local" if (options.workers or 1) > 1 and recipe.dask.use is None else None)
    profile = profile_of(cluster, recipe.dask)
    package_options = {name: value for name, value in get_options().items() if name != "progress"}
    if profile is None:
        tasks = [block_task(blocks, i, recipe, options.resume, package_options) for i in indices]
        # Options change when they are set, which the bar of blocks must precede.
        with show_progress(len(tasks), "blocks") as advance:
            with set_options(progress="off") if len(tasks) > 1 else nullcontext():
                return [_compute_here(task, advance) for task in tasks]
    tasks = [block_task(blocks, i, make_paths_absolute(recipe), options.resume, package_options) for i in indices]
    tasks = [replace(task, path=os.path.abspath(task.path)) for task in tasks]
    keys = [f"block-{i}-{task.fingerprint[:12]}" for i, task in enumerate(tasks)]
    with show_progress(len(tasks), "blocks") as advance, client_of(profile, options.workers) as client:
        return compute_on_cluster(client, compute_on_worker, tasks, keys, advance)


def _compute_here(task: BlockTask, advance: Callback) -> dict[str, Any]:
    entry = compute_block_file(task)
    advance()
    raise_if_signalled()
    return entry


@contextmanager
def show_progress(count: int, what: str) -> Iterator[Callback]:
    """Yield a function to call after each task, which advances a progress bar on a terminal."""
    setting = option("progress")
    if count == 1 or setting == "off" or (setting == "auto" and not sys.stderr.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=count)
        yield lambda: progress.advance(task)


def _merge(
    recipe: Recipe, blocks: BlockPlan, names: Iterable[str], report: ConservationReport | None, previous: str
) -> None:  # fmt: skip
    """Merge the blocks, write the manifest of the merged file and remove the blocks.

    ``previous`` is the checksum of the store to which they are appended, if any.
    """
    packing = recipe.output.packing
    packings = dict(packing) if isinstance(packing, dict) else dict.fromkeys(names, packing) if packing else {}
    values = None if report is None else report.to_dict()
    # Read from the files: a cluster may compute a block again after it has returned the result.
    checksums = [read_checksum(path) for path in blocks.paths]
    arguments = blocks.paths, blocks.target, blocks.record.dim, checksums, report, packings
    if blocks.is_store:
        # Before the last renaming: a store that is complete has its manifest, and is not extended twice.
        seal = partial(write_manifest, blocks.target, blocks.fingerprint, blocks.span, values, previous)
        retry(merge_stores, *arguments, append=blocks.append, finish=seal)
    else:
        remove_manifest(blocks.target)
        retry(merge_files, *arguments)
        retry(write_manifest, blocks.target, blocks.fingerprint, blocks.span, values)
    _remove_blocks(blocks)


def _remove_blocks(blocks: BlockPlan) -> None:
    """Remove merged blocks, and those of an earlier run with another division into blocks."""
    stem, suffix = split_name(blocks.target)
    clear(blocks.folder, [*blocks.folder.glob(f"{glob.escape(stem)}_*{suffix}")])


# One block.


@contextmanager
def use_worker_threads() -> Iterator[None]:
    """Compute with the own threads of this worker of a cluster; other threads could wait for this one."""
    from distributed import get_worker

    threads = get_worker().state.nthreads
    settings: dict[str, Any] = {"scheduler": "threads", "num_workers": threads}
    with dask.config.set(settings if threads > 1 else {"scheduler": "synchronous"}), set_options(progress="off"):
        yield


def compute_on_worker(task: BlockTask) -> dict[str, Any]:
    """Compute a block on this worker of a cluster."""
    with use_worker_threads():
        return compute_block_file(task)


def compute_block_file(task: BlockTask) -> dict[str, Any]:
    """Compute and write a block, unless its file verifies; return its report as plain values."""
    path, span = Path(task.path), (task.start, task.stop)
    if task.resume:
        manifest = read_manifest(path, task.fingerprint, span)
        if manifest is not None:
            return {"kept": True, "report": manifest["report"]}
    sweep([path])
    remove_manifest(path)
    shared = _shared_state(task.fingerprint)
    with set_options(**task.options), share_grids(shared["grids"]), share_tables(shared["tables"]):
        report = retry(_write_block, task)
    retry(write_manifest, path, task.fingerprint, span, report)
    return {"kept": False, "report": report}


def _write_block(task: BlockTask) -> dict[str, Any] | None:
    shared = _shared_state(task.fingerprint)
    recipe = parse_recipe(json.loads(task.recipe))
    if "input" not in shared:
        shared["input"] = open_input(recipe.input.path, recipe.input.chunks)
    if "layout" not in shared:
        shared["layout"] = {} if task.store is None else store_layout(Path(task.store), str(task.dim))
    coarse = cut_steps(shared["input"], task.dim, task.start, task.stop, shared["layout"])

    def encode(fine: xr.Dataset) -> dict[str, dict[str, Any]]:
        chunks = {name: layout for name, layout in shared["layout"].items() if _has_chunks(fine, name, layout, task)}
        return block_encodings(fine, task, {**chunks, **(recipe.output.encoding or {})})

    report = downscale_to_file(coarse, recipe, task.path, task.check, overwrite=True, encode=encode)
    return None if report is None else report.to_dict()


def _has_chunks(fine: xr.Dataset, name: str, layout: Mapping[str, Any], task: BlockTask) -> bool:
    """Return whether the chunks of the store to which a block is appended fit into the block, but for its length."""
    sizes = layout.get("chunksizes")
    if sizes is None or name not in fine or fine[name].ndim != len(sizes):
        return False
    return all(n <= fine.sizes[dim] or dim == task.dim for n, dim in zip(sizes, fine[name].dims, strict=True))


@lru_cache(maxsize=1)
def _shared_state(fingerprint: str) -> dict[str, Any]:
    """Return what blocks of a run share in this process: grids, climatologies, and the input once it is open."""
    return {"grids": ParsedGrids(), "tables": {}}


def cut_steps(
    ds: xr.Dataset, dim: str | None, start: int, stop: int, layout: Mapping[str, Mapping[str, Any]] | None = None
) -> xr.Dataset:
    """Return some steps of a record; its times have the encoding of the whole record, or that in ``layout``."""
    if dim is None or ((start, stop) == (0, ds.sizes[dim]) and not layout):
        return ds
    part = ds.isel({dim: slice(start, stop)})
    part.encoding = dict(ds.encoding)
    for name, encoding in time_encodings(ds).items():
        part[name].encoding = {**part[name].encoding, **encoding, **(layout or {}).get(name, {})}
    return part


def block_encodings(
    fine: xr.Dataset, task: BlockTask, encodings: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return encodings in which the storage chunks of all blocks are those of the whole record."""
    encodings = dict(encodings)
    for name, array in fine.data_vars.items() if task.dim is not None else ():
        encoding = encodings.get(str(name), {})
        is_small = "chunksizes" not in encoding and array.size <= SMALLEST
        if task.dim not in array.dims or array.ndim < 2 or array.dtype.kind not in "fiu" or is_small:
            continue
        axis = array.dims.index(task.dim)
        shape: list[int] = list(array.shape)
        lengths: list[tuple[int, ...]] = [(n,) for n in shape]
        shape[axis], lengths[axis] = task.size, (task.stride, 1)
        sizes = list(encoding.get("chunksizes") or chunk_sizes(tuple(shape), tuple(lengths)))
        if len(sizes) == array.ndim and isinstance(sizes[axis], int | np.integer):
            sizes[axis] = min(int(sizes[axis]), task.stop - task.start)
        encodings[str(name)] = {**encoding, "chunksizes": tuple(sizes)}
    return encodings


# Check reports of blocks.


def parse_report(facts: dict[str, Any] | None) -> ConservationReport | None:
    """Return the report of the values of :meth:`~downscale.conservation.report.ConservationReport.to_dict`."""
    if facts is None:
        return None
    return ConservationReport({
        name: VariableReport(**{key: _parse(values[key]) for key in REPORT_FIELDS if key in values})
        for name, values in facts["variables"].items()
    })  # fmt: skip


def _parse(value: Any) -> Any:
    """Return a value of JSON, which has no tuples."""
    return tuple(value) if isinstance(value, list) else value


def merge_reports(reports: Iterable[ConservationReport | None]) -> ConservationReport | None:
    """Return one report for several pieces of a record: the largest errors, and the sums of the counts."""
    available = [report.variables for report in reports if report is not None]
    names = dict.fromkeys(name for variables in available for name in variables)
    merged = {name: reduce(_merge_pair, (variables[name] for variables in available if name in variables))
              for name in names}  # fmt: skip
    return ConservationReport(merged) if available else None


def _merge_pair(first: VariableReport, second: VariableReport) -> VariableReport:
    relative = max(first, second, key=lambda report: report.max_relative_error)
    absolute = max(first, second, key=lambda report: report.max_absolute_error)
    nearest = max(first, second, key=lambda report: report.near_error)
    worst = {name: max(getattr(first, name), getattr(second, name))
             for name in ("near_bound", "global_error", "tolerance", "cells_outside")}  # fmt: skip
    counts = {name: getattr(first, name) + getattr(second, name) for name in COUNTS}
    return replace(
        first, **worst, **counts,
        near_error=nearest.near_error, where_near=nearest.where_near,
        max_relative_error=relative.max_relative_error, where_relative=relative.where_relative,
        max_absolute_error=absolute.max_absolute_error, where_absolute=absolute.where_absolute,
        where_out_of_order=first.where_out_of_order or second.where_out_of_order,
    )  # fmt: skip


# Transient errors of shared file systems.


def is_transient(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, is transient; full disks and invalid requests are not.

    Examples
    --------
    >>> is_transient(OSError(errno.ESTALE, "stale")), is_transient(OSError(errno.ENOSPC, "full"))
    (True, False)
    """
    fault = next((cause for cause in _causes(error) if isinstance(cause, OSError)), None)
    return fault is not None and (isinstance(fault, TimeoutError) or fault.errno in TRANSIENT)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    ids: set[int] = set()
    while error is not None and id(error) not in ids:
        ids.add(id(error))
        yield error
        # The context is the original error, even if it is suppressed in tracebacks.
        error = error.__cause__ or error.__context__


def retry(task: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return ``task(*arguments, **options)``, tried again a few times with growing waits after transient errors."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        retry=retry_if_exception(is_transient),
        before_sleep=_print_retry,
        reraise=True,
    )
    return retrying(task, *arguments, **options)


def _print_retry(state: Any) -> None:
    error = " ".join(str(state.outcome.exception()).split())
    wait = state.next_action.sleep
    print(f"downscale: {error}; trying again in {wait:.0f} s ({state.attempt_number} of {ATTEMPTS})", file=sys.stderr)
