"""The encoder of a compressor: fine fields to a few small whole numbers a coarse cell (torch; knows channels, no grid).

The decoder is an ordinary learned model that looks at those numbers: what it makes keeps every coarse mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from downscale.fields.aggregate import Aggregation
from downscale.nn.channels import MOST_RATIO, Scales
from downscale.nn.layers import ResidualBlock, Unshuffle, activation, convolution
from downscale.nn.spec import Code, ModelSpec

# A code is one of -127 ... 127, which a byte holds beside a fill value, times a step that no rounding touches.
LEVELS, STEP = 127, 1 / 128
ACTIVATION = "silu"


class Encoder(nn.Module):
    """Detail of fine cells, (B, 2 V, ny * fy, nx * fx) with masks, to codes, (B, C, ny, nx), each n / 128 in -1 to 1.

    Parameters
    ----------
    outputs : int
        Variables V.
    factor : (int, int)
        Refinement of rows and columns.
    code : Code
        Channels C and size.

    References
    ----------
    Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313, 504-507;
    Bengio, Leonard and Courville (2013), Estimating or propagating gradients through stochastic neurons,
    arXiv:1308.3432 (rounding that lets gradients through).
    """

    def __init__(self, outputs: int, factor: tuple[int, int], code: Code) -> None:
        super().__init__()
        seen = 2 * outputs * factor[0] * factor[1]
        blocks = [ResidualBlock(code.width, ACTIVATION) for _ in range(code.depth)]
        self.layers = nn.Sequential(
            Unshuffle(factor), convolution(seen, code.width), activation(ACTIVATION), *blocks,
            convolution(code.width, code.channels, 1),
        )  # fmt: skip

    def forward(self, detail: Tensor) -> Tensor:
        """Make the codes; gradients pass as if nothing was rounded."""
        soft = torch.tanh(self.layers(detail))
        whole = torch.round(soft * LEVELS) * STEP
        return whole + (soft - soft.detach())


def detail_channels(
    spec: ModelSpec, target: Tensor, x: Tensor, proposal: Tensor, cells: Aggregation, closed: bool = False
) -> Tensor:
    """Return what the kernel misses of the fine fields, free of units, and where it is known, (B, 2 V, Y, X).

    Standard deviations for "linear" variables, else the root of multiples of the mean magnitude around.
    """
    valid = torch.isfinite(x)
    values = torch.where(valid, x, torch.zeros_like(x))
    near = cells.spread(Scales.of(values, valid, closed).near)
    known = torch.isfinite(target) & torch.isfinite(proposal)
    error = torch.where(known, target - proposal, torch.zeros_like(proposal))
    each = []
    for i, variable in enumerate(spec.outputs):
        if variable.transform == "linear":
            each.append(error[:, i] / variable.std)
            continue
        scale = near[:, i]
        ratio = torch.where(scale > 0, error[:, i] / torch.where(scale > 0, scale, 1.0), 0.0)
        each.append(ratio.sign() * ratio.abs().clamp_max(MOST_RATIO).sqrt())
    return torch.cat([torch.stack(each, dim=1), known.to(x)], dim=1)
