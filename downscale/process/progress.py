"""Progress bars for what takes more than a few seconds; none where the output is no terminal (dask only)."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from downscale.options import option

# Shorter runs are over before a bar is of use.
PATIENCE_SECONDS = 2.0


def progress_bar() -> AbstractContextManager[Any]:
    """Return a context in which Dask shows a bar on the standard error, as the option "progress" says."""
    wanted = option("progress")
    if wanted == "off" or (wanted == "auto" and not sys.stderr.isatty()):
        return nullcontext()
    from dask.diagnostics import ProgressBar

    return ProgressBar(minimum=PATIENCE_SECONDS if wanted == "auto" else 0.0, out=sys.stderr)
