"""The command line in this process: what it returns, prints and complains of."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from typing import Any

from downscale.cli.main import main


@dataclass(frozen=True)
class Said:
    """What one call of the command did."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on the standard error of a call that went wrong."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"expected one line, received {lines}"
        assert lines[0].startswith("downscale: ")
        assert "Traceback" not in self.out + self.err
        return lines[0]


def command(*arguments: Any) -> Said:
    """Run ``downscale ARGUMENTS``; warnings are shown to people, as they would be, not turned into errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("default")
        status = main([str(argument) for argument in arguments])
    return Said(status, out.getvalue(), err.getvalue())
