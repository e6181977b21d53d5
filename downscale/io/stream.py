"""Parallel writing of fields into the chunks of a NetCDF-4 file.

The library writes the file with everything except the values of the fields. These are then computed block by block.
Each block is split into storage chunks, shuffled, deflated and stored in the task that computed it, without gathering.
On a cluster, the workers do all but the storing.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.horizontal import area_names
from downscale.io.chunks import aligned, chunks_in, starts
from downscale.io.encoding import companions
from downscale.io.filters import Array, Layout, encoded, worth_compiling
from downscale.io.library import library, new_file
from downscale.process.computing import cluster, computed, elsewhere, here, threads_that_end

if TYPE_CHECKING:
    import h5py

FILTERS = ((), (1,), (2,), (2, 1))
VALUES = ("dtype", "_FillValue", "scale_factor", "add_offset")
# Bytes of a growing file between flushes to the disk, and interval of the test.
BEHIND_BYTES, PAUSE_SECONDS = 64_000_000, 0.02
# Blocks that a cluster computes ahead, per thread.
AHEAD = 2


@dataclass(frozen=True)
class Target:
    """One variable of the file, and the encoding of its values."""

    name: str
    layout: Layout
    dims: tuple[str, ...]
    encoding: dict[str, Any]
    blank: Any
    compiled: bool

    def chunk(self, values: Array) -> Array | bytes:
        """Return the stored bytes of one chunk."""
        if values.dtype != self.layout.dtype or "scale_factor" in self.encoding:
            values = stored_values(values, self.dims, self.encoding)
        return encoded(values, self.layout, self.blank, self.compiled)


class Sink:
    """A file that accepts encoded chunks, one at a time, from any thread."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self._known: dict[str, Any] = {}

    def put(self, name: str, offset: tuple[int, ...], data: Array | bytes) -> int:
        """Store a chunk; return its end in the file, unless the library reused free space."""
        with library(), plain_errors():
            self._field(name).write_direct_chunk(offset, data)
            return self.file.id.get_filesize()

    def place(self, name: str, offset: tuple[int, ...]) -> tuple[int, int] | None:
        """Return position and length of a chunk, or None if it is not stored; the library searches all chunks."""
        with library(), plain_errors():
            found = self._field(name).get_chunk_info_by_coord(offset)
        return None if found.byte_offset is None else (found.byte_offset, found.size)

    def _field(self, name: str) -> Any:
        # Looking up a name takes as long as storing a small chunk.
        if name not in self._known:
            self._known[name] = self.file[name].id
        return self._known[name]


def write_fields(
    path: Path, ds: xr.Dataset, encodings: Mapping[str, Mapping[str, Any]], unlimited: list[str], kind: str
) -> bool:
    """Write a whole file, its fields chunk by chunk; return False if only the library can write it."""
    names = skeleton(path, ds, encodings, unlimited, kind)
    if not names:
        return False
    with stored_in(path, ds, names, encodings) as (targets, sink):
        if not targets:
            return False
        with written_behind(path):
            store({target.name: ds[target.name].variable.data for target in targets}, targets, sink)
    return True


def skeleton(
    path: Path, ds: xr.Dataset, encodings: Mapping[str, Mapping[str, Any]], unlimited: list[str], kind: str
) -> list[str]:
    """Write the file without the values of its chunked fields; return their names, empty if this is not possible."""
    chunked = [str(n) for n in ds.data_vars if encodings.get(str(n), {}).get("chunksizes") is not None]
    # Areas of large grids are stored like fields.
    beside = {name for name in companions(ds) if ds[name].chunks is None or name not in area_names(ds)}
    names = [name for name in chunked if name not in beside]
    if not able() or any(dim in unlimited and dim not in ds.coords for name in names for dim in ds[name].dims):
        # Only the fields determine the length of such a dimension.
        return []
    if names:
        _skeleton(path, ds, encodings, unlimited, kind, names)
    return names


