"""Ensembles on held-out radar: the cascade, trained ensembles, one best field, and RainFARM of pysteps.

Run from anywhere, with the package's Python and a folder with the files named here:

    python benchmarks/ensembles.py FOLDER [--model FILE.safetensors ...] [--peers-python PYTHON] [--timings]
    python benchmarks/ensembles.py FOLDER [--smoothing 0 2.5] [--factors 8] [--picture docs/images/members.png]

Windows of 256 x 256 cells without a gap are averaged over 4 x 4 and 8 x 8 cells and refined again, with ten members
each. ``--peers-python`` is the Python of an environment with pysteps (pip install pysteps); it reads the coarse windows
from a file and generates its members with spectral fusion. Scores: fair CRPS as a ratio to the absolute error of
sobolev (bounded) and to the CRPS of RainFARM, spread-skill ratio, ratio of mean power in dB by octave below the coarse
Nyquist wavelength, ratio of wet areas, largest cell error, smallest value.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import downscale
from downscale.metrics.ensemble import crps, spread_skill
from downscale.metrics.scores import Spectra

SIZE, MEMBERS, WET = 256, 10, 0.1
SETS = (
    ("precipitation_mch_20150515_1km_5min.nc", "mch15"),
    ("precipitation_mch_20160711_1km_5min.nc", "mch16"),
    ("precipitation_bom66_20201031_500m_10min.nc", "bom"),
    ("precipitation_fmi_20160928_1km_5min.nc", "fmi"),
    ("precipitation_opera_20180824_2km_15min.nc", "opera"),
)
# The number of last times used to validate the trained ensembles; the other times trained them.
TRAINED_ON = ("mch15", "fmi", "opera")
# Composites whose licence permits publication (CC BY 4.0).
SHOWN = {"fmi": "FMI, 1 km", "opera": "OPERA, 2 km"}
# Run by another Python without this package; prints seconds per member.
PEER = """
import sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
from pysteps.downscaling import rainfarm
given, made = np.load(sys.argv[1]), {}
np.random.seed(1)
for name in given.files:
    factor, count = int(name.rsplit("_", 1)[1]), int(sys.argv[3])
    rainfarm.downscale(given[name][0], factor, spectral_fusion=True)
    begin = time.perf_counter()
    made[name] = np.array([[rainfarm.downscale(x, factor, spectral_fusion=True) for _ in range(count)]
                           for x in given[name]], np.float32)
    print(name, (time.perf_counter() - begin) / (count * len(given[name])))
np.savez(sys.argv[2], **made)
"""


def main() -> int:
    """Print one line per method, set and factor, and means over sets; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, action="append", default=[])
    parser.add_argument("--peers-python", type=Path)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--timings", action="store_true", help="time one member each instead, side by side")
    parser.add_argument("--picture", type=Path, help="draw a window of those that may be shown instead, of one factor")
    parser.add_argument("--smoothing", type=float, nargs="+", default=[], help="further cascades")
    parser.add_argument("--factors", type=int, nargs="+", default=[4, 8])
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    truths = {label: windows(chosen.folder / file, chosen.windows) for file, label in SETS}
    truths = {label: fine for label, fine in truths.items() if fine is not None}
    if not truths:
        print(f"expected files such as {SETS[0][0]} in {chosen.folder}, found none")
        return 2
    methods = methods_of(chosen.model, chosen.smoothing)
    for factor in chosen.factors:
        coarse = {label: downscale.coarsen(fine, factor) for label, fine in truths.items()}
        theirs, seconds = peers(chosen.peers_python, coarse, factor)
        if chosen.picture:
            picture(truths, coarse, factor, theirs, chosen.picture)
        elif chosen.timings:
            timings(coarse, factor, methods[factor], seconds)
        else:
            table(truths, coarse, factor, methods[factor], theirs)
    return 0


def methods_of(models: list[Path], smoothings: list[float]) -> dict[int, dict[str, Any]]:
    """Return the methods of each factor: the cascade with several smoothings, and the trained models."""
    from downscale.models.checkpoint import load

    cascades: dict[str, dict[str, Any]] = {"cascade": {"method": "cascade"}}
    cascades |= {f"cascade, smoothing {each:g}": {"method": "cascade", "smoothing": each} for each in smoothings}
    made: dict[int, dict[str, Any]] = {factor: dict(cascades) for factor in (4, 8)}
    for path in models:
        model = load(path)[0]
        made[model.spec.factor[0]][path.stem] = {"method": model}
    return made


