"""Fewer bits change values by no more than they say, and no file with them escapes the check of its law."""

from __future__ import annotations

import json
import os
from typing import Any

import dask.array as da
import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sample_fields import field_on, rain_on, region, same_bits, world

import downscale
from downscale.errors import ConservationError, InputError, OptionError, OutputError
from downscale.io.encoding import CODES, FILL, REPORT_ATTR, enough_bits, parse_packing, round_bits, scale_and_offset
from downscale.output import to_netcdf

FLOATS = {"float32": (np.uint32, 23), "float64": (np.uint64, 52)}


def reopened(path: Any, **options: Any) -> xr.Dataset:
    return downscale.open_dataset(path, chunks=None, **options).load()


def nearest_even(value: float, bits: int) -> float:
    """The slow and obvious rounding, in exact arithmetic."""
    mantissa, exponent = np.frexp(value)
    return float(np.ldexp(np.round(np.ldexp(mantissa, bits + 1)), exponent - bits - 1))


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_rounding_is_to_the_nearest_and_ties_go_to_even(dtype, data):
    kind, most = FLOATS[dtype]
    bits = data.draw(st.integers(1, most))
    width = np.dtype(dtype).itemsize * 8
    numbers = st.floats(-(2.0**100), 2.0**100, width=width, allow_subnormal=False)
    values = data.draw(npst.arrays(dtype, st.integers(1, 20), elements=numbers))
    less = round_bits(values, bits)
    assert less.dtype == values.dtype
    np.testing.assert_array_equal(less, np.array([nearest_even(float(v), bits) for v in values], dtype))
    assert (np.abs(less - values) <= 2.0 ** -(bits + 1) * np.abs(values)).all()
    assert not ((less.view(kind) & kind((1 << (most - bits)) - 1)) != 0).any(), "the other bits are zero"
    np.testing.assert_array_equal(round_bits(less, bits), less)
    np.testing.assert_array_equal(round_bits(-values, bits), -less)


def test_what_is_no_number_stays_and_the_largest_stay_finite():
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo("f4").max], "f4")
    less = round_bits(values, 3)
    assert same_bits(less[:5], values[:5])
    assert np.signbit(less[4])
    assert np.isfinite(less[5])
    tie = np.array([1 + 1 / 16, 1 + 3 / 16], "f4")
    np.testing.assert_array_equal(round_bits(tie, 3), np.array([1.0, 1.25], "f4"))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_a_packed_range_fits_and_steps_are_powers_of_two(low, wide):
    scale, offset = scale_and_offset(low, low + wide)
    assert np.frexp(scale)[0] == 0.5
    assert offset / scale == round(offset / scale)
    codes = np.round((np.array([low, low + wide]) - offset) / scale)
    assert (np.abs(codes) < 2**15).all()
    assert (codes > FILL).all()
    assert scale <= 2.1 * max(wide, 1e-9 * abs(low)) / CODES, "and wastes at most one bit"


@given(st.floats(0.001, 1e9))
def test_zero_stays_zero_in_single_precision_too(high):
    scale, offset = scale_and_offset(0.0, high)
    code = np.int16(round(-offset / scale))
    assert np.float32(code) * np.float32(scale) + np.float32(offset) == 0
    assert float(code) * scale + offset == 0


@pytest.mark.parametrize("low", [0.0, 5.0, -3.25e-4, np.nan])
def test_a_constant_is_kept(tmp_path, low):
    ds = xr.Dataset({"tas": (("y", "x"), np.full((4, 5), low, "f4"), {"units": "K"})})
    to_netcdf(ds, tmp_path / "a.nc", packing="int16")
    np.testing.assert_array_equal(reopened(tmp_path / "a.nc").tas, ds.tas)


def packed(tmp_path: Any, ds: xr.Dataset, packing: Any, **options: Any) -> xr.Dataset:
    to_netcdf(ds.downscale(2), tmp_path / "a.nc", coarse=ds, packing=packing, **options)
    return reopened(tmp_path / "a.nc")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lazy", [False, True])
def test_short_integers_on_disk(tmp_path, dtype, lazy):
    ds = rain_on(world(), missing=0.1, dtype=dtype)
    ds = ds.chunk(time=1) if lazy else ds
    fine = ds.downscale(2).compute()
    back = packed(tmp_path, ds, "int16", tolerance=0.02)
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        raw = file["pr"]
        assert raw.dtype == np.int16
        assert raw._FillValue == FILL
        assert raw.scale_factor.dtype == raw.add_offset.dtype == dtype, "CF: of the type of the unpacked values"
        assert file["areacella"].dtype == np.float64
        scale = float(raw.scale_factor)
    assert back.pr.dtype == dtype
    np.testing.assert_array_equal(back.pr.isnull(), fine.pr.isnull())
    assert float(np.abs(back.pr - fine.pr).max()) <= scale / 2 * (1 + 1e-5)
    dry = fine.pr.values == 0
    assert dry.sum() > 100
    assert (back.pr.values[dry] == 0).all()
    assert float(back.pr.min()) >= 0


