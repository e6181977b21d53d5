"""Refine near-surface air temperature of a climate model, x4, with the orography that its grid does not resolve.

    python recipes/01_downscale_temperature.py --demo              (the embedded sample; --out FOLDER, --dry-run)
    python recipes/01_downscale_temperature.py "tas_*.nc" relief.nc --lapse-rate -5e-3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import downscale


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("coarse", nargs="?", help="coarse temperatures, a file or a quoted pattern")
    parser.add_argument("relief", nargs="?", help="fine orography in metres")
    parser.add_argument("--lapse-rate", type=float, default=-3e-3, help="K/m; the report shows which value works best")
    parser.add_argument("--demo", action="store_true", help="run on the embedded sample")
    parser.add_argument("--dry-run", action="store_true", help="print grids, chunks and memory without writing")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the outputs")
    asked = parser.parse_args()
    if not asked.demo and not (asked.coarse and asked.relief):
        parser.error("expected COARSE and RELIEF, or --demo")

    if asked.demo:
        coarse = downscale.sample.open("north_america", chunks={"time": 12})
        relief = downscale.sample.open("north_america_relief")
    else:
        coarse, relief = downscale.open_dataset(asked.coarse), downscale.open_dataset(asked.relief)
    if asked.dry_run:
        print(downscale.plan(coarse, 4, orog=relief, lapse_rate=asked.lapse_rate))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    fine = downscale.downscale(
        coarse,
        4,
        orog=relief,
        lapse_rate=asked.lapse_rate,
        terrain_penalty=downscale.TerrainPenalty(base_gradient=1e-5, ratio=3e-3),
    )
    report = downscale.to_netcdf(fine, asked.out / "tas_north_america_x4.nc", coarse=coarse, overwrite=True)
    print(report)
    picture = asked.out / "tas_north_america_x4.png"
    coarse.downscale.plot(fine, path=picture, select={"time": -1}, sftlf=relief.get("sftlf"))


if __name__ == "__main__":
    try:
        main()
    except downscale.DownscaleError as error:          # one line and exit status 2, as on the command line
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
