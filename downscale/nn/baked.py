"""Models for inference, with kernels computed once."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.gather import gather
from downscale.nn.layers import plan
from downscale.nn.shapes import Layer

Module = TypeVar("Module", bound=nn.Module)


class FixedConvTranspose2d(nn.Module):
    """Fixed copy of a `ConservativeConvTranspose2d`, with constant kernels of shape (in, out // groups, kh, kw).

    Parameters
    ----------
    layer : ConservativeConvTranspose2d
        Source of weights and geometry.
    """

    def __init__(self, layer: ConservativeConvTranspose2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        self.bias = layer.bias
        self.axes, self.groups = layer._axes, layer.groups
        self._plans = plan(layer, 0), plan(layer, 1)

    def forward(self, coarse: Tensor) -> Tensor:
        """Return the refined field, bit for bit as the layer does."""
        return gather(coarse, self.weight, self.bias, self.axes, self.groups)

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        return self._plans[axis]


def baked(module: Module) -> Module:
    """Return a copy for inference with kernels computed once; results are bit-identical."""
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    # Copies of a parametrised layer share its class: replace layers instead of removing parametrisations.
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConservativeConvTranspose2d):
                setattr(parent, name, FixedConvTranspose2d(child))
    return copied
