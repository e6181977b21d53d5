"""U-Net from fine cells down to coarse ones, below them, and back.

Any size is valid: fields are padded with zeros to whole cells of the coarsest level and cropped exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from downscale.nn.base import Core, Network
from downscale.nn.blurpool import halving
from downscale.nn.framing import Frame
from downscale.nn.layers import ResidualBlock, Unshuffle, activation, convolution, plan, silent
from downscale.nn.shapes import Branches, Layer, Stack
from downscale.nn.stages import Upsampling


class UNet(Network):
    """Encoder from fine to coarse cells and ``levels`` below them, and a decoder with skip connections.

    Parameters
    ----------
    coarse_channels, fine_channels, outputs : int
        Channels of the two inputs and of the output.
    factor : (int, int)
        Refinement of rows and columns.
    width : int
        Channels at coarse resolution; doubled at each level below.
    levels : int
        Levels below the coarse cells, each half as many cells along an axis.
    depth : int
        Residual blocks per level, in encoder and decoder.
    fine_width : int
        Channels at fine resolution.
    upsampling, steps : str
        Kind of the stages, and whether each prime factor has its own; see
        :class:`~downscale.nn.stages.Upsampling`.
    activation : str
        Name of the activation.
    pooling : {"strided", "blur"}
        Method of coarsening by two; "blur" filters first to avoid aliasing.

    References
    ----------
    Ronneberger, Fischer and Brox (2015), U-Net: convolutional networks for biomedical image segmentation, MICCAI.
    """

    def __init__(
        self,
        coarse_channels: int,
        fine_channels: int,
        outputs: int,
        factor: tuple[int, int],
        *,
        width: int = 32,
        levels: int = 2,
        depth: int = 1,
        fine_width: int = 16,
        upsampling: str = "conservative",
        steps: str = "prime",
        activation: str = "silu",
        pooling: str = "strided",
    ) -> None:
        super().__init__(factor)
        self.multiple_of = 2**levels
        widths = [width * 2**level for level in range(levels + 1)]
        self.fine_head = _convolved(fine_channels, fine_width, activation)
        self.gather = Unshuffle(factor)
        self.head = _convolved(coarse_channels + fine_width * factor[0] * factor[1], width, activation)
        self.down = nn.ModuleList(_Down(widths[i], widths[i + 1], depth, activation, pooling) for i in range(levels))
        self.bottom = _blocks(widths[-1], depth, activation)
        self.up = nn.ModuleList(
            _Up(widths[i + 1], widths[i], depth, upsampling, activation) for i in range(levels)
        )
        self.refine = Upsampling(upsampling, width, fine_width, factor, activation, steps)
        self.join = _convolved(2 * fine_width, fine_width, activation)
        self.last = silent(convolution(fine_width, outputs))

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Return detail (B, outputs, ny * fy, nx * fx) from (B, C_c, ny, nx) and (B, C_f, ny * fy, nx * fx)."""
        frame = Frame.of((coarse.shape[-2], coarse.shape[-1]), self.multiple_of)
        skip = self.fine_head(frame.pad(fine, self.factor))
        features = self.head(torch.cat([frame.pad(coarse), self.gather(skip)], dim=1))
        passed = []
        for down in self.down:
            features, kept = down(features)
            passed.append(kept)
        features = self.bottom(features)
        for i in reversed(range(len(passed))):
            features = self.up[i](features, passed[i])
        joined = self.join(torch.cat([self.refine(features), skip], dim=1))
        return frame.crop(self.last(joined), self.factor)

    def paths(self, axis: int) -> tuple[Layer, Layer]:
        """Return the reach along an axis (0 rows, 1 columns) from fine cells to coarse channels and to fine ones."""
        top = Stack((plan(self.join, axis), plan(self.last, axis)))
        coarse = Stack((plan(self.head, axis), self._below(0, axis), plan(self.refine, axis), top))
        fine_head = plan(self.fine_head, axis)
        return coarse, Branches((Stack((fine_head, top)), Stack((fine_head, plan(self.gather, axis), coarse))))

    def _below(self, level: int, axis: int) -> Layer:
        """Return the reach of the path from a level down to the bottom and back."""
        if level == len(self.down):
            return plan(self.bottom, axis)
        down, up = self.down[level], self.up[level]
        assert isinstance(down, _Down)
        assert isinstance(up, _Up)
        way = Stack((plan(down.halve, axis), self._below(level + 1, axis), plan(up.finer, axis)))
        return Stack((plan(down.blocks, axis), Branches((Stack(), way)), plan(up.join, axis)))


class _Down(nn.Module):
    """Blocks, whose output is also the skip connection, then coarsening by two."""

    def __init__(self, width: int, out_width: int, depth: int, act: str, pooling: str) -> None:
        super().__init__()
        self.blocks = _blocks(width, depth, act)
        self.halve = nn.Sequential(halving(pooling, width, out_width), activation(act))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.blocks(x)
        return self.halve(kept), kept


class _Up(nn.Module):
    """Refinement by two, joined with the skip connection, then blocks."""

    def __init__(self, width: int, out_width: int, depth: int, upsampling: str, act: str) -> None:
        super().__init__()
        self.finer = Upsampling(upsampling, width, out_width, (2, 2), act)
        self.join = nn.Sequential(_convolved(2 * out_width, out_width, act), _blocks(out_width, depth, act))

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        return self.join(torch.cat([self.finer(x), kept], dim=1))


def _convolved(channels: int, out_channels: int, act: str) -> nn.Sequential:
    return nn.Sequential(convolution(channels, out_channels), activation(act))


def _blocks(width: int, depth: int, act: str) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width, act) for _ in range(depth)))