def windows(path: Path, count: int) -> xr.Dataset | None:
    """Return rainy windows without a gap from the end of a record, or None if the file is missing."""
    if not path.exists():
        print(f"{path.name}: not there, skipped")
        return None
    ds = downscale.open_dataset(path, chunks=None)[["precip"]]
    found: list[np.ndarray] = []
    # From the last time backwards, the wettest window with corners at multiples of 64 cells.
    for step in range(ds.sizes["time"] - 1, -1, -max(ds.sizes["time"] // (2 * count), 1)):
        values = ds.precip.isel(time=step).values
        places = [
            (float((piece > WET).mean()), row, column)
            for row in range(0, values.shape[0] - SIZE + 1, 64)
            for column in range(0, values.shape[1] - SIZE + 1, 64)
            if np.isfinite(piece := values[row : row + SIZE, column : column + SIZE]).all()
        ]
        if places and max(places)[0] > 0.03 and len(found) < count:
            _, row, column = max(places)
            found.append(np.clip(values[row : row + SIZE, column : column + SIZE], 0, None))
    step = float(abs(ds.x[1] - ds.x[0]))
    axes = {
        name: (name, np.arange(SIZE) * step, {"units": "m", "standard_name": f"projection_{name}_coordinate"})
        for name in ("y", "x")
    }
    attrs = {"units": "mm h-1", "standard_name": "rainfall_rate"}
    return xr.Dataset({"precip": (("time", "y", "x"), np.array(found, "f4"), attrs)}, axes)


def peers(python: Path | None, coarse: dict[str, xr.Dataset], factor: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the members of RainFARM and its seconds per member, by set; empty without its Python."""
    if python is None:
        return {}, {}
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        np.savez(given, **{f"{label}_{factor}": x.precip.values.astype("f8") for label, x in coarse.items()})
        command = [str(python), "-c", PEER, str(given), str(made), str(MEMBERS)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        told = [line.split() for line in said.splitlines() if line.endswith(tuple("0123456789")) and " " in line]
        seconds = {words[0].rsplit("_", 1)[0]: float(words[1]) for words in told if words[0].endswith(f"_{factor}")}
        with np.load(made) as members:
            return {name.rsplit("_", 1)[0]: members[name] for name in members.files}, seconds


def made_by(how: dict[str, Any], coarse: xr.Dataset, factor: int) -> np.ndarray:
    """Return members (windows, members, y, x)."""
    each = [coarse.isel(time=[i]).downscale(factor, members=MEMBERS, seed=i, **how) for i in range(coarse.time.size)]
    return np.concatenate([fine.precip.values for fine in each])


def table(truths: dict[str, Any], coarse: dict[str, Any], factor: int, methods: dict[str, Any], peer: Any) -> None:
    """Print the scores of one factor."""
    ratios: dict[str, list[tuple[float, ...]]] = {}
    print(f"x{factor}: set, method, CRPS, /MAE of sobolev, /RainFARM, spread-skill, dB by octave, wet, error, least")
    for label, fine in truths.items():
        true = fine.precip.values.astype("f8")
        plain = coarse[label].downscale(factor, bounds=(0, None)).precip.values
        reference = float(np.abs(plain - true).mean())
        best = coarse[label].downscale(factor, "rain").precip.values
        one = float(np.abs(best - true).mean()) / reference
        print(f"  {label:6s} rain, one field: absolute error {one:.3f} of sobolev's")
        every = {name: made_by(how, coarse[label], factor) for name, how in methods.items()}
        if label in peer:
            every["RainFARM"] = peer[label]
        scored = {name: scores(made.astype("f8"), true, coarse[label], factor) for name, made in every.items()}
        theirs = scored["RainFARM"][0] if "RainFARM" in scored else np.nan
        for name, (score, ratio, power, wet, error, least) in scored.items():
            over = score / reference, score / theirs
            ratios.setdefault(name, []).append((*over, ratio, *power))
            words = " ".join(f"{each:+.1f}" for each in power)
            ratio_words = f"{over[0]:.3f}  {over[1]:.3f}  {ratio:.2f}  {words}"
            print(f"  {label:6s} {name:24s} {score:.4f}  {ratio_words}  {wet:.2f}  {error:.1e}  {least:g}", flush=True)
    for name, rows in ratios.items():
        mean = np.mean(rows, axis=0)
        held = np.mean([row for row, label in zip(rows, truths, strict=True) if label not in TRAINED_ON], axis=0)
        for words, one in (("all sets", mean), ("other networks", held)):
            power = " ".join(f"{each:+.1f}" for each in one[3:])
            over = f"/MAE {one[0]:.3f}  /RainFARM {one[1]:.3f}"
            print(f"  mean over {words}: {name:22s} {over}  spread-skill {one[2]:.2f}  dB {power}", flush=True)


def scores(made: np.ndarray, true: np.ndarray, coarse: xr.Dataset, factor: int) -> tuple[Any, ...]:
    """Return fair CRPS, spread-skill ratio, decibels by octave, wet area, cell error and least value."""
    members = made.swapaxes(0, 1)
    score = float(crps(members, true).mean())
    error = float(((members.mean(axis=0) - true) ** 2).mean())
    ratio = spread_skill(float(members.var(axis=0, ddof=1).mean()), error, len(members))
    spectra = Spectra.of(members, true, np.ones(true.shape))
    assert spectra is not None
    ours, theirs = spectra.power
    power, wave = [], 0.5 / factor
    while wave < 0.49:
        inside = (spectra.wavenumber > wave) & (spectra.wavenumber <= 2 * wave)
        power.append(float((10 * np.log10(ours[inside] / theirs[inside])).mean()))
        wave *= 2
    wet = float((made > WET).mean() / (true > WET).mean())
    x = coarse.precip.values[:, None]
    means = made.reshape(*made.shape[:2], SIZE // factor, factor, SIZE // factor, factor).mean(axis=(3, 5))
    wrong = float((np.abs(means - x) / np.maximum(x, 1e-9)).max())
    return score, ratio, power, wet, wrong, float(made.min())


def picture(truths: dict[str, Any], coarse: dict[str, Any], factor: int, theirs: dict[str, Any], path: Path) -> None:
    """Plot the coarse field, the reference, two members of the cascade and one of RainFARM."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import LogNorm

    rows = [label for label in SHOWN if label in truths]
    figure, axes = pyplot.subplots(len(rows), 5, figsize=(15, 3.3 * len(rows)), squeeze=False, layout="constrained")
    middle = slice(SIZE // 4, 3 * SIZE // 4)
    for row, label in zip(axes, rows, strict=True):
        given = coarse[label].isel(time=[0])
        members = made_by({"method": "cascade"}, given, factor)[0]
        shown = {
            f"given ({SHOWN[label]} x {factor})": given.precip.values[0].repeat(factor, 0).repeat(factor, 1),
            "radar": truths[label].precip.values[0],
            "cascade, a member": members[0],
            "another member": members[1],
        }
        if label in theirs:
            shown["RainFARM (pysteps), a member"] = theirs[label][0, 0]
        for axis in row:
            axis.set_axis_off()
        for axis, (title, values) in zip(row, shown.items(), strict=False):
            part = values[middle, middle]
            image = axis.imshow(np.where(part < 0.05, np.nan, part), norm=LogNorm(0.1, 30), cmap="cividis_r")
            axis.set_title(title, fontsize=10)
        figure.colorbar(image, ax=list(row), label="mm h$^{-1}$", shrink=0.8)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def timings(coarse: dict[str, xr.Dataset], factor: int, methods: dict[str, Any], theirs: dict[str, float]) -> None:
    """Print milliseconds per member, by set; RainFARM was timed just before."""
    for label, x in coarse.items():
        # RainFARM has no time dimension, so this map has none.
        one, words = x.isel(time=0), []
        for name, how in methods.items():
            one.downscale(factor, members=2, check="skip", **how)
            begin = time.perf_counter()
            one.downscale(factor, members=MEMBERS, check="skip", **how)
            words.append(f"{name} {1e3 * (time.perf_counter() - begin) / MEMBERS:.1f} ms")
        words += [f"RainFARM {1e3 * theirs[label]:.1f} ms"] if label in theirs else []
        print(f"x{factor} {label}: {', '.join(words)} per member", flush=True)


if __name__ == "__main__":
    sys.exit(main())
