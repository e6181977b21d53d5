"""Recipes: every script has its file, its paragraph, a plan that writes nothing and a demonstration that works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from downscale.evaluation.schema import load_evaluation
from downscale.projections.recipe import load_project
from downscale.runs.recipe import load_recipe
from downscale.training.schema import load_training

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes"
SCRIPTS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
NAMES = [script.stem for script in SCRIPTS]
# What the demonstration leaves behind, or the beginning of it.
MADE = {
    "01": ["tas_north_america_x4.nc", "tas_north_america_x4.png"],
    "02": ["pr_x4.nc", "pr_x4.png"],
    "03": ["tos_daily.nc"],
    "04": ["pr_members_x4.nc", "pr_member_0.png", "pr_member_1.png"],
    "05": ["north_america_x4.safetensors", "evaluation_north_america/scores.md"],
    "06": ["tas_00_x2.nc", "tas_08_x2.nc", "tas_16_x2.nc"],
    "07": ["check.json", "errors_tas.png"],
    "08": ["restored.nc", "finer.nc", "finer.png"],
    "09": ["terrain.nc", "terrain.png", "report.json"],
    "10": ["comparison/scores.md"],
    "11": ["tas_x4.nc", "tas_x4.png"],
    "12": ["projection/synthetic/report.html", "projection/adjusted/synthetic_scenario.nc"],
}


def run(script: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::UserWarning"}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, cwd=FOLDER)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_recipes_and_no_file_without_its_script() -> None:
    assert len(SCRIPTS) >= 7
    assert {file.stem for file in FOLDER.glob("[0-9][0-9]_*")} == set(NAMES)
    numbers = [name[:2] for name in NAMES]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("name", NAMES)
def test_every_script_has_a_recipe_of_its_name_that_is_legal(name: str) -> None:
    file = FOLDER / f"{name}.yml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "network" in content:
        load_training(file)
    elif "methods" in content:
        load_evaluation(file)
    elif "models" in content:
        load_project(file)
    elif "downscale" in content:
        load_recipe(file)
    elif "relief" in content:
        done = subprocess.run(
            [sys.executable, str(FOLDER / f"{name}.py"), str(file)], cwd=FOLDER, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        # All settings are taken; only the file that they name is not there.
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert content["relief"] in done.stderr
    else:
        assert {"coarse", "fine"} <= set(content)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_has_a_row_and_a_paragraph(name: str) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| `{name}` |" in text
    assert re.search(rf"^## {name[:2]} ", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_a_dry_run_says_what_would_be_and_writes_no_result(script: Path, tmp_path: Path) -> None:
    assert run(script, "--demo", "--dry-run", "--out", str(tmp_path))
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {Path(name).parts[0] for name in MADE.get(script.stem[:2], [])}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_every_demonstration_works(script: Path, tmp_path: Path) -> None:
    said = run(script, "--demo", "--out", str(tmp_path))
    for name in MADE.get(script.stem[:2], []):
        assert (tmp_path / name).stat().st_size > 0, name
    words = {"07": "FAILED", "11": "RMSE", **dict.fromkeys(("01", "02", "03", "04", "12"), "passed")}
    assert words.get(script.stem[:2], "") in said


@pytest.mark.slow
def test_an_archive_that_was_made_is_kept(tmp_path: Path) -> None:
    script = FOLDER / "06_process_archive.py"
    run(script, "--demo", "--out", str(tmp_path))
    before = (tmp_path / "tas_00_x2.nc").stat()
    source = str(tmp_path / "tas_00.nc")
    assert run(script, source, "--count").strip() == "1"
    run(script, source, "--task", "0", "--out", str(tmp_path))
    assert (tmp_path / "tas_00_x2.nc").stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("name", NAMES)
def test_a_script_without_arguments_asks_for_them(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("or --demo")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_script_on_a_file_that_is_not_there_says_so_in_one_line(name: str, tmp_path: Path) -> None:
    files = ["none.nc"] * {"01": 2, "11": 2, "12": 3}.get(name[:2], 1)
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *files], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "none.nc" in done.stderr.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())
