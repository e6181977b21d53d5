"""HTML page and JSON file of a report."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from downscale.engine.plan import readable_bytes
from downscale.io.leases import temporary_beside
from downscale.report.beside import Beside
from downscale.report.facts import facts_path, recipe_text, report_facts

if TYPE_CHECKING:
    from downscale.report.outcome import Outcome
    from downscale.report.pictures import Picture

TEMPLATE = Path(__file__).parent / "page.html"


def write_report(
    outcome: Outcome,
    path: Path,
    coarse: xr.Dataset | None = None,
    drawn: list[Picture] | None = None,
    beside: Beside | None = None,
) -> None:
    """Write ``path`` (HTML) and a JSON file with the same content; both appear complete or not at all.

    Parameters
    ----------
    outcome : Outcome
        Result of the run.
    path : path
        Output file of the page.
    coarse : Dataset, optional
        The input, for its description.
    drawn : list of Picture, optional
        From :func:`downscale.report.pictures.pictures`.
    beside : Beside, optional
        Comparison with another method on the same input.
    """
    facts = report_facts(outcome, coarse)
    if beside is not None:
        facts["side_by_side"] = list(beside.sides)
    with temporary_beside(facts_path(path)) as scratch:
        scratch.write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")
    with temporary_beside(path) as scratch:
        scratch.write_text(page(outcome, facts, drawn or [], beside), encoding="utf-8")


def page(outcome: Outcome, facts: dict[str, Any], drawn: list[Picture], beside: Beside | None = None) -> str:
    """Return the page: one file without scripts that contains its pictures and styles."""
    from jinja2 import Environment, StrictUndefined

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["bytes"] = readable_bytes
    made.filters["sig"] = lambda value: f"{value:.3g}"
    template = made.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        facts=facts,
        report=outcome.conservation,
        plan_lines=outcome.plan._lines(),
        pictures=drawn,
        beside=beside,
        other=None if beside is None or beside.picture is None else _other(beside.picture),
        recipe=recipe_text(outcome),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    ) + "\n"  # fmt: skip


def _other(path: Path) -> Picture:
    """Return the picture of the map of the second method."""
    from downscale.report.pictures import Picture

    return Picture(
        "Downscaled with a network",
        "Three maps: the coarse field, the fine field of a trained network, and the added detail",
        "The last step; colours have their own scale.",
        path.read_bytes(),
    )
