"""Files and functions stay short, and one file names devices. `make lint` checks the imports between layers."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "downscale"
MOST_LINES, MOST_FUNCTION_LINES = 700, 100
# A cluster of one process per card has the name of the cards, too, and the help says so.
DEVICE_FILES = {"engine/device.py", "runs/clusters.py", "cli/main.py"}
FILES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    first, docstring = function.body[0], ast.get_docstring(function)
    own = 0 if docstring is None else (first.end_lineno or first.lineno) - first.lineno + 1
    return (function.end_lineno or function.lineno) - function.lineno + 1 - own


def test_files_are_short() -> None:
    long = {name: len(text.splitlines()) for name, text in FILES.items() if len(text.splitlines()) > MOST_LINES}
    assert FILES
    assert long == {}


def test_functions_are_short() -> None:
    functions = [
        (f"{name}:{node.name}", length(node))
        for name, text in FILES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(functions) > 1000
    assert [found for found in functions if found[1] > MOST_FUNCTION_LINES] == []


def test_one_file_names_devices() -> None:
    naming = set()
    for name, text in FILES.items():
        prose = {
            (node.lineno, node.value.col_offset)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type != tokenize.COMMENT and token.start not in prose and "cuda" in token.string.lower():
                naming.add(name)
    assert naming <= DEVICE_FILES
    assert "engine/device.py" in naming


def test_arrays_are_loaded_without_pickles() -> None:
    allowed = [
        name
        for name, text in FILES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert allowed == []


def test_tensors_are_loaded_without_pickles() -> None:
    calls = [
        (name, ast.unparse(node))
        for name, text in FILES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert [call for call in calls if "weights_only=True" not in call[1]] == []
