"""The report of a projection: one HTML page with facts, choices, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.conservation.report import ConservationReport
from downscale.projections.figures import draw_pictures
from downscale.projections.signal import signal_error
from downscale.projections.validation import heading_of, tables_of
from downscale.report.page import render_page, write_texts
from downscale.version import library_versions

TEMPLATE = Path(__file__).parent / "page.html"
ADJUSTED, FINE = "adjusted", "fine"


def write_page(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, Mapping[str, Any]],
    choices: Sequence[str] = (),
    conservation: Mapping[str, ConservationReport] | None = None,
    scores: xr.Dataset | None = None,
    signals: Mapping[str, xr.Dataset] | None = None,
    description: str = "",
    recipe: str = "",
    command: str = "",
) -> None:
    """Write the report of a projection as one HTML file without external parts; it appears complete or not at all.

    Parameters
    ----------
    path : path
        The file; an existing one is replaced.
    title, description : str
        Heading, and a sentence below it.
    facts : mapping of str to mapping
        Tables of labels and values by heading, such as inputs, periods and settings of variables.
    choices : sequence of str
        Each choice of the run, as a sentence.
    conservation : mapping of str to ConservationReport, optional
        Reports of the fine files as written, by experiment.
    scores : Dataset, optional
        Result of :func:`~downscale.projections.validation.validate`.
    signals : mapping of str to Dataset, optional
        Results of :func:`~downscale.projections.signal.change_signal` by scenario.
    recipe, command : str
        The recipe as text, and the command line that reproduces the run.
    """
    conservation, signals = conservation or {}, signals or {}
    sections = []
    if scores is not None:
        sections.append(("Validation", heading_of(scores), tables_of(scores), draw_pictures(scores, None)))
    for label, signal in signals.items():
        words = [heading_of(signal), *_agreement(signal)]
        sections.append((f"Change signal: {label}", " ".join(words), tables_of(signal), draw_pictures(None, signal)))
    reports = [(label, one) for label, report in conservation.items() for one in report.variables.values()]
    page = render_page(
        TEMPLATE, title=title, description=description, facts=facts, choices=list(choices), reports=reports,
        conserved=all(report.passed for report in conservation.values()),
        largest=max((report.max_relative_error for report in conservation.values()), default=None),
        tiles=_tiles(scores, signals), sections=sections, recipe=recipe, command=command, versions=library_versions(),
    )  # fmt: skip
    write_texts({Path(path): page})


def _agreement(signal: xr.Dataset) -> list[str]:
    """Return a sentence on the difference of the signals of the fine and the adjusted field."""
    if not {ADJUSTED, FINE} <= set(map(str, signal.candidate.values)):
        return []
    names = [signal.attrs["variables"]] if isinstance(signal.attrs["variables"], str) else signal.attrs["variables"]
    error = max(signal_error(signal, str(name), FINE, ADJUSTED) for name in names)
    return [f"The change of the mean of the fine field differs from that of the adjusted one by at most {error:.1e}, "
            "relative to the mean."]  # fmt: skip


def _tiles(scores: xr.Dataset | None, signals: Mapping[str, xr.Dataset]) -> list[tuple[str, str]]:
    """Return the main numbers of a projection with their words."""
    tiles = []
    if scores is not None and scores.sizes["candidate"] > 1:
        name = str(next(iter([scores.attrs["variables"]] if isinstance(scores.attrs["variables"], str)
                             else scores.attrs["variables"])))  # fmt: skip
        label, index = str(scores.candidate.values[1]), scores.get(f"{name}_block_edge_ratio")
        if index is not None:
            tiles.append((f"{float(index[1]):.2f}", f"block edge index of {name} over the observed one, {label}"))
    return tiles
