"""Dilated convolution that mixes the phases of an upsampling before it.

Its stencil has a spacing of ``d`` fine cells. With ``gcd(d, s) = 1`` it covers all ``s`` phases, so that differences
between phases are averaged. If ``d`` and ``s`` have a common divisor, it covers some phases only, and the checkerboard
remains.
"""

from __future__ import annotations

import warnings
from math import gcd

from torch import nn

from downscale.errors import ShapeError
from downscale.kernels.coverage import CoverageWarning


def coprime_dilation(stride: int) -> int:
    """Return the least dilation above one without a common divisor with the stride.

    Examples
    --------
    >>> [coprime_dilation(stride) for stride in (1, 2, 3, 4, 6)]
    [2, 3, 2, 3, 5]
    """
    return next(d for d in range(2, stride + 2) if gcd(d, stride) == 1)


class DilatedConv2d(nn.Conv2d):
    """Dilated convolution that keeps the size of a field and matches the stride of the upsampling before it.

    Parameters
    ----------
    in_channels, out_channels : int
        As in ``torch.nn.Conv2d``.
    factor : (int, int)
        Stride of the upsampling before it, rows and columns.
    kernel_size : int
        Stencil width along each axis, an odd number.
    dilation : (int, int), optional
        Spacing of the stencil; by default the least above one without a common divisor with the stride.

    Raises
    ------
    ShapeError
        If the kernel size is even, so that the kernel has no centre.

    Warns
    -----
    CoverageWarning
        If dilation and stride have a common divisor.

    References
    ----------
    Yu and Koltun (2016), Multi-scale context aggregation by dilated convolutions, ICLR.

    Examples
    --------
    >>> DilatedConv2d(1, 1, (2, 4)).dilation
    (3, 3)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        factor: tuple[int, int],
        kernel_size: int = 3,
        dilation: tuple[int, int] | None = None,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ShapeError(f"expected an odd kernel size, received {kernel_size}; take {kernel_size + 1}")
        chosen = (coprime_dilation(factor[0]), coprime_dilation(factor[1])) if dilation is None else dilation
        _warn_of_common(chosen, factor)
        padding = (chosen[0] * (kernel_size // 2), chosen[1] * (kernel_size // 2))
        super().__init__(in_channels, out_channels, kernel_size, padding=padding, dilation=chosen)
        self.factor = factor


def _warn_of_common(dilation: tuple[int, int], factor: tuple[int, int]) -> None:
    for axis, (d, s) in enumerate(zip(dilation, factor, strict=True)):
        if gcd(d, s) != 1:
            good = min((n for n in range(1, 2 * s + d + 2) if gcd(n, s) == 1), key=lambda n: (abs(n - d), -n))
            warnings.warn(
                f"dilation {d} and stride {s} along axis {axis} have the divisor {gcd(d, s)} in common: the taps see "
                f"some phases only and checkerboards stay; the nearest good dilation is {good}",
                CoverageWarning,
                stacklevel=3,
            )
