"""Codec of a compressor: fine fields to a few small integers per coarse cell, and back.

The network of the model sees the same integers and adds learned detail; the constraint then conserves every coarse
mean. An untrained codec stores cosine coefficients of the residual from the kernel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from downscale.fields.aggregate import Aggregation
from downscale.nn.channels import MOST_RATIO, Scales
from downscale.nn.layers import ResidualBlock, Unshuffle, activation, convolution, silent
from downscale.nn.spec import Code, ModelSpec

# A code is one of -127 ... 127, which a byte holds alongside a fill value, times a step that is exact in binary.
LEVELS, STEP = 127, 1 / 128
# Largest coded coefficient, in standard deviations or multiples of the mean magnitude nearby.
MOST_SPREADS = 4.0
# Fraction of the largest coefficient below which steps are uniform; above it they grow with its root.
EVEN = 1e-3
ACTIVATION = "silu"


class Codec(nn.Module):
    """Encoder to codes n / 128 from -1 to 1, and the linear part of the decoder.

    Parameters
    ----------
    spec : ModelSpec
        Specification of a compressor.

    References
    ----------
    Ahmed, Natarajan and Rao (1974), Discrete cosine transform, IEEE Trans. Computers C-23, 90-93; Hinton and
    Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313, 504-507; Bengio,
    Leonard and Courville (2013), Estimating or propagating gradients through stochastic neurons, arXiv:1308.3432
    (rounding that lets gradients through).
    """

    most: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.code is not None
        code: Code = spec.code
        self.factor, self.outputs = spec.factor, len(spec.outputs)
        waves, owners = cosines(self.outputs, self.factor, code.channels)
        self.analysis, self.synthesis = nn.Parameter(waves.clone()), nn.Parameter(waves)
        kinds = [MOST_SPREADS if spec.outputs[i].transform == "linear" else MOST_RATIO for i in owners]
        self.register_buffer("most", torch.tensor(kinds)[:, None, None])
        seen = 2 * self.outputs * math.prod(self.factor)
        self.layers = nn.Sequential(
            Unshuffle(self.factor), convolution(seen, code.width), activation(ACTIVATION),
            *(ResidualBlock(code.width, ACTIVATION) for _ in range(code.depth)),
            silent(convolution(code.width, code.channels, 1)),
        )  # fmt: skip

    def forward(self, detail: Tensor, known: Tensor) -> Tensor:
        """Return the codes, (B, C, ny, nx), of dimensionless detail and its validity mask, (B, V, Y, X) each.

        Gradients pass through the rounding unchanged.
        """
        waves = functional.conv2d(detail, self.analysis / math.prod(self.factor), stride=self.factor)
        learned = self.layers(torch.cat([squeezed(detail, EVEN), known], dim=1))
        soft = (squeezed(waves / self.most, EVEN) + learned).clamp(-1, 1)
        whole = torch.round(soft * LEVELS) * STEP
        return whole + (soft - soft.detach())

    def unfold(self, codes: Tensor) -> Tensor:
        """Return the detail of the codes alone, (B, V, Y, X): a transposed convolution of coefficients."""
        known = torch.where(torch.isfinite(codes), codes, torch.zeros_like(codes)) / (LEVELS * STEP)
        return functional.conv_transpose2d(unsqueezed(known, EVEN) * self.most, self.synthesis, stride=self.factor)


def cosines(outputs: int, factor: tuple[int, int], channels: int) -> tuple[Tensor, list[int]]:
    """Return the longest waves in a coarse cell, mean square one, shape (C, V, fy, fx), and the output of each.

    Outputs alternate; waves are in order of wave number, without the constant.
    """
    orders = sorted(
        ((i, j) for i in range(factor[0]) for j in range(factor[1]) if i + j),
        key=lambda pair: (math.hypot(pair[0] / factor[0], pair[1] / factor[1]), pair),
    )
    waves, owners = torch.zeros(channels, outputs, *factor), []
    for channel in range(channels):
        number, owner = divmod(channel, outputs)
        owners.append(owner)
        # Channels beyond all waves of a cell start at zero and are learned.
        if number < len(orders):
            y, x = (_wave(order, size) for order, size in zip(orders[number], factor, strict=True))
            waves[channel, owner] = y[:, None] * x
    return waves, owners


def _wave(order: int, size: int) -> Tensor:
    places = torch.cos(math.pi * order * (torch.arange(size) + 0.5) / size)
    return places * (2**0.5 if order else 1.0)


def squeezed(values: Tensor, even: float) -> Tensor:
    """Return signed roots that are smooth at zero, with 1 mapped to 1: small values get more of the steps.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 9)
    >>> torch.allclose(unsqueezed(squeezed(x, 1e-3), 1e-3), x, atol=1e-6)
    True
    """
    return values * ((1 + even) / (values.abs() + even)) ** 0.5


def unsqueezed(roots: Tensor, even: float) -> Tensor:
    """Return the inverse of :func:`squeezed`."""
    root = roots.abs() / (1 + even) ** 0.5
    return roots.sign() * root * (root + (root**2 + 4 * even) ** 0.5) / 2


def detail_of(
    spec: ModelSpec, target: Tensor, x: Tensor, proposal: Tensor, cells: Aggregation, closed: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the dimensionless residual of the fine fields from the kernel, and its validity mask, (B, V, Y, X) each.

    The unit is the standard deviation for "linear" variables, else the mean magnitude nearby.
    """
    valid = torch.isfinite(x)
    near = cells.broadcast_to_fine(Scales.of(torch.where(valid, x, torch.zeros_like(x)), valid, closed).near)
    known = torch.isfinite(target) & torch.isfinite(proposal)
    error = torch.where(known, target - proposal, torch.zeros_like(proposal))
    each = []
    for i, variable in enumerate(spec.outputs):
        scale = torch.full_like(near[:, i], variable.std) if variable.transform == "linear" else near[:, i]
        ratio = error[:, i] / torch.where(scale > 0, scale, torch.ones_like(scale))
        each.append(torch.where(scale > 0, ratio, torch.zeros_like(ratio)).clamp(-MOST_RATIO, MOST_RATIO))
    return torch.stack(each, dim=1), known.to(x)
