"""Interrupt runs with SIGINT or SIGTERM at random moments, and measure exit times, leftover files and resumed results.

Run from anywhere, with the package's Python:

    python benchmarks/interrupts.py [--times 30] [--seed 0] [--write docs/clusters.md]

The script repeatedly starts plain runs (to NetCDF and to Zarr), runs in blocks, also with a local cluster, and
trainings. Each receives one signal at a random moment between one second after its start and its usual end; SIGINT is
sent to all its processes, like Ctrl-C in a terminal. The next run resumes if possible, and the last run completes. The
final values must equal those of an uninterrupted run, bit for bit. Exit status 1 if a run took longer than
five seconds to end, printed more than one line, left files behind, or gave other values.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr
from measure import command_of, environment, machine, table, write_section

LIMIT_SECONDS, FIRST_SECONDS, LONGEST_SECONDS = 5.0, 1.0, 600.0
# Signals for each run; some arrive after its end.
MOST_TRIES = 4
INPUTS = ["in.nc", "r.yml"]
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The number of runs of each kind, of ten.
SHARES = {"plain": 2, "zarr": 1, "blocks": 3, "cluster": 1, "training": 3}
TRAINING = {
    "data": {"factor": 4, "outputs": ["tas"], "statics": ["orog"],
             "pairs": [{"fine": "sample:north_america", "orog": "sample:north_america_relief"}]},
    "patches": {"size": 6}, "network": {"name": "residual", "options": {"width": 8, "depth": 1}},
    "training": {"steps": 120, "round": 30, "batch": 4, "accelerator": "cpu", "devices": 1, "save_every": 0.3},
    "output": {"path": "out.safetensors"},
}  # fmt: skip


@dataclass
class Kind:
    """One kind of run: its arguments, the files that may stay after an interruption, and how to read its values."""

    words: list[str]
    output: str
    keeps: Callable[[str], bool]
    values: Callable[[Path], dict[str, bytes]]
    resume: bool = False


@dataclass
class Found:
    """The results of the runs of one kind."""

    seconds: list[float] = field(default_factory=list)
    signals: int = 0
    faults: list[str] = field(default_factory=list)
    equal: bool = False


def fields_of(path: Path) -> dict[str, bytes]:
    """Return the stored values of a file or store."""
    engine = "zarr" if path.suffix == ".zarr" else "netcdf4"
    with xr.open_dataset(path, engine=engine, decode_cf=False) as ds:
        return {str(name): np.asarray(v.values).tobytes() for name, v in ds.variables.items()}


def weights_of(path: Path) -> dict[str, bytes]:
    """Return the weights of a checkpoint."""
    from safetensors.numpy import load_file

    return {name: array.tobytes() for name, array in load_file(path).items()}


def kinds(steps: int) -> dict[str, Kind]:
    """Return all kinds of runs."""
    apply = ["apply", "in.nc", "out.nc", "--factor", "4"]
    block = [*apply, "--blocks", str(max(steps // 8, 1))]

    def blocks(name: str) -> bool:
        return name.startswith(".out.nc.blocks") and not name.endswith((".part", ".lock"))

    return {
        "plain": Kind(apply, "out.nc", lambda name: False, fields_of),
        "zarr": Kind(["apply", "in.nc", "out.zarr", "--factor", "4"], "out.zarr", lambda name: False, fields_of),
        "blocks": Kind(block, "out.nc", blocks, fields_of, True),
        "cluster": Kind([*block, "--cluster", "local", "--workers", "2"], "out.nc", blocks, fields_of, True),
        "training": Kind(["train", "r.yml"], "out.safetensors",
                         lambda name: name.startswith("out.training") and not name.endswith(".part"), weights_of, True),
    }  # fmt: skip


def prepare(folder: Path, steps: int) -> None:
    """Write the inputs of all kinds."""
    lat, lon = np.linspace(49.9, 30.1, 100), np.linspace(0.1, 39.9, 200)
    values = 280 + np.random.default_rng(0).normal(size=(steps, 100, 200))
    time_axis = np.datetime64("2000-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "D")
    coords = {"time": time_axis, "lat": ("lat", lat, {"units": "degrees_north"}),
              "lon": ("lon", lon, {"units": "degrees_east"})}  # fmt: skip
    field = ("time", "lat", "lon"), values.astype("f4"), {"units": "K"}
    xr.Dataset({"tas": field}, coords).to_netcdf(folder / "in.nc")
    (folder / "r.yml").write_text(json.dumps(TRAINING))


def started(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    """Start a command in a folder, in a new process group."""
    line = [sys.executable, "-m", "downscale", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        line, cwd=folder, stdout=pipe, stderr=pipe, text=True, env=environment(), start_new_session=True
    )


def quiet(folder: Path, kind: Kind) -> float:
    """Run a command to its end and return its seconds."""
    begin = time.perf_counter()
    process = started(folder, kind.words)
    _, said = process.communicate(timeout=LONGEST_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(kind.words)}: {said}")
    return time.perf_counter() - begin


def stopped(folder: Path, kind: Kind, moment: float, number: signal.Signals, found: Found) -> bool:
    """Start a run, interrupt it, note leftover files, and return whether the signal arrived before its end."""
    process = started(folder, [*kind.words, *(["--resume"] if kind.resume else [])])
    time.sleep(moment)
    children = _children(process.pid)
    begin = time.perf_counter()
    if process.poll() is None:
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    try:
        _, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        found.faults.append(f"{number.name} at {moment:.2f} s: not ended after a minute")
        return True
    if process.returncode == 0:
        return False
    seconds = time.perf_counter() - begin
    found.seconds.append(seconds)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")} - set(INPUTS)
    left = {name for name in left if not kind.keeps(name)}
    _, alive = psutil.wait_procs(children, timeout=2)
    for bad, word in (
        (seconds > LIMIT_SECONDS, f"{seconds:.1f} s"),
        (process.returncode != 128 + number, f"exit status {process.returncode}"),
        (len(said.splitlines()) != 1, f"printed {said!r}"),
        (bool(left), f"left {sorted(left)}"),
        (bool(alive), f"left {len(alive)} processes"),
    ):
        if bad:
            found.faults.append(f"{number.name} at {moment:.2f} s: {word}")
    return True


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def judged(name: str, kind: Kind, times: int, draw: random.Random, folder: Path, steps: int) -> Found:
    """Interrupt a number of runs of one kind, then complete the last one."""
    found, here, calm = Found(), folder / name, folder / f"{name}-calm"
    for one in (here, calm):
        one.mkdir()
        prepare(one, steps)
    quiet(calm, kind)  # loops are compiled once
    shutil.rmtree(calm)
    calm.mkdir()
    prepare(calm, steps)
    usual = quiet(calm, kind)
    hit = 0
    while hit < times and found.signals < MOST_TRIES * times:
        if (here / kind.output).exists():
            # The run ended before its signal, so the next one starts afresh.
            shutil.rmtree(here)
            here.mkdir()
            prepare(here, steps)
        moment = draw.uniform(FIRST_SECONDS, max(usual, FIRST_SECONDS + 0.5))
        anew = sorted(os.listdir(here)) == INPUTS
        number = SIGNALS[found.signals % len(SIGNALS)]
        found.signals += 1
        if stopped(here, kind, moment, number, found):
            hit += 1
        elif anew:
            usual = min(usual, moment)
    if not (here / kind.output).exists():
        last = started(here, [*kind.words, *(["--resume"] if kind.resume else [])])
        last.communicate(timeout=LONGEST_SECONDS)
    found.equal = kind.values(here / kind.output) == kind.values(calm / kind.output)
    return found


def main() -> int:
    """Print the results of all runs; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=30, help="runs to stop, of all kinds together (30)")
    parser.add_argument("--kinds", default=",".join(SHARES), help="of these, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=240, help="maps of the input (240)")
    parser.add_argument("--write", type=Path)
    chosen: Any = parser.parse_args()
    wanted = {name: SHARES[name] for name in chosen.kinds.split(",")}
    rows, faults, facts = [], [], machine()
    for name, share in wanted.items():
        times = max(round(chosen.times * share / sum(wanted.values())), 1)
        with tempfile.TemporaryDirectory() as folder:
            kind = kinds(chosen.steps)[name]
            found = judged(name, kind, times, random.Random(f"{chosen.seed} {name}"), Path(folder), chosen.steps)
        faults += [f"{name}: {fault}" for fault in found.faults] + ([] if found.equal else [f"{name}: other values"])
        middle, longest = (f"{f(found.seconds or [0.0]):.2f}" for f in (statistics.median, max))
        rows.append((name, str(found.signals), str(len(found.seconds)), middle, longest, str(len(found.faults)),
                     "equal" if found.equal else "DIFFERENT"))  # fmt: skip
        print(rows[-1], *found.faults, sep="\n  ", flush=True)
    head = ("run", "signals", "stopped by them", "median s to the end", "longest", "faults", "values in the end")
    text = table(head, rows)
    print(text, *faults, sep="\n")
    if chosen.write:
        write_section(chosen.write, "interrupts", command_of(), f"{facts}\n\n{text}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
