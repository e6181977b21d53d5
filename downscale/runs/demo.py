"""The runs of ``downscale demo`` on the embedded sample, and the comparison of two runs on the same input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.cf.coordinates import select
from downscale.check.self_validation import self_validation
from downscale.errors import OutputError
from downscale.fields.gradient import Spacing, slope
from downscale.io.config import read_recipe
from downscale.io.read import open_dataset
from downscale.methods.registry import name_of
from downscale.report.page import Outcome, SideBySide, write_report
from downscale.request import value_for
from downscale.runs.pipeline import run
from downscale.runs.recipe import Recipe, parse_recipe
from downscale.runs.single import build_request, open_input
from downscale.steps.prepare import MapPlan, plan_maps
from downscale.steps.terrain import sample_maps

DESCRIPTION = (
    "Annual means of a climate model over North America, downscaled from 1.25 x 1.875 degrees with the Sobolev kernel; "
    "unresolved orography with the lapse rate preferred by self-validation; every coarse-cell mean is conserved."
)
# Training data are no independent test.
MODEL_NOTE = (
    "The training data of the network include coarsened maps of this climate model run, so its score here is no "
    "proof of skill; docs/learned.md has its errors on held-out data."
)
TITLE = "Near-surface air temperature, HadCM3 A1B, x4"
Floats = NDArray[np.float64]


def demo_recipe(folder: str | Path) -> Recipe:
    """Return the recipe of ``downscale demo``: x4 with orography, terrain-gradient penalty, map and report."""
    out = Path(folder)
    return parse_recipe(
        {
            "title": TITLE,
            "description": DESCRIPTION,
            "input": {"path": "sample:north_america", "variables": ["tas"], "chunks": {"time": 12}},
            "statics": {"orog": "sample:north_america_relief", "variable": "orog"},
            "downscale": {"factor": 4, "method": "sobolev"},
            "terrain": {"lapse_rate": -3.0e-3, "penalty": {"base_gradient": 1.0e-5, "ratio": 3.0e-3}},
            "validate": {"law": "cell", "tolerance": 1.0e-6},
            "output": {
                "path": str(out / "tas_north_america_x4.nc"),
                "map": str(out / "tas_north_america_x4.png"),
                "report": str(out / "report.html"),
                "overwrite": True,
            },
        }
    )


def demo_model_recipe(folder: str | Path) -> Recipe:
    """Return the same recipe with the bundled network for temperature: a second file and map."""
    out = Path(folder)
    return read_recipe(Recipe, demo_recipe(folder), {
        "title": f"{TITLE}, learned",
        "description": "The same input with the bundled network, which uses the orography itself.",
        "downscale.method": "temperature",
        "terrain": None,
        "output.path": str(out / "tas_north_america_x4_learned.nc"),
        "output.map": str(out / "tas_north_america_x4_learned.png"),
        "output.report": None,
    })  # fmt: skip


def prepare_folder(folder: Path) -> None:
    """Create the folder of the outputs."""
    if not folder.resolve().parent.is_dir():
        raise OutputError(f"expected an existing parent folder, received {folder.resolve().parent}; create it first")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"expected a folder, received the file {folder}; choose another name")
    folder.mkdir(exist_ok=True)


def run_both(first: Recipe, second: Recipe, note: str = "") -> tuple[tuple[Outcome, Outcome], SideBySide]:
    """Run two recipes on the same input, and compare both in the report of the first, with a ``note``."""
    outcomes = run(first), run(second)
    units = open_dataset(first.output.path)[next(iter(outcomes[0].plan.variables))].attrs.get("units", "1")
    map_path = None if second.output.map is None else Path(second.output.map)
    comparison = SideBySide([measure_outcome(outcome) for outcome in outcomes], map_path, str(units), note)
    if first.output.report is not None:
        coarse = open_input(first.input.path, first.input.chunks)
        write_report(outcomes[0], Path(first.output.report), coarse, comparison)
    return outcomes, comparison


def measure_outcome(outcome: Outcome) -> dict[str, Any]:
    """Return detail and errors of the first field with orography, from a sample of maps of the file of a run.

    ``cell_error`` is the largest relative error of a coarse cell in the whole file; ``detail`` the standard deviation
    of the added detail within coarse cells; ``per_km`` its slope over the orography there, per kilometre, and
    ``relief_correlation`` their correlation; ``gradient`` the root-mean-square horizontal gradient per hundred
    kilometres; ``coarser_rmse`` the error of predicting the coarse field from its own coarsening, and
    ``coarser_ratio`` its ratio to bilinear interpolation (None if not available).
    """
    recipe = outcome.recipe
    coarse, request = open_input(recipe.input.path, recipe.input.chunks), build_request(recipe)
    map_plan, name = plan_maps(coarse, request), next(iter(outcome.plan.variables))
    fine = sample_maps(select(open_dataset(recipe.output.path), name), map_plan.axes).load()
    values = fine[name].transpose(..., *map_plan.axes.dims).values.astype(np.float64)
    errors = (outcome.self_validation or self_validation(coarse, request)).get(name, {})
    # The last one is that with orography, if it was tried.
    rmse = next((errors[key] for key in reversed(errors) if key.startswith(name_of(request.method))), None)
    rate = outcome.terrain[name].rate if name in outcome.terrain else value_for(recipe.terrain.lapse_rate, name)
    return {
        "label": recipe.downscale.method + ("" if rate is None else f", {1000 * rate:g} per km of orography"),
        "cell_error": np.nan if outcome.conservation is None else outcome.conservation.max_relative_error,
        **_detail_numbers(values, map_plan, name),
        "coarser_rmse": rmse,
        "coarser_ratio": None if rmse is None else rmse / errors["bilinear"],
    }


def _detail_numbers(values: Floats, map_plan: MapPlan, name: str) -> dict[str, float]:
    """Return standard deviation of the detail, its slope over and correlation with orography, and the RMS gradient."""
    cells, area = map_plan.jobs[name].cells, map_plan.fine.cell_area
    valid = np.isfinite(values)
    weight = np.where(valid, area, 0.0)
    detail = np.where(valid, values - cells.broadcast_to_fine(cells.apply_mask(valid).mean(values)), 0.0)
    orog = np.asarray(map_plan.statics["orog"], dtype=np.float64)
    relief = orog - cells.broadcast_to_fine(cells.mean(orog))
    relief_sum = float((weight * relief**2).sum())
    cross, detail_sum = float((weight * detail * relief).sum()), float((weight * detail**2).sum())
    slopes = slope(values, Spacing.of(map_plan.fine))
    has_slope = np.isfinite(slopes)
    squares = float((weight * np.where(has_slope, slopes, 0.0) ** 2).sum() / (weight * has_slope).sum())
    return {
        "detail": (detail_sum / float(weight.sum())) ** 0.5,
        "per_km": 1e3 * cross / relief_sum,
        "relief_correlation": cross / (detail_sum * relief_sum) ** 0.5,
        "gradient": 1e5 * squares**0.5,
    }


def format_comparison(comparison: SideBySide) -> str:
    """Return the comparison as lines of text, one column per method."""
    rows = comparison.rows()
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
