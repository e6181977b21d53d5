"""Sum-to-one constraints ("laws") of a transposed-convolution kernel on a uniform grid.

A kernel ``w`` of stride ``s`` and padding ``p`` gives ``y[n] = sum_i x[i] w[n + p - s i]`` along each axis. In density
form (cell averages in, cell averages out) there are three constraints, each one linear in ``w``:

* **total**: all weights sum to ``prod(s)``, so ``sum(y) = prod(s) sum(x)`` if nothing leaves at an edge;
* **phase**: each of the ``prod(s)`` polyphase components sums to one, so constants are preserved;
* **cell**: block means of ``y`` are ``x``: the taps ``s d + p ... s d + p + s - 1`` sum to ``prod(s)`` for
  ``d = 0`` and to zero for every other ``d``.

Phase implies total and cell implies total; phase and cell do not imply each other. Each function accepts a NumPy array
or a PyTorch tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from downscale.errors import OptionError, ShapeError, listing

Law = str | Sequence[str]
Size = int | Sequence[int]
Sizes = tuple[int, ...]
Array = NDArray[np.float64]
KernelT = TypeVar("KernelT")

# The smallest singular value of any of these 0/1 systems is far above this, rounding far below.
_RANK_TOLERANCE = 1e-10


class LawSystem(NamedTuple):
    """A law as ``constraints @ w.ravel() == target``, with the pseudo-inverse of ``constraints``."""

    constraints: Array
    target: Array
    inverse: Array


def same_padding(kernel_size: int, stride: int) -> tuple[int, int]:
    """Return padding and output padding that give exactly ``n * stride`` cells for ``n`` along an axis.

    Examples
    --------
    >>> same_padding(4, 2), same_padding(7, 2), same_padding(28, 4)
    ((1, 0), (3, 1), (12, 0))
    """
    padding = max(0, -((stride - kernel_size) // 2))
    return padding, stride + 2 * padding - kernel_size


def law_names(law: Law) -> tuple[str, ...]:
    """Return the names in a law, each once, in the order of ``LAWS``."""
    names = (law,) if isinstance(law, str) else tuple(law)
    unknown = [name for name in names if name not in LAWS]
    if unknown or not names:
        raise OptionError(f"law expected one or more of {listing(LAWS)}, received {law!r}: choose among these names")
    return tuple(name for name in LAWS if name in names)


def kernel_geometry(kernel_size: Size, stride: Size, padding: Size | None = None) -> tuple[Sizes, Sizes, Sizes]:
    """Return kernel size, stride and padding with one entry per axis (``padding=None``: output ``n * s``)."""
    axes = len(kernel_size) if isinstance(kernel_size, Sequence) else 1
    kernel = _sizes("kernel_size", kernel_size, axes, least=1)
    strides = _sizes("stride", stride, axes, least=1)
    if padding is None:
        padding = [same_padding(k, s)[0] for k, s in zip(kernel, strides, strict=True)]
    return kernel, strides, _sizes("padding", padding, axes, least=0)


def _sizes(word: str, sizes: Size, axes: int, least: int) -> Sizes:
    """Return one integer per axis; a single number applies to all axes."""
    numbers = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,) * axes
    if len(numbers) != axes or not all(isinstance(n, (int, np.integer)) and n >= least for n in numbers):
        raise ShapeError(
            f"{word} expected {axes} whole number(s) >= {least}, received {numbers}: give one for each spatial axis"
        )
    return tuple(int(size) for size in numbers)


def _phase_rows(kernel: int, stride: int, padding: int) -> Array:
    """Return a matrix with ones at the taps of phase r in row r, for one axis; shape (stride, kernel)."""
    return np.equal.outer(np.arange(stride), (np.arange(kernel) - padding) % stride).astype(float)


def _cell_rows(kernel: int, stride: int, padding: int) -> tuple[Array, Array]:
    """Return a matrix with ones at the taps of one block per row, and the row of the central block, for one axis."""
    offset = (np.arange(kernel) - padding) // stride
    blocks = np.arange(offset[0], offset[-1] + 1)
    return np.equal.outer(blocks, offset).astype(float), (blocks == 0).astype(float)


def _kron(rows: Sequence[Array]) -> Array:
    return reduce(lambda left, right: np.kron(left, right).astype(np.float64), rows)


def _total(kernel: Sizes, stride: Sizes, padding: Sizes) -> tuple[Array, Array]:
    """Return the constraint that all taps sum to prod(stride)."""
    return np.ones((1, prod(kernel))), np.array([float(prod(stride))])


def _phase(kernel: Sizes, stride: Sizes, padding: Sizes) -> tuple[Array, Array]:
    """Return the constraints that the taps of each phase sum to one."""
    if any(k < s for k, s in zip(kernel, stride, strict=True)):
        raise ShapeError(
            f"law 'phase' expected kernel size >= stride on each axis, received k={kernel} and s={stride}: "
            "some phases have no tap; take a kernel of at least the stride"
        )
    rows = _kron([_phase_rows(*axis) for axis in zip(kernel, stride, padding, strict=True)])
    return rows, np.ones(len(rows))


def _cell(kernel: Sizes, stride: Sizes, padding: Sizes) -> tuple[Array, Array]:
    """Return the constraints that the central block of taps sums to prod(stride), each other block to zero."""
    axes = [_cell_rows(*axis) for axis in zip(kernel, stride, padding, strict=True)]
    centre = _kron([central for _, central in axes])
    if not centre.any():
        raise ShapeError(
            f"law 'cell' expected padding < kernel size, received k={kernel}, s={stride} and padding "
            f"{padding}: the central block has no tap; take padding ceil((k - s) / 2)"
        )
    return _kron([rows for rows, _ in axes]), prod(stride) * centre


LAWS: dict[str, Callable[[Sizes, Sizes, Sizes], tuple[Array, Array]]] = {
    "total": _total,
    "phase": _phase,
    "cell": _cell,
}


@lru_cache(maxsize=256)
def _system(names: tuple[str, ...], kernel: Sizes, stride: Sizes, padding: Sizes) -> LawSystem:
    parts = [LAWS[name](kernel, stride, padding) for name in names]
    constraints = np.concatenate([rows for rows, _ in parts])
    target = np.concatenate([sums for _, sums in parts])
    inverse = np.linalg.pinv(constraints, rcond=_RANK_TOLERANCE)
    if np.abs(constraints @ (inverse @ target) - target).max() > _RANK_TOLERANCE:
        raise ShapeError(
            f"laws {names} expected taps enough for all of them, received k={kernel}, s={stride} and padding "
            f"{padding}: no kernel obeys them together; take padding ceil((k - s) / 2) or a larger kernel"
        )
    for array in (constraints, target, inverse):
        array.setflags(write=False)
    return LawSystem(constraints, target, inverse)


def law_system(law: Law, kernel_size: Size, stride: Size, padding: Size | None = None) -> LawSystem:
    """Return a law as a linear system with its pseudo-inverse, float64 and read-only; computed once.

    Raises
    ------
    OptionError
        If a name is not in ``LAWS``.
    ShapeError
        If no kernel of this size, stride and padding obeys the law.
    """
    return _system(law_names(law), *kernel_geometry(kernel_size, stride, padding))


def geometry_of(kernel: Any, stride: Size, padding: Size | None) -> tuple[Sizes, Sizes, Sizes]:
    """Return `kernel_geometry` of the last axes of a kernel: as many as ``stride`` has, two for a number."""
    axes = len(stride) if isinstance(stride, Sequence) else min(kernel.ndim, 2)
    if not 0 < axes <= kernel.ndim:
        raise ShapeError(
            f"kernel expected at least {axes} axes for stride {stride}, received {tuple(kernel.shape)}: "
            "give one stride for each spatial axis"
        )
    return kernel_geometry(tuple(kernel.shape[-axes:]), stride, padding)


def to_float64(kernel: Any) -> Any:
    """Return the kernel in float64, so that reduced precision does not affect a constraint."""
    return kernel.astype(np.float64) if isinstance(kernel, np.ndarray) else kernel.double()


def _to_numpy(kernel: Any) -> Array:
    return to_float64(kernel) if isinstance(kernel, np.ndarray) else kernel.detach().cpu().double().numpy()


def like(array: NDArray[Any], wide: Any) -> Any:
    """Return an array of the kind of ``wide``: NumPy, or a tensor on its device."""
    return array if isinstance(wide, np.ndarray) else wide.new_tensor(array)


def to_kernel_type(wide: Any, kernel: Any) -> Any:
    """Return the result in the shape and type of the kernel; integer kernels become float64."""
    wide = wide.reshape(kernel.shape)
    if isinstance(kernel, np.ndarray):
        return wide.astype(kernel.dtype) if kernel.dtype.kind == "f" else wide
    return wide.type(kernel.dtype) if kernel.is_floating_point() else wide


def law_residual(kernel: Any, law: Law, stride: Size, padding: Size | None = None) -> float:
    """Return the largest violation ``max |C w - b|`` of a law by kernels (..., kh, kw) or (..., k).

    A stride that is one number means two axes if the kernel has two: for a batch of 1-D kernels give ``stride=(s,)``.
    ``padding=None`` is the padding whose output has ``n * stride`` cells.

    Raises
    ------
    OptionError
        If a name is not in ``LAWS``.
    ShapeError
        If no kernel of this size, stride and padding obeys the law.

    Examples
    --------
    >>> law_residual(np.array([0.5, 1.0, 0.5]), "phase", 2, 1)
    0.0
    """
    geometry = geometry_of(kernel, stride, padding)
    system = law_system(law, *geometry)
    flat = _to_numpy(kernel).reshape(-1, prod(geometry[0]))
    return float(np.abs(flat @ system.constraints.T - system.target).max(initial=0.0))


def obeys(kernel: Any, law: Law, stride: Size, padding: Size | None = None, tolerance: float | None = None) -> bool:
    """Return whether every kernel obeys the law; ``tolerance=None`` allows 16 roundings of the sum of ``|w|``.

    Examples
    --------
    >>> obeys(np.ones(3), "total", 2), obeys(np.ones(2), ("phase", "cell"), 2)
    (False, True)
    """
    if tolerance is None:
        taps = prod(geometry_of(kernel, stride, padding)[0])
        name = str(kernel.dtype).removeprefix("torch.")
        rounding = 2.0**-7 if name == "bfloat16" else np.finfo(name).eps if "float" in name else 0.0
        tolerance = 16 * float(rounding) * np.abs(_to_numpy(kernel)).reshape(-1, taps).sum(-1).max(initial=1)
    return bool(law_residual(kernel, law, stride, padding) <= tolerance)


def project(kernel: KernelT, law: Law, stride: Size, padding: Size | None = None) -> KernelT:
    """Return the kernel nearest to ``kernel`` (least squares) among those that obey the law.

    Shape (..., kh, kw) or (..., k), NumPy or PyTorch; computed in float64, returned in the type of the input. Linear,
    idempotent, differentiable. Strides and padding as in `law_residual`.

    Raises
    ------
    OptionError
        If a name is not in ``LAWS``.
    ShapeError
        If no kernel of this size, stride and padding obeys the law.

    Examples
    --------
    >>> project(np.zeros(4), "total", 2)
    array([0.5, 0.5, 0.5, 0.5])
    """
    geometry = geometry_of(kernel, stride, padding)
    system = law_system(law, *geometry)
    wide = to_float64(kernel)
    flat = wide.reshape(-1, prod(geometry[0]))
    excess = flat @ like(system.constraints.T, wide) - like(system.target, wide)
    return to_kernel_type(flat - excess @ like(system.inverse.T, wide), kernel)
