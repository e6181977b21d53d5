"""Time per fine value for growing results, with one set of workers.

A part of scaling.py, run as a separate process: python grow.py {threads,processes} WORKERS ROUNDS LARGEST FOLDER prints
the seconds as JSON. Imports and the start of a cluster do not count.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import dask
import xarray as xr
from kernels import Nowhere
from measure import CORES, in_turn
from series import COLUMNS, ROWS, dataset, write_series

import downscale

FACTOR = 4
SIZES = (1, 2, 5, 10, 20, 50, 100)
MAPS, FEW = 5, 24
# Maps per block: every worker has several blocks, and a block is small compared with the memory.
BLOCK = 5
# Results of x1 to x100: factors whose squares are these, from coarse maps of 90 x 180.
FACTORS = (2, 3, 4, 6, 9, 14, 20)
Case = tuple[int, Callable[[], object]]


def main() -> None:
    setup, folder = sys.argv[1], Path(sys.argv[5])
    workers, rounds, largest = map(int, sys.argv[2:5])
    sizes = [size for size in SIZES if size <= largest]
    with _workers(setup, workers):
        curves = {"more maps, file to file": files(sizes, folder)}
        if setup == "threads":
            curves["more maps, computed only"] = more_maps(sizes)
            if workers == CORES:
                curves["larger maps, computed only"] = larger_maps(sizes)
                curves["larger factor, computed only"] = factors(sizes)
        found = {name: _timed(cases, rounds) for name, cases in curves.items()}
    print(json.dumps(found))


def _workers(setup: str, count: int) -> AbstractContextManager[Any]:
    if setup == "threads":
        return dask.config.set(scheduler="threads", num_workers=count)
    from distributed import Client

    return Client(n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None)


def _timed(cases: list[Case], rounds: int) -> list[tuple[int, list[float]]]:
    times = in_turn({str(values): call for values, call in cases}, rounds)
    return [(values, times[str(values)].seconds) for values, _ in cases]


def files(sizes: list[int], folder: Path) -> list[Case]:
    """Return runs from a file to a checked file, with increasing numbers of maps."""
    cases = []
    for size in sizes:
        given = folder / f"coarse{size}.nc"
        write_series(given, "tas", MAPS * size)
        cases.append((_values(MAPS * size), partial(_through_files, given, folder / "fine.nc")))
    return cases


def _through_files(given: Path, made: Path) -> None:
    coarse = downscale.open_dataset(given, chunks={"time": BLOCK})
    downscale.to_netcdf(coarse.downscale(FACTOR), made, coarse=coarse, complevel=0, overwrite=True)
    made.unlink()


def more_maps(sizes: list[int]) -> list[Case]:
    return [(_values(MAPS * size), partial(_computed, dataset("tas", MAPS * size), FACTOR, BLOCK)) for size in sizes]


def larger_maps(sizes: list[int]) -> list[Case]:
    """Return runs on a tenth of all rows and columns, and on increasing numbers of them."""
    whole, cases = dataset("tas", FEW), []
    for size in sizes:
        rows, columns = (round(full / 10 * size**0.5) for full in (ROWS, COLUMNS))
        part = whole.isel(lat=slice((ROWS - rows) // 2, (ROWS + rows) // 2), lon=slice(0, columns))
        cases.append((part.tas.size * FACTOR**2, partial(_computed, part, FACTOR, FEW // (4 * CORES))))
    return cases


def factors(sizes: list[int]) -> list[Case]:
    coarse = downscale.coarsen(dataset("tas", FEW), 2).drop_vars("areacella")
    used = FACTORS[: len(sizes)]
    return [(coarse.tas.size * f**2, partial(_computed, coarse, f, FEW // (4 * CORES))) for f in used]


def _computed(ds: xr.Dataset, factor: int, block: int) -> None:
    fine: Any = ds.chunk(time=max(block, 1)).downscale(factor).tas.data
    fine.store(Nowhere(), lock=False)


def _values(maps: int) -> int:
    return maps * ROWS * COLUMNS * FACTOR**2


if __name__ == "__main__":
    main()
