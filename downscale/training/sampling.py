"""Reproducible sampling of patches, in which every square kilometre has the same weight.

Training patches are sampled in proportion to their area; validation patches are adjacent tiles. In both cases some
cells belong to more patches than others, so weights are divided by the expected number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from downscale.errors import InputError
from downscale.training.pairs import Source, map_bytes
from downscale.training.schema import Patches

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
# Tiles processed at a time.
MOST_AT_ONCE = 1 << 20


def lattice(cells: int, size: int) -> Indices:
    """Return the first cells of patches along an axis: half a patch apart, the last one flush with the end.

    Examples
    --------
    >>> lattice(11, 4).tolist()
    [0, 2, 4, 6, 7]
    """
    return np.unique(np.append(np.arange(0, cells - size + 1, max(size // 2, 1)), cells - size))


def tile_places(first: Indices, size: int, margin: int) -> Indices:
    """Return the places of a lattice whose tiles cover every scored cell with least overlap.

    Examples
    --------
    >>> lattice(11, 4)[tile_places(lattice(11, 4), 4, 0)].tolist()
    [0, 4, 7]
    """
    places, step = [0], size - 2 * _margin(size, margin)
    while places[-1] < len(first) - 1:
        next_place = int(np.searchsorted(first, first[places[-1]] + step, side="right")) - 1
        places.append(max(next_place, places[-1] + 1))
    return np.array(places, dtype=np.int64)


def _margin(size: int, margin: int) -> int:
    # The margin is ignored where it leaves no cell.
    return margin if 2 * margin < size else 0


def patch_size(settings: Patches, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the coarse cells of a patch, no more than the grid has."""
    return min(settings.size[0], shape[0]), min(settings.size[1], shape[1])


