"""Steps of daily solar radiation: zero at night, with exact daily means."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.dates import DAY
from downscale.cf.quantities import infer_standard_name
from downscale.cf.units import convert
from downscale.errors import GridError
from downscale.fields.radiation import solar_steps
from downscale.fields.sun import mean_cosine_zenith
from downscale.kernels.days import CROSSED
from downscale.steps.daily import Daily, Window, amounts, by_days
from downscale.steps.jobs import result_type

MESSAGES = {
    CROSSED: "{name}: the mean is more than the sun supplies on {count} days of cells, such as in the polar night, the "
    "first on {where}; the mean is exact there, and the excess is spread evenly over the day"
}
Floats = NDArray[np.float64]


def radiation_steps(daily: Daily) -> dict[str, xr.DataArray]:
    """Return the steps of solar radiation of all days from their means.

    Raises
    ------
    GridError
        If latitudes and longitudes are unknown.
    """
    if daily.positions is None:
        raise GridError(
            f"{daily.name}: expected latitudes and longitudes for the height of the sun, received none; add the "
            "coordinates lat and lon"
        )
    field, dtype = daily.fields["mean"], result_type(daily.first.dtype)
    name = infer_standard_name(field)[0] or ""
    share, attrs = amounts(daily)
    at_surface = not (name.startswith("toa_incoming") or str(field.name).lower() in ("rsdt", "tisr"))
    per_watt = _per_watt(str(field.attrs.get("units", "W m-2")), 1.0 if share == 1.0 else DAY)
    function = partial(_steps, steps=daily.steps, at_surface=at_surface, share=share, per_watt=per_watt, dtype=dtype)
    data = by_days(daily, [field], function, 0, dtype, MESSAGES)
    return {daily.name: xr.DataArray(data, dims=daily.dims, attrs=attrs)}


def _per_watt(units: str, seconds: float) -> float:
    """Return the number of some units in 1 W m-2, or in that for so many seconds; very large if they cannot be read."""
    for known, factor in (("W m-2", 1.0), ("J m-2", seconds)):
        scale = convert(1.0, known, units)
        if scale is not None:
            return scale * factor
    return 1e30


def _steps(
    values: list[Floats | None], at: Window, *, steps: int, at_surface: bool, share: float, per_watt: float,
    dtype: np.dtype[Any],
) -> NDArray[Any]:  # fmt: skip
    """Return the steps of a block."""
    (mean,) = values
    assert mean is not None
    days, columns = mean.shape
    cosine = mean_cosine_zenith(*at.days.step_edges(steps), at.latitude[None], at.longitude[None])
    made, beyond = solar_steps(
        mean, cosine.reshape(days, steps, columns), at_surface=at_surface, per_watt=per_watt, share=share, dtype=dtype
    )
    at.report.add(np.where(beyond, CROSSED, 0).astype(np.int8), at)
    return made.reshape(-1, columns)
