"""Projection of a fine file from any source onto the cell means of a coarse file, checked as written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.cf.coordinates import select
from downscale.check.conserve import ProjectionPlan, plan_projection, project
from downscale.conservation.report import ConservationReport
from downscale.io.paths import check_netcdf, sources_of
from downscale.io.store import check_store
from downscale.io.write import Storage
from downscale.options import option
from downscale.output import to_netcdf, to_zarr
from downscale.runs.single import STORE, open_input

# Storage of a NetCDF file that the result inherits.
INHERITED = ("shuffle", "fletcher32")


@dataclass(frozen=True)
class Conserved:
    """The plan of a projection, remarks on its storage, and the check report of the file; None after a dry run."""

    plan: ProjectionPlan
    notes: tuple[str, ...]
    report: ConservationReport | None = None


def conserve_file(
    fine: str, coarse: str, output: str | Path, constraint: str = "auto", *, chunks: Any = "auto",
    storage: Storage | None = None, complevel: int | None = None, overwrite: bool = False, dry_run: bool = False,
    **options: Any,
) -> Conserved:  # fmt: skip
    """Project one file onto the cell means of another and return the plan and the report of the file as written.

    Cell conservation: the file appears only if it passes the conservation check. Data type, attributes, chunks and
    compression are those of the fine file; ``complevel`` and ``storage`` override them.
    """
    before, means = open_input(fine, chunks), open_input(coarse, chunks)
    plan = plan_projection(before, means, constraint, **options)
    names = list(plan.fields)
    inputs = (*sources_of(before), *sources_of(means), *([options["mask"]] if options.get("mask") else []))
    is_store = str(output).endswith(STORE)
    (check_store if is_store else check_netcdf)(output, overwrite or dry_run, inputs)
    storage = storage or Storage()
    notes = _notes(before, names) if storage.packing is None else ()
    if dry_run:
        return Conserved(plan, notes)
    projected = project(plan, option("keep_attrs"))
    encoding = None if is_store else {**_inherited(before, names, complevel), **(storage.encoding or {})}
    limits = {name: item.job.bounds for name, item in plan.fields.items()}
    report = (to_zarr if is_store else to_netcdf)(
        projected, output, coarse=select(means, names), overwrite=overwrite,
        complevel=storage.complevel if complevel is None else complevel, packing=storage.packing, encoding=encoding,
        profile=storage.profile, attrs=storage.attrs, bounds=limits, mask=options.get("mask"),
        tolerance=options.get("tolerance"), quantity=options.get("quantity"),
    )  # fmt: skip
    return Conserved(plan, notes, report)


def _inherited(ds: xr.Dataset, names: list[str], complevel: int | None) -> dict[str, dict[str, Any]]:
    """Return the chunks and the compression of fields of a NetCDF file; of other files, none."""
    encodings = {}
    for name in names:
        stored = ds[name].encoding
        encoding: dict[str, Any] = {}
        if complevel is None and "zlib" in stored:
            encoding["complevel"] = int(stored.get("complevel", 0)) if stored["zlib"] else 0
            encoding |= {key: bool(stored[key]) for key in INHERITED if stored["zlib"] and key in stored}
        sizes = stored.get("chunksizes")
        if sizes is not None and len(sizes) == ds[name].ndim:
            encoding["chunksizes"] = tuple(min(a, b) for a, b in zip(sizes, ds[name].shape, strict=True))
        if encoding:
            encodings[name] = encoding
    return encodings


def _notes(ds: xr.Dataset, names: list[str]) -> tuple[str, ...]:
    """Return remarks on packed fields, whose steps are larger than the tolerance."""
    packed = [name for name in names if "scale_factor" in ds[name].encoding]
    return tuple(
        f"{name}: packed in the fine file, written as {ds[name].dtype}; pass --packing int16 to pack it again"
        for name in packed
    )


def lines_of(result: Conserved, output: str | Path, overwrite: bool) -> list[str]:
    """Return the result as lines of text."""
    if result.report is not None:
        return [repr(result.report), *(f"note: {note}" for note in result.notes), f"wrote {output}"]
    lines = [str(result.plan), *(f"note: {note}" for note in result.notes)]
    if Path(output).exists() and not overwrite:
        lines.append(f"note: {output} exists; to replace it, pass --overwrite")
    return lines
