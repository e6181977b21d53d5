"""Axes are what metadata say: units, standard name, axis, grid mapping, then names; contradictions are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj
import pytest
import xarray as xr

import downscale
from downscale.cf.horizontal import horizontal
from downscale.cf.units import size_in
from downscale.errors import GridError

SPHERE = 6_371_000.0
POLE = {"grid_mapping_name": "rotated_latitude_longitude", "grid_north_pole_latitude": 39.25,
        "grid_north_pole_longitude": -162.0}  # fmt: skip
CONIC = {
    "grid_mapping_name": "lambert_conformal_conic", "standard_parallel": [30.0, 60.0],
    "longitude_of_central_meridian": 10.0, "latitude_of_projection_origin": 45.0, "earth_radius": SPHERE,
}  # fmt: skip
SATELLITE = {
    "grid_mapping_name": "geostationary", "perspective_point_height": 35_786_023.0, "semi_major_axis": 6_378_137.0,
    "semi_minor_axis": 6_356_752.31414, "longitude_of_projection_origin": -75.0, "sweep_angle_axis": "x",
    "latitude_of_projection_origin": 0.0,
}  # fmt: skip
GLOBE = {"grid_mapping_name": "latitude_longitude"}
MAPPINGS: dict[str, Any] = {"geographic": GLOBE, "rotated": POLE, "plane": CONIC, "scan": SATELLITE}
STANDARD = {
    "geographic": ("latitude", "longitude"), "rotated": ("grid_latitude", "grid_longitude"),
    "plane": ("projection_y_coordinate", "projection_x_coordinate"),
    "scan": ("projection_y_angular_coordinate", "projection_x_angular_coordinate"),
}  # fmt: skip
# Edges of rows and columns in degrees or metres; the last is a satellite's view of North America.
EDGES = {
    "geographic": (np.linspace(50, 38, 7), np.linspace(-4, 12, 9)),
    "rotated": (np.linspace(-3, 3, 7), np.linspace(-4, 4, 9)),
    "plane": (np.linspace(2e5, -1e5, 7), np.linspace(-2e5, 2e5, 9)),
    "scan": (np.rad2deg(np.linspace(0.1, 0.09, 7)), np.rad2deg(np.linspace(-0.03, -0.02, 9))),
}
ANGLES = {
    "degrees": 1.0, "degree": 1.0, "deg": 1.0, "radian": np.rad2deg(1), "radians": np.rad2deg(1), "rad": np.rad2deg(1),
    "grad": 0.9, "gon": 0.9, "arcmin": 1 / 60, "arc_minute": 1 / 60, "arcsec": 1 / 3600, "mrad": np.rad2deg(1e-3),
    "microradian": np.rad2deg(1e-6),
}  # fmt: skip


def made(
    kind: str, names: tuple[str, str] = ("a", "b"), unit: float = 1.0, mapping: Any = None, bounds: bool = False,
    y: dict[str, Any] | None = None, x: dict[str, Any] | None = None,
) -> xr.Dataset:  # fmt: skip
    """A field on the axes of a kind, in a unit, with these attributes and nothing else."""
    coords: dict[str, Any] = {}
    for name, edges, attrs in zip(names, EDGES[kind], (y or {}, x or {}), strict=True):
        pairs = np.stack([edges[:-1], edges[1:]], axis=1) / unit
        coords[name] = (name, pairs.mean(axis=1), attrs)
        if bounds:
            coords[f"{name}_bnds"] = ((name, "bnds"), pairs)
    shape = tuple(edges.size - 1 for edges in EDGES[kind])
    field: dict[str, Any] = {"units": "K"}
    if mapping is not None:
        coords["place"] = ((), 0, mapping)
        field["grid_mapping"] = "place"
    values = np.random.default_rng(0).normal(280, 5, shape)
    return xr.Dataset({"tas": (names, values, field)}, coords)


def attrs_of(kind: str, units: str | None = None) -> dict[str, dict[str, str]]:
    return {
        way: {"standard_name": name, **({} if units is None else {"units": units})}
        for way, name in zip("yx", STANDARD[kind], strict=True)
    }


# Areas of a satellite's view take a second; its units are tried without bounds but for one.
CELLS = [
    (kind, bounds, units) for kind in ("geographic", "rotated", "scan") for bounds in (False, True) for units in ANGLES
    if kind != "scan" or bounds == (units == "rad")
]  # fmt: skip


@pytest.mark.parametrize(("kind", "bounds", "units"), CELLS)
def test_every_unit_of_angle_makes_the_same_cells(kind, bounds, units):
    wanted = made(kind, mapping=MAPPINGS[kind], bounds=bounds, **attrs_of(kind, "degrees"))
    ds = made(kind, unit=ANGLES[units], mapping=MAPPINGS[kind], bounds=bounds, **attrs_of(kind, units))
    where, same = horizontal(ds), horizontal(wanted)
    assert where.system == same.system == kind
    np.testing.assert_allclose(where.grid.cell_area, same.grid.cell_area, rtol=1e-9)
    means, same_means = downscale.coarsen(ds, 2), downscale.coarsen(wanted, 2)
    for name in "ab":
        assert means[name].attrs["units"] == units
        np.testing.assert_allclose(means[name] * ANGLES[units], same_means[name], rtol=1e-9)
        np.testing.assert_allclose(means[f"{name}_bnds"].mean(means[f"{name}_bnds"].dims[-1]), means[name], rtol=1e-9)
    np.testing.assert_allclose(means.tas, same_means.tas, rtol=1e-9)
    # A field in one unit is checked against one in another.
    assert downscale.check_conservation(same_means, ds).passed


@pytest.mark.parametrize("units", ANGLES)
def test_positions_are_read_and_written_in_every_unit_of_angle(units):
    turned = downscale.coarsen(made("rotated", mapping=POLE, **attrs_of("rotated", "degrees")), 1)
    corners = {"lat_bnds", "lon_bnds"}
    # A mesh that is no product, given by its positions alone.
    wanted = turned.drop_vars(["a", "b", "a_bnds", "b_bnds", "place", "areacella"], errors="ignore")
    wanted.tas.attrs = {"units": "K"}
    ds = wanted.copy(deep=True)
    for name in ("lat", "lon", *corners):
        ds[name] = ds[name].copy(data=ds[name].values / ANGLES[units])
    for name in ("lat", "lon"):
        ds[name].attrs["units"] = units
    np.testing.assert_allclose(downscale.cell_area(ds), downscale.cell_area(wanted), rtol=1e-9)
    fine, same = downscale.coarsen(ds, 2), downscale.coarsen(wanted, 2)
    for name in ("lat", "lon", *corners):
        np.testing.assert_allclose(fine[name] * ANGLES[units], same[name], rtol=1e-9, atol=1e-9)
    assert fine.lat.attrs["units"] == units


NAMED = {
    "geographic": [
        {"y": {"units": "degrees_north"}, "x": {"units": "degrees_east"}},
        {"y": {"units": "degree_N"}, "x": {"units": "degreeE"}},
        attrs_of("geographic"),
        {"names": ("lat", "lon")},
        {"names": ("LATITUDE", "LONGITUDE")},
        {"mapping": GLOBE, "y": {"axis": "Y"}, "x": {"axis": "X"}},
        {"mapping": GLOBE, "names": ("y", "x")},
        {"mapping": pyproj.CRS.from_epsg(4326).to_cf(), "names": ("y", "x")},
        {"mapping": {"spatial_ref": "EPSG:4326"}, "names": ("y", "x")},
        {"mapping": {"epsg_code": 4326}, "names": ("northing", "easting")},
        {"mapping": {"crs_wkt": pyproj.CRS.from_epsg(4258).to_wkt()}, "names": ("y", "x")},
        {"y": {"units": "degrees", "axis": "Y"}, "x": {"units": "degrees", "axis": "X"}},
        {"y": {"units": "degrees", "_CoordinateAxisType": "Lat"}, "x": {"_CoordinateAxisType": "Lon", "units": "deg"}},
        # As CDO writes it where there is a grid mapping.
        {"mapping": GLOBE, "y": {"units": "degrees_north", "standard_name": "projection_y_coordinate", "axis": "Y"},
         "x": {"units": "degrees_east", "standard_name": "projection_x_coordinate", "axis": "X"}},
    ],
    "rotated": [
        attrs_of("rotated"),
        {"names": ("rlat", "rlon")},
        {"mapping": POLE, "names": ("y", "x")},
        {"mapping": POLE, "names": ("rlat", "rlon"), "y": {"units": "degrees"}, "x": {"units": "degrees"}},
        {"mapping": POLE, "y": {"units": "degrees_north"}, "x": {"units": "degrees_east"}},
        {"mapping": POLE, "y": {"units": "degrees", "standard_name": "projection_y_coordinate"},
         "x": {"units": "degrees", "standard_name": "projection_x_coordinate"}},
        {"mapping": POLE, "y": {"units": "degrees", "standard_name": "latitude"},
         "x": {"units": "degrees", "standard_name": "longitude"}},
        {"mapping": {"crs_wkt": pyproj.CRS.from_cf({**POLE, "north_pole_grid_longitude": 0.0}).to_wkt()},
         "names": ("y", "x")},
    ],
    "plane": [
        attrs_of("plane"),
        {"y": {"units": "m", "axis": "Y"}, "x": {"units": "m", "axis": "X"}},
        {"names": ("y", "x")},
        {"mapping": CONIC, "names": ("y", "x")},
        {"mapping": CONIC, "names": ("lat", "lon"), "y": {"units": "m"}, "x": {"units": "m"}},
        {"mapping": {"crs_wkt": pyproj.CRS.from_cf(CONIC).to_wkt()}, "names": ("northing", "easting")},
        {"mapping": {"proj4": "+proj=lcc +lat_1=30 +lat_2=60 +lat_0=45 +lon_0=10 +R=6371000"}, "names": ("y", "x")},
        {"mapping": {"spatial_ref": "+init=epsg:3035"}, "names": ("y", "x")},
        {"mapping": {"epsg_code": "EPSG:3035"}, "y": {"axis": "Y"}, "x": {"axis": "X"}},
    ],
    "scan": [
        attrs_of("scan", "degrees") | {"mapping": SATELLITE},
        {"mapping": SATELLITE, "y": {"units": "degrees", "standard_name": "projection_y_coordinate"},
         "x": {"units": "degrees", "standard_name": "projection_x_coordinate"}},
        {"mapping": SATELLITE, "names": ("y", "x"), "y": {"units": "degrees"}, "x": {"units": "degrees"}},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "how"), [(kind, how) for kind, hows in NAMED.items() for how in hows])
@pytest.mark.parametrize("turned", [False, True])
def test_every_way_of_naming_axes(kind, how, turned):
    ds = made(kind, **how)
    where = horizontal(ds.transpose() if turned else ds)
    assert where.system == kind
    assert where.dims == tuple(ds.tas.dims)
    axes = where.grid.y, where.grid.x
    scale = np.deg2rad(1) * SATELLITE["perspective_point_height"] if kind == "scan" else 1.0  # type: ignore[operator]
    for axis, edges in zip(axes, EDGES[kind], strict=True):
        np.testing.assert_allclose(axis.edges, edges * scale, rtol=1e-9)
    if kind != "plane" or how.get("mapping"):
        # Every grid on the earth has areas of the earth: those of other names for it.
        plain = made(kind, mapping=MAPPINGS[kind], **attrs_of(kind, "m" if kind == "plane" else "degrees"))
        np.testing.assert_allclose(where.grid.cell_area, horizontal(plain).grid.cell_area, rtol=0.1)


@pytest.mark.parametrize(
    ("epsg", "centre"),
    [(3035, (3e6, 4e6)), (3857, (8e6, 1e6)), (32633, (5e6, 4e5)), (27700, (3e5, 4e5)), (2263, (2e5, 1e6))],
)
@pytest.mark.parametrize("how", ["named", "alone", "attribute"])
def test_a_raster_with_a_coordinate_system_has_true_areas(epsg, centre, how):
    """As rioxarray leaves it: bare y and x, and a scalar ``spatial_ref`` that no attribute names; in the CRS's unit."""
    crs = pyproj.CRS.from_epsg(epsg)
    y, x = centre[0] - 5e3 * np.arange(6), centre[1] + 5e3 * np.arange(8)
    ds = xr.Dataset({"tas": (("y", "x"), np.ones((6, 8)), {})}, {"y": y, "x": x})
    if how == "attribute":
        ds.tas.attrs["crs"] = f"EPSG:{epsg}"
    else:
        ds = ds.assign_coords(spatial_ref=((), 0, {"crs_wkt": crs.to_wkt(), "spatial_ref": crs.to_wkt()}))
    if how == "named":
        ds.tas.encoding["grid_mapping"] = "spatial_ref"
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    area = downscale.cell_area(ds)
    half = 2.5e3
    side = np.linspace(-1, 1, 51)
    ring_x = np.concatenate([side, np.ones(51), -side, -np.ones(51)]) * half + x[3]
    ring_y = np.concatenate([-np.ones(51), side, np.ones(51), -side]) * half + y[2]
    true = abs(crs.get_geod().polygon_area_perimeter(*to_degrees.transform(ring_x, ring_y))[0])
    assert float(area[2, 3]) == pytest.approx(true, rel=1e-6)
    means = downscale.coarsen(ds, 2)
    assert means.y.attrs["standard_name"] == "projection_y_coordinate"
    np.testing.assert_allclose(downscale.cell_area(means), means.areacella, rtol=1e-9)
    assert float(means.areacella.sum()) == pytest.approx(float(area.sum()), rel=1e-9)


