"""Events of segmentation recipes: thresholds in the units of the data, and their frequency."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from downscale.cf.units import same_units
from downscale.errors import InputError, OptionError
from downscale.nn.spec import Event, ModelSpec, Variable
from downscale.training.maps import read_truth
from downscale.training.pairs import Source
from downscale.training.schema import EventRule
from downscale.training.split import Sides

# Largest fraction of cells with a rare event.
NOT_RARE = 0.2
# Number of maps per source to search for events.
MOST_MAPS = 24


def event_of(wanted: EventRule, variable: Variable, spread: float) -> Event:
    """Return the event in the units of the variable.

    Raises
    ------
    OptionError
        If the units differ.
    """
    require_event_units(wanted, variable.name, variable.units)
    return Event(wanted.name, wanted.threshold, wanted.side, float(spread))


def require_event_units(wanted: EventRule, name: str, units: str) -> None:
    """Refuse an event in other units than its variable's.

    Raises
    ------
    OptionError
        With one line.
    """
    if not same_units(wanted.units, units):
        raise OptionError(
            f"expected the threshold of {wanted.name!r} in {units!r} as {name!r} is, received {wanted.units!r}; "
            "convert it"
        )


def require_occurs(sources: Sequence[Source], sides: Sequence[Sides], spec: ModelSpec) -> str:
    """Return a message on the event's frequency in the training split; warn if it is not rare.

    Raises
    ------
    InputError
        If it never occurs there.
    """
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
