"""Atomic writing of picture files."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downscale.errors import OutputError, listing
from downscale.io.leases import temporary_beside
from downscale.io.paths import check_target

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_path(path: Path, inputs: Iterable[Any] = ()) -> Path:
    """Return a path that can be written, checked before any work is done; an existing picture is replaced.

    Raises
    ------
    OutputError
        If its folder is missing, it is not a regular file or is one of ``inputs``, or its format is not supported.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    if not path.parent.is_dir():
        raise OutputError(f"expected an existing folder for the map, received '{path.parent}'; create it")
    if path.is_dir():
        raise OutputError(f"expected a file name for the map, received the folder '{path}'; add map.png")
    target = check_target(path, True, inputs)
    kinds = FigureCanvasBase.get_supported_filetypes()
    if _kind(path) not in kinds:
        raise OutputError(f"expected a map file of type {listing(kinds)}, received '{path.name}'; use .png")
    return target


def _kind(path: Path) -> str:
    return path.suffix[1:].lower() or "png"


def write(figure: Figure, path: Path, dpi: int) -> None:
    """Write under a temporary name in the same folder, then rename: the file is never incomplete.

    Raises
    ------
    OutputError
        If the system refuses to write.
    """
    try:
        with temporary_beside(path) as scratch, scratch.open("wb") as stream, warnings.catch_warnings():
            # A title with characters that the font lacks is drawn as boxes; the figure is still useful.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(stream, format=_kind(path), dpi=dpi, facecolor="white")
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"expected to write the map '{path}', received: {why}; choose another place") from error
