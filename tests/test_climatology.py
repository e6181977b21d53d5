"""Fine observations: cell conservation, chunks, engines, labels, weights, gaps, and what is refused."""

from __future__ import annotations

from typing import Any

import cftime
import numpy as np
import pytest
import torch
import xarray as xr
from command import command
from conftest import shared_data
from sample_fields import coordinates, region

import downscale
from downscale.cf.labels import Labels, numbers_on
from downscale.errors import DownscaleError, InputError, OptionError
from downscale.fields.aggregate import Aggregation
from downscale.fields.climatology import Evidence, Part, add_detail, quantiles_of, terms_of
from downscale.request import CALENDAR_LABELS

pytestmark = pytest.mark.usefixtures("one_thread")

FACTOR = 2
AIR = {"standard_name": "air_temperature", "units": "K"}
RAIN = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1"}


def dates(count: int, step: str = "10D") -> np.ndarray:
    return np.datetime64("2001-01-05T12", "ns") + np.arange(count) * np.timedelta64(int(step[:-1]), step[-1])


def record(rain: bool = False, count: int = 300, step: str = "10D", rows: int = 12, columns: int = 16) -> xr.Dataset:
    """Fine observations of eight years: a fixed pattern below coarse cells, a season, and weather."""
    grid, rng = region(rows, columns), np.random.default_rng(3)
    pattern = np.random.default_rng(1).normal(size=grid.shape)
    times = dates(count, step)
    season = np.cos(2 * np.pi * (times - times[0]) / np.timedelta64(365, "D"))[:, None, None]
    weather = rng.normal(size=(count, *grid.shape))
    if rain:
        values = np.exp(0.5 * pattern) * rng.gamma(0.5, 2e-5, (count, 1, 1)) * np.exp(0.3 * weather)
    else:
        values = 280 + 8 * season + pattern * (1 + 0.5 * season) + 0.5 * weather
    name = "pr" if rain else "tas"
    field = xr.Variable(("time", "lat", "lon"), values, RAIN if rain else AIR)
    return xr.Dataset({name: field}, {"time": times, **coordinates(grid)})


def coarse_of(fine: xr.Dataset, count: int = 24) -> xr.Dataset:
    return downscale.coarsen(fine.isel(time=slice(-count, None)), FACTOR)


def name_of(ds: xr.Dataset) -> str:
    return "pr" if "pr" in ds else "tas"


@pytest.fixture(params=["additive", "ratio"])
def observed(request: pytest.FixtureRequest) -> xr.Dataset:
    return record(rain=request.param == "ratio")


def error(fine: xr.Dataset, truth: xr.Dataset) -> float:
    name = name_of(truth)
    return float(np.sqrt(((fine[name].values - truth[name].values) ** 2).mean()))


def test_cells_are_conserved_and_the_error_falls(observed: xr.Dataset) -> None:
    known, truth = observed.isel(time=slice(0, -24)), observed.isel(time=slice(-24, None))
    coarse = coarse_of(observed)
    fine = coarse.downscale(FACTOR, climatology=known)
    assert downscale.check_conservation(coarse, fine).passed
    assert error(fine, truth) < 0.8 * error(coarse.downscale(FACTOR), truth)
    assert float(fine[name_of(observed)].min()) >= 0


@pytest.mark.parametrize("chunks", [{"time": 1}, {"time": 7, "lat": 3}, {"time": 5, "lat": 2, "lon": 3}, {"time": -1}])
@pytest.mark.parametrize("quantiles", [1, 3])
def test_chunks_change_no_bit(observed: xr.Dataset, chunks: dict[str, int], quantiles: int) -> None:
    coarse, name = coarse_of(observed), name_of(observed)
    options = {"climatology_quantiles": quantiles}
    whole = coarse.downscale(FACTOR, climatology=observed, **options)
    assert (coarse.chunk(chunks).downscale(FACTOR, climatology=observed, **options)[name] == whole[name]).all()
    lazy = coarse.downscale(FACTOR, climatology=observed.chunk(time=11, lat=5), **options)
    assert (lazy[name] == whole[name]).all()


