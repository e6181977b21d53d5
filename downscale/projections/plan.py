"""Bands of cells for the adjustment of a record, sized for the memory of a process."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import psutil
import xarray as xr

from downscale.engine.memory import READING_BYTES, resident_bytes
from downscale.options import bytes_of, option
from downscale.projections.adjustment import PART_VALUES, parts_of
from downscale.projections.settings import WINDOW

# Bytes per value and day of the window for the cells of a part: two arrays of ranks in float64, and more (measured with
# xsdba 0.7 at 128 cells, 13149 days and 31 days: 16.6 for temperature, 18.2 for rain).
RANK_BYTES = 19
# Bytes per value of the longest record of a band: values read, aligned, adjusted and written (measured: 43).
VALUE_BYTES = 48
# Bytes per cell of a trained adjustment: up to three numbers in float32 per quantile and day of the year.
TABLE_BYTES = 366 * 12
# Without a limit, a band takes at most this share of the free memory.
FREE_SHARE = 0.5
# More bands show progress, and keep more of a run that is interrupted.
FEWEST_BANDS = 8


@dataclass(frozen=True, order=True)
class Band:
    """Rows and columns of a grid, as ranges of indices."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def label(self) -> str:
        """The part of a file name."""
        return f"y{self.top:05d}-{self.bottom:05d}_x{self.left:05d}-{self.right:05d}"

    def cut(self, field: xr.DataArray, dims: tuple[str, ...]) -> xr.DataArray:
        """Return the cells of the band of a variable with dimensions ``dims`` in space, one or two."""
        ranges = (slice(self.top, self.bottom), slice(self.left, self.right))[-len(dims) :]
        return field.isel(dict(zip(dims, ranges, strict=True)))


def grid_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of a grid of one or two dimensions."""
    return (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])


def plan_bands(shape: tuple[int, ...], length: int, most_cells: int) -> list[list[Band]]:
    """Return bands of at most ``most_cells`` cells by rows and columns, which do not divide parts.

    A band is at least one part, for a reference period of ``length`` days: whole rows, or pieces of one row.

    Examples
    --------
    >>> [[band.label for band in row] for row in plan_bands((4, 2), PART_VALUES // 2, 4)]
    [['y00000-00002_x00000-00002'], ['y00002-00004_x00000-00002']]
    """
    height, width = grid_of(shape)
    numbers = parts_of((height, width), length)
    rows = [0, *(1 + np.flatnonzero(np.diff(numbers[:, 0]))), height]
    columns = [0, *(1 + np.flatnonzero(np.diff(numbers[0]))), width]
    lines = _gathered(rows, max(most_cells // width, 1))
    steps = [0, width] if most_cells >= width * (rows[1] - rows[0]) else _gathered(columns, most_cells)
    return [
        [Band(int(top), int(bottom), int(left), int(right)) for left, right in pairwise(steps)]
        for top, bottom in pairwise(lines)
    ]


def _gathered(edges: list[int], most: int) -> list[int]:
    """Return some of the edges, such that steps are at most ``most`` where single ones are."""
    kept = [edges[0]]
    for edge, following in zip(edges[1:], [*edges[2:], np.inf], strict=True):
        if following - kept[-1] > most:
            kept.append(edge)
    return kept


def most_cells(cells: int, length: int, longest: int, window: int | None, quantiles: int) -> int:
    """Return the largest number of cells per band.

    Parameters
    ----------
    cells : int
        Number of all cells.
    length, longest : int
        Days of the reference period and of the longest record.
    window, quantiles : int
        Largest window and number of quantiles among the variables.
    """
    limit = option("max_memory")
    free = bytes_of(limit) - resident_bytes(False) if limit else psutil.virtual_memory().available * FREE_SHARE
    # A longer record is ranked in windows of up to 1.5 times the reference period.
    part = PART_VALUES * min(1.5, max(1.0, longest / max(length, 1))) * (window or 1) * RANK_BYTES
    per_cell = VALUE_BYTES * max(length, longest) + TABLE_BYTES * quantiles
    fitting = int(max(free - READING_BYTES - part, 0) / per_cell)
    return max(min(fitting, -(-cells // FEWEST_BANDS)), 1)


def plan_record(shape: tuple[int, ...], length: int, longest: int, quantiles: int) -> list[list[Band]]:
    """Return the bands of a record that fit the memory."""
    cells = int(np.prod(shape, dtype=int))
    return plan_bands(shape, length, most_cells(cells, length, longest, WINDOW, quantiles))
