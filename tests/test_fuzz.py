"""A thousand mutations of valid files, recipes, checkpoints and command lines: each done or refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import KINDS

HERE = Path(__file__).parent
DRAWS = {"file": 400, "bytes": 150, "recipe": 200, "checkpoint": 100, "command": 150}
# Draws go through processes of so many each: a crash of the interpreter is then told from all others.
AT_ONCE = 50
PIECES = [(kind, first) for kind in KINDS for first in range(0, DRAWS[kind], AT_ONCE)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "first"), PIECES)
def test_no_mutation_gets_more_than_one_line(kind: str, first: int, tmp_path: Path) -> None:
    line = [sys.executable, str(HERE / "fuzzing.py"), kind, str(first), str(first + AT_ONCE)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=1500, check=False)
    found = [json.loads(text) for text in done.stdout.splitlines()]
    assert done.returncode == 0, (found[-1:], done.stderr[-2000:])
    drawn = [each for each in found if "wrong" in each]
    assert len(drawn) == AT_ONCE
    # The mutations are real: some are refused, and no kind is refused each time.
    status = {each["status"] for each in drawn if "status" in each}
    assert status & {1, 2}
    wrong = [f"{kind} {each['seed']}: {each['wrong']}: {each['call']}: {each['err']}"
             for each in drawn if each["wrong"]]  # fmt: skip
    assert not wrong, "\n".join(wrong)
