"""Conservative downscaling of gridded climate fields.

Importing this package registers the accessor ``.downscale`` on xarray objects. Names are imported on first use, so that
the import is fast.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downscale.version import __version__

if TYPE_CHECKING:
    from downscale import sample
    from downscale.api import downscale, plan
    from downscale.check.conservation import cell_error, check_conservation
    from downscale.conservation.report import ConservationReport
    from downscale.errors import DownscaleError
    from downscale.evaluation.run import evaluate
    from downscale.io.read import open_dataset
    from downscale.io.weights import write_weights
    from downscale.io.weights_apply import apply_weights
    from downscale.losses.penalty import TerrainPenalty
    from downscale.methods.operators import weights
    from downscale.options import get_options, set_options
    from downscale.output import to_netcdf, to_zarr
    from downscale.runs.compression import encode
    from downscale.runs.pipeline import run
    from downscale.steps.coarsen import cell_area, coarsen
    from downscale.steps.deconvolution import blur, deconvolve
    from downscale.training.fit import train

_HOMES = {
    "run": "downscale.runs.pipeline",
    "train": "downscale.training.fit",
    "evaluate": "downscale.evaluation.run",
    "downscale": "downscale.api",
    "plan": "downscale.api",
    "coarsen": "downscale.steps.coarsen",
    "cell_area": "downscale.steps.coarsen",
    "blur": "downscale.steps.deconvolution",
    "deconvolve": "downscale.steps.deconvolution",
    "encode": "downscale.runs.compression",
    "weights": "downscale.methods.operators",
    "write_weights": "downscale.io.weights",
    "apply_weights": "downscale.io.weights_apply",
    "cell_error": "downscale.check.conservation",
    "check_conservation": "downscale.check.conservation",
    "open_dataset": "downscale.io.read",
    "to_netcdf": "downscale.output",
    "to_zarr": "downscale.output",
    "set_options": "downscale.options",
    "get_options": "downscale.options",
    "ConservationReport": "downscale.conservation.report",
    "TerrainPenalty": "downscale.losses.penalty",
    "DownscaleError": "downscale.errors",
}

_FOLDERS = {
    "sample", "plot", "grid", "kernels", "fields", "nn", "deconvolution", "losses", "conservation", "metrics", "engine",
    "io",
}  # fmt: skip

__all__ = [
    "ConservationReport",
    "DownscaleError",
    "TerrainPenalty",
    "__version__",
    "apply_weights",
    "blur",
    "cell_area",
    "cell_error",
    "check_conservation",
    "coarsen",
    "deconvolve",
    "downscale",
    "encode",
    "evaluate",
    "get_options",
    "open_dataset",
    "plan",
    "run",
    "sample",
    "set_options",
    "to_netcdf",
    "to_zarr",
    "train",
    "weights",
    "write_weights",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in _FOLDERS:
        value = import_module(f"downscale.{name}")
    else:
        raise AttributeError(f"module 'downscale' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _is_command() -> bool:
    """Return whether this process is the command: the script beside Python, or ``python -m downscale``."""
    words = [*sys.orig_argv[1:3], ""]
    scripts = {Path(sys.executable).with_name(name) for name in ("downscale", "downscale.exe")}
    return words[:2] == ["-m", "downscale"] or Path(words[0]).absolute() in scripts


# The command answers ``--help`` before it loads xarray, which takes most of a second, and needs no accessor.
if not _is_command():
    import_module("downscale.accessor")
