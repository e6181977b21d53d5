"""The program ``downscale``, also run by ``python -m downscale``: settings of its process, and the end of it."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import Any

from downscale.cli.main import main
from downscale.process.interrupts import Terminated, ignore_signals

# Offset of the exit status after a signal: 128 plus its number.
SIGNALLED = 128


def program() -> int:
    """Run the command line as a process of its own and return its exit status.

    After a signal the process exits directly, since waiting for threads may take long.
    """
    # Garbage collection during imports takes a tenth of the time of loading libraries.
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, 100 * old)
    # Threads of linear algebra would busy-wait alongside the engine's own threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Python cleans up shared memory of stopped workers and warns about it; the warning is of no use here.
    warning_filter = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), warning_filter)))
    sys.unraisablehook = _show_unraisable
    status = main()
    if status > SIGNALLED:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(status)
    ignore_signals()
    # Skip the final garbage collection of the interpreter, which visits everything ever loaded.
    gc.freeze()
    return status


def _show_unraisable(unraisable: Any) -> None:
    """Silence a signal raised where Python ignores errors; the signal is still handled later."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt | Terminated):
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    sys.exit(program())
