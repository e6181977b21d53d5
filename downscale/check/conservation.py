"""Conservation checks of xarray objects: a report of the largest errors, and the error of every coarse cell."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.bounds import bounds_variables
from downscale.cf.coordinates import horizontal_variables, read_areas, select, warn_of_misfit
from downscale.cf.dates import Clock
from downscale.cf.horizontal import Horizontal, XarrayObject, as_dataset, horizontal
from downscale.cf.kinds import direction_reason, is_categorical
from downscale.cf.quantities import is_number, is_sign_unknown, quantity_of, variable_bounds
from downscale.cf.units import convert, read_units
from downscale.check.comparison import Aligned, Nested, Overlapping, aligned, build_comparison, cell_place
from downscale.check.expected import Expected, is_plain
from downscale.conservation.measures import combine_all, counted_line, default_tolerance, negative_line
from downscale.conservation.report import ConservationReport, VariableReport, finalize
from downscale.deconvolution.psf import pick_psf
from downscale.deconvolution.weights import Instrument
from downscale.errors import DownscaleError, GridError, InputError, OptionError, listing
from downscale.methods.footprint import seen_through
from downscale.options import option

LAWS = ("cell", "total")
QUANTITIES = ("intensive", "extensive", None)
Quantity = str | Mapping[str, str] | None
# Times stored as floating-point days since a distant date differ by microseconds.
SAME_TIME = np.timedelta64(1, "ms")


def check_conservation(
    coarse: XarrayObject,
    fine: XarrayObject,
    *,
    law: str = "cell",
    tolerance: float | None = None,
    bounds: Any = "auto",
    data_vars: Any = None,
    quantity: str | Mapping[str, str] | None = None,
    mask: Any = None,
    na_thres: float = 1.0,
    footprint: Any = None,
) -> ConservationReport:
    """Check that the average of ``fine`` over each cell of ``coarse`` equals its value.

    Works on fields from any source. Lazy fields are checked block by block.

    Parameters
    ----------
    coarse, fine : Dataset or DataArray
        The coarse and the fine field; the order of latitudes and the branch of longitudes may differ. A fine axis
        without bounds whose centres are those of equal parts of the coarse cells gets these parts as cells. If the
        grids do not nest, the check compares the smallest regions that are unions of cells of both (their edges are
        those that both grids have), within the area that the fine field covers. If times or layers differ in number,
        those of ``fine`` are first averaged over those of ``coarse`` by their bounds.
    law : {"cell", "total"}
        The error that decides; both are reported.
    tolerance : float, optional
        Largest relative error that passes; by default 1e-6 for float32, 1e-12 for float64 (the coarser of the two).
    bounds : "auto", (lower, upper), mapping of name to these, or None
        Fine values outside are counted; "auto" takes the bounds from the standard name. If it finds no lower bound and
        fine values are negative while no coarse value is, the check warns.
    data_vars : str or list of str, optional
        Variables to check; by default all that both objects have.
    quantity : {"intensive", "extensive"} or mapping of name to these, optional
        Means or sums over cells; read from ``cell_methods``, units and names by default. If only the times or layers of
        the fields differ in number, over the cells of that axis.
    mask : Dataset, DataArray or file, optional
        The mask of valid fine cells that was used for ``fine``: coarse cells without any count as masked, not lost.
    na_thres : float
        The threshold that was used for ``fine``: blank cells with a larger missing fraction are not lost.

    footprint : str, Psf, ArrayPsf or array, optional
        Check footprint conservation ``A H y = x`` instead of cell conservation: ``fine`` is first blurred by this
        point-spread function. Errors are relative to the blurred magnitudes, at least to their mean over the map.

    Returns
    -------
    ConservationReport
        The largest relative and absolute cell error and its location, the global error, and counts.

    Raises
    ------
    GridError, ShapeError, InputError
        If the grids do not nest, the other dimensions differ, or there is no variable to check.
    OptionError
        If an option is not legal.
    """
    _require_legal(law, tolerance, quantity)
    pair, comparison = _compare_fields(coarse, fine, quantity, mask, na_thres)
    coarse_dataset, fine_dataset, at_coarse, at_fine = pair.coarse, pair.fine, pair.at_coarse, pair.at_fine
    reports = {}
    for name in shared_variables(coarse_dataset, fine_dataset, at_coarse, at_fine, data_vars):
        field, own = in_one_unit(name, coarse_dataset[name], comparison)
        _require_one_time(name, field, own.fine[name])
        own, areas = _with_own_areas(coarse_dataset, fine_dataset, own, at_coarse, at_fine, name)
        own = own if footprint is None else _through(own, name, footprint, field, quantity)
        expected = Expected(coarse_dataset, name, mask, na_thres, _asked(quantity, name))
        report = _variable_report(name, field, own, law, tolerance, bounds, quantity, expected)
        reports[name] = replace(report, areas=areas)
    return ConservationReport(reports)


def _compare_fields(
    coarse: XarrayObject, fine: XarrayObject, quantity: Any, mask: Any, na_thres: float
) -> tuple[Aligned, Nested | Overlapping]:
    """Return the aligned fields and the comparison of their grids."""
    coarse_dataset, fine_dataset = as_dataset(coarse)[0], as_dataset(fine)[0]
    if isinstance(coarse, xr.DataArray) and isinstance(fine, xr.DataArray):
        # Two arrays are compared regardless of their names.
        fine_dataset = fine_dataset.rename({next(iter(fine_dataset.data_vars)): next(iter(coarse_dataset.data_vars))})
    pair = aligned(coarse_dataset, fine_dataset, quantity)
    return pair, build_comparison(pair.coarse, pair.fine, pair.sizes, pair.at_coarse, pair.at_fine, mask, na_thres)


def in_one_unit(
    name: str, coarse: xr.DataArray, comparison: Nested | Overlapping
) -> tuple[xr.DataArray, Nested | Overlapping]:
    """Return the coarse field and the comparison in the same units; raises InputError if these are not compatible.

    Between kelvin and degrees Celsius, kelvin is used: its values are stored with fewer digits.
    """
    fine = comparison.fine[name]
    units = [str(field.attrs.get("units") or "").strip() for field in (coarse, fine)]
    if not all(units) or units[0] == units[1]:
        return coarse, comparison
    if any(read_units(unit) is None for unit in units):
        warnings.warn(
            f"{name}: expected the units {units[0]!r} in the fine field, received {units[1]!r}, which cannot be "
            "compared; values are taken as they are",
            UserWarning,
            stacklevel=3,
        )
        return coarse, comparison
    zero, one = (convert(value, units[1], units[0]) for value in (0.0, 1.0))
    if zero is None or one is None:
        raise InputError(
            f"{name}: expected units of the fine field that fit {units[0]!r}, received {units[1]!r}; convert one field"
        )
    if zero < 0:
        reverse = [convert(value, units[0], units[1]) for value in (0.0, 1.0)]
        assert reverse[0] is not None
        assert reverse[1] is not None
        return _converted(coarse, reverse[0], reverse[1], units[1]), comparison
    if zero == 0 and one == 1:
        return coarse, comparison
    return coarse, replace(comparison, fine=comparison.fine.assign({name: _converted(fine, zero, one, units[0])}))


def _converted(field: xr.DataArray, zero: float, one: float, units: str) -> xr.DataArray:
    values = field.astype("f8") * (one - zero) + zero
    return values.assign_attrs({**field.attrs, "units": units, "stored": field.attrs.get("stored", field.dtype)})


def _require_one_time(name: str, coarse: xr.DataArray, fine: xr.DataArray) -> None:
    """Refuse single maps of two different dates."""
    for key in coarse.coords:
        x, y = coarse[key], fine.coords.get(key)
        if y is None or x.ndim or y.ndim or x.dtype.kind not in "MO" or y.dtype.kind not in "MO":
            continue
        if not _equal(np.atleast_1d(x.values), np.atleast_1d(y.values)):
            raise GridError(
                f"{name}: expected {key!r} {x.values} in the fine field, received {y.values}; select the same"
            )


def _with_own_areas(
    big: xr.Dataset, small: xr.Dataset, comparison: Nested | Overlapping, at_coarse: Horizontal, at_fine: Horizontal,
    name: str,
) -> tuple[Nested | Overlapping, str]:  # fmt: skip
    """Return the comparison with the coarse file's own areas as weights of the global error, and their name."""
    if isinstance(comparison, Nested):
        # In the order of the coarse cells; fine cells that lost their bounds are those of the comparison.
        small, at_fine = comparison.fine, comparison.at_fine
    areas = read_areas(big, at_coarse, name), read_areas(small, at_fine, name)
    for file_areas, what in zip(areas, ("coarse file", "fine file"), strict=True):
        if file_areas is not None:
            warn_of_misfit(file_areas, what)
    coarse_areas = areas[0]
    if coarse_areas is None or not coarse_areas.fits or not isinstance(comparison, Nested):
        return comparison, ""
    weights = np.where(np.isfinite(coarse_areas.values), coarse_areas.values, at_coarse.grid.cell_area)
    return replace(comparison, areas=weights), f"{coarse_areas.name} of the coarse file"