def place_weights(area: Floats, rows: Indices, columns: Indices, size: tuple[int, int]) -> Floats:
    """Return the sampling weight of each place: the area of its patch, doubled at the ends, which one side covers."""
    sums = np.pad(area, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    low, high = np.ix_(rows, columns), np.ix_(rows + size[0], columns + size[1])
    patch_area = sums[high] - sums[rows + size[0]][:, columns] - sums[rows][:, columns + size[1]] + sums[low]
    return np.multiply.outer(_ends(rows.size), _ends(columns.size)) * patch_area / patch_area.mean()


def patch_coverage(area: Floats, rows: Indices, columns: Indices, size: tuple[int, int], margin: int) -> Floats:
    """Return the expected coverage of each coarse cell relative to the mean, shape (n_y, n_x); 0 if never sampled."""
    shape = area.shape
    axes = zip((rows, columns), shape, size, strict=True)
    probabilities = [_start_probability(first, n, part) for first, n, part in axes]
    corners = probabilities[0].T @ place_weights(area, rows, columns, size) @ probabilities[1]
    return _relative(_sum_cover(_sum_cover(corners, shape[0], size[0], margin, 0), shape[1], size[1], margin, 1))


def tile_coverage(
    shape: tuple[int, int], rows: Indices, columns: Indices, size: tuple[int, int], margin: int
) -> Floats:
    """Return the number of tiles on each coarse cell relative to the mean, shape ``shape``; 0 where there is none."""
    coverages = []
    for first, cells, part in zip((rows, columns), shape, size, strict=True):
        corners = np.zeros((cells - part + 1, 1))
        corners[first[tile_places(first, part, margin)]] = 1.0
        coverages.append(_sum_cover(corners, cells, part, margin, 0)[:, 0])
    return _relative(np.multiply.outer(*coverages))


def largest_shift(size: int) -> int:
    """Return the largest shift of a patch from its place in the lattice, in cells, to either side."""
    return size // 4


def _ends(count: int) -> Floats:
    weights = np.ones(count)
    if count > 2:
        weights[[0, -1]] = 2.0
    return weights


def _start_probability(first: Indices, cells: int, size: int) -> Floats:
    """Return the probability that a patch of each place begins at each cell, shape (places, cells - size + 1)."""
    probability = np.zeros((first.size, cells - size + 1))
    steps = np.arange(-largest_shift(size), largest_shift(size) + 1)
    for place, start in enumerate(first):
        np.add.at(probability[place], np.clip(start + steps, 0, cells - size), 1 / steps.size)
    return probability


def _sum_cover(corners: Floats, cells: int, size: int, margin: int, axis: int) -> Floats:
    """Return sums over the corners of patches that cover each cell along an axis, margins excluded."""
    margin = _margin(size, margin)
    start = np.zeros_like(np.take(corners, [0], axis=axis))
    sums = np.concatenate([start, corners.cumsum(axis=axis)], axis=axis)
    cell = np.arange(cells)
    last = np.clip(cell - margin + 1, 0, corners.shape[axis])
    first = np.clip(cell - size + margin + 1, 0, corners.shape[axis])
    return np.take(sums, last, axis=axis) - np.take(sums, first, axis=axis)


def _relative(coverage: Floats) -> Floats:
    # Differences of running sums leave rounding errors where coverage is zero.
    coverage = np.where(coverage > 1e-9 * coverage.max(), coverage, 0.0)
    return coverage / coverage[coverage > 0].mean()


class PatchIndex(NamedTuple):
    """Source, map, first coarse row and column, orientation and weight factor of a patch."""

    source: int
    number: int
    row: int
    column: int
    orientation: int = 0
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Table:
    """Candidate patches of a source, with their valid fraction and variability."""

    # First coarse rows and columns of the candidates.
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    size: tuple[int, int]  # coarse cells of a patch, no more than the source has
    valid: NDArray[np.float32]  # (maps surveyed, rows, columns): valid fraction of each candidate
    active: NDArray[np.bool_]  # whether values vary within each candidate, same shape
    maps: NDArray[np.int64]  # numbers of the maps surveyed, ascending

    def nearest(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the nearest surveyed map for each map number."""
        above = np.searchsorted(self.maps, numbers).clip(1, max(self.maps.size - 1, 1))
        below = above - 1
        above = above.clip(max=self.maps.size - 1)
        return np.where(numbers - self.maps[below] <= self.maps[above] - numbers, below, above)

    def sampling_weights(self, map_index: int, settings: Patches) -> NDArray[np.float64]:
        """Return the sampling weight of each candidate of a surveyed map, 1 if it varies; shape (rows, columns)."""
        valid = self.valid[map_index]
        is_valid = (valid >= 1 - settings.most_missing) & (valid > 0)
        return np.where(is_valid, np.where(self.active[map_index], 1.0, settings.dry_keep_fraction), 0.0)


def candidates(coarse: NDArray[np.float64], size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the valid fraction of each candidate patch, and whether any variable varies within it."""
    rows, columns = (lattice(n, s) for n, s in zip(coarse.shape[-2:], size, strict=True))
    finite = np.isfinite(coarse)
    windows = [
        sliding_window_view(part, size, axis=(-2, -1))[:, rows][:, :, columns]
        for part in (finite, np.where(finite, coarse, np.inf), np.where(finite, coarse, -np.inf))
    ]
    valid = windows[0].mean(axis=(0, -2, -1), dtype=np.float32)
    active = (windows[2].max(axis=(-2, -1)) > windows[1].min(axis=(-2, -1))).any(axis=0)
    return valid, active


class PatchSampler:
    """Sampler of the patches of each round, reproducible for a seed, round and number of processes.

    Within a source, patches are sampled by area, and :class:`downscale.training.patches.PatchSet` weights their cells,
    so that every square kilometre has the same expected weight. ``maps`` has the source and number of each map, and
    ``probability`` its probability.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tables: Sequence[Table],
        maps: Sequence[NDArray[np.int64]],
        settings: Patches,
        seed: int,
        orientations: int = 8,
    ) -> None:
        self.sources, self.tables, self.settings, self.seed = tuple(sources), tuple(tables), settings, seed
        self.orientations = min(orientations, self._count_orientations()) if settings.augment else 1
        self._place_weights = [place_weights(s.grid.cell_area, t.rows, t.columns, t.size)
                      for s, t in zip(sources, tables, strict=True)]  # fmt: skip
        keys, probabilities, self._candidate_count = [], [], 0
        self._numbers = tuple(maps)
        for i, (source, table, numbers) in enumerate(zip(sources, tables, maps, strict=True)):
            if not numbers.size:
                continue
            nearest = table.nearest(numbers)
            candidate_weights = [table.sampling_weights(k, settings) for k in range(len(table.maps))]
            map_weights = np.array([(w * self._place_weights[i]).sum() for w in candidate_weights])[nearest]
            count = np.array([np.count_nonzero(w) for w in candidate_weights])[nearest]
            usable = np.flatnonzero(map_weights > 0)
            self._candidate_count += int(count[usable].sum())
            keys.append(np.stack([np.full(usable.size, i), numbers[usable]], axis=1))
            # Sources count by their weight, not by the size of their domain or the length of their record.
            probabilities.append(map_weights[usable] * source.pair.weight / max(map_weights.sum(), 1e-300))
        self.maps = np.concatenate([np.empty((0, 2), np.int64), *keys])
        weights = np.concatenate([np.empty(0), *probabilities])
        self.probability = weights / max(weights.sum(), 1e-300)
        self._bytes = np.array([map_bytes(source) for source in sources])

    def _sampling_weights(self, source: int, number: int) -> NDArray[np.float64]:
        table = self.tables[source]
        return table.sampling_weights(int(table.nearest(np.array([number]))[0]), self.settings)

    def count_candidates(self) -> int:
        """Return the number of different places and maps that patches can be sampled from."""
        return self._candidate_count

    def training_keys(self, number: int, count: int) -> list[PatchIndex]:
        """Return the keys of a round of training, in their order."""
        rng = np.random.default_rng([self.seed, 1, number])
        available = self._pick_maps(rng)
        probability = self.probability[available] / self.probability[available].sum()
        indices = rng.choice(available, size=count, p=probability)
        return [self._key(rng, *map(int, self.maps[i])) for i in indices]

    def _pick_maps(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the maps of a round, as many as fit into memory."""
        sizes, limit = self._bytes[self.maps[:, 0]], self.settings.cache_mb * 2**20
        if sizes.sum() <= limit:
            return np.arange(len(self.maps))
        # Weighted sampling without replacement (exponential keys).
        order = np.argsort(rng.exponential(size=len(self.maps)) / self.probability)
        count = int(np.searchsorted(sizes[order].cumsum(), limit, side="right"))
        return np.sort(order[: max(count, 1)])

    def _key(self, rng: np.random.Generator, source: int, number: int) -> PatchIndex:
        table, weights = self.tables[source], self._sampling_weights(source, number) * self._place_weights[source]
        place = int(rng.choice(weights.size, p=weights.ravel() / weights.sum()))
        shape = self.sources[source].grid.shape
        corner = []
        for index, first, size, cells in zip(
            np.unravel_index(place, weights.shape), (table.rows, table.columns), table.size, shape, strict=True
        ):
            # Candidates are half a patch apart: shift the patch at random in between.
            start = int(first[index]) + int(rng.integers(-largest_shift(size), largest_shift(size) + 1))
            corner.append(min(max(start, 0), cells - size))
        return PatchIndex(source, number, corner[0], corner[1], int(rng.integers(self.orientations)))

    def _count_orientations(self) -> int:
        """Return 8 for patches that may be transposed, else 4."""
        cells = self.sources[0].cells
        return 8 if cells.factor_y == cells.factor_x and self.settings.size[0] == self.settings.size[1] else 4

    def validation_keys(self, count: int) -> list[PatchIndex]:
        """Return the keys of the validation patches, always the same: adjacent tiles, not reoriented, map by map.

        Only a fraction of constant tiles is kept, with larger weight. Memory does not grow with the record.
        """
        rng = np.random.default_rng([self.seed, 2])
        sample = _Reservoir(count)
        for source, table in enumerate(self.tables):
            numbers = self._numbers[source]
            if not numbers.size:
                continue
            places, chance = self._tile_chances(table)
            for part in np.array_split(numbers, max(numbers.size * len(places) // MOST_AT_ONCE, 1)):
                probability = chance[table.nearest(part)]
                map_index, tile_index = np.nonzero(rng.random(probability.shape) < probability)
                columns = [np.full(map_index.size, source), part[map_index], *places[tile_index].T]
                sample.add(rng, np.stack(columns, axis=1), probability[map_index, tile_index])
        return [PatchIndex(int(source), int(number), int(row), int(column), weight=float(1 / chance))
                for (source, number, row, column), chance in sample.rows()]  # fmt: skip

    def _tile_chances(self, table: Table) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the corners of the tiles, and the probability of keeping each on each map surveyed."""
        margin = self.settings.margin
        axes = zip((table.rows, table.columns), table.size, strict=True)
        rows, columns = (tile_places(first, size, margin) for first, size in axes)
        corners = np.stack(np.meshgrid(table.rows[rows], table.columns[columns], indexing="ij"), axis=-1)
        valid, active = (array[:, rows][:, :, columns] for array in (table.valid, table.active))
        chance = np.where(valid > 0, np.where(active, 1.0, self.settings.dry_keep_fraction), 0.0)
        return corners.reshape(-1, 2), chance.reshape(len(table.maps), -1)


class _Reservoir:
    """Uniform random sample of a fixed number of rows from a stream."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._priorities, self._rows, self._chances = np.empty(0), np.empty((0, 4), np.int64), np.empty(0)

    def add(self, rng: np.random.Generator, rows: NDArray[np.int64], chances: NDArray[np.float64]) -> None:
        """Add rows, each with its chance."""
        numbers, limit = rng.random(len(rows)), self._priorities.max() if len(self._priorities) == self.count else 1.0
        indices = np.flatnonzero(numbers < limit)
        rows, chances = rows[indices], chances[indices]
        priorities = np.concatenate([self._priorities, numbers[indices]])
        best = np.argsort(priorities, kind="stable")[: self.count]
        self._priorities, self._rows = priorities[best], np.concatenate([self._rows, rows])[best]
        self._chances = np.concatenate([self._chances, chances])[best]

    def rows(self) -> Iterator[tuple[NDArray[np.int64], float]]:
        """Yield the sampled rows in their order."""
        order = np.lexsort(self._rows.T[::-1])
        return zip(self._rows[order], self._chances[order], strict=True)


def require_samples(sampler: PatchSampler, minimum: int, side: str) -> None:
    """Raise an InputError if there are too few patches to sample from."""
    count, (rows, columns) = sampler.count_candidates(), sampler.settings.size
    if count < minimum:
        raise InputError(
            f"expected at least {minimum} patches of {rows} x {columns} coarse cells for {side}, received {count}; "
            "give more times or files, a smaller patches.size, or another validation split"
        )
