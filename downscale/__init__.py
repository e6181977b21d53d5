"""Conservative downscaling of gridded climate fields.

Importing this package registers the accessor ``.downscale`` on xarray objects. The public names are declared in
``__init__.pyi``; they are imported on first use, so that the import is fast.
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from downscale.version import __version__

_STUB = Path(__file__).with_suffix(".pyi")
_IMPORTS = [node for node in ast.parse(_STUB.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
_MODULES = {node.names[0].name: str(node.module) for node in _IMPORTS}

__all__ = ["__version__", *(name for name in _MODULES if name != "__version__")]


def __getattr__(name: str) -> Any:
    """Import a public name or a subpackage when it is first used."""
    if _MODULES.get(name, "downscale") != "downscale":
        value = getattr(import_module(_MODULES[name]), name)
    elif _STUB.with_name(name).is_dir():
        value = import_module(f"downscale.{name}")
    else:
        raise AttributeError(f"module 'downscale' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_command() -> bool:
    """Return whether this process is the command: the script beside Python, or ``python -m downscale``."""
    words = [*sys.orig_argv[1:3], ""]
    scripts = {Path(sys.executable).with_name(name) for name in ("downscale", "downscale.exe")}
    return words[:2] == ["-m", "downscale"] or Path(words[0]).absolute() in scripts


# The command answers ``--help`` before it loads xarray, which takes most of a second, and needs no accessor.
if not _is_command():
    import_module("downscale.accessor")
