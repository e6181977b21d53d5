"""What a file says of itself is true of it: where, when and what, and what an archive asks for."""

from __future__ import annotations

import os
import re
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from result_grids import GRIDS, curvilinear, latlon, members, times
from sample_fields import field_on, region, world

import downscale
from downscale.cf.times import cmip_frequency, iso_duration, iso_resolution
from downscale.errors import OptionError, OutputError
from downscale.io.attributes import REQUIRED, coverage, extent, file_attributes, parse_profile
from downscale.output import to_netcdf

CMIP6 = {
    "mip_era": "CMIP6", "source_id": "MPI-ESM1-2-HR", "institution_id": "MPI-M", "experiment_id": "ssp370",
    "experiment": "gap-filling scenario reaching 7.0 based on SSP3", "variant_label": "r1i1p1f1",
    "institution": "Max Planck Institute for Meteorology", "source": "MPI-ESM1.2-HR (2017)", "frequency": "day",
    "tracking_id": "hdl:21.14100/old", "creation_date": "2019-01-01T00:00:00Z", "nominal_resolution": "100 km",
    "grid_label": "gn", "grid": "gn", "license": "CC BY", "references": "a paper", "contact": "the parent",
    "external_variables": "areacella", "geospatial_lat_min": -90.0, "time_coverage_start": "1850-01-01",
    "product": "model-output", "activity_id": "ScenarioMIP", "table_id": "day", "source_type": "AOGCM",
}  # fmt: skip
GIVEN = {
    "contact": "data@example.org", "domain": "Europe", "domain_id": "EUR-12i", "institution": "An Institute",
    "institution_id": "INST",
}  # fmt: skip
PROFILE = {"name": "cordex-esd", **GIVEN}


def result(**attrs: Any) -> xr.Dataset:
    """A downscaled CMIP6 field."""
    ds = latlon().drop_vars(["areacella", "crs"])
    ds.tas.attrs = {key: value for key, value in ds.tas.attrs.items() if key not in ("cell_measures", "grid_mapping")}
    ds.attrs = {"title": "output prepared for CMIP6", "history": "made", **CMIP6, **attrs}
    return ds.downscale(2)


def written(path: Any) -> dict[str, Any]:
    with netCDF4.Dataset(path) as file:
        return {name: file.getncattr(name) for name in file.ncattrs()}


def test_what_is_no_longer_true_is_dropped_and_the_rest_kept(tmp_path):
    to_netcdf(result(), tmp_path / "a.nc")
    attrs = written(tmp_path / "a.nc")
    gone = {"tracking_id", "creation_date", "nominal_resolution", "grid_label", "external_variables"}
    assert not gone & set(attrs)
    for key in ("title", "institution", "source", "references", "frequency", "source_id", "mip_era"):
        assert attrs[key] == {"title": "output prepared for CMIP6", **CMIP6}[key]
    assert attrs["history"].endswith("\nmade")
    assert attrs["geospatial_lat_min"] == 40.0
    assert attrs["time_coverage_start"] == "2000-02-01T00:00:00Z"
    assert attrs["Conventions"] == "CF-1.11, ACDD-1.3"


def test_the_box_in_space_and_time_is_that_of_the_cells():
    attrs = file_attributes(result())
    wanted = {
        "geospatial_lat_min": 40.0, "geospatial_lat_max": 43.0, "geospatial_lon_min": 4.0, "geospatial_lon_max": 8.0,
        "geospatial_lat_units": "degrees_north", "geospatial_lon_units": "degrees_east",
        "geospatial_lat_resolution": "0.25 degrees", "geospatial_lon_resolution": "0.25 degrees",
        "time_coverage_start": "2000-02-01T00:00:00Z", "time_coverage_end": "2000-02-04T00:00:00Z",
        "time_coverage_duration": "P3D", "time_coverage_resolution": "P1D", "keywords": "air_temperature",
    }  # fmt: skip
    assert wanted.items() <= attrs.items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", attrs["date_created"])


def test_a_title_and_a_summary_are_made_where_there_are_none():
    ds = result(title=None)
    ds.attrs.pop("title")
    attrs = file_attributes(ds)
    assert attrs["title"] == "Near-Surface Air Temperature"
    assert "method=sobolev" in attrs["summary"]
    assert file_attributes(result(summary="mine"))["summary"] == "mine"


@pytest.mark.parametrize("name", ["rotated", "equal_area", "curvilinear", "stereographic"])
def test_two_dimensional_coordinates_have_a_box_of_their_corners(name):
    ds = GRIDS[name]()
    found = extent(ds)
    for which in ("lat", "lon"):
        assert found[f"geospatial_{which}_min"] == ds[f"{which}_bnds"].values.min()
        assert found[f"geospatial_{which}_max"] == ds[f"{which}_bnds"].values.max()
    plain = extent(ds.drop_vars(["lat_bnds", "lon_bnds"]))
    assert plain["geospatial_lat_min"] == ds.lat.values.min()
    assert extent(ds.drop_vars(["lat", "lon"])) == {}


