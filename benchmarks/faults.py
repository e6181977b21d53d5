"""Deliberate faults of a fine field on every kind of pair of grids, and the part of the check that detects each.

    python benchmarks/faults.py                                          # the embedded temperature
    python benchmarks/faults.py --write docs/guide/checking.md           # the table between <!-- faults --> marks

Fields are the embedded annual temperatures of North America, on their own latitudes and longitudes, or moved to cells
of another kind. Exit status 1 if a fault passes or a correct field fails.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

import downscale
from downscale.conservation.report import VariableReport
from downscale.errors import DownscaleError

START, END = "<!-- faults -->", "<!-- end of faults -->"
Pair = tuple[xr.Dataset, xr.Dataset]
LCC = {
    "grid_mapping_name": "lambert_conformal_conic", "standard_parallel": [30.0, 60.0], "earth_radius": 6_371_000.0,
    "longitude_of_central_meridian": 260.0, "latitude_of_projection_origin": 45.0,
}  # fmt: skip


def sample() -> xr.Dataset:
    """Two maps of the embedded field in memory."""
    return downscale.sample.open("north_america").isel(time=[0, -1]).load()


def on_positions(ds: xr.Dataset) -> xr.Dataset:
    """The field on two-dimensional positions that are no product of axes."""
    lat, lon = np.meshgrid(ds.lat, ds.lon, indexing="ij")
    bent = {"lat": lat + 0.02 * (lon - 267), "lon": lon - 0.05 * (lat - 45)}
    units = {"lat": "degrees_north", "lon": "degrees_east"}
    coords = {name: (("j", "i"), values, {"units": units[name]}) for name, values in bent.items()}
    return xr.Dataset({"tas": (("time", "j", "i"), ds.tas.values, ds.tas.attrs)}, {"time": ds.time, **coords})


def on_plane(ds: xr.Dataset) -> xr.Dataset:
    """The field on metres of a conic projection."""
    coords = {"time": ds.time, "crs": ((), 0, LCC)}
    for name, size in (("y", ds.sizes["lat"]), ("x", ds.sizes["lon"])):
        attrs = {"standard_name": f"projection_{name}_coordinate", "units": "m"}
        coords[name] = (name, 1e5 * (np.arange(size) - size / 2 + 0.5), attrs)
    return xr.Dataset({"tas": (("time", "y", "x"), ds.tas.values, {**ds.tas.attrs, "grid_mapping": "crs"})}, coords)


def on_globe(ds: xr.Dataset) -> xr.Dataset:
    """The field extended around the whole sphere, where turning and shifting change no area mean."""
    return global_cells(ds.sizes["lat"], ds.sizes["lon"]).assign(
        tas=(("time", "lat", "lon"), ds.tas.values, ds.tas.attrs), time=ds.time
    )


def global_cells(rows: int, columns: int) -> xr.Dataset:
    """Equal rows and columns of the sphere."""
    lat, lon = -90 + (np.arange(rows) + 0.5) * 180 / rows, np.arange(columns) * 360 / columns
    units = ("degrees_north", "degrees_east")
    return xr.Dataset(coords={"lat": ("lat", lat, {"units": units[0]}), "lon": ("lon", lon, {"units": units[1]})})


def masked(ds: xr.Dataset) -> xr.Dataset:
    """The field over land alone."""
    share = downscale.coarsen(downscale.sample.open("north_america_relief")[["sftlf"]].load(), 4).sftlf
    return ds.assign(tas=ds.tas.where(share.values > 0.5))


def unsigned(fine: xr.Dataset) -> xr.Dataset:
    """A fine field without attributes that name its method."""
    return fine.assign_attrs(downscale_settings="")


def pairs() -> dict[str, Pair]:
    """Coarse fields and correct fine fields."""
    ds = sample()[["tas"]]
    plane, land, globe = on_plane(ds), masked(ds), on_globe(ds)
    return {
        "nested": (ds, ds.downscale(4)),
        "not nested": (ds, ds.downscale(target_grid="0.31x0.43")),
        "globe, not nested": (globe, globe.downscale(target_grid=global_cells(151, 193))),
        "globe, unknown method": (
            globe, unsigned(globe.downscale(target_grid=global_cells(151, 193), method="bicubic"))
        ),
        "not nested, remapcon": (ds, unsigned(ds.downscale(target_grid="0.31x0.43", method="conservative"))),
        "masked": (land, land.downscale(4)),
        "masked, not nested": (land, land.downscale(target_grid="0.31x0.43")),
        "curvilinear": (on_positions(ds), on_positions(ds).downscale(4)),
        "projected": (plane, plane.downscale(4)),
        "projected, not nested": (plane, plane.downscale(target_grid="23000x31000")),
    }


def changed(change: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[xr.Dataset, int], xr.Dataset]:
    """Return a fault that changes only values."""
    return lambda fine, step: fine.assign(tas=fine.tas.copy(data=change(fine.tas.values.copy(), step)))


def swapped(values: np.ndarray, step: int) -> np.ndarray:
    """Exchange the greatest and the least value of a map."""
    one = np.unravel_index(np.nanargmax(values[0]), values[0].shape)
    other = np.unravel_index(np.nanargmin(values[0]), values[0].shape)
    values[(0, *one)], values[(0, *other)] = values[(0, *other)], values[(0, *one)]
    return values


def single(value: float) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return a fault of one value in the middle of the valid ones."""

    def change(values: np.ndarray, step: int) -> np.ndarray:
        places = np.argwhere(np.isfinite(values[0]))
        values[(0, *places[len(places) // 2])] = value
        return values

    return change


def relabelled(**attrs: str) -> Callable[[xr.Dataset, int], xr.Dataset]:
    """Return a fault that changes only attributes."""
    return lambda fine, step: fine.assign(tas=fine.tas.assign_attrs(attrs))


FAULTS: dict[str, Callable[[xr.Dataset, int], xr.Dataset]] = {
    "none": lambda fine, step: fine,
    "turned by half the columns": changed(lambda v, step: np.roll(v, v.shape[-1] // 2, -1)),
    "shifted by one coarse cell": changed(lambda v, step: np.roll(v, step, -1)),
    "shifted by one fine column": changed(lambda v, step: np.roll(v, 1, -1)),
    "shifted by one fine row": changed(lambda v, step: np.roll(v, 1, -2)),
    "north and south exchanged": changed(lambda v, step: v[:, ::-1]),
    "two values exchanged": changed(swapped),
    "scaled by 1 + 1e-4": changed(lambda v, step: v * np.asarray(1 + 1e-4, v.dtype)),
    "one value infinite": changed(single(np.inf)),
    "one value missing": changed(single(np.nan)),
    "units degC, values in K": relabelled(units="degC"),
    "units mm": relabelled(units="mm"),
    "months exchanged": changed(lambda v, step: v[::-1]),
    "dates a month off": lambda fine, step: fine.assign_coords(time=fine.time[::-1].values),
}


def caught(one: VariableReport) -> str:
    """Return the part of a report that fails, in one word, or "passed"."""
    if one.passed:
        return "passed"
    if one.max_relative_error > one.tolerance:
        return one.compared
    if one.near_failed:
        return "neighbourhoods"
    return "lost cells" if one.cells_lost else "invented cells" if one.cells_invented else "bounds"


def verdict(pair: Pair, fault: Callable[[xr.Dataset, int], xr.Dataset]) -> str:
    """Return the part of the check that detects a fault."""
    coarse, fine = pair
    step = max(round(fine.tas.shape[-1] / coarse.tas.shape[-1]), 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return caught(downscale.check_conservation(coarse, fault(fine, step))["tas"])
    except DownscaleError:
        return "refused"


def table(found: dict[str, dict[str, str]]) -> str:
    """Return the table of faults (rows) by grids (columns) in Markdown."""
    grids = list(next(iter(found.values())))
    lines = ["| fault | " + " | ".join(grids) + " |", "|---" * (len(grids) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(row.values()) + " |" for name, row in found.items())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="page that contains the table")
    write = parser.parse_args().write
    made = pairs()
    found = {name: {grids: verdict(pair, fault) for grids, pair in made.items()} for name, fault in FAULTS.items()}
    text = table(found)
    print(text)
    if write is not None:
        page = write.read_text(encoding="utf-8")
        before, rest = page.split(START)
        after = rest.split(END)[1] if END in rest else rest
        write.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")
    bad = [f"{name}: {grids}" for name, row in found.items() for grids, word in row.items()
           if (word == "passed") != (name == "none")]  # fmt: skip
    if bad:
        print("not as expected: " + "; ".join(bad), file=sys.stderr)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
