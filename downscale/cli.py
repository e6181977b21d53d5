"""The command line: parse, call, say (everything heavy is imported inside the commands, so that help is instant).

Exit status 0: done; 1: a law is broken or a run failed; 2: the request or the input is wrong.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from downscale.errors import ConservationError, DownscaleError

app = typer.Typer(
    name="downscale",
    help="Downscale gridded climate fields and keep every budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# What the parser of the command line returns for Ctrl-C.
INTERRUPTED = 130

# Options of run and apply that are handed on as they are.
HOW = ("dry_run", "overwrite", "resume", "cluster", "block", "workers")


def _print_version(wanted: bool) -> None:
    if wanted:
        from downscale.version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Downscale gridded climate fields and keep every budget."""


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan; read no data, write nothing.")]
# How a run is cut along time and carried out.
Blocks = Annotated[str | None, typer.Option("--blocks", help='Cut along time: steps a block, or "5 years", "1 month".')]
Merge = Annotated[bool | None, typer.Option("--merge/--no-merge", help="One file, or one a block named by its dates.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an earlier run; blocks that verify are kept.")]
Cluster = Annotated[str | None, typer.Option(help="local, slurm, pbs, cuda, ADDRESS, or a profile of the recipe.")]
OneBlock = Annotated[int | None, typer.Option("--block", help="Make this block only, from 0 (for job arrays).")]
Workers = Annotated[int | None, typer.Option(min=1, help="Workers of a cluster that is started.")]
MaxMemory = Annotated[str | None, typer.Option(help="Memory that each process is to stay within, e.g. 2GB.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the outputs; made if missing.")] = Path("demo"),
    overwrite: Overwrite = False,
) -> None:
    """Run the main job on the embedded real sample: NetCDF, map and report."""
    from downscale.demo import demo_recipe, prepare_folder

    prepare_folder(out)
    _carry_out(demo_recipe(out), overwrite=overwrite)


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
    """Carry out a recipe: read, statics, downscale, terrain, validate, write."""
    given = dict(locals())
    from downscale.recipe import load_recipe

    _carry_out(_in_blocks(load_recipe(recipe), blocks, merge), max_memory, **{key: given[key] for key in HOW})


