"""Blur of an instrument as an operator between valid cells that conserves the flux, and its adjoints.

The operator ``H = R P A C`` has the densities P of a point-spread function, cell areas A, and one factor per row and
column. The factors are balanced so that flux and constants are conserved up to edges and around gaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from downscale.deconvolution.weights import Instrument, Kernel, RowKernels
from downscale.fields.aggregate import like

if TYPE_CHECKING:
    from torch import Tensor

# Each balancing step halves the error of both sums, so that this many reach rounding.
STEPS, ROUNDING = 100, 1e-14
# Weights below this fraction of the largest one are rounding errors of the transforms.
NEGLIGIBLE = 1e-9
# Largest number of row pairs whose products are formed together; beyond it they are added row by row.
MOST_TOGETHER = 200_000
# Number of cached blurs: most fields of one file share a mask.
CACHED_BLURS = 4


class Blur:
    """The forward operator H of a point-spread function and its adjoints.

    Parameters
    ----------
    instrument : Instrument
        The point-spread function on its cells, the 1 to 3 last axes of fields.
    reference : tensor
        A tensor of the data type and on the device of the fields.
    mask : array of bool, optional
        True where cells are valid; invalid cells neither give nor receive flux.

    Notes
    -----
    Total conservation: the area sum of ``H y`` is that of ``y``, because columns of H add up to one in area weights, to
    rounding. Constants: ``H 1 = 1`` for a symmetric point-spread function, up to edges and around gaps; for any other
    only in the interior. A cell that reaches no valid cell retains its flux.
    """

    def __init__(self, instrument: Instrument, reference: Tensor, mask: NDArray[np.bool_] | None = None) -> None:
        self.shape, self.kernel, area = instrument.shape, instrument.kernel, instrument.area
        valid = np.ones(self.shape, bool) if mask is None else np.asarray(mask, bool)
        self.complete = bool(valid.all())
        self.area = like(np.ones(self.shape) if area is None else area / np.mean(area), reference)
        self.mask = like(valid.astype(np.float64), reference)
        kind: Any = Convolution if isinstance(self.kernel, Kernel) else RowConvolution
        self.convolution = kind(self.kernel, self.shape, reference)
        self._balance()

    def _balance(self) -> None:
        """Set the factors of rows and columns that make both sums one, by damped alternating scaling."""
        inflow = self.convolution.gather(self.area * self.mask) * self.mask
        connected = self.mask * (inflow > NEGLIGIBLE * inflow.max())
        # A cell without valid neighbours retains its flux.
        self.isolated = self.mask - connected
        start = connected / torch.sqrt(torch.where(connected > 0, inflow, torch.ones_like(inflow)))
        rows, columns = start, start
        for _ in range(STEPS):
            row_sums = rows * self.convolution.gather(self.area * columns)
            column_sums = columns * self.convolution.scatter(self.area * rows)
            deviations = [((sums - 1) * connected).abs().max() for sums in (row_sums, column_sums)]
            if torch.maximum(*deviations) <= ROUNDING:
                break
            rows, columns = (_divide_by_root(f, s) for f, s in ((rows, row_sums), (columns, column_sums)))
        column_sums = self.convolution.scatter(self.area * rows)
        # So does a source whose flux would reach no cell within rounding.
        effective = connected * (column_sums * columns > NEGLIGIBLE)
        self.isolated = self.isolated + (connected - effective)
        self.rows, self.columns = (
            rows,
            effective / torch.where(effective > 0, column_sums, torch.ones_like(column_sums)),
        )

    def forward(self, field: Tensor) -> Tensor:
        """Return the blurred field of cell means: ``H y``, zero at invalid cells."""
        return self.rows * self.convolution.gather(self.area * self.columns * field) + self.isolated * field

    def back(self, field: Tensor) -> Tensor:
        """Return the adjoint in area weights: ``sum(a v H y) = sum(a y back(v))``; ``back(1) = 1``."""
        return self.columns * self.convolution.scatter(self.area * self.rows * field) + self.isolated * field

    def transpose(self, field: Tensor) -> Tensor:
        """Return the plain transpose: ``<v, H y> = <H^T v, y>``."""
        return self.area * self.back(field / self.area)

    def flux(self, field: Tensor) -> Tensor:
        """Return the area sum over valid cells, in units of the mean area."""
        return (self.area * self.mask * field).sum(dim=tuple(range(-len(self.shape), 0)))

    def product(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the inner product of fields in area weights."""
        return (self.area * first * second).sum()

    @property
    def uniform(self) -> Kernel:
        """Uniform weights, those of a middle row if weights vary."""
        return self.kernel.middle if isinstance(self.kernel, RowKernels) else self.kernel

    @property
    def closed(self) -> tuple[bool, ...]:
        """Axes that close a circle."""
        return (False, self.kernel.periodic) if isinstance(self.kernel, RowKernels) else self.kernel.periodic

    @property
    def mirrored_shape(self) -> tuple[int, ...]:
        """Shape of fields with their mirror image appended along open axes."""
        return tuple(n if closed else 2 * n for n, closed in zip(self.shape, self.closed, strict=True))

    @property
    def circulant(self) -> bool:
        """Whether Fourier modes are its eigenvectors: closed axes, no gaps, equal areas."""
        plain = isinstance(self.kernel, Kernel) and all(self.kernel.periodic)
        return plain and self.complete and bool((self.area == 1).all())


