"""Commands of learned models: train, evaluate (parse, call, say; heavy imports inside the commands)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from downscale.cli.app import app


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
    try:
        carry_out(wanted, resume, typer.echo)
    except BaseException as error:
        from downscale.runs.stop import Stopped, what_came
        from downscale.train.fit import is_first, kept_words

        word = what_came(error)
        if word is None:
            raise
        if not is_first():
            raise typer.Exit(1) from None
        raise Stopped(f"{word}; {kept_words(wanted)}") from None


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
