"""Recipes of projections: models, observations, periods and variables, validated with pydantic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from downscale.errors import InputError, OptionError, listing
from downscale.io.config import Block, read_recipe
from downscale.io.paths import expand_paths
from downscale.projections.families import RANGE, RATIO, SKEWNESS
from downscale.projections.settings import VariableSettings
from downscale.runs.recipe import Dask, Downscale, Statics, Terrain
from downscale.runs.single import STORE

HISTORICAL = "historical"
RELATIONS = (RANGE, SKEWNESS, RATIO)
# CMIP file names: variable, table, model, experiment, member, further facets, dates.
CMIP_NAME = re.compile(
    r"[^_]+_[^_]+_(?P<model>[^_]+)_(?P<experiment>[^_]+)_(?P<member>r\d+i\d+p\d+(f\d+)?)(_.*)?\.nc4?"
)
YEARS = re.compile(r"\s*(\d{4})\s*(?:(?:-|to|,)\s*(\d{4})\s*)?")
Paths = str | list[str]


def read_years(value: Any) -> tuple[int, int]:
    """Return the first and the last year of a period.

    Examples
    --------
    >>> read_years("1979-1996"), read_years([2065, 2100]), read_years(2001)
    ((1979, 1996), (2065, 2100), (2001, 2001))
    """
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    found = YEARS.fullmatch(text)
    years = (int(found[1]), int(found[2] or found[1])) if found else None
    if years is None or years[0] > years[1]:
        raise ValueError('a first and a last year such as "1979-1996"')
    return years


Years = Annotated[tuple[int, int], BeforeValidator(read_years)]


class Periods(Block):
    """Years of the periods.

    Adjustments are trained on ``reference``, by default all common years of model and observations. ``validation`` are
    years of the observations that nothing was trained on; ``future`` limits the scenarios, by default to all of theirs.
    """

    reference: Years | None = None
    validation: Years | None = None
    future: Years | None = None

    @model_validator(mode="after")
    def _require_apart(self) -> Periods:
        if self.validation is not None:
            if self.reference is None:
                raise ValueError("reference together with validation, whose years must not be trained on")
            if self.validation[0] <= self.reference[1] and self.reference[0] <= self.validation[1]:
                raise ValueError("validation years apart from the reference years")
        return self


class Scores(Block):
    """The validation.

    ``baselines`` are those beside the projection: "raw + bilinear", "BCSD", "quantile mapping", or "auto", which leaves
    out what needs much memory. ``indices`` is whether to compute indices of extremes (needs xclim), ``days`` whether
    days of model and observations correspond, as in a pseudo-model.
    """

    baselines: list[str] | str = "auto"
    indices: bool = True
    days: bool = False


class Output(Block):
    """The output: a folder with fine fields, adjusted coarse fields, scores and a report.

    ``blocks`` and ``merge`` are those of ``downscale run``: by default one file per block, named by its dates.
    ``format`` is "netcdf", or "zarr" for one store per model and experiment.
    """

    path: str
    format: str = Field(default="netcdf", pattern="^(netcdf|zarr)$")
    blocks: int | str | None = None
    merge: bool = False
    complevel: int = Field(default=1, ge=0, le=9)
    packing: str | int | dict[str, str | int] | None = None
    attrs: dict[str, Any] | None = None
    report: bool = True
    overwrite: bool = False


class ProjectRecipe(Block):
    """Models and observations, and how projections are made from them.

    ``models`` maps names of models to their experiments, and these to files: ``{"MPI-ESM1-2-HR": {"historical":
    "tas_*_historical_*.nc", "ssp585": [...]}}``; or it is a pattern of files with CMIP names, whose models and
    experiments are those of the names. ``variables`` lists names, or maps them to settings of the adjustment.
    """

    title: str = "projection"
    description: str = ""
    models: dict[str, dict[str, Paths]] | Paths
    observations: Paths
    variables: list[str] | dict[str, VariableSettings | None] | None = None
    periods: Periods = Periods()
    statics: Statics | None = None
    downscale: Downscale = Downscale()
    terrain: Terrain = Terrain()
    scores: Scores = Scores()
    output: Output
    dask: Dask = Dask()

    @model_validator(mode="after")
    def _require_historical(self) -> ProjectRecipe:
        for model, experiments in self.experiments().items():
            if HISTORICAL not in experiments:
                raise ValueError(f"the experiment {HISTORICAL!r} of the model {model!r}, beside {listing(experiments)}")
        if self.downscale.climatology is not None:
            raise ValueError("no climatology, which is that of the observations")
        if Path(self.output.path).suffix in (".nc", ".nc4", STORE):
            raise ValueError(f"output.path to be the name of a folder, received {self.output.path}")
        return self

    def experiments(self) -> dict[str, dict[str, Paths]]:
        """Return the files of each experiment of each model."""
        return self.models if isinstance(self.models, dict) else models_of(self.models)

    def names(self) -> list[str] | None:
        """Return the names of the variables, or None for all that model and observations share."""
        if self.variables is None:
            return None
        # Settings of relations, such as the diurnal range, are those of their adjustment.
        return [name for name in self.variables if name not in RELATIONS or isinstance(self.variables, list)]

    def settings(self, name: str) -> VariableSettings | None:
        """Return the settings of the adjustment of a variable, or None for the defaults."""
        return self.variables.get(name) if isinstance(self.variables, dict) else None


def models_of(paths: Paths) -> dict[str, dict[str, Paths]]:
    """Return files by model (with its member, if there are several) and experiment, from their CMIP names."""
    files = expand_paths(paths) if isinstance(paths, str) else [name for path in paths for name in expand_paths(path)]
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for file in files:
        match = CMIP_NAME.fullmatch(Path(file).name)
        if match is None:
            raise InputError(
                f"expected a CMIP name such as tas_day_MODEL_historical_r1i1p1f1_gn_19790101-20141231.nc, received "
                f"{file}; name models and experiments (models: {{NAME: {{historical: {file}}}}})"
            )
        found.setdefault((match["model"], match["member"]), {}).setdefault(match["experiment"], []).append(file)
    names = [model for model, _ in found]
    return {
        model if names.count(model) == 1 else f"{model}_{member}": dict(experiments)
        for (model, member), experiments in found.items()
    }


def load_project(
    path: str | Path | Mapping[str, Any] | ProjectRecipe, change: Mapping[str, Any] | None = None
) -> ProjectRecipe:
    """Read the recipe of a projection; raises an InputError or an OptionError that names the path of a key."""
    recipe = read_recipe(ProjectRecipe, path, change)
    if not recipe.experiments():
        raise OptionError(f"expected files of at least one model, received {recipe.models!r}")
    return recipe
