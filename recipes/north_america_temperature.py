"""Downscale the embedded temperature sample x4 with relief, in plain Python.

Run: python recipes/north_america_temperature.py [FOLDER]     (default: the current folder)
"""

from __future__ import annotations

import sys
from pathlib import Path

import downscale
from downscale.maps import compare


def main(folder: Path) -> None:
    coarse = downscale.sample.open("north_america", chunks={"time": 12})
    relief = downscale.sample.open("north_america_relief")
    fine = downscale.downscale(
        coarse,
        4,
        orog=relief,
        lapse_rate=-3e-3,  # K/m; the self-validation of `downscale demo` favours it over -6.5e-3
        terrain_penalty=downscale.TerrainPenalty(base_gradient=1e-5, ratio=3e-3),
    )
    report = downscale.to_netcdf(fine, folder / "tas_north_america_x4.nc", coarse=coarse, overwrite=True)
    print(report)
    title = "Near-surface air temperature, HadCM3 A1B, x4"
    compare(coarse.tas, fine.tas, path=folder / "tas_north_america_x4.png", select={"time": -1}, title=title,
            sftlf=relief.sftlf)  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