def _through(
    comparison: Nested | Overlapping, name: str, footprint: Any, coarse: xr.DataArray, quantity: Quantity
) -> Nested:
    """Return a comparison of the blurred fine field."""
    if not isinstance(comparison, Nested):
        raise OptionError("expected a fine grid that nests in the coarse one with footprint, received another")
    where, field = comparison.at_fine, comparison.fine[name].transpose(..., *comparison.at_fine.dims)
    instrument = Instrument(pick_psf(footprint), where.grid)
    area = where.grid.cell_area if (_asked(quantity, name) or quantity_of(coarse)) == "extensive" else 1.0
    means = field.astype("f8") / area
    blurred = means.copy(data=seen_through(means.data, instrument) * area)
    size = means.copy(data=seen_through(np.abs(means.data), instrument))
    weights = xr.DataArray(where.grid.cell_area, dims=where.dims)
    floor = (size * weights).sum(where.dims) / weights.where(np.isfinite(size)).sum(where.dims)
    sizes = size.where(~(size < floor), floor)
    stored = {"stored": field.dtype}
    blurred_fine = comparison.fine.assign({name: blurred.assign_attrs(stored)})
    return replace(comparison, fine=blurred_fine, sizes=xr.Dataset({name: sizes}))


def _asked(quantity: Quantity, name: str) -> str | None:
    """Return the requested quantity of one variable."""
    return quantity.get(name) if isinstance(quantity, Mapping) else quantity


