"""Measure the structure of the package: its size, its imports, and the modules that common calls pass through.

Run from anywhere, with the package's Python:

    python benchmarks/house.py

Sizes and imports are read from the source; deferred imports count, those under ``if TYPE_CHECKING`` do not. Calls are
traced in separate processes: the modules and functions of the package that run, and the number of times that metadata
is parsed into a grid (``cf.horizontal.parse_horizontal``).
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measure import table

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "downscale"
TRACE_SCRIPT = """
import json, os, sys, threading
import numpy as np, xarray as xr
import downscale

modules, functions, parsings = set(), set(), {}

def trace(frame, event, argument):
    if event != "call":
        return
    name = frame.f_globals.get("__name__", "")
    if name.split(".")[0] != "downscale" or frame.f_code.co_name in ("<module>", "<lambda>", "<genexpr>", "<listcomp>"):
        return
    modules.add(name)
    functions.add((name, frame.f_code.co_qualname if hasattr(frame.f_code, "co_qualname") else frame.f_code.co_name))
    if (name, frame.f_code.co_name) == ("downscale.cf.horizontal", "parse_horizontal"):
        grid = tuple(frame.f_locals["obj"].sizes[dim] for dim in ("lat", "lon"))
        parsings[grid] = parsings.get(grid, 0) + 1

def coarse(steps):
    lat, lon = np.linspace(30.5, 59.5, 30), np.linspace(0.5, 39.5, 40)
    time = np.datetime64("2000-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "D")
    north, east = {"units": "degrees_north"}, {"units": "degrees_east"}
    coords = {"time": time, "lat": ("lat", lat, north), "lon": ("lon", lon, east)}
    return xr.Dataset({"tas": (("time", "lat", "lon"), np.ones((steps, 30, 40), "f4"), {"units": "K"})}, coords)

ds = coarse(12)
for folder in ("first", "second"):
    os.mkdir(folder)
    os.chdir(folder)
    {before}
    if folder == "second":
        # All modules are loaded now, so code that runs only once is left out.
        threading.setprofile(trace)
        sys.setprofile(trace)
    {call}
    os.chdir("..")
sys.setprofile(None)
threading.setprofile(None)
print("RESULT", json.dumps([len(modules), len(functions), max(parsings.values())]))
"""
CALLS = {
    "ds.downscale(4)": ("pass", "ds.downscale(4)"),
    "to_netcdf(fine, path, coarse=ds)": ("fine = ds.downscale(4)", 'downscale.to_netcdf(fine, "fine.nc", coarse=ds)'),
    "apply --blocks 12": (
        'ds.to_netcdf("in.nc"); from downscale.cli.main import main',
        'main(["apply", "in.nc", "out.nc", "--factor", "4", "--blocks", "1"])',
    ),
}


def sources() -> dict[str, Path]:
    """Return the files of the package by module name."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but the bodies of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from runtime_nodes(child)


def imports(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Return the modules of the package that each module imports, without the root, which names all modules."""
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        names = set()
        for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        targets = set()
        for target in names:
            while target and target not in modules:
                target = target.rpartition(".")[0]
            targets.add(target)
        # A package that re-exports names of its modules is imported together with any of them.
        graph[name] = {target for target in targets if target not in ("", "downscale", name)}
    return graph


def groups(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components (Tarjan 1972), imported modules first."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            first = stack.index(name)
            components.append(stack[first:])
            del stack[first:]

    sys.setrecursionlimit(10_000)
    for name in graph:
        if name not in order:
            visit(name)
    return components


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return the level of each module: one above the highest module that it imports."""
    level: dict[str, int] = {}
    for group in groups(graph):
        lower = [level[other] for name in group for other in graph[name] if other not in group]
        level |= dict.fromkeys(group, max(lower, default=0) + 1)
    return level


def unit_imports(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the imports between top-level modules and subpackages."""
    units: dict[str, set[str]] = {}
    for name, others in graph.items():
        unit = ".".join(name.split(".")[:2])
        units.setdefault(unit, set()).update(".".join(other.split(".")[:2]) for other in others)
    return {unit: others - {unit} for unit, others in units.items() if unit != "downscale"}


def trace_call(before: str, call: str) -> tuple[int, int, int]:
    """Return the numbers of modules and functions that a call runs, and how often it parses one grid at most."""
    code = TRACE_SCRIPT.replace("{before}", before).replace("{call}", call)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code]
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(process.stderr)
    result = next(text for text in process.stdout.splitlines() if text.startswith("RESULT"))
    modules, functions, parsings = json.loads(result.removeprefix("RESULT"))
    return modules, functions, parsings


def main() -> None:
    """Print the tables."""
    modules = sources()
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules.items()}
    longest = max(lengths, key=lambda name: lengths[name])
    graph = imports(modules)
    level, units = levels(graph), unit_imports(graph)
    unit_level = levels(units)
    cycles = [group for group in groups(graph) if len(group) > 1]
    unit_cycles = [group for group in groups(units) if len(group) > 1]
    top = [name for name, path in modules.items() if path.parent == PACKAGE]
    sys.path.insert(0, str(ROOT))
    import downscale

    rows = [
        ("lines", f"{sum(lengths.values()):,}"),
        ("files", str(len(modules))),
        ("longest file", f"{longest}, {lengths[longest]} lines"),
        ("modules at the top", str(len(top))),
        ("subpackages", str(len({name.split(".")[1] for name in modules if name.count(".") > 1}))),
        ("import levels, of modules", str(max(level.values()))),
        ("import levels, of subpackages", str(max(unit_level.values()))),
        ("import cycles, of modules", "; ".join(", ".join(group) for group in cycles) or "0"),
        ("import cycles, of subpackages", "; ".join(", ".join(group) for group in unit_cycles) or "0"),
        ("public names", str(len(downscale.__all__))),
    ]
    print(table(("measure", "value"), rows), end="\n\n")
    rows = [(call, *map(str, trace_call(*code))) for call, code in CALLS.items()]
    print(table(("call", "modules", "functions", "parsings of one grid"), rows))
    if "--levels" in sys.argv:
        for number in range(1, max(unit_level.values()) + 1):
            print(number, *sorted(name.removeprefix("downscale.") for name, at in unit_level.items() if at == number))


if __name__ == "__main__":
    main()
