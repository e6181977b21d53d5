"""First-order conservative weights along one axis from overlaps of cells.

The weights of a rectilinear grid are products of one matrix per axis, on the sphere too, because areas are products of
measures (longitude, sine of latitude).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from downscale.errors import GridError
from downscale.grid.axis import FULL_CIRCLE, CellAxis, Kind, measure_edges_of, measure_of
from downscale.grid.parts import Parts

Floats = NDArray[np.float64]


def overlap_weights(source: CellAxis, target: CellAxis | Parts) -> Floats:
    """Return :func:`overlap_matrix` as a dense array, shape (n_target, n_source)."""
    return overlap_matrix(source, target).toarray()


def overlap_matrix(source: CellAxis, target: CellAxis | Parts) -> csr_array:
    """Return the sparse area fraction of each source cell in each target cell (or part), shape (n_target, n_source).

    Rows add up to one if the source covers the target cell completely, else to the covered fraction.

    Raises
    ------
    GridError
        If the axes are of different kinds.
    """
    start, stop, kind = _cells(target)
    if source.kind != kind:
        raise GridError(f"expected two axes of one kind, received {source.kind} and {kind}")
    low, high = np.minimum(start, stop), np.maximum(start, stop)
    spans, measure = _spans(low, high, kind), measure_of(start, stop, kind)
    total = csr_array((start.size, source.size))
    for shift in _turns(source, low, high) if kind == "longitude" else (0.0,):
        rows, columns, lengths = _lengths(_spans(source.edges[:-1] + shift, source.edges[1:] + shift, kind), spans)
        total += csr_array((lengths / measure[rows], (rows, columns)), total.shape)
    return total


def _cells(target: CellAxis | Parts) -> tuple[Floats, Floats, Kind]:
    if isinstance(target, Parts):
        # An empty part repeats its neighbour: it takes the same value and has no weight.
        return target.low, target.high, target.coarse.kind
    return target.edges[:-1], target.edges[1:], target.kind


def _turns(source: CellAxis, low: Floats, high: Floats) -> Floats:
    """Return all multiples of 360 degrees that can bring source longitudes onto target longitudes."""
    first = np.ceil((low.min() - source.edges.max()) / FULL_CIRCLE)
    last = np.floor((high.max() - source.edges.min()) / FULL_CIRCLE)
    return FULL_CIRCLE * np.arange(first, last + 1)


def _spans(start: Floats, stop: Floats, kind: Kind) -> Floats:
    return np.sort(np.stack([measure_edges_of(start, kind), measure_edges_of(stop, kind)]), axis=0)


def _lengths(source: Floats, target: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return target cell, source cell and common length of all pairs that overlap; source cells follow each other."""
    order = np.argsort(source[0], kind="stable")
    lower, upper = source[:, order]
    first = np.searchsorted(upper, target[0], side="right")
    count = np.maximum(np.searchsorted(lower, target[1], side="left") - first, 0)
    rows = np.repeat(np.arange(count.size), count)
    within = np.arange(rows.size) - np.repeat(np.cumsum(count) - count, count)
    columns = first[rows] + within
    lengths = np.minimum(target[1][rows], upper[columns]) - np.maximum(target[0][rows], lower[columns])
    return rows, order[columns], np.clip(lengths, 0.0, None)
