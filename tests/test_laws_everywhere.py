"""The laws for anything a file may hold: any grid, mask, chunking, calendar, order and type, through the public API.

A quick draw locally and in the suite; a thousand of each in the slow lane (`make test-laws`).
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sample_fields import same_bits
from strategies import (
    CONTENTS,
    calendars,
    chunkings,
    factor_pairs,
    generator,
    latlon_places,
    masks,
    projected_places,
    samples,
    seeds,
)

import downscale
from downscale.errors import GridError
from downscale.io.encoding import REPORT_ATTR
from downscale.nn.separable import METHODS

pytestmark = [pytest.mark.laws, pytest.mark.usefixtures("one_thread")]
methods = st.sampled_from(sorted(METHODS))
INTENSIVE = tuple(name for name in CONTENTS if name != "amount")
thresholds = st.sampled_from([0.0, 0.3, 1.0])
# All examples of a profile go to the cell law itself, over maps, valid parts and targets; each law that follows from
# how it is kept gets a tenth of them, so that a thousand fit into a slow lane of minutes.
some = settings(max_examples=max(settings.default.max_examples // 10, 10))


def factor_of(sample, factors):
    return dict(zip((sample.y, sample.x), factors, strict=True))


def tolerance_of(sample):
    return 1e-6 if sample.single else 1e-12


def blocks(values, factors):
    """Fine maps as (..., n_y, n_x, parts of a cell)."""
    (rows, columns), (fy, fx) = values.shape[-2:], factors
    cut = values.reshape(*values.shape[:-2], rows // fy, fy, columns // fx, fx)
    return np.moveaxis(cut, -3, -2).reshape(*cut.shape[:-4], rows // fy, columns // fx, fy * fx)


def maps(sample, ds):
    """The field with rows and columns last, as an array of float64."""
    others = [dim for dim in sample.ds.v.dims if dim not in (sample.y, sample.x)]
    return ds.v.transpose(*others, sample.y, sample.x).values.astype("f8")


def assert_cells_keep_their_values(sample, fine, factors, valid=True):
    """The cell law over valid parts, in a few lines of numpy and by nothing of the package but the areas."""
    given, made = maps(sample, sample.ds), blocks(maps(sample, fine), factors)
    area = blocks(fine.areacella.transpose(sample.y, sample.x).values, factors)
    valid = np.broadcast_to(valid, area.shape)
    np.testing.assert_array_equal(np.isnan(made), np.isnan(given)[..., None] | ~valid)
    held = np.isfinite(given) & valid.any(axis=-1)
    weight = np.ones(area.shape) if sample.extensive else area
    weighted = np.where(valid, weight * np.nan_to_num(made), 0)
    whole = 1 if sample.extensive else np.where(valid, weight, 0).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        means, sizes = weighted.sum(axis=-1) / whole, np.abs(weighted).sum(axis=-1) / whole
    error, scale = np.abs(means - given)[held], np.maximum(sizes, np.abs(given))[held]
    assert (error <= tolerance_of(sample) * scale).all()


def assert_kept(sample, fine, **options):
    """The package's own judge: no error above rounding, nothing lost, invented or out of bounds."""
    assume(np.isfinite(fine.v).any())
    report = downscale.check_conservation(sample.ds, fine, **options)
    # A target may have no region in common with the coarse cells; then there is nothing to judge, and no pass.
    assume(report["v"].cells_checked > 0)
    assert report.passed, report
    assert report["v"].cells_lost == report["v"].cells_invented == report["v"].values_out_of_bounds == 0


# The cell law on any target, by any factor and over any mask: first, since these take longest


@st.composite
def sources_and_targets(draw):
    """A field and a rectilinear grid of the same kind of coordinates, anywhere."""
    if draw(st.booleans()):
        return draw(samples(latlon_places())), draw(latlon_places())
    name = draw(st.sampled_from(["equal area", "conic", "none"]))
    return draw(samples(projected_places(name))), draw(projected_places(name))


@given(sources_and_targets(), methods, thresholds)
def test_any_target_keeps_the_budget_of_what_it_covers(pair, method, na_thres):
    sample, place = pair
    mapping = {} if place.mapping is None else {"crs": xr.Variable((), np.int32(0), place.mapping)}
    target = xr.Dataset(coords={**place.coords, **mapping})
    try:
        fine = downscale.downscale(sample.ds, target_grid=target, method=method, na_thres=na_thres)
    except GridError as error:
        assume("overlaps" not in str(error))
        raise
    assert_kept(sample, fine, na_thres=na_thres)
    for name in place.sizes:
        np.testing.assert_array_equal(fine[name], target[name])


@given(samples(), factor_pairs, methods)
def test_every_cell_keeps_its_value_by_any_method_on_any_grid(sample, factors, method):
    fine = downscale.downscale(sample.ds, factor_of(sample, factors), method)
    assert_cells_keep_their_values(sample, fine, factors)
    assert_kept(sample, fine)


