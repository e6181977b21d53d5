"""Conservation checks of xarray objects: a report of the largest errors, and the error of every coarse cell."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from downscale.api import downscale
from downscale.cf.bounds import bounds_name, bounds_variables
from downscale.cf.coordinates import horizontal_variables, read_areas, select
from downscale.cf.dates import Clock, values_of
from downscale.cf.horizontal import XarrayObject, as_dataset, horizontal
from downscale.cf.kinds import direction_reason, is_categorical
from downscale.cf.quantities import Bounds, is_sign_unknown, quantity_of, variable_bounds
from downscale.cf.units import convert, read_units
from downscale.check.comparison import Comparison, Nested, Overlapping, cell_place, compare_fields
from downscale.check.orderings import report_orderings
from downscale.conservation.measures import (
    combine_all,
    default_tolerance,
    infinite_count_message,
    negative_message,
    stored_bounds,
)
from downscale.conservation.report import ConservationReport, VariableReport, finalize
from downscale.deconvolution.psf import pick_psf
from downscale.deconvolution.weights import Instrument
from downscale.errors import DownscaleError, GridError, InputError, OptionError, listing, spell
from downscale.methods.footprint import blur_maps
from downscale.options import one_of, option
from downscale.process.computing import compute
from downscale.request import Request, require_legal
from downscale.steps.orderings import find_orderings

LAWS = one_of("cell", "total")
# Times stored as floating-point days since a distant date differ by microseconds.
SAME_TIME = np.timedelta64(1, "ms")
# Methods that may have produced a file: smooth ones first, then conservative remapping.
METHODS = ("sobolev", "conservative", "bilinear")
# Other methods, if a file names one of them.
RECORDED_METHODS = (*METHODS, "bicubic")
TERRAIN = ("lapse_rate=", "terrain_penalty(")
# Settings that this package records in its files.
SETTINGS = re.compile(r"method=(?P<method>\w+)(?:, taps=(?P<taps>\d+) order=(?P<order>[\d.]+))?")


def check_conservation(
    coarse: XarrayObject,
    fine: XarrayObject,
    *,
    law: str = "cell",
    tolerance: float | None = None,
    bounds: Any = "auto",
    data_vars: Any = None,
    quantity: Any = None,
    mask: Any = None,
    na_thres: float = 1.0,
    footprint: Any = None,
    orderings: str | None = None,
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
        fine values are negative while no coarse value is, the check warns. Limits may be fields, as in
        :func:`downscale.downscale`: fine values out of order fail, but not those of coarse cells that are out of order
        themselves.
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
    orderings : "auto", optional
        Check the order of well-known variables too, as in :func:`downscale.downscale`.

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
    require_legal("law", law, LAWS)
    for key, value in (("tolerance", tolerance), ("quantity", quantity), ("na_thres", na_thres)):
        require_legal(key, value)
    comparison = compare_fields(coarse, fine, quantity, mask, na_thres)
    reports = {}
    for name in common_variables(comparison, data_vars):
        variable_comparison = unify_units(comparison, name)
        _require_one_time(name, variable_comparison.coarse[name], variable_comparison.fine[name])
        variable_comparison, areas = _use_stored_areas(variable_comparison, name)
        variable_quantity = quantity.get(name) if isinstance(quantity, Mapping) else quantity
        extensive = (variable_quantity or quantity_of(variable_comparison.coarse[name])) == "extensive"
        if footprint is not None:
            variable_comparison = _blur_fine(variable_comparison, name, footprint, extensive)
        settings = {"mask": mask, "na_thres": na_thres, "quantity": variable_quantity}
        report = _variable_report(variable_comparison, name, law, tolerance, bounds, extensive, settings)
        if variable_comparison.sizes is not None and footprint is None:
            report = _count_before_averages(report, variable_comparison, as_dataset(fine)[0], name, bounds)
        reports[name] = replace(report, areas=areas)
    order_request = Request(bounds=bounds, orderings=orderings)
    found = find_orderings(comparison.fine, horizontal_variables(comparison.fine, comparison.fine_axes), order_request)
    if found.bounded:
        reports = report_orderings(reports, comparison, as_dataset(fine)[0], found)
    return ConservationReport(reports)


def unify_units(comparison: Nested | Overlapping, name: str) -> Nested | Overlapping:
    """Return the comparison with both fields in the same units; raises InputError if these are not compatible.

    Between kelvin and degrees Celsius, kelvin is used: its values are stored with fewer digits.
    """
    coarse, fine = comparison.coarse[name], comparison.fine[name]
    units = [str(field.attrs.get("units") or "").strip() for field in (coarse, fine)]
    if not all(units) or units[0] == units[1]:
        return comparison
    if any(read_units(unit) is None for unit in units):
        warnings.warn(
            f"{name}: expected the units {units[0]!r} in the fine field, received {units[1]!r}, which cannot be "
            "compared; values are taken as they are",
            UserWarning,
            stacklevel=3,
        )
        return comparison
    zero, one = (convert(value, units[1], units[0]) for value in (0.0, 1.0))
    if zero is None or one is None:
        raise InputError(
            f"{name}: expected units of the fine field that fit {units[0]!r}, received {units[1]!r}; convert one field"
        )
    if zero == 0 and one == 1:
        return comparison
    if zero < 0:
        converted = comparison.coarse.assign({name: convert_units(coarse, units[0], units[1])})
        return replace(comparison, coarse=converted)
    return replace(comparison, fine=comparison.fine.assign({name: convert_units(fine, units[1], units[0])}))


def convert_units(field: xr.DataArray, old: str, new: str) -> xr.DataArray:
    """Return a field in float64, converted from units to other units that fit."""
    zero, one = (convert(value, old, new) for value in (0.0, 1.0))
    values = field.astype("f8") * (one - zero) + zero  # type: ignore[operator]
    return values.assign_attrs({**field.attrs, "units": new, "stored": field.attrs.get("stored", field.dtype)})


def _require_one_time(name: str, coarse: xr.DataArray, fine: xr.DataArray) -> None:
    """Refuse single maps of two different dates."""
    for key in coarse.coords:
        x, y = coarse[key], fine.coords.get(key)
        if y is None or x.ndim or y.ndim or x.dtype.kind not in "MO" or y.dtype.kind not in "MO":
            continue
        if not _are_equal(np.atleast_1d(x.values), np.atleast_1d(y.values)):
            raise GridError(
                f"{name}: expected {key!r} {x.values} in the fine field, received {y.values}; select the same"
            )


def _use_stored_areas(comparison: Nested | Overlapping, name: str) -> tuple[Nested | Overlapping, str]:
    """Return the comparison with the coarse file's own areas as weights of the global error, and their name."""
    area_field = read_areas(comparison.coarse, comparison.coarse_axes, name, "coarse file")
    read_areas(comparison.fine, comparison.fine_axes, name, "fine file")
    if area_field is None or not isinstance(comparison, Nested):
        return comparison, ""
    areas = values_of(area_field[0].variable).astype(np.float64) * area_field[1]
    weights = np.where(np.isfinite(areas), areas, comparison.coarse_axes.grid.cell_area)
    return replace(comparison, areas=weights), f"{area_field[0].name} of the coarse file"