def test_a_packed_share_keeps_its_upper_bound(tmp_path):
    rng = np.random.default_rng(0)
    ds = field_on(region(), dtype="float32", standard_name="cloud_area_fraction", units="%", name="clt")
    ds["clt"] = ds.clt.copy(data=rng.choice([0.0, 40.0, 100.0], ds.clt.shape).astype("f4"))
    report = to_netcdf(ds.downscale(2), tmp_path / "a.nc", coarse=ds, packing="int16", tolerance=1e-3)
    assert report["clt"].values_out_of_bounds == 0
    assert float(reopened(tmp_path / "a.nc").clt.max()) == 100.0


def test_a_law_broken_by_packing_is_refused_with_the_remedy(tmp_path):
    coarse = field_on(world(), dtype="float32", missing=0.1)
    fine = coarse.downscale(2)
    line = (
        r"tas: expected the cell law within 1e-06 as packed \(short integers.*\), received a largest relative error of "
        r"\d\S+e-06; keep about 19 bits \(packing=\{'tas': 19\}\), pass tolerance=\de-06, or leave out packing"
    )
    with pytest.raises(ConservationError, match=line):
        to_netcdf(fine, tmp_path / "a.nc", coarse=coarse, packing="int16")
    with pytest.raises(ConservationError, match=r"as packed \(8 mantissa bits kept, rounded to nearest even\), rec"):
        to_netcdf(fine, tmp_path / "a.nc", coarse=coarse, packing={"tas": 8})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("packing", ["int16", 4, 8, 12, 16])
@pytest.mark.parametrize("make", [field_on, rain_on])
def test_the_remedies_in_the_refusal_work(tmp_path, packing, make):
    """Both the bits and the tolerance that the line names are enough."""
    coarse = make(world(), dtype="float32", missing=0.1)
    name = next(iter(coarse.data_vars))
    fine = coarse.downscale(2)
    with pytest.raises(ConservationError) as refusal:
        to_netcdf(fine, tmp_path / "a.nc", coarse=coarse, packing=packing)
    bits = int(str(refusal.value).split(f"'{name}': ")[1].split("}")[0])
    tolerance = float(str(refusal.value).split("tolerance=")[1].split(",")[0])
    assert to_netcdf(fine, tmp_path / "bits.nc", coarse=coarse, packing={name: bits}).passed
    assert to_netcdf(fine, tmp_path / "loose.nc", coarse=coarse, packing=packing, tolerance=tolerance).passed


def test_bits_that_are_enough():
    assert enough_bits(1e-6, "int16", 1.0) == 19
    assert enough_bits(1e-6, 8, 1.5e-6) == 9
    assert enough_bits(1e-12, 8, 1.0) == 39
    assert enough_bits(1e-17, "int16", 1.0) is None
    assert enough_bits(0.9, "int16", 1.0) == 1


def test_a_fault_that_no_tolerance_heals_says_so(tmp_path):
    """Rounding up over a bound that has more bits than are kept."""
    coarse = field_on(region(), dtype="float32")
    coarse["tas"] = xr.full_like(coarse.tas, 300.7)
    line = r"fine values out of bounds, as packed \(4 mantissa bits.*; leave out packing"
    with pytest.raises(ConservationError, match=line):
        to_netcdf(coarse.downscale(2), tmp_path / "a.nc", coarse=coarse, packing=4, tolerance=0.1, bounds=(None, 300.8))
    assert os.listdir(tmp_path) == []


def test_the_certificate_states_tolerance_error_and_packing(tmp_path):
    coarse = rain_on(world(), dtype="float32").assign(tas=field_on(world(), dtype="float32").tas)
    report = to_netcdf(
        coarse.downscale(2), tmp_path / "a.nc", coarse=coarse, packing={"tas": "int16", "pr": 12}, tolerance=2e-2
    )
    back = reopened(tmp_path / "a.nc")
    found = json.loads(back.attrs[REPORT_ATTR])["variables"]
    fresh = downscale.check_conservation(coarse, back, tolerance=2e-2)
    for name, words in (("tas", "short integers over the range of values"), ("pr", "12 mantissa bits kept")):
        assert words in found[name]["packing"] == back[name].attrs["packing"]
        assert found[name]["tolerance"] == 2e-2
        assert found[name]["max_relative_error"] == report[name].max_relative_error == fresh[name].max_relative_error
        assert found[name]["max_relative_error"] > 1e-6
        assert "tolerance 0.02" in back[name].attrs["conservation"]