def _divide_by_root(factor: Tensor, total: Tensor) -> Tensor:
    """Return a factor divided by the root of its sum, where that is positive."""
    positive = total > NEGLIGIBLE
    return torch.where(positive, factor / torch.sqrt(torch.where(positive, total, torch.ones_like(total))), factor)


class Convolution:
    """Convolution with uniform weights; cells beyond an open edge are zero."""

    def __init__(self, kernel: Kernel, shape: tuple[int, ...], reference: Tensor) -> None:
        self.shape = shape
        self.axes = tuple(range(-len(shape), 0))
        sizes = zip(shape, kernel.values.shape, kernel.periodic, strict=True)
        self.sizes = tuple(n if closed else next_fast_len(n + k - 1, real=True) for n, k, closed in sizes)
        padded = np.zeros(self.sizes)
        padded[tuple(slice(0, k) for k in kernel.values.shape)] = kernel.values
        padded = np.roll(padded, [-c for c in kernel.centre], axis=tuple(range(len(shape))))
        self.symbol = torch.fft.rfftn(reference.new_tensor(padded), dim=self.axes)

    def _convolve(self, field: Tensor, symbol: Tensor) -> Tensor:
        waves = torch.fft.rfftn(field, s=self.sizes, dim=self.axes) * symbol
        wide = torch.fft.irfftn(waves, s=self.sizes, dim=self.axes)
        return wide[(..., *(slice(0, n) for n in self.shape))]

    def gather(self, field: Tensor) -> Tensor:
        """Return the sum of weights times sources."""
        return self._convolve(field, self.symbol)

    def scatter(self, field: Tensor) -> Tensor:
        """Return the transpose: the sum with reversed weights."""
        return self._convolve(field, self.symbol.conj())


class RowConvolution:
    """Convolution along rows with weights for each pair of rows."""

    def __init__(self, kernels: RowKernels, shape: tuple[int, ...], reference: Tensor) -> None:
        self.shape, self.reach = shape, kernels.reach
        n_x, width = shape[1], kernels.width
        self.size = n_x if kernels.periodic else next_fast_len(n_x + 2 * width, real=True)
        padded = np.zeros((*kernels.values.shape[:2], self.size))
        padded[..., : width + 1] = kernels.values[..., width:]
        padded[..., self.size - width :] += kernels.values[..., :width]
        waves = torch.fft.rfft(reference.new_tensor(padded), dim=-1)
        # Round footprints are symmetric from east to west: half the memory.
        even = bool(np.array_equal(kernels.values, kernels.values[..., ::-1]))
        self.symbol = waves.real.contiguous() if even else waves

    def gather(self, field: Tensor) -> Tensor:
        """Return the sum of weights times sources."""
        waves = torch.fft.rfft(field, n=self.size, dim=-1)
        spectrum = self._sum_together(waves) if self.symbol.numel() < MOST_TOGETHER else self._sum_by_row(waves)
        return torch.fft.irfft(spectrum, n=self.size, dim=-1)[..., : self.shape[1]]

    def scatter(self, field: Tensor) -> Tensor:
        """Return the transpose, which is the same, because each pair of cells has one density."""
        return self.gather(field)

    def _sum_together(self, waves: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(torch.view_as_real(waves), (0, 0, 0, 0, self.reach, self.reach))
        neighbours = torch.view_as_complex(wide.contiguous()).unfold(-2, 2 * self.reach + 1, 1)
        return (self.symbol.transpose(-1, -2) * neighbours).sum(dim=-1)

    def _sum_by_row(self, waves: Tensor) -> Tensor:
        n_y, spectrum = self.shape[0], torch.zeros_like(waves)
        for k in range(2 * self.reach + 1):
            shift = k - self.reach
            rows = slice(max(0, -shift), min(n_y, n_y - shift))
            spectrum[..., rows, :] += self.symbol[rows, k] * waves[..., rows.start + shift : rows.stop + shift, :]
        return spectrum


def find_blur(instrument: Instrument, valid: NDArray[np.bool_], reference: Tensor) -> Blur:
    """Return the blur of an instrument among valid cells; the instrument holds the last few."""
    key = (np.packbits(valid).tobytes(), str(reference.device), reference.dtype)
    with instrument.lock:
        if key not in instrument.blurs:
            instrument.blurs[key] = Blur(instrument, reference, valid)
        instrument.blurs.move_to_end(key)
        while len(instrument.blurs) > CACHED_BLURS:
            instrument.blurs.popitem(last=False)
        return instrument.blurs[key]