@pytest.mark.parametrize(
    ("centres", "box"),
    [
        (np.arange(5.0, 360, 10), (5.0, 355.0)),
        (np.arange(-175.0, 180, 10), (-175.0, 175.0)),
        (np.array([350.0, 355, 0, 5]), (350.0, 5.0)),
        (np.array([170.0, 175, -180, -175]), (170.0, -175.0)),
        (np.array([350.0, 355, 360, 365]), (350.0, 365.0)),
    ],
)
def test_a_box_over_the_seam_has_its_west_in_the_west(centres, box):
    lon = ("lon", centres, {"units": "degrees_east"})
    found = extent(xr.Dataset(coords={"lat": ("lat", [1.0, 2.0], {"units": "degrees_north"}), "lon": lon}))
    assert (found["geospatial_lon_min"], found["geospatial_lon_max"]) == box


def test_a_bent_box_over_the_seam():
    ds = curvilinear()
    moved = ds.assign_coords(lon=(ds.lon - 7) % 360, lon_bnds=(ds.lon_bnds - 7) % 360)
    found = extent(moved)
    assert found["geospatial_lon_min"] == pytest.approx(float(ds.lon_bnds.min()) - 7 + 360)
    assert found["geospatial_lon_max"] == pytest.approx(float(ds.lon_bnds.max()) - 7)


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard", "proleptic_gregorian", "julian"])
def test_spans_in_every_calendar(calendar):
    ds = xr.Dataset(coords=times(calendar, 30))
    found = coverage(ds)
    assert found["time_coverage_start"] == "2000-02-01T00:00:00Z"
    assert found["time_coverage_end"][:7] == "2000-03"
    assert (found["time_coverage_duration"], found["time_coverage_resolution"]) == ("P30D", "P1D")
    assert coverage(ds.drop_vars("time_bnds"))["time_coverage_duration"] == "P29D"
    assert coverage(ds.isel(time=0))["time_coverage_duration"] == "P1D"


def test_steps_in_words():
    durations = [iso_duration(days) for days in (0.0, 1.0, 0.125, 30.5, 1 / 1440)]
    assert durations == ["PT0S", "P1D", "PT3H", "P30DT12H", "PT1M"]
    assert iso_resolution(np.array([365.0, 366.0])) == "P1Y"
    assert iso_resolution(np.array([1.0, 2.0])) is None
    assert iso_resolution(np.array([])) is None
    monthly = xr.Dataset(coords={"time": xr.date_range("2000-01-01", periods=12, freq="MS")})
    assert cmip_frequency(monthly) == "mon"
    assert cmip_frequency(monthly.isel(time=[0, 2, 3])) is None
    assert cmip_frequency(xr.Dataset()) == "fx"


def test_a_frequency_that_times_deny_is_dropped():
    ds = result()
    assert file_attributes(ds)["frequency"] == "day"
    ds.attrs["frequency"] = "mon"
    assert "frequency" not in file_attributes(ds)
    ds.attrs["frequency"] = "dayPt"
    assert file_attributes(ds)["frequency"] == "dayPt"


def test_attributes_that_are_given_lie_over_all_others(tmp_path):
    ds = result(flag=True, nothing=None, table={"a": 1}, numbers=[1, 2])
    to_netcdf(ds, tmp_path / "a.nc", attrs={"title": "mine", "creator_name": "me", "references": None})
    attrs = written(tmp_path / "a.nc")
    assert (attrs["title"], attrs["creator_name"], attrs["flag"], attrs["table"]) == ("mine", "me", "true", "{'a': 1}")
    assert not {"references", "nothing"} & set(attrs)
    np.testing.assert_array_equal(attrs["numbers"], [1, 2])


def test_the_profile_fills_what_can_be_known(tmp_path):
    ds = result()
    coarse = ds.downscale.coarsen(2)
    assert to_netcdf(ds, tmp_path / "a.nc", coarse=coarse, profile=PROFILE).passed
    attrs = written(tmp_path / "a.nc")
    assert set(REQUIRED) <= set(attrs)
    wanted = {
        **GIVEN, "activity_id": "ESD", "project_id": "CORDEX-CMIP6", "Conventions": "CF-1.11", "mip_era": "CMIP6",
        "product": "model-output", "driving_source_id": "MPI-ESM1-2-HR", "driving_institution_id": "MPI-M",
        "driving_experiment_id": "ssp370", "driving_experiment": CMIP6["experiment"], "frequency": "day",
        "driving_variant_label": "r1i1p1f1", "variable_id": "tas", "source_id": "downscale-sobolev",
        "esd_method_id": "downscale", "training_id": "sobolev", "source_type": "ESD-MOS",
        "version_realization": "v1-r1",
        "grid": "latitude longitude with 0.25 degree grid spacing", "source": f"downscale {downscale.__version__}",
    }  # fmt: skip
    assert {key: attrs[key] for key in wanted} == wanted
    assert re.fullmatch(r"hdl:21\.14103/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f-]{17}", attrs["tracking_id"])
    to_netcdf(ds, tmp_path / "b.nc", profile=PROFILE)
    assert written(tmp_path / "b.nc")["tracking_id"] != attrs["tracking_id"]


