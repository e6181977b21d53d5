"""Initial kernels of learnable transposed convolutions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downscale.kernels.laws import Law, Sizes, project, same_padding
from downscale.kernels.sobolev import axis_weights
from downscale.nn.gather import tap_range


class KernelPlan(NamedTuple):
    """Constraint, geometry and order of the Sobolev seminorm of an initial kernel."""

    law: Law
    kernel_size: Sizes
    stride: Sizes
    padding: Sizes
    order: float


def sobolev_kernel(
    kernel_size: int, stride: int, padding: int | None = None, order: float = 1.25
) -> NDArray[np.float64]:
    """Return the Sobolev-optimal kernel along a uniform axis, shape (kernel_size,), density form.

    Satisfies total, phase and cell if ``kernel_size`` is an odd multiple of ``stride`` and ``padding`` is the default,
    which gives ``n * stride`` outputs.  For other sizes it is cut from the next longer such kernel, and satisfies the
    constraints only after `project`.

    Raises
    ------
    OptionError
        If the order is not usable.

    References
    ----------
    Kyriakidis (2004), A geostatistical framework for area-to-point spatial interpolation, Geographical
    Analysis 36, 259-289.

    Examples
    --------
    >>> sobolev_kernel(2, 2).tolist(), round(float(sobolev_kernel(6, 2).sum()), 12)
    ([1.0, 1.0], 2.0)
    """
    if padding is None:
        padding, _ = same_padding(kernel_size, stride)
    first, last = tap_range(kernel_size, stride, padding)
    reach = max(last, -first)
    taps = 2 * reach + 1
    edges = np.arange(taps + 1.0)
    rows = axis_weights(edges, np.linspace(0.0, taps, taps * stride + 1), taps=taps, order=order).weights
    phases = rows[reach * stride : (reach + 1) * stride]
    whole = phases[:, ::-1].T.ravel()
    position = np.arange(kernel_size) - padding + reach * stride
    inside = (position >= 0) & (position < whole.size)
    return np.where(inside, whole[position.clip(0, whole.size - 1)], 0.0)


def _sobolev(plan: KernelPlan, pairs: tuple[int, int]) -> Tensor:
    """Return the product of the Sobolev kernels along both axes, projected onto the constraint; one for all pairs."""
    axes = zip(*plan[1:4], strict=True)
    lat, lon = (
        project(sobolev_kernel(size, step, pad, plan.order), plan.law, step, pad) for size, step, pad in axes
    )
    return torch.from_numpy(np.outer(lat, lon)).expand(*pairs, *plan.kernel_size)


def _uniform(plan: KernelPlan, pairs: tuple[int, int]) -> Tensor:
    """Return the most uniform kernel that satisfies the constraint, the same for all pairs."""
    kernel = project(np.zeros(plan.kernel_size), plan.law, plan.stride, plan.padding)
    return torch.from_numpy(kernel).expand(*pairs, *plan.kernel_size)


def _random(plan: KernelPlan, pairs: tuple[int, int]) -> Tensor:
    """Return random kernels, uniform between zero and twice the mean, a different one for each pair."""
    mean = prod(plan.stride) / prod(plan.kernel_size)
    return 2.0 * mean * torch.rand(*pairs, *plan.kernel_size, dtype=torch.float64)


INITS: dict[str, Callable[[KernelPlan, tuple[int, int]], Tensor]] = {
    "sobolev": _sobolev,
    "uniform": _uniform,
    "random": _random,
}
