"""Small daily records of a model and of observations, for tests of projections."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

import downscale

TEMPERATURE = {"standard_name": "air_temperature", "units": "K"}
RAIN = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1"}


def daily(
    years: tuple[int, int], *, cells: int = 4, width: float = 0.5, calendar: str = "standard", seed: int = 0,
    shift: float = 0.0, names: tuple[str, ...] = ("tas", "pr"),
) -> xr.Dataset:  # fmt: skip
    """Return daily fields on ``cells`` x ``cells`` cells of ``width`` degrees from 40 N 10 E, with seasons."""
    rng = np.random.default_rng(seed)
    time = xr.date_range(f"{years[0]}-01-01", f"{years[1]}-12-{30 if calendar == '360_day' else 31}", freq="D",
                         calendar=calendar, use_cftime=calendar != "standard")  # fmt: skip
    centres = (np.arange(cells) + 0.5) * width
    days = len(time)
    season = np.cos(2 * np.pi * xr.DataArray(time, dims="time").dt.dayofyear.values / 365.25)[:, None, None]
    noise = rng.standard_normal((days, cells, cells)) + rng.standard_normal((days, 1, 1))
    tas = 285 + shift - 8 * season + 3 * noise + np.arange(cells)
    spread = 6 + np.abs(rng.standard_normal((days, cells, cells)))
    pr = np.clip(rng.standard_normal((days, cells, cells)) + rng.standard_normal((days, 1, 1)) - 0.5, 0, None) ** 2
    fields: dict[str, tuple[Any, dict[str, str]]] = {
        "tas": (tas, {**TEMPERATURE, "cell_methods": "time: mean"}),
        "tasmin": (tas - 0.4 * spread, {**TEMPERATURE, "cell_methods": "time: minimum"}),
        "tasmax": (tas + 0.6 * spread, {**TEMPERATURE, "cell_methods": "time: maximum"}),
        "pr": (5 * pr / 86400, {**RAIN, "cell_methods": "time: mean"}),
    }
    humidity = 100 - 8 * np.abs(rng.standard_normal((days, cells, cells)) + rng.standard_normal((days, 1, 1)))
    fields["hurs"] = humidity.clip(0, 100), {"standard_name": "relative_humidity", "units": "%"}
    return xr.Dataset(
        {name: (("time", "lat", "lon"), fields[name][0].astype(np.float32), fields[name][1]) for name in names},
        {
            "time": ("time", time, {"standard_name": "time"}),
            "lat": ("lat", 40 + centres, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", 10 + centres, {"units": "degrees_east", "standard_name": "longitude"}),
        },
    )


def model(years: tuple[int, int], **options: Any) -> xr.Dataset:
    """Return the 2 x 2 means of other weather, with biases."""
    ds = downscale.coarsen(daily(years, **{"seed": 5, "shift": 1.5, **options}), 2)
    return ds.drop_vars([name for name in ("areacella",) if name in ds.coords])
