"""Storage chunks: their sizes, the alignment of Dask chunks with them, and the HDF5 filter pipeline and its inverse.

The bytes are those that the HDF5 library would store for a chunk with the filters shuffle and deflate, so that every
NetCDF-4 reader can open them. The work runs without the interpreter lock, in buffers of each thread.

The low bytes of shuffled floating-point numbers are noise. Searching them for repetitions takes most of the time of
writing and of later reading, and saves almost nothing. A DEFLATE stream may contain stored (copied) blocks, and these
bytes are written there. Every zlib decoder reads the result.

References
----------
The HDF5 Group, HDF5 File Format Specification 3.0, sections "Filter Pipeline Message" and "Chunked Storage"; Deutsch
(1996), DEFLATE Compressed Data Format Specification version 1.3, RFC 1951, section 3.2.4; Deutsch and Gailly (1996),
ZLIB Compressed Data Format Specification version 3.3, RFC 1950; Gopal, Feghali, Guilford, Ozturk, Wolrich, Dixon,
Locktyukhin and Perminov (2010), IGZIP, Intel white paper.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

# Target number of values per storage chunk: a map of a quarter of a degree.
CHUNK_VALUES = 1_000_000
# Smaller chunks cost more than rechunking the blocks.
FEWEST_VALUES = CHUNK_VALUES // 16
# This many blocks keep the threads of one machine busy.
FEW_BLOCKS = 16
# Values per task of a field in memory.
PIECE_VALUES = 4_000_000
Sizes = tuple[int, ...]
Blocks = tuple[Sizes, ...]
Array = NDArray[Any]
# For fewer values NumPy is faster than importing numba.
MANY_VALUES = 20_000_000
DEFLATE, SHUFFLE = 1, 2
FILTERS = ((), (DEFLATE,), (SHUFFLE,), (SHUFFLE, DEFLATE))
Bytes = NDArray[np.uint8]
# Levels of ISA-L for small zlib levels: file size within a twentieth of zlib's, many times faster.
FAST_LEVELS = {1: 2, 2: 3, 3: 3}
# A stored block: a marker byte, its length, the complement of the length, and at most this many bytes.
MOST_STORED_BYTES = 65535
BLOCK_HEAD = np.array((0, 0xFF, 0xFF, 0, 0), np.uint8)
STREAM_HEAD = b"\x78\x01"
# Bytes sampled of each piece of two blocks, and number of samples; a piece must shrink by a twentieth.
PIECE_BYTES, SAMPLE_BYTES, SAMPLES, MOST_RATIO = 2 * MOST_STORED_BYTES, 2048, 4, 0.95
# Of 128 bytes of noise about 101 differ: with far fewer, compression pays without a trial.
SORTED_BYTES, LEAST_DISTINCT = 128, 80


def chunk_sizes(shape: Sizes, blocks: Blocks | None = None) -> Sizes:
    """Return storage chunks of about a million values: whole maps where they fit, few steps of the other dimensions."""
    sizes = list(shape)
    for axis in range(len(sizes) - 2):
        values_per_step = int(np.prod(sizes[axis + 1 :]))
        sizes[axis] = max(min(sizes[axis], CHUNK_VALUES // max(values_per_step, 1)), 1)
    for axis in (len(sizes) - 2, len(sizes) - 1):
        while int(np.prod(sizes[-2:])) > 1.5 * CHUNK_VALUES and sizes[axis] > 256:
            sizes[axis] = -(-sizes[axis] // 2)
    # Sizes that divide the blocks, unless those would be too small or too large.
    lengths_of_chunks = []
    for size, lengths in zip(sizes, blocks or (), strict=False):
        step = math.gcd(*lengths[:-1]) if len(lengths) > 1 else size
        divisors = [n for n in range(1, min(step, 4 * size) + 1) if step % n == 0] if step % size else [size]
        lengths_of_chunks.append(min(divisors, key=lambda n: abs(math.log(n / size))))
    is_good = blocks and FEWEST_VALUES <= math.prod(lengths_of_chunks) <= 2 * CHUNK_VALUES
    return tuple(lengths_of_chunks if is_good else sizes)


def align_blocks(data: Any, sizes: Sizes) -> da.Array:
    """Return a field in blocks that end where storage chunks end; arrays in memory are split into small pieces.

    Blocks that already do so are not changed, unless a few large ones would leave threads idle.
    """
    small = piece_sizes(data.shape, sizes)
    if not isinstance(data, da.Array):
        return da.from_array(data, chunks=small, name=False)
    lengths: list[Any] = []
    for block, size in zip(data.chunks, sizes, strict=True):
        is_aligned = all(length % size == 0 for length in block[:-1])
        lengths.append(block if is_aligned else max(max(block) // size, 1) * size)
    blocks = data.rechunk(tuple(lengths))
    if blocks.npartitions >= FEW_BLOCKS:
        return blocks
    return blocks.rechunk(tuple(
        tuple(min(most, length - start) for length in block for start in range(0, max(length, 1), most))
        for block, most in zip(blocks.chunks, small, strict=True)
    ))  # fmt: skip


def piece_sizes(shape: Sizes, sizes: Sizes, most: int = PIECE_VALUES) -> Sizes:
    """Return block sizes of whole storage chunks that hold about ``most`` values, longest in the last dimensions."""
    lengths = list(sizes)
    for axis in reversed(range(len(shape))):
        values_per_step = math.prod(lengths) // lengths[axis]
        count = max(most // max(values_per_step * sizes[axis], 1), 1)
        lengths[axis] = min(count * sizes[axis], -(-shape[axis] // sizes[axis]) * sizes[axis])
    return tuple(lengths)


def block_start(chunks: Blocks, index: Sizes) -> Sizes:
    """Return the first position of the block with that index."""
    return tuple(sum(lengths[:i]) for lengths, i in zip(chunks, index, strict=True))


def chunks_in(shape: Sizes, sizes: Sizes) -> Iterator[tuple[Sizes, tuple[slice, ...]]]:
    """Yield the position of each storage chunk within a block, and its slices."""
    for start in itertools.product(*(range(0, n, size) for n, size in zip(shape, sizes, strict=True))):
        yield start, tuple(slice(a, min(a + size, n)) for a, size, n in zip(start, sizes, shape, strict=True))


@dataclass(frozen=True)
class Layout:
    """Storage layout of one variable: sizes, stored type, filters in order, and deflate level (0 without deflate).

    ``fill`` is the value beyond the edge in the last chunks.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    filters: tuple[int, ...]
    level: int
    fill: Any

    @property
    def nbytes(self) -> int:
        """Bytes of an uncompressed chunk."""
        return int(np.prod(self.chunks)) * self.dtype.itemsize

    @property
    def is_shuffled(self) -> bool:
        """Whether the bytes of a chunk are shuffled."""
        return SHUFFLE in self.filters and self.dtype.itemsize > 1

    @property
    def is_deflated(self) -> bool:
        """Whether a chunk is deflated."""
        return DEFLATE in self.filters


