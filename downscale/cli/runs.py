"""Commands that downscale: demo, run, apply."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from downscale.cli.app import RUN, Chunks, Complevel, app, say, with_options
from downscale.cli.app import given as typed
from downscale.cli.arguments import FLAGS, parse_attrs, parse_chunks, parse_packing, parse_request, request_options
from downscale.request import spelling

# Options of the files of one call.
OUTPUT = {
    "chunks": (Chunks, "auto"),
    "complevel": (Complevel, 1),
    "packing": (Annotated[str | None, typer.Option(help="int16, or bits of the mantissa to keep.")], None),
    "profile": (Annotated[str | None, typer.Option(help="Attributes that an archive requires: cordex-esd.")], None),
    "attrs": (
        Annotated[list[str] | None, typer.Option("--attr", help="Global attribute NAME=VALUE; repeatable.")], None,
    ),
}  # fmt: skip


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
        outcomes, comparison = run_both(demo_recipe(out), learned_recipe(out), LEARNED_NOTE)
    for outcome in outcomes:
        _say_outcome(outcome)
    say(format_comparison(comparison))
    say(comparison.note)


@app.command()
@with_options(**RUN)
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yml", help="The recipe.")],
    **how: Any,
) -> None:
    """Run a recipe: read, statics, downscale, terrain, validate, write."""
    from downscale.io.paths import require_no_input
    from downscale.runs.recipe import load_recipe

    checked_recipe = load_recipe(recipe)
    for name in (checked_recipe.output.path, checked_recipe.output.map, checked_recipe.output.report):
        if name is not None:
            require_no_input(Path(name).expanduser(), (recipe,))
    _run_recipe(checked_recipe, **how)


@app.command()
@with_options(**request_options(), **OUTPUT, **RUN)
def apply(
    source: Annotated[str, typer.Argument(metavar="IN.nc", help="Coarse file, or a quoted pattern.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.nc", help="Fine file to write (or store, OUT.zarr).")],
    **values: Any,
) -> None:
    """Downscale one file into another and check conservation as written."""
    from downscale.runs.recipe import recipe_of

    spelling.set(FLAGS)
    factor, target = values["factor"], values["target_grid"]
    change = f"x {factor}" if factor else f"to {target}" if target else values["method"]
    arguments = parse_request(values)
    output_section = {
        "path": str(output), "complevel": values.pop("complevel"), "packing": parse_packing(values.pop("packing")),
        "profile": values.pop("profile"), "attrs": parse_attrs(values.pop("attrs")),
    }  # fmt: skip
    title, chunks = f"{Path(source).name} {change}", parse_chunks(values.pop("chunks"))
    recipe = recipe_of(arguments, title=title, path=source, chunks=chunks, output=output_section)
    _run_recipe(recipe, **values)


def _run_recipe(recipe: Any, *, blocks: str | None, merge: bool | None, max_memory: str | None, **how: Any) -> None:
    """Run a recipe, with the block options of the command line, and print the outcome."""
    from downscale.io.read import find_files
    from downscale.options import set_options

    changes = {key: value for key, value in {"blocks": blocks, "merge": merge}.items() if value is not None}
    recipe = recipe.model_copy(update={"output": recipe.output.model_copy(update=changes)})
    if max_memory is not None:
        set_options(max_memory=max_memory)
    for name in [recipe.input.path] if isinstance(recipe.input.path, str) else recipe.input.path:
        # Refuse a misspelt name before loading the libraries, which takes seconds.
        if not name.startswith("sample:"):
            find_files(name)
    from downscale.process.computing import scheduled
    from downscale.runs.pipeline import run as run_recipe

    with scheduled():
        outcome = run_recipe(recipe, command=shlex.join(["downscale", *typed.get()]), **how)
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
