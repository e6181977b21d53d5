"""The assessment of each model of a run: its fields, baselines, facts for the report, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

from downscale.cf.horizontal import horizontal
from downscale.errors import OptionError, listing
from downscale.io.paths import sources_of
from downscale.projections.assess import Fields, assess, write_assessment
from downscale.projections.baselines import BASELINES, MAPPING
from downscale.projections.outcome import Projection
from downscale.projections.recipe import HISTORICAL, ProjectRecipe
from downscale.projections.records import ModelRecords
from downscale.projections.years import span_of, words_of

# Quantile mapping of each fine cell holds all values in memory, and takes the time of so many adjustments.
MOST_VALUES = 30_000_000


def assess_model(result: Projection, records: ModelRecords, folder: Path) -> None:
    """Add the scores and change signals of one model to a projection, and write them with a report into a folder."""
    model, names = records.model, list(records.experiments)
    fields = Fields(
        records.observed, records.experiments, {name: result.open_adjusted(name, model) for name in names},
        {name: result.open(name, model) for name in names},
    )  # fmt: skip
    recipe = result.recipe
    found = result.assessments[model] = assess(
        fields, reference=records.reference, validation=records.validation, variables=records.names,
        settings=result.settings, labels=_baselines(recipe, records), paired=recipe.scores.days,
        indices=recipe.scores.indices,
    )  # fmt: skip
    if recipe.output.report:
        target = folder / model
        target.mkdir(exist_ok=True)
        write_assessment(
            found, target, title=f"{recipe.title}: {model}", facts=_facts(result, records), choices=result.notes,
            conservation={name: report for (own, name), report in result.conservation.items()
                          if own == model and report is not None},
            description=recipe.description, command=result.command,
            recipe=yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True), sort_keys=False),
        )  # fmt: skip


def _baselines(recipe: ProjectRecipe, records: ModelRecords) -> tuple[str, ...]:
    """Return the baselines of a recipe; "auto" leaves out quantile mapping of each fine cell if these are many."""
    wanted = recipe.scores.baselines
    if wanted == "auto":
        days = sum(ds.sizes["time"] for ds in records.experiments.values())
        values = days * int(np.prod(horizontal(records.observed).grid.shape)) * len(records.names)
        return tuple(label for label in BASELINES if label != MAPPING or values <= MOST_VALUES)
    names = [wanted] if isinstance(wanted, str) else wanted
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise OptionError(f"expected baselines among {listing(BASELINES)}, received {listing(unknown)}")
    return tuple(names)


def _facts(result: Projection, records: ModelRecords) -> dict[str, dict[str, Any]]:
    scenarios = {name: span_of(ds) for name, ds in records.experiments.items() if name != HISTORICAL}
    return {
        "Inputs": {
            "observations": _input_words(records.observed),
            **{name: _input_words(ds) for name, ds in records.experiments.items()},
        },
        "Periods": {
            "reference (adjustment and climatology)": words_of(records.reference),
            "validation": words_of(records.validation) if records.validation else "none", **scenarios,
        },
        "Adjustment": {name: str(settings) for name, settings in result.settings.items()},
    }  # fmt: skip


def _input_words(ds: xr.Dataset) -> str:
    files = [Path(file).name for file in sources_of(ds)]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    rows, columns = horizontal(ds).grid.shape
    calendar = ds["time"].dt.calendar
    return f"{files[0] if files else 'in memory'}{more}: {rows} x {columns} cells, {ds.sizes['time']} days, {calendar}"
