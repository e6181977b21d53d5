"""The content of a report as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import yaml

from downscale.cf.bounds import bounds_variables
from downscale.cf.horizontal import horizontal
from downscale.io.read import sources_of
from downscale.plot.words import value_words
from downscale.version import library_versions

if TYPE_CHECKING:
    from downscale.report.outcome import Outcome


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
    found = {}
    where = horizontal(coarse, guess=True)
    for dim in where.dims:
        if dim in coarse.coords and coarse[dim].ndim == 1:
            values = np.asarray(coarse[dim].values, dtype=np.float64)
            unit = str(coarse[dim].attrs.get("units", ""))
            found[str(dim)] = f"{values.size} cells, {values[0]:g} to {values[-1]:g} {unit}".strip()
    return found


def _times(coarse: xr.Dataset) -> dict[str, str]:
    if "time" not in coarse.coords or not coarse["time"].size:
        return {}
    values = np.atleast_1d(coarse["time"].values)
    first, last = (value_words("time", value) for value in (values[0], values[-1]))
    return {"time": f"{values.size} steps, {first} to {last}" if values.size > 1 else first}
