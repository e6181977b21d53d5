"""Compare other conservative regridders with downscale, on the same real fields in the same run.

There are four cases: the border of a region, the poles and the dateline of a global grid, a coast, and the error
relative to a finer reference; then the time. The reference weights are overlaps of cell pairs, computed here from cell
edges: a total counts each target value over the part of its cell that valid source cells cover.

Run from the root of the repository, with the package installed:

    python benchmarks/peers.py [--data DIR] [--steps 12] [--markdown]

A peer that is not installed, or fails, has an empty column and its reason below the table: CDO is the Debian package
cdo, xarray-regrid and yac are on PyPI (DOWNSCALE_YAC_PYTHON names the Python that has yac), and xESMF needs ESMF's
esmpy (conda-forge). DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the
repository. Exit status 2 if it is absent.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from fields import ERA5, FIELDS, crop, open_field
from numpy.typing import NDArray

import downscale

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
OCEAN = "nasty_ocean_tos_ipsl_360day_masked.nc"
ATTRS = {
    "lat": {"standard_name": "latitude", "units": "degrees_north", "bounds": "lat_bnds"},
    "lon": {"standard_name": "longitude", "units": "degrees_east", "bounds": "lon_bnds"},
}
# Fractions of a cell are exact up to the rounding of its edges.
ROUNDING = 1e-9
REPEATS = 3

Floats = NDArray[np.float64]
Maker = Callable[[xr.Dataset, xr.Dataset], Floats]
# The result of each tool, and its seconds.
Found = dict[str, tuple[Floats, float]]


class MissingPeerError(RuntimeError):
    """Raised if a peer cannot run here."""


def grid(lat: Floats, lon: Floats) -> xr.Dataset:
    """Return the coordinates of cells from their edges, with CF bounds."""
    coords: dict[str, Any] = {}
    for name, edges in (("lat", lat), ("lon", lon)):
        coords[name] = (name, 0.5 * (edges[:-1] + edges[1:]), ATTRS[name])
        coords[f"{name}_bnds"] = ((name, "bnds"), np.stack([edges[:-1], edges[1:]], axis=1))
    return xr.Dataset(coords=coords)


def world(rows: int, columns: int, west: float = 0.0) -> xr.Dataset:
    return grid(np.linspace(-90, 90, rows + 1), west + np.linspace(0, 360, columns + 1))


def around(ds: xr.Dataset, rows: float, columns: float) -> xr.Dataset:
    """Return cells on multiples of two steps that cover a region and extend beyond it."""
    edges = []
    for name, step in (("lat", rows), ("lon", columns)):
        low, high = float(ds[f"{name}_bnds"].min()), float(ds[f"{name}_bnds"].max())
        edges.append(step * np.arange(np.floor(low / step), np.ceil(high / step) + 1))
    return grid(*edges)


def on_cells(ds: xr.Dataset, name: str) -> xr.Dataset:
    """Return one variable as "field" in float64 with bounds at midpoints, extended to the poles."""
    pairs = {}
    for axis in ("lat", "lon"):
        centres = ds[axis].values.astype(float)
        inner = 0.5 * (centres[:-1] + centres[1:])
        edges = np.concatenate([[2 * centres[0] - inner[0]], inner, [2 * centres[-1] - inner[-1]]])
        pairs[axis] = np.clip(edges, -90, 90) if axis == "lat" else edges
    cells = grid(pairs["lat"], pairs["lon"]).assign_coords({axis: (axis, ds[axis].values) for axis in pairs})
    for axis, attrs in ATTRS.items():
        cells[axis].attrs = attrs
    maps = ds[name].transpose(..., "lat", "lon").values.astype(np.float64)
    return cells.assign(field=(("map", "lat", "lon"), maps.reshape(-1, *maps.shape[-2:])))


def coarser(source: xr.Dataset, factor: int) -> xr.Dataset:
    """Return means over coarse cells, without cell areas, which some peers cannot read."""
    blocks: Any = downscale.coarsen(source, factor)
    return blocks[["field", "lat_bnds", "lon_bnds"]].drop_vars("areacella")


# Reference weights


def overlaps(source: xr.Dataset, target: xr.Dataset, axis: str) -> Floats:
    """Return the overlap of each target cell with each source cell, in sines or radians, shape (n_target, n_source)."""
    pairs = [np.sort(ds[f"{axis}_bnds"].values, axis=1) for ds in (source, target)]
    shared = np.zeros((pairs[1].shape[0], pairs[0].shape[0]))
    for turn in (-720.0, -360.0, 0.0, 360.0, 720.0) if axis == "lon" else (0.0,):
        low = np.maximum.outer(pairs[1][:, 0] + turn, pairs[0][:, 0])
        high = np.maximum(np.minimum.outer(pairs[1][:, 1] + turn, pairs[0][:, 1]), low)
        low, high = np.deg2rad(low), np.deg2rad(high)
        shared += high - low if axis == "lon" else np.sin(high) - np.sin(low)
    return shared


@dataclass(frozen=True, eq=False)
class Case:
    """A field and its target cells."""

    source: xr.Dataset
    target: xr.Dataset

    @cached_property
    def shared(self) -> tuple[Floats, Floats]:
        """Overlaps along latitude and longitude."""
        return overlaps(self.source, self.target, "lat"), overlaps(self.source, self.target, "lon")

    @cached_property
    def valid(self) -> Floats:
        """Area of each target cell under valid source cells, in steradians, shape (map, row, column)."""
        y, x = self.shared
        area = y @ np.isfinite(self.source.field.values).astype(float) @ x.T
        return np.where(area > ROUNDING * self.whole, area, 0.0)

    @cached_property
    def whole(self) -> Floats:
        """Area of each target cell, in steradians."""
        lat, lon = (np.abs(np.diff(np.deg2rad(f(self.target[f"{n}_bnds"].values)))) for n, f in
                    (("lat", _sines), ("lon", lambda degrees: degrees)))  # fmt: skip
        return lat * lon.T

    @cached_property
    def means(self) -> Floats:
        """First-order means over the valid part of target cells."""
        y, x = self.shared
        with np.errstate(invalid="ignore", divide="ignore"):
            return y @ np.nan_to_num(self.source.field.values) @ x.T / np.where(self.valid > 0, self.valid, np.nan)

    def total_error(self, made: Floats) -> str:
        """Return the largest relative error of the total of a map over the overlap of both grids."""
        wanted = np.nansum(self.means * self.valid, axis=(1, 2))
        found = np.nansum(made * self.valid, axis=(1, 2))
        return f"{np.abs(found / wanted - 1).max():.1e}"

    def lost(self, made: Floats, rows: Any = slice(None), columns: Any = slice(None)) -> str:
        """Return the number of target cells with a valid source that are NaN, and the number of such cells."""
        due = self.valid[:, rows, columns] > 0
        return f"{int((np.isnan(made[:, rows, columns]) & due).sum())} of {int(due.sum())}"


def _sines(degrees: Floats) -> Floats:
    """Return sines of latitude as degrees of arc of equal length."""
    return np.rad2deg(np.sin(np.deg2rad(degrees)))


# The peers: each takes a field and a target, both with bounds, and returns maps in the order of the target.


def ours(method: str) -> Maker:
    """Return downscale with one method, without bounds, so that both methods are linear."""

    def make(source: xr.Dataset, target: xr.Dataset) -> Floats:
        made = downscale.downscale(source, target_grid=target, method=method, bounds=None)
        return np.asarray(made["field"].values)

    return make


def cdo(source: xr.Dataset, target: xr.Dataset) -> Floats:
    """Run ``cdo remapcon`` on files."""
    if shutil.which("cdo") is None:
        raise MissingPeerError("not installed (Debian package cdo)")
    with tempfile.TemporaryDirectory() as name:
        given, cells, made = (Path(name) / file for file in ("in.nc", "grid.nc", "out.nc"))
        source.rename(map="time").assign_coords(time=np.arange(source.sizes["map"])).to_netcdf(given)
        shape = target.sizes["lat"], target.sizes["lon"]
        target.assign(field=(("lat", "lon"), np.zeros(shape))).to_netcdf(cells)
        line = ["cdo", "-L", "-s", "-b", "F64", f"remapcon,{cells}", "-selname,field", str(given), str(made)]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise MissingPeerError(f"failed: {done.stderr.strip().splitlines()[-1]}")
        with xr.open_dataset(made, decode_times=False) as ds:
            return np.asarray(ds["field"].values)


def xarray_regrid(source: xr.Dataset, target: xr.Dataset) -> Floats:
    """Run ``regrid.conservative`` of xarray-regrid, which reads centres, not bounds."""
    try:
        import xarray_regrid  # noqa: F401
    except ImportError:
        raise MissingPeerError("not installed (pip install xarray-regrid)") from None
    centres = [ds.drop_vars(["lat_bnds", "lon_bnds"]) for ds in (source, target)]
    made = centres[0].regrid.conservative(centres[1], latitude_coord="lat")
    return np.asarray(made["field"].transpose("map", "lat", "lon").values)


def yac(source: xr.Dataset, target: xr.Dataset) -> Floats:
    """Run second-order conservative remapping of YAC in a process of its own, which MPI may abort."""
    python = os.environ.get("DOWNSCALE_YAC_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import yac"], capture_output=True).returncode:
        raise MissingPeerError("not installed (pip install yac, or DOWNSCALE_YAC_PYTHON=a Python that has it)")
    with tempfile.TemporaryDirectory() as name:
        given, made = (Path(name) / file for file in ("in.nc", "out.nc"))
        edges = {key: (key, _edges(target[f"{axis}_bnds"].values)) for key, axis in
                 (("rows", "lat"), ("columns", "lon"))}  # fmt: skip
        source.assign(edges).to_netcdf(given)
        script = str(Path(__file__).with_name("others.py"))
        done = subprocess.run([python, script, "yac", str(given), str(made)], capture_output=True, text=True)
        if done.returncode:
            raise MissingPeerError(f"failed: {(done.stderr.strip().splitlines() or ['without a message'])[-1]}")
        with xr.open_dataset(made) as ds:
            return np.asarray(ds["field"].values)


def _edges(pairs: Floats) -> Floats:
    return np.append(pairs[:, 0], pairs[-1, 1])


def xesmf(source: xr.Dataset, target: xr.Dataset) -> Floats:
    """Run xESMF with weights of the covered part, and missing values left out."""
    try:
        import xesmf as xe
    except ImportError:
        raise MissingPeerError("not installed (it needs ESMF's esmpy: conda-forge, not PyPI)") from None
    regridder = xe.Regridder(source, target, "conservative_normed", unmapped_to_nan=True)
    return np.asarray(regridder(source["field"], skipna=True, na_thres=1.0).values)


MAKERS: dict[str, Maker] = {
    "cdo remapcon": cdo,
    "xarray-regrid": xarray_regrid,
    "xESMF": xesmf,
    "YAC, 2nd order": yac,
    "ours, conservative": ours("conservative"),
    "ours, sobolev": ours("sobolev"),
}
BASE = "ours, conservative"


@dataclass
class Bench:
    """The scores: one line per measure, one column per tool."""

    makers: dict[str, Maker]
    lines: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def made(self, case: Case, repeats: int = 1) -> Found:
        """Return the result and the shortest time of each tool; note tools that fail."""
        found: Found = {}
        for name, make in self.makers.items():
            if name not in self.reasons:
                try:
                    found[name] = _timed(make, case, repeats)
                except Exception as error:
                    if name.startswith("ours"):
                        raise
                    kind = "" if isinstance(error, MissingPeerError) else f"failed: {type(error).__name__}: "
                    self.reasons[name] = f"{kind}{error}".splitlines()[0]
        return found

    def note(self, line: str, found: Found, measure: Callable[[Floats], str]) -> None:
        """Add a line with a measure of each tool's result."""
        self.lines.append((line, {name: measure(made) for name, (made, _) in found.items()}))


