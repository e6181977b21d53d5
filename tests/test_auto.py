"""``method="auto"``: settings that the inputs allow and self-validation supports, and the words for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from lazy_files import unreadable
from refusals import refused
from result_grids import curvilinear
from sample_fields import field_on, rain_on, region, same_bits
from test_terrain_term import RATE, terrain_field

import downscale
from downscale.cf.coordinates import select
from downscale.errors import DownscaleError, OptionError
from downscale.request import Request
from downscale.steps.choice import Choice, follows_height, settle_request
from downscale.steps.terrain import settle_terrain


def choices(ds: xr.Dataset, **options: Any) -> dict[str, Choice]:
    return dict(settle_request(ds, Request(**{"factor": 2, "method": "auto", **options})).choices)


def test_without_other_inputs_it_is_the_kernel():
    ds = field_on(region())
    fine = ds.downscale(2, method="auto")
    assert same_bits(fine.tas, ds.downscale(2).tas)
    assert "method=sobolev" in fine.attrs["downscale_settings"]
    assert str(choices(ds)["tas"]) == "sobolev; not chosen: terrain term (needs orog)"


def test_a_supported_rate_is_taken():
    coarse, true, relief = terrain_field(RATE)
    settled = settle_request(coarse, Request(factor=2, method="auto", orog=relief))
    whole = settle_terrain(coarse, Request(factor=2, orog=relief, lapse_rate="auto"))[1]["tas"]
    assert settled.request.method == "sobolev"
    assert (settled.request.lapse_rate, settled.request.relief_smoothing) == (whole.rate, whole.smoothing)
    plain, chosen = settled.choices["tas"].candidates
    assert not plain.is_chosen
    assert chosen.is_chosen
    assert chosen.error == whole.error < 0.99
    assert "lapse rate" in str(settled.choices["tas"])
    errors = [float(((made.tas - true.tas) ** 2).mean()) for made in
              (coarse.downscale(2, method="auto", orog=relief), coarse.downscale(2))]  # fmt: skip
    assert errors[0] < errors[1]


def test_the_history_repeats_the_run_without_a_choice():
    coarse, _, relief = terrain_field(RATE)
    fine = coarse.downscale(2, method="auto", orog=relief)
    settings = fine.attrs["downscale_settings"]
    assert "auto" not in settings
    request = settle_request(coarse, Request(factor=2, method="auto", orog=relief)).request
    again = coarse.downscale(2, orog=relief, lapse_rate=request.lapse_rate, relief_smoothing=request.relief_smoothing)
    assert again.attrs["downscale_settings"] == settings
    assert same_bits(again.tas, fine.tas)


def test_a_relation_to_height_that_other_quantities_happen_to_have_is_not_used():
    coarse, _, relief = terrain_field(RATE)
    wind = coarse.assign(ua=coarse.tas.assign_attrs(units="m s-1", standard_name="eastward_wind"))
    wind["pr"] = rain_on(region(24, 32, south=0.0), 5).pr
    found = choices(wind, orog=relief)
    assert found["tas"].candidates[1].is_chosen
    for name in ("ua", "pr"):
        assert found[name].candidates[0].is_chosen
        assert "only for temperatures and surface pressure" in str(found[name])
    fine = wind.downscale(2, method="auto", orog=relief)
    assert same_bits(fine.ua, wind.downscale(2).ua)
    assert same_bits(fine.tas, coarse.downscale(2, method="auto", orog=relief).tas)
    assert str(found["pr"]).startswith("sobolev on x^p with p = 1/2;")
    only = choices(wind.drop_vars("tas"), orog=relief)
    assert set(only) == {"ua", "pr"}


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"units": "K"}, True), ({"units": "degC"}, True), ({"units": "m s-1"}, False), ({}, False),
        ({"units": "Pa", "standard_name": "surface_air_pressure"}, True),
        ({"units": "Pa", "standard_name": "air_pressure_at_mean_sea_level"}, False),
    ],
)  # fmt: skip
def test_quantities_that_follow_height(attrs, expected):
    assert follows_height(xr.DataArray(0.0, attrs=attrs, name="x")) is expected


def test_settings_that_are_given_are_kept():
    coarse, _, relief = terrain_field(RATE)
    for options in ({"lapse_rate": -3e-3, "relief_smoothing": 0.5}, {"lapse_rate": -3e-3}, {"lapse_rate": "auto"}):
        fine = coarse.downscale(2, method="auto", orog=relief, **options)
        assert same_bits(fine.tas, coarse.downscale(2, orog=relief, **options).tas)
    found = choices(coarse, orog=relief, lapse_rate=-3e-3, relief_smoothing=0.5)["tas"]
    assert str(found) == "sobolev, terrain term as requested"


def test_a_climatology_is_used_without_a_second_effect_of_orography():
    coarse, true, relief = terrain_field(RATE)
    observed = true.isel(time=0, drop=True)
    fine = coarse.downscale(2, method="auto", orog=relief, climatology=observed)
    assert same_bits(fine.tas, coarse.downscale(2, climatology=observed).tas)
    found = choices(coarse, orog=relief, climatology=observed)["tas"]
    assert [one.is_chosen for one in found.candidates] == [False, True, False]
    assert str(found).startswith("sobolev, climatology; not chosen: terrain term (the climatology has")
    assert "needs orog" in str(choices(coarse, climatology=observed)["tas"])


@pytest.mark.parametrize("chunks", [{"time": 1}, {"time": 2, "lat": 5, "lon": 7}])
def test_chunks_change_no_bit(chunks):
    coarse, _, relief = terrain_field(RATE, times=15)
    whole = coarse.downscale(2, method="auto", orog=relief)
    cut = coarse.chunk(chunks).downscale(2, method="auto", orog=relief.chunk(lat=7))
    assert cut.attrs["downscale_settings"] == whole.attrs["downscale_settings"]
    assert same_bits(cut.tas.compute(), whole.tas)


def test_a_plan_reads_no_data():
    coarse, _, relief = terrain_field(RATE)
    lazy = unreadable(coarse).chunk(time=1)
    plan = lazy.downscale.plan(2, method="auto", orog=relief)
    assert plan.method == "auto"
    assert any("chosen by self-validation" in note for note in plan.notes)
    lazy.downscale(2, method="auto")
    given = lazy.downscale.plan(2, orog=relief, lapse_rate=RATE, relief_smoothing=1)
    assert plan.variables["tas"].static_bytes == given.variables["tas"].static_bytes


def test_other_targets_masks_and_conservation():
    coarse, _, relief = terrain_field(RATE)
    mask = xr.ones_like(relief.orog)
    mask[10:20, 12:30] = 0
    mask.attrs = {}
    fine = coarse.downscale(2, method="auto", orog=relief, mask=mask)
    assert coarse.downscale.check(fine, mask=mask).passed
    fine = coarse.downscale(target_grid="0.4x0.3", method="auto", orog=relief)
    assert coarse.downscale.check(fine).passed
    sums = coarse.downscale(2, method="auto", orog=relief, quantity="extensive")
    assert same_bits(sums.tas, coarse.downscale(2, quantity="extensive").tas)
    seen = coarse.downscale(2, method="auto", footprint="gaussian:100km")
    # Of a solve by iteration, which is not exact to the last bit.
    np.testing.assert_allclose(seen.tas, coarse.downscale(2, footprint="gaussian:100km").tas, rtol=1e-10)
    assert choices(coarse, orog=relief, quantity="extensive")["tas"].candidates[0].is_chosen
    ds = curvilinear()
    name = next(iter(ds.data_vars))
    assert ds.downscale.check(ds.downscale(2, method="auto")).passed
    assert name in choices(ds)
    loose = coarse.downscale(2, method="auto", orog=relief, conserve=None)
    assert "conserve=None" in loose.attrs["downscale_settings"]


def test_time_is_refined_too():
    coarse, _, relief = terrain_field(RATE, times=4)
    times = np.arange("2001-01", "2001-06", dtype="M8[M]").astype("M8[ns]")
    coarse = coarse.isel(time=slice(4)).assign_coords(time=("time", times[:4], {"bounds": "time_bnds"}))
    coarse["time_bnds"] = ("time", "bnds"), np.stack([times[:-1], times[1:]], axis=1)
    for factor in ({"time": 2}, {"time": 2, "lat": 2, "lon": 2}):
        fine = coarse.downscale(factor, method="auto", orog=relief)
        assert fine.sizes["time"] == 8
        assert "method=sobolev" in fine.attrs["downscale_settings"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"members": 2}, "expected a method that generates members, received 'auto'"),
        ({"smoothing": 1.0}, "expected method='cascade' with smoothing, received 'auto'"),
        ({"lapse_rate": -6e-3}, "expected orog with lapse_rate, received none"),
        ({"relief_smoothing": 1}, "expected lapse_rate with relief_smoothing, received none"),
        ({"data_vars": "pr"}, "expected a variable among 'tas', received 'pr'"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(DownscaleError, match=words):
        field_on(region()).downscale(2, method="auto", **options)


def test_evaluations_need_fixed_settings(tmp_path):
    recipe = {
        "data": {"sources": [{"fine": "sample:north_america"}], "factor": [2, 2], "outputs": ["tas"]},
        "methods": [{"label": "auto", "method": "auto"}, {"label": "sobolev", "method": "sobolev"}],
        "output": {"folder": str(tmp_path / "out")},
    }  # fmt: skip
    with pytest.raises(OptionError, match="auto: expected a method with settings of its own, received 'auto'"):
        downscale.evaluate(recipe)


# Runs.


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> xr.Dataset:
    monkeypatch.chdir(tmp_path)
    coarse, _, relief = terrain_field(RATE, times=30)
    coarse = coarse.assign(ua=coarse.tas.assign_attrs(units="m s-1", standard_name="eastward_wind"))
    coarse.to_netcdf("in.nc")
    relief.to_netcdf("z.nc")
    return coarse


def recipe(name: str, **output: Any) -> dict[str, Any]:
    return {
        "input": {"path": "in.nc"}, "statics": {"orog": "z.nc"}, "downscale": {"factor": 2, "method": "auto"},
        "output": {"path": name, **output},
    }  # fmt: skip


def test_blocks_share_the_choice_and_the_report_shows_it(files):
    whole = downscale.run(recipe("whole.nc", report="report.html"))
    cut = downscale.run(recipe("cut.nc", blocks=7))
    one, other = xr.open_dataset("whole.nc"), xr.open_dataset("cut.nc")
    assert same_bits(one.tas, other.tas)
    assert one.attrs["downscale_settings"] == other.attrs["downscale_settings"]
    assert "method=sobolev" in one.attrs["downscale_settings"]
    assert whole.choices == cut.choices
    chosen = whole.choices["tas"].candidates[1]
    page = Path("report.html").read_text()
    assert chosen.words in page
    assert f"{chosen.error:.3f}" in page
    assert "only for temperatures and surface pressure" in page
    facts = json.loads(Path("report.json").read_text())["choices"]
    assert facts["tas"][1] == {"words": chosen.words, "is_chosen": True, "error": chosen.error, "reason": ""}
    again = downscale.run(recipe("cut.nc", blocks=7), resume=True)
    assert again.kept == again.blocks


def test_the_command_line(files):
    from command import command

    said = command("apply", "in.nc", "out.nc", "--factor", "2", "--orog", "z.nc", "--method", "auto")
    assert said.status == 0, said.err
    assert "ua: sobolev; not chosen: terrain term" in said.out + said.err
    assert "tas: sobolev, lapse rate" in said.out + said.err
    plan = command("apply", "in.nc", "no.nc", "--factor", "2", "--orog", "z.nc", "--method", "auto", "--dry-run")
    assert "chosen by self-validation" in plan.out + plan.err
    refused("received 'auto'", "apply", "in.nc", "no.nc", "--factor", "2", "--method", "auto", "--members", "2")


@pytest.mark.parametrize("factor", [2, 4])
def test_unseen_times_of_a_real_field_gain(factor):
    with downscale.open_dataset(shared_data("temperature_era5_uk_0p25deg_201903_d01-20.nc"), chunks=None) as ds:
        whole = {dim: slice(0, ds.sizes[dim] // factor * factor) for dim in ("lat", "lon")}
        fine = ds.isel(whole).isel(time=slice(None, None, 8)).load()
    coarse, orog = downscale.coarsen(select(fine, "t2m"), factor), select(fine, "orog")
    chosen = settle_request(coarse.isel(time=slice(0, 30)), Request(factor=factor, method="auto", orog=orog)).request
    errors = [
        float(((coarse.isel(time=slice(30, None)).downscale(factor, **options).t2m - fine.t2m[30:]) ** 2).mean())
        for options in (
            {"orog": orog, "lapse_rate": chosen.lapse_rate, "relief_smoothing": chosen.relief_smoothing}, {},
        )
    ]  # fmt: skip
    assert errors[0] < 0.99 * errors[1]
