"""Small real fields that are bundled with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from downscale.errors import OptionError, listing

if TYPE_CHECKING:
    import xarray as xr

FILES = {
    "north_america": "north_america_tas.nc",
    "north_america_relief": "north_america_relief.nc",
}


def path(name: str) -> Path:
    """Return the path of a sample file.

    Raises
    ------
    OptionError
        If there is no sample of that name; lists the names.

    Examples
    --------
    >>> path("north_america").name
    'north_america_tas.nc'
    """
    if name not in FILES:
        raise OptionError(f"expected a sample among {listing(FILES)}, received {name!r}")
    return Path(__file__).parent / FILES[name]


def open(name: str = "north_america", chunks: Any = None) -> xr.Dataset:
    """Open a sample.

    Parameters
    ----------
    name : {"north_america", "north_america_relief"}
        "north_america": near-surface air temperature ``tas`` in K, annual means of every tenth year 1869-2099 of
        HadCM3 under SRES A1B, 37 x 49 cells of 1.25 x 1.875 degrees, 360-day calendar (Met Office, Open Government
        Licence). "north_america_relief": ``orog`` in m and ``sftlf`` in % on its x4 refinement, exact area means of
        ETOPO5 (NOAA/NGDC 1988, public domain).
    chunks : int, mapping or None
        Dask chunks; None reads eagerly.

    Returns
    -------
    Dataset
        Its attributes name the source and the licence.
    """
    from downscale.io.read import open_dataset

    return open_dataset(path(name), chunks=chunks)
