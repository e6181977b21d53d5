"""The advisor: floors that no field can beat, costs that are zero where the coarse field is the average."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from training_recipes import SAMPLE, source_of

import downscale
from downscale.nn.spec import ModelSpec, Variable
from downscale.training.card import LAWS, Mismatch, advise, measure
from downscale.training.pairs import Source, Split, read_truth, split_times
from downscale.training.schema import ValidationSplit

SPEC = ModelSpec("residual", (4, 4), (Variable("tas", "K"),))


def pair_with(folder: Path, change: float, noise: float, slope: float = 1.0) -> tuple[Source, Split]:
    """The sample with coarse values that are not its averages."""
    fine = downscale.sample.open("north_america").isel(lat=slice(0, 36), lon=slice(0, 48))
    coarse = downscale.coarsen(fine, 4)
    rng = np.random.default_rng(0)
    moved = coarse.tas.mean() + slope * (coarse.tas - coarse.tas.mean()) + change
    with xr.set_options(keep_attrs=True):
        coarse["tas"] = (moved + noise * rng.normal(size=coarse.tas.shape)).assign_attrs(coarse.tas.attrs)
    coarse.to_netcdf(folder / "coarse.nc")
    source = source_of({**SAMPLE, "coarse": str(folder / "coarse.nc")})
    return source, split_times(source.dates, 24, ValidationSplit(), "split", "a")


def measured(folder: Path, change: float, noise: float, slope: float = 1.0) -> Mismatch:
    return measure(*pair_with(folder, change, noise, slope), SPEC)[0]


def test_averages_of_the_truth_cost_nothing() -> None:
    source = source_of()
    sides = split_times(source.dates, 24, ValidationSplit(), "split", "a")
    expected = "the coarse fields are averages of the truth: cell conservation costs nothing"
    assert advise([source], [sides], SPEC) == expected


def test_a_file_of_averages_is_found_to_be_one(tmp_path: Path) -> None:
    made = measured(tmp_path, 0.0, 0.0)
    assert made.rmse < 1e-3
    assert made.cost["cell"] == pytest.approx(made.cost["average"], rel=1e-4)
    assert "no measurable cost" in made.to_text()


def test_a_constant_error_is_measured_and_its_cost_said(tmp_path: Path) -> None:
    made = measured(tmp_path, 2.0, 0.0)
    assert made.bias == pytest.approx(2.0, abs=1e-3)
    assert made.floor["cell"] == pytest.approx(2.0, abs=1e-3)
    assert made.floor["total"] == pytest.approx(2.0, abs=1e-3)
    assert made.cost["cell"] == pytest.approx(np.hypot(2.0, made.cost["average"]), rel=1e-2)
    assert made.cost["none"] == pytest.approx(made.cost["average"], rel=1e-2)
    assert "set conserve: null if accuracy matters more" in made.to_text()


def test_an_error_of_single_cells_costs_the_cell_law_more_than_the_total(tmp_path: Path) -> None:
    made = measured(tmp_path, 0.0, 3.0, slope=0.7)
    assert made.floor["total"] < 0.3 * made.floor["cell"]
    assert made.cost["none"] <= made.cost["total"] < made.cost["cell"]


@settings(max_examples=5)
@given(seed=st.integers(0, 50), size=st.sampled_from([0.0, 0.5, 3.0]))
def test_no_field_that_keeps_its_cells_beats_the_floor(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: float
) -> None:
    source, sides = pair_with(tmp_path_factory.mktemp("a"), 0.5, 1.0)
    floor = measure(source, sides, SPEC)[0].floor["cell"]
    rng, area, cells = np.random.default_rng(seed), source.fine.cell_area, source.cells
    squares = []
    for number in source.maps_of(sides.train):
        truth, means = read_truth(source, int(number))
        coarse = source.coarse[0].read((int(number),))
        detail = size * rng.normal(size=truth.shape[1:])
        # The best possible: the truth itself, moved to the coarse values; detail can only add to its error.
        field = truth[0] + detail + cells.broadcast_to_fine(coarse - means[0] - cells.mean(detail))
        squares.append(np.average((field - truth[0]) ** 2, weights=area))
    assert np.sqrt(np.mean(squares)) >= floor * (1 - 1e-6)
    if size == 0:
        assert np.sqrt(np.mean(squares)) == pytest.approx(floor, rel=1e-4)


def test_every_law_is_in_the_words(tmp_path: Path) -> None:
    source, sides = pair_with(tmp_path, 1.0, 1.0)
    text = advise([source], [sides], SPEC)
    assert all(word in text for word in ("'cell'", "'total'", "none", "never below", "K", "18 maps"))
    assert LAWS == ("cell", "total", "none")