def coarse_and_fine(one: XarrayObject, other: XarrayObject) -> tuple[XarrayObject, XarrayObject]:
    """Return two objects, the one with fewer horizontal cells first; if equal, the one with fewer values."""
    return (one, other) if _size(one) <= _size(other) else (other, one)


def _size(obj: XarrayObject) -> tuple[int, int]:
    ds = as_dataset(obj)[0]
    where = horizontal(ds, guess=True)
    values = max((ds[name].size for name in horizontal_variables(ds, where)), default=0)
    return int(np.prod(where.grid.shape)), values


def _require_legal(law: str, tolerance: float | None, quantity: Quantity) -> None:
    quantities = quantity.values() if isinstance(quantity, Mapping) else [quantity]
    for name, value, legal in (("law", law, LAWS), *(("quantity", item, QUANTITIES) for item in quantities)):
        if value not in legal:
            raise OptionError(f"expected {name} to be one of {listing(legal)}, received {value!r}")
    if tolerance is not None and not (is_number(tolerance) and tolerance > 0):
        raise OptionError(f"expected tolerance to be a positive number, received {tolerance!r}")


def shared_variables(
    coarse: xr.Dataset, fine: xr.Dataset, at_coarse: Horizontal, at_fine: Horizontal, wanted: Any
) -> list[str]:
    """Return the fields with means that both have, or the selected ones; raises InputError if none is common."""
    fine_names = set(horizontal_variables(fine, at_fine))
    shared = [n for n in horizontal_variables(coarse, at_coarse) if n in fine_names and not _has_no_mean(coarse[n])]
    if wanted is not None:
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        for name in names:
            if name not in shared:
                raise InputError(f"expected a variable of both fields among {listing(shared)}, received {name!r}")
        return names
    masks = [str(name) for name in fine.data_vars if "flag_values" in fine[name].attrs]
    if not shared and masks:
        raise InputError(
            f"expected a field whose means both have, received flags of {listing(masks)}, which no law applies to; "
            "score a mask with downscale evaluate"
        )
    if not shared:
        raise InputError(
            f"expected a variable that both fields have, received {listing(coarse.data_vars)} and "
            f"{listing(fine.data_vars)}; rename one"
        )
    return shared


