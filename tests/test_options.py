"""Options: legal names and values only, for good or for the length of a block."""

from __future__ import annotations

import pytest

from downscale.errors import (
    BoundsError,
    ConservationError,
    DownscaleError,
    GridError,
    InputError,
    OptionError,
    OutputError,
    ShapeError,
    listing,
)
from downscale.options import CHECKS, ENGINES, get_options, option, set_options


@pytest.fixture(autouse=True)
def _restore():
    with set_options(**get_options()):
        yield


LEGAL = {
    "check": list(CHECKS),
    "device": ["auto", "cpu", "cuda:1"],
    "engine": list(ENGINES),
    "progress": ["auto", "on", "off"],
    "keep_attrs": [True, False],
    "max_memory": [None, "2GB", 10**9],
    "tolerance": [None, 1e-9, 1],
}
ILLEGAL = [
    ("check", "ignore", "option 'check': expected one of 'raise', 'warn', 'log', 'skip', received 'ignore'"),
    ("check", None, "option 'check': expected one of"),
    ("device", "", "option 'device': expected 'auto', 'cpu' or the name of an accelerator, received ''"),
    ("device", 0, "option 'device': expected .* received 0"),
    ("engine", "jax", "option 'engine': expected one of 'auto', 'numba', 'torch', 'dense', received 'jax'"),
    ("progress", True, "option 'progress': expected one of 'auto', 'on', 'off', received True"),
    ("keep_attrs", 1, "option 'keep_attrs': expected True or False, received 1"),
    ("max_memory", "much", "option 'max_memory': expected a size such as .* received 'much'"),
    ("max_memory", -1, "received -1"),
    ("tolerance", 0, "option 'tolerance': expected a positive number, or None .* received 0"),
    ("tolerance", -1e-6, "option 'tolerance': expected a positive number"),
    ("tolerance", float("nan"), "received nan"),
    ("tolerance", True, "received True"),
    ("tolerance", "1e-6", "received '1e-6'"),
]


def test_every_option_has_legal_values_here():
    assert set(LEGAL) == set(get_options())


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in LEGAL.items() for value in values])
def test_legal_values_are_taken(name, value):
    set_options(**{name: value})
    assert option(name) == get_options()[name] == value


@pytest.mark.parametrize(("name", "value", "match"), ILLEGAL)
def test_illegal_values_are_refused_and_change_nothing(name, value, match):
    before = get_options()
    with pytest.raises(OptionError, match=match):
        set_options(**{"keep_attrs": False, name: value})
    assert get_options() == before


def test_unknown_names_list_the_known_ones():
    before = get_options()
    with pytest.raises(OptionError, match=r"an option among 'check', 'device', .*'tolerance', received 'chekc'"):
        set_options(keep_attrs=False, chekc="warn")
    assert get_options() == before


def _fails_inside() -> None:
    with set_options(check="skip", tolerance=1e-3):
        with set_options(check="log"):
            assert option("check") == "log"
        assert option("check") == "skip"
        raise RuntimeError("inside")


def test_a_block_ends_with_what_was_before_even_after_an_error():
    set_options(check="warn")
    with pytest.raises(RuntimeError, match="inside"):
        _fails_inside()
    assert option("check") == "warn"
    assert option("tolerance") is None


def test_a_block_leaves_other_options_alone():
    with set_options(check="skip"):
        set_options(progress="off")
    assert option("progress") == "off"


def test_what_is_returned_is_a_copy():
    get_options()["check"] = "skip"
    assert option("check") == "raise"


@pytest.mark.parametrize(
    "error", [GridError, ShapeError, OptionError, InputError, OutputError, BoundsError, ConservationError]
)
def test_every_error_is_a_value_error_of_the_package(error):
    assert issubclass(error, DownscaleError)
    assert issubclass(error, ValueError)


def test_listings_quote_names():
    assert listing(["a", "b"]) == "'a', 'b'"
    assert listing({"key": 1}) == "'key'"
    assert listing([]) == ""
