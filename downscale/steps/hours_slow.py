"""The slow course of daily means: parabolas within days, continuous at midnight, with the mean of each day."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from downscale.kernels.days import temperature_days
from downscale.steps.daily import Window

# Days on both sides that the course of a day depends on.
REACH = 3
Floats = NDArray[np.float64]


def slow_steps(mean: Floats, at: Window, steps: int) -> Floats:
    """Return the steps of the core days of a block, shape (core days, steps, columns), from the means of its days."""
    days, columns = mean.shape
    absent, cycle = np.empty((0, columns)), np.zeros((1, columns, steps))
    core_days = at.core[1] - at.core[0]
    out, flags, label = np.empty((core_days * steps, columns)), np.zeros((days, columns), np.int8), np.zeros(days, int)
    temperature_days(mean, absent, absent, 0.0, at.days.linked, cycle, label, np.ones(1), 0, at.core, out, flags)
    return out.reshape(core_days, steps, columns)
