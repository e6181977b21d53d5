"""Progress of a training: learning rate, stopping rules, progress lines, and the state for resuming.

The state is one safetensors file, written atomically; reading it runs no code.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from downscale.errors import InputError
from downscale.models.checkpoint import parse_text, read_tensors, read_texts, write_tensors
from downscale.training.schema import Training

if TYPE_CHECKING:
    from torch.optim import Optimizer

Say = Callable[[str], None]
# Longest time between two lines, in seconds.
EVERY = 10.0
# Initial and final learning rate of the schedules, relative to the peak.
FIRST_FRACTION, LAST_FRACTION = 0.04, 0.002
FORMAT, KIND = "downscale-training", "training state"
STATE = "state.safetensors"


class LineTimer:
    """Timer of progress lines, restarted by every line.

    Examples
    --------
    >>> LineTimer(every=0.0).due(), LineTimer(every=60.0).due()
    (True, False)
    """

    def __init__(self, every: float | None = None) -> None:
        self.every = EVERY if every is None else every
        self._last = time.monotonic()

    def due(self) -> bool:
        """Return whether a line is due, and if so restart the timer."""
        is_due = time.monotonic() - self._last >= self.every
        if is_due:
            self.restart()
        return is_due

    def restart(self) -> None:
        """Restart the timer after a line."""
        self._last = time.monotonic()


def has_terminal() -> bool:
    """Return whether the output is a terminal, on which bars show progress."""
    return sys.stderr.isatty()


def track_progress(items: Iterable[Any], total: int, say: Say, description: str) -> Iterator[Any]:
    """Yield the items; show a bar on a terminal, else print a line every ten seconds."""
    if has_terminal():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, description=description, total=total, transient=True, console=Console(stderr=True))
        return
    timer = LineTimer()
    for number, item in enumerate(items):
        if timer.due():
            say(f"{description}: {number} of {total}")
        yield item


def time_left(seconds: float, fraction: float) -> str:
    """Return a text with the remaining time, from the seconds spent and the fraction done.

    Examples
    --------
    >>> time_left(30.0, 0.25), time_left(7200.0, 0.5), time_left(5.0, 0.0)
    ('about 90 s left', 'about 2.0 h left', 'just begun')
    """
    if fraction <= 0:
        return "just begun"
    seconds_left = seconds * (1 - fraction) / fraction
    if seconds_left < 600:
        return f"about {seconds_left:.0f} s left"
    if seconds_left < 7200:
        return f"about {seconds_left / 60:.0f} min left"
    return f"about {seconds_left / 3600:.1f} h left"


@dataclass
class Progress:
    """Progress of a training, from which an interrupted run resumes."""

    step: int = 0  # optimiser steps done
    # Validations done, and steps since the last one.
    round: int = 0
    done: int = 0
    seconds: float = 0.0  # time spent over all runs, by the clock of the recipe
    best: float = math.inf  # least validation error so far, relative to the kernel
    # Step of the least error, and rounds since.
    best_step: int = 0
    stale: int = 0
    scores: list[tuple[int, float, float]] | None = None  # step, seconds and relative error of each round

    def record_score(self, score: float | None) -> bool:
        """Record the score of a round, if any, and start the next; return whether it is the best so far."""
        self.round, self.done = self.round + 1, 0
        if score is None:
            return False
        is_best = score < self.best
        if is_best:
            self.best, self.best_step, self.stale = score, self.step, 0
        else:
            self.stale += 1
        self.scores = [*(self.scores or []), (self.step, round(self.seconds, 1), score)]
        return is_best


def fraction_done(progress: Progress, settings: Training) -> float:
    """Return the fraction of the training that is done, 0 to 1: of its steps or its time, whichever is larger.

    Examples
    --------
    >>> fraction_done(Progress(step=50, seconds=90.0), Training(steps=100, max_time=100))
    0.9
    """
    fractions = [0.0]
    if settings.steps is not None:
        fractions.append(progress.step / settings.steps)
    if settings.max_time is not None:
        fractions.append(progress.seconds / settings.max_time)
    return min(max(fractions), 1.0)


def learning_rate(fraction: float, settings: Training) -> float:
    """Return the learning rate after a ``fraction`` of the training.

    "one_cycle" rises along a cosine over ``warmup`` and falls along one to the end. "cosine" starts at the peak after a
    linear warm-up. "constant" stays at the peak.

    Examples
    --------
    >>> settings = Training(learning_rate=1e-3, warmup=0.25, schedule="one_cycle", steps=100)
    >>> [round(learning_rate(fraction, settings), 6) for fraction in (0.0, 0.25, 1.0)]
    [4e-05, 0.001, 2e-06]

    References
    ----------
    Smith, L. N. and Topin, N. (2019), Super-convergence: very fast training of neural networks using large learning
    rates, Proc. SPIE 11006.
    """
    peak = settings.learning_rate
    if fraction < settings.warmup:
        warmup_fraction = fraction / settings.warmup
        if settings.schedule == "one_cycle":
            return peak * (FIRST_FRACTION + (1 - FIRST_FRACTION) * _half_cosine(warmup_fraction))
        return peak * max(warmup_fraction, FIRST_FRACTION)
    if settings.schedule == "constant":
        return peak
    decay_fraction = (fraction - settings.warmup) / (1 - settings.warmup)
    return peak * (LAST_FRACTION + (1 - LAST_FRACTION) * _half_cosine(1 - decay_fraction))


def _half_cosine(fraction: float) -> float:
    return 0.5 - 0.5 * math.cos(math.pi * fraction)


def remaining_steps(progress: Progress, settings: Training) -> int:
    """Return the number of steps left in this round, limited by the end of the training."""
    steps_left = settings.round - progress.done
    if settings.steps is not None:
        steps_left = min(steps_left, settings.steps - progress.step)
    return max(steps_left, 0)


def has_ended(progress: Progress, settings: Training) -> bool:
    """Return whether the limit of steps, time or patience is reached."""
    is_out_of_patience = settings.patience is not None and progress.stale >= settings.patience
    return fraction_done(progress, settings) >= 1 or is_out_of_patience


def step_line(progress: Progress, row: Mapping[str, Tensor], settings: Training) -> str:
    """Return a progress line with the last step, its loss and the time left."""
    name, loss = next(iter(row.items()))
    time_left_text = time_left(progress.seconds, fraction_done(progress, settings))
    step = f"step {progress.step}{_of_steps(settings.steps)}"
    return f"{step}, {progress.seconds:.0f} s: {name} {float(loss):.4g}, {time_left_text}"


def _of_steps(steps: int | None) -> str:
    return "" if steps is None else f" of {steps}"


def write_state(path: Path, groups: Mapping[str, Mapping[str, Tensor]], progress: Progress, origin: str) -> None:
    """Write the tensors of a state, by group and name; it replaces an earlier one atomically."""
    tensors = {f"{group}/{name}": tensor for group, part in groups.items() for name, tensor in part.items()}
    write_tensors(path, tensors, {"format": FORMAT, "progress": json.dumps(asdict(progress)), "origin": origin})


def read_state(path: Path, origin: str | None) -> tuple[dict[str, dict[str, Tensor]], Progress]:
    """Return the tensors of a state and its progress; with ``origin`` None the origin is not checked."""
    texts = read_texts(path, KIND)
    if texts.get("format") != FORMAT or "progress" not in texts:
        raise InputError(f"expected a {KIND}, received {path} of another kind; remove it, or choose another folder")
    if origin is not None and texts.get("origin") != origin:
        raise InputError(
            f"expected the recipe, settings and data that {path} was begun with, received others; continue with those, "
            "or remove that file to start again"
        )
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_tensors(path, KIND).items():
        group, _, tensor_name = name.partition("/")
        groups.setdefault(group, {})[tensor_name] = tensor
    try:
        return groups, Progress(**parse_text(texts["progress"]))
    except (ValueError, TypeError):
        raise InputError(f"expected a {KIND} with a readable header, received {path}; remove it") from None


def resume_hint(folder: Path, steps: int | None = None) -> str:
    """Return a message on the step from which an interrupted training of a folder can resume."""
    state = folder / STATE
    if not state.is_file():
        return "no step is kept yet; run again"
    step = parse_text(read_texts(state, KIND)["progress"])["step"]
    return f"step {step}{_of_steps(steps)} is kept; run again with --resume"


def moments_of(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the tensors of an optimiser by number of the parameter and name."""
    states = optimizer.state_dict()["state"]
    return {f"{number}/{name}": value for number, values in states.items() for name, value in values.items()}


def restore_moments(optimizer: Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Restore an optimiser from the tensors of :func:`moments_of`."""
    states: dict[int, dict[str, Any]] = {}
    for key, value in moments.items():
        number, _, name = key.partition("/")
        states.setdefault(int(number), {})[name] = value
    state_dict = optimizer.state_dict()
    optimizer.load_state_dict({**state_dict, "state": states})
