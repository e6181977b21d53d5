"""Tasks of recipes: their keys, their validation errors, and the event of a segmentation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from downscale.cf.units import same_units
from downscale.errors import InputError, OptionError
from downscale.nn.spec import Event, ModelSpec, Variable
from downscale.training.pairs import Source, Split, read_truth
from downscale.training.schema import EventRule, TrainingRecipe

BRIER = "root of the Brier score"
# Largest fraction of cells with a rare event.
NOT_RARE = 0.2
# Number of maps per source to search for events.
MOST_MAPS = 24


@dataclass(frozen=True)
class Task:
    """A task of recipes."""

    block: str | None = None  # block of the recipe that only this task has
    unused: tuple[str, ...] = ()  # keys of the training block that it ignores


# A mask has its own loss.
TASKS = {
    "downscaling": Task(),
    "segmentation": Task("event", ("loss", "loss_scale", "members")),
    "compression": Task("code"),
}


@dataclass(frozen=True)
class Measure:
    """Validation errors of a kind of model."""

    line: str  # description in progress lines
    power: float = 0.5  # of mean errors: a half for the root of squared ones
    keys: Mapping[str, str] = field(default_factory=dict)  # further keys of a row of errors


FIELD = Measure("of the kernel's RMSE")
ENSEMBLE = Measure(
    "CRPS over the kernel's absolute error", 1.0, {"measure": "CRPS", "measure_kernel": "absolute error"}
)
MASK = Measure("one minus the best score of the mask", keys={"measure": BRIER, "measure_kernel": BRIER, "units": "1"})


def measure_of(spec: ModelSpec) -> Measure:
    """Return the measure of a model's errors."""
    return MASK if spec.event is not None else ENSEMBLE if spec.stochastic else FIELD


def require_task(recipe: TrainingRecipe) -> None:
    """Raise an OptionError if task and blocks of a recipe do not match."""
    for name, task in TASKS.items():
        if task.block is None:
            continue
        has_block = getattr(recipe, task.block) is not None
        article = "an" if task.block == "event" else "a"
        if has_block and recipe.task != name:
            raise OptionError(
                f"expected task: {name} with {article} {task.block}, received task: {recipe.task}; set it"
            )
        if not has_block and recipe.task == name:
            raise OptionError(f"expected {article} {task.block} with task: {name}, received none; give one")
    if recipe.task == "downscaling":
        return
    if recipe.task == "segmentation" and len(recipe.data.outputs) != 1:
        raise OptionError(f"expected one output with task: segmentation, received {len(recipe.data.outputs)}")
    for key in TASKS[recipe.task].unused:
        if key in recipe.training.model_fields_set:
            raise OptionError(
                f"training.{key}: expected no such key with task: segmentation, received "
                f"{getattr(recipe.training, key)!r}; the loss of a mask is event.loss, remove training.{key}"
            )
    if any(recipe.network.noise):
        raise OptionError(f"expected no network.noise with task: {recipe.task}, received {recipe.network.noise}")
    if recipe.task == "compression" and any(pair.coarse is not None for pair in recipe.data.pairs):
        raise OptionError(
            "expected fine files only with task: compression, whose coarse fields are their averages; remove coarse"
        )


def occurs(rule: Event | EventRule, values: Any) -> Any:
    """Return where values of an array or tensor are in an event, False where they are missing."""
    return rule.sign * values >= rule.sign * rule.threshold


def event_of(wanted: EventRule, variable: Variable, spread: float) -> Event:
    """Return the event in the units of the variable."""
    require_event_units(wanted, variable.name, variable.units)
    return Event(wanted.name, wanted.threshold, wanted.side, float(spread))


def require_event_units(wanted: EventRule, name: str, units: str) -> None:
    """Refuse an event in other units than its variable's."""
    if not same_units(wanted.units, units):
        raise OptionError(
            f"expected the threshold of {wanted.name!r} in {units!r} as {name!r} is, received {wanted.units!r}; "
            "convert it"
        )


def require_occurs(sources: Sequence[Source], sides: Sequence[Split], spec: ModelSpec) -> str:
    """Return a message on the event's frequency in the training split; warn if it is not rare."""
    assert spec.event is not None
    event, hits, cells = spec.event, 0, 0
    for source, split in zip(sources, sides, strict=True):
        maps = source.maps_of(split.train)
        for number in maps[:: max(maps.size // MOST_MAPS, 1)]:
            truth = read_truth(source, int(number))[0]
            hits += int(occurs(event, truth).sum())
            cells += int(np.isfinite(truth).sum())
    words = f"{spec.outputs[0].name} {event.side} {event.threshold:g} {spec.outputs[0].units}"
    if hits == 0:
        raise InputError(f"expected the event {event.name!r} ({words}) in the training data, received none; change it")
    if hits > NOT_RARE * cells:
        warnings.warn(
            f"the event {event.name!r} ({words}) is in {hits / cells:.0%} of the cells, which is not rare", UserWarning,
            stacklevel=3,
        )  # fmt: skip
    return f"{event.name}: {words} in {hits / cells:.3%} of the fine cells that train"
