"""Split of time steps into training and validation, with a gap between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.errors import InputError
from downscale.training.schema import Split, seconds_of

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sides:
    """Indices of the time steps on each side; steps in the gap are on neither."""

    train: Indices
    validation: Indices


def split_times(dates: NDArray[Any] | None, count: int, how: Split, use: str, label: str) -> Sides:
    """Split time steps into training and one contiguous span of validation.

    Parameters
    ----------
    dates : array of datetime64 or cftime, shape (count,), or None
        In any order; None for a source without dates, whose steps are taken in order.
    count : int
        Number of time steps.
    how : Split
        Settings of the recipe.
    use : {"split", "train", "validation"}
        Side of the source, or "split".
    label : str
        Name of the source, for messages.

    Raises
    ------
    InputError
        If a span is requested for a source without dates, or with no dates in it.

    Examples
    --------
    >>> sides = split_times(None, 10, Split(fraction=0.3, gap=2), "split", "a.nc")
    >>> sides.train.tolist(), sides.validation.tolist()
    ([0, 1, 2, 3, 4], [7, 8, 9])
    """
    none, every = np.empty(0, dtype=np.int64), np.arange(count)
    if use != "split":
        return Sides(every, none) if use == "train" else Sides(none, every)
    seconds = None if dates is None else _seconds(dates)
    order = every if seconds is None else np.argsort(seconds, kind="stable")
    if how.span is None:
        held = order[count - round(how.fraction * count) :]
    else:
        held = _within(dates, how.span, label)
    if held.size == 0:
        return Sides(every, none)
    if seconds is None or isinstance(how.gap, int):
        # The gap counts different times: members of one time are not steps apart.
        places = every if seconds is None else np.unique(seconds, return_inverse=True)[1]
        away = _distance(places, places[held]) > (how.gap if isinstance(how.gap, int) else 1)
    else:
        away = _distance(seconds, seconds[held]) > seconds_of(how.gap)
    return Sides(np.flatnonzero(away), np.sort(held))


def _distance(times: NDArray[Any], held: NDArray[Any]) -> NDArray[Any]:
    """Return the distance of each time from the span of the held-out times; -1 within."""
    outside = np.maximum(held.min() - times, times - held.max())
    return np.where(outside > 0, outside, -1)


def _seconds(dates: NDArray[Any]) -> NDArray[np.float64]:
    if dates.dtype.kind == "M":
        return (dates - dates.min()) / np.timedelta64(1, "ns") / 1e9
    first = min(dates)
    return np.array([(date - first).total_seconds() for date in dates])


def _within(dates: NDArray[Any] | None, span: tuple[str, str], label: str) -> Indices:
    if dates is None:
        raise InputError(f"{label}: expected dates for the validation span, received none; use fraction instead")
    # ISO dates compare as texts in every calendar; a shorter one covers all dates that begin with it.
    words = [iso(date) for date in dates]
    held = [i for i, word in enumerate(words) if word >= span[0] and word[: len(span[1])] <= span[1]]
    return np.array(held, dtype=np.int64)


def iso(date: Any) -> str:
    """Return a date as text, to the second; these texts sort as dates do, in every calendar."""
    return str(np.datetime_as_string(date, unit="s")) if isinstance(date, np.datetime64) else str(date.isoformat())
