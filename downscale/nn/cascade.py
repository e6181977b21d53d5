"""Stochastic cascade: the Sobolev kernel and noise that extrapolates the power law of the coarse field.

    rain:  z = max(U x, 0) exp(s n),  y = P(z exp(U log(x / A z)));      smooth fields:  y = P(U x + s n - U A s n)

with U the Sobolev operator, A the cell means, and n noise of variance one. The standard deviation s follows from the
roughness of the coarse field nearby. P enforces the cell means by scaling or shifting cells; the residual is small, but
P alone would leave a step at each cell edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from downscale.errors import OptionError
from downscale.fields.aggregate import Aggregation
from downscale.fields.climatology import add_detail
from downscale.fields.noise import Draws, Noise, Window, lifetime_of
from downscale.kernels.sobolev import axis_weights
from downscale.nn.separable import EVERY_LAW, Separable
from downscale.typing import Place

if TYPE_CHECKING:
    from torch import Tensor

# The noise of an octave is white at nodes half as wide as a cell, a quarter as wide, ...
TAPS, MARGIN = 4, 2
# Stencil of the kernel for the variance of noise without its cell means.
SMOOTH_TAPS = 7
# Largest ratio of the standard deviation of noise to the smooth field.
MOST_SPREAD = 3.0
# Default smoothing of fine fields: the mean over radar composites of five kinds.
SMOOTHING, MOST_SMOOTHING = 0.9, 10.0
# Largest factor of smooth corrections to cell means; beside dry cells the logarithm is unbounded.
MOST_CORRECTION = 5.0


ONE_MEMBER = Draws()


@dataclass(frozen=True, eq=False)
class Cascade:
    """Stochastic detail without training, for one ensemble member after another; each conserves the coarse-cell means.

    The value of a fine cell depends only on seed, member, variable, position in the domain and time, and on the coarse
    cells within the halo. Noise multiplies ``positive`` values (non-negative and unbounded above) and adds to others.
    ``smoothing`` is the exponent by which the fine power law is steeper than that of the coarse field.

    References
    ----------
    Rebora, N., Ferraris, L., von Hardenberg, J. and Provenzale, A. (2006), RainFARM: rainfall downscaling by a filtered
    autoregressive model, Journal of Hydrometeorology 7, 724-738 (the idea of the extrapolated power law).
    """

    kernel: Separable
    cells: Aggregation
    positive: bool
    smoothing: float = SMOOTHING
    draws: Draws = ONE_MEMBER
    in_proportion: bool = False
    multiple_of = 1
    applies_detail = True
    channels = 2
    variable = 0
    laws = frozenset({"cell", "total"})

    def __getstate__(self) -> dict[str, Any]:
        # Cached properties are not sent to workers.
        return {key: self.__dict__[key] for key in self.__dataclass_fields__}

    @property
    def factor(self) -> tuple[int, int]:
        """Refinement of rows and columns."""
        return self.kernel.factor

    @property
    def satisfies_constraints(self) -> bool:
        """Whether cell means and bounds hold to rounding without correction: scaling preserves mean and sign."""
        return self.positive

    @cached_property
    def halo(self) -> tuple[int, int]:
        """Distance of coarse cells beyond a block that affect its fine values."""
        from downscale.fields.roughness import NEAR, REACH

        # Twice the kernel, which removes cell means of the noise and sets its standard deviation.
        y, x = self.kernel.halo or (0, 0)
        return max(REACH, NEAR + 1) + 2 * y, max(REACH, NEAR + 1) + 2 * x

    def with_noise(self, draws: Draws) -> Cascade:
        """Return the same cascade for other members."""
        return replace(self, draws=draws)

    @cached_property
    def octaves(self) -> tuple[Octave, ...]:
        """The octaves of the noise, widest first."""
        largest = max(self.factor)
        # Noise as wide as a cell is excluded, because its means are removed.
        counts = [2**j for j in range(1, math.ceil(math.log2(largest)))]
        width = math.sqrt(float(np.mean(self.kernel.grid.cell_area)))
        octaves = [Octave((min(n, self.factor[0]), min(n, self.factor[1])), self.factor) for n in (*counts, largest)]
        return tuple(replace(octave, lifetime=lifetime_of(width / max(octave.nodes)))
                     for octave in dict.fromkeys(octaves))  # fmt: skip

    def __call__(self, coarse: Tensor, place: Place) -> Tensor:
        """Return fine maps (N, ny * fy, nx * fx) from coarse values and map numbers, (N, 2, ny, nx)."""
        import torch

        numbers = _numbers(coarse[:, 1])
        # Members of one coarse map are adjacent and share everything except the noise.
        first, index = _find_distinct([number // self.draws.members for number in numbers])
        x = coarse[first, 0]
        base, deviation, weights, cells = self._shared_terms(x, place)
        noise = Noise(self.draws)
        detail = place.statics.get("detail")
        # Means of the noise are removed over all cells, means of the result are constrained over valid ones.
        valid_cells = cells.apply_mask(place.statics["mask"] > 0.5 if "mask" in place.statics else None)
        maps = base.new_empty((len(numbers), *base.shape[1:]))
        # Members are processed in turn, because neighbouring times share noise.
        for k in sorted(range(len(numbers)), key=lambda k: self.draws.member(numbers[k])):
            i = index[k]
            added = deviation[i] * self._detail(noise, numbers[k], place, weights[:, i], cells)
            smooth = base[i]
            if detail is not None:
                # Noise that multiplies is weighted by the climatology with it (Terzago et al. 2018).
                smooth = add_detail(smooth, detail[k], self.in_proportion)
            if self.positive:
                smooth = smooth.clamp_min(0)
                fine, cell_means = smooth * torch.exp(added - 0.5 * deviation[i] ** 2), x[i].clamp_min(0)
                fine = fine * torch.exp(self._smooth(_log_ratio(fine, cell_means, valid_cells), place))
                maps[k] = _scale_cells(fine, cell_means, valid_cells)
            else:
                maps[k] = smooth + (added - self._smooth(cells.mean(added), place))
        return maps

    def _smooth(self, cells: Tensor, place: Place) -> Tensor:
        """Return the smooth fine field with given cell means, shapes (ny, nx) and (ny * fy, nx * fx)."""
        return self.kernel(cells[None], place)[0]

    def _shared_terms(self, x: Tensor, place: Place) -> tuple[Tensor, Tensor, Tensor, Aggregation]:
        """Return kernel field, standard deviation and octave weights of coarse maps, and their operator A."""
        import torch

        from downscale.fields.roughness import roughness

        closed = bool(self.kernel.grid.x.periodic) and x.shape[-1] == self.kernel.grid.shape[1]
        rows = np.arange(place.row, place.row + x.shape[-2])
        columns = np.arange(place.column, place.column + x.shape[-1]) % self.kernel.grid.shape[1]
        cells = self.cells.window(rows, columns)
        statistics = roughness(x, math.sqrt(self.factor[0] * self.factor[1]), closed, self.smoothing)
        base = self.kernel(x, place)
        deviation = self.kernel(statistics.spread, place).clamp_min(0)
        if max(self.factor) == 1:
            # The mean of a cell is its only value.
            deviation = torch.zeros_like(deviation)
        if self.positive:
            base = base.clamp_min(0)
            ratio = torch.where(base > 0, deviation / torch.where(base > 0, base, torch.ones_like(base)), base * 0)
            deviation = torch.sqrt(torch.log1p(ratio.clamp_max(MOST_SPREAD) ** 2))
        powers = torch.stack([torch.exp2(-2 * i * statistics.slope) for i in range(len(self.octaves))])
        variance = sum(power * octave.variance for power, octave in zip(powers, self.octaves, strict=True))
        return base, deviation, cells.broadcast_to_fine(torch.sqrt(powers / variance)), cells

    def _detail(self, noise: Noise, number: int, place: Place, weights: Tensor, cells: Aggregation) -> Tensor:
        """Return the noise of one map, of variance one after its cell means are removed."""
        size, period = cells.coarse_shape, self.kernel.grid.shape[1] if self.kernel.grid.x.periodic else None
        total = weights.new_zeros(cells.fine_shape)
        for i, octave in enumerate(self.octaves):
            values = octave.sample(noise, number, i, (place.row, place.column), size, period)
            total += weights[i] * weights.new_tensor(values)
        return total


@dataclass(frozen=True)
class Octave:
    """Noise that is white at ``nodes`` per coarse cell along each axis, and smooth between them.

    ``factor`` is the number of fine cells per coarse cell (rows, columns), ``lifetime`` the correlation time in s.
    """

    nodes: tuple[int, int]
    factor: tuple[int, int]
    lifetime: float = 0.0

    @cached_property
    def weights(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """First of four nodes beside a fine cell and their weights, by position of the cell in its coarse cell."""
        return tuple(_spline(n, f) for n, f in zip(self.nodes, self.factor, strict=True))

    @cached_property
    def variance(self) -> float:
        """Variance of this noise after the smooth field of its means is removed."""
        axes = zip(self.nodes, self.factor, self.weights, strict=True)
        rows, columns = (_residual_moments(nodes, factor, *weights) for nodes, factor, weights in axes)
        noise, covariance, smooth = rows * columns
        return max(float(noise - 2 * covariance + smooth), 1e-9)

    def sample(
        self, noise: Noise, number: int, octave: int, corner: tuple[int, int], size: tuple[int, int], period: int | None
    ) -> np.ndarray:
        """Return the noise of a map on the fine cells of ``size`` coarse cells that start at ``corner``."""
        windows = []
        for axis in (0, 1):
            nodes = self.nodes[axis]
            circle = period * nodes if period is not None and axis == 1 else None
            windows.append(Window(corner[axis] * nodes - MARGIN, (corner[axis] + size[axis]) * nodes + MARGIN, circle))
        values = noise.at(number, octave, self.lifetime, *windows)
        return _interpolate(_interpolate(values, self, 1, size[1]), self, 0, size[0])


def _interpolate(nodes: np.ndarray, octave: Octave, axis: int, size: int) -> np.ndarray:
    """Return values on fine cells, interpolated from nodes along an axis."""
    (start, weights), step = octave.weights[axis], octave.nodes[axis]
    last = nodes.shape[1] if axis == 0 else 1
    fine = np.empty((size, start.size, last) if axis == 0 else (nodes.shape[0], size, start.size))
    for phase, (first, taps) in enumerate(zip(start, weights, strict=True)):
        begin = int(first) + MARGIN
        windows = [slice(begin + tap, begin + tap + (size - 1) * step + 1, step) for tap in range(TAPS)]
        parts = [nodes[window] if axis == 0 else nodes[:, window] for window in windows]
        total = taps[0] * parts[0] + taps[1] * parts[1] + taps[2] * parts[2] + taps[3] * parts[3]
        if axis == 0:
            fine[:, phase] = total
        else:
            fine[:, :, phase] = total
    return fine.reshape(-1, last) if axis == 0 else fine.reshape(nodes.shape[0], -1)


def _spline(nodes: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cubic B-spline weights of the nodes around each fine cell, and the first of these nodes."""
    # Nodes are centres of equal parts of the coarse cell. Lower-order splines are rougher between nodes than at them.
    position = (np.arange(factor) + 0.5) * nodes / factor - 0.5
    before = np.floor(position).astype(int)
    offset = position - before
    complement = 1 - offset
    middle = 3 * offset**3 - 6 * offset**2 + 4, 3 * complement**3 - 6 * complement**2 + 4
    weights = [complement**3, *middle, offset**3]
    return before - 1, np.stack(weights, axis=1) / 6


