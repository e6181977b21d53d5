"""Upsampling stages for feature maps with a common signature, by any integer factor.

Each maps (B, channels, ny, nx) to (B, out_channels, ny * fy, nx * fx) and provides its reach. Factors are split into
primes, with one stage each, so that kernels stay small: 10 becomes 5 and 2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from downscale.errors import OptionError, listing
from downscale.kernels.imaging import AxisKernel, reference
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.dilated import DilatedConv2d
from downscale.nn.gather import AxisGeometry, gather
from downscale.nn.layers import Shuffle, activation, convolution, plan
from downscale.nn.shapes import Layer, Linear, Stack, Transposed, stage_factors
from downscale.nn.subpixel import ConsistentShuffle, start_alike

Factor = tuple[int, int]
STEPS = ("prime", "whole")


def conservative(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return a transposed convolution that preserves constants, so that no checkerboard occurs at any time.

    Each fine cell depends on three coarse cells along each axis; initial kernels are Sobolev kernels.
    """
    rows, columns = factor
    return ConservativeConvTranspose2d(
        channels, out_channels, (3 * rows, 3 * columns), factor, law="phase", gain="free", bias=True
    )


class Resize(nn.Module):
    """Bilinear interpolation of the features.

    References
    ----------
    Odena, Dumoulin and Olah (2016), Deconvolution and checkerboard artifacts, Distill.
    """

    def __init__(self, factor: Factor) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate between cell centres."""
        size = [cells * count for cells, count in zip(x.shape[-2:], self.factor, strict=True)]
        return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        return Linear(self.factor[axis])


class SobolevResize(nn.Module):
    """Fixed Sobolev kernel on the features, which has the smallest images of waves among the kernels here.

    Notes
    -----
    Each channel conserves cell means and preserves constants up to the edge, which reflects.
    """

    weight: Tensor

    def __init__(self, factor: Factor) -> None:
        super().__init__()
        self.factor = factor
        both = [reference("sobolev", count) if count > 1 else AxisKernel(np.ones(1), 1, 0) for count in factor]
        kernel = torch.from_numpy(np.outer(both[0].weights, both[1].weights)).float()
        self.register_buffer("weight", kernel[None, None], persistent=False)
        self.axes = [AxisGeometry(len(each.weights), each.stride, each.padding, 0, "reflect") for each in both]

    def forward(self, x: Tensor) -> Tensor:
        """Return each channel, refined."""
        weight = self.weight.type(x.dtype).expand(x.shape[1], 1, -1, -1)
        return gather(x, weight, None, self.axes, x.shape[1])

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        own = self.axes[axis]
        return Transposed(own.kernel_size, own.stride, own.padding)


def sobolev(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return the Sobolev kernel followed by a convolution; channels are mixed before, where cells are few."""
    return nn.Sequential(
        convolution(channels, out_channels, 1), SobolevResize(factor), convolution(out_channels, out_channels)
    )


def resize(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return bilinear interpolation followed by a convolution; channels are mixed before, where cells are few."""
    return nn.Sequential(
        convolution(channels, out_channels, 1), Resize(factor), convolution(out_channels, out_channels)
    )


def shuffle(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return a pixel shuffle whose phases are equal initially, as in nearest-neighbour resizing of one filter.

    References
    ----------
    Aitken et al. (2017), Checkerboard artifact free sub-pixel convolution, arXiv:1707.02937.
    """
    layer = convolution(channels, out_channels * factor[0] * factor[1])
    start_alike(layer, factor[0] * factor[1])
    return nn.Sequential(layer, Shuffle(factor))


def transposed(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return a plain, unconstrained transposed convolution with kernels of twice the stride."""
    rows, columns = (_plain_sizes(count) for count in factor)
    kernel, padding, extra = zip(rows, columns, strict=True)
    return nn.ConvTranspose2d(channels, out_channels, kernel, factor, padding, extra)


def dilated(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return a plain transposed convolution and a dilated one after it, whose stencil covers all phases."""
    return nn.Sequential(transposed(channels, out_channels, factor), DilatedConv2d(out_channels, out_channels, factor))


def _plain_sizes(factor: int) -> tuple[int, int, int]:
    """Return kernel, padding and output padding along an axis, for ``factor`` times as many cells."""
    kernel, padding = 2 * factor if factor > 1 else 3, (factor + 1) // 2
    return kernel, padding, factor + 2 * padding - kernel


UPSAMPLINGS: dict[str, Callable[[int, int, Factor], nn.Module]] = {
    "conservative": conservative,
    "resize": resize,
    "shuffle": shuffle,
    "transposed": transposed,
    "consistent_shuffle": ConsistentShuffle,
    "dilated": dilated,
    "sobolev": sobolev,
}


class Upsampling(nn.Module):
    """All stages of a factor, an activation after each, (B, channels, ny, nx) -> (B, out_channels, ny * fy, nx * fx).

    Parameters
    ----------
    name : {"conservative", "resize", "shuffle", "transposed", "consistent_shuffle", "dilated", "sobolev"}
        Kind of stage.
    channels, out_channels : int
        Channels before the first stage, and after each.
    factor : (int, int)
        Refinement of rows and columns.
    act : str
        Name of an activation.
    steps : {"prime", "whole"}
        One stage per prime factor, or one for all.

    Raises
    ------
    OptionError
        If a name is unknown; the message lists the names.

    Examples
    --------
    >>> import torch
    >>> Upsampling("shuffle", 8, 4, (6, 5))(torch.zeros(1, 8, 3, 7)).shape
    torch.Size([1, 4, 18, 35])
    """

    def __init__(
        self, name: str, channels: int, out_channels: int, factor: Factor, act: str = "silu", steps: str = "prime"
    ) -> None:
        super().__init__()
        if name not in UPSAMPLINGS:
            raise OptionError(f"expected upsampling to be among {listing(UPSAMPLINGS)}, received {name!r}")
        if steps not in STEPS:
            raise OptionError(f"expected steps to be among {listing(STEPS)}, received {steps!r}")
        layers: list[nn.Module] = []
        for part in stage_factors(factor, steps):
            layers += [UPSAMPLINGS[name](channels, out_channels, part), activation(act)]
            channels = out_channels
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, refined stage by stage."""
        return self.layers(x)

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        return Stack((plan(self.layers, axis),))
