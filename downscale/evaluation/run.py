"""Evaluation from a recipe to scores, tables and figures, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.check.conservation import check_conservation
from downscale.errors import OptionError, OutputError, listing
from downscale.evaluation.figures import draw, pictures, require_maps
from downscale.evaluation.methods import (
    HALF,
    Cost,
    MaskCounts,
    ReadyMethod,
    event_probability,
    is_mask,
    mark_event,
    open_methods,
)
from downscale.evaluation.schema import EvaluationRecipe
from downscale.evaluation.table import Row, assemble, to_csv, to_markdown, write_table
from downscale.evaluation.truth import Block, Truth, open_truth
from downscale.io.config import read_recipe
from downscale.io.paths import IN_RECIPE, check_target, named_files
from downscale.metrics.scores import Scores, Setting
from downscale.training.pairs import prefix_errors
from downscale.training.schema import EventRule
from downscale.training.tasks import require_event_units

Say = Callable[[str], None]
KINDS = (".md", ".csv", ".nc")
NO_LAW = (math.nan, math.nan, math.nan)


@dataclass
class Accumulator:
    """Results of one method on one source so far."""

    scores: dict[str, Scores]  # scores by variable
    # By variable: the largest relative error of a coarse cell and of the integral of a map, and the number of values
    # out of bounds; empty for masks, to which conservation does not apply.
    law: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)  # cost of all maps together
    event: EventRule | None = None  # event of the first variable, whose mask is scored
    mask: MaskCounts = field(default_factory=MaskCounts.empty)  # counts of the mask

    def add(self, truth: Truth, block: Block, made: xr.Dataset) -> None:
        """Score the maps of a block."""
        fields = [name for name in truth.names if not is_mask(made, name)]
        if fields:
            self._add_fields(truth, block, made, fields)
        if self.event is not None:
            self._add_mask(truth, block, made, self.event)
        elif not fields:
            raise OptionError("expected a field, received the mask of an event; set event in the recipe")

    def _add_fields(self, truth: Truth, block: Block, made: xr.Dataset, names: list[str]) -> None:
        report = check_conservation(block.coarse, made, bounds=dict(truth.bounds), data_vars=names)
        for name in names:
            target = _maps(block.fine[name], truth.dims)
            self.scores[name].add(_like(made[name], block.fine[name], truth), target, truth.area)
            one, old = report[name], self.law.get(name, (0.0, 0.0, 0))
            lost = math.inf if one.cells_lost else 0.0
            self.law[name] = (
                max(old[0], one.max_relative_error, lost), max(old[1], one.global_error),
                old[2] + one.values_out_of_bounds,
            )  # fmt: skip

    def _add_mask(self, truth: Truth, block: Block, made: xr.Dataset, event: EventRule) -> None:
        name = truth.names[0]
        target = mark_event(_maps(block.fine[name], truth.dims), event)
        if is_mask(made, name):
            chance, decision = event_probability(made)
            self.mask.add(_like(chance, block.fine[name], truth), decision, target, truth.area)
            return
        inside = mark_event(_like(made[name], block.fine[name], truth), event)
        self.mask.add(inside if inside.ndim == target.ndim else inside.mean(axis=0), HALF, target, truth.area)


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
    if dry_run:
        _list(recipe, say or (lambda line: None))
        return xr.Dataset()
    there = Path(recipe.output.folder).expanduser().exists()
    folder = _folder(recipe)
    try:
        return _evaluated(recipe, folder, say or (lambda line: None))
    except BaseException:
        if not there:
            with suppress(OSError):
                folder.rmdir()
        raise


def _list(recipe: EvaluationRecipe, say: Say) -> None:
    """Print factor, sources and methods."""
    say(f"factor: {' x '.join(map(str, recipe.data.factor))}")
    say(f"sources: {listing(source.label for source in recipe.data.sources)}")
    say(f"methods: {listing(method.label for method in recipe.methods)}")


def _evaluated(recipe: EvaluationRecipe, folder: Path, tell: Say) -> xr.Dataset:
    """Score all methods, and write tables and figures into an existing folder."""
    inputs = named_files(recipe.model_dump(mode="json", exclude={"output"}))
    free = partial(check_target, overwrite=recipe.output.overwrite, inputs=inputs, remedy=IN_RECIPE)
    targets = {kind: free(folder / f"{recipe.output.name}{kind}") for kind in KINDS}
    for picture in pictures(recipe, folder):
        free(picture)
    truths = [open_truth(source, recipe.data) for source in recipe.data.sources]
    _require_event(recipe, truths)
    require_maps(recipe, truths)
    methods = open_methods(recipe.methods, recipe.data.factor, folder, tell)
    rows = [row for truth in truths for row in _judged(recipe, truth, methods, tell)]
    result = assemble(recipe, rows)
    write_table(to_markdown(result), targets[".md"])
    write_table(to_csv(result), targets[".csv"])
    write_table(result, targets[".nc"])
    written = list(targets.values())
    if recipe.output.figures is not None:
        written += draw(recipe, truths, methods, result, folder)
    for path in written:
        tell(f"wrote {path}")
    tell(to_markdown(result))
    return result


def _require_event(recipe: EvaluationRecipe, truths: list[Truth]) -> None:
    if recipe.event is not None:
        for truth in truths:
            name = truth.names[0]
            require_event_units(recipe.event, name, str(truth.fine[name].attrs.get("units", "1")))


def _folder(recipe: EvaluationRecipe) -> Path:
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


def _judged(recipe: EvaluationRecipe, truth: Truth, methods: list[ReadyMethod], say: Say) -> list[Row]:
    """Return the scores of all methods on one source, block by block."""
    setting = Setting(truth.spacing, recipe.wet, recipe.extreme, tuple(recipe.thresholds), tuple(recipe.scales))
    accumulators = [Accumulator({name: Scores(setting) for name in truth.names}, event=recipe.event) for _ in methods]
    say(f"{truth.label}: {truth.steps} times of {truth.area.shape[0]} x {truth.area.shape[1]} cells")
    seen = [0 if method.record is None else truth.seen_by(method.record) for method in methods]
    for method, count in zip(methods, seen, strict=True):
        if count:
            say(f"{method.label}, {truth.label}: {count} of {truth.steps} times were seen in training; that is no test")
    warm = truth.block(0, 1)
    for number, block in enumerate(truth.blocks(recipe.most_cells)):
        for method, accumulator in zip(methods, accumulators, strict=True):
            if number == 0:
                method.run(warm, truth)  # compile kernels and load libraries before measuring the cost
            with accumulator.cost:
                made = method.run(block, truth)
            with prefix_errors(f"{method.label}, {truth.label}"):
                accumulator.add(truth, block, made)
    return [
        Row(truth, name, method.label, each.scores[name], *each.law.get(name, NO_LAW), each.cost, each.mask, count)
        for method, each, count in zip(methods, accumulators, seen, strict=True)
        for name in truth.names
    ]


def _maps(field: xr.DataArray, dims: tuple[str, str]) -> NDArray[np.float64]:
    return np.asarray(field.transpose(..., *dims).values, dtype=np.float64)


def _like(made: xr.DataArray, target: xr.DataArray, truth: Truth) -> NDArray[np.float64]:
    """Return predictions with the dimensions of the target; any other comes first and holds members."""
    lead = [str(dim) for dim in target.dims if dim not in truth.dims]
    members = [str(dim) for dim in made.dims if dim not in target.dims]
    return np.asarray(made.transpose(*members, *lead, *truth.dims).values, dtype=np.float64)
