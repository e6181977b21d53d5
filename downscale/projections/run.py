"""The steps of a projection: align, aggregate observations, adjust, downscale, validate.

Each step leaves a file in the folder of the output. A later run with ``resume`` keeps the files that verify.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.api import downscale, plan_request
from downscale.cf.horizontal import horizontal, share_grids
from downscale.check.climatology import climatology_validation
from downscale.errors import OptionError, OutputError, listing, pluralise
from downscale.io.paths import OVERWRITE, plain_path, require_folder, sources_of
from downscale.io.write import Storage, write_checked
from downscale.process.computing import progress_bar
from downscale.projections.adjustment import require_xsdba
from downscale.projections.bands import adjust_records
from downscale.projections.families import to_adjustable
from downscale.projections.indices import require_xclim
from downscale.projections.outcome import Projection
from downscale.projections.recipe import HISTORICAL, ProjectRecipe, load_project
from downscale.projections.records import ModelRecords, align_records
from downscale.projections.settings import VariableSettings, settings_for
from downscale.projections.summary import assess_model
from downscale.projections.years import in_years, span_of
from downscale.runs.blocks import parse_blocks
from downscale.runs.manifest import input_identities, read_manifest, remove_manifest, write_manifest
from downscale.runs.pipeline import run as run_recipe
from downscale.runs.recipe import Recipe, parse_recipe
from downscale.runs.single import STORE, build_request, open_input
from downscale.version import __version__

INPUTS, ADJUSTED = "inputs", "adjusted"
QUANTILES = 4
# A smaller gain of details by rank is within the noise of the validation.
LEAST_GAIN = 0.005
WHOLE = (0, 0)


@share_grids()
def run_project(
    recipe: str | Path | Mapping[str, Any] | ProjectRecipe, *, change: Mapping[str, Any] | None = None,
    dry_run: bool = False, overwrite: bool = False, resume: bool = False, cluster: str | None = None,
    workers: int | None = None, command: str = "", datasets: Mapping[str, xr.Dataset] | None = None,
) -> Projection:  # fmt: skip
    """Make fine projections from models and observations by a recipe.

    Parameters
    ----------
    recipe : str, path, mapping or ProjectRecipe
        A YAML file or its content.
    change : mapping of str, optional
        Values that replace those of the recipe, by the path of their key.
    dry_run : bool
        Plan only; reads coordinates and writes nothing.
    overwrite, resume : bool
        Replace the outputs of an earlier run, or keep those that verify.
    cluster, workers : optional
        As in :func:`downscale.run`.
    command : str
        Command line of the run, for the report.
    datasets : mapping, optional
        Datasets in place of the files of the only model: by experiment, and "observations".

    Returns
    -------
    Projection
        Files, check reports, settings and notes.

    Raises
    ------
    DownscaleError
        With a one-line message. Fine files appear only if they pass the conservation check as written.
    """
    recipe = load_project(recipe, change)
    overwrite = overwrite or recipe.output.overwrite
    if resume and any(not sources_of(ds) for ds in (datasets or {}).values()):
        raise OptionError("expected files of all inputs with resume, received a Dataset in memory; write it to a file")
    result = Projection(recipe, command=command)
    with result.stage("open and plan"):
        models = open_models(recipe, datasets or {})
        observed = models[0].observed
        result.settings = _settings(recipe, observed[models[0].names])
        for records in models:
            result.note(*records.notes)
    folder = _folder(recipe, overwrite or resume or dry_run)
    for records in models:
        for experiment, ds in records.experiments.items():
            fine_recipe = _fine_recipe(recipe, records, experiment, folder, None, result.settings)
            request = replace(build_request(fine_recipe), climatology=in_years(observed, records.reference))
            if request.factor is None and request.target_grid is None:
                request = replace(request, target_grid=observed)
            result.plans[records.model, experiment] = plan_request(ds, request)
    if recipe.output.blocks is not None:
        parse_blocks(recipe.output.blocks)
    if dry_run:
        return result
    _require_statistics(recipe)
    folder.mkdir(exist_ok=True)
    steps = _Steps(folder, resume)
    with result.stage("write observations"):
        climatology = steps.write(in_years(observed, models[0].reference), f"{INPUTS}/observations.nc", observed)
    for records in models:
        coarse = _coarse_observations(records, steps, result)
        with result.stage("adjust"):
            adjusted = adjust_records(
                coarse, records.historical, records.experiments, result.settings, folder / ADJUSTED,
                model=records.model, reference=records.reference, resume=resume, overwrite=overwrite,
                cluster=cluster, workers=workers, dask=recipe.dask,
            )  # fmt: skip
        known = {f"{name}: {settings}" for name, settings in result.settings.items()}
        result.note(*(note for note in adjusted.notes if note not in known))
        for experiment, path in adjusted.files.items():
            result.adjusted[records.model, experiment] = path
        with result.stage("choose details"):
            quantiles = _choose_quantiles(recipe, records, coarse, climatology, result)
        for experiment, path in adjusted.files.items():
            with result.stage("downscale"):
                content = _fine_recipe(
                    recipe, records, experiment, folder, climatology, result.settings, path, quantiles
                )
                outcome = run_recipe(
                    content, resume=resume, overwrite=overwrite, cluster=cluster, workers=workers, command=command
                )
            key = records.model, experiment
            result.files[key], result.conservation[key] = outcome.files, outcome.conservation
        with result.stage("validate"):
            assess_model(result, records, folder)
    return result


def _require_statistics(recipe: ProjectRecipe) -> None:
    """Raise an InputError if a package of the extra ``project`` is missing, before any work is done."""
    require_xsdba()
    if recipe.output.report and recipe.scores.indices:
        require_xclim()


def _settings(recipe: ProjectRecipe, observed: xr.Dataset) -> dict[str, VariableSettings]:
    """Return the settings of the variables that are adjusted: relations in place of those in order."""
    fields = {str(name): field for name, field in to_adjustable(observed).data_vars.items()}
    for name in recipe.variables if isinstance(recipe.variables, dict) else ():
        if recipe.settings(name) is not None and name not in fields:
            raise OptionError(
                f"expected settings of variables that are adjusted ({listing(fields)}), received settings of {name!r}; "
                "variables in order are adjusted by way of their relation"
            )
    return {name: settings_for(name, field, recipe.settings(name)) for name, field in fields.items()}


def open_models(recipe: ProjectRecipe, datasets: Mapping[str, xr.Dataset]) -> list[ModelRecords]:
    """Return the aligned records of all models of a recipe, opened lazily."""
    names: list[str] | None = recipe.names()
    opened: list[ModelRecords] = []
    observed = datasets["observations"] if "observations" in datasets else open_input(recipe.observations)
    for model, experiments in recipe.experiments().items():
        parts = {name: datasets[name] if name in datasets else open_input(files)
                 for name, files in experiments.items()}  # fmt: skip
        records = align_records(model, parts, observed, names, recipe.periods)
        names = records.names
        if opened and records.reference != opened[0].reference:
            raise OptionError(
                f"expected one reference period for all models, received {listing(one.reference for one in opened)} "
                f"and {records.reference}; give periods.reference"
            )
        opened.append(records)
    return opened


def _folder(recipe: ProjectRecipe, is_reused: bool) -> Path:
    folder = plain_path(recipe.output.path)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"expected a folder for the output, received the file {folder}; choose another name")
    if folder.is_dir() and any(folder.iterdir()) and not is_reused:
        raise OutputError(
            f"expected a new or empty folder, received {folder} with files; pass --resume to resume an earlier run, "
            f"or {OVERWRITE}"
        )
    require_folder(folder.parent)
    return folder


@dataclass(frozen=True)
class _Steps:
    """Intermediate files of a run, which a later run keeps if they verify."""

    folder: Path
    resume: bool

    def write(self, ds: xr.Dataset, name: str, *others: xr.Dataset) -> Path:
        """Write a Dataset, unless the file is that of an earlier run; ``others`` are what it depends on besides."""
        path, request = self.folder / name, _fingerprint(ds, *others)
        if self.resume and read_manifest(path, request, WHOLE) is not None:
            return path
        path.parent.mkdir(exist_ok=True)
        remove_manifest(path)
        write_checked(ds, path, None, overwrite=True, storage=Storage(), progress=progress_bar())
        write_manifest(path, request, WHOLE, None)
        return path


def _fingerprint(*datasets: xr.Dataset) -> str:
    """Return a checksum of the files of Datasets, their variables, years and cells."""
    facts = [
        [input_identities(sources_of(ds)), sorted(map(str, ds.data_vars)), span_of(ds),
         [axis.centres.tolist() if hasattr(axis, "centres") else None for axis in _axes(ds)]]
        for ds in datasets
    ]  # fmt: skip
    return hashlib.sha256(json.dumps([__version__, facts], sort_keys=True).encode()).hexdigest()


def _axes(ds: xr.Dataset) -> tuple[Any, ...]:
    grid = horizontal(ds).grid
    return getattr(grid, "y", None), getattr(grid, "x", None)


def _coarse_observations(records: ModelRecords, steps: _Steps, result: Projection) -> xr.Dataset:
    """Return the means of the observations over the cells of the model, from a file."""
    with result.stage("aggregate observations"):
        grid = records.historical.isel(time=0, drop=True)
        means: Any = downscale(records.observed, target_grid=grid, method="conservative")
        path = steps.write(means, f"{INPUTS}/{records.model}_observations.nc", records.observed)
    return open_input(str(path))


def _fine_recipe(
    recipe: ProjectRecipe, records: ModelRecords, experiment: str, folder: Path, climatology: Path | None,
    settings: Mapping[str, VariableSettings], adjusted: Path | None = None, quantiles: dict[str, int] | None = None,
) -> Recipe:  # fmt: skip
    """Return the recipe of the spatial step of one experiment."""
    section = recipe.downscale.model_dump(mode="json", exclude_unset=True)
    section.setdefault("orderings", "auto")
    # Values that the adjustment bounds on both sides stay within bounds on the fine cells.
    limits = {name: (settings[name].lower, settings[name].upper) for name in records.names
              if name in settings and settings[name].upper is not None}  # fmt: skip
    if limits:
        section.setdefault("bounds", limits)
    if climatology is not None:
        section["climatology"] = str(climatology)
        section.setdefault("climatology_quantiles", quantiles or 1)
    if recipe.downscale.factor is None and recipe.downscale.target_grid is None:
        section |= {} if climatology is None else {"target_grid": str(climatology)}
    output = recipe.output
    suffix = STORE if output.format == "zarr" else ".nc"
    variables = records.names[0] if len(records.names) == 1 else "multi"
    content = {
        "title": f"{recipe.title}: {records.model} {experiment}",
        "input": {"path": str(adjusted or f"{ADJUSTED}.nc"), "variables": records.names},
        "downscale": section,
        "terrain": recipe.terrain.model_dump(mode="json", exclude_unset=True),
        "statics": None if recipe.statics is None else recipe.statics.model_dump(mode="json"),
        "output": {
            "path": str(folder / f"{variables}_day_{records.model}_{experiment}{suffix}"),
            **output.model_dump(mode="json", include={"blocks", "complevel", "packing", "attrs"}),
            "merge": output.merge or suffix == STORE,
        },
        "dask": recipe.dask.model_dump(mode="json"),
    }
    return parse_recipe(content, "project")


def _choose_quantiles(
    recipe: ProjectRecipe, records: ModelRecords, coarse: xr.Dataset, climatology: Path, result: Projection
) -> dict[str, int]:
    """Return the number of details of each variable that predicts years of the observations left out best."""
    if "climatology_quantiles" in recipe.downscale.model_fields_set:
        return {}
    chosen = {}
    fine_recipe = _fine_recipe(recipe, records, HISTORICAL, Path("."), climatology, result.settings)
    request = build_request(fine_recipe)
    few, many = (
        climatology_validation(coarse, replace(request, climatology_quantiles=count)) for count in (1, QUANTILES)
    )
    for name in records.names:
        plain, one, several = (found.get(name, {}).get(key) for found, key in (
            (few, "kernel"), (few, "with climatology"), (many, "with climatology")))  # fmt: skip
        if plain is None or one is None or several is None:
            continue
        is_better = several < one * (1 - LEAST_GAIN)
        chosen[name] = QUANTILES if is_better else 1
        ratio = (several if is_better else one) / plain if plain else 1.0
        result.note(
            f"{name}: fine climatology with {pluralise(chosen[name], 'detail')} of each month, RMSE {ratio:.2f} of "
            "that of the kernel alone on years of the observations that are left out"
        )
    return chosen
