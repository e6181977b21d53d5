"""The steps of one piece of a run: open, build the request, downscale, write and check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from downscale.cf.coordinates import select
from downscale.engine.plan import Plan
from downscale.errors import InputError, listing
from downscale.io.paths import input_name, sources_of
from downscale.io.read import open_dataset
from downscale.io.statics import pick_static
from downscale.losses.penalty import TerrainPenalty
from downscale.methods.learned import makes_mask
from downscale.request import Request
from downscale.runs.recipe import TERRAIN, Downscale, Recipe

SAMPLE, STORE = "sample:", ".zarr"


def open_input(path: str | list[str], chunks: Any = "auto") -> xr.Dataset:
    """Open a file, a pattern, a Zarr store, ``sample:NAME``, or a list of these as one."""
    ds = open_dataset(
        _resolve_sample(path) if isinstance(path, str) else [_resolve_sample(name) for name in path], chunks=chunks
    )
    empty = {str(dim) for field in ds.data_vars.values() for dim, size in field.sizes.items() if not size}
    if empty:
        raise InputError(
            f"expected at least one value along {listing(sorted(empty))} in {input_name(path)}, received none"
        )
    return ds


def _resolve_sample(name: str) -> str:
    """Return the path of a sample, and any other name unchanged."""
    if not name.startswith(SAMPLE):
        return name
    from downscale import sample

    return str(sample.path(name.removeprefix(SAMPLE)))


def build_request(recipe: Recipe) -> Request:
    """Return the request of a recipe."""
    penalty = recipe.terrain.penalty
    return Request(
        **{name: getattr(recipe.downscale, name) for name in Downscale.model_fields},
        orog=None if recipe.statics is None else _open_static(recipe, recipe.statics.variable),
        **{name: getattr(recipe.terrain, name) for name in TERRAIN},
        terrain_penalty=None if penalty is None else TerrainPenalty(**dict(penalty)),
        data_vars=recipe.input.variables,
        tolerance=recipe.validation.tolerance,
    )


def with_settings(recipe: Recipe, request: Request) -> Recipe:
    """Return a recipe with the method and the terrain term of a request."""
    terrain = recipe.terrain.model_copy(update={name: getattr(request, name) for name in TERRAIN})
    options = recipe.downscale.model_copy(update={"method": request.method})
    return recipe.model_copy(update={"downscale": options, "terrain": terrain})


def _open_static(recipe: Recipe, name: str | None) -> xr.Dataset:
    assert recipe.statics is not None
    return pick_static(open_input(recipe.statics.orog, chunks=None), name)


def static_sources(recipe: Recipe) -> tuple[str, ...]:
    """Return the files other than the input that affect the values."""
    section = recipe.downscale
    names = [section.mask, section.sftlf, section.target_grid, section.method]
    files = [name for name in names if isinstance(name, str) and Path(name).expanduser().exists()]
    if section.climatology is not None:
        files += sources_of(open_input(section.climatology, chunks={}))
    if recipe.statics is None:
        return tuple(files)
    return (*sources_of(open_input(recipe.statics.orog, chunks=None)), *files)


def fields_to_check(coarse: xr.Dataset, recipe: Recipe) -> xr.Dataset:
    """Return the coarse fields of a run, with all that locates them."""
    return coarse if recipe.input.variables is None else select(coarse, recipe.input.variables)


def has_means(recipe: Recipe, plan: Plan) -> bool:
    """Return whether there are cell means to check: codes are repeated, and event masks have no means."""
    return recipe.downscale.conserve is not None and bool(plan.variables) and not makes_mask(recipe.downscale.method)


def check_options(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of :func:`downscale.check_conservation` for the result."""
    return {
        "law": "total" if recipe.downscale.conserve == "total" else recipe.validation.law,
        "footprint": recipe.downscale.footprint,
        "tolerance": recipe.validation.tolerance, "mask": recipe.downscale.mask, "na_thres": recipe.downscale.na_thres,
        # Bounds are imposed only together with cell conservation.
        "bounds": recipe.downscale.bounds if recipe.downscale.conserve == "cell" else None,
        "quantity": recipe.downscale.quantity, "orderings": recipe.downscale.orderings,
    }  # fmt: skip
