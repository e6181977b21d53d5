"""What metadata say of a quantity: bounds that hold in nature and in its own units, sums or means, and why."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import warnings
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import DATA, shared_data

from downscale.cf.kinds import code_reason, direction_reason, quantity_over_time
from downscale.cf.quantities import (
    CUSTOMARY,
    LIMITS,
    automatic_bounds,
    bounds_and_reason,
    cell_methods,
    limit_of,
    quantity_and_reason,
    quantity_of,
    require_lapse_rate,
    variable_bounds,
)
from downscale.cf.units import convert, fits, is_logarithmic, read_units
from downscale.errors import OptionError

NONE, POSITIVE, SHARE, CENT = (None, None), (0.0, None), (0.0, 1.0), (0.0, 100.0)


def variable(standard_name="", units=None, methods="", name=None, **attrs) -> xr.DataArray:
    """A field that holds nothing but what is said of it."""
    said = {"standard_name": standard_name, "cell_methods": methods, **attrs}
    said = {key: text for key, text in said.items() if text}
    return xr.DataArray(0.0, name=name, attrs=said if units is None else {**said, "units": units})


# Standard name, units, cell methods, bounds.
STANDARD = [
    ("precipitation_flux", "kg m-2 s-1", "time: mean", POSITIVE),
    ("precipitation_flux", "mm/day", "", POSITIVE),
    ("precipitation_flux", "furlongs of rain", "", POSITIVE),
    ("precipitation_flux", None, "", POSITIVE),
    ("precipitation_amount", "kg m**-2", "time: sum", POSITIVE),
    ("lwe_thickness_of_precipitation_amount", "m", "area: mean time: sum (interval: 1 hour)", POSITIVE),
    ("lwe_precipitation_rate", "mm d-1", "", POSITIVE),
    ("convective_rainfall_rate", "mm h-1", "", POSITIVE),
    ("thickness_of_rainfall_amount", "mm", "", POSITIVE),
    ("total_precipitation", "mm", "", POSITIVE),
    ("snowfall_flux", "kg m-2 s-1", "", POSITIVE),
    ("lwe_thickness_of_snowfall_amount", "m of water equivalent", "", POSITIVE),
    ("surface_snow_amount", "kg m-2", "", POSITIVE),
    ("surface_snow_thickness", "m", "", POSITIVE),
    ("lwe_thickness_of_surface_snow_amount", "m", "", POSITIVE),
    ("surface_snow_melt_flux", "kg m-2 s-1", "", POSITIVE),
    ("runoff_flux", "kg m-2 s-1", "", POSITIVE),
    ("surface_runoff_amount", "kg m-2", "", POSITIVE),
    ("mass_content_of_water_in_soil", "kg m-2", "", POSITIVE),
    ("mass_content_of_water_in_soil_layer", "kg m-2", "", POSITIVE),
    ("volume_fraction_of_condensed_water_in_soil", "m3 m-3", "", SHARE),
    ("volume_fraction_of_condensed_water_in_soil", "m**3 m**-3", "", SHARE),
    ("specific_humidity", "kg kg-1", "", POSITIVE),
    ("specific_humidity", "g/kg", "", POSITIVE),
    ("humidity_mixing_ratio", "1", "", POSITIVE),
    ("relative_humidity", "%", "", POSITIVE),
    ("relative_humidity", "1", "", POSITIVE),
    ("water_vapor_partial_pressure_in_air", "hPa", "", POSITIVE),
    ("atmosphere_mass_content_of_water_vapor", "kg m-2", "", POSITIVE),
    ("mass_fraction_of_cloud_ice_in_air", "kg kg-1", "", SHARE),
    ("mass_fraction_of_sand_in_soil", "%", "", CENT),
    ("mole_fraction_of_ozone_in_air", "1e-9", "", (0.0, 1e9)),
    ("mole_fraction_of_carbon_dioxide_in_air", "ppmv", "", (0.0, 1e6)),
    ("mass_concentration_of_pm2p5_ambient_aerosol_particles_in_air", "ug m-3", "", POSITIVE),
    ("mole_concentration_of_nitrate_in_sea_water", "mol m-3", "", POSITIVE),
    ("number_concentration_of_cloud_liquid_water_particles_in_air", "m-3", "", POSITIVE),
    ("cloud_area_fraction", "%", "", CENT),
    ("cloud_area_fraction", "1", "", SHARE),
    ("cloud_area_fraction", "(0 - 1)", "", SHARE),
    ("cloud_area_fraction", "okta", "", (0.0, 8.0)),
    ("cloud_area_fraction", None, "", SHARE),
    ("cloud_area_fraction", "code table", "", POSITIVE),
    ("cloud_area_fraction", "m", "", POSITIVE),
    ("cloud_area_fraction", "degree", "", POSITIVE),
    ("cloud_area_fraction_in_atmosphere_layer", "percent", "", CENT),
    ("surface_snow_area_fraction", "%", "", CENT),
    ("sea_ice_area_fraction", "1", "area: mean where sea", SHARE),
    ("land_area_fraction", "%", "", CENT),
    ("vegetation_area_fraction", "fraction", "", SHARE),
    ("surface_albedo", "1", "", SHARE),
    ("surface_albedo", "%", "", CENT),
    ("wind_speed", "m s-1", "time: mean", POSITIVE),
    ("wind_speed", "knots", "", POSITIVE),
    ("wind_speed_of_gust", "m s**-1", "time: maximum", POSITIVE),
    ("sea_surface_wave_significant_height", "m", "", POSITIVE),
    ("surface_downwelling_shortwave_flux_in_air", "W m-2", "", POSITIVE),
    ("surface_downwelling_shortwave_flux_in_air", "J m**-2", "time: sum", POSITIVE),
    ("surface_upwelling_longwave_flux_in_air_assuming_clear_sky", "W m-2", "", POSITIVE),
    ("toa_incoming_shortwave_flux", "W m-2", "", POSITIVE),
    ("integral_wrt_time_of_surface_downwelling_shortwave_flux_in_air", "J m-2", "", POSITIVE),
    ("toa_outgoing_longwave_flux_assuming_reference_mole_fraction_of_ozone_in_air", "W m-2", "", POSITIVE),
    ("atmosphere_optical_thickness_due_to_dust_ambient_aerosol_particles", "1", "", POSITIVE),
    ("leaf_area_index", "1", "", POSITIVE),
    ("sea_ice_thickness", "m", "", POSITIVE),
    ("land_ice_thickness", "m", "", POSITIVE),
    ("sea_water_practical_salinity", "1", "", POSITIVE),
    ("water_volume_transport_in_river_channel", "m3 s-1", "", POSITIVE),
    ("atmosphere_convective_available_potential_energy", "J kg-1", "", POSITIVE),
    ("precipitation_flux standard_error", "kg m-2 s-1", "", POSITIVE),
    ("air_temperature standard_error", "K", "", POSITIVE),
    # None: far from any bound, of either sign, or a difference.
    ("air_temperature", "K", "", NONE),
    ("air_temperature", "degC", "", NONE),
    ("air_pressure", "Pa", "", NONE),
    ("geopotential_height", "m", "", NONE),
    ("surface_altitude", "m", "", NONE),
    ("eastward_wind", "m s-1", "", NONE),
    ("water_evapotranspiration_flux", "kg m-2 s-1", "", NONE),
    ("lwe_thickness_of_water_evaporation_amount", "m", "", NONE),
    ("surface_upward_latent_heat_flux", "W m-2", "", NONE),
    ("surface_net_downward_shortwave_flux", "W m-2", "", NONE),
    ("toa_shortwave_cloud_radiative_effect", "W m-2", "", NONE),
    ("surface_downwelling_shortwave_flux_in_air_due_to_volcanic_ambient_aerosol_particles", "W m-2", "", NONE),
    ("minus_one_times_surface_upwelling_shortwave_flux_in_air", "W m-2", "", NONE),
    ("tendency_of_specific_humidity_due_to_advection", "s-1", "", NONE),
    ("tendency_of_atmosphere_mass_content_of_water_vapor", "kg m-2 s-1", "", NONE),
    ("change_over_time_in_surface_snow_amount", "kg m-2", "", NONE),
    ("product_of_eastward_wind_and_specific_humidity", "m s-1", "", NONE),
    ("precipitation_flux_anomaly", "kg m-2 s-1", "", NONE),
    ("mass_concentration_of_chlorophyll_in_sea_water", "lg(re 1 mg m-3)", "", NONE),
    ("rainfall_rate", "dBR", "", NONE),
    ("precipitation_flux status_flag", "1", "", NONE),
    ("wind_from_direction", "degree", "", NONE),
    # What the cell methods make of it.
    ("air_temperature", "K", "time: standard_deviation", POSITIVE),
    ("air_temperature", "K2", "time: variance (interval: 1 day)", POSITIVE),
    ("air_temperature", "K", "time: range within days time: mean over days", POSITIVE),
    ("surface_altitude", "m", "area: standard_deviation", POSITIVE),
    ("cloud_area_fraction", "%", "time: standard_deviation", POSITIVE),
    ("cloud_area_fraction", "%", "time: maximum", CENT),
    ("cloud_area_fraction", "%", "time: sum", POSITIVE),
    ("cloud_area_fraction", "%", "time: mean (interval: 1 day comment: sum of layers)", CENT),
    ("sea_ice_area_fraction", "%", "area: sum", POSITIVE),
    ("", "", "", NONE),
]


@pytest.mark.parametrize(("name", "units", "methods", "bounds"), STANDARD)
def test_a_standard_name_implies_bounds_in_the_units_of_the_field(name, units, methods, bounds):
    assert automatic_bounds(variable(name, units, methods)) == bounds


# Name, units, bounds: without a standard name.
SHORT = [
    *((name, "kg m-2 s-1", POSITIVE) for name in ("pr", "prc", "prsn", "mrro", "snm")),
    *((name, "m", POSITIVE) for name in ("tp", "cp", "lsp", "sf", "sd", "ro", "swh", "snd")),
    *((name, "mm/day", POSITIVE) for name in ("precip", "precipitation", "rainrate", "rain_rate", "PR")),
    *((name, "kg m-2", POSITIVE) for name in ("snw", "mrso", "prw", "tcwv", "clwvi")),
    *((name, "%", CENT) for name in ("clt", "siconc", "snc", "sftlf")),
    *((name, "1", SHARE) for name in ("clt", "siconc", "lsm", "albedo")),
    *((name, "m s-1", POSITIVE) for name in ("sfcWind", "si10", "wsgsmax", "fg10")),
    *((name, "W m-2", POSITIVE) for name in ("rsds", "rlds", "rlut")),
    ("tcc", "(0 - 1)", SHARE),
    ("swvl1", "m**3 m**-3", SHARE),
    ("ssrd", "J m**-2", POSITIVE),
    ("r", "%", POSITIVE),
    ("hurs", "%", POSITIVE),
    ("q", "kg kg**-1", POSITIVE),
    ("huss", "g kg-1", POSITIVE),
    ("tp", "m of water equivalent", POSITIVE),
    # The units do not fit: something else of that name.
    ("pr", "hPa", NONE),
    ("cp", "J kg-1 K-1", NONE),
    ("tp", "K", NONE),
    ("q", "m3 s-1", NONE),
    ("r", "1", NONE),
    ("hs", "W m-2", NONE),
    ("sd", "degC", NONE),
    ("clt", "degree", NONE),
    ("pr", None, NONE),
    ("pr", "", NONE),
    ("pr", "unknown", NONE),
    ("rain", "dBZ", NONE),
    # Names that say nothing, or of what can be negative.
    ("tas", "K", NONE),
    ("u10", "m s-1", NONE),
    ("e", "m", NONE),
    ("ttr", "J m**-2", NONE),
    ("evspsbl", "kg m-2 s-1", NONE),
    ("elevation", "m", NONE),
]


@pytest.mark.parametrize(("name", "units", "bounds"), SHORT)
def test_a_customary_name_implies_bounds_where_its_units_fit(name, units, bounds):
    assert automatic_bounds(variable(name=name, units=units)) == bounds
    assert automatic_bounds(variable("unknown", name=name, units=units)) == bounds


def test_a_standard_name_goes_before_the_name():
    assert automatic_bounds(variable("air_pressure", "Pa", name="pr")) == NONE
    assert automatic_bounds(variable("eastward_wind", "m s-1", name="ws")) == NONE


@pytest.mark.parametrize(
    ("name", "long_name", "bounds"),
    [
        ("pr", "precipitation anomaly wrt 1981-2010", NONE),
        ("pr", "Difference of means", NONE),
        ("pr", "trend a decade", NONE),
        ("pr_anom", "", NONE),
        ("bias_of_pr", "", NONE),
        ("pr", "precipitation", POSITIVE),
        ("pr", "biasutti precipitation under climate change", POSITIVE),
    ],
)
def test_what_is_called_an_anomaly_has_no_bounds(name, long_name, bounds):
    assert automatic_bounds(variable("precipitation_flux", "kg m-2 s-1", name=name, long_name=long_name)) == bounds


def test_the_spread_of_anomalies_is_not_negative():
    spread = variable("air_temperature", "K", "time: standard_deviation", long_name="temperature anomaly")
    assert automatic_bounds(spread) == POSITIVE


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (variable("precipitation_flux", "mm"), "by standard_name 'precipitation_flux'"),
        (variable(name="tp", units="m"), "by name 'tp' and units 'm', as precipitation_amount"),
        (variable(name="tp", units="K"), "none: name 'tp' has units 'K', expected such as 'kg m-2 s-1'"),
        (variable(name="xyz"), "none: no standard_name, and the name says nothing"),
        (variable("air_temperature", "K"), "none: standard_name 'air_temperature' implies none"),
        (variable("air_temperature", "K", "time: range"), "by cell_methods, range"),
        (variable("rainfall_rate", "dBZ"), "none: units 'dBZ' are of a logarithm"),
        (variable("rainfall_rate", "mm", long_name="Anomaly"), "none: long_name speaks of 'anomaly'"),
        (
            variable("cloud_area_fraction", "ids"),
            "by standard_name 'cloud_area_fraction'; no upper bound, since units 'ids' are not those of '1'",
        ),
    ],
)
def test_bounds_come_with_their_reason(field, reason):
    assert bounds_and_reason(field)[1] == reason


# Standard name, name, units, cell methods, quantity.
QUANTITIES = [
    ("", "co2", "kg", "area: sum", "extensive"),
    ("", "co2", "kg m-2", "time: mean area: sum", "extensive"),
    ("", "co2", "kg", "area: mean", "intensive"),
    ("", "co2", "kg", "area: point time: mean", "intensive"),
    ("", "co2", "kg", "time: mean lat: lon: sum", "extensive"),
    ("", "co2", "kg m-2", "lat: sum", "intensive"),
    ("", "co2", "kg m-2", "time: sum (comment: area: sum)", "intensive"),
    ("", "co2", "kg m-2", "area: sum where land", "extensive"),
    ("", "tas", "K", "", "intensive"),
    ("", "x", None, "", "intensive"),
    ("", "x", "what?", "", "intensive"),
    *(("", "emissions", units, "time: mean", "extensive") for units in (
        "kg", "t", "kg s-1", "Gg yr-1", "kg a-1", "m3", "km3", "J", "MJ", "W", "GW", "mol", "mol s-1", "count",
        "persons",
    )),
    *(("", "flux", units, "time: mean", "intensive") for units in (
        "kg m-2", "kg/m2", "kg m-2 s-1", "mm h-1", "W m-2", "J m**-2", "J kg-1", "kg kg-1", "mol m-2 s-1", "1", "%",
        "m", "m s-1", "mol mol-1", "m2 s-2", "Pa", "m2", "m3 m-3",
    )),
    ("water_volume_transport_in_river_channel", "", "m3 s-1", "", "intensive"),
    ("", "dis24", "m3 s-1", "", "intensive"),
    ("", "river_discharge", "kg s-1", "", "intensive"),
    ("ocean_mass_x_transport", "umo", "kg s-1", "", "intensive"),
    ("northward_ocean_heat_transport", "hfbasin", "W", "", "intensive"),
    ("ocean_mass_x_transport", "umo", "kg s-1", "area: sum", "extensive"),
    ("burned_area", "", "m2", "", "extensive"),
    ("sea_ice_area", "", "km2", "", "extensive"),
    ("square_of_geopotential_height", "", "m2", "", "intensive"),
    ("leaf_area_index", "", "m2 m-2", "", "intensive"),
    ("fire_radiative_power", "", "W", "", "extensive"),
]  # fmt: skip


@pytest.mark.parametrize(("standard_name", "name", "units", "methods", "quantity"), QUANTITIES)
def test_sums_are_told_from_means(standard_name, name, units, methods, quantity):
    field = variable(standard_name, units, methods, name)
    assert quantity_of(field) == quantity
    assert quantity_and_reason(field)[1]


@pytest.mark.parametrize(("standard_name", "units", "methods", "bounds"), STANDARD)
def test_sums_have_no_bound_but_a_sign(standard_name, units, methods, bounds):
    """What is refused for sums over cells is never implied for them."""
    summed = variable(standard_name, units, "area: sum")
    assert quantity_of(summed) == "extensive"
    assert set(automatic_bounds(summed)) <= {None, 0.0}


def test_cell_methods_are_read_in_order_and_without_comments():
    first, then = "time: maximum (interval: 1 hour comment: lat: sum) within days", "lat: lon: mean where land"
    found = cell_methods(variable(methods=f"{first} {then} time: mean over days"))
    assert found == [({"time"}, "maximum"), ({"lat", "lon"}, "mean"), ({"time"}, "mean")]
    assert cell_methods(variable()) == []


def test_every_row_can_be_reached_and_reads_its_own_units():
    for limit in LIMITS:
        assert read_units(limit.units) is not None, limit
        assert limit.upper > 0
    for name, (standard_name, units) in CUSTOMARY.items():
        assert name == name.lower()
        assert limit_of(standard_name) is not None, name
        assert all(unit == "%" or fits(unit, unit) for unit in units)


@pytest.mark.parametrize(
    ("value", "units", "wanted", "moved"),
    [
        (0.0, "K", "degC", -273.15),
        (0.0, "K", "degree_Celsius", -273.15),
        (0.0, "K", "degrees C", -273.15),
        (0.0, "K", "degF", -459.67),
        (1.0, "1", "%", 100.0),
        (1.0, "1", "1", 1.0),
        (100.0, "%", "1", 1.0),
        (1.0, "kg m-2 s-1", "kg m-2 day-1", 86400.0),
        (1.0, "m s**-1", "mm/day", 8.64e7),
        (1.0, "hPa", "mb", 1.0),
        (1.0, "mm h-1", "mm/3h", 3.0),
        (1.0, "1", "1e-3", 1000.0),
        (1.0, "1", "m", None),
        (1.0, "1", "code table", None),
        (1.0, "1", "", None),
        (1.0, "K", "K m-1", None),
    ],
)
def test_numbers_are_carried_to_other_units(value, units, wanted, moved):
    found = convert(value, units, wanted)
    assert found is None if moved is None else found == pytest.approx(moved, rel=1e-12)


@pytest.mark.parametrize(
    "units",
    ["", "~", "(", "9**9**9**9", "(9**9)**9", "m**9**9**9", "1e999", "nan", "-1", "0", "degC m-1", "x" * 10_000,
     "(" * 70, "\x00", "m/0", "__import__('os')", "m^m", "kg per cell"],
)  # fmt: skip
def test_free_text_is_no_units_and_no_error(units):
    assert read_units(units) is None
    assert automatic_bounds(variable("precipitation_flux", units)) == POSITIVE
    assert quantity_of(variable(name="x", units=units)) == "intensive"


def test_a_logarithm_is_told_by_its_units():
    assert [is_logarithmic(u) for u in ("dBZ", "10 dB", "lg(re mg m-3)", "ln(1)", "log10(m)", "mm", "lb", "ln")] == [
        True, True, True, True, True, False, False, False,
    ]  # fmt: skip


def test_bounds_asked_for_are_pairs_in_the_units_of_the_field():
    cover = variable("cloud_area_fraction", "%", name="clt")
    assert variable_bounds(cover, "clt", "auto") == CENT
    assert variable_bounds(cover, "clt", None) == NONE
    assert variable_bounds(cover, "clt", (0, np.inf)) == POSITIVE
    assert variable_bounds(cover, "clt", {"pr": None}) == CENT
    assert variable_bounds(cover, "clt", {"clt": [None, 5]}) == (None, 5.0)
    pair = r"expected bounds to be 'auto', None or a pair \(lower, upper\), received"
    for wrong in ("0 to 1 mm", 3, (1,), (True, 2), (np.nan, 1)):
        with pytest.raises(OptionError, match=pair):
            variable_bounds(cover, "clt", wrong)
    with pytest.raises(OptionError, match="expected the lower bound below the upper, received"):
        variable_bounds(cover, "clt", (1, 1))


def test_plain_units_need_no_library_of_units():
    """Half a second that a field in the units of CF does not pay; what reads others leaves no trace in the program."""
    code = """
