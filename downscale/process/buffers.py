"""Reusable memory buffers: a fresh page costs ten times the arithmetic that fills it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Maximum idle memory; small arrays are left to the allocator, which caches them itself.
IDLE_BYTES = 256_000_000
SMALLEST = 1_000_000

# Re-entrant: the garbage collector may return memory of this thread during an allocation.
_lock = threading.RLock()
_idle: list[NDArray[np.uint8]] = []


class _Lease:
    """Memory on loan; it is returned when the last array that uses it is deleted."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self._memory = memory

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._memory.__array_interface__

    def __del__(self) -> None:
        _give_back(self._memory)


def leased(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array of undefined content, in idle memory if there is any.

    Examples
    --------
    >>> leased((2, 3), np.dtype("f4")).shape
    (2, 3)
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    lease = _Lease(_taken(size))
    return np.asarray(lease)[:size].view(dtype).reshape(shape)


def _taken(size: int) -> NDArray[np.uint8]:
    with _lock:
        # A result holds all of its buffer, so much larger buffers are kept for larger arrays.
        buffer = next((memory for memory in list(_idle) if size <= memory.size <= size + size // 8), None)
        if buffer is not None:
            _idle[:] = [memory for memory in _idle if memory is not buffer]
            return buffer
    return np.empty(size, np.uint8)


def _give_back(memory: NDArray[np.uint8]) -> None:
    with _lock:
        _idle.append(memory)
        while sum(buffer.size for buffer in list(_idle)) > IDLE_BYTES:
            del _idle[0]


def idle_bytes() -> int:
    """Return the number of idle bytes."""
    with _lock:
        return sum(memory.size for memory in _idle)
