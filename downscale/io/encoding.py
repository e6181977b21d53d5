"""Encodings of variables in files: CF attributes, chunks, compression and packing.

Packing stores fewer bits per value, as short integers or with rounded mantissas. Both change values, so the file is
checked as stored. Rounding to ``n`` bits of the mantissa changes a value by at most ``2**-(n + 1)`` of itself; short
integers change all values of a variable by at most half a step.

References
----------
Zender (2016), Geoscientific Model Development; Kloewer, Razinger, Dominguez, Dueben and Palmer (2021), Nature
Computational Science.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.attributes import REFERENCE_ATTRS, names_in, references, remove_references
from downscale.cf.bounds import plain_bounds
from downscale.cf.coordinates import complete_metadata
from downscale.cf.dates import is_time
from downscale.cf.kinds import is_categorical
from downscale.cf.times import time_encodings
from downscale.errors import InputError, OptionError, OutputError, listing
from downscale.io.chunks import chunk_sizes
from downscale.process.computing import compute

CONVENTIONS = "CF-1.11"
REPORT_ATTR = "conservation_certificate"
# Missing values as CMIP stores them.
FILL_VALUE = 1e20
# Encodings and attributes that describe other values or another file.
VALUE_ENCODINGS = ("_FillValue", "missing_value", "_Unsigned", "scale_factor", "add_offset")
RANGES = ("valid_min", "valid_max", "valid_range", "actual_range")
REPORT_ATTRS = ("conservation", "packing")
# Marks an encoding whose values are exact multiples of its scale: packing does not change them.
WHOLE_STEPS = "whole_steps"
FLAGS = ("flag_values", "flag_masks", "valid_min", "valid_max", "valid_range", "actual_range")
LEGAL = ("chunksizes", "complevel", "dtype", "fletcher32", "shuffle", "zlib")
PACKED = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units", "calendar")
AXES = {
    "time": "T", "latitude": "Y", "longitude": "X", "grid_latitude": "Y", "grid_longitude": "X",
    "projection_y_coordinate": "Y", "projection_x_coordinate": "X",
}  # fmt: skip
COORDINATES = ("latitude", "longitude", "projection_x_coordinate", "projection_y_coordinate")
Encodings = dict[str, dict[str, Any]]
SHORT = "int16"
# The lowest short integer marks missing values; a few more are reserved for rounding at both ends.
FILL = -(2**15)
CODES = 65_530
MANTISSA = {4: 23, 8: 52}
Packing = str | int


def make_cf_compliant(ds: xr.Dataset) -> xr.Dataset:
    """Return a copy that meets CF on disk: bounds and areas as plain variables, and the conventions attribute."""
    compliant = ds.copy()
    coordinate_names: set[str] = set()
    for name in compliant.variables:
        variable = compliant[name]
        for key in REFERENCE_ATTRS:
            # xarray moves references to encodings on decoding.
            value = variable.encoding.pop(key, None)
            if isinstance(value, str):
                variable.attrs.setdefault(key, value)
        coordinate_names.update(names_in("coordinates", variable.attrs.pop("coordinates", None)))
        # Names of missing variables cause warnings in readers and errors in checkers.
        references_to = {name for names in references(variable).values() for name in names}
        remove_references(variable, references_to - {str(name) for name in compliant.variables})
        variable.attrs = _valid_attributes(str(name), variable)
    if "time" in compliant.indexes and is_time(compliant["time"].variable):
        compliant["time"].attrs.setdefault("standard_name", "time")
    for name in [name for name in compliant.indexes if name in compliant.dims]:
        axis = AXES.get(str(compliant[name].attrs.get("standard_name")))
        if axis is not None:
            compliant[name].attrs.setdefault("axis", axis)
    # A file opened without decoding names its auxiliary coordinates only in attributes.
    compliant = compliant.set_coords(coordinate_names & {str(name) for name in compliant.data_vars})
    auxiliary = [
        n
        for n in _find_references(compliant)
        if n in compliant.coords and n not in compliant.dims and not _is_coordinate(compliant, n)
    ]
    compliant = compliant.reset_coords(auxiliary)
    for name in [str(name) for name in compliant.variables if "bounds" in compliant[name].attrs]:
        bounds = plain_bounds(compliant, name)
        if bounds is not None:
            bounds_name = compliant[name].attrs["bounds"]
            bounds.attrs = dict(compliant[bounds_name].attrs)
            compliant[bounds_name] = bounds
    bounds_names = _bounds(compliant)
    for name in bounds_names:
        # Bounds inherit the attributes of the coordinate; own attributes could contradict them.
        compliant[name].attrs = {
            key: compliant[name].attrs[key] for key in ("formula_terms",) if key in compliant[name].attrs
        }
    complete_metadata(compliant, set(bounds_names))
    compliant.attrs = {str(key): plain_attribute(value) for key, value in compliant.attrs.items() if value is not None}
    compliant.attrs["Conventions"] = CONVENTIONS
    # External variables are not in the file itself.
    words = str(compliant.attrs.pop("external_variables", "")).split()
    external = [word for word in words if word not in compliant.variables]
    if external:
        compliant.attrs["external_variables"] = " ".join(external)
    for key_to_drop in ("coordinates", REPORT_ATTR):
        compliant.attrs.pop(key_to_drop, None)
    compliant.encoding.pop("coordinates", None)
    return compliant


def order_areas_first(ds: xr.Dataset) -> xr.Dataset:
    """Return the Dataset with cell areas before their fields.

    CDO takes a variable with ``coordinates`` for a field, and warns unless a later field names it as its areas; CF
    requires ``coordinates`` of areas on two-dimensional positions.
    """
    areas = _areas(ds)
    return ds[sorted(ds.variables, key=lambda name: name not in areas)] if areas else ds


def _valid_attributes(name: str, variable: xr.DataArray) -> dict[str, Any]:
    """Return the attributes of a variable that are valid in a new file."""
    attrs = dict(variable.attrs)
    packing = np.ravel(attrs.get("scale_factor", 1)), np.ravel(attrs.get("add_offset", 0))
    if (packing[0] != 1).any() or (packing[1] != 0).any():
        raise InputError(
            f"{name}: expected decoded values, received scale_factor {attrs.get('scale_factor', 1)} and add_offset "
            f"{attrs.get('add_offset', 0)} among the attributes; open the file with mask_and_scale=True"
        )
    invalid_keys = (*VALUE_ENCODINGS, *REPORT_ATTRS, *(RANGES if variable.dtype.kind not in "iu" else ()))
    attrs = {
        str(key): plain_attribute(value)
        for key, value in attrs.items()
        if key not in invalid_keys and value is not None
    }
    if str(attrs.get("standard_name")) == "realization":
        attrs.setdefault("units", "1")
    for key in [key for key in FLAGS if key in attrs]:
        # Codes get the stored type of the variable, whatever their type in the input.
        stored_type = _whole_numbers(variable.variable).get("dtype", variable.dtype)
        kind = np.dtype("i1") if variable.dtype.kind == "b" else stored_type
        if np.dtype(kind).kind in "iuf":
            with suppress(ValueError, OverflowError):  # values that are not numbers are kept
                attrs[key] = np.asarray(attrs[key], dtype=kind)
    return attrs


def plain_attribute(value: Any) -> Any:
    """Return an attribute that NetCDF can store: numbers and strings unchanged, others as text."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        return list(value)
    if not isinstance(value, int | float | np.number | np.ndarray | list | tuple):
        return str(value)
    try:
        array = np.asarray(value)
    except ValueError:  # ragged lists
        return str(value)
    if array.dtype.kind in "US" or (array.dtype.kind == "O" and all(isinstance(v, str) for v in array.flat)):
        return [str(v) for v in array.flat] if array.size else ""
    if array.dtype.kind not in "fiub" or array.ndim > 1 or array.size == 0:
        return str(array.tolist()) if array.size else ""
    kind = {"b": "i1", "f": "f4" if array.itemsize < 4 else "f8"}.get(array.dtype.kind)
    numbers = array.astype(kind) if kind is not None and array.dtype not in ("f4", "f8") else array
    return numbers if array.ndim else value if isinstance(value, int | float) else numbers[()]


