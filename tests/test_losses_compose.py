"""Losses by name: a recipe's sum is the sum of its terms; what it cannot mean is refused in one line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from strategies import generator

from downscale.errors import OptionError, ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.fields.gradient import Spacing
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.losses.compose import TERMS, LossContext, WeightedSum
from downscale.losses.pointwise import huber, mae, mse
from downscale.losses.probabilistic import fair_crps, pinball, soft_tversky, standard_crps

pytestmark = pytest.mark.usefixtures("one_thread")
COARSE = RectilinearGrid(*(CellAxis(np.arange(n + 1) * 4000.0, "projected") for n in (2, 3)))
FINE = COARSE.refine(4, 4)
# Settings of the terms that have no default.
NEEDED = {
    "terrain": {"base_gradient": 1e-4},
    "tversky": {"thresholds": [0.5], "width": 0.2},
    "crps_quantile": {"levels": [0.2, 0.5, 0.8]},
    "quantile": {"levels": [0.2, 0.5, 0.8]},
}


def fields(members: int = 3, seed: int = 0):
    """Members in the middle, where broadcasting alone would not find them."""
    rng = generator(seed)
    made, true = rng.standard_normal((2, members, 2, *FINE.shape)), rng.standard_normal((2, 2, *FINE.shape))
    true[0, 0, 1, 2] = np.nan
    return torch.from_numpy(made), torch.from_numpy(true), torch.from_numpy(FINE.cell_area)


def context(seed: int = 1) -> LossContext:
    rng = generator(seed)
    return LossContext(
        spacing=Spacing.of(FINE),
        orog=torch.from_numpy(1e3 * rng.uniform(size=FINE.shape)),
        coarse=torch.from_numpy(rng.standard_normal((2, 2, *COARSE.shape))),
        cells=Aggregation.between(COARSE, FINE),
        kernels=(torch.from_numpy(rng.standard_normal((2, 1, 3, 3))),),
        members=1,
        variables=("pr", "tas"),
    )


def settings(name: str, weight: float = 1.0) -> dict:
    return {"weight": weight, **NEEDED.get(name, {})}


@pytest.mark.parametrize("name", TERMS)
def test_every_loss_has_a_finite_value_and_derivative(name):
    made, true, weight = fields()
    around = context()
    for kernel in around.kernels:
        kernel.requires_grad_()
    made.requires_grad_()
    total = WeightedSum.from_config({name: settings(name)}, around)(made, true, weight)
    (slope,) = torch.autograd.grad(total, around.kernels[0] if name == "smoothness" else made)
    assert bool(torch.isfinite(total))
    assert bool(torch.isfinite(slope).all())
    assert float(slope.abs().max()) > 0


def test_the_sum_is_the_sum_and_tells_its_parts():
    made, true, weight = fields()
    config = {name: settings(name, 0.1 * (i + 1)) for i, name in enumerate(TERMS)}
    total, values = WeightedSum.from_config(config, context()).measure(made.requires_grad_(), true, weight)
    assert list(values) == list(TERMS)
    assert not any(value.requires_grad for value in values.values())
    assert float(total.detach()) == pytest.approx(sum(0.1 * (i + 1) * float(v) for i, v in enumerate(values.values())))
    alone = WeightedSum.from_config({"huber": {"delta": 0.5}}, context())(made, true, weight)
    assert float(alone.detach()) == pytest.approx(float(huber(made.detach().movedim(1, 0), true, weight, delta=0.5)))


def test_recipes_are_yaml():
    """Which takes 1e-3 for text."""
    config = yaml.safe_load("{mse: 1, mae: 5e-1, again: {loss: huber, weight: 1e-3, delta: 2e-1}}")
    made, true = fields()[0][:, 0], fields()[1]
    total, values = WeightedSum.from_config(config).measure(made, true)
    expected = float(mse(made, true) + 0.5 * mae(made, true) + 1e-3 * huber(made, true, delta=0.2))
    assert list(values) == ["mse", "mae", "again"]
    assert float(total) == pytest.approx(expected, rel=1e-12)


def test_members_are_found_where_they_lie():
    made, true, weight = fields()
    around = context()
    for fair, score in ((True, fair_crps), (False, standard_crps)):
        loss = WeightedSum.from_config({"crps": {"fair": fair}})
        assert float(loss(made, true, weight, around)) == pytest.approx(float(score(made, true, weight, members=1)))
    levels = [0.2, 0.5, 0.8]
    found = WeightedSum.from_config({"quantile": {"levels": levels}}, around)(made, true, weight)
    assert float(found) == pytest.approx(float(pinball(made, true, weight, levels=levels, dimension=1)))
    single = WeightedSum.from_config({"quantile": {"levels": [0.9]}})(made[:, 0], true)
    assert float(single) == pytest.approx(float(pinball(made[:, :1], true, levels=[0.9], dimension=1)))


def test_a_term_may_look_at_some_variables():
    made, true, weight = fields()
    around = replace(context(), scale=torch.tensor([2.0, 5.0]).reshape(2, 1, 1))
    heavy = {"loss": "tversky", "variables": ["pr"], "thresholds": [0.5], "width": 0.2}
    config = {"heavy": heavy, "warm": {"loss": "mse", "variables": "tas"}}
    _, values = WeightedSum.from_config(config, around).measure(made, true, weight)
    pr = soft_tversky(made[:, :, 0].movedim(1, 0), true[:, 0], weight, thresholds=[0.5], width=0.2)
    assert float(values["heavy"]) == pytest.approx(float(pr), rel=1e-12)
    tas = mse(made[:, :, 1].movedim(1, 0) / 5, true[:, 1] / 5, weight)
    assert float(values["warm"]) == pytest.approx(float(tas), rel=1e-12)


# What the scale does to each term: the power with which a unit comes out.
POWERS = {"mse": 2, "mae": 1, "sobolev": 2, "terrain": 2, "quantile": 1, "crps": 1, "crps_quantile": 1, "closure": 2,
          "spectral": 0, "tversky": 0, "smoothness": 0}  # fmt: skip


@pytest.mark.parametrize("name", POWERS)
def test_the_scale_takes_units_out(name):
    made, true, weight = fields()
    loss = WeightedSum.from_config({name: settings(name)})
    plain, scaled = (float(loss(made, true, weight, replace(context(), scale=scale))) for scale in (1.0, 4.0))
    assert plain != 0
    assert scaled == pytest.approx(plain / 4 ** POWERS[name], rel=1e-9)


def test_without_a_weight_a_term_is_only_told():
    made = fields()[0][:, 0].requires_grad_()
    total, values = WeightedSum.from_config({"mse": 1.0, "mae": 0.0}).measure(made, fields()[1])
    assert float(total.detach()) == float(values["mse"])
    assert float(values["mae"]) > 0


def test_a_batch_brings_its_own_context():
    made, true, weight = fields()
    loss = WeightedSum.from_config({"closure": 1.0}, context(1))
    other = context(5)
    expected = WeightedSum.from_config({"closure": 1.0}, other)(made, true, weight)
    assert float(loss(made, true, weight, other)) == float(expected) != float(loss(made, true, weight))


BAD = {
    "empty": ({}, "expected losses by name, such as {'mse': 1.0}, received {}"),
    "list": (["mse"], "expected losses by name"),
    "name": ({"rmse": 1.0}, "expected a loss among 'mse', 'mae', 'huber', .*, received 'rmse'"),
    "loss": ({"mine": {"loss": 3}}, "expected a loss among .*, received 3"),
    "option": ({"huber": {"delta": 1, "sigma": 2}}, "of loss 'huber' among 'delta', 'weight', .* received 'sigma'"),
    "missing": ({"tversky": {"width": 1}}, "expected loss 'tversky' with option 'thresholds', received 'width'"),
    "missing-all": ({"terrain": 0.1}, "expected loss 'terrain' with option 'base_gradient', received none"),
    "weight": ({"mse": "heavy"}, "expected the weight of loss 'mse' to be a number, received 'heavy'"),
    "weight-none": ({"mse": None}, "expected the weight of loss 'mse' to be a number, received None"),
    "weight-true": ({"mse": True}, "expected the weight of loss 'mse' to be a number, received True"),
    "weight-inf": ({"mse": float("inf")}, "to be a number, received inf"),
    "negative": ({"mse": -1}, r"expected the weight of loss 'mse' to be >= 0, received -1\.0"),
    "zeros": ({"mse": 0, "mae": 0}, "a positive weight for one of the losses 'mse', 'mae', received none"),
    "number": ({"huber": {"delta": [1]}}, r"expected delta of loss 'huber' to be a number, received \[1\]"),
    "value": ({"huber": {"delta": 0}}, r"expected Huber delta > 0, received 0\.0"),
    "floor": ({"spectral": {"floor": 0}}, "expected spectral floor > 0"),
    "length": ({"sobolev": {"length": -1}}, "expected Sobolev loss length >= 0"),
    "numbers": ({"quantile": {"levels": 0.5}}, "levels of loss 'quantile' to be a list of numbers"),
    "levels": ({"quantile": {"levels": [2]}}, "expected quantile levels between 0 and 1"),
    "increasing": ({"crps_quantile": {"levels": [0.5, 0.1]}}, "expected increasing quantile levels"),
    "bool": ({"crps": {"fair": "yes"}}, "expected fair of loss 'crps' to be true or false, received 'yes'"),
    "tversky": ({"tversky": {"thresholds": [], "width": 1}}, "at least one Tversky threshold"),
    "terrain": ({"terrain": {"base_gradient": -1}}, "expected terrain penalty base_gradient >= 0"),
    "variables": ({"mse": {"variables": 3}}, "expected variables of loss 'mse' to be a list of names, received 3"),
}  # fmt: skip


@pytest.mark.parametrize(("config", "words"), BAD.values(), ids=BAD)
def test_what_a_recipe_cannot_mean_is_refused_in_one_line(config, words):
    with pytest.raises(OptionError, match=words) as caught:
        WeightedSum.from_config(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sobolev", "terrain", "smoothness", "crps", "crps_quantile", "closure"])
def test_a_companion_that_is_not_there_is_named(name):
    made, true, _ = fields()
    with pytest.raises(OptionError, match=f"in the context of loss '{name}', received none; leave out that loss"):
        WeightedSum.from_config({name: settings(name)})(made[:, 0], true)


def test_unknown_variables_are_named():
    made, true, _ = fields()
    with pytest.raises(OptionError, match="expected variables among 'pr', 'tas', received 'wind'"):
        WeightedSum.from_config({"mse": {"variables": ["wind"]}}, context())(made, true)


def test_a_scale_within_cells_has_no_closure():
    made, true, _ = fields()
    with pytest.raises(ShapeError, match=r"expected one scale per map for loss 'closure', received shape \(8, 12\)"):
        WeightedSum.from_config({"closure": 1.0}, replace(context(), scale=torch.ones(FINE.shape)))(made, true)
