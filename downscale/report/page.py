"""The result of a run, and its report as an HTML page and a JSON file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import yaml

from downscale.cf.bounds import bounds_variables
from downscale.cf.horizontal import horizontal
from downscale.conservation.report import ConservationReport
from downscale.engine.plan import Plan, readable_bytes
from downscale.io.leases import temporary_beside
from downscale.io.read import sources_of
from downscale.plot.style import value_words
from downscale.version import library_versions

if TYPE_CHECKING:
    from downscale.report.pictures import Picture
    from downscale.runs.recipe import Recipe

# Quantities of each method and their labels; {} is replaced by the units of the field.
SIDES = {
    "cell_error": "largest relative error of a coarse cell",
    "detail": "detail added within coarse cells, {}",
    "per_km": "slope of detail over orography, {} per km",
    "relief_correlation": "correlation of detail with orography",
    "gradient": "root-mean-square gradient, {} per 100 km",
    "coarser_rmse": "self-validation: RMSE, {}",
    "coarser_ratio": "self-validation: RMSE / bilinear",
}
TEMPLATE = Path(__file__).parent / "page.html"


@dataclass
class Outcome:
    """The result of a run.

    Attributes
    ----------
    recipe : Recipe
        The recipe of the run.
    plan : Plan
        The plan of the run.
    conservation : ConservationReport or None
        Report of the check of the written file; None after a dry run.
    self_validation, terrain_penalty : dict
        Errors of predicting the coarse field from its own coarsening; penalty before and after.
    files : list of Path
        Files that the run wrote.
    seconds : float
        Wall time.
    blocks, kept : int
        Number of blocks of the run, and how many of an earlier run were kept.
    stages : dict
        Seconds spent in each stage.
    command : str
        Command line that reproduces the run, if it was started by one.
    pictures : list of Picture
        Pictures of the report.
    """

    recipe: Recipe
    plan: Plan
    conservation: ConservationReport | None = None
    self_validation: dict[str, dict[str, float]] = field(default_factory=dict)
    terrain_penalty: dict[str, dict[str, float]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    blocks: int = 0
    kept: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    command: str = ""
    pictures: list[Picture] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the seconds spent within the block, under a name."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - begin


@dataclass(frozen=True)
class Beside:
    """A comparison of two methods: label and quantities of each, by the keys of ``SIDES``, and a map of the second."""

    sides: tuple[Mapping[str, Any], ...]
    picture: Path | None = None
    units: str = "1"
    note: str = ""

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table, with the header first."""
        head = ("", *(str(side["label"]) for side in self.sides))
        return [head, *((words.format(self.units), *self._numbers(key)) for key, words in SIDES.items())]

    def _numbers(self, key: str) -> tuple[str, ...]:
        return tuple("-" if side[key] is None else f"{side[key]:.3g}" for side in self.sides)


def facts_path(path: Path) -> Path:
    """Return the name of the JSON file next to a report."""
    return path.with_suffix(".json")


def report_facts(outcome: Outcome, coarse: xr.Dataset | None = None) -> dict[str, Any]:
    """Return all content of a report as plain values; ``coarse`` is the input."""
    return {
        "title": outcome.recipe.title,
        "description": outcome.recipe.description,
        "command": outcome.command,
        "recipe": outcome.recipe.model_dump(by_alias=True),
        "input": None if coarse is None else _input(coarse),
        "plan": outcome.plan.to_dict(),
        "conservation": outcome.conservation.to_dict() if outcome.conservation is not None else None,
        "self_validation": outcome.self_validation,
        "terrain_penalty": outcome.terrain_penalty,
        "blocks": {"count": outcome.blocks, "kept": outcome.kept} if outcome.blocks else None,
        "files": [str(path) for path in outcome.files],
        "seconds": round(outcome.seconds, 2),
        "stages": {name: round(seconds, 3) for name, seconds in outcome.stages.items()},
        "versions": library_versions(),
    }


def recipe_text(outcome: Outcome) -> str:
    """Return the recipe as a file for ``downscale run``, without default values."""
    content = outcome.recipe.model_dump(by_alias=True, exclude_defaults=True, mode="json")
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _input(coarse: xr.Dataset) -> dict[str, Any]:
    """Return the files, fields, domain and times of the input."""
    paths = [path for path in map(Path, sources_of(coarse)) if path.is_file()]
    files = [{"path": str(path), "bytes": path.stat().st_size} for path in paths]
    bounds = bounds_variables(coarse)
    fields = {
        str(name): {
            "long_name": str(field.attrs.get("long_name", "")),
            "units": str(field.attrs.get("units", "")),
            "shape": dict(zip(map(str, field.dims), field.shape, strict=True)),
        }
        for name, field in coarse.data_vars.items()
        if field.ndim and name not in bounds
    }
    return {"files": files, "fields": fields, "axes": {**_axes(coarse), **_times(coarse)}}


def _axes(coarse: xr.Dataset) -> dict[str, str]:
    descriptions = {}
    where = horizontal(coarse, guess=True)
    for dim in where.dims:
        if dim in coarse.coords and coarse[dim].ndim == 1:
            values = np.asarray(coarse[dim].values, dtype=np.float64)
            unit = str(coarse[dim].attrs.get("units", ""))
            descriptions[str(dim)] = f"{values.size} cells, {values[0]:g} to {values[-1]:g} {unit}".strip()
    return descriptions


def _times(coarse: xr.Dataset) -> dict[str, str]:
    if "time" not in coarse.coords or not coarse["time"].size:
        return {}
    values = np.atleast_1d(coarse["time"].values)
    first, last = (value_words("time", value) for value in (values[0], values[-1]))
    return {"time": f"{values.size} steps, {first} to {last}" if values.size > 1 else first}


def write_report(
    outcome: Outcome,
    path: Path,
    coarse: xr.Dataset | None = None,
    drawn: list[Picture] | None = None,
    beside: Beside | None = None,
) -> None:
    """Write ``path`` (HTML) and a JSON file with the same content; both appear complete or not at all."""
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

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["bytes"] = readable_bytes
    environment.filters["sig"] = lambda value: f"{value:.3g}"
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
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
