"""Published network for comparison: the CNN with constraint layers of Harder et al.

Reimplemented from the paper's description.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from downscale.nn.base import Core, Network
from downscale.nn.layers import activation, convolution, plan, silent
from downscale.nn.shapes import Branches, Layer, Stack
from downscale.nn.stages import Upsampling


class SuperResolutionCNN(Network):
    """A convolution, transposed convolutions, residual blocks at fine resolution, and a convolution to the output.

    With ``taps: 1`` for the kernel, so that the proposal is piecewise constant, a linear transform, and the constraint
    "additive" or "softmax", the model is the published one: only departures from cell means, or ratios to them, count.
    There are two differences. The last layer starts at zero, so that an untrained model is piecewise constant. Masks
    mark missing values.

    Parameters
    ----------
    coarse_channels, fine_channels, outputs : int
        Channels of the two inputs and of the output.
    factor : (int, int)
        Refinement of rows and columns.
    width, depth : int
        Channels, and residual blocks after the upsampling.
    fine_width : int
        Channels of fine fields, joined with the features; with none, as published, fine fields are not used.
    upsampling, steps : str
        Kind of the stages, and whether each prime factor has its own; see
        :class:`~downscale.nn.stages.Upsampling`.
    activation : str
        Name of the activation.

    References
    ----------
    Harder, P., Hernandez-Garcia, A., Ramesh, V., Yang, Q., Sattigeri, P., Szwarcman, D., Watson, C. and Rolnick, D.
    (2023), Hard-constrained deep learning for climate downscaling, Journal of Machine Learning Research 24(365), 1-40.
    """

    may_be_zero: ClassVar[frozenset[str]] = frozenset({"depth", "fine_width"})

    def __init__(
        self,
        coarse_channels: int,
        fine_channels: int,
        outputs: int,
        factor: tuple[int, int],
        *,
        width: int = 64,
        depth: int = 4,
        fine_width: int = 0,
        upsampling: str = "transposed",
        steps: str = "prime",
        activation: str = "relu",
    ) -> None:
        super().__init__(factor)
        self.head = _convolved(coarse_channels, width, activation)
        self.up = Upsampling(upsampling, width, width, factor, activation, steps)
        self.fine_head = _convolved(fine_channels, fine_width, activation) if fine_width else None
        self.join = _convolved(width + fine_width, width, activation) if fine_width else nn.Sequential()
        self.blocks = nn.Sequential(*(RectifiedBlock(width, activation) for _ in range(depth)))
        self.last = nn.Sequential(_convolved(width, width, activation), silent(convolution(width, outputs)))

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Return a field (B, outputs, ny * fy, nx * fx) from (B, C_c, ny, nx) and (B, C_f, ny * fy, nx * fx)."""
        features = self.up(self.head(coarse))
        if self.fine_head is not None:
            features = torch.cat([features, self.fine_head(fine)], dim=1)
        return self.last(self.blocks(self.join(features)))

    def paths(self, axis: int) -> tuple[Layer, Layer]:
        """Return the reach along an axis (0 rows, 1 columns) from fine cells to coarse channels and to fine ones."""
        top = Stack((plan(self.join, axis), plan(self.blocks, axis), plan(self.last, axis)))
        coarse = Stack((plan(self.head, axis), plan(self.up, axis), top))
        # The output adds to the proposal of the cell itself, even if the network does not use the proposal.
        return coarse, Stack() if self.fine_head is None else Stack((plan(self.fine_head, axis), top))


class RectifiedBlock(nn.Module):
    """Convolution, activation, convolution, addition of the input, and activation, (B, width, ny, nx)."""

    def __init__(self, width: int, act: str = "relu") -> None:
        super().__init__()
        self.inner = nn.Sequential(convolution(width, width), activation(act), convolution(width, width))
        self.after = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of the input and the inner layers."""
        return self.after(x + self.inner(x))

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        return Branches((Stack(), plan(self.inner, axis)))


def _convolved(channels: int, out_channels: int, act: str) -> nn.Sequential:
    return nn.Sequential(convolution(channels, out_channels), activation(act))