def _residual_moments(nodes: int, factor: int, start: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return mean squares along an axis of equal cells: of noise n, of n times U A n, and of U A n."""
    noise = np.zeros((factor, nodes + 2 * MARGIN))
    for row, first, values in zip(noise, start, weights, strict=True):
        row[first + MARGIN : first + MARGIN + TAPS] = values
    if factor == 1:
        return np.full(3, (noise**2).sum())
    # The middle of as many cells as the stencil.
    edges = np.linspace(0, SMOOTH_TAPS, SMOOTH_TAPS * factor + 1)
    kernel, middle = axis_weights(edges[::factor], edges, SMOOTH_TAPS), SMOOTH_TAPS // 2
    means, smooth = noise.mean(axis=0), np.zeros((factor, SMOOTH_TAPS * nodes + 2 * MARGIN))
    for tap, column in enumerate(kernel.weights[middle * factor : (middle + 1) * factor].T):
        smooth[:, tap * nodes : tap * nodes + means.size] += column[:, None] * means
    central = smooth[:, middle * nodes : middle * nodes + means.size]
    return np.array([(noise**2).sum(), (noise * central).sum(), (smooth**2).sum()]) / factor


def _log_ratio(fine: Tensor, x: Tensor, cells: Aggregation) -> Tensor:
    """Return the logarithm of the ratio of coarse values to cell means, zero for zero values."""
    import torch

    mean = cells.mean(fine)
    positive = mean > 0
    ratio = torch.where(positive, x, torch.ones_like(x)) / torch.where(positive, mean, torch.ones_like(mean))
    return torch.log(ratio.clamp(1 / MOST_CORRECTION, MOST_CORRECTION))


def _scale_cells(fine: Tensor, x: Tensor, cells: Aggregation) -> Tensor:
    """Return a non-negative field with its cells scaled to their coarse values."""
    from downscale.fields.conserve import multiplicative

    mean = cells.mean(fine)
    if cells.mask is not None or bool(((mean <= 0) & (x > 0)).any()):
        return multiplicative(fine, x, cells)
    return fine * cells.broadcast_to_fine(x / mean.where(mean != 0, mean.new_ones(())))


def _numbers(channel: Tensor) -> list[int]:
    """Return the number of each map, which is constant over its cells."""
    return [int(value) for value in channel[:, 0, 0].round().tolist()]


def _find_distinct(keys: list[int]) -> tuple[list[int], list[int]]:
    """Return the first index of each distinct key, and the position of every key among the distinct ones."""
    first: dict[int, int] = {}
    indices: list[int] = []
    for i, key in enumerate(keys):
        if key not in first:
            first[key] = len(indices)
            indices.append(i)
    return indices, [first[key] for key in keys]


def cascade(
    kernel: Separable, cells: Aggregation, bounds: tuple[float | None, float | None], smoothing: float | None = None
) -> Cascade:
    """Return the cascade on top of a kernel with cell conservation; ``smoothing`` is from 0 to 10."""
    smoothing = SMOOTHING if smoothing is None else smoothing
    if isinstance(smoothing, bool) or not isinstance(smoothing, (int, float)) or not 0 <= smoothing <= MOST_SMOOTHING:
        raise OptionError(f"expected smoothing from 0 to {MOST_SMOOTHING:g}, received {smoothing!r}")
    if kernel.laws != EVERY_LAW:
        raise OptionError(f"expected a kernel with cell conservation, received laws {sorted(kernel.laws)}")
    return Cascade(kernel, cells, bounds == (0.0, None), smoothing)
