"""Train a conditional adversarial network for rain ensembles that conserve every cell mean.

Run: python recipes/rain_gan.py RECIPE.yml [--start MODEL.safetensors] [--steps 1000] [--resume]

RECIPE.yml is a training recipe, such as recipes/train_ensemble_rain.yml; its losses are ignored. The critic takes
the fine map, its gradients from fixed Sobel stencils, and the coarse field. Start from a model trained with the
CRPS (--start), and watch the spread in the log: 1 if members differ from each other as much as from the reference.
Afterwards: downscale apply COARSE.nc FINE.nc --method rain_gan.safetensors --members 10
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from downscale.errors import DownscaleError
from downscale.process.interrupts import raise_on_signals, signal_word
from downscale.training.gan import GANSettings, train_adversarial
from downscale.training.progress import resume_hint
from downscale.training.schema import TrainingRecipe, load_training

# Fine cells per side of the critic's patches: 8, 16, 32, 64, ...
SIZE = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, default=Path("rain_gan.safetensors"))
    parser.add_argument("--start", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--loss", choices=("hinge", "wgan-gp"), default="hinge")
    parser.add_argument("--size", type=int, default=SIZE, help="fine cells per side: 8, 16, 32, 64 (default)")
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate; of the critic four times as much")
    parser.add_argument("--save-every", type=int, default=25, help="steps between two states")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    chosen = parser.parse_args()
    try:
        with raise_on_signals():
            print(f"wrote {made(chosen)}")
    except BaseException as error:
        word = signal_word(error)
        if word is not None:
            print(f"rain_gan: {word}; {resume_hint(chosen.out.with_suffix('.training'))}", file=sys.stderr)
            return 1
        if not isinstance(error, DownscaleError):
            raise
        print(f"rain_gan: {error}", file=sys.stderr)
        return 2
    return 0


def made(chosen: argparse.Namespace) -> Path:
    """Train and write."""
    recipe = fitted(chosen)
    how = GANSettings(
        steps=chosen.steps, batch=recipe.training.batch, loss=chosen.loss,
        critic_steps=1 if chosen.loss == "hinge" else 3, generator_rate=chosen.rate, critic_rate=4 * chosen.rate,
        round=chosen.save_every, seed=recipe.training.seed,
    )  # fmt: skip
    return train_adversarial(recipe, how, chosen.start, chosen.resume, say=lambda line: print(line, flush=True))


def fitted(chosen: argparse.Namespace) -> TrainingRecipe:
    """Return the recipe with the critic's patch size and the requested output path."""
    recipe = load_training(chosen.recipe)
    patches = recipe.patches.model_copy(update={"size": tuple(chosen.size // each for each in recipe.data.factor)})
    output = recipe.output.model_copy(update={"path": str(chosen.out), "folder": None, "overwrite": chosen.overwrite})
    return recipe.model_copy(update={"patches": patches, "output": output, "title": f"{recipe.title}, adversarial"})


if __name__ == "__main__":
    sys.exit(main())