@given(samples(), factor_pairs, methods, st.data())
def test_a_mask_keeps_the_law_over_valid_parts(sample, factors, method, data):
    factor = factor_of(sample, factors)
    others = {dim: 0 for dim in sample.ds.v.dims if dim not in factor}
    like = downscale.downscale(sample.ds.isel(others, drop=True), factor, "conservative")
    valid = data.draw(masks(like.v.transpose(*factor).shape))
    # A mask without any valid cell is refused.
    assume(valid.any())
    mask = like.drop_vars("v").assign(mask=(tuple(factor), valid))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "v: coarse cells with a value have no valid fine cell", UserWarning)
        fine = downscale.downscale(sample.ds, factor, method, mask=mask)
    assert_cells_keep_their_values(sample, fine, factors, blocks(valid, factors))
    assert_kept(sample, fine, mask=mask)


# A factor


@given(samples(), factor_pairs)
@some
def test_names_order_type_and_direction_are_kept(sample, factors):
    ds, factor = sample.ds, factor_of(sample, factors)
    fine = downscale.downscale(ds, factor)
    assert fine.v.dims == ds.v.dims
    assert fine.v.dtype == ds.v.dtype
    assert fine.v.attrs.items() >= CONTENTS[sample.content].items()
    assert dict(fine.v.sizes) == {dim: size * factor.get(dim, 1) for dim, size in ds.v.sizes.items()}
    for dim in set(ds.v.dims) & set(ds.coords):
        if dim not in factor:
            assert fine[dim].variable.identical(ds[dim].variable)
            continue
        whole, parts = (np.diff(one[dim].values.astype("f8")) for one in (ds, fine))
        # Only longitudes may jump, once, where their convention has its seam.
        jumps = "degree" in ds[dim].attrs["units"] and np.abs(whole) > 180
        ahead = np.sign(whole[~jumps] if np.any(jumps) else whole)[0]
        against = np.sign(parts) != ahead
        assert against.sum() <= np.sum(jumps)
        assert (np.abs(parts[against]) > 180).all()


@given(samples(), factor_pairs)
@some
def test_coarsening_brings_the_coarse_field_back(sample, factors):
    back = downscale.coarsen(downscale.downscale(sample.ds, factor_of(sample, factors)), factor_of(sample, factors))
    given, again = maps(sample, sample.ds), maps(sample, back)
    scale = np.nanmax(np.abs(given), initial=0, where=np.isfinite(given))
    np.testing.assert_allclose(again, given, rtol=tolerance_of(sample), atol=tolerance_of(sample) * scale)


@given(samples(contents=("wind", "temperature", "rain")), factor_pairs, methods, st.sampled_from([0.0, 7.25, 1e-4]))
@some
def test_a_constant_stays_that_constant(sample, factors, method, constant):
    flat = sample.ds.assign(v=sample.ds.v.copy(data=np.where(np.isnan(sample.ds.v), np.nan, constant)))
    fine = downscale.downscale(flat.astype(sample.ds.v.dtype), factor_of(sample, factors), method)
    made = fine.v.values[np.isfinite(fine.v.values)].astype("f8")
    np.testing.assert_allclose(made, constant, rtol=tolerance_of(sample))


@given(samples(contents=("wind", "amount")), factor_pairs, methods, st.sampled_from([0.0, 1e-9]), seeds)
@some
def test_a_cell_of_next_to_nothing_amid_equal_ones_keeps_its_value(sample, factors, method, little, seed):
    """What is left of large parts that are all alike is their rounding, which is much for such a cell."""
    few = generator(seed).uniform(size=sample.ds.v.shape) < 0.2
    v = sample.ds.v.copy(data=np.where(few, little, np.where(np.isnan(sample.ds.v), np.nan, 1e9)))
    sample = type(sample)(sample.ds.assign(v=v.astype(sample.ds.v.dtype)), *list(vars(sample).values())[1:])
    fine = downscale.downscale(sample.ds, factor_of(sample, factors), method)
    assert_cells_keep_their_values(sample, fine, factors)


@given(samples(), factor_pairs, methods, st.data())
@some
def test_any_chunking_gives_the_same_bits_and_stays_lazy(sample, factors, method, data):
    factor = factor_of(sample, factors)
    lazy = downscale.downscale(sample.ds.chunk(data.draw(chunkings(sample.ds))), factor, method)
    assert lazy.v.chunks is not None
    assert same_bits(lazy.v, downscale.downscale(sample.ds, factor, method).v)


# Time


@st.composite
def series(draw):
    """A field with months, whose stamps say their periods or have bounds."""
    sample = draw(samples(gaps=("none", "static")))
    count, calendar = draw(st.integers(2, 4)), draw(calendars)
    edges = xr.date_range("2000-02-01", periods=count + 1, freq="MS", calendar=calendar, use_cftime=True).values
    ds = sample.ds.isel(time=0, drop=True) if "time" in sample.ds.dims else sample.ds
    noise = xr.Variable("time", generator(draw(seeds)).uniform(0.1, 1.0, count).astype(ds.v.dtype))
    order = draw(st.permutations(["time", *ds.v.dims]))
    v = (ds.v.variable * noise).transpose(*order)
    v.attrs = ds.v.attrs
    time = xr.Variable("time", edges[:-1], {"standard_name": "time"})
    ds = ds.assign(v=v).assign_coords(time=time)
    if draw(st.booleans()):
        ds["time"].attrs["bounds"] = "time_bnds"
        ds = ds.assign_coords(time_bnds=(("time", "bnds"), np.stack([edges[:-1], edges[1:]], axis=1)))
    return type(sample)(ds, sample.y, sample.x, sample.kind, sample.content)


