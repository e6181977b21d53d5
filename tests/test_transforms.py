"""The transform of rain: cell means, signs, units, chunks, masks and targets are those of any field."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from sample_fields import GRIDS, field_on, rain_on, region, relief_on, same_bits, world
from strategies import cuttings, factor_pairs, grids, seeds

import downscale
from downscale.cf.quantities import rain_reason
from downscale.cli.main import main
from downscale.errors import DownscaleError, OptionError
from downscale.fields.power import Power, power_for
from downscale.request import Request

pytestmark = pytest.mark.usefixtures("one_thread")
RAIN = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1"}
exponents = st.sampled_from([1 / 2, 1 / 3, 1 / 4, 1 / 5, 0.7])
engines = pytest.mark.parametrize("engine", ["numba", "torch", "dense"])
bitwise = pytest.mark.parametrize("engine", ["numba", "torch"])


def by_dim(ds: xr.Dataset, factor: tuple[int, int]) -> dict[Any, int]:
    return dict(zip(ds.pr.dims[-2:], factor, strict=True))


# Laws


@engines
@given(grids(1, 8), factor_pairs, exponents, st.sampled_from(["float32", "float64"]), seeds)
def test_cell_means_signs_and_gaps(engine, grid, factor, exponent, dtype, seed):
    ds = rain_on(grid, 2, missing=0.2, dtype=dtype, seed=seed)
    with downscale.set_options(engine=engine):
        fine = ds.downscale(by_dim(ds, factor), transform=exponent)
    assert fine.pr.dtype == ds.pr.dtype
    assert float(fine.pr.min()) >= 0 or not fine.pr.notnull().any()
    assert downscale.check_conservation(ds, fine).passed
    gaps = ds.pr.isnull().values.repeat(factor[0], -2).repeat(factor[1], -1)
    np.testing.assert_array_equal(fine.pr.isnull(), gaps)


@pytest.mark.parametrize("engine", ["torch", "dense"])
@given(grids(1, 8), factor_pairs, exponents, seeds)
def test_engines_agree(engine, grid, factor, exponent, seed):
    ds = rain_on(grid, 2, missing=0.2, seed=seed)
    compiled = ds.downscale(by_dim(ds, factor), transform=exponent).pr
    with downscale.set_options(engine=engine):
        other = ds.downscale(by_dim(ds, factor), transform=exponent).pr
    # Roots steepen rounding beside dry cells.
    np.testing.assert_allclose(other, compiled, rtol=0, atol=1e-9 * float(ds.pr.max()))


@bitwise
@given(st.data(), grids(1, 7), factor_pairs, exponents, st.sampled_from(["float32", "float64"]), seeds)
def test_any_cutting_gives_the_same_bits(engine, data, grid, factor, exponent, dtype, seed):
    ds = rain_on(grid, 2, missing=0.2, dtype=dtype, seed=seed)
    sizes = [tuple(data.draw(cuttings(n))) for n in ds.pr.shape]
    with downscale.set_options(engine=engine), dask.config.set(scheduler="sync"):
        whole = ds.downscale(by_dim(ds, factor), transform=exponent).pr
        lazy = ds.chunk(dict(zip(ds.pr.dims, sizes, strict=True))).downscale(by_dim(ds, factor), transform=exponent).pr
        assert same_bits(whole, lazy)


@engines
def test_the_result_has_the_units_of_the_field(engine):
    ds = rain_on(region(15, 16), 2, missing=0.1)
    with downscale.set_options(engine=engine):
        fine, scaled = (each.downscale(4).pr for each in (ds, ds.assign(pr=(ds.pr * 86400).assign_attrs(RAIN))))
    np.testing.assert_allclose(scaled, fine * 86400, rtol=1e-6, atol=1e-9 * float(scaled.max()))


@engines
@pytest.mark.parametrize("value", [0.0, 3.5])
def test_constants_stay_constant(engine, value):
    ds = rain_on(region(15, 16), 1, missing=0.2) * 0 + value
    ds["pr"].attrs.update(RAIN)
    with downscale.set_options(engine=engine):
        fine = ds.downscale(4).pr
    np.testing.assert_allclose(fine.values[fine.notnull()], value, rtol=1e-12)


def test_dry_cells_stay_dry():
    ds = rain_on(region(15, 16), 2)
    dry = (ds.pr == 0).values.repeat(4, -2).repeat(4, -1)
    assert dry.any()
    assert (ds.downscale(4).pr.values[dry] == 0).all()


def test_an_exponent_of_one_is_no_transform():
    ds = rain_on(world(), 2, missing=0.1)
    assert same_bits(ds.downscale(2, transform=1).pr, ds.downscale(2, transform=None).pr)
    assert same_bits(ds.downscale(2, transform="none").pr, ds.downscale(2, transform=None).pr)


@pytest.mark.parametrize("name", sorted(GRIDS))
@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_sums_are_split_by_the_means_per_area(name, engine):
    ds = rain_on(GRIDS[name](), 2, missing=0.1)
    fine = ds.downscale(2)
    area, fine_area = downscale.cell_area(ds), downscale.cell_area(fine)
    sums = ds.assign(pr=(ds.pr * area).assign_attrs(RAIN))
    with downscale.set_options(engine=engine):
        split = sums.downscale(2, quantity="extensive")
    np.testing.assert_allclose(split.pr, fine.pr * fine_area, rtol=1e-9, atol=1e-9 * float(split.pr.max()))


@engines
def test_masks_conserve_means_over_the_valid_area(engine):
    ds = rain_on(region(15, 16), 2, missing=0.1)
    fine = ds.downscale(4)
    rng = np.random.default_rng(1)
    mask = xr.DataArray(rng.uniform(size=fine.pr.shape[1:]) > 0.4, {d: fine[d] for d in ("lat", "lon")}, ("lat", "lon"))
    with downscale.set_options(engine=engine):
        masked = ds.downscale(4, mask=mask.rename("mask"))
    assert downscale.check_conservation(ds, masked, mask=mask.rename("mask")).passed
    assert float(masked.pr.min()) >= 0


@pytest.mark.parametrize("target", ["0.7x0.9", "3x2.5"])
def test_targets_that_cut_cells_preserve_the_total(target):
    ds = rain_on(region(15, 16), 2)
    fine = ds.downscale(target_grid=target)
    assert downscale.check_conservation(ds, fine).passed
    assert float(fine.pr.min()) >= 0


def test_terrain_is_added_after_the_transform():
    ds = rain_on(region(15, 16), 2)
    options = {"orog": relief_on(region(15, 16), (2, 2)), "lapse_rate": 1e-4}
    fine = ds.downscale(2, **options)
    assert downscale.check_conservation(ds, fine).passed
    assert abs(fine.pr - ds.downscale(2).pr).max() > 0


# Which fields have one, and what plans and histories state


@pytest.mark.parametrize(
    ("name", "attrs", "has_one"),
    [
        ("pr", RAIN, True),
        ("x", {"standard_name": "lwe_thickness_of_precipitation_amount", "units": "m"}, True),
        ("x", {"standard_name": "snowfall_flux", "units": "kg m-2 s-1"}, True),
        ("tp", {"units": "m"}, True),
        ("PRECT", {"units": "m/s"}, True),
        ("x", {"long_name": "Total precipitation rate", "units": "mm/h"}, True),
        ("tas", {"standard_name": "air_temperature", "units": "K"}, False),
        ("x", {"standard_name": "wind_speed", "units": "m s-1"}, False),
        ("x", {"standard_name": "runoff_flux", "units": "kg m-2 s-1"}, False),
        ("x", {"standard_name": "surface_snow_amount", "units": "kg m-2"}, False),
        ("pr", {**RAIN, "long_name": "precipitation anomaly"}, False),
        ("pr", {**RAIN, "cell_methods": "time: standard_deviation"}, False),
        ("x", {"standard_name": "precipitation_flux standard_error", "units": "kg m-2 s-1"}, False),
        ("x", {}, False),
    ],
)
def test_amounts_and_rates_of_precipitation_have_one(name, attrs, has_one):
    assert (rain_reason(xr.DataArray(0.0, name=name, attrs=attrs)) is not None) == has_one


def test_the_automatic_one_is_that_of_the_factor():
    ds = rain_on(region(15, 16), 2)
    for factor, exponent in ((2, 1 / 2), (4, 1 / 3), (8, 1 / 4)):
        assert power_for((factor, factor)) == Power(exponent)
        assert same_bits(ds.downscale(factor).pr, ds.downscale(factor, transform=exponent).pr)
        assert same_bits(ds.downscale(factor).pr, ds.downscale(factor, transform={"pr": "power"}).pr)
        assert not same_bits(ds.downscale(factor).pr, ds.downscale(factor, transform=None).pr)


def test_other_variables_and_methods_have_none():
    ds = field_on(region(15, 16), 2)
    assert same_bits(ds.downscale(4).tas, ds.downscale(4, transform=None).tas)
    rain = rain_on(region(15, 16), 2)
    for options in ({"method": "bilinear"}, {"conserve": "total"}, {"conserve": None}, {"bounds": None}):
        assert same_bits(rain.downscale(4, **options).pr, rain.downscale(4, transform=None, **options).pr)


@pytest.mark.parametrize(
    ("rows", "columns", "taps", "has_one"),
    [(15, 15, 7, True), (14, 20, 7, False), (20, 14, 7, False), (16, 16, 9, False)],
)
def test_grids_no_larger_than_two_stencils_have_none(rows, columns, taps, has_one):
    ds = rain_on(region(rows, columns), 2)
    fine, free = (ds.downscale(2, taps=taps, **options).pr for options in ({}, {"transform": None}))
    assert same_bits(fine, free) != has_one
    assert not same_bits(ds.downscale(2, taps=taps, transform="power").pr, free)


def test_plan_and_history_state_it():
    ds = rain_on(region(15, 16), 2)
    assert any("p = 1/3" in note and "precipitation_flux" in note for note in downscale.plan(ds, 4).notes)
    assert "transform=pr:0.3333" in ds.downscale(4).attrs["downscale_settings"]
    for options in ({"transform": None}, {"method": "bilinear"}):
        assert not any("1/3" in note for note in downscale.plan(ds, 4, **options).notes)
        assert "transform" not in ds.downscale(4, **options).attrs["downscale_settings"]


# Bad requests


@pytest.mark.parametrize("value", [0, -1, -0.5, 2, float("nan"), float("inf"), True, "log", "", {"pr": 0}, {"pr": "x"}])
def test_a_bad_transform_is_one_line(value):
    with pytest.raises(OptionError, match="0 < p <= 1") as caught:
        Request(factor=4, transform=value)
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"method": "bilinear"}, "method='sobolev'"),
        ({"method": "cascade"}, "method='sobolev'"),
        ({"conserve": "total"}, "conserve='cell'"),
        ({"footprint": "gaussian:100km"}, "footprint"),
        ({"bounds": None}, "lower bound of 0"),
        ({"bounds": (-1, None)}, "lower bound of 0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("value", ["power", 0.5, {"pr": 0.5}], ids=str)
def test_a_transform_that_cannot_act_is_refused(options, word, value):
    with pytest.raises(DownscaleError, match=word):
        rain_on(region(15, 16), 1).downscale(4, transform=value, **options)


def test_a_transform_of_an_unknown_variable_is_refused():
    with pytest.raises(OptionError, match="'snow'"):
        rain_on(region(15, 16), 1).downscale(4, transform={"snow": 0.5})


def test_the_command_line_takes_it(tmp_path, capsys):
    ds = rain_on(region(15, 16), 2)
    coarse, out = str(tmp_path / "coarse.nc"), tmp_path / "fine.nc"
    ds.to_netcdf(coarse)
    for value, expected in (("0.5", 0.5), ("none", None), ("pr:0.25", {"pr": 0.25}), ("auto", "auto")):
        assert main(["apply", coarse, str(out), "--factor", "4", "--transform", value]) == 0
        with xr.open_dataset(out) as fine:
            assert same_bits(fine.pr, ds.downscale(4, transform=expected).pr)
        out.unlink()
    assert main(["apply", coarse, str(out), "--factor", "4", "--transform", "-1"]) == 2
    assert "--transform" in capsys.readouterr().err
    for options, words in (
        (["--transform", "snow:power"], "expected --transform of variables among 'pr', received 'snow'"),
        (["--transform", "pr:power", "--bounds", "none"], "pass bounds=(0, None) (--bounds 0:)"),
        (["--transform", "power", "--bounds", "none"], "pass bounds=(0, None) (--bounds 0:)"),
    ):
        assert main(["apply", coarse, str(out), "--factor", "4", *options]) == 2
        assert words in capsys.readouterr().err
    assert not out.exists()


# Real rain


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize(
    ("file", "name"),
    [("precipitation_arome_nw_20180501_0p025deg.nc", "pr"), ("temperature_wind_precip_era5_global_1deg.nc", "tp")],
)
def test_the_error_of_real_rain_falls(file, name, factor):
    ds = xr.open_dataset(shared_data(file), decode_times=False)[[name]].isel(time=slice(None, None, 8)).load()
    lat, lon = ds[name].dims[-2:]
    ds = ds.isel({lat: slice(1, ds.sizes[lat] - 1), lon: slice(0, None)})
    ds = ds.isel({dim: slice(0, ds.sizes[dim] // factor * factor) for dim in (lat, lon)})
    coarse = downscale.coarsen(ds, factor)
    errors = [
        float(((coarse.downscale(factor, transform=transform)[name] - ds[name].values) ** 2).mean())
        for transform in ("auto", None)
    ]
    assert errors[0] < 0.97 * errors[1]
