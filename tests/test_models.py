"""The models that come with the package: lawful on any field, free of units, and no worse than the kernel anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from sample_fields import plane, rain_on

import downscale
from downscale.cli.main import main
from downscale.errors import OptionError
from downscale.models import FOLDER, NAMES, factors
from downscale.models.checkpoint import load_record

# File, variable, every so many times, and the largest RMSE beside that of the kernel under the same bounds.
RAIN = [
    ("precipitation_mch_20160711_1km_5min.nc", "precip", 10, {2: 0.98, 4: 0.90}),
    ("precipitation_mch_20150515_1km_5min.nc", "precip", 10, {2: 0.98, 4: 0.90}),
    ("precipitation_fmi_20160928_1km_5min.nc", "precip", 20, {}),
    ("precipitation_bom66_20201031_500m_10min.nc", "precip", 24, {}),
    ("precipitation_arome_nw_20180501_0p025deg.nc", "pr", 6, {}),
    ("temperature_precipitation_lisflood_alps_po_5km_6h_195101.nc", "pr", 2, {}),
    ("temperature_wind_precip_era5_global_1deg.nc", "tp", 4, {}),
    ("precipitation_itu_p837_monthly_0p25deg.nc", "pr", 6, {}),
    ("precipitation_fraser_daily_1986-2018_0p1deg.nc", "pr", 20, {}),
]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_model_tells_where_it_is_from(path: Path) -> None:
    assert path.stat().st_size < 2_000_000
    spec, record = load_record(path)
    assert spec.constraint != "none"
    assert record.licence
    assert record.attribution
    assert record.data_hash.startswith("sha256:")
    assert not any(Path(str(source["label"])).is_absolute() for source in record.sources)


def test_every_name_has_a_model() -> None:
    assert all(4 in factors(name) for name in NAMES)


@pytest.mark.parametrize("factor", factors("rain"))
def test_rain_on_any_field(factor: int) -> None:
    ds = rain_on(plane(), 3, dtype="float32")
    fine = ds.downscale(factor, method="rain")
    assert ds.downscale.check(fine).passed
    assert float(fine.pr.min()) >= 0
    other = (ds * 1024).assign_attrs(ds.attrs)
    other.pr.attrs.update(ds.pr.attrs, units="m")
    many = other.downscale(factor, method="rain")
    np.testing.assert_allclose(many.pr / 1024, fine.pr, rtol=1e-4, atol=1e-5 * float(fine.pr.max()))


def test_a_factor_that_there_is_not() -> None:
    with pytest.raises(OptionError, match=r"expected a factor of the bundled model 'rain' \(.*4.*\), received 3"):
        rain_on(plane(), 1).downscale(3, method="rain")


def test_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "rain"]) == 0
    assert "CC BY 4.0" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("factor", factors("rain"))
@pytest.mark.parametrize(("name", "variable", "every", "most"), RAIN)
def test_rain_is_no_worse_than_the_kernel(
    name: str, variable: str, every: int, most: dict[int, float], factor: int
) -> None:
    """Radar networks, models and climatologies; the Swiss, Australian and global ones were never learned from."""
    ds = downscale.open_dataset(shared_data(name), chunks=None)
    rows, columns = ds[variable].dims[-2:]
    whole = {dim: slice(0, ds.sizes[dim] // factor * factor) for dim in (rows, columns)}
    ds = ds.isel({ds[variable].dims[0]: slice(0, None, every), **whole})
    beside = [n for n, v in ds.data_vars.items() if n != variable and v.ndim >= 2 and not str(n).endswith("_bnds")]
    ds = ds.drop_vars(beside)
    ds[variable] = ds[variable].clip(min=0).astype("f4")
    coarse = downscale.coarsen(ds, factor)
    known = ds[variable].notnull().coarsen({rows: factor, columns: factor}).min().values
    judged = known.repeat(factor, axis=-2).repeat(factor, axis=-1)

    def error(method: str, **options: Any) -> float:
        options = {"data_vars": variable, "bounds": (0, None), "check": "skip", **options}
        fine = coarse.downscale(factor, method=method, **options)
        assert float(fine[variable].min()) >= 0
        return float(np.sqrt(((fine[variable].values - ds[variable].values)[judged].astype("f8") ** 2).mean()))

    assert error("rain") <= most.get(factor, 1.0) * error("sobolev", transform=None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variable", "every"),
    [
        ("temperature_humidity_wind_arpege_nw_20180501_0p1deg.nc", "t2m", 4),
        ("temperature_itu_p1510_monthly_0p75deg.nc", "tas", 6),
    ],
)
def test_temperature_helps_where_it_was_never(name: str, variable: str, every: int) -> None:
    path = shared_data(name)
    ds = downscale.open_dataset(path, chunks=None)
    rows, columns = ds[variable].dims[-2:]
    whole = {dim: slice(0, ds.sizes[dim] // 4 * 4) for dim in (rows, columns)}
    ds = ds.isel({ds[variable].dims[0]: slice(0, None, every), **whole})
    ds = ds.drop_vars([n for n, v in ds.data_vars.items() if n != variable and v.ndim >= 2 and "bnds" not in str(n)])
    coarse, relief = downscale.coarsen(ds, 4), downscale.open_dataset(path, chunks=None)

    def error(method: str, **more: object) -> float:
        fine = coarse.downscale(4, method=method, data_vars=variable, check="skip", **more)
        return float(np.sqrt(((fine[variable].values - ds[variable].values).astype("f8") ** 2).mean()))

    assert error("temperature", orog=relief) <= error("sobolev")


def test_other_fields_are_refused() -> None:
    tas = downscale.sample.open("north_america")
    with pytest.raises(downscale.errors.InputError, match="expected the variable 'precip', which this model"):
        tas.downscale(4, method="rain")


def test_one_of_several_variables() -> None:
    ds = rain_on(plane(), 1, dtype="float32").assign(tas=rain_on(plane(), 1, dtype="float32").pr + 280)
    ds.tas.attrs = {"units": "K", "standard_name": "air_temperature"}
    fine = ds.downscale(4, method="rain", data_vars="pr")
    assert isinstance(fine, xr.Dataset)
    assert ds.downscale.check(fine, data_vars="pr").passed