def month_means(fine, months):
    """Plain means of equal parts of months (or of days), by nothing of the package."""
    stamps = fine.time.dt.year * 12 + fine.time.dt.month
    assert len(np.unique(stamps)) == months
    return fine.v.astype("f8").groupby(stamps.rename("month")).mean().rename(month="time")


@given(series(), st.integers(1, 6), methods)
@some
def test_equal_parts_of_months_keep_their_means(sample, parts, method):
    fine = downscale.downscale(sample.ds, {"time": parts}, method)
    assert fine.v.dims == sample.ds.v.dims
    assert_kept(sample, fine)
    means = month_means(fine, sample.ds.sizes["time"]).transpose(*sample.ds.v.dims).values
    scale = tolerance_of(sample) * float(np.abs(fine.v).max().fillna(0))
    np.testing.assert_allclose(means, sample.ds.v.values, rtol=tolerance_of(sample), atol=scale)


@given(series(), methods)
@some
def test_days_made_of_months_keep_their_means(sample, method):
    fine = downscale.downscale(sample.ds, method=method, target_grid={"time": "D"})
    assert_kept(sample, fine)
    means = month_means(fine, sample.ds.sizes["time"]).transpose(*sample.ds.v.dims).values
    scale = tolerance_of(sample) * float(np.abs(fine.v).max().fillna(0))
    np.testing.assert_allclose(means, sample.ds.v.values, rtol=tolerance_of(sample), atol=scale)


@given(series(), factor_pairs, st.integers(1, 3))
@some
def test_time_and_maps_together_keep_both(sample, factors, parts):
    fine = downscale.downscale(sample.ds, {"time": parts, **factor_of(sample, factors)})
    assert_kept(sample, fine)


# Files


@given(samples(), factor_pairs)
@some
def test_what_is_written_is_read_back_and_certified(sample, factors):
    assume(sample.ds.v.notnull().any())
    fine = downscale.downscale(sample.ds, factor_of(sample, factors))
    with tempfile.TemporaryDirectory() as folder:
        report = downscale.to_netcdf(fine, Path(folder) / "fine.nc", coarse=sample.ds)
        assert report.passed
        with downscale.open_dataset(Path(folder) / "fine.nc") as back:
            assert json.loads(back.attrs[REPORT_ATTR])["passed"] is True
            assert "conservation passed as written" in back.v.attrs["conservation"]
            assert same_bits(back.v.transpose(*fine.v.dims), fine.v)
            assert_kept(sample, back)


# Symmetries


@given(samples(latlon_places(closed=True)), factor_pairs, methods, st.integers(1, 6))
@some
def test_rolling_a_globe_rolls_the_result(sample, factors, method, shift):
    plain = downscale.downscale(sample.ds, factor_of(sample, factors), method)
    turned = downscale.downscale(rolled(sample.ds, sample.x, shift), factor_of(sample, factors), method)
    expected = plain.v.roll({sample.x: shift * factors[1]}, roll_coords=False)
    assert_equal_to_rounding(sample, turned.v, expected)


def rolled(ds, x, shift):
    """The same globe begun at another column, its longitudes made to run on."""
    ds = ds.roll({x: shift % ds.sizes[x]}, roll_coords=True)
    return ds.assign_coords({x: ds[x].copy(data=ds[x].values % 360)}) if f"{x}_bnds" in ds.coords else ds


@given(samples(), factor_pairs, methods, st.booleans())
@some
def test_turning_an_axis_turns_the_result(sample, factors, method, rows):
    turn = {sample.y if rows else sample.x: slice(None, None, -1)}
    plain = downscale.downscale(sample.ds, factor_of(sample, factors), method)
    turned = downscale.downscale(sample.ds.isel(turn), factor_of(sample, factors), method)
    assert_equal_to_rounding(sample, turned.v, plain.v.isel(turn))


def assert_equal_to_rounding(sample, one, other):
    one, other = (field.transpose(*sample.ds.v.dims).values.astype("f8") for field in (one, other))
    size = np.abs(other[np.isfinite(other)]).max(initial=0)
    np.testing.assert_allclose(one, other, rtol=0, atol=(1e-6 if sample.single else 1e-9) * size)


@given(samples(latlon_places(), INTENSIVE, ("none",), ("float64",)), factor_pairs)
def test_weights_are_the_method_without_bounds(sample, factors):
    factor = factor_of(sample, factors)
    applied = downscale.apply_weights(sample.ds, downscale.weights(sample.ds, factor))
    fine = downscale.downscale(sample.ds, factor, bounds=None)
    np.testing.assert_allclose(applied.v, fine.v, rtol=0, atol=1e-12 * float(np.abs(fine.v).max()))
