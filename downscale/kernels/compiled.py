"""How inner loops are compiled (numba; knows no loop).

A function that calls another compiled one must stand in the same file: what is kept on disk between runs is made anew
when that file changes, not when another does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter's lock, kept on disk between runs where there is a place for it.

    Products and sums may be fused, nothing else is reordered: every cell gets the same bits wherever it lies.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # No folder that may be written: compiled anew in each process.
        return numba.njit(**options)(function)
