"""Which patches are drawn: by their worth, the same for the same seed and round (numpy; reads nothing)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from downscale.errors import InputError
from downscale.train.maps import map_bytes
from downscale.train.pairs import Source
from downscale.train.schema import Patches
from downscale.train.survey import Table


class Key(NamedTuple):
    """Which patch: source, map, first coarse row and column, and how it is turned."""

    source: int
    number: int
    row: int
    column: int
    turn: int = 0


class Draws:
    """Which patches each round of training sees: the same for the same seed, round and number of processes.

    Parameters
    ----------
    sources : sequence of Source
        Where maps come from; patches are drawn from each as often as its weight says, whatever its size.
    tables : sequence of Table
        What the survey found.
    maps : sequence of array of int
        Numbers of the maps of each source that may be drawn.
    how : Patches
        The recipe's settings.
    seed : int
        Of all that is random.

    Raises
    ------
    InputError
        If no patch is worth drawing.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tables: Sequence[Table],
        maps: Sequence[NDArray[np.int64]],
        how: Patches,
        seed: int,
    ) -> None:
        self.sources, self.tables, self.how, self.seed = tuple(sources), tuple(tables), how, seed
        every = [(s, int(number)) for s, numbers in enumerate(maps) for number in numbers]
        worth = np.array([self._worth(*each).sum() for each in every])
        owner = np.array([source for source, _ in every], dtype=np.int64)
        # A large domain is no more of a source than a small one.
        whole = np.bincount(owner, weights=worth, minlength=len(self.sources))
        weight = np.array([source.pair.weight for source in self.sources])
        worth = worth * (weight / np.where(whole > 0, whole, 1.0))[owner]
        kept = np.flatnonzero(worth > 0)
        self.maps, self.share = [every[i] for i in kept], worth[kept] / max(worth.sum(), 1e-300)

    def _worth(self, source: int, number: int) -> NDArray[np.float64]:
        return self.tables[source].worth(number, self.how)

    def candidates(self) -> int:
        """Return the number of different places and maps that patches can be drawn from."""
        return sum(int((self._worth(*each) > 0).sum()) for each in self.maps)

    def round(self, number: int, count: int) -> list[Key]:
        """Return the keys of a round of training, in the order in which they are seen."""
        rng = np.random.default_rng([self.seed, 1, number])
        chosen = self._at_hand(rng)
        share = self.share[chosen] / self.share[chosen].sum()
        drawn = rng.choice(chosen, size=count, p=share)
        return [self._key(rng, *self.maps[i]) for i in drawn]

    def _at_hand(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return as many maps as memory holds: a round draws from these only."""
        order = rng.choice(len(self.maps), size=len(self.maps), replace=False, p=self.share)
        sizes = np.cumsum([map_bytes(self.sources[self.maps[i][0]]) for i in order])
        return np.sort(order[: max(int(np.searchsorted(sizes, self.how.cache_mb * 2**20, side="right")), 1)])

    def _key(self, rng: np.random.Generator, source: int, number: int) -> Key:
        table, worth = self.tables[source], self._worth(source, number)
        place = int(rng.choice(worth.size, p=worth.ravel() / worth.sum()))
        shape = self.sources[source].grid.shape
        corner = []
        for at, first, size, cells in zip(
            np.unravel_index(place, worth.shape), (table.rows, table.columns), table.size, shape, strict=True
        ):
            # Candidates lie half a patch apart: any place between is as good.
            moved = int(first[at]) + int(rng.integers(-(size // 4), size // 4 + 1))
            corner.append(min(max(moved, 0), cells - size))
        return Key(source, number, corner[0], corner[1], int(rng.integers(self._turns())))

    def _turns(self) -> int:
        if not self.how.augment:
            return 1
        cells = self.sources[0].cells
        return 8 if cells.factor_y == cells.factor_x and self.how.size[0] == self.how.size[1] else 4

    def fixed(self, count: int) -> list[Key]:
        """Return keys to judge by, the same every time: patches side by side, unturned, map by map."""
        rng = np.random.default_rng([self.seed, 2])
        keys = []
        for source, number in self.maps:
            table, worth = self.tables[source], self._worth(source, number)
            axes = zip((table.rows, table.columns), table.size, strict=True)
            rows, columns = (_apart(each, size) for each, size in axes)
            for i, j in ((i, j) for i in rows for j in columns):
                if rng.random() < worth[i, j]:
                    keys.append(Key(source, number, int(table.rows[i]), int(table.columns[j])))
        if len(keys) <= count:
            return keys
        return [keys[i] for i in np.sort(rng.choice(len(keys), size=count, replace=False))]


def _apart(first: NDArray[np.int64], size: int) -> list[int]:
    """Return which candidates lie side by side, without overlap."""
    chosen, end = [], 0
    for i, start in enumerate(first):
        if start >= end:
            chosen.append(i)
            end = int(start) + size
    return chosen


def require_samples(draws: Draws, least: int, side: str) -> None:
    """Raise an InputError where there are too few patches to draw.

    Raises
    ------
    InputError
        Says how many there are, and what leaves them out.
    """
    found = draws.candidates()
    if found < least:
        raise InputError(
            f"expected at least {least} patches of {draws.how.size[0]} x {draws.how.size[1]} coarse cells for {side}, "
            f"received {found}; give more times or files, a smaller patches.size, or another validation split"
        )
