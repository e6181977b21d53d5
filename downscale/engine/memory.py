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
# Blocks alive for each worker: the one in work and what is read, encoded and written of it and of the next (measured).
ALIVE = 2.5


def workers() -> int:
    """Return how many blocks are in work at once."""
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def resident_bytes() -> int:
    """Return what this process will hold before the first block: what it holds now, and the compiled loops to come."""
    return int(psutil.Process().memory_info().rss) + (0 if LOADED in sys.modules else LOOPS)


def block_budget() -> int:
    """Return the size of a fine block, so that all workers stay within the option "max_memory".

    Raises
    ------
    OptionError
        If the limit leaves no room for any work.
    """
    limit = option("max_memory")
    if limit is None:
        return BLOCK_BYTES
    left = bytes_of(limit) - resident_bytes()
    each = int(left / ALIVE / workers())
    if each < SMALLEST_BLOCK:
        least = (resident_bytes() + SMALLEST_BLOCK * ALIVE * workers()) / 1e9
        raise OptionError(
            f"expected max_memory of at least {least:.2g} GB for {workers()} workers, received {limit}; "
            "raise it, or lower the number of workers"
        )
    return min(each, BLOCK_BYTES)
