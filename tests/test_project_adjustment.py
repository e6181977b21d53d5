"""Settings, families and adjustment of single variables: agreement with xsdba, laws, calendars, bad input."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from downscale.errors import InputError, OptionError
from downscale.projections.adjustment import Adjustment, align, load, running_windows, train
from downscale.projections.families import from_adjustable, to_adjustable
from downscale.projections.settings import VariableSettings, settings_for, threshold_in

OBSERVED = "projection_berlin_obs_0p5deg_daily_1979-2014.nc"
HISTORICAL, FUTURE = (
    "projection_berlin_model_1deg_daily_1979-2014.nc",
    "projection_berlin_model_1deg_daily_2065-2100.nc",
)
TEMPERATURE = {"standard_name": "air_temperature", "units": "K"}
RAIN = {"standard_name": "precipitation_flux", "units": "mm d-1"}
CELLS = {"lat": [53.5, 52.5], "lon": [12.5, 13.5, 14.5]}
EVERY = {"group": "time", "quantiles": 20}


def daily(years: tuple[int, int], calendar: str = "proleptic_gregorian", seed: int = 0, **shape: float) -> xr.DataArray:
    """Return temperatures with an annual cycle on six cells."""
    times = xr.date_range(f"{years[0]}-01-01", f"{years[1]}-12-30", freq="D", calendar=calendar,
                          use_cftime=calendar != "proleptic_gregorian")  # fmt: skip
    noise = np.random.default_rng(seed).normal(0, shape.get("spread", 3.0), (len(times), 2, 3))
    cycle = 10 * np.sin(2 * np.pi * np.arange(len(times)) / 365)[:, None, None]
    values = (283 + shape.get("shift", 0.0) + cycle + noise).astype(np.float32)
    return xr.DataArray(values, {"time": times, **CELLS}, ("time", "lat", "lon"), "tas", TEMPERATURE)


def rain(years: tuple[int, int], dry: float, seed: int = 0, scale: float = 4.0) -> xr.DataArray:
    """Return precipitation with a fraction of dry days."""
    field, random = daily(years, seed=seed), np.random.default_rng(seed + 1)
    amounts = random.gamma(0.7, scale, field.shape) * (random.random(field.shape) > dry)
    return field.copy(data=amounts.astype(np.float32)).rename("pr").assign_attrs(RAIN)


def complete(field: xr.DataArray, **override: Any) -> VariableSettings:
    return settings_for(str(field.name), field, {**EVERY, **override})


# Settings.


@pytest.mark.parametrize(
    ("standard_name", "units", "kind", "bounds"),
    [
        ("air_temperature", "K", "additive", (None, None)),
        ("surface_air_pressure", "Pa", "additive", (None, None)),
        ("precipitation_flux", "kg m-2 s-1", "multiplicative", (0, None)),
        ("surface_downwelling_shortwave_flux_in_air", "W m-2", "multiplicative", (0, None)),
        ("surface_downwelling_longwave_flux_in_air", "W m-2", "multiplicative", (0, None)),
        ("wind_speed", "m s-1", "multiplicative", (0, None)),
        ("air_temperature_range", "K", "multiplicative", (0, None)),
        ("specific_humidity", "1", "multiplicative", (0, 1)),
        ("relative_humidity", "%", "additive", (0, 100)),
        ("relative_humidity", "1", "additive", (0, 1)),
        ("air_temperature_skewness", "1", "additive", (0, 1)),
        ("snowfall_precipitation_ratio", "1", "multiplicative", (0, 1)),
    ],
)
def test_defaults_follow_the_quantity(standard_name: str, units: str, kind: str, bounds: tuple[Any, Any]) -> None:
    field = xr.DataArray(0.0, attrs={"standard_name": standard_name, "units": units})
    settings = settings_for("x", field)
    assert (settings.method, settings.group, settings.window, settings.quantiles) == ("qdm", "dayofyear", 31, 50)
    assert (settings.kind, settings.lower, settings.upper) == (kind, *bounds)
    assert (settings.wet_threshold is not None) == (standard_name.startswith(("precip", "snowfall")))


@pytest.mark.parametrize("name", ["tas", "tasmax", "pr", "hurs", "sfcWind", "tasrange", "tasskew", "prsnratio", "huss"])
def test_defaults_follow_the_customary_name(name: str) -> None:
    assert (
        settings_for(name, xr.DataArray(0.0, attrs={"units": "K" if name[:3] == "tas" else "mm d-1"})).method == "qdm"
    )


def test_an_unknown_quantity_needs_method_and_kind() -> None:
    field = xr.DataArray(0.0, attrs={"units": "1", "standard_name": "age_of_stratospheric_air"})
    with pytest.raises(OptionError, match=r"age_of_stratospheric_air.*give method.*kind"):
        settings_for("age", field)
    settings = settings_for("age", field, {"method": "eqm", "kind": "additive"})
    assert (settings.method, settings.kind, settings.window) == ("eqm", "additive", 31)
    assert settings_for("age", field, "none").method == "none"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"window": 30}, "odd"),
        ({"window": 31, "group": "month"}, "dayofyear"),
        ({"detrend": 1}, "dqm"),
        ({"lower": 3, "upper": 2}, "lower below upper"),
        ({"transform": "logit"}, "lower, upper"),
        ({"wet_threshold": "1 mm/d"}, "multiplicative"),
        ({"method": "cdft"}, "method"),
        ({"quantils": 10}, "quantiles"),
    ],
)
def test_settings_that_contradict_are_refused(override: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        settings_for("tas", xr.DataArray(0.0, attrs=TEMPERATURE), override)


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("1 mm/d", "kg m-2 s-1", 1 / 86400), ("0.1 mm/d", "mm", 0.1), ("0.1 mm/d", "kg m-2", 0.1),
        ("1 kg m-2 s-1", "mm/day", 86400), ("2", "m s-1", 2), ("1 mm", "kg m-2", 1), ("1 mm/d", "m s-1", 1 / 86400e3),
    ],
)  # fmt: skip
def test_thresholds_convert_depths_and_masses_of_water(text: str, units: str, value: float) -> None:
    assert threshold_in(text, units) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(("text", "units"), [("1 K", "mm/d"), ("much", "mm/d"), ("-1 mm/d", "mm/d")])
def test_thresholds_in_other_units_are_refused(text: str, units: str) -> None:
    with pytest.raises(OptionError, match="expected an amount"):
        threshold_in(text, units)


# Families.

floats = st.floats(-80, 400, width=32)
shares = st.floats(-0.25, 1.25, width=32)


@given(arrays.arrays(np.float32, 7, elements=floats), arrays.arrays(np.float32, 7, elements=floats),
       arrays.arrays(np.float32, 7, elements=shares))  # fmt: skip
def test_days_and_snow_are_in_order(mean: Any, span: Any, share: Any) -> None:
    wet = np.maximum(span, 0)
    ds = xr.Dataset({"tas": ("time", mean), "tasrange": ("time", span), "tasskew": ("time", share),
                     "pr": ("time", wet), "prsnratio": ("time", share)})  # fmt: skip
    made = from_adjustable(ds)
    assert {field.dtype for field in made.values()} == {np.dtype(np.float32)}
    assert (made.tasmin.values <= mean).all()
    assert (made.tasmax.values >= mean).all()
    assert (made.prsn.values >= 0).all()
    assert (made.prsn.values <= wet).all()


@given(arrays.arrays(np.float32, (3, 5), elements=st.floats(200, 320, width=32)))
def test_families_return(days: Any) -> None:
    lowest, mean, highest = np.sort(days, axis=0)
    ds = xr.Dataset(
        {name: ("time", values) for name, values in (("tas", mean), ("tasmin", lowest), ("tasmax", highest))}
    )
    back = from_adjustable(to_adjustable(ds))
    for name in ds:
        np.testing.assert_allclose(back[name], ds[name], atol=1e-4)


def test_families_are_lazy_and_have_attributes() -> None:
    attrs = {"standard_name": "air_temperature", "units": "degC", "cell_methods": "time: mean"}
    values = np.float32([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    ds = xr.Dataset({
        "t": (("member", "time"), values, attrs),
        "tn": (("member", "time"), values - np.float32([[1], [0]]), {**attrs, "cell_methods": "time: minimum"}),
        "tx": (("member", "time"), values + np.float32([[3], [0]]), {**attrs, "cell_methods": "time: maximum"}),
        "pr": (("member", "time"), np.float32([[0, 2, 4]] * 2), RAIN),
        "prsn": (("member", "time"), np.float32([[0, 1, 4]] * 2), {**RAIN, "standard_name": "snowfall_flux"}),
    }).chunk()  # fmt: skip
    made = to_adjustable(ds)
    assert set(made.data_vars) == {"t", "tasrange", "tasskew", "pr", "prsnratio"}
    assert all(field.chunks for field in made.values())
    assert made.tasrange.attrs["units"] == "K"
    assert made.tasskew.attrs["units"] == "1"
    assert made.tasrange.attrs["standard_name"] == "air_temperature_range"
    np.testing.assert_array_equal(made.tasskew, [[0.25] * 3, [0.5] * 3])
    np.testing.assert_array_equal(made.prsnratio[0], [np.nan, 0.5, 1])
    back = from_adjustable(made)
    assert all(field.chunks for field in back.values())
    assert back.tasmin.attrs["cell_methods"] == "time: minimum"
    assert back.tasmax.attrs["units"] == "degC"
    assert back.prsn.attrs["standard_name"] == "snowfall_flux"
    assert back.prsn.attrs["units"] == RAIN["units"]
    np.testing.assert_array_equal(back.prsn, ds.prsn)


def test_a_wet_day_without_a_ratio_has_the_phase_of_its_temperature() -> None:
    ds = xr.Dataset({"pr": ("time", [1.0, 2.0, 0.0, np.nan]), "prsnratio": ("time", [np.nan] * 4),
                     "tas": ("time", [272.0, 280.0, 272.0, 272.0], TEMPERATURE)})  # fmt: skip
    np.testing.assert_array_equal(from_adjustable(ds).prsn, [1.0, 0.0, 0.0, np.nan])
    np.testing.assert_array_equal(from_adjustable(ds.drop_vars("tas")).prsn, [0.0, 0.0, 0.0, np.nan])


# Agreement with xsdba.


def berlin(name: str) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Return coarse observations, the historical and the future model."""
    observed, *model = (xr.open_dataset(shared_data(file))[name].load() for file in (OBSERVED, HISTORICAL, FUTURE))
    coarse = observed.coarsen(lat=2, lon=2).mean().assign_coords(model[0].drop_vars("time").coords)
    return coarse.assign_attrs(observed.attrs), *model


