"""Statistics of the data before training: normalisation, and places of informative patches.

Normalisation uses coarse values of the training split, places those of both splits, from a bounded number of maps per
source, evenly spread over time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import InputError
from downscale.nn.spec import Variable
from downscale.training.pairs import Source, Split, bounds_of, pick_evenly, read_coarse, read_predictor, read_truth
from downscale.training.sampling import Table, candidates, lattice, patch_size
from downscale.training.schema import Data, Patches

# Standard deviation relative to the mean below which the variation is rounding of stored values.
ROUNDING = 1e-7
# More maps of one source add nothing to its mean and standard deviation.
MOST_MAPS = 512
Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass
class Moments:
    """Running weighted mean and sum of squares about it, independent of the chunks up to rounding.

    Examples
    --------
    >>> both = Moments()
    >>> both.add(np.array([1.0, np.nan]), np.array([3.0, 9.0])); both.add(np.array([5.0]), np.array([1.0]))
    >>> both.mean, both.std
    (2.0, 1.73)

    References
    ----------
    Chan, T. F., Golub, G. H. and LeVeque, R. J. (1983), Algorithms for computing the sample variance, The American
    Statistician 37, 242-247.
    """

    weight: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: NDArray[Any], weights: NDArray[Any]) -> None:
        """Add values with their weights; NaN is ignored."""
        valid = np.isfinite(values)
        weights = np.where(valid, np.broadcast_to(weights, values.shape), 0.0)
        total = float(weights.sum())
        if total == 0:
            return
        values = np.where(valid, values, 0.0)
        mean = float((values * weights).sum() / total)
        squares = float((weights * np.where(valid, values - mean, 0.0) ** 2).sum())
        total_weight, step = self.weight + total, mean - self.mean
        self.squares += squares + step**2 * self.weight * total / total_weight
        self.mean += step * total / total_weight
        self.weight = total_weight

    @classmethod
    def pool(cls, parts: Iterable[Moments], weights: Iterable[float]) -> Moments:
        """Return the moments of a mixture of parts with given weights, independent of their sizes.

        Examples
        --------
        >>> few, many = Moments(1.0, 0.0, 0.0), Moments(9.0, 4.0, 0.0)
        >>> Moments.pool([few, many], [1.0, 1.0]).mean
        2.0
        """
        mixture = cls()
        for part, weight in zip(parts, weights, strict=True):
            if part.weight == 0 or weight == 0:
                continue
            total, step = mixture.weight + weight, part.mean - mixture.mean
            mixture.squares += weight * part.squares / part.weight + step**2 * mixture.weight * weight / total
            mixture.mean += step * weight / total
            mixture.weight = total
        return mixture

    @property
    def std(self) -> float:
        """Standard deviation."""
        return float(np.sqrt(self.squares / self.weight)) if self.weight else 0.0


@dataclass(frozen=True, eq=False)
class Statistics:
    """Result of a survey."""

    # Variables with the parameters of their transforms.
    outputs: tuple[Variable, ...]
    predictors: tuple[Variable, ...]
    tables: tuple[Table, ...]  # one per source
    spread: tuple[float, ...]  # standard deviation of each output in its units


def measure_statistics(
    sources: Sequence[Source], splits: Sequence[Split], data: Data, settings: Patches, progress: Progress | None = None
) -> Statistics:
    """Read all sources once, or twice if a transform needs it."""
    channels = [*data.outputs, *data.predictors]
    weights = [source.pair.weight for source in sources]
    plans = [_choose_maps(source, split) for source, split in zip(sources, splits, strict=True)]
    # By channel and source: moments of all values, of positive ones, and of the transformed ones.
    plain, positive, transformed = ([[Moments() for _ in sources] for _ in channels] for _ in range(3))
    is_log = [channel.transform == "log1p" for channel in channels]
    pending = ((s, int(m)) for s, (maps, _) in enumerate(plans) for m in maps)
    candidates_of: list[list[tuple[NDArray[np.float32], NDArray[np.bool_]]]] = [[] for _ in sources]
    for s, number in pending if progress is None else progress(pending, sum(maps.size for maps, _ in plans)):
        fields, area = _read_inputs(sources[s], number), sources[s].grid.cell_area
        for i, values in enumerate(fields) if number in plans[s][1] else ():
            plain[i][s].add(values, area)
            if is_log[i]:
                positive[i][s].add(np.where(values > 0, values, np.nan), area)
        size = patch_size(settings, sources[s].grid.shape)
        candidates_of[s].append(candidates(np.stack(fields[: len(data.outputs)]), size))
    surveys = zip(sources, plans, candidates_of, strict=True)
    tables = tuple(_table(source, settings, maps, patches) for source, (maps, _), patches in surveys)
    # The scale of "log1p" is the mean of positive values: a source counts by its area fraction with such values.
    scales = []
    for plain_moments, positive_moments in zip(plain, positive, strict=True):
        rows = zip(weights, plain_moments, positive_moments, strict=True)
        positive_weights = [weight * (part.weight / (whole.weight or 1.0)) for weight, whole, part in rows]
        mean = Moments.pool(positive_moments, positive_weights).mean
        scales.append(mean if mean > 0 else 1.0)
    for s, (_, train) in enumerate(plans) if any(is_log) else ():
        for number in sorted(train):
            fields = _read_inputs(sources[s], number)
            for i in (i for i, log in enumerate(is_log) if log):
                transformed[i][s].add(np.log1p(fields[i].clip(0) / scales[i]), sources[s].grid.cell_area)
    variables, spread = [], []
    # Names and units are those of the first source.
    for i, field in enumerate((*sources[0].outputs, *sources[0].predictors)):
        moments = Moments.pool(plain[i], weights)
        _require_variation(channels[i].name, moments)
        spread.append(moments.std)
        moments = Moments.pool(transformed[i], weights) if is_log[i] else moments
        attrs, name = field.maps.attrs, channels[i].name
        variables.append(
            Variable(
                name=name, units=channels[i].units or str(attrs.get("units", "1")),
                standard_name=str(attrs.get("standard_name", "")), transform=channels[i].transform,
                bounds=bounds_of(channels[i], field.maps, field.factor, field.offset), mean=moments.mean,
                std=moments.std, scale=scales[i],
            )
        )  # fmt: skip
    count = len(data.outputs)
    return Statistics(tuple(variables[:count]), tuple(variables[count:]), tables, tuple(spread[:count]))


def _require_variation(name: str, moments: Moments) -> None:
    if moments.weight == 0:
        raise InputError(
            f"{name}: expected values to learn from, received missing ones only; check the files, names and select"
        )
    if moments.std <= ROUNDING * abs(moments.mean):
        raise InputError(
            f"{name}: expected values that vary, received {moments.mean:g} everywhere in the training split; check the "
            "files"
        )


def _choose_maps(source: Source, split: Split) -> tuple[NDArray[np.int64], set[int]]:
    """Return the maps to read, and which of them are in the training split."""
    train, validation = (pick_evenly(source.maps_of(times), MOST_MAPS) for times in (split.train, split.validation))
    return np.sort(np.concatenate([train, validation])), set(train.tolist())


def _read_inputs(source: Source, number: int) -> list[NDArray[np.float64]]:
    """Return the coarse values of the outputs, NaN without reference, then those of the predictors."""
    _, means = read_truth(source, number)
    coarse = np.where(np.isfinite(means), read_coarse(source, number, means), np.nan)
    return [*coarse, *(read_predictor(source, field, number) for field in source.predictors)]


def _table(source: Source, settings: Patches, maps: NDArray[np.int64], patches: list[Any]) -> Table:
    size = patch_size(settings, source.grid.shape)
    rows, columns = (lattice(n, s) for n, s in zip(source.grid.shape, size, strict=True))
    if not patches:
        shape = (0, rows.size, columns.size)
        return Table(rows, columns, size, np.zeros(shape, np.float32), np.zeros(shape, bool), maps)
    valid = np.stack([fraction for fraction, _ in patches])
    if not (valid > 0).any():
        raise InputError(f"{source.label}: expected values to learn from, received missing ones only; check the file")
    return Table(rows, columns, size, valid, np.stack([active for _, active in patches]), maps)
