"""What values mean is heeded at every door: directions, codes, totals over periods, signs that nobody has told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from command import command
from sample_fields import field_on, rain_on, region

import downscale
from downscale.errors import InputError, OptionError

DIRECTION = {"standard_name": "wind_from_direction", "units": "degree", "long_name": "wind direction"}


def plain() -> xr.Dataset:
    """Daily means of a temperature."""
    return field_on(region(), cell_methods="time: mean")


def winds() -> xr.Dataset:
    """A direction about north, and other fields beside it."""
    ds = plain()
    around = np.random.default_rng(0).normal(0.0, 15.0, ds.tas.shape) % 360
    return ds.assign(wd=(ds.tas.dims, around, {**DIRECTION, "cell_methods": "time: mean"}))


REFUSALS = {
    "kernel": lambda ds: ds.downscale(2),
    "blocks": lambda ds: ds.downscale(2, "conservative"),
    "lawless": lambda ds: ds.downscale(2, "bilinear", conserve=None),
    "ensemble": lambda ds: ds.downscale(2, "cascade", members=2),
    "target": lambda ds: ds.downscale(target_grid="0.7x0.7"),
    "time": lambda ds: ds.downscale(target_grid={"time": "12h"}),
    "coarsen": lambda ds: downscale.coarsen(ds, 2),
    "deconvolve": lambda ds: ds.downscale.deconvolve("gaussian:100km"),
    "plan": lambda ds: ds.downscale.plan(2),
}


@pytest.mark.parametrize("door", REFUSALS)
def test_a_direction_alone_is_refused_at_every_door(door):
    with pytest.raises(InputError, match=r"direction 'wd' .*wind_from_direction.*components \(u, v\)"):
        REFUSALS[door](winds()[["wd", "lat_bnds", "lon_bnds"]])


def test_a_direction_that_is_named_is_refused():
    for names in ("wd", ["tas", "wd"]):
        with pytest.raises(InputError, match=r"direction 'wd' .*components \(u, v\)"):
            winds().downscale(2, data_vars=names)
    with pytest.raises(InputError, match=r"direction 'field' .*components \(u, v\)"):
        winds().wd.rename(None).downscale(2)


@pytest.mark.parametrize("door", REFUSALS)
def test_a_direction_among_others_is_left_out_with_a_warning(door):
    """Said once, and the other fields are what they are without it."""
    with pytest.warns(UserWarning, match=r"left out wd, a direction .*components \(u, v\).*--vars") as caught:
        made = REFUSALS[door](winds())
    assert {str(each.message).split(":")[0].split(",")[0] for each in caught} == {"left out wd"}
    if door == "plan":
        assert list(made.variables) == ["tas"]
        return
    # Deconvolution keeps the grid, and with it what it leaves alone.
    assert made.wd.equals(winds().wd) if door == "deconvolve" else "wd" not in made
    np.testing.assert_array_equal(made.tas, REFUSALS[door](plain()).tas)


def test_directions_on_the_command_line(tmp_path):
    winds().to_netcdf(tmp_path / "in.nc")
    said = command("apply", tmp_path / "in.nc", tmp_path / "out.nc", "--factor", 2)
    assert said.status == 0
    assert said.err.count("left out wd") == 1
    assert "wd" not in xr.open_dataset(tmp_path / "out.nc")
    refused = command("apply", tmp_path / "in.nc", tmp_path / "no.nc", "--factor", 2, "--vars", "wd")
    assert refused.status == 2
    assert "'wd'" in refused.complaint
    assert not (tmp_path / "no.nc").exists()
    assert command("check", tmp_path / "in.nc", tmp_path / "out.nc").status == 0


@pytest.mark.parametrize("kind", ["bool", "i1", "u1", "i4"])
@pytest.mark.parametrize("lazy", [False, True])
def test_masks_are_repeated_and_the_plan_says_so(kind, lazy):
    ds = field_on(region())
    mask = (ds.tas[0, :, :] > 275).astype(kind).drop_attrs()
    ds = ds.assign(landmask=mask)
    ds = ds.chunk() if lazy else ds
    fine = ds.downscale(2)
    assert set(np.unique(fine.landmask)) <= {0, 1}
    np.testing.assert_array_equal(fine.landmask[::2, ::2], mask)
    assert any("landmask holds codes" in note and kind.strip("iu148") in note for note in ds.downscale.plan(2).notes)


def months(units: str = "mm", **attrs: str) -> xr.Dataset:
    """Twelve monthly values of rain, without bounds of time."""
    ds = rain_on(region(4, 4), 12, units=units, standard_name="", **attrs)
    time = np.array([f"1999-{month:02d}-15" for month in range(1, 13)], "M8[ns]")
    return ds.assign_coords(time=time)


DAYS = {"time": "D"}


@pytest.mark.parametrize("units", ["mm", "kg m-2", "m", "inch"])
def test_totals_over_months_become_totals_over_days(units):
    ds = months(units)
    days = ds.downscale(target_grid=DAYS)
    np.testing.assert_allclose(days.pr.sum("time"), ds.pr.sum("time"), rtol=1e-12)
    np.testing.assert_allclose(days.pr.resample(time="MS").sum(), ds.pr, rtol=1e-9, atol=1e-12)
    assert downscale.check_conservation(ds, days).passed
    assert any("pr: sums along time" in note for note in ds.downscale.plan(target_grid=DAYS).notes)
    # And back: what was written says what it is.
    assert "time: sum" in days.pr.attrs["cell_methods"]
    back = days.downscale(target_grid={"time": ds.time.copy()})
    np.testing.assert_allclose(back.pr, ds.pr, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("said", [{"units": "mm day-1"}, {"cell_methods": "time: mean"}, {"units": "mm/month"}])
def test_rates_and_means_over_months_stay_means(said):
    ds = months(**said)
    days = ds.downscale(target_grid=DAYS)
    np.testing.assert_allclose(days.pr.resample(time="MS").mean(), ds.pr, rtol=1e-9, atol=1e-12)
    assert downscale.check_conservation(ds, days).passed


@pytest.mark.parametrize("quantity", ["intensive", {"pr": "intensive"}])
def test_the_user_has_the_last_word(quantity):
    ds = months()
    days = ds.downscale(target_grid=DAYS, quantity=quantity)
    np.testing.assert_allclose(days.pr.resample(time="MS").mean(), ds.pr, rtol=1e-9, atol=1e-12)
    assert downscale.check_conservation(ds, days, quantity=quantity).passed
    assert not downscale.check_conservation(ds, days).passed


def test_quantity_by_variable_over_cells():
    ds = rain_on(region()).assign(tas=field_on(region()).tas)
    fine = ds.downscale(2, quantity={"pr": "extensive"})
    np.testing.assert_allclose(fine.pr.coarsen(lat=2, lon=2).sum(), ds.pr, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(fine.tas, ds[["tas", "lat_bnds", "lon_bnds"]].downscale(2).tas)
    for wrong in ({"nothing": "extensive"}, {"pr": "big"}, "big"):
        with pytest.raises(OptionError, match="quantity"):
            ds.downscale(2, quantity=wrong)


def test_quantity_on_the_command_line(tmp_path):
    ds = months()
    ds.to_netcdf(tmp_path / "in.nc")
    for quantity, ratio in ((None, 1.0), ("extensive", 1.0), ("pr:intensive", 365 / 12)):
        out, asked = tmp_path / f"{ratio}{quantity}.nc", () if quantity is None else ("--quantity", quantity)
        said = command("apply", tmp_path / "in.nc", out, "--target", "time:D", *asked)
        assert (said.status, said.err) == (0, "")
        assert float(xr.open_dataset(out).pr.sum() / ds.pr.sum()) == pytest.approx(ratio, rel=0.05)
        assert command("check", tmp_path / "in.nc", out, *asked).status == 0
    assert command("check", tmp_path / "in.nc", out).status == 1
    refused = command("apply", tmp_path / "in.nc", tmp_path / "no.nc", "--factor", 2, "--quantity", "pr=extensive")
    assert refused.status == 2
    assert "--quantity" in refused.complaint
    assert "'pr=extensive'" in refused.complaint


def unknown(low: float = 0.0, **attrs: str) -> xr.Dataset:
    """A field of a quantity that nothing is known of, rough at its least value."""
    return field_on(region(), name="thing", low=low, **{"standard_name": "", "units": "", "long_name": "", **attrs})


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("method", ["sobolev", "bicubic"])
def test_negative_values_that_the_coarse_field_does_not_have_are_told(method, lazy):
    ds = unknown().chunk(time=1) if lazy else unknown()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = ds.downscale(2, method) if lazy else None
    with pytest.warns(UserWarning, match=r"thing: .*negative.*bounds=\(0, None\).*--bounds"):
        fine = (made if lazy else ds.downscale(2, method)).compute()
    assert float(fine.thing.min()) < 0


@pytest.mark.parametrize(
    ("ds", "options"),
    [
        (unknown(), {"bounds": (0, None)}),
        (unknown(), {"bounds": None}),
        (unknown(), {"bounds": {"thing": None}}),
        (unknown(), {"method": "conservative"}),
        (unknown(low=200.0), {}),
        (unknown(low=-1.0), {}),
        (unknown(units="degC"), {}),
        (unknown(standard_name="northward_wind"), {}),
        (unknown(long_name="anomaly of something"), {}),
    ],
)
def test_nothing_is_told_where_a_sign_is_known(ds, options):
    ds.downscale(2, **options)


NEGATIVE = r"thing: .*negative.*bounds=\(0, None\).*--bounds"
GRIDS_MADE = {"nested": {"factor": 2}, "overlapping": {"target_grid": "0.7x0.7"}}


def with_negatives(ds: xr.Dataset, **options: object) -> xr.Dataset:
    """A fine field that conserves the means of ``ds`` and has negative values."""
    fine = ds.downscale(bounds=None, **options).compute()
    assert float(fine.thing.min()) < 0
    return fine


@pytest.mark.parametrize("chunks", [{}, {"time": 1}])
@pytest.mark.parametrize("grid", GRIDS_MADE)
def test_the_check_warns_of_negative_values_that_the_coarse_field_does_not_have(grid, chunks):
    fine = with_negatives(unknown(), **GRIDS_MADE[grid])
    with pytest.warns(UserWarning, match=NEGATIVE) as said:
        report = downscale.check_conservation(unknown().chunk(chunks), fine.chunk(chunks))
    assert len(said) == 1
    assert report.passed
    assert report["thing"].negative_values == int((fine.thing < 0).sum()) > 0
    assert report.to_dict()["variables"]["thing"]["negative_values"] == report["thing"].negative_values


def test_one_negative_coarse_value_anywhere_ends_the_suspicion():
    ds = unknown().chunk(time=1)
    ds["thing"] = ds.thing.copy(data=ds.thing.data - 5.0 * (np.arange(3) == 2)[:, None, None])
    report = downscale.check_conservation(ds, with_negatives(ds, factor=2))
    assert report.passed
    assert report["thing"].negative_values == 0


@pytest.mark.parametrize("bounds", [(0, None), None, {"thing": None}])
@pytest.mark.parametrize("grid", GRIDS_MADE)
def test_the_check_does_not_warn_where_bounds_are_given(grid, bounds):
    report = downscale.check_conservation(unknown(), with_negatives(unknown(), **GRIDS_MADE[grid]), bounds=bounds)
    assert report.passed == (bounds != (0, None))
    assert report["thing"].negative_values == 0


@pytest.mark.parametrize(
    ("attrs", "low"),
    [({"units": "degC"}, 0.0), ({"standard_name": "northward_wind"}, 0.0), ({"long_name": "anomaly"}, 0.0), ({}, -1.0)],
)
def test_the_check_does_not_warn_where_a_sign_is_known(attrs, low):
    ds = unknown(low=low, **attrs)
    assert downscale.check_conservation(ds, with_negatives(ds, factor=2))["thing"].negative_values == 0


def test_the_commands_warn_of_negative_values_once_and_in_the_same_words(tmp_path):
    unknown().to_netcdf(tmp_path / "in.nc")
    made = command("apply", tmp_path / "in.nc", tmp_path / "out.nc", "--factor", 2)
    checked = command("check", tmp_path / "in.nc", tmp_path / "out.nc")
    assert (made.status, checked.status) == (0, 0)
    assert made.err.count("--bounds") == checked.err.count("--bounds") == 2
    assert checked.err.strip() in made.err
    assert command("check", tmp_path / "in.nc", tmp_path / "out.nc", "--bounds", "none").err == ""
    assert command("check", tmp_path / "in.nc", tmp_path / "out.nc", "--bounds", "0:").status == 1
    assert command("check", tmp_path / "in.nc", tmp_path / "out.nc", "--bounds", "0").status == 2