@pytest.mark.parametrize(
    ("name", "override", "options"),
    [
        pytest.param("tas", {}, {"group": "dayofyear", "kind": "+"}, marks=pytest.mark.slow),
        ("pr", {"group": "month", "wet_threshold": "1 mm/d", "interp": "nearest"}, {"group": "month", "kind": "*"}),
        ("rsds", {"group": "time", "method": "eqm", "interp": "linear"}, {"group": "time", "kind": "*"}),
        ("ps", {"group": "time", "method": "scaling"}, {"group": "time", "kind": "+"}),
    ],
)
def test_it_agrees_with_xsdba(name: str, override: dict[str, Any], options: dict[str, Any]) -> None:
    import xsdba

    observed, historical, future = berlin(name)
    settings = settings_for(name, observed, override)
    made = train(observed, historical, settings).adjust(future)
    kinds = {"qdm": xsdba.QuantileDeltaMapping, "eqm": xsdba.EmpiricalQuantileMapping, "scaling": xsdba.Scaling}
    group = "time" if options["group"] == "time" else f"time.{options['group']}"
    arguments = {"group": xsdba.Grouper(group, settings.window or 1), "kind": options["kind"]}
    if settings.method != "scaling":
        arguments["nquantiles"] = 50
    if name == "pr":
        arguments |= dict.fromkeys(
            ("adapt_freq_thresh", "jitter_under_thresh_value"), repr(threshold_in("1 mm/d", "kg m-2 s-1"))
        )
    records = [part.transpose("time", "lat", "lon").assign_attrs(units="1") for part in (observed, historical, future)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.random.seed((0, 0))  # noqa: NPY002
        trained = kinds[str(settings.method)].train(records[0], records[1], **arguments)
        np.random.seed((0, 1))  # noqa: NPY002
        ranks = {"rank_window": settings.window is not None} if settings.method == "qdm" else {}
        if (settings.method, options["kind"]) == ("qdm", "*"):
            records[2] = xsdba.processing.jitter_under_thresh(records[2], "1e-30")
        expected = trained.adjust(records[2], interp=settings.interp, **ranks).transpose("time", "lat", "lon")
    assert made.dims == future.dims
    assert made.dtype == future.dtype
    assert made.attrs["units"] == observed.attrs["units"]
    scale = float(abs(expected).max())
    np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-6 * scale if name == "pr" else 0)


