"""Compressors: what a code keeps, that means come back exactly, and that nothing else is taken for a code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from command import command
from training_recipes import recipe_content

import downscale
from downscale.errors import DownscaleError, InputError, OptionError
from downscale.models.checkpoint import load
from downscale.nn.channels import LEVELS, STEP, Codec
from downscale.nn.spec import Code, ModelSpec, Variable
from downscale.runs.compression import compression_errors
from downscale.training.fit import train
from downscale.training.schema import parse_training

FACTOR = 2


def compressor_recipe(folder: Path, **change: Any) -> Any:
    content = recipe_content(folder, steps=150, round=50, learning_rate=5e-3)
    content["data"] = {**content["data"], "factor": FACTOR, "statics": [], "pairs": [{"fine": "sample:north_america"}]}
    decoder = {"name": "autoencoder", "options": {"width": 12, "levels": 0, "latent": 8, "fine_width": 8}}
    task = {"task": "compression", "code": {"channels": 1, "width": 16}, "network": decoder}
    return parse_training({**content, **task, **change})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(compressor_recipe(tmp_path_factory.mktemp("code")))


@pytest.fixture(scope="module")
def fine() -> xr.Dataset:
    ds = downscale.sample.open("north_america")[["tas"]].isel(time=slice(0, 3))
    return ds.isel({dim: slice(0, ds.sizes[dim] // FACTOR * FACTOR) for dim in ds["tas"].dims[-2:]}).load()


def test_means_come_back_and_the_code_carries_detail(model: Path, fine: xr.Dataset) -> None:
    # What the model knows nothing of is left aside.
    height = fine["tas"][0].drop_vars("time").drop_attrs().assign_attrs(units="m")
    small = downscale.encode(fine.assign(orog=height), model)
    assert set(small.data_vars) == {"tas", "tas_code_1"}
    xr.testing.assert_equal(small["tas"], downscale.coarsen(fine, FACTOR)["tas"])
    whole = downscale.downscale(small, method=model)
    assert set(whole.data_vars) == {"tas"}
    assert downscale.check_conservation(small[["tas"]], whole).passed
    assert downscale.check_conservation(small[["tas"]], fine).passed
    found = compression_errors(fine, small, model)["tas"]
    assert found["rmse"] < 0.8 * found["rmse_kernel"]
    assert np.isfinite(found["checkerboard_index_db"])
    # Other detail in the same means gives another code, and with it another field.
    turned = small.assign(tas_code_1=-small["tas_code_1"])
    assert not np.allclose(downscale.downscale(turned, method=model)["tas"], whole["tas"])
    assert downscale.check_conservation(small[["tas"]], downscale.downscale(turned, method=model)).passed


def test_a_code_is_a_byte_in_the_file_and_decodes_alike(model: Path, fine: xr.Dataset, tmp_path: Path) -> None:
    small = downscale.encode(fine, model)
    downscale.to_netcdf(small, tmp_path / "code.nc", coarse=None)
    with xr.open_dataset(tmp_path / "code.nc", mask_and_scale=False) as raw:
        assert raw["tas_code_1"].dtype == np.int8
        assert abs(raw["tas_code_1"].values.astype(int)).max() <= LEVELS
    with downscale.open_dataset(tmp_path / "code.nc") as read:
        made = downscale.downscale(read, method=model)["tas"].values
    np.testing.assert_array_equal(made, downscale.downscale(small, method=model)["tas"].values)


def test_chunks_change_nothing(model: Path, fine: xr.Dataset) -> None:
    y, x = fine["tas"].dims[-2:]
    whole, cut = downscale.encode(fine, model), downscale.encode(fine.chunk({"time": 1, y: 7, x: 9}), model)
    assert cut["tas_code_1"].chunks is not None
    for name in whole.data_vars:
        np.testing.assert_allclose(cut[name].values, whole[name].values, atol=1.01 * STEP)
    made = downscale.downscale(whole.chunk({"time": 1, y: 7, x: 9}), method=model)
    assert made["tas"].chunks is not None
    np.testing.assert_allclose(made["tas"].values, downscale.downscale(whole, method=model)["tas"].values, rtol=1e-6)


def test_missing_cells_are_missing_in_means_code_and_result(model: Path, fine: xr.Dataset) -> None:
    given = fine.copy(deep=True)
    given["tas"][:, :FACTOR, :FACTOR] = np.nan
    small = downscale.encode(given, model)
    assert np.isnan(small["tas"][:, 0, 0]).all()
    assert np.isnan(small["tas_code_1"][:, 0, 0]).all()
    whole = downscale.downscale(small, method=model)
    assert np.isnan(whole["tas"][:, :FACTOR, :FACTOR]).all()
    assert np.isfinite(whole["tas"][:, FACTOR:, FACTOR:]).all()
    assert downscale.check_conservation(small[["tas"]], whole).passed


def test_what_is_no_code_of_this_model_is_refused(model: Path, fine: xr.Dataset, tmp_path: Path) -> None:
    small = downscale.encode(fine, model)
    foreign = small.copy()
    foreign["tas_code_1"] = foreign["tas_code_1"].assign_attrs(encoder="0123456789abcdef")
    with pytest.raises(InputError, match="tas_code_1: expected a code made by this compressor"):
        downscale.downscale(foreign, method=model)
    with pytest.raises(InputError, match="expected the predictor 'tas_code_1'"):
        downscale.downscale(small[["tas"]], method=model)
    with pytest.raises(OptionError, match="expected a compressor"):
        downscale.encode(fine, "sobolev")
    with pytest.raises(InputError, match="expected 'K' as in the training"):
        downscale.encode(fine.assign(tas=fine["tas"].assign_attrs(units="degC")), model)
    with pytest.raises(DownscaleError, match="multiple"):
        downscale.encode(fine.isel({fine["tas"].dims[-1]: slice(0, -1)}), model)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"task": "downscaling"}, "expected task: compression with a code, received task: downscaling"),
        ({"code": None}, "expected a code with task: compression, received none"),
        ({"code": {"channels": 0}}, "code.channels"),
    ],
)
def test_a_wrong_recipe_is_one_line(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    with pytest.raises(OptionError, match=line):
        train(compressor_recipe(tmp_path, **change))


def test_a_compressor_comes_back_from_words(model: Path) -> None:
    spec = load(model)[0].spec
    assert spec.code == Code(1, 16)
    assert spec.code_names == ("tas_code_1",)
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(OptionError, match="as last predictors"):
        ModelSpec("autoencoder", (4, 4), (Variable("tas", "K"),), code=Code(2))
    assert "code" not in ModelSpec("residual", (2, 2), (Variable("tas", "K"),)).to_dict()


def test_codes_are_whole_numbers_and_let_gradients_through(model: Path) -> None:
    codec = load(model)[0].codec
    detail = 0.3 * torch.randn(2, 1, 16, 24)
    codes = codec(detail, torch.ones_like(detail))
    assert codes.shape == (2, 1, 8, 12)
    assert torch.equal(codes / STEP, (codes / STEP).round())
    assert codes.abs().max() <= LEVELS * STEP
    (codec.decode(codes) ** 2).sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in codec.parameters())


def test_an_untrained_codec_with_all_waves_loses_only_its_rounding() -> None:
    outputs = (Variable("tas", "K", std=5.0), Variable("pr", "mm", transform="local"))
    code = Code(30, 8)
    spec = ModelSpec("residual", (4, 4), outputs, predictors=code.variables("tas"), code=code)
    codec = Codec(spec)
    detail = 0.3 * torch.randn(2, 2, 16, 24)
    detail = detail - torch.nn.functional.avg_pool2d(detail, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        back = codec.decode(codec(detail, torch.ones_like(detail)))
    # Half a step of a root: an error that grows with the root of the coefficient.
    assert float((back - detail)[:, 0].std()) < 0.012
    assert float((back - detail)[:, 1].std()) < 0.03
    some = ModelSpec("residual", (4, 4), outputs, predictors=code.variables("tas")[:6], code=Code(6, 8))
    lossy = Codec(some)
    with torch.no_grad():
        long = lossy.decode(lossy(detail, torch.ones_like(detail)))
    # Three of fifteen waves of white noise.
    assert float(long.var() / back.var()) == pytest.approx(0.2, abs=0.05)


def test_the_command_encodes_and_apply_decodes(model: Path, fine: xr.Dataset, tmp_path: Path) -> None:
    downscale.to_netcdf(fine, tmp_path / "fine.nc")
    code, out = tmp_path / "code.nc", tmp_path / "back.nc"
    encoding = command("encode", tmp_path / "fine.nc", code, "--method", model, "--report")
    assert encoding.status == 0, encoding.err
    assert "times less than the fields in memory" in encoding.out
    assert "checkerboard index" in encoding.out
    decoding = command("apply", code, out, "--method", model)
    assert decoding.status == 0, decoding.err
    with xr.open_dataset(out) as back, xr.open_dataset(code) as small:
        assert downscale.check_conservation(small[["tas"]], back).passed


def test_the_benchmark_prints_a_line_for_each_way(model: Path, fine: xr.Dataset, tmp_path: Path) -> None:
    downscale.to_netcdf(fine, tmp_path / "fine.nc")
    script = Path(__file__).parents[1] / "benchmarks" / "compression.py"
    words = [str(tmp_path / "fine.nc"), "--var", "tas", "--model", str(model), "--every", "2"]
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 6
    ours = rows[1]
    assert ours[1].strip() == "the compressor"
    assert float(ours[4]) < 0.8
    # A mean is kept to the rounding of single precision.
    assert float(ours[5]) < 1e-6