def _blur_fine(comparison: Nested | Overlapping, name: str, footprint: Any, extensive: bool) -> Nested:
    """Return a comparison of the fine field blurred by a footprint."""
    if not isinstance(comparison, Nested):
        raise OptionError(
            f"expected a fine grid that nests in the coarse one with {spell('footprint')}, received another"
        )
    axes, field = comparison.fine_axes, comparison.fine[name].transpose(..., *comparison.fine_axes.dims)
    instrument = Instrument(pick_psf(footprint), axes.grid)
    area = axes.grid.cell_area if extensive else 1.0
    means = field.astype("f8") / area
    blurred = means.copy(data=blur_maps(means.data, instrument) * area)
    size = means.copy(data=blur_maps(np.abs(means.data), instrument))
    weights = xr.DataArray(axes.grid.cell_area, dims=axes.dims)
    floor = (size * weights).sum(axes.dims) / weights.where(np.isfinite(size)).sum(axes.dims)
    fine = comparison.fine.assign({name: blurred.assign_attrs({"stored": field.dtype})})
    return replace(comparison, fine=fine, sizes=xr.Dataset({name: size.where(~(size < floor), floor)}))


def coarse_and_fine(one: XarrayObject, other: XarrayObject) -> tuple[XarrayObject, XarrayObject]:
    """Return two objects, the one with fewer horizontal cells first; if equal, the one with fewer values."""
    return (one, other) if _size(one) <= _size(other) else (other, one)


