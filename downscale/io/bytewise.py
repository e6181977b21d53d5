"""Compiled byte shuffles of numbers, with replacement of NaN.

A shuffle puts all first bytes of a chunk before all second ones, so that fields compress well. NumPy versions are in
:mod:`downscale.io.chunks`, which imports this module late.
"""

from __future__ import annotations

import numpy as np

from downscale.kernels.compiled import compile_loop

U8, U16, U32, U64 = np.uint8, np.uint16, np.uint32, np.uint64


@compile_loop
def shuffle_2(codes, out, infinite, fill):  # type: ignore[no-untyped-def]
    """As :func:`shuffle_4`, for whole numbers of two bytes, without replacement."""
    n = codes.size
    a, b = out[:n], out[n : 2 * n]
    for i in range(n):
        v = codes[i]
        a[i], b[i] = U8(v & U16(255)), U8(v >> U16(8))


@compile_loop
def shuffle_4(codes, out, infinite, fill):  # type: ignore[no-untyped-def]
    """Put byte ``k`` of value ``i`` at ``out[k * n + i]``; codes beyond ``infinite`` (NaN) become ``fill``."""
    n = codes.size
    a, b, c, d = out[:n], out[n : 2 * n], out[2 * n : 3 * n], out[3 * n : 4 * n]
    for i in range(n):
        v = codes[i]
        v = fill if (v & U32(0x7FFFFFFF)) > infinite else v
        a[i], b[i], c[i], d[i] = U8(v), U8(v >> U32(8)), U8(v >> U32(16)), U8(v >> U32(24))


@compile_loop
def shuffle_8(codes, out, infinite, fill):  # type: ignore[no-untyped-def]
    """As :func:`shuffle_4`, for values of eight bytes."""
    n = codes.size
    a, b, c, d = out[:n], out[n : 2 * n], out[2 * n : 3 * n], out[3 * n : 4 * n]
    e, f, g, h = out[4 * n : 5 * n], out[5 * n : 6 * n], out[6 * n : 7 * n], out[7 * n : 8 * n]
    for i in range(n):
        v = codes[i]
        v = fill if (v & U64(0x7FFFFFFFFFFFFFFF)) > infinite else v
        low, high = U32(v & U64(0xFFFFFFFF)), U32(v >> U64(32))
        a[i], b[i], c[i], d[i] = U8(low), U8(low >> U32(8)), U8(low >> U32(16)), U8(low >> U32(24))
        e[i], f[i], g[i], h[i] = U8(high), U8(high >> U32(8)), U8(high >> U32(16)), U8(high >> U32(24))


@compile_loop
def unshuffle_2(planes, codes, fill, blank):  # type: ignore[no-untyped-def]
    """Undo :func:`shuffle_2`."""
    n = codes.size
    a, b = planes[:n], planes[n : 2 * n]
    for i in range(n):
        codes[i] = U16(a[i]) | (U16(b[i]) << U16(8))


@compile_loop
def unshuffle_4(planes, codes, fill, blank):  # type: ignore[no-untyped-def]
    """Undo :func:`shuffle_4`; ``fill`` becomes ``blank``."""
    n = codes.size
    a, b, c, d = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n : 4 * n]
    for i in range(n):
        v = U32(a[i]) | (U32(b[i]) << U32(8)) | (U32(c[i]) << U32(16)) | (U32(d[i]) << U32(24))
        codes[i] = blank if v == fill else v


@compile_loop
def unshuffle_8(planes, codes, fill, blank):  # type: ignore[no-untyped-def]
    """As :func:`unshuffle_4`, for values of eight bytes."""
    n = codes.size
    a, b, c, d = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n : 4 * n]
    e, f, g, h = planes[4 * n : 5 * n], planes[5 * n : 6 * n], planes[6 * n : 7 * n], planes[7 * n : 8 * n]
    for i in range(n):
        low = U32(a[i]) | (U32(b[i]) << U32(8)) | (U32(c[i]) << U32(16)) | (U32(d[i]) << U32(24))
        high = U32(e[i]) | (U32(f[i]) << U32(8)) | (U32(g[i]) << U32(16)) | (U32(h[i]) << U32(24))
        v = U64(low) | (U64(high) << U64(32))
        codes[i] = blank if v == fill else v
