"""Importing is light, and the accessor is there whoever is imported first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "cartopy", "matplotlib", "numba", "distributed", "cf_xarray", "pint", "pydantic", "scipy")


def python(code: str, *flags: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, *flags, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("first", ["import downscale", "import xarray, downscale", "import downscale, xarray"])
def test_importing_loads_nothing_heavy(first):
    code = f"{first}\nimport sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    assert json.loads(python(code)) == []


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_command_loads_not_even_xarray_for_its_help(option):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPROFILEIMPORTTIME": "1"}
    line = [sys.executable, "-m", "downscale", option]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    loaded = {words.rpartition("|")[2].strip() for words in done.stderr.splitlines()}
    assert "downscale.cli.main" in loaded
    assert not {"xarray", "torch", "numpy", "pydantic"} & loaded


@pytest.mark.parametrize(
    "imports",
    [
        "import xarray as xr\nimport downscale",
        "import downscale\nimport xarray as xr",
        "import downscale\nimport downscale\nfrom xarray import Dataset\nimport xarray as xr",
        "from downscale import sample\nimport xarray as xr",
        "import downscale, importlib\nxr = importlib.import_module('xarray')",
    ],
)
def test_the_accessor_is_there_whoever_comes_first(imports):
    code = f"{imports}\nprint(hasattr(xr.Dataset, 'downscale'), hasattr(xr.DataArray, 'downscale'))"
    assert python(code, "-W", "error").split() == ["True", "True"]


def test_names_are_looked_up_when_used():
    code = """
import sys, downscale
assert "downscale.api" not in sys.modules
downscale.set_options
assert "downscale.steps.coarsen" not in sys.modules
downscale.coarsen
assert "downscale.steps.coarsen" in sys.modules
"""
    python(code)