def _size(obj: XarrayObject) -> tuple[int, int]:
    ds = as_dataset(obj)[0]
    axes = horizontal(ds, guess=True)
    values = max((ds[name].size for name in horizontal_variables(ds, axes)), default=0)
    return int(np.prod(axes.grid.shape)), values


def common_variables(comparison: Comparison, data_vars: Any = None) -> list[str]:
    """Return the fields with means that both have, or the selected ones; raises InputError if none is common."""
    coarse, fine = comparison.coarse, comparison.fine
    fine_names = set(horizontal_variables(fine, comparison.fine_axes))
    common_names = [
        name for name in horizontal_variables(coarse, comparison.coarse_axes)
        if name in fine_names and not is_categorical(coarse[name]) and direction_reason(coarse[name]) is None
    ]  # fmt: skip
    if data_vars is not None:
        names = [data_vars] if isinstance(data_vars, str) else list(data_vars)
        for name in names:
            if name not in common_names:
                raise InputError(f"expected a variable of both fields among {listing(common_names)}, received {name!r}")
        return names
    masks = [str(name) for name in fine.data_vars if "flag_values" in fine[name].attrs]
    if not common_names and masks:
        raise InputError(
            f"expected a field whose means both have, received flags of {listing(masks)}, which no law applies to; "
            "score a mask with downscale evaluate"
        )
    if not common_names:
        raise InputError(
            f"expected a variable that both fields have, received {listing(coarse.data_vars)} and "
            f"{listing(fine.data_vars)}; rename one"
        )
    return common_names


def _variable_report(
    comparison: Nested | Overlapping, name: str, law: str, tolerance: float | None, bounds: Any, extensive: bool,
    settings: Mapping[str, Any],
) -> VariableReport:  # fmt: skip
    coarse, fine = comparison.coarse[name], comparison.fine[name]
    x, y = align_fields(comparison, name)
    limits = variable_bounds(coarse, name, bounds)
    sign_unknown = limits[0] is None and is_sign_unknown(coarse, name, bounds)
    total, infinite, signs = comparison.find_errors(x, y, limits, sign_unknown, extensive)
    if infinite.count:
        line = infinite_count_message(name, infinite.count, cell_place(x, infinite.first))
        warnings.warn(line, UserWarning, stacklevel=3)
    if signs.new_negatives:
        warnings.warn(negative_message(name), UserWarning, stacklevel=3)
    kinds = [field.attrs.get("stored", field.dtype) for field in (coarse, fine)]
    tolerances = [default_tolerance(kind) for kind in kinds if kind.kind == "f"] or [default_tolerance(np.dtype("f8"))]
    threshold = float(tolerance or option("tolerance") or max(tolerances))
    expected = ""
    if law == "cell" and isinstance(comparison, Overlapping) and comparison.near is not None:
        method, field = _predict_field(comparison, name, x, y, settings)
        if field is not None:
            stored_settings = str(comparison.fine.attrs.get("downscale_settings", ""))
            without_terrain = not any(word in stored_settings for word in TERRAIN)
            partial = comparison.near_cells(x, y, field, threshold, extensive, without_terrain)
            total, expected = combine_all([total, partial]), method
    report = finalize(
        name, total, law, threshold, str(coarse.attrs.get("units", "")), lambda index: comparison.place(x, index),
        comparison.outside, comparison.cell_kind_and_count, expected, lambda index: cell_place(x, index),
    )  # fmt: skip
    return replace(report, negative_values=signs.new_negatives)


def _count_before_averages(
    report: VariableReport, comparison: Nested | Overlapping, fine: xr.Dataset, name: str, bounds: Any
) -> VariableReport:
    """Return the report with the fine values out of bounds, not their averages over coarse times or layers.

    If a coarse value is out of bounds itself, averages are counted: only these show which fine values have no choice.
    """
    coarse, means = comparison.coarse[name], comparison.fine[name]
    limits = variable_bounds(coarse, name, bounds)
    field = fine[name if name in fine.data_vars else next(iter(fine.data_vars))]
    if limits == (None, None) or _count_beyond(coarse, limits):
        return report
    units = [str(one.attrs.get("units") or "").strip() for one in (means, field)]
    if all(units) and units[0] != units[1]:
        low, high = (None if bound is None else convert(bound, *units) for bound in limits)
        limits = low, high
    hidden = ~comparison.valid if isinstance(comparison, Nested) and comparison.valid is not None else None
    hidden = comparison.common.hidden if isinstance(comparison, Overlapping) else hidden
    if hidden is not None:
        dims = comparison.fine_axes.dims
        places = {dim: means[dim] for dim in dims if dim in means.coords and dim in field.coords}
        field = field.where(~xr.DataArray(hidden, places, dims))
    return replace(report, values_out_of_bounds=_count_beyond(field, limits))


