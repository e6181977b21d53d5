"""What a user gets: a wheel that works by itself, types that a checker sees, completion in the shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ELSEWHERE = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel in it; what the package stands on is looked up where the tests have it."""
    folder = tmp_path_factory.mktemp("install")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, env=ELSEWHERE, capture_output=True)
    [packages] = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "zz_libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def run(python: Path, *arguments: str, folder: Path, **environment: str) -> str:
    env = {**ELSEWHERE, **environment}
    done = subprocess.run([*arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_alone_runs_the_demonstration(python: Path, tmp_path: Path) -> None:
    command = str(python.parent / "downscale")
    where = run(python, str(python), "-c", "import downscale; print(downscale.__file__)", folder=tmp_path)
    assert str(python.parents[1]) in where
    assert "passed" in run(python, command, "demo", "--out", "demo", folder=tmp_path)
    assert json.loads((tmp_path / "demo" / "report.json").read_text())["conservation"]["passed"]
    assert (tmp_path / "demo" / "report.html").stat().st_size > 200_000
    assert "rain" in run(python, command, "inspect", "rain", folder=tmp_path)


@pytest.mark.slow
def test_the_command_of_the_wheel_completes_in_the_shell(python: Path, tmp_path: Path) -> None:
    command = str(python.parent / "downscale")
    for words, number, expected in (("downscale ap", "1", "apply"), ("downscale apply --fac", "2", "--factor")):
        asked = {"COMP_WORDS": words, "COMP_CWORD": number, "_DOWNSCALE_COMPLETE": "complete_bash"}
        assert run(python, command, folder=tmp_path, **asked).split() == [expected]
    # What --show-completion prints; that looks for the name of the shell among its parents, of which a server has none.
    script = run(python, command, folder=tmp_path, _DOWNSCALE_COMPLETE="source_bash")
    assert "complete" in script
    run(python, "bash", "-n", "-c", script, folder=tmp_path)


USER = """
from pathlib import Path

import xarray as xr

import downscale
from downscale import plot

coarse: xr.Dataset = downscale.open_dataset("tas_*.nc")
fine = downscale.downscale(coarse, 4, orog="relief.nc", lapse_rate=-3e-3)
report: downscale.ConservationReport = downscale.check_conservation(coarse, fine)
worst: float = report.max_relative_error
place = report["tas"].where_relative
area: xr.DataArray = downscale.cell_area(coarse)
penalty = downscale.TerrainPenalty(base_gradient=1e-5)
certificate = downscale.to_netcdf(fine, Path("fine.nc"), coarse=coarse)
kept: bool = certificate is not None and certificate.passed
plot.compare(coarse, fine, path="map.png").savefig("map.pdf")
"""
WRONG = """
import downscale

downscale.cell_area()
text: str = downscale.check_conservation(1, 2, tolerance="much").passed
"""


@pytest.mark.slow
def test_a_users_script_is_checked_by_its_types(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "wrong.py").write_text(WRONG)
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\ndisallow_untyped_calls = true\nignore_missing_imports = true\nfollow_imports = silent\n")
    env = {**os.environ, "MYPYPATH": str(ROOT)}
    mypy = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(tmp_path / "cache")]
    good = subprocess.run([*mypy, "user.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert good.returncode == 0, good.stdout
    bad = subprocess.run([*mypy, "wrong.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert bad.stdout.count("error:") >= 3, bad.stdout


def test_the_names_of_the_environment_are_those_of_conda_forge() -> None:
    """Lower case, one version each, nothing of pip's: what conda's solver accepts; versions are compared elsewhere."""
    import re

    import yaml

    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert content["channels"][0] == "conda-forge"
    assert all(re.fullmatch(r"[a-z][a-z0-9_-]*(=[0-9][0-9.]*)?", entry) for entry in content["dependencies"])
    assert len({entry.split("=")[0] for entry in content["dependencies"]}) == len(content["dependencies"])
