"""Parametrisations that constrain the weight of a learnable transposed convolution to be conservative.

Both work with ``torch.nn.utils.parametrize.register_parametrization(layer, "weight", ...)`` for any layer whose weight
has shape (in, out, kh, kw).  The weight satisfies the constraint for all values of the free parameters: at
construction, after an optimiser step, after a load.  Arithmetic is in float64, which mixed precision does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from downscale.errors import ShapeError
from downscale.kernels.laws import (
    Law,
    Size,
    kernel_geometry,
    law_names,
    law_system,
    project,
)
from downscale.kernels.simplices import project_nonnegative, simplex_groups

Originals = Tensor | tuple[Tensor, Tensor]

# Fraction of the uniform kernel in a non-negative initial kernel, because a weight at zero would not learn.
_EVEN_SHARE = 0.01


class LawBound(nn.Module):
    """Base of the parametrisations: the spatial kernel of each pair of channels satisfies a constraint, up to its gain.

    Parameters
    ----------
    law : str or tuple of str
        Names in ``LAWS``; several apply together.
    shape : tuple of int
        Shape of the weight, (in, out, kh, kw).
    stride, padding : int or pair of int
        Geometry of the transposed convolution; ``padding=None`` is the one with ``n * stride`` outputs.
    free_gain : bool
        Whether each pair of channels has a learnable gain ``g`` of any sign: ``weight = g * kernel`` with a kernel that
        satisfies the constraint, i.e. ``C w = g b``.  Gains are the second original parameter, (in, out).
    device : torch.device or str, optional
        Device of the weight.

    Raises
    ------
    OptionError, ShapeError
        If the law is unknown, or no kernel of this geometry satisfies it.
    """

    def __init__(
        self,
        law: Law,
        shape: tuple[int, int, int, int],
        stride: Size,
        padding: Size | None = None,
        free_gain: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.law = law_names(law)
        self.shape = tuple(shape)
        self.geometry = kernel_geometry(self.shape[2:], stride, padding)
        self.free_gain = free_gain
        self._hold(torch.empty(0, device=device).device)

    def _constants(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store as buffers."""
        raise NotImplementedError

    def _hold(self, device: torch.device) -> None:
        # Apple's devices have no float64.
        wide = torch.float32 if device.type == "mps" else torch.float64
        for name, array in self._constants().items():
            dtype = wide if array.dtype.kind == "f" else torch.int64
            self.register_buffer(name, torch.tensor(array, dtype=dtype, device=device), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LawBound:
        """Follow a move to another device but not a change of type, so that `layer.half()` keeps constraints exact."""
        super()._apply(fn, recurse)
        self._hold(next(self.buffers()).device)
        return self

    def _checked(self, weight: Tensor) -> Tensor:
        if tuple(weight.shape) != self.shape:
            raise ShapeError(
                f"weight expected shape {self.shape}, received {tuple(weight.shape)}: "
                "give one kernel for each pair of input and output channels"
            )
        return weight

    def extra_repr(self) -> str:
        """Return the law and the gain for ``repr``."""
        return f"law={self.law}, free_gain={self.free_gain}"


class AffineLaw(LawBound):
    """Weights of any sign: the least-squares projection of free parameters onto the constrained kernels.

    ``weight = P original + g C^+ b`` with ``P = I - C^+ C``.  The map is linear, so that a gain may cross zero.
    Parameters as in `LawBound`.

    Examples
    --------
    >>> weight = AffineLaw("phase", (1, 1, 4, 4), stride=2)(torch.randn(1, 1, 4, 4))
    >>> [round(float(weight[0, 0, row::2, column::2].sum()), 5) for row in (0, 1) for column in (0, 1)]
    [1.0, 1.0, 1.0, 1.0]
    """

    constraints: Tensor
    inverse: Tensor
    least: Tensor

    def _constants(self) -> dict[str, NDArray[Any]]:
        constraints, target, inverse = law_system(self.law, *self.geometry)
        return {"constraints": constraints.T, "inverse": inverse.T, "least": inverse @ target}

    def forward(self, original: Tensor, gain: Tensor | None = None) -> Tensor:
        """Return the weight, shape (in, out, kh, kw), from free parameters of that shape and gains (in, out)."""
        flat = original.flatten(-2).type(self.least.dtype)
        detail = flat - flat @ self.constraints @ self.inverse
        level = self.least if gain is None else gain.unsqueeze(-1).type(self.least.dtype) * self.least
        return (detail + level).reshape(original.shape).type(original.dtype)

    def right_inverse(self, weight: Tensor) -> Originals:
        """Return parameters of the constrained weight nearest to ``weight`` (least squares)."""
        weight = self._checked(weight)
        if not self.free_gain:
            return self.forward(weight)
        gain = weight.flatten(-2).type(self.least.dtype) @ self.least / (self.least @ self.least)
        return self.forward(weight, gain), gain.type(weight.dtype)

    def nearest(self, kernel: Tensor) -> Tensor:
        """Return the constrained kernel nearest to an arbitrary one."""
        return project(kernel, self.law, *self.geometry[1:])


class SimplexLaw(LawBound):
    """Non-negative kernels: a softmax over each simplex of the constraint (`simplex_groups`), times the gain.

    total: all weights; phase: the weights of each phase; cell: the central block, other weights being exactly zero.
    Only free gains can make a weight negative.  Parameters as in `LawBound`.

    Examples
    --------
    >>> weight = SimplexLaw("total", (1, 1, 4, 4), stride=2)(torch.randn(1, 1, 4, 4))
    >>> bool((weight > 0).all()), round(float(weight.sum()), 5)
    (True, 4.0)
    """

    taps: Tensor
    absent: Tensor
    place: Tensor
    used: Tensor

    def _constants(self) -> dict[str, NDArray[Any]]:
        groups = simplex_groups(self.law, *self.geometry)
        self.total = groups.total
        absent = np.where(groups.present, 0.0, -np.inf)
        return {"taps": groups.taps, "absent": absent, "place": groups.place, "used": groups.used}

    def forward(self, original: Tensor, gain: Tensor | None = None) -> Tensor:
        """Return the weight, shape (in, out, kh, kw), from logits of that shape and gains (in, out)."""
        table = original.flatten(-2).type(self.used.dtype)[..., self.taps] + self.absent
        kernel = (table.softmax(-1) * self.total).flatten(-2)[..., self.place] * self.used
        if gain is not None:
            kernel = kernel * gain.unsqueeze(-1).type(kernel.dtype)
        return kernel.reshape(original.shape).type(original.dtype)

    def right_inverse(self, weight: Tensor) -> Originals:
        """Return parameters of ``weight``, or of the constrained kernel nearest to ``weight / g``.

        A free gain is the sum of the weights over ``prod(stride)``.  Zero weights are replaced by the rounding unit.
        """
        wide = self._checked(weight).type(self.used.dtype)
        gain = wide.sum((-2, -1)) / prod(self.geometry[1])
        if self.free_gain:
            wide = torch.where(gain == 0, 0.0, 1 / gain)[..., None, None] * wide
        kernel = project_nonnegative(wide, self.law, *self.geometry[1:])
        logits = (kernel + torch.finfo(weight.dtype).eps).log().type(weight.dtype)
        return (logits, gain.type(weight.dtype)) if self.free_gain else logits

    def nearest(self, kernel: Tensor) -> Tensor:
        """Return an initial kernel near an arbitrary one, without zeros among the learnable weights."""
        even = project_nonnegative(torch.zeros_like(kernel), self.law, *self.geometry[1:])
        return torch.lerp(project_nonnegative(kernel, self.law, *self.geometry[1:]), even, _EVEN_SHARE)


SIGNS: dict[str, type[AffineLaw] | type[SimplexLaw]] = {"any": AffineLaw, "nonnegative": SimplexLaw}
GAINS: dict[str, bool] = {"one": False, "free": True}