import sys, xarray as xr
from downscale.cf.quantities import bounds_and_reason, quantity_of
for name, units in (("tas", "K"), ("pr", "kg m-2 s-1"), ("sfcWind", "m s-1"), ("tp", "m")):
    bounds_and_reason(xr.DataArray(0.0, name=name, attrs={"units": units}))
bounds_and_reason(xr.DataArray(0.0, attrs={"standard_name": "cloud_area_fraction", "units": "1"}))
assert "pint" not in sys.modules
import pint
before = pint.application_registry.get()
assert quantity_of(xr.DataArray(0.0, attrs={"units": "Gg yr-1"})) == "extensive"
assert pint.application_registry.get() is before
assert "matplotlib" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False,
                          cwd=Path(__file__).parents[1])  # fmt: skip
    assert done.returncode == 0, done.stderr


def real_fields(file: str) -> dict[str, xr.DataArray]:
    """The variables of a real file, still on disk."""
    with warnings.catch_warnings():
        # One file packs whole numbers and names NaN as their fill value.
        warnings.simplefilter("ignore", xr.SerializationWarning)
        warnings.filterwarnings("ignore", message="Duplicate dimension names")
        return dict(xr.open_dataset(shared_data(file), decode_times=False, cache=False).data_vars)


# Fields that break bounds which hold in nature, and by how much: each is a fault of the file.
OFFENDERS = {
    ("precipitation_bom66_20201031_500m_10min.nc", "precip"): (-0.6, "a leaked sentinel of -0.6 mm/h in 17 values"),
}
FILES = sorted(path.name for path in DATA.glob("*.nc")) or ["precipitation_bom66_20201031_500m_10min.nc"]


