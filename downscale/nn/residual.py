"""Residual network: a trunk at coarse resolution, upsampling stages, and few channels at fine resolution.

Most of the arithmetic is at coarse resolution, where cells are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from downscale.errors import OptionError
from downscale.nn.attention import GlobalAttention, WindowedAttention
from downscale.nn.attention import attention as around
from downscale.nn.base import Core, Network
from downscale.nn.layers import Context, ResidualBlock, Shuffle, Unshuffle, activation, convolution, plan, silent
from downscale.nn.shapes import Branches, Layer, Stack
from downscale.nn.stages import Upsampling


class ResidualNetwork(Network):
    """Residual trunk, upsampling stages, and convolutions that join features with the fine channels.

    Parameters
    ----------
    coarse_channels, fine_channels, outputs : int
        Channels of the two inputs and of the output.
    factor : (int, int)
        Refinement of rows and columns.
    width, depth : int
        Channels and residual blocks of the trunk.
    head_kernel : int
        Stencil width of the first convolution along an axis, an odd number.
    block : {"plain", "wide", "separable"}
        Kind of the residual blocks; see :class:`~downscale.nn.layers.ResidualBlock`.
    fine_width, fine_depth : int
        Channels at fine resolution, and convolutions there after the joining one. With zero width the trunk computes
        all phases of the result at coarse resolution: the cheapest network, which ignores ``upsampling``.
    upsampling, steps : str
        Kind of the stages, and whether each prime factor has its own; see
        :class:`~downscale.nn.stages.Upsampling`.
    activation : str
        Name of the activation.
    dilations : sequence of int
        Dilations of the blocks, repeated in turn.
    see_fine : bool
        Whether the trunk also uses the fine channels, with their phases as channels.
    context : bool
        Whether the trunk weights its channels by means over the whole field, which gives no finite halo.
    attention : {"none", "windowed", "global"}
        Self-attention of the trunk: none, in a window, or over the whole field, which gives no finite halo either.
    window : int
        Cells of the window along an axis, an odd number.
    """

    may_be_zero: ClassVar[frozenset[str]] = frozenset({"depth", "fine_width", "fine_depth"})

    def __init__(
        self,
        coarse_channels: int,
        fine_channels: int,
        outputs: int,
        factor: tuple[int, int],
        *,
        width: int = 64,
        depth: int = 4,
        head_kernel: int = 3,
        block: str = "plain",
        fine_width: int = 32,
        fine_depth: int = 1,
        upsampling: str = "conservative",
        steps: str = "prime",
        activation: str = "silu",
        dilations: Sequence[int] = (1,),
        see_fine: bool = True,
        context: bool = False,
        attention: str = "none",
        window: int = 7,
    ) -> None:
        super().__init__(factor)
        if not fine_width and not see_fine:
            raise OptionError("expected fine_width above zero without see_fine, received 0: nothing sees fine fields")
        self.whole = context or attention == "global"
        self.unshuffle = Unshuffle(factor) if see_fine else None
        seen = coarse_channels + (fine_channels * factor[0] * factor[1] if see_fine else 0)
        self.head = convolution(seen, width, head_kernel)
        blocks = [ResidualBlock(width, activation, dilations[i % len(dilations)], block) for i in range(depth)]
        self.trunk = nn.Sequential(*blocks)
        self.attention = around(attention, width, window)
        self.context = Context(width, activation) if context else None
        self.up: nn.Module | None = None
        if fine_width:
            self.up = Upsampling(upsampling, width, fine_width, factor, activation, steps)
            self.join = _joined(fine_width, fine_channels, fine_depth, activation)
            self.last = nn.Sequential(silent(convolution(fine_width, outputs)))
        else:
            self.last = nn.Sequential(silent(convolution(width, outputs * factor[0] * factor[1])), Shuffle(factor))

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Return detail (B, outputs, ny * fy, nx * fx) from (B, C_c, ny, nx) and (B, C_f, ny * fy, nx * fx).

        ``core`` holds the coarse cells without padding, for networks that depend on the whole field.
        """
        seen = coarse if self.unshuffle is None else torch.cat([coarse, self.unshuffle(fine)], dim=1)
        features = self.trunk(self.head(seen))
        if isinstance(self.attention, GlobalAttention):
            features = self.attention(features, core)
        elif self.attention is not None:
            features = self.attention(features)
        if self.context is not None:
            features = self.context(features, core)
        if self.up is None:
            return self.last(features)
        return self.last(self.join(torch.cat([self.up(features), fine], dim=1)))

    def paths(self, axis: int) -> tuple[Layer, Layer]:
        """Return the reach along an axis (0 rows, 1 columns) from fine cells to coarse channels and to fine ones."""
        down, last = Stack((plan(self.head, axis), plan(self.trunk, axis))), plan(self.last, axis)
        if isinstance(self.attention, WindowedAttention):
            down = Stack((down, self.attention.plan(axis)))
        ways: list[Layer] = []
        if self.up is None:
            down = Stack((down, last))
        else:
            ways = [Stack((plan(self.join, axis), last))]
            down = Stack((down, plan(self.up, axis), *ways))
        if self.unshuffle is not None:
            ways.append(Stack((plan(self.unshuffle, axis), down)))
        return down, Branches(tuple(ways))


def _joined(width: int, fine_channels: int, depth: int, act: str) -> nn.Sequential:
    """Return convolutions at fine resolution, an activation after each."""
    layers: list[nn.Module] = [convolution(width + fine_channels, width), activation(act)]
    for _ in range(depth):
        layers += [convolution(width, width), activation(act)]
    return nn.Sequential(*layers)
