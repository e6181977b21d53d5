"""Storage chunks of a field, and their alignment with its Dask blocks."""

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
    """Return storage chunks of about a million values: whole maps where they fit, few steps of the other dimensions.

    Parameters
    ----------
    shape : tuple of int
        Sizes of the field.
    blocks : tuple of tuple of int, optional
        Its Dask chunks; storage chunks divide them if they are of reasonable size.

    Examples
    --------
    >>> chunk_sizes((480, 720, 1440))
    (1, 720, 1440)
    >>> chunk_sizes((480, 720, 1440), ((60,) * 8, (360, 360), (1440,)))
    (1, 360, 1440)
    """
    sizes = list(shape)
    for axis in range(len(sizes) - 2):
        others = int(np.prod(sizes[axis + 1 :]))
        sizes[axis] = max(min(sizes[axis], CHUNK_VALUES // max(others, 1)), 1)
    for axis in (len(sizes) - 2, len(sizes) - 1):
        while int(np.prod(sizes[-2:])) > 1.5 * CHUNK_VALUES and sizes[axis] > 256:
            sizes[axis] = -(-sizes[axis] // 2)
    return _fitted(tuple(sizes), blocks) if blocks else tuple(sizes)


def _fitted(sizes: Sizes, blocks: Blocks) -> Sizes:
    """Return sizes that divide the blocks, or ``sizes`` if those would be too small or too large."""
    fitted = []
    for size, lengths in zip(sizes, blocks, strict=True):
        step = math.gcd(*lengths[:-1]) if len(lengths) > 1 else size
        whole = [n for n in range(1, min(step, 4 * size) + 1) if step % n == 0] if step % size else [size]
        fitted.append(min(whole, key=lambda n: abs(math.log(n / size))))
    count = math.prod(fitted)
    return tuple(fitted) if FEWEST_VALUES <= count <= 2 * CHUNK_VALUES else sizes


def aligned(data: Any, sizes: Sizes) -> da.Array:
    """Return a field in blocks that end where storage chunks end; arrays in memory are split into small pieces.

    Blocks that already do so are not changed, unless a few large ones would leave threads idle.
    """
    small = pieces(data.shape, sizes)
    if not isinstance(data, da.Array):
        return da.from_array(data, chunks=small, name=False)
    lengths: list[Any] = []
    for block, size in zip(data.chunks, sizes, strict=True):
        ends = all(length % size == 0 for length in block[:-1])
        lengths.append(block if ends else max(max(block) // size, 1) * size)
    blocks = data.rechunk(tuple(lengths))
    if blocks.npartitions >= FEW_BLOCKS:
        return blocks
    return blocks.rechunk(tuple(_split(block, most) for block, most in zip(blocks.chunks, small, strict=True)))


def _split(lengths: Sizes, most: int) -> Sizes:
    """Return the lengths with those over ``most`` split.

    Examples
    --------
    >>> _split((5, 2), 2)
    (2, 2, 1, 2)
    """
    return tuple(min(most, length - at) for length in lengths for at in range(0, max(length, 1), most))


def pieces(shape: Sizes, sizes: Sizes, most: int = PIECE_VALUES) -> Sizes:
    """Return block sizes of whole storage chunks that hold about ``most`` values, longest in the last dimensions.

    Examples
    --------
    >>> pieces((480, 720, 1440), (1, 720, 1440))
    (3, 720, 1440)
    """
    lengths = list(sizes)
    for axis in reversed(range(len(shape))):
        others = math.prod(lengths) // lengths[axis]
        count = max(most // max(others * sizes[axis], 1), 1)
        lengths[axis] = min(count * sizes[axis], -(-shape[axis] // sizes[axis]) * sizes[axis])
    return tuple(lengths)


def starts(chunks: Blocks, index: Sizes) -> Sizes:
    """Return the first position of the block with that index."""
    return tuple(sum(lengths[:i]) for lengths, i in zip(chunks, index, strict=True))


def chunks_in(shape: Sizes, sizes: Sizes) -> Iterator[tuple[Sizes, tuple[slice, ...]]]:
    """Yield the position of each storage chunk within a block, and its slices.

    Examples
    --------
    >>> [part for _, part in chunks_in((3, 2), (2, 2))]
    [(slice(0, 2, None), slice(0, 2, None)), (slice(2, 3, None), slice(0, 2, None))]
    """
    for start in itertools.product(*(range(0, n, size) for n, size in zip(shape, sizes, strict=True))):
        yield start, tuple(slice(a, min(a + size, n)) for a, size, n in zip(start, sizes, shape, strict=True))
