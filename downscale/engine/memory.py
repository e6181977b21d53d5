"""Memory limits, and the part of a block."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass

import psutil

from downscale.errors import OptionError, pluralise
from downscale.options import bytes_of, option
from downscale.process.computing import workers

# A fine block of this size keeps the scheduler's share of the time small. It also keeps memory small, the first use of
# which costs more than the computation.
BLOCK_BYTES = 32_000_000
# For smaller blocks the scheduler takes more time than the computation.
SMALLEST_BLOCK = 2_000_000
# Fine values per batch within a block: 16 MB in float64, about the size of the caches.
BATCH_VALUES = 2_000_000
# Memory of the compiled loops, with the library that loads them (measured).
LOOP_BYTES, LOOP_MODULE = 150_000_000, "downscale.kernels.refine"
# Memory that the netCDF library keeps per field read (64 MB for its chunks), and the allocator for threads: the more,
# the smaller the chunks are (measured).
READING_BYTES = 130_000_000
# Float64 copies of the fine cells: of a block for area fractions under a mask and for orography, and of a whole grid
# for each fine field, and for orography and masks during their computation (measured).
MASK_COPIES, OROGRAPHY_COPIES, STATIC_COPIES = 5, 2, 3
# The name, among fine fields, of the smoothing of orography, and its copies of the fine cells (measured).
SMOOTHED, SMOOTHING_COPIES = "smoothed", 3
# The same for a whole grid: areas that are not products, with their fractions; two-dimensional positions, with and
# without corners; and polygon cells on the sphere (measured).
AREA_COPIES, CORNER_COPIES, POSITION_COPIES, POLYGON_COPIES = 3, 18, 4, 33
# Copies of an input chunk, which is always read completely (measured).
READ_COPIES = 3
# Maximum memory of the features of a network per worker, if its maps can be split; and its fraction of the free memory.
FEATURE_BYTES, FEATURE_SHARE = 1_000_000_000, 0.6
# Blocks in memory per worker: the one in work, and parts of it and of the next that are read, encoded and written
# (measured).
BLOCKS_PER_WORKER = 4


def resident_bytes(needs_loops: bool = True) -> int:
    """Return the bytes this process holds besides blocks: its present memory, and compiled loops still to load."""
    resident = int(psutil.Process().memory_info().rss)
    return resident + (LOOP_BYTES if needs_loops and LOOP_MODULE not in sys.modules else 0)


def feature_budget() -> int:
    """Return the memory per worker for the features of a network; larger ones are split if possible."""
    limit = option("max_memory")
    if limit is None:
        return FEATURE_BYTES
    available = (bytes_of(limit) - resident_bytes(needs_loops=False) - READING_BYTES) / workers()
    return int(min(max(available, 0) * FEATURE_SHARE, FEATURE_BYTES))


@dataclass(frozen=True)
class ExtraMemory:
    """Memory of a run besides its blocks.

    ``run_bytes`` is the memory from beginning to end: fine fields, areas, chunks of the input. ``bytes_per_cell`` is
    the memory per fine cell of one map of a block during its computation, and ``held`` the number of other fine fields
    that are held with a block.
    """

    run_bytes: int = 0
    bytes_per_cell: int = 0
    held: int = 0

    @classmethod
    def of(
        cls, cells: int, statics: Collection[str], grid_copies: int, chunk: int = 0, reads_files: bool = False
    ) -> ExtraMemory:
        """Return the memory for a fine grid of ``cells`` cells and the fine fields ``statics`` that blocks use.

        ``grid_copies`` is the number of float64 copies of the fine cells for areas and positions, ``chunk`` the bytes
        of the largest input chunk; ``reads_files`` is whether the input is read from files during the run.
        """
        fields = len({*statics, *(["orog"] if "terrain" in statics else [])} - {SMOOTHED})
        computing = STATIC_COPIES * len({"terrain", "mask"} & set(statics)) + SMOOTHING_COPIES * (SMOOTHED in statics)
        copies = fields + computing + grid_copies
        block_copies = MASK_COPIES * ("mask" in statics) + OROGRAPHY_COPIES * ("terrain" in statics)
        return cls(8 * cells * copies + READ_COPIES * chunk + READING_BYTES * reads_files, 8 * block_copies)


def block_budget(feature_bytes: int = 0, run_bytes: int = 0) -> int:
    """Return the bytes of a fine block, so that all workers stay within the option "max_memory".

    ``feature_bytes`` is the memory of a network per worker, without compiled loops; ``run_bytes`` is that besides all
    blocks.
    """
    limit = option("max_memory")
    if limit is None:
        return BLOCK_BYTES
    resident = resident_bytes(needs_loops=not feature_bytes) + feature_bytes * workers() + run_bytes
    available = bytes_of(limit) - resident
    block_bytes = int(available / BLOCKS_PER_WORKER / workers())
    if block_bytes < SMALLEST_BLOCK:
        minimum = (resident + SMALLEST_BLOCK * BLOCKS_PER_WORKER * workers()) / 1e9
        raise OptionError(
            f"expected max_memory of at least {minimum:.2g} GB for {pluralise(workers(), 'worker')}, received {limit}; "
            "raise it, lower the number of workers, or read smaller pieces (chunks=)"
        )
    return min(block_bytes, BLOCK_BYTES)
