"""Evaluation from a recipe to scores, tables and figures, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.errors import OutputError, listing
from downscale.evaluation.figures import draw, picture_paths, require_maps
from downscale.evaluation.methods import MethodScores, ReadyMethod, open_methods
from downscale.evaluation.schema import EvaluationRecipe
from downscale.evaluation.table import assemble, to_csv, to_markdown, write_table
from downscale.evaluation.truth import Truth, open_truth
from downscale.io.config import read_recipe
from downscale.io.paths import IN_RECIPE, check_target, find_named_files
from downscale.metrics.scores import Scores, Setting
from downscale.training.pairs import prefix_errors

Say = Callable[[str], None]
KINDS = (".md", ".csv", ".nc")


def evaluate(
    recipe: str | Path | Mapping[str, Any] | EvaluationRecipe, say: Say | None = None, *,
    change: Mapping[str, Any] | None = None, dry_run: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Run an evaluation recipe: score every method on every source, and write tables and figures.

    Parameters
    ----------
    recipe : str, path, mapping or EvaluationRecipe
        A YAML file or its content.
    say : callable, optional
        Receives lines of text: the progress, and the table of scores in Markdown.
    change : mapping of str, optional
        Values that replace those of the recipe, by the path of their key: ``{"output.folder": "scores"}``.
    dry_run : bool
        List factor, sources and methods; compute and write nothing.

    Returns
    -------
    Dataset
        Scores over ``(source, upscaler)``, each variable's under ``VARIABLE_SCORE``; those with ``_ratio`` are divided
        by the error of the reference. Also quantiles and mean power spectra. Empty after a dry run.

    Raises
    ------
    DownscaleError
        With one line, if data, methods or names are not usable.
    OutputError
        If a file is in the way, or cannot be written.

    Notes
    -----
    The coarse maps are area-weighted means of the reference (perfect prognosis), or those of an independent model if a
    source names one. Errors are weighted by area. Every table marks rows of a model whose training saw some of the
    times, by the record in its checkpoint (``seen_in_training``, a fraction of the times). Memory does not grow with
    the length of the record.
    """
    recipe = read_recipe(EvaluationRecipe, recipe, change)
    say = say or (lambda line: None)
    if dry_run:
        say(f"factor: {' x '.join(map(str, recipe.data.factor))}")
        say(f"sources: {listing(source.label for source in recipe.data.sources)}")
        say(f"methods: {listing(method.label for method in recipe.methods)}")
        return xr.Dataset()
    folder_exists = Path(recipe.output.folder).expanduser().exists()
    folder = _create_folder(recipe)
    try:
        return _score_and_write(recipe, folder, say)
    except BaseException:
        if not folder_exists:
            with suppress(OSError):
                folder.rmdir()
        raise


def _score_and_write(recipe: EvaluationRecipe, folder: Path, say: Say) -> xr.Dataset:
    """Score all methods, and write tables and figures into an existing folder."""
    inputs = find_named_files(recipe.model_dump(mode="json", exclude={"output"}))
    free_path = partial(check_target, overwrite=recipe.output.overwrite, inputs=inputs, remedy=IN_RECIPE)
    targets = {kind: free_path(folder / f"{recipe.output.name}{kind}") for kind in KINDS}
    for picture in picture_paths(recipe, folder):
        free_path(picture)
    truths = [open_truth(source, recipe.data) for source in recipe.data.sources]
    if recipe.event is not None:
        for truth in truths:
            name = truth.names[0]
            recipe.event.require_units(name, str(truth.fine[name].attrs.get("units", "1")))
    require_maps(recipe, truths)
    methods = open_methods(recipe.methods, recipe.data.factor, folder, say)
    rows = [row for truth in truths for row in _score_methods(recipe, truth, methods, say)]
    result = assemble(recipe, rows)
    write_table(to_markdown(result), targets[".md"])
    write_table(to_csv(result), targets[".csv"])
    write_table(result, targets[".nc"])
    paths = list(targets.values())
    if recipe.output.figures is not None:
        paths += draw(recipe, truths, methods, result, folder)
    for path in paths:
        say(f"wrote {path}")
    say(to_markdown(result))
    return result


def _create_folder(recipe: EvaluationRecipe) -> Path:
    folder = Path(recipe.output.folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"expected a folder for the tables, received the file {folder}; choose another name")
    if not folder.resolve().parent.is_dir():
        raise OutputError(f"expected an existing parent folder, received {folder.resolve().parent}; create it first")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"expected to make the folder {folder}, received: {error.strerror}; choose another") from None
    return folder


def _score_methods(recipe: EvaluationRecipe, truth: Truth, methods: list[ReadyMethod], say: Say) -> list[MethodScores]:
    """Return the scores of all methods on one source, block by block."""
    setting = Setting(truth.spacing, recipe.wet, recipe.extreme, tuple(recipe.thresholds), tuple(recipe.scales))
    say(f"{truth.label}: {truth.steps} times of {truth.area.shape[0]} x {truth.area.shape[1]} cells")
    rows = []
    for method in methods:
        count = 0 if method.record is None else truth.count_trained_times(method.record)
        if count:
            say(f"{method.label}, {truth.label}: {count} of {truth.steps} times were seen in training; that is no test")
        scores = {name: Scores(setting) for name in truth.names}
        rows.append(MethodScores(truth, method.label, scores, recipe.event, count))
    first_block = truth.block(0, 1)
    for number, block in enumerate(truth.blocks(recipe.most_cells)):
        for method, row in zip(methods, rows, strict=True):
            if number == 0:
                method.run(first_block, truth)  # compile kernels and load libraries before measuring the cost
            with row.cost:
                fine = method.run(block, truth)
            with prefix_errors(f"{method.label}, {truth.label}"):
                row.add(block, fine)
    return rows
