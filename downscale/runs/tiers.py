"""Comparison of two runs on the same input: added detail and errors of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from downscale.cf.coordinates import select
from downscale.check.self_validation import sample_maps, self_validation
from downscale.fields.gradient import Spacing, slope
from downscale.io.read import open_dataset
from downscale.methods.learned import name_of
from downscale.report import Beside, Outcome, write_report
from downscale.request import Prepared, prepare
from downscale.runs.pipeline import run
from downscale.runs.recipe import Recipe
from downscale.runs.single import build_request, open_input

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """Detail and errors of one method for the first field, from a sample of maps of the file as written.

    Attributes
    ----------
    label : str
        Name of the method.
    cell_error : float
        Largest relative error of a coarse cell in the whole file (cell conservation).
    detail : float
        Standard deviation of the added detail within coarse cells, in units of the field.
    per_km : float
        Slope of the added detail over the orography within coarse cells, units per kilometre.
    relief_correlation : float
        Correlation of the two.
    gradient : float
        Root-mean-square horizontal gradient, units per hundred kilometres.
    coarser_rmse, coarser_ratio : float or None
        Error of predicting the coarse field from its own coarsening, and its ratio to bilinear interpolation; None if
        not available.
    """

    label: str
    cell_error: float
    detail: float
    per_km: float
    relief_correlation: float
    gradient: float
    coarser_rmse: float | None
    coarser_ratio: float | None


def run_beside(first: Recipe, second: Recipe, note: str = "") -> tuple[tuple[Outcome, Outcome], Beside]:
    """Run two recipes on the same input, and compare both in the report of the first, with a ``note``.

    Raises
    ------
    DownscaleError
        As :func:`downscale.runs.pipeline.run` does.
    """
    outcomes = run(first), run(second)
    sides = [side_of(outcome) for outcome in outcomes]
    maps = [outcome.recipe.output.map for outcome in outcomes]
    units = str(open_dataset(first.output.path)[next(iter(outcomes[0].plan.variables))].attrs.get("units", "1"))
    beside = Beside(tuple(vars(side) for side in sides), None if maps[1] is None else Path(maps[1]), units, note)
    if first.output.report is not None:
        coarse = open_input(first.input.path, first.input.chunks)
        write_report(outcomes[0], Path(first.output.report), coarse, outcomes[0].pictures, beside)
    return outcomes, beside


def side_of(outcome: Outcome) -> Side:
    """Return the comparison numbers of the first field with orography, from the file that a run wrote."""
    recipe = outcome.recipe
    coarse, request = open_input(recipe.input.path, recipe.input.chunks), build_request(recipe)
    prepared, name = prepare(coarse, request), next(iter(outcome.plan.variables))
    fine = sample_maps(select(open_dataset(recipe.output.path), name), prepared.where).load()
    values = fine[name].transpose(..., *prepared.where.dims).values.astype(np.float64)
    errors = list((outcome.self_validation or self_validation(coarse, request)).get(name, {}).items())
    rmse, ratio = _last(errors, name_of(request.method))
    error = np.nan if outcome.conservation is None else outcome.conservation.max_relative_error
    return Side(_label(recipe), error, *_numbers(values, prepared, name), rmse, ratio)


def _label(recipe: Recipe) -> str:
    rate = recipe.terrain.lapse_rate
    return recipe.downscale.method + ("" if rate is None else f", {1000 * rate:g} per km of orography")


def _last(errors: Sequence[tuple[str, float]], method: str) -> tuple[float | None, float | None]:
    """Return the error of a method, with orography if tried, and its ratio to bilinear interpolation."""
    own = [error for label, error in errors if label.startswith(method)]
    return (own[-1], own[-1] / dict(errors)["bilinear"]) if own else (None, None)


def _numbers(values: Floats, prepared: Prepared, name: str) -> tuple[float, float, float, float]:
    """Return standard deviation of the detail, its slope over and correlation with orography, and the RMS gradient."""
    cells, area = prepared.jobs[name].cells, prepared.fine.cell_area
    valid = np.isfinite(values)
    weight = np.where(valid, area, 0.0)
    detail = np.where(valid, values - cells.spread(cells.mean(values, valid)), 0.0)
    orog = np.asarray(prepared.statics["orog"], dtype=np.float64)
    relief = orog - cells.spread(cells.mean(orog))
    high = float((weight * relief**2).sum())
    both, own = float((weight * detail * relief).sum()), float((weight * detail**2).sum())
    slopes = slope(values, Spacing.of(prepared.fine))
    steep = np.isfinite(slopes)
    squares = float((weight * np.where(steep, slopes, 0.0) ** 2).sum() / (weight * steep).sum())
    spread = (own / float(weight.sum())) ** 0.5
    return spread, 1e3 * both / high, both / (own * high) ** 0.5, 1e5 * squares**0.5


def table_of(beside: Beside) -> str:
    """Return the comparison as lines of text, one column per method."""
    rows = beside.rows()
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
