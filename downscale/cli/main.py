"""The commands, in the order of the help, and the function that runs one.

It prints errors as one line and returns the exit status: 0 for success; 1 if conservation or the run failed; 2 if the
request or the input is invalid.
"""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Annotated, Any

import typer

from downscale.cli.arguments import (
    REQUEST,
    options_of,
    parse_attrs,
    parse_chunks,
    parse_names,
    parse_options,
    parse_packing,
    parse_pair,
    with_options,
)
from downscale.errors import ConservationError, DownscaleError, OptionError, one_line, pluralise, printable, spell
from downscale.process.interrupts import NOTHING_LEFT, Stopped, raise_on_signals, status_of
from downscale.request import CONSERVE, DECONVOLUTION

# Exit status of the argument parser for Ctrl-C.
INTERRUPTED = 130
# The parser's message for extra arguments, and the package's wording.
EXTRA_ARGUMENTS = "Got unexpected extra argument(s)", "expected no more arguments, received"
# The arguments as typed, for the command that a report prints to reproduce the run.
typed_arguments: ContextVar[tuple[str, ...]] = ContextVar("typed", default=())

app = typer.Typer(
    name="downscale",
    help="Downscale gridded climate fields and conserve every coarse-cell mean.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def say(text: object) -> None:
    """Print text on the standard output, with control characters in names escaped."""
    typer.echo("\n".join(printable(line) for line in str(text).split("\n")))


def _print_version(is_set: bool) -> None:
    if is_set:
        from downscale.version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Downscale gridded climate fields and conserve every coarse-cell mean."""


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan; read no data and write nothing.")]
Chunks = Annotated[str, typer.Option(help="Dask chunks: auto, or by dimension time:365.")]
Complevel = Annotated[int, typer.Option(help="Deflate level, 0 to 9.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
# Options of every run: how it is split along time, and where it is computed.
RUN = {
    "overwrite": (Overwrite, False),
    "dry_run": (DryRun, False),
    "blocks": (
        Annotated[str | None, typer.Option("--blocks", help='Steps per block of time, or "5 years", "1 month".')], None,
    ),
    "merge": (
        Annotated[bool | None, typer.Option("--merge/--no-merge", help="One file, or one per block, named by dates.")],
        None,
    ),
    "append": (
        Annotated[bool | None, typer.Option("--append", help="Append to a Zarr store of an earlier period.")], None,
    ),
    "zarr_format": (
        Annotated[int | None, typer.Option("--zarr-format", min=2, max=3, help="Format of a new Zarr store: 2 or 3.")],
        None,
    ),
    "resume": (
        Annotated[bool, typer.Option("--resume", help="Resume an interrupted run; keep blocks that verify.")], False,
    ),
    "cluster": (
        Annotated[str | None, typer.Option(help="local, slurm, pbs, cuda, ADDRESS, or a profile of the recipe.")], None,
    ),
    "block": (
        Annotated[int | None, typer.Option("--block", help="Compute only this block, from 0 (for job arrays).")], None,
    ),
    "workers": (Annotated[int | None, typer.Option(min=1, help="Number of workers of the cluster to start.")], None),
    "max_memory": (Annotated[str | None, typer.Option(help="Memory limit of each process, e.g. 2GB.")], None),
}  # fmt: skip
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
PROJECTION = ("bounds", "mask", "data_vars", "quantity", "tolerance", "device")
CHECK = ("tolerance", "data_vars", "mask", "na_thres", "footprint", "quantity", "bounds", "orderings")
CHECK_DEFAULTS = {name: default for name, (_, default) in options_of(CHECK).items()}
SOURCE = ("factor", "target_grid", "method")


def _require_input(*names: str) -> None:
    """Refuse a misspelt name before loading the libraries, which takes seconds."""
    from downscale.io.read import find_files

    for name in names:
        if not name.startswith("sample:"):
            find_files(name)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the outputs; made if missing.")] = Path("demo"),
) -> None:
    """Downscale the embedded sample with the kernel and with a network: NetCDF, maps and a report."""
    from downscale.runs.demo import (
        MODEL_NOTE,
        demo_model_recipe,
        demo_recipe,
        format_comparison,
        prepare_folder,
        run_both,
    )

    prepare_folder(out)
    from downscale.process.computing import use_threads_by_default

    with use_threads_by_default():
        outcomes, comparison = run_both(demo_recipe(out), demo_model_recipe(out), MODEL_NOTE)
    for outcome in outcomes:
        _print_outcome(outcome)
    say(format_comparison(comparison))
    say(comparison.note)


@app.command()
@with_options(**RUN)
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yml", help="The recipe.")],
    **options: Any,
) -> None:
    """Run a recipe: read, statics, downscale, terrain, validate, write."""
    from downscale.io.paths import require_no_input
    from downscale.runs.recipe import load_recipe

    checked_recipe = load_recipe(recipe)
    for name in (checked_recipe.output.path, checked_recipe.output.map, checked_recipe.output.report):
        if name is not None:
            require_no_input(Path(name).expanduser(), (recipe,))
    _run_recipe(checked_recipe, **options)


@app.command()
@with_options(**options_of(), **OUTPUT, **RUN)
def apply(
    source: Annotated[str, typer.Argument(metavar="IN.nc", help="Coarse file, or a quoted pattern.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.nc", help="Fine file to write (or store, OUT.zarr).")],
    **values: Any,
) -> None:
    """Downscale one file into another and check conservation as written."""
    from downscale.runs.recipe import recipe_of

    factor, target = values["factor"], values["target_grid"]
    change = f"x {factor}" if factor else f"to {target}" if target else values["method"]
    arguments = parse_options(values, REQUEST)
    output_section = {
        "path": str(output), "complevel": values.pop("complevel"), "packing": parse_packing(values.pop("packing")),
        "profile": values.pop("profile"), "attrs": parse_attrs(values.pop("attrs")),
    }  # fmt: skip
    title, chunks = f"{Path(source).name} {change}", parse_chunks(values.pop("chunks"))
    _run_recipe(recipe_of(arguments, title=title, path=source, chunks=chunks, output=output_section), **values)


def _run_recipe(recipe: Any, *, max_memory: str | None, **options: Any) -> None:
    """Run a recipe, with the block options of the command line, and print the outcome."""
    from downscale.options import set_options

    values = {key: options.pop(key) for key in ("blocks", "merge", "append", "zarr_format")}
    changes = {key: value for key, value in values.items() if value is not None}
    recipe = recipe.model_copy(update={"output": recipe.output.model_copy(update=changes)})
    if max_memory is not None:
        set_options(max_memory=max_memory)
    _require_input(*([recipe.input.path] if isinstance(recipe.input.path, str) else recipe.input.path))
    from downscale.process.computing import use_threads_by_default
    from downscale.runs.pipeline import run as run_recipe

    with use_threads_by_default():
        _print_outcome(run_recipe(recipe, command=shlex.join(["downscale", *typed_arguments.get()]), **options))


# Options of a run that a projection has too.
PROJECT = {
    name: RUN[name]
    for name in ("overwrite", "dry_run", "blocks", "merge", "resume", "cluster", "workers", "max_memory")
}


@app.command()
@with_options(**PROJECT)
def project(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yml", help="The recipe.")],
    use_demo: Annotated[
        bool, typer.Option("--demo", help="Run the recipe on synthetic daily weather instead of its files.")
    ] = False,
    **options: Any,
) -> None:
    """Make fine projections from models and observations: adjust, downscale, validate."""
    from downscale.options import set_options
    from downscale.projections.recipe import load_project

    output = {f"output.{name}": options.pop(name) for name in ("blocks", "merge")}
    changes = {key: value for key, value in output.items() if value is not None}
    max_memory = options.pop("max_memory")
    if use_demo:
        from downscale.projections.demo import demo_changes

        changes |= demo_changes(recipe, changes)
    checked = load_project(recipe, changes)
    for experiments in checked.experiments().values():
        _require_input(*(path for paths in experiments.values() for path in _names(paths)))
    _require_input(*_names(checked.observations))
    if max_memory is not None:
        set_options(max_memory=max_memory)
    from downscale.process.computing import use_threads_by_default
    from downscale.projections.run import run_project

    with use_threads_by_default():
        say(repr(run_project(checked, command=shlex.join(["downscale", *typed_arguments.get()]), **options)))


def _names(paths: str | list[str]) -> list[str]:
    return [paths] if isinstance(paths, str) else paths


def _print_outcome(outcome: Any) -> None:
    if outcome.conservation is None and not outcome.files:
        say(repr(outcome.plan))
        return
    if outcome.conservation is not None:
        say(repr(outcome.conservation))
    for name, choice in {**outcome.terrain, **outcome.choices}.items():
        say(f"{name}: {choice}")
    for name, values in outcome.terrain_penalty.items():
        say(f"{name}: terrain-gradient penalty {values['before']:.3g} -> {values['after']:.3g}")
    if outcome.kept:
        verify = "verifies" if outcome.kept == 1 else "verify"
        say(f"kept {outcome.kept} of {pluralise(outcome.blocks, 'block')} of an earlier run, which {verify}")
    for path in outcome.files:
        say(f"wrote {path}")


@app.command()
@with_options(**options_of(tuple(DECONVOLUTION), DECONVOLUTION), **options_of(("data_vars", "device")))
def deconvolve(
    source: Annotated[str, typer.Argument(metavar="IN.nc", help="Blurred file, or a quoted pattern.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.nc", help="Restored file to write.")],
    chunks: Chunks = "auto",
    complevel: Complevel = 1,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    **values: Any,
) -> None:
    """Undo the blur of an instrument and conserve the flux of every map, checked as written."""
    from downscale.deconvolution.psf import parse_psf
    from downscale.steps.deconvolution import DeconvolutionMethod

    arguments = parse_options(values, ("data_vars", "device"))
    psf, dims = parse_psf(values.pop("psf")), parse_names(values.pop("dims"), "dims")
    solver, chunk_sizes = DeconvolutionMethod(**values), parse_chunks(chunks)
    _require_input(source)
    from downscale.process.computing import use_threads_by_default
    from downscale.runs.deconvolution import deconvolve_file, flux_lines

    with use_threads_by_default():
        plan, facts = deconvolve_file(
            source, output, psf, solver, dims=dims, **arguments, chunks=chunk_sizes,
            complevel=complevel, overwrite=overwrite, dry_run=dry_run,
        )  # fmt: skip
    if dry_run:
        say(str(plan))
        if output.exists() and not overwrite:
            say(f"note: {output} exists; to replace it, pass --overwrite")
    elif as_json:
        say(json.dumps({"plan": str(plan), "variables": facts, "file": str(output)}, indent=2))
    else:
        for line in [str(plan), *flux_lines(facts), f"wrote {output}"]:
            say(line)


@app.command()
@with_options(**options_of(CHECK))
def check(
    coarse: Annotated[str, typer.Argument(metavar="COARSE.nc", help="The coarse file, or a quoted pattern.")],
    fine: Annotated[str, typer.Argument(metavar="FINE.nc", help="The fine file, from any source.")],
    law: Annotated[str, typer.Option(help="The error that decides: cell or total.")] = "cell",
    along_time: Annotated[
        bool, typer.Option("--time", help="Check steps (FINE) against daily means, minima and maxima (COARSE).")
    ] = False,
    as_json: AsJson = False,
    **values: Any,
) -> None:
    """Check that the fine file conserves the cell means of the coarse one; exit status 1 if it does not."""
    typed = [name for name, value in values.items() if value != CHECK_DEFAULTS[name]]
    arguments = parse_options(values, CHECK)
    if along_time:
        _check_days(coarse, fine, [*typed, *(["law"] if law != "cell" else [])], arguments, as_json)
        return
    from downscale.check.conservation import check_conservation
    from downscale.runs.single import open_input

    report = check_conservation(open_input(coarse), open_input(fine), law=law, **arguments)
    say(json.dumps(report.to_dict(), indent=2, default=str) if as_json else repr(report))
    if not report.passed:
        raise typer.Exit(1)


def _check_days(daily: str, fine: str, typed: list[str], arguments: dict[str, Any], as_json: bool) -> None:
    """Check steps within days; other options than the tolerance and the variables concern grids."""
    other = [name for name in typed if name not in ("tolerance", "data_vars")]
    if other:
        raise OptionError(f"expected no {spell(other[0])} with --time, received one; drop one")
    from downscale.check.days import check_days
    from downscale.runs.single import open_input

    report = check_days(
        open_input(daily), open_input(fine), tolerance=arguments["tolerance"], data_vars=arguments["data_vars"]
    )
    say(json.dumps(report.to_dict(), indent=2, default=str) if as_json else repr(report))
    if not report.passed:
        raise typer.Exit(1)


@app.command()
@with_options(**OUTPUT)
def hourly(
    source: Annotated[str, typer.Argument(metavar="IN.nc", help="Daily file, or a quoted pattern.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.nc", help="File of hours to write (or store, OUT.zarr).")],
    step: Annotated[str, typer.Option(help="Step that divides a day: h, 3h, 30min.")] = "h",
    climatology: Annotated[str | None, typer.Option(help="File of observed hours, or of their means by hour.")] = None,
    members: Annotated[int | None, typer.Option(help="Number of ensemble members of precipitation.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of precipitation.")] = 0,
    names: Annotated[str | None, typer.Option("--vars", help="Variables NAME,NAME.")] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    **values: Any,
) -> None:
    """Write hours of daily fields whose daily means and extremes are exact, checked as written."""
    from downscale.io.write import Storage

    storage = Storage(
        values["complevel"], parse_packing(values["packing"]), None, values["profile"], parse_attrs(values["attrs"])
    )
    request = parse_options({"data_vars": names, "members": members, "seed": seed}, ("data_vars", "members", "seed"))
    chunks = parse_chunks(values["chunks"])
    _require_input(source, *([climatology] if climatology else []))
    from downscale.process.computing import use_threads_by_default
    from downscale.runs.hourly import hourly_file

    with use_threads_by_default():
        plan, report = hourly_file(
            source, output, step, climatology=climatology, chunks=chunks, storage=storage, overwrite=overwrite,
            dry_run=dry_run, **request,
        )  # fmt: skip
    if report is None:
        say(str(plan))
        if output.exists() and not overwrite:
            say(f"note: {output} exists; to replace it, pass --overwrite")
    elif as_json:
        say(json.dumps({"plan": str(plan), **report.to_dict(), "file": str(output)}, indent=2, default=str))
    else:
        say("\n".join([repr(report), f"wrote {output}"]))


@app.command()
@with_options(**options_of(tuple(CONSERVE), CONSERVE), **options_of(PROJECTION), **OUTPUT)
def conserve(
    fine: Annotated[str, typer.Argument(metavar="FINE.nc", help="The fine file, from any source.")],
    coarse: Annotated[str, typer.Argument(metavar="COARSE.nc", help="The coarse file, or a quoted pattern.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.nc", help="Fine file to write (or store, OUT.zarr).")],
    complevel: Annotated[int | None, typer.Option(help="Deflate level, by default that of the fine file.")] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    **values: Any,
) -> None:
    """Give a fine file the cell means of a coarse file and check conservation as written."""
    arguments = parse_options(values, PROJECTION)
    from downscale.io.write import Storage

    storage = Storage(
        packing=parse_packing(values["packing"]), profile=values["profile"], attrs=parse_attrs(values["attrs"])
    )
    chunks = parse_chunks(values["chunks"])
    _require_input(fine, coarse)
    from downscale.process.computing import use_threads_by_default
    from downscale.runs.conserve import conserve_file, lines_of

    with use_threads_by_default():
        result = conserve_file(
            fine, coarse, output, values["constraint"], chunks=chunks, storage=storage, complevel=complevel,
            overwrite=overwrite, dry_run=dry_run, **arguments,
        )  # fmt: skip
    if as_json and result.report is not None:
        facts = {"plan": str(result.plan), **result.report.to_dict(), "file": str(output)}
        say(json.dumps(facts, indent=2, default=str))
        return
    for line in lines_of(result, output, overwrite):
        say(line)


@app.command()
def inspect(
    target: Annotated[
        str,
        typer.Argument(
            metavar="KERNEL|MODEL|FILE",
            help="sobolev, transposed:5,2, weights.npy, rain, MODEL.safetensors, or FINE.nc.",
        ),
    ],
    factor: Annotated[
        str | None, typer.Option(help="Fine cells per coarse cell: 4, or 4,2 (rows, columns). Needed for a file.")
    ] = None,
    variable: Annotated[str | None, typer.Option("--var", help="Variable of a file; by default all.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="JSON file for all numbers.")] = None,
    figure: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Figure of the diagnosis.")] = None,
    card_only: Annotated[bool, typer.Option("--card", help="Print only the card of a model.")] = False,
) -> None:
    """Diagnose artefacts of a kernel, a model (with its card) or a written file: coverage, images, checkerboards."""
    from downscale.artefacts.diagnosis import print_diagnosis
    from downscale.artefacts.subject import diagnose, is_model, require_outputs

    pair = parse_pair(factor)
    require_outputs(target, as_json, figure)
    if is_model(target):
        from downscale.models import path_of
        from downscale.training.card import card

        say(card(path_of(target, pair)))
        if card_only:
            return

    diagnosis = diagnose(target, pair, variable)
    print_diagnosis(diagnosis)
    if as_json is not None:
        diagnosis.to_json(as_json)
    if figure is not None:
        from downscale.artefacts.figure import draw

        draw(diagnosis, figure)


@app.command()
def repair(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint, or the name of a model.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The repaired checkpoint.")],
    smooth: Annotated[float, typer.Option(help="Strength of the smoothing; 0 only imposes conservation.")] = 0.03,
    truth: Annotated[str | None, typer.Option(help="Fine reference fields to score before and after.")] = None,
    orog: Annotated[str | None, typer.Option(help="File with the fine orography, for models that use it.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Smooth the upsampling kernels of a trained model subject to their sum-to-one constraints."""
    from downscale.artefacts.diagnosis import print_sections
    from downscale.artefacts.model import fix_model
    from downscale.io.read import open_dataset

    fields = None if truth is None else open_dataset(truth)
    tables, path = fix_model(model, smooth, out, fields, orog=orog, overwrite=overwrite)
    print_sections(tables)
    say(f"\nwrote {path}")


@app.command()
def info() -> None:
    """Print versions, devices and options."""
    from downscale.engine.device import device_names
    from downscale.options import get_options
    from downscale.version import library_versions

    lines = {**library_versions(), "devices": ", ".join(device_names())}
    lines.update({f"option {name}": str(value) for name, value in get_options().items()})
    width = max(map(len, lines))
    for name, value in lines.items():
        say(f"{name.ljust(width)}  {value}")


@app.command()
@with_options(**options_of(SOURCE, method="sobolev, conservative, bilinear or bicubic"))
def weights(
    source: Annotated[str, typer.Argument(metavar="IN.nc", help="A file on the coarse grid.")],
    output: Annotated[Path, typer.Argument(metavar="WEIGHTS.nc", help="File of weights to write.")],
    layout: Annotated[str, typer.Option(help="esmf (xESMF, NCO) or scrip (cdo remap).")] = "esmf",
    normalization: Annotated[str, typer.Option(help="fracarea or destarea.")] = "fracarea",
    overwrite: Overwrite = False,
    **values: Any,
) -> None:
    """Write the weights of a method (row, col and S) for use in other tools."""
    arguments = parse_options(values, SOURCE)
    from downscale.io.paths import check_netcdf, sources_of
    from downscale.io.weights import write_weights
    from downscale.methods.operators import weights as weights_of
    from downscale.runs.single import open_input

    coarse, target = open_input(source), arguments["target_grid"]
    inputs = (*sources_of(coarse), *([target] if target else []))
    check_netcdf(output, overwrite, inputs)
    dataset = weights_of(coarse, **arguments, layout=layout, normalization=normalization)
    say(f"wrote {write_weights(dataset, output, overwrite=overwrite, inputs=inputs)}")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yml", help="A training recipe.")],
    resume: Annotated[bool, typer.Option(help="Resume an interrupted run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Open the data, run the advisor, train nothing.")] = False,
) -> None:
    """Train a model on pairs of coarse and fine fields, and write its checkpoint (extra "train")."""
    from downscale.training.schema import load_training

    training = load_training(recipe)
    from downscale.process.interrupts import Stopped, signal_word, use_end_message
    from downscale.training.fit import is_first_process, training_folder
    from downscale.training.fit import train as train_model
    from downscale.training.progress import resume_hint

    if dry_run:
        train_model(training, say=say, dry_run=True)
        return
    folder, steps = training_folder(training), training.training.steps
    try:
        with use_end_message(lambda: resume_hint(folder, steps)):
            train_model(training, resume, say)
    except BaseException as error:
        word = signal_word(error)
        if word is None:
            raise
        if not is_first_process():
            raise typer.Exit(1) from None
        raise Stopped(f"{word}; {resume_hint(folder, steps)}") from None


