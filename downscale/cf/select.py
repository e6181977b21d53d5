"""Selection of fields from a Dataset with all variables that locate and describe them.

Selection never changes cells: ``ds[names]`` loses bounds, because fields do not have their second dimension;
:func:`select` keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import xarray as xr

from downscale.cf.bounds import bounds_in, bounds_variables
from downscale.cf.horizontal import AREA
from downscale.cf.positions import POSITIONS, seems_position
from downscale.cf.references import referred
from downscale.errors import InputError, listing


def select(ds: xr.Dataset, names: str | Iterable[Any]) -> xr.Dataset:
    """Return a Dataset of some fields on the same cells.

    Parameters
    ----------
    ds : Dataset
        Never modified.
    names : str or list of str
        Fields to keep.

    Returns
    -------
    Dataset
        The fields are its data variables. Its coordinates are the variables that they refer to (bounds, cell areas,
        grid mappings, positions, ``formula_terms``, ancillary variables), directly or through others, and the
        coordinates, positions, areas and bounds on their dimensions.

    Raises
    ------
    InputError
        If there is no such variable.

    Examples
    --------
    >>> lat = xr.Variable("lat", [0.0, 1.0], {"bounds": "lat_bnds"})
    >>> cells = {"lat": lat, "lat_bnds": (("lat", "bnds"), [[-1.0, 0.5], [0.5, 1.5]])}
    >>> ds = xr.Dataset({"tas": ("lat", [1.0, 2.0]), "pr": ("lat", [3.0, 4.0])}, cells)
    >>> sorted(select(ds, "tas").variables), "lat_bnds" in ds[["tas"]].variables
    (['lat', 'lat_bnds', 'tas'], False)
    """
    wanted = [names] if isinstance(names, str) else list(names)
    missing = [name for name in wanted if name not in ds.variables]
    if missing:
        raise InputError(f"expected variables among {listing(ds.data_vars)}, received {listing(missing)}")
    kept = {str(name) for name in wanted}
    kept |= referred(ds, kept)
    dims = {dim for name in kept - bounds_variables(ds) for dim in ds[name].dims}
    kept |= {str(name) for name, v in ds.variables.items() if set(v.dims) <= dims and _belongs(ds, str(name))}
    kept |= {bounds for name in kept for bounds in [bounds_in(ds, name)] if bounds is not None}
    kept |= referred(ds, kept & set(map(str, ds.coords)))
    chosen = ds.drop_vars([name for name in ds.variables if str(name) not in kept])
    return chosen.set_coords([name for name in chosen.data_vars if name not in wanted])


def _belongs(ds: xr.Dataset, name: str) -> bool:
    """Return whether a variable belongs to the grid: a coordinate, a grid mapping, cell areas, or a position."""
    attrs = ds[name].attrs
    if name in ds.coords or "grid_mapping_name" in attrs or "crs_wkt" in attrs:
        return True
    standard = str(attrs.get("standard_name", ""))
    if name == AREA or standard:
        return name == AREA or standard in ("cell_area", *POSITIONS)
    return seems_position(ds[name])
