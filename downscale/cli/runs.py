"""Commands that downscale: demo, run, apply."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from downscale.cli.app import (
    Blocks,
    Cluster,
    DryRun,
    MaxMemory,
    Merge,
    OneBlock,
    Overwrite,
    Resume,
    Workers,
    app,
    say,
)  # fmt: skip
from downscale.cli.app import given as typed

# Options of run and apply that are passed on unchanged.
HOW = ("dry_run", "overwrite", "resume", "cluster", "block", "workers")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the outputs; made if missing.")] = Path("demo"),
) -> None:
    """Downscale the embedded sample with the kernel and with a network: NetCDF, maps and a report."""
    from downscale.runs.demo import (
        LEARNED_NOTE,
        demo_recipe,
        format_comparison,
        learned_recipe,
        prepare_folder,
        run_both,
    )

    prepare_folder(out)
    from downscale.process.computing import scheduled

    with scheduled():
        outcomes, beside = run_both(demo_recipe(out), learned_recipe(out), LEARNED_NOTE)
    for outcome in outcomes:
        _say_outcome(outcome)
    say(format_comparison(beside))
    say(beside.note)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yml", help="The recipe.")],
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    blocks: Blocks = None,
    merge: Merge = None,
    resume: Resume = False,
    cluster: Cluster = None,
    block: OneBlock = None,
    workers: Workers = None,
    max_memory: MaxMemory = None,
) -> None:
    """Run a recipe: read, statics, downscale, terrain, validate, write."""
    given = dict(locals())
    from downscale.io.paths import require_no_input
    from downscale.runs.recipe import load_recipe

    wanted = load_recipe(recipe)
    for name in (wanted.output.path, wanted.output.map, wanted.output.report):
        if name is not None:
            require_no_input(Path(name).expanduser(), (recipe,))
    _carry_out(_in_blocks(wanted, blocks, merge), max_memory, **{key: given[key] for key in HOW})


@app.command()
def apply(
    source: Annotated[str, typer.Argument(metavar="IN.nc", help="Coarse file, or a quoted pattern.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.nc", help="Fine file to write (or store, OUT.zarr).")],
    factor: Annotated[str | None, typer.Option(help="Refinement: 4, or by dimension lat:4,lon:2,time:30.")] = None,
    target: Annotated[str | None, typer.Option(help="Grid instead: a file, 0.25x0.25, or time:D.")] = None,
    mask: Annotated[str | None, typer.Option(help="File with the mask or fraction of valid fine cells.")] = None,
    na_thres: Annotated[float, typer.Option(help="Maximum missing fraction of a target cell, 0 to 1.")] = 1.0,
    method: Annotated[
        str, typer.Option(help="sobolev, conservative, bilinear, bicubic, cascade, rain, or MODEL.safetensors.")
    ] = "sobolev",
    members: Annotated[int | None, typer.Option(help="Number of ensemble members to generate.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the ensemble.")] = 0,
    smoothing: Annotated[
        float | None, typer.Option(help="For cascade: smoothing of the fine fields, 0 (radar) to 3.")
    ] = None,
    variables: Annotated[str | None, typer.Option("--vars", help="Variables to downscale, e.g. tas,pr.")] = None,
    orog: Annotated[str | None, typer.Option(help="File with the fine orography in metres.")] = None,
    lapse_rate: Annotated[float | None, typer.Option(help="Change per metre of height; needs --orog.")] = None,
    footprint: Annotated[
        str | None, typer.Option(help="Footprint that coarse values are averages with: gaussian:25km.")
    ] = None,
    conserve: Annotated[str, typer.Option(help="cell, total or none.")] = "cell",
    bounds: Annotated[str, typer.Option(help="auto, none, or LOW:HIGH (either may be empty).")] = "auto",
    quantity: Annotated[
        str | None,
        typer.Option(help="intensive (means) or extensive (sums over cells or periods), or by variable pr:extensive."),
    ] = None,
    chunks: Annotated[str, typer.Option(help="Dask chunks: auto, or by dimension time:365.")] = "auto",
    complevel: Annotated[int, typer.Option(help="Deflate level, 0 to 9.")] = 1,
    packing: Annotated[str | None, typer.Option(help="int16, or bits of the mantissa to keep.")] = None,
    profile: Annotated[str | None, typer.Option(help="Attributes that an archive requires: cordex-esd.")] = None,
    attrs: Annotated[list[str] | None, typer.Option("--attr", help="Global attribute NAME=VALUE; repeatable.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Largest relative error that passes.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, or an accelerator.")] = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    blocks: Blocks = None,
    merge: Merge = None,
    resume: Resume = False,
    cluster: Cluster = None,
    block: OneBlock = None,
    workers: Workers = None,
    max_memory: MaxMemory = None,
) -> None:
    """Downscale one file into another and check conservation as written."""
    given = dict(locals())
    from downscale.cli.arguments import apply_content
    from downscale.runs.recipe import parse_recipe

    wanted = _in_blocks(parse_recipe(apply_content(given), "apply"), blocks, merge)
    _carry_out(wanted, max_memory, **{key: given[key] for key in HOW})


def _in_blocks(recipe: Any, blocks: str | None, merge: bool | None) -> Any:
    """Return the recipe with the block options of the command line."""
    given = {key: value for key, value in {"blocks": blocks, "merge": merge}.items() if value is not None}
    return recipe.model_copy(update={"output": recipe.output.model_copy(update=given)}) if given else recipe


def _carry_out(recipe: Any, max_memory: str | None = None, **how: Any) -> None:
    from downscale.io.read import find_files
    from downscale.options import set_options

    if max_memory is not None:
        set_options(max_memory=max_memory)

    given = [recipe.input.path] if isinstance(recipe.input.path, str) else recipe.input.path
    for name in given:
        # Refuse a misspelt name before loading the libraries, which takes seconds.
        if not name.startswith("sample:"):
            find_files(name)
    from downscale.process.computing import scheduled
    from downscale.runs.pipeline import run as run_recipe

    command = shlex.join(["downscale", *typed.get()])
    with scheduled():
        outcome = run_recipe(recipe, command=command, **how)
    _say_outcome(outcome)


def _say_outcome(outcome: Any) -> None:
    from downscale.errors import counted

    if outcome.conservation is None and not outcome.files:
        say(repr(outcome.plan))
        return
    if outcome.conservation is not None:
        say(repr(outcome.conservation))
    for name, values in outcome.terrain_penalty.items():
        say(f"{name}: terrain-gradient penalty {values['before']:.3g} -> {values['after']:.3g}")
    if outcome.kept:
        verify = "verifies" if outcome.kept == 1 else "verify"
        say(f"kept {outcome.kept} of {counted(outcome.blocks, 'block')} of an earlier run, which {verify}")
    for path in outcome.files:
        say(f"wrote {path}")
