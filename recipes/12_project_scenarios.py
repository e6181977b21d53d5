"""Make daily projections: adjust a model to observations, downscale it, validate it, and write a report.

    python recipes/12_project_scenarios.py --demo                  (synthetic weather; --out FOLDER, --dry-run)
    python recipes/12_project_scenarios.py "*_historical_*.nc" "*_ssp585_*.nc" "*_obs_*.nc" --reference 1981-2005
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import downscale
from downscale.projections.demo import write_demo_inputs
from downscale.projections.run import run_project

RECIPE = Path(__file__).with_suffix(".yml")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", help="historical experiment, a file or a quoted pattern")
    parser.add_argument("scenario", nargs="?", help="scenario of the same model")
    parser.add_argument("observations", nargs="?", help="fine observations")
    parser.add_argument("--variables", default="tas,tasmin,tasmax,pr", help="names of variables")
    parser.add_argument("--reference", help="years to train on, such as 1981-2005")
    parser.add_argument("--validation", help="years for scores, such as 2006-2014")
    parser.add_argument("--demo", action="store_true", help="run on synthetic daily weather")
    parser.add_argument("--dry-run", action="store_true", help="print inputs, settings and memory without writing")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the outputs")
    asked = parser.parse_args()
    if not asked.demo and not (asked.model and asked.scenario and asked.observations):
        parser.error("expected MODEL, SCENARIO and OBSERVATIONS, or --demo")

    asked.out.mkdir(parents=True, exist_ok=True)
    folder = asked.out / "projection"
    if asked.demo:
        change = write_demo_inputs(asked.out / "inputs")
        print(run_project(RECIPE, change={**change, "output.path": str(folder)}, dry_run=asked.dry_run))
        return
    result = downscale.project(
        asked.model, asked.observations, scenario=asked.scenario, variables=asked.variables.split(","),
        reference=asked.reference, validation=asked.validation, output=folder, dry_run=asked.dry_run,
    )  # fmt: skip
    print(result)


if __name__ == "__main__":
    try:
        main()
    except downscale.DownscaleError as error:          # one line and exit status 2, as on the command line
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
