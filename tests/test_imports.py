"""Importing is light, and the accessor is there whoever is imported first."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
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


def seconds(code: str) -> float:
    begin = time.perf_counter()
    python(code)
    return time.perf_counter() - begin


@pytest.mark.parametrize("first", ["import downscale", "import xarray, downscale", "import downscale, xarray"])
def test_importing_loads_nothing_heavy(first):
    code = f"{first}\nimport sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    assert json.loads(python(code)) == []


def test_the_command_loads_not_even_xarray_for_its_help():
    code = "import sys; from downscale.cli import main; main(['--help']); print({'xarray', 'torch'} & set(sys.modules))"
    assert python(code).splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    "imports",
    [
        "import xarray as xr\nimport downscale",
        "import downscale\nimport xarray as xr",
        "import downscale\nimport downscale\nfrom xarray import Dataset\nimport xarray as xr",
        "from downscale import sample\nimport xarray as xr",
        "import downscale, importlib\nxr = importlib.import_module('xarray')",
        "import downscale\nimport xarray.core\nimport xarray as xr",
        "import downscale, importlib.util\nimportlib.util.find_spec('xarray')\nimport xarray as xr",
        "import importlib.util\nimportlib.util.find_spec('xarray')\nimport downscale\nimport xarray as xr",
        "import downscale, pkgutil\npkgutil.get_data('xarray', 'py.typed')\nimport xarray as xr",
        "import downscale, importlib.util as u\nu.find_spec('xarray').loader.get_source('xarray')\nimport xarray as xr",
        "import downscale, importlib.util as u\nspec = u.find_spec('xarray')\nu.find_spec('xarray.core')\n"
        "import xarray as xr",
    ],
)
def test_the_accessor_is_there_whoever_comes_first(imports):
    code = f"{imports}\nprint(hasattr(xr.Dataset, 'downscale'), hasattr(xr.DataArray, 'downscale'))"
    assert python(code, "-W", "error").split() == ["True", "True"]


def test_waiting_for_xarray_leaves_no_trace():
    """The finder that waits steps aside, and the loader of xarray is its own again."""
    code = """
import sys, downscale
from downscale.registration import _AfterXarray
waiting = [finder for finder in sys.meta_path if isinstance(finder, _AfterXarray)]
import json.tool, xarray
left = [finder for finder in sys.meta_path if isinstance(finder, _AfterXarray)]
print(len(waiting), len(left), type(xarray.__spec__.loader).__name__, type(xarray.__loader__).__name__)
import importlib.resources
print(importlib.resources.files("xarray").joinpath("__init__.py").is_file())
"""
    assert python(code).split() == ["1", "0", "SourceFileLoader", "SourceFileLoader", "True"]


def test_a_missing_xarray_is_still_an_import_error():
    code = """
import sys, downscale
sys.path[:] = [p for p in sys.path if "site-packages" not in p]
try:
    import xarray
except ImportError as error:
    print(error)
"""
    assert "xarray" in python(code)


def test_names_are_looked_up_when_used():
    code = """
import sys, downscale
assert "downscale.api" not in sys.modules
downscale.set_options
assert "xarray" not in sys.modules
downscale.coarsen
assert "downscale.steps.coarsen" in sys.modules
"""
    python(code)


@pytest.mark.slow
def test_importing_adds_little_to_xarray():
    """Median of five differences; the budget is 0.2 s."""
    python("import xarray, downscale")
    gaps = [seconds("import xarray, downscale") - seconds("import xarray") for _ in range(5)]
    assert statistics.median(gaps) < 0.2, gaps


@pytest.mark.slow
def test_help_answers_at_once():
    """Median of five runs; the budget is 1 s."""
    code = "import sys; from downscale.cli import main; sys.exit(main(['--help']))"
    runs = [seconds(code) for _ in range(5)]
    assert statistics.median(runs) < 1.0, runs
