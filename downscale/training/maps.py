"""Reference, coarse values and Sobolev proposal of each map, read lazily and cached within a memory limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.training.pairs import Field, Source

Array32 = NDArray[np.float32]
# Least valid fraction of a scored coarse cell: below it the mean represents another area.
WHOLE = 0.999


@dataclass(frozen=True, eq=False)
class Map:
    """One time of one source; all values in the units of the recipe, NaN where missing.

    Attributes
    ----------
    target, proposal : array, shape (V, n_fine_y, n_fine_x)
        Reference, NaN outside scored cells, and Sobolev upsampling of the coarse values.
    coarse, predictors : array, shape (V, n_y, n_x) and (P, n_y, n_x)
        Inputs of the model.
    """

    target: Array32
    proposal: Array32
    coarse: Array32
    predictors: Array32

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(array.nbytes for array in (self.target, self.proposal, self.coarse, self.predictors))


def map_bytes(source: Source) -> int:
    """Return the bytes of a map of a source in memory."""
    fine, coarse = np.prod(source.fine.shape), np.prod(source.grid.shape)
    variables = len(source.outputs)
    return int(4 * (2 * variables * fine + (variables + len(source.predictors)) * coarse))


def read_truth(source: Source, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the reference (V, fine) of a map and its means over coarse cells (V, coarse), by the operator A."""
    index = _index(source, number)
    fine = np.stack([_first(source, _smoothed(field.read(index), source.pair.smooth)) for field in source.outputs])
    return fine, _mean(source, fine)


def _smoothed(values: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """Return running means of valid values over ``cells`` cells along both axes; missing values stay missing."""
    if cells == 1:
        return values
    import torch

    from downscale.nn.framing import box_mean

    valid = np.isfinite(values)
    given = torch.from_numpy(np.where(valid, values, 0.0))[None, None]
    smooth = box_mean(given, torch.from_numpy(valid.astype(np.float64))[None, None], cells // 2, closed=False)
    return np.where(valid, smooth[0, 0].numpy(), np.nan)


def read_coarse(source: Source, number: int, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coarse input values: those of the independent model, else ``means``."""
    if source.coarse is None:
        limits = [(field.lower, field.upper) for field in source.outputs]
        # Block means of values at a bound may exceed it by rounding.
        return np.stack([mean.clip(*limit) for mean, limit in zip(means, limits, strict=True)])
    index = _index(source, number)
    return np.stack([field.read(index) for field in source.coarse])


def read_map(source: Source, number: int) -> Map:
    """Return one map with its Sobolev proposal."""
    import torch

    truth, means = read_truth(source, number)
    coarse = read_coarse(source, number, means).astype(np.float32)
    predictors = [read_predictor(source, field, number) for field in source.predictors]
    # Single precision, as in the cache: ten times as fast as double.
    proposal = source.operator(torch.from_numpy(coarse)).numpy()
    shares = source.cells.share(np.isfinite(truth), truth)
    target = np.where(source.cells.spread(shares) >= WHOLE, truth, np.nan).astype(np.float32)
    beside = np.stack(predictors).astype(np.float32) if predictors else np.empty((0, *coarse.shape[1:]), np.float32)
    return Map(target, proposal, coarse, beside)


def _index(source: Source, number: int) -> tuple[int, ...]:
    return source.index(number)[: source.outputs[0].maps.ndim - 2]


def read_predictor(source: Source, field: Field, number: int) -> NDArray[np.float64]:
    """Return one map of a predictor on the coarse cells."""
    values = field.read(_index(source, number))
    return values if source.coarse is not None else _mean(source, _first(source, values))


def _first(source: Source, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values if source.first is None else source.first.mean(values, np.isfinite(values))


def _mean(source: Source, fine: NDArray[np.float64]) -> NDArray[np.float64]:
    valid = np.isfinite(fine)
    return np.asarray(source.cells.mean(fine) if valid.all() else source.cells.mean(fine, valid))


class Shelf:
    """Cache of maps that evicts the least recently used at its memory limit.

    Parameters
    ----------
    sources : sequence of Source
        Sources of the maps.
    megabytes : float
        The limit in MB; at least one map is always cached.
    """

    def __init__(self, sources: Sequence[Source], megabytes: float) -> None:
        self.sources = tuple(sources)
        self.room = megabytes * 2**20
        self._kept: OrderedDict[tuple[int, int], Map] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        # Each worker fills its own cache.
        return {"sources": self.sources, "room": self.room, "_kept": OrderedDict(), "_bytes": 0}

    def get(self, source: int, number: int) -> Map:
        """Return a map, from the cache or from its file."""
        key = (source, number)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = read_map(self.sources[source], number)
        self._kept[key] = made
        self._bytes += made.nbytes
        while self._bytes > self.room and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return made
