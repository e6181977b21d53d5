"""Write CF NetCDF files that appear complete, checked and certified, or not at all (xarray and netCDF4; never torch).

The file is written under a temporary name in the same folder, flushed, read back, checked *as written* against the
coarse field, given its certificate, and only then renamed.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import dask
import netCDF4
import xarray as xr

from downscale.diagnostics.report import ConservationReport
from downscale.errors import OptionError, OutputError
from downscale.io.encoding import cf_ready, encodings
from downscale.io.read import sources_of
from downscale.version import __version__

CERTIFICATE = "conservation_certificate"
CERTIFIED = (
    "law", "tolerance", "max_relative_error", "max_absolute_error", "global_error", "cells_checked", "cells_masked"
)  # fmt: skip
Checker = Callable[[xr.Dataset], ConservationReport]


def check_target(path: str | Path, overwrite: bool = False, inputs: tuple[Any, ...] = ()) -> Path:
    """Return the path of an output that may be written.

    Raises
    ------
    OutputError
        If its folder is missing or not writable, it is one of the inputs, or it exists and ``overwrite`` is false.
    """
    target = Path(path).expanduser()
    if not target.parent.is_dir():
        raise OutputError(f"expected an existing folder for the output, received {target.parent}; create it first")
    if target.is_dir():
        raise OutputError(f"expected a file name for the output, received the folder {target}; add a name")
    for source in inputs:
        if source and target.exists() and Path(source).exists() and os.path.samefile(source, target):
            raise OutputError(f"expected an output other than the input, received {target} for both; choose another")
    if target.exists() and not overwrite:
        raise OutputError(f"expected a new file, received {target} that exists; pass --overwrite (overwrite=True)")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"expected a writable folder for the output, received {target.parent}; choose another")
    return target


@contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """Give a temporary name in the folder of ``target``; what lies there is flushed and renamed, or removed."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        yield scratch
        _flush(scratch)
        os.replace(scratch, target)
        _flush(target.parent)
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_checked(
    ds: xr.Dataset, path: str | Path, checker: Checker | None, *, overwrite: bool = False, complevel: int = 1,
    inputs: tuple[Any, ...] = (), progress: Any = None,
) -> ConservationReport | None:  # fmt: skip
    """Write ``ds``; run ``checker`` on the file as written before it gets its name.

    Parameters
    ----------
    checker : callable or None
        Takes the written Dataset and returns a report; where it failed, the file is removed and the error raised.
    progress : context manager, optional
        Entered while data are computed and written.

    Raises
    ------
    OutputError, ConservationError
        Nothing is left behind then.
    """
    if complevel not in range(10):
        raise OptionError(f"expected complevel from 0 to 9, received {complevel!r}")
    target = check_target(path, overwrite, (*inputs, *sources_of(ds)))
    ready = cf_ready(ds)
    how: dict[str, Any] = {
        "encoding": encodings(ready, complevel),
        "unlimited_dims": [dim for dim in ds.encoding.get("unlimited_dims", ()) if dim in ready.dims],
    }
    try:
        with temporary_beside(target) as scratch:
            with progress or nullcontext():
                ready.to_netcdf(scratch, engine="netcdf4", format="NETCDF4", **how)
            report = None if checker is None else _certified(scratch, checker)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"expected to write {target}, received: {reason}; free space or choose another") from error
    return report


def _certified(scratch: Path, checker: Checker) -> ConservationReport:
    """Check the file as it lies on disk, and write what was found into its attributes."""
    _flush(scratch)
    # In this process: the workers of a cluster would keep the file open, and it could not be certified.
    local = dask.config.set(scheduler="threads")
    with local, xr.open_dataset(scratch, engine="netcdf4", chunks={}, decode_coords="all") as written:
        report = checker(written).raise_if_failed()
    with netCDF4.Dataset(scratch, "a") as file:
        file.setncattr(CERTIFICATE, json.dumps(certificate(report), sort_keys=True))
        for name, variable in report.variables.items():
            file[name].setncattr(
                "conservation",
                f"{variable.law} law holds as written: largest relative error {variable.max_relative_error:.2e}, "
                f"tolerance {variable.tolerance:g}, {variable.cells_checked} coarse cells checked",
            )
    return report


def certificate(report: ConservationReport) -> dict[str, Any]:
    """Return the certificate that is stored in a file: laws, errors and tolerances as measured in that file."""
    variables = {name: {key: getattr(r, key) for key in CERTIFIED} for name, r in report.variables.items()}
    return {"checked": "as written", "downscale_version": __version__, "passed": report.passed, "variables": variables}
