"""Writing of CF NetCDF files that appear complete and checked, or not at all.

The file is written under a temporary name in the same folder, flushed, read back, checked as written against the coarse
field, given its check report, and only then renamed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends.common import ArrayWriter

from downscale.cf.coordinates import area_names
from downscale.conservation.report import ConservationReport, VariableReport
from downscale.errors import ConservationError, OptionError, OutputError
from downscale.io.attributes import archive_attributes, archive_encodings, file_attributes, parse_profile
from downscale.io.encoding import (
    REPORT_ATTR,
    Encodings,
    Packing,
    auxiliary_variables,
    encodings,
    enough_bits,
    fields_of,
    make_cf_compliant,
    merge_encodings,
    order_areas_first,
    packing_words,
    parse_packing,
    require_level,
    round_fields,
    short_encodings,
)
from downscale.io.leases import disk_errors, temporary_beside
from downscale.io.library import LIBRARY, dump, new_file, plain_file, reading, writing_errors
from downscale.io.paths import check_netcdf, flush, sources_of
from downscale.io.stream import in_memory, write_fields
from downscale.process.computing import compute, use_own_threads, use_temporary_threads
from downscale.version import __version__

# Types whose values the library does not inspect before writing.
NUMBERS = "fiub"
RECORDED = (
    "law", "tolerance", "max_relative_error", "max_absolute_error", "global_error", "cells_checked", "cells_masked",
    "compared", "per_map",
)  # fmt: skip
# The same for variables in order with others.
ORDER = ("orderings", "values_out_of_order", "cells_out_of_order")
Claims = dict[str, str]
Checker = Callable[[xr.Dataset], ConservationReport]
PLAIN_FORMAT, ARCHIVE_FORMAT = "NETCDF4", "NETCDF4_CLASSIC"


@dataclass(frozen=True)
class Storage:
    """The storage options of a result, as :func:`downscale.to_netcdf` takes them.

    ``encoding`` overrides the encodings chosen here, ``attrs`` all other global attributes; None drops an attribute.
    """

    complevel: int = 1
    packing: Any = None
    encoding: Mapping[str, Mapping[str, Any]] | None = None
    profile: Any = None
    attrs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Output:
    """A result ready to write: Dataset, encodings, and packing."""

    ds: xr.Dataset
    encodings: Encodings
    unlimited: list[str]
    packings: dict[str, Packing]
    format: str = PLAIN_FORMAT


def prepare(ds: xr.Dataset, storage: Storage) -> Output:
    """Return a result in its stored form; only the range of fields to pack is computed."""
    require_level(storage.complevel)
    profile, user_attrs = parse_profile(storage.profile)
    dataset = make_cf_compliant(ds)
    user_attrs = {**user_attrs, **(storage.attrs or {})}
    for key, value in user_attrs.items():
        if value is not None and not isinstance(value, str | int | float | np.generic | np.ndarray | list | tuple):
            raise OptionError(
                f"expected attribute {key!r} to be text, a number or a list of these, received {value!r}; make it text"
            )
    attrs = file_attributes(dataset)
    attrs = {**attrs, **user_attrs} if profile is None else archive_attributes(dataset, attrs, user_attrs)
    packable = [name for name in fields_of(dataset) if dataset[name].dtype.itemsize in (4, 8)]
    packings = parse_packing(storage.packing, packable, dataset)
    encodings_by_name = encodings(dataset, storage.complevel)
    if profile is not None:
        encodings_by_name = archive_encodings(encodings_by_name, dataset)
    encodings_by_name = merge_encodings(encodings_by_name, dataset, storage.encoding)
    for name, packing_encoding in short_encodings(dataset, packings).items():
        encodings_by_name[name] = {**encodings_by_name[name], **packing_encoding}
    dataset = round_fields(dataset, packings)
    for name, packing in packings.items():
        dataset[name].attrs["packing"] = packing_words(packing)
    dataset.attrs = {key: value for key, value in attrs.items() if value is not None}
    records = [dim for dim in ds.encoding.get("unlimited_dims", ()) if dim in dataset.dims]
    return Output(
        order_areas_first(dataset),
        encodings_by_name,
        records,
        packings,
        PLAIN_FORMAT if profile is None else ARCHIVE_FORMAT,
    )


def write_checked(
    ds: xr.Dataset, path: str | Path, checker: Checker | None, *, overwrite: bool = False,
    storage: Storage | None = None, inputs: tuple[Any, ...] = (), progress: Any = None,
) -> ConservationReport | None:  # fmt: skip
    """Write ``ds``; run ``checker`` on the file as written before the final renaming."""
    if Path(path).suffix == ".zarr":
        raise OutputError(f"expected the name of a NetCDF file, received {path}; use to_zarr for a store")
    target = check_netcdf(path, overwrite, (*inputs, *sources_of(ds)))
    with progress or nullcontext():
        out = prepare(ds, storage or Storage())
        with disk_errors(target), temporary_beside(target) as scratch:
            is_written, report = write_fields(scratch, out, _fields_in_chunks(out), checker)
            if not is_written:
                _write_by_library(scratch, out)
            if checker is None:
                return None
            if report is None:
                flush(scratch)
                # In this process: the workers of a cluster would keep the file open, and it could not be signed.
                try:
                    with use_own_threads(), reading(scratch, chunks={}, decode_coords="all") as fine:
                        report = checker(fine)
                except (OSError, RuntimeError) as error:
                    line = f"expected what was written to {target}, received {error}; check the disk, write again"
                    raise OutputError(line) from error
            return write_report(scratch, require_pass(report, out.packings), out.packings)


def _fields_in_chunks(out: Output) -> list[str]:
    """Return the names of the fields that are stored in chunks; areas of large grids are stored like fields."""
    ds = out.ds
    auxiliary = {name for name in auxiliary_variables(ds) if ds[name].chunks is None or name not in area_names(ds)}
    names = [str(name) for name in ds.data_vars if out.encodings[str(name)].get("chunksizes") is not None]
    return [name for name in names if name not in auxiliary]


class _Variable:
    """A variable of a file, whose errors on writing are those of the operating system."""

    def __init__(self, variable: Any) -> None:
        self.variable = variable

    def __setitem__(self, key: Any, values: Any) -> None:
        with writing_errors():
            self.variable[key] = values


class _Writer(ArrayWriter):
    """Like xarray's writer; errors on writing differ from errors of the input."""

    def add(self, source: Any, target: Any, region: Any = None) -> None:
        super().add(source, _Variable(target), region)