def test_the_profile_stores_in_the_types_of_the_archive(tmp_path):
    ds = result().astype("f8")
    ds.time.encoding["dtype"] = np.dtype("i4")
    to_netcdf(ds, tmp_path / "a.nc", profile=PROFILE)
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        assert file.data_model == "NETCDF4_CLASSIC"
        assert file["tas"].dtype == np.float32
        assert file["tas"]._FillValue == file["tas"].missing_value == np.float32(1e20)
        for name in ("time", "time_bnds", "lat", "lon", "lat_bnds", "height"):
            assert file[name].dtype == np.float64, name
            assert "_FillValue" not in file[name].ncattrs()


def test_what_is_given_goes_before_what_is_found(tmp_path):
    own = {"driving_source_id": "ERA5", "source_type": "ESD-PP", "training": "on ERA5", "training_id": "E1"}
    to_netcdf(result(), tmp_path / "a.nc", profile={**PROFILE, **own}, attrs={"esd_method_id": "Net", "title": "t"})
    attrs = written(tmp_path / "a.nc")
    assert {key: attrs[key] for key in own} == own
    assert (attrs["source_id"], attrs["title"]) == ("Net-E1", "t")


def test_the_driver_of_a_regional_input_is_kept(tmp_path):
    ds = result(driving_source_id="EC-Earth3", driving_experiment_id="historical", source_id="RCA4", experiment_id="x")
    rest = {"driving_institution_id": "EC", "driving_experiment": "e", "driving_variant_label": "r1"}
    to_netcdf(ds, tmp_path / "a.nc", profile=PROFILE, attrs=rest)
    attrs = written(tmp_path / "a.nc")
    assert (attrs["driving_source_id"], attrs["driving_experiment_id"]) == ("EC-Earth3", "historical")


@pytest.mark.parametrize(
    ("profile", "attrs", "match"),
    [
        ("cordex-dd", {}, "expected profile to be None or one of 'cordex-esd', received 'cordex-dd'"),
        ({"institution": "x"}, {}, "expected profile to be None or one of 'cordex-esd', received None"),
        ("cordex-esd", {}, r"expected the global attributes 'contact', 'domain', 'domain_id', 'institution', "
         r"'institution_id', received none; give them as profile=\{'name': 'cordex-esd', 'contact': \.\.\.\} or in"),
        (PROFILE, {"domain": " "}, "expected the global attributes 'domain', received none"),
        (PROFILE, {"domain_id": "EUR_12"}, "expected domain_id of letters, digits and dashes, received 'EUR_12'"),
        (PROFILE, {"training_id": "a-b"}, "expected training_id without dashes, received 'a-b'; rename it"),
    ],
)  # fmt: skip
def test_what_a_profile_asks_for(tmp_path, profile, attrs, match):
    """Before any work: the field of the test cannot be computed."""
    ds = result().chunk(time=1)

    def boom(block: np.ndarray) -> np.ndarray:
        raise AssertionError("computed")

    ds["tas"] = ds.tas.copy(data=ds.tas.data.map_blocks(boom, meta=np.empty(0, "f4")))
    with pytest.raises(OptionError, match=match):
        to_netcdf(ds, tmp_path / "a.nc", profile=profile, attrs=attrs)
    assert os.listdir(tmp_path) == []


def test_a_profile_wants_one_field(tmp_path):
    ds = members()
    ds.attrs.update(CMIP6)
    with pytest.raises(OutputError, match="expected one field in a file, received 'tas', 'sftlf'; write one file"):
        to_netcdf(ds, tmp_path / "a.nc", profile=PROFILE)


def test_a_method_of_its_own_must_be_described(tmp_path):
    ds = result()
    ds.attrs["downscale_settings"] = "lat x2, method=MyNet"
    with pytest.raises(OptionError, match="'esd_method', 'esd_method_id', 'source_id', 'source_type', 'training'"):
        to_netcdf(ds, tmp_path / "a.nc", profile=PROFILE)
    assert parse_profile(None) == (None, {})


def test_fields_of_the_plain_kind_get_no_archive_attributes(tmp_path):
    to_netcdf(field_on(region()).downscale(2), tmp_path / "a.nc")
    assert not {"activity_id", "project_id", "tracking_id"} & set(written(tmp_path / "a.nc"))
    to_netcdf(field_on(world()).downscale(2), tmp_path / "b.nc")
    assert written(tmp_path / "b.nc")["geospatial_lon_max"] == 360.0
