"""The public door: every name is there, documented and annotated; options are checked; errors are of one family."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import xarray as xr

import downscale
from downscale import errors
from downscale.cli.arguments import options_of
from downscale.errors import DownscaleError, OptionError, listing
from downscale.options import CHECKS, get_options, option, set_options
from downscale.request import Request
from downscale.runs.recipe import Downscale


@pytest.mark.parametrize("name", downscale.__all__)
def test_every_public_name_is_there_and_documented(name):
    thing = getattr(downscale, name)
    assert name in dir(downscale)
    if name != "__version__":
        assert inspect.getdoc(thing), name


@pytest.mark.parametrize("name", ["downscale", "plan", "coarsen", "cell_area", "check_conservation", "to_netcdf"])
def test_public_functions_are_annotated(name):
    signature = inspect.signature(getattr(downscale, name))
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'downscale' has no attribute 'upscale'"):
        downscale.upscale  # noqa: B018
    assert not hasattr(downscale, "_hidden")


def test_names_are_found_once():
    assert downscale.coarsen is downscale.coarsen
    assert "coarsen" in vars(downscale)


@pytest.mark.parametrize("name", ["downscale", "coarsen", "check_conservation", "to_netcdf"])
def test_docstrings_say_what_is_conserved(name):
    text = inspect.getdoc(getattr(downscale, name)).lower()
    assert "cell" in text
    assert "conserv" in text or "mean" in text


def test_every_parameter_of_the_main_function_is_explained():
    text = inspect.getdoc(downscale.downscale)
    parameters = inspect.signature(downscale.downscale).parameters
    missing = [name for name in parameters if name != "unknown" and name not in text]
    assert missing == []


def test_every_door_shows_every_argument_of_a_request():
    names = [one.name for one in dataclasses.fields(Request)]
    fine = xr.DataArray([0.0], dims="x").downscale
    for function in (downscale.downscale, downscale.plan, fine.__call__, fine.plan):
        assert [name for name in inspect.signature(function).parameters if name != "obj"] == names
    assert all(f"\n{name} : " in inspect.getdoc(fine.__call__) for name in names)


def test_recipes_and_the_command_line_take_their_arguments_from_the_request():
    declared = {one.name: one.default for one in dataclasses.fields(Request)}
    fields = Downscale.model_fields
    assert {name: field.default for name, field in fields.items()} == {name: declared[name] for name in fields}
    assert {name: default for name, (_, default) in options_of().items()}.items() <= declared.items()


def test_all_errors_are_value_errors_of_one_family():
    found = [thing for thing in vars(errors).values() if inspect.isclass(thing)]
    assert len(found) >= 8
    for error in found:
        assert issubclass(error, DownscaleError)
        assert issubclass(error, ValueError)
        assert error.__doc__


def test_listing():
    assert listing(["a", None, 3]) == "'a', None, 3"
    assert listing([]) == ""


def test_options_hold_in_their_block_only():
    before = get_options()
    with set_options(check="skip", tolerance=1e-3):
        assert (option("check"), option("tolerance")) == ("skip", 1e-3)
        with set_options(check="warn"):
            assert option("check") == "warn"
        assert option("check") == "skip"
    assert get_options() == before


def test_options_may_be_set_for_good():
    before = get_options()
    try:
        set_options(progress="off")
        assert option("progress") == "off"
    finally:
        set_options(**before)
    assert get_options() == before


def test_a_copy_of_the_options_changes_nothing():
    get_options()["check"] = "skip"
    assert option("check") == "raise"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"chek": "warn"}, "expected an option among 'check', 'device', .*, received 'chek'"),
        ({"check": "never"}, f"option 'check': expected one of {listing(CHECKS)}, received 'never'"),
        ({"progress": True}, "option 'progress': expected one of 'auto', 'on', 'off', received True"),
        ({"keep_attrs": "default"}, "option 'keep_attrs': expected True or False, received 'default'"),
        ({"tolerance": -1}, "option 'tolerance': expected a positive number, or None .*, received -1"),
        ({"tolerance": True}, "option 'tolerance': expected a positive number"),
        ({"device": ""}, "option 'device': expected 'auto', 'cpu' or the name of an accelerator, received ''"),
    ],
)
def test_wrong_options_change_nothing_and_list_the_choices(options, match):
    before = get_options()
    with pytest.raises(OptionError, match=match):
        set_options(**options)
    with pytest.raises(OptionError):
        set_options(check="warn", **{key: value for key, value in options.items() if key != "check"} or {"x": 1})
    assert get_options() == before