@app.command()
def evaluate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yml", help="An evaluation recipe.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of tables and figures; made if missing.")] = None,
) -> None:
    """Score methods and models on held-out data: tables (markdown, CSV, NetCDF), maps and spectra."""
    from downscale.evaluation.schema import load_evaluation

    evaluation = load_evaluation(recipe)  # a wrong recipe is refused before libraries are loaded, which takes seconds
    from downscale.evaluation.run import evaluate as run_evaluation

    run_evaluation(evaluation, say, change=None if out is None else {"output.folder": str(out)})


@app.command()
@with_options(**options_of(("device",)))
def encode(
    source: Annotated[str, typer.Argument(metavar="FINE.nc", help="Fine file, a quoted pattern, or sample:NAME.")],
    output: Annotated[Path, typer.Argument(metavar="CODE.nc", help="Output file for coarse means and code.")],
    method: Annotated[str, typer.Option("--method", "-m", help="A compressor: MODEL.safetensors.")],
    report: Annotated[bool, typer.Option("--report", help="Decode too, and print errors and checkerboard.")] = False,
    chunks: Chunks = "auto",
    complevel: Complevel = 1,
    overwrite: Overwrite = False,
    **values: Any,
) -> None:
    """Compress fine fields to coarse means and a code; decode with `downscale apply CODE.nc --method MODEL`."""
    device = parse_options(values, ("device",))["device"] or "auto"
    chunk_sizes = parse_chunks(chunks)
    _require_input(source)
    from downscale.process.computing import use_threads_by_default
    from downscale.runs.compression import compression_lines, encode_file

    with use_threads_by_default():
        facts = encode_file(
            source, output, method, chunks=chunk_sizes, complevel=complevel, overwrite=overwrite, device=device
        )
        for line in compression_lines(source, output, method, facts, report):
            say(line)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; an invalid request or input prints one line.

    ``arguments`` are those of the process by default. Nothing of the process is changed.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _warn_once()
        # In a context of its own: variables that a command sets do not outlive it.
        return copy_context().run(_run, sys.argv[1:] if arguments is None else arguments)


