"""DEFLATE compression that stores incompressible pieces uncompressed.

The low bytes of shuffled floating-point numbers are noise. Searching them for repetitions takes most of the time of
writing and of later reading, and saves almost nothing. A DEFLATE stream may contain stored (copied) blocks, and these
bytes are written there. Every zlib decoder reads the result.

References
----------
Deutsch (1996), DEFLATE Compressed Data Format Specification version 1.3, RFC 1951, section 3.2.4; Deutsch and Gailly
(1996), ZLIB Compressed Data Format Specification version 3.3, RFC 1950; Gopal, Feghali, Guilford, Ozturk, Wolrich,
Dixon, Locktyukhin and Perminov (2010), IGZIP, Intel white paper.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]
# Levels of ISA-L for small zlib levels: file size within a twentieth of zlib's, many times faster.
FAST_LEVELS = {1: 2, 2: 3, 3: 3}
# A stored block: a marker byte, its length, the complement of the length, and at most this many bytes.
STORED = 65535
BLOCK_HEAD = np.array((0, 0xFF, 0xFF, 0, 0), np.uint8)
STREAM_HEAD = b"\x78\x01"
# Bytes sampled of each piece of two blocks, and number of samples; a piece must shrink by a twentieth.
PIECE, LOOK, PLACES, WORTH = 2 * STORED, 2048, 4, 0.95
# Of 128 bytes of noise about 101 differ: with far fewer, compression pays without a trial.
FEW, DIFFERENT = 128, 80


def deflate(raw: Array, level: int) -> bytes:
    """Return a zlib stream: ISA-L with stored blocks for small levels, zlib for others.

    Parameters
    ----------
    raw : array of uint8, shape (n,)
        Contiguous.
    level : int
        1 to 9, as in zlib. The same bytes always give the same stream.
    """
    from isal import isal_zlib

    if level not in FAST_LEVELS:
        return zlib.compress(raw.data, level)
    if raw.size < 2 * PIECE:
        return bytes(isal_zlib.compress(raw.data, FAST_LEVELS[level]))
    noise = _noise(raw, FAST_LEVELS[level])
    if not noise.any():
        return bytes(isal_zlib.compress(raw.data, FAST_LEVELS[level]))
    body = _blocks(raw, noise, FAST_LEVELS[level])
    return b"".join([STREAM_HEAD, *body, isal_zlib.adler32(raw.data).to_bytes(4, "big")])


def inflate(stored: Array, nbytes: int) -> bytes:
    """Return the decompressed content of a zlib stream.

    Raises
    ------
    ValueError
        If the stream is damaged.
    """
    from isal import isal_zlib

    try:
        return bytes(isal_zlib.decompress(stored.data, bufsize=nbytes))
    except isal_zlib.error as error:  # type: ignore[misc]
        raise ValueError(f"a damaged chunk ({error})") from error


def _blocks(raw: Array, noise: NDArray[np.bool_], level: int) -> Iterator[bytes | memoryview]:
    """Yield the blocks of a stream: runs of pieces that are compressed together, and runs that are stored."""
    from isal import isal_zlib

    stream = isal_zlib.compressobj(level, isal_zlib.DEFLATED, -15)
    turns = np.flatnonzero(np.diff(noise)) + 1
    for first, last in zip([0, *turns], [*turns, noise.size], strict=True):
        run = raw[first * PIECE : last * PIECE]
        if noise[first]:
            yield _stored(run)
        else:
            yield stream.compress(run.data)
            # Back-references must not cross stored blocks, which this coder never saw.
            yield stream.flush(isal_zlib.Z_FULL_FLUSH)
    yield stream.flush(isal_zlib.Z_FINISH)


def _stored(run: Array) -> memoryview:
    """Return whole stored blocks."""
    made = np.empty((run.size // STORED, BLOCK_HEAD.size + STORED), np.uint8)
    made[:, : BLOCK_HEAD.size] = BLOCK_HEAD
    made[:, BLOCK_HEAD.size :] = run.reshape(-1, STORED)
    return made.reshape(-1).data


def _noise(raw: Array, level: int) -> NDArray[np.bool_]:
    """Return for each piece whether it is better stored; the last, shorter one never is."""
    pieces = raw[: raw.size // PIECE * PIECE].reshape(-1, PIECE)
    some = np.sort(pieces[:, PIECE // 2 :][:, :FEW], axis=1)
    found = np.zeros(-(-raw.size // PIECE), bool)
    for k in np.flatnonzero((np.diff(some, axis=1) != 0).sum(axis=1) >= DIFFERENT):
        found[k] = _resists(pieces[k], level)
    return found


def _resists(piece: Array, level: int) -> bool:
    """Return whether compression of a piece gains nothing."""
    from isal import isal_zlib

    # One sample is not enough: a band of rain between dry ones looks like noise.
    step = (PIECE - LOOK) // (PLACES - 1)
    some = b"".join(piece[k * step :][:LOOK].data for k in range(PLACES))
    return len(isal_zlib.compress(some, level)) > WORTH * len(some)
