"""Parallel writing of fields into the chunks of a NetCDF-4 file, read back and checked while they are written.

The library writes the file with everything except the values of the fields. These are then computed block by block.
Each block is split into storage chunks, shuffled, deflated and stored in the task that computed it, without gathering.
On a cluster, the workers do all but the storing.

Reading the whole file after writing takes the disk as long as writing it. For a check, each block is therefore read
back at once from its positions in the file, by the task that computed it. When the file is closed, its index must name
the same positions, and the NetCDF library must read the same values from some of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.coordinates import area_names
from downscale.errors import OutputError
from downscale.io.chunks import align_blocks, block_start, chunks_in
from downscale.io.encoding import companions
from downscale.io.filters import Array, Layout, able, encode_chunk, layout_of, worth_compiling
from downscale.io.library import dump, hdf5_file, library, new_file, reading, writing_errors
from downscale.io.reread import Place, Source, open_handle, require_same, source_of, sources_in
from downscale.process.buffers import allocate
from downscale.process.computing import cluster, computed, elsewhere, here, threads_that_end

if TYPE_CHECKING:
    import h5py

T = TypeVar("T")
VALUES = ("dtype", "_FillValue", "scale_factor", "add_offset")
# Bytes of a growing file between flushes to the disk, and interval of the test.
BEHIND_BYTES, PAUSE_SECONDS = 64_000_000, 0.02
# Blocks that a cluster computes ahead, per thread.
AHEAD = 2
# Bytes compared at both ends of a chunk to confirm its position.
ENDS = 64


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
        return encode_chunk(values, self.layout, self.blank, self.compiled)

    def chunks(self, block: Array, chunks: Any, block_id: tuple[int, ...]) -> Iterator[Any]:
        """Yield the first index of each storage chunk of a block, its slices within the block, and its bytes."""
        begin = block_start(chunks, block_id)
        for start, part in chunks_in(block.shape, self.layout.chunks):
            yield tuple(a + b for a, b in zip(begin, start, strict=True)), part, self.chunk(np.asarray(block[part]))


@dataclass(eq=False)
class Sink:
    """A file that accepts encoded chunks, one at a time, from any thread."""

    file: h5py.File
    # Looking up a name takes as long as storing a small chunk.
    _known: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, offset: tuple[int, ...], data: Array | bytes) -> int:
        """Store a chunk; return its end in the file, unless the library reused free space."""
        with library(), writing_errors():
            self._field(name).write_direct_chunk(offset, data)
            return self.file.id.get_filesize()

    def place(self, name: str, offset: tuple[int, ...]) -> Place | None:
        """Return position and length of a chunk, or None if it is not stored; the library searches all chunks."""
        with library(), writing_errors():
            info = self._field(name).get_chunk_info_by_coord(offset)
        return None if info.byte_offset is None else (info.byte_offset, info.size)

    def _field(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = self.file[name].id
        return self._known[name]


@dataclass(frozen=True)
class Passage:
    """One field on its way to the file and back."""

    target: Target
    source: Source
    sink: Sink

    def is_whole(self) -> bool:
        """Return whether all chunks are stored."""
        layout = self.target.layout
        counts = (-(-n // size) for n, size in zip(layout.shape, layout.chunks, strict=True))
        return len(self.source.places) == np.prod(list(counts))

    def block(self, block: Array, *, chunks: Any, block_id: tuple[int, ...] = ()) -> Array:
        """Store a block, and return it as read back from the file."""
        out = allocate(block.shape, self.target.layout.dtype)
        for offset, part, data in self.target.chunks(block, chunks, block_id):
            place = self._put(offset, data)
            self.source.read_chunk(offset, place, out[part])
            self.source.places[offset] = place
        return self.source.decode(out)

    def _put(self, offset: tuple[int, ...], data: Array | bytes) -> Place:
        """Store a chunk and return its position.

        The library is asked only if the bytes at the end differ: asking takes longer the more chunks there are.
        """
        raw = np.frombuffer(data, np.uint8)
        size = raw.size
        first = self.sink.put(self.target.name, offset, data) - size
        ends = (0, min(ENDS, size)), (max(size - ENDS, 0), size)
        handle = self.source.handle
        if first >= 0 and all(os.pread(handle, b - a, first + a) == raw[a:b].tobytes() for a, b in ends):
            return first, size
        chunk_place = self.sink.place(self.target.name, offset)
        if chunk_place is None:
            raise self.source.chunk_error(offset, "no chunk")
        return chunk_place

    def array(self, data: Any) -> da.Array:
        """Return the field as stored, lazily; computing it writes it."""
        blocks = align_blocks(data, self.target.layout.chunks)
        return da.map_blocks(
            partial(self.block, chunks=blocks.chunks), blocks, dtype=self.source.dtype,
            meta=np.empty((0,) * blocks.ndim, dtype=self.source.dtype),
            name=f"through-{self.target.name}-{os.urandom(8).hex()}",
        )  # fmt: skip


def write_fields(
    path: Path, ds: xr.Dataset, encodings: Mapping[str, Mapping[str, Any]], unlimited: list[str], kind: str
) -> bool:
    """Write a whole file of a format, its fields chunk by chunk; return False if only the library can write it."""
    names = _write_frame(path, ds, encodings, unlimited, kind)
    if not names:
        return False
    with _fields_of_file(path, ds, names, encodings) as (targets, sink):
        if targets:
            with written_behind(path):
                store({target.name: ds[target.name].variable.data for target in targets}, targets, sink)
    return bool(targets)


def write_and_check(
    path: Path, ds: xr.Dataset, encodings: Mapping[str, Mapping[str, Any]], unlimited: list[str], kind: str,
    check: Callable[[xr.Dataset], T],
) -> T | None:  # fmt: skip
    """Write a whole file and return the result of ``check`` on it, or None if it can only be checked afterwards.

    Raises an OutputError if the file's index or the NetCDF library disagrees with the values read.
    """
    # Blocks of other processes are stored here, and cannot be read back where they are computed.
    names = [] if elsewhere() else _write_frame(path, ds, encodings, unlimited, kind)
    if not names:
        return None
    with reading(path, decode_coords="all") as written:
        frame = written.drop_vars(names).load()
        variables = {name: written[name].variable for name in names}
    with _fields_of_file(path, ds, names, encodings) as (targets, sink), open_handle(path) as handle:
        sources = [source_of(variables[t.name], t.name, t.layout, handle, {}) for t in targets]
        passages = [Passage(t, s, sink) for t, s in zip(targets, sources, strict=True) if s is not None]
        if len(passages) < len(names):
            return None
        variables_by_name = {}
        for passage in passages:
            variable, data = variables[passage.target.name], ds[passage.target.name].variable.data
            variables_by_name[passage.target.name] = (
                variable.dims,
                passage.array(data),
                variable.attrs,
                variable.encoding,
            )
        with written_behind(path), threads_that_end():
            result = check(frame.assign(variables_by_name))
            incomplete = [passage.target for passage in passages if not passage.is_whole()]
            if incomplete:
                store({target.name: ds[target.name].variable.data for target in incomplete}, incomplete, sink)
    _require_places(path, [passage.source for passage in passages])
    return result


def _require_places(path: Path, sources: list[Source]) -> None:
    """Compare the positions read with those in the closed file, and some values with the library's."""
    with reading(path, chunks={}, decode_coords="all") as written, open_handle(path) as handle:
        sources_by_name = {
            stored.name: stored for stored in sources_in(written, [source.name for source in sources], path, handle)
        }
        for source in sources:
            stored = sources_by_name.get(source.name)
            if stored is None or any(stored.places.get(offset) != place for offset, place in source.places.items()):
                raise OutputError(
                    f"{source.name}: expected its chunks where they were written, received others from the index of "
                    "the file; check the disk, write again"
                )
            require_same(written[source.name].variable, stored)


