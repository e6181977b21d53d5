"""Computation of one block, from lazy input to a checked file; workers receive only its description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from downscale.cf.times import time_encodings
from downscale.io.chunks import chunk_sizes
from downscale.options import set_options
from downscale.runs.recipe import Recipe, parse_recipe
from downscale.runs.retry import retried
from downscale.runs.seals import seal, sweep, unseal, verified
from downscale.runs.single import open_input, produce

# Smaller arrays are stored in one chunk.
SMALLEST = 1000


@dataclass(frozen=True)
class Work:
    """The description of one block for the process that computes it; small, and free of data.

    Attributes
    ----------
    recipe : str
        The recipe as JSON, with absolute paths.
    path : str
        The file to write.
    dim : str or None
        The dimension of time.
    start, stop, size, stride : int
        The steps of the block, those of the record, and a common divisor of the steps of blocks.
    request : str
        Fingerprint for the checksum file.
    judge : bool
        Whether there are means to check.
    resume : bool
        Keep the file if it verifies.
    options : mapping
        Package options, such as "max_memory".
    """

    recipe: str
    path: str
    dim: str | None
    start: int
    stop: int
    size: int
    stride: int
    request: str
    judge: bool
    resume: bool
    options: dict[str, Any] = field(default_factory=dict)


def carry_out(work: Work) -> dict[str, Any]:
    """Compute and write a block, unless its file verifies; return its report as plain values."""
    path = Path(work.path)
    span = (work.start, work.stop)
    if work.resume:
        facts = verified(path, work.request, span)
        if facts is not None:
            return {"kept": True, "report": facts["report"]}
    sweep([path])
    unseal(path)
    with set_options(**work.options):
        report = retried(_made, work)
    retried(seal, path, work.request, span, report)
    return {"kept": False, "report": report}


def carry_out_here(work: Work, threads: int) -> dict[str, Any]:
    """Do the same on a worker of a cluster, with its own threads; other threads could wait for this one."""
    how: dict[str, Any] = {"scheduler": "threads", "num_workers": threads}
    with dask.config.set(how if threads > 1 else {"scheduler": "synchronous"}), _no_bar():
        return carry_out(work)


@contextmanager
def _no_bar() -> Iterator[None]:
    with set_options(progress="off"):
        yield


def _made(work: Work) -> dict[str, Any] | None:
    recipe = _recipe(work.recipe)
    coarse = piece(_opened(work.recipe, work.request), work.dim, work.start, work.stop)

    def encode(fine: xr.Dataset) -> dict[str, dict[str, Any]]:
        return encodings_of(fine, work, recipe.output.encoding or {})

    report = produce(coarse, recipe, work.path, work.judge, overwrite=True, encode=encode)
    return None if report is None else report.to_dict()


@lru_cache(maxsize=1)
def _recipe(text: str) -> Recipe:
    return parse_recipe(json.loads(text))


@lru_cache(maxsize=1)
def _opened(text: str, request: str) -> xr.Dataset:
    """Return the lazy input, opened once per process. ``request`` changes with the files."""
    recipe = _recipe(text)
    return open_input(recipe.input.path, recipe.input.chunks)


def piece(ds: xr.Dataset, dim: str | None, start: int, stop: int) -> xr.Dataset:
    """Return some steps of a record; its times are stored with the encoding of the whole record."""
    if dim is None or (start, stop) == (0, ds.sizes[dim]):
        return ds
    part = ds.isel({dim: slice(start, stop)})
    part.encoding = dict(ds.encoding)
    for name, encoding in time_encodings(ds).items():
        part[name].encoding = {**part[name].encoding, **encoding}
    return part


def encodings_of(fine: xr.Dataset, work: Work, asked: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return encodings in which the storage chunks of all blocks are those of the whole record."""
    made = {name: dict(own) for name, own in asked.items()}
    if work.dim is None:
        return made
    length = work.stop - work.start
    for name, array in fine.data_vars.items():
        own = made.get(str(name), {})
        if work.dim not in array.dims or array.ndim < 2 or array.dtype.kind not in "fiu":
            continue
        axis = array.dims.index(work.dim)
        if "chunksizes" in own:
            sizes = list(own["chunksizes"])
        elif array.size > SMALLEST:
            shape = tuple(work.size if i == axis else n for i, n in enumerate(array.shape))
            blocks = tuple((work.stride, 1) if i == axis else (n,) for i, n in enumerate(array.shape))
            sizes = list(chunk_sizes(shape, blocks))
        else:
            continue
        if len(sizes) == array.ndim and isinstance(sizes[axis], int | np.integer):
            sizes[axis] = min(int(sizes[axis]), length)
        made[str(name)] = {**own, "chunksizes": tuple(sizes)}
    return made


def forget() -> None:
    """Close the input that this process keeps open between blocks."""
    _opened.cache_clear()
    _recipe.cache_clear()
