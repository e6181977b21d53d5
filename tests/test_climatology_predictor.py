"""A climatology as a static input of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from learned_models import rain
from sample_fields import same_bits
from training_recipes import recipe_content

import downscale
from downscale.errors import InputError, OptionError
from downscale.fields.aggregate import Aggregation
from downscale.models.checkpoint import load
from downscale.models.static_features import static_features
from downscale.nn.spec import ModelSpec, Variable
from downscale.training.fit import train
from downscale.training.schema import parse_training

FACTOR = 4


def sample() -> xr.Dataset:
    return downscale.sample.open("north_america")[["tas"]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    """A model that learned the sample with the mean of its first decades, and this mean."""
    folder = tmp_path_factory.mktemp("predictor")
    mean = sample().isel(time=slice(0, 8)).mean("time", keep_attrs=True)
    mean.to_netcdf(folder / "mean.nc")
    content = recipe_content(folder, steps=30, round=15, batch=8, learning_rate=4e-3)
    pair = {"fine": "sample:north_america", "climatology": str(folder / "mean.nc")}
    content["data"] |= {"pairs": [pair], "statics": ["climatology"]}
    return train(parse_training(content)), mean


@pytest.mark.parametrize("in_proportion", [False, True])
def test_the_detail_has_no_cell_mean_and_keeps_gaps(in_proportion: bool) -> None:
    cells = Aggregation(np.full(8, 0.5), np.full(12, 0.25), 2, 4)
    field = np.random.default_rng(0).gamma(2.0, 1.0, (8, 12))
    field[0, 0] = np.nan
    field[2:4, 4:8] = 0.0
    detail = static_features(["climatology"], None, cells, {"climatology": field}, None, in_proportion)["climatology"]
    np.testing.assert_array_equal(np.isnan(detail), np.isnan(field))
    means = cells.apply_mask(np.isfinite(field)).mean(detail)
    np.testing.assert_allclose(means, 0, atol=1e-14)
    assert (detail[2:4, 4:8] == 0).all()
    assert detail[np.isfinite(detail)].std() > 0.1


def test_rain_takes_it_in_proportion() -> None:
    assert ModelSpec("residual", (2, 2), (rain("local"),), constraint="bounded").in_proportion
    assert not ModelSpec("residual", (2, 2), (Variable("tas", "K"),)).in_proportion


def test_it_lowers_the_error_and_conserves_cells(trained: tuple[Path, xr.Dataset]) -> None:
    path, mean = trained
    later = sample().isel(time=slice(12, None))
    later = later.isel(lat=slice(0, 36), lon=slice(0, 48))
    coarse = downscale.coarsen(later, FACTOR)
    fine = coarse.downscale(method=path, climatology=mean)
    assert coarse.downscale.check(fine).passed
    errors = [float(((one.tas - later.tas.values) ** 2).mean() ** 0.5) for one in (fine, coarse.downscale(FACTOR))]
    assert errors[0] < 0.9 * errors[1]
    assert not same_bits(fine.tas, coarse.downscale(method=path, climatology=mean * 0 + 280.0).tas)
    celsius = (mean - 273.15).assign(tas=lambda ds: ds.tas.assign_attrs(units="degC"))
    other = coarse.downscale(method=path, climatology=celsius)
    np.testing.assert_allclose(other.tas, fine.tas, atol=2e-3)
    chunked = coarse.chunk(lat=5, lon=7).downscale(method=path, climatology=mean)
    np.testing.assert_allclose(chunked.tas, fine.tas, rtol=1e-6)


def test_it_is_kept_in_the_checkpoint(trained: tuple[Path, xr.Dataset]) -> None:
    assert load(trained[0])[0].spec.statics == ("climatology",)


FAULTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({}, InputError, "expected climatology for the static 'climatology', received none; pass climatology"),
    "times": ({"climatology": "record"}, InputError, "climatology: expected one map for a model .*'time': 24"),
    "label": ({"climatology": "mean", "climatology_by": "month"}, OptionError, "without training .*climatology_by"),
    "other": ({"climatology": "mean", "method": "rain"}, OptionError, "or a model with the static 'climatology'"),
    "units": ({"climatology": "metres"}, InputError, "expected units of 'K' as in training, received 'm'"),
    "domain": ({"climatology": "part"}, Exception, "climatology: expected a field that covers the whole fine grid"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(trained: tuple[Path, xr.Dataset], fault: str) -> None:
    path, mean = trained
    options, error, message = FAULTS[fault]
    fields = {
        "mean": mean, "record": sample(), "part": mean.isel(lat=slice(0, 12)),
        "metres": mean.assign(tas=mean.tas.assign_attrs(units="m")),
    }  # fmt: skip
    arguments = {"method": path, **options}
    if "climatology" in arguments:
        arguments["climatology"] = fields[arguments["climatology"]]
    ds = downscale.coarsen(sample().isel(lat=slice(0, 36), lon=slice(0, 48)), FACTOR)
    if fault == "other":
        ds = ds.rename(tas="pr").assign(pr=lambda d: d.pr.assign_attrs(units="mm h-1", standard_name="rainfall_rate"))
    with pytest.raises(error, match=message):
        ds.downscale(FACTOR, **arguments)