@app.command()
def apply(
    source: Annotated[str, typer.Argument(metavar="IN.nc", help="Coarse file, or a quoted pattern.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.nc", help="Fine file to write (or store, OUT.zarr).")],
    factor: Annotated[str | None, typer.Option(help="Refinement: 4, or by dimension lat:4,lon:2,time:30.")] = None,
    target: Annotated[str | None, typer.Option(help="Grid instead: a file, 0.25x0.25, or time:D.")] = None,
    mask: Annotated[str | None, typer.Option(help="File with the mask or fraction of valid fine cells.")] = None,
    na_thres: Annotated[float, typer.Option(help="Largest missing share of a target cell, 0 to 1.")] = 1.0,
    method: Annotated[
        str, typer.Option(help="sobolev, conservative, bilinear, bicubic, rain, or MODEL.safetensors.")
    ] = "sobolev",
    variables: Annotated[str | None, typer.Option("--vars", help="Variables to downscale, e.g. tas,pr.")] = None,
    orog: Annotated[str | None, typer.Option(help="File with the fine orography in metres.")] = None,
    lapse_rate: Annotated[float | None, typer.Option(help="Change with height, units a metre; needs --orog.")] = None,
    conserve: Annotated[str, typer.Option(help="cell, total or none.")] = "cell",
    bounds: Annotated[str, typer.Option(help="auto, none, or LOW:HIGH (either may be empty).")] = "auto",
    chunks: Annotated[str, typer.Option(help="Dask chunks: auto, or by dimension time:365.")] = "auto",
    complevel: Annotated[int, typer.Option(help="Deflate level, 0 to 9.")] = 1,
    packing: Annotated[str | None, typer.Option(help="int16, or bits of the mantissa to keep.")] = None,
    profile: Annotated[str | None, typer.Option(help="Attributes an archive asks for: cordex-esd.")] = None,
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
    """Downscale one file into another; the result is checked as written."""
    given = dict(locals())
    from downscale.arguments import apply_content
    from downscale.recipe import parse_recipe

    wanted = _in_blocks(parse_recipe(apply_content(given), "apply"), blocks, merge)
    _carry_out(wanted, max_memory, **{key: given[key] for key in HOW})


@app.command()
def check(
    coarse: Annotated[str, typer.Argument(metavar="COARSE.nc", help="The coarse file, or a quoted pattern.")],
    fine: Annotated[str, typer.Argument(metavar="FINE.nc", help="The fine file, of anybody's making.")],
    law: Annotated[str, typer.Option(help="cell or total.")] = "cell",
    tolerance: Annotated[float | None, typer.Option(help="Largest relative error that passes.")] = None,
    variables: Annotated[str | None, typer.Option("--vars", help="Variables to check, e.g. tas,pr.")] = None,
    mask: Annotated[str | None, typer.Option(help="The mask that the fine file was made with.")] = None,
    na_thres: Annotated[float, typer.Option(min=0, max=1, help="The threshold that it was made with.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check that the fine file keeps the budgets of the coarse one; exit status 1 where a law is broken."""
    from downscale.arguments import parse_names
    from downscale.pipeline import open_input
    from downscale.validate import check_conservation

    names = parse_names(variables)
    options: Any = {"law": law, "tolerance": tolerance, "data_vars": names, "mask": mask, "na_thres": na_thres}
    report = check_conservation(open_input(coarse), open_input(fine), **options)
    typer.echo(json.dumps(report.to_dict(), indent=2, default=str) if as_json else repr(report))
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def weights(
    source: Annotated[str, typer.Argument(metavar="IN.nc", help="A file on the coarse grid.")],
    output: Annotated[Path, typer.Argument(metavar="WEIGHTS.nc", help="File of weights to write.")],
    factor: Annotated[str | None, typer.Option(help="Refinement: 4, or by dimension lat:4,lon:2.")] = None,
    target: Annotated[str | None, typer.Option(help="Grid instead: a file, or 0.25x0.25.")] = None,
    method: Annotated[str, typer.Option(help="sobolev, conservative, bilinear or bicubic.")] = "sobolev",
    layout: Annotated[str, typer.Option(help="esmf (xESMF, NCO) or scrip (cdo remap).")] = "esmf",
    normalization: Annotated[str, typer.Option(help="fracarea or destarea.")] = "fracarea",
    overwrite: Overwrite = False,
) -> None:
    """Write the weights of a method, row, col and S, for other tools to apply."""
    from downscale.arguments import parse_pairs, parse_target
    from downscale.io.read import sources_of
    from downscale.io.weights import write_weights
    from downscale.io.write import check_target
    from downscale.operators import weights as weights_of
    from downscale.pipeline import open_input

    refinement = None if factor is None else parse_pairs(factor, "factor")
    coarse, grid = open_input(source), parse_target(target)
    inputs = (*sources_of(coarse), *([target] if target else []))
    check_target(output, overwrite, inputs)
    made = weights_of(coarse, refinement, method, target_grid=grid, layout=layout, normalization=normalization)
    typer.echo(f"wrote {write_weights(made, output, overwrite=overwrite, inputs=inputs)}")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yml", help="A training recipe.")],
    resume: Annotated[bool, typer.Option(help="Go on from what an earlier run left.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Open the data, ask the advisor, train nothing.")] = False,
) -> None:
    """Train a model on pairs of coarse and fine fields, and write its checkpoint (extra "train")."""
    from downscale.train.schema import load_training

    wanted = load_training(recipe)
    from downscale.train.fit import prepare
    from downscale.train.fit import train as carry_out

    if dry_run:
        prepare(wanted, typer.echo)
        return
    typer.echo(f"wrote {carry_out(wanted, resume, typer.echo)}")


@app.command()
def evaluate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yml", help="An evaluation recipe.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for tables and figures; made if missing.")] = None,
) -> None:
    """Score methods and models on data they never saw: tables (markdown, CSV, NetCDF), maps and spectra."""
    from downscale.evaluate.schema import load_evaluation

    wanted = load_evaluation(recipe)
    if out is not None:
        wanted = wanted.model_copy(update={"output": wanted.output.model_copy(update={"folder": str(out)})})
    from downscale.evaluate.run import evaluate as carry_out
    from downscale.evaluate.table import to_markdown

    typer.echo(to_markdown(carry_out(wanted, typer.echo)))


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint, or the name of a model: rain.")],
    factor: Annotated[int | None, typer.Option(help="Which of the models of that name.")] = None,
) -> None:
    """Print the card of a model: what it makes, of what, how well, from whose data."""
    from downscale.models import NAMES, path_of
    from downscale.train.card import card

    path = path_of(model, None if factor is None else (factor, factor)) if model in NAMES else Path(model)
    typer.echo(card(path))


@app.command()
def info() -> None:
    """Print versions, devices and options."""
    from downscale.engine.device import device_names
    from downscale.options import get_options
    from downscale.report import library_versions

    lines = {**library_versions(), "devices": ", ".join(device_names())}
    lines.update({f"option {name}": str(value) for name, value in get_options().items()})
    width = max(map(len, lines))
    for name, value in lines.items():
        typer.echo(f"{name.ljust(width)}  {value}")


def _in_blocks(recipe: Any, blocks: str | None, merge: bool | None) -> Any:
    """Return the recipe with what the command line says of blocks laid over it."""
    given = {key: value for key, value in {"blocks": blocks, "merge": merge}.items() if value is not None}
    return recipe.model_copy(update={"output": recipe.output.model_copy(update=given)}) if given else recipe


def _carry_out(recipe: Any, max_memory: str | None = None, **how: Any) -> None:
    from downscale.io.read import find_files
    from downscale.options import set_options

    if max_memory is not None:
        set_options(max_memory=max_memory)

    if not recipe.input.path.startswith("sample:"):
        # A misspelt name is told before the libraries that do the work are loaded, which takes seconds.
        find_files(recipe.input.path)
    from downscale.pipeline import run as run_recipe

    _say_outcome(run_recipe(recipe, **how))


def _say_outcome(outcome: Any) -> None:
    if outcome.conservation is None and not outcome.files:
        typer.echo(repr(outcome.plan))
        return
    if outcome.conservation is not None:
        typer.echo(repr(outcome.conservation))
    for name, values in outcome.terrain_penalty.items():
        typer.echo(f"{name}: terrain-gradient penalty {values['before']:.3g} -> {values['after']:.3g}")
    if outcome.kept:
        typer.echo(f"kept {outcome.kept} of {outcome.blocks} blocks of an earlier run, which verify")
    for path in outcome.files:
        typer.echo(f"wrote {path}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; a wrong request or input prints one line."""
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    from downscale.runs.stop import Stopped, Terminated, terminable

    try:
        with terminable():
            status = app(arguments, standalone_mode=False)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        return int(status) if isinstance(status, int) else 0
    except ConservationError as error:
        return _fail(error, 1)
    except DownscaleError as error:
        return _fail(error, 2)
    except Stopped as stopped:
        return _fail(stopped, 1)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing incomplete was left behind", 1)
    except Terminated:
        return _fail("terminated; nothing incomplete was left behind", 1)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
            return 2
        if hasattr(error, "format_message"):  # what the parser of the command line raises
            return _fail(error.format_message(), 2)
        if isinstance(error, MemoryError):
            reason = str(error) or "not enough memory"
            return _fail(f"MemoryError: {reason}; choose a smaller factor or region, or smaller --chunks", 1)
        if isinstance(error, OSError):
            return _fail(f"{type(error).__name__}: {error}", 1)
        if str(error).startswith("NetCDF: "):  # what the library raises where data turn out to be damaged
            return _fail(f"expected readable data, received {error}; a file is damaged, get it again", 2)
        if "-X" in sys.orig_argv or sys.flags.dev_mode:
            raise
        line = " ".join(str(error).split())
        return _fail(f"unexpected {type(error).__name__}: {line}; run with python -X dev -m downscale for details", 1)


def _warn(message: Warning | str, *where: object, **more: object) -> None:
    """Show a warning as one line, without the source code that gave it."""
    print(f"downscale: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(error: object, status: int) -> int:
    line = " ".join(str(error).split())
    print(f"downscale: {line}", file=sys.stderr)
    return status
