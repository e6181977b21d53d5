"""Chunks of HDF5 are made and read as the library does it, compiled or not; blocks end where chunks end."""

from __future__ import annotations

import itertools
import zlib

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from downscale.io.chunks import (
    FEW_BLOCKS,
    MOST_STORED_BYTES,
    PIECE_BYTES,
    PIECE_VALUES,
    Layout,
    align_blocks,
    chunk_sizes,
    chunks_in,
    decode_chunk,
    deflate,
    encode_chunk,
    inflate,
    piece_sizes,
)

TYPES = ("f4", "f8", "i2", "i4", "u1", "f2", "u8")


def layout(dtype: str, filters: tuple[int, ...], level: int = 1, chunks: tuple[int, ...] = (3, 8, 9)) -> Layout:
    kind = np.dtype(dtype)
    return Layout((5, 16, 11), chunks, kind, filters, level, kind.type(9))


def values(dtype: str, shape: tuple[int, ...] = (3, 8, 9)) -> np.ndarray:
    made = np.random.default_rng(1).normal(size=shape) * 50
    if dtype[0] == "f":
        made[..., 2] = np.nan
        made[..., 3] = [np.inf, -np.inf, -0.0, 0.0, 1e-7, -1e-7, 4, 1][: shape[1]]
    return made.astype(dtype) if dtype[0] != "u" else np.abs(made).astype(dtype)


def by_hand(chunk: np.ndarray, filters: tuple[int, ...]) -> bytes:
    """What the format says of a shuffle, written out."""
    flat = np.ascontiguousarray(chunk).tobytes()
    size = chunk.dtype.itemsize
    return b"".join(flat[k::size] for k in range(size)) if 2 in filters else flat


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("filters", [(), (1,), (2,), (2, 1)])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_chunk_is_what_the_format_says(dtype, filters, compiled):
    chunk = values(dtype)
    before = chunk.copy()
    blank = None if dtype[0] != "f" else chunk.dtype.type(1e4)
    for level in (1, 2, 3, 6) if 1 in filters else (0,):
        how = layout(dtype, filters, level)
        stored = bytes(encode_chunk(chunk, how, blank, compiled))
        raw = zlib.decompress(stored) if 1 in filters else stored
        assert raw == by_hand(chunk if blank is None else np.where(np.isnan(chunk), blank, chunk), filters)
        back = np.empty_like(chunk)
        decode_chunk(np.frombuffer(stored, "u1"), back, how, blank, compiled)
        assert back.tobytes() == chunk.tobytes()
    assert chunk.tobytes() == before.tobytes(), "the given values are not touched"


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("filters", [(), (2, 1)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_every_nan_becomes_the_fill_value_and_nothing_else(dtype, filters, compiled):
    """Quiet and signalling ones, of either sign; infinities are numbers."""
    size = np.dtype(dtype).itemsize
    top = {4: 0x7F800000, 8: 0x7FF0000000000000}[size]
    sign = 1 << (8 * size - 1)
    codes = np.array([top, top + 1, sign - 1, sign | top, (sign | top) + 1, 0], f"u{size}")
    how = Layout((6,), (6,), np.dtype(dtype), filters, 1, np.dtype(dtype).type(0))
    stored = bytes(encode_chunk(codes.view(dtype), how, np.dtype(dtype).type(7), compiled))
    back = np.empty(6, dtype)
    decode_chunk(np.frombuffer(stored, "u1"), back, how, None, compiled)
    np.testing.assert_array_equal(back, np.array([np.inf, 7, 7, -np.inf, 7, 0], dtype))


def test_what_lies_beyond_the_edge_is_filled():
    chunk = values("i4", (2, 3, 9))
    how = layout("i4", (2, 1))
    encode_chunk(values("i4"), how)
    back = np.empty((3, 8, 9), "i4")
    decode_chunk(np.frombuffer(encode_chunk(chunk, how), "u1"), back, how)
    np.testing.assert_array_equal(back[:2, :3], chunk)
    assert (back[2] == 9).all()
    assert (back[:2, 3:] == 9).all()


@pytest.mark.parametrize("broken", [lambda z: z[:-9], lambda z: z[:9], lambda z: b"", lambda z: z[:-1] + b"?"])
def test_a_damaged_chunk_is_an_error(broken):
    how = layout("f4", (2, 1))
    stored = broken(bytes(encode_chunk(values("f4"), how)))
    with pytest.raises(ValueError, match=r"a (damaged )?chunk"):
        decode_chunk(np.frombuffer(stored, "u1"), np.empty((3, 8, 9), "f4"), how)


def test_a_stream_of_another_length_is_an_error():
    how = layout("f4", (2, 1))
    stored = np.frombuffer(zlib.compress(b"abcd"), "u1")
    assert inflate(stored, 4) == b"abcd"
    with pytest.raises(ValueError, match="a chunk of 4 bytes instead of 864"):
        decode_chunk(stored, np.empty((3, 8, 9), "f4"), how)


def bytes_of(kind: str, size: int) -> np.ndarray:
    rng = np.random.default_rng(size)
    noise = rng.integers(0, 256, size, dtype=np.uint8)
    low = rng.integers(0, 16, size, dtype=np.uint8)
    return {"noise": noise, "zeros": np.zeros(size, np.uint8), "low": low, "repeated": np.repeat(noise, 4)[:size]}[kind]


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("turns", ["n", "nz", "zn", "nzln", "rnrn", "lnz"])
@pytest.mark.parametrize("beyond", [0, 1, MOST_STORED_BYTES, PIECE_BYTES - 1])
def test_noise_is_copied_and_all_else_is_deflated(level, turns, beyond):
    """In any order, every zlib reads the same bytes; the stream is as large as that of ISA-L alone, or hardly more."""
    from isal import isal_zlib

    names = {"n": "noise", "z": "zeros", "l": "low", "r": "repeated"}
    raw = np.concatenate([bytes_of(names[turn], 3 * PIECE_BYTES) for turn in turns] + [bytes_of("noise", beyond)])
    stream = deflate(raw, level)
    assert zlib.decompress(stream) == raw.tobytes() == inflate(np.frombuffer(stream, "u1"), raw.size)
    assert stream == deflate(raw.copy(), level)
    assert len(stream) < 1.01 * len(isal_zlib.compress(raw.data, 3))


@given(data=st.data())
def test_any_bytes_come_back(data):
    part = st.tuples(st.sampled_from(("noise", "zeros", "low", "repeated")), st.integers(1, 2 * PIECE_BYTES))
    parts = data.draw(st.lists(part, min_size=1, max_size=6), "parts")
    raw = np.concatenate([bytes_of(kind, size) for kind, size in parts])
    stream = deflate(raw, 1)
    assert zlib.decompress(stream) == raw.tobytes() == inflate(np.frombuffer(stream, "u1"), raw.size)


def test_a_fault_in_a_copied_block_is_found():
    stream = bytearray(deflate(bytes_of("noise", 3 * PIECE_BYTES), 1))
    stream[PIECE_BYTES] ^= 1
    with pytest.raises(ValueError, match="a damaged chunk"):
        inflate(np.frombuffer(bytes(stream), "u1"), 3 * PIECE_BYTES)


@given(data=st.data())
def test_blocks_end_where_chunks_end(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3), "shape"))
    sizes = tuple(data.draw(st.integers(1, n), "size") for n in shape)
    cuts = [sorted(data.draw(st.sets(st.integers(1, n), max_size=4), "cuts") | {n}) for n in shape]
    chunks = tuple(tuple(int(n) for n in np.diff([0, *cut])) for cut in cuts)
    whole = np.arange(np.prod(shape)).reshape(shape)
    for given_ in (whole, da.from_array(whole, chunks=chunks)):
        blocks = align_blocks(given_, sizes)
        assert all(n % size == 0 for own, size in zip(blocks.chunks, sizes, strict=True) for n in own[:-1])
        np.testing.assert_array_equal(blocks.compute(scheduler="sync"), whole)
    seen = np.zeros(shape, int)
    for start, part in chunks_in(shape, sizes):
        assert tuple(one.start for one in part) == start
        seen[part] += 1
    assert (seen == 1).all()


