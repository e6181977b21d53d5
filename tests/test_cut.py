"""Cutting an axis into blocks: every cell answered for once, every halo whole, in integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import cuttings

from downscale.engine.cut import Span, cut_axis
from downscale.errors import ShapeError

sizes = st.integers(1, 14).flatmap(cuttings)
reaches = st.integers(0, 16)


@given(sizes, st.booleans(), reaches, reaches)
def test_every_cell_is_owned_once_and_in_order(chunks, periodic, halo, margin):
    cuts = cut_axis(chunks, periodic, halo, margin)
    owned = np.concatenate([cut.core.cells for cut in cuts])
    np.testing.assert_array_equal(owned, np.arange(sum(chunks)))


@given(sizes, st.booleans(), reaches, reaches)
def test_a_block_is_given_its_halo_or_all_there_is(chunks, periodic, halo, margin):
    size = sum(chunks)
    for cut in cut_axis(chunks, periodic, halo, margin):
        for inner, outer, reach in ((cut.core, cut.refinement, margin), (cut.refinement, cut.input, halo)):
            wanted = np.arange(inner.first - reach, inner.last + reach)
            wanted = wanted % size if periodic else wanted[(wanted >= 0) & (wanted < size)]
            assert set(wanted.tolist()) <= set(outer.cells.tolist())
            assert len(set(outer.cells.tolist())) == outer.length, "a cell is given twice"


@given(sizes, st.booleans(), reaches, reaches, st.integers(1, 4))
def test_slices_find_the_inner_cells_among_the_outer(chunks, periodic, halo, margin, factor):
    for cut in cut_axis(chunks, periodic, halo, margin):
        for inner, outer in ((cut.core, cut.refinement), (cut.refinement, cut.input), (cut.core, cut.input)):
            found = outer.fine_cells(factor)[inner.slice_in(outer, factor)]
            np.testing.assert_array_equal(found, inner.fine_cells(factor))
            np.testing.assert_array_equal(outer.cells[inner.slice_in(outer)], inner.cells)


@given(sizes, st.booleans(), reaches)
def test_a_method_that_looks_at_all_is_given_all(chunks, periodic, margin):
    (cut,) = cut_axis([sum(chunks)], periodic, None, margin)
    assert cut.input == cut.refinement == cut.core == Span(0, sum(chunks), sum(chunks))


def test_the_circle_is_not_repeated():
    (first, second) = cut_axis([3, 3], periodic=True, halo=2)
    assert first.input.is_whole
    assert second.input.is_whole
    assert cut_axis([3, 5], periodic=True, halo=2)[0].input == Span(-2, 5, 8)


def test_a_method_that_looks_at_all_refuses_cut_axes():
    with pytest.raises(ShapeError, match=r"expected uncut horizontal axes.*received 2 chunks; rechunk that axis to -1"):
        cut_axis([4, 4], periodic=False, halo=None)


def test_sizes_that_a_method_does_not_take_are_refused():
    assert len(cut_axis([4, 4], periodic=True, halo=2, multiple_of=8)) == 2
    with pytest.raises(ShapeError, match="expected blocks of a multiple of 4 coarse cells, received 6"):
        cut_axis([4, 4], periodic=False, halo=2, multiple_of=4)
