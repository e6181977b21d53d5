"""How inner loops are compiled (numba; knows no loop)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from downscale.errors import OptionError

# The library refuses to load with other numbers, and not in one line.
THREADS = "NUMBA_NUM_THREADS"
if not os.environ.get(THREADS, "1").strip().isdigit() or int(os.environ.get(THREADS, "1")) < 1:
    raise OptionError(f"expected the environment variable {THREADS} to be a whole number from 1, "
                      f"received {os.environ[THREADS]!r}; change it or unset it")  # fmt: skip

import numba  # noqa: E402 - after the check
from numba.core.caching import FunctionCache  # noqa: E402


class LoopCache(FunctionCache):  # type: ignore[misc]
    """Compiled loops on disk, made anew where the files are damaged and left out where the disk takes none.

    The library loads an index and data files without a check: an empty or truncated one, left by a full disk or a
    killed process, would break every later run.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # The library compiles anew when the file of a function changes. What it calls may be in another file here.
        stored = self._cache_file
        stored._source_stamp = (stored._source_stamp, stamp_of(Path(__file__).parent))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled loop of a signature, None where there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever damaged bytes lead to: they are no compiled loop
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save the compiled loop of a signature where the folder takes it."""
        with suppress(OSError):
            super().save_overload(sig, data)


def compiled(function: Callable[..., Any], fused: bool = True) -> Any:
    """Compile without the interpreter's lock, kept on disk between runs where there is a place for it.

    Products and sums may be fused, nothing else is reordered: every cell gets the same bits wherever it is. Without
    ``fused`` the bits are the same on every kind of processor, too.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"} if fused else False, "error_model": "numpy"}
    made = numba.njit(**options)(function)
    # A RuntimeError says that no folder may be written: the loop is compiled anew in each process.
    with suppress(RuntimeError, OSError):
        made._cache = LoopCache(function)
    return made


@lru_cache(maxsize=1)
def stamp_of(folder: Path) -> bytes:
    """Return what changes with any of the sources in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        found.update(path.read_bytes())
    return found.digest()
