"""What a model is in words: a round trip through JSON, and one line for what is wrong (no torch)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downscale.errors import OptionError, ShapeError
from downscale.nn.spec import CONSTRAINTS, ENCODINGS, STATICS, TRANSFORMS, ModelSpec, Variable

numbers = st.floats(-1e6, 1e6, allow_nan=False)
positive = st.floats(1e-9, 1e9)
names = st.text("abcdefghijk_", min_size=1, max_size=6)


@st.composite
def variables(draw: st.DrawFn, name: str) -> Variable:
    low = draw(st.none() | st.just(0.0))
    return Variable(
        name, draw(st.text(max_size=5)), draw(st.text(max_size=5)), draw(st.sampled_from(TRANSFORMS)), draw(numbers),
        draw(positive), draw(positive), (low, draw(st.none() | st.floats(0.5, 100))),
    )  # fmt: skip


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    every = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    fields = tuple(draw(variables(name)) for name in every)
    outputs = draw(st.integers(1, len(fields)))
    options = draw(st.dictionaries(names, st.integers(0, 9) | st.booleans() | st.text(max_size=3), max_size=3))
    return ModelSpec(
        draw(names), draw(st.tuples(st.integers(1, 10), st.integers(1, 10))), fields[:outputs], fields[outputs:],
        tuple(draw(st.lists(st.sampled_from(sorted(STATICS)), unique=True))),
        tuple(draw(st.lists(st.sampled_from(sorted(ENCODINGS)), unique=True))),
        options, draw(st.sampled_from(["additive", "bounded", "none"])), draw(st.sampled_from([3, 5, 7])), 1.25,
    )  # fmt: skip


@given(specs())
@settings(max_examples=80, deadline=None)
def test_a_model_comes_back_from_its_words(spec: ModelSpec) -> None:
    text = json.dumps(spec.to_dict(), allow_nan=False)
    assert ModelSpec.from_dict(json.loads(text)) == spec


@given(specs())
@settings(max_examples=40, deadline=None)
def test_channels_are_counted_by_name(spec: ModelSpec) -> None:
    assert spec.input_channels[: len(spec.outputs)] == tuple(variable.name for variable in spec.outputs)
    assert len(spec.input_channels) == len(spec.names) + 2 * len(spec.encodings)
    assert spec.fine_channels == 2 * len(spec.outputs) + len(spec.static_channels)
    assert spec.coarse_channels >= 2 * len(spec.names)
    assert len(spec.units) == len(spec.outputs)


GOOD: dict[str, Any] = ModelSpec("residual", (4, 4), (Variable("pr"),), statics=("orog", "aspect")).to_dict()


def test_angles_are_two_channels() -> None:
    spec = ModelSpec.from_dict({**GOOD, "encodings": ["hour"]})
    assert spec.static_channels == ("orog", "aspect_sin", "aspect_cos")
    assert spec.time_channels == ("hour_sin", "hour_cos")
    assert spec.laws == {"cell", "total"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"colour": 1}, "expected the keys 'network', 'factor', .* for a model, received 'colour'; remove it"),
        ({"outputs": [{"name": "pr", "unit": "mm"}]}, "expected the keys 'name', .* a variable of outputs, .* 'unit'"),
        ({"outputs": [{"units": "mm"}]}, "expected the key 'name' for a variable of outputs, received 'units'; add it"),
        ({"outputs": ["pr"]}, "expected a variable of outputs to be a mapping, received 'pr'"),
        ({"outputs": []}, "expected at least one output of a model, received none"),
        ({"outputs": 3}, "expected outputs to be a list, received 3"),
        ({"outputs": [{"name": 3}]}, "expected name of a variable of outputs to be a text, received 3"),
        ({"network": 3}, "expected network of a model to be a text, received 3"),
        ({"predictors": [{"name": "pr"}]}, "expected names that differ, received 'pr' twice"),
        ({"statics": ["orog", "orog"]}, "expected statics that differ, received 'orog' twice"),
        ({"statics": ["soil"]}, "expected statics to be among 'orog', .* received 'soil'"),
        ({"statics": "orog"}, "expected statics to be a list, received 'orog'"),
        ({"encodings": ["month"]}, "expected encodings to be among 'day_of_year', 'hour', received 'month'"),
        ({"constraint": "soft"}, "expected constraint to be among 'additive', .* received 'soft'"),
        ({"options": [1]}, "expected options to be a mapping, received \\[1\\]"),
        ({"factor": 4}, "expected factor to be a list, received 4"),
        ({"factor": [4]}, "expected factor to be a pair, received \\[4\\]"),
    ],
)
def test_wrong_words_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        ModelSpec.from_dict({**GOOD, **change})


@pytest.mark.parametrize("factor", [[0, 4], [2.0, 2], [True, 2], ["4", "4"]])
def test_wrong_factors_are_refused(factor: list[Any]) -> None:
    with pytest.raises(ShapeError, match="expected factor to be two whole numbers from 1 on, received"):
        ModelSpec.from_dict({**GOOD, "factor": factor})


@pytest.mark.parametrize("key", ["network", "factor", "outputs"])
def test_missing_keys_are_named(key: str) -> None:
    with pytest.raises(OptionError, match=f"expected the key '{key}' for a model, received "):
        ModelSpec.from_dict({name: value for name, value in GOOD.items() if name != key})
    with pytest.raises(OptionError, match="expected a model to be a mapping, received \\[\\]"):
        ModelSpec.from_dict([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"transform": "sqrt"}, "expected transform of 'v' to be among 'linear', 'log1p', 'local', received 'sqrt'"),
        ({"std": 0.0}, "v: expected std to be a finite number above zero, received 0.0"),
        ({"scale": -1.0}, "v: expected scale to be a finite number above zero, received -1.0"),
        ({"mean": float("nan")}, "v: expected mean to be a finite number, received nan"),
        ({"std": "1"}, "v: expected std to be a finite number above zero, received '1'"),
        ({"bounds": (1, 0)}, "v: expected bounds \\(low, high\\) or None for either, received \\(1, 0\\)"),
        ({"bounds": (float("nan"), None)}, "v: expected bounds"),
        ({"bounds": (0,)}, "expected bounds of 'v' to be a pair, received \\(0,\\)"),
    ],
)
def test_wrong_variables_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        Variable("v", **change)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("bounds", [(None, None), (0, None), (0, 1), (-1, None)])
def test_constraints_that_need_bounds_say_so(constraint: str, bounds: Any) -> None:
    outputs = (Variable("v", bounds=bounds),)
    if constraint in ("multiplicative", "softmax") and bounds != (0, None):
        with pytest.raises(OptionError, match=rf"expected bounds \(0, None\) for the {constraint} constraint"):
            ModelSpec("residual", (2, 2), outputs, constraint=constraint)
    else:
        assert ModelSpec("residual", (2, 2), outputs, constraint=constraint).constraint == constraint


def test_words_need_no_torch() -> None:
    code = "import sys; import downscale; before = set(sys.modules)\n" + (
        "import downscale.nn.spec; assert 'torch' not in set(sys.modules) - before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
