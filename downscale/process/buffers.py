"""Arrays in the memory of freed arrays: a fresh page costs ten times the arithmetic that fills it.

No memory outlives the arrays: what is idle never exceeds what is in use, so that the last of them frees all.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Most idle memory; small arrays are left to the allocator, which caches them itself.
IDLE_BYTES, SMALLEST = 256_000_000, 1_000_000

# Re-entrant: the garbage collector may free arrays of this thread during an allocation.
_lock = threading.RLock()
_idle: list[NDArray[np.uint8]] = []
_used: dict[int, int] = {}


class _Memory:
    """Memory in use until the last array on it is deleted."""

    def __init__(self, size: int) -> None:
        with _lock:
            # An array holds all of its memory, so much larger pieces wait for larger arrays.
            fitting = (i for i, idle in enumerate(_idle) if size <= idle.size <= size + size // 8)
            index = next(fitting, None)
            self._bytes = np.empty(size, np.uint8) if index is None else _idle.pop(index)
            self.__array_interface__ = self._bytes.__array_interface__
            _used[id(self)] = self._bytes.size

    def __del__(self) -> None:
        with _lock:
            del _used[id(self)]
            _idle.append(self._bytes)
            while sum(idle.size for idle in _idle) > min(sum(_used.values()), IDLE_BYTES):
                del _idle[0]


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
        return sum(memory.size for memory in _idle)
