"""Generator and critic of adversarial training.

The generator is a stack of conservative transposed convolutions (kernel 4, stride 2, padding 1), which preserve
constants and produce no checkerboard. The critic sees gradients by fixed Sobel channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from downscale.errors import ShapeError
from downscale.nn.conv_transpose import ConservativeConvTranspose2d

# Cells per side of the first map, which the latent vector fills.
START = 4
LEAK = 0.2
# Gain of slopes, which are small compared with heights and would otherwise have no effect on the critic.
STEEP = 12.0


class Generator(nn.Module):
    """Height maps from latent vectors: (B, latent) -> (B, 1, size, size).

    Parameters
    ----------
    size : int
        Cells per side, 4 times a power of two.
    latent : int
        Length of the latent vectors.
    width : int
        Channels of the finest stage; each coarser one has twice as many, up to eight times.

    Raises
    ------
    ShapeError
        If no whole number of stages gives this size.

    Examples
    --------
    >>> Generator(16, latent=8, width=4)(torch.zeros(2, 8)).shape
    torch.Size([2, 1, 16, 16])
    """

    def __init__(self, size: int, latent: int = 64, width: int = 16) -> None:
        super().__init__()
        stages = depth_of(size)
        channels = [width * min(2 ** (stages - i), 8) for i in range(stages + 1)]
        self.size, self.latent = size, latent
        self.spread = nn.Linear(latent, channels[0] * START**2)
        self.stages = nn.ModuleList(_Stage(a, b) for a, b in pairwise(channels))
        self.heights = nn.ModuleList(nn.Conv2d(count, 1, 3, padding=1, padding_mode="replicate") for count in channels)
        # Heights of coarser stages enter smoothly, with the same weights in every phase.
        self.refine = ConservativeConvTranspose2d(1, 1, 4, 2, 1, law="phase").requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        """Return maps of order one; each stage adds detail of its own scale to the refined heights of coarser ones."""
        x = F.leaky_relu(self.spread(z).reshape(len(z), -1, START, START), LEAK)
        heights = self.heights[0](x)
        for stage, to_height in zip(self.stages, self.heights[1:], strict=True):
            x = stage(x)
            heights = self.refine(heights) + to_height(x)
        return heights


class _Stage(nn.Module):
    """Refinement by two along each axis, then a convolution."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = ConservativeConvTranspose2d(channels, out_channels, 4, 2, 1, law="phase", gain="free", bias=True)
        self.mix = nn.Conv2d(out_channels, out_channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        """Return refined and mixed features, normalised in each cell so that none diverges."""
        x = F.leaky_relu(blur_binomial(self.up(x)), LEAK)
        x = F.leaky_relu(self.mix(x), LEAK)
        return x * torch.rsqrt((x**2).mean(dim=1, keepdim=True) + 1e-8)


def blur_binomial(x: Tensor) -> Tensor:
    """Return means with the weights 1, 2, 1 along each axis, which remove a checkerboard."""
    return F.avg_pool2d(F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 2, 1), 2, 1)


class Critic(nn.Module):
    """Realism scores of maps, (B, 1, Y, X) -> (B,), from the maps, their gradients and their conditions.

    Parameters
    ----------
    size : int
        Cells per side, 4 times a power of two.
    condition : int
        Channels of the condition, such as the coarse field on fine cells.
    width : int
        Channels of the finest stage.
    norm : bool
        Whether weights are spectrally normalised (hinge loss); not with a gradient penalty.

    References
    ----------
    Miyato, T., Kataoka, T., Koyama, M. and Yoshida, Y. (2018), Spectral normalization for generative adversarial
    networks, arXiv:1802.05957.
    """

    stencil: Tensor

    def __init__(self, size: int, condition: int = 0, width: int = 16, norm: bool = True) -> None:
        super().__init__()
        stages = depth_of(size)
        channels = [3 + condition, *(width * min(2**i, 8) for i in range(stages))]
        wrap = spectral_norm if norm else lambda layer: layer
        # The first layer keeps the size; each later layer reduces it.
        self.layers = nn.ModuleList(
            [wrap(nn.Conv2d(channels[0], width, 3, 1, 1))]
            + [wrap(nn.Conv2d(a, b, 4, 2, 1)) for a, b in pairwise([width, *channels[1:]])]
        )
        # One more channel: the difference between the maps of a batch, which vanishes in a collapse.
        self.head = wrap(nn.Linear((channels[-1] + 1) * START**2, 1))
        east = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
        self.register_buffer("stencil", torch.stack([east, east.T])[:, None])

    def forward(self, maps: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return scores, larger for more realistic maps."""
        slopes = F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), self.stencil)
        x = torch.cat([maps, STEEP * slopes, *([] if condition is None else [condition])], dim=1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), LEAK)
        deviation = torch.sqrt(x.var(dim=0, unbiased=False) + 1e-8).mean().expand(len(x), 1, *x.shape[-2:])
        return self.head(torch.cat([x, deviation], dim=1).flatten(1))[:, 0]


def depth_of(size: int) -> int:
    """Return the number of stages for a map of ``size`` cells per side, 4 times a power of two from 2 on.

    Examples
    --------
    >>> depth_of(64)
    4
    """
    stages = max(size // START, 1).bit_length() - 1
    if stages < 1 or START * 2**stages != size:
        raise ShapeError(f"expected a size of 8, 16, 32, 64, ... cells, received {size!r}; choose one of them")
    return stages


@dataclass(frozen=True)
class Projection:
    """Number of cells that one initial cell affects after a stage, and size of the map there."""

    stage: int
    reach: int
    size: int

    @property
    def coherent(self) -> bool:
        """Whether any two initial cells affect a common cell, so that the map can be coherent."""
        return self.reach >= self.size


def projection_field(size: int) -> list[Projection]:
    """Return the growth of the field that one initial cell affects, stage by stage.

    The reach is exact, for a cell in the middle of a field wide enough to exclude edges.

    Examples
    --------
    >>> [(stage.reach, stage.size, stage.coherent) for stage in projection_field(32)]
    [(8, 8, True), (22, 16, True), (50, 32, True)]
    """
    projections, reach = [], 1
    for stage in range(1, depth_of(size) + 1):
        # The kernel of four cells at every second one, and two windows of three.
        reach = 2 * reach + 2 + 4
        projections.append(Projection(stage, reach, START * 2**stage))
    return projections
