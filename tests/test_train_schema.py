"""Training recipes: what they default to, and one line for each fault with the path of the key."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from downscale.errors import InputError, OptionError
from downscale.training.schema import load_training, parse_training, seconds_of

WHOLE: dict[str, Any] = {
    "data": {"factor": 4, "outputs": ["pr"], "pairs": [{"fine": "a.nc"}]},
    "output": {"path": "m.safetensors"},
}
RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("train_*.yml"))


def with_key(path: str, value: Any) -> dict[str, Any]:
    """The small recipe with one key set, made where it is missing."""
    content = deepcopy(WHOLE)
    *blocks, last = path.split(".")
    place: Any = content
    for block in blocks:
        place = place[int(block)] if block.isdigit() else place.setdefault(block, {})
    place[int(last) if last.isdigit() else last] = value
    return content


FAULTS: dict[str, tuple[str, Any, str]] = {
    "unknown": ("training.lerning_rate", 1, "received 'training.lerning_rate'; did you mean 'learning_rate'"),
    "unknown-block": ("trainin", {}, "expected a key among 'title'.*received 'trainin'; did you mean 'training'"),
    "in-a-list": ("data.pairs.0.nmes", {}, "received 'data.pairs.0.nmes'; did you mean 'names'"),
    "in-a-union": ("data.outputs.0", {"name": "a", "tranform": "x"}, "'data.outputs.0.tranform'; did you mean"),
    "missing": ("data.pairs.0", {}, "expected the key 'data.pairs.0.fine', received none"),
    "static": ("data.statics", ["orgo"], "key 'data.statics': expected names among 'orog', .*received \\['orgo'\\]"),
    "constraint": ("network.constraint", "hard", "key 'network.constraint': expected names among 'additive'"),
    "factor": ("data.factor", [4, 0], "key 'data.factor.1': expected greater than 0, received 0"),
    "time": ("training.max_time", "a while", "key 'training.max_time': expected a time such as"),
    "gap": ("data.validation.gap", "a bit", "key 'data.validation.gap': expected a time such as"),
    "no-block": ("output", 3, "key 'output': expected the keys 'path', 'folder', 'overwrite', 'half', received 3"),
    "precision": ("training.precision", "16", "key 'training.precision': expected '32' or 'bf16', received '16'"),
    **{
        name: ("training.strategy", name, f"key 'training.strategy': expected a .*such as 'ddp', received '{name}'$")
        for name in ("ddp_spawn", "ddp_fork", "ddp_notebook")
    },
    "law": ("conserve", "phase", "key 'conserve': expected 'cell', received 'phase'"),
    "empty": ("data.pairs", [], "key 'data.pairs'"),
}


@pytest.mark.parametrize(("path", "value", "line"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_line_with_the_path_of_the_key(path: str, value: Any, line: str) -> None:
    with pytest.raises(OptionError, match=line) as caught:
        parse_training(with_key(path, value), "r.yml")
    assert str(caught.value).startswith("r.yml: ")
    assert "\n" not in str(caught.value)


def test_a_recipe_file_is_read_and_a_key_may_come_once(tmp_path: Path) -> None:
    file = tmp_path / "r.yml"
    file.write_text("data: {factor: 2, outputs: [pr], pairs: [{fine: a.nc}]}\noutput: {path: m}\n")
    assert load_training(file).data.factor == (2, 2)
    file.write_text("output: {path: a}\noutput: {path: b}\n")
    with pytest.raises(InputError, match="key 'output' in line 1 again in line 2"):
        load_training(file)
    with pytest.raises(InputError, match="expected an existing recipe file"):
        load_training(tmp_path / "none.yml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_recipes_that_ship_are_recipes(path: Path) -> None:
    recipe = load_training(path)
    assert recipe.licence
    assert recipe.attribution
    assert not Path(recipe.output.path).is_absolute()


def test_there_are_recipes_to_check() -> None:
    assert {path.name for path in RECIPES} >= {"train_rain.yml", "train_temperature.yml"}


@pytest.mark.parametrize("value", ["", "8 fortnights", 0, -3, True, float("nan"), "1:2:3"])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="a time such as"):
        seconds_of(value)