def _run(arguments: list[str]) -> int:
    typed_arguments.set(tuple(arguments))
    signals: list[str] = []
    try:
        with raise_on_signals() as signals:
            status = app(arguments, standalone_mode=False)
            if status == INTERRUPTED:
                raise KeyboardInterrupt
        return int(status) if isinstance(status, int) else 0
    except BaseException as error:
        if signals or isinstance(error, KeyboardInterrupt):
            word = "interrupted" if not signals or signals[0] == "SIGINT" else "terminated"
            line = error if isinstance(error, Stopped) else f"{word}; {NOTHING_LEFT}"
            return _print_error(line, status_of(signals or ["SIGINT"]))
        if not isinstance(error, Exception):
            raise
        return _report_error(error)


def _report_error(error: Exception) -> int:
    """Print one line about an error and return the exit status."""
    if isinstance(error, ConservationError | Stopped):
        return _print_error(error, 1)
    if isinstance(error, DownscaleError):
        return _print_error(error, 2)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error, file=sys.stderr)
        return 2
    if hasattr(error, "format_message"):  # errors of the argument parser
        return _print_error(error.format_message().replace(*EXTRA_ARGUMENTS), 2)
    if isinstance(error, MemoryError):
        reason = str(error) or "not enough memory"
        return _print_error(f"MemoryError: {reason}; choose a smaller factor or region, or smaller --chunks", 1)
    if isinstance(error, OSError):
        return _print_error(f"{type(error).__name__}: {error}", 1)
    if str(error).startswith("NetCDF: "):  # errors of the library on reading damaged data
        return _print_error(f"expected readable data, received {error}; a file is damaged, get it again", 2)
    if "-X" in sys.orig_argv or sys.flags.dev_mode:
        raise error
    line = f"internal error: {type(error).__name__}: {error}"
    return _print_error(f"{line}; please report it with the output of python -X dev -m downscale", 1)


def _warn_once() -> Callable[..., None]:
    """Return a function that shows each warning once, as one line without source code."""
    lines: set[str] = set()

    def warn(message: Warning | str, *arguments: object, **options: object) -> None:
        line = one_line(message)
        if line not in lines:
            lines.add(line)
            print(f"downscale: warning: {line}", file=sys.stderr)

    return warn


def _print_error(error: object, status: int) -> int:
    print(f"downscale: {one_line(error)}", file=sys.stderr)
    return status
