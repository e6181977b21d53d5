"""Overlaps of two axes of cells: first-order conservative weights along one axis (numpy only).

The weights of a rectilinear grid are products of one matrix an axis, on the sphere too, because areas are products of
measures (longitude, sine of latitude).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from downscale.errors import GridError
from downscale.grid.axis import FULL_CIRCLE, CellAxis


def overlap_weights(source: CellAxis, target: CellAxis) -> NDArray[np.float64]:
    """Return the share of each source cell in each target cell, shape (n_target, n_source).

    Rows add up to one where the source covers the target cell wholly, else to the covered share.

    Raises
    ------
    GridError
        If the axes are of different kinds.
    """
    if source.kind != target.kind:
        raise GridError(f"expected two axes of one kind, received {source.kind} and {target.kind}")
    total = np.zeros((target.size, source.size))
    for shift in _turns(source, target) if source.kind == "longitude" else (0.0,):
        total += _lengths(_spans(source, shift), _spans(target, 0.0))
    return total / target.measure[:, None]


def _turns(source: CellAxis, target: CellAxis) -> NDArray[np.float64]:
    """Return every turn of whole circles that can bring source longitudes onto target longitudes."""
    first = np.ceil((target.edges.min() - source.edges.max()) / FULL_CIRCLE)
    last = np.floor((target.edges.max() - source.edges.min()) / FULL_CIRCLE)
    return FULL_CIRCLE * np.arange(first, last + 1)


def _spans(axis: CellAxis, shift: float) -> NDArray[np.float64]:
    moved = CellAxis(axis.edges + shift, axis.kind).measure_edges if shift else axis.measure_edges
    return np.sort(np.stack([moved[:-1], moved[1:]]), axis=0)


def _lengths(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    lower = np.maximum(target[0][:, None], source[0])
    upper = np.minimum(target[1][:, None], source[1])
    return np.clip(upper - lower, 0.0, None)
