"""Smoothing of kernels with sum-to-one constraints: (I + lambda L) w = w0.

L is the graph Laplacian of the grid of taps. With the constraints C w = b, the solution is one linear system (Karush,
Kuhn and Tucker): ``w = M (w0 - C' mu)`` with ``M = (I + lambda L)**-1`` and ``C M C' mu = C M w0 - b``.
"""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import OptionError
from downscale.kernels.laws import Law, Size, Sizes, geometry_of, law_system

Floats = NDArray[np.float64]


def path_laplacian(size: int, step: int = 1) -> Floats:
    """Return the graph Laplacian of taps in a row whose neighbours are ``step`` apart, shape (size, size).

    Examples
    --------
    >>> path_laplacian(3).tolist()
    [[1.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 1.0]]
    """
    difference = np.eye(max(size - step, 0), size, step) - np.eye(max(size - step, 0), size)
    return difference.T @ difference


def laplacian(shape: Sizes, steps: Sizes | None = None) -> Floats:
    """Return the graph Laplacian of a kernel's grid of taps, shape (taps, taps), taps in C order.

    ``steps`` are the distances of neighbours along each axis, one by default. With the stride as distance, the taps of
    one phase are neighbours, and each polyphase component is smoothed by itself.

    References
    ----------
    Chung, F. R. K. (1997), Spectral Graph Theory, American Mathematical Society.
    """
    distances = steps or (1,) * len(shape)
    matrix = np.zeros((prod(shape), prod(shape)))
    for axis, (size, step) in enumerate(zip(shape, distances, strict=True)):
        parts = [np.eye(n) for n in shape]
        parts[axis] = path_laplacian(size, step)
        matrix += reduce(lambda left, right: np.kron(left, right).astype(np.float64), parts)
    return matrix


def kernel_roughness(kernel: Any, axes: int = 2) -> Any:
    """Return the sum over all kernels of ``w' L w``, the squared differences of neighbouring taps.

    Accepts a NumPy array or a tensor (differentiable); the last ``axes`` axes are those of a kernel.
    """
    total = 0.0
    for axis in range(-axes, 0):
        next_taps = (..., slice(1, None), *(slice(None),) * (-1 - axis))
        previous_taps = (..., slice(None, -1), *(slice(None),) * (-1 - axis))
        total = total + ((kernel[next_taps] - kernel[previous_taps]) ** 2).sum()
    return total


def smooth(
    kernel: NDArray[Any],
    strength: float,
    law: Law | None,
    stride: Size,
    padding: Size | None = None,
    *,
    gain: str = "one",
    within_phases: bool = False,
) -> NDArray[Any]:
    """Return the kernels that minimise ``|w - w0|**2 + strength w' L w`` among those that obey a law.

    Parameters
    ----------
    kernel : array, shape (..., k) or (..., k_y, k_x)
        Initial kernels w0; those of a layer are smoothed one by one.
    strength : float
        Lambda: zero only projects on the law; in the limit of infinity the kernel is the smoothest that obeys it.
    law : str or sequence of str, or None
        Names in ``LAWS``. None: only the sum of each kernel is kept.
    stride, padding : int or sequence of int
        As in :func:`downscale.kernels.laws.law_residual`.
    gain : {"one", "kept"}
        "one": ``C w = b``. "kept": ``C w = g b`` with g the gain of each kernel, its sum over that of the law: for
        layers between channels, and for unconstrained ones.
    within_phases : bool
        Smooth each polyphase component by itself: neighbours are then a stride apart.

    Returns
    -------
    array, shape and data type of ``kernel``

    Raises
    ------
    OptionError
        If the strength is negative or NaN, or a name is unknown.
    ShapeError
        If no kernel of this size obeys the law.

    Examples
    --------
    >>> smooth(np.array([0.0, 2.0, 0.0, 0.0]), 1e9, "phase", 2).round(3).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    if not 0 <= strength < np.inf:
        raise OptionError(f"expected a smoothing strength from 0 on, received {strength!r}")
    if gain not in ("one", "kept"):
        raise OptionError(f"expected gain to be 'one' or 'kept', received {gain!r}")
    geometry = geometry_of(kernel, stride, padding)
    sizes, strides = geometry[:2]
    if law is None:
        constraints, target = np.ones((1, prod(sizes))), np.array([float(prod(strides))])
        gain = "kept"
    else:
        constraints, target, _ = law_system(law, *geometry)
    flat = np.asarray(kernel, dtype=np.float64).reshape(-1, prod(sizes))
    gains = flat.sum(-1, keepdims=True) / prod(strides) if gain == "kept" else np.ones((len(flat), 1))
    smoother = np.linalg.inv(np.eye(prod(sizes)) + strength * laplacian(sizes, strides if within_phases else None))
    free = flat @ smoother
    # Rows of several laws together may be linearly dependent: the least-norm solution is sufficient.
    normal = np.linalg.pinv(constraints @ smoother @ constraints.T, rcond=1e-12, hermitian=True)
    solution = free - (free @ constraints.T - gains * target) @ normal @ constraints @ smoother
    return solution.reshape(np.shape(kernel)).astype(kernel.dtype if kernel.dtype.kind == "f" else np.float64)
