"""Models that draw members: under every budget, the same on any chunking, in files, and trained with the fair CRPS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sample_fields import plane, rain_on, world
from training_recipes import recipe_content

import downscale
from downscale.errors import OptionError, ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.models.checkpoint import load, save
from downscale.nn.learned import Learned
from downscale.nn.spec import ModelSpec, Variable
from downscale.request import Request
from downscale.steps.prepare import plan_maps
from downscale.training.schema import parse_training

pytestmark = pytest.mark.usefixtures("one_thread")

RAIN = Variable("pr", "kg m-2 s-1", transform="local", bounds=(0, None))
SMALL = {"width": 6, "depth": 1, "fine_width": 4}


def drawing(**more: object) -> Learned:
    """A model with weights that no training made."""
    torch.manual_seed(3)
    model = Learned(ModelSpec("residual", (2, 2), (RAIN,), options=SMALL, constraint="bounded", noise=(2, 1), **more))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize("grid", [world(12, 16), plane(14, 18)])
def test_members_keep_cells_and_do_not_know_chunks(grid: object) -> None:
    coarse, model = rain_on(grid, 3, missing=0.05), drawing()
    whole = coarse.downscale(method=model, members=3, seed=4)
    report = downscale.check_conservation(coarse, whole)
    assert report.passed
    assert report["pr"].values_out_of_bounds == 0
    assert float(whole.pr.std("realization").max()) > 0.01
    y, x = coarse.pr.dims[-2:]
    lazy = coarse.chunk({"time": 2, y: 5, x: 7}).downscale(method=model, members=3, seed=4)
    np.testing.assert_allclose(lazy.pr.compute(scheduler="sync").values, whole.pr.values, rtol=1e-6, atol=1e-6)
    later = coarse.isel(time=[2]).downscale(method=model, members=2, seed=4)
    np.testing.assert_allclose(later.pr.values, whole.pr.values[2:, :2], rtol=1e-6, atol=1e-6)
    other = coarse.downscale(method=model, members=3, seed=5)
    assert float(abs(other.pr - whole.pr).max()) > 0.01


def test_a_checkpoint_draws_the_same_members(tmp_path: Path) -> None:
    coarse, model = rain_on(plane(14, 18), 2), drawing()
    path = save(tmp_path / "ensemble.safetensors", model)
    assert load(path)[0].spec.noise == (2, 1)
    one, other = (coarse.downscale(method=method, members=2) for method in (model, path))
    np.testing.assert_array_equal(one.pr.values, other.pr.values)
    single = coarse.downscale(method=path)
    assert single.pr.dims == coarse.pr.dims
    np.testing.assert_allclose(single.pr.values, one.pr.values[:, 0], rtol=1e-6, atol=1e-6)


def two_outputs() -> Learned:
    """A model of two variables that draws members of both at once."""
    torch.manual_seed(5)
    both = tuple(Variable(name, "K", transform="linear", mean=0.0, std=1.0) for name in ("warm", "cold"))
    model = Learned(ModelSpec("residual", (2, 2), both, options=SMALL, constraint="additive", noise=(2, 1)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def test_outputs_of_a_model_share_the_noise_of_each_member() -> None:
    """Made together or one by one, under any names: the members of a model are joint fields, as in training."""
    coarse, model = rain_on(plane(14, 18), 2), two_outputs()
    warm = coarse.pr.assign_attrs(units="K", standard_name="air_temperature")
    cold = (3 * coarse.pr).assign_attrs(units="K", standard_name="sea_surface_temperature")
    ds = coarse.assign(warm=warm, cold=cold).drop_vars("pr")
    fine = ds.downscale(method=model, members=2, seed=1)
    jobs = plan_maps(ds, Request(method=model, members=2, seed=1)).jobs
    streams = {name: job.upscaler.draws.stream for name, job in jobs.items()}
    assert len(set(streams.values())) == 1
    alone = ds.downscale(method=model, members=2, seed=1, data_vars="warm")
    np.testing.assert_array_equal(fine.warm.values, alone.warm.values)
    renamed = rain_on(plane(14, 18), 2).rename(pr="precip")
    one, other = (each.downscale(method=drawing(), members=2) for each in (rain_on(plane(14, 18), 2), renamed))
    np.testing.assert_array_equal(one.pr.values, other.precip.values)


def test_noise_has_its_shape() -> None:
    model, x = drawing(), torch.rand(1, 1, 4, 4)
    cells = Aggregation(np.full(8, 0.5), np.full(8, 0.5), 2, 2)
    with pytest.raises(ShapeError, match=r"expected \(2, 1\) channels of noise .*, received \(0, 0\)"):
        model(x, cells.broadcast_to_fine(x), cells)
    with pytest.raises(ShapeError, match="expected noise of 8 x 8 cells, received"):
        model(x, cells.broadcast_to_fine(x), cells, noise=(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)))
    with pytest.raises(OptionError, match="expected noise to be two numbers of channels from 0 to 256"):
        ModelSpec("residual", (2, 2), (RAIN,), options=SMALL, constraint="bounded", noise=(-1, 0))


def test_training_shows_the_crps_beside_the_kernel(tmp_path: Path) -> None:
    from downscale.training.fit import train

    content = recipe_content(tmp_path, loss={"crps": 1.0, "spectral": 0.01}, steps=4, round=2)
    content["network"] = {**content["network"], "noise": [1, 1]}
    content["data"]["validation"] = {"patches": 4}
    said: list[str] = []
    path = train(parse_training(content), say=said.append)
    model, record = load(path)
    assert model.spec.stochastic
    (row,) = record.skill["by_source"]
    assert (row["measure"], row["measure_kernel"]) == ("CRPS", "absolute error")
    assert 0 < row["rmse"] < 3 * row["rmse_kernel"]
    assert any("CRPS" in line for line in said)
    made = downscale.sample.open("north_america", chunks=None).isel(time=[0]).downscale(
        method=path, members=2, orog=downscale.sample.open("north_america_relief")
    )
    assert float(made.tas.std("realization").max()) > 0
