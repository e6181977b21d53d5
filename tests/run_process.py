"""Runs in processes of their own, which can be stopped and killed; and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

ROOT = Path(__file__).parents[1]
LONGEST_SECONDS = 120.0


def started(folder: Path, *arguments: Any, before: str = "") -> subprocess.Popen[str]:
    """``python -m downscale ARGUMENTS`` in a folder; ``before`` is Python that runs first in the same process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [str(argument) for argument in arguments]
    line = [sys.executable, "-m", "downscale", *words]
    if before:
        script = f"{before}\nimport sys\nfrom downscale.cli.main import main\nsys.exit(main({words!r}))"
        line = [sys.executable, "-c", script]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Status, output and error of a process that ends by itself."""
    out, err = process.communicate(timeout=LONGEST_SECONDS)
    return process.returncode, out, err


def when(process: subprocess.Popen[str], true: Callable[[], bool]) -> bool:
    """Wait until something is true, and return whether it became so before the process ended."""
    limit = time.monotonic() + LONGEST_SECONDS
    while not true():
        if process.poll() is not None:
            return False
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.005)
    return True


def at_work(folder: Path) -> Callable[[], bool]:
    """Whether something is being written in a folder or below it that was not when this was called."""
    before = set(folder.rglob(".*.nc.*.part"))
    return lambda: bool(set(folder.rglob(".*.nc.*.part")) - before)


def killed(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> tuple[int, str, str]:
    """Send a signal, and return what the process said until it ended."""
    process.send_signal(number)
    return ended(process)


def contents(folder: Path) -> set[str]:
    """Names of all files below a folder, hidden ones too, and of its folders."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def raw(path: Path) -> dict[str, bytes]:
    """The stored values of all variables of a file, and their types."""
    with xr.open_dataset(path, decode_cf=False, engine="netcdf4") as ds:
        return {str(name): str(v.dtype).encode() + np.asarray(v.values).tobytes() for name, v in ds.variables.items()}
