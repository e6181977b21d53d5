"""The cascade: members under every budget, the same on any chunking, as rough as the field around says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_fields import field_on, plane, region, world

import downscale
from downscale.errors import InputError, OptionError
from downscale.fields.aggregate import Aggregation
from downscale.fields.noise import Draws, Noise
from downscale.fields.roughness import HURST, LONG, REACH, SHORT, UNRESOLVED_FRACTIONS, roughness
from downscale.kernels.sobolev import axis_weights
from downscale.nn.cascade import Octave

pytestmark = pytest.mark.usefixtures("one_thread")


def rain(rows: int = 40, columns: int = 44, times: int = 3, missing: bool = False) -> xr.Dataset:
    """Rain of showers and dry places, in whole steps of ten minutes."""
    rng = np.random.default_rng(5)
    walk = rng.standard_normal((times, rows, columns)).cumsum(axis=1).cumsum(axis=2)
    values = np.maximum(walk / walk.std() + 0.2 * rng.standard_normal(walk.shape), 0).astype("f4")
    if missing:
        values[:, 10:15, 3:9] = np.nan
    ds = field_on(plane(rows, columns, 4000.0), times, dtype="float32")
    name = next(iter(ds.data_vars))
    made = ds.rename({name: "pr"})
    made["pr"] = (made["pr"].dims, values, {"units": "mm h-1", "standard_name": "rainfall_rate"})
    return made.assign_coords(time=np.datetime64("2020-01-01", "ns") + np.arange(times) * np.timedelta64(600, "s"))


def power_law(size: int, hurst: float, seed: int) -> np.ndarray:
    """A Gaussian field with the spectrum k**-(2 + 2 H), periodic, variance one."""
    wave = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    wave[0, 0] = np.inf
    noise = np.random.default_rng(seed).standard_normal((size, size))
    made = np.fft.irfft2(np.fft.rfft2(noise) * wave ** -(1 + hurst), s=(size, size))
    return made / made.std()


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("factor", [4, {"y": 3, "x": 2}])
def test_every_member_keeps_every_cell(missing: bool, factor: object) -> None:
    coarse = rain(missing=missing)
    fine = coarse.downscale(factor, "cascade", members=3, seed=1)
    assert fine.pr.dims == ("time", "realization", "y", "x")
    assert fine.realization.attrs["standard_name"] == "realization"
    report = downscale.check_conservation(coarse, fine)
    assert report.passed
    assert report["pr"].max_relative_error < 1e-6
    assert report["pr"].values_out_of_bounds == 0
    known = fine.pr.values[np.isfinite(fine.pr.values)]
    assert known.min() >= 0
    spread = fine.pr.std("realization").values
    assert np.nanmax(spread) > 0.1
    assert np.isnan(spread).any() == missing


def test_cells_of_one_fine_cell_have_no_noise() -> None:
    coarse = rain(missing=True)
    fine = coarse.downscale(1, "cascade", members=2)
    np.testing.assert_array_equal(fine.pr.isel(realization=1).values, coarse.pr.values)


@settings(max_examples=4)
@given(st.integers(1, 3), st.sampled_from([7, 20]), st.sampled_from([9, 30, 44]), st.integers(0, 2))
def test_any_chunking_gives_the_same_members(time: int, rows: int, columns: int, first: int) -> None:
    coarse = rain(26, 44, missing=True)
    whole = coarse.downscale(4, "cascade", members=2, seed=9)
    lazy = coarse.chunk(time=time, y=rows, x=columns).downscale(4, "cascade", members=2, seed=9)
    np.testing.assert_array_equal(lazy.pr.compute(scheduler="sync").values, whole.pr.values)
    later = coarse.isel(time=slice(first, None)).downscale(4, "cascade", members=2, seed=9)
    np.testing.assert_array_equal(later.pr.values, whole.pr.values[first:])
    fewer = coarse.downscale(4, "cascade", seed=9)
    np.testing.assert_array_equal(fewer.pr.values, whole.pr.values[:, 0])


def test_the_seam_of_the_world_is_no_edge() -> None:
    ds = field_on(world(24, 48), 2)
    turned = ds.roll(lon=7, roll_coords=False)
    assert float(abs(turned[next(iter(ds.data_vars))] - ds[next(iter(ds.data_vars))]).max()) > 0
    whole = ds.downscale(2, "cascade", members=2)
    cut = ds.chunk(lon=12, lat=8).downscale(2, "cascade", members=2).compute(scheduler="sync")
    for name in ds.data_vars:
        np.testing.assert_array_equal(cut[name].values, whole[name].values)


def test_members_seeds_and_variables_differ() -> None:
    coarse = rain()
    coarse["prl"] = coarse.pr
    both = coarse.downscale(4, "cascade", members=2, seed=0)
    other = coarse.downscale(4, "cascade", members=2, seed=1)
    for a, b in ((both.pr[:, 0], both.pr[:, 1]), (both.pr, other.pr), (both.pr, both.prl)):
        assert float(abs(a.values - b.values).max()) > 0.1


def test_smooth_fields_get_noise_of_both_signs() -> None:
    coarse = downscale.sample.open("north_america", chunks=None).isel(time=slice(0, 2)).load()
    fine = coarse.downscale(4, "cascade", members=4)
    plain = coarse.downscale(4)
    assert downscale.check_conservation(coarse, fine).passed
    away = fine.tas - plain.tas
    assert 0.05 < float(away.std()) < 2.0
    assert abs(float((away > 0).mean()) - 0.5) < 0.02


def test_a_target_that_does_not_nest() -> None:
    coarse = field_on(region(20, 24), 2)
    fine = coarse.downscale(target_grid="0.3x0.3", method="cascade", members=2)
    report = downscale.check_conservation(coarse, fine)
    assert all(report[name].global_error < 1e-9 for name in coarse.data_vars)


def test_noise_of_an_octave_has_the_variance_that_it_says() -> None:
    for nodes, factor in (((2, 2), (4, 4)), ((4, 4), (4, 4)), ((2, 2), (3, 5)), ((2, 1), (4, 1)), ((2, 2), (8, 8))):
        octave, size = Octave(nodes, factor), (60, 60)
        made = octave.sample(Noise(Draws()), 0, 0, (0, 0), size, None)
        cells = Aggregation(
            np.full(size[0] * factor[0], 1 / factor[0]), np.full(size[1] * factor[1], 1 / factor[1]), *factor
        )
        smooth = cells.mean(made)
        for axis in (0, 1):
            edges = np.arange(size[axis] + 1.0)
            weights = axis_weights(edges, np.linspace(0, size[axis], size[axis] * factor[axis] + 1))
            smooth = np.moveaxis(np.tensordot(weights.dense(size[axis]), smooth, (1, axis)), 0, axis)
        np.testing.assert_allclose(cells.mean(smooth), cells.mean(made), atol=1e-9)
        left = made - smooth
        # The kernel is another at the edges.
        left = left[8 * factor[0] : -8 * factor[0], 8 * factor[1] : -8 * factor[1]]
        assert abs(left.var() / octave.variance - 1) < 0.1


def test_smoothing_takes_the_finest_detail_and_no_law() -> None:
    coarse = rain(times=1)
    rough, default, smooth = (coarse.downscale(4, "cascade", seed=2, smoothing=s).pr for s in (0, None, 3))
    steps = [float((each.diff("x").where(each.x[1:].notnull()) ** 2).mean()) for each in (rough, default, smooth)]
    assert steps[0] > 1.05 * steps[1] > 1.05**2 * steps[2]
    assert downscale.check_conservation(coarse, smooth.to_dataset()).passed


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("bounds", [(0, None), None])
def test_no_step_at_the_edges_of_cells(bounds: object, factor: int) -> None:
    """Were means put right by whole cells, differences across edges would be 1.6 (x4) and 3 (x8) times the others."""
    rough = power_law(48, 0.4, seed=0)
    coarse = rain(48, 48, times=1)
    coarse["pr"] = coarse.pr.copy(data=np.where(rough > -0.7, np.exp(rough), 0)[None] if bounds else 3 * rough[None])
    fine = coarse.isel(time=0).downscale(factor, "cascade", members=8, bounds=bounds)
    for axis in (1, 2):
        squares = np.moveaxis(np.diff(fine.pr.values.astype("f8"), axis=axis) ** 2, axis, -1)
        at = np.arange(1, squares.shape[-1] + 1) % factor == 0
        assert 0.8 < squares[..., at].mean() / squares[..., ~at].mean() < 1.35


@pytest.mark.parametrize("hurst", [0.1, 0.4, 0.7])
@pytest.mark.parametrize("factor", [2, 4])
def test_power_laws_are_followed_on(hurst: float, factor: int) -> None:
    """The table of hidden variance, made anew from synthesised fields."""
    size = 1024
    fine = power_law(size, hurst, seed=1)
    cells = Aggregation(np.full(size, 1 / factor), np.full(size, 1 / factor), factor, factor)
    coarse, edges = cells.mean(fine), np.arange(size // factor + 1.0)
    weights = axis_weights(edges, np.linspace(0, size // factor, size + 1), taps=7, order=1.25)
    table = np.zeros((size, size // factor))
    for row, (start, values) in enumerate(zip(weights.start, weights.weights, strict=True)):
        table[row, start : start + 7] = values
    inner = (slice(64, -64), slice(64, -64))
    error = float(((table @ coarse @ table.T - fine)[inner] ** 2).mean())
    steps = [float(((coarse[lag:] - coarse[:-lag]) ** 2).mean()) for lag in (1, 2, 4)]
    short, long = (0.5 * np.log2(steps[i + 1] / steps[i]) for i in (0, 1))
    assert abs(short - np.interp(hurst, HURST, SHORT)) < 0.05
    assert abs(long - np.interp(hurst, HURST, LONG)) < 0.1
    assert abs(error / steps[0] / np.interp(hurst, HURST, UNRESOLVED_FRACTIONS[factor]) - 1) < 0.15


def test_roughness_looks_no_farther_than_it_says() -> None:
    x = torch.rand(1, 60, 61, dtype=torch.float64)
    other = x.clone()
    other[:, 30, 30] += 1
    a, b = (roughness(field, 4) for field in (x, other))
    moved = (a.spread != b.spread) | (a.slope != b.slope)
    rows, columns = moved[0].nonzero().T
    assert (rows - 30).abs().max() <= REACH
    assert (columns - 30).abs().max() <= REACH
    flat = roughness(torch.full((1, 20, 20), 3.0), 4)
    assert float(flat.spread.abs().max()) == 0


def test_calibration_on_radar() -> None:
    path = shared_data("precipitation_mch_20160711_1km_5min.nc")
    fine = downscale.open_dataset(path, chunks=None)[["precip"]].isel(
        time=[0, 20], y=slice(200, 456), x=slice(200, 456)
    )
    fine["precip"] = fine.precip.clip(min=0).fillna(0.0)
    made = downscale.coarsen(fine, 4).downscale(4, "cascade", members=8, seed=1)
    error = made.precip.mean("realization") - fine.precip
    ratio = float(np.sqrt(made.precip.var("realization", ddof=1).mean() * 9 / 8 / (error**2).mean()))
    assert 0.6 < ratio < 1.6


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "sobolev", "members": 3}, OptionError, "a method that generates members, received 'sobolev'"),
        ({"method": "rain", "members": 3}, OptionError, "expected a method that generates members"),
        ({"method": "cascade", "members": 0}, OptionError, "expected members to be a whole number from 1, received 0"),
        ({"method": "cascade", "smoothing": -1}, OptionError, "expected smoothing to be a number from 0 to 10"),
        ({"method": "sobolev", "smoothing": 1}, OptionError, "expected method='cascade' with smoothing, received 'sob"),
        ({"method": "cascade", "seed": -2}, OptionError, "expected seed to be a whole number from 0, received -2"),
    ],
)
def test_refusals(options: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        rain().downscale(4, **options)


def test_members_of_members_are_refused() -> None:
    coarse = rain().expand_dims(realization=2)
    with pytest.raises(InputError, match="expected no dimension 'realization' with members="):
        coarse.downscale(2, "cascade", members=2)
