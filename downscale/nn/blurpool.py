"""Coarsening of feature maps by two, with and without an anti-aliasing filter.

Taking every second cell aliases waves shorter than four cells. The aliases depend on the position of the field, so
that encoders lose shift equivariance. A short fixed blur before it removes most of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from downscale.errors import OptionError, listing
from downscale.nn.layers import convolution
from downscale.nn.shapes import Layer, Window

# Binomial weights, symmetric about the middle of two cells, so that centres of coarse cells stay in place.
TAPS = (1.0, 3.0, 3.0, 1.0)


class BlurPool(nn.Module):
    """Binomial means of four by four cells at every second cell, (B, C, ny, nx) -> (B, C, ny / 2, nx / 2).

    The fixed weights sum to one, so that constants are preserved away from the edges.

    References
    ----------
    Zhang (2019), Making convolutional networks shift-invariant again, ICML.

    Examples
    --------
    >>> BlurPool()(torch.ones(1, 3, 8, 8))[0, 0, 1, 1:3].tolist()
    [1.0, 1.0]
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(TAPS) / sum(TAPS)
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the blurred field at every second cell."""
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, stride=2, padding=len(TAPS) // 2 - 1, groups=channels)

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        return Window(len(TAPS), stride=2, padding=len(TAPS) // 2 - 1)


HALVINGS: dict[str, Callable[[int, int], nn.Module]] = {
    "strided": lambda width, out_width: nn.Conv2d(width, out_width, 2, stride=2),
    "blur": lambda width, out_width: nn.Sequential(convolution(width, out_width), BlurPool()),
}


def halving(name: str, width: int, out_width: int) -> nn.Module:
    """Return the layer with this name that coarsens a map of even size by two.

    Raises
    ------
    OptionError
        If the name is unknown; the message lists the names.
    """
    if name not in HALVINGS:
        raise OptionError(f"expected pooling to be among {listing(HALVINGS)}, received {name!r}")
    return HALVINGS[name](width, out_width)