def test_a_scenario_that_is_only_warmer_stays_that_much_warmer() -> None:
    observed, model = daily((2000, 2003), seed=1), daily((2000, 2003), seed=2, shift=2, spread=4)
    adjustment = train(observed, model, complete(observed))
    present, future = adjustment.adjust(model), adjustment.adjust(model + 3)
    np.testing.assert_allclose(future, present + 3, atol=1e-3)
    np.testing.assert_allclose(present.mean(), observed.mean(), atol=0.05)
    np.testing.assert_allclose(present.std("time"), observed.std("time"), rtol=0.03)


@pytest.mark.parametrize("dry", [0.2, 0.8])
def test_the_frequency_of_wet_days_is_that_of_the_observations(dry: float) -> None:
    observed, model = rain((2000, 2005), 0.5, seed=1), rain((2000, 2005), dry, seed=2, scale=6)
    made = train(observed, model, complete(observed, quantiles=50)).apply(model)
    assert np.isfinite(made.field).all()
    assert (made.field >= 0).all()
    assert made.counts.kept == 0
    np.testing.assert_allclose((made.field > 0.1).mean("time"), (observed > 0.1).mean("time"), atol=0.005)
    np.testing.assert_allclose(made.field.mean("time"), observed.mean("time"), rtol=0.02)