def _has_no_mean(variable: xr.DataArray) -> bool:
    """Return whether conservation does not apply to a variable: codes and directions."""
    return is_categorical(variable) or direction_reason(variable) is not None


def _variable_report(
    name: str, coarse: xr.DataArray, comparison: Nested | Overlapping, law: str, tolerance: float | None, bounds: Any,
    quantity: Quantity, maker: Expected,
) -> VariableReport:  # fmt: skip
    fine = comparison.fine[name]
    x, y = matched(name, coarse, fine, comparison.at_coarse, comparison.at_fine)
    extensive = (_asked(quantity, name) or quantity_of(coarse)) == "extensive"
    limits = variable_bounds(coarse, name, bounds)
    sign_unknown = limits[0] is None and is_sign_unknown(coarse, name, bounds)
    total, infinite, signs = comparison.find_errors(x, y, limits, sign_unknown, extensive)
    if infinite.count:
        line = counted_line(name, infinite.count, cell_place(x, infinite.first))
        warnings.warn(line, UserWarning, stacklevel=3)
    if signs.new_negatives:
        warnings.warn(negative_line(name), UserWarning, stacklevel=3)
    fine_dtype = fine.attrs.get("stored", fine.dtype)
    coarse_dtype = coarse.attrs.get("stored", coarse.dtype)
    kinds = [kind for kind in (coarse_dtype, fine_dtype) if kind.kind == "f"] or [np.dtype("f8")]
    allowed = tolerance or option("tolerance") or max(default_tolerance(kind) for kind in kinds)
    units, expected = str(coarse.attrs.get("units", "")), ""
    if law == "cell" and isinstance(comparison, Overlapping) and comparison.near is not None:
        method, expected_field = maker.field(x, y, comparison)
        if expected_field is not None:
            plain = is_plain(comparison.fine.attrs)
            partial = comparison.near_cells(x, y, expected_field, float(allowed), extensive, plain)
            total, expected = combine_all([total, partial]), method
    report = finalize(
        name, total, law, float(allowed), units, lambda index: comparison.place(x, index), comparison.outside,
        comparison.compared, expected, lambda index: cell_place(x, index),
    )  # fmt: skip
    return replace(report, negative_values=signs.new_negatives)