def test_blocks_of_whole_chunks_stay_as_they_are():
    many = da.zeros((480, 720, 1440), chunks=(4, 720, 1440))
    assert align_blocks(many, (1, 720, 1440)) is many
    assert align_blocks(many, (2, 720, 1440)) is many
    assert set(align_blocks(many, (3, 720, 1440)).chunks[0]) == {3}


def test_few_large_blocks_are_shared_out():
    one = align_blocks(da.zeros((480, 720, 1440), chunks=-1), (1, 720, 1440))
    assert one.npartitions >= FEW_BLOCKS
    assert max(np.prod(shape) for shape in itertools.product(*one.chunks)) <= PIECE_VALUES


@pytest.mark.parametrize(
    ("shape", "blocks", "sizes"),
    [
        ((480, 720, 1440), ((4,) * 120, (720,), (1440,)), (1, 720, 1440)),
        ((480, 720, 1440), ((480,), (100,) * 7 + (20,), (1440,)), (1, 100, 1440)),
        ((3650, 148, 196), ((30,) * 121 + (20,), (148,), (196,)), (30, 148, 196)),
        ((3650, 148, 196), ((50,) * 73, (148,), (196,)), (25, 148, 196)),
        # Months: no chunk of fair size fits into all.
        ((90, 148, 196), ((31, 28, 31), (148,), (196,)), (34, 148, 196)),
        # Small fields are joined rather than cut into crumbs.
        ((3, 24, 32), ((1, 1, 1), (24,), (32,)), (3, 24, 32)),
        ((0, 24, 32), ((0,), (24,), (32,)), (1, 24, 32)),
    ],
)
def test_storage_chunks_are_parts_of_blocks_where_these_are_fair(shape, blocks, sizes):
    found = chunk_sizes(shape, blocks)
    assert found == sizes
    assert found == chunk_sizes(shape) or all(n % s == 0 for b, s in zip(blocks, found, strict=True) for n in b[:-1])


def test_pieces_hold_whole_chunks():
    assert piece_sizes((480, 720, 1440), (1, 720, 1440)) == (3, 720, 1440)
    assert piece_sizes((10, 20, 30), (3, 7, 8)) == (12, 21, 32)
    assert piece_sizes((1000, 720, 1440), (1000, 100, 100)) == (1000, 100, 100)
