"""Compare the whole command ``downscale check`` with reading the two files: CPU and wall seconds, alternating.

    python benchmarks/check.py [--gigabytes 2] [--rounds 3] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr
from measure import table

READ = """
import sys, dask, xarray as xr
for name in sys.argv[1:]:
    ds = xr.open_dataset(name, chunks="auto")
    dask.compute(*(ds[key].sum() for key in ds.data_vars))
"""
CHECK = "import sys; from downscale.cli.main import main; sys.exit(main(['check', *sys.argv[1:]]))"


def write_pair(folder: Path, gigabytes: float) -> tuple[Path, Path]:
    """Write a coarse file and its piecewise constant refinement by four, which has this size."""
    rows, columns, factor = 180, 360, 4
    steps = max(round(gigabytes * 1e9 / (4 * rows * columns * factor**2)), 1)
    coarse, fine = folder / "coarse.nc", folder / "fine.nc"
    values = np.random.default_rng(1).normal(280, 10, (steps, rows, columns)).astype("f4")
    for path, ratio in ((coarse, 1), (fine, factor)):
        lat = (np.arange(rows * ratio) + 0.5) * (180 / (rows * ratio)) - 90
        lon = (np.arange(columns * ratio) + 0.5) * (360 / (columns * ratio))
        data = values.repeat(ratio, axis=1).repeat(ratio, axis=2)
        coords = {
            "time": np.datetime64("2000-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "D"),
            "lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"}),
        }  # fmt: skip
        xr.Dataset({"tas": (("time", "lat", "lon"), data, {"units": "K"})}, coords).to_netcdf(path)
    return coarse, fine


def cost(code: str, *files: Path) -> tuple[float, float]:
    """Return the wall and the CPU seconds of a process that runs ``code`` with these files."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *map(str, files)], check=True, stdout=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the medians of all rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        files = write_pair(Path(folder), options.gigabytes)
        costs: dict[str, list[tuple[float, float]]] = {"read both files": [], "downscale check": []}
        for _ in range(options.rounds):
            for name, code in zip(costs, (READ, CHECK), strict=True):
                costs[name].append(cost(code, *files))
    medians = {name: np.median(values, axis=0) for name, values in costs.items()}
    ratio = medians["downscale check"] / medians["read both files"]
    rows = [(name, f"{wall:.2f}", f"{cpu:.2f}") for name, (wall, cpu) in {**medians, "ratio": ratio}.items()]
    print(table(("command", "wall s", "CPU s"), rows))


if __name__ == "__main__":
    main()
