"""Weights of patches: every square kilometre of a source counts the same, in training and in validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from training_recipes import data_block

from downscale.training import sampling
from downscale.training.pairs import MapCache, Source, open_source, split_times
from downscale.training.patches import PatchSet
from downscale.training.sampling import PatchIndex, PatchSampler
from downscale.training.schema import Network, Patches
from downscale.training.statistics import measure_statistics

BANDS = 5


@pytest.fixture(scope="module")
def globe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten maps of the whole sphere, 45 x 90 fine cells."""
    return str(sphere(tmp_path_factory.mktemp("globe") / "globe.nc", lambda lat, lon, t: np.cos(lat) + np.sin(lon + t)))


def sphere(path: Path, values: Any, rows: int = 44, times: int = 10) -> Path:
    step = 180 / rows
    lat, lon = np.arange(rows) * step - 90 + step / 2, np.arange(2 * rows) * step + step / 2
    field = values(*np.deg2rad(np.meshgrid(lat, lon, indexing="ij")), np.arange(times)[:, None, None])
    coords = {
        "time": np.datetime64("2000-01-01", "ns") + np.arange(times) * np.timedelta64(1, "D"),
        "lat": ("lat", lat, {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ("lon", lon, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    attrs = {"units": "K", "standard_name": "air_temperature"}
    xr.Dataset({"tas": (("time", "lat", "lon"), field.astype("f4"), attrs)}, coords).to_netcdf(path)
    return path


def prepared(path: str, how: Patches, side: str = "train") -> tuple[Source, PatchSampler]:
    data = data_block({"fine": path}, factor=2)
    source = open_source(data.pairs[0], data, Network())
    sides = split_times(source.dates, source.sizes[0], data.validation, "split", path)
    found = measure_statistics([source], [sides], data, how)
    return source, PatchSampler([source], found.tables, [source.maps_of(getattr(sides, side))], how, 0)


def shares(source: Source, patches: PatchSet, keys: list[PatchIndex]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What weight each fine row and column got, and the shares of the area."""
    made = np.zeros(source.fine.shape)
    for key in keys:
        weight = patches[key._replace(orientation=0)].weight
        rows, columns = 2 * key.row, 2 * key.column
        here = made[rows : rows + weight.shape[0], columns : columns + weight.shape[1]]
        here += weight[: here.shape[0], : here.shape[1]]
    area = np.asarray(source.fine.cell_area)
    return made / made.sum(), area / area.sum(), made


@pytest.mark.parametrize(("size", "margin"), [(8, 0), (5, 0), (6, 1), (30, 0)])
def test_each_band_of_the_sphere_has_the_weight_of_its_area_in_training(globe: str, size: int, margin: int) -> None:
    how = Patches(size=size, margin=margin)
    source, draws = prepared(globe, how)
    keys = draws.training_keys(0, 1500)
    made, area, _ = shares(source, PatchSet(MapCache([source], 64), (), how), keys)
    inside = slice(2 * margin, 44 - 2 * margin)
    area = area[inside] / area[inside].sum()
    for axis in (0, 1):
        bands = [np.array_split(each, BANDS, axis=axis) for each in (made[inside], area)]
        got, wanted = ([part.sum() for part in each] for each in bands)
        np.testing.assert_allclose(got, wanted, rtol=0.2)
    assert made[:2].sum() == pytest.approx(0.0 if margin else float(area[:2].sum()), rel=0.35)


@pytest.mark.parametrize("size", [8, 5, 22])
@pytest.mark.parametrize("margin", [0, 1])
def test_each_cell_has_the_weight_of_its_area_in_validation(globe: str, size: int, margin: int) -> None:
    how = Patches(size=size, margin=margin)
    source, draws = prepared(globe, how, "validation")
    patches = PatchSet(MapCache([source], 64), (), how, has_tiles=True)
    made, area, _ = shares(source, patches, draws.validation_keys(10_000))
    judged = made > 0
    assert judged[2 * margin : 44 - 2 * margin].any(axis=1).all()
    np.testing.assert_allclose(made[judged], area[judged] / area[judged].sum(), rtol=1e-5)


def test_a_sample_of_tiles_is_weighed_as_all_of_them(tmp_path: Path) -> None:
    """Half the sphere is quiet: a tenth of its tiles is judged, each ten times."""
    path = sphere(tmp_path / "half.nc", lambda lat, lon, t: np.where(lon < np.pi, 0.0, np.sin(5 * lat + t)), times=100)
    how = Patches(size=4, dry_keep_fraction=0.1)
    source, draws = prepared(str(path), how, "validation")
    keys = draws.validation_keys(900)
    assert sum(key.weight > 1 for key in keys) < 0.2 * len(keys)
    made, area, _ = shares(source, PatchSet(MapCache([source], 64), (), how, has_tiles=True), keys)
    for part in (np.s_[:, :44], np.s_[:, 44:], np.s_[:22], np.s_[22:]):
        assert made[part].sum() == pytest.approx(area[part].sum(), rel=0.15)


@settings(max_examples=60)
@given(cells=st.integers(1, 70), size=st.integers(1, 20), other=st.integers(1, 12), margin=st.integers(0, 4))
def test_expected_coverage_is_that_of_many_draws(cells: int, size: int, other: int, margin: int) -> None:
    """The formula of a draw against a plain loop over all places and moves; and that no cell is left out by tiles."""
    size, shape = min(size, cells), (cells, other)
    area = np.multiply.outer(np.linspace(1, 3, cells), np.linspace(2, 1, other))
    rows, columns = sampling.lattice(cells, size), sampling.lattice(other, other)
    made = sampling.patch_coverage(area, rows, columns, (size, other), margin)
    plain = np.zeros(shape)
    inner = margin if 2 * margin < size else 0
    across = margin if 2 * margin < other else 0
    for place, worth in zip(rows, sampling.place_weights(area, rows, columns, (size, other))[:, 0], strict=True):
        for step in range(-sampling.largest_shift(size), sampling.largest_shift(size) + 1):
            first = min(max(place + step, 0), cells - size)
            plain[first + inner : first + size - inner, across : other - across] += worth
    np.testing.assert_allclose(made, plain / plain[plain > 0].mean(), rtol=1e-9, atol=1e-12)
    judged = sampling.tile_coverage(shape, rows, columns, (size, other), 0)
    assert (judged > 0).all()


def test_a_long_record_is_drawn_from_in_seconds(globe: str) -> None:
    """Forty years of hours are as many maps as patches of them are not: none is listed."""
    how = Patches(size=8)
    source, draws = prepared(globe, how)
    long = PatchSampler([source], draws.tables, [np.arange(350_000)], how, 0)
    keys = long.validation_keys(256)
    assert len(keys) == 256
    assert len({key.number for key in keys}) > 200
    assert keys == sorted(keys)
    assert len(long.training_keys(0, 16)) == 16
    assert len(long.maps) == 350_000
