"""Train a model on a SLURM node and evaluate it on held-out times.

    python recipes/05_train_model.py --demo                        (a minute; --out FOLDER, --dry-run)
    python recipes/05_train_model.py recipes/05_train_model.yml --evaluate evaluation.yml
    sbatch recipes/05_train_model.sbatch recipes/05_train_model.yml
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import downscale

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", nargs="?", type=Path, help="a training recipe")
    parser.add_argument("--evaluate", type=Path, help="an evaluation recipe to run afterwards")
    parser.add_argument("--demo", action="store_true", help="run the smallest training")
    parser.add_argument("--dry-run", action="store_true", help="open the data and run the advisor without training")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the outputs of --demo")
    asked = parser.parse_args()
    if not asked.demo and not asked.recipe:
        parser.error("expected RECIPE, or --demo")

    recipe, scores, model, folder = asked.recipe, asked.evaluate, None, None
    if asked.demo:
        recipe, scores = HERE / "train_north_america.yml", HERE / "evaluate_north_america.yml"
        model = {"output.path": str(asked.out / "north_america_x4.safetensors")}
        folder = {"output.folder": str(asked.out / "evaluation_north_america"),
                  "methods.3.method": model["output.path"]}
    if asked.dry_run:
        downscale.train(recipe, say=print, change=model, dry_run=True)
        return
    print(f"wrote {downscale.train(recipe, resume=True, say=print, change=model)}")       # resumes an interrupted job
    if scores is not None:
        downscale.evaluate(scores, print, change=folder)


if __name__ == "__main__":
    try:
        main()
    except downscale.DownscaleError as error:          # one line and exit status 2, as on the command line
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