def test_a_geographic_coordinate_system_is_a_sphere():
    edges = np.linspace(90, -90, 19), np.linspace(-180, 180, 37)
    y, x = ((e[1:] + e[:-1]) / 2 for e in edges)
    crs = pyproj.CRS.from_epsg(4326).to_cf()
    ds = xr.Dataset({"tas": (("y", "x"), 280 + np.random.default_rng(0).random((18, 36)))},
                    {"y": y, "x": x, "spatial_ref": ((), 0, crs)})  # fmt: skip
    fine = ds.downscale(2)
    assert float(fine.areacella.sum()) == pytest.approx(4 * np.pi * SPHERE**2, rel=1e-12)
    assert fine.y.attrs["units"] == "degrees_north"
    assert downscale.check_conservation(ds, fine).passed


CONTRADICTIONS = {
    "units and standard name of axes": (
        {"y": {"units": "degrees_north", "standard_name": "projection_y_coordinate"},
         "x": {"units": "degrees_east", "standard_name": "projection_x_coordinate"}},
        ("'degrees_north'", "'projection_y_coordinate'"),
    ),
    "units in lengths, a standard name in angles": (
        {"y": {"units": "km", "standard_name": "latitude"}, "x": {"units": "km", "standard_name": "longitude"}},
        ("'km'", "'latitude'"),
    ),
    "units and axis": (
        {"y": {"units": "degrees_east", "axis": "Y"}, "x": {"units": "degrees_north", "axis": "X"}},
        ("'degrees_east'", "axis 'Y'"),
    ),
    "standard name and axis": (
        {"y": {"standard_name": "longitude", "axis": "Y"}, "x": {"standard_name": "latitude", "axis": "X"}},
        ("'longitude'", "axis 'Y'"),
    ),
    "units and standard name of the other direction": (
        {"y": {"units": "degrees_north", "standard_name": "longitude"}, "x": {"units": "degrees_east"}},
        ("'degrees_north'", "'longitude'"),
    ),
    "a vertical axis with horizontal units": (
        {"y": {"units": "degrees_north", "axis": "Z"}, "x": {"units": "degrees_east"}}, ("'degrees_north'", "axis 'Z'"),
    ),
    "a geographic mapping and lengths": (
        {"names": ("y", "x"), "y": {"units": "km"}, "x": {"units": "km"}, "mapping": GLOBE},
        ("'km'", "latitude_longitude"),
    ),
    "EPSG:4326 and metres": (
        {"y": {"units": "m", "axis": "Y"}, "x": {"units": "m", "axis": "X"}, "mapping": {"spatial_ref": "EPSG:4326"}},
        ("'m'", "WGS 84"),
    ),
    "a geographic mapping and projected names": ({**attrs_of("plane"), "mapping": GLOBE},
                                                 ("'projection_y_coordinate'", "latitude_longitude")),
    "a projection and degrees": (
        {"y": {"units": "degrees_north"}, "x": {"units": "degrees_east"}, "mapping": CONIC},
        ("'degrees_north'", "lambert_conformal_conic"),
    ),
    "a projection and true latitudes": ({**attrs_of("geographic"), "mapping": CONIC},
                                        ("'latitude'", "lambert_conformal_conic")),
    "a rotated pole and lengths": ({"names": ("y", "x"), "y": {"units": "m"}, "x": {"units": "m"}, "mapping": POLE},
                                   ("'m'", "rotated_latitude_longitude")),
    "a rotated pole and true latitudes": ({**attrs_of("geographic"), "mapping": POLE},
                                          ("'latitude'", "rotated_latitude_longitude")),
    "a true pole and turned latitudes": ({**attrs_of("rotated"), "mapping": GLOBE},
                                         ("'grid_latitude'", "latitude_longitude")),
    "units of something else": ({"y": {"units": "K", "standard_name": "latitude"}, "x": {"units": "K", "axis": "X"}},
                                ("'K'",)),
    "degrees south": ({"y": {"units": "degrees_south", "standard_name": "latitude"}, "x": {"units": "degrees_east"}},
                      ("'degrees_south'",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_refused_in_one_line_with_both(case):
    how, both = CONTRADICTIONS[case]
    with pytest.raises(GridError) as caught:
        horizontal(made("geographic", **how))
    message = str(caught.value)
    assert "\n" not in message
    assert all(words in message for words in both), message


def test_names_say_nothing_where_attributes_do():
    ds = made("geographic", ("lon", "lat"), y={"units": "degrees_north"}, x={"units": "degrees_east"})
    assert horizontal(ds).dims == ("lon", "lat")
    ds = made("plane", ("lat", "lon"), y={"units": "m", "axis": "Y"}, x={"units": "m", "axis": "X"})
    assert horizontal(ds).system == "plane"


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"grid_mapping_name": "of_mine"}, "of_mine"),
        ({"grid_mapping_name": "rotated_latitude_longitude"}, "without grid_north_pole_latitude"),
        ({"spatial_ref": "nonsense"}, "spatial_ref"),
        ({}, "no attributes"),
    ],
)
def test_a_grid_mapping_that_cannot_be_used_is_refused(mapping, words):
    with pytest.raises(GridError, match="'place'") as caught:
        horizontal(made("plane", ("y", "x"), mapping=mapping))
    assert words in str(caught.value)
    assert "drop it" in str(caught.value)