def layout_of(dataset: Any, shape: tuple[int, ...]) -> Layout | None:
    """Return the storage layout of a variable, or None if it has other filters or types."""
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    codes = tuple(int(entry[0]) for entry in filters)
    if dataset.chunks is None or codes not in FILTERS or dataset.dtype.kind not in "fiu" or not dataset.dtype.isnative:
        return None
    level = int(filters[-1][2][0]) if DEFLATE in codes else 0
    return Layout(shape, tuple(dataset.chunks), np.dtype(dataset.dtype), codes, level, dataset.fillvalue)


class _Buffers(threading.local):
    """Memory reused by a thread: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def of(self, use: str, nbytes: int) -> Array:
        """Return ``nbytes`` bytes for a use."""
        if use not in self.arrays or self.arrays[use].nbytes < nbytes:
            self.arrays[use] = np.empty(nbytes, dtype=np.uint8)
        return self.arrays[use][:nbytes]


buffers = _Buffers()


def encode_chunk(values: Array, layout: Layout, blank: Any = None, use_numba: bool = False) -> Array | bytes:
    """Return the stored bytes of one chunk; valid until the next call in this thread."""
    full = values
    if values.shape != layout.chunks or not values.flags.c_contiguous:
        full = buffers.of("whole", layout.nbytes).view(layout.dtype).reshape(layout.chunks)
        if values.shape != layout.chunks:
            full[...] = layout.fill
        full[tuple(slice(0, size) for size in values.shape)] = values
    if layout.is_shuffled:
        full = _shuffle(full, layout, blank, use_numba)
    elif blank is not None:
        full = _fill_nan(full, layout, blank)
    flat = full.reshape(-1).view(np.uint8)
    return deflate(flat, layout.level) if layout.is_deflated else flat


def decode_chunk(content: Array, out: Array, layout: Layout, blank: Any = None, use_numba: bool = False) -> None:
    """Decode one stored chunk into ``out``, which has the shape of a chunk and the stored type."""
    raw = np.frombuffer(inflate(content, layout.nbytes), dtype=np.uint8) if layout.is_deflated else content
    if raw.nbytes != layout.nbytes:
        raise ValueError(f"a chunk of {raw.nbytes} bytes instead of {layout.nbytes}")
    flat = out.reshape(-1)
    if layout.is_shuffled:
        _unshuffle(raw, flat, blank, use_numba)
        return
    np.copyto(flat.view(np.uint8), raw)
    restore_nan(flat, blank)


def restore_nan(values: Array, blank: Any) -> None:
    """Replace ``blank`` by NaN, if there is one."""
    # Few fields have gaps, and fill values are beyond all values: this test needs no memory.
    if blank is None or not values.size or values.max() < blank or values.min() > blank:
        return
    is_blank = values == blank
    if is_blank.any():
        values[is_blank] = np.nan


def _fill_nan(full: Array, layout: Layout, blank: Any) -> Array:
    if not np.isnan(full.min()):
        return full
    missing = np.isnan(full, out=buffers.of("missing", full.size).view(bool).reshape(full.shape))
    out = buffers.of("filled", layout.nbytes).view(layout.dtype).reshape(full.shape)
    np.copyto(out, full)
    np.copyto(out, blank, where=missing)
    return out


def _shuffle(full: Array, layout: Layout, blank: Any, use_numba: bool) -> Array:
    out, size = buffers.of("shuffled", layout.nbytes), layout.dtype.itemsize
    if not _uses_loop(use_numba, size, blank):
        full = full if blank is None else _fill_nan(full, layout, blank)
        out.reshape(size, -1)[...] = full.reshape(-1).view(np.uint8).reshape(-1, size).T
        return out
    from downscale.io import bytewise

    codes = full.reshape(-1).view(f"u{size}")
    # No code is above the largest one: nothing is replaced.
    infinite = fill = codes.dtype.type(2 ** (8 * size - 1) - 1)
    if blank is not None:
        infinite, fill = _code_of(np.inf, layout.dtype), _code_of(blank, layout.dtype)
    getattr(bytewise, f"shuffle_{size}")(codes, out, infinite, fill)
    return out


def _unshuffle(raw: Array, flat: Array, blank: Any, use_numba: bool) -> None:
    size = flat.dtype.itemsize
    if not _uses_loop(use_numba, size, blank):
        flat.view(np.uint8).reshape(-1, size)[...] = raw.reshape(size, -1).T
        if blank is not None:
            flat[flat == blank] = np.nan
        return
    from downscale.io import bytewise

    codes = flat.view(f"u{size}")
    fill = nan = codes.dtype.type(0)
    if blank is not None:
        fill, nan = _code_of(blank, flat.dtype), _code_of(np.nan, flat.dtype)
    getattr(bytewise, f"unshuffle_{size}")(raw, codes, fill, nan)


def _uses_loop(use_numba: bool, size: int, blank: Any) -> bool:
    return use_numba and (size in (4, 8) or (size == 2 and blank is None))


def _code_of(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return the bits of a number as an unsigned integer."""
    return np.asarray(value, dtype=dtype).reshape(1).view(f"u{dtype.itemsize}")[0]