def _find_references(ds: xr.Dataset, *keys: str) -> set[str]:
    """Return names that attributes of other variables refer to; all attributes but ``coordinates`` by default."""
    targets: set[str] = set()
    for variable in ds.variables.values():
        for key, names in references(variable, ds.variables).items():
            targets.update(names if (key in keys if keys else key != "coordinates") else ())
    return {name for name in targets if name in ds.variables}


def _bounds(ds: xr.Dataset) -> list[str]:
    return sorted(_find_references(ds, "bounds", "climatology"))


def _areas(ds: xr.Dataset) -> set[str]:
    return _find_references(ds, "cell_measures")


def auxiliary_variables(ds: xr.Dataset) -> set[str]:
    """Return names of auxiliary variables: bounds, cell areas, grid mappings, terms of formulas.

    Fields that others refer to, such as the surface pressure of hybrid levels, remain fields.
    """
    areas = _areas(ds)
    names = _find_references(ds, "bounds", "climatology", "cell_measures", "grid_mapping", "formula_terms")
    fields = {name for name in names - areas if "cell_measures" in ds[name].attrs}
    # The extended form of grid_mapping names coordinates too, which remain coordinates.
    return {name for name in names - fields if name in areas or not _is_coordinate(ds, name)}


def _is_coordinate(ds: xr.Dataset, name: str) -> bool:
    standard = str(ds[name].attrs.get("standard_name", ""))
    return name in ds.dims or standard in COORDINATES


