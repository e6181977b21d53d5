"""Sizes of Dask chunks and of storage chunks, and their alignment."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np

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