def _write_frame(
    path: Path, ds: xr.Dataset, encodings: Mapping[str, Mapping[str, Any]], unlimited: list[str], kind: str
) -> list[str]:
    """Write the file without the values of its chunked fields; return their names, empty if this is not possible."""
    chunked = [str(n) for n in ds.data_vars if encodings.get(str(n), {}).get("chunksizes") is not None]
    # Areas of large grids are stored like fields.
    auxiliary = {name for name in companions(ds) if ds[name].chunks is None or name not in area_names(ds)}
    names = [name for name in chunked if name not in auxiliary]
    # Only the fields determine the length of a dimension without coordinates.
    if not names or not able() or any(d in unlimited and d not in ds.coords for n in names for d in ds[n].dims):
        return []
    lazy_fields = {}
    for name in names:
        v = ds[name].variable
        # A lazy array that is never computed, so that the library writes no values.
        lazy_fields[name] = (v.dims, da.zeros(v.shape, dtype=v.dtype, chunks=-1), v.attrs, v.encoding)
    ready = in_memory(ds, [name for name in ds.variables if name not in lazy_fields]).assign(lazy_fields)
    with new_file(path, kind) as file:
        dump(ready, file, encodings, unlimited_dims=unlimited)
    return names


@contextmanager
def _fields_of_file(
    path: Path, ds: xr.Dataset, names: list[str], encodings: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[list[Target], Sink]]:
    """Open a file for the chunks of its fields; no targets if the layout of one of them differs."""
    with hdf5_file(path, "r+") as file:
        candidates = [_target(file[name], ds[name].variable, name, encodings[name]) for name in names]
        targets = [target for target in candidates if target is not None]
        targets = targets if len(targets) == len(names) else []
        for target in targets:
            if file[target.name].shape != target.layout.shape:
                file[target.name].resize(target.layout.shape)
        yield targets, Sink(file)


