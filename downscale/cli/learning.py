"""Commands of learned models: train, evaluate, encode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from downscale.cli.app import Chunks, Complevel, Overwrite, app, say


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yml", help="A training recipe.")],
    resume: Annotated[bool, typer.Option(help="Resume an interrupted run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Open the data, run the advisor, train nothing.")] = False,
) -> None:
    """Train a model on pairs of coarse and fine fields, and write its checkpoint (extra "train")."""
    from downscale.training.schema import load_training

    training = load_training(recipe)
    from downscale.process.interrupts import telling
    from downscale.training.fit import folder_of, is_first
    from downscale.training.fit import train as carry_out
    from downscale.training.progress import resume_hint

    if dry_run:
        carry_out(training, say=say, dry_run=True)
        return
    folder, steps = folder_of(training), training.training.steps
    try:
        with telling(lambda: resume_hint(folder, steps)):
            carry_out(training, resume, say)
    except BaseException as error:
        from downscale.process.interrupts import Stopped, what_came

        word = what_came(error)
        if word is None:
            raise
        if not is_first():
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
    from downscale.evaluation.run import evaluate as carry_out

    carry_out(evaluation, say, change=None if out is None else {"output.folder": str(out)})


@app.command()
def encode(
    source: Annotated[str, typer.Argument(metavar="FINE.nc", help="Fine file, a quoted pattern, or sample:NAME.")],
    output: Annotated[Path, typer.Argument(metavar="CODE.nc", help="Output file for coarse means and code.")],
    method: Annotated[str, typer.Option("--method", "-m", help="A compressor: MODEL.safetensors.")],
    report: Annotated[bool, typer.Option("--report", help="Decode too, and print errors and checkerboard.")] = False,
    chunks: Chunks = "auto",
    complevel: Complevel = 1,
    device: Annotated[str, typer.Option(help="Device of the encoder: auto, cpu, or an accelerator.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Compress fine fields to coarse means and a code; decode with `downscale apply CODE.nc --method MODEL`."""
    from downscale.cli.arguments import parse_chunks
    from downscale.io.read import find_files

    chunk_sizes = parse_chunks(chunks)
    if not source.startswith("sample:"):
        find_files(source)
    from downscale.process.computing import scheduled
    from downscale.runs.compression import encode_file, lines_of

    with scheduled():
        facts = encode_file(
            source, output, method, chunks=chunk_sizes, complevel=complevel, overwrite=overwrite, device=device
        )
        for line in lines_of(source, output, method, facts, report):
            say(line)
