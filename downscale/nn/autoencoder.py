"""Autoencoder: fields through a few latent channels, and back by transposed convolutions.

There are no skip connections past the latent cells. Each latent cell projects onto a patch of fine cells that grows
stage by stage, and neighbouring patches overlap, which makes them coherent.
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


class Autoencoder(Network):
    """An encoder to ``latent`` channels on cells ``2**levels`` times coarser than coarse ones, and a decoder.

    Parameters
    ----------
    coarse_channels, fine_channels, outputs : int
        Channels of the two inputs and of the output.
    factor : (int, int)
        Refinement of rows and columns.
    width : int
        Channels at coarse resolution; doubled at each level below.
    levels : int
        Number of coarsenings by two below the coarse cells.
    depth : int
        Residual blocks at each end.
    latent : int
        Channels of the latent field.
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
    Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313, 504-507.
    """

    def __init__(
        self,
        coarse_channels: int,
        fine_channels: int,
        outputs: int,
        factor: tuple[int, int],
        *,
        width: int = 32,
        levels: int = 1,
        depth: int = 1,
        latent: int = 32,
        fine_width: int = 16,
        upsampling: str = "conservative",
        steps: str = "prime",
        activation: str = "silu",
        pooling: str = "strided",
    ) -> None:
        super().__init__(factor)
        self.multiple_of = 2**levels
        self.gather = Unshuffle(factor)
        seen = coarse_channels + fine_channels * factor[0] * factor[1]
        self.encoder = _encoder(seen, width, levels, depth, latent, activation, pooling)
        widths = [width * 2**level for level in range(levels + 1)]
        layers: list[nn.Module] = [convolution(latent, widths[-1], 1), *_blocks(widths[-1], depth, activation)]
        for level in reversed(range(levels)):
            layers += [Upsampling(upsampling, widths[level + 1], widths[level], (2, 2), activation)]
        layers += [Upsampling(upsampling, width, fine_width, factor, activation, steps)]
        self.decoder = nn.Sequential(*layers, silent(convolution(fine_width, outputs)))

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Return detail (B, outputs, ny * fy, nx * fx) from (B, C_c, ny, nx) and (B, C_f, ny * fy, nx * fx)."""
        frame = Frame.of((coarse.shape[-2], coarse.shape[-1]), self.multiple_of)
        seen = torch.cat([frame.pad(coarse), self.gather(frame.pad(fine, self.factor))], dim=1)
        return frame.crop(self.decoder(self.encoder(seen)), self.factor)

    def paths(self, axis: int) -> tuple[Layer, Layer]:
        """Return the reach along an axis (0 rows, 1 columns) from fine cells to coarse channels and to fine ones."""
        coarse = Stack((plan(self.encoder, axis), plan(self.decoder, axis)))
        return coarse, Branches((Stack((plan(self.gather, axis), coarse)),))


def _blocks(width: int, depth: int, act: str) -> list[nn.Module]:
    return [ResidualBlock(width, act) for _ in range(depth)]


def _encoder(
    channels: int, width: int, levels: int, depth: int, latent: int, act: str, pooling: str
) -> nn.Sequential:
    """Return convolutions that coarsen ``levels`` times by two, down to the latent channels."""
    layers: list[nn.Module] = [convolution(channels, width), activation(act), *_blocks(width, depth, act)]
    for level in range(levels):
        layers += [halving(pooling, width * 2**level, width * 2 ** (level + 1)), activation(act)]
    return nn.Sequential(*layers, convolution(width * 2**levels, latent, 1))
