"""The floors of the package: imports point downward, files stay small, dangerous words have one home.

Read from the source alone (``ast`` and ``tokenize``), so that a deferred import counts like any other. An
import under ``if TYPE_CHECKING`` never runs and may point anywhere; the root ``__init__`` names public things
of every floor.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "downscale"

# One file or folder may import another only if the other's number is smaller; equal numbers are neighbours
# that do not know each other. Decimals order the rooms of one floor.
FLOORS: dict[str, float] = {
    "errors": 0.0,
    "version": 0.0,
    "versions": 0.05,
    "typing": 0.1,
    "options": 0.2,
    "buffers": 0.2,
    "computing": 0.2,
    "interrupts": 0.2,
    "grid": 1.0,
    "cf": 1.5,
    "kernels": 2.0,
    "fields": 2.1,
    "nn": 3.0,
    "restore": 3.0,
    "losses": 4.0,
    "diagnostics": 4.0,
    "engine": 5.0,
    "io": 5.0,
    "train": 6.0,
    "averages": 7.0,
    "progress": 7.0,
    "output": 7.45,
    "target": 7.0,
    "models": 6.1,
    "laboratory": 7.5,
    "learned": 7.04,
    "members": 7.03,
    "footprint": 7.04,
    "evaluate": 7.6,
    "request": 7.05,
    "sample": 5.5,
    "judges": 7.3,
    "stretches": 7.3,
    "expected": 7.34,
    "validate": 7.35,
    "cellwise": 7.36,
    "maps": 7.4,
    "recipe": 7.2,
    "stages": 7.1,
    "compute": 7.2,
    "describe": 7.2,
    "operators": 7.2,
    "along": 7.25,
    "carried": 7.25,
    "restoration": 7.25,
    "api": 7.3,
    "demo": 7.3,
    "selfcheck": 7.4,
    "report": 7.45,
    "runs": 7.47,
    "pipeline": 7.5,
    "tiers": 7.55,
    "restored_files": 7.5,
    "compression": 7.55,
    "accessor": 8.0,
    "arguments": 8.0,
    "cli": 8.1,
    "registration": 8.1,
    "__main__": 8.2,
}
# What the root offers its users lies above everything: inside, a thing is imported from where it lives.
ROOT = 9.0
NEVER = {"losses": {"nn"}, "diagnostics": {"nn"}, "engine": {"nn"}}
NO_TORCH = {"grid", "cf", "io"}
DEVICE_HOME = "engine/device.py"
# A cluster of one process a card has the name of the cards, too, and people are told so.
DEVICE_WORDS = {DEVICE_HOME, "runs/clusters.py", "cli/app.py"}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}
SAFE_YAML = {"yaml.safe_load", "yaml.safe_load_all"}
MOST_LINES = 700
MOST_FUNCTION_LINES = 100


@dataclass(frozen=True)
class Source:
    """One file of the package, parsed; ``path`` is relative to the package's folder."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def unit(self) -> str:
        """The file or folder of the package that has a floor."""
        return self.path.with_suffix("").parts[0]

    @property
    def is_root(self) -> bool:
        return self.path == Path("__init__.py")