def test_a_grid_mapping_that_is_named_and_lost_is_warned_about():
    ds = made("plane", ("y", "x"), mapping=CONIC).drop_vars("place")
    with pytest.warns(UserWarning, match="'place'.*plane.*decode_coords"):
        downscale.cell_area(ds)
    assert "grid_mapping" not in ds.drop_attrs().tas.attrs
    assert horizontal(ds.drop_attrs()).notes
    on_the_sphere = made("geographic", mapping=GLOBE, **attrs_of("geographic")).drop_vars("place")
    assert horizontal(on_the_sphere).system == "geographic"


def test_cells_beyond_the_edge_of_the_earth_are_refused():
    ds = made("scan", mapping=SATELLITE, **attrs_of("scan", "degrees"))
    whole = np.linspace(-0.15, 0.15, 8)
    ds = ds.assign_coords(b=("b", np.rad2deg(whole), ds.b.attrs))
    with pytest.raises(GridError, match="beyond its edge"):
        horizontal(ds)


def test_of_several_grid_mappings_the_one_of_the_axes_counts():
    ds = made("plane", ("y", "x"), mapping=CONIC).assign_coords(globe=((), 0, GLOBE))
    ds.tas.attrs["grid_mapping"] = "globe: lat lon place: y x"
    assert horizontal(ds).mapping.name == "place"


