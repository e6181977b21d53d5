"""Deconvolution with a Sobolev seminorm as penalty, the Wiener filter, and generalised cross-validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from downscale.deconvolution.blur import Blur, Convolution
from downscale.deconvolution.richardson_lucy import Solution
from downscale.deconvolution.weights import Kernel, RowKernels
from downscale.errors import OptionError
from downscale.fields.aggregate import like

if TYPE_CHECKING:
    from torch import Tensor

ORDERS = (1, 2)
# Tolerance of the normal equations relative to their right side, and the largest number of steps.
TOLERANCE, MOST_STEPS = 1e-8, 300
# Least distance of neighbours as a fraction of the mean step, because meridians meet at the poles.
NEAREST = 0.1
GAP_ROUNDS = 200
# Range of weights for cross-validation, then the number of halvings of the step around the best.
# Below the least weight, rounding, edges and rows unlike the middle one outweigh the gain.
WEIGHTS, HALVINGS = np.logspace(-6, 3, 37), 4
LEAST_WEIGHT = 1e-6


def tikhonov(data: Tensor, blur: Blur, *, parameter: float | None = None, order: int = 1) -> Solution:
    """Return the field of least ``|H y - x|^2 + parameter |D^order y|^2``, norms by area.

    Parameters
    ----------
    data : tensor, of the shape of ``blur``
        The blurred field, zero at invalid cells.
    blur : Blur
        The operator H.
    parameter : float, optional
        Weight of the Sobolev seminorm, in units of the mean step between cells; the default is chosen by generalised
        cross-validation.
    order : {1, 2}
        Order of the seminorm: slopes or curvature.

    Raises
    ------
    OptionError
        If the order or the weight is not legal.

    Notes
    -----
    Total conservation: the area sum of the result is that of the data, because H conserves flux and constants and the
    penalty of constants is zero. The solution is closed if Fourier modes are eigenvectors of H, else by conjugate
    gradients.

    References
    ----------
    Tikhonov, A. N. & Arsenin, V. Y. (1977), Solutions of Ill-Posed Problems, Winston.
    """
    if order not in ORDERS:
        raise OptionError(f"expected an order of 1 or 2, received {order!r}")
    if parameter is not None and not 0 < parameter < float("inf"):
        raise OptionError(f"expected a positive parameter, received {parameter!r}; leave it out to have it chosen")
    size = blur.flux(torch.ones_like(data))
    if not float(size) > 0:
        return Solution(torch.zeros_like(data), 0, float("nan"), float("nan"), 0.0)
    weight = parameter or cross_validate(_fill_gaps(data, blur), blur.uniform, order)
    if blur.circulant:
        field, steps = filter_periodic(data, blur.uniform, weight, order), 0
    else:
        field, steps = _solve(data, blur, weight, order)
    # Removes the error of conjugate gradients in the total, which is below their tolerance.
    field = (field + blur.flux(data - field) / size) * blur.mask
    misfit = float(torch.sqrt(blur.flux((data - blur.forward(field)) ** 2) / size))
    return Solution(field, steps, weight, float("nan"), misfit)


def wiener(data: Tensor, blur: Blur, *, parameter: float | None = None) -> Solution:
    """Return the Wiener estimate for a signal whose spectrum falls with the fourth power of wavenumber.

    The ratio of noise to signal is ``parameter |Laplacian|^2``, which makes it the penalty of order 2. With a uniform
    blur this is a filter; around gaps and up to edges it is the same least-squares problem. Arguments and conservation
    are those of :func:`tikhonov`.
    """
    return tikhonov(data, blur, parameter=parameter, order=2)


def _fill_gaps(data: Tensor, blur: Blur) -> Tensor:
    """Return data with gaps filled by the mean and smoothed, so that cross-validation sees no jumps."""
    if blur.complete:
        return data
    mean = blur.flux(data) / blur.flux(torch.ones_like(data))
    field = torch.where(blur.mask > 0, data, mean)
    for _ in range(GAP_ROUNDS):
        total = torch.zeros_like(field)
        for axis, n in enumerate(field.shape):
            # The last cell is its own neighbour.
            index = torch.arange(n, device=field.device)
            total = total + field.index_select(axis, (index + 1).clamp(max=n - 1))
            total = total + field.index_select(axis, (index - 1).clamp(min=0))
        field = torch.where(blur.mask > 0, data, total / (2 * field.ndim))
    return field


def roughness(blur: Blur) -> Callable[[Tensor], Tensor]:
    """Return minus the Laplacian between valid neighbours, self-adjoint in area weights, zero on constants."""
    mean = float(np.prod(blur.uniform.steps) ** (1 / len(blur.shape)))
    faces = []
    for axis, closed in enumerate(blur.closed):
        next_area, next_mask = (torch.roll(field, -1, axis) for field in (blur.area, blur.mask))
        face = 0.5 * (blur.area + next_area) * blur.mask * next_mask
        if not closed:
            face.narrow(axis, blur.shape[axis] - 1, 1).zero_()
        faces.append(face * like(_nearness(blur.kernel, axis, mean), face))

    def minus_laplacian(field: Tensor) -> Tensor:
        total = torch.zeros_like(field)
        for axis, face in enumerate(faces):
            flow = face * (field - torch.roll(field, -1, axis))
            total = total + flow - torch.roll(flow, 1, axis)
        return total / blur.area

    return minus_laplacian


def _nearness(kernel: Kernel | RowKernels, axis: int, mean: float) -> np.ndarray:
    """Return the squared ratio of a mean step to the distance of neighbours along an axis."""
    if isinstance(kernel, Kernel):
        return np.asarray((mean / kernel.steps[axis]) ** 2)
    steps = np.append(kernel.rows, mean) if axis == 0 else kernel.columns
    return (mean / np.maximum(steps, NEAREST * mean))[:, None] ** 2


def _solve(data: Tensor, blur: Blur, weight: float, order: int) -> tuple[Tensor, int]:
    """Return the solution of the normal equations by conjugate gradients, preconditioned by a middle row's filter."""
    rough, kernel, wide = roughness(blur), blur.uniform, blur.mirrored_shape

    def normal(field: Tensor) -> Tensor:
        smooth = rough(field) if order == 1 else rough(rough(field))
        return blur.back(blur.forward(field)) + weight * smooth

    symbol = mirror_symbol(kernel, wide, data).abs() ** 2 + weight * laplacian(kernel, wide, data) ** order
    inverse, root = 1 / symbol, torch.sqrt(blur.area)

    def precondition(field: Tensor) -> Tensor:
        return filter_mirrored(field * root, inverse, blur.closed) / root * blur.mask

    mean = blur.flux(data) / blur.flux(torch.ones_like(data)) * blur.mask
    return conjugate_gradients(normal, blur.back(data), blur.product, precondition, TOLERANCE, MOST_STEPS, mean)


