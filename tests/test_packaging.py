"""What a user installs: declared, pinned and shipped alike everywhere, and light to import."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from downscale.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {
    extra: [Requirement(text) for text in texts] for extra, texts in PROJECT["optional-dependencies"].items()
}
# Where conda-forge names a package otherwise.
CONDA_NAMES = {"dask": "dask-core", "isal": "python-isal", "matplotlib": "matplotlib-base", "torch": "pytorch"}
# Import names that are not the distribution's.
IMPORT_NAMES = {"yaml": "pyyaml"}
HEAVY = ["torch", "cartopy", "matplotlib", "distributed", "dask.distributed", "numba", "llvmlite", "h5py", "isal"]


def pins() -> dict[str, Version]:
    """The versions of constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for requirement in requirements:
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
    return {canonicalize_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in requirements}


def conda_pins() -> dict[str, str]:
    """The versions of environment.yml by conda-forge's name in PyPI's spelling; "" where none is named."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    parts = [entry.partition("=") for entry in environment["dependencies"]]
    return {canonicalize_name(name): version for name, _, version in parts}


def test_no_pin_names_a_local_build() -> None:
    assert [name for name, version in pins().items() if version.local] == []


@pytest.mark.parametrize("requirement", CORE + EXTRAS["dev"], ids=str)
def test_ci_pins_what_the_project_asks_for(requirement: Requirement) -> None:
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("requirement", CORE, ids=str)
def test_conda_has_the_version_of_ci(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    # conda's "name=1.2" also takes 1.2.post1, should conda-forge have built it under that number.
    expected = re.sub(r"\.post\d+$", "", str(pins()[name]))
    assert conda_pins()[CONDA_NAMES.get(name, name)] == expected


def test_conda_holds_nothing_else() -> None:
    core = {canonicalize_name(requirement.name) for requirement in CORE}
    assert set(conda_pins()) == {CONDA_NAMES.get(name, name) for name in core} | {"python", "pip"}


def test_conda_python_is_allowed() -> None:
    assert Version(conda_pins()["python"]) in Requirement(f"python{PROJECT['requires-python']}").specifier


@pytest.mark.skipif(not os.environ.get("CI"), reason="only CI promises to run on the pinned versions")
def test_ci_runs_on_the_pins_and_on_nothing_else() -> None:
    """Every installed version is pinned: a package missing from constraints.txt would float unseen."""
    ours = {"pip", "setuptools", "wheel", canonicalize_name(PROJECT["name"])}
    found = {
        canonicalize_name(d.metadata["Name"]): Version(d.version).public
        for d in importlib.metadata.distributions()
    }
    # A build of torch for a graphics card brings its maker's libraries, each of one fixed version.
    used = {
        name: version
        for name, version in found.items()
        if name not in ours and not name.startswith(("nvidia-", "triton"))
    }
    pinned = {name: str(version) for name, version in pins().items() if name in used}
    assert used == pinned, "run make constraints"


def imports_by_file() -> dict[str, set[str]]:
    """Top-level names of the third-party modules that each file of the package imports anywhere."""
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "downscale").rglob("*.py")):
        names: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
        found[file.relative_to(ROOT).as_posix()] = names - sys.stdlib_module_names - {"downscale"}
    return found


def test_every_import_is_declared() -> None:
    """Nothing works by the luck that another package brings it along."""
    used_extras = [r for extra, requirements in EXTRAS.items() if extra != "dev" for r in requirements]
    declared = {canonicalize_name(requirement.name) for requirement in CORE + used_extras}
    missing = [
        f"{file} imports {name}"
        for file, names in imports_by_file().items()
        for name in sorted(names)
        if canonicalize_name(IMPORT_NAMES.get(name, name)) not in declared
    ]
    assert missing == []


def test_import_is_light() -> None:
    """``import downscale`` registers the accessor and loads none of the heavy libraries."""
    code = f"import downscale, sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == []


def test_the_command_exists() -> None:
    module, _, name = PROJECT["scripts"]["downscale"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_one_version_everywhere() -> None:
    """The distributions take theirs from the same file; their names are checked below."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert citation["version"] == __version__
    assert headings[0] == __version__


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """Paths inside the source distribution and inside the wheel built from it, without the network."""
    folder = tmp_path_factory.mktemp("dist")
    hatch = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run([*hatch, "-t", "sdist"], cwd=ROOT, check=True, capture_output=True)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        sdist.extractall(folder, filter="data")
        source = {name.partition("/")[2] for name in sdist.getnames()}
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    subprocess.run([*hatch, "-t", "wheel"], cwd=unpacked, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return source, set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_both_distributions_hold_the_whole_package(built: tuple[set[str], set[str]]) -> None:
    ours = subprocess.run(["git", "ls-files", "downscale"], cwd=ROOT, capture_output=True, text=True)
    if ours.returncode:
        pytest.skip("not a git checkout, so nothing tells which files belong to the package")
    package = set(ours.stdout.split())
    assert {"downscale/py.typed", "downscale/__init__.py"} < package
    assert sum(path.startswith("downscale/sample/") and path.endswith(".nc") for path in package) >= 2
    for content in built:
        assert package <= content


@pytest.mark.slow
def test_the_wheel_holds_only_the_package(built: tuple[set[str], set[str]]) -> None:
    _, wheel = built
    assert {path.split("/")[0] for path in wheel} == {
        "downscale",
        f"downscale_climate-{__version__}.dist-info",
    }
    assert f"downscale_climate-{__version__}.dist-info/licenses/LICENSE" in wheel


@pytest.mark.slow
def test_the_source_distribution_holds_what_its_tests_read(built: tuple[set[str], set[str]]) -> None:
    source, _ = built
    assert {"constraints.txt", "environment.yml", "Makefile", "tests/test_packaging.py", "LICENSE"} <= source
