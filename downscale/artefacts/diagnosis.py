"""Results of a diagnosis: tables on the terminal, plain values, and arrays for the figure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from downscale.errors import printable

if TYPE_CHECKING:
    from downscale.metrics.checkerboard import Checkerboard

Curve = tuple[NDArray[Any], NDArray[Any]]


class Section(NamedTuple):
    """A table: its title, names of columns, rows, and a note below it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(eq=False)
class Diagnosis:
    """Complete result on one subject: tables, the same as plain values, and arrays of the figure."""

    subject: str
    kind: str  # kernel, model or field
    factor: tuple[int, int]  # fine cells per coarse cell
    sections: list[Section] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    coverage: NDArray[Any] | None = None  # number of kernel weights by fine cell, over some coarse cells
    responses: dict[str, Curve] | None = None  # cycles per coarse cell, and decibels
    rejection: dict[str, dict[str, float]] | None = None  # decibels of each image
    piece: NDArray[Any] | None = None  # part of a field
    board: Checkerboard | None = None  # of that field
    shifts: dict[str, Curve] | None = None  # shifts in coarse cells, and errors

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; undefined ones are None."""
        values = {"subject": self.subject, "kind": self.kind, "factor": list(self.factor), **self.facts}
        return _plain(values)

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


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print the tables of a diagnosis; plain text if the output is not a terminal."""
    factor = " x ".join(map(str, diagnosis.factor))
    heading = f"[bold]{diagnosis.kind} {_escape(diagnosis.subject)}[/bold], {factor} fine cells in a coarse one"
    print_sections(diagnosis.sections, heading)


def print_sections(sections: Sequence[Section], heading: str = "") -> None:
    """Print tables with their titles and notes."""
    # A pipe has no width; this one suits most tables.
    console = Console(width=max(shutil.get_terminal_size((140, 40)).columns, 80), highlight=False)
    if heading:
        console.print(heading)
    for section in sections:
        console.print(f"\n[bold]{_escape(section.title)}[/bold]")
        if section.rows:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for i, name in enumerate(section.head):
                table.add_column(_escape(name), justify="left" if i == 0 else "right", overflow="fold")
            for row in section.rows:
                table.add_row(*map(_escape, row))
            console.print(table)
        if section.note:
            console.print(f"[dim]{_escape(section.note)}[/dim]")


def _escape(text: str) -> str:
    """Return a text with control characters and markup escaped."""
    return escape(printable(text))
