"""Downscale gridded climate fields and keep every budget.

Importing this package registers the accessor ``.downscale`` on xarray objects. It is cheap: names are looked up when
they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from downscale.registration import register_accessors
from downscale.version import __version__

if TYPE_CHECKING:
    from downscale import sample
    from downscale.api import downscale, plan
    from downscale.averages import cell_area, coarsen
    from downscale.cellwise import cell_error
    from downscale.compression import encode
    from downscale.diagnostics.report import ConservationReport
    from downscale.errors import DownscaleError
    from downscale.io.read import open_dataset
    from downscale.io.weights import write_weights
    from downscale.io.weights_apply import apply_weights
    from downscale.losses.penalty import TerrainPenalty
    from downscale.operators import weights
    from downscale.options import get_options, set_options
    from downscale.output import to_netcdf, to_zarr
    from downscale.restoration import blur, deconvolve
    from downscale.validate import check_conservation

_HOMES = {
    "downscale": "downscale.api",
    "plan": "downscale.api",
    "coarsen": "downscale.averages",
    "cell_area": "downscale.averages",
    "blur": "downscale.restoration",
    "deconvolve": "downscale.restoration",
    "encode": "downscale.compression",
    "weights": "downscale.operators",
    "write_weights": "downscale.io.weights",
    "apply_weights": "downscale.io.weights_apply",
    "cell_error": "downscale.cellwise",
    "check_conservation": "downscale.validate",
    "open_dataset": "downscale.io.read",
    "to_netcdf": "downscale.output",
    "to_zarr": "downscale.output",
    "set_options": "downscale.options",
    "get_options": "downscale.options",
    "ConservationReport": "downscale.diagnostics.report",
    "TerrainPenalty": "downscale.losses.penalty",
    "DownscaleError": "downscale.errors",
}

_FOLDERS = {
    "sample", "maps", "grid", "kernels", "fields", "nn", "restore", "losses", "diagnostics", "engine", "io",
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
    "get_options",
    "open_dataset",
    "plan",
    "sample",
    "set_options",
    "to_netcdf",
    "to_zarr",
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


register_accessors()
