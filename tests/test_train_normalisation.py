"""Normalisation: moments of the training split alone, whatever the chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from downscale.training.schema import Network, Patches
from downscale.training.statistics import Moments, Statistics, measure_statistics

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


def surveyed(path: str, **more: Any) -> Statistics:
    data = data_block({"fine": path}, **more)
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


def test_a_logarithm_is_normalised_by_its_own_mean_and_spread(tmp_path: Path) -> None:
    ds = downscale.sample.open("north_america").load()
    ds.assign(tas=(ds.tas - 285).clip(0).assign_attrs(ds.tas.attrs)).to_netcdf(tmp_path / "pr.nc")
    made = surveyed(str(tmp_path / "pr.nc"), outputs=[{"name": "tas", "transform": "log1p", "bounds": [0, None]}])
    trained = xr.open_dataset(tmp_path / "pr.nc").isel(lat=slice(0, 36), lon=slice(0, 48), time=slice(0, 18))
    coarse = downscale.coarsen(trained, 4)
    area, values = downscale.cell_area(coarse), coarse.tas
    scale = float(values.where(values > 0).weighted(area).mean())
    assert made.outputs[0].scale == pytest.approx(scale, rel=1e-6)
    moved = np.log1p(values / scale).weighted(area)
    assert made.outputs[0].mean == pytest.approx(float(moved.mean()), rel=1e-6)
    assert made.outputs[0].std == pytest.approx(float(moved.std()), rel=1e-6)


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
