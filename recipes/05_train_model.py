"""Train a model on a SLURM node and judge it on times that it never saw.

    python recipes/05_train_model.py --demo                        (a minute; --out FOLDER, --dry-run)
    python recipes/05_train_model.py recipes/05_train_model.yml --evaluate evaluation.yml
    sbatch recipes/05_train_model.sbatch recipes/05_train_model.yml
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import downscale
from downscale.evaluate.run import evaluate
from downscale.evaluate.schema import load_evaluation
from downscale.evaluate.table import to_markdown
from downscale.train.fit import prepare, train
from downscale.train.schema import load_training

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", nargs="?", type=Path, help="a training recipe")
    parser.add_argument("--evaluate", type=Path, help="an evaluation recipe, carried out afterwards")
    parser.add_argument("--demo", action="store_true", help="the smallest training there is")
    parser.add_argument("--dry-run", action="store_true", help="open the data, ask the advisor, train nothing")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the outputs")
    asked = parser.parse_args()
    if not asked.demo and not asked.recipe:
        parser.error("expected RECIPE, or --demo")

    recipe = load_training(HERE / "train_north_america.yml" if asked.demo else asked.recipe)
    model = asked.out / Path(recipe.output.path).name
    recipe = recipe.model_copy(update={"output": recipe.output.model_copy(update={"path": str(model)})})
    if asked.dry_run:
        prepare(recipe, print)
        return
    print(f"wrote {train(recipe, True, print)}")       # resume: goes on where a killed job was
    judge = HERE / "evaluate_north_america.yml" if asked.demo else asked.evaluate
    if judge is not None:
        wanted = load_evaluation(judge)
        methods = [each.model_copy(update={"method": str(model)}) if each.method.endswith(model.name) else each
                   for each in wanted.methods]
        folder = wanted.output.model_copy(update={"folder": str(asked.out / wanted.output.folder)})
        print(to_markdown(evaluate(wanted.model_copy(update={"methods": methods, "output": folder}), print)))


if __name__ == "__main__":
    try:
        main()
    except downscale.DownscaleError as error:          # one line and status 2, as the command line does
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
