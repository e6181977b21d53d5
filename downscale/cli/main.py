"""The function of the command line: runs a command, prints errors as one line and returns the exit status.

Exit status 0: success; 1: conservation or the run failed; 2: the request or the input is invalid.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextvars import copy_context

from downscale.cli.commands import app, typed
from downscale.errors import ConservationError, DownscaleError, one_line
from downscale.process.interrupts import NOTHING_LEFT, Stopped, status_of, terminable

# Exit status of the argument parser for Ctrl-C.
INTERRUPTED = 130
# The parser's message for extra arguments, and the package's wording.
EXTRA = "Got unexpected extra argument(s)", "expected no more arguments, received"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; an invalid request or input prints one line.

    ``arguments`` are those of the process by default. Nothing of the process is changed.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _once()
        # In a context of its own: variables that a command sets do not outlive it.
        return copy_context().run(_run, sys.argv[1:] if arguments is None else arguments)


def _run(arguments: list[str]) -> int:
    typed.set(tuple(arguments))
    signals: list[str] = []
    try:
        with terminable() as signals:
            status = app(arguments, standalone_mode=False)
            if status == INTERRUPTED:
                raise KeyboardInterrupt
        return int(status) if isinstance(status, int) else 0
    except BaseException as error:
        if signals or isinstance(error, KeyboardInterrupt):
            word = "interrupted" if not signals or signals[0] == "SIGINT" else "terminated"
            line = error if isinstance(error, Stopped) else f"{word}; {NOTHING_LEFT}"
            return _fail(line, status_of(signals or ["SIGINT"]))
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
    lines: set[str] = set()

    def warn(message: Warning | str, *where: object, **more: object) -> None:
        line = one_line(message)
        if line not in lines:
            lines.add(line)
            print(f"downscale: warning: {line}", file=sys.stderr)

    return warn


def _fail(error: object, status: int) -> int:
    print(f"downscale: {one_line(error)}", file=sys.stderr)
    return status
