"""A conditional adversarial network for rain: members that a critic cannot tell from radar, each under the cell law.

Run: python recipes/rain_gan.py RECIPE.yml [--start MODEL.safetensors] [--steps 1000] [--resume]

The recipe is one of training, such as recipes/train_ensemble_rain.yml; of its losses nothing is used. The critic sees
the fine map, its gradients by fixed Sobel stencils, and the coarse field. Begin with a model that was trained with the
CRPS (--start), and keep an eye on the spread in the log: 1 where members differ from each other as from the truth.
Afterwards: downscale apply COARSE.nc FINE.nc --method rain_gan.safetensors --members 10
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from downscale.errors import DownscaleError
from downscale.train.adversarial import Adversarial
from downscale.train.conditional import train_adversarial
from downscale.train.schema import load_training


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, default=Path("rain_gan.safetensors"))
    parser.add_argument("--start", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--loss", choices=("hinge", "wgan-gp"), default="hinge")
    parser.add_argument("--resume", action="store_true")
    chosen = parser.parse_args()
    try:
        recipe = load_training(chosen.recipe)
        # Fine patches of 8, 16, 32, 64, ... cells are what the critic takes.
        size = 64 // recipe.data.factor[0]
        patches = recipe.patches.model_copy(update={"size": (size, size)})
        output = recipe.output.model_copy(update={"path": str(chosen.out)})
        recipe = recipe.model_copy(update={"patches": patches, "output": output, "title": "Rain, adversarial"})
        how = Adversarial(
            steps=chosen.steps, batch=recipe.training.batch, loss=chosen.loss, generator_rate=1e-4, critic_rate=2e-4,
            seed=recipe.training.seed,
        )  # fmt: skip
        print(f"wrote {train_adversarial(recipe, how, chosen.start, chosen.resume, say=print)}")
    except DownscaleError as error:
        print(f"rain_gan: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