def fields_of(ds: xr.Dataset) -> list[str]:
    """Return the names of the fields of a Dataset in CF form: floats that are not auxiliary variables."""
    auxiliary = auxiliary_variables(ds)
    return [str(n) for n, v in ds.data_vars.items() if v.dtype.kind == "f" and n not in auxiliary and v.ndim]


def encodings(ds: xr.Dataset, complevel: int) -> Encodings:
    """Return the encoding of every variable of ``ds``; fields are shuffled and deflated in chunks of whole maps.

    Encodings of ``ds`` itself are cleared; only units, calendar and type of times are inherited.
    """
    auxiliary = auxiliary_variables(ds)
    encodings_by_name: Encodings = {}
    times = time_encodings(ds)
    for name, variable in ds.variables.items():
        encoding = times.get(str(name), {})
        if variable.dtype.kind == "m":
            encoding = {"dtype": "float64", **{k: variable.encoding[k] for k in ("units",) if k in variable.encoding}}
        plain = name in ds.coords or str(name) in auxiliary or variable.dtype.kind not in "f"
        encoding["_FillValue"] = None if plain else np.dtype(variable.dtype).type(FILL_VALUE)
        if not plain:
            encoding.update(_whole_numbers(variable))
        if variable.ndim >= 2 and variable.dtype.kind in "fiu" and variable.size > 1000:
            deflate = complevel > 0
            sizes = chunk_sizes(variable.shape, variable.chunks)
            encoding.update(zlib=deflate, complevel=complevel, shuffle=deflate, chunksizes=sizes)
        encodings_by_name[str(name)] = encoding
    areas = _areas(ds)
    for key in ds.variables:
        # A scalar coordinate belongs to the fields; None prevents xarray from adding it to bounds and areas.
        name, words = str(key), None
        if name in areas:
            # Otherwise cell areas are not georeferenced.
            planes = [str(n) for n, c in ds.coords.items() if c.ndim == 2 and set(c.dims) <= set(ds[name].dims)]
            words = " ".join(plane for plane in planes if _is_coordinate(ds, plane)) or None
        elif name in ds.data_vars and name not in auxiliary:
            words = _auxiliary_coordinates(ds, name)
        ds[name].encoding = {"coordinates": words} if words or name in auxiliary else {}
    return encodings_by_name


def _auxiliary_coordinates(ds: xr.Dataset, name: str) -> str | None:
    """Return the auxiliary coordinates of a field on a plane, positions first: some readers use only the first few."""
    names = {str(n) for n in ds[name].coords if n not in ds[name].dims and n in ds.coords}
    positions = [n for n in sorted(names) if _is_coordinate(ds, n) and ds[n].ndim == 2]
    return " ".join([*positions, *sorted(names - set(positions))]) if positions else None