def test_random_numbers_have_a_seed_and_leave_those_of_the_caller() -> None:
    observed, model = rain((2000, 2002), 0.3, seed=1), rain((2000, 2002), 0.7, seed=2)
    np.random.seed(7)  # noqa: NPY002
    expected = np.random.get_state()[1]  # noqa: NPY002
    settings = complete(observed)
    parts = (np.full(6, number) for number in (3, 3, 4))
    first, second, other = (train(observed, model, settings, parts=part).adjust(model) for part in parts)
    np.testing.assert_array_equal(np.random.get_state()[1], expected)  # noqa: NPY002
    assert first.identical(second)
    assert not first.equals(other)


@pytest.mark.parametrize("method", ["qdm", "dqm", "eqm", "scaling", "none"])
@pytest.mark.parametrize("group", ["time", "season"])
def test_a_saved_adjustment_adjusts_the_same(tmp_path: Path, method: str, group: str) -> None:
    observed, model = rain((2000, 2002), 0.3, seed=1), rain((2000, 2002), 0.6, seed=2)
    observed[:, 0, 0] = np.nan
    adjustment = train(observed, model, complete(observed, method=method, group=group, interp="nearest"))
    adjustment.save(tmp_path / "pr.nc")
    restored = load(tmp_path / "pr.nc")
    assert (restored.settings, restored.counts, restored.notes) == (adjustment.settings, adjustment.counts, ())
    one, other = adjustment.apply(model), restored.apply(model)
    assert one.field.identical(other.field)
    assert one.counts == other.counts
    assert method == "none" or not one.field.equals(model)
    assert [path.name for path in tmp_path.iterdir()] == ["pr.nc"]
    with xr.open_dataset(tmp_path / "pr.nc") as ds:
        assert list(ds.attrs) == ["downscale_adjustment"]
        assert "py/object" not in str(ds.attrs)


