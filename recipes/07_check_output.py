"""Check whether a fine file from any source conserves coarse-cell means, and plot the errors.

    python recipes/07_check_output.py --demo                       (an interpolation; --out FOLDER, --dry-run)
    python recipes/07_check_output.py recipes/07_check_output.yml
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import downscale
from downscale.errors import GridError
from downscale.io.config import read_yaml

KEYS = {"coarse", "fine", "mask", "law", "tolerance"}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("request", nargs="?", type=Path, help="files to check, as in 07_check_output.yml")
    parser.add_argument("--demo", action="store_true", help="check an interpolation of the embedded sample")
    parser.add_argument("--dry-run", action="store_true", help="print the grids without a check")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the outputs")
    asked = parser.parse_args()
    if not asked.demo and not asked.request:
        parser.error("expected REQUEST.yml, or --demo")

    given = {"coarse": "", "fine": ""} if asked.demo else read_yaml(asked.request)
    if not {"coarse", "fine"} <= set(given) <= KEYS:
        parser.error(f"expected coarse, fine and perhaps others of {sorted(KEYS)}, received {sorted(given)}")
    # Paths are relative to the request file first, then to the working folder.
    for key in {"coarse", "fine", "mask"} & set(given) if not asked.demo else ():
        beside = asked.request.parent / str(given[key])
        given[key] = str(beside if beside.exists() else given[key])
    coarse = downscale.sample.open("north_america") if asked.demo else downscale.open_dataset(given["coarse"])
    if asked.demo:
        at = coarse.downscale(4)
        fine = coarse[["tas"]].interp(lat=at.lat, lon=at.lon, kwargs={"fill_value": "extrapolate"})
    else:
        fine = downscale.open_dataset(given["fine"])
    if asked.dry_run:
        print("coarse", dict(coarse.sizes), "fine", dict(fine.sizes))
        return 0
    asked.out.mkdir(parents=True, exist_ok=True)
    how = {key: given[key] for key in ("mask", "law", "tolerance") if key in given}
    report = downscale.check_conservation(coarse, fine, **how)
    print(report)
    (asked.out / "check.json").write_text(json.dumps(report.to_dict(), indent=2, default=str) + "\n")
    for name in report.variables:
        picture = asked.out / f"errors_{name}.png"
        try:
            downscale.plot.conservation(coarse, fine, variable=name, mask=given.get("mask"), path=picture)
        except GridError as error:
            print(f"no map of {name}: {error}")
    return 0 if report.passed or asked.demo else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except downscale.DownscaleError as error:          # one line and exit status 2, as on the command line
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
