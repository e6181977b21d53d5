"""Global attributes of a file: discovery attributes by ACDD, and those of an archive.

Attributes that follow from the result are computed, attributes of the author are kept. Those that describe only the
input are dropped: its extent, its creation dates, its identifier.

The archive "cordex-esd" is the draft for empirical-statistical downscaling in CORDEX-CMIP6 (second version, April
2024). It builds on the CORDEX-CMIP6 archiving specifications for dynamical downscaling, from which it takes the
attributes required of every file. Set here:

- fixed by the archive: Conventions, activity_id, license, mip_era, product, project_id;
- found in the file: creation_date, frequency, grid, source, tracking_id, variable_id;
- from the attributes of a CMIP6 input: driving_experiment, driving_experiment_id, driving_institution_id,
  driving_source_id, driving_variant_label;
- for the training-free methods: esd_method, esd_method_id, training, training_id, source_type (ESD-MOS: the predictor
  is the variable itself);
- source_id (esd_method_id-training_id) and version_realization (v1-r1).

All may be set by the user; the others in ``REQUIRED`` must be: they name people, places and a domain.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.bounds import read_bounds
from downscale.cf.dates import stamp, values_of
from downscale.cf.times import cmip_frequency, iso_duration, iso_resolution, step_lengths, time_name, time_span
from downscale.errors import GridError, OptionError, OutputError, listing
from downscale.io.encoding import CONVENTIONS, FILL_VALUE, Encodings, fields_of

ACDD = "ACDD-1.3"
STALE = (
    "tracking_id", "creation_date", "date_created", "date_modified", "date_issued", "date_metadata_modified",
    "nominal_resolution", "grid_label", "id", "uuid",
)  # fmt: skip
EXTENT = re.compile(r"geospatial_(lat|lon|bounds).*|time_coverage_.*")
UNITS = {"lat": "degrees_north", "lon": "degrees_east"}
STANDARD = {"lat": "latitude", "lon": "longitude"}
# Longitudes of a whole circle leave no gap wider than a coarse cell.
WIDEST_CELL = 30.0
CIRCLE = 360.0
CORDEX_ESD = "cordex-esd"
PROFILES = (CORDEX_ESD,)
REQUIRED = (
    "activity_id", "contact", "Conventions", "creation_date", "domain", "domain_id", "driving_experiment",
    "driving_experiment_id", "driving_institution_id", "driving_source_id", "driving_variant_label", "esd_method",
    "esd_method_id", "frequency", "grid", "institution", "institution_id", "license", "mip_era", "product",
    "project_id", "source", "source_id", "source_type", "tracking_id", "training", "training_id", "variable_id",
    "version_realization",
)  # fmt: skip
# Attributes of the parent that must be set anew, or have another meaning here.
PARENTS = (
    "contact", "institution", "institution_id", "source", "source_id", "source_type", "product", "license", "grid"
)  # fmt: skip
FIXED = {
    "activity_id": "ESD",
    "Conventions": CONVENTIONS,
    "license": "https://cordex.org/data-access/cordex-cmip6-data/cordex-cmip6-terms-of-use",
    "mip_era": "CMIP6",
    "product": "model-output",
    "project_id": "CORDEX-CMIP6",
    "version_realization": "v1-r1",
}
# Namespaces of the identifiers that the archive requires.
HANDLE = "hdl:21.14103"
DRIVERS = {
    "driving_experiment": "experiment", "driving_experiment_id": "experiment_id",
    "driving_institution_id": "institution_id", "driving_source_id": "source_id",
    "driving_variant_label": "variant_label",
}  # fmt: skip
TRAINING_FREE = ("sobolev", "conservative", "bilinear", "bicubic")
NAME = (
    "variable_id", "domain_id", "driving_source_id", "driving_experiment_id", "driving_variant_label", "institution_id",
    "source_id", "version_realization", "frequency",
)  # fmt: skip


def file_attributes(ds: xr.Dataset) -> dict[str, Any]:
    """Return the global attributes of a file: the valid ones of ``ds``, and computed ones."""
    attrs = {key: value for key, value in ds.attrs.items() if key not in STALE and not EXTENT.fullmatch(str(key))}
    if "frequency" in attrs and _base(attrs["frequency"]) != _base(cmip_frequency(ds)):
        del attrs["frequency"]
    all_attrs = {name: ds[name].attrs for name in fields_of(ds)}
    names = [
        str(variable_attrs.get("long_name") or variable_attrs.get("standard_name") or name)
        for name, variable_attrs in all_attrs.items()
    ]
    standard = [
        str(variable_attrs["standard_name"])
        for variable_attrs in all_attrs.values()
        if "standard_name" in variable_attrs
    ]
    settings = attrs.get("downscale_settings")
    file_attrs = {
        "title": ", ".join(names),
        "summary": ", ".join(names) + (f"; downscaled with these settings: {settings}" if settings else ""),
        "keywords": ", ".join(dict.fromkeys(standard)),
        **attrs,
        "Conventions": f"{CONVENTIONS}, {ACDD}",
        "date_created": now(),
    }
    return {
        **{k: v for k, v in file_attrs.items() if not (isinstance(v, str) and v == "")},
        **extent(ds),
        **coverage(ds),
    }


def now() -> str:
    """Return the current UTC time in ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _base(word: Any) -> str:
    """Return the step in a frequency of CMIP, without the kind of sampling."""
    match = re.match(r"\d*hr|day|mon|yr|fx", str(word))
    return match[0] if match else str(word)


