"""The root of the command line, and options shared by its commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any, TypeVar

import typer

from downscale.errors import printable

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
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


def with_options(**options: tuple[Any, Any]) -> Callable[[FunctionT], FunctionT]:
    """Return a decorator that replaces the ``**values`` of a command by these options: annotation and default."""

    def decorate(function: FunctionT) -> FunctionT:
        signature = inspect.signature(function, eval_str=True)
        parameters = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ]
        function.__signature__ = signature.replace(parameters=[*parameters, *more])  # type: ignore[attr-defined]
        return function

    return decorate
