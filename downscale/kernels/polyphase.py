"""The phase split of a transposed-convolution kernel (torch); knows kernels alone, no field and no layer.

Along each axis fine cell ``n = s q + r`` receives ``y[n] = sum_d x[q - d] w[s d + r + p]``: ``s`` ordinary
convolutions on the coarse grid, one for each phase ``r``.  This gather form computes a fine value from the
coarse cells around it; the scatter form spreads a coarse value over fine ones; the numbers are the same.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from downscale.errors import ShapeError
from downscale.kernels.laws import Size, geometry_of, kernel_geometry


def tap_range(kernel_size: int, stride: int, padding: int) -> tuple[int, int]:
    """Return the first and last offset ``d`` of the coarse cells ``q - d`` that the fine cells of ``q`` read.

    The gather form thus needs ``last`` coarse cells before those it refines and ``-first`` after them.

    Examples
    --------
    >>> tap_range(4, 2, 1), tap_range(28, 4, 12), tap_range(3, 2, 0)
    ((-1, 1), (-3, 3), (0, 1))
    """
    return -padding // stride, (kernel_size - 1 - padding) // stride


def split(kernel: Tensor, stride: Size, padding: Size | None = None) -> Tensor:
    """Cut a kernel of shape (..., kh, kw) into its phases, shape (..., s_h, s_w, taps_h, taps_w).

    Entry ``[r, d - first]`` along an axis is ``w[s d + r + p]``, zero where that is outside the kernel, with
    ``first`` from `tap_range`.  A 1-D kernel (..., k) with ``stride=(s,)`` gives (..., s, taps).
    ``padding=None`` is the padding whose output has ``n * stride`` cells.

    Raises
    ------
    ShapeError
        If the stride or the padding does not fit the axes of the kernel.

    References
    ----------
    Vaidyanathan (1990), Multirate digital filters, filter banks, polyphase networks, and applications,
    Proceedings of the IEEE 78, 56-93.

    Examples
    --------
    >>> import torch
    >>> split(torch.tensor([1.0, 2.0, 3.0, 4.0]), (2,), (1,))
    tensor([[0., 2., 4.],
            [1., 3., 0.]])
    """
    axes = list(zip(*geometry_of(kernel, stride, padding), strict=True))
    blocks: list[int] = []
    margins: list[int] = []
    for size, step, pad in axes:
        before, taps = _margin(size, step, pad)
        blocks += [taps, step]
        margins = [before, taps * step - size - before, *margins]
    lead = kernel.ndim - len(axes)
    table = F.pad(kernel, margins).reshape(*kernel.shape[:lead], *blocks)
    return table.permute(*range(lead), *range(lead + 1, table.ndim, 2), *range(lead, table.ndim, 2))


def merge(phases: Tensor, kernel_size: Size, stride: Size, padding: Size | None = None) -> Tensor:
    """Put phases of shape (..., s_h, s_w, taps_h, taps_w) together again: the inverse of `split`.

    Entries that lie outside the kernel are dropped.

    Raises
    ------
    ShapeError
        If the phases are not those of a kernel of this size, stride and padding.

    Examples
    --------
    >>> import torch
    >>> merge(split(torch.arange(3.0), (2,), (1,)), (3,), (2,), (1,))
    tensor([0., 1., 2.])
    """
    axes = list(zip(*kernel_geometry(kernel_size, stride, padding), strict=True))
    margins = [_margin(*axis) for axis in axes]
    expected = (*(step for _, step, _ in axes), *(taps for _, taps in margins))
    lead = phases.ndim - 2 * len(axes)
    if tuple(phases.shape[max(lead, 0) :]) != expected:
        raise ShapeError(
            f"phases expected shape (..., {', '.join(map(str, expected))}), received {tuple(phases.shape)}: "
            "give the kernel size, stride and padding that split was given"
        )
    pairs = [lead + n + part for n in range(len(axes)) for part in (len(axes), 0)]
    whole = [expected[n] * expected[n + len(axes)] for n in range(len(axes))]
    kernel = phases.permute(*range(lead), *pairs).reshape(*phases.shape[:lead], *whole)
    for axis, ((size, _, _), (before, _)) in enumerate(zip(axes, margins, strict=True)):
        kernel = kernel.narrow(lead + axis, before, size)
    return kernel


def _margin(size: int, stride: int, padding: int) -> tuple[int, int]:
    """Return the zeros that stand before the kernel in its table of taps, and the number of taps."""
    first, last = tap_range(size, stride, padding)
    return -first * stride - padding, last - first + 1
