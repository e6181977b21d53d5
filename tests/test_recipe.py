"""Recipes are checked before anything runs: keys are known, faults have their path, no file decides what code runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from downscale.errors import InputError, OptionError
from downscale.runs.demo import demo_recipe
from downscale.runs.recipe import Recipe, load_recipe, parse_recipe

LEAST: dict[str, Any] = {"input": {"path": "a.nc"}, "downscale": {"factor": 4}, "output": {"path": "b.nc"}}


def recipe(**blocks: Any) -> dict[str, Any]:
    """The least recipe with some keys of its blocks changed or added; None removes one."""
    made = {name: dict(block) for name, block in LEAST.items()}
    for name, block in blocks.items():
        if isinstance(block, dict) and name in made:
            made[name].update(block)
        else:
            made[name] = block
    return {name: block for name, block in made.items() if block is not None}


def test_defaults_are_those_of_the_function():
    found = parse_recipe(LEAST)
    assert (found.downscale.method, found.downscale.conserve, found.downscale.bounds) == ("sobolev", "cell", "auto")
    assert found.terrain.lapse_rate is None
    assert found.validation.law == "cell"
    assert not found.output.overwrite


def test_a_file_gives_what_it_says(tmp_path):
    content = recipe(downscale={"factor": {"lat": 4, "lon": 2}, "bounds": [0, None]}, validate={"law": "total"})
    (tmp_path / "r.yml").write_text(yaml.safe_dump(content))
    found = load_recipe(tmp_path / "r.yml")
    assert found.downscale.factor == {"lat": 4, "lon": 2}
    assert found.downscale.bounds == [0, None]
    assert found.validation.law == "total"
    assert load_recipe(str(tmp_path / "r.yml")) == found


def test_a_recipe_survives_its_own_dump(tmp_path):
    one = demo_recipe(tmp_path)
    assert parse_recipe(one.model_dump(by_alias=True)) == one


def test_a_recipe_is_not_changed_by_accident():
    with pytest.raises(Exception, match="frozen"):
        parse_recipe(LEAST).title = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (recipe(foo=1), r"expected a key among 'title', .*'output', 'dask', received 'foo'$"),
        (recipe(downscale={"fctor": 2}), r"received 'downscale.fctor'; did you mean 'factor'\?"),
        (recipe(outptu={"path": "c.nc"}), r"received 'outptu'; did you mean 'output'\?"),
        (recipe(terrain={"penalty": {"base_gradient": 1, "rato": 1}}), r"'terrain.penalty.rato'; did you mean 'ratio'"),
        (recipe(validate={"laws": "cell"}), r"expected a key among 'law', 'tolerance', received 'validate.laws'"),
        (recipe(statics={"orog": "z.nc", "varable": "z"}), r"received 'statics.varable'; did you mean 'variable'\?"),
        (recipe(input=None), "expected the key 'input', received none; add it"),
        (recipe(output={"path": None}), "key 'output.path': expected a valid string, received None"),
        (recipe(input={"path": 3}), "key 'input.path': expected a valid string, received 3"),
        (recipe(downscale={"conserve": "mass"}), "'downscale.conserve': expected one of 'cell', 'total', None"),
        (recipe(validate={"tolerance": 0}), "key 'validate.tolerance': expected greater than 0, received 0"),
        (recipe(terrain={"penalty": {"base_gradient": -1}}), "'terrain.penalty.base_gradient': expected greater than"),
        (recipe(terrain={"penalty": {}}), "expected the key 'terrain.penalty.base_gradient', received none"),
        (recipe(output={"complevel": 11}), "key 'output.complevel': expected less than or equal to 9, received 11"),
        (recipe(downscale={"taps": 7.5}), "key 'downscale.taps': expected a valid integer"),
        (recipe(input="a.nc", downscale={"factor": 2}), "key 'input': expected"),
    ],
)  # fmt: skip
def test_faults_name_their_path_and_the_choices(content, match):
    with pytest.raises(OptionError, match=match) as caught:
        parse_recipe(content, "r.yml")
    assert str(caught.value).startswith("r.yml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("input: !!python/object/apply:os.system ['touch pwned']", "expected a YAML recipe, received .*python/object"),
        ("input: !!python/name:os.system", "expected a YAML recipe, received"),
        ("a: [1", "expected a YAML recipe, received"),
        ("\x00", "expected a YAML recipe, received"),
        ("- 1", "expected a recipe of keys and values, received list in"),
        ("", "expected a recipe of keys and values, received NoneType in"),
        ("just words", "received str in"),
        ("1: 2\ninput: {path: a.nc}", "expected a key among|expected the key"),
    ],
)
def test_what_is_no_recipe_gets_one_line_and_runs_nothing(tmp_path, monkeypatch, text, match):
    monkeypatch.chdir(tmp_path)
    Path("r.yml").write_text(text)
    with pytest.raises((InputError, OptionError), match=match) as caught:
        load_recipe("r.yml")
    assert "\n" not in str(caught.value)
    assert not Path("pwned").exists()


def test_binary_files_and_missing_files(tmp_path):
    (tmp_path / "r.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="expected a YAML recipe"):
        load_recipe(tmp_path / "r.yml")
    for path in (tmp_path / "no.yml", tmp_path):
        with pytest.raises(InputError, match="expected an existing recipe file, received"):
            load_recipe(path)


def test_the_recipes_that_ship_are_recipes():
    # Those of training, evaluation and checking have tests of their own.
    files = [
        file for file in sorted((Path(__file__).parents[1] / "recipes").rglob("*.yml"))
        if {"input", "downscale"} <= set(yaml.safe_load(file.read_text())) and file.parent.name != "models"
    ]
    assert len(files) >= 5
    for file in files:
        assert isinstance(load_recipe(file), Recipe)