def test_lazy_rounding_is_that_of_values(tmp_path):
    coarse = field_on(region(), dtype="float32", missing=0.1)
    fine = coarse.downscale(2)
    kept = packed(tmp_path, coarse, 14, tolerance=1e-3)
    again = to_netcdf(fine.chunk(time=1, lat=5), tmp_path / "b.nc", coarse=coarse, packing=14, tolerance=1e-3)
    assert again.passed
    assert same_bits(kept.tas, reopened(tmp_path / "b.nc").tas)
    assert same_bits(kept.tas, round_bits(fine.tas.values, 14))
    assert isinstance(fine.chunk(time=1).tas.data, da.Array), "the given object is as it was"


def test_fewer_bits_make_a_smaller_file(tmp_path):
    """Real radar rain."""
    ds = xr.open_dataset(shared_data("precipitation_mch_20160711_1km_5min.nc"))
    ds = ds[["precip", "x_bnds", "y_bnds"]].drop_vars(["lat", "lon"])
    # Without its projection: positions on the earth would be most of the file.
    del ds.precip.attrs["grid_mapping"]
    ds = ds.isel(time=slice(0, 6), y=slice(100, 420), x=slice(100, 420))
    coarse = ds.downscale.coarsen(4).astype("f4")
    fine = coarse.downscale(4)
    sizes, errors = {}, {}
    for name, packing in (("plain", None), ("bits", 10), ("short", "int16")):
        report = to_netcdf(fine, tmp_path / f"{name}.nc", coarse=coarse, packing=packing, tolerance=packing and 1)
        sizes[name] = (tmp_path / f"{name}.nc").stat().st_size
        errors[name] = report.max_relative_error
    assert sizes["bits"] < 0.75 * sizes["plain"]
    assert sizes["short"] < 0.75 * sizes["plain"]
    assert errors["plain"] <= 1e-6 < errors["bits"] < 1e-3
    assert errors["short"] > errors["bits"], "small rain suffers from steps of one size"


def test_a_field_that_was_packed_is_not_packed_again(tmp_path):
    coarse = field_on(world(), dtype="float32")
    first = packed(tmp_path, coarse, "int16", tolerance=1e-3)
    to_netcdf(first, tmp_path / "b.nc")
    with netCDF4.Dataset(tmp_path / "b.nc") as file:
        assert not {"scale_factor", "add_offset", "packing", "conservation"} & set(file["tas"].ncattrs())
        assert REPORT_ATTR not in file.ncattrs(), "what was found in another file"
    assert same_bits(reopened(tmp_path / "b.nc").tas, first.tas)


def test_undecoded_numbers_are_refused_and_idle_attributes_dropped(tmp_path):
    ds = field_on(region())
    ds.tas.attrs.update(scale_factor=0.5, add_offset=3.0)
    with pytest.raises(InputError, match=r"tas: expected decoded values, received scale_factor 0\.5 and add_offset 3"):
        to_netcdf(ds, tmp_path / "a.nc")
    ds.tas.attrs.update(scale_factor=1.0, add_offset=0.0, missing_value=-9.0, _FillValue=-9.0, valid_range=[0, 1])
    ds.tas.encoding.update(scale_factor=0.5, dtype="int16", _FillValue=-1, missing_value=-1)
    to_netcdf(ds, tmp_path / "a.nc")
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        assert not {"scale_factor", "add_offset", "missing_value", "valid_range"} & set(file["tas"].ncattrs())
        assert file["tas"]._FillValue == 1e20
    assert same_bits(reopened(tmp_path / "a.nc").tas, ds.tas)


@pytest.mark.parametrize(
    ("packing", "match"),
    [
        ("int8", "tas: expected packing to be None, 'int16' or the mantissa bits to keep .1 to 23., received 'int8'"),
        (0, "expected packing to be None, 'int16' or the mantissa bits .*received 0"),
        (24, "mantissa bits to keep .1 to 23., received 24"),
        (True, "received True"),
        (12.0, r"received 12\.0"),
        ({"pr": "int16"}, "expected packing of a field among 'tas', received 'pr'"),
        ({"areacella": 3}, "expected packing of a field among 'tas', received 'areacella'"),
    ],
)
def test_what_packing_may_be(tmp_path, packing, match):
    ds = field_on(region(), dtype="float32").downscale(2)
    with pytest.raises(OptionError, match=match):
        to_netcdf(ds, tmp_path / "a.nc", packing=packing)
    assert parse_packing({"tas": None}, ["tas"], ds) == {}
    assert os.listdir(tmp_path) == []


def test_infinite_values_are_not_packed(tmp_path):
    ds = field_on(region())
    ds.tas[0, 0, 0] = np.inf
    for obj in (ds, ds.chunk(time=1)):
        with pytest.raises(OutputError, match=r"tas: expected finite values to pack, received .* to inf; leave"):
            to_netcdf(obj, tmp_path / "a.nc", packing="int16")