def filter_mirrored(field: Tensor, symbol: Tensor, closed: tuple[bool, ...]) -> Tensor:
    """Return a field whose Fourier modes, mirrored at open edges, are multiplied by a symbol."""
    wide = mirror(field, closed)
    image = torch.fft.irfftn(torch.fft.rfftn(wide) * symbol, s=tuple(wide.shape))
    return image[tuple(slice(0, n) for n in field.shape)]


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor], right_side: Tensor, product: Callable[[Tensor, Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor], tolerance: float, steps: int, start: Tensor | None = None,
) -> tuple[Tensor, int]:  # fmt: skip
    """Return the solution of ``operator(y) = right`` for an operator positive and self-adjoint in ``product``."""
    solution = torch.zeros_like(right_side) if start is None else start
    residual = right_side if start is None else right_side - operator(start)
    preconditioned = precondition(residual)
    direction, norm = preconditioned, product(residual, preconditioned)
    target = tolerance**2 * product(right_side, right_side)
    for step in range(steps):
        if not float(product(residual, residual)) > float(target) or not float(norm) > 0:
            return solution, step
        image = operator(direction)
        curvature = product(direction, image)
        if not float(curvature) > 0:
            # Stop when rounding dominates directions that the operator hardly affects.
            return solution, step
        length = norm / curvature
        solution, residual = solution + length * direction, residual - length * image
        preconditioned = precondition(residual)
        norm, previous_norm = product(residual, preconditioned), norm
        direction = preconditioned + norm / previous_norm * direction
    return solution, steps


