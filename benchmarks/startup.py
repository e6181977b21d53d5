"""Start-up times of ``import downscale``, ``import xarray`` and ``downscale --help``.

Run: python benchmarks/startup.py [--runs 7]

Each time is the median of new processes, timed in turn so that a slow period affects all equally.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import xarray": ["-c", "import xarray"],
    "import xarray, downscale": ["-c", "import xarray, downscale"],
    "import downscale": ["-c", "import downscale"],
    "downscale --help": ["-m", "downscale", "--help"],
}


def seconds(arguments: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(runs + 1):
        for name, arguments in COMMANDS.items():
            taken = seconds(arguments)
            if turn:  # the first turn fills the caches of the file system
                times[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, median in medians.items():
        print(f"{name:26s} {median:6.2f} s")
    added = medians["import xarray, downscale"] - medians["import xarray"]
    print(f"{'added to import xarray':26s} {added:6.2f} s")


if __name__ == "__main__":
    main()
