"""Commands on files and models: deconvolve, check, inspect, repair, info, weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from downscale.cli.app import AsJson, Chunks, Complevel, DryRun, Overwrite, app, say


@app.command()
def deconvolve(
    source: Annotated[str, typer.Argument(metavar="IN.nc", help="Blurred file, or a quoted pattern.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.nc", help="Restored file to write.")],
    psf: Annotated[str, typer.Option(help="Footprint, full width at half maximum: gaussian:25km, box:10km, airy:12km, "
                                          "gaussian:40x25km@30.")],
    method: Annotated[str, typer.Option(help="richardson_lucy, wiener or tikhonov.")] = "richardson_lucy",
    noise: Annotated[float | None, typer.Option(help="Standard deviation of the noise; estimated by default.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Maximum iterations of richardson_lucy (100).")] = None,
    damping: Annotated[float | None, typer.Option(help="Weight of total variation in richardson_lucy (0).")] = None,
    parameter: Annotated[float | None, typer.Option(help="Weight of wiener and tikhonov; cross-validated.")] = None,
    order: Annotated[int | None, typer.Option(help="Order of the seminorm of tikhonov, 1 or 2 (1).")] = None,
    variables: Annotated[str | None, typer.Option("--vars", help="Variables to restore, e.g. tas,pr.")] = None,
    dims: Annotated[str | None, typer.Option(help="Dimensions of a psf in cells, e.g. lev or lev,lat,lon.")] = None,
    chunks: Chunks = "auto",
    complevel: Complevel = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, or an accelerator.")] = "auto",
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Undo the blur of an instrument and conserve the flux of every map, checked as written."""
    from downscale.cli.arguments import parse_chunks, parse_names
    from downscale.deconvolution.psf import parse_psf
    from downscale.steps.deconvolution import DeconvolutionMethod

    solver = DeconvolutionMethod(method, noise, iterations, damping, parameter, order)
    shape, names, dim_names = parse_psf(psf), parse_names(variables), parse_names(dims)
    chunk_sizes = parse_chunks(chunks)
    from downscale.io.read import find_files

    find_files(source)
    from downscale.process.computing import scheduled
    from downscale.runs.deconvolution import deconvolve_file, lines_of

    with scheduled():
        plan, facts = deconvolve_file(
            source, output, shape, solver, dims=dim_names, data_vars=names, device=device, chunks=chunk_sizes,
            complevel=complevel, overwrite=overwrite, dry_run=dry_run,
        )  # fmt: skip
    if dry_run:
        say(str(plan))
        if output.exists() and not overwrite:
            say(f"note: {output} exists; to replace it, pass --overwrite")
    elif as_json:
        say(json.dumps({"plan": str(plan), "variables": facts, "file": str(output)}, indent=2))
    else:
        for line in [str(plan), *lines_of(facts), f"wrote {output}"]:
            say(line)


@app.command()
def check(
    coarse: Annotated[str, typer.Argument(metavar="COARSE.nc", help="The coarse file, or a quoted pattern.")],
    fine: Annotated[str, typer.Argument(metavar="FINE.nc", help="The fine file, from any source.")],
    law: Annotated[str, typer.Option(help="cell or total.")] = "cell",
    tolerance: Annotated[float | None, typer.Option(help="Largest relative error that passes.")] = None,
    variables: Annotated[str | None, typer.Option("--vars", help="Variables to check, e.g. tas,pr.")] = None,
    mask: Annotated[str | None, typer.Option(help="The mask that was used for the fine file.")] = None,
    na_thres: Annotated[float, typer.Option(min=0, max=1, help="The threshold that was used for it.")] = 1.0,
    footprint: Annotated[str | None, typer.Option(help="Footprint of the fine file: gaussian:25km.")] = None,
    quantity: Annotated[
        str | None,
        typer.Option(help="intensive (means) or extensive (sums over cells or periods), or by variable pr:extensive."),
    ] = None,
    bounds: Annotated[str, typer.Option(help="Legal fine values: auto, none, or LOW:HIGH.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Check that the fine file conserves the cell means of the coarse one; exit status 1 if it does not."""
    from downscale.check.conservation import check_conservation
    from downscale.cli.arguments import parse_bounds, parse_names, parse_quantity
    from downscale.runs.pipeline import open_input

    names = parse_names(variables)
    options: Any = {"law": law, "tolerance": tolerance, "data_vars": names, "mask": mask, "na_thres": na_thres,
                    "footprint": footprint, "quantity": parse_quantity(quantity),
                    "bounds": parse_bounds(bounds)}  # fmt: skip
    report = check_conservation(open_input(coarse), open_input(fine), **options)
    say(json.dumps(report.to_dict(), indent=2, default=str) if as_json else repr(report))
    if not report.passed:
        raise typer.Exit(1)


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
    from downscale.cli.arguments import parse_pair

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
    """Write the weights of a method (row, col and S) for use in other tools."""
    from downscale.cli.arguments import parse_pairs, parse_target
    from downscale.io.paths import check_netcdf, sources_of
    from downscale.io.weights import write_weights
    from downscale.methods.operators import weights as weights_of
    from downscale.runs.pipeline import open_input

    refinement = None if factor is None else parse_pairs(factor, "factor")
    coarse, grid = open_input(source), parse_target(target)
    inputs = (*sources_of(coarse), *([target] if target else []))
    check_netcdf(output, overwrite, inputs)
    dataset = weights_of(coarse, refinement, method, target_grid=grid, layout=layout, normalization=normalization)
    say(f"wrote {write_weights(dataset, output, overwrite=overwrite, inputs=inputs)}")