def _timed(make: Maker, case: Case, repeats: int) -> tuple[Floats, float]:
    shortest = np.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        made = make(case.source, case.target)
        shortest = min(shortest, time.perf_counter() - begin)
    return made, shortest


def run(folder: Path, steps: int) -> Bench:
    """Measure all cases."""
    bench = Bench(MAKERS)
    uk, rain = (next(f for f in FIELDS if f.name == name) for name in ("era5-uk t2m 0.25 deg", "itu p837 pr 0.25 deg"))
    region = on_cells(open_field(uk, folder, steps), "field")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _border(bench, region)
        _poles(bench, on_cells(xr.open_dataset(folder / ERA5).isel(time=slice(0, steps)), "t2m"))
        _coast(bench, on_cells(xr.open_dataset(folder / OCEAN, decode_times=False).isel(time=slice(0, steps)), "tos"))
        _error(bench, region)
        _speed(bench, on_cells(open_field(rain, folder, steps), "field"))
    return bench


def _border(bench: Bench, region: xr.Dataset) -> None:
    for label, rows, columns in (("finer", 0.17, 0.11), ("coarser", 0.7, 0.9), ("much coarser", 3.1, 4.3)):
        case = Case(region, around(region, rows, columns))
        found = bench.made(case)
        bench.note(f"region, {label}: error of the total", found, case.total_error)
        bench.note("  cells lost", found, case.lost)


