"""The entry point: run a command, turn what goes wrong into one line and an exit status (knows no command).

Exit status 0: done; 1: a law is broken or a run failed; 2: the request or the input is wrong.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from downscale.cli.app import app, given
from downscale.errors import ConservationError, DownscaleError, one_line

# What the parser of the command line returns for Ctrl-C.
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; a wrong request or input prints one line."""
    with warnings.catch_warnings(), _quick_start():
        warnings.showwarning = _warn
        return _run(arguments)


@contextmanager
def _quick_start() -> Iterator[None]:
    """Leave what has lived long to itself: looking for garbage in libraries that load takes a tenth of the time."""
    # Threads of linear algebra would wait, busily, for what the engine's threads do themselves.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, 100 * old)
    # The interpreter would do so once more before it ends, for all that was ever loaded.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)


def _run(arguments: list[str] | None) -> int:
    from downscale.runs.stop import Stopped, Terminated, terminable

    try:
        given.set(tuple(sys.argv[1:] if arguments is None else arguments))
        with terminable():
            status = app(arguments, standalone_mode=False)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        return int(status) if isinstance(status, int) else 0
    except ConservationError as error:
        return _fail(error, 1)
    except DownscaleError as error:
        return _fail(error, 2)
    except Stopped as stopped:
        return _fail(stopped, 1)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing incomplete was left behind", 1)
    except Terminated:
        return _fail("terminated; nothing incomplete was left behind", 1)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
            return 2
        if hasattr(error, "format_message"):  # what the parser of the command line raises
            return _fail(error.format_message(), 2)
        if isinstance(error, MemoryError):
            reason = str(error) or "not enough memory"
            return _fail(f"MemoryError: {reason}; choose a smaller factor or region, or smaller --chunks", 1)
        if isinstance(error, OSError):
            return _fail(f"{type(error).__name__}: {error}", 1)
        if str(error).startswith("NetCDF: "):  # what the library raises where data turn out to be damaged
            return _fail(f"expected readable data, received {error}; a file is damaged, get it again", 2)
        if "-X" in sys.orig_argv or sys.flags.dev_mode:
            raise
        line = f"internal error: {type(error).__name__}: {error}"
        return _fail(f"{line}; please report it with what python -X dev -m downscale prints", 1)


def _warn(message: Warning | str, *where: object, **more: object) -> None:
    """Show a warning as one line, without the source code that gave it."""
    print(f"downscale: warning: {one_line(message)}", file=sys.stderr)


def _fail(error: object, status: int) -> int:
    print(f"downscale: {one_line(error)}", file=sys.stderr)
    return status