@pytest.mark.parametrize("file", FILES)
def test_bounds_hold_for_real_fields(file):
    for name, field in real_fields(file).items():
        low, high = automatic_bounds(field)
        if (low, high) == NONE:
            continue
        smallest = float(field.min())
        if (file, name) in OFFENDERS:
            assert smallest == pytest.approx(OFFENDERS[file, name][0], rel=1e-6), "the file was repaired: drop it"
        else:
            assert smallest >= low, name
        assert high is None or float(field.max()) <= high, name


def test_real_rain_cover_and_speed_have_bounds_and_temperature_and_wind_have_none():
    found: dict[str, set] = {}
    for file in FILES:
        for name, field in real_fields(file).items():
            found.setdefault(name, set()).add(automatic_bounds(field))
            assert quantity_of(field) == "intensive"
    for name in ("pr", "precip", "tp", "wind_speed", "r", "orog_sd"):
        assert found.get(name, {POSITIVE}) == {POSITIVE}
    for name in ("tas", "t2m", "tos", "msl", "u10", "v10", "uwnd", "u", "z", "orog", "elevation", "basin"):
        assert found.get(name, {NONE}) == {NONE}
    assert found.get("sftlf", {SHARE}) == {SHARE}


def test_relative_humidity_above_saturation_is_real():
    """Why it has no upper bound: a forecast at 2 m exceeds 100 %."""
    humidity = real_fields("temperature_humidity_wind_arpege_nw_20180501_0p1deg.nc")["r"]
    assert float(humidity.max()) > 100.05
    assert automatic_bounds(humidity) == POSITIVE


