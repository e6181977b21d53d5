"""Learned models on a given grid, in the form that the engine calls."""

from __future__ import annotations

import copy
import math
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from downscale.errors import InputError, OptionError, ShapeError, listing
from downscale.fields.aggregate import Aggregation
from downscale.fields.fill import fill_missing
from downscale.fields.noise import Draws, Noise, Window, lifetime_of
from downscale.grid.latlon import RectilinearGrid
from downscale.nn.baked import baked
from downscale.nn.features import feature_bytes, shapes_only
from downscale.nn.halo import Windows, axis_halo
from downscale.nn.learned import Learned, Seen
from downscale.nn.separable import BothParts, Grid, Separable, counts_of, operator
from downscale.nn.spec import ModelSpec
from downscale.typing import Place

# Fine values per batch, on a CPU and on other devices: features need some hundred times the bytes.
MOST_VALUES, MOST_ELSEWHERE = 500_000, 8_000_000


class Bound:
    """One output of a learned model on a grid.

    Attributes
    ----------
    spec : ModelSpec
        The model.
    variable : int
        Index of the output.
    channels : int
        Number of coarse input fields, ``spec.input_channels``: outputs, predictors, times.
    factor : (int, int)
        Refinement of rows and columns.
    halo : (int, int) or None
        Distance of coarse cells that affect a fine cell, tight on this grid.
    laws : frozenset of str
        Kinds of conservation satisfied by construction.
    """

    multiple_of = 1

    def __init__(self, learned: Learned, kernel: Separable, cells: Aggregation, variable: int) -> None:
        self.learned, self.kernel, self.cells, self.variable = baked(learned), kernel, cells, variable
        self.spec: ModelSpec = learned.spec
        self.factor, self.laws = self.spec.factor, self.spec.laws
        self.channels = len(self.spec.input_channels) + self.spec.stochastic
        self.halo = self._halo()
        self.scales: tuple[tuple[float, float], ...] = ()
        self._lock = threading.Lock()
        self._elsewhere: dict[torch.device, Learned] = {}

    def rescaled(self, scales: tuple[tuple[float, float], ...]) -> Bound:
        """Return the same model for fields in other units.

        Parameters
        ----------
        scales : tuple of (float, float)
            Factor and offset from the units of each output and predictor to those of the model.
        """
        if all(scale == (1.0, 0.0) for scale in scales):
            return self
        other = copy.copy(self)
        other.scales, other._lock = scales, threading.Lock()
        return other

    def __repr__(self) -> str:
        return f"{self.spec.network} network for {self.spec.outputs[self.variable].name}, factor {self.factor}"

    def __getstate__(self) -> dict[str, Any]:
        # Copies on devices are not pickled.
        return {**{k: v for k, v in self.__dict__.items() if k != "_lock"}, "_elsewhere": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __call__(self, coarse: Tensor, place: Place) -> Tensor:
        """Return the fine field of one output, (N, ny * fy, nx * fx).

        Parameters
        ----------
        coarse : Tensor, shape (N, channels, ny, nx), or (N, ny, nx) for one channel
            Coarse fields in the order of ``spec.input_channels``; NaN where missing.
        place : Place
            Position of the fields, with the model's statics by name, and "mask" if fine cells are left out.

        Raises
        ------
        ShapeError
            If the number of channels is not that of the model.
        InputError
            If a static is missing.
        """
        given = self._given(coarse)
        if self.scales:
            # Double precision, so that conversion of units does not change a mean.
            given = given.to(torch.float64, copy=True)
            for i, (factor, offset) in enumerate(self.scales):
                given[:, i] = given[:, i] * factor + offset
        statics = self._statics(place, given)
        learned = self._beside(given)
        cells = self._cells(place, given)
        most = MOST_VALUES if given.device.type == "cpu" else MOST_ELSEWHERE
        maps = max(most // max(cells.fine_shape[0] * cells.fine_shape[1], 1), 1)
        with torch.no_grad():
            pieces = [self._refined(learned, part, place, cells, statics) for part in given.split(maps)]
        made = torch.cat(pieces)
        if self.scales and self.spec.event is None:
            factor, offset = self.scales[self.variable]
            made = (made - offset) / factor
        return made.to(coarse)

    def working_bytes(self, maps: int, shape: tuple[int, int]) -> int:
        """Return the bytes of features that a CPU needs at once.

        Parameters
        ----------
        maps : int
            Maps per call, of which a few are processed at once.
        shape : (int, int)
            Number of coarse rows and columns.
        """
        values = max(shape[0] * self.factor[0] * shape[1] * self.factor[1], 1)
        network, spec = shapes_only(self.learned.network), self.spec
        at_once = min(maps, max(MOST_VALUES // values, 1))
        return feature_bytes(network, spec.coarse_channels, spec.fine_channels, at_once, shape)  # type: ignore[arg-type]

    def _refined(
        self, learned: Learned, given: Tensor, place: Place, cells: Aggregation, statics: Tensor | None
    ) -> Tensor:
        given, noise = self._noise(given, place)
        outputs, predictors = len(self.spec.outputs), len(self.spec.predictors)
        x, others, clock = given.tensor_split([outputs, outputs + predictors], dim=1)
        closed = bool(self.kernel.grid.x.periodic) and given.shape[-1] == self.kernel.grid.shape[1]
        proposal = self.kernel(x, place)
        seen = self._seen(x, others, proposal, place, closed)
        if "mask" in place.statics:
            proposal = proposal.masked_fill(place.statics["mask"].to(x) < 0.5, torch.nan)
        fine = learned(x, proposal, cells, others, statics, clock, corner=(place.row, place.column), closed=closed,
                       noise=noise, seen=seen)  # fmt: skip
        return fine[:, self.variable]

    def _seen(self, x: Tensor, others: Tensor, proposal: Tensor, place: Place, closed: bool) -> Seen:
        """Return the inputs of the network, with missing values filled from neighbours.

        The network was trained on complete patches, so an edge of missing cells or a coast would act as a feature.
        """
        both, predictors = torch.cat([x, others], dim=1), others.shape[1]
        missing = ~torch.isfinite(both)
        if not bool(missing.any()):
            return Seen(x, proposal, others)
        both = torch.where(missing, torch.nan, both)
        both = fill_missing(both, missing, self.kernel.reach, closed, nothing=torch.nan)
        whole, others = both.tensor_split([both.shape[1] - predictors], dim=1)
        return Seen(whole, self.kernel(whole, place), others)

    def _noise(self, given: Tensor, place: Place) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the coarse fields, and the noise of the model, if any."""
        return given, None

    def _given(self, coarse: Tensor) -> Tensor:
        if coarse.ndim == 3 and self.channels == 1:
            return coarse.unsqueeze(1)
        if coarse.ndim != 4 or coarse.shape[1] != self.channels:
            raise ShapeError(
                f"expected {self.channels} coarse fields ({', '.join(self.spec.input_channels)}) of shape "
                f"(N, {self.channels}, rows, columns), received {tuple(coarse.shape)}"
            )
        return coarse

    def _statics(self, place: Place, given: Tensor) -> Tensor | None:
        missing = [name for name in self.spec.static_channels if name not in place.statics]
        if missing:
            raise InputError(
                f"expected the fine fields {listing(self.spec.static_channels)} for this model, received none of the "
                f"name {missing[0]!r}; give orog= or sftlf= on the fine grid"
            )
        fields = [torch.as_tensor(place.statics[name]).to(given) for name in self.spec.static_channels]
        return torch.stack(fields) if fields else None

    def _cells(self, place: Place, given: Tensor) -> Aggregation:
        rows = np.arange(place.row, place.row + given.shape[-2])
        columns = np.arange(place.column, place.column + given.shape[-1]) % self.kernel.grid.shape[1]
        return self.cells.window(rows, columns)

    def _beside(self, given: Tensor) -> Learned:
        """Return the model on the device of the field; each device gets one copy on first use."""
        if next(self.learned.parameters()).device == given.device:
            return self.learned
        with self._lock:
            if given.device not in self._elsewhere:
                follower = copy.deepcopy(self.learned)
                follower._apply(lambda weight: weight.to(device=given.device))
                self._elsewhere[given.device] = follower
            return self._elsewhere[given.device]

    def _halo(self) -> tuple[int, int] | None:
        network, kernel = self.learned.network, self.kernel
        if network.whole:
            return None
        axes = zip((0, 1), kernel.axes, self.factor, kernel.reach, (kernel.grid.y, kernel.grid.x), strict=True)
        y, x = (
            axis_halo(network, self.learned.radii, Windows.of(weights, count, fill, bool(cells.periodic)), axis, fill)
            for axis, weights, count, fill, cells in axes
        )
        return y, x


class Ensemble(Bound):
    """One output of an ensemble model; the last input field is the number of the map.

    The noise of a cell depends only on seed, member, variable, position in the domain and time.
    """

    draws = Draws()

    def with_noise(self, draws: Draws) -> Ensemble:
        """Return the same model for other members."""
        other = copy.copy(self)
        other.draws = draws
        return other

    def _noise(self, given: Tensor, place: Place) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        noise, numbers = Noise(self.draws), [int(n) for n in given[:, -1, 0, 0].round().tolist()]
        width = math.sqrt(float(np.mean(self.kernel.grid.cell_area)))
        levels = []
        for level, factors in enumerate(((1, 1), self.factor)):
            windows = self._windows(given, place, factors)
            life = lifetime_of(width / max(factors))
            made = [[noise.at(number, (level + 1) * 1000 + i, life, *windows) for i in range(self.spec.noise[level])]
                    for number in numbers]  # fmt: skip
            shape = (len(numbers), self.spec.noise[level], *(each.last - each.first for each in windows))
            levels.append(given.new_tensor(np.asarray(made, np.float64).reshape(shape)))
        return given[:, :-1], (levels[0], levels[1])

    def _windows(self, given: Tensor, place: Place, factors: tuple[int, int]) -> tuple[Window, Window]:
        (fy, fx), grid = factors, self.kernel.grid
        period = grid.shape[1] * fx if grid.x.periodic else None
        rows = Window(place.row * fy, (place.row + given.shape[-2]) * fy)
        return rows, Window(place.column * fx, (place.column + given.shape[-1]) * fx, period)


def bind(learned: Learned, grid: Grid, parts: BothParts, variable: int = 0) -> Bound:
    """Return one output of a model on a grid; see :meth:`~downscale.nn.learned.Learned.bind`.

    Raises
    ------
    ShapeError
        If the numbers of parts differ from the model's factor.
    OptionError
        If the model has no such output.
    """
    spec = learned.spec
    if counts_of(parts) != spec.factor:
        raise ShapeError(
            f"expected the factor of the model, {spec.factor[0]} x {spec.factor[1]}, received "
            f"{parts[0].count} x {parts[1].count}; use that factor, or a model of this one"
        )
    if not 0 <= variable < len(spec.outputs):
        raise OptionError(f"expected one of {len(spec.outputs)} outputs of the model, received number {variable}")
    kind = Ensemble if spec.stochastic else Bound
    return kind(learned, operator("sobolev", grid, parts, spec.taps, spec.order), cells_of(grid, parts), variable)


def cells_of(grid: Grid, parts: BothParts) -> Aggregation:
    """Return the operator A of a whole grid and its parts, with the areas of the grid."""
    if isinstance(grid, RectilinearGrid):
        if grid.separable:
            return Aggregation(parts[0].share, parts[1].share, *counts_of(parts))
        return Aggregation.between(grid, grid.with_axes(parts[0].axis, parts[1].axis))
    return Aggregation.between(grid, grid.refine(*counts_of(parts)))

