"""Arrays that reuse the memory of freed arrays: a fresh page costs ten times the arithmetic that fills it.

No memory outlives the arrays: idle memory never exceeds memory in use, so that freeing the last array frees all.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Limit of idle memory; the allocator itself caches arrays below the smallest size.
IDLE_BYTES, SMALLEST = 256_000_000, 1_000_000

# Re-entrant: the garbage collector may free arrays of this thread, and idle memory, between any two steps here. So
# idle memory has its id as key, and loops run over copies.
_lock = threading.RLock()
_idle: dict[int, NDArray[np.uint8]] = {}
_used: dict[int, int] = {}


class _Memory:
    """Memory in use until the last array on it is deleted."""

    def __init__(self, size: int) -> None:
        with _lock:
            # An array holds all of its memory, so much larger memory waits for larger arrays.
            keys = (key for key, idle in list(_idle.items()) if size <= idle.size <= size + size // 8)
            idle = _idle.pop(next(keys, 0), None)
            self._bytes = np.empty(size, np.uint8) if idle is None else idle
            self.__array_interface__ = self._bytes.__array_interface__
            _used[id(self)] = self._bytes.size

    def __del__(self) -> None:
        with _lock:
            # Nothing is in use if there was no memory.
            if _used.pop(id(self), 0):
                _idle[id(self._bytes)] = self._bytes
            while idle_bytes() > min(sum(list(_used.values())), IDLE_BYTES):
                _idle.pop(next(iter(_idle), 0), None)


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array of undefined content, in idle memory if there is any.

    Examples
    --------
    >>> allocate((2, 3), np.dtype("f4")).shape
    (2, 3)
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    return np.asarray(_Memory(size))[:size].view(dtype).reshape(shape)


def idle_bytes() -> int:
    """Return the number of idle bytes."""
    with _lock:
        return sum(memory.size for memory in list(_idle.values()))
