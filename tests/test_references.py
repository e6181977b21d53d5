"""Attributes that name other variables are read, followed and shortened by one rule, whatever their form."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from downscale.cf.attributes import find_referenced, references, remove_references

# Attribute, value, names in it, the value without "gone".
FORMS = [
    ("bounds", "gone", ("gone",), None),
    ("climatology", "gone", ("gone",), None),
    ("ancillary_variables", "qc gone err", ("qc", "gone", "err"), "qc err"),
    ("coordinates", "lat gone", ("lat", "gone"), "lat"),
    ("cell_measures", "area: gone", ("gone",), None),
    ("cell_measures", "area: a volume: gone", ("a", "gone"), "area: a"),
    ("cell_measures", "area:gone", ("gone",), None),
    ("formula_terms", "a: ap b: b ps: gone", ("ap", "b", "gone"), None),
    ("grid_mapping", "gone", ("gone",), None),
    ("grid_mapping", "crs: x gone", ("crs", "x", "gone"), "crs: x"),
    ("grid_mapping", "gone: x y wgs: lat lon", ("gone", "x", "y", "wgs", "lat", "lon"), "wgs: lat lon"),
    ("quality_flag", "gone", ("gone",), None),
    ("error_variables", "gone err", ("gone", "err"), "err"),
]
HELD = ("gone", "qc", "err", "crs", "lat", "long")


# xarray moves only what CF defines from the attributes to the encoding.
PLACES = [(*form, "attrs") for form in FORMS] + [(*form, "encoding") for form in FORMS[:-2]]


@pytest.mark.parametrize(("key", "value", "names", "left", "place"), PLACES)
def test_every_form_of_a_reference_is_read_and_shortened(key, value, names, left, place):
    variable = xr.Variable((), 0.0)
    getattr(variable, place)[key] = value
    assert references(variable, HELD) == {key: names}
    assert remove_references(variable, {"gone"}, HELD) == [key]
    assert getattr(variable, place).get(key) == left
    assert "gone" not in {n for every in references(variable, HELD).values() for n in every}


@pytest.mark.parametrize("key", ["long_name", "standard_name", "units", "axis", "comment"])
def test_words_are_no_references(key):
    variable = xr.Variable((), 0.0, {key: "gone"})
    assert references(variable, HELD) == {}
    assert remove_references(variable, {"gone"}, HELD) == []
    assert variable.attrs == {key: "gone"}


@pytest.mark.parametrize("value", [np.array([1, 2]), 3, None, np.array(["a", "b"])])
def test_attributes_that_are_no_text_hold_no_names(value):
    assert references(xr.Variable((), 0.0, {"bounds": value, "other": value}), HELD) == {}


def test_what_is_referred_to_refers_on():
    ds = xr.Dataset(
        {"ta": ("lev", [1.0]), "ps": ((), 1.0, {"ancillary_variables": "ps_qc"}), "ps_qc": ((), 1), "other": ((), 1)},
        {"lev": ("lev", [1.0], {"formula_terms": "a: a ps: ps", "bounds": "lev_bnds"}),
         "a": ("lev", [1.0], {"bounds": "a_bnds"}), "a_bnds": (("lev", "two"), [[0.0, 1]]),
         "lev_bnds": (("lev", "two"), [[0.0, 1]], {"formula_terms": "a: a_bnds ps: ps"})},
    )  # fmt: skip
    assert find_referenced(ds, ["ta"]) == {"lev", "lev_bnds", "a", "a_bnds", "ps", "ps_qc"}
    assert find_referenced(ds, ["other"]) == set()
