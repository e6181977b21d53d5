"""The entry point: run a command, turn what goes wrong into one line and an exit status (knows no command).

Exit status 0: done; 1: a law is broken or a run failed; 2: the request or the input is wrong.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from downscale.cli.app import app, given
from downscale.errors import ConservationError, DownscaleError, one_line
from downscale.process.interrupts import NOTHING_LEFT, Stopped, Terminated, ignore_signals, status_of, terminable

# What the parser of the command line returns for Ctrl-C.
INTERRUPTED = 130
# Above it: 128 and the number of a signal.
SIGNALLED = 128
# How it names words that it has no place for, and how every other message of ours would.
EXTRA = "Got unexpected extra argument(s)", "expected no more arguments, received"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; a wrong request or input prints one line.

    As the program itself, without arguments, it does not return after a signal: to wait for threads may take long.
    """
    with warnings.catch_warnings(), _quick_start():
        warnings.showwarning = _once()
        status = _run(arguments)
    if arguments is None:
        if status > SIGNALLED:
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(status)
        ignore_signals()
        # The interpreter would look for garbage once more before it ends, in all that was ever loaded.
        gc.freeze()
    return status


@contextmanager
def _quick_start() -> Iterator[None]:
    """Leave what has lived long to itself: looking for garbage in libraries that load takes a tenth of the time."""
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, 100 * old)
    unraisable = sys.unraisablehook
    sys.unraisablehook = _unless_a_signal(unraisable)
    try:
        with _environment(_settings()):
            yield
    finally:
        sys.unraisablehook = unraisable
        gc.set_threshold(young, middle, old)


def _settings() -> dict[str, str]:
    """Return the variables of the environment that a command sets for its libraries and for its processes."""
    set_before = os.environ.get
    return {
        # Threads of linear algebra would wait, busily, for what the engine's threads do themselves.
        "OPENBLAS_NUM_THREADS": set_before("OPENBLAS_NUM_THREADS") or "1",
        # A process of Python's removes what stopped workers have shared; that it had to is no news.
        "PYTHONWARNINGS": ",".join(filter(None, (set_before("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning"))),
    }


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment for this block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _unless_a_signal(hook: Any) -> Any:
    """Keep quiet about a signal that was raised where Python ignores errors; it is not forgotten."""

    def show(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt | Terminated):
            hook(unraisable)

    return show


def _run(arguments: list[str] | None) -> int:
    given.set(tuple(sys.argv[1:] if arguments is None else arguments))
    come: list[str] = []
    try:
        with terminable() as come:
            status = app(arguments, standalone_mode=False)
            if status == INTERRUPTED:
                raise KeyboardInterrupt
        return int(status) if isinstance(status, int) else 0
    except BaseException as error:
        if come or isinstance(error, KeyboardInterrupt):
            word = "interrupted" if not come or come[0] == "SIGINT" else "terminated"
            line = error if isinstance(error, Stopped) else f"{word}; {NOTHING_LEFT}"
            return _fail(line, status_of(come or ["SIGINT"]))
        if not isinstance(error, Exception):
            raise
        return _failed(error)


def _failed(error: Exception) -> int:
    """Print one line about an error and return the exit status."""
    if isinstance(error, ConservationError | Stopped):
        return _fail(error, 1)
    if isinstance(error, DownscaleError):
        return _fail(error, 2)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error, file=sys.stderr)
        return 2
    if hasattr(error, "format_message"):  # what the parser of the command line raises
        return _fail(error.format_message().replace(*EXTRA), 2)
    if isinstance(error, MemoryError):
        reason = str(error) or "not enough memory"
        return _fail(f"MemoryError: {reason}; choose a smaller factor or region, or smaller --chunks", 1)
    if isinstance(error, OSError):
        return _fail(f"{type(error).__name__}: {error}", 1)
    if str(error).startswith("NetCDF: "):  # what the library raises where data turn out to be damaged
        return _fail(f"expected readable data, received {error}; a file is damaged, get it again", 2)
    if "-X" in sys.orig_argv or sys.flags.dev_mode:
        raise error
    line = f"internal error: {type(error).__name__}: {error}"
    return _fail(f"{line}; please report it with what python -X dev -m downscale prints", 1)


def _once() -> Callable[..., None]:
    """Return a function that shows each warning once, as one line without the source code that gave it."""
    shown: set[str] = set()

    def warn(message: Warning | str, *where: object, **more: object) -> None:
        line = one_line(message)
        if line not in shown:
            shown.add(line)
            print(f"downscale: warning: {line}", file=sys.stderr)

    return warn


def _fail(error: object, status: int) -> int:
    print(f"downscale: {one_line(error)}", file=sys.stderr)
    return status
