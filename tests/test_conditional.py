"""Adversarial training of models that make members: to the bit again, stopped where it diverges, under the law."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training_recipes import recipe_content

import downscale
from downscale.errors import InputError, OptionError, OutputError, ShapeError
from downscale.models.checkpoint import load, load_record
from downscale.training.gan import LAST_GOOD, Conditional, GANSettings, GANTrainer, train_adversarial
from downscale.training.schema import TrainingRecipe, parse_training

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(__file__).parents[1] / "recipes" / "rain_gan.py"
HOW = GANSettings(steps=4, batch=3, round=2)
GRADIENT = replace(HOW, loss="wgan-gp", critic_steps=2)


def content(folder: Path) -> dict[str, Any]:
    made = recipe_content(folder)
    made["data"] = {"factor": 2, "outputs": ["tas"], "pairs": [{"fine": "sample:north_america"}],
                    "validation": {"patches": 4}}  # fmt: skip
    return {**made, "patches": {"size": 4}, "network": {**made["network"], "noise": [1, 1]}}


def recipe(folder: Path) -> TrainingRecipe:
    folder.mkdir(exist_ok=True)
    return parse_training(content(folder))


def rows_of(folder: Path) -> list[dict[str, str]]:
    logs = sorted((folder / "model.training" / "logs").rglob("metrics.csv"))
    return [row for log in logs for row in csv.DictReader(log.read_text().splitlines())]


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load(path)[0].state_dict() for path in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("how", [HOW, GRADIENT], ids=["hinge", "wgan-gp"])
def test_a_training_that_was_stopped_goes_on_to_the_bit(tmp_path: Path, how: GANSettings) -> None:
    whole = train_adversarial(recipe(tmp_path / "whole"), how, width=4)
    cut = recipe(tmp_path / "cut")
    train_adversarial(cut, replace(how, steps=2), width=4)
    said: list[str] = []
    resumed = train_adversarial(cut, how, resume=True, width=4, say=said.append)
    assert "resumes from step 2" in said
    assert same_weights(whole, resumed)
    assert [row["step"] for row in rows_of(tmp_path / "cut")] == ["2", "4"]
    # The networks did learn: the weights are not those of the second step.
    early = train_adversarial(recipe(tmp_path / "early"), replace(how, steps=2), width=4)
    assert not same_weights(early, resumed)


def test_the_log_tells_the_spread_and_the_record_all_that_the_others_tell(tmp_path: Path) -> None:
    said: list[str] = []
    path = train_adversarial(recipe(tmp_path), HOW, width=4, say=said.append)
    assert sum("spread" in line for line in said) == 2
    assert all(float(row["spread"]) > 0 for row in rows_of(tmp_path))
    _, record = load_record(path)
    (row,) = record.skill["by_source"]
    assert (row["measure"], record.skill["steps"]) == ("CRPS", 4)
    assert 0 < row["rmse"] < 10 * row["rmse_kernel"]
    (source,) = record.sources
    assert source["licence"] in record.attribution
    assert record.versions["torch"]


@pytest.mark.parametrize("how", [HOW, GRADIENT], ids=["hinge", "wgan-gp"])
def test_every_member_in_the_file_keeps_its_cells(tmp_path: Path, how: GANSettings) -> None:
    path = train_adversarial(recipe(tmp_path), replace(how, generator_rate=0.02), width=4)
    coarse = downscale.sample.open("north_america", chunks=None).isel(time=slice(2))
    downscale.to_netcdf(coarse.downscale(method=path, members=3, seed=2), tmp_path / "fine.nc", coarse=coarse)
    fine = downscale.open_dataset(tmp_path / "fine.nc", chunks=None)
    report = downscale.check_conservation(coarse, fine)
    assert report.passed
    for member in range(3):
        wide = fine.isel(realization=member).astype("f8")   # rounding of the mean is not that of the file
        back = downscale.coarsen(wide, 2).tas.transpose(*coarse.tas.dims)
        assert float(abs(back.values - coarse.tas.values).max()) < 1e-6 * float(abs(wide.tas).max())
    assert float(fine.tas.std("realization").max()) > 0.01


def test_where_a_loss_is_no_number_the_model_of_the_last_good_state_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = recipe(tmp_path)
    scaled = Conditional.scale
    # Real maps are broken from the fourth step on.
    monkeypatch.setattr(Conditional, "scale", lambda self, values: scaled(self, values) * broken())
    count = {"steps": 0}
    step = GANTrainer.step

    def counted(trainer: GANTrainer, batch: None, number: int) -> dict[str, torch.Tensor]:
        count["steps"] += 1
        return step(trainer, batch, number)

    def broken() -> float:
        return float("nan") if count["steps"] > 3 else 1.0

    monkeypatch.setattr(GANTrainer, "step", counted)
    words = r"expected finite losses, errors and weights, received critic nan.* at step 3; .*; its model is "
    with pytest.raises(InputError, match=words):
        train_adversarial(some, replace(HOW, steps=9), width=4)
    monkeypatch.undo()
    assert not (tmp_path / "model.safetensors").exists()
    kept = tmp_path / "model.training" / LAST_GOOD
    early = train_adversarial(recipe(tmp_path / "early"), replace(HOW, steps=2), width=4)
    assert same_weights(kept, early)
    assert load_record(kept)[1].skill["steps"] == 2


def test_a_start_of_another_network_and_a_state_of_other_data_are_refused(tmp_path: Path) -> None:
    some = recipe(tmp_path)
    path = train_adversarial(some, replace(HOW, steps=1), width=4)
    with pytest.raises(OutputError, match="exists"):
        train_adversarial(some, HOW, width=4)
    path.rename(tmp_path / "start.safetensors")
    with pytest.raises(OutputError, match=r"expected no earlier run, received its state .*; continue with --resume"):
        train_adversarial(some, HOW, width=4)
    start = tmp_path / "start.safetensors"
    again = train_adversarial(recipe(tmp_path / "again"), replace(HOW, steps=1), start, width=4)
    assert not same_weights(again, start)
    wide = content(tmp_path / "again")
    wide["output"]["path"] = str(tmp_path / "wide.safetensors")
    wide["network"]["options"] = {"width": 6, "depth": 1}
    with pytest.raises(OptionError, match="expected a checkpoint of the network of the recipe to start with, received"):
        train_adversarial(parse_training(wide), HOW, start, width=4)
    other = content(tmp_path)
    other["patches"]["augment"] = False
    with pytest.raises(InputError, match=r"expected the recipe, settings and data that .* was begun with"):
        train_adversarial(parse_training(other), HOW, resume=True, width=4)


def test_recipes_that_no_critic_can_judge(tmp_path: Path) -> None:
    plain = content(tmp_path)
    del plain["network"]["noise"]
    with pytest.raises(OptionError, match=r"expected a network with noise and one output, received noise \[0, 0\]"):
        train_adversarial(parse_training(plain), HOW)
    for size, words in ((5, "expected a size of 8, 16, 32, 64, ... cells, received 10"), ([4, 8], "8 x 16 fine cells")):
        with pytest.raises(ShapeError, match=words):
            train_adversarial(parse_training({**content(tmp_path), "patches": {"size": size}}), HOW)


def script(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(
        command, env=env, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_the_script_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tas.yml").write_text(yaml.safe_dump(content(tmp_path)))
    given = ["tas.yml", "--size", "8", "--save-every", "2", "--steps"]
    process = script(tmp_path, *given, "100000")
    state = tmp_path / "rain_gan.training" / "state.safetensors"
    end = time.monotonic() + 120
    while not state.exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("rain_gan: interrupted; step ")
    assert errors.endswith(" is kept; run again with --resume\n")
    step = int(errors.split("step ")[1].split()[0])
    process = script(tmp_path, *given, str(step + 2), "--resume")
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert f"resumes from step {step}" in out
    assert "spread" in out
    assert load(tmp_path / "rain_gan.safetensors")[0].spec.stochastic


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.yml"], "none.yml"),
        (["plain.yml"], "expected a network with noise and one output, received noise [0, 0]"),
        (["tas.yml", "--size", "10"], "expected a size of 8, 16, 32, 64, ... cells, received 10"),
        (["tas.yml", "--size", "8", "--start", "none.safetensors"], "none.safetensors"),
    ],
)
def test_a_wrong_request_has_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "tas.yml").write_text(yaml.safe_dump(content(tmp_path)))
    plain = content(tmp_path)
    del plain["network"]["noise"]
    (tmp_path / "plain.yml").write_text(yaml.safe_dump(plain))
    process = script(tmp_path, *arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert words in errors
    assert not list(tmp_path.glob("*.safetensors"))
