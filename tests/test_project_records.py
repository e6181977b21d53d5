"""Records of projections: common variables, units, periods and cells; recipes that name them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from project_fields import daily, model

from downscale.errors import DownscaleError, GridError, InputError, OptionError
from downscale.projections.recipe import Periods, load_project, models_of
from downscale.projections.records import ModelRecords, align_records

OBSERVED = daily((2001, 2003))
HISTORICAL = model((2001, 2003))


def align(experiments: dict[str, xr.Dataset] | None = None, observed: xr.Dataset = OBSERVED, names: Any = None,
          **periods: Any) -> ModelRecords:  # fmt: skip
    return align_records(
        "M", experiments or {"historical": HISTORICAL}, observed, names, Periods.model_validate(periods)
    )


def test_records_in_common_units_keep_their_values() -> None:
    celsius = HISTORICAL.assign(tas=(HISTORICAL.tas - 273.15).assign_attrs(HISTORICAL.tas.attrs, units="degC"))
    depth = OBSERVED.assign(pr=(OBSERVED.pr * 86400).assign_attrs(
        standard_name="lwe_precipitation_rate", units="mm day-1"))  # fmt: skip
    records = align({"historical": celsius}, depth)
    np.testing.assert_allclose(records.historical.tas, HISTORICAL.tas, rtol=1e-6)
    np.testing.assert_allclose(records.historical.pr, HISTORICAL.pr * 86400, rtol=1e-6)
    assert records.historical.pr.attrs["units"] == "mm day-1"
    assert any("tas converted from degC to K" in note for note in records.notes)
    assert any("pr converted from kg m-2 s-1 to mm day-1" in note for note in records.notes)


def test_a_depth_of_water_becomes_a_mass() -> None:
    depth = HISTORICAL.assign(pr=(HISTORICAL.pr / 1000).assign_attrs(standard_name="lwe_precipitation_rate",
                                                                     units="m s-1"))  # fmt: skip
    np.testing.assert_allclose(align({"historical": depth}).historical.pr, HISTORICAL.pr, rtol=1e-6)


def test_variables_of_another_name_are_found_by_their_standard_name() -> None:
    records = align({"historical": HISTORICAL.rename(tas="t2m")})
    np.testing.assert_array_equal(records.historical.tas, HISTORICAL.tas)
    assert any("t2m is tas of the observations" in note for note in records.notes)


def test_daily_extremes_are_other_quantities_than_their_mean() -> None:
    with pytest.raises(InputError, match="'tasmin' in historical of M"):
        align(observed=daily((2001, 2003), names=("tas", "tasmin")), names=["tasmin"])


def test_periods_cut_the_records() -> None:
    future = model((2050, 2055))
    parts = {"historical": HISTORICAL, "ssp585": future}
    records = align(parts, reference="2001-2002", validation=2003, future=[2052, 2053])
    assert records.reference == (2001, 2002)
    assert np.unique(records.experiments["ssp585"].time.dt.year).tolist() == [2052, 2053]
    assert records.observed.sizes["time"] == records.historical.sizes["time"] == 365 * 3


@pytest.mark.parametrize("roll", [0, 4])
@pytest.mark.parametrize("descending", [False, True])
def test_only_cells_with_observations_are_kept(roll: int, descending: bool) -> None:
    """A global model in longitudes from 0 to 360 has the cells around the observations, which cross the meridian."""
    observed = OBSERVED.assign_coords(lon=OBSERVED.lon - 11.0)
    lat, lon = np.arange(35.5, 47), np.arange(0.5, 360)
    values = np.random.default_rng(0).random((len(HISTORICAL.time), lat.size, lon.size)).astype(np.float32) + 280
    ds = xr.Dataset(
        {"tas": (("time", "lat", "lon"), values, HISTORICAL.tas.attrs)},
        {"time": HISTORICAL.time, "lat": ("lat", lat, HISTORICAL.lat.attrs), "lon": ("lon", lon, HISTORICAL.lon.attrs)},
    ).roll(lon=roll, roll_coords=False)
    ds = ds.isel(lat=slice(None, None, -1)) if descending else ds
    kept = align({"historical": ds}, observed[["tas"]]).historical
    assert sorted(kept.lat.values) == [40.5, 41.5]
    assert kept.lon.values.tolist() == [-0.5, 0.5]
    for lon_value, own in ((-0.5, 359.5), (0.5, 0.5)):
        np.testing.assert_array_equal(kept.tas.sel(lon=lon_value, lat=40.5), ds.tas.sel(lon=own, lat=40.5))


FAULTS: list[tuple[dict[str, Any], type[DownscaleError], str]] = [
    ({"observed": daily((1990, 1992))}, InputError, "common years .* received 1990-1992 and 2001-2003"),
    ({"names": ["hurs"]}, InputError, "'hurs' in the observations"),
    ({"experiments": {"historical": HISTORICAL[["tas"]]}, "names": ["pr"]}, InputError, "'pr' in historical of M"),
    ({"observed": OBSERVED.assign(tas=OBSERVED.tas.assign_attrs(units="m"))}, InputError, "one quantity|converted"),
    ({"observed": OBSERVED.assign(tas=OBSERVED.tas.drop_attrs())}, InputError, "units of 'tas'"),
    ({"observed": model((2001, 2003)), "experiments": {"historical": OBSERVED}}, GridError, "smaller than those of M"),
    ({"experiments": {"historical": HISTORICAL, "ssp": model((2002, 2004))}}, InputError, "after the reference period"),
    ({"reference": "2004-2005"}, InputError, "a year of days in the reference period"),
    ({"observed": OBSERVED.isel(time=slice(0, None, 2)), "experiments": {
        "historical": HISTORICAL.resample(time="12h").ffill()}}, InputError, "daily values"),
    ({"observed": OBSERVED.assign_coords(lon=OBSERVED.lon + 90)}, GridError, "received none"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "words"), FAULTS)
def test_faults_are_one_line(options: dict[str, Any], error: type[DownscaleError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        align(**options)
    assert "\n" not in str(caught.value)


CONTENT = {"models": {"M": {"historical": "a.nc"}}, "observations": "o.nc", "output": {"path": "out"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": {"M": {"ssp585": "a.nc"}}}, "'historical'"),
        ({"periods": {"reference": "2001-2005", "validation": "2005-2010"}}, "apart from"),
        ({"periods": {"validation": "2005-2010"}}, "reference together with validation"),
        ({"periods": {"reference": "2010-2001"}}, "first and a last year"),
        ({"output.path": "out.nc"}, "name of a folder"),
        ({"downscale": {"climatology": "x.nc"}}, "no climatology"),
        ({"period": {}}, "among .* received 'period'; did you mean 'periods'"),
        ({"variables": {"tas": {"methd": "qdm"}}}, "did you mean .*method"),
    ],
)
def test_faults_of_recipes_are_one_line(change: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        load_project(CONTENT, change)
    assert "\n" not in str(caught.value)


def test_models_and_experiments_are_those_of_cmip_names(tmp_path: Any) -> None:
    for name in ("tas_day_A_historical_r1i1p1f1_gn_19790101-20141231.nc", "tas_day_A_ssp585_r1i1p1f1_gn_2015-2100.nc",
                 "pr_day_A_historical_r1i1p1f1_gn_1979-2014.nc", "tas_day_B_historical_r2i1p1f1_gn_1979-2014.nc"):
        (tmp_path / name).touch()
    found = models_of(str(tmp_path / "*.nc"))
    assert {model: {key: len(paths) for key, paths in parts.items()} for model, parts in found.items()} == {
        "A": {"historical": 2, "ssp585": 1}, "B": {"historical": 1}}  # fmt: skip
    with pytest.raises(InputError, match="CMIP name"):
        models_of(__file__)
