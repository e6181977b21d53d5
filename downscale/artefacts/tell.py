"""Diagnoses as tables on the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from downscale.artefacts.diagnosis import Diagnosis, Section
from downscale.errors import printable


def tell(found: Diagnosis) -> None:
    """Print the tables of a diagnosis; plain text if the output is not a terminal."""
    factor = " x ".join(map(str, found.factor))
    _console().print(f"[bold]{found.kind} {_safe(found.subject)}[/bold], {factor} fine cells in a coarse one")
    tell_sections(found.sections)


def tell_sections(sections: Sequence[Section]) -> None:
    """Print tables with their titles and notes."""
    console = _console()
    for section in sections:
        console.print()
        console.print(f"[bold]{_safe(section.title)}[/bold]")
        if section.rows:
            console.print(_table(section))
        if section.note:
            console.print(f"[dim]{_safe(section.note)}[/dim]")


def _table(section: Section) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(section.head):
        table.add_column(_safe(name), justify="left" if i == 0 else "right", overflow="fold")
    for row in section.rows:
        table.add_row(*map(_safe, row))
    return table


def _safe(text: str) -> str:
    """Return a text with control characters and markup escaped."""
    return escape(printable(text))


def _console() -> Console:
    # A pipe has no width; this one suits most tables.
    width = shutil.get_terminal_size((140, 40)).columns
    return Console(width=max(width, 80), highlight=False)
