"""Normalisation: moments of the training split alone, whatever the chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from training_recipes import SAMPLE, data_block

import downscale
from downscale.errors import InputError
from downscale.training.pairs import Split, open_source, split_times
from downscale.training.schema import Channel, Network, Patches
from downscale.training.statistics import Fit, Moments, Statistics, measure_statistics

VALUES = hnp.arrays(np.float64, st.integers(3, 40), elements=st.floats(-1e3, 1e3) | st.just(np.nan))


@given(values=VALUES, pieces=st.integers(1, 6), seed=st.integers(0, 9))
def test_moments_do_not_depend_on_the_pieces(values: np.ndarray, pieces: int, seed: int) -> None:
    weights = np.random.default_rng(seed).uniform(0.1, 2, values.size)
    stream = Moments()
    for part in np.array_split(np.arange(values.size), pieces):
        stream.add(values[part], weights[part])
    known = np.isfinite(values)
    if not known.any():
        assert stream.weight == 0
        return
    mean = np.average(values[known], weights=weights[known])
    assert stream.mean == pytest.approx(mean, abs=1e-9)
    variance = np.average((values[known] - mean) ** 2, weights=weights[known])
    assert stream.std == pytest.approx(np.sqrt(variance), abs=1e-6)


@given(values=hnp.arrays(np.float64, 30, elements=st.floats(0, 50)))
def test_a_logarithm_is_normalised_by_its_own_mean_and_spread(values: np.ndarray) -> None:
    values[0], values[1] = 0.0, 10.0
    fit = Fit(Channel(name="pr", transform="log1p"))
    fit.add(values, np.ones(30))
    transformed = Moments()
    fit.add_transformed(transformed, values, np.ones(30))
    fit.pool_transformed([transformed], [1.0])
    made = fit.variable("mm", "", (0.0, None))
    moved = (np.log1p(values / made.scale) - made.mean) / made.std
    assert made.scale == pytest.approx(values[values > 0].mean())
    assert moved.mean() == pytest.approx(0, abs=1e-9)
    assert moved.std() == pytest.approx(1)


def surveyed(path: str) -> Statistics:
    data = data_block({"fine": path})
    source = open_source(data.pairs[0], data, Network())
    sides: Split = split_times(source.dates, source.sizes[0], data.validation, "split", path)
    return measure_statistics([source], [sides], data, Patches(size=4))


def test_what_validates_leaves_no_trace_in_the_numbers(tmp_path: Path) -> None:
    ds = downscale.sample.open("north_america").load()
    plain = surveyed(SAMPLE["fine"]).outputs[0]
    changed = ds.assign(tas=ds.tas.where(np.arange(24)[:, None, None] < 19, 0.0))
    changed.to_netcdf(tmp_path / "changed.nc")
    assert surveyed(str(tmp_path / "changed.nc")).outputs[0] == plain
    seen = ds.assign(tas=ds.tas.where(np.arange(24)[:, None, None] != 5, 0.0))
    seen.to_netcdf(tmp_path / "seen.nc")
    assert surveyed(str(tmp_path / "seen.nc")).outputs[0] != plain


def test_the_mean_is_by_area() -> None:
    made = surveyed(SAMPLE["fine"]).outputs[0]
    ds = downscale.sample.open("north_america").isel(lat=slice(0, 36), lon=slice(0, 48), time=slice(0, 18))
    area = downscale.cell_area(ds)
    assert made.mean == pytest.approx(float(ds.tas.weighted(area).mean()), rel=1e-6)
    assert abs(made.mean - float(ds.tas.mean())) > 0.1
    assert made.units == "K"


FILLS = [(np.nan, "received missing ones only"), (280.0, "expected values that vary")]


@pytest.mark.parametrize(("fill", "line"), FILLS)
def test_files_without_values_are_one_line(tmp_path: Path, fill: float, line: str) -> None:
    ds = downscale.sample.open("north_america").load()
    ds.assign(tas=xr.full_like(ds.tas, fill)).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(InputError, match=line):
        surveyed(str(tmp_path / "a.nc"))
