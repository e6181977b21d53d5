"""Hours of a daily file, whose daily means and extremes are checked as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from downscale.check.days import DaysReport, check_days
from downscale.conservation.report import ConservationReport
from downscale.errors import ConservationError
from downscale.io.paths import check_netcdf, sources_of
from downscale.io.store import check_store, write_store
from downscale.io.write import Storage, write_checked
from downscale.options import option
from downscale.process.computing import progress_bar
from downscale.runs.single import STORE, open_input
from downscale.steps.hourly import HourlyPlan, hourly_dataset, plan_hourly


def hourly_file(
    source: str, output: str | Path, step: Any = "h", *, climatology: str | None = None, members: int | None = None,
    seed: int = 0, data_vars: Any = None, chunks: Any = "auto", storage: Storage | None = None, overwrite: bool = False,
    dry_run: bool = False,
) -> tuple[HourlyPlan, DaysReport | None]:  # fmt: skip
    """Write the steps of a daily file and return the plan, and the check of the file as written; None after a dry run.

    The file appears only if its daily means, minima and maxima are those of the daily file.
    """
    ds = open_input(source, chunks)
    observed = None if climatology is None else open_input(climatology, chunks={})
    plan = plan_hourly(ds, step, climatology=observed, members=members, seed=seed, data_vars=data_vars)
    inputs = (*sources_of(ds), *(() if observed is None else sources_of(observed)))
    storage = storage or Storage()
    is_store = str(output).endswith(STORE)
    (check_store if is_store else check_netcdf)(output, overwrite or dry_run, inputs)
    if dry_run:
        return plan, None
    found: list[DaysReport] = []

    def check(written: xr.Dataset) -> ConservationReport:
        used = [name for one in plan.found for name in one.names.values()]
        found.append(check_days(ds, written, data_vars=used))
        fault = found[-1].fault
        if fault:
            raise ConservationError(f"{fault}, as packed; leave out packing" if storage.packing else fault)
        return found[-1].conservation()

    fine = hourly_dataset(plan, option("keep_attrs"))
    (write_store if is_store else write_checked)(
        fine, output, check, overwrite=overwrite, storage=storage, inputs=inputs, progress=progress_bar()
    )
    return plan, found[-1]
