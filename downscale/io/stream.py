"""Parallel writing of fields into the chunks of a NetCDF-4 file, read back and checked while they are written.

The library writes the file with everything except the values of the fields. These are then computed block by block.
Each block is split into storage chunks, shuffled, deflated and stored in the task that computed it, without gathering.
On a cluster, the workers do all but the storing.

Reading the whole file after writing takes the disk as long as writing it. For a check, each block is therefore read
back at once from its positions in the file, by the task that computed it. When the file is closed, its index must name
the same positions, and the NetCDF library must read the same values from some of them, bit for bit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dask.array as da
import numpy as np
import xarray as xr

from downscale.errors import OutputError
from downscale.io.chunks import (
    Array,
    Layout,
    align_blocks,
    block_start,
    buffers,
    chunks_in,
    decode_chunk,
    encode_chunk,
    is_worth_compiling,
    layout_of,
    restore_nan,
)
from downscale.io.library import dump, hdf5_file, library, new_file, reading, writing_errors
from downscale.process.buffers import allocate
from downscale.process.computing import cluster, compute, use_own_threads, use_temporary_threads, uses_other_processes

if TYPE_CHECKING:
    import h5py

    from downscale.io.write import Output

T = TypeVar("T")
STORED_VALUES = ("dtype", "_FillValue", "scale_factor", "add_offset")
READ_VALUES = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")
# Bytes of a growing file between flushes to the disk, and interval of the test.
BEHIND_BYTES, PAUSE_SECONDS = 64_000_000, 0.02
# Blocks that a cluster computes ahead, per thread.
BLOCKS_AHEAD = 2
# Bytes compared at both ends of a chunk to confirm its position.
END_BYTES = 64
Place = tuple[int, int]
Offset = tuple[int, ...]


@dataclass(frozen=True)
class StoredField:
    """One variable of the file, and the encoding of its values; ``blank`` is the fill value that stands for NaN."""

    name: str
    layout: Layout
    dims: tuple[str, ...]
    encoding: dict[str, Any]
    blank: Any
    use_numba: bool

    def chunks(self, block: Array, chunks: Any, block_id: tuple[int, ...]) -> Iterator[Any]:
        """Yield the first index of each storage chunk of a block, its slices within the block, and its bytes."""
        begin = block_start(chunks, block_id)
        for start, part in chunks_in(block.shape, self.layout.chunks):
            values = np.asarray(block[part])
            if values.dtype != self.layout.dtype or "scale_factor" in self.encoding:
                values = _encode_values(values, self.dims, self.encoding)
            data = encode_chunk(values, self.layout, self.blank, self.use_numba)
            yield tuple(a + b for a, b in zip(begin, start, strict=True)), part, data


@dataclass(eq=False)
class Sink:
    """A file that accepts encoded chunks, one at a time, from any thread."""

    file: h5py.File
    # Looking up a name takes as long as storing a small chunk.
    _known: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, offset: Offset, data: Array | bytes) -> int:
        """Store a chunk; return its end in the file, unless the library reused free space."""
        with library(), writing_errors():
            if name not in self._known:
                self._known[name] = self.file[name].id
            self._known[name].write_direct_chunk(offset, data)
            return self.file.id.get_filesize()

    def place(self, name: str, offset: Offset) -> Place | None:
        """Return position and length of a chunk, or None if it is not stored; the library searches all chunks."""
        with library(), writing_errors():
            info = self._known[name].get_chunk_info_by_coord(offset)
        return None if info.byte_offset is None else (info.byte_offset, info.size)


@dataclass(frozen=True)
class FieldPassage:
    """One field on its way to the file and back: its target, and how the library decodes it.

    ``attrs`` are needed only if decoding is more than replacing ``blank``, the fill value, by NaN; ``places`` are the
    position and length of each stored chunk by offset.
    """

    target: StoredField
    sink: Sink
    handle: int
    dtype: np.dtype[Any]
    attrs: dict[str, Any]
    blank: Any
    places: dict[Offset, Place] = field(default_factory=dict)

    @classmethod
    def of(cls, target: StoredField, variable: xr.Variable, sink: Sink, handle: int) -> FieldPassage:
        """Return the passage of a field that the library decodes as ``variable``."""
        attrs = {key: variable.encoding[key] for key in READ_VALUES if key in variable.encoding}
        is_float = variable.dtype == target.layout.dtype and variable.dtype.kind == "f"
        is_plain = is_float and attrs.keys() <= {"_FillValue"}
        blank = attrs.get("_FillValue") if is_plain else None
        return cls(target, sink, handle, variable.dtype, {} if is_plain else attrs, blank)

    def is_complete(self) -> bool:
        """Return whether all chunks are stored."""
        layout = self.target.layout
        return len(self.places) == np.prod([-(-n // size) for n, size in zip(layout.shape, layout.chunks, strict=True)])

    def block(self, block: Array, *, chunks: Any, block_id: tuple[int, ...] = ()) -> Array:
        """Store a block, and return it as read back from the file."""
        out = allocate(block.shape, self.target.layout.dtype)
        for offset, part, data in self.target.chunks(block, chunks, block_id):
            self.places[offset] = self._put(offset, data)
            self.read_chunk(offset, out[part])
        return self.decode(out)

    def _put(self, offset: Offset, data: Array | bytes) -> Place:
        """Store a chunk and return its position.

        The library is asked only if the bytes at the end differ: asking takes longer the more chunks there are.
        """
        raw = np.frombuffer(data, np.uint8)
        size = raw.size
        first = self.sink.put(self.target.name, offset, data) - size
        ends = (0, min(END_BYTES, size)), (max(size - END_BYTES, 0), size)
        if first >= 0 and all(os.pread(self.handle, b - a, first + a) == raw[a:b].tobytes() for a, b in ends):
            return first, size
        place = self.sink.place(self.target.name, offset)
        if place is None:
            raise self._error(offset, "no chunk")
        return place

    def read_chunk(self, offset: Offset, view: Array) -> None:
        """Read the stored chunk with this first index into ``view``, without decoding its values."""
        layout, place = self.target.layout, self.places[offset]
        is_direct = view.shape == layout.chunks and view.flags.c_contiguous
        chunk = view if is_direct else buffers.of("whole", layout.nbytes).view(layout.dtype).reshape(layout.chunks)
        try:
            if layout.filters or place[1] != layout.nbytes:
                content = self._read_bytes(place, buffers.of("stored", place[1]))
                decode_chunk(content, chunk, layout, self.blank, self.target.use_numba)
            else:
                self._read_bytes(place, chunk.reshape(-1).view(np.uint8))
                restore_nan(chunk, self.blank)
        except ValueError as error:
            raise self._error(offset, error) from error
        if not is_direct:
            view[...] = chunk[tuple(slice(0, size) for size in view.shape)]

    def _read_bytes(self, place: Place, buffer: Array) -> Array:
        position, length = place
        byte_count = 0
        while byte_count < length:
            count = os.preadv(self.handle, [buffer[byte_count:].data], position + byte_count)
            if count == 0:
                raise ValueError(f"a chunk of {byte_count} bytes instead of {length}")
            byte_count += count
        if hasattr(os, "posix_fadvise"):
            # Read once: the pages are released and reused for the next chunk, since fresh ones cost more than the work.
            os.posix_fadvise(self.handle, position, length, os.POSIX_FADV_DONTNEED)
        return buffer

    def decode(self, values: Array) -> Array:
        """Return decoded values."""
        if not self.attrs:
            return values
        variable = xr.Variable(self.target.dims, values, self.attrs)
        return np.asarray(xr.conventions.decode_cf_variable(self.target.name, variable).values)

    def _error(self, offset: Offset, reason: object) -> OutputError:
        return OutputError(f"{self.target.name}: expected what was written at {offset}, received {reason}; check the "
                           "disk, write again")  # fmt: skip

    def array(self, data: Any) -> da.Array:
        """Return the field as stored, lazily; computing it writes it."""
        blocks = align_blocks(data, self.target.layout.chunks)
        return da.map_blocks(
            partial(self.block, chunks=blocks.chunks), blocks, dtype=self.dtype,
            meta=np.empty((0,) * blocks.ndim, dtype=self.dtype),
            name=f"through-{self.target.name}-{os.urandom(8).hex()}",
        )  # fmt: skip

    def require_places(self, places: dict[Offset, Place], variable: xr.Variable) -> None:
        """Compare positions with those in the index of the closed file, and three chunks with the library's values."""
        if any(places.get(offset) != place for offset, place in self.places.items()):
            raise OutputError(
                f"{self.target.name}: expected its chunks where they were written, received others from the index of "
                "the file; check the disk, write again"
            )
        layout, offsets = self.target.layout, sorted(places)
        passage = replace(self, places=places)
        for offset in {offsets[0], offsets[len(offsets) // 2], offsets[-1]} if offsets else ():
            ends = zip(offset, layout.chunks, layout.shape, strict=True)
            part = tuple(slice(a, min(a + size, n)) for a, size, n in ends)
            chunk = np.empty([ends.stop - ends.start for ends in part], layout.dtype)
            passage.read_chunk(offset, chunk)
            try:
                reference = np.asarray(variable[part].values)
            except (OSError, RuntimeError) as error:
                raise self._error(offset, error) from error
            values = self.decode(chunk)
            if values.dtype != reference.dtype or values.tobytes() != reference.tobytes():
                raise self._error(offset, "other values from the NetCDF library")


def _places(dataset: h5py.Dataset) -> dict[Offset, Place]:
    """Return the position and length of each chunk of a variable."""
    places: dict[Offset, Place] = {}
    dataset.id.chunk_iter(lambda chunk: places.update({tuple(chunk.chunk_offset): (chunk.byte_offset, chunk.size)}))
    for offset in list(places)[-1:]:
        if dataset.id.get_chunk_info_by_coord(offset).byte_offset != places[offset][0]:
            # Some versions of the HDF5 library return offsets in numbers of chunks.
            return {tuple(np.multiply(key, dataset.chunks).tolist()): place for key, place in places.items()}
    return places


def write_fields(
    path: Path, out: Output, names: list[str], check: Callable[[xr.Dataset], T] | None
) -> tuple[bool, T | None]:
    """Write a whole file, the fields ``names`` chunk by chunk, and check it as it is read back.

    Returns whether the file is written, else only the library can write it, and the result of ``check``; None if the
    file can only be checked afterwards. Raises an OutputError if the file's index or the NetCDF library disagrees with
    the values read.
    """
    ds = out.ds
    # Only the fields determine the length of a dimension without coordinates.
    if not names or any(dim in out.unlimited and dim not in ds.coords for name in names for dim in ds[name].dims):
        return False, None
    _write_frame(path, out, names)
    # Blocks of other processes are stored here, and cannot be read back where they are computed.
    check = None if uses_other_processes() else check
    if check is not None:
        with reading(path, decode_coords="all") as file_dataset:
            frame = file_dataset.drop_vars(names).load()
            variables = {name: file_dataset[name].variable for name in names}
    fields = {name: ds[name].variable.data for name in names}
    with open(path, "rb", buffering=0) as reader:
        with hdf5_file(path, "r+") as file:
            candidates = [_target(file[name], ds[name].variable, name, out.encodings[name]) for name in names]
            targets = [target for target in candidates if target is not None]
            if len(targets) < len(names):
                return False, None
            for target in targets:
                if file[target.name].shape != target.layout.shape:
                    file[target.name].resize(target.layout.shape)
            sink = Sink(file)
            if check is None:
                with flush_behind(path):
                    _store(fields, targets, sink)
                return True, None
            passages = {t.name: FieldPassage.of(t, variables[t.name], sink, reader.fileno()) for t in targets}
            arrays = {
                name: (variable.dims, passages[name].array(fields[name]), variable.attrs, variable.encoding)
                for name, variable in variables.items()
            }
            with flush_behind(path), use_temporary_threads():
                result = check(frame.assign(arrays))
                _store(fields, [t for t in targets if not passages[t.name].is_complete()], sink)
        with hdf5_file(path) as file, library():
            places = {name: _places(file[name]) for name in names}
        with reading(path, decode_coords="all") as file_dataset:
            for name, passage in passages.items():
                passage.require_places(places[name], file_dataset[name].variable)
    return True, result


def _write_frame(path: Path, out: Output, names: list[str]) -> None:
    """Write the file without the values of its fields."""
    lazy_fields = {}
    for name in names:
        v = out.ds[name].variable
        # A lazy array that is never computed, so that the library writes no values.
        lazy_fields[name] = (v.dims, da.zeros(v.shape, dtype=v.dtype, chunks=-1), v.attrs, v.encoding)
    dataset = in_memory(out.ds, [name for name in out.ds.variables if name not in lazy_fields]).assign(lazy_fields)
    with new_file(path, out.format) as file:
        dump(dataset, file, out.encodings, unlimited_dims=out.unlimited)


def _target(dataset: h5py.Dataset, variable: xr.Variable, name: str, encoding: Mapping[str, Any]) -> StoredField | None:
    layout = layout_of(dataset, variable.shape)
    if layout is None:
        return None
    value_encoding = {key: encoding[key] for key in STORED_VALUES if encoding.get(key) is not None}
    dims = tuple(str(dim) for dim in variable.dims)
    is_unchanged = variable.dtype == layout.dtype and "scale_factor" not in value_encoding
    one = np.zeros((1,) * variable.ndim, variable.dtype)
    if not is_unchanged and _encode_values(one, dims, value_encoding).dtype != layout.dtype:
        return None
    blank = value_encoding.get("_FillValue") if is_unchanged and layout.dtype.kind == "f" else None
    return StoredField(name, layout, dims, value_encoding, blank, is_worth_compiling(variable.size))


def _encode_values(values: Array, dims: tuple[str, ...], encoding: Mapping[str, Any]) -> Array:
    """Return values as the library would store them: packed, filled, converted."""
    return np.asarray(xr.conventions.encode_cf_variable(xr.Variable(dims, values, encoding=dict(encoding))).data)


def in_memory(ds: xr.Dataset, names: Sequence[Hashable]) -> xr.Dataset:
    """Return a Dataset with some variables in memory: nothing may be computed while the library's lock is held."""
    lazy = [name for name in names if ds[name].variable.chunks]
    loaded_variables = dict(zip(lazy, compute(*[ds[name].variable for name in lazy]), strict=True))
    dataset = ds.copy()
    for name in set(names) - set(lazy):
        dataset.variables[name].load()
    dataset = dataset.assign_coords({n: v for n, v in loaded_variables.items() if n in ds.coords})
    return dataset.assign({n: v for n, v in loaded_variables.items() if n not in ds.coords})


@contextmanager
def flush_behind(path: Path) -> Iterator[None]:
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


def _store(fields: dict[str, Any], targets: list[StoredField], sink: Sink) -> None:
    """Compute all fields into the file."""
    client = cluster()
    cluster_targets = [t for t in targets if client is not None and isinstance(fields[t.name], da.Array)]
    tasks = [_per_block(fields[t.name], t, sink) for t in targets if t not in cluster_targets]
    # An open file cannot be passed to other processes.
    with use_own_threads(), use_temporary_threads():
        compute(*tasks)
    for t in cluster_targets:
        _store_from(client, _per_block(fields[t.name], t, None), t.name, sink)


def _per_block(data: Any, target: StoredField, sink: Sink | None) -> da.Array:
    """Return an array of one list per block: that of its encoded chunks, empty if they are stored in the sink."""
    blocks = align_blocks(data, target.layout.chunks)
    return da.map_blocks(
        partial(_encode_block, target=target, chunks=blocks.chunks, sink=sink), blocks,
        chunks=tuple((1,) * n for n in blocks.numblocks), dtype=object,
        meta=np.empty((0,) * blocks.ndim, dtype=object), name=f"store-{target.name}-{os.urandom(8).hex()}",
    )  # fmt: skip


def _encode_block(
    block: Array, *, target: StoredField, chunks: Any, sink: Sink | None, block_id: tuple[int, ...] = ()
) -> Array:
    encoded_chunks, result = [], np.empty((1,) * block.ndim, dtype=object)
    for offset, _, data in target.chunks(block, chunks, block_id):
        if sink is None:
            encoded_chunks.append((offset, bytes(data)))
        else:
            sink.put(target.name, offset, data)
    result[(0,) * block.ndim] = encoded_chunks
    return result


def _store_from(client: Any, tasks: da.Array, name: str, sink: Sink) -> None:
    """Store the chunks that the workers of a cluster encode, a bounded number of blocks ahead."""
    from distributed import as_completed

    waiting = list(tasks.to_delayed().ravel())[::-1]
    ahead = BLOCKS_AHEAD * max(sum(client.nthreads().values()), 1)
    running = as_completed(with_results=True)
    futures: set[Any] = set()
    try:
        while waiting or futures:
            if len(futures) <= ahead // 2:
                batch = [waiting.pop() for _ in range(min(ahead - len(futures), len(waiting)))]
                sent = client.compute(batch)
                futures.update(sent)
                running.update(sent)
            future, encoded_chunks = next(running)
            for offset, data in encoded_chunks.item():
                sink.put(name, offset, data)
            futures.discard(future)
    finally:
        client.cancel(list(futures))
