"""Sums over neighbours by Fourier transforms, with uniform weights or weights for each pair of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from downscale.deconvolution.weights import AnyKernel, Kernel, RowKernels
from downscale.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor


# Largest number of row pairs whose products are formed together; beyond it they are added row by row.
AT_ONCE = 200_000


class Spread(Protocol):
    """A linear map of fields and its transpose."""

    def gather(self, field: Tensor) -> Tensor:
        """Return the sum that each cell receives."""
        ...

    def scatter(self, field: Tensor) -> Tensor:
        """Return the transpose."""
        ...


def spread_of(kernel: AnyKernel, shape: tuple[int, ...], reference: Tensor) -> Spread:
    """Return the map of a kernel on fields of ``shape``, with the data type and device of ``reference``."""
    return Everywhere(kernel, shape, reference) if isinstance(kernel, Kernel) else ByRows(kernel, shape, reference)


class Everywhere:
    """Convolution with uniform weights; cells beyond an open edge are zero."""

    def __init__(self, kernel: Kernel, shape: tuple[int, ...], reference: Tensor) -> None:
        self.shape = shape
        self.axes = tuple(range(-len(shape), 0))
        sizes = zip(shape, kernel.values.shape, kernel.periodic, strict=True)
        self.sizes = tuple(n if closed else fast_size(n + k - 1) for n, k, closed in sizes)
        if any(k > n for k, n in zip(kernel.values.shape, self.sizes, strict=True)):
            raise ShapeError(f"expected a kernel within {self.sizes} cells, received {kernel.values.shape}")
        laid = np.zeros(self.sizes)
        laid[tuple(slice(0, k) for k in kernel.values.shape)] = kernel.values
        laid = np.roll(laid, [-c for c in kernel.centre], axis=tuple(range(len(shape))))
        self.symbol = torch.fft.rfftn(reference.new_tensor(laid), dim=self.axes)

    def _applied(self, field: Tensor, symbol: Tensor) -> Tensor:
        waves = torch.fft.rfftn(field, s=self.sizes, dim=self.axes) * symbol
        wide = torch.fft.irfftn(waves, s=self.sizes, dim=self.axes)
        return wide[(..., *(slice(0, n) for n in self.shape))]

    def gather(self, field: Tensor) -> Tensor:
        """Return the sum of weights times sources."""
        return self._applied(field, self.symbol)

    def scatter(self, field: Tensor) -> Tensor:
        """Return the transpose: the sum with reversed weights."""
        return self._applied(field, self.symbol.conj())


class ByRows:
    """Convolution along rows with weights for each pair of rows."""

    def __init__(self, kernels: RowKernels, shape: tuple[int, ...], reference: Tensor) -> None:
        self.shape, self.reach = shape, kernels.reach
        n_x, width = shape[1], kernels.width
        self.size = n_x if kernels.periodic else fast_size(n_x + 2 * width)
        laid = np.zeros((*kernels.values.shape[:2], self.size))
        laid[..., : width + 1] = kernels.values[..., width:]
        laid[..., self.size - width :] += kernels.values[..., :width]
        waves = torch.fft.rfft(reference.new_tensor(laid), dim=-1)
        # Round footprints are symmetric from east to west: half the memory.
        even = bool(np.array_equal(kernels.values, kernels.values[..., ::-1]))
        self.symbol = waves.real.contiguous() if even else waves

    def gather(self, field: Tensor) -> Tensor:
        """Return the sum of weights times sources."""
        waves = torch.fft.rfft(field, n=self.size, dim=-1)
        made = self._at_once(waves) if self.symbol.numel() < AT_ONCE else self._in_turn(waves)
        return torch.fft.irfft(made, n=self.size, dim=-1)[..., : self.shape[1]]

    def scatter(self, field: Tensor) -> Tensor:
        """Return the transpose, which is the same, because each pair of cells has one density."""
        return self.gather(field)

    def _at_once(self, waves: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(torch.view_as_real(waves), (0, 0, 0, 0, self.reach, self.reach))
        near = torch.view_as_complex(wide.contiguous()).unfold(-2, 2 * self.reach + 1, 1)
        return (self.symbol.transpose(-1, -2) * near).sum(dim=-1)

    def _in_turn(self, waves: Tensor) -> Tensor:
        n_y, made = self.shape[0], torch.zeros_like(waves)
        for k in range(2 * self.reach + 1):
            shift = k - self.reach
            own = slice(max(0, -shift), min(n_y, n_y - shift))
            made[..., own, :] += self.symbol[own, k] * waves[..., own.start + shift : own.stop + shift, :]
        return made


def fast_size(size: int) -> int:
    """Return the next size that is a product of 2, 3 and 5.

    Examples
    --------
    >>> fast_size(17), fast_size(121)
    (18, 125)
    """
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1
