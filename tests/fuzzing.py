"""Mutations of a valid file, recipe, checkpoint and command line, and what one call of the command makes of each.

Run as a script it goes through draws in a folder of its own and prints one line of JSON for each: a crash of the
interpreter then ends this process alone, and the last line says which draw it was.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml
from command import command
from refusals import contents, north_america

KINDS = ("file", "bytes", "recipe", "checkpoint", "command")
# No draw may take longer.
SECONDS = 60
TEXTS = ("", " ", "x", "degC", "K", "time: mean", "nan", "-1", "0", "1e400", "lat", "lon lat", "\x1b[31m", "ä" * 300,
         "../..", "%s%n", "{}", "[1, 2]", "null", "days since 0000-00-00", "kg m-2 s-1", "\u202egpj.exe", "'; --",
         "degrees_north", "projection_x_coordinate", "lat_bnds", "tas", "crs", "area: sum", "1/0", "*",
         "--help")  # fmt: skip
NUMBERS = (0, -1, 1, 2, 3, 7, 2**31, 2**63 - 1, -(2**63), 0.5, -0.0, 1e-300, 1e38, 3e38, 1e308, float("nan"),
           float("inf"), float("-inf"))  # fmt: skip


def value_of(rng: random.Random) -> Any:
    """Something that an attribute or a key could hold."""
    return rng.choice(
        [rng.choice(TEXTS), rng.choice(NUMBERS), [rng.choice(NUMBERS) for _ in range(rng.randint(0, 4))],
         rng.choice(TEXTS) * rng.randint(1, 40), True]
    )  # fmt: skip


def small() -> xr.Dataset:
    """Two maps of the real sample, ten cells each way."""
    return north_america(2).isel(lat=slice(0, 8), lon=slice(0, 10))


def mutated_dataset(rng: random.Random) -> xr.Dataset:
    """The sample with one to three things wrong or odd about its variables, axes and attributes."""
    ds = small()
    for _ in range(rng.randint(1, 3)):
        ds = rng.choice(DATASET)(ds, rng)
    return ds


def _attribute(ds: xr.Dataset, rng: random.Random) -> xr.Dataset:
    owner = rng.choice([ds, *ds.variables.values()])
    keys = ["units", "bounds", "axis", "standard_name", "long_name", "cell_methods", "grid_mapping", "coordinates",
            "valid_range", "valid_min", "missing_value", "flag_values", "formula_terms", "cell_measures", "positive",
            "history", "climatology", "ancillary_variables", "Conventions", "calendar",
            *map(str, owner.attrs)]  # fmt: skip
    value = value_of(rng)
    owner.attrs[rng.choice(keys)] = int(value) if value is True else value
    return ds


def _values(ds: xr.Dataset, rng: random.Random) -> xr.Dataset:
    name = rng.choice([str(n) for n in ds.variables if ds[n].dtype.kind == "f" and ds[n].size])
    data = ds[name].values.copy()
    for _ in range(rng.choice([1, 1, 5, data.size])):
        data[tuple(rng.randrange(n) for n in data.shape)] = np.float64(rng.choice(NUMBERS)).astype(data.dtype)
    return ds.assign({name: ds[name].copy(data=data)}) if name in ds.data_vars else ds.assign_coords(
        {name: ds[name].copy(data=data)}
    )  # fmt: skip


def _kind(ds: xr.Dataset, rng: random.Random) -> xr.Dataset:
    name = rng.choice([str(n) for n in ds.data_vars])
    kind = rng.choice(["i1", "u1", "i2", "i4", "i8", "u8", "f4", "f8", "S1", "U5", "bool"])
    with np.errstate(all="ignore"):
        return ds.assign({name: ds[name].copy(data=ds[name].values.astype(kind))})


def _order(ds: xr.Dataset, rng: random.Random) -> xr.Dataset:
    dim = rng.choice([str(d) for d in ds.dims])
    picks = [rng.randrange(ds.sizes[dim]) for _ in range(rng.randint(0, ds.sizes[dim] + 2))] if ds.sizes[dim] else []
    ways = [slice(None, None, -1), slice(None, None, 2), slice(0, 1), slice(0, 0), picks]
    return ds.isel({dim: rng.choice(ways)})


def _names(ds: xr.Dataset, rng: random.Random) -> xr.Dataset:
    name = rng.choice([str(n) for n in ds.variables])
    return ds.rename({name: rng.choice(["x", "y", "lat2", "time2", "nav_lat", "ps", "a b", "ä", "areacella", "crs"])})


def _without(ds: xr.Dataset, rng: random.Random) -> xr.Dataset:
    return ds.drop_vars(rng.choice([str(n) for n in ds.variables]))


def _dims(ds: xr.Dataset, rng: random.Random) -> xr.Dataset:
    ways = [lambda: ds.transpose(*rng.sample(list(ds.dims), len(ds.dims))), lambda: ds.expand_dims("member"),
            lambda: ds.expand_dims(level=[1.0, 2.0]), lambda: ds.stack(cell=("lat", "lon")).reset_index("cell"),
            lambda: ds.isel(time=0), lambda: ds.isel(time=0, drop=True)]  # fmt: skip
    return rng.choice(ways)()


DATASET: tuple[Callable[[xr.Dataset, random.Random], xr.Dataset], ...] = (
    _attribute, _attribute, _attribute, _values, _kind, _order, _names, _without, _dims,
)  # fmt: skip


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes of which some are others, missing, or there twice."""
    made = bytearray(data)
    for _ in range(rng.choice([1, 3, 30])):
        at = rng.randrange(max(len(made), 1))
        way = rng.randrange(4)
        if way == 0:
            made[at : at + 1] = bytes([rng.randrange(256)])
        elif way == 1:
            made[at : at + rng.choice([4, 64])] = bytes(4)
        elif way == 2:
            del made[at : at + rng.choice([1, 8, 4096])]
        else:
            made[at:at] = made[at : at + rng.choice([1, 8, 512])]
    return bytes(made) if rng.random() < 0.9 else bytes(made[: rng.randrange(len(made) + 1)])