def matched(
    name: str, coarse: xr.DataArray, fine: xr.DataArray, at_coarse: Horizontal, at_fine: Horizontal
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return both with the same other dimensions in the same order, horizontal dimensions last."""
    extra = [d for d in fine.dims if d not in at_fine.dims and d not in coarse.dims]
    others = [d for d in coarse.dims if d not in at_coarse.dims]
    for dim in others:
        if dim not in fine.dims or fine.sizes[dim] != coarse.sizes[dim]:
            has = f"{fine.sizes[dim]} values" if dim in fine.dims else "none"
            raise GridError(f"{name}: expected {coarse.sizes[dim]} values of {dim!r} in the fine field, received {has}")
        if dim in coarse.coords and dim in fine.coords and not coarse[dim].equals(fine[dim]):
            _require_close(name, str(dim), coarse, fine)
    x = coarse.transpose(*others, *at_coarse.dims)
    if extra:
        x = x.expand_dims({d: fine[d] if d in fine.coords else fine.sizes[d] for d in extra})
    return x, fine.transpose(*extra, *others, *at_fine.dims)


def _require_close(name: str, dim: str, coarse: xr.DataArray, fine: xr.DataArray) -> None:
    a, b = coarse[dim].values, fine[dim].values
    if not _equal(a, b):
        raise GridError(f"{name}: expected equal coordinates {dim!r}, received values that differ; select the same")


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype.kind in "fiu" and b.dtype.kind in "fiu":
        return bool(np.allclose(a, b))
    if {a.dtype.kind, b.dtype.kind} == {"M", "O"}:
        # A file may store the same dates as another type.
        try:
            b = Clock.of(a).adopt(b)
        except (DownscaleError, AttributeError, TypeError):
            return False
    if a.dtype.kind == b.dtype.kind == "O" and a.size and b.size and type(a.flat[0]) is not type(b.flat[0]):
        return False  # dates of two calendars cannot be compared
    try:
        # Dates of a calendar differ by datetime.timedelta, which this comparison handles too.
        return bool((np.abs(a - b) <= SAME_TIME).all())
    except TypeError:
        return bool((a == b).all())


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
    pair, comparison = _compare_fields(coarse, fine, None, mask, 1.0)
    coarse_dataset, fine_dataset, at_coarse, at_fine = pair.coarse, pair.fine, pair.at_coarse, pair.at_fine
    if not isinstance(comparison, Nested):
        raise GridError("expected fine cells that are parts of coarse ones, received grids that do not nest; use check")
    arrays: dict[str, xr.DataArray] = {}
    for name in shared_variables(coarse_dataset, fine_dataset, at_coarse, at_fine, None):
        coarse_field, field_check = in_one_unit(name, coarse_dataset[name], comparison)
        assert isinstance(field_check, Nested)
        arrays |= _errors(name, coarse_field, field_check)
    errors = xr.Dataset(arrays)
    checked_fields = select(
        coarse_dataset, [name.removesuffix("_relative_error") for name in arrays if name.endswith("_relative_error")]
    )
    bounds = bounds_variables(checked_fields)
    coords = {key: v for key, v in checked_fields.coords.items() if set(v.dims) <= set(errors.dims) or key in bounds}
    return errors.assign_coords(coords)


def _errors(name: str, coarse: xr.DataArray, comparison: Nested) -> dict[str, xr.DataArray]:
    """Return the absolute and relative errors of one variable."""
    x, y = matched(name, coarse, comparison.fine[name], comparison.at_coarse, comparison.at_fine)
    coarse_values = np.asarray(x.values, np.float64)
    if comparison.hidden is not None:
        coarse_values = np.where(comparison.hidden, np.nan, coarse_values)
    # If means along time were taken, magnitudes are those of the averaged values.
    sizes = None if comparison.sizes is None else comparison.sizes[name].transpose(*y.dims)
    mean, size = np.empty(coarse_values.shape), np.empty(coarse_values.shape)
    for index in np.ndindex(coarse_values.shape[:-2]):
        values = np.asarray(y.data[index], np.float64)
        # An infinite value gives an infinite error, as in the report.
        valid = ~np.isnan(values)
        cells = comparison.cells.masked(None if valid.all() else valid)
        magnitude = np.abs(values) if sizes is None else np.asarray(sizes.data[index], np.float64)
        with np.errstate(invalid="ignore"):
            if quantity_of(coarse) == "extensive":
                area = comparison.at_fine.grid.cell_area
                values, magnitude = np.where(valid, values, 0.0) / area, np.where(valid, np.abs(values), 0.0) / area
            mean[index], size[index] = cells.mean(values), cells.mean(magnitude)
            if quantity_of(coarse) == "extensive":
                valid_area = cells.valid_fraction * comparison.at_coarse.grid.cell_area
                mean[index], size[index] = mean[index] * valid_area, size[index] * valid_area
    coarse_values = np.where(np.isinf(coarse_values), np.nan, coarse_values)
    with np.errstate(invalid="ignore"):
        gap = np.where(np.isnan(mean) & np.isinf(size), np.inf, mean - coarse_values)
        gap = np.where(np.isnan(coarse_values), np.nan, gap)
        scale = np.maximum(np.abs(coarse_values), size)
        relative = np.where(np.isinf(gap), np.inf, np.abs(gap) / np.where(scale > 0, scale, 1.0))
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