def _whole_numbers(variable: xr.Variable) -> dict[str, Any]:
    """Return type and fill value of codes that were integers in the input; empty for fields."""
    if variable.encoding.get(WHOLE_STEPS):
        return {key: variable.encoding[key] for key in ("dtype", "scale_factor", "_FillValue")}
    kind = np.dtype(variable.encoding.get("dtype", variable.dtype))
    fill = variable.encoding.get("_FillValue", variable.encoding.get("missing_value"))
    if kind.kind not in "iu" or fill is None or not is_categorical(xr.DataArray(variable)):
        return {}
    return {"dtype": kind, "_FillValue": kind.type(fill)}


def merge_encodings(
    encodings_by_name: Encodings, ds: xr.Dataset, overrides: Mapping[str, Mapping[str, Any]] | None
) -> Encodings:
    """Return encodings overridden by those of the user."""
    for name, encoding in (overrides or {}).items():
        if name not in encodings_by_name:
            raise OptionError(f"expected encoding of a variable among {listing(encodings_by_name)}, received {name!r}")
        _require_legal(name, encoding, ds[name])
        level = encoding.get("complevel")
        deflate = {} if level is None else {"zlib": level > 0, "shuffle": level > 0}
        encodings_by_name[name] = {**encodings_by_name[name], **deflate, **encoding}
    return encodings_by_name


def _require_legal(name: str, encoding: Mapping[str, Any], variable: xr.DataArray) -> None:
    packing_keys = [key for key in encoding if key in PACKED]
    if packing_keys:
        raise OptionError(
            f"encoding of {name!r}: expected no {listing(packing_keys)}, which change or relabel values; "
            f"pass packing={{{name!r}: 'int16'}} to pack them"
        )
    unknown = [key for key in encoding if key not in LEGAL]
    if unknown:
        raise OptionError(f"encoding of {name!r}: expected keys among {listing(LEGAL)}, received {listing(unknown)}")
    if "dtype" in encoding and variable.dtype.kind == "f" and np.dtype(encoding["dtype"]).kind != "f":
        raise OptionError(
            f"encoding of {name!r}: expected a floating-point dtype, received {encoding['dtype']!r}; "
            f"pass packing={{{name!r}: 'int16'}} to pack values"
        )
    if "complevel" in encoding:
        require_level(encoding["complevel"])
    sizes = encoding.get("chunksizes")
    lengths = tuple(sizes) if isinstance(sizes, Iterable) else ()
    pairs = zip(lengths, variable.shape, strict=False)
    if sizes is not None and not (len(lengths) == variable.ndim and all(1 <= n <= most for n, most in pairs)):
        raise OptionError(
            f"encoding of {name!r}: expected chunksizes from 1 to {variable.shape}, one for each dimension, "
            f"received {sizes!r}"
        )


def require_level(level: Any) -> None:
    """Raise an OptionError unless the value is a deflate level."""
    if level not in range(10):
        raise OptionError(f"expected complevel from 0 to 9, received {level!r}")


def parse_packing(packing: Any, names: list[str], ds: xr.Dataset) -> dict[str, Packing]:
    """Return the packing of each variable: "int16", or the number of mantissa bits to keep."""
    if packing is None:
        return {}
    packings = dict(packing) if isinstance(packing, Mapping) else dict.fromkeys(names, packing)
    for name, packing_of_field in packings.items():
        if name not in names:
            raise OptionError(f"expected packing of a field among {listing(names)}, received {name!r}")
        most = MANTISSA[ds[name].dtype.itemsize]
        is_count = (
            isinstance(packing_of_field, int | np.integer)
            and not isinstance(packing_of_field, bool)
            and 1 <= packing_of_field <= most
        )
        if packing_of_field is not None and packing_of_field != SHORT and not is_count:
            raise OptionError(
                f"{name}: expected packing to be None, 'int16' or the mantissa bits to keep (1 to {most}), received "
                f"{packing_of_field!r}"
            )
    return {str(name): packing_of_field for name, packing_of_field in packings.items() if packing_of_field is not None}