RECIPE: dict[str, Any] = {
    "title": "fuzz", "input": {"path": "in.nc", "variables": ["tas"], "chunks": "auto"},
    "downscale": {"factor": 2, "method": "sobolev", "conserve": "cell", "bounds": "auto", "taps": 7, "order": 1.25},
    "terrain": {"lapse_rate": None, "penalty": None}, "validate": {"law": "cell", "tolerance": 1e-6},
    "output": {"path": "out.nc", "complevel": 1, "packing": None, "attrs": {"note": "x"}, "overwrite": False},
}  # fmt: skip


def mutated_recipe(rng: random.Random) -> str:
    """A recipe with other values, keys or characters."""
    content = json.loads(json.dumps(RECIPE))
    for _ in range(rng.randint(1, 3)):
        block = rng.choice([content, *(part for part in content.values() if isinstance(part, dict))])
        if not block:
            continue
        key = rng.choice(list(block))
        way = rng.randrange(4)
        if way == 0:
            del block[key]
        elif way == 1:
            block[rng.choice(TEXTS)] = value_of(rng)
        else:
            block[key] = value_of(rng)
    text = yaml.safe_dump(content, allow_unicode=True)
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(["\t", ":", "&a", "*a", "[", "}", "|", "\x00", "!!str", "- "]) + text[at + 1 :]
    return text


OPTIONS: dict[str, tuple[str, ...]] = {
    "--factor": ("2", "3", "lat:2", "lat:2,lon:3", "time:2", "2.5"), "--target": ("1x1", "time:D", "in.nc", "3x700"),
    "--method": (
        "sobolev", "auto", "bilinear", "bicubic", "conservative", "cascade", "rain", "temperature", "m.safetensors",
    ),
    "--members": ("2",), "--seed": ("3",), "--smoothing": ("1",), "--vars": ("tas", "tas,pr"), "--mask": ("in.nc",),
    "--orog": ("in.nc",), "--lapse-rate": ("-0.006", "auto"), "--relief-smoothing": ("0", "1"),
    "--conserve": ("cell", "total", "none"), "--na-thres": ("0.5",),
    "--bounds": ("auto", "none", "0:", "200:400", ":300"), "--chunks": ("auto", "time:1", "lat:3"),
    "--complevel": ("0", "9"), "--packing": ("int16", "7"), "--attr": ("a=b",), "--tolerance": ("1e-9",),
    "--blocks": ("1", "1 month"), "--max-memory": ("2GB", "100MB"), "--footprint": ("gaussian:400km",),
    "--profile": ("cordex-esd",), "--block": ("0", "1"), "--overwrite": (), "--dry-run": (), "--resume": (),
    "--no-merge": (),
}  # fmt: skip


