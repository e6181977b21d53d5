"""What CF metadata says of a field: which axes are horizontal, what their cells are, what a value means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from sample_fields import field_on, plane, region, world

import downscale  # noqa: F401 - registers .downscale
from downscale.cf.coordinates import horizontal_variables
from downscale.cf.horizontal import ParsedGrids, as_dataset, horizontal, share_grids
from downscale.cf.kinds import is_categorical
from downscale.cf.quantities import automatic_bounds, quantity_of
from downscale.errors import DownscaleError, GridError
from downscale.grid.curvilinear import CurvilinearGrid


def bare(y: str, x: str, /, rows: Any = (1.0, 2.0, 3.0), columns: Any = (4.0, 5.0, 6.0), **attrs: Any) -> xr.Dataset:
    """A field on two one-dimensional coordinates with the attributes given by name."""
    coords = {y: (y, np.asarray(rows), attrs.get(y, {})), x: (x, np.asarray(columns), attrs.get(x, {}))}
    return xr.Dataset({"tas": ((y, x), np.ones((len(rows), len(columns))))}, coords)


@pytest.mark.parametrize(
    ("y", "x", "attrs", "kinds"),
    [
        ("lat", "lon", {}, ("latitude", "longitude")),
        ("latitude", "longitude", {}, ("latitude", "longitude")),
        ("LAT", "LON", {}, ("latitude", "longitude")),
        ("rlat", "rlon", {}, ("latitude", "longitude")),
        ("y", "x", {}, ("projected", "projected")),
        ("Y", "X", {"Y": {"units": "degree_north"}, "X": {"units": "degree_east"}}, ("latitude", "longitude")),
        ("j", "i", {"j": {"units": "degrees_north"}, "i": {"units": "degrees_east"}}, ("latitude", "longitude")),
        ("j", "i", {"j": {"axis": "Y", "units": "m"}, "i": {"axis": "X", "units": "m"}}, ("projected", "projected")),
        (
            "north", "east",
            {
                "north": {"standard_name": "projection_y_coordinate"},
                "east": {"standard_name": "projection_x_coordinate"},
            },
            ("projected", "projected"),
        ),
        (
            "grid_latitude", "grid_longitude",
            {"grid_latitude": {"units": "degrees"}, "grid_longitude": {"units": "degrees"}},
            ("latitude", "longitude"),
        ),
    ],
)  # fmt: skip
def test_horizontal_axes_are_found_by_attributes_then_by_name(y, x, attrs, kinds):
    where = horizontal(bare(y, x, **attrs))
    assert where.dims == (y, x)
    assert (where.grid.y.kind, where.grid.x.kind) == kinds


def test_the_standard_name_outweighs_the_name():
    """Two candidates: the one that says what it is wins."""
    ds = bare("y", "x").assign_coords(lat=("lat", [10.0, 20.0], {"standard_name": "latitude"}))
    ds = ds.assign_coords(lon=("lon", [10.0, 20.0], {"standard_name": "longitude"}))
    assert horizontal(ds).dims == ("lat", "lon")


@pytest.mark.parametrize(
    ("ds", "match"),
    [
        (bare("a", "b"), r"expected horizontal coordinates .*received dimensions a \(3\), b \(3\); rename them"),
        (bare("lat", "b"), "expected horizontal coordinates"),
        (xr.Dataset({"a": 1}), "received dimensions none"),
        (xr.Dataset({"a": (("lat", "lon"), np.ones((2, 2)))}), "expected horizontal coordinates"),
        (bare("lat", "x"), "expected latitude with longitude, or two axes in metres"),
        (bare("lat", "lon", rows=[10.0, 20.0, 91.0]), "'lat': expected latitudes within -90 to 90, received 91"),
        (bare("lat", "lon", rows=[1.0, 3.0, 2.0]), "'lat': expected sorted latitude coordinates, received"),
        (bare("lat", "lon", rows=[1.0, 1.0, 2.0]), "'lat': expected distinct latitude coordinates, received 1 twice"),
        (bare("lat", "lon", rows=[1.0, np.nan, 2.0]), "'lat': expected finite latitude coordinates, received NaN"),
        (bare("lat", "lon", rows=[1.0, np.inf, 2.0]), "'lat': expected finite latitude coordinates, received NaN"),
        (bare("lat", "lon", rows=[1.0]), "'lat': expected bounds for a latitude axis of one cell, received none"),
        (bare("lat", "lon", rows=["a", "b"]), "'lat': expected numbers, received .*; convert it first"),
        (bare("lat", "lon", columns=[0.0, 200.0, 400.0]), "'lon': expected longitudes within one circle"),
        (bare("lat", "lon", rows=[]), "'lat': expected a one-dimensional latitude coordinate, received shape"),
        (bare("y", "x", y={"units": "m"}, x={"units": "km"}), "'y' and 'x' both in m or both in km, received 'm', "),
        (bare("y", "x", y={"units": "feet"}, x={"units": "m"}), "both in m or both in km, received 'feet', 'm'"),
        (bare("y", "x", y={"units": "hPa"}, x={"units": "hPa"}), "'y': expected units of angle .*received units 'hPa'"),
    ],
)
def test_coordinates_that_are_not_usable_get_one_line(ds, match):
    with pytest.raises(GridError, match=match) as caught:
        horizontal(ds)
    assert "\n" not in str(caught.value)
    with pytest.raises(DownscaleError):
        ds.downscale(2)


def on_planes(lat: np.ndarray, lon: np.ndarray, dims: tuple[str, str] = ("j", "i"), **attrs: Any) -> xr.Dataset:
    """A field on two-dimensional latitudes and longitudes."""
    coords = {"lat": (dims, lat), "lon": (dims, lon)}
    return xr.Dataset({"tas": (dims, lat + lon, attrs)}, coords)


def sheared(rows: int = 4, columns: int = 5) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:rows, 0:columns]
    return 40 + y - 0.2 * x, 10 + x + 0.3 * y


def test_two_dimensional_positions_make_quadrilaterals():
    for dims in (("j", "i"), ("y", "x"), ("south_north", "west_east")):
        ds = on_planes(*sheared(), dims)
        where = horizontal(ds)
        assert where.dims == dims
        assert where.positions == ("lat", "lon")
        assert isinstance(where.grid, CurvilinearGrid)
        assert "no bounds; corners lie midway" in where.notes[0]
        counted = ds.assign_coords({dim: np.arange(n) for dim, n in ds.sizes.items()})
        assert isinstance(horizontal(counted).grid, CurvilinearGrid)
        turned = horizontal(ds.transpose())
        assert set(turned.dims) == set(dims)


def test_rows_are_rows_whatever_the_order_of_dimensions():
    lat, lon = sheared()
    where = horizontal(on_planes(lat.T, lon.T, ("x", "y")))
    assert where.dims == ("y", "x")
    np.testing.assert_array_equal(where.grid.lat, lat)


def test_of_several_positions_the_field_chooses():
    lat, lon = sheared()
    ds = on_planes(lat, lon).assign_coords(gphiu=(("j", "i"), lat + 0.1), glamu=(("j", "i"), lon + 0.5))
    ds.gphiu.attrs["standard_name"], ds.glamu.attrs["standard_name"] = "latitude", "longitude"
    ds.tas.encoding["coordinates"] = "gphiu glamu"
    assert horizontal(ds).positions == ("gphiu", "glamu")
    ds.tas.encoding["coordinates"] = "lat lon"
    assert horizontal(ds).positions == ("lat", "lon")


def test_positions_that_repeat_two_axes_are_these_axes():
    lon, lat = np.meshgrid(np.arange(5.0, 360, 10), np.linspace(85, -85, 18))
    where = horizontal(on_planes(lat, lon))
    assert where.grid.y.kind == "latitude"
    assert where.grid.x.periodic
    np.testing.assert_allclose(where.grid.y.edges, np.linspace(90, -90, 19), rtol=0, atol=1e-12)
    fine = on_planes(lat, lon).downscale(2)
    assert "j" not in fine.coords
    assert fine.lat.dims == ("j", "i")
    np.testing.assert_allclose(fine.lat[:, 3], np.linspace(87.5, -87.5, 36), rtol=0, atol=1e-12)
    assert fine.downscale.check(on_planes(lat, lon)).passed
    assert horizontal(fine).grid.y.kind == "latitude"


def test_missing_positions_get_one_line():
    lat, lon = sheared()
    lat[1, 2] = np.nan
    with pytest.raises(GridError, match=r"coordinates 'lat' and 'lon': expected finite two-dimensional .*1 missing"):
        horizontal(on_planes(lat, lon))


@pytest.mark.parametrize("names", [("lat", "lon"), ("clat", "clon"), ("latCell", "lonCell")])
def test_meshes_are_told_how_to_become_grids(names):
    coords = {name: ("ncells", np.linspace(-80, 80, 20480)) for name in names}
    ds = xr.Dataset({"tas": ("ncells", np.ones(20480))}, coords)
    words = r"an unstructured mesh \(20480 cells along 'ncells'\); .*cdo remapcon,r202x101 "
    with pytest.raises(GridError, match=words):
        horizontal(ds)


def test_healpix_and_topologies_are_told_how_to_become_grids():
    crs = xr.Variable((), 0, {"grid_mapping_name": "healpix", "healpix_nside": 4})
    ds = xr.Dataset({"tas": (("time", "cell"), np.ones((2, 192)))}, {"crs": crs})
    with pytest.raises(GridError, match=r"a HEALPix grid \(192 cells along 'cell'\); .*cdo remapcon,r20x10 "):
        ds.downscale(2)
    mesh = xr.Variable((), 0, {"cf_role": "mesh_topology", "topology_dimension": 2})
    ugrid = xr.Dataset({"tas": ("nMesh2_face", np.ones(50)), "Mesh2": mesh})
    with pytest.raises(GridError, match=r"an unstructured mesh \(50 cells\); bring it to one first"):
        horizontal(ugrid)


def test_longitude_before_latitude_is_downscaled_in_its_own_order():
    ds = field_on(world())
    turned = ds.transpose("lon", "time", "lat", ...)
    fine = turned.downscale(2)
    assert fine.tas.dims == ("lon", "time", "lat")
    np.testing.assert_array_equal(fine.tas.transpose(*ds.tas.dims), ds.downscale(2).tas)


def test_projections_that_nothing_tells_are_planes_with_a_note():
    ds = field_on(plane())
    where = horizontal(ds)
    assert where.positions is None
    assert "no grid_mapping; areas are those of the plane" in where.notes[0]
    rotated = bare("rlat", "rlon")
    assert "no grid_mapping locates the pole" in horizontal(rotated).notes[0]


def test_a_single_cell_with_bounds_and_short_axes_do():
    ds = bare("lat", "lon", rows=[45.0], columns=[10.0])
    ds = ds.assign_coords(lat_bnds=(("lat", "bnds"), [[40.0, 50.0]]), lon_bnds=(("lon", "bnds"), [[5.0, 15.0]]))
    fine = ds.downscale(4)
    np.testing.assert_allclose(fine.tas, np.ones((4, 4)), rtol=1e-15)
    np.testing.assert_array_equal(fine.lat_bnds[:, 0], [40.0, 42.5, 45.0, 47.5])
    for rows, columns in ((2, 16), (3, 2), (6, 4)):
        short = field_on(region(rows, columns))
        assert short.downscale(4).downscale.check(short).passed


@pytest.mark.parametrize(
    ("bounds", "match"),
    [
        ([[0.5, 1.5], [1.5, 2.5], [3.0, 3.5]], "'lat': expected adjoining latitude cells.*rows 1 and 2"),
        ([[0.5, 1.5], [1.0, 2.5], [2.5, 3.5]], "'lat': expected adjoining latitude cells.*rows 0 and 1"),
        ([[0.5, 1.5], [1.5, np.nan], [2.5, 3.5]], "'lat': expected finite latitude bounds"),
        ([[0.5, 1.0, 1.5], [1.5, 2.0, 2.5], [2.5, 3.0, 3.5]], r"expected latitude bounds of shape \(n, 2\), received"),
        ([[10.5, 11.5], [11.5, 12.5], [12.5, 13.5]], "'lat': expected latitude bounds around their centres"),
    ],
)
def test_bounds_that_are_not_usable_get_one_line(bounds, match):
    ds = bare("lat", "lon").assign_coords(lat_bnds=(("lat", "bnds"), bounds))
    with pytest.raises(GridError, match=match):
        horizontal(ds)


def test_bounds_are_read_from_where_they_are():
    """As coordinates or as variables, by attribute, by encoding or by custom, with dimensions in any order."""
    wanted = np.array([0.0, 1.2, 2.4, 3.6])
    pairs = np.stack([wanted[:-1], wanted[1:]], axis=1)
    ds = bare("lat", "lon", rows=[0.5, 1.9, 3.0])
    by_name = ds.assign_coords(lat_bnds=(("lat", "bnds"), pairs))
    by_attribute = ds.assign(edges=(("two", "lat"), pairs.T))
    by_attribute.lat.attrs["bounds"] = "edges"
    by_encoding = ds.assign_coords(edges=(("lat", "two"), pairs[:, ::-1]))
    by_encoding.lat.encoding["bounds"] = "edges"
    for found in (by_name, by_name.reset_coords("lat_bnds"), by_name.chunk(), by_attribute, by_encoding):
        np.testing.assert_array_equal(horizontal(found).grid.y.edges, wanted)
    np.testing.assert_allclose(horizontal(ds).grid.y.edges, [-0.2, 1.2, 2.45, 3.55])


def test_gaussian_rows_reach_the_poles_of_a_closed_world_only():
    rows = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(8)[0]))
    closed = bare("lat", "lon", rows=rows, columns=np.arange(0.0, 360, 45))
    assert horizontal(closed).grid.y.edges[[0, -1]].tolist() == [-90.0, 90.0]
    open_ = bare("lat", "lon", rows=rows, columns=np.arange(0.0, 300, 45))
    assert abs(horizontal(open_).grid.y.edges[0]) < 90


def test_fields_are_the_numeric_variables_on_both_axes():
    ds = field_on(world()).assign(
        row=("lat", np.ones(12)),
        text=(("lat", "lon"), np.full((12, 16), "a")),
        flag=(("lat", "lon"), np.ones((12, 16), bool)),
    )
    assert horizontal_variables(ds, horizontal(ds)) == ["tas", "flag"]


@pytest.mark.parametrize(
    ("attrs", "dtype", "codes"),
    [
        ({}, "f4", False),
        ({}, "i4", False),
        ({}, "?", True),
        ({"flag_values": [1]}, "i1", True),
        ({"flag_masks": [1]}, "f8", True),
    ],
)
def test_codes_are_told_by_their_flags(attrs, dtype, codes):
    assert is_categorical(xr.DataArray(np.ones(2, dtype), attrs=attrs)) == codes


@pytest.mark.parametrize(
    ("methods", "quantity"),
    [
        ("area: sum", "extensive"),
        ("time: mean area: sum", "extensive"),
        ("area: mean time: sum", "intensive"),
        ("", "intensive"),
    ],
)
def test_cell_methods_tell_sums_from_means(methods, quantity):
    assert quantity_of(xr.DataArray(0.0, attrs={"cell_methods": methods})) == quantity


@pytest.mark.parametrize(
    ("name", "units", "bounds"),
    [
        ("precipitation_flux", "kg m-2 s-1", (0.0, None)),
        ("lwe_thickness_of_precipitation_amount", "m", (0.0, None)),
        ("rainfall_rate", "mm h-1", (0.0, None)),
        ("specific_humidity", "1", (0.0, None)),
        ("relative_humidity", "%", (0.0, None)),
        ("relative_humidity", "1", (0.0, None)),
        ("cloud_area_fraction", "%", (0.0, 100.0)),
        ("sea_ice_area_fraction", "1", (0.0, 1.0)),
        ("air_temperature", "K", (None, None)),
        ("eastward_wind", "m s-1", (None, None)),
        ("wind_speed", "m s-1", (0.0, None)),
        ("surface_snow_thickness", "m", (0.0, None)),
        ("sea_ice_thickness", "m", (0.0, None)),
        ("atmosphere_mass_content_of_water_vapor", "kg m-2", (0.0, None)),
        ("tendency_of_atmosphere_mass_content_of_water_vapor", "kg m-2 s-1", (None, None)),
        ("surface_temperature", "K", (None, None)),
        ("tendency_of_specific_humidity", "s-1", (None, None)),
        ("", "", (None, None)),
    ],
)
def test_standard_names_imply_bounds(name, units, bounds):
    assert automatic_bounds(xr.DataArray(0.0, attrs={"standard_name": name, "units": units})) == bounds


def test_an_array_that_has_the_name_of_its_coordinate_is_a_field():
    array = field_on(plane()).tas.rename("y")
    ds, name = as_dataset(array)
    assert name == "field"
    assert set(ds.data_vars) == {"field"}


def test_equal_grids_are_parsed_once_in_a_run() -> None:
    ds = xr.Dataset(
        {"tas": (("time", "lat", "lon"), np.ones((3, 4, 5)))},
        {"lat": ("lat", [0.0, 1.0, 3.0, 4.0], {"bounds": "lat_bnds"}), "lon": np.arange(5.0),
         "lat_bnds": (("lat", "bnds"), [[-0.5, 0.5], [0.5, 2.0], [2.0, 3.6], [3.6, 4.5]])},
    )  # fmt: skip
    grids = ParsedGrids()
    first = grids.horizontal(ds)
    assert grids.horizontal(ds.isel(time=slice(1, 2))) is first
    assert grids.horizontal(ds.copy(deep=True)) is first
    other = [
        ds.assign_coords(lat_bnds=ds.lat_bnds.where(ds.lat_bnds != 2.0, 2.1)),
        ds.assign_coords(lon=ds.lon + 1),
        ds.assign_coords(lon=ds.lon.assign_attrs(units="degrees_east")),
        ds.drop_vars("lat_bnds"),
        ds.isel(lat=slice(0, 3)),
    ]
    parsed = [grids.horizontal(each) for each in other]
    assert first not in parsed
    assert len({id(each) for each in parsed}) == len(parsed)
    with share_grids(grids):
        assert horizontal(ds) is first
        with pytest.raises(GridError, match="bounds"):
            horizontal(other[3])
    assert horizontal(ds) is not first
