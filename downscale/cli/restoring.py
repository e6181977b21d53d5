"""Command that deconvolves: deconvolve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from downscale.cli.app import DryRun, Overwrite, app, say


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
    chunks: Annotated[str, typer.Option(help="Dask chunks: auto, or by dimension time:365.")] = "auto",
    complevel: Annotated[int, typer.Option(help="Deflate level, 0 to 9.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, or an accelerator.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Undo the blur of an instrument and conserve the flux of every map, checked as written."""
    from downscale.cli.arguments import parse_names, parse_pairs
    from downscale.deconvolution.methods import Restoration
    from downscale.deconvolution.psf import parse_psf

    wanted = Restoration(method, noise, iterations, damping, parameter, order)
    shape, names, over = parse_psf(psf), parse_names(variables), parse_names(dims)
    cut = "auto" if chunks == "auto" else parse_pairs(chunks, "chunks")
    from downscale.io.read import find_files

    find_files(source)
    from downscale.process.computing import scheduled
    from downscale.runs.deconvolution import lines_of, restore_file

    with scheduled():
        course, facts = restore_file(
            source, output, shape, wanted, dims=over, data_vars=names, device=device, chunks=cut, complevel=complevel,
            overwrite=overwrite, dry_run=dry_run,
        )  # fmt: skip
    if dry_run:
        say(str(course))
        if output.exists() and not overwrite:
            say(f"note: {output} exists; to replace it, pass --overwrite")
    elif as_json:
        say(json.dumps({"plan": str(course), "variables": facts, "file": str(output)}, indent=2))
    else:
        for line in [str(course), *lines_of(facts), f"wrote {output}"]:
            say(line)
