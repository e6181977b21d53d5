"""Transposed convolution in gather form, with a choice of edges.

Along each axis fine cell ``n = s q + r`` is ``y[n] = sum_d x[q - d] w[s d + r + p]``: ``s`` ordinary convolutions on
the coarse grid, one per phase ``r``. This gather form computes a fine value from the coarse cells around it; the
scatter form spreads a coarse value over fine ones; the numbers are the same.

As a filter bank this is the noble identity: filtering between inserted zeros at the fine rate equals filtering with the
``s`` polyphase components at the coarse rate and interleaving the results, which needs ``prod(s)`` times less work.

References
----------
Vaidyanathan (1990), Multirate digital filters, filter banks, polyphase networks, and applications, Proceedings of the
IEEE 78, 56-93.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from downscale.errors import ShapeError
from downscale.kernels.laws import Size, geometry_of, kernel_geometry
from downscale.nn.edges import EDGES, fold


def tap_range(kernel_size: int, stride: int, padding: int) -> tuple[int, int]:
    """Return the first and last offset ``d`` of the coarse cells ``q - d`` that the fine cells of ``q`` depend on.

    The gather form thus needs ``last`` coarse cells before the refined ones and ``-first`` after them.

    Examples
    --------
    >>> tap_range(4, 2, 1), tap_range(28, 4, 12), tap_range(3, 2, 0)
    ((-1, 1), (-3, 3), (0, 1))
    """
    return -padding // stride, (kernel_size - 1 - padding) // stride


def split_phases(kernel: Tensor, stride: Size, padding: Size | None = None) -> Tensor:
    """Return the phases of a kernel of shape (..., kh, kw), shape (..., s_h, s_w, taps_h, taps_w).

    Entry ``[r, d - first]`` along an axis is ``w[s d + r + p]``, zero where that is outside the kernel, with
    ``first`` from `tap_range`.  A 1-D kernel (..., k) with ``stride=(s,)`` gives (..., s, taps).
    ``padding=None`` is the padding whose output has ``n * stride`` cells.

    Examples
    --------
    >>> import torch
    >>> split_phases(torch.tensor([1.0, 2.0, 3.0, 4.0]), (2,), (1,))
    tensor([[0., 2., 4.],
            [1., 3., 0.]])
    """
    axes = list(zip(*geometry_of(kernel, stride, padding), strict=True))
    blocks: list[int] = []
    margins: list[int] = []
    for size, step, pad in axes:
        first, last = tap_range(size, step, pad)
        before, taps = -first * step - pad, last - first + 1
        blocks += [taps, step]
        margins = [before, taps * step - size - before, *margins]
    count = kernel.ndim - len(axes)
    table = F.pad(kernel, margins).reshape(*kernel.shape[:count], *blocks)
    return table.permute(*range(count), *range(count + 1, table.ndim, 2), *range(count, table.ndim, 2))


def size_pair(option: str, size: Size) -> tuple[int, int]:
    """Return sizes along (lat, lon) from one number or a pair."""
    sizes = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sizes) != 2 or not all(isinstance(number, (int, np.integer)) for number in sizes):
        raise ShapeError(
            f"{option} expected a whole number or a pair (lat, lon), received {size!r}: give one for each axis"
        )
    return int(sizes[0]), int(sizes[1])


@dataclass(frozen=True, slots=True)
class AxisGeometry:
    """Sizes of a transposed convolution along one axis."""

    kernel_size: int
    stride: int
    padding: int
    output_padding: int
    edge: str = "zeros"

    def __post_init__(self) -> None:
        kernel_geometry(self.kernel_size, self.stride, self.padding)
        # torch allows at most stride - 1; with a stride of one an even kernel needs one more for n outputs.
        largest = max(self.stride - 1, 1)
        if not 0 <= self.output_padding <= largest:
            raise ShapeError(
                f"output_padding expected 0 to max(stride - 1, 1) = {largest}, received "
                f"{self.output_padding}: change padding instead"
            )
        surplus = self.kernel_size - 2 * self.padding + self.output_padding - self.stride
        if surplus and self.edge != "zeros":
            raise ShapeError(
                f"padding_mode {self.edge!r} expected n * stride outputs, received k={self.kernel_size}, "
                f"s={self.stride}, padding={self.padding} and output_padding={self.output_padding}, making "
                f"n * stride {surplus:+d}: leave padding out, or take padding_mode='zeros'"
            )

    def output_size(self, cells: int) -> int:
        """Return the number of fine cells from a number of coarse cells."""
        size = (cells - 1) * self.stride - 2 * self.padding + self.kernel_size + self.output_padding
        if cells < 1 or size < 1:
            raise ShapeError(
                f"coarse field expected cells enough for an output, received {cells} with {self}, which make "
                f"{size}: take a larger field or less padding"
            )
        return size

    def rows(self, cells: int) -> tuple[int, int]:
        """Return the range of coarse rows to refine, beyond the edge if the edge mode folds back."""
        if EDGES[self.edge].overhangs:
            first, last = tap_range(self.kernel_size, self.stride, self.padding)
            return first, cells + last
        return 0, -(-self.output_size(cells) // self.stride)

    def window(self, cells: int) -> tuple[int, int]:
        """Return the range of coarse cells that these rows read."""
        start, stop = self.rows(cells)
        first, last = tap_range(self.kernel_size, self.stride, self.padding)
        return start - last, stop - first

    def trim(self, fine: Tensor, dim: int, cells: int) -> Tensor:
        """Return the fine field without the part beyond the edge, folded back if the mode does so."""
        size = self.output_size(cells)
        if EDGES[self.edge].overhangs:
            return fold(fine, dim, self.rows(cells)[0] * self.stride, size)
        return fine.narrow(dim, 0, size)


def gather(coarse: Tensor, weight: Tensor, bias: Tensor | None, axes: Sequence[AxisGeometry], groups: int) -> Tensor:
    """Return the transposed convolution of ``coarse`` (batch, in, lat, lon) or (in, lat, lon), as `torch` computes it.

    One convolution of the extended coarse field computes all phases of each coarse cell, which are interleaved.
    ``weight`` has the layout of ``torch.nn.ConvTranspose2d``, (in, out // groups, kh, kw).
    """
    if coarse.ndim not in (3, 4) or coarse.shape[-3] != weight.shape[0]:
        raise ShapeError(
            f"coarse field expected shape ([batch,] {weight.shape[0]}, lat, lon), received "
            f"{tuple(coarse.shape)}: give one channel for each input channel of the layer"
        )
    extended = coarse if coarse.ndim == 4 else coarse.unsqueeze(0)
    for dim, axis in zip((-2, -1), axes, strict=True):
        extended = EDGES[axis.edge].extend(extended, dim, *axis.window(coarse.shape[dim]))
    fine = interleave(F.conv2d(extended, phase_filters(weight, axes, groups), groups=groups), axes)
    for dim, axis in zip((-2, -1), axes, strict=True):
        fine = axis.trim(fine, dim, coarse.shape[dim])
    fine = fine if bias is None else fine + bias[:, None, None]
    return fine if coarse.ndim == 4 else fine.squeeze(0)


def phase_filters(weight: Tensor, axes: Sequence[AxisGeometry], groups: int) -> Tensor:
    """Return ``conv2d`` filters of all phases, shape (out * s_h * s_w, in // groups, taps_h, taps_w)."""
    phases = split_phases(weight, [axis.stride for axis in axes], [axis.padding for axis in axes]).flip(-2, -1)
    grouped = phases.unflatten(0, (groups, -1)).permute(0, 2, 3, 4, 1, 5, 6)
    return grouped.flatten(0, 3)


def interleave(phases: Tensor, axes: Sequence[AxisGeometry]) -> Tensor:
    """Return the phases (batch, out * s_h * s_w, lat, lon) interleaved: (batch, out, s_h lat, s_w lon)."""
    table = phases.unflatten(1, (-1, *(axis.stride for axis in axes)))
    return table.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
