"""Roughness of convolution kernels: the quadratic form of the graph Laplacian."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from downscale.errors import ShapeError
from downscale.kernels.smooth import roughness

if TYPE_CHECKING:
    from torch import Tensor


def kernel_smoothness(kernels: Iterable[Tensor]) -> Tensor:
    """Return the mean over all kernels of ``w' L w``, L the graph Laplacian of the kernel's grid.

    ``w' L w`` is the sum of squared differences between neighbouring weights. It is zero only for constant kernels, and
    at most eight times ``w' w``.

    Parameters
    ----------
    kernels : iterable of tensors, shape (..., k_y, k_x)
        Weights of convolutions; each slice over the last two dimensions is one kernel.

    Raises
    ------
    ShapeError
        If there are none, or one has fewer than two dimensions.

    References
    ----------
    Chung, F. R. K. (1997), Spectral Graph Theory, American Mathematical Society.

    Examples
    --------
    >>> float(kernel_smoothness([torch.tensor([[1.0, 3.0]]), torch.ones(3, 2, 4, 4)]))  # 4 in one of 7 kernels
    0.571...
    """
    forms, count = [], 0
    for kernel in kernels:
        if kernel.ndim < 2:
            raise ShapeError(f"expected kernels of shape (..., k_y, k_x), received {tuple(kernel.shape)}")
        forms.append(roughness(kernel))
        count += kernel.shape[:-2].numel()
    if not count:
        raise ShapeError("expected at least one kernel of shape (..., k_y, k_x), received none")
    return torch.stack(forms).sum() / count
