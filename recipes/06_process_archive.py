"""Process an archive with one file per job of an array, and keep finished files that still verify.

    python recipes/06_process_archive.py --demo                    (three small files; --out FOLDER, --dry-run)
    python recipes/06_process_archive.py "archive/tas_*.nc" --count            (number of jobs of the array)
    python recipes/06_process_archive.py "archive/tas_*.nc" --task 7 --out fine
    bash recipes/06_process_archive.sh "archive/tas_*.nc" fine
"""

from __future__ import annotations

import argparse
import glob
import sys
from pathlib import Path

import downscale


def archive_of_samples(folder: Path) -> list[Path]:
    """Write the embedded sample as three files, as in a model archive."""
    ds = downscale.sample.open("north_america")
    for first in range(0, 24, 8):
        downscale.to_netcdf(ds.isel(time=slice(first, first + 8)), folder / f"tas_{first:02d}.nc", overwrite=True)
    return sorted(folder.glob("tas_??.nc"))


def one(source: Path, folder: Path, dry_run: bool) -> None:
    """Run the recipe of the same name on one file of the archive."""
    change = {"input.path": str(source), "output.path": str(folder / f"{source.stem}_x2.nc")}
    outcome = downscale.run(Path(__file__).with_suffix(".yml"), change=change, dry_run=dry_run, resume=True)
    print(source.name, outcome.plan if dry_run else outcome.conservation)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pattern", nargs="?", help="the files of the archive, quoted")
    parser.add_argument("--task", type=int, help="index of one file, from zero: a job of an array")
    parser.add_argument("--count", action="store_true", help="print the number of files")
    parser.add_argument("--demo", action="store_true", help="run on the embedded sample, cut into three files")
    parser.add_argument("--dry-run", action="store_true", help="print grids, chunks and memory without writing")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the outputs")
    asked = parser.parse_args()
    if not asked.demo and not asked.pattern:
        parser.error("expected PATTERN, or --demo")

    asked.out.mkdir(parents=True, exist_ok=True)
    files = archive_of_samples(asked.out) if asked.demo else sorted(map(Path, glob.glob(asked.pattern)))
    if asked.count:
        print(len(files))
        return
    if not files:
        parser.error(f"expected files that match {asked.pattern}, received none")
    for source in files if asked.task is None else [files[asked.task]]:
        one(source, asked.out, asked.dry_run)


if __name__ == "__main__":
    try:
        main()
    except downscale.DownscaleError as error:          # one line and exit status 2, as on the command line
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
