"""Tasks of a recipe: legal keys, and the event of a segmentation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from downscale.cf.units import same_units
from downscale.errors import InputError, OptionError
from downscale.nn.spec import Event, ModelSpec, Variable
from downscale.training.pairs import Source, Split, read_truth
from downscale.training.schema import EventRule, TrainingRecipe

# Keys of the training block for the loss on fields; a mask has its own loss.
FIELD_KEYS = ("loss", "loss_scale", "members")
# The block that only this task has.
BLOCKS = {"segmentation": "event", "compression": "code"}


def require_task(recipe: TrainingRecipe) -> None:
    """Raise an OptionError if task and blocks of a recipe do not match."""
    for task, block in BLOCKS.items():
        given = getattr(recipe, block) is not None
        article = "an" if block == "event" else "a"
        if given and recipe.task != task:
            raise OptionError(f"expected task: {task} with {article} {block}, received task: {recipe.task}; set it")
        if not given and recipe.task == task:
            raise OptionError(f"expected {article} {block} with task: {task}, received none; give one")
    if recipe.task == "downscaling":
        return
    if recipe.task == "segmentation" and len(recipe.data.outputs) != 1:
        raise OptionError(f"expected one output with task: segmentation, received {len(recipe.data.outputs)}")
    if recipe.task == "segmentation" and (unused := _unused(recipe)):
        raise OptionError(
            f"training.{unused}: expected no such key with task: segmentation, received "
            f"{getattr(recipe.training, unused)!r}; the loss of a mask is event.loss, remove training.{unused}"
        )
    if any(recipe.network.noise):
        raise OptionError(f"expected no network.noise with task: {recipe.task}, received {recipe.network.noise}")
    if recipe.task == "compression" and any(pair.coarse is not None for pair in recipe.data.pairs):
        raise OptionError("expected fine files only with task: compression, whose coarse fields are their averages; "
                          "remove coarse")  # fmt: skip


def _unused(recipe: TrainingRecipe) -> str | None:
    """Return a key of the training block that the recipe sets and the training of a mask ignores."""
    return next((key for key in FIELD_KEYS if key in recipe.training.model_fields_set), None)


# Largest fraction of cells with a rare event.
NOT_RARE = 0.2
# Number of maps per source to search for events.
MOST_MAPS = 24


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
    for source, each in zip(sources, sides, strict=True):
        maps = source.maps_of(each.train)
        for number in maps[:: max(maps.size // MOST_MAPS, 1)]:
            truth = read_truth(source, int(number))[0]
            hits += int((event.sign * truth >= event.sign * event.threshold).sum())
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