def mutated_command(rng: random.Random) -> list[str]:
    """A command line with odd options, values and paths."""
    name = rng.choice([*["apply"] * 3, "check", "inspect", "weights", "deconvolve", "run", "evaluate", "train"])
    words = {"check": ["in.nc", "in.nc"], "inspect": ["in.nc"], "run": ["r.yml"], "evaluate": ["r.yml"],
             "train": ["r.yml", "--dry-run"], "deconvolve": ["in.nc", "out.nc", "--psf", "gaussian:200km"]}  # fmt: skip
    made = [name, *words.get(name, ["in.nc", "out.nc"])]
    if name in ("apply", "inspect", "weights"):
        made += ["--factor", rng.choice(OPTIONS["--factor"])]
    for _ in range(rng.randint(0, 4)):
        option = rng.choice(list(OPTIONS))
        values = OPTIONS[option]
        made.append(option)
        if values:
            made.append(str(rng.choice(values)) if rng.random() < 0.7 else str(value_of(rng)))
    if rng.random() < 0.3:
        made[rng.randrange(len(made))] = str(value_of(rng)).replace("\x00", "")
    return made


def call_of(kind: str, rng: random.Random) -> list[str]:
    """Put what a draw needs into this folder, and return the words of the command."""
    small().to_netcdf("in.nc")
    Path("r.yml").write_text(yaml.safe_dump(RECIPE))
    if kind == "file":
        try:
            mutated_dataset(rng).to_netcdf("in.nc")
        except Exception:  # what the library does not write is no file that people have
            return []
    elif kind == "bytes":
        Path("in.nc").write_bytes(mutated_bytes(Path("in.nc").read_bytes(), rng))
    elif kind == "recipe":
        Path("r.yml").write_text(mutated_recipe(rng), encoding="utf-8")
        return ["run", "r.yml"]
    elif kind == "checkpoint":
        from downscale.models import path_of

        source = path_of("rain", (2, 2)).read_bytes()
        # The header is what is parsed; most mutations go there.
        cut = min(len(source), 8 + int.from_bytes(source[:8], "little"))
        made = mutated_bytes(source[:cut], rng) + source[cut:] if rng.random() < 0.8 else mutated_bytes(source, rng)
        Path("model.safetensors").write_bytes(made)
        small().rename(tas="pr").assign_attrs(title="x").to_netcdf("in.nc")
        return rng.choice([["inspect", "model.safetensors", "--card"],
                           ["apply", "in.nc", "out.nc", "--method", "model.safetensors", "--dry-run"]])  # fmt: skip
    else:
        return mutated_command(rng)
    return rng.choice([["apply", "in.nc", "out.nc", "--factor", "2"], ["apply", "in.nc", "out.nc", "--factor", "2"],
                       ["check", "in.nc", "in.nc"], ["inspect", "in.nc", "--factor", "2"],
                       ["weights", "in.nc", "out.nc", "--factor", "2"],
                       ["apply", "in.nc", "out.nc", "--target", "1.5x1.5"],
                       ["apply", "in.nc", "out.nc", "--factor", "time:2"],
                       ["apply", "in.nc", "out.nc", "--factor", "2", "--blocks", "1"]])  # fmt: skip


def complaint_about(kind: str, seed: int) -> dict[str, Any]:
    """Make one draw, run its command, and say what is wrong with how it ended, if anything."""
    for path in Path().iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    call = call_of(kind, random.Random(f"{kind}-{seed}"))
    if not call:
        return {"seed": seed, "call": call, "wrong": ""}
    before, begin = contents(), time.monotonic()
    said = command(*call)
    seconds = time.monotonic() - begin
    lines = [line for line in said.err.splitlines() if not line.startswith("downscale: warning: ")]
    wrong = []
    if said.status not in (0, 1, 2):
        wrong.append(f"exit status {said.status}")
    if any(word in said.err + said.out for word in ("Traceback", "unexpected ", "internal error")):
        wrong.append("a fault of the program")
    if said.status and not (len(lines) == 1 or (lines and lines[0].startswith("Usage"))) and call[0] != "check":
        wrong.append(f"{len(lines)} lines")
    if any(len(line) > 700 for line in said.err.splitlines()):
        wrong.append("a message of more than 700 characters")
    if not all(line.isprintable() for line in said.err.splitlines()):
        wrong.append("control characters")
    if said.status == 2 and contents() != before:
        wrong.append(f"left behind: {sorted(set(contents()) - set(before))}")
    if seconds > SECONDS:
        wrong.append(f"{seconds:.0f} s")
    return {"seed": seed, "call": call, "status": said.status, "err": said.err[-900:], "wrong": "; ".join(wrong)}


def main(kind: str, first: int, last: int) -> None:
    """Go through draws; an alarm ends one that never ends."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for seed in range(first, last):
        print(json.dumps({"begun": seed}), flush=True)
        signal.alarm(2 * SECONDS)
        print(json.dumps(complaint_about(kind, seed)), flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