def is_worth_compiling(values: int) -> bool:
    """Return whether numba is already imported, or worth importing for this many values."""
    return "numba" in sys.modules or values >= MANY_VALUES


def deflate(raw: Bytes, level: int) -> bytes:
    """Return a zlib stream: ISA-L with stored blocks for small levels, zlib for others."""
    from isal import isal_zlib

    if level not in FAST_LEVELS:
        return zlib.compress(raw.data, level)
    level = FAST_LEVELS[level]
    noise = _find_noise(raw, level) if raw.size >= 2 * PIECE_BYTES else np.zeros(1, bool)
    if not noise.any():
        return bytes(isal_zlib.compress(raw.data, level))
    return b"".join([STREAM_HEAD, *_compress_blocks(raw, noise, level), isal_zlib.adler32(raw.data).to_bytes(4, "big")])


def inflate(content: Bytes, nbytes: int) -> bytes:
    """Return the decompressed content of a zlib stream."""
    from isal import isal_zlib

    try:
        return bytes(isal_zlib.decompress(content.data, bufsize=nbytes))
    except isal_zlib.error as error:  # type: ignore[misc]
        raise ValueError(f"a damaged chunk ({error})") from error


def _compress_blocks(raw: Bytes, noise: NDArray[np.bool_], level: int) -> Iterator[bytes | memoryview]:
    """Yield the blocks of a stream: runs of pieces that are compressed together, and runs that are stored."""
    from isal import isal_zlib

    stream = isal_zlib.compressobj(level, isal_zlib.DEFLATED, -15)
    limits = np.flatnonzero(np.diff(noise)) + 1
    for first, last in zip([0, *limits], [*limits, noise.size], strict=True):
        run = raw[first * PIECE_BYTES : last * PIECE_BYTES]
        if noise[first]:
            blocks = np.empty((run.size // MOST_STORED_BYTES, BLOCK_HEAD.size + MOST_STORED_BYTES), np.uint8)
            blocks[:, : BLOCK_HEAD.size] = BLOCK_HEAD
            blocks[:, BLOCK_HEAD.size :] = run.reshape(-1, MOST_STORED_BYTES)
            yield blocks.reshape(-1).data
        else:
            yield stream.compress(run.data)
            # Back-references must not cross stored blocks, which this coder never saw.
            yield stream.flush(isal_zlib.Z_FULL_FLUSH)
    yield stream.flush(isal_zlib.Z_FINISH)


def _find_noise(raw: Bytes, level: int) -> NDArray[np.bool_]:
    """Return for each piece whether it is better stored; the last, shorter one never is."""
    from isal import isal_zlib

    pieces = raw[: raw.size // PIECE_BYTES * PIECE_BYTES].reshape(-1, PIECE_BYTES)
    samples = np.sort(pieces[:, PIECE_BYTES // 2 :][:, :SORTED_BYTES], axis=1)
    is_noise = np.zeros(-(-raw.size // PIECE_BYTES), bool)
    # One sample is not enough: a band of rain between dry ones looks like noise.
    step = (PIECE_BYTES - SAMPLE_BYTES) // (SAMPLES - 1)
    for k in np.flatnonzero((np.diff(samples, axis=1) != 0).sum(axis=1) >= LEAST_DISTINCT):
        sample = b"".join(pieces[k][place * step :][:SAMPLE_BYTES].data for place in range(SAMPLES))
        is_noise[k] = len(isal_zlib.compress(sample, level)) > MOST_RATIO * len(sample)
    return is_noise
