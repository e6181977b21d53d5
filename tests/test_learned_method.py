"""A learned model is a method like any other: by path, name or object, lazy or not, and in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sample_fields import field_on, rain_on, region, same_bits, world

from downscale import check_conservation, sample
from downscale.cli.main import main
from downscale.errors import GridError, InputError, OptionError, ShapeError
from downscale.models.checkpoint import save
from downscale.nn.learned import Learned
from downscale.nn.spec import ModelSpec, Variable

RELIEF = sample.path("north_america_relief")
TAS = Variable("tas", "K", mean=280.0, std=10.0)
SMALL = {"width": 8, "depth": 1}


def trained(spec: ModelSpec, size: float = 0.05) -> Learned:
    """A model with weights that no training made."""
    torch.manual_seed(3)
    model = Learned(spec)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(size * torch.randn_like(weight))
    return model


def plain(**more: Any) -> ModelSpec:
    return ModelSpec("residual", (4, 4), (TAS,), options=SMALL, **more)


@pytest.fixture(scope="module")
def tas() -> xr.Dataset:
    return sample.open("north_america")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path / "model.safetensors", trained(plain()))


def test_an_untrained_model_is_the_kernel(tas):
    assert same_bits(tas.downscale(method=Learned(plain())).tas, tas.downscale(4).tas)


def test_path_object_and_factor_say_the_same(tas, checkpoint):
    by_path = tas.downscale(method=checkpoint)
    assert same_bits(by_path.tas, tas.downscale(4, method=str(checkpoint)).tas)
    assert same_bits(by_path.tas, tas.downscale({"lat": 4, "lon": 4}, method=trained(plain())).tas)
    assert np.abs(by_path.tas - tas.downscale(4).tas).max() > 0.1


@pytest.mark.parametrize("spec", [plain(), plain(statics=("orog", "slope")), plain(encodings=("day_of_year", "hour"))])
def test_the_cell_law_and_any_chunks(tas, spec):
    model = trained(spec)
    whole = tas.downscale(method=model, orog=RELIEF)
    assert tas.downscale.check(whole).passed
    cut = tas.chunk(time=5, lat=13, lon=17).downscale(method=model, orog=RELIEF)
    assert cut.tas.chunks is not None
    np.testing.assert_allclose(cut.tas.values, whole.tas.values, rtol=1e-6)


def test_a_circle_may_be_cut_anywhere():
    ds = field_on(world(24, 36), 2, dtype="float32")
    spec = ModelSpec("residual", (2, 2), (TAS,), options=SMALL)
    model = trained(spec)
    np.testing.assert_allclose(
        ds.chunk(lon=12, lat=12).downscale(method=model).tas, ds.downscale(method=model).tas, rtol=1e-6
    )
    rolled = ds.roll(lon=9, roll_coords=True)
    np.testing.assert_allclose(
        rolled.downscale(method=model).tas, ds.downscale(method=model).tas.roll(lon=18, roll_coords=True), rtol=1e-6
    )


def test_predictors_stand_behind_the_variable_in_every_chunk():
    ds = field_on(region(), 4, dtype="float32")
    ds["orography"] = ds.tas.isel(time=0, drop=True) * 10
    other = Variable("orography", "K", mean=2800, std=100)
    spec = ModelSpec("residual", (2, 2), (TAS,), predictors=(other,), options=SMALL)
    model = trained(spec)
    whole = ds.downscale(method=model, data_vars="tas")
    np.testing.assert_allclose(
        ds.chunk(time=1, lat=6).downscale(method=model, data_vars="tas").tas, whole.tas, rtol=1e-6
    )
    other = ds.assign(orography=ds.orography + 50).downscale(method=model, data_vars="tas")
    assert np.abs(other.tas - whole.tas).max() > 1e-3


def test_two_outputs_keep_their_own_laws():
    ds = field_on(region(), 3, dtype="float32").assign(pr=rain_on(region(), 3, dtype="float32").pr)
    rain = Variable("pr", "mm h-1", transform="local", bounds=(0, None))
    model = trained(ModelSpec("residual", (2, 2), (TAS, rain), options=SMALL, constraint="bounded"))
    fine = ds.downscale(method=model, bounds={"pr": (0, None)})
    assert ds.downscale.check(fine).passed
    assert float(fine.pr.min()) >= 0
    only = ds.downscale(method=model, data_vars="pr", bounds={"pr": (0, None)})
    assert same_bits(only.pr, fine.pr)


def test_files_and_commands(tas, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coarse, fine = "coarse.nc", "fine.nc"
    tas.to_netcdf(coarse)
    assert main(["apply", coarse, fine, "--method", str(checkpoint)]) == 0
    assert main(["check", coarse, fine]) == 0
    with xr.open_dataset(fine) as made:
        assert "method=" in made.attrs["history"]
        # Not to the bit: where threads share a map out, the last values of each share go through a plain loop of
        # torch's activations, which rounds otherwise than the vectors before them.
        np.testing.assert_allclose(made.tas, tas.downscale(method=checkpoint).tas, rtol=1e-6)
    assert main(["inspect", str(checkpoint)]) == 0
    assert "tas" in capsys.readouterr().out


def test_blocks_of_a_run_know_the_model(tas, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tas.to_netcdf("coarse.nc")
    assert main(["apply", "coarse.nc", "whole.nc", "--method", checkpoint.name]) == 0
    assert main(["apply", "coarse.nc", "joined.nc", "--method", checkpoint.name, "--blocks", "7"]) == 0
    with xr.open_dataset("whole.nc") as whole, xr.open_dataset("joined.nc") as joined:
        np.testing.assert_allclose(joined.tas, whole.tas, rtol=1e-6)


def test_a_plan_names_the_model(tas, checkpoint):
    assert str(checkpoint) in repr(tas.downscale.plan(method=checkpoint))
    assert "residual network" in repr(tas.downscale.plan(method=Learned(plain())))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"factor": 2}, ShapeError, "expected the factor of the model, 4 x 4, received 2 x 2; leave factor out"),
        ({"target_grid": "0.7x0.7"}, ShapeError, "expected a nested target grid for a learned model"),
        ({"factor": {"time": 2}}, OptionError, r"expected a method among .* along 'time', received 'residual network'"),
    ],
)
def test_what_does_not_fit_is_one_line(tas, options, error, match):
    with pytest.raises(error, match=match) as caught:
        tas.downscale(method=Learned(plain()), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "error", "match"),
    [
        (ModelSpec("residual", (4, 4), (Variable("pr", "mm"),), options=SMALL), InputError,
         "expected the variable 'pr', which this model refines, received 'tas'; rename"),
        (ModelSpec("residual", (4, 4), (Variable("tas", "mm"),), options=SMALL), InputError, "use a model of"),
        (plain(predictors=(Variable("psl", "Pa"),)), InputError, r"expected the predictor 'psl' .* add it"),
        (plain(statics=("orog",)), InputError, "expected orog for the static 'orog', received none"),
    ],
)  # fmt: skip
def test_a_model_of_something_else_is_one_line(tas, spec, error, match):
    with pytest.raises(error, match=match) as caught:
        tas.downscale(method=Learned(spec))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("units", "scale", "offset"), [("degC", 1.0, -273.15), ("degF", 1.8, -459.67)])
def test_a_model_takes_any_unit_of_its_quantity_and_gives_it_back(tas, units, scale, offset):
    """Celsius is not taken for Kelvin: the field of a model is the same in every unit."""
    other = tas.assign(tas=(tas.tas * scale + offset).assign_attrs(tas.tas.attrs, units=units))
    fine, made = (each.downscale(method=trained(plain())) for each in (tas, other))
    assert made.tas.attrs["units"] == units
    np.testing.assert_allclose(made.tas, fine.tas * scale + offset, atol=2e-4 * scale)
    assert check_conservation(other, made).passed


def test_a_field_without_units_is_refused_unless_the_model_takes_any(tas):
    bare = tas.assign(tas=tas.tas.drop_attrs())
    with pytest.raises(InputError, match=r"tas: expected units of 'K' .* received 'none'; set the attribute units"):
        bare.downscale(method=Learned(plain()))


def test_other_variables_are_to_be_left_out():
    ds = field_on(region(), 2, dtype="float32").assign(other=field_on(region(), 2).tas)
    with pytest.raises(InputError, match=r"received 'other' too; name the others in data_vars, as data_vars=\['tas'\]"):
        ds.downscale(method=trained(ModelSpec("residual", (2, 2), (TAS,), options=SMALL)))


def test_times_that_are_missing(tas):
    with pytest.raises(InputError, match="expected a time axis, since this model uses 'hour'"):
        tas.isel(time=0, drop=True).downscale(method=Learned(plain(encodings=("hour",))))


def test_predictors_on_other_times():
    ds = field_on(region(), 4, dtype="float32")
    ds["beside"] = ds.tas.rename(time="step").drop_vars("step")
    spec = ModelSpec("residual", (2, 2), (TAS,), predictors=(Variable("beside", "K"),), options=SMALL)
    with pytest.raises(GridError, match="beside: expected the dimensions of 'tas'"):
        ds.downscale(method=Learned(spec), data_vars="tas")


@pytest.mark.parametrize("name", ["nothing.safetensors", "rainy"])
def test_names_of_nothing(tas, name):
    with pytest.raises((InputError, OptionError), match=r"expected .* received"):
        tas.downscale(4, method=name)


def test_a_network_that_sees_the_whole_field_is_not_cut(tas):
    model = trained(ModelSpec("residual", (4, 4), (TAS,), options={**SMALL, "context": True}))
    assert tas.downscale.check(tas.downscale(method=model)).passed
    with pytest.raises(ShapeError, match="expected uncut horizontal axes, since this method needs the whole field"):
        tas.chunk(lat=10).downscale(method=model)
