"""Fine fields with given footprint-weighted averages: ``A H y = x``.

A footprint averages over an area around a coarse cell, not over the cell. Among all fine fields that explain the coarse
values, the solution has the least Sobolev seminorm, which combines deconvolution and downscaling.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from downscale.deconvolution.tikhonov import conjugate_gradients, filter_mirrored, laplacian, mirror_symbol
from downscale.fields.aggregate import Aggregation
from downscale.fields.conserve import Bound

if TYPE_CHECKING:
    from torch import Tensor

    from downscale.deconvolution.blur import Blur

# Tolerance of the coarse values, relative to the largest of a map, and limits of the iteration.
TOLERANCE, MOST_STEPS, REFINEMENTS = 1e-10, 400, 4
# Alternations between bounds and coarse values.
ROUNDS = 200
# Variance of the mean of a map, as a multiple of that of its longest wave.
MEAN_VARIANCE = 100.0
LEAST_POWER = 1e-9


@dataclass(frozen=True, eq=False)
class FootprintOperator:
    """Observation operator of an instrument on a fine field, ``B = A H``, with its adjoint and covariance.

    Attributes
    ----------
    blur : Blur
        The footprint H on the fine cells, among valid ones.
    cells : Aggregation
        The averages A over coarse cells.
    order : float
        Order of the Sobolev seminorm, not necessarily an integer.
    """

    blur: Blur
    cells: Aggregation
    order: float = 1.25

    def forward(self, fine: Tensor) -> Tensor:
        """Return ``A H y``, zero where a coarse cell has no valid part."""
        blurred = self.blur.forward(fine)
        return torch.nan_to_num(self.cells.apply_mask(None if self.blur.complete else self.blur.mask > 0).mean(blurred))

    def back(self, coarse: Tensor) -> Tensor:
        """Return the adjoint in area weights: ``H* S``."""
        return self.blur.back(self.cells.broadcast_to_fine(coarse) * self.blur.mask)

    @cached_property
    def area(self) -> Tensor:
        """Valid areas of coarse cells."""
        return self.cells.reduce_cells(self.blur.area * self.blur.mask, torch.add, 0.0)

    def product(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the inner product of coarse fields."""
        return (self.area * first * second).sum()

    @cached_property
    def _symbol(self) -> Tensor:
        """Covariance of Fourier modes that corresponds to the seminorm, for a mirrored field."""
        rough = laplacian(self.blur.uniform, self.blur.mirrored_shape, self.blur.area)
        longest = rough[rough > 0].min()
        return (longest / rough.clamp(min=float(longest))) ** self.order * torch.where(rough > 0, 1.0, MEAN_VARIANCE)

    def covariance(self, fine: Tensor) -> Tensor:
        """Return a field smoothed by the inverse of its roughness operator."""
        root = torch.sqrt(self.blur.area)
        return filter_mirrored(fine * root, self._symbol, self.blur.closed) / root * self.blur.mask

    @cached_property
    def _valid(self) -> Tensor:
        return (self.area > 0).to(self.area.dtype)

    @cached_property
    def _inverse(self) -> Tensor:
        """Inverse of the symbol of ``B K B*`` on coarse modes, for a uniform blur."""
        n_y, n_x = self.blur.mirrored_shape
        half = mirror_symbol(self.blur.uniform, self.blur.mirrored_shape, self.blur.area).abs() ** 2 * self._symbol
        columns = torch.arange(n_x, device=half.device)
        # All modes, of which a real transform holds half.
        modes = half[:, torch.minimum(columns, n_x - columns)]
        f_y, f_x = self.cells.factor_y, self.cells.factor_x
        means = [_mean_power(n, f, half) for n, f in ((n_y, f_y), (n_x, f_x))]
        power = (modes * means[0][:, None] * means[1]).reshape(f_y, n_y // f_y, f_x, n_x // f_x).sum(dim=(0, 2))
        power = power[:, : n_x // f_x // 2 + 1] / (f_y * f_x)
        return 1 / power.clamp(min=LEAST_POWER * float(power.max()))

    def solve(self, coarse: Tensor) -> Tensor:
        """Return the field of least seminorm with ``A H y = x``: ``mean + K B* mu`` by conjugate gradients.

        Invariant: a constant yields itself.
        """
        total = self.area.sum()
        if not float(total) > 0:
            return torch.zeros_like(self.blur.mask)
        mean = (self.area * coarse).sum() / total
        size = float(((coarse - mean) * self._valid).abs().max())
        fine = mean * self.blur.mask
        for _ in range(REFINEMENTS):
            if not float(self._residual(fine, coarse).abs().max()) > TOLERANCE * size:
                break
            fine = self.correct(fine, coarse)
        return fine

    def correct(self, fine: Tensor, coarse: Tensor, tolerance: float = 1e-8, steps: int = MOST_STEPS) -> Tensor:
        """Return the field with ``A H y = x`` that differs least from ``fine`` in the seminorm."""
        root = torch.sqrt(torch.where(self.area > 0, self.area, torch.ones_like(self.area)))

        def operator(mu: Tensor) -> Tensor:
            return self.forward(self.covariance(self.back(mu))) * self._valid

        def precondition(residual: Tensor) -> Tensor:
            return filter_mirrored(residual * root, self._inverse, self.blur.closed) / root * self._valid

        residual = self._residual(fine, coarse)
        mu, _ = conjugate_gradients(operator, residual, self.product, precondition, tolerance, steps)
        return fine + self.covariance(self.back(mu))

    def solve_within(self, fine: Tensor, coarse: Tensor, bounds: tuple[Bound, Bound]) -> Tensor:
        """Return a field with ``A H y = x`` and within bounds as far as these coarse values allow.

        Douglas-Rachford iteration between the two sets. The coarse values have priority: the violation of the bounds
        after ``ROUNDS`` is small if any field satisfies both.

        References
        ----------
        Douglas, J. & Rachford, H. H. (1956), On the numerical solution of heat conduction problems in two and three
        space variables, Trans. Am. Math. Soc. 82, 421-439.
        """
        low, high = bounds
        if (low is None or float(fine.min()) >= low) and (high is None or float(fine.max()) <= high):
            return fine
        shadow, solution = fine, fine
        for _ in range(ROUNDS):
            projection = shadow.clamp(low, high)
            solution = self.correct(2 * projection - shadow, coarse, 1e-3, 60)
            shadow = shadow + solution - projection
        solution = shadow.clamp(low, high) * self.blur.mask
        size = float(coarse.abs().max())
        for _ in range(REFINEMENTS):
            solution = self.correct(solution, coarse)
            if not float(self._residual(solution, coarse).abs().max()) > TOLERANCE * size:
                break
        return solution

    def _residual(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return (coarse - self.forward(fine)) * self._valid


def footprint_error(operator: FootprintOperator, fine: Tensor, coarse: Tensor) -> Tensor:
    """Return the error of each coarse cell relative to the observed magnitude, at least its mean over the map."""
    size = operator.forward(fine.abs())
    mean = operator.product(size, torch.ones_like(size)) / operator.area.sum().clamp(min=1e-300)
    scale = torch.maximum(size, mean.expand_as(size))
    error = (operator.forward(fine) - coarse).abs() / scale.clamp(min=torch.finfo(fine.dtype).tiny)
    return torch.where(operator.area > 0, error, torch.zeros_like(error))


def _mean_power(size: int, factor: int, reference: Tensor) -> Tensor:
    """Return the squared symbol of the mean over ``factor`` neighbours."""
    waves = np.arange(size) / size
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.sin(np.pi * waves * factor) / (factor * np.sin(np.pi * waves))
    return reference.new_tensor(np.where(waves == 0, 1.0, ratio) ** 2)
