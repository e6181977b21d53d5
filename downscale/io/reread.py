"""Fields read back from the chunks of a NetCDF-4 file on disk.

Chunks are read at their positions in the file, and decompressed in the threads that use them. The result equals that of
the NetCDF library: some chunks of each field are also read by it and must agree bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from downscale.errors import OutputError
from downscale.io.chunks import block_start, chunks_in, piece_sizes
from downscale.io.filters import Array, Layout, able, buffers, decode_chunk, layout_of, restore_nan, worth_compiling
from downscale.io.library import hdf5_file, library
from downscale.process.buffers import allocate

VALUES = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")
Place = tuple[int, int]


@dataclass(frozen=True)
class Source:
    """One variable of an open file: the position and length of each chunk by offset, and how to decode them.

    ``attrs`` are needed only if decoding is more than replacing ``blank``, the fill value, by NaN.
    """

    name: str
    handle: int
    layout: Layout
    places: dict[tuple[int, ...], Place]
    dims: tuple[str, ...]
    dtype: np.dtype[Any]
    attrs: dict[str, Any]
    blank: Any
    compiled: bool

    def read(self, begin: tuple[int, ...], shape: tuple[int, ...]) -> Array:
        """Return values from ``begin`` on, which is the start of a chunk."""
        out = allocate(shape, self.layout.dtype)
        self._prefetch(begin, shape)
        for start, part in chunks_in(shape, self.layout.chunks):
            offset = tuple(a + b for a, b in zip(begin, start, strict=True))
            if offset not in self.places:
                raise self.chunk_error(offset, "no chunk")
            self.read_chunk(offset, self.places[offset], out[part])
        return self.decode(out)

    def read_chunk(self, offset: tuple[int, ...], place: Place, view: Array) -> None:
        """Read the chunk with first index ``offset`` at the file position ``place`` into ``view``, without decoding."""
        is_direct = view.shape == self.layout.chunks and view.flags.c_contiguous
        chunk = view if is_direct else self._scratch()
        try:
            if self.layout.filters or place[1] != self.layout.nbytes:
                decode_chunk(self.stored(place), chunk, self.layout, self.blank, self.compiled)
            else:
                self._read_bytes(place, chunk.reshape(-1).view(np.uint8))
                restore_nan(chunk, self.blank)
        except ValueError as error:
            raise self.chunk_error(offset, error) from error
        if not is_direct:
            view[...] = chunk[tuple(slice(0, size) for size in view.shape)]

    def _prefetch(self, begin: tuple[int, ...], shape: tuple[int, ...]) -> None:
        """Ask the system to prefetch all chunks of a block."""
        for start, _ in chunks_in(shape, self.layout.chunks) if hasattr(os, "posix_fadvise") else ():
            place = self.places.get(tuple(a + b for a, b in zip(begin, start, strict=True)))
            if place is not None:
                os.posix_fadvise(self.handle, *place, os.POSIX_FADV_WILLNEED)

    def _scratch(self) -> Array:
        return buffers.of("whole", self.layout.nbytes).view(self.layout.dtype).reshape(self.layout.chunks)

    def chunk_error(self, offset: tuple[int, ...], reason: object) -> OutputError:
        """Return the error for a chunk that differs from what was written."""
        return OutputError(
            f"{self.name}: expected what was written at {offset}, received {reason}; check the disk, write again"
        )

    def stored(self, place: Place) -> Array:
        """Return the bytes at a position of the file, in a buffer that this thread reuses."""
        return self._read_bytes(place, buffers.of("stored", place[1]))

    def _read_bytes(self, place: Place, stored: Array) -> Array:
        position, length = place
        byte_count = 0
        while byte_count < length:
            count = os.preadv(self.handle, [stored[byte_count:].data], position + byte_count)
            if count == 0:
                raise ValueError(f"a chunk of {byte_count} bytes instead of {length}")
            byte_count += count
        if hasattr(os, "posix_fadvise"):
            # Read once: the pages are released and reused for the next chunk, since fresh ones cost more than the work.
            os.posix_fadvise(self.handle, position, length, os.POSIX_FADV_DONTNEED)
        return stored

    def decode(self, stored: Array) -> Array:
        """Return decoded values."""
        if not self.attrs:
            return stored
        variable = xr.Variable(self.dims, stored, self.attrs)
        return np.asarray(xr.conventions.decode_cf_variable(self.name, variable).values)


@contextmanager
def from_chunks(written: xr.Dataset, path: Path) -> Iterator[xr.Dataset]:
    """Yield a Dataset of an open file whose fields are read chunk by chunk if possible."""
    with open_handle(path) as handle:
        fields = [str(name) for name, field in written.data_vars.items() if field.ndim > 1]
        sources = sources_in(written, fields, path, handle) if able() else []
        for source in sources:
            require_same(written[source.name].variable, source)
        variables = {s.name: (s.dims, _lazy(s), written[s.name].attrs, written[s.name].encoding) for s in sources}
        yield written.assign(variables) if variables else written


@contextmanager
def open_handle(path: Path) -> Iterator[int]:
    """Yield the descriptor of a file open for reading."""
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def sources_in(written: xr.Dataset, names: Iterable[str], path: Path, handle: int) -> list[Source]:
    """Return the variables of a file that can be read chunk by chunk, with the positions of their chunks."""
    sources = []
    with hdf5_file(path) as file, library():
        for name in names:
            layout = layout_of(file[name], written[name].shape)
            places = None if layout is None else _places(file[name])
            if layout is not None and places is not None:
                sources.append(source_of(written[name].variable, name, layout, handle, places))
    return [source for source in sources if source is not None]


def _places(dataset: Any) -> dict[tuple[int, ...], Place] | None:
    """Return the positions of the chunks of a variable; None if the library's answer is not understood."""
    places: dict[tuple[int, ...], Place] = {}

    def note(chunk: Any) -> None:
        if chunk.filter_mask == 0:
            places[tuple(chunk.chunk_offset)] = (chunk.byte_offset, chunk.size)

    dataset.id.chunk_iter(note)
    for offset in list(places)[-1:]:
        # Some versions of the HDF5 library return offsets in numbers of chunks.
        if dataset.id.get_chunk_info_by_coord(offset).byte_offset != places[offset][0]:
            return None
    return places


