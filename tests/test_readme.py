"""The README's quickstart and commands, run verbatim."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("downscale ")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it after cloning: recipes, nothing else."""
    place = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "recipes", place / "recipes")
    return place


def run(arguments: list[str], folder: Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::UserWarning"}
    done = subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_blocks() -> None:
    assert len(PYTHON_BLOCKS) == 6
    assert len(COMMANDS) == 16


def test_quickstart(folder: Path) -> None:
    shown = run([sys.executable, "-c", PYTHON_BLOCKS[0]], folder)
    assert "ConservationReport: passed" in shown
    assert (folder / "fine.nc").exists()


def test_second_block(folder: Path) -> None:
    shown = run([sys.executable, "-c", PYTHON_BLOCKS[1]], folder)
    first, second = shown.splitlines()
    assert first == "True False"
    assert float(second) == 0.0


def test_block_of_observations(folder: Path) -> None:
    assert run([sys.executable, "-c", PYTHON_BLOCKS[2]], folder) == "True\n"


def test_block_of_other_grids(folder: Path) -> None:
    passed, masked, difference, packed = run([sys.executable, "-c", PYTHON_BLOCKS[3]], folder).splitlines()
    assert passed == masked == packed == "True"
    assert float(difference) < 1e-4
    assert (folder / "small.nc").exists()


@pytest.mark.parametrize("number", [4, 5])
def test_blocks_of_ensembles_and_footprints(number: int, folder: Path) -> None:
    assert "True" in run([sys.executable, "-c", PYTHON_BLOCKS[number]], folder)


def test_one_liner_of_the_check(folder: Path) -> None:
    code = (
        "import xarray as xr, downscale; ds = downscale.sample.open('north_america'); "
        "print(ds.downscale(4).downscale.check(ds))"
    )
    assert "passed" in run([sys.executable, "-c", code], folder)


@pytest.mark.slow
def test_commands_in_order(folder: Path) -> None:
    for command in COMMANDS:
        run([sys.executable, "-m", *command.split()], folder)
    assert (folder / "demo" / "tas_north_america_x4.png").stat().st_size > 100_000
    assert (folder / "finer.nc").exists()
    assert "learned" in (folder / "evaluation_north_america" / "scores.md").read_text()


def test_python_recipe(folder: Path) -> None:
    shown = run([sys.executable, "recipes/01_downscale_temperature.py", "--demo"], folder)
    assert "ConservationReport: passed" in shown
    assert (folder / "tas_north_america_x4.nc").exists()


def test_demo_and_recipe_ask_for_the_same() -> None:
    from downscale.runs.demo import demo_recipe
    from downscale.runs.recipe import load_recipe

    ours, theirs = demo_recipe("."), load_recipe(ROOT / "recipes" / "01_downscale_temperature.yml")
    for block in ("title", "description", "input", "statics", "downscale", "terrain", "validation"):
        assert getattr(ours, block) == getattr(theirs, block), block
