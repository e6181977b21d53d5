"""Progress lines every ten seconds for long work without a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Say = Callable[[str], None]
# Longest time between two lines, in seconds.
EVERY = 10.0


class Pulse:
    """Timer of progress lines, restarted by every line.

    Examples
    --------
    >>> Pulse(every=0.0).due(), Pulse(every=60.0).due()
    (True, False)
    """

    def __init__(self, every: float | None = None) -> None:
        self.every = EVERY if every is None else every
        self._last = time.monotonic()

    def due(self) -> bool:
        """Return whether a line is due, and if so restart the timer."""
        due = time.monotonic() - self._last >= self.every
        if due:
            self.said()
        return due

    def said(self) -> None:
        """Restart the timer after a line."""
        self._last = time.monotonic()


def has_bar() -> bool:
    """Return whether the output is a terminal, on which bars show progress."""
    return sys.stderr.isatty()


def followed(items: Iterable[Any], total: int, say: Say, doing: str) -> Iterable[Any]:
    """Return the items; show a bar on a terminal, else print a line every ten seconds."""
    if not has_bar():
        return _told(items, total, say, doing)
    from rich.console import Console
    from rich.progress import track

    return track(items, description=doing, total=total, transient=True, console=Console(stderr=True))


def _told(items: Iterable[Any], total: int, say: Say, doing: str) -> Iterator[Any]:
    pulse = Pulse()
    for number, item in enumerate(items):
        if pulse.due():
            say(f"{doing}: {number} of {total}")
        yield item


def remaining(seconds: float, share: float) -> str:
    """Return a text with the remaining time, from the seconds spent and the fraction done.

    Examples
    --------
    >>> remaining(30.0, 0.25), remaining(7200.0, 0.5), remaining(5.0, 0.0)
    ('about 90 s left', 'about 2.0 h left', 'just begun')
    """
    if share <= 0:
        return "just begun"
    left = seconds * (1 - share) / share
    if left < 600:
        return f"about {left:.0f} s left"
    return f"about {left / 60:.0f} min left" if left < 7200 else f"about {left / 3600:.1f} h left"
