"""Conservation error of every coarse cell, as a field."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.bounds import bounds_variables
from downscale.cf.horizontal import XarrayObject, as_dataset
from downscale.cf.quantities import quantity_of
from downscale.cf.select import select
from downscale.check.align import aligned
from downscale.check.comparison import Nested, judge_of
from downscale.check.conservation import in_one_unit, matched, shared_variables
from downscale.errors import GridError


def cell_error(coarse: XarrayObject, fine: XarrayObject, *, mask: Any = None) -> xr.Dataset:
    """Return the conservation error of every coarse cell; :func:`downscale.check_conservation` reports the worst one.

    Parameters
    ----------
    coarse, fine : Dataset or DataArray
        The coarse field and the fine field, on grids that nest; in memory or lazy. Lazy fields are computed map by map.
    mask : Dataset, DataArray or file, optional
        The mask of valid fine cells that was used for ``fine``.

    Returns
    -------
    Dataset
        For each common variable, on the coarse cells: ``NAME_error``, the mean of the fine values minus the coarse
        value in the units of the field (zero for cell conservation), and ``NAME_relative_error``. That is its size
        relative to the larger of the coarse value and the mean size of its fine values; its maximum is the error in the
        check report. NaN for cells that are not checked.

    Raises
    ------
    GridError
        If the grids do not nest, or the other dimensions differ.
    InputError
        If no variable is common to both.

    Examples
    --------
    >>> import downscale
    >>> coarse = downscale.sample.open("north_america").isel(time=[0])
    >>> float(cell_error(coarse, coarse.downscale(2)).tas_relative_error.max()) < 1e-6
    True
    """
    big, small = as_dataset(coarse)[0], as_dataset(fine)[0]
    if isinstance(coarse, xr.DataArray) and isinstance(fine, xr.DataArray):
        small = small.rename({next(iter(small.data_vars)): next(iter(big.data_vars))})
    both = aligned(big, small)
    big, small, at_coarse, at_fine = both.coarse, both.fine, both.at_coarse, both.at_fine
    judge = judge_of(big, small, both.sizes, at_coarse, at_fine, mask, 1.0)
    if not isinstance(judge, Nested):
        raise GridError("expected fine cells that are parts of coarse ones, received grids that do not nest; use check")
    found: dict[str, xr.DataArray] = {}
    for name in shared_variables(big, small, at_coarse, at_fine, None):
        given, own = in_one_unit(name, big[name], judge)
        assert isinstance(own, Nested)
        found |= _errors(name, given, own)
    made = xr.Dataset(found)
    around = select(big, [name.removesuffix("_relative_error") for name in found if name.endswith("_relative_error")])
    bounds = bounds_variables(around)
    kept = {key: v for key, v in around.coords.items() if set(v.dims) <= set(made.dims) or key in bounds}
    return made.assign_coords(kept)


def _errors(name: str, coarse: xr.DataArray, judge: Nested) -> dict[str, xr.DataArray]:
    """Return the absolute and relative errors of one variable."""
    x, y = matched(name, coarse, judge.fine[name], judge.at_coarse, judge.at_fine)
    given = np.asarray(x.values, np.float64)
    if judge.hidden is not None:
        given = np.where(judge.hidden, np.nan, given)
    # If means along time were taken, magnitudes are those of the averaged values.
    sizes = None if judge.sizes is None else judge.sizes[name].transpose(*y.dims)
    mean, size = np.empty(given.shape), np.empty(given.shape)
    for index in np.ndindex(given.shape[:-2]):
        values = np.asarray(y.data[index], np.float64)
        # An infinite value gives an infinite error, as in the report.
        valid = ~np.isnan(values)
        mask = None if valid.all() else valid
        magnitude = np.abs(values) if sizes is None else np.asarray(sizes.data[index], np.float64)
        with np.errstate(invalid="ignore"):
            mean[index], size[index] = judge.cells.mean(values, mask), judge.cells.mean(magnitude, mask)
            if quantity_of(coarse) == "extensive":
                share = judge.cells.share(valid, values)
                scale = share * judge.at_coarse.grid.cell_area
                per_area = np.where(valid, values, 0.0) / judge.at_fine.grid.cell_area
                mean[index] = judge.cells.mean(per_area, mask) * scale
                size[index] = judge.cells.mean(np.abs(per_area), mask) * scale
    given = np.where(np.isinf(given), np.nan, given)
    with np.errstate(invalid="ignore"):
        gap = np.where(np.isnan(mean) & np.isinf(size), np.inf, mean - given)
        gap = np.where(np.isnan(given), np.nan, gap)
        beside = np.maximum(np.abs(given), size)
        relative = np.where(np.isinf(gap), np.inf, np.abs(gap) / np.where(beside > 0, beside, 1.0))
    units = coarse.attrs.get("units", "")
    words = str(coarse.attrs.get("long_name", name))
    return {
        f"{name}_error": xr.DataArray(
            gap, dims=x.dims, attrs={"long_name": f"mean of the fine cells minus {words}", "units": units}
        ),
        f"{name}_relative_error": xr.DataArray(
            relative, dims=x.dims, attrs={"long_name": f"relative error of the coarse cell, {words}", "units": "1"}
        ),
    }