@pytest.mark.parametrize("engine", ["torch", "dense"])
@pytest.mark.parametrize("quantiles", [1, 3])
def test_engines_agree(observed: xr.Dataset, engine: str, quantiles: int) -> None:
    coarse, name = coarse_of(observed), name_of(observed)
    options = {"climatology": observed, "climatology_quantiles": quantiles}
    compiled = coarse.downscale(FACTOR, **options)[name]
    with downscale.set_options(engine=engine):
        other = coarse.downscale(FACTOR, **options)[name]
    np.testing.assert_allclose(other, compiled, rtol=1e-11, atol=1e-16)


def test_is_lazy_and_never_changes_the_input(observed: xr.Dataset) -> None:
    coarse, name = coarse_of(observed).chunk(time=6), name_of(observed)
    before = observed.copy(deep=True)
    fine = coarse.downscale(FACTOR, climatology=observed.chunk(time=50))
    assert fine[name].chunks is not None
    fine.load()
    xr.testing.assert_identical(observed, before)


def test_masks_and_targets_that_do_not_nest(observed: xr.Dataset) -> None:
    coarse = coarse_of(observed)
    grid = region()
    valid = (np.indices(grid.shape).sum(axis=0) % 5 > 0) * 1.0
    mask = xr.Dataset({"sftlf": (("lat", "lon"), valid)}, coordinates(grid))
    masked = coarse.downscale(FACTOR, climatology=observed, mask=mask)
    assert downscale.check_conservation(coarse, masked, mask=mask).passed
    finer = record(name_of(observed) == "pr", rows=24, columns=32).assign_coords(coordinates(region().refine(2, 2)))
    pieces = coarse.downscale(target_grid="0.7x0.7", climatology=finer)
    assert downscale.check_conservation(coarse, pieces).passed
    assert (pieces[name_of(observed)] != coarse.downscale(target_grid="0.7x0.7")[name_of(observed)]).any()


def test_a_lapse_rate_and_a_climatology_add_up() -> None:
    observed = record()
    grid = region()
    heights = 300.0 * np.random.default_rng(5).uniform(size=grid.shape)
    orog = xr.Dataset({"orog": (("lat", "lon"), heights, {"units": "m"})}, coordinates(grid))
    coarse = coarse_of(observed)
    terrain = {"orog": orog, "lapse_rate": -6.5e-3}
    plain, both = coarse.downscale(FACTOR).tas, coarse.downscale(FACTOR, climatology=observed, **terrain).tas
    one, other = coarse.downscale(FACTOR, climatology=observed).tas, coarse.downscale(FACTOR, **terrain).tas
    np.testing.assert_allclose(both - plain, (one - plain) + (other - plain), atol=1e-4)


@pytest.mark.parametrize("quantiles", [1, 3])
def test_members_of_a_cascade_conserve_and_follow_the_climatology(observed: xr.Dataset, quantiles: int) -> None:
    coarse = coarse_of(observed, 6)
    options = {"climatology": observed, "climatology_quantiles": quantiles}
    members = coarse.downscale(FACTOR, method="cascade", members=40, **options)
    assert downscale.check_conservation(coarse, members).passed
    name = name_of(observed)
    mean = members[name].mean("realization").transpose(*coarse[name].dims).values
    plain = coarse.downscale(FACTOR)[name].values
    detail = coarse.downscale(FACTOR, **options)[name].values - plain
    assert np.corrcoef((mean - plain).ravel(), detail.ravel())[0, 1] > 0.8


# Quantiles.


def uneven(rain: bool, count: int = 800) -> xr.Dataset:
    """Fine observations whose detail has the opposite sign in warm (or wet) and in cold (or dry) times."""
    grid, rng = region(), np.random.default_rng(6)
    pattern = np.random.default_rng(1).normal(size=grid.shape)
    level = rng.normal(size=(count, 1, 1))
    if rain:
        values, attrs = 1e-5 * np.exp(level) * (1 + 0.5 * np.tanh(pattern) * np.tanh(2 * level)), RAIN
    else:
        values, attrs = 280 + 5 * level + pattern * level + 0.2 * rng.normal(size=(count, *grid.shape)), AIR
    name = "pr" if rain else "tas"
    return xr.Dataset({name: (("time", "lat", "lon"), values, attrs)}, {"time": dates(count), **coordinates(grid)})


