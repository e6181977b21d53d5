"""A model for use only: what is learned under a law is made once, not at every call (torch; knows layers, no field)."""

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
    """A `ConservativeConvTranspose2d` that has stopped learning: its kernels as they are, (in, out // groups, kh, kw).

    Parameters
    ----------
    layer : ConservativeConvTranspose2d
        Where weights and geometry come from.
    """

    def __init__(self, layer: ConservativeConvTranspose2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        self.bias = layer.bias
        self.axes, self.groups = layer._axes, layer.groups
        self._plans = plan(layer, 0), plan(layer, 1)

    def forward(self, coarse: Tensor) -> Tensor:
        """Refine as the layer did, to the last bit."""
        return gather(coarse, self.weight, self.bias, self.axes, self.groups)

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        return self._plans[axis]


def baked(module: Module) -> Module:
    """Return a copy that learns nothing more and makes no kernel twice; values are the same to the last bit."""
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    # The class of a parametrised layer is shared by its copies: layers are replaced, not stripped.
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConservativeConvTranspose2d):
                setattr(parent, name, FixedConvTranspose2d(child))
    return copied
