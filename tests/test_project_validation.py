"""Validation and change signals: laws, references, calendars, grids, tables and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import downscale
from downscale.errors import GridError, InputError, OptionError
from downscale.projections import cells
from downscale.projections.indices import annual_indices
from downscale.projections.page import write_page
from downscale.projections.signal import change_signal, signal_error
from downscale.projections.validation import to_csv, to_markdown, validate, without_trend, write_tables

CALENDARS = ("standard", "noleap", "360_day")
SHAPE = (4, 6)


def daily(calendar: str = "standard", years: int = 2, seed: int = 0, plane: bool = False) -> xr.Dataset:
    """Return smooth random temperatures and rain on a fine grid whose rows descend."""
    end = f"{2000 + years}-12-{30 if calendar == '360_day' else 31}"
    time = xr.date_range("2001-01-01", end, calendar=calendar, use_cftime=calendar != "standard")
    rng, days = np.random.default_rng(seed), len(time)
    coords: dict[str, Any] = {"time": ("time", time)}
    names = ("y", "x") if plane else ("lat", "lon")
    for dim, size, step in zip(names, SHAPE, (-1.0, 1.0), strict=True):
        centres = 50.0 + step * (np.arange(size) + 0.5)
        words = {"lat": ("latitude", "degrees_north"), "lon": ("longitude", "degrees_east"),
                 "y": ("projection_y_coordinate", "m"), "x": ("projection_x_coordinate", "m")}[dim]  # fmt: skip
        scale = 1000.0 if plane else 1.0
        coords[dim] = (dim, scale * centres, {"standard_name": words[0], "units": words[1]})
    season = 10 * np.cos(2 * np.pi * np.arange(days) / 365)[:, None, None]
    weather = np.cumsum(rng.standard_normal((days, *SHAPE)), axis=2) + 3 * rng.standard_normal((days, 1, 1))
    mean = 283 + np.add.outer(0.5 * np.arange(SHAPE[0]), 0.3 * np.arange(SHAPE[1])) + season + weather
    rain = rng.gamma(0.6, 6.0, (days, *SHAPE)) * (rng.random((days, 1, 1)) < 0.5)
    air = {"units": "K", "standard_name": "air_temperature"}
    fields = {
        "tas": (mean, air), "tasmin": (mean - 4, air), "tasmax": (mean + 5, air),
        "pr": (rain / 86400, {"units": "kg m-2 s-1", "standard_name": "precipitation_flux"}),
    }  # fmt: skip
    return xr.Dataset({key: (("time", *names), values, attrs) for key, (values, attrs) in fields.items()}, coords)


def coarse_of(ds: xr.Dataset) -> xr.Dataset:
    return downscale.coarsen(ds, 2)


@pytest.mark.parametrize("calendar", CALENDARS)
def test_equal_fields_have_no_bias_on_any_calendar(calendar: str) -> None:
    observed = daily(calendar)
    observed["tas"][:, 0, 0] = np.nan
    flipped = observed.isel(lat=slice(None, None, -1)).chunk({"time": 100})
    scores = validate(observed, {"same": flipped}, coarse=coarse_of(observed), paired=True)
    for name, array in scores.data_vars.items():
        if str(name).endswith(("_bias", "_error", "_percent", "_rmse", "_distance", "_ralsd")):
            finite = array.values[np.isfinite(array.values)]
            np.testing.assert_allclose(finite, 0.0, atol=1e-9, err_msg=str(name))
    assert float(scores.tas_block_edge_ratio[1]) == 1
    assert {"tas_mean_bias", "pr_wet_frequency_percent", "TXx_bias", "CDD_percent", "pr_psd"} <= set(scores.data_vars)
    assert scores.tas_mean_map.sel(candidate="same").isnull().sum() == 1


def test_constant_shift_and_factor() -> None:
    observed = daily()
    other = observed.assign(tas=observed.tas + 2, pr=observed.pr * 1.5)
    scores = validate(observed, {"other": other}, coarse=coarse_of(observed), variables=["tas", "pr"], indices=False)
    for key in ("mean", "p02", "p98", "p999"):
        assert float(scores[f"tas_{key}_bias"][1]) == pytest.approx(2)
        assert float(scores[f"tas_{key}_error"][1]) == pytest.approx(2)
    assert float(scores.tas_annual_cycle_rmse[1]) == pytest.approx(2)
    assert float(scores.tas_wasserstein_distance[1]) == pytest.approx(2)
    assert float(scores.tas_standard_deviation_bias[1]) == pytest.approx(0, abs=1e-9)
    assert float(scores.pr_mean_percent[1]) == pytest.approx(50)
    assert float(scores.pr_p98_percent[1]) == pytest.approx(50)
    assert float(scores.pr_ralsd[1]) == pytest.approx(20 * np.log10(1.5))
    area = downscale.cell_area(observed.tas).values
    mean = (observed.tas.mean("time").values * area).sum() / area.sum()
    assert float(scores.tas_mean[0]) == pytest.approx(mean)
    assert scores.pr_mean.attrs["units"] == "mm d-1"
    assert "tas_rmse" not in scores


def test_other_units_and_names_of_axes_are_those_of_the_observations() -> None:
    observed = daily()
    celsius = (observed.tas - 273.15).assign_attrs({**observed.tas.attrs, "units": "degC"})
    amount = (observed.pr * 86400).assign_attrs(units="mm", standard_name="precipitation_amount")
    other = observed.assign(tas=celsius, pr=amount).rename(lat="latitude", lon="longitude")
    scores = validate(observed, {"other": other}, coarse=coarse_of(observed), variables=["tas", "pr"], indices=False)
    assert float(scores.tas_mean_error[1]) == pytest.approx(0, abs=1e-9)
    assert float(scores.pr_mean_error[1]) == pytest.approx(0, abs=1e-9)


def test_calendars_may_differ_and_periods_are_years() -> None:
    observed = daily(years=3)
    other = daily("360_day", years=3)
    scores = validate(observed, {"model": other}, coarse=coarse_of(observed), period=(2002, 2003), indices=False)
    assert scores.attrs["period"] == "2002-2003"
    later = observed.isel(time=observed.time.dt.year.values >= 2002)
    assert float(scores.tas_p98[0]) == pytest.approx(float(
        validate(later, {}, coarse=coarse_of(observed), indices=False).tas_p98[0]
    ))  # fmt: skip


def test_results_do_not_depend_on_the_size_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    observed, other = daily(), daily(seed=1)
    whole = validate(observed, {"other": other}, coarse=coarse_of(observed), paired=True)
    monkeypatch.setattr(cells, "MOST_VALUES", 5000)
    parts = validate(observed.chunk(), {"other": other.chunk()}, coarse=coarse_of(observed), paired=True)
    xr.testing.assert_allclose(whole, parts, rtol=1e-9)


def test_projected_grids_and_grids_that_do_not_nest() -> None:
    observed = daily(plane=True)
    kernel = coarse_of(observed).downscale(2)
    scores = validate(observed, {"kernel": kernel}, coarse=coarse_of(observed), variables="tas", indices=False)
    assert float(scores.tas_mean_bias[1]) == pytest.approx(0, abs=1e-6)
    target = daily()
    coarse = grid_of(3, 4).assign(tas=(("lat", "lon"), np.zeros((3, 4))))
    again = validate(target, {"same": target}, coarse=coarse, variables="tas", indices=False)
    assert float(again.tas_block_edge_ratio[1]) == 1


def grid_of(rows: int, columns: int) -> xr.Dataset:
    lat, lon = 50 - 4 / rows * (np.arange(rows) + 0.5), 50 + 6 / columns * (np.arange(columns) + 0.5)
    return xr.Dataset(coords={
        "lat": ("lat", lat, {"units": "degrees_north", "standard_name": "latitude"}),
        "lon": ("lon", lon, {"units": "degrees_east", "standard_name": "longitude"}),
    })  # fmt: skip


def test_piecewise_constant_fields_have_block_edges() -> None:
    observed = daily()
    coarse = coarse_of(observed)
    fields = {"constant": coarse.downscale(2, method="conservative"), "kernel": coarse.downscale(2)}
    scores = validate(observed, fields, coarse=coarse, variables="tas", indices=False)
    constant, kernel = scores.tas_block_edge_index.values[1:]
    assert constant > 1e6
    assert kernel < 3


@pytest.mark.parametrize("calendar", CALENDARS)
def test_indices_are_those_of_numpy(calendar: str) -> None:
    observed = daily(calendar)
    fields = {name: observed[name].load() for name in ("tasmin", "tasmax", "pr")}
    found = annual_indices(fields)
    years = observed.time.dt.year.values
    rain = observed.pr.values * 86400
    for i, year in enumerate(np.unique(years)):
        part, high = rain[years == year], observed.tasmax.values[years == year]
        np.testing.assert_allclose(found["Rx1day"][i], part.max(axis=0))
        np.testing.assert_allclose(found["TXx"][i], high.max(axis=0))
        np.testing.assert_allclose(found["SU"][i], (high > 298.15).sum(axis=0))
        np.testing.assert_allclose(found["FD"][i], (observed.tasmin.values[years == year] < 273.15).sum(axis=0))
        np.testing.assert_allclose(found["R10mm"][i], (part >= 10).sum(axis=0))
        wet = part >= 1
        np.testing.assert_allclose(found["SDII"][i], np.where(wet, part, 0).sum(axis=0) / wet.sum(axis=0))
        sums = np.stack([part[k : len(part) - 4 + k] for k in range(5)]).sum(axis=0)
        if i == 0:
            np.testing.assert_allclose(found["Rx5day"][i], sums.max(axis=0))
        longest = [max(map(len, "".join("d" if dry else " " for dry in ~wet[:, j, k]).split()))
                   for j, k in np.ndindex(SHAPE)]  # fmt: skip
        np.testing.assert_allclose(found["CDD"][i].values.ravel(), longest)
    np.testing.assert_allclose(found["DTR"], 9.0)
    assert "pr" not in found
    assert set(annual_indices({"pr": observed.pr})) == {"Rx1day", "Rx5day", "R10mm", "SDII", "CDD", "CWD", "R95pTOT"}


def test_cells_without_data_and_incomplete_years_have_no_index() -> None:
    observed = daily().isel(time=slice(0, 500))
    observed["tasmax"][:, 0, 0] = np.nan
    found = annual_indices({"tasmax": observed.tasmax})["TXx"]
    assert found[0].isnull().sum() == 1
    assert found[1].isnull().all()


def test_trend_is_removed() -> None:
    annual = np.add.outer(0.3 * np.arange(10), np.array([1.0, 2.0]))
    annual[3, 0] = np.nan
    np.testing.assert_allclose(np.nan_to_num(without_trend(annual)), 0, atol=1e-12)


def test_change_of_a_constant_shift_is_the_shift() -> None:
    reference = {"raw": coarse_of(daily()), "fine": daily()}
    future = {label: ds.assign(tas=ds.tas + 3, pr=ds.pr * 2) for label, ds in reference.items()}
    signal = change_signal(reference, future, coarse=reference["raw"], variables=["tas", "pr"])
    for key in ("mean", "p98", "p98_within"):
        np.testing.assert_allclose(signal[f"tas_{key}_change"], 3)
        np.testing.assert_allclose(signal[f"pr_{key}_percent"], 100)
    assert (signal.pr_wet_frequency_change >= 0).all()
    assert signal.tas_mean_change.dims == ("candidate", "lat", "lon")
    assert "change signal" in to_markdown(signal)


@pytest.mark.parametrize("factor", [2, 3])
def test_conserved_fields_have_the_signal_of_the_coarse_ones(factor: int) -> None:
    coarse, later = (coarse_of(daily(seed=seed)).astype("f4") for seed in (0, 1))
    pairs = [{"adjusted": ds, "fine": downscale.downscale(ds, factor).chunk({"time": 90})} for ds in (coarse, later)]
    signal = change_signal(*pairs, coarse=coarse)
    for name in ("tas", "pr"):
        assert signal_error(signal, name) < 1e-6
    np.testing.assert_allclose(*(signal.tas_p98_change.sel(candidate=one) for one in ("fine", "adjusted")), atol=1e-3)


def test_tables_in_all_formats(tmp_path: Path) -> None:
    observed = daily()
    scores = validate(observed, {"kernel": coarse_of(observed).downscale(2)}, coarse=coarse_of(observed))
    text = to_markdown(scores)
    assert "### pr" in text
    assert "| mean, bias (%) " in text
    assert "TXx: maximum of daily maximum temperature, bias (K)" in text
    assert len(to_csv(scores).splitlines()) > 100
    paths = write_tables(scores, tmp_path)
    assert sorted(path.name for path in paths) == ["validation.csv", "validation.md", "validation.nc"]
    with xr.open_dataset(tmp_path / "validation.nc") as stored:
        assert to_markdown(stored) == text


def test_refusals() -> None:
    observed = daily()
    coarse = coarse_of(observed)
    with pytest.raises(OptionError, match="another label than 'observations'"):
        validate(observed, {"observations": observed}, coarse=coarse)
    with pytest.raises(InputError, match=r"model: expected the variable 'pr', received 'tas'"):
        validate(observed, {"model": observed[["tas"]]}, coarse=coarse, variables="pr")
    with pytest.raises(InputError, match="model: expected days from 1999 to 2000, received 2001 to 2002"):
        change_signal({"model": coarse}, {"model": coarse}, coarse=coarse, reference_period=(1999, 2000))
    with pytest.raises(GridError, match="model: expected the grid of the observations"):
        validate(observed, {"model": coarse}, coarse=coarse)
    with pytest.raises(InputError, match="same candidates in both periods"):
        change_signal({"a": coarse}, {"b": coarse}, coarse=coarse)
    with pytest.raises(InputError, match="paired: expected as many days"):
        validate(observed, {"model": observed.isel(time=slice(5, None))}, coarse=coarse, paired=True)
    kelvin = observed.assign(tas=observed.tas.assign_attrs(units="m"))
    with pytest.raises(InputError, match="model: expected 'tas' in 'K', received 'm'"):
        validate(observed, {"model": kelvin}, coarse=coarse, variables="tas")


def test_page_is_one_file_with_tables_and_pictures(tmp_path: Path) -> None:
    observed = daily().isel(time=slice(0, 370))
    coarse = coarse_of(observed)
    fine = coarse.downscale(2)
    scores = validate(observed, {"<fine>": fine}, coarse=coarse, variables="tas", indices=False)
    parts = {"raw": coarse, "adjusted": coarse, "fine": fine}
    signal = change_signal(parts, parts, coarse=coarse, variables="tas")
    report = downscale.check_conservation(coarse, fine)
    path = tmp_path / "report.html"
    write_page(path, title="A projection", facts={"Periods": {"reference": "2001"}}, choices=["tas: qdm & additive"],
               conservation={"historical": report}, scores=scores, signals={"ssp585": signal})  # fmt: skip
    page = path.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5
    assert "&lt;fine&gt;" in page
    assert "<fine>" not in page
    assert "tas: qdm &amp; additive" in page
    assert "Change signal: ssp585" in page
    assert "differs from that of the adjusted one by at most" in page
    assert 'class="good">conserved' in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