def round_fields(ds: xr.Dataset, packings: Mapping[str, Packing]) -> xr.Dataset:
    """Return ``ds`` with the mantissas of some variables rounded; lazy fields stay lazy."""
    rounded_fields = {}
    for name, packing in packings.items():
        if packing != SHORT:
            v, bits = ds[name].variable, int(packing)
            lazy = isinstance(v.data, da.Array)
            data = v.data.map_blocks(round_bits, bits, dtype=v.dtype) if lazy else round_bits(np.asarray(v.data), bits)
            rounded_fields[name] = (v.dims, data, v.attrs, v.encoding)
    return ds.assign(rounded_fields)


def round_bits(values: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Round floats to the nearest value with ``bits`` mantissa bits, ties to even; the sign and zero are kept."""
    values = np.ascontiguousarray(values)
    drop = MANTISSA[values.dtype.itemsize] - bits
    if drop <= 0:
        return values
    kind = np.dtype(f"u{values.dtype.itemsize}").type
    codes = values.view(kind)
    # Add half a step, less one unit if the last kept bit is even: ties go to even.
    half_step = kind((1 << (drop - 1)) - 1) + ((codes >> kind(drop)) & kind(1))
    rounded_values = ((codes + half_step) & ~kind((1 << drop) - 1)).view(values.dtype)
    # NaN and infinity are not rounded, and the largest numbers must not become infinite.
    return np.where(np.isfinite(values) & np.isfinite(rounded_values), rounded_values, values)


def short_encodings(ds: xr.Dataset, packings: Mapping[str, Packing]) -> dict[str, dict[str, Any]]:
    """Return the encodings of the variables to be packed as short integers.

    The step is a power of two and the offset a multiple of it. Zero, and any bound that is such a multiple, is
    therefore exact in float32 and in float64. Lazy fields are computed once for their range.
    """
    names = [name for name, packing in packings.items() if packing == SHORT]
    ends = compute(*[(_extreme_value(ds[name], np.fmin), _extreme_value(ds[name], np.fmax)) for name in names])
    encodings_by_name = {}
    for name, (low, high) in zip(names, ends, strict=True):
        if math.isinf(low) or math.isinf(high):
            raise OutputError(
                f"{name}: expected finite values to pack, received {low:g} to {high:g}; leave out packing"
            )
        scale, offset = scale_and_offset(float(low), float(high))
        kind = ds[name].dtype.type
        short_encoding = {"dtype": SHORT, "_FillValue": np.int16(FILL)}
        encodings_by_name[name] = {**short_encoding, "scale_factor": kind(scale), "add_offset": kind(offset)}
    return encodings_by_name


def _extreme_value(field: xr.DataArray, extreme: Any) -> Any:
    """Return the smallest or largest value, NaN if there is none; lazy if the field is."""
    data = field.data
    if not isinstance(data, da.Array):
        return extreme.reduce(np.asarray(data), axis=None) if data.size else np.nan

    def ends(block: np.ndarray[Any, Any], axis: Any, keepdims: bool) -> Any:
        return extreme.reduce(block, axis=axis, keepdims=keepdims)

    return da.reduction(data, ends, ends, dtype=data.dtype) if data.size else np.nan


def scale_and_offset(low: float, high: float) -> tuple[float, float]:
    """Return the step, a power of two, and the offset, a multiple of it, that pack a range into short integers."""
    if math.isnan(low):
        return 1.0, 0.0
    width = high - low
    # The unit in the last place of a constant (float32).
    unit = 2.0 ** (math.frexp(low)[1] - 24) if low else 1.0
    scale = 2.0 ** math.ceil(math.log2(width / CODES)) if width > 0 else unit
    return scale, scale * round((low + high) / 2 / scale)


def enough_bits(tolerance: float, packing: Packing, error: float) -> int | None:
    """Return the fewest mantissa bits that conserve to ``tolerance``: by the bound, or by the measured error."""
    bits_by_bound = math.ceil(-math.log2(tolerance)) - 1
    bits_by_error = (
        bits_by_bound if packing == SHORT else int(packing) + math.ceil(math.log2(max(error / tolerance, 1)))
    )
    bits = max(min(bits_by_bound, bits_by_error), 1)
    return bits if bits < MANTISSA[8] else None


def packing_words(packing: Packing) -> str:
    """Return a description of the packing of a variable, for its attributes."""
    if packing == SHORT:
        return "short integers over the range of values"
    return f"{packing} mantissa bits kept, rounded to nearest even"
