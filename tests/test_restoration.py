"""Deconvolution and footprints from xarray to xarray and from file to file: laws, chunks, words, refusals."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import xarray as xr
from command import command
from sample_fields import field_on, region

import downscale
from downscale.cf.horizontal import horizontal
from downscale.deconvolution.psf import parse_psf
from downscale.deconvolution.weights import Instrument
from downscale.errors import BoundsError, ConservationError, DownscaleError
from downscale.methods.footprint import blur_maps
from downscale.runs.deconvolution import deconvolve_file
from downscale.steps.deconvolution import DeconvolutionMethod

pytestmark = pytest.mark.usefixtures("one_thread")


def rain(maps=3, rows=24, columns=32, step=2000.0):
    """Blocks of rain on a plane, one map without any value."""
    rng = np.random.default_rng(0)
    shape = (maps, rows // 4, columns // 4)
    values = np.where(rng.random(shape) > 0.6, 8 * rng.random(shape), 0)
    values = values.repeat(4, 1).repeat(4, 2).astype("f4")
    y, x = ((("y",), (np.arange(rows) + 0.5) * step), (("x",), (np.arange(columns) + 0.5) * step))
    attrs = {"units": "m"}
    coords = {"time": np.arange(maps), "y": (*y, {**attrs, "standard_name": "projection_y_coordinate"}),
              "x": (*x, {**attrs, "standard_name": "projection_x_coordinate"})}  # fmt: skip
    units = {"units": "mm h-1", "standard_name": "rainfall_rate"}
    return xr.Dataset({"pr": (("time", "y", "x"), values, units)}, coords)


def seen(ds, psf):
    instrument = Instrument(parse_psf(psf), horizontal(ds).grid)
    return ds.assign(pr=ds.pr.copy(data=blur_maps(ds.pr.values, instrument).clip(0).astype("f4")))


@pytest.mark.parametrize("method", ["richardson_lucy", "wiener", "tikhonov"])
def test_lazy_and_eager_agree_keep_the_flux_and_come_nearer_to_the_truth(method):
    truth = rain()
    data = seen(truth, "gaussian:8km")
    data.pr[1] = np.nan
    eager = data.downscale.deconvolve("gaussian:8km", method)
    lazy = data.chunk(time=2, x=8).downscale.deconvolve("gaussian:8km", method)
    assert lazy.pr.chunks is not None
    xr.testing.assert_identical(lazy.pr.compute(), eager.pr)
    assert eager.pr.dtype == data.pr.dtype
    assert eager.pr.attrs == data.pr.attrs
    assert bool(eager.pr[1].isnull().all())
    for t in (0, 2):
        assert float(eager.pr[t].sum(dtype="f8")) == pytest.approx(float(data.pr[t].sum(dtype="f8")), rel=1e-6)
        before, after = (float(((one.pr[t] - truth.pr[t]) ** 2).mean()) for one in (data, eager))
        assert after < before


def test_a_dataset_is_told_what_was_chosen_and_an_array_is_an_array():
    data = seen(rain(), "gaussian:8km")
    made = data.downscale.deconvolve("gaussian:8km", noise=0.05, iterations=30)
    assert (made.pr_iterations <= 30).all()
    assert made.pr_noise.values.tolist() == [0.05] * 3
    assert "deconvolve psf=gaussian:8km method=richardson_lucy noise=0.05 iterations=30" in made.attrs["history"]
    array = data.pr.downscale.deconvolve("gaussian:8km", "tikhonov", parameter=0.01)
    assert isinstance(array, xr.DataArray)
    assert array.name == "pr"
    assert "pr_parameter" in data.downscale.deconvolve("gaussian:8km", "wiener")


@pytest.mark.parametrize("units", ["mm h-1", "kg"])
def test_what_an_instrument_would_see_keeps_the_flux_lazily_and_under_gaps(units):
    truth = rain()
    truth.pr.attrs["units"] = units
    truth.pr[0, 3:9, 5:12] = np.nan
    eager = truth.downscale.blur("gaussian:8km")
    lazy = truth.chunk(time=2, x=8).downscale.blur("gaussian:8km")
    assert lazy.pr.chunks is not None
    xr.testing.assert_identical(lazy.pr.compute(), eager.pr)
    assert eager.pr.attrs == truth.pr.attrs
    assert eager.pr.dtype == truth.pr.dtype
    assert "blur psf=gaussian:8km" in eager.attrs["history"]
    np.testing.assert_array_equal(np.isnan(eager.pr), np.isnan(truth.pr))
    sums = [one.pr.astype("f8").sum(("y", "x")).values for one in (eager, truth)]
    np.testing.assert_allclose(*sums, rtol=1e-6)
    assert float(eager.pr[2].max()) < float(truth.pr[2].max())
    back = eager.pr.downscale.deconvolve("gaussian:8km", "tikhonov", parameter=1e-6)
    assert float(((back - truth.pr)[2] ** 2).mean()) < 0.5 * float(((eager.pr - truth.pr)[2] ** 2).mean())
    with pytest.raises(DownscaleError, match="expected"):
        truth.downscale.blur("gaussian:8")


def test_latitudes_in_either_order_give_the_same():
    ds = field_on(region())
    psf = "gaussian:300km"
    north_up = ds.isel(lat=slice(None, None, -1)).downscale.deconvolve(psf, "tikhonov", parameter=0.01)
    south_up = ds.downscale.deconvolve(psf, "tikhonov", parameter=0.01)
    np.testing.assert_allclose(north_up.tas.values[..., ::-1, :], south_up.tas.values, rtol=1e-6)


def test_profiles_and_stacks_along_named_dimensions():
    truth = np.zeros((5, 40), "f4")
    truth[:, 18:22] = 1.0
    field = xr.DataArray(truth, dims=("cast", "lev"), name="salt")
    kernel = np.array([0.2, 0.6, 0.2])
    data = field.copy(data=np.stack([np.convolve(row, kernel, "same") for row in truth]).astype("f4"))
    made = data.downscale.deconvolve(kernel, noise=0, iterations=200, dims=("lev",))
    assert float(abs(made - field).max()) < 0.1 * float(abs(data - field).max())
    stack = rain().pr.rename(time="lev").downscale.deconvolve("gaussian:2cells", iterations=5, dims=("lev", "y", "x"))
    assert float(stack.sum(dtype="f8")) == pytest.approx(float(rain().pr.sum(dtype="f8")), rel=1e-6)


def test_negative_rain_is_refused_when_it_is_met():
    data = rain() - 1
    with pytest.raises(BoundsError, match="expected values >= 0 for Richardson-Lucy"):
        data.downscale.deconvolve("gaussian:8km")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("gaussian:8km", "magic"), "expected a method among"),
        (("gaussian:800km",), "no larger than the field"),
        ((np.full((3, 3), 0.2),), "add up to one"),
        ((np.full((2, 2), 0.25),), "state its centre"),
        ((7,), "expected psf as words"),
    ],
)
def test_bad_requests_are_refused_before_data_are_read(arguments, match):
    with pytest.raises(DownscaleError, match=match):
        rain().chunk().downscale.deconvolve(*arguments)


def test_named_dimensions_that_are_not_there():
    with pytest.raises(DownscaleError, match="expected one to three dims among"):
        rain().downscale.deconvolve("gaussian:2cells", dims=("depth",))


def coarse_of(truth, psf, factor=4):
    return seen(truth, psf).downscale.coarsen(factor)


@pytest.mark.parametrize("chunks", [None, {"time": 1}])
def test_the_footprint_law_holds_and_ignoring_it_is_seen(chunks):
    truth = rain(2, 48, 48)
    coarse = coarse_of(truth, "gaussian:12km")
    coarse = coarse if chunks is None else coarse.chunk(chunks)
    fine = coarse.downscale(4, footprint="gaussian:12km", bounds=None)
    report = coarse.downscale.check(fine, footprint="gaussian:12km", bounds=None)
    assert report.passed
    assert not coarse.downscale.check(fine, bounds=None).passed
    assert not coarse.downscale.check(coarse.downscale(4), footprint="gaussian:12km", bounds=None).passed
    aware, unaware = (float(((one.pr - truth.pr) ** 2).mean()) for one in (fine, coarse.downscale(4, bounds=None)))
    assert aware < unaware


def test_bounds_come_close_and_the_law_goes_first():
    truth = rain(1, 48, 48)
    coarse = coarse_of(truth, "gaussian:8km")
    free = coarse.downscale(4, footprint="gaussian:8km", bounds=None)
    with pytest.warns(UserWarning, match="the footprint takes priority over bounds"):
        kept = coarse.downscale(4, footprint="gaussian:8km")
    assert float(kept.pr.min()) > 0.02 * float(free.pr.min())
    assert coarse.downscale.check(kept, footprint="gaussian:8km", bounds=None).passed
    errors = [float(((one.pr - truth.pr) ** 2).mean()) for one in (kept, free)]
    assert errors[0] < errors[1]


def test_a_footprint_keeps_gaps_and_says_so_in_the_plan():
    coarse = coarse_of(rain(1, 48, 48), "gaussian:8km")
    coarse.pr[0, :3, :4] = np.nan
    fine = coarse.downscale(4, footprint="gaussian:8km", bounds=None)
    assert bool(fine.pr[0, :12, :16].isnull().all())
    assert int(fine.pr.isnull().sum()) == 12 * 16
    assert coarse.downscale.check(fine, footprint="gaussian:8km", bounds=None).passed
    assert "maps are not split" in repr(coarse.downscale.plan(4, footprint="gaussian:8km"))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "bilinear"}, "expected method='sobolev' with footprint, received 'bilinear'"),
        ({"conserve": None}, "expected no conserve with footprint"),
        ({"footprint": "gaussian:9000km"}, "no larger than the field"),
    ],
)
def test_what_does_not_go_with_a_footprint(options, match):
    with pytest.raises(DownscaleError, match=match):
        rain().downscale(4, **{"footprint": "gaussian:8km", **options})


def test_a_footprint_far_wider_than_cells_is_refused_not_made_up():
    noise = rain(1, 12, 12)
    noise["pr"] = noise.pr.copy(data=np.random.default_rng(1).random(noise.pr.shape).astype("f4"))
    with pytest.raises(ConservationError, match="expected the footprint law within 1e-06"):
        noise.downscale(2, footprint="gaussian:20km", bounds=None)


def test_the_command_restores_reports_and_refuses(tmp_path):
    source, out = tmp_path / "in.nc", tmp_path / "out.nc"
    data = seen(rain(), "gaussian:8km")
    data.to_netcdf(source)
    done = command("deconvolve", source, out, "--psf", "gaussian:8km", "--iterations", "20", "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)["variables"]["pr"]
    assert found["relative_change"] < 1e-6
    with xr.open_dataset(out) as made:
        assert "total conservation passed as written" in made.pr.attrs["conservation"]
        assert "deconvolve psf=gaussian:8km" in made.attrs["history"]
    for words, match in ((["--psf", "bell:8km"], "expected a point-spread function among"),
                         (["--psf", "gaussian:8000km"], "no larger than the field")):  # fmt: skip
        refused = command("deconvolve", source, tmp_path / "no.nc", *words)
        assert refused.status == 2
        assert match in refused.err
        assert len(refused.err.strip().splitlines()) == 1
    assert not (tmp_path / "no.nc").exists()


def test_the_footprint_law_in_a_written_file(tmp_path):
    source, out = tmp_path / "coarse.nc", tmp_path / "fine.nc"
    coarse_of(rain(1, 48, 48), "gaussian:12km").to_netcdf(source)
    words = ("--footprint", "gaussian:12km")
    done = command("apply", source, out, "--factor", "4", "--bounds", "none", *words)
    assert done.status == 0, done.err
    assert command("check", source, out, *words).status == 0
    assert command("check", source, out).status == 1


def test_what_is_claimed_of_a_file_is_about_its_law(tmp_path):
    """Sharpened cells differ from the blurred ones by design; what is kept is the flux of the map."""
    data = seen(rain(), "gaussian:8km")
    sharp = data.downscale.deconvolve("gaussian:8km", "tikhonov")
    how = {"law": "total", "tolerance": 1e-6, "bounds": None}
    report = downscale.to_netcdf(sharp[["pr"]], tmp_path / "sharp.nc", coarse=data, **how)
    assert report["pr"].max_relative_error > 1e-3
    assert "pr: the total law is about the global error; its cells may differ" in str(report)
    with xr.open_dataset(tmp_path / "sharp.nc") as written:
        words = written.pr.attrs["conservation"]
    found = re.match(r"total conservation passed as written: largest relative error (\S+), ", words)
    assert found is not None
    assert float(found[1]) <= 1e-6


def test_a_file_of_profiles_is_judged_before_it_gets_its_name(tmp_path):
    levels = np.linspace(0, 6, 40)
    values = np.exp(-((levels - 3) ** 2))[:, None] * np.array([1.0, 2.0, 0.5])
    attrs = {"units": "K"}
    profiles = xr.Dataset({"t": (("lev", "station"), values.astype("f4"), attrs)}, {"lev": np.arange(40)})
    profiles.t[:, 2] = np.nan
    profiles.to_netcdf(tmp_path / "in.nc")
    weights, out = np.array([0.25, 0.5, 0.25]), tmp_path / "out.nc"
    how = DeconvolutionMethod("richardson_lucy", noise=0.0, iterations=5)
    facts = deconvolve_file(str(tmp_path / "in.nc"), out, weights, how, dims=("lev",))[1]
    assert facts["t"]["relative_change"] < 1e-6
    with xr.open_dataset(out) as made:
        certificate = json.loads(made.attrs["conservation_certificate"])["variables"]["t"]
        assert "total conservation passed as written" in made.t.attrs["conservation"]
        assert (certificate["cells_checked"], certificate["cells_masked"]) == (80, 40)
        assert float(np.abs(made.t.sum("lev") - profiles.t.sum("lev")).max()) < 1e-4
