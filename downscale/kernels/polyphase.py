"""Polyphase decomposition of a transposed-convolution kernel.

Along each axis fine cell ``n = s q + r`` is ``y[n] = sum_d x[q - d] w[s d + r + p]``: ``s`` ordinary convolutions on
the coarse grid, one per phase ``r``. This gather form computes a fine value from the coarse cells around it; the
scatter form spreads a coarse value over fine ones; the numbers are the same.

As a filter bank this is the noble identity: filtering between inserted zeros at the fine rate equals filtering with the
``s`` polyphase components at the coarse rate and interleaving the results. The right side needs ``prod(s)`` times less
work, since it never multiplies by an inserted zero. :mod:`downscale.nn.gather` and the engine use it, and
`noble_identity_error` measures the difference of both sides.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from downscale.errors import ShapeError
from downscale.kernels.laws import Size, geometry_of, kernel_geometry


def tap_range(kernel_size: int, stride: int, padding: int) -> tuple[int, int]:
    """Return the first and last offset ``d`` of the coarse cells ``q - d`` that the fine cells of ``q`` depend on.

    The gather form thus needs ``last`` coarse cells before the refined ones and ``-first`` after them.

    Examples
    --------
    >>> tap_range(4, 2, 1), tap_range(28, 4, 12), tap_range(3, 2, 0)
    ((-1, 1), (-3, 3), (0, 1))
    """
    return -padding // stride, (kernel_size - 1 - padding) // stride


def split(kernel: Tensor, stride: Size, padding: Size | None = None) -> Tensor:
    """Return the phases of a kernel of shape (..., kh, kw), shape (..., s_h, s_w, taps_h, taps_w).

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
    """Return the kernel of phases of shape (..., s_h, s_w, taps_h, taps_w): the inverse of `split`.

    Entries outside the kernel are dropped.

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
    """Return the number of zeros before the kernel in its table of taps, and the number of taps."""
    first, last = tap_range(size, stride, padding)
    return -first * stride - padding, last - first + 1


def filtered(coarse: Tensor, kernel: Tensor, stride: Size, padding: Size | None = None) -> Tensor:
    """Insert zeros between the cells of a field, then filter: the left side of the noble identity.

    Parameters
    ----------
    coarse : Tensor, shape (n,) or (n_y, n_x)
        Coarse field, zero beyond its edges.
    kernel : Tensor, shape (k,) or (k_y, k_x)
        One kernel.
    stride, padding : int or sequence of int
        Geometry; ``padding=None`` is the one whose output has ``n * stride`` cells, the size of all outputs here.
    """
    sizes, strides, pads = geometry_of(kernel, stride, padding)
    spread = coarse.new_zeros([n * s for n, s in zip(coarse.shape, strides, strict=True)])
    spread[tuple(slice(None, None, s) for s in strides)] = coarse
    # Convolution: tap j shifts a value by j - p cells.
    room = [(k - 1 - p, p) for k, p in zip(sizes, pads, strict=True)]
    return _convolved(F.pad(spread, _flat(room)), kernel)


def interleaved(coarse: Tensor, kernel: Tensor, stride: Size, padding: Size | None = None) -> Tensor:
    """Filter a field with each polyphase component and interleave: the right side of the noble identity.

    Parameters as in `filtered`.
    """
    axes = list(zip(*geometry_of(kernel, stride, padding), strict=True))
    strides = [step for _, step, _ in axes]
    phases = split(kernel, strides, [pad for _, _, pad in axes])
    room = [(last, -first) for first, last in (tap_range(*axis) for axis in axes)]
    extended = F.pad(coarse, _flat(room))
    fine = coarse.new_zeros([n * s for n, s in zip(coarse.shape, strides, strict=True)])
    for phase in torch.cartesian_prod(*(torch.arange(step) for step in strides)).reshape(-1, len(axes)).tolist():
        where = tuple(slice(r, None, step) for r, step in zip(phase, strides, strict=True))
        fine[where] = _convolved(extended, phases[tuple(phase)])
    return fine


def noble_identity_error(coarse: Tensor, kernel: Tensor, stride: Size, padding: Size | None = None) -> float:
    """Return the largest difference of the two sides of the noble identity: rounding, for any kernel and field.

    Parameters as in `filtered`.

    References
    ----------
    Vaidyanathan (1990), Multirate digital filters, filter banks, polyphase networks, and applications,
    Proceedings of the IEEE 78, 56-93.

    Examples
    --------
    >>> noble_identity_error(torch.arange(5.0), torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4, 2)
    0.0
    """
    sides = filtered(coarse, kernel, stride, padding), interleaved(coarse, kernel, stride, padding)
    return float((sides[0] - sides[1]).abs().max())


def _convolved(field: Tensor, kernel: Tensor) -> Tensor:
    """Convolve at positions where the kernel fits, along one or two axes."""
    convolve = F.conv1d if kernel.ndim == 1 else F.conv2d
    return convolve(field[None, None], kernel.flip(tuple(range(kernel.ndim)))[None, None])[0, 0]


def _flat(room: list[tuple[int, int]]) -> list[int]:
    return [cells for pair in reversed(room) for cells in pair]
