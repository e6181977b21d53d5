"""Properties of quantities: bounds of their values, and sums or means over cells.

Both are returned with a reason, so that a guess is visible. Cell methods, standard name and units are used in this
order; customary names are used only without a standard name and with fitting units. The table has only bounds that can
act. Air temperature and pressure have none although neither can be negative: their fields are so far from zero that no
kernel reaches it. Imposing a bound that never acts doubled the time of a global 1-degree temperature field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.units import convert, fits, is_logarithmic
from downscale.errors import OptionError


@dataclass(frozen=True, slots=True)
class Row:
    """Bounds of the quantities whose whole standard name a regular expression matches, in canonical units.

    Examples
    --------
    >>> next(row.upper for row in ROWS if row.pattern.startswith("(.*_)?area_fraction"))
    1.0
    """

    pattern: str
    units: str
    lower: float = 0.0
    upper: float | None = None


@dataclass(frozen=True, slots=True)
class ShortName:
    """Customary names of a quantity in files without standard names, with the units for which the guess is safe.

    "%" among the units requires per cent itself, not just a dimensionless number.
    """

    names: str  # in lower case, separated by spaces
    standard_name: str
    units: tuple[str, ...]


# Differences of any kind, and flows of either direction: checked first, so that no later row applies. Evaporation is
# negative where dew forms.
SIGNED = (
    r"(.*_)?(tendency|derivative|divergence|convergence|product_of|component|correction|correlation|covariance)(_.*)?",
    r"(.*_)?(change|difference|anomaly|increment|bias|departure|trend|adjustment)(_.*)?",
    r"(.*_)?(effect|forcing|shear|log10|ln|log|logarithm|gradient)(_.*)?", r"minus_one_times_.*", r"histogram_of_.*",
    r"(.*_)?net_.*", r"(.*_)?net", r".*heat_flux.*", r"(.*_)?(enthalpy|temperature)(_.*)?_content(_.*)?",
    r".*(evaporation|transpiration|sublimation|drainage).*",
    r".*(radiative|shortwave|longwave|radiance|irradiance).*_due_to_.*",
    r".*_minus_.*", r"enrichment_of_.*", r".*_expressed_as_(lower|upper)case_delta_.*",
    r".*(_stress|_displacement|_mass_balance)(_.*)?", r"correction_for_.*",
)  # fmt: skip

FALLS = "precipitation|rainfall|snowfall|graupel|hail|throughfall"

# The first matching row applies.
ROWS = (
    # Fractions.
    Row(r"(.*_)?area_fraction(_.*)?", "1", upper=1.0),
    Row(r"(.*_)?time_fraction(_.*)?", "1", upper=1.0),
    Row(r"(.*_)?(mass|mole|volume)_fraction(_.*)?", "1", upper=1.0),
    Row(r"(fraction|proportion)_of_.*", "1", upper=1.0),
    Row(r"(.*_)?probability(_of_.*)?", "1", upper=1.0),
    Row(r"(.*_)?albedo(_.*)?", "1", upper=1.0),
    Row(r"(.*_)?hemispherical_reflectance", "1", upper=1.0),
    Row(r"(.*_)?emissivity", "1", upper=1.0),
    Row(r"soil_porosity", "1", upper=1.0),
    # Relative humidity has no upper bound: saturation is not a physical limit. Over ice 120-160 % is common in cirrus,
    # models report 100.1 % at 2 m, and cells above a bound cause warnings and stay piecewise constant. Measured on a
    # 0.1-degree 2 m field: a bound of 100 % lowers the RMSE by 0.02 % at x2 and 0.1 % at x4 (2 and 4 % in air above 97
    # %, where values reach 103 % without it). On the same field times 1.15, as if over ice, it raises the RMSE by 16 %
    # at x2 and 6 % at x4. Set bounds=(0, 100) if the air is below saturation.
    Row(r"relative_humidity(_.*)?", "1"),
    Row(r"(.*_)?(reflectance|fractional_saturation)(_.*)?", "1"),
    # Moisture and composition.
    Row(r"(.*_)?specific_humidity(_.*)?", "1"),
    Row(r"(.*_)?(mixing_ratio|mole_ratio|mass_ratio|mole_fraction)(_.*)?", "1"),
    Row(r"water_vapor_(partial_pressure|saturation_deficit)_in_air", "Pa"),
    Row(r"(.*_)?absolute_humidity(_.*)?", "kg m-3"),
    Row(r"(.*_)?mole_concentration(_.*)?", "mol m-3"),
    Row(r"(.*_)?number_concentration(_.*)?", "m-3"),
    Row(r"(.*_)?concentration(_.*)?", "kg m-3"),
    Row(r"(.*_)?mole_content(_.*)?", "mol m-2"),
    Row(r"(lwe_|.*_)?thickness(_.*)?_content(_.*)?", "m"),
    Row(r"(.*_)?(mass|moisture|water|soot|number)_content(_.*)?", "kg m-2"),
    Row(r"(sea_water|sea_surface|sea_ice)(_.*)?_salinity(_.*)?", "1e-3"),
    # Precipitation, snow, runoff.
    Row(rf"(.*_)?({FALLS})(_.*)?_flux(_.*)?", "kg m-2 s-1"),
    Row(rf"(.*_)?({FALLS})(_.*)?_rate(_.*)?", "m s-1"),
    Row(r"(.*_)?runoff(_.*)?_flux(_.*)?", "kg m-2 s-1"),
    Row(r"(.*_)?melt_flux(_.*)?", "kg m-2 s-1"),
    Row(r"(.*_)?optical_(thickness|depth)(_.*)?", "1"),
    Row(r"(.*_)?thickness(_.*)?", "m"),
    Row(r"(.*_)?amount(_.*)?", "kg m-2"),
    Row(r"(.*_)?soil_moisture(_.*)?", "kg m-2"),
    Row(r"(.*_)?water_volume_transport_(in_river_channel|into_sea_water_from_rivers)", "m3 s-1"),
    Row(rf"(?!.*(salt_flux|mass_flux|_type_))(.*_)?({FALLS}|runoff)(_.*)?", "kg m-2"),
    # Speeds, waves, radiation, vegetation, sight.
    Row(r"speed_of_sound(_.*)?", "m s-1"),
    Row(r"(.*_)?speed(_.*)?", "m s-1"),
    Row(r"sea_surface_(.*_)?wave(_.*)?_height(_.*)?", "m"),
    Row(r"sea_surface_(.*_)?wave(_.*)?_period(_.*)?", "s"),
    Row(r"(.*_)?(downwelling|upwelling|incoming|outgoing|along_beam)(_.*)?_flux(_.*)?", "W m-2"),
    Row(r"(.*_)?irradiance(_.*)?", "W m-2"),
    Row(r"(.*_)?radiance(_.*)?", "W m-2 sr-1"),
    Row(r"leaf_area_index", "1"),
    Row(r"gross_primary_productivity_of_.*", "kg m-2 s-1"),
    Row(r"surface_roughness_length(_.*)?", "m"),
    Row(r"visibility_in_air", "m"),
    Row(r"duration_of_sunshine", "s"),
    Row(r"atmosphere_convective_available_potential_energy(_.*)?", "J kg-1"),
    # Sums over cells, squares, counts.
    Row(r"(.*_)?(mass_of_carbon_dioxide|sea_ice_mass|land_ice_mass|surface_snow_mass)(_.*)?", "kg"),
    Row(r"atmosphere_moles_of_.*", "mol"),
    Row(r"(ocean|sea_ice|sea_water)_volume", "m3"),
    Row(r"(burned|cell|fire|sea|sea_ice|floating_ice_shelf|grounded_ice_sheet)_area|sea_ice_extent", "m2"),
    Row(r"fire_radiative_power", "W"),
    Row(r"(number|frequency)_of_.*", "1"),
    Row(r"spell_length_of_.*", "day"),
    Row(r"(square|magnitude)_of_.*", "1"),
)

WATER = ("kg m-2 s-1", "m s-1", "kg m-2", "m")
DEPTH = ("kg m-2", "m")
LIGHT = ("W m-2", "J m-2")
SHARE = ("1",)

SHORT_NAMES = (
    # Models and archives: CMIP, ECMWF, CESM, NCEP, WRF, COSMO and ICON, MERRA-2, GLDAS.
    ShortName(
        "pr prc prl prra prsn prhmax tp cp lsp sf csf lsf tprate mtpr mcpr mlspr avg_tprate crr lsrr precip rain "
        "rainfall rainrate rain_rate rre snowfall snow_fall total_precipitation convective_precipitation "
        "large_scale_precipitation prect precc precl precsc precsl precsh prate cprat apcp acpcp ncpcp rainc "
        "rainnc rainsh rainncv raincv snownc snowncv graupelnc hailnc prec_acc_nc prec_acc_c snow_acc_nc tot_prec "
        "rain_gsp rain_con snow_gsp snow_con grau_gsp prectot prectotcorr prectotland precsno preccon precls "
        "precanv rainf snowf tpratsfc mtsr",
        "precipitation_amount",
        WATER,
    ),
    # Observations: CRU, GPCC, GPCP, TRMM and IMERG, CHIRPS, PERSIANN, E-OBS, Daymet, PRISM, TerraClimate, radars.
    ShortName(
        "pre prcp ppt precipitation precipitationcal precipitationuncal hqprecipitation irprecipitation "
        "satprecipitation pcp cmorph persiann rr acrr rainfall_rate daily_rain monthly_rain precipitation_rate "
        "p_mm rx1day rx5day prcptot",
        "precipitation_amount",
        WATER,
    ),
    ShortName("mrro mrros mrrob ro sro ssro runoff snm smlt", "runoff_amount", WATER),
    ShortName(
        "snd snw sd sde swe snowh snow_depth snow_water_equivalent h_snow w_snow weasd snod",
        "surface_snow_amount",
        DEPTH,
    ),
    ShortName("mrso mrsos mrsol mrfso mrlsl", "mass_content_of_water_in_soil", DEPTH),
    ShortName("swvl1 swvl2 swvl3 swvl4 soil_moisture ssm", "volume_fraction_of_condensed_water_in_soil", SHARE),
    ShortName("prw tcwv tcw pwat tqv", "atmosphere_mass_content_of_water_vapor", DEPTH),
    ShortName("clwvi clivi tclw tciw lwp iwp tqc tqi", "atmosphere_mass_content_of_cloud_condensed_water", DEPTH),
    ShortName("hus huss q q2 q2m sh2 sphum sph qv qv_2m qvapor shum spfh", "specific_humidity", SHARE),
    ShortName(
        "clw cli clwc ciwc crwc cswc qc qi qr qs qcloud qice qrain qsnow qgraup cldliq cldice",
        "mass_fraction_of_cloud_liquid_water",
        SHARE,
    ),
    ShortName("hur hurs hursmin hursmax rh rh2 rh2m rhum relhum relhum_2m rmax rmin hu", "relative_humidity", SHARE),
    ShortName("r", "relative_humidity", ("%",)),
    ShortName(
        "clt cl cll clm clh tcc lcc mcc hcc cc tcdc clct cldtot cldlow cldmed cldhgh cld cloud_cover",
        "cloud_area_fraction",
        SHARE,
    ),
    ShortName("snc snowc scf asnow fsno", "surface_snow_area_fraction", SHARE),
    ShortName("siconc siconca sic ci aice ice_conc sea_ice_fraction", "sea_ice_area_fraction", SHARE),
    ShortName("sftlf lsm landfrac ocnfrac icefrac land_fraction fr_land landmask", "land_area_fraction", SHARE),
    ShortName("sftof sftgif sftgrf vegfrac cvl cvh", "area_fraction", SHARE),
    ShortName("sithick sit hice sivol mlotst", "sea_ice_thickness", ("m",)),
    ShortName(
        "sfcwind sfcwindmax wsgsmax wsgmax ws wspd ws10 si10 si100 wind_speed windspeed 10fg fg10 i10fg gust "
        "wind_gust vmax_10m ff ffx wsp fg",
        "wind_speed",
        ("m s-1",),
    ),
    ShortName(
        "rsds rsdsdiff rsus rsut rsdt rsdscs rsuscs rsutcs rlds rlus rlut rldscs rlutcs ssrd strd fdir tisr "
        "swdown lwdown glw olr ssrdc strdc dswrf dlwrf uswrf ulwrf fsds flds flut swgdn lwgab srad qq avg_sdswrf "
        "avg_sdlwrf",
        "surface_downwelling_shortwave_flux_in_air",
        LIGHT,
    ),
    ShortName("swh hs shww shts vhm0", "sea_surface_wave_significant_height", ("m",)),
    ShortName("mwp pp1d tm01 tm02 vtpk", "sea_surface_wave_mean_period", ("s",)),
    ShortName("lai lai_hv lai_lv", "leaf_area_index", ("1", "m2 m-2")),
    ShortName("fal asn alb albedo albsn", "surface_albedo", SHARE),
    ShortName("aod aod550 od550aer od870aer cod", "atmosphere_optical_thickness_due_to_cloud", SHARE),
    ShortName("cape mucape sbcape mlcape", "atmosphere_convective_available_potential_energy", ("J kg-1",)),
    ShortName("so sos salinity salt", "sea_water_salinity", SHARE),
    ShortName("pm1 pm2p5 pm10 chl", "mass_concentration_of_particles_in_air", ("kg m-3",)),
    ShortName("tco3 toz gtco3", "atmosphere_mass_content_of_ozone", (*DEPTH, "mol m-2")),
    ShortName("vis visibility", "visibility_in_air", ("m",)),
    ShortName("sund sundur", "duration_of_sunshine", ("s",)),
)

# Long names spelled as standard names, their standard names, and the units for which the match is safe.
LONG_NAMES = (
    (rf"(.*_)?({FALLS}|rain|rain_rate|showers|drizzle)(_.*)?", "precipitation_amount", WATER),
    (r"(.*_)?(snow_depth|depth_of_snow|snow_water_equivalent|snow_mass)(_.*)?", "surface_snow_amount", DEPTH),
    (r"(.*_)?precipitable_water(_.*)?", "atmosphere_mass_content_of_water_vapor", DEPTH),
    (r"(.*_)?runoff(_.*)?", "runoff_amount", WATER),
    (
        r"(.*_)?(cloud|snow|ice|vegetation|land|forest)_(cover|coverage|fraction|concentration)(_.*)?",
        "area_fraction",
        SHARE,
    ),
    (r"(.*_)?land_?(sea_|binary_|ocean_)?mask(_.*)?", "land_area_fraction", SHARE),
    (r"(.*_)?wind_gusts?(_.*)?", "wind_speed", ("m s-1",)),
    (
        r"(?=.*(down|incoming|incident|global))(.*_)?(solar|short_?wave|long_?wave|thermal|sw|lw)(_.*)?",
        "surface_downwelling_shortwave_flux_in_air",
        LIGHT,
    ),
)


Bounds = tuple[float | None, float | None]

PER_CENT = ("%", "percent", "per cent", "percentage")
# Statistics that are never negative, for any quantity.
SPREADS = (
    "standard_deviation", "variance", "range", "sum_of_squares", "root_mean_square", "mean_absolute_value",
    "maximum_absolute_value", "minimum_absolute_value",
)  # fmt: skip
# Anomalies keep the standard name of their quantity; only words identify them. Bounds on them would flatten half of the
# field.
RELATIVE = re.compile(
    r"\b(anom(al(y|ies|ous))?|departures?|differences?|bias(es)?|trends?|increments?|residuals?|eofs?|perturbations?"
    r"|(?<!standard )deviations?|(?<!square )(?<!absolute )errors?|corrections?|standardi[sz]ed|normali[sz]ed)\b"
)
HORIZONTAL = (
    {"lat", "lon"}, {"latitude", "longitude"}, {"y", "x"}, {"rlat", "rlon"}, {"grid_latitude", "grid_longitude"}
)  # fmt: skip
# Units of sums over cells. Volume per time is not among them: discharge belongs to a river, not to an area.
SUMS = ("kg", "kg s-1", "m3", "J", "W", "mol", "mol s-1")
COUNTS = ("count", "counts", "person", "persons", "people", "inhabitants", "individuals", "heads")
# Through a line, along a river or to an instrument: not sums over the area of a cell, whatever the units.
THROUGH = re.compile(r".*(transport|streamfunction|discharge|streamflow|across_line|river|received_|lightning).*")
AREAS = re.compile(r"(.*_)?area|sea_ice_extent")
# A larger change of temperature per metre of height is a lapse rate per kilometre by mistake.
STEEPEST_LAPSE = 0.1
CUSTOMARY = {name: short for short in SHORT_NAMES for name in short.names.split()}
# Words for level, sampling and accumulation after a customary name.
QUALIFIED = re.compile(
    r"_(surface|sfc|mean|avg|ave|tavg|f|inst|acc|accum|total|sum|daily|monthly|hourly|yearly|day|mon|month|corr|corrected|bc"
    r"|max|min|land|eatm|\d+(m|h|hr|d|day|maboveground|m_above_ground)?)$"
)
LONGEST_NAME = 200
# Vector components and other quantities of either sign, by name and by words.
COMPONENTS = (
    r"[uvw]|[uv]10m?|[uv]100m?|[uv]a|[uv]as|[uv]wnd|[uv]grd|omega|wap|(.*_)?(eastward|northward|upward|zonal|meridional"
    r"|vertical|vorticity|divergence|potential|geopotential|velocity|flux|stress|height|altitude|elevation|orography|pressure"
    r"|topography|latitude|longitude)(_.*)?|(.*_)?[uvwxy]_(wind|velocity|stress)(_.*)?|.*_component(_.*)?|orog|topo|elev|zg?"
)
# Units that never add up over cells, recognised without a library of units.
BY_SIGHT = frozenset({"", "K", "%", "1", "m", "mm", "m s-1", "Pa", "degC", *(r.units for r in ROWS)} - {*SUMS, "m2"})


def automatic_bounds(variable: xr.DataArray) -> Bounds:
    """Return the bounds implied by name and units of a variable, in its own units; None for a missing bound.

    Examples
    --------
    >>> automatic_bounds(xr.DataArray(0.0, attrs={"standard_name": "precipitation_flux"}))
    (0.0, None)
    >>> automatic_bounds(xr.DataArray(0.0, attrs={"standard_name": "cloud_area_fraction", "units": "%"}))
    (0.0, 100.0)
    """
    return bounds_and_reason(variable)[0]


def bounds_and_reason(variable: xr.DataArray) -> tuple[Bounds, str]:
    """Return the bounds implied by a variable, in its own units, and the reason.

    Examples
    --------
    >>> bounds_and_reason(xr.DataArray(0.0, name="tp", attrs={"units": "m"}))
    ((0.0, None), "by name 'tp' and units 'm', as precipitation_amount")
    """
    units = units_of(variable)
    methods = [method for _, method in cell_methods(variable)]
    spread_method = next((method for method in methods if method in SPREADS), None)
    if spread_method is not None:
        return (0.0, None), f"by cell_methods, {spread_method}"
    row, reason = _row(variable)
    if row is None:
        return (None, None), reason
    if units is not None and is_logarithmic(units):
        return (None, None), f"none: units {units!r} are of a logarithm"
    word = _relative_word(variable)
    if word is not None:
        return (None, None), f"none: {word}"
    bounds, reason = _in_units(row, units, reason)
    if "sum" in methods or quantity_of(variable) == "extensive":
        return _of_sums(bounds), reason
    return bounds, reason


def units_of(variable: xr.DataArray) -> str | None:
    """Return the units, or None if the variable has none."""
    units = variable.attrs.get("units")
    return None if units is None else str(units).strip()


def standard_name_of(variable: xr.DataArray) -> tuple[str, str]:
    """Return the standard name and its modifier; "unknown" of GRIB readers counts as none."""
    words = str(variable.attrs.get("standard_name", "")).split()
    name = words[0].lower() if words else ""
    return ("" if name in ("unknown", "none") else name), " ".join(words[1:])


def _row(variable: xr.DataArray) -> tuple[Row | None, str]:
    """Return the row for a variable, by its standard name or else by its names with fitting units."""
    standard, modifier = standard_name_of(variable)
    if modifier in ("standard_error", "number_of_observations"):
        return Row(re.escape(standard), "1"), f"by standard_name modifier {modifier}"
    if modifier not in ("", "detection_minimum"):
        return None, f"none: standard_name modifier {modifier!r}"
    name, reason = infer_standard_name(variable)
    if name is None:
        units = units_of(variable)
        is_count = units is not None and units.lower() in COUNTS
        return (Row("count", "1"), f"by units {units!r}, which count") if is_count else (None, f"none: {reason}")
    row = row_of(name)
    return row, reason if row else f"none: {reason.removeprefix('by ')} implies none"


def infer_standard_name(variable: xr.DataArray) -> tuple[str | None, str]:
    """Return the standard name of a variable, given or inferred, and the reason; None if there is none.

    Customary names, and long names read as standard names, count only if the units fit.

    Examples
    --------
    >>> attrs = {"units": "m/s", "long_name": "Total (convective and large-scale) precipitation rate"}
    >>> infer_standard_name(xr.DataArray(0.0, name="PRECT", attrs=attrs))
    ('precipitation_amount', "by name 'PRECT' and units 'm/s', as precipitation_amount")
    """
    standard, _ = standard_name_of(variable)
    if standard:
        return standard, f"by standard_name {standard!r}"
    units = units_of(variable)
    name = next((base for base in _base_names(str(variable.name).lower()) if base in CUSTOMARY), None)
    guess = None if name is None else CUSTOMARY[name]
    # Sums over cells have the units of a quantity times an area.
    if guess is not None and units and (_over_area(variable)[-1:] == ["sum"] or _one_of(units, guess.units)):
        reason = f"by name {str(variable.name)!r} and units {units!r}, as {guess.standard_name}"
        return guess.standard_name, reason
    long_name = variable.attrs.get("long_name")
    words = in_words(long_name)
    inferred_name = _meant(words, units) if words and units else None
    if inferred_name is not None:
        return inferred_name, f"by long_name {str(long_name)[:60]!r} and units {units!r}, as {inferred_name}"
    if guess is not None:
        return None, f"name {str(variable.name)!r} has units {units!r}, expected such as {guess.units[0]!r}"
    return None, "no standard_name, and the name says nothing"


def in_words(name: Any) -> str:
    """Return a name in the spelling of standard names, without text in brackets.

    Examples
    --------
    >>> in_words("Total (convective and large-scale) precipitation rate (liq + ice)")
    'total_precipitation_rate'
    """
    if not isinstance(name, str):
        return ""
    text = re.sub(r"\([^()]*\)|\[[^\[\]]*\]", " ", name[:LONGEST_NAME].lower())
    return "_".join(re.findall(r"[a-z0-9]+", text))


def _base_names(name: str) -> list[str]:
    """Return a name and its base without words for level and sampling: ``apcp`` of ``apcp_surface``."""
    names = [name]
    while (shorter := QUALIFIED.sub("", names[-1])) != names[-1] and shorter:
        names.append(shorter)
    return names


@cache
def _meant(words: str, units: str) -> str | None:
    """Return the standard name of a long name, if the units are those of that quantity."""
    if any(re.fullmatch(pattern, words) for pattern in SIGNED):
        return None
    for pattern, standard, legal_units in LONG_NAMES:
        if re.fullmatch(pattern, words) and _one_of(units, legal_units):
            return standard
    row = row_of(words)
    return words if row is not None and _one_of(units, (row.units,)) else None


def _one_of(units: str, wanted: tuple[str, ...]) -> bool:
    """Return whether units are among the ``wanted`` ones, in any spelling."""
    if units in wanted:
        return True
    return any(units.lower() in PER_CENT if unit == "%" else fits(units, unit) for unit in wanted)


@cache
def row_of(standard_name: str) -> Row | None:
    """Return the row of the table for a standard name, or None.

    Examples
    --------
    >>> row_of("tendency_of_specific_humidity") is None, row_of("specific_humidity").lower
    (True, 0.0)
    """
    # An assumption is not the quantity: "_assuming_reference_mole_fraction_of_ozone" is not a fraction.
    standard_name = standard_name.split("_assuming_")[0]
    # An integral has the sign of its integrand, and no upper bound.
    integral = re.match(r"integral_wrt_(time|depth)_of_(.*)", standard_name)
    if integral:
        row = row_of(integral[2])
        return None if row is None else Row(row.pattern, row.units, row.lower)
    if any(re.fullmatch(pattern, standard_name) for pattern in SIGNED):
        return None
    return next((row for row in ROWS if re.fullmatch(row.pattern, standard_name)), None)


def _relative_word(variable: xr.DataArray) -> str | None:
    """Return the evidence that a variable is an anomaly or a difference, or None."""
    texts = {"name": str(variable.name or "").replace("_", " "), "long_name": str(variable.attrs.get("long_name", ""))}
    for what, text in texts.items():
        word = RELATIVE.search(text.lower())
        if word:
            return f"{what} speaks of {word[0]!r}"
    return None


def _in_units(row: Row, units: str | None, reason: str) -> tuple[Bounds, str]:
    """Return the bounds of a row in the units of a variable; zero is zero in all units but those of temperatures."""
    if row.upper is None and row.lower == 0 and row.units != "K":
        return (row.lower, None), reason
    # By CF, a variable without units is dimensionless.
    low, upper = (None if end is None else convert(end, row.units, units or "1") for end in (row.lower, row.upper))
    if upper is None and row.upper is not None:
        reason = f"{reason}; no upper bound, since units {units!r} are not those of {row.units!r}"
    return (0.0 if low is None and row.lower == 0 else low, upper), reason


def _of_sums(bounds: Bounds) -> Bounds:
    """Return the bounds of sums over time or area: only the sign remains."""
    low, high = (bound if bound == 0 else None for bound in bounds)
    return low, high


def cell_methods(variable: xr.DataArray) -> list[tuple[set[str], str]]:
    """Return the cell methods of a variable in order: the names of the axes, and the method.

    Examples
    --------
    >>> cell_methods(xr.DataArray(0.0, attrs={"cell_methods": "time: mean (interval: 1 hour) area: sum"}))
    [({'time'}, 'mean'), ({'area'}, 'sum')]
    """
    text = re.sub(r"\([^)]*\)", " ", str(variable.attrs.get("cell_methods", "")))
    matches = re.findall(r"((?:[\w.-]+:\s*)+)([A-Za-z_]+)", text)
    return [({name.strip() for name in names.split(":")} - {""}, method.lower()) for names, method in matches]


def quantity_of(variable: xr.DataArray) -> str:
    """Return "extensive" if values are sums over cells, else "intensive".

    Examples
    --------
    >>> quantity_of(xr.DataArray(0.0, attrs={"cell_methods": "time: mean area: sum"}))
    'extensive'
    """
    return quantity_and_reason(variable)[0]


def quantity_and_reason(variable: xr.DataArray) -> tuple[str, str]:
    """Return "extensive" or "intensive", and why: by the last cell method over area, else by units and names.

    Examples
    --------
    >>> quantity_and_reason(xr.DataArray(0.0, attrs={"units": "Gg yr-1"}))
    ('extensive', "by units 'Gg yr-1', which add up over cells as 'kg s-1'")
    """
    methods = _over_area(variable)
    if methods:
        quantity = "extensive" if methods[-1] == "sum" else "intensive"
        return quantity, f"by cell_methods, {methods[-1]} over area"
    units = units_of(variable) or ""
    name = standard_name_of(variable)[0] or str(variable.name or "").lower()
    if units in BY_SIGHT:
        return "intensive", f"by units {units!r}"
    if units.lower() in COUNTS:
        return "extensive", f"by units {units!r}, which add up over cells"
    if AREAS.fullmatch(name) and fits(units, "m2"):
        return "extensive", f"by units {units!r} of an area, which add up over cells"
    sum_units = next((sums for sums in SUMS if fits(units, sums)), None)
    if sum_units is None:
        return "intensive", f"by units {units!r}, which do not add up over cells"
    if THROUGH.fullmatch(name):
        return "intensive", f"{name!r} is no sum over the area of a cell, whatever its units {units!r}"
    return "extensive", f"by units {units!r}, which add up over cells as {sum_units!r}"


def _over_area(variable: xr.DataArray) -> list[str]:
    """Return the cell methods over area, in order."""
    methods = cell_methods(variable)
    return [method for names, method in methods if "area" in names or any(pair <= names for pair in HORIZONTAL)]


def variable_bounds(variable: xr.DataArray, name: str, bounds: Any) -> Bounds:
    """Return the bounds of one variable from "auto", a pair in its own units, None, or a mapping of these by name."""
    if isinstance(bounds, Mapping):
        return variable_bounds(variable, name, bounds.get(name, "auto"))
    if bounds is None:
        return None, None
    if isinstance(bounds, str) and bounds == "auto":
        return automatic_bounds(variable)
    pair = tuple(bounds) if isinstance(bounds, (tuple, list)) else ()
    if len(pair) != 2 or not all(b is None or (is_number(b) and not math.isnan(b)) for b in pair):
        raise OptionError(f"expected bounds to be 'auto', None or a pair (lower, upper), received {bounds!r}")
    low, high = (None if b is None or math.isinf(b) else float(b) for b in pair)
    if low is not None and high is not None and not low < high:
        raise OptionError(f"expected the lower bound below the upper, received {bounds!r}")
    return low, high


def is_sign_unknown(variable: xr.DataArray, name: str, bounds: Any) -> bool:
    """Return whether negative values are legal neither by the user's bounds nor by the metadata.

    Examples
    --------
    >>> [is_sign_unknown(xr.DataArray(0.0, name="pop"), "pop", bounds) for bounds in ("auto", None, {"pop": None})]
    [True, False, False]
    """
    has_user_bounds = name in bounds if isinstance(bounds, Mapping) else bounds is None or not isinstance(bounds, str)
    return not has_user_bounds and not is_signed(variable)


def is_signed(variable: xr.DataArray) -> bool:
    """Return whether a quantity has either sign, by standard name, units, or words.

    Examples
    --------
    >>> is_signed(xr.DataArray(0.0, name="t2m", attrs={"units": "degC"})), is_signed(xr.DataArray(0.0, name="pop"))
    (True, False)
    """
    texts = standard_name_of(variable)[0], variable.name, variable.attrs.get("long_name")
    words = [in_words(text) for text in texts]
    is_sign_word = any(re.fullmatch(pattern, phrase) for pattern in (*SIGNED, COMPONENTS) for phrase in words)
    return is_sign_word or _relative_word(variable) is not None or is_temperature(variable)


def is_temperature(variable: xr.DataArray) -> bool:
    """Return whether a variable is a temperature, by its units or else by its standard name.

    Examples
    --------
    >>> is_temperature(xr.DataArray(0.0, attrs={"units": "degC"}))
    True
    """
    units = units_of(variable)
    if not units:
        return standard_name_of(variable)[0].endswith("temperature")
    return units == "K" or (units not in BY_SIGHT - {"degC"} and fits(units, "K"))


def require_lapse_rate(rate: float, variable: xr.DataArray, name: str) -> None:
    """Refuse a lapse rate of a temperature that must be per kilometre, since 0.1 degrees per metre is implausible.

    Examples
    --------
    >>> require_lapse_rate(-6.5e-3, xr.DataArray(0.0, attrs={"units": "K"}), "tas")
    """
    if abs(rate) <= STEEPEST_LAPSE or not is_temperature(variable):
        return
    units = units_of(variable) or "K"
    raise OptionError(
        f"expected lapse_rate in {units} per metre for {name!r}, such as -6.5e-3, received {rate:g}; divide a rate in "
        f"{units} per kilometre by 1000: {rate / 1000:g}"
    )


def is_number(value: Any) -> bool:
    """Return whether a value is a real number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
