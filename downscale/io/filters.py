"""The HDF5 filter pipeline for chunks: fill values, shuffle and deflate, and their inverse.

The bytes are those that the HDF5 library would store for a chunk with the filters shuffle and deflate, so that every
NetCDF-4 reader can open them. The work runs without the interpreter lock, in buffers of each thread.

References
----------
The HDF5 Group, HDF5 File Format Specification 3.0, sections "Filter Pipeline Message" and "Chunked Storage".
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.io.deflate import deflate, inflate

Array = NDArray[Any]
# For fewer values NumPy is faster than importing numba.
MANY_VALUES = 20_000_000
DEFLATE, SHUFFLE = 1, 2


@dataclass(frozen=True)
class Layout:
    """Storage layout of one variable.

    Attributes
    ----------
    shape, chunks : tuple of int
        Sizes of the variable and of its storage chunks.
    dtype : numpy.dtype
        Type of the stored values, in the byte order of this machine.
    filters : tuple of int
        Filters in order: shuffle, deflate, both or none.
    level : int
        Deflate level, 0 without deflate.
    fill : scalar
        Value beyond the edge in the last chunks.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    filters: tuple[int, ...]
    level: int
    fill: Any

    @property
    def nbytes(self) -> int:
        """Bytes of an uncompressed chunk."""
        return int(np.prod(self.chunks)) * self.dtype.itemsize

    @property
    def shuffled(self) -> bool:
        """Whether the bytes of a chunk are shuffled."""
        return SHUFFLE in self.filters and self.dtype.itemsize > 1

    @property
    def deflated(self) -> bool:
        """Whether a chunk is deflated."""
        return DEFLATE in self.filters


class _Buffers(threading.local):
    """Memory reused by a thread: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self.kept: dict[str, Array] = {}

    def of(self, use: str, nbytes: int) -> Array:
        """Return ``nbytes`` bytes for a use."""
        if use not in self.kept or self.kept[use].nbytes < nbytes:
            self.kept[use] = np.empty(nbytes, dtype=np.uint8)
        return self.kept[use][:nbytes]


buffers = _Buffers()


def encoded(values: Array, layout: Layout, blank: Any = None, compiled: bool = False) -> Array | bytes:
    """Return the stored bytes of one chunk; valid until the next call in this thread.

    Parameters
    ----------
    values : array
        Values of the stored type, at most one chunk; the rest is filled.
    blank : scalar, optional
        Replaces NaN.
    compiled : bool
        Whether to import numba.
    """
    full = _whole(values, layout)
    if layout.shuffled:
        full = _shuffled(full, layout, blank, compiled)
    elif blank is not None:
        full = _filled(full, layout, blank)
    flat = full.reshape(-1).view(np.uint8)
    return deflate(flat, layout.level) if layout.deflated else flat


def decoded(stored: Array, out: Array, layout: Layout, blank: Any = None, compiled: bool = False) -> None:
    """Decode one stored chunk into ``out``, which has the shape of a chunk and the stored type; ``blank`` becomes NaN.

    Raises
    ------
    ValueError
        If the bytes are not a valid chunk.
    """
    raw = np.frombuffer(inflate(stored, layout.nbytes), dtype=np.uint8) if layout.deflated else stored
    if raw.nbytes != layout.nbytes:
        raise ValueError(f"a chunk of {raw.nbytes} bytes instead of {layout.nbytes}")
    flat = out.reshape(-1)
    if layout.shuffled:
        _unshuffled(raw, flat, blank, compiled)
        return
    np.copyto(flat.view(np.uint8), raw)
    cleared(flat, blank)


def cleared(values: Array, blank: Any) -> None:
    """Replace ``blank`` by NaN, if there is one."""
    # Few fields have gaps, and fill values are beyond all values: this test needs no memory.
    if blank is None or not values.size or values.max() < blank or values.min() > blank:
        return
    found = values == blank
    if found.any():
        values[found] = np.nan


def _whole(values: Array, layout: Layout) -> Array:
    """Return values as one contiguous chunk."""
    if values.shape == layout.chunks and values.flags.c_contiguous:
        return values
    full = buffers.of("whole", layout.nbytes).view(layout.dtype).reshape(layout.chunks)
    if values.shape != layout.chunks:
        full[...] = layout.fill
    full[tuple(slice(0, size) for size in values.shape)] = values
    return full


def _filled(full: Array, layout: Layout, blank: Any) -> Array:
    if not np.isnan(full.min()):
        return full
    missing = np.isnan(full, out=buffers.of("missing", full.size).view(bool).reshape(full.shape))
    out = buffers.of("filled", layout.nbytes).view(layout.dtype).reshape(full.shape)
    np.copyto(out, full)
    np.copyto(out, blank, where=missing)
    return out


def _shuffled(full: Array, layout: Layout, blank: Any, compiled: bool) -> Array:
    out = buffers.of("shuffled", layout.nbytes)
    size = layout.dtype.itemsize
    if not _has_pass(compiled, size, blank):
        full = full if blank is None else _filled(full, layout, blank)
        out.reshape(size, -1)[...] = full.reshape(-1).view(np.uint8).reshape(-1, size).T
        return out
    from downscale.io import bytewise

    codes = full.reshape(-1).view(f"u{size}")
    if size == 2:
        bytewise.shuffle_2(codes, out)
    else:
        # No code is above the largest one: nothing is replaced.
        last = codes.dtype.type(2 ** (8 * size - 1) - 1)
        infinite = last if blank is None else code_of(np.inf, layout.dtype)
        fill = last if blank is None else code_of(blank, layout.dtype)
        (bytewise.shuffle_4 if size == 4 else bytewise.shuffle_8)(codes, out, infinite, fill)
    return out


def _unshuffled(raw: Array, flat: Array, blank: Any, compiled: bool) -> None:
    size = flat.dtype.itemsize
    if not _has_pass(compiled, size, blank):
        flat.view(np.uint8).reshape(-1, size)[...] = raw.reshape(size, -1).T
        if blank is not None:
            flat[flat == blank] = np.nan
        return
    from downscale.io import bytewise

    codes = flat.view(f"u{size}")
    if size == 2:
        bytewise.unshuffle_2(raw, codes)
    else:
        fill = codes.dtype.type(0) if blank is None else code_of(blank, flat.dtype)
        nan = fill if blank is None else code_of(np.nan, flat.dtype)
        (bytewise.unshuffle_4 if size == 4 else bytewise.unshuffle_8)(raw, codes, fill, nan)


def _has_pass(compiled: bool, size: int, blank: Any) -> bool:
    return compiled and (size in (4, 8) or (size == 2 and blank is None))


def code_of(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return the bits of a number as an unsigned integer.

    Examples
    --------
    >>> hex(code_of(1.0, np.dtype("f4")))
    '0x3f800000'
    """
    return np.asarray(value, dtype=dtype).reshape(1).view(f"u{dtype.itemsize}")[0]


def worth_compiling(values: int) -> bool:
    """Return whether numba is already imported, or worth importing for this many values."""
    return "numba" in sys.modules or values >= MANY_VALUES