def source_of(
    variable: xr.Variable, name: str, layout: Layout, handle: int, places: dict[tuple[int, ...], Place]
) -> Source | None:
    """Return the source of a variable as decoded by the library; None if it cannot be read chunk by chunk."""
    attrs = {key: variable.encoding[key] for key in VALUES if key in variable.encoding}
    is_plain = variable.dtype == layout.dtype and variable.dtype.kind == "f" and attrs.keys() <= {"_FillValue"}
    dims = tuple(str(dim) for dim in variable.dims)
    source = Source(
        name, handle, layout, places, dims, variable.dtype, {} if is_plain else attrs,
        attrs.get("_FillValue") if is_plain else None, worth_compiling(variable.size),
    )  # fmt: skip
    return source if source.decode(np.zeros((1,) * variable.ndim, layout.dtype)).dtype == variable.dtype else None


def require_same(variable: xr.Variable, source: Source) -> None:
    """Compare the first, the middle and the last chunk with the values of the NetCDF library."""
    offsets = sorted(source.places)
    for offset in {offsets[0], offsets[len(offsets) // 2], offsets[-1]} if offsets else ():
        ends = zip(offset, source.layout.chunks, source.layout.shape, strict=True)
        part = tuple(slice(a, min(a + size, n)) for a, size, n in ends)
        chunk = source.read(offset, tuple(part_slice.stop - part_slice.start for part_slice in part))
        try:
            reference = np.asarray(variable[part].values)
        except (OSError, RuntimeError) as error:
            raise OutputError(
                f"{source.name}: expected what was written at {offset}, received {error}; check the disk, write again"
            ) from error
        if chunk.dtype != reference.dtype or chunk.tobytes() != reference.tobytes():
            raise OutputError(
                f"{source.name}: expected the same values at {offset} from two readers, received others from the "
                "NetCDF library; check the disk, write again"
            )


def _lazy(source: Source) -> da.Array:
    sizes = piece_sizes(source.layout.shape, source.layout.chunks)
    chunks = da.core.normalize_chunks(sizes, source.layout.shape)
    return da.map_blocks(
        partial(_read_block, source=source, chunks=chunks), chunks=chunks, dtype=source.dtype,
        meta=np.empty((0,) * len(chunks), dtype=source.dtype), name=f"reread-{source.name}-{os.urandom(8).hex()}",
    )  # fmt: skip


def _read_block(*, source: Source, chunks: Any, block_id: tuple[int, ...] = ()) -> Array:
    shape = tuple(lengths[i] for lengths, i in zip(chunks, block_id, strict=True))
    return source.read(block_start(chunks, block_id), shape)
