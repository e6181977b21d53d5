"""Commands that judge and describe: check, inspect, info (parse, call, say; heavy imports inside the commands)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from downscale.cli.app import app


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
