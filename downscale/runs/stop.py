"""How a run is stopped from outside: signals become one exception in the main thread (the standard library only)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """A run that was stopped or failed before its end, through no fault of the request; says how to go on."""


class Terminated(BaseException):
    """A signal has come; nothing but the end of the run may catch it, as with KeyboardInterrupt."""


# Signals that have come; an exception raised where Python ignores it would be lost.
_COME: list[str] = []
# What batch systems send before the walltime is over; the second is common with "--signal".
NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")


@contextmanager
def terminable() -> Iterator[None]:
    """Raise what :func:`go_on` does in this block at the first signal; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}

    _COME.clear()

    def stop(number: int, frame: Any) -> None:
        _COME.append(signal.Signals(number).name)
        for one in numbers:
            signal.signal(one, signal.SIG_DFL)
        go_on()

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        _COME.clear()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def what_came(error: BaseException) -> str | None:
    """Return "interrupted" or "terminated" where a signal is behind an error, whatever became of it on its way."""
    if isinstance(error, KeyboardInterrupt) or (_COME and _COME[-1] == "SIGINT"):
        return "interrupted"
    return "terminated" if isinstance(error, Terminated) or _COME else None


def go_on() -> None:
    """Raise KeyboardInterrupt or :class:`Terminated` if a signal has come, be it lost on its way."""
    if _COME:
        raise KeyboardInterrupt if _COME[-1] == "SIGINT" else Terminated(_COME[-1])