def _write_by_library(scratch: Path, out: Output) -> None:
    """Write a whole file by the library: variables in memory at once, lazy fields as they are computed."""
    # The library inspects dates and texts: computing these under its lock would deadlock.
    dataset = in_memory(out.ds, [n for n, v in out.ds.variables.items() if not v.chunks or v.dtype.kind not in NUMBERS])
    writer = _Writer(LIBRARY)
    with new_file(scratch, out.format) as file:
        dump(dataset, file, out.encodings, writer=writer, unlimited_dims=out.unlimited)
        lazy = writer.sync(compute=False)
        if lazy is not None:
            with use_own_threads(), use_temporary_threads():
                compute(lazy)


def write_report(scratch: Path, report: ConservationReport, packings: Mapping[str, Packing]) -> ConservationReport:
    """Write the check report into the attributes of a file, and return it."""
    file_attrs, attrs_by_name = check_attributes(report, packings)
    with plain_file(scratch, "a") as file:
        file.setncatts(file_attrs)
        for name, attrs in attrs_by_name.items():
            file[name].setncatts(attrs)
    return report


def require_pass(report: ConservationReport, packings: Mapping[str, Packing]) -> ConservationReport:
    """Return the report, or raise an error if the check fails; the message has the remedy if packing is the cause."""
    for name, variable_report in report.variables.items():
        if not variable_report.passed and name in packings:
            raise ConservationError(_failure_message(variable_report, packings[name]))
    return report.raise_if_failed()


def _failure_message(report: VariableReport, packing: Packing) -> str:
    if report.decisive_error <= report.tolerance:
        return f"{report.fault}, as packed ({packing_words(packing)}); leave out packing"
    bits = enough_bits(report.tolerance, packing, report.decisive_error)
    # A slightly larger round number.
    text = f"{report.decisive_error * 1.05:.0e}"
    above = float(text) if float(text) > report.decisive_error else float(f"{int(text[0]) + 1}{text[1:]}")
    more = "" if bits is None else f"keep about {bits} bits (packing={{{report.name!r}: {bits}}}), "
    return (
        f"{report.name}: expected the {report.law} law within {report.tolerance:g} as packed "
        f"({packing_words(packing)}), received a largest relative error of {report.decisive_error:.3g}; {more}"
        f"pass tolerance={above:g}, or leave out packing"
    )


def check_attributes(report: ConservationReport, packings: Mapping[str, Packing]) -> tuple[Claims, dict[str, Claims]]:
    """Return the attributes of the check: the report of the file, and a line for each variable."""
    attrs_by_name = {}
    for name, entry in report.variables.items():
        over, areas_compared = (
            ("", "coarse cells") if entry.claim == entry.law else (f" over {entry.claim}", entry.compared)
        )
        line = (
            f"{entry.law} conservation passed as written{over}: largest relative error {entry.decisive_error:.2e}, "
            f"tolerance {entry.tolerance:g}, {entry.cells_checked} {areas_compared} checked"
        )
        attrs_by_name[name] = {"conservation": line}
    return {REPORT_ATTR: json.dumps(report_record(report, packings), sort_keys=True)}, attrs_by_name


def report_record(report: ConservationReport, packings: Mapping[str, Packing] | None = None) -> dict[str, Any]:
    """Return the check report stored in a file: conservation, errors and tolerances as measured in that file."""
    variables = {name: {key: getattr(r, key) for key in RECORDED} for name, r in report.variables.items()}
    for name, entry in report.variables.items():
        variables[name] |= {key: getattr(entry, key) for key in ORDER if entry.orderings}
    for name, packing in (packings or {}).items():
        if name in variables:
            variables[name]["packing"] = packing_words(packing)
    return {"checked": "as written", "downscale_version": __version__, "passed": report.passed, "variables": variables}