@pytest.mark.parametrize("rain", [False, True])
def test_quantiles_find_a_detail_that_depends_on_the_coarse_value(rain: bool) -> None:
    observed = uneven(rain)
    known, truth = observed.isel(time=slice(0, -24)), observed.isel(time=slice(-24, None))
    coarse = coarse_of(observed)
    options = {"climatology": known, "climatology_by": "none"}
    one, four = (coarse.downscale(FACTOR, **options, climatology_quantiles=count) for count in (1, 4))
    assert downscale.check_conservation(coarse, four).passed
    assert error(four, truth) < 0.6 * error(one, truth)
    assert "quantiles=4" in four.attrs["downscale_settings"]


def test_quantiles_of_one_variable_leave_others_as_they_are() -> None:
    observed = record()
    name = str(next(iter(observed.data_vars)))
    observed = observed.assign(second=observed[name] * 2)
    coarse = downscale.coarsen(observed, FACTOR)
    fine = coarse.downscale(FACTOR, climatology=observed, climatology_quantiles={name: 4})
    for own, count in ((name, 4), ("second", 1)):
        alone = coarse.downscale(FACTOR, climatology=observed, climatology_quantiles=count)
        np.testing.assert_array_equal(fine[own], alone[own])
    with pytest.raises(OptionError, match="climatology_quantiles of variables among"):
        coarse.downscale(FACTOR, climatology=observed, climatology_quantiles={"tos": 4})


def test_short_records_have_fewer_quantiles_whatever_the_months_of_the_coarse_maps() -> None:
    observed = record(count=100)
    coarse = coarse_of(observed)
    options = {"climatology": observed, "climatology_quantiles": 4}
    assert "tas: too few observations for 4 quantiles, 1 instead" in downscale.plan(coarse, FACTOR, **options).notes
    fine, one = coarse.downscale(FACTOR, **options).tas, coarse.downscale(FACTOR, climatology=observed).tas
    assert (fine == one).all()
    own = coarse.isel(time=[3])
    assert (own.downscale(FACTOR, **options).tas == fine[3]).all()


def test_terms_are_those_of_linear_interpolation() -> None:
    rng = np.random.default_rng(8)
    nodes = np.array([-2, -0.5, 0.5, 2]).reshape(4, 1, 1) + rng.uniform(0, 0.5, (1, 4, 3, 5))
    details = rng.normal(size=(1, 4, 3, 5))
    smooth = rng.normal(scale=2, size=(3, 5))
    terms = torch.tensor(terms_of(details, nodes)[0])
    added = add_detail(torch.tensor(smooth), terms, in_proportion=False).numpy() - smooth
    expected = [np.interp(smooth[i, j], nodes[0, :, i, j], details[0, :, i, j]) for i, j in np.ndindex(3, 5)]
    np.testing.assert_allclose(added.ravel(), expected, atol=1e-6)


def test_near_nodes_are_kept_apart() -> None:
    nodes = np.array([0.0, 1.0, 1.0 + 1e-9, 2.0]).reshape(1, 4, 1, 1)
    terms = terms_of(np.array([0.0, 0.0, 1.0, 1.0]).reshape(1, 4, 1, 1), nodes).ravel()
    assert terms[3] - terms[2] == pytest.approx(2e-3, rel=1e-3)
    assert abs(terms[5:]).max() < 501


def test_equal_nodes_have_no_slope() -> None:
    terms = terms_of(np.array([0.0, 1.0, 2.0]).reshape(1, 3, 1, 1), np.zeros((1, 3, 1, 1)))
    assert terms.ravel().tolist() == [0, 0, 0, 0, 0, 0]


def test_quantiles_of_a_dry_cell_and_of_gaps() -> None:
    series = np.stack([np.zeros((1, 2)), np.array([[0.0, np.nan]]), np.array([[0.0, 3.0]])])
    series[:, 0, 1] = np.nan, np.nan, 3.0
    found = quantiles_of(series, np.array([0.25, 0.5, 0.75]), ratio=True)
    assert found[:, 0, 0].tolist() == [0, 0, 0]
    assert found[:, 0, 1].tolist() == [3, 3, 3]


# Records and weights.


def test_a_record_of_one_part_changes_nothing(observed: xr.Dataset) -> None:
    coarse, name = coarse_of(observed), name_of(observed)
    day = observed.isel(time=[0])
    fine = coarse.downscale(FACTOR, climatology=day, climatology_by="none")[name]
    assert (fine == coarse.downscale(FACTOR)[name]).all()


