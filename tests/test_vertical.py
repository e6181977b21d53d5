"""Layers: means over layers become means over other layers, and what a column holds stays what it is."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st

from downscale.cf.axes import new_axis_coordinates, read_axis, target_axis
from downscale.errors import GridError
from downscale.request import Request
from downscale.steps.axis_downscale import downscale_axis

pytestmark = pytest.mark.usefixtures("one_thread")


def layers(edges, units="Pa", positive="down", name="plev"):
    """Coordinates of layers."""
    edges = np.asarray(edges, dtype=np.float64)
    pairs = np.stack([edges[:-1], edges[1:]], axis=1)
    attrs = {"units": units, "positive": positive, "bounds": f"{name}_bnds"}
    return xr.Dataset(coords={name: (name, pairs.mean(axis=1), attrs), f"{name}_bnds": ((name, "bnds"), pairs)})


def column(edges, seed=0, **options):
    """A field in layers over a few places."""
    ds = layers(edges, **options)
    name = next(iter(ds.dims))
    values = 250 + 10 * np.random.default_rng(seed).standard_normal((3, ds.sizes[name], 4))
    return ds.assign(t=(("lat", name, "lon"), values), orog=(("lat", "lon"), np.zeros((3, 4))))


def content(ds, low=-np.inf, high=np.inf, name="plev"):
    """Integral over all layers, or over the part of them between two levels."""
    pairs = np.sort(ds[f"{name}_bnds"].values, axis=1)
    thick = np.clip(np.minimum(pairs[:, 1], high) - np.maximum(pairs[:, 0], low), 0, None)
    return (ds["t"] * xr.DataArray(thick, dims=name)).sum(name)


EDGES = np.array([1000, 925, 850, 700, 500, 300, 200, 100, 10.0]) * 100


@given(st.integers(1, 6), st.booleans(), st.sampled_from(["sobolev", "conservative", "bilinear"]), st.integers(0, 99))
def test_equal_parts_keep_the_mean_of_every_layer(factor, upward, method, seed):
    ds = column(EDGES if upward else EDGES[::-1], seed)
    fine = downscale_axis(ds, "plev", factor=factor, request=Request(method=method))
    back = downscale_axis(fine, "plev", target=ds, request=Request(method="conservative"))
    np.testing.assert_allclose(back["t"], ds["t"], rtol=1e-12)
    assert back["plev_bnds"].equals(ds["plev_bnds"])


@given(st.lists(st.integers(1, 99), min_size=2, max_size=12, unique=True), st.booleans(), st.integers(0, 99))
def test_any_new_layers_keep_what_the_column_holds_under_them(inner, upward, seed):
    ds = column(EDGES, seed)
    edges = 1000 + 990 * np.sort(np.array(inner, dtype=np.float64))
    target = layers(edges[::-1] if upward else edges)
    fine = downscale_axis(ds, "plev", target=target)
    assert fine["t"].dims == ds["t"].dims
    np.testing.assert_allclose(fine["plev"], target["plev"], rtol=0, atol=0)
    whole = ds["plev_bnds"].min("bnds").values >= edges[0]
    whole &= ds["plev_bnds"].max("bnds").values <= edges[-1]
    if whole.any():
        low = float(ds["plev_bnds"].values[whole].min())
        high = float(ds["plev_bnds"].values[whole].max())
        if low in edges and high in edges:
            np.testing.assert_allclose(content(fine, low, high), content(ds, low, high), rtol=1e-12)
    assert np.isfinite(fine["t"]).all()


def test_layers_over_the_whole_column_keep_its_content():
    ds = column(EDGES)
    fine = downscale_axis(ds, "plev", target=layers([100000, 90000, 61234, 33333, 21000, 1000]))
    np.testing.assert_allclose(content(fine), content(ds), rtol=1e-12)


def test_a_target_beyond_the_column_is_missing_there_and_keeps_the_covered_part():
    ds = column(EDGES)
    fine = downscale_axis(ds, "plev", target=layers([110000, 102000, 95000, 50000, 1000, 0]))
    assert fine["t"].isnull().all(["lat", "lon"]).values.tolist() == [True, False, False, False, True]
    covered = fine.isel(plev=slice(1, 4))
    np.testing.assert_allclose(content(covered, high=100000), content(ds), rtol=1e-12)
    strict = downscale_axis(ds, "plev", target=layers([110000, 102000, 95000, 50000]), request=Request(na_thres=0.0))
    assert strict["t"].isnull().all(["lat", "lon"]).values.tolist() == [True, True, False]
    with pytest.raises(GridError, match="expected a target that overlaps the vertical range 1000 to 100000"):
        downscale_axis(ds, "plev", target=layers([200000, 150000]))


def test_units_that_fit_are_converted_and_those_of_the_target_are_written():
    ds = column(EDGES)
    same = layers([100000, 70000, 30000, 1000])
    other = layers([1000, 700, 300, 10], units="hPa")
    one, two = (downscale_axis(ds, "plev", target=target) for target in (same, other))
    np.testing.assert_allclose(two["t"], one["t"], rtol=1e-12)
    assert two["plev"].attrs["units"] == "hPa"
    np.testing.assert_array_equal(two["plev_bnds"], other["plev_bnds"])
    depth = column([0, 0.01, 0.05, 0.2], units="km", name="depth")
    fine = downscale_axis(depth, "depth", target=layers([0, 20, 200], units="m", name="depth"))
    np.testing.assert_allclose(content(fine, name="depth") / 1000, content(depth, name="depth"), rtol=1e-12)


def test_units_or_directions_that_do_not_fit_are_refused():
    line = read_axis(column(EDGES), "plev")
    for units in ("m", ""):
        with pytest.raises(GridError, match=f"in units that fit 'Pa', received '{units or 'none'}'; convert it"):
            target_axis(line, layers([1, 2.0], units=units))
    with pytest.raises(GridError, match=r"that counts down, received one that counts up \(positive\)"):
        target_axis(line, layers([1, 2.0], positive="up"))


def test_sums_over_layers_stay_sums():
    ds = column(EDGES)
    ds["t"].attrs["cell_methods"] = "plev: sum"
    fine = downscale_axis(ds, "plev", target=layers([100000, 90000, 61234, 33333, 21000, 1000]))
    np.testing.assert_allclose(fine["t"].sum("plev"), ds["t"].sum("plev"), rtol=1e-12)


def test_bounds_of_values_hold_in_layers():
    ds = column(EDGES)
    ds["t"] = np.abs(ds["t"] - 250)
    fine = downscale_axis(ds, "plev", factor=5, request=Request(bounds=(0, None)))
    assert float(fine["t"].min()) >= 0
    assert float(downscale_axis(ds, "plev", factor=5, request=Request(bounds=None))["t"].min()) < 0


def test_layers_without_bounds_are_never_guessed():
    with xr.open_dataset(shared_data("temperature_ukv_1p5km_rotated_20091119.nc"), decode_coords="all") as ukv:
        both = r"expected one coordinate with bounds along 'model_level_number', received 'level_height', 'sigma'; name"
        with pytest.raises(GridError, match=both):
            read_axis(ukv, "model_level_number")
        # Every third level was kept: between them lies air that no mean is known of.
        gap = r"coordinate 'level_height': expected adjoining vertical cells, received \[900.0, 1013.3.* before \[1260"
        with pytest.raises(GridError, match=gap):
            read_axis(ukv, "level_height")
    bare = column(EDGES).drop_vars("plev_bnds")
    words = "values at levels are no means of layers; give the edges of its layers as plev_bnds"
    with pytest.raises(GridError, match=words):
        read_axis(bare, "plev")
    hybrid = column(EDGES)
    hybrid["plev"].attrs["formula_terms"] = "a: a b: b ps: ps"
    with pytest.raises(GridError, match=r"received hybrid levels \(formula_terms\).*; interpolate to layers"):
        read_axis(hybrid, "plev")
    words = column(EDGES).assign_coords(plev=list("abcdefgh"))
    with pytest.raises(GridError, match="expected dates or numbers, received <U1"):
        read_axis(words, "plev")
    with pytest.raises(GridError, match=r"expected a dimension among .* received 'height'"):
        read_axis(bare, "height")
    with pytest.raises(GridError, match="expected a coordinate with bounds along 'lat', received none"):
        read_axis(bare, "lat")


def test_an_auxiliary_coordinate_with_bounds_gives_the_layers_of_its_dimension():
    """Real levels, every one of them given the layer that reaches half way to its neighbours."""
    with xr.open_dataset(shared_data("temperature_ukv_1p5km_rotated_20091119.nc"), decode_coords="all") as ukv:
        ds = ukv[["air_potential_temperature"]].isel(grid_latitude=slice(0, 9), grid_longitude=slice(0, 8)).load()
    middle = 0.5 * (ds.level_height.values[1:] + ds.level_height.values[:-1])
    edges = np.concatenate([[0.0], middle, [1500.0]])
    new = ds.drop_vars("sigma").assign_coords(
        level_height_bnds=(("model_level_number", "bnds"), np.stack([edges[:-1], edges[1:]], axis=1))
    )
    with pytest.warns(UserWarning, match="dropped model_level_number: not on the new axis"):
        fine = downscale_axis(new, "model_level_number", factor=4)
    assert fine.sizes["model_level_number"] == 28
    assert fine["level_height"].dims == ("model_level_number",)
    with pytest.warns(UserWarning, match="dropped model_level_number"):
        same = downscale_axis(new, "level_height", factor=4)
    assert same.equals(fine)
    thick = xr.DataArray(np.diff(fine["level_height_bnds"]).ravel(), dims="model_level_number")
    mean = (fine["air_potential_temperature"].astype("f8") * thick).coarsen(model_level_number=4).sum()
    mean = mean / thick.coarsen(model_level_number=4).sum()
    np.testing.assert_allclose(mean, ds["air_potential_temperature"], rtol=1e-6)


def test_a_real_wind_in_layers_keeps_its_mass_flux():
    path = shared_data("nasty_packed_int16_eraint_uvz_0p75deg.nc")
    with pytest.warns(xr.SerializationWarning), xr.open_dataset(path) as era:
        ds = era[["u"]].isel(latitude=slice(4, None, 40), longitude=slice(0, None, 48)).load()
    ds = ds.assign_coords(level_bnds=(("level", "bnds"), [[100.0, 350.0], [350.0, 675.0], [675.0, 1000.0]]))
    ds["level"].attrs["bounds"] = "level_bnds"
    fine = downscale_axis(ds, "level", target=layers(np.arange(100000, 9999, -5000.0), name="plev"))
    thick = np.diff(ds["level_bnds"]).ravel() * 100
    old = (ds["u"] * xr.DataArray(thick, dims="level")).sum("level")
    np.testing.assert_allclose(fine["u"].sum("level") * 5000, old, rtol=1e-12)


def test_coordinates_of_parts_have_the_units_of_the_source():
    ds = column(EDGES)
    line = read_axis(ds, "plev")
    made = new_axis_coordinates(ds, line, line.refine(3))
    np.testing.assert_allclose(made["plev_bnds"].values[::3, 0], EDGES[:-1], rtol=0, atol=0)
    np.testing.assert_allclose(made["plev"].values, made["plev_bnds"].values.mean(axis=1), rtol=1e-15)
    assert made["plev"].attrs == ds["plev"].attrs
