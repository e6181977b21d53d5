"""Masks of an event from any method: fields beyond a threshold, or models of the event."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.errors import InputError
from downscale.metrics.events import EventCounts
from downscale.training.schema import EventRule

Floats = NDArray[np.float64]

# Decision probability of fields; for ensembles, half the members.
HALF = 0.5
# Description of each score of the mask.
MASK_SCORES = {
    "csi": "critical success index of the event", "recall": "share of the event that is found",
    "precision": "share of the mask that is the event", "f1": "F1 score of the event", "f2": "F2 score of the event",
    "frequency_bias": "area of the mask over that of the event", "brier": "Brier score of the event",
    "base_rate": "share of the area in the event",
}  # fmt: skip
PREFIX = "event_"


@dataclass
class MaskTally:
    """Counts of one method on one source so far, with the decision probability of its mask."""

    counts: EventCounts
    decision: float = HALF

    @classmethod
    def empty(cls) -> MaskTally:
        """Return empty counts."""
        return cls(EventCounts.of([], []))

    def add(self, chance: Floats, decision: float, truth: Floats, area: Floats) -> None:
        """Add one block of maps to the counts."""
        self.counts, self.decision = self.counts + EventCounts.of(chance, truth, area), decision

    def __getitem__(self, score: str) -> float:
        return self.counts.scores(self.decision)[score]


def is_mask(made: xr.Dataset, name: str) -> bool:
    """Return whether the output of a method is the mask of an event instead of the field ``name``."""
    return name not in made


def mask_of(made: xr.Dataset) -> tuple[xr.DataArray, float]:
    """Return the probability of a model's event, and its decision probability.

    Raises
    ------
    InputError
        If there is no flag with its probability.
    """
    for field in made.data_vars.values():
        if "decision_threshold" in field.attrs:
            return made[field.attrs["ancillary_variables"]], float(field.attrs["decision_threshold"])
    raise InputError("expected a field, or a flag with its probability, received neither; choose another method")


def beyond(values: Floats, rule: EventRule) -> Floats:
    """Return 1 where values are in the event, 0 where they are not, NaN where they are missing.

    Examples
    --------
    >>> beyond(np.array([1.0, 5.0, np.nan]), EventRule(above=5, units="mm"))
    array([ 0.,  1., nan])
    """
    return np.where(np.isnan(values), np.nan, rule.sign * values >= rule.sign * rule.threshold)