def test_noise_without_a_pattern_is_shrunk_away() -> None:
    observed = record()
    rng = np.random.default_rng(0)
    observed.tas[:] = 280 + rng.normal(size=observed.tas.shape)
    coarse = coarse_of(observed)
    plain = coarse.downscale(FACTOR).tas
    some = coarse.downscale(FACTOR, climatology=observed, climatology_by="none").tas - plain
    every = coarse.downscale(FACTOR, climatology=observed, climatology_by="none", climatology_weight=1.0).tas - plain
    assert np.sqrt((some**2).mean()) < 0.4 * np.sqrt((every**2).mean())


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_weights_are_those_of_least_expected_error(noise: float) -> None:
    """Signal variance over that of the mean of the parts, whatever the correlation within a part."""
    rng, shape, parts, samples = np.random.default_rng(2), (60, 60), 10, 7
    signal = rng.normal(size=shape)
    evidence = Evidence(1, Aggregation(np.full(60, 0.5), np.full(60, 0.5), 2, 2), ratio=False)
    for _ in range(parts):
        # All samples of a part share their noise.
        mean = signal + noise * rng.normal(size=shape)
        evidence.add(0, samples, Part.of_mean(mean, np.zeros(shape), samples, ratio=False))
    pattern, _ = evidence.pattern()
    weights = evidence.weights(pattern, np.ones((30, 30)), closed=False)
    assert weights.mean() == pytest.approx(1 / (1 + noise**2 / parts), abs=0.06)


def test_means_and_samples_give_the_same_sums() -> None:
    rng = np.random.default_rng(4)
    maps, smooth = rng.gamma(2, size=(5, 4, 4)), rng.gamma(2, size=(5, 4, 4))
    part = Part.of_samples(maps, smooth, ratio=True, chosen=np.ones(maps.shape, bool))
    np.testing.assert_allclose(part.detail, (maps - smooth).sum(axis=0))
    np.testing.assert_allclose(part.square, (smooth**2).sum(axis=0))
    twice = part.plus(part)
    np.testing.assert_allclose(twice.product, 2 * part.product)


def test_a_zero_smooth_climatology_has_no_proportion_and_is_counted() -> None:
    evidence = Evidence(1, Aggregation(np.full(2, 0.5), np.full(2, 0.5), 2, 2), ratio=True)
    evidence.add(0, 1, Part.of_mean(np.array([[1.0, 9.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 1.0]]), 1, True))
    pattern, clipped = evidence.pattern()
    assert pattern[0].tolist() == [[0.0, 4.0], [-1.0, 0.0]]
    assert clipped.tolist() == [2]


# Labels.


def test_labels_of_calendars_agree() -> None:
    numpy = np.array(["2001-01-31T12", "2001-03-01T00", "2001-12-31T23"], "M8[ns]")
    days = ((2001, 1, 31, 12), (2001, 3, 1, 0), (2001, 12, 31, 23))
    noleap = np.array([cftime.datetime(*day, calendar="noleap") for day in days])
    for by in CALENDAR_LABELS:
        labels = Labels.named(by)
        assert labels.of(numpy).tolist() == labels.of(noleap).tolist()
        assert (labels.of(numpy) < labels.count).all()
    last = cftime.datetime(2001, 12, 30, calendar="360_day")
    assert Labels.named("dayofyear").of(np.array([last])).tolist() == [72]


def test_a_climatology_by_month_equals_its_record() -> None:
    observed = record()
    months = observed.groupby("time.month").mean(keep_attrs=True)
    coarse = coarse_of(observed)
    one = coarse.downscale(FACTOR, climatology=months).tas
    other = coarse.downscale(FACTOR, climatology=observed, climatology_by="month", climatology_weight=1.0).tas
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_climatological_times_are_no_record() -> None:
    observed = record()
    months = observed.groupby("time.month").mean(keep_attrs=True).rename(month="time")
    times = np.array([f"2000-{month:02d}-15" for month in range(1, 13)], "M8[ns]")
    months = months.assign_coords(time=("time", times, {"climatology": "climatology_bounds"}))
    coarse = coarse_of(observed)
    by_month = observed.groupby("time.month").mean(keep_attrs=True)
    one, other = (coarse.downscale(FACTOR, climatology=each).tas for each in (months, by_month))
    assert (one == other).all()


