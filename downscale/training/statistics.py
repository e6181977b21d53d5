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
from downscale.training.pairs import Source, Split, bounds_of, evenly, read_coarse, read_predictor, read_truth
from downscale.training.sampling import Table, candidates, lattice, patch_size
from downscale.training.schema import Channel, Data, Patches

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
    def pooled(cls, parts: Iterable[Moments], weights: Iterable[float]) -> Moments:
        """Return the moments of a mixture of parts with given weights, independent of their sizes.

        Examples
        --------
        >>> few, many = Moments(1.0, 0.0, 0.0), Moments(9.0, 4.0, 0.0)
        >>> Moments.pooled([few, many], [1.0, 1.0]).mean
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


class Fit:
    """Transform parameters of one variable, from all its coarse values in the training split.

    The scale of "log1p" is the mean of positive values, which the logarithm needs. The data are therefore read twice,
    first by :meth:`add`, then by :meth:`add_transformed`.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._plain, self._positive, self._transformed = Moments(), Moments(), Moments()

    @property
    def twice(self) -> bool:
        """Whether a second pass is needed."""
        return self.channel.transform == "log1p"

    def add(self, values: NDArray[Any], weights: NDArray[Any]) -> None:
        """Add values of any shape with their areas, in the first pass."""
        self._plain.add(values, weights)
        if self.twice:
            self._positive.add(np.where(values > 0, values, np.nan), weights)

    @classmethod
    def pooled(cls, fits: Sequence[Fit], weights: Sequence[float]) -> Fit:
        """Return the fit of all sources together with their weights, independent of their sizes."""
        pool = cls(fits[0].channel)
        pool._plain = Moments.pooled([fit._plain for fit in fits], weights)
        # A source counts in proportion to the fraction of its area with positive values.
        shares = [fit._positive.weight / (fit._plain.weight or 1.0) for fit in fits]
        positive = [weight * share for weight, share in zip(weights, shares, strict=True)]
        pool._positive = Moments.pooled([fit._positive for fit in fits], positive)
        return pool

    def add_transformed(self, moments: Moments, values: NDArray[Any], weights: NDArray[Any]) -> None:
        """Add transformed values to the moments of a source, in the second pass, with the scale of all sources."""
        if self.twice:
            moments.add(np.log1p(values.clip(0) / self.scale), weights)

    def pool_transformed(self, moments: Sequence[Moments], weights: Sequence[float]) -> None:
        """Set the moments of the transformed values of all sources together."""
        self._transformed = Moments.pooled(moments, weights)

    @property
    def spread(self) -> float:
        """Standard deviation of the untransformed values."""
        return self._plain.std

    @property
    def scale(self) -> float:
        """Mean of positive values, one if there are none."""
        return self._positive.mean if self._positive.mean > 0 else 1.0

    def variable(self, units: str, standard_name: str, bounds: tuple[float | None, float | None]) -> Variable:
        """Return the variable of the model, with its transform."""
        if self._plain.weight == 0:
            raise InputError(
                f"{self.channel.name}: expected values to learn from, received missing ones only; check the files, "
                "names and select"
            )
        if self._plain.std <= ROUNDING * abs(self._plain.mean):
            raise InputError(
                f"{self.channel.name}: expected values that vary, received {self._plain.mean:g} everywhere in the "
                "training split; check the files"
            )
        moments = self._transformed if self.twice else self._plain
        numbers = {"mean": moments.mean, "std": moments.std, "scale": self.scale}
        return Variable(
            name=self.channel.name, units=units, standard_name=standard_name, transform=self.channel.transform,
            bounds=bounds, **numbers,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Statistics:
    """Result of a survey."""

    # Variables with the parameters of their transforms.
    outputs: tuple[Variable, ...]
    predictors: tuple[Variable, ...]
    tables: tuple[Table, ...]  # one per source
    spread: tuple[float, ...]  # standard deviation of each output in its units


def measure_statistics(
    sources: Sequence[Source], sides: Sequence[Split], data: Data, how: Patches, progress: Progress | None = None
) -> Statistics:
    """Read all sources once, or twice if a transform needs it."""
    channels = [*data.outputs, *data.predictors]
    fits = [[Fit(channel) for channel in channels] for _ in sources]
    plans = [_choose_maps(source, side) for source, side in zip(sources, sides, strict=True)]
    work = ((s, int(m)) for s, (maps, _) in enumerate(plans) for m in maps)
    patches_of: list[list[tuple[NDArray[np.float32], NDArray[np.bool_]]]] = [[] for _ in sources]
    for source_index, map_number in work if progress is None else progress(work, sum(maps.size for maps, _ in plans)):
        source = sources[source_index]
        coarse, predictors = _read_inputs(source, map_number)
        if map_number in plans[source_index][1]:
            for fit, values in zip(fits[source_index], (*coarse, *predictors), strict=True):
                fit.add(values, source.grid.cell_area)
        patches_of[source_index].append(candidates(coarse, patch_size(how, source.grid.shape)))
    rows = zip(sources, plans, patches_of, strict=True)
    tables = tuple(_table(source, how, maps, patches) for source, (maps, _), patches in rows)
    weights = [source.pair.weight for source in sources]
    pooled = [Fit.pooled(variable_fits, weights) for variable_fits in zip(*fits, strict=True)]
    if any(fit.twice for fit in pooled):
        moments = [[Moments() for _ in pooled] for _ in sources]
        for source, (_, train), source_moments in zip(sources, plans, moments, strict=True):
            for map_number in sorted(train):
                coarse, predictors = _read_inputs(source, map_number)
                for fit, sums, values in zip(pooled, source_moments, (*coarse, *predictors), strict=True):
                    fit.add_transformed(sums, values, source.grid.cell_area)
        for fit, variable_moments in zip(pooled, zip(*moments, strict=True), strict=True):
            fit.pool_transformed(variable_moments, weights)
    variables, count = [], len(data.outputs)
    # Names and units are those of the first source.
    for fit, channel, field in zip(pooled, channels, (*sources[0].outputs, *sources[0].predictors), strict=True):
        attrs, bounds = field.maps.attrs, bounds_of(channel, field.maps, field.factor, field.offset)
        units = channel.units or str(attrs.get("units", "1"))
        variables.append(fit.variable(units, str(attrs.get("standard_name", "")), bounds))
    spread = tuple(fit.spread for fit in pooled[:count])
    return Statistics(tuple(variables[:count]), tuple(variables[count:]), tables, spread)


def _choose_maps(source: Source, side: Split) -> tuple[NDArray[np.int64], set[int]]:
    """Return the maps to read, and which of them are in the training split."""
    train, validation = (evenly(source.maps_of(times), MOST_MAPS) for times in (side.train, side.validation))
    return np.sort(np.concatenate([train, validation])), set(train.tolist())


def _read_inputs(source: Source, number: int) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Return the coarse values of the outputs, NaN without reference, and those of the predictors."""
    _, means = read_truth(source, number)
    coarse = read_coarse(source, number, means)
    predictors = [read_predictor(source, field, number) for field in source.predictors]
    return np.where(np.isfinite(means), coarse, np.nan), predictors


def _table(source: Source, how: Patches, maps: NDArray[np.int64], found: list[Any]) -> Table:
    size = patch_size(how, source.grid.shape)
    rows, columns = (lattice(n, s) for n, s in zip(source.grid.shape, size, strict=True))
    if not found:
        shape = (0, rows.size, columns.size)
        return Table(rows, columns, size, np.zeros(shape, np.float32), np.zeros(shape, bool), maps)
    valid = np.stack([fraction for fraction, _ in found])
    if not (valid > 0).any():
        raise InputError(f"{source.label}: expected values to learn from, received missing ones only; check the file")
    return Table(rows, columns, size, valid, np.stack([active for _, active in found]), maps)
