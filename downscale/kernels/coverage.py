"""Coverage of fine cells by a transposed convolution, and its checkerboard.

Along an axis the number of coarse cells that contribute to fine cell ``n`` is the number of taps of its phase ``(n + p)
mod s``: ``floor(k / s)`` or one more. If the two differ, equal weights ripple with the period of the stride: the
checkerboard.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from downscale.errors import ShapeError
from downscale.kernels.laws import Size, Sizes, kernel_geometry

Counts = NDArray[np.int64]


class CoverageWarning(UserWarning):
    """The sizes of a layer give some fine cells more contributing coarse cells than others."""


def taps_of_phases(kernel_size: int, stride: int, padding: int = 0) -> Counts:
    """Return the number of taps of each phase, shape (stride,): the coarse cells that contribute to its fine cells.

    Examples
    --------
    >>> taps_of_phases(5, 2).tolist(), taps_of_phases(5, 2, 1).tolist(), taps_of_phases(6, 2).tolist()
    ([3, 2], [2, 3], [3, 3])
    """
    kernel_geometry(kernel_size, stride, padding)
    return np.bincount((np.arange(kernel_size) - padding) % stride, minlength=stride).astype(np.int64)


def variation(kernel_size: int, stride: int) -> int:
    """Return ``ceil(k / s) - floor(k / s)``, the range of the numbers of taps: zero if ``s`` divides ``k``, else one.

    References
    ----------
    Odena, Dumoulin and Olah (2016), Deconvolution and checkerboard artifacts, Distill.

    Examples
    --------
    >>> variation(4, 2), variation(5, 2), variation(9, 3)
    (0, 1, 0)
    """
    kernel_geometry(kernel_size, stride, 0)
    return -(-kernel_size // stride) - kernel_size // stride


def nearest_divisible(kernel_size: int, stride: int) -> int:
    """Return the nearest kernel size that the stride divides; of two equally near ones, the larger.

    The larger one lets neighbours overlap more. Never less than the stride.

    Examples
    --------
    >>> nearest_divisible(5, 2), nearest_divisible(7, 3), nearest_divisible(3, 4), nearest_divisible(8, 4)
    (6, 6, 4, 8)
    """
    kernel_geometry(kernel_size, stride, 0)
    return max(stride, stride * ((2 * kernel_size + stride) // (2 * stride)))


def warn_of_uneven(kernel_size: Size, stride: Size, level: int = 3) -> None:
    """Warn if a stride does not divide its kernel, with the nearest kernel size that it divides.

    ``level`` is the number of frames up to the caller that chose the sizes.
    """
    sizes, strides, _ = kernel_geometry(kernel_size, stride)
    if any(variation(size, step) for size, step in zip(sizes, strides, strict=True)):
        nearest = tuple(nearest_divisible(size, step) for size, step in zip(sizes, strides, strict=True))
        warnings.warn(
            f"kernel_size {sizes} is not a multiple of stride {strides}: some fine cells depend on more coarse cells "
            f"than others (checkerboard); the nearest good kernel_size is {nearest}",
            CoverageWarning,
            stacklevel=level,
        )


def require_no_holes(kernel_size: Size, stride: Size, padding: Size | None = None) -> None:
    """Raise ``ShapeError`` if a kernel leaves fine cells without any tap; the message names these cells."""
    axes = zip(*kernel_geometry(kernel_size, stride, padding), strict=True)
    for number, (size, step, pad) in enumerate(axes):
        holes = np.flatnonzero(taps_of_phases(size, step, pad) == 0)
        if holes.size:
            phases = ", ".join(map(str, holes))
            raise ShapeError(
                f"expected a kernel of at least the stride, received k={size} and s={step} along axis {number}: fine "
                f"cells n with n mod {step} = {phases} are touched by no coarse cell; take k={step} or "
                f"k={2 * step}"
            )


@dataclass(frozen=True)
class Coverage:
    """The coverage of a kernel without edges.

    Attributes
    ----------
    kernel_size, stride, padding : tuple of int
        One entry per axis.
    """

    kernel_size: Sizes
    stride: Sizes
    padding: Sizes

    @classmethod
    def of(cls, kernel_size: Size, stride: Size, padding: Size | None = None) -> Coverage:
        """Return the coverage for these sizes; ``padding=None`` is the one whose output has ``n * stride`` cells."""
        return cls(*kernel_geometry(kernel_size, stride, padding))

    @property
    def taps(self) -> tuple[Counts, ...]:
        """Number of taps of each phase, for each axis; phase r is that of the fine cells ``n`` with ``n mod s = r``."""
        return tuple(taps_of_phases(*axis) for axis in self._axes)

    @property
    def phases(self) -> Counts:
        """Number of taps of each phase over all axes, shape ``stride``: the overlap map of one coarse cell."""
        return _product(self.taps)

    @property
    def variation(self) -> int:
        """Range of the numbers of taps over all axes; zero if each stride divides its kernel."""
        return int(self.phases.max() - self.phases.min())

    @property
    def ripple(self) -> float:
        """Amplitude of the ripple of constants with equal weights: half the range of the coverage over its mean."""
        return self.variation / (2 * float(self.phases.mean()))

    @property
    def off_centre(self) -> tuple[float, ...]:
        """Offset of the kernel from the centre of its coarse cell in fine cells, for each axis.

        Half a cell if one of kernel and stride is even and the other odd: no padding centres such a kernel.
        """
        return tuple((size - step) / 2 - pad for size, step, pad in self._axes)

    @property
    def _axes(self) -> list[tuple[int, int, int]]:
        return list(zip(self.kernel_size, self.stride, self.padding, strict=True))

    def map(self, cells: int | Sequence[int]) -> Counts:
        """Return the number of coarse cells that contribute to each fine cell, with edges, shape ``cells * stride``.

        Parameters
        ----------
        cells : int or sequence of int
            Coarse cells along each axis.

        Examples
        --------
        >>> Coverage.of(5, 2).map(4).tolist()
        [2, 2, 3, 2, 3, 2, 2, 1]
        """
        sizes = tuple(cells) if isinstance(cells, Sequence) else (cells,) * len(self.stride)
        return _product([_axis_counts(n, *axis) for n, axis in zip(sizes, self._axes, strict=True)])


def _axis_counts(cells: int, size: int, step: int, pad: int) -> Counts:
    """Return the counts along one axis by definition: ones between zeros, convolved with ones."""
    impulses = np.zeros((cells - 1) * step + 1, dtype=np.int64)
    impulses[::step] = 1
    counts = np.convolve(impulses, np.ones(size, dtype=np.int64))
    index = np.arange(pad, pad + cells * step)
    return np.where(index < counts.size, counts[index.clip(max=counts.size - 1)], 0)


def _product(axes: Sequence[Counts]) -> Counts:
    return reduce(np.multiply.outer, axes)