def test_one_field_serves_all_times_and_months_as_coordinates() -> None:
    observed = record()
    one = observed.mean("time", keep_attrs=True)
    coarse = coarse_of(observed, 3)
    fine = coarse.drop_vars("time").downscale(FACTOR, climatology=one)
    assert downscale.check_conservation(coarse.drop_vars("time"), fine).passed
    by_month = coarse.rename(time="month").assign_coords(month=[1, 2, 3])
    fine = by_month.downscale(FACTOR, climatology=observed.groupby("time.month").mean(keep_attrs=True))
    assert downscale.check_conservation(by_month, fine).passed


def test_hours_follow_from_the_times_of_both() -> None:
    observed = record(count=200, step="6h")
    coarse = coarse_of(observed)
    assert "by=month-hour" in coarse.downscale(FACTOR, climatology=observed).attrs["downscale_settings"]
    daily = coarse.isel(time=slice(0, None, 4))
    assert "by=month)" in daily.downscale(FACTOR, climatology=observed).attrs["downscale_settings"]


def test_months_without_observations_keep_the_kernel() -> None:
    observed = record()
    coarse = downscale.coarsen(observed, FACTOR)
    winter = observed.isel(time=np.isin(observed["time.month"], [12, 1, 2]))
    fine, plain = coarse.downscale(FACTOR, climatology=winter).tas, coarse.downscale(FACTOR).tas
    is_winter = np.isin(coarse["time.month"], [12, 1, 2])
    assert (fine[~is_winter] == plain[~is_winter]).all()
    assert (fine[is_winter] != plain[is_winter]).any()
    notes = downscale.plan(coarse, FACTOR, climatology=winter).notes
    assert any("no observations for month 3, month 4, month 5 and 6 more" in note for note in notes)


def test_maps_without_any_observations_keep_the_kernel() -> None:
    observed = record()
    summer = downscale.coarsen(observed.isel(time=np.isin(observed["time.month"], [7])), FACTOR)
    winter = observed.isel(time=np.isin(observed["time.month"], [1]))
    assert (summer.downscale(FACTOR, climatology=winter).tas == summer.downscale(FACTOR).tas).all()


def test_numbers_of_labels_are_checked() -> None:
    with pytest.raises(InputError, match=r"whole numbers from 1 to 12 along 'month', received 0 to 3"):
        numbers_on("month", np.array([0, 3]))


# Observations on other grids, with gaps, in other units.


def test_gaps_of_observations_keep_the_kernel() -> None:
    observed = record()
    coarse = coarse_of(observed)
    lacking = observed.copy(deep=True)
    lacking.tas[:, 6:, :] = np.nan
    fine, plain = coarse.downscale(FACTOR, climatology=lacking).tas, coarse.downscale(FACTOR).tas
    np.testing.assert_allclose(fine[:, 6:], plain[:, 6:], rtol=0, atol=1e-9)
    assert (abs(fine[:, :4] - plain[:, :4]) > 0.01).any()
    short = coarse.downscale(FACTOR, climatology=observed.isel(lat=slice(0, 6))).tas
    np.testing.assert_allclose(short[:, 6:], plain[:, 6:], rtol=0, atol=1e-9)
    notes = downscale.plan(coarse, FACTOR, climatology=observed.isel(lat=slice(0, 6))).notes
    assert any("does not cover 50 % of the fine cells" in note for note in notes)


def test_finer_observations_and_other_units_give_the_same() -> None:
    observed = record()
    coarse = coarse_of(observed)
    fine = coarse.downscale(FACTOR, climatology=observed).tas
    celsius = observed.assign(tas=(observed.tas - 273.15).assign_attrs({**AIR, "units": "degC"}))
    np.testing.assert_allclose(coarse.downscale(FACTOR, climatology=celsius).tas, fine, atol=1e-5)
    finer = xr.Dataset({"tas": (observed.tas.dims, observed.tas.values.repeat(3, 1).repeat(3, 2), AIR)},
                       {"time": observed.time, **coordinates(region().refine(3, 3))})  # fmt: skip
    np.testing.assert_allclose(coarse.downscale(FACTOR, climatology=finer).tas, fine, atol=1e-5)
    flipped = observed.isel(lat=slice(None, None, -1))
    np.testing.assert_allclose(coarse.downscale(FACTOR, climatology=flipped).tas, fine, atol=1e-5)


