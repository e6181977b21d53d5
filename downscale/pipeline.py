"""The whole story of a run: read, downscale, terrain, validate, write, draw, report."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.api import downscale, plan
from downscale.diagnostics.report import ConservationReport
from downscale.engine.plan import Plan
from downscale.errors import InputError, OutputError, listing
from downscale.io.read import open_dataset, sources_of
from downscale.io.statics import pick_static
from downscale.io.store import check_store
from downscale.io.write import check_target
from downscale.losses.terrain import TerrainPenalty
from downscale.output import to_netcdf, to_zarr
from downscale.recipe import Recipe
from downscale.report import facts_path, write_report
from downscale.request import Request
from downscale.selfcheck import self_validation, terrain_penalty_values
from downscale.stages import split

SAMPLE, STORE = "sample:", ".zarr"


@dataclass
class Outcome:
    """What a run did.

    Attributes
    ----------
    recipe : Recipe
        What was asked.
    plan : Plan
        What was to happen.
    conservation : ConservationReport or None
        What the validator found in the file as written; None after a dry run.
    self_validation, terrain_penalty : dict
        Errors of predicting the coarse field from its own coarsening; penalty before and after.
    files : list of Path
        What was written.
    seconds : float
        Wall time.
    """

    recipe: Recipe
    plan: Plan
    conservation: ConservationReport | None = None
    self_validation: dict[str, dict[str, float]] = field(default_factory=dict)
    terrain_penalty: dict[str, dict[str, float]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    seconds: float = 0.0


def run(recipe: Recipe, *, dry_run: bool = False, overwrite: bool = False) -> Outcome:
    """Carry out a recipe: read, statics, downscale, terrain, validate, write.

    Parameters
    ----------
    recipe : Recipe
        From :func:`downscale.recipe.load_recipe`.
    dry_run : bool
        Plan only; reads coordinates, writes nothing.
    overwrite : bool
        Replace existing outputs, whatever the recipe says.

    Raises
    ------
    DownscaleError
        With one line; the NetCDF file appears only if its laws hold as written.
    """
    begin = time.perf_counter()
    overwrite = overwrite or recipe.output.overwrite
    coarse = open_input(recipe.input.path, recipe.input.chunks)
    request = build_request(recipe)
    options = {key: getattr(request, key) for key in Request.__dataclass_fields__}
    outcome = Outcome(recipe, plan(coarse, **options))
    targets = _targets(recipe, overwrite, coarse)
    if dry_run:
        return outcome
    fine: Any = downscale(coarse, **options)
    chosen = coarse if recipe.input.variables is None else coarse[recipe.input.variables]
    # Codes are repeated: there are no means to judge.
    judge = recipe.downscale.conserve is not None and bool(outcome.plan.variables)
    outcome.conservation = _written(fine, chosen if judge else None, recipe, overwrite)
    outcome.files.append(Path(recipe.output.path))
    if outcome.plan.variables and not split(coarse, request)[0]:
        outcome.self_validation = self_validation(coarse, request)
        outcome.terrain_penalty = terrain_penalty_values(coarse, request)
    outcome.seconds = time.perf_counter() - begin
    for kind, target in targets.items():
        if kind == "map":
            names = [*outcome.plan.variables, *(str(n) for n, v in fine.data_vars.items() if v.ndim > 1)]
            _draw(coarse, recipe, names[0], target)
        if kind == "report":
            write_report(outcome, target, targets.get("map"))
        outcome.files.append(target)
    return outcome


def _written(
    fine: xr.Dataset, coarse: xr.Dataset | None, recipe: Recipe, overwrite: bool
) -> ConservationReport | None:
    law = "total" if recipe.downscale.conserve == "total" else recipe.validation.law
    output = recipe.output
    write = to_zarr if output.path.endswith(STORE) else to_netcdf
    return write(
        fine, output.path, coarse=coarse, overwrite=overwrite, complevel=output.complevel, law=law,
        tolerance=recipe.validation.tolerance, mask=recipe.downscale.mask, na_thres=recipe.downscale.na_thres,
        packing=output.packing, profile=output.profile, attrs=output.attrs, encoding=output.encoding,
        # Bounds are imposed together with the cell law only.
        bounds=recipe.downscale.bounds if recipe.downscale.conserve == "cell" else None,
    )  # fmt: skip


def open_input(path: str, chunks: Any = "auto") -> xr.Dataset:
    """Open a file, a pattern, a Zarr store, or ``sample:NAME``."""
    if path.startswith(SAMPLE):
        from downscale import sample

        return open_dataset(sample.path(path.removeprefix(SAMPLE)), chunks=chunks)
    ds = open_dataset(path, chunks=chunks)
    empty = {str(dim) for field in ds.data_vars.values() for dim, size in field.sizes.items() if not size}
    if empty:
        raise InputError(f"expected at least one value along {listing(sorted(empty))} in {path}, received none")
    return ds


def build_request(recipe: Recipe) -> Request:
    """Return what a recipe asks of the engine."""
    penalty = recipe.terrain.penalty
    settings = recipe.downscale.model_dump(exclude_none=True)
    settings.update(conserve=recipe.downscale.conserve, bounds=recipe.downscale.bounds)
    return Request(
        **settings,
        orog=None if recipe.statics is None else _statics(recipe, recipe.statics.variable),
        lapse_rate=recipe.terrain.lapse_rate,
        terrain_penalty=None if penalty is None else TerrainPenalty(**penalty.model_dump()),
        data_vars=recipe.input.variables,
        tolerance=recipe.validation.tolerance,
    )


def _statics(recipe: Recipe, name: str | None) -> xr.Dataset:
    assert recipe.statics is not None
    return pick_static(open_input(recipe.statics.orog, chunks=None), name)


def _targets(recipe: Recipe, overwrite: bool, coarse: xr.Dataset) -> dict[str, Path]:
    """Return the paths of map, report and facts, all outputs checked before any work is done."""
    statics = () if recipe.statics is None else sources_of(open_input(recipe.statics.orog, chunks=None))
    names = {"file": recipe.output.path, "map": recipe.output.map, "report": recipe.output.report}
    if recipe.output.report is not None:
        names["facts"] = str(facts_path(Path(recipe.output.report)))
    inputs = (*sources_of(coarse), *statics)
    targets = {
        kind: (check_store if name.endswith(STORE) else check_target)(name, overwrite, inputs)
        for kind, name in names.items()
        if name is not None
    }
    if len({target.resolve() for target in targets.values()}) != len(targets):
        kinds = ", ".join(f"{kind} {target}" for kind, target in targets.items())
        raise OutputError(f"expected different names for all outputs, received {kinds}; rename one")
    if "map" in targets:
        from downscale.maps.output import check_path

        check_path(targets["map"])
    del targets["file"]
    return targets


def _draw(coarse: xr.Dataset, recipe: Recipe, name: str, target: Path) -> None:
    from downscale.maps import compare

    fine = open_dataset(recipe.output.path, chunks={})
    last = {str(d): -1 for d in coarse[name].dims if d not in fine[name].dims[-2:]}
    sftlf = None
    if recipe.statics is not None:
        statics = open_input(recipe.statics.orog, chunks=None)
        sftlf = statics["sftlf"] if "sftlf" in statics else None
    compare(_only(coarse, name), _only(fine, name), path=target, select=last, title=recipe.title, sftlf=sftlf)


def _only(ds: xr.Dataset, name: str) -> xr.Dataset:
    """Return a Dataset of one field with its bounds, which a selection by name would drop."""
    return ds.drop_vars([n for n in ds.data_vars if n != name and not str(n).endswith("_bnds")])
