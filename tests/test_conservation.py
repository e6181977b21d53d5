"""The validators: any chunking gives the whole report, a leak is found where it is, and reports can be read."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import cuttings, factor_pairs, generator, grids, masks, seeds

from downscale.conservation.measures import (
    PartialResult,
    Peak,
    check_block,
    combine,
    combine_all,
    default_tolerance,
    global_error,
)
from downscale.conservation.report import ConservationReport, VariableReport, finalize
from downscale.errors import ConservationError
from downscale.fields.aggregate import Aggregation
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid

COUNTS = ("cells_checked", "cells_masked", "cells_lost", "cells_invented", "values_out_of_bounds")


class Case:
    """A fine field of several maps on a grid, and its own cell means: every law holds to rounding."""

    def __init__(self, grid, factor, maps=3, seed=0, kind=np.float64, mask=None):
        fine_grid = grid.refine(*factor)
        self.grid, self.factor, self.cells = grid, factor, Aggregation.between(grid, fine_grid)
        self.fine = generator(seed).standard_normal((maps, *fine_grid.shape)) + 10
        if mask is not None:
            self.fine[:, ~mask] = np.nan
        valid = np.isfinite(self.fine)
        self.coarse = self.cells.apply_mask(valid).mean(self.fine).astype(kind)
        self.fine = self.fine.astype(kind)

    def judged(self, bounds=(None, None)) -> PartialResult:
        return check_block(self.coarse, self.fine, self.cells, self.grid.cell_area, (0, 0, 0), bounds)

    def parts(self, maps, rows, columns, bounds=(None, None)) -> list[PartialResult]:
        """The same, block by block."""
        starts = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in (maps, rows, columns)]
        blocks = itertools.product(*(itertools.pairwise(edges) for edges in starts))
        return [self._part(*block, bounds) for block in blocks]

    def _part(self, maps, rows, columns, bounds) -> PartialResult:
        (t0, t1), (j0, j1), (i0, i1) = maps, rows, columns
        f, g = self.factor
        cells = self.cells.window(np.arange(j0, j1), np.arange(i0, i1))
        coarse, area = self.coarse[t0:t1, j0:j1, i0:i1], self.grid.cell_area[j0:j1, i0:i1]
        fine = self.fine[t0:t1, j0 * f : j1 * f, i0 * g : i1 * g]
        return check_block(coarse, fine, cells, area, (int(t0), int(j0), int(i0)), bounds)


def small_case(kind=np.float64, seed=0) -> Case:
    axes = CellAxis(np.linspace(90, -90, 7), "latitude"), CellAxis(np.linspace(0, 360, 9), "longitude")
    return Case(RectilinearGrid(*axes), (2, 3), kind=kind, seed=seed)


def locate(index) -> dict[str, int]:
    return dict(zip(("time", "lat", "lon"), index, strict=True))


def report_of(partial: PartialResult, law: str = "cell", tolerance: float = 1e-12, name: str = "tas") -> VariableReport:
    return finalize(name, partial, law, tolerance, "K", locate)


# The numbers


@given(grids(), factor_pairs, seeds, st.data())
def test_fields_that_obey_pass(grid, factor, seed, data):
    case = Case(grid, factor, 2, seed, mask=data.draw(masks(grid.refine(*factor).shape)))
    partial = case.judged()
    assert partial.relative.value < 1e-14
    assert global_error(partial) < 1e-14
    assert partial.cells_lost == partial.cells_invented == partial.values_out_of_bounds == 0
    assert partial.cells_checked == np.isfinite(case.coarse).sum()
    assert partial.cells_masked == np.isnan(case.coarse).sum()


@given(grids(2), factor_pairs, seeds, st.sampled_from([0.0, 0.3]), st.data())
def test_the_chunked_report_is_the_whole_report(grid, factor, seed, missing, data):
    case, rng = Case(grid, factor, 3, seed), generator(seed)
    case.fine += 1e-3 * rng.standard_normal(case.fine.shape)
    case.fine[rng.uniform(size=case.fine.shape) < missing] = np.nan
    case.coarse[rng.uniform(size=case.coarse.shape) < missing] = np.nan
    cuts = [data.draw(cuttings(size)) for size in case.coarse.shape]
    parts = case.parts(*cuts, bounds=(2.5, None))
    rng.shuffle(parts)
    whole, chunked = case.judged((2.5, None)), combine_all(parts)
    assert (chunked.relative, chunked.absolute) == (whole.relative, whole.absolute)
    assert [getattr(chunked, name) for name in COUNTS] == [getattr(whole, name) for name in COUNTS]
    assert global_error(chunked) == pytest.approx(global_error(whole), rel=1e-9, abs=1e-15)


def test_ties_go_to_the_first_cell_in_whatever_order_blocks_come():
    peaks = [Peak(1.0, (1, 0)), Peak(1.0, (0, 3)), Peak(0.5, (0, 0)), Peak(), Peak(0.0, ())]
    for order in itertools.permutations(peaks):
        best = Peak()
        for peak in order:
            best = best.larger(peak)
        assert best == Peak(1.0, (0, 3))


def test_combining_with_nothing_changes_nothing():
    whole = small_case().judged()
    for partial in (combine(whole, PartialResult()), combine(PartialResult(), whole), combine_all([whole])):
        np.testing.assert_equal(partial.sums, whole.sums)
        assert replace(partial, sums={}) == replace(whole, sums={})
    assert combine_all([]) == PartialResult()


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@given(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 7)), st.booleans())
def test_a_leak_of_one_in_ten_thousand_is_found_and_located(kind, index, chunked):
    case = small_case(kind)
    tolerance = default_tolerance(np.dtype(kind))
    assert report_of(case.judged(), tolerance=tolerance).passed
    t, j, i = index
    case.fine[t, 2 * j : 2 * j + 2, 3 * i : 3 * i + 3] *= kind(1 + 1e-4)
    partial = combine_all(case.parts([1, 2], [4, 2], [3, 5])) if chunked else case.judged()
    assert partial.relative.index == partial.absolute.index == index
    assert partial.relative.value == pytest.approx(1e-4, rel=0.02, abs=0)
    share = case.grid.cell_area[j, i] * case.coarse[t, j, i] / (case.grid.cell_area * np.abs(case.coarse[t])).sum()
    assert global_error(partial) == pytest.approx(1e-4 * share, rel=0.05, abs=0)
    report = report_of(partial, tolerance=tolerance)
    assert not report.passed
    assert report.where_relative == locate(index)
    assert not report_of(partial, "total", 0.5e-4 * share).passed


def test_a_leak_that_another_cell_makes_up_for_breaks_one_law_only():
    case = small_case()
    case.fine[0, 0:2, 0:3] += 1e-3
    case.fine[0, 0:2, 3:6] -= 1e-3
    partial = case.judged()
    assert report_of(partial, "total", 1e-9).passed
    assert not report_of(partial, "cell", 1e-9).passed


def test_errors_are_relative_to_the_size_of_the_parts():
    """A mean of zero of parts of order one is known to 1e-16, not to a share of zero."""
    cells = Aggregation(np.full(2, 0.5), np.full(2, 0.5), 2, 2)
    fine = np.array([[3.0, -1.0], [-3.0, 1.0 + 4e-6]])
    partial = check_block(np.zeros((1, 1)), fine, cells, np.ones((1, 1)), (0, 0))
    assert partial.absolute.value == pytest.approx(1e-6, rel=1e-9, abs=0)
    assert partial.relative.value == pytest.approx(0.5e-6, rel=1e-5, abs=0)


def test_all_zero_is_no_error():
    cells = Aggregation(np.full(2, 0.5), np.full(2, 0.5), 2, 2)
    partial = check_block(np.zeros((1, 1)), np.zeros((2, 2)), cells, np.ones((1, 1)), (0, 0))
    assert partial.relative == partial.absolute == Peak()
    assert global_error(partial) == 0
    assert partial.cells_checked == 1


def test_cells_masked_lost_and_invented_are_counted():
    case = small_case()
    case.coarse[0, 0, :3] = np.nan
    case.fine[0, 0:2, 0:6] = np.nan
    case.fine[1, 2:4, 0:3] = np.nan
    case.fine[2, 0:2, 0:2] = np.nan
    partial = case.judged()
    assert (partial.cells_masked, partial.cells_invented, partial.cells_lost) == (3, 1, 1)
    assert partial.cells_checked == case.coarse.size - 4
    # The last cell lost a part only: it is judged by the others.
    assert partial.relative.index == (2, 0, 0)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("law", ["cell", "total"])
def test_an_infinite_value_is_an_infinite_error(value, law):
    case = small_case()
    case.fine[1, 3, 4] = value
    partial = case.judged()
    assert partial.relative == Peak(np.inf, (1, 1, 1))
    assert not report_of(partial, law).passed
    case.fine[1, 3, 5] = -value
    assert not report_of(case.judged(), law).passed
    case.fine[1, 7, 20] = -value
    assert not report_of(case.judged(), law).passed


def test_infinite_values_do_not_cancel():
    case = small_case()
    case.fine[1, 3, 4], case.fine[1, 7, 20] = np.inf, -np.inf
    assert global_error(case.judged()) == np.inf
    assert not report_of(case.judged(), "total").passed


def test_an_infinite_coarse_value_is_missing():
    case = small_case()
    case.coarse[0, 0, 0] = np.inf
    case.fine[0, 0:2, 0:3] = np.nan
    partial = case.judged()
    assert (partial.cells_masked, partial.cells_invented, partial.cells_lost) == (1, 0, 0)
    assert report_of(partial).passed


@pytest.mark.parametrize(
    ("bounds", "expected"), [((0.0, None), 2), ((None, 1.0), 3), ((0.0, 1.0), 5), ((None, None), 0)]
)
def test_values_out_of_bounds_are_counted(bounds, expected):
    cells = Aggregation(np.full(2, 0.5), np.full(4, 0.5), 2, 2)
    fine = np.array([[-1.0, 2.0, 1.5, 0.5], [-0.5, 1.5, 0.0, 0.0]])
    partial = check_block(cells.mean(fine), fine, cells, np.ones((1, 2)), (0, 0), bounds)
    assert partial.values_out_of_bounds == expected


def test_parts_of_cells_that_break_the_bounds_themselves_are_not_counted():
    cells = Aggregation(np.full(2, 0.5), np.full(2, 0.5), 2, 2)
    partial = check_block(np.full((1, 1), -1.0), np.full((2, 2), -1.0), cells, np.ones((1, 1)), (0, 0), (0.0, None))
    assert partial.values_out_of_bounds == 0


@pytest.mark.parametrize("bounds", [(0.7, None), (0.1, None), (None, 0.7), (None, 0.1)])
def test_values_on_a_bound_stay_on_it_when_stored(bounds):
    """0.7 as float32 is 0.69999999: that is no violation."""
    cells = Aggregation(np.full(2, 0.5), np.full(2, 0.5), 2, 2)
    bound = bounds[0] or bounds[1]
    fine = np.full((2, 2), bound, np.float32)
    for coarse in (np.full((1, 1), bound), np.full((1, 1), bound, np.float32)):
        assert check_block(coarse, fine, cells, np.ones((1, 1)), (0, 0), bounds).values_out_of_bounds == 0
        beyond = np.nextafter(fine, np.float32(-9 if bounds[0] else 9))
        assert check_block(coarse, beyond, cells, np.ones((1, 1)), (0, 0), bounds).values_out_of_bounds == 4


def test_tolerances_follow_the_stored_type():
    kinds = ("float32", "float64", "int16", "float16")
    assert [default_tolerance(np.dtype(kind)) for kind in kinds] == [1e-6, 1e-12, 1e-12, 1e-2]


# The report


def broken() -> VariableReport:
    case = small_case()
    case.fine[1, 4:6, 6:9] *= 1.01
    return report_of(case.judged())


def whole() -> VariableReport:
    return report_of(small_case().judged(), name="pr")


def test_reports_are_true_where_every_law_holds():
    assert ConservationReport({"pr": whole()})
    assert not ConservationReport({"pr": whole(), "tas": broken()})
    assert not ConservationReport({})
    assert ConservationReport({"tas": broken()})["tas"].where_relative == {"time": 1, "lat": 2, "lon": 2}
    both = ConservationReport({"pr": whole(), "tas": broken()})
    assert both.max_relative_error == broken().max_relative_error
    assert ConservationReport({}).max_relative_error == 0


def test_repr_says_verdict_place_and_fault():
    text = repr(ConservationReport({"pr": whole(), "tas": broken()}))
    assert text.startswith("ConservationReport: FAILED (tolerance 1e-12)")
    assert "time=1, lat=2, lon=2" in text
    assert "tas: expected the cell law within 1e-12" in text
    assert text.count("yes") == text.count("NO") == 1
    assert repr(ConservationReport({"pr": whole()})).startswith("ConservationReport: passed")
    assert repr(ConservationReport({})).startswith("ConservationReport: FAILED")


def test_html_shows_the_same_and_escapes_names():
    nasty = replace(broken(), name="<tas & co>", units="K<sup>2</sup>")
    text = ConservationReport({"pr": whole(), nasty.name: nasty})._repr_html_()
    assert "Conservation: failed" in text
    assert "&lt;tas &amp; co&gt;" in text
    assert "<tas" not in text
    assert "<sup>" not in text
    assert text.count("<tr>") == 3
    assert "Conservation: passed" in ConservationReport({"pr": whole()})._repr_html_()


def test_dictionaries_are_fit_for_json():
    report = ConservationReport({"pr": whole(), "tas": broken()})
    back = json.loads(json.dumps(report.to_dict()))
    assert back["passed"] is False
    assert [back["variables"][name]["passed"] for name in ("pr", "tas")] == [True, False]
    assert back["variables"]["tas"]["where_relative"] == {"time": 1, "lat": 2, "lon": 2}
    assert back["variables"]["tas"]["max_relative_error"] == broken().max_relative_error


def test_raise_if_failed_returns_the_report_where_all_is_well():
    report = ConservationReport({"pr": whole()})
    assert report.raise_if_failed() is report


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({}, r"tas: expected the cell law within 1e-12, received a largest relative error of 0.00\d+ at time=1, lat=2"),
        ({"law": "total"}, r"tas: expected the total law within 1e-12, received a largest relative error of [\d.e-]+$"),
        ({"tolerance": 1.0, "cells_lost": 2}, "tas: expected none, received 2 coarse cells lost, 0 invented and 0"),
        ({"tolerance": 1.0, "cells_invented": 3}, "received 0 coarse cells lost, 3 invented"),
        ({"tolerance": 1.0, "values_out_of_bounds": 4}, "4 fine values out of bounds"),
        ({"tolerance": 1.0, "cells_checked": 0}, "tas: expected coarse cells to check, received none with a value"),
    ],
)
def test_faults_are_raised_in_one_line(change, match):
    report = ConservationReport({"pr": whole(), "tas": replace(broken(), **change)})
    with pytest.raises(ConservationError, match=match) as raised:
        report.raise_if_failed()
    assert "\n" not in str(raised.value)
    assert report["tas"].fault == str(raised.value)
    assert whole().fault == ""


def test_nothing_to_check_is_a_failure():
    with pytest.raises(ConservationError, match="expected variables to check, received none that both fields have"):
        ConservationReport({}).raise_if_failed()
