"""The command line's root and the options that commands share (knows no command)."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated

import typer

from downscale.errors import printable

# The words that were typed, for reports that tell how to do the same again.
given: ContextVar[tuple[str, ...]] = ContextVar("given", default=())

app = typer.Typer(
    name="downscale",
    help="Downscale gridded climate fields and keep every budget.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def say(text: object) -> None:
    """Print text on the standard output; names in it that hold control characters are escaped."""
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