@pytest.mark.parametrize("attrs", [
    {"units": "K"}, {"units": "degC"}, {"units": "degree_Celsius"}, {"standard_name": "air_temperature"},
    {"units": "degF", "standard_name": "air_temperature"},
])  # fmt: skip
def test_a_lapse_rate_in_units_a_kilometre_is_told_from_one_a_metre(attrs):
    variable = xr.DataArray(0.0, attrs=attrs)
    for rate in (0.0, -6.5e-3, 0.0098, -0.1):
        require_lapse_rate(rate, variable, "tas")
    units = attrs.get("units", "K")
    match = f"expected lapse_rate in {units} per metre for 'tas', such as -6.5e-3, received -6.5; .* by 1000: -0.0065"
    with pytest.raises(OptionError, match=match):
        require_lapse_rate(-6.5, variable, "tas")


@pytest.mark.parametrize("attrs", [{"units": "Pa"}, {"units": "1"}, {"units": "mm"}, {"units": "K m-1"}, {}])
def test_what_is_no_temperature_may_change_by_any_number_a_metre(attrs):
    require_lapse_rate(-12.0, xr.DataArray(0.0, attrs=attrs), "ps")


# Rain, snow and others as models and archives write them without standard names: name, units, long name, bounds.
PRODUCTS = [
    ("PRECT", "m/s", "Total (convective and large-scale) precipitation rate (liq + ice)", POSITIVE),  # CESM
    ("PRECC", "m/s", "Convective precipitation rate (liq + ice)", POSITIVE),
    ("PRECSL", "m/s", "Large-scale (stable) snow rate (water equivalent)", POSITIVE),
    ("pre", "mm/month", "precipitation", POSITIVE),  # CRU
    ("prate", "kg/m^2/s", "Monthly Mean of Precipitation Rate", POSITIVE),  # NCEP
    ("APCP_surface", "kg/m^2", "Total Precipitation", POSITIVE),
    ("PRATE_surface", "kg/m^2/s", "Precipitation Rate", POSITIVE),
    ("WEASD_surface", "kg/m^2", "Water Equivalent of Accumulated Snow Depth", POSITIVE),
    ("precipitation", "mm/hr", "", POSITIVE),  # TRMM, IMERG
    ("precipitationCal", "mm/hr", "Complete merged precipitation", POSITIVE),
    ("pcp", "mm/hr", "", POSITIVE),
    ("precip", "mm/day", "Average Monthly Rate of Precipitation", POSITIVE),  # GPCP
    ("p", "mm/month", "gpcc full data monthly product version 2020 precipitation per grid", POSITIVE),  # GPCC
    ("mtpr", "kg m**-2 s**-1", "Mean total precipitation rate", POSITIVE),  # ECMWF
    ("tp", "m", "Total precipitation", POSITIVE),
    ("var228", "m", "Total precipitation", POSITIVE),
    ("RAINNC", "mm", "ACCUMULATED TOTAL GRID SCALE PRECIPITATION", POSITIVE),  # WRF
    ("SWDOWN", "W m-2", "DOWNWARD SHORT WAVE FLUX AT GROUND SURFACE", POSITIVE),
    ("rr", "mm", "rainfall", POSITIVE),  # E-OBS
    ("prcp", "mm/day", "daily total precipitation", POSITIVE),  # Daymet
    ("ppt", "mm", "", POSITIVE),  # PRISM
    ("Rainf_f_tavg", "kg m-2 s-1", "Total precipitation rate", POSITIVE),  # GLDAS
    ("PRECTOTCORR", "kg m-2 s-1", "total_precipitation_corrected", POSITIVE),  # MERRA-2
    ("tot_prec", "mm", "", POSITIVE),  # COSMO
    ("x", "mm h-1", "rain rate", POSITIVE),
    ("x", "m s-1", "10 metre wind speed", POSITIVE),
    ("x", "%", "Total cloud cover", CENT),
    ("x", "W m-2", "Surface downwelling shortwave radiation", POSITIVE),
    ("population", "persons", "population count", POSITIVE),
    # Not rain, or not only what is at least zero.
    ("pop", "", "population count", NONE),
    ("spi3", "1", "standardized precipitation index", NONE),
    ("spi", "", "Standardised Precipitation Index (SPI)", NONE),
    ("precip", "mm/day", "precipitation anomaly", NONE),
    ("pwat", "mm", "precipitable water anomalies", NONE),
    ("x", "mm/day", "precipitation minus evaporation", NONE),
    ("x", "mm", "change of rainfall", NONE),
    ("x", "mm day-1", "Deviation of precipitation from normal", NONE),
    ("x", "K", "rain water temperature", NONE),
    ("x", "W m-2", "Surface net shortwave radiation", NONE),
    ("x", "W m-2", "precipitation heat flux", NONE),
    ("terrain", "m", "Terrain height", NONE),
    ("x", "m s-1", "U component of wind", NONE),
    ("pre", "hPa", "pressure", NONE),
]