def check(package: Path) -> list[str]:
    """Every broken rule under the folder of a package, as ``path:line: what is wrong``."""
    found = []
    for file in sorted(package.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        source = Source(file.relative_to(package), text, ast.parse(text, str(file)))
        for rule in (broken_floors, broken_sizes, broken_words, broken_loads):
            found += [f"{source.path.as_posix()}:{line}: {what}" for line, what in rule(source, package.name)]
    return found


def broken_floors(source: Source, package: str) -> Iterator[tuple[int, str]]:
    """Imports that point upward, sideways, to torch or to nn from where these must not be known."""
    if source.is_root:
        return
    here = FLOORS.get(source.unit)
    if here is None:
        yield 1, f"'{source.unit}' has no floor; give it one in FLOORS"
        return
    for line, module in imported_modules(source, package):
        parts = module.split(".")
        if parts[0] == "torch" and source.unit in NO_TORCH:
            yield line, f"{source.unit} imports torch"
        if parts[0] != package:
            continue
        unit = parts[1] if len(parts) > 1 else ""
        floor = FLOORS.get(unit, ROOT)
        if unit in NEVER.get(source.unit, ()):
            yield line, f"{source.unit} must never import {unit}"
        elif unit != source.unit and floor >= here:
            yield line, f"{source.unit} (floor {here}) imports {module} (floor {floor})"


def imported_modules(source: Source, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything imported at run time, wherever the import stands."""
    # A module a/b.py and a package a/__init__.py both resolve one dot to a.
    folder = [package, *source.path.parts[:-1]]
    for node in running_nodes(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and called(node)[-1] in ("import_module", "__import__") and node.args:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
            stem = str(name).lstrip(".")
            level = len(str(name)) - len(stem)
            yield node.lineno, ".".join([*folder[: len(folder) - level + 1], stem] if level else [stem])


def running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, without the bodies of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).split(".")[-1] == "TYPE_CHECKING":
            for other in child.orelse:
                yield other
                yield from running_nodes(other)
        else:
            yield child
            yield from running_nodes(child)


def called(node: ast.Call) -> list[str]:
    """The dotted name that a call calls, in parts; [""] where it is no plain name."""
    name = ast.unparse(node.func)
    return name.split(".") if name.replace(".", "").isidentifier() else [""]


def broken_sizes(source: Source, package: str) -> Iterator[tuple[int, str]]:
    """Files and functions that outgrew their limits, docstrings included."""
    lines = len(source.text.splitlines())
    if lines > MOST_LINES:
        yield lines, f"{lines} lines; split the file, at most {MOST_LINES}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
            if length > MOST_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {length} lines; split it, at most {MOST_FUNCTION_LINES}"


def docstring_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """What a function says of itself does not make it long."""
    first = function.body[0]
    said = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return (first.end_lineno or first.lineno) - first.lineno + 1 if said else 0


def broken_words(source: Source, package: str) -> Iterator[tuple[int, str]]:
    """Devices named outside their home, and anything that unpickles; comments and docstrings are free."""
    prose = {
        (node.lineno, node.value.col_offset)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    tokens = list(tokenize.generate_tokens(io.StringIO(source.text).readline))
    for i, token in enumerate(tokens):
        if token.type == tokenize.COMMENT or token.start in prose:
            continue
        if "cuda" in token.string.lower() and source.path.as_posix() not in DEVICE_WORDS:
            yield token.start[0], f"'cuda' in {token.string[:60]}; only {DEVICE_HOME} names a device"
        if token.type == tokenize.NAME and token.string in PICKLES:
            yield token.start[0], f"'{token.string}' runs what a file says"
        if token.string == "allow_pickle" and [t.string for t in tokens[i + 1 : i + 3]] != ["=", "False"]:
            yield token.start[0], "allow_pickle may only be False"


def broken_loads(source: Source, package: str) -> Iterator[tuple[int, str]]:
    """Loaders of YAML and of tensors that can run code, under whatever name they were imported."""
    names = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        first, *rest = called(node)
        name = ".".join([names.get(first, first), *rest])
        if name.startswith("yaml.") and "load" in name and name not in SAFE_YAML:
            yield node.lineno, f"{name}; only yaml.safe_load runs nothing"
        if name == "torch.load" and not loads_weights_only(node):
            yield node.lineno, "torch.load without weights_only=True"


def loads_weights_only(node: ast.Call) -> bool:
    """Whether a call says ``weights_only=True`` in so many words."""
    given = {keyword.arg: keyword.value for keyword in node.keywords}.get("weights_only")
    return isinstance(given, ast.Constant) and given.value is True


def test_every_file_keeps_its_floor() -> None:
    broken = check(PACKAGE)
    assert not broken, "\n".join(broken)


# The checker itself: each kind of violation, planted in an empty package, is found; its legal twin is not.


def planted(tmp_path: Path, path: str, text: str) -> list[str]:
    """What the checker says of a package that holds one file only."""
    file = tmp_path / "downscale" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return check(tmp_path / "downscale")


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * MOST_FUNCTION_LINES


PLANTED: dict[str, tuple[str, str, str]] = {
    "import": ("grid/axis.py", "import downscale.nn", "imports downscale.nn"),
    "from-root": ("grid/axis.py", "from downscale import nn", "imports downscale.nn"),
    "from": ("grid/axis.py", "from downscale.nn.unet import X", "imports downscale.nn.unet.X"),
    "relative": ("grid/axis.py", "from ..nn import unet", "imports downscale.nn.unet"),
    "relative-name": ("grid/axis.py", "from .. import nn", "imports downscale.nn"),
    "relative-in-init": ("grid/__init__.py", "from ..api import f", "imports downscale.api.f"),
    "relative-in-root": ("errors.py", "from . import cli", "imports downscale.cli"),
    "deferred": ("grid/axis.py", "def f():\n    import downscale.io", "imports downscale.io"),
    "public-name": ("grid/axis.py", "from downscale import coarsen", "imports downscale.coarsen"),
    "root": ("cli.py", "import downscale", "imports downscale (floor 9"),
    "star": ("grid/axis.py", "from downscale import *", "imports downscale.*"),
    "import_module": (
        "grid/axis.py",
        "import importlib\nimportlib.import_module('downscale.nn')",
        "imports downscale.nn",
    ),
    "import_module-relative": (
        "grid/axis.py",
        "from importlib import import_module\nimport_module('..nn', __package__)",
        "imports downscale.nn",
    ),
    "else-of-type-checking": (
        "grid/axis.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import downscale.nn",
        "imports downscale.nn",
    ),
    "2a-2b": ("kernels/laws.py", "import downscale.fields.shift", "imports downscale.fields"),
    "sideways": ("engine/plan.py", "import downscale.io.read", "imports downscale.io"),
    "floor-7": ("sample/__init__.py", "import downscale.maps", "imports downscale.maps"),
    "losses-nn": ("losses/crps.py", "import downscale.nn.unet", "must never import nn"),
    "diagnostics-nn": ("diagnostics/report.py", "from .. import nn", "must never import nn"),
    "engine-nn": ("engine/apply.py", "from downscale.nn import unet", "must never import nn"),
    "torch-io": ("io/read.py", "def f():\n    import torch", "io imports torch"),
    "torch-grid": ("grid/axis.py", "from torch.nn import functional", "grid imports torch"),
    "no-floor": ("helpers.py", "", "'helpers' has no floor"),
    "no-floor-folder": ("misc/deep/file.py", "", "'misc' has no floor"),
    "long-file": ("grid/axis.py", "x = 1\n" * (MOST_LINES + 1), f"{MOST_LINES + 1} lines"),
    "long-root": ("__init__.py", "x = 1\n" * (MOST_LINES + 1), f"{MOST_LINES + 1} lines"),
    "long-function": ("grid/axis.py", LONG_FUNCTION, f"f has {MOST_FUNCTION_LINES + 1} lines"),
    "long-coroutine": ("grid/axis.py", "async " + LONG_FUNCTION, f"f has {MOST_FUNCTION_LINES + 1} lines"),
    "cuda-method": ("nn/unet.py", "x = y.cuda()", "'cuda' in cuda"),
    "cuda-string": ("nn/unet.py", "x = y.to('cuda:0')", "'cuda' in 'cuda:0'"),
    "cuda-f-string": ("nn/unet.py", "x = f'cuda:{0}'", "'cuda' in"),
    "cuda-engine": ("engine/apply.py", "import torch.cuda", "'cuda' in cuda"),
    "pickle": ("train/data.py", "import pickle", "'pickle' runs"),
    "cloudpickle": ("train/data.py", "from cloudpickle import loads", "'cloudpickle' runs"),
    "allow_pickle": ("grid/axis.py", "np.load(f, allow_pickle=True)", "may only be False"),
    "yaml": ("recipe.py", "import yaml\nyaml.load(f, Loader=L)", "yaml.load; only"),
    "yaml-alias": ("recipe.py", "import yaml as y\ny.unsafe_load(f)", "yaml.unsafe_load; only"),
    "yaml-from": ("recipe.py", "from yaml import load as g\ng(f)", "yaml.load; only"),
    "torch-load": ("train/data.py", "import torch\ntorch.load(f)", "without weights_only"),
    "torch-load-false": (
        "train/data.py",
        "from torch import load\nload(f, weights_only=False)",
        "without weights_only",
    ),
}
LEGAL: dict[str, tuple[str, str]] = {
    "root-names-all": ("__init__.py", "def __getattr__(name):\n    from downscale import api"),
    "same-folder": ("grid/axis.py", "from .sphere import area\nfrom downscale.grid import latlon"),
    "downward": ("grid/axis.py", "from ..errors import GridError"),
    "relative-downward": ("nn/deep/a.py", "from ..shapes import plan\nfrom ...grid import axis"),
    "floor-7": ("pipeline.py", "from downscale import api, maps, sample, io"),
    "type-checking": (
        "grid/axis.py",
        "import typing\nif typing.TYPE_CHECKING:\n    import torch\n    from downscale.nn import unet",
    ),
    "full-file": ("grid/axis.py", "x = 1\n" * MOST_LINES),
    "full-function": ("grid/axis.py", LONG_FUNCTION.replace("    x = 1\n", "", 1)),
    "device-home": ("engine/device.py", "x = 'cuda'"),
    "prose": ("nn/unet.py", '"""Runs on cuda, unpickled: no pickle."""\n# cuda'),
    "no-pickle": ("grid/axis.py", "np.load(f, allow_pickle=False)"),
    "safe-yaml": ("recipe.py", "import yaml\nyaml.safe_load(f)"),
    "weights-only": ("train/data.py", "import torch\ntorch.load(f, weights_only=True)"),
    "other-load": ("nn/unet.py", "import json\nself.load(f)\njson.load(f)"),
}


@pytest.mark.parametrize(("path", "text", "complaint"), PLANTED.values(), ids=PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, text: str, complaint: str) -> None:
    found = planted(tmp_path, path, text)
    assert len(found) == 1
    assert found[0].startswith(f"{path}:")
    assert complaint in found[0]


@pytest.mark.parametrize(("path", "text"), LEGAL.values(), ids=LEGAL)
def test_a_legal_twin_is_not(tmp_path: Path, path: str, text: str) -> None:
    assert planted(tmp_path, path, text) == []
