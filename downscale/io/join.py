"""Joining of several files into one Dataset, with checks of units, calendars, grids and dates.

Files with the same variables on the same grid form a series in time, in any order. Series of other variables or other
parts of a grid are then combined by their coordinates.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.dates import is_time, stamp, values_of
from downscale.cf.times import numbers_of, time_name
from downscale.cf.units import convert, same_units
from downscale.errors import InputError, listing

# Coordinates that differ by less than this fraction of a cell, or that float32 cannot distinguish, are the same.
COORDINATE_TOLERANCE = 1e-5
FLOAT32_TOLERANCE = 8 * float(np.finfo("f4").eps)
# Calendars with the same dates since 1582.
GREGORIAN = ("standard", "gregorian", "proleptic_gregorian")
ALIASES = {"365_day": "noleap", "366_day": "all_leap", **dict.fromkeys(GREGORIAN, "standard")}
# Origin of a series: files that differ in one of these are probably not one series.
ORIGIN = ("source_id", "member_id", "variant_label", "grid_label", "table_id", "model_id", "parent_experiment_rip")
# The highest instrument of a weather station, in metres.
MAST = 10.0
ADVICE = "choose other files, or rewrite one"
# Steps per comparison if files overlap.
STEPS_PER_COMPARISON = 16
# Steps of a regular series vary at most as months do; a step 1.5 times longer is a gap.
MONTHS_APART = 0.12
GAP_FACTOR = 1.5
Names = NDArray[Any]
# The distinct coordinates along each dimension, each with the first file that has it.
Coordinates = dict[str, list[tuple[NDArray[Any], str]]]


class JoinWarning(UserWarning):
    """Files of a series differ slightly; the message names the remedy applied."""


class DateWarning(UserWarning):
    """Dates of a record repeat, are not in order or have a gap."""


@dataclass
class Part:
    """A file to join: its name and its Dataset."""

    name: str
    ds: xr.Dataset


def join_parts(parts: list[Part]) -> xr.Dataset:
    """Return one Dataset from those of several files."""
    _require_one_calendar(parts)
    parts = _stack_times(parts)
    _warn_of_origins(parts)
    joined_parts = []
    for family in _families(parts):
        family = _with_common_variables(family)
        family = [Part(part.name, _in_units_of(family[0], part)) for part in family]
        coordinates: Coordinates = {}
        series: dict[tuple[Any, ...], list[Part]] = {}
        for part in family:
            key, ds = _place_on_grids(part, coordinates)
            series.setdefault(key, []).append(Part(part.name, ds))
        _require_tiles(coordinates)
        joined_parts += [Part(members[0].name, _join_series(members)) for members in series.values()]
    return joined_parts[0].ds if len(joined_parts) == 1 else _combine(joined_parts)


def series_dim(ds: xr.Dataset) -> str | None:
    """Return the dimension of dates, else the dimension ``time`` with its numbers, or None."""
    dates = [str(name) for name in ds.indexes if name in ds.dims and is_time(ds[name].variable)]
    main = time_name(ds)
    if main in dates:
        return main
    return dates[0] if dates else ("time" if "time" in ds.indexes and "time" in ds.dims else None)


def fields_along(ds: xr.Dataset, dim: str | None) -> list[str]:
    """Return the data variables that vary along a dimension; all of them if it is None."""
    return [str(name) for name, v in ds.data_vars.items() if dim is None or dim in v.dims]


# Dates


def _require_one_calendar(parts: list[Part]) -> None:
    """Raise an InputError if files have different calendars."""
    files_by_calendar: dict[str, str] = {}
    for part in parts:
        name = time_name(part.ds)
        if name is None:
            continue
        times = part.ds[name]
        calendar = str(times.dt.calendar if times.size else times.encoding.get("calendar", "standard"))
        files_by_calendar.setdefault(ALIASES.get(calendar, calendar), part.name)
        if len(files_by_calendar) > 1:
            (first_calendar, first), (second_calendar, second) = files_by_calendar.items()
            raise InputError(
                f"expected files of one calendar, received {first_calendar!r} in {first} and {second_calendar!r} in "
                f"{second}; convert one, for example with cdo setcalendar or xarray's convert_calendar"
            )


def _stack_times(parts: list[Part]) -> list[Part]:
    """Give files of one map with a scalar date the dimension of that date."""
    names = {time_name(part.ds) for part in parts}
    name = next(iter(names))
    if len(names) != 1 or name is None or any(part.ds[name].ndim for part in parts):
        return parts
    if len({values_of(part.ds[name].variable).item() for part in parts}) == 1:
        return parts
    stacked_parts = []
    for part in parts:
        maps = [str(n) for n, v in part.ds.data_vars.items() if v.ndim >= 2]
        without_dates, dated_maps = part.ds.drop_vars(name), part.ds[maps].expand_dims(name)
        ds = without_dates.assign({n: dated_maps[n].variable for n in maps}).assign_coords({name: dated_maps[name]})
        for key in (name, *maps):
            ds[key].attrs, ds[key].encoding = dict(part.ds[key].attrs), dict(part.ds[key].encoding)
        stacked_parts.append(Part(part.name, ds))
    return stacked_parts


# Variables and units


def _families(parts: list[Part]) -> list[list[Part]]:
    """Return the files in groups that share time-dependent variables."""
    families: list[tuple[set[str], list[Part]]] = []
    for part in parts:
        field_names = set(fields_along(part.ds, series_dim(part.ds)) or map(str, part.ds.data_vars))
        family = (field_names, [part])
        for other in [other for other in families if other[0] & field_names]:
            families.remove(other)
            family = (family[0] | other[0], [*other[1], *family[1]])
        families.append(family)
    order = [part.name for part in parts]
    groups = [sorted(group, key=lambda part: order.index(part.name)) for _, group in families]
    return sorted(groups, key=lambda group: order.index(group[0].name))


def _with_common_variables(parts: list[Part]) -> list[Part]:
    """Leave out, with a warning, time-dependent variables that only some files have."""
    names_by_part = [set(fields_along(part.ds, series_dim(part.ds))) for part in parts]
    common = set.intersection(*names_by_part)
    extra = sorted(set.union(*names_by_part) - common)
    if not extra:
        return parts
    files = {extra[0] in names: part.name for part, names in reversed(list(zip(parts, names_by_part, strict=True)))}
    lacks, has = files[False], files[True]
    if not common:
        raise InputError(
            f"expected files of the same variables, received {extra[0]!r} in {has} and not in {lacks}; {ADVICE}"
        )
    _warn(f"left out {listing(extra)}, which some files do not hold: {extra[0]!r} is in {has} and not in {lacks}")
    return [Part(part.name, part.ds.drop_vars(extra, errors="ignore")) for part in parts]


def _in_units_of(first: Part, part: Part) -> xr.Dataset:
    """Return a Dataset converted to the units of the first file."""
    if part is first:
        return part.ds
    ds = part.ds
    for name in [str(n) for n in ds.variables if n in first.ds.variables]:
        reference, variable = first.ds[name], ds[name]
        if variable.dtype.kind not in "fiu" or reference.dtype.kind not in "fiu":
            continue
        for key in ("standard_name", "positive"):
            reference_value, actual = reference.attrs.get(key), variable.attrs.get(key)
            if reference_value is not None and actual is not None and str(reference_value) != str(actual):
                raise InputError(
                    f"{name}: expected one {key} in all files, received {reference_value!r} in {first.name} and "
                    f"{actual!r} in {part.name}; {ADVICE}"
                )
        reference_units, units = reference.attrs.get("units"), variable.attrs.get("units")
        if str(reference_units) != str(units) and not _same_meaning(units, reference_units):
            assign = ds.assign_coords if name in ds.coords else ds.assign
            ds = assign({name: _convert_units(first, part, name)})
    return ds


def _same_meaning(units: Any, other: Any) -> bool:
    """Return whether units differ only in spelling; missing units are compatible with any."""
    plain = [None if text is None else str(text).strip() for text in (units, other)]
    return plain[0] == plain[1] or (None not in plain and same_units(str(plain[0]), str(plain[1])))


def _convert_units(first: Part, part: Part, name: str) -> xr.Variable:
    """Return a variable in the units of the first file, with a warning about the conversion."""
    units_of_first, units = first.ds[name].attrs.get("units"), part.ds[name].attrs.get("units")
    is_known = None not in (units, units_of_first)
    zero, one = (convert(v, str(units), str(units_of_first)) if is_known else None for v in (0.0, 1.0))
    if zero is None or one is None:
        raise InputError(
            f"{name}: expected one unit in all files, received {units_of_first!r} in {first.name} and {units!r} in "
            f"{part.name}; convert or correct one, for example with ncatted or cdo setunit"
        )
    _warn(f"{name}: converted from {units} in {part.name} to {units_of_first} as in {first.name}")
    variable = part.ds[name].variable
    kind = np.result_type(variable.dtype, np.float32)
    data = (variable.astype("f8") * (one - zero) + zero).astype(kind).data
    encoding = {key: value for key, value in variable.encoding.items() if key in ("source", "preferred_chunks")}
    return xr.Variable(variable.dims, data, {**variable.attrs, "units": units_of_first}, encoding)


def _warn_of_origins(parts: list[Part]) -> None:
    """Warn if files come from different models, members or tables."""
    for key in ORIGIN:
        files_by_origin: dict[str, str] = {}
        for part in parts:
            if key in part.ds.attrs:
                files_by_origin.setdefault(str(part.ds.attrs[key]), part.name)
        if len(files_by_origin) > 1:
            (first_origin, first), (second_origin, second) = list(files_by_origin.items())[:2]
            _warn(
                f"the global attribute {key!r} is {first_origin!r} in {first} and {second_origin!r} in {second}; check "
                "that they are one series"
            )


# Grids


def _place_on_grids(part: Part, coordinates: Coordinates) -> tuple[tuple[Any, ...], xr.Dataset]:
    """Return the position of a file in the grids, and its Dataset with the exact coordinates of the first such file."""
    dim, ds, key = series_dim(part.ds), part.ds, []
    for name in sorted(str(n) for n in ds.dims if n != dim):
        if name not in ds.indexes:
            key.append((name, ds.sizes[name]))
            continue
        values, entries = np.asarray(ds.indexes[name]), coordinates.setdefault(name, [])
        number = next(
            (i for i, (coordinate, _) in enumerate(entries) if _same_values(coordinate, values)), len(entries)
        )
        if number == len(entries):
            entries.append((values, part.name))
        key.append((name, number))
        if not np.array_equal(entries[number][0], values):
            encoding = dict(ds[name].encoding)
            ds = ds.assign_coords({name: (name, entries[number][0], ds[name].attrs)})
            ds[name].encoding = encoding
    return (tuple(key), tuple(sorted(fields_along(ds, dim)))), ds


def _same_values(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether coordinates are equal within rounding."""
    slack = 0.0
    if one.dtype.kind in "fiu" and other.dtype.kind in "fiu":
        one, other = one.astype("f8"), other.astype("f8")
        slack = _rounding(one)
    return one.shape == other.shape and bool(_equal_values(one, other, slack).all())


