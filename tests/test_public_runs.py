"""`downscale.run`, `train` and `evaluate` take a file, its content or a parsed recipe, with changes by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import downscale
from downscale.errors import InputError, OptionError
from downscale.runs.recipe import parse_recipe
from downscale.training.schema import parse_training

RUN: dict[str, Any] = {
    "input": {"path": "sample:north_america", "variables": ["tas"]}, "downscale": {"factor": 2},
    "output": {"path": "fine.nc"},
}  # fmt: skip
PAIR = {"fine": "sample:north_america", "orog": "sample:north_america_relief"}
TRAIN: dict[str, Any] = {
    "data": {"factor": 4, "outputs": ["tas"], "statics": ["orog"], "pairs": [PAIR]},
    "patches": {"size": 6}, "training": {"steps": 10, "batch": 2}, "output": {"path": "out.safetensors"},
}  # fmt: skip


def forms(content: dict[str, Any], parse: Any, folder: Path) -> list[Any]:
    """Return a recipe as a file, as content and parsed."""
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(content))
    return [path, str(path), content, parse(content)]


def test_a_recipe_in_any_form_and_changed_is_the_same_run(tmp_path: Path) -> None:
    target = str(tmp_path / "other.nc")
    for recipe in forms(RUN, parse_recipe, tmp_path):
        outcome = downscale.run(recipe, change={"downscale.factor": 4, "output.path": target}, dry_run=True)
        assert outcome.plan.factor == {"lat": 4, "lon": 4}
        assert outcome.recipe.output.path == target
    assert list(tmp_path.iterdir()) == [tmp_path / "recipe.yml"]


def test_a_run_writes_and_reports(tmp_path: Path) -> None:
    target = tmp_path / "fine.nc"
    outcome = downscale.run(RUN, change={"output.path": str(target)})
    assert outcome.files == [target]
    assert outcome.conservation is not None
    assert outcome.conservation.passed
    assert target.exists()


def test_a_training_in_any_form_is_prepared_without_writing(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    for recipe in forms(TRAIN, parse_training, tmp_path):
        lines: list[str] = []
        made = downscale.train(recipe, say=lines.append, change={"output.path": str(target)}, dry_run=True)
        assert made == target
        assert lines
    assert not target.exists()


def test_an_evaluation_lists_and_scores(tmp_path: Path) -> None:
    source = {"fine": "sample:north_america", "label": "HadCM3", "every": 100}
    content = {
        "data": {"factor": 2, "outputs": [{"name": "tas", "units": "K", "bounds": None}], "sources": [source]},
        "methods": ["bilinear", "sobolev"], "reference": "bilinear", "scores": ["rmse"],
    }  # fmt: skip
    lines: list[str] = []
    change = {"output.folder": str(tmp_path / "scores")}
    assert not downscale.evaluate(content, lines.append, change=change, dry_run=True)
    assert any("HadCM3" in line for line in lines)
    assert not (tmp_path / "scores").exists()
    scores = downscale.evaluate(content, lines.append, change=change)
    assert float(scores.tas_rmse.sel(upscaler="sobolev").squeeze()) < float(
        scores.tas_rmse.sel(upscaler="bilinear").squeeze()
    )
    assert any(line.startswith("| ") or "| sobolev" in line for line in lines)


@pytest.mark.parametrize("call", [downscale.run, downscale.train, downscale.evaluate])
def test_what_is_no_recipe_is_refused(call: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        call(3)
    with pytest.raises(InputError):
        call(tmp_path / "none.yml")
    with pytest.raises(OptionError):
        call({"unknown": 1})