def coverage(ds: xr.Dataset) -> dict[str, str]:
    """Return the time coverage: first and last date, by bounds if available, length and step; in any calendar."""
    name = time_name(ds)
    if name is None:
        return {}
    begin, end = time_span(ds, name)
    attrs = {"time_coverage_start": stamp(begin), "time_coverage_end": stamp(end)}
    length = end - begin
    days = length / np.timedelta64(1, "D") if isinstance(length, np.timedelta64) else length.total_seconds() / 86400
    attrs["time_coverage_duration"] = iso_duration(float(days))
    step = iso_resolution(step_lengths(ds, name))
    return {**attrs, **({} if step is None else {"time_coverage_resolution": step})}


def extent(ds: xr.Dataset) -> dict[str, Any]:
    """Return the bounding box of all cells in latitude and longitude, by their bounds if available.

    By ACDD, the western edge is the larger number if the box crosses the seam of longitudes.
    """
    names = {kind: globe_coordinate(ds, kind) for kind in STANDARD}
    if None in names.values():
        return {}
    attrs: dict[str, Any] = {}
    for kind, name in names.items():
        assert name is not None
        values = _numbers(ds, name)
        ends = _longitudes(ds, name) if kind == "lon" else (float(np.nanmin(values)), float(np.nanmax(values)))
        for side, value in zip(("min", "max"), ends, strict=True):
            attrs[f"geospatial_{kind}_{side}"] = float(value)
        attrs[f"geospatial_{kind}_units"] = UNITS[kind]
        step = _step(ds, name)
        if step is not None:
            attrs[f"geospatial_{kind}_resolution"] = f"{step:.6g} degrees"
    return attrs


def globe_coordinate(ds: xr.Dataset, kind: str) -> str | None:
    """Return the name of the true latitude ("lat") or longitude ("lon") in one or two dimensions."""
    names = [
        str(name) for name, c in ds.coords.items()
        if c.ndim in (1, 2) and c.dtype.kind in "fiu"
        and (c.attrs.get("standard_name") == STANDARD[kind] or c.attrs.get("units") == UNITS[kind]
             or ("standard_name" not in c.attrs and str(name) in (kind, STANDARD[kind])))
    ]  # fmt: skip
    return names[0] if names else None


def _numbers(ds: xr.Dataset, name: str) -> NDArray[np.float64]:
    """Return the edges of all cells if available, else the centres."""
    try:
        bounds = read_bounds(ds, name)
    except GridError:
        bounds = None
    return np.asarray(values_of(ds[name].variable) if bounds is None else bounds, dtype=np.float64)


def _longitudes(ds: xr.Dataset, name: str) -> tuple[float, float]:
    """Return the western and the eastern edge on the branch of the coordinate."""
    values = _numbers(ds, name)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    centres = np.asarray(ds[name].values, dtype=np.float64)
    is_continuous = centres.ndim == 1 and np.abs(np.diff(centres)).max(initial=0) <= CIRCLE / 2
    if is_continuous or high - low < CIRCLE / 2:
        return low, high
    longitudes = np.unique(np.round(values[np.isfinite(values)] % CIRCLE, 9))
    gaps = np.diff(np.append(longitudes, longitudes[0] + CIRCLE))
    widest = int(gaps.argmax())
    if gaps[widest] <= WIDEST_CELL:
        return low, high
    west, east = (float(v) for v in (longitudes[(widest + 1) % longitudes.size], longitudes[widest]))
    if low < 0:
        west, east = (v - CIRCLE if v > CIRCLE / 2 else v for v in (west, east))
    return west, east


def _step(ds: xr.Dataset, name: str) -> float | None:
    """Return the step of a regular one-dimensional coordinate, else None."""
    if ds[name].ndim != 1 or ds[name].size < 2:
        return None
    gaps = np.abs(np.diff(np.asarray(ds[name].values, dtype=np.float64)))
    gaps = np.minimum(gaps, np.abs(gaps - CIRCLE))
    return float(np.median(gaps)) if np.ptp(gaps) <= 1e-3 * gaps.max() else None


