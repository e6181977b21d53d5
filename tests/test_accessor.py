"""The accessor is the function with the object in front, on Datasets and DataArrays alike."""

from __future__ import annotations

import pytest
import xarray as xr
from sample_fields import field_on, rain_on, region, same_bits, world
from schedulers import computations

import downscale
from downscale.errors import OptionError


def test_calling_it_is_calling_the_function():
    ds = field_on(world())
    for obj in (ds, ds.tas):
        fine = obj.downscale(2, "bilinear", conserve=None)
        wanted = downscale.downscale(obj, 2, "bilinear", conserve=None)
        fine.attrs.pop("history", None), wanted.attrs.pop("history", None)
        xr.testing.assert_identical(fine, wanted)
        assert repr(obj.downscale.plan(2)) == repr(downscale.plan(obj, 2))
        xr.testing.assert_identical(obj.downscale.coarsen(2), downscale.coarsen(obj, 2))


def test_a_dataset_gives_a_dataset_and_an_array_an_array():
    ds = field_on(world())
    assert isinstance(ds.downscale(2), xr.Dataset)
    fine = ds.tas.downscale(2)
    assert isinstance(fine, xr.DataArray)
    assert fine.name == "tas"
    assert same_bits(fine, ds.downscale(2).tas)
    assert ds.tas.downscale.coarsen(2).name == "tas"


@pytest.mark.parametrize("name", [None, "lat", "tas", 5])
def test_the_name_of_an_array_is_kept_whatever_it_is(name):
    array = field_on(world()).tas.rename(name)
    fine = array.downscale(2)
    assert fine.name == name
    assert fine.downscale.check(array).passed
    assert array.downscale.coarsen(2).name == name


def test_check_takes_the_two_in_any_order():
    coarse = rain_on(region(), missing=0.1)
    fine = coarse.downscale(4)
    one, other = coarse.downscale.check(fine), fine.downscale.check(coarse)
    assert one.passed
    assert one.to_dict() == other.to_dict()
    assert coarse.pr.downscale.check(fine.pr).passed
    assert coarse.downscale.check(fine, law="total", tolerance=1e-3)["pr"].tolerance == 1e-3
    with pytest.raises(OptionError, match="expected law to be one of 'cell', 'total', received 'mass'"):
        coarse.downscale.check(fine, law="mass")


def test_check_of_lazy_fields_computes_once():
    coarse = rain_on(region(), missing=0.1)
    fine = coarse.downscale(4).chunk(lat=5, time=1)
    with computations(1):
        assert coarse.chunk(time=2).downscale.check(fine).passed


def test_the_readme_line():
    ds = downscale.sample.open("north_america")
    report = ds.downscale(4).downscale.check(ds)
    assert report.passed
    assert "passed" in repr(report)
