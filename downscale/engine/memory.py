"""How much memory there is, and what a block may take of it (integers; knows no array)."""

from __future__ import annotations

import sys

import dask.config
import psutil
from dask.system import CPU_COUNT

from downscale.errors import OptionError
from downscale.options import bytes_of, option

# A fine block of this size keeps the scheduler's share of the time small, and the memory too, the first use of which
# costs more than the work in it.
BLOCK_BYTES = 32_000_000
# Below this the scheduler takes more time than the work.
SMALLEST_BLOCK = 2_000_000
# Fine values worked on at once within a block: 16 MB in float64, about what the caches hold.
BATCH_VALUES = 2_000_000
# What the compiled loops take once they are loaded, with the library that loads them (measured).
LOOPS, LOADED = 240_000_000, "downscale.kernels.fused"
# What the netCDF library keeps of a field that is read (64 MB for its chunks), and the allocator of what threads gave
# back: the more, the smaller the chunks are (measured).
READING = 180_000_000
# What the features of a network take for each worker at most, where its maps can be cut; and the share of the room.
FEATURE_BYTES, FEATURE_SHARE = 1_000_000_000, 0.6
# Blocks alive for each worker: the one in work and what is read, encoded and written of it and of the next (measured).
ALIVE = 2.5


def workers() -> int:
    """Return how many blocks are in work at once."""
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def resident_bytes(compiled: bool = True) -> int:
    """Return the bytes this process holds besides blocks: what it holds now, compiled loops to come, read caches."""
    now = int(psutil.Process().memory_info().rss)
    return now + READING + (LOOPS if compiled and LOADED not in sys.modules else 0)


def features_budget() -> int:
    """Return what the features of a network may take for each worker; larger ones are cut, where they can be."""
    limit = option("max_memory")
    if limit is None:
        return FEATURE_BYTES
    room = (bytes_of(limit) - resident_bytes(compiled=False)) / workers()
    return int(min(max(room, 0) * FEATURE_SHARE, FEATURE_BYTES))


def block_budget(features: int = 0) -> int:
    """Return the size of a fine block, so that all workers stay within the option "max_memory".

    Parameters
    ----------
    features : int
        Bytes that a network takes beside, for each worker; no loops are compiled then.

    Raises
    ------
    OptionError
        If the limit leaves no room for any work.
    """
    limit = option("max_memory")
    if limit is None:
        return BLOCK_BYTES
    held = resident_bytes(compiled=not features) + features * workers()
    left = bytes_of(limit) - held
    each = int(left / ALIVE / workers())
    if each < SMALLEST_BLOCK:
        least = (held + SMALLEST_BLOCK * ALIVE * workers()) / 1e9
        raise OptionError(
            f"expected max_memory of at least {least:.2g} GB for {workers()} workers, received {limit}; "
            "raise it, or lower the number of workers"
        )
    return min(each, BLOCK_BYTES)