def test_other_files_are_refused(tmp_path: Path) -> None:
    daily((2000, 2001)).to_netcdf(tmp_path / "tas.nc")
    with pytest.raises(InputError, match=r"file of an adjustment.*tas\.nc"):
        load(tmp_path / "tas.nc")


def test_parts_do_not_depend_on_how_cells_are_divided() -> None:
    observed, model = rain((2000, 2002), 0.3, seed=1), rain((2000, 2002), 0.7, seed=2)
    observed[:, 0, 1] = np.nan
    settings, numbers = complete(observed), np.array([[0, 0, 1], [0, 1, 1]])
    whole = train(observed, model, settings, parts=numbers)
    pieces = [[part.isel(lat=[row]) for part in (observed, model)] for row in (0, 1)]
    both = train(observed, model, settings, parts=np.array([[4, 4, 4], [9, 9, 9]])).adjust(model)
    for row, (obs, mod) in enumerate(pieces):
        alone = train(obs, mod, settings, parts=np.full(3, (4, 9)[row])).adjust(mod)
        np.testing.assert_array_equal(both.isel(lat=[row]), alone)
    assert whole.adjust(model).notnull().all()


# Cells and bounds.


def test_cells_without_observations_or_rain_keep_their_values() -> None:
    observed, model = rain((2000, 2002), 0.4, seed=1), rain((2000, 2002), 0.5, seed=2)
    observed[:, 0, 1] = np.nan
    observed[:-300, 1, 0] = np.nan
    observed[:, 1, 2] = 0
    model[:, 0, 2] = 0
    model[7, 0, 0] = np.nan
    adjustment = train(observed, model, complete(observed))
    np.testing.assert_array_equal(adjustment.adjusted, [[True, False, False], [False, True, False]])
    assert (adjustment.counts.cells, adjustment.counts.unobserved, adjustment.counts.dry) == (6, 2, 2)
    made = adjustment.adjust(model)
    for cell in ((0, 1), (0, 2), (1, 0), (1, 2)):
        np.testing.assert_array_equal(made[:, *cell], model[:, *cell])
    assert np.isnan(made[:, 0, 0]).sum() == 1
    assert not made[:, 1, 1].equals(model[:, 1, 1])


@pytest.mark.parametrize("transform", ["none", "logit"])
def test_values_outside_the_bounds_are_counted_and_clipped(transform: str) -> None:
    attrs = {"standard_name": "relative_humidity", "units": "%"}
    observed, model = (
        daily((2000, 2002), seed=seed, shift=shift).rename("hurs").assign_attrs(attrs) - 193
        for seed, shift in ((1, 0), (2, 5))
    )
    observed, model = observed.assign_attrs(attrs).clip(0, 100), model.assign_attrs(attrs)
    made = train(observed, model, complete(observed, transform=transform)).apply(model + 4)
    assert float(made.field.max()) <= 100
    assert float(made.field.min()) >= 0
    assert (made.counts.clipped > 0) == (transform == "none")


def test_units_of_the_model_become_those_of_the_observations() -> None:
    observed, model = daily((2000, 2002), seed=1), daily((2000, 2002), seed=2, shift=3)
    celsius = (model - 273.15).assign_attrs(units="degC")
    settings = complete(observed)
    expected, made = (train(observed, part, settings).adjust(part) for part in (model, celsius))
    assert made.attrs["units"] == "K"
    np.testing.assert_allclose(made, expected, atol=1e-3)


# Days and calendars.


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard"])
def test_observations_take_the_calendar_of_the_model(calendar: str) -> None:
    observed, model = daily((2000, 2004), seed=1), daily((2000, 2003), calendar, seed=2, shift=3)
    reference, historical, notes = align(observed, model)
    assert reference.sizes == historical.sizes == model.sizes
    assert (reference.time.dt.calendar, reference.time.dtype) == (calendar, model.time.dtype)
    assert float(reference.isnull().any(("lat", "lon")).mean()) < 0.01
    # The same season: the correlation with the annual cycle of the model remains.
    both = reference.mean(("lat", "lon")), historical.mean(("lat", "lon"))
    assert float(xr.corr(*both)) > 0.9
    assert any(calendar in note for note in notes)
    made = train(observed, model, complete(observed, group="month", interp="nearest")).adjust(model)
    assert made.time.identical(model.time)
    np.testing.assert_allclose(made.mean(), observed.mean(), atol=0.1)