def _poles(bench: Bench, source: xr.Dataset) -> None:
    for label, target in (("finer", world(257, 480)), ("coarser, from -180", world(77, 139, -180.0))):
        case = Case(source, target)
        found = bench.made(case)
        bench.note(f"world, {label}: error of the total", found, case.total_error)
        bench.note("  polar cells lost", found, partial(case.lost, rows=[0, -1]))
        bench.note("  cells at the seam lost", found, partial(case.lost, columns=[0, -1]))


def _coast(bench: Bench, sea: xr.Dataset) -> None:
    flat = sea.isel(map=[0])
    flat = flat.assign(field=flat.field.where(flat.field.isnull(), 300.0))
    for label, target in (("finer", world(225, 290)), ("coarser", world(77, 139, -180.0))):
        case = Case(sea, target)
        found = bench.made(case)
        bench.note(f"coast, {label}: error of the total", found, case.total_error)
        bench.note("  sea cells lost", found, case.lost)
        bench.note("  dilution of a flat sea", bench.made(Case(flat, target)), _dilution)


def _dilution(made: Floats) -> str:
    """Return the largest relative difference from the constant value of a sea."""
    return f"{np.nanmax(np.abs(made / 300.0 - 1)):.1e}"


def _error(bench: Bench, truth: xr.Dataset) -> None:
    """Coarsen by four, regrid to cells of 0.3 degrees, and compare with the reference averaged over these.

    The score covers cells wholly inside with a value from every tool, so that lost border cells do not improve it.
    """
    truth = crop(truth, 4)
    case = Case(coarser(truth, 4), around(truth, 0.3, 0.3))
    wanted = Case(truth, case.target)
    found = bench.made(case)
    inside = wanted.valid > (1 - 1e-6) * wanted.whole
    inside &= np.logical_and.reduce([np.isfinite(made) for made, _ in found.values()])

    def error(made: Floats) -> float:
        return float(np.sqrt(np.mean((made - wanted.means)[inside] ** 2)))

    base = error(found[BASE][0])
    bench.note("1 to 0.3 degrees: RMSE in K", found, lambda made: f"{error(made):.3f}")
    bench.note(f"  as a ratio to {BASE}", found, lambda made: f"{error(made) / base:.2f}")


