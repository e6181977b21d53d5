"""Time and memory of a piece of work."""

from __future__ import annotations

import ctypes
import gc
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Total seconds of work so far, and peak memory in bytes beyond that in use before.

    Memory is the peak resident size, NaN if the system does not report it (Linux does).
    """

    seconds: float = 0.0
    memory: float = float("nan")

    def __enter__(self) -> Cost:
        _tidy()
        self._before = _resident("VmRSS") if _reset() else None
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.seconds += time.perf_counter() - self._start
        peak = _resident("VmHWM")
        if self._before is not None and peak is not None:
            grown = float(max(peak - self._before, 0))
            self.memory = grown if self.memory != self.memory else max(self.memory, grown)


def _tidy() -> None:
    """Return free memory to the system, which would otherwise reduce the measured increase."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def _reset() -> bool:
    """Reset the system's record of peak memory; return False if that is impossible."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _resident(key: str) -> int | None:
    """Return a line of the system's memory report on this process, in bytes."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
