"""Progress of a training, and the learning rate and stopping rules that depend on it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from downscale.models.tensors import parsed
from downscale.training.pulse import remaining
from downscale.training.schema import Training

# Initial and final learning rate of the schedules, relative to the peak.
FIRST_SHARE, LAST_SHARE = 0.04, 0.002


@dataclass
class Progress:
    """Progress of a training, from which an interrupted run resumes.

    Attributes
    ----------
    step : int
        Optimiser steps done.
    round, done : int
        Validations done, and steps since the last one.
    seconds : float
        Time spent over all runs, by the clock of the recipe.
    best : float
        Least validation error so far, relative to the kernel.
    best_step, stale : int
        Step of the least error, and rounds since.
    scores : list
        Step, seconds and relative error of each round.
    """

    step: int = 0
    round: int = 0
    done: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_step: int = 0
    stale: int = 0
    scores: list[tuple[int, float, float]] | None = None

    def judged(self, score: float) -> bool:
        """Record the score of a round and start the next; return whether it is the best so far."""
        better = score < self.best
        if better:
            self.best, self.best_step, self.stale = score, self.step, 0
        else:
            self.stale += 1
        self.scores = [*(self.scores or []), (self.step, round(self.seconds, 1), score)]
        self.round, self.done = self.round + 1, 0
        return better

    def to_json(self) -> str:
        """Return the progress as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Return the progress from the text of :meth:`to_json`; unknown keys are ignored."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in parsed(text).items() if key in known})


def share_done(progress: Progress, how: Training) -> float:
    """Return the fraction of the training that is done, 0 to 1: of its steps or its time, whichever is larger.

    Examples
    --------
    >>> share_done(Progress(step=50, seconds=90.0), Training(steps=100, max_time=100))
    0.9
    """
    shares = [0.0]
    if how.steps is not None:
        shares.append(progress.step / how.steps)
    if how.max_time is not None:
        shares.append(progress.seconds / how.max_time)
    return min(max(shares), 1.0)


def rate(share: float, how: Training) -> float:
    """Return the learning rate when the fraction ``share`` of the training is done.

    "one_cycle" rises along a cosine over ``warmup`` and falls along one to the end. "cosine" starts at the peak after a
    linear warm-up. "constant" stays at the peak.

    Examples
    --------
    >>> how = Training(learning_rate=1e-3, warmup=0.25, schedule="one_cycle", steps=100)
    >>> [round(rate(share, how), 6) for share in (0.0, 0.25, 1.0)]
    [4e-05, 0.001, 2e-06]

    References
    ----------
    Smith, L. N. and Topin, N. (2019), Super-convergence: very fast training of neural networks using large learning
    rates, Proc. SPIE 11006.
    """
    top = how.learning_rate
    if share < how.warmup:
        rising = share / how.warmup
        if how.schedule == "one_cycle":
            return top * (FIRST_SHARE + (1 - FIRST_SHARE) * _half_cosine(rising))
        return top * max(rising, FIRST_SHARE)
    if how.schedule == "constant":
        return top
    falling = (share - how.warmup) / (1 - how.warmup)
    return top * (LAST_SHARE + (1 - LAST_SHARE) * _half_cosine(1 - falling))


def _half_cosine(share: float) -> float:
    return 0.5 - 0.5 * math.cos(math.pi * share)


def steps_of_round(progress: Progress, how: Training) -> int:
    """Return the number of steps left in this round, limited by the end of the training."""
    left = how.round - progress.done
    return left if how.steps is None else max(min(left, how.steps - progress.step), 0)


def ended(progress: Progress, how: Training) -> bool:
    """Return whether the limit of steps, time or patience is reached."""
    impatient = how.patience is not None and progress.stale >= how.patience
    return share_done(progress, how) >= 1 or impatient


# Description of the score of a round, by kind of model.
MEASURES = {
    "field": "of the kernel's RMSE", "ensemble": "CRPS over the kernel's absolute error",
    "mask": "one minus the best score of the mask",
}  # fmt: skip


def words(progress: Progress, score: float, better: bool, how: Training, kind: str = "field") -> str:
    """Return a progress line on the round that ended; ``kind`` is one of ``MEASURES``."""
    of = f" of {how.steps}" if how.steps is not None else ""
    best = "best so far" if better else f"best {progress.best:.4f} at step {progress.best_step}"
    return f"step {progress.step}{of}, {progress.seconds:.0f} s: {score:.4f} {MEASURES[kind]} ({best})"


def step_words(progress: Progress, loss: float, how: Training) -> str:
    """Return a progress line with the last step, its loss and the time left."""
    of = f" of {how.steps}" if how.steps is not None else ""
    left = remaining(progress.seconds, share_done(progress, how))
    return f"step {progress.step}{of}, {progress.seconds:.0f} s: loss {loss:.4g}, {left}"


def plain(value: Any) -> Any:
    """Return the value if it is a finite number, else None, as JSON needs."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