@pytest.mark.parametrize(("name", "units", "long_name", "bounds"), PRODUCTS)
def test_products_without_standard_names_are_recognised_by_units_and_names(name, units, long_name, bounds):
    found, reason = bounds_and_reason(variable(name=name, units=units, long_name=long_name))
    assert found == bounds
    assert reason


# Standard name, name, units, long name: directions, and angles that are none.
DIRECTIONS = [
    ("wind_from_direction", "wd", "degree", ""),
    ("wind_to_direction", "x", "degree", ""),
    ("sea_surface_wave_from_direction", "x", "degree", ""),
    ("sea_surface_swell_wave_to_direction", "x", None, ""),
    ("direction_of_sea_ice_displacement", "x", "degree", ""),
    ("solar_azimuth_angle", "x", "degree", ""),
    ("", "wdir", "degrees", ""),
    ("", "dd", "degree", ""),
    ("", "mwd", "Degree true", "Mean wave direction"),
    ("", "x", "degrees_true", ""),
    ("", "x", "deg", "Wind direction at 10 m"),
    ("", "x", "rad", "wind direction"),
    ("", "wind_direction", None, ""),
    ("unknown", "x", "°", "10m wind direction"),
]
NO_DIRECTIONS = [
    ("wind_speed", "wd", "m s-1", ""),
    ("", "wd", "m", ""),
    ("", "slope", "degree", "slope of the terrain"),
    ("solar_zenith_angle", "sza", "degree", ""),
    ("sea_surface_wave_directional_spread", "x", "degree", ""),
    ("", "u", "m s-1", "wind component in x direction"),
    ("wind_from_direction standard_error", "x", "degree", ""),
    ("air_temperature", "dd", "degC", ""),
    ("", "dd", "degrees_north", ""),
    ("", "td", "degC", "dew point"),
]