def _target(dataset: h5py.Dataset, variable: xr.Variable, name: str, encoding: Mapping[str, Any]) -> Target | None:
    layout = layout_of(dataset, variable.shape)
    if layout is None:
        return None
    value_encoding = {key: encoding[key] for key in VALUES if encoding.get(key) is not None}
    dims = tuple(str(dim) for dim in variable.dims)
    is_unchanged = variable.dtype == layout.dtype and "scale_factor" not in value_encoding
    if (
        not is_unchanged
        and stored_values(np.zeros((1,) * variable.ndim, variable.dtype), dims, value_encoding).dtype != layout.dtype
    ):
        return None
    blank = value_encoding.get("_FillValue") if is_unchanged and layout.dtype.kind == "f" else None
    return Target(name, layout, dims, value_encoding, blank, worth_compiling(variable.size))


def stored_values(values: Array, dims: tuple[str, ...], encoding: Mapping[str, Any]) -> Array:
    """Return values as the library would store them: packed, filled, converted."""
    return np.asarray(xr.conventions.encode_cf_variable(xr.Variable(dims, values, encoding=dict(encoding))).data)


def in_memory(ds: xr.Dataset, names: Sequence[Hashable]) -> xr.Dataset:
    """Return a Dataset with some variables in memory: nothing may be computed while the library's lock is held."""
    lazy = [name for name in names if ds[name].variable.chunks]
    loaded = dict(zip(lazy, computed(*[ds[name].variable for name in lazy]), strict=True))
    ready = ds.copy()
    for name in names:
        if name not in loaded:
            ready.variables[name].load()
    ready = ready.assign_coords({n: v for n, v in loaded.items() if n in ds.coords})
    return ready.assign({n: v for n, v in loaded.items() if n not in ds.coords})


@contextmanager
def written_behind(path: Path) -> Iterator[None]:
    """Flush written data to the disk in the background and release the pages: fresh ones cost more than the work.

    This also keeps the page cache of a long file small, which batch systems count as memory.
    """
    if not hasattr(os, "posix_fadvise"):
        yield
        return
    handle, event = os.open(path, os.O_RDONLY), threading.Event()

    def follow() -> None:
        flushed_size = 0
        while not event.wait(PAUSE_SECONDS):
            size = os.fstat(handle).st_size
            if size - flushed_size >= BEHIND_BYTES:
                with suppress(OSError):
                    # Faults of the disk are reported when the file is flushed.
                    os.fdatasync(handle)
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                flushed_size = size

    thread = threading.Thread(target=follow, name="written-behind", daemon=True)
    thread.start()
    try:
        yield
    finally:
        event.set()
        thread.join()
        os.close(handle)


def store(fields: dict[str, Any], targets: list[Target], sink: Sink) -> None:
    """Compute all fields into the file."""
    client = cluster()
    cluster_targets = [t for t in targets if client is not None and isinstance(fields[t.name], da.Array)]
    tasks = [
        _per_block(fields[t.name], t, partial(_write_block, sink=sink)) for t in targets if t not in cluster_targets
    ]
    # An open file cannot be passed to other processes.
    with here() if elsewhere() else nullcontext(), threads_that_end():
        computed(*tasks)
    for t in cluster_targets:
        _store_from(client, _per_block(fields[t.name], t, _encode_block), t.name, sink)


def _per_block(data: Any, target: Target, task: Callable[..., Array]) -> da.Array:
    """Return an array of the results of ``task``, one value per block."""
    blocks = align_blocks(data, target.layout.chunks)
    return da.map_blocks(
        partial(task, target=target, chunks=blocks.chunks), blocks, chunks=tuple((1,) * n for n in blocks.numblocks),
        dtype=object, meta=np.empty((0,) * blocks.ndim, dtype=object),
        name=f"store-{target.name}-{os.urandom(8).hex()}",
    )  # fmt: skip


def _write_block(block: Array, *, target: Target, chunks: Any, sink: Sink, block_id: tuple[int, ...] = ()) -> Array:
    for offset, _, data in target.chunks(block, chunks, block_id):
        sink.put(target.name, offset, data)
    return np.full((1,) * block.ndim, None)


def _encode_block(block: Array, *, target: Target, chunks: Any, block_id: tuple[int, ...] = ()) -> Array:
    result = np.empty((1,) * block.ndim, dtype=object)
    result[(0,) * block.ndim] = [(offset, bytes(data)) for offset, _, data in target.chunks(block, chunks, block_id)]
    return result


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
            future, encoded = next(running)
            for offset, data in encoded.item():
                sink.put(name, offset, data)
            futures.discard(future)
    finally:
        client.cancel(list(futures))