def test_fields_decide_between_axes_of_equal_evidence():
    ds = made("plane", ("y", "x"))
    spare = {"yc": ("yc", np.arange(3.0)), "xc": ("xc", np.arange(3.0))}
    assert horizontal(ds.assign_coords(spare)).dims == ("y", "x")
    assert horizontal(ds[["tas"]].rename(y="yc", x="xc").assign_coords(y=np.arange(3.0), x=np.arange(3.0))).dims == (
        "yc", "xc"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "degrees", "metres"),
    [
        ("degrees", 1, None), ("Degrees_North", 1, None), ("degrees east", 1, None), ("degs", 1, None),
        ("degrees_south", None, None), ("degrees_west", None, None), ("radian", 57.29577951, None),
        ("gradian", 0.9, None), ("m", None, 1), ("Kilometers", None, 1000), ("1000 m", None, 1000),
        ("feet", None, 0.3048), ("K", None, None), ("", None, None), ("1", None, None),
    ],
)  # fmt: skip
def test_units_of_angle_and_length_in_many_spellings(text, degrees, metres):
    for found, wanted in ((size_in(text, "degree"), degrees), (size_in(text, "meter"), metres)):
        assert (found is None) == (wanted is None)
        assert found is None or found == pytest.approx(wanted, rel=1e-8)
