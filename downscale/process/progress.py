"""Progress bars for long computations, shown only on a terminal."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from downscale.options import option

# A bar is of no use for shorter runs.
PATIENCE_SECONDS = 2.0


def progress_bar() -> AbstractContextManager[Any]:
    """Return a context in which Dask shows a progress bar on the standard error, by the option "progress"."""
    wanted = option("progress")
    if wanted == "off" or (wanted == "auto" and not sys.stderr.isatty()):
        return nullcontext()
    from dask.diagnostics import ProgressBar

    return ProgressBar(minimum=PATIENCE_SECONDS if wanted == "auto" else 0.0, out=sys.stderr)