def test_days_match_whatever_their_hour() -> None:
    observed, model = daily((2000, 2002), seed=1), daily((2000, 2002), seed=2)
    noon = model.assign_coords(time=model.time + np.timedelta64(12, "h"))
    settings = complete(observed)
    np.testing.assert_array_equal(
        train(observed, noon, settings).adjust(noon), train(observed, model, settings).adjust(model)
    )


@given(st.integers(366, 9000), st.integers(366, 20000))
def test_each_step_has_one_window(length: int, size: int) -> None:
    times = xr.DataArray(np.datetime64("1950-06-01", "ns") + np.arange(size) * np.timedelta64(1, "D"), dims="time")
    found = running_windows(times, length)
    covered = np.concatenate([np.arange(size)[steps] for _, steps in found])
    np.testing.assert_array_equal(covered, np.arange(size))
    for window, steps in found:
        assert 0 <= window.start <= steps.start < steps.stop <= window.stop <= size
        assert window.stop - window.start == (length if len(found) > 1 else size) or size <= 1.5 * length


def test_a_long_scenario_is_adjusted_in_windows() -> None:
    observed, model = daily((2000, 2009), seed=1), daily((2000, 2009), seed=2, shift=2)
    future = daily((2010, 2039), seed=3, shift=2)
    future = future + xr.DataArray(np.linspace(0, 9, future.time.size, dtype=np.float32), dims="time")
    adjustment = train(observed, model, complete(observed))
    made = adjustment.adjust(future.assign_attrs(TEMPERATURE))
    for window, steps in running_windows(future.time, adjustment.length):
        part = adjustment.adjust(future.isel(time=window))
        np.testing.assert_array_equal(made.isel(time=steps), part.sel(time=future.time[steps]))
    # The trend remains.
    change = made.sel(time=slice("2030", None)).mean() - made.sel(time=slice(None, "2019")).mean()
    np.testing.assert_allclose(
        change, future.sel(time=slice("2030", None)).mean() - future.sel(time=slice(None, "2019")).mean(), atol=0.1
    )


# Bad input.


def trained() -> tuple[Adjustment, xr.DataArray]:
    observed, model = daily((2000, 2001), seed=1), daily((2000, 2001), seed=2)
    return train(observed, model, complete(observed)), model


@pytest.mark.parametrize(
    ("observed", "model", "words"),
    [
        (daily((2000, 2001)), daily((2005, 2006)), "common year.*2000-01-01 to 2001-12-30"),
        (daily((2000, 2001)), daily((2001, 2003)).isel(time=slice(0, 300)), "at least a year"),
        (daily((2000, 2001)).drop_vars("time"), daily((2000, 2001)), "dates along 'time'"),
        (daily((2000, 2001))[::-1], daily((2000, 2001)), "in order"),
        (daily((1900, 1999))[::30], daily((1900, 1999)), "longer steps"),
        (daily((2000, 2001)).isel(lon=slice(2)), daily((2000, 2001)), "6 cells.*received 4"),
        (daily((2000, 2001)), daily((2000, 2001)).assign_attrs(units="mm"), "units that convert to 'K'.*'mm'"),
    ],
)
def test_records_that_do_not_fit_are_refused(observed: xr.DataArray, model: xr.DataArray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        train(observed, model, complete(daily((2000, 2000))))


def test_another_calendar_or_grid_than_in_the_training_is_refused() -> None:
    adjustment, model = trained()
    with pytest.raises(InputError, match=r"calendar 'proleptic_gregorian'.*'360_day'"):
        adjustment.adjust(daily((2000, 2001), "360_day"))
    with pytest.raises(InputError, match="6 cells"):
        adjustment.adjust(model.isel(lat=[0]))


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xsdba", None)
    with pytest.raises(InputError, match=r"needs xsdba: pip install 'downscale-climate\[project\]'"):
        trained()
