"""Deconvolution from file to file, with a check of the flux as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from downscale.conservation.report import ConservationReport, VariableReport
from downscale.io.paths import check_netcdf, sources_of
from downscale.io.read import open_dataset
from downscale.io.write import Storage, write_checked
from downscale.process.computing import progress_bar
from downscale.runs.single import open_input
from downscale.steps.deconvolution import (
    DeconvolutionMethod,
    DeconvolutionPlan,
    deconvolve_dataset,
    fluxes,
    plan_deconvolution,
)

# Rounding of a file's values in float32, and of their sum.
TOLERANCE = 1e-6


def deconvolve_file(
    source: str, output: str | Path, psf: Any, method: DeconvolutionMethod, *, dims: Any = None, data_vars: Any = None,
    device: str | None = None, chunks: Any = "auto", complevel: int = 1, overwrite: bool = False, dry_run: bool = False,
) -> tuple[DeconvolutionPlan, dict[str, Any]]:  # fmt: skip
    """Deconvolve one file into another and return the plan and the fluxes of the file as written.

    Global conservation: the file appears only if the area integral of each map equals that of the input.
    """
    before = open_input(source, chunks)
    plan = plan_deconvolution(before, psf, method, dims, data_vars)
    check_netcdf(output, overwrite or dry_run, sources_of(before))
    if dry_run:
        return plan, {}
    fine = deconvolve_dataset(before, plan, device)
    write_checked(fine, output, lambda written: _check_flux(before, written, plan), overwrite=overwrite,
                  storage=Storage(complevel), inputs=sources_of(before), progress=progress_bar())  # fmt: skip
    with open_dataset(output, chunks=chunks) as after:
        return plan, fluxes(before, after, plan)


def _check_flux(before: xr.Dataset, after: xr.Dataset, plan: DeconvolutionPlan) -> ConservationReport:
    """Check the flux of all maps, profiles or stacks of a variable: the area integral, or the sum over cells."""
    reports = {}
    for name, flux in fluxes(before, after, plan).items():
        valid, valid_after = before[name].notnull(), after[name].notnull()
        change = flux["relative_change"]
        reports[name] = VariableReport(
            name, str(before[name].attrs.get("units", "1")), "total",
            max_relative_error=change, where_relative={},
            max_absolute_error=abs(flux["flux_after"] - flux["flux_before"]), where_absolute={}, global_error=change,
            cells_checked=int(valid.sum()), cells_masked=int((~valid).sum()),
            cells_lost=int((valid & ~valid_after).sum()), cells_invented=int((valid_after & ~valid).sum()),
            values_out_of_bounds=0, tolerance=TOLERANCE,
        )  # fmt: skip
    return ConservationReport(reports)


def flux_lines(facts: dict[str, Any]) -> list[str]:
    """Return the fluxes as text, one line per variable."""
    lines = []
    for name, flux in facts.items():
        parameters = []
        for key in ("iterations", "noise", "parameter"):
            if key in flux:
                texts = dict.fromkeys(f"{value:.4g}" for value in flux[key])
                parameters.append(f"{key} {' to '.join(texts)}")
        lines.append(
            f"{name}: flux {flux['flux_before']:.9g} before, {flux['flux_after']:.9g} after (relative change "
            f"{flux['relative_change']:.1e}); {'; '.join(parameters)}"
        )
    return lines
