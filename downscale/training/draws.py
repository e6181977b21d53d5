"""Reproducible sampling of training and validation patches by area and information content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from downscale.errors import InputError
from downscale.training.coverage import mass, reach, tiles
from downscale.training.maps import map_bytes
from downscale.training.pairs import Source
from downscale.training.schema import Patches
from downscale.training.survey import Table

# Tiles processed at a time.
MOST_AT_ONCE = 1 << 20


class Key(NamedTuple):
    """Source, map, first coarse row and column, orientation and weight factor of a patch."""

    source: int
    number: int
    row: int
    column: int
    turn: int = 0
    weight: float = 1.0


class Draws:
    """Sampler of the patches of each round, reproducible for a seed, round and number of processes.

    Within a source, patches are sampled by area, and :class:`downscale.training.patches.PatchSet` weights their cells,
    so that every square kilometre has the same expected weight.

    Parameters
    ----------
    sources : sequence of Source
        Sources of maps; each is sampled in proportion to its weight, whatever its size.
    tables : sequence of Table
        Tables of the survey, one per source.
    maps : sequence of array of int
        Numbers of the maps of each source to sample from.
    how : Patches
        The recipe's settings.
    seed : int
        Random seed.
    turns : int
        Number of orientations to sample: 8, 4 without transposition, 1 for none.

    Attributes
    ----------
    maps : array of int, shape (maps worth drawing, 2)
        Source and number of each map.
    share : array
        Probability of each map.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tables: Sequence[Table],
        maps: Sequence[NDArray[np.int64]],
        how: Patches,
        seed: int,
        turns: int = 8,
    ) -> None:
        self.sources, self.tables, self.how, self.seed = tuple(sources), tuple(tables), how, seed
        self.turns = min(turns, self._square()) if how.augment else 1
        self._mass = [mass(s.grid.cell_area, t.rows, t.columns, t.size)
                      for s, t in zip(sources, tables, strict=True)]  # fmt: skip
        every, shares, self._places = [], [], 0
        self._numbers = tuple(maps)
        for i, (source, table, numbers) in enumerate(zip(sources, tables, maps, strict=True)):
            if not numbers.size:
                continue
            surveyed, nearest = range(len(table.maps)), table.nearest(numbers)
            worth = np.array([(table.worth(k, how) * self._mass[i]).sum() for k in surveyed])[nearest]
            count = np.array([np.count_nonzero(table.worth(k, how)) for k in surveyed])[nearest]
            kept = np.flatnonzero(worth > 0)
            self._places += int(count[kept].sum())
            every.append(np.stack([np.full(kept.size, i), numbers[kept]], axis=1))
            # Sources count by their weight, not by the size of their domain or the length of their record.
            shares.append(worth[kept] * source.pair.weight / max(worth.sum(), 1e-300))
        self.maps = np.concatenate([np.empty((0, 2), np.int64), *every])
        whole = np.concatenate([np.empty(0), *shares])
        self.share = whole / max(whole.sum(), 1e-300)
        self._bytes = np.array([map_bytes(source) for source in sources])

    def _worth(self, source: int, number: int) -> NDArray[np.float64]:
        table = self.tables[source]
        return table.worth(int(table.nearest(np.array([number]))[0]), self.how)

    def candidates(self) -> int:
        """Return the number of different places and maps that patches can be sampled from."""
        return self._places

    def round(self, number: int, count: int) -> list[Key]:
        """Return the keys of a round of training, in their order."""
        rng = np.random.default_rng([self.seed, 1, number])
        chosen = self._at_hand(rng)
        share = self.share[chosen] / self.share[chosen].sum()
        drawn = rng.choice(chosen, size=count, p=share)
        return [self._key(rng, *map(int, self.maps[i])) for i in drawn]

    def _at_hand(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the maps of a round, as many as fit into memory."""
        sizes, room = self._bytes[self.maps[:, 0]], self.how.cache_mb * 2**20
        if sizes.sum() <= room:
            return np.arange(len(self.maps))
        # Weighted sampling without replacement (exponential keys).
        order = np.argsort(rng.exponential(size=len(self.maps)) / self.share)
        count = int(np.searchsorted(sizes[order].cumsum(), room, side="right"))
        return np.sort(order[: max(count, 1)])

    def _key(self, rng: np.random.Generator, source: int, number: int) -> Key:
        table, worth = self.tables[source], self._worth(source, number) * self._mass[source]
        place = int(rng.choice(worth.size, p=worth.ravel() / worth.sum()))
        shape = self.sources[source].grid.shape
        corner = []
        for at, first, size, cells in zip(
            np.unravel_index(place, worth.shape), (table.rows, table.columns), table.size, shape, strict=True
        ):
            # Candidates are half a patch apart: shift the patch at random in between.
            moved = int(first[at]) + int(rng.integers(-reach(size), reach(size) + 1))
            corner.append(min(max(moved, 0), cells - size))
        return Key(source, number, corner[0], corner[1], int(rng.integers(self.turns)))

    def _square(self) -> int:
        """Return 8 for patches that may be transposed, else 4."""
        cells = self.sources[0].cells
        return 8 if cells.factor_y == cells.factor_x and self.how.size[0] == self.how.size[1] else 4

    def fixed(self, count: int) -> list[Key]:
        """Return the keys of the validation patches, always the same: adjacent tiles, not reoriented, map by map.

        Only a fraction of quiet tiles is kept, with larger weight. Memory does not grow with the record.
        """
        rng = np.random.default_rng([self.seed, 2])
        kept = _Sample(count)
        for source, table in enumerate(self.tables):
            numbers = self._numbers[source]
            if not numbers.size:
                continue
            places, chance = self._tiles(table)
            for part in np.array_split(numbers, max(numbers.size * len(places) // MOST_AT_ONCE, 1)):
                own = chance[table.nearest(part)]
                which, tile = np.nonzero(rng.random(own.shape) < own)
                found = [np.full(which.size, source), part[which], *places[tile].T]
                kept.add(rng, np.stack(found, axis=1), own[which, tile])
        return [Key(int(source), int(number), int(row), int(column), weight=float(1 / chance))
                for (source, number, row, column), chance in kept.rows()]  # fmt: skip

    def _tiles(self, table: Table) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the corners of the tiles, and the probability of keeping each on each map surveyed."""
        margin = self.how.margin
        rows, columns = (
            tiles(first, size, margin) for first, size in zip((table.rows, table.columns), table.size, strict=True)
        )
        corners = np.stack(np.meshgrid(table.rows[rows], table.columns[columns], indexing="ij"), axis=-1)
        valid, active = (each[:, rows][:, :, columns] for each in (table.valid, table.active))
        chance = np.where(valid > 0, np.where(active, 1.0, self.how.quiet), 0.0)
        return corners.reshape(-1, 2), chance.reshape(len(table.maps), -1)


class _Sample:
    """Uniform random sample of a fixed number of rows from a stream."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._luck, self._rows, self._beside = np.empty(0), np.empty((0, 4), np.int64), np.empty(0)

    def add(self, rng: np.random.Generator, rows: NDArray[np.int64], beside: NDArray[np.float64]) -> None:
        """Add rows, each with a number."""
        new, most = rng.random(len(rows)), self._luck.max() if len(self._luck) == self.count else 1.0
        near = np.flatnonzero(new < most)
        rows, beside, luck = rows[near], beside[near], np.concatenate([self._luck, new[near]])
        best = np.argsort(luck, kind="stable")[: self.count]
        self._luck, self._rows = luck[best], np.concatenate([self._rows, rows])[best]
        self._beside = np.concatenate([self._beside, beside])[best]

    def rows(self) -> Iterator[tuple[NDArray[np.int64], float]]:
        """Yield the sampled rows in their order."""
        order = np.lexsort(self._rows.T[::-1])
        return zip(self._rows[order], self._beside[order], strict=True)


def require_samples(draws: Draws, least: int, side: str) -> None:
    """Raise an InputError if there are too few patches to sample from.

    Raises
    ------
    InputError
        With the number of patches and the settings that limit it.
    """
    found = draws.candidates()
    if found < least:
        raise InputError(
            f"expected at least {least} patches of {draws.how.size[0]} x {draws.how.size[1]} coarse cells for {side}, "
            f"received {found}; give more times or files, a smaller patches.size, or another validation split"
        )
