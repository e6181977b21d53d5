"""The entry point of the command line: runs a command, prints errors as one line and returns the exit status.

Exit status 0: success; 1: conservation or the run failed; 2: the request or the input is invalid.
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

# Exit status of the argument parser for Ctrl-C.
INTERRUPTED = 130
# Offset of the exit status after a signal: 128 plus its number.
SIGNALLED = 128
# The parser's message for extra arguments, and the package's wording.
EXTRA = "Got unexpected extra argument(s)", "expected no more arguments, received"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; an invalid request or input prints one line.

    As a program, without arguments, it exits directly after a signal, since waiting for threads may take long.
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
        # Skip the final garbage collection of the interpreter, which visits everything ever loaded.
        gc.freeze()
    return status


@contextmanager
def _quick_start() -> Iterator[None]:
    """Pause garbage collection during imports; it takes a tenth of the time of loading libraries."""
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
    """Return the environment variables that a command sets for its libraries and processes."""
    set_before = os.environ.get
    return {
        # Threads of linear algebra would busy-wait alongside the engine's own threads.
        "OPENBLAS_NUM_THREADS": set_before("OPENBLAS_NUM_THREADS") or "1",
        # Python cleans up shared memory of stopped workers and warns about it; the warning is of no use here.
        "PYTHONWARNINGS": ",".join(filter(None, (set_before("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning"))),
    }


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables within this block."""
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
    """Silence a signal raised where Python ignores errors; the signal is still handled later."""

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
    if hasattr(error, "format_message"):  # errors of the argument parser
        return _fail(error.format_message().replace(*EXTRA), 2)
    if isinstance(error, MemoryError):
        reason = str(error) or "not enough memory"
        return _fail(f"MemoryError: {reason}; choose a smaller factor or region, or smaller --chunks", 1)
    if isinstance(error, OSError):
        return _fail(f"{type(error).__name__}: {error}", 1)
    if str(error).startswith("NetCDF: "):  # errors of the library on reading damaged data
        return _fail(f"expected readable data, received {error}; a file is damaged, get it again", 2)
    if "-X" in sys.orig_argv or sys.flags.dev_mode:
        raise error
    line = f"internal error: {type(error).__name__}: {error}"
    return _fail(f"{line}; please report it with the output of python -X dev -m downscale", 1)


def _once() -> Callable[..., None]:
    """Return a function that shows each warning once, as one line without source code."""
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
