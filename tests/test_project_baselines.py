"""Baselines of a projection: interpolation, BCSD, and quantile mapping on the fine grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from test_project_validation import coarse_of, daily

from downscale.projections.assess import Fields, assess, write_assessment
from downscale.projections.baselines import BASELINES, baselines, bcsd, interpolate, map_quantiles, monthly_means
from downscale.projections.scores import Days, cycle_weights

YEARS = (2001, 2002)
WHOLE_YEAR = {name: {"group": "time", "interp": "nearest"} for name in ("tas", "tasrange", "tasskew", "pr")}


def test_interpolation_of_a_constant_is_the_constant_on_the_grid_of_the_observations() -> None:
    observed = daily()
    coarse = coarse_of(observed).isel(lat=slice(None, None, -1))
    fine = interpolate(coarse.assign(tas=0 * coarse.tas + 280)[["tas"]], observed)
    np.testing.assert_allclose(fine.tas, 280)
    xr.testing.assert_allclose(fine.lat.variable, observed.lat.variable)


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
def test_bcsd_adds_interpolated_anomalies_to_the_climatology(calendar: str) -> None:
    observed = daily(calendar)
    days = Days.of(observed.time)
    monthly = monthly_means(observed.tas, "lat")
    cycle = observed.tas.copy(data=np.tensordot(cycle_weights(days), monthly, 1))
    adjusted = coarse_of(observed.assign(tas=cycle + 2))[["tas"]]
    fine = bcsd(adjusted, observed, reference_period=YEARS)
    np.testing.assert_allclose(fine.tas.transpose(*observed.tas.dims), cycle + 2, atol=1e-3)
    assert fine.tas.attrs["units"] == "K"


def test_bcsd_multiplies_rain_and_keeps_dry_days_dry() -> None:
    observed = daily()
    adjusted = coarse_of(observed)[["pr"]]
    fine = bcsd(adjusted, observed, reference_period=YEARS).pr.transpose(*observed.pr.dims)
    dry = (adjusted.pr == 0).all(("lat", "lon")).values
    assert dry.any()
    assert float(fine.max()) > 0
    assert (fine >= 0).all()
    assert (fine.values[dry] == 0).all()


@pytest.mark.slow
def test_quantile_mapping_has_the_distribution_of_the_observations() -> None:
    observed = daily(years=3)
    coarse = coarse_of(observed)
    model = coarse.assign(tas=coarse.tas + 3, tasmin=coarse.tasmin + 2, tasmax=coarse.tasmax + 5, pr=coarse.pr * 2)
    for name in ("tas", "tasmin", "tasmax", "pr"):
        model[name].attrs = coarse[name].attrs
    fields = map_quantiles(
        observed, model, {"historical": model}, reference_period=(2001, 2003), settings=WHOLE_YEAR
    )["historical"]  # fmt: skip
    bias = (fields.tas.mean("time") - observed.tas.mean("time")).transpose("lat", "lon")
    assert float(np.abs(bias).max()) < 0.1
    rain = fields.pr.mean("time") / observed.pr.mean("time")
    assert float(np.abs(rain - 1).max()) < 0.2
    assert bool((fields.tasmin <= fields.tas).all())
    assert bool((fields.tas <= fields.tasmax).all())


def test_all_baselines_are_on_the_fine_grid() -> None:
    observed = daily()
    coarse = coarse_of(observed)[["tas"]]
    found = baselines(
        observed, coarse, {"historical": coarse}, {"historical": coarse}, reference_period=YEARS, settings=WHOLE_YEAR
    )
    assert tuple(found) == BASELINES
    for experiments in found.values():
        assert experiments["historical"].tas.sizes == observed.tas.sizes


def test_assessment_writes_all_files(tmp_path: Path) -> None:
    observed = daily()[["tas", "pr"]]
    coarse = coarse_of(observed)
    adjusted = {"historical": coarse, "ssp585": coarse.assign(tas=(coarse.tas + 3).assign_attrs(coarse.tas.attrs))}
    fine = {name: ds.downscale(2) for name, ds in adjusted.items()}
    result = assess(
        Fields(observed, adjusted, adjusted, fine), reference=(2001, 2001), validation=(2002, 2002),
        future=(2001, 2002), labels=("raw + bilinear", "BCSD"), paired=True, indices=False,
    )  # fmt: skip
    assert result.scores is not None
    assert result.scores.candidate.values.tolist() == ["observations", "fine", "raw + bilinear", "BCSD"]
    assert result.signals["ssp585"].candidate.values.tolist() == ["raw", "adjusted", "fine", "raw + bilinear", "BCSD"]
    assert result.signals["ssp585"].attrs["reference_period"] == "2001-2001"
    files = write_assessment(result, tmp_path, title="A projection", facts={}, recipe="output: folder")
    assert {path.name for path in files} == {path.name for path in tmp_path.iterdir()} == {
        "validation.md", "validation.csv", "validation.nc", "change_ssp585.md", "change_ssp585.nc", "report.html",
    }  # fmt: skip