def _rounding(values: NDArray[np.float64]) -> float:
    """Return the tolerance of coordinates: a fraction of their step, or the precision of float32."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0
    largest = float(np.abs(finite).max())
    step = float(np.ptp(finite)) / max(max(values.shape, default=1) - 1, 1)
    # Always less than the distance of neighbours.
    return max(
        COORDINATE_TOLERANCE * step,
        min(FLOAT32_TOLERANCE * largest, step / 100 if step else FLOAT32_TOLERANCE * largest),
    )


def _require_tiles(coordinates: Coordinates) -> None:
    """Raise an InputError if coordinates of one dimension differ and yet overlap: different grids, not tiles."""
    for dim, entries in coordinates.items():
        for (one, first), (other, name) in itertools.combinations(entries, 2):
            # The ranges of single values, such as levels, never overlap.
            are_numbers = all(v.dtype.kind in "fiu" and v.size for v in (one, other))
            if are_numbers and one.size + other.size > 2 and max(one.min(), other.min()) <= min(one.max(), other.max()):
                ranges = [f"{v.size} values from {v[0]:.10g} to {v[-1]:.10g}" for v in (one, other)]
                raise InputError(
                    f"expected files of one grid, received {dim!r} of {ranges[0]} in {first} and of {ranges[1]} in "
                    f"{name}; {ADVICE}"
                )


# One series


def _join_series(parts: list[Part]) -> xr.Dataset:
    """Return files of one grid as one Dataset, in the order of their dates."""
    first = parts[0]
    dim = series_dim(first.ds)
    if len(parts) == 1:
        return first.ds
    parts, varying = _compare_coordinates(parts, dim)
    if dim is None:
        names = listing(fields_along(first.ds, None))
        if not all(xr.Dataset(part.ds.data_vars).equals(xr.Dataset(first.ds.data_vars)) for part in parts):
            raise InputError(
                f"expected files that follow each other in time, received {names} without a date in {parts[0].name} "
                f"and {parts[1].name}; give the files one after the other, or add dates"
            )
        _warn(f"{names} is the same in {parts[0].name} and {parts[1].name}; it is read once")
        return first.ds
    # The packing step of each field; zero if it is not packed.
    packing_steps = {name: max(abs(float(part.ds[name].encoding.get("scale_factor") or 0)) for part in parts)
              for name in fields_along(first.ds, dim)}  # fmt: skip
    datasets = [part.ds.assign_coords({n: (dim, [v] * part.ds.sizes[dim]) for n, v in dates.items()})
             for part, dates in zip(parts, varying, strict=True)]  # fmt: skip
    owners = np.repeat(np.array([part.name for part in parts], dtype=object), [ds.sizes[dim] for ds in datasets])
    series = xr.concat(
        datasets, dim=dim, data_vars="minimal", coords="minimal", compat="override", join="override",
        combine_attrs="override",
    )  # fmt: skip
    for name, variable in series.variables.items():
        variable.encoding = dict(first.ds.variables[name].encoding) if name in first.ds.variables else {}
    series, owners = sort_dates(series, dim, owners, packing_steps)
    report_gaps(series, dim, owners)
    return series


def _compare_coordinates(parts: list[Part], dim: str | None) -> tuple[list[Part], list[dict[str, Any]]]:
    """Return the files without coordinates that may differ, and the scalar dates to put along the dimension."""
    first = parts[0]
    scalar_dates: list[dict[str, Any]] = [{} for _ in parts]
    messages_by_name: dict[str, str] = {}
    for name, reference in first.ds.variables.items():
        moves = name in first.ds.data_vars if dim is None else dim in reference.dims
        if moves or name in first.ds.indexes:
            continue
        has_warned = False
        for part in parts[1:]:
            if name not in part.ds.variables:
                continue
            variable = part.ds.variables[name]
            if reference.shape == variable.shape and _same_variable(reference, variable):
                continue
            if reference.ndim == 0 and is_time(reference) and is_time(variable) and dim is not None:
                for number, member in enumerate(parts):
                    if name in member.ds.variables:
                        scalar_dates[number][str(name)] = member.ds[name].values
                break
            if reference.ndim == 0 and reference.dtype.kind in "OUS":
                messages_by_name[str(name)] = (
                    f"left out the coordinate {name!r}, which is {reference.values.item()!r} in {first.name} and "
                    f"{variable.values.item()!r} in {part.name}"
                )
                break
            _refuse_or_warn(first, part, str(name), has_warned)
            has_warned = True
    for message in messages_by_name.values():
        _warn(message)
    incomplete = [n for n in scalar_dates[0] if any(n not in dates for dates in scalar_dates)]
    scalar_dates = [{n: v for n, v in dates.items() if n not in incomplete} for dates in scalar_dates]
    names = [*messages_by_name, *incomplete]
    return [Part(part.name, part.ds.drop_vars(names, errors="ignore")) for part in parts], scalar_dates


def _same_variable(first: xr.Variable, second: xr.Variable) -> bool:
    """Return whether two time-independent variables are equal within rounding."""
    if "grid_mapping_name" in first.attrs and "grid_mapping_name" in second.attrs:
        return _same_mapping(first.attrs, second.attrs)
    return _same_values(values_of(first), values_of(second))


def _same_mapping(first: Mapping[Any, Any], second: Mapping[Any, Any]) -> bool:
    """Return whether the common parameters of two grid mappings agree."""
    for key in set(first) & set(second) - {"crs_wkt", "spatial_ref", "long_name", "comment", "proj4", "proj4text"}:
        try:
            is_equal = np.allclose(np.asarray(first[key], "f8"), np.asarray(second[key], "f8"), rtol=1e-9, atol=1e-9)
        except (TypeError, ValueError):
            is_equal = str(first[key]) == str(second[key])
        if not is_equal:
            return False
    return True


def _refuse_or_warn(first: Part, part: Part, name: str, has_warned: bool) -> None:
    """Raise an InputError if positions differ; warn if a time-independent field does."""
    reference, variable = first.ds[name], part.ds[name]
    if name in first.ds.coords or "grid_mapping_name" in reference.attrs:
        if reference.ndim or variable.ndim or "grid_mapping_name" in reference.attrs:
            description = "grid mapping" if "grid_mapping_name" in reference.attrs else repr(name)
            message = f"received another {description} in {part.name} than in {first.name}"
            raise InputError(f"expected files of one grid, {message}; {ADVICE}")
        units = str(reference.attrs.get("units", ""))
        reference_text, text = (f"{field_.values.item()!s} {units}".strip() for field_ in (reference, variable))
        values_by_file = f"{reference_text} in {first.name} and {text} in {part.name}"
        if not _near_ground(reference, variable):
            raise InputError(
                f"{name}: expected one value in all files, received {values_by_file}; choose the files of one"
            )
        message = f"{name} is {values_by_file}; the result is labelled {reference_text}"
    elif reference.shape != variable.shape:
        shapes = f"{reference.shape} in {first.name} and {variable.shape} in {part.name}"
        raise InputError(f"{name}: expected one shape in all files, received {shapes}; {ADVICE}")
    else:
        message = f"{name} differs between {first.name} and {part.name}; that of {first.name} is read"
    if not has_warned:
        _warn(message)


def _near_ground(*heights: xr.DataArray) -> bool:
    """Return whether these are heights of screens and masts, which differ between versions of a model."""
    return all("height" in (height.name, height.attrs.get("standard_name")) and height.attrs.get("units", "m") == "m"
               and 0 < float(height) <= MAST for height in heights)  # fmt: skip


def _combine(series: list[Part]) -> xr.Dataset:
    """Return series of different variables, levels or parts of a grid as one Dataset."""
    options: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "exact"}
    try:
        return cast(xr.Dataset, xr.combine_by_coords([part.ds for part in series], combine_attrs="override", **options))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"expected files of one grid and one period, received {series[0].name} and {series[1].name}, which do not "
            f"fit ({reason[:160]}); {ADVICE}"
        ) from None


def _warn(message: str, kind: type[Warning] = JoinWarning) -> None:
    warnings.warn(message, kind, stacklevel=2)


def sort_dates(
    ds: xr.Dataset, dim: str, owners: Names, packing_steps: Mapping[str, float] | None = None
) -> tuple[xr.Dataset, Names]:  # fmt: skip
    """Return a record with unique, monotonic dates, and the file of each step."""
    index = ds.indexes[dim]
    if index.is_unique and (index.is_monotonic_increasing or index.is_monotonic_decreasing):
        return ds, owners
    order = np.argsort(np.asarray(index), kind="stable")
    has_several_files = len(set(owners)) > 1
    if not index.is_monotonic_increasing:
        if not has_several_files:
            _warn(f"{dim!r} is not in order in {owners[0]}; its steps are sorted", DateWarning)
        ds, owners = ds.isel({dim: order}), owners[order]
        index = ds.indexes[dim]
    if index.is_unique:
        return ds, owners
    repeats = np.flatnonzero(index.duplicated(keep="first"))
    unique_steps = np.flatnonzero(~index.duplicated(keep="first"))
    originals = unique_steps[np.searchsorted(unique_steps, repeats, side="right") - 1]
    _require_equal(ds, dim, (originals, repeats), owners, packing_steps or {})
    date = _date_text(index[repeats[0]])
    description = _describe_files(owners[originals[0]], owners[repeats[0]])
    more = f" ({repeats.size} dates in all)" if repeats.size > 1 else ""
    _warn(f"{date} is {description} with equal values; it is read once{more}", DateWarning)
    return ds.isel({dim: unique_steps}), owners[unique_steps]


def _require_equal(
    ds: xr.Dataset, dim: str, pairs: tuple[NDArray[Any], NDArray[Any]], owners: Names,
    packing_steps: Mapping[str, float],
) -> None:  # fmt: skip
    """Raise an InputError if two steps of the same date hold different values."""
    for name in [str(n) for n, v in ds.data_vars.items() if dim in v.dims]:
        field = ds[name].variable
        for begin in range(0, pairs[0].size, STEPS_PER_COMPARISON):
            first_steps, second_steps = (pair[begin : begin + STEPS_PER_COMPARISON] for pair in pairs)
            a, b = (values_of(field.isel({dim: places})) for places in (first_steps, second_steps))
            is_equal = _equal_values(a, b, packing_steps.get(name, 0.0))
            if is_equal.all():
                continue
            axes = tuple(axis for axis in range(is_equal.ndim) if field.dims[axis] != dim)
            step = int(np.flatnonzero(~is_equal.all(axis=axes))[0])
            description = _describe_files(owners[first_steps[step]], owners[second_steps[step]])
            raise InputError(
                f"expected one map for each date, received {_date_text(ds.indexes[dim][first_steps[step]])} "
                f"{description} with different values of {name!r}; choose one file for it, or cut the other with ncks "
                f"-d {dim} or ds.sel"
            )


def _equal_values(a: NDArray[Any], b: NDArray[Any], step: float) -> NDArray[Any]:
    if a.dtype.kind not in "fiu" or b.dtype.kind not in "fiu":
        return np.asarray(a == b)
    with np.errstate(invalid="ignore"):
        return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= step))


def report_gaps(ds: xr.Dataset, dim: str, owners: Names) -> None:
    """Warn if dates are missing from an otherwise regular series, perhaps because of a missing file."""
    if not is_time(ds[dim].variable) or ds.sizes[dim] < 4:
        return
    days = np.abs(np.diff(numbers_of(ds[dim].variable)))
    median_days = float(np.median(days))
    gaps = np.flatnonzero(days > GAP_FACTOR * median_days)
    regular_days = days[days <= GAP_FACTOR * median_days]
    if not gaps.size or median_days <= 0 or (np.abs(regular_days - median_days) > MONTHS_APART * median_days).any():
        return
    first = int(gaps[0])
    before, after = (f"{_date_text(ds.indexes[dim][step])} ({owners[step]})" for step in (first, first + 1))
    more = f", and {gaps.size - 1} more gaps" if gaps.size > 1 else ""
    missing = round(float(days[first]) / median_days) - 1
    _warn(
        f"no dates between {before} and {after}, where about {missing} steps would be{more}; check that no file is "
        "missing", DateWarning,
    )  # fmt: skip


def _describe_files(one: str, other: str) -> str:
    return f"twice in {one}" if one == other else f"in both {one} and {other}"


def _date_text(date: Any) -> str:
    """Return a date as text, without the time if it is midnight."""
    try:
        return stamp(getattr(date, "to_datetime64", lambda: date)()).removesuffix("T00:00:00Z")
    except (TypeError, ValueError):
        return str(date)
