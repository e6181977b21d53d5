"""Masks of rare events: losses, scores, training, and the flag and its probability that come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from training_recipes import recipe_content

import downscale
from downscale.artefacts.model import fix_model
from downscale.artefacts.subject import diagnose
from downscale.errors import InputError, OptionError
from downscale.losses.probabilistic import event_loss
from downscale.metrics.events import EventCounts, calibration, logit_counts, probability_counts
from downscale.models.checkpoint import load
from downscale.nn.spec import Event, ModelSpec, Variable
from downscale.training.card import card
from downscale.training.fit import train
from downscale.training.schema import parse_training

HEAT = {"name": "heat", "above": 300.0, "units": "K"}
UNET = {"name": "unet", "options": {"width": 4, "levels": 2, "depth": 1, "fine_width": 4}}


def mask_recipe(folder: Path, **event: Any) -> Any:
    content = recipe_content(folder)
    return parse_training({**content, "task": "segmentation", "event": {**HEAT, **event}, "network": UNET})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(mask_recipe(tmp_path_factory.mktemp("mask")))


@pytest.fixture(scope="module")
def coarse() -> xr.Dataset:
    fine = downscale.sample.open("north_america")[["tas"]].isel(time=slice(0, 2))
    sizes = {dim: fine.sizes[dim] // 4 * 4 for dim in fine["tas"].dims[-2:]}
    made = downscale.coarsen(fine.isel({dim: slice(0, n) for dim, n in sizes.items()}), 4)
    # Sizes that the levels of the network do not divide.
    return made.isel({dim: slice(0, made.sizes[dim] - 1 + made.sizes[dim] % 2) for dim in sizes}).load()


def relief() -> Any:
    return downscale.sample.open("north_america_relief")


def test_a_mask_is_a_flag_with_its_probability(model: Path, coarse: xr.Dataset, tmp_path: Path) -> None:
    given = coarse.copy(deep=True)
    given["tas"][:, 2, 3] = np.nan
    fine = downscale.downscale(given, method=str(model), orog=relief())
    assert set(fine.data_vars) >= {"heat", "heat_probability"}
    assert "tas" not in fine
    flag, chance = fine["heat"], fine["heat_probability"]
    level = float(load(model)[0].decision)
    assert flag.attrs["flag_meanings"].split() == ["no_heat", "heat"]
    known = np.isfinite(chance.values)
    assert not known.all()
    assert ((chance.values[known] >= 0) & (chance.values[known] <= 1)).all()
    np.testing.assert_array_equal(flag.values, np.where(known, chance.values >= level, np.nan))
    downscale.to_netcdf(fine, tmp_path / "mask.nc")
    with xr.open_dataset(tmp_path / "mask.nc", mask_and_scale=False) as back:
        assert back["heat"].dtype == np.int8
        assert back["heat"].attrs["_FillValue"] == -1
        assert back["heat"].attrs["flag_values"].dtype == np.int8
        np.testing.assert_array_equal(back["heat"].values, np.where(known, flag.values, -1))
        assert np.isnan(back["heat_probability"].where(back["heat_probability"] < 1e19)).values[~known].all()
    with xr.open_dataset(tmp_path / "mask.nc") as back:
        np.testing.assert_array_equal(back["heat"].values, flag.values)
        np.testing.assert_array_equal(back["heat_probability"].values, chance.values)


def test_chunks_change_nothing(model: Path, coarse: xr.Dataset) -> None:
    y = coarse["tas"].dims[-2]
    whole = downscale.downscale(coarse, method=str(model), orog=relief())
    cut = downscale.downscale(coarse.chunk({"time": 1, y: 5}), method=str(model), orog=relief())
    assert cut["heat"].chunks is not None
    np.testing.assert_allclose(cut["heat_probability"].values, whole["heat_probability"].values, atol=1e-6)


def test_an_array_gives_its_flag_and_the_plan_says_no_law(model: Path, coarse: xr.Dataset) -> None:
    made = downscale.downscale(coarse["tas"], method=str(model), orog=relief())
    assert "flag_values" in made.attrs
    plan = downscale.plan(coarse, None, str(model), orog=relief())
    assert any("no conservation law applies" in note for note in plan.notes)


def test_dice_is_tversky_of_halves_and_a_sure_mask_costs_nothing() -> None:
    logit, event = torch.randn(4, 5), (torch.rand(4, 5) > 0.7).float()
    dice = event_loss(logit, event, name="dice")
    torch.testing.assert_close(dice, event_loss(logit, event, name="tversky", alpha=0.5, beta=0.5))
    both, false, missed = ((logit.sigmoid() * event).sum(), (logit.sigmoid() * (1 - event)).sum(),
                           ((1 - logit.sigmoid()) * event).sum())  # fmt: skip
    index = both / (both + 0.3 * false + 0.7 * missed)
    torch.testing.assert_close(event_loss(logit, event), 1 - index, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(event_loss(logit, event, gamma=2.0), (1 - index) ** 0.5, rtol=1e-4, atol=1e-5)
    for name in ("bce", "dice", "tversky"):
        assert float(event_loss(60 * (event - 0.5), event, name=name)) < 1e-3


def test_counts_are_those_of_a_table_and_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    chance, truth, area = rng.uniform(size=500), rng.uniform(size=500) < 0.1, rng.uniform(1, 2, 500)
    scores = EventCounts.of(chance, truth, area).scores(0.6)
    hit, false, missed = (area[where].sum() for where in
                          ((chance >= 0.6) & truth, (chance >= 0.6) & ~truth, (chance < 0.6) & truth))  # fmt: skip
    assert scores["csi"] == pytest.approx(hit / (hit + false + missed))
    assert scores["f2"] == pytest.approx(5 * hit / (5 * hit + false + 4 * missed))
    assert scores["frequency_bias"] == pytest.approx((hit + false) / (hit + missed))
    assert scores["brier"] == pytest.approx(np.average((chance - truth) ** 2, weights=area))
    first, last = (EventCounts.of(chance[i], truth[i], area[i]) for i in (slice(0, 200), slice(200, None)))
    parts = first + last
    assert parts.scores(0.6) == pytest.approx(scores)
    assert EventCounts.of(chance, truth).best("csi")[1] >= EventCounts.of(chance, truth).scores(0.5)["csi"]


def test_a_model_of_an_event_comes_back_from_words() -> None:
    spec = ModelSpec("unet", (4, 4), (Variable("tas", "K"),), constraint="none", event=Event("heat", 300.0))
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    assert spec.laws == frozenset()


@pytest.mark.parametrize(
    ("change", "error", "line"),
    [
        ({"loss": "iou"}, OptionError, "tversky"),
        ({"above": None}, OptionError, "key 'event': expected one threshold, above or below"),
        ({"units": "mm"}, OptionError, "expected the threshold of 'heat' in 'K'"),
        ({"above": 900.0}, InputError, r"expected the event 'heat' \(tas above 900 K\) in the training data"),
    ],
)
def test_a_wrong_event_is_one_line(tmp_path: Path, change: dict[str, Any], error: type, line: str) -> None:
    with pytest.raises(error, match=line) as caught:
        train(mask_recipe(tmp_path, **change))
    assert "\n" not in str(caught.value)


def test_an_event_needs_units(tmp_path: Path) -> None:
    content = {**recipe_content(tmp_path), "task": "segmentation", "event": {"above": 300.0}}
    with pytest.raises(OptionError, match=r"event\.units"):
        parse_training(content)


def test_a_frequent_event_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="which is not rare"):
        train(mask_recipe(tmp_path, above=200.0))


def test_wrong_units_and_factor_are_one_line(model: Path, coarse: xr.Dataset) -> None:
    with pytest.raises(Exception, match="expected the factor of the model, 4 x 4"):
        downscale.downscale(coarse, 2, method=str(model), orog=relief())
    other = coarse.copy()
    other["tas"] = other["tas"].assign_attrs(units="mm")
    with pytest.raises(InputError, match="expected units of 'K' as in training, received 'mm'"):
        downscale.downscale(other, method=str(model), orog=relief())


def test_the_card_says_which_event(model: Path) -> None:
    text = card(model)
    assert "heat: tas above 300 K, a flag and its probability" in text
    assert "root of the Brier score" in text
    assert "| law" in text
    assert "none" in text
    assert " 1 |" not in text.split("ratio")[-1].split("\n\n")[0]


def test_no_law_is_claimed_or_checked_of_a_mask(model: Path, coarse: xr.Dataset) -> None:
    fine = downscale.downscale(coarse, method=str(model), orog=relief())
    assert "conserve=None" in fine.attrs["downscale_settings"]
    with pytest.raises(InputError, match="flags of 'heat', which no law applies to; score a mask with downscale eval"):
        downscale.check_conservation(coarse, fine)


@pytest.mark.filterwarnings("error")
def test_a_diagnosis_looks_at_no_waves_of_a_mask(model: Path, tmp_path: Path) -> None:
    found = diagnose(str(model))
    assert found.sections[-1].note.startswith("not tested: the model gives the probability of an event")
    assert found.facts["event"] == "heat"
    with pytest.raises(OptionError, match="expected a model of fields, received one of the mask of 'heat'"):
        fix_model(str(model), 0.1, tmp_path / "smooth.safetensors")


@pytest.mark.parametrize(("slope", "shift"), [(0.2, -1.0), (4.0, 2.0)])
def test_a_calibrated_probability_is_how_often_the_event_comes(slope: float, shift: float) -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(-3, 2, 200_000)
    event = rng.random(true.size) < 1 / (1 + np.exp(-true))
    counts = logit_counts((true - shift) / slope, event, rng.uniform(0.5, 1.5, true.size))
    line = calibration(counts)
    made = EventCounts.of(1 / (1 + np.exp(-(line[0] * (true - shift) / slope + line[1]))), event)
    level = made.reliability()
    busy = level["share"] > 1e-3
    np.testing.assert_allclose(level["frequency"][busy], level["probability"][busy], atol=0.025)
    raw = probability_counts(counts, 1.0, 0.0)
    assert made.scores()["brier"] < raw.scores()["brier"]
    # The order of cells stays, and with it the best mask that a threshold makes, to the width of a bin.
    assert probability_counts(counts, *line).best()[1] == pytest.approx(raw.best()[1], abs=0.02)
    assert probability_counts(counts, *line).brier == pytest.approx(made.brier * counts.sum() / true.size, rel=0.02)


def test_a_calibration_of_nothing_leaves_logits_alone() -> None:
    ones = np.ones(50)
    assert calibration(logit_counts(np.full(50, 3.0), ones, ones)) == (1.0, 0.0)
    assert calibration(logit_counts([], [], [])) == (1.0, 0.0)
    # What tells the opposite is not turned round.
    upside_down = logit_counts(np.r_[ones, -ones], np.r_[0 * ones, ones], np.r_[ones, ones])
    assert calibration(upside_down) == (1.0, 0.0)
    # No logit on the wrong side: the line is steep, not infinite.
    slope, shift = calibration(logit_counts(np.r_[ones, -ones], np.r_[ones, 0 * ones], np.r_[ones, ones]))
    assert 1 < slope < 100
    assert abs(shift) < 1


def test_a_checkpoint_keeps_its_calibration(model: Path) -> None:
    slope, shift = load(model)[0].calibration.tolist()
    assert slope > 0
    assert (slope, shift) != (1.0, 0.0)
