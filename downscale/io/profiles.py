"""Archive profiles: required global attributes and file names.

"cordex-esd" is the draft for empirical-statistical downscaling in CORDEX-CMIP6 (second version, April 2024). It builds
on the CORDEX-CMIP6 archiving specifications for dynamical downscaling, from which it takes file names and the
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
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.times import frequency, span, stamp, time_name
from downscale.errors import OptionError, OutputError, listing
from downscale.io.discovery import globe_coordinate, now
from downscale.io.encoding import CONVENTIONS, FILL_VALUE, Encodings, cf_ready, fields_of

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
DIGITS = {"yr": 4, "mon": 6, "day": 8}


def parse_profile(profile: Any) -> tuple[str | None, dict[str, Any]]:
    """Return the name of a profile, and the attributes given with it.

    Parameters
    ----------
    profile : None, str, or mapping
        A mapping has the name under "name"; its other keys are global attributes.

    Raises
    ------
    OptionError
        If the profile is unknown.

    Examples
    --------
    >>> parse_profile({"name": "cordex-esd", "domain_id": "EUR-12"})
    ('cordex-esd', {'domain_id': 'EUR-12'})
    """
    given = dict(profile) if isinstance(profile, Mapping) else {"name": profile}
    name = given.pop("name", None)
    if profile is not None and name not in PROFILES:
        raise OptionError(f"expected profile to be None or one of {listing(PROFILES)}, received {name!r}")
    return name, given


def profiled(ds: xr.Dataset, attrs: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the global attributes of the profile "cordex-esd".

    Parameters
    ----------
    ds : Dataset
        Dataset to write, with the attributes of the input.
    attrs : mapping
        Global attributes that the file has without the profile.
    given : mapping
        Attributes set by the user, which take precedence.

    Raises
    ------
    OptionError, OutputError
        If a required attribute is missing or malformed, or the file does not hold exactly one field.
    """
    name = _one_field(ds)
    found = {**FIXED, **_drivers(ds.attrs), **_method(ds.attrs), "creation_date": now(), "variable_id": name}
    found.update(tracking_id=f"{HANDLE}/{uuid.uuid4()}", grid=_grid(ds), frequency=frequency(ds))
    if "downscale_version" in ds.attrs:
        found["source"] = f"downscale {ds.attrs['downscale_version']}"
    kept = {key: value for key, value in attrs.items() if key not in (*PARENTS, "Conventions")}
    made = {**kept, **{key: value for key, value in found.items() if value is not None}, **given}
    if "source_id" not in made and {"esd_method_id", "training_id"} <= made.keys():
        made["source_id"] = f"{made['esd_method_id']}-{made['training_id']}"
    missing = [key for key in REQUIRED if not str(made.get(key, "")).strip()]
    if missing:
        raise OptionError(
            f"profile {CORDEX_ESD!r}: expected the global attributes {listing(missing)}, received none; "
            f"give them as profile={{'name': {CORDEX_ESD!r}, {missing[0]!r}: ...}} or in attrs"
        )
    _require_words(made)
    return made


def archived(made: Encodings, ds: xr.Dataset) -> Encodings:
    """Return encodings in the types of the archive: fields in single precision, coordinates and times in double."""
    for name, own in made.items():
        if name in fields_of(ds):
            own.update(dtype="float32", missing_value=np.float32(FILL_VALUE), _FillValue=np.float32(FILL_VALUE))
        elif "units" in own or (name in ds.coords and ds[name].dtype.kind == "f"):
            own["dtype"] = "float64"
    return made


def _one_field(ds: xr.Dataset) -> str:
    fields = fields_of(ds)
    if len(fields) != 1:
        raise OutputError(
            f"profile {CORDEX_ESD!r}: expected one field in a file, received {listing(fields) or 'none'}; "
            "write one file for each"
        )
    return fields[0]


def _drivers(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of the driver: that of a regional input, or the global input itself."""
    if "driving_source_id" in attrs:
        return {key: attrs[key] for key in DRIVERS if key in attrs}
    return {key: attrs[own] for key, own in DRIVERS.items() if own in attrs}


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


def file_name(ds: xr.Dataset, profile: Any, attrs: Mapping[str, Any] | None = None) -> str:
    """Return the archive's name for a file with this content.

    Parameters
    ----------
    ds : Dataset
        The result, as passed to the writer.
    profile, attrs
        As passed to the writer.

    Raises
    ------
    OptionError, OutputError
        As for :func:`profiled`.
    """
    ready = cf_ready(ds)
    made = profiled(ready, ready.attrs, {**parse_profile(profile)[1], **(attrs or {})})
    words = [str(made[key]) for key in NAME]
    time = time_name(ready)
    if time is not None and made["frequency"] != "fx":
        digits = DIGITS.get(re.sub("Pt$", "", str(made["frequency"])), 12)
        words.append("-".join(re.sub(r"\D", "", stamp(date))[:digits] for date in _ends(ready, time, digits)))
    return "_".join(words) + ".nc"


def _ends(ds: xr.Dataset, time: str, digits: int) -> tuple[Any, Any]:
    """Return the first and the last time itself, since the last month ends on the first day of the next."""
    return span(ds.drop_vars(str(ds[time].attrs.get("bounds", "")), errors="ignore"), time)