def _count_beyond(field: xr.DataArray, limits: Bounds) -> int:
    """Return the number of values beyond the limits, as their type stores these."""
    low, high = stored_bounds(limits, field.dtype)
    beyond = field < (-np.inf if low is None else low)
    return int(compute((beyond | (field > (np.inf if high is None else high))).sum().data)[0])


def align_fields(comparison: Comparison, name: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Return both fields with the same other dimensions in the same order, horizontal dimensions last."""
    coarse, fine, horizontal_dims = comparison.coarse[name], comparison.fine[name], comparison.fine_axes.dims
    extra = [d for d in fine.dims if d not in horizontal_dims and d not in coarse.dims]
    others = [d for d in coarse.dims if d not in comparison.coarse_axes.dims]
    for dim in others:
        if dim not in fine.dims or fine.sizes[dim] != coarse.sizes[dim]:
            received = f"{fine.sizes[dim]} values" if dim in fine.dims else "none"
            raise GridError(
                f"{name}: expected {coarse.sizes[dim]} values of {dim!r} in the fine field, received {received}"
            )
        has_values = dim in coarse.coords and dim in fine.coords and not coarse[dim].equals(fine[dim])
        if has_values and not _are_equal(coarse[dim].values, fine[dim].values):
            raise GridError(
                f"{name}: expected equal coordinates {str(dim)!r}, received values that differ; select the same"
            )
    x = coarse.transpose(*others, *comparison.coarse_axes.dims)
    if extra:
        x = x.expand_dims({d: fine[d] if d in fine.coords else fine.sizes[d] for d in extra})
    return x, fine.transpose(*extra, *others, *horizontal_dims)


def _are_equal(a: np.ndarray, b: np.ndarray) -> bool:
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


def _predict_field(
    comparison: Overlapping, name: str, x: xr.DataArray, y: xr.DataArray, settings: Mapping[str, Any]
) -> tuple[str, xr.DataArray | None]:
    """Return the method closest to the first map of ``y``, and its field on all maps in the order of ``y``.

    ``settings`` are the mask and other options that were used for the fine field. Returns None as the field if no
    method accepts the grids.
    """
    axes = horizontal(comparison.coarse)
    coarse = comparison.coarse.drop_vars(horizontal_variables(comparison.coarse, axes))

    def compute(x: xr.DataArray, y: xr.DataArray, options: dict[str, Any]) -> xr.DataArray | None:
        try:
            with warnings.catch_warnings():
                # Warnings about the input are given elsewhere.
                warnings.simplefilter("ignore")
                ds = downscale(
                    coarse.assign({name: x}), target_grid=_fine_cells(comparison), data_vars=[name], check="skip",
                    **settings, **options,
                )  # fmt: skip
        except DownscaleError:
            return None
        return ds[name].transpose(*y.dims[:-2], *comparison.fine_axes.dims)  # type: ignore[index,no-any-return]

    first = {dim: [0] for dim in y.dims[:-2]}
    x_first, y_first = x.isel(first), y.isel(first)
    candidates: list[tuple[float, dict[str, Any]]] = []
    for options in _candidates(comparison.fine.attrs, variable_bounds(x, name, "auto") != (None, None)):
        prediction = compute(x_first, y_first, options)
        if prediction is not None:
            candidates.append((_distance(prediction, y_first), options))
    if not candidates:
        return "", None
    _, options = min(candidates, key=lambda candidate: candidate[0])
    return str(options["method"]), compute(x, y, options)


def _candidates(attrs: Any, has_bounds: bool) -> list[dict[str, Any]]:
    """Return the options of the methods that may have produced a file, its recorded settings first."""
    candidates: list[dict[str, Any]] = []
    match = SETTINGS.search(str(attrs.get("downscale_settings", "")))
    if match is not None and match["method"] in RECORDED_METHODS:
        options = {} if match["taps"] is None else {"taps": int(match["taps"]), "order": float(match["order"])}
        candidates.append({"method": match["method"], **options})
    candidates += [{"method": method} for method in METHODS if {"method": method} not in candidates]
    return candidates + ([{"method": "sobolev", "bounds": None}] if has_bounds else [])


def _fine_cells(comparison: Overlapping) -> xr.Dataset:
    """Return the cells of the fine grid without any fields."""
    fine, axes = comparison.fine, comparison.fine_axes
    names = [*axes.dims, *(bounds_name(fine, dim) for dim in axes.dims)]
    names += [] if axes.mapping is None else [axes.mapping.name]
    cells = fine[[name for name in names if name in fine.variables]]
    cells = cells.drop_vars([name for name in cells.coords if name not in names])
    if axes.mapping is not None and axes.mapping.name not in cells.variables:
        cells = cells.assign_coords({axes.mapping.name: ((), np.int32(0), dict(axes.mapping.attrs))})
    return cells.set_coords([str(name) for name in cells.data_vars])


def _distance(prediction: xr.DataArray, field: xr.DataArray) -> float:
    """Return the mean square difference of two fields over cells with values in both."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.asarray(prediction.values, np.float64) - np.asarray(field.values, np.float64)
    valid = np.isfinite(difference)
    return float(np.mean(difference[valid] ** 2)) if valid.any() else np.inf


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
    comparison = compare_fields(coarse, fine, mask=mask)
    if not isinstance(comparison, Nested):
        raise GridError("expected fine cells that are parts of coarse ones, received grids that do not nest; use check")
    names = common_variables(comparison)
    arrays: dict[str, xr.DataArray] = {}
    for name in names:
        variable_comparison = unify_units(comparison, name)
        assert isinstance(variable_comparison, Nested)
        arrays |= _cell_errors(variable_comparison, name)
    errors, fields = xr.Dataset(arrays), select(comparison.coarse, names)
    bounds = bounds_variables(fields)
    coords = {key: v for key, v in fields.coords.items() if set(v.dims) <= set(errors.dims) or key in bounds}
    return errors.assign_coords(coords)


def _cell_errors(comparison: Nested, name: str) -> dict[str, xr.DataArray]:
    """Return the absolute and relative errors of one variable."""
    x, y = align_fields(comparison, name)
    coarse = np.where(comparison.hidden | np.isinf(x.values), np.nan, np.asarray(x.values, np.float64))
    # If means along time were taken, magnitudes are those of the averaged values.
    sizes = None if comparison.sizes is None else comparison.sizes[name].transpose(*y.dims)
    coarse_area: Any = 1.0
    fine_area: Any = 1.0
    extensive = quantity_of(x) == "extensive"
    if extensive:
        coarse_area, fine_area = comparison.coarse_axes.grid.cell_area, comparison.fine_axes.grid.cell_area
    mean, size = np.empty(coarse.shape), np.empty(coarse.shape)
    for index in np.ndindex(coarse.shape[:-2]):
        values = np.asarray(y.data[index], np.float64) / fine_area
        # An infinite value gives an infinite error, as in the report.
        valid = ~np.isnan(values)
        cells = comparison.cells.apply_mask(None if valid.all() else valid)
        magnitude = np.abs(values) if sizes is None else np.asarray(sizes.data[index], np.float64) / fine_area
        weight = cells.valid_fraction * coarse_area if extensive else 1.0
        with np.errstate(invalid="ignore"):
            mean[index], size[index] = cells.mean(values) * weight, cells.mean(magnitude) * weight
    with np.errstate(invalid="ignore"):
        error = np.where(np.isnan(mean) & np.isinf(size), np.inf, mean - coarse)
        error = np.where(np.isnan(coarse), np.nan, error)
        scale = np.maximum(np.abs(coarse), size)
        relative = np.where(np.isinf(error), np.inf, np.abs(error) / np.where(scale > 0, scale, 1.0))
    words, units = str(x.attrs.get("long_name", name)), x.attrs.get("units", "")
    return {
        f"{name}_error": xr.DataArray(
            error, dims=x.dims, attrs={"long_name": f"mean of the fine cells minus {words}", "units": units}
        ),
        f"{name}_relative_error": xr.DataArray(
            relative, dims=x.dims, attrs={"long_name": f"relative error of the coarse cell, {words}", "units": "1"}
        ),
    }
