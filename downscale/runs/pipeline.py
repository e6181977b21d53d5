"""The stages of a run: read, downscale, terrain, validate, write, plot, report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.api import plan_request
from downscale.cf.coordinates import select
from downscale.cf.horizontal import share_grids
from downscale.check.climatology import climatology_validation
from downscale.check.self_validation import self_validation, terrain_penalty_values
from downscale.engine.memory import READING_BYTES
from downscale.errors import OutputError
from downscale.io.config import read_recipe
from downscale.io.paths import OVERWRITE, check_target, find_named_files, sources_of
from downscale.io.read import open_dataset
from downscale.plot.figures import compare
from downscale.plot.style import check_path
from downscale.report.page import Outcome, draw_pictures, facts_path, write_report
from downscale.request import AUTO, Request
from downscale.runs.block_run import BlockOptions, choose_blocks, downscale_to_file, lock_outputs, run_blocks
from downscale.runs.blocks import BlockPlan, block_size, check_outputs, check_result, plan_blocks
from downscale.runs.manifest import remove_manifest, sweep
from downscale.runs.recipe import Recipe
from downscale.runs.single import build_request, has_means, open_input, static_sources, with_settings
from downscale.steps.choice import settle_request
from downscale.steps.prepare import split_request


@share_grids()
def run(
    recipe: str | Path | Mapping[str, Any] | Recipe, *, change: Mapping[str, Any] | None = None,
    dry_run: bool = False, overwrite: bool = False, resume: bool = False, cluster: str | None = None,
    workers: int | None = None, block: int | None = None, command: str = "",
) -> Outcome:  # fmt: skip
    """Run a recipe: read, statics, downscale, terrain, validate, write.

    Parameters
    ----------
    recipe : str, path, mapping or Recipe
        A YAML file or its content.
    change : mapping of str, optional
        Values that replace those of the recipe, by the path of their key: ``{"output.path": "fine.nc"}``.
    dry_run : bool
        Plan only; reads coordinates and writes nothing.
    overwrite : bool
        Replace existing outputs, even if the recipe does not.
    resume : bool
        Keep blocks of an earlier run that verify, and compute the others.
    cluster : str, optional
        Compute blocks on a cluster: a profile of the recipe, "local", "slurm", "pbs", one process per GPU, or an
        address.
    workers : int, optional
        Number of workers of a cluster that is started here.
    block : int, optional
        Compute only this block, counted from zero, without merging and without a report.
    command : str
        Command line of the run, for the report.

    Returns
    -------
    Outcome
        The plan, the check report of the written file, the files and the seconds of each stage.

    Raises
    ------
    DownscaleError
        With a one-line message. The NetCDF file appears only if it passes the conservation check as written.
    Stopped
        If a run in blocks was stopped by a signal or lost its cluster; finished blocks are kept.
    """
    start = time.perf_counter()
    recipe = read_recipe(Recipe, recipe, change)
    overwrite = overwrite or recipe.output.overwrite
    options = BlockOptions(resume, cluster, workers, block)
    coarse = open_input(recipe.input.path, recipe.input.chunks)
    request = build_request(recipe)
    outcome = Outcome(recipe, plan_request(coarse, request), command=command)
    outcome.stages["open and plan"] = time.perf_counter() - start
    blocks = None
    output = recipe.output
    in_blocks = output.blocks is not None or output.append or not output.merge
    if in_blocks or options != BlockOptions() or recipe.dask.use is not None:
        blocks = plan_blocks(recipe, coarse, request, outcome.plan)
        outcome.blocks = len(blocks.blocks)
        note = f"{blocks}, about {block_size(blocks, outcome.plan)} each"
        # A second file is open while blocks are cut from the input, and while they are merged (measured).
        fields = outcome.plan.variables.items()
        variables = {name: replace(field, static_bytes=field.static_bytes + READING_BYTES) for name, field in fields}
        outcome.plan = replace(outcome.plan, variables=variables, notes=(*outcome.plan.notes, note))
        choose_blocks(blocks, options)
    targets = {} if block is not None else _check_targets(recipe, overwrite or dry_run, resume, coarse, blocks)
    if dry_run:
        is_free = overwrite or resume or output.append
        existing = [] if is_free else [n for n in _output_names(recipe, blocks).values() if Path(n).exists()]
        notes = [f"{name} exists; to replace it, {OVERWRITE}" for name in existing]
        outcome.plan = replace(outcome.plan, notes=(*outcome.plan.notes, *notes))
        return outcome
    if request.lapse_rate is not None or request.method == AUTO:
        with outcome.stage("choice of settings"):
            # Of the whole record, for all of its blocks.
            settled = settle_request(coarse, request)
            request, outcome.terrain, outcome.choices = settled.request, settled.terrain, settled.choices
            recipe = with_settings(recipe, request)
    with outcome.stage("read, downscale, write and check"):
        if blocks is None:
            target = Path(recipe.output.path)
            sweep([target.expanduser()])
            is_checked = has_means(recipe, outcome.plan)
            outcome.conservation = downscale_to_file(
                coarse, recipe, recipe.output.path, is_checked, overwrite=overwrite
            )
            outcome.files.append(target)
            remove_manifest(target.expanduser())
        else:
            with lock_outputs(blocks, options):
                indices = choose_blocks(blocks, options)
                check_outputs(blocks, indices, inputs_of(recipe, coarse), resume=resume, overwrite=overwrite)
                result = run_blocks(recipe, blocks, outcome.plan.variables, options)
            outcome.conservation, outcome.kept = result.conservation, result.kept
            outcome.files += result.files
    if block is None:
        _report(outcome, coarse, request, targets, start)
    return outcome


def _report(outcome: Outcome, coarse: xr.Dataset, request: Request, targets: dict[str, Path], start: float) -> None:
    """Plot the map and write the report, if requested."""
    if outcome.plan.variables and not split_request(coarse, request)[0]:
        if "report" in targets:
            # Only the report needs it; it downscales a sample of maps several times.
            with outcome.stage("self-validation"):
                outcome.self_validation = self_validation(coarse, request)
                outcome.climatology = climatology_validation(coarse, request)
        with outcome.stage("terrain penalty"):
            outcome.terrain_penalty = terrain_penalty_values(coarse, request)
    with outcome.stage("figures"):
        if "map" in targets or ("report" in targets and outcome.plan.variables):
            _draw_figures(coarse, outcome, targets.get("map"), "report" in targets)
    outcome.files += targets.values()
    outcome.seconds = time.perf_counter() - start
    outcome.stages["the rest"] = outcome.seconds - sum(outcome.stages.values())
    if "report" in targets:
        write_report(outcome, targets["report"], coarse)


def inputs_of(recipe: Recipe, coarse: xr.Dataset) -> tuple[str, ...]:
    """Return all files that a run reads, or that its recipe names as input."""
    names = find_named_files(recipe.model_dump(mode="json", exclude={"output"}))
    return (*sources_of(coarse), *static_sources(recipe), *names)


def _check_targets(
    recipe: Recipe, overwrite: bool, resume: bool, coarse: xr.Dataset, blocks: BlockPlan | None
) -> dict[str, Path]:
    """Return the paths of map, report and facts, and check all outputs before any work is done."""
    names = _output_names(recipe, blocks)
    inputs = inputs_of(recipe, coarse)
    checks = {"file": check_result}
    free = {kind: overwrite or resume or (kind == "file" and recipe.output.append) for kind in names}
    targets = {kind: checks.get(kind, check_target)(name, free[kind], inputs) for kind, name in names.items()}
    if len({target.resolve() for target in targets.values()}) != len(targets):
        kinds = ", ".join(f"{kind} {target}" for kind, target in targets.items())
        raise OutputError(f"expected different names for all outputs, received {kinds}; rename one")
    if "map" in targets:
        check_path(targets["map"])
    del targets["file"]
    return targets


def _output_names(recipe: Recipe, blocks: BlockPlan | None) -> dict[str, str]:
    """Return the names of all outputs by their kinds."""
    output = recipe.output
    names = {"file": output.path, "map": output.map, "report": output.report}
    if output.report is not None:
        names["facts"] = str(facts_path(Path(output.report)))
    if blocks is not None and not blocks.merge:
        names["file"] = str(blocks.paths[-1])
    return {kind: str(Path(name).expanduser()) for kind, name in names.items() if name is not None}


def _draw_figures(coarse: xr.Dataset, outcome: Outcome, map_path: Path | None, with_report: bool) -> None:
    """Plot the last map of the first field, and the pictures of the report, from the file as written."""
    fine = open_dataset(outcome.files[-1], chunks={})
    name = [*outcome.plan.variables, *(str(n) for n, v in fine.data_vars.items() if v.ndim > 1)][0]
    pair, title, coast = (
        (select(coarse, name), select(fine, name)),
        outcome.recipe.title,
        _land_fraction(outcome.recipe),
    )
    if map_path is not None:
        last = {str(d): -1 for d in coarse[name].dims if d not in fine[name].dims[-2:]}
        compare(*pair, path=map_path, select=last, title=title, sftlf=coast)
    if with_report and outcome.plan.variables:
        outcome.pictures = draw_pictures(*pair, name, title, map_path, coast)


def _land_fraction(recipe: Recipe) -> xr.DataArray | None:
    """Return the land fraction of the statics, whose contour is the coast, or None if they have none."""
    if recipe.statics is None:
        return None
    statics = open_input(recipe.statics.orog, chunks=None)
    return statics["sftlf"] if "sftlf" in statics else None
