"""Sub-pixel convolution (pixel shuffle) as a transposed convolution, with a constraint that equalises its phases.

A pixel shuffle after a convolution to ``s_y s_x`` times the channels is the transposed convolution whose polyphase
components are its filters. Its coverage is even, but the sums of the phases are independent. If they differ, constants
give checkerboards.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from downscale.nn.layers import Shuffle, convolution, plan
from downscale.nn.shapes import Layer, Stack

Factor = tuple[int, int]


class AlikePhases(nn.Module):
    """Constraint on filters (out * s_y * s_x, in, kh, kw): phases of a channel have the same sum, up to a gain.

    The least-squares projection is linear, so that gradients pass. Biases (out * s_y * s_x,) become the same for all
    phases.

    Parameters
    ----------
    phases : int
        ``s_y * s_x``.
    """

    def __init__(self, phases: int) -> None:
        super().__init__()
        self.phases = phases

    def forward(self, weight: Tensor) -> Tensor:
        """Return the nearest weight with equal phase sums."""
        sums = weight.flatten(2).sum(2) if weight.ndim > 1 else weight
        parts = sums.unflatten(0, (-1, self.phases))
        excess = (parts - parts.mean(1, keepdim=True)).flatten(0, 1)
        return weight - (excess[:, :, None, None] / weight[0, 0].numel() if weight.ndim > 1 else excess)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return parameters of the nearest weight with equal phase sums."""
        return self.forward(weight)


class ConsistentShuffle(nn.Module):
    """Pixel shuffle that preserves constants up to a gain, for all values of its parameters.

    Parameters
    ----------
    channels, out_channels : int
        Channels before and after.
    factor : (int, int)
        Refinement of rows and columns.
    kernel : int
        Stencil width of the filters, an odd number.

    References
    ----------
    Shi et al. (2016), Real-time single image and video super-resolution using an efficient sub-pixel convolutional
    neural network, CVPR; Aitken et al. (2017), Checkerboard artifact free sub-pixel convolution, arXiv:1707.02937.

    Examples
    --------
    >>> fine = ConsistentShuffle(2, 3, (2, 4))(torch.ones(1, 2, 6, 6))[..., 2:-2, 4:-4]
    >>> fine.shape, bool((fine.amax((2, 3)) - fine.amin((2, 3))).max() < 1e-6)
    (torch.Size([1, 3, 8, 16]), True)
    """

    def __init__(self, channels: int, out_channels: int, factor: Factor, kernel: int = 3) -> None:
        super().__init__()
        phases = factor[0] * factor[1]
        self.filters = convolution(channels, out_channels * phases, kernel)
        start_alike(self.filters, phases)
        for name in ("weight", "bias"):
            parametrize.register_parametrization(self.filters, name, AlikePhases(phases))
        self.shuffle = Shuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Return all phases, interleaved."""
        return self.shuffle(self.filters(x))

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        return Stack((plan(self.filters, axis), self.shuffle.plan(axis)))


def start_alike(filters: nn.Conv2d, phases: int) -> None:
    """Set all phases of a channel to the filter of the first: nearest-neighbour resizing of one filter (ICNR)."""
    with torch.no_grad():
        filters.weight.copy_(filters.weight[::phases].repeat_interleave(phases, dim=0))
        assert filters.bias is not None
        filters.bias.copy_(filters.bias[::phases].repeat_interleave(phases))


def transposed_weight(filters: Tensor, factor: Factor) -> Tensor:
    """Return the weight of the transposed convolution that equals filters and a pixel shuffle.

    Parameters
    ----------
    filters : Tensor, shape (out * s_y * s_x, in, kh, kw)
        Filters of a convolution with odd kernels that keeps the size.
    factor : (int, int)
        Factor of the shuffle.

    Returns
    -------
    Tensor, shape (in, out, kh * s_y, kw * s_x)
        Weight for stride ``factor`` and padding ``factor * (k - 1) / 2``.
    """
    rows, columns = factor
    table = filters.flip(-2, -1).unflatten(0, (-1, rows, columns))
    return cast(Any, table).permute(3, 0, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def filters_of(weight: Tensor, factor: Factor) -> Tensor:
    """Return the filters whose transposed convolution has this weight: the inverse of `transposed_weight`."""
    rows, columns = factor
    table = weight.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    return cast(Any, table).permute(1, 3, 5, 0, 2, 4).flatten(0, 2).flip(-2, -1)
