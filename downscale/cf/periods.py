"""Detection of totals and means over periods of time."""

from __future__ import annotations

import re

import xarray as xr

from downscale.cf.bounds_table import FALLS
from downscale.cf.quantities import called, cell_methods, in_words, units_of
from downscale.cf.units import fits

# Flows, in standard names and as words: in the units of an amount they are accumulated over the period.
FLOWS = re.compile(
    rf"(.*_)?({FALLS}|rain|runoff|evaporation|evapotranspiration|transpiration|sublimation|drainage|snow_?melt|melt)(_.*)?"
    r"|(.*_)?(radiation|radiative|shortwave|longwave|short_wave|long_wave|heat|solar|thermal)(_.*)?_?(flux|radiation)(_.*)?"
    r"|integral_wrt_time_of_.*|duration_of_.*|number_of_days_.*|(.*_)?sunshine(_.*)?"
)
# States, extremes of a period, and quantities that are only related to a flow.
NO_TOTALS = re.compile(
    r"(.*_)?(surface_snow_(amount|thickness|mass)|lying_snow|snow_depth|canopy|soil|maximum|minimum|max|min|heaviest|highest|"
    r"type|fraction|height|depth|content|temperature|mean|average|rate)(_.*)?"
)
FLOW_UNITS = ("kg m-2", "m", "J m-2", "mol m-2", "s")
# Names of fluxes of either sign in forecasts and reanalyses.
FLOW_NAMES = frozenset("e es pev slhf sshf ssr str tsr ttr ssrc strc tsrc ttrc ewss nsss sund sundur pet aet".split())
LARGEST_OF_PERIODS = frozenset("rx1day rx5day prhmax".split())


def quantity_over_time(variable: xr.DataArray, *names: str) -> tuple[str, str]:
    """Return "extensive" if values are totals over the cells of a time axis, else "intensive", and why.

    The last of the cell methods over time decides. Without any, amounts of fluxes are totals: rain, snowfall, runoff,
    evaporation in mm or kg m-2, radiation in J m-2.

    Parameters
    ----------
    variable : DataArray
        The field.
    names : str
        Names of the time axis in cell methods.

    Examples
    --------
    >>> quantity_over_time(xr.DataArray(0.0, name="pr", attrs={"units": "mm"}), "time")[0]
    'extensive'
    >>> quantity_over_time(xr.DataArray(0.0, name="pr", attrs={"units": "mm day-1"}), "time")[0]
    'intensive'
    """
    over = [method for axes, method in cell_methods(variable) if axes & {"time", *names}]
    if over:
        return ("extensive" if over[-1] == "sum" else "intensive"), f"by cell_methods, {over[-1]} over time"
    step = str(variable.attrs.get("GRIB_stepType", ""))
    if step in ("instant", "max", "min", "range") or step.startswith("avg"):
        return "intensive", f"by GRIB_stepType {step!r}"
    units = units_of(variable) or ""
    like = next((amount for amount in FLOW_UNITS if units == amount or (units and fits(units, amount))), None)
    if like is None:
        return "intensive", f"by units {units!r}, which are not those of an amount"
    name, reason = called(variable)
    short, words = str(variable.name or "").lower(), in_words(variable.attrs.get("long_name"))
    if short in LARGEST_OF_PERIODS:
        return "intensive", f"by name {short!r}, the largest of a period"
    if name is None and short in FLOW_NAMES:
        name, reason = "evaporation", f"by name {short!r} and units {units!r}"
    if name is None and FLOWS.fullmatch(words):
        name, reason = words, f"by long_name {variable.attrs.get('long_name')!r} and units {units!r}"
    if name is None or not FLOWS.fullmatch(name) or NO_TOTALS.fullmatch(f"{name}_{words}" if words else name):
        return "intensive", "by its name, which is not that of a flow"
    return "extensive", f"{reason}: a total over each period"