@pytest.mark.parametrize(("standard_name", "name", "units", "long_name"), DIRECTIONS)
def test_directions_are_told_by_names_and_units(standard_name, name, units, long_name):
    assert direction_reason(variable(standard_name, units, name=name, long_name=long_name))


@pytest.mark.parametrize(("standard_name", "name", "units", "long_name"), NO_DIRECTIONS)
def test_other_angles_and_names_are_no_directions(standard_name, name, units, long_name):
    assert direction_reason(variable(standard_name, units, name=name, long_name=long_name)) is None


@pytest.mark.parametrize("said", [{"valid_range": [0, 360]}, {"valid_min": -180, "valid_max": 180}])
def test_degrees_that_wrap_are_a_direction(said):
    assert direction_reason(variable(units="degree", name="x").assign_attrs(said))
    assert direction_reason(variable(units="degree", name="x").assign_attrs(valid_range=[0, 90])) is None


def test_the_spread_of_directions_is_no_direction():
    assert direction_reason(variable("wind_from_direction", "degree", "time: standard_deviation")) is None


# Name, stored type, units, attributes, whether they are codes.
CODES = [
    ("x", "bool", None, {}, True),
    ("mask", "i4", None, {}, True),
    ("lsm", "i2", "1", {}, True),
    ("landmask", "i8", "", {}, True),
    ("tmask", "i1", None, {}, True),
    ("band_data", "u1", None, {}, True),
    ("x", "i2", None, {"flag_meanings": "sea land"}, True),
    ("slt", "f4", "~", {"long_name": "Soil type"}, True),
    ("tvl", "f4", "~", {"long_name": "Type of low vegetation"}, True),
    ("LU_INDEX", "f4", "", {"long_name": "LAND USE CATEGORY"}, True),
    ("XLAND", "f4", "", {"long_name": "LAND MASK (1 FOR LAND, 2 FOR WATER)"}, True),
    ("ptype", "f4", "(code table 4.201)", {"long_name": "Precipitation type"}, True),
    ("cloud", "u1", "%", {"long_name": "cloud cover"}, False),
    ("t", "i1", "degC", {}, False),
    ("elevation", "i2", "m", {}, False),
    ("count", "i4", None, {}, False),
    ("lsm", "f4", "(0 - 1)", {"long_name": "Land-sea mask"}, False),
    ("crr", "f4", "mm h-1", {"long_name": "rain rate of convective type"}, False),
    ("lai", "f4", "1", {"long_name": "leaf area index"}, False),
    ("u", "f4", "1", {"standard_name": "air_temperature", "long_name": "type 1"}, False),
]


