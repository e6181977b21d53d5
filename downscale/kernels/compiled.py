"""Compilation of inner loops, cached on disk between runs.

The cache follows changes to the file of a function only: compiled functions call those of their own file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from downscale.errors import OptionError

logger = logging.getLogger("downscale")
# The library refuses to load with other values, with a long traceback.
THREADS = os.environ.get("NUMBA_NUM_THREADS", "1")
if not THREADS.strip().isdigit() or int(THREADS) < 1:
    raise OptionError(
        "expected the environment variable NUMBA_NUM_THREADS to be a whole number from 1, "
        f"received {THREADS!r}; change it or unset it"
    )

import numba  # noqa: E402 - after the check


def compiled(function: Callable[..., Any], fused: bool = True) -> Any:
    """Compile a function without the interpreter's lock, cached on disk between runs if possible.

    Products and sums may be fused; nothing else is reordered, so that every cell gets the same bits at any position.
    Without ``fused`` the bits are also the same on every kind of processor.
    """
    fastmath = {"contract"} if fused else False
    return numba.njit(nogil=True, fastmath=fastmath, error_model="numpy", cache=_is_cacheable())(function)


@cache
def _is_cacheable() -> bool:
    """Return whether compiled loops can be stored, by storing one; otherwise each process compiles them."""

    def loop(n: int) -> int:
        return n

    try:
        folder = numba.njit("int64(int64)", cache=True)(loop).stats.cache_path
    except (RuntimeError, OSError) as error:
        logger.warning("compiled loops are not stored (%s); set NUMBA_CACHE_DIR to a folder with space", error)
        return False
    # Left by a crash of the machine; the library would fail to read them.
    for path in Path(str(folder)).glob("*.nb[ci]"):
        if not path.stat().st_size:
            path.unlink(missing_ok=True)
    return True
