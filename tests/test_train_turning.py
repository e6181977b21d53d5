"""Augmentation: turning a patch commutes with the gradient of a potential, or what cannot be turned is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from sample_fields import plane
from training_recipes import data_block, recipe_content

from downscale.errors import OptionError
from downscale.fields.gradient import Spacing, sobel
from downscale.training.fit import prepare, vector_components
from downscale.training.pairs import open_source
from downscale.training.patches import Component, Sample, count_orientations, reorient_sample, variable_components
from downscale.training.sampling import PatchSampler
from downscale.training.schema import Data, Network, parse_training

WIND = ({"standard_name": "eastward_wind"}, {"standard_name": "northward_wind"})


def described(**attrs: dict[str, str]) -> list[dict[str, Any]]:
    return [{name: {"name": name, **each} for name, each in attrs.items()}]


def data_of(outputs: list[str], predictors: list[str] | None = None, **more: Any) -> Data:
    return data_block(outputs=outputs, predictors=predictors or [], **more)


@given(turn=st.integers(0, 7), north=st.booleans(), east=st.booleans(), seed=st.integers(0, 99))
def test_turning_commutes_with_the_gradient_of_a_potential(turn: int, north: bool, east: bool, seed: int) -> None:
    """Whichever way rows and columns run, and whether the components are outputs or predictors, fine or coarse."""
    grid = plane(12, 12)
    y = grid.y if grid.y.ascending == north else grid.y.reverse()
    x = grid.x if grid.x.ascending == east else grid.x.reverse()
    spacing = Spacing.of(grid.with_axes(y, x))
    potential = np.random.default_rng(seed).normal(size=(12, 12))

    def gradient(field: np.ndarray) -> np.ndarray:
        return np.stack([field, *sobel(field, spacing)]).astype("f4")

    fields, none = gradient(potential), np.zeros((0, 12, 12), "f4")
    parts = tuple(Component(group, *how) for group in ("outputs", "predictors") for how in ((1, "x", 2), (2, "y", 1)))
    share = np.full((12, 12), 1.0)
    sample = Sample(fields, 2 * fields, fields, 3 * fields, none, np.zeros(0, "f4"), share, share.astype("f4"))
    made = reorient_sample(sample, turn, parts, north == east)
    wanted = gradient(made.target[0].astype("f8"))
    scale = np.abs(fields[1:]).max()
    np.testing.assert_allclose(made.target[1:], wanted[1:], atol=1e-4 * scale)
    np.testing.assert_array_equal(made.coarse, made.target)
    np.testing.assert_array_equal(made.proposal, 2 * made.target)
    np.testing.assert_array_equal(made.predictors, 3 * made.target)


NAMES = [
    ("eastward_wind", "northward_wind"), ("x_wind", "y_wind"), ("grid_eastward_wind", "grid_northward_wind"),
    ("surface_downward_eastward_stress", "surface_downward_northward_stress"),
    ("sea_water_x_velocity", "sea_water_y_velocity"),
]  # fmt: skip


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
@pytest.mark.parametrize("predict", [False, True])
def test_components_are_found_by_their_standard_names(names: tuple[str, str], predict: bool) -> None:
    first, second = ({"standard_name": name} for name in names)
    group = "predictors" if predict else "outputs"
    data = data_of(["tas"], ["b", "a"]) if predict else data_of(["tas", "b", "a"])
    found = variable_components(data, described(tas={}, b=second, a=first), [True])
    at = 0 if predict else 1
    assert found == (Component(group, at, "y", at + 1), Component(group, at + 1, "x", at))
    assert count_orientations(found) == 8


def test_pairs_of_the_recipe_need_no_names() -> None:
    found = variable_components(data_of(["u10", "v10"], vectors=[["u10", "v10"]]), described(u10={}, v10={}), [False])
    assert found == (Component("outputs", 0, "x", 1), Component("outputs", 1, "y", 0))


def test_a_lone_component_is_mirrored_and_never_swapped() -> None:
    for found in (
        variable_components(data_of(["u"]), described(u=WIND[0]), [True]),
        variable_components(data_of(["u"], ["v"]), described(u=WIND[0], v=WIND[1]), [True]),
    ):
        assert all(part.partner is None for part in found)
        assert count_orientations(found) == 4


UNKNOWN: dict[str, tuple[dict[str, dict[str, str]], bool]] = {
    **{name: ({name: {}}, True) for name in ("u", "v10", "10u", "uas", "va", "uwnd", "vgrd", "uo", "tauu", "U850")},
    "long-name": ({"w1": {"long_name": "U component of wind"}}, True),
    "zonal": ({"w1": {"long_name": "zonal wind"}}, True),
    "turned-axes": ({"u": WIND[0], "v": WIND[1]}, False),
    "direction": ({"d": {"standard_name": "wind_from_direction"}}, True),
    "vorticity": ({"d": {"standard_name": "atmosphere_relative_vorticity"}}, True),
    "tensor": ({"t": {"standard_name": "upward_eastward_momentum_flux_in_northward_direction"}}, True),
}


@pytest.mark.parametrize(("attrs", "own_axes"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_may_be_a_component_and_is_not_known_is_refused(attrs: dict[str, Any], own_axes: bool) -> None:
    with pytest.raises(OptionError, match=r"patches.augment: .*data.vectors.*augment: false") as caught:
        variable_components(data_of(list(attrs)), described(**attrs), [own_axes])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tas", "pr", "t2m", "sfcWind", "wind_speed", "hurs", "ps", "tos", "vas_speed"])
def test_scalars_are_turned_as_they_are(name: str) -> None:
    assert variable_components(data_of([name]), described(**{name: {"long_name": "wind speed"}}), [False]) == ()


@pytest.mark.parametrize("vectors", [[["u", "w"]], [["u", "u"]], [["u", "v"], ["v", "u"]]])
def test_vectors_name_two_variables_of_one_kind(vectors: Any) -> None:
    content = {"data": {"factor": 2, "outputs": ["u", "v"], "pairs": [{"fine": "a.nc"}], "vectors": vectors},
               "output": {"path": "m"}}  # fmt: skip
    with pytest.raises(OptionError, match=r"key 'data': expected vectors"):
        parse_training(content)


def test_real_wind_is_drawn_in_all_turns_and_without_names_refused(tmp_path: Path) -> None:
    path = shared_data("wind_navy_global_2p5deg_monthly.nc")
    content = recipe_content(tmp_path)
    content["data"] = {"factor": 2, "outputs": ["uwnd", "vwnd"], "pairs": [{"fine": str(path)}]}
    recipe = parse_training(content)
    sources = [open_source(pair, recipe.data, Network()) for pair in recipe.data.pairs]
    parts = vector_components(recipe, sources, ())
    assert [(part.axis, part.partner) for part in parts] == [("x", 1), ("y", 0)]
    with xr.open_dataset(path) as ds:
        bare = ds.isel(time=slice(24)).load()
    for name in ("uwnd", "vwnd"):
        bare[name].attrs.pop("standard_name")
    bare.to_netcdf(tmp_path / "bare.nc")
    content["data"]["pairs"] = [{"fine": str(tmp_path / "bare.nc")}]
    with pytest.raises(OptionError, match=r"patches\.augment"):
        prepare(parse_training(content))
    content["patches"]["augment"] = False
    made = prepare(parse_training(content))
    assert made.components == ()
    draws = made.samplers["train"]
    assert isinstance(draws, PatchSampler)
    assert {key.orientation for key in draws.training_keys(0, 50)} == {0}