@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize(("name", "kind", "units", "attrs", "codes"), CODES)
def test_codes_are_told_by_type_units_and_words(name, kind, units, attrs, codes, decoded):
    attrs = attrs if units is None else {**attrs, "units": units}
    field = xr.DataArray(np.zeros(2, kind), name=name, attrs=attrs)
    if decoded and kind != "bool":
        # A fill value makes floating-point numbers of them.
        field = field.astype("f4")
        field.encoding["dtype"] = np.dtype(kind)
    assert (code_reason(field) is not None) == codes
    field.encoding["scale_factor"] = 0.1
    if kind in ("i2", "u1", "i4") and not attrs.get("flag_meanings"):
        assert code_reason(field) is None


def test_a_mask_in_fractions_keeps_between_none_and_all():
    assert automatic_bounds(variable(name="lsm", units="(0 - 1)", long_name="Land-sea mask")) == SHARE
    assert automatic_bounds(variable(name="x", units="1", long_name="land sea mask")) == SHARE


# Standard name, name, units, cell methods, long name, quantity over time.
OVER_TIME = [
    ("precipitation_amount", "pr", "kg m-2", "", "monthly precipitation total", "extensive"),
    ("lwe_thickness_of_precipitation_amount", "x", "m", "", "", "extensive"),
    ("thickness_of_rainfall_amount", "rr", "mm", "", "", "extensive"),
    ("precipitation_amount", "pr", "kg m-2", "area: mean", "", "extensive"),
    ("precipitation_amount", "pr", "kg m-2", "time: mean", "", "intensive"),
    ("precipitation_amount", "pr", "kg m-2", "time: sum within days time: mean over days", "", "intensive"),
    ("precipitation_flux", "pr", "kg m-2 s-1", "time: sum", "", "extensive"),
    ("precipitation_flux", "pr", "kg m-2 s-1", "", "", "intensive"),
    ("runoff_amount", "ro", "kg m-2", "", "", "extensive"),
    ("surface_snow_amount", "snw", "kg m-2", "", "", "intensive"),
    ("surface_snow_melt_amount", "x", "kg m-2", "", "", "extensive"),
    ("lwe_thickness_of_surface_snow_amount", "sd", "m", "", "", "intensive"),
    ("water_evaporation_amount", "x", "kg m-2", "", "", "extensive"),
    ("duration_of_sunshine", "sund", "s", "", "", "extensive"),
    ("air_temperature", "tas", "K", "", "", "intensive"),
    ("surface_downwelling_shortwave_flux_in_air", "ssrd", "J m**-2", "", "", "extensive"),
    ("surface_downwelling_shortwave_flux_in_air", "rsds", "W m-2", "", "", "intensive"),
    ("", "tp", "m", "", "Total precipitation", "extensive"),
    ("", "ssr", "J m**-2", "", "Surface net solar radiation", "extensive"),
    ("", "e", "m", "", "Evaporation", "extensive"),
    ("", "sd", "m", "", "Snow depth", "intensive"),
    ("", "pre", "mm/month", "", "precipitation", "intensive"),
    ("", "precip", "mm/day", "", "", "intensive"),
    ("", "APCP_surface", "kg/m^2", "", "Total Precipitation", "extensive"),
    ("", "rx1day", "mm", "", "", "intensive"),
    ("", "pwat", "kg m-2", "", "precipitable water", "intensive"),
    ("", "z", "m", "", "height", "intensive"),
    ("", "x", "mm", "", "maximum precipitation", "intensive"),
]


@pytest.mark.parametrize(("standard_name", "name", "units", "methods", "long_name", "quantity"), OVER_TIME)
def test_totals_over_periods_are_told_from_means_and_rates(standard_name, name, units, methods, long_name, quantity):
    found, reason = quantity_over_time(variable(standard_name, units, methods, name, long_name=long_name), "time")
    assert found == quantity
    assert reason


def test_a_monthly_mean_of_a_reanalysis_is_no_total():
    assert quantity_over_time(variable(name="tp", units="m", GRIB_stepType="avgad"), "time")[0] == "intensive"
    assert quantity_over_time(variable(name="tp", units="m", GRIB_stepType="accum"), "time")[0] == "extensive"


def test_no_customary_name_stands_twice() -> None:
    table = tomllib.loads(files("downscale.cf").joinpath("quantities.toml").read_text("utf-8"))
    names = [name for _, _, row in table["names"] for name in row.split()]
    assert len(names) == len(set(names)) > 100
