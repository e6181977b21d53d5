"""Survey of the data before training: normalisation, and places of informative patches.

Normalisation uses coarse values of the training split, places those of both splits, from a bounded number of maps per
source, evenly spread over time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from downscale.errors import InputError
from downscale.nn.spec import Variable
from downscale.training.coverage import lattice
from downscale.training.maps import read_coarse, read_predictor, read_truth
from downscale.training.normalisation import Fit
from downscale.training.pairs import Source, bounds_of
from downscale.training.schema import Channel, Data, Patches
from downscale.training.split import Sides

# More maps of one source add nothing to its mean and standard deviation.
MOST_MAPS = 512
Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class Table:
    """Candidate patches of a source, with their valid fraction and variability.

    Attributes
    ----------
    rows, columns : array of int
        First coarse rows and columns of the candidates.
    size : (int, int)
        Coarse cells of a patch, no more than the source has.
    valid : array of float32, shape (maps surveyed, rows, columns)
        Valid fraction of each candidate.
    active : array of bool, of that shape
        Whether values vary within each candidate, same shape.
    maps : array of int
        Numbers of the maps surveyed, ascending.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    size: tuple[int, int]
    valid: NDArray[np.float32]
    active: NDArray[np.bool_]
    maps: NDArray[np.int64]

    def nearest(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the nearest surveyed map for each map number."""
        above = np.searchsorted(self.maps, numbers).clip(1, max(self.maps.size - 1, 1))
        below = above - 1
        above = above.clip(max=self.maps.size - 1)
        return np.where(numbers - self.maps[below] <= self.maps[above] - numbers, below, above)

    def worth(self, surveyed: int, how: Patches) -> NDArray[np.float64]:
        """Return the sampling weight of each candidate of a surveyed map, 1 if it varies; shape (rows, columns)."""
        valid = self.valid[surveyed]
        enough = (valid >= 1 - how.most_missing) & (valid > 0)
        return np.where(enough, np.where(self.active[surveyed], 1.0, how.quiet), 0.0)


@dataclass(frozen=True, eq=False)
class Survey:
    """Result of a survey.

    Attributes
    ----------
    outputs, predictors : tuple of Variable
        Variables with the parameters of their transforms.
    tables : tuple of Table
        One per source.
    spread : tuple of float
        Standard deviation of each output in its units.
    """

    outputs: tuple[Variable, ...]
    predictors: tuple[Variable, ...]
    tables: tuple[Table, ...]
    spread: tuple[float, ...]


def survey(
    sources: Sequence[Source], sides: Sequence[Sides], data: Data, how: Patches, progress: Progress | None = None
) -> Survey:
    """Survey all sources, in one pass or in two if a transform needs it.

    Raises
    ------
    InputError
        If a variable has no values, or values that do not vary; the message names the file.
    """
    channels = [*data.outputs, *data.predictors]
    fits = [[Fit(channel) for channel in channels] for _ in sources]
    bar = progress or (lambda items, total: items)
    plans = [_surveyed(source, side) for source, side in zip(sources, sides, strict=True)]
    total = sum(each.size for each, _ in plans)
    tables = []
    work = bar(((s, int(m)) for s, (maps, _) in enumerate(plans) for m in maps), total)
    found: dict[int, list[tuple[NDArray[np.float32], NDArray[np.bool_]]]] = {i: [] for i in range(len(plans))}
    for number, one in work:
        source, train = sources[number], plans[number][1]
        coarse, beside = _coarse(source, one)
        if one in train:
            for fit, values in zip(fits[number], (*coarse, *beside), strict=True):
                fit.look(values, source.grid.cell_area)
        found[number].append(candidates(coarse, _size(source, how)))
    for number, (source, (maps, _)) in enumerate(zip(sources, plans, strict=True)):
        tables.append(_table(source, how, maps, found[number]))
    weights = [source.pair.weight for source in sources]
    pooled = [Fit.pooled(each, weights) for each in zip(*fits, strict=True)]
    if any(fit.twice for fit in pooled):
        pooled = _again(sources, plans, pooled, weights)
    each = enumerate(zip(pooled, channels, strict=True))
    variables = [_variable(fit, channel, sources[0], i) for i, (fit, channel) in each]
    count = len(data.outputs)
    spread = tuple(fit.spread for fit in pooled[:count])
    return Survey(tuple(variables[:count]), tuple(variables[count:]), tuple(tables), spread)


def _surveyed(source: Source, side: Sides) -> tuple[NDArray[np.int64], set[int]]:
    """Return the maps to survey, and which of them are in the training split."""
    train, held = source.maps_of(side.train), source.maps_of(side.validation)
    chosen = [part[_evenly(part.size)] for part in (train, held)]
    return np.sort(np.concatenate(chosen)), set(chosen[0].tolist())


def _evenly(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, MOST_MAPS)).round().astype(np.int64))


def _coarse(source: Source, number: int) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    _, means = read_truth(source, number)
    coarse = read_coarse(source, number, means)
    beside = [read_predictor(source, field, number) for field in source.predictors]
    # Cells without reference are not informative.
    return np.where(np.isfinite(means), coarse, np.nan), beside


def _again(
    sources: Sequence[Source], plans: Sequence[tuple[NDArray[np.int64], set[int]]], pooled: Sequence[Fit],
    weights: Sequence[float],
) -> list[Fit]:  # fmt: skip
    """Return fits of a second pass, with the scales of all sources together."""
    fits = [[fit.begun_anew() for fit in pooled] for _ in sources]
    for source, (_, train), own in zip(sources, plans, fits, strict=True):
        for one in sorted(train):
            coarse, beside = _coarse(source, one)
            for fit, values in zip(own, (*coarse, *beside), strict=True):
                fit.add(values, source.grid.cell_area)
    return [fit.with_moved(each, weights) for fit, each in zip(pooled, zip(*fits, strict=True), strict=True)]


def _variable(fit: Fit, channel: Channel, first: Source, index: int) -> Variable:
    """Return a variable of the model, with name and units of the first source."""
    field = (*first.outputs, *first.predictors)[index]
    attrs = field.maps.attrs
    bounds = bounds_of(channel, field.maps, field.factor, field.offset)
    return fit.variable(channel.units or str(attrs.get("units", "1")), str(attrs.get("standard_name", "")), bounds)


def _size(source: Source, how: Patches) -> tuple[int, int]:
    return min(how.size[0], source.grid.shape[0]), min(how.size[1], source.grid.shape[1])


def _table(source: Source, how: Patches, maps: NDArray[np.int64], found: list[Any]) -> Table:
    size = _size(source, how)
    rows, columns = (lattice(n, s) for n, s in zip(source.grid.shape, size, strict=True))
    if not found:
        shape = (0, rows.size, columns.size)
        return Table(rows, columns, size, np.zeros(shape, np.float32), np.zeros(shape, bool), maps)
    valid = np.stack([one for one, _ in found])
    if not (valid > 0).any():
        raise InputError(f"{source.label}: expected values to learn from, received missing ones only; check the file")
    return Table(rows, columns, size, valid, np.stack([one for _, one in found]), maps)


def candidates(
    coarse: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the valid fraction of each candidate patch, and whether any variable varies within it.

    Parameters
    ----------
    coarse : array, shape (V, n_y, n_x)
        Coarse values of the outputs.
    size : (int, int)
        Coarse cells of a patch.
    """
    rows, columns = (lattice(n, s) for n, s in zip(coarse.shape[-2:], size, strict=True))
    known = np.isfinite(coarse)
    windows = [
        sliding_window_view(part, size, axis=(-2, -1))[:, rows][:, :, columns]
        for part in (known, np.where(known, coarse, np.inf), np.where(known, coarse, -np.inf))
    ]
    valid = windows[0].mean(axis=(0, -2, -1), dtype=np.float32)
    active = (windows[2].max(axis=(-2, -1)) > windows[1].min(axis=(-2, -1))).any(axis=0)
    return valid, active
