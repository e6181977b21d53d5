"""Reproducible noise as a function of member, position and time, independent of chunks.

Numbers are not drawn in sequence. Nodes are grouped in tiles, and a tile is a function of its address (seed, member,
stream, octave, time, row and column of the tile) by a counter-based generator. Chunks, workers and resumed runs
therefore agree bit for bit.

References
----------
Salmon, J. K., Moraes, M. A., Dror, R. O. and Shaw, D. E. (2011), Parallel random numbers: as easy as 1, 2, 3,
Proceedings of SC11, article 16.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from downscale.errors import OptionError

Floats = NDArray[np.float64]
TILE = 64
# Tiles begin this many nodes before node 0: nodes just outside of a domain are in its first tiles.
AHEAD = 8
# Number of innovations per time, and their decay: fading innovations in and out is smoother than a Markov process, and
# decays faster.
WINDOW, DECAY = 4, 1.5
MOST_MEMBERS = 2**31
LIFE, LIFE_EXPONENT = 300.0, 2.0 / 3.0


@dataclass(frozen=True, eq=False)
class Draws:
    """Keys of the noise for the maps of a request: ``members`` consecutive members per coarse map.

    ``stream`` is the name of the variable, which has its own noise. ``times`` are seconds since a fixed date, one per
    coarse map, empty without time; unless ``dated`` they are step numbers, and each step has independent noise.
    """

    seed: int = 0
    members: int = 1
    stream: str = ""
    times: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    dated: bool = True

    def __post_init__(self) -> None:
        for name, low, high in (("seed", 0, 2**63), ("members", 1, MOST_MEMBERS)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value < high:
                raise OptionError(f"expected {name} to be a whole number from {low}, received {value!r}")

    def member(self, number: int) -> int:
        """Return the member of a map by its number; coarse maps in sequence, members fastest."""
        return number % self.members

    def time(self, number: int) -> int | None:
        """Return the time of a map, or None without time."""
        return int(self.times[number // self.members]) if self.times.size else None


@dataclass(frozen=True)
class Window:
    """A range of nodes along one axis, from ``first`` to before ``last``; ``period`` nodes close a circle, if given."""

    first: int
    last: int
    period: int | None = None

    @property
    def nodes(self) -> NDArray[np.int64]:
        """Numbers of the nodes in the whole domain."""
        numbers = np.arange(self.first, self.last)
        return numbers if self.period is None else numbers % self.period


class Noise:
    """Noise of one ensemble, with a cache of its innovations.

    Examples
    --------
    >>> noise = Noise(Draws(seed=1))
    >>> domain = noise.white(0, 0, 0, Window(0, 100), Window(0, 80))
    >>> np.array_equal(noise.white(0, 0, 0, Window(30, 70), Window(10, 20)), domain[30:70, 10:20])
    True
    """

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self._stream = zlib.crc32(draws.stream.encode())
        self._cache: dict[tuple[int, ...], Floats] = {}

    def white(self, member: int, octave: int, moment: int, rows: Window, columns: Window) -> Floats:
        """Return independent standard normal numbers at some nodes, shape (rows, columns)."""
        # Imported only if noise is needed: compiled loops take a second.
        from downscale.kernels.normal import fill_normal

        noise = np.empty((rows.last - rows.first, columns.last - columns.first))
        for tile_y, window_y, in_y in _tiles(rows):
            for tile_x, window_x, in_x in _tiles(columns):
                # Rows of a tile are generated in sequence, only up to the last one needed.
                bits = self._bits(member, octave, moment, tile_y, tile_x, in_y.stop)
                tile = np.empty((in_y.stop, TILE))
                fill_normal(bits, tile.reshape(-1))
                noise[window_y, window_x] = tile[in_y, in_x]
        return noise

    def at(self, number: int, octave: int, lifetime: float, rows: Window, columns: Window) -> Floats:
        """Return the noise of a map by its number: white in space, with that ``lifetime`` in seconds.

        A first-order autoregressive process truncated to ``WINDOW`` innovations, one per lifetime, of which the newest
        fades in and the oldest out. The autocorrelation is close to exp(-lag / lifetime) from one lifetime on, smoother
        at shorter lags. The variance is one.
        """
        time, member = self.draws.time(number), self.draws.member(number)
        if time is None or not self.draws.dated:
            return self.white(member, octave, time or 0, rows, columns)
        first, weights = moment_weights(time, lifetime)
        noise = np.zeros((rows.last - rows.first, columns.last - columns.first))
        for age, weight in enumerate(weights):
            if weight:
                noise += weight * self._cached_innovations(member, octave, first - age, rows, columns)
        return noise

    def _cached_innovations(self, member: int, octave: int, moment: int, rows: Window, columns: Window) -> Floats:
        """Return innovations from a cache, which maps near in time share."""
        key = (member, octave, moment, rows.first, rows.last, columns.first, columns.last)
        innovations = self._cache.get(key)
        if innovations is None:
            if len(self._cache) > 64:
                del self._cache[next(iter(self._cache))]
            innovations = self._cache[key] = self.white(member, octave, moment, rows, columns)
        return innovations

    def _bits(self, member: int, octave: int, moment: int, row: int, column: int, rows: int) -> NDArray[np.uint64]:
        """Return the random bits of the first rows of a tile, 32 per node."""
        address = (row & 0xFFFFFFFF) << 32 | column & 0xFFFFFFFF
        counter = np.array([0, address, moment & 0xFFFFFFFFFFFFFFFF, octave << 32 | self._stream], np.uint64)
        generator = np.random.Philox(key=np.array([self.draws.seed, member], np.uint64), counter=counter)
        return generator.random_raw(rows * TILE // 2)


def lifetime_of(width: float) -> float:
    """Return the lifetime in seconds of structures of a width in metres: five minutes at 1 km, as in turbulence.

    Examples
    --------
    >>> lifetime_of(1000.0), round(lifetime_of(8000.0))
    (300.0, 1200)
    """
    return LIFE * max(width / 1000.0, 1e-3) ** LIFE_EXPONENT


def moment_weights(time: int, lifetime: float) -> tuple[int, list[float]]:
    """Return the number of the newest innovation at a time, and the weights of it and of the earlier ones.

    Examples
    --------
    >>> moment, weights = moment_weights(900, 600.0)
    >>> moment, round(sum(weight**2 for weight in weights), 12)
    (1, 1.0)
    """
    # Whole seconds: rounding cannot put a time on the wrong side of an innovation.
    step = max(round(lifetime), 1)
    moment, remainder = divmod(time, step)
    age = remainder / step
    fade = [age, *[1.0] * (WINDOW - 2), 1.0 - age]
    weights = [amplitude * math.exp(-DECAY * (age + k)) for k, amplitude in enumerate(fade)]
    norm = math.sqrt(sum(weight**2 for weight in weights))
    return moment, [weight / norm for weight in weights]


def _tiles(window: Window) -> Iterable[tuple[int, slice, slice]]:
    """Yield tiles, their nodes within the window, and their position in it; across the seam of a circle if needed."""
    start = window.first
    while start < window.last:
        node = start if window.period is None else start % window.period
        tile, offset = divmod(node + AHEAD, TILE)
        count = min(TILE - offset, window.last - start)
        if window.period is not None:
            count = min(count, window.period - node)
        yield tile, slice(start - window.first, start - window.first + count), slice(offset, offset + count)
        start += count
