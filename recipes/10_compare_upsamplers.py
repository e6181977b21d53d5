"""Compare upsampling methods on your field, or on the embedded sample.

    python recipes/10_compare_upsamplers.py --demo                 (the embedded temperatures; --out FOLDER, --dry-run)
    python recipes/10_compare_upsamplers.py recipes/10_compare_upsamplers.yml
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import downscale


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", nargs="?", type=Path, help="an evaluation recipe")
    parser.add_argument("--demo", action="store_true", help="run the recipe of the same name on the embedded sample")
    parser.add_argument("--dry-run", action="store_true", help="print sources and methods without computing")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the outputs of --demo")
    asked = parser.parse_args()
    if not asked.demo and not asked.recipe:
        parser.error("expected RECIPE, or --demo")

    recipe = Path(__file__).with_suffix(".yml") if asked.demo else asked.recipe
    change = {"output.folder": str(asked.out / "comparison")} if asked.demo else None
    downscale.evaluate(recipe, print, change=change, dry_run=asked.dry_run)


if __name__ == "__main__":
    try:
        main()
    except downscale.DownscaleError as error:          # one line and exit status 2, as on the command line
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
