"""How inner loops are compiled (numba; knows no loop)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter's lock, kept on disk between runs where there is a place for it.

    Products and sums may be fused, nothing else is reordered: every cell gets the same bits wherever it lies.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # No folder that may be written: compiled anew in each process.
        return numba.njit(**options)(function)
    # What is kept is made anew when the function's own file changes. What it calls may stand in another one here.
    with suppress(AttributeError):
        kept = made._cache._cache_file
        kept._source_stamp = (kept._source_stamp, stamp_of(Path(__file__).parent))
    return made


@lru_cache(maxsize=1)
def stamp_of(folder: Path) -> bytes:
    """Return what changes with any of the sources in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        found.update(path.read_bytes())
    return found.digest()