@contextmanager
def stored_in(
    path: Path, ds: xr.Dataset, names: list[str], encodings: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[list[Target], Sink]]:
    """Open a file for the chunks of its fields; no targets if the layout of one of them differs."""
    with _opened(path) as file:
        found = [_target(file[name], ds[name].variable, name, encodings[name]) for name in names]
        targets = [target for target in found if target is not None]
        targets = targets if len(targets) == len(names) else []
        for target in targets:
            if file[target.name].shape != target.layout.shape:
                file[target.name].resize(target.layout.shape)
        yield targets, Sink(file)


@contextmanager
def written_behind(path: Path) -> Iterator[None]:
    """Flush written data to the disk in the background and release the pages: fresh ones cost more than the work.

    This also keeps the page cache of a long file small, which batch systems count as memory.
    """
    if not hasattr(os, "posix_fadvise"):
        yield
        return
    handle, done = os.open(path, os.O_RDONLY), threading.Event()

    def follow() -> None:
        seen = 0
        while not done.wait(PAUSE_SECONDS):
            size = os.fstat(handle).st_size
            if size - seen >= BEHIND_BYTES:
                with suppress(OSError):
                    # Faults of the disk are reported when the file is flushed.
                    os.fdatasync(handle)
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                seen = size

    thread = threading.Thread(target=follow, name="written-behind", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        os.close(handle)


def able() -> bool:
    """Return whether the packages for encoding and storing chunks are installed."""
    try:
        import h5py
        import isal.isal_zlib
    except ImportError:
        return False
    return hasattr(h5py.h5d.DatasetID, "chunk_iter") and hasattr(isal.isal_zlib, "decompress")


def _skeleton(
    path: Path, ds: xr.Dataset, encodings: Mapping[str, Mapping[str, Any]], unlimited: list[str], kind: str,
    names: list[str],
) -> None:  # fmt: skip
    """Write the file without the values of some fields."""
    late = {}
    for name in names:
        v = ds[name].variable
        # A lazy array that is never computed, so that the library writes no values.
        late[name] = (v.dims, da.zeros(v.shape, dtype=v.dtype, chunks=-1), v.attrs, v.encoding)
    ready = in_memory(ds, [name for name in ds.variables if name not in late]).assign(late)
    own = {name: dict(encoding) for name, encoding in encodings.items()}
    with new_file(path, kind) as store, library():
        ready.dump_to_store(store, encoding=own, unlimited_dims=unlimited)


def in_memory(ds: xr.Dataset, names: Sequence[Hashable]) -> xr.Dataset:
    """Return a Dataset with some variables in memory: nothing may be computed while the library's lock is held."""
    lazy = [name for name in names if ds[name].variable.chunks]
    known = dict(zip(lazy, computed(*[ds[name].variable for name in lazy]), strict=True))
    ready = ds.copy()
    for name in names:
        if name not in known:
            ready.variables[name].load()
    ready = ready.assign_coords({n: v for n, v in known.items() if n in ds.coords})
    return ready.assign({n: v for n, v in known.items() if n not in ds.coords})


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    import h5py

    with library(), plain_errors():
        file = h5py.File(path, "r+", locking="best-effort")
    try:
        yield file
    finally:
        with library(), plain_errors():
            file.close()


@contextmanager
def plain_errors() -> Iterator[None]:
    """Convert the HDF5 library's message about a full or broken disk to the error of the operating system."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        found = re.search(r"errno = (\d+)", str(error))
        if found:
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        raise OSError(str(error).splitlines()[0]) from error


def layout_of(dataset: h5py.Dataset, shape: tuple[int, ...]) -> Layout | None:
    """Return the storage layout of a variable, or None if it has other filters or types."""
    listed = dataset.id.get_create_plist()
    filters = [listed.get_filter(i) for i in range(listed.get_nfilters())]
    codes = tuple(int(one[0]) for one in filters)
    if dataset.chunks is None or codes not in FILTERS or dataset.dtype.kind not in "fiu" or not dataset.dtype.isnative:
        return None
    level = int(filters[-1][2][0]) if 1 in codes else 0
    return Layout(shape, tuple(dataset.chunks), np.dtype(dataset.dtype), codes, level, dataset.fillvalue)


def _target(dataset: h5py.Dataset, variable: xr.Variable, name: str, encoding: Mapping[str, Any]) -> Target | None:
    layout = layout_of(dataset, variable.shape)
    if layout is None:
        return None
    own = {key: encoding[key] for key in VALUES if encoding.get(key) is not None}
    dims = tuple(str(dim) for dim in variable.dims)
    as_it_is = variable.dtype == layout.dtype and "scale_factor" not in own
    if not as_it_is and stored_values(np.zeros((1,) * variable.ndim, variable.dtype), dims, own).dtype != layout.dtype:
        return None
    blank = own.get("_FillValue") if as_it_is and layout.dtype.kind == "f" else None
    return Target(name, layout, dims, own, blank, worth_compiling(variable.size))


def stored_values(values: Array, dims: tuple[str, ...], encoding: Mapping[str, Any]) -> Array:
    """Return values as the library would store them: packed, filled, converted."""
    made = xr.conventions.encode_cf_variable(xr.Variable(dims, values, encoding=dict(encoding)))
    return np.asarray(made.data)


def store(fields: dict[str, Any], targets: list[Target], sink: Sink) -> None:
    """Compute all fields into the file."""
    client = cluster()
    far = [t for t in targets if client is not None and isinstance(fields[t.name], da.Array)]
    tasks = [
        _per_block(fields[t.name], t.name, t.layout.chunks, partial(_write_block, target=t, sink=sink))
        for t in targets if t not in far
    ]  # fmt: skip
    # An open file cannot be passed to other processes.
    with here() if elsewhere() else nullcontext(), threads_that_end():
        computed(*tasks)
    for t in far:
        encoding = _per_block(fields[t.name], t.name, t.layout.chunks, partial(_encode_block, target=t))
        _store_from(client, encoding, t.name, sink)


def _per_block(data: Any, name: str, sizes: tuple[int, ...], task: Callable[..., Array]) -> da.Array:
    """Return an array of the results of ``task``, one value per block."""
    blocks = aligned(data, sizes)
    return da.map_blocks(
        partial(task, chunks=blocks.chunks), blocks, chunks=tuple((1,) * n for n in blocks.numblocks), dtype=object,
        meta=np.empty((0,) * blocks.ndim, dtype=object), name=f"store-{name}-{os.urandom(8).hex()}",
    )  # fmt: skip


def encoded_chunks(
    block: Array, target: Target, chunks: Any, block_id: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...], Array | bytes]]:
    """Yield the first index of each storage chunk of a block, its slices, and its bytes."""
    begin = starts(chunks, block_id)
    for start, part in chunks_in(block.shape, target.layout.chunks):
        yield tuple(a + b for a, b in zip(begin, start, strict=True)), part, target.chunk(np.asarray(block[part]))


def _write_block(block: Array, *, target: Target, chunks: Any, sink: Sink, block_id: tuple[int, ...] = ()) -> Array:
    for offset, _, data in encoded_chunks(block, target, chunks, block_id):
        sink.put(target.name, offset, data)
    return np.full((1,) * block.ndim, None)


def _encode_block(block: Array, *, target: Target, chunks: Any, block_id: tuple[int, ...] = ()) -> Array:
    made = np.empty((1,) * block.ndim, dtype=object)
    stored = encoded_chunks(block, target, chunks, block_id)
    made[(0,) * block.ndim] = [(offset, bytes(data)) for offset, _, data in stored]
    return made


def _store_from(client: Any, tasks: da.Array, name: str, sink: Sink) -> None:
    """Store the chunks that the workers of a cluster encode, a bounded number of blocks ahead."""
    from distributed import as_completed

    waiting = list(tasks.to_delayed().ravel())[::-1]
    ahead = AHEAD * max(sum(client.nthreads().values()), 1)
    running = as_completed(with_results=True)
    futures: set[Any] = set()
    try:
        while waiting or futures:
            if len(futures) <= ahead // 2:
                batch = [waiting.pop() for _ in range(min(ahead - len(futures), len(waiting)))]
                sent = client.compute(batch)
                futures.update(sent)
                running.update(sent)
            future, made = next(running)
            for offset, data in made.item():
                sink.put(name, offset, data)
            futures.discard(future)
    finally:
        client.cancel(list(futures))