def parse_profile(profile: Any) -> tuple[str | None, dict[str, Any]]:
    """Return the name of a profile, and the attributes given with it."""
    attrs = dict(profile) if isinstance(profile, Mapping) else {"name": profile}
    name = attrs.pop("name", None)
    if profile is not None and name not in PROFILES:
        raise OptionError(f"expected profile to be None or one of {listing(PROFILES)}, received {name!r}")
    return name, attrs


def archive_attributes(ds: xr.Dataset, attrs: Mapping[str, Any], user_attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the global attributes of the profile "cordex-esd"."""
    name = _one_field(ds)
    # A regional input names its driver; a global one is the driver itself.
    is_regional = "driving_source_id" in ds.attrs
    keys = {key: key if is_regional else parent_key for key, parent_key in DRIVERS.items()}
    drivers = {key: ds.attrs[source_key] for key, source_key in keys.items() if source_key in ds.attrs}
    derived_attrs = {**FIXED, **drivers, **_method(ds.attrs), "creation_date": now(), "variable_id": name}
    derived_attrs.update(tracking_id=f"{HANDLE}/{uuid.uuid4()}", grid=_grid(ds), frequency=cmip_frequency(ds))
    if "downscale_version" in ds.attrs:
        derived_attrs["source"] = f"downscale {ds.attrs['downscale_version']}"
    input_attrs = {key: value for key, value in attrs.items() if key not in (*PARENTS, "Conventions")}
    archive_attrs = {
        **input_attrs,
        **{key: value for key, value in derived_attrs.items() if value is not None},
        **user_attrs,
    }
    if "source_id" not in archive_attrs and {"esd_method_id", "training_id"} <= archive_attrs.keys():
        archive_attrs["source_id"] = f"{archive_attrs['esd_method_id']}-{archive_attrs['training_id']}"
    missing = [key for key in REQUIRED if not str(archive_attrs.get(key, "")).strip()]
    if missing:
        raise OptionError(
            f"profile {CORDEX_ESD!r}: expected the global attributes {listing(missing)}, received none; "
            f"give them as profile={{'name': {CORDEX_ESD!r}, {missing[0]!r}: ...}} or in attrs"
        )
    _require_words(archive_attrs)
    return archive_attrs


def archive_encodings(encodings_by_name: Encodings, ds: xr.Dataset) -> Encodings:
    """Return encodings in the types of the archive: fields in single precision, coordinates and times in double."""
    for name, encoding in encodings_by_name.items():
        if name in fields_of(ds):
            encoding.update(dtype="float32", missing_value=np.float32(FILL_VALUE), _FillValue=np.float32(FILL_VALUE))
        elif "units" in encoding or (name in ds.coords and ds[name].dtype.kind == "f"):
            encoding["dtype"] = "float64"
    return encodings_by_name


def _one_field(ds: xr.Dataset) -> str:
    fields = fields_of(ds)
    if len(fields) != 1:
        raise OutputError(
            f"profile {CORDEX_ESD!r}: expected one field in a file, received {listing(fields) or 'none'}; "
            "write one file for each"
        )
    return fields[0]


def _method(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of the method, for methods without training."""
    settings = str(attrs.get("downscale_settings", ""))
    method = re.search(r"\bmethod=(\w+)", settings)
    if method is None or method[1] not in TRAINING_FREE:
        return {}
    return {
        "esd_method": f"kernel that needs no training, under conservation laws: {settings}",
        "esd_method_id": "downscale",
        "training": "none: the weights follow from the geometry of the two grids alone",
        "training_id": method[1],
        "source_type": "ESD-MOS",
    }


def _grid(ds: xr.Dataset) -> str | None:
    """Return a description of the grid: its mapping and its step."""
    mapping = str(ds[_one_field(ds)].attrs.get("grid_mapping", "")).split(":")[0]
    kind = str(ds[mapping].attrs.get("grid_mapping_name", "")) if mapping in ds.variables else ""
    lat = globe_coordinate(ds, "lat")
    axis = lat if lat is not None and ds[lat].ndim == 1 else None
    if axis is None or ds[axis].size < 2:
        return kind.replace("_", " ") or None
    step = abs(float(ds[axis][-1] - ds[axis][0])) / (ds[axis].size - 1)
    return f"{kind.replace('_', ' ') or 'latitude longitude'} with {step:.4g} degree grid spacing"


def _require_words(attrs: Mapping[str, Any]) -> None:
    for key in (*NAME, "activity_id", "project_id"):
        if not re.fullmatch(r"[A-Za-z0-9-]+", str(attrs[key])):
            raise OptionError(
                f"profile {CORDEX_ESD!r}: expected {key} of letters, digits and dashes, received {attrs[key]!r}; "
                "rename it"
            )
    if "-" in str(attrs["training_id"]):
        raise OptionError(
            f"profile {CORDEX_ESD!r}: expected training_id without dashes, received {attrs['training_id']!r}; rename it"
        )
