"""Compilation of inner loops with a robust cache on disk.

The cache follows changes to the file of a function only: compiled functions call those of their own file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from downscale.errors import OptionError

# The library refuses to load with other values, with a long traceback.
THREADS = "NUMBA_NUM_THREADS"
if not os.environ.get(THREADS, "1").strip().isdigit() or int(os.environ.get(THREADS, "1")) < 1:
    raise OptionError(f"expected the environment variable {THREADS} to be a whole number from 1, "
                      f"received {os.environ[THREADS]!r}; change it or unset it")  # fmt: skip

import numba  # noqa: E402 - after the check
from numba.core.caching import FunctionCache  # noqa: E402


class LoopCache(FunctionCache):  # type: ignore[misc]
    """A disk cache of compiled loops that ignores damaged files and unwritable folders.

    The library loads its files without a check: an empty or truncated one, left by a full disk or a killed process,
    would break every later run.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled loop of a signature, or None if there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # damaged bytes may raise anything
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save the compiled loop of a signature if the folder is writable."""
        with suppress(OSError):
            super().save_overload(sig, data)


def compiled(function: Callable[..., Any], fused: bool = True) -> Any:
    """Compile a function without the interpreter's lock, cached on disk between runs if possible.

    Products and sums may be fused; nothing else is reordered, so that every cell gets the same bits at any position.
    Without ``fused`` the bits are also the same on every kind of processor.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"} if fused else False, "error_model": "numpy"}
    made = numba.njit(**options)(function)
    # A RuntimeError means that no folder is writable: the loop is compiled in each process.
    with suppress(RuntimeError, OSError):
        made._cache = LoopCache(function)
    return made