def test_variables_without_observations_are_told() -> None:
    observed = record()
    coarse = coarse_of(observed)
    coarse["pr"] = (coarse.tas.dims, np.full(coarse.tas.shape, 1e-5), RAIN)
    notes = downscale.plan(coarse, FACTOR, climatology=observed).notes
    assert any("pr: no observations of it" in note for note in notes)
    assert (coarse.downscale(FACTOR, climatology=observed).pr == coarse.downscale(FACTOR).pr).all()


REFUSED: list[tuple[dict[str, Any], type[DownscaleError], str]] = [
    ({"climatology": 3}, InputError, "received int"),
    ({"climatology": "nowhere.nc"}, InputError, "nowhere.nc"),
    ({"climatology": record(), "climatology_by": "week"}, OptionError, "received 'week'"),
    ({"climatology": record(), "climatology_form": "product"}, OptionError, "received 'product'"),
    (
        {"climatology": record(), "climatology_form": {"tass": "ratio"}},
        OptionError,
        "of variables among 'tas', received 'tass'",
    ),
    ({"climatology": record(), "climatology_weight": 2}, OptionError, "received 2"),
    ({"climatology_by": "month"}, OptionError, "expected climatology with climatology_by"),
    ({"climatology": record(), "method": "rain"}, OptionError, "expected a method without training"),
    ({"climatology": record(), "climatology_quantiles": 0}, OptionError, "a whole number from 1, received 0"),
    ({"climatology_quantiles": 4}, OptionError, "expected climatology with climatology_quantiles"),
    ({"climatology": record().mean("time", keep_attrs=True), "climatology_quantiles": 4}, InputError, "of a record"),
    ({"climatology": record(), "footprint": "gaussian:100km"}, OptionError, "expected no climatology with footprint"),
    ({"climatology": downscale.coarsen(record(), 4)}, InputError, "at least as fine as the target, received cells"),
    ({"climatology": record().isel(lat=slice(0, 0))}, DownscaleError, "lat"),
    ({"climatology": record().assign_coords(coordinates(region(west=200.0)))}, DownscaleError, "covers none"),
    ({"climatology": record(rain=True).rename(pr="tas")}, InputError, "which is another one"),
    ({"climatology": record().expand_dims(level=[1, 2])}, InputError, "received also the dimensions 'level'"),
    ({"climatology": record() * np.nan}, InputError, "received missing values only"),
]


@pytest.mark.parametrize(("options", "kind", "words"), REFUSED)
def test_what_is_refused(options: dict[str, Any], kind: type[DownscaleError], words: str) -> None:
    coarse = coarse_of(record())
    with pytest.raises(kind) as caught:
        coarse.downscale(FACTOR, **options).load()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line_and_blocks_give_the_same(tmp_path: Any) -> None:
    observed = record()
    coarse = coarse_of(observed)
    for name, ds in (("obs", observed), ("coarse", coarse)):
        ds.to_netcdf(tmp_path / f"{name}.nc")
    files = [str(tmp_path / f"{name}.nc") for name in ("coarse", "fine")]
    options = ["--climatology", str(tmp_path / "obs.nc"), "--climatology-quantiles", "3"]
    said = command("apply", *files, "--factor", str(FACTOR), *options, "--blocks", "7")
    assert said.status == 0, said
    stored = xr.open_dataset(files[1])
    whole = coarse.downscale(FACTOR, climatology=observed, climatology_quantiles=3)
    assert (stored.tas.values == whole.tas.values).all()
    assert "climatology tas(additive by=month quantiles=3)" in stored.attrs["history"]


@pytest.mark.slow
def test_real_hours_lower_the_error() -> None:
    ds = xr.open_dataset(shared_data("temperature_era5_uk_0p25deg_201903_d01-20.nc"))[["t2m"]].load()
    ds = ds.isel(lat=slice(0, 32), lon=slice(0, 48))
    ds["t2m"].attrs = AIR
    known, held = ds.isel(time=slice(0, 360)), ds.isel(time=slice(360, None))
    coarse = downscale.coarsen(held, 4)
    plain, fine = coarse.downscale(4), coarse.downscale(4, climatology=known)
    errors = [float(np.sqrt(((one.t2m.values - held.t2m.values) ** 2).mean())) for one in (fine, plain)]
    assert errors[0] < 0.75 * errors[1]
