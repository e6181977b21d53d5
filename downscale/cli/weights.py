"""Command that writes interpolation weights: weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from downscale.cli.app import Overwrite, app, say


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
    from downscale.io.outputs import check_netcdf
    from downscale.io.read import sources_of
    from downscale.io.weights import write_weights
    from downscale.methods.operators import weights as weights_of
    from downscale.runs.pipeline import open_input

    refinement = None if factor is None else parse_pairs(factor, "factor")
    coarse, grid = open_input(source), parse_target(target)
    inputs = (*sources_of(coarse), *([target] if target else []))
    check_netcdf(output, overwrite, inputs)
    made = weights_of(coarse, refinement, method, target_grid=grid, layout=layout, normalization=normalization)
    say(f"wrote {write_weights(made, output, overwrite=overwrite, inputs=inputs)}")
