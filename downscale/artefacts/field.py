"""Diagnosis of checkerboards in every variable of a file, from any source."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from downscale.artefacts.diagnosis import Diagnosis
from downscale.artefacts.kernel import board_section
from downscale.cf.horizontal import Horizontal, horizontal, horizontal_variables
from downscale.cf.kinds import is_categorical
from downscale.errors import DownscaleError, InputError, listing
from downscale.metrics.checkerboard import Checkerboard, checkerboard

PIECE_CELLS = 10


def diagnose_field(ds: xr.Dataset, name: str, factor: tuple[int, int], variable: str | None = None) -> Diagnosis:
    """Return the diagnosis of patterns that repeat with the coarse cells, by variable of a file; reads lazily.

    Parameters
    ----------
    ds : Dataset
        Fine fields over two horizontal axes.
    name : str
        Name of the file.
    factor : (int, int)
        Fine cells per coarse cell.
    variable : str, optional
        The variable to analyse; all by default.

    Raises
    ------
    GridError, InputError, ShapeError
        If there are no horizontal axes, no such variable, or too few cells.
    """
    where = horizontal(ds, guess=True)
    names = _wanted(ds, where, variable)
    found, boards = Diagnosis(name, "field", factor), {}
    for each in names:
        data = ds[each].transpose(..., *where.dims).data
        try:
            boards[each] = board = checkerboard(data, factor)
        except DownscaleError as error:
            raise type(error)(f"{each}: {error}") from None
        if found.pictures.board is None:
            _draw(found, board, data)
    found.sections.append(board_section({each: board.to_dict() for each, board in boards.items()}))
    found.facts["checkerboard"] = {each: board.to_dict() for each, board in boards.items()}
    return found


def _wanted(ds: xr.Dataset, where: Horizontal, variable: str | None) -> list[str]:
    names = [
        each
        for each in horizontal_variables(ds, where)
        if not is_categorical(ds[each]) and ds[each].dtype.kind in "fiu"
    ]
    if variable is None and names:
        return names
    if variable is None or variable not in names:
        raise InputError(f"expected a variable among {listing(names) or 'none over both axes'}, received {variable!r}")
    return [variable]


def _draw(found: Diagnosis, board: Checkerboard, data: Any) -> None:
    first = np.asarray(data[(0,) * (data.ndim - 2)], dtype=np.float64)
    sizes = [min(n, PIECE_CELLS * f) for n, f in zip(first.shape, found.factor, strict=True)]
    rows, columns = (
        slice(start, start + size)
        for size, start in (
            (size, (n - size) // 2 // f * f) for n, size, f in zip(first.shape, sizes, found.factor, strict=True)
        )
    )
    found.pictures.board, found.pictures.piece = board, first[rows, columns]
    numbers = {m: v for m, v in board.images.items() if m[0] in (0, m[1]) or m[1] == 0}
    found.pictures.rejection = {"index": {",".join(map(str, m)): v for m, v in numbers.items()}}
