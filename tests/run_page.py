"""Runs the blocks of one page in order, as a reader would type them; prints what each printed as JSON.

Not a test: `python tests/run_page.py BLOCKS.json`, in the folder to work in. Python blocks share their names; of shell
blocks the lines that begin with `downscale` are run.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any


def run_python(text: str, names: dict[str, Any]) -> None:
    exec(compile(text, "<page>", "exec"), names)


def run_shell(text: str) -> None:
    from downscale.cli.main import main

    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["downscale"] and "--show-completion" not in words:
            # Processes of a cluster begin with the program that started it, which must be the command itself.
            command = [sys.executable, "-m", *words]
            status = subprocess.run(command).returncode if "--cluster" in words else main(words[1:])
            if status:
                raise RuntimeError(f"{line}: exit status {status}")


def run_all(blocks: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return for each block what it printed, and its fault if there was one; stop there."""
    names: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for block in blocks:
        said, fault = io.StringIO(), ""
        with contextlib.redirect_stdout(said):
            try:
                run_python(block["text"], names) if block["language"] == "python" else run_shell(block["text"])
            except Exception:
                fault = traceback.format_exc()
        found.append({"said": said.getvalue(), "fault": fault})
        if fault:
            break
    return found


if __name__ == "__main__":
    result = run_all(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[1]).with_suffix(".result").write_text(json.dumps(result), encoding="utf-8")