def _speed(bench: Bench, source: xr.Dataset) -> None:
    maps, rows, columns = source.field.shape
    for label, case in (
        (f"{maps} x {rows} x {columns} to 164 x 327", Case(source, world(164, 327, -180.0))),
        (f"{maps} x {rows // 4} x {columns // 4} to 600 x 1100", Case(coarser(source, 4), world(600, 1100, -180.0))),
    ):
        found = bench.made(case, REPEATS)
        base = found[BASE][1]
        bench.lines.append((f"{label}: seconds", {name: f"{seconds:.2f}" for name, (_, seconds) in found.items()}))
        ratios = {name: f"{seconds / base:.2f}" for name, (_, seconds) in found.items()}
        bench.lines.append((f"  as a ratio to {BASE}", ratios))
        bench.note("  error of the total", found, case.total_error)


def table(bench: Bench, markdown: bool) -> str:
    """Return the measures as text, with the reasons of tools that failed."""
    names = list(bench.makers)
    lines = [["measure", *names]]
    lines += [[line, *(values.get(name, "-") for name in names)] for line, values in bench.lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names) + 1)]
    edge, bar = ("| ", " |") if markdown else ("", "")
    rows = [edge + (" | " if markdown else "  ").join(
        cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))) + bar
        for line in lines]  # fmt: skip
    if markdown:
        rows.insert(1, "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|")
    return "\n".join([*rows, "", *(f"{name}: {why}" for name, why in bench.reasons.items())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED)))
    parser.add_argument("--steps", type=int, default=12, help="maps of a field, evenly spaced")
    parser.add_argument("--markdown", action="store_true")
    chosen = parser.parse_args()
    if not chosen.data.is_dir():
        print(f"no real fields at {chosen.data}: name their folder by --data", file=sys.stderr)
        return 2
    print(table(run(chosen.data, chosen.steps), chosen.markdown))
    print("\nTimes are the shortest of three, weights included; those of CDO and YAC include their process and files.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
