"""Table of bounds implied by the names of quantities.

The table has only bounds that can act. Air temperature and pressure have none although neither can be negative: their
fields are so far from zero that no kernel reaches it. Imposing a bound that never acts doubled the time of a global
1-degree temperature field.
"""

from __future__ import annotations

from dataclasses import dataclass


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

    Names are in lower case, separated by spaces. "%" among the units requires per cent itself, not just a dimensionless
    number.
    """

    names: str
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
