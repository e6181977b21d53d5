"""Results of a diagnosis: tables, plain values, and arrays for the figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from downscale.metrics.checkerboard import Checkerboard

Curve = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Section:
    """One table.

    Attributes
    ----------
    title : str
        Title of the table.
    head : sequence of str
        Names of the columns.
    rows : sequence of sequence of str
        Rows of the table.
    note : str
        Line below the table.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(eq=False)
class Pictures:
    """Arrays of the figure; panels without data are left out.

    Attributes
    ----------
    coverage : array of int, optional
        Number of kernel weights by fine cell, over some coarse cells.
    responses : dict of label to curve
        Frequencies in cycles per coarse cell, and decibels.
    rejection : dict of label to dict of image to float
        Decibels of each image.
    board : Checkerboard, optional
        Checkerboard of a field.
    piece : array, optional
        Part of that field.
    shifts : dict of label to curve
        Shifts in coarse cells, and errors.
    """

    coverage: NDArray[Any] | None = None
    responses: dict[str, Curve] = field(default_factory=dict)
    rejection: dict[str, dict[str, float]] = field(default_factory=dict)
    board: Checkerboard | None = None
    piece: NDArray[Any] | None = None
    shifts: dict[str, Curve] = field(default_factory=dict)


@dataclass(eq=False)
class Diagnosis:
    """Complete result on one subject.

    Attributes
    ----------
    subject, kind : str
        Name of the subject, and its kind: kernel, model or field.
    factor : (int, int)
        Fine cells per coarse cell.
    sections : list of Section
        Tables.
    facts : dict
        The content of the tables as plain values.
    pictures : Pictures
        Arrays of the figure.
    """

    subject: str
    kind: str
    factor: tuple[int, int]
    sections: list[Section] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    pictures: Pictures = field(default_factory=Pictures)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; undefined ones are None."""
        whole = {"subject": self.subject, "kind": self.kind, "factor": list(self.factor), **self.facts}
        return _plain(whole)

    def to_json(self, path: Path) -> None:
        """Write the plain values as JSON, atomically."""
        from downscale.io.leases import temporary_beside

        with temporary_beside(path) as scratch:
            scratch.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def db(value: float) -> str:
    """Return decibels as text; levels below rounding are "none left".

    Examples
    --------
    >>> db(12.34), db(300.0), db(float("nan"))
    ('12.3', 'none left', '-')
    """
    if not np.isfinite(value):
        return "-"
    return "none left" if value >= 140 else f"{value:.1f}"