def filter_periodic(data: Tensor, kernel: Kernel, weight: float, order: int = 2) -> Tensor:
    """Return ``conj(h) x / (|h|^2 + weight g^order)`` by Fourier transforms, with g the symbol of the Laplacian.

    The field is periodic along all axes. Order 2 is the Wiener filter for a ratio of noise to signal that grows as the
    fourth power of wavenumber. The mean of the field is conserved.

    References
    ----------
    Hunt, B. R. (1973), The application of constrained least squares estimation to image restoration by digital
    computer, IEEE Trans. Comput. C-22, 805-812.
    """
    shape = tuple(data.shape)
    symbol = mirror_symbol(kernel, shape, data)
    power = (symbol * symbol.conj()).real
    waves = torch.fft.rfftn(data) * symbol.conj() / (power + weight * laplacian(kernel, shape, data) ** order)
    return torch.fft.irfftn(waves, s=shape)


def laplacian(kernel: Kernel, shape: tuple[int, ...], reference: Tensor) -> Tensor:
    """Return the symbol of minus the Laplacian on closed axes, in units of the mean step, of a real transform."""
    mean = float(np.prod(kernel.steps) ** (1 / len(shape)))
    total = torch.zeros(())
    for axis, (n, step) in enumerate(zip(shape, kernel.steps, strict=True)):
        is_last = axis == len(shape) - 1
        angle = 2 * np.pi * (np.arange(n // 2 + 1) if is_last else np.arange(n)) / n
        term = reference.new_tensor((2 - 2 * np.cos(angle)) * (mean / step) ** 2)
        total = term if axis == 0 else total[..., None] + term
    return total


def cross_validate(data: Tensor, kernel: Kernel, order: int) -> float:
    """Return the weight of least generalised cross-validation error for a field mirrored at its open edges.

    The error ``n |r|^2 / tr(I - T)^2`` is exact for the mirrored field: both sums are over Fourier modes.

    References
    ----------
    Golub, G. H., Heath, M. & Wahba, G. (1979), Generalized cross-validation as a method for choosing a good ridge
    parameter, Technometrics 21, 215-223.
    """
    wide = mirror(data, kernel.periodic)
    wide = wide - wide.mean()
    shape = tuple(wide.shape)
    power = mirror_symbol(kernel, shape, data).abs() ** 2
    energy, rough = torch.fft.rfftn(wide).abs() ** 2, laplacian(kernel, shape, data) ** order
    # A real transform stores most modes once for two.
    mode_counts = torch.full_like(rough, 2.0)
    mode_counts[..., 0] = 1.0
    if shape[-1] % 2 == 0:
        mode_counts[..., -1] = 1.0

    def error(log_weight: float) -> float:
        penalty = 10**log_weight * rough
        residual = penalty / (power + penalty).clamp(min=1e-300)
        return float((mode_counts * residual**2 * energy).sum() / (mode_counts * residual).sum() ** 2)

    if not float(energy.sum()) > 0:
        return LEAST_WEIGHT
    log_weights = np.log10(WEIGHTS)
    best = float(log_weights[int(np.argmin([error(w) for w in log_weights]))])
    step = float(log_weights[1] - log_weights[0])
    for _ in range(HALVINGS):
        step /= 2
        best = min((best - step, best, best + step), key=error)
    return max(10**best, LEAST_WEIGHT)


def mirror(data: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """Return the data with the mirror image appended along open axes."""
    for axis, closed in enumerate(periodic):
        if not closed and data.shape[axis] > 1:
            data = torch.cat([data, data.flip(axis)], dim=axis)
    return data


def mirror_symbol(kernel: Kernel, shape: tuple[int, ...], reference: Tensor) -> Tensor:
    """Return the symbol of weights on closed axes of ``shape``, cut to their size."""
    values, centre = _crop_kernel(kernel, shape)
    return Convolution(Kernel(values, centre, (True,) * len(shape), kernel.steps), shape, reference).symbol


def _crop_kernel(kernel: Kernel, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the weights cut to a field's size, for closed axes shorter than their reach."""
    values, centre = kernel.values, list(kernel.centre)
    for axis, size in enumerate(shape):
        if values.shape[axis] > size:
            half = (size - 1) // 2
            first = centre[axis] - half
            values = np.take(values, np.arange(first, first + 2 * half + 1), axis=axis)
            centre[axis] = half
    return values / values.sum(), tuple(centre)
