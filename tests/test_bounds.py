"""Bounds are read wherever and however a file holds them: order, names, repeats, units, slips; lost ones are missed."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr
from command import command
from sample_fields import field_on, plane, region, world
from test_cf import on_planes, sheared

import downscale
from downscale.cf.axes import read_axis
from downscale.cf.bounds import read_bounds
from downscale.cf.coordinates import select
from downscale.cf.horizontal import horizontal
from downscale.cf.times import step_lengths, time_span
from downscale.errors import DownscaleError, GridError
from downscale.grid.axis import axis_from_bounds, is_evenly_spaced

ROWS = np.array([-80.0, -45.0, -20.0, 5.0, 40.0, 70.0])
ROW_EDGES = np.array([-90.0, -60.0, -30.0, -10.0, 20.0, 50.0, 90.0])
COLUMNS = np.arange(4.0) * 90
COLUMN_EDGES = np.array([-40.0, 50.0, 130.0, 230.0, 320.0])


def pairs_of(edges: np.ndarray) -> np.ndarray:
    return np.stack([edges[:-1], edges[1:]], axis=1)


def uneven(**dims: tuple[str, ...]) -> xr.Dataset:
    """A field whose cells are no midpoints; bounds have the dimensions given by name."""
    values = 280 + np.random.default_rng(0).normal(size=(3, 6, 4))
    degrees = ({"units": "degrees_north", "bounds": "lat_bnds"}, {"units": "degrees_east", "bounds": "lon_bnds"})
    months = xr.date_range("2001-01-05", periods=3, freq="31D")
    edges = xr.date_range("2000-12-21", periods=4, freq="31D").values
    coords: dict[str, Any] = {
        "time": ("time", months.values, {"bounds": "time_bnds"}), "lat": ("lat", ROWS, degrees[0]),
        "lon": ("lon", COLUMNS, degrees[1]),
    }  # fmt: skip
    ds = xr.Dataset({"tas": (("time", "lat", "lon"), values, {"units": "K"})}, coords)
    found = {"time": pairs_of(edges), "lat": pairs_of(ROW_EDGES), "lon": pairs_of(COLUMN_EDGES)}
    for name, pairs in found.items():
        bounds = xr.Variable((name, "bnds"), pairs)
        ds = ds.assign_coords({f"{name}_bnds": bounds.transpose(*dims.get(name, bounds.dims))})
    return ds


def edges_read(ds: xr.Dataset) -> list[np.ndarray]:
    where = horizontal(ds)
    line = read_axis(ds, "time")
    return [where.grid.y.edges, where.grid.x.edges, line.axis.edges]


@pytest.mark.parametrize("where", ["coordinates", "variables"])
@pytest.mark.parametrize("pair", ["bnds", "axis_nbounds"])
@pytest.mark.parametrize("first", list(itertools.product([True, False], repeat=3)))
def test_the_pair_may_stand_anywhere_under_any_name(first, pair, where):
    orders = {name: ("bnds", name) for name, turned in zip(("time", "lat", "lon"), first, strict=True) if turned}
    ds, wanted = uneven(**orders).rename(bnds=pair), edges_read(uneven())
    ds = ds.reset_coords([f"{name}_bnds" for name in ("time", "lat", "lon")]) if where == "variables" else ds
    for read, edges in zip(edges_read(ds), wanted, strict=True):
        np.testing.assert_array_equal(read, edges)
    fine = ds.downscale(2)
    assert fine.lat_bnds.dims == ("lat", pair)
    np.testing.assert_array_equal(fine.tas, uneven().downscale(2).tas)
    assert step_lengths(ds, "time").tolist() == [31.0] * 3
    assert time_span(ds, "time") == time_span(uneven(), "time")


def bent(**attrs: Any) -> xr.Dataset:
    """Quadrilaterals whose corners do not lie midway between centres."""
    y, x = np.mgrid[0:6, 0:7].astype(float)
    north, east = 40 + y + 0.05 * y**2 - 0.2 * x, 10 + x + 0.04 * x**2 + 0.3 * y
    ds = on_planes(*(nodes[:-1, :-1] + 0.4 for nodes in (north, east)), **attrs)
    for name, nodes in (("lat", north), ("lon", east)):
        corners = np.stack([nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, 1:], nodes[1:, :-1]], axis=-1)
        ds = ds.assign_coords({f"{name}_bnds": (("j", "i", "nv"), corners)})
        ds[name].attrs["bounds"] = f"{name}_bnds"
    return ds


@pytest.mark.parametrize("order", list(itertools.permutations(("j", "i", "nv"))))
def test_corners_may_stand_anywhere(order):
    ds, wanted = bent(), horizontal(bent()).grid
    turned = ds.assign_coords({name: ds[name].transpose(*order) for name in ("lat_bnds", "lon_bnds")})
    np.testing.assert_array_equal(horizontal(turned).grid.base_corners, wanted.base_corners)
    repeated = turned.assign_coords({n: turned[n].expand_dims(time=3, axis=1) for n in ("lat_bnds", "lon_bnds")})
    np.testing.assert_array_equal(horizontal(repeated).grid.base_corners, wanted.base_corners)
    fine = repeated.downscale(2)
    assert fine.lat_bnds.dims == ("j", "i", "nv")
    assert fine.downscale.check(ds).passed


@pytest.mark.parametrize("maker", [world, region, plane])
def test_transposed_results_are_the_same_grid(maker):
    """What ncpdq and ``transpose(..., y, x)`` do to a file of ours."""
    ds = field_on(maker())
    fine = ds.downscale(2)
    y, x = horizontal(ds).dims
    turned = fine.transpose(..., y, x)
    assert turned[f"{y}_bnds"].dims == ("bnds", y)
    np.testing.assert_array_equal(horizontal(turned).grid.cell_area, horizontal(fine).grid.cell_area)
    assert turned.downscale.check(ds).passed
    np.testing.assert_allclose(downscale.coarsen(turned, 2).tas, ds.tas.transpose(..., y, x), rtol=1e-12)
    np.testing.assert_array_equal(ds.downscale(target_grid=turned).tas, fine.tas.transpose(*ds.tas.dims))


def test_a_field_may_have_a_dimension_called_like_the_pair():
    ds = field_on(region()).rename(time="bnds").drop_vars(["lat_bnds", "lon_bnds"])
    fine = ds.downscale(2)
    assert fine.tas.dims == ds.tas.dims
    assert fine.lat_bnds.dims[0] == "lat"
    assert fine.sizes[fine.lat_bnds.dims[1]] == 2
    two = field_on(region(), times=2).rename(time="bnds")
    assert two.downscale(2).downscale.check(two).passed


def repeats(ds: xr.Dataset) -> dict[str, xr.Dataset]:
    """The same field after the operations of xarray that repeat bounds along other dimensions."""
    plain = ds.reset_coords(["lat_bnds", "lon_bnds"]).drop_vars("time_bnds")
    parts = [plain.isel(time=[i]) for i in range(plain.sizes["time"])]
    sparse = plain.where(plain.tas > 280)
    return {
        "concat": xr.concat(parts, "time", data_vars="all"),
        "where": sparse.assign(tas=plain.tas),
        "resample": plain.resample(time="MS").mean().assign_coords(time=plain.time),
        "lazy": xr.concat(parts, "time", data_vars="all").chunk(time=1),
        "members": plain.assign(lat_bnds=plain.lat_bnds.expand_dims(member=2)),
    }


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("how", ["concat", "where", "resample", "lazy", "members"])
def test_repeated_bounds_are_read_once_and_are_no_fields(how, times):
    ds = repeats(uneven().isel(time=slice(0, times)))[how]
    assert ds.lat_bnds.ndim > 2
    np.testing.assert_array_equal(horizontal(ds).grid.y.edges, ROW_EDGES)
    fine = ds.downscale(2)
    assert fine.lat_bnds.shape == (12, 2)
    np.testing.assert_array_equal(fine.tas, uneven().isel(time=slice(0, times)).downscale(2).tas)


def test_bounds_that_change_are_refused_by_name():
    ds = repeats(uneven())["concat"]
    ds["lat_bnds"] = ds.lat_bnds + xr.DataArray([0.0, 0.0, 0.5], dims="time")
    with pytest.raises(GridError, match=r"'lat'.*same bounds all along 'time'.*lat_bnds.*ds.isel\(time=0\)"):
        ds.downscale(2)


def test_rows_without_bounds_are_mended_where_steps_are_equal():
    ds = field_on(region())
    ds = ds.reset_coords(["lat_bnds", "lon_bnds"])
    hidden = ds.assign(lat_bnds=ds.lat_bnds.where(ds.lat > 33))
    with pytest.warns(UserWarning, match=r"'lat': no bounds of 3 rows \(the first is row 0\)"):
        edges = horizontal(hidden).grid.y.edges
    np.testing.assert_allclose(edges, horizontal(ds).grid.y.edges, rtol=0, atol=1e-12)
    uneven_rows = uneven().assign_coords(lat_bnds=uneven().lat_bnds.where(uneven().lat > 0))
    with pytest.raises(GridError, match=r"'lat': expected bounds of every row, received lat_bnds without .* 3 rows"):
        horizontal(uneven_rows)
    with pytest.raises(GridError, match="'lat': expected its bounds 'lat_bnds'"):
        horizontal(uneven_rows.assign_coords(lat_bnds=uneven_rows.lat_bnds * np.nan))


@pytest.mark.parametrize(
    ("own", "wanted", "scale"),
    [("degrees_north", "degrees_north", 1.0), ("radians", "degrees_north", np.pi / 180), ("", "degrees_north", 1.0),
     ("degrees", "", 1.0), ("radian", "radian", 1.0), ("km", "m", 1e-3), ("m", "km", 1e3)],
)  # fmt: skip
def test_bounds_have_the_units_of_their_coordinate_unless_they_name_their_own(own, wanted, scale):
    ds = uneven()
    ds.lat.attrs["units"] = wanted
    ds["lat_bnds"] = ds.lat_bnds * scale
    ds.lat_bnds.attrs["units"] = own
    np.testing.assert_allclose(read_bounds(ds, "lat"), pairs_of(ROW_EDGES), rtol=1e-12)


@pytest.mark.parametrize(("own", "wanted"), [("m", "degrees_north"), ("degC", "degrees_east"), ("words", "m")])
def test_units_that_do_not_fit_are_refused(own, wanted):
    ds = uneven()
    ds.lat.attrs["units"] = wanted
    ds.lat_bnds.attrs["units"] = own
    with pytest.raises(GridError, match=f"'{wanted}' or units that fit, received lat_bnds in '{own}'"):
        read_bounds(ds, "lat")


POLES = np.linspace(-89.5, 89.5, 180)
FGOALS = np.stack([POLES - 0.5, POLES + 0.5], axis=1)
FGOALS[[0, -1]] = [[-89.9, -89.1], [89.1, 89.9]]
FGOALS[[1, -2]] = [[-88.9, -88.1], [88.1, 88.9]]


@pytest.mark.parametrize("turned", [slice(None), slice(None, None, -1)])
def test_slips_near_a_pole_are_mended_with_a_warning_that_says_what_was_done(turned):
    with pytest.warns(UserWarning, match=r"'lat': bounds do not adjoin.*rows .*midway, at .*extended to the pole"):
        axis = axis_from_bounds(FGOALS[turned], "latitude", POLES[turned], "lat")
    np.testing.assert_allclose(axis.edges, np.linspace(-90, 90, 181)[turned], rtol=0, atol=1e-12)


@pytest.mark.parametrize("slip", [-0.3, -0.01, 0.01, 0.2])
def test_slight_slips_are_mended_and_the_field_keeps_its_cells(slip):
    ds = field_on(region())
    bounds = ds.lat_bnds.values.copy()
    bounds[4, 1] -= slip
    ds = ds.assign_coords(lat_bnds=(("lat", "bnds"), bounds))
    with pytest.warns(UserWarning, match=r"'lat'.*rows 4 and 5.*midway, at 35$"):
        fine = ds.downscale(2)
    assert fine.lat_bnds[9, 1] == 35.0


@pytest.mark.parametrize(
    "change", [lambda d: d.isel(lat=slice(None, None, 2)), lambda d: d.isel(lon=slice(None, None, 3)),
               lambda d: d.isel(lat=[0, 1, 2, 4, 5, 6])],
)  # fmt: skip
def test_rows_that_are_left_out_are_refused_in_one_line(change):
    with pytest.raises(GridError, match=r"coordinate 'l..': expected adjoining .*select without a step") as caught:
        change(field_on(region())).downscale(2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("centres", "kind", "even"),
    [
        (np.arange(-87.5, 90, 5), "latitude", True), (np.arange(90, -90.1, -0.25), "latitude", True),
        (np.float32(np.linspace(0, 360, 3600, endpoint=False)), "longitude", True),
        (np.round(np.arange(0, 360, 1.875), 2), "longitude", True),
        (np.roll(np.arange(0.0, 360, 2), 90), "longitude", True),
        (np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(32)[0])), "latitude", False),
        (np.round(np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(64)[0])), 2), "latitude", False),
        (np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(640)[0])), "latitude", False),
        (np.float32(np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(160)[0]))), "latitude", False),
        (np.array([1.0, 2, 3, 4.1]), "projected", False), (np.array([0.0, 1000, 2000]), "projected", True),
    ],
)  # fmt: skip
def test_even_steps_are_told_from_gaussian_ones(centres, kind, even):
    assert is_evenly_spaced(centres, kind) == even


def test_lost_bounds_of_uneven_axes_are_missed_with_the_remedy():
    ds = uneven()
    for lost in (ds.tas, ds[["tas"]], ds.drop_vars("lat_bnds")):
        for job in (lambda x: x.downscale(2), lambda x: downscale.coarsen(x, 2), downscale.cell_area,
                    lambda x: x.downscale.plan(2), lambda x: downscale.weights(x, 2)):  # fmt: skip
            with pytest.raises(GridError, match=r"'lat': expected its bounds 'lat_bnds' .*pass the Dataset") as caught:
                job(lost)
            assert "\n" not in str(caught.value)
    named = ds.tas.copy()
    del named.lat.attrs["bounds"], named.lon.attrs["bounds"]
    assert named.downscale(2).downscale.check(named).passed


@pytest.mark.parametrize("maker", [world, region, plane])
def test_lost_bounds_of_regular_axes_are_what_they_were_and_nothing_is_said(maker):
    """The commonest call of all, ``ds.tas.downscale(4)``, has no reason to nag."""
    ds = field_on(maker())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fine = ds.tas.downscale(4)
    np.testing.assert_allclose(fine, ds.downscale(4).tas, rtol=1e-9)
    assert downscale.check_conservation(ds, fine).passed
    assert fine.downscale.check(ds).passed
    y = fine.dims[-2]
    assert "bounds" not in {**fine[y].attrs, **fine[y].encoding}


def test_lost_corners_are_missed():
    ds = bent()
    with pytest.raises(GridError, match=r"'lat': expected its bounds 'lat_bnds' .*pass the Dataset"):
        ds.tas.downscale(2)
    with pytest.raises(GridError, match="expected bounds of both, received those of 'lon' only"):
        ds.drop_vars("lat_bnds").downscale(2)
    bare = on_planes(*sheared())
    fine = bare.tas.downscale(2)
    assert fine.downscale.check(bare).passed
    assert downscale.check_conservation(ds, ds.downscale(2).tas).passed


def test_a_check_takes_fine_cells_without_bounds_for_parts_of_coarse_ones_only():
    ds = uneven()
    fine = ds.downscale(2)
    assert downscale.check_conservation(ds, fine.tas).passed
    other = fine.tas.assign_coords(lat=fine.lat + xr.DataArray(np.linspace(0, 3, 12), dims="lat"))
    other.lat.attrs = fine.lat.attrs
    with pytest.raises(GridError, match="'lat_bnds'"):
        downscale.check_conservation(ds, other)
    with pytest.raises(GridError, match="'lat_bnds'"):
        downscale.check_conservation(ds.tas, fine)


@pytest.mark.parametrize(
    ("stamps", "lost"),
    [
        (xr.date_range("2001-01-16", periods=3, freq="D").shift(12, "h"), True),
        (np.array(["2001-01-16T12", "2001-02-15", "2001-03-16T12"], dtype="M8[ns]"), True),
        (xr.date_range("2001-02-01", periods=3, freq="MS"), False),
        (xr.date_range("2001-02-01", periods=3, freq="D"), False),
    ],
)
def test_lost_bounds_of_times_are_guessed_in_the_middle_of_periods_only(stamps, lost):
    """A stamp at the end of a month may be about the month before: only the bounds tell."""
    ds = field_on(region()).assign_coords(time=np.asarray(stamps))
    ds.tas.attrs["cell_methods"] = "time: mean"
    assert ds.downscale({"time": 2}).sizes["time"] == 6
    ds.time.attrs["bounds"] = "time_bnds"
    if lost:
        assert ds.downscale({"time": 2}).sizes["time"] == 6
    else:
        days = xr.date_range("2001-01-01", periods=90, freq="D").values
        other = field_on(region(), times=90, cell_methods="time: mean").assign_coords(time=days)
        for job in (lambda: ds.downscale({"time": 2}), lambda: other.downscale(target_grid={"time": ds.time})):
            with pytest.raises(GridError, match=r"'time': expected bounds of the time axis, 'time_bnds'.*pass the"):
                job()


def test_statics_on_the_fine_cells_need_no_bounds_of_their_own():
    ds = uneven()
    fine = ds.downscale(2)
    orog = (fine.tas.isel(time=0, drop=True) * 0 + np.linspace(0, 2000, 8)).rename("orog").assign_attrs(units="m")
    made = ds.downscale(2, orog=orog, lapse_rate=-6.5e-3)
    held = ds.downscale(2, orog=fine.assign(orog=orog)[["orog", "lat_bnds", "lon_bnds"]], lapse_rate=-6.5e-3)
    np.testing.assert_array_equal(made.tas, held.tas)
    with pytest.raises(GridError, match="orog: coordinate 'lat': expected its bounds"):
        ds.downscale(4, orog=orog, lapse_rate=-6.5e-3)


def test_a_selection_keeps_all_that_tells_where_cells_are():
    ds = bent(grid_mapping="crs", cell_measures="area: areacella", ancillary_variables="tas_qc")
    ds = ds.assign(pr=ds.tas * 2, tas_qc=ds.tas * 0, ps=ds.tas, crs=0, areacella=(("j", "i"), np.ones((5, 6))))
    ds = ds.assign(u=(("lev", "j", "i"), np.ones((2, 5, 6)))).assign_coords(
        lev=("lev", [0.1, 0.9], {"formula_terms": "sigma: lev ps: ps", "bounds": "lev_bnds"}),
        lev_bnds=(("lev", "two"), [[0.0, 0.5], [0.5, 1.0]]), depth=("deep", [1.0, 2.0]), height=2.0,
    )  # fmt: skip
    kept = select(ds, "tas")
    assert set(kept.data_vars) == {"tas"}
    assert set(kept.coords) == {"lat", "lon", "lat_bnds", "lon_bnds", "crs", "areacella", "tas_qc", "height"}
    kept = select(ds.reset_coords(), ["u"])
    assert {"lev", "lev_bnds", "ps", "lat_bnds", "lat", "lon"} <= set(kept.coords)
    assert set(kept.data_vars) == {"u"}
    with pytest.raises(DownscaleError, match="received 'none'"):
        select(ds, "none")


def test_bounds_are_written_as_cf_wants_them(tmp_path):
    """Bounds of coordinates that pass through, too: the pair last, nothing repeated, in the units of the coordinate."""
    ds = field_on(region()).expand_dims(lev=[500.0, 1500.0])
    ds.lev.attrs = {"units": "m", "positive": "up", "bounds": "lev_bnds"}
    pairs = np.broadcast_to(np.array([[0.0, 1.0], [1.0, 2.0]])[:, None], (2, 3, 2))
    kilometres = xr.Variable(("two", "time", "lev"), pairs, {"units": "km"})
    fine = ds.assign_coords(lev_bnds=kilometres).downscale(2)
    downscale.to_netcdf(fine.transpose(..., "lat", "lon"), tmp_path / "out.nc", coarse=ds)
    with xr.open_dataset(tmp_path / "out.nc") as made:
        assert made.lev_bnds.dims == ("lev", "two")
        np.testing.assert_array_equal(made.lev_bnds, [[0.0, 1000.0], [1000.0, 2000.0]])
        assert made.lat_bnds.dims == ("lat", "bnds")
        assert "units" not in made.lev_bnds.attrs


def test_a_command_shows_each_warning_once(tmp_path):
    bounds = field_on(region()).lat_bnds.values.copy()
    bounds[4, 1] -= 0.1
    field_on(region()).assign_coords(lat_bnds=(("lat", "bnds"), bounds)).to_netcdf(tmp_path / "in.nc")
    said = command("apply", tmp_path / "in.nc", tmp_path / "out.nc", "--factor", "2")
    assert said.status == 0
    assert len([line for line in said.err.splitlines() if "'lat': bounds do not adjoin" in line]) == 1
