"""The root of the command line, and options shared by its commands."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated

import typer

from downscale.errors import printable

# The arguments as typed, for the command that a report prints to reproduce the run.
given: ContextVar[tuple[str, ...]] = ContextVar("given", default=())

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
    """Downscale gridded climate fields and conserve every coarse-cell mean."""


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan; read no data and write nothing.")]
# How a run is split along time, and where it is computed.
Blocks = Annotated[str | None, typer.Option("--blocks", help='Steps per block of time, or "5 years", "1 month".')]
Merge = Annotated[bool | None, typer.Option("--merge/--no-merge", help="One file, or one per block, named by dates.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run; keep blocks that verify.")]
Cluster = Annotated[str | None, typer.Option(help="local, slurm, pbs, cuda, ADDRESS, or a profile of the recipe.")]
OneBlock = Annotated[int | None, typer.Option("--block", help="Compute only this block, from 0 (for job arrays).")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of workers of the cluster to start.")]
MaxMemory = Annotated[str | None, typer.Option(help="Memory limit of each process, e.g. 2GB.")]
